"""Networks that have a name in the cluster: one logical switch, and a note for every host that has it.

The UUID of the switch follows from the name, so of two hosts that make it at once one succeeds and the other
joins. Its external_ids hold what the other hosts need to make the same network in their Docker. One row, the
*generation*, changes with any of this: it tells whether there is something to look for.
"""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ovn_docker.backends import dns
from ovn_docker.backends.northbound import HOST, NAME, NOTE, OURS, SWITCH, Connect, host_ids
from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, stored, switch_row, valid_name
from ovn_docker.errors import Conflict
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Operation, OperationError, has, is_row, require
from ovn_docker.model import Chassis, Definition, Network, SharedNetwork, row_uuid

_SHARED = {**OURS, "ovn-docker:shared": "true"}
SHARED = has("external_ids", _SHARED)
"""The condition that a row of Logical_Switch is of a network of the cluster."""

_DEFINITION = "ovn-docker:definition"
_REMOVED = "ovn-docker:removed"
_GENERATION = "ovn-docker:generation"
GENERATION_ROW = row_uuid("generation")
"""The row that is there as soon as there was a network of the cluster, whatever it says."""


class SharedNetworks:
    """The networks of the cluster, as the hosts' drivers keep them in step."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def generation(self, chassis: Chassis, deadline: Deadline) -> str:
        """A word that is another one after every change."""
        (rows,) = self._connect(chassis).transact(
            ovsdb.select("DHCP_Options", is_row(GENERATION_ROW), columns=["external_ids"]), deadline=deadline
        )
        return str(rows[0]["external_ids"].get(_GENERATION, "")) if rows else ""

    def networks(self, chassis: Chassis, deadline: Deadline) -> list[SharedNetwork]:
        """All networks of the cluster. A search through all switches."""
        (rows,) = self._connect(chassis).transact(
            ovsdb.select("Logical_Switch", SHARED, columns=["_uuid", "external_ids"]), deadline=deadline
        )
        return [read(row["_uuid"], row["external_ids"]) for row in rows]

    def define(self, definition: Definition, chassis: Chassis, deadline: Deadline) -> None:
        """Store a network's definition for the other hosts. The first that can be read counts.

        Raises Refused if the others could not read this one either.
        """
        row = is_row(switch_row(definition.name))
        database = self._connect(chassis)
        (rows,) = database.transact(
            ovsdb.select("Logical_Switch", row, columns=["_uuid", "external_ids"]), deadline=deadline
        )
        for found in rows:
            ids = found["external_ids"]
            stored(found["_uuid"], ids, definition.text)  # or all hosts would write it at every look
            mutations: list[list[Any]] = [["external_ids", "insert", {_DEFINITION: definition.text}]]
            if _DEFINITION in ids and read(found["_uuid"], ids).definition is None:
                mutations.insert(0, ["external_ids", "delete", {_DEFINITION: ids[_DEFINITION]}])
            database.transact(
                ovsdb.mutate("Logical_Switch", row, mutations=mutations), _changed(), deadline=deadline
            )


def read(row: str, ids: Mapping[str, str]) -> SharedNetwork:
    """The network of the cluster that a row of Logical_Switch describes by its external_ids.

    With a name that is not this row's it is refused, and no removal is believed either.
    """
    name = ids.get(NAME, "")
    try:
        valid_name(name, row)
    except Refused as refused:
        return SharedNetwork(name, None, removed=False, refused=refused.refusal)
    removed = _REMOVED in ids
    try:
        definition = stored(row, ids, ids[_DEFINITION]) if _DEFINITION in ids else None
    except Refused as refused:
        return SharedNetwork(name, None, removed, refused.refusal)
    return SharedNetwork(name, definition, removed)


def join(
    database: Database, network: Network, ids: dict[str, str], deadline: Deadline, *, followed: bool
) -> list[Operation]:
    """Operations that make the network's switch, or join the one that is there; *ids* describe it.

    *followed*: nobody here wants it, so one that was removed meanwhile stays so.
    Raises Conflict then, or if the switch has other subnets or options.
    """
    name = network.options.name or ""
    row = switch_row(name)
    (found, resolver, router, generation) = database.transact(
        ovsdb.select("Logical_Switch", is_row(row), columns=["external_ids"]),
        ovsdb.select("Logical_Switch_Port", is_row(dns.resolver_port(row)), columns=["_uuid"]),
        ovsdb.select("Logical_Router", is_row(dns.resolver(row)), columns=["_uuid"]),
        ovsdb.select("DHCP_Options", is_row(GENERATION_ROW), columns=["_uuid"]),
        deadline=deadline,
    )
    if not generation:
        try:
            database.transact(
                ovsdb.insert("DHCP_Options", GENERATION_ROW, cidr="", external_ids=OURS), deadline=deadline
            )
        except OperationError as error:
            if error.error != "duplicate uuid":
                raise
    if followed and not any(_REMOVED not in row["external_ids"] for row in found):
        raise Conflict(f"network {name} has just been removed on another host")
    if router and not resolver:
        dns.forget_resolver(database, row, deadline)
    if any(useless(there["external_ids"]) for there in found) and delete_unused(database, row, deadline):
        found, resolver = [], []  # a host that died had not finished its removal, or its making
    if not found:
        made = ovsdb.insert("Logical_Switch", row, name=name, external_ids={**_SHARED, **ids})
        return [made, *dns.make_resolver(row, ids), _changed()]
    _check_same(name, found[0]["external_ids"], ids)
    unmark: list[list[Any]] = [["external_ids", "delete", [_REMOVED]]]
    return [
        require("Logical_Switch", row),
        *([] if resolver else dns.make_resolver(row, ids)),  # earlier versions had none
        *([] if followed else [ovsdb.mutate("Logical_Switch", is_row(row), mutations=unmark)]),
        _changed(),
    ]


def note_ids(name: str, switch: str, chassis: Chassis) -> dict[str, str]:
    """What a host's note on a shared network says besides what it is."""
    return {NAME: name, SWITCH: switch, **host_ids(chassis), **NOTE}


