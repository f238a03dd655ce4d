"""Where everything of a picture of the cluster is: hosts as cards side by side, networks as lanes. Pure.

A network that several hosts have is one lane, through the card of each: what is one logical switch looks like
one. A network of one host alone is a section at the bottom of its card. Lengths are in pixels of CSS.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log

from ovn_docker.view.cloud import VirtualMachine
from ovn_docker.view.cluster import Cluster, Endpoint, Host, Network, Tunnel

COLOURS = 10
"""Networks of the same colour are this far from each other in the list."""

MARGIN, GUTTER, GAP, PAD = 24.0, 176.0, 20.0, 12.0
"""Around the page, left of the cards for the lanes' names, between cards, within cards and lanes."""

HEADER, RAIL, HEADING, TITLE, LANE, LINE = 62.0, 46.0, 24.0, 92.0, 46.0, 19.0
"""Heights: a card's head, the tunnels above the cards, a section's name, the page's head, a lane at least, a
line of the list of differences."""

ROOMY, COMPACT = (168.0, 40.0), (150.0, 22.0)
"""Width and height of a container: with its address below its name, or the end of it beside."""

MANY = 60
"""From so many containers on they are compact."""

_SEAM = 5.0
"""Between containers."""

_SHAPE = 1.6
"""Width to height of a picture that fills a wall or a screen."""

_FAULTS = 24
"""Lines of differences that are shown; the command ``ls`` has them all."""


class State(StrEnum):
    """How a container's attachment is: OVN says connected, or not; the sides differ; nobody knows."""

    UP = "up"
    DOWN = "down"
    FAULT = "fault"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle by its upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Tile:
    """A container on a network. *fault*: its number in the list of differences."""

    box: Box
    endpoint: Endpoint
    network: Network
    state: State
    colour: int
    fault: int | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A network within a card; *heading*: a network of this host alone, whose name is written here."""

    box: Box
    network: Network
    colour: int
    heading: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """A network across the cards of one row; *box* is from the first card that has it to the last."""

    box: Box
    network: Network
    colour: int


@dataclass(frozen=True, slots=True)
class Card:
    """A host. *tunnel*: from the host where the picture was taken, ``None`` for that one itself.

    *machine*: in the underlay mode, the host as Neutron has it.
    """

    box: Box
    host: Host
    containers: int
    tunnel: Tunnel | None
    machine: VirtualMachine | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it. *rails*: the lines that the tunnels of each row of cards hang on."""

    width: float
    height: float
    compact: bool
    cards: tuple[Card, ...]
    rails: tuple[Box, ...]
    lanes: tuple[Lane, ...]
    cells: tuple[Cell, ...]
    tiles: tuple[Tile, ...]
    faults: tuple[str, ...]
    faults_top: float
    more_faults: int
    cluster: Cluster


def state(endpoint: Endpoint) -> State:
    """What a glance at an endpoint should tell."""
    if endpoint.differences:
        return State.FAULT
    if endpoint.up is None:
        return State.UNKNOWN
    return State.UP if endpoint.up and endpoint.installed is not False else State.DOWN


def picture(cluster: Cluster) -> Picture:
    """The best of the possible layouts: small, of a screen's shape, hosts beside rather than below others."""
    plan = _Plan(cluster)
    tried = [
        plan.drawn(hosts, columns)
        for hosts in sorted({ceil(len(plan.hosts) / rows) for rows in range(1, 9)})
        for columns in range(1, 9)
    ]
    return min(
        tried,
        key=lambda one: (
            abs(log(one.width / one.height / _SHAPE)) + log(one.width * one.height) / 2 + len(one.rails) / 4
        ),
    )


