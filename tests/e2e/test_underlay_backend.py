"""The backend of the underlay mode on a real Neutron: the contract of backends, and what Neutron adds."""

import ctypes
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from e2e.lab.cloud import Cloud
from functional.backend_contract import (
    C1,
    C2,
    SUBNET,
    SUBNET6,
    BackendContract,
    Stored,
    endpoint,
    new_network,
    soon,
)
from ovn_docker import allowed
from ovn_docker.backends.neutron.api import Neutron, NeutronRefused
from ovn_docker.backends.neutron.leases import Leases
from ovn_docker.backends.neutron.ports import Underlay
from ovn_docker.backends.neutron.resources import (
    NeutronNetwork,
    NeutronResource,
    NeutronSecurityGroup,
    NeutronTrunk,
)
from ovn_docker.backends.neutron.trunk import ParentPort, ProfileParent, TrunkParent
from ovn_docker.core.ipam import Ipam
from ovn_docker.deadline import Deadline
from ovn_docker.docker.wording import explain
from ovn_docker.errors import BadRequest, Conflict, ForeignNetwork, OvnDockerError, Unavailable
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    Kind,
    Network,
    NetworkId,
    Subnet,
    choose_mac,
)
from ovn_docker.supply import Supply

pytestmark = pytest.mark.underlay


class InCloud:
    """An object whose methods run in the network of the control node."""

    def __init__(self, cloud: Cloud, inner: object) -> None:
        self._cloud, self._inner = cloud, inner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)
        return lambda *args, **more: self._cloud.inside(partial(method, *args, **more))


class Vm:
    """The port of a virtual machine that is switched off, and the objects of a driver in it."""

    def __init__(self, cloud: Cloud, name: str, network: Any = None) -> None:
        self.port = cloud.demo.create_port(network_id=(network or cloud.management).id, name=name)
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
        self.parent: ParentPort = TrunkParent(self.neutron, self.port.id)
        leases = Leases(self.neutron, self.port.id, self.parent)
        self.underlay = Underlay(self.neutron, self.port.id, self.parent, leases)
        self.ipam = Ipam(
            lambda _: leases, lambda _: self.chassis, list, tuple[Supply, ...](), lambda _, __: (), 60
        )

    def close(self, cloud: Cloud) -> None:
        for trunk in cloud.demo.trunks(port_id=self.port.id):
            cloud.demo.delete_trunk(trunk.id)
        cloud.demo.delete_port(self.port.id)


@pytest.fixture(scope="module")
def machines(cloud: Cloud) -> Iterator[tuple[Vm, Vm]]:
    machines = Vm(cloud, "here"), Vm(cloud, "there")
    yield machines
    for vm in machines:
        vm.close(cloud)


def everything(cloud: Cloud) -> dict[str, list[Any]]:
    """Return the resources of demo, without members that change by themselves."""
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
        vm1, _ = machines
        for vm in machines:
            cloud.inside(partial(vm.parent.check, soon()))
        underlay = [cast("Any", InCloud(cloud, vm.underlay)) for vm in machines]
        ipam = cast("Any", InCloud(cloud, vm1.ipam))
        return Stored(underlay[0], vm1.chassis, underlay[1], ipam, partial(everything, cloud))


def together(cloud: Cloud, *calls: Callable[[], Any]) -> list[Any]:
    """Return the results or exceptions of calls that begin at the same time."""

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
def vm1(cloud: Cloud, machines: tuple[Vm, Vm]) -> Iterator[Vm]:
    """A machine; afterwards checks that the test left nothing in Neutron."""
    for vm in machines:
        cloud.inside(partial(vm.parent.check, soon()))
    before = everything(cloud)
    yield machines[0]
    assert everything(cloud) == before


@pytest.fixture
def vm2(machines: tuple[Vm, Vm]) -> Vm:
    return machines[1]


