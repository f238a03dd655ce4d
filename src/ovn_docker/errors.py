"""Errors for the person who typed the command, with the facts as attributes.

    OvnDockerError                   exit 1
    ├── BadRequest                   exit 2   the request is wrong: type something else
    │   ├── SwitchNotUnique          exit 2   none or several logical switches have the name
    │   ├── SubnetRefused            exit 2   this host uses a network's addresses for something else
    │   └── AllowedToAll             exit 2   an address that all containers may use is no container's own
    ├── Conflict                     exit 1   the request clashes with something that exists
    │   ├── BeingCreated             exit 1   this host is creating a network of that name
    │   ├── ForeignNetwork           exit 1   a network of that name is not ours
    │   ├── OtherSettings            exit 1   a shared network of that name has other settings
    │   ├── StillRemoved             exit 1   such a network was removed, but a host still has it
    │   ├── OtherMtu                 exit 1   a network of that name has another MTU
    │   ├── OtherSubnets             exit 1   a network or switch has other subnets
    │   │   └── OtherSharedSubnets   exit 1   a shared network has
    │   ├── AddressInUse             exit 1   another container or machine has the address
    │   ├── AddressReserved          exit 1   the address is not for containers
    │   ├── AddressesExhausted       exit 1   a pool has no free address
    │   ├── SubnetsExhausted         exit 1   there is no free subnet
    │   ├── PoolInvalid              exit 1   a pool's row has been changed
    │   ├── PoolNotBound             exit 1   a pool belongs to no network
    │   └── PoolNotRequested         exit 1   a network needs a pool that was not requested
    ├── NotFound                     exit 1   a network, endpoint or pool does not exist
    │   ├── NetworkNotFound          exit 1
    │   ├── EndpointNotFound         exit 1
    │   └── PoolNotFound             exit 1
    └── Unavailable                  exit 3   a part of the system is missing or does not answer
        ├── DatabaseUnreachable      exit 3   no server of a database takes a connection
        ├── Forbidden                exit 3   the user may not use it
        └── TimedOut                 exit 3   it did not answer in time
            └── FlowsLate            exit 3   an endpoint does not forward packets in time

A message is one line: what failed, the value given, what to do. For errors with facts, `str()` is the first
two; the front end adds what to do (docker/wording.py). An error without facts says itself what to do, in
words that hold for every front end: a setting, or a command of OVN, Open vSwitch or OpenStack.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from ovn_docker.model import IpAddress, IpNetwork, StoredEndpoint


class OvnDockerError(Exception):
    """Base of all errors whose message is for the user."""

    exit_code: ClassVar[int] = 1
    label: ClassVar[str] = "error"
    """The kind of error in logs and metrics."""


class BadRequest(OvnDockerError):
    """The request is malformed or asks for something that does not exist."""

    exit_code = 2
    label = "bad_request"


class SwitchNotUnique(BadRequest):
    """No logical switch, or *count* of them, have the name or UUID that the user gives."""

    def __init__(self, switch: str, count: int) -> None:
        super().__init__(
            f"{count} logical switches are named {switch!r}" if count else f"no logical switch {switch!r}"
        )
        self.switch = switch
        self.count = count


class SubnetRefused(BadRequest):
    """This host cannot have a network with these subnets."""

    def __init__(self, why: object) -> None:
        super().__init__(f"this host cannot have the network: {why}")


class AllowedToAll(BadRequest):
    """An address that a network allows to all of its containers is to be the own address of one of them."""

    def __init__(self, allowed: object) -> None:
        super().__init__(f"allowed address {allowed} of the network cannot be a container's own")


class Conflict(OvnDockerError):
    """An address, name or network is in use by something else."""

    label = "conflict"


class BeingCreated(Conflict):
    """This host is creating a network of that name, because another host has it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"network with name {name} already exists: this host is creating it")


