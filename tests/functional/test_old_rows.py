"""Rows that earlier versions wrote: this version reads, shows, repairs and deletes each of them."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from functional.conftest import Connect, MakeServer
from functional.every_row import (
    ATTACHED,
    BOUND,
    BOUND2,
    FREE,
    GLOBAL,
    HOST1,
    HOST2,
    LEFT2,
    OPEN,
    ORPHAN,
    PRIVATE,
    RECORDINGS,
    REMOVED2,
    SWARM,
    SWITCHLESS,
    WEB,
    WIDER,
    Recording,
    container,
    insertions,
    load,
    network,
    record,
)
from functional.hosts import Host
from functional.ovsdb_servers import Contents, OvsdbServer, without_times
from ovn_docker.allowed import parse
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.repair.lost_host import belongings, finish_removals, forget
from ovn_docker.backends.ovn.repair.remake import MissingRows
from ovn_docker.backends.ovn.rows import (
    ACLS,
    DEPARTURES,
    KINDS,
    POLICIES,
    PORT_GROUPS,
    QUIET_TABLE,
    REPORTS,
    TYPE,
    RowKind,
    kind_of,
    report_row,
)
from ovn_docker.backends.ovn.shared.generation import GENERATION_ROWS
from ovn_docker.backends.ovn.shared.resolver import FORGETFUL
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Reference
from ovn_docker.hostnames import ContainerNames
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Places, Sources
from ovn_docker.inspect.snapshot import Scope
from ovn_docker.model import Chassis, Difference, EndpointId, Gap, Kind, NetworkId

VERSIONS = ["0.1.0"]
NEWER = {ACLS, POLICIES, PORT_GROUPS}
"""Kinds that the versions with recordings did not have."""

NETWORKS = {
    HOST1: [PRIVATE, WIDER, OPEN, ATTACHED, WEB["host1"], SWITCHLESS],
    HOST2: [WEB["host2"], LEFT2, REMOVED2],
}
"""Networks with a row that names their host: all except those of swarm and of Docker's global scope."""

ENDPOINTS = {
    HOST1: [container(number, PRIVATE).id for number in (0x11, 0x21, 0x22, 0x31, 0x41, 0x51, 0x91)],
    HOST2: [container(number, PRIVATE).id for number in (0x92, 0xA2)],
}


def soon() -> Deadline:
    return Deadline(20)


