"""Where subnets come from if the user names none. Pure."""

import random
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
        same_version = [network for network in taken if network.version == self.base.version]
        count = 1 << (self.prefix - self.base.prefixlen)
        size = 1 << (self.base.max_prefixlen - self.prefix)
        numbers = random.sample(range(count), min(count, 4096)) if count < 1 << 62 else ()
        for number in numbers:
            start = int(self.base.network_address) + number * size
            subnet = type(self.base)((start, self.prefix))
            if not any(subnet.overlaps(other) for other in same_version):
                return subnet
        return None


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
