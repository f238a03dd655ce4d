"""A host whose Docker has died gets its addresses back, and takes no others."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from functional.conftest import Connect
from functional.docker_networks import DockerHost, DockerNetwork
from functional.ovsdb_servers import OvsdbServer
from functional.test_ipam import Counting
from ovn_docker.backends.ovn.networks.addresses import HostAddresses
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict
from ovn_docker.host import ovsdb
from ovn_docker.model import row_uuid

A = "10.3.0.7"


@pytest.fixture
def host(northbound: OvsdbServer, connect: Connect) -> DockerHost:
    return DockerHost("host1", connect(northbound))


@pytest.fixture
def network(host: DockerHost) -> DockerNetwork:
    return host.create("10.3.0.0/24")


def edit(northbound: OvsdbServer, row: str, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Change the external_ids of a row of ours."""
    (ids,) = (one["external_ids"] for one in northbound.rows("DHCP_Options") if one["_uuid"] == row)
    northbound.transact(ovsdb.update("DHCP_Options", ovsdb.is_row(row), external_ids=change(ids)))


def lease_of(northbound: OvsdbServer, network: DockerNetwork, address: str) -> str:
    (pool,) = (row for row in northbound.rows("DHCP_Options") if row["_uuid"] == network.pool)
    return row_uuid("lease", pool["external_ids"]["ovn-docker:switch"], address)


def age(northbound: OvsdbServer, row: str) -> None:
    """Change a row as if it had been made long ago, in an earlier boot."""
    edit(northbound, row, lambda ids: {**ids, "ovn-docker:created": "1000", "ovn-docker:uptime": ""})


