"""Containers in VMs of an OpenStack cloud: reachability, isolation, and leftovers."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import permutations
from typing import Any

import pytest

from e2e.lab import CommandError, wait_for
from e2e.lab.cloud import VM, Cloud
from e2e.lab.cloud.machines import Driver
from e2e.test_cloud import ping
from e2e.test_driver_killed import CRASH_DRIVER
from e2e.test_guide import ASK, ECHO, SEND, SERVE
from e2e.underlay import SWEEP_OPTIONS, Underlay

pytestmark = pytest.mark.underlay

CREATE = ("network", "create", "-d", "openvswitch")
SUBNET = "192.168.1.0/24"


@pytest.fixture(scope="module")
def shared_underlay(cloud: Cloud, vms: tuple[VM, VM, VM]) -> Iterator[Underlay]:
    underlay = Underlay(cloud, vms)
    underlay.start()
    yield underlay
    for vm in vms:
        vm.driver.stop()


@pytest.fixture
def underlay(shared_underlay: Underlay) -> Iterator[Underlay]:
    """Three VMs with the driver; afterwards checks that the test left nothing."""
    yield shared_underlay
    try:
        shared_underlay.start()
        shared_underlay.clear()
        shared_underlay.killed = False  # leases were deleted with their networks
        shared_underlay.settles()
    except BaseException:
        shared_underlay.purge()
        raise


@pytest.fixture
def foo(underlay: Underlay) -> None:
    """A network that all three VMs share."""
    for vm in underlay.vms:
        vm.docker(*CREATE, "--ipam-driver=openvswitch", f"--subnet={SUBNET}", "-o", "ovn.network=foo", "foo")


def foo_in_neutron(cloud: Cloud) -> Any:
    (network,) = cloud.demo.networks(name="foo")
    return network


def test_containers_of_all_machines_and_a_plain_machine_reach_each_other(
    underlay: Underlay, foo: None
) -> None:
    vm1, vm2, vm3 = underlay.vms
    places = {"c1": vm1, "neighbour": vm1, "c2": vm2, "c3": vm3}
    addresses = {name: underlay.run(vm, name) for name, vm in places.items()}
    assert len(set(addresses.values())) == len(places)  # Neutron's own allocation
    network = foo_in_neutron(underlay.cloud)
    plain = underlay.cloud.boot("plain", underlay.cloud.hypervisors[1], underlay.cloud.demo, network)
    with ExitStack() as undo:
        undo.callback(underlay.cloud.delete, plain)
        for one, other in permutations(places, 2):
            underlay.ping(places[one], one, addresses[other])
        for name, vm in places.items():
            underlay.ping(vm, name, plain.address)
            ping(plain, addresses[name])

        assert plain.address not in addresses.values()
        assert network.mtu == 1442
        for name in ("c1", "c3"):
            assert f"mtu {network.mtu}" in places[name].docker("exec", name, "ip", "link", "show", "eth0")
        largest = network.mtu - 28
        underlay.ping(vm1, "c1", addresses["c3"], "-s", str(largest))
        underlay.ping(vm1, "c1", plain.address, "-s", str(largest))


def test_connections_carry_full_packets(underlay: Underlay, foo: None) -> None:
    """TCP with full packets, and UDP, between hypervisors, for checksums and MTU."""
    vm1, _, vm3 = underlay.vms
    for vm in (vm1, vm3):
        vm.load("tools")
    vm3.docker("run", "-d", "--net=foo", "--name=server", "tools", "sleep", "3600")
    address = underlay.endpoint(vm3, "server")["IPAddress"]
    for server, client, answer in ((SERVE, SEND, "intact"), (ECHO, ASK, "answered")):
        vm3.docker("exec", "-d", "server", "sh", "-c", 'python3 -c "$0" $1 >/ready', server, address)
        wait_for(lambda: "ready" in vm3.docker("exec", "server", "cat", "/ready"), "the server")
        assert vm1.docker("run", "--rm", "--net=foo", "tools", "python3", "-c", client, address) == answer


def test_a_container_cannot_take_another_address(underlay: Underlay, foo: None) -> None:
    vm1, _, vm3 = underlay.vms
    # Neutron would choose addresses at random, maybe the one that the container takes.
    underlay.run(vm1, "c1", "--cap-add=NET_ADMIN", "--ip=192.168.1.10")
    address = underlay.run(vm3, "c3", "--ip=192.168.1.30")
    vm1.docker("exec", "c1", "ip", "address", "add", "192.168.1.99/24", "dev", "eth0")
    assert underlay.is_silent(vm1, "c1", address, "-I", "192.168.1.99")
    underlay.ping(vm1, "c1", address)


def test_containers_keep_their_network_when_stopped_restarted_and_removed(
    underlay: Underlay, foo: None
) -> None:
    vm1, vm2, _ = underlay.vms
    underlay.run(vm1, "c1")
    other = underlay.run(vm2, "c2")
    vm1.docker("stop", "c1")
    underlay.settles()
    vm1.docker("start", "c1")
    underlay.ping(vm1, "c1", other)
    vm1.docker("restart", "c1")
    underlay.ping(vm1, "c1", other)
    underlay.ping(vm2, "c2", underlay.endpoint(vm1, "c1")["IPAddress"])
    underlay.settles()
    vm1.docker("rm", "--force", "c1")
    underlay.settles()


def test_six_containers_start_at_once_on_one_trunk(underlay: Underlay, foo: None) -> None:
    vm1, _, vm3 = underlay.vms
    names = [f"c{i}" for i in range(6)]
    with ThreadPoolExecutor(len(names)) as pool:
        addresses = list(pool.map(lambda name: underlay.run(vm1, name), names))
    underlay.run(vm3, "witness")
    for address in addresses:
        underlay.ping(vm3, "witness", address)
    underlay.settles()
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: vm1.docker("rm", "--force", name), names))


def test_two_tenants_are_isolated(underlay: Underlay) -> None:
    """Both have the same addresses, in machines side by side; one tries to attach to the other's network."""
    cloud, vm1 = underlay.cloud, underlay.vms[0]
    foreign = cloud.boot("foreign", cloud.hypervisors[0], cloud.alt)
    with ExitStack() as undo:
        undo.callback(cloud.delete, foreign)
        foreign.prepare()
        foreign.driver.start(*SWEEP_OPTIONS)
        for vm in (vm1, foreign):
            vm.docker(*CREATE, f"--subnet={SUBNET}", "-o", "ovn.network=foo", "foo")
        underlay.run(vm1, "c1", "--ip=192.168.1.10")
        underlay.run(vm1, "same", "--ip=192.168.1.20")
        underlay.run(foreign, "c1", "--ip=192.168.1.20")
        underlay.run(foreign, "other", "--ip=192.168.1.30")
        underlay.ping(foreign, "c1", "192.168.1.30")
        assert underlay.is_silent(foreign, "c1", "192.168.1.10")
        assert underlay.is_silent(vm1, "c1", "192.168.1.30")
        mac = underlay.endpoint(vm1, "same")["MacAddress"]
        underlay.ping(vm1, "c1", "192.168.1.20")
        assert mac in vm1.docker("exec", "c1", "cat", "/proc/net/arp")

        network = foo_in_neutron(cloud)
        with pytest.raises(CommandError, match=f"Neutron has no network '{network.id}' for this project"):
            foreign.docker(*CREATE, "--subnet=10.7.0.0/24", "-o", f"ovn.switch={network.id}", "bar")
        foreign.docker("rm", "--force", "c1", "other")
        foreign.docker("network", "rm", "foo")
        assert cloud.alt.networks(is_shared=False) == []
        assert [port.name for port in cloud.alt.ports()] == ["foreign"]


