"""Docker's IPAM calls: choose pools and addresses; the store decides atomically what is in use.

Docker asks for a pool before it creates the network, and does not say at the creation which pools the
network got. So the first addresses of a pool (its gateway and the auxiliary addresses) are only marked as
reserved. When the network is created, the backend binds the pool to its logical switch; from then on an
address is leased on that switch.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from random import SystemRandom
from typing import Any, cast
from uuid import uuid4

from ovn_docker.core.protocols import (
    AddressChooser,
    AddressStore,
    AddressStores,
    LeaseHistory,
    OccupancyReader,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import (
    AddressesExhausted,
    AddressReserved,
    BadRequest,
    Conflict,
    OvnDockerError,
    PoolNotBound,
    SubnetsExhausted,
)
from ovn_docker.model import (
    Chassis,
    Former,
    IpAddress,
    IpNetwork,
    Lease,
    Picked,
    Pool,
    PoolId,
    StoredEndpoint,
)
from ovn_docker.supply import Supply

log = logging.getLogger(__name__)

_RANDOM = SystemRandom()

_CANDIDATES = 16
"""Number of addresses that a transaction checks: those after the last lease, or random ones."""

_SEARCHED = 256
"""Number of addresses that a transaction checks in the search of a whole range."""

_SETTLED = 30.0
"""Seconds from a lease until Docker has made its endpoint: twice what a call may take."""

_TICK = 0.001
"""Seconds by which a row's time of creation may be too early."""

_STARTING = 600.0
"""Seconds in which a Docker that has started gets its earlier addresses back: as long as an unused lease is
kept."""


