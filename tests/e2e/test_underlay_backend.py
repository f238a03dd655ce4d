"""The underlay's backend on a real Neutron: it keeps the contract, and does what only Neutron can."""

import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from e2e.lab.cloud import Cloud
from functional.backend_contract import (
    C1,
    SUBNET,
    SUBNET6,
    BackendContract,
    Stored,
    endpoint,
    new_network,
    soon,
)
from ovn_docker.backends.leases import Leases
from ovn_docker.backends.neutron import Neutron, Refused
from ovn_docker.backends.trunk import Parent, Profile, Trunk
from ovn_docker.backends.underlay import Underlay
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError
from ovn_docker.ipam import Ipam
from ovn_docker.model import Chassis, Endpoint, EndpointId, Network, Subnet, choose_mac
from ovn_docker.supply import Supply

pytestmark = pytest.mark.underlay


class InCloud:
    """An object whose methods run where Neutron can be reached."""

    def __init__(self, cloud: Cloud, inner: object) -> None:
        self._cloud, self._inner = cloud, inner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)
        return lambda *args, **more: self._cloud.inside(partial(method, *args, **more))


class Vm:
    """A port of a virtual machine that is switched off, and what the driver in it would be made of."""

    def __init__(self, cloud: Cloud, name: str) -> None:
        self.port = cloud.demo.create_port(network_id=cloud.management.id, name=name)
        self.chassis = Chassis(self.port.id, bridge="breth0", datapath="netdev")
        self.login = {
            "auth_url": f"http://{cloud.control.address}:5000",
            "auth_type": "password",
            "username": "demo",
            "password": cloud.demo.password,
            "project_id": cloud.demo.project,
            "default_domain_id": "default",
        }
        self.neutron = Neutron(self.login)
        self.parent: Parent = Trunk(self.neutron, self.port.id)
        leases = Leases(self.neutron, self.port.id, self.parent)
        self.underlay = Underlay(self.neutron, self.port.id, self.parent, leases)
        self.ipam = Ipam(leases, lambda _: self.chassis, list, tuple[Supply, ...](), 60)


@pytest.fixture(scope="module")
def machines(cloud: Cloud) -> Iterator[tuple[Vm, Vm]]:
    machines = Vm(cloud, "here"), Vm(cloud, "there")
    yield machines
    for vm in machines:
        for trunk in cloud.demo.trunks(port_id=vm.port.id):
            cloud.demo.delete_trunk(trunk.id)
        cloud.demo.delete_port(vm.port.id)


def everything(cloud: Cloud) -> dict[str, list[Any]]:
    """What demo has in Neutron, without what changes by itself."""
    moving = {"updated_at", "revision_number", "status", "created_at", "location", "is_router_external"}
    kinds = ("networks", "subnets", "subnet_pools", "ports", "trunks")
    return {
        kind: sorted(
            (
                {
                    key: sorted(value) if key == "tags" else value
                    for key, value in found.to_dict().items()
                    if key not in moving
                }
                for found in getattr(cloud.demo, kind)()
            ),
            key=lambda found: str(found["id"]),
        )
        for kind in kinds
    }


class TestUnderlay(BackendContract):
    @pytest.fixture
    def stored(self, cloud: Cloud, machines: tuple[Vm, Vm]) -> Stored:
        here, there = machines
        for vm in machines:
            cloud.inside(partial(vm.parent.check, soon()))
        underlay = [cast("Any", InCloud(cloud, vm.underlay)) for vm in machines]
        ipam = cast("Any", InCloud(cloud, here.ipam))
        return Stored(underlay[0], here.chassis, underlay[1], there.chassis, ipam, partial(everything, cloud))


