"""Where subnets come from if the user names none. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from ovn_docker.model import IpNetwork


@dataclass(frozen=True, slots=True)
class Supply:
    """Subnets of *prefix* length out of *base*."""

    base: IpNetwork
    prefix: int

    def __str__(self) -> str:
        return f"{self.base}:{self.prefix}"

    def pick(self, taken: list[IpNetwork]) -> IpNetwork | None:
        """One that overlaps none of *taken*, by chance; None if there is none."""
        gaps, end = [], 0
        for first, last in sorted([*self._numbers(taken), (self._count, self._count)]):
            if first > end:
                gaps.append((end, first))
            end = max(end, last + 1)
        if not gaps:
            return None
        ((first, end),) = random.choices(gaps, [end - first for first, end in gaps])  # noqa: S311 - no secret
        number = random.randrange(first, end)  # noqa: S311
        return type(self.base)((int(self.base.network_address) + number * self._size, self.prefix))

    @property
    def _count(self) -> int:
        """Number of our subnets."""
        return 1 << (self.prefix - self.base.prefixlen)

    @property
    def _size(self) -> int:
        """Number of addresses in each."""
        return 1 << (self.base.max_prefixlen - self.prefix)

    def _numbers(self, taken: list[IpNetwork]) -> Iterator[tuple[int, int]]:
        """First and last number of our subnets that each of *taken* overlaps."""
        base = int(self.base.network_address)
        for network in taken:
            if network.version == self.base.version:
                first = max((int(network.network_address) - base) // self._size, 0)
                last = min((int(network.broadcast_address) - base) // self._size, self._count - 1)
                if first <= last:
                    yield first, last


def parse_supplies(text: str) -> tuple[Supply, ...]:
    """``BASE:PREFIX,...``, such as ``10.192.0.0/12:24``. Raises ValueError that says what to give."""
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
