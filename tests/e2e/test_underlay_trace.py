"""Verdicts of `ovn-docker trace` in VMs of a cloud agree with real traffic, for every kind of fault."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from e2e.lab import CommandError, wait_for
from e2e.lab.cloud import BRIDGE, VM, Cloud
from e2e.underlay import Underlay

pytestmark = pytest.mark.underlay

CREATE = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch")
PLACES = {"web": 0, "next": 0, "near": 1, "far": 2, "other": 2}
"""Containers, and the VM of each: `near` is on the same hypervisor as `web`, `far` is not."""


class Topology:
    """Containers on `foo` in three VMs, and `other` on `bar` alone."""

    def __init__(self, underlay: Underlay) -> None:
        self.underlay, self.demo = underlay, underlay.cloud.demo
        self.where = {name: underlay.vms[number] for name, number in PLACES.items()}
        self.endpoints: dict[str, dict[str, str]] = {}
        for vm in underlay.vms:
            vm.docker(*CREATE, "--subnet=192.168.1.0/24", "-o", "ovn.network=foo", "foo")
        self.where["other"].docker(*CREATE, "--subnet=192.168.2.0/24", "-o", "ovn.network=bar", "bar")
        for number, (name, vm) in enumerate(self.where.items(), start=10):
            network, subnet = ("bar", "192.168.2") if name == "other" else ("foo", "192.168.1")
            # Neutron would choose addresses at random, maybe those that tests give to ports.
            where = (f"--net={network}", f"--ip={subnet}.{number}")
            vm.docker("run", "-d", *where, f"--name={name}", "--stop-signal=KILL", "busybox",
                      "nc", "-ll", "-p", "5432", "-e", "true", timeout=150)  # fmt: skip
            self.endpoints[name] = underlay.endpoint(vm, name, network)

    def address(self, name: str) -> str:
        return self.endpoints[name]["IPAddress"]

    def link(self, name: str) -> str:
        return f"odh{self.endpoints[name]['EndpointID'][:12]}"

    def port(self, name: str) -> Any:
        """Return a container's port in Neutron."""
        (port,) = self.demo.ports(name=self.endpoints[name]["EndpointID"])
        return port

    def group(self) -> Any:
        """Return the project's default security group."""
        (group,) = self.demo.security_groups(name="default", project_id=self.demo.project)
        return group

    def reaches(self, source: str, target: str, packet: str) -> bool:
        """Return True if real traffic arrives; in user space a tunnel may lose the first packet."""
        address = self.address(target)
        once = f"ping -c 1 -W 1 {address}" if packet == "icmp" else f"nc -w 1 {address} 5432 </dev/null"
        try:
            self.where[source].docker("exec", source, "sh", "-c", f"{once} || {once} || {once}")
        except CommandError:
            return False
        return True

    def in_force(self) -> None:
        """Wait until the flows on all hypervisors are those that Neutron wants."""
        self.underlay.cloud.control.run("ovn-nbctl", "--timeout=60", "--wait=hv", "sync", timeout=65)

    def ask(self, vm: VM, *command: str, wrong: bool = False) -> str:
        """Return the output of a command of the operator in a VM, with the tenant's login."""
        login = vm.openrc | {"OS_PASSWORD": vm.account.password}
        variables = [f"{key}={value}" for key, value in login.items()]
        return vm.run("env", *variables, "ovn-docker", *command, check=not wrong, timeout=120)

    def traced(self, source: str, target: str, packet: str = "icmp", *options: str) -> tuple[bool, str]:
        """Return the verdict in the source's VM: True if the packet arrives, and the text."""
        command = ("trace", "--json", *options, source, self.endpoints[target]["EndpointID"][:12], packet)
        said = json.loads(self.ask(self.where[source], *command, wrong=True))
        return said["delivered"], said["verdict"]


@pytest.fixture(scope="module")
def topology(cloud: Cloud, vms: tuple[VM, VM, VM]) -> Iterator[Topology]:
    underlay = Underlay(cloud, vms)
    underlay.start()
    topology = Topology(underlay)
    yield topology
    underlay.clear()
    for vm in vms:
        vm.driver.stop()


@contextmanager
def nothing(topology: Topology) -> Iterator[None]:
    yield


@contextmanager
def changed(topology: Topology, name: str, /, **attributes: Any) -> Iterator[None]:
    """Set attributes of a container's port, and restore them afterwards."""
    port = topology.port(name)
    old = {key: getattr(port, _ATTRIBUTES.get(key, key)) for key in attributes}
    topology.demo.update_port(port.id, **attributes)
    yield
    topology.demo.update_port(port.id, **old)
    wait_for(lambda: topology.port(name).status == "ACTIVE", "the port to be back", timeout=60)