def together(cloud: Cloud, *calls: Callable[[], Any]) -> list[Any]:
    """Results of calls that begin at the same time, or what they raised."""

    def enter() -> None:
        with Path(f"/proc/{cloud.control.pid}/ns/net").open() as space:
            assert ctypes.CDLL(None).setns(space.fileno(), 0) == 0

    barrier = threading.Barrier(len(calls))

    def outcome(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        except OvnDockerError as error:
            return error

    with ThreadPoolExecutor(len(calls), initializer=enter) as threads:
        return list(threads.map(outcome, calls))


@pytest.fixture
def here(cloud: Cloud, machines: tuple[Vm, Vm]) -> Iterator[Vm]:
    """A machine; the test leaves nothing in Neutron."""
    for vm in machines:
        cloud.inside(partial(vm.parent.check, soon()))
    before = everything(cloud)
    yield machines[0]
    assert everything(cloud) == before


@pytest.fixture
def there(machines: tuple[Vm, Vm]) -> Vm:
    return machines[1]


def run(cloud: Cloud, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
    return cloud.inside(partial(function, *args, **more))


@pytest.fixture
def network(cloud: Cloud, here: Vm) -> Iterator[Network]:
    """A Docker network of the machine *here*."""
    network = new_network()
    run(cloud, here.underlay.create_network, network, here.chassis, soon())
    yield network
    run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())


class TestTrunk:
    def test_of_many_at_once_each_has_a_vlan_of_its_own(
        self, cloud: Cloud, here: Vm, network: Network
    ) -> None:
        wanted = [endpoint(network, EndpointId(f"{n:02x}" * 32), f"192.168.1.{n}/24") for n in range(10, 16)]
        made = together(
            cloud, *(partial(here.underlay.create_endpoint, one, here.chassis, soon()) for one in wanted)
        )
        assert {attachment.vlan for attachment in made} == {1, 2, 3, 4, 5, 6}
        (trunk,) = cloud.demo.trunks(port_id=here.port.id)
        subports = {sub["port_id"]: sub["segmentation_id"] for sub in trunk.sub_ports}
        assert subports == {attachment.iface_id: attachment.vlan for attachment in made}
        gone = together(
            cloud, *(partial(here.underlay.delete_endpoint, one.id, here.chassis, soon()) for one in wanted)
        )
        assert gone == [None] * 6
        assert cloud.demo.get_trunk(trunk.id).sub_ports == []

    def test_of_some_together_only_the_one_that_cannot_be_fails(
        self, cloud: Cloud, here: Vm, network: Network
    ) -> None:
        (subnet,) = cloud.demo.subnets(name=f"docker-{network.id}")
        ports = [cloud.demo.create_port(network_id=subnet.network_id) for _ in range(3)]
        ids = [port.id for port in ports[:2]] + [str(uuid4())] + [ports[2].id]
        vlans = together(cloud, *(partial(here.parent.attach, id_, soon()) for id_ in ids))
        assert isinstance(vlans.pop(2), Refused)
        assert len({*vlans}) == 3
        for port in ports:
            run(cloud, here.parent.detach, port.id, soon())
            cloud.demo.delete_port(port.id)

    def test_a_vlan_that_the_user_has_taken_is_left_to_him(
        self, cloud: Cloud, here: Vm, network: Network
    ) -> None:
        (subnet,) = cloud.demo.subnets(name=f"docker-{network.id}")
        port = cloud.demo.create_port(network_id=subnet.network_id)
        (trunk,) = cloud.demo.trunks(port_id=here.port.id)
        mine = {"port_id": port.id, "segmentation_type": "vlan", "segmentation_id": 1}
        cloud.demo.add_trunk_subports(trunk.id, [mine])
        assert run(cloud, here.underlay.create_endpoint, endpoint(network), here.chassis, soon()).vlan == 2
        run(cloud, here.underlay.delete_endpoint, C1, here.chassis, soon())
        assert [sub["port_id"] for sub in cloud.demo.get_trunk(trunk.id).sub_ports] == [port.id]
        cloud.demo.delete_trunk_subports(trunk.id, [{"port_id": port.id}])
        cloud.demo.delete_port(port.id)

    def test_binding_profile_is_refused_with_what_to_do(
        self, cloud: Cloud, here: Vm, network: Network
    ) -> None:
        leases = Leases(here.neutron, here.port.id, here.parent)
        old = Underlay(here.neutron, here.port.id, Profile(here.neutron, here.port.id), leases)
        with pytest.raises(BadRequest, match=r"--parent trunk, or ask its operator for the policy"):
            run(cloud, old.create_endpoint, endpoint(network), here.chassis, soon())
        run(cloud, old.delete_endpoint, C1, here.chassis, soon())


class TestSharedNetwork:
    def test_made_by_several_at_once_is_one(self, cloud: Cloud, here: Vm, there: Vm) -> None:
        networks = [new_network(name="race") for _ in range(4)]
        machines = [here, there, here, there]
        made = together(
            cloud,
            *(
                partial(vm.underlay.create_network, network, vm.chassis, soon())
                for vm, network in zip(machines, networks, strict=True)
            ),
        )
        assert made == [None] * 4
        (found,) = cloud.demo.networks(name="race")
        assert len(found.tags) == 5
        for vm, network in zip(machines, networks, strict=True):
            assert cloud.demo.networks(name="race")
            run(cloud, vm.underlay.delete_network, network.id, vm.chassis, soon())
        assert cloud.demo.networks(name="race") == []

    def test_one_that_somebody_else_made_is_not_taken_for_it(self, cloud: Cloud, here: Vm) -> None:
        theirs = cloud.demo.create_network(name="theirs")
        with pytest.raises(Conflict, match=r"-o ovn\.switch=theirs, or give ovn\.network another name"):
            run(cloud, here.underlay.create_network, new_network(name="theirs"), here.chassis, soon())
        cloud.demo.delete_network(theirs.id)

    def test_is_not_deleted_while_others_use_it(self, cloud: Cloud, here: Vm) -> None:
        network = new_network(name="used")
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        (found,) = cloud.demo.networks(name="used")
        port = cloud.demo.create_port(network_id=found.id)
        with pytest.raises(OvnDockerError, match="Neutron says: Unable to complete operation on network"):
            run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())
        cloud.demo.delete_port(port.id)
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())


