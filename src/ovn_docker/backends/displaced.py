"""Rows of ours whose UUIDs do not follow from their contents: ``ovsdb-client restore`` gives each a new one.

Our rows are looked for by their UUIDs (northbound.py), so these are not found, though ``ovn-nbctl show``
lists them. Each is replaced by a copy that has the right UUID; a switch with its ports in one transaction, so
that ovn-northd never sees it without them. The contents stay the same, and a row that has the right UUID is
never changed: a host gains nothing by writing rows with wrong ones.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ovn_docker.backends import dns, shared
from ovn_docker.backends.addresses import POOL, STATE, SUBNET, lease_row
from ovn_docker.backends.allowed_claims import is_allowed
from ovn_docker.backends.northbound import (
    ENDPOINT,
    HOST,
    NAME,
    NETWORK,
    NOTE,
    OURS,
    RANK,
    SWITCH,
    claim_row,
    name_row,
)
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Locked, Operation, Reference, Row, has, is_row, is_uuid
from ovn_docker.model import Chassis, EndpointId, NetworkId, row_uuid

_SOME = 200
"""Rows that one transaction reads or moves, other than those of one switch."""

_OPTIONS = ("_uuid", "cidr", "options", "external_ids")
"""The columns of DHCP_Options (ovn-nb(5))."""


def is_displaced(database: Database, chassis: Chassis, deadline: Deadline) -> bool:
    """Whether a row of this host, a switch or a resolver has another UUID. A search through whole tables."""
    of_host = has("external_ids", {**OURS, HOST: chassis.system_id})
    looks = (
        ("Logical_Switch", has("external_ids", OURS), ("name",)),
        ("Logical_Switch_Port", of_host, ("name", "type")),
        ("DHCP_Options", of_host, ("cidr",)),
        ("Logical_Router", has("external_ids", OURS), ("name",)),
    )
    found = database.transact(
        *(
            ovsdb.select(table, where, columns=["_uuid", "external_ids", *columns])
            for table, where, columns in looks
        ),
        deadline=deadline,
    )
    return any(
        _is_displaced(table, row) for (table, *_), rows in zip(looks, found, strict=True) for row in rows
    )


def lead_back(database: Locked, chassis: Chassis, deadline: Deadline) -> int:
    """Replace all such rows: of all hosts those that belong to a switch, and all of this host.

    Returns their number. Searches through whole tables.
    """
    ours = has("external_ids", OURS)
    unnamed, free, switches, groups = database.transact(
        ovsdb.select("DHCP_Options", ours, ["cidr", "==", ""], columns=_OPTIONS),
        ovsdb.select("DHCP_Options", has("external_ids", {**OURS, STATE: "free"}), columns=_OPTIONS),
        ovsdb.select("Logical_Switch", columns=["_uuid", "name", "external_ids", "ports"]),
        ovsdb.select("Port_Group", columns=["_uuid", "ports"]),
        deadline=deadline,
    )
    moved = _move_options(database, [*unnamed, *free], {}, deadline)
    there = {row["_uuid"] for row in switches}
    for row in switches:
        home = _home("Logical_Switch", row) or row["_uuid"]
        displaced = [one for one in _ports(database, row, deadline) if _is_displaced(*_on(one, home))]
        said = {one["external_ids"].get(SWITCH, home) for one in displaced}
        former = {one for one in said if is_uuid(one) and one not in there}
        for switch in {home, *former}:
            of_switch = has("external_ids", {**OURS, SWITCH: switch})
            options, names = database.read_whole(
                ovsdb.select("DHCP_Options", of_switch, columns=_OPTIONS),
                _whole("DNS", of_switch),
                deadline=deadline,
            )
            moved += _move_options(database, options, {SWITCH: home}, deadline)
            names = [one for one in names if _is_displaced("DNS", one)]
        if home != row["_uuid"] or displaced:
            moved += _move_switch(database, row, home, displaced, names, groups, deadline)
    of_host = has("external_ids", {**OURS, HOST: chassis.system_id})
    options, names, routers = database.read_whole(
        ovsdb.select("DHCP_Options", of_host, columns=_OPTIONS),
        _whole("DNS", of_host),
        _whole("Logical_Router", ours),
        deadline=deadline,
    )
    moved += _move_options(database, options, {}, deadline)  # of switches that are gone
    for some in _chunks([one for one in names if _is_displaced("DNS", one)]):
        moved += _replace(database, "DNS", some, deadline)
    return moved + _move_resolvers(database, routers, deadline)


def _home(table: str, row: Row) -> str:
    """UUID that follows from the contents of a row of ours; empty if none does."""
    ids: dict[str, str] = row["external_ids"]
    if not OURS.items() <= ids.items():
        return ""
    match table:
        case "Logical_Switch" if shared.IS_SHARED.items() <= ids.items():
            return switch_row(ids.get(NAME, ""))
        case "Logical_Switch" if NETWORK in ids:
            return row_uuid("network", ids[NETWORK])
        case "Logical_Switch_Port" if ENDPOINT in ids:
            return row_uuid("endpoint", ids[ENDPOINT])
        case "Logical_Switch_Port" if row["type"] == "router" and SWITCH in ids:
            return dns.resolver_port(ids[SWITCH])
        case "DNS" if ENDPOINT in ids:
            return dns.names_row(EndpointId(ids[ENDPOINT]))
        case "Logical_Router" if is_uuid(row["name"].removeprefix("resolver-")):
            return dns.resolver(row["name"].removeprefix("resolver-"))
        case "DHCP_Options":
            return _home_of_options(row["cidr"], ids)
    return ""


def _home_of_options(cidr: str, ids: Mapping[str, str]) -> str:
    switch = ids.get(SWITCH, "")
    if is_allowed(ids):
        return claim_row(switch, cidr)
    if ENDPOINT in ids:
        return (name_row if RANK in ids else claim_row)(switch, cidr)
    if NOTE.items() <= ids.items():
        return shared.note_row(NetworkId(ids.get(NETWORK, "")))
    if shared.LEFT.items() <= ids.items():
        return shared.departure_row(ids)
    if SUBNET in ids and is_uuid(ids.get(POOL, "")):
        return ids[POOL]
    if STATE in ids:
        return lease_row(switch, cidr)
    return shared.GENERATION_ROW if shared.GENERATION in ids else ""


def _is_displaced(table: str, row: Row) -> bool:
    return bool((_home(table, row) or row["_uuid"]) != row["_uuid"])


def _on(port: Row, switch: str) -> tuple[str, Row]:
    """A port as if it were on a switch of that UUID."""
    ids = port["external_ids"]
    return "Logical_Switch_Port", {**port, "external_ids": {**ids, SWITCH: switch} if SWITCH in ids else ids}


def _ports(database: Locked, switch: Row, deadline: Deadline) -> Iterator[Row]:
    """All columns of the ports of a switch that are ours."""
    for some in _chunks(ovsdb.members(switch["ports"])):
        for rows in database.read_whole(
            *(_whole("Logical_Switch_Port", is_row(one), has("external_ids", OURS)) for one in some),
            deadline=deadline,
        ):
            yield from rows


def _move_options(database: Locked, rows: Iterable[Row], also: Mapping[str, str], deadline: Deadline) -> int:
    """Replace those of some rows of DHCP_Options that are displaced; *also*: external_ids that they get."""
    moved = 0
    for some in _chunks([row for row in rows if _is_displaced("DHCP_Options", row)]):
        copies = [{**row, "external_ids": {**row["external_ids"], **also}} for row in some]
        moved += _replace(database, "DHCP_Options", copies, deadline)
    return moved


def _move_switch(
    database: Locked,
    row: Row,
    home: str,
    ports: list[Row],
    names: list[Row],
    groups: list[Row],
    deadline: Deadline,
) -> int:
    """Replace a switch by the one with the UUID *home*, or only *ports* and *names* on it."""
    old = row["_uuid"]
    copies = [_on(port, home)[1] for port in ports]
    homes = {port["_uuid"]: Reference(_home("Logical_Switch_Port", port)) for port in copies}
    dns_homes = {name["_uuid"]: Reference(_home("DNS", name)) for name in names}
    (whole, there, *found) = database.read_whole(
        _whole("Logical_Switch", is_row(old)),
        ovsdb.select("Logical_Switch", is_row(home), columns=["_uuid"]),
        *(ovsdb.select("Logical_Switch_Port", is_row(one), columns=["_uuid"]) for one in homes.values()),
        *(ovsdb.select("DNS", is_row(one), columns=["_uuid"]) for one in dns_homes.values()),
        deadline=deadline,
    )
    if not whole:
        return 0
    taken = {one["_uuid"] for rows in found for one in rows}
    after, records = (
        [
            place
            for place in (moved.get(one, Reference(one)) for one in ovsdb.members(column))
            if place not in taken
        ]
        for column, moved in ((whole[0]["ports"], homes), (whole[0]["dns_records"], dns_homes))
    )
    operations = [
        *_copies("Logical_Switch_Port", copies, taken),
        *_copies("DNS", names, taken),
        *(ovsdb.delete("DNS", is_row(name["_uuid"])) for name in names),
    ]
    if not there:
        operations.append(_copy("Logical_Switch", home, {**whole[0], "ports": after, "dns_records": records}))
    else:
        mutations = [
            ["ports", "delete", [Reference(one) for one in homes]],
            ["ports", "insert", after],
            ["dns_records", "insert", records],
        ]
        operations.append(ovsdb.mutate("Logical_Switch", is_row(home), mutations=mutations))
    if home != old:
        operations.append(ovsdb.delete("Logical_Switch", is_row(old)))
    for group in groups:
        members = [one for one in ovsdb.members(group["ports"]) if one in homes]
        if members:
            mutations = [["ports", "insert", [homes[one] for one in members]]]
            operations.append(ovsdb.mutate("Port_Group", is_row(group["_uuid"]), mutations=mutations))
    database.transact(*operations, deadline=deadline)
    return int(home != old) + len(ports) + len(names)


def _move_resolvers(database: Locked, routers: list[Row], deadline: Deadline) -> int:
    """Replace resolvers, each with its port; one that is there already, or that has no port, is deleted."""
    there, moved = {row["_uuid"] for row in routers}, 0
    for row in (one for one in routers if _is_displaced("Logical_Router", one)):
        home, peer = _home("Logical_Router", row), dns.resolver_peer(row["name"].removeprefix("resolver-"))
        (ports,) = database.read_whole(
            _whole("Logical_Router_Port", ["name", "==", row["name"]]), deadline=deadline
        )
        operations = [ovsdb.delete("Logical_Router", is_row(row["_uuid"]))]
        if ports and ports[0]["_uuid"] in ovsdb.members(row["ports"]) and home not in there:
            operations += [
                _copy("Logical_Router_Port", peer, ports[0]),
                _copy("Logical_Router", home, {**row, "ports": [Reference(peer)]}),
            ]
        database.transact(*operations, deadline=deadline)
        there.add(home)
        moved += 1
    return moved


def _replace(database: Locked, table: str, rows: list[Row], deadline: Deadline) -> int:
    """Put copies with the right UUIDs in the places of some rows; one that is there already stays."""
    found = database.transact(
        *(ovsdb.select(table, is_row(_home(table, row)), columns=["_uuid"]) for row in rows),
        deadline=deadline,
    )
    taken = {one["_uuid"] for there in found for one in there}
    database.transact(
        *_copies(table, rows, taken),
        *(ovsdb.delete(table, is_row(row["_uuid"])) for row in rows),
        deadline=deadline,
    )
    return len(rows)


def _copies(table: str, rows: Iterable[Row], taken: set[str]) -> Iterator[Operation]:
    """Operations that insert rows with the UUIDs that follow from them, one row each."""
    made = set(taken)
    for row in rows:
        home = _home(table, row)
        if home not in made:
            made.add(home)
            yield _copy(table, home, row)


def _copy(table: str, uuid: str, row: Row) -> Operation:
    columns = {column: value for column, value in row.items() if column not in {"_uuid", "_version"}}
    return ovsdb.insert(table, uuid, **columns)


def _whole(table: str, *where: Any) -> Operation:
    """Read all columns of some rows (RFC 7047, 5.2.2)."""
    return {"op": "select", "table": table, "where": list(where)}


def _chunks(rows: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(rows), _SOME):
        yield rows[start : start + _SOME]
