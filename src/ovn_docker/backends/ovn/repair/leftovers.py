"""Rows of the OVN northbound database that belong to nothing, and what a host has there as a whole.

A row of a host is that host's to delete; a row of no host may be deleted by any host, but one at a time.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from ovn_docker.backends.ovn import allowed_claims, rows
from ovn_docker.backends.ovn.networks.addresses import released
from ovn_docker.backends.ovn.port_groups import IS_UNUSED
from ovn_docker.backends.ovn.rows import (
    ALLOWED_CLAIMS,
    CLEARED,
    ENCAP,
    ENDPOINT,
    ENDPOINTS,
    HOST,
    IDENTITY,
    KINDS,
    LEASES,
    NAME,
    NETWORK,
    NETWORKS,
    NOTES,
    OURS,
    PORT_GROUPS,
    SHARED_NETWORKS,
    STATE,
    SWITCH,
    UNUSED,
    LeftoverRule,
    RowKind,
    kind_of,
    name_of,
)
from ovn_docker.backends.ovn.shared import deletion
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import age
from ovn_docker.host.ovsdb import (
    Condition,
    ConditionFailed,
    Database,
    Locked,
    Operation,
    Reference,
    Row,
    has,
    is_row,
    is_uuid,
    require,
    require_none,
)
from ovn_docker.model import Chassis, Difference, Kind, NetworkId, StoredNetwork, since, whole_number

_RESTED = 172_800.0
"""Seconds after which every host deletes the rows of released addresses, once a day.

The host that released an address usually deletes its row earlier, with its next release.
"""

_LATELY = 3600.0
"""Seconds for which rows of no host are not searched again.

