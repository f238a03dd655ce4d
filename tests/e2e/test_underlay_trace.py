"""In virtual machines of a cloud `ovn-docker trace` says what traffic does, whatever is in its way."""

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


class Town:
    """Containers on `foo` in three VMs, and `other` on `bar` alone."""

    def __init__(self, underlay: Underlay) -> None:
        self.underlay, self.demo = underlay, underlay.cloud.demo
        self.where = {name: underlay.vms[number] for name, number in PLACES.items()}
        self.endpoints: dict[str, dict[str, str]] = {}
        for vm in underlay.vms:
            vm.docker(*CREATE, "--subnet=192.168.1.0/24", "-o", "ovn.network=foo", "foo")
        self.where["other"].docker(*CREATE, "--subnet=192.168.2.0/24", "-o", "ovn.network=bar", "bar")
        for name, vm in self.where.items():
            network = "bar" if name == "other" else "foo"
            vm.docker("run", "-d", f"--net={network}", f"--name={name}", "--stop-signal=KILL", "busybox",
                      "nc", "-ll", "-p", "5432", "-e", "true", timeout=150)  # fmt: skip
            self.endpoints[name] = underlay.endpoint(vm, name, network)

    def address(self, name: str) -> str:
        return self.endpoints[name]["IPAddress"]

    def link(self, name: str) -> str:
        return f"odh{self.endpoints[name]['EndpointID'][:12]}"

    def port(self, name: str) -> Any:
        """A container's port in Neutron."""
        (port,) = self.demo.ports(name=self.endpoints[name]["EndpointID"])
        return port

    def group(self) -> Any:
        """The project's own security group."""
        (group,) = self.demo.security_groups(name="default", project_id=self.demo.project)
        return group

    def reaches(self, source: str, target: str, packet: str) -> bool:
        """What traffic does; in user space the first packet through a tunnel may get lost."""
        address = self.address(target)
        once = f"ping -c 1 -W 1 {address}" if packet == "icmp" else f"nc -w 1 {address} 5432 </dev/null"
        try:
            self.where[source].docker("exec", source, "sh", "-c", f"{once} || {once} || {once}")
        except CommandError:
            return False
        return True

    def in_force(self) -> None:
        """Returns when the flows on all hypervisors are what Neutron wants."""
        self.underlay.cloud.control.run("ovn-nbctl", "--timeout=60", "--wait=hv", "sync", timeout=65)

    def ask(self, vm: VM, *command: str, wrong: bool = False) -> str:
        """What a command of the operator's says in a VM, with the tenant's login."""
        login = vm.openrc | {"OS_PASSWORD": vm.account.password}
        variables = [f"{key}={value}" for key, value in login.items()]
        return vm.run("env", *variables, "ovn-docker", *command, check=not wrong, timeout=120)

    def traced(self, source: str, target: str, packet: str = "icmp", *options: str) -> tuple[bool, str]:
        """The verdict in the source's VM: does the packet arrive, and what it says."""
        command = ("trace", "--json", *options, source, self.endpoints[target]["EndpointID"][:12], packet)
        said = json.loads(self.ask(self.where[source], *command, wrong=True))
        return said["delivered"], said["verdict"]


@pytest.fixture(scope="module")
def town(cloud: Cloud, vms: tuple[VM, VM, VM]) -> Iterator[Town]:
    underlay = Underlay(cloud, vms)
    underlay.start()
    town = Town(underlay)
    yield town
    underlay.clear()
    for vm in vms:
        vm.driver.stop()


@contextmanager
def nothing(town: Town) -> Iterator[None]:
    yield


@contextmanager
def changed(town: Town, name: str, /, **attributes: Any) -> Iterator[None]:
    """Other attributes of a container's port, and then the old ones."""
    port = town.port(name)
    old = {key: getattr(port, _ATTRIBUTES.get(key, key)) for key in attributes}
    town.demo.update_port(port.id, **attributes)
    yield
    town.demo.update_port(port.id, **old)
    wait_for(lambda: town.port(name).status == "ACTIVE", "the port to be back", timeout=60)


_ATTRIBUTES = {"admin_state_up": "is_admin_state_up", "port_security_enabled": "is_port_security_enabled",
               "security_groups": "security_group_ids"}  # fmt: skip
"""What openstacksdk calls them."""


@contextmanager
def in_group(town: Town, name: str, *rules: dict[str, Any], alone: bool = True) -> Iterator[None]:
    """A container's port in a group with these rules, besides those that let all out."""
    group = town.demo.create_security_group(name="hermits")
    for rule in rules:
        town.demo.create_security_group_rule(security_group_id=group.id, ether_type="IPv4", **rule)
    groups = [group.id] if alone else [group.id, town.group().id]
    with changed(town, name, security_groups=groups):
        yield
    town.demo.delete_security_group(group.id)


