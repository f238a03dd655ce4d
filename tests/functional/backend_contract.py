"""Tests that each backend of the driver has to pass."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from functional.ovsdb_servers import until
from ovn_docker.core.ipam import Ipam
from ovn_docker.core.protocols import NetworkBackend
from ovn_docker.deadline import Deadline
from ovn_docker.docker.wording import explain
from ovn_docker.errors import AddressInUse, Conflict, NotFound
from ovn_docker.model import (
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
    """A backend as *host* and another one see it; *state*: returns all that the backend has stored."""

    backend: NetworkBackend
    host: Chassis
    other_backend: NetworkBackend
    ipam: Ipam
    state: Callable[[], Any]


def soon() -> Deadline:
    return Deadline(60)


def new_network(*subnets: Subnet, **options: Any) -> Network:
    """Return a network with a random ID, like Docker's."""
    id_ = NetworkId(uuid4().hex * 2)
    return Network(id_, subnets or (SUBNET,), options=NetworkOptions(**options))


def endpoint(network: Network, id_: EndpointId = C1, *addresses: str, mac: str | None = None) -> Endpoint:
    """Return an endpoint as the driver asks for it."""
    wanted = tuple(map(ip_interface, addresses or ("192.168.1.2/24",)))
    given = Endpoint(id_, network.id, wanted, mac)
    return replace(given, mac=mac or choose_mac(given))


