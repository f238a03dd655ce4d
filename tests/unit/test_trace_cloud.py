"""The path of a packet through Neutron's ports and groups; the end-to-end tests compare it with traffic."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ovn_docker.inspect.cloud import CloudPort, Group, Rule
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.trace.cloud_path import follow, routers_between
from ovn_docker.trace.packet_path import PacketPath, Physical, packet
from ovn_docker.trace.tracer import unconnected
from unit.clusters import DEFAULT, cloud

TALK = cloud(2, 12)
"""Every third container is on one network: ports 0 and 6 are in vm1, ports 3 and 9 in vm2."""


def with_ports(change: Callable[[CloudPort], CloudPort], *groups: Group) -> ClusterView:
    """Return the same cluster with changed ports and additional security groups."""
    seen = TALK.snapshot.cloud
    assert seen
    there = {**seen.groups, **{group.id: group for group in groups}}
    other = replace(seen, ports=tuple(map(change, seen.ports)), groups=there)
    return ClusterView(replace(TALK.snapshot, cloud=other))


def traced(
    cluster: ClusterView, source: int, target: int, what: str = "tcp/80", *, reply: bool = False
) -> PacketPath:
    seen = TALK.snapshot.cloud
    assert seen
    ends = {endpoint.id: endpoint for endpoint in TALK.endpoints}
    one, other = (ends[seen.ports[number].endpoint] for number in (source, target))
    return follow(cluster, one, other, packet(what), reply=reply)


def in_group(number: int, *rules: Rule, stateful: bool = True) -> ClusterView:
    group = Group("g", "some", stateful, (Rule("all", "egress", 4), *rules))
    return with_ports(
        lambda port: replace(port, groups=("g",)) if port.id == f"port{number}" else port, group
    )


def test_both_directions_have_all_hops() -> None:
    said = traced(TALK, 0, 3)
    assert said.delivered
    assert [hop.place for hop in said.hops] == [
        *("web", "vm1", "trunk", "Neutron", "port security", "security group", "network shop"),
        *("Neutron", "port security", "security group", "trunk"),
    ]
    assert traced(TALK, 3, 0, reply=True).delivered
    assert traced(TALK, 0, 6).delivered


@pytest.mark.parametrize(
    ("rule", "what", "delivered"),
    [
        (Rule("r", "ingress", 4), "tcp/80", True),
        (Rule("r", "ingress", 6), "tcp/80", False),
        (Rule("r", "egress", 4), "tcp/80", False),
        (Rule("r", "ingress", 4, "tcp"), "tcp/80", True),
        (Rule("r", "ingress", 4, "tcp"), "udp/80", False),
        (Rule("r", "ingress", 4, "tcp", 80, 80), "tcp/80", True),
        (Rule("r", "ingress", 4, "tcp", 1, 79), "tcp/80", False),
        (Rule("r", "ingress", 4, "udp", 50, 60), "udp/53", True),
        (Rule("r", "ingress", 4, "icmp"), "icmp", True),
        (Rule("r", "ingress", 4, "icmp", 8), "icmp", True),
        (Rule("r", "ingress", 4, "icmp", 8, 0), "icmp", True),
        (Rule("r", "ingress", 4, "icmp", 0), "icmp", False),
        (Rule("r", "ingress", 4, "tcp", prefixes=("10.10.0.0/24",)), "tcp/80", True),
        (Rule("r", "ingress", 4, "tcp", prefixes=("10.10.1.0/24", "10.10.0.2/32")), "tcp/80", True),
        (Rule("r", "ingress", 4, "tcp", prefixes=("10.10.1.0/24",)), "tcp/80", False),
        (Rule("r", "ingress", 4, "tcp", prefixes=()), "tcp/80", False),
        (Rule("r", "ingress", 4, group=DEFAULT.id), "tcp/80", True),
        (Rule("r", "ingress", 4, group="g"), "tcp/80", False),
    ],
)
def test_rule_matches_packets(rule: Rule, what: str, delivered: bool) -> None:
    said = traced(in_group(3, rule), 0, 3, what)
    assert said.delivered is delivered, said.verdict
    if not delivered:
        assert f"by security group some (g): no rule lets {what} in from web" in said.verdict


def test_nearest_rule_is_named() -> None:
    near = Rule("r", "ingress", 4, "tcp", 80, 90, prefixes=("10.9.0.0/16",))
    assert traced(in_group(3, near), 0, 3).verdict.endswith("; rule r is for IPv4, tcp/80-90, 10.9.0.0/16")


def test_answers_are_allowed_by_a_stateful_group() -> None:
    assert traced(in_group(0), 3, 0, reply=True).delivered
    assert not traced(in_group(0, stateful=False), 3, 0, reply=True).delivered
    high = Rule("r", "ingress", 4, "tcp", 1024, 65535)
    assert traced(in_group(0, high, stateful=False), 3, 0, reply=True).delivered


@pytest.mark.parametrize(
    ("number", "change", "verdict"),
    [
        (3, {"enabled": False}, "dropped at Neutron, by port port3: the port of "),
        (3, {"status": "DOWN"}, "dropped at Neutron, by port port3: the port of "),
        (
            0,
            {"vlan": None},
            "dropped at trunk, by port port0, trunk trunk1: the port of web is not a subport of",
        ),
        (0, {"vlan": 9}, "web has VLAN 1 on breth0, but its subport has VLAN 9"),
        (
            0,
            {"addresses": ("10.10.0.9",)},
            "dropped at port security, by port port0: allows fa:16:3e:00:00:00 ",
        ),
        (
            3,
            {"addresses": ()},
            "dropped at port security, by port port3: allows fa:16:3e:00:00:03 without an",
        ),
        (
            0,
            {"groups": ()},
            "dropped at security group, by port port0: web is not in any group, so nothing passes out",
        ),
        (0, {"mac": "fa:16:3e:99:99:99"}, "dropped at port security, by port port0"),
        (3, {"mac": "fa:16:3e:99:99:99"}, "dropped at network shop, by port port3: "),
        (
            0,
            {"secured": False, "groups": ()},
            "in from web; rule in4 is for IPv4, anything, members of default",
        ),
    ],
)
def test_fault_of_a_port_is_named(number: int, change: dict[str, object], verdict: str) -> None:
    wrong = with_ports(lambda p: replace(p, **change) if p.id == f"port{number}" else p)  # type: ignore[arg-type]
    assert verdict in traced(wrong, 0, 3).verdict


def test_allowed_address_pair_is_permitted() -> None:
    pair = {"addresses": (), "pairs": (("fa:16:3e:00:00:00", "10.10.0.0/24"),)}
    wrong = with_ports(lambda p: replace(p, **pair) if p.id == "port0" else p)  # type: ignore[arg-type]
    hops = {hop.place: hop.passes for hop in traced(wrong, 0, 3).hops}
    assert hops["port security"]


def test_port_with_a_binding_profile_need_not_be_active() -> None:
    profile = with_ports(lambda port: replace(port, subport=False, status="DOWN"))
    assert traced(profile, 0, 3).delivered


def test_stopped_vm_and_dropping_bridge_are_named() -> None:
    ill = cloud(2, 12, faults=True)
    assert "by port vif2: the port of VM vm2 has status DOWN in Neutron" in traced(ill, 0, 3).verdict
    ends = {endpoint.container: endpoint for endpoint in TALK.endpoints}
    dropped = follow(TALK, ends["web"], ends["mail"], packet("icmp"), Physical(True, why="in_port=1"))
    assert dropped.verdict == "dropped at vm1: Open vSwitch drops it (in_port=1)"


def test_container_without_a_port_in_neutron_is_named() -> None:
    nobody = ClusterView(replace(TALK.snapshot, cloud=replace(TALK.snapshot.cloud, ports=())))  # type: ignore[type-var]
    assert traced(nobody, 0, 3).verdict == "dropped at Neutron: web has no port in Neutron"


def test_router_between_two_networks_is_named() -> None:
    seen = TALK.snapshot.cloud
    assert seen
    routed = {id_: replace(net, routers=("r1", id_)) for id_, net in seen.networks.items()}
    ends = {endpoint.id: endpoint for endpoint in TALK.endpoints}
    one, other = ((ends[seen.ports[number].endpoint],) for number in (0, 1))
    assert routers_between(seen, one, other) == ()
    assert routers_between(replace(seen, networks=routed), one, other) == ("r1",)
    said = unconnected(
        ClusterView(replace(TALK.snapshot, cloud=replace(seen, networks=routed))), one, other, packet("icmp")
    )
    assert "by router r1, which has both networks, but is not the containers' default route: " in said.verdict
    assert said.verdict.endswith("connect one: docker network connect shop api")
