"""Rows of the overlay mode: a real northbound database, with foreign rows too, before and after each call."""

import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from functional.conftest import Connect, MakeServer
from functional.hosts import definition_of
from functional.ovsdb_servers import Contents, OvsdbServer
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.northbound import NorthboundConnection
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.rows import INCARNATION, INFRASTRUCTURE, OURS, SWITCH, TYPE, kind_of
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import (
    AddressInUse,
    BadRequest,
    Conflict,
    NotFound,
    OtherSubnets,
    OvnDockerError,
    SwitchNotUnique,
    Unavailable,
)
from ovn_docker.host import ovsdb
from ovn_docker.model import (
    Attachment,
    Chassis,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    SharedNetwork,
    StoredEndpoint,
    Subnet,
    Tls,
    row_uuid,
)
from ovn_docker.options import NetworkOptions

NET = NetworkId("ad6eb94616091677ad829254572c28d676689175d908cf299d17bb2c0d39f396")
OTHER_NET = NetworkId("0f" * 32)
SWARM_NET = NetworkId("7wf2v0jkfzgjafcnzqmkgrdfx")
SUBNET = Subnet(ip_network("192.168.1.0/24"), ip_address("192.168.1.1"))
SUBNET6 = Subnet(ip_network("fd00:1::/64"), ip_address("fd00:1::1"))
C1 = EndpointId("c1" * 32)
C2 = EndpointId("c2" * 32)


def soon() -> Deadline:
    return Deadline(10)


def host(name: str = "host1", *northbound: str) -> Chassis:
    return Chassis(name, northbound, (ip_address("10.0.0.1"),), ("geneve",), "br-int", "system")


HOST1, HOST2 = host("host1"), host("host2")


def endpoint(
    id_: EndpointId = C1, *addresses: str, mac: str = "02:42:c0:a8:01:02", network: NetworkId = NET
) -> Endpoint:
    return Endpoint(id_, network, tuple(map(ip_interface, addresses or ("192.168.1.2/24",))), mac)


def note(network: NetworkId = NET, /, **more: str) -> dict[str, str]:
    """Return external_ids of a row that belongs to a network."""
    return {"ovn-docker:owner": "overlay", "ovn-docker:network": network, **more}


def own(network: NetworkId = NET, on: str = "host1", **more: str) -> dict[str, str]:
    """Return external_ids of a network that a host has made."""
    return {**note(network), "ovn-docker:host": on, "ovn-docker:encap": "10.0.0.1", **more}


def tag(switch: str, id_: EndpointId = C1, on: str = "host1", network: NetworkId = NET) -> dict[str, str]:
    """Return external_ids of a row that belongs to an endpoint."""
    return {
        **note(network), "ovn-docker:host": on, "ovn-docker:encap": "10.0.0.1",
        "ovn-docker:endpoint": id_, "ovn-docker:switch": switch,
    }  # fmt: skip


def attached(switch: str, **more: str) -> dict[str, str]:
    """Return external_ids of a host's note on a switch that it has not made."""
    return own(**{"ovn-docker:note": "true", "ovn-docker:switch": switch}, **more)


class Database:
    """The northbound database, without the rows that were there before."""

    def __init__(self, server: OvsdbServer) -> None:
        self.server = server
        self.foreign = {row["_uuid"] for rows in server.contents().values() for row in rows}

    def ours(self) -> Contents:
        """Columns that have a value; kinds and times of creation are checked and left out."""
        found: Contents = {}
        for table, rows in self.server.contents().items():
            for row in rows:
                if row["_uuid"] not in self.foreign:
                    row["external_ids"].pop("ovn-docker:uptime", None)
                    kind = kind_of(table, row)
                    assert kind
                    assert row["external_ids"].pop(TYPE) == kind.name
                    created = row["external_ids"].pop("ovn-docker:created", str(int(time.time())))
                    assert abs(time.time() - int(created)) < 60
                    columns = {column: value for column, value in row.items() if value not in ("", [], {})}
                    found.setdefault(table, []).append(columns)
        return found

    def ids(self, table: str = "Logical_Switch") -> list[dict[str, str]]:
        """External_ids of our rows in a table."""
        return [row["external_ids"] for row in self.ours().get(table, [])]

    def ports(self) -> dict[str, str]:
        """Addresses of our endpoints."""
        return {row["name"]: row["addresses"] for row in self.ours().get("Logical_Switch_Port", [])}

    def claims(self) -> set[str]:
        """Return all claimed addresses and MACs, on any switch."""
        return {row["cidr"] for row in self.ours().get("DHCP_Options", []) if "cidr" in row}


