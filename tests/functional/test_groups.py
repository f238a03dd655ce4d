"""Groups of containers in the northbound database."""

from collections.abc import Callable
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from functional.conftest import Connect
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.repair.remake import MissingRows
from ovn_docker.backends.ovn.rows import GROUP, PORT_GROUPS, SWITCH, group_name, group_row
from ovn_docker.deadline import Deadline
from ovn_docker.errors import NotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import ConstraintViolation, Database
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    Gap,
    Kind,
    Network,
    NetworkId,
    StoredEndpoint,
    Subnet,
    row_uuid,
)
from ovn_docker.options import NetworkOptions

NET, OTHER = NetworkId("ad" * 32), NetworkId("0f" * 32)
SUBNETS = (Subnet(ip_network("10.1.0.0/24"), ip_address("10.1.0.1")),)
C1, C2 = (EndpointId(f"c{number}" * 32) for number in (1, 2))
HOST1, HOST2 = (
    Chassis(f"host{n}", (), (ip_address(f"10.0.0.{n}"),), ("geneve",), "br-int", "system") for n in (1, 2)
)
COLUMNS = ("_uuid", "name", "ports", "external_ids", "acls")
FORGED = "f0000000-0000-4000-8000-000000000000"


def soon() -> Deadline:
    return Deadline(10)


def endpoint(id_: EndpointId, number: int, *groups: str, network: NetworkId = NET) -> Endpoint:
    address = ip_interface(f"10.1.0.{number}/24")
    return Endpoint(id_, network, (address,), f"02:42:0a:01:00:{number:02x}", groups=groups)


class Site:
    """A network of host1 alone, or a shared one of both hosts."""

    def __init__(self, server: OvsdbServer, database: Database, name: str | None) -> None:
        self.server, self.database = server, database
        self.overlay = Overlay(lambda _: database)
        wanted = Network(NET, SUBNETS, options=NetworkOptions(name=name))
        self.record = self.overlay(HOST1).create_network(wanted, soon())
        (row,) = server.rows("Logical_Switch", "_uuid")
        self.switch = row["_uuid"]
        self.records: dict[EndpointId, str] = {}

    def start(self, wanted: Endpoint) -> None:
        self.records[wanted.id] = self.overlay(HOST1).create_endpoint(wanted, soon()).record

    @property
    def groups(self) -> dict[str, set[str]]:
        """The names of the ports of each group, by the name of the group."""
        ports = {row["_uuid"]: row["name"] for row in self.server.rows("Logical_Switch_Port")}
        return {
            row["external_ids"][GROUP]: {ports[port] for port in row.members("ports")}
            for row in self.server.rows("Port_Group")
        }

    def missing(self) -> list[Gap]:
        return MissingRows(lambda _: self.database).missing({NET: self.record}, self.stored(), HOST1, soon())

    def stored(self) -> list[StoredEndpoint]:
        return [StoredEndpoint(id_, NET, "host1", 1000, record=text) for id_, text in self.records.items()]

    def repair(self) -> None:
        rows = MissingRows(lambda _: self.database)
        rows.make_network(NET, self.record, HOST1, soon(), used=True)
        for one in self.stored():
            rows.make_endpoint(one, self.record, HOST1, soon())

    def forge(self, row: str, **columns: Any) -> None:
        self.server.transact(ovsdb.insert("Port_Group", row, **columns))


@pytest.fixture(params=[None, "foo"], ids=["local", "shared"])
def site(request: pytest.FixtureRequest, northbound: OvsdbServer, connect: Connect) -> Site:
    return Site(northbound, connect(northbound), request.param)


def test_containers_join_groups_and_the_last_one_deletes_them(site: Site) -> None:
    site.start(endpoint(C1, 2, "monitored", "web-front"))
    site.start(endpoint(C2, 3, "monitored"))
    assert site.groups == {"monitored": {C1, C2}, "web-front": {C1}}
    names = {row["name"] for row in site.server.rows("Port_Group")}
    assert names == {group_name(site.switch, group) for group in ("monitored", "web-front")}
    assert all(name.replace("_", "").replace(".", "").isalnum() and name[0].isalpha() for name in names)
    assert site.overlay(HOST1).delete_endpoint(C1, soon())
    assert site.groups == {"monitored": {C2}}
    assert site.overlay(HOST1).delete_endpoint(C2, soon())
    assert site.groups == {}


def test_creating_the_same_endpoint_again_changes_nothing(site: Site) -> None:
    for _ in range(2):
        site.start(endpoint(C1, 2, "web"))
    assert site.groups == {"web": {C1}}


def test_networks_have_groups_of_their_own(site: Site) -> None:
    site.overlay(HOST1).create_network(Network(OTHER, SUBNETS), soon())
    site.start(endpoint(C1, 2, "web"))
    site.start(endpoint(C2, 2, "web", network=OTHER))
    assert len(site.server.rows("Port_Group")) == 2
    site.overlay(HOST1).delete_network(OTHER, soon())
    assert site.groups == {"web": {C1}}


def test_groups_go_with_their_network(site: Site) -> None:
    site.start(endpoint(C1, 2, "web"))
    site.overlay(HOST1).delete_network(NET, soon())
    assert site.server.rows("Port_Group") == []


def test_endpoint_without_a_network_leaves_no_group(site: Site) -> None:
    with pytest.raises(NotFound):
        site.start(endpoint(C1, 2, "web", network=OTHER))
    assert site.server.rows("Port_Group") == []


