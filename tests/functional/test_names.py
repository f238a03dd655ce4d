"""Names of containers in the northbound database: there with the endpoint, and gone with it."""

import threading
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from functional.conftest import Connect
from functional.docker_api import Api
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, until
from ovn_docker.backends.dns import Names
from ovn_docker.backends.forget import belongings, forget
from ovn_docker.backends.northbound import QUIET_TABLE
from ovn_docker.backends.overlay import Overlay
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.engine import Engine
from ovn_docker.host.links import Links
from ovn_docker.host.ovsdb import Database
from ovn_docker.host.vswitch import Vswitch
from ovn_docker.hostnames import ContainerNames, Unregistered
from ovn_docker.model import (
    NAMESERVERS,
    Attachment,
    Chassis,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    Subnet,
    container_link,
    host_link,
    resolver_routes,
)
from ovn_docker.names import Registrar
from ovn_docker.options import NetworkOptions
from ovn_docker.threads import Threads

NET1, NET2, PLAIN = (NetworkId(letter * 64) for letter in "123")
C1, C2 = EndpointId("c1" * 32), EndpointId("c2" * 32)
MAC = "02:00:00:00:00:01"


def soon() -> Deadline:
    return Deadline(10)


def chassis(name: str) -> Chassis:
    return Chassis(name, (), (ip_address("10.0.0.1"),), ("geneve",), "br-int", "system")


HOST1, HOST2 = chassis("host1"), chassis("host2")
FOUR = Subnet(ip_network("10.1.0.0/16"), ip_address("10.1.0.1"))
SIX = Subnet(ip_network("fd00:1::/64"), ip_address("fd00:1::1"))


def network(id_: NetworkId, *subnets: Subnet, name: str | None = "Foo") -> Network:
    return Network(id_, subnets or (FOUR,), options=NetworkOptions(name=name))


def endpoint(id_: EndpointId, network: NetworkId, *addresses: str) -> Endpoint:
    return Endpoint(id_, network, tuple(map(ip_interface, addresses or ("10.1.0.2/16",))), MAC)


def named(own: str, *aliases: str, created: int = 1) -> ContainerNames:
    return ContainerNames((own,), aliases, created)


class Cluster:
    """The drivers of two hosts on one database."""

    def __init__(self, server: OvsdbServer, database: Database) -> None:
        self.server = server
        self.database = database
        self.overlay = Overlay(lambda _: database)
        self.names = Names(lambda _: database)

    def rows(self, table: str) -> list[dict[str, Any]]:
        return self.server.rows(table)

    def records(self) -> list[dict[str, str]]:
        return [row["records"] for row in self.rows("DNS")]


@pytest.fixture
def cluster(northbound: OvsdbServer, connect: Connect) -> Cluster:
    """With the network Foo, known on two hosts."""
    cluster = Cluster(northbound, connect(northbound))
    cluster.overlay.create_network(network(NET1), HOST1, soon())
    cluster.overlay.create_network(network(NET2), HOST2, soon())
    return cluster


def test_a_name_stands_for_the_addresses_alone_and_with_the_networks(cluster: Cluster) -> None:
    cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
    cluster.names.set_names(C1, named("web", "www"), HOST1, soon())
    (row,) = cluster.rows("DNS")
    names = ["web", "web.foo", "www", "www.foo"]
    assert row["records"] == dict.fromkeys(names, "10.1.0.2") | {"2.0.1.10.in-addr.arpa": "web.foo"}
    (switch,) = cluster.rows("Logical_Switch")
    assert switch["dns_records"] == row["_uuid"]
    (port,) = (port for port in cluster.rows("Logical_Switch_Port") if port["name"] == C1)
    assert port["external_ids"]["ovn-docker:container"] == "web"


def test_a_name_stands_for_both_addresses(northbound: OvsdbServer, connect: Connect) -> None:
    cluster = Cluster(northbound, connect(northbound))
    cluster.overlay.create_network(network(NET1, FOUR, SIX), HOST1, soon())
    both = endpoint(C1, NET1, "10.1.0.2/16", "fd00:1::2/64")
    assert cluster.overlay.create_endpoint(both, HOST1, soon()).resolver
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    (records,) = cluster.records()
    assert records["web"] == "10.1.0.2 fd00:1::2"
    assert sum(key.endswith(".arpa") for key in records) == 2


