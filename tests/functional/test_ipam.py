"""Pools and addresses as users and Docker see them: hosts of a cluster on one real northbound database."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, cast
from uuid import uuid4

import pytest

from functional.conftest import Connect
from functional.docker_networks import DockerHost, DockerNetwork
from functional.ovsdb_servers import OvsdbServer, until
from ovn_docker.backends.ovn.networks import addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.core.ipam import Ipam
from ovn_docker.deadline import Deadline
from ovn_docker.docker.wire import NetworkDriver, Plugin, answer, decode
from ovn_docker.docker.wording import explain
from ovn_docker.errors import (
    AddressInUse,
    BadRequest,
    Conflict,
    NotFound,
    OtherSharedSubnets,
    PoolNotBound,
    StillRemoved,
    TimedOut,
)
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import Kind, Network, NetworkId, Occupied, PoolId, Report, Subnet, row_uuid
from recordings.requests import RECORDINGS

MakeHost = Callable[..., DockerHost]


@pytest.fixture
def make_host(northbound: OvsdbServer, connect: Connect) -> MakeHost:
    """Return a function that makes a host with a name and a connection of its own."""
    return lambda name, **more: DockerHost(name, connect(northbound), **more)


@pytest.fixture
def host(make_host: MakeHost) -> DockerHost:
    return make_host("host1")


@pytest.fixture
def other(make_host: MakeHost) -> DockerHost:
    return make_host("host2")


@pytest.fixture(autouse=True)
def foreign_rows(northbound: OvsdbServer) -> Iterator[None]:
    """Rows of others in the database, which must be unchanged after the test."""
    northbound.insert("DHCP_Options", cidr="10.3.0.0/24", external_ids=["map", [["owner", "somebody"]]])
    northbound.insert("Logical_Switch", name="web")
    before = northbound.contents()
    yield
    for table, rows in before.items():
        for row in rows:
            columns = [column for column in row if column != "ports"]
            select = ovsdb.select(table, ovsdb.is_row(row["_uuid"]), columns=columns)
            (result,) = northbound.transact(select)
            there = {column: ovsdb.decode(value) for column, value in result["rows"][0].items()}
            assert there == {column: row[column] for column in columns}


def report(host: DockerHost, name: str, *subnets: str) -> None:
    """Write a host's report that these subnets are in use outside of OVN."""
    occupied = tuple(Occupied(ip_network(subnet), "eth0") for subnet in subnets)
    host.reports.write(Report(name, occupied), replace(host.chassis, system_id=name), Deadline(10))


def shared_switch(northbound: OvsdbServer) -> tuple[object, list[str]]:
    """Return the switch of the shared network, and the hosts that have the network."""
    (switch,) = [row for row in northbound.contents()["Logical_Switch"] if row["name"] == "foo"]
    rows = [row["external_ids"] for row in northbound.contents()["DHCP_Options"]]
    return switch, sorted(ids["ovn-docker:host"] for ids in rows if "ovn-docker:note" in ids)


def time_passes(northbound: OvsdbServer, seconds: int) -> None:
    """Make all releases some *seconds* older."""
    for row in northbound.rows("DHCP_Options", "_uuid", "external_ids"):
        if "ovn-docker:released" in row["external_ids"]:
            ids = row["external_ids"]
            ids["ovn-docker:released"] = str(int(float(ids["ovn-docker:released"])) - seconds)
            northbound.transact(ovsdb.update("DHCP_Options", ovsdb.is_row(row["_uuid"]), external_ids=ids))


def span(prefix: str, first: int, last: int) -> set[str]:
    """Return the addresses from *first* to *last*."""
    return {f"{prefix}{number}" for number in range(first, last + 1)}