class Ipam:
    """The IPAM driver.

    *stores* gives the pools and leases as a host sees them; *routes* returns the networks that this host has
    routes to; *active* returns this host's endpoints that are in use or younger than a number of seconds. A
    released address is leased again only after *rest* seconds if another one is free: neighbours may still
    have its last owner's MAC. *request* is the time of a call in seconds.
    """

    def __init__(
        self,
        stores: AddressStores,
        chassis: Callable[[Deadline], Chassis],
        routes: Callable[[], list[IpNetwork]],
        supplies: tuple[Supply, ...],
        active: Callable[[float, Deadline], Sequence[StoredEndpoint]],
        request: float,
        rest: float = 30.0,
    ) -> None:
        self._stores = stores
        self._chassis = chassis
        self._routes = routes
        self._supplies = supplies
        self._request = request
        self._rest = rest
        self._active = active
        self._lock = threading.Lock()
        self._next: dict[PoolId, int] = {}
        """For each pool, the address after the last one that was leased."""
        self._docker_started: float | None = None
        self._former: dict[PoolId, list[Former]] = {}
        """For each pool that was used since Docker started: the addresses that its containers had before."""
        self._picked: dict[int, IpNetwork] = {}
        """For each IP version, the last subnet that was picked."""

    def docker_started(self) -> None:
        """Note that a new dockerd runs: the previous one will not use the addresses that it has asked for."""
        with self._lock:
            self._docker_started = time.monotonic()
            self._former.clear()

    def request_pool(self, subnet: IpNetwork | None, part: IpNetwork | None, version: int) -> Pool:
        """IpamDriver.RequestPool: *subnet*, or an unused one; addresses come from *part* of the subnet."""
        deadline = Deadline.of_call(self._request)
        store = self._store(deadline)
        chosen = subnet or self._pick(version, store, deadline)
        pool = Pool(PoolId(str(uuid4())), chosen, part, picked=subnet is None)
        store.add_pool(pool, deadline)
        return pool

    def release_pool(self, pool: PoolId) -> None:
        """IpamDriver.ReleasePool."""
        deadline = Deadline.of_call(self._request)
        self._store(deadline).remove_pool(pool, deadline)
        with self._lock:
            self._next.pop(pool, None)
            self._former.pop(pool, None)

    def request_address(
        self, pool_id: PoolId, wanted: IpAddress | None, *, gateway: bool, name: str = ""
    ) -> tuple[IpAddress, int]:
        """IpamDriver.RequestAddress: return an address and the length of its prefix.

        *name*: the container's, which Docker gives from version 29 on.

        Raises Conflict if *wanted* is in use, or if the pool has no free address.
        """
        deadline = Deadline.of_call(self._request)
        store = self._store(deadline)
        pool = store.pool(pool_id, deadline)
        if gateway:
            wanted = wanted or pool.gateway
        if wanted is None:
            address = self._lease_any(pool, Picked(name), store, deadline)
        else:
            address = wanted
            _check(pool, address, gateway=gateway)
            if gateway or not pool.bound:
                store.reserve(pool, address, deadline)
            else:
                self._lease(Lease(pool, address), store, deadline)
        return address, pool.subnet.prefixlen

    def release_address(self, pool: PoolId, address: IpAddress) -> None:
        """IpamDriver.ReleaseAddress."""
        deadline = Deadline.of_call(self._request)
        store = self._store(deadline)
        history = _history(store)
        if self._is_starting() and pool not in self._former and history:
            # A Docker that starts releases its earlier addresses before it asks for them again.
            with suppress(OvnDockerError):
                self._recall(store.pool(pool, deadline), history, deadline)
        store.release(pool, address, deadline)

    def _store(self, deadline: Deadline) -> AddressStore:
        return self._stores(self._chassis(deadline))

    def _pick(self, version: int, store: AddressStore, deadline: Deadline) -> IpNetwork:
        """Return a subnet of the supplies that is not in use."""
        taken = [*store.subnets(deadline), *self._routes()]
        reader = _occupancy(store)
        elsewhere = reader.occupied(deadline) if reader else []
        supplies = [supply for supply in self._supplies if supply.base.version == version]
        with self._lock:
            last = [self._picked[version]] if version in self._picked else []
            # Any host may report anything: the others still get subnets.
            for avoided in ([*taken, *elsewhere, *last], [*taken, *elsewhere], [*taken, *last], taken):
                for supply in supplies:
                    if subnet := supply.pick(avoided):
                        self._picked[version] = subnet
                        return subnet
        raise SubnetsExhausted(version, supplies)

    def _lease_any(self, pool: Pool, picked: Picked, store: AddressStore, deadline: Deadline) -> IpAddress:
        if not pool.bound:
            raise PoolNotBound(pool.subnet)
        if not _room(pool):
            raise AddressesExhausted(pool.range, usable=False)
        chooser = _chooser(store)
        if chooser and (chosen := chooser.lease_any(pool, deadline)) is not None:
            return chosen
        while (address := self._next_former(pool, picked, store, deadline)) is not None:
            with suppress(Conflict):
                self._lease(Lease(pool, address, picked), store, deadline)
                return address
        for candidates in self._free(pool, store, deadline):
            free = candidates
            while free:
                # Hosts that start together try the same addresses: after a collision, scatter.
                address = free.pop(0)
                try:
                    store.lease(Lease(pool, address, picked), deadline)
                except Conflict:
                    _RANDOM.shuffle(free)
                    continue
                with self._lock:
                    self._next[pool.id] = int(address) + 1
                return address
            deadline.check(f"a free address in {pool.range}")
        raise AddressesExhausted(pool.range, usable=True)

    def _free(self, pool: Pool, store: AddressStore, deadline: Deadline) -> Iterator[list[IpAddress]]:
        """Yield free addresses; those that were released less than *rest* seconds ago come last."""
        if history := _history(store):
            for some in self._candidates(pool):
                yield history.rested(pool, some, self._rest, deadline)
        for some in self._candidates(pool):
            yield store.free(pool, some, deadline)

    def _lease(self, lease: Lease, store: AddressStore, deadline: Deadline) -> None:
        """Lease an address; renew a lease that this host has and nothing uses. Raises Conflict.

        Such a lease is left when Docker died with it, or when its release was lost.
        """
        try:
            store.lease(lease, deadline)
        except Conflict:
            with self._lock:
                started = self._docker_started
            now = time.monotonic()
            before = max(now - _SETTLED, started - _TICK if started is not None else 0)
            active = self._active(now - before, deadline)
            if not store.take_over(lease, active, before, deadline):
                raise
            log.info("address %s is leased again: this host had it, and nothing uses it", lease.address)

    def _is_starting(self) -> bool:
        """Return True for _STARTING seconds from the start of Docker."""
        with self._lock:
            started = self._docker_started
        return started is not None and time.monotonic() - started < _STARTING

    def _recall(self, pool: Pool, history: LeaseHistory, deadline: Deadline) -> None:
        """Read the addresses that containers of this host had before Docker started."""
        former = history.former(pool, deadline)
        former = [one for one in former if one.address not in pool.reserved]
        with self._lock:
            self._former.setdefault(pool.id, former)

    def _next_former(
        self, pool: Pool, picked: Picked, store: AddressStore, deadline: Deadline
    ) -> IpAddress | None:
        """Remove a former address that suits the container from the list and return it; else return None.

        A container that Docker names gets its own address. Docker before 29 does not (moby
        libnetwork/ipams/remote/api): a host gets its earlier addresses, and a single container its own.
        """
        history = _history(store)
        if not self._is_starting() or not history:
            return None
        if pool.id not in self._former:
            self._recall(pool, history, deadline)
        with self._lock:
            some = any(one.holder for one in self._former.get(pool.id, []))
        running = {one.id for one in self._active(_SETTLED, deadline)} if some else set()
        with self._lock:
            former = self._former.get(pool.id, [])
            names = {picked.name}, {""} if picked.name else {one.picked.name for one in former}
            for wanted in names:
                for one in former:
                    if one.picked.name in wanted and one.holder not in running:
                        former.remove(one)
                        return one.address
        return None

    def _candidates(self, pool: Pool) -> Iterator[list[IpAddress]]:
        """Yield lists of addresses to try: first those after the last lease, then random ones, then all.

        Addresses after the last lease come first so that released ones rest.
        """
        first, size = int(pool.first), int(pool.last) - int(pool.first) + 1
        if size <= 0:
            return
        with self._lock:
            start = self._next.get(pool.id, first) - first

        def addresses(numbers: Iterable[int]) -> list[IpAddress]:
            found = (type(pool.first)(first + number % size) for number in numbers)
            return [address for address in found if address not in pool.reserved]

        yield addresses(range(start, start + min(_CANDIDATES, size)))
        if size > _SEARCHED:
            for _ in range(_CANDIDATES):
                yield addresses({_RANDOM.randrange(size) for _ in range(_CANDIDATES)})
        for number in range(0, size, _SEARCHED):
            yield addresses(range(start + number, start + min(number + _SEARCHED, size)))