def test_a_new_name_replaces_the_old_one(cluster: Cluster) -> None:
    cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
    for name in ("web", "web", "db"):
        cluster.names.set_names(C1, named(name), HOST1, soon())
    (records,) = cluster.records()
    assert "web" not in records
    assert records["db"] == "10.1.0.2"


class TestTwoContainers:
    """On two hosts, at 10.1.0.2 and 10.1.0.3."""

    @pytest.fixture(autouse=True)
    def both(self, cluster: Cluster) -> None:
        cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
        other = Endpoint(C2, NET2, (ip_interface("10.1.0.3/16"),), "02:00:00:00:00:02")
        cluster.overlay.create_endpoint(other, HOST2, soon())

    def register(self, cluster: Cluster, id_: EndpointId, names: ContainerNames) -> Unregistered:
        return cluster.names.set_names(id_, names, HOST1 if id_ == C1 else HOST2, soon())

    def answers(self, cluster: Cluster, name: str) -> list[str]:
        """Addresses that the records have for a name: OVN takes any of several."""
        return [records[name] for records in cluster.records() if name in records]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0), (1, 0, 1)], ids=str)
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (named("web", created=2), named("db", "web", created=1)),
            (named("web", created=1), named("web", created=2)),
            (named("db", "web", created=1), named("shop", "web", created=2)),
            (named("db", "web.FOO", created=1), named("shop", "Web", created=2)),
            (named("web"), named("web")),
        ],
        ids=["own before alias", "own before a later one", "alias before a later one", "suffix", "endpoint"],
    )
    def test_order_does_not_matter(
        self, cluster: Cluster, first: ContainerNames, second: ContainerNames, order: tuple[int, ...]
    ) -> None:
        lost = [self.register(cluster, *((C1, first), (C2, second))[one]).taken for one in order]
        for name in ("web", "web.foo"):
            assert self.answers(cluster, name) == ["10.1.0.2"]
        assert self.answers(cluster, "3.0.1.10.in-addr.arpa") != ["web.foo"]
        assert lost[order.index(1, order.index(0))] == ("web",) if order[0] == 0 else lost[0] == ()

    def test_a_name_is_free_when_its_container_has_gone(self, cluster: Cluster) -> None:
        self.register(cluster, C1, named("web"))
        assert self.register(cluster, C2, named("db", "web")) == Unregistered(taken=("web",))
        cluster.overlay.delete_endpoint(C1, HOST1, soon())
        assert self.register(cluster, C2, named("db", "web")) == Unregistered()
        assert self.answers(cluster, "web") == ["10.1.0.3"]

    def test_a_name_is_free_when_its_container_has_another(self, cluster: Cluster) -> None:
        self.register(cluster, C1, named("web"))
        self.register(cluster, C1, named("www"))
        assert self.register(cluster, C2, named("web", created=5)) == Unregistered()
        assert self.answers(cluster, "web") == ["10.1.0.3"]

    def test_a_container_gets_its_name_back_from_an_alias(self, cluster: Cluster) -> None:
        self.register(cluster, C1, named("web"))
        cluster.overlay.delete_endpoint(C1, HOST1, soon())
        self.register(cluster, C2, named("db", "web", "1.0.1.10.in-addr.arpa"))
        cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
        assert self.register(cluster, C1, named("web", created=9)) == Unregistered()
        assert self.answers(cluster, "web") == ["10.1.0.2"]
        assert self.answers(cluster, "2.0.1.10.in-addr.arpa") == ["web.foo"]

    def test_a_claim_without_a_port_is_in_nobodys_way(self, cluster: Cluster) -> None:
        """Somebody has typed lsp-del."""
        self.register(cluster, C1, named("web"))
        (port,) = (port["_uuid"] for port in cluster.rows("Logical_Switch_Port") if port["name"] == C1)
        cluster.server.transact(
            {"op": "mutate", "table": "Logical_Switch", "where": [],
             "mutations": [["ports", "delete", ["uuid", port]]]},
        )  # fmt: skip
        assert self.register(cluster, C2, named("db", "web")) == Unregistered()
        assert self.answers(cluster, "web") == ["10.1.0.3"]

    def test_nothing_is_left_of_both(self, cluster: Cluster) -> None:
        self.register(cluster, C1, named("web", "db"))
        self.register(cluster, C2, named("db", "web"))
        self.register(cluster, C1, named("web", "db"))
        for id_, host in ((C1, HOST1), (C2, HOST2)):
            cluster.overlay.delete_endpoint(id_, host, soon())
        assert [
            row for row in cluster.rows("DHCP_Options") if "ovn-docker:endpoint" in row["external_ids"]
        ] == []
        assert cluster.records() == []


