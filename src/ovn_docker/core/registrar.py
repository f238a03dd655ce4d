"""Registers the names of this host's containers in the cluster, so that other hosts' containers find them.

Docker's calls to the driver carry no names. So Docker is asked after an event, outside of its calls.
"""

import logging
import queue
import time
from collections.abc import Callable

from ovn_docker.core.protocols import NameEngine, NameStore
from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError, TimedOut, Unavailable
from ovn_docker.events import ContainerEvent
from ovn_docker.hostnames import ContainerNames, Unregistered
from ovn_docker.model import Chassis, EndpointId
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_STORING = 10.0
"""Seconds that the database may take."""

_QUICK, _LATE = 1.0, 10.0
"""Seconds that Docker may take to answer for a container: while others wait, and while none does."""

_PAUSE = 2.0
"""Seconds until the next attempt after a failure."""

_NAME_IN_USE = 15.0
"""Seconds until a container without its name, which another container has, is registered again."""

_REFRESH = 3600.0
"""Seconds until a container is registered again: somebody may have deleted its names, or a container that is
gone may have freed one."""


class Unanswered(TimedOut):
    """Docker does not answer for one container, though it may for others."""


class Registrar:
    """Registers names in two threads: one writes names, one waits for Docker's late answers.

    While a container starts or stops, or while its runtime hangs, Docker may not answer for it for a long
    time. Such a container is left to the second thread, so that the names of others are not late.
    """

    def __init__(self, store: NameStore, chassis: Callable[[Deadline], Chassis], engine: NameEngine) -> None:
        self._store = store
        self._chassis = chassis
        self._engine = engine
        self._changed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._unanswered: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._late: set[str] = set()
        """Containers that the second thread waits for."""
        self._missing: dict[str, Unregistered] = {}
        """For each container, the names that could not be registered, as logged."""
        self._due: dict[str, float] = {}
        """When a container has to be registered again, by time.monotonic()."""

    def start(self, threads: Threads) -> None:
        """Register names for the life of the process."""
        threads.start("names", "writes the names of this host's containers", self._write)
        purpose = "waits for containers for which Docker does not answer"
        threads.start("late names", purpose, self._wait_for_answers)

    def container_changed(self, event: ContainerEvent) -> None:
        """Register the container of an event soon."""
        self._changed.put(event.container)

    def register(self, container: str) -> float | None:
        """Register the names of a container. Raises Unanswered, or OvnDockerError.

        Returns the seconds until the container has to be registered again, as a name may become free or get
        lost; None if the container does not run.
        """
        try:
            endpoints = self._engine.names(container, _QUICK)
        except TimedOut as error:
            raise Unanswered(str(error)) from None
        missing = Unregistered()
        for endpoint, names in endpoints.items():
            deadline = Deadline(_STORING)
            if names.link_local:
                self._allow(endpoint, names, deadline)
            found = self._store.set_names(endpoint, names, self._chassis(deadline), deadline)
            missing = Unregistered(missing.taken + found.taken, missing.unfit + found.unfit)
        self._log_missing(container, missing)
        if not endpoints:
            return None
        return _NAME_IN_USE if missing.taken else _REFRESH

    def _allow(self, endpoint: EndpointId, names: ContainerNames, deadline: Deadline) -> None:
        """Allow an endpoint the addresses of ``--link-local-ip``, which Docker sets without the driver."""
        try:
            self._store.allow(endpoint, names.link_local, self._chassis(deadline), deadline)
        except Unavailable:
            raise
        except OvnDockerError as error:
            log.warning(
                "container %s does not reach others from its --link-local-ip: %s", names.own[0], error
            )

    def _log_missing(self, container: str, missing: Unregistered) -> None:
        """Log the names of a container that could not be registered, unless they are logged already."""
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

    def _write(self) -> None:
        while True:
            container = self._next()
            if container in self._late:
                continue  # the other thread returns it when Docker has answered
            try:
                wait = self.register(container)
            except Unanswered as error:
                log.info("names of container %s have to wait: %s", container[:12], error)
                self._due.pop(container, None)
                self._late.add(container)
                self._unanswered.put(container)
            except OvnDockerError as error:
                log.info("names of container %s have to wait: %s", container[:12], error)
                time.sleep(_PAUSE)
                self._changed.put(container)
            else:
                self._due.pop(container, None)
                if wait is not None:
                    self._due[container] = time.monotonic() + wait

    def _wait_for_answers(self) -> None:
        """Ask Docker again for one container after the other; return those for which it answers."""
        while True:
            container = self._unanswered.get()
            try:
                self._engine.names(container, _LATE)
            except OvnDockerError as error:
                log.debug("names of container %s have to wait: %s", container[:12], error)
                time.sleep(_PAUSE)
                self._unanswered.put(container)
            else:
                self._late.discard(container)
                self._changed.put(container)

    def _next(self) -> str:
        """Wait for the next container that has changed or is due."""
        first = min(self._due, key=self._due.__getitem__, default="")
        wait = max(0.0, self._due[first] - time.monotonic()) if first else None
        try:
            return self._changed.get(timeout=wait)
        except queue.Empty:
            return first
