"""Networks and endpoints as Docker means them, and the names that we derive from their IDs. Pure."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import NewType
from uuid import UUID, uuid5

from ovn_docker.options import NetworkOptions

NetworkId = NewType("NetworkId", str)
"""Docker's ID of a network: 64 hexadecimal digits, or 25 letters and digits in swarm mode."""

EndpointId = NewType("EndpointId", str)
"""Docker's ID of an endpoint: one container's attachment to one network; new at every start."""

_NAMESPACE = UUID("8bd49f0e-3ad3-5b1c-9c1e-6f766e2d646b")
"""Root of the row UUIDs. Changing it orphans every row of every cluster."""


def row_uuid(kind: str, *key: str) -> str:
    """UUID of the row for *kind* and *key*: every host derives the same one, so a second insert fails.

    OVSDB takes it as the ``uuid`` of an ``insert`` (ovsdb-server(7), "Insert", since 2.16).
    """
    return str(uuid5(_NAMESPACE, "/".join((kind, *key))))


@dataclass(frozen=True, slots=True)
class Subnet:
    """A pool of a network; *gateway* is the address that Docker's IPAM set aside for a router, if any."""

    pool: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A Docker network. At most one subnet of each IP version."""

    id: NetworkId
    subnets: tuple[Subnet, ...] = ()
    internal: bool = False
    options: NetworkOptions = field(default_factory=NetworkOptions)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's attachment to a network. *mac* is ``None`` until somebody chose one."""

    id: EndpointId
    network: NetworkId
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    mac: str | None = None


def choose_mac(endpoint: Endpoint) -> str:
    """MAC for an endpoint that brought none: 02:42 and the IPv4 address, as Docker's bridge does.

    The same address always has the same MAC, so no neighbour keeps a stale one. Without IPv4
    it is derived from the IPv6 address or, without any, from the endpoint's ID.
    """
    for address in endpoint.addresses:
        if isinstance(address, IPv4Interface):
            return "02:42:" + address.ip.packed.hex(":")
    key = str(endpoint.addresses[0].ip) if endpoint.addresses else endpoint.id
    return "06:" + uuid5(_NAMESPACE, f"mac/{endpoint.network}/{key}").bytes[:5].hex(":")


def host_link(endpoint: EndpointId) -> str:
    """Name of the veth end that stays on the host, in br-int; 15 characters at most (IFNAMSIZ)."""
    return f"odh{endpoint[:12]}"


def container_link(endpoint: EndpointId) -> str:
    """Name of the veth end that Docker moves into the container and renames to ethN."""
    return f"odc{endpoint[:12]}"
