"""Threads for the life of the process: a thread that fails is logged, counted and started again.

Python ends a thread at an uncaught exception, at SystemExit even silently
(docs.python.org/3/library/threading.html, "excepthook"), and the process continues without that thread.
"""

import contextvars
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a failed thread starts again: doubled after each further failure, up to a minute."""

_SETTLED = 60.0
"""Seconds without failure after which the next failure counts as the first."""

_HOPELESS = 5
"""Failures in a row of an essential thread that end the process."""

RESTART = 5
"""Exit status after which ``--monitor`` starts the process again (ovs/daemon.py, RESTART_EXIT_CODE), as
systemd does after any failure."""


@dataclass(frozen=True, slots=True)
class ThreadState:
    """A thread. *error*: its last failure, *since* seconds ago; *waits*: it starts again soon."""

    name: str
    purpose: str
    waits: bool
    failures: int
    error: str
    since: float | None


class Threads:
    """The threads of a process.

    *stop* is called, and *hopeless* becomes True, when the process has to be started again.
    """

    def __init__(self) -> None:
        self.stop: Callable[[], None] = lambda: os._exit(RESTART)
        self.hopeless = False
        self._lock = threading.Lock()
        self._running: list[_Supervised] = []
        self._failures: Counter[str] = Counter()

    def start(
        self, name: str, purpose: str, run: Callable[[], None], *, lasts: bool = True, essential: bool = False
    ) -> threading.Thread:
        """Run *run* in a new thread, which ps(1) and top(1) show by *name*.

        *purpose* completes "the thread that ...". *lasts*: a return of *run* is a failure. *essential*: the
        process is useless without the thread. Raises RuntimeError if the system has no thread left.
        """
        one = _Supervised(name, purpose, run, lasts, essential)
        with self._lock:
            self._running.append(one)
            self._failures[kind(name)] += 0
        thread = threading.Thread(target=self._supervise, args=(one,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._running.remove(one)
            raise
        return thread

    def states(self) -> list[ThreadState]:
        """Return the states of all threads, except those that have ended as intended."""
        now = time.monotonic()
        with self._lock:
            return [
                ThreadState(
                    one.name, one.purpose, one.waits, one.failures, one.error,
                    round(now - one.failed, 1) if one.failures else None,
                )
                for one in self._running
            ]  # fmt: skip

    def failures(self) -> dict[str, int]:
        """Return the number of failures for each kind() of thread."""
        with self._lock:
            return dict(self._failures)

    def _supervise(self, one: "_Supervised") -> None:
        with suppress(OSError):
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(one.name[:15])
        while True:
            began = time.monotonic()
            try:
                contextvars.Context().run(one.run)  # without variables that a failed run has set
                if not one.lasts:
                    break
                error: BaseException = RuntimeError("it has returned")
            except BaseException as caught:  # noqa: BLE001 - SystemExit and MemoryError too
                error = caught
            try:
                pause = self._failed(one, error, time.monotonic() - began)
                del error  # its traceback keeps the objects of the run alive
                time.sleep(pause)
                one.waits = False
            except BaseException:  # noqa: BLE001 - no restart is possible
                os._exit(RESTART)
        with self._lock:
            self._running.remove(one)

    def _failed(self, one: "_Supervised", error: BaseException, worked: float) -> float:
        """Count and log a failure; return the seconds until the next start."""
        with self._lock:
            one.failures += 1
            one.in_a_row = 1 if worked >= _SETTLED else one.in_a_row + 1
            one.failed = time.monotonic()
            one.error = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            one.waits = True
            self._failures[kind(one.name)] += 1
            hopeless = one.essential and one.in_a_row >= _HOPELESS and not self.hopeless
            self.hopeless = self.hopeless or hopeless
        pause = min(_PAUSE * (1 << min(one.in_a_row - 1, 30)), _LONGEST_PAUSE)
        log.error(
            "thread %s, which %s, failed: %s; %s",
            one.name, one.purpose, one.error,
            "the process ends, to be started again" if hopeless else f"it starts again in {pause:.0f} s",
            exc_info=error,
        )  # fmt: skip
        if hopeless:
            self.stop()
        return pause


def kind(name: str) -> str:
    """Return the kind of a thread, without its number: ``call`` for ``call-17``."""
    return re.sub(r"-[0-9]+$", "", name)


@dataclass(slots=True)
class _Supervised:
    name: str
    purpose: str
    run: Callable[[], None]
    lasts: bool
    essential: bool
    waits: bool = False
    failures: int = 0
    in_a_row: int = 0
    failed: float = 0.0
    error: str = ""
