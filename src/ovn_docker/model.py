"""Networks and endpoints as Docker defines them, and the names derived from their IDs. Pure."""

import json
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from typing import NewType
from uuid import UUID, uuid5

from ovn_docker.allowed import Allowed
from ovn_docker.errors import BadRequest
from ovn_docker.options import NetworkOptions

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

NetworkId = NewType("NetworkId", str)
"""Docker's ID of a network: 64 hexadecimal digits, or 25 letters and digits in swarm mode."""

EndpointId = NewType("EndpointId", str)
"""Docker's ID of an endpoint: one container's attachment to one network; new at every start."""

_NAMESPACE = UUID("8bd49f0e-3ad3-5b1c-9c1e-6f766e2d646b")
"""Namespace of the rows' UUIDs. A change orphans every row of every cluster."""


def row_uuid(kind: str, *key: str) -> str:
    """Return the UUID of the row for *kind* and *key*, the same on every host: a second insert fails.

    OVSDB takes it as the ``uuid`` of an ``insert`` (ovsdb-server(7), "Insert", since 2.16).
    """
    return str(uuid5(_NAMESPACE, "/".join((kind, *key))))


PoolId = NewType("PoolId", str)
"""ID of a pool of our IPAM driver, as Docker knows it: a UUID."""

ADDRESS_SPACE = "openvswitch"
"""Address space of our IPAM driver: Docker marks its pools with this name in CreateNetwork."""

DRIVER = "openvswitch"
"""Name of our network driver in Docker."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """A pool of a network; *gateway* is the address that IPAM has reserved for a router, if any.

    *ours*: the pool is one of our IPAM driver.
    """

    pool: IpNetwork
    gateway: IpAddress | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of our IPAM driver: containers get addresses from *part* of *subnet*, or from all of it.

    *switch*: row of the logical switch of *network*, None until the network is created; *reserved*: the
    gateway and the auxiliary addresses, which no container gets; *picked*: our IPAM driver has chosen the
    subnet, as the user gave none.
    """

    id: PoolId
    subnet: IpNetwork
    part: IpNetwork | None = None
    switch: str | None = None
    network: NetworkId | None = None
    reserved: frozenset[IpAddress] = frozenset()
    picked: bool = False

    @property
    def bound(self) -> bool:
        """True if its network exists."""
        return self.switch is not None

    @property
    def range(self) -> IpNetwork:
        """The subnet that addresses are leased from."""
        return self.part or self.subnet

    @property
    def first(self) -> IpAddress:
        """Lowest address that a container or router may have."""
        return max(self.range[0], self.gateway)

    @property
    def last(self) -> IpAddress:
        """Highest address that a container or router may have."""
        return min(self.range[-1], self._highest)

    def holds(self, address: IpAddress) -> bool:
        """Return True if a container or router can have *address*, even outside of the range."""
        return address in self.subnet and int(self.gateway) <= int(address) <= int(self._highest)

    @property
    def gateway(self) -> IpAddress:
        """Default address of the router: the lowest one that is not the subnet's own."""
        return self.subnet[1] if self.subnet.num_addresses > 2 else self.subnet[0]

    @property
    def _highest(self) -> IpAddress:
        """Highest address of the subnet, without the broadcast address of IPv4."""
        broadcast = self.subnet.version == 4 and self.subnet.num_addresses > 2
        return self.subnet[-2] if broadcast else self.subnet[-1]


@dataclass(frozen=True, slots=True)
class Picked:
    """Mark of a lease whose address the user did not ask for. *name*: the container's, "" if unknown."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """An address for a container of this host; *picked* is None if the user asked for the address."""

    pool: Pool
    address: IpAddress
    picked: Picked | None = None


@dataclass(frozen=True, slots=True)
class Former:
    """An address that a container of this host had before Docker started; *holder*: its endpoint, or ""."""

    address: IpAddress
    picked: Picked
    holder: str


@dataclass(frozen=True, slots=True)
class Network:
    """A Docker network. At most one subnet of each IP version."""

    id: NetworkId
    subnets: tuple[Subnet, ...] = ()
    internal: bool = False
    options: NetworkOptions = field(default_factory=NetworkOptions)


@dataclass(frozen=True, slots=True)
class AddressPool:
    """One entry of Docker's IPAM.Config: addresses come from *part* of *subnet*, or from all of it.

    *reserved*: the auxiliary addresses by their names.
    """

    subnet: IpNetwork
    part: IpNetwork | None = None
    gateway: IpAddress | None = None
    reserved: tuple[tuple[str, IpAddress], ...] = ()

    @property
    def request(self) -> dict[str, object]:
        """The entry as Docker's API takes it."""
        return {
            "Subnet": str(self.subnet),
            **({"IPRange": str(self.part)} if self.part else {}),
            **({"Gateway": str(self.gateway)} if self.gateway else {}),
            **({"AuxiliaryAddresses": {k: str(v) for k, v in self.reserved}} if self.reserved else {}),
        }


