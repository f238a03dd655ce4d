"""Pictures of clusters: layout, marks of differences, escaped names, formats."""

import os
import re
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_docker.cli.graph import format_of, write
from ovn_docker.draw.dot import dot
from ovn_docker.draw.layout import Box, Picture, TileState, picture
from ovn_docker.draw.page import page
from ovn_docker.draw.svg import Shortener, svg
from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.inspect.cluster import ClusterView
from unit.clusters import NETWORKS, cloud, cluster

SIZES = [(1, 0), (1, 4), (3, 3), (3, 14), (4, 30), (3, 300), (10, 300), (24, 120)]
NAMESPACE = "{http://www.w3.org/2000/svg}"


def inside(inner: Box, outer: Box) -> bool:
    right, bottom = inner.x + inner.width, inner.y + inner.height
    return (
        inner.x >= outer.x
        and inner.y >= outer.y
        and right <= outer.x + outer.width + 0.01
        and bottom <= outer.y + outer.height + 0.01
    )


def overlap(one: Box, other: Box) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


@pytest.mark.parametrize(("hosts", "containers"), SIZES)
def test_every_container_is_drawn_once_on_its_host_and_network(hosts: int, containers: int) -> None:
    seen = cluster(hosts, containers)
    drawn = picture(seen)
    assert sorted(tile.endpoint.id for tile in drawn.tiles) == sorted(e.id for e in seen.endpoints)
    assert len(drawn.tiles) == containers
    for tile in drawn.tiles:
        (card,) = (card for card in drawn.cards if inside(tile.box, card.box))
        (cell,) = (cell for cell in drawn.cells if inside(tile.box, cell.box))
        assert card.host.name == tile.endpoint.host
        assert cell.network.name == tile.endpoint.network
        assert cell.colour == tile.colour


@pytest.mark.parametrize(("hosts", "containers"), SIZES)
def test_boxes_do_not_overlap_and_are_on_the_page(hosts: int, containers: int) -> None:
    drawn = picture(cluster(hosts, containers, faults=True))
    whole = Box(0, 0, drawn.width, drawn.height)
    for boxes in (
        [tile.box for tile in drawn.tiles],
        [cell.box for cell in drawn.cells],
        [card.box for card in drawn.cards],
    ):
        assert all(inside(box, whole) for box in boxes)
        assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]


def test_shared_network_is_a_lane_and_own_network_is_in_its_card() -> None:
    drawn = picture(cluster(3, 30))
    assert sorted(lane.network.name for lane in drawn.lanes) == ["backend", "shop", "telemetry"]
    for lane in drawn.lanes:
        assert lane.box.x <= min(card.box.x for card in drawn.cards)
        assert {cell.box.y for cell in drawn.cells if cell.network == lane.network} == {lane.box.y}
    assert sorted(cell.network.name for cell in drawn.cells if cell.heading) == ["build", "lab"]


def test_hosts_with_the_same_name_are_drawn_by_system_id() -> None:
    seen = cluster(3, 14)
    assert seen.snapshot.southbound
    chassis = tuple(replace(row, hostname="debian") for row in seen.snapshot.southbound.chassis)
    same = ClusterView(replace(seen.snapshot, southbound=replace(seen.snapshot.southbound, chassis=chassis)))
    drawn = picture(same)
    assert [card.host.name for card in drawn.cards] == ["host1", "host2", "host3"]
    assert [card.host.here for card in drawn.cards] == [True, False, False]
    assert len(drawn.tiles) == 14
    assert dot(drawn).count("subgraph cluster_") == 3


def test_few_hosts_are_in_one_row_and_many_fill_a_screen() -> None:
    assert len(picture(cluster(3, 14)).rails) == 1
    many = picture(cluster(24, 300))
    assert len(many.rails) > 1
    assert 1 < many.width / many.height < 2.5


def test_differences_are_marked_and_listed() -> None:
    healthy, ill = picture(cluster(3, 60)), picture(cluster(3, 60, faults=True))
    assert healthy.faults == ()
    assert "no differences" in svg(healthy)
    marked = {tile.fault: tile for tile in ill.tiles if tile.fault}
    assert len(marked) == 2
    for number, tile in marked.items():
        assert tile.state is TileState.FAULT
        assert ill.faults[number - 1].startswith(f"{tile.endpoint.container} on {tile.endpoint.host}")
        assert "no host has claimed it" in ill.faults[number - 1]
    assert ill.faults[0] == "tunnel to host3 (10.0.0.3): BFD down"
    assert "3 differences" in svg(ill)


@pytest.mark.parametrize(("vms", "containers"), [(1, 3), (3, 30), (8, 300)])
def test_virtual_machines_have_their_trunks(vms: int, containers: int) -> None:
    drawn = picture(cloud(vms, containers))
    assert [card.host.name for card in drawn.cards] == [f"vm{n}" for n in range(1, vms + 1)]
    assert len(drawn.tiles) == containers
    assert {tile.state for tile in drawn.tiles} == {TileState.UP}
    said = texts(svg(drawn))
    assert sum("is ACTIVE" in text for text in said) == vms
    assert "no differences" in said
    assert not any(word in text for text in said for word in ("tunnel", "OVN", "northbound"))
    if vms > 1:
        ill = picture(cloud(vms, containers, faults=True))
        assert "port vif" + f"{vms} is DOWN" in texts(svg(ill))
        assert ill.faults[0] == f"VM vm{vms}: its port vif{vms} is DOWN in Neutron"
        assert any("is not a subport of the trunk of vm" in fault for fault in ill.faults)


