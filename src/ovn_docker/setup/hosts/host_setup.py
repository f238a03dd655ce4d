"""The one-time setup of a host (OVN's guide): the settings that OVN and the driver find in Open vSwitch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from ovn_docker.errors import BadRequest
from ovn_docker.model import IpAddress
from ovn_docker.setup.central.remote_databases import is_restricted
from ovn_docker.setup.certificate_name import check_certificate_name, make_system_id
from ovn_docker.setup.databases import NORTHBOUND, SOUTHBOUND
from ovn_docker.setup.hosts.datapath import advise_bridge, choose_datapath, move_bridge, require_encapsulation
from ovn_docker.setup.own_addresses import in_url, own_addresses, require_own, source_address
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import TlsFiles, current_tls
from ovn_docker.setup.vswitch_row import read_vswitch
from ovn_docker.text.printable import printable


@dataclass(frozen=True)
class HostSettings:
    """The values of the one-time setup; those that are ``None`` stay, or are found out."""

    central: Sequence[IpAddress]
    encap_ip: IpAddress | None = None
    encap_type: str | None = None
    datapath: str = "auto"
    secure: bool = False
    """Reach the databases by TLS."""
    tls: TlsFiles | None = None
    """Files for Open vSwitch; ``None`` with *secure*: those that it has."""


def set_up_host(steps: Steps, settings: HostSettings) -> None:
    """Write the settings that differ, in one transaction.

    Raises:
        BadRequest: a value that cannot work on this host.
        Unavailable: Open vSwitch is not installed or does not run.

    """
    row = read_vswitch("external_ids", "iface_types", "ssl")
    datapath = choose_datapath(settings.datapath)
    old = row.map("external_ids")
    encap_ip = settings.encap_ip or _guess_encap_ip(steps, old.get("ovn-encap-ip", ""), settings.central)
    encap_type = settings.encap_type or old.get("ovn-encap-type") or "geneve"
    interface = require_own("--encap-ip", encap_ip)
    require_encapsulation(encap_type, datapath, row.members("iface_types"))
    if settings.secure and not settings.tls and not row.optional("ssl", str):
        raise BadRequest("--tls: Open vSwitch has no key yet; give the directory that has it: --tls DIR")
    name = old.get("system-id") or make_system_id(steps)
    if used := settings.tls or (current_tls("ovs-vsctl") if settings.secure else None):
        check_certificate_name(steps, used, name, lambda: is_restricted(settings.central, used))
    if settings.tls:
        _set_tls(steps, settings.tls)
    method = "ssl" if settings.secure else "tcp"
    wanted = {
        "ovn-remote": remotes(method, settings.central, SOUTHBOUND.port),
        "ovn-nb": remotes(method, settings.central, NORTHBOUND.port),
        "ovn-encap-ip": str(encap_ip),
        "ovn-encap-type": encap_type,
        "ovn-bridge-datapath-type": datapath,
        "system-id": name,
    }
    _write(steps, old, {key: value for key, value in wanted.items() if old.get(key) != value})
    move_bridge(steps, old.get("ovn-bridge", "br-int"), datapath)
    if datapath == "netdev":
        advise_bridge(steps, interface)


def remotes(method: str, central: Sequence[IpAddress], port: int) -> str:
    """Return the value of ``ovn-remote`` or ``ovn-nb``: a connection method for each machine (ovsdb(7))."""
    return ",".join(f"{method}:{in_url(ip)}:{port}" for ip in central)


def _guess_encap_ip(steps: Steps, now: str, central: Sequence[IpAddress]) -> IpAddress:
    """Return the address that other hosts probably reach, and print where it is from.

    The first of these that exists: the address that is set *now*, if this host has it; the source address of
    the route to a central machine; if that is this host, the source address of the default route. Raises
    BadRequest if there is no route.
    """
    if now in own_addresses():
        return ip_address(now)
    for machine in central:
        for target in ("192.0.2.1", str(machine)) if machine.is_loopback else (str(machine),):
            source = source_address(target)
            if source is None:
                continue
            origin = f"the route to {machine}" if target == str(machine) else "the default route"
            steps.advise(f"note: --encap-ip {source}, the source address of {origin}")
            return source
    raise BadRequest(
        f"there is no route to {', '.join(map(str, central))}: give the address of this host that other "
        "hosts reach, with --encap-ip IP"
    )


def _set_tls(steps: Steps, files: TlsFiles) -> None:
    """Give Open vSwitch the key and certificates that ovn-controller and the driver use."""
    if files != current_tls("ovs-vsctl"):
        steps.change("set key and certificates of Open vSwitch", "ovs-vsctl", "--no-wait", "set-ssl", *files)


def _write(steps: Steps, old: dict[str, str], new: dict[str, str]) -> None:
    """Set keys of external_ids, in one transaction."""
    if not new:
        return
    changes = [f"  {key}: {printable(old.get(key, '(unset)'))} -> {value}" for key, value in new.items()]
    # --no-wait: ovs-vswitchd itself does nothing with these keys, and may be down.
    settings = [f"external_ids:{key}={json.dumps(value)}" for key, value in new.items()]
    steps.change(
        "\n".join(["set external_ids of Open_vSwitch:", *changes]),
        "ovs-vsctl", "--no-wait", "set", "Open_vSwitch", ".", *settings,
    )  # fmt: skip
