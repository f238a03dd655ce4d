"""Rows that a host which is gone for good has left in the northbound database, and whether it is gone.

Otherwise a host's own driver alone deletes them.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from ovn_docker.backends.ovn import rows
from ovn_docker.backends.ovn.northbound import Connect
from ovn_docker.backends.ovn.rows import (
    ENDPOINT,
    HOST,
    IDENTITY,
    KINDS,
    NETWORK,
    NETWORKS,
    NOTES,
    POOLS,
    SWITCH,
    kind_of,
)
from ovn_docker.backends.ovn.shared import membership
from ovn_docker.backends.ovn.shared.container_names import delete_names
from ovn_docker.backends.ovn.shared.deletion import delete_unused
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import (
    Condition,
    ConditionFailed,
    Database,
    Operation,
    Reference,
    is_row,
    is_uuid,
    require,
)
from ovn_docker.model import Chassis

_UNKNOWN = "row"
"""Word for a row of the host that is not of a known kind, such as one that a later version has written."""

_ORDER = [*dict.fromkeys(kind.word for kind in KINDS if HOST in kind.owners), _UNKNOWN]


@dataclass(frozen=True, slots=True)
class Belonging:
    """A row of a host. *kind*: the word for its kind; *what*: its name or its address.

    A shared network belongs to no host; a network of the host that others have attached to stays.
    """

    kind: str
    what: str
    table: str
    row: str
    switch: str
    switch_name: str
    endpoint: str = ""


def belongings(database: Database, host: str, deadline: Deadline) -> list[Belonging]:
    """Return all rows of a host. Searches whole tables.

    The pool of a network that other hosts have is left out: with a key-value store all hosts lease from it.
    """
    tables = rows.tables(HOST)
    *results, switches = database.transact(
        *(
            ovsdb.select(table, rows.of_host(host), columns=["_uuid", "external_ids", *IDENTITY[table]])
            for table in tables
        ),
        ovsdb.select("Logical_Switch", columns=["_uuid", "name"]),
        deadline=deadline,
    )
    found = [
        (table, row, kind_of(table, row))
        for table, rows_of in zip(tables, results, strict=True)
        for row in rows_of
    ]
    switch_names = {switch.uuid: switch.text("name") for switch in switches}
    networks = {row.map("external_ids").get(NETWORK) for _, row, kind in found if kind in (NETWORKS, NOTES)}
    belonging = []
    for table, row, kind in found:
        ids = row.map("external_ids")
        switch = row.uuid if table == "Logical_Switch" else ids.get(SWITCH, "")
        if kind is POOLS and switch and ids.get(NETWORK) not in networks:
            continue
        word, what = _UNKNOWN, row.uuid
        if kind and HOST in kind.owners:
            word, what = kind.word, kind.shown(row)
        name = switch_names.get(switch, "-")
        belonging.append(Belonging(word, what, table, row.uuid, switch, name, ids.get(ENDPOINT, "")))
    return sorted(belonging, key=lambda one: (_ORDER.index(one.kind), one.switch_name, one.what))


def forget(database: Database, host: str, found: list[Belonging], deadline: Deadline) -> None:
    """Delete these rows of a host, in one transaction; rows that have gone meanwhile are no error."""
    names: dict[str, list[str]] = {}
    operations: list[Operation] = []
    for one in found:
        if one.table == "Logical_Switch_Port":
            port = Reference(one.row)
            taken_off = [["ports", "delete", [port]]]
            operations.append(
                ovsdb.mutate("Logical_Switch", _with_port(one.switch, port), mutations=taken_off)
            )
        elif one.table == "DNS":
            names.setdefault(one.switch, []).append(one.row)
        elif one.table != "Logical_Switch":
            operations.append(ovsdb.delete(one.table, is_row(one.row), rows.of_host(host)))
    for switch, of_switch in names.items():
        operations += delete_names(switch, of_switch)
    database.transact(*operations, deadline=deadline)
    for one in found:
        if one.table == "Logical_Switch":  # unless others have attached to it
            own = require("Logical_Switch", one.row, rows.of_host(host))
            delete_unused(database, one.row, deadline, own)


def _with_port(switch: str, port: Reference) -> Condition:
    """Return the condition that a switch has the port, also if the port's row does not say which it is."""
    return is_row(switch) if is_uuid(switch) else ["ports", "includes", ovsdb.encode([port])]


