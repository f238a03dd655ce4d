"""Trace a packet between two containers, there and back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from ovn_docker.errors import NotFound, OvnDockerError, Unavailable
from ovn_docker.host.daemons import VSWITCHD
from ovn_docker.host.kernel.ping import Echo, answered, connects, in_namespace
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.snapshot import Scope
from ovn_docker.inspect.views import EndpointView
from ovn_docker.text import printable
from ovn_docker.trace import cloud_path, kernel_path, packet_path, tools
from ovn_docker.trace.packet_path import Hop, Packet, PacketPath


@dataclass(frozen=True, slots=True)
class Trace:
    """The paths of a packet and of its answer; of one alone if it does not end at a container.

    *details*: titles, and the output of OVN's and Open vSwitch's tools.
    """

    paths: tuple[PacketPath, ...]
    details: tuple[tuple[str, str], ...] = ()

    @property
    def delivered(self) -> bool:
        """True if packet and answer arrive, as far as this host can see."""
        return all(one.delivered for one in self.paths)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        for number, one in enumerate(self.paths):
            if not one.delivered:
                return f"the answer is {one.verdict}" if number else one.verdict
            if one.end:
                return one.verdict
        return "delivered, and so is the answer"

    @property
    def lines(self) -> Iterator[str]:
        """The paths, a line for each hop, and the verdict."""
        width = max(len(hop.place) for one in self.paths for hop in one.hops)
        for one in self.paths:
            yield f"{one.source} -> {one.target}  {one.packet}"
            for hop in one.hops:
                yield f" {' ' if hop.passes else 'X'} {hop.place:{width}}  {hop.what}"
                if hop.by:
                    yield f"   {'':{width}}  {hop.by}"
            yield ""
        yield self.verdict


def trace(
    sources: Sources, source_name: str, target_name: str, packet: Packet, *, network: str = "", probe: bool
) -> Trace:
    """Trace *packet* from a container, or from outside, to a container or an address.

    *network*: name of the network to use, if the containers have several in common; *probe*: also send a real
    packet. Raises NotFound, BadRequest, Unavailable.
    """
    cluster, source, target = _find_ends(sources, source_name, target_name)
    if not source:
        return Trace((kernel_path.from_outside(sources, cluster, target_name, packet, probe=probe),))
    taken = None
    if not target:
        wanted = ip_address(target_name)
        taken = kernel_path.holder(sources, cluster, wanted, {end.switch for end in source if end.switch})
        if taken is None:
            return Trace((kernel_path.to_address(sources, cluster, source, wanted, packet, probe=probe),))
        target = (taken,)
    pair = packet_path.on_one_network(source, target, network)
    if pair is None:
        return Trace((unconnected(cluster, source, target, packet),))
    sender, receiver = kernel_path.with_real_addresses(sources, cluster, pair[0]), pair[1]
    if taken and (dropped := kernel_path.to_taken(cluster, sender, receiver, packet)):
        return Trace((dropped,))
    direction = _direction_in_cloud if cluster.snapshot.underlay else _direction
    there, details = direction(sources, cluster, sender, receiver, packet, reply=False)
    back, more = direction(sources, cluster, receiver, sender, packet, reply=True)
    if there.delivered and back.delivered and probe:
        there = replace(there, hops=(*there.hops, *_probe(sources, cluster, sender, receiver, packet)))
    return Trace((there, back), (*details, *more))


def _find_ends(
    sources: Sources, source: str, target: str
) -> tuple[ClusterView, tuple[EndpointView, ...], tuple[EndpointView, ...]]:
    """Find both ends. The whole cluster is read only if one end is on no network of this host.

    The source is empty if it is the outside, the target if it is an address that no container was given.
    """
    for scope in (Scope.NETWORKS, Scope.CLUSTER):
        cluster = ClusterView(sources.gather(scope))
        _require_databases(cluster)
        try:
            if source == kernel_path.OUTSIDE and all(end.container != source for end in cluster.endpoints):
                return cluster, (), ()
            return cluster, cluster.find(source), cluster.find(target)
        except NotFound:
            is_address = not cluster.snapshot.missing and kernel_path.address(target) is not None
            if scope is Scope.CLUSTER and not is_address:
                raise
    return cluster, cluster.find(source), ()


def _require_databases(cluster: ClusterView) -> None:
    """Raise Unavailable if a database that a trace needs could not be read."""
    for part in ("vswitch", "northbound", "southbound"):
        if reason := cluster.snapshot.missing.get(part):
            raise Unavailable(f"{reason}; see `ovn-docker doctor`")


def unconnected(
    cluster: ClusterView, source: Sequence[EndpointView], target: Sequence[EndpointView], packet: Packet
) -> PacketPath:
    """Return the path between containers that have no network in common."""
    one, other = (", ".join(sorted({e.network for e in ends})) for ends in (source, target))
    name, other_name = source[0].container, target[0].container
    if one == other:  # two networks of different hosts that have the same name
        one, other = f"{one} of {source[0].host}", f"another network {other} of {target[0].host}"
    what = (
        f"{name} is on {one}, {other_name} on {other}, and networks are not connected with each other; "
        f"{_how_to_join(cluster, source, target)}"
    )
    by = ""
    cloud = cluster.snapshot.cloud
    if cloud and (routers := cloud_path.routers_between(cloud, source, target)):
        by = f"router {routers[0]}, which has both networks, but is not the containers' default route"
    return PacketPath(name, other_name, str(packet), (Hop("network", what, passes=False, by=by),))


def _how_to_join(cluster: ClusterView, source: Sequence[EndpointView], target: Sequence[EndpointView]) -> str:
    """Return how both come on one network: with a command, if the host of one has a network of the other."""
    hosts = {network.switch: network.hosts for network in cluster.networks}
    for ends, moved in ((source, target[0]), (target, source[0])):
        for end in ends:
            if end.switch and moved.host in hosts.get(end.switch, ()):
                command = printable.command("docker", "network", "connect", end.network, moved.container)
                return f"connect one: {command}{'' if moved.here else f', on {moved.host}'}"
    return f"connect both with a network that {source[0].host} and {target[0].host} have"


def _direction(
    sources: Sources,
    cluster: ClusterView,
    source: EndpointView,
    target: EndpointView,
    packet: Packet,
    *,
    reply: bool,
) -> tuple[PacketPath, list[tuple[str, str]]]:
    """Trace one direction; also return the output of OVN's and Open vSwitch's tools."""
    label = packet.label(reply=reply)
    southbound = cluster.snapshot.southbound
    datapath = southbound.datapaths.get(source.switch, "") if southbound else ""
    flow = packet_path.microflow(packet, source, target, reply=reply)
    logical_text = tools.ovn_trace(cluster, datapath, flow, reply=reply) if datapath else ""
    logical = packet_path.read_logical(logical_text, target.id) if logical_text else None
    physical_text, physical = "", None
    interface = cluster.interfaces.get(source.id)
    switched = cluster.snapshot.daemon(VSWITCHD).pid is not None
    if switched and source.here and interface and interface.ofport and interface.installed:
        flow = packet_path.openflow(packet, source, target, reply=reply)
        physical_text = tools.ofproto_trace(interface.bridge, flow, reply=reply)
        physical = packet_path.read_physical(physical_text)
    owner = tools.owner_of(sources, logical) if logical and not logical.delivered else ""
    path = packet_path.follow(cluster, source, target, label, logical, physical, owner)
    title = f"{source.container} to {target.container}, {label}"
    details = [(f"{title}: ovn-trace", logical_text)]
    if physical_text:
        text = tools.ovn_detrace(cluster, physical_text)
        details += [(f"{title}: ofproto/trace, ovn-detrace", text)]
    return path, details


def _direction_in_cloud(
    _: Sources,
    cluster: ClusterView,
    source: EndpointView,
    target: EndpointView,
    packet: Packet,
    *,
    reply: bool,
) -> tuple[PacketPath, list[tuple[str, str]]]:
    """Trace one direction between virtual machines; also return the output of Open vSwitch's tool."""
    text, physical = "", None
    interface = cluster.interfaces.get(source.id)
    switched = cluster.snapshot.daemon(VSWITCHD).pid is not None
    if switched and source.here and interface and interface.ofport:
        flow = packet_path.openflow(packet, source, target, reply=reply)
        text = tools.ofproto_trace(interface.bridge, flow, reply=reply)
        physical = packet_path.read_physical(text)
    path = cloud_path.follow(cluster, source, target, packet, physical, reply=reply)
    title = f"{source.container} to {target.container}, {path.packet}: ofproto/trace"
    return path, [(title, text)] if text else []


def _probe(
    sources: Sources, cluster: ClusterView, source: EndpointView, target: EndpointView, packet: Packet
) -> Iterator[Hop]:
    """Send a real packet from the source, if it is on this host; UDP is not probed."""
    docker = cluster.docker.get(source.id)
    if docker is None or packet.protocol == "udp":
        return
    from_ip, to_ip = packet_path.addresses(source, target)
    try:
        pid = int(sources.docker.read(f"/containers/{docker.container}/json")["State"]["Pid"])
        if packet.port:
            reached = in_namespace(pid, lambda: connects(to_ip, packet.port))
        else:
            reached = bool(in_namespace(pid, lambda: answered([Echo(to_ip, 100, from_ip)], wait=1.5)))
    except (OSError, KeyError, OvnDockerError):
        return
    what = "an echo request" if not packet.port else f"a connection to port {packet.port}"
    if reached:
        yield Hop("probe", f"{what} is answered by {to_ip}")
    else:
        seen = "" if target.here else f"; run this on {target.host} too"
        yield Hop(
            "probe", f"nothing seems to drop it, but {what} is not answered by {to_ip}{seen}", passes=False
        )
