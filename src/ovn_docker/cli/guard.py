"""Whatever becomes of a move, the machine has a network afterwards.

The operator is often logged in over the very interface that is moved. Before the first change the state is
written to a file, the journal, and a *guard* is started, a process of its own: if the journal is still there
when the process that moves ends, however it ends, the guard restores what is in it.
"""

import argparse
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from ovn_docker.cli.bridge import Journal, Salvage, restore
from ovn_docker.cli.clients import Client
from ovn_docker.cli.output import say
from ovn_docker.cli.uplink import Uplink
from ovn_docker.errors import Conflict, OvnDockerError, Unavailable
from ovn_docker.host.places import booted_with_systemd

STATE = Path("/run/ovn-docker")


def journal_path(interface: str) -> Path:
    """Where the journal of a move in progress is; it goes with a reboot, as addresses and routes do."""
    return STATE / f"underlay-{interface}.json"


def confirmation_path(interface: str) -> Path:
    """The file that says yes."""
    return STATE / f"underlay-{interface}.confirmed"


def write(journal: Journal) -> None:
    """Returns when it is where the guard finds it."""
    path = journal_path(journal.interface)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(asdict(journal)), encoding="utf-8")
    unfinished.replace(path)


def read(path: Path) -> Journal:
    """Raises FileNotFoundError if there is none, Unavailable if it is of no use."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        known = {
            "uplink": Uplink(**fields["uplink"]),
            "clients": [Client(**one) for one in fields["clients"]],
        }
        return Journal(**(fields | known))
    except (KeyError, TypeError, ValueError):
        raise Unavailable(
            f"{path} cannot be used, another version may have written it; see that the interface has what it "
            "had, remove the file, and run this again"
        ) from None


@contextmanager
def lock(interface: str) -> Iterator[int]:
    """Be the only one at work on an interface; the guard holds the lock too, as long as it lives.

    Raises:
        Conflict: somebody else is.

    """
    STATE.mkdir(mode=0o755, exist_ok=True)
    held = os.open(STATE / f"underlay-{interface}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"a move of {interface} is under way, or is being put back; wait a minute, or add --confirm"
            ) from None
        yield held
    finally:
        os.close(held)


@contextmanager
def guarded(journal: Journal, held: int, patience: float) -> Iterator[None]:
    """Whatever happens inside, the host has a network afterwards: kept as it is at the end, or put back.

    It may take *patience* seconds.

    While it lasts, the end of the session (SIGHUP) does not end this process.
    """
    write(journal)
    try:
        protection, lifeline = start_guard(journal, held, patience)
    except BaseException:
        journal_path(journal.interface).unlink(missing_ok=True)
        raise
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            yield
        except BaseException as error:
            with suppress(OSError):
                say(f"putting back what {journal.interface} had: {_cause(error)}", flush=True)
            put_back(journal)
            raise
        journal_path(journal.interface).unlink(missing_ok=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(lifeline)
        protection.wait()


def _terminate(*_: object) -> NoReturn:
    raise OvnDockerError("terminated; all is as it was before")


def _cause(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)


def start_guard(journal: Journal, held: int, patience: float) -> tuple["subprocess.Popen[bytes]", int]:
    """Start the process that puts everything back should this one die: it watches a pipe, the lifeline.

    It is in a session of its own, and where systemd runs the machine in a scope of its own: logind may end
    all processes of a login session (logind.conf(5), KillUserProcesses).
    Raises Unavailable if it does not start.
    """
    scope = ["systemd-run", "--scope", "--collect", "--quiet"] if booted_with_systemd() else []
    # -I: else Python looks for all modules in the current directory first.
    argv = [sys.executable, "-I", "-m", "ovn_docker.cli.main", "underlay", "guard"]
    watched, lifeline = os.pipe()
    ready, answer = os.pipe()
    with (STATE / f"underlay-{journal.interface}.log").open("wb") as log:
        process = subprocess.Popen(
            [*scope, *argv, str(journal_path(journal.interface)), str(patience)],
            stdin=watched,
            stdout=answer,
            stderr=log,
            pass_fds=[held],
            start_new_session=True,
        )
    os.close(watched)
    os.close(answer)
    with os.fdopen(ready, "rb") as said:
        if said.readline() == b"ready\n":
            return process, lifeline
    os.close(lifeline)
    raise Unavailable(f"the guard of this move did not start, so nothing was changed; see {log.name}")


def watch(args: argparse.Namespace) -> int:
    """The guard: waits for the end of its parent, or loses patience; restores if there is a journal."""
    parent = os.pidfd_open(os.getppid())
    journal = read(args.journal)
    os.write(1, b"ready\n")
    os.dup2(2, 1)
    over, _, _ = select.select([0], [], [], args.patience)
    if args.journal.exists():
        if not over:  # it hangs; if it is over, it is dead, and whoever is our parent by now is somebody else
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(parent, signal.SIGKILL)
        put_back(journal)
    return 0


def put_back(journal: Journal) -> None:
    """Restores what the journal says, as far as it can, and forgets it."""
    steps = Salvage()
    restore(steps, journal)
    journal_path(journal.interface).unlink(missing_ok=True)
    for failure in steps.failures:
        say(f"warning: {failure}", file=sys.stderr, flush=True)
