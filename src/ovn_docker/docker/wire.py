"""Docker's network plugin protocol as types: requests, their meaning, and the answers. No I/O.

The authority is moby, daemon/libnetwork/drivers/remote/api/api.go: structs and members have the same names
here. Go sends an empty list or map as ``null``. Unknown members are ignored, since every version of Docker
adds some.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from typing import Any, Literal, Protocol

import msgspec

from ovn_docker import options
from ovn_docker.errors import BadRequest, OvnDockerError, Unavailable
from ovn_docker.model import (
    ADDRESS_SPACE,
    ROUTER_MAC,
    Endpoint,
    EndpointId,
    IpAddress,
    IpNetwork,
    Joined,
    Network,
    NetworkId,
    Pool,
    PoolId,
    Subnet,
    check_allowed,
    is_router_mac,
)
from ovn_docker.text.printable import one_line

Answer = Mapping[str, object]

_CONNECTED = 1
"""A route without a next hop (moby daemon/libnetwork/types/types.go, CONNECTED)."""

_IFNAME = options.DOCKER + "endpoint.ifname"
"""Option for the interface's name in the container (Docker 28.1); a plugin can answer a prefix only."""

_SERIAL = "com.docker.network.ipam.serial"
"""Option of a request for an address that a manager of a swarm makes (swarmkit, cnmallocator).

The manager leases the addresses of all tasks, and each node leases those of its own tasks once more, from a
pool that it requests for itself: as two networks would, of which the second finds all addresses in use.
"""

log = logging.getLogger("ovn_docker.plugin")


class NetworkDriver(Protocol):
    """Operations that Docker requests. Each is idempotent and may raise OvnDockerError."""

    def create_network(self, network: Network) -> None:
        """Create a network. Another host on the same database may have created it already."""

    def delete_network(self, network: NetworkId) -> None:
        """Delete a network, which need not exist. Docker only logs an error."""

    def allocate_network(self, network: Network) -> None:
        """Create a network for a whole swarm. A manager calls it before any node calls create_network."""

    def free_network(self, network: NetworkId) -> None:
        """Delete a network that allocate_network created."""

    def create_endpoint(self, endpoint: Endpoint) -> Endpoint:
        """Create an endpoint and return it with a MAC. Steps that can fail belong here, not in join."""

    def delete_endpoint(self, endpoint: EndpointId) -> None:
        """Delete an endpoint, which need not exist. Docker only logs an error."""

    def join(self, network: NetworkId, endpoint: EndpointId, sandbox: str) -> Joined:
        """Return what Docker has to set up in *sandbox*, the path of a network namespace."""

    def leave(self, endpoint: EndpointId) -> None:
        """Undo join, which need not have been called."""

    def endpoint_info(self, endpoint: EndpointId) -> dict[str, str]:
        """Return values for ``docker network inspect``; empty if they cannot be read."""


class IpamDriver(Protocol):
    """IPAM operations that Docker requests. Each may raise OvnDockerError; releases are idempotent."""

    def request_pool(self, subnet: IpNetwork | None, part: IpNetwork | None, version: int) -> Pool:
        """Return a pool of *subnet*, or of a subnet that is not in use, which leases addresses of *part*."""

    def release_pool(self, pool: PoolId) -> None:
        """Release a pool."""

    def request_address(
        self, pool_id: PoolId, wanted: IpAddress | None, *, gateway: bool, name: str = ""
    ) -> tuple[IpAddress, int]:
        """Lease *wanted*, or a free address; return the address and its prefix length."""

    def release_address(self, pool: PoolId, address: IpAddress) -> None:
        """Release an address."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """The objects that serve Docker's calls.

    *scope* is called once in dockerd's life and may not need a database. *network_options*: known options of
    ``-o``; *endpoint_options*: of ``--driver-opt``. *suspect* is called when leftovers may exist: a call of
    the last dockerd was not finished, a release failed, a request may still be carried out after its timeout,
    or a call was lost.
    """

    driver: NetworkDriver
    ipam: IpamDriver
    scope: Callable[[], Literal["local", "global"]] = lambda: "local"
    network_options: tuple[options.Option, ...] = options.OPTIONS
    endpoint_options: tuple[options.Option, ...] = options.ENDPOINT
    suspect: Callable[[], None] = lambda: None


class Request(msgspec.Struct, frozen=True):
    """A call. Calls with a constant answer have this type itself, and their body is not read."""


class NetworkRequest(Request, frozen=True):
    """A call about a network."""

    NetworkID: NetworkId

    def __post_init__(self) -> None:
        """Check the IDs, which become names of rows and links."""
        for name in ("NetworkID", "EndpointID"):
            given = getattr(self, name, "0")
            if not re.fullmatch(r"[0-9A-Za-z]{1,64}", given):
                raise ValueError(f"{name} {_shown(given)} is not 1 to 64 letters and digits")


class EndpointRequest(NetworkRequest, frozen=True, kw_only=True):
    """A call about an endpoint of a network. *Options*: Docker's own, and those of ``--driver-opt``."""

    EndpointID: EndpointId
    Options: dict[str, Any] | None = None