class TestUsersNetwork:
    """``-o ovn.switch``."""

    @pytest.fixture
    def corp(self, cloud: Cloud) -> Iterator[Any]:
        corp = cloud.demo.create_network(name="corp")
        cloud.demo.create_subnet(
            network_id=corp.id, ip_version=4, cidr="10.99.0.0/24", gateway_ip="10.99.0.254"
        )
        cloud.demo.create_subnet(network_id=corp.id, ip_version=6, cidr="fd99::/64", gateway_ip=None)
        yield cloud.demo.get_network(corp.id)
        cloud.demo.delete_network(corp.id)

    @pytest.mark.parametrize("by", ["name", "id"])
    def test_gives_addresses_and_is_never_changed(self, cloud: Cloud, corp: Any, here: Vm, by: str) -> None:
        network = replace(new_network(switch=getattr(corp, by)), subnets=())
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        wanted = Endpoint(C1, network.id)
        made = run(
            cloud,
            here.underlay.create_endpoint,
            replace(wanted, mac=choose_mac(wanted)),
            here.chassis,
            soon(),
        )
        four, six = made.addresses
        assert four.network == ip_network("10.99.0.0/24")
        assert six.network == ip_network("fd99::/64")
        assert made.mtu == corp.mtu
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())
        assert cloud.demo.get_network(corp.id).to_dict() == corp.to_dict()

    @pytest.mark.parametrize(
        ("subnet", "options", "message"),
        [
            ("10.98.0.0/24 10.98.0.1", {}, "create it with --subnet 10.99.0.0/24 --gateway 10.99.0.254"),
            ("10.99.0.0/24 10.99.0.1", {}, "has the gateway 10.99.0.254 in Neutron, asked for was 10.99.0.1"),
            ("10.99.0.0/24 10.99.0.254", {"mtu": 1400}, "driver.mtu and ovn.switch exclude each other"),
            ("10.99.0.0/24 10.99.0.254", {"switch": "nosuch"}, "Neutron has no network 'nosuch'"),
        ],
    )
    def test_other_settings_than_it_has_are_refused_with_what_to_type(
        self, cloud: Cloud, corp: Any, here: Vm, subnet: str, options: dict[str, Any], message: str
    ) -> None:
        pool, _, gateway = subnet.partition(" ")
        network = new_network(Subnet(ip_network(pool), ip_address(gateway)), **({"switch": "corp"} | options))
        with pytest.raises(OvnDockerError, match=re.escape(message)):
            run(cloud, here.underlay.create_network, network, here.chassis, soon())

    def test_of_a_name_that_two_have_is_refused(self, cloud: Cloud, corp: Any, here: Vm) -> None:
        twin = cloud.demo.create_network(name="corp")
        with pytest.raises(BadRequest, match=r"2 networks 'corp'.* give the ID of one"):
            run(cloud, here.underlay.create_network, new_network(switch="corp"), here.chassis, soon())
        cloud.demo.delete_network(twin.id)

    def test_of_another_project_lets_only_neutron_choose(self, cloud: Cloud, here: Vm) -> None:
        network = replace(new_network(switch="management"), subnets=())
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        wanted = Endpoint(C1, network.id)
        made = run(
            cloud,
            here.underlay.create_endpoint,
            replace(wanted, mac=choose_mac(wanted)),
            here.chassis,
            soon(),
        )
        assert made.mac.startswith("fa:16:3e:")
        run(cloud, here.underlay.delete_endpoint, C1, here.chassis, soon())
        chosen = endpoint(network, C1, "172.31.0.77/24")
        with pytest.raises(OvnDockerError, match="ask the cloud's operator to allow it"):
            run(cloud, here.underlay.create_endpoint, chosen, here.chassis, soon())
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())


