"""Send echo requests between hosts, and between containers through the tunnels."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ovn_docker.host.kernel.ping import Echo, answered, in_namespace
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.snapshot import VswitchRows, ip_version
from ovn_docker.inspect.views import EndpointView
from ovn_docker.model import EndpointId, host_link

SMALL = 100
"""Bytes of a packet that every network carries."""


@dataclass(frozen=True, slots=True)
class HostPath:
    """The path from this host to another's tunnel address, for small packets and the largest of tunnels."""

    small: bool
    full: bool
    size: int
    carries: int = 0
    """Largest size that was answered, if small packets were answered and full ones were not."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The path from a container here to one on another host, through the tunnel."""

    here: str
    there: str
    small: bool
    full: bool
    size: int


def host_paths(cluster: ClusterView) -> dict[str, HostPath]:
    """Probe the paths from this host's tunnel address to those of other hosts, outside the tunnels."""
    vswitch = cluster.snapshot.vswitch
    source = vswitch.encap_ip if vswitch else ""
    if vswitch is None or not source or not any(source in link.addresses for link in cluster.snapshot.links):
        return {}
    version = ip_version(source)
    targets = {
        host.system_id: encap.ip
        for host in cluster.hosts
        if not host.here
        for encap in cluster.chassis[host.system_id].encaps
        if ip_version(encap.ip) == version
    }
    size = largest_outer(cluster, vswitch)
    small = {name: Echo(ip, SMALL, source) for name, ip in targets.items()}
    full = {name: Echo(ip, size, source) for name, ip in targets.items()}
    found = answered([*small.values(), *full.values()])
    return {
        name: HostPath(
            small=small[name] in found,
            full=full[name] in found,
            size=size,
            carries=_carried(ip, source, size) if small[name] in found and full[name] not in found else 0,
        )
        for name, ip in targets.items()
    }


def _carried(target: str, source: str, size: int) -> int:
    """Return the largest size that is answered: try 32 sizes at once, then those above the best one."""
    low, high = SMALL, size
    while high - low > 1:
        step = max(1, (high - low) // 32)
        found = answered([Echo(target, probe, source) for probe in range(low + step, high, step)], wait=0.6)
        best = max((echo.size for echo in found), default=low)
        if best == low:
            break
        low, high = best, min(high, best + step)
    return low


def largest_outer(cluster: ClusterView, vswitch: VswitchRows) -> int:
    """Return the bytes of the largest packet that this host's tunnels have to carry, with the outer header.

    It is at most the MTU of the tunnels' interface; the check network-mtu finds larger packets.
    """
    links = cluster.links
    outer = next((link.mtu for link in links.values() if vswitch.encap_ip in link.addresses), 1500)
    mtus = [
        links[name].mtu
        for e in cluster.interfaces.values()
        if (name := host_link(EndpointId(e.endpoint))) in links
    ]
    return min(outer, max(mtus) + vswitch.overhead) if mtus else outer


def container_pairs(cluster: ClusterView, pids: Mapping[str, int], silent: Iterable[str]) -> dict[str, Pair]:
    """Probe the path from a container here to one of each other host, on a network that both are on."""
    own_name = cluster.host_name(cluster.snapshot.system_id)
    by_name = {host.name: host.system_id for host in cluster.hosts}
    own: dict[str, EndpointView] = {}
    others: dict[str, EndpointView] = {}
    for endpoint in cluster.endpoints:
        docker = cluster.docker.get(endpoint.id)
        if endpoint.here and docker and docker.container in pids and _works(cluster, endpoint):
            own.setdefault(endpoint.switch, endpoint)
    for endpoint in cluster.endpoints:
        host = by_name.get(endpoint.chassis, "")
        answers = endpoint.chassis != own_name and endpoint.up and host not in ("", *silent)
        if answers and endpoint.switch in own and _allowed(cluster, endpoint):
            others.setdefault(host, endpoint)
    asked: dict[str, dict[str, tuple[EndpointView, EndpointView]]] = defaultdict(dict)
    for host, there in others.items():
        here = own[there.switch]
        if _versions(here) & _versions(there):
            asked[here.id][host] = (here, there)
    found: dict[str, Pair] = {}
    for id_, pairs in asked.items():
        found |= _ping_pairs(
            pids[cluster.docker[id_].container], cluster.links[host_link(EndpointId(id_))].mtu, pairs
        )
    return found


def _ping_pairs(
    pid: int, mtu: int, pairs: Mapping[str, tuple[EndpointView, EndpointView]]
) -> dict[str, Pair]:
    versions = {version for here, _ in pairs.values() for version in _versions(here)}
    target = {
        host: next(address for address in there.addresses if ip_version(address) in versions)
        for host, (_, there) in pairs.items()
    }
    echoes = [Echo(ip, size) for ip in target.values() for size in (SMALL, mtu)]
    try:
        found = in_namespace(pid, lambda: answered(echoes))
    except OSError:  # the container has just ended
        return {}
    return {
        host: Pair(here.container, there.container, Echo(target[host], SMALL) in found,
                   Echo(target[host], mtu) in found, mtu)
        for host, (here, there) in pairs.items()
    }  # fmt: skip


def _versions(endpoint: EndpointView) -> set[int]:
    return set(map(ip_version, endpoint.addresses)) - {0}


def _works(cluster: ClusterView, endpoint: EndpointView) -> bool:
    """True if nothing on this host keeps one of its endpoints from reaching others."""
    link = cluster.links.get(endpoint.link)
    plugged = link is not None and link.up and link.carrier and endpoint.installed
    return bool(plugged and endpoint.addresses and not endpoint.differences and _allowed(cluster, endpoint))


def _allowed(cluster: ClusterView, endpoint: EndpointView) -> bool:
    """True if its port in OVN is enabled and allows its MAC and addresses."""
    port = cluster.ports.get(endpoint.id)
    return port is not None and port.enabled and port.permits(endpoint.mac, *endpoint.addresses)