class IPAMData(msgspec.Struct, frozen=True):
    """A pool of a network (moby daemon/libnetwork/driverapi/ipamdata.go)."""

    AddressSpace: str = ""
    Pool: str = ""
    Gateway: str = ""
    AuxAddresses: dict[str, str] | None = None

    def subnet(self, version: int) -> Subnet | None:
        """Return the subnet; ``None`` for the pool of Docker's ``null`` IPAM driver (all addresses)."""
        if self.Pool in {"0.0.0.0/0", "::/0"}:
            return None
        pool = _network("Pool", self.Pool, version)
        if pool is None:
            return None
        ours = self.AddressSpace == ADDRESS_SPACE
        if not self.Gateway:
            return Subnet(pool, ours=ours)
        gateway = _interface("Gateway", self.Gateway, version, f"/{pool.prefixlen}").ip
        if gateway not in pool:
            raise BadRequest(f"Gateway {gateway} is not in the subnet {pool}")
        return Subnet(pool, gateway, ours)


class _PoolsRequest(NetworkRequest, frozen=True):
    IPv4Data: list[IPAMData] | None = None
    IPv6Data: list[IPAMData] | None = None

    def subnets(self) -> tuple[Subnet, ...]:
        """Return the subnets, at most one of each IP version. Raises BadRequest."""
        return _subnets(self.IPv4Data or [], 4) + _subnets(self.IPv6Data or [], 6)


class CreateNetworkOptions(msgspec.Struct, frozen=True):
    """Docker's own options and, as *generic*, those that the user gave with ``-o``."""

    internal: bool = msgspec.field(default=False, name=options.DOCKER + "internal")
    generic: dict[str, Any] | None = msgspec.field(default=None, name=options.DOCKER + "generic")


class CreateNetworkRequest(_PoolsRequest, frozen=True):
    """``docker network create``, or in swarm mode the first task of a network on this node."""

    Options: CreateNetworkOptions | None = None

    def network(self, table: tuple[options.Option, ...] = options.OPTIONS) -> Network:
        """Return the network to create. Raises BadRequest."""
        given = self.Options or CreateNetworkOptions()
        typed = options.parse(given.generic or {}, table)
        subnets = self.subnets()
        check_allowed(typed.allowed, [subnet.gateway for subnet in subnets if subnet.gateway])
        for key in given.generic or {}:
            if options.is_of_others(key, table):
                log.info("network %s: ignored option %s of another driver", self.NetworkID[:12], key)
        return Network(self.NetworkID, subnets, given.internal, typed)


class AllocateNetworkRequest(_PoolsRequest, frozen=True):
    """``docker network create`` on a swarm manager: *Options* are the user's, flat."""

    Options: dict[str, str] | None = None

    def network(self, table: tuple[options.Option, ...] = options.OPTIONS) -> Network:
        """Return the network to create. Raises BadRequest."""
        typed, subnets = options.parse(self.Options or {}, table), self.subnets()
        check_allowed(typed.allowed, [subnet.gateway for subnet in subnets if subnet.gateway])
        return Network(self.NetworkID, subnets, options=typed)


class EndpointInterface(msgspec.Struct, frozen=True):
    """Addresses that the interface has to have; empty if the driver may choose."""

    Address: str = ""
    AddressIPv6: str = ""
    MacAddress: str = ""


