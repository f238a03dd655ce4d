"""Paths outside OVN: out of the host, in from outside, and to addresses that no container was given.

The kernel decides there, by the routes of container and host and by the rules that Docker has made.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.errors import BadRequest, NotFound, OvnDockerError
from ovn_docker.host.barrier import listeners
from ovn_docker.host.kernel.links import Held
from ovn_docker.host.kernel.ping import Echo, answered, connects, in_namespace
from ovn_docker.host.run import StepFailed, run
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.probes import held
from ovn_docker.inspect.snapshot import PortRow
from ovn_docker.inspect.views import EndpointView
from ovn_docker.model import NAMESERVERS, IpAddress
from ovn_docker.text.printable import printable
from ovn_docker.trace import iptables, packet_path
from ovn_docker.trace.packet_path import Hop, Packet, PacketPath

OUTSIDE = "outside"
"""Name of the source that stands for another machine, which connects to a published port."""

_ANY = ("", "0.0.0.0", "::")  # noqa: S104 - how Docker writes that a port is published at all addresses


@dataclass(frozen=True, slots=True)
class Inside:
    """A running container of this host: its first process, and the real addresses of its endpoints."""

    pid: int
    name: str
    networks: tuple[str, ...]
    held: tuple[tuple[EndpointView, Held], ...]

    def run(self, *argv: str) -> str:
        """Return the output of a command in the container's network namespace. Raises OvnDockerError."""
        return run(("nsenter", f"--net=/proc/{self.pid}/ns/net", *argv))


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A route of the kernel: by *link*, to the router *via* (or empty), from the address *source*."""

    link: str
    via: str
    source: str


@dataclass(frozen=True, slots=True)
class Published:
    """A published *port* of this host at the address *ip*; *inside*: the container's port behind it."""

    container: str
    name: str
    ip: str
    port: int
    inside: int

    def serves(self, at: IpAddress | None) -> bool:
        """True if the port is published at an address; ``None`` stands for any address."""
        return at is None or self.ip in (*_ANY, str(at))


def address(text: str) -> IpAddress | None:
    """Parse an address; return None for other text."""
    try:
        return ip_address(text) if "%" not in text else None
    except ValueError:
        return None


def inside(sources: Sources, cluster: ClusterView, ends: Iterable[EndpointView]) -> Inside | None:
    """Return the container with these endpoints, if it runs on this host."""
    here = [end for end in ends if end.id in cluster.docker]
    if not here:
        return None
    docker = cluster.docker[here[0].id]
    try:
        pid = int(sources.docker.read(f"/containers/{docker.container}/json")["State"]["Pid"])
    except (OvnDockerError, KeyError, TypeError, ValueError):
        return None
    if not pid:
        return None
    networks = tuple(cluster.docker[end.id].network for end in here)
    found = held({end.id: pid for end in here})
    return Inside(
        pid, docker.name, networks, tuple((end, has) for end in here for has in found.get(end.id, ()))
    )


def with_real_addresses(sources: Sources, cluster: ClusterView, end: EndpointView) -> EndpointView:
    """Return an endpoint with the MAC and addresses that its interface has, if the container is on this host.

    If it still has addresses that Docker gave it, only these, because it sends from them.
    """
    container = inside(sources, cluster, (end,))
    if container is None or not container.held:
        return end
    _, has = container.held[0]
    own = tuple(address for address in end.addresses if address in has.addresses)
    usable = tuple(a for a in has.addresses if not ip_address(a).is_link_local)
    return replace(end, mac=has.mac or end.mac, addresses=own or usable or end.addresses)


def holder(
    sources: Sources, cluster: ClusterView, wanted: IpAddress, switches: set[str]
) -> EndpointView | None:
    """Return the endpoint of this host, on one of these switches, that has taken an address.

    The endpoint has only that address, and the MAC of the interface with it.
    """
    for end in cluster.endpoints:
        if end.switch in switches and end.here and (container := inside(sources, cluster, (end,))):
            for _, has in container.held:
                if str(wanted) in has.addresses:
                    return replace(end, mac=has.mac, addresses=(str(wanted),))
    return None


