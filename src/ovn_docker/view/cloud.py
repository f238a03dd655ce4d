"""What OpenStack has of this virtual machine and its containers, for the doctor in the underlay mode."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ovn_docker.backends.openrc import VIF, login, vif
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, OvnDockerError

if TYPE_CHECKING:
    from ovn_docker.backends.neutron import Neutron

SETTINGS = Path("/etc/default/ovn-docker")
"""Where the driver's unit has login and settings (packaging/systemd)."""

_PATIENCE = 20.0
"""Seconds that OpenStack gets for all questions."""


@dataclass(frozen=True, slots=True)
class CloudPort:
    """The port of a container. *vlan* is ``None`` if it is no subport of the VM's trunk."""

    id: str
    endpoint: str
    status: str
    vlan: int | None
    mac: str
    secured: bool
    groups: int


@dataclass(frozen=True, slots=True)
class Cloud:
    """*problem*: why nothing could be asked. *mac*, *status*: of the VM's own port, empty if there is none.

    *used*, *quota*: ports of the project, and how many it may have; a quota below 0 is none.
    """

    vif: str
    problem: str = ""
    mac: str = ""
    status: str = ""
    trunk: bool = False
    ports: tuple[CloudPort, ...] = ()
    used: int = 0
    quota: int = -1


def environment(given: Mapping[str, str], settings: Path = SETTINGS) -> dict[str, str]:
    """Variables as the driver has them: its unit's, and those that were *given* here."""
    try:
        lines = settings.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    pairs = (line.strip().removeprefix("export ").partition("=") for line in lines if "=" in line)
    found = {key: value.strip().strip("\"'") for key, _, value in pairs if not key.startswith("#")}
    return {**found, **given}


def ask(variables: Mapping[str, str]) -> Cloud:
    """Ask Neutron; never raises, but for a defect. Nothing is changed."""
    try:
        port = vif(variables)
        credentials = login(variables)
    except OvnDockerError as error:
        return Cloud(variables.get(VIF, ""), problem=str(error))
    try:
        from ovn_docker.backends.neutron import Neutron
    except ImportError:
        return Cloud(port, problem="openstacksdk is not installed: pip install 'ovn-docker[underlay]'")
    try:
        return read(Neutron(credentials), port, Deadline(_PATIENCE))
    except OvnDockerError as error:
        return Cloud(port, problem=str(error))


def read(neutron: "Neutron", vif: str, deadline: Deadline) -> Cloud:
    """What Neutron has. Raises OvnDockerError."""
    from ovn_docker.backends.trunk import Trunk, endpoint_of  # needs openstacksdk

    own = neutron.one("ports", vif, deadline)
    if own is None:
        return Cloud(vif)
    try:
        trunk = Trunk(neutron, vif).find(deadline, make=False)
    except BadRequest:  # the cloud has no trunks
        trunk = None
    subports = trunk["sub_ports"] if trunk else []
    vlans = {subport["port_id"]: int(subport["segmentation_id"]) for subport in subports}
    quota = neutron.one("quotas", own["project_id"], deadline) or {}
    return Cloud(
        vif,
        mac=own["mac_address"],
        status=own["status"],
        trunk=trunk is not None,
        ports=tuple(
            CloudPort(
                id=port["id"],
                endpoint=port["name"],
                status=port["status"],
                vlan=vlans.get(port["id"]),
                mac=port["mac_address"],
                secured=bool(port.get("port_security_enabled", True)),
                groups=len(port.get("security_groups") or ()),
            )
            for port in neutron.all("ports", deadline, description=endpoint_of(vif))
        ),
        used=len(neutron.all("ports", deadline, project_id=own["project_id"], fields="id")),
        quota=int(quota.get("port", -1)),
    )