class OldRows:
    """The recorded rows in a real database, and the drivers of both hosts on it."""

    def __init__(self, server: OvsdbServer, database: Database, version: str) -> None:
        self.server, self.database = server, database
        self.version = version
        self.recording: Recording = load(server, version)
        self.overlay, self.everywhere = Overlay(lambda _: database), Overlay(lambda _: database, lambda: True)
        self.shared, self.addresses = SharedNetworks(lambda _: database), Addresses(lambda _: database)
        self.leftovers, self.remaker = partial(Leftovers, database), MissingRows(lambda _: database)
        self.remaker_everywhere = MissingRows(lambda _: database, lambda: True)
        self.set_options()

    def contents(self) -> Contents:
        """Return all rows, without their times and kinds."""
        contents = without_times(self.server.contents())
        contents.pop("NB_Global", None)
        for row in (row for rows in contents.values() for row in rows):
            for key in ("ovn-docker:type", "ovn-docker:infrastructure", "ovn-docker:generation"):
                row["external_ids"].pop(key, None)
            for column in {"ports", "dns_records", "acls"} & row.keys():
                row[column] = sorted(row.members(column))
        return contents

    def columns(self) -> Contents:
        """Return all rows without external_ids, which may differ in a row that is made again."""
        contents = self.contents()
        for row in (row for rows in contents.values() for row in rows):
            del row["external_ids"]
        return contents

    def note_endpoints(self) -> None:
        """Remember the endpoints in Open vSwitch of their hosts, and the names in Docker."""
        self.endpoints = {
            host: [
                replace(one, record=self.recording.records[one.id])
                for one in self.overlay(host).endpoints(soon())
            ]
            for host in (HOST1, HOST2)
        }
        rows = self.server.rows("Logical_Switch_Port", "external_ids")
        self.names = {
            EndpointId(ids["ovn-docker:endpoint"]): ids["ovn-docker:container"]
            for ids in (row["external_ids"] for row in rows)
            if "ovn-docker:container" in ids
        }

    def records(self, host: Chassis) -> dict[NetworkId, str]:
        """Return the records of a host's networks, except the removed one."""
        wanted = [*NETWORKS[host], *([GLOBAL] if host is HOST1 else [])]
        return {id_: self.recording.records[id_] for id_ in wanted if id_ in self.recording.records}

    def clear(self) -> None:
        """Delete all rows."""
        self.server.clear_networks()

    def reload(self) -> None:
        """Restore the rows of the database as recorded, with the options that the first sweep adds."""
        self.clear()
        load(self.server, self.version)
        self.set_options()

    def set_options(self, options: Mapping[str, str] = FORGETFUL) -> None:
        """Set the options of the resolvers, which ovn-docker 0.1.0 made without options."""
        self.database.transact(ovsdb.update("Logical_Router", options=options), deadline=soon())

    def sweep(self) -> list[Difference]:
        """Delete the leftovers of host1 and those of no host; return them."""
        _, strays = self.leftovers(HOST1).of_host(soon())
        cleared = [one for one in strays if self.leftovers(HOST1).clear(one, soon())]
        return cleared + self.leftovers(HOST1).clear_orphans(soon())

    def left(self) -> list[str]:
        """Return tables and names of all rows except those of the generation."""
        contents = self.contents()
        return sorted(
            f"{table} {row.get('name', row['_uuid'])}"
            for table, rows in contents.items()
            for row in rows
            if row["_uuid"] not in GENERATION_ROWS.values()
        )

    def missing(self) -> list[Gap]:
        """Return the missing rows that the hosts need."""
        return [
            gap
            for host in (HOST1, HOST2)
            for gap in self.remaker.missing(self.records(host), self.endpoints[host], host, soon())
        ]

    def repair(self) -> None:
        """Make the missing rows of the hosts again, as the sweep does."""
        for host in (HOST1, HOST2):
            for id_, text in self.records(host).items():
                remaker = self.remaker_everywhere if id_ == GLOBAL else self.remaker
                remaker.make_network(id_, text, host, soon(), used=True)
            for one in self.endpoints[host]:
                self.remaker.make_endpoint(one, self.recording.records[one.network], host, soon())
                names = ContainerNames((self.names[one.id], one.id[:12]), ("alias",))
                self.remaker.set_names(one.id, names, host, soon())

    def delete(self, table: str, uuid: str) -> None:
        """Delete a row, and the references to it, by hand."""
        columns = {
            "Logical_Switch_Port": [("Logical_Switch", "ports")],
            "Logical_Router_Port": [("Logical_Router", "ports")],
            "DNS": [("Logical_Switch", "dns_records")],
        }
        self.database.transact(
            *(
                ovsdb.mutate(owner, mutations=[[column, "delete", [Reference(uuid)]]])
                for owner, column in columns.get(table, ())
            ),
            ovsdb.delete(table, ovsdb.is_row(uuid)),
            deadline=soon(),
        )


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, northbound: OvsdbServer, connect: Connect) -> OldRows:
    """Rows of one earlier version."""
    rows = OldRows(northbound, connect(northbound), request.param)
    rows.note_endpoints()
    return rows


def ids(row: dict[str, Any]) -> dict[str, str]:
    """external_ids of a recorded row."""
    return dict(row.get("external_ids", ["map", []])[1])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recording_has_rows_of_every_kind(version: str) -> None:
    recorded = json.loads((RECORDINGS / f"northbound-{version}.json").read_text())["rows"]
    kinds = Counter(
        kind_of(table, {**row, "external_ids": ids(row)})
        for table, rows in recorded.items()
        for row in rows.values()
        if row.get("name") != "users"
    )
    assert set(kinds) == set(KINDS) - NEWER


def test_the_present_code_writes_rows_of_every_kind_with_their_type(
    northbound: OvsdbServer, connect: Connect
) -> None:
    recording = record(northbound, connect(northbound))
    kinds = set()
    for table, rows in recording.rows.items():
        for uuid, row in rows.items():
            if row.get("name") != "users":
                kind = kind_of(table, {"cidr": "", **row, "external_ids": ids(row)})
                assert kind, row
                assert ids(row)[TYPE] == kind.name
                assert kind.uuid({"cidr": "", **row, "external_ids": ids(row)}) == uuid
                kinds.add(kind)
    assert kinds == set(KINDS)


def test_networks_and_endpoints_are_read(old: OldRows) -> None:
    for host in (HOST1, HOST2):
        found = {one.id for one in old.overlay(host).endpoints(soon())}
        assert found == set(ENDPOINTS[host])
    networks, _ = old.leftovers(HOST1).of_host(soon())
    assert {one.id: one.shared for one in networks} == dict.fromkeys(NETWORKS[HOST1], "") | {
        WEB["host1"]: "network web",
        SWITCHLESS: "network switchless",
        ATTACHED: "your logical switch",
    }
    assert old.leftovers(HOST1).hosts(soon()) == {"host1", "host2"}


