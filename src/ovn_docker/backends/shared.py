"""Networks that have a name in the cluster: one logical switch, and a note for every host that has it.

The UUID of the switch follows from the name, so of two hosts that make it at once one succeeds and the other
joins. Its external_ids hold what the other hosts need to make the same network in their Docker. One row, the
*generation*, changes with any of this: it tells whether there is something to look for.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

from ovn_docker.backends import dns
from ovn_docker.backends.northbound import (
    HOST,
    NAME,
    NETWORK,
    NOTE,
    OURS,
    QUIET_TABLE,
    SWITCH,
    Connect,
    host_ids,
    insert_quietly,
)
from ovn_docker.backends.reports import Reports
from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, stored, switch_row, valid_name
from ovn_docker.errors import Conflict, NotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import made_now
from ovn_docker.host.ovsdb import Database, Operation, OperationError, Row, has, is_row, require
from ovn_docker.model import Chassis, Definition, Network, NetworkId, Note, SharedNetwork, row_uuid
from ovn_docker.printable import command

IS_SHARED = {**OURS, "ovn-docker:shared": "true"}
"""external_ids of every row of Logical_Switch of a network of the cluster."""

SHARED = has("external_ids", IS_SHARED)
"""The condition that a row of Logical_Switch is of a network of the cluster."""

_DEFINITION = "ovn-docker:definition"
REMOVED = "ovn-docker:removed"
"""On the switch of a network that is on its way out: the host that removed it."""

_FORCED = "ovn-docker:forced"
"""Beside REMOVED: also hosts with stopped containers remove the network."""

INCARNATION = "ovn-docker:incarnation"
"""Which life of a network a row is about: on its switch, on the hosts' notes, and on departures."""

_USED = "ovn-docker:used"
"""On a host's note, "true" or "false": containers of the host, running or stopped, belong to the network."""

_NOTING = 2.0
"""Seconds within which a host notes that no container of its belongs to a network any more (cluster.py)."""

OF_LIFE = frozenset({INCARNATION, _USED})
"""Keys of a note that change while the network stays the same."""

LEFT = {"ovn-docker:left": "true"}
"""On a departure: this host's user removed the network, which stays because other hosts need it."""

GENERATION = "ovn-docker:generation"
"""Key of the version token of all shared networks."""

GENERATION_ROW = row_uuid("generation")
"""The row of DHCP_Options that is there as soon as there was a network of the cluster, whatever it says.

Earlier versions look at its token.
"""

WATCHED_ROW = row_uuid("generation", QUIET_TABLE)
"""The row of QUIET_TABLE with the same token, which hosts watch.

Its UUID is another one: ``ovsdb-client restore`` refuses a backup in which two tables have one UUID.
"""

GENERATION_ROWS = {"DHCP_Options": GENERATION_ROW, QUIET_TABLE: WATCHED_ROW}
"""Both, by their tables."""


