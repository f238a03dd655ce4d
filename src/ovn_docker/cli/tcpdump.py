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
from ovn_docker.view.cluster import Cluster, Endpoint
from ovn_docker.view.gather import Sources
from ovn_docker.view.snapshot import Scope

TEXT = """\
Captures at a container's port, on the host, with tcpdump: nothing is installed in the container. Stops at
Ctrl-C, or after --count packets. What comes behind the container's name is tcpdump's own: its options and its
filter (tcpdump(8), pcap-filter(7)); only the long options below may stand there too. With -w FILE the packets
are written to a file. With --json it prints what it would run. Of a container on another host it says what to
type there; with --ssh it runs that, over ssh(1), where FILE then is, too.

examples:
  ovn-docker tcpdump web
  ovn-docker tcpdump web tcp port 5432
  ovn-docker tcpdump web -c 3 -vv icmp
  ovn-docker tcpdump -c 10 -w /tmp/web.pcap web
  ovn-docker tcpdump --ssh far icmp
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
    parser.add_argument("--ssh", action="store_true", help="run it on the container's host, over ssh")


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
            cluster = Cluster(sources.gather(Scope.HOST))
            found = cluster.find(args.container)
        except NotFound:  # it may be on another host
            cluster = Cluster(sources.gather(Scope.NETWORKS))
            found = cluster.find(args.container)
    link = "" if elsewhere(found) else find_link(found, args.container, args.network)
    argv = command(args, link) if link else over_ssh(args, found[0])
    if not link and not args.ssh:
        raise Conflict(f"{args.container} is on {found[0].host}: run this there, or say --ssh: {argv[-1]}")
    if args.json:
        print_json({"link": link, "command": printable.command(*argv)})
        return 0
    program = shutil.which(argv[0])
    if program is None:
        package = {"ssh": "openssh-client"}.get(argv[0], argv[0])
        raise Unavailable(f"{argv[0]} is not installed; run `apt install {package}`")
    return os.execv(program, argv)  # noqa: S606 - the arguments are a list, no shell reads them


def elsewhere(found: tuple[Endpoint, ...]) -> bool:
    """Whether a container is on another host."""
    return not any(endpoint.here for endpoint in found)


def over_ssh(args: argparse.Namespace, end: Endpoint) -> list[str]:
    """The call of ssh(1) that captures on another host, by a command line for its shell.

    The host has written its name into the database itself; one that ssh could take for an option or a user is
    refused. The rest is what was typed here. Raises Unavailable, BadRequest.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,252}[A-Za-z0-9])?", end.host):
        raise Unavailable(
            f"{args.container} is on {end.host[:64]!r}, which is not the name of a host: run "
            "ovn-docker tcpdump there"
        )
    options = ["--network", args.network] if args.network else []
    options += ["-c", str(args.count)] if args.count else []
    options += ["-w", args.write] if args.write else []
    words = ["ovn-docker", "tcpdump", *options, args.container.rpartition("/")[2], *args.arguments]
    if not all(map(printable.is_plain, words)):
        raise BadRequest("an argument of tcpdump's has characters that are not printable: run it there")
    return ["ssh", "--", end.host, printable.command(*words)]


def command(args: argparse.Namespace, link: str) -> list[str]:
    """What captures at a link of this host, as a list of arguments."""
    argv = ["tcpdump", "-n", "-i", link]
    argv += ["-c", str(args.count)] if args.count else []
    argv += ["-w", args.write] if args.write else ["-l", "-e"]
    return [*argv, *args.arguments]


def find_link(found: tuple[Endpoint, ...], name: str, network: str) -> str:
    """This host's end of the link of a container on this host. Raises BadRequest or Conflict."""
    here = [endpoint for endpoint in found if endpoint.link and network in ("", endpoint.network)]
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
