"""Names of containers in the northbound database: created with the endpoint, and deleted with it."""

import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from functional.conftest import Connect
from functional.docker_api import Api
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, until
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.repair.lost_host import belongings, forget
from ovn_docker.backends.ovn.rows import QUIET_TABLE
from ovn_docker.backends.ovn.shared.container_names import Names
from ovn_docker.core.event_source import EventSource
from ovn_docker.core.registrar import Registrar
from ovn_docker.deadline import Deadline
from ovn_docker.docker.engine import DockerEngine
from ovn_docker.errors import Conflict
from ovn_docker.events import ContainerEvent
from ovn_docker.host import ovsdb
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.openvswitch import LocalVswitch
from ovn_docker.host.ovsdb import Database, Operation
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
from ovn_docker.options import NetworkOptions
from ovn_docker.threads import Threads

NET1, NET2, PLAIN = (NetworkId(letter * 64) for letter in "123")
C1, C2 = EndpointId("c1" * 32), EndpointId("c2" * 32)
MAC = "02:00:00:00:00:01"


def soon() -> Deadline:
    return Deadline(30)


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


class WithInterruption:
    """A database that calls *meanwhile* after its first transaction, as another thread could."""

    def __init__(self, database: Database, meanwhile: Callable[[], object]) -> None:
        self._database = database
        self._meanwhile = meanwhile
        self.interrupted = False

    def transact(self, *operations: Operation, **given: Any) -> Any:
        found = self._database.transact(*operations, **given)
        if not self.interrupted:
            self.interrupted = True
            self._meanwhile()
        return found


@pytest.fixture
def cluster(northbound: OvsdbServer, connect: Connect) -> Cluster:
    """Two hosts with the network Foo."""
    cluster = Cluster(northbound, connect(northbound))
    cluster.overlay(HOST1).create_network(network(NET1), soon())
    cluster.overlay(HOST2).create_network(network(NET2), soon())
    return cluster


def test_name_resolves_with_and_without_the_network_suffix(cluster: Cluster) -> None:
    cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
    cluster.names.set_names(C1, named("web", "www"), HOST1, soon())
    (row,) = cluster.rows("DNS")
    names = ["web", "web.foo", "www", "www.foo"]
    assert row["records"] == dict.fromkeys(names, "10.1.0.2") | {"2.0.1.10.in-addr.arpa": "web.foo"}
    (switch,) = cluster.rows("Logical_Switch")
    assert switch["dns_records"] == row["_uuid"]
    (port,) = (port for port in cluster.rows("Logical_Switch_Port") if port["name"] == C1)
    assert port["external_ids"]["ovn-docker:container"] == "web"


def test_name_resolves_to_both_addresses(northbound: OvsdbServer, connect: Connect) -> None:
    cluster = Cluster(northbound, connect(northbound))
    cluster.overlay(HOST1).create_network(network(NET1, FOUR, SIX), soon())
    both = endpoint(C1, NET1, "10.1.0.2/16", "fd00:1::2/64")
    assert cluster.overlay(HOST1).create_endpoint(both, soon()).resolver
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    (records,) = cluster.records()
    assert records["web"] == "10.1.0.2 fd00:1::2"
    assert sum(key.endswith(".arpa") for key in records) == 2


def test_network_without_names_has_neither_names_nor_a_resolver(
    northbound: OvsdbServer, connect: Connect
) -> None:
    cluster = Cluster(northbound, connect(northbound))
    without = replace(network(NET1), options=NetworkOptions(name="Foo", names=False))
    cluster.overlay(HOST1).create_network(without, soon())
    with pytest.raises(Conflict, match="network Foo has names off in the cluster, asked for was none"):
        cluster.overlay(HOST2).create_network(network(NET2), soon())
    cluster.overlay(HOST2).create_network(replace(without, id=NET2), soon())
    assert not cluster.overlay(HOST2).create_endpoint(endpoint(C1, NET2), soon()).resolver
    assert cluster.names.set_names(C1, named("web", "www"), HOST2, soon()) == Unregistered()
    assert (cluster.rows("DNS"), cluster.rows("Logical_Router")) == ([], [])
    (port,) = cluster.rows("Logical_Switch_Port")
    assert port["external_ids"]["ovn-docker:container"] == "web"  # commands show it
    assert cluster.overlay(HOST2).delete_endpoint(C1, soon())
    claimed = [row for row in cluster.rows("DHCP_Options") if row["external_ids"].get("ovn-docker:endpoint")]
    assert claimed == []


def test_a_new_name_replaces_the_old_one(cluster: Cluster) -> None:
    cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
    for name in ("web", "web", "db"):
        cluster.names.set_names(C1, named(name), HOST1, soon())
    (records,) = cluster.records()
    assert "web" not in records
    assert records["db"] == "10.1.0.2"


