"""Displaced rows: their UUIDs do not follow from their contents, as after ``ovsdb-client restore``.

The driver reads rows by their UUIDs (rows.py), so it does not find displaced ones, though ``ovn-nbctl show``
lists them. Each is replaced by a copy that has the right UUID; a switch together with its ports, in one
transaction, so that ovn-northd never sees the switch without them. The contents stay the same, and a row with
the right UUID is never changed: a host gains nothing by writing rows with wrong UUIDs.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ovn_docker.backends.ovn.rows import (
    HOST,
    IDENTITY,
    OURS,
    POOLS,
    RESOLVER_PEERS,
    STATE,
    SWITCH,
    home,
    of_host,
    tables,
)
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Condition, Database, Locked, Operation, Reference, Row, has, is_row, is_uuid
from ovn_docker.model import Chassis

_SOME = 200
"""Number of rows that one transaction reads or moves, besides those of one switch."""

_SEARCHED = ("Logical_Switch", "Logical_Switch_Port", "DHCP_Options", "Logical_Router")

_OPTIONS = ("_uuid", "cidr", "options", "external_ids")
"""The columns of DHCP_Options (ovn-nb(5))."""


def is_displaced(database: Database, chassis: Chassis, deadline: Deadline) -> bool:
    """Return whether a row of this host, a switch or a resolver is displaced. Searches whole tables.

    Rows of the other tables are displaced only together with these.
    """
    found = database.transact(
        *(
            ovsdb.select(table, _ours(table, chassis), columns=["_uuid", "external_ids", *IDENTITY[table]])
            for table in _SEARCHED
        ),
        deadline=deadline,
    )
    return any(
        _is_displaced(table, row) for table, rows in zip(_SEARCHED, found, strict=True) for row in rows
    )


def _ours(table: str, chassis: Chassis) -> Condition:
    """Return the condition that selects this host's rows of a table whose rows belong to hosts."""
    whole = table == "Logical_Switch" or table not in tables(HOST)
    return has("external_ids", OURS) if whole else of_host(chassis.system_id)


def lead_back(database: Locked, chassis: Chassis, deadline: Deadline) -> int:
    """Replace the displaced rows of all hosts that belong to a switch, and all of this host.

    Returns their number. Searches whole tables.
    """
    ours = has("external_ids", OURS)
    unnamed, free, switches, groups = database.transact(
        ovsdb.select("DHCP_Options", ours, ["cidr", "==", ""], columns=_OPTIONS),
        ovsdb.select("DHCP_Options", POOLS.where({STATE: "free"}), columns=_OPTIONS),
        ovsdb.select("Logical_Switch", columns=["_uuid", "name", "external_ids", "ports"]),
        ovsdb.select("Port_Group", columns=["_uuid", "ports"]),
        deadline=deadline,
    )
    moved = _move_options(database, [*unnamed, *free], {}, deadline)
    there = {row.uuid for row in switches}
    for row in switches:
        right = home("Logical_Switch", row) or row.uuid
        displaced = [one for one in _ports(database, row, deadline) if _is_displaced(*_on(one, right))]
        named = {one.map("external_ids").get(SWITCH, right) for one in displaced}
        former = {one for one in named if is_uuid(one) and one not in there}
        for switch in {right, *former}:
            of_switch = has("external_ids", {**OURS, SWITCH: switch})
            options, names = database.read_whole(
                ovsdb.select("DHCP_Options", of_switch, columns=_OPTIONS),
                _whole("DNS", of_switch),
                deadline=deadline,
            )
            moved += _move_options(database, options, {SWITCH: right}, deadline)
            names = [one for one in names if _is_displaced("DNS", one)]
        if right != row.uuid or displaced:
            moved += _move_switch(database, row, right, displaced, names, groups, deadline)
    own = of_host(chassis.system_id)
    options, names, of_groups, routers = database.read_whole(
        ovsdb.select("DHCP_Options", own, columns=_OPTIONS),
        _whole("DNS", own),
        _whole("Port_Group", ours),
        _whole("Logical_Router", ours),
        deadline=deadline,
    )
    moved += _move_options(database, options, {}, deadline)  # of switches that are gone
    for some in _chunks([one for one in names if _is_displaced("DNS", one)]):
        moved += _replace(database, "DNS", some, deadline)
    for some in _chunks([one for one in of_groups if _is_displaced("Port_Group", one)]):
        moved += _replace(database, "Port_Group", some, deadline)
    return moved + _move_resolvers(database, routers, deadline)


def _is_displaced(table: str, row: Row) -> bool:
    return bool((home(table, row) or row.uuid) != row.uuid)


def _on(port: Row, switch: str) -> tuple[str, Row]:
    """Return a port as if it were on a switch of that UUID, with its table."""
    ids = port.map("external_ids")
    return "Logical_Switch_Port", port.but(external_ids={**ids, SWITCH: switch} if SWITCH in ids else ids)


def _ports(database: Locked, switch: Row, deadline: Deadline) -> Iterator[Row]:
    """Yield our ports of a switch, with all columns."""
    for some in _chunks(switch.members("ports")):
        for rows in database.read_whole(
            *(_whole("Logical_Switch_Port", is_row(one), has("external_ids", OURS)) for one in some),
            deadline=deadline,
        ):
            yield from rows


