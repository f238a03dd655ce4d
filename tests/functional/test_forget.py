"""What a lost host has left in the northbound database is forgotten, and nothing else."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from functional.conftest import Connect, MakeServer
from functional.ovsdb_servers import Contents, OvsdbServer
from ovn_docker.backends.addresses import Addresses
from ovn_docker.backends.forget import answers, belongings, finish_removals, forget, registered
from ovn_docker.backends.northbound import QUIET_TABLE
from ovn_docker.backends.overlay import Overlay
from ovn_docker.backends.shared import SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Unavailable
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import Chassis, Endpoint, EndpointId, Network, NetworkId, Picked, Pool, PoolId, Subnet
from ovn_docker.options import NetworkOptions

SUBNET = ip_network("192.168.1.0/24")
POOLS = {
    "host1": PoolId("11111111-0000-0000-0000-000000000000"),
    "host2": PoolId("22222222-0000-0000-0000-000000000000"),
}


def soon() -> Deadline:
    return Deadline(10)


def chassis(name: str) -> Chassis:
    return Chassis(name, (), (ip_address("10.0.0.1"),), ("geneve",), "br-int", "system")


HOST1, HOST2 = chassis("host1"), chassis("host2")


class Hosts:
    """Two hosts' drivers, and a northbound database that others use too."""

    def __init__(self, server: OvsdbServer, database: Database) -> None:
        self.server = server
        self.database = database
        self.overlay = Overlay(lambda _: database)
        self.addresses = Addresses(lambda _: database)

    def have(self, network: Network, host: Chassis) -> None:
        """The host gets a pool of ours and makes the network on it."""
        self.addresses.add_pool(Pool(POOLS[host.system_id], SUBNET), host, soon())
        self.overlay.create_network(network, host, soon())

    def take(self, network: NetworkId, host: Chassis, address: str, pool: PoolId | None = None) -> None:
        """A container of the host gets a lease and a port."""
        taken = self.addresses.pool(pool or POOLS[host.system_id], host, soon())
        self.addresses.claim(taken, ip_address(address), Picked(), host, soon())
        endpoint = EndpointId(f"{host.system_id} {address}".encode().hex().ljust(64, "0"))
        mac = f"02:42:c0:a8:01:{ip_address(address).packed[-1]:02x}"
        wanted = Endpoint(endpoint, network, (ip_interface(f"{address}/24"),), mac)
        self.overlay.create_endpoint(wanted, host, soon())

    def forget(self, host: str) -> list[str]:
        """What was removed: kinds."""
        found = belongings(self.database, host, soon())
        forget(self.database, host, found, soon())
        finish_removals(lambda _: self.database, HOST1, soon())
        return [one.kind for one in found]

    def contents(self) -> Contents:
        """All but what changes by itself, in any table."""
        contents = self.server.contents()
        for row in (*contents.get("DHCP_Options", []), *contents.get(QUIET_TABLE, [])):
            row["external_ids"] = {k: v for k, v in row["external_ids"].items() if "generation" not in k}
        return contents


def network(host: str, **options: str) -> Network:
    """A network as Docker on a host calls it."""
    subnet = Subnet(SUBNET, ip_address("192.168.1.1"), ours=True)
    return Network(
        NetworkId(host.encode().hex().ljust(64, "0")), (subnet,), options=NetworkOptions(**options)
    )


@pytest.fixture
def hosts(northbound: OvsdbServer, connect: Connect) -> Hosts:
    """With rows of other people in the database, some of which look like ours."""
    northbound.insert("NB_Global")
    lost = ["map", [["ovn-docker:host", "host2"], ["ovn-docker:owner", "somebody"]]]
    northbound.transact(
        {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": "port",
         "row": {"name": "foreign", "external_ids": lost}},
        {"op": "insert", "table": "Logical_Switch",
         "row": {"name": "foreign", "ports": ["named-uuid", "port"]}},
    )  # fmt: skip
    northbound.insert("DHCP_Options", cidr="192.168.1.5", external_ids=lost)
    return Hosts(northbound, connect(northbound))


def test_a_host_of_a_named_network_leaves_what_others_have(hosts: Hosts) -> None:
    foo1, foo2 = network("host1", name="foo"), network("host2", name="foo")
    hosts.have(foo1, HOST1)
    hosts.take(foo1.id, HOST1, "192.168.1.2")
    before = hosts.contents()
    hosts.have(foo2, HOST2)
    hosts.take(foo2.id, HOST2, "192.168.1.5")
    hosts.take(foo2.id, HOST2, "192.168.1.6")

    kinds = ["port"] * 2 + ["claim"] * 4 + ["lease"] * 2 + ["pool", "note"]
    assert hosts.forget("host2") == kinds
    assert hosts.contents() == before
    hosts.take(foo1.id, HOST1, "192.168.1.5")


