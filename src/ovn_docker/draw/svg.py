"""Draw the picture as SVG: one file that needs no others, light or dark by the reader's setting. Pure."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html import escape

from ovn_docker.draw.layout import (
    GUTTER,
    LANE,
    LINE,
    MARGIN,
    PAD,
    TITLE,
    Box,
    Card,
    Cell,
    Lane,
    Picture,
    Tile,
)
from ovn_docker.inspect.views import EndpointView, NetworkView, TunnelView
from ovn_docker.model import whole_number
from ovn_docker.text.printable import one_line

_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"

_HUES = (
    *("#2f6fde", "#d9730d", "#2f8f5b", "#9b51c9", "#c2385a"),
    *("#0f8a9d", "#8a7413", "#5b5fd0", "#b0532e", "#5f7a3a"),
)
"""Colours of networks: distinct for most eyes, readable on white and on black."""

STYLE = """
text { fill: #1d2730; }
.page { fill: #f6f8fa; }
.card { fill: #ffffff; stroke: #d3dbe3; }
.tile { fill: #ffffff; stroke: #cfd8e0; }
.soft { fill: #5a6875; }
.mono { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, monospace; }
.bold { font-weight: 600; }
.h1 { font-size: 22px; font-weight: 650; }
.h2 { font-size: 15px; font-weight: 650; }
.s { font-size: 11px; }
.xs { font-size: 10px; }
.end { text-anchor: end; }
.mid { text-anchor: middle; }
.lane { fill-opacity: .16; stroke-opacity: .55; }
.wire { stroke-width: 6; stroke-opacity: .45; fill: none; } .sample { stroke: #97a3ae; }
.up { fill: #2a9d5c; } .down { fill: #e09a1a; } .fault { fill: #d3273e; } .unknown { fill: #97a3ae; }
.tile.wrong { stroke: #d3273e; stroke-width: 1.6; fill: #fdecef; }
.ok-text { fill: #1f7f49; } .bad-text { fill: #c01f36; }
.rail { stroke: #8795a1; stroke-width: 2; }
.tunnel { stroke: #2a9d5c; stroke-width: 3; } .tunnel.broken { stroke: #d3273e; stroke-dasharray: 5 4; }
.badge { fill: #d3273e; } .on-badge { fill: #ffffff; }
.good { fill: #e3f5ea; } .bad { fill: #fde4e8; }
"""
"""The style sheet of the light theme."""

DARK = """
text { fill: #e4eaf0; }
.page { fill: #0f151b; }
.card { fill: #182029; stroke: #2d3844; }
.tile { fill: #202b36; stroke: #364452; }
.soft { fill: #9fadba; }
.lane { fill-opacity: .26; }
.tile.wrong { fill: #45202a; stroke: #ff6b80; }
.ok-text { fill: #6fd39b; } .bad-text { fill: #ff8c9c; }
.good { fill: #173626; } .bad { fill: #43202a; }
"""
"""Colours of the dark style."""

STYLESHEET = (
    STYLE
    + "".join(f".n{number} {{ fill: {hue}; stroke: {hue}; }} " for number, hue in enumerate(_HUES))
    + f"\n@media (prefers-color-scheme: dark) {{{DARK}}}"
)
"""Content of the style element, the same in every picture."""


class Shortener:
    """Shortens names in the middle, and keeps different names different if possible."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._shortened: dict[tuple[int, ...], Counter[str]] = {}

    def cut(self, name: str, room: int) -> str:
        """Return a name in at most *room* characters."""
        if len(name) <= room:
            return name
        kept = max(room - 1, 1)
        middle = (kept + 1) // 2
        cuts = [(0, head, kept - head) for head in range(kept + 1)]
        cuts.sort(key=lambda cut: abs(cut[1] - middle))
        cuts += [(start, room - 2, 0) for start in range(1, len(name) - room + 2)]  # a part of the middle
        for cut in cuts:
            if self._all(*cut)[text := _cut_out(name, *cut)] == 1:
                return text
        return _cut_out(name, *cuts[0])

    def _all(self, *cut: int) -> Counter[str]:
        """Return how many names become each text by a cut."""
        if cut not in self._shortened:
            self._shortened[cut] = Counter(_cut_out(name, *cut) for name in self._names)
        return self._shortened[cut]


def _cut_out(name: str, start: int, head: int, tail: int) -> str:
    """Return *head* characters from *start* and the last *tail*, with an ellipsis for the others."""
    if start:
        end = _ELLIPSIS if len(name) > start + head else ""
        return _ELLIPSIS + name[start : start + head] + end
    if len(name) <= head + tail:
        return name
    return name[:head] + _ELLIPSIS + name[len(name) - tail :]


def svg(picture: Picture, *, framed: bool = True) -> str:
    """Return the contents of the file; unless *framed*, without title and list of differences."""
    top = 0.0 if framed else TITLE - 16
    if not framed:
        picture = replace(picture, height=picture.faults_top + 36, faults=())
    size = f"{picture.width:.0f}", f"{picture.height - top:.0f}"
    store = "Neutron" if picture.cluster.snapshot.underlay else "OVN"
    containers = Shortener(tile.endpoint.container for tile in picture.tiles)
    networks = Shortener(cell.network.name for cell in picture.cells)
    hosts = Shortener(card.host.name for card in picture.cards)
    parts = [
        f"<title>{safe(_summary(picture))}</title>",
        f"<style>{STYLESHEET}</style>",
        _rect("page", Box(0, 0, picture.width, picture.height), 0),
        *(_head(picture) if framed else ()),
        *_wires(picture),
        *(part for card in picture.cards for part in _card(card, hosts)),
        *(part for cell in picture.cells for part in _cell(cell, networks)),
        *(part for lane in picture.lanes for part in _lane_name(lane, networks)),
        *(part for rail in picture.rails for part in _rail(picture, rail)),
        *(part for tile in picture.tiles for part in _tile(tile, store, containers, compact=picture.compact)),
        *_faults(picture),
        *_legend(picture),
    ]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {top:.0f} {size[0]} {size[1]}" '
        f'width="{size[0]}" height="{size[1]}" role="img" font-size="13" font-family="{_FONT}">'
    )
    return "\n".join([opening, *parts, "</svg>", ""])


def details(endpoint: EndpointView, store: str = "OVN") -> list[str]:
    """Return lines that describe an endpoint; *store*: name of the system that has its port."""
    claimed = f"{endpoint.connection}, on {endpoint.chassis}" if endpoint.chassis else "claimed by no host"
    flows = {True: "flows installed", False: "flows not installed"}
    switch = f"VLAN {endpoint.vlan}" if endpoint.vlan else "no port"
    lines = [
        f"{endpoint.container} on {endpoint.host}",
        f"network {endpoint.network}",
        f"addresses {', '.join(endpoint.addresses) or 'none'}",
        f"MAC {endpoint.mac or 'unknown'}",
        f"endpoint {endpoint.id[:12]}",
        f"{store}: {claimed}",
    ]
    if endpoint.here:
        switch = switch if endpoint.installed is None else flows[endpoint.installed]
        lines += [f"Docker: {endpoint.state or 'unknown endpoint'}", f"Open vSwitch: {switch}"]
    return [*lines, *(f"! {difference}" for difference in endpoint.differences)]


def _summary(picture: Picture) -> str:
    cluster = picture.cluster
    host = "VM" if cluster.snapshot.underlay else "host"
    hosts, networks = _count(len(picture.cards), host), _count(len(cluster.networks), "network")
    return f"{hosts}, {networks}, {_count(len(cluster.endpoints), 'container')}"


def _head(picture: Picture) -> Iterator[str]:
    snapshot = picture.cluster.snapshot
    taken = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(snapshot.taken))
    yield _label("h1", MARGIN, 46, _summary(picture))
    yield _label("soft", MARGIN, 68, f"ovn-docker, as seen from {snapshot.host} at {taken}")
    wrong = len(picture.faults) + picture.more_faults
    words = _count(wrong, "difference") if wrong else "no differences"
    width = 7.2 * len(words) + 44
    left = picture.width - MARGIN - width
    yield _rect("bad" if wrong else "good", Box(left, 28, width, 30), 15)
    yield _dot("fault" if wrong else "up", left + 18, 43, 5)
    yield _label(f"bold {'bad' if wrong else 'ok'}-text", left + 30, 47.5, words)


def _wires(picture: Picture) -> Iterator[str]:
    """Draw lines behind the cards, from the name of each network to the last card that has it."""
    for lane in picture.lanes:
        y = lane.box.y + min(lane.box.height, LANE) / 2
        yield _line(f"wire n{lane.colour}", MARGIN + GUTTER - 14, y, f"H{lane.box.x + lane.box.width:.1f}")


def _lane_name(lane: Lane, names: Shortener) -> Iterator[str]:
    network, x, y = lane.network, MARGIN + 13, lane.box.y
    yield _group(network=network.name) + _title(_about(network))
    yield _rect(f"n{lane.colour}", Box(MARGIN, y + 2, 5, 42), 2.5)
    yield _label("bold", x, y + 17, names.cut(network.name, 17))
    yield _label("soft s mono", x, y + 31, _cut(", ".join(network.subnets[:1]), 21))
    yield _label("soft xs", x, y + 43, _count(network.endpoints, "container")) + "</g>"


def _about(network: NetworkView) -> str:
    mtu = f"MTU {network.mtu}" if network.mtu else "MTU of the tunnels"
    hosts = f"on {', '.join(network.hosts) or 'no host'}"
    subnets = ", ".join(network.subnets) or "no subnet"
    return "\n".join([f"network {network.name}", subnets, mtu, hosts, *network.differences])


def _card(card: Card, names: Shortener) -> Iterator[str]:
    box, host = card.box, card.host
    left, right = box.x + PAD, box.x + box.width - PAD
    yield _group(host=host.name)
    yield _title(f"{host.name}, system-id {host.system_id}" if host.system_id else host.name)
    yield _rect("card", box, 10)
    yield _label("h2", left, box.y + 26, names.cut(host.name, int((box.width - 110) / 8.6)))
    yield _label("soft s end", right, box.y + 26, _count(card.containers, "container"))
    late = f"{host.behind} behind" if host.behind else ""
    room = int((box.width - 2 * PAD) / 6.8) - len(late)
    yield _label("soft s mono", left, box.y + 44, _cut(", ".join(host.encaps) or "unknown to OVN", room))
    yield _label("s bad-text end", right, box.y + 44, late) + "</g>"


def _cell(cell: Cell, names: Shortener) -> Iterator[str]:
    box, network = cell.box, cell.network
    yield _rect(f"lane n{cell.colour}", box, 6)
    if cell.heading:
        subnet = network.subnets[0] if network.subnets else ""
        room = int((box.width - 2 * PAD - 6.8 * len(subnet)) / 7.4)
        yield _group(network=network.name) + _title(_about(network))
        yield _label("bold s", box.x + PAD, box.y + 16, names.cut(network.name, room))
        yield _label("soft xs mono end", box.x + box.width - PAD, box.y + 16, subnet) + "</g>"


def _rail(picture: Picture, rail: Box) -> Iterator[str]:
    """Draw the rail above a row of cards, and the tunnels from it to the cards."""
    y = rail.y + 10
    row = [(card, card.box.x + PAD + 12) for card in picture.cards if card.box.y == rail.y + rail.height]
    underlay = picture.cluster.snapshot.underlay
    words = "trunks in Neutron" if underlay else f"tunnels of {picture.cards[0].host.name}"
    yield _label("soft s", MARGIN, y + 4, _cut(words, 24))
    if len(picture.cards) > 1:
        yield _line("rail", MARGIN + GUTTER - 14, y, f"H{row[-1][1]:.1f}")
    for card, x in row:
        yield from _trunk(card, x, y) if card.machine else _tunnel(card, x, y)


def _tunnel(card: Card, x: float, top: float) -> Iterator[str]:
    tunnel, bottom = card.tunnel, card.box.y
    if tunnel is None:
        here = card.host.here
        line, dot, tone, words = (
            "rail" if here else "",
            "unknown",
            "soft",
            "this host" if here else "no tunnel",
        )
    elif tunnel.state == "up":
        line, dot, tone, words = "tunnel", "up", "ok-text", f"{tunnel.type} to {tunnel.remote_ip}: up"
    else:
        line, dot, tone, words = "tunnel broken", "fault", "bad-text", f"{tunnel.remote_ip}: {tunnel.state}"
    yield "<g>" + _title(_counted(tunnel) if tunnel else words)
    if line:
        yield _line(line, x, top, f"V{bottom:.1f}")
        yield _dot(dot, x, top, 6)
    yield _label(f"s {tone}", x + 12, bottom - 10, _cut(words, int((card.box.width - 40) / 6.2))) + "</g>"


def _trunk(card: Card, x: float, top: float) -> Iterator[str]:
    """In the underlay mode, draw the trunk of a VM's port."""
    machine, bottom = card.machine, card.box.y
    if machine is None:
        return
    if machine.enabled and machine.status == "ACTIVE":
        line, dot, tone, words = "tunnel", "up", "ok-text", f"port {machine.vif[:8]} is {machine.status}"
        if not machine.trunk:
            line, dot, tone, words = "rail", "unknown", "soft", f"port {machine.vif[:8]} has no trunk"
    else:
        state = machine.status if machine.enabled else "switched off"
        line, dot, tone, words = "tunnel broken", "fault", "bad-text", f"port {machine.vif[:8]} is {state}"
    yield "<g>" + _title(f"port {machine.vif}\ntrunk {machine.trunk or 'none'}")
    yield _line(line, x, top, f"V{bottom:.1f}") + _dot(dot, x, top, 6)
    yield _label(f"s {tone}", x + 12, bottom - 10, _cut(words, int((card.box.width - 40) / 6.2))) + "</g>"


def _counted(tunnel: TunnelView) -> str:
    sent, received = tunnel.tx_packets, tunnel.rx_packets
    return f"tunnel to {tunnel.host}: {tunnel.state}; {sent} packets sent, {received} received"


def _tile(tile: Tile, store: str, names: Shortener, *, compact: bool) -> Iterator[str]:
    box, endpoint, wrong = tile.box, tile.endpoint, tile.fault is not None
    right = box.x + box.width - 6 - (22 if wrong else 0)
    address = endpoint.addresses[0].partition("/")[0] if endpoint.addresses else ""
    yield _group(
        "container",
        id=endpoint.id,
        name=endpoint.container,
        network=endpoint.network,
        host=endpoint.host,
        state=tile.state,
    ) + _title("\n".join(details(endpoint, store)))
    yield _rect("tile wrong" if wrong else "tile", box, 5)
    yield _dot(tile.state, box.x + 11, box.y + (11 if compact else 15), 4)
    if compact:
        address = _cut(_ending(address, *tile.network.subnets[:1]), 15)
        room = int((right - box.x - 26 - 6.1 * len(address)) / 6.9)
        yield _label("s bold", box.x + 20, box.y + 15, names.cut(endpoint.container, room))
        yield _label("xs mono soft end", right, box.y + 14.5, address)
    else:
        yield _label(
            "bold", box.x + 22, box.y + 19, names.cut(endpoint.container, int((right - box.x - 24) / 7.5))
        )
        yield _label("s mono soft", box.x + 22, box.y + 33, _cut(address, 20))
    if wrong:
        x, y = box.x + box.width - 12, box.y + (11 if compact else 14)
        yield _dot("badge", x, y, 8) + _label("on-badge xs bold mid", x, y + 3.5, str(tile.fault))
    yield "</g>"


def _ending(address: str, subnet: str = "") -> str:
    """Return the part of an IPv4 address behind the prefix of its subnet, such as .17 of 10.1.0.17."""
    same = (whole_number(subnet.rpartition("/")[2]) or 0) // 8 if "." in address else 0
    return "." + ".".join(address.split(".")[same:]) if same else address


def _faults(picture: Picture) -> Iterator[str]:
    if not picture.faults:
        return
    x, y = MARGIN + 28, picture.faults_top + 20
    yield _label("h2", MARGIN, y - 2, "Differences")
    room = int((picture.width - 2 * MARGIN - 30) / 6.6)
    for number, text in enumerate(picture.faults, start=1):
        yield _label("bad-text bold end", MARGIN + 18, y + number * LINE, str(number))
        yield "<g>" + _title(text) + _label("", x, y + number * LINE, _cut(text, room)) + "</g>"
    if picture.more_faults:
        more = f"and {picture.more_faults} more: ovn-docker ls endpoints"
        yield _label("soft", x, y + (len(picture.faults) + 1) * LINE, more)


def _legend(picture: Picture) -> Iterator[str]:
    y, x = picture.height - 22, MARGIN
    underlay = picture.cluster.snapshot.underlay
    words = {
        "up": "connected",
        "down": "not connected",
        "fault": "Docker, Neutron, VM differ" if underlay else "Docker, OVN and the host differ",
        "unknown": "unknown to Neutron" if underlay else "unknown to OVN",
    }
    for kind, text in words.items():
        yield _dot(kind, x + 5, y - 4, 4.5) + _label("soft s", x + 15, y, text)
        x += 34 + 6.2 * len(text)
    yield _line("wire sample", x, y - 4, "h26") + _label(
        "soft s", x + 34, y, f"one network, {'in several VMs' if underlay else 'on several hosts'}"
    )


def _rect(kind: str, box: Box, radius: float) -> str:
    at = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    return f'<rect class="{kind}" {at} rx="{radius:g}"/>'


def _dot(kind: str, x: float, y: float, radius: float) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def _line(kind: str, x: float, y: float, to: str) -> str:
    return f'<path class="{kind}" d="M{x:.1f} {y:.1f}{to}"/>'


def _label(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{safe(text)}</text>'


def _title(text: str) -> str:
    return f"<title>{safe(text)}</title>"


def _group(kind: str = "", **data: str) -> str:
    attributes = "".join(f' data-{name}="{safe(value)}"' for name, value in data.items())
    return f'<g class="{kind}"{attributes}>'


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(room - 1, 1)] + _ELLIPSIS


def safe(text: str) -> str:
    """Return a text for XML and HTML; XML 1.0 admits few control characters (section 2.2)."""
    return escape("\n".join(map(one_line, text.split("\n"))))
