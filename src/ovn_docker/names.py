"""Tells the cluster the names of this host's containers, so that those on other hosts can find them.

Docker's calls to us carry no names: they are learnt from its events, later, and never while it waits for us.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.hostnames import ContainerNames, Unregistered
from ovn_docker.model import Chassis, EndpointId
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds that the database may take."""

_SOON = 2.0
"""Seconds until the next attempt after something failed."""

_TAKEN = 15.0
"""Seconds until a container whose name another one has may have it."""

_AGAIN = 3600.0
"""Seconds until a container has its names again that somebody has deleted, or one that is gone has taken."""


class Store(Protocol):
    """Where names are kept for the whole cluster."""

    def set_names(
        self, endpoint: EndpointId, names: ContainerNames, chassis: Chassis, deadline: Deadline
    ) -> Unregistered:
        """Keep the names of an endpoint, which may be none of ours, or gone. Returns those not kept."""

    def allow(
        self, endpoint: EndpointId, addresses: Iterable[str], chassis: Chassis, deadline: Deadline
    ) -> None:
        """Let an endpoint use more addresses. Raises OvnDockerError that says why it may not."""


class Engine(Protocol):
    """This host's Docker."""

    def changed(self) -> Iterator[str]:
        """IDs of containers that have changed, "" for a network, without end.

        Raises Unavailable when Docker goes.
        """

    def names(self, container: str) -> dict[EndpointId, ContainerNames]:
        """Endpoints of a container and its names there; none if it does not run."""


class Registrar:
    """Has two threads: one listens to Docker, one writes what has changed.

    *pass_on*: done whenever dockerd has started, for its settings may be others; see host/nameservers.py.
    *changed*: called whenever a container or a network has changed.
    """

    def __init__(
        self,
        store: Store,
        chassis: Callable[[Deadline], Chassis],
        engine: Engine,
        pass_on: Callable[[], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._pass_on = pass_on
        self._wake = changed
        self._chassis = chassis
        self._engine = engine
        self._changed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._missing: dict[str, Unregistered] = {}
        self._due: dict[str, float] = {}
        """When the names of a container have to be written again, by time.monotonic()."""

    def start(self, threads: Threads) -> None:
        """Work for the life of the process."""
        threads.start("events", "listens to Docker for containers that have got names", self._listen)
        threads.start("names", "writes the names of this host's containers", self._write)

    def register(self, container: str) -> float | None:
        """Write down the names of one container. Raises OvnDockerError.

        Returns the seconds until that is due again, since a name may have become free or have been taken.
        None: the container has gone.
        """
        endpoints = self._engine.names(container)
        missing = Unregistered()
        for endpoint, names in endpoints.items():
            deadline = Deadline(_PATIENCE)
            if names.link_local:
                self._allow(endpoint, names, deadline)
            found = self._store.set_names(endpoint, names, self._chassis(deadline), deadline)
            missing = Unregistered(missing.taken + found.taken, missing.unfit + found.unfit)
        self._tell(container, missing)
        if not endpoints:
            return None
        return _TAKEN if missing.taken else _AGAIN

    def _allow(self, endpoint: EndpointId, names: ContainerNames, deadline: Deadline) -> None:
        """Let an endpoint use the addresses of ``--link-local-ip``, which Docker gives it by itself."""
        try:
            self._store.allow(endpoint, names.link_local, self._chassis(deadline), deadline)
        except Unavailable:
            raise
        except OvnDockerError as error:
            log.warning(
                "container %s does not reach others from its --link-local-ip: %s", names.own[0], error
            )

    def _tell(self, container: str, missing: Unregistered) -> None:
        """Log names by which other hosts do not find a container, once."""
        if missing == self._missing.pop(container, Unregistered()):
            pass
        elif missing.taken:
            log.warning(
                "other hosts do not find container %s as %s: another container of the network has the name; "
                "they do find its short ID",
                container[:12], ", ".join(missing.taken),
            )  # fmt: skip
        elif missing.unfit:
            log.info(
                "other hosts do not find container %s as %s: names are single words, and at most 64",
                container[:12], ", ".join(missing.unfit),
            )  # fmt: skip
        if missing != Unregistered():
            self._missing[container] = missing

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
                for container in self._engine.changed():
                    self._wake()
                    if container:
                        self._changed.put(container)
            except OvnDockerError as error:
                log.debug("no names from Docker now: %s", error)
            time.sleep(_SOON)

    def _write(self) -> None:
        while True:
            container = self._next()
            try:
                wait = self.register(container)
            except OvnDockerError as error:
                log.info("names of container %s have to wait: %s", container[:12], error)
                time.sleep(_SOON)
                self._changed.put(container)
            else:
                self._due.pop(container, None)
                if wait is not None:
                    self._due[container] = time.monotonic() + wait

    def _next(self) -> str:
        """The next container that may have other names, or whose time has come."""
        first = min(self._due, key=self._due.__getitem__, default="")
        wait = max(0.0, self._due[first] - time.monotonic()) if first else None
        try:
            return self._changed.get(timeout=wait)
        except queue.Empty:
            return first
