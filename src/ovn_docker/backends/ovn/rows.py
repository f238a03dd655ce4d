"""Every kind of row that the driver writes into the OVN northbound database, in one table: KINDS.

A row counts as what its UUID follows from, and as nothing else: any host can write anything into
external_ids. Why each kind exists: docs/architecture.md, "Rows".
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ovn_docker.definition import Refused, switch_row, valid_name
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import age
from ovn_docker.host.ovsdb import Condition, Operation, Reference, has, is_uuid
from ovn_docker.model import Chassis, EndpointId, IpAddress, Kind, NetworkId, StoredEndpoint, row_uuid

Columns = Mapping[str, Any]
"""Columns of a row: external_ids, and those of IDENTITY."""

OWNER = "ovn-docker:owner"
OURS = {OWNER: "overlay"}
"""external_ids of every row that the driver has written."""

TYPE = "ovn-docker:type"
"""Name of the row's kind. Rows written by ovn-docker 0.1.0 lack this key: see kind_of()."""

INFRASTRUCTURE = {"ovn-docker:infrastructure": "true"}
"""On ports of logical switches that are not endpoints: see is_infrastructure()."""

# What a row belongs to

HOST = "ovn-docker:host"
"""system-id of the host that wrote the row."""

ENCAP = "ovn-docker:encap"
"""Tunnel address of the host: cloned machines have one system-id, and must not clear up behind each other."""

NETWORK = "ovn-docker:network"
ENDPOINT = "ovn-docker:endpoint"
SWITCH = "ovn-docker:switch"
"""UUID of the logical switch that the row is about."""

POOL = "ovn-docker:pool"
NAME = "ovn-docker:name"
"""Name of a shared network: on its switch, on the hosts' notes, and on its ports."""

# What a row says of a network or an endpoint

POLICY = "ovn-docker:policy"
"""``deny``: packets of the network need a rule that allows them."""

ALLOW = "ovn-docker:allow"
"""Of a network: rules that allow, in one line."""

RULE = "ovn-docker:rule"
"""On an access rule: the rule of the network's policy that it comes from, for people."""

RULES = "ovn-docker:rules"
"""The rules of a network, as their file has them."""

NAMING = "ovn-docker:names"
"""``off``: other hosts do not find the containers of a shared network by name."""

MTU = "ovn-docker:mtu"
INTERNAL = "ovn-docker:internal"
ROUTERS = "ovn-docker:routers"
"""``any``: containers on the network accept router advertisements and DHCP answers from each other."""

ALLOWED = "ovn-docker:allowed-addresses"
"""Of a network, and of the port of an endpoint: addresses that may be used besides the containers' own."""

PORT_SECURITY = "ovn-docker:port-security"
"""Of a network or port without the usual port security: ``off``, or ``wider`` with allowed addresses."""

GROUPS = "ovn-docker:groups"
"""On the port of an endpoint: the groups that its container belongs to."""

GROUP = "ovn-docker:group"
"""On a port group: the name of the group that it is on its switch."""

CONTAINER = "ovn-docker:container"
"""On the port of an endpoint, once known: the name of its container."""

RANK = "ovn-docker:rank"
"""On the claim of a name: ``own`` or ``alias``, and when its container was made; see container_names.py."""

KEPT = "ovn-docker:kept"
"""On a network that a manager of a swarm made: only a manager deletes it."""

# Of shared networks

DEFINITION = "ovn-docker:definition"
REMOVED = "ovn-docker:removed"
"""On the switch of a network that is being removed: the host that removed it."""

FORCED = "ovn-docker:forced"
"""Beside REMOVED: hosts with stopped containers remove the network as well."""

INCARNATION = "ovn-docker:incarnation"
"""On a shared network's switch, notes and departures: which life of the network the row is about."""

USED = "ovn-docker:used"
"""On a host's note, "true" or "false": containers of the host, running or stopped, belong to the network."""

GENERATION = "ovn-docker:generation"
CLEARED = "ovn-docker:cleared"
"""On the generation: when a host last cleared rows of no host, in seconds of the epoch (leftovers.py)."""

