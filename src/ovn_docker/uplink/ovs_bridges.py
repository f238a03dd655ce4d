"""Bridges of Open vSwitch and their ports, read with ovs-vsctl(8)."""

from ovn_docker.host.run import StepFailed, run

VSCTL = ("ovs-vsctl", "--timeout=10")

MADE_FOR = "ovn-docker:interface"
"""Key in external_ids of a bridge that this program made: the interface that it was made for."""


def bridges() -> list[str]:
    """Return the names of all bridges."""
    return run((*VSCTL, "list-br")).split()


def ports_of(bridge: str) -> list[str]:
    """Return the names of a bridge's ports."""
    return run((*VSCTL, "list-ports", bridge)).split()


def bridge_of(port: str) -> str | None:
    """Return the bridge that has the port, if any."""
    try:
        return run((*VSCTL, "port-to-br", port)).strip()
    except StepFailed:
        return None


def made_for(bridge: str) -> str:
    """Return the interface that this program made a bridge for; empty if it did not make the bridge."""
    try:
        value = run((*VSCTL, "--if-exists", "get", "Bridge", bridge, f'external_ids:"{MADE_FOR}"'))
    except StepFailed:
        return ""
    return value.strip().strip('"')


def problem_of(port: str) -> str:
    """Return why Open vSwitch cannot use a port's interface (ovs-vswitchd.conf.db(5)); empty if it can."""
    found = run((*VSCTL, "--if-exists", "get", "Interface", port, "error")).strip()
    return "" if found == "[]" else found