@pytest.fixture
def database(northbound: OvsdbServer) -> Iterator[Database]:
    """A northbound database with foreign rows, which must be unchanged in the end."""
    northbound.insert("NB_Global")
    northbound.insert("Logical_Switch", name="admins", external_ids=["map", [["subnet", "192.168.1.0/24"]]])
    northbound.transact(
        {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": "port",
         "row": {"name": "foreign", "addresses": "02:42:c0:a8:01:02 192.168.1.2",
                 "external_ids": ["map", [["ovn-docker:network", NET]]]}},
        {"op": "insert", "table": "Logical_Switch",
         "row": {"name": NET, "ports": ["named-uuid", "port"], "external_ids": ["map", [["neutron", "1"]]]}},
    )  # fmt: skip
    northbound.insert("DHCP_Options", cidr="192.168.1.2")
    northbound.insert(
        "DHCP_Options", cidr="192.168.1.0/24", external_ids=["map", [["ovn-docker:network", NET]]]
    )
    northbound.insert("Logical_Router", name=NET, external_ids=["map", [["ovn-docker:network", NET]]])
    northbound.insert("DNS", external_ids=["map", [["ovn-docker:network", NET]]])
    northbound.insert("Address_Set", name="set", addresses="192.168.1.2")
    northbound.insert("Port_Group", name="group")
    northbound.insert("Load_Balancer", name="balancer")
    before = northbound.contents()
    yield Database(northbound)
    after = northbound.contents()
    for table, rows in before.items():
        assert [row for row in after[table] if row["_uuid"] in {row["_uuid"] for row in rows}] == rows


@pytest.fixture
def overlay(database: Database, connect: Connect) -> Overlay:
    connection = connect(database.server)
    return Overlay(lambda _: connection)


@pytest.fixture
def net(overlay: Overlay) -> str:
    """UUID of the switch of a network with both IP versions."""
    overlay(HOST1).create_network(Network(NET, (SUBNET, SUBNET6)), soon())
    return row_uuid("network", NET)


@pytest.fixture
def web(database: Database) -> str:
    """UUID of a switch that the user made."""
    uuid = database.server.insert("Logical_Switch", name="web")
    database.foreign.add(uuid)
    return uuid


