"""The default of a network, `-o ovn.policy=deny`, in the northbound database."""

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from functional.conftest import Connect
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.backends.ovn import acls
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.repair.remake import MissingRows
from ovn_docker.backends.ovn.rows import ACLS, SWITCH, kind_of
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Reference
from ovn_docker.model import Chassis, Gap, Kind, Network, NetworkId, Subnet, row_uuid
from ovn_docker.options import NetworkOptions

NET, NET2 = NetworkId("ad" * 32), NetworkId("0f" * 32)
SUBNETS = (Subnet(ip_network("10.1.0.0/24"), ip_address("10.1.0.1")),)
HOST1, HOST2 = (
    Chassis(f"host{n}", (), (ip_address(f"10.0.0.{n}"),), ("geneve",), "br-int", "system") for n in (1, 2)
)
RULES = [*acls.BASE, *acls.DENY]
COLUMNS = ("_uuid", "direction", "priority", "match", "action", "external_ids")


def soon() -> Deadline:
    return Deadline(10)


class Site:
    """A network of host1 alone, or a shared one, that denies by default."""

    def __init__(self, server: OvsdbServer, database: Database, name: str | None) -> None:
        self.server, self.database, self.name = server, database, name
        self.overlay = Overlay(lambda _: database)
        self.rows = MissingRows(lambda _: database)
        self.switch = row_uuid("shared network", name) if name else row_uuid("network", NET)

    def make(self, network: NetworkId = NET, on: Chassis = HOST1, **options: Any) -> str:
        given = NetworkOptions(name=self.name, **{"deny": True, **options})
        return self.overlay(on).create_network(Network(network, SUBNETS, options=given), soon())

    @property
    def acls(self) -> list[ovsdb.Row]:
        """The access rules that the switch refers to, in the order of their UUIDs."""
        (row,) = (one for one in self.server.rows("Logical_Switch") if one["_uuid"] == self.switch)
        there = {one["_uuid"]: one for one in self.server.rows("ACL", *COLUMNS)}
        return [there[uuid] for uuid in sorted(row.members("acls"))]

    def missing(self, record: str) -> list[Gap]:
        return self.rows.missing({NET: record}, [], HOST1, soon())

    def repair(self, record: str) -> None:
        self.rows.make_network(NET, record, HOST1, soon(), used=True)


@pytest.fixture(params=[None, "foo"], ids=["local", "shared"])
def site(request: pytest.FixtureRequest, northbound: OvsdbServer, connect: Connect) -> Site:
    return Site(northbound, connect(northbound), request.param)


def test_a_network_that_denies_has_its_rules_as_soon_as_its_switch(site: Site) -> None:
    site.make()
    assert [one["_uuid"] for one in site.acls] == sorted(rule.row(site.switch) for rule in RULES)
    for row in site.acls:
        assert kind_of("ACL", row) is ACLS
        assert ACLS.uuid(row) == row["_uuid"]
    assert {row["action"] for row in site.acls if row["priority"] == 0} == {"drop"}


def test_an_open_network_has_no_rules(site: Site) -> None:
    site.make(deny=False)
    assert site.server.rows("ACL") == []


def test_making_the_network_again_leaves_its_rules_alone(site: Site) -> None:
    site.make()
    before = site.server.rows("ACL", "_version")
    site.make()
    assert site.server.rows("ACL", "_version") == before


def test_rules_go_with_the_network(site: Site) -> None:
    site.make()
    site.overlay(HOST1).delete_network(NET, soon())
    assert site.server.rows("ACL") == []


def test_all_hosts_have_to_give_a_shared_network_the_same_default(
    northbound: OvsdbServer, connect: Connect
) -> None:
    site = Site(northbound, connect(northbound), "foo")
    site.make()
    with pytest.raises(Conflict, match="network foo has policy deny in the cluster, asked for was none"):
        site.make(NET2, HOST2, deny=False)
    site.make(NET2, HOST2)


def change(**columns: Any) -> Callable[[Site], list[ovsdb.Operation]]:
    return lambda _: [ovsdb.update("ACL", ["action", "==", "drop"], **columns)]


LOSSES: dict[str, Callable[[Site], list[ovsdb.Operation]]] = {
    "switch": lambda site: [ovsdb.delete("Logical_Switch", ovsdb.is_row(site.switch))],
    "all rules": lambda _: [ovsdb.update("Logical_Switch", acls=[])],
    "one rule": lambda site: [
        ovsdb.mutate("Logical_Switch", mutations=[["acls", "delete", [Reference(RULES[0].row(site.switch))]]])
    ],
    "action": change(action="allow"),
    "match": change(match="ip4.src == 192.0.2.1"),
    "priority": change(priority=7),
    "direction": lambda _: [ovsdb.update("ACL", ["direction", "==", "to-lport"], direction="from-lport")],
    "reference": lambda site: [
        ovsdb.insert("Port_Group", row_uuid("forged"), name="forged", acls=of(site)),
        ovsdb.update("Logical_Switch", acls=[]),
    ],
}


def of(site: Site) -> list[Reference]:
    return [Reference(rule.row(site.switch)) for rule in RULES]


@pytest.mark.parametrize("loss", LOSSES)
def test_lost_or_changed_rules_are_made_again(site: Site, loss: str) -> None:
    record = site.make()
    assert site.missing(record) == []
    before = site.acls
    site.server.transact(*LOSSES[loss](site))
    assert Kind.POLICY in {gap.kind for gap in site.missing(record)}
    site.repair(record)
    assert site.acls == before
    assert site.missing(record) == []


def test_other_rules_of_the_switch_stay_when_lost_ones_are_made_again(site: Site) -> None:
    record = site.make()
    users = row_uuid("a rule of the user")
    rule = ovsdb.insert("ACL", users, priority=1, direction="to-lport", match="ip", action="allow")
    site.server.transact(rule, ovsdb.update("Logical_Switch", acls=[Reference(users)]))
    site.repair(record)
    assert {row["_uuid"] for row in site.acls} == {users, *of(site)}


def test_a_forged_row_with_a_rules_uuid_does_not_prevent_the_network(site: Site) -> None:
    for rule in RULES:
        row = rule.row(site.switch)
        forged = {**rule.columns, "action": "allow", "external_ids": ACLS.ids({SWITCH: site.switch})}
        site.server.transact(
            ovsdb.insert("ACL", row, **forged),
            ovsdb.insert("Port_Group", row_uuid("forged", row), name=row, acls=[Reference(row)]),
        )
    site.make()
    assert {row["_uuid"] for row in site.acls} == set(of(site))
    assert sorted(row["action"] for row in site.acls) == ["allow-related"] * 3 + ["drop"] * 2
