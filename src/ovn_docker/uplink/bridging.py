"""The move of a network interface into a bridge from the first question to the last, and the way back.

1. Read the network of the interface, and the programs that configure it (uplink.py, dhcp.py).
2. Plan the move (stages.py), and find the hosts that answer before it (proof.py).
3. Write the journal and start the guard (journal.py, guard.py).
4. Move the network, stage by stage.
5. Prove that the bridge works: the same hosts answer, or the operator confirms it. Otherwise undo the stages.
6. Write the configuration that keeps the bridge over the next boot, if asked to (persistence.py).
"""

from contextlib import AbstractContextManager, nullcontext

from ovn_docker.errors import Conflict, OvnDockerError
from ovn_docker.model import HOST_LINK
from ovn_docker.setup.hosts.datapath import choose_datapath
from ovn_docker.uplink import dhcp, guard, persistence, proof, stages, uplink
from ovn_docker.uplink.bridge_request import BridgeRequest, require_unused
from ovn_docker.uplink.journal import Journal, confirmation_path, journal_path
from ovn_docker.uplink.ovs_bridges import VSCTL, bridge_of, bridges, made_for, ports_of

GUARD = 300.0
"""Seconds that the stages may take, a DHCP client's 60 included, until the guard ends the move."""


def move(request: BridgeRequest) -> bool:
    """Move the network of the interface to the bridge, and back unless the bridge proves to work.

    Returns False if there is nothing to move.

    Raises:
        Conflict: the bridge has addresses of its own.
        Unavailable: a host that must answer does not, before the move or after it.
        OvnDockerError: a stage failed; the network is as it was before.

    """
    require_unused(request)
    steps = stages.MoveSteps(dry_run=request.dry_run)
    with _locked(request) as lock:
        plan = _plan(request)
        if plan.is_done:
            uplink.disable_kernel_stack(steps, request.interface)
            steps.finish()
            return False
        if lock is None:
            stages.perform(steps, plan)
            return True
        hosts = proof.hosts_before(request, plan.journal.uplink, attached=plan.attached)
        with guard.guarded(plan.journal, lock, GUARD + request.timeout):
            stages.perform(steps, plan)
            proof.require(request, hosts)
    return True


def undo(request: BridgeRequest) -> None:
    """Move the network of the bridge back to the interface.

    Raises:
        Conflict: the bridge has ports of containers.
        OvnDockerError: the interface is out of the bridge, but a step on the way failed.

    """
    name, bridge = request.interface, request.bridge
    steps = stages.RestoreSteps(dry_run=request.dry_run)
    with _locked(request) as lock:
        ours = made_for(bridge) == name
        if bridge_of(name) != bridge:
            if ours:
                steps.change(f"remove bridge {bridge}", *VSCTL, "--if-exists", "del-br", bridge)
            steps.finish()
            return
        _require_unused(request, ours=ours)
        journal = Journal(name, bridge, ours, uplink.read(bridge), dhcp.running_on(bridge))
        with nullcontext() if lock is None else guard.guarded(journal, lock, GUARD):
            stages.restore(steps, journal)
    if steps.failures and not request.dry_run:
        raise OvnDockerError(f"{name} is out of {bridge}, but: {'; '.join(steps.failures)}")
    steps.finish()


def confirm(interface: str) -> None:
    """Keep a move that waits for a confirmation. Raises Conflict if no move of the interface is under way."""
    if not journal_path(interface).exists():
        raise Conflict(f"no move of {interface} waits for a confirmation; it was kept or undone already")
    confirmation_path(interface).touch()


def persistent(request: BridgeRequest, kind: str) -> str:
    """Return the file that keeps the bridge over the next boot; *kind*: one of persistence.KINDS."""
    link = uplink.description(request.interface)
    where = request.bridge if bridge_of(request.interface) == request.bridge else request.interface
    datapath = choose_datapath(request.datapath)
    layout = persistence.BridgeLayout(
        request.interface, request.bridge, datapath, link["address"], link["mtu"]
    )
    return persistence.configuration(kind, layout, uplink.read(where), dhcp.running_on(where))


def _locked(request: BridgeRequest) -> AbstractContextManager[int | None]:
    """Lock the interface, except in a dry run."""
    return nullcontext() if request.dry_run else guard.locked(request.interface)


def _plan(request: BridgeRequest) -> stages.Plan:
    """Read the interface, and plan its move. Raises Conflict or Unavailable if a client cannot be moved."""
    name, bridge = request.interface, request.bridge
    link, datapath = uplink.description(name), choose_datapath(request.datapath)
    ours = bridge not in bridges() or made_for(bridge) == name
    journal = Journal(name, bridge, ours, uplink.read(name), dhcp.running_on(name))
    for client in journal.clients:
        dhcp.settings(client)  # a file that cannot be read is an error before anything is changed
    return stages.Plan(journal, link["address"], link["mtu"], datapath, attached=bridge_of(name) == bridge)


def _require_unused(request: BridgeRequest, *, ours: bool) -> None:
    """Raise Conflict if ports of containers, or any others in a bridge of ours, would lose it."""
    name, bridge = request.interface, request.bridge
    others = [port for port in ports_of(bridge) if port != name and (ours or port.startswith(HOST_LINK))]
    if others:
        raise Conflict(
            f"{bridge} still has {', '.join(others)}; stop the containers and the driver, then run this again"
        )
