"""Pools and addresses of our IPAM driver as rows of the OVN northbound database.

A pool is a row with the UUID that Docker knows it by. An address that is taken from it is a *lease*: a row
whose UUID follows from the logical switch and the address, so that the database itself refuses a second one.
A lease is Docker's word that the address is taken; the claim that goes with a port is in overlay.py.
"""

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import uuid4

from ovn_docker.backends import allowed_claims
from ovn_docker.backends.northbound import (
    CONTAINER,
    ENCAP,
    ENDPOINT,
    HOST,
    NETWORK,
    OURS,
    OWNER,
    SWITCH,
    Connect,
    claim_row,
    host_ids,
    stored_endpoint,
)
from ovn_docker.backends.reports import Reports
from ovn_docker.deadline import Deadline
from ovn_docker.definition import stored_pool
from ovn_docker.errors import Conflict, NotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import CREATED, UPTIME, age, made_now, order
from ovn_docker.host.ovsdb import Database, Operation, OperationError, has, is_row, require, require_none
from ovn_docker.model import (
    Chassis,
    EndpointId,
    Former,
    IpAddress,
    IpNetwork,
    Network,
    NetworkId,
    Picked,
    Pool,
    PoolId,
    StoredEndpoint,
    row_uuid,
)

POOL = "ovn-docker:pool"
SUBNET = "ovn-docker:subnet"
_PART = "ovn-docker:part"
_RESERVED = "ovn-docker:reserved "
"""A pool's external_ids have a key of this prefix for each address that no container may have."""

STATE = "ovn-docker:state"
RELEASED = "ovn-docker:released"

_PICKED = {"ovn-docker:picked": "true"}
"""On a pool: the user did not ask for this subnet; on a lease, also a released one: nor for this address."""

CLAIM = "ovn-docker:claim"
"""A word of its own for every claim of an address: tells one that was sent twice from another one."""

_MAKING = 2.0
"""Seconds that Docker has, many times what it needs, from the pool to the network that it is for."""

_FORGET = 60.0
"""Seconds after which nobody asks when an address was released: the row goes."""