class TestTwoContainers:
    """Containers on two hosts, with the addresses 10.1.0.2 and 10.1.0.3."""

    @pytest.fixture(autouse=True)
    def both(self, cluster: Cluster) -> None:
        cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
        other = Endpoint(C2, NET2, (ip_interface("10.1.0.3/16"),), "02:00:00:00:00:02")
        cluster.overlay(HOST2).create_endpoint(other, soon())

    def register(self, cluster: Cluster, id_: EndpointId, names: ContainerNames) -> Unregistered:
        return cluster.names.set_names(id_, names, HOST1 if id_ == C1 else HOST2, soon())

    def answers(self, cluster: Cluster, name: str) -> list[str]:
        """Return the addresses of a name in all records: OVN answers with any of several."""
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
    def test_owner_of_a_name_does_not_depend_on_the_order(
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
        cluster.overlay(HOST1).delete_endpoint(C1, soon())
        assert self.register(cluster, C2, named("db", "web")) == Unregistered()
        assert self.answers(cluster, "web") == ["10.1.0.3"]

    def test_a_name_is_free_when_its_container_has_another(self, cluster: Cluster) -> None:
        self.register(cluster, C1, named("web"))
        self.register(cluster, C1, named("www"))
        assert self.register(cluster, C2, named("web", created=5)) == Unregistered()
        assert self.answers(cluster, "web") == ["10.1.0.3"]

    def test_a_container_gets_its_name_back_from_an_alias(self, cluster: Cluster) -> None:
        self.register(cluster, C1, named("web"))
        cluster.overlay(HOST1).delete_endpoint(C1, soon())
        self.register(cluster, C2, named("db", "web", "1.0.1.10.in-addr.arpa"))
        cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
        assert self.register(cluster, C1, named("web", created=9)) == Unregistered()
        assert self.answers(cluster, "web") == ["10.1.0.2"]
        assert self.answers(cluster, "2.0.1.10.in-addr.arpa") == ["web.foo"]

    def test_claim_without_a_port_does_not_block_a_name(self, cluster: Cluster) -> None:
        """The port was deleted with lsp-del."""
        self.register(cluster, C1, named("web"))
        (port,) = (port["_uuid"] for port in cluster.rows("Logical_Switch_Port") if port["name"] == C1)
        cluster.server.transact(
            {"op": "mutate", "table": "Logical_Switch", "where": [],
             "mutations": [["ports", "delete", ["uuid", port]]]},
        )  # fmt: skip
        assert self.register(cluster, C2, named("db", "web")) == Unregistered()
        assert self.answers(cluster, "web") == ["10.1.0.3"]

    def test_names_written_during_the_deletion_are_deleted(self, cluster: Cluster) -> None:
        """The container ends while its names are registered: after the deletion has looked for names."""
        late = WithInterruption(cluster.database, lambda: self.register(cluster, C1, named("web")))
        Overlay(lambda _: late)(HOST1).delete_endpoint(C1, soon())  # type: ignore[arg-type,return-value]
        assert late.interrupted
        owners = [row["external_ids"].get("ovn-docker:endpoint") for row in cluster.rows("DHCP_Options")]
        assert (owners.count(C1), cluster.records()) == (0, [])

    def test_deleted_endpoints_leave_no_names(self, cluster: Cluster) -> None:
        self.register(cluster, C1, named("web", "db"))
        self.register(cluster, C2, named("db", "web"))
        self.register(cluster, C1, named("web", "db"))
        for id_, host in ((C1, HOST1), (C2, HOST2)):
            cluster.overlay(host).delete_endpoint(id_, soon())
        assert [
            row for row in cluster.rows("DHCP_Options") if "ovn-docker:endpoint" in row["external_ids"]
        ] == []
        assert cluster.records() == []


def test_names_with_a_meaning_outside_of_the_cluster_are_not_registered(cluster: Cluster) -> None:
    cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
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


def test_names_of_a_container_are_limited(cluster: Cluster) -> None:
    cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
    found = cluster.names.set_names(C1, named("web", *(f"n{n}" for n in range(100))), HOST1, soon())
    assert found.unfit == tuple(f"n{n}" for n in range(63, 100))
    (records,) = cluster.records()
    assert "web" in records
    assert len(records) == 2 * 64 + 1


def test_names_of_an_earlier_version_are_replaced(cluster: Cluster) -> None:
    """The earlier version had no claims, and registered any name."""
    cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
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


def test_names_are_deleted_with_the_endpoint(cluster: Cluster) -> None:
    before = cluster.server.contents()
    cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    cluster.overlay(HOST1).delete_endpoint(C1, soon())
    cluster.names.set_names(C1, named("web"), HOST1, soon())  # Docker's event arrives late
    assert cluster.server.contents() == before


def test_names_are_deleted_with_the_network(cluster: Cluster) -> None:
    cluster.overlay(HOST2).delete_network(NET2, soon())
    cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    cluster.overlay(HOST1).delete_network(NET1, soon())
    assert set(cluster.server.contents()) == {"DHCP_Options", QUIET_TABLE}  # the generation


def test_names_of_a_lost_host_are_deleted(cluster: Cluster) -> None:
    cluster.overlay(HOST2).create_endpoint(endpoint(C1, NET2), soon())
    cluster.names.set_names(C1, named("web"), HOST2, soon())
    found = belongings(cluster.database, "host2", soon())
    assert ("name", "web") in [(one.kind, one.what) for one in found]
    forget(cluster.database, "host2", found, soon())
    assert cluster.records() == []


def test_private_network_has_no_records(cluster: Cluster) -> None:
    cluster.overlay(HOST1).create_network(network(PLAIN, name=None), soon())
    assert not cluster.overlay(HOST1).create_endpoint(endpoint(C1, PLAIN), soon()).resolver
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    assert cluster.records() == []
    (port,) = (port for port in cluster.rows("Logical_Switch_Port") if port["name"] == C1)
    assert port["external_ids"]["ovn-docker:container"] == "web"


@pytest.mark.parametrize("addresses", [[], ["unknown"], [f"{MAC} 10.1.0.9", "dynamic"]])
def test_names_follow_addresses_changed_by_hand(cluster: Cluster, addresses: list[str]) -> None:
    cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1), soon())
    cluster.server.transact(
        {"op": "update", "table": "Logical_Switch_Port", "where": [["name", "==", C1]],
         "row": {"addresses": ["set", addresses]}},
    )  # fmt: skip
    cluster.names.set_names(C1, named("web"), HOST1, soon())
    assert [records["web"] for records in cluster.records()] == ["10.1.0.9"] * (len(addresses) == 2)
    (port,) = (port for port in cluster.rows("Logical_Switch_Port") if port["name"] == C1)
    assert port["external_ids"]["ovn-docker:container"] == "web"


