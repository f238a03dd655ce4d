"""Time limit of a request: Docker itself waits forever (moby pkg/plugins has no timeout)."""

import time
from contextvars import ContextVar
from typing import Self

from ovn_docker.errors import TimedOut

began: ContextVar[float | None] = ContextVar("began", default=None)
"""When the call that this thread answers arrived, by time.monotonic(); it may have waited for a thread."""

_LEAST = 1.0
"""Least seconds that a call gets, however long it has waited: enough if everything works."""


class Deadline:
    """A point in time, passed from the request down to everything that waits."""

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @classmethod
    def of_call(cls, seconds: float) -> Self:
        """Return the deadline *seconds* after the arrival of the call, however long it has waited."""
        start = began.get()
        waited = 0.0 if start is None else time.monotonic() - start
        return cls(round(max(seconds - waited, min(_LEAST, seconds)), 1))

    def left(self, at_most: float | None = None) -> float:
        """Return the seconds left: not negative, at most *at_most*."""
        left = max(0.0, self._end - time.monotonic())
        return left if at_most is None else min(left, at_most)

    def check(self, waiting_for: str) -> None:
        """Raise TimedOut if no time is left."""
        if self.left() <= 0:
            raise TimedOut(f"gave up after {self.seconds:g} s waiting for {waiting_for}")
