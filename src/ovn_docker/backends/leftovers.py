"""What of our rows in the OVN northbound database belongs to nothing, and what a host has there as a whole.

A row of a host is that host's to delete; what carries no host anybody may delete, but one at a time.
"""

import time
from collections.abc import Iterable
from typing import Any

from ovn_docker.backends import allowed_claims, dns, shared
from ovn_docker.backends.addresses import POOL, STATE, SUBNET, lease_row, released
from ovn_docker.backends.northbound import (
    CONTAINER,
    ENCAP,
    ENDPOINT,
    HOST,
    NAME,
    NETWORK,
    NOTE,
    OURS,
    RANK,
    SWITCH,
    Connect,
    claim_row,
    name_of,
    name_row,
)
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import age
from ovn_docker.host.ovsdb import (
    Database,
    Locked,
    OperationError,
    Reference,
    Row,
    has,
    is_row,
    is_uuid,
    require,
    require_none,
)
from ovn_docker.model import (
    Chassis,
    Difference,
    EndpointId,
    Kind,
    NetworkId,
    StoredNetwork,
    row_uuid,
    since,
    whole_number,
)

_UNUSED = 600.0
"""Seconds after which a pool without a network, or a lease without an endpoint, is nobody's."""

_RESTED = 172_800.0
"""Seconds after which a released address is one that no driver forgets; each clears such ones once a day.

It forgets what was released when it releases the next one: on a quiet host that may be long after.
"""

_LATELY = 3600.0
"""Seconds for which what belongs to no host is not looked at again.

The clocks of all hosts decide this, and also whether a released address has rested. A time further in the
future does not count. A wrong clock costs one more look, or a released address is used again a little early.
"""

LOCK = "ovn_docker"
"""Name of the lock that a host holds while it changes rows that are not its own (RFC 7047, 4.1.8)."""

_CLEARED = "ovn-docker:cleared"
"""When that was done last, in seconds of the epoch: on the generation's row (shared.py), if there is one."""

_TABLES = {Kind.NAMES: "DNS", Kind.RESOLVER: "Logical_Router", Kind.NETWORK: "Logical_Switch"}
"""Where a stray is; all others are in DHCP_Options."""

_OF_TABLE = {Kind.CLAIM: "Logical_Switch_Port", Kind.NAMES: "Logical_Switch_Port"}
"""Where the row is that a stray belongs to; the rows of all others are in DHCP_Options."""


class Leftovers:
    """Our rows of the northbound database, looked at as a whole: searches through whole tables."""

    place = "OVN northbound"

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def hosts(self, chassis: Chassis, deadline: Deadline) -> set[str]:
        """Every host that has a port, a network, or a note of one."""
        mine = has("external_ids", OURS)
        found = self._connect(chassis).transact(
            ovsdb.select("Logical_Switch", mine, columns=["external_ids"]),
            ovsdb.select("Logical_Switch_Port", mine, columns=["external_ids"]),
            ovsdb.select("DHCP_Options", mine, has("external_ids", NOTE), columns=["external_ids"]),
            deadline=deadline,
        )
        return {ids[HOST] for rows in found for row in rows if HOST in (ids := row["external_ids"])}

    def mine(self, chassis: Chassis, deadline: Deadline) -> tuple[list[StoredNetwork], list[Difference]]:
        """The networks and the strays of this host.

        Networks are the switches that it has made and its notes of others'; strays are other rows of its that
        belong to nothing, such as claims without a port, or leases that nobody uses. Docker gives back
        what it does not need, unless it dies in the middle.
        """
        of_host = has("external_ids", {**OURS, HOST: chassis.system_id})
        columns = ["_uuid", "_version", "external_ids"]
        database = self._connect(chassis)
        options, names, ports, own, switches = database.transact(
            ovsdb.select("DHCP_Options", of_host, columns=[*columns, "cidr"]),
            ovsdb.select("DNS", of_host, columns=columns),
            ovsdb.select("Logical_Switch_Port", of_host, columns=["_uuid"]),
            ovsdb.select("Logical_Switch", of_host, columns=["_uuid", "external_ids"]),
            ovsdb.select("Logical_Switch", columns=["_uuid"]),
            deadline=deadline,
        )
        notes = [row for row in options if NOTE.items() <= row["external_ids"].items()]
        there = {row["_uuid"] for row in (*options, *ports, *switches)}
        strays = [one for row in (*options, *names) if (one := _stray(row, there))]
        made = [
            row["external_ids"]
            for kind, rows in (("network", own), ("attached network", notes))
            for row in rows
            if row["_uuid"] == row_uuid(kind, row["external_ids"].get(NETWORK, ""))
            and chassis.made(row["external_ids"][HOST], row["external_ids"].get(ENCAP, ""))
        ]
        return [_network(ids) for ids in made], _lonely(database, strays, deadline)

    def clear(self, stray: Difference, chassis: Chassis, deadline: Deadline) -> bool:
        """Delete a row, if it is as it was when it was found, and what it should belong to is not there."""
        uuid, version, belongs_to = stray.row.split()
        table = _TABLES.get(stray.kind, "DHCP_Options")
        unchanged = ["_version", "==", ovsdb.encode(Reference(version))]
        conditions = [require(table, uuid, unchanged)]
        if belongs_to != "-":
            conditions.append(require_none(_OF_TABLE.get(stray.kind, "DHCP_Options"), is_row(belongs_to)))
        elif stray.kind is Kind.POOL:
            leased = has("external_ids", {**OURS, POOL: uuid, STATE: "leased"})
            conditions.append(require_none("DHCP_Options", leased))
        return _done(
            self._connect(chassis), *conditions, ovsdb.delete(table, is_row(uuid)), deadline=deadline
        )

    def common(self, chassis: Chassis, deadline: Deadline) -> list[Difference]:
        """Addresses released long ago or allowed to none, resolvers without a switch, unused networks.

        As many rows as there are networks, and addresses that their drivers have not forgotten yet.
        """
        return [difference for difference, _ in _common(self._connect(chassis), deadline, _RESTED)]

    def clear_common(self, chassis: Chassis, deadline: Deadline, *, unless_lately: bool) -> list[Difference]:
        """Delete that, holding the lock; every transaction asserts it."""
        database = self._connect(chassis)
        if unless_lately and _cleared_lately(database, deadline):
            return []
        cleared = []
        with database.lock(LOCK, deadline) as locked:
            if locked is None or (unless_lately and _cleared_lately(database, deadline)):
                return []
            for difference, operations in _common(database, deadline, _UNUSED):
                if _done(locked, *operations, deadline=deadline):
                    cleared.append(difference)
            locked.transact(_cleared_now(), deadline=deadline)
        return cleared