def test_forgetting_twice_is_the_same_as_once(hosts: Hosts) -> None:
    foo = network("host2", name="foo")
    hosts.have(foo, HOST2)
    hosts.take(foo.id, HOST2, "192.168.1.5")
    found = belongings(hosts.database, "host2", soon())
    forget(hosts.database, "host2", found, soon())
    after = hosts.contents()
    forget(hosts.database, "host2", found, soon())
    assert hosts.forget("host2") == []
    assert hosts.forget("no such host") == []
    assert hosts.contents() == after


def test_what_somebody_else_got_meanwhile_stays(hosts: Hosts) -> None:
    foo1, foo2 = network("host1", name="foo"), network("host2", name="foo")
    hosts.have(foo1, HOST1)
    hosts.have(foo2, HOST2)
    hosts.take(foo2.id, HOST2, "192.168.1.5")
    found = belongings(hosts.database, "host2", soon())
    hosts.forget("host2")
    hosts.take(foo1.id, HOST1, "192.168.1.5")
    before = hosts.contents()
    forget(hosts.database, "host2", found, soon())
    assert hosts.contents() == before


def test_a_network_removed_by_force_goes_with_the_last_host_that_had_it(hosts: Hosts) -> None:
    before = hosts.contents()
    foo1, foo2 = network("host1", name="foo"), network("host2", name="foo")
    hosts.have(foo1, HOST1)
    hosts.have(foo2, HOST2)
    hosts.take(foo2.id, HOST2, "192.168.1.5")
    SharedNetworks(lambda _: hosts.database).remove("foo", HOST1, soon(), force=True)
    hosts.overlay.drop_network(foo1.id, HOST1, soon())
    hosts.addresses.remove_pool(POOLS["host1"], HOST1, soon())
    hosts.forget("host2")
    assert SharedNetworks(lambda _: hosts.database).networks(HOST1, soon()) == []
    assert hosts.contents()["Logical_Switch"] == before["Logical_Switch"]


def test_a_pool_that_all_hosts_draw_from_stays(hosts: Hosts) -> None:
    """With a key-value store the network and its pool are the same on all hosts, whoever made them."""
    hosts.overlay = Overlay(lambda _: hosts.database, lambda: True)
    foo = network("host2")
    hosts.have(foo, HOST2)
    before = hosts.contents()
    hosts.take(foo.id, HOST2, "192.168.1.5", POOLS["host2"])
    assert hosts.forget("host2") == ["port", "claim", "claim", "lease"]
    assert hosts.contents() == before
    hosts.take(foo.id, HOST1, "192.168.1.5", POOLS["host2"])


def test_a_network_of_the_host_alone_goes(hosts: Hosts) -> None:
    before = hosts.contents()
    foo = network("host2")
    hosts.have(foo, HOST2)
    hosts.take(foo.id, HOST2, "192.168.1.5")
    assert hosts.forget("host2") == ["port", "claim", "claim", "lease", "pool", "network"]
    assert hosts.contents() == before


def test_a_network_that_another_host_has_attached_to_stays(hosts: Hosts) -> None:
    foo = network("host2")
    hosts.have(foo, HOST2)
    attached = Network(NetworkId("0a" * 32), options=NetworkOptions(switch=foo.id))
    hosts.overlay.create_network(attached, HOST1, soon())
    hosts.forget("host2")
    assert [row["name"] for row in hosts.server.rows("Logical_Switch")].count(foo.id) == 1
    hosts.overlay.delete_network(attached.id, HOST1, soon())
    assert hosts.forget("host2") == ["network"]
    assert foo.id not in [row["name"] for row in hosts.server.rows("Logical_Switch")]


def test_a_pool_without_a_network_goes(hosts: Hosts) -> None:
    before = hosts.contents()
    hosts.addresses.add_pool(Pool(POOLS["host2"], SUBNET), HOST2, soon())
    assert hosts.forget("host2") == ["pool"]
    assert hosts.contents() == before


def test_who_does_not_answer_may_be_lost_but_without_northd_nobody_answers(
    northbound: OvsdbServer, make_server: MakeServer, connect: Connect
) -> None:
    northbound.insert("NB_Global")
    server = make_server("OVN_Southbound")
    above, below = connect(northbound), connect(server)
    assert not registered(below, "host2", soon())
    with pytest.raises(Unavailable, match=r"ovn-northd does not answer, .* start it .* or say --force"):
        answers(above, below, "host2", Deadline(0.1))
