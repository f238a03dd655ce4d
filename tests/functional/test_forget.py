"""Forgetting a lost host deletes its rows from the northbound database, and no others."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from functional.conftest import Connect, MakeServer
from functional.ovsdb_servers import Contents, OvsdbServer
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.repair.lost_host import answers, belongings, finish_removals, forget, registered
from ovn_docker.backends.ovn.rows import QUIET_TABLE
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    Lease,
    Network,
    NetworkId,
    Picked,
    Pool,
    PoolId,
    Subnet,
)
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
    """The drivers of two hosts, on a northbound database with foreign rows."""

    def __init__(self, server: OvsdbServer, database: Database) -> None:
        self.server = server
        self.database = database
        self.overlay = Overlay(lambda _: database)
        self.addresses = Addresses(lambda _: database)

    def make(self, network: Network, host: Chassis) -> None:
        """Have the host request a pool and make the network on it."""
        self.addresses(host).add_pool(Pool(POOLS[host.system_id], SUBNET), soon())
        self.overlay(host).create_network(network, soon())

    def add_container(
        self, network: NetworkId, host: Chassis, address: str, pool: PoolId | None = None
    ) -> None:
        """Give a container of the host a lease and a port."""
        taken = self.addresses(host).pool(pool or POOLS[host.system_id], soon())
        self.addresses(host).lease(Lease(taken, ip_address(address), Picked()), soon())
        endpoint = EndpointId(f"{host.system_id} {address}".encode().hex().ljust(64, "0"))
        mac = f"02:42:c0:a8:01:{ip_address(address).packed[-1]:02x}"
        wanted = Endpoint(endpoint, network, (ip_interface(f"{address}/24"),), mac)
        self.overlay(host).create_endpoint(wanted, soon())

    def forget(self, host: str) -> list[str]:
        """Forget a host; return the kinds of its rows."""
        found = belongings(self.database, host, soon())
        forget(self.database, host, found, soon())
        finish_removals(lambda _: self.database, HOST1, soon())
        return [one.kind for one in found]

    def contents(self) -> Contents:
        """Return all rows, without the generation's token."""
        contents = self.server.contents()
        for row in (*contents.get("DHCP_Options", []), *contents.get(QUIET_TABLE, [])):
            row["external_ids"] = {k: v for k, v in row["external_ids"].items() if "generation" not in k}
        return contents


def network(host: str, **options: str) -> Network:
    """Return a network with the ID that a host's Docker gives it."""
    subnet = Subnet(SUBNET, ip_address("192.168.1.1"), ours=True)
    return Network(
        NetworkId(host.encode().hex().ljust(64, "0")), (subnet,), options=NetworkOptions(**options)
    )


@pytest.fixture
def hosts(northbound: OvsdbServer, connect: Connect) -> Hosts:
    """Two hosts, and foreign rows that resemble ours."""
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


def test_forgetting_a_host_keeps_the_rows_of_other_hosts(hosts: Hosts) -> None:
    foo1, foo2 = network("host1", name="foo"), network("host2", name="foo")
    hosts.make(foo1, HOST1)
    hosts.add_container(foo1.id, HOST1, "192.168.1.2")
    before = hosts.contents()
    hosts.make(foo2, HOST2)
    hosts.add_container(foo2.id, HOST2, "192.168.1.5")
    hosts.add_container(foo2.id, HOST2, "192.168.1.6")

    kinds = ["port"] * 2 + ["claim"] * 4 + ["lease"] * 2 + ["pool", "note"]
    assert hosts.forget("host2") == kinds
    assert hosts.contents() == before
    hosts.add_container(foo1.id, HOST1, "192.168.1.5")


def test_forgetting_is_idempotent(hosts: Hosts) -> None:
    foo = network("host2", name="foo")
    hosts.make(foo, HOST2)
    hosts.add_container(foo.id, HOST2, "192.168.1.5")
    found = belongings(hosts.database, "host2", soon())
    forget(hosts.database, "host2", found, soon())
    after = hosts.contents()
    forget(hosts.database, "host2", found, soon())
    assert hosts.forget("host2") == []
    assert hosts.forget("no such host") == []
    assert hosts.contents() == after