def ovn_nbctl(database: Database, *arguments: str) -> str:
    command = ["ovn-nbctl", f"--db={database.server.remote}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class TestCreateNetwork:
    @pytest.mark.parametrize(
        ("network", "ids"),
        [
            (Network(NET), {}),
            (Network(NET, (Subnet(SUBNET.pool),)), {"subnet": "192.168.1.0/24"}),
            (Network(NET, (SUBNET,)), {"subnet": "192.168.1.0/24", "gateway_ip": "192.168.1.1"}),
            (Network(NET, (SUBNET6,)), {"subnet6": "fd00:1::/64", "gateway_ip6": "fd00:1::1"}),
            (
                Network(NET, (SUBNET, SUBNET6)),
                {
                    "subnet": "192.168.1.0/24",
                    "gateway_ip": "192.168.1.1",
                    "subnet6": "fd00:1::/64",
                    "gateway_ip6": "fd00:1::1",
                },
            ),
            (Network(NET, internal=True), {"ovn-docker:internal": "true"}),
            (Network(NET, options=NetworkOptions(mtu=1400)), {"ovn-docker:mtu": "1400"}),
        ],
        ids=["bare", "subnet", "gateway", "IPv6", "both", "internal", "mtu"],
    )
    def test_makes_a_switch_named_by_the_network_id(
        self, database: Database, overlay: Overlay, network: Network, ids: dict[str, str]
    ) -> None:
        overlay(HOST1).create_network(network, soon())
        switch = {"_uuid": row_uuid("network", NET), "name": NET, "external_ids": own(**ids)}
        assert database.ours() == {"Logical_Switch": [switch]}

    @pytest.mark.parametrize(
        ("subnets", "more"),
        [
            ((), {}),
            ((replace(SUBNET, gateway=None),), {}),
            ((SUBNET,), {"mcast_ip4_src": "192.168.1.1"}),
        ],
        ids=["bare", "subnet", "gateway"],
    )
    @pytest.mark.parametrize("name", [None, "foo"], ids=["network", "shared"])
    def test_switch_snoops_multicast_if_asked_for(
        self,
        database: Database,
        overlay: Overlay,
        name: str | None,
        subnets: tuple[Subnet, ...],
        more: dict[str, str],
    ) -> None:
        options = NetworkOptions(name=name, snoop=True)
        overlay(HOST1).create_network(Network(NET, subnets, options=options), soon())
        (switch,) = database.ours()["Logical_Switch"]
        queries = {
            "mcast_eth_src": "0e:42:00:00:00:01",
            "mcast_ip6_src": "fe80::c42:ff:fe00:1",
            "mcast_query_interval": "10",
        }
        assert switch["other_config"] == {"mcast_snoop": "true", **queries, **more}
        assert switch["external_ids"]["ovn-docker:multicast"] == "snoop"

    def test_host_joins_a_snooping_network_only_with_the_option(
        self, database: Database, overlay: Overlay
    ) -> None:
        snooping = Network(NET, (SUBNET,), options=NetworkOptions(name="foo", snoop=True))
        overlay(HOST1).create_network(snooping, soon())
        overlay(HOST2).create_network(replace(snooping, id=NetworkId("b" * 64)), soon())
        flooding = Network(NetworkId("c" * 64), (SUBNET,), options=NetworkOptions(name="foo"))
        with pytest.raises(
            Conflict, match="network foo has multicast snoop in the cluster, asked for was none"
        ):
            overlay(HOST2).create_network(flooding, soon())

    def test_creating_a_network_is_idempotent(self, database: Database, overlay: Overlay) -> None:
        network = Network(NET, (SUBNET,))
        overlay(HOST1).create_network(network, soon())
        before = database.ours()
        overlay(HOST1).create_network(network, soon())
        overlay(HOST2).create_network(network, soon())
        assert database.ours() == before

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (
                Network(NET, (Subnet(ip_network("10.1.0.0/16")),)),
                f"asked for was '10.1.0.0/16'; delete it with: ovn-nbctl ls-del {row_uuid('network', NET)}",
            ),
            (Network(NET, (SUBNET,), options=NetworkOptions(mtu=1400)), "ovn-docker:mtu=None, asked for"),
            (Network(NET, (SUBNET, SUBNET6)), "subnet6=None, asked for was 'fd00:1::/64'"),
        ],
        ids=["subnet", "mtu", "IPv6"],
    )
    def test_a_network_that_exists_with_other_settings_is_refused(
        self, database: Database, overlay: Overlay, other: Network, message: str
    ) -> None:
        overlay(HOST1).create_network(Network(NET, (SUBNET,)), soon())
        before = database.ours()
        with pytest.raises(Conflict, match=re.escape(message)):
            overlay(HOST1).create_network(other, soon())
        assert database.ours() == before

    def test_twenty_hosts_at_once_make_one_network(self, database: Database, overlay: Overlay) -> None:
        with ThreadPoolExecutor(20) as threads:
            network = Network(NET, (SUBNET,))
            list(
                threads.map(
                    lambda number: overlay(host(f"host{number}")).create_network(network, soon()), range(20)
                )
            )
        assert len(database.ids()) == 1

    def test_a_shared_network_that_is_just_removed_is_made_again(
        self, database: Database, connect: Connect
    ) -> None:
        """Another host removes the network after this host has read it, and before this host joins it."""
        connection = connect(database.server)
        overlay = Overlay(lambda _: connection)
        named = [Network(id_, (SUBNET,), options=NetworkOptions(name="foo")) for id_ in (NET, OTHER_NET)]
        overlay(HOST1).create_network(named[0], soon())
        whole = database.ours()

        class Slow:
            remotes = connection.remotes

            def transact(self, *operations: Any, deadline: Deadline) -> list[Any]:
                if operations[0]["op"] == "wait":
                    overlay(HOST1).delete_network(NET, soon())
                return connection.transact(*operations, deadline=deadline)

        slow = Slow()
        Overlay(lambda _: slow)(HOST2).create_network(named[1], soon())  # type: ignore[arg-type,return-value]
        (before,) = [ids for ids in whole["Logical_Switch"][0].values() if isinstance(ids, dict)]
        (ids,) = database.ids()
        assert ids.pop(INCARNATION) != before.pop(INCARNATION)
        assert ids == before

    def test_an_unfinished_removal_does_not_prevent_a_new_network(
        self, database: Database, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The driver of the last host ended before it deleted the switch of the removed network."""
        connection = connect(database.server)
        overlay = Overlay(lambda _: connection)
        overlay(HOST1).create_network(Network(NET, (SUBNET,), options=NetworkOptions(name="foo")), soon())
        SharedNetworks(lambda _: connection).define(definition_of("foo", SUBNET), HOST1, soon())
        with monkeypatch.context() as patch:
            patch.setattr("ovn_docker.backends.ovn.shared.membership.leave", lambda *_: None)
            overlay(HOST1).delete_network(NET, soon())
        assert len(database.ids()) == 1
        other = Subnet(ip_network("192.168.2.0/24"), ip_address("192.168.2.1"))
        overlay(HOST2).create_network(
            Network(OTHER_NET, (other,), options=NetworkOptions(name="foo")), soon()
        )
        (ids,) = database.ids()
        assert ids["subnet"] == "192.168.2.0/24"
        (stored,) = SharedNetworks(lambda _: connection).networks(HOST2, soon())
        assert replace(stored, incarnation="") == SharedNetwork("foo", None, removed=False)
        overlay(HOST2).delete_network(OTHER_NET, soon())
        assert database.ids() == []

    def test_the_guides_commands_show_the_network(self, database: Database, overlay: Overlay) -> None:
        overlay(HOST1).create_network(Network(NET, (SUBNET,)), soon())
        ours = row_uuid("network", NET)
        assert f"{ours} ({NET})" in ovn_nbctl(database, "ls-list")
        overlay(HOST1).create_endpoint(endpoint(), soon())
        assert C1 in ovn_nbctl(database, "lsp-list", ours)


class TestAttachToTheUsersSwitch:
    """``docker network create -o ovn.switch=NAME``."""

    def attach(self, overlay: Overlay, switch: str, *subnets: Subnet) -> None:
        overlay(HOST1).create_network(Network(NET, subnets, options=NetworkOptions(switch=switch)), soon())

    def test_attaching_by_name_or_uuid_writes_a_note(
        self, web: str, database: Database, overlay: Overlay
    ) -> None:
        for name in ("web", web, "web"):
            self.attach(overlay, name, SUBNET)
            (row,) = database.ours()["DHCP_Options"]
            ids = attached(web, subnet="192.168.1.0/24", gateway_ip="192.168.1.1")
            assert row == {
                "_uuid": row_uuid("attached network", NET), "cidr": "192.168.1.0/24", "external_ids": ids
            }  # fmt: skip
        assert set(database.ours()) == {"DHCP_Options"}

    @pytest.mark.parametrize("name", ["nosuch", "0d8e5a3e-2f4d-4f0a-9c5b-1c5b9e1b1b1b", "a b'c"])
    def test_a_missing_switch_is_refused(self, database: Database, overlay: Overlay, name: str) -> None:
        with pytest.raises(SwitchNotUnique) as caught:
            self.attach(overlay, name)
        assert (caught.value.switch, caught.value.count) == (name, 0)
        assert database.ours() == {}

    def test_an_ambiguous_name_of_a_switch_is_refused(
        self, web: str, northbound: OvsdbServer, database: Database, overlay: Overlay
    ) -> None:
        database.foreign.add(northbound.insert("Logical_Switch", name="web"))
        with pytest.raises(BadRequest, match="2 logical switches are named 'web'"):
            self.attach(overlay, "web")
        self.attach(overlay, web)
        assert database.ids("DHCP_Options") == [attached(web)]

    @pytest.mark.parametrize("column", ["external_ids", "other_config"])
    def test_a_subnet_other_than_the_switchs_is_refused(
        self, northbound: OvsdbServer, overlay: Overlay, column: str
    ) -> None:
        northbound.insert("Logical_Switch", name="web", **{column: ["map", [["subnet", "10.1.0.0/16"]]]})
        with pytest.raises(OtherSubnets, match=r"logical switch web has the subnet 10\.1\.0\.0/16") as caught:
            self.attach(overlay, "web", SUBNET)
        assert caught.value.fitting == ((("10.1.0.0/16", ""),),)
        self.attach(overlay, "web", Subnet(ip_network("10.1.0.0/16")))

    def test_attaching_again_to_another_switch_is_refused(
        self, web: str, northbound: OvsdbServer, database: Database, overlay: Overlay
    ) -> None:
        database.foreign.add(northbound.insert("Logical_Switch", name="db"))
        self.attach(overlay, "web")
        undo = f"ovn-nbctl dhcp-options-del {row_uuid('attached network', NET)}"
        with pytest.raises(Conflict, match=undo):
            self.attach(overlay, "db")
        assert database.ids("DHCP_Options") == [attached(web)]

    def test_endpoints_are_ports_of_that_switch_and_leave_it_as_it_was(
        self, web: str, northbound: OvsdbServer, overlay: Overlay
    ) -> None:
        northbound.transact(
            {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": "p", "row": {"name": "printer"}},
            {"op": "mutate", "table": "Logical_Switch", "where": [["name", "==", "web"]],
             "mutations": [["ports", "insert", ["named-uuid", "p"]]]},
        )  # fmt: skip
        before = northbound.contents()
        self.attach(overlay, "web", SUBNET)
        overlay(HOST1).create_endpoint(endpoint(C1), soon())
        overlay(HOST1).create_endpoint(endpoint(C2, "192.168.1.3/24", mac="02:00:00:00:00:03"), soon())
        (switch,) = (row for row in northbound.rows("Logical_Switch") if row["_uuid"] == web)
        assert {row_uuid("endpoint", C1), row_uuid("endpoint", C2)} < set(switch["ports"])
        overlay(HOST1).delete_endpoint(C1, soon())
        overlay(HOST1).delete_network(NET, soon())
        assert northbound.contents() == before

    def test_two_networks_on_one_switch_share_its_addresses(
        self, web: str, database: Database, overlay: Overlay
    ) -> None:
        self.attach(overlay, "web")
        overlay(HOST2).create_network(Network(OTHER_NET, options=NetworkOptions(switch="web")), soon())
        overlay(HOST1).create_endpoint(endpoint(C1), soon())
        with pytest.raises(AddressInUse):
            overlay(HOST2).create_endpoint(endpoint(C2, network=OTHER_NET), soon())
        overlay(HOST2).delete_network(OTHER_NET, soon())
        assert database.claims() == {"192.168.1.2", "02:42:c0:a8:01:02"}

    def test_a_switch_that_is_gone_is_reported(
        self, web: str, northbound: OvsdbServer, overlay: Overlay
    ) -> None:
        self.attach(overlay, "web")
        northbound.transact({"op": "delete", "table": "Logical_Switch", "where": [["name", "==", "web"]]})
        with pytest.raises(NotFound, match="network ad6eb9461609 is not in the northbound database"):
            overlay(HOST1).create_endpoint(endpoint(), soon())


class TestCreateEndpoint:
    def test_makes_a_port_with_port_security_and_claims_its_addresses(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        before = database.ours()
        wanted = endpoint(C1, "192.168.1.2/24", "fd00:1::2/64")
        attachment = overlay(HOST1).create_endpoint(wanted, soon())
        assert replace(attachment, record="") == Attachment(iface_id=C1, mtu=None)

        (switch,) = before["Logical_Switch"]
        port = row_uuid("endpoint", C1)
        claims = [
            {"_uuid": row_uuid("claim", net, what), "cidr": what, "external_ids": tag(net)}
            for what in ("192.168.1.2", "fd00:1::2", "02:42:c0:a8:01:02")
        ]
        addresses = "02:42:c0:a8:01:02 192.168.1.2 fd00:1::2"
        assert database.ours() == {
            "Logical_Switch": [switch | {"ports": port}],
            "Logical_Switch_Port": [
                {"_uuid": port, "name": C1, "addresses": addresses, "port_security": addresses,
                 "external_ids": tag(net)},
            ],
            "DHCP_Options": sorted(claims, key=lambda row: str(row["_uuid"])),
        }  # fmt: skip

    def test_without_an_address_only_the_mac_is_claimed(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        overlay(HOST1).create_endpoint(Endpoint(C1, NET, (), "02:00:00:00:00:01"), soon())
        assert database.ports() == {C1: "02:00:00:00:00:01"}
        assert database.claims() == {"02:00:00:00:00:01"}

    @pytest.mark.parametrize("mtu", ["", "many", "\N{SUPERSCRIPT TWO}", "9" * 5000])
    def test_an_invalid_mtu_is_ignored(
        self, database: Database, overlay: Overlay, net: str, mtu: str
    ) -> None:
        """Any host can write the row."""
        ids = own(subnet="192.168.1.0/24", **{"ovn-docker:mtu": mtu})
        database.server.transact(ovsdb.update("Logical_Switch", ovsdb.is_row(net), external_ids=ids))
        assert overlay(HOST1).create_endpoint(endpoint(), soon()).mtu is None

    def test_the_attachment_has_the_mtu_of_the_network(self, overlay: Overlay) -> None:
        overlay(HOST1).create_network(Network(NET, options=NetworkOptions(mtu=1400)), soon())
        assert overlay(HOST1).create_endpoint(endpoint(), soon()).mtu == 1400

    def test_creating_an_endpoint_is_idempotent(self, database: Database, overlay: Overlay, net: str) -> None:
        first = overlay(HOST1).create_endpoint(endpoint(), soon())
        before = database.ours()
        assert overlay(HOST1).create_endpoint(endpoint(), soon()) == first
        assert database.ours() == before

    def test_the_same_endpoint_with_another_address_is_refused(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        overlay(HOST1).create_endpoint(endpoint(), soon())
        before = database.ours()
        with pytest.raises(Conflict, match=r"'02:42:c0:a8:01:02 192\.168\.1\.2', asked for was '.* 192\.168"):
            overlay(HOST1).create_endpoint(endpoint(C1, "192.168.1.9/24"), soon())
        assert database.ours() == before

    @pytest.mark.parametrize(
        ("wanted", "taken"),
        [
            (endpoint(C2, mac="02:00:00:00:00:01"), "192.168.1.2"),
            (endpoint(C2, "192.168.1.3/24", "fd00:1::2/64", mac="02:00:00:00:00:01"), "fd00:1::2"),
            (endpoint(C2, "192.168.1.3/24"), "02:42:c0:a8:01:02"),
            (endpoint(C2), "192.168.1.2"),
        ],
        ids=["IPv4", "IPv6", "MAC", "all"],
    )
    def test_a_claimed_address_is_refused_with_its_holder(
        self, database: Database, overlay: Overlay, net: str, wanted: Endpoint, taken: str
    ) -> None:
        overlay(HOST1).create_endpoint(endpoint(C1, "192.168.1.2/24", "fd00:1::2/64"), soon())
        before = database.ours()
        with pytest.raises(AddressInUse) as refused:
            overlay(HOST2).create_endpoint(wanted, soon())
        assert str(refused.value) == f"address {taken} is in use by endpoint c1c1c1c1c1c1 on host host1"
        holder = refused.value.holder
        assert (holder.id, holder.network, holder.host) == (C1, NET, "host1")
        assert 0 <= holder.age < 60
        assert database.ours() == before

    def test_another_network_may_have_the_same_addresses(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        overlay(HOST1).create_network(Network(OTHER_NET, (SUBNET,)), soon())
        overlay(HOST1).create_endpoint(endpoint(C1), soon())
        overlay(HOST1).create_endpoint(endpoint(C2, network=OTHER_NET), soon())
        assert set(database.ports()) == {C1, C2}

    def test_an_address_goes_to_one_of_twenty_endpoints_that_request_it_at_once(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        def wins(number: int) -> bool:
            mac = f"02:00:00:00:00:{number:02x}"
            try:
                wanted = endpoint(EndpointId(f"{number:02x}" * 32), mac=mac)
                overlay(host(f"host{number}")).create_endpoint(wanted, soon())
            except AddressInUse:
                return False
            return True

        with ThreadPoolExecutor(20) as threads:
            won = list(threads.map(wins, range(20)))
        assert won.count(True) == 1
        winner = won.index(True)
        assert list(database.ports()) == [f"{winner:02x}" * 32]
        assert database.claims() == {"192.168.1.2", f"02:00:00:00:00:{winner:02x}"}

    @pytest.mark.parametrize("kind", ["no such network", "deleted with ls-del"])
    def test_a_missing_network_is_refused_with_the_database(
        self, database: Database, overlay: Overlay, kind: str
    ) -> None:
        if kind == "deleted with ls-del":
            overlay(HOST1).create_network(Network(NET), soon())
            ovn_nbctl(database, "ls-del", row_uuid("network", NET))
        with pytest.raises(NotFound) as missing:
            overlay(HOST1).create_endpoint(endpoint(), soon())
        assert f"network ad6eb9461609 is not in the northbound database at {database.server.remote}" in str(
            missing.value
        )
        assert database.ours() == {}

    def test_a_foreign_port_with_our_name_stays(
        self, database: Database, overlay: Overlay, net: str, web: str
    ) -> None:
        ovn_nbctl(database, "lsp-add", "web", C1)
        before = database.server.contents()
        with pytest.raises(OvnDockerError, match=C1):
            overlay(HOST1).create_endpoint(endpoint(), soon())
        assert database.server.contents() == before

    def test_claims_of_a_port_deleted_by_hand_are_taken_over(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        overlay(HOST1).create_endpoint(endpoint(C1, "192.168.1.2/24", "fd00:1::2/64"), soon())
        ovn_nbctl(database, "lsp-del", C1)
        overlay(HOST2).create_endpoint(endpoint(C2, "192.168.1.2/24", "fd00:1::2/64"), soon())
        assert database.ports() == {C2: "02:42:c0:a8:01:02 192.168.1.2 fd00:1::2"}
        assert {ids["ovn-docker:endpoint"] for ids in database.ids("DHCP_Options")} == {C2}

    @pytest.mark.parametrize("owned", [True, False])
    def test_a_claim_changed_by_hand_is_taken_over_or_named(
        self, database: Database, overlay: Overlay, net: str, *, owned: bool
    ) -> None:
        overlay(HOST1).create_endpoint(endpoint(C1), soon())
        ovn_nbctl(database, "lsp-del", C1)
        left = {"ovn-docker:owner": "overlay"} if owned else {}
        change = {"op": "update", "table": "DHCP_Options", "row": {"external_ids": ovsdb.encode(left)}}
        database.server.transact(
            {
                **change,
                "where": [["cidr", "==", "192.168.1.2"], ["external_ids", "includes", ovsdb.encode(note())]],
            }
        )
        if owned:
            overlay(HOST2).create_endpoint(endpoint(C2), Deadline(2))
            assert database.ports() == {C2: "02:42:c0:a8:01:02 192.168.1.2"}
        else:
            with pytest.raises(Conflict, match=r"192\.168\.1\.2 .*ovn-nbctl dhcp-options-del"):
                overlay(HOST2).create_endpoint(endpoint(C2), Deadline(2))


class TestDeleteEndpoint:
    def test_deleting_an_endpoint_restores_the_database(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        before = database.ours()
        overlay(HOST1).create_endpoint(endpoint(C1, "192.168.1.2/24", "fd00:1::2/64"), soon())
        overlay(HOST1).delete_endpoint(C1, soon())
        assert database.ours() == before
        overlay(HOST2).create_endpoint(endpoint(C2, "192.168.1.2/24", "fd00:1::2/64"), soon())

    def test_deleting_an_endpoint_is_idempotent(self, database: Database, overlay: Overlay, net: str) -> None:
        before = database.ours()
        overlay(HOST1).delete_endpoint(C2, soon())
        overlay(HOST1).create_endpoint(endpoint(), soon())
        overlay(HOST1).delete_endpoint(C1, soon())
        overlay(HOST1).delete_endpoint(C1, soon())
        assert database.ours() == before

    def test_deleting_an_endpoint_keeps_others(self, database: Database, overlay: Overlay, net: str) -> None:
        overlay(HOST1).create_endpoint(endpoint(C2, "192.168.1.3/24", mac="02:00:00:00:00:03"), soon())
        before = database.ours()
        overlay(HOST1).create_endpoint(endpoint(C1), soon())
        overlay(HOST1).delete_endpoint(C1, soon())
        assert database.ours() == before

    def test_deleting_an_endpoint_keeps_a_claim_of_another(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        overlay(HOST1).create_endpoint(endpoint(C1), soon())
        port = database.server.transact(
            {"op": "select", "table": "Logical_Switch_Port", "where": [["name", "==", C1]]}
        )[0]["rows"][0]
        ovn_nbctl(database, "lsp-del", C1)
        overlay(HOST1).create_endpoint(endpoint(C2), soon())
        before = database.ours()
        row = {key: value for key, value in port.items() if not key.startswith("_")}
        database.server.transact(
            {"op": "insert", "table": "Logical_Switch_Port", "uuid": port["_uuid"][1], "row": row},
            {"op": "mutate", "table": "Logical_Switch", "where": [["_uuid", "==", ["uuid", net]]],
             "mutations": [["ports", "insert", port["_uuid"]]]},
        )  # fmt: skip
        overlay(HOST1).delete_endpoint(C1, soon())
        assert database.ours() == before


class TestDeleteNetwork:
    def test_deleting_a_network_restores_the_database(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        overlay(HOST1).delete_network(NET, soon())
        overlay(HOST1).delete_network(NET, soon())
        assert database.ours() == {}

    def test_deleting_a_network_deletes_its_endpoints(self, database: Database, overlay: Overlay) -> None:
        overlay(HOST1).create_network(Network(OTHER_NET), soon())
        overlay(HOST1).create_endpoint(endpoint(C2, network=OTHER_NET), soon())
        before = database.ours()
        overlay(HOST1).create_network(Network(NET, (SUBNET, SUBNET6)), soon())
        overlay(HOST1).create_endpoint(endpoint(C1, "192.168.1.2/24", "fd00:1::2/64"), soon())
        overlay(HOST1).delete_network(NET, soon())
        assert [*database.ports()] == [C2]
        assert database.ours() == before

    def test_deleting_a_network_without_its_switch_deletes_claims(
        self, database: Database, overlay: Overlay, net: str
    ) -> None:
        overlay(HOST1).create_endpoint(endpoint(), soon())
        ovn_nbctl(database, "ls-del", net)
        overlay(HOST1).delete_network(NET, soon())
        assert database.ours() == {}

    def test_a_network_of_a_swarm_manager_is_deleted_by_a_manager_alone(
        self, database: Database, overlay: Overlay
    ) -> None:
        network = Network(SWARM_NET, (SUBNET,))
        overlay(HOST1).create_network(network, soon(), kept=True)
        overlay(HOST2).create_network(network, soon())
        before = database.ours()
        overlay(HOST2).delete_network(SWARM_NET, soon())
        assert database.ours() == before
        overlay(HOST1).delete_network(SWARM_NET, soon(), kept=True)
        assert database.ours() == {}

    def test_a_node_may_give_settings_of_a_network_that_the_swarm_manager_did_not(
        self, database: Database, overlay: Overlay
    ) -> None:
        """AllocateNetwork has neither --internal nor IPv6 (swarmkit, allocateDriverState)."""
        overlay(HOST1).create_network(Network(SWARM_NET, (SUBNET,)), soon(), kept=True)
        before = database.ours()
        overlay(HOST2).create_network(Network(SWARM_NET, (SUBNET, SUBNET6), internal=True), soon())
        assert database.ours() == before
        other = Network(SWARM_NET, (Subnet(ip_network("192.168.2.0/24")),))
        with pytest.raises(Conflict, match=r"asked for was '192\.168\.2\.0/24'"):
            overlay(HOST2).create_network(other, soon())

    def test_a_shared_network_is_marked_as_removed_before_its_deletion(
        self, database: Database, connect: Connect
    ) -> None:
        """Docker has deleted the network and does not ask again; without the mark it would be made again."""
        connection = connect(database.server)
        overlay = Overlay(lambda _: connection)
        for id_, chassis in ((NET, HOST1), (OTHER_NET, HOST2)):
            overlay(chassis).create_network(
                Network(id_, (SUBNET,), options=NetworkOptions(name="foo")), soon()
            )

        class Dying:
            remotes = connection.remotes

            def transact(self, *operations: Any, deadline: Deadline) -> list[Any]:
                if NET not in [ids.get("ovn-docker:network") for ids in database.ids("DHCP_Options")]:
                    raise Unavailable("it has died")
                return connection.transact(*operations, deadline=deadline)

        dying = Dying()
        with pytest.raises(Unavailable):
            Overlay(lambda _: dying)(HOST1).delete_network(NET, soon())  # type: ignore[arg-type,return-value]
        overlay(HOST1).delete_network(NET, soon())
        shared = SharedNetworks(lambda _: connection)
        assert [network.removed for network in shared.networks(HOST2, soon())] == [True]
        overlay(HOST2).delete_network(OTHER_NET, soon())
        assert database.ids() == []


class TestInfrastructurePorts:
    """Ports of a shared network's switch that are not endpoints."""

    def add_port(self, northbound: OvsdbServer, kind: str, ids: dict[str, str]) -> str:
        """Add a port of an OVN type to the switch of ``foo``."""
        switch, port = switch_row("foo"), row_uuid("a port")
        northbound.transact(
            ovsdb.insert("Logical_Switch_Port", port, name="p", type=kind, external_ids=ids),
            ovsdb.mutate(
                "Logical_Switch",
                ovsdb.is_row(switch),
                mutations=[["ports", "insert", [ovsdb.Reference(port)]]],
            ),
        )
        return port

    @pytest.mark.parametrize(
        ("kind", "marked", "gone"),
        [("localnet", True, True), ("router", True, True), ("localnet", False, False), ("", True, False)],
    )
    def test_an_unused_network_is_deleted_with_infrastructure_ports_only(
        self, northbound: OvsdbServer, overlay: Overlay, kind: str, gone: bool, marked: bool
    ) -> None:
        overlay(HOST1).create_network(Network(NET, (SUBNET,), options=NetworkOptions(name="foo")), soon())
        mark = INFRASTRUCTURE if marked else {}
        port = self.add_port(northbound, kind, {**OURS, SWITCH: switch_row("foo"), **mark})
        overlay(HOST1).delete_network(NET, soon())
        for table, row in (("Logical_Switch", switch_row("foo")), ("Logical_Switch_Port", port)):
            assert (row in [one["_uuid"] for one in northbound.rows(table, "_uuid")]) is not gone


class TestEndpoints:
    def test_endpoints_returns_those_of_this_host(self, overlay: Overlay, net: str) -> None:
        overlay(HOST1).create_endpoint(endpoint(C1), soon())
        overlay(HOST2).create_endpoint(endpoint(C2, "192.168.1.3/24", mac="02:00:00:00:00:03"), soon())
        (found,) = overlay(HOST1).endpoints(soon())
        assert found == StoredEndpoint(C1, NET, "host1", found.age, "10.0.0.1")
        assert 0 <= found.age < 60
        assert overlay(host("host3")).endpoints(soon()) == []

    def test_endpoints_leaves_out_those_of_a_clone_with_the_same_system_id(
        self, overlay: Overlay, net: str, database: Database, connect: Connect
    ) -> None:
        """The clone would take them for leftovers and delete them."""
        overlay(HOST1).create_endpoint(endpoint(C1), soon())
        clone = replace(HOST1, encap_ips=(ip_address("10.0.0.9"),))
        assert overlay(clone).endpoints(soon()) == []
        connection = connect(database.server)
        leftovers = partial(Leftovers, connection)
        assert leftovers(clone).of_host(soon()) == ([], [])
        (network,), _ = leftovers(HOST1).of_host(soon())
        assert network.id == NET
        with pytest.raises(AddressInUse) as refused:
            overlay(clone).create_endpoint(endpoint(C2), soon())
        assert not clone.made(refused.value.holder.host, refused.value.holder.encap)
        assert HOST1.made(refused.value.holder.host, refused.value.holder.encap)


class TestNorthbound:
    def test_the_connection_is_kept_until_the_setting_changes(self, make_server: MakeServer) -> None:
        northbound = NorthboundConnection()
        overlay = Overlay(northbound)
        one, other = make_server("OVN_Northbound"), make_server("OVN_Northbound")
        at_one, at_other = host("host1", one.remote), host("host1", other.remote)
        try:
            overlay(at_one).create_network(Network(NET), soon())
            overlay(at_other).create_network(Network(OTHER_NET), soon())
            assert northbound(at_other) is northbound(at_other)
            names = [[row["name"] for row in server.rows("Logical_Switch")] for server in (one, other)]
            assert names == [[NET], [OTHER_NET]]
        finally:
            northbound(at_other).close()

    def test_the_connection_works_again_after_an_invalid_setting(self, northbound: OvsdbServer) -> None:
        connect = NorthboundConnection()
        before = host("host1", northbound.remote)
        try:
            Overlay(connect)(before).create_network(Network(NET), soon())
            with pytest.raises(BadRequest, match="invalid database address"):
                connect(host("host1", "10.0.0.1"))
            Overlay(connect)(before).create_network(Network(OTHER_NET), soon())
        finally:
            connect(before).close()

    def test_an_ssl_database_without_tls_files_is_refused(self) -> None:
        with pytest.raises(BadRequest, match="ovs-vsctl set-ssl PRIVATE-KEY CERTIFICATE CA-CERT"):
            NorthboundConnection()(host("host1", "ssl:127.0.0.1:6641"))

    def test_tls_files_of_the_command_line_have_precedence(self) -> None:
        northbound = NorthboundConnection(Tls("/mine.key", "/mine.pem", "/mine.ca"))
        with pytest.raises(BadRequest, match=r"/mine\.key"):
            northbound(host("host1", "ssl:127.0.0.1:6641"))

    def test_an_invalid_remote_is_named(self) -> None:
        with pytest.raises(BadRequest, match=r"invalid database address '10\.0\.0\.1'"):
            NorthboundConnection()(host("host1", "10.0.0.1"))


def test_every_call_without_the_database_ends_in_time_with_a_cure(
    northbound: OvsdbServer, connect: Connect
) -> None:
    connection = connect(northbound)
    overlay = Overlay(lambda _: connection)
    northbound.kill()
    calls: list[Any] = [
        lambda deadline: overlay(HOST1).create_network(Network(NET), deadline),
        lambda deadline: overlay(HOST1).delete_network(NET, deadline),
        lambda deadline: overlay(HOST1).create_endpoint(endpoint(), deadline),
        lambda deadline: overlay(HOST1).delete_endpoint(C1, deadline),
        lambda deadline: overlay(HOST1).endpoints(deadline),
    ]
    start = time.monotonic()
    for call in calls:
        with pytest.raises(Unavailable, match=r"cannot reach OVN_Northbound at unix:"):
            call(Deadline(0.1))
    assert time.monotonic() - start < 9
