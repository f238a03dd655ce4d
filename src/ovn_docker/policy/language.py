"""Rules: which packets pass between which containers and addresses. Pure.

A rule is written as a mapping in a file (rule_files.py), or in one line, as in the option ``ovn.allow``.
Words of both are parsed here. Of the rules that a packet fits, the first one decides.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

from ovn_docker.policy.group_names import RULE as GROUP_RULE
from ovn_docker.policy.group_names import is_group

MOST_RULES, MOST_WORDS, MOST_SHORT, MOST_PAIRS = 500, 32, 16, 64
"""Largest number of rules of a network, of words in one list of a rule, of rules in ``ovn.allow``, and of
pairs of ends in the latter."""

Address = IPv4Network | IPv6Network


class Action(StrEnum):
    """Treatment of the packets of a rule; ``reject`` answers with a TCP reset or an ICMP error."""

    ALLOW = "allow"
    DROP = "drop"
    REJECT = "reject"


class Place(StrEnum):
    """An end that is not a group: all containers of the network, or all addresses outside of its subnets."""

    ALL = "all"
    OUTSIDE = "outside"


@dataclass(frozen=True, slots=True)
class GroupEnd:
    """An end: the containers of a group."""

    name: str

    def __str__(self) -> str:
        return self.name


End = GroupEnd | Place | Address
"""One of the ends that a rule names; an address stands for itself, whoever has it."""

PROTOCOLS = ("tcp", "udp", "sctp", "icmp")


@dataclass(frozen=True, slots=True, order=True)
class PolicyService:
    """A protocol, with the destination ports from *first* to *last*; all ports if *first* is 0."""

    protocol: str
    first: int = 0
    last: int = 0

    def __str__(self) -> str:
        if not self.first:
            return self.protocol
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.protocol}/{ports}"


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule. Empty *services*: every packet; empty *sources* or *targets*: anybody."""

    action: Action
    services: tuple[PolicyService, ...] = ()
    sources: tuple[End, ...] = ()
    targets: tuple[End, ...] = ()

    def __str__(self) -> str:
        words = [str(self.action), _list(self.services) or "any"]
        words += ["from", _list(self.sources)] if self.sources else []
        words += ["to", _list(self.targets)] if self.targets else []
        return " ".join(words)

    @property
    def groups(self) -> set[str]:
        """Names of the groups that the rule is about."""
        return {end.name for end in (*self.sources, *self.targets) if isinstance(end, GroupEnd)}


def _list(words: Iterable[object]) -> str:
    return ",".join(map(str, words))


def ends(text: str) -> tuple[End, ...]:
    """Return the ends in *text*, separated by commas or spaces. Raises ValueError: what to give."""
    return tuple(dict.fromkeys(map(_end, _words(text, "a group, all, outside, an address or a subnet"))))


def services(text: str) -> tuple[PolicyService, ...]:
    """Return the services in *text*, separated by commas or spaces; empty for ``any``. Raises ValueError."""
    if text.strip() == "any":
        return ()
    return tuple(dict.fromkeys(map(_service, _words(text, "any, or services such as tcp/80"))))


def _words(text: str, wanted: str) -> list[str]:
    words = [word for word in re.split("[, ]+", text) if word]
    if not words:
        raise ValueError(f"give {wanted}")
    if len(words) > MOST_WORDS:
        raise ValueError(f"{len(words)} words in one list: give at most {MOST_WORDS}, or several rules")
    return words


def _end(word: str) -> End:
    if word in set(Place):
        return Place(word)
    if is_group(word):
        return GroupEnd(word)
    try:
        address = ip_network(word.replace("%", " "))
    except ValueError:
        raise ValueError(
            f"{word[:60]!r} is neither a group ({GROUP_RULE}), nor an address or a subnet without host bits: "
            "give one, or all or outside"
        ) from None
    if isinstance(address, IPv6Network) and address.network_address.ipv4_mapped:
        raise ValueError(f"{word} is an IPv4 address within IPv6: give the IPv4 address")
    return address


def _service(word: str) -> PolicyService:
    protocol, slash, ports = word.partition("/")
    wanted = "give any, icmp, tcp, udp or sctp, with one port or a range, such as tcp/80 or udp/6000-6010"
    if protocol not in PROTOCOLS:
        raise ValueError(f"{word[:60]!r} is not a service: {wanted}")
    if not slash:
        return PolicyService(protocol)
    first, dash, last = ports.partition("-")
    numbers = [first, last if dash else first]
    if protocol == "icmp" or not all(re.fullmatch("[1-9][0-9]{0,4}", number) for number in numbers):
        raise ValueError(f"{word[:60]!r} is not a service: {wanted}")
    low, high = map(int, numbers)
    if not low <= high <= 65535:
        raise ValueError(f"{word} has no such ports: give 1 to 65535, the lower one first")
    return PolicyService(protocol, low, high)


SHORT = "rules such as 'web:tcp/80; db from web:tcp/5432'"


def parse_short(text: str) -> tuple[PolicyRule, ...]:
    """Return the rules, all of which allow, in ``TO [from FROM]:SERVICES; ...``.

    Raises ValueError: what to give.
    """
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if not parts or len(parts) > MOST_SHORT or not text.isprintable():
        raise ValueError(f"1 to {MOST_SHORT} {SHORT}; more fit into a file, see `ovn-docker policy`")
    rules = []
    for part in parts:
        both, colon, words = part.rpartition(":")
        to, *source = re.split(r"(?:^|\s+)from\s+", both.strip())
        if not colon or len(source) > 1 or not both.strip():
            raise ValueError(f"{SHORT}; {part[:60]!r} is not one")
        try:
            targets = ends(to) if to else ()
            rules.append(
                PolicyRule(Action.ALLOW, services(words), ends(source[0]) if source else (), targets)
            )
        except ValueError as error:
            raise ValueError(f"{SHORT}; in {part[:60]!r}: {error}") from None
    if sum(len(rule.sources or " ") * len(rule.targets or " ") for rule in rules) > MOST_PAIRS:
        raise ValueError(f"{SHORT}, with at most {MOST_PAIRS} pairs of ends; more fit into a file")
    return tuple(rules)


def join_short(rules: Iterable[PolicyRule]) -> str:
    """Return the text that parse_short() reads."""
    parts = []
    for rule in rules:
        source = f"from {_list(rule.sources)}" if rule.sources else ""
        both = " ".join(filter(None, [_list(rule.targets), source]))
        parts.append(f"{both}:{_list(rule.services) or 'any'}")
    return "; ".join(parts)
