"""``ovn-docker underlay``: a virtual machine of a cloud whose containers are on the cloud's networks.

``bridge`` is the second step of OVN's guide, done safely: what is moved is put back unless it proves good.
"""

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ovn_docker.cli import clients, guard, persistence, reach, setup, uplink
from ovn_docker.cli.arguments import add_command, address, require_root
from ovn_docker.cli.bridge import VSCTL, Careful, Journal, Salvage, bridge_of, made_for, perform, restore
from ovn_docker.cli.host import vswitch_running
from ovn_docker.cli.output import print_document, say, say_lines
from ovn_docker.cli.steps import require, run
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, Unavailable
from ovn_docker.model import HOST_LINK

BASELINE = 2.0
"""Seconds that a host has to answer before anything is changed."""

GUARD = 300.0
"""Seconds that the steps may take, a DHCP client's 60 included, until the guard ends the move."""

TEXT = """\
Makes an Open vSwitch bridge with the interface as its port, and moves to the bridge what the interface has:
addresses, routes, policy rules, DNS, MAC, and its DHCP client. The guide's step 2, safe over SSH: it is kept
if the hosts that answered before (the gateways, your SSH client, --reach) answer through the bridge, or if
you confirm it. Otherwise, and if this program is killed, all is put back by itself.

It lasts until the next boot. --persistent prints the file that keeps it: for netplan, ifupdown or
systemd-networkd.

examples:
  ovn-docker underlay bridge --interface eth0 --bridge breth0 --dry-run
  ovn-docker underlay bridge --interface eth0 --bridge breth0
  ovn-docker underlay bridge --interface eth0 --bridge breth0 --persistent netplan \\
      --output /etc/netplan/90-breth0.yaml
  ovn-docker underlay bridge --interface eth0 --bridge breth0 --undo
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds bridge to the parser of ``ovn-docker underlay``; and the guard, which nobody types."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_arguments(
        add_command(commands, "bridge", "move a network interface into an Open vSwitch bridge", TEXT, bridge)
    )
    hidden = commands.add_parser("guard")
    hidden.add_argument("journal", type=Path)
    hidden.add_argument("patience", type=float)
    hidden.set_defaults(run=guard.watch)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds interface and bridge, how to prove that it works, and what to do instead."""
    parser.add_argument(
        "--interface", required=True, metavar="NAME", help="interface with the containers' traffic"
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
        "default: the gateways and your SSH client, of these the ones that answer before",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for an answer or for a confirmation (default: 30)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--yes", action="store_true", help="keep it without proof")
    instead.add_argument(
        "--confirm", action="store_true", help="typed in a new session: keep what waits for confirmation"
    )
    instead.add_argument("--undo", action="store_true", help="move everything back and remove the bridge")
    instead.add_argument(
        "--persistent",
        choices=persistence.KINDS,
        help="print the configuration that makes this last; change nothing else",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write what --persistent prints to a file"
    )


def seconds(text: str) -> float:
    """A time to wait; an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 3600")
    return value


def bridge(args: argparse.Namespace) -> int:
    """Moves the interface, or does what was asked for instead."""
    require_root()
    require_names(args)
    if args.confirm:
        return confirm(args)
    require("ip")
    link = uplink.description(args.interface)
    require("ovs-vsctl")
    if not vswitch_running():
        raise setup.not_running("Open vSwitch")
    require_usable(args, link)
    if args.persistent:
        return persist(args, link)
    if args.dry_run:
        return undo(args) if args.undo else move(args, link)
    with guard.lock(args.interface) as held:
        with suppress(FileNotFoundError):
            left = guard.read(guard.journal_path(args.interface))
            say(f"an earlier move of {args.interface} was cut off; putting back what it had")
            guard.put_back(left)
        guard.confirmation_path(args.interface).unlink(missing_ok=True)
        return undo(args, held) if args.undo else move(args, uplink.description(args.interface), held)


def require_names(args: argparse.Namespace) -> None:
    """Raises BadRequest when arguments cannot be meant."""
    for option, name in (("--interface", args.interface), ("--bridge", args.bridge)):
        # As linux has it in net/core/dev.c, dev_valid_name.
        if not 0 < len(name) <= 15 or name in {".", ".."} or any(c in "/:" or c.isspace() for c in name):
            raise BadRequest(
                f"{option} {name!r} is not a name of an interface: 1 to 15 characters, no space, / or :"
            )
    if args.interface == args.bridge:
        raise BadRequest(f"--bridge {args.bridge} is the interface itself; give the bridge a name of its own")
    if args.output and not args.persistent:
        raise BadRequest(f"--output {args.output} goes with --persistent {'|'.join(persistence.KINDS)}")


def require_usable(args: argparse.Namespace, link: dict[str, Any]) -> None:
    """Raises BadRequest or Conflict when the interface or the bridge is something else already."""
    name = args.interface
    if "LOOPBACK" in link["flags"]:
        raise BadRequest(f"--interface {name} is the loopback interface; give one that leads to the network")
    if link["link_type"] != "ether":
        raise BadRequest(f"--interface {name}: only Ethernet interfaces can be a bridge's port")
    bridges = run((*VSCTL, "list-br")).split()
    if name in bridges:
        raise BadRequest(f"--interface {name} is an Open vSwitch bridge; give the interface that it is for")
    ids = setup.open_vswitch("external_ids")["external_ids"]
    if "ovn-remote" in ids and args.bridge == ids.get("ovn-bridge", "br-int") and not args.undo:
        raise BadRequest(
            f"--bridge {args.bridge} is ovn-controller's own: it would cut {name} off; take another"
        )
    master = link.get("master")
    if master not in {None, "ovs-system"}:
        raise Conflict(f"{name} is a part of {master}; give that one, or `ip link set {name} nomaster` first")
    owner = bridge_of(name)
    if owner not in {None, args.bridge}:
        raise Conflict(f"{name} is a port of bridge {owner}; say --bridge {owner}, or undo that first")
    if args.bridge not in bridges and uplink.exists(args.bridge):
        raise Conflict(f"--bridge {args.bridge}: a link of that name exists that is no Open vSwitch bridge")
    if args.bridge in bridges and owner is None and not (args.undo or args.persistent):
        taken = [words[1] for words in uplink.read(args.bridge).addresses if "link" not in words]
        if taken and not guard.journal_path(name).exists():
            raise Conflict(
                f"--bridge {args.bridge} has addresses of its own ({', '.join(taken)}); take another"
            )


def move(args: argparse.Namespace, link: dict[str, Any], held: int | None = None) -> int:
    """Moves what the interface has to the bridge, and puts it back unless that proves good."""
    name = args.interface
    datapath = setup.choose_datapath(args.datapath)
    attached = bridge_of(name) == args.bridge
    ours = args.bridge not in run((*VSCTL, "list-br")).split() or made_for(args.bridge) == name
    journal = Journal(name, args.bridge, ours, uplink.read(name), clients.running_on(name))
    for client in journal.clients:
        clients.settings(client)  # what cannot be read is told before anything is changed
    steps = Careful(dry_run=args.dry_run)
    dhcp = [client for client in journal.clients if client.wants_bare_link]
    if attached and not (journal.uplink.addresses or journal.uplink.routes or dhcp):
        uplink.silence(steps, name)
        return steps.finish()
    if held is None:
        perform(steps, journal, link, datapath, attached=attached)
        advise(args)
        return 0
    wanted = reachable_before(args, journal, attached=attached)
    with guard.guarded(journal, held, GUARD + args.timeout):
        perform(steps, journal, link, datapath, attached=attached)
        if not (args.yes or proven(args, wanted)):
            raise Unavailable(
                f"{', '.join(sorted(wanted)) or 'nobody'} answered through {args.bridge} within "
                f"{args.timeout:g} seconds and nobody confirmed it; all is as it was before"
            )
    advise(args)
    return 0


def reachable_before(args: argparse.Namespace, journal: Journal, *, attached: bool) -> set[str]:
    """Who has to answer through the bridge: those asked for, or of the usual ones those that answer now.

    Raises:
        Unavailable: one that was asked for does not answer now.

    """
    name = args.interface
    if args.reach:
        asked = {str(ip) for ip in args.reach}
        silent = asked - reach.answering(asked, name, BASELINE) if not attached else set()
        if silent:
            raise Unavailable(
                f"--reach {', '.join(sorted(silent))} does not answer on {name} as it is; nothing was changed"
            )
        return asked
    usual = set(reach.gateways(journal.uplink))
    session = reach.remote_of_session()
    if session and "%" not in session and reach.goes_through(session, name):
        usual.add(session)
    usual = usual or set(reach.neighbours(name))
    return usual if attached else reach.answering(usual, name, BASELINE)


def proven(args: argparse.Namespace, wanted: set[str]) -> bool:
    """Whether all of *wanted* answer through the bridge, or the operator says that it is good, in time."""
    if not wanted:
        with suppress(OSError):
            say_lines(
                f"nobody answered on {args.interface} before, so nothing proves that {args.bridge} works; "
                f"within {args.timeout:g} seconds, in a new session, or it is put back, type:\n"
                f"    $ ovn-docker underlay bridge --interface {args.interface} --bridge {args.bridge} "
                "--confirm",
                flush=True,
            )
    end = time.monotonic() + args.timeout
    while time.monotonic() < end:
        if guard.confirmation_path(args.interface).exists():
            return True
        if wanted:
            with suppress(OvnDockerError):
                if reach.answering(wanted, args.bridge, 1) == wanted:
                    with suppress(OSError):
                        say(f"{', '.join(sorted(wanted))} answered through {args.bridge}", flush=True)
                    return True
        time.sleep(0.1)
    return False


def confirm(args: argparse.Namespace) -> int:
    """Keeps a move that waits for it."""
    if not guard.journal_path(args.interface).exists():
        raise Conflict(
            f"no move of {args.interface} waits for a confirmation; it is kept or put back already"
        )
    guard.confirmation_path(args.interface).touch()
    say(f"confirmed: {args.interface} stays in {args.bridge}")
    return 0


def undo(args: argparse.Namespace, held: int | None = None) -> int:
    """Moves what the bridge has back to the interface."""
    name, bridge = args.interface, args.bridge
    steps = Salvage(dry_run=args.dry_run)
    ours = made_for(bridge) == name
    if bridge_of(name) != bridge:
        if ours:
            steps.change(f"remove bridge {bridge}", *VSCTL, "--if-exists", "del-br", bridge)
        return steps.finish()
    others = [
        port
        for port in run((*VSCTL, "list-ports", bridge)).split()
        if port != name and (ours or port.startswith(HOST_LINK))
    ]
    if others:
        raise Conflict(
            f"{bridge} still has {', '.join(others)}; stop the containers and the driver, then run this again"
        )
    journal = Journal(name, bridge, ours, uplink.read(bridge), clients.running_on(bridge))
    if held is None:
        restore(steps, journal)
        return steps.finish()
    with guard.guarded(journal, held, GUARD):
        restore(steps, journal)
    if steps.failures:
        raise OvnDockerError(f"{name} is out of {bridge}, but: {'; '.join(steps.failures)}")
    return steps.finish()


def persist(args: argparse.Namespace, link: dict[str, Any]) -> int:
    """Prints or writes the configuration that makes the bridge last."""
    where = args.bridge if bridge_of(args.interface) == args.bridge else args.interface
    text = persistence.configuration(
        args.persistent,
        persistence.Layout(
            args.interface, args.bridge, setup.choose_datapath(args.datapath), link["address"], link["mtu"]
        ),
        uplink.read(where),
        clients.running_on(where),
    )
    if not args.output or args.dry_run:
        print_document(text)
        return 0
    try:
        args.output.write_text(text, encoding="utf-8")
        args.output.chmod(0o600)
    except OSError as error:
        raise BadRequest(f"--output {args.output} cannot be written: {error.strerror}") from None
    say(f"wrote {args.output}; what to do with it is said at its top")
    return 0


def advise(args: argparse.Namespace) -> None:
    """Says how to make it last."""
    with suppress(OSError):
        say_lines(
            "note: this lasts until the next boot. For a file that keeps it:\n"
            f"    $ ovn-docker underlay bridge --interface {args.interface} --bridge {args.bridge} "
            f"--persistent {persistence.kind_here() or '|'.join(persistence.KINDS)}",
            file=sys.stderr,
            flush=True,
        )