def _network(ids: dict[str, str]) -> StoredNetwork:
    shared = ""
    if SWITCH in ids:
        shared = f"network {ids[NAME]}" if NAME in ids else "your logical switch"
    return StoredNetwork(NetworkId(ids.get(NETWORK, "")), shared, age(ids))


def _lonely(database: Database, strays: list[Difference], deadline: Deadline) -> list[Difference]:
    """The strays without those that belong to a row after all, which says that it is another host's."""
    belongs_to = [one.row.split()[2] for one in strays]
    found = database.transact(
        *(
            ovsdb.select(_OF_TABLE.get(one.kind, "DHCP_Options"), is_row(row), columns=["_uuid"])
            for one, row in zip(strays, belongs_to, strict=True)
        ),
        deadline=deadline,
    )
    return [one for one, rows in zip(strays, found, strict=True) if not rows]


def _stray(row: Row, there: set[str]) -> Difference | None:
    """The difference that a row of DHCP_Options or DNS makes, or None; *there*: UUIDs of other rows.

    Any host can write that a row is another host's, or of another kind. A row counts as what its UUID follows
    from, and as nothing else.
    """
    ids, place = row["external_ids"], Leftovers.place
    switch, old = ids.get(SWITCH, ""), age(ids)
    endpoint = row_uuid("endpoint", EndpointId(ids.get(ENDPOINT, "")))
    kind, what, belongs_to, why, wanted = None, row.get("cidr", ""), "-", "", ""
    if ENDPOINT in ids and endpoint not in there:
        kind, belongs_to = (Kind.CLAIM if "cidr" in row else Kind.NAMES), endpoint
        if "cidr" in row:
            wanted = (name_row if RANK in ids else claim_row)(switch, row["cidr"])
        else:
            wanted = dns.names_row(EndpointId(ids[ENDPOINT]))
        why = "the port that it goes with has gone"
        what = what or ids.get(CONTAINER, ids[ENDPOINT])
    elif ids.get(STATE) == "leased":
        claim = claim_row(switch, row["cidr"])
        wanted = lease_row(switch, row["cidr"])
        if claim not in there and old > _UNUSED:
            kind, belongs_to, why = Kind.LEASE, claim, "Docker asked for it and no endpoint has it"
    elif SUBNET in ids and POOL in ids:
        wanted = ids[POOL]
        if ids.get(STATE) == "free" and old > _UNUSED:
            kind, why = Kind.POOL, "Docker asked for it and no network has it"
        elif switch and switch not in there and old > _UNUSED:
            kind, why = Kind.POOL, "its network has gone"
    if kind is None or row["_uuid"] != wanted:
        return None
    row_and_version = f"{row['_uuid']} {row['_version']} {belongs_to}"
    return Difference(kind, what, place, since(old), why, "delete it", row_and_version, ids.get(ENDPOINT, ""))


