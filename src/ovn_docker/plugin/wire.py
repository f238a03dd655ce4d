"""Docker's network plugin protocol as types: what it sends, what it means, what we answer. No I/O.

The authority is moby, daemon/libnetwork/drivers/remote/api/api.go: structs and members have the names that
they have there. Go sends an empty list or map as ``null``. Members that we do not know are ignored, for every
version of Docker adds some.
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
from ovn_docker.printable import one_line

Answer = Mapping[str, object]

_CONNECTED = 1
"""A route without a next hop (moby daemon/libnetwork/types/types.go, CONNECTED)."""

_IFNAME = options.DOCKER + "endpoint.ifname"
"""Name of the interface in the container, since Docker 28.1; plugins answer with a prefix only."""

log = logging.getLogger("ovn_docker.plugin")


class Driver(Protocol):
    """What Docker asks for. Every method may raise OvnDockerError; what is done already is no error."""

    def create_network(self, network: Network) -> None:
        """Make it. With several hosts on one database it may be there already."""

    def delete_network(self, network: NetworkId) -> None:
        """Remove it; it need not be there. Docker only logs an error."""

    def allocate_network(self, network: Network) -> None:
        """Make it for a whole swarm: asked of a manager, before any node asks for create_network."""

    def free_network(self, network: NetworkId) -> None:
        """Remove what allocate_network made."""

    def create_endpoint(self, endpoint: Endpoint) -> Endpoint:
        """Make it, and return it with a MAC address. All that can fail must fail here, not in join."""

    def delete_endpoint(self, network: NetworkId, endpoint: EndpointId) -> None:
        """Remove it; it need not be there. Docker only logs an error."""

    def join(self, network: NetworkId, endpoint: EndpointId, sandbox: str) -> Joined:
        """What Docker shall do in *sandbox*, the path of a network namespace."""

    def leave(self, network: NetworkId, endpoint: EndpointId) -> None:
        """Undo join; there may have been none."""

    def endpoint_info(self, network: NetworkId, endpoint: EndpointId) -> dict[str, str]:
        """What ``docker network inspect`` may show; empty when in doubt."""


class Ipam(Protocol):
    """What Docker's IPAM calls ask for. Each may raise OvnDockerError; releases are idempotent."""

    def request_pool(self, subnet: IpNetwork | None, part: IpNetwork | None, version: int) -> Pool:
        """*subnet*, or one that nobody uses, to give addresses of *part* away."""

    def release_pool(self, pool: PoolId) -> None:
        """Take it back."""

    def request_address(
        self, pool_id: PoolId, wanted: IpAddress | None, *, gateway: bool, name: str = ""
    ) -> tuple[IpAddress, int]:
        """*wanted*, or a free address; and the length of its prefix."""

    def release_address(self, pool: PoolId, address: IpAddress) -> None:
        """Take it back."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """What answers. Docker asks for *scope* once in dockerd's life: its answer may need no database.

    *network_options*: those that ``-o`` may have; *endpoint_options*: those of ``--driver-opt``; *suspect*:
    told when something may be left over: what the last dockerd did not finish, what could not be taken back,
    what may come to be though nobody waits for it any more, or what a call was about that got lost.
    """

    driver: Driver
    ipam: Ipam
    scope: Callable[[], Literal["local", "global"]] = lambda: "local"
    network_options: tuple[options.Option, ...] = options.OPTIONS
    endpoint_options: tuple[options.Option, ...] = options.ENDPOINT
    suspect: Callable[[], None] = lambda: None


class Request(msgspec.Struct, frozen=True):
    """A call; of this type if the answer is always the same, so that nobody reads the body, if any."""


class NetworkRequest(Request, frozen=True):
    """A call about a network."""

    NetworkID: NetworkId

    def __post_init__(self) -> None:
        """IDs become names of rows and links: nothing else may be in them."""
        for name in ("NetworkID", "EndpointID"):
            given = getattr(self, name, "0")
            if not re.fullmatch(r"[0-9A-Za-z]{1,64}", given):
                raise ValueError(f"{name} {_shown(given)} is not 1 to 64 letters and digits")


class EndpointRequest(NetworkRequest, frozen=True, kw_only=True):
    """A call about an endpoint of a network. *Options*: Docker's own, and those of ``--driver-opt``."""

    EndpointID: EndpointId
    Options: dict[str, Any] | None = None

    def ids(self) -> tuple[NetworkId, EndpointId]:
        """Both IDs, in the order that the driver takes them."""
        return self.NetworkID, self.EndpointID