@contextmanager
def silenced(town: Town, name: str) -> Iterator[None]:
    """A container's port in a group that lets nothing out."""
    group = town.demo.create_security_group(name="mute")
    for rule in group.security_group_rules:
        town.demo.delete_security_group_rule(rule["id"])
    town.demo.create_security_group_rule(security_group_id=group.id, ether_type="IPv4", direction="ingress")
    with changed(town, name, security_groups=[group.id]):
        yield
    town.demo.delete_security_group(group.id)


@contextmanager
def no_subport(town: Town, name: str) -> Iterator[None]:
    (trunk,) = town.demo.trunks(port_id=town.where[name].port.id)
    port = town.port(name)
    (subport,) = [sub for sub in trunk.sub_ports if sub["port_id"] == port.id]
    town.demo.delete_trunk_subports(trunk.id, [{"port_id": port.id}])
    yield
    town.demo.update_port(port.id, device_id="")  # Neutron takes no port that has one into a trunk
    town.demo.add_trunk_subports(trunk.id, [subport])
    town.demo.update_port(port.id, device_id=port.device_id)
    wait_for(lambda: town.port(name).status == "ACTIVE", "the port to be back", timeout=60)


@contextmanager
def vm_switched_off_in_neutron(town: Town, name: str) -> Iterator[None]:
    """The port of a container's VM, which does not concern the ports behind it."""
    port = town.where[name].port
    town.demo.update_port(port.id, admin_state_up=False)
    yield
    town.demo.update_port(port.id, admin_state_up=True)
    wait_for(lambda: town.demo.get_port(port.id).status == "ACTIVE", "the VM's port", timeout=60)


@contextmanager
def other_vlan(town: Town, name: str) -> Iterator[None]:
    vm, link = town.where[name], town.link(name)
    tag = vm.run("ovs-vsctl", "get", "Port", link, "tag").strip()
    vm.run("ovs-vsctl", "set", "Port", link, "tag=4000")
    yield
    vm.run("ovs-vsctl", "set", "Port", link, f"tag={tag}")


@contextmanager
def link_down(town: Town, name: str) -> Iterator[None]:
    town.where[name].run("ip", "link", "set", town.link(name), "down")
    yield
    town.where[name].run("ip", "link", "set", town.link(name), "up")


@contextmanager
def flow_in_the_bridge(town: Town, name: str) -> Iterator[None]:
    """Somebody's own flow in the bridge of the container's VM drops what it sends."""
    vm = town.where[name]
    rule = f"priority=100,in_port={town.link(name)},ip"
    vm.run("ovs-ofctl", "add-flow", BRIDGE, f"{rule},actions=drop")
    yield
    vm.run("ovs-ofctl", "--strict", "del-flows", BRIDGE, rule)


Break = Callable[[Town], AbstractContextManager[object]]
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
"""What is in the way, and of which two containers it is."""

PAIRS = [("web", "next"), ("web", "near"), ("web", "far"), ("far", "near"), ("web", "other")]
PACKETS = ("icmp", "tcp/5432")


@pytest.mark.parametrize("broken", BREAKS)
def test_the_verdict_agrees_with_what_traffic_does(town: Town, broken: str) -> None:
    pair, make = BREAKS[broken]
    with make(town):
        town.in_force()
        others = [(pair, packet) for pair in PAIRS for packet in PACKETS if pair != BREAKS[broken][0]]
        for (source, target), packet in [
            *((pair, packet) for packet in PACKETS),
            *random.Random(broken).sample(others, k=1),
        ]:
            delivered, verdict = town.traced(source, target, packet)
            assert delivered == town.reaches(source, target, packet), (source, target, packet, verdict)


