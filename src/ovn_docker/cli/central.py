"""``ovn-docker central``: step 1 of the guide, the machine that keeps OVN's databases.

OVN's northbound database holds what Docker asked for, its southbound database what each host has to do, and
ovn-northd turns one into the other. Hosts reach the first on port 6641 and the second on port 6642.
"""

import argparse
import re
import sys

from ovn_docker.cli import access, members
from ovn_docker.cli.arguments import (
    TlsFiles,
    add_command,
    add_tls_files,
    address,
    addresses,
    current_tls,
    in_url,
    require_own,
    require_root,
    tls_files,
)
from ovn_docker.cli.databases import DATABASES, OVN_CTL, SOUTHBOUND, Database
from ovn_docker.cli.output import print_json, print_table, say
from ovn_docker.cli.steps import (
    StepFailed,
    Steps,
    booted_with_systemd,
    require,
    run,
    run_directory,
    running,
    succeeds,
)
from ovn_docker.errors import BadRequest, Unavailable
from ovn_docker.model import IpAddress

UNITS = ("ovn-central", "ovn-ovsdb-server-nb", "ovn-ovsdb-server-sb", "ovn-northd")
"""Debian's units; the last three too, because ovn-central counts as active when one of them is dead."""


START = """\
Starts ovn-northd and the two databases, and has them listen on TCP ports 6641 and 6642.
Without --address and TLS options a machine that listens already is left as it is;
one that does not listens on all IPv4 addresses, as the guide does.

With --cluster the databases are kept by several machines, three or five, and work as long as more than half
of them do. Run the same command on each, first and with --create on one of them, which keeps the networks
that it has. A machine that has lost its disk joins again with the same command.

examples:
  ovn-docker central start                        on all addresses, without TLS
  ovn-docker central start --address 10.0.0.1
  ovn-docker central start --tls /etc/ovn-docker/tls --rbac
  ovn-docker central start --cluster 10.0.0.1,10.0.0.2,10.0.0.3 --tls /etc/ovn-docker/tls --rbac --create
  ovn-docker central start --cluster 10.0.0.1,10.0.0.2,10.0.0.3 --tls /etc/ovn-docker/tls --rbac
"""
STOP = """\
Stops ovn-northd and the two databases. Networks stay in the databases; running containers keep their network.

example:
  ovn-docker central stop
"""
STATUS = """\
Shows what runs and where it listens; of a cluster its members, who leads, when each was heard from, and how
many entries of the log it is behind (the leader knows of all members, another one of itself).
Exit code 0: all is up; 3: something is not.

examples:
  ovn-docker central status
  ovn-docker central status --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds start, stop and status to the parser of ``ovn-docker central``."""
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
        "--rbac",
        action=argparse.BooleanOptionalAction,
        help="let a host change only its own rows of the southbound database, by the name in its certificate",
    )
    add_tls_files(parser, "this machine")
    add_command(commands, "stop", "stop them", STOP, stop)
    parser = add_command(commands, "status", "show what runs and where it listens", STATUS, status)
    parser.add_argument("--json", action="store_true", help="print JSON")


def start(args: argparse.Namespace) -> int:
    """Starts what is not running, then makes both databases listen."""
    require_root()
    require("ovn-northd")
    if args.create and not args.cluster:
        raise BadRequest("--create is for --cluster: name the machines that keep the databases together")
    steps = Steps(dry_run=args.dry_run)
    files = tls_files(args)
    if args.address and not args.address.is_unspecified:
        require_own("--address", args.address)
    if args.cluster:
        _start_member(steps, members.plan(args.cluster, files), create=args.create, rbac=args.rbac)
    else:
        _start_alone(steps, args.address, files, rbac=args.rbac)
    if args.rbac is not None:
        access.turn(steps, on=args.rbac)
    return steps.finish()


def _start_member(steps: Steps, cluster: members.Cluster, *, create: bool, rbac: bool | None) -> None:
    """Makes this machine a member, if it is none, and starts it."""
    members.check(cluster, create=create)
    if members.outdated(cluster):
        if any_running():
            stop_daemons(steps)
        members.prepare(steps, cluster, create=create)
    if steps.changed or not all_running():
        start_daemons(steps)
    members.settle(steps, cluster)
    for database in DATABASES:
        known = database.answers()
        listen(steps, database, cluster.target(database), known=known, rbac=rbac)


