"""``ovn-docker underlay``: set-up of a virtual machine whose containers are on its cloud's networks.

``bridge`` is the second step of OVN's guide, safe over SSH (uplink/bridging.py).
"""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from ovn_docker.cli.arguments import add_command, address, require_root
from ovn_docker.errors import BadRequest
from ovn_docker.text.output import print_document, say, say_lines
from ovn_docker.uplink import bridging, guard, persistence
from ovn_docker.uplink.bridge_request import BridgeRequest, require_names, require_usable

TEXT = """\
Makes an Open vSwitch bridge with the interface as its port, and moves the network of the interface to the
bridge: addresses, routes, policy rules, DNS, MAC, and the DHCP client. This is the guide's step 2, safe over
SSH: the move is kept if the hosts that answered before (the gateways, your SSH client, --reach) answer
through the bridge, or if you confirm it. Otherwise, and if this program is killed, the interface is restored.

The move lasts until the next boot. --persistent prints a file that keeps the bridge: for netplan, ifupdown or
systemd-networkd.

examples:
  ovn-docker underlay bridge --interface eth0 --bridge breth0 --dry-run
  ovn-docker underlay bridge --interface eth0 --bridge breth0
  ovn-docker underlay bridge --interface eth0 --bridge breth0 --persistent netplan \\
      --output /etc/netplan/90-breth0.yaml
  ovn-docker underlay bridge --interface eth0 --bridge breth0 --undo
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add ``bridge`` to the parser of ``ovn-docker underlay``, and ``guard`` for uplink/guard.py alone."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_arguments(
        add_command(commands, "bridge", "move a network interface into an Open vSwitch bridge", TEXT, bridge)
    )
    hidden = commands.add_parser("guard")
    hidden.add_argument("journal", type=Path)
    hidden.add_argument("seconds", type=float)
    hidden.set_defaults(run=watch)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the interface and the bridge, the proof of the move, and the acts other than the move."""
    parser.add_argument(
        "--interface", required=True, metavar="NAME", help="interface for the containers' traffic"
    )
    parser.add_argument("--bridge", required=True, metavar="NAME", help="Open vSwitch bridge")
    parser.add_argument(
        "--datapath",
        choices=("auto", "system", "netdev"),
        default="auto",
        help="where packets are switched, as in `ovn-docker host setup` (default: %(default)s)",
    )
    parser.add_argument(
        "--reach",
        action="append",
        default=[],
        type=address,
        metavar="IP",
        help="host that must answer through the bridge (may be given several times); "
        "default: those of the gateways and your SSH client that answer before the move",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for an answer or for a confirmation (default: 30)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--yes", action="store_true", help="keep the move without proof")
    instead.add_argument(
        "--confirm",
        action="store_true",
        help="keep a move that waits for confirmation; type it in a new session",
    )
    instead.add_argument("--undo", action="store_true", help="move everything back and remove the bridge")
    instead.add_argument(
        "--persistent",
        choices=persistence.KINDS,
        help="print a configuration that keeps the bridge over the next boot; change nothing",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the output of --persistent to a file"
    )


def seconds(text: str) -> float:
    """Parse a time to wait; an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"invalid number of seconds {text!r}: give 1 to 3600")
    return value


def bridge(args: argparse.Namespace) -> int:
    """Move the interface into the bridge, or perform the other act that is asked for."""
    require_root()
    request = BridgeRequest(
        args.interface,
        args.bridge,
        args.datapath,
        reach=frozenset(map(str, args.reach)),
        timeout=args.timeout,
        unproven=args.yes,
        dry_run=args.dry_run,
    )
    require_names(request)
    if args.output and not args.persistent:
        raise BadRequest(f"--output {args.output} needs --persistent {'|'.join(persistence.KINDS)}")
    if args.confirm:
        bridging.confirm(request.interface)
        say(f"confirmed: {request.interface} stays in {request.bridge}")
        return 0
    require_usable(request, undo=args.undo)
    if args.undo:
        bridging.undo(request)
    elif args.persistent:
        write(args, bridging.persistent(request, args.persistent))
    elif bridging.move(request):
        advise(request)
    return 0


def watch(args: argparse.Namespace) -> int:
    """Be the guard of a move."""
    guard.watch(args.journal, args.seconds)
    return 0


def write(args: argparse.Namespace, text: str) -> None:
    """Print the configuration, or write it to the file that the command line names."""
    if not args.output or args.dry_run:
        print_document(text)
        return
    try:
        args.output.write_text(text, encoding="utf-8")
        args.output.chmod(0o600)
    except OSError as error:
        raise BadRequest(f"--output {args.output} cannot be written: {error.strerror}") from None
    say(f"wrote {args.output}; its first lines say what to do with it")


def advise(request: BridgeRequest) -> None:
    """Print the command whose output keeps the bridge over the next boot."""
    with suppress(OSError):
        say_lines(
            "note: this lasts until the next boot. For a file that keeps it:\n"
            f"    $ ovn-docker underlay bridge --interface {request.interface} --bridge {request.bridge} "
            f"--persistent {persistence.kind_here() or '|'.join(persistence.KINDS)}",
            file=sys.stderr,
            flush=True,
        )
