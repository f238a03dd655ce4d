"""The path of a packet from one container to another, hop by hop. Pure.

ovn-trace(8) prints what OVN decides, ``ofproto/trace`` (ovs-vswitchd(8)) what Open vSwitch does. This module
writes their arguments, reads their output, and adds what the snapshot has of both ends.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from ovn_docker.errors import BadRequest, NotFound
from ovn_docker.host.daemons import VSWITCHD
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.snapshot import ip_version
from ovn_docker.inspect.views import EndpointView
from ovn_docker.model import EndpointId, host_link, whole_number

CLIENT = 40000
"""Source port of the traced packet."""

_ECHO = {4: ("icmp4", 8, 0), 6: ("icmp6", 128, 129)}
"""IP version to the protocol of echoes, and the types of request and reply (RFC 792, RFC 4443)."""

_TABLE = re.compile(r"\s*\d+\. (\w+)(?: \([^)]*\))?: (.*?)(?:, priority (\d+), uuid ([0-9a-f]+))?$")
_PAUSED = re.compile(r"^ +controller\(.*\bpause\)$", re.MULTILINE)
_OPENFLOW = re.compile(r"\s*(\d+)\. (.*?)(?:, priority (\d+))?(?:, cookie 0x([0-9a-f]+))?$")


@dataclass(frozen=True, slots=True)
class Packet:
    """A kind of packet; *port*: of the server, 0 for ICMP."""

    protocol: str = "icmp"
    port: int = 0

    def __str__(self) -> str:
        return f"{self.protocol}/{self.port}" if self.port else self.protocol

    def label(self, *, reply: bool) -> str:
        """Return the packet, or its answer, for the output."""
        return f"{self}, the answer" if reply else str(self)


@dataclass(frozen=True, slots=True)
class Logical:
    """The result of ovn-trace. *stage*, *flow* (start of its UUID), *match*: of the flow that drops."""

    delivered: bool
    stage: str = ""
    flow: str = ""
    match: str = ""


@dataclass(frozen=True, slots=True)
class Physical:
    """The result of ofproto/trace. *table*, *cookie* and *why*: of the OpenFlow flow that drops."""

    dropped: bool
    table: int = 0
    cookie: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Hop:
    """A step of the path: *what* happens, if the packet *passes*, and *by* which object it is stopped."""

    place: str
    what: str
    passes: bool = True
    by: str = ""


@dataclass(frozen=True, slots=True)
class PacketPath:
    """The hops of one direction; if the packet is dropped, the last hop drops it.

    *end*: where the path ends, if it does not end at a container.
    """

    source: str
    target: str
    packet: str
    hops: tuple[Hop, ...]
    end: str = ""

    @property
    def delivered(self) -> bool:
        """True if the packet arrives, as far as this host can see."""
        return all(hop.passes for hop in self.hops)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        last = self.hops[-1]
        if self.delivered:
            return self.end or f"delivered to {self.target}"
        by = f", by {last.by}" if last.by else ""
        return f"dropped at {last.place}{by}: {last.what}"


def packet(text: str) -> Packet:
    """Parse ``tcp/5432``, ``udp/53`` or ``icmp``. Raises BadRequest."""
    protocol, slash, port = text.partition("/")
    if protocol == "icmp" and not slash:
        return Packet()
    number = whole_number(port)
    if protocol in ("tcp", "udp") and number is not None and 1 <= number <= 65535:
        return Packet(protocol, number)
    raise BadRequest(f"invalid packet {text!r}: give icmp, tcp/PORT or udp/PORT, such as tcp/5432")


def on_one_network(
    one: tuple[EndpointView, ...], other: tuple[EndpointView, ...], network: str = ""
) -> tuple[EndpointView, EndpointView] | None:
    """Return the endpoints of two containers on a network that both are on; ``None`` without such a network.

    Raises NotFound if *network* is given and not both are on it, BadRequest if both are the same container,
    or if one of them is ambiguous (an address is unique only on its network).
    """
    for ends in (one, other):
        if len(names := sorted({end.container for end in ends})) > 1:
            raise BadRequest(f"ambiguous container: {' or '.join(names)}; name one of them")
    if {end.id for end in one} & {end.id for end in other}:
        raise BadRequest(f"source and target are the same container {one[0].container}: name another target")
    pairs = [(a, b) for a in one for b in other if a.switch and a.switch == b.switch and a.id != b.id]
    if network:
        pairs = [(a, b) for a, b in pairs if network in (a.network, b.network)]
        if not pairs:
            raise NotFound(f"the two containers are not both on network {network}")
    return next(iter(pairs), None)


def addresses(source: EndpointView, target: EndpointView) -> tuple[str, str]:
    """Return an address of each, of the same IP version. Raises NotFound."""
    for version in (4, 6):
        pair = [[a for a in e.addresses if ip_version(a) == version] for e in (source, target)]
        if pair[0] and pair[1]:
            return pair[0][0], pair[1][0]
    raise NotFound(f"{source.container} and {target.container} have no addresses of the same IP version")


def microflow(packet: Packet, source: EndpointView, target: EndpointView, *, reply: bool) -> str:
    """Return the packet for ovn-trace(8), in OVN's expression language (ovn-sb(5))."""
    from_ip, to_ip = addresses(source, target)
    version = ip_address(to_ip).version
    parts = [
        f'inport == "{source.id}"',
        f"eth.src == {source.mac}",
        f"eth.dst == {target.mac}",
        f"ip{version}.src == {from_ip}",
        f"ip{version}.dst == {to_ip}",
        "ip.ttl == 64",
    ]
    if packet.port:
        client, server = ("dst", "src") if reply else ("src", "dst")
        parts += [f"{packet.protocol}.{client} == {CLIENT}", f"{packet.protocol}.{server} == {packet.port}"]
    else:
        protocol, request, answer = _ECHO[version]
        parts += [f"{protocol}.type == {answer if reply else request}", f"{protocol}.code == 0"]
    return " && ".join(parts)