class _Plan:
    """What is to be drawn, by host and network; how it is laid out depends on two numbers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.hosts = _hosts(cluster)
        self._networks = _networks(cluster)
        self._colour = {_key(network): number % COLOURS for number, network in enumerate(self._networks)}
        self._on: dict[tuple[str, tuple[str, str]], list[Endpoint]] = defaultdict(list)
        known = {_key(network) for network in self._networks}
        strays: dict[str, list[Endpoint]] = defaultdict(list)
        for endpoint in cluster.endpoints:
            key = next((key for key in _keys_of(endpoint) if key in known), None)
            if key is None:
                strays[endpoint.network].append(endpoint)
            else:
                self._on[endpoint.host, key].append(endpoint)
        for name, endpoints in sorted(strays.items()):  # Docker has them, OVN has no such network
            stray = Network(name or "no network", "", "", (), None, False, False, (), len(endpoints))
            self._networks = (*self._networks, stray)
            self._colour[_key(stray)] = len(self._networks) % COLOURS
            for endpoint in endpoints:
                self._on[endpoint.host, _key(stray)].append(endpoint)
        self._compact = len(cluster.endpoints) >= MANY
        self._faults = tuple(_faults(cluster))
        self._fault_of = {id_: number for number, (id_, _) in enumerate(self._faults, start=1) if id_}
        self._tunnels = {tunnel.host: tunnel for tunnel in cluster.tunnels}
        self._machines = cluster.snapshot.cloud.machines if cluster.snapshot.cloud else {}

    def drawn(self, hosts: int, columns: int) -> Picture:
        """With so many hosts in a row, and so many columns of containers in a card."""
        drawing = _Drawing(columns, COMPACT if self._compact else ROOMY)
        top = TITLE
        for start in range(0, len(self.hosts), hosts):
            top = self._draw_row(drawing, self.hosts[start : start + hosts], top) + GAP
        shown = self._faults[:_FAULTS]
        return Picture(
            width=max(2 * MARGIN + GUTTER + hosts * (drawing.width + GAP) - GAP, 820.0),
            height=top + ((len(shown) + 2) * LINE + 8 if shown else 0) + 44,
            compact=self._compact,
            cards=tuple(drawing.cards),
            rails=tuple(drawing.rails),
            lanes=tuple(drawing.lanes),
            cells=tuple(drawing.cells),
            tiles=tuple(drawing.tiles),
            faults=tuple(text for _, text in shown),
            faults_top=top,
            more_faults=len(self._faults) - len(shown),
            cluster=self._cluster,
        )

    def _draw_row(self, drawing: "_Drawing", row: list[Host], top: float) -> float:
        """Hosts side by side; returns where they end."""
        width = drawing.width
        left = {host.name: MARGIN + GUTTER + n * (width + GAP) for n, host in enumerate(row)}
        drawing.rails.append(Box(MARGIN + GUTTER, top, len(row) * (width + GAP) - GAP, RAIL))
        y = top + RAIL + HEADER
        for network in self._shared(row):
            there = [host.name for host in row if self._has(host, network)]
            height = max(LANE, *(drawing.height(self._of(host, network)) for host in there))
            first, last = left[there[0]], left[there[-1]] + width
            drawing.lanes.append(Lane(Box(first, y, last - first, height), network, self._colour_of(network)))
            for name in there:
                self._draw_cell(drawing, name, network, Box(left[name] + PAD, y, width - 2 * PAD, height))
            y += height + PAD
        bottom = y
        for host in row:
            down = y
            for network in self._alone(host):
                height = HEADING + drawing.height(self._of(host.name, network))
                box = Box(left[host.name] + PAD, down, width - 2 * PAD, height)
                self._draw_cell(drawing, host.name, network, box, heading=True)
                down += height + PAD
            bottom = max(bottom, down)
        for host in row:
            box = Box(left[host.name], top + RAIL, width, bottom - top - RAIL)
            containers = sum(len(found) for (name, _), found in self._on.items() if name == host.name)
            machine = self._machines.get(host.system_id)
            drawing.cards.append(Card(box, host, containers, self._tunnels.get(host.name), machine))
        return bottom

    def _draw_cell(
        self, drawing: "_Drawing", host: str, network: Network, box: Box, *, heading: bool = False
    ) -> None:
        colour = self._colour_of(network)
        drawing.cells.append(Cell(box, network, colour, heading))
        top = box.y + (HEADING if heading else PAD / 2)
        endpoints = self._of(host, network)
        for endpoint, place in zip(endpoints, drawing.places(len(endpoints), box.x + PAD, top), strict=True):
            fault = self._fault_of.get(endpoint.id)
            drawing.tiles.append(Tile(place, endpoint, network, state(endpoint), colour, fault))

    def _colour_of(self, network: Network) -> int:
        return self._colour[_key(network)]

    def _has(self, host: Host, network: Network) -> bool:
        return host.name in network.hosts or bool(self._of(host.name, network))

    def _owners(self, network: Network) -> list[Host]:
        return [host for host in self.hosts if self._has(host, network)]

    def _shared(self, row: list[Host]) -> Iterable[Network]:
        """Networks of several hosts that one of this row has."""
        for network in self._networks:
            owners = self._owners(network)
            if len(owners) > 1 and any(host in owners for host in row):
                yield network

    def _alone(self, host: Host) -> Iterable[Network]:
        return [network for network in self._networks if self._owners(network) == [host]]

    def _of(self, host: str, network: Network) -> list[Endpoint]:
        return self._on.get((host, _key(network)), [])


class _Drawing:
    """What has been placed so far; *columns* of containers of the size *tile* in each card."""

    def __init__(self, columns: int, tile: tuple[float, float]) -> None:
        self._columns = columns
        self._tile = tile
        self.width = 4 * PAD + columns * tile[0] + (columns - 1) * _SEAM
        """Of a card."""
        self.cards: list[Card] = []
        self.rails: list[Box] = []
        self.lanes: list[Lane] = []
        self.cells: list[Cell] = []
        self.tiles: list[Tile] = []

    def height(self, endpoints: list[Endpoint]) -> float:
        """What they need."""
        rows = ceil(len(endpoints) / self._columns)
        return PAD + rows * self._tile[1] + max(rows - 1, 0) * _SEAM

    def places(self, count: int, left: float, top: float) -> Iterator[Box]:
        """For so many: down the first column, then the next, for names are read like a list."""
        rows = ceil(count / self._columns)
        for number in range(count):
            column, row = divmod(number, rows)
            width, height = self._tile
            yield Box(left + column * (width + _SEAM), top + row * (height + _SEAM), width, height)


def _hosts(cluster: Cluster) -> list[Host]:
    """Those that OVN knows, and whoever else has containers; this one first, for it sees the tunnels."""
    known = {host.name: host for host in cluster.hosts}
    counted = Counter(endpoint.host for endpoint in cluster.endpoints)
    me = cluster.host_name(cluster.snapshot.system_id) or cluster.snapshot.host
    for name in sorted(counted.keys() | {me}):
        known.setdefault(name, Host(name, "", name == me, (), counted[name], 0))
    return sorted(known.values(), key=lambda host: (not host.here, _natural(host.name)))


def _networks(cluster: Cluster) -> tuple[Network, ...]:
    return tuple(sorted(cluster.networks, key=lambda n: (not n.shared, -len(n.hosts), n.name, n.switch)))


def _key(network: Network) -> tuple[str, str]:
    return network.switch, network.name


def _keys_of(endpoint: Endpoint) -> list[tuple[str, str]]:
    """Of the network that it is on: by its switch if OVN knows the port, else by what Docker calls it."""
    return [(endpoint.switch, endpoint.network), ("", endpoint.network)]


def _faults(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Endpoint, or empty, and one line."""
    yield from (("", line) for line in _silent(cluster.snapshot.missing))
    for tunnel in cluster.tunnels:
        if tunnel.state != "up":
            yield "", f"tunnel to {tunnel.host} ({tunnel.remote_ip}): {tunnel.state}"
    for machine in cluster.snapshot.cloud.machines.values() if cluster.snapshot.cloud else ():
        if not machine.enabled or machine.status != "ACTIVE":
            state = machine.status if machine.enabled else "switched off"
            yield "", f"VM {machine.name}: its port {machine.vif} is {state} in Neutron"
    for network in cluster.networks:
        for difference in network.differences:
            yield "", f"network {network.name}: {difference}"
    for endpoint in cluster.endpoints:
        if endpoint.differences:
            name = f"{endpoint.container} on {endpoint.host}, network {endpoint.network}"
            yield endpoint.id, f"{name}: {'; '.join(endpoint.differences)}"


def _silent(missing: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each reason for which parts could not be read."""
    for reason in dict.fromkeys(missing.values()):
        yield f"{', '.join(part for part, why in missing.items() if why == reason)}: {reason}"


def _natural(name: str) -> list[str | int]:
    """host2 before host10: words and numbers, always in turn."""
    parts = re.split("([0-9]{1,18})", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]
