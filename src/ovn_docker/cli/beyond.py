"""The ways of ``ovn-docker trace`` beyond OVN: out, in from outside, and to addresses of no container.

There the kernel decides, by the routes of container and host and by the rules that Docker has made.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.cli.steps import StepFailed, run
from ovn_docker.errors import BadRequest, NotFound, OvnDockerError
from ovn_docker.host.barrier import listeners
from ovn_docker.host.links import Held
from ovn_docker.host.ping import Echo, answered, connects, in_namespace
from ovn_docker.model import NAMESERVERS, IpAddress
from ovn_docker.printable import printable
from ovn_docker.view import iptables, trace
from ovn_docker.view.cluster import Cluster, Endpoint
from ovn_docker.view.gather import Sources
from ovn_docker.view.probes import held
from ovn_docker.view.snapshot import PortRow
from ovn_docker.view.trace import Hop, Packet, Way

OUTSIDE = "outside"
"""As the source: another machine, which connects to a published port."""

_ANY = ("", "0.0.0.0", "::")  # noqa: S104 - how Docker writes that a port is published at all addresses


@dataclass(frozen=True, slots=True)
class Inside:
    """A container of this host: its first process, and what its endpoints really have there."""

    pid: int
    name: str
    networks: tuple[str, ...]
    held: tuple[tuple[Endpoint, Held], ...]

    def run(self, *argv: str) -> str:
        """Output of a command in the container's network namespace. Raises OvnDockerError."""
        return run(("nsenter", f"--net=/proc/{self.pid}/ns/net", *argv))


@dataclass(frozen=True, slots=True)
class Route:
    """The kernel's choice: out by *link*, to the router *via* if there is one, from the address *source*."""

    link: str
    via: str
    source: str


@dataclass(frozen=True, slots=True)
class Published:
    """A *port* of this host at the address *ip* that leads to the port *inside* of a container."""

    container: str
    name: str
    ip: str
    port: int
    inside: int

    def serves(self, at: IpAddress | None) -> bool:
        """Whether it is published at an address, or at any."""
        return at is None or self.ip in (*_ANY, str(at))


def address(text: str) -> IpAddress | None:
    """The address in *text*, if it is one."""
    try:
        return ip_address(text) if "%" not in text else None
    except ValueError:
        return None


def inside(sources: Sources, cluster: Cluster, ends: Iterable[Endpoint]) -> Inside | None:
    """The container with these endpoints, if it runs on this host."""
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


def really(sources: Sources, cluster: Cluster, end: Endpoint) -> Endpoint:
    """An endpoint with the MAC and the addresses that its interface has, where that can be seen.

    Of several addresses those that Docker gave it, from which it sends.
    """
    container = inside(sources, cluster, (end,))
    if container is None or not container.held:
        return end
    _, has = container.held[0]
    own = tuple(address for address in end.addresses if address in has.addresses)
    usable = tuple(a for a in has.addresses if not ip_address(a).is_link_local)
    return replace(end, mac=has.mac or end.mac, addresses=own or usable or end.addresses)


def holder(sources: Sources, cluster: Cluster, wanted: IpAddress, switches: set[str]) -> Endpoint | None:
    """The endpoint of this host that has an address besides its own on one of these switches.

    With that address alone, and the MAC of the interface that has it.
    """
    for end in cluster.endpoints:
        if end.switch in switches and end.here and (container := inside(sources, cluster, (end,))):
            for _, has in container.held:
                if str(wanted) in has.addresses:
                    return replace(end, mac=has.mac, addresses=(str(wanted),))
    return None


def to_taken(cluster: Cluster, source: Endpoint, target: Endpoint, packet: Packet) -> Way | None:
    """The way to an address that a container has taken and port security forbids; else ``None``."""
    port = cluster.ports.get(target.id)
    if port is None or port.permits(target.mac, *target.addresses):
        return None
    (wanted,) = target.addresses
    what = (
        f"{target.container} has {wanted} with MAC {target.mac}, and its port security allows "
        f"{', '.join(port.port_security)}: start it with driver-opt=ovn.allowed-addresses={wanted}"
    )
    hops = trace.up_to_drop(
        (
            *trace.at_container(cluster, source),
            *trace.at_port(cluster, source),
            *trace.security(cluster, source),
            Hop("OVN", what, passes=False, by=f"port_security of Logical_Switch_Port {port.name}"),
        )
    )
    return Way(source.container, wanted, str(packet), hops)


def to_address(
    sources: Sources,
    cluster: Cluster,
    source: tuple[Endpoint, ...],
    target: IpAddress,
    packet: Packet,
    *,
    probe: bool,
) -> Way:
    """The way from a container to an address that no container was given. Raises NotFound off its host."""
    container = inside(sources, cluster, source)
    if container is None:
        raise NotFound(
            f"no container has the address {target}; what {source[0].container} does with it is known on "
            f"{source[0].host} alone: run this there"
        )
    hops = trace.up_to_drop(_outwards(sources, cluster, container, target, packet, probe=probe))
    return Way(container.name, str(target), str(packet), hops, hops[-1].what)


