"""Pools and addresses of our IPAM driver as rows of the OVN northbound database.

A pool is a row whose UUID is the pool's ID in Docker. An address that is taken from a pool is a *lease*: a
row whose UUID follows from the logical switch and the address, so that the database itself refuses a second
one. Docker requests a lease before it makes an endpoint; the endpoint's *claim* of the address is in
logical_ports.py.
"""

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import uuid4

from ovn_docker.backends.ovn import allowed_claims
from ovn_docker.backends.ovn.networks.pools import PICKED, add_pool
from ovn_docker.backends.ovn.northbound import Connect
from ovn_docker.backends.ovn.rows import (
    CONTAINER,
    ENCAP,
    ENDPOINT,
    HOST,
    LEASES,
    NETWORK,
    OURS,
    PART,
    POOL,
    RELEASED,
    STATE,
    SUBNET,
    SWITCH,
    claim_row,
    host_ids,
    lease_row,
    stored_endpoint,
)
from ovn_docker.backends.ovn.shared.reports import Reports
from ovn_docker.deadline import Deadline
from ovn_docker.definition import stored_pool
from ovn_docker.errors import AddressInUse, PoolNotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import CREATED, UPTIME, age, made_now
from ovn_docker.host.ovsdb import ConditionFailed, Database, DuplicateRow, Operation, has, is_row, require
from ovn_docker.model import (
    Chassis,
    EndpointId,
    Former,
    IpAddress,
    IpNetwork,
    Lease,
    NetworkId,
    Picked,
    Pool,
    PoolId,
    StoredEndpoint,
    row_uuid,
)

_RESERVED = "ovn-docker:reserved "
"""A pool's external_ids have a key of this prefix for each address that no container may have."""

CLAIM = "ovn-docker:claim"
"""A random value for each request of an address, by which a request that was sent twice is recognised."""

_KEPT_FOR = 60.0
"""Seconds after which the time when an address was released does not matter, and its row is deleted."""


class Addresses:
    """The pools and leases of the cluster; called with a chassis, as that host sees them."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._released = _ReleasedLeases()

    def __call__(self, chassis: Chassis) -> "HostAddresses":
        """Return the store of a host. Raises BadRequest for unusable settings of the database."""
        return HostAddresses(self._connect, chassis, self._released)


class _ReleasedLeases:
    """Operations that delete the rows of leases that this process has released, once they have rested."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._released: deque[tuple[float, Operation]] = deque()

    def add(self, delete: Operation) -> None:
        """Keep the operation that deletes the row of a lease released now."""
        with self._lock:
            self._released.append((time.monotonic() + _KEPT_FOR, delete))

    def due(self) -> list[Operation]:
        """Return the operations that are due. Rows without an operation are deleted with their pool."""
        operations: list[Operation] = []
        with self._lock:
            while self._released and self._released[0][0] <= time.monotonic() and len(operations) < 16:
                operations.append(self._released.popleft()[1])
        return operations


