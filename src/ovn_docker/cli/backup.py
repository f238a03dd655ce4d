"""``ovn-docker central backup`` and ``restore``: the northbound database in a file, and back."""

import argparse
from pathlib import Path

from ovn_docker.cli.arguments import require_root
from ovn_docker.errors import OvnDockerError
from ovn_docker.setup.central import copies, database_backup
from ovn_docker.setup.central.copies import Contents
from ovn_docker.setup.central.database_backup import Restoration
from ovn_docker.setup.databases import NORTHBOUND
from ovn_docker.setup.steps import Steps
from ovn_docker.text.output import print_table, say
from ovn_docker.text.printable import first_of, printable
from ovn_docker.text.prompt import is_confirmed

BACKUP = """\
Write a copy of the northbound database (networks, ports, addresses) to a file, which only root can read.
The copy is consistent, and can be made while everything runs; of a cluster on any member. An older file of
that name is replaced when the new copy is complete.

example:
  ovn-docker central backup /root/northbound.backup
"""
RESTORE = """\
Make the northbound database equal to a copy, in one transaction: rows that are missing come back, rows that
differ are changed, rows made since are removed. Rows keep their identity, by which ovn-docker recognises its
own, and running containers that are in the copy keep their network. The copy may also be one that
`ovsdb-client backup` made. The databases run meanwhile; of a cluster run this on any one member.

The listeners of the databases (tables Connection and SSL) stay as they are. The southbound database is not in
the copy: ovn-northd computes it again, and hosts write their rows there.

Unless the database is empty, the changes are shown first, and have to be confirmed. On a machine that has
lost its database type this before `ovn-docker central start`, with or without --cluster and --create:
it makes the file that the server starts with, and hosts never see an empty database.

examples:
  ovn-docker central restore /root/northbound.backup --dry-run
  ovn-docker central restore /root/northbound.backup
  ovn-docker central restore /root/northbound.backup --force
"""

_NAMES = 20
"""Names of networks that are printed."""

_COUNTED = {"Logical_Switch": "network", "Logical_Switch_Port": "port"}


def add_backup_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file to write."""
    parser.add_argument("file", type=Path, metavar="FILE", help="where to write the copy")


def add_restore_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file to read, and the option that skips the question."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the copy")
    parser.add_argument("--force", action="store_true", help="do not ask, even if the database has networks")


def backup(args: argparse.Namespace) -> int:
    """Write a copy and print what it has."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    copy = database_backup.back_up(steps, args.file)
    if copy:
        say(f"the copy has {_counts(copy)}")
    return steps.finish()


def restore(args: argparse.Namespace) -> int:
    """Print the changes, ask, and make them."""
    require_root()
    copy = copies.read(args.file)
    if not database_backup.has_northbound():
        made = f"make {printable(str(NORTHBOUND.file))} of {printable(str(args.file))}, with {_counts(copy)}"
        database_backup.make_northbound(copy, dry_run=args.dry_run)
        say(f"{'would ' if args.dry_run else ''}{made}, for the next `ovn-docker central start`")
        return 0
    found = database_backup.compare(copy)
    if not found.operations:
        say("nothing to change: the database has the contents of the copy")
        return 0
    _print_changes(found)
    if args.dry_run:
        say("would restore the northbound database")
        return 0
    if found.now.in_use and not args.force and not is_confirmed("restore the northbound database"):
        raise OvnDockerError("nothing was restored; confirm it, or give --force")
    database_backup.restore(found)
    say(
        "restored the northbound database; `ovn-nbctl --wait=hv sync` returns when all hosts have the changes"
    )
    return 0


def _print_changes(found: Restoration) -> None:
    say(f"the copy has {_counts(found.copy)}, the northbound database {_counts(found.now)}")
    print_table(
        [
            ("TABLE", "NEW", "CHANGED", "REMOVED"),
            *((one.table, str(one.made), str(one.changed), str(one.removed)) for one in found.changes),
        ]
    )
    for verb, names in (("come back", found.lost_networks()), ("are removed", found.new_networks())):
        if names:
            say(f"networks that {verb}: {first_of(printable(names), _NAMES)}")


def _counts(contents: Contents) -> str:
    """Return numbers of networks, ports and rows, such as ``1 network, 12 ports, 87 rows``."""
    counts = [(len(contents.rows.get(table, {})), what) for table, what in _COUNTED.items()]
    rows = sum(map(len, contents.rows.values()))
    return ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in [*counts, (rows, "row")])