def to_taken(
    cluster: ClusterView, source: EndpointView, target: EndpointView, packet: Packet
) -> PacketPath | None:
    """Return the path to an address that a container has taken, if port security forbids it; else None."""
    port = cluster.ports.get(target.id)
    if port is None or port.permits(target.mac, *target.addresses):
        return None
    (wanted,) = target.addresses
    what = (
        f"{target.container} has {wanted} with MAC {target.mac}, and its port security allows "
        f"{', '.join(port.port_security)}: start it with driver-opt=ovn.allowed-addresses={wanted}"
    )
    hops = packet_path.up_to_drop(
        (
            *packet_path.at_container(cluster, source),
            *packet_path.at_port(cluster, source),
            *packet_path.security(cluster, source),
            Hop("OVN", what, passes=False, by=f"port_security of Logical_Switch_Port {port.name}"),
        )
    )
    return PacketPath(source.container, wanted, str(packet), hops)


def to_address(
    sources: Sources,
    cluster: ClusterView,
    source: tuple[EndpointView, ...],
    target: IpAddress,
    packet: Packet,
    *,
    probe: bool,
) -> PacketPath:
    """Return the path from a container of this host to an address that no container was given.

    Raises NotFound if the container is on another host.
    """
    container = inside(sources, cluster, source)
    if container is None:
        raise NotFound(
            f"unknown container or address {target}; the route of {source[0].container} to it is known only "
            f"on {source[0].host}: run this there"
        )
    hops = packet_path.up_to_drop(_outwards(sources, cluster, container, target, packet, probe=probe))
    return PacketPath(container.name, str(target), str(packet), hops, hops[-1].what)


def _outwards(
    sources: Sources,
    cluster: ClusterView,
    container: Inside,
    target: IpAddress,
    packet: Packet,
    *,
    probe: bool,
) -> Iterator[Hop]:
    try:
        route = _route(container.run("ip", "-json", "route", "get", str(target)))
    except (StepFailed, ValueError):
        why = ": its networks are --internal" if _are_internal(sources, container) else ""
        yield Hop(container.name, f"it has no route to {target}{why}", passes=False)
        return
    own = next((end for end, has in container.held if has.link == route.link), None)
    if own is not None and not route.via:
        yield from _on_network(cluster, container, own, route, target, packet, probe=probe)
        return
    to = f" to {route.via}" if route.via else ""
    yield Hop(
        container.name,
        f"{target} is not on its networks: it leaves by {route.link}{to}, from {route.source}",
    )
    yield from _through_host(cluster, route, target)
    if probe and (reached := _answers(container, target, packet)) is not None:
        yield _probe_hop(target, packet, reached=reached)


def _are_internal(sources: Sources, container: Inside) -> bool:
    try:
        return all(sources.docker.read(f"/networks/{one}").get("Internal") for one in container.networks)
    except OvnDockerError:
        return False


# To an address on a network of the container


def _on_network(
    cluster: ClusterView,
    container: Inside,
    own: EndpointView,
    route: KernelRoute,
    target: IpAddress,
    packet: Packet,
    *,
    probe: bool,
) -> Iterator[Hop]:
    yield from packet_path.at_container(cluster, own)
    yield from packet_path.at_port(cluster, own)
    yield from packet_path.security(cluster, own)
    switch = cluster.switches.get(own.switch)
    ids = switch.ids if switch else {}
    if target in NAMESERVERS or str(target) in (ids.get("gateway_ip"), ids.get("gateway_ip6")):
        what = "OVN's name server" if target in NAMESERVERS else "the network's gateway"
        owner = f"{target} is the address of {what}, not of a container"
    else:
        may = sorted(_named(cluster, port) for port in _allowed_to(cluster, own.switch, target))
        owner = f"no port has {target}" + (f"; it is allowed to {', '.join(may[:4])}" if may else "")
    yield Hop(f"network {own.network}", owner)
    if not probe:
        return
    reached = _answers(container, target, packet)
    mac = _neighbour(container, target, route.link)
    asks = "ARP" if target.version == 4 else "neighbour discovery"
    if not mac:
        yield Hop("probe", f"{asks} for {target} is not answered", passes=False)
        return
    owners = [_named(cluster, port) for port in cluster.ports.values() if mac in " ".join(port.addresses)]
    yield Hop("probe", f"{asks} for {target} is answered by {mac}{f', {owners[0]}' if owners else ''}")
    if reached is not None:
        yield _probe_hop(target, packet, reached=reached)


