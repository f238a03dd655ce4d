"""The driver's settings: one table, from which option, variable, check and help follow."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from ovn_docker.errors import BadRequest
from ovn_docker.model import Tls
from ovn_docker.supply import Supply, parse_supplies

SOCKET = Path("/run/docker/plugins/openvswitch.sock")
DOCKER = Path("/var/run/docker.sock")


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return parse


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0.1 <= seconds <= 3600:
        raise ValueError("seconds, from 0.1 to 3600")
    return seconds


def _path(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError("a path that begins with /")
    return Path(text)


def listener(text: str) -> tuple[str, int]:
    """Parse an address of this host and a TCP port."""
    written = re.fullmatch(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\]):([0-9]{1,5})", text)
    try:
        address = ip_address((written[1] or written[2]) if written else "")
    except ValueError:
        address = None
    if not written or not address or not 1 <= int(written[3]) <= 65535:
        raise ValueError("an address and a port, such as 127.0.0.1:9476 or [::1]:9476")
    return str(address), int(written[3])


def _links(text: str) -> tuple[str, ...]:
    """Parse names of links, without characters that nftables or a shell would interpret."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", name) for name in names):
        raise ValueError("names of bridges, such as br-prometheus,virbr0")
    return names


def _setting(
    default: object, parse: Callable[[str], object], metavar: str, about: str, short: str = ""
) -> Any:
    return field(
        default=default, metadata={"parse": parse, "metavar": metavar, "help": about, "short": short}
    )


@dataclass(frozen=True, slots=True)
class Common:
    """Settings of both modes. Times are in seconds."""

    socket: Path = _setting(
        SOCKET,
        _path,
        "PATH",
        "the plugin's Unix socket, unless systemd passes one",
    )
    scope: str = _setting(
        "auto",
        _one_of("local", "global", "auto"),
        "SCOPE",
        "local: every host's Docker has networks of its own; global: one list for all, in Docker's cluster "
        "store; auto: global if dockerd has a --cluster-store",
    )
    db: str = _setting("unix:/var/run/openvswitch/db.sock", str, "REMOTE", "the local Open_vSwitch database")
    request_timeout: float = _setting(15.0, _seconds, "SECONDS", "time limit of a call of Docker")
    flows_timeout: float = _setting(
        10.0, _seconds, "SECONDS", "time that a starting container waits for its flows"
    )
    late_flows: str = _setting(
        "warn",
        _one_of("warn", "fail"),
        "POLICY",
        "if the flows are late: warn and start the container all the same, or fail",
    )
    docker: Path = _setting(DOCKER, _path, "PATH", "Docker's own socket")
    repair: str = _setting(
        "repair",
        _one_of("off", "report", "repair"),
        "off|report|repair",
        "leftovers of containers and networks that are gone: do nothing, log them, or clear them",
    )
    sweep_interval: float = _setting(60.0, _seconds, "SECONDS", "time between two sweeps for leftovers")
    address_pools: tuple[Supply, ...] = _setting(
        parse_supplies("10.192.0.0/12:24,fd6f:766e:646f::/48:64"),
        parse_supplies,
        "BASE:PREFIX,...",
        "subnets for networks with --ipam-driver openvswitch and without --subnet",
    )
    metrics: tuple[str, int] | None = _setting(
        None,
        listener,
        "ADDRESS:PORT",
        "answer Prometheus there, on /metrics, without encryption or password; such as 127.0.0.1:9476",
    )
    barrier: str = _setting(
        "on",
        _one_of("on", "off"),
        "on|off",
        "refuse packets of containers for OVN's databases, tunnels and the metrics, and keep this host's own "
        "network stack off their links (nftables)",
    )
    barrier_open: tuple[str, ...] = _setting(
        (),
        _links,
        "BRIDGE,...",
        "bridges of this host that the barrier leaves open: one with a Prometheus in a container, or with "
        "virtual machines that are hosts of the cluster",
    )
    log_format: str = _setting(
        "text", _one_of("text", "json"), "FORMAT", "text: lines as OVS has them; json: one object a line"
    )


@dataclass(frozen=True, slots=True)
class Settings(Common):
    """Settings of the overlay mode."""

    ovn_rundir: Path = _setting(
        Path("/var/run/ovn"), _path, "DIR", "where ovn-controller has its pidfile and its control socket"
    )
    sync: str = _setting(
        "on",
        _one_of("on", "off"),
        "on|off",
        "create the cluster's shared networks (-o ovn.network) in this host's Docker",
    )
    private_key: str = _setting("", str, "FILE", "PEM file with the private key for ssl: databases", "-p")
    certificate: str = _setting("", str, "FILE", "PEM file with the certificate of the private key", "-c")
    ca_cert: str = _setting(
        "", str, "FILE", "PEM file with the CA that signed the databases' certificates", "-C"
    )

    def __post_init__(self) -> None:
        """Raise BadRequest if only some of the files for TLS are given."""
        tls = (self.private_key, self.certificate, self.ca_cert)
        if any(tls) and not all(tls):
            raise BadRequest("TLS needs all three: --private-key, --certificate and --ca-cert")

    @property
    def tls(self) -> Tls | None:
        """The files for ``ssl:`` databases; None if they are not given."""
        return Tls(self.private_key, self.certificate, self.ca_cert) if self.private_key else None


@dataclass(frozen=True, slots=True)
class UnderlaySettings(Common):
    """Settings of the underlay mode, where a call of Docker needs several calls of Neutron."""

    bridge: str = _setting(
        "breth0", str, "BRIDGE", "the bridge with the VM's interface, see ovn-docker underlay bridge --help"
    )
    parent: str = _setting(
        "trunk",
        _one_of("trunk", "profile"),
        "HOW",
        "attachment of containers to the VM's port: as subports of a trunk, or by binding:profile in clouds "
        "without trunks that allow it",
    )
    request_timeout: float = _setting(60.0, _seconds, "SECONDS", "time limit of a call of Docker")
    flows_timeout: float = _setting(
        20.0,
        _seconds,
        "SECONDS",
        "time that a starting container waits for its port to be ACTIVE in Neutron",
    )


Mode = TypeVar("Mode", bound=Common)


def option(setting: Field[Any]) -> str:
    """Return the option of a setting on the command line: ``--late-flows``."""
    return "--" + setting.name.replace("_", "-")


def shown(setting: Field[Any]) -> str:
    """Return the default of a setting as typed, "" without one."""
    default = setting.default
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default or "")


def variable(setting: Field[Any]) -> str:
    """Return the variable of a setting in the environment: ``OVN_DOCKER_LATE_FLOWS``."""
    return "OVN_DOCKER_" + setting.name.upper()


def read(
    mode: type[Mode],
    given: Mapping[str, str | None],
    environment: Mapping[str, str],
    only: Collection[str] | None = None,
) -> Mode:
    """Read the settings of a mode from the command line (*given*, by name) or else from the environment.

    *only*: names of the settings to read; the others keep their defaults.

    Raises BadRequest with the option or variable, the value given and the possible values.
    """
    values: dict[str, Any] = {}
    for setting in fields(mode):
        if only is not None and setting.name not in only:
            continue
        source, text = option(setting), given.get(setting.name)
        if text is None:
            source, text = variable(setting), environment.get(variable(setting)) or None
        if text is None:
            continue
        try:
            values[setting.name] = setting.metadata["parse"](text)
        except ValueError as error:
            raise BadRequest(f"{source}={text[:80]!r} is not valid: give {error}") from None
    return mode(**values)