def test_a_drop_is_named_with_its_object(town: Town) -> None:
    web, far, near = (town.port(name).id for name in ("web", "far", "near"))
    with in_group(town, "far", {**TCP, "remote_ip_prefix": "10.0.0.0/8"}):
        (group,) = town.demo.security_groups(name="hermits")
        (rule,) = [rule for rule in group.security_group_rules if rule["direction"] == "ingress"]
        _, verdict = town.traced("web", "far", "tcp/5432", "--no-probe")
        assert verdict == (
            f"dropped at security group, by security group hermits ({group.id}): no rule lets tcp/5432 in "
            f"from web; rule {rule['id']} is for IPv4, tcp/5000-5999, 10.0.0.0/8"
        )
    with changed(town, "web", security_groups=[]):
        _, verdict = town.traced("web", "near", "icmp", "--no-probe")
        assert verdict == f"dropped at security group, by port {web}: web is in none, so nothing goes out"
    with changed(town, "far", admin_state_up=False):
        _, verdict = town.traced("web", "far", "icmp", "--no-probe")
        assert f"dropped at Neutron, by port {far}: the port of " in verdict
        assert verdict.endswith("is switched off (admin_state_up is false)")
    with changed(town, "near", fixed_ips=[{"ip_address": "192.168.1.200"}]):
        _, verdict = town.traced("near", "web", "icmp", "--no-probe")
        assert verdict.startswith(f"dropped at port security, by port {near}: allows ")
    with no_subport(town, "web"):
        (trunk,) = town.demo.trunks(port_id=town.where["web"].port.id)
        _, verdict = town.traced("web", "near", "icmp", "--no-probe")
        assert verdict == (
            f"dropped at trunk, by port {web}, trunk {trunk.id}: the port of web is no subport of the "
            "trunk of vm1"
        )
    with other_vlan(town, "web"):
        _, verdict = town.traced("web", "near", "icmp", "--no-probe")
        assert f"by port {town.link('web')}, trunk" in verdict
        assert f"web has VLAN 4000 on {BRIDGE}, and its subport has VLAN" in verdict
    _, verdict = town.traced("web", "other")
    assert "web is on foo" in verdict
    assert "connect one: docker network connect foo " in verdict


def test_every_command_of_the_operators_in_a_virtual_machine(town: Town) -> None:
    vm1, *_ = town.underlay.vms
    status = town.ask(vm1, "status")
    assert f"Neutron port {vm1.port.id}" in status
    assert "northbound" not in status
    networks = {row["name"]: row for row in json.loads(town.ask(vm1, "ls", "--json"))}
    assert (networks["foo"]["hosts"], networks["foo"]["endpoints"]) == (["vm1", "vm2", "vm3"], 4)
    assert (networks["bar"]["hosts"], networks["bar"]["here"]) == (["vm3"], False)
    rows = {row["id"]: row for row in json.loads(town.ask(vm1, "ls", "endpoints", "--json"))}
    assert rows.keys() == {endpoint["EndpointID"] for endpoint in town.endpoints.values()}
    assert all(row["up"] and not row["differences"] for row in rows.values())
    assert {row["container"] for row in rows.values() if row["here"]} == {"web", "next"}
    web = town.ask(vm1, "inspect", "web")
    assert f"{town.port('web').id}, ACTIVE" in web
    assert "of the trunk of vm1" in web
    assert "on vm3" in town.ask(vm1, "inspect", town.address("far"))
    assert town.ask(vm1, "doctor").strip() == "23 checks: 23 found nothing"
    town.ask(vm1, "graph", "-o", "/tmp/cloud.svg")
    picture = vm1.path("/tmp/cloud.svg").read_text()
    assert "<title>3 VMs, 2 networks, 5 containers</title>" in picture
    assert "all sides agree" in picture


def test_without_a_login_this_virtual_machine_alone_is_shown(town: Town) -> None:
    vm1, *_ = town.underlay.vms
    vm1.docker("exec", "-d", "web", "ping", "-c", "20", town.address("next"))
    captured = vm1.run("ovn-docker", "tcpdump", "-c", "2", "web", "icmp", timeout=60)
    assert f"{town.address('web')} > {town.address('next')}: ICMP echo request" in captured
    with pytest.raises(
        CommandError, match="what is shown is of this host alone: OS_VIF_ID is not set"
    ) as end:
        vm1.run("ovn-docker", "ls", "endpoints", timeout=60)
    assert {line.split()[0] for line in end.value.stdout.splitlines()[1:]} == {"web", "next"}
    with pytest.raises(CommandError, match="OS_VIF_ID is not set"):
        vm1.run("ovn-docker", "trace", "web", "next", timeout=60)


def test_the_doctor_names_what_neutron_lacks_and_its_cure_works(town: Town) -> None:
    vm1, *_ = town.underlay.vms
    (trunk,) = town.demo.trunks(port_id=vm1.port.id)
    town.demo.delete_trunk_subports(trunk.id, [{"port_id": town.port("next").id}])
    said = town.ask(vm1, "doctor", wrong=True)
    assert f"port {town.port('next').id} of next is no subport of the VM's trunk" in said
    assert "$ docker restart next" in said
    assert "1 found something" in said
    inspected = town.ask(vm1, "inspect", "next", wrong=True)
    assert "! differs" in inspected
    vm1.docker("restart", "next", timeout=150)
    town.endpoints["next"] = town.underlay.endpoint(vm1, "next")
    assert town.ask(vm1, "doctor").strip() == "23 checks: 23 found nothing"
    assert town.reaches("web", "next", "icmp")
