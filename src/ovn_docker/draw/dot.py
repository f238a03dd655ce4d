"""Write the picture in the language of Graphviz, dot(1). Pure."""

from collections.abc import Iterator

from ovn_docker.draw.layout import Picture, TileState
from ovn_docker.text.printable import one_line

_COLOURS = {
    TileState.UP: "#2a9d5c",
    TileState.DOWN: "#e09a1a",
    TileState.FAULT: "#d3273e",
    TileState.UNKNOWN: "#97a3ae",
}


def dot(picture: Picture) -> str:
    """Return the file: hosts are clusters, networks are nodes with edges to their containers."""
    return "\n".join(
        [
            "graph ovn_docker {",
            '  graph [rankdir=LR, fontname="sans-serif", compound=true];',
            '  node [fontname="sans-serif", shape=box, style=rounded]; edge [fontname="sans-serif"];',
            *_networks(picture),
            *_hosts(picture),
            *_tunnels(picture),
            "}",
            "",
        ]
    )


def _networks(picture: Picture) -> Iterator[str]:
    drawn = {(cell.network.switch, cell.network.name): cell.network for cell in picture.cells}
    for key, network in drawn.items():
        label = _quoted("\n".join([network.name, *network.subnets]))
        yield f"  {_quoted('network', *key)} [shape=oval, style=bold, label={label}];"


def _hosts(picture: Picture) -> Iterator[str]:
    for number, card in enumerate(picture.cards):
        name = card.host.name
        yield f"  subgraph cluster_{number} {{"
        yield f"    label={_quoted(chr(10).join([name, *card.host.encaps]))}; style=rounded;"
        yield f"    {_quoted('host', name)} [shape=point, style=invis];"
        for tile in picture.tiles:
            if tile.endpoint.host == name:
                endpoint = tile.endpoint
                label = _quoted("\n".join([endpoint.container, *endpoint.addresses]))
                node, colour = _quoted("endpoint", endpoint.id), _COLOURS[tile.state]
                yield f'    {node} [label={label}, color="{colour}"];'
        yield "  }"
    for tile in picture.tiles:
        network = _quoted("network", tile.network.switch, tile.network.name)
        yield f"  {_quoted('endpoint', tile.endpoint.id)} -- {network};"


def _tunnels(picture: Picture) -> Iterator[str]:
    (here,) = (number for number, card in enumerate(picture.cards) if card.host.here)
    for number, card in enumerate(picture.cards):
        if card.tunnel:
            colour = _COLOURS[TileState.UP if card.tunnel.state == "up" else TileState.FAULT]
            ends = f"{_quoted('host', picture.cards[here].host.name)} -- {_quoted('host', card.host.name)}"
            label = _quoted(f"{card.tunnel.type}: {card.tunnel.state}")
            yield (
                f"  {ends} [ltail=cluster_{here}, lhead=cluster_{number}, style=dashed, "
                f'color="{colour}", label={label}, constraint=false];'
            )


def _quoted(*parts: str) -> str:
    r"""Return a string of dot, with ``\n`` at the end of each line; a terminal may show it."""
    plain = "\n".join(map(one_line, " ".join(parts).split("\n")))
    text = plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'