def openflow(packet: Packet, source: EndpointView, target: EndpointView, *, reply: bool) -> str:
    """Return the packet for ``ofproto/trace`` (ovs-fields(7))."""
    from_ip, to_ip = addresses(source, target)
    version = ip_address(to_ip).version
    name = {
        4: {"tcp": "tcp", "udp": "udp", "icmp": "icmp"},
        6: {"tcp": "tcp6", "udp": "udp6", "icmp": "icmp6"},
    }
    ip = {4: ("nw_src", "nw_dst"), 6: ("ipv6_src", "ipv6_dst")}[version]
    parts = [
        f"in_port={host_link(EndpointId(source.id))}",
        name[version][packet.protocol],
        f"dl_src={source.mac}",
        f"dl_dst={target.mac}",
        f"{ip[0]}={from_ip}",
        f"{ip[1]}={to_ip}",
        "nw_ttl=64",
    ]
    if packet.port:
        client, server = ("dst", "src") if reply else ("src", "dst")  # tp_src and tp_dst mean TCP only
        parts += [f"{packet.protocol}_{client}={CLIENT}", f"{packet.protocol}_{server}={packet.port}"]
    else:
        _, request, answer = _ECHO[version]
        kind = answer if reply else request
        parts += [f"icmp_type={kind}", "icmp_code=0"] if version == 4 else [f"icmpv6_type={kind}"]
    return ",".join(parts)


def read_logical(text: str, port: str) -> Logical:
    """Read the output of ``ovn-trace --detailed``; *port*: the logical port of the target.

    From OVN 23.09 on one stage evaluates access rules, and a later one drops what they forbid: the flow of
    the first is returned, which names the rule (ovn-northd(8), "ls_in_acl_eval", "ls_in_acl_action").
    """
    if f'/* output to "{port}"' in text:
        return Logical(delivered=True)
    last, stages = Logical(delivered=False), dict[str, Logical]()
    for line in text.splitlines():
        if found := _TABLE.match(line):
            stage, match, _, flow = found.groups()
            stages[stage] = last = Logical(False, stage, flow or "", match)
        elif line.strip().rstrip(";") in ("drop", "reject") or line.strip().startswith("reject"):
            break
    return stages.get(last.stage.replace("action", "eval"), last)


