"""The stages of a move of a network interface into a bridge, each with its undo.

`perform` runs the stages in the order of `STAGES`; `restore` runs their undos in the reverse order. An undo
needs the journal only, and works whether its stage was run, was cut off, or was never reached: a restoration
runs all of them, in whichever process is left to do it.

The host answers on its addresses all the time: they are on the bridge before packets come in there, and stay
on the interface until the routes lead over the bridge.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from ovn_docker.errors import OvnDockerError
from ovn_docker.host.run import StepFailed, run
from ovn_docker.setup.steps import Steps
from ovn_docker.uplink import dhcp, uplink
from ovn_docker.uplink.dhcp import DhcpClient
from ovn_docker.uplink.journal import Journal
from ovn_docker.uplink.ovs_bridges import MADE_FOR, VSCTL, bridge_of, problem_of


class MoveSteps(Steps):
    """Steps that go on when their output cannot be written: the terminal may be gone."""

    def show(self, what: str, command: str, *, first: Iterable[str] = ()) -> None:
        """Print a change."""
        with suppress(OSError):
            super().show(what, command, first=first)


class RestoreSteps(MoveSteps):
    """Steps of a restoration: a step that fails does not keep the others from being done."""

    def __init__(self, *, dry_run: bool = False) -> None:
        super().__init__(dry_run=dry_run)
        self.failures: list[str] = []

    def change(self, what: str, *argv: str, unless: Callable[[], bool] = lambda: False) -> None:
        """Make a change, or record its failure."""
        self.attempt(lambda: super(RestoreSteps, self).change(what, *argv, unless=unless))

    def attempt(self, act: Callable[[], None]) -> None:
        """Call *act*, and record its failure."""
        try:
            act()
        except OvnDockerError as error:
            self.failures.append(str(error))


@dataclass(frozen=True)
class Plan:
    """A move that is about to be made: the journal, and the values that the bridge gets."""

    journal: Journal
    mac: str
    mtu: int
    datapath: str
    """Column datapath_type of a bridge that has to be made."""
    attached: bool
    """True if the interface is a port of the bridge already."""

    @property
    def is_done(self) -> bool:
        """True if the interface is in the bridge and has nothing that could be moved."""
        had = self.journal.uplink
        return self.attached and not (had.addresses or had.routes or self.journal.wants_bare_link)

    @property
    def early(self) -> list[list[str]]:
        """Addresses that are added before the bridge has a port; a DHCP client adds IPv4 addresses itself."""
        bare = self.journal.wants_bare_link
        return [words for words in self.journal.uplink.addresses if words[0] == "-6" or not bare]


Undo = Callable[[RestoreSteps, Journal], None]


@dataclass(frozen=True)
class Stage:
    """A part of the move. *undo* is idempotent; a stage without one is undone by an earlier stage's undo."""

    do: Callable[[Steps, Plan], None] | None = None
    undo: Undo | None = None


def perform(steps: Steps, plan: Plan) -> None:
    """Move the network of the interface to the bridge."""
    for stage in STAGES:
        if stage.do is not None:
            stage.do(steps, plan)


def restore(steps: RestoreSteps, journal: Journal) -> None:
    """Move the network of the bridge back to the interface, as far as possible."""
    for stage in reversed(STAGES):
        if stage.undo is not None:
            steps.attempt(partial(stage.undo, steps, journal))


# Clients of the interface


def _stop_clients(steps: Steps, plan: Plan) -> None:
    for client in plan.journal.clients:
        dhcp.stop(steps, client, plan.journal.interface)


def _start_clients_again(steps: RestoreSteps, journal: Journal) -> None:
    """Start the clients that do not run on the interface, and add again the addresses that they removed."""
    name = journal.interface
    running = {client.program for client in _running(steps, name)}
    for client in journal.clients:
        if client.program not in running or client.program == "systemd-networkd":
            steps.attempt(partial(dhcp.start, steps, client, journal.bridge, name, back=True))
    if journal.clients:
        _give_interface_addresses(steps, journal)
        steps.attempt(lambda: _give_interface_routes(steps, journal))


def _start_clients(steps: Steps, plan: Plan) -> None:
    for client in plan.journal.clients:
        dhcp.start(steps, client, plan.journal.interface, plan.journal.bridge)


def _stop_clients_of_bridge(steps: RestoreSteps, journal: Journal) -> None:
    for client in _running(steps, journal.bridge) if uplink.exists(journal.bridge) else []:
        dhcp.stop(steps, client, journal.bridge)


def _running(steps: RestoreSteps, link: str) -> list[DhcpClient]:
    """Return the clients of a link, as far as they can be found."""
    found: list[DhcpClient] = []
    steps.attempt(lambda: found.extend(dhcp.running_on(link)))
    return found


# The bridge and its port


def _make_bridge(steps: Steps, plan: Plan) -> None:
    """Make the bridge, with the MAC and MTU of the interface; an existing bridge keeps its settings."""
    mac, bridge = plan.mac, plan.journal.bridge
    if plan.attached and uplink.description(bridge)["address"] == mac:
        return
    settings = [f'other_config:hwaddr="{mac}"']
    if plan.journal.ours:
        settings += [
            f"datapath_type={plan.datapath}",
            f'external_ids:"{MADE_FOR}"={plan.journal.interface}',
        ]
    steps.change(
        f"make bridge {bridge}",
        *VSCTL, "--may-exist", "add-br", bridge, "--", "set", "Bridge", bridge, *settings,
        "--", "set", "Interface", bridge, f"mtu_request={plan.mtu}",
    )  # fmt: skip
    steps.wait(
        f"the link {bridge}",
        lambda: uplink.exists(bridge) and uplink.description(bridge)["address"] == mac,
        seconds=10,
        hint="see /var/log/openvswitch/ovs-vswitchd.log",
    )