def test_foreign_port_gets_no_name(cluster: Cluster) -> None:
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
    cluster.overlay(HOST2).create_network(network(again), soon())
    cluster.overlay(HOST2).delete_network(again, soon())
    cluster.overlay(HOST2).create_network(network(NetworkId("5" * 64)), soon())
    for table in ("Logical_Router", "Logical_Router_Port", "Logical_Switch_Port"):
        assert cluster.server.contents()[table] == whole[table]


@pytest.mark.parametrize("gone", ["Logical_Switch", "Logical_Switch_Port"])
def test_rest_of_a_resolver_does_not_block_a_new_one(cluster: Cluster, gone: str) -> None:
    """The switch or the port was deleted with ls-del or lsp-del."""
    whole = cluster.server.contents()
    (switch,) = cluster.rows("Logical_Switch")
    if gone == "Logical_Switch":
        deletion = {"op": "delete", "table": gone, "where": []}
    else:
        deletion = {"op": "update", "table": "Logical_Switch", "where": [], "row": {"ports": ["set", []]}}
    cluster.server.transact(deletion)
    cluster.overlay(HOST1).create_network(network(NetworkId("4" * 64)), Deadline(30))
    assert [row["name"] for row in cluster.rows("Logical_Switch")] == [switch["name"]]
    for table in ("Logical_Router", "Logical_Router_Port", "Logical_Switch_Port"):
        assert cluster.server.contents()[table] == whole[table]


def test_network_without_ipv4_has_no_resolver(northbound: OvsdbServer, connect: Connect) -> None:
    cluster = Cluster(northbound, connect(northbound))
    cluster.overlay(HOST1).create_network(network(NET1, SIX), soon())
    assert not cluster.overlay(HOST1).create_endpoint(endpoint(C1, NET1, "fd00:1::2/64"), soon()).resolver
    assert cluster.rows("Logical_Router") == []