class IPAMData(msgspec.Struct, frozen=True):
    """A pool as Docker's IPAM has set it up (moby daemon/libnetwork/driverapi/ipamdata.go)."""

    AddressSpace: str = ""
    Pool: str = ""
    Gateway: str = ""
    AuxAddresses: dict[str, str] | None = None

    def subnet(self, version: int) -> Subnet | None:
        """The pool; None for that of Docker's ``null`` IPAM driver, which holds every address."""
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
        """At most one of each IP version. Raises BadRequest."""
        return _subnets(self.IPv4Data or [], 4) + _subnets(self.IPv6Data or [], 6)


class NetworkOptions(msgspec.Struct, frozen=True):
    """Docker's own options and, as *generic*, those that the user typed behind ``-o``."""

    internal: bool = msgspec.field(default=False, name=options.DOCKER + "internal")
    generic: dict[str, Any] | None = msgspec.field(default=None, name=options.DOCKER + "generic")


class CreateNetworkRequest(_PoolsRequest, frozen=True):
    """``docker network create``; in swarm mode also the first task of a network on this node."""

    Options: NetworkOptions | None = None

    def network(self, table: tuple[options.Option, ...] = options.OPTIONS) -> Network:
        """The network that is meant. Raises BadRequest."""
        given = self.Options or NetworkOptions()
        typed = options.parse(given.generic or {}, table)
        subnets = self.subnets()
        check_allowed(typed.allowed, [subnet.gateway for subnet in subnets if subnet.gateway])
        for key in given.generic or {}:
            if options.is_of_others(key, table):
                log.info(
                    "network %s: option %s is of another driver and is ignored", self.NetworkID[:12], key
                )
        return Network(self.NetworkID, subnets, given.internal, typed)


class AllocateNetworkRequest(_PoolsRequest, frozen=True):
    """``docker network create`` on a swarm manager: *Options* are the user's, flat."""

    Options: dict[str, str] | None = None

    def network(self, table: tuple[options.Option, ...] = options.OPTIONS) -> Network:
        """The network that is meant. Raises BadRequest."""
        typed, subnets = options.parse(self.Options or {}, table), self.subnets()
        check_allowed(typed.allowed, [subnet.gateway for subnet in subnets if subnet.gateway])
        return Network(self.NetworkID, subnets, options=typed)


class EndpointInterface(msgspec.Struct, frozen=True):
    """What Docker wants the interface to have; ``''`` is nothing."""

    Address: str = ""
    AddressIPv6: str = ""
    MacAddress: str = ""


class CreateEndpointRequest(EndpointRequest, frozen=True, kw_only=True):
    """A container starts on, or is connected to, a network."""

    Interface: EndpointInterface | None = None

    def endpoint(self, table: tuple[options.Option, ...] = options.ENDPOINT) -> Endpoint:
        """The endpoint that is meant. Raises BadRequest."""
        typed = options.parse_endpoint(self.Options or {}, table)
        if _IFNAME in (self.Options or {}):
            log.info(
                "endpoint %s: option %s is ignored: Docker takes no interface name from a plugin",
                self.EndpointID[:12], _IFNAME,
            )  # fmt: skip
        given = self.Interface or EndpointInterface()
        wanted = (("Address", given.Address, 4), ("AddressIPv6", given.AddressIPv6, 6))
        addresses = tuple(_interface(name, text, version) for name, text, version in wanted if text)
        mac = _mac(given.MacAddress)
        if mac is not None and is_router_mac(mac) is not typed.router:
            raise BadRequest(
                f"a MAC address that begins with {ROUTER_MAC.hex(':')} is a router's, and no other: {mac} "
                + ("is not one; leave it to us" if typed.router else "takes --driver-opt ovn.router=true")
            )
        check_allowed(typed.allowed)
        return Endpoint(
            *(self.EndpointID, self.NetworkID, addresses, mac),
            router=typed.router, allowed=typed.allowed, port_security=typed.port_security,
        )  # fmt: skip


