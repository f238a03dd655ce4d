"""Protection of a move: the host has its network afterwards, however the move ends.

The operator is often logged in over the very interface that is moved. Before the first change the journal is
written and a *guard* is started, a process of its own: if the journal still exists when the process that
moves ends, in whatever manner, the guard restores the network that the journal describes.
"""

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from ovn_docker.errors import Conflict, OvnDockerError, Unavailable
from ovn_docker.host.places import booted_with_systemd
from ovn_docker.text.output import say
from ovn_docker.uplink import journal as journals
from ovn_docker.uplink.journal import STATE, Journal, confirmation_path, journal_path
from ovn_docker.uplink.stages import RestoreSteps, restore


@contextmanager
def locked(interface: str) -> Iterator[int]:
    """Lock an interface, and restore it if an earlier move was interrupted; yield the lock's descriptor.

    The guard holds the lock too, as long as it lives.

    Raises:
        Conflict: another process holds the lock.

    """
    STATE.mkdir(mode=0o755, exist_ok=True)
    lock = os.open(STATE / f"underlay-{interface}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"a move of {interface} is under way or is being undone; wait a minute, or add --confirm"
            ) from None
        with suppress(FileNotFoundError):
            earlier = journals.read(journal_path(interface))
            say(f"an earlier move of {interface} was interrupted; restoring {interface}")
            _restore_journal(earlier)
        confirmation_path(interface).unlink(missing_ok=True)
        yield lock
    finally:
        os.close(lock)


@contextmanager
def guarded(journal: Journal, lock: int, seconds: float) -> Iterator[None]:
    """Guard the body: if it raises, or this process ends, or *seconds* pass, the journal is restored.

    Within the body the end of the session (SIGHUP) does not end this process.
    """
    journals.write(journal)
    try:
        process, lifeline = _start_guard(journal, lock, seconds)
    except BaseException:
        journals.remove(journal)
        raise
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            yield
        except BaseException as error:
            with suppress(OSError):
                say(f"restoring {journal.interface}: {_cause(error)}", flush=True)
            _restore_journal(journal)
            raise
        journals.remove(journal)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(lifeline)
        process.wait()


def watch(path: Path, seconds: float) -> None:
    """Wait, as the guard, for the end of the parent, or for *seconds*; then restore a journal at *path*."""
    parent = os.pidfd_open(os.getppid())
    journal = journals.read(path)
    os.write(1, b"ready\n")
    os.dup2(2, 1)
    ended, _, _ = select.select([0], [], [], seconds)
    if path.exists():
        if not ended:  # it hangs; had it ended, the process that is our parent by now would be another one
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(parent, signal.SIGKILL)
        _restore_journal(journal)


def _start_guard(journal: Journal, lock: int, seconds: float) -> tuple["subprocess.Popen[bytes]", int]:
    """Start the guard; return it and a descriptor whose end, at the latest with this process, it waits for.

    The guard is in a session of its own, and where systemd runs the machine in a scope of its own: logind may
    end all processes of a login session (logind.conf(5), KillUserProcesses).

    Raises:
        Unavailable: the guard does not start.

    """
    scope = ["systemd-run", "--scope", "--collect", "--quiet"] if booted_with_systemd() else []
    # -I: else Python looks for all modules in the current directory first.
    argv = [sys.executable, "-I", "-m", "ovn_docker.cli.main", "underlay", "guard"]
    watched, lifeline = os.pipe()
    ready, answer = os.pipe()
    with (STATE / f"underlay-{journal.interface}.log").open("wb") as log:
        process = subprocess.Popen(
            [*scope, *argv, str(journal_path(journal.interface)), str(seconds)],
            stdin=watched,
            stdout=answer,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,
        )
    os.close(watched)
    os.close(answer)
    with os.fdopen(ready, "rb") as output:
        if output.readline() == b"ready\n":
            return process, lifeline
    os.close(lifeline)
    raise Unavailable(f"the guard of this move did not start, so nothing was changed; see {log.name}")


def _restore_journal(journal: Journal) -> None:
    """Restore the journal as far as possible, warn of failures, and remove its file."""
    steps = RestoreSteps()
    restore(steps, journal)
    journals.remove(journal)
    for failure in steps.failures:
        say(f"warning: {failure}", file=sys.stderr, flush=True)


def _terminate(*_: object) -> NoReturn:
    raise OvnDockerError("terminated; the interface has its network again")


def _cause(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
