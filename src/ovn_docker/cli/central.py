"""``ovn-docker central``: step 1 of the guide, the machine that keeps OVN's databases.

OVN's northbound database holds what Docker asked for, its southbound database what each host has to do, and
ovn-northd turns one into the other. Hosts reach the first on port 6641 and the second on port 6642.
"""

import argparse
from collections.abc import Sequence

from ovn_docker.cli import access, backup, barrier, defaults, listeners, members, setup
from ovn_docker.cli.arguments import (
    TlsFiles,
    add_command,
    add_tls_files,
    address,
    addresses,
    require_own,
    require_root,
    tls_files,
)
from ovn_docker.cli.databases import DATABASES, OVN_CTL, SOUTHBOUND, Database
from ovn_docker.cli.listeners import Listener
from ovn_docker.cli.output import print_json, print_table, say
from ovn_docker.cli.steps import StepFailed, Steps, require, run, succeeds
from ovn_docker.errors import BadRequest, Unavailable
from ovn_docker.host.places import booted_with_systemd, find_places
from ovn_docker.host.processes import running
from ovn_docker.model import IpAddress
from ovn_docker.printable import printable

UNITS = ("ovn-central", "ovn-ovsdb-server-nb", "ovn-ovsdb-server-sb", "ovn-northd")
"""Debian's units; the last three too, because ovn-central counts as active when one of them is dead."""


START = """\
Starts ovn-northd and the two databases, and has them listen on TCP ports 6641 and 6642.
Without --address and TLS options a machine that listens already is left as it is;
one that does not listens on all IPv4 addresses, as the guide does.

Where and how they listen is in /etc/default/ovn-central, which Debian's units and this command start them
with. Rows of the databases, which hosts can write (ovn-nbctl set-connection, set-ssl), have no effect on it.

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
The next start has them listen as before, unless --reset is given.

examples:
  ovn-docker central stop
  ovn-docker central stop --reset
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
    """Adds start, stop, backup, restore and status to the parser of ``ovn-docker central``."""
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
    parser = add_command(commands, "stop", "stop them", STOP, stop)
    parser.add_argument(
        "--reset", action="store_true", help=f"forget where they listen: remove that from {defaults.DEFAULTS}"
    )
    backup.add_backup_arguments(
        add_command(
            commands, "backup", "copy the northbound database to a file", backup.BACKUP, backup.backup
        )
    )
    backup.add_restore_arguments(
        add_command(commands, "restore", "make it what a copy has", backup.RESTORE, backup.restore)
    )
    parser = add_command(commands, "status", "show what runs and where it listens", STATUS, status)
    parser.add_argument("--json", action="store_true", help="print JSON")


def start(args: argparse.Namespace) -> int:
    """Starts what is not running, and has both databases listen as their command line says."""
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
    barrier.put_up(steps)
    return steps.finish()


def _start_member(steps: Steps, cluster: members.Cluster, *, create: bool, rbac: bool | None) -> None:
    """Makes this machine a member, if it is none, and starts it."""
    members.check(cluster, create=create)
    restricted = rbac if rbac is not None else _is_restricted(steps, cluster)
    wanted = [
        listeners.checked(
            Listener(database, cluster.target(database), cluster.tls, restricted and database is SOUTHBOUND)
        )
        for database in DATABASES
    ]
    words = listeners.words(wanted, cluster.options())
    if not members.is_member() or words != defaults.configured():
        if any_running():
            stop_daemons(steps)
        members.prepare(steps, cluster, create=create)
        _configure(steps, wanted, words)
        start_daemons(steps)
    else:
        _start_what_differs(steps, wanted, words)
    members.settle(steps, cluster)
    _settle(steps, wanted, words)
    if restricted:
        setup.advise_name()


def _is_restricted(steps: Steps, cluster: members.Cluster) -> bool:
    """Whether the southbound database has access control as it is."""
    if (said := listeners.restricted_by_options()) is not None:
        return said
    if SOUTHBOUND.clustered() and not SOUTHBOUND.pid():  # a member of an earlier version: its row says it
        start_daemons(steps)
    now = listeners.now(SOUTHBOUND)
    return now.restricted if now else members.restrict(cluster.others, cluster.tls)


def _start_alone(steps: Steps, ip: IpAddress | None, files: TlsFiles | None, *, rbac: bool | None) -> None:
    """Starts databases of this machine alone; those of a cluster's member stay what they are."""
    clustered = any(database.clustered() for database in DATABASES)
    if clustered and (ip or files):
        raise BadRequest(
            "this machine is a member of a cluster: give --cluster, or neither --address nor TLS"
        )
    if clustered and not all_running() and listeners.restricted_by_options() is None:
        start_daemons(steps)  # of an earlier version: where it listens is in a row
    default = members.target if clustered else (lambda _: "")
    wanted = [
        listeners.wanted(database, ip, files, restricted=rbac, default=default(database))
        for database in DATABASES
    ]
    if rbac and wanted[-1].tls is None:
        raise BadRequest("--rbac needs TLS: it goes by the hosts' certificates; give --tls DIRECTORY")
    words = listeners.words(wanted, members.options() if clustered else {})
    if words != defaults.configured():
        _configure(steps, wanted, words)
    _start_what_differs(steps, wanted, words)
    _settle(steps, wanted, words)
    if wanted[-1].restricted:
        setup.advise_name()
    barrier.warn_without_tls(listener.target for listener in wanted)