def test_security_groups_are_enforced(underlay: Underlay, foo: None) -> None:
    """Members of the project's default group reach each other; a group without rules admits no packets."""
    demo, (vm1, vm2, _) = underlay.cloud.demo, underlay.vms
    group = demo.create_security_group(name="hermits")
    with ExitStack() as undo:
        undo.callback(demo.delete_security_group, group.id)
        undo.callback(underlay.clear)
        vm1.docker(*CREATE, f"--subnet={SUBNET}", "-o", f"ovn.switch={foo_in_neutron(underlay.cloud).id}",
                   "-o", "ovn.security-groups=hermits", "--ipam-driver=openvswitch", "hermitage")  # fmt: skip
        hermit = underlay.run(vm1, "hermit", network="hermitage")
        address = underlay.run(vm2, "c2")
        neighbour = underlay.run(vm2, "neighbour")
        underlay.ping(vm2, "c2", neighbour)
        assert underlay.is_silent(vm2, "c2", hermit)
        demo.create_security_group_rule(security_group_id=group.id, direction="ingress", protocol="icmp",
                                        ether_type="IPv4")  # fmt: skip
        underlay.ping(vm2, "c2", hermit)
        assert underlay.is_silent(vm1, "hermit", address)


def test_containers_work_again_after_a_power_cut(underlay: Underlay, foo: None) -> None:
    vm1, vm2, vm3 = underlay.vms
    underlay.run(vm3, "back", "--restart=always")
    underlay.run(vm3, "gone")
    witness = underlay.run(vm1, "witness")
    vm3.power_off()
    vm3.power_on()
    vm3.start_switch()
    vm3.make_bridge()
    vm3.driver.start(*SWEEP_OPTIONS)
    vm3.start_docker()
    wait_for(lambda: vm3.docker("ps", "--quiet", "--filter=name=back"), "the container to come back")
    underlay.ping(vm3, "back", witness)
    underlay.settles()
    vm3.docker("start", "gone")
    underlay.ping(vm3, "gone", underlay.run(vm2, "c2"))