class HostAddresses:
    """Stores pools and leases for one host; every method writes in one transaction that may be repeated."""

    def __init__(self, connect: Connect, chassis: Chassis, released: _ReleasedLeases) -> None:
        self._connect = connect
        self._chassis = chassis
        self._database = connect(chassis)
        self._released = released

    def add_pool(self, pool: Pool, deadline: Deadline) -> None:
        """Store a pool that no network has yet (pools.py)."""
        add_pool(self._database, pool, self._chassis, deadline)

    def pool(self, pool: PoolId, deadline: Deadline) -> Pool:
        """Return a stored pool. Raises NotFound."""
        database = self._database
        (rows,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(pool), has("external_ids", OURS), columns=["external_ids"]),
            deadline=deadline,
        )
        ids = rows[0].map("external_ids") if rows else {}
        if SUBNET not in ids:
            raise PoolNotFound(pool, f"the northbound database at {','.join(database.remotes)}")
        reserved = [key.removeprefix(_RESERVED) for key in ids if key.startswith(_RESERVED)]
        network = NetworkId(ids[NETWORK]) if NETWORK in ids else None
        return stored_pool(pool, ids[SUBNET], ids.get(PART), reserved, ids.get(SWITCH), network)

    def remove_pool(self, pool: PoolId, deadline: Deadline) -> None:
        """Delete a pool with its leases. Searches the whole table: for docker network rm only."""
        self._database.transact(
            ovsdb.delete("DHCP_Options", has("external_ids", {**OURS, POOL: pool})), deadline=deadline
        )

    def reserve(self, pool: Pool, address: IpAddress, deadline: Deadline) -> None:
        """Mark the gateway or an auxiliary address, which every host that has the network requests."""
        mark = [["external_ids", "insert", {f"{_RESERVED}{address}": ""}]]
        operations = [ovsdb.mutate("DHCP_Options", is_row(pool.id), mutations=mark)]
        self._database.transact(*operations, deadline=deadline)

    def free(self, pool: Pool, some: list[IpAddress], deadline: Deadline) -> list[IpAddress]:
        """Return those of *some* addresses that have no claim on the pool's switch and are not leased."""
        return self.rested(pool, some, 0, deadline)

    def rested(
        self, pool: Pool, some: list[IpAddress], seconds: float, deadline: Deadline
    ) -> list[IpAddress]:
        """Return those of *some* addresses without a claim, and without a lease for *seconds*."""
        switch = pool.switch or ""
        leases = [
            ovsdb.select("DHCP_Options", is_row(lease_row(switch, address)), columns=["external_ids"])
            for address in some
        ]
        claims = [
            ovsdb.select("DHCP_Options", is_row(claim_row(switch, str(address))), columns=["_uuid"])
            for address in some
        ]
        results = self._database.transact(*leases, *claims, deadline=deadline)
        count = len(some)
        return [
            address
            for address, lease, claim in zip(some, results[:count], results[count:], strict=True)
            if not claim and (not lease or _rested(lease[0].map("external_ids"), seconds))
        ]

    def lease(self, lease: Lease, deadline: Deadline) -> None:
        """Lease an address to this host. Raises Conflict with the holder."""
        database, address, switch = self._database, lease.address, lease.pool.switch or ""
        row = lease_row(switch, address)
        ids = _lease_ids(lease, self._chassis)
        new = LEASES.insert(row, ids, cidr=str(address))
        again = ovsdb.update("DHCP_Options", is_row(row), external_ids=ids)
        released = require("DHCP_Options", row, has("external_ids", {STATE: "released"}))
        claimed = require("DHCP_Options", row, has("external_ids", {CLAIM: ids[CLAIM]}))
        if not _one_of(database, [new], [released, again], [claimed], deadline=deadline):
            raise self._held(database, switch, address, deadline)

    def take_over(
        self, lease: Lease, active: Sequence[StoredEndpoint], before: float, deadline: Deadline
    ) -> bool:
        """Renew a lease of this host if no endpoint of a running container has the address.

        The claim of a dead endpoint stays: CreateEndpoint removes that endpoint first (Driver._store).
        """
        database, pool, address = self._database, lease.pool, lease.address
        switch = pool.switch or ""
        row = lease_row(switch, address)
        leases, claims = database.transact(
            ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]),
            ovsdb.select("DHCP_Options", is_row(claim_row(switch, str(address))), columns=["external_ids"]),
            deadline=deadline,
        )
        old = leases[0].map("external_ids") if leases else {}
        leased_here = {**OURS, POOL: pool.id, STATE: "leased"}.items() <= old.items()
        if not leased_here or not self._chassis.made(old.get(HOST, ""), old.get(ENCAP, "")):
            return False
        if time.monotonic() - age(old) >= before:
            return False
        # A running container's port that a user has deleted by hand may have had the address.
        running = [one.id for one in active if one.network == pool.network]
        holders = [EndpointId(claim.map("external_ids").get(ENDPOINT, "")) for claim in claims]
        ports = database.transact(
            *(
                ovsdb.select(
                    "Logical_Switch_Port", is_row(row_uuid("endpoint", one)), columns=["external_ids"]
                )
                for one in (*running, *holders)
            ),
            deadline=deadline,
        )
        if not all(ports[: len(running)]) or {*holders} & {one.id for one in active}:
            return False
        holding = [port.map("external_ids") for found in ports[len(running) :] for port in found]
        if any(not self._chassis.made(ids.get(HOST, ""), ids.get(ENCAP, "")) for ids in holding):
            return False
        ids = _lease_ids(lease, self._chassis)
        unchanged = require("DHCP_Options", row, ["external_ids", "==", ovsdb.encode(old)])
        again = ovsdb.update("DHCP_Options", is_row(row), external_ids=ids)
        leased = require("DHCP_Options", row, has("external_ids", {CLAIM: ids[CLAIM]}))
        return _one_of(database, [unchanged, again], [leased], deadline=deadline)

    def former(self, pool: Pool, deadline: Deadline) -> list[Former]:
        """Return addresses of the pool that were picked for containers of this host, unless others have them.

        Addresses that are still leased come first, by number, then released ones, the latest first. Searches
        the whole table: once for each pool when Docker starts.
        """
        database = self._database
        switch = pool.switch or ""
        (rows,) = database.transact(
            ovsdb.select(
                "DHCP_Options",
                has("external_ids", {**OURS, **PICKED, POOL: pool.id}),
                columns=["_uuid", "cidr", "external_ids"],
            ),
            deadline=deadline,
        )
        found: list[tuple[float, IpAddress, Picked]] = []
        for row in rows:
            with contextlib.suppress(ValueError):  # any host can write anything there
                address, when = ip_address(row.text("cidr")), released(row.map("external_ids"))
                in_range = address in pool.subnet and int(pool.first) <= int(address) <= int(pool.last)
                if in_range and row.uuid == lease_row(switch, address):
                    had = Picked(row.map("external_ids").get(CONTAINER, ""))
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
            holder = claim[0].map("external_ids").get(ENDPOINT, "") if claim else ""
            if when == float("inf") or not claim:  # a released address with a claim is another host's
                former.append(Former(address, had, holder))
        return former

    def release(self, pool: PoolId, address: IpAddress, deadline: Deadline) -> None:
        """Give a lease back, or unmark a reserved address; do nothing if it is neither."""
        database = self._database
        (rows,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(pool), has("external_ids", OURS), columns=["external_ids"]),
            deadline=deadline,
        )
        for ids in (row.map("external_ids") for row in rows):
            row = lease_row(ids.get(SWITCH, ""), address)
            leased = has("external_ids", {POOL: pool, STATE: "leased"})
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
                ovsdb.mutate("DHCP_Options", is_row(row), leased, mutations=give_back),
                ovsdb.mutate("DHCP_Options", is_row(pool), mutations=unmark),
                *self._released.due(),
                deadline=deadline,
            )
            delete = ovsdb.delete("DHCP_Options", is_row(row), has("external_ids", released))
            self._released.add(delete)

    def subnets(self, deadline: Deadline) -> list[IpNetwork]:
        """Return the subnets of all networks and pools. Reads all switches: only to pick a subnet."""
        pools = [
            ovsdb.select(
                "DHCP_Options", has("external_ids", {**OURS, STATE: state}), columns=["external_ids"]
            )
            for state in ("free", "bound")
        ]
        found = self._database.transact(
            ovsdb.select("Logical_Switch", columns=["external_ids", "other_config"]),
            *pools,
            deadline=deadline,
        )
        texts = {
            ids.get(key, "")
            for rows in found
            for row in rows
            for ids in map(row.map, row)
            for key in ("subnet", "subnet6", SUBNET)
        }
        subnets = []
        for text in texts:
            with contextlib.suppress(ValueError):  # somebody else's switch uses the key for something else
                subnets.append(ip_network(text, strict=False))
        return subnets

    def occupied(self, deadline: Deadline) -> list[IpNetwork]:
        """Return the subnets that hosts report to have in use outside of OVN. Searches a whole table."""
        reports = Reports(self._connect).all(self._chassis, deadline)
        return [one.subnet for report in reports for one in report.occupied]

    def _held(self, database: Database, switch: str, address: IpAddress, deadline: Deadline) -> AddressInUse:
        lease, claim = database.transact(
            ovsdb.select("DHCP_Options", is_row(lease_row(switch, address)), columns=["external_ids"]),
            ovsdb.select("DHCP_Options", is_row(claim_row(switch, str(address))), columns=["external_ids"]),
            deadline=deadline,
        )
        if claim and allowed_claims.is_allowed(claim[0].map("external_ids")):
            holders = ", ".join(one[:12] for one in allowed_claims.holders(claim[0].map("external_ids"))[:3])
            return AddressInUse(str(address), f"endpoint {holders}", allowed=True, leasing=True)
        if claim:
            holder = stored_endpoint(claim[0].map("external_ids"))
            return AddressInUse(str(address), str(holder), holder=holder, leasing=True)
        if lease:
            user = f"a container of host {lease[0].map('external_ids').get(HOST, '?')} that has no port yet"
        else:
            user = "a container that has just ended (try again)"
        return AddressInUse(str(address), user, leasing=True)


