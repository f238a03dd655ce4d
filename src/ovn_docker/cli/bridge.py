"""The move of a network interface into an Open vSwitch bridge: its steps, and those back."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ovn_docker.cli import clients, uplink
from ovn_docker.cli.clients import Client
from ovn_docker.cli.steps import StepFailed, Steps, run
from ovn_docker.cli.uplink import Uplink
from ovn_docker.errors import OvnDockerError

VSCTL = ("ovs-vsctl", "--timeout=10")
MADE_FOR = "ovn-docker:interface"
"""Key in external_ids of a bridge that we made: the interface that it was made for."""


class Careful(Steps):
    """Steps that go on when nobody reads what they say: the terminal may be gone."""

    def note(self, what: str, command: str, *, first: Iterable[str] = ()) -> None:
        """Says a change."""
        with suppress(OSError):
            super().note(what, command, first=first)


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