@dataclass(frozen=True, slots=True)
class Definition:
    """Options with which every host's Docker creates a shared network (definition.py).

    *switches*: those of ``Internal``, ``Attachable``, ``EnableIPv4`` and ``EnableIPv6`` that are given.
    """

    name: str
    pools: tuple[AddressPool, ...] = ()
    ipam: str = "default"
    options: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    switches: tuple[tuple[str, bool], ...] = ()

    @property
    def request(self) -> dict[str, object]:
        """The body of ``POST /networks/create`` (docs.docker.com, "Engine API")."""
        return {
            "Name": self.name,
            "Driver": DRIVER,
            "CheckDuplicate": True,
            **dict(self.switches),
            "Options": dict(self.options),
            "Labels": dict(self.labels),
            "IPAM": {"Driver": self.ipam, "Options": {}, "Config": [pool.request for pool in self.pools]},
        }

    @property
    def text(self) -> str:
        """The definition as stored in the database: JSON."""
        return json.dumps(self.request, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason *why* this host ignores a row, in one line.

    *part*: the invalid part for the metric: ``name``, ``definition`` or ``subnet``.
    """

    part: str
    why: str


@dataclass(frozen=True, slots=True)
class SharedNetwork:
    """A shared network of the cluster.

    *definition*: None until a host has stored it, or if this host has *refused* it. *removed*: a host has
    removed the network; every other host does so once no container of that host belongs to it, with *forced*
    even if stopped containers do. *incarnation*: token of this life of the network.
    """

    name: str
    definition: Definition | None
    removed: bool
    refused: Refusal | None = None
    forced: bool = False
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class LocalNetwork:
    """A network of this host's Docker that belongs to the shared network *shared*.

    *definition*: None if other hosts cannot have the network, for the reason *refused*; *used*: containers of
    this host, running or stopped, belong to the network.
    """

    id: NetworkId
    shared: str
    definition: Definition | None
    refused: Refusal | None = None
    used: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Note that a host has a shared network in an *incarnation*; *used*: see LocalNetwork."""

    incarnation: str
    used: bool


@dataclass(frozen=True, slots=True)
class Occupied:
    """Addresses that a host uses outside of OVN. *by*: name of its Docker network or link.

    *linked*: the host has a link in the subnet; otherwise it has a route, or only Docker knows the subnet.
    """

    subnet: IpNetwork
    by: str
    linked: bool = False

    def __str__(self) -> str:
        return f"{self.subnet} ({self.by})"


class Obstacle(StrEnum):
    """Kind of reason for which a host cannot have or use a shared network.

    SUBNET: the host uses the addresses for something else; DOCKER: its Docker refuses the network;
    DEFINITION: the definition is not valid for other hosts; GATEWAY: the host's docker_gwbridge has the
    addresses, so that no container starts on the network.
    """

    SUBNET = "subnet"
    DOCKER = "docker"
    DEFINITION = "definition"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem of a host that cannot have or use the shared network *network*; *why* is one line."""

    network: str
    obstacle: Obstacle
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """Report of a host for the other hosts. *host* is a system-id."""

    host: str
    occupied: tuple[Occupied, ...] = ()
    problems: tuple[Problem, ...] = ()


GATEWAY_BRIDGE = "docker_gwbridge"
"""Docker's network that connects containers on networks of plugins with the outside world."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's attachment to a network. *mac* is None until it is chosen.

    *router*: other containers accept its router advertisements, redirects and DHCP replies; *allowed*:
    addresses that it may use besides its own; *port_security*: False if it may use any address, None for the
    network's setting; *groups*: names of the groups that it belongs to.
    """

    id: EndpointId
    network: NetworkId
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    mac: str | None = None
    router: bool = False
    allowed: tuple[Allowed, ...] = ()
    port_security: bool | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    """An endpoint in a database or on this host. *host* is a system-id, *age* in seconds."""

    id: EndpointId
    network: NetworkId
    host: str
    age: float
    encap: str = ""
    """Tunnel address of the host, "" without one."""
    up: bool = False
    """True if OVN has set up its port on a host (ovn-nb(5), Logical_Switch_Port:up)."""
    record: str = ""
    """The backend's record of its port's rows, if this host has one."""

    def __str__(self) -> str:
        return f"endpoint {self.id[:12]} on host {self.host}"

    def dead(self, joined: bool | None, grace: float) -> bool:  # noqa: FBT001 - a value of HostLinks.joined()
        """Return True if the endpoint has lost its container. *joined*: a veth end is in a container.

        Between CreateEndpoint and Join both ends are on the host, so an endpoint younger than *grace* seconds
        is not dead. Without a veth pair (None) it is.
        """
        return joined is None or (not joined and self.age > grace)


def whole_number(text: str) -> int | None:
    """Parse a number of at most 19 digits that another host may have written; None if it is not valid."""
    return int(text) if re.fullmatch("[0-9]{1,19}", text) else None


def since(age: float) -> int | None:
    """Return the time of creation of a row of *age* seconds, in seconds of the epoch; None if unknown."""
    return None if age == float("inf") else round(time.time() - age)


@dataclass(frozen=True, slots=True)
class StoredNetwork:
    """A network of this host in the backend: created, joined or attached to.

    *id* may be a prefix of Docker's ID; *shared* names the shared network, or the user's own network to which
    it is attached; *age* in seconds.
    """

    id: NetworkId
    shared: str
    age: float


class Kind(StrEnum):
    """Kind of a leftover or of a missing row."""

    ENDPOINT = "endpoint"
    LINK = "link"
    NETWORK = "network"
    CLAIM = "claim"
    GROUP = "group"
    POLICY = "policy"
    LEASE = "lease"
    POOL = "pool"
    NAMES = "names"
    RESOLVER = "resolver"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Gap:
    """A row that this host needs and that the backend does not have.

    The row belongs to *network*, or to *endpoint* of it. *owner*: the present user of the address or of the
    network's name, if there is one; then the row cannot be made again. *removed*: other hosts may have
    removed the network while the database did not know this host.
    """

    kind: Kind
    what: str
    network: NetworkId
    endpoint: EndpointId = EndpointId("")
    owner: str = ""
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A leftover or, with *missing*, a missing row.

    *what*: ID, address or name; *where*: the places that have or lack it; *since*: its time of creation in
    seconds of the epoch, if known; *cure*: the repair in words; *row*: a token for the code that has found
    the difference; *endpoint*: its endpoint; *command*: the repair where the driver cannot do it.
    """

    kind: Kind
    what: str
    where: str
    since: int | None
    why: str
    cure: str
    row: str = ""
    endpoint: str = ""
    missing: bool = False
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.shown} ({self.where}): {self.why}"

    @property
    def shown(self) -> str:
        """*what*, with Docker's IDs shortened as Docker shows them."""
        return self.what[:12] if len(self.what) >= 48 else self.what


