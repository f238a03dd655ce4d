"""``ovn-docker gc --host``, also called ``host forget``: give back what a host has that is gone for good."""

import argparse
import difflib
import os
import sys
from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack, closing, suppress

from ovn_docker import settings as table
from ovn_docker.backends.forget import (
    Belonging,
    answers,
    at_work_elsewhere,
    belongings,
    finish_removals,
    forget,
    registered,
)
from ovn_docker.backends.leftovers import Leftovers
from ovn_docker.backends.northbound import Northbound
from ovn_docker.cli import setup
from ovn_docker.cli.arguments import require_root
from ovn_docker.cli.output import print_json, print_table, say
from ovn_docker.cli.steps import run_directory
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, NotFound, OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.environment import environment
from ovn_docker.host.ovsdb import Database
from ovn_docker.host.vswitch import START, Vswitch
from ovn_docker.model import Chassis, Tls
from ovn_docker.printable import command
from ovn_docker.settings import Settings

TEXT = """\
Removes what a host that is gone for good has left in the northbound database: the ports of its containers,
their addresses, which others may have then, its pools, and its networks. Those of the cluster stay, unless
they were removed elsewhere and waited for this host alone; so do those that others have attached to. Run it
on any other host. The same is `ovn-docker gc --host SYSTEM-ID`.

A host that is alive is refused: OVN asks its ovn-controller. One that is only cut off looks as if it
were gone. When it is back, its driver makes again within a minute what its running containers need, except
for addresses that others have been given: for these it logs which container to restart.

examples:
  ovn-docker host forget host7
  ovn-docker host forget 3f6c1a52-8d7e-4e4b-9d0f-2a8f6a0f7c11 --yes
"""

PATIENCE = 10.0
"""Seconds that a database may take."""

ANSWER = 5.0
"""Seconds that a host gets to answer."""

_SHOWN = 20
"""Known hosts that the error for an unknown one lists."""

CURE = "start it on that host with: ovn-docker central start, or say --force"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the host, and the ways around questions."""
    parser.add_argument(
        "host", metavar="SYSTEM-ID", help="the host: its external_ids:system-id, see `ovn-sbctl show`"
    )
    add_ways_around(parser)


def add_ways_around(parser: argparse._ActionsContainer) -> None:
    """Adds the options of who does not want to be asked."""
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--force", action="store_true", help="do not find out whether the host is alive")


def run(args: argparse.Namespace) -> int:
    """Shows what the host has, asks, removes it."""
    require_root()
    people = sys.stderr if getattr(args, "json", False) else sys.stdout  # --json is an option of gc
    with ExitStack() as connections:
        local = local_database()
        connections.callback(local.close)
        chassis = Vswitch(local).chassis(Deadline(2))
        if args.host == chassis.system_id:
            raise BadRequest(f"{args.host} is this host; run this on another one, when this one is gone")
        connect = northbound_database()
        northbound = connect(chassis)
        connections.callback(northbound.close)

        found = belongings(northbound, args.host, Deadline(PATIENCE))
        show(found, json=getattr(args, "json", False))
        if not found:
            if not args.dry_run:
                finish_removals(connect, chassis, Deadline(PATIENCE))  # that an interrupted call left undone
            check_known(args.host, hosts(connect, chassis))
        if args.dry_run or not found:
            say(f"would remove {count(found)}" if found else "nothing to change", file=people)
            return 0
        if not args.force:
            southbound = southbound_database(northbound.tls)
            connections.callback(southbound.close)
            if still_listed(args.host, northbound, southbound):
                tail = f"OVN lists it until you type: {command('ovn-sbctl', 'chassis-del', args.host)}"
                say(f"{args.host} does not answer; {tail}", file=people)
            found = without_those_at_work(args.host, found, southbound)
        if not (args.yes or confirmed(f"remove {count(found)} of {args.host}")):
            raise OvnDockerError("nothing was removed; confirm it, or say --yes")
        forget(northbound, args.host, found, Deadline(PATIENCE))
        finish_removals(connect, chassis, Deadline(PATIENCE))
    say(f"removed {count(found)}", file=people)
    return 0


def show(found: list[Belonging], *, json: bool) -> None:
    """Print the rows of a host."""
    if json:
        print_json({"found": found})
    elif found:
        print_table([("WHAT", "", "LOGICAL SWITCH"), *map(line, found)])


def check_known(host: str, known: Collection[str]) -> None:
    """Raise NotFound unless *host* is one of those that OVN or our rows know, such as for a typing error."""
    if host in known:
        return
    nearest = difflib.get_close_matches(host, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "see `ovn-sbctl show`"
    shown = ", ".join(sorted(known)[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    raise NotFound(
        f"unknown host {host!r}: OVN does not know it, and nothing is stored of it; {hint} "
        f"(known hosts: {shown or 'none'})"
    )


def hosts(connect: Northbound, chassis: Chassis) -> set[str]:
    """System-ids of the hosts that have something stored, and of those that OVN knows, if it can be asked."""
    known = Leftovers(connect).hosts(chassis, Deadline(PATIENCE)) | {chassis.system_id}
    with suppress(OvnDockerError), closing(southbound_database(connect(chassis).tls)) as southbound:
        (rows,) = southbound.transact(ovsdb.select("Chassis", columns=["name"]), deadline=Deadline(PATIENCE))
        known |= {row["name"] for row in rows}
    return known


def local_database() -> Database:
    """The connection to this host's Open vSwitch."""
    return Database("Open_vSwitch", [f"unix:{run_directory('openvswitch')}/db.sock"], START)