def _named(cluster: ClusterView, port: PortRow) -> str:
    end = next((end for end in cluster.endpoints if end.id == port.endpoint), None)
    return f"{end.container} on {end.host}" if end else f"port {port.name[:12]}"


def _allowed_to(cluster: ClusterView, switch: str, target: IpAddress) -> list[PortRow]:
    """Return the ports of a switch whose port security allows an address by name."""
    found = []
    for port in cluster.ports.values():
        macs = {rule.split()[0] for rule in port.port_security if len(rule.split()) > 1}
        if port.switch == switch and any(port.permits(mac, str(target)) for mac in macs):
            found.append(port)
    return found


def _neighbour(container: Inside, target: IpAddress, link: str) -> str:
    """Return the MAC that the container's kernel has resolved for an address; empty without an answer."""
    try:
        found = json.loads(
            container.run("ip", "-json", "neighbour", "show", "to", str(target), "dev", link) or "[]"
        )
    except (OvnDockerError, ValueError):
        return ""
    return next((one["lladdr"] for one in found if one.get("lladdr") and "FAILED" not in one["state"]), "")


# Through the host


def _through_host(cluster: ClusterView, route: KernelRoute, target: IpAddress) -> Iterator[Hop]:
    """Yield the hops through this host of a packet that leaves a container by another interface."""
    host, links = cluster.snapshot.host, cluster.snapshot.links
    bridge = next((link.name for link in links if route.via and route.via in link.addresses), "")
    if not bridge:
        yield Hop(
            "network", f"{route.via or route.link} is not on this host: the path from there is unknown here"
        )
        return
    if any(str(target) in link.addresses for link in links):
        yield Hop(host, f"it comes in by {bridge}, and {target} is the host's own address")
        return
    setting = "net/ipv4/ip_forward" if target.version == 4 else "net/ipv6/conf/all/forwarding"
    if Path(f"/proc/sys/{setting}").read_text().strip() == "0":
        yield Hop(host, f"it comes in by {bridge}, but the host does not forward packets", passes=False,
                  by=f"sysctl {setting.replace('/', '.')}=0")  # fmt: skip
        return
    try:
        onwards = _route(
            run(("ip", "-json", "route", "get", str(target), "from", route.source, "iif", bridge))
        )
    except (StepFailed, ValueError):
        yield Hop(host, f"it comes in by {bridge}, but the host has no route to {target}", passes=False)
        return
    rule = iptables.masquerade(_saved(target.version), ip_address(route.source), target, onwards.link)
    if rule:
        what = f"it comes in by {bridge} and gets the address of {onwards.link} (masquerading)"
    else:
        what = (
            f"it comes in by {bridge}; no rule of iptables masquerades {route.source}, so answers come back "
            "only if there is a route to it"
        )
    yield Hop(host, what, by=rule)
    yield Hop(host, f"it leaves by {onwards.link}{f' to {onwards.via}' if onwards.via else ''}")


def _route(printed: str) -> KernelRoute:
    """Read the output of ``ip -json route get``. Raises ValueError."""
    found = json.loads(printed)
    if not (isinstance(found, list) and found and isinstance(found[0], dict)):
        raise ValueError(printed)
    return KernelRoute(*(str(printable(found[0].get(key) or "")) for key in ("dev", "gateway", "prefsrc")))


def _saved(version: int) -> str:
    """Return the rules of the table nat; empty if they cannot be read."""
    try:
        return run(("iptables-save" if version == 4 else "ip6tables-save", "-t", "nat"))
    except OvnDockerError:
        return ""


def _answers(container: Inside, target: IpAddress, packet: Packet) -> bool | None:
    """Return whether a real packet is answered; ``None`` if that cannot be found out, as for UDP.

    An echo request is sent in any case: it makes the kernel resolve the neighbour.
    """
    wanted, port = str(target), packet.port if packet.protocol == "tcp" else 0
    try:
        if port:
            return in_namespace(container.pid, lambda: connects(wanted, port))
        echoed = bool(in_namespace(container.pid, lambda: answered([Echo(wanted, 100)], wait=1.5)))
    except OSError:
        return None
    return None if packet.port else echoed


def _probe_hop(target: IpAddress | str, packet: Packet, *, reached: bool) -> Hop:
    what = f"a connection to port {packet.port}" if packet.port else "an echo request"
    if reached:
        return Hop("probe", f"{what} is answered by {target}")
    return Hop("probe", f"nothing seems to drop it, but {what} is not answered by {target}", passes=False)