def run(cloud: Cloud, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
    return cloud.inside(partial(function, *args, **more))


@pytest.fixture
def network(cloud: Cloud, vm1: Vm) -> Iterator[Network]:
    """A Docker network of the machine *here*."""
    network = new_network()
    run(cloud, vm1.underlay.create_network, network, soon())
    yield network
    run(cloud, vm1.underlay.delete_network, network.id, soon())


class TestTrunk:
    def test_ports_attached_at_once_get_different_vlans(
        self, cloud: Cloud, vm1: Vm, network: Network
    ) -> None:
        wanted = [endpoint(network, EndpointId(f"{n:02x}" * 32), f"192.168.1.{n}/24") for n in range(10, 16)]
        made = together(
            cloud,
            *(partial(vm1.underlay.create_endpoint, one, soon()) for one in wanted),
        )
        assert {attachment.vlan for attachment in made} == {1, 2, 3, 4, 5, 6}
        (trunk,) = cloud.demo.trunks(port_id=vm1.port.id)
        subports = {sub["port_id"]: sub["segmentation_id"] for sub in trunk.sub_ports}
        assert subports == {attachment.iface_id: attachment.vlan for attachment in made}
        gone = together(
            cloud,
            *(partial(vm1.underlay.delete_endpoint, one.id, soon()) for one in wanted),
        )
        assert gone == [True] * 6
        assert cloud.demo.get_trunk(trunk.id).sub_ports == []

    def test_a_refused_port_does_not_fail_others_of_the_same_request(
        self, cloud: Cloud, vm1: Vm, network: Network
    ) -> None:
        (subnet,) = cloud.demo.subnets(name=f"docker-{network.id}")
        ports = [cloud.demo.create_port(network_id=subnet.network_id) for _ in range(3)]
        ids = [port.id for port in ports[:2]] + [str(uuid4())] + [ports[2].id]
        vlans = together(cloud, *(partial(vm1.parent.attach, id_, soon()) for id_ in ids))
        assert isinstance(vlans.pop(2), NeutronRefused)
        assert len({*vlans}) == 3
        for port in ports:
            run(cloud, vm1.parent.detach, port.id, soon())
            cloud.demo.delete_port(port.id)

    def test_a_vlan_of_the_users_own_subport_is_not_used(
        self, cloud: Cloud, vm1: Vm, network: Network
    ) -> None:
        (subnet,) = cloud.demo.subnets(name=f"docker-{network.id}")
        # Neutron would choose an address at random, maybe that of the endpoint.
        address = {"ip_address": "192.168.1.200"}
        port = cloud.demo.create_port(network_id=subnet.network_id, fixed_ips=[address])
        (trunk,) = cloud.demo.trunks(port_id=vm1.port.id)
        mine = {"port_id": port.id, "segmentation_type": "vlan", "segmentation_id": 1}
        cloud.demo.add_trunk_subports(trunk.id, [mine])
        assert run(cloud, vm1.underlay.create_endpoint, endpoint(network), soon()).vlan == 2
        run(cloud, vm1.underlay.delete_endpoint, C1, soon())
        assert [sub["port_id"] for sub in cloud.demo.get_trunk(trunk.id).sub_ports] == [port.id]
        cloud.demo.delete_trunk_subports(trunk.id, [{"port_id": port.id}])
        cloud.demo.delete_port(port.id)

    @pytest.mark.parametrize("what", ["subport", "trunk"])
    def test_detaching_succeeds_when_another_client_removes_the_subport_or_trunk_first(
        self, cloud: Cloud, vm1: Vm, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        vm, network = Vm(cloud, "short-lived"), new_network()
        run(cloud, vm.underlay.create_network, network, soon())
        run(cloud, vm.underlay.create_endpoint, endpoint(network), soon())
        find = cast("TrunkParent", vm.parent).find

        def overtaken(deadline: Deadline, *, make: bool = True) -> Any:
            trunk = find(deadline, make=make)
            if trunk and what == "trunk":
                vm1.neutron.delete(NeutronTrunk, trunk.id, deadline)
            elif trunk and trunk.sub_ports:
                vm2 = [{"port_id": sub.port_id} for sub in trunk.sub_ports]
                vm1.neutron.change_subports(trunk.id, "remove", vm2, deadline)
            return trunk

        monkeypatch.setattr(vm.parent, "find", overtaken)
        run(cloud, vm.underlay.delete_endpoint, C1, soon())
        assert run(cloud, vm.underlay.endpoints, soon()) == []
        run(cloud, vm.underlay.delete_network, network.id, soon())
        vm.close(cloud)

    def test_all_vlans_are_used_before_an_endpoint_is_refused(
        self, cloud: Cloud, vm1: Vm, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ovn_docker.backends.neutron.trunk._VLANS", range(1, 3))
        (subnet,) = cloud.demo.subnets(name=f"docker-{network.id}")
        ports = [cloud.demo.create_port(network_id=subnet.network_id) for _ in range(4)]
        made = together(cloud, *(partial(vm1.parent.attach, port.id, soon()) for port in ports))
        vlans, refused = ([one for one in made if isinstance(one, kind)] for kind in (int, Conflict))
        assert sorted(vlans) == [1, 2]
        assert len(refused) == 2
        assert all("has 2 subports, and no VLAN is free" in str(one) for one in refused)
        for port in ports:
            run(cloud, vm1.parent.detach, port.id, soon())
            cloud.demo.delete_port(port.id)

    def test_a_forbidden_binding_profile_is_refused_with_advice(
        self, cloud: Cloud, vm1: Vm, network: Network
    ) -> None:
        leases = Leases(vm1.neutron, vm1.port.id, vm1.parent)
        old = Underlay(vm1.neutron, vm1.port.id, ProfileParent(vm1.neutron, vm1.port.id), leases)
        with pytest.raises(BadRequest, match="--parent trunk, or ask its operator to allow create_port"):
            run(cloud, old.create_endpoint, endpoint(network), soon())
        run(cloud, old.delete_endpoint, C1, soon())


class TestSharedNetwork:
    def test_vms_that_create_a_network_at_once_share_one(self, cloud: Cloud, vm1: Vm, vm2: Vm) -> None:
        networks = [new_network(name="race") for _ in range(4)]
        machines = [vm1, vm2, vm1, vm2]
        made = together(
            cloud,
            *(
                partial(vm.underlay.create_network, network, soon())
                for vm, network in zip(machines, networks, strict=True)
            ),
        )
        assert made == [""] * 4  # no records
        (found,) = cloud.demo.networks(name="race")
        assert sum(tag.startswith("docker:") for tag in found.tags) == 4
        for vm, network in zip(machines, networks, strict=True):
            assert cloud.demo.networks(name="race")
            run(cloud, vm.underlay.delete_network, network.id, soon())
        assert cloud.demo.networks(name="race") == []

    def test_a_network_that_all_leave_at_once_is_deleted(
        self, cloud: Cloud, vm1: Vm, vm2: Vm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each VM has read the other's tag, so neither takes itself for the last."""
        networks = {vm: new_network(name="left") for vm in (vm1, vm2)}
        for vm, network in networks.items():
            run(cloud, vm.underlay.create_network, network, soon())
        seen, read = threading.Barrier(2), Neutron.one
        looked = set()

        def one(
            neutron: Neutron, kind: type[NeutronResource], uuid: str, deadline: Deadline
        ) -> NeutronResource | None:
            found = read(neutron, kind, uuid, deadline)
            if kind is NeutronNetwork and neutron not in looked:
                looked.add(neutron)
                seen.wait(timeout=30)
            return found

        monkeypatch.setattr(Neutron, "one", one)
        leave = (partial(vm.underlay.delete_network, network.id, soon()) for vm, network in networks.items())
        assert together(cloud, *leave) == [None] * 2
        assert cloud.demo.networks(name="left") == []

    def test_a_users_network_of_the_same_name_is_refused(self, cloud: Cloud, vm1: Vm) -> None:
        theirs = cloud.demo.create_network(name="theirs")
        with pytest.raises(ForeignNetwork) as refused:
            run(cloud, vm1.underlay.create_network, new_network(name="theirs"), soon())
        assert "-o ovn.switch=theirs, or give ovn.network another name" in explain(refused.value)
        cloud.demo.delete_network(theirs.id)

    def test_a_network_of_another_project_is_not_shared(self, cloud: Cloud, vm1: Vm) -> None:
        """The other project shares it with ours, and gives it our description and tags."""
        theirs = cloud.alt.create_network(name="web", description="ovn-docker")
        cloud.alt.set_tags(theirs, ["ovn-docker", f"docker-vm:{vm1.port.id}=0123456789ab"])
        cloud.alt.create_rbac_policy(
            object_type="network",
            object_id=theirs.id,
            action="access_as_shared",
            target_project_id=cloud.demo.project,
        )
        assert run(cloud, vm1.underlay.of_host, soon())[0] == []
        with pytest.raises(ForeignNetwork, match="Neutron has a network web"):
            run(cloud, vm1.underlay.create_network, new_network(name="web"), soon())
        cloud.alt.delete_network(theirs.id)

    def test_names_of_networks_are_compared_with_case(self, cloud: Cloud, vm1: Vm) -> None:
        team, other = new_network(name="team"), new_network(name="Team")
        for network in (team, other):
            run(cloud, vm1.underlay.create_network, network, soon())
        assert {found.name for found in cloud.demo.networks(name="team")} == {"team", "Team"}
        for network in (team, other):
            run(cloud, vm1.underlay.delete_network, network.id, soon())

    def test_a_network_with_another_mtu_than_requested_is_refused(self, cloud: Cloud, vm1: Vm) -> None:
        network = new_network(name="web")
        run(cloud, vm1.underlay.create_network, network, soon())
        with pytest.raises(Conflict, match="web has MTU 1442 in Neutron, not the requested 1400"):
            run(
                cloud,
                vm1.underlay.create_network,
                new_network(name="web", mtu=1400),
                soon(),
            )
        run(cloud, vm1.underlay.delete_network, network.id, soon())

    def test_a_network_with_a_larger_mtu_than_the_vms_is_refused(self, cloud: Cloud, vm1: Vm) -> None:
        small = cloud.demo.create_network(name="small", mtu=1300)
        vm, network = Vm(cloud, "small", small), new_network(name="web")
        run(cloud, vm1.underlay.create_network, network, soon())
        with pytest.raises(BadRequest, match=r"web has MTU 1442, but the VM's own port .* 1300.*--mtu 1300"):
            run(cloud, vm.underlay.create_network, new_network(name="web"), soon())
        run(cloud, vm1.underlay.delete_network, network.id, soon())
        vm.close(cloud)
        cloud.demo.delete_network(small.id)

    def test_a_network_with_other_ports_is_not_deleted(self, cloud: Cloud, vm1: Vm) -> None:
        network = new_network(name="used")
        run(cloud, vm1.underlay.create_network, network, soon())
        (found,) = cloud.demo.networks(name="used")
        port = cloud.demo.create_port(network_id=found.id)
        with pytest.raises(
            OvnDockerError, match="Neutron refused the request: Unable to complete operation on network"
        ):
            run(cloud, vm1.underlay.delete_network, network.id, soon())
        cloud.demo.delete_port(port.id)
        run(cloud, vm1.underlay.delete_network, network.id, soon())


class TestUsersNetwork:
    """Networks of the user, attached with ``-o ovn.switch``."""

    @pytest.fixture
    def corp(self, cloud: Cloud) -> Iterator[Any]:
        corp = cloud.demo.create_network(name="corp")
        cloud.demo.create_subnet(
            network_id=corp.id, ip_version=4, cidr="10.99.0.0/24", gateway_ip="10.99.0.254"
        )
        cloud.demo.create_subnet(network_id=corp.id, ip_version=6, cidr="fd99::/64", gateway_ip=None)
        yield cloud.demo.get_network(corp.id)
        cloud.demo.delete_network(corp.id)

    def test_attaching_to_a_network_of_ours_leaves_its_containers(self, cloud: Cloud, vm1: Vm) -> None:
        """One Docker network has it by ovn.network, another with its own security groups by ovn.switch."""
        network, other = (
            replace(network, subnets=()) for network in (new_network(name="ours"), new_network(switch="ours"))
        )
        for one in (network, other):
            run(cloud, vm1.underlay.create_network, one, soon())
        (ours,) = cloud.demo.networks(name="ours")
        cloud.demo.create_subnet(network_id=ours.id, ip_version=4, cidr="10.98.0.0/24")
        wanted = Endpoint(C1, network.id)
        wanted = replace(wanted, mac=choose_mac(wanted))
        run(cloud, vm1.underlay.create_endpoint, wanted, soon())
        run(cloud, vm1.underlay.delete_network, other.id, soon())
        assert [stored.id for stored in run(cloud, vm1.underlay.endpoints, soon())] == [C1]
        run(cloud, vm1.underlay.delete_network, network.id, soon())
        assert run(cloud, vm1.underlay.endpoints, soon()) == []

    @pytest.mark.parametrize("by", ["name", "id"])
    def test_neutron_chooses_addresses_and_the_network_is_not_changed(
        self, cloud: Cloud, corp: Any, vm1: Vm, by: str
    ) -> None:
        network = replace(new_network(switch=getattr(corp, by)), subnets=())
        run(cloud, vm1.underlay.create_network, network, soon())
        wanted = Endpoint(C1, network.id)
        made = run(
            cloud,
            vm1.underlay.create_endpoint,
            replace(wanted, mac=choose_mac(wanted)),
            soon(),
        )
        four, six = made.addresses
        assert four.network == ip_network("10.99.0.0/24")
        assert six.network == ip_network("fd99::/64")
        assert made.mtu == corp.mtu
        run(cloud, vm1.underlay.delete_network, network.id, soon())
        assert cloud.demo.get_network(corp.id).to_dict() == corp.to_dict()

    @pytest.mark.parametrize(
        ("subnet", "options", "message"),
        [
            ("10.98.0.0/24 10.98.0.1", {}, "with --subnet=10.99.0.0/24 --gateway=10.99.0.254"),
            (
                "10.99.0.0/24 10.99.0.1",
                {},
                "has the gateway 10.99.0.254 in Neutron, not the requested 10.99.0.1",
            ),
            ("10.99.0.0/24 10.99.0.254", {"mtu": 1400}, "driver.mtu and ovn.switch exclude each other"),
            ("10.99.0.0/24 10.99.0.254", {"switch": "nosuch"}, "Neutron has no network 'nosuch'"),
        ],
    )
    def test_settings_that_differ_are_refused_with_the_options_to_type(
        self, cloud: Cloud, corp: Any, vm1: Vm, subnet: str, options: dict[str, Any], message: str
    ) -> None:
        pool, _, gateway = subnet.partition(" ")
        network = new_network(Subnet(ip_network(pool), ip_address(gateway)), **({"switch": "corp"} | options))
        with pytest.raises(OvnDockerError) as refused:
            run(cloud, vm1.underlay.create_network, network, soon())
        assert message in explain(refused.value)

    def test_a_subnet_with_slaac_is_refused_for_dockers_ipam(self, cloud: Cloud, vm1: Vm) -> None:
        """Otherwise `docker network create` would succeed, and each `docker run` fail."""
        slaac = cloud.demo.create_network(name="slaac")
        modes = {"ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac"}
        cloud.demo.create_subnet(network_id=slaac.id, ip_version=6, cidr="fd00:1::/64", **modes)
        wanted = new_network(SUBNET6, switch="slaac")
        with pytest.raises(Conflict, match=r"from MACs \(slaac\)"):
            run(cloud, vm1.underlay.create_network, wanted, soon())
        network = replace(wanted, subnets=())
        run(cloud, vm1.underlay.create_network, network, soon())
        free = Endpoint(C1, network.id)
        free = replace(free, mac=choose_mac(free))
        made = run(cloud, vm1.underlay.create_endpoint, free, soon())
        assert [address.network for address in made.addresses] == [ip_network("fd00:1::/64")]
        run(cloud, vm1.underlay.delete_network, network.id, soon())
        cloud.demo.delete_network(slaac.id)

    def test_a_name_of_two_networks_is_refused(self, cloud: Cloud, corp: Any, vm1: Vm) -> None:
        twin = cloud.demo.create_network(name="corp")
        with pytest.raises(BadRequest, match=r"2 networks 'corp'.* give the ID of one"):
            run(cloud, vm1.underlay.create_network, new_network(switch="corp"), soon())
        cloud.demo.delete_network(twin.id)

    def test_addresses_on_another_projects_network_are_chosen_by_neutron(self, cloud: Cloud, vm1: Vm) -> None:
        network = replace(new_network(switch="management"), subnets=())
        run(cloud, vm1.underlay.create_network, network, soon())
        wanted = Endpoint(C1, network.id)
        made = run(
            cloud,
            vm1.underlay.create_endpoint,
            replace(wanted, mac=choose_mac(wanted)),
            soon(),
        )
        assert made.mac.startswith("fa:16:3e:")
        run(cloud, vm1.underlay.delete_endpoint, C1, soon())
        chosen = endpoint(network, C1, "172.31.0.77/24")
        with pytest.raises(OvnDockerError, match="ask the cloud's operator to allow it"):
            run(cloud, vm1.underlay.create_endpoint, chosen, soon())
        run(cloud, vm1.underlay.delete_network, network.id, soon())


class TestTwoDockerNetworksOnOne:
    """Two Docker networks of one machine on one Neutron network."""

    @pytest.fixture(params=["switch", "name"])
    def two(self, request: pytest.FixtureRequest, cloud: Cloud, vm1: Vm) -> Iterator[tuple[Network, Network]]:
        """Two Docker networks, on the user's network or on a shared one; the second is deleted afterwards."""
        users = cloud.demo.create_network(name="one") if request.param == "switch" else None
        if users:
            cloud.demo.create_subnet(network_id=users.id, ip_version=4, cidr="192.168.1.0/24")
        first, second = (new_network(**{request.param: "one"}) for _ in range(2))
        for network in (first, second):
            run(cloud, vm1.underlay.create_network, network, soon())
        yield first, second
        run(cloud, vm1.underlay.delete_network, first.id, soon())
        if users:
            cloud.demo.delete_network(users.id)

    def test_deleting_one_keeps_containers_of_the_other(
        self, cloud: Cloud, vm1: Vm, two: tuple[Network, Network]
    ) -> None:
        first, second = two
        run(cloud, vm1.underlay.create_endpoint, endpoint(first), soon())
        run(cloud, vm1.underlay.delete_network, second.id, soon())
        assert [stored.id for stored in run(cloud, vm1.underlay.endpoints, soon())] == [C1]

    def test_deleting_the_pool_of_one_keeps_leases_of_the_other(self, cloud: Cloud, vm1: Vm) -> None:
        pools, networks = [], []
        for _ in range(2):
            pools.append(run(cloud, vm1.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4))
            networks.append(new_network(Subnet(pools[-1].subnet, ours=True), name="one"))
            run(cloud, vm1.underlay.create_network, networks[-1], soon())
        taken, _ = run(cloud, vm1.ipam.request_address, pools[0].id, None, gateway=False)
        run(cloud, vm1.ipam.release_pool, pools[1].id)
        assert len(cloud.demo.ports(fixed_ips=f"ip_address={taken}")) == 1
        run(cloud, vm1.ipam.release_pool, pools[0].id)
        assert cloud.demo.ports(fixed_ips=f"ip_address={taken}") == []
        for network in networks:
            run(cloud, vm1.underlay.delete_network, network.id, soon())


class TestOptions:
    def test_security_groups_are_set_on_ports(self, cloud: Cloud, vm1: Vm) -> None:
        group = cloud.demo.create_security_group(name="web")
        network = new_network(security_groups=("web", "default"))
        run(cloud, vm1.underlay.create_network, network, soon())
        made = run(cloud, vm1.underlay.create_endpoint, endpoint(network), soon())
        groups = cloud.demo.get_port(made.iface_id).security_group_ids
        assert len(groups) == 2
        assert group.id in groups
        run(cloud, vm1.underlay.delete_network, network.id, soon())
        cloud.demo.delete_security_group(group.id)

    def test_allowed_addresses_are_set_on_ports(self, cloud: Cloud, vm1: Vm) -> None:
        vip, mac = "192.168.1.100", "00:00:5e:00:01:0a"
        network = new_network(allowed=allowed.parse(vip), security_groups=("default",))
        run(cloud, vm1.underlay.create_network, network, soon())
        wanted = replace(endpoint(network), allowed=allowed.parse(f"{mac}/{vip} 192.168.1.128/28"))
        made = run(cloud, vm1.underlay.create_endpoint, wanted, soon())
        port = cloud.demo.get_port(made.iface_id)
        pairs = {(pair["ip_address"], pair["mac_address"]) for pair in port.allowed_address_pairs}
        assert pairs == {(vip, port.mac_address), (vip, mac), ("192.168.1.128/28", port.mac_address)}
        for text, why in (("192.168.1.1", "the gateway"), ("192.168.1.2", "the own address of port")):
            other = replace(endpoint(network, C2, "192.168.1.3/24"), allowed=allowed.parse(text))
            with pytest.raises(OvnDockerError, match=why):
                run(cloud, vm1.underlay.create_endpoint, other, soon())
        run(cloud, vm1.underlay.delete_network, network.id, soon())

    @pytest.mark.parametrize("of_network", [True, False])
    def test_port_security_can_be_disabled(self, cloud: Cloud, vm1: Vm, *, of_network: bool) -> None:
        network = new_network(port_security=not of_network, security_groups=("default",))
        run(cloud, vm1.underlay.create_network, network, soon())
        wanted = replace(endpoint(network), port_security=None if of_network else False)
        made = run(cloud, vm1.underlay.create_endpoint, wanted, soon())
        assert cloud.demo.get_port(made.iface_id).is_port_security_enabled is False
        run(cloud, vm1.underlay.delete_network, network.id, soon())

    def test_an_unknown_security_group_is_named(self, cloud: Cloud, vm1: Vm) -> None:
        with pytest.raises(BadRequest, match="Neutron has no security group 'nosuch'"):
            run(
                *(cloud, vm1.underlay.create_network, new_network(security_groups=("nosuch",))),
                soon(),
            )

    def test_an_mtu_larger_than_the_vms_networks_is_refused(self, cloud: Cloud, vm1: Vm) -> None:
        with pytest.raises(BadRequest, match="give at most 1500"):
            run(cloud, vm1.underlay.create_network, new_network(mtu=9000), soon())

    def test_an_mtu_that_neutron_refuses_leaves_nothing(self, cloud: Cloud, vm1: Vm) -> None:
        with pytest.raises(OvnDockerError, match=r"Neutron refused the request: .*MTU"):
            run(cloud, vm1.underlay.create_network, new_network(mtu=1490), soon())


class TestAddresses:
    def test_leases_of_both_ip_versions_become_one_port(self, cloud: Cloud, vm1: Vm) -> None:
        pools = [
            run(cloud, vm1.ipam.request_pool, ip_network(subnet), None, version)
            for subnet, version in (("10.3.0.0/24", 4), ("fd03::/64", 6))
        ]
        network = new_network(*(Subnet(pool.subnet, ours=True) for pool in pools))
        run(cloud, vm1.underlay.create_network, network, soon())
        taken = [run(cloud, vm1.ipam.request_address, pool.id, None, gateway=False) for pool in pools]
        wanted = endpoint(network, C1, *(f"{address}/{prefix}" for address, prefix in taken))
        made = run(cloud, vm1.underlay.create_endpoint, wanted, soon())
        port = cloud.demo.get_port(made.iface_id)
        assert port.name == C1
        assert {fixed["ip_address"] for fixed in port.fixed_ips} == {str(address) for address, _ in taken}
        (one,) = cloud.demo.ports(network_id=port.network_id, device_owner="trunk:subport")
        assert one.id == port.id
        run(cloud, vm1.underlay.delete_endpoint, C1, soon())
        for pool, (address, _) in zip(pools, taken, strict=True):
            run(cloud, vm1.ipam.release_address, pool.id, address)
            run(cloud, vm1.ipam.release_pool, pool.id)
        run(cloud, vm1.underlay.delete_network, network.id, soon())

    def test_a_late_release_does_not_delete_the_next_lease_of_the_address(
        self, cloud: Cloud, vm1: Vm
    ) -> None:
        """Docker releases an address after the endpoint is deleted; it may have a new lease by then."""
        pool = run(cloud, vm1.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4)
        network = new_network(Subnet(pool.subnet, ours=True))
        run(cloud, vm1.underlay.create_network, network, soon())
        address, prefix = run(cloud, vm1.ipam.request_address, pool.id, None, gateway=False)
        wanted = endpoint(network, C1, f"{address}/{prefix}")
        run(cloud, vm1.underlay.create_endpoint, wanted, soon())
        run(cloud, vm1.underlay.delete_endpoint, C1, soon())
        run(cloud, vm1.ipam.request_address, pool.id, address, gateway=False)
        run(cloud, vm1.ipam.release_address, pool.id, address)
        assert len(cloud.demo.ports(fixed_ips=f"ip_address={address}")) == 1
        run(cloud, vm1.ipam.release_address, pool.id, address)
        assert cloud.demo.ports(fixed_ips=f"ip_address={address}") == []
        run(cloud, vm1.ipam.release_pool, pool.id)
        run(cloud, vm1.underlay.delete_network, network.id, soon())

    def test_leases_of_an_endpoint_killed_while_it_adopts_them_are_released(
        self, cloud: Cloud, vm1: Vm
    ) -> None:
        pool = run(cloud, vm1.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4)
        network = new_network(Subnet(pool.subnet, ours=True))
        run(cloud, vm1.underlay.create_network, network, soon())
        address, _ = run(cloud, vm1.ipam.request_address, pool.id, None, gateway=False)
        (port,) = cloud.demo.ports(fixed_ips=f"ip_address={address}")
        run(cloud, vm1.parent.attach, port.id, soon())
        run(cloud, vm1.ipam.release_address, pool.id, address)
        assert cloud.demo.ports(fixed_ips=f"ip_address={address}") == []
        run(cloud, vm1.ipam.release_pool, pool.id)
        run(cloud, vm1.underlay.delete_network, network.id, soon())

    def test_a_filter_with_many_addresses_is_split(self, cloud: Cloud, vm1: Vm) -> None:
        """The address of a request is limited to 8 kB, in the lab as in clouds."""
        pool = run(cloud, vm1.ipam.request_pool, ip_network("fd03:1234:5678:9abc::/64"), None, 6)
        network = new_network(Subnet(pool.subnet, ours=True))
        run(cloud, vm1.underlay.create_network, network, soon())
        wanted = pool.subnet[0xFFFF_1234_5678]
        taken, _ = run(cloud, vm1.ipam.request_address, pool.id, wanted, gateway=False)
        bound = run(cloud, vm1.underlay.leases.pool, pool.id, soon())
        some = [taken + number for number in range(256)]
        free = run(cloud, vm1.underlay.leases.free, bound, some, soon())
        assert free == some[1:]
        run(cloud, vm1.ipam.release_pool, pool.id)
        run(cloud, vm1.underlay.delete_network, network.id, soon())

    def test_an_address_of_a_plain_vm_is_refused_with_its_name(
        self, cloud: Cloud, vm1: Vm, network: Network
    ) -> None:
        (subnet,) = cloud.demo.subnets(name=f"docker-{network.id}")
        port = cloud.demo.create_port(
            network_id=subnet.network_id, name="db", fixed_ips=[{"ip_address": "192.168.1.2"}]
        )
        with pytest.raises(Conflict, match=rf"192\.168\.1\.2 is in use by port {port.id} in Neutron \(db\)"):
            run(cloud, vm1.underlay.create_endpoint, endpoint(network), soon())
        cloud.demo.delete_port(port.id)


class KilledError(Exception):
    """Stands for the end of the driver's process."""


class TestLeftOver:
    """Leftovers in Neutron, as reconcile.py gets them to compare with Docker."""

    def known(self, cloud: Cloud, vm: Vm) -> list[str]:
        return [found.id for found in run(cloud, vm.underlay.of_host, soon())[0]]

    def test_networks_are_listed_for_their_machine_only(
        self, cloud: Cloud, vm1: Vm, vm2: Vm, network: Network
    ) -> None:
        assert self.known(cloud, vm1) == [network.id[:48]]
        assert self.known(cloud, vm2) == []

    def test_a_shared_network_is_listed_for_each_machine(self, cloud: Cloud, vm1: Vm, vm2: Vm) -> None:
        mine, theirs = new_network(name="both"), new_network(name="both")
        run(cloud, vm1.underlay.create_network, mine, soon())
        run(cloud, vm2.underlay.create_network, theirs, soon())
        ((found,), _) = run(cloud, vm1.underlay.of_host, soon())
        assert (found.id, found.shared) == (mine.id[:48], "network both")
        run(cloud, vm1.underlay.drop_network, found.id, soon())
        assert self.known(cloud, vm1) == []
        assert self.known(cloud, vm2) == [theirs.id[:48]]
        run(cloud, vm2.underlay.drop_network, theirs.id[:48], soon())
        assert cloud.demo.networks(name="both") == []

    def test_a_network_that_is_left_in_part_is_listed(
        self, cloud: Cloud, vm1: Vm, vm2: Vm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The driver is killed between the removals of two tags from a network that another machine has."""
        mine, theirs = new_network(name="both"), new_network(name="both")
        run(cloud, vm1.underlay.create_network, mine, soon())
        run(cloud, vm2.underlay.create_network, theirs, soon())
        untag, gone = Neutron.untag, list[str]()

        def untag_one(neutron: Neutron, kind: str, uuid: str, tag: str, deadline: Deadline) -> None:
            if gone:
                raise KilledError
            untag(neutron, kind, uuid, tag, deadline)
            gone.append(tag)

        with monkeypatch.context() as patch:
            patch.setattr(Neutron, "untag", untag_one)
            with pytest.raises(KilledError):
                run(cloud, vm1.underlay.delete_network, mine.id, soon())
        (left,) = self.known(cloud, vm1)
        assert mine.id.startswith(left)
        run(cloud, vm1.underlay.drop_network, NetworkId(left), soon())
        assert self.known(cloud, vm1) == []
        run(cloud, vm2.underlay.delete_network, theirs.id, soon())
        assert cloud.demo.networks(name="both") == []

    def test_a_network_that_has_only_its_owner_tag_is_listed(self, cloud: Cloud, vm1: Vm) -> None:
        id_ = new_network().id
        half = cloud.demo.create_network(name=id_, description="ovn-docker")
        cloud.demo.set_tags(half, ["ovn-docker", f"docker-vm:{vm1.port.id}={id_[:12]}"])
        assert self.known(cloud, vm1) == [id_[:12]]
        run(cloud, vm1.underlay.drop_network, NetworkId(id_[:12]), soon())

    def test_forgetting_a_users_network_removes_its_tags_only(self, cloud: Cloud, vm1: Vm) -> None:
        users = cloud.demo.create_network(name="users")
        subnet = cloud.demo.create_subnet(network_id=users.id, ip_version=4, cidr="192.168.1.0/24")
        attached = new_network(switch="users")
        run(cloud, vm1.underlay.create_network, attached, soon())
        assert self.known(cloud, vm1) == [attached.id[:12]]
        run(cloud, vm1.underlay.drop_network, NetworkId(attached.id[:12]), soon())
        assert self.known(cloud, vm1) == []
        cloud.demo.delete_subnet(subnet.id)
        cloud.demo.delete_network(users.id)

    def test_belongings_of_a_lost_machine_can_be_deleted(self, cloud: Cloud, vm1: Vm) -> None:
        before = everything(cloud)
        pool = run(cloud, vm1.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4)
        gateway, _ = run(cloud, vm1.ipam.request_address, pool.id, None, gateway=True)
        network = new_network(Subnet(pool.subnet, gateway, ours=True))
        run(cloud, vm1.underlay.create_network, network, soon())
        taken = [run(cloud, vm1.ipam.request_address, pool.id, None, gateway=False)[0] for _ in range(2)]
        wanted = endpoint(network, C1, f"{taken[0]}/24")
        run(cloud, vm1.underlay.create_endpoint, wanted, soon())
        found = run(cloud, vm1.underlay.belongings, soon())
        assert [one.kind for one in found] == [Kind.ENDPOINT, Kind.NETWORK, Kind.LEASE, Kind.POOL]
        assert not run(cloud, vm1.underlay.is_up, soon())  # the machine was never on
        for one in found * 2:
            run(cloud, vm1.underlay.forget, one, soon())
        assert everything(cloud) == before

    def test_a_pool_whose_subnet_is_deleted_is_a_leftover_at_once(self, cloud: Cloud, vm1: Vm) -> None:
        """A pool without a network becomes a leftover only after some time."""
        pools = []
        for subnet in ("10.3.0.0/24", "10.4.0.0/24"):
            pools.append(run(cloud, vm1.ipam.request_pool, ip_network(subnet), None, 4))
            run(cloud, vm1.ipam.request_address, pools[-1].id, None, gateway=True)
        network = new_network(Subnet(pools[0].subnet, pools[0].gateway, ours=True))
        run(cloud, vm1.underlay.create_network, network, soon())
        assert run(cloud, vm1.underlay.of_host, soon())[1] == []
        (gone,) = cloud.demo.networks(name=network.id)
        cloud.demo.delete_network(gone.id)
        (stray,) = run(cloud, vm1.underlay.of_host, soon())[1]
        assert (stray.kind, stray.what) == (Kind.POOL, "10.3.0.0/24")
        assert run(cloud, vm1.underlay.clear, stray, soon())
        (left,) = cloud.demo.subnet_pools()
        assert left.name == pools[1].id
        run(cloud, vm1.ipam.release_pool, pools[1].id)

    @pytest.mark.parametrize("owner", ["name", "switch"])
    def test_a_pool_is_bound_after_the_machine_has_the_network(
        self, cloud: Cloud, vm1: Vm, vm2: Vm, owner: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The driver and Docker are killed: the pool becomes a leftover after some time only.

        The subnet stays: another machine has it, or it is the user's.
        """
        theirs = new_network(Subnet(ip_network("10.3.0.0/24")), name="stays")
        run(cloud, vm2.underlay.create_network, theirs, soon())
        pool = run(cloud, vm1.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4)
        network = new_network(Subnet(pool.subnet, ours=True), **{owner: "stays"})
        tag = Neutron.tag

        def tag_pools(neutron: Neutron, kind: str, uuid: str, word: str, deadline: Deadline) -> None:
            if kind != "subnetpools":
                raise KilledError
            tag(neutron, kind, uuid, word, deadline)

        with monkeypatch.context() as patch:
            patch.setattr(Neutron, "tag", tag_pools)
            with pytest.raises(KilledError):
                run(cloud, vm1.underlay.create_network, network, soon())
        assert self.known(cloud, vm1) == []
        monkeypatch.setattr("ovn_docker.backends.neutron.leases._UNUSED", -3600)
        (stray,) = run(cloud, vm1.underlay.of_host, soon())[1]
        assert run(cloud, vm1.underlay.clear, stray, soon())
        assert cloud.demo.subnet_pools() == []
        run(cloud, vm2.underlay.delete_network, theirs.id, soon())


class TestHalfMade:
    def test_an_incomplete_network_is_deleted_with_its_docker_network(self, cloud: Cloud, vm1: Vm) -> None:
        id_ = new_network().id
        cloud.demo.create_network(name=id_, description="ovn-docker")
        run(cloud, vm1.underlay.delete_network, id_, soon())

    def test_a_network_without_machines_is_deleted_after_a_while(
        self, cloud: Cloud, vm1: Vm, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may be complete or incomplete; a network that a machine has is not deleted."""
        half, whole = (cloud.demo.create_network(name="x", description="ovn-docker") for _ in range(2))
        cloud.demo.set_tags(whole, ["ovn-docker"])
        clear = vm1.underlay.clear_orphans
        assert run(cloud, clear, soon()) == []
        assert {found.id for found in cloud.demo.networks(name="x")} == {half.id, whole.id}
        monkeypatch.setattr("ovn_docker.backends.neutron.networks._ABANDONED", -3600)
        run(cloud, clear, soon())
        assert cloud.demo.networks(name="x") == []
        assert cloud.demo.networks(name=network.id)

    def test_a_users_network_with_a_similar_description_stays(
        self, cloud: Cloud, vm1: Vm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        users = cloud.demo.create_network(name="x", description="OVN-Docker")
        monkeypatch.setattr("ovn_docker.backends.neutron.networks._ABANDONED", -3600)
        run(cloud, vm1.underlay.clear_orphans, soon())
        cloud.demo.delete_network(users.id, ignore_missing=False)

    def test_an_incomplete_network_can_be_completed(self, cloud: Cloud, vm1: Vm) -> None:
        network = new_network(SUBNET, SUBNET6)
        half = cloud.demo.create_network(name=network.id, description="ovn-docker")
        run(cloud, vm1.underlay.create_network, network, soon())
        assert len(cloud.demo.get_network(half.id).subnet_ids) == 2
        run(cloud, vm1.underlay.delete_network, network.id, soon())

    def test_a_port_that_is_not_in_the_trunk_is_deleted(
        self, cloud: Cloud, vm1: Vm, network: Network
    ) -> None:
        run(cloud, vm1.underlay.create_endpoint, endpoint(network), soon())
        (trunk,) = cloud.demo.trunks(port_id=vm1.port.id)
        cloud.demo.delete_trunk_subports(trunk.id, [{"port_id": trunk.sub_ports[0]["port_id"]}])
        assert [stored.id for stored in run(cloud, vm1.underlay.endpoints, soon())] == [C1]
        run(cloud, vm1.underlay.delete_endpoint, C1, soon())
        assert run(cloud, vm1.underlay.endpoints, soon()) == []


SLOW_POLICY = """
import time
from neutron import policy
register_rules = policy.register_rules
def slowly(enforcer):
    time.sleep(3)
    register_rules(enforcer)
policy.register_rules = slowly
"""


class TestNeutronThatHasJustStarted:
    """A process of Neutron hides all resources until it has loaded its policy."""

    @pytest.fixture
    def restart(self, cloud: Cloud) -> Iterator[Callable[[], None]]:
        neutron = cloud.control.neutron

        def restart(*options: str) -> None:
            neutron.stop()
            neutron.start(*options)

        cloud.control.path("/run/lab/slow_policy.py").write_text(SLOW_POLICY)
        yield partial(restart, "--pythonpath=/run/lab", "--import=slow_policy")
        restart()

    def test_hidden_resources_do_not_count_as_deleted(
        self, cloud: Cloud, vm1: Vm, vm2: Vm, network: Network, restart: Callable[[], None]
    ) -> None:
        run(cloud, vm1.underlay.create_endpoint, endpoint(network), soon())
        run(cloud, vm1.underlay.create_network, gone := new_network(), soon())
        group = cloud.demo.create_security_group(name="hidden")
        restart()
        assert together(
            cloud,
            partial(vm1.underlay.check, {vm1.port.mac_address}, soon()),
            partial(vm1.underlay.delete_endpoint, C1, soon()),
            partial(vm1.underlay.delete_network, gone.id, soon()),
            partial(vm2.neutron.delete, NeutronSecurityGroup, group.id, soon()),
        ) == [None, True, None, None]
        assert run(cloud, vm1.underlay.endpoints, soon()) == []
        assert cloud.demo.networks(name=gone.id) == []
        assert cloud.demo.security_groups(name="hidden") == []


class TestTheVmsPort:
    def test_a_port_with_the_mac_of_no_interface_is_refused(self, cloud: Cloud, vm1: Vm, vm2: Vm) -> None:
        run(cloud, vm1.underlay.check, {vm1.port.mac_address}, soon())
        with pytest.raises(BadRequest, match=f"{vm2.port.mac_address}, which no interface of this VM has"):
            run(cloud, vm2.underlay.check, {vm1.port.mac_address}, soon())

    def test_a_port_that_does_not_exist_is_refused(self, cloud: Cloud, vm1: Vm) -> None:
        nowhere = str(uuid4())
        leases = Leases(vm1.neutron, nowhere, vm1.parent)
        lost = Underlay(vm1.neutron, nowhere, vm1.parent, leases)
        with pytest.raises(BadRequest, match=f"Neutron has no port {nowhere}.*openstack port list"):
            run(cloud, lost.check, {vm1.port.mac_address}, soon())


LOGINS: dict[str, tuple[dict[str, str], str]] = {
    "password": ({"password": "wrong"}, "rejects the login: check the password"),
    "region": ({"region_name": "Mars"}, "has no Neutron in its catalogue.* check OS_REGION_NAME"),
    "refused": ({"auth_url": "http://127.0.0.1:9"}, "cannot reach OpenStack .*Connection refused"),
    "name": ({"auth_url": "http://nosuch.invalid:5000"}, "cannot reach OpenStack"),
}


@pytest.mark.parametrize("wrong", LOGINS)
def test_a_failed_login_is_reported_without_secrets(cloud: Cloud, vm1: Vm, wrong: str) -> None:
    change, message = LOGINS[wrong]
    with pytest.raises(OvnDockerError, match=message) as failed:
        run(cloud, Neutron(vm1.login | change).all, NeutronNetwork, soon())
    assert "\n" not in str(failed.value)
    assert not re.search(r"wrong|=demo|'demo'", str(failed.value))


def test_a_keystone_that_never_answers_ends_with_the_deadline(cloud: Cloud, vm1: Vm) -> None:
    with run(cloud, socket.create_server, ("127.0.0.1", 0)) as hung, ThreadPoolExecutor(1) as thread:
        neutron = Neutron(vm1.login | {"auth_url": f"http://127.0.0.1:{hung.getsockname()[1]}"})
        asked = thread.submit(run, cloud, neutron.all, NeutronNetwork, Deadline(2))
        assert isinstance(asked.exception(timeout=18), OvnDockerError)  # a request alone may take 20 seconds


class Portal(BaseHTTPRequestHandler):
    """A server in Neutron's place that answers every request alike."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)


@pytest.mark.parametrize("body", [b"<html>log in first</html>", b"[]", b"{}", b'{"networks": null}'])
def test_a_reply_that_is_not_neutrons_is_reported(cloud: Cloud, vm1: Vm, body: bytes) -> None:
    answering = type("Answering", (Portal,), {"body": body})
    with run(cloud, ThreadingHTTPServer, ("127.0.0.1", 0), answering) as portal:
        thread = threading.Thread(target=portal.serve_forever)
        thread.start()
        vm2 = {"network_endpoint_override": f"http://127.0.0.1:{portal.server_port}"}
        neutron = Neutron(vm1.login | vm2)
        for ask in (partial(neutron.all, NeutronNetwork), partial(neutron.one, NeutronNetwork, str(uuid4()))):
            with pytest.raises(
                Unavailable, match="is not from Neutron: check the address, and that no proxy or login page"
            ):
                run(cloud, ask, soon())
        portal.shutdown()
        thread.join()


def test_an_expired_token_is_renewed(cloud: Cloud, vm1: Vm) -> None:
    neutron = Neutron(vm1.login)
    run(cloud, neutron.all, NeutronNetwork, soon())
    connection = neutron._connection
    assert connection

    def revoke() -> None:
        token = connection.session.get_token()
        connection.identity.delete("/auth/tokens", headers={"X-Subject-Token": token})

    cloud.inside(revoke)
    run(cloud, neutron.all, NeutronNetwork, soon())
