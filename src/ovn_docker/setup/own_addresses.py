"""Addresses of this machine."""

import json
from ipaddress import ip_address

from ovn_docker.errors import BadRequest
from ovn_docker.host.run import StepFailed, run
from ovn_docker.model import IpAddress
from ovn_docker.text.printable import first_of

_SHOWN = 8
"""Addresses of this host that an error lists; without link-local ones (RFC 4291, 2.5.6), useless there."""


def in_url(ip: IpAddress) -> str:
    """Return an address as OVSDB connection methods write it: IPv6 in brackets (ovsdb(7))."""
    return f"[{ip}]" if ip.version == 6 else str(ip)


def require_own(option: str, ip: IpAddress) -> str:
    """Return the interface of this host that has the address; raise BadRequest if there is none."""
    own = own_addresses()
    if str(ip) not in own:
        usable = [one for one in own if not ip_address(one).is_link_local]
        shown = first_of(usable, _SHOWN) or "none"
        raise BadRequest(f"{option} {ip} is not an address of this host; it has {shown}")
    return own[str(ip)]


def source_address(target: str) -> IpAddress | None:
    """Return the source address of packets to *target*; None without a route."""
    try:
        (route,) = json.loads(run(("ip", "-json", "route", "get", target)))
        return ip_address(route["prefsrc"])
    except (StepFailed, KeyError, ValueError):
        return None


def own_addresses() -> dict[str, str]:
    """Return the interface of each address of this host."""
    links = json.loads(run(("ip", "-json", "address", "show")))
    return {info["local"]: link["ifname"] for link in links for info in link["addr_info"]}
