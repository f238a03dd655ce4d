"""``ovn-docker network``: remove a network of the cluster everywhere, wait until it is here."""

import argparse
import sys
import time
from contextlib import closing

from ovn_docker.backends.shared import SharedNetworks
from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.cli.forget import confirmed, local_database, northbound_database
from ovn_docker.cli.output import print_json, print_table, say
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, NotFound, OvnDockerError, TimedOut, Unavailable
from ovn_docker.host.engine import Engine
from ovn_docker.host.places import find_places
from ovn_docker.host.vswitch import Vswitch
from ovn_docker.spelling import hint

TEXT = """\
Networks of the cluster, those made with -o ovn.network=NAME. `docker network rm` on a host removes one from
that host, and from the cluster only if no container of another host, running or stopped, belongs to it.
"""

REMOVE = """\
Removes a network of the cluster from all hosts. Shows which hosts have it and whether containers of theirs
belong to it, and asks. It is refused while containers, running or stopped, belong to it; with --force the
hosts with stopped containers remove it at once, and those with running ones as soon as these have stopped.

examples:
  ovn-docker network rm foo
  ovn-docker network rm foo --force --yes
"""

WAIT = """\
Returns when this host's Docker has the network: right after `docker network create` on another host, a
`docker run` here may be a second too early.

examples:
  ovn-docker network wait foo && docker run --rm --net foo busybox true
"""

PATIENCE = 10.0
"""Seconds that the database may take."""

PAUSE = 0.2
"""Seconds between two looks at Docker's networks."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds ``rm`` and ``wait``."""
    parser.description = TEXT
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary, text, run in (
        ("rm", "remove a network from all hosts of the cluster", REMOVE, remove),
        ("wait", "wait until this host's Docker has a network", WAIT, wait),
    ):
        command = commands.add_parser(name, help=summary, allow_abbrev=False)
        describe(command, text, run)
        command.add_argument("name", metavar="NETWORK", help="the name in the cluster: -o ovn.network=NAME")
        if run is remove:
            command.add_argument("--yes", action="store_true", help="do not ask")
            command.add_argument("--force", action="store_true", help="also if containers belong to it")
            command.add_argument(
                "--dry-run", action="store_true", help="print what would change, change nothing"
            )
        else:
            command.add_argument(
                "--timeout", type=seconds, default=30.0, metavar="SECONDS", help="give up then (default 30)"
            )


def seconds(text: str) -> float:
    """A time in seconds, from 0 to a day. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"invalid time {text[:20]!r}: give seconds, from 0 to 86400")
    return value


def remove(args: argparse.Namespace) -> int:
    """Shows who has the network, asks, marks it as removed."""
    require_root()
    with closing(local_database()) as local:
        chassis = Vswitch(local).chassis(Deadline(2))
        connect = northbound_database()
        with closing(connect(chassis)):
            shared = SharedNetworks(connect)
            known = {one.name for one in shared.networks(chassis, Deadline(PATIENCE))}
            if args.name not in known:
                cure = hint(args.name, known) or "see `ovn-docker ls`"
                raise NotFound(f"no network {args.name!r} in the cluster: {cure}")
            users = shared.users(args.name, chassis, Deadline(PATIENCE))
            if args.json:
                print_json({"hosts": users})
            elif users:
                used = {True: "containers belong to it", False: "no containers"}
                print_table([("HOST", "USE"), *((host, used[use]) for host, use in sorted(users.items()))])
            if (needed := sorted(host for host in users if users[host])) and not args.force:
                raise Conflict(
                    f"containers, running or stopped, belong to network {args.name} on {', '.join(needed)}: "
                    "remove them, or give --force"
                )
            people = sys.stderr if args.json else sys.stdout
            if args.dry_run:
                say(f"would remove network {args.name}", file=people)
                return 0
            if not (args.yes or confirmed(f"remove network {args.name} from {len(users)} hosts")):
                raise OvnDockerError("nothing was removed; confirm it, or give --yes")
            shared.remove(args.name, chassis, Deadline(PATIENCE), force=args.force)
    say(f"removed network {args.name}", file=people)
    return 0


def wait(args: argparse.Namespace) -> int:
    """Polls Docker until it lists the network. Raises TimedOut."""
    deadline, engine, problem = Deadline(args.timeout), Engine(find_places().docker), ""
    while True:
        try:
            for network in engine.networks():
                if network.shared == args.name:
                    if args.json:
                        print_json({"name": network.shared, "id": network.id})
                    return 0
            problem = ""
        except Unavailable as error:
            problem = f": {error}"
        if not deadline.left():
            raise TimedOut(
                f"this host's Docker does not have network {args.name} after {args.timeout:g} s{problem}; "
                "see `ovn-docker doctor`, and `ovn-docker ls` for the networks of the cluster"
            )
        time.sleep(min(PAUSE, deadline.left()))
