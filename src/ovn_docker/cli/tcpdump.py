"""``ovn-docker tcpdump``: capture packets of a container at its port on the host."""

import argparse
import os
import re
import shutil
from typing import Any

from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.errors import Conflict, NotFound
from ovn_docker.host.run import missing
from ovn_docker.inspect import capture
from ovn_docker.inspect.capture import Capture
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.snapshot import Scope
from ovn_docker.text import printable
from ovn_docker.text.output import print_json

TEXT = """\
Capture at a container's port, on the host, with tcpdump: nothing is installed in the container. It stops at
Ctrl-C, or after --count packets. Arguments after the container's name are options and filter of tcpdump
(tcpdump(8), pcap-filter(7)); the long options below may stand there too. With -w FILE the packets are written
to a file. With --json the command is printed, not run. For a container on another host the command to run
there is printed; with --ssh it is run over ssh(1), and FILE is on that host.

examples:
  ovn-docker tcpdump web
  ovn-docker tcpdump web tcp port 5432
  ovn-docker tcpdump web -c 3 -vv icmp
  ovn-docker tcpdump -c 10 -w /tmp/web.pcap web
  ovn-docker tcpdump --ssh far icmp
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovn-docker tcpdump``."""
    describe(parser, TEXT, run)
    _add_options(parser, "-c", "-w")
    parser.add_argument(
        "container", metavar="CONTAINER", help="name, address or beginning of the ID of one on this host"
    )
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        action=_Behind,
        metavar="ARGUMENT",
        help="options and filter of tcpdump, see tcpdump(8) and pcap-filter(7)",
    ).required = False


def _add_options(parser: argparse.ArgumentParser, *short: str) -> None:
    parser.add_argument("--network", default="", help="the network, if the container is on several")
    parser.add_argument(*short[:1], "--count", type=_count, help="stop after COUNT packets")
    parser.add_argument(*short[1:], "--write", metavar="FILE", help="write packets to a file")
    parser.add_argument(
        "--ssh", action="store_true", help="run the command on the container's host, over ssh"
    )


class _Behind(argparse.Action):
    """Leaves the arguments after the container to tcpdump, except for our own long options."""

    def __call__(self, _: object, namespace: argparse.Namespace, values: Any, __: object = None) -> None:
        ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        ours.add_argument("--json", action="store_true")
        _add_options(ours)
        _, rest = ours.parse_known_args(values, namespace)
        setattr(namespace, self.dest, rest)


def _count(text: str) -> int:
    """Parse a number of packets; an argparse type."""
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number of packets: give 1 or more")
    return int(text)


def capture_of(args: argparse.Namespace) -> Capture:
    """Return what the arguments ask for."""
    return Capture(args.container, args.network, args.count, args.write, tuple(args.arguments))


def run(args: argparse.Namespace) -> int:
    """Replace this process by tcpdump: signals and exit code are tcpdump's."""
    require_root()
    wanted = capture_of(args)
    with Sources() as sources:
        try:
            found = ClusterView(sources.gather(Scope.HOST)).find(args.container)
        except NotFound:  # it may be on another host
            found = ClusterView(sources.gather(Scope.NETWORKS)).find(args.container)
    link = capture.find_link(wanted, found) if capture.is_here(found) else ""
    argv = capture.at_link(wanted, link) if link else capture.over_ssh(wanted, found[0])
    if not link and not args.ssh:
        raise Conflict(f"{args.container} is on {found[0].host}: run this there, or say --ssh: {argv[-1]}")
    if args.json:
        print_json({"link": link, "command": printable.command(*argv)})
        return 0
    program = shutil.which(argv[0])
    if program is None:
        raise missing(argv[0])
    return os.execv(program, argv)  # noqa: S606 - the arguments are a list, no shell reads them
