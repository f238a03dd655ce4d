"""Addresses of a host whose Docker died: its own come back, and nobody else's are taken."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from functional.conftest import Connect
from functional.docker_networks import DockerHost, DockerNetwork
from functional.ovsdb_servers import OvsdbServer
from functional.test_ipam import Counting
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
    """Have a row say that it was made long ago, by a boot that is over."""
    edit(northbound, row, lambda ids: {**ids, "ovn-docker:created": "1000", "ovn-docker:uptime": ""})


class TestTakingOver:
    """RequestAddress for an address that this host has leased already."""

    def test_an_orphaned_lease_is_taken_over_when_docker_has_started_anew(self, host, network):
        host.take(network, A)
        host.restart_docker()
        assert host.take(network, A) == A

    def test_a_lease_with_the_port_of_a_dead_endpoint_is_taken_over(self, host, network):
        host.run(network, A)
        host.restart_docker()
        assert host.take(network, A) == A

    def test_a_lease_is_taken_over_once(self, host, network):
        host.take(network, A)
        host.restart_docker()

        def take(_: int) -> str:
            try:
                return host.take(network, A)
            except Conflict:
                return "refused"

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(take, range(8))) == [A, *["refused"] * 7]

    def test_every_transaction_may_be_sent_twice(self, northbound, connect):
        """After a lost connection nobody knows whether it was committed, and it is sent again."""
        host = DockerHost("host1", Counting(connect(northbound), 2))  # type: ignore[arg-type]
        network = host.create("10.3.0.0/24")
        host.run(network, A)
        picked = host.take(network)
        host.restart_docker()
        assert (host.take(network, A), host.take(network)) == (A, picked)

    def test_a_lease_whose_release_was_lost_is_taken_over_after_a_while(self, host, network, northbound):
        """The driver was away when the container stopped, and Docker has gone on."""
        host.take(network, A)
        host.restart()
        with pytest.raises(Conflict, match="in use by a container of host host1 that has no port yet"):
            host.take(network, A)
        age(northbound, lease_of(northbound, network, A))
        assert host.take(network, A) == A

    def test_a_lease_of_a_running_container_stays(self, host, network):
        """As with live-restore."""
        endpoint = host.run(network, A)
        host.restart_docker()
        host.running.append(endpoint)
        with pytest.raises(Conflict, match=f"in use by endpoint {endpoint.id[:12]} on host host1"):
            host.take(network, A)

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
            host.take(network, A)

    def test_a_lease_that_a_call_is_working_on_stays(self, host, network):
        host.take(network, A)
        with pytest.raises(Conflict, match="in use by"):
            host.take(network, A)

    def test_a_lease_that_the_new_docker_has_asked_for_stays(self, host, network):
        host.restart_docker()
        host.take(network, A)
        with pytest.raises(Conflict, match="in use by"):
            host.take(network, A)

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
        """Machines that were cloned have one system-id, and differ in their tunnel address."""
        host.take(network, A)
        row = lease_of(northbound, network, A)
        edit(northbound, row, lambda ids: ids | foreign)
        age(northbound, row)
        host.restart_docker()
        with pytest.raises(Conflict, match="in use by"):
            host.take(network, A)

    def test_a_lease_with_the_port_of_another_host_stays(self, host, network, northbound):
        """Any host can write that a lease and a claim are this host's; the port says whose they are."""
        endpoint = host.run(network, A)
        port = row_uuid("endpoint", endpoint.id)
        (ids,) = (r["external_ids"] for r in northbound.rows("Logical_Switch_Port") if r["_uuid"] == port)
        ids["ovn-docker:host"] = "host2"
        northbound.transact(ovsdb.update("Logical_Switch_Port", ovsdb.is_row(port), external_ids=ids))
        host.restart_docker()
        with pytest.raises(Conflict, match="in use by"):
            host.take(network, A)

    def test_a_lease_of_an_earlier_version_is_taken_over(self, host, network, northbound):
        host.take(network, A)
        row = lease_of(northbound, network, A)
        edit(northbound, row, lambda ids: {key: ids[key] for key in ids if key != "ovn-docker:encap"})
        host.restart_docker()
        assert host.take(network, A) == A


