"""The lab's OpenStack cloud works like a real one: ports of Neutron and tagged subports are plugged."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from e2e.lab import CommandError, wait_for
from e2e.lab.cloud import BRIDGE, VM, Cloud
from e2e.lab.host import PING_REPEATEDLY

pytestmark = pytest.mark.underlay

# Makes a container by hand. Arguments: name, MAC address, IP address, MTU, VLAN.
PLUG_IN = f"""
ip netns add $1
ip link add $1 type veth peer name inside netns $1
ip link set $1 up
ip -netns $1 link set inside address $2 mtu $4 up
ip -netns $1 address add $3/24 dev inside
ip netns exec $1 ethtool --offload inside tx off >/dev/null
ovs-vsctl add-port {BRIDGE} $1 tag=$5
"""


def ping(host: VM, address: str, *options: str, inside: tuple[str, ...] = ()) -> None:
    """Ping an address. Raises CommandError unless it answers within a minute.

    Packets to a new port may get lost until the other hypervisor has its flows, too.
    """
    host.run(*inside, "sh", "-c", PING_REPEATEDLY, "busybox ping", *options, address, timeout=90)


def test_machines_reach_each_other_and_the_apis(cloud: Cloud, vms: tuple[VM, VM, VM]) -> None:
    for vm in vms:
        for other in {*vms} - {vm}:
            ping(vm, other.address)
        assert "v3" in vm.run("busybox", "wget", "-q", "-O-", cloud.control.keystone.listens)
        assert vm.openrc["OS_VIF_ID"] in vm.run("cat", "/root/openrc.sh")
        wait_for(lambda vm=vm: cloud.demo.get_port(vm.port.id).status == "ACTIVE", "the port to be ACTIVE")


@pytest.fixture
def network(cloud: Cloud) -> Iterator[Any]:
    """A network of the tenant; the ports that the tests plug into it are deleted with it."""
    network = cloud.demo.create_network(name="by-hand")
    # Neutron chooses addresses at random: the tests use some outside the pool.
    pool = {"start": "10.9.8.101", "end": "10.9.8.200"}
    cloud.demo.create_subnet(
        network_id=network.id, ip_version=4, cidr="10.9.8.0/24", allocation_pools=[pool], enable_dhcp=False
    )
    yield network
    cloud.demo.delete_network(network.id)


def test_a_plain_tenant_plugs_subports_into_its_machines(
    cloud: Cloud, vms: tuple[VM, VM, VM], network: Any
) -> None:
    demo = cloud.demo
    with ExitStack() as undo:
        addresses = {}
        for vm in vms:
            if trunks := demo.trunks(port_id=vm.port.id):  # the trunk of the driver of another test
                (trunk,) = trunks
            else:
                trunk = demo.create_trunk(port_id=vm.port.id, name=vm.name)
                undo.callback(demo.delete_trunk, trunk.id)
            port = demo.create_port(network_id=network.id, name=f"{vm.name}-subport")
            undo.callback(demo.delete_port, port.id)
            subport = {"port_id": port.id, "segmentation_type": "vlan", "segmentation_id": 7}
            demo.add_trunk_subports(trunk.id, [subport])
            undo.callback(demo.delete_trunk_subports, trunk.id, [{"port_id": port.id}])
            addresses[vm] = port.fixed_ips[0]["ip_address"]
            vm.run("sh", "-ec", PLUG_IN, "sh", "box", port.mac_address, addresses[vm], str(network.mtu), "7")
            undo.callback(vm.run, "sh", "-ec", f"ovs-vsctl del-port {BRIDGE} box; ip netns delete box")
        vm1, *others = vms
        inside = ("ip", "netns", "exec", "box")
        for vm in others:
            ping(vm1, addresses[vm], inside=inside)
        vm1.run(*inside, "ip", "address", "add", "10.9.8.99/24", "dev", "inside")
        with pytest.raises(CommandError, match="100% packet loss"):
            vm1.run(*inside, "busybox", "ping", "-c", "1", "-W", "2", "-I", "10.9.8.99", addresses[others[0]])


def test_machine_on_a_plain_network_is_reachable(cloud: Cloud, network: Any) -> None:
    hv1, hv2 = cloud.hypervisors
    plain1, plain2 = (
        cloud.boot("plain1", hv1, cloud.demo, network),
        cloud.boot("plain2", hv2, cloud.demo, network),
    )
    ping(plain1, plain2.address)
    ping(plain1, plain2.address, "-s", str(network.mtu - 28))
    for vm in (plain1, plain2):
        cloud.delete(vm)


def test_cloud_machine_boots_after_a_power_cut(cloud: Cloud, vms: tuple[VM, VM, VM]) -> None:
    vm = cloud.boot("victim", cloud.hypervisors[1], cloud.demo)
    for _ in range(2):
        vm.start_switch()
        vm.make_bridge()
        vm.power_off()
        vm.power_on()
    vm.start_switch()
    vm.make_bridge()
    ping(vms[0], vm.address)
    assert "v3" in vm.run("busybox", "wget", "-q", "-O-", cloud.control.keystone.listens)
    cloud.delete(vm)
