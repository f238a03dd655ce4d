"""The path of a packet between containers in virtual machines of a cloud, as Neutron decides it. Pure.

OVN on the hypervisors does what Neutron's resources say: VLANs of the trunk, ports, port security, security
groups ("Networking API v2.0"; neutron/plugins/ml2/drivers/ovn translates them). The bridge and links of a
virtual machine are known only in that machine.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from ovn_docker.inspect.cloud import Cloud, CloudPort, Group, Rule, VirtualMachine
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.views import EndpointView
from ovn_docker.trace.packet_path import (
    CLIENT,
    Hop,
    Packet,
    PacketPath,
    Physical,
    addresses,
    at_container,
    at_port,
    up_to_drop,
)

_ECHO = {4: ("icmp", 8, 0), 6: ("icmpv6", 128, 129)}
"""IP version to the protocol in rules, and the types of request and reply (RFC 792, RFC 4443)."""

_OUT, _IN = "egress", "ingress"


@dataclass(frozen=True, slots=True)
class Flow:
    """A packet from *source* to *target*; *out*, *into*: their ports in Neutron, if they have some."""

    packet: Packet
    source: EndpointView
    target: EndpointView
    out: CloudPort | None
    into: CloudPort | None
    reply: bool

    @property
    def addresses(self) -> tuple[str, str]:
        """Source and target address. Raises NotFound if they have none of the same IP version."""
        return addresses(self.source, self.target)

    @property
    def version(self) -> int:
        """IP version."""
        return ip_address(self.addresses[0]).version

    @property
    def protocol(self) -> str:
        """The protocol, as rules name it."""
        return self.packet.protocol if self.packet.port else _ECHO[self.version][0]


def follow(
    cluster: ClusterView,
    source: EndpointView,
    target: EndpointView,
    packet: Packet,
    physical: Physical | None = None,
    *,
    reply: bool = False,
) -> PacketPath:
    """Return the path of one direction, up to the hop that drops; *physical*: result of this VM's bridge."""
    cloud = cluster.snapshot.cloud or Cloud("")
    ports = {port.endpoint: port for port in cloud.ports}
    flow = Flow(packet, source, target, ports.get(source.id), ports.get(target.id), reply)
    hops = up_to_drop(_hops(cluster, cloud, flow, physical))
    return PacketPath(source.container, target.container, packet.label(reply=reply), hops)


def _hops(cluster: ClusterView, cloud: Cloud, flow: Flow, physical: Physical | None) -> Iterator[Hop]:
    yield from at_container(cluster, flow.source)
    yield from at_port(cluster, flow.source)
    if physical is not None and physical.dropped:
        yield Hop(flow.source.host, f"Open vSwitch drops it ({physical.why})", passes=False)
    yield from _behind(cluster, cloud, flow.source, flow.out)
    if flow.out is None:
        return
    yield _port(flow.source, flow.out)
    yield _secured(flow.source, flow.out, flow.addresses[0])
    yield _grouped(cloud, flow, _OUT)
    network = cloud.networks.get(flow.out.network)
    place = f"network {flow.source.network}"
    if flow.into is None:
        yield Hop(place, f"{flow.target.container} has no port in Neutron", passes=False,
                  by=f"network {flow.out.network}")  # fmt: skip
        return
    if flow.target.mac and flow.into.secured and flow.into.mac != flow.target.mac.lower():
        what = f"{flow.target.container} has the MAC {flow.target.mac}, its port {flow.into.mac}"
        yield Hop(place, what, passes=False, by=f"port {flow.into.id}")
    yield Hop(
        place, f"Neutron's {network.name if network else flow.out.network} takes it to port {flow.into.id}"
    )
    yield _port(flow.target, flow.into)
    yield _secured(flow.target, flow.into, flow.addresses[1])
    yield _grouped(cloud, flow, _IN)
    yield from _behind(cluster, cloud, flow.target, flow.into)
    yield from at_port(cluster, flow.target)
    yield from at_container(cluster, flow.target)


def _behind(cluster: ClusterView, cloud: Cloud, end: EndpointView, port: CloudPort | None) -> Iterator[Hop]:
    """Yield the hops at the virtual machine of a container, and at the VLAN between them."""
    if port is None:
        yield Hop("Neutron", f"{end.container} has no port in Neutron", passes=False)
        return
    machine = cloud.machines.get(port.vm)
    if machine is not None:
        yield from _machine(end, machine)
    interface = cluster.interfaces.get(end.id)
    trunk = f"trunk {machine.trunk}" if machine and machine.trunk else f"port {port.vm}"
    if port.vlan is None:
        what = f"the port of {end.container} is not a subport of the trunk of {end.host}"
        yield Hop("trunk", what, passes=False, by=f"port {port.id}, {trunk}")
    elif interface is not None and interface.tag != port.vlan:
        tag = f"VLAN {interface.tag}" if interface.tag else "no VLAN"
        what = f"{end.container} has {tag} on {interface.bridge}, but its subport has VLAN {port.vlan}"
        yield Hop("trunk", what, passes=False, by=f"port {interface.name}, {trunk}")
    else:
        how = "of the trunk" if port.subport else "by its profile"
        yield Hop("trunk", f"VLAN {port.vlan} {how} of {end.host} is {end.container}'s")


def _machine(end: EndpointView, machine: VirtualMachine) -> Iterator[Hop]:
    """Yield the hop at a VM that does not run. admin_state_up of its port affects only its own packets."""
    if machine.enabled and machine.status != "ACTIVE":
        what = f"the port of VM {end.host} has status {machine.status} in Neutron: does the VM run?"
        yield Hop("Neutron", what, passes=False, by=f"port {machine.vif}")