The clocks of all hosts decide this, and also whether a released address has rested. A time further in the
future does not count. A wrong clock costs one more search, or an address is used again a little early.
"""

LOCK = "ovn_docker"
"""Name of the lock that a host holds while it changes rows that are not its own (RFC 7047, 4.1.8)."""

_SWEPT = {kind.table for kind in KINDS if kind.leftover} | {"Logical_Switch"}
"""Tables of which a sweep needs whole rows; of others, their UUIDs."""

Orphan = tuple[Difference, list[Operation]]
"""A leftover of no host, and the operations that delete it if it still is one."""


class Leftovers:
    """Searches the northbound database for leftovers, and deletes them."""

    place = "OVN northbound"

    def __init__(self, database: Database, chassis: Chassis) -> None:
        self._database = database
        self._chassis = chassis

    def hosts(self, deadline: Deadline) -> set[str]:
        """Return every host that has a port, a network, or a note of a network."""
        found = self._database.transact(
            *(
                ovsdb.select(kind.table, kind.where(), columns=["external_ids"])
                for kind in (NETWORKS, ENDPOINTS, NOTES)
            ),
            deadline=deadline,
        )
        return {ids[HOST] for there in found for row in there if HOST in (ids := row.map("external_ids"))}

    def of_host(self, deadline: Deadline) -> tuple[list[StoredNetwork], list[Difference]]:
        """Return the networks of this host, and its leftovers among all other rows.

        A network is a switch that the host has made or a note of the host. A leftover is a row without the
        row that it goes with, such as a claim without a port. Docker releases what it does not need, unless
        it dies in the middle.
        """
        tables = rows.tables(HOST)
        *found, switches = self._database.transact(
            *(
                ovsdb.select(table, rows.of_host(self._chassis.system_id), columns=_columns(table))
                for table in tables
            ),
            ovsdb.select("Logical_Switch", columns=["_uuid"]),
            deadline=deadline,
        )
        there = {row.uuid for of_table in (*found, switches) for row in of_table}
        networks, leftovers = [], []
        for table, of_table in zip(tables, found, strict=True):
            for row in of_table if table in _SWEPT else ():
                kind, ids = kind_of(table, row), row.map("external_ids")
                if kind is None or kind.uuid(row) != row.uuid:
                    continue
                if kind in (NETWORKS, NOTES) and self._chassis.made(ids[HOST], ids.get(ENCAP, "")):
                    networks.append(_network(ids))
                leftovers += list(_leftovers(kind, row, there))[:1]
        return networks, _without_parent(self._database, leftovers, deadline)

    def clear(self, leftover: Difference, deadline: Deadline) -> bool:
        """Delete a row if it has not changed since it was found and is still a leftover."""
        uuid, version, parent, table, name = leftover.row.split(" ", 4)
        (kind,) = (one for one in KINDS if one.name == name)
        operations = [require(kind.table, uuid, _unchanged(version))]
        if parent != "-":
            operations.append(require_none(table, is_row(parent)))
        if kind.kept_by:
            operations.append(require_none(*kind.kept_by(uuid)))
        operations.append(ovsdb.delete(kind.table, is_row(uuid)))
        return _done(self._database, *operations, deadline=deadline)

    def orphans(self, deadline: Deadline) -> list[Difference]:
        """Return the leftovers of no host.

        Reads as many rows as there are networks, and addresses whose rows their drivers have not deleted yet.
        """
        return [difference for difference, _ in _orphans(self._database, deadline, _RESTED)]

    def clear_orphans(self, deadline: Deadline) -> list[Difference]:
        """Delete the leftovers of no host while holding the lock; return those that were deleted."""
        return self._clear_orphans(deadline, unless_lately=False)

    def clear_orphans_when_due(self, deadline: Deadline) -> list[Difference]:
        """Delete the leftovers of no host, unless any host has done so within _LATELY seconds."""
        return self._clear_orphans(deadline, unless_lately=True)

    def _clear_orphans(self, deadline: Deadline, *, unless_lately: bool) -> list[Difference]:
        if unless_lately and _cleared_lately(self._database, deadline):
            return []
        cleared = []
        with self._database.lock(LOCK, deadline) as locked:
            if locked is None or (unless_lately and _cleared_lately(self._database, deadline)):
                return []
            for difference, operations in _orphans(self._database, deadline, UNUSED):
                if _done(locked, *operations, deadline=deadline):
                    cleared.append(difference)
            locked.transact(_cleared_now(), deadline=deadline)
        return cleared


def _columns(table: str) -> list[str]:
    if table not in _SWEPT:
        return ["_uuid"]
    return ["_uuid", "_version", "external_ids", *IDENTITY[table]]


def _network(ids: dict[str, str]) -> StoredNetwork:
    shared_with = ""
    if SWITCH in ids:
        shared_with = f"network {ids[NAME]}" if NAME in ids else "your logical switch"
    return StoredNetwork(NetworkId(ids.get(NETWORK, "")), shared_with, age(ids))


def _leftovers(kind: RowKind, row: Row, there: set[str]) -> Iterator[Difference]:
    """Yield a difference for each rule that makes the row a leftover; *there*: UUIDs of other rows."""
    for rule in kind.leftover:
        if rule.applies(row) and rule.parent(row) not in there and age(row.map("external_ids")) >= rule.after:
            yield _difference(kind, rule, row)


def _difference(kind: RowKind, rule: LeftoverRule, row: Row) -> Difference:
    ids = row.map("external_ids")
    parent = rule.parent(row) if is_uuid(rule.parent(row)) else "-"
    where = f"{row['_uuid']} {row['_version']} {parent} {rule.table or '-'} {kind.name}"
    made = since(age(ids)) if HOST in kind.owners else None
    endpoint = ids.get(ENDPOINT, "")
    return Difference(
        kind.difference, kind.shown(row), Leftovers.place, made, rule.why, "delete it", where, endpoint
    )


def _without_parent(database: Database, found: list[Difference], deadline: Deadline) -> list[Difference]:
    """Return the leftovers without those whose parent is there after all, as another host's row."""
    parents = [one.row.split()[2:4] for one in found]
    results = database.transact(
        *(
            ovsdb.select(table if uuid != "-" else "Logical_Switch", is_row(uuid), columns=["_uuid"])
            for uuid, table in parents
        ),
        deadline=deadline,
    )
    return [one for one, there in zip(found, results, strict=True) if not there]


def _orphans(database: Database, deadline: Deadline, rested: float) -> list[Orphan]:
    """Return the leftovers of no host; *rested*: seconds after which a released address is one."""
    kinds = [kind for kind in KINDS if kind.leftover and HOST not in kind.owners]
    leases, allowed, unused, switches, notes, *found = database.transact(
        ovsdb.select("DHCP_Options", LEASES.where({STATE: "released"}), columns=_columns("DHCP_Options")),
        ovsdb.select("DHCP_Options", ALLOWED_CLAIMS.where(), columns=_columns("DHCP_Options")),
        ovsdb.select("Port_Group", PORT_GROUPS.where(), *IS_UNUSED, columns=_columns("Port_Group")),
        ovsdb.select("Logical_Switch", has("external_ids", OURS), columns=["_uuid", "external_ids", "ports"]),
        ovsdb.select("DHCP_Options", NOTES.where(), columns=["external_ids"]),
        *(ovsdb.select(kind.table, kind.where(), columns=_columns(kind.table)) for kind in kinds),
        deadline=deadline,
    )
    there = {row.uuid for row in switches}
    return [
        *_released(leases, rested),
        *_allowed_to_none(database, allowed, deadline),
        *(
            _orphan(PORT_GROUPS, row, None, "no container belongs to it")
            for row in unused
            if kind_of("Port_Group", row) is PORT_GROUPS and PORT_GROUPS.uuid(row) == row.uuid
        ),
        *(one for kind, of_kind in zip(kinds, found, strict=True) for one in _by_rules(kind, of_kind, there)),
        *_unused_networks(database, switches, notes, deadline),
    ]