class CreateEndpointRequest(EndpointRequest, frozen=True, kw_only=True):
    """A container starts on a network or is connected to one."""

    Interface: EndpointInterface | None = None

    def endpoint(self, table: tuple[options.Option, ...] = options.ENDPOINT) -> Endpoint:
        """Return the endpoint to create. Raises BadRequest."""
        typed = options.parse_endpoint(self.Options or {}, table)
        if _IFNAME in (self.Options or {}):
            log.info(
                "endpoint %s: ignored option %s: Docker takes no interface name from a plugin",
                self.EndpointID[:12], _IFNAME,
            )  # fmt: skip
        given = self.Interface or EndpointInterface()
        wanted = (("Address", given.Address, 4), ("AddressIPv6", given.AddressIPv6, 6))
        addresses = tuple(_interface(name, text, version) for name, text, version in wanted if text)
        mac = _mac(given.MacAddress)
        if mac is not None and is_router_mac(mac) is not typed.router:
            raise BadRequest(
                f"MAC addresses that begin with {ROUTER_MAC.hex(':')} are for routers: {mac} "
                + (
                    "does not; leave out --mac-address"
                    if typed.router
                    else "needs --driver-opt ovn.router=true"
                )
            )
        check_allowed(typed.allowed)
        return Endpoint(
            *(self.EndpointID, self.NetworkID, addresses, mac),
            router=typed.router, allowed=typed.allowed, port_security=typed.port_security,
            groups=typed.groups,
        )  # fmt: skip


class JoinRequest(EndpointRequest, frozen=True, kw_only=True):
    """A container's network namespace exists: *SandboxKey* is its path."""

    SandboxKey: str


class DiscoveryNotification(Request, frozen=True):
    """Another node has joined or left the swarm."""

    DiscoveryType: int
    DiscoveryData: Any = None


class RequestPoolRequest(Request, frozen=True):
    """A request for a pool, before its network is created; *Pool* is empty without ``--subnet``."""

    Pool: str = ""
    SubPool: str = ""
    Options: dict[str, str] | None = None
    V6: bool = False


class PoolRequest(Request, frozen=True):
    """A call about a pool of our IPAM driver."""

    PoolID: PoolId

    def __post_init__(self) -> None:
        """Check the ID, which is a UUID."""
        if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", self.PoolID):
            raise ValueError(f"unknown PoolID {_shown(self.PoolID)}")


class AddressRequest(PoolRequest, frozen=True):
    """A call about an address of a pool, without prefix length; empty: any address."""

    Address: str = ""
    Options: dict[str, str] | None = None

    def address(self) -> IpAddress | None:
        """Return the address; ``None`` if any will do. Raises BadRequest."""
        if not self.Address:
            return None
        try:
            address = ip_address(self.Address)
        except ValueError:
            address = None
        if address is None or "%" in self.Address:
            raise BadRequest(f"Address {_shown(self.Address)} is not an IP address")
        return address

    def container(self) -> str:
        """Return the name of the container, which Docker sends from 29 on; else an empty string."""
        name = (self.Options or {}).get("com.docker.network.endpoint.name", "")
        return name if re.fullmatch("[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}", name) else ""


def _request_pool(plugin: Plugin, request: RequestPoolRequest) -> Answer:
    for key in request.Options or {}:
        raise BadRequest(f"{options.unknown(key, {})}; give options of the network with -o")
    version = 6 if request.V6 else 4
    # Docker before 25 passes the user's text on, and its own IPAM driver ignores host bits.
    subnet = _network("Pool", request.Pool, version, host_bits=True)
    part = _network("SubPool", request.SubPool, version, host_bits=True)
    if part is not None and (subnet is None or not part.subnet_of(subnet)):  # type: ignore[arg-type]
        raise BadRequest(f"the range {part} is not within the subnet {subnet or '(not given)'}")
    with _suspected(plugin, Unavailable):
        pool = plugin.ipam.request_pool(subnet, part, version)
    return {"PoolID": pool.id, "Pool": str(pool.subnet), "Data": {}}


def _request_address(plugin: Plugin, request: AddressRequest) -> Answer:
    if _SERIAL in (request.Options or {}):
        raise BadRequest("swarm needs Docker's own IPAM driver: leave out --ipam-driver")
    gateway = (request.Options or {}).get("RequestAddressType") == "com.docker.network.gateway"
    with _suspected(plugin, Unavailable):
        address, prefix = plugin.ipam.request_address(
            request.PoolID, request.address(), gateway=gateway, name=request.container()
        )
    return {"Address": f"{address}/{prefix}", "Data": {}}