class ForeignNetwork(Conflict):
    """A network of that name exists in the backend at *place*, made by somebody else."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(f"{place} has a network {name} that ovn-docker did not make here")
        self.name = name


class OtherSettings(Conflict):
    """A shared network of that name has a *setting* with another value than the one asked for."""

    def __init__(self, name: str, setting: str, there: str, asked: str) -> None:
        super().__init__(_other_setting(name, setting, there, asked))


class StillRemoved(Conflict):
    """A shared network of that name, with other settings, has been removed, but a host has it still."""

    def __init__(self, name: str, setting: str, there: str, asked: str) -> None:
        text = _other_setting(name, setting, there, asked)
        super().__init__(f"{text}: it has been removed, but a host has not given it up yet")
        self.name = name


class OtherMtu(Conflict):
    """A network of that name has another MTU, in bytes, than the one asked for."""

    def __init__(self, name: str, mtu: int, asked: int, place: str) -> None:
        super().__init__(f"network {name} has MTU {mtu} in {place}, not the requested {asked}")
        self.mtu = mtu


class SubnetThere(NamedTuple):
    """A subnet of an existing network, and its gateway; empty without one."""

    subnet: str
    gateway: str


class OtherSubnets(Conflict):
    """A network or switch has other subnets than those asked for.

    *fitting*: the alternatives that can be asked for instead, each the subnets of one network.
    """

    def __init__(self, text: str, fitting: Iterable[tuple[SubnetThere, ...]]) -> None:
        super().__init__(text)
        self.fitting = tuple(fitting)


class OtherSharedSubnets(OtherSubnets):
    """A shared network has other subnets. *replaceable*: those asked for, if all else is the same."""

    def __init__(
        self,
        name: str,
        setting: str,
        there: str,
        asked: str,
        subnets: Iterable[SubnetThere],
        replaceable: frozenset[str],
    ) -> None:
        super().__init__(_other_setting(name, setting, there, asked), [tuple(subnets)])
        self.name = name
        self.replaceable = replaceable


def _other_setting(name: str, setting: str, there: str, asked: str) -> str:
    return f"network {name} has {setting} {there} in the cluster, asked for was {asked}"


class AddressInUse(Conflict):
    """An address or MAC is in use on the same network.

    *user* names who uses *address*; *holder*: the endpoint, if that is one. *allowed*: it is an allowed
    address of the holder; *asked*: the request wants it as an allowed address; *leasing*: the request is for
    a lease.
    """

    label = "address_in_use"

    def __init__(
        self,
        address: str,
        user: str,
        *,
        holder: "StoredEndpoint | None" = None,
        allowed: bool = False,
        asked: bool = False,
        leasing: bool = False,
    ) -> None:
        if asked:
            text = f"allowed address {address} is the own address of {user}"
        elif allowed:
            text = f"address {address} is an allowed address of {user}"
        else:
            text = f"address {address} is in use by {user}"
        super().__init__(text)
        self.address = address
        self.user = user
        self.holder = holder
        self.allowed = allowed
        self.asked = asked
        self.leasing = leasing


class AddressReserved(Conflict):
    """An address is reserved for the gateway or as an auxiliary address."""

    def __init__(self, address: "IpAddress") -> None:
        super().__init__(f"address {address} is reserved for the gateway or by --aux-address")
        self.address = address


class AddressesExhausted(Conflict):
    """A range has no free address; *usable*: it has addresses that containers may have."""

    def __init__(self, range_: "IpNetwork", *, usable: bool) -> None:
        taken = "the gateway and --aux-address take all of it"
        super().__init__(
            f"no free address in {range_}" if usable else f"{range_} has no address for a container: {taken}"
        )
        self.range = range_
        self.usable = usable


class SubnetsExhausted(Conflict):
    """No supply has a free subnet of an IP version."""

    def __init__(self, version: int, supplies: Iterable[object]) -> None:
        self.version = version
        self.supplies = tuple(map(str, supplies))
        super().__init__(f"no free IPv{version} subnet in {', '.join(self.supplies) or 'no supply'}")


class PoolInvalid(Conflict):
    """The backend's row of a pool is not valid: any host may have changed it."""

    def __init__(self, pool: str, why: str) -> None:
        super().__init__(f"pool {pool} {why}")


class PoolNotBound(Conflict):
    """A pool is asked for an address before a network has got the pool."""

    def __init__(self, subnet: "IpNetwork") -> None:
        super().__init__(f"pool {subnet} belongs to no network of the driver 'openvswitch'")
        self.subnet = subnet


class PoolNotRequested(Conflict):
    """A network has a subnet of our IPAM driver for which Docker has not requested a pool."""

    def __init__(self, subnet: "IpNetwork") -> None:
        super().__init__(f"no pool {subnet} was requested for the network")
        self.subnet = subnet


class NotFound(OvnDockerError):
    """A network, endpoint or pool does not exist."""

    label = "not_found"


class NetworkNotFound(NotFound):
    """A network of Docker's is missing in the backend; *place* says where."""

    def __init__(self, network: str, place: str) -> None:
        super().__init__(f"network {network[:12]} is not in {place}")
        self.network = network
        self.place = place


class EndpointNotFound(NotFound):
    """An endpoint has no port in Open vSwitch."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(f"Open vSwitch has no port for the endpoint {endpoint[:12]}")
        self.endpoint = endpoint


class PoolNotFound(NotFound):
    """A pool that Docker knows is missing in the backend; *place* says where."""

    def __init__(self, pool: str, place: str) -> None:
        super().__init__(f"pool {pool} is not in {place}")
        self.pool = pool
        self.place = place


class Unavailable(OvnDockerError):
    """A database, a daemon or a setting that is needed is missing."""

    exit_code = 3
    label = "unavailable"


class DatabaseUnreachable(Unavailable):
    """No server of a database takes a connection.

    *reasons*: why not, for each remote; *cure*: the command that starts the database, the same for every
    front end.
    """

    def __init__(self, database: str, reasons: Iterable[str], cure: str) -> None:
        self.database = database
        self.reasons = tuple(reasons)
        self.cure = cure
        super().__init__(f"cannot reach {database} at {'; '.join(self.reasons)}; {cure}")


class Forbidden(Unavailable):
    """Only root, or the members of a group, may use a part of the system."""

    label = "forbidden"


class TimedOut(Unavailable):
    """Something did not answer within the time that the request may take."""

    label = "timed_out"


class FlowsLate(TimedOut):
    """An endpoint does not forward packets after *seconds*; *why*: the reason, as far as it is known."""

    def __init__(self, endpoint: str, network: str, seconds: float, why: str) -> None:
        super().__init__(
            f"the flows of endpoint {endpoint[:12]} on network {network[:12]} are not in after "
            f"{seconds:g} s: {why}"
        )
        self.endpoint = endpoint
        self.network = network
        self.seconds = seconds
        self.why = why