def _start_alone(steps: Steps, ip: IpAddress | None, files: TlsFiles | None, *, rbac: bool | None) -> None:
    """Starts databases of this machine alone; those of a cluster's member stay what they are."""
    clustered = any(database.clustered() for database in DATABASES)
    if clustered and (ip or files):
        raise BadRequest(
            "this machine is a member of a cluster: give --cluster, or neither --address nor TLS"
        )
    if rbac and not files:
        now = SOUTHBOUND.listening() if SOUTHBOUND.answers() else None
        access.check(now[1] if now else "")
    if not all_running():
        start_daemons(steps)
    exposed = False
    for database in DATABASES:
        # In a dry run a database that is down cannot be asked; a new one listens nowhere.
        known = database.answers()
        if files:
            set_tls(steps, database, files, known=known)
        old = database.listening() if known else None
        new = wanted_target(database.port, old[1] if old else None, ip, tls=files is not None)
        listen(steps, database, new, known=known, rbac=rbac)
        exposed = exposed or re.fullmatch(r"ptcp:\d+(:0\.0\.0\.0|:\[::\])?", new) is not None
    if exposed:
        say(
            "warning: anybody who can reach ports 6641 and 6642 of this machine can change the network; "
            "limit them with --address, or use TLS (--tls DIRECTORY, see ovn-docker pki)",
            file=sys.stderr,
        )


def all_running() -> bool:
    """Whether both databases and ovn-northd run."""
    return northd_pid() is not None and all(database.pid() for database in DATABASES)


def northd_pid() -> int | None:
    """The process of ovn-northd, if any."""
    return running(run_directory("ovn") / "ovn-northd.pid", "ovn-northd")


def start_daemons(steps: Steps) -> None:
    """Starts ovn-northd and both database servers, by systemd where it runs the machine."""
    what = "start ovn-northd and the northbound and southbound databases"
    if booted_with_systemd():
        steps.change(what, "systemctl", "start", *UNITS)
        hint = "see `journalctl -u ovn-northd -u ovn-ovsdb-server-nb -u ovn-ovsdb-server-sb`"
    elif any(database.clustered() for database in DATABASES):
        hint = "see the logs in /var/log/ovn"
        start_members(steps)
    else:
        steps.change(what, OVN_CTL, *members.configured(), "start_northd")
        hint = "see the logs in /var/log/ovn"
    steps.wait(what, all_running, seconds=15, hint=hint)
    alone = [database for database in DATABASES if not database.clustered()]
    steps.wait(what, lambda: all(database.answers() for database in alone), seconds=15, hint=hint)


def start_members(steps: Steps) -> None:
    """Starts them one by one, because ovn-ctl(8) waits half a minute for each to find a leader.

    A member that finds none is up all the same: others may come later.
    """
    options = members.configured()
    for database in DATABASES:
        try:
            command = f"start_{database.short}_ovsdb"
            steps.change(f"start the {database.title}", OVN_CTL, *options, command)
        except StepFailed:
            if not database.pid():
                raise
    steps.change("start ovn-northd", OVN_CTL, *options, "--ovn-manage-ovsdb=no", "start_northd")


def set_tls(steps: Steps, database: Database, files: TlsFiles, *, known: bool) -> None:
    """Gives a database its key and certificates, unless it has these already."""
    if known and files == current_tls(database.control):
        return
    steps.change(f"set key and certificates of the {database.title}", database.control, "set-ssl", *files)


def listen(steps: Steps, database: Database, new: str, *, known: bool, rbac: bool | None) -> None:
    """Makes a database listen on its port, touching no connection but the one on that port.

    *rbac*: from the first moment a new connection restricts hosts.
    """
    existing = database.listening() if known else None
    uuid, old, _ = existing or (None, None, None)
    if new == old:
        return
    what = f"let the {database.title} listen: {old or '(nowhere)'} -> {new}"
    role = [f"role={access.ROLE}"] if rbac and database is SOUTHBOUND else []
    if uuid:  # the row keeps its other settings, such as inactivity_probe
        steps.change(what, *database.tool, "set", "Connection", uuid, f'target="{new}"')
    elif known and database.connections():
        steps.change(
            what, *database.tool, "--id=@c", "create", "Connection", f'target="{new}"', *role,
            "--", "add", database.root, ".", "connections", "@c",
        )  # fmt: skip
    else:
        steps.change(what, *database.tool, "set-connection", *role, new)
    steps.wait(
        f"listening on {new}",
        database.bound,
        seconds=2,
        hint=f"another program may have the port; see {database.log}",
    )


