"""Whether Docker's own resolver asks OVN for names of containers on other hosts, and how it is made to."""

import json
import re
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.host.engine import CONFIG, dockerd_config, dockerd_setting
from ovn_docker.model import NAMESERVERS

_OURS = [str(address) for address in NAMESERVERS]
_AT_MOST = 3
"""Servers that Docker's resolver asks (moby daemon/libnetwork/resolver.go, maxExtDNS)."""

_RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second has the servers of systemd-resolved(8), where the first has nothing but its local stub."""


def asked() -> bool:
    """Whether dockerd, as it runs or will run, asks OVN first."""
    return dockerd_setting("dns")[: len(_OURS)] == _OURS


def advice() -> str:
    """What to write into dockerd's configuration file, which may have other settings already."""
    rest = [server for server in dockerd_setting("dns") if server not in _OURS] or _servers_of_host()
    config = dockerd_config() | {"dns": [*_OURS, *rest][:_AT_MOST]}
    lines = json.dumps(config, indent=4).replace("\n", "\n    ")
    warning = "" if rest else "\n(add a name server of yours as the third: containers ask nobody else)"
    return (
        f"note: containers find those of other hosts by name if Docker asks OVN; write into {CONFIG}\n"
        f"    {lines}\nand restart dockerd{warning}"
    )


def _servers_of_host() -> list[str]:
    """Name servers of this host that a container can reach too."""
    for path in _RESOLV_CONF:
        try:
            found = re.findall(r"^\s*nameserver\s+(\S+)", path.read_text(), re.MULTILINE)
        except (OSError, ValueError):
            continue
        if reachable := [server for server in found if not _is_loopback(server)]:
            return reachable
    return []


def _is_loopback(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True