# Of pools and leases

SUBNET = "ovn-docker:subnet"
PART = "ovn-docker:part"
STATE = "ovn-docker:state"
"""Of a pool ``free`` or ``bound``, of a lease ``leased`` or ``released``."""

RELEASED = "ovn-docker:released"
UNUSED = 600.0
"""Seconds after which a pool without a network, or a lease without an endpoint, is a leftover."""

QUIET_TABLE = "HA_Chassis_Group"
"""A table for rows that seldom change: a root, and without meaning until a port refers to a row.

Each row that is written to a table costs the server 2 us for each host that watches one there, and each
container writes to DHCP_Options. Searching this table is fast, too.
"""

IDENTITY: Mapping[str, tuple[str, ...]] = {
    "Logical_Switch": ("name",),
    "Logical_Switch_Port": ("name", "type"),
    "Logical_Router": ("name",),
    "Logical_Router_Port": ("name",),
    "DNS": (),
    "Port_Group": ("name",),
    "ACL": ("direction", "priority", "match", "action"),
    "DHCP_Options": ("cidr",),
    QUIET_TABLE: ("name",),
}
"""The tables that have rows of ours, and the columns by which a row is identified, besides external_ids."""

IS_ENDPOINT: Condition = ["type", "==", ""]
"""The condition that a port of a logical switch is an endpoint's: other ports have a type (ovn-nb(5))."""

_UNREFERENCED = {"DHCP_Options", QUIET_TABLE}
"""Tables with rows of ours that no other row refers to."""


# UUIDs, which follow from what a row stands for


def claim_row(switch: str, what: str) -> str:
    """UUID of the row that stands for an address or a MAC in use on a logical switch."""
    return row_uuid("claim", switch, what)


def name_row(switch: str, name: str) -> str:
    """UUID of the row that stands for a container's name in use on a logical switch."""
    return row_uuid("name", switch, name)


def lease_row(switch: str, address: IpAddress | str) -> str:
    """UUID of the row that stands for an address of a logical switch that IPAM has given to a host."""
    return row_uuid("lease", switch, str(address))


def note_row(network: NetworkId) -> str:
    """UUID of a host's note on a network of its Docker."""
    return row_uuid("attached network", network)


def departure_row(name: str, incarnation: str, host: str) -> str:
    """UUID of a host's departure from a shared network."""
    return row_uuid("departure", name, incarnation, host)


def names_row(endpoint: EndpointId) -> str:
    """UUID of the DNS records of an endpoint."""
    return row_uuid("names", endpoint)


def group_row(switch: str, group: str) -> str:
    """UUID of the port group that is a group of a logical switch."""
    return row_uuid("group", switch, group)


def acl_row(switch: str, direction: str, priority: int, match: str, action: str) -> str:
    """UUID of an access rule of a logical switch: it follows from all that the rule does."""
    return row_uuid("acl", switch, direction, str(priority), match, action)


def policy_row(switch: str) -> str:
    """UUID of the row with the rules of a logical switch."""
    return row_uuid("policy", switch)


def group_name(switch: str, group: str) -> str:
    """Name of the port group that is a group of a logical switch.

    Names are unique in the database, and take part in expressions, where a name has no hyphen (ovn-nb(5)).
    """
    return f"{group.replace('-', '.')}_{switch[:8]}{switch[9:13]}"


def report_row(host: str) -> str:
    """UUID of a host's report."""
    return row_uuid("report", host)


def resolver_row(switch: str) -> str:
    """UUID of the logical router that is a logical switch's resolver."""
    return row_uuid("resolver", switch)


def resolver_port(switch: str) -> str:
    """UUID of the port that connects a logical switch with its resolver."""
    return row_uuid("resolver port", switch)


def resolver_peer(switch: str) -> str:
    """UUID of the resolver's own port, the peer of resolver_port()."""
    return row_uuid("resolver peer", switch)


