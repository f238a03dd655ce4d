"""The northbound database of this machine: a copy of it in a file, and its restoration from a copy.

A copy of the northbound database is enough: ovn-northd computes the southbound one from it, and hosts write
their rows there again.
"""

import fcntl
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, Unavailable
from ovn_docker.host.ovsdb import Database, Operation, OperationError
from ovn_docker.host.places import find_places
from ovn_docker.host.run import run
from ovn_docker.setup.central import copies, raft
from ovn_docker.setup.central.copies import Change, Contents
from ovn_docker.setup.databases import DATABASES, NORTHBOUND
from ovn_docker.setup.steps import Steps
from ovn_docker.text.printable import command, printable

_PARTIAL = ".ovn-docker-backup."
"""Beginning of the name of a file that is still being written."""

_TRIES = 5
"""Attempts to restore, each with a new comparison, while hosts change rows."""


@dataclass(frozen=True)
class Restoration:
    """The difference between a copy and the northbound database, and the operations that remove it."""

    copy: Contents
    now: Contents
    operations: list[Operation]
    changes: list[Change]

    def lost_networks(self) -> list[str]:
        """Return the names of the networks that are only in the copy."""
        return _networks_only_in(self.copy, self.now)

    def new_networks(self) -> list[str]:
        """Return the names of the networks that are not in the copy."""
        return _networks_only_in(self.now, self.copy)


def back_up(steps: Steps, path: Path) -> Contents | None:
    """Write a copy to *path*, check it, and return its contents; ``None`` in a dry run.

    Raises:
        BadRequest: the file would replace something other than a copy.
        Unavailable: the database does not run or has no leader, or the file cannot be written.

    """
    _check_place(path)
    _require_server()
    what = f"back up the northbound database to {printable(str(path))}"
    steps.show(what, f"{command(*_dump())} >{command(str(path))}")
    return None if steps.dry_run else _write(path, run(_dump(), copies.SECONDS))


def has_northbound() -> bool:
    """Return whether this machine has a northbound database, running or not."""
    return bool(NORTHBOUND.pid() or NORTHBOUND.file.exists())


def make_northbound(copy: Contents, *, dry_run: bool) -> None:
    """Write the file of the northbound database of a machine that has none, for the next start of its server.

    Raises:
        BadRequest: the copy has rows that do not fit OVN's schema here; also in a dry run.

    """
    text, file = copies.database_file(copy), NORTHBOUND.file
    if not dry_run:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, text)


def compare(copy: Contents) -> Restoration:
    """Return the difference between a copy and the northbound database of this machine.

    Raises:
        BadRequest: the copy has rows that do not fit the schema of the database.
        Unavailable: the database does not run or has no leader.

    """
    _require_server()
    now = _current()
    return Restoration(copy, now, *copies.difference(copy, now))


def restore(restoration: Restoration) -> None:
    """Make the database equal to the copy, in one transaction; compare again if hosts change rows meanwhile.

    Raises:
        Conflict: rows changed during every attempt.

    """
    database = Database(NORTHBOUND.schema, [_remote()], "is it running?")
    operations = restoration.operations
    try:
        for last in (*[False] * (_TRIES - 1), True):
            try:
                database.transact(*operations, deadline=Deadline(copies.SECONDS))
            except OperationError as error:
                if last:
                    raise Conflict(f"nothing was restored: {error}; try again") from None
            else:
                return
            operations, _ = copies.difference(restoration.copy, _current())
    finally:
        database.close()


def _networks_only_in(some: Contents, others: Contents) -> list[str]:
    switches = some.rows.get("Logical_Switch", {})
    only = switches.keys() - others.rows.get("Logical_Switch", {}).keys()
    return sorted(str(switches[uuid].get("name", "")) for uuid in only)


def _check_place(path: Path) -> None:
    """Raise BadRequest if the copy would replace something other than a copy."""
    shown = printable(str(path))
    if not path.parent.is_dir():
        raise BadRequest(f"{shown}: there is no directory {printable(str(path.parent))}; make it")
    for database in DATABASES:
        with suppress(OSError):
            if path.samefile(database.file):
                raise BadRequest(f"{shown} is the {database.title} itself: give another file")
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise BadRequest(f"{shown} is not a regular file: give another one")
    with suppress(FileNotFoundError), path.open("rb") as file:
        begin = file.read(6)
        if begin and begin != b"OVSDB ":
            raise BadRequest(f"{shown} exists and is not a copy of a database: give another file")


def _require_server() -> None:
    """Raise Unavailable unless the northbound database's server runs, and accepts changes."""
    if not NORTHBOUND.pid():
        raise Unavailable(
            "the northbound database does not run here; start it with: ovn-docker central start"
        )
    if NORTHBOUND.clustered() and not raft.joined(NORTHBOUND):
        raise Unavailable(
            "the northbound database has no leader: more than half of its members have to be up and to reach "
            "each other; see `ovn-docker central status`"
        )


def _remote() -> str:
    """Return the Unix socket of the northbound database's server (ovn-ctl(8), DB_NB_SOCK)."""
    return f"unix:{find_places().central}/{NORTHBOUND.name}.sock"


def _dump() -> tuple[str, ...]:
    """Return the command that prints the database."""
    anyone = ("--no-leader-only",) if NORTHBOUND.clustered() else ()
    return ("ovsdb-client", f"--timeout={copies.SECONDS:g}", *anyone, "backup", _remote(), NORTHBOUND.schema)


def _write(path: Path, text: str) -> Contents:
    """Write the file of a database, all or nothing; return its contents."""
    try:
        _remove_partial(path.parent)
        number, name = tempfile.mkstemp(prefix=_PARTIAL, dir=path.parent)  # mode 0600
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                contents = copies.load(Path(name))
                Path(name).replace(path)
        except BaseException:
            Path(name).unlink()
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise Unavailable(f"cannot write {printable(str(path))}: {error.strerror}") from None
    return contents


def _remove_partial(directory: Path) -> None:
    """Remove the partial files of runs that were killed: those that no process has locked."""
    for left in directory.glob(f"{_PARTIAL}*"):
        with left.open("rb") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)


def _current() -> Contents:
    """Return the contents of the database now."""
    with tempfile.TemporaryDirectory(prefix="ovn-docker-restore.") as directory:
        return _write(Path(directory) / "now", run(_dump(), copies.SECONDS))