@contextmanager
def _suspected(plugin: Plugin, error: type[OvnDockerError]) -> Iterator[None]:
    """Report possible leftovers after an *error*: a server that timed out may still carry the request out.

    Docker does not release a pool or address that it did not get, and does not repeat a failed release.
    """
    try:
        yield
    except error:
        plugin.suspect()
        raise


def _release_address(plugin: Plugin, request: AddressRequest) -> None:
    address = request.address()
    if address is not None:
        with _suspected(plugin, OvnDockerError):
            plugin.ipam.release_address(request.PoolID, address)


def _release_pool(plugin: Plugin, request: PoolRequest) -> None:
    with _suspected(plugin, OvnDockerError):
        plugin.ipam.release_pool(request.PoolID)


def _allocate_network(plugin: Plugin, request: AllocateNetworkRequest) -> Answer:
    plugin.driver.allocate_network(request.network(plugin.network_options))
    return {"Options": request.Options or {}}  # on every node they replace the user's options


def _create_endpoint(plugin: Plugin, request: CreateEndpointRequest) -> Answer:
    asked = request.endpoint(plugin.endpoint_options)
    made = plugin.driver.create_endpoint(asked)
    # Docker rejects its own values in an answer (moby drivers/remote/driver.go, "Cannot be modified").
    chosen: dict[str, str | None] = {} if asked.mac else {"MacAddress": made.mac}
    for address in () if asked.addresses else made.addresses:
        chosen["Address" if address.version == 4 else "AddressIPv6"] = str(address)
    return {"Interface": chosen}


def _join(plugin: Plugin, request: JoinRequest) -> Answer:
    if not (request.SandboxKey.startswith("/") and request.SandboxKey.isprintable()):
        raise BadRequest(f"SandboxKey {_shown(request.SandboxKey)} is not a path")
    joined = plugin.driver.join(request.NetworkID, request.EndpointID, request.SandboxKey)
    routes = [{"Destination": str(route), "RouteType": _CONNECTED} for route in joined.routes]
    return {  # without Gateway, so that Docker adds docker_gwbridge
        "InterfaceName": {"SrcName": joined.link, "DstPrefix": "eth"},
        **({"StaticRoutes": routes} if routes else {}),
    }


def _activate(plugin: Plugin, _: Request) -> Answer:
    plugin.suspect()
    return {"Implements": ["NetworkDriver", "IpamDriver"]}


METHODS: dict[str, tuple[type[Request], Callable[[Plugin, Any], Answer | None]]] = {
    "/Plugin.Activate": (Request, _activate),
    "/NetworkDriver.GetCapabilities": (
        Request,
        lambda p, _: {"Scope": p.scope(), "ConnectivityScope": "global"},
    ),
    "/NetworkDriver.GwAllocCheck": (Request, lambda _, __: {"SkipIPv4": False, "SkipIPv6": False}),
    "/NetworkDriver.AllocateNetwork": (AllocateNetworkRequest, _allocate_network),
    "/NetworkDriver.FreeNetwork": (NetworkRequest, lambda p, r: p.driver.free_network(r.NetworkID)),
    "/NetworkDriver.CreateNetwork": (
        CreateNetworkRequest,
        lambda p, r: p.driver.create_network(r.network(p.network_options)),
    ),
    "/NetworkDriver.DeleteNetwork": (NetworkRequest, lambda p, r: p.driver.delete_network(r.NetworkID)),
    "/NetworkDriver.CreateEndpoint": (CreateEndpointRequest, _create_endpoint),
    "/NetworkDriver.DeleteEndpoint": (EndpointRequest, lambda p, r: p.driver.delete_endpoint(r.EndpointID)),
    "/NetworkDriver.EndpointOperInfo": (
        EndpointRequest,
        lambda p, r: {"Value": p.driver.endpoint_info(r.EndpointID)},
    ),
    "/NetworkDriver.Join": (JoinRequest, _join),
    "/NetworkDriver.Leave": (EndpointRequest, lambda p, r: p.driver.leave(r.EndpointID)),
    "/NetworkDriver.ProgramExternalConnectivity": (EndpointRequest, lambda _, __: None),
    "/NetworkDriver.RevokeExternalConnectivity": (EndpointRequest, lambda _, __: None),
    "/NetworkDriver.DiscoverNew": (DiscoveryNotification, lambda _, __: None),
    "/NetworkDriver.DiscoverDelete": (DiscoveryNotification, lambda _, __: None),
    "/IpamDriver.GetCapabilities": (
        Request,
        lambda _, __: {"RequiresMACAddress": False, "RequiresRequestReplay": False},
    ),
    "/IpamDriver.GetDefaultAddressSpaces": (
        Request,
        lambda _, __: {
            "LocalDefaultAddressSpace": ADDRESS_SPACE,
            "GlobalDefaultAddressSpace": ADDRESS_SPACE,
        },
    ),
    "/IpamDriver.RequestPool": (RequestPoolRequest, _request_pool),
    "/IpamDriver.ReleasePool": (PoolRequest, _release_pool),
    "/IpamDriver.RequestAddress": (AddressRequest, _request_address),
    "/IpamDriver.ReleaseAddress": (AddressRequest, _release_address),
}
"""For each path the type of the request, and a function that returns the answer; ``None`` means ``{}``."""


