"""Gaps: rows that this host needs and that OVN's northbound database does not have.

A user has typed ``ovn-nbctl lsp-del``, this host was forgotten while it was cut off, or the database was
lost. Which rows there should be follows from the records that the host keeps itself (records.py), not from
what other hosts may have written. All rows are read by their UUIDs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from ovn_docker.backends.ovn import acls, allowed_claims, port_groups, records
from ovn_docker.backends.ovn.records import NetworkRecord, PortRecord
from ovn_docker.backends.ovn.rows import (
    ALLOWED_CLAIMS,
    CLAIMS,
    CONTAINER,
    ENDPOINT,
    GENERATION_ROW,
    HOST,
    LEASES,
    NETWORK,
    STATE,
    SUBNET,
    SWITCH,
    RowKind,
    claim_row,
    has_names,
    lease_row,
    name_row,
    names_row,
    note_row,
)
from ovn_docker.backends.ovn.shared.generation import generation_rows
from ovn_docker.backends.ovn.shared.membership import differs
from ovn_docker.backends.ovn.shared.resolver import resolver_parts
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Operation, Reference, Row, has, is_row
from ovn_docker.model import Chassis, EndpointId, Gap, Kind, NetworkId, StoredEndpoint, row_uuid


@dataclass(frozen=True, slots=True)
class RecordedNetwork:
    """A network that this host has; *switch*: UUID of its logical switch, empty if unknown."""

    id: NetworkId
    record: NetworkRecord
    switch: str

    @property
    def noted(self) -> bool:
        """True if a note stands for the network, not the switch itself."""
        return bool(self.record.name or self.record.switch)

    @property
    def domain(self) -> str:
        """Suffix of its containers' names on other hosts; empty if those do not find them by name."""
        return self.record.name if has_names(self.record.ids) else ""

    @property
    def resolver(self) -> bool:
        """True if its switch has a resolver."""
        return bool(self.domain) and "gateway_ip" in self.record.ids


@dataclass(frozen=True, slots=True)
class RecordedEndpoint:
    """An endpoint that this host has a record of, on a network that it has a record of."""

    id: EndpointId
    age: float
    record: PortRecord
    network: RecordedNetwork

    @property
    def leases(self) -> list[tuple[str, str]]:
        """Addresses that our IPAM driver has leased to it, each with the pool."""
        subnets = {
            pool: ip_network(ids.get(SUBNET, "0.0.0.0/32")) for pool, ids in self.network.record.pools.items()
        }
        return [
            (what, pool)
            for what in self.record.claims
            for pool, subnet in subnets.items()
            if is_ip(what) and ip_address(what) in subnet
        ]

    @property
    def allowed(self) -> list[str]:
        """Allowed addresses and MACs, which other endpoints may have as well."""
        return allowed_claims.to_claim(allowed_claims.stored(self.record.ids), self.record.claims)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups that it belongs to."""
        return port_groups.stored(self.record.ids)

    @property
    def row(self) -> str:
        """UUID of its logical switch port."""
        return row_uuid("endpoint", self.id)


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A row that an endpoint alone holds: the claim or the lease of *what*."""

    kind: RowKind
    uuid: str
    what: str


def is_ip(what: str) -> bool:
    """Return whether *what* is an IP address, not a MAC."""
    try:
        ip_address(what)
    except ValueError:
        return False
    return True


Question = tuple[Operation, Gap]
"""An operation that selects a row, and the gap if the row is missing."""


def gaps_of_networks(
    database: Database, networks: Iterable[RecordedNetwork], deadline: Deadline
) -> list[Gap]:
    """Return the gaps of networks, except those of users' switches: see with_switches()."""
    questions: list[Question] = []
    for one in [one for one in networks if one.record.name][:1]:
        gap = Gap(
            Kind.NETWORK, one.record.name, one.id
        )  # another gap than of its switch and note: see _judged()
        questions += [(generation, gap) for generation in generation_rows()]
    for one in networks:
        gap = Gap(Kind.NETWORK, one.id, one.id)
        if one.noted:
            note = is_row(note_row(one.id))
            questions.append((ovsdb.select("DHCP_Options", note, columns=["_uuid"]), gap))
        if not one.record.switch:
            switch = ovsdb.select("Logical_Switch", is_row(one.switch), columns=["_uuid"])
            questions.append((switch, gap))
        if not one.record.switch and (rules := acls.of_network(one.switch, one.record.ids)):
            gap = Gap(Kind.POLICY, one.record.name or one.id, one.id)
            questions.append((acls.refers(one.switch, rules), gap))
            questions += [(acl.select(one.switch), gap) for acl in rules]
        if one.resolver:
            parts = resolver_parts(one.switch)
            questions += [(part, Gap(Kind.RESOLVER, one.record.name, one.id)) for part in parts]
        for pool, ids in one.record.pools.items():
            bound = has("external_ids", {NETWORK: one.id, STATE: "bound"})
            there = ovsdb.select("DHCP_Options", is_row(pool), bound, columns=["_uuid"])
            questions.append((there, Gap(Kind.POOL, ids.get(SUBNET, pool), one.id)))
    gaps = _unanswered(database, questions, deadline)
    by_id = {one.id: one for one in networks}
    return list(_judged(database, gaps, by_id, deadline)) if gaps else []


