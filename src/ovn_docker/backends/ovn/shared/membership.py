"""A host's membership in a shared network: how it joins, notes, leaves and removes one.

A host that has the network has a *note* of it. The UUID of the switch follows from the name, so of two hosts
that make the switch at once one succeeds and the other joins.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from ovn_docker.backends.ovn import acls
from ovn_docker.backends.ovn.records import DESCRIBED, make_switch
from ovn_docker.backends.ovn.rows import (
    DEFINITION,
    DEPARTURES,
    FORCED,
    HOST,
    INCARNATION,
    IS_ENDPOINT,
    NAME,
    NETWORK,
    NOTES,
    OURS,
    REMOVED,
    SHARED_NETWORKS,
    SWITCH,
    USED,
    departure_row,
    host_ids,
    note_row,
    resolver_port,
    resolver_row,
)
from ovn_docker.backends.ovn.shared.deletion import delete_unused, is_dead
from ovn_docker.backends.ovn.shared.generation import announce, generation_rows, making_generation
from ovn_docker.backends.ovn.shared.resolver import (
    delete_stale_resolver,
    make_resolver,
    mend_resolver,
    resolver_parts,
)
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import Conflict, OtherSettings, OtherSharedSubnets, StillRemoved, SubnetThere
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import made_now
from ovn_docker.host.ovsdb import Database, DuplicateRow, Operation, has, is_row, require
from ovn_docker.model import Chassis, Network, NetworkId

_NOTING = 2.0
"""Seconds within which a host notes that its last container on a network is gone (core/follower.py)."""

OF_INCARNATION = frozenset({INCARNATION, USED})
"""Keys of a note that change while the network stays the same."""


def join(
    database: Database,
    network: Network,
    ids: dict[str, str],
    chassis: Chassis,
    deadline: Deadline,
    *,
    followed: bool,
) -> tuple[list[Operation], str]:
    """Return operations that make a network's switch, or join the existing one, and the incarnation.

    *ids* describe the network. A network that was removed, and whose switch exists because a host has not
    given it up yet, begins a new incarnation. The operations fail with "timed out" if another host has begun
    one meanwhile.

    *followed*: no user of this host asked for the network, so one that was removed meanwhile stays removed.
    Raises Conflict then, and OtherSettings or OtherSharedSubnets if the switch has others.
    """
    name = network.options.name or ""
    row = switch_row(name)
    (found, resolver, router, *generation) = database.transact(
        ovsdb.select("Logical_Switch", is_row(row), columns=["external_ids"]),
        ovsdb.select("Logical_Switch_Port", is_row(resolver_port(row)), columns=["_uuid"]),
        ovsdb.select("Logical_Router", is_row(resolver_row(row)), columns=["_uuid"]),
        *generation_rows(),
        deadline=deadline,
    )
    if making := making_generation(generation):
        with suppress(DuplicateRow):
            database.transact(*making, deadline=deadline)
    if followed and not any(REMOVED not in row.map("external_ids") for row in found):
        raise Conflict(f"network {name} has just been removed on another host")
    if router and not resolver:
        delete_stale_resolver(database, row, deadline)
    if any(is_dead(there.map("external_ids")) for there in found) and delete_unused(database, row, deadline):
        found, resolver = [], []  # a host that died had not finished its removal, or its making
    if not found:
        incarnation = str(uuid4())
        made = make_switch(SHARED_NETWORKS, row, name, {**ids, INCARNATION: incarnation})
        return [*made, *make_resolver(row, ids), *announce()], incarnation
    there = found[0].map("external_ids")
    _check_same(name, there, ids)
    before = incarnation = there.get(INCARNATION, "")
    unmark: list[list[Any]] = [["external_ids", "delete", [REMOVED, FORCED]]]
    if REMOVED in there:
        incarnation = str(uuid4())
        unmark = [
            ["external_ids", "delete", [REMOVED, FORCED, DEFINITION, INCARNATION]],
            ["external_ids", "insert", {INCARNATION: incarnation}],
        ]
    # A host that follows leaves the generation alone: a change would wake all hosts.
    wanted = [] if followed else [ovsdb.mutate("Logical_Switch", is_row(row), mutations=unmark), *announce()]
    return [
        require_incarnation(row, before),
        *([] if resolver else make_resolver(row, ids)),  # an early version made none
        *wanted,
        ovsdb.delete("DHCP_Options", is_row(departure_row(name, incarnation, chassis.system_id))),
    ], incarnation


def remaking(
    database: Database,
    network: NetworkId,
    name: str,
    ids: dict[str, str],
    chassis: Chassis,
    deadline: Deadline,
    *,
    used: bool,
) -> list[Operation]:
    """Return operations that make the missing rows of a network that this host's Docker has.

    *ids* describe the network; *used*: containers of this host belong to it. The incarnation of the switch or
    of this host's note is continued; a removal is not revoked, which the follower decides. The operations
    fail with "timed out" or "duplicate uuid" if another host has made or removed rows meanwhile. Raises
    Conflict if the cluster has a different network of that name by now.
    """
    row = switch_row(name)
    found, notes, router, forgetful, peer, port, *generation = database.transact(
        ovsdb.select("Logical_Switch", is_row(row), columns=["external_ids"]),
        ovsdb.select("DHCP_Options", is_row(note_row(network)), columns=["external_ids"]),
        *resolver_parts(row),
        *generation_rows(),
        deadline=deadline,
    )
    incarnations = (one.map("external_ids").get(INCARNATION, "") for one in (*notes, *found))
    incarnation = next(incarnations, str(uuid4()))
    operations = making_generation(generation)
    if found:
        there = found[0].map("external_ids")
        if differs(there, ids):
            raise Conflict(
                f"network {name} has other subnets or options in the cluster by now; remove its containers "
                "and then the network from this host"
            )
        operations.append(require_incarnation(row, there.get(INCARNATION, "")))
        operations += acls.mend(database, row, acls.of_network(row, ids), deadline)
    else:
        described = {**ids, NAME: name, INCARNATION: incarnation}
        described.pop(NETWORK, None)
        operations += make_switch(SHARED_NETWORKS, row, name, described)
    parts = {"router": router, "forgetful": forgetful, "peer": peer, "port": port}
    operations += mend_resolver(row, ids, **{part: bool(rows) for part, rows in parts.items()})
    if not notes:
        if found:
            incarnation = found[0].map("external_ids").get(INCARNATION, "")
        note = {**ids, **note_ids(name, row, incarnation, chassis), USED: str(used).lower(), **made_now()}
        operations += [
            NOTES.insert(note_row(network), note, cidr=ids.get("subnet", "")),
            ovsdb.delete("DHCP_Options", is_row(departure_row(name, incarnation, chassis.system_id))),
        ]
    return [*operations, *announce()]


def give_way(database: Database, name: str, chassis: Chassis, deadline: Deadline) -> None:
    """Have this host's follower make the shared network in place of the one that Docker is making."""
    switch = is_row(switch_row(name))
    (found,) = database.transact(
        ovsdb.select("Logical_Switch", switch, columns=["external_ids"]), deadline=deadline
    )
    incarnations = {row.map("external_ids").get(INCARNATION, "") for row in found}
    database.transact(
        *(
            ovsdb.delete("DHCP_Options", is_row(departure_row(name, incarnation, chassis.system_id)))
            for incarnation in incarnations
        ),
        deadline=deadline,
    )


