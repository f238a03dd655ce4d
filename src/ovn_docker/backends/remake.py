"""Rows that this host needs and that OVN's northbound database does not have, and how they are made again.

Somebody typed ``ovn-nbctl lsp-del``, this host was forgotten while it was cut off, or the database was lost.
Which rows there should be follows from the records that the host keeps itself (records.py): nothing is made
from what other hosts may have written. All rows are looked for by their UUIDs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from ovn_docker.backends import allowed_claims, dns, records, shared
from ovn_docker.backends.addresses import CLAIM, POOL, STATE, SUBNET, lease_row
from ovn_docker.backends.displaced import is_displaced, lead_back
from ovn_docker.backends.dns import Names
from ovn_docker.backends.leftovers import LOCK
from ovn_docker.backends.northbound import (
    CONTAINER,
    ENDPOINT,
    HOST,
    KEPT,
    NETWORK,
    NOTE,
    OURS,
    SWITCH,
    Connect,
    claim_row,
    host_ids,
    name_row,
)
from ovn_docker.backends.overlay import network_record, port_record, users_switch
from ovn_docker.backends.records import NetworkRecord, PortRecord
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import Conflict, NotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import made_now
from ovn_docker.host.ovsdb import (
    Database,
    Operation,
    OperationError,
    Reference,
    Row,
    has,
    is_row,
    require,
)
from ovn_docker.hostnames import ContainerNames
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    Gap,
    Kind,
    Network,
    NetworkId,
    StoredEndpoint,
    row_uuid,
)

_DOCKER_ID = 64
"""Characters of the ID of a network that is this host's Docker's; one of swarm's has 25."""


@dataclass(frozen=True, slots=True)
class _Network:
    """A network that this host has; *switch*: UUID of its logical switch, empty if nobody knows."""

    id: NetworkId
    record: NetworkRecord
    switch: str

    @property
    def noted(self) -> bool:
        """Whether a note stands for it, and not the switch itself."""
        return bool(self.record.name or self.record.switch)

    @property
    def resolver(self) -> bool:
        """Whether its switch has a resolver."""
        return bool(self.record.name) and "gateway_ip" in self.record.ids


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """An endpoint that this host has, on a network of which it has a record or not."""

    id: EndpointId
    age: float
    record: PortRecord
    network: _Network

    @property
    def leases(self) -> list[tuple[str, str]]:
        """Addresses that our IPAM driver has given it, each with its pool."""
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
        """Addresses and MACs that it may use together with others."""
        return allowed_claims.to_claim(allowed_claims.stored(self.record.ids), self.record.claims)

    @property
    def row(self) -> str:
        """UUID of its logical switch port."""
        return row_uuid("endpoint", self.id)


def is_ip(what: str) -> bool:
    """Whether a claim is of an IP address, not of a MAC."""
    try:
        ip_address(what)
    except ValueError:
        return False
    return True


Question = tuple[Operation, Gap]
"""An operation that looks for a row, and the gap if there is none."""