def test_names_that_have_a_meaning_elsewhere_are_not_registered(cluster: Cluster) -> None:
    cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
    elsewhere = (
        "google.com",
        "localhost",
        "host.docker.internal",
        "wpad",
        "10.0.0.5",
        "2.0.1.10.in-addr.arpa",
    )
    found = cluster.names.set_names(C1, named("google.com", "web", *elsewhere), HOST1, soon())
    assert found == Unregistered(unfit=elsewhere)
    (records,) = cluster.records()
    assert records == {"web": "10.1.0.2", "web.foo": "10.1.0.2"}


def test_a_container_has_so_many_names_at_most(cluster: Cluster) -> None:
    cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
    found = cluster.names.set_names(C1, named("web", *(f"n{n}" for n in range(100))), HOST1, soon())
    assert found.unfit == tuple(f"n{n}" for n in range(63, 100))
    (records,) = cluster.records()
    assert "web" in records
    assert len(records) == 2 * 64 + 1


def test_names_of_an_earlier_version_are_replaced(cluster: Cluster) -> None:
    """It had no claims, and registered any name."""
    cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    claims = [["external_ids", "includes", ["map", [["ovn-docker:rank", "own 1"]]]]]
    records = ["map", [["web", "10.1.0.2"], ["google.com", "10.1.0.2"]]]
    cluster.server.transact(
        {"op": "delete", "table": "DHCP_Options", "where": claims},
        {"op": "update", "table": "DNS", "where": [], "row": {"records": records}},
    )
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    (found,) = cluster.records()
    assert sorted(found) == ["2.0.1.10.in-addr.arpa", "web", "web.foo"]
    assert "web" in [row["cidr"] for row in cluster.rows("DHCP_Options")]


def test_names_go_with_the_endpoint(cluster: Cluster) -> None:
    before = cluster.server.contents()
    cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    cluster.overlay.delete_endpoint(C1, HOST1, soon())
    cluster.names.set_names(C1, named("web"), HOST1, soon())  # Docker's event came late
    assert cluster.server.contents() == before


def test_names_go_with_the_network(cluster: Cluster) -> None:
    cluster.overlay.delete_network(NET2, HOST2, soon())
    cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    cluster.overlay.delete_network(NET1, HOST1, soon())
    assert set(cluster.server.contents()) == {"DHCP_Options", QUIET_TABLE}  # the generation


def test_names_of_a_lost_host_are_forgotten(cluster: Cluster) -> None:
    cluster.overlay.create_endpoint(endpoint(C1, NET2), HOST2, soon())
    cluster.names.set_names(C1, named("web"), HOST2, soon())
    found = belongings(cluster.database, "host2", soon())
    assert ("name", "web") in [(one.kind, one.what) for one in found]
    forget(cluster.database, "host2", found, soon())
    assert cluster.records() == []


def test_on_a_network_of_one_host_docker_answers_alone(cluster: Cluster) -> None:
    cluster.overlay.create_network(network(PLAIN, name=None), HOST1, soon())
    assert not cluster.overlay.create_endpoint(endpoint(C1, PLAIN), HOST1, soon()).resolver
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    assert cluster.records() == []
    (port,) = (port for port in cluster.rows("Logical_Switch_Port") if port["name"] == C1)
    assert port["external_ids"]["ovn-docker:container"] == "web"


@pytest.mark.parametrize("addresses", [[], ["unknown"], [f"{MAC} 10.1.0.9", "dynamic"]])
def test_a_port_whose_addresses_were_changed_by_hand(cluster: Cluster, addresses: list[str]) -> None:
    cluster.overlay.create_endpoint(endpoint(C1, NET1), HOST1, soon())
    cluster.server.transact(
        {"op": "update", "table": "Logical_Switch_Port", "where": [["name", "==", C1]],
         "row": {"addresses": ["set", addresses]}},
    )  # fmt: skip
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    assert [records["web"] for records in cluster.records()] == ["10.1.0.9"] * (len(addresses) == 2)
    (port,) = (port for port in cluster.rows("Logical_Switch_Port") if port["name"] == C1)
    assert port["external_ids"]["ovn-docker:container"] == "web"


