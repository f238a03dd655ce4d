"""Lay out the picture of the cluster: hosts are cards side by side, networks are lanes across them. Pure.

A network of several hosts is one lane through all their cards, as it is one logical switch. A network of one
host is a section at the bottom of its card. Lengths are in CSS pixels.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log

from ovn_docker.inspect.cloud import VirtualMachine
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.views import EndpointView, HostView, NetworkView, TunnelView

COLOURS = 10
"""Number of colours of networks, used in turn."""

MARGIN, GUTTER, GAP, PAD = 24.0, 176.0, 20.0, 12.0
"""Space around the page, left of the cards (lane names), between cards, within cards and lanes."""

HEADER, RAIL, HEADING, TITLE, LANE, LINE = 62.0, 46.0, 24.0, 92.0, 46.0, 19.0
"""Heights: a card's head, the tunnels above the cards, a section's name, the page's head, a lane (minimum), a
line in the list of differences."""

ROOMY, COMPACT = (168.0, 40.0), (150.0, 22.0)
"""Size of a container with the address below its name, and with the end of the address beside it."""

MANY = 60
"""Number of containers from which they are drawn compact."""

_SEAM = 5.0
"""Space between containers."""

_SHAPE = 1.6
"""Preferred ratio of width to height, that of a screen."""

_FAULTS = 24
"""Differences that are listed; the command ``ls`` shows all."""


class TileState(StrEnum):
    """State of an endpoint: connected or not, as OVN has it; with a difference; or unknown."""

    UP = "up"
    DOWN = "down"
    FAULT = "fault"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, given by its upper left corner and its size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Tile:
    """A container on a network. *fault*: number of its line in the list of differences."""

    box: Box
    endpoint: EndpointView
    network: NetworkView
    state: TileState
    colour: int
    fault: int | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A network within a card. *heading*: it is on this host only, and its name is written in the card."""

    box: Box
    network: NetworkView
    colour: int
    heading: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """A network across the cards of one row. *box*: from the first card with the network to the last."""

    box: Box
    network: NetworkView
    colour: int


@dataclass(frozen=True, slots=True)
class Card:
    """A host. *tunnel*: to it from this host, ``None`` for this host itself.

    *machine*: in the underlay mode, the host in Neutron.
    """

    box: Box
    host: HostView
    containers: int
    tunnel: TunnelView | None
    machine: VirtualMachine | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """The whole picture. *rails*: for each row of cards, the line above it from which tunnels lead down."""

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
    cluster: ClusterView


def state(endpoint: EndpointView) -> TileState:
    """Return the state in which an endpoint is drawn."""
    if endpoint.differences:
        return TileState.FAULT
    if endpoint.up is None:
        return TileState.UNKNOWN
    return TileState.UP if endpoint.up and endpoint.installed is not False else TileState.DOWN


def picture(cluster: ClusterView) -> Picture:
    """Return the best of the possible layouts: small, in the shape of a screen, with few rows of hosts."""
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
    """The contents of the picture, by host and network; two numbers determine the layout."""

    def __init__(self, cluster: ClusterView) -> None:
        self._cluster = cluster
        self.hosts = _hosts(cluster)
        self._networks = _networks(cluster)
        self._colour = {_key(network): number % COLOURS for number, network in enumerate(self._networks)}
        self._on: dict[tuple[str, tuple[str, str]], list[EndpointView]] = defaultdict(list)
        known = {_key(network) for network in self._networks}
        unknown: dict[str, list[EndpointView]] = defaultdict(list)
        for endpoint in cluster.endpoints:
            key = next((key for key in _keys_of(endpoint) if key in known), None)
            if key is None:
                unknown[endpoint.network].append(endpoint)
            else:
                self._on[endpoint.host, key].append(endpoint)
        for name, endpoints in sorted(unknown.items()):  # Docker has the network, OVN does not
            lost = NetworkView(name or "no network", "", "", (), None, False, False, (), len(endpoints))
            self._networks = (*self._networks, lost)
            self._colour[_key(lost)] = len(self._networks) % COLOURS
            for endpoint in endpoints:
                self._on[endpoint.host, _key(lost)].append(endpoint)
        self._compact = len(cluster.endpoints) >= MANY
        self._faults = tuple(faults(cluster))
        self._fault_of = {id_: number for number, (id_, _) in enumerate(self._faults, start=1) if id_}
        self._tunnels = {tunnel.host: tunnel for tunnel in cluster.tunnels}
        self._machines = cluster.snapshot.cloud.machines if cluster.snapshot.cloud else {}

    def drawn(self, hosts: int, columns: int) -> Picture:
        """Lay out the picture with *hosts* cards in a row, and *columns* columns of containers in a card."""
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

    def _draw_row(self, drawing: "_Drawing", row: list[HostView], top: float) -> float:
        """Draw hosts side by side; return the y coordinate of their end."""
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
            for network in self._own_networks(host):
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
        self, drawing: "_Drawing", host: str, network: NetworkView, box: Box, *, heading: bool = False
    ) -> None:
        colour = self._colour_of(network)
        drawing.cells.append(Cell(box, network, colour, heading))
        top = box.y + (HEADING if heading else PAD / 2)
        endpoints = self._of(host, network)
        for endpoint, place in zip(endpoints, drawing.places(len(endpoints), box.x + PAD, top), strict=True):
            fault = self._fault_of.get(endpoint.id)
            drawing.tiles.append(Tile(place, endpoint, network, state(endpoint), colour, fault))

    def _colour_of(self, network: NetworkView) -> int:
        return self._colour[_key(network)]

    def _has(self, host: HostView, network: NetworkView) -> bool:
        return host.name in network.hosts or bool(self._of(host.name, network))

    def _owners(self, network: NetworkView) -> list[HostView]:
        return [host for host in self.hosts if self._has(host, network)]

    def _shared(self, row: list[HostView]) -> Iterable[NetworkView]:
        """Yield the networks of several hosts that a host of this row has."""
        for network in self._networks:
            owners = self._owners(network)
            if len(owners) > 1 and any(host in owners for host in row):
                yield network

    def _own_networks(self, host: HostView) -> Iterable[NetworkView]:
        return [network for network in self._networks if self._owners(network) == [host]]

    def _of(self, host: str, network: NetworkView) -> list[EndpointView]:
        return self._on.get((host, _key(network)), [])