def read_physical(text: str) -> Physical:
    """Read the output of ofproto/trace. Of several drops in the output the last one drops the packet.

    Where Open vSwitch hands a possible DNS query to ovn-controller (ovs-actions(7), "pause"), the trace ends,
    but the packet does not. In user space an idle tunnel first resolves the other host's MAC, which a trace
    does not do.
    """
    if _PAUSED.search(text) or "neighbor cache miss" in text:
        return Physical(dropped=False)
    actions = re.findall(r"^Datapath actions: (.*)$", text, re.MULTILINE)
    if actions and any(
        action != "drop" and not re.fullmatch(r"ct\(.*\),recirc\(\w+\)", action) for action in actions
    ):
        return Physical(dropped=False)
    last = Physical(dropped=True)
    for line in text.splitlines():
        if found := _OPENFLOW.match(line):
            table, match, _, cookie = found.groups()
            last = Physical(True, int(table), cookie or "", match)
        elif " -> " in line and ("fail" in line or "no route" in line):
            last = Physical(True, last.table, last.cookie, line.strip().removeprefix("-> "))
    return last


def follow(
    cluster: ClusterView,
    source: EndpointView,
    target: EndpointView,
    packet: str,
    logical: Logical | None,
    physical: Physical | None,
    owner: str = "",
) -> PacketPath:
    """Return the path of one direction, up to the hop that drops. *owner*: the row of OVN behind its flow."""
    hops = _hops(cluster, source, target, logical, physical, owner)
    return PacketPath(source.container, target.container, packet, up_to_drop(hops))


def up_to_drop(hops: Iterable[Hop]) -> tuple[Hop, ...]:
    """Return the hops up to the first that drops the packet."""
    passed: list[Hop] = []
    for hop in hops:
        passed.append(hop)
        if not hop.passes:
            break
    return tuple(passed)


def _hops(
    cluster: ClusterView,
    source: EndpointView,
    target: EndpointView,
    logical: Logical | None,
    physical: Physical | None,
    owner: str,
) -> Iterator[Hop]:
    yield from at_container(cluster, source)
    yield from at_port(cluster, source)
    yield from security(cluster, source)
    yield _switch(source, target, logical, owner)
    yield _claimed(cluster, target)
    if physical is not None and physical.dropped:
        cookie = f"flow with cookie 0x{physical.cookie} in table {physical.table}" if physical.cookie else ""
        yield Hop(source.host, f"Open vSwitch drops it ({physical.why})", passes=False, by=cookie)
    if source.chassis != target.chassis:
        yield _tunnel(cluster, source, target)
    yield from at_port(cluster, target)
    yield from at_container(cluster, target)


def at_container(cluster: ClusterView, end: EndpointView) -> Iterator[Hop]:
    """Yield the hop at a container of this host and its link."""
    if not end.here:
        return
    name = host_link(EndpointId(end.id))
    link = cluster.links.get(name)
    if end.state and end.state != "running":
        yield Hop(end.container, f"the container is {end.state}", passes=False)
    elif link is None:
        yield Hop(end.container, f"its link {name} is gone", passes=False, by=f"link {name}")
    elif not link.up:
        yield Hop(end.container, f"its link {name} is down", passes=False, by=f"link {name}")
    elif not link.carrier:
        yield Hop(end.container, "its interface is down", passes=False, by=f"other end of link {name}")
    else:
        yield Hop(end.container, f"its link {name} is up, MTU {link.mtu}")


def at_port(cluster: ClusterView, end: EndpointView) -> Iterator[Hop]:
    """Yield the hop at the port in Open vSwitch of a container of this host."""
    interface = cluster.interfaces.get(end.id)
    if not end.here:
        return
    if cluster.snapshot.daemons and cluster.snapshot.daemon(VSWITCHD).pid is None:
        what = "ovs-vswitchd does not run, so no packet is switched here: `ovn-docker host start`"
        yield Hop(end.host, what, passes=False)
    elif interface is None:
        yield Hop(end.host, f"{end.container} has no port in Open vSwitch", passes=False)
    elif interface.error or interface.ofport in (None, -1):
        why = interface.error or "ovs-vswitchd has not assigned it a number"
        yield Hop(
            end.host, f"port {interface.name} does not work: {why}", passes=False, by=f"port {interface.name}"
        )
    elif cluster.snapshot.underlay:
        tag = f"VLAN {interface.tag}" if interface.tag else "without a VLAN"
        yield Hop(end.host, f"port {interface.ofport} ({interface.name}) of {interface.bridge}, {tag}")
    elif not interface.installed:
        yield Hop(end.host, f"the flows of port {interface.name} are not installed", passes=False,
                  by="ovn-controller")  # fmt: skip
    else:
        yield Hop(
            end.host, f"port {interface.ofport} ({interface.name}) of {interface.bridge}, flows installed"
        )


