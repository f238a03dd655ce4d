"""One reader for all browsers: it reads when somebody has asked, and not more often than an interval."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_COST = 10.0
"""A reading is followed by a pause of at least ten times the time that it took: so a large cluster, or a
database that does not answer, costs at most a tenth of a processor."""


class SharedReader(Generic[T]):
    """Calls *read* while latest() is called, however many browsers call it.

    Between the beginnings of two readings are *interval* seconds, or more after a slow one.
    """

    def __init__(self, read: Callable[[], T], interval: float) -> None:
        self._read = read
        self._interval = interval
        self._asked = threading.Event()
        self._latest: T | None = None
        self.readings = 0
        """The number of readings so far."""

    def latest(self) -> T | None:
        """Return the last reading at once, and have another one made as soon as it is due."""
        self._asked.set()
        return self._latest

    def run(self) -> None:
        """Read for the life of the process. An exception of *read* ends this, and keeps the last reading."""
        while True:
            self.read_when_asked()

    def read_when_asked(self) -> None:
        """Wait until somebody asks, read once, and wait until the next reading is due."""
        self._asked.wait()
        self._asked.clear()  # whoever asks from now on gets another reading
        began = time.monotonic()
        self._latest = self._read()
        self.readings += 1
        took = time.monotonic() - began
        time.sleep(max(self._interval - took, _COST * took))