def with_switches(
    database: Database, networks: list[RecordedNetwork], deadline: Deadline
) -> tuple[list[RecordedNetwork], list[Gap]]:
    """Return the networks with the switches that their notes name, and gaps for switches that are gone."""
    attached = [one for one in networks if one.record.switch]
    if not attached:
        return networks, []
    found = database.transact(
        *(
            ovsdb.select("DHCP_Options", is_row(note_row(one.id)), columns=["external_ids"])
            for one in attached
        ),
        deadline=deadline,
    )
    switches = {
        one.id: row.map("external_ids").get(SWITCH, "")
        for one, rows in zip(attached, found, strict=True)
        for row in rows
    }
    questions = [
        (ovsdb.select("Logical_Switch", is_row(switch), columns=["_uuid"]), Gap(Kind.NETWORK, id_, id_))
        for id_, switch in switches.items()
    ]
    gaps = _unanswered(database, questions, deadline)
    return [RecordedNetwork(one.id, one.record, switches.get(one.id, one.switch)) for one in networks], gaps


def _judged(
    database: Database, gaps: list[Gap], networks: Mapping[NetworkId, RecordedNetwork], deadline: Deadline
) -> Iterator[Gap]:
    """Yield each gap once, with an owner if a different shared network has the name by now.

    If neither the switch nor this host's note is there, other hosts may have removed the network after this
    host was forgotten, unless the database was emptied.
    """
    named = [
        gap for gap in dict.fromkeys(gaps) if gap.kind is Kind.NETWORK and networks[gap.network].record.name
    ]
    generation, *found = database.transact(
        ovsdb.select("DHCP_Options", is_row(GENERATION_ROW), columns=["_uuid"]),
        *(
            ovsdb.select("Logical_Switch", is_row(networks[gap.network].switch), columns=["external_ids"])
            for gap in named
        ),
        deadline=deadline,
    )
    switches = dict(zip(named, found, strict=True))
    for gap in dict.fromkeys(gaps):
        record = networks[gap.network].record
        if any(differs(row.map("external_ids"), record.ids) for row in switches.get(gap, ())):
            yield replace(gap, owner=f"network {record.name}")
        else:
            removed = gap in switches and not switches[gap] and gaps.count(gap) > 1 and bool(generation)
            yield replace(gap, removed=removed)


def recorded_networks(texts: Mapping[NetworkId, str]) -> list[RecordedNetwork]:
    """Return the networks in some records; records that are not valid are left out."""
    found = []
    for id_, text in texts.items():
        if record := records.network(text):
            named = switch_row(record.name) if record.name else row_uuid("network", id_)
            found.append(RecordedNetwork(id_, record, "" if record.switch else named))
    return found


def recorded_endpoints(
    stored: Iterable[StoredEndpoint], networks: Iterable[RecordedNetwork]
) -> list[RecordedEndpoint]:
    """Return the endpoints that have a valid record, on networks with one."""
    by_id = {network.id: network for network in networks}
    return [
        RecordedEndpoint(one.id, one.age, record, by_id[one.network])
        for one in stored
        if one.network in by_id and (record := records.port(one.record))
    ]


def _unanswered(database: Database, questions: list[Question], deadline: Deadline) -> list[Gap]:
    results = database.transact(*(operation for operation, _ in questions), deadline=deadline)
    return [gap for (_, gap), rows in zip(questions, results, strict=True) if not rows]


def gaps_of_endpoints(
    database: Database, endpoints: list[RecordedEndpoint], chassis: Chassis, deadline: Deadline
) -> list[Gap]:
    """Return the gaps of endpoints."""
    selects = [
        operation
        for one in endpoints
        for operation in (
            ovsdb.select("Logical_Switch_Port", is_row(one.row), columns=["external_ids"]),
            ovsdb.select("DNS", is_row(names_row(one.id)), columns=["records"]),
        )
    ]
    results = database.transact(*selects, deadline=deadline)
    questions: list[Question] = []
    gaps = []
    for one, ports, names in zip(endpoints, results[::2], results[1::2], strict=True):
        if not ports:
            gaps.append(Gap(Kind.ENDPOINT, one.id, one.network.id, one.id))
        questions += [
            (
                ovsdb.select(row.kind.table, is_row(row.uuid), has("external_ids", ids), columns=["_uuid"]),
                Gap(row.kind.difference, row.what, one.network.id, one.id),
            )
            for row, ids in _held(one, chassis)
        ]
        questions += [
            (port_groups.is_member(one.network.switch, group, one.id), _gap_of_group(one, group))
            for group in one.groups
        ]
        questions += _about_names(one, ports, names)
    gaps += _unanswered(database, questions, deadline)
    return _with_owners(database, gaps, {one.id: one for one in endpoints}, chassis, deadline)


def _gap_of_group(one: RecordedEndpoint, group: str) -> Gap:
    return Gap(Kind.GROUP, group, one.network.id, one.id)