def northbound_database() -> Northbound:
    """The northbound database with the TLS files of this host's driver, if it was given its own."""
    return Northbound(table.read(Settings, {}, environment(os.environ)).tls)


def line(one: Belonging) -> tuple[str, str, str]:
    """A row of the table; of Docker's IDs as much as Docker shows."""
    what, switch = (text[:12] if len(text) == 64 else text for text in (one.what, one.switch_name))
    return one.kind, what, switch


def count(found: list[Belonging]) -> str:
    """Such as ``3 ports, 6 claims, 1 note``."""
    kinds = Counter(one.kind for one in found)
    return ", ".join(f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in kinds.items())


def southbound_database(tls: Tls | None) -> Database:
    """The connection to the southbound database, where ovn-controller finds it."""
    ids = setup.open_vswitch("external_ids")["external_ids"]
    remotes = [remote.strip() for remote in ids.get("ovn-remote", "").split(",")]
    if not any(remotes):
        raise Unavailable(
            "the Open_vSwitch database does not have ovn-remote; run `ovn-docker host setup`, or say --force"
        )
    return Database("OVN_Southbound", remotes, CURE, tls)


def still_listed(host: str, northbound: Database, southbound: Database) -> bool:
    """Whether OVN lists the host, though it does not answer. Raises Conflict if it is alive."""
    if not registered(southbound, host, Deadline(PATIENCE)):
        return False
    if answers(northbound, southbound, host, Deadline(ANSWER)):
        raise Conflict(
            f"{host} is alive: its ovn-controller answers; stop it there with `ovn-docker host stop`, "
            "or say --force"
        )
    return True


def without_those_at_work(host: str, found: list[Belonging], southbound: Database) -> list[Belonging]:
    """Those of some rows whose containers no other host has; says what is left out."""
    elsewhere = at_work_elsewhere(southbound, host, found, Deadline(PATIENCE))
    if elsewhere:
        say(
            f"note: {len(elsewhere)} rows that say they are of {host} stay, for another host has their "
            "containers; find out who wrote that",
            file=sys.stderr,
        )
    return [one for one in found if one.row not in elsewhere]


def confirmed(what: str) -> bool:
    """Whether the user says yes; without a user it is no. Asks on standard error: the output may be JSON."""
    sys.stdout.flush()  # what is asked for stands there
    say(f"{what}? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline() if sys.stdin else ""  # closed by the shell: <&-
    if not answer.endswith("\n"):
        say(file=sys.stderr)
    return answer.strip().lower() in {"y", "yes"}