class TestTakingOver:
    """RequestAddress for an address that this host has leased already."""

    def test_an_orphaned_lease_is_taken_over_after_a_restart_of_docker(self, host, network):
        host.lease(network, A)
        host.restart_docker()
        assert host.lease(network, A) == A

    def test_a_lease_with_the_port_of_a_dead_endpoint_is_taken_over(self, host, network):
        host.run(network, A)
        host.restart_docker()
        assert host.lease(network, A) == A

    def test_a_lease_is_taken_over_once(self, host, network):
        host.lease(network, A)
        host.restart_docker()

        def lease(_: int) -> str:
            try:
                return host.lease(network, A)
            except Conflict:
                return "refused"

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(lease, range(8))) == [A, *["refused"] * 7]

    @pytest.mark.slow
    def test_each_transaction_is_idempotent(self, northbound, connect):
        """After a lost connection a transaction that may have been committed is sent again."""
        host = DockerHost("host1", Counting(connect(northbound), 2))  # type: ignore[arg-type]
        network = host.create("10.3.0.0/24")
        host.run(network, A)
        picked = host.lease(network)
        host.restart_docker()
        assert (host.lease(network, A), host.lease(network)) == (A, picked)

    def test_a_lease_whose_release_was_lost_is_taken_over_after_a_while(self, host, network, northbound):
        """The driver did not run when the container stopped."""
        host.lease(network, A)
        host.restart()
        with pytest.raises(Conflict, match="in use by a container of host host1 that has no port yet"):
            host.lease(network, A)
        age(northbound, lease_of(northbound, network, A))
        assert host.lease(network, A) == A

    def test_a_lease_of_a_running_container_stays(self, host, network):
        """The container runs while Docker is down, as with live-restore."""
        endpoint = host.run(network, A)
        host.restart_docker()
        host.running.append(endpoint)
        with pytest.raises(Conflict, match=f"in use by endpoint {endpoint.id[:12]} on host host1"):
            host.lease(network, A)

    def test_a_lease_of_a_running_container_stays_when_its_port_was_deleted_by_hand(
        self, host, network, northbound
    ):
        endpoint = host.run(network, A)
        port, claim = row_uuid("endpoint", endpoint.id), row_uuid("claim", row_uuid("network", network.id), A)
        northbound.transact(
            ovsdb.update("Logical_Switch", ["name", "==", network.id], ports=[]),
            ovsdb.delete("DHCP_Options", ovsdb.is_row(claim)),
        )
        assert port not in {row["_uuid"] for row in northbound.rows("Logical_Switch_Port")}
        host.restart_docker()
        host.running.append(endpoint)
        with pytest.raises(Conflict, match="in use by"):
            host.lease(network, A)

    def test_a_lease_in_use_by_a_call_in_flight_stays(self, host, network):
        host.lease(network, A)
        with pytest.raises(Conflict, match="in use by"):
            host.lease(network, A)

    def test_a_lease_that_the_new_docker_has_requested_stays(self, host, network):
        host.restart_docker()
        host.lease(network, A)
        with pytest.raises(Conflict, match="in use by"):
            host.lease(network, A)

    @pytest.mark.parametrize(
        "foreign",
        [
            {"ovn-docker:host": "host2"},
            {"ovn-docker:encap": "10.0.0.2"},
            {"ovn-docker:pool": "another"},
            {"ovn-docker:owner": "somebody"},
        ],
        ids=" ".join,
    )
    def test_a_lease_of_another_host_stays(self, foreign, host, network, northbound):
        """Cloned machines have one system-id and different tunnel addresses."""
        host.lease(network, A)
        row = lease_of(northbound, network, A)
        edit(northbound, row, lambda ids: ids | foreign)
        age(northbound, row)
        host.restart_docker()
        with pytest.raises(Conflict, match="in use by"):
            host.lease(network, A)

    def test_a_lease_with_the_port_of_another_host_stays(self, host, network, northbound):
        """Any host can forge a lease and a claim of this host; the endpoint's port decides."""
        endpoint = host.run(network, A)
        port = row_uuid("endpoint", endpoint.id)
        (ids,) = (r["external_ids"] for r in northbound.rows("Logical_Switch_Port") if r["_uuid"] == port)
        ids["ovn-docker:host"] = "host2"
        northbound.transact(ovsdb.update("Logical_Switch_Port", ovsdb.is_row(port), external_ids=ids))
        host.restart_docker()
        with pytest.raises(Conflict, match="in use by"):
            host.lease(network, A)

    def test_a_lease_of_an_earlier_version_is_taken_over(self, host, network, northbound):
        host.lease(network, A)
        row = lease_of(northbound, network, A)
        edit(northbound, row, lambda ids: {key: ids[key] for key in ids if key != "ovn-docker:encap"})
        host.restart_docker()
        assert host.lease(network, A) == A


