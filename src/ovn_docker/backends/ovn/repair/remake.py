"""Makes the rows again that this host needs and that OVN's northbound database does not have: see gaps.py."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ovn_docker.backends.ovn import acls, allowed_claims, port_groups, records
from ovn_docker.backends.ovn.networks.addresses import CLAIM
from ovn_docker.backends.ovn.networks.users_switch import users_switch
from ovn_docker.backends.ovn.northbound import Connect
from ovn_docker.backends.ovn.records import NetworkRecord, make_switch, network_record, port_record
from ovn_docker.backends.ovn.repair.displaced import is_displaced, lead_back
from ovn_docker.backends.ovn.repair.gaps import (
    RecordedEndpoint,
    gaps_of_endpoints,
    gaps_of_networks,
    held_rows,
    owner_of_claim,
    owners_of,
    recorded_endpoints,
    recorded_networks,
    with_switches,
)
from ovn_docker.backends.ovn.repair.leftovers import LOCK
from ovn_docker.backends.ovn.rows import (
    CLAIMS,
    ENDPOINT,
    ENDPOINTS,
    HOST,
    KEPT,
    LEASES,
    NETWORK,
    NETWORKS,
    NOTES,
    OURS,
    POOL,
    POOLS,
    STATE,
    SUBNET,
    SWITCH,
    host_ids,
    note_row,
)
from ovn_docker.backends.ovn.shared import membership
from ovn_docker.backends.ovn.shared.container_names import Names
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import Conflict, NotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import made_now
from ovn_docker.host.ovsdb import (
    ConditionFailed,
    Database,
    DuplicateRow,
    Operation,
    Reference,
    has,
    is_row,
    require,
)
from ovn_docker.hostnames import ContainerNames
from ovn_docker.model import Chassis, Endpoint, EndpointId, Gap, Network, NetworkId, StoredEndpoint, row_uuid

_DOCKER_ID = 64
"""Characters in the ID of a network that this host's Docker has made; swarm's IDs have 25."""


class MissingRows:
    """Finds the missing rows of the networks and endpoints of this host, and makes them again.

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
        """Return the gaps of this host's networks, by their records, and of its endpoints.

        Reads each network, address and name by UUID, in three transactions, and one more if there are gaps.
        """
        database = self._connect(chassis)
        known = recorded_networks(networks)
        gaps = gaps_of_networks(database, known, deadline)
        of_networks = with_switches(database, known, deadline)
        gaps += of_networks[1]
        here = recorded_endpoints(endpoints, of_networks[0])
        return gaps + gaps_of_endpoints(database, here, chassis, deadline)

    def displaced(self, chassis: Chassis, deadline: Deadline) -> bool:
        """Return whether rows of this host are displaced."""
        return is_displaced(self._connect(chassis), chassis, deadline)

    def lead_back(self, chassis: Chassis, deadline: Deadline) -> int | None:
        """Replace displaced rows of all hosts; return their number, or ``None`` if another host is at it."""
        database = self._connect(chassis)
        with database.lock(LOCK, deadline) as locked:
            return None if locked is None else lead_back(locked, chassis, deadline)

    def make_network(
        self, network: NetworkId, text: str, chassis: Chassis, deadline: Deadline, *, used: bool
    ) -> None:
        """Make the missing rows of a network; *text*: its record, *used*: see LocalNetwork.

        Raises Conflict if a different shared network has the name by now, BadRequest without the user's
        logical switch.
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
            except (DuplicateRow, ConditionFailed) as error:
                if isinstance(error, DuplicateRow) and operations[error.index]["table"] == "ACL":
                    acls.detach(database, switch, operations[error.index]["uuid"], deadline)
                deadline.check(f"network {network[:12]}, which other hosts keep changing")
            else:
                return

    def make_endpoint(
        self, endpoint: StoredEndpoint, text: str, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Make the missing rows of an endpoint except its names; *text*: the record of its network.

        Raises Conflict if another container has its address or MAC by now, NotFound without its logical
        switch.
        """
        database = self._connect(chassis)
        known, _ = with_switches(database, recorded_networks({endpoint.network: text}), deadline)
        for one in recorded_endpoints([endpoint], known):
            while True:
                try:
                    database.transact(*_making_endpoint(database, one, chassis, deadline), deadline=deadline)
                except (DuplicateRow, ConditionFailed):
                    deadline.check(f"endpoint {one.id[:12]}, whose rows other hosts keep changing")
                else:
                    break

    def set_names(
        self, endpoint: EndpointId, names: ContainerNames, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Register the names of an endpoint, and let it use the addresses that Docker gave it by itself."""
        self._names.set_names(endpoint, names, chassis, deadline)
        if names.link_local:
            self._names.allow(endpoint, names.link_local, chassis, deadline)

    def record_network(self, network: Network, chassis: Chassis, deadline: Deadline) -> str:
        """Return the record of a network without one: as its rows are, if Docker says the same.

        Searches DHCP_Options: once, for a network that an earlier version has made.
        """
        (own, notes, pools) = self._connect(chassis).transact(
            ovsdb.select("Logical_Switch", is_row(row_uuid("network", network.id)), columns=["external_ids"]),
            ovsdb.select("DHCP_Options", is_row(note_row(network.id)), columns=["external_ids"]),
            ovsdb.select(
                "DHCP_Options",
                has("external_ids", {**OURS, NETWORK: network.id, STATE: "bound"}),
                columns=["_uuid", "external_ids"],
            ),
            deadline=deadline,
        )
        subnets = {str(subnet.pool) for subnet in network.subnets}
        bound = {
            row.uuid: row.map("external_ids")
            for row in pools
            if row.map("external_ids").get(POOL) == row.uuid
            and row.map("external_ids").get(SUBNET) in subnets
        }
        record = network_record(network, bound)
        for ids in (row.map("external_ids") for row in (*own, *notes)):
            if subnets == {ids[key] for key in ("subnet", "subnet6") if key in ids}:
                gateways = {key: ids[key] for key in ("gateway_ip", "gateway_ip6") if key in ids}
                described = {key: value for key, value in record.ids.items() if not key.startswith("gateway")}
                record = replace(record, ids=described | gateways)
        return record.text

    def record_endpoint(self, endpoint: Endpoint, text: str) -> str:
        """Return the record of an endpoint without one; *text*: the record of its network."""
        for network in recorded_networks({endpoint.network: text}):
            return port_record(endpoint, network.switch, network.domain).text
        return ""

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
        """Return the UUID of a network's switch, and operations that make the switch or this host's note."""
        ids = dict(record.ids)
        if record.name:
            making = membership.remaking(database, network, record.name, ids, chassis, deadline, used=used)
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
            if there:
                return row, acls.mend(database, row, acls.of_network(row, ids), deadline)
            return row, make_switch(NETWORKS, row, network, ids)
        row = note_row(network)
        (notes,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]), deadline=deadline
        )
        switch = notes[0].map("external_ids").get(SWITCH, "") if notes else ""
        (there,) = database.transact(
            ovsdb.select("Logical_Switch", is_row(switch), columns=["_uuid"]), deadline=deadline
        )
        if there:
            return switch, []
        switch = users_switch(database, record.switch, (), deadline)
        ids[SWITCH] = switch
        if notes:
            return switch, [ovsdb.update("DHCP_Options", is_row(row), external_ids=NOTES.ids(ids))]
        return switch, [NOTES.insert(row, ids, cidr=ids.get("subnet", ""))]


def _pools(
    database: Database,
    network: NetworkId,
    record: NetworkRecord,
    switch: str,
    chassis: Chassis,
    deadline: Deadline,
) -> list[Operation]:
    """Return operations that make the missing pools of a network, and bind the others to its switch."""
    if not record.pools:
        return []
    found = database.transact(
        *(ovsdb.select("DHCP_Options", is_row(pool), columns=["external_ids"]) for pool in record.pools),
        deadline=deadline,
    )
    operations = []
    for (pool, kept), rows in zip(record.pools.items(), found, strict=True):
        bound = {STATE: "bound", SWITCH: switch, NETWORK: network}
        ids = POOLS.ids(kept, {HOST: chassis.system_id, **bound, **made_now()})
        if not rows:
            operations.append(POOLS.insert(pool, ids, cidr=kept.get(SUBNET, "")))
        elif not bound.items() <= rows[0].map("external_ids").items():
            operations.append(ovsdb.update("DHCP_Options", is_row(pool), external_ids=ids))
    return operations


def _making_endpoint(
    database: Database, one: RecordedEndpoint, chassis: Chassis, deadline: Deadline
) -> list[Operation]:
    """Return operations that make the missing port, claims and leases of an endpoint."""
    switch, held = one.network.switch, held_rows(one)
    if owners := owners_of(database, one, chassis, deadline):
        what, owner = next(iter(owners.items()))
        raise Conflict(f"address {what} of endpoint {one.id[:12]} belongs to {owner} by now")
    switches, ports, *found = database.transact(
        ovsdb.select("Logical_Switch", is_row(switch), columns=["_uuid"]),
        ovsdb.select("Logical_Switch_Port", is_row(one.row), columns=["_uuid"]),
        *(ovsdb.select(row.kind.table, is_row(row.uuid), columns=["external_ids"]) for row in held),
        deadline=deadline,
    )
    if not switches:
        raise NotFound(f"endpoint {one.id[:12]} has no logical switch {switch or one.network.record.switch}")
    ids = {**one.record.ids, SWITCH: switch, **host_ids(chassis), **made_now()}
    operations = [require("Logical_Switch", switch)]
    if not ports:
        reference = [["ports", "insert", [Reference(one.row)]]]
        made = ENDPOINTS.insert(one.row, ids)
        made["row"] |= one.record.columns
        operations += [made, ovsdb.mutate("Logical_Switch", is_row(switch), mutations=reference)]
    pools = dict(one.leases)
    for row, there in zip(held, found, strict=True):
        wanted = _lease_ids(one, pools[row.what], chassis) if row.kind is LEASES else CLAIMS.ids(ids)
        before = there[0].map("external_ids") if there else {}
        lost = before.get(STATE) != "leased" if row.kind is LEASES else before.get(ENDPOINT) != one.id
        if not there:
            operations.append(row.kind.insert(row.uuid, wanted, cidr=row.what))
        elif lost:
            unchanged = ["external_ids", "==", ovsdb.encode(before)]
            operations += [
                require(row.kind.table, row.uuid, unchanged),
                ovsdb.update(row.kind.table, is_row(row.uuid), external_ids=wanted),
            ]

    def check(row: str, what: str) -> None:
        (there,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]), deadline=deadline
        )
        for claimed in (found.map("external_ids") for found in there):
            if owner := owner_of_claim(database, claimed, one, deadline):
                raise Conflict(f"allowed address {what} of endpoint {one.id[:12]} belongs to {owner} by now")
            unchanged = ["external_ids", "==", ovsdb.encode(claimed)]
            database.transact(ovsdb.delete("DHCP_Options", is_row(row), unchanged), deadline=deadline)

    operations += allowed_claims.claim(database, one.id, switch, one.allowed, chassis, deadline, check)
    return operations + port_groups.join(database, switch, one.groups, one.id, deadline)


def _lease_ids(one: RecordedEndpoint, pool: str, chassis: Chassis) -> dict[str, str]:
    of_lease = {
        POOL: pool,
        SWITCH: one.network.switch,
        NETWORK: one.network.id,
        STATE: "leased",
        CLAIM: one.id,
    }
    return LEASES.ids(host_ids(chassis), of_lease, made_now())