def _common(
    database: Database, deadline: Deadline, rested: float
) -> list[tuple[Difference, list[ovsdb.Operation]]]:
    """What belongs to no host and to nothing, addresses after *rested* seconds; and what deletes it."""
    leases, routers, switches, notes, allowed = database.transact(
        ovsdb.select("DHCP_Options", has("external_ids", {**OURS, STATE: "released"}),
                     columns=["_uuid", "_version", "cidr", "external_ids"]),
        ovsdb.select("Logical_Router", has("external_ids", OURS), columns=["_uuid", "name"]),
        ovsdb.select("Logical_Switch", has("external_ids", OURS), columns=["_uuid", "external_ids", "ports"]),
        ovsdb.select("DHCP_Options", has("external_ids", {**OURS, **NOTE}), columns=["external_ids"]),
        ovsdb.select("DHCP_Options", has("external_ids", {**OURS, **allowed_claims.KIND}),
                     columns=["_uuid", "_version", "cidr", "external_ids"]),
        deadline=deadline,
    )  # fmt: skip
    found = [*_released(leases, rested), *_allowed_to_none(database, allowed, deadline)]
    there = {row["_uuid"] for row in switches}
    for row in routers:
        switch = row["name"].removeprefix("resolver-")
        if is_uuid(switch) and switch not in there and row["_uuid"] == dns.resolver(switch):
            what = Difference(
                Kind.RESOLVER, row["name"], Leftovers.place, None, "its switch has gone", "delete it"
            )
            nowhere = require_none("Logical_Switch", is_row(switch))
            found.append((what, [nowhere, ovsdb.delete("Logical_Router", is_row(row["_uuid"]))]))
    noted = {row["external_ids"].get(SWITCH) for row in notes}
    for row in switches:
        ids = row["external_ids"]
        used = row["_uuid"] in noted or set(ovsdb.members(row["ports"])) - {dns.resolver_port(row["_uuid"])}
        if name_of(ids, row["_uuid"]) and not used and shared.useless(ids):
            what = Difference(Kind.NETWORK, ids[NAME], Leftovers.place, None,
                              "no host has it, and none will make it", "delete it")  # fmt: skip
            found.append((what, shared.delete_operations(row["_uuid"])))
    return found


def _released(rows: Iterable[Row], rested: float) -> Iterable[tuple[Difference, list[ovsdb.Operation]]]:
    for row in rows:
        ids, when = row["external_ids"], released(row["external_ids"]) or 0
        is_lease = row["_uuid"] == lease_row(ids.get(SWITCH, ""), row["cidr"])
        if is_lease and not -_LATELY < time.time() - when < rested:
            unchanged = ["_version", "==", ovsdb.encode(Reference(row["_version"]))]
            what = Difference(
                Kind.LEASE,
                row["cidr"],
                Leftovers.place,
                round(when),
                "it was released long ago",
                "delete it",
            )
            yield what, [ovsdb.delete("DHCP_Options", is_row(row["_uuid"]), unchanged)]


def _allowed_to_none(
    database: Database, rows: Iterable[Row], deadline: Deadline
) -> Iterable[tuple[Difference, list[ovsdb.Operation]]]:
    """Claims of allowed addresses all of whose endpoints have lost their ports."""
    for row in rows:
        ids = row["external_ids"]
        ours = row["_uuid"] == claim_row(ids.get(SWITCH, ""), row["cidr"])
        if ours and allowed_claims.alive(database, ids, deadline) is None:
            unchanged = ["_version", "==", ovsdb.encode(Reference(row["_version"]))]
            why = "no container that the address is allowed to has a port"
            what = Difference(Kind.CLAIM, row["cidr"], Leftovers.place, None, why, "delete it")
            yield what, [ovsdb.delete("DHCP_Options", is_row(row["_uuid"]), unchanged)]


def _cleared_lately(database: Database, deadline: Deadline) -> bool:
    (rows,) = database.transact(
        ovsdb.select("DHCP_Options", is_row(shared.GENERATION_ROW), columns=["external_ids"]),
        deadline=deadline,
    )
    when = whole_number(rows[0]["external_ids"].get(_CLEARED, "")) if rows else None
    return when is not None and abs(time.time() - when) < _LATELY


def _cleared_now() -> ovsdb.Operation:
    now: list[list[Any]] = [
        ["external_ids", "delete", [_CLEARED]],
        ["external_ids", "insert", {_CLEARED: str(int(time.time()))}],
    ]
    return ovsdb.mutate("DHCP_Options", is_row(shared.GENERATION_ROW), mutations=now)


def _done(database: Database | Locked, *operations: ovsdb.Operation, deadline: Deadline) -> bool:
    """Whether the conditions among the operations held, and the rest was done."""
    try:
        database.transact(*operations, deadline=deadline)
    except OperationError as error:
        if error.error != "timed out":
            raise
        return False
    return True
