"""What a host that is gone for good has left in the northbound database, and whether it is gone.

Addresses, ports and notes of a host are otherwise removed by its own driver alone.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from ovn_docker.backends import dns, shared
from ovn_docker.backends.northbound import (
    CONTAINER,
    ENDPOINT,
    HOST,
    NETWORK,
    NOTE,
    OURS,
    QUIET_TABLE,
    SWITCH,
    Connect,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import (
    Condition,
    Database,
    OperationError,
    Reference,
    Row,
    has,
    is_row,
    is_uuid,
    require,
)
from ovn_docker.model import Chassis

KINDS = ("port", "name", "claim", "lease", "pool", "note", "departure", "report", "network")


@dataclass(frozen=True, slots=True)
class Belonging:
    """A row of a host: *kind* is one of KINDS, *what* its name or its addresses.

    A network of the cluster is no host's; one that others have attached to stays.
    """

    kind: str
    what: str
    row: str
    switch: str
    switch_name: str
    endpoint: str = ""


def belongings(database: Database, host: str, deadline: Deadline) -> list[Belonging]:
    """All rows of a host. A search through whole tables.

    But for the pool of a network that is not its alone: with a key-value store all hosts draw from it.
    """
    of_host = has("external_ids", {**OURS, HOST: host})
    ports, names, others, reports, switches = database.transact(
        ovsdb.select("Logical_Switch_Port", of_host, columns=["_uuid", "name", "external_ids"]),
        ovsdb.select("DNS", of_host, columns=["_uuid", "records", "external_ids"]),
        ovsdb.select("DHCP_Options", of_host, columns=["_uuid", "cidr", "external_ids"]),
        ovsdb.select(QUIET_TABLE, of_host, columns=["_uuid"]),
        ovsdb.select("Logical_Switch", columns=["_uuid", "name", "external_ids"]),
        deadline=deadline,
    )
    switch_names = {switch["_uuid"]: switch["name"] for switch in switches}
    own = {**OURS, HOST: host}.items()
    networks = [switch for switch in switches if own <= switch["external_ids"].items()]
    noted = {row["external_ids"].get(NETWORK) for row in others if _kind(row) == "note"}
    noted |= {switch["external_ids"].get(NETWORK) for switch in networks}
    found = [Belonging("network", row["name"], row["_uuid"], row["_uuid"], row["name"]) for row in networks]
    found += [Belonging("report", "-", row["_uuid"], "", "-") for row in reports]
    for row in (*ports, *names, *others):
        kind, ids = _kind(row), row["external_ids"]
        switch = ids.get(SWITCH, "")
        if kind == "pool" and switch and ids.get(NETWORK) not in noted:
            continue
        what = {"port": row.get("name"), "name": ids.get(CONTAINER)}.get(kind, row.get("cidr"))
        name = switch_names.get(switch, "-")
        found.append(Belonging(kind, str(what), row["_uuid"], switch, name, ids.get(ENDPOINT, "")))
    return sorted(found, key=lambda one: (KINDS.index(one.kind), one.switch_name, one.what))


def forget(database: Database, host: str, found: list[Belonging], deadline: Deadline) -> None:
    """Delete these rows of a host, in one transaction; those that have gone meanwhile are fine."""
    ports: dict[str, list[Reference]] = {}
    names: dict[str, list[str]] = {}
    for one in found:
        if one.kind == "port":
            ports.setdefault(one.switch, []).append(Reference(one.row))
        elif one.kind == "name":
            names.setdefault(one.switch, []).append(one.row)
    of_host = has("external_ids", {**OURS, HOST: host})
    database.transact(
        *(
            ovsdb.mutate("Logical_Switch", _with_ports(switch, row), mutations=[["ports", "delete", [row]]])
            for switch, rows in ports.items()
            for row in rows
        ),
        *(operation for switch, rows in names.items() for operation in dns.forget(switch, rows)),
        *(
            ovsdb.delete(QUIET_TABLE if one.kind == "report" else "DHCP_Options", is_row(one.row), of_host)
            for one in found
            if one.kind not in {"port", "name", "network"}
        ),
        deadline=deadline,
    )
    for one in found:
        if one.kind == "network":
            own = require("Logical_Switch", one.row, of_host)
            shared.delete_unused(database, one.row, deadline, own)  # unless others have attached to it


def _with_ports(switch: str, port: Reference) -> Condition:
    """The condition of the switch that has a port, also if the port's row does not say which it is."""
    return is_row(switch) if is_uuid(switch) else ["ports", "includes", ovsdb.encode([port])]