def _by_rules(kind: RowKind, found: Iterable[Row], there: set[str]) -> Iterator[Orphan]:
    """Yield the leftovers among rows of a kind that no host owns, by the rules of the kind."""
    for row in found:
        if kind_of(kind.table, row) is kind and kind.uuid(row) == row.uuid:
            for one in _leftovers(kind, row, there):
                parent, table = one.row.split()[2:4]
                delete = ovsdb.delete(kind.table, is_row(row.uuid))
                yield one, [require_none(table, is_row(parent)), delete]


def _released(found: Iterable[Row], rested: float) -> Iterator[Orphan]:
    """Yield the leases that were released *rested* seconds ago."""
    for row in found:
        when = released(row.map("external_ids")) or 0
        if LEASES.uuid(row) == row.uuid and not -_LATELY < time.time() - when < rested:
            yield _orphan(LEASES, row, round(when), "it was released long ago")


def _allowed_to_none(database: Database, found: Iterable[Row], deadline: Deadline) -> Iterator[Orphan]:
    """Yield the claims of allowed addresses all of whose endpoints have lost their ports."""
    for row in found:
        ours = ALLOWED_CLAIMS.uuid(row) == row.uuid
        if ours and allowed_claims.alive(database, row.map("external_ids"), deadline) is None:
            why = "no container that the address is allowed to has a port"
            yield _orphan(ALLOWED_CLAIMS, row, None, why)


def _orphan(kind: RowKind, row: Row, since: int | None, why: str) -> Orphan:
    what = Difference(kind.difference, kind.shown(row), Leftovers.place, since, why, "delete it")
    return what, [ovsdb.delete(kind.table, is_row(row.uuid), _unchanged(row.text("_version")))]


def _unused_networks(
    database: Database, switches: Iterable[Row], notes: Iterable[Row], deadline: Deadline
) -> Iterator[Orphan]:
    """Yield the shared networks that no host has, no endpoint uses, and no host would make."""
    noted = {row.map("external_ids").get(SWITCH) for row in notes}
    for row in switches:
        ids, switch = row.map("external_ids"), row.uuid
        named = kind_of("Logical_Switch", row) is SHARED_NETWORKS and name_of(ids, switch)
        if named and switch not in noted and deletion.is_dead(ids):
            infrastructure = deletion.infrastructure(database, switch, deadline)
            if not {*row.members("ports")} - infrastructure:
                why = "no host has it, and none will make it"
                what = Difference(Kind.NETWORK, ids[NAME], Leftovers.place, None, why, "delete it")
                yield what, deletion.delete_operations(switch, infrastructure)


def _unchanged(version: str) -> Condition:
    return ["_version", "==", ovsdb.encode(Reference(version))]


def _cleared_lately(database: Database, deadline: Deadline) -> bool:
    (found,) = database.transact(
        ovsdb.select("DHCP_Options", is_row(rows.GENERATION_ROW), columns=["external_ids"]),
        deadline=deadline,
    )
    when = whole_number(found[0].map("external_ids").get(CLEARED, "")) if found else None
    return when is not None and abs(time.time() - when) < _LATELY


def _cleared_now() -> Operation:
    now: list[list[Any]] = [
        ["external_ids", "delete", [CLEARED]],
        ["external_ids", "insert", {CLEARED: str(int(time.time()))}],
    ]
    return ovsdb.mutate("DHCP_Options", is_row(rows.GENERATION_ROW), mutations=now)


def _done(database: Database | Locked, *operations: Operation, deadline: Deadline) -> bool:
    """Carry out a transaction; return False if a condition among its operations did not hold."""
    try:
        database.transact(*operations, deadline=deadline)
    except ConditionFailed:
        return False
    return True
