"""Networks and endpoints as Docker means them, and the names that we derive from their IDs. Pure."""

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
from ovn_docker.errors import BadRequest, Conflict
from ovn_docker.options import NetworkOptions

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

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


PoolId = NewType("PoolId", str)
"""Our name for a pool of addresses that Docker's IPAM call got from us: a UUID."""

ADDRESS_SPACE = "openvswitch"
"""How Docker names, in CreateNetwork, pools that come from our IPAM driver."""

DRIVER = "openvswitch"
"""The name by which Docker knows our network driver."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """A pool of a network; *gateway* is the address that IPAM set aside for a router, if any.

    *ours*: the addresses come from our IPAM driver.
    """

    pool: IpNetwork
    gateway: IpAddress | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of our IPAM driver: containers get addresses from *part* of *subnet*, or from all of it.

    *switch*: row of the logical switch of *network* that it is bound to, ``None`` until that is created;
    *reserved*: what no container may have, the gateway and the auxiliary addresses; *picked*: we chose the
    subnet, which its user left to us.
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
        """Whether its network exists."""
        return self.switch is not None

    @property
    def range(self) -> IpNetwork:
        """Where addresses are taken from."""
        return self.part or self.subnet

    @property
    def first(self) -> IpAddress:
        """The lowest address that a container or router may have."""
        return max(self.range[0], self.gateway)

    @property
    def last(self) -> IpAddress:
        """The highest one."""
        return min(self.range[-1], self._highest)

    def holds(self, address: IpAddress) -> bool:
        """Whether a container or router can have *address*; it may be outside the range."""
        return address in self.subnet and int(self.gateway) <= int(address) <= int(self._highest)

    @property
    def gateway(self) -> IpAddress:
        """The lowest address that is not the subnet's own: the router's, unless somebody says otherwise."""
        return self.subnet[1] if self.subnet.num_addresses > 2 else self.subnet[0]

    @property
    def _highest(self) -> IpAddress:
        """Below the broadcast address of IPv4."""
        broadcast = self.subnet.version == 4 and self.subnet.num_addresses > 2
        return self.subnet[-2] if broadcast else self.subnet[-1]


@dataclass(frozen=True, slots=True)
class Picked:
    """On a lease: the user did not ask for this address. *name*: of the container, empty if not known."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Former:
    """An address that a container of this host had before Docker started; *holder*: its endpoint, if any."""

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
    """A network of the cluster as any host's Docker can make it (definition.py).

    *switches*: ``Internal``, ``Attachable``, ``EnableIPv4``, ``EnableIPv6``, as far as they are given.
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
        """The form in which it is stored."""
        return json.dumps(self.request, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why this host does not act upon a row: one line.

    *part*: ``name``, ``definition`` or ``subnet``, for the metric.
    """

    part: str
    why: str


@dataclass(frozen=True, slots=True)
class SharedNetwork:
    """A network with a name in the cluster.

    *definition*: with it each host's Docker makes the network; ``None`` as long as no host has stored it, or
    if it is *refused*. *removed*: a host has removed it; the others do when none of their containers belongs
    to it; *forced*: they do even if stopped containers do; *incarnation*: which life of the network this is.
    """

    name: str
    definition: Definition | None
    removed: bool
    refused: Refusal | None = None
    forced: bool = False
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class LocalNetwork:
    """A network of this host's Docker that is the network *shared* of the cluster.

    *definition*: see SharedNetwork; ``None`` if it cannot be given to other hosts, which *refused* explains;
    *used*: containers of this host, running or stopped, belong to it.
    """

    id: NetworkId
    shared: str
    definition: Definition | None
    refused: Refusal | None = None
    used: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """A host has a shared network, in the life *incarnation*; *used*: see LocalNetwork."""

    incarnation: str
    used: bool


@dataclass(frozen=True, slots=True)
class Occupied:
    """Addresses that a host has in use outside of OVN. *by*: the name of its Docker network, or of its link.

    *linked*: the host has a link in the subnet; otherwise there is a router between, or Docker alone knows.
    """

    subnet: IpNetwork
    by: str
    linked: bool = False

    def __str__(self) -> str:
        return f"{self.subnet} ({self.by})"


class Obstacle(StrEnum):
    """Why a host cannot have or use a network of the cluster, while others can.

    SUBNET: the host has those addresses elsewhere; DOCKER: its Docker refuses the network; DEFINITION: the
    other hosts cannot read how it was made; GATEWAY: the host's docker_gwbridge has those addresses, so that
    no container starts on the network.
    """

    SUBNET = "subnet"
    DOCKER = "docker"
    DEFINITION = "definition"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Problem:
    """A host cannot have or use the network *network* of the cluster; *why*: one line."""

    network: str
    obstacle: Obstacle
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """A host's own words for the others: see Occupied and Problem. *host* is a system-id."""

    host: str
    occupied: tuple[Occupied, ...] = ()
    problems: tuple[Problem, ...] = ()