def _move_options(database: Locked, rows: Iterable[Row], also: Mapping[str, str], deadline: Deadline) -> int:
    """Replace the displaced ones of some rows of DHCP_Options; *also*: external_ids of the copies."""
    moved = 0
    for some in _chunks([row for row in rows if _is_displaced("DHCP_Options", row)]):
        copies = [row.but(external_ids=row.map("external_ids") | also) for row in some]
        moved += _replace(database, "DHCP_Options", copies, deadline)
    return moved


def _move_switch(
    database: Locked,
    row: Row,
    right: str,
    ports: list[Row],
    names: list[Row],
    groups: list[Row],
    deadline: Deadline,
) -> int:
    """Replace a switch by the one with the UUID *right*, or only *ports* and *names* on it."""
    old = row.uuid
    copies = [_on(port, right)[1] for port in ports]
    homes = {port.uuid: Reference(home("Logical_Switch_Port", port)) for port in copies}
    dns_homes = {name.uuid: Reference(home("DNS", name)) for name in names}
    (whole, there, *found) = database.read_whole(
        _whole("Logical_Switch", is_row(old)),
        ovsdb.select("Logical_Switch", is_row(right), columns=["_uuid"]),
        *(ovsdb.select("Logical_Switch_Port", is_row(one), columns=["_uuid"]) for one in homes.values()),
        *(ovsdb.select("DNS", is_row(one), columns=["_uuid"]) for one in dns_homes.values()),
        deadline=deadline,
    )
    if not whole:
        return 0
    taken = {one.uuid for rows in found for one in rows}
    after, records = (
        [place for place in (moved.get(one, Reference(one)) for one in column) if place not in taken]
        for column, moved in (
            (whole[0].members("ports"), homes),
            (whole[0].members("dns_records"), dns_homes),
        )
    )
    operations = [
        *_copies("Logical_Switch_Port", copies, taken),
        *_copies("DNS", names, taken),
        *(ovsdb.delete("DNS", is_row(name.uuid)) for name in names),
    ]
    if not there:
        operations.append(_copy("Logical_Switch", right, whole[0].but(ports=after, dns_records=records)))
    else:
        mutations = [
            ["ports", "delete", [Reference(one) for one in homes]],
            ["ports", "insert", after],
            ["dns_records", "insert", records],
        ]
        operations.append(ovsdb.mutate("Logical_Switch", is_row(right), mutations=mutations))
    if right != old:
        operations.append(ovsdb.delete("Logical_Switch", is_row(old)))
    for group in groups:
        members = [one for one in group.members("ports") if one in homes]
        if members:
            mutations = [["ports", "insert", [homes[one] for one in members]]]
            operations.append(ovsdb.mutate("Port_Group", is_row(group.uuid), mutations=mutations))
    database.transact(*operations, deadline=deadline)
    return int(right != old) + len(ports) + len(names)


def _move_resolvers(database: Locked, routers: list[Row], deadline: Deadline) -> int:
    """Replace resolvers, each with its port; delete one whose copy exists, or that has no port."""
    there, moved = {row.uuid for row in routers}, 0
    for row in (one for one in routers if _is_displaced("Logical_Router", one)):
        right = home("Logical_Router", row)
        (ports,) = database.read_whole(
            _whole("Logical_Router_Port", ["name", "==", row.text("name")]), deadline=deadline
        )
        operations = [ovsdb.delete("Logical_Router", is_row(row.uuid))]
        if ports and ports[0].uuid in row.members("ports") and right not in there:
            peer = RESOLVER_PEERS.uuid(row)  # by their common name: the port may say anything
            operations += [
                _copy("Logical_Router_Port", peer, ports[0]),
                _copy("Logical_Router", right, row.but(ports=[Reference(peer)])),
            ]
        database.transact(*operations, deadline=deadline)
        there.add(right)
        moved += 1
    return moved


def _replace(database: Locked, table: str, rows: list[Row], deadline: Deadline) -> int:
    """Replace some rows by copies with the right UUIDs; a copy that exists already stays."""
    found = database.transact(
        *(ovsdb.select(table, is_row(home(table, row)), columns=["_uuid"]) for row in rows),
        deadline=deadline,
    )
    taken = {one.uuid for there in found for one in there}
    database.transact(
        *_copies(table, rows, taken),
        *(ovsdb.delete(table, is_row(row.uuid)) for row in rows),
        deadline=deadline,
    )
    return len(rows)


def _copies(table: str, rows: Iterable[Row], taken: set[str]) -> Iterator[Operation]:
    """Yield operations that insert rows with the UUIDs that follow from their contents, each row once."""
    made = set(taken)
    for row in rows:
        right = home(table, row)
        if right not in made:
            made.add(right)
            yield _copy(table, right, row)


def _copy(table: str, uuid: str, row: Row) -> Operation:
    columns = {column: value for column, value in row.items() if column not in {"_uuid", "_version"}}
    return ovsdb.insert(table, uuid, **columns)


def _whole(table: str, *where: Any) -> Operation:
    """Return the operation that reads all columns of some rows (RFC 7047, 5.2.2)."""
    return {"op": "select", "table": table, "where": list(where)}


def _chunks(rows: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(rows), _SOME):
        yield rows[start : start + _SOME]