@cache
def _provides(store: type, capability: Any) -> bool:
    """Return True if a class has a capability. Cached: the check takes 20 to 50 us for each capability."""
    return issubclass(store, capability)


def _chooser(store: AddressStore) -> AddressChooser | None:
    return cast("AddressChooser", store) if _provides(type(store), AddressChooser) else None


def _history(store: AddressStore) -> LeaseHistory | None:
    return cast("LeaseHistory", store) if _provides(type(store), LeaseHistory) else None


def _occupancy(store: AddressStore) -> OccupancyReader | None:
    return cast("OccupancyReader", store) if _provides(type(store), OccupancyReader) else None


def _room(pool: Pool) -> int:
    """Return the number of addresses in the pool's range that containers may have."""
    reserved = sum(pool.first <= address <= pool.last for address in pool.reserved)  # type: ignore[operator]
    return max(0, int(pool.last) - int(pool.first) + 1 - reserved)


def _check(pool: Pool, wanted: IpAddress, *, gateway: bool) -> None:
    """Raise BadRequest or Conflict if *wanted* cannot be an address of a container or gateway."""
    if wanted not in pool.subnet:
        raise BadRequest(f"address {wanted} is not in the subnet {pool.subnet}")
    if not pool.holds(wanted):
        raise BadRequest(f"{wanted} is the network or broadcast address of {pool.subnet}")
    if wanted in pool.reserved and not gateway:
        raise AddressReserved(wanted)