def test_running_containers_work_while_neutron_is_down(underlay: Underlay, foo: None) -> None:
    """Requests in the meantime fail with a reason and leave nothing."""
    vm1, _, vm3 = underlay.vms
    neutron = underlay.cloud.control.neutron
    underlay.run(vm1, "c1")
    underlay.run(vm1, "removed")
    address = underlay.run(vm3, "c3")
    vm3.docker(*CREATE, "--subnet=192.168.3.0/24", "baz")
    neutron.stop()
    try:
        underlay.ping(vm1, "c1", address)
        refused = r"cannot reach Neutron at http://.*:9696: Connection refused; check that it runs"
        with pytest.raises(CommandError, match=refused):
            underlay.run(vm1, "new")
        with pytest.raises(CommandError, match=refused):
            vm1.docker(*CREATE, "--subnet=192.168.2.0/24", "bar")
        vm1.docker("rm", "--force", "removed")
        vm3.docker("network", "rm", "baz")
        underlay.ping(vm1, "c1", address)
    finally:
        neutron.start()
    underlay.settles()
    vm1.docker("rm", "--force", "new")
    underlay.ping(vm1, "c1", underlay.run(vm3, "late"))


def test_calls_end_when_packets_to_neutron_are_lost(underlay: Underlay, foo: None) -> None:
    """Every call of Docker ends within its deadline."""
    control, vm1 = underlay.cloud.control, underlay.vms[0]
    underlay.run(vm1, "c1")
    vm1.driver.stop()
    vm1.driver.start(*SWEEP_OPTIONS, "--request-timeout=5")
    underlay.cloud.fabric.partition(control)
    try:
        with pytest.raises(CommandError, match=r"OpenStack|Neutron"):
            underlay.run(vm1, "new")
        vm1.docker("rm", "--force", "c1", "new")
    finally:
        underlay.cloud.fabric.heal(control)
    underlay.settles()
    vm1.driver.stop()  # the fixture starts it with its usual options


def test_a_driver_killed_while_containers_start_leaves_no_leftovers(underlay: Underlay, foo: None) -> None:
    vm1, _, vm3 = underlay.vms
    names = [f"c{i}" for i in range(6)]
    with ThreadPoolExecutor(len(names)) as pool:
        starts = {name: pool.submit(underlay.run, vm1, name) for name in names}
        wait_for(lambda: "odh" in vm1.run("ovs-vsctl", "list-ports", "breth0"), "one to be plugged")
        vm1.driver.kill()
        underlay.killed = True
        vm1.driver.start(*SWEEP_OPTIONS)
    for name, start in starts.items():
        if start.exception():
            assert isinstance(start.exception(), CommandError)
            vm1.docker("rm", "--force", name)
            underlay.run(vm1, name)
    underlay.settles()
    witness = underlay.run(vm3, "witness")
    for name in names:
        underlay.ping(vm1, name, witness)