class SharedNetworks:
    """The networks of the cluster, as the hosts' drivers keep them in step."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        reports = Reports(connect)
        self.write_report, self.reports = reports.write, reports.all

    def watch(self, chassis: Chassis) -> Iterator[None]:
        """Yield at first and whenever the generation may have changed, without end. Raises Unavailable.

        A host of an earlier version changes another row, which is seen at the follower's next look.
        """
        return self._connect(chassis).watch(QUIET_TABLE, WATCHED_ROW, "external_ids")

    def networks(self, chassis: Chassis, deadline: Deadline) -> list[SharedNetwork]:
        """All networks of the cluster. A search through all switches."""
        (rows,) = self._connect(chassis).transact(
            ovsdb.select("Logical_Switch", SHARED, columns=["_uuid", "external_ids"]), deadline=deadline
        )
        return [read(row["_uuid"], row["external_ids"]) for row in rows]

    def notes(
        self, networks: Iterable[NetworkId], chassis: Chassis, deadline: Deadline
    ) -> dict[NetworkId, Note]:
        """This host's notes on some networks of its Docker; each is read by its UUID."""
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
            id_: Note(ids.get(INCARNATION, ""), ids.get(_USED) == "true")
            for id_, rows in zip(wanted, found, strict=True)
            for ids in (row["external_ids"] for row in rows)
        }

    def write_note(self, network: NetworkId, note: Note, chassis: Chassis, deadline: Deadline) -> None:
        """Change this host's note on a network of its Docker; without one, do nothing."""
        mutations: list[list[Any]] = [
            ["external_ids", "delete", [INCARNATION, _USED]],
            ["external_ids", "insert", {INCARNATION: note.incarnation, _USED: str(note.used).lower()}],
        ]
        self._connect(chassis).transact(
            ovsdb.mutate("DHCP_Options", is_row(note_row(network)), mutations=mutations), deadline=deadline
        )

    def noted(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Whether this host has a note on a network, of whichever ID of its Docker. A search."""
        mine = {**OURS, **NOTE, SWITCH: switch_row(network.name), HOST: chassis.system_id}
        (rows,) = self._connect(chassis).transact(
            ovsdb.select("DHCP_Options", has("external_ids", mine), columns=["_uuid"]), deadline=deadline
        )
        return bool(rows)

    def left(self, networks: Iterable[SharedNetwork], chassis: Chassis, deadline: Deadline) -> set[str]:
        """Names of the networks whose present life this host has left."""
        wanted = list(networks)
        rows = [_departure_row(one.name, one.incarnation, chassis) for one in wanted]
        found = self._connect(chassis).transact(
            *(ovsdb.select("DHCP_Options", is_row(row), columns=["_uuid"]) for row in rows),
            deadline=deadline,
        )
        return {one.name for one, there in zip(wanted, found, strict=True) if there}

    def keep(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Take back the removal of a network that this host needs; False if that life of it is over."""
        switch = switch_row(network.name)
        unforced = ["external_ids", "excludes", ovsdb.encode({_FORCED: "true"})]
        unmark: list[list[Any]] = [["external_ids", "delete", [REMOVED]]]
        try:
            self._connect(chassis).transact(
                _require_life(switch, network.incarnation),
                require("Logical_Switch", switch, unforced),
                ovsdb.mutate("Logical_Switch", is_row(switch), mutations=unmark),
                *announce(),
                deadline=deadline,
            )
        except OperationError as error:
            if error.error != "timed out":
                raise
            return False
        return True

    def users(self, name: str, chassis: Chassis, deadline: Deadline) -> dict[str, bool]:
        """Hosts that have the network, by system-id, and whether containers of theirs belong to it."""
        of_switch = has("external_ids", {**OURS, SWITCH: switch_row(name)})
        notes, ports = self._connect(chassis).transact(
            ovsdb.select("DHCP_Options", of_switch, has("external_ids", NOTE), columns=["external_ids"]),
            ovsdb.select("Logical_Switch_Port", of_switch, ["type", "==", ""], columns=["external_ids"]),
            deadline=deadline,
        )
        used = {ids.get(HOST, ""): ids.get(_USED) == "true" for ids in map(_ids, notes)}
        return used | {ids.get(HOST, ""): True for ids in map(_ids, ports)}

    def remove(self, name: str, chassis: Chassis, deadline: Deadline, *, force: bool) -> None:
        """Have all hosts remove a network; with *force* also those whose stopped containers belong to it.

        Docker removes it from a host when no running container uses it. Raises NotFound if there is no such
        network, Conflict if containers belong to it and there is no *force*.
        """
        database, switch = self._connect(chassis), switch_row(name)
        of_switch = has("external_ids", {**OURS, SWITCH: switch})
        used = [
            ovsdb.require_none("DHCP_Options", of_switch, has("external_ids", {**NOTE, _USED: "true"})),
            ovsdb.require_none("Logical_Switch_Port", of_switch, ["type", "==", ""]),
        ]
        marks = {REMOVED: chassis.system_id} | ({_FORCED: "true"} if force else {})
        mark: list[list[Any]] = [["external_ids", "delete", [REMOVED]], ["external_ids", "insert", marks]]
        try:
            database.transact(
                require("Logical_Switch", switch, SHARED),
                *([] if force else used),
                ovsdb.mutate("Logical_Switch", is_row(switch), mutations=mark),
                *announce(),
                deadline=deadline,
            )
        except OperationError as error:
            if error.error != "timed out":
                raise
            if error.index == 0:
                raise NotFound(f"no network {name} in the cluster: see `ovn-docker ls`") from None
            raise Conflict(
                f"containers, running or stopped, belong to network {name}: remove them, or give --force"
            ) from None
        delete_unused(database, switch, deadline)

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
                ovsdb.mutate("Logical_Switch", row, mutations=mutations), *announce(), deadline=deadline
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
    definition, refusal = None, None
    try:
        definition = stored(row, ids, ids[_DEFINITION]) if _DEFINITION in ids else None
    except Refused as refused:
        refusal = refused.refusal
    return SharedNetwork(name, definition, REMOVED in ids, refusal, _FORCED in ids, ids.get(INCARNATION, ""))


def join(
    database: Database,
    network: Network,
    ids: dict[str, str],
    chassis: Chassis,
    deadline: Deadline,
    *,
    followed: bool,
) -> tuple[list[Operation], str]:
    """Operations that make the network's switch, or join the one that is there; *ids* describe it.

    Returns them and the incarnation that they join. A network that was removed, and whose switch is there
    because a host has not given it up yet, begins a new life. The operations fail with "timed out" if another
    host has begun one meanwhile.

    *followed*: nobody here wants it, so one that was removed meanwhile stays so.
    Raises Conflict then, or if the switch has other options; OtherSubnets if it has other subnets.
    """
    name = network.options.name or ""
    row = switch_row(name)
    (found, resolver, router, *generation) = database.transact(
        ovsdb.select("Logical_Switch", is_row(row), columns=["external_ids"]),
        ovsdb.select("Logical_Switch_Port", is_row(dns.resolver_port(row)), columns=["_uuid"]),
        ovsdb.select("Logical_Router", is_row(dns.resolver(row)), columns=["_uuid"]),
        *generation_rows(),
        deadline=deadline,
    )
    if making := _making_generation(generation):
        try:
            database.transact(*making, deadline=deadline)
        except OperationError as error:
            if error.error != "duplicate uuid":
                raise
    if followed and not any(REMOVED not in row["external_ids"] for row in found):
        raise Conflict(f"network {name} has just been removed on another host")
    if router and not resolver:
        dns.forget_resolver(database, row, deadline)
    if any(useless(there["external_ids"]) for there in found) and delete_unused(database, row, deadline):
        found, resolver = [], []  # a host that died had not finished its removal, or its making
    if not found:
        life = str(uuid4())
        made = ovsdb.insert(
            "Logical_Switch", row, name=name, external_ids={**IS_SHARED, **ids, INCARNATION: life}
        )
        return [made, *dns.make_resolver(row, ids), *announce()], life
    there = found[0]["external_ids"]
    _check_same(name, there, ids)
    before = life = there.get(INCARNATION, "")
    unmark: list[list[Any]] = [["external_ids", "delete", [REMOVED, _FORCED]]]
    if REMOVED in there:
        life = str(uuid4())
        unmark = [
            ["external_ids", "delete", [REMOVED, _FORCED, _DEFINITION, INCARNATION]],
            ["external_ids", "insert", {INCARNATION: life}],
        ]
    # A host that follows changes nothing for the others: it would wake them all.
    wanted = [] if followed else [ovsdb.mutate("Logical_Switch", is_row(row), mutations=unmark), *announce()]
    return [
        _require_life(row, before),
        *([] if resolver else dns.make_resolver(row, ids)),  # earlier versions had none
        *wanted,
        ovsdb.delete("DHCP_Options", is_row(_departure_row(name, life, chassis))),
    ], life


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
    """Operations that make what is missing of a network that this host's Docker has; *ids* describe it.

    A life that goes on elsewhere, or that this host's note is about, is continued; a removal is not taken
    back: that is the follower's to decide (cluster.py). They fail with "timed out" or "duplicate uuid" if
    another host has made or removed something meanwhile. Raises Conflict if the network that the cluster has
    by now is another one.
    """
    row = switch_row(name)
    found, notes, router, peer, port, *generation = database.transact(
        ovsdb.select("Logical_Switch", is_row(row), columns=["external_ids"]),
        ovsdb.select("DHCP_Options", is_row(note_row(network)), columns=["external_ids"]),
        *dns.resolver_parts(row),
        *generation_rows(),
        deadline=deadline,
    )
    life = next((one.get(INCARNATION, "") for one in map(_ids, (*notes, *found))), str(uuid4()))
    operations = _making_generation(generation)
    if found:
        there = _ids(found[0])
        if differs(there, ids):
            raise Conflict(
                f"network {name} has other subnets or options in the cluster by now; remove its containers "
                f"and then the network from this host, with: docker network rm {network[:12]}"
            )
        operations.append(_require_life(row, there.get(INCARNATION, "")))
    else:
        described = {**IS_SHARED, **ids, NAME: name, INCARNATION: life}
        described.pop(NETWORK, None)
        operations.append(ovsdb.insert("Logical_Switch", row, name=name, external_ids=described))
    operations += dns.mend_resolver(row, ids, router=bool(router), peer=bool(peer), port=bool(port))
    if not notes:
        if found:
            life = _ids(found[0]).get(INCARNATION, "")
        note = {**ids, **note_ids(name, row, life, chassis), _USED: str(used).lower(), **made_now()}
        operations += [
            ovsdb.insert("DHCP_Options", note_row(network), cidr=ids.get("subnet", ""), external_ids=note),
            ovsdb.delete("DHCP_Options", is_row(_departure_row(name, life, chassis))),
        ]
    return [*operations, *announce()]


def give_way(database: Database, name: str, chassis: Chassis, deadline: Deadline) -> None:
    """Have this host's follower make the cluster's network instead of the one that Docker is making."""
    switch = is_row(switch_row(name))
    (found,) = database.transact(
        ovsdb.select("Logical_Switch", switch, columns=["external_ids"]), deadline=deadline
    )
    lives = {row["external_ids"].get(INCARNATION, "") for row in found}
    database.transact(
        *(ovsdb.delete("DHCP_Options", is_row(_departure_row(name, life, chassis))) for life in lives),
        deadline=deadline,
    )


def note_row(network: NetworkId) -> str:
    """UUID of a host's note on a network of its Docker."""
    return row_uuid("attached network", network)


def note_ids(name: str, switch: str, incarnation: str, chassis: Chassis) -> dict[str, str]:
    """external_ids of a host's note on a shared network, besides the description of the network."""
    life = {INCARNATION: incarnation, _USED: "false"}
    return {NAME: name, SWITCH: switch, **host_ids(chassis), **NOTE, **life}


def removal(name: str, note: Mapping[str, str], chassis: Chassis, deadline: Deadline) -> list[Operation]:
    """Operations that mark a network as removed: the other hosts give it up when they see that.

    *note*: external_ids of this host's note. They fail with "timed out" if a container of another host,
    running or stopped, belongs to the network, or if the life that the note is about is over. A host notes a
    moment late that its last container has gone: they wait for that.
    """
    wait = max(0.0, deadline.left(at_most=_NOTING + 0.5) - 0.5)
    switch = switch_row(name)
    of_switch = has("external_ids", {**OURS, SWITCH: switch})
    others = ["external_ids", "excludes", ovsdb.encode({HOST: chassis.system_id})]
    mark = [["external_ids", "insert", {REMOVED: chassis.system_id}]]
    return [
        _require_life(switch, note.get(INCARNATION, "")),
        ovsdb.require_none(
            "DHCP_Options", of_switch, others, has("external_ids", {**NOTE, _USED: "true"}), wait=wait
        ),
        ovsdb.require_none("Logical_Switch_Port", of_switch, others, ["type", "==", ""]),
        ovsdb.mutate("Logical_Switch", is_row(switch), mutations=mark),
        *announce(),
    ]


def departure(name: str, note: Mapping[str, str], chassis: Chassis) -> list[Operation]:
    """Operations that note that this host has left a network that stays; *note*: see removal().

    Without this the host's follower would make the network again.
    """
    switch, life = switch_row(name), note.get(INCARNATION, "")
    ids = {**OURS, **LEFT, **host_ids(chassis), NAME: name, SWITCH: switch, INCARNATION: life}
    return [
        _require_life(switch, life),
        ovsdb.insert("DHCP_Options", _departure_row(name, life, chassis), cidr="", external_ids=ids),
    ]


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
    return REMOVED in ids or _DEFINITION not in ids


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
        *announce(),
    ]