def finish_removals(connect: Connect, chassis: Chassis, deadline: Deadline) -> None:
    """Delete the shared networks that were removed and that no host has any more.

    Otherwise these networks would stay: the lost host does not give them up.
    """
    for network in SharedNetworks(connect).networks(chassis, deadline):
        if network.removed:
            with contextlib.suppress(Conflict):  # containers of other hosts are on it
                membership.leave(connect(chassis), network.name, deadline)


def bound_elsewhere(southbound: Database, host: str, found: list[Belonging], deadline: Deadline) -> set[str]:
    """Return the rows of endpoints whose port a chassis other than *host* has bound.

    Any host can write that another's port is that of a lost host; southbound, with access control, no host
    can bind a port to another chassis.
    """
    ports = [one for one in found if one.table == "Logical_Switch_Port"]
    chassis, *bindings = southbound.transact(
        ovsdb.select("Chassis", columns=["_uuid", "name"]),
        *(
            ovsdb.select("Port_Binding", ["logical_port", "==", one.what], columns=["chassis"])
            for one in ports
        ),
        deadline=deadline,
    )
    others = {row.uuid for row in chassis if row.text("name") != host}
    bound = {
        one.endpoint
        for one, of_port in zip(ports, bindings, strict=True)
        if any(row.optional("chassis", str) in others for row in of_port)
    }
    return {one.row for one in found if one.endpoint and one.endpoint in bound}


def registered(southbound: Database, host: str, deadline: Deadline) -> bool:
    """Return whether OVN has the chassis: ovn-controller deletes it when it stops, not in a power cut."""
    (found,) = southbound.transact(
        ovsdb.select("Chassis", ["name", "==", host], columns=["_uuid"]), deadline=deadline
    )
    return bool(found)


def absent(southbound: Database, hosts: Iterable[str], deadline: Deadline) -> list[str]:
    """Return those of some hosts that OVN has no chassis of: stopped, or gone for good."""
    (found,) = southbound.transact(ovsdb.select("Chassis", columns=["name"]), deadline=deadline)
    return sorted(set(hosts) - {row.text("name") for row in found})


def answers(northbound: Database, southbound: Database, host: str, deadline: Deadline) -> bool | None:
    """Return whether the host's ovn-controller replies now, asked as ``ovn-nbctl --wait=hv sync`` asks.

    ovn-northd copies a higher ``nb_cfg`` from the northbound database to the southbound one, and every
    ovn-controller writes it into its row of Chassis_Private (ovn-nb(5), ovn-sb(5)): milliseconds.
    *deadline*: how long to wait. Returns ``None`` if not even ovn-northd has replied then.
    """
    _, (globals_,) = northbound.transact(
        ovsdb.mutate("NB_Global", mutations=[["nb_cfg", "+=", 1]]),
        ovsdb.select("NB_Global", columns=["nb_cfg"]),
        deadline=deadline,
    )
    number = globals_.number("nb_cfg")
    if _reaches(southbound, number, "Chassis_Private", ["name", "==", host], wait=deadline.left()):
        return True
    return False if _reaches(southbound, number, "SB_Global", wait=0) else None


def _reaches(southbound: Database, number: int, table: str, *where: Condition, wait: float) -> bool:
    """Wait until the table has a row whose nb_cfg is *number* or higher (RFC 7047, 5.2.6)."""
    operation = {
        "op": "wait",
        "timeout": int(wait * 1000),
        "table": table,
        "where": [*where, ["nb_cfg", ">=", number]],
        "columns": ["nb_cfg"],
        "until": "!=",
        "rows": [],
    }
    try:
        southbound.transact(operation, deadline=Deadline(wait + 5))
    except ConditionFailed:
        return False
    return True
