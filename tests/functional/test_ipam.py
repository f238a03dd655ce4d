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
from ovn_docker.backends import addresses
from ovn_docker.backends.overlay import Overlay
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, NotFound, TimedOut
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database
from ovn_docker.ipam import Ipam
from ovn_docker.model import Kind, Network, NetworkId, Occupied, PoolId, Report, Subnet, row_uuid
from ovn_docker.plugin.wire import Driver, Plugin, answer, decode
from recordings.requests import RECORDINGS

MakeHost = Callable[..., DockerHost]


@pytest.fixture
def make_host(northbound: OvsdbServer, connect: Connect) -> MakeHost:
    """A host by this name, with a connection of its own."""
    return lambda name, **more: DockerHost(name, connect(northbound), **more)


@pytest.fixture
def host(make_host: MakeHost) -> DockerHost:
    return make_host("host1")


@pytest.fixture
def other(make_host: MakeHost) -> DockerHost:
    return make_host("host2")


@pytest.fixture(autouse=True)
def foreign_rows(northbound: OvsdbServer) -> Iterator[None]:
    """What others have in the database is there afterwards as it was before."""
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
    """A host has these subnets in use outside of OVN, as it says."""
    occupied = tuple(Occupied(ip_network(subnet), "eth0") for subnet in subnets)
    host.reports.write(Report(name, occupied), replace(host.chassis, system_id=name), Deadline(10))


def shared_switch(northbound: OvsdbServer) -> tuple[object, list[str]]:
    """The switch of the network of the cluster, and the hosts that have it."""
    (switch,) = [row for row in northbound.contents()["Logical_Switch"] if row["name"] == "foo"]
    rows = [row["external_ids"] for row in northbound.contents()["DHCP_Options"]]
    return switch, sorted(ids["ovn-docker:host"] for ids in rows if "ovn-docker:note" in ids)


def time_passes(northbound: OvsdbServer, seconds: int) -> None:
    """All that was released was released some *seconds* earlier."""
    for row in northbound.rows("DHCP_Options", "_uuid", "external_ids"):
        if "ovn-docker:released" in row["external_ids"]:
            ids = row["external_ids"]
            ids["ovn-docker:released"] = str(int(float(ids["ovn-docker:released"])) - seconds)
            northbound.transact(ovsdb.update("DHCP_Options", ovsdb.is_row(row["_uuid"]), external_ids=ids))


def span(prefix: str, first: int, last: int) -> set[str]:
    """Addresses from one to another."""
    return {f"{prefix}{number}" for number in range(first, last + 1)}