class JoinRequest(EndpointRequest, frozen=True, kw_only=True):
    """The container's network namespace exists: *SandboxKey* is its path."""

    SandboxKey: str


class DiscoveryNotification(Request, frozen=True):
    """Another node of a swarm came or went."""

    DiscoveryType: int
    DiscoveryData: Any = None


class RequestPoolRequest(Request, frozen=True):
    """Before a network is created; *Pool* is empty if the user gave no ``--subnet``."""

    Pool: str = ""
    SubPool: str = ""
    Options: dict[str, str] | None = None
    V6: bool = False


class PoolRequest(Request, frozen=True):
    """A call about a pool that came from us."""

    PoolID: PoolId

    def __post_init__(self) -> None:
        """Our pools' names are UUIDs."""
        if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", self.PoolID):
            raise ValueError(f"PoolID {_shown(self.PoolID)} is none of ours")


class AddressRequest(PoolRequest, frozen=True):
    """A call about an address of a pool, without its prefix length; empty: any."""

    Address: str = ""
    Options: dict[str, str] | None = None

    def address(self) -> IpAddress | None:
        """The address that is meant. Raises BadRequest."""
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
        """The name of the container that it is for, which Docker says from 29 on; empty if it does not."""
        name = (self.Options or {}).get("com.docker.network.endpoint.name", "")
        return name if re.fullmatch("[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}", name) else ""


def _request_pool(plugin: Plugin, request: RequestPoolRequest) -> Answer:
    for key in request.Options or {}:
        raise BadRequest(f"{options.unknown(key, {})}; options of the network go behind -o")
    version = 6 if request.V6 else 4
    # Docker before 25 passes on what the user typed, and its own IPAM driver ignores host bits.
    subnet = _network("Pool", request.Pool, version, host_bits=True)
    part = _network("SubPool", request.SubPool, version, host_bits=True)
    if part is not None and (subnet is None or not part.subnet_of(subnet)):  # type: ignore[arg-type]
        raise BadRequest(f"the range {part} is not a part of the subnet {subnet or '(none given)'}")
    with _suspected(plugin, Unavailable):
        pool = plugin.ipam.request_pool(subnet, part, version)
    return {"PoolID": pool.id, "Pool": str(pool.subnet), "Data": {}}


def _request_address(plugin: Plugin, request: AddressRequest) -> Answer:
    gateway = (request.Options or {}).get("RequestAddressType") == "com.docker.network.gateway"
    with _suspected(plugin, Unavailable):
        address, prefix = plugin.ipam.request_address(
            request.PoolID, request.address(), gateway=gateway, name=request.container()
        )
    return {"Address": f"{address}/{prefix}", "Data": {}}


