"""Traces that browsers ask for: one at a time, a bounded number of them, each answer shared for a while."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Full, Queue

_KEPT = 10.0
"""Seconds for which an answer is given again."""

_MOST = 32
"""Largest number of traces that are kept or wait."""

_WAITING = 8
"""Largest number of traces that wait."""

TraceAsked = tuple[str, str, str]
"""IDs of the endpoints of sender and receiver, and the packet, such as ``tcp/80``."""


@dataclass(slots=True)
class TraceJob:
    """A trace; *text* is ``None`` until it has ended, at *ended* (time.monotonic())."""

    asked: TraceAsked
    text: str | None = None
    ended: float = 0.0


class Traces:
    """Runs *trace*, which returns a text; ask() is for one thread, run() for another."""

    def __init__(self, trace: Callable[[TraceAsked], str]) -> None:
        self._trace = trace
        self._jobs: dict[TraceAsked, TraceJob] = {}
        self._waiting: Queue[TraceJob] = Queue(_WAITING)

    def ask(self, asked: TraceAsked) -> TraceJob | None:
        """Return the trace, which may not have ended yet; ``None`` if too many others wait."""
        now = time.monotonic()
        self._jobs = {
            key: job for key, job in self._jobs.items() if job.text is None or now - job.ended < _KEPT
        }
        if asked in self._jobs:
            return self._jobs[asked]
        job = TraceJob(asked)
        if len(self._jobs) >= _MOST:
            return None
        try:
            self._waiting.put_nowait(job)
        except Full:
            return None
        self._jobs[asked] = job
        return job

    def run(self) -> None:
        """Run traces for the life of the process."""
        while True:
            self.run_next()

    def run_next(self) -> None:
        """Wait for a trace that somebody asks for, and run it."""
        job = self._waiting.get()
        text = "the trace failed: see the log of this page"
        try:
            text = self._trace(job.asked)
        finally:
            job.ended = time.monotonic()  # before the text, by which the other thread sees the end
            job.text = text
