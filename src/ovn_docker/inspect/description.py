"""Describe a network or a container in lines, each with a label and a value. Pure."""

from collections.abc import Iterable

from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.snapshot import PortRow
from ovn_docker.inspect.views import EndpointView, NetworkView


def description(cluster: ClusterView, one: NetworkView | EndpointView) -> Iterable[tuple[str, str]]:
    """Yield the lines of a network and its containers, or of an endpoint."""
    return _network_lines(cluster, one) if isinstance(one, NetworkView) else _endpoint_lines(cluster, one)


def _network_lines(cluster: ClusterView, network: NetworkView) -> Iterable[tuple[str, str]]:
    """Yield the lines of a network and its containers."""
    yield "network", network.name
    underlay = cluster.snapshot.underlay
    everywhere = "by this name in VMs of the project" if underlay else "by this name on every host"
    if network.removed:
        everywhere = f"removed on {network.removed}: a host keeps it while a running container uses it"
    yield "in the cluster", everywhere if network.shared else "not shared"
    unknown = _unless_unread(cluster, "docker", "not in this host's Docker")
    yield "Docker ID", network.id if network.here else unknown
    none = "none" if cluster.snapshot.northbound else "unknown"
    yield "Neutron network" if underlay else "logical switch", network.switch or none
    yield "subnets", ", ".join(network.subnets)
    yield "MTU", str(network.mtu) if network.mtu else "that of the tunnels"
    yield "hosts", ", ".join(network.hosts)
    for one in cluster.snapshot.engine.networks if cluster.snapshot.engine else ():
        if one.id == network.id and one.ignored:
            yield "ignored options", ", ".join(one.ignored)
    for endpoint in cluster.endpoints:
        if endpoint.switch == network.switch and endpoint.switch:
            yield "container", f"{endpoint.container} ({', '.join(endpoint.addresses)}) on {endpoint.host}"
    for difference in network.differences:
        yield "! differs", difference


def _unless_unread(cluster: ClusterView, part: str, otherwise: str) -> str:
    """Return *otherwise*, or why that part could not be read."""
    missing = cluster.snapshot.missing
    return f"unknown: {missing[part]}" if part in missing else otherwise


def _endpoint_lines(cluster: ClusterView, endpoint: EndpointView) -> Iterable[tuple[str, str]]:
    """Yield the lines of an endpoint."""
    port, interface = cluster.ports.get(endpoint.id), cluster.interfaces.get(endpoint.id)
    link = cluster.links.get(endpoint.link)
    yield "container", f"{endpoint.container} on {endpoint.host}"
    yield "network", endpoint.network
    yield "endpoint", endpoint.id
    yield "addresses", f"{', '.join(endpoint.addresses)}, MAC {endpoint.mac}"
    known = endpoint.state or _unless_unread(cluster, "docker", "unknown endpoint")
    yield "Docker", known if endpoint.here else f"known only on {endpoint.host}"
    yield from (
        _neutron_lines(cluster, endpoint) if cluster.snapshot.cloud else _ovn_lines(cluster, endpoint, port)
    )
    if endpoint.here:
        if interface is None:
            yield "Open vSwitch", _unless_unread(cluster, "vswitch", "no port")
        else:
            where = f"{interface.name} on {interface.bridge}, port {interface.ofport}"
            flows = "installed" if endpoint.installed else "not installed"
            yield (
                "Open vSwitch",
                f"{where}, VLAN {interface.tag}" if interface.tag else f"{where}, flows {flows}",
            )
            counted = [f"{key} {interface.statistics.get(key, 0)}" for key in ("rx_packets", "tx_packets")]
            yield "counted", ", ".join([*counted, f"rx_dropped {interface.statistics.get('rx_dropped', 0)}"])
        state = f"{'up' if link.up and link.carrier else 'down'}, MTU {link.mtu}" if link else ""
        yield "link", f"{link.name}, {state}" if link else "none"
    for difference in endpoint.differences:
        yield "! differs", difference


def _ovn_lines(
    cluster: ClusterView, endpoint: EndpointView, port: PortRow | None
) -> Iterable[tuple[str, str]]:
    """Yield the lines of an endpoint's rows in OVN, or why they are unknown."""
    missing = cluster.snapshot.missing
    if "northbound" in missing:
        yield "logical port", f"unknown: {missing['northbound']}"
    elif port:
        yield "logical port", f"{'' if port.enabled else 'disabled, '}addresses {', '.join(port.addresses)}"
        yield "port security", ", ".join(port.port_security) or "none"
    else:
        yield "logical port", "none"
    if "southbound" in missing:
        yield "claimed by", f"unknown: {missing['southbound']}"
    else:
        yield "claimed by", f"{endpoint.chassis} ({endpoint.connection})" if endpoint.chassis else "no host"


def _neutron_lines(cluster: ClusterView, endpoint: EndpointView) -> Iterable[tuple[str, str]]:
    """Yield the lines of an endpoint's port in Neutron."""
    cloud = cluster.snapshot.cloud
    port = next((port for port in cloud.ports if port.endpoint == endpoint.id), None) if cloud else None
    if cloud is None or port is None:
        yield "Neutron port", cloud.problem if cloud and cloud.problem else "none"
        return
    yield "Neutron port", f"{port.id}, {'' if port.enabled else 'disabled, '}{port.status}"
    yield "... addresses", f"{' '.join((port.mac, *port.addresses))}"
    others = [f"{mac} {ip}" for mac, ip in port.pairs]
    yield "port security", "; ".join(["on", *others]) if port.secured else "off"
    named = [cloud.groups[group].name if group in cloud.groups else group for group in port.groups]
    yield "security groups", ", ".join(named) or "none"
    if port.vlan is None:
        yield "subport", f"none, it should be one of the trunk of {endpoint.host}"
    else:
        yield (
            "subport",
            f"VLAN {port.vlan} {'of the trunk' if port.subport else 'by its profile'} of {endpoint.chassis}",
        )
