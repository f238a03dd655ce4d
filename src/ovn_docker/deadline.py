"""How long a request may take: Docker itself waits for ever (moby pkg/plugins has no timeout)."""

import time

from ovn_docker.errors import TimedOut


class Deadline:
    """A point in time, handed down from the request to everything that waits."""

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self, at_most: float | None = None) -> float:
        """Seconds left, never negative, and not more than *at_most*."""
        left = max(0.0, self._end - time.monotonic())
        return left if at_most is None else min(left, at_most)

    def check(self, waiting_for: str) -> None:
        """Raise TimedOut if no time is left."""
        if self.left() <= 0:
            raise TimedOut(f"gave up after {self.seconds:g} s waiting for {waiting_for}")