_ATTRIBUTES = {"admin_state_up": "is_admin_state_up", "port_security_enabled": "is_port_security_enabled",
               "security_groups": "security_group_ids"}  # fmt: skip
"""Names of attributes in openstacksdk."""


@contextmanager
def in_group(topology: Topology, name: str, *rules: dict[str, Any], alone: bool = True) -> Iterator[None]:
    """Put a container's port into a group with these rules, and those that permit all outgoing packets."""
    group = topology.demo.create_security_group(name="hermits")
    for rule in rules:
        topology.demo.create_security_group_rule(security_group_id=group.id, ether_type="IPv4", **rule)
    groups = [group.id] if alone else [group.id, topology.group().id]
    with changed(topology, name, security_groups=groups):
        yield
    topology.demo.delete_security_group(group.id)


@contextmanager
def silenced(topology: Topology, name: str) -> Iterator[None]:
    """Put a container's port into a group that permits no outgoing packets."""
    group = topology.demo.create_security_group(name="mute")
    for rule in group.security_group_rules:
        topology.demo.delete_security_group_rule(rule["id"])
    topology.demo.create_security_group_rule(
        security_group_id=group.id, ether_type="IPv4", direction="ingress"
    )
    with changed(topology, name, security_groups=[group.id]):
        yield
    topology.demo.delete_security_group(group.id)


@contextmanager
def no_subport(topology: Topology, name: str) -> Iterator[None]:
    (trunk,) = topology.demo.trunks(port_id=topology.where[name].port.id)
    port = topology.port(name)
    (subport,) = [sub for sub in trunk.sub_ports if sub["port_id"] == port.id]
    topology.demo.delete_trunk_subports(trunk.id, [{"port_id": port.id}])
    yield
    topology.demo.update_port(port.id, device_id="")  # Neutron refuses a port with a device as a subport
    topology.demo.add_trunk_subports(trunk.id, [subport])
    topology.demo.update_port(port.id, device_id=port.device_id)
    wait_for(lambda: topology.port(name).status == "ACTIVE", "the port to be back", timeout=60)


@contextmanager
def vm_switched_off_in_neutron(topology: Topology, name: str) -> Iterator[None]:
    """Disable the port of a container's VM, which does not affect the ports behind it."""
    port = topology.where[name].port
    topology.demo.update_port(port.id, admin_state_up=False)
    yield
    topology.demo.update_port(port.id, admin_state_up=True)
    wait_for(lambda: topology.demo.get_port(port.id).status == "ACTIVE", "the VM's port", timeout=60)


@contextmanager
def other_vlan(topology: Topology, name: str) -> Iterator[None]:
    vm, link = topology.where[name], topology.link(name)
    tag = vm.run("ovs-vsctl", "get", "Port", link, "tag").strip()
    vm.run("ovs-vsctl", "set", "Port", link, "tag=4000")
    yield
    vm.run("ovs-vsctl", "set", "Port", link, f"tag={tag}")


@contextmanager
def link_down(topology: Topology, name: str) -> Iterator[None]:
    topology.where[name].run("ip", "link", "set", topology.link(name), "down")
    yield
    topology.where[name].run("ip", "link", "set", topology.link(name), "up")


@contextmanager
def flow_in_the_bridge(topology: Topology, name: str) -> Iterator[None]:
    """Add a flow to the bridge of the container's VM that drops the container's packets."""
    vm = topology.where[name]
    rule = f"priority=100,in_port={topology.link(name)},ip"
    vm.run("ovs-ofctl", "add-flow", BRIDGE, f"{rule},actions=drop")
    yield
    vm.run("ovs-ofctl", "--strict", "del-flows", BRIDGE, rule)