def note_ids(name: str, switch: str, incarnation: str, chassis: Chassis) -> dict[str, str]:
    """Return external_ids of a host's note on a shared network, besides the description of the network."""
    of_host = host_ids(chassis)
    return {NAME: name, SWITCH: switch, **of_host, INCARNATION: incarnation, USED: "false"}


def removal(name: str, note: Mapping[str, str], chassis: Chassis, deadline: Deadline) -> list[Operation]:
    """Return operations that mark a network as removed; other hosts read the mark and give the network up.

    *note*: external_ids of this host's note. The operations fail with "timed out" if a container of another
    host, running or stopped, belongs to the network, or if the incarnation of the note is over. A host notes
    after a moment that its last container is gone: the operations wait for that.
    """
    wait = max(0.0, deadline.left(at_most=_NOTING + 0.5) - 0.5)
    switch = switch_row(name)
    of_switch = has("external_ids", {**OURS, SWITCH: switch})
    others = ["external_ids", "excludes", ovsdb.encode({HOST: chassis.system_id})]
    mark = [["external_ids", "insert", {REMOVED: chassis.system_id}]]
    return [
        require_incarnation(switch, note.get(INCARNATION, "")),
        ovsdb.require_none("DHCP_Options", of_switch, others, NOTES.where({USED: "true"}), wait=wait),
        ovsdb.require_none("Logical_Switch_Port", of_switch, others, IS_ENDPOINT),
        ovsdb.mutate("Logical_Switch", is_row(switch), mutations=mark),
        *announce(),
    ]


