"""The way of a packet between containers in virtual machines of a cloud, as Neutron decides it. Pure.

What OVN on the hypervisors does follows from what Neutron has: the trunk's VLANs, ports, port security,
security groups ("Networking API v2.0"; neutron/plugins/ml2/drivers/ovn has what becomes of them). Of a
virtual machine's bridge and links only that machine itself knows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from ovn_docker.view.cloud import Cloud, CloudPort, Group, Rule, VirtualMachine
from ovn_docker.view.cluster import Cluster, Endpoint
from ovn_docker.view.trace import (
    CLIENT,
    Hop,
    Packet,
    Physical,
    Way,
    addresses,
    at_container,
    at_port,
    up_to_drop,
)

_ECHO = {4: ("icmp", 8, 0), 6: ("icmpv6", 128, 129)}
"""By IP version: the protocol as rules name it, types of request and reply (RFC 792, RFC 4443)."""

_OUT, _IN = "egress", "ingress"


@dataclass(frozen=True, slots=True)
class Flow:
    """A packet from *source* to *target*, whose ports in Neutron are *out* and *into*, if they have any."""

    packet: Packet
    source: Endpoint
    target: Endpoint
    out: CloudPort | None
    into: CloudPort | None
    reply: bool

    @property
    def addresses(self) -> tuple[str, str]:
        """From which address, to which. Raises NotFound if they have none of one IP version."""
        return addresses(self.source, self.target)

    @property
    def version(self) -> int:
        """Of IP."""
        return ip_address(self.addresses[0]).version

    @property
    def protocol(self) -> str:
        """As rules name it."""
        return self.packet.protocol if self.packet.port else _ECHO[self.version][0]


def way(
    cluster: Cluster,
    source: Endpoint,
    target: Endpoint,
    packet: Packet,
    physical: Physical | None = None,
    *,
    reply: bool = False,
) -> Way:
    """One direction, up to the hop that drops; *physical*: what the bridge of this VM does with it."""
    cloud = cluster.snapshot.cloud or Cloud("")
    ports = {port.endpoint: port for port in cloud.ports}
    flow = Flow(packet, source, target, ports.get(source.id), ports.get(target.id), reply)
    hops = up_to_drop(_hops(cluster, cloud, flow, physical))
    return Way(source.container, target.container, packet.label(reply=reply), hops)


def _hops(cluster: Cluster, cloud: Cloud, flow: Flow, physical: Physical | None) -> Iterator[Hop]:
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


def _behind(cluster: Cluster, cloud: Cloud, end: Endpoint, port: CloudPort | None) -> Iterator[Hop]:
    """The virtual machine of a container, and the VLAN between them."""
    if port is None:
        yield Hop("Neutron", f"{end.container} has no port in Neutron", passes=False)
        return
    machine = cloud.machines.get(port.vm)
    if machine is not None:
        yield from _machine(end, machine)
    interface = cluster.interfaces.get(end.id)
    trunk = f"trunk {machine.trunk}" if machine and machine.trunk else f"port {port.vm}"
    if port.vlan is None:
        what = f"the port of {end.container} is no subport of the trunk of {end.host}"
        yield Hop("trunk", what, passes=False, by=f"port {port.id}, {trunk}")
    elif interface is not None and interface.tag != port.vlan:
        tag = f"VLAN {interface.tag}" if interface.tag else "no VLAN"
        what = f"{end.container} has {tag} on {interface.bridge}, and its subport has VLAN {port.vlan}"
        yield Hop("trunk", what, passes=False, by=f"port {interface.name}, {trunk}")
    else:
        how = "of the trunk" if port.subport else "by its profile"
        yield Hop("trunk", f"VLAN {port.vlan} {how} of {end.host} is {end.container}'s")


def _machine(end: Endpoint, machine: VirtualMachine) -> Iterator[Hop]:
    """Whether the VM runs. Its own port's admin_state_up is for what the VM itself sends and gets."""
    if machine.enabled and machine.status != "ACTIVE":
        what = f"Neutron calls the port of the VM {end.host} {machine.status}: does the VM run?"
        yield Hop("Neutron", what, passes=False, by=f"port {machine.vif}")


def _port(end: Endpoint, port: CloudPort) -> Hop:
    by = f"port {port.id}"
    if not port.enabled:
        what = f"the port of {end.container} is switched off (admin_state_up is false)"
        return Hop("Neutron", what, passes=False, by=by)
    if port.subport and port.status != "ACTIVE":
        return Hop("Neutron", f"the port of {end.container} is {port.status}: its flows are not in where the "
                   "VM runs", passes=False, by=by)  # fmt: skip
    return Hop("Neutron", f"port {port.id} of {end.container} is {port.status if port.subport else 'there'}")


