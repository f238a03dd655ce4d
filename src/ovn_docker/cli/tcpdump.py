"""``ovn-docker tcpdump``: what a container sends and gets, captured at its port on the host."""

import argparse
import os
import re
import shutil
from typing import Any

from ovn_docker import printable
from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.cli.output import print_json
from ovn_docker.errors import BadRequest, Conflict, NotFound, Unavailable
from ovn_docker.view.cluster import Cluster
from ovn_docker.view.gather import Sources
from ovn_docker.view.snapshot import Scope

TEXT = """\
Captures at a container's port, on the host, with tcpdump: nothing is installed in the container. Stops at
Ctrl-C, or after --count packets. What comes behind the container's name is tcpdump's own: its options and its
filter (tcpdump(8), pcap-filter(7)); only the long options below may stand there too. With -w FILE the packets
are written to a file. With --json it prints what it would run.

examples:
  ovn-docker tcpdump web
  ovn-docker tcpdump web tcp port 5432
  ovn-docker tcpdump web -c 3 -vv icmp
  ovn-docker tcpdump -c 10 -w /tmp/web.pcap web
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``ovn-docker tcpdump``."""
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
        help="options and filter of tcpdump's, see tcpdump(8) and pcap-filter(7)",
    ).required = False


def _add_options(parser: argparse.ArgumentParser, *short: str) -> None:
    parser.add_argument("--network", default="", help="of the container's networks this one")
    parser.add_argument(*short[:1], "--count", type=_count, help="stop after so many packets")
    parser.add_argument(*short[1:], "--write", metavar="FILE", help="write packets to a file")


class _Behind(argparse.Action):
    """Leaves tcpdump what stands behind the container, but for our own long options."""

    def __call__(self, _: object, namespace: argparse.Namespace, values: Any, __: object = None) -> None:
        ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        ours.add_argument("--json", action="store_true")
        _add_options(ours)
        _, rest = ours.parse_known_args(values, namespace)
        setattr(namespace, self.dest, rest)


def _count(text: str) -> int:
    """A number of packets; an argparse type."""
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no number of packets: give one from 1 on")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Becomes tcpdump, so that signals and exit code are its own."""
    require_root()
    with Sources() as sources:
        try:
            link = find_link(Cluster(sources.gather(Scope.HOST)), args.container, args.network)
        except NotFound:  # it may be on another host
            link = find_link(Cluster(sources.gather(Scope.NETWORKS)), args.container, args.network)
    argv = command(args, link)
    if args.json:
        print_json({"link": link, "command": printable.command(*argv)})
        return 0
    program = shutil.which("tcpdump")
    if program is None:
        raise Unavailable("tcpdump is not installed; run `apt install tcpdump`")
    return os.execv(program, argv)  # noqa: S606 - the arguments are a list, no shell reads them


def command(args: argparse.Namespace, link: str) -> list[str]:
    """What captures at a link of this host, as a list of arguments."""
    argv = ["tcpdump", "-n", "-i", link]
    argv += ["-c", str(args.count)] if args.count else []
    argv += ["-w", args.write] if args.write else ["-l", "-e"]
    return [*argv, *args.arguments]


def find_link(cluster: Cluster, name: str, network: str) -> str:
    """This host's end of a container's link. Raises NotFound, BadRequest, or Conflict if it is elsewhere."""
    found = cluster.find(name)
    here = [endpoint for endpoint in found if endpoint.link and network in ("", endpoint.network)]
    if not any(endpoint.here for endpoint in found):
        raise Conflict(f"{name} is on {found[0].host}: run this there")
    if network and network not in (those := [endpoint.network for endpoint in found]):
        raise BadRequest(f"{name} is not on network {network}, but on {', '.join(those)}")
    if not here:
        where = f"on network {network}" if network else "on this host"
        raise Conflict(
            f"{name} has no link {where}: {'; '.join(found[0].differences) or 'see ovn-docker inspect'}"
        )
    if len(here) > 1:
        networks = ", ".join(endpoint.network for endpoint in here)
        raise BadRequest(f"{name} is on several networks, {networks}: say --network NETWORK")
    return here[0].link
