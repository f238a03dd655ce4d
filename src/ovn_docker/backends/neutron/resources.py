"""Neutron's resources as types ("Networking API v2.0", docs.openstack.org). No I/O.

A struct has the members that this package reads, under Neutron's names; others are ignored. A member that is
``null`` counts as absent: if a value was never set, Neutron sends ``null`` or leaves out the member.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar, Self, TypeVar

import msgspec

from ovn_docker.errors import Unavailable
from ovn_docker.model import IpAddress, IpNetwork

_LONGEST_SHOWN = 80
"""Characters of a value that an error message shows."""


class NeutronBody(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of a reply's body. *member*: the key whose value they are, ``{"port": {...}}``."""

    member: ClassVar[str]

    def rewritten(self, rewrite: Callable[[Any], Any]) -> Self:
        """Return a copy with the members that *rewrite* returns for these, as a dict of JSON's types."""
        members = msgspec.to_builtins(self, enc_hook=str)
        changed = rewrite(members)
        return self if changed is members else decode(type(self), changed)


class NeutronResource(NeutronBody, frozen=True, kw_only=True):
    """A resource. *collection*: the name of its kind in URLs."""

    collection: ClassVar[str]

    id: str
    created_at: str = ""
    """Time of creation (ISO 8601), in UTC if it has no offset."""

    @property
    def created(self) -> float:
        """Time of creation in seconds of the epoch; minus infinity if Neutron does not return one."""
        try:
            made = datetime.fromisoformat(self.created_at.replace("Z", "+00:00"))
        except ValueError:
            return float("-inf")
        return (made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp()


class TaggedResource(NeutronResource, frozen=True, kw_only=True):
    """A resource with a description and tags."""

    name: str = ""
    description: str = ""
    project_id: str = ""
    tags: tuple[str, ...] = ()

    def tagged(self, prefix: str) -> str:
        """Return the rest of the first tag that begins with *prefix*; empty if no tag does."""
        return next((tag.removeprefix(prefix) for tag in self.tags if tag.startswith(prefix)), "")


class NeutronNetwork(TaggedResource, frozen=True, kw_only=True):
    """A network. *mtu*: in bytes; 0 if the cloud lacks Neutron's extension net-mtu."""

    collection = "networks"
    member = "network"

    mtu: int = 0
    revision_number: int | None = None


class NeutronSubnet(TaggedResource, frozen=True, kw_only=True):
    """A subnet of a network."""

    collection = "subnets"
    member = "subnet"

    network_id: str
    cidr: IpNetwork
    ip_version: int
    gateway_ip: IpAddress | None = None
    ipv6_address_mode: str = ""


class FixedIp(msgspec.Struct, frozen=True):
    """An address of a port, and the UUID of its subnet."""

    subnet_id: str
    ip_address: str

    def __post_init__(self) -> None:
        """Raise ValueError if *ip_address* is invalid."""
        ip_address(self.ip_address)

    @property
    def ip(self) -> IpAddress:
        """The address as an object."""
        return ip_address(self.ip_address)


class AllowedAddressPair(msgspec.Struct, frozen=True):
    """An address or prefix that a port may use besides its own. *mac_address*: None is the port's own MAC."""

    ip_address: str
    mac_address: str | None = None


class NeutronPort(TaggedResource, frozen=True, kw_only=True):
    """A port of a network."""

    collection = "ports"
    member = "port"

    network_id: str
    mac_address: str
    status: str
    admin_state_up: bool = True
    device_id: str = ""
    device_owner: str = ""
    fixed_ips: tuple[FixedIp, ...] = ()
    port_security_enabled: bool = True
    security_groups: tuple[str, ...] = ()
    allowed_address_pairs: tuple[AllowedAddressPair, ...] = ()


class NeutronSubport(msgspec.Struct, frozen=True):
    """A port of a trunk, and its VLAN."""

    port_id: str
    segmentation_id: int


class NeutronTrunk(NeutronResource, frozen=True, kw_only=True):
    """A trunk. *port_id*: its parent port."""

    collection = "trunks"
    member = "trunk"

    port_id: str
    sub_ports: tuple[NeutronSubport, ...] = ()


class NeutronSubnetPool(TaggedResource, frozen=True, kw_only=True):
    """A subnet pool: prefixes from which subnets can be made."""

    collection = "subnetpools"
    member = "subnetpool"

    prefixes: tuple[IpNetwork, ...]


class SecurityGroupRule(msgspec.Struct, frozen=True):
    """A rule of a security group. A member that is None matches everything."""

    id: str
    direction: str
    ethertype: str | None = None
    protocol: str | int | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None
    remote_address_group_id: str | None = None


class NeutronSecurityGroup(NeutronResource, frozen=True, kw_only=True):
    """A security group. *stateful*: True if it lets replies to permitted packets pass."""

    collection = "security-groups"
    member = "security_group"

    name: str = ""
    stateful: bool = True
    security_group_rules: tuple[SecurityGroupRule, ...] = ()


class NeutronAddressGroup(NeutronResource, frozen=True, kw_only=True):
    """A list of prefixes that rules of security groups refer to."""

    collection = "address-groups"
    member = "address_group"

    addresses: tuple[str, ...] = ()


class NeutronQuota(NeutronBody, frozen=True, kw_only=True):
    """The limits of a project. *port*: the number of ports; a negative number means no limit."""

    member = "quota"

    port: int = -1


B = TypeVar("B", bound=NeutronBody)


def decode(kind: type[B], members: Mapping[str, object]) -> B:
    """Convert the members of a resource to its struct.

    Raises:
        Unavailable: a member is missing or invalid; the message names resource, member and value.

    """
    values: dict[str, object] = {}
    for field in _fields(kind):
        value = members.get(field.name)
        if value is None:
            if field.required:
                raise Unavailable(
                    f"Neutron returns {_title(kind, members)} without {field.name}: if it has just started, "
                    "try again; else ask the cloud's operator"
                )
            continue
        try:
            values[field.name] = _parse(value, field.type)
        except ValueError as error:  # or msgspec.ValidationError, a subclass
            raise Unavailable(
                f"Neutron returns {_title(kind, members)} with an invalid {field.name}, {_shown(value)}: "
                f"{error}; ask the cloud's operator"
            ) from None
    return kind(**values)


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _parse(value: object, type_: Any) -> object:
    """Convert the value of a member to a struct's type. Raises ValueError."""
    if type_ == IpNetwork:
        return ip_network(msgspec.convert(value, str))
    if type_ == tuple[IpNetwork, ...]:
        return tuple(map(ip_network, msgspec.convert(value, tuple[str, ...])))
    if type_ == IpAddress | None:
        return ip_address(msgspec.convert(value, str))
    return msgspec.convert(value, type_)


def _title(kind: type[NeutronBody], members: Mapping[str, object]) -> str:
    name = kind.member.replace("_", " ")
    return f"{name} {_shown(members['id'])}" if "id" in members else f"a {name}"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
