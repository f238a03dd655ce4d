"""Pools of our IPAM driver until a network has them: Docker does not say which network a pool is for."""

import time
from collections.abc import Iterable

from ovn_docker.backends.ovn.rows import HOST, NETWORK, OURS, OWNER, PART, POOL, POOLS, STATE, SUBNET, SWITCH
from ovn_docker.deadline import Deadline
from ovn_docker.errors import PoolNotRequested
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import CREATED, made_now, order
from ovn_docker.host.ovsdb import (
    ConditionFailed,
    Database,
    DuplicateRow,
    Operation,
    has,
    is_row,
    require,
    require_none,
)
from ovn_docker.model import Chassis, Network, Pool

PICKED = {"ovn-docker:picked": "true"}
"""On a pool, the user left the subnet to us; on a lease, also a released one, the address."""

_MAKING = 2.0
"""Seconds that Docker has between the request of a pool and that of its network: many times what it needs."""


def add_pool(database: Database, pool: Pool, chassis: Chassis, deadline: Deadline) -> None:
    """Store a pool that no network has yet.

    If this host has a free pool of the same subnet, for a network that is being made, wait until that is
    bound or seems abandoned.
    """
    ids = {
        **OURS,
        HOST: chassis.system_id,
        POOL: pool.id,
        SUBNET: str(pool.subnet),
        STATE: "free",
        **made_now(),
        CREATED: str(time.time_ns()),
    }
    if pool.part is not None:
        ids[PART] = str(pool.part)
    if pool.picked:
        ids |= PICKED
    alike = has("external_ids", {key: ids[key] for key in (OWNER, HOST, SUBNET, STATE)})
    alone = require_none("DHCP_Options", alike, wait=deadline.left(at_most=_MAKING))
    made = POOLS.insert(pool.id, ids, cidr=str(pool.subnet))
    for operations in ([alone, made], [made]):
        try:
            database.transact(*operations, deadline=deadline)
        except ConditionFailed:
            continue
        except DuplicateRow:
            return
        return


def bind(
    database: Database, network: Network, switch: str, chassis: Chassis, deadline: Deadline
) -> tuple[list[Operation], dict[str, dict[str, str]]]:
    """Return operations that bind the pools requested just before, on this host, to a new network.

    Also returns the external_ids that the pools then have, by their IDs. Of several pools with one subnet the
    newest is taken, for older ones were abandoned. Raises Conflict without such a pool.
    """
    operations: list[Operation] = []
    pools: dict[str, dict[str, str]] = {}
    for subnet in network.subnets:
        if not subnet.ours:
            continue
        fresh = {**OURS, HOST: chassis.system_id, SUBNET: str(subnet.pool), STATE: "free"}
        own = {**OURS, NETWORK: network.id, SUBNET: str(subnet.pool), STATE: "bound"}
        rows, bound_before = database.transact(
            ovsdb.select("DHCP_Options", has("external_ids", fresh), columns=["_uuid", "external_ids"]),
            ovsdb.select("DHCP_Options", has("external_ids", own), columns=["_uuid", "external_ids"]),
            deadline=deadline,
        )
        if bound_before:
            pools |= {row.uuid: row.map("external_ids") for row in bound_before}
            continue
        if not rows:
            raise PoolNotRequested(subnet.pool)
        pool = max(rows, key=lambda row: (order(row.map("external_ids")), row.uuid))
        bound = {STATE: "bound", SWITCH: switch, NETWORK: network.id}
        pools[pool.uuid] = {**pool.map("external_ids"), **bound}
        operations += [
            require("DHCP_Options", pool.uuid, has("external_ids", fresh)),
            ovsdb.mutate(
                "DHCP_Options",
                is_row(pool.uuid),
                mutations=[["external_ids", "delete", [STATE]], ["external_ids", "insert", bound]],
            ),
        ]
    return operations, pools


def picked(
    database: Database, network: Network, subnets: Iterable[str], chassis: Chassis, deadline: Deadline
) -> bool:
    """Return whether we chose these subnets of a network that Docker is making here, not its user."""
    ours = {str(subnet.pool) for subnet in network.subnets if subnet.ours}
    wanted = set(subnets)
    found = database.transact(
        *(
            ovsdb.select(
                "DHCP_Options",
                has("external_ids", {**OURS, HOST: chassis.system_id, SUBNET: subnet, STATE: "free"}),
                columns=["external_ids"],
            )
            for subnet in wanted
        ),
        deadline=deadline,
    )
    newest = [max((row.map("external_ids") for row in rows), key=order) for rows in found if rows]
    chosen = [ids for ids in newest if PICKED.items() <= ids.items()]
    return bool(wanted) and wanted <= ours and len(chosen) == len(wanted)
