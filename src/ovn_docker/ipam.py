"""Docker's IPAM calls: which pool, which address. What is taken is for the store to say, atomically.

A pool is asked for before its network exists, and a network does not tell which pools it got. So the first
addresses of a pool, its gateway and the auxiliary ones, are only noted; when the network is created, the
backend binds the pool to its logical switch, and from then on an address is a claim on that switch.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from typing import Protocol
from uuid import uuid4

from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict
from ovn_docker.model import Chassis, IpAddress, IpNetwork, Pool, PoolId
from ovn_docker.supply import Supply

log = logging.getLogger(__name__)

_BATCH = 16
"""Addresses looked at in one transaction."""

_EXHAUSTIVE = 1024
"""Up to this size a range is looked through from end to end; in a larger one we jump about."""


class AddressStore(Protocol):
    """Pools and addresses for the whole cluster. Every method is atomic and idempotent."""

    def add_pool(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> None:
        """Store a pool of this host that no network has yet."""

    def pool(self, pool: PoolId, chassis: Chassis, deadline: Deadline) -> Pool:
        """A stored pool. Raises NotFound."""

    def remove_pool(self, pool: PoolId, chassis: Chassis, deadline: Deadline) -> None:
        """Forget a pool and all that was taken from it."""

    def reserve(self, pool: Pool, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Note an address that no container may have."""

    def free(
        self, pool: Pool, some: list[IpAddress], chassis: Chassis, deadline: Deadline
    ) -> list[IpAddress]:
        """Which of *some* addresses can be claimed, in the same order."""

    def claim(self, pool: Pool, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Take an address for a container of this host. Raises AddressInUse."""

    def release(self, pool: PoolId, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Give an address back; for a while it is not free, for others may still know its last owner."""

    def subnets(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """Subnets of all networks and pools of the cluster. May be slow."""


class Ipam:
    """The IPAM driver. *routes* tells the networks that this host has routes to."""

    def __init__(
        self,
        store: AddressStore,
        chassis: Callable[[Deadline], Chassis],
        routes: Callable[[], list[IpNetwork]],
        supplies: tuple[Supply, ...],
        patience: float,
    ) -> None:
        self._store = store
        self._chassis = chassis
        self._routes = routes
        self._supplies = supplies
        self._patience = patience
        self._lock = threading.Lock()
        self._next: dict[PoolId, int] = {}

    def request_pool(self, subnet: IpNetwork | None, part: IpNetwork | None, version: int) -> Pool:
        """IpamDriver.RequestPool: *subnet*, or one that nobody uses; addresses come from *part* of it."""
        deadline = Deadline(self._patience)
        chassis = self._chassis(deadline)
        pool = Pool(PoolId(str(uuid4())), subnet or self._pick(version, chassis, deadline), part)
        self._store.add_pool(pool, chassis, deadline)
        return pool

    def release_pool(self, pool: PoolId) -> None:
        """IpamDriver.ReleasePool."""
        deadline = Deadline(self._patience)
        self._store.remove_pool(pool, self._chassis(deadline), deadline)
        with self._lock:
            self._next.pop(pool, None)

    def request_address(
        self, pool_id: PoolId, wanted: IpAddress | None, *, gateway: bool
    ) -> tuple[IpAddress, int]:
        """IpamDriver.RequestAddress: the address, and the length of its prefix.

        Raises AddressInUse, or Conflict if the pool has no free address.
        """
        deadline = Deadline(self._patience)
        chassis = self._chassis(deadline)
        pool = self._store.pool(pool_id, chassis, deadline)
        if wanted is not None and wanted not in pool.subnet:
            raise BadRequest(f"address {wanted} is not in the subnet {pool.subnet}")
        if gateway or not pool.bound:
            address = wanted or pool.gateway
            self._store.reserve(pool, address, chassis, deadline)
        elif wanted is None:
            address = self._claim_any(pool, chassis, deadline)
        elif wanted in pool.reserved:
            raise Conflict(
                f"address {wanted} is reserved for the gateway or by --aux-address; choose another"
            )
        else:
            address = wanted
            self._store.claim(pool, address, chassis, deadline)
        return address, pool.subnet.prefixlen

    def release_address(self, pool: PoolId, address: IpAddress) -> None:
        """IpamDriver.ReleaseAddress."""
        deadline = Deadline(self._patience)
        self._store.release(pool, address, self._chassis(deadline), deadline)

    def _pick(self, version: int, chassis: Chassis, deadline: Deadline) -> IpNetwork:
        taken = [*self._store.subnets(chassis, deadline), *self._routes()]
        for supply in self._supplies:
            if supply.base.version == version and (subnet := supply.pick(taken)):
                return subnet
        bases = ", ".join(str(supply) for supply in self._supplies if supply.base.version == version)
        raise Conflict(
            f"no free IPv{version} subnet in {bases or 'no supply'}; give --subnet, or --address-pools"
        )

    def _claim_any(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> IpAddress:
        for batch in self._batches(pool):
            some = [address for address in batch if address not in pool.reserved]
            free = self._store.free(pool, some, chassis, deadline)
            while free:
                # Hosts that start together look at the same addresses: after a collision, scatter.
                address = free.pop(0)
                try:
                    self._store.claim(pool, address, chassis, deadline)
                except Conflict:
                    random.shuffle(free)
                    continue
                with self._lock:
                    self._next[pool.id] = int(address) + 1
                return address
            deadline.check(f"a free address in {pool.range}")
        raise Conflict(
            f"no free address in {pool.range}: remove containers, or create the network with a larger "
            "--subnet or --ip-range"
        )

    def _batches(self, pool: Pool) -> Iterator[list[IpAddress]]:
        """Addresses from behind the last one on, so that what was released rests; then from anywhere."""
        first, last = int(pool.first), int(pool.last)
        size = last - first + 1
        with self._lock:
            start = self._next.get(pool.id, first)
        start = start if first <= start <= last else first
        make = type(pool.first)
        for number in range(-(-size // _BATCH) if size <= _EXHAUSTIVE else 256):
            if number and size > _EXHAUSTIVE:
                start = random.randint(first, last)  # noqa: S311 - no secret
            count = min(_BATCH, size - number * _BATCH) if size <= _EXHAUSTIVE else _BATCH
            yield [make(first + (start - first + step) % size) for step in range(count)]
            start += _BATCH