_DESCRIBED = (
    *("subnet", "subnet6", "gateway_ip", "gateway_ip6"),
    *map("ovn-docker:{}".format, ("internal", "mtu", "routers", "allowed-addresses", "port-security")),
)


def differs(there: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether two descriptions of a network differ."""
    return bool(_differing(there, wanted))


def _differing(there: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [key for key in _DESCRIBED if there.get(key, "") != wanted.get(key, "")]


class OtherSubnets(Conflict):
    """The network has other subnets; *asked*: those that were asked for, if all else is the same."""

    def __init__(self, text: str, asked: frozenset[str]) -> None:
        super().__init__(text)
        self.asked = asked


def _check_same(name: str, there: dict[str, str], wanted: dict[str, str]) -> None:
    different = _differing(there, wanted)
    if not different:
        return
    key = different[0]  # subnets come first
    text = (
        f"network {name} has {key.removeprefix('ovn-docker:')} {there.get(key, 'none')} in the "
        f"cluster, asked for was {wanted.get(key, 'none')}"
    )
    if REMOVED in there:
        raise Conflict(
            f"{text}: it has been removed, but a host has not given it up yet; create it again in a moment, "
            f"or see which host that is with: {command('ovn-docker', 'inspect', name)}"
        )
    subnets = [one for one in different if one in {"subnet", "subnet6"}]
    if not subnets:
        raise Conflict(f"{text}; create it as it is there, or give it another name")
    asked = frozenset(wanted[one] for one in subnets if one in wanted and one in there)
    same = len(asked) == len(subnets) and {*different} <= {*subnets, "gateway_ip", "gateway_ip6"}
    raise OtherSubnets(
        f"{text}, which was chosen if you gave none: wait for it to appear on this host "
        f"({command('ovn-docker', 'network', 'wait', name)}), or create it as it is there "
        f"({_as_it_is(there)})",
        asked if same else frozenset(),
    )


def _as_it_is(there: dict[str, str]) -> str:
    """Options of ``docker network create`` that give a network these subnets and gateways."""
    options = []
    for suffix, version in (("", ()), ("6", ("--ipv6",))):
        if subnet := there.get(f"subnet{suffix}"):
            gateway = there.get(f"gateway_ip{suffix}")
            options += [*version, f"--subnet={subnet}", *([f"--gateway={gateway}"] if gateway else [])]
    return command(*options)


def _ids(row: Row) -> dict[str, str]:
    ids: dict[str, str] = row["external_ids"]
    return ids


def _require_life(switch: str, incarnation: str) -> Operation:
    """Go on only if the network lives that life; a row of an earlier version has none."""
    life = [has("external_ids", {INCARNATION: incarnation})] if incarnation else []
    return require("Logical_Switch", switch, *life)


def departure_row(ids: Mapping[str, str]) -> str:
    """UUID of a host's departure from a network, by its external_ids."""
    return row_uuid("departure", ids.get(NAME, ""), ids.get(INCARNATION, ""), ids.get(HOST, ""))


def _departure_row(name: str, incarnation: str, chassis: Chassis) -> str:
    return departure_row({NAME: name, INCARNATION: incarnation, HOST: chassis.system_id})


def generation_rows() -> list[Operation]:
    """Operations that look for the rows of the generation."""
    return [ovsdb.select(table, is_row(row), columns=["_uuid"]) for table, row in GENERATION_ROWS.items()]


def _making_generation(found: list[Any]) -> list[Operation]:
    """Operations that make the rows that generation_rows() has not found."""
    of_options, quiet = found
    operations: list[Operation] = []
    if not of_options:
        operations.append(ovsdb.insert("DHCP_Options", GENERATION_ROW, cidr="", external_ids=OURS))
    return operations if quiet else [*operations, *insert_quietly(WATCHED_ROW, "ovn-docker", OURS)]


def announce() -> list[Operation]:
    """Return the operations that have every host compare its networks with those of the cluster again."""
    mutations: list[list[Any]] = [
        ["external_ids", "delete", [GENERATION]],
        ["external_ids", "insert", {GENERATION: str(uuid4())}],
    ]
    return [ovsdb.mutate(table, is_row(row), mutations=mutations) for table, row in GENERATION_ROWS.items()]
