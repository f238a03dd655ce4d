"""Deletion of shared networks that no host has any more."""

from collections.abc import Iterable, Mapping

from ovn_docker.backends.ovn import port_groups
from ovn_docker.backends.ovn.rows import (
    DEFINITION,
    INFRASTRUCTURE,
    NOTES,
    OURS,
    REMOVED,
    SWITCH,
    delete_where,
    is_infrastructure,
    resolver_port,
)
from ovn_docker.backends.ovn.shared.generation import announce
from ovn_docker.backends.ovn.shared.resolver import delete_resolver
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import ConditionFailed, Database, Operation, Reference, has, is_row, require


def is_dead(ids: Mapping[str, str]) -> bool:
    """Return whether no host will make a network, by its switch: it is removed, or has no definition."""
    return REMOVED in ids or DEFINITION not in ids


def delete_unused(database: Database, row: str, deadline: Deadline, *first: Operation) -> bool:
    """Delete the switch of a network that no host has and no endpoint uses; return False if one does.

    *first*: further conditions.
    """
    ports = infrastructure(database, row, deadline)
    try:
        database.transact(*first, *delete_operations(row, ports), deadline=deadline)
    except ConditionFailed:
        return False
    return True


def infrastructure(database: Database, switch: str, deadline: Deadline) -> set[str]:
    """Return the infrastructure ports of a logical switch. Searches all ports."""
    marked = has("external_ids", {**OURS, **INFRASTRUCTURE, SWITCH: switch})
    (found,) = database.transact(
        ovsdb.select("Logical_Switch_Port", marked, columns=["_uuid", "name", "type", "external_ids"]),
        deadline=deadline,
    )
    return {row.uuid for row in found if is_infrastructure(row)} | {resolver_port(switch)}


def delete_operations(switch: str, infrastructure: Iterable[str]) -> list[Operation]:
    """Return operations that delete a shared network if no host has it and no endpoint uses it.

    *infrastructure*: ports of the switch that are not endpoints. Ports of the user's own keep the switch.
    """
    ports = [Reference(port) for port in infrastructure]
    return [
        ovsdb.require_none("DHCP_Options", NOTES.where({SWITCH: switch})),
        *delete_resolver(switch),
        ovsdb.mutate("Logical_Switch", is_row(switch), mutations=[["ports", "delete", ports]]),
        require("Logical_Switch", switch, ["ports", "==", ["set", []]]),
        ovsdb.delete("Logical_Switch", is_row(switch)),
        *delete_where(SWITCH, has("external_ids", {**OURS, SWITCH: switch})),
        *port_groups.delete_all(switch),
        *announce(),
    ]
