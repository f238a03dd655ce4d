"""``ovn-docker``: the operator's tool.

Only the standard library and the errors are imported here; a command's module is imported when it is called.
"""

import argparse
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import NoReturn

from ovn_docker import __version__
from ovn_docker.errors import OvnDockerError

COMMANDS = {
    "central": "the machine with OVN's databases: start, stop, status",
    "host": "a machine with containers: setup, start, stop, status, forget",
    "status": "this host at a glance",
    "ls": "networks and containers of the cluster, as Docker, OVN and the host see them",
    "inspect": "all about one network or container",
    "doctor": "find what is wrong, and say what to do",
    "trace": "what happens to a packet from one container to another",
    "graph": "a picture of hosts, networks, containers and tunnels",
    "tcpdump": "capture at a container's port",
    "underlay": "a virtual machine in an OpenStack cloud: bridge",
}
"""Command: its line in --help. Module ``ovn_docker.cli.<command>`` has ``add_commands(parser)``."""

EXAMPLES = """\
examples:
  ovn-docker central start --address 10.0.0.1
  ovn-docker host setup --central 10.0.0.1 --encap-ip 10.0.0.2 --encap-type geneve
  ovn-docker host start
  docker network create -d openvswitch --subnet=192.168.1.0/24 foo
  ovn-docker doctor
  ovn-docker trace web db tcp/5432
  ovn-docker graph -o cluster.svg
"""


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0 when done, 1 failed, 2 wrong usage, 3 something is not running."""
    argv = sys.argv[1:] if argv is None else argv
    args = make_parser(argv[:1]).parse_args(argv)
    try:
        return int(args.run(args))
    except OvnDockerError as error:
        print(f"ovn-docker: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def make_parser(wanted: Collection[str]) -> Parser:
    """The command line, with the arguments of the *wanted* commands, whose modules are imported."""
    parser = Parser(
        prog="ovn-docker",
        description="Networks for Docker on many hosts, made by OVN.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name in wanted:
            import_module(f"ovn_docker.cli.{name}").add_commands(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
