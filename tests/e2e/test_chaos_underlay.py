"""A short run of the chaos suite in a cloud (`make chaos UNDERLAY=1` is the long one), and its checks."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from chaos import invariants, views
from chaos.run import Chaos
from chaos.underlay import Underlay
from e2e.lab import Fabric, wait_for
from e2e.lab.cloud import Cloud

pytestmark = pytest.mark.underlay


@pytest.fixture(scope="module")
def chaos_cloud(module_fabric: Fabric, request: pytest.FixtureRequest) -> Cloud:
    """A cloud of this module alone, in which faults disturb no other test."""
    return Cloud(module_fabric, request.config.option.neutron)


@pytest.fixture(scope="module")
def chaos(chaos_cloud: Cloud) -> Chaos:
    return Chaos(Underlay(chaos_cloud, chaos_cloud.boot_three()), seed=1, say=print)


def test_state_is_in_order_after_random_faults(chaos: Chaos) -> None:
    chaos.rounds(6)
    print(chaos.summary())
    assert chaos.struck.total() == 6


@pytest.fixture
def pair(chaos: Chaos) -> Iterator[tuple[views.Endpoint, views.Endpoint]]:
    """Containers on vm1 and vm2, on a network that these share."""
    places = dict(zip(("box", "peer"), chaos.mode.hosts, strict=False))
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "--subnet=10.200.0.0/24")
    for name, vm in places.items():
        vm.docker(*create, "-o", "ovn.network=seen", "seen")
        vm.docker(
            "run", "-d", f"--name={name}", "--net=seen", "--stop-signal=KILL", "busybox", "sleep", "600"
        )

    def in_order() -> bool:
        return not invariants.troubles(chaos.mode, views.docker(chaos.mode.hosts))

    wait_for(in_order, "order")
    there = views.docker(chaos.mode.hosts)
    box, peer = (one for view in there for one in view.endpoints if one.container in places)
    yield box, peer
    for name, vm in places.items():
        vm.docker("rm", "--force", name)
        vm.docker("network", "rm", "seen")
    wait_for(in_order, "the damage to go")


def test_every_kind_of_damage_is_reported(
    chaos: Chaos, chaos_cloud: Cloud, pair: tuple[views.Endpoint, views.Endpoint]
) -> None:
    box, peer = pair
    demo, (vm1, *_) = chaos_cloud.demo, chaos.mode.hosts
    ((network,), (port,)) = demo.networks(name="seen"), demo.ports(name=peer.id)
    (trunk,) = (one for one in demo.trunks() if port.id in {sub["port_id"] for sub in one.sub_ports})
    with ExitStack() as undo:
        strays = demo.create_port(network_id=network.id, name="stray"), demo.create_network(name="stray")
        undo.callback(demo.delete_port, strays[0].id)
        undo.callback(demo.delete_network, strays[1].id)
        demo.set_tags(strays[1], ["ovn-docker"])
        demo.delete_trunk_subports(trunk.id, [{"port_id": port.id}])
        vm1.run("ovs-vsctl", "set", "Port", box.link, "tag=99")
        lines = invariants.troubles(chaos.mode, views.docker(chaos.mode.hosts))
    for seen in (
        "left behind: port stray of None on seen",
        "left behind: network stray",
        f"missing: port {peer.id} of vm2",
        f"missing: vm2: {peer.link} on the VLAN",
        f"left behind: vm1: {box.link} on VLAN 99, and not ",
    ):
        assert [line for line in lines if line.startswith(seen)], lines