# From outside to a published port


def from_outside(
    sources: Sources, cluster: ClusterView, target: str, packet: Packet, *, probe: bool
) -> PacketPath:
    """Return the path from another machine to a port of this host that a container publishes.

    *target*: a container, or an address of this host; the packet's port is the published one. Raises
    BadRequest, NotFound.
    """
    if not packet.port:
        raise BadRequest("only published ports are reached from outside: give one, such as tcp/8080")
    at = address(target)
    if at is not None and not any(target in link.addresses for link in cluster.snapshot.links):
        at = None
    wanted: set[str] = set()
    if at is None:
        ends = cluster.find(target)
        if not ends[0].here:
            raise NotFound(
                f"{ends[0].container} and its published ports are on {ends[0].host}: run this there"
            )
        wanted = {cluster.docker[end.id].container for end in ends if end.id in cluster.docker}
    ports = [one for one in _published(sources, packet.protocol) if one.container in wanted or at is not None]
    found = next((one for one in ports if one.port == packet.port and one.serves(at)), None)
    if found is None:
        there = sorted({f"{packet.protocol}/{one.port} for {one.inside} of {one.name}" for one in ports})
        raise NotFound(f"{target} does not publish {packet}; published ports: {', '.join(there) or 'none'}")
    hops = packet_path.up_to_drop(_inwards(sources, cluster, found, at, packet, probe=probe))
    return PacketPath(OUTSIDE, found.name, str(packet), hops, hops[-1].what)


def _published(sources: Sources, protocol: str) -> list[Published]:
    """Return the ports that containers of this host publish (Docker Engine API, ContainerList)."""
    return [
        Published(
            container["Id"],
            printable((container.get("Names") or [""])[0].lstrip("/")),
            port.get("IP") or "",
            int(port["PublicPort"]),
            int(port["PrivatePort"]),
        )
        for container in sources.docker.read("/containers/json")
        for port in container.get("Ports") or []
        if port.get("PublicPort") and port.get("Type") == protocol
    ]


def _inwards(
    sources: Sources,
    cluster: ClusterView,
    port: Published,
    at: IpAddress | None,
    packet: Packet,
    *,
    probe: bool,
) -> Iterator[Hop]:
    host = cluster.snapshot.host
    own = at or address("" if port.ip in _ANY else port.ip)
    yield Hop(host, f"it comes to {packet} of {own or 'any address of this host'}")
    rule, inner, number = iptables.published(
        _saved(own.version if own else 4), packet.protocol, port.port, own
    )
    if not rule:
        if packet.protocol == "tcp" and not any(listening == port.port for _, listening in listeners()):
            yield Hop(host, f"no rule of iptables sends it to {port.name}, and no docker-proxy listens",
                      passes=False)  # fmt: skip
        else:
            yield Hop(
                host, f"no rule of iptables sends it to {port.name}: docker-proxy takes it, if anything"
            )
        return
    yield Hop(host, f"its target becomes {inner}:{number} (DNAT)", by=rule)
    try:
        pid = int(sources.docker.read(f"/containers/{port.container}/json")["State"]["Pid"])
        links = json.loads(run(("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json", "address")))
    except (OvnDockerError, KeyError, TypeError, ValueError):
        return
    has = {one.get("local"): link.get("ifname") for link in links for one in link.get("addr_info") or []}
    if inner not in has:
        yield Hop(port.name, f"it does not have {inner}", passes=False)
        return
    try:
        out = _route(run(("ip", "-json", "route", "get", inner))).link
    except (OvnDockerError, ValueError):
        yield Hop(host, f"it has no route to {inner}", passes=False)
        return
    yield Hop(port.name, printable(f"{out} leads to its {has[inner]}"))
    if packet.protocol != "tcp":
        return
    listening = in_namespace(pid, listeners)
    if not any(port_ == number and str(on) in (*_ANY, inner) for on, port_ in listening):
        yield Hop(
            port.name, f"nothing in it listens at {inner}:{number}: the connection is refused", passes=False
        )
        return
    yield Hop(port.name, f"a process in it listens on port {number}")
    if probe:
        yield _probe_hop(inner, replace(packet, port=number), reached=connects(inner, number))