def resolver_name(switch: str) -> str:
    """Name of a logical switch's resolver and of the resolver's port."""
    return f"resolver-{switch}"


def _switch_of_resolver(row: Columns) -> str:
    """UUID of the switch that a resolver's name names; empty if the name has none."""
    switch: str = row["name"].removeprefix(resolver_name(""))
    return switch if is_uuid(switch) else ""


GENERATION_ROW = row_uuid("generation")
"""The row of DHCP_Options with the generation; it is there as soon as there was a shared network.

Earlier versions watch its token.
"""

WATCHED_ROW = row_uuid("generation", QUIET_TABLE)
"""The row of QUIET_TABLE with the same token, which hosts watch.

Its UUID is another one: ``ovsdb-client restore`` refuses a backup in which two tables have one UUID.
"""


# The kinds


@dataclass(frozen=True, slots=True)
class LeftoverRule:
    """A condition under which a row is a leftover: the row that it goes with is missing."""

    why: str
    """The reason, as `gc` shows it."""

    table: str = ""
    parent: Callable[[Columns], str] = lambda _: ""
    """UUID in *table* of the row that a row goes with; empty for a rule without such a row."""

    applies: Callable[[Columns], bool] = lambda _: True
    """Returns False for rows that the rule is not about."""

    after: float = 0.0
    """Seconds after its making before a row without its parent is a leftover."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowKind:
    """A line of the table of row kinds."""

    name: str
    """Value of TYPE."""

    table: str
    uuid: Callable[[Columns], str]
    """Returns the UUID that follows from a row's contents; empty if none does."""

    marks: Mapping[str, str] = field(default_factory=dict)
    """external_ids that every row of the kind has."""

    keys: tuple[str, ...] = ()
    """Keys of external_ids that every row of the kind has, with any value."""

    owners: tuple[str, ...] = ()
    """Keys that name the host, network, endpoint or switch to which a row belongs.

    Only the host that HOST names deletes a row; a row of a kind without HOST may be deleted by any host that
    holds the lock (leftovers.py).
    """

    leftover: tuple[LeftoverRule, ...] = ()
    kept_by: Callable[[str], tuple[str, Condition]] | None = None
    """Returns table and condition of rows that keep a leftover with that UUID from being deleted."""

    difference: Kind = Kind.NETWORK
    """Kind under which `gc` shows a leftover or a gap."""

    noun: str = ""
    """Name of the kind in the output of `host forget`, if it is not *name*."""

    shown: Callable[[Columns], str] = lambda row: row.get("cidr") or row.get("name") or "-"
    """Returns the text that `gc` and `host forget` show for a row."""

    infrastructure: bool = False
    """True for ports of logical switches that are not endpoints."""

    @property
    def word(self) -> str:
        """Name of the kind in the output of ``ovn-docker host forget``."""
        return self.noun or self.name

    def ids(self, *more: Mapping[str, str]) -> dict[str, str]:
        """external_ids of a new row of this kind, with *more* of them."""
        merged = {**OURS, **(INFRASTRUCTURE if self.infrastructure else {})}
        for pairs in more:
            merged |= pairs
        return {**merged, TYPE: self.name, **self.marks}

    def insert(self, uuid: str, ids: Mapping[str, str] = MappingProxyType({}), **columns: Any) -> Operation:
        """Return the operation that makes a row of this kind."""
        return ovsdb.insert(self.table, uuid, **columns, external_ids=self.ids(ids))

    def where(self, ids: Mapping[str, str] = MappingProxyType({})) -> Condition:
        """Return the condition that a row has the marks of this kind, and *ids*.

        Rows of earlier versions meet it as well. Rows of a kind without marks are distinguished by
        kind_of().
        """
        return has("external_ids", {**OURS, **self.marks, **ids})

    def matches(self, ids: Mapping[str, str]) -> bool:
        """Return whether external_ids are those of this kind; TYPE must agree with the rest, if present."""
        return (
            ids.get(TYPE, self.name) == self.name
            and self.marks.items() <= ids.items()
            and all(key in ids for key in self.keys)
        )


