"""What Neutron has of this virtual machine, its containers, and those that share networks with them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovn_docker.backends.openrc import VIF, login, vif
from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError
from ovn_docker.printable import printable

if TYPE_CHECKING:
    from ovn_docker.backends.neutron import Neutron, Resource

_PATIENCE = 20.0
"""Seconds that OpenStack gets for all questions."""

DOCKER = "docker:"
"""Before the beginning of a Docker network's ID, in a tag (backends/networks.py)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Of a security group. *low* and *high* are ports, or type and code of ICMP; ``None`` is any.

    *prefixes*, *group*: whom it is about; ``None`` and empty: everybody. *protocol* is a name, empty for any.
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
    """A security group. *stateful*: the answer to what it lets pass, passes."""

    id: str
    name: str
    stateful: bool
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class CloudPort:
    """The port of a container. *vm*: UUID of the port that it is behind; *pairs*: its allowed address pairs.

    *vlan* is ``None`` if it is behind none. *subport*: of that VM's trunk, and not by its profile, with which
    Neutron never calls a port ACTIVE. *secured*: whether port security is on.
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
    """A network that containers are on. *members*: beginnings of the IDs that Dockers know it by.

    *ours*: whether a driver made it; *routers*: those that lead out of it.
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
    """The port of a virtual machine that containers are behind. *trunk*: UUID, empty if it has none."""

    vif: str
    name: str
    address: str
    status: str
    enabled: bool
    trunk: str


@dataclass(frozen=True, slots=True)
class Cloud:
    """*problem*: why nothing could be asked. *mac*, *status*: of the VM's own port, empty if there is none.

    *ports*: of containers, also of other VMs of the project; *networks*, *machines* and *groups*, by UUID:
    those of the ports. *used*, *quota*: ports of the project, and how many it may have; below 0 is no quota.
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
    """Ask Neutron; never raises, but for a defect. Nothing is changed. *docker*: see `read`."""
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
        return read(Neutron(credentials), port, Deadline(_PATIENCE), docker)
    except OvnDockerError as error:
        return Cloud(port, problem=str(error))


def read(neutron: "Neutron", vif: str, deadline: Deadline, docker: Collection[str] | None = None) -> Cloud:
    """What Neutron has. Raises OvnDockerError.

    *docker*: Docker's IDs of networks; of other VMs only the ports on these are read, ``None``: on all.
    """
    from ovn_docker.backends.trunk import ENDPOINT_OF, endpoint_of  # needs openstacksdk

    own = printable(neutron.one("ports", vif, deadline))
    if own is None:
        return Cloud(vif)
    mine = printable(neutron.all("ports", deadline, description=endpoint_of(vif)))
    networks = _networks(neutron, deadline, own, {port["network_id"] for port in mine})
    wanted = [
        network.id
        for network in networks.values()
        if docker is None or any(id_.startswith(network.members or ("-",)) for id_ in docker)
    ]
    ports = {port["id"]: port for port in mine}
    for port in _all(neutron, "ports", deadline, "network_id", wanted):
        if port["description"].startswith(ENDPOINT_OF):
            ports[port["id"]] = port
    vms = {vif, *(port["description"].removeprefix(ENDPOINT_OF) for port in ports.values())}
    trunks = _trunks(neutron, deadline, vms)
    machines = [own, *_all(neutron, "ports", deadline, "id", vms - {vif})]
    groups = {group for port in ports.values() for group in port.get("security_groups") or ()}
    vlans = {
        sub["port_id"]: int(sub["segmentation_id"]) for trunk in trunks.values() for sub in trunk["sub_ports"]
    }
    quota = neutron.one("quotas", own["project_id"], deadline) or {}
    return Cloud(
        vif,
        mac=own["mac_address"],
        status=own["status"],
        trunk=vif in trunks,
        ports=tuple(_port(port, vlans.get(port["id"])) for port in ports.values()),
        used=len(neutron.all("ports", deadline, project_id=own["project_id"], fields="id")),
        quota=int(quota.get("port", -1)),
        networks=networks,
        machines={port["id"]: _machine(port, trunks.get(port["id"])) for port in machines},
        groups={group.id: group for group in _groups(neutron, deadline, groups)},
    )


def _all(
    neutron: "Neutron", kind: str, deadline: Deadline, key: str, values: Iterable[str]
) -> Iterator["Resource"]:
    """Every resource of a kind whose *key* has one of the values."""
    if ordered := sorted(values):
        yield from printable(neutron.all(kind, deadline, **{key: ordered}))


def _networks(
    neutron: "Neutron", deadline: Deadline, own: "Resource", used: set[str]
) -> dict[str, CloudNetwork]:
    """The networks of the project's drivers, and the user's that this VM's Docker or its containers use."""
    from ovn_docker.backends.networks import OURS

    found = {network["id"]: network for network in printable(neutron.all("networks", deadline, tags=OURS))}
    noted: dict[str, list[str]] = {}
    for tag in own["tags"]:
        if tag.startswith(DOCKER) and "=" in tag:  # this network of the user's is that Docker network
            docker, _, network = tag.removeprefix(DOCKER).partition("=")
            noted.setdefault(network, []).append(docker)
    for network in _all(neutron, "networks", deadline, "id", {*used, *noted} - found.keys()):
        found[network["id"]] = network
    cidrs: dict[str, list[str]] = {id_: [] for id_ in found}
    for subnet in _all(neutron, "subnets", deadline, "network_id", found):
        cidrs[subnet["network_id"]].append(subnet["cidr"])
    routers: dict[str, set[str]] = {id_: set() for id_ in found}
    interfaces = {"network_id": sorted(found), "device_owner": "network:router_interface"}
    for port in neutron.all("ports", deadline, **interfaces) if found else ():
        routers[port["network_id"]].add(port["device_id"])
    return {
        id_: CloudNetwork(
            id=id_,
            name=network["name"],
            ours=OURS in network["tags"],
            mtu=int(network.get("mtu") or 0),
            subnets=tuple(cidrs[id_]),
            members=(
                *(tag.removeprefix(DOCKER) for tag in network["tags"] if tag.startswith(DOCKER)),
                *noted.get(id_, ()),
            ),
            routers=tuple(sorted(routers[id_])),
        )
        for id_, network in found.items()
    }