class TestComingBack:
    """RequestAddress without an address, by a Docker that starts its containers again."""

    def test_a_single_container_gets_its_address_back(self, host, network):
        host.release(network, host.lease(network), host.lease(network))
        own = host.run(network)
        host.restart_docker()
        assert host.lease(network) == str(own.addresses[0].ip)

    def test_a_host_gets_its_addresses_back(self, host, network):
        before = [host.lease(network) for _ in range(20)]
        host.restart_docker()
        assert [host.lease(network) for _ in range(20)] == before

    def test_addresses_released_while_docker_starts_are_picked_again(self, host, network):
        before = [host.lease(network) for _ in range(3)]
        host.restart_docker()
        host.release(network, *before)
        assert {host.lease(network) for _ in range(3)} == set(before)

    def test_addresses_released_while_docker_stops_are_picked_again(self, host, network, northbound):
        gone, *before = [host.lease(network) for _ in range(4)]
        host.release(network, gone, *before)
        earlier = {"ovn-docker:released": f"{time.time() - 20:.0f}"}
        edit(northbound, lease_of(northbound, network, gone), lambda ids: ids | earlier)
        host.restart_docker()
        assert {host.lease(network) for _ in range(3)} == set(before)

    def test_each_container_gets_its_own_address_back_if_docker_sends_its_name(self, host, network):
        """Docker sends names from 29 on; containers may start in any order."""
        before = {name: host.lease(network, name=name) for name in ("a", "b", "c", "d")}
        host.release(network, before["b"])
        host.restart_docker()
        assert host.lease(network, name="new") not in before.values()
        host.release(network, before["c"])
        assert {name: host.lease(network, name=name) for name in reversed(before)} == before

    def test_upgraded_docker_gets_its_addresses_back(self, host, network):
        before = [host.lease(network) for _ in range(2)]
        host.restart_docker()
        assert [host.lease(network, name=name) for name in "ab"] == before
        host.restart_docker()
        assert {host.lease(network) for _ in range(2)} == set(before)

    def test_an_address_that_the_user_chose_is_kept_for_its_container(self, host, network):
        """A container with --restart=always starts first and must not get the address."""
        named = host.lease(network, "10.3.0.2")
        picked = host.lease(network)
        host.restart_docker()
        assert host.lease(network) == picked
        assert host.lease(network) not in {named, picked}
        assert host.lease(network, named) == named

    def test_an_address_of_a_running_container_is_not_picked(self, host, network):
        lives = host.run(network)
        picked = host.lease(network)
        host.restart_docker()
        host.running.append(lives)
        assert host.lease(network) == picked
        assert host.lease(network) != str(lives.addresses[0].ip)

    def test_addresses_of_running_containers_are_not_tried_when_docker_starts(
        self, host, network, northbound, monkeypatch
    ):
        """With live-restore, addresses of running containers are not tried one by one."""
        lives = [host.run(network) for _ in range(5)]
        host.restart_docker()
        host.running += lives
        tried: list[object] = []
        lease = HostAddresses.lease
        monkeypatch.setattr(HostAddresses, "lease", lambda *given: tried.append(given) or lease(*given))
        host.lease(network)
        assert len(tried) == 1

    def test_an_endpoint_that_docker_deletes_as_it_starts_is_not_active(self, host, network):
        """Docker releases the address of one endpoint while the other still seems alive."""
        first, second = host.run(network), host.run(network)
        addresses = [str(one.addresses[0].ip) for one in (first, second)]
        host.restart_docker()
        host.running.append(second)
        host.overlay(host.chassis).delete_endpoint(first.id, Deadline(10))
        host.release(network, addresses[0])
        host.running.clear()
        host.overlay(host.chassis).delete_endpoint(second.id, Deadline(10))
        host.release(network, addresses[1])
        assert {host.lease(network), host.lease(network)} == set(addresses)

    def test_an_address_that_another_host_has_meanwhile_is_not_picked(
        self, host, network, northbound, connect
    ):
        other = DockerHost("host2", connect(northbound))
        theirs = other.create("10.3.0.0/24", switch=network.id)
        own = host.lease(network)
        host.release(network, own)
        assert other.lease(theirs, own) == own
        host.restart_docker()
        assert host.lease(network) != own

    @pytest.mark.parametrize(
        "rows",
        [
            {"cidr": "10.4.0.9"},
            {"cidr": "10.3.0.1"},
            {"cidr": "10.3.0.255"},
            {"cidr": "nonsense"},
            {"cidr": "fd00::9"},
            {"cidr": "10.3.0.9", "_uuid": "f0000000-0000-4000-8000-000000000000"},
        ],
        ids=lambda rows: " ".join(rows.values()),
    )
    def test_an_address_in_a_forged_row_is_not_picked(self, rows: dict[str, Any], host, network, northbound):
        ids = {"ovn-docker:owner": "overlay", "ovn-docker:host": "host1", "ovn-docker:pool": network.pool,
               "ovn-docker:state": "leased", "ovn-docker:picked": "true"}  # fmt: skip
        uuid = rows.get("_uuid", lease_of(northbound, network, rows["cidr"]))
        northbound.transact(ovsdb.insert("DHCP_Options", uuid, cidr=rows["cidr"], external_ids=ids))
        host.restart_docker()
        assert host.lease(network) == "10.3.0.2"

    def test_a_driver_that_starts_alone_picks_later_addresses(self, host, network):
        before = [host.lease(network) for _ in range(3)]
        host.restart()
        assert host.lease(network) not in before
