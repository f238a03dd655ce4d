"""``ovn-docker gc``: show and remove what is left of containers, networks and hosts that are gone."""

import argparse
import os
import sys
import time
from collections.abc import Mapping

from ovn_docker import settings as table
from ovn_docker.backends.neutron import login
from ovn_docker.backends.neutron.openrc import VIF, vif
from ovn_docker.cli import forget
from ovn_docker.cli.arguments import add_dry_run, describe, require_root
from ovn_docker.deadline import Deadline
from ovn_docker.doctor.comparison import absent_hosts, differences
from ovn_docker.errors import BadRequest, Conflict, NotFound, OvnDockerError
from ovn_docker.host.environment import environment
from ovn_docker.model import Difference
from ovn_docker.settings import UnderlaySettings
from ovn_docker.setup.hosts.host_removal import DATABASE_TIME
from ovn_docker.text.output import print_json, print_table, say
from ovn_docker.text.printable import command
from ovn_docker.text.prompt import is_confirmed

TEXT = """\
Compare what should exist (the networks of this host's Docker, its running containers) with OVN or Neutron,
Open vSwitch and the kernel, and show leftovers and missing rows. The driver repairs both by itself (see its
--repair): all at its start, missing rows and leftovers on this host within a minute. An address that another
container has got meanwhile stays there; a command to repair that is shown.

If the driver runs, it makes the comparison, because it knows Docker's calls in flight; otherwise everything
that is younger than a minute is left alone. Only objects of this host, or of no host, are touched; with
--host the objects of a host that is gone for good, as with `ovn-docker host forget`.

Exit code 0: no differences (any more); 1: differences; 3: the comparison was not possible, such as without
Docker.

examples:
  ovn-docker gc
  ovn-docker gc --repair
  ovn-docker gc --host host7
"""

_TIMEOUT = 120.0
"""Seconds that Neutron may take to list or remove what a VM has left."""

HEADER = ("WHAT", "", "WHERE", "SINCE", "WHY", "REPAIR")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``ovn-docker gc``."""
    describe(parser, TEXT, run)
    parser.add_argument("--repair", action="store_true", help="remove leftovers, make missing rows again")
    parser.add_argument(
        "--host",
        metavar="SYSTEM-ID",
        help="remove what a host that is gone for good has left; a VM is given by the ID of its port",
    )
    forget.add_confirmation_options(parser.add_argument_group("with --host"))
    add_dry_run(parser)


def run(args: argparse.Namespace) -> int:
    """Show the differences on this host; with --repair, repair them first."""
    require_root()
    if args.host is not None:
        if args.repair:
            raise BadRequest("--repair is for this host, --host for one that is gone: leave one of them out")
        variables = environment(os.environ)
        return forget_vm(args, variables) if variables.get(VIF) else forget.run(args)
    cleared = differences(repair=True) if args.repair and not args.dry_run else []
    found = differences()
    if args.json:
        print_json({"found": found, "cleared": cleared, "absent_hosts": absent_hosts()})
        return 1 if found else 0
    lines = [line(one, "made again" if one.missing else "cleared") for one in cleared]
    lines += [line(one, cure(one)) for one in found]
    if lines:
        print_table([HEADER, *lines])
    else:
        say("nothing is left over, and nothing is missing")
    for host in absent_hosts():
        named = (f"--host={host}",) if host.startswith("-") else ("--host", host)
        forgotten = command("ovn-docker", "gc", *named)
        say(f"{host} does not run, as OVN has it; if it is gone for good: {forgotten}")
    return 1 if found else 0


def forget_vm(args: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Remove what a VM that is gone for good has left in Neutron; the VM is given by the ID of its port.

    Raises Conflict if the VM runs, BadRequest if it is this VM.
    """
    gone = vif({VIF: args.host})
    if gone == vif(variables):
        raise BadRequest(f"{gone} is this VM's own port; run this in another VM, when this one is gone")
    settings = table.read(UnderlaySettings, {}, variables)
    backend = login.underlay(settings.parent, {**variables, VIF: gone})
    if not args.force and backend.is_up(Deadline(DATABASE_TIME)):
        raise Conflict(f"the VM with port {gone} is up in Neutron; stop it, or give --force")
    found = backend.belongings(Deadline(_TIMEOUT))
    people = sys.stderr if args.json else sys.stdout
    if args.json:
        print_json({"found": found})
    elif found:
        print_table([HEADER, *(line(one, one.cure) for one in found)])
    if not found:
        raise NotFound(f"no ports or networks of a VM with the port {gone}; see: openstack port list")
    if args.dry_run:
        say(f"would remove {len(found)}", file=people)
        return 0
    if not (args.yes or is_confirmed(f"remove what VM {gone} has left")):
        raise OvnDockerError("nothing was removed; confirm it, or give --yes")
    for one in found:
        backend.forget(one, Deadline(_TIMEOUT))
    say(f"removed {len(found)}", file=people)
    return 0


def cure(one: Difference) -> str:
    """Return the cure of a difference, with the command if the driver cannot repair it."""
    return f"{one.cure}: {command(*one.command)}" if one.command else one.cure


def line(one: Difference, repair: str) -> tuple[str, ...]:
    """Return a line of the table."""
    when = "" if one.since is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.since))
    return one.kind, one.shown, one.where, when, one.why, repair
