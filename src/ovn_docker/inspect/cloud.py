"""Read this virtual machine, its containers, and their networks from Neutron."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovn_docker.backends.neutron.openrc import VIF, login, vif
from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError
from ovn_docker.text.printable import printable

if TYPE_CHECKING:
    from ovn_docker.backends.neutron.api import Neutron, R
    from ovn_docker.backends.neutron.resources import (
        NeutronPort,
        NeutronTrunk,
        SecurityGroupRule,
    )

_TIMEOUT = 20.0
"""Seconds for all requests to OpenStack."""

DOCKER = "docker:"
"""Prefix of a tag that has the beginning of a Docker network's ID (backends/neutron/networks.py)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a security group. *low* and *high* are ports, or type and code of ICMP; ``None`` is any.

    *prefixes*, *group*: the peers that it applies to; ``None`` and empty for all. *protocol*: a name, empty
    for any.
    """

    id: str
    direction: str
    version: int
    protocol: str = ""
    low: int | None = None
    high: int | None = None
    prefixes: tuple[str, ...] | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A security group. *stateful*: answers to allowed packets are allowed."""

    id: str
    name: str
    stateful: bool
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class CloudPort:
    """The port of a container. *vm*: UUID of the VM's port; *pairs*: its allowed address pairs.

    *vlan*: VLAN on the VM's port, ``None`` if it has none. *subport*: it is a subport of the VM's trunk; else
    its binding profile has the VLAN, and Neutron never sets its status ACTIVE. *secured*: port security is
    on.
    """

    id: str
    endpoint: str
    status: str
    vlan: int | None
    mac: str
    secured: bool
    groups: tuple[str, ...]
    subport: bool
    vm: str = ""
    network: str = ""
    enabled: bool = True
    addresses: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CloudNetwork:
    """A network of containers. *members*: beginnings of the IDs that it has in Docker on different VMs.

    *ours*: a driver made it; *routers*: UUIDs of the routers that it is connected to.
    """

    id: str
    name: str
    ours: bool
    mtu: int
    subnets: tuple[str, ...]
    members: tuple[str, ...]
    routers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """The port of a virtual machine with containers. *trunk*: UUID of its trunk, empty if it has none."""

    vif: str
    name: str
    address: str
    status: str
    enabled: bool
    trunk: str


@dataclass(frozen=True, slots=True)
class Cloud:
    """The state of Neutron; *problem*: why it could not be read.

    *mac*, *status*: of the VM's own port, empty if it does not exist; *ports*: of containers, also of other
    VMs of the project; *networks*, *machines*, *groups*: those of the ports, by UUID; *used*: number of ports
    of the project; *quota*: their maximum, below 0 without one.
    """

    vif: str
    problem: str = ""
    mac: str = ""
    status: str = ""
    trunk: bool = False
    ports: tuple[CloudPort, ...] = ()
    used: int = 0
    quota: int = -1
    networks: Mapping[str, CloudNetwork] = field(default_factory=dict)
    machines: Mapping[str, VirtualMachine] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)

    @property
    def own(self) -> tuple[CloudPort, ...]:
        """Ports of this VM's containers."""
        return tuple(port for port in self.ports if port.vm == self.vif)


def ask(variables: Mapping[str, str], docker: Collection[str] | None = None) -> Cloud:
    """Read the state of Neutron; an error becomes Cloud.problem. *docker*: see `read`."""
    try:
        port = vif(variables)
        credentials = login(variables)
    except OvnDockerError as error:
        return Cloud(variables.get(VIF, ""), problem=str(error))
    try:
        from ovn_docker.backends.neutron.api import Neutron
    except ImportError:
        return Cloud(port, problem="openstacksdk is not installed: pip install 'ovn-docker[underlay]'")
    try:
        return read(Neutron(credentials), port, Deadline(_TIMEOUT), docker)
    except OvnDockerError as error:
        return Cloud(port, problem=str(error))


