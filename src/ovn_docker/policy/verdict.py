"""The answer of ``ovn-docker policy test``: which rule decides about a packet. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ovn_docker.policy.language import Address, End, GroupEnd, Place, PolicyRule, PolicyService
from ovn_docker.policy.matching import BEYOND, LINK_LOCAL


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a packet: an address, and the groups of the container that has it."""

    address: IPv4Address | IPv6Address | None
    groups: frozenset[str] = frozenset()
    place: Place | None = None
    """Set for an end without an address: any container of the network, or any address outside of it."""


def deciding(
    rules: Sequence[PolicyRule],
    subnets: Iterable[Address],
    source: Peer,
    target: Peer,
    service: PolicyService,
) -> int | None:
    """Return the index of the first rule that the first packet of a connection fits; None if none does."""
    own = [*subnets]
    for index, rule in enumerate(rules):
        served = not rule.services or any(_includes(one, service) for one in rule.services)
        if served and _is_one(source, rule.sources, own) and _is_one(target, rule.targets, own):
            return index
    return None


def _includes(one: PolicyService, service: PolicyService) -> bool:
    if one.protocol != service.protocol:
        return False
    return not one.first or one.first <= service.first <= one.last


def _is_one(peer: Peer, ends: tuple[End, ...], own: list[Address]) -> bool:
    return not ends or any(_is(peer, end, own) for end in ends)


def _is(peer: Peer, end: End, own: list[Address]) -> bool:
    if isinstance(end, GroupEnd):
        return end.name in peer.groups
    if peer.address is None:
        return end is peer.place or (end is Place.ALL and bool(peer.groups))
    if end is Place.ALL:
        return not own or any(peer.address in subnet for subnet in (*own, LINK_LOCAL))
    if end is Place.OUTSIDE:
        return not any(peer.address in subnet for subnet in (*own, *BEYOND))
    return isinstance(end, Address) and peer.address in end