def test_shared_networks_are_read(old: OldRows) -> None:
    networks = {one.name: one for one in old.shared.networks(HOST1, soon())}
    assert {name: (bool(one.definition), one.removed, one.refused) for name, one in networks.items()} == {
        "web": (True, False, None),
        "left": (True, False, None),
        "removed": (False, True, None),
        "unused": (False, False, None),
    }
    assert old.shared.left(networks.values(), HOST1, soon()) == {"left"}
    assert old.shared.users("web", HOST1, soon()) == {"host1": True, "host2": True}
    assert old.shared.users("removed", HOST1, soon()) == {"host2": False}
    (note,) = old.shared.notes([WEB["host1"]], HOST1, soon()).values()
    assert note.used
    assert note.incarnation == networks["web"].incarnation
    assert {
        one.host: (len(one.occupied), len(one.problems)) for one in old.shared.reports(HOST1, soon())
    } == {
        "host1": (1, 1),
        "host2": (1, 1),
    }


def test_pools_and_leases_are_read(old: OldRows) -> None:
    pool = old.addresses(HOST1).pool(BOUND, soon())
    assert (str(pool.subnet), str(pool.part), {*map(str, pool.reserved)}, pool.network) == (
        "10.1.9.0/24", "10.1.9.128/25", {"10.1.9.1"}, WEB["host1"],
    )  # fmt: skip
    assert not old.addresses(HOST1).pool(FREE, soon()).bound
    some = [pool.subnet[number] for number in (0x91, 0x92, 200, 201, 202)]
    assert [*map(str, old.addresses(HOST1).rested(pool, some, 30, soon()))] == ["10.1.9.200", "10.1.9.202"]
    former = old.addresses(HOST1).former(pool, soon())
    assert [(str(one.address), one.picked.name, one.holder) for one in former] == [
        ("10.1.9.145", "web", container(0x91, PRIVATE).id),
        ("10.1.9.201", "web", ""),
        ("10.1.9.200", "web", ""),
    ]


def test_rows_are_shown_by_the_commands(host: Host, make_server: MakeServer, tmp_path: Path) -> None:
    southbound = make_server("OVN_Southbound")
    southbound.insert("SB_Global", nb_cfg=7)
    host.open_vswitch.set(ovn_nb=host.northbound.remote, ovn_remote=southbound.remote)
    host.northbound.insert("NB_Global", nb_cfg=7)
    load(host.northbound, VERSIONS[-1])
    (tmp_path / "db.sock").symlink_to(host.open_vswitch.socket)
    places = Places(tmp_path, tmp_path, tmp_path / "docker.sock", tmp_path / "plugin.sock")
    with Sources(places) as sources:
        seen = sources.gather(Scope.CLUSTER)
    assert seen.northbound
    cluster = ClusterView(seen)
    known = {container(number, PRIVATE).id: f"web{number}" for number in (0x91, 0x92)}
    known[container(0xA2, PRIVATE).id] = "busy"
    assert {one.id: one.container for one in cluster.endpoints} == {
        id_: known.get(id_, id_[:12]) for id_ in (*ENDPOINTS[HOST1], *ENDPOINTS[HOST2])
    }
    assert {one.network.name for one in seen.northbound.shared} == {"web", "left", "removed", "unused"}
    assert {one.host for one in seen.northbound.reports} == {"host1", "host2"}
    assert {one.network for one in seen.northbound.notes} == {
        ATTACHED, *WEB.values(), LEFT2, REMOVED2, SWITCHLESS,
    }  # fmt: skip


def test_existing_rows_are_not_made_again(old: OldRows) -> None:
    before = old.contents()
    for overlay, wanted in (
        (old.overlay, network(PRIVATE, 1, ipv6=True, mtu=1300)),
        (old.overlay, network(WIDER, 2, internal=True,
                              allowed=parse("10.1.2.100,02:00:00:00:01:01/10.1.2.101"))),
        (old.overlay, network(OPEN, 3, any_router=True, port_security=False)),
        (old.overlay, network(ATTACHED, 4, switch="users")),
        (old.everywhere, network(GLOBAL, 5)),
        (old.overlay, network(SWARM, 6)),
        (old.overlay, network(WEB["host1"], 9, ours=True, name="web", mtu=1300)),
    ):  # fmt: skip
        overlay(HOST1).create_network(wanted, soon())
    for number, id_, *addresses in (
        (0x11, PRIVATE, "10.1.1.2/24", "fd00:1::2/64"),
        (0x21, WIDER, "10.1.2.2/24"),
        (0x91, WEB["host1"], "10.1.9.145/24"),
    ):
        old.overlay(HOST1).create_endpoint(container(number, id_, *addresses), soon())
    old.repair()
    assert old.contents() == before


def test_recorded_rows_have_no_gaps(old: OldRows) -> None:
    assert old.missing() == []


