"""The settings of Open vSwitch on this machine: the only row of table Open_vSwitch, read by ovs-vsctl(8)."""

from ovn_docker.errors import Unavailable
from ovn_docker.host.distribution import distribution
from ovn_docker.host.ovsdb import Row
from ovn_docker.host.places import booted_with_systemd
from ovn_docker.host.run import StepFailed, require
from ovn_docker.host.vsctl import rows

VSWITCH_START = ("/usr/share/openvswitch/scripts/ovs-ctl", "start", "--system-id=random")
"""The command with which the distributions' own units start Open vSwitch."""


def read_vswitch(*columns: str) -> Row:
    """Return columns of the row.

    Raises:
        Unavailable: Open vSwitch is not installed or does not run.

    """
    require("ovs-vsctl")
    try:
        return rows("Open_vSwitch", *columns)[0]
    except (StepFailed, IndexError):
        raise vswitch_not_running("Open vSwitch") from None


def read_external_ids() -> dict[str, str]:
    """Return the settings for OVN (ovn-controller(8)). Raises Unavailable as `read_vswitch` does."""
    return read_vswitch("external_ids").map("external_ids")


def vswitch_not_running(part: str) -> Unavailable:
    """Return the error for a part of Open vSwitch that is needed and does not run."""
    by_unit = f"systemctl start {distribution().vswitch}"
    command = by_unit if booted_with_systemd() else " ".join(VSWITCH_START)
    return Unavailable(f"{part} is not running; start it with `{command}`")
