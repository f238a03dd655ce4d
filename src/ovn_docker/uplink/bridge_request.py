"""The request to move a network interface into a bridge, and the conditions under which it can be met."""

from dataclasses import dataclass

from ovn_docker.errors import BadRequest, Conflict
from ovn_docker.host.run import require
from ovn_docker.setup.hosts.host_services import vswitch_running
from ovn_docker.setup.vswitch_row import read_external_ids, vswitch_not_running
from ovn_docker.uplink import uplink
from ovn_docker.uplink.journal import journal_path
from ovn_docker.uplink.ovs_bridges import bridge_of, bridges


@dataclass(frozen=True)
class BridgeRequest:
    """A move of an interface into a bridge, as the operator asks for it."""

    interface: str
    bridge: str
    datapath: str = "auto"
    """Datapath of the bridge: ``system``, ``netdev``, or ``auto`` for the kernel's if the kernel has one."""
    reach: frozenset[str] = frozenset()
    """Addresses that must answer through the bridge; empty: the usual ones (proof.py)."""
    timeout: float = 30.0
    """Seconds to wait for an answer or for a confirmation."""
    unproven: bool = False
    """True if the move is kept without proof."""
    dry_run: bool = False


def require_names(request: BridgeRequest) -> None:
    """Raise BadRequest for a name that no interface can have."""
    for option, name in (("--interface", request.interface), ("--bridge", request.bridge)):
        # The rule of dev_valid_name() in Linux, net/core/dev.c.
        if not 0 < len(name) <= 15 or name in {".", ".."} or any(c in "/:" or c.isspace() for c in name):
            raise BadRequest(
                f"{option} {name!r} is not a valid name: use 1 to 15 characters without spaces, / and :"
            )
    if request.interface == request.bridge:
        raise BadRequest(
            f"--bridge {request.bridge} is the interface itself; give another name for the bridge"
        )


def require_usable(request: BridgeRequest, *, undo: bool) -> None:
    """Check that the interface can be a port of the bridge; *undo*: the move is to be undone.

    Raises:
        BadRequest: the interface or the bridge does not exist or has another purpose.
        Conflict: the interface belongs to another bridge, or the bridge's name to another link.
        Unavailable: Open vSwitch or ip(8) is not installed, or Open vSwitch does not run.

    """
    name, bridge = request.interface, request.bridge
    require("ip")
    link = uplink.description(name)
    require("ovs-vsctl")
    if not vswitch_running():
        raise vswitch_not_running("Open vSwitch")
    if "LOOPBACK" in link["flags"]:
        raise BadRequest(f"--interface {name} is the loopback interface; give one that leads to the network")
    if link["link_type"] != "ether":
        raise BadRequest(f"--interface {name}: only Ethernet interfaces can be a bridge's port")
    present = bridges()
    if name in present:
        raise BadRequest(
            f"--interface {name} is an Open vSwitch bridge; give the interface that is to be its port"
        )
    if not undo and bridge == _integration_bridge():
        raise BadRequest(
            f"--bridge {bridge} is the integration bridge and would cut {name} off; give another one"
        )
    master = link.get("master")
    if master not in {None, "ovs-system"}:
        raise Conflict(
            f"{name} is a part of {master}; give {master}, or run `ip link set {name} nomaster` first"
        )
    owner = bridge_of(name)
    if owner not in {None, bridge}:
        raise Conflict(
            f"{name} is a port of bridge {owner}; give --bridge {owner}, or remove it from there first"
        )
    if bridge not in present and uplink.exists(bridge):
        raise Conflict(f"--bridge {bridge}: a link of that name exists and is not an Open vSwitch bridge")


def require_unused(request: BridgeRequest) -> None:
    """Raise Conflict if the bridge has addresses of its own, and no move into it is under way."""
    name, bridge = request.interface, request.bridge
    if bridge in bridges() and bridge_of(name) is None and not journal_path(name).exists():
        taken = [words[1] for words in uplink.read(bridge).addresses if "link" not in words]
        if taken:
            raise Conflict(
                f"--bridge {bridge} has addresses of its own ({', '.join(taken)}); give another bridge"
            )


def _integration_bridge() -> str | None:
    """Return ovn-controller's bridge; ``None`` before ``ovn-docker host setup``."""
    ids = read_external_ids()
    return ids.get("ovn-bridge", "br-int") if "ovn-remote" in ids else None