class Remaker:
    """Finds what is missing of the networks and endpoints of this host, and makes it again.

    *everywhere*: see Overlay.
    """

    place = "OVN northbound"

    def __init__(self, connect: Connect, everywhere: Callable[[], bool] = lambda: False) -> None:
        self._connect = connect
        self._everywhere = everywhere
        self._names = Names(connect)

    def missing(
        self,
        networks: Mapping[NetworkId, str],
        endpoints: Iterable[StoredEndpoint],
        chassis: Chassis,
        deadline: Deadline,
    ) -> list[Gap]:
        """The gaps of this host's networks, by their records, and of its endpoints.

        As many reads by UUID as it has networks, addresses and names. Three transactions, one more with gaps.
        """
        database = self._connect(chassis)
        known = _networks(networks)
        gaps = self._of_networks(database, known, deadline)
        of_networks = self._with_switches(database, known, deadline)
        gaps += of_networks[1]
        here = _endpoints(endpoints, of_networks[0])
        return gaps + _of_endpoints(database, here, chassis, deadline)

    def displaced(self, chassis: Chassis, deadline: Deadline) -> bool:
        """Whether rows of this host are there with other UUIDs than those that follow from their contents."""
        return is_displaced(self._connect(chassis), chassis, deadline)

    def lead_back(self, chassis: Chassis, deadline: Deadline) -> int | None:
        """Give all rows of ours, of all hosts, their UUIDs again: how many; None if another host is at it."""
        database = self._connect(chassis)
        with database.lock(LOCK, deadline) as locked:
            return None if locked is None else lead_back(locked, chassis, deadline)

    def make_network(
        self, network: NetworkId, text: str, chassis: Chassis, deadline: Deadline, *, used: bool
    ) -> None:
        """Make what is missing of a network; *used*: see LocalNetwork.

        Raises Conflict if the cluster's network of that name is another one by now, BadRequest without the
        logical switch of the user's.
        """
        record = records.network(text)
        if record is None:
            return
        database = self._connect(chassis)
        while True:
            try:
                switch, operations = self._making(database, network, record, chassis, deadline, used=used)
                operations += _pools(database, network, record, switch, chassis, deadline)
                database.transact(*operations, deadline=deadline)
            except OperationError as error:
                if error.error not in {"duplicate uuid", "timed out"}:
                    raise
                deadline.check(f"network {network[:12]}, which other hosts change all the time")
            else:
                return

    def make_endpoint(
        self, endpoint: StoredEndpoint, text: str, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Make what is missing of an endpoint; *text*: the record of its network.

        Its names are left to set_names(). Raises Conflict if somebody else has its address or MAC by now,
        NotFound without its logical switch.
        """
        database = self._connect(chassis)
        known, _ = self._with_switches(database, _networks({endpoint.network: text}), deadline)
        for one in _endpoints([endpoint], known):
            while True:
                try:
                    database.transact(*_making_endpoint(database, one, chassis, deadline), deadline=deadline)
                except OperationError as error:
                    if error.error not in {"duplicate uuid", "timed out"}:
                        raise
                    deadline.check(f"endpoint {one.id[:12]}, whose rows others change all the time")
                else:
                    break

    def set_names(
        self, endpoint: EndpointId, names: ContainerNames, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Write the names of an endpoint, and let it use the addresses that Docker gave it by itself."""
        self._names.set_names(endpoint, names, chassis, deadline)
        if names.link_local:
            self._names.allow(endpoint, names.link_local, chassis, deadline)

    def record_network(self, network: Network, chassis: Chassis, deadline: Deadline) -> str:
        """The record of a network that was made without one: as its rows are, if Docker says the same.

        A search through DHCP_Options: once, for a network that an earlier version has made.
        """
        (own, notes, pools) = self._connect(chassis).transact(
            ovsdb.select("Logical_Switch", is_row(row_uuid("network", network.id)), columns=["external_ids"]),
            ovsdb.select("DHCP_Options", is_row(shared.note_row(network.id)), columns=["external_ids"]),
            ovsdb.select(
                "DHCP_Options",
                has("external_ids", {**OURS, NETWORK: network.id, STATE: "bound"}),
                columns=["_uuid", "external_ids"],
            ),
            deadline=deadline,
        )
        subnets = {str(subnet.pool) for subnet in network.subnets}
        bound = {
            row["_uuid"]: row["external_ids"]
            for row in pools
            if row["external_ids"].get(POOL) == row["_uuid"] and row["external_ids"].get(SUBNET) in subnets
        }
        record = network_record(network, bound)
        for ids in (row["external_ids"] for row in (*own, *notes)):
            if subnets == {ids[key] for key in ("subnet", "subnet6") if key in ids}:
                gateways = {key: ids[key] for key in ("gateway_ip", "gateway_ip6") if key in ids}
                described = {key: value for key, value in record.ids.items() if not key.startswith("gateway")}
                record = replace(record, ids=described | gateways)
        return record.text

    def record_endpoint(self, endpoint: Endpoint, text: str) -> str:
        """The record of an endpoint that was made without one; *text*: that of its network."""
        for network in _networks({endpoint.network: text}):
            return port_record(endpoint, network.switch, network.record.name).text
        return ""

    def _of_networks(self, database: Database, networks: Iterable[_Network], deadline: Deadline) -> list[Gap]:
        """Gaps of networks, but for a user's switch that is gone."""
        questions: list[Question] = []
        for one in [one for one in networks if one.record.name][:1]:
            gap = Gap(Kind.NETWORK, one.record.name, one.id)  # not that of its switch and note: see _judged()
            questions += [(generation, gap) for generation in shared.generation_rows()]
        for one in networks:
            gap = Gap(Kind.NETWORK, one.id, one.id)
            if one.noted:
                note = is_row(shared.note_row(one.id))
                questions.append((ovsdb.select("DHCP_Options", note, columns=["_uuid"]), gap))
            if not one.record.switch:
                switch = ovsdb.select("Logical_Switch", is_row(one.switch), columns=["_uuid"])
                questions.append((switch, gap))
            if one.resolver:
                parts = dns.resolver_parts(one.switch)
                questions += [(part, Gap(Kind.RESOLVER, one.record.name, one.id)) for part in parts]
            for pool, ids in one.record.pools.items():
                bound = has("external_ids", {NETWORK: one.id, STATE: "bound"})
                there = ovsdb.select("DHCP_Options", is_row(pool), bound, columns=["_uuid"])
                questions.append((there, Gap(Kind.POOL, ids.get(SUBNET, pool), one.id)))
        gaps = _unanswered(database, questions, deadline)
        by_id = {one.id: one for one in networks}
        return list(_judged(database, gaps, by_id, deadline)) if gaps else []

    def _with_switches(
        self, database: Database, networks: list[_Network], deadline: Deadline
    ) -> tuple[list[_Network], list[Gap]]:
        """The networks with the switches that their notes name, and gaps where that is gone."""
        attached = [one for one in networks if one.record.switch]
        if not attached:
            return networks, []
        found = database.transact(
            *(
                ovsdb.select("DHCP_Options", is_row(shared.note_row(one.id)), columns=["external_ids"])
                for one in attached
            ),
            deadline=deadline,
        )
        switches = {
            one.id: row["external_ids"].get(SWITCH, "")
            for one, rows in zip(attached, found, strict=True)
            for row in rows
        }
        questions = [
            (ovsdb.select("Logical_Switch", is_row(switch), columns=["_uuid"]), Gap(Kind.NETWORK, id_, id_))
            for id_, switch in switches.items()
        ]
        gaps = _unanswered(database, questions, deadline)
        return [_Network(one.id, one.record, switches.get(one.id, one.switch)) for one in networks], gaps

    def _making(
        self,
        database: Database,
        network: NetworkId,
        record: NetworkRecord,
        chassis: Chassis,
        deadline: Deadline,
        *,
        used: bool,
    ) -> tuple[str, list[Operation]]:
        """UUID of the network's switch, and what makes it, or the note that stands for it."""
        ids = dict(record.ids)
        if record.name:
            making = shared.remaking(database, network, record.name, ids, chassis, deadline, used=used)
            return switch_row(record.name), making
        if len(network) != _DOCKER_ID:
            ids[KEPT] = "true"
        elif not self._everywhere():
            ids |= {**host_ids(chassis), **made_now()}
        if not record.switch:
            row = row_uuid("network", network)
            (there,) = database.transact(
                ovsdb.select("Logical_Switch", is_row(row), columns=["_uuid"]), deadline=deadline
            )
            made = ovsdb.insert("Logical_Switch", row, name=network, external_ids=ids)
            return row, [] if there else [made]
        row = shared.note_row(network)
        (notes,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]), deadline=deadline
        )
        switch = notes[0]["external_ids"].get(SWITCH, "") if notes else ""
        (there,) = database.transact(
            ovsdb.select("Logical_Switch", is_row(switch), columns=["_uuid"]), deadline=deadline
        )
        if there:
            return switch, []
        switch = users_switch(database, record.switch, (), deadline)
        ids |= {SWITCH: switch, **NOTE}
        if notes:
            return switch, [ovsdb.update("DHCP_Options", is_row(row), external_ids=ids)]
        return switch, [ovsdb.insert("DHCP_Options", row, cidr=ids.get("subnet", ""), external_ids=ids)]