def test_a_group_with_access_rules_of_the_user_stays(site: Site) -> None:
    site.start(endpoint(C1, 2, "web"))
    rule = ovsdb.insert("ACL", FORGED, priority=1, direction="to-lport", match="ip", action="drop")
    added = [["acls", "insert", [ovsdb.Reference(FORGED)]]]
    site.server.transact(rule, ovsdb.mutate("Port_Group", mutations=added))
    site.overlay(HOST1).delete_endpoint(C1, soon())
    assert site.groups == {"web": set()}
    assert Leftovers(site.database, HOST1).orphans(soon()) == []


LOSSES: dict[str, Callable[[Site], ovsdb.Operation]] = {
    "group": lambda site: ovsdb.delete("Port_Group"),
    "membership": lambda site: ovsdb.update("Port_Group", ports=[]),
    "name": lambda site: ovsdb.update("Port_Group", name="forged"),
    "external_ids": lambda site: ovsdb.update("Port_Group", external_ids={"ovn-docker:owner": "overlay"}),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_or_changed_group_is_made_again(site: Site, loss: str) -> None:
    site.start(endpoint(C1, 2, "web"))
    assert [gap for gap in site.missing() if gap.kind is Kind.GROUP] == []
    before = site.server.rows("Port_Group", *COLUMNS)
    site.server.transact(LOSSES[loss](site))
    assert [(gap.what, gap.endpoint) for gap in site.missing() if gap.kind is Kind.GROUP] == [("web", C1)]
    site.repair()
    assert site.server.rows("Port_Group", *COLUMNS) == before
    assert [gap for gap in site.missing() if gap.kind is Kind.GROUP] == []


def test_a_restored_group_gets_its_uuid_back(site: Site) -> None:
    site.start(endpoint(C1, 2, "web"))
    (row,) = site.server.rows("Port_Group", *COLUMNS)
    copy = {
        "name": row["name"],
        "external_ids": row["external_ids"],
        "ports": [ovsdb.Reference(row["ports"])],
    }
    site.server.transact(ovsdb.delete("Port_Group"), ovsdb.insert("Port_Group", FORGED, **copy))
    assert MissingRows(lambda _: site.database).lead_back(HOST1, soon()) == 1
    assert site.server.rows("Port_Group", *COLUMNS) == [row]


def test_a_lost_port_is_made_again_in_its_groups(site: Site) -> None:
    site.start(endpoint(C1, 2, "web"))
    gone = [["ports", "delete", [ovsdb.Reference(row_uuid("endpoint", C1))]]]
    site.server.transact(ovsdb.mutate("Logical_Switch", mutations=gone))
    assert site.groups == {"web": set()}  # OVSDB itself has taken it out
    site.repair()
    assert site.groups == {"web": {C1}}


def test_a_forged_row_with_the_groups_uuid_gets_the_right_contents(site: Site) -> None:
    site.forge(group_row(site.switch, "web"), name="admin")
    site.start(endpoint(C1, 2, "web"))
    assert site.groups == {"web": {C1}}
    (row,) = site.server.rows("Port_Group")
    assert row["name"] == group_name(site.switch, "web")


def test_a_forged_row_with_the_groups_name_gives_way(site: Site) -> None:
    forged = PORT_GROUPS.ids({SWITCH: site.switch, GROUP: "other"})
    site.forge(FORGED, name=group_name(site.switch, "web"), external_ids=forged)
    site.start(endpoint(C1, 2, "web"))
    assert site.groups == {"web": {C1}}


def test_a_row_of_somebody_else_with_the_groups_name_stays(site: Site) -> None:
    site.forge(FORGED, name=group_name(site.switch, "web"))
    with pytest.raises(ConstraintViolation):
        site.start(endpoint(C1, 2, "web"))
    assert [row["_uuid"] for row in site.server.rows("Port_Group", "_uuid")] == [FORGED]
    assert site.overlay(HOST1).endpoints(soon()) == []


@pytest.mark.parametrize("groups", ["", "all", "a b", "x" * 40, "web;drop", ",".join("abcdefghijklmnopqrst")])
def test_invalid_groups_on_a_port_do_not_prevent_its_deletion(site: Site, groups: str) -> None:
    site.start(endpoint(C1, 2, "web"))
    (port,) = (row for row in site.server.rows("Logical_Switch_Port") if row["name"] == C1)
    changed = {**port["external_ids"], "ovn-docker:groups": groups}
    site.server.transact(
        ovsdb.update("Logical_Switch_Port", ovsdb.is_row(port["_uuid"]), external_ids=changed)
    )
    site.overlay(HOST1).delete_endpoint(C1, soon())
    assert site.groups == {"web": set()}
    assert [one.kind for one in Leftovers(site.database, HOST2).clear_orphans(soon())] == [Kind.GROUP]
    assert site.groups == {}


def test_groups_of_a_switch_that_is_gone_are_swept_and_others_are_not(site: Site) -> None:
    site.start(endpoint(C1, 2, "web"))
    gone = row_uuid("network", "gone")
    ids = PORT_GROUPS.ids({SWITCH: gone, GROUP: "web"})
    port = ovsdb.Reference(row_uuid("endpoint", C1))
    site.forge(group_row(gone, "web"), name="web_gone", external_ids=ids, ports=[port])
    site.forge(FORGED, name="users")
    assert [one.what for one in Leftovers(site.database, HOST2).clear_orphans(soon())] == ["web"]
    assert {row["name"] for row in site.server.rows("Port_Group")} == {
        "users",
        group_name(site.switch, "web"),
    }
