"""Allowed addresses: those that a container may use besides its own, in OVN's port security. Pure.

Examples are virtual addresses (VRRP, RFC 5798), secondary addresses, and those that a container forwards for.
As in Neutron, an allowed address is an address or a subnet, with a MAC if it is not the container's own.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

MOST_ENTRIES = 64
"""Largest number of allowed addresses of one container."""

LARGEST = 256
"""Largest number of addresses in an allowed subnet that overlaps the network's: each address is claimed."""

MOST = 1024
"""Largest number of addresses that are claimed for the allowed subnets of one container."""

_SHORTEST = 8
"""Shortest prefix of an allowed subnet, as of a network's subnet."""

_MAC = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True, order=True)
class Allowed:
    """An address or a subnet that is allowed with *mac*, or with the container's own MAC if that is empty."""

    mac: str
    version: int
    address: IPv4Network | IPv6Network

    def __str__(self) -> str:
        return f"{self.mac}/{self.target}" if self.mac else self.target

    @property
    def target(self) -> str:
        """The address or subnet as text; a single address has no prefix."""
        single = self.address.num_addresses == 1
        return str(self.address.network_address if single else self.address)


def parse(text: str) -> tuple[Allowed, ...]:
    """Return the allowed addresses in *text*, separated by commas or spaces. Raises ValueError: what to give.

    Docker's command line itself splits the options of an endpoint at commas.
    """
    words = [word for word in re.split("[, ]+", text.lower()) if word]
    if not words or len(words) > MOST_ENTRIES:
        raise ValueError(f"1 to {MOST_ENTRIES} addresses, such as 10.1.0.100, 10.1.0.128/28 or {_EXAMPLE}")
    return tuple(sorted(set(map(_parse, words))))


def join(allowed: Iterable[Allowed]) -> str:
    """Return the text that parse() reads."""
    return ",".join(map(str, allowed))


_EXAMPLE = "00:00:5e:00:01:0a/10.1.0.100"


def _parse(word: str) -> Allowed:
    mac, slash, address = word.partition("/")
    if not (slash and _MAC.fullmatch(mac)):
        mac, address = "", word
    try:
        network = ip_network(address.replace("%", "/"))
    except ValueError:
        raise ValueError(
            f"addresses or subnets without host bits, each with a MAC and '/' before it if it is not the "
            f"container's own, such as {_EXAMPLE}; {word[:60]!r} is not one"
        ) from None
    if mac and (int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00"):
        raise ValueError(f"a MAC of one interface; {mac} is a group's or empty")
    unusable = network.is_multicast or network.is_loopback or network.is_unspecified
    if unusable or network.prefixlen < _SHORTEST or network.overlaps(_BROADCAST[network.version]):
        raise ValueError(f"unicast addresses, or subnets of {_SHORTEST} bits or more; {word} is not one")
    return Allowed(mac, network.version, network)


_BROADCAST = {4: ip_network("255.255.255.255/32"), 6: ip_network("ff00::/8")}
