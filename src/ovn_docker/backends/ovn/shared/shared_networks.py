"""The shared networks as the database has them, for the followers that keep their hosts in step.

The external_ids of a network's switch hold what other hosts need to make the same network in their Docker.
The *generation* changes with any of these rows: hosts watch it and read the rest only after a change.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ovn_docker.backends.ovn.northbound import Connect
from ovn_docker.backends.ovn.rows import (
    DEFINITION,
    FORCED,
    HOST,
    INCARNATION,
    INTERNAL,
    IS_ENDPOINT,
    NAME,
    NOTES,
    OURS,
    QUIET_TABLE,
    REMOVED,
    SHARED_NETWORKS,
    SWITCH,
    USED,
    WATCHED_ROW,
    departure_row,
    note_row,
)
from ovn_docker.backends.ovn.shared.deletion import delete_unused
from ovn_docker.backends.ovn.shared.generation import announce
from ovn_docker.backends.ovn.shared.membership import require_incarnation
from ovn_docker.backends.ovn.shared.reports import Reports
from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, parse_text, shown, switch_row, valid_name
from ovn_docker.errors import Conflict, NotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import ConditionFailed, has, is_row, require
from ovn_docker.model import Chassis, Definition, NetworkId, Note, SharedNetwork


class SharedNetworks:
    """Reads and changes the shared networks, for the drivers that keep their hosts in step."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        reports = Reports(connect)
        self.write_report, self.reports = reports.write, reports.all

    def watch(self, chassis: Chassis) -> Iterator[None]:
        """Yield at once and whenever the generation may have changed, without end. Raises Unavailable.

        A host of an earlier version changes another row, which the follower reads at its next interval.
        """
        return self._connect(chassis).watch(QUIET_TABLE, WATCHED_ROW, "external_ids")

    def networks(self, chassis: Chassis, deadline: Deadline) -> list[SharedNetwork]:
        """Return all shared networks. Searches all switches."""
        (rows,) = self._connect(chassis).transact(
            ovsdb.select("Logical_Switch", SHARED_NETWORKS.where(), columns=["_uuid", "external_ids"]),
            deadline=deadline,
        )
        return [read(row.uuid, row.map("external_ids")) for row in rows]

    def notes(
        self, networks: Iterable[NetworkId], chassis: Chassis, deadline: Deadline
    ) -> dict[NetworkId, Note]:
        """Return this host's notes on some networks of its Docker; each is read by its UUID."""
        wanted = list(networks)
        if not wanted:
            return {}
        found = self._connect(chassis).transact(
            *(
                ovsdb.select("DHCP_Options", is_row(note_row(id_)), columns=["external_ids"])
                for id_ in wanted
            ),
            deadline=deadline,
        )
        return {
            id_: Note(ids.get(INCARNATION, ""), ids.get(USED) == "true")
            for id_, rows in zip(wanted, found, strict=True)
            for ids in (row.map("external_ids") for row in rows)
        }

    def write_note(self, network: NetworkId, note: Note, chassis: Chassis, deadline: Deadline) -> None:
        """Change this host's note on a network of its Docker; do nothing without a note."""
        mutations: list[list[Any]] = [
            ["external_ids", "delete", [INCARNATION, USED]],
            ["external_ids", "insert", {INCARNATION: note.incarnation, USED: str(note.used).lower()}],
        ]
        self._connect(chassis).transact(
            ovsdb.mutate("DHCP_Options", is_row(note_row(network)), mutations=mutations), deadline=deadline
        )

    def noted(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Return whether this host has a note on a network, under any ID of its Docker. Searches a table."""
        own = NOTES.where({SWITCH: switch_row(network.name), HOST: chassis.system_id})
        (rows,) = self._connect(chassis).transact(
            ovsdb.select("DHCP_Options", own, columns=["_uuid"]), deadline=deadline
        )
        return bool(rows)

    def left(self, networks: Iterable[SharedNetwork], chassis: Chassis, deadline: Deadline) -> set[str]:
        """Return the names of the networks that this host has left in their present incarnation."""
        wanted = list(networks)
        rows = [departure_row(one.name, one.incarnation, chassis.system_id) for one in wanted]
        found = self._connect(chassis).transact(
            *(ovsdb.select("DHCP_Options", is_row(row), columns=["_uuid"]) for row in rows),
            deadline=deadline,
        )
        return {one.name for one, there in zip(wanted, found, strict=True) if there}

    def keep(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Revoke the removal of a network that this host needs; return False if its incarnation is over."""
        switch = switch_row(network.name)
        unforced = ["external_ids", "excludes", ovsdb.encode({FORCED: "true"})]
        unmark: list[list[Any]] = [["external_ids", "delete", [REMOVED]]]
        try:
            self._connect(chassis).transact(
                require_incarnation(switch, network.incarnation),
                require("Logical_Switch", switch, unforced),
                ovsdb.mutate("Logical_Switch", is_row(switch), mutations=unmark),
                *announce(),
                deadline=deadline,
            )
        except ConditionFailed:
            return False
        return True

    def users(self, name: str, chassis: Chassis, deadline: Deadline) -> dict[str, bool]:
        """Return the hosts that have the network, each with True if containers of the host belong to it."""
        of_switch = has("external_ids", {**OURS, SWITCH: switch_row(name)})
        notes, ports = self._connect(chassis).transact(
            ovsdb.select("DHCP_Options", of_switch, NOTES.where(), columns=["external_ids"]),
            ovsdb.select("Logical_Switch_Port", of_switch, IS_ENDPOINT, columns=["external_ids"]),
            deadline=deadline,
        )
        noted = [row.map("external_ids") for row in notes]
        used = {ids.get(HOST, ""): ids.get(USED) == "true" for ids in noted}
        return used | {row.map("external_ids").get(HOST, ""): True for row in ports}

    def remove(self, name: str, chassis: Chassis, deadline: Deadline, *, force: bool) -> None:
        """Have all hosts remove a network; with *force* also hosts whose stopped containers belong to it.

        Docker removes the network from a host when no running container uses it. Raises NotFound without such
        a network, Conflict if containers belong to it and *force* is False.
        """
        database, switch = self._connect(chassis), switch_row(name)
        of_switch = has("external_ids", {**OURS, SWITCH: switch})
        used = [
            ovsdb.require_none("DHCP_Options", of_switch, NOTES.where({USED: "true"})),
            ovsdb.require_none("Logical_Switch_Port", of_switch, IS_ENDPOINT),
        ]
        marks = {REMOVED: chassis.system_id} | ({FORCED: "true"} if force else {})
        mark: list[list[Any]] = [["external_ids", "delete", [REMOVED]], ["external_ids", "insert", marks]]
        try:
            database.transact(
                require("Logical_Switch", switch, SHARED_NETWORKS.where()),
                *([] if force else used),
                ovsdb.mutate("Logical_Switch", is_row(switch), mutations=mark),
                *announce(),
                deadline=deadline,
            )
        except ConditionFailed as error:
            if error.index == 0:
                raise NotFound(f"no network {name} in the cluster") from None
            raise Conflict(f"containers, running or stopped, belong to network {name}") from None
        delete_unused(database, switch, deadline)

    def define(self, definition: Definition, chassis: Chassis, deadline: Deadline) -> None:
        """Store a network's definition for the other hosts, unless a valid one is stored.

        Raises Refused if other hosts would refuse this definition.
        """
        row = is_row(switch_row(definition.name))
        database = self._connect(chassis)
        (rows,) = database.transact(
            ovsdb.select("Logical_Switch", row, columns=["_uuid", "external_ids"]), deadline=deadline
        )
        for found in rows:
            ids = found.map("external_ids")
            read_definition(found.uuid, ids, definition.text)  # or every host would write it again and again
            mutations: list[list[Any]] = [["external_ids", "insert", {DEFINITION: definition.text}]]
            if DEFINITION in ids and read(found.uuid, ids).definition is None:
                mutations.insert(0, ["external_ids", "delete", {DEFINITION: ids[DEFINITION]}])
            database.transact(
                ovsdb.mutate("Logical_Switch", row, mutations=mutations), *announce(), deadline=deadline
            )


def read(row: str, ids: Mapping[str, str]) -> SharedNetwork:
    """Return the shared network that a row of Logical_Switch describes by its external_ids.

    A row whose UUID does not follow from its name is refused, and its removal is ignored.
    """
    name = ids.get(NAME, "")
    try:
        valid_name(name, row)
    except Refused as refused:
        return SharedNetwork(name, None, removed=False, refused=refused.refusal)
    definition, refusal = None, None
    try:
        definition = read_definition(row, ids, ids[DEFINITION]) if DEFINITION in ids else None
    except Refused as refused:
        refusal = refused.refusal
    return SharedNetwork(name, definition, REMOVED in ids, refusal, FORCED in ids, ids.get(INCARNATION, ""))


def read_definition(row: str, ids: Mapping[str, str], text: str) -> Definition:
    """Parse the definition *text* of a shared network; *row*, *ids*: UUID and external_ids of its switch.

    Raises Refused.
    """
    definition = parse_text(valid_name(ids.get(NAME, ""), row), text)
    _check_row(definition, ids)
    return definition


def _check_row(definition: Definition, ids: Mapping[str, str]) -> None:
    """Raise Refused unless the definition has the subnets and gateways that the row itself has."""
    for version, suffix in ((4, ""), (6, "6")):
        here = [pool for pool in definition.pools if pool.subnet.version == version]
        subnet = str(here[0].subnet) if here else ""
        if ids.get(f"subnet{suffix}", "") != subnet:
            raise _differs(f"subnet{suffix}", ids, subnet)
        gateway = here[0].gateway if here else None
        if gateway is not None and ids.get(f"gateway_ip{suffix}", "") != str(gateway):
            raise _differs(f"gateway_ip{suffix}", ids, str(gateway))
    internal = "true" if dict(definition.switches).get("Internal") else ""
    if ids.get(INTERNAL, "") != internal:
        raise _differs(INTERNAL, ids, internal)


def _differs(key: str, ids: Mapping[str, str], defined: str) -> Refused:
    return Refused(
        "definition", f"its row has {key}={shown(ids.get(key, ''))}, its definition {shown(defined)}"
    )