def _judged(
    database: Database, gaps: list[Gap], networks: Mapping[NetworkId, _Network], deadline: Deadline
) -> Iterator[Gap]:
    """The gaps, each once; those of networks of the cluster say whether the network is another one by now.

    If neither the switch nor this host's note is there, other hosts may have removed it once this one had
    been forgotten; not if the database was emptied.
    """
    named = [
        gap for gap in dict.fromkeys(gaps) if gap.kind is Kind.NETWORK and networks[gap.network].record.name
    ]
    generation, *found = database.transact(
        ovsdb.select("DHCP_Options", is_row(shared.GENERATION_ROW), columns=["_uuid"]),
        *(
            ovsdb.select("Logical_Switch", is_row(networks[gap.network].switch), columns=["external_ids"])
            for gap in named
        ),
        deadline=deadline,
    )
    switches = dict(zip(named, found, strict=True))
    for gap in dict.fromkeys(gaps):
        record = networks[gap.network].record
        if any(shared.differs(row["external_ids"], record.ids) for row in switches.get(gap, ())):
            yield replace(gap, owner=f"network {record.name}")
        else:
            removed = gap in switches and not switches[gap] and gaps.count(gap) > 1 and bool(generation)
            yield replace(gap, removed=removed)


def _networks(texts: Mapping[NetworkId, str]) -> list[_Network]:
    found = []
    for id_, text in texts.items():
        if record := records.network(text):
            named = switch_row(record.name) if record.name else row_uuid("network", id_)
            found.append(_Network(id_, record, "" if record.switch else named))
    return found


