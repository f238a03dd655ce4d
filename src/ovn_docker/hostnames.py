"""The names under which a container is registered for the other hosts. Pure.

OVN answers before any other name server: a registered name hides the same name of the rest of the world from
all containers of the network, on all hosts. So only single labels are registered, alone and below the
network's name. Docker's own resolver accepts any alias, for containers of its own host only.
"""

import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MOST = 64
"""Names of one container on one network."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
"""RFC 1035, 2.3.1, and the underscore that Docker allows."""

_LONGEST = 253
"""Characters of a name in DNS (RFC 1035, 2.3.4)."""

_RESERVED = frozenset({"localhost", "wpad", "isatap"})
"""Names that programs look up by themselves and trust: RFC 6761, 6.3; proxy configuration; RFC 5214, 8.3."""

_RESERVED_DOMAINS = ("arpa", "localhost", "docker.internal")
"""Domains of reverse queries (RFC 3172), of RFC 6761, and of the host in Docker Desktop."""


@dataclass(frozen=True, slots=True)
class ContainerNames:
    """The names of a container on a network, as Docker has them.

    *own*: its name and the beginning of its ID, which are unique on its host; *aliases*: further names that
    the user has given, and the host name; *created*: time of creation in milliseconds of the epoch;
    *link_local*: the addresses of ``--link-local-ip``, which Docker sets without the driver.
    """

    own: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    created: int = 0
    link_local: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unregistered:
    """Names of a container that could not be registered.

    *taken*: another container has them; *unfit*: they are not allowed (fitting()).
    """

    taken: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()


def fitting(given: Iterable[str], network: str) -> Iterator[str]:
    """Yield the labels that may be registered. ``Web.foo`` on the network ``foo`` is ``web``."""
    suffix = f".{network.lower()}"
    for name in given:
        label = name.lower().removesuffix(suffix)
        if _LABEL.fullmatch(label) and not _is_reserved(label) and not _is_reserved(label + suffix):
            yield label


def _is_reserved(name: str) -> bool:
    if (
        name in _RESERVED
        or len(name) > _LONGEST
        or name.endswith(tuple(f".{one}" for one in _RESERVED_DOMAINS))
    ):
        return True
    try:
        socket.inet_aton(name)  # resolvers take "10" and "0x7f.1" for addresses and send no query
    except OSError:
        return False
    return True
