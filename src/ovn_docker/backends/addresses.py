"""Pools and addresses of our IPAM driver as rows of the OVN northbound database.

A pool is a row with the UUID that Docker knows it by. An address that is taken from it is a *lease*: a row
whose UUID follows from the logical switch and the address, so that the database itself refuses a second one.
A lease is Docker's word that the address is taken; the claim that goes with a port is in overlay.py.
"""

import time
from ipaddress import ip_address, ip_network

from ovn_docker.backends.northbound import (
    CREATED,
    HOST,
    NETWORK,
    OURS,
    SWITCH,
    Connect,
    claim_row,
    stored_endpoint,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, NotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Operation, OperationError, has, is_row, require
from ovn_docker.model import Chassis, IpAddress, IpNetwork, Network, Pool, PoolId, row_uuid

POOL = "ovn-docker:pool"
_SUBNET = "ovn-docker:subnet"
_PART = "ovn-docker:part"
_RESERVED = "ovn-docker:reserved "
"""A pool's external_ids have a key of this prefix for each address that no container may have."""
_STATE = "ovn-docker:state"
_RELEASED = "ovn-docker:released"

REST = 30
"""Seconds that a released address is not given to somebody else: neighbours forget it in the meantime."""


class Addresses:
    """Stores pools and leases; every method writes in one transaction that may be repeated."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def add_pool(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> None:
        """Store a pool that no network has yet."""
        ids = {
            **OURS,
            HOST: chassis.system_id,
            POOL: pool.id,
            _SUBNET: str(pool.subnet),
            _STATE: "free",
            CREATED: str(int(time.time())),
        }
        if pool.part is not None:
            ids[_PART] = str(pool.part)
        try:
            self._connect(chassis).transact(
                ovsdb.insert("DHCP_Options", pool.id, cidr=str(pool.subnet), external_ids=ids),
                deadline=deadline,
            )
        except OperationError as error:
            if error.error != "duplicate uuid":
                raise

    def pool(self, pool: PoolId, chassis: Chassis, deadline: Deadline) -> Pool:
        """A stored pool. Raises NotFound."""
        database = self._connect(chassis)
        (rows,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(pool), has("external_ids", OURS), columns=["external_ids"]),
            deadline=deadline,
        )
        ids = rows[0]["external_ids"] if rows else {}
        if _SUBNET not in ids:
            raise NotFound(
                f"pool {pool} is not in the northbound database at {','.join(database.remotes)}: it was "
                "deleted there or made with another one; remove its network and create it again"
            )
        part = ip_network(ids[_PART]) if _PART in ids else None
        reserved = frozenset(
            ip_address(key.removeprefix(_RESERVED)) for key in ids if key.startswith(_RESERVED)
        )
        return Pool(pool, ip_network(ids[_SUBNET]), part, ids.get(SWITCH), reserved)

    def remove_pool(self, pool: PoolId, chassis: Chassis, deadline: Deadline) -> None:
        """Forget a pool with its leases. A search through the table: docker network rm only."""
        self._connect(chassis).transact(
            ovsdb.delete("DHCP_Options", has("external_ids", {**OURS, POOL: pool})), deadline=deadline
        )

    def reserve(self, pool: Pool, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Note the gateway or an auxiliary address, which every host that has the network asks for."""
        mark = [["external_ids", "insert", {f"{_RESERVED}{address}": ""}]]
        operations = [ovsdb.mutate("DHCP_Options", is_row(pool.id), mutations=mark)]
        self._connect(chassis).transact(*operations, deadline=deadline)

    def free(
        self, pool: Pool, some: list[IpAddress], chassis: Chassis, deadline: Deadline
    ) -> list[IpAddress]:
        """Which of *some* addresses have neither a lease nor a claim on the pool's switch."""
        switch = pool.switch or ""
        leases = [
            ovsdb.select("DHCP_Options", is_row(_lease(switch, address)), columns=["external_ids"])
            for address in some
        ]
        claims = [
            ovsdb.select("DHCP_Options", is_row(claim_row(switch, str(address))), columns=["_uuid"])
            for address in some
        ]
        results = self._connect(chassis).transact(*leases, *claims, deadline=deadline)
        count = len(some)
        return [
            address
            for address, lease, claim in zip(some, results[:count], results[count:], strict=True)
            if not claim and (not lease or _rested(lease[0]["external_ids"]))
        ]

    def claim(self, pool: Pool, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Lease an address to this host. Raises Conflict that says who has it."""
        database = self._connect(chassis)
        switch = pool.switch or ""
        row = _lease(switch, address)
        ids = {
            **OURS,
            HOST: chassis.system_id,
            POOL: pool.id,
            SWITCH: switch,
            _STATE: "leased",
            CREATED: str(int(time.time())),
        }
        lease = ovsdb.insert("DHCP_Options", row, cidr=str(address), external_ids=ids)
        again = ovsdb.update("DHCP_Options", is_row(row), external_ids=ids)
        released = require("DHCP_Options", row, has("external_ids", {_STATE: "released"}))
        for operations in ([lease], [released, again]):
            try:
                database.transact(*operations, deadline=deadline)
            except OperationError as error:
                if error.error not in {"duplicate uuid", "timed out"}:
                    raise
            else:
                return
        raise self._held(database, switch, address, deadline)

    def release(self, pool: PoolId, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Give a lease back, or unmark a reserved address; neither is fine."""
        database = self._connect(chassis)
        (rows,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(pool), columns=["external_ids"]), deadline=deadline
        )
        switch = rows[0]["external_ids"].get(SWITCH, "") if rows else ""
        mine = has("external_ids", {POOL: pool, _STATE: "leased"})
        released = {**OURS, POOL: pool, SWITCH: switch, _STATE: "released", _RELEASED: str(int(time.time()))}
        unmark = [["external_ids", "delete", [f"{_RESERVED}{address}"]]]
        database.transact(
            ovsdb.update("DHCP_Options", is_row(_lease(switch, address)), mine, external_ids=released),
            ovsdb.mutate("DHCP_Options", is_row(pool), mutations=unmark),
            deadline=deadline,
        )

    def subnets(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """Subnets of all networks and pools. Reads all switches: only for a pool that is picked."""
        pools = [
            ovsdb.select(
                "DHCP_Options", has("external_ids", {**OURS, _STATE: state}), columns=["external_ids"]
            )
            for state in ("free", "bound")
        ]
        found = self._connect(chassis).transact(
            ovsdb.select("Logical_Switch", columns=["external_ids"]), *pools, deadline=deadline
        )
        texts = {
            row["external_ids"].get(key, "")
            for rows in found
            for row in rows
            for key in ("subnet", "subnet6", _SUBNET)
        }
        return [ip_network(text, strict=False) for text in texts if text]

    def _held(self, database: Database, switch: str, address: IpAddress, deadline: Deadline) -> Conflict:
        lease, claim = database.transact(
            ovsdb.select("DHCP_Options", is_row(_lease(switch, address)), columns=["external_ids"]),
            ovsdb.select("DHCP_Options", is_row(claim_row(switch, str(address))), columns=["external_ids"]),
            deadline=deadline,
        )
        if claim:
            holder = stored_endpoint(claim[0]["external_ids"])
            who = f"endpoint {holder.id[:12]} on host {holder.host}"
        elif lease:
            who = f"a container of host {lease[0]['external_ids'].get(HOST, '?')} that has no port yet"
        else:
            who = "a container that has just gone; try again"
        return Conflict(f"address {address} is in use by {who}; choose another with --ip, or let us choose")


def bind(
    database: Database, network: Network, switch: str, chassis: Chassis, deadline: Deadline
) -> list[Operation]:
    """Operations that give the new network the pools that were asked for just before, on this host.

    Docker does not tell which those are: of several with the same subnet, all fresh, any will do.
    Raises Conflict without such a pool.
    """
    operations: list[Operation] = []
    for subnet in network.subnets:
        if not subnet.ours:
            continue
        fresh = {**OURS, HOST: chassis.system_id, _SUBNET: str(subnet.pool), _STATE: "free"}
        (rows,) = database.transact(
            ovsdb.select("DHCP_Options", has("external_ids", fresh), columns=["_uuid", "external_ids"]),
            deadline=deadline,
        )
        if not rows:
            raise Conflict(f"nobody asked for a pool {subnet.pool} before; create the network again")
        pool = min(rows, key=lambda row: (row["external_ids"].get(CREATED, ""), row["_uuid"]))
        bound = {_STATE: "bound", SWITCH: switch, NETWORK: network.id}
        operations += [
            require("DHCP_Options", pool["_uuid"], has("external_ids", fresh)),
            ovsdb.mutate(
                "DHCP_Options",
                is_row(pool["_uuid"]),
                mutations=[["external_ids", "delete", [_STATE]], ["external_ids", "insert", bound]],
            ),
        ]
    return operations


def _lease(switch: str, address: IpAddress) -> str:
    return row_uuid("lease", switch, str(address))


def _rested(ids: dict[str, str]) -> bool:
    released = ids.get(_RELEASED, "")
    return ids.get(_STATE) == "released" and (not released.isdigit() or time.time() - int(released) >= REST)