class TestRange:
    """Which addresses containers get."""

    def test_they_come_one_after_the_other_behind_the_gateway(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24")
        assert network.kept == (ip_address("10.3.0.1"),)
        assert [host.take(network) for _ in range(3)] == ["10.3.0.2", "10.3.0.3", "10.3.0.4"]

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
    def test_all_of_the_range_and_no_other_and_none_that_is_kept(
        self, given: dict[str, Any], addresses: set[str], host: DockerHost
    ) -> None:
        network = host.create(**given)
        taken = host.fill(network)
        assert Counter(taken) == Counter(addresses)

    def test_a_range_larger_than_one_looks_through(self, host: DockerHost) -> None:
        network = host.create("fd00::/64")
        assert [host.take(network) for _ in range(20)] == [f"fd00::{n:x}" for n in range(2, 22)]

    def test_exhausted_is_one_clear_line(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/30")
        assert host.take(network) == "10.3.0.2"
        with pytest.raises(Conflict) as caught:
            host.take(network)
        assert str(caught.value) == (
            "no free address in 10.3.0.0/30: remove containers, or create the network with a larger "
            "--subnet or --ip-range"
        )

    @pytest.mark.parametrize("subnet", ["10.3.0.0/32", "fd00::/128"])
    def test_a_subnet_of_the_gateway_alone_has_no_room(self, host: DockerHost, subnet: str) -> None:
        network = host.create(subnet)
        with pytest.raises(Conflict, match=rf"^{subnet} has no address for a container: the gateway and"):
            host.take(network)

    @pytest.mark.parametrize(("subnet", "only"), [("10.3.0.0/31", "10.3.0.1"), ("fd00::/127", "fd00::1")])
    def test_a_subnet_of_two_has_room_for_one(self, host: DockerHost, subnet: str, only: str) -> None:
        network = host.create(subnet)
        assert host.take(network) == only
        with pytest.raises(Conflict, match=rf"^no free address in {subnet}: remove containers"):
            host.take(network)

    def test_the_last_free_one_of_a_large_range_is_found(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        network = host.create("10.3.0.0/22")
        lease_all(northbound, network, [f"10.3.{n >> 8}.{n & 255}" for n in range(2, 1023) if n != 777])
        assert host.take(network) == "10.3.3.9"
        with pytest.raises(Conflict, match="no free address"):
            host.take(network)


class TestWanted:
    """``--ip`` and ``--ip6``."""

    @pytest.mark.parametrize(
        ("subnet", "wanted"),
        [("10.3.0.0/24", "10.3.0.20"), ("fd00::/64", "fd00::14"), ("10.3.0.0/24", "10.3.0.2")],
    )
    def test_it_is_given_and_not_given_again(self, subnet: str, wanted: str, host: DockerHost) -> None:
        network = host.create(subnet)
        assert host.take(network, wanted) == wanted
        assert wanted not in {host.take(network) for _ in range(25)}

    def test_one_outside_the_range_but_in_the_subnet(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.64/28")
        assert host.take(network, "10.3.0.200") == "10.3.0.200"

    @pytest.mark.parametrize("wanted", ["10.3.1.1", "fd00::2", "0.0.0.0", "255.255.255.255"])
    def test_one_outside_the_subnet_is_refused(self, wanted: str, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24")
        with pytest.raises(BadRequest, match=f"address {wanted} is not in the subnet 10.3.0.0/24"):
            host.take(network, wanted)

    @pytest.mark.parametrize(
        ("subnet", "wanted"),
        [("10.3.0.0/24", "10.3.0.0"), ("10.3.0.0/24", "10.3.0.255"), ("fd00::/64", "fd00::")],
    )
    def test_the_subnets_own_addresses_are_refused(self, subnet: str, wanted: str, host: DockerHost) -> None:
        network = host.create(subnet)
        with pytest.raises(BadRequest, match=f"{wanted} .*{subnet}"):
            host.take(network, wanted)

    def test_a_gateway_that_is_the_broadcast_address_is_refused(self, host: DockerHost) -> None:
        with pytest.raises(BadRequest, match=r"10.3.0.255 .*10.3.0.0/24"):
            host.create("10.3.0.0/24", gateway="10.3.0.255")

    @pytest.mark.parametrize("wanted", ["10.3.0.254", "10.3.0.9"])
    def test_gateway_and_auxiliary_addresses_are_refused(self, wanted: str, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", gateway="10.3.0.254", aux=["10.3.0.9"])
        with pytest.raises(
            Conflict, match=f"address {wanted} is reserved for the gateway or by --aux-address"
        ):
            host.take(network, wanted)

    def test_an_auxiliary_address_that_is_the_gateway_is_refused(self, host: DockerHost) -> None:
        with pytest.raises(Conflict, match=r"address 10.3.0.1 is reserved"):
            host.create("10.3.0.0/24", aux=["10.3.0.1"])

    def test_conflict_names_the_endpoint_and_its_host(self, host: DockerHost, other: DockerHost) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        container = host.run(network, "10.3.0.7")
        with pytest.raises(Conflict) as caught:
            other.take(same, "10.3.0.7")
        assert f"10.3.0.7 is in use by endpoint {container.id[:12]} on host host1; choose another" in str(
            caught.value
        )

    def test_conflict_names_the_host_of_a_container_that_is_starting(
        self, host: DockerHost, other: DockerHost
    ) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        host.take(network, "10.3.0.7")
        with pytest.raises(Conflict, match=r"10.3.0.7 is in use by a container of host host1"):
            other.take(same, "10.3.0.7")

    def test_conflict_with_a_container_whose_address_is_not_from_us(
        self, host: DockerHost, other: DockerHost
    ) -> None:
        """On the same switch, in a network with Docker's own IPAM: as if it were, the lease goes."""
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        container = other.run(same, "10.3.0.2")
        other.give_back(same, "10.3.0.2")
        with pytest.raises(Conflict, match=f"endpoint {container.id[:12]} on host host2"):
            host.run(network, "10.3.0.2")
        host.give_back(network, "10.3.0.2")
        assert host.take(network) == "10.3.0.3"


class TestRelease:
    """What becomes of addresses that are given back."""

    def test_it_rests_for_half_a_minute_and_is_usable_again(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.8/29")
        addresses = [host.take(network) for _ in range(4)]
        host.give_back(network, *addresses)
        time_passes(northbound, 25)
        host.restart()
        assert set(host.fill(network)[:4]).isdisjoint(addresses)

    def test_after_that_it_is_usable_again(self, host: DockerHost, northbound: OvsdbServer) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.8/29")
        host.fill(network)
        host.give_back(network, "10.3.0.9", "10.3.0.12")
        time_passes(northbound, 20)
        host.give_back(network, "10.3.0.14")
        time_passes(northbound, 11)
        assert {host.take(network), host.take(network)} == {"10.3.0.9", "10.3.0.12"}

    def test_the_other_hosts_let_it_rest_too(
        self, host: DockerHost, other: DockerHost, northbound: OvsdbServer
    ) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        host.give_back(network, host.take(network))
        assert other.take(same) == "10.3.0.3"

    def test_a_clock_that_goes_wrong_does_not_make_it_rest_for_ever(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.8/31")
        host.fill(network)
        host.give_back(network, "10.3.0.8", "10.3.0.9")
        time_passes(northbound, -86400)
        assert host.fill(network) == ["10.3.0.8", "10.3.0.9"]

    def test_it_rests_even_if_the_other_clock_is_a_second_ahead(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        network = host.create("10.3.0.0/24")
        host.give_back(network, host.take(network))
        time_passes(northbound, -2)
        host.restart()
        assert host.take(network) == "10.3.0.3"

    def test_asked_for_by_name_it_is_given_at_once(self, host: DockerHost, other: DockerHost) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        host.give_back(network, host.take(network, "10.3.0.7"))
        assert other.take(same, "10.3.0.7") == "10.3.0.7"
        with pytest.raises(Conflict, match="host2"):
            host.take(network, "10.3.0.7")

    def test_one_that_rests_is_better_than_none(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.8/29")
        host.fill(network)
        host.give_back(network, "10.3.0.12")
        assert host.take(network) == "10.3.0.12"
        with pytest.raises(Conflict, match="no free address"):
            host.take(network)

    def test_one_that_rests_is_not_taken_as_long_as_there_is_another(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", part="10.3.0.0/27")
        taken = host.fill(network)
        host.give_back(network, *taken[:20])
        host.ipam.release_address(network.pool, ip_address("10.3.0.1"))
        assert host.take(network) == "10.3.0.1"

    def test_twice_or_what_was_never_taken_is_fine(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24")
        host.give_back(network, host.take(network), "10.3.0.2", "10.3.0.99", "10.9.9.9", "fd00::1")

    def test_a_second_release_does_not_take_it_from_its_new_owner(
        self, host: DockerHost, other: DockerHost
    ) -> None:
        network, same = host.create("10.3.0.0/24", switch="web"), other.create("10.3.0.0/24", switch="web")
        host.give_back(network, host.take(network, "10.3.0.7"))
        other.take(same, "10.3.0.7")
        host.give_back(network, "10.3.0.7")
        with pytest.raises(Conflict, match="host2"):
            host.take(network, "10.3.0.7")

    def test_a_released_gateway_is_for_containers(self, host: DockerHost) -> None:
        network = host.create("10.3.0.0/24", gateway="10.3.0.9")
        host.give_back(network, "10.3.0.9")
        assert host.take(network, "10.3.0.9") == "10.3.0.9"

    def test_a_long_life_leaves_no_row_for_every_address_ever_used(
        self, host: DockerHost, northbound: OvsdbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(addresses, "_FORGET", 0)
        network = host.create("fd00::/64")
        for _ in range(50):
            host.give_back(network, host.take(network))
        assert len(northbound.rows("DHCP_Options")) < 10


class TestManyHosts:
    def test_networks_with_the_same_subnet_are_told_apart(self, host: DockerHost, other: DockerHost) -> None:
        networks = [(host, host.create("10.3.0.0/29")), (host, host.create("10.3.0.0/29"))]
        networks.append((other, other.create("10.3.0.0/29")))
        for there, network in networks:
            assert there.fill(network) == [f"10.3.0.{n}" for n in range(2, 7)]
        there, network = networks[0]
        there.remove(network)
        for there, network in networks[1:]:
            with pytest.raises(Conflict, match="no free address"):
                there.take(network)

    def test_two_hosts_on_one_switch_draw_from_one_space(self, host: DockerHost, other: DockerHost) -> None:
        network, same = host.create("10.3.0.0/27", switch="web"), other.create("10.3.0.0/27", switch="web")
        taken = [there.take(net) for _ in range(14) for there, net in ((host, network), (other, same))]
        taken += host.fill(network) + other.fill(same)
        assert Counter(taken) == Counter(span("10.3.0.", 2, 30))

    def test_thirty_containers_started_at_once_on_three_hosts(self, make_host: MakeHost) -> None:
        hosts = [make_host(f"host{n}") for n in range(3)]
        networks = [there.create("10.3.0.0/16", switch="web") for there in hosts]
        start = threading.Barrier(30)

        def take(number: int) -> str:
            start.wait()
            return hosts[number % 3].take(networks[number % 3])

        with ThreadPoolExecutor(30) as threads:
            taken = list(threads.map(take, range(30)))
        assert len(set(taken)) == 30

    def test_a_small_pool_is_shared_out_to_the_last_address_in_a_rush(self, make_host: MakeHost) -> None:
        hosts = [make_host(f"host{n}") for n in range(3)]
        networks = [there.create("10.3.0.0/28", switch="web") for there in hosts]

        def take(number: int) -> str:
            try:
                return hosts[number % 3].take(networks[number % 3])
            except Conflict as error:
                return str(error)[:15]

        with ThreadPoolExecutor(20) as threads:
            taken = Counter(threads.map(take, range(20)))
        assert taken == Counter(span("10.3.0.", 2, 14)) + Counter({"no free address": 7})

    def test_another_host_knows_the_pool_by_its_id(self, host: DockerHost, other: DockerHost) -> None:
        """With a key-value store (Docker 20.10) the network is one and only one host has created it."""
        network = host.create("10.3.0.0/24")
        assert [host.take(network), other.take(network), host.take(network)] == [
            "10.3.0.2", "10.3.0.3", "10.3.0.4"
        ]  # fmt: skip
        other.give_back(network, "10.3.0.2")
        other.remove(network)
        with pytest.raises(NotFound):
            host.take(network)


class TestOneNetworkMadeOnTwoHosts:
    """``docker network create -o ovn.network=foo`` without ``--subnet``, at the same moment."""

    def test_the_second_gives_way_to_the_first(
        self, host: DockerHost, other: DockerHost, northbound: OvsdbServer
    ) -> None:
        first = host.create(name="foo")
        before = shared_switch(northbound)
        second = other.create(name="foo")
        assert second.subnet != first.subnet
        assert shared_switch(northbound) == before
        with pytest.raises(Conflict, match="another host has made it with another subnet"):
            other.take(second)
        other.remove(second)
        assert other.create(str(first.subnet), name="foo").subnet == first.subnet

    def test_a_subnet_that_the_user_gave_is_refused_with_what_to_type(
        self, host: DockerHost, other: DockerHost
    ) -> None:
        first = host.create("10.9.0.0/24", name="foo")
        with pytest.raises(Conflict) as caught:
            other.create("10.9.1.0/24", name="foo")
        assert str(caught.value) == (
            "network foo has subnet 10.9.0.0/24 in the cluster, asked for was 10.9.1.0/24, which was chosen "
            "if you gave none: wait for it to appear on this host (ovn-docker network wait foo), or create "
            "it as it is there (--subnet=10.9.0.0/24 --gateway=10.9.0.1)"
        )
        assert first.subnet == ip_network("10.9.0.0/24")

    def test_a_host_that_does_not_follow_is_told(self, host: DockerHost, other: DockerHost) -> None:
        host.create(name="foo")
        other.overlay = Overlay(host.connect)
        with pytest.raises(Conflict, match="ovn-docker network wait foo"):
            other.create(name="foo")

    def test_a_network_that_was_removed_is_not_joined_with_another_subnet(
        self, host: DockerHost, other: DockerHost, make_host: MakeHost
    ) -> None:
        third = make_host("host3")
        first = host.create(name="foo")
        other.create(str(first.subnet), name="foo")
        host.remove(first)
        with pytest.raises(Conflict, match="in the cluster, asked for was"):
            third.create(name="foo")


class TestPicked:
    """A pool without ``--subnet``."""

    @pytest.mark.parametrize(
        ("version", "base", "prefix"), [(4, "10.192.0.0/12", 24), (6, "fd00:9::/48", 64)]
    )
    def test_it_is_out_of_the_supply(self, version: int, base: str, prefix: int, host: DockerHost) -> None:
        network = host.create(version=version)
        assert network.subnet.subnet_of(ip_network(base))  # type: ignore[arg-type]
        assert network.subnet.prefixlen == prefix
        assert ip_address(host.take(network)) == network.subnet[2]

    def test_every_time_another_and_none_that_is_in_use(self, make_host: MakeHost) -> None:
        """Neither a route of the host, nor a pool or a network of the cluster, whatever its IPAM."""
        other = make_host("host2", supplies="10.9.0.0/24:27")
        host = make_host(
            "host1", supplies="10.9.0.0/24:27", routes=["10.9.0.16/28", "172.16.0.0/12", "fd00::/8"]
        )
        other.create("10.9.0.64/26")
        docker_ipam = Network(NetworkId("1" * 64), (Subnet(ip_network("10.9.0.160/30")),))
        other.overlay.create_network(docker_ipam, other.chassis, Deadline(10))
        asked_only = other.ipam.request_pool(ip_network("10.9.0.224/27"), None, 4)
        free = {"10.9.0.32/27", "10.9.0.128/27", "10.9.0.192/27"}
        first = host.create()
        assert {str(first.subnet), str(host.create().subnet), str(host.create().subnet)} == free
        with pytest.raises(Conflict) as caught:
            host.create()
        assert str(caught.value) == (
            "no free IPv4 subnet in 10.9.0.0/24:27; give --subnet, or --address-pools"
        )
        host.remove(first)
        assert host.create().subnet == first.subnet
        other.ipam.release_pool(asked_only.id)
        assert str(host.create().subnet) == "10.9.0.224/27"

    def test_it_is_not_the_one_that_was_just_given_back(self, make_host: MakeHost) -> None:
        """Docker asks again at once if it does not like one, thousands of times a second."""
        host = make_host("host1", supplies="10.9.0.0/24:25")
        last = None
        for _ in range(10):
            pool = host.ipam.request_pool(None, None, 4)
            assert pool.subnet != last
            last = pool.subnet
            host.ipam.release_pool(pool.id)

    def test_docker_that_likes_none_comes_to_an_end(self, make_host: MakeHost) -> None:
        host = make_host("host1", supplies="10.9.0.0/24:28")
        seen = [host.ipam.request_pool(None, None, 4).subnet for _ in range(16)]
        assert len(set(seen)) == 16
        with pytest.raises(Conflict, match="no free IPv4 subnet"):
            host.ipam.request_pool(None, None, 4)

    def test_the_next_supply_is_taken_when_the_first_is_exhausted(self, make_host: MakeHost) -> None:
        host = make_host("host1", supplies="10.9.0.0/30:30,fd00:9::/64:64,10.10.0.0/30:30")
        assert str(host.create().subnet) == "10.9.0.0/30"
        assert str(host.create().subnet) == "10.10.0.0/30"

    def test_no_supply_of_that_version(self, make_host: MakeHost) -> None:
        with pytest.raises(
            Conflict, match="no free IPv6 subnet in no supply; give --subnet, or --address-pools"
        ):
            make_host("host1", supplies="10.9.0.0/24:28").create(version=6)

    @pytest.mark.slow
    def test_the_last_free_one_of_very_many_is_found(self, make_host: MakeHost) -> None:
        """And it does not take long."""
        taken = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1 << 16) if n != 4711]
        start = time.thread_time()  # of the processor, however many want it
        assert (
            str(make_host("host1", supplies="10.0.0.0/8:24", routes=taken).create().subnet)
            == "10.18.103.0/24"
        )
        assert time.thread_time() - start < 10

    def test_a_supply_without_end(self, make_host: MakeHost) -> None:
        host = make_host("host1", supplies="fc00::/7:120", routes=["fc00::/8"])
        assert ip_network("fd00::/8").supernet_of(host.create(version=6).subnet)  # type: ignore[arg-type]

    def test_subnets_of_other_peoples_switches_count_and_nonsense_does_not(
        self, make_host: MakeHost, northbound: OvsdbServer
    ) -> None:
        northbound.insert("Logical_Switch", external_ids=["map", [["subnet", "nonsense"]]])
        northbound.insert("Logical_Switch", external_ids=["map", [["subnet", "10.9.0.0/26"]]])
        northbound.insert("Logical_Switch", other_config=["map", [["subnet", "10.9.0.64/26"]]])
        host = make_host("host1", supplies="10.9.0.0/24:26")
        assert {str(host.create().subnet), str(host.create().subnet)} == {"10.9.0.128/26", "10.9.0.192/26"}

    def test_it_is_none_that_another_host_has_in_use_otherwise(self, make_host: MakeHost) -> None:
        host = make_host("host1", supplies="10.9.0.0/24:26")
        report(host, "host2", "10.9.0.0/25", "10.9.0.192/26", "fd00::/8", "172.16.0.0/12")
        assert str(host.create().subnet) == "10.9.0.128/26"

    def test_reports_leave_a_subnet_whatever_they_say(self, make_host: MakeHost) -> None:
        """Any host can say that it has all addresses in use."""
        host = make_host("host1", supplies="10.9.0.0/24:26", routes=["10.9.0.0/25"])
        host.create("10.9.0.192/26")
        report(host, "host2", *(f"{number}.0.0.0/8" for number in range(1, 127)))
        assert str(host.create().subnet) == "10.9.0.128/26"
        with pytest.raises(Conflict, match="no free IPv4 subnet"):
            host.create()


class TestPoolsThatAreNotReady:
    def test_an_unknown_pool(self, host: DockerHost) -> None:
        with pytest.raises(
            NotFound, match=r"pool .* is not in the northbound database at unix:.*create it again"
        ):
            host.ipam.request_address(PoolId(str(uuid4())), None, gateway=False)

    def test_a_row_of_somebody_else_is_no_pool(self, host: DockerHost, northbound: OvsdbServer) -> None:
        for row in northbound.rows("DHCP_Options", "_uuid"):
            for wanted in (None, ip_address("10.3.0.7")):
                with pytest.raises(NotFound):
                    host.ipam.request_address(PoolId(row["_uuid"]), wanted, gateway=wanted is None)
            host.ipam.release_address(PoolId(row["_uuid"]), ip_address("10.3.0.7"))
            host.ipam.release_pool(PoolId(row["_uuid"]))

    def test_a_lease_is_no_pool(self, host: DockerHost, northbound: OvsdbServer) -> None:
        network = host.create("10.3.0.0/24")
        host.take(network)
        before = northbound.contents()
        for row in northbound.rows("DHCP_Options", "_uuid", "external_ids"):
            if "ovn-docker:subnet" not in row["external_ids"]:
                with pytest.raises(NotFound):
                    host.ipam.request_address(PoolId(row["_uuid"]), None, gateway=False)
                host.ipam.release_pool(PoolId(row["_uuid"]))
        assert northbound.contents() == before

    def test_releasing_what_is_not_there_is_fine(self, host: DockerHost) -> None:
        host.ipam.release_address(PoolId(str(uuid4())), ip_address("10.3.0.7"))
        host.ipam.release_pool(PoolId(str(uuid4())))

    def test_a_pool_without_a_network_of_ours_has_no_addresses_for_containers(self, host: DockerHost) -> None:
        """`docker network create -d bridge --ipam-driver openvswitch`: CreateNetwork does not come to us."""
        pool = host.ipam.request_pool(ip_network("10.3.0.0/24"), None, 4)
        host.ipam.request_address(pool.id, None, gateway=True)
        with pytest.raises(Conflict, match=r"pool 10.3.0.0/24 .*-d openvswitch"):
            host.ipam.request_address(pool.id, None, gateway=False)

    def test_a_pool_that_docker_forgot_is_not_taken_for_the_new_one(self, host: DockerHost) -> None:
        """dockerd died between RequestPool and CreateNetwork; the user types the command again."""
        for _ in range(3):
            host.ipam.request_pool(ip_network("10.3.0.0/24"), None, 4)
        network = host.create("10.3.0.0/24")
        assert host.take(network) == "10.3.0.2"

    def test_a_network_whose_pool_nobody_asked_for(self, host: DockerHost, other: DockerHost) -> None:
        other.ipam.request_pool(ip_network("10.3.0.0/24"), None, 4)
        network = Network(NetworkId("1" * 64), (Subnet(ip_network("10.3.0.0/24"), ours=True),))
        with pytest.raises(Conflict, match=r"nobody asked for a pool 10.3.0.0/24"):
            host.overlay.create_network(network, host.chassis, Deadline(10))

    def test_create_network_twice_is_once(self, host: DockerHost, northbound: OvsdbServer) -> None:
        subnet = ip_network("10.3.0.0/24")
        host.ipam.request_pool(subnet, None, 4)
        network = Network(NetworkId("1" * 64), (Subnet(subnet, ours=True),))
        host.overlay.create_network(network, host.chassis, Deadline(10))
        before = northbound.contents()
        host.overlay.create_network(network, host.chassis, Deadline(10))
        assert northbound.contents() == before


def test_two_networks_that_are_made_at_once_have_a_pool_each(
    northbound: OvsdbServer, connect: Connect
) -> None:
    """With the same subnet, on one host: the second finds the pool bound that it was about to bind."""
    database = connect(northbound)
    other = DockerHost("host1", database)
    pool = other.ipam.request_pool(ip_network("10.4.0.0/24"), None, 4)
    network = Network(NetworkId("2" * 64), (Subnet(pool.subnet, pool.gateway, ours=True),))

    class Busy:
        remotes = database.remotes

        def transact(self, *operations: Any, deadline: Deadline) -> list[Any]:
            if any(one.get("table") == "Logical_Switch" for one in operations):
                other.overlay.create_network(network, other.chassis, deadline)
            return database.transact(*operations, deadline=deadline)

    one = DockerHost("host1", Busy()).create("10.4.0.0/24")  # type: ignore[arg-type]
    pools = [row["external_ids"] for row in northbound.rows("DHCP_Options", "external_ids")]
    assert {ids.get("ovn-docker:network") for ids in pools} - {None} == {one.id, network.id}


def test_two_networks_of_one_subnet_are_not_given_each_others_pools(
    make_host: MakeHost, northbound: OvsdbServer
) -> None:
    """Docker makes both at once, and does not tell which pool a network is for."""

    def bind(network: NetworkId) -> None:
        wanted = Network(network, (Subnet(ip_network("10.4.0.0/24"), None, ours=True),))
        host.overlay.create_network(wanted, host.chassis, Deadline(10))

    host, networks = make_host("host1"), (NetworkId("1" * 64), NetworkId("2" * 64))
    with ThreadPoolExecutor() as threads:
        first = host.ipam.request_pool(ip_network("10.4.0.0/24"), None, 4)
        asked = threads.submit(make_host("host1").ipam.request_pool, ip_network("10.4.0.0/24"), None, 4)
        until(northbound.holds)  # Docker asks for the gateway meanwhile
        bind(networks[0])
        second = asked.result()
    bind(networks[1])
    bound = [host.store.pool(pool.id, host.chassis, Deadline(2)) for pool in (first, second)]
    assert tuple(pool.network for pool in bound) == networks


class TestNothingIsLeft:
    @pytest.mark.parametrize("switch", [None, "web"])
    def test_when_all_is_released(
        self, switch: str | None, host: DockerHost, other: DockerHost, northbound: OvsdbServer
    ) -> None:
        before = northbound.contents()
        made = [
            (there, there.create(subnet, switch=switch if "." in subnet else None, aux=aux))
            for there in (host, other)
            for subnet, aux in (("10.3.0.0/24", ["10.3.0.9"]), ("fd00::/64", []))
        ]
        for there, network in made:
            there.give_back(network, *[there.take(network) for _ in range(5)])
        for there, network in made:
            there.remove(network)
        assert northbound.contents() == before

    def test_when_the_pool_is_never_released(self, host: DockerHost, northbound: OvsdbServer) -> None:
        """The driver was away when Docker said ReleasePool; that is never repeated."""
        before = northbound.contents()
        network = host.create("10.3.0.0/24")
        host.take(network)
        host.give_back(network, host.take(network))
        host.overlay.delete_network(network.id, host.chassis, Deadline(10))
        assert northbound.contents() == before

    def test_when_a_create_fails(self, host: DockerHost, northbound: OvsdbServer) -> None:
        before = northbound.contents()
        with pytest.raises(BadRequest):
            host.create("10.3.0.0/24", switch="nope")
        with pytest.raises(BadRequest):
            host.create("10.3.0.0/24", aux=["10.4.0.1"])
        assert northbound.contents() == before

    def test_when_docker_dies_before_it_used_what_it_asked_for(
        self, host: DockerHost, northbound: OvsdbServer
    ) -> None:
        network = host.create("10.3.0.0/24")
        host.run(network)
        before = northbound.contents()
        host.take(network)
        host.ipam.request_pool(ip_network("10.4.0.0/24"), None, 4)
        assert host.leftovers.mine(host.chassis, Deadline(10))[1] == []  # it may just be at it
        for row in northbound.rows("DHCP_Options", "_uuid", "external_ids"):
            if "ovn-docker:created" in (ids := row["external_ids"]):
                ids |= {"ovn-docker:created": "1", "ovn-docker:uptime": ""}
                northbound.transact(
                    ovsdb.update("DHCP_Options", ovsdb.is_row(row["_uuid"]), external_ids=ids)
                )
        strays = host.leftovers.mine(host.chassis, Deadline(10))[1]
        assert {stray.kind for stray in strays} == {Kind.LEASE, Kind.POOL}
        for _ in range(2):
            for stray in strays:
                host.leftovers.clear(stray, host.chassis, Deadline(10))
        assert {row["_uuid"] for row in northbound.rows("DHCP_Options")} == {
            row["_uuid"] for row in before["DHCP_Options"]
        }

    def test_when_the_database_answers_too_late(self, host: DockerHost, northbound: OvsdbServer) -> None:
        """Docker does not know the pool, and will not give it back."""
        suspected: list[None] = []
        ipam = Ipam(host.store, lambda _: host.chassis, list, (), lambda _, __: (), 0.5)
        plugin = Plugin(cast("Driver", None), ipam, suspect=lambda: suspected.append(None))
        path, body = "/IpamDriver.RequestPool", json.dumps({"Pool": "10.4.0.0/24"}).encode()
        northbound.pause()
        with pytest.raises(TimedOut):
            answer(plugin, path, decode(path, body))
        northbound.resume()
        until(
            lambda: any("ovn-docker:pool" in row["external_ids"] for row in northbound.rows("DHCP_Options"))
        )
        assert suspected == [None]


# Cost, and a connection that breaks


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
    """As if containers of another host had them."""
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
        """Transactions for an address, another, and one that is wanted, taken and given back."""
        counts = []
        for wanted in (None, None, "10.3.200.200"):
            before = counting.count
            host.give_back(network, host.take(network, wanted))
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


def test_every_transaction_may_be_sent_twice(northbound: OvsdbServer, connect: Connect) -> None:
    """After a lost connection nobody knows whether it was committed, and it is sent again."""
    before = northbound.contents()
    host = DockerHost("host1", Counting(connect(northbound), 2))  # type: ignore[arg-type]
    network = host.create("10.3.0.0/24", aux=["10.3.0.9"], switch="web")
    assert [host.take(network) for _ in range(3)] == ["10.3.0.2", "10.3.0.3", "10.3.0.4"]
    assert host.take(network, "10.3.0.7") == "10.3.0.7"
    host.give_back(network, "10.3.0.7")
    assert host.take(network, "10.3.0.7") == "10.3.0.7"
    leased = [
        row["cidr"]
        for row in northbound.rows("DHCP_Options")
        if row["external_ids"].get("ovn-docker:state") == "leased"
    ]
    assert sorted(leased) == ["10.3.0.2", "10.3.0.3", "10.3.0.4", "10.3.0.7"]
    host.remove(network)
    assert northbound.contents() == before


@pytest.mark.parametrize("version", sorted({name.partition(":")[0] for name in RECORDINGS}))
def test_what_docker_said_to_a_stub(version: str, northbound: OvsdbServer, connect: Connect) -> None:
    """Its calls in their order, about pools of ours instead of the stub's: each has its proper answer."""
    host = DockerHost("host1", connect(northbound))
    plugin = Plugin(cast("Driver", None), host.ipam)
    networks: dict[str, DockerNetwork] = {}

    def say(method: str, request: dict[str, Any]) -> dict[str, Any]:
        path = "/IpamDriver." + method
        return dict(json.loads(answer(plugin, path, decode(path, json.dumps(request).encode()))))

    for recorded in (recorded for name, recorded in RECORDINGS.items() if name.startswith(version)):
        method, request = recorded["method"].removeprefix("IpamDriver."), recorded["request"]
        if method == "RequestPool" and not request["Options"]:
            said = say(method, request)
            assert said["Pool"] == request["Pool"] or not request["Pool"]
            host.ipam.release_pool(said["PoolID"])
        elif method in {"RequestAddress", "ReleaseAddress", "ReleasePool"}:
            stub = request["PoolID"]
            subnet = ip_network(stub.removeprefix("pool-"))
            network = networks[stub] = networks.get(stub) or host.create(str(subnet))
            said = say(method, request | {"PoolID": network.pool})
            if method == "RequestAddress":
                address = ip_interface(said["Address"])
                assert address.network == subnet
                assert str(address.ip) == request["Address"] or not request["Address"]
    assert len(networks) >= 3
