"""``ovn-docker central backup`` and ``restore``: the northbound database in a file, and back.

Only that has to be kept: ovn-northd computes the southbound one from it, and hosts write their rows there.
"""

import argparse
import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ovn_docker.cli import copies, forget, members
from ovn_docker.cli.arguments import require_root
from ovn_docker.cli.copies import Change, Contents
from ovn_docker.cli.databases import DATABASES, NORTHBOUND
from ovn_docker.cli.output import print_table, say
from ovn_docker.cli.steps import Steps, run
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, Unavailable
from ovn_docker.host.ovsdb import Database, Operation, OperationError
from ovn_docker.host.places import find_places
from ovn_docker.printable import command, printable

BACKUP = """\
Writes a copy of the northbound database (networks, ports, addresses) to a file, which only root can read.
The copy is consistent, and may be taken while everything runs; of a cluster on any member. A file that was
there before is replaced when the new copy is complete.

example:
  ovn-docker central backup /root/northbound.backup
"""
RESTORE = """\
Makes the northbound database what it was when the copy was made, in one transaction: what is missing comes
back, what differs is changed, what was made since is removed. Rows keep their identity, by which ovn-docker
knows its own, and running containers that are in the copy keep their network. The copy may also be one that
`ovsdb-client backup` made. The databases run meanwhile; of a cluster run this on any one member.

How the databases listen (tables Connection and SSL) stays as it is. The southbound database is not in the
copy: ovn-northd computes it again, and hosts write their rows there.

Unless the database is empty, what would change is shown first, and has to be confirmed. On a machine that
has lost its database type this before `ovn-docker central start`, with or without --cluster and --create:
it makes the file that the server starts with, and hosts never see an empty database.

examples:
  ovn-docker central restore /root/northbound.backup --dry-run
  ovn-docker central restore /root/northbound.backup
  ovn-docker central restore /root/northbound.backup --force
"""

_PARTIAL = ".ovn-docker-backup."
"""Beginning of the name of a file that is still being written."""

_TRIES = 5
"""How often to compare anew when hosts have changed rows meanwhile."""

_NAMES = 20
"""Names of networks that are shown."""


def add_backup_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the file to write."""
    parser.add_argument("file", type=Path, metavar="FILE", help="where to write the copy")


def add_restore_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the file to read, and the way around the question."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the copy")
    parser.add_argument("--force", action="store_true", help="do not ask, whatever the database has")


def backup(args: argparse.Namespace) -> int:
    """Writes a copy, checks it, and puts it in place."""
    require_root()
    path: Path = args.file
    _check_place(path)
    _require_server()
    steps = Steps(dry_run=args.dry_run)
    what = f"back up the northbound database to {printable(str(path))}"
    steps.note(what, f"{command(*_dump())} >{command(str(path))}")
    if not args.dry_run:
        say(f"the copy has {_sum(_write(path, run(_dump(), copies.SECONDS)))}")
    return steps.finish()


def restore(args: argparse.Namespace) -> int:
    """Shows what would change, asks, and changes it."""
    require_root()
    copy = copies.read(args.file)
    if not (NORTHBOUND.pid() or NORTHBOUND.file.exists()):
        return _make_file(args.file, copy, dry_run=args.dry_run)
    _require_server()
    now = _current()
    operations, changes = copies.difference(copy, now)
    if not operations:
        say("nothing to change: the database has what the copy has")
        return 0
    say(f"the copy has {_sum(copy)}, the northbound database {_sum(now)}")
    _show(changes, copy, now)
    if args.dry_run:
        say("would restore the northbound database")
        return 0
    if now.in_use and not args.force and not forget.confirmed("restore the northbound database"):
        raise OvnDockerError("nothing was restored; confirm it, or say --force")
    _commit(copy, operations)
    say(
        "restored the northbound database; `ovn-nbctl --wait=hv sync` returns when all hosts have taken it up"
    )
    return 0


def _make_file(path: Path, copy: Contents, *, dry_run: bool) -> int:
    """Makes the file of a database that this machine does not have."""
    text, file = copies.database_file(copy), NORTHBOUND.file
    what = f"make {printable(str(file))} of {printable(str(path))}, with {_sum(copy)}"
    say(f"{'would ' if dry_run else ''}{what}, for the next `ovn-docker central start`")
    if not dry_run:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, text)
    return 0


def _check_place(path: Path) -> None:
    """Raises BadRequest if the copy would take the place of something else than a copy."""
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
            raise BadRequest(f"{shown} is there and is not a copy of a database: give another file")


def _require_server() -> None:
    """Raises Unavailable unless the northbound database's server runs, and can be written."""
    if not NORTHBOUND.pid():
        raise Unavailable(
            "the northbound database does not run here; start it with: ovn-docker central start"
        )
    if NORTHBOUND.clustered() and not members.joined(NORTHBOUND):
        raise Unavailable(
            "the northbound database has no leader: more than half of its members have to be up and to reach "
            "each other; see `ovn-docker central status`"
        )