def _outwards(
    sources: Sources,
    cluster: Cluster,
    container: Inside,
    target: IpAddress,
    packet: Packet,
    *,
    probe: bool,
) -> Iterator[Hop]:
    try:
        way = _route(container.run("ip", "-json", "route", "get", str(target)))
    except (StepFailed, ValueError):
        why = ": its networks are --internal" if _are_internal(sources, container) else ""
        yield Hop(container.name, f"it has no route to {target}{why}", passes=False)
        return
    own = next((end for end, has in container.held if has.link == way.link), None)
    if own is not None and not way.via:
        yield from _on_network(cluster, container, own, way, target, packet, probe=probe)
        return
    to = f" to {way.via}" if way.via else ""
    yield Hop(
        container.name, f"{target} is on none of its networks: it goes by {way.link}{to}, from {way.source}"
    )
    yield from _through_host(cluster, way, target)
    if probe and (reached := _answers(container, target, packet)) is not None:
        yield _seen(target, packet, reached=reached)


def _are_internal(sources: Sources, container: Inside) -> bool:
    try:
        return all(sources.docker.read(f"/networks/{one}").get("Internal") for one in container.networks)
    except OvnDockerError:
        return False


# On a network of the container


def _on_network(
    cluster: Cluster,
    container: Inside,
    own: Endpoint,
    way: Route,
    target: IpAddress,
    packet: Packet,
    *,
    probe: bool,
) -> Iterator[Hop]:
    yield from trace.at_container(cluster, own)
    yield from trace.at_port(cluster, own)
    yield from trace.security(cluster, own)
    switch = cluster.switches.get(own.switch)
    ids = switch.ids if switch else {}
    if target in NAMESERVERS or str(target) in (ids.get("gateway_ip"), ids.get("gateway_ip6")):
        what = "where OVN answers to names" if target in NAMESERVERS else "the network's gateway"
        said = f"{target} is {what}, and no container's"
    else:
        may = sorted(_named(cluster, port) for port in _allowed_to(cluster, own.switch, target))
        said = f"no port has {target}" + (f"; it is allowed to {', '.join(may[:4])}" if may else "")
    yield Hop(f"network {own.network}", said)
    if not probe:
        return
    reached = _answers(container, target, packet)
    mac = _neighbour(container, target, way.link)
    asks = "ARP" if target.version == 4 else "neighbour discovery"
    if not mac:
        yield Hop("probe", f"nobody answers {asks} for {target}", passes=False)
        return
    who = [_named(cluster, port) for port in cluster.ports.values() if mac in " ".join(port.addresses)]
    yield Hop("probe", f"{asks} for {target} is answered by {mac}{f', {who[0]}' if who else ''}")
    if reached is not None:
        yield _seen(target, packet, reached=reached)


def _named(cluster: Cluster, port: PortRow) -> str:
    end = next((end for end in cluster.endpoints if end.id == port.endpoint), None)
    return f"{end.container} on {end.host}" if end else f"port {port.name[:12]}"


def _allowed_to(cluster: Cluster, switch: str, target: IpAddress) -> list[PortRow]:
    """Ports whose port security names an address that is not theirs."""
    found = []
    for port in cluster.ports.values():
        macs = {rule.split()[0] for rule in port.port_security if len(rule.split()) > 1}
        if port.switch == switch and any(port.permits(mac, str(target)) for mac in macs):
            found.append(port)
    return found


def _neighbour(container: Inside, target: IpAddress, link: str) -> str:
    """The MAC that has answered for an address, as the container's kernel knows it."""
    try:
        found = json.loads(
            container.run("ip", "-json", "neighbour", "show", "to", str(target), "dev", link) or "[]"
        )
    except (OvnDockerError, ValueError):
        return ""
    return next((one["lladdr"] for one in found if one.get("lladdr") and "FAILED" not in one["state"]), "")


# Through the host