def _with_port(row: Columns) -> str:
    return row_uuid("endpoint", row["external_ids"].get(ENDPOINT, ""))


def _on_switch(uuid: Callable[[str, str], str]) -> Callable[[Columns], str]:
    return lambda row: uuid(row["external_ids"].get(SWITCH, ""), row["cidr"])


def _id(row: Columns, key: str) -> str:
    value: str = row["external_ids"].get(key, "")
    return value


_WITHOUT_PORT = LeftoverRule("the port that it goes with has gone", "Logical_Switch_Port", _with_port)

ENDPOINTS = RowKind(
    name="endpoint",
    noun="port",
    table="Logical_Switch_Port",
    keys=(ENDPOINT,),
    owners=(HOST, NETWORK, ENDPOINT, SWITCH),
    uuid=_with_port,
    difference=Kind.ENDPOINT,
)
NAMES = RowKind(
    name="names",
    noun="name",
    table="DNS",
    keys=(ENDPOINT,),
    owners=(HOST, NETWORK, ENDPOINT, SWITCH),
    uuid=lambda row: names_row(EndpointId(_id(row, ENDPOINT))),
    leftover=(_WITHOUT_PORT,),
    difference=Kind.NAMES,
    shown=lambda row: _id(row, CONTAINER) or _id(row, ENDPOINT),
)
PORT_GROUPS = RowKind(
    name="group",
    table="Port_Group",
    keys=(GROUP, SWITCH),
    owners=(SWITCH,),
    uuid=lambda row: group_row(_id(row, SWITCH), _id(row, GROUP)),
    leftover=(LeftoverRule("its switch has gone", "Logical_Switch", lambda row: _id(row, SWITCH)),),
    difference=Kind.GROUP,
    shown=lambda row: _id(row, GROUP),
)
ACLS = RowKind(
    name="acl",
    table="ACL",
    keys=(SWITCH,),
    owners=(SWITCH,),
    uuid=lambda row: acl_row(
        _id(row, SWITCH), row["direction"], row["priority"], row["match"], row["action"]
    ),
    difference=Kind.POLICY,
    shown=lambda row: row["match"],
)
POLICIES = RowKind(
    name="policy",
    table=QUIET_TABLE,
    keys=(RULES, SWITCH),
    owners=(SWITCH,),
    uuid=lambda row: policy_row(_id(row, SWITCH)),
    leftover=(LeftoverRule("its switch has gone", "Logical_Switch", lambda row: _id(row, SWITCH)),),
    difference=Kind.POLICY,
    shown=lambda row: _id(row, SWITCH),
)
ALLOWED_CLAIMS = RowKind(
    name="allowed claim",
    table="DHCP_Options",
    marks={"ovn-docker:allowed": "true"},
    owners=(SWITCH,),
    uuid=_on_switch(claim_row),
    difference=Kind.CLAIM,
)
NAME_CLAIMS = RowKind(
    name="name claim",
    noun="claim",
    table="DHCP_Options",
    keys=(ENDPOINT, RANK),
    owners=(HOST, NETWORK, ENDPOINT, SWITCH),
    uuid=_on_switch(name_row),
    leftover=(_WITHOUT_PORT,),
    difference=Kind.CLAIM,
)
CLAIMS = RowKind(
    name="claim",
    table="DHCP_Options",
    keys=(ENDPOINT,),
    owners=(HOST, NETWORK, ENDPOINT, SWITCH),
    uuid=_on_switch(claim_row),
    leftover=(_WITHOUT_PORT,),
    difference=Kind.CLAIM,
)
NOTES = RowKind(
    name="note",
    table="DHCP_Options",
    marks={"ovn-docker:note": "true"},
    owners=(HOST, NETWORK, SWITCH),
    uuid=lambda row: note_row(NetworkId(_id(row, NETWORK))),
)
DEPARTURES = RowKind(
    name="departure",
    table="DHCP_Options",
    marks={"ovn-docker:left": "true"},
    owners=(HOST, SWITCH),
    uuid=lambda row: departure_row(_id(row, NAME), _id(row, INCARNATION), _id(row, HOST)),
)
POOLS = RowKind(
    name="pool",
    table="DHCP_Options",
    keys=(POOL, SUBNET),
    owners=(HOST, NETWORK, SWITCH),
    uuid=lambda row: _id(row, POOL) if is_uuid(_id(row, POOL)) else "",
    leftover=(
        LeftoverRule(
            "Docker asked for it and no network has it",
            applies=lambda row: _id(row, STATE) == "free",
            after=UNUSED,
        ),
        LeftoverRule(
            "its network has gone",
            "Logical_Switch",
            lambda row: _id(row, SWITCH),
            applies=lambda row: bool(_id(row, SWITCH)),
            after=UNUSED,
        ),
    ),
    kept_by=lambda pool: ("DHCP_Options", has("external_ids", {**OURS, POOL: pool, STATE: "leased"})),
    difference=Kind.POOL,
)
LEASES = RowKind(
    name="lease",
    table="DHCP_Options",
    keys=(STATE,),
    owners=(HOST, NETWORK, SWITCH),
    uuid=_on_switch(lease_row),
    leftover=(
        LeftoverRule(
            "Docker asked for it and no endpoint has it",
            "DHCP_Options",
            _on_switch(claim_row),
            applies=lambda row: _id(row, STATE) == "leased",
            after=UNUSED,
        ),
    ),
    difference=Kind.LEASE,
)
GENERATIONS = RowKind(
    name="generation", table="DHCP_Options", keys=(GENERATION,), uuid=lambda _: GENERATION_ROW
)
REPORTS = RowKind(
    name="report",
    table=QUIET_TABLE,
    marks={"ovn-docker:report": "true"},
    owners=(HOST,),
    uuid=lambda row: report_row(_id(row, HOST)),
    shown=lambda _: "-",
)
WATCHED_GENERATIONS = RowKind(
    name="watched generation", table=QUIET_TABLE, keys=(GENERATION,), uuid=lambda _: WATCHED_ROW
)
SHARED_NETWORKS = RowKind(
    name="shared network",
    table="Logical_Switch",
    marks={"ovn-docker:shared": "true"},
    uuid=lambda row: switch_row(_id(row, NAME)),
    difference=Kind.NETWORK,
)
NETWORKS = RowKind(
    name="network",
    table="Logical_Switch",
    keys=(NETWORK,),
    owners=(HOST, NETWORK),
    uuid=lambda row: row_uuid("network", _id(row, NETWORK)),
    difference=Kind.NETWORK,
)
RESOLVERS = RowKind(
    name="resolver",
    table="Logical_Router",
    uuid=lambda row: resolver_row(switch) if (switch := _switch_of_resolver(row)) else "",
    leftover=(LeftoverRule("its switch has gone", "Logical_Switch", _switch_of_resolver),),
    difference=Kind.RESOLVER,
)
RESOLVER_PEERS = RowKind(
    name="resolver peer",
    table="Logical_Router_Port",
    uuid=lambda row: resolver_peer(switch) if (switch := _switch_of_resolver(row)) else "",
)
RESOLVER_PORTS = RowKind(
    name="resolver port",
    table="Logical_Switch_Port",
    keys=(SWITCH,),
    owners=(SWITCH,),
    uuid=lambda row: resolver_port(_id(row, SWITCH)),
    infrastructure=True,
)