class TestResolverIndex:
    """Each network of a container leads to another name server."""

    @pytest.fixture
    def vswitch(self, open_vswitch: OpenVswitch, connect: Connect) -> LocalVswitch:
        open_vswitch.set(system_id="host1", ovn_nb="tcp:127.0.0.1:6641", ovn_encap_ip="10.0.0.1")
        return LocalVswitch(connect(open_vswitch))

    def plug(self, vswitch: LocalVswitch, id_: EndpointId, *, resolver: bool = True) -> None:
        KernelLinks().create_veth(host_link(id_), container_link(id_), mac=MAC, mtu=1400, tx_checksums=True)
        wanted = endpoint(id_, NET1)
        vswitch.plug(wanted, Attachment(id_, resolver=resolver), vswitch.chassis(soon()), soon())

    def test_resolver_routes_are_counted_in_each_sandbox(self, vswitch: LocalVswitch) -> None:
        ids = [EndpointId(f"{number:x}" * 64) for number in range(1, 6)]
        for number, id_ in enumerate(ids):
            self.plug(vswitch, id_, resolver=number != 1)
        assert [vswitch.enter(id_, "0123456789ab", Deadline(0))[0] for id_ in ids[:4]] == [0, None, 1, 2]
        assert vswitch.enter(ids[4], "ba9876543210", Deadline(0))[0] == 0
        assert vswitch.enter(ids[2], "0123456789ab", Deadline(0))[0] == 1  # Docker has asked again

    def test_resolver_routes_are_reused(self, vswitch: LocalVswitch) -> None:
        for id_ in (C1, C2):
            self.plug(vswitch, id_)
        assert [vswitch.enter(id_, "0123456789ab", Deadline(0))[0] for id_ in (C1, C2)] == [0, 1]
        vswitch.unplug(C1, soon())
        third = EndpointId("3" * 64)
        self.plug(vswitch, third)
        assert vswitch.enter(third, "0123456789ab", Deadline(0))[0] == 0

    def test_invalid_index_of_a_resolver_is_replaced(
        self, vswitch: LocalVswitch, open_vswitch: OpenVswitch
    ) -> None:
        """The value was written by another program; a container starts all the same."""
        self.plug(vswitch, C1)
        wrong = {"ovn-docker:owner": "ovn-docker", "ovn-docker:resolver": "\N{SUPERSCRIPT TWO}"}
        open_vswitch.transact(ovsdb.update("Interface", ["name", "==", host_link(C1)], external_ids=wrong))
        assert vswitch.enter(C1, "0123456789ab", Deadline(0))[0] == 0


def answering_network(server: IPv4Address, indices: set[int]) -> int:
    """Return the index of the network that gets a query: the route with the longest prefix."""
    routes = {route: index for index in indices for route in resolver_routes(index)}
    return routes[max((route for route in routes if server in route), key=lambda route: route.prefixlen)]


@pytest.mark.parametrize(
    ("indices", "networks"),
    [({0}, [0, 0]), ({0, 1}, [0, 1]), ({1}, [1, 1]), ({0, 1, 2}, [0, 1]), ({2, 5}, [2, 2]), ({0, 7}, [0, 0])],
)
def test_each_name_server_address_is_routed_to_its_network(indices: set[int], networks: list[int]) -> None:
    assert [answering_network(server, indices) for server in NAMESERVERS] == networks


def test_no_two_networks_of_a_container_have_the_same_route() -> None:
    routes = [route for index in range(20) for route in resolver_routes(index)]
    assert len(set(routes)) == len(routes)
    assert all(route.subnet_of(IPv4Network("169.254.53.0/24")) for route in routes)


@pytest.mark.slow
def test_a_container_that_docker_has_locked_does_not_delay_others(cluster: Cluster, tmp_path: Path) -> None:
    """Docker locks a container whose runtime hangs, and answers about all others (moby container lock)."""
    endpoints = {letter * 64: EndpointId(f"{letter}1" * 32) for letter in "abcd"}
    hung, released = sorted(endpoints)[:2], threading.Event()
    answering_network: list[str] = []

    def answer(path: str) -> Any:
        if path == "/containers/json":
            return [{"Id": container} for container in endpoints]
        container = path.split("/")[2]
        answering_network.append(container)
        if container in hung:
            released.wait()
        vswitch = {"NetworkID": NET1, "EndpointID": endpoints[container]}
        return {
            "Id": container,
            "Name": f"/{container[0]}web",
            "NetworkSettings": {"Networks": {"foo": vswitch}},
        }

    def registered() -> set[str]:
        return {name for records in cluster.records() for name in records}

    for number, id_ in enumerate(endpoints.values(), start=2):
        one = replace(endpoint(id_, NET1, f"10.1.0.{number}/16"), mac=f"02:00:00:00:01:0{number}")
        cluster.overlay(HOST1).create_endpoint(one, soon())
    api = Api(tmp_path / "docker.sock", answer)
    docker = DockerEngine(tmp_path / "docker.sock")
    threads, registrar = Threads(), Registrar(cluster.names, lambda _: HOST1, docker)
    events = EventSource(docker.events)
    events.subscribe(ContainerEvent, registrar.container_changed)
    registrar.start(threads)
    events.start(threads)
    try:
        until(lambda: {"cweb", "dweb"} <= registered())
        assert not {"aweb", "bweb"} & registered()
        until(lambda: all(answering_network.count(container) > 1 for container in hung[:1]))
    finally:
        released.set()
    until(lambda: {"aweb", "bweb"} <= registered())
    api.close()
