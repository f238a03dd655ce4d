"""What every backend of the driver promises, whatever it stores things in. Subclasses say where."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from functional.ovsdb_servers import until
from ovn_docker.deadline import Deadline
from ovn_docker.driver import Backend
from ovn_docker.errors import Conflict, NotFound
from ovn_docker.ipam import Ipam
from ovn_docker.model import (
    AddressInUse,
    Chassis,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    PoolId,
    Subnet,
    choose_mac,
)
from ovn_docker.options import NetworkOptions

SUBNET = Subnet(ip_network("192.168.1.0/24"), ip_address("192.168.1.1"))
SUBNET6 = Subnet(ip_network("fd00:1::/64"), ip_address("fd00:1::1"))
C1, C2 = (EndpointId(f"c{number}" * 32) for number in (1, 2))
MAC = "02:00:00:00:00:01"


class Stored(NamedTuple):
    """A backend as two hosts see it, and *state*: all that there is in what it stores things in."""

    backend: Backend
    host: Chassis
    other_backend: Backend
    other: Chassis
    ipam: Ipam
    state: Callable[[], Any]


def soon() -> Deadline:
    return Deadline(60)


def new_network(*subnets: Subnet, **options: Any) -> Network:
    """With an ID that Docker has just thrown the dice for."""
    id_ = NetworkId(uuid4().hex * 2)
    return Network(id_, subnets or (SUBNET,), options=NetworkOptions(**options))


def endpoint(network: Network, id_: EndpointId = C1, *addresses: str, mac: str | None = None) -> Endpoint:
    """As the driver asks for it."""
    wanted = tuple(map(ip_interface, addresses or ("192.168.1.2/24",)))
    given = Endpoint(id_, network.id, wanted, mac)
    return replace(given, mac=mac or choose_mac(given))


class BackendContract:
    """The tests. A subclass in a test module has the fixture *stored*."""

    def test_a_network_leaves_nothing(self, stored: Stored) -> None:
        before = stored.state()
        network = new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, stored.host, soon())
        assert stored.state() != before
        stored.backend.delete_network(network.id, stored.host, soon())
        assert stored.state() == before
        stored.backend.delete_network(network.id, stored.host, soon())
        assert stored.state() == before

    def test_a_network_made_twice_is_one(self, stored: Stored) -> None:
        network = new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, stored.host, soon())
        once = stored.state()
        stored.backend.create_network(network, stored.host, soon())
        assert stored.state() == once
        stored.backend.delete_network(network.id, stored.host, soon())

    def test_a_network_made_again_with_another_subnet_is_refused(self, stored: Stored) -> None:
        network = new_network()
        stored.backend.create_network(network, stored.host, soon())
        once = stored.state()
        other = replace(network, subnets=(Subnet(ip_network("192.168.2.0/24"), ip_address("192.168.2.1")),))
        with pytest.raises(Conflict, match=r"192\.168\.1\.0/24"):
            stored.backend.create_network(other, stored.host, soon())
        assert stored.state() == once
        stored.backend.delete_network(network.id, stored.host, soon())

    def test_a_network_of_swarms_manager_stays_until_the_manager_deletes_it(self, stored: Stored) -> None:
        before, network = stored.state(), new_network()
        stored.backend.create_network(network, stored.host, soon(), kept=True)
        made = stored.state()
        stored.backend.delete_network(network.id, stored.host, soon())
        assert stored.state() == made
        stored.backend.drop_network(network.id, stored.host, soon())  # CreateNetwork on a node has failed
        assert stored.state() == made
        stored.backend.delete_network(network.id, stored.host, soon(), kept=True)
        assert stored.state() == before

    def test_an_endpoint_leaves_nothing(self, stored: Stored) -> None:
        network = new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, stored.host, soon())
        before = stored.state()
        wanted = endpoint(network, C1, "192.168.1.2/24", "fd00:1::2/64")
        stored.backend.create_endpoint(wanted, stored.host, soon())
        assert [found.id for found in stored.backend.endpoints(stored.host, soon())] == [C1]
        assert stored.other_backend.endpoints(stored.other, soon()) == []
        stored.backend.delete_endpoint(C1, stored.host, soon())
        assert stored.state() == before
        stored.backend.delete_endpoint(C1, stored.host, soon())
        assert stored.state() == before
        stored.backend.delete_network(network.id, stored.host, soon())

    def test_an_endpoint_made_twice_is_one(self, stored: Stored) -> None:
        network = new_network()
        stored.backend.create_network(network, stored.host, soon())
        first = stored.backend.create_endpoint(endpoint(network), stored.host, soon())
        once = stored.state()
        assert stored.backend.create_endpoint(endpoint(network), stored.host, soon()) == first
        assert stored.state() == once
        stored.backend.delete_network(network.id, stored.host, soon())

    @pytest.mark.parametrize(
        ("addresses", "mac", "taken"),
        [
            (("192.168.1.2/24", "fd00:1::3/64"), "02:00:00:00:00:09", "192.168.1.2"),
            (("192.168.1.3/24", "fd00:1::2/64"), "02:00:00:00:00:09", "fd00:1::2"),
            (("192.168.1.3/24", "fd00:1::3/64"), MAC, MAC),
        ],
    )
    def test_what_another_host_has_is_refused_with_its_name(
        self, stored: Stored, addresses: tuple[str, ...], mac: str, taken: str
    ) -> None:
        network = new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, stored.host, soon())
        first = endpoint(network, C1, "192.168.1.2/24", "fd00:1::2/64", mac=MAC)
        stored.backend.create_endpoint(first, stored.host, soon())
        before = stored.state()
        second = endpoint(network, C2, *addresses, mac=mac)
        with pytest.raises(AddressInUse) as refused:
            stored.other_backend.create_endpoint(second, stored.other, soon())
        assert refused.value.address == taken
        holder = refused.value.holder
        assert (holder.id, holder.network, holder.host) == (C1, network.id, stored.host.system_id)
        assert -60 < holder.age < 60
        assert stored.state() == before
        stored.backend.delete_network(network.id, stored.host, soon())

    def test_an_address_is_free_when_its_endpoint_is_gone(self, stored: Stored) -> None:
        network = new_network()
        stored.backend.create_network(network, stored.host, soon())
        stored.backend.create_endpoint(endpoint(network, C1), stored.host, soon())
        stored.backend.delete_endpoint(C1, stored.host, soon())
        stored.other_backend.create_endpoint(endpoint(network, C2), stored.other, soon())
        stored.other_backend.delete_endpoint(C2, stored.other, soon())
        stored.backend.delete_network(network.id, stored.host, soon())

    def test_another_network_may_have_the_same_addresses(self, stored: Stored) -> None:
        networks = new_network(), new_network()
        for network, id_ in zip(networks, (C1, C2), strict=True):
            stored.backend.create_network(network, stored.host, soon())
            stored.backend.create_endpoint(endpoint(network, id_), stored.host, soon())
        assert {found.id for found in stored.backend.endpoints(stored.host, soon())} == {C1, C2}
        for network in networks:
            stored.backend.delete_network(network.id, stored.host, soon())

    def test_without_its_network_an_endpoint_is_refused(self, stored: Stored) -> None:
        before = stored.state()
        with pytest.raises(NotFound, match="remove it with docker network rm and create it again"):
            stored.backend.create_endpoint(endpoint(new_network()), stored.host, soon())
        assert stored.state() == before

    def test_a_network_takes_the_endpoints_along_that_docker_forgot(self, stored: Stored) -> None:
        before, network = stored.state(), new_network()
        stored.backend.create_network(network, stored.host, soon())
        stored.backend.create_endpoint(endpoint(network), stored.host, soon())
        stored.backend.delete_network(network.id, stored.host, soon())
        assert stored.state() == before

    def test_the_mtu_that_the_user_wants_is_the_endpoints(self, stored: Stored) -> None:
        network = new_network(mtu=1400)
        stored.backend.create_network(network, stored.host, soon())
        assert stored.backend.create_endpoint(endpoint(network), stored.host, soon()).mtu == 1400
        stored.backend.delete_network(network.id, stored.host, soon())

    def test_networks_with_the_same_name_are_one(self, stored: Stored) -> None:
        """On all hosts; it goes with the last."""
        before = stored.state()
        here, there = new_network(name="contract"), new_network(name="contract")
        stored.backend.create_network(here, stored.host, soon())
        stored.other_backend.create_network(there, stored.other, soon())
        stored.backend.create_endpoint(endpoint(here, C1), stored.host, soon())
        with pytest.raises(AddressInUse):
            stored.other_backend.create_endpoint(endpoint(there, C2), stored.other, soon())
        stored.backend.delete_endpoint(C1, stored.host, soon())
        stored.backend.delete_network(here.id, stored.host, soon())
        stored.other_backend.create_endpoint(endpoint(there, C2), stored.other, soon())
        stored.other_backend.delete_network(there.id, stored.other, soon())
        assert self.without_traces(stored.state()) == self.without_traces(before)

    def test_a_network_that_this_host_does_not_have_leaves_nothing(self, stored: Stored) -> None:
        before, network = stored.state(), new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, stored.host, soon())
        stored.backend.create_endpoint(endpoint(network), stored.host, soon())
        stored.other_backend.drop_network(network.id, stored.other, soon())
        stored.backend.drop_network(network.id, stored.host, soon())
        assert stored.state() == before
        stored.backend.drop_network(network.id, stored.host, soon())
        assert stored.state() == before

    def test_a_network_that_this_host_does_not_have_stays_the_others(self, stored: Stored) -> None:
        before = stored.state()
        here, there = new_network(name="contract3"), new_network(name="contract3")
        stored.other_backend.create_network(there, stored.other, soon())
        alone = stored.state()
        stored.backend.create_network(here, stored.host, soon())
        stored.backend.drop_network(here.id, stored.host, soon())
        assert self.without_traces(stored.state()) == self.without_traces(alone)
        stored.other_backend.create_endpoint(endpoint(there, C2), stored.other, soon())
        stored.other_backend.delete_endpoint(C2, stored.other, soon())
        stored.other_backend.delete_network(there.id, stored.other, soon())
        assert self.without_traces(stored.state()) == self.without_traces(before)

    def without_traces(self, state: Any) -> Any:
        """What may stay behind of a network with a name."""
        return state

    def test_a_network_with_the_same_name_but_another_subnet_is_refused(self, stored: Stored) -> None:
        here = new_network(name="contract2")
        stored.backend.create_network(here, stored.host, soon())
        before = stored.state()
        there = replace(new_network(name="contract2"), subnets=(SUBNET6,))
        with pytest.raises(Conflict, match="contract2"):
            stored.other_backend.create_network(there, stored.other, soon())
        assert stored.state() == before
        stored.backend.delete_network(here.id, stored.host, soon())

    def test_a_pool_that_was_given_back_in_vain_goes_with_its_network(self, stored: Stored) -> None:
        """Docker gives it back first, and then says that the network goes, which the other still has."""
        there = new_network(name="contract4")
        stored.other_backend.create_network(there, stored.other, soon())
        pool = stored.ipam.request_pool(SUBNET.pool, None, 4)
        here = new_network(replace(SUBNET, ours=True), name="contract4")
        stored.backend.create_network(here, stored.host, soon())
        stored.backend.drop_network(here.id, stored.host, soon())
        with pytest.raises(NotFound, match="pool"):
            stored.ipam.request_address(pool.id, None, gateway=False)
        stored.other_backend.delete_network(there.id, stored.other, soon())

    def test_addresses_of_our_own_ipam_come_from_the_same_place(self, stored: Stored) -> None:
        before = stored.state()
        pool = stored.ipam.request_pool(ip_network("10.3.0.0/24"), ip_network("10.3.0.64/28"), 4)
        gateway, _ = stored.ipam.request_address(pool.id, None, gateway=True)
        network = new_network(Subnet(pool.subnet, ip_address(str(gateway)), ours=True))
        stored.backend.create_network(network, stored.host, soon())
        made = stored.state()

        taken = [stored.ipam.request_address(pool.id, None, gateway=False)[0] for _ in range(3)]
        assert len({*taken}) == 3
        assert all(address in ip_network("10.3.0.64/28") for address in taken)
        with pytest.raises(Conflict, match=str(taken[0])):
            stored.ipam.request_address(pool.id, taken[0], gateway=False)
        attachment = stored.backend.create_endpoint(
            endpoint(network, C1, f"{taken[0]}/24"), stored.host, soon()
        )
        assert attachment.iface_id
        stored.backend.delete_endpoint(C1, stored.host, soon())
        for address in taken:
            stored.ipam.release_address(pool.id, address)
            stored.ipam.release_address(pool.id, address)
        assert self.without_rest(stored.state()) == self.without_rest(made)
        self.leave(stored, pool.id, network)
        assert stored.state() == before

    def test_an_address_that_docker_has_lost_is_had_again(self, stored: Stored) -> None:
        """Docker and the driver died together, and another Docker asks for it."""
        before = stored.state()
        pool = stored.ipam.request_pool(ip_network("10.3.0.0/24"), None, 4)
        gateway, _ = stored.ipam.request_address(pool.id, None, gateway=True)
        network = new_network(Subnet(pool.subnet, ip_address(str(gateway)), ours=True))
        stored.backend.create_network(network, stored.host, soon())
        address = ip_address("10.3.0.77")
        stored.ipam.request_address(pool.id, address, gateway=False)

        def had_again() -> bool:
            """Had again by a Docker that starts now."""
            stored.ipam.docker_started()
            try:
                stored.ipam.request_address(pool.id, address, gateway=False)
            except Conflict:
                return False
            return True

        until(had_again)
        stored.backend.create_endpoint(endpoint(network, C1, f"{address}/24"), stored.host, soon())
        stored.backend.delete_endpoint(C1, stored.host, soon())
        stored.ipam.release_address(pool.id, address)
        self.leave(stored, pool.id, network)
        assert stored.state() == before

    def leave(self, stored: Stored, pool: PoolId, network: Network) -> None:
        """As Docker removes a network."""
        stored.ipam.release_pool(pool)
        stored.backend.delete_network(network.id, stored.host, soon())

    def without_rest(self, state: Any) -> Any:
        """What may stay behind of an address for a while."""
        return state