def security(cluster: ClusterView, source: EndpointView) -> Iterator[Hop]:
    """Yield the hop at OVN's port security of the source (ovn-nb(5)), which ovn-trace does not check."""
    port = cluster.ports.get(source.id)
    if port is None:
        if cluster.snapshot.northbound:
            yield Hop("OVN", f"{source.container} has no logical port", passes=False)
        return
    if not port.enabled:
        yield Hop("OVN", f"the port of {source.container} is disabled", passes=False,
                  by=f"Logical_Switch_Port {port.name}")  # fmt: skip
        return
    sent = [word for word in (source.mac, *source.addresses) if word]
    if not port.permits(source.mac, *source.addresses):
        allowed = ", ".join(port.port_security)
        yield Hop("OVN", f"port security allows {allowed}, but {source.container} has {' '.join(sent)}",
                  passes=False, by=f"port_security of Logical_Switch_Port {port.name}")  # fmt: skip
        return
    if port.port_security:
        yield Hop("OVN", f"port security lets {' '.join(sent)} pass")
    else:
        yield Hop("OVN", f"port security of {source.container} is off")


def _switch(source: EndpointView, target: EndpointView, logical: Logical | None, owner: str) -> Hop:
    place = f"network {source.network}"
    if logical is None:
        return Hop(place, "ovn-trace could not be run: what the logical switch does is unknown")
    if logical.delivered:
        return Hop(place, f"the logical switch sends it to {target.container}'s port")
    by = owner or f"logical flow {logical.flow} ({logical.stage}: {logical.match})"
    words = {
        "acl": "an access rule forbids it",
        "port_sec": "port security forbids it",
        "l2_lkup": f"the port of {target.container} is disabled, or has another MAC",
    }
    what = next(
        (text for part, text in words.items() if part in logical.stage), "the logical switch drops it"
    )
    return Hop(place, what, passes=False, by=by)


def _claimed(cluster: ClusterView, target: EndpointView) -> Hop:
    port = cluster.ports.get(target.id)
    by = f"Logical_Switch_Port {port.name}" if port else ""
    if port and not port.enabled:
        return Hop("OVN", f"the port of {target.container} is disabled", passes=False, by=by)
    if not target.chassis:
        return Hop("OVN", f"no host has claimed the port of {target.container}", passes=False, by=by)
    if target.up is False:
        return Hop("OVN", f"the port of {target.container} is down on {target.chassis}", passes=False, by=by)
    return Hop("OVN", f"{target.container} is on {target.chassis}")


def _tunnel(cluster: ClusterView, source: EndpointView, target: EndpointView) -> Hop:
    """Return the hop at the tunnel between two hosts, one of which is usually this one."""
    far = target.chassis if source.here else source.chassis
    if not (source.here or target.here):
        return Hop("tunnel", f"{source.chassis} to {target.chassis}, whose state is unknown on this host")
    for tunnel in cluster.tunnels:
        if tunnel.host == far:
            one, other = (
                f"{name} ({tunnel.remote_ip})" if name == far else name
                for name in (source.chassis, target.chassis)
            )
            what = f"{tunnel.type or 'tunnel'} from {one} to {other}"
            up = tunnel.state == "up"
            return Hop(
                "tunnel", f"{what} is {tunnel.state}", passes=up, by="" if up else f"port {tunnel.port}"
            )
    return Hop("tunnel", f"there is no tunnel from {source.chassis} to {target.chassis}", passes=False)