Break = Callable[[Topology], AbstractContextManager[object]]
TCP = {"direction": "ingress", "protocol": "tcp", "port_range_min": 5000, "port_range_max": 5999}
PING = {"direction": "ingress", "protocol": "icmp", "port_range_min": 8}
BREAKS: dict[str, tuple[tuple[str, str], Break]] = {
    "nothing": (("web", "far"), nothing),
    "far lets nobody in": (("web", "far"), lambda t: in_group(t, "far")),
    "near lets tcp in": (("web", "near"), lambda t: in_group(t, "near", TCP)),
    "next lets pings in": (("web", "next"), lambda t: in_group(t, "next", PING)),
    "far lets some addresses in": (
        ("near", "far"),
        lambda t: in_group(t, "far", {**TCP, "remote_ip_prefix": f"{t.address('near')}/32"}),
    ),
    "far lets other addresses in": (
        ("web", "far"),
        lambda t: in_group(t, "far", {**TCP, "remote_ip_prefix": f"{t.address('near')}/32"}),
    ),
    "near is in two groups": (("far", "near"), lambda t: in_group(t, "near", PING, alone=False)),
    "web lets nothing out": (("web", "near"), lambda t: silenced(t, "web")),
    "far lets nothing out, but answers": (("web", "far"), lambda t: silenced(t, "far")),
    "web is in no group": (("web", "near"), lambda t: changed(t, "web", security_groups=[])),
    "far is switched off": (("web", "far"), lambda t: changed(t, "far", admin_state_up=False)),
    "web is switched off": (("web", "next"), lambda t: changed(t, "web", admin_state_up=False)),
    "near has another address": (
        ("near", "web"),
        lambda t: changed(t, "near", fixed_ips=[{"ip_address": "192.168.1.200"}]),
    ),
    "far has another address": (
        ("web", "far"),
        lambda t: changed(t, "far", fixed_ips=[{"ip_address": "192.168.1.202"}]),
    ),
    "web has another address": (
        ("web", "next"),
        lambda t: changed(t, "web", fixed_ips=[{"ip_address": "192.168.1.201"}]),
    ),
    "next without port security": (
        ("next", "far"),
        lambda t: changed(t, "next", security_groups=[], port_security_enabled=False),
    ),
    "to one without port security": (
        ("far", "next"),
        lambda t: changed(t, "next", security_groups=[], port_security_enabled=False),
    ),
    "far is no subport": (("web", "far"), lambda t: no_subport(t, "far")),
    "web is no subport": (("web", "near"), lambda t: no_subport(t, "web")),
    "web has another VLAN": (("web", "near"), lambda t: other_vlan(t, "web")),
    "far has another VLAN": (("web", "far"), lambda t: other_vlan(t, "far")),
    "far's VM is switched off in Neutron": (("web", "far"), lambda t: vm_switched_off_in_neutron(t, "far")),
    "link of next down": (("web", "next"), lambda t: link_down(t, "next")),
    "link of far down": (("web", "far"), lambda t: link_down(t, "far")),
    "a flow in the bridge": (("web", "near"), lambda t: flow_in_the_bridge(t, "web")),
}
"""Faults between two containers."""

PAIRS = [("web", "next"), ("web", "near"), ("web", "far"), ("far", "near"), ("web", "other")]
PACKETS = ("icmp", "tcp/5432")


@pytest.mark.parametrize("broken", BREAKS)
def test_verdict_agrees_with_real_traffic(topology: Topology, broken: str) -> None:
    pair, make = BREAKS[broken]
    with make(topology):
        topology.in_force()
        others = [(pair, packet) for pair in PAIRS for packet in PACKETS if pair != BREAKS[broken][0]]
        for (source, target), packet in [
            *((pair, packet) for packet in PACKETS),
            *random.Random(broken).sample(others, k=1),
        ]:
            delivered, verdict = topology.traced(source, target, packet)
            assert delivered == topology.reaches(source, target, packet), (source, target, packet, verdict)


def test_a_drop_is_named_with_its_object(topology: Topology) -> None:
    web, far, near = (topology.port(name).id for name in ("web", "far", "near"))
    with in_group(topology, "far", {**TCP, "remote_ip_prefix": "10.0.0.0/8"}):
        (group,) = topology.demo.security_groups(name="hermits")
        (rule,) = [rule for rule in group.security_group_rules if rule["direction"] == "ingress"]
        _, verdict = topology.traced("web", "far", "tcp/5432", "--no-probe")
        assert verdict == (
            f"dropped at security group, by security group hermits ({group.id}): no rule lets tcp/5432 in "
            f"from web; rule {rule['id']} is for IPv4, tcp/5000-5999, 10.0.0.0/8"
        )
    with changed(topology, "web", security_groups=[]):
        _, verdict = topology.traced("web", "near", "icmp", "--no-probe")
        assert (
            verdict
            == f"dropped at security group, by port {web}: web is not in any group, so nothing passes out"
        )
    with changed(topology, "far", admin_state_up=False):
        _, verdict = topology.traced("web", "far", "icmp", "--no-probe")
        assert f"dropped at Neutron, by port {far}: the port of " in verdict
        assert verdict.endswith("is switched off (admin_state_up is false)")
    with changed(topology, "near", fixed_ips=[{"ip_address": "192.168.1.200"}]):
        _, verdict = topology.traced("near", "web", "icmp", "--no-probe")
        assert verdict.startswith(f"dropped at port security, by port {near}: allows ")
    with no_subport(topology, "web"):
        (trunk,) = topology.demo.trunks(port_id=topology.where["web"].port.id)
        _, verdict = topology.traced("web", "near", "icmp", "--no-probe")
        assert verdict == (
            f"dropped at trunk, by port {web}, trunk {trunk.id}: the port of web is not a subport of the "
            "trunk of vm1"
        )
    with other_vlan(topology, "web"):
        _, verdict = topology.traced("web", "near", "icmp", "--no-probe")
        assert f"by port {topology.link('web')}, trunk" in verdict
        assert f"web has VLAN 4000 on {BRIDGE}, but its subport has VLAN" in verdict
    _, verdict = topology.traced("web", "other")
    assert "web is on foo" in verdict
    assert "connect one: docker network connect foo " in verdict