def test_a_driver_killed_between_any_two_steps_leaves_no_leftovers(underlay: Underlay) -> None:
    """Steps in the life of a network with a container: in Neutron, Open vSwitch, the kernel, Docker."""
    vm = underlay.vms[0]
    driver = Driver(vm, sys.executable, CRASH_DRIVER, listens=vm.driver.listens)
    create = (*CREATE, "--ipam-driver=openvswitch", f"--subnet={SUBNET}", "bar")

    def live_and_die() -> None:
        for command in (
            lambda: vm.docker(*create, timeout=150),
            lambda: underlay.run(vm, "first", network="bar"),
            lambda: vm.docker("rm", "--force", "first", timeout=150),
            lambda: vm.docker("network", "rm", "bar", timeout=150),
        ):
            with suppress(CommandError):
                command()

    def start(step: str) -> None:
        vm.driver.stop()
        driver.start(step, vm.driver.argv[1], *SWEEP_OPTIONS)

    live_and_die()  # Docker asks once for the driver's capabilities: later lives lack these steps
    start("0")
    live_and_die()
    driver.stop()
    steps = [line for line in vm.tail(driver.log, lines=1000).splitlines() if line.startswith("step ")]
    assert len(steps) > 20
    underlay.killed = True

    for step in steps:
        print(step)  # pytest shows them for a failed test: the last one is the cause
        start(step.split()[1])
        with ThreadPoolExecutor() as pool:
            life = pool.submit(live_and_die)
            wait_for(lambda: not driver.pid, "the driver to die")
            vm.driver.start(*SWEEP_OPTIONS)
            life.result()
        underlay.clear()
        vm.docker(*create)
        underlay.run(vm, "second", network="bar")
        underlay.settles()
        underlay.clear()
    underlay.purge()  # incomplete networks: leftovers only after five minutes


def test_refusals_of_neutron_are_reported_in_one_line(underlay: Underlay) -> None:
    cloud, vm1 = underlay.cloud, underlay.vms[0]
    vm1.docker(*CREATE, f"--subnet={SUBNET}", "foo")
    underlay.run(vm1, "c1", "--ip=192.168.1.10")
    (network,) = [
        network for network in cloud.demo.networks(is_shared=False) if "docker:" in str(network.tags)
    ]

    held = cloud.demo.create_port(
        network_id=network.id, name="held", fixed_ips=[{"ip_address": "192.168.1.50"}]
    )
    with pytest.raises(CommandError, match=r"address 192.168.1.50 is in use by port .* in Neutron \(held\)"):
        underlay.run(vm1, "c2", "--ip=192.168.1.50")
    cloud.demo.delete_port(held.id)

    vm3 = underlay.vms[2]
    for vm in (vm1, vm3):  # with Docker's own IPAM, which does not see other machines
        vm.docker(*CREATE, "--subnet=192.168.4.0/24", "-o", "ovn.network=shared", "shared")
    underlay.run(vm1, "c4", "--ip=192.168.4.7", network="shared")
    with pytest.raises(CommandError, match=r"address 192.168.4.7 is in use by endpoint \w+ on host"):
        underlay.run(vm3, "c5", "--ip=192.168.4.7", network="shared")

    used = len(cloud.demo.ports())
    cloud.admin.update_quota(cloud.demo.project, ports=used)
    try:
        with pytest.raises(
            CommandError,
            match=r"Neutron refused the request: Quota exceeded for resources: \['port'\]; delete",
        ):
            underlay.run(vm1, "c3")
    finally:
        cloud.admin.update_quota(cloud.demo.project, ports=500)
    for arguments, message in (
        (
            ["-o", "com.docker.network.driver.mtu=9000"],
            "is more than the 1500 bytes that the network of the VM's",
        ),
        (["-o", "ovn.switch=none"], "Neutron has no network 'none' for this project: give the ID of one"),
        (["-o", "ovn.security-groups=none"], "Neutron has no security group 'none'"),
        (["-o", "ovn.network=management"], "Neutron has a network management that ovn-docker did not make"),
    ):
        with pytest.raises(CommandError, match=message) as refused:
            vm1.docker(*CREATE, "--subnet=192.168.9.0/24", *arguments, "bar")
        assert len(refused.value.stderr.splitlines()) == 1
    for name in ("c2", "c3"):
        with suppress(CommandError):
            vm1.docker("rm", "--force", name)