@dataclass(frozen=True, slots=True)
class Tls:
    """Our private key and certificate for ``ssl:`` databases, and the CA of the databases' certificates.

    *names*: check that a database's certificate has its address. Otherwise everybody with a certificate of
    the CA can impersonate a database.
    """

    private_key: str
    certificate: str
    ca_cert: str
    names: bool = True


def remote_addresses(remotes: Iterable[str]) -> list[IpAddress]:
    """Return the IP addresses in remotes such as ``ssl:10.0.0.1:6641`` or ``tcp:[fd00::1]:6641``."""
    found = []
    for remote in remotes:
        with suppress(ValueError):  # a path, or a name
            found.append(ip_address(remote.partition(":")[2].rpartition(":")[0].strip("[]")))
    return found


@dataclass(frozen=True, slots=True)
class Chassis:
    """This host's settings in the local Open_vSwitch database.

    *bridge* is the bridge for containers' ports, *datapath* its type, None if there is no such bridge. A VM
    of a cloud has no tunnels of its own: neither *northbound* nor *encap_ips*.
    """

    system_id: str
    northbound: tuple[str, ...] = ()
    encap_ips: tuple[IpAddress, ...] = ()
    encap_types: tuple[str, ...] = ()
    bridge: str = "br-int"
    datapath: str | None = None
    tls: Tls | None = None
    southbound: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[IpAddress, ...]:
        """Addresses that this host needs outside of OVN: those of its tunnels and of the databases."""
        return (*self.encap_ips, *remote_addresses((*self.northbound, *self.southbound)))

    def made(self, host: str, encap: str) -> bool:
        """Return True if this host has created a row that has *host* (a system-id) and *encap*.

        *encap* is the host's tunnel address: cloned machines have the same system-id, but never that. "" in
        rows without one.
        """
        own = {str(ip) for ip in self.encap_ips}
        return host == self.system_id and (not encap or not own or encap in own)


@dataclass(frozen=True, slots=True)
class Attachment:
    """Parameters of an endpoint's port on the host, chosen by the backend.

    *mtu* in bytes; *resolver*: the network has a resolver at NAMESERVERS; *vlan*: tag of the port; *mac*,
    *addresses*: set if the backend has chosen them instead of Docker; *any_router*: the endpoint accepts any
    router and DHCP server, not only those marked as such; *record*: see NetworkBackend.create_network().
    """

    iface_id: str
    mtu: int | None = None
    resolver: bool = False
    vlan: int | None = None
    mac: str | None = None
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    any_router: bool = False
    record: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """Result of Join: Docker moves *link* into the sandbox and adds *routes* through it."""

    link: str
    routes: tuple[IPv4Network, ...] = ()


