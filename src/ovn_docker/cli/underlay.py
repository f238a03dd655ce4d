"""``ovn-docker underlay``: a virtual machine of a cloud whose containers are on the cloud's networks.

``bridge`` is the second step of OVN's guide, done safely: the operator is often logged in over the very
interface that is moved. Before the first change the state is written to a file, the journal, and a *guard* is
started, a process of its own: if the journal is still there when this process ends, however it ends, the
guard restores what is in it.
"""

import argparse
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

from ovn_docker.cli import clients, persistence, setup, uplink
from ovn_docker.cli.arguments import add_command, address, require_root
from ovn_docker.cli.clients import Client
from ovn_docker.cli.host import vswitch_running
from ovn_docker.cli.steps import StepFailed, Steps, booted_with_systemd, require, run
from ovn_docker.cli.uplink import Uplink
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, Unavailable
from ovn_docker.model import HOST_LINK

STATE = Path("/run/ovn-docker")
VSCTL = ("ovs-vsctl", "--timeout=10")
MADE_FOR = "ovn-docker:interface"
"""Key in external_ids of a bridge that we made: the interface that it was made for."""

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
    hidden.set_defaults(run=guard)


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


class Careful(Steps):
    """Steps that go on when nobody reads what they say: the terminal may be gone."""

    def note(self, what: str, command: str) -> None:
        """Says a change."""
        with suppress(OSError):
            super().note(what, command)


class Salvage(Careful):
    """Steps of a restoration: one that fails does not keep the others from being done."""

    def __init__(self, *, dry_run: bool = False) -> None:
        super().__init__(dry_run=dry_run)
        self.failures: list[str] = []

    def change(self, what: str, *argv: str) -> None:
        """Does what it can."""
        try:
            super().change(what, *argv)
        except OvnDockerError as error:
            self.failures.append(str(error))