class TestComingBack:
    """RequestAddress without an address, by a Docker that starts its containers again."""

    def test_one_container_gets_its_address_back(self, host, network):
        host.give_back(network, host.take(network), host.take(network))
        mine = host.run(network)
        host.restart_docker()
        assert host.take(network) == str(mine.addresses[0].ip)

    def test_a_host_gets_its_addresses_back(self, host, network):
        before = [host.take(network) for _ in range(20)]
        host.restart_docker()
        assert [host.take(network) for _ in range(20)] == before

    def test_those_that_docker_gave_back_as_it_started_come_back_too(self, host, network):
        before = [host.take(network) for _ in range(3)]
        host.restart_docker()
        host.give_back(network, *before)
        assert {host.take(network) for _ in range(3)} == set(before)

    def test_those_that_docker_gave_back_as_it_stopped_come_back_too(self, host, network, northbound):
        gone, *before = [host.take(network) for _ in range(4)]
        host.give_back(network, gone, *before)
        earlier = {"ovn-docker:released": f"{time.time() - 20:.0f}"}
        edit(northbound, lease_of(northbound, network, gone), lambda ids: ids | earlier)
        host.restart_docker()
        assert {host.take(network) for _ in range(3)} == set(before)

    def test_each_container_gets_its_own_back_where_docker_names_it(self, host, network):
        """From Docker 29 on; in whichever order they start."""
        before = {name: host.take(network, name=name) for name in ("a", "b", "c", "d")}
        host.give_back(network, before["b"])
        host.restart_docker()
        assert host.take(network, name="new") not in before.values()
        host.give_back(network, before["c"])
        assert {name: host.take(network, name=name) for name in reversed(before)} == before

    def test_a_docker_that_was_upgraded_gets_addresses_back_too(self, host, network):
        before = [host.take(network) for _ in range(2)]
        host.restart_docker()
        assert [host.take(network, name=name) for name in "ab"] == before
        host.restart_docker()
        assert {host.take(network) for _ in range(2)} == set(before)

    def test_an_address_that_the_user_named_waits_for_its_container(self, host, network):
        """The one of --restart=always starts first, and must not take it."""
        named = host.take(network, "10.3.0.2")
        picked = host.take(network)
        host.restart_docker()
        assert host.take(network) == picked
        assert host.take(network) not in {named, picked}
        assert host.take(network, named) == named

    def test_an_address_that_runs_on_is_not_picked(self, host, network):
        lives = host.run(network)
        picked = host.take(network)
        host.restart_docker()
        host.running.append(lives)
        assert host.take(network) == picked
        assert host.take(network) != str(lives.addresses[0].ip)

    def test_what_runs_on_costs_nothing_when_docker_starts(self, host, network, northbound, monkeypatch):
        """As with live-restore: the addresses of containers that run are not tried one by one."""
        lives = [host.run(network) for _ in range(5)]
        host.restart_docker()
        host.running += lives
        tried: list[object] = []
        claim = host.store.claim
        monkeypatch.setattr(host.store, "claim", lambda *given: tried.append(given) or claim(*given))
        host.take(network)
        assert len(tried) == 1

    def test_an_endpoint_that_docker_deletes_as_it_starts_is_not_at_work(self, host, network):
        """Docker gives the address of one back while the other still looks as if it lived."""
        first, second = host.run(network), host.run(network)
        addresses = [str(one.addresses[0].ip) for one in (first, second)]
        host.restart_docker()
        host.running.append(second)
        host.overlay.delete_endpoint(first.id, host.chassis, Deadline(10))
        host.give_back(network, addresses[0])
        host.running.clear()
        host.overlay.delete_endpoint(second.id, host.chassis, Deadline(10))
        host.give_back(network, addresses[1])
        assert {host.take(network), host.take(network)} == set(addresses)

    def test_an_address_that_another_host_has_meanwhile_is_not_picked(
        self, host, network, northbound, connect
    ):
        other = DockerHost("host2", connect(northbound))
        theirs = other.create("10.3.0.0/24", switch=network.id)
        mine = host.take(network)
        host.give_back(network, mine)
        assert other.take(theirs, mine) == mine
        host.restart_docker()
        assert host.take(network) != mine

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
    def test_a_row_that_another_host_has_made_up_is_not_picked(
        self, rows: dict[str, Any], host, network, northbound
    ):
        ids = {"ovn-docker:owner": "overlay", "ovn-docker:host": "host1", "ovn-docker:pool": network.pool,
               "ovn-docker:state": "leased", "ovn-docker:picked": "true"}  # fmt: skip
        uuid = rows.get("_uuid", lease_of(northbound, network, rows["cidr"]))
        northbound.transact(ovsdb.insert("DHCP_Options", uuid, cidr=rows["cidr"], external_ids=ids))
        host.restart_docker()
        assert host.take(network) == "10.3.0.2"

    def test_a_driver_that_starts_alone_goes_on_behind_them(self, host, network):
        before = [host.take(network) for _ in range(3)]
        host.restart()
        assert host.take(network) not in before