class TestOptions:
    def test_security_groups_are_the_ports(self, cloud: Cloud, here: Vm) -> None:
        group = cloud.demo.create_security_group(name="web")
        network = new_network(security_groups=("web", "default"))
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        made = run(cloud, here.underlay.create_endpoint, endpoint(network), here.chassis, soon())
        groups = cloud.demo.get_port(made.iface_id).security_group_ids
        assert len(groups) == 2
        assert group.id in groups
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())
        cloud.demo.delete_security_group(group.id)

    def test_a_security_group_that_is_none_is_named(self, cloud: Cloud, here: Vm) -> None:
        with pytest.raises(BadRequest, match="Neutron has no security group 'nosuch'"):
            run(
                *(cloud, here.underlay.create_network, new_network(security_groups=("nosuch",))),
                *(here.chassis, soon()),
            )

    def test_an_mtu_that_the_vms_network_does_not_carry_is_refused(self, cloud: Cloud, here: Vm) -> None:
        with pytest.raises(BadRequest, match="give at most 1500"):
            run(cloud, here.underlay.create_network, new_network(mtu=9000), here.chassis, soon())

    def test_an_mtu_that_neutron_does_not_carry_is_refused_and_nothing_stays(
        self, cloud: Cloud, here: Vm
    ) -> None:
        with pytest.raises(OvnDockerError, match=r"Neutron says: .*MTU"):
            run(cloud, here.underlay.create_network, new_network(mtu=1490), here.chassis, soon())


class TestAddresses:
    def test_of_both_versions_become_one_port(self, cloud: Cloud, here: Vm) -> None:
        pools = [
            run(cloud, here.ipam.request_pool, ip_network(subnet), None, version)
            for subnet, version in (("10.3.0.0/24", 4), ("fd03::/64", 6))
        ]
        network = new_network(*(Subnet(pool.subnet, ours=True) for pool in pools))
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        taken = [run(cloud, here.ipam.request_address, pool.id, None, gateway=False) for pool in pools]
        wanted = endpoint(network, C1, *(f"{address}/{prefix}" for address, prefix in taken))
        made = run(cloud, here.underlay.create_endpoint, wanted, here.chassis, soon())
        port = cloud.demo.get_port(made.iface_id)
        assert port.name == C1
        assert {fixed["ip_address"] for fixed in port.fixed_ips} == {str(address) for address, _ in taken}
        (one,) = cloud.demo.ports(network_id=port.network_id, device_owner="trunk:subport")
        assert one.id == port.id
        run(cloud, here.underlay.delete_endpoint, C1, here.chassis, soon())
        for pool, (address, _) in zip(pools, taken, strict=True):
            run(cloud, here.ipam.release_address, pool.id, address)
            run(cloud, here.ipam.release_pool, pool.id)
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())

    def test_of_an_endpoint_that_died_half_adopted_are_given_back(self, cloud: Cloud, here: Vm) -> None:
        pool = run(cloud, here.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4)
        network = new_network(Subnet(pool.subnet, ours=True))
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        address, _ = run(cloud, here.ipam.request_address, pool.id, None, gateway=False)
        (port,) = cloud.demo.ports(fixed_ips=f"ip_address={address}")
        run(cloud, here.parent.attach, port.id, soon())
        run(cloud, here.ipam.release_address, pool.id, address)
        assert cloud.demo.ports(fixed_ips=f"ip_address={address}") == []
        run(cloud, here.ipam.release_pool, pool.id)
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())

    def test_of_a_plain_vm_are_refused_with_its_name(self, cloud: Cloud, here: Vm, network: Network) -> None:
        (subnet,) = cloud.demo.subnets(name=f"docker-{network.id}")
        port = cloud.demo.create_port(
            network_id=subnet.network_id, name="db", fixed_ips=[{"ip_address": "192.168.1.2"}]
        )
        with pytest.raises(Conflict, match=rf"192\.168\.1\.2 is in use in Neutron by port {port.id} \(db\)"):
            run(cloud, here.underlay.create_endpoint, endpoint(network), here.chassis, soon())
        cloud.demo.delete_port(port.id)


