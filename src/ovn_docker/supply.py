"""Subnets for networks without ``--subnet``. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from random import SystemRandom

from ovn_docker.model import IpNetwork

_RANDOM = SystemRandom()


@dataclass(frozen=True, slots=True)
class Supply:
    """The subnets of *base* with a prefix length of *prefix*."""

    base: IpNetwork
    prefix: int

    def __str__(self) -> str:
        return f"{self.base}:{self.prefix}"

    def pick(self, taken: list[IpNetwork]) -> IpNetwork | None:
        """Return a random subnet that does not overlap *taken*; None if there is no such subnet."""
        gaps, end = [], 0
        for first, last in sorted([*self._numbers(taken), (self._count, self._count)]):
            if first > end:
                gaps.append((end, first))
            end = max(end, last + 1)
        if not gaps:
            return None
        ((first, end),) = _RANDOM.choices(gaps, [end - first for first, end in gaps])
        number = _RANDOM.randrange(first, end)
        return type(self.base)((int(self.base.network_address) + number * self._size, self.prefix))

    @property
    def _count(self) -> int:
        """Number of subnets in the supply."""
        return 1 << (self.prefix - self.base.prefixlen)

    @property
    def _size(self) -> int:
        """Number of addresses in each subnet."""
        return 1 << (self.base.max_prefixlen - self.prefix)

    def _numbers(self, taken: list[IpNetwork]) -> Iterator[tuple[int, int]]:
        """Yield the first and last index of the subnets that each of *taken* overlaps."""
        base = int(self.base.network_address)
        for network in taken:
            if network.version == self.base.version:
                first = max((int(network.network_address) - base) // self._size, 0)
                last = min((int(network.broadcast_address) - base) // self._size, self._count - 1)
                if first <= last:
                    yield first, last


def parse_supplies(text: str) -> tuple[Supply, ...]:
    """Parse ``BASE:PREFIX,...``, such as ``10.192.0.0/12:24``. Raises ValueError with the expected form."""
    supplies = []
    for item in text.split(","):
        base, _, prefix = item.strip().rpartition(":")
        try:
            address, _, length = base.partition("/")
            make = IPv4Network if ip_address(address).version == 4 else IPv6Network
            supply = Supply(make(f"{address}/{length}"), int(prefix))
        except ValueError:
            raise ValueError("networks and prefix lengths, such as 10.192.0.0/12:24,fd00:1::/48:64") from None
        if not supply.base.prefixlen <= supply.prefix <= supply.base.max_prefixlen - 2:
            raise ValueError(
                f"a prefix length from {supply.base.prefixlen} to {supply.base.max_prefixlen - 2}"
            )
        supplies.append(supply)
    return tuple(supplies)
