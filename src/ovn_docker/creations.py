"""Networks of the cluster that this host's Docker is making at this moment, for its user or for the follower.

Docker 20.10 looks for a network of the same name before it asks the driver, and lists the new one afterwards:
of two requests at once both would succeed, and neither network could be named any more.
"""

import threading
import time

from ovn_docker.errors import Conflict
from ovn_docker.model import NetworkId

_LISTED = 15.0
"""Seconds after which Docker lists what it has made, many times what it needs."""


class Creations:
    """Names in the cluster, the Docker networks that they are for, and when they were asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, tuple[NetworkId, float]] = {}

    def begin(self, name: str, network: NetworkId) -> None:
        """Note that Docker makes a network. Raises Conflict while it makes another one of that name."""
        with self._lock:
            if self._holder(name) not in (None, network):
                raise Conflict(
                    f"network with name {name} already exists: this host has made it in this moment, see "
                    "docker network ls"
                )
            self._made[name] = network, time.monotonic()

    def end(self, network: NetworkId) -> None:
        """Note that Docker has, or has not and will not have, a network."""
        with self._lock:
            self._made = {name: made for name, made in self._made.items() if made[0] != network}

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return self._holder(name) is not None

    def _holder(self, name: str) -> NetworkId | None:
        network, since = self._made.get(name, (None, 0.0))
        return network if time.monotonic() - since < _LISTED else None