class BackendContract:
    """The tests. A subclass in a test module has the fixture *stored*."""

    def test_deleting_a_network_restores_the_state(self, stored: Stored) -> None:
        before = stored.state()
        network = new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, soon())
        assert stored.state() != before
        stored.backend.delete_network(network.id, soon())
        assert stored.state() == before
        stored.backend.delete_network(network.id, soon())
        assert stored.state() == before

    def test_creating_a_network_is_idempotent(self, stored: Stored) -> None:
        network = new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, soon())
        once = stored.state()
        stored.backend.create_network(network, soon())
        assert stored.state() == once
        stored.backend.delete_network(network.id, soon())

    def test_a_network_made_again_with_another_subnet_is_refused(self, stored: Stored) -> None:
        network = new_network()
        stored.backend.create_network(network, soon())
        once = stored.state()
        other = replace(network, subnets=(Subnet(ip_network("192.168.2.0/24"), ip_address("192.168.2.1")),))
        with pytest.raises(Conflict) as refused:
            stored.backend.create_network(other, soon())
        assert "192.168.1.0/24" in explain(refused.value)
        assert stored.state() == once
        stored.backend.delete_network(network.id, soon())

    def test_a_network_of_a_swarm_manager_is_deleted_by_a_manager(self, stored: Stored) -> None:
        before, network = stored.state(), new_network()
        stored.backend.create_network(network, soon(), kept=True)
        made = stored.state()
        stored.backend.delete_network(network.id, soon())
        assert stored.state() == made
        stored.backend.drop_network(network.id, soon())  # CreateNetwork on a node has failed
        assert stored.state() == made
        stored.backend.delete_network(network.id, soon(), kept=True)
        assert stored.state() == before

    def test_deleting_an_endpoint_restores_the_state(self, stored: Stored) -> None:
        network = new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, soon())
        before = stored.state()
        wanted = endpoint(network, C1, "192.168.1.2/24", "fd00:1::2/64")
        stored.backend.create_endpoint(wanted, soon())
        assert [found.id for found in stored.backend.endpoints(soon())] == [C1]
        assert stored.other_backend.endpoints(soon()) == []
        stored.backend.delete_endpoint(C1, soon())
        assert stored.state() == before
        stored.backend.delete_endpoint(C1, soon())
        assert stored.state() == before
        stored.backend.delete_network(network.id, soon())

    def test_creating_an_endpoint_is_idempotent(self, stored: Stored) -> None:
        network = new_network()
        stored.backend.create_network(network, soon())
        first = stored.backend.create_endpoint(endpoint(network), soon())
        once = stored.state()
        assert stored.backend.create_endpoint(endpoint(network), soon()) == first
        assert stored.state() == once
        stored.backend.delete_network(network.id, soon())

    @pytest.mark.parametrize(
        ("addresses", "mac", "taken"),
        [
            (("192.168.1.2/24", "fd00:1::3/64"), "02:00:00:00:00:09", "192.168.1.2"),
            (("192.168.1.3/24", "fd00:1::2/64"), "02:00:00:00:00:09", "fd00:1::2"),
            (("192.168.1.3/24", "fd00:1::3/64"), MAC, MAC),
        ],
    )
    def test_an_address_of_another_host_is_refused_with_the_host(
        self, stored: Stored, addresses: tuple[str, ...], mac: str, taken: str
    ) -> None:
        network = new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, soon())
        first = endpoint(network, C1, "192.168.1.2/24", "fd00:1::2/64", mac=MAC)
        stored.backend.create_endpoint(first, soon())
        before = stored.state()
        second = endpoint(network, C2, *addresses, mac=mac)
        with pytest.raises(AddressInUse) as refused:
            stored.other_backend.create_endpoint(second, soon())
        assert refused.value.address == taken
        holder = refused.value.holder
        assert (holder.id, holder.network, holder.host) == (C1, network.id, stored.host.system_id)
        assert -60 < holder.age < 60
        assert stored.state() == before
        stored.backend.delete_network(network.id, soon())

    def test_an_address_is_free_when_its_endpoint_is_gone(self, stored: Stored) -> None:
        network = new_network()
        stored.backend.create_network(network, soon())
        stored.backend.create_endpoint(endpoint(network, C1), soon())
        stored.backend.delete_endpoint(C1, soon())
        stored.other_backend.create_endpoint(endpoint(network, C2), soon())
        stored.other_backend.delete_endpoint(C2, soon())
        stored.backend.delete_network(network.id, soon())

    def test_another_network_may_have_the_same_addresses(self, stored: Stored) -> None:
        networks = new_network(), new_network()
        for network, id_ in zip(networks, (C1, C2), strict=True):
            stored.backend.create_network(network, soon())
            stored.backend.create_endpoint(endpoint(network, id_), soon())
        assert {found.id for found in stored.backend.endpoints(soon())} == {C1, C2}
        for network in networks:
            stored.backend.delete_network(network.id, soon())

    def test_an_endpoint_without_its_network_is_refused(self, stored: Stored) -> None:
        before = stored.state()
        with pytest.raises(NotFound, match="is not in"):
            stored.backend.create_endpoint(endpoint(new_network()), soon())
        assert stored.state() == before

    def test_deleting_a_network_deletes_endpoints_that_docker_forgot(self, stored: Stored) -> None:
        before, network = stored.state(), new_network()
        stored.backend.create_network(network, soon())
        stored.backend.create_endpoint(endpoint(network), soon())
        stored.backend.delete_network(network.id, soon())
        assert stored.state() == before

    def test_an_endpoint_has_the_mtu_of_its_network(self, stored: Stored) -> None:
        network = new_network(mtu=1400)
        stored.backend.create_network(network, soon())
        assert stored.backend.create_endpoint(endpoint(network), soon()).mtu == 1400
        stored.backend.delete_network(network.id, soon())

    def test_hosts_share_a_network_of_one_name(self, stored: Stored) -> None:
        """All hosts have the network; it is deleted when the last host leaves it."""
        before = stored.state()
        here, there = new_network(name="contract"), new_network(name="contract")
        stored.backend.create_network(here, soon())
        stored.other_backend.create_network(there, soon())
        stored.backend.create_endpoint(endpoint(here, C1), soon())
        with pytest.raises(AddressInUse):
            stored.other_backend.create_endpoint(endpoint(there, C2), soon())
        stored.backend.delete_endpoint(C1, soon())
        stored.backend.delete_network(here.id, soon())
        stored.other_backend.create_endpoint(endpoint(there, C2), soon())
        stored.other_backend.delete_network(there.id, soon())
        assert self.without_traces(stored.state()) == self.without_traces(before)

    def test_dropping_a_network_restores_the_state(self, stored: Stored) -> None:
        before, network = stored.state(), new_network(SUBNET, SUBNET6)
        stored.backend.create_network(network, soon())
        stored.backend.create_endpoint(endpoint(network), soon())
        stored.other_backend.drop_network(network.id, soon())
        stored.backend.drop_network(network.id, soon())
        assert stored.state() == before
        stored.backend.drop_network(network.id, soon())
        assert stored.state() == before

    def test_dropping_a_network_keeps_it_for_other_hosts(self, stored: Stored) -> None:
        before = stored.state()
        here, there = new_network(name="contract3"), new_network(name="contract3")
        stored.other_backend.create_network(there, soon())
        alone = stored.state()
        stored.backend.create_network(here, soon())
        stored.backend.drop_network(here.id, soon())
        assert self.without_traces(stored.state()) == self.without_traces(alone)
        stored.other_backend.create_endpoint(endpoint(there, C2), soon())
        stored.other_backend.delete_endpoint(C2, soon())
        stored.other_backend.delete_network(there.id, soon())
        assert self.without_traces(stored.state()) == self.without_traces(before)

    def without_traces(self, state: Any) -> Any:
        """Return the state without rows that a deleted shared network may leave."""
        return state

    def test_a_network_with_the_same_name_but_another_subnet_is_refused(self, stored: Stored) -> None:
        here = new_network(name="contract2")
        stored.backend.create_network(here, soon())
        before = stored.state()
        there = replace(new_network(name="contract2"), subnets=(SUBNET6,))
        with pytest.raises(Conflict, match="contract2"):
            stored.other_backend.create_network(there, soon())
        assert stored.state() == before
        stored.backend.delete_network(here.id, soon())

    def test_a_pool_whose_release_failed_is_deleted_with_its_network(self, stored: Stored) -> None:
        """Docker releases the pool first, and then deletes the network, which the other host still has."""
        there = new_network(name="contract4")
        stored.other_backend.create_network(there, soon())
        pool = stored.ipam.request_pool(SUBNET.pool, None, 4)
        here = new_network(replace(SUBNET, ours=True), name="contract4")
        stored.backend.create_network(here, soon())
        stored.backend.drop_network(here.id, soon())
        with pytest.raises(NotFound, match="pool"):
            stored.ipam.request_address(pool.id, None, gateway=False)
        stored.other_backend.delete_network(there.id, soon())

    def test_leases_and_endpoints_are_in_one_store(self, stored: Stored) -> None:
        before = stored.state()
        pool = stored.ipam.request_pool(ip_network("10.3.0.0/24"), ip_network("10.3.0.64/28"), 4)
        gateway, _ = stored.ipam.request_address(pool.id, None, gateway=True)
        network = new_network(Subnet(pool.subnet, ip_address(str(gateway)), ours=True))
        stored.backend.create_network(network, soon())
        made = stored.state()

        taken = [stored.ipam.request_address(pool.id, None, gateway=False)[0] for _ in range(3)]
        assert len({*taken}) == 3
        assert all(address in ip_network("10.3.0.64/28") for address in taken)
        with pytest.raises(Conflict, match=str(taken[0])):
            stored.ipam.request_address(pool.id, taken[0], gateway=False)
        attachment = stored.backend.create_endpoint(endpoint(network, C1, f"{taken[0]}/24"), soon())
        assert attachment.iface_id
        stored.backend.delete_endpoint(C1, soon())
        for address in taken:
            stored.ipam.release_address(pool.id, address)
            stored.ipam.release_address(pool.id, address)
        assert self.without_resting_addresses(stored.state()) == self.without_resting_addresses(made)
        self.leave(stored, pool.id, network)
        assert stored.state() == before

    def test_an_address_that_docker_lost_is_leased_again(self, stored: Stored) -> None:
        """Docker and the driver have died together, and Docker requests the address again."""
        before = stored.state()
        pool = stored.ipam.request_pool(ip_network("10.3.0.0/24"), None, 4)
        gateway, _ = stored.ipam.request_address(pool.id, None, gateway=True)
        network = new_network(Subnet(pool.subnet, ip_address(str(gateway)), ours=True))
        stored.backend.create_network(network, soon())
        address = ip_address("10.3.0.77")
        stored.ipam.request_address(pool.id, address, gateway=False)

        def lease_succeeds() -> bool:
            """Start Docker anew and lease the address; return True if that succeeds."""
            stored.ipam.docker_started()
            try:
                stored.ipam.request_address(pool.id, address, gateway=False)
            except Conflict:
                return False
            return True

        until(lease_succeeds)
        stored.backend.create_endpoint(endpoint(network, C1, f"{address}/24"), soon())
        stored.backend.delete_endpoint(C1, soon())
        stored.ipam.release_address(pool.id, address)
        self.leave(stored, pool.id, network)
        assert stored.state() == before

    def leave(self, stored: Stored, pool: PoolId, network: Network) -> None:
        """Remove a network as Docker does."""
        stored.ipam.release_pool(pool)
        stored.backend.delete_network(network.id, soon())

    def without_resting_addresses(self, state: Any) -> Any:
        """Return the state without rows that a released address leaves for a while."""
        return state
