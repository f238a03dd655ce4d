"""Threads that fail in all possible ways, and their restart."""

import logging
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace

import pytest

from functional.ovsdb_servers import until
from ovn_docker import threads
from ovn_docker.threads import Threads, ThreadState


def exits() -> None:
    sys.exit("a library gives up")


def recurses() -> None:
    recurses()


def takes_all_memory() -> None:
    bytearray(sys.maxsize)


def is_interrupted() -> None:
    raise KeyboardInterrupt


def is_wrong() -> None:
    raise KeyError("EndpointID")


def returns() -> None:
    pass


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PAUSE", 0.001)


class Work:
    """Fails some times, then works until it is stopped."""

    def __init__(self, fail: Callable[[], None], times: int) -> None:
        self._fail, self._left = fail, times
        self.works, self.stop = threading.Event(), threading.Event()
        self.thread = 0

    def __call__(self) -> None:
        self.thread = threading.get_ident()
        if self._left:
            self._left -= 1
            self._fail()
            return
        self.works.set()
        self.stop.wait()


def started(work: Work, **options: bool) -> tuple[Threads, ThreadState]:
    """Start *work* in a thread; return the threads and its state once it works."""
    some = Threads()
    some.start("worker-3", "does the work of the test", work, **options)
    assert work.works.wait(120)
    (state,) = some.states()
    return some, state


@pytest.mark.parametrize(
    ("fail", "error"),
    [
        (exits, "SystemExit: a library gives up"),
        (recurses, "RecursionError: maximum recursion depth exceeded"),
        (takes_all_memory, "MemoryError: "),
        (is_interrupted, "KeyboardInterrupt: "),
        (is_wrong, "KeyError: 'EndpointID'"),
        (returns, "RuntimeError: it has returned"),
    ],
)
def test_failed_thread_starts_again_with_a_log_line(
    fail: Callable[[], None], error: str, caplog: pytest.LogCaptureFixture
) -> None:
    some, state = started(Work(fail, 2))
    assert (state.name, state.failures, state.waits) == ("worker-3", 2, False)
    assert state.error.startswith(error.strip())
    assert some.failures() == {"worker": 2}
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 2
    assert lines[0].getMessage().startswith("thread worker-3, which does the work of the test, failed: ")
    assert all(record.exc_info for record in lines)


def test_a_thread_that_works_has_no_failures() -> None:
    some, state = started(Work(is_wrong, 0))
    assert (state.failures, state.error, state.since, state.waits) == (0, "", None, False)
    assert some.failures() == {"worker": 0}


def test_thread_with_lasts_false_may_end() -> None:
    some, _ = started(work := Work(returns, 0), lasts=False)
    work.stop.set()
    until(lambda: some.states() == [])
    assert some.failures() == {"worker": 0}


def test_thread_that_waits_for_its_restart_has_the_error_as_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PAUSE", 30.0)
    some = Threads()
    some.start("worker", "does the work of the test", Work(is_wrong, 1))
    until(lambda: some.states()[0].waits)
    (state,) = some.states()
    assert (state.failures, state.error) == (1, "KeyError: 'EndpointID'")
    assert state.since is not None


def test_pauses_grow_with_failures_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: dict[int, list[float]] = defaultdict(list)  # the thread of an earlier test may pause now, too

    def pause(seconds: float) -> None:
        pauses[threading.get_ident()].append(seconds)

    monkeypatch.setattr(threads, "_PAUSE", 1.0)
    monkeypatch.setattr(threads, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    started(work := Work(is_wrong, 9))
    assert pauses[work.thread] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("essential", "stopped"), [(True, 1), (False, 0)])
def test_an_essential_thread_that_keeps_failing_has_the_process_stopped_once(
    essential: bool, stopped: int
) -> None:
    some, stops = Threads(), []
    some.stop = lambda: stops.append(1)
    work = Work(is_wrong, 8)
    some.start("worker", "does the work of the test", work, essential=essential)
    assert work.works.wait(120)
    assert (some.hopeless, len(stops)) == (essential, stopped)


def test_context_of_a_failed_run_is_discarded() -> None:
    said: ContextVar[str] = ContextVar("said", default="nothing")
    seen = []

    def fail() -> None:
        seen.append(said.get())
        said.set("something")
        raise OSError

    started(Work(fail, 3))
    assert seen == ["nothing"] * 3


def test_the_kernel_knows_a_thread_by_its_name() -> None:
    some = Threads()
    names: list[str] = []
    done = threading.Event()

    def read_name() -> None:
        with open(f"/proc/self/task/{threading.get_native_id()}/comm") as file:  # noqa: PTH123
            names.append(file.read().strip())
        done.set()

    some.start("a name of more than 15 letters", "looks", read_name, lasts=False)
    assert done.wait(120)
    assert names == ["a name of more"]
