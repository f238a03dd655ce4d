"""The names under which a container is registered for the other hosts. Pure.

OVN answers before any other server: a name that is registered hides what the rest of the world has under it,
from all containers of the network, on all hosts. So it is one label, below no domain but the network's own.
Docker's own resolver honours any alias, for the containers of its own host alone.
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
"""Programs ask for these by themselves, and believe the answer: RFC 6761, 6.3; proxies; RFC 5214, 8.3."""

_RESERVED_DOMAINS = ("arpa", "localhost", "docker.internal")
"""Reverse queries (RFC 3172), RFC 6761, and what Docker Desktop calls the host."""


@dataclass(frozen=True, slots=True)
class ContainerNames:
    """The names of a container on a network, as Docker has them.

    *own*: its name and the beginning of its ID, which are unique on its host; *aliases*: what the user calls
    it besides, host name included; *created*: when it was made, in milliseconds of the epoch; *link_local*:
    the addresses of ``--link-local-ip``, which Docker sets without a word to the driver.
    """

    own: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    created: int = 0
    link_local: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unregistered:
    """Names of a container by which other hosts do not find it.

    *taken*: another container has them; *unfit*: nobody may have them (registered()).
    """

    taken: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()


def fitting(given: Iterable[str], network: str) -> Iterator[str]:
    """Labels that can be registered, alone and below the network's name, in lower case.

    ``web.foo`` on the network ``foo`` is ``web``.
    """
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
        socket.inet_aton(name)  # "10", "0x7f.1": an address to resolvers, which ask nobody
    except OSError:
        return False
    return True
