"""Rules as matches in OVN's expression language (ovn-sb(5), "Logical_Flow:match"). Pure.

Each rule is matched twice: as a packet comes from the sender's port, and as it goes to the receiver's. The
end at hand is known by its port, the other one by its address: ovn-controller knows those members of a port
group alone that are on its own host.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import product

from ovn_docker.policy.language import Action, Address, End, GroupEnd, Place, PolicyRule, PolicyService

BEYOND = tuple(map(ip_network, ("169.254.0.0/16", "224.0.0.0/3", "fe80::/10", "ff00::/8")))
"""Addresses neither on the network nor outside of it: link-local ones, groups, reserved ones, broadcast."""

LINK_LOCAL = ip_network("fe80::/10")
_EVERYTHING = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class Matches:
    """Matches of a rule for one IP version: *leaving* the sender's port, *arriving* at the receiver's."""

    leaving: str
    arriving: str


def matches(rule: PolicyRule, subnets: Iterable[Address], name: Callable[[str], str]) -> Iterator[Matches]:
    """Yield the matches of a rule on a network, for each IP version that it can apply to.

    Each group has matches of its own: OVN knows a group only while it has a container, and ovn-controller
    ignores a match with an unknown one. In a rule that forbids something this must not concern the others.
    Protocols are apart, too, as OVN multiplies alternatives that are about different fields.
    *subnets*: those of the network; *name*: returns the name of the port group of a group. Containers of a
    network without IPv6 have link-local addresses, with which no rule lets them pass, but rules that forbid
    something do.
    """
    by_version: dict[int, Address] = {subnet.version: subnet for subnet in subnets}
    allowing = rule.action is Action.ALLOW and by_version
    versions: Iterable[int] = sorted(by_version) if allowing else (4, 6)
    ways = product(versions, _apart(rule.sources), _apart(rule.targets), _by_protocol(rule.services))
    for version, sources, targets, services in ways:
        subnet = by_version.get(version)
        both = []
        for here in ("inport", "outport"):
            inside = _inside(subnet, version, alone=not by_version)
            source = _end(sources, "src", here if here == "inport" else "", version, inside, name)
            target = _end(targets, "dst", here if here == "outport" else "", version, inside, name)
            if source is None or target is None:
                break
            words = [f"ip{version}", source, target, _services(services, version)]
            both.append(" && ".join(filter(None, words)))
        else:
            yield Matches(*both)


def _apart(ends: tuple[End, ...]) -> list[tuple[End, ...]]:
    """Return the ends with each group alone."""
    groups: list[tuple[End, ...]] = [(end,) for end in ends if isinstance(end, GroupEnd)]
    others = tuple(end for end in ends if not isinstance(end, GroupEnd))
    return [*groups, others] if others or not groups else groups


def _by_protocol(services: tuple[PolicyService, ...]) -> list[tuple[PolicyService, ...]]:
    protocols = dict.fromkeys(one.protocol for one in services)
    return [tuple(one for one in services if one.protocol == protocol) for protocol in protocols] or [()]


def _inside(subnet: Address | None, version: int, *, alone: bool) -> list[Address]:
    """Return the addresses of the network; *alone*: it has no subnets, so that nobody knows them."""
    known = [subnet] if subnet else [_EVERYTHING[version]] if alone else []
    return [*known, *([LINK_LOCAL] if version == 6 else [])]


def outside(inside: Iterable[Address], version: int) -> list[Address]:
    """Return the subnets that have all addresses outside of the network.

    OVN would make each ``!=`` of a subnet a disjunction, and multiply the disjunctions.
    """
    left: list[Address] = [_EVERYTHING[version]]
    for other in (one for one in (*inside, *BEYOND) if one.version == version):
        left = [part for whole in left for part in _without(whole, other)]
    return sorted(left, key=lambda net: (int(net.network_address), net.prefixlen))


def _without(whole: Address, other: Address) -> Iterable[Address]:
    if not _overlap(whole, other):
        return [whole]
    if whole.prefixlen >= other.prefixlen:
        return []
    if isinstance(whole, IPv4Network) and isinstance(other, IPv4Network):
        return whole.address_exclude(other)
    if isinstance(whole, IPv6Network) and isinstance(other, IPv6Network):
        return whole.address_exclude(other)
    return [whole]


def _overlap(one: Address, other: Address) -> bool:
    return one.version == other.version and one.overlaps(other)


def _end(
    ends: tuple[End, ...],
    side: str,
    port: str,
    version: int,
    inside: list[Address],
    name: Callable[[str], str],
) -> str | None:
    """Return the condition that one of *ends* has sent or gets a packet; "" for anybody, None for nobody.

    *side*: ``src`` or ``dst``; *port*: ``inport`` or ``outport`` if this end is at hand.
    """
    if not ends:
        return ""
    groups: list[str] = []
    addresses: list[str] = []
    field = f"ip{version}.{side}"
    for end in ends:
        if isinstance(end, GroupEnd) and port:
            groups.append(f"@{name(end.name)}")
        elif isinstance(end, GroupEnd):
            addresses.append(f"${name(end.name)}_ip{version}")  # OVN's set of the members' addresses
        elif end is Place.ALL:
            addresses += map(str, inside)
        elif end is Place.OUTSIDE:
            addresses += map(str, outside(inside, version))
        elif isinstance(end, Address) and end.version == version:
            addresses.append(str(end.network_address if end.num_addresses == 1 else end))
    conditions = [*_one_of(port, groups), *_one_of(field, list(dict.fromkeys(addresses)))]
    return _either(conditions) if conditions else None


def _one_of(field: str, values: list[str]) -> list[str]:
    if not values:
        return []
    return [f"{field} == {values[0]}" if len(values) == 1 else f"{field} == {{{', '.join(values)}}}"]


def _services(services: tuple[PolicyService, ...], version: int) -> str:
    if not services:
        return ""
    return _either([_service(service, version) for service in services])


def _service(service: PolicyService, version: int) -> str:
    if service.protocol == "icmp":
        return f"icmp{version}"
    if not service.first:
        return service.protocol
    if service.first == service.last:
        return f"{service.protocol}.dst == {service.first}"
    return f"{service.first} <= {service.protocol}.dst <= {service.last}"


def _either(conditions: list[str]) -> str:
    return conditions[0] if len(conditions) == 1 else f"({' || '.join(conditions)})"