def finish_removals(connect: Connect, chassis: Chassis, deadline: Deadline) -> None:
    """Delete the networks of the cluster that were removed and that no host has any more.

    Without this they would wait for ever for the host that is gone to give them up.
    """
    for network in shared.SharedNetworks(connect).networks(chassis, deadline):
        if network.removed:
            with contextlib.suppress(Conflict):  # containers of other hosts are on it
                shared.leave(connect(chassis), network.name, deadline)


def at_work_elsewhere(
    southbound: Database, host: str, found: list[Belonging], deadline: Deadline
) -> set[str]:
    """Rows of the ports that a chassis other than *host* has at work, with all that is their endpoints'.

    Any host can write that another's port is that of a host that is gone; southbound, with access control, no
    host can say that it is at work on another one.
    """
    ports = [one for one in found if one.kind == "port"]
    chassis, *bindings = southbound.transact(
        ovsdb.select("Chassis", columns=["_uuid", "name"]),
        *(
            ovsdb.select("Port_Binding", ["logical_port", "==", one.what], columns=["chassis"])
            for one in ports
        ),
        deadline=deadline,
    )
    others = {row["_uuid"] for row in chassis if row["name"] != host}
    busy = {
        one.endpoint
        for one, rows in zip(ports, bindings, strict=True)
        if any(row["chassis"] in others for row in rows if isinstance(row["chassis"], str))
    }
    return {one.row for one in found if one.endpoint and one.endpoint in busy}


def registered(southbound: Database, host: str, deadline: Deadline) -> bool:
    """Whether OVN knows the host: ovn-controller removes its row as it stops, but not in a power cut."""
    (rows,) = southbound.transact(
        ovsdb.select("Chassis", ["name", "==", host], columns=["_uuid"]), deadline=deadline
    )
    return bool(rows)


def absent(southbound: Database, hosts: Iterable[str], deadline: Deadline) -> list[str]:
    """Those of some hosts that OVN does not know: stopped, or gone for good."""
    (rows,) = southbound.transact(ovsdb.select("Chassis", columns=["name"]), deadline=deadline)
    return sorted(set(hosts) - {row["name"] for row in rows})


def answers(northbound: Database, southbound: Database, host: str, deadline: Deadline) -> bool:
    """Whether the host's ovn-controller takes part in OVN now, asked as ``ovn-nbctl --wait=hv sync`` asks.

    A higher ``nb_cfg`` goes from the northbound database by ovn-northd to every controller, which writes
    it into its row of Chassis_Private (ovn-nb(5), ovn-sb(5)): milliseconds. *deadline*: how long to listen.
    Raises Unavailable if not even ovn-northd has answered then.
    """
    _, (globals_,) = northbound.transact(
        ovsdb.mutate("NB_Global", mutations=[["nb_cfg", "+=", 1]]),
        ovsdb.select("NB_Global", columns=["nb_cfg"]),
        deadline=deadline,
    )
    number = globals_["nb_cfg"]
    if _reaches(southbound, number, "Chassis_Private", ["name", "==", host], wait=deadline.left()):
        return True
    if not _reaches(southbound, number, "SB_Global", wait=0):
        raise Unavailable(
            f"ovn-northd does not answer, so nobody can tell whether {host} is alive; "
            "start it on the central machine with: ovn-docker central start, or say --force"
        )
    return False


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
    except OperationError as error:
        if error.error != "timed out":
            raise
        return False
    return True


def _kind(row: Row) -> str:
    ids = row["external_ids"]
    if "name" in row:
        return "port"
    if "records" in row:
        return "name"
    if ENDPOINT in ids:
        return "claim"
    if NOTE.items() <= ids.items():
        return "note"
    if shared.LEFT.items() <= ids.items():
        return "departure"
    return "pool" if "ovn-docker:subnet" in ids else "lease"