def wanted_target(port: int, old: str | None, ip: IpAddress | None, *, tls: bool) -> str:
    """The connection method to listen with (ovsdb(7), "Passive Connection Methods").

    What is not asked for stays as it is: TLS is never turned off, and no address is widened.
    """
    method, _, rest = (old or f"ptcp:{port}").partition(":")
    _, _, host = rest.partition(":")
    if tls:
        method = "pssl"
    if ip is not None:
        host = in_url(ip)
    return ":".join(part for part in (method, str(port), host) if part)


def stop(args: argparse.Namespace) -> int:
    """Stops what start started."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    if any_running():
        stop_daemons(steps)
    return steps.finish()


def stop_daemons(steps: Steps) -> None:
    """Stops ovn-northd and both database servers, by whomever they were started."""
    what = "stop ovn-northd and the northbound and southbound databases"
    if booted_with_systemd():
        steps.change(what, "systemctl", "stop", *UNITS)
        if steps.dry_run:
            return
    if any_running():  # without systemd, or started by hand
        steps.change(what, OVN_CTL, "stop_northd")


def any_running() -> bool:
    """Whether a database or ovn-northd runs."""
    return northd_pid() is not None or any(database.pid() for database in DATABASES)


def status(args: argparse.Namespace) -> int:
    """Prints a line for each part, and for each member of a cluster; 3 when one is not up."""
    require_root()
    lines = [database_status(database) for database in DATABASES]
    lines.append(northd_status())
    clusters = {database: members.membership(database) for database in DATABASES if database.clustered()}
    healthy = [found is not None and found.healthy for found in clusters.values()]
    if args.json:
        parts = [dict(zip(("up", "part", "process", "state"), line, strict=True)) for line in lines]
        print_json({"parts": parts, "clusters": {one.schema: found for one, found in clusters.items()}})
    else:
        print_table([line[1:] for line in lines])
        print_members(clusters)
    return 0 if all([*(line[0] for line in lines), *healthy]) else Unavailable.exit_code


def print_members(clusters: dict[Database, members.Membership | None]) -> None:
    """A line for each member of each cluster."""
    lines: list[tuple[str, ...]] = [("DATABASE", "MEMBER", "ID", "ROLE", "HEARD", "BEHIND")]
    for database, found in clusters.items():
        if found is None:
            continue
        lines += [(database.title, one.address, one.sid, *found.about(one)) for one in found.servers]
        if not found.joined:
            say(f"the {database.title} has no leader: more than half of its members must be up and connected")
    if len(lines) > 1:
        say()
        print_table(lines)


def database_status(database: Database) -> tuple[bool, str, str, str]:
    """Whether a database is up, then its line: name, process, where it listens."""
    pid = database.pid()
    if pid is None:
        return False, database.title, "not running", "start it with `ovn-docker central start`"
    if not database.answers():
        return False, database.title, f"running (pid {pid})", "does not answer on its Unix socket"
    connection = database.listening()
    if connection is None:
        text = f"does not listen on port {database.port}; run `ovn-docker central start`"
        return False, database.title, f"running (pid {pid})", text
    _, target, role = connection
    up = database.bound()
    text = f"listens on {target}" if up else f"should listen on {target} but cannot; see {database.log}"
    as_wanted, restricted = access.described(target, role)
    text = "; ".join(filter(None, (text, restricted)))
    return up and as_wanted, database.title, f"running (pid {pid})", text


def northd_status() -> tuple[bool, str, str, str]:
    """Whether ovn-northd is up, then its line; ``status`` of ovn-northd(8) says active, standby or paused."""
    pid = northd_pid()
    if pid is None:
        return False, "ovn-northd", "not running", "start it with `ovn-docker central start`"
    if not succeeds("ovn-appctl", "-T", "2", "-t", "ovn-northd", "status"):
        return False, "ovn-northd", f"running (pid {pid})", "does not answer"
    said = run(("ovn-appctl", "-T", "2", "-t", "ovn-northd", "status")).strip().removeprefix("Status: ")
    return said in ("active", "standby"), "ovn-northd", f"running (pid {pid})", said