def texts(file: str) -> list[str]:
    root = ET.fromstring(file)
    return ["".join(element.itertext()) for element in root.iter(f"{NAMESPACE}text")]


def test_names_are_escaped() -> None:
    evil = ('</text><script>alert("x")</script>', "a&b", "\x00\x1b[31m", "]]>", "x" * 300, "&#0;")
    file = svg(picture(cluster(2, 6, names=evil)))
    root = ET.fromstring(file)
    assert {element.tag.removeprefix(NAMESPACE) for element in root.iter()} <= {
        *("svg", "title", "style", "rect", "circle", "path", "text", "g")
    }
    assert "a&b" in texts(file)
    assert max(map(len, texts(file))) < 100
    html = page(picture(cluster(2, 6, names=evil)))
    assert html.count("<script") == 1
    assert '"x"' not in html


@pytest.mark.parametrize("make", [svg, page])
def test_file_refers_to_no_other_file(make: object) -> None:
    file = make(picture(cluster(3, 14)))  # type: ignore[operator]
    assert set(re.findall(r"https?://[^\"'< ]+", file)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|<link|src=", file)


def test_empty_picture_has_the_reasons(pytestconfig: pytest.Config) -> None:
    nothing = cluster(1, 0)
    object.__setattr__(nothing.snapshot, "northbound", None)
    object.__setattr__(nothing.snapshot, "southbound", None)
    object.__setattr__(nothing.snapshot, "missing", {"northbound": "cannot reach it", "southbound": "nor it"})
    drawn = picture(nothing)
    assert [card.host.name for card in drawn.cards] == ["host1"]
    assert drawn.faults[:2] == ("northbound: cannot reach it", "southbound: nor it")


def test_dot_has_hosts_networks_and_containers() -> None:
    file = dot(picture(cluster(3, 14, names=('a"b\\',))))
    assert file.count("subgraph cluster_") == 3
    assert file.count("shape=oval") == len(NETWORKS)
    assert file.count(' -- "network ') == 14
    assert file.count('"host host1" -- ') == 2
    assert r'"a\"b\\\n10.10.' in file
    for line in file.splitlines():
        assert len(re.findall(r'(?<!\\)(?:\\\\)*"', line)) % 2 == 0


@pytest.mark.parametrize(
    ("given", "name", "means"),
    [
        (None, None, "svg"),
        (None, "a.html", "html"),
        (None, "a.GV", "dot"),
        ("dot", "a.svg", "dot"),
        (None, "a", "svg"),
    ],
)
def test_format_follows_option_or_suffix(given: str | None, name: str | None, means: str, tmp_path) -> None:
    assert format_of(given, tmp_path / name if name else None) == means


def test_unsupported_format_is_refused(tmp_path) -> None:
    with pytest.raises(
        BadRequest,
        match=r"a\.PNG: png is not one of .*: ovn-docker graph --format dot \| dot -Tpng",
    ):
        format_of(None, tmp_path / "a.PNG")
    assert format_of("svg", tmp_path / "a.png") == "svg"


def test_file_is_written_whole_or_not_at_all(tmp_path) -> None:
    write("picture", tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text() == "picture"
    with pytest.raises(OvnDockerError, match=r"cannot write .*/none/a.svg: No such file or directory; name"):
        write("picture", tmp_path / "none" / "a.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


def test_device_and_symbolic_link_are_kept(tmp_path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link.svg"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    write("picture", pipe)
    assert pipe.is_fifo()
    assert os.read(reader, 100) == b"picture"
    os.close(reader)
    link.symlink_to(tmp_path / "a.svg")
    write("picture", link)
    assert (tmp_path / "a.svg").read_text() == "picture"
    assert link.is_symlink()


def test_layout_is_deterministic() -> None:
    one, other = (picture(cluster(5, 40)) for _ in range(2))
    assert isinstance(one, Picture)
    assert svg(one) == svg(other)


def test_different_names_stay_different_when_shortened() -> None:
    names = [
        *(f"shop-production-frontend-{number}" for number in range(1, 30)),
        *(f"shop-production-{part}-of-the-application-1" for part in ("database", "frontend", "queue")),
        "web",
    ]
    shortener = Shortener(names)
    cut = [shortener.cut(name, 14) for name in names]
    assert len(set(cut)) == len(names)
    assert max(map(len, cut)) <= 14
    assert cut[0] == "shop-pr\N{HORIZONTAL ELLIPSIS}tend-1"
    assert cut[-1] == "web"


@given(st.lists(st.text(alphabet="ab-1", max_size=12), unique=True, max_size=8), st.integers(2, 12))
def test_shortened_names_fit(names: list[str], room: int) -> None:
    shortener = Shortener(names)
    assert all(len(shortener.cut(name, room)) <= room for name in names)
    assert all(shortener.cut(name, room) == name for name in names if len(name) <= room)