def _configure(steps: Steps, wanted: Sequence[Listener], words: Sequence[str]) -> None:
    """Has the servers listen as wanted from their next start on, whoever starts them."""
    for listener in wanted:
        if listener.restricted and listener.database.pid():
            listeners.keep_row(steps, listener)
    defaults.write(steps, words, listeners.describe(wanted))


def _start_what_differs(steps: Steps, wanted: Sequence[Listener], words: Sequence[str]) -> None:
    """Restarts the servers that listen otherwise, one after the other, and starts what does not run."""
    for listener in wanted:
        if listener.database.pid() and not listener.followed(words):
            restart(steps, listener.database)
    if not all_running():
        start_daemons(steps)


def _settle(steps: Steps, wanted: Sequence[Listener], words: Sequence[str]) -> None:
    """Waits until the servers listen as wanted, and removes the rows by which they would otherwise."""
    for listener in wanted:
        database = listener.database
        if steps.dry_run and not database.pid():
            continue
        if listener.restricted:
            listeners.keep_row(steps, listener)
        steps.wait(
            f"listening of the {database.title} on {listener.target}",
            lambda listener=listener: listener.followed(words),  # type: ignore[misc]
            seconds=5,
            hint=f"have whatever starts ovn-ctl(8) here give it OVN_CTL_OPTS of {defaults.DEFAULTS}",
        )
        steps.wait(
            f"listening on {listener.target}",
            database.bound,
            seconds=2,
            hint=f"another program may have the port; see {database.log}",
        )
        if listener.restricted:
            access.enforce(steps, listener.target)
        listeners.remove_rows(steps, listener)


def all_running() -> bool:
    """Whether both databases and ovn-northd run."""
    return northd_pid() is not None and all(database.pid() for database in DATABASES)


def northd_pid() -> int | None:
    """The process of ovn-northd, if any."""
    return running(find_places().central / "ovn-northd.pid")


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
        steps.change(what, *ovn_ctl("start_northd"))
        hint = "see the logs in /var/log/ovn"
    steps.wait(what, all_running, seconds=15, hint=hint)
    alone = [database for database in DATABASES if not database.clustered()]
    steps.wait(what, lambda: all(database.answers() for database in alone), seconds=15, hint=hint)


def start_members(steps: Steps) -> None:
    """Starts them one by one, because ovn-ctl(8) waits half a minute for each to find a leader."""
    for database in DATABASES:
        command = ovn_ctl(f"start_{database.short}_ovsdb")
        _run_server(steps, database, f"start the {database.title}", *command)
    steps.change("start ovn-northd", *ovn_ctl("start_northd --ovn-manage-ovsdb=no"))


def restart(steps: Steps, database: Database) -> None:
    """Restarts a database's server; clients connect again at once."""
    what = f"restart the {database.title}"
    if booted_with_systemd():
        steps.change(what, "systemctl", "restart", f"ovn-ovsdb-server-{database.short}")
    else:
        _run_server(steps, database, what, *ovn_ctl(f"restart_{database.short}_ovsdb"))
    steps.wait(what, database.answers, seconds=15, hint=f"see {database.log}")


def ovn_ctl(command: str) -> tuple[str, ...]:
    """The command line of ovn-ctl(8) with the options of `defaults`, as Debian's units have it."""
    return "sh", "-c", f". {defaults.DEFAULTS}; exec {OVN_CTL} {command} $OVN_CTL_OPTS"


def _run_server(steps: Steps, database: Database, what: str, *command: str) -> None:
    """A member that finds no leader is up all the same: others may come later."""
    try:
        steps.change(what, *command)
    except StepFailed:
        if not (database.clustered() and database.pid()):
            raise


def stop(args: argparse.Namespace) -> int:
    """Stops what start started."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    if any_running():
        stop_daemons(steps)
    if args.reset:
        defaults.clear(steps)
    barrier.remove(steps)
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
    now = listeners.now(database)
    if now is None:
        text = f"does not listen on port {database.port}; run `ovn-docker central start`"
        return False, database.title, f"running (pid {pid})", text
    up, target = database.bound(), printable(now.target)
    text = f"listens on {target}" if up else f"should listen on {target} but cannot; see {database.log}"
    as_wanted, restricted = access.described(now)
    text = "; ".join(filter(None, (text, restricted, listeners.remark(database))))
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