@contextmanager
def _suspected(plugin: Plugin, error: type[OvnDockerError]) -> Iterator[None]:
    """After such an error something may be left over, or stored late by who did not answer in time.

    Docker gives back nothing that it did not get, and has forgotten what it gives back, whatever we say.
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
    return {"Options": request.Options or {}}  # on every node they replace what the user typed


def _create_endpoint(plugin: Plugin, request: CreateEndpointRequest) -> Answer:
    asked = request.endpoint(plugin.endpoint_options)
    made = plugin.driver.create_endpoint(asked)
    # Docker refuses to hear again what it said (moby drivers/remote/driver.go, "Cannot be modified").
    told: dict[str, str | None] = {} if asked.mac else {"MacAddress": made.mac}
    for address in () if asked.addresses else made.addresses:
        told["Address" if address.version == 4 else "AddressIPv6"] = str(address)
    return {"Interface": told}


def _join(plugin: Plugin, request: JoinRequest) -> Answer:
    if not (request.SandboxKey.startswith("/") and request.SandboxKey.isprintable()):
        raise BadRequest(f"SandboxKey {_shown(request.SandboxKey)} is not a path")
    joined = plugin.driver.join(*request.ids(), request.SandboxKey)
    routes = [{"Destination": str(route), "RouteType": _CONNECTED} for route in joined.routes]
    return {  # without Gateway: docker_gwbridge stays
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
    "/NetworkDriver.DeleteEndpoint": (EndpointRequest, lambda p, r: p.driver.delete_endpoint(*r.ids())),
    "/NetworkDriver.EndpointOperInfo": (
        EndpointRequest,
        lambda p, r: {"Value": p.driver.endpoint_info(*r.ids())},
    ),
    "/NetworkDriver.Join": (JoinRequest, _join),
    "/NetworkDriver.Leave": (EndpointRequest, lambda p, r: p.driver.leave(*r.ids())),
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
"""Every path that we answer: the type of its request, and what answers it; None stands for ``{}``."""


RELEASES = frozenset(
    f"/{name}"
    for name in (
        "NetworkDriver.DeleteNetwork",
        "NetworkDriver.DeleteEndpoint",
        "IpamDriver.ReleaseAddress",
        "IpamDriver.ReleasePool",
    )
)
"""Calls that take something back: Docker logs their errors and goes on to the next (moby libnetwork)."""


def decode(path: str, body: bytes) -> Request:
    """The request in *body*; *path* is a key of METHODS. Raises BadRequest, with the place in the JSON."""
    kind = METHODS[path][0]
    if kind is Request:
        return kind()
    if not body:  # moby pkg/plugins/client.go retries with a reader that it has read to the end
        raise BadRequest("empty request (retry of a broken call): the driver went away meanwhile, try again")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"bad request: {error}") from None


def answer(plugin: Plugin, path: str, request: Request) -> bytes:
    """Do what *request*, decoded for *path*, asks for; JSON. Raises OvnDockerError."""
    return msgspec.json.encode(METHODS[path][1](plugin, request) or {})


def failure(message: str) -> bytes:
    """An error as JSON: NetworkDriver reads ``Err``, IpamDriver ``Error`` (moby ipams/remote/api/api.go)."""
    line = one_line(message[:900])  # Docker prints it raw
    return msgspec.json.encode({"Err": line, "Error": line})


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _interface(name: str, text: str, version: int, prefix: str = "") -> IPv4Interface | IPv6Interface:
    """An address with its prefix length, such as 10.1.0.2/24; without one, *prefix* is appended."""
    whole = text if "/" in text else text + prefix
    try:
        interface = (IPv4Interface if version == 4 else IPv6Interface)(whole)
    except ValueError:
        interface = None
    if interface is None or not re.fullmatch(r"[^%/]+/[0-9]+", whole):
        raise BadRequest(f"{name} {_shown(text)} is not an IPv{version} address with a prefix length")
    if interface.ip.is_multicast or interface.ip.is_unspecified or interface.ip.is_loopback:
        raise BadRequest(f"{name} {_shown(text)} is not for a container: it is no unicast address")
    return interface


def _network(name: str, text: str, version: int, *, host_bits: bool = False) -> IpNetwork | None:
    """Return a subnet such as 10.1.0.0/24, None if *text* is empty; host bits are ignored, or refused."""
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
    """Lower case with colons, as OVN wants it."""
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
