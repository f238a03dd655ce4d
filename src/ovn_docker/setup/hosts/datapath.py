"""The datapath of Open vSwitch on this machine, in the kernel or in user space, and its tunnels."""

from pathlib import Path

from ovn_docker.errors import BadRequest
from ovn_docker.host.run import succeeds
from ovn_docker.host.vsctl import rows
from ovn_docker.model import ENCAPS
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.vswitch_row import vswitch_not_running


def choose_datapath(wanted: str) -> str:
    """Return ``system`` or ``netdev``; for ``auto`` the kernel's if the kernel has one.

    Raises:
        BadRequest: ``system`` is wanted and the kernel has no datapath.

    """
    if wanted == "netdev":
        return wanted
    # The last covers a kernel with openvswitch built in, which shows in neither place of kernel_has.
    if kernel_has("openvswitch") or succeeds("ovs-dpctl", "dump-dps"):
        return "system"
    if wanted == "system":
        raise BadRequest(
            "--datapath system: this kernel has no openvswitch module; "
            "install a kernel that has it, or use --datapath netdev"
        )
    return "netdev"


def kernel_has(module: str) -> bool:
    """Return whether a kernel module is loaded, built in with parameters, or can be loaded (modprobe(8))."""
    return Path(f"/sys/module/{module}").is_dir() or succeeds("modprobe", "--dry-run", "--quiet", module)


def require_encapsulation(kind: str, datapath: str, iface_types: list[str]) -> None:
    """Raise BadRequest, with the kinds of tunnel that work here, if a kind does not.

    Kernel: Open vSwitch has the kernel make the tunnel device, so the module of that name is needed; upstream
    Linux has no STT (OVN's guide). Userspace: ovs-vswitchd lists the types that it knows in the column
    iface_types (ovs-vswitchd.conf.db(5)), but knows STT by name only and cannot send it.
    """
    if datapath == "netdev" and not iface_types:
        raise vswitch_not_running("ovs-vswitchd")
    usable = [
        known
        for known in ENCAPS
        if known != "stt" and (kernel_has(known) if datapath == "system" else known in iface_types)
    ]
    if kind not in usable:
        where = {"system": "the kernel datapath", "netdev": "the userspace datapath (netdev)"}[datapath]
        raise BadRequest(
            f"--encap-type {kind}: {where} of this host supports {' and '.join(usable) or 'no tunnel'}"
        )


def move_bridge(steps: Steps, bridge: str, datapath: str) -> None:
    """Move the integration bridge to another datapath, if the bridge exists on the wrong one."""
    for row in rows("Bridge", "name", "datapath_type"):
        now = row.text("datapath_type") or "system"
        if row.text("name") == bridge and now != datapath:
            steps.change(
                f"move {bridge} from datapath {now} to {datapath} (cuts its containers off for a moment)",
                "ovs-vsctl", "--no-wait", "set", "Bridge", bridge, f"datapath_type={datapath}",
            )  # fmt: skip


def advise_bridge(steps: Steps, interface: str) -> None:
    """Warn if the userspace datapath cannot send tunnels through the interface that has the encap IP.

    This datapath sends only through its own ports (Open vSwitch documentation, howto/userspace-tunneling).
    """
    if interface == "lo" or succeeds("ovs-vsctl", "--timeout=5", "br-exists", interface):
        return
    bridge = f"br{interface}"[:15]
    steps.advise(
        f"note: this kernel has no openvswitch module, and in user space tunnels to other hosts need\n"
        f"{interface} as a port of a bridge that has its addresses and routes (a host alone does not):\n"
        f"    $ ovn-docker underlay bridge --interface {interface} --bridge {bridge}"
    )