def test_a_port_of_somebody_else_gets_no_name(cluster: Cluster) -> None:
    before = cluster.server.contents()
    cluster.names.set_names(EndpointId("e" * 64), named("web"), HOST1, soon())
    assert cluster.server.contents() == before


def test_the_resolver_has_the_gateway_and_the_name_servers(cluster: Cluster) -> None:
    (peer,) = cluster.rows("Logical_Router_Port")
    assert sorted(peer["networks"]) == ["10.1.0.1/16", "169.254.53.1/32", "169.254.53.2/32"]
    (port,) = cluster.rows("Logical_Switch_Port")
    assert (port["type"], port["options"]) == ("router", {"router-port": peer["name"]})


def test_a_switch_of_an_earlier_version_gets_its_resolver(cluster: Cluster) -> None:
    whole = cluster.server.contents()
    port = cluster.rows("Logical_Switch_Port")[0]["_uuid"]
    cluster.server.transact(
        {"op": "mutate", "table": "Logical_Switch", "where": [],
         "mutations": [["ports", "delete", ["uuid", port]]]},
        {"op": "delete", "table": "Logical_Router", "where": []},
    )  # fmt: skip
    again = NetworkId("4" * 64)
    cluster.overlay.create_network(network(again), HOST2, soon())
    cluster.overlay.delete_network(again, HOST2, soon())
    cluster.overlay.create_network(network(NetworkId("5" * 64)), HOST2, soon())
    for table in ("Logical_Router", "Logical_Router_Port", "Logical_Switch_Port"):
        assert cluster.server.contents()[table] == whole[table]


@pytest.mark.parametrize("gone", ["Logical_Switch", "Logical_Switch_Port"])
def test_what_is_left_of_a_resolver_is_in_nobody_s_way(cluster: Cluster, gone: str) -> None:
    """Somebody has typed ls-del, or lsp-del."""
    whole = cluster.server.contents()
    (switch,) = cluster.rows("Logical_Switch")
    if gone == "Logical_Switch":
        deletion = {"op": "delete", "table": gone, "where": []}
    else:
        deletion = {"op": "update", "table": "Logical_Switch", "where": [], "row": {"ports": ["set", []]}}
    cluster.server.transact(deletion)
    cluster.overlay.create_network(network(NetworkId("4" * 64)), HOST1, Deadline(2))
    assert [row["name"] for row in cluster.rows("Logical_Switch")] == [switch["name"]]
    for table in ("Logical_Router", "Logical_Router_Port", "Logical_Switch_Port"):
        assert cluster.server.contents()[table] == whole[table]


def test_without_ipv4_there_is_no_resolver(northbound: OvsdbServer, connect: Connect) -> None:
    cluster = Cluster(northbound, connect(northbound))
    cluster.overlay.create_network(network(NET1, SIX), HOST1, soon())
    assert not cluster.overlay.create_endpoint(endpoint(C1, NET1, "fd00:1::2/64"), HOST1, soon()).resolver
    assert cluster.rows("Logical_Router") == []


