"""``ovn-docker tcpdump``: what a container sends and gets, captured at its port on the host."""

import argparse
import os
import re
import shlex
import shutil

from ovn_docker.cli.arguments import describe, print_json, require_root
from ovn_docker.errors import BadRequest, Conflict, NotFound, Unavailable
from ovn_docker.view.cluster import Cluster
from ovn_docker.view.gather import Sources
from ovn_docker.view.snapshot import Scope

TEXT = """\
Captures at a container's port, on the host, with tcpdump: nothing is installed in the container. Stops at
Ctrl-C, or after --count packets. What comes behind the container's name is tcpdump's filter (pcap-filter(7));
with -w FILE the packets are written to a file. With --json it prints what it would run.

examples:
  ovn-docker tcpdump web
  ovn-docker tcpdump web tcp port 5432
  ovn-docker tcpdump -c 10 -w /tmp/web.pcap web
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``ovn-docker tcpdump``."""
    describe(parser, TEXT, run)
    parser.add_argument(
        "container", metavar="CONTAINER", help="name, address or beginning of the ID of one on this host"
    )
    parser.add_argument("filter", nargs="*", default=[], metavar="FILTER", help="see pcap-filter(7)")
    parser.add_argument("--network", default="", help="of the container's networks this one")
    parser.add_argument("-c", "--count", type=_count, help="stop after so many packets")
    parser.add_argument("-w", "--write", metavar="FILE", help="write packets to a file")


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
    argv = ["tcpdump", "-n", "-i", link]
    argv += ["-c", str(args.count)] if args.count else []
    argv += ["-w", args.write] if args.write else ["-l", "-e"]
    argv += ["--", *args.filter] if args.filter else []
    if args.json:
        print_json({"link": link, "command": shlex.join(argv)})
        return 0
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
    program = shutil.which("tcpdump", path=path)
    if program is None:
        raise Unavailable("tcpdump is not installed; run `apt install tcpdump`")
    return os.execv(program, argv)  # noqa: S606 - the arguments are a list, no shell reads them


def find_link(cluster: Cluster, name: str, network: str) -> str:
    """This host's end of a container's link. Raises NotFound, BadRequest, or Conflict if it is elsewhere."""
    found = cluster.find(name)
    here = [endpoint for endpoint in found if endpoint.link and network in ("", endpoint.network)]
    if not any(endpoint.here for endpoint in found):
        raise Conflict(f"{name} is on {found[0].host}: run this there")
    if not here:
        where = f"on network {network}" if network else "on this host"
        raise Conflict(
            f"{name} has no link {where}: {'; '.join(found[0].differences) or 'see ovn-docker inspect'}"
        )
    if len(here) > 1:
        networks = ", ".join(endpoint.network for endpoint in here)
        raise BadRequest(f"{name} is on several networks, {networks}: say --network NETWORK")
    return here[0].link
