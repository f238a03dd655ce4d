"""Passes the events of this host's Docker on to all who have subscribed.

Docker's calls to the driver carry no names, labels or ports of containers: listeners learn of a change from
an event, and then ask Docker outside of its calls.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ovn_docker.errors import OvnDockerError
from ovn_docker.events import DockerEvent, DockerStopped
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_PAUSE = 2.0
"""Seconds until the next attempt to read events after the stream has ended."""

Event = TypeVar("Event", bound=DockerEvent)


class EventSource:
    """Reads *stream* in a thread of its own and calls the listeners there, in the order of subscription.

    *stream* yields events until Docker ends, then raises OvnDockerError; see docker/engine.py. A listener
    must return at once, so it only wakes its own thread. Its failure is logged; the other listeners are
    called.
    """

    def __init__(self, stream: Callable[[], Iterator[DockerEvent]]) -> None:
        self._stream = stream
        self._listeners: list[Callable[[DockerEvent], None]] = []

    def subscribe(self, kind: type[Event], listener: Callable[[Event], None]) -> None:
        """Have *listener* called for every event of a class, subclasses included. Only before start()."""

        def call(event: DockerEvent) -> None:
            if isinstance(event, kind):
                listener(event)

        self._listeners.append(call)

    def start(self, threads: Threads) -> None:
        """Read events for the life of the process."""
        threads.start("events", "listens to Docker for changes of containers and networks", self._listen)

    def publish(self, event: DockerEvent) -> None:
        """Call the listeners of an event."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed on %s", event)

    def _listen(self) -> None:
        while True:
            try:
                for event in self._stream():
                    self.publish(event)
            except OvnDockerError as error:
                log.debug("no events from Docker now: %s", error)
            self.publish(DockerStopped())
            time.sleep(_PAUSE)