def _lease_ids(lease: Lease, chassis: Chassis) -> dict[str, str]:
    """Return the external_ids of a new lease's row."""
    pool, picked = lease.pool, lease.picked
    return LEASES.ids(
        {
            **host_ids(chassis),
            POOL: pool.id,
            SWITCH: pool.switch or "",
            NETWORK: pool.network or "",
            STATE: "leased",
            **(PICKED if picked else {}),
            **({CONTAINER: picked.name} if picked and picked.name else {}),
            CLAIM: str(uuid4()),
            **made_now(),
        }
    )


def _one_of(database: Database, *transactions: list[Operation], deadline: Deadline) -> bool:
    """Try transactions in turn until one succeeds; return False if the conditions of none were met."""
    for operations in transactions:
        try:
            database.transact(*operations, deadline=deadline)
        except (DuplicateRow, ConditionFailed):
            continue
        return True
    return False


def _rested(ids: dict[str, str], rest: float) -> bool:
    if ids.get(STATE) != "released":
        return False
    when = released(ids)
    # By the clock of another host, perhaps: a time far in the future means nothing.
    return when is None or abs(time.time() - when) >= rest


def released(ids: Mapping[str, str]) -> float | None:
    """Return when an address was released, in seconds of the epoch; ``None`` if its row does not say."""
    text = ids.get(RELEASED, "")
    return float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text) else None