KINDS = (
    ENDPOINTS,
    NAMES,
    PORT_GROUPS,
    ACLS,
    POLICIES,
    ALLOWED_CLAIMS,
    NAME_CLAIMS,
    CLAIMS,
    LEASES,
    POOLS,
    NOTES,
    DEPARTURES,
    GENERATIONS,
    REPORTS,
    WATCHED_GENERATIONS,
    SHARED_NETWORKS,
    NETWORKS,
    RESOLVERS,
    RESOLVER_PEERS,
    RESOLVER_PORTS,
)
"""All kinds, in the order in which `host forget` lists rows."""


def kind_of(table: str, row: Columns) -> RowKind | None:
    """Return the kind of a row with the columns of IDENTITY; ``None`` if it is not one of ours.

    The row's UUID may be another one than follows from it. This is the only place where a row without TYPE is
    recognised by its other keys: of several kinds that match, the one with most keys counts. A TYPE that does
    not agree with the other keys makes the row one of no kind: any host can write it.
    """
    ids = row["external_ids"]
    if not OURS.items() <= ids.items():
        return None
    matching = (kind for kind in KINDS if kind.table == table and kind.matches(ids))
    return max(matching, key=lambda kind: len(kind.marks) + len(kind.keys), default=None)


def home(table: str, row: Columns) -> str:
    """Return the UUID that follows from the contents of a row of ours; empty if none does."""
    kind = kind_of(table, row)
    return kind.uuid(row) if kind else ""


