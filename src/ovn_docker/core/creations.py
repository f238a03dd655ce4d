"""Shared networks that this host's Docker is creating, for its user or for the follower.

Docker 20.10 looks for a network of the same name before it calls the driver, and lists the new one
afterwards: two requests at the same time would both succeed, and neither network could be addressed by name
any more.
"""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from ovn_docker.errors import BeingCreated
from ovn_docker.model import IpNetwork, NetworkId

_LISTED = 15.0
"""Seconds after which Docker lists a network that it has created, many times what it needs."""

_UNDERWAY = 15.0
"""Seconds after Docker has listed a network, in which the driver may get a request that began before. Docker
has first looked for the name then, and the driver has leased the gateway's address."""


@dataclass(slots=True)
class _Creation:
    """A Docker network with its pools; *began*, *listed*: time.monotonic() of the begin and the end."""

    network: NetworkId
    pools: frozenset[IpNetwork]
    began: float
    listed: float | None = None

    @property
    def going_on(self) -> bool:
        return self.listed is None and time.monotonic() - self.began < _LISTED

    @property
    def just_listed(self) -> bool:
        return self.listed is not None and time.monotonic() - self.listed < _UNDERWAY


class Creations:
    """For each name of a shared network, the Docker network that is in creation, or was a moment ago."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, _Creation] = {}

    def begin(self, name: str, network: NetworkId, pools: Collection[IpNetwork] = ()) -> None:
        """Register that Docker creates a network. Raises BeingCreated while it creates one of that name.

        Raises it too if Docker has just listed one of that name with the same pools. One with other pools is
        left to the backend, whose error has the options to type; or check() refuses it afterwards.
        """
        wanted = frozenset(pools)
        with self._lock:
            self._forget_old()
            other = self._made.get(name)
            if other and other.network != network and (other.going_on or other.pools == wanted):
                raise BeingCreated(name)
            if other is None or other.network == network:
                self._made[name] = _Creation(network, wanted, time.monotonic())

    def check(self, name: str, network: NetworkId) -> None:
        """Raise BeingCreated if Docker has just listed another network of that name."""
        with self._lock:
            self._forget_old()
            if (other := self._made.get(name)) and other.network != network:
                raise BeingCreated(name)

    def listed(self, network: NetworkId) -> None:
        """Register that Docker lists a network: from now on it refuses requests for another of its name."""
        with self._lock:
            for creation in self._made.values():
                if creation.network == network and creation.listed is None:
                    creation.listed = time.monotonic()

    def end(self, network: NetworkId) -> None:
        """Register that the creation of a network has failed, or that the network is deleted."""
        with self._lock:
            self._made = {name: made for name, made in self._made.items() if made.network != network}

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return (made := self._made.get(name)) is not None and made.going_on

    def _forget_old(self) -> None:
        self._made = {name: made for name, made in self._made.items() if made.going_on or made.just_listed}
