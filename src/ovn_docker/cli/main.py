"""``ovn-docker``: the operator's tool.

It starts fast because it imports little: a command's module is imported when the command is called.
"""

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from ovn_docker import __version__
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.own_process import narrow_umask, set_search_path
from ovn_docker.text.command_line import CommandLine
from ovn_docker.text.output import say, say_error

COMMANDS = {
    "central": "the machine with OVN's databases: start, stop, status",
    "pki": "certificates for the databases and the hosts: init, central, host, list",
    "join": "make this machine a host of a cluster, with a token",
    "leave": "take this machine out of its cluster",
    "token": "tokens with which hosts join: create, list, revoke",
    "host": "a machine with containers: setup, start, stop, status, forget",
    "status": "this host at a glance",
    "ls": "networks and containers of the cluster, as Docker, OVN and the host see them",
    "network": "a shared network: remove it from all hosts, wait for it",
    "policy": "rules of a network, who may talk to whom: set, show, test",
    "inspect": "all about one network or container",
    "doctor": "find faults, and the commands that mend them",
    "trace": "the path of a packet from one container to another",
    "gc": "leftovers of containers, networks and hosts that are gone: show them, remove them",
    "graph": "a picture of hosts, networks, containers and tunnels",
    "tcpdump": "capture at a container's port",
    "underlay": "a virtual machine in an OpenStack cloud: bridge",
    "install-files": "units, manual pages, completion: put them into place after pipx install",
}
"""The line in --help of each command.

Its module in ``ovn_docker.cli``, with ``_`` for ``-``, has ``add_commands(parser)``.
"""

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0: done, 1: failed, 2: wrong usage, 3: something is not running."""
    argv = sys.argv[1:] if argv is None else argv
    set_search_path()
    narrow_umask()
    CommandLine.json = "--json" in argv
    try:
        with _output():
            args = make_parser(argv[:1]).parse_args(argv)
            return int(args.run(args))
    except OvnDockerError as error:
        if CommandLine.json:
            say_error(str(error), error.label, error.exit_code)
        else:
            say(f"ovn-docker: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


@contextmanager
def _output() -> Iterator[None]:
    """Flush standard output at the end of the block; escape the letters that the locale does not have.

    End the program, as SIGPIPE does, when the reader has closed the pipe (``| head``). Raise OvnDockerError
    when the disk is full.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # closed by the shell: >&-
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest as it ends
        if error.errno == errno.EPIPE:
            sys.exit(128 + signal.SIGPIPE)
        raise OvnDockerError(f"cannot write the output: {error.strerror}; make room for it") from None


def make_parser(wanted: Collection[str]) -> CommandLine:
    """Return the command line, with the arguments of the *wanted* commands, whose modules are imported."""
    parser = CommandLine(
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
            import_module(f"ovn_docker.cli.{name.replace('-', '_')}").add_commands(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
