"""Groups of containers as port groups of OVN, one for each group of a logical switch that has a container.

OVN makes address sets of the members' addresses, too (ovn-nb(5), "Port_Group"). A deleted port leaves its
groups by itself: a port group refers to its ports weakly.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from ovn_docker.backends.ovn.rows import GROUP, GROUPS, OURS, PORT_GROUPS, SWITCH, group_name, group_row
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Condition, Database, Operation, Reference, has, is_row, require
from ovn_docker.model import EndpointId, row_uuid
from ovn_docker.policy import group_names


def ids(groups: tuple[str, ...]) -> dict[str, str]:
    """Return external_ids of the port of an endpoint that belongs to *groups*."""
    return {GROUPS: group_names.join(groups)} if groups else {}


def stored(port: Mapping[str, str]) -> tuple[str, ...]:
    """Return the groups in the external_ids of a port; none for a value that no user can give."""
    with suppress(ValueError):
        return group_names.parse(port.get(GROUPS, ""))
    return ()


def join(
    database: Database, switch: str, groups: Iterable[str], endpoint: EndpointId, deadline: Deadline
) -> list[Operation]:
    """Return operations that put the port of an endpoint into groups, which are made if they are missing.

    The operations fail with "timed out" or "duplicate uuid" if another host deletes or makes one meanwhile.
    A group with another name or external_ids than follow from it, as any host can write, gets the right ones.
    """
    rows = {group_row(switch, group): group for group in groups}
    if not rows:
        return []
    found = database.transact(
        *(ovsdb.select("Port_Group", is_row(row), columns=["name", "external_ids"]) for row in rows),
        deadline=deadline,
    )
    port = Reference(row_uuid("endpoint", endpoint))
    operations: list[Operation] = []
    for (row, group), there in zip(rows.items(), found, strict=True):
        name, wanted = group_name(switch, group), PORT_GROUPS.ids({SWITCH: switch, GROUP: group})
        same_name: list[Condition] = [["name", "==", name], ["_uuid", "!=", ovsdb.encode(Reference(row))]]
        operations.append(ovsdb.delete("Port_Group", *same_name, has("external_ids", OURS)))
        if not there:
            operations.append(PORT_GROUPS.insert(row, wanted, name=name, ports=[port]))
            continue
        operations.append(require("Port_Group", row))
        if there[0].text("name") != name or there[0].map("external_ids") != wanted:
            operations.append(ovsdb.update("Port_Group", is_row(row), name=name, external_ids=wanted))
        operations.append(ovsdb.mutate("Port_Group", is_row(row), mutations=[["ports", "insert", [port]]]))
    return operations


def leave(switch: str, groups: Iterable[str], endpoint: EndpointId) -> list[Operation]:
    """Return operations that take a port out of groups, and delete the groups that have no port then.

    A group to which somebody has attached access rules stays.
    """
    port = Reference(row_uuid("endpoint", endpoint))
    operations = []
    for row in (group_row(switch, group) for group in groups):
        operations += [
            ovsdb.mutate("Port_Group", is_row(row), mutations=[["ports", "delete", [port]]]),
            ovsdb.delete("Port_Group", is_row(row), PORT_GROUPS.where({SWITCH: switch}), *IS_UNUSED),
        ]
    return operations


IS_UNUSED: tuple[Condition, ...] = (["ports", "==", ["set", []]], ["acls", "==", ["set", []]])
"""The conditions that a group has no port, and that nobody has attached access rules to it."""


def is_member(switch: str, group: str, endpoint: EndpointId) -> Operation:
    """Return the operation that selects a group if it is as it should be, and has an endpoint's port."""
    port = Reference(row_uuid("endpoint", endpoint))
    return ovsdb.select(
        "Port_Group",
        is_row(group_row(switch, group)),
        ["name", "==", group_name(switch, group)],
        PORT_GROUPS.where({SWITCH: switch, GROUP: group}),
        ["ports", "includes", ovsdb.encode([port])],
        columns=["_uuid"],
    )


def delete_all(switch: str) -> list[Operation]:
    """Return operations that delete all groups of a switch; none without a *switch*."""
    return [ovsdb.delete("Port_Group", PORT_GROUPS.where({SWITCH: switch}))] if switch else []
