"""``ovn-docker gc``: what is left of containers, networks and hosts that are gone, and its end."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from ovn_docker import settings as table
from ovn_docker.backends.forget import absent
from ovn_docker.backends.leftovers import Leftovers
from ovn_docker.backends.northbound import Northbound
from ovn_docker.backends.openrc import VIF, vif
from ovn_docker.backends.overlay import Overlay
from ovn_docker.backends.remake import Remaker
from ovn_docker.cli import forget, login
from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.cli.output import print_json, print_table, say
from ovn_docker.deadline import Deadline
from ovn_docker.driver import Backend, Driver, Patience
from ovn_docker.errors import BadRequest, Conflict, NotFound, OvnDockerError
from ovn_docker.host.driver import order
from ovn_docker.host.engine import Engine
from ovn_docker.host.environment import environment
from ovn_docker.host.links import Links
from ovn_docker.host.places import find_places
from ovn_docker.host.vswitch import VmBridge, Vswitch
from ovn_docker.model import Chassis, Difference, Kind
from ovn_docker.printable import command
from ovn_docker.reconcile import Reconciler, Store
from ovn_docker.settings import Common, Settings, UnderlaySettings

TEXT = """\
Compares what should be on this host (the networks of its Docker, the containers that run) with what is in
OVN or Neutron, in Open vSwitch and in the kernel, and shows what should not be, and what is missing in OVN.
The driver mends that by itself (see its --repair): at its start, and within a minute what is missing and
what has left a trace on this host. An address that another container has been given meanwhile stays there;
for that there is a command.

The driver is asked if it runs, for it knows which of Docker's calls are under way; without one, what is
younger than a minute is left alone. Only what belongs to this host is touched, or to no host at all; with
--host what a host that is gone for good has left, which is what `ovn-docker host forget` does.

Exit code 0: all is as it should be (by now); 1: it is not; 3: nobody can tell, such as without Docker.

examples:
  ovn-docker gc
  ovn-docker gc --repair
  ovn-docker gc --host host7
"""

GRACE = 60.0
"""Seconds for which, without a driver that knows the calls under way, all that is younger is left alone."""

PATIENCE = 120.0
"""Seconds that the driver may take."""

HEADER = ("WHAT", "", "WHERE", "SINCE", "WHY", "REPAIR")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``ovn-docker gc``."""
    describe(parser, TEXT, run)
    parser.add_argument(
        "--repair", action="store_true", help="clear what should not be, make again what is missing"
    )
    parser.add_argument(
        "--host",
        metavar="SYSTEM-ID",
        help="clear what a host has left that is gone for good; a VM is known by its port's ID",
    )
    forget.add_ways_around(parser.add_argument_group("with --host"))
    parser.add_argument("--dry-run", action="store_true", help="print what would change, change nothing")


def run(args: argparse.Namespace) -> int:
    """Looks, with --repair clears, and prints what there is and was."""
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
        say(f"{host} is not up, says OVN; if it is gone for good: {forgotten}")
    return 1 if found else 0


def differences(*, repair: bool = False, patience: float = PATIENCE) -> list[Difference]:
    """What should not be, or with *repair* what should not have been: the driver's word if it runs.

    Raises OvnDockerError if nobody can tell.
    """
    places = find_places()
    said = order("gc/repair" if repair else "gc/show", patience, places.plugin, places.vswitch)
    if said is not None:
        return [
            Difference(**{**row, "kind": Kind(row["kind"]), "command": tuple(row.get("command", ()))})
            for row in json.loads(said)
        ]
    with reconciler() as own:
        return own.repair_everywhere() if repair else own.look_everywhere()


@contextmanager
def reconciler() -> Iterator[Reconciler]:
    """The driver's own comparison, without a driver. Raises OvnDockerError if it cannot be made."""
    variables = environment(os.environ)
    with ExitStack() as connections:
        local = forget.local_database()
        connections.callback(local.close)
        local.knock()
        switch: Vswitch
        backend: Backend
        store: Store
        settings: Common
        remaker = None
        if variables.get(VIF):
            settings = of_vm = table.read(UnderlaySettings, {}, variables)
            switch = VmBridge(local, of_vm.bridge, vif(variables))
            backend = store = login.underlay(of_vm.parent, variables)
        else:
            settings = of_host = table.read(Settings, {}, variables)
            northbound = Northbound(of_host.tls)
            switch, backend, store = Vswitch(local), Overlay(northbound), Leftovers(northbound)
            remaker = Remaker(northbound)
        driver = Driver(backend, switch, Links(), lambda: None, Patience())
        docker = Engine(settings.docker)
        parts = driver, backend, store, switch, Links(), docker
        yield Reconciler(*parts, GRACE, remaker=remaker, alone=False)


def forget_vm(args: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Clears what a VM that is gone for good has left in Neutron: known by the ID of its port.

    Raises Conflict if the VM runs, BadRequest if it is this one.
    """
    gone = vif({VIF: args.host})
    if gone == vif(variables):
        raise BadRequest(f"{gone} is this VM's own port; run this in another VM, when this one is gone")
    settings = table.read(UnderlaySettings, {}, variables)
    backend, chassis = login.underlay(settings.parent, {**variables, VIF: gone}), Chassis(gone)
    if not args.force and backend.is_up(Deadline(forget.PATIENCE)):
        raise Conflict(f"the VM with port {gone} is up, says Neutron; stop it, or say --force")
    found = backend.belongings(chassis, Deadline(PATIENCE))
    people = sys.stderr if args.json else sys.stdout
    if args.json:
        print_json({"found": found})
    elif found:
        print_table([HEADER, *(line(one, one.cure) for one in found)])
    if not found:
        raise NotFound(f"nothing is stored of a VM with the port {gone}; see: openstack port list")
    if args.dry_run:
        say(f"would remove {len(found)}", file=people)
        return 0
    if not (args.yes or forget.confirmed(f"remove what VM {gone} has left")):
        raise OvnDockerError("nothing was removed; confirm it, or say --yes")
    for one in found:
        backend.forget(one, chassis, Deadline(PATIENCE))
    say(f"removed {len(found)}", file=people)
    return 0


def absent_hosts() -> list[str]:
    """Hosts that have something in the northbound database and are not up, as far as OVN can tell now."""
    if environment(os.environ).get(VIF):
        return []
    with ExitStack() as connections:
        try:
            local = forget.local_database()
            connections.callback(local.close)
            local.knock()
            chassis = Vswitch(local).chassis(Deadline(forget.PATIENCE))
            northbound = forget.northbound_database()
            hosts = Leftovers(northbound).hosts(chassis, Deadline(forget.PATIENCE))
            southbound = forget.southbound_database(northbound(chassis).tls)
            connections.callback(southbound.close)
            return absent(southbound, hosts, Deadline(forget.PATIENCE))
        except OvnDockerError:
            return []  # this is not what was asked for


def cure(one: Difference) -> str:
    """Cure of a difference, with the command if the driver cannot mend it."""
    return f"{one.cure}: {command(*one.command)}" if one.command else one.cure


def line(one: Difference, repair: str) -> tuple[str, ...]:
    """A row of the table."""
    when = "" if one.since is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.since))
    return one.kind, one.shown, one.where, when, one.why, repair
