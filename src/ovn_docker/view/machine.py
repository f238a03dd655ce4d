"""How this machine is set up, besides what its databases say: kernel, Docker, systemd, TLS, firewall."""

import re
import ssl
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ovn_docker.host.barrier import TABLE, TUNNELS
from ovn_docker.host.engine import dockerd_setting
from ovn_docker.printable import printable
from ovn_docker.view.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Certificate:
    """A PEM file of TLS; *expires* in seconds of the epoch, ``None`` if it could not be read."""

    what: str
    path: str
    expires: float | None
    problem: str = ""
    name: str = ""
    """Its common name."""
    addresses: tuple[str, ...] = ()
    """Those in it; a database's has some."""


@dataclass(frozen=True, slots=True)
class Machine:
    """How this machine is set up, besides what its databases say."""

    kernel_datapath: bool = True
    system_id: str = ""
    """What /etc/openvswitch/system-id.conf has, where ovs-ctl(8) keeps it."""
    dns: tuple[str, ...] = ()
    apparmor: bool = True
    """Whether the kernel has no AppArmor, or Docker can load its profile or has done so."""
    old_drivers: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    """Our systemd units that are installed, and whether they are enabled."""


def certificates(snapshot: Snapshot) -> Iterable[Certificate]:
    """The files with which Open vSwitch proves itself (``ovs-vsctl set-ssl``)."""
    vswitch = snapshot.vswitch
    if not vswitch or not vswitch.tls:
        return
    key, certificate, authority = vswitch.tls
    if not Path(key).is_file():
        yield Certificate("private key", key, None, "there is no such file")
    for what, path in (("certificate", certificate), ("authority's certificate", authority)):
        try:
            done = subprocess.run(
                ("openssl", "x509", "-noout", "-enddate", "-subject", "-nameopt", "multiline",
                 "-ext", "subjectAltName", "-in", path),
                capture_output=True, text=True, timeout=5, check=False,
            )  # fmt: skip
            ends, name = (re.search(text, done.stdout) for text in ("notAfter=(.*)", r"commonName\s*= (.*)"))
            if not Path(path).is_file():
                yield Certificate(what, path, None, "there is no such file")
            elif done.returncode:
                yield Certificate(what, path, None, "it is no certificate in PEM format")
            else:
                expires = ssl.cert_time_to_seconds(ends[1] if ends else "")
                addresses = tuple(re.findall(r"IP Address:([0-9A-Fa-f.:]+)", done.stdout))
                yield Certificate(what, path, expires, "", printable(name[1]) if name else "", addresses)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue  # without openssl(1) nobody looks; what is wrong with TLS shows as it connects


def firewall() -> tuple[str, ...]:
    """Rules of others that name a tunnel's port and drop or reject (iptables-save(8), nft(8))."""
    found = []
    a_port = re.compile(rf" ({'|'.join(map(str, TUNNELS.values()))})\b")
    for command in (("iptables-save",), ("nft", "list", "ruleset")):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        theirs = re.sub(rf"^table \w+ {TABLE} {{.*?^}}", "", done.stdout, flags=re.DOTALL | re.MULTILINE)
        found += [
            line.strip()
            for line in theirs.splitlines()
            if a_port.search(line) and any(word in line.lower() for word in ("drop", "reject"))
        ]
    return tuple(found)


def look(root: Path = Path("/")) -> Machine:
    """How the machine at *root* is set up."""
    return Machine(
        kernel_datapath=(root / "sys/module/openvswitch").is_dir() or _runs("ovs-dpctl", "dump-dps"),
        system_id=_text(root / "etc/openvswitch/system-id.conf").strip(),
        dns=tuple(map(str, dockerd_setting("dns"))),
        apparmor=_loads_profile(root),
        old_drivers=tuple(map(str, _old_drivers(root))),
        units=_units() if root == Path("/") and (root / "run/systemd/system").is_dir() else {},
    )


def _loads_profile(root: Path) -> bool:
    """Whether Docker finds what it needs where the kernel has AppArmor (moby daemon/apparmor_default.go)."""
    enabled, profiles = (
        _text(root / path)
        for path in ("sys/module/apparmor/parameters/enabled", "sys/kernel/security/apparmor/profiles")
    )
    there = any((root / path / "apparmor_parser").exists() for path in ("sbin", "usr/sbin"))
    return there or not enabled.startswith("Y") or "docker-default " in profiles


def _text(path: Path) -> str:
    """Return what a file has; nothing if there is none, or it may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _old_drivers(root: Path) -> Iterable[Path]:
    """Programs of OVN's own drivers, which share our programs' names, and files that turn Docker to them."""
    for name in ("ovn-docker-overlay-driver", "ovn-docker-underlay-driver"):
        path = root / "usr/bin" / name
        try:
            if b"ovn_docker" not in path.read_bytes():
                yield path
        except OSError:
            continue
    for directory in ("etc/docker/plugins", "usr/lib/docker/plugins"):
        for ending in ("spec", "json"):
            path = root / directory / f"openvswitch.{ending}"
            if path.is_file():
                yield path


def _runs(*argv: str) -> bool:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _units() -> dict[str, str]:
    found = {}
    for unit in ("ovn-docker-overlay.socket", "ovn-docker-overlay.service", "ovn-host.service"):
        try:
            done = subprocess.run(
                ("systemctl", "is-enabled", unit), capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return {}
        if said := done.stdout.strip():
            found[unit] = said
    return found
