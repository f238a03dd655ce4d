"""``ovn-docker trace``: follow a packet between two containers, hop by hop, there and back."""

import argparse

from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.inspect.gather import Sources
from ovn_docker.text.output import print_json, say, say_lines
from ovn_docker.trace import packet_path
from ovn_docker.trace.tracer import trace

TEXT = """\
Follow a packet from one container to another, and its answer, hop by hop: the containers' links, Open
vSwitch, OVN's port security and access rules, the tunnel; in a virtual machine of a cloud the trunk, and
Neutron's ports and security groups. The object that drops it is named. A container is given by its name,
HOST/NAME if several hosts have a container of that name, an address, or the beginning of its ID. For an
address that no container has, the trace shows where and by which rule the packet leaves the host, or which
container has taken the address. From `outside`, a packet is followed to a published port of this host. Of
other hosts only OVN's or Neutron's state is known, so run it on the sender's host: if nothing seems to drop
the packet, a real one is sent from there (an echo request, or a TCP connection), unless --no-probe is given.

Exit code 0: packet and answer are delivered; 1: dropped; 3: a database cannot be read.

examples:
  ovn-docker trace web db
  ovn-docker trace web db tcp/5432
  ovn-docker trace web host2/db udp/53 --detail
  ovn-docker trace web 192.0.2.1 tcp/443
  ovn-docker trace outside web tcp/8080
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovn-docker trace``."""
    describe(parser, TEXT, run)
    parser.add_argument("source", metavar="A", help="a container on this host, or `outside`")
    parser.add_argument(
        "target",
        metavar="B",
        help="another one, an address, or, from outside, a container or an address of this host",
    )
    parser.add_argument(
        "packet", metavar="PACKET", nargs="?", default="icmp", help="icmp, tcp/PORT or udp/PORT"
    )
    parser.add_argument("--network", default="", help="the network, if they have several in common")
    parser.add_argument("--no-probe", action="store_true", help="send no real packet")
    parser.add_argument("--detail", action="store_true", help="add OVN's logical and Open vSwitch's flows")


def run(args: argparse.Namespace) -> int:
    """Print the paths of the packet and of the answer, and a verdict."""
    require_root()
    packet = packet_path.packet(args.packet)
    with Sources() as sources:
        traced = trace(
            sources, args.source, args.target, packet, network=args.network, probe=not args.no_probe
        )
    if args.json:
        found = {"verdict": traced.verdict, "delivered": traced.delivered, "ways": traced.paths}
        print_json(found | ({"detail": dict(traced.details)} if args.detail else {}))
    else:
        for line in traced.lines:
            say(line)
        if args.detail:
            for title, text in traced.details:
                say()
                say(f"== {title}")
                say_lines(text.rstrip())
    return 0 if traced.delivered else 1
