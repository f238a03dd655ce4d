"""``ovn-docker network``: remove a shared network from all hosts, wait until this host has one."""

import argparse
import sys

from ovn_docker.cli.arguments import add_dry_run, describe, require_root
from ovn_docker.errors import OvnDockerError
from ovn_docker.setup.hosts.network_removal import network_removal, wait_for_network
from ovn_docker.text.output import print_json, print_table, say
from ovn_docker.text.prompt import is_confirmed

TEXT = """\
Shared networks, made with -o ovn.network=NAME. `docker network rm` on a host removes a shared network from
that host, and from the cluster only if no container of another host, running or stopped, belongs to it.
"""

REMOVE = """\
Remove a shared network from all hosts, after a list of the hosts that have it and of their use of it, and a
question. A network is refused while containers, running or stopped, belong to it; with --force the hosts with
stopped containers remove it at once, and those with running ones as soon as these have stopped.

examples:
  ovn-docker network rm foo
  ovn-docker network rm foo --force --yes
"""

WAIT = """\
Return when this host's Docker has the network: right after `docker network create` on another host, a
`docker run` here may be a second too early.

examples:
  ovn-docker network wait foo && docker run --rm --net foo busybox true
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add rm and wait to the parser of ``ovn-docker network``."""
    parser.description = TEXT
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser(
        "rm", help="remove a network from all hosts of the cluster", allow_abbrev=False
    )
    describe(command, REMOVE, remove)
    _add_name(command)
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--force", action="store_true", help="also if containers belong to it")
    add_dry_run(command)
    command = commands.add_parser(
        "wait", help="wait until this host's Docker has a network", allow_abbrev=False
    )
    describe(command, WAIT, wait)
    _add_name(command)
    command.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="SECONDS", help="give up then (default 30)"
    )


def remove(args: argparse.Namespace) -> int:
    """Print the hosts that have the network, ask, remove it."""
    require_root()
    people = sys.stderr if args.json else sys.stdout
    with network_removal(args.name) as removal:
        if args.json:
            print_json({"hosts": removal.users})
        elif removal.users:
            used = {True: "containers belong to it", False: "no containers"}
            print_table(
                [("HOST", "USE"), *((host, used[use]) for host, use in sorted(removal.users.items()))]
            )
        if not args.force:
            removal.require_unused()
        if args.dry_run:
            say(f"would remove network {args.name}", file=people)
            return 0
        if not (args.yes or is_confirmed(f"remove network {args.name} from {len(removal.users)} hosts")):
            raise OvnDockerError("nothing was removed; confirm it, or give --yes")
        removal.remove(force=args.force)
    say(f"removed network {args.name}", file=people)
    return 0


def wait(args: argparse.Namespace) -> int:
    """Wait until this host's Docker has the network."""
    name, network = wait_for_network(args.name, args.timeout)
    if args.json:
        print_json({"name": name, "id": network})
    return 0


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NETWORK", help="the name in the cluster: -o ovn.network=NAME")


def _seconds(text: str) -> float:
    """Return a time in seconds, from 0 to a day; an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"invalid time {text[:20]!r}: give seconds, from 0 to 86400")
    return value