def _remote() -> str:
    """The Unix socket of the northbound database's server (ovn-ctl(8), DB_NB_SOCK)."""
    return f"unix:{find_places().central}/{NORTHBOUND.name}.sock"


def _dump() -> tuple[str, ...]:
    """The command that prints the database."""
    anyone = ("--no-leader-only",) if NORTHBOUND.clustered() else ()
    return ("ovsdb-client", f"--timeout={copies.SECONDS:g}", *anyone, "backup", _remote(), NORTHBOUND.schema)


def _write(path: Path, text: str) -> Contents:
    """Writes the file of a database; all or nothing. Returns what it has."""
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
    """Removes what runs that were killed have left: files that nobody has locked."""
    for left in directory.glob(f"{_PARTIAL}*"):
        with left.open("rb") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)


def _current() -> Contents:
    """Contents of the database now."""
    with tempfile.TemporaryDirectory(prefix="ovn-docker-restore.") as directory:
        return _write(Path(directory) / "now", run(_dump(), copies.SECONDS))


def _commit(copy: Contents, operations: list[Operation]) -> None:
    """Makes the database what the copy has, in one transaction, whatever hosts change meanwhile."""
    database = Database(NORTHBOUND.schema, [_remote()], "is it running?")
    try:
        for last in (*[False] * (_TRIES - 1), True):
            try:
                database.transact(*operations, deadline=Deadline(copies.SECONDS))
            except OperationError as error:
                if last:
                    raise Conflict(f"nothing was restored: {error}; try again") from None
            else:
                return
            operations, _ = copies.difference(copy, _current())
    finally:
        database.close()


def _show(changes: list[Change], copy: Contents, now: Contents) -> None:
    print_table(
        [
            ("TABLE", "NEW", "CHANGED", "REMOVED"),
            *((one.table, str(one.made), str(one.changed), str(one.removed)) for one in changes),
        ]
    )
    for what, some, others in (("come back", copy, now), ("are removed", now, copy)):
        switches = some.rows.get("Logical_Switch", {})
        names = sorted(
            str(switches[uuid].get("name", ""))
            for uuid in switches.keys() - others.rows["Logical_Switch"].keys()
        )
        if names:
            more = f" and {len(names) - _NAMES} more" if names[_NAMES:] else ""
            say(f"networks that {what}: {printable(', '.join(names[:_NAMES]))}{more}")


def _sum(contents: Contents) -> str:
    """Numbers of networks, ports and rows, such as ``1 network, 12 ports, 87 rows``."""
    counts = [(len(contents.rows.get(table, {})), what) for table, what in _COUNTED.items()]
    rows = sum(map(len, contents.rows.values()))
    return ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in [*counts, (rows, "row")])


_COUNTED = {"Logical_Switch": "network", "Logical_Switch_Port": "port"}