NAMESERVERS = (IPv4Address("169.254.53.1"), IPv4Address("169.254.53.2"))
"""Addresses of the resolvers, the same on all shared networks because dockerd has one setting.

There are two, so that a container on two shared networks queries both. Docker's resolver uses three servers
at most (moby daemon/libnetwork/resolver.go, maxExtDNS), so one is left for the rest of the world.
"""


def resolver_routes(index: int) -> tuple[IPv4Network, ...]:
    """Return the routes to NAMESERVERS for a sandbox's network with this *index*, from 0.

    The first network has the first server, the second network the second. The routes with shorter prefixes
    serve while other networks are missing. Each network has routes of its own: the kernel refuses a route
    that exists.
    """
    first, second = NAMESERVERS
    if index < len(NAMESERVERS):
        own, other = ((first, second), (second, first))[index]
        return IPv4Network((own, 32)), IPv4Network((other, 31), strict=False)
    return (IPv4Network((first, 32 - index), strict=False),) if index <= 8 else ()


def choose_mac(endpoint: Endpoint) -> str:
    """Return the MAC of an endpoint without one: 02:42 and the IPv4 address, as on Docker's bridge.

    An address always has the same MAC, so no neighbour keeps a stale one. Without IPv4, the MAC is derived
    from the IPv6 address or, without addresses, from the endpoint's ID. The MAC of a router begins with
    ROUTER_MAC instead.
    """
    for address in endpoint.addresses:
        if isinstance(address, IPv4Interface):
            prefix = ROUTER_MAC if endpoint.router else b"\x02\x42"
            return (prefix + address.ip.packed).hex(":")
    key = str(endpoint.addresses[0].ip) if endpoint.addresses else endpoint.id
    derived = uuid5(_NAMESPACE, f"mac/{endpoint.network}/{key}").bytes[:5]
    return (ROUTER_MAC + derived[:4] if endpoint.router else b"\x06" + derived).hex(":")


ROUTER_MAC = b"\x0e\x42"
"""First bytes of a router's MAC. Port security ties a container to its MAC, so no other container can use
such a MAC, and every host knows the routers without asking."""


def is_router_mac(mac: str) -> bool:
    """Return True if containers accept a router with this MAC (host/kernel/router_guard.py)."""
    return mac.lower().startswith(ROUTER_MAC.hex(":"))


def check_allowed(allowed: Iterable[Allowed], gateways: Iterable[IpAddress] = ()) -> None:
    """Raise BadRequest if allowed addresses would let a container impersonate a part of the network.

    *gateways*: those of the network.
    """
    reserved: dict[IpAddress, str] = dict.fromkeys(NAMESERVERS, "the address of a name server")
    reserved |= dict.fromkeys(gateways, "the gateway of the network")
    for one in allowed:
        for address, what in reserved.items():
            if address in one.address:
                raise BadRequest(f"allowed address {one} has {address}, {what}: leave that out")
        if is_router_mac(one.mac):
            raise BadRequest(
                f"allowed address {one}: a MAC that begins with {ROUTER_MAC.hex(':')} is a router's; give "
                "another"
            )


HOST_LINK = "odh"
"""Prefix of the names of our links on the host."""


def host_link(endpoint: EndpointId) -> str:
    """Return the name of the veth end on the host, in br-int; at most 15 characters (IFNAMSIZ)."""
    return f"{HOST_LINK}{endpoint[:12]}"


ENCAPS = {"geneve": 38, "vxlan": 30, "stt": 52}
"""Values of external_ids:ovn-encap-type (ovn-controller(8)), and the bytes that each adds to the IP header.

Geneve: UDP 8 + Geneve 8 + OVN's option 8 + Ethernet 14; VXLAN: UDP 8 + VXLAN 8 + Ethernet 14; STT: TCP 20 +
STT 18 + Ethernet 14 (ovn-architecture(7), "Tunnel Encapsulations").
"""


def tunnel_overhead(encap_types: tuple[str, ...], encap_ip: IpAddress) -> int:
    """Return the bytes that the largest of *encap_types* adds to a packet, with the outer IP header."""
    outer = 20 if encap_ip.version == 4 else 40
    return outer + max(ENCAPS.get(encap, ENCAPS["geneve"]) for encap in encap_types)


def container_link(endpoint: EndpointId) -> str:
    """Return the name of the veth end that Docker moves into the container and renames to ethN."""
    return f"odc{endpoint[:12]}"