def _remove_bridge(steps: RestoreSteps, journal: Journal) -> None:
    if journal.ours:
        steps.change(f"remove bridge {journal.bridge}", *VSCTL, "--if-exists", "del-br", journal.bridge)
        uplink.remove_rules(steps, journal.restorable, journal.bridge)


def _copy_settings(steps: Steps, plan: Plan) -> None:
    bridge = plan.journal.bridge
    if not plan.attached:
        of_link = None if uplink.exists(bridge) else "default"
        uplink.set_sysctls(steps, plan.journal.uplink.sysctls, bridge, of_link)


def _add_port(steps: Steps, plan: Plan) -> None:
    """Make the interface the bridge's port: from now on its packets come in on the bridge.

    Raises:
        StepFailed: Open vSwitch cannot take it.

    """
    name, bridge = plan.journal.interface, plan.journal.bridge
    if plan.attached:
        return
    # Where the distribution clears transient ports at boot, a machine on which this is not made persistent
    # starts as it did before (ovs-ctl(8), delete-transient-ports).
    steps.change(
        f"make {name} a port of {bridge}",
        *VSCTL, "--may-exist", "add-port", bridge, name, "--", "set", "Port", name,
        "other_config:transient=true",
    )  # fmt: skip
    if not steps.dry_run and (problem := problem_of(name)):
        raise StepFailed(f"Open vSwitch cannot take {name} as a port: {problem}")


def _take_port_out(steps: RestoreSteps, journal: Journal) -> None:
    """Take the interface out of a bridge that stays; one of ours is removed together with its ports."""
    name, bridge = journal.interface, journal.bridge
    if not journal.ours and bridge_of(name) == bridge:
        steps.change(f"remove {name} from {bridge}", *VSCTL, "--if-exists", "del-port", bridge, name)


# Addresses and routes


def _add_early_addresses(steps: Steps, plan: Plan) -> None:
    """Add the addresses that the bridge can have together with the interface, and set the bridge up."""
    had, bridge = plan.journal.uplink, plan.journal.bridge
    # The kernel gives a link that comes up a link-local address, after looking whether others have it.
    local = [words for words in had.addresses if words[0] == "-6" and "link" in words]
    uplink.add_addresses(steps, replace(had, addresses=local), bridge)
    if not uplink.is_up(bridge):
        steps.change(f"set {bridge} up", "ip", "link", "set", "dev", bridge, "up")
    rest = [words for words in plan.early if words not in local]
    uplink.add_addresses(steps, replace(had, addresses=rest), bridge)


def _strip_bridge(steps: RestoreSteps, journal: Journal) -> None:
    if not journal.ours and uplink.exists(journal.bridge):
        uplink.remove_all(steps, journal.restorable, journal.bridge)


def _add_late_addresses(steps: Steps, plan: Plan) -> None:
    """Add the remaining addresses, after the DHCP clients: copies of theirs would outlive the lease."""
    had = plan.journal.uplink
    late = [words for words in had.addresses if not steps.dry_run or words not in plan.early]
    uplink.add_addresses(steps, replace(had, addresses=late), plan.journal.bridge)


def _give_bridge_routes(steps: Steps, plan: Plan) -> None:
    uplink.add_routes(steps, plan.journal.uplink, plan.journal.bridge)


def _give_interface_routes(steps: RestoreSteps, journal: Journal) -> None:
    uplink.add_routes(steps, journal.restorable, journal.interface)


def _strip_interface(steps: Steps, plan: Plan) -> None:
    uplink.remove_all(steps, plan.journal.uplink, plan.journal.interface)


def _give_interface_addresses(steps: RestoreSteps, journal: Journal) -> None:
    steps.attempt(lambda: uplink.add_addresses(steps, journal.restorable, journal.interface))


# The kernel and systemd-resolved


def _disable_kernel_stack(steps: Steps, plan: Plan) -> None:
    uplink.disable_kernel_stack(steps, plan.journal.interface)


def _enable_kernel_stack(steps: RestoreSteps, journal: Journal) -> None:
    name = journal.interface
    had = uplink.kernel_stack_settings(journal.uplink.sysctls)
    steps.attempt(lambda: uplink.set_sysctls(steps, had, name))
    steps.change(f"set {name} up", "ip", "link", "set", "dev", name, "up")


def _move_dns(steps: Steps, old: str, new: str) -> None:
    """Copy the settings that systemd-resolved has for a link (resolvectl(1))."""
    for what in ("dns", "domain"):
        try:
            values = run(("resolvectl", what, old)).partition("):")[2].split()
        except OvnDockerError:
            return  # no systemd-resolved: /etc/resolv.conf belongs to no interface
        if values:
            with suppress(StepFailed):  # systemd-networkd sets its own
                steps.change(f"copy the {what} settings of {old} to {new}", "resolvectl", what, new, *values)


STAGES = (
    Stage(undo=_start_clients_again),  # last of the undos: a client needs the interface as it was
    Stage(_make_bridge, _remove_bridge),
    Stage(_copy_settings),
    Stage(_add_early_addresses, _strip_bridge),
    Stage(_stop_clients),  # not earlier: a bridge that cannot be made must not cost the lease
    Stage(_add_port, _take_port_out),
    Stage(_start_clients, _stop_clients_of_bridge),
    Stage(_add_late_addresses),
    Stage(_give_bridge_routes, _give_interface_routes),
    Stage(_strip_interface, _give_interface_addresses),
    Stage(_disable_kernel_stack, _enable_kernel_stack),
    Stage(
        lambda steps, plan: _move_dns(steps, plan.journal.interface, plan.journal.bridge),
        lambda steps, journal: _move_dns(steps, journal.bridge, journal.interface),
    ),
)