RELEASES = frozenset(
    f"/{name}"
    for name in (
        "NetworkDriver.DeleteNetwork",
        "NetworkDriver.DeleteEndpoint",
        "IpamDriver.ReleaseAddress",
        "IpamDriver.ReleasePool",
    )
)
"""Calls that release something: Docker logs their errors and continues (moby libnetwork)."""


def decode(path: str, body: bytes) -> Request:
    """Return the request in *body*; *path* is a key of METHODS. Raises BadRequest with the JSON path."""
    kind = METHODS[path][0]
    if kind is Request:
        return kind()
    if not body:  # moby pkg/plugins/client.go retries with a reader that it has read to the end
        raise BadRequest(
            "empty request (retry of a broken call): the driver has stopped meanwhile, try again"
        )
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"bad request: {error}") from None


def answer(plugin: Plugin, path: str, request: Request) -> bytes:
    """Carry out *request*, decoded for *path*; return the answer as JSON. Raises OvnDockerError."""
    return msgspec.json.encode(METHODS[path][1](plugin, request) or {})


def failure(message: str) -> bytes:
    """Return an error as JSON: NetworkDriver reads ``Err``, IpamDriver ``Error`` (moby ipams/remote/api)."""
    line = one_line(message[:900])  # Docker prints the text as it is
    return msgspec.json.encode({"Err": line, "Error": line})


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _interface(name: str, text: str, version: int, prefix: str = "") -> IPv4Interface | IPv6Interface:
    """Return an address with prefix length, such as 10.1.0.2/24; *prefix* is appended if there is none."""
    whole = text if "/" in text else text + prefix
    try:
        interface = (IPv4Interface if version == 4 else IPv6Interface)(whole)
    except ValueError:
        interface = None
    if interface is None or not re.fullmatch(r"[^%/]+/[0-9]+", whole):
        raise BadRequest(f"{name} {_shown(text)} is not an IPv{version} address with a prefix length")
    if interface.ip.is_multicast or interface.ip.is_unspecified or interface.ip.is_loopback:
        raise BadRequest(
            f"{name} {_shown(text)} is not a unicast address: give an address that a container can have"
        )
    return interface


def _network(name: str, text: str, version: int, *, host_bits: bool = False) -> IpNetwork | None:
    """Return a subnet such as 10.1.0.0/24; ``None`` if *text* is empty. Host bits need *host_bits*."""
    if not text:
        return None
    given = _interface(name, text, version)
    if given.ip != given.network.network_address and not host_bits:
        raise BadRequest(f"{name} {_shown(text)} has host bits set: give {given.network}")
    return given.network


def _subnets(given: list[IPAMData], version: int) -> tuple[Subnet, ...]:
    subnets = tuple(subnet for pool in given if (subnet := pool.subnet(version)))
    if len(subnets) > 1:
        pools = ", ".join(str(subnet.pool) for subnet in subnets[:4])
        raise BadRequest(
            f"{len(subnets)} IPv{version} subnets given ({pools}): a network takes one of each IP version, "
            "create a network for each"
        )
    return subnets


def _mac(text: str) -> str | None:
    """Return a MAC address in OVN's notation: lower case, with colons."""
    if not text:
        return None
    mac = text.lower().replace("-", ":")
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac):
        raise BadRequest(
            f"MacAddress {_shown(text)} is not six bytes in hexadecimal, such as 02:42:0a:01:00:02"
        )
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise BadRequest(f"MacAddress {_shown(text)} is not a unicast address")
    return mac
