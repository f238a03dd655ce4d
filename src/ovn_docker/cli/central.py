"""``ovn-docker central``: step 1 of the guide, the machine that keeps OVN's databases.

OVN's northbound database holds the networks that Docker has made, its southbound database the tasks of each
host, and ovn-northd translates one into the other. Hosts reach the first on port 6641, the second on 6642.
"""

import argparse

from ovn_docker.cli import backup
from ovn_docker.cli.arguments import add_command, add_tls_files, address, addresses, require_root, tls_files
from ovn_docker.enrolment.tokens import TokenStore
from ovn_docker.errors import BadRequest, Unavailable
from ovn_docker.setup.barrier_steps import remove_barrier
from ovn_docker.setup.central import ovn_ctl
from ovn_docker.setup.central.central_identity import is_new, make_identity
from ovn_docker.setup.central.central_services import any_running, stop_daemons
from ovn_docker.setup.central.central_start import CentralSettings, start_central
from ovn_docker.setup.central.central_status import CentralStatus, central_status
from ovn_docker.setup.central.enrolment_daemon import command_to_join, stop_enrolment
from ovn_docker.setup.certificates import DIRECTORY as AUTHORITY
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import OWN_DIRECTORY, OWN_FILES
from ovn_docker.text.output import print_json, print_table, say

_DAY = 24 * 3600.0
"""Seconds that the first token is valid."""

START = """\
Start ovn-northd and the two databases, and make them listen on TCP ports 6641 and 6642.
A machine that listens already keeps what is not given. Another one makes an authority for its cluster and a
certificate, listens with TLS and access control, answers hosts that join on port 6645, and prints the
command to type on each host. With --plain, or on a loopback address, there is no TLS, as in OVN's guide:
every machine that reaches the ports can then read and change all networks.

Addresses and TLS files are in /etc/default/ovn-central, on Fedora and openSUSE in /etc/sysconfig/ovn-northd.
The distribution's units and this command start the daemons with it. Rows of the databases, which hosts can
write (ovn-nbctl set-connection, set-ssl), do not change them.

With --cluster the databases are kept by several machines, three or five, and work as long as more than half
of them do. Run the same command on each, first and with --create on one of them, which keeps the networks
that it has. A machine that has lost its disk joins again with the same command.

examples:
  ovn-docker central start
  ovn-docker central start --address 10.0.0.1
  ovn-docker central start --plain                on all addresses, without TLS, as the guide does
  ovn-docker central start --tls /etc/ovn-docker/tls --rbac
  ovn-docker central start --cluster 10.0.0.1,10.0.0.2,10.0.0.3 --tls /etc/ovn-docker/tls --rbac --create
  ovn-docker central start --cluster 10.0.0.1,10.0.0.2,10.0.0.3 --tls /etc/ovn-docker/tls --rbac
"""
STOP = """\
Stop ovn-northd and the two databases. Networks stay in the databases; running containers keep their network.
The next start uses the same addresses and TLS files, unless --reset is given.

examples:
  ovn-docker central stop
  ovn-docker central stop --reset
"""
STATUS = """\
Show the daemons and where they listen; of a cluster its members, with the leader, the time since each was
heard from, and how many entries of the log it is behind (the leader knows them of all members, another member
its own). Exit code 0: all is up; 3: something is not.

examples:
  ovn-docker central status
  ovn-docker central status --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add start, stop, backup, restore and status to the parser of ``ovn-docker central``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parser = add_command(commands, "start", "start the databases and ovn-northd", START, start)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--address",
        type=address,
        metavar="IP",
        help="listen on this address of the machine only (0.0.0.0 means all IPv4 addresses, :: all)",
    )
    where.add_argument(
        "--cluster",
        type=addresses,
        metavar="IP,IP,IP",
        help="the machines that keep the databases together; one of the addresses is this machine's",
    )
    parser.add_argument(
        "--create", action="store_true", help="with --cluster: make the cluster, instead of joining it"
    )
    parser.add_argument(
        "--plain", action="store_true", help="listen without TLS where this machine has no listener so far"
    )
    parser.add_argument(
        "--rbac",
        action=argparse.BooleanOptionalAction,
        help="let a host change only its own rows of the southbound database, by the name in its certificate",
    )
    add_tls_files(parser, "this machine")
    parser = add_command(commands, "stop", "stop the databases and ovn-northd", STOP, stop)
    parser.add_argument(
        "--reset",
        action="store_true",
        help="remove addresses and TLS files from the file of options",
    )
    backup.add_backup_arguments(
        add_command(
            commands, "backup", "copy the northbound database to a file", backup.BACKUP, backup.backup
        )
    )
    backup.add_restore_arguments(
        add_command(commands, "restore", "restore the northbound database", backup.RESTORE, backup.restore)
    )
    parser = add_command(commands, "status", "show the daemons and where they listen", STATUS, status)
    parser.add_argument("--json", action="store_true", help="print JSON")


def start(args: argparse.Namespace) -> int:
    """Start the daemons that do not run, with the listeners of the command line."""
    require_root()
    steps, tls, rbac = Steps(dry_run=args.dry_run), tls_files(args), args.rbac
    if args.plain and (tls or args.cluster):
        raise BadRequest("--plain means without TLS: give it without TLS options and --cluster")
    new = not (tls or args.cluster or args.create or args.plain) and is_new(args.address)
    if new:
        make_identity(steps, args.address)
        if steps.dry_run:
            steps.advise(f"then as with: ovn-docker central start --tls {OWN_DIRECTORY} --rbac")
            return steps.finish()
        tls, rbac = OWN_FILES, rbac is not False
    settings = CentralSettings(args.address, tuple(args.cluster or ()), args.create, tls, rbac)
    start_central(steps, settings)
    if new:
        say("on each host, within 24 hours (later: ovn-docker token create), type:")
        say(f"    {command_to_join(str(TokenStore(AUTHORITY).create(_DAY, None)))}")
    return steps.finish()


def stop(args: argparse.Namespace) -> int:
    """Stop the daemons, with --reset remove their options."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    stop_enrolment(steps)
    if any_running():
        stop_daemons(steps)
    if args.reset:
        ovn_ctl.clear(steps)
    remove_barrier(steps)
    return steps.finish()


def status(args: argparse.Namespace) -> int:
    """Print a line for each daemon, and for each member of a cluster; return 3 when one is not up."""
    require_root()
    found = central_status()
    if args.json:
        clusters = {database.schema: member for database, member in found.clusters.items()}
        print_json({"parts": found.parts, "clusters": clusters})
    else:
        print_table([(part.part, part.process, part.state) for part in found.parts])
        _print_members(found)
    return 0 if found.is_up else Unavailable.exit_code


def _print_members(status: CentralStatus) -> None:
    """Print a line for each member of each cluster."""
    lines: list[tuple[str, ...]] = [("DATABASE", "MEMBER", "ID", "ROLE", "HEARD", "BEHIND")]
    for database, found in status.clusters.items():
        if found is None:
            continue
        lines += [(database.title, one.address, one.sid, *found.about(one)) for one in found.servers]
        if not found.joined:
            say(f"the {database.title} has no leader: more than half of its members must be up and connected")
    if len(lines) > 1:
        say()
        print_table(lines)