def removal(name: str, chassis: Chassis) -> list[Operation]:
    """Operations that mark a network as removed: the other hosts give it up when they see that."""
    mark = [["external_ids", "insert", {_REMOVED: chassis.system_id}]]
    return [ovsdb.mutate("Logical_Switch", is_row(switch_row(name)), mutations=mark), _changed()]


def leave(database: Database, name: str, deadline: Deadline) -> None:
    """Delete a network that was removed if no other host has it any more.

    Raises Conflict that names those with containers on it.
    """
    row = switch_row(name)
    if not delete_unused(database, row, deadline):
        of_switch = has("external_ids", {**OURS, SWITCH: row})
        (ports,) = database.transact(
            ovsdb.select("Logical_Switch_Port", of_switch, columns=["external_ids"]), deadline=deadline
        )
        users = sorted({ids[HOST] for port in ports if HOST in (ids := port["external_ids"])})
        if users:
            raise Conflict(
                f"network {name} still has containers on {', '.join(users)}; it goes there when they do"
            )


def give_up(database: Database, name: str, deadline: Deadline) -> None:
    """A host does not have the network, though nobody has removed it: the others', and its making, stay.

    It goes if no host has it and none can make it: it is marked as removed, or nobody told how it was made.
    """
    (rows,) = database.transact(
        ovsdb.select("Logical_Switch", is_row(switch_row(name)), columns=["external_ids"]), deadline=deadline
    )
    if any(useless(row["external_ids"]) for row in rows):
        delete_unused(database, switch_row(name), deadline)


def useless(ids: dict[str, str]) -> bool:
    """Whether no host would make this network in its Docker, going by what its switch says."""
    return _REMOVED in ids or _DEFINITION not in ids


def delete_unused(database: Database, row: str, deadline: Deadline, *first: Operation) -> bool:
    """Delete the switch of a network that no host has and no container uses; False if one does.

    *first*: conditions.
    """
    try:
        database.transact(*first, *delete_operations(row), deadline=deadline)
    except OperationError as error:
        if error.error != "timed out":
            raise
        return False
    return True


def delete_operations(row: str) -> list[Operation]:
    """Operations that delete a switch and what belongs to it, if no host has it and no container uses it."""
    return [
        ovsdb.require_none("DHCP_Options", has("external_ids", {**OURS, **NOTE, SWITCH: row})),
        *dns.remove_resolver(row),
        require("Logical_Switch", row, ["ports", "==", ["set", []]]),
        ovsdb.delete("Logical_Switch", is_row(row)),
        ovsdb.delete("DHCP_Options", has("external_ids", {**OURS, SWITCH: row})),
        _changed(),
    ]


def _check_same(name: str, there: dict[str, str], wanted: dict[str, str]) -> None:
    for key in ("subnet", "subnet6", "gateway_ip", "gateway_ip6", "ovn-docker:internal", "ovn-docker:mtu"):
        if there.get(key, "") != wanted.get(key, ""):
            raise Conflict(
                f"network {name} has {key.removeprefix('ovn-docker:')} {there.get(key, 'none')} in the "
                f"cluster, asked for was {wanted.get(key, 'none')}; create it as it is there, or give it "
                "another name"
            )


def _changed() -> Operation:
    mutations: list[list[Any]] = [
        ["external_ids", "delete", [_GENERATION]],
        ["external_ids", "insert", {_GENERATION: str(uuid4())}],
    ]
    return ovsdb.mutate("DHCP_Options", is_row(GENERATION_ROW), mutations=mutations)