def is_infrastructure(port: Columns) -> bool:
    """Return whether a row of Logical_Switch_Port is an infrastructure port of ours.

    Endpoints' ports have no type, infrastructure ports always have one (ovn-nb(5), "type"), so that no row
    can have a container's port taken for one. A resolver's port made by an earlier version has no mark.
    """
    ids = port["external_ids"]
    if not port["type"] or not OURS.items() <= ids.items():
        return False
    kind = kind_of("Logical_Switch_Port", port)
    known = kind is not None and kind.infrastructure and kind.uuid(port) == port["_uuid"]
    return bool(known or INFRASTRUCTURE.items() <= ids.items())


def tables(owner: str) -> tuple[str, ...]:
    """Return the tables of the kinds that have *owner* among their owners."""
    return tuple(dict.fromkeys(kind.table for kind in KINDS if owner in kind.owners))


def delete_where(owner: str, *where: Condition) -> list[Operation]:
    """Return operations that delete all rows with the key *owner* that meet the conditions.

    Rows that other rows refer to are left to their own modules: ports, DNS records, switches, routers.
    """
    return [ovsdb.delete(table, *where) for table in tables(owner) if table in _UNREFERENCED]


def of_host(host: str) -> Condition:
    """Return the condition that a row is of the host with that system-id."""
    return has("external_ids", {**OURS, HOST: host})


def insert_quietly(kind: RowKind, row: str, name: str, ids: Mapping[str, str]) -> list[Operation]:
    """Return operations that make a row of QUIET_TABLE, where no two rows have one name.

    A row of ours with that name and another UUID is replaced: ``ovsdb-client restore`` makes such rows.
    """
    same_name: Iterable[Condition] = (["name", "==", name], ["_uuid", "!=", ovsdb.encode(Reference(row))])
    return [
        ovsdb.delete(QUIET_TABLE, *same_name, has("external_ids", OURS)),
        kind.insert(row, ids, name=name),
    ]


# Contents that rows of several kinds have


def host_ids(chassis: Chassis) -> dict[str, str]:
    """Return external_ids that say which host has made a row."""
    return {HOST: chassis.system_id} | ({ENCAP: str(chassis.encap_ips[0])} if chassis.encap_ips else {})


def name_of(ids: Mapping[str, str], switch: str) -> str:
    """Return the name of a shared network, by a row that belongs to *switch*; empty if it has no name.

    Any host can write any name: it is the network's only if the UUID of the switch follows from it.
    """
    with suppress(Refused):
        return valid_name(ids.get(NAME, ""), switch)
    return ""


def has_names(ids: Mapping[str, str]) -> bool:
    """Return whether other hosts find the containers of a shared network, which *ids* describe, by name."""
    return ids.get(NAMING) != "off"


def stored_endpoint(ids: Mapping[str, str], *, up: bool = False) -> StoredEndpoint:
    """Return the endpoint that a row's external_ids describe."""
    return StoredEndpoint(
        EndpointId(ids.get(ENDPOINT, "")),
        NetworkId(ids.get(NETWORK, "")),
        ids.get(HOST, ""),
        age(ids),
        ids.get(ENCAP, ""),
        up,
    )