class Addresses:
    """Stores pools and leases; every method writes in one transaction that may be repeated."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._released: deque[tuple[float, Operation]] = deque()

    def add_pool(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> None:
        """Store a pool that no network has yet.

        Docker does not tell which pool a network is for (see bind), so that of another network of this host
        with the same subnet, which is being made, is waited for: until it is bound, or seems abandoned.
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
            ids[_PART] = str(pool.part)
        if pool.picked:
            ids |= _PICKED
        alike = has("external_ids", {key: ids[key] for key in (OWNER, HOST, SUBNET, STATE)})
        alone = require_none("DHCP_Options", alike, wait=deadline.left(at_most=_MAKING))
        made = ovsdb.insert("DHCP_Options", pool.id, cidr=str(pool.subnet), external_ids=ids)
        for operations in ([alone, made], [made]):
            try:
                self._connect(chassis).transact(*operations, deadline=deadline)
            except OperationError as error:
                if error.error == "timed out":
                    continue
                if error.error != "duplicate uuid":
                    raise
            return

    def pool(self, pool: PoolId, chassis: Chassis, deadline: Deadline) -> Pool:
        """A stored pool. Raises NotFound."""
        database = self._connect(chassis)
        (rows,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(pool), has("external_ids", OURS), columns=["external_ids"]),
            deadline=deadline,
        )
        ids = rows[0]["external_ids"] if rows else {}
        if SUBNET not in ids:
            raise NotFound(
                f"pool {pool} is not in the northbound database at {','.join(database.remotes)}: it was "
                "deleted there or made with another one; remove its network and create it again"
            )
        reserved = [key.removeprefix(_RESERVED) for key in ids if key.startswith(_RESERVED)]
        network = NetworkId(ids[NETWORK]) if NETWORK in ids else None
        return stored_pool(pool, ids[SUBNET], ids.get(_PART), reserved, ids.get(SWITCH), network)

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
        self, pool: Pool, some: list[IpAddress], rest: float, chassis: Chassis, deadline: Deadline
    ) -> list[IpAddress]:
        """Which of *some* addresses have no claim on the pool's switch, and no lease or one long released."""
        switch = pool.switch or ""
        leases = [
            ovsdb.select("DHCP_Options", is_row(lease_row(switch, address)), columns=["external_ids"])
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
            if not claim and (not lease or _rested(lease[0]["external_ids"], rest))
        ]

    def claim_next(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> IpAddress | None:  # noqa: ARG002
        """Which address is for others to choose."""
        return None

    def claim(
        self, pool: Pool, address: IpAddress, picked: Picked | None, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Lease an address to this host. Raises Conflict that says who has it."""
        database = self._connect(chassis)
        switch = pool.switch or ""
        row = lease_row(switch, address)
        ids = _lease_ids(pool, chassis, picked)
        lease = ovsdb.insert("DHCP_Options", row, cidr=str(address), external_ids=ids)
        again = ovsdb.update("DHCP_Options", is_row(row), external_ids=ids)
        released = require("DHCP_Options", row, has("external_ids", {STATE: "released"}))
        claimed = require("DHCP_Options", row, has("external_ids", {CLAIM: ids[CLAIM]}))
        if not _one_of(database, [lease], [released, again], [claimed], deadline=deadline):
            raise self._held(database, switch, address, deadline)

    def take_over(
        self,
        pool: Pool,
        address: IpAddress,
        picked: Picked | None,
        at_work: Sequence[StoredEndpoint],
        before: float,
        chassis: Chassis,
        deadline: Deadline,
    ) -> bool:
        """Lease an address anew that is leased to this host, if no endpoint of a running container has it.

        The claim of a dead endpoint stays: CreateEndpoint removes that endpoint first (Driver._store).
        """
        database = self._connect(chassis)
        switch = pool.switch or ""
        row = lease_row(switch, address)
        leases, claims = database.transact(
            ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]),
            ovsdb.select("DHCP_Options", is_row(claim_row(switch, str(address))), columns=["external_ids"]),
            deadline=deadline,
        )
        old = leases[0]["external_ids"] if leases else {}
        mine = {**OURS, POOL: pool.id, STATE: "leased"}.items() <= old.items()
        if not mine or not chassis.made(old.get(HOST, ""), old.get(ENCAP, "")):
            return False
        if time.monotonic() - age(old) >= before:
            return False
        # A port of a running container that somebody has deleted by hand may have had the address.
        running = [one.id for one in at_work if one.network == pool.network]
        holders = [EndpointId(claim["external_ids"].get(ENDPOINT, "")) for claim in claims]
        ports = database.transact(
            *(
                ovsdb.select(
                    "Logical_Switch_Port", is_row(row_uuid("endpoint", one)), columns=["external_ids"]
                )
                for one in (*running, *holders)
            ),
            deadline=deadline,
        )
        if not all(ports[: len(running)]) or {*holders} & {one.id for one in at_work}:
            return False
        holding = [port["external_ids"] for found in ports[len(running) :] for port in found]
        if any(not chassis.made(ids.get(HOST, ""), ids.get(ENCAP, "")) for ids in holding):
            return False
        ids = _lease_ids(pool, chassis, picked)
        unchanged = require("DHCP_Options", row, ["external_ids", "==", ovsdb.encode(old)])
        again = ovsdb.update("DHCP_Options", is_row(row), external_ids=ids)
        leased = require("DHCP_Options", row, has("external_ids", {CLAIM: ids[CLAIM]}))
        return _one_of(database, [unchanged, again], [leased], deadline=deadline)

    def former(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> list[Former]:
        """Addresses of the pool that were picked for containers of this host, and are no other's since.

        A search through the table: once for each pool when Docker starts. Those that are still leased come
        first, the lowest before the others, then those that were released, the last one first.
        """
        database = self._connect(chassis)
        switch = pool.switch or ""
        (rows,) = database.transact(
            ovsdb.select(
                "DHCP_Options",
                has("external_ids", {**OURS, **_PICKED, POOL: pool.id}),
                columns=["_uuid", "cidr", "external_ids"],
            ),
            deadline=deadline,
        )
        found: list[tuple[float, IpAddress, Picked]] = []
        for row in rows:
            with contextlib.suppress(ValueError):  # any host can write anything
                address, when = ip_address(row["cidr"]), released(row["external_ids"])
                in_range = address in pool.subnet and int(pool.first) <= int(address) <= int(pool.last)
                if in_range and row["_uuid"] == lease_row(switch, address):
                    had = Picked(row["external_ids"].get(CONTAINER, ""))
                    found.append((float("inf") if when is None else when, address, had))
        rows_of = [is_row(claim_row(switch, str(address))) for _, address, _ in found]
        claims = database.transact(
            *(ovsdb.select("DHCP_Options", one, columns=["external_ids"]) for one in rows_of),
            deadline=deadline,
        )
        former = []
        for (when, address, had), claim in sorted(
            zip(found, claims, strict=True), key=lambda one: (-one[0][0], int(one[0][1]))
        ):
            holder = claim[0]["external_ids"].get(ENDPOINT, "") if claim else ""
            if when == float("inf") or not claim:  # what was released and has a claim is another host's
                former.append(Former(address, had, holder))
        return former

    def release(self, pool: PoolId, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Give a lease back, or unmark a reserved address; neither is fine."""
        database = self._connect(chassis)
        (rows,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(pool), has("external_ids", OURS), columns=["external_ids"]),
            deadline=deadline,
        )
        for ids in (row["external_ids"] for row in rows):
            row = lease_row(ids.get(SWITCH, ""), address)
            mine = has("external_ids", {POOL: pool, STATE: "leased"})
            released = {
                STATE: "released",
                RELEASED: f"{time.time_ns() // 10**6 / 1000:.3f}",
            }  # not rounded up
            of_host = [HOST, ENCAP, STATE, CLAIM, CREATED, UPTIME]
            give_back: list[list[Any]] = [
                ["external_ids", "delete", of_host],
                ["external_ids", "insert", released],
            ]
            unmark = [["external_ids", "delete", [f"{_RESERVED}{address}"]]]
            database.transact(
                ovsdb.mutate("DHCP_Options", is_row(row), mine, mutations=give_back),
                ovsdb.mutate("DHCP_Options", is_row(pool), mutations=unmark),
                *self._forget(),
                deadline=deadline,
            )
            forget = ovsdb.delete("DHCP_Options", is_row(row), has("external_ids", released))
            with self._lock:
                self._released.append((time.monotonic() + _FORGET, forget))

    def subnets(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """Subnets of all networks and pools. Reads all switches: only for a pool that is picked."""
        pools = [
            ovsdb.select(
                "DHCP_Options", has("external_ids", {**OURS, STATE: state}), columns=["external_ids"]
            )
            for state in ("free", "bound")
        ]
        found = self._connect(chassis).transact(
            ovsdb.select("Logical_Switch", columns=["external_ids", "other_config"]),
            *pools,
            deadline=deadline,
        )
        texts = {
            ids.get(key, "")
            for rows in found
            for row in rows
            for ids in row.values()
            for key in ("subnet", "subnet6", SUBNET)
        }
        subnets = []
        for text in texts:
            with contextlib.suppress(ValueError):  # somebody else's switch, with something else to say
                subnets.append(ip_network(text, strict=False))
        return subnets

    def occupied(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """Subnets that hosts have in use outside of OVN, as they report. A search."""
        reports = Reports(self._connect).all(chassis, deadline)
        return [one.subnet for report in reports for one in report.occupied]

    def _forget(self) -> list[Operation]:
        """Operations that delete what was released here long ago; what is missed goes with its pool."""
        operations: list[Operation] = []
        with self._lock:
            while self._released and self._released[0][0] <= time.monotonic() and len(operations) < 16:
                operations.append(self._released.popleft()[1])
        return operations

    def _held(self, database: Database, switch: str, address: IpAddress, deadline: Deadline) -> Conflict:
        lease, claim = database.transact(
            ovsdb.select("DHCP_Options", is_row(lease_row(switch, address)), columns=["external_ids"]),
            ovsdb.select("DHCP_Options", is_row(claim_row(switch, str(address))), columns=["external_ids"]),
            deadline=deadline,
        )
        if claim and allowed_claims.is_allowed(claim[0]["external_ids"]):
            holders = ", ".join(one[:12] for one in allowed_claims.holders(claim[0]["external_ids"])[:3])
            return Conflict(
                f"address {address} is an allowed address of endpoint {holders}, so no container's own; "
                "choose another with --ip, or let us choose"
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
) -> tuple[list[Operation], dict[str, dict[str, str]]]:
    """Operations that give the new network the pools that were asked for just before, on this host.

    Returns them and the external_ids that its pools then have, by their IDs. Docker does not tell which those
    are: of several with the same subnet it is the newest, for what is older was forgotten on the way. Raises
    Conflict without such a pool.
    """
    operations: list[Operation] = []
    pools: dict[str, dict[str, str]] = {}
    for subnet in network.subnets:
        if not subnet.ours:
            continue
        fresh = {**OURS, HOST: chassis.system_id, SUBNET: str(subnet.pool), STATE: "free"}
        mine = {**OURS, NETWORK: network.id, SUBNET: str(subnet.pool), STATE: "bound"}
        rows, bound_before = database.transact(
            ovsdb.select("DHCP_Options", has("external_ids", fresh), columns=["_uuid", "external_ids"]),
            ovsdb.select("DHCP_Options", has("external_ids", mine), columns=["_uuid", "external_ids"]),
            deadline=deadline,
        )
        if bound_before:
            pools |= {row["_uuid"]: row["external_ids"] for row in bound_before}
            continue
        if not rows:
            raise Conflict(f"nobody asked for a pool {subnet.pool} before; create the network again")
        pool = max(rows, key=lambda row: (order(row["external_ids"]), row["_uuid"]))
        bound = {STATE: "bound", SWITCH: switch, NETWORK: network.id}
        pools[pool["_uuid"]] = {**pool["external_ids"], **bound}
        operations += [
            require("DHCP_Options", pool["_uuid"], has("external_ids", fresh)),
            ovsdb.mutate(
                "DHCP_Options",
                is_row(pool["_uuid"]),
                mutations=[["external_ids", "delete", [STATE]], ["external_ids", "insert", bound]],
            ),
        ]
    return operations, pools


def picked(
    database: Database, network: Network, subnets: Iterable[str], chassis: Chassis, deadline: Deadline
) -> bool:
    """Whether these subnets of a network that Docker is making here were chosen, not given by its user."""
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
    newest = [max((row["external_ids"] for row in rows), key=order) for rows in found if rows]
    chosen = [ids for ids in newest if _PICKED.items() <= ids.items()]
    return bool(wanted) and wanted <= ours and len(chosen) == len(wanted)


def _lease_ids(pool: Pool, chassis: Chassis, picked: Picked | None) -> dict[str, str]:
    """external_ids of the row of a new lease."""
    return {
        **OURS,
        **host_ids(chassis),
        POOL: pool.id,
        SWITCH: pool.switch or "",
        NETWORK: pool.network or "",
        STATE: "leased",
        **(_PICKED if picked else {}),
        **({CONTAINER: picked.name} if picked and picked.name else {}),
        CLAIM: str(uuid4()),
        **made_now(),
    }


def _one_of(database: Database, *transactions: list[Operation], deadline: Deadline) -> bool:
    """Whether one of some transactions was done, tried in turn: a row is there, or not as it was expected."""
    for operations in transactions:
        try:
            database.transact(*operations, deadline=deadline)
        except OperationError as error:
            if error.error not in {"duplicate uuid", "timed out"}:
                raise
        else:
            return True
    return False


def lease_row(switch: str, address: IpAddress | str) -> str:
    """UUID of the row that stands for an address of a logical switch that was given to a host."""
    return row_uuid("lease", switch, str(address))


def _rested(ids: dict[str, str], rest: float) -> bool:
    if ids.get(STATE) != "released":
        return False
    when = released(ids)
    # By the clock of another host, perhaps: what is far in the future says nothing.
    return when is None or abs(time.time() - when) >= rest


def released(ids: Mapping[str, str]) -> float | None:
    """When an address was released, in seconds of the epoch; ``None`` if its row does not say."""
    text = ids.get(RELEASED, "")
    return float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text) else None