def _port(end: EndpointView, port: CloudPort) -> Hop:
    by = f"port {port.id}"
    if not port.enabled:
        what = f"the port of {end.container} is switched off (admin_state_up is false)"
        return Hop("Neutron", what, passes=False, by=by)
    if port.subport and port.status != "ACTIVE":
        return Hop("Neutron", f"the port of {end.container} is {port.status}: its flows are not installed on "
                   "the VM's hypervisor", passes=False, by=by)  # fmt: skip
    return Hop("Neutron", f"port {port.id} of {end.container} is {port.status if port.subport else 'there'}")


def _secured(end: EndpointView, port: CloudPort, address: str) -> Hop:
    """Return the hop at port security, which allows a port's own addresses and its allowed address pairs."""
    if not port.secured:
        return Hop("port security", f"is off for {end.container}")
    mac = end.mac.lower() or port.mac
    own = [(port.mac, ip) for ip in port.addresses]
    allowed = [*own, *port.pairs]
    if any(mac == one.lower() and _within(address, ip) for one, ip in allowed):
        return Hop("port security", f"lets {mac} {address} of {end.container} pass")
    listed = ", ".join(f"{one} {ip}" for one, ip in allowed) or f"{port.mac} without an address"
    return Hop("port security", f"allows {listed}, but {end.container} has {mac} {address}",
               passes=False, by=f"port {port.id}")  # fmt: skip


def _grouped(cloud: Cloud, flow: Flow, direction: str) -> Hop:
    """Return the hop at the security groups: of the source for egress, of the target for ingress."""
    here, there = (flow.source, flow.target) if direction == _OUT else (flow.target, flow.source)
    port, peer = (flow.out, flow.into) if direction == _OUT else (flow.into, flow.out)
    place = "security groups" if port and len(port.groups) > 1 else "security group"
    if port is None or not port.secured:
        return Hop(place, f"does not apply to {here.container}: port security is off")
    groups = [cloud.groups[id_] for id_ in port.groups if id_ in cloud.groups]
    if len(groups) < len(port.groups):
        return Hop(place, f"{here.container} is in a group that this project may not read")
    if flow.reply and any(group.stateful for group in groups):
        return Hop(place, f"{_names(groups)}: the answer to an allowed packet is allowed")
    peer_ip = flow.addresses[1 if direction == _OUT else 0]
    for group in groups:
        for rule in group.rules:
            if _matches(rule, flow, direction) and _meets(rule, peer, peer_ip):
                return Hop(
                    place,
                    f"{group.name}: rule {rule.id} lets it {_in_or_out(direction)} "
                    f"({_description(cloud, rule)})",
                )
    if not groups:
        what = f"{here.container} is not in any group, so nothing passes {_in_or_out(direction)}"
        return Hop("security group", what, passes=False, by=f"port {port.id}")
    near = [rule for group in groups for rule in group.rules if _matches(rule, flow, direction)]
    whom = f"{'from' if direction == _IN else 'to'} {there.container}"
    what = f"no rule lets {flow.packet} {_in_or_out(direction)} {whom}"
    if near:
        what += f"; rule {near[0].id} is for {_description(cloud, near[0])}"
    return Hop(place, what, passes=False, by=", ".join(f"security group {g.name} ({g.id})" for g in groups))


def _matches(rule: Rule, flow: Flow, direction: str) -> bool:
    """True if a rule is for packets of this kind, with any peer."""
    if rule.direction != direction or rule.version != flow.version:
        return False
    # Neutron accepts `icmp` for IPv6 too.
    protocol = "icmpv6" if rule.protocol == "icmp" and flow.version == 6 else rule.protocol
    if protocol not in ("", flow.protocol):
        return False
    if rule.low is None:
        return True
    if flow.packet.port:
        port = CLIENT if flow.reply else flow.packet.port
        return rule.low <= port <= (rule.low if rule.high is None else rule.high)
    return rule.low == _ECHO[flow.version][2 if flow.reply else 1] and rule.high in (None, 0)


def _meets(rule: Rule, peer: CloudPort | None, peer_ip: str) -> bool:
    """True if a rule is for this peer."""
    if rule.group:
        return peer is not None and rule.group in peer.groups and peer_ip in peer.addresses
    return rule.prefixes is None or any(_within(peer_ip, prefix) for prefix in rule.prefixes)


def _within(address: str, prefix: str) -> bool:
    return ip_address(address) in ip_network(prefix, strict=False)


def _description(cloud: Cloud, rule: Rule) -> str:
    """Describe a rule: ``IPv4, tcp/80-90, members of default``."""
    ports = "" if rule.low is None else f"/{rule.low}"
    ports += f"-{rule.high}" if rule.high not in (None, rule.low) and rule.protocol in ("tcp", "udp") else ""
    group = cloud.groups.get(rule.group)
    if rule.group:
        whom = f"members of {group.name if group else rule.group}"
    else:
        whom = "all addresses" if rule.prefixes is None else ", ".join(rule.prefixes) or "no address"
    return f"IPv{rule.version}, {rule.protocol or 'anything'}{ports}, {whom}"


def _names(groups: Sequence[Group]) -> str:
    return ", ".join(group.name for group in groups)


def _in_or_out(direction: str) -> str:
    return "in" if direction == _IN else "out"


def routers_between(
    cloud: Cloud, source: Iterable[EndpointView], target: Iterable[EndpointView]
) -> tuple[str, ...]:
    """Return the UUIDs of Neutron's routers that are connected to networks of both."""
    routers = [
        {
            router
            for end in ends
            if end.switch in cloud.networks
            for router in cloud.networks[end.switch].routers
        }
        for ends in (source, target)
    ]
    return tuple(sorted(routers[0] & routers[1]))
