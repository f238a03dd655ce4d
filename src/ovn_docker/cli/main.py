"""``ovn-docker``: the operator's tool.

Little of ours is imported here; a command's module is imported when it is called.
"""

import argparse
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, NoReturn

from ovn_docker import __version__
from ovn_docker.cli.output import say, say_error
from ovn_docker.errors import OvnDockerError
from ovn_docker.printable import one_line
from ovn_docker.programs import set_search_path
from ovn_docker.spelling import hint

COMMANDS = {
    "central": "the machine with OVN's databases: start, stop, status",
    "pki": "certificates for the databases and the hosts: init, central, host, list",
    "host": "a machine with containers: setup, start, stop, status, forget",
    "status": "this host at a glance",
    "ls": "networks and containers of the cluster, as Docker, OVN and the host see them",
    "network": "a network of the cluster: remove it from all hosts, wait for it",
    "inspect": "all about one network or container",
    "doctor": "find what is wrong, and say what to do",
    "trace": "what happens to a packet from one container to another",
    "gc": "what is left of containers, networks and hosts that are gone: show it, clear it",
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

    json: ClassVar[bool] = False
    """Whether complaints are JSON."""

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2."""
        text = f"{_hinted(message)} (see `{self.prog} --help`)"
        if Parser.json:
            say_error(text, "bad_request", 2)
            self.exit(2)
        self.exit(2, f"{one_line(f'{self.prog}: {text}')}\n")

    def parse_known_args(self, *args: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        """Complains of what is left: the command does that, which has the help, and not the whole program."""
        found, rest = super().parse_known_args(*args, **kwargs)
        if rest:
            known = re.findall(r"--[a-z-]+", self.format_usage())
            meant = next(filter(None, (hint(word.partition("=")[0], known) for word in rest)), "")
            self.error(f"unrecognized arguments: {' '.join(rest)}{f': {meant}' if meant else ''}")
        return found, rest


def _hinted(message: str) -> str:
    """Return a complaint of argparse about a choice with the choice that was probably meant."""
    wrong = re.fullmatch(r"(.*invalid choice: '(.*)') \(choose from (.*)\)", message)
    meant = hint(wrong[2], re.findall(r"'([^']*)'", wrong[3])) if wrong else ""
    return f"{wrong[1]}: {meant}" if wrong and meant else message


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0 when done, 1 failed, 2 wrong usage, 3 something is not running."""
    argv = sys.argv[1:] if argv is None else argv
    set_search_path()
    narrow_umask()
    Parser.json = "--json" in argv
    try:
        with _output():
            args = make_parser(argv[:1]).parse_args(argv)
            return int(args.run(args))
    except OvnDockerError as error:
        if Parser.json:
            say_error(str(error), error.word(), error.exit_code)
        else:
            say(f"ovn-docker: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def narrow_umask() -> None:
    """Let only the owner write to the files that this process makes, whatever umask it was started with."""
    os.umask(os.umask(0o077) | 0o022)


@contextmanager
def _output() -> Iterator[None]:
    """What is printed is written before this ends, also in a locale that has not all the letters.

    Ends the program, as SIGPIPE does, when nobody reads any more (``| head``). Raises OvnDockerError when
    the disk is full.
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