@dataclass(frozen=True)
class Journal:
    """What has to be on the interface when the bridge is gone."""

    interface: str
    bridge: str
    ours: bool
    """Whether the bridge was made by us, and goes."""
    uplink: Uplink
    clients: list[Client]

    def write(self) -> None:
        """Returns when it is where the guard finds it."""
        path = journal_path(self.interface)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(asdict(self)), encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Journal":
        """Raises OSError, ValueError, TypeError or KeyError when there is none that can be used."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        known = {
            "uplink": Uplink(**fields["uplink"]),
            "clients": [Client(**one) for one in fields["clients"]],
        }
        return cls(**(fields | known))


def journal_path(interface: str) -> Path:
    """Where the journal of a move in progress is; it goes with a reboot, as addresses and routes do."""
    return STATE / f"underlay-{interface}.json"


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
    with lock(args.interface) as held:
        with suppress(FileNotFoundError):
            left = Journal.read(journal_path(args.interface))
            print(f"an earlier move of {args.interface} was cut off; putting back what it had")
            put_back(left)
        confirmation_path(args.interface).unlink(missing_ok=True)
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
        if taken and not journal_path(name).exists():
            raise Conflict(
                f"--bridge {args.bridge} has addresses of its own ({', '.join(taken)}); take another"
            )


def bridge_of(port: str) -> str | None:
    """The Open vSwitch bridge that has the port, if any."""
    try:
        return run((*VSCTL, "port-to-br", port)).strip()
    except StepFailed:
        return None


def made_for(name: str) -> str:
    """The interface that we made a bridge for; empty for bridges of others and those that are not there."""
    try:
        value = run((*VSCTL, "--if-exists", "get", "Bridge", name, f'external_ids:"{MADE_FOR}"'))
    except StepFailed:
        return ""
    return value.strip().strip('"')


@contextmanager
def lock(interface: str) -> Iterator[int]:
    """Be the only one at work on an interface; the guard holds the lock too, as long as it lives.

    Raises:
        Conflict: somebody else is.

    """
    STATE.mkdir(mode=0o755, exist_ok=True)
    held = os.open(STATE / f"underlay-{interface}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"a move of {interface} is under way, or is being put back; wait a minute, or add --confirm"
            ) from None
        yield held
    finally:
        os.close(held)


# The move


def move(args: argparse.Namespace, link: dict[str, Any], held: int | None = None) -> int:
    """Moves what the interface has to the bridge, and puts it back unless that proves good."""
    name = args.interface
    datapath = setup.choose_datapath(args.datapath)
    attached = bridge_of(name) == args.bridge
    ours = args.bridge not in run((*VSCTL, "list-br")).split() or made_for(args.bridge) == name
    journal = Journal(name, args.bridge, ours, uplink.read(name), clients.running_on(name))
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
    with guarded(journal, held, GUARD + args.timeout):
        perform(steps, journal, link, datapath, attached=attached)
        if not (args.yes or proven(args, wanted)):
            raise Unavailable(
                f"{', '.join(sorted(wanted)) or 'nobody'} answered through {args.bridge} within "
                f"{args.timeout:g} seconds and nobody confirmed it; all is as it was before"
            )
    advise(args)
    return 0


def perform(steps: Steps, journal: Journal, link: dict[str, Any], datapath: str, *, attached: bool) -> None:
    """The steps of the move.

    The host answers on its addresses all the time: they are on the bridge before packets come in there, and
    stay on the interface until the routes lead over the bridge.
    """
    name, bridge, had = journal.interface, journal.bridge, journal.uplink
    bare = any(client.wants_bare_link for client in journal.clients)
    early = [words for words in had.addresses if words[0] == "-6" or not bare]
    if not attached or uplink.description(bridge)["address"] != link["address"]:
        make_bridge(steps, journal, link, datapath)
    if not attached:
        uplink.set_sysctls(steps, had.sysctls, bridge, None if uplink.exists(bridge) else "default")
    # The kernel gives a link that comes up a link-local address, after looking whether others have it.
    local = [words for words in had.addresses if words[0] == "-6" and "link" in words]
    uplink.add_addresses(steps, replace(had, addresses=local), bridge)
    if not uplink.is_up(bridge):
        steps.change(f"set {bridge} up", "ip", "link", "set", "dev", bridge, "up")
    rest = [words for words in early if words not in local]
    uplink.add_addresses(steps, replace(had, addresses=rest), bridge)
    for client in journal.clients:
        clients.stop(steps, client, name)
    if not attached:
        add_port(steps, journal)
    for client in journal.clients:
        clients.start(steps, client, name, bridge)
    # Of a DHCP client nothing is missing by now; its copies would outlive its lease.
    late = [words for words in had.addresses if not steps.dry_run or words not in early]
    uplink.add_addresses(steps, replace(had, addresses=late), bridge)
    uplink.add_routes(steps, had, bridge)
    uplink.remove_all(steps, had, name)
    uplink.silence(steps, name)
    move_dns(steps, name, bridge)


def make_bridge(steps: Steps, journal: Journal, link: dict[str, Any], datapath: str) -> None:
    """Make the bridge, with the MAC and MTU of the interface; one that is there keeps its settings."""
    mac, bridge = link["address"], journal.bridge
    settings = [f'other_config:hwaddr="{mac}"']
    if journal.ours:
        settings += [f"datapath_type={datapath}", f'external_ids:"{MADE_FOR}"={journal.interface}']
    steps.change(
        f"make bridge {bridge}",
        *VSCTL, "--may-exist", "add-br", bridge, "--", "set", "Bridge", bridge, *settings,
        "--", "set", "Interface", bridge, f"mtu_request={link['mtu']}",
    )  # fmt: skip
    steps.wait(
        f"the link {bridge}",
        lambda: uplink.exists(bridge) and uplink.description(bridge)["address"] == mac,
        seconds=10,
        hint="see /var/log/openvswitch/ovs-vswitchd.log",
    )


def add_port(steps: Steps, journal: Journal) -> None:
    """Make the interface the bridge's port: from now on its packets come in on the bridge.

    Raises:
        StepFailed: Open vSwitch cannot take it.

    """
    name = journal.interface
    # Where the distribution clears transient ports at boot, a machine on which this is not made persistent
    # starts as it did before (ovs-ctl(8), delete-transient-ports).
    steps.change(
        f"make {name} a port of {journal.bridge}",
        *VSCTL, "--may-exist", "add-port", journal.bridge, name, "--", "set", "Port", name,
        "other_config:transient=true",
    )  # fmt: skip
    if not steps.dry_run:
        problem = run((*VSCTL, "--if-exists", "get", "Interface", name, "error")).strip()
        if problem not in {"", "[]"}:
            raise StepFailed(f"Open vSwitch cannot take {name} as a port: {problem}")


def move_dns(steps: Steps, old: str, new: str) -> None:
    """What systemd-resolved knows for the interface; systemd-networkd brings its own (resolvectl(1))."""
    for what in ("dns", "domain"):
        try:
            values = run(("resolvectl", what, old)).partition("):")[2].split()
        except OvnDockerError:
            return  # no systemd-resolved: /etc/resolv.conf belongs to no interface
        if values:
            with suppress(StepFailed):  # systemd-networkd has set it
                steps.change(f"let {new} have the {what} settings of {old}", "resolvectl", what, new, *values)


# Proof, and the way back


def reachable_before(args: argparse.Namespace, journal: Journal, *, attached: bool) -> set[str]:
    """Who has to answer through the bridge: those asked for, or of the usual ones those that answer now.

    Raises:
        Unavailable: one that was asked for does not answer now.

    """
    name = args.interface
    if args.reach:
        asked = {str(ip) for ip in args.reach}
        silent = asked - uplink.answering(asked, name, BASELINE) if not attached else set()
        if silent:
            raise Unavailable(
                f"--reach {', '.join(sorted(silent))} does not answer on {name} as it is; nothing was changed"
            )
        return asked
    usual = set(uplink.gateways(journal.uplink))
    session = uplink.remote_of_session()
    if session and "%" not in session and uplink.goes_through(session, name):
        usual.add(session)
    usual = usual or set(uplink.neighbours(name))
    usual = {target for target in usual if ip_address(target)}
    return usual if attached else uplink.answering(usual, name, BASELINE)


def proven(args: argparse.Namespace, wanted: set[str]) -> bool:
    """Whether all of *wanted* answer through the bridge, or the operator says that it is good, in time."""
    if not wanted:
        with suppress(OSError):
            print(
                f"nobody answered on {args.interface} before, so nothing proves that {args.bridge} works; "
                f"within {args.timeout:g} seconds, in a new session, or it is put back, type:\n"
                f"    $ ovn-docker underlay bridge --interface {args.interface} --bridge {args.bridge} "
                "--confirm",
                flush=True,
            )
    end = time.monotonic() + args.timeout
    while time.monotonic() < end:
        if confirmation_path(args.interface).exists():
            return True
        if wanted:
            with suppress(OvnDockerError):
                if uplink.answering(wanted, args.bridge, 1) == wanted:
                    with suppress(OSError):
                        print(f"{', '.join(sorted(wanted))} answered through {args.bridge}", flush=True)
                    return True
        time.sleep(0.1)
    return False


def confirmation_path(interface: str) -> Path:
    """The file that says yes."""
    return STATE / f"underlay-{interface}.confirmed"


def confirm(args: argparse.Namespace) -> int:
    """Keeps a move that waits for it."""
    if not journal_path(args.interface).exists():
        raise Conflict(
            f"no move of {args.interface} waits for a confirmation; it is kept or put back already"
        )
    confirmation_path(args.interface).touch()
    print(f"confirmed: {args.interface} stays in {args.bridge}")
    return 0


@contextmanager
def guarded(journal: Journal, held: int, patience: float) -> Iterator[None]:
    """Whatever happens inside, the host has a network afterwards: kept as it is at the end, or put back.

    It may take *patience* seconds.

    While it lasts, the end of the session (SIGHUP) does not end this process.
    """
    journal.write()
    try:
        protection, lifeline = start_guard(journal, held, patience)
    except BaseException:
        journal_path(journal.interface).unlink(missing_ok=True)
        raise
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            yield
        except BaseException as error:
            with suppress(OSError):
                print(f"putting back what {journal.interface} had: {_cause(error)}", flush=True)
            put_back(journal)
            raise
        journal_path(journal.interface).unlink(missing_ok=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(lifeline)
        protection.wait()


def _terminate(*_: object) -> NoReturn:
    raise OvnDockerError("terminated; all is as it was before")


def _cause(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)


def start_guard(journal: Journal, held: int, patience: float) -> tuple["subprocess.Popen[bytes]", int]:
    """Start the process that puts everything back should this one die: it watches a pipe, the lifeline.

    It is in a session of its own, and where systemd runs the machine in a scope of its own: logind may end
    all processes of a login session (logind.conf(5), KillUserProcesses).
    Raises Unavailable if it does not start.
    """
    scope = ["systemd-run", "--scope", "--collect", "--quiet"] if booted_with_systemd() else []
    argv = [sys.executable, "-m", "ovn_docker.cli.main", "underlay", "guard"]
    watched, lifeline = os.pipe()
    ready, answer = os.pipe()
    with (STATE / f"underlay-{journal.interface}.log").open("wb") as log:
        process = subprocess.Popen(
            [*scope, *argv, str(journal_path(journal.interface)), str(patience)],
            stdin=watched,
            stdout=answer,
            stderr=log,
            pass_fds=[held],
            start_new_session=True,
        )
    os.close(watched)
    os.close(answer)
    with os.fdopen(ready, "rb") as said:
        if said.readline() == b"ready\n":
            return process, lifeline
    os.close(lifeline)
    raise Unavailable(f"the guard of this move did not start, so nothing was changed; see {log.name}")


def guard(args: argparse.Namespace) -> int:
    """Waits for the end of its parent, or loses patience with it; then restores, if there is a journal."""
    parent = os.pidfd_open(os.getppid())
    journal = Journal.read(args.journal)
    os.write(1, b"ready\n")
    os.dup2(2, 1)
    over, _, _ = select.select([0], [], [], args.patience)
    if args.journal.exists():
        if not over:  # it hangs; if it is over, it is dead, and whoever is our parent by now is somebody else
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(parent, signal.SIGKILL)
        put_back(journal)
    return 0


def put_back(journal: Journal) -> None:
    """Restores what the journal says, as far as it can, and forgets it."""
    steps = Salvage()
    restore(steps, journal)
    journal_path(journal.interface).unlink(missing_ok=True)
    for failure in steps.failures:
        print(f"warning: {failure}", file=sys.stderr, flush=True)


def restore(steps: Salvage, journal: Journal) -> None:
    """The steps back; each may have been done already, and none depends on that another one worked."""
    name, bridge, had = journal.interface, journal.bridge, journal.uplink
    on_bridge = running(steps, bridge) if uplink.exists(bridge) else []
    for client in on_bridge:
        clients.stop(steps, client, bridge)
    if any(client.wants_bare_link for client in journal.clients):
        # A client that finds its address does not renew its lifetime; it removes it when the lease ends.
        had = replace(had, addresses=[_without_lifetime(words) for words in had.addresses])
    salvage(steps, lambda: uplink.set_sysctls(steps, uplink.speech(had.sysctls), name))
    steps.change(f"set {name} up", "ip", "link", "set", "dev", name, "up")
    salvage(steps, lambda: uplink.add_addresses(steps, had, name))
    salvage(steps, lambda: uplink.add_routes(steps, had, name))
    salvage(steps, lambda: move_dns(steps, bridge, name))
    if journal.ours:
        steps.change(f"remove bridge {bridge}", *VSCTL, "--if-exists", "del-br", bridge)
        salvage(steps, lambda: uplink.remove_rules(steps, had, bridge))
    else:
        if bridge_of(name) == bridge:
            steps.change(f"take {name} out of {bridge}", *VSCTL, "--if-exists", "del-port", bridge, name)
        if uplink.exists(bridge):
            salvage(steps, lambda: uplink.remove_all(steps, had, bridge))
    there = {client.program for client in running(steps, name)}
    for client in journal.clients:
        if client.program not in there or client.program == "systemd-networkd":
            salvage(steps, partial(clients.start, steps, client, bridge, name, back=True))
    if journal.clients:
        salvage(steps, lambda: uplink.add_addresses(steps, had, name))
        salvage(steps, lambda: uplink.add_routes(steps, had, name))


def salvage(steps: Salvage, act: Callable[[], None]) -> None:
    """Do it; what goes wrong is said at the end."""
    try:
        act()
    except OvnDockerError as error:
        steps.failures.append(str(error))


def running(steps: Salvage, link: str) -> list[Client]:
    """The clients on a link, as far as they can be found."""
    found: list[Client] = []
    salvage(steps, lambda: found.extend(clients.running_on(link)))
    return found


def _without_lifetime(words: list[str]) -> list[str]:
    if words[0] == "-6" or "valid_lft" not in words:
        return words
    at = words.index("valid_lft")
    return words[:at] + words[at + 4 :]


# What may be asked for instead


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
    with guarded(journal, held, GUARD):
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
        print(text, end="")
        return 0
    try:
        args.output.write_text(text, encoding="utf-8")
        args.output.chmod(0o600)
    except OSError as error:
        raise BadRequest(f"--output {args.output} cannot be written: {error.strerror}") from None
    print(f"wrote {args.output}; what to do with it is said at its top")
    return 0


def advise(args: argparse.Namespace) -> None:
    """Says how to make it last."""
    with suppress(OSError):
        print(
            "note: this lasts until the next boot. For a file that keeps it:\n"
            f"    $ ovn-docker underlay bridge --interface {args.interface} --bridge {args.bridge} "
            f"--persistent {persistence.kind_here() or '|'.join(persistence.KINDS)}",
            file=sys.stderr,
            flush=True,
        )
