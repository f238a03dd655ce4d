"""The set-up of this machine outside its databases: kernel, Docker, systemd, TLS files, firewall."""

import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ovn_docker.docker.engine import dockerd_setting
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.barrier import TABLE, TUNNELS
from ovn_docker.host.distribution import DEBIAN, Distribution, distribution
from ovn_docker.host.run import StepFailed, run, succeeds
from ovn_docker.inspect.snapshot import Snapshot
from ovn_docker.text.printable import printable

_TIMEOUT = 5.0
"""Seconds that a program may take."""

_OPENSSL = (
    *("openssl", "x509", "-noout", "-dates", "-subject"),
    *("-nameopt", "multiline", "-ext", "subjectAltName"),
)


@dataclass(frozen=True, slots=True)
class CertificateFile:
    """A PEM file of TLS; *expires*: time in seconds of the epoch, ``None`` if it could not be read."""

    what: str
    path: str
    expires: float | None
    problem: str = ""
    name: str = ""
    """The common name in the certificate."""
    addresses: tuple[str, ...] = ()
    """IP addresses in it; certificates of databases have some."""
    days: float = 0.0
    """Length of its validity."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The set-up of this machine outside its databases."""

    kernel_datapath: bool = True
    system_id: str = ""
    """Contents of /etc/openvswitch/system-id.conf, where ovs-ctl(8) keeps the system-id."""
    dns: tuple[str, ...] = ()
    apparmor: bool = True
    """False if the kernel has AppArmor and Docker cannot load its profile."""
    old_drivers: tuple[str, ...] = ()
    distribution: Distribution = DEBIAN
    units: Mapping[str, str] = field(default_factory=dict)
    """Installed systemd unit of ovn-docker to its state, such as ``enabled``."""


def certificates(snapshot: Snapshot) -> Iterable[CertificateFile]:
    """Read the files with which Open vSwitch connects by TLS (``ovs-vsctl set-ssl``)."""
    vswitch = snapshot.vswitch
    if not vswitch or not vswitch.tls:
        return
    key, certificate, authority = vswitch.tls
    if not Path(key).is_file():
        yield CertificateFile("private key", key, None, "the file does not exist")
    for what, path in (("certificate", certificate), ("authority's certificate", authority)):
        if not Path(path).is_file():
            yield CertificateFile(what, path, None, "the file does not exist")
            continue
        try:
            text = run((*_OPENSSL, "-in", path), _TIMEOUT)
            ends, name = (re.search(line, text) for line in ("notAfter=(.*)", r"commonName\s*= (.*)"))
            starts = re.search("notBefore=(.*)", text)
            expires, begins = (ssl.cert_time_to_seconds(one[1] if one else "") for one in (ends, starts))
        except StepFailed:
            yield CertificateFile(what, path, None, "it is not a certificate in PEM format")
        except (OvnDockerError, ValueError):
            continue  # without openssl(1) only failed connections show faults of TLS files
        else:
            addresses = tuple(re.findall(r"IP Address:([0-9A-Fa-f.:]+)", text))
            shown, days = printable(name[1]) if name else "", (expires - begins) / 86400
            yield CertificateFile(what, path, expires, "", shown, addresses, days)


def firewall() -> tuple[str, ...]:
    """Return rules of others that name a tunnel's port and drop or reject (iptables-save(8), nft(8))."""
    found = []
    a_port = re.compile(rf" ({'|'.join(map(str, TUNNELS.values()))})\b")
    for command in (("iptables-save",), ("nft", "list", "ruleset")):
        try:
            rules = run(command, _TIMEOUT)
        except OvnDockerError:
            continue
        others = re.sub(rf"^table \w+ {TABLE} {{.*?^}}", "", rules, flags=re.DOTALL | re.MULTILINE)
        found += [
            line.strip()
            for line in others.splitlines()
            if a_port.search(line) and any(action in line.lower() for action in ("drop", "reject"))
        ]
    return tuple(found)


def read_machine(root: Path = Path("/")) -> Machine:
    """Read the set-up of the machine whose root directory is *root*."""
    return Machine(
        kernel_datapath=(root / "sys/module/openvswitch").is_dir() or succeeds("ovs-dpctl", "dump-dps"),
        system_id=_text(root / "etc/openvswitch/system-id.conf").strip(),
        dns=tuple(map(str, dockerd_setting("dns"))),
        apparmor=_loads_profile(root),
        old_drivers=tuple(map(str, _old_drivers(root))),
        distribution=distribution(),
        units=_units() if root == Path("/") and (root / "run/systemd/system").is_dir() else {},
    )


def _loads_profile(root: Path) -> bool:
    """Return Machine.apparmor (moby daemon/apparmor_default.go)."""
    enabled, profiles = (
        _text(root / path)
        for path in ("sys/module/apparmor/parameters/enabled", "sys/kernel/security/apparmor/profiles")
    )
    there = any((root / path / "apparmor_parser").exists() for path in ("sbin", "usr/sbin"))
    return there or not enabled.startswith("Y") or "docker-default " in profiles


def _text(path: Path) -> str:
    """Return the contents of a file; empty if it does not exist or cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _old_drivers(root: Path) -> Iterable[Path]:
    """Yield OVN's own drivers, whose programs have the same names, and files that direct Docker to them."""
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


def _units() -> dict[str, str]:
    found = {}
    units = ("ovn-docker-overlay.socket", "ovn-docker-overlay.service")
    for unit in (*units, f"{distribution().controller[0]}.service"):
        try:
            state = run(("systemctl", "is-enabled", unit), _TIMEOUT)
        except StepFailed as failed:
            state = failed.output  # of a unit that is not enabled, with exit code 1 (systemctl(1))
        except OvnDockerError:
            return {}
        if state.strip():
            found[unit] = state.strip()
    return found