class _Drawing:
    """The boxes placed so far; each card has *columns* columns of containers of the size *tile*."""

    def __init__(self, columns: int, tile: tuple[float, float]) -> None:
        self._columns = columns
        self._tile = tile
        self.width = 4 * PAD + columns * tile[0] + (columns - 1) * _SEAM
        """Width of a card."""
        self.cards: list[Card] = []
        self.rails: list[Box] = []
        self.lanes: list[Lane] = []
        self.cells: list[Cell] = []
        self.tiles: list[Tile] = []

    def height(self, endpoints: list[EndpointView]) -> float:
        """Return the height that endpoints need."""
        rows = ceil(len(endpoints) / self._columns)
        return PAD + rows * self._tile[1] + max(rows - 1, 0) * _SEAM

    def places(self, count: int, left: float, top: float) -> Iterator[Box]:
        """Yield boxes for *count* containers: down the first column, then the next, as names in a list."""
        rows = ceil(count / self._columns)
        for number in range(count):
            column, row = divmod(number, rows)
            width, height = self._tile
            yield Box(left + column * (width + _SEAM), top + row * (height + _SEAM), width, height)


def _hosts(cluster: ClusterView) -> list[HostView]:
    """Return the hosts that OVN knows or that have containers; this host, where the tunnels start, first."""
    known = {host.name: host for host in cluster.hosts}
    counted = Counter(endpoint.host for endpoint in cluster.endpoints)
    own_name = cluster.host_name(cluster.snapshot.system_id) or cluster.snapshot.host
    for name in sorted(counted.keys() | {own_name}):
        known.setdefault(name, HostView(name, "", name == own_name, (), counted[name], 0))
    return sorted(known.values(), key=lambda host: (not host.here, _natural(host.name)))


def _networks(cluster: ClusterView) -> tuple[NetworkView, ...]:
    return tuple(sorted(cluster.networks, key=lambda n: (not n.shared, -len(n.hosts), n.name, n.switch)))


def _key(network: NetworkView) -> tuple[str, str]:
    return network.switch, network.name


def _keys_of(endpoint: EndpointView) -> list[tuple[str, str]]:
    """Return possible keys of an endpoint's network: with its switch if OVN has the port, else without."""
    return [(endpoint.switch, endpoint.network), ("", endpoint.network)]


def faults(cluster: ClusterView) -> Iterator[tuple[str, str]]:
    """Yield pairs of an endpoint's ID, or empty, and a line of text."""
    yield from (("", line) for line in _unread(cluster.snapshot.missing))
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


def _unread(missing: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each reason for which parts could not be read."""
    for reason in dict.fromkeys(missing.values()):
        yield f"{', '.join(part for part, why in missing.items() if why == reason)}: {reason}"


def _natural(name: str) -> list[str | int]:
    """Split a name into words and numbers, which sorts host2 before host10."""
    parts = re.split("([0-9]{1,18})", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]