def _endpoints(stored: Iterable[StoredEndpoint], networks: Iterable[_Network]) -> list[_Endpoint]:
    """Those with a record, on networks with one."""
    by_id = {network.id: network for network in networks}
    return [
        _Endpoint(one.id, one.age, record, by_id[one.network])
        for one in stored
        if one.network in by_id and (record := records.port(one.record))
    ]


def _unanswered(database: Database, questions: list[Question], deadline: Deadline) -> list[Gap]:
    results = database.transact(*(operation for operation, _ in questions), deadline=deadline)
    return [gap for (_, gap), rows in zip(questions, results, strict=True) if not rows]


def _of_endpoints(
    database: Database, endpoints: list[_Endpoint], chassis: Chassis, deadline: Deadline
) -> list[Gap]:
    """Gaps of endpoints."""
    looks = [
        operation
        for one in endpoints
        for operation in (
            ovsdb.select("Logical_Switch_Port", is_row(one.row), columns=["external_ids"]),
            ovsdb.select("DNS", is_row(dns.names_row(one.id)), columns=["records"]),
        )
    ]
    results = database.transact(*looks, deadline=deadline)
    questions: list[Question] = []
    gaps = []
    for one, ports, names in zip(endpoints, results[::2], results[1::2], strict=True):
        if not ports:
            gaps.append(Gap(Kind.ENDPOINT, one.id, one.network.id, one.id))
        questions += [
            (
                ovsdb.select("DHCP_Options", is_row(row), has("external_ids", said), columns=["_uuid"]),
                Gap(kind, what, one.network.id, one.id),
            )
            for kind, what, row, said in _holds(one, chassis)
        ]
        questions += _about_names(one, ports, names)
    gaps += _unanswered(database, questions, deadline)
    return _with_owners(database, gaps, {one.id: one for one in endpoints}, chassis, deadline)