def read(neutron: "Neutron", vif: str, deadline: Deadline, docker: Collection[str] | None = None) -> Cloud:
    """Read the state of Neutron. Raises OvnDockerError.

    *docker*: Docker's IDs of the networks on which other VMs' ports are read; ``None`` for all networks.
    """
    from ovn_docker.backends.neutron.resources import NeutronPort
    from ovn_docker.backends.neutron.trunk import ENDPOINT_OF, endpoint_of  # needs openstacksdk

    own = neutron.one(NeutronPort, vif, deadline)
    if own is None:
        return Cloud(vif)
    own = own.rewritten(printable)
    own_ports = _printable(neutron.all(NeutronPort, deadline, description=endpoint_of(vif)))
    networks = _networks(neutron, deadline, own, {port.network_id for port in own_ports})
    wanted = [
        network.id
        for network in networks.values()
        if docker is None or any(id_.startswith(network.members or ("-",)) for id_ in docker)
    ]
    ports = {port.id: port for port in own_ports}
    for port in _all(neutron, NeutronPort, deadline, "network_id", wanted):
        if port.description.startswith(ENDPOINT_OF):
            ports[port.id] = port
    vms = {vif, *(port.description.removeprefix(ENDPOINT_OF) for port in ports.values())}
    trunks = _trunks(neutron, deadline, vms)
    machines = [own, *_all(neutron, NeutronPort, deadline, "id", vms - {vif})]
    groups = {group for port in ports.values() for group in port.security_groups}
    vlans = {sub.port_id: sub.segmentation_id for trunk in trunks.values() for sub in trunk.sub_ports}
    return Cloud(
        vif,
        mac=own.mac_address,
        status=own.status,
        trunk=vif in trunks,
        ports=tuple(_port(port, vlans.get(port.id)) for port in ports.values()),
        used=neutron.count(NeutronPort, deadline, project_id=own.project_id),
        quota=neutron.quota(own.project_id, deadline).port,
        networks=networks,
        machines={port.id: _machine(port, trunks.get(port.id)) for port in machines},
        groups={group.id: group for group in _groups(neutron, deadline, groups)},
    )


def _printable(resources: Iterable["R"]) -> list["R"]:
    """Return resources with a question mark for each character that is not printable."""
    return [resource.rewritten(printable) for resource in resources]


def _all(
    neutron: "Neutron", kind: "type[R]", deadline: Deadline, key: str, values: Iterable[str]
) -> Iterator["R"]:
    """Yield every resource of a kind whose *key* has one of the values."""
    if ordered := sorted(values):
        yield from _printable(neutron.all(kind, deadline, **{key: ordered}))


def _networks(
    neutron: "Neutron", deadline: Deadline, own: "NeutronPort", used: set[str]
) -> dict[str, CloudNetwork]:
    """Read the networks that drivers made, and those of the user that this VM or its containers use."""
    from ovn_docker.backends.neutron.networks import OURS
    from ovn_docker.backends.neutron.resources import NeutronNetwork, NeutronPort, NeutronSubnet

    found = {network.id: network for network in _printable(neutron.all(NeutronNetwork, deadline, tags=OURS))}
    noted: dict[str, list[str]] = {}
    for tag in own.tags:
        if tag.startswith(DOCKER) and "=" in tag:  # network *uuid* is attached as Docker's *docker*
            docker, _, uuid = tag.removeprefix(DOCKER).partition("=")
            noted.setdefault(uuid, []).append(docker)
    for network in _all(neutron, NeutronNetwork, deadline, "id", {*used, *noted} - found.keys()):
        found[network.id] = network
    cidrs: dict[str, list[str]] = {id_: [] for id_ in found}
    for subnet in _all(neutron, NeutronSubnet, deadline, "network_id", found):
        cidrs[subnet.network_id].append(str(subnet.cidr))
    routers: dict[str, set[str]] = {id_: set() for id_ in found}
    interfaces = {"network_id": sorted(found), "device_owner": "network:router_interface"}
    for port in neutron.all(NeutronPort, deadline, **interfaces) if found else ():
        routers[port.network_id].add(port.device_id)
    return {
        id_: CloudNetwork(
            id=id_,
            name=network.name,
            ours=OURS in network.tags,
            mtu=network.mtu,
            subnets=tuple(cidrs[id_]),
            members=(
                *(tag.removeprefix(DOCKER) for tag in network.tags if tag.startswith(DOCKER)),
                *noted.get(id_, ()),
            ),
            routers=tuple(sorted(routers[id_])),
        )
        for id_, network in found.items()
    }