def _secured(end: Endpoint, port: CloudPort, address: str) -> Hop:
    """Port security: a port sends from, and gets for, its own addresses and the pairs allowed besides."""
    if not port.secured:
        return Hop("port security", f"is off for {end.container}")
    mac = end.mac.lower() or port.mac
    own = [(port.mac, ip) for ip in port.addresses]
    allowed = [*own, *port.pairs]
    if any(mac == one.lower() and _within(address, ip) for one, ip in allowed):
        return Hop("port security", f"lets {mac} {address} of {end.container} pass")
    listed = ", ".join(f"{one} {ip}" for one, ip in allowed) or f"{port.mac} without an address"
    return Hop("port security", f"allows {listed}, and {end.container} has {mac} {address}",
               passes=False, by=f"port {port.id}")  # fmt: skip


def _grouped(cloud: Cloud, flow: Flow, direction: str) -> Hop:
    """The security groups of the source, for what leaves it, or of the target, for what comes."""
    here, there = (flow.source, flow.target) if direction == _OUT else (flow.target, flow.source)
    port, peer = (flow.out, flow.into) if direction == _OUT else (flow.into, flow.out)
    place = "security groups" if port and len(port.groups) > 1 else "security group"
    if port is None or not port.secured:
        return Hop(place, f"none for {here.container}")
    groups = [cloud.groups[id_] for id_ in port.groups if id_ in cloud.groups]
    if len(groups) < len(port.groups):
        return Hop(place, f"{here.container} is in one that this project may not see")
    if flow.reply and any(group.stateful for group in groups):
        return Hop(place, f"{_names(groups)}: the answer to what was let pass, passes")
    peer_ip = flow.addresses[1 if direction == _OUT else 0]
    for group in groups:
        for rule in group.rules:
            if _matches(rule, flow, direction) and _meets(rule, peer, peer_ip):
                return Hop(
                    place, f"{group.name}: rule {rule.id} lets it {_way(direction)} ({_said(cloud, rule)})"
                )
    if not groups:
        what = f"{here.container} is in none, so nothing goes {_way(direction)}"
        return Hop("security group", what, passes=False, by=f"port {port.id}")
    near = [rule for group in groups for rule in group.rules if _matches(rule, flow, direction)]
    whom = f"{'from' if direction == _IN else 'to'} {there.container}"
    what = f"no rule lets {flow.packet} {_way(direction)} {whom}"
    if near:
        what += f"; rule {near[0].id} is for {_said(cloud, near[0])}"
    return Hop(place, what, passes=False, by=", ".join(f"security group {g.name} ({g.id})" for g in groups))


def _matches(rule: Rule, flow: Flow, direction: str) -> bool:
    """Whether it is about such packets, whoever they are from or for."""
    if rule.direction != direction or rule.version != flow.version:
        return False
    # Neutron takes `icmp` for IPv6 too.
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
    """Whether it is about this peer."""
    if rule.group:
        return peer is not None and rule.group in peer.groups and peer_ip in peer.addresses
    return rule.prefixes is None or any(_within(peer_ip, prefix) for prefix in rule.prefixes)


def _within(address: str, prefix: str) -> bool:
    return ip_address(address) in ip_network(prefix, strict=False)


def _said(cloud: Cloud, rule: Rule) -> str:
    """A rule in words: ``IPv4, tcp/80-90, members of default``."""
    ports = "" if rule.low is None else f"/{rule.low}"
    ports += f"-{rule.high}" if rule.high not in (None, rule.low) and rule.protocol in ("tcp", "udp") else ""
    group = cloud.groups.get(rule.group)
    if rule.group:
        whom = f"members of {group.name if group else rule.group}"
    else:
        whom = "everybody" if rule.prefixes is None else ", ".join(rule.prefixes) or "nobody"
    return f"IPv{rule.version}, {rule.protocol or 'anything'}{ports}, {whom}"


def _names(groups: Sequence[Group]) -> str:
    return ", ".join(group.name for group in groups)


def _way(direction: str) -> str:
    return "in" if direction == _IN else "out"


def routers_between(cloud: Cloud, source: Iterable[Endpoint], target: Iterable[Endpoint]) -> tuple[str, ...]:
    """Neutron's routers that both containers' networks are on."""
    ways = [
        {
            router
            for end in ends
            if end.switch in cloud.networks
            for router in cloud.networks[end.switch].routers
        }
        for ends in (source, target)
    ]
    return tuple(sorted(ways[0] & ways[1]))