def _holds(one: _Endpoint, chassis: Chassis) -> list[tuple[Kind, str, str, dict[str, str]]]:
    """Claims and leases of an endpoint: what, the row, and what it has to say."""
    switch = one.network.switch
    leased = {HOST: chassis.system_id, STATE: "leased"}
    claimed: dict[str, str] = {ENDPOINT: one.id}
    return [
        *((Kind.CLAIM, what, claim_row(switch, what), claimed) for what in one.record.claims),
        *((Kind.LEASE, what, lease_row(switch, what), leased) for what, _ in one.leases),
        *(
            (Kind.CLAIM, what, claim_row(switch, what), allowed_claims.holder(one.id, chassis))
            for what in one.allowed
        ),
    ]


def _about_names(one: _Endpoint, ports: list[Row], names: list[Row]) -> list[Question]:
    """Whether what the registrar (names.py) has written of an endpoint is there: as far as it has."""
    gap = Gap(Kind.NAMES, one.id, one.network.id, one.id)
    own = {ENDPOINT: one.id}
    questions = [(_NOBODY, gap)] if ports and CONTAINER not in ports[0]["external_ids"] else []
    if not (one.network.record.name and any(map(is_ip, one.record.claims))):
        return questions
    if not names:
        return [(_NOBODY, gap)]
    referred = ["dns_records", "includes", ovsdb.encode([Reference(dns.names_row(one.id))])]
    questions.append(
        (ovsdb.select("Logical_Switch", is_row(one.network.switch), referred, columns=["_uuid"]), gap)
    )
    for name in (key for key in names[0]["records"] if "." not in key):
        row = is_row(name_row(one.network.switch, name))
        questions.append(
            (ovsdb.select("DHCP_Options", row, has("external_ids", own), columns=["_uuid"]), gap)
        )
    return questions


_NOBODY = ovsdb.select("DHCP_Options", is_row(""), columns=["_uuid"])
"""The question whose answer is no."""


def _with_owners(
    database: Database,
    gaps: list[Gap],
    endpoints: Mapping[EndpointId, _Endpoint],
    chassis: Chassis,
    deadline: Deadline,
) -> list[Gap]:
    """The gaps; of an endpoint whose address somebody else has by now, only that."""
    held = [gap for gap in gaps if gap.kind in {Kind.CLAIM, Kind.LEASE}]
    if not held:
        return list(dict.fromkeys(gaps))
    owned = {}
    for id_ in dict.fromkeys(gap.endpoint for gap in held):
        if found := _owners(database, endpoints[id_], chassis, deadline):
            owned[id_] = found
    return [
        *(gap for gap in dict.fromkeys(gaps) if gap.endpoint not in owned),
        *(
            Gap(Kind.CLAIM, what, endpoints[id_].network.id, id_, owner)
            for id_, found in owned.items()
            for what, owner in [*found.items()][:1]  # its MAC follows from the address
        ),
    ]


def _owners(database: Database, one: _Endpoint, chassis: Chassis, deadline: Deadline) -> dict[str, str]:
    """Addresses of an endpoint that somebody else has, and who."""
    owners = {}
    for row, what, is_lease in _rows_of(one):
        (found,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]), deadline=deadline
        )
        for ids in (there["external_ids"] for there in found):
            own = chassis.system_id
            if owner := _of_lease(ids, own) if is_lease else _of_claim(database, ids, one, deadline):
                owners[what] = owner
    return owners


def _rows_of(one: _Endpoint) -> list[tuple[str, str, bool]]:
    switch = one.network.switch
    return [
        *((lease_row(switch, what), what, True) for what, _ in one.leases),
        *((claim_row(switch, what), what, False) for what in one.record.claims),
    ]


def _of_claim(database: Database, ids: Mapping[str, str], one: _Endpoint, deadline: Deadline) -> str:
    """The other endpoint that a claim is of, if it has a port."""
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
        return f"endpoint {holder[:12]} on host {port['external_ids'].get(HOST, '?')}"
    return ""


def _of_lease(ids: Mapping[str, str], own: str) -> str:
    """The host that an address is leased to, if it is not *own*."""
    host = ids.get(HOST, "")
    return f"a container on host {host}" if ids.get(STATE) == "leased" and host != own else ""