class TestRange:
    """The addresses that containers get."""

    def test_addresses_follow_the_gateway_in_order(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24")
        assert network.kept == (ip_address("10.3.0.1"),)
        assert [host.lease(network) for _ in range(3)] == ["10.3.0.2", "10.3.0.3", "10.3.0.4"]

    @pytest.mark.parametrize(
        ("given", "addresses"),
        [
            ({"subnet": "10.3.0.0/28"}, span("10.3.0.", 2, 14)),
            ({"subnet": "10.3.0.0/28", "gateway": "10.3.0.14"}, span("10.3.0.", 1, 13)),
            ({"subnet": "10.3.0.0/28", "aux": ["10.3.0.5", "10.3.0.14"]},
             span("10.3.0.", 2, 13) - {"10.3.0.5"}),
            ({"subnet": "10.3.0.0/24", "part": "10.3.0.64/28"}, span("10.3.0.", 64, 79)),
            ({"subnet": "10.3.0.0/24", "part": "10.3.0.64/28", "gateway": "10.3.0.70"},
             span("10.3.0.", 64, 79) - {"10.3.0.70"}),
            ({"subnet": "10.3.0.0/24", "part": "10.3.0.0/29"}, span("10.3.0.", 2, 7)),
            ({"subnet": "10.3.0.0/24", "part": "10.3.0.248/29"}, span("10.3.0.", 248, 254)),
            ({"subnet": "10.3.0.0/24", "part": "10.3.0.9/32"}, {"10.3.0.9"}),
            ({"subnet": "10.3.0.0/24", "part": "10.3.0.255/32"}, set()),
            ({"subnet": "10.3.0.0/31"}, {"10.3.0.1"}),
            ({"subnet": "10.3.0.0/32"}, set()),
            ({"subnet": "10.3.0.0/22", "part": "10.3.1.0/29"}, span("10.3.1.", 0, 7)),
            ({"subnet": "fd00::/124"}, {f"fd00::{n:x}" for n in range(2, 16)}),
            ({"subnet": "fd00::/64", "part": "fd00::a:0/125", "aux": ["fd00::a:3"]},
             {f"fd00::a:{n}" for n in range(8) if n != 3}),
        ],
        ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
    )  # fmt: skip
    def test_addresses_are_those_of_the_range_without_reserved_ones(
        self, given: dict[str, Any], addresses: set[str], host: DockerHost
    ) -> None:
        network = host.create(**given)
        taken = host.lease_all(network)
        assert Counter(taken) == Counter(addresses)

    def test_range_larger_than_one_search_is_usable(self, host: DockerHost) -> None:
        network = host.create("fd00::/64")
        assert [host.lease(network) for _ in range(20)] == [f"fd00::{n:x}" for n in range(2, 22)]

    def test_exhausted_range_is_an_error_in_one_line(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/30")
        assert host.lease(network) == "10.3.0.2"
        with pytest.raises(Conflict) as caught:
            host.lease(network)
        assert explain(caught.value) == (
            "no free address in 10.3.0.0/30; remove containers, or create the network with a larger "
            "--subnet or --ip-range"
        )

    @pytest.mark.parametrize("subnet", ["10.3.0.0/32", "fd00::/128"])
    def test_subnet_of_the_gateway_alone_has_no_addresses(self, host: DockerHost, subnet: str) -> None:
        network = host.create(subnet)
        with pytest.raises(Conflict, match=rf"^{subnet} has no address for a container: the gateway and"):
            host.lease(network)

    @pytest.mark.parametrize(("subnet", "only"), [("10.3.0.0/31", "10.3.0.1"), ("fd00::/127", "fd00::1")])
    def test_subnet_of_two_addresses_has_one_for_a_container(
        self, host: DockerHost, subnet: str, only: str
    ) -> None:
        network = host.create(subnet)
        assert host.lease(network) == only
        with pytest.raises(Conflict, match=rf"^no free address in {subnet}$"):
            host.lease(network)

    def test_last_free_address_of_a_large_range_is_found(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        network = host.create("10.3.0.0/22")
        lease_all(northbound, network, [f"10.3.{n >> 8}.{n & 255}" for n in range(2, 1023) if n != 777])
        assert host.lease(network) == "10.3.3.9"
        with pytest.raises(Conflict, match="no free address"):
            host.lease(network)


class TestWanted:
    """``--ip`` and ``--ip6``."""

    @pytest.mark.parametrize(
        ("subnet", "wanted"),
        [("10.3.0.0/24", "10.3.0.20"), ("fd00::/64", "fd00::14"), ("10.3.0.0/24", "10.3.0.2")],
    )
    def test_wanted_address_is_leased_once(self, subnet: str, wanted: str, host: DockerHost) -> None:
        network = host.create(subnet)
        assert host.lease(network, wanted) == wanted
        assert wanted not in {host.lease(network) for _ in range(25)}

    def test_wanted_address_may_be_outside_the_range(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.64/28")
        assert host.lease(network, "10.3.0.200") == "10.3.0.200"

    @pytest.mark.parametrize("wanted", ["10.3.1.1", "fd00::2", "0.0.0.0", "255.255.255.255"])
    def test_wanted_address_outside_the_subnet_is_refused(self, wanted: str, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24")
        with pytest.raises(BadRequest, match=f"address {wanted} is not in the subnet 10.3.0.0/24"):
            host.lease(network, wanted)

    @pytest.mark.parametrize(
        ("subnet", "wanted"),
        [("10.3.0.0/24", "10.3.0.0"), ("10.3.0.0/24", "10.3.0.255"), ("fd00::/64", "fd00::")],
    )
    def test_the_subnets_own_addresses_are_refused(self, subnet: str, wanted: str, host: DockerHost) -> None:
        network = host.create(subnet)
        with pytest.raises(BadRequest, match=f"{wanted} .*{subnet}"):
            host.lease(network, wanted)

    def test_a_gateway_that_is_the_broadcast_address_is_refused(self, host: DockerHost) -> None:
        with pytest.raises(BadRequest, match=r"10.3.0.255 .*10.3.0.0/24"):
            host.create("10.3.0.0/24", gateway="10.3.0.255")

    @pytest.mark.parametrize("wanted", ["10.3.0.254", "10.3.0.9"])
    def test_gateway_and_auxiliary_addresses_are_refused(self, wanted: str, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", gateway="10.3.0.254", aux=["10.3.0.9"])
        with pytest.raises(
            Conflict, match=f"address {wanted} is reserved for the gateway or by --aux-address"
        ):
            host.lease(network, wanted)

    def test_an_auxiliary_address_that_is_the_gateway_is_refused(self, host: DockerHost) -> None:
        with pytest.raises(Conflict, match=r"address 10.3.0.1 is reserved"):
            host.create("10.3.0.0/24", aux=["10.3.0.1"])

    def test_conflict_names_the_endpoint_and_its_host(self, host: DockerHost, other: DockerHost) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        container = host.run(network, "10.3.0.7")
        with pytest.raises(AddressInUse) as caught:
            other.lease(same, "10.3.0.7")
        user = f"endpoint {container.id[:12]} on host host1"
        assert (caught.value.address, caught.value.user) == ("10.3.0.7", user)
        assert str(caught.value) == f"address 10.3.0.7 is in use by {user}"

    def test_conflict_names_the_host_of_a_container_that_is_starting(
        self, host: DockerHost, other: DockerHost
    ) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        host.lease(network, "10.3.0.7")
        with pytest.raises(Conflict, match=r"10.3.0.7 is in use by a container of host host1"):
            other.lease(same, "10.3.0.7")

    def test_conflict_names_a_container_with_an_address_of_dockers_ipam(
        self, host: DockerHost, other: DockerHost
    ) -> None:
        """The lease is released, so that the claim is like one of Docker's own IPAM on the same switch."""
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        container = other.run(same, "10.3.0.2")
        other.release(same, "10.3.0.2")
        with pytest.raises(Conflict, match=f"endpoint {container.id[:12]} on host host2"):
            host.run(network, "10.3.0.2")
        host.release(network, "10.3.0.2")
        assert host.lease(network) == "10.3.0.3"


class TestRelease:
    """The rest and reuse of released addresses."""

    def test_released_address_rests_for_half_a_minute(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.8/29")
        addresses = [host.lease(network) for _ in range(4)]
        host.release(network, *addresses)
        time_passes(northbound, 25)
        host.restart()
        assert set(host.lease_all(network)[:4]).isdisjoint(addresses)

    def test_released_address_is_leased_again_after_its_rest(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.8/29")
        host.lease_all(network)
        host.release(network, "10.3.0.9", "10.3.0.12")
        time_passes(northbound, 20)
        host.release(network, "10.3.0.14")
        time_passes(northbound, 11)
        assert {host.lease(network), host.lease(network)} == {"10.3.0.9", "10.3.0.12"}

    def test_released_address_rests_on_other_hosts_too(
        self, host: DockerHost, other: DockerHost, northbound: OvsdbServer
    ) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        host.release(network, host.lease(network))
        assert other.lease(same) == "10.3.0.3"

    def test_wrong_clock_does_not_extend_the_rest(self, host: DockerHost, northbound: OvsdbServer) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.8/31")
        host.lease_all(network)
        host.release(network, "10.3.0.8", "10.3.0.9")
        time_passes(northbound, -86400)
        assert host.lease_all(network) == ["10.3.0.8", "10.3.0.9"]

    def test_rest_holds_if_the_other_clock_is_a_second_ahead(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        network = host.create("10.3.0.0/24")
        host.release(network, host.lease(network))
        time_passes(northbound, -2)
        host.restart()
        assert host.lease(network) == "10.3.0.3"

    def test_wanted_address_is_leased_without_rest(self, host: DockerHost, other: DockerHost) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        host.release(network, host.lease(network, "10.3.0.7"))
        assert other.lease(same, "10.3.0.7") == "10.3.0.7"
        with pytest.raises(Conflict, match="host2"):
            host.lease(network, "10.3.0.7")

    def test_resting_address_is_leased_if_no_other_is_free(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.8/29")
        host.lease_all(network)
        host.release(network, "10.3.0.12")
        assert host.lease(network) == "10.3.0.12"
        with pytest.raises(Conflict, match="no free address"):
            host.lease(network)

    def test_resting_address_is_not_leased_while_another_is_free(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.0/27")
        taken = host.lease_all(network)
        host.release(network, *taken[:20])
        host.ipam.release_address(network.pool, ip_address("10.3.0.1"))
        assert host.lease(network) == "10.3.0.1"

    def test_release_is_idempotent(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24")
        host.release(network, host.lease(network), "10.3.0.2", "10.3.0.99", "10.9.9.9", "fd00::1")

    def test_second_release_keeps_the_lease_of_a_new_owner(self, host: DockerHost, other: DockerHost) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        host.release(network, host.lease(network, "10.3.0.7"))
        other.lease(same, "10.3.0.7")
        host.release(network, "10.3.0.7")
        with pytest.raises(Conflict, match="host2"):
            host.lease(network, "10.3.0.7")

    def test_released_gateway_address_is_leased_to_containers(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", gateway="10.3.0.9")
        host.release(network, "10.3.0.9")
        assert host.lease(network, "10.3.0.9") == "10.3.0.9"

    def test_rows_of_released_addresses_are_deleted(
        self, host: DockerHost, northbound: OvsdbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(addresses, "_KEPT_FOR", 0)
        network = host.create("fd00::/64")
        for _ in range(50):
            host.release(network, host.lease(network))
        assert len(northbound.rows("DHCP_Options")) < 10


class TestManyHosts:
    def test_networks_with_the_same_subnet_have_separate_leases(
        self, host: DockerHost, other: DockerHost
    ) -> None:
        networks = [(host, host.create("10.3.0.0/29")), (host, host.create("10.3.0.0/29"))]
        networks.append((other, other.create("10.3.0.0/29")))
        for there, network in networks:
            assert there.lease_all(network) == [f"10.3.0.{n}" for n in range(2, 7)]
        there, network = networks[0]
        there.remove(network)
        for there, network in networks[1:]:
            with pytest.raises(Conflict, match="no free address"):
                there.lease(network)

    def test_two_hosts_on_one_switch_lease_different_addresses(
        self, host: DockerHost, other: DockerHost
    ) -> None:
        network, same = host.create("10.3.0.0/27", switch="web"), other.create("10.3.0.0/27", switch="web")
        taken = [there.lease(net) for _ in range(14) for there, net in ((host, network), (other, same))]
        taken += host.lease_all(network) + other.lease_all(same)
        assert Counter(taken) == Counter(span("10.3.0.", 2, 30))

    def test_containers_started_at_once_on_three_hosts_get_different_addresses(
        self, make_host: MakeHost
    ) -> None:
        hosts = [make_host(f"host{n}") for n in range(3)]
        networks = [there.create("10.3.0.0/16", switch="web") for there in hosts]
        start = threading.Barrier(30)

        def lease(number: int) -> str:
            start.wait()
            return hosts[number % 3].lease(networks[number % 3])

        with ThreadPoolExecutor(30) as threads:
            taken = list(threads.map(lease, range(30)))
        assert len(set(taken)) == 30

    def test_concurrent_hosts_lease_a_small_pool_completely(self, make_host: MakeHost) -> None:
        hosts = [make_host(f"host{n}") for n in range(3)]
        networks = [there.create("10.3.0.0/28", switch="web") for there in hosts]

        def lease(number: int) -> str:
            try:
                return hosts[number % 3].lease(networks[number % 3])
            except Conflict as error:
                return str(error)[:15]

        with ThreadPoolExecutor(20) as threads:
            taken = Counter(threads.map(lease, range(20)))
        assert taken == Counter(span("10.3.0.", 2, 14)) + Counter({"no free address": 7})

    def test_another_host_knows_the_pool_by_its_id(self, host: DockerHost, other: DockerHost) -> None:
        """With a key-value store (Docker 20.10) all hosts have a network that one host has created."""
        network = host.create("10.3.0.0/24")
        assert [host.lease(network), other.lease(network), host.lease(network)] == [
            "10.3.0.2", "10.3.0.3", "10.3.0.4"
        ]  # fmt: skip
        other.release(network, "10.3.0.2")
        other.remove(network)
        with pytest.raises(NotFound):
            host.lease(network)


class TestConcurrentCreation:
    """``docker network create -o ovn.network=foo`` without ``--subnet``, at the same moment."""

    def test_second_host_gets_the_network_of_the_first(
        self, host: DockerHost, other: DockerHost, northbound: OvsdbServer
    ) -> None:
        first = host.create(name="foo")
        before = shared_switch(northbound)
        second = other.create(name="foo")
        assert second.subnet != first.subnet
        assert shared_switch(northbound) == before
        with pytest.raises(PoolNotBound):
            other.lease(second)
        other.remove(second)
        assert other.create(str(first.subnet), name="foo").subnet == first.subnet

    def test_subnet_that_the_user_gave_is_refused_with_the_options_to_type(
        self, host: DockerHost, other: DockerHost
    ) -> None:
        first = host.create("10.9.0.0/24", name="foo")
        with pytest.raises(Conflict) as caught:
            other.create("10.9.1.0/24", name="foo")
        assert explain(caught.value) == (
            "network foo has subnet 10.9.0.0/24 in the cluster, asked for was 10.9.1.0/24; it was chosen if "
            "you gave none: wait for it to appear on this host (ovn-docker network wait foo), or create it "
            "as it is there (--subnet=10.9.0.0/24 --gateway=10.9.0.1)"
        )
        assert first.subnet == ip_network("10.9.0.0/24")

    def test_host_without_follower_gets_an_error(self, host: DockerHost, other: DockerHost) -> None:
        host.create(name="foo")
        other.overlay = Overlay(host.connect)
        with pytest.raises(OtherSharedSubnets, match="network foo has subnet"):
            other.create(name="foo")

    def test_a_network_that_was_removed_is_not_joined_with_another_subnet(
        self, host: DockerHost, other: DockerHost, make_host: MakeHost
    ) -> None:
        third = make_host("host3")
        first = host.create(name="foo")
        other.create(str(first.subnet), name="foo")
        host.remove(first)
        with pytest.raises(StillRemoved, match="in the cluster, asked for was"):
            third.create(name="foo")


class TestPicked:
    """A pool without ``--subnet``."""

    @pytest.mark.parametrize(
        ("version", "base", "prefix"), [(4, "10.192.0.0/12", 24), (6, "fd00:9::/48", 64)]
    )
    def test_picked_subnet_is_of_the_supply(
        self, version: int, base: str, prefix: int, host: DockerHost
    ) -> None:
        network = host.create(version=version)
        assert network.subnet.subnet_of(ip_network(base))  # type: ignore[arg-type]
        assert network.subnet.prefixlen == prefix
        assert ip_address(host.lease(network)) == network.subnet[2]

    def test_picked_subnets_differ_and_are_unused(self, make_host: MakeHost) -> None:
        """Routes of the host, pools, and networks with any IPAM are avoided."""
        other = make_host("host2", supplies="10.9.0.0/24:27")
        host = make_host(
            "host1", supplies="10.9.0.0/24:27", routes=["10.9.0.16/28", "172.16.0.0/12", "fd00::/8"]
        )
        other.create("10.9.0.64/26")
        docker_ipam = Network(NetworkId("1" * 64), (Subnet(ip_network("10.9.0.160/30")),))
        other.overlay(other.chassis).create_network(docker_ipam, Deadline(10))
        asked_only = other.ipam.request_pool(ip_network("10.9.0.224/27"), None, 4)
        free = {"10.9.0.32/27", "10.9.0.128/27", "10.9.0.192/27"}
        first = host.create()
        assert {str(first.subnet), str(host.create().subnet), str(host.create().subnet)} == free
        with pytest.raises(Conflict) as caught:
            host.create()
        assert str(caught.value) == "no free IPv4 subnet in 10.9.0.0/24:27"
        host.remove(first)
        assert host.create().subnet == first.subnet
        other.ipam.release_pool(asked_only.id)
        assert str(host.create().subnet) == "10.9.0.224/27"

    def test_picked_subnet_is_not_the_last_one_released(self, make_host: MakeHost) -> None:
        """Docker requests another pool at once if it refuses one, thousands of times a second."""
        host = make_host("host1", supplies="10.9.0.0/24:25")
        last = None
        for _ in range(10):
            pool = host.ipam.request_pool(None, None, 4)
            assert pool.subnet != last
            last = pool.subnet
            host.ipam.release_pool(pool.id)

    def test_docker_that_refuses_every_subnet_gets_an_error(self, make_host: MakeHost) -> None:
        host = make_host("host1", supplies="10.9.0.0/24:28")
        seen = [host.ipam.request_pool(None, None, 4).subnet for _ in range(16)]
        assert len(set(seen)) == 16
        with pytest.raises(Conflict, match="no free IPv4 subnet"):
            host.ipam.request_pool(None, None, 4)

    def test_the_next_supply_is_taken_when_the_first_is_exhausted(self, make_host: MakeHost) -> None:
        host = make_host("host1", supplies="10.9.0.0/30:30,fd00:9::/64:64,10.10.0.0/30:30")
        assert str(host.create().subnet) == "10.9.0.0/30"
        assert str(host.create().subnet) == "10.10.0.0/30"

    def test_version_without_supply_is_an_error(self, make_host: MakeHost) -> None:
        with pytest.raises(Conflict, match="no free IPv6 subnet in no supply"):
            make_host("host1", supplies="10.9.0.0/24:28").create(version=6)

    @pytest.mark.slow
    def test_last_free_subnet_of_a_large_supply_is_found(self, make_host: MakeHost) -> None:
        """The search takes a limited processor time."""
        taken = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1 << 16) if n != 4711]
        start = time.thread_time()  # processor time, which does not depend on the load
        assert (
            str(make_host("host1", supplies="10.0.0.0/8:24", routes=taken).create().subnet)
            == "10.18.103.0/24"
        )
        assert time.thread_time() - start < 10

    def test_huge_supply_is_usable(self, make_host: MakeHost) -> None:
        host = make_host("host1", supplies="fc00::/7:120", routes=["fc00::/8"])
        assert ip_network("fd00::/8").supernet_of(host.create(version=6).subnet)  # type: ignore[arg-type]

    def test_subnets_of_foreign_switches_count_unless_invalid(
        self, make_host: MakeHost, northbound: OvsdbServer
    ) -> None:
        northbound.insert("Logical_Switch", external_ids=["map", [["subnet", "nonsense"]]])
        northbound.insert("Logical_Switch", external_ids=["map", [["subnet", "10.9.0.0/26"]]])
        northbound.insert("Logical_Switch", other_config=["map", [["subnet", "10.9.0.64/26"]]])
        host = make_host("host1", supplies="10.9.0.0/24:26")
        assert {str(host.create().subnet), str(host.create().subnet)} == {"10.9.0.128/26", "10.9.0.192/26"}

    def test_picked_subnet_avoids_reports_of_other_hosts(self, make_host: MakeHost) -> None:
        host = make_host("host1", supplies="10.9.0.0/24:26")
        report(host, "host2", "10.9.0.0/25", "10.9.0.192/26", "fd00::/8", "172.16.0.0/12")
        assert str(host.create().subnet) == "10.9.0.128/26"

    def test_reports_cannot_use_up_all_subnets(self, make_host: MakeHost) -> None:
        """Any host can report that all addresses are in use."""
        host = make_host("host1", supplies="10.9.0.0/24:26", routes=["10.9.0.0/25"])
        host.create("10.9.0.192/26")
        report(host, "host2", *(f"{number}.0.0.0/8" for number in range(1, 127)))
        assert str(host.create().subnet) == "10.9.0.128/26"
        with pytest.raises(Conflict, match="no free IPv4 subnet"):
            host.create()


class TestPoolsNotReady:
    def test_unknown_pool_is_an_error(self, host: DockerHost) -> None:
        with pytest.raises(NotFound, match=r"pool .* is not in the northbound database at unix:"):
            host.ipam.request_address(PoolId(str(uuid4())), None, gateway=False)

    def test_foreign_row_is_not_a_pool(self, host: DockerHost, northbound: OvsdbServer) -> None:
        for row in northbound.rows("DHCP_Options", "_uuid"):
            for wanted in (None, ip_address("10.3.0.7")):
                with pytest.raises(NotFound):
                    host.ipam.request_address(PoolId(row["_uuid"]), wanted, gateway=wanted is None)
            host.ipam.release_address(PoolId(row["_uuid"]), ip_address("10.3.0.7"))
            host.ipam.release_pool(PoolId(row["_uuid"]))

    def test_lease_is_not_a_pool(self, host: DockerHost, northbound: OvsdbServer) -> None:
        network = host.create("10.3.0.0/24")
        host.lease(network)
        before = northbound.contents()
        for row in northbound.rows("DHCP_Options", "_uuid", "external_ids"):
            if "ovn-docker:subnet" not in row["external_ids"]:
                with pytest.raises(NotFound):
                    host.ipam.request_address(PoolId(row["_uuid"]), None, gateway=False)
                host.ipam.release_pool(PoolId(row["_uuid"]))
        assert northbound.contents() == before

    def test_release_of_an_unknown_pool_succeeds(self, host: DockerHost) -> None:
        host.ipam.release_address(PoolId(str(uuid4())), ip_address("10.3.0.7"))
        host.ipam.release_pool(PoolId(str(uuid4())))

    def test_a_pool_without_a_network_of_ours_has_no_addresses_for_containers(self, host: DockerHost) -> None:
        """With `-d bridge --ipam-driver openvswitch` Docker sends CreateNetwork to another driver."""
        pool = host.ipam.request_pool(ip_network("10.3.0.0/24"), None, 4)
        host.ipam.request_address(pool.id, None, gateway=True)
        with pytest.raises(PoolNotBound, match=r"pool 10.3.0.0/24 belongs to no network"):
            host.ipam.request_address(pool.id, None, gateway=False)

    def test_a_pool_that_docker_forgot_is_not_taken_for_the_new_one(
        self, host: DockerHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """dockerd died between RequestPool and CreateNetwork; the user repeats the command."""
        monkeypatch.setattr("ovn_docker.backends.ovn.networks.pools._MAKING", 0.1)
        for _ in range(3):
            host.ipam.request_pool(ip_network("10.3.0.0/24"), None, 4)
        network = host.create("10.3.0.0/24")
        assert host.lease(network) == "10.3.0.2"

    def test_network_without_a_requested_pool_is_refused(self, host: DockerHost, other: DockerHost) -> None:
        other.ipam.request_pool(ip_network("10.3.0.0/24"), None, 4)
        network = Network(NetworkId("1" * 64), (Subnet(ip_network("10.3.0.0/24"), ours=True),))
        with pytest.raises(Conflict, match=r"no pool 10.3.0.0/24 was requested"):
            host.overlay(host.chassis).create_network(network, Deadline(10))

    def test_create_network_is_idempotent_with_pools(self, host: DockerHost, northbound: OvsdbServer) -> None:
        subnet = ip_network("10.3.0.0/24")
        host.ipam.request_pool(subnet, None, 4)
        network = Network(NetworkId("1" * 64), (Subnet(subnet, ours=True),))
        host.overlay(host.chassis).create_network(network, Deadline(10))
        before = northbound.contents()
        host.overlay(host.chassis).create_network(network, Deadline(10))
        assert northbound.contents() == before


@pytest.mark.slow
def test_two_networks_that_are_made_at_once_have_a_pool_each(
    northbound: OvsdbServer, connect: Connect
) -> None:
    """Both have the same subnet on one host: the second finds the pool bound that it was about to bind."""
    database = connect(northbound)
    other = DockerHost("host1", database)
    pool = other.ipam.request_pool(ip_network("10.4.0.0/24"), None, 4)
    network = Network(NetworkId("2" * 64), (Subnet(pool.subnet, pool.gateway, ours=True),))

    class Busy:
        remotes = database.remotes

        def transact(self, *operations: Any, deadline: Deadline) -> list[Any]:
            if any(one.get("table") == "Logical_Switch" for one in operations):
                other.overlay(other.chassis).create_network(network, deadline)
            return database.transact(*operations, deadline=deadline)

    one = DockerHost("host1", Busy()).create("10.4.0.0/24")  # type: ignore[arg-type]
    pools = [row["external_ids"] for row in northbound.rows("DHCP_Options", "external_ids")]
    assert {ids.get("ovn-docker:network") for ids in pools} - {None} == {one.id, network.id}


def test_two_networks_of_one_subnet_are_not_given_each_others_pools(
    make_host: MakeHost, northbound: OvsdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker makes both at once, and its calls do not show which pool belongs to which network."""
    monkeypatch.setattr("ovn_docker.backends.ovn.networks.pools._MAKING", 20)

    def bind(network: NetworkId) -> None:
        wanted = Network(network, (Subnet(ip_network("10.4.0.0/24"), None, ours=True),))
        host.overlay(host.chassis).create_network(wanted, Deadline(10))

    host, networks = make_host("host1"), (NetworkId("1" * 64), NetworkId("2" * 64))
    with ThreadPoolExecutor() as threads:
        first = host.ipam.request_pool(ip_network("10.4.0.0/24"), None, 4)
        asked = threads.submit(make_host("host1").ipam.request_pool, ip_network("10.4.0.0/24"), None, 4)
        until(northbound.holds)  # Docker requests the gateway meanwhile
        bind(networks[0])
        second = asked.result()
    bind(networks[1])
    bound = [host.store(host.chassis).pool(pool.id, Deadline(30)) for pool in (first, second)]
    assert tuple(pool.network for pool in bound) == networks


class TestPoolRows:
    @pytest.mark.parametrize("switch", [None, "web"])
    def test_pool_rows_are_deleted_when_all_is_released(
        self, switch: str | None, host: DockerHost, other: DockerHost, northbound: OvsdbServer
    ) -> None:
        before = northbound.contents()
        made = [
            (there, there.create(subnet, switch=switch if "." in subnet else None, aux=aux))
            for there in (host, other)
            for subnet, aux in (("10.3.0.0/24", ["10.3.0.9"]), ("fd00::/64", []))
        ]
        for there, network in made:
            there.release(network, *[there.lease(network) for _ in range(5)])
        for there, network in made:
            there.remove(network)
        assert northbound.contents() == before

    def test_pool_rows_are_deleted_with_the_network(self, host: DockerHost, northbound: OvsdbServer) -> None:
        """The driver was down when Docker called ReleasePool, which Docker does not repeat."""
        before = northbound.contents()
        network = host.create("10.3.0.0/24")
        host.lease(network)
        host.release(network, host.lease(network))
        host.overlay(host.chassis).delete_network(network.id, Deadline(10))
        assert northbound.contents() == before

    def test_pool_rows_are_deleted_when_a_create_fails(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        before = northbound.contents()
        with pytest.raises(BadRequest):
            host.create("10.3.0.0/24", switch="nope")
        with pytest.raises(BadRequest):
            host.create("10.3.0.0/24", aux=["10.4.0.1"])
        assert northbound.contents() == before

    def test_unused_pools_of_a_dead_docker_are_swept(self, host: DockerHost, northbound: OvsdbServer) -> None:
        network = host.create("10.3.0.0/24")
        host.run(network)
        before = northbound.contents()
        host.lease(network)
        host.ipam.request_pool(ip_network("10.4.0.0/24"), None, 4)
        assert (
            host.leftovers(host.chassis).of_host(Deadline(10))[1] == []
        )  # a call may still be using the pool
        for row in northbound.rows("DHCP_Options", "_uuid", "external_ids"):
            if "ovn-docker:created" in (ids := row["external_ids"]):
                ids |= {"ovn-docker:created": "1", "ovn-docker:uptime": ""}
                northbound.transact(
                    ovsdb.update("DHCP_Options", ovsdb.is_row(row["_uuid"]), external_ids=ids)
                )
        strays = host.leftovers(host.chassis).of_host(Deadline(10))[1]
        assert {stray.kind for stray in strays} == {Kind.LEASE, Kind.POOL}
        for _ in range(2):
            for stray in strays:
                host.leftovers(host.chassis).clear(stray, Deadline(10))
        assert {row["_uuid"] for row in northbound.rows("DHCP_Options")} == {
            row["_uuid"] for row in before["DHCP_Options"]
        }

    def test_pool_stored_after_its_call_timed_out_is_reported_to_the_sweep(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        """Docker does not know the pool, and will not release it."""
        suspected: list[None] = []
        ipam = Ipam(host.store, lambda _: host.chassis, list, (), lambda _, __: (), 0.5)
        plugin = Plugin(cast("NetworkDriver", None), ipam, suspect=lambda: suspected.append(None))
        path, body = "/IpamDriver.RequestPool", json.dumps({"Pool": "10.4.0.0/24"}).encode()
        northbound.pause()
        with pytest.raises(TimedOut):
            answer(plugin, path, decode(path, body))
        northbound.resume()
        until(
            lambda: any("ovn-docker:pool" in row["external_ids"] for row in northbound.rows("DHCP_Options"))
        )
        assert suspected == [None]


# Cost, and lost connections


class Counting:
    """A connection that counts transactions, and sends each *times*."""

    def __init__(self, database: Database, times: int = 1) -> None:
        self._database = database
        self._times = times
        self.count = 0
        self.remotes = database.remotes

    def transact(self, *operations: Any, deadline: Deadline) -> list[Any]:
        self.count += 1
        for _ in range(self._times - 1):
            with suppress(ovsdb.OperationError):
                self._database.transact(*operations, deadline=deadline)
        return self._database.transact(*operations, deadline=deadline)


def lease_all(northbound: OvsdbServer, network: DockerNetwork, addresses: list[str]) -> None:
    """Insert leases as if containers of another host had the addresses."""
    (pool,) = (row for row in northbound.rows("DHCP_Options") if row["_uuid"] == network.pool)
    switch = pool["external_ids"]["ovn-docker:switch"]
    ids = {"ovn-docker:owner": "overlay", "ovn-docker:host": "host9", "ovn-docker:pool": network.pool,
           "ovn-docker:switch": switch, "ovn-docker:state": "leased"}  # fmt: skip
    rows = [
        ovsdb.insert("DHCP_Options", row_uuid("lease", switch, address), cidr=address, external_ids=ids)
        for address in addresses
    ]
    for start in range(0, len(rows), 1000):
        northbound.transact(*rows[start : start + 1000])


@pytest.mark.slow
def test_cost_does_not_grow_with_the_addresses_taken(northbound: OvsdbServer, connect: Connect) -> None:
    counting = Counting(connect(northbound))
    host = DockerHost("host1", counting)  # type: ignore[arg-type]
    network = host.create("10.3.0.0/16")

    def cost() -> list[int]:
        """Return the transactions for two addresses and a wanted one, from request to release."""
        counts = []
        for wanted in (None, None, "10.3.200.200"):
            before = counting.count
            host.release(network, host.lease(network, wanted))
            counts.append(counting.count - before)
        return counts

    cost()
    empty = cost()
    assert sum(empty) <= 15
    lease_all(northbound, network, [f"10.3.{n >> 8}.{n & 255}" for n in range(6, 30006)])
    assert sum(cost()) <= sum(empty) + 2, "it takes a look somewhere else"
    assert cost() == empty
    host.restart()
    assert sum(cost()) <= sum(empty) + 2


@pytest.mark.slow
def test_every_transaction_may_be_sent_twice(northbound: OvsdbServer, connect: Connect) -> None:
    """After a lost connection the driver repeats a transaction, which may have been committed."""
    before = northbound.contents()
    host = DockerHost("host1", Counting(connect(northbound), 2))  # type: ignore[arg-type]
    network = host.create("10.3.0.0/24", aux=["10.3.0.9"], switch="web")
    assert [host.lease(network) for _ in range(3)] == ["10.3.0.2", "10.3.0.3", "10.3.0.4"]
    assert host.lease(network, "10.3.0.7") == "10.3.0.7"
    host.release(network, "10.3.0.7")
    assert host.lease(network, "10.3.0.7") == "10.3.0.7"
    leased = [
        row["cidr"]
        for row in northbound.rows("DHCP_Options")
        if row["external_ids"].get("ovn-docker:state") == "leased"
    ]
    assert sorted(leased) == ["10.3.0.2", "10.3.0.3", "10.3.0.4", "10.3.0.7"]
    host.remove(network)
    assert northbound.contents() == before


@pytest.mark.parametrize("version", sorted({name.partition(":")[0] for name in RECORDINGS}))
def test_recorded_calls_of_docker_are_answered(
    version: str, northbound: OvsdbServer, connect: Connect
) -> None:
    """The calls are made in their order, with pools of ours instead of the recording's."""
    host = DockerHost("host1", connect(northbound))
    plugin = Plugin(cast("NetworkDriver", None), host.ipam)
    networks: dict[str, DockerNetwork] = {}

    def call(method: str, request: dict[str, Any]) -> dict[str, Any]:
        path = "/IpamDriver." + method
        return dict(json.loads(answer(plugin, path, decode(path, json.dumps(request).encode()))))

    for recorded in (recorded for name, recorded in RECORDINGS.items() if name.startswith(version)):
        method, request = recorded["method"].removeprefix("IpamDriver."), recorded["request"]
        if method == "RequestPool" and not request["Options"]:
            said = call(method, request)
            assert said["Pool"] == request["Pool"] or not request["Pool"]
            host.ipam.release_pool(said["PoolID"])
        elif method in {"RequestAddress", "ReleaseAddress", "ReleasePool"}:
            stub = request["PoolID"]
            subnet = ip_network(stub.removeprefix("pool-"))
            network = networks[stub] = networks.get(stub) or host.create(str(subnet))
            said = call(method, request | {"PoolID": network.pool})
            if method == "RequestAddress":
                address = ip_interface(said["Address"])
                assert address.network == subnet
                assert str(address.ip) == request["Address"] or not request["Address"]
    assert len(networks) >= 3