def await_health(topology: Topology) -> None:
    """Wait until the doctor on vm1 finds nothing: repairs take a moment to show."""
    vm1, *_ = topology.underlay.vms
    healthy = "24 checks: 24 found nothing"
    wait_for(lambda: topology.ask(vm1, "doctor").strip() == healthy, "the doctor to find nothing")


def test_every_command_of_the_operator_works_in_a_vm(topology: Topology) -> None:
    vm1, *_ = topology.underlay.vms
    status = topology.ask(vm1, "status")
    assert f"Neutron port {vm1.port.id}" in status
    assert "northbound" not in status
    networks = {row["name"]: row for row in json.loads(topology.ask(vm1, "ls", "--json"))}
    assert (networks["foo"]["hosts"], networks["foo"]["endpoints"]) == (["vm1", "vm2", "vm3"], 4)
    assert (networks["bar"]["hosts"], networks["bar"]["here"]) == (["vm3"], False)
    rows = {row["id"]: row for row in json.loads(topology.ask(vm1, "ls", "endpoints", "--json"))}
    assert rows.keys() == {endpoint["EndpointID"] for endpoint in topology.endpoints.values()}
    assert all(row["up"] and not row["differences"] for row in rows.values())
    assert {row["container"] for row in rows.values() if row["here"]} == {"web", "next"}
    web = topology.ask(vm1, "inspect", "web")
    assert f"{topology.port('web').id}, ACTIVE" in web
    assert "of the trunk of vm1" in web
    assert "on vm3" in topology.ask(vm1, "inspect", topology.address("far"))
    await_health(topology)
    topology.ask(vm1, "graph", "-o", "/tmp/cloud.svg")
    picture = vm1.path("/tmp/cloud.svg").read_text()
    assert "<title>3 VMs, 2 networks, 5 containers</title>" in picture
    assert "no differences" in picture


def test_without_a_login_only_the_own_vm_is_shown(topology: Topology) -> None:
    vm1, *_ = topology.underlay.vms
    vm1.docker("exec", "-d", "web", "ping", "-c", "100", topology.address("next"))
    captured = vm1.run("ovn-docker", "tcpdump", "-c", "2", "web", "icmp", timeout=60)
    assert f"{topology.address('web')} > {topology.address('next')}: ICMP echo request" in captured
    with pytest.raises(CommandError, match="only this host is shown: OS_VIF_ID is not set") as end:
        vm1.run("ovn-docker", "ls", "endpoints", timeout=60)
    assert {line.split()[0] for line in end.value.stdout.splitlines()[1:]} == {"web", "next"}
    with pytest.raises(CommandError, match="OS_VIF_ID is not set"):
        vm1.run("ovn-docker", "trace", "web", "next", timeout=60)


def test_the_doctor_names_a_missing_port_and_its_cure_works(topology: Topology) -> None:
    vm1, *_ = topology.underlay.vms
    (trunk,) = topology.demo.trunks(port_id=vm1.port.id)
    topology.demo.delete_trunk_subports(trunk.id, [{"port_id": topology.port("next").id}])
    said = topology.ask(vm1, "doctor", wrong=True)
    assert f"port {topology.port('next').id} of next is not a subport of the VM's trunk" in said
    assert "$ docker restart next" in said
    assert "1 found something" in said
    inspected = topology.ask(vm1, "inspect", "next", wrong=True)
    assert "! differs" in inspected
    vm1.docker("restart", "next", timeout=150)
    topology.endpoints["next"] = topology.underlay.endpoint(vm1, "next")
    await_health(topology)
    assert topology.reaches("web", "next", "icmp")