class TestTurns:
    """Of several networks of one container each leads to another name server."""

    @pytest.fixture
    def here(self, open_vswitch: OpenVswitch, connect: Connect) -> Vswitch:
        open_vswitch.set(system_id="host1", ovn_nb="tcp:127.0.0.1:6641", ovn_encap_ip="10.0.0.1")
        return Vswitch(connect(open_vswitch))

    def plug(self, here: Vswitch, id_: EndpointId, *, resolver: bool = True) -> None:
        Links().create_veth(host_link(id_), container_link(id_), mac=MAC, mtu=1400, tx_checksums=True)
        wanted = endpoint(id_, NET1)
        here.plug(wanted, Attachment(id_, resolver=resolver), here.chassis(soon()), soon())

    def test_are_counted_in_each_sandbox(self, here: Vswitch) -> None:
        ids = [EndpointId(f"{number:x}" * 64) for number in range(1, 6)]
        for number, id_ in enumerate(ids):
            self.plug(here, id_, resolver=number != 1)
        assert [here.enter(id_, "0123456789ab", Deadline(0))[0] for id_ in ids[:4]] == [0, None, 1, 2]
        assert here.enter(ids[4], "ba9876543210", Deadline(0))[0] == 0
        assert here.enter(ids[2], "0123456789ab", Deadline(0))[0] == 1  # Docker has asked again

    def test_are_had_again(self, here: Vswitch) -> None:
        for id_ in (C1, C2):
            self.plug(here, id_)
        assert [here.enter(id_, "0123456789ab", Deadline(0))[0] for id_ in (C1, C2)] == [0, 1]
        here.unplug(C1, soon())
        third = EndpointId("3" * 64)
        self.plug(here, third)
        assert here.enter(third, "0123456789ab", Deadline(0))[0] == 0

    def test_one_that_is_no_number_is_counted_anew(self, here: Vswitch, open_vswitch: OpenVswitch) -> None:
        """Somebody has written it into the database: a container that starts does not suffer for it."""
        self.plug(here, C1)
        wrong = {"ovn-docker:owner": "ovn-docker", "ovn-docker:resolver": "\N{SUPERSCRIPT TWO}"}
        open_vswitch.transact(ovsdb.update("Interface", ["name", "==", host_link(C1)], external_ids=wrong))
        assert here.enter(C1, "0123456789ab", Deadline(0))[0] == 0


def asked(server: IPv4Address, turns: set[int]) -> int:
    """The turn whose network a query goes to: the kernel's rule of the longest prefix."""
    routes = {route: turn for turn in turns for route in resolver_routes(turn)}
    return routes[max((route for route in routes if server in route), key=lambda route: route.prefixlen)]


@pytest.mark.parametrize(
    ("turns", "networks"),
    [({0}, [0, 0]), ({0, 1}, [0, 1]), ({1}, [1, 1]), ({0, 1, 2}, [0, 1]), ({2, 5}, [2, 2]), ({0, 7}, [0, 0])],
)
def test_every_name_server_leads_to_a_network(turns: set[int], networks: list[int]) -> None:
    assert [asked(server, turns) for server in NAMESERVERS] == networks


def test_no_two_networks_of_a_container_have_the_same_route() -> None:
    routes = [route for turn in range(20) for route in resolver_routes(turn)]
    assert len(set(routes)) == len(routes)
    assert all(route.subnet_of(IPv4Network("169.254.53.0/24")) for route in routes)


def test_a_container_that_docker_does_not_answer_for_delays_no_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    """As while its runtime hangs: Docker holds it, and answers for all others (moby container lock)."""
    endpoints = {letter * 64: EndpointId(f"{letter}1" * 32) for letter in "abcd"}
    hung, released = sorted(endpoints)[:2], threading.Event()
    asked: list[str] = []

    def answer(path: str) -> Any:
        if path == "/containers/json":
            return [{"Id": container} for container in endpoints]
        container = path.split("/")[2]
        asked.append(container)
        if container in hung:
            released.wait()
        here = {"NetworkID": NET1, "EndpointID": endpoints[container]}
        return {
            "Id": container,
            "Name": f"/{container[0]}web",
            "NetworkSettings": {"Networks": {"foo": here}},
        }

    def registered() -> set[str]:
        return {name for records in cluster.records() for name in records}

    for number, id_ in enumerate(endpoints.values(), start=2):
        one = replace(endpoint(id_, NET1, f"10.1.0.{number}/16"), mac=f"02:00:00:00:01:0{number}")
        cluster.overlay.create_endpoint(one, HOST1, soon())
    api = Api(tmp_path / "docker.sock", answer)
    docker = Engine(tmp_path / "docker.sock")
    Registrar(cluster.names, lambda _: HOST1, docker, lambda: None).start(Threads())
    try:
        until(lambda: {"cweb", "dweb"} <= registered())
        assert not {"aweb", "bweb"} & registered()
        until(lambda: all(asked.count(container) > 1 for container in hung[:1]))
    finally:
        released.set()
    until(lambda: {"aweb", "bweb"} <= registered())
    api.close()