def test_an_existing_network_is_attached_to_and_never_deleted(underlay: Underlay) -> None:
    demo, (vm1, _, vm3) = underlay.cloud.demo, underlay.vms
    network = demo.create_network(name="users")
    subnet = demo.create_subnet(
        network_id=network.id, ip_version=4, cidr="10.7.0.0/24", gateway_ip="10.7.0.254"
    )
    with ExitStack() as undo:
        undo.callback(demo.delete_network, network.id)
        undo.callback(underlay.clear)
        attach = ("--subnet=10.7.0.0/24", "--gateway=10.7.0.254", "-o", "ovn.switch=users")
        for vm in (vm1, vm3):
            vm.docker(*CREATE, "--ipam-driver=openvswitch", *attach, "foo")
        address = underlay.run(vm3, "c3")
        underlay.run(vm1, "c1")
        underlay.ping(vm1, "c1", address)
        underlay.clear()
        left = demo.get_network(network.id)
        assert (left.subnet_ids, left.tags, left.name) == ([subnet.id], [], "users")


def test_binding_profile_works_where_the_policy_allows_it(underlay: Underlay) -> None:
    cloud, (vm1, _, vm3) = underlay.cloud, underlay.vms
    policy = cloud.control.path("/etc/neutron/policy.yaml")
    with ExitStack() as undo:
        undo.callback(vm1.driver.stop)  # the fixture starts it with a trunk again
        undo.callback(underlay.clear)
        undo.callback(policy.unlink, missing_ok=True)
        vm1.driver.stop()
        vm1.driver.start(*SWEEP_OPTIONS, "--parent=profile")
        for vm in (vm1, vm3):
            vm.docker(
                *CREATE, "--ipam-driver=openvswitch", f"--subnet={SUBNET}", "-o", "ovn.network=foo", "foo"
            )
        with pytest.raises(
            CommandError, match="this cloud does not let you set binding:profile: start the driver"
        ):
            underlay.run(vm1, "c0")
        vm1.docker("rm", "--force", "c0")
        assert [port.name for port in cloud.demo.ports() if not port.device_owner] == []

        allow = "rule:admin_or_owner or rule:service_api"
        policy.write_text("".join(f'"{do}_port:binding:profile": "{allow}"\n' for do in ("create", "update")))
        underlay.run(vm1, "c1")
        underlay.ping(vm1, "c1", underlay.run(vm3, "c3"))


def test_networks_have_at_most_the_mtu_of_the_vms_network(underlay: Underlay) -> None:
    """Neutron puts no port with a larger MTU behind the VM's port."""
    cloud, (vm1, vm2, _) = underlay.cloud, underlay.vms
    cloud.admin.update_network(cloud.management.id, mtu=1400)
    try:
        for vm in (vm1, vm2):
            vm.docker(
                *CREATE, "--ipam-driver=openvswitch", f"--subnet={SUBNET}", "-o", "ovn.network=foo", "foo"
            )
        address = underlay.run(vm2, "c2")
        underlay.run(vm1, "c1")
        assert foo_in_neutron(cloud).mtu == 1400
        assert "mtu 1400" in vm1.docker("exec", "c1", "ip", "link", "show", "eth0")
        underlay.ping(vm1, "c1", address, "-s", "1372")
    finally:
        underlay.clear()
        cloud.admin.update_network(cloud.management.id, mtu=1500)


def test_containers_have_addresses_of_both_ip_versions(underlay: Underlay) -> None:
    vm1, _, vm3 = underlay.vms
    subnets = (f"--subnet={SUBNET}", "--ipv6", "--subnet=fd00:1::/64", "-o", "ovn.network=foo")
    for vm in (vm1, vm3):
        vm.docker(*CREATE, "--ipam-driver=openvswitch", *subnets, "foo")
    underlay.run(vm3, "c3")
    underlay.run(vm1, "c1")
    endpoint = underlay.endpoint(vm3, "c3")
    for key in ("IPAddress", "GlobalIPv6Address"):
        underlay.ping(vm1, "c1", endpoint[key])