class TestHalfMade:
    def test_a_network_that_was_never_finished_goes(self, cloud: Cloud, here: Vm) -> None:
        id_ = new_network().id
        cloud.demo.create_network(name=id_, description="ovn-docker")
        run(cloud, here.underlay.delete_network, id_, here.chassis, soon())

    def test_a_network_that_no_machine_has_goes_in_time(
        self, cloud: Cloud, here: Vm, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether it was complete or not; one that a machine has does not."""
        half, whole = (cloud.demo.create_network(name="x", description="ovn-docker") for _ in range(2))
        cloud.demo.set_tags(whole, ["ovn-docker"])
        run(cloud, here.underlay.clear_orphans, here.chassis, soon())
        assert {found.id for found in cloud.demo.networks(name="x")} == {half.id, whole.id}
        monkeypatch.setattr("ovn_docker.backends.networks._ABANDONED", -3600)
        run(cloud, here.underlay.clear_orphans, here.chassis, soon())
        assert cloud.demo.networks(name="x") == []
        assert cloud.demo.networks(name=network.id)

    def test_a_network_that_was_never_finished_can_be(self, cloud: Cloud, here: Vm) -> None:
        network = new_network(SUBNET, SUBNET6)
        half = cloud.demo.create_network(name=network.id, description="ovn-docker")
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        assert len(cloud.demo.get_network(half.id).subnet_ids) == 2
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())

    def test_a_port_that_never_came_to_the_trunk_goes(self, cloud: Cloud, here: Vm, network: Network) -> None:
        run(cloud, here.underlay.create_endpoint, endpoint(network), here.chassis, soon())
        (trunk,) = cloud.demo.trunks(port_id=here.port.id)
        cloud.demo.delete_trunk_subports(trunk.id, [{"port_id": trunk.sub_ports[0]["port_id"]}])
        assert [stored.id for stored in run(cloud, here.underlay.endpoints, here.chassis, soon())] == [C1]
        run(cloud, here.underlay.delete_endpoint, C1, here.chassis, soon())
        assert run(cloud, here.underlay.endpoints, here.chassis, soon()) == []


class TestTheVmsPort:
    def test_is_the_one_with_an_interfaces_mac(self, cloud: Cloud, here: Vm, there: Vm) -> None:
        run(cloud, here.underlay.check, {here.port.mac_address}, soon())
        with pytest.raises(BadRequest, match=f"{there.port.mac_address}, which no interface of this VM has"):
            run(cloud, there.underlay.check, {here.port.mac_address}, soon())

    def test_must_be_there(self, cloud: Cloud, here: Vm) -> None:
        nowhere = str(uuid4())
        leases = Leases(here.neutron, nowhere, here.parent)
        lost = Underlay(here.neutron, nowhere, here.parent, leases)
        with pytest.raises(BadRequest, match=f"Neutron has no port {nowhere}.*openstack port list"):
            run(cloud, lost.check, {here.port.mac_address}, soon())


LOGINS: dict[str, tuple[dict[str, str], str]] = {
    "password": ({"password": "wrong"}, "does not accept the login: is the password right"),
    "region": ({"region_name": "Mars"}, "has no Neutron in its catalogue.* is OS_REGION_NAME right"),
    "refused": ({"auth_url": "http://127.0.0.1:9"}, "cannot reach OpenStack .*Connection refused"),
    "name": ({"auth_url": "http://nosuch.invalid:5000"}, "cannot reach OpenStack"),
}


@pytest.mark.parametrize("wrong", LOGINS)
def test_a_login_that_fails_says_why_and_no_secret(cloud: Cloud, here: Vm, wrong: str) -> None:
    change, message = LOGINS[wrong]
    with pytest.raises(OvnDockerError, match=message) as failed:
        run(cloud, Neutron(here.login | change).all, "networks", soon())
    assert "\n" not in str(failed.value)
    assert not re.search(r"wrong|=demo|'demo'", str(failed.value))


def test_a_token_that_expired_is_renewed(cloud: Cloud, here: Vm) -> None:
    neutron = Neutron(here.login)
    run(cloud, neutron.all, "networks", soon())
    connection = neutron._connection
    assert connection

    def revoke() -> None:
        token = connection.session.get_token()
        connection.identity.delete("/auth/tokens", headers={"X-Subject-Token": token})

    cloud.inside(revoke)
    run(cloud, neutron.all, "networks", soon())