GATEWAY_BRIDGE = "docker_gwbridge"
"""Docker's network that leads containers on networks of plugins out of their host."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's attachment to a network. *mac* is ``None`` until somebody chose one.

    *router*: the others on the network believe its router advertisements, redirects and DHCP answers;
    *allowed*: what it may use besides its addresses; *port_security*: whether it may use no other addresses,
    ``None`` if that is the network's to say.
    """

    id: EndpointId
    network: NetworkId
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    mac: str | None = None
    router: bool = False
    allowed: tuple[Allowed, ...] = ()
    port_security: bool | None = None


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    """An endpoint as a database or this host has it. *host* is a system-id, *age* in seconds."""

    id: EndpointId
    network: NetworkId
    host: str
    age: float
    encap: str = ""
    """Tunnel address of the host, if it has one."""
    up: bool = False
    """OVN has its port at work on some host (ovn-nb(5), Logical_Switch_Port:up)."""
    record: str = ""
    """The backend's record of the rows that make its port, if this host keeps one."""

    def dead(self, joined: bool | None, grace: float) -> bool:  # noqa: FBT001 - what Links.joined() says of it
        """Whether it has no container any more, going by its veth: *joined* if one end is in a container.

        Between CreateEndpoint and Join both ends are still here, so an endpoint younger than *grace*
        seconds gets the benefit of the doubt; without a veth (None) there is none.
        """
        return joined is None or (not joined and self.age > grace)


def whole_number(text: str) -> int | None:
    """``None`` if it is none, or far too large: databases have what other hosts wrote."""
    return int(text) if re.fullmatch("[0-9]{1,19}", text) else None


def since(age: float) -> int | None:
    """When a row of that *age* in seconds was made, in seconds of the epoch; ``None`` if nobody knows."""
    return None if age == float("inf") else round(time.time() - age)


@dataclass(frozen=True, slots=True)
class StoredNetwork:
    """A network as the backend has it of this host: made, joined or attached to.

    *id* may be the beginning of Docker's ID; *shared*: its name if other hosts have it too, or the user's
    own network that it is attached to; *age* in seconds.
    """

    id: NetworkId
    shared: str
    age: float


class Kind(StrEnum):
    """What is left where it should not be."""

    ENDPOINT = "endpoint"
    LINK = "link"
    NETWORK = "network"
    CLAIM = "claim"
    LEASE = "lease"
    POOL = "pool"
    NAMES = "names"
    RESOLVER = "resolver"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Gap:
    """A row that this host needs and that the backend does not have.

    *network* needs it, or its *endpoint*. *owner*: who has the address, or the network's name, by now, if
    anybody: then the row cannot be made again. *removed*: other hosts may have removed the network while this
    one was forgotten.
    """

    kind: Kind
    what: str
    network: NetworkId
    endpoint: EndpointId = EndpointId("")
    owner: str = ""
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is there and should not be, or, if *missing*, that should be there and is not.

    *what*: ID, address or name; *where*: the places that have, or lack, something of it; *since* when it is
    there, in seconds of the epoch, if known; *cure*: what is done about it; *row*: for the code that reported
    it; *endpoint*: whose it was; *command*: mends it where the driver cannot.
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
        """What it is; of Docker's IDs as much as Docker shows."""
        return self.what[:12] if len(self.what) >= 48 else self.what


class AddressInUse(Conflict):
    """*address* (IP or MAC) belongs to *holder* on the same logical switch.

    *allowed*: it is an allowed address of the holder; *asked*: it is asked for as an allowed address.
    """

    def __init__(
        self, address: str, holder: StoredEndpoint, *, allowed: bool = False, asked: bool = False
    ) -> None:
        who = f"endpoint {holder.id[:12]} on host {holder.host}"
        if asked:
            text = f"allowed address {address} is the own address of {who}; leave it out"
        elif allowed:
            text = (
                f"address {address} is an allowed address of {who}; choose another with --ip or --mac-address"
            )
        else:
            text = (
                f"address {address} is in use by {who}; choose another with --ip or --mac-address, or create "
                "the network with another --ip-range on each host"
            )
        super().__init__(text)
        self.address = address
        self.holder = holder
        self.allowed = allowed or asked


@dataclass(frozen=True, slots=True)
class Tls:
    """Files that prove who we are to ``ssl:`` databases, and the CA that proves who they are.

    *names*: a database's certificate must have its address, or everybody whom the CA knows could pass for it.
    """

    private_key: str
    certificate: str
    ca_cert: str
    names: bool = True


def remote_addresses(remotes: Iterable[str]) -> list[IpAddress]:
    """IP addresses in remotes such as ``ssl:10.0.0.1:6641`` or ``tcp:[fd00::1]:6641``."""
    found = []
    for remote in remotes:
        with suppress(ValueError):  # a path, or a name
            found.append(ip_address(remote.partition(":")[2].rpartition(":")[0].strip("[]")))
    return found