def _held(one: RecordedEndpoint, chassis: Chassis) -> Iterator[tuple[HeldRow, dict[str, str]]]:
    """Yield the claims and leases of an endpoint, each with external_ids that the row must have."""
    leased = {HOST: chassis.system_id, STATE: "leased"}
    for row in held_rows(one):
        yield row, leased if row.kind is LEASES else {ENDPOINT: one.id}
    for what in one.allowed:
        uuid = claim_row(one.network.switch, what)
        yield HeldRow(ALLOWED_CLAIMS, uuid, what), allowed_claims.holder(one.id, chassis)


def _about_names(one: RecordedEndpoint, ports: list[Row], names: list[Row]) -> list[Question]:
    """Return questions for the rows that the registrar has written for an endpoint (core/registrar.py)."""
    gap = Gap(Kind.NAMES, one.id, one.network.id, one.id)
    own = {ENDPOINT: one.id}
    questions = [(_NO_ROW, gap)] if ports and CONTAINER not in ports[0].map("external_ids") else []
    if not (one.network.domain and any(map(is_ip, one.record.claims))):
        return questions
    if not names:
        return [(_NO_ROW, gap)]
    referred = ["dns_records", "includes", ovsdb.encode([Reference(names_row(one.id))])]
    questions.append(
        (ovsdb.select("Logical_Switch", is_row(one.network.switch), referred, columns=["_uuid"]), gap)
    )
    for name in (key for key in names[0].map("records") if "." not in key):
        row = is_row(name_row(one.network.switch, name))
        questions.append(
            (ovsdb.select("DHCP_Options", row, has("external_ids", own), columns=["_uuid"]), gap)
        )
    return questions


_NO_ROW = ovsdb.select("DHCP_Options", is_row(""), columns=["_uuid"])
"""An operation that selects no row, for a gap that is known."""


def _with_owners(
    database: Database,
    gaps: list[Gap],
    endpoints: Mapping[EndpointId, RecordedEndpoint],
    chassis: Chassis,
    deadline: Deadline,
) -> list[Gap]:
    """Return the gaps; for an endpoint whose address has a new owner, return only the gap of that address."""
    held = [gap for gap in gaps if gap.kind in {Kind.CLAIM, Kind.LEASE}]
    if not held:
        return list(dict.fromkeys(gaps))
    owned = {}
    for id_ in dict.fromkeys(gap.endpoint for gap in held):
        if found := owners_of(database, endpoints[id_], chassis, deadline):
            owned[id_] = found
    return [
        *(gap for gap in dict.fromkeys(gaps) if gap.endpoint not in owned),
        *(
            Gap(Kind.CLAIM, what, endpoints[id_].network.id, id_, owner)
            for id_, found in owned.items()
            for what, owner in [*found.items()][:1]  # its MAC follows from the address
        ),
    ]


def owners_of(
    database: Database, one: RecordedEndpoint, chassis: Chassis, deadline: Deadline
) -> dict[str, str]:
    """Return the addresses of an endpoint that another container has, with a description of the latter."""
    owners = {}
    for row in held_rows(one):
        (found,) = database.transact(
            ovsdb.select(row.kind.table, is_row(row.uuid), columns=["external_ids"]), deadline=deadline
        )
        for ids in (there.map("external_ids") for there in found):
            if row.kind is LEASES:
                owner = _owner_of_lease(ids, chassis.system_id)
            else:
                owner = owner_of_claim(database, ids, one, deadline)
            if owner:
                owners[row.what] = owner
    return owners


def held_rows(one: RecordedEndpoint) -> list[HeldRow]:
    """Return the leases and then the claims of an endpoint, but for those of allowed addresses."""
    switch = one.network.switch
    return [
        *(HeldRow(LEASES, lease_row(switch, what), what) for what, _ in one.leases),
        *(HeldRow(CLAIMS, claim_row(switch, what), what) for what in one.record.claims),
    ]


def owner_of_claim(
    database: Database, ids: Mapping[str, str], one: RecordedEndpoint, deadline: Deadline
) -> str:
    """Describe the other endpoint that a claim is of, if it has a port; "" otherwise."""
    if allowed_claims.is_allowed(ids):
        user = allowed_claims.alive(database, ids, deadline)
        return f"endpoint {user.id[:12]} on host {user.host}" if user else ""
    holder = EndpointId(ids.get(ENDPOINT, ""))
    if holder == one.id:
        return ""
    (ports,) = database.transact(
        ovsdb.select("Logical_Switch_Port", is_row(row_uuid("endpoint", holder)), columns=["external_ids"]),
        deadline=deadline,
    )
    for port in ports:
        return f"endpoint {holder[:12]} on host {port.map('external_ids').get(HOST, '?')}"
    return ""


def _owner_of_lease(ids: Mapping[str, str], own: str) -> str:
    """Describe the host that an address is leased to, if it is not *own*; "" otherwise."""
    host = ids.get(HOST, "")
    return f"a container on host {host}" if ids.get(STATE) == "leased" and host != own else ""
