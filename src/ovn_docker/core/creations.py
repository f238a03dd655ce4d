"""Shared networks that this host's Docker is creating, for its user or for the follower.

Docker 20.10 looks for a network of the same name before it calls the driver, and lists the new one
afterwards: two requests at the same time would both succeed, and neither network could be addressed by name
any more.
"""

import threading
import time

from ovn_docker.errors import BeingCreated
from ovn_docker.model import NetworkId

_LISTED = 15.0
"""Seconds after which Docker lists a network that it has created, many times what it needs."""


class Creations:
    """For each name of a shared network in creation: the Docker network, and when its creation began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, tuple[NetworkId, float]] = {}

    def begin(self, name: str, network: NetworkId) -> None:
        """Register that Docker creates a network. Raises BeingCreated while it creates one of that name."""
        with self._lock:
            if self._holder(name) not in (None, network):
                raise BeingCreated(name)
            self._made[name] = network, time.monotonic()

    def end(self, network: NetworkId) -> None:
        """Register that the creation of a network is over, with whatever result."""
        with self._lock:
            self._made = {name: made for name, made in self._made.items() if made[0] != network}

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return self._holder(name) is not None

    def _holder(self, name: str) -> NetworkId | None:
        network, since = self._made.get(name, (None, 0.0))
        return network if time.monotonic() - since < _LISTED else None
