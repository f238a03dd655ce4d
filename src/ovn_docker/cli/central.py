"""``ovn-docker central``: step 1 of the guide, the machine that keeps OVN's databases.

OVN's northbound database holds what Docker asked for, its southbound database what each host has to do, and
ovn-northd turns one into the other. Hosts reach the first on port 6641 and the second on port 6642.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ovn_docker.cli.arguments import (
    TlsFiles,
    add_command,
    add_tls_files,
    address,
    current_tls,
    in_url,
    require_own,
    require_root,
    tls_files,
)
from ovn_docker.cli.steps import (
    Steps,
    booted_with_systemd,
    print_table,
    require,
    rows,
    run,
    run_directory,
    running,
    succeeds,
)
from ovn_docker.errors import Unavailable

OVN_CTL = "/usr/share/ovn/scripts/ovn-ctl"
UNITS = ("ovn-central", "ovn-ovsdb-server-nb", "ovn-ovsdb-server-sb", "ovn-northd")
"""Debian's units; the last three too, because ovn-central counts as active when one of them is dead."""


@dataclass(frozen=True)
class Database:
    """One of OVN's two databases on this machine."""

    title: str
    control: str
    """Its command-line tool."""
    root: str
    """The table whose only row lists the connections."""
    name: str
    """What its pidfile and socket are called."""
    port: int
    """TCP port of the guide and of ovn-nb(5), ovn-sb(5)."""
    log: str

    def pid(self) -> int | None:
        """The process that serves it, if any."""
        return running(run_directory("ovn") / f"{self.name}.pid", "ovsdb-server")

    def bound(self) -> bool:
        """Whether its process, and no other, has the port (ss(8))."""
        return f"pid={self.pid()}," in run(("ss", "-Hltnp", f"sport = :{self.port}"))

    def answers(self) -> bool:
        """Whether it answers on its Unix socket."""
        return succeeds(self.control, "--timeout=2", "get-connection")

    def connections(self) -> list[tuple[str, str]]:
        """UUID and target of every Connection row."""
        found = rows(self.control, "--timeout=10", "--columns=_uuid,target", "list", "Connection")
        return [(row["_uuid"], row["target"]) for row in found]

    def listening(self) -> tuple[str, str] | None:
        """UUID and target of the connection that listens on our port, or None."""
        return next((c for c in self.connections() if re.match(rf"p(tcp|ssl):{self.port}(:|$)", c[1])), None)


NORTHBOUND = Database(
    "northbound database", "ovn-nbctl", "NB_Global", "ovnnb_db", 6641, "/var/log/ovn/ovsdb-server-nb.log"
)
SOUTHBOUND = Database(
    "southbound database", "ovn-sbctl", "SB_Global", "ovnsb_db", 6642, "/var/log/ovn/ovsdb-server-sb.log"
)
DATABASES = (NORTHBOUND, SOUTHBOUND)