def departure(name: str, note: Mapping[str, str], chassis: Chassis) -> list[Operation]:
    """Return operations that store this host's departure from a network that stays; *note*: see removal().

    Without a departure the host's follower would make the network again.
    """
    switch, incarnation = switch_row(name), note.get(INCARNATION, "")
    ids = {**host_ids(chassis), NAME: name, SWITCH: switch, INCARNATION: incarnation}
    return [
        require_incarnation(switch, incarnation),
        DEPARTURES.insert(departure_row(name, incarnation, chassis.system_id), ids, cidr=""),
    ]


def leave(database: Database, name: str, deadline: Deadline) -> None:
    """Delete a removed network if no other host has it any more.

    Raises Conflict with the hosts that have containers on it.
    """
    row = switch_row(name)
    if not delete_unused(database, row, deadline):
        of_switch = has("external_ids", {**OURS, SWITCH: row})
        (ports,) = database.transact(
            ovsdb.select("Logical_Switch_Port", of_switch, IS_ENDPOINT, columns=["external_ids"]),
            deadline=deadline,
        )
        users = sorted({ids[HOST] for port in ports if HOST in (ids := port.map("external_ids"))})
        if users:
            raise Conflict(
                f"network {name} still has containers on {', '.join(users)}; it is removed when they are"
            )


def give_up(database: Database, name: str, deadline: Deadline) -> None:
    """Delete a network that this host does not have any more, if it is dead and no other host has it."""
    (rows,) = database.transact(
        ovsdb.select("Logical_Switch", is_row(switch_row(name)), columns=["external_ids"]), deadline=deadline
    )
    if any(is_dead(row.map("external_ids")) for row in rows):
        delete_unused(database, switch_row(name), deadline)


def differs(there: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return whether two descriptions of a network differ."""
    return bool(_differing(there, wanted))


def _differing(there: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [key for key in DESCRIBED if there.get(key, "") != wanted.get(key, "")]


def _check_same(name: str, there: dict[str, str], wanted: dict[str, str]) -> None:
    different = _differing(there, wanted)
    if not different:
        return
    key = different[0]  # subnets come first
    setting = key.removeprefix("ovn-docker:"), there.get(key, "none"), wanted.get(key, "none")
    if REMOVED in there:
        raise StillRemoved(name, *setting)
    subnets = [one for one in different if one in {"subnet", "subnet6"}]
    if not subnets:
        raise OtherSettings(name, *setting)
    asked = frozenset(wanted[one] for one in subnets if one in wanted and one in there)
    same = len(asked) == len(subnets) and {*different} <= {*subnets, "gateway_ip", "gateway_ip6"}
    raise OtherSharedSubnets(
        name,
        *setting,
        subnets=[
            SubnetThere(there[f"subnet{version}"], there.get(f"gateway_ip{version}", ""))
            for version in ("", "6")
            if f"subnet{version}" in there
        ],
        replaceable=asked if same else frozenset(),
    )


def require_incarnation(switch: str, incarnation: str) -> Operation:
    """Return the condition that a network is in *incarnation*, or exists if *incarnation* is empty.

    Rows of early versions have no incarnation.
    """
    same = [has("external_ids", {INCARNATION: incarnation})] if incarnation else []
    return require("Logical_Switch", switch, *same)
