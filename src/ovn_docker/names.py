"""Tells the cluster the names of this host's containers, so that those on other hosts can find them.

Docker's calls to us carry no names: they are learnt from its events, later, and never while it waits for us.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError
from ovn_docker.model import Chassis, EndpointId
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds that the database may take."""

_SOON = 2.0
"""Seconds until the next attempt after something failed."""


class Store(Protocol):
    """Where names are kept for the whole cluster."""

    def set_names(
        self, endpoint: EndpointId, names: tuple[str, ...], chassis: Chassis, deadline: Deadline
    ) -> None:
        """Keep the names of an endpoint; it may be none of ours, or gone."""


class Engine(Protocol):
    """This host's Docker."""

    def named_anew(self) -> Iterator[str]:
        """Containers that may have got names, without end. Raises Unavailable when Docker goes."""

    def names(self, container: str) -> dict[EndpointId, tuple[str, ...]]:
        """Endpoints of a container and its names there."""


class Registrar:
    """Has two threads: one listens to Docker, one writes what has changed.

    *pass_on*: done whenever dockerd has started, for its settings may be others; see host/nameservers.py.
    """

    def __init__(
        self,
        store: Store,
        chassis: Callable[[Deadline], Chassis],
        engine: Engine,
        pass_on: Callable[[], None],
    ) -> None:
        self._store = store
        self._pass_on = pass_on
        self._chassis = chassis
        self._engine = engine
        self._changed: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self, threads: Threads) -> None:
        """Work for the life of the process."""
        threads.start("events", "listens to Docker for containers that have got names", self._listen)
        threads.start("names", "writes the names of this host's containers", self._write)

    def register(self, container: str) -> None:
        """Write down the names of one container. Raises OvnDockerError."""
        for endpoint, names in self._engine.names(container).items():
            deadline = Deadline(_PATIENCE)
            self._store.set_names(endpoint, names, self._chassis(deadline), deadline)

    def _listen(self) -> None:
        told = ""
        while True:
            try:
                self._pass_on()
                told = ""
            except OvnDockerError as error:
                if str(error) != told:
                    log.warning("containers on other networks may wait for names: %s", error)
                told = str(error)
            try:
                for container in self._engine.named_anew():
                    self._changed.put(container)
            except OvnDockerError as error:
                log.debug("no names from Docker now: %s", error)
            time.sleep(_SOON)

    def _write(self) -> None:
        while True:
            container = self._changed.get()
            try:
                self.register(container)
            except OvnDockerError as error:
                log.info("names of container %s have to wait: %s", container[:12], error)
                time.sleep(_SOON)
                self._changed.put(container)