def _trunks(neutron: "Neutron", deadline: Deadline, vms: Iterable[str]) -> dict[str, "NeutronTrunk"]:
    """Read the trunks, by UUID of the parent port."""
    from ovn_docker.backends.neutron.api import NeutronRefused
    from ovn_docker.backends.neutron.resources import NeutronTrunk

    try:
        return {trunk.port_id: trunk for trunk in _all(neutron, NeutronTrunk, deadline, "port_id", vms)}
    except NeutronRefused as refused:
        if refused.status != 404:
            raise
        return {}  # the cloud does not have the extension


def _port(port: "NeutronPort", vlan: int | None) -> CloudPort:
    from ovn_docker.backends.neutron.trunk import ENDPOINT_OF, vlan_of

    return CloudPort(
        id=port.id,
        endpoint=port.name,
        status=port.status,
        vlan=vlan or vlan_of(port) or None,
        subport=vlan is not None,
        mac=port.mac_address,
        secured=port.port_security_enabled,
        groups=port.security_groups,
        vm=port.description.removeprefix(ENDPOINT_OF),
        network=port.network_id,
        enabled=port.admin_state_up,
        addresses=tuple(fixed.ip_address for fixed in port.fixed_ips),
        pairs=tuple(
            (pair.mac_address or port.mac_address, pair.ip_address) for pair in port.allowed_address_pairs
        ),
    )


def _machine(port: "NeutronPort", trunk: "NeutronTrunk | None") -> VirtualMachine:
    address = next((fixed.ip_address for fixed in port.fixed_ips), "")
    return VirtualMachine(
        vif=port.id,
        name=port.name or address or port.id,
        address=address,
        status=port.status,
        enabled=port.admin_state_up,
        trunk=trunk.id if trunk else "",
    )


def _groups(neutron: "Neutron", deadline: Deadline, wanted: set[str]) -> Iterator[Group]:
    from ovn_docker.backends.neutron.resources import NeutronAddressGroup, NeutronSecurityGroup

    found = list(_all(neutron, NeutronSecurityGroup, deadline, "id", wanted))
    lists = {rule.remote_address_group_id for group in found for rule in group.security_group_rules}
    prefixes = {
        one.id: one.addresses
        for one in _all(neutron, NeutronAddressGroup, deadline, "id", filter(None, lists))
    }
    for group in found:
        yield Group(
            id=group.id,
            name=group.name,
            stateful=group.stateful,
            rules=tuple(_rule(rule, prefixes) for rule in group.security_group_rules),
        )


def _rule(rule: "SecurityGroupRule", lists: Mapping[str, tuple[str, ...]]) -> Rule:
    prefix = rule.remote_ip_prefix
    return Rule(
        id=rule.id,
        direction=rule.direction,
        version=6 if rule.ethertype == "IPv6" else 4,
        protocol=_NUMBERS.get(protocol := str(rule.protocol or ""), protocol),
        low=rule.port_range_min,
        high=rule.port_range_max,
        prefixes=(prefix,) if prefix else lists.get(rule.remote_address_group_id or ""),
        group=rule.remote_group_id or "",
    )


_NUMBERS = {"any": "", "0": "", "1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", "ipv6-icmp": "icmpv6"}
"""Other names of protocols that Neutron accepts (neutron_lib constants, IP_PROTOCOL_MAP)."""
