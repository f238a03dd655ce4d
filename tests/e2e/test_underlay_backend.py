"""The underlay's backend on a real Neutron: it keeps the contract, and does what only Neutron can."""

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
from ovn_docker.backends.leases import Leases
from ovn_docker.backends.neutron import Neutron, Refused, Resource
from ovn_docker.backends.trunk import Parent, Profile, Trunk
from ovn_docker.backends.underlay import Underlay
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, Unavailable
from ovn_docker.ipam import Ipam
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
    """An object whose methods run where Neutron can be reached."""

    def __init__(self, cloud: Cloud, inner: object) -> None:
        self._cloud, self._inner = cloud, inner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)
        return lambda *args, **more: self._cloud.inside(partial(method, *args, **more))


class Vm:
    """A port of a virtual machine that is switched off, and what the driver in it would be made of."""

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
        self.parent: Parent = Trunk(self.neutron, self.port.id)
        leases = Leases(self.neutron, self.port.id, self.parent)
        self.underlay = Underlay(self.neutron, self.port.id, self.parent, leases)
        self.ipam = Ipam(leases, lambda _: self.chassis, list, tuple[Supply, ...](), lambda _, __: (), 60)

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
        assert gone == [True] * 6
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

    @pytest.mark.parametrize("what", ["subport", "trunk"])
    def test_what_somebody_else_removes_in_the_same_moment_is_gone(
        self, cloud: Cloud, here: Vm, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        vm, network = Vm(cloud, "short-lived"), new_network()
        run(cloud, vm.underlay.create_network, network, vm.chassis, soon())
        run(cloud, vm.underlay.create_endpoint, endpoint(network), vm.chassis, soon())
        find = cast("Trunk", vm.parent).find

        def overtaken(deadline: Deadline, *, make: bool = True) -> Any:
            trunk = find(deadline, make=make)
            if trunk and what == "trunk":
                here.neutron.delete("trunks", trunk["id"], deadline)
            elif trunk and trunk["sub_ports"]:
                there = [{"port_id": sub["port_id"]} for sub in trunk["sub_ports"]]
                here.neutron.change_subports(trunk["id"], "remove", there, deadline)
            return trunk

        monkeypatch.setattr(vm.parent, "find", overtaken)
        run(cloud, vm.underlay.delete_endpoint, C1, vm.chassis, soon())
        assert run(cloud, vm.underlay.endpoints, vm.chassis, soon()) == []
        run(cloud, vm.underlay.delete_network, network.id, vm.chassis, soon())
        vm.close(cloud)

    def test_where_the_vlans_end_those_that_there_are_are_given_away(
        self, cloud: Cloud, here: Vm, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ovn_docker.backends.trunk._VLANS", range(1, 3))
        (subnet,) = cloud.demo.subnets(name=f"docker-{network.id}")
        ports = [cloud.demo.create_port(network_id=subnet.network_id) for _ in range(4)]
        made = together(cloud, *(partial(here.parent.attach, port.id, soon()) for port in ports))
        vlans, refused = ([one for one in made if isinstance(one, kind)] for kind in (int, Conflict))
        assert sorted(vlans) == [1, 2]
        assert len(refused) == 2
        assert all("has 2 subports, and there are no more VLANs" in str(one) for one in refused)
        for port in ports:
            run(cloud, here.parent.detach, port.id, soon())
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
        assert made == [""] * 4  # no records
        (found,) = cloud.demo.networks(name="race")
        assert sum(tag.startswith("docker:") for tag in found.tags) == 4
        for vm, network in zip(machines, networks, strict=True):
            assert cloud.demo.networks(name="race")
            run(cloud, vm.underlay.delete_network, network.id, vm.chassis, soon())
        assert cloud.demo.networks(name="race") == []

    def test_goes_when_all_leave_it_at_the_same_time(
        self, cloud: Cloud, here: Vm, there: Vm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each has seen the other on it, so none is the last."""
        networks = {vm: new_network(name="left") for vm in (here, there)}
        for vm, network in networks.items():
            run(cloud, vm.underlay.create_network, network, vm.chassis, soon())
        seen, read = threading.Barrier(2), Neutron.one
        looked = set()

        def one(neutron: Neutron, kind: str, uuid: str, deadline: Deadline) -> Resource | None:
            found = read(neutron, kind, uuid, deadline)
            if kind == "networks" and neutron not in looked:
                looked.add(neutron)
                seen.wait(timeout=30)
            return found

        monkeypatch.setattr(Neutron, "one", one)
        leave = (
            partial(vm.underlay.delete_network, network.id, vm.chassis, soon())
            for vm, network in networks.items()
        )
        assert together(cloud, *leave) == [None] * 2
        assert cloud.demo.networks(name="left") == []

    def test_one_that_somebody_else_made_is_not_taken_for_it(self, cloud: Cloud, here: Vm) -> None:
        theirs = cloud.demo.create_network(name="theirs")
        with pytest.raises(Conflict, match=r"-o ovn\.switch=theirs, or give ovn\.network another name"):
            run(cloud, here.underlay.create_network, new_network(name="theirs"), here.chassis, soon())
        cloud.demo.delete_network(theirs.id)

    def test_of_another_project_is_not_taken_for_it(self, cloud: Cloud, here: Vm) -> None:
        """Though they have shared it with us, and made it look like one of ours."""
        theirs = cloud.alt.create_network(name="web", description="ovn-docker")
        cloud.alt.set_tags(theirs, ["ovn-docker", f"docker-vm:{here.port.id}=0123456789ab"])
        cloud.alt.create_rbac_policy(
            object_type="network",
            object_id=theirs.id,
            action="access_as_shared",
            target_project_id=cloud.demo.project,
        )
        assert run(cloud, here.underlay.mine, here.chassis, soon())[0] == []
        with pytest.raises(Conflict, match=r"-o ovn\.switch=web, or give ovn\.network another name"):
            run(cloud, here.underlay.create_network, new_network(name="web"), here.chassis, soon())
        cloud.alt.delete_network(theirs.id)

    def test_is_another_one_than_that_of_a_name_in_capitals(self, cloud: Cloud, here: Vm) -> None:
        team, other = new_network(name="team"), new_network(name="Team")
        for network in (team, other):
            run(cloud, here.underlay.create_network, network, here.chassis, soon())
        assert {found.name for found in cloud.demo.networks(name="team")} == {"team", "Team"}
        for network in (team, other):
            run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())

    def test_with_another_mtu_than_asked_for_is_refused(self, cloud: Cloud, here: Vm) -> None:
        network = new_network(name="web")
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        with pytest.raises(
            Conflict, match=r"web has MTU 1442 in Neutron, asked for was 1400; create it with"
        ):
            run(
                cloud,
                here.underlay.create_network,
                new_network(name="web", mtu=1400),
                *(here.chassis, soon()),
            )
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())

    def test_that_carries_more_than_the_vms_port_is_refused(self, cloud: Cloud, here: Vm) -> None:
        small = cloud.demo.create_network(name="small", mtu=1300)
        vm, network = Vm(cloud, "small", small), new_network(name="web")
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        with pytest.raises(BadRequest, match=r"web has MTU 1442, but the VM's own port .* 1300.*--mtu 1300"):
            run(cloud, vm.underlay.create_network, new_network(name="web"), vm.chassis, soon())
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())
        vm.close(cloud)
        cloud.demo.delete_network(small.id)

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

    def test_can_be_one_of_ours_whose_containers_stay(self, cloud: Cloud, here: Vm) -> None:
        """One Docker network by its name, and one with security groups of its own by ovn.switch."""
        network, other = (
            replace(network, subnets=()) for network in (new_network(name="ours"), new_network(switch="ours"))
        )
        for one in (network, other):
            run(cloud, here.underlay.create_network, one, here.chassis, soon())
        (ours,) = cloud.demo.networks(name="ours")
        cloud.demo.create_subnet(network_id=ours.id, ip_version=4, cidr="10.98.0.0/24")
        wanted = Endpoint(C1, network.id)
        wanted = replace(wanted, mac=choose_mac(wanted))
        run(cloud, here.underlay.create_endpoint, wanted, here.chassis, soon())
        run(cloud, here.underlay.delete_network, other.id, here.chassis, soon())
        assert [stored.id for stored in run(cloud, here.underlay.endpoints, here.chassis, soon())] == [C1]
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())
        assert run(cloud, here.underlay.endpoints, here.chassis, soon()) == []

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

    def test_in_which_neutron_makes_addresses_of_macs_has_none_that_docker_chooses(
        self, cloud: Cloud, here: Vm
    ) -> None:
        """Else `docker network create` would work, and no container start."""
        slaac = cloud.demo.create_network(name="slaac")
        modes = {"ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac"}
        cloud.demo.create_subnet(network_id=slaac.id, ip_version=6, cidr="fd00:1::/64", **modes)
        wanted = new_network(SUBNET6, switch="slaac")
        with pytest.raises(Conflict, match=r"of MACs \(slaac\).*create it with --ipam-driver null"):
            run(cloud, here.underlay.create_network, wanted, here.chassis, soon())
        network = replace(wanted, subnets=())
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        free = Endpoint(C1, network.id)
        free = replace(free, mac=choose_mac(free))
        made = run(cloud, here.underlay.create_endpoint, free, here.chassis, soon())
        assert [address.network for address in made.addresses] == [ip_network("fd00:1::/64")]
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())
        cloud.demo.delete_network(slaac.id)

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


class TestTwoDockerNetworksOnOne:
    """Of one machine."""

    @pytest.fixture(params=["switch", "name"])
    def two(
        self, request: pytest.FixtureRequest, cloud: Cloud, here: Vm
    ) -> Iterator[tuple[Network, Network]]:
        """The second has gone afterwards; of the user's network or of one that machines share."""
        users = cloud.demo.create_network(name="one") if request.param == "switch" else None
        if users:
            cloud.demo.create_subnet(network_id=users.id, ip_version=4, cidr="192.168.1.0/24")
        first, second = (new_network(**{request.param: "one"}) for _ in range(2))
        for network in (first, second):
            run(cloud, here.underlay.create_network, network, here.chassis, soon())
        yield first, second
        run(cloud, here.underlay.delete_network, first.id, here.chassis, soon())
        if users:
            cloud.demo.delete_network(users.id)

    def test_containers_of_one_stay_when_the_other_goes(
        self, cloud: Cloud, here: Vm, two: tuple[Network, Network]
    ) -> None:
        first, second = two
        run(cloud, here.underlay.create_endpoint, endpoint(first), here.chassis, soon())
        run(cloud, here.underlay.delete_network, second.id, here.chassis, soon())
        assert [stored.id for stored in run(cloud, here.underlay.endpoints, here.chassis, soon())] == [C1]

    def test_addresses_of_one_stay_when_the_others_pool_goes(self, cloud: Cloud, here: Vm) -> None:
        pools, networks = [], []
        for _ in range(2):
            pools.append(run(cloud, here.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4))
            networks.append(new_network(Subnet(pools[-1].subnet, ours=True), name="one"))
            run(cloud, here.underlay.create_network, networks[-1], here.chassis, soon())
        taken, _ = run(cloud, here.ipam.request_address, pools[0].id, None, gateway=False)
        run(cloud, here.ipam.release_pool, pools[1].id)
        assert len(cloud.demo.ports(fixed_ips=f"ip_address={taken}")) == 1
        run(cloud, here.ipam.release_pool, pools[0].id)
        assert cloud.demo.ports(fixed_ips=f"ip_address={taken}") == []
        for network in networks:
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

    def test_allowed_addresses_are_the_ports(self, cloud: Cloud, here: Vm) -> None:
        vip, mac = "192.168.1.100", "00:00:5e:00:01:0a"
        network = new_network(allowed=allowed.parse(vip), security_groups=("default",))
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        wanted = replace(endpoint(network), allowed=allowed.parse(f"{mac}/{vip} 192.168.1.128/28"))
        made = run(cloud, here.underlay.create_endpoint, wanted, here.chassis, soon())
        port = cloud.demo.get_port(made.iface_id)
        pairs = {(pair["ip_address"], pair["mac_address"]) for pair in port.allowed_address_pairs}
        assert pairs == {(vip, port.mac_address), (vip, mac), ("192.168.1.128/28", port.mac_address)}
        for text, why in (("192.168.1.1", "the gateway"), ("192.168.1.2", "the own address of port")):
            other = replace(endpoint(network, C2, "192.168.1.3/24"), allowed=allowed.parse(text))
            with pytest.raises(OvnDockerError, match=why):
                run(cloud, here.underlay.create_endpoint, other, here.chassis, soon())
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())

    @pytest.mark.parametrize("of_network", [True, False])
    def test_port_security_is_off(self, cloud: Cloud, here: Vm, *, of_network: bool) -> None:
        network = new_network(port_security=not of_network, security_groups=("default",))
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        wanted = replace(endpoint(network), port_security=None if of_network else False)
        made = run(cloud, here.underlay.create_endpoint, wanted, here.chassis, soon())
        assert cloud.demo.get_port(made.iface_id).is_port_security_enabled is False
        run(cloud, here.underlay.delete_network, network.id, here.chassis, soon())

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

    def test_that_went_with_an_endpoint_are_not_taken_from_the_next_one(self, cloud: Cloud, here: Vm) -> None:
        """When Docker says that it gives them back, Neutron may have given them to another container."""
        pool = run(cloud, here.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4)
        network = new_network(Subnet(pool.subnet, ours=True))
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        address, prefix = run(cloud, here.ipam.request_address, pool.id, None, gateway=False)
        wanted = endpoint(network, C1, f"{address}/{prefix}")
        run(cloud, here.underlay.create_endpoint, wanted, here.chassis, soon())
        run(cloud, here.underlay.delete_endpoint, C1, here.chassis, soon())
        run(cloud, here.ipam.request_address, pool.id, address, gateway=False)
        run(cloud, here.ipam.release_address, pool.id, address)
        assert len(cloud.demo.ports(fixed_ips=f"ip_address={address}")) == 1
        run(cloud, here.ipam.release_address, pool.id, address)
        assert cloud.demo.ports(fixed_ips=f"ip_address={address}") == []
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

    def test_of_a_range_are_asked_for_in_bites(self, cloud: Cloud, here: Vm) -> None:
        """Addresses of HTTP have an end: in the lab as in clouds after 8 kB."""
        pool = run(cloud, here.ipam.request_pool, ip_network("fd03:1234:5678:9abc::/64"), None, 6)
        network = new_network(Subnet(pool.subnet, ours=True))
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        wanted = pool.subnet[0xFFFF_1234_5678]
        taken, _ = run(cloud, here.ipam.request_address, pool.id, wanted, gateway=False)
        bound = run(cloud, here.underlay.leases.pool, pool.id, here.chassis, soon())
        some = [taken + number for number in range(256)]
        free = run(cloud, here.underlay.leases.free, bound, some, 0, here.chassis, soon())
        assert free == some[1:]
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


class KilledError(Exception):
    """The driver ends here."""


class TestLeftOver:
    """What reconcile.py compares with Docker's word."""

    def known(self, cloud: Cloud, vm: Vm) -> list[str]:
        return [found.id for found in run(cloud, vm.underlay.mine, vm.chassis, soon())[0]]

    def test_networks_are_known_by_the_machine_that_has_them(
        self, cloud: Cloud, here: Vm, there: Vm, network: Network
    ) -> None:
        assert self.known(cloud, here) == [network.id[:48]]
        assert self.known(cloud, there) == []

    def test_a_network_that_machines_share_is_each_ones(self, cloud: Cloud, here: Vm, there: Vm) -> None:
        mine, theirs = new_network(name="both"), new_network(name="both")
        run(cloud, here.underlay.create_network, mine, here.chassis, soon())
        run(cloud, there.underlay.create_network, theirs, there.chassis, soon())
        ((found,), _) = run(cloud, here.underlay.mine, here.chassis, soon())
        assert (found.id, found.shared) == (mine.id[:48], "network both")
        run(cloud, here.underlay.drop_network, found.id, here.chassis, soon())
        assert self.known(cloud, here) == []
        assert self.known(cloud, there) == [theirs.id[:48]]
        run(cloud, there.underlay.drop_network, theirs.id[:48], there.chassis, soon())
        assert cloud.demo.networks(name="both") == []

    def test_a_network_whose_leaving_ended_in_the_middle_is_known_too(
        self, cloud: Cloud, here: Vm, there: Vm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The driver was killed between two tags of a network that another machine still has."""
        mine, theirs = new_network(name="both"), new_network(name="both")
        run(cloud, here.underlay.create_network, mine, here.chassis, soon())
        run(cloud, there.underlay.create_network, theirs, there.chassis, soon())
        untag, gone = Neutron.untag, list[str]()

        def untag_one(neutron: Neutron, kind: str, uuid: str, tag: str, deadline: Deadline) -> None:
            if gone:
                raise KilledError
            untag(neutron, kind, uuid, tag, deadline)
            gone.append(tag)

        with monkeypatch.context() as patch:
            patch.setattr(Neutron, "untag", untag_one)
            with pytest.raises(KilledError):
                run(cloud, here.underlay.delete_network, mine.id, here.chassis, soon())
        (left,) = self.known(cloud, here)
        assert mine.id.startswith(left)
        run(cloud, here.underlay.drop_network, NetworkId(left), here.chassis, soon())
        assert self.known(cloud, here) == []
        run(cloud, there.underlay.delete_network, theirs.id, there.chassis, soon())
        assert cloud.demo.networks(name="both") == []

    def test_a_network_whose_making_ended_behind_its_owner_is_known_too(self, cloud: Cloud, here: Vm) -> None:
        id_ = new_network().id
        half = cloud.demo.create_network(name=id_, description="ovn-docker")
        cloud.demo.set_tags(half, ["ovn-docker", f"docker-vm:{here.port.id}={id_[:12]}"])
        assert self.known(cloud, here) == [id_[:12]]
        run(cloud, here.underlay.drop_network, NetworkId(id_[:12]), here.chassis, soon())

    def test_of_the_users_network_only_the_note_goes(self, cloud: Cloud, here: Vm) -> None:
        users = cloud.demo.create_network(name="users")
        subnet = cloud.demo.create_subnet(network_id=users.id, ip_version=4, cidr="192.168.1.0/24")
        attached = new_network(switch="users")
        run(cloud, here.underlay.create_network, attached, here.chassis, soon())
        assert self.known(cloud, here) == [attached.id[:12]]
        run(cloud, here.underlay.drop_network, NetworkId(attached.id[:12]), here.chassis, soon())
        assert self.known(cloud, here) == []
        cloud.demo.delete_subnet(subnet.id)
        cloud.demo.delete_network(users.id)

    def test_all_that_a_machine_has_goes_when_it_is_gone(self, cloud: Cloud, here: Vm) -> None:
        before = everything(cloud)
        pool = run(cloud, here.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4)
        gateway, _ = run(cloud, here.ipam.request_address, pool.id, None, gateway=True)
        network = new_network(Subnet(pool.subnet, gateway, ours=True))
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        taken = [run(cloud, here.ipam.request_address, pool.id, None, gateway=False)[0] for _ in range(2)]
        wanted = endpoint(network, C1, f"{taken[0]}/24")
        run(cloud, here.underlay.create_endpoint, wanted, here.chassis, soon())
        found = run(cloud, here.underlay.belongings, here.chassis, soon())
        assert [one.kind for one in found] == [Kind.ENDPOINT, Kind.NETWORK, Kind.LEASE, Kind.POOL]
        assert not run(cloud, here.underlay.is_up, soon())  # the machine was never on
        for one in found * 2:
            run(cloud, here.underlay.forget, one, here.chassis, soon())
        assert everything(cloud) == before

    def test_a_pool_whose_network_has_gone_is_nobodys_at_once(self, cloud: Cloud, here: Vm) -> None:
        """Somebody has deleted it; of a pool that no network has yet only time tells."""
        pools = []
        for subnet in ("10.3.0.0/24", "10.4.0.0/24"):
            pools.append(run(cloud, here.ipam.request_pool, ip_network(subnet), None, 4))
            run(cloud, here.ipam.request_address, pools[-1].id, None, gateway=True)
        network = new_network(Subnet(pools[0].subnet, pools[0].gateway, ours=True))
        run(cloud, here.underlay.create_network, network, here.chassis, soon())
        assert run(cloud, here.underlay.mine, here.chassis, soon())[1] == []
        (gone,) = cloud.demo.networks(name=network.id)
        cloud.demo.delete_network(gone.id)
        (stray,) = run(cloud, here.underlay.mine, here.chassis, soon())[1]
        assert (stray.kind, stray.what) == (Kind.POOL, "10.3.0.0/24")
        assert run(cloud, here.underlay.clear, stray, here.chassis, soon())
        (left,) = cloud.demo.subnet_pools()
        assert left.name == pools[1].id
        run(cloud, here.ipam.release_pool, pools[1].id)

    @pytest.mark.parametrize("whose", ["name", "switch"])
    def test_a_pool_has_no_network_before_the_machine_has(
        self, cloud: Cloud, here: Vm, there: Vm, whose: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The driver is killed, and Docker dies too: only time can tell then that the pool is nobody's.

        The subnet stays: another machine has it, or it is the user's.
        """
        theirs = new_network(Subnet(ip_network("10.3.0.0/24")), name="stays")
        run(cloud, there.underlay.create_network, theirs, there.chassis, soon())
        pool = run(cloud, here.ipam.request_pool, ip_network("10.3.0.0/24"), None, 4)
        network = new_network(Subnet(pool.subnet, ours=True), **{whose: "stays"})
        tag = Neutron.tag

        def tag_pools(neutron: Neutron, kind: str, uuid: str, word: str, deadline: Deadline) -> None:
            if kind != "subnetpools":
                raise KilledError
            tag(neutron, kind, uuid, word, deadline)

        with monkeypatch.context() as patch:
            patch.setattr(Neutron, "tag", tag_pools)
            with pytest.raises(KilledError):
                run(cloud, here.underlay.create_network, network, here.chassis, soon())
        assert self.known(cloud, here) == []
        monkeypatch.setattr("ovn_docker.backends.leases._UNUSED", -3600)
        (stray,) = run(cloud, here.underlay.mine, here.chassis, soon())[1]
        assert run(cloud, here.underlay.clear, stray, here.chassis, soon())
        assert cloud.demo.subnet_pools() == []
        run(cloud, there.underlay.delete_network, theirs.id, there.chassis, soon())


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
        clear = partial(here.underlay.clear_common, unless_lately=False)
        assert run(cloud, clear, here.chassis, soon()) == []
        assert {found.id for found in cloud.demo.networks(name="x")} == {half.id, whole.id}
        monkeypatch.setattr("ovn_docker.backends.networks._ABANDONED", -3600)
        run(cloud, clear, here.chassis, soon())
        assert cloud.demo.networks(name="x") == []
        assert cloud.demo.networks(name=network.id)

    def test_a_users_network_with_much_the_same_description_stays(
        self, cloud: Cloud, here: Vm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        users = cloud.demo.create_network(name="x", description="OVN-Docker")
        monkeypatch.setattr("ovn_docker.backends.networks._ABANDONED", -3600)
        run(cloud, partial(here.underlay.clear_common, unless_lately=False), here.chassis, soon())
        cloud.demo.delete_network(users.id, ignore_missing=False)

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
    """Until it has loaded its policy it hides everything from everybody."""

    @pytest.fixture
    def restart(self, cloud: Cloud) -> Iterator[Callable[[], None]]:
        neutron = cloud.control.neutron

        def restart(*options: str) -> None:
            neutron.stop()
            neutron.start(*options)

        cloud.control.path("/run/lab/slow_policy.py").write_text(SLOW_POLICY)
        yield partial(restart, "--pythonpath=/run/lab", "--import=slow_policy")
        restart()

    def test_what_it_does_not_show_is_not_gone(
        self, cloud: Cloud, here: Vm, there: Vm, network: Network, restart: Callable[[], None]
    ) -> None:
        run(cloud, here.underlay.create_endpoint, endpoint(network), here.chassis, soon())
        run(cloud, here.underlay.create_network, gone := new_network(), here.chassis, soon())
        group = cloud.demo.create_security_group(name="hidden")
        restart()
        assert together(
            cloud,
            partial(here.underlay.check, {here.port.mac_address}, soon()),
            partial(here.underlay.delete_endpoint, C1, here.chassis, soon()),
            partial(here.underlay.delete_network, gone.id, here.chassis, soon()),
            partial(there.neutron.delete, "security-groups", group.id, soon()),
        ) == [None, True, None, None]
        assert run(cloud, here.underlay.endpoints, here.chassis, soon()) == []
        assert cloud.demo.networks(name=gone.id) == []
        assert cloud.demo.security_groups(name="hidden") == []


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


def test_a_keystone_that_never_answers_takes_no_longer_than_the_call_may(cloud: Cloud, here: Vm) -> None:
    with run(cloud, socket.create_server, ("127.0.0.1", 0)) as hung, ThreadPoolExecutor(1) as thread:
        neutron = Neutron(here.login | {"auth_url": f"http://127.0.0.1:{hung.getsockname()[1]}"})
        asked = thread.submit(run, cloud, neutron.all, "networks", Deadline(2))
        assert isinstance(asked.exception(timeout=12), OvnDockerError)  # a request alone may take 20 seconds


class Portal(BaseHTTPRequestHandler):
    """What answers everything, in Neutron's place."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)


@pytest.mark.parametrize("body", [b"<html>log in first</html>", b"[]", b"{}", b'{"networks": null}'])
def test_an_answer_that_is_not_neutrons_is_said_to_be_that(cloud: Cloud, here: Vm, body: bytes) -> None:
    answering = type("Answering", (Portal,), {"body": body})
    with run(cloud, ThreadingHTTPServer, ("127.0.0.1", 0), answering) as portal:
        thread = threading.Thread(target=portal.serve_forever)
        thread.start()
        there = {"network_endpoint_override": f"http://127.0.0.1:{portal.server_port}"}
        neutron = Neutron(here.login | there)
        for ask in (partial(neutron.all, "networks"), partial(neutron.one, "networks", str(uuid4()))):
            with pytest.raises(Unavailable, match="is not Neutron's: is there a proxy or a login page"):
                run(cloud, ask, soon())
        portal.shutdown()
        thread.join()


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