def _trunks(neutron: "Neutron", deadline: Deadline, vms: Iterable[str]) -> dict[str, "Resource"]:
    """By the port that is the parent."""
    from ovn_docker.backends.neutron import Refused

    try:
        return {trunk["port_id"]: trunk for trunk in _all(neutron, "trunks", deadline, "port_id", vms)}
    except Refused as refused:
        if refused.status != 404:
            raise
        return {}  # the cloud has no trunks


def _port(port: "Resource", vlan: int | None) -> CloudPort:
    from ovn_docker.backends.trunk import ENDPOINT_OF, vlan_of

    return CloudPort(
        id=port["id"],
        endpoint=port["name"],
        status=port["status"],
        vlan=vlan or vlan_of(port) or None,
        subport=vlan is not None,
        mac=port["mac_address"],
        secured=bool(port.get("port_security_enabled", True)),
        groups=tuple(port.get("security_groups") or ()),
        vm=port["description"].removeprefix(ENDPOINT_OF),
        network=port["network_id"],
        enabled=bool(port["admin_state_up"]),
        addresses=tuple(fixed["ip_address"] for fixed in port["fixed_ips"]),
        pairs=tuple(
            (pair.get("mac_address") or port["mac_address"], pair["ip_address"])
            for pair in port.get("allowed_address_pairs") or ()
        ),
    )


def _machine(port: "Resource", trunk: "Resource | None") -> VirtualMachine:
    address = next((str(fixed["ip_address"]) for fixed in port["fixed_ips"]), "")
    return VirtualMachine(
        vif=port["id"],
        name=port["name"] or address or port["id"],
        address=address,
        status=port["status"],
        enabled=bool(port["admin_state_up"]),
        trunk=trunk["id"] if trunk else "",
    )


def _groups(neutron: "Neutron", deadline: Deadline, wanted: set[str]) -> Iterator[Group]:
    found = list(_all(neutron, "security-groups", deadline, "id", wanted))
    lists = {rule.get("remote_address_group_id") for g in found for rule in g["security_group_rules"]}
    prefixes = {
        one["id"]: tuple(one["addresses"])
        for one in _all(neutron, "address-groups", deadline, "id", filter(None, lists))
    }
    for group in found:
        yield Group(
            id=group["id"],
            name=group["name"],
            stateful=bool(group.get("stateful", True)),
            rules=tuple(_rule(rule, prefixes) for rule in group["security_group_rules"]),
        )


def _rule(rule: "Resource", lists: Mapping[str, tuple[str, ...]]) -> Rule:
    prefix = rule.get("remote_ip_prefix")
    return Rule(
        id=rule["id"],
        direction=rule["direction"],
        version=6 if rule["ethertype"] == "IPv6" else 4,
        protocol=_NUMBERS.get(protocol := str(rule["protocol"] or ""), protocol),
        low=rule["port_range_min"],
        high=rule["port_range_max"],
        prefixes=(prefix,) if prefix else lists.get(rule.get("remote_address_group_id") or ""),
        group=rule["remote_group_id"] or "",
    )


_NUMBERS = {"any": "", "0": "", "1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", "ipv6-icmp": "icmpv6"}
"""Protocols that Neutron takes by other names (neutron_lib constants, IP_PROTOCOL_MAP)."""
