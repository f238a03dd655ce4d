"""Docker's IPAM calls: which pool, which address. What is taken is for the store to say, atomically.

A pool is asked for before its network exists, and a network does not tell which pools it got. So the first
addresses of a pool, its gateway and the auxiliary ones, are only noted; when the network is created, the
backend binds the pool to its logical switch, and from then on an address is a claim on that switch.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol
from uuid import uuid4

from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict
from ovn_docker.model import Chassis, IpAddress, IpNetwork, Pool, PoolId
from ovn_docker.supply import Supply

log = logging.getLogger(__name__)

_LOOK = 16
"""Addresses looked at in one transaction, ..."""

_SEARCH = 256
"""... and when a range is looked through from end to end, after as many looks here and there."""


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
        self, pool: Pool, some: list[IpAddress], rest: float, chassis: Chassis, deadline: Deadline
    ) -> list[IpAddress]:
        """Which of *some* addresses nobody has, nor had *rest* seconds ago; in the same order."""

    def claim_next(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> IpAddress | None:
        """Take an address that the store chooses; None if it leaves the choice to us."""

    def claim(self, pool: Pool, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Take an address for a container of this host. Raises Conflict that says who has it."""

    def release(self, pool: PoolId, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Give an address back, and note when."""

    def subnets(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """Subnets of all networks and pools of the cluster. May be slow."""

    def occupied(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """Subnets that hosts say they have in use otherwise. May be slow."""


class Ipam:
    """The IPAM driver.

    *routes* tells the networks that this host has routes to; *rest* is for how many seconds an address that
    was given back is not given to somebody else, for neighbours may still know its last owner.
    """

    def __init__(
        self,
        store: AddressStore,
        chassis: Callable[[Deadline], Chassis],
        routes: Callable[[], list[IpNetwork]],
        supplies: tuple[Supply, ...],
        patience: float,
        rest: float = 30.0,
    ) -> None:
        self._store = store
        self._chassis = chassis
        self._routes = routes
        self._supplies = supplies
        self._patience = patience
        self._rest = rest
        self._lock = threading.Lock()
        self._next: dict[PoolId, int] = {}
        self._picked: dict[int, IpNetwork] = {}

    def request_pool(self, subnet: IpNetwork | None, part: IpNetwork | None, version: int) -> Pool:
        """IpamDriver.RequestPool: *subnet*, or one that nobody uses; addresses come from *part* of it."""
        deadline = Deadline.of_call(self._patience)
        chassis = self._chassis(deadline)
        chosen = subnet or self._pick(version, chassis, deadline)
        pool = Pool(PoolId(str(uuid4())), chosen, part, picked=subnet is None)
        self._store.add_pool(pool, chassis, deadline)
        return pool

    def release_pool(self, pool: PoolId) -> None:
        """IpamDriver.ReleasePool."""
        deadline = Deadline.of_call(self._patience)
        self._store.remove_pool(pool, self._chassis(deadline), deadline)
        with self._lock:
            self._next.pop(pool, None)

    def request_address(
        self, pool_id: PoolId, wanted: IpAddress | None, *, gateway: bool
    ) -> tuple[IpAddress, int]:
        """IpamDriver.RequestAddress: the address, and the length of its prefix.

        Raises Conflict if somebody has it, or the pool has no free address.
        """
        deadline = Deadline.of_call(self._patience)
        chassis = self._chassis(deadline)
        pool = self._store.pool(pool_id, chassis, deadline)
        if gateway:
            wanted = wanted or pool.gateway
        if wanted is None:
            address = self._claim_any(pool, chassis, deadline)
        else:
            address = wanted
            _check(pool, address, gateway=gateway)
            take = self._store.reserve if gateway or not pool.bound else self._store.claim
            take(pool, address, chassis, deadline)
        return address, pool.subnet.prefixlen

    def release_address(self, pool: PoolId, address: IpAddress) -> None:
        """IpamDriver.ReleaseAddress."""
        deadline = Deadline.of_call(self._patience)
        self._store.release(pool, address, self._chassis(deadline), deadline)

    def _pick(self, version: int, chassis: Chassis, deadline: Deadline) -> IpNetwork:
        taken = [*self._store.subnets(chassis, deadline), *self._routes()]
        elsewhere = self._store.occupied(chassis, deadline)
        supplies = [supply for supply in self._supplies if supply.base.version == version]
        with self._lock:
            last = [self._picked[version]] if version in self._picked else []
            # Any host may report anything: the others still get subnets.
            for avoided in ([*taken, *elsewhere, *last], [*taken, *elsewhere], [*taken, *last], taken):
                for supply in supplies:
                    if subnet := supply.pick(avoided):
                        self._picked[version] = subnet
                        return subnet
        bases = ", ".join(map(str, supplies)) or "no supply"
        raise Conflict(f"no free IPv{version} subnet in {bases}; give --subnet, or --address-pools")

    def _claim_any(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> IpAddress:
        if not pool.bound:
            raise Conflict(
                f"pool {pool.subnet} belongs to no network of ours: --ipam-driver openvswitch is only for "
                "networks with -d openvswitch; if its network has just been created, try again in a second: "
                "another host has made it with another subnet"
            )
        if not _room(pool):
            raise Conflict(
                f"{pool.range} has no address for a container: the gateway and --aux-address take all of it; "
                "create the network with a larger --subnet or --ip-range"
            )
        chosen = self._store.claim_next(pool, chassis, deadline)
        if chosen is not None:
            return chosen
        for rest in (self._rest, 0):  # one that rests is better than none
            for some in self._looks(pool):
                free = self._store.free(pool, some, rest, chassis, deadline)
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

    def _looks(self, pool: Pool) -> Iterator[list[IpAddress]]:
        """Addresses from behind the last one on, so that what was released rests; from anywhere; all."""
        first, size = int(pool.first), int(pool.last) - int(pool.first) + 1
        if size <= 0:
            return
        with self._lock:
            start = self._next.get(pool.id, first) - first

        def addresses(numbers: Iterable[int]) -> list[IpAddress]:
            found = (type(pool.first)(first + number % size) for number in numbers)
            return [address for address in found if address not in pool.reserved]

        yield addresses(range(start, start + min(_LOOK, size)))
        if size > _SEARCH:
            for _ in range(_LOOK):
                yield addresses({random.randrange(size) for _ in range(_LOOK)})  # noqa: S311 - no secret
        for number in range(0, size, _SEARCH):
            yield addresses(range(start + number, start + min(number + _SEARCH, size)))


def _room(pool: Pool) -> int:
    """Number of addresses in the pool's range that containers may have at all."""
    reserved = sum(pool.first <= address <= pool.last for address in pool.reserved)  # type: ignore[operator]
    return max(0, int(pool.last) - int(pool.first) + 1 - reserved)


def _check(pool: Pool, wanted: IpAddress, *, gateway: bool) -> None:
    """Raise BadRequest or Conflict unless somebody may have *wanted*."""
    if wanted not in pool.subnet:
        raise BadRequest(f"address {wanted} is not in the subnet {pool.subnet}")
    if not pool.holds(wanted):
        raise BadRequest(f"address {wanted} is no host's: it stands for the subnet {pool.subnet} as a whole")
    if wanted in pool.reserved and not gateway:
        raise Conflict(f"address {wanted} is reserved for the gateway or by --aux-address; choose another")