def _pools(
    database: Database,
    network: NetworkId,
    record: NetworkRecord,
    switch: str,
    chassis: Chassis,
    deadline: Deadline,
) -> list[Operation]:
    """Operations that make the pools of a network, as far as they are missing, or bind them to its switch."""
    if not record.pools:
        return []
    found = database.transact(
        *(ovsdb.select("DHCP_Options", is_row(pool), columns=["external_ids"]) for pool in record.pools),
        deadline=deadline,
    )
    operations = []
    for (pool, kept), rows in zip(record.pools.items(), found, strict=True):
        bound = {STATE: "bound", SWITCH: switch, NETWORK: network}
        ids = {**kept, HOST: chassis.system_id, **bound, **made_now()}
        if not rows:
            operations.append(ovsdb.insert("DHCP_Options", pool, cidr=kept.get(SUBNET, ""), external_ids=ids))
        elif not bound.items() <= rows[0]["external_ids"].items():
            operations.append(ovsdb.update("DHCP_Options", is_row(pool), external_ids=ids))
    return operations


def _making_endpoint(
    database: Database, one: _Endpoint, chassis: Chassis, deadline: Deadline
) -> list[Operation]:
    """Operations that make the port, claims and leases of an endpoint, as far as they are missing."""
    switch, held = one.network.switch, _rows_of(one)
    if owners := _owners(database, one, chassis, deadline):
        what, owner = next(iter(owners.items()))
        raise Conflict(f"address {what} of endpoint {one.id[:12]} belongs to {owner} by now")
    switches, ports, *found = database.transact(
        ovsdb.select("Logical_Switch", is_row(switch), columns=["_uuid"]),
        ovsdb.select("Logical_Switch_Port", is_row(one.row), columns=["_uuid"]),
        *(ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]) for row, _, _ in held),
        deadline=deadline,
    )
    if not switches:
        raise NotFound(f"endpoint {one.id[:12]} has no logical switch {switch or one.network.record.switch}")
    ids = {**one.record.ids, SWITCH: switch, **host_ids(chassis), **made_now()}
    operations = [require("Logical_Switch", switch)]
    if not ports:
        reference = [["ports", "insert", [Reference(one.row)]]]
        made = ovsdb.insert("Logical_Switch_Port", one.row, external_ids=ids)
        made["row"] |= one.record.columns
        operations += [made, ovsdb.mutate("Logical_Switch", is_row(switch), mutations=reference)]
    pools = dict(one.leases)
    for (row, what, is_lease), rows in zip(held, found, strict=True):
        wanted = _lease_ids(one, pools[what], chassis) if is_lease else ids
        before = rows[0]["external_ids"] if rows else {}
        if not rows:
            operations.append(ovsdb.insert("DHCP_Options", row, cidr=what, external_ids=wanted))
        elif (before.get(STATE) != "leased") if is_lease else before.get(ENDPOINT) != one.id:
            unchanged = ["external_ids", "==", ovsdb.encode(before)]
            operations += [
                require("DHCP_Options", row, unchanged),
                ovsdb.update("DHCP_Options", is_row(row), external_ids=wanted),
            ]

    def check(row: str, what: str) -> None:
        (there,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]), deadline=deadline
        )
        for claimed in (found["external_ids"] for found in there):
            if owner := _of_claim(database, claimed, one, deadline):
                raise Conflict(f"allowed address {what} of endpoint {one.id[:12]} belongs to {owner} by now")
            unchanged = ["external_ids", "==", ovsdb.encode(claimed)]
            database.transact(ovsdb.delete("DHCP_Options", is_row(row), unchanged), deadline=deadline)

    return operations + allowed_claims.claim(database, one.id, switch, one.allowed, chassis, deadline, check)


def _lease_ids(one: _Endpoint, pool: str, chassis: Chassis) -> dict[str, str]:
    return {
        **OURS,
        **host_ids(chassis),
        POOL: pool,
        SWITCH: one.network.switch,
        NETWORK: one.network.id,
        STATE: "leased",
        CLAIM: one.id,
        **made_now(),
    }