START = """\
Starts ovn-northd and the two databases, and has them listen on TCP ports 6641 and 6642.
Without --address and TLS options a machine that listens already is left as it is;
one that does not listens on all IPv4 addresses, as the guide does.

examples:
  ovn-docker central start                        on all addresses, without TLS
  ovn-docker central start --address 10.0.0.1
  ovn-docker central start --private-key /etc/ovn/key.pem --certificate /etc/ovn/cert.pem \\
      --ca-cert /etc/ovn/ca.pem
"""
STOP = """\
Stops ovn-northd and the two databases. Networks stay in the databases; running containers keep their network.

example:
  ovn-docker central stop
"""
STATUS = """\
Shows what runs and where it listens. Exit code 0: all is up; 3: something is not.

example:
  ovn-docker central status
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds start, stop and status to the parser of ``ovn-docker central``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parser = add_command(commands, "start", "start the databases and ovn-northd", START, start)
    parser.add_argument(
        "--address",
        type=address,
        metavar="IP",
        help="listen on this address of the machine only (0.0.0.0 means all IPv4 addresses, :: all)",
    )
    add_tls_files(parser, "this machine")
    add_command(commands, "stop", "stop them", STOP, stop)
    add_command(commands, "status", "show what runs and where it listens", STATUS, status)


def start(args: argparse.Namespace) -> int:
    """Starts what is not running, then makes both databases listen."""
    require_root()
    require("ovn-northd")
    steps = Steps(dry_run=args.dry_run)
    files = tls_files(args)
    if args.address and not args.address.is_unspecified:
        require_own("--address", args.address)
    if not all_running():
        start_daemons(steps)
    exposed = False
    for database in DATABASES:
        # In a dry run a database that is down cannot be asked; a new one listens nowhere.
        known = database.answers()
        if files:
            set_tls(steps, database, files, known=known)
        exposed = listen(steps, database, args.address, tls=files is not None, known=known) or exposed
    if exposed:
        print(
            "warning: anybody who can reach ports 6641 and 6642 of this machine can change the network; "
            "limit them with --address, or use TLS (--private-key, --certificate, --ca-cert)",
            file=sys.stderr,
        )
    return steps.finish()


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
    else:
        steps.change(what, OVN_CTL, "start_northd")
        hint = "see the logs in /var/log/ovn"
    steps.wait(
        what,
        lambda: all_running() and all(database.answers() for database in DATABASES),
        seconds=15,
        hint=hint,
    )


def set_tls(steps: Steps, database: Database, files: TlsFiles, *, known: bool) -> None:
    """Gives a database its key and certificates, unless it has these already."""
    if known and files == current_tls(database.control):
        return
    steps.change(f"set key and certificates of the {database.title}", database.control, "set-ssl", *files)


def listen(
    steps: Steps, database: Database, ip: IPv4Address | IPv6Address | None, *, tls: bool, known: bool
) -> bool:
    """Makes a database listen on its port, touching no connection but the one on that port.

    Returns whether everybody who reaches this machine can then use it: no TLS, all addresses.
    """
    existing = database.listening() if known else None
    uuid, old = existing or (None, None)
    new = wanted_target(database.port, old, ip, tls=tls)
    if new != old:
        what = f"let the {database.title} listen: {old or '(nowhere)'} -> {new}"
        if uuid:  # the row keeps its other settings, such as inactivity_probe
            steps.change(what, database.control, "set", "Connection", uuid, f'target="{new}"')
        elif known and database.connections():
            steps.change(
                what, database.control, "--id=@c", "create", "Connection", f'target="{new}"',
                "--", "add", database.root, ".", "connections", "@c",
            )  # fmt: skip
        else:
            steps.change(what, database.control, "set-connection", new)
        steps.wait(
            f"listening on {new}",
            database.bound,
            seconds=2,
            hint=f"another program may have the port; see {database.log}",
        )
    return re.fullmatch(r"ptcp:\d+(:0\.0\.0\.0|:\[::\])?", new) is not None


def wanted_target(port: int, old: str | None, ip: IPv4Address | IPv6Address | None, *, tls: bool) -> str:
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
    what = "stop ovn-northd and the northbound and southbound databases"
    if any_running() and booted_with_systemd():
        steps.change(what, "systemctl", "stop", *UNITS)
    if any_running() and not (steps.changed and steps.dry_run):  # without systemd, or started by hand
        steps.change(what, OVN_CTL, "stop_northd")
    return steps.finish()


def any_running() -> bool:
    """Whether a database or ovn-northd runs."""
    return northd_pid() is not None or any(database.pid() for database in DATABASES)


def status(_: argparse.Namespace) -> int:
    """Prints a line for each part; 3 when one is not up."""
    require_root()
    lines = [database_status(database) for database in DATABASES]
    lines.append(northd_status())
    print_table([line[1:] for line in lines])
    return 0 if all(line[0] for line in lines) else Unavailable.exit_code


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
    target = connection[1]
    up = database.bound()
    text = f"listens on {target}" if up else f"should listen on {target} but cannot; see {database.log}"
    return up, database.title, f"running (pid {pid})", text


def northd_status() -> tuple[bool, str, str, str]:
    """Whether ovn-northd is up, then its line; ``status`` of ovn-northd(8) says active, standby or paused."""
    pid = northd_pid()
    if pid is None:
        return False, "ovn-northd", "not running", "start it with `ovn-docker central start`"
    if not succeeds("ovn-appctl", "-T", "2", "-t", "ovn-northd", "status"):
        return False, "ovn-northd", f"running (pid {pid})", "does not answer"
    said = run(("ovn-appctl", "-T", "2", "-t", "ovn-northd", "status")).strip().removeprefix("Status: ")
    return said in ("active", "standby"), "ovn-northd", f"running (pid {pid})", said
