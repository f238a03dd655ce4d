"""Docker's IPAM calls: which pool, which address. What is taken is for the store to say, atomically.

A pool is asked for before its network exists, and a network does not tell which pools it got. So the first
addresses of a pool, its gateway and the auxiliary ones, are only noted; when the network is created, the
backend binds the pool to its logical switch, and from then on an address is a claim on that switch.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol
from uuid import uuid4

from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError
from ovn_docker.model import Chassis, Former, IpAddress, IpNetwork, Picked, Pool, PoolId, StoredEndpoint
from ovn_docker.supply import Supply

log = logging.getLogger(__name__)

_LOOK = 16
"""Addresses looked at in one transaction, ..."""

_SEARCH = 256
"""... and when a range is looked through from end to end, after as many looks here and there."""

_FOLLOWS = 30.0
"""Seconds from an address until Docker has made its endpoint: twice what a call may take."""

_TICK = 0.001
"""Seconds by which a row may say that it was made earlier than it was."""

_STARTING = 600.0
"""Seconds for which a Docker that has started gets the addresses back that it had given away before: as long
as a lease that nothing uses is kept."""


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

    def claim(
        self, pool: Pool, address: IpAddress, picked: Picked | None, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Take an address for a container of this host; *picked*: the user did not ask for this one.

        Raises Conflict that says who has it.
        """

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
        """Take an address that this host has and nothing uses, as claim() does; whether it was taken.

        *at_work*: the endpoints of this host whose containers run, or which a call is working on. An address
        that was taken after *before*, in seconds of CLOCK_MONOTONIC, may be for an endpoint still to be
        made.
        """

    def former(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> list[Former]:
        """Addresses that were picked for containers of this host, and not for others since. May be slow."""

    def release(self, pool: PoolId, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Give an address back, and note when."""

    def subnets(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """Subnets of all networks and pools of the cluster. May be slow."""

    def occupied(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """Subnets that hosts say they have in use otherwise. May be slow."""


class Ipam:
    """The IPAM driver.

    *routes* tells the networks that this host has routes to; *at_work* the endpoints of this host that are in
    use, where one younger than so many seconds may be about to be; *rest* is for how many seconds an address
    that was given back is not given to somebody else, for neighbours may still know its last owner.
    """

    def __init__(
        self,
        store: AddressStore,
        chassis: Callable[[Deadline], Chassis],
        routes: Callable[[], list[IpNetwork]],
        supplies: tuple[Supply, ...],
        at_work: Callable[[float, Deadline], Sequence[StoredEndpoint]],
        patience: float,
        rest: float = 30.0,
    ) -> None:
        self._store = store
        self._chassis = chassis
        self._routes = routes
        self._supplies = supplies
        self._patience = patience
        self._rest = rest
        self._at_work = at_work
        self._lock = threading.Lock()
        self._next: dict[PoolId, int] = {}
        self._docker_started: float | None = None
        self._former: dict[PoolId, list[Former]] = {}
        """For each pool that was used since Docker started: what its containers had before."""
        self._picked: dict[int, IpNetwork] = {}

    def docker_started(self) -> None:
        """Note that this is another dockerd: the one before will not come back for what it has asked for."""
        with self._lock:
            self._docker_started = time.monotonic()
            self._former.clear()

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
            self._former.pop(pool, None)

    def request_address(
        self, pool_id: PoolId, wanted: IpAddress | None, *, gateway: bool, name: str = ""
    ) -> tuple[IpAddress, int]:
        """IpamDriver.RequestAddress: the address, and the length of its prefix.

        *name*: of the container, if Docker says it (from 29 on).

        Raises Conflict if somebody has it, or the pool has no free address.
        """
        deadline = Deadline.of_call(self._patience)
        chassis = self._chassis(deadline)
        pool = self._store.pool(pool_id, chassis, deadline)
        if gateway:
            wanted = wanted or pool.gateway
        if wanted is None:
            address = self._claim_any(pool, Picked(name), chassis, deadline)
        else:
            address = wanted
            _check(pool, address, gateway=gateway)
            if gateway or not pool.bound:
                self._store.reserve(pool, address, chassis, deadline)
            else:
                self._claim(pool, address, None, chassis, deadline)
        return address, pool.subnet.prefixlen

    def release_address(self, pool: PoolId, address: IpAddress) -> None:
        """IpamDriver.ReleaseAddress."""
        deadline = Deadline.of_call(self._patience)
        chassis = self._chassis(deadline)
        if self._is_starting() and pool not in self._former:
            # A Docker that starts gives back what it had before it asks for it again.
            with suppress(OvnDockerError):
                self._look_back(self._store.pool(pool, chassis, deadline), chassis, deadline)
        self._store.release(pool, address, chassis, deadline)

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

    def _claim_any(self, pool: Pool, picked: Picked, chassis: Chassis, deadline: Deadline) -> IpAddress:
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
        while (address := self._next_former(pool, picked, chassis, deadline)) is not None:
            with suppress(Conflict):
                self._claim(pool, address, picked, chassis, deadline)
                return address
        for rest in (self._rest, 0):  # one that rests is better than none
            for some in self._looks(pool):
                free = self._store.free(pool, some, rest, chassis, deadline)
                while free:
                    # Hosts that start together look at the same addresses: after a collision, scatter.
                    address = free.pop(0)
                    try:
                        self._store.claim(pool, address, picked, chassis, deadline)
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

    def _claim(
        self, pool: Pool, address: IpAddress, picked: Picked | None, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Take an address, also one that this host has and that nothing uses.

        Docker died with it, or its release was lost. Raises Conflict that says who has it.
        """
        try:
            self._store.claim(pool, address, picked, chassis, deadline)
        except Conflict:
            with self._lock:
                started = self._docker_started
            now = time.monotonic()
            before = max(now - _FOLLOWS, started - _TICK if started is not None else 0)
            at_work = self._at_work(now - before, deadline)
            if not self._store.take_over(pool, address, picked, at_work, before, chassis, deadline):
                raise
            log.info("address %s is given away again: this host had it, and nothing uses it", address)

    def _is_starting(self) -> bool:
        """Whether Docker has started a short time ago."""
        with self._lock:
            started = self._docker_started
        return started is not None and time.monotonic() - started < _STARTING

    def _look_back(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> None:
        """Note which addresses containers of this host had before Docker started."""
        former = self._store.former(pool, chassis, deadline)
        former = [one for one in former if one.address not in pool.reserved]
        with self._lock:
            self._former.setdefault(pool.id, former)

    def _next_former(
        self, pool: Pool, picked: Picked, chassis: Chassis, deadline: Deadline
    ) -> IpAddress | None:
        """One of these, and it is not returned again; None if there is no more for the container.

        A container that Docker names gets its own address. Docker before 29 does not (moby
        libnetwork/ipams/remote/api): a host gets the addresses back that it had, and a container that is
        alone its own.
        """
        if not self._is_starting():
            return None
        if pool.id not in self._former:
            self._look_back(pool, chassis, deadline)
        with self._lock:
            some = any(one.holder for one in self._former.get(pool.id, []))
        running = {one.id for one in self._at_work(_FOLLOWS, deadline)} if some else set()
        with self._lock:
            former = self._former.get(pool.id, [])
            names = {picked.name}, {""} if picked.name else {one.picked.name for one in former}
            for wanted in names:
                for one in former:
                    if one.picked.name in wanted and one.holder not in running:
                        former.remove(one)
                        return one.address
        return None

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