def test_an_address_that_another_host_got_meanwhile_stays(hosts: Hosts) -> None:
    foo1, foo2 = network("host1", name="foo"), network("host2", name="foo")
    hosts.make(foo1, HOST1)
    hosts.make(foo2, HOST2)
    hosts.add_container(foo2.id, HOST2, "192.168.1.5")
    found = belongings(hosts.database, "host2", soon())
    hosts.forget("host2")
    hosts.add_container(foo1.id, HOST1, "192.168.1.5")
    before = hosts.contents()
    forget(hosts.database, "host2", found, soon())
    assert hosts.contents() == before


def test_a_network_removed_by_force_is_deleted_with_the_last_host_that_had_it(hosts: Hosts) -> None:
    before = hosts.contents()
    foo1, foo2 = network("host1", name="foo"), network("host2", name="foo")
    hosts.make(foo1, HOST1)
    hosts.make(foo2, HOST2)
    hosts.add_container(foo2.id, HOST2, "192.168.1.5")
    SharedNetworks(lambda _: hosts.database).remove("foo", HOST1, soon(), force=True)
    hosts.overlay(HOST1).drop_network(foo1.id, soon())
    hosts.addresses(HOST1).remove_pool(POOLS["host1"], soon())
    hosts.forget("host2")
    assert SharedNetworks(lambda _: hosts.database).networks(HOST1, soon()) == []
    assert hosts.contents()["Logical_Switch"] == before["Logical_Switch"]


def test_a_pool_that_all_hosts_use_stays(hosts: Hosts) -> None:
    """With a key-value store Docker shares the network and its pool among all hosts."""
    hosts.overlay = Overlay(lambda _: hosts.database, lambda: True)
    foo = network("host2")
    hosts.make(foo, HOST2)
    before = hosts.contents()
    hosts.add_container(foo.id, HOST2, "192.168.1.5", POOLS["host2"])
    assert hosts.forget("host2") == ["port", "claim", "claim", "lease"]
    assert hosts.contents() == before
    hosts.add_container(foo.id, HOST1, "192.168.1.5", POOLS["host2"])


def test_a_network_of_the_host_alone_is_deleted(hosts: Hosts) -> None:
    before = hosts.contents()
    foo = network("host2")
    hosts.make(foo, HOST2)
    hosts.add_container(foo.id, HOST2, "192.168.1.5")
    assert hosts.forget("host2") == ["port", "claim", "claim", "lease", "pool", "network"]
    assert hosts.contents() == before


def test_a_network_that_another_host_has_attached_to_stays(hosts: Hosts) -> None:
    foo = network("host2")
    hosts.make(foo, HOST2)
    attached = Network(NetworkId("0a" * 32), options=NetworkOptions(switch=foo.id))
    hosts.overlay(HOST1).create_network(attached, soon())
    hosts.forget("host2")
    assert [row["name"] for row in hosts.server.rows("Logical_Switch")].count(foo.id) == 1
    hosts.overlay(HOST1).delete_network(attached.id, soon())
    assert hosts.forget("host2") == ["network"]
    assert foo.id not in [row["name"] for row in hosts.server.rows("Logical_Switch")]


def test_a_pool_without_a_network_is_deleted(hosts: Hosts) -> None:
    before = hosts.contents()
    hosts.addresses(HOST2).add_pool(Pool(POOLS["host2"], SUBNET), soon())
    assert hosts.forget("host2") == ["pool"]
    assert hosts.contents() == before


def test_a_silent_host_is_lost_only_if_northd_replies(
    northbound: OvsdbServer, make_server: MakeServer, connect: Connect
) -> None:
    northbound.insert("NB_Global")
    server = make_server("OVN_Southbound")
    above, below = connect(northbound), connect(server)
    assert not registered(below, "host2", soon())
    assert answers(above, below, "host2", Deadline(0.1)) is None