@dataclass(frozen=True, slots=True)
class Chassis:
    """This host: what the local Open_vSwitch database says.

    *bridge* is where containers are plugged in, *datapath* its type, ``None`` as long as there is no such
    bridge. A VM of a cloud has no tunnels of its own: neither *northbound* nor *encap_ips*.
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
        """Addresses that this host must reach outside of OVN: of its tunnels and of the databases."""
        return (*self.encap_ips, *remote_addresses((*self.northbound, *self.southbound)))

    def made(self, host: str, encap: str) -> bool:
        """Whether this host has made what says that *host* with the tunnel address *encap* has.

        Machines that were cloned have one system-id, but never one tunnel address. Empty if it does not say.
        """
        own = {str(ip) for ip in self.encap_ips}
        return host == self.system_id and (not encap or not own or encap in own)


@dataclass(frozen=True, slots=True)
class Attachment:
    """How an endpoint hangs on the switch: what the backend tells the host.

    *mtu* in bytes; *resolver*: OVN answers there to names of containers, asked at NAMESERVERS; *vlan*: the
    tag of the port; *mac*, *addresses*: where the backend chose them, not Docker; *any_router*: it
    believes whoever says that it is a router or a DHCP server, not only those that are marked; *record*: how
    the backend makes its rows again.
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
    """What Docker has to do in the sandbox: move *link* there, and lead *routes* out of it."""

    link: str
    routes: tuple[IPv4Network, ...] = ()


NAMESERVERS = (IPv4Address("169.254.53.1"), IPv4Address("169.254.53.2"))
"""Where containers ask for names, the same on all networks of the cluster: dockerd has one setting.

Two, so that a container on two such networks asks both. Docker's resolver uses three servers at most (moby
daemon/libnetwork/resolver.go, maxExtDNS): one is left for the rest of the world.
"""


def resolver_routes(turn: int) -> tuple[IPv4Network, ...]:
    """Routes to NAMESERVERS for the network of a sandbox whose *turn* it is, from 0.

    The first network has the first server, the second one the second. Shorter prefixes are for when the
    others are not there, or not any more. No two networks have the same, which the kernel would refuse.
    """
    first, second = NAMESERVERS
    if turn < len(NAMESERVERS):
        own, other = ((first, second), (second, first))[turn]
        return IPv4Network((own, 32)), IPv4Network((other, 31), strict=False)
    return (IPv4Network((first, 32 - turn), strict=False),) if turn <= 8 else ()


def choose_mac(endpoint: Endpoint) -> str:
    """MAC for an endpoint that brought none: 02:42 and the IPv4 address, as Docker's bridge does.

    The same address always has the same MAC, so no neighbour keeps a stale one. Without IPv4
    it is derived from the IPv6 address or, without any, from the endpoint's ID.
    A router's begins with ROUTER_MAC instead, by which all hosts know it.
    """
    for address in endpoint.addresses:
        if isinstance(address, IPv4Interface):
            prefix = ROUTER_MAC if endpoint.router else b"\x02\x42"
            return (prefix + address.ip.packed).hex(":")
    key = str(endpoint.addresses[0].ip) if endpoint.addresses else endpoint.id
    derived = uuid5(_NAMESPACE, f"mac/{endpoint.network}/{key}").bytes[:5]
    return (ROUTER_MAC + derived[:4] if endpoint.router else b"\x06" + derived).hex(":")


ROUTER_MAC = b"\x0e\x42"
"""The first bytes of a router's MAC. Port security ties a container to its MAC, so that no other can pass for
one, and no host has to be told which ones are."""


def is_router_mac(mac: str) -> bool:
    """Whether containers believe what comes from this MAC (host/router_guard.py)."""
    return mac.lower().startswith(ROUTER_MAC.hex(":"))


def check_allowed(allowed: Iterable[Allowed], gateways: Iterable[IpAddress] = ()) -> None:
    """Raise BadRequest if addresses are allowed that would make a container pass for a part of the network.

    *gateways*: of the network.
    """
    reserved: dict[IpAddress, str] = dict.fromkeys(NAMESERVERS, "where containers ask for names")
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
"""How the names of our links on the host begin."""


def host_link(endpoint: EndpointId) -> str:
    """Name of the veth end that stays on the host, in br-int; 15 characters at most (IFNAMSIZ)."""
    return f"{HOST_LINK}{endpoint[:12]}"


ENCAPS = {"geneve": 38, "vxlan": 30, "stt": 52}
"""What external_ids:ovn-encap-type may be (ovn-controller(8)), and the bytes that it adds to the IP header.

Geneve: UDP 8 + Geneve 8 + OVN's option 8 + Ethernet 14; VXLAN: UDP 8 + VXLAN 8 + Ethernet 14; STT: TCP 20 +
STT 18 + Ethernet 14 (ovn-architecture(7), "Tunnel Encapsulations").
"""


def tunnel_overhead(encap_types: tuple[str, ...], encap_ip: IpAddress) -> int:
    """Bytes that the tunnel adds to a packet: the largest among *encap_types*, and the outer IP header."""
    outer = 20 if encap_ip.version == 4 else 40
    return outer + max(ENCAPS.get(encap, ENCAPS["geneve"]) for encap in encap_types)


def container_link(endpoint: EndpointId) -> str:
    """Name of the veth end that Docker moves into the container and renames to ethN."""
    return f"odc{endpoint[:12]}"
