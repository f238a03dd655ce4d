"""Threads for the life of the process: one that fails is logged, counted and started again.

Python ends a thread with an exception that nobody catches, SystemExit even without a word
(docs.python.org/3/library/threading.html, "excepthook"), and the process goes on without it.
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
"""Seconds until a thread that failed starts again; twice that after each further failure, up to a minute."""

_SETTLED = 60.0
"""Seconds of work after which a failure counts as the first one again."""

_HOPELESS = 5
"""Failures in a row of an essential thread that end the process."""

RESTART = 5
"""Exit status after which ``--monitor`` starts the process again (ovs/daemon.py, RESTART_EXIT_CODE), as
systemd does after any failure."""


@dataclass(frozen=True, slots=True)
class State:
    """A thread: *error* is its last failure, *since* so many seconds ago; *waits*: it starts again soon."""

    name: str
    purpose: str
    waits: bool
    failures: int
    error: str
    since: float | None


class Threads:
    """The threads of a process, or of a part of it that has some.

    *stop*: called when the process had better be started again, as *hopeless* says from then on.
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
        """Run *run* in a thread of its own, which ps(1) and top(1) show by *name*.

        *purpose* completes "the thread that ...". *lasts*: to return is a failure too. *essential*: the
        process is of no use without it.
        """
        one = _Supervised(name, purpose, run, lasts, essential)
        with self._lock:
            self._running.append(one)
            self._failures[kind(name)] += 0
        thread = threading.Thread(target=self._supervise, args=(one,), name=name, daemon=True)
        thread.start()
        return thread

    def states(self) -> list[State]:
        """All threads that have not ended as they should."""
        now = time.monotonic()
        with self._lock:
            return [
                State(
                    one.name, one.purpose, one.waits, one.failures, one.error,
                    round(now - one.failed, 1) if one.failures else None,
                )
                for one in self._running
            ]  # fmt: skip

    def failures(self) -> dict[str, int]:
        """How often threads of each kind() have failed."""
        with self._lock:
            return dict(self._failures)

    def _supervise(self, one: "_Supervised") -> None:
        with suppress(OSError):
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(one.name[:15])
        while True:
            began = time.monotonic()
            try:
                contextvars.Context().run(one.run)  # nothing that a failed run has set
                if not one.lasts:
                    break
                error: BaseException = RuntimeError("it has returned")
            except BaseException as caught:  # noqa: BLE001 - SystemExit and MemoryError too
                error = caught
            try:
                pause = self._failed(one, error, time.monotonic() - began)
                del error  # its traceback holds what the run has held
                time.sleep(pause)
                one.waits = False
            except BaseException:  # noqa: BLE001 - not even that is possible
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
    """Threads that do the same have one kind: ``call`` for ``call-17``."""
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
