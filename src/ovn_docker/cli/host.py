"""``ovn-docker host``: a machine with containers, set up once and started on every boot.

A host runs Open vSwitch, ovn-controller, which programs it from the southbound database, and the driver.
"""

import argparse
import sys

from ovn_docker.cli import forget
from ovn_docker.cli.arguments import (
    add_command,
    add_docker_dns,
    add_tls_files,
    address,
    addresses,
    require_root,
    tls_files,
)
from ovn_docker.errors import Unavailable
from ovn_docker.model import ENCAPS
from ovn_docker.setup import docker_dns
from ovn_docker.setup.hosts.host_services import HostPart, host_status, start_host, stop_host
from ovn_docker.setup.hosts.host_setup import HostSettings, set_up_host
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import TLS_DIRECTORY
from ovn_docker.text.output import bad, doubtful, good, print_json, print_table, say_lines

SETUP = """\
Configure Open vSwitch on this machine: where OVN's databases are and how other hosts reach this one (the
guide's "one time setup"). Run it again whenever a value changes; it writes only what differs.

examples:
  ovn-docker host setup --central 10.0.0.1
  ovn-docker host setup --central 10.0.0.1 --encap-ip 10.0.0.2 --encap-type geneve
  ovn-docker host setup --central 10.0.0.1 --docker-dns --restart-docker
  ovn-docker host setup --central 10.0.0.1,10.0.0.2,10.0.0.3 --encap-ip 10.0.0.4 --encap-type geneve \\
      --tls /etc/ovn-docker/tls
"""
START = """\
Start Open vSwitch, ovn-controller and the Docker driver, whichever is not running. Run it on every boot,
or have systemd start them (make install).

example:
  ovn-docker host start
"""
STOP = """\
Stop the Docker driver and ovn-controller; ovn-controller removes this host from the network as it stops.
Open vSwitch is stopped with --all only: other networks of the machine may need it. The barrier between
containers and OVN's databases is removed, unless the databases run on this machine.

example:
  ovn-docker host stop
"""
STATUS = """\
Show the daemons of this host. Exit code 0: all are up; 3: one is not.

examples:
  ovn-docker host status
  ovn-docker host status --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add setup, start, stop, status and forget to the parser of ``ovn-docker host``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_settings(add_command(commands, "setup", "the one-time setup: databases and tunnels", SETUP, setup))
    add_command(commands, "start", "start Open vSwitch, ovn-controller and the driver", START, start)
    parser = add_command(commands, "stop", "stop the driver and ovn-controller", STOP, stop)
    parser.add_argument("--all", action="store_true", help="stop Open vSwitch too")
    parser = add_command(commands, "status", "show the daemons of this host", STATUS, status)
    parser.add_argument("--json", action="store_true", help="print JSON")
    forget.add_arguments(
        add_command(
            commands, "forget", "remove everything that a lost host has left", forget.TEXT, forget.run
        )
    )


def setup(args: argparse.Namespace) -> int:
    """Write the settings that differ."""
    require_root()
    steps, files = Steps(dry_run=args.dry_run), tls_files(args)
    dns = docker_dns.DnsChange(wanted=args.docker_dns, restart=args.restart_docker)
    settings = HostSettings(
        central=args.central,
        encap_ip=args.encap_ip,
        encap_type=args.encap_type,
        datapath=args.datapath,
        secure=bool(files or args.tls),
        tls=files,
    )
    set_up_host(steps, settings)
    dns.make(steps)
    return steps.finish()


def start(args: argparse.Namespace) -> int:
    """Start the daemons of this host."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    start_host(steps)
    return steps.finish()


def stop(args: argparse.Namespace) -> int:
    """Stop the driver and ovn-controller, with --all Open vSwitch too."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    stop_host(steps, with_vswitch=args.all)
    return steps.finish()


def status(args: argparse.Namespace) -> int:
    """Print a line for each daemon; return 3 when one is not up."""
    require_root()
    parts = host_status()
    if args.json:
        print_json(parts)
    else:
        print_table([(part.name, _process(part), part.remark) for part in parts])
        if advice := docker_dns.advice():
            say_lines(advice, file=sys.stderr)
    return 0 if all(part.is_up for part in parts) else Unavailable.exit_code


def _process(part: HostPart) -> str:
    """Return the process of a daemon in words."""
    if part.pid is None:
        return good("running") if part.is_up else bad("not running")
    return (good if part.is_up else doubtful)(f"running (pid {part.pid})")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the values of the one-time setup."""
    parser.add_argument(
        "--central", required=True, type=addresses, metavar="IP[,IP...]", help="machines with OVN's databases"
    )
    add_tunnel_settings(parser)
    add_tls_files(
        parser,
        "this host",
        nargs="?",
        const=True,
        help=f"reach the databases by TLS, with {', '.join(TLS_DIRECTORY)} in DIR, which ovn-docker pki "
        "makes; without DIR: with those that Open vSwitch has already",
    )


def add_tunnel_settings(parser: argparse.ArgumentParser) -> None:
    """Add the values about tunnels and datapath."""
    parser.add_argument(
        "--encap-ip",
        type=address,
        metavar="IP",
        help="address of this host that other hosts reach (default: the one that is set, else the source "
        "address of packets to the central machine)",
    )
    parser.add_argument(
        "--encap-type",
        choices=ENCAPS,
        help="kind of tunnel between the hosts (default: the one that is set, else geneve)",
    )
    parser.add_argument(
        "--datapath",
        choices=("auto", "system", "netdev"),
        default="auto",
        help="where packets are switched: in the kernel (system) or in ovs-vswitchd (netdev); "
        "auto takes the kernel if it can (default: %(default)s)",
    )
    add_docker_dns(parser)