def test_resolver_of_an_earlier_version_gets_its_options(old: OldRows) -> None:
    before = old.contents()["Logical_Router"]
    old.set_options({})
    assert {gap.kind for gap in old.missing()} == {Kind.RESOLVER}
    old.repair()
    assert old.missing() == []
    left = [row for row in old.contents()["Logical_Router"] if row not in before]
    assert len(left) < len(before), "no resolver was mended"


@pytest.mark.slow
def test_each_row_that_a_host_needs_is_made_again(old: OldRows) -> None:
    old.sweep()
    before, repaired = old.columns(), set[RowKind | None]()
    for table, rows in old.recording.rows.items():
        there = {row["_uuid"] for row in before.get(table, []) if row.get("name") != "users"}
        alike = {frozenset(ids(row)): uuid for uuid, row in rows.items() if uuid in there}
        for uuid in alike.values():
            kind = kind_of(table, {**rows[uuid], "external_ids": ids(rows[uuid])})
            old.delete(table, uuid)
            if old.missing():
                old.repair()
                assert old.columns() == before, (table, uuid)
                assert old.missing() == []
                repaired.add(kind)
            else:
                old.reload()
                old.sweep()
    assert repaired == {*KINDS} - NEWER - {DEPARTURES, REPORTS}  # these belong to no network or endpoint here


def test_rows_get_their_uuids_back_after_a_restore(old: OldRows) -> None:
    """``ovsdb-client restore`` gives each row another UUID."""
    for row in old.server.rows("DHCP_Options", "_uuid", "cidr"):
        if row["cidr"] == "10.1.23.9":  # a leftover on a deleted switch, which no other row names
            old.delete("DHCP_Options", row["_uuid"])
            del old.recording.rows["DHCP_Options"][row["_uuid"]]
    before, rows = old.contents(), old.recording.rows
    old.clear()
    ours = [
        uuid for of_table in rows.values() for uuid, row in of_table.items() if row.get("name") != "users"
    ]
    old.server.transact(*insertions(rows, {uuid: str(uuid4()) for uuid in ours}))
    old.set_options()
    assert old.remaker.displaced(HOST1, soon())
    assert old.remaker.lead_back(HOST1, soon())
    assert not old.remaker.displaced(HOST1, soon())
    after = old.contents()
    quiet = after.pop(QUIET_TABLE), before.pop(QUIET_TABLE)  # written again by the hosts
    assert len(quiet[0]) == len(quiet[1])
    assert after == before


@pytest.mark.slow
def test_host_deletes_all_its_rows(old: OldRows) -> None:
    pools = {HOST1: [BOUND, FREE, ORPHAN], HOST2: [BOUND2]}
    for host in (HOST1, HOST2):
        for endpoint in ENDPOINTS[host]:
            assert old.overlay(host).delete_endpoint(endpoint, soon())
        for pool in pools[host]:
            old.addresses(host).remove_pool(pool, soon())
        for id_ in NETWORKS[host]:
            old.overlay(host).delete_network(id_, soon())
    old.everywhere(HOST1).delete_network(GLOBAL, soon())
    old.overlay(HOST1).delete_network(SWARM, soon(), kept=True)
    old.sweep()
    reports = [f"{QUIET_TABLE} {report_row(host.system_id)}" for host in (HOST1, HOST2)]
    assert old.left() == [*sorted(reports), "Logical_Switch users"]


def test_leftovers_are_found_and_deleted(old: OldRows) -> None:
    assert Counter(one.kind for one in old.sweep()) == {
        Kind.CLAIM: 9,  # of two endpoints, 3 names of one, an allowed address without an endpoint
        Kind.NAMES: 1,
        Kind.LEASE: 2,  # one that no container has, one that was released
        Kind.POOL: 2,  # one that no network has, one whose network is gone
        Kind.RESOLVER: 1,
        Kind.NETWORK: 1,
    }
    assert old.sweep() == []
    assert old.missing() == []


def test_a_lost_host_is_forgotten(old: OldRows) -> None:
    old.sweep()
    both = {"note": 3, "lease": 1, "pool": 1, "report": 1}
    for host, rows in (
        ("host1", {"port": 7, "claim": 18, "name": 1, "departure": 1, "network": 3} | both),
        ("host2", {"port": 2, "claim": 9, "name": 2} | both),
    ):
        found = belongings(old.database, host, soon())
        assert Counter(one.kind for one in found) == rows
        forget(old.database, host, found, soon())
        assert belongings(old.database, host, soon()) == []
    finish_removals(lambda _: old.database, HOST1, soon())
    old.sweep()
    switches = [row for row in old.left() if row.startswith("Logical_Switch ")]
    assert switches == [f"Logical_Switch {name}" for name in (GLOBAL, SWARM, "left", "users", "web")]
    assert not any("DHCP_Options" in row or "DNS" in row for row in old.left())