def _through_host(cluster: Cluster, way: Route, target: IpAddress) -> Iterator[Hop]:
    """How this host treats a packet that a container sends elsewhere by another interface."""
    host, links = cluster.snapshot.host, cluster.snapshot.links
    bridge = next((link.name for link in links if way.via and way.via in link.addresses), "")
    if not bridge:
        yield Hop("network", f"{way.via or way.link} is not this host's: what follows is not known here")
        return
    if any(str(target) in link.addresses for link in links):
        yield Hop(host, f"it comes in by {bridge}, and {target} is the host's own address")
        return
    setting = "net/ipv4/ip_forward" if target.version == 4 else "net/ipv6/conf/all/forwarding"
    if Path(f"/proc/sys/{setting}").read_text().strip() == "0":
        yield Hop(host, f"it comes in by {bridge}, and the host forwards nothing", passes=False,
                  by=f"sysctl {setting.replace('/', '.')}=0")  # fmt: skip
        return
    try:
        onwards = _route(run(("ip", "-json", "route", "get", str(target), "from", way.source, "iif", bridge)))
    except (StepFailed, ValueError):
        yield Hop(host, f"it comes in by {bridge}, and the host has no route to {target}", passes=False)
        return
    rule = iptables.masquerade(_saved(target.version), ip_address(way.source), target, onwards.link)
    if rule:
        what = f"it comes in by {bridge} and gets the address of {onwards.link} (masquerading)"
    else:
        what = (
            f"it comes in by {bridge}; no rule of iptables masquerades {way.source}, so that answers come "
            "back only if there is a route to it"
        )
    yield Hop(host, what, by=rule)
    yield Hop(host, f"it leaves by {onwards.link}{f' to {onwards.via}' if onwards.via else ''}")


def _route(said: str) -> Route:
    """The route in what ``ip -json route get`` printed. Raises ValueError."""
    found = json.loads(said)
    if not (isinstance(found, list) and found and isinstance(found[0], dict)):
        raise ValueError(said)
    return Route(*(str(printable(found[0].get(key) or "")) for key in ("dev", "gateway", "prefsrc")))


def _saved(version: int) -> str:
    """The rules of the table nat; empty where they cannot be read."""
    try:
        return run(("iptables-save" if version == 4 else "ip6tables-save", "-t", "nat"))
    except OvnDockerError:
        return ""


def _answers(container: Inside, target: IpAddress, packet: Packet) -> bool | None:
    """Whether a real packet is answered; ``None`` if that cannot be told, as for UDP.

    An echo request goes out all the same: it has the kernel look for the neighbour.
    """
    wanted, port = str(target), packet.port if packet.protocol == "tcp" else 0
    try:
        if port:
            return in_namespace(container.pid, lambda: connects(wanted, port))
        echoed = bool(in_namespace(container.pid, lambda: answered([Echo(wanted, 100)], wait=1.5)))
    except OSError:
        return None
    return None if packet.port else echoed


def _seen(target: IpAddress | str, packet: Packet, *, reached: bool) -> Hop:
    what = f"a connection to port {packet.port}" if packet.port else "an echo request"
    if reached:
        return Hop("probe", f"{what} is answered by {target}")
    return Hop(
        "probe", f"nothing seen from here drops it, but {what} is not answered by {target}", passes=False
    )


# From outside to a published port


def from_outside(sources: Sources, cluster: Cluster, target: str, packet: Packet, *, probe: bool) -> Way:
    """The way from another machine to a port of this host that a container publishes.

    *target*: a container, or an address of this host; the packet's port is the host's.
    """
    if not packet.port:
        raise BadRequest("from outside only published ports are reached: say which, such as tcp/8080")
    at = address(target)
    if at is not None and not any(target in link.addresses for link in cluster.snapshot.links):
        at = None
    wanted: set[str] = set()
    if at is None:
        ends = cluster.find(target)
        if not ends[0].here:
            raise NotFound(
                f"{ends[0].container} is on {ends[0].host}, with its published ports: run this there"
            )
        wanted = {cluster.docker[end.id].container for end in ends if end.id in cluster.docker}
    ports = [one for one in _published(sources, packet.protocol) if one.container in wanted or at is not None]
    found = next((one for one in ports if one.port == packet.port and one.serves(at)), None)
    if found is None:
        there = sorted({f"{packet.protocol}/{one.port} for {one.inside} of {one.name}" for one in ports})
        raise NotFound(
            f"no port {packet} is published by {target}: published are {', '.join(there) or 'none'}"
        )
    hops = trace.up_to_drop(_inwards(sources, cluster, found, at, packet, probe=probe))
    return Way(OUTSIDE, found.name, str(packet), hops, hops[-1].what)


def _published(sources: Sources, protocol: str) -> list[Published]:
    """Ports of this host that its containers publish (docs.docker.com, "Engine API", ContainerList)."""
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
    sources: Sources, cluster: Cluster, port: Published, at: IpAddress | None, packet: Packet, *, probe: bool
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
    heard = in_namespace(pid, listeners)
    if not any(listening == number and str(on) in (*_ANY, inner) for on, listening in heard):
        yield Hop(
            port.name, f"nothing in it listens at {inner}:{number}: the connection is refused", passes=False
        )
        return
    yield Hop(port.name, f"a process in it listens on port {number}")
    if probe:
        yield _seen(inner, replace(packet, port=number), reached=connects(inner, number))
