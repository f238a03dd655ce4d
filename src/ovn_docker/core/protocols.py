"""The interfaces that the core needs from Docker, the backends and the host: protocols, no code.

A backend implements `NetworkBackend`, `AddressStore` and `LeftoverStore`, each as one host sees it. Every
other protocol of a backend or of the virtual switch is a capability of one mode: the core asks for it with
isinstance(), or is given None without it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol, runtime_checkable

from ovn_docker.deadline import Deadline
from ovn_docker.hostnames import ContainerNames, Unregistered
from ovn_docker.model import (
    Attachment,
    Chassis,
    Definition,
    Difference,
    Endpoint,
    EndpointId,
    Former,
    Gap,
    IpAddress,
    IpNetwork,
    Lease,
    LocalNetwork,
    Network,
    NetworkId,
    Note,
    Occupied,
    Pool,
    PoolId,
    Report,
    SharedNetwork,
    StoredEndpoint,
    StoredNetwork,
)


class NetworkBackend(Protocol):
    """Stores networks and endpoints for all hosts, as one host sees them. Every method is idempotent."""

    def create_network(self, network: Network, deadline: Deadline, *, kept: bool = False) -> str:
        """Store a network. *kept*: swarm's manager keeps it until its delete_network(kept=True).

        Returns the record from which a `RowRemaker` makes the network's rows again, "" without one.
        """

    def delete_network(self, network: NetworkId, deadline: Deadline, *, kept: bool = False) -> None:
        """Delete a network and the rest of its endpoints."""

    def drop_network(self, network: NetworkId, deadline: Deadline) -> None:
        """Forget that this host has a network; delete the network if no other host has it."""

    def create_endpoint(self, endpoint: Endpoint, deadline: Deadline) -> Attachment:
        """Store an endpoint. If this raises AddressInUse or NotFound, nothing is stored."""

    def delete_endpoint(self, endpoint: EndpointId, deadline: Deadline) -> bool:
        """Delete an endpoint. Returns False if rows may be left, because a part was already missing."""

    def endpoints(self, deadline: Deadline) -> list[StoredEndpoint]:
        """Return all endpoints of this host. May be slow."""


NetworkBackends = Callable[[Chassis], NetworkBackend]
"""Gives the backend as the host *chassis* sees it. Raises BadRequest for unusable settings."""


class LateFlowReporter(Protocol):
    """Capability of a backend that has a part in forwarding an endpoint's packets, as Neutron has."""

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:
        """Wait until the backend forwards for an endpoint; return "", or the reason after *deadline*."""


class HostSwitch(Protocol):
    """The virtual switch of this host."""

    def chassis(self, deadline: Deadline, *, without: EndpointId | None = None) -> Chassis:
        """Read the settings of this host; unplug *without* in the same call.

        Raises Unavailable with the command to type.
        """

    def check(self, chassis: Chassis) -> None:
        """Raise Unavailable, with the cure, unless ports can be created."""

    def plug(self, endpoint: Endpoint, attachment: Attachment, chassis: Chassis, deadline: Deadline) -> int:
        """Create the endpoint's port from its link, which exists. Returns its OpenFlow port number."""

    def unplug(self, endpoint: EndpointId, deadline: Deadline) -> None:
        """Delete the endpoint's port."""

    def enter(self, endpoint: EndpointId, sandbox: str, deadline: Deadline) -> tuple[int | None, bool]:
        """Wait until the port forwards, and store the ID of its sandbox. Raises NotFound without a port.

        Returns the index of this endpoint among the sandbox's endpoints that have a resolver (None without a
        resolver), and True if the port forwards.
        """

    def announce(self, endpoint: Endpoint, chassis: Chassis, ofport: int) -> None:
        """Announce the MAC of an endpoint that forwards to its neighbours. Raises Unavailable."""

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:
        """Return the reason why a port does not forward yet."""

    def endpoint_info(self, endpoint: EndpointId, deadline: Deadline) -> dict[str, str]:
        """Return details of an endpoint for Docker; empty if this host has no port of the endpoint."""

    def keep(self, network: NetworkId, record: str, deadline: Deadline) -> None:
        """Store the backend's record of a network; delete the record if *record* is empty."""

    def records(self, deadline: Deadline) -> dict[NetworkId, str]:
        """Return the records of this host's networks."""

    def store_record(self, endpoint: EndpointId, record: str, deadline: Deadline) -> None:
        """Store the backend's record of an endpoint that was plugged without one."""

    def endpoints(self, deadline: Deadline) -> list[StoredEndpoint]:
        """Return all endpoints that have a port on this host."""


@runtime_checkable
class GuardedLinks(Protocol):
    """Capability of a virtual switch whose containers are guarded against each other's routers."""

    def guarded(self, deadline: Deadline) -> set[str]:
        """Return the links that the router guard has to cover."""


class HostLinks(Protocol):
    """The network interfaces of this host's kernel."""

    def create_veth(self, host: str, container: str, *, mac: str, mtu: int, tx_checksums: bool) -> None:
        """Create a veth pair."""

    def guard(self, link: str) -> None:
        """Cover a new link with the router guard (host/kernel/router_guard.py)."""

    def restore_guard(self, links: Iterable[str]) -> None:
        """Cover exactly *links* with the router guard; undo changes of other programs."""

    def exists(self, link: str) -> bool:
        """Return True if there is a link of this name."""

    def delete(self, link: str) -> None:
        """Delete a link and its peer."""

    def joined(self, prefix: str) -> dict[str, bool]:
        """Map our links to True if the peer is in a container. May miss a link while others come and go."""

    def mtu_of(self, address: IPv4Address | IPv6Address) -> int:
        """Return the MTU of the link with this address."""


class AddressStore(Protocol):
    """Pools and leases, as a host sees them. Every method is atomic and idempotent."""

    def add_pool(self, pool: Pool, deadline: Deadline) -> None:
        """Store a pool of this host that has no network yet."""

    def pool(self, pool: PoolId, deadline: Deadline) -> Pool:
        """Return a stored pool. Raises PoolNotFound."""

    def remove_pool(self, pool: PoolId, deadline: Deadline) -> None:
        """Delete a pool and its leases."""

    def reserve(self, pool: Pool, address: IpAddress, deadline: Deadline) -> None:
        """Mark an address that no container gets."""

    def free(self, pool: Pool, some: list[IpAddress], deadline: Deadline) -> list[IpAddress]:
        """Return those of *some* addresses that are not in use, in the same order."""

    def lease(self, lease: Lease, deadline: Deadline) -> None:
        """Lease an address for a container of this host. Raises AddressInUse."""

    def take_over(
        self, lease: Lease, active: Sequence[StoredEndpoint], before: float, deadline: Deadline
    ) -> bool:
        """Renew a lease that this host has and no endpoint uses. Returns True if that was so.

        *active*: this host's endpoints whose containers run, or that a call works on. A lease younger than
        *before*, in seconds of CLOCK_MONOTONIC, may be for an endpoint that does not exist yet.
        """

    def release(self, pool: PoolId, address: IpAddress, deadline: Deadline) -> None:
        """Release an address."""

    def subnets(self, deadline: Deadline) -> list[IpNetwork]:
        """Return the subnets of all networks and pools. May be slow."""


AddressStores = Callable[[Chassis], AddressStore]
"""Gives the address store as the host *chassis* sees it."""


@runtime_checkable
class AddressChooser(Protocol):
    """Capability of an address store that can choose an address itself, as Neutron can."""

    def lease_any(self, pool: Pool, deadline: Deadline) -> IpAddress | None:
        """Lease an address of the store's choice; None if the store cannot choose from this pool."""


@runtime_checkable
class LeaseHistory(Protocol):
    """Capability of an address store that remembers released leases and the containers that had them."""

    def rested(
        self, pool: Pool, some: list[IpAddress], seconds: float, deadline: Deadline
    ) -> list[IpAddress]:
        """Return those of *some* addresses that have not been in use for *seconds*, in the same order."""

    def former(self, pool: Pool, deadline: Deadline) -> list[Former]:
        """Return addresses picked for containers of this host and not leased elsewhere since. May be slow."""


@runtime_checkable
class OccupancyReader(Protocol):
    """Capability of an address store that knows what other hosts use outside of their Docker networks."""

    def occupied(self, deadline: Deadline) -> list[IpNetwork]:
        """Return the subnets that hosts report to have in use. May be slow."""


class LeftoverStore(Protocol):
    """The rows of the backend as a whole, as one host sees them. Every method may be slow."""

    place: str
    """Name of the backend in messages."""

    def of_host(self, deadline: Deadline) -> tuple[list[StoredNetwork], list[Difference]]:
        """Return this host's networks (made, joined or attached to; not swarm's), and its leftover rows.

        A leftover row lacks the row that it belongs to, so that Docker need not be asked.
        """

    def clear(self, leftover: Difference, deadline: Deadline) -> bool:
        """Delete a leftover row, unless it is in use by now. Returns True if it was deleted."""

    def orphans(self, deadline: Deadline) -> list[Difference]:
        """Return leftover rows that no host owns."""

    def clear_orphans(self, deadline: Deadline) -> list[Difference]:
        """Delete leftover rows that no host owns; return the deleted ones. One host at a time does so."""


LeftoverStores = Callable[[Chassis], LeftoverStore]
"""Gives the rows of the backend as the host *chassis* sees them."""


@runtime_checkable
class OrphanSchedule(Protocol):
    """Capability of a backend where clearing orphans is costly, so that the hosts share that work."""

    def clear_orphans_when_due(self, deadline: Deadline) -> list[Difference]:
        """Delete orphans as clear_orphans() does, unless any host has done so lately."""


class RowRemaker(Protocol):
    """Capability of a backend whose missing rows can be made again from records on this host."""

    place: str
    """Name of the backend in messages."""

    def missing(
        self,
        networks: Mapping[NetworkId, str],
        endpoints: Iterable[StoredEndpoint],
        chassis: Chassis,
        deadline: Deadline,
    ) -> list[Gap]:
        """Return the rows of networks, by their records, and of endpoints that are missing. Must be cheap."""

    def displaced(self, chassis: Chassis, deadline: Deadline) -> bool:
        """Return True if this host has displaced rows. May be slow."""

    def lead_back(self, chassis: Chassis, deadline: Deadline) -> int | None:
        """Give displaced rows their UUIDs again. Returns their number; None while another host does that."""

    def make_network(
        self, network: NetworkId, text: str, chassis: Chassis, deadline: Deadline, *, used: bool
    ) -> None:
        """Make the missing rows of a network. Raises Conflict if the cluster has another one by now."""

    def make_endpoint(
        self, endpoint: StoredEndpoint, text: str, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Make the missing rows of an endpoint. Raises Conflict if its address is in use by now."""

    def set_names(
        self, endpoint: EndpointId, names: ContainerNames, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Write the names of an endpoint."""

    def record_network(self, network: Network, chassis: Chassis, deadline: Deadline) -> str:
        """Return the record of a network of this host's Docker that was made without one."""

    def record_endpoint(self, endpoint: Endpoint, text: str) -> str:
        """Return the record of an endpoint that was made without one; *text*: its network's record."""


class SharedNetworkStore(Protocol):
    """The shared networks, as the database has them."""

    def watch(self, chassis: Chassis) -> Iterator[None]:
        """Yield first and then after every possible change, without end. Raises Unavailable."""

    def networks(self, chassis: Chassis, deadline: Deadline) -> list[SharedNetwork]:
        """Return all shared networks."""

    def notes(
        self, networks: Iterable[NetworkId], chassis: Chassis, deadline: Deadline
    ) -> dict[NetworkId, Note]:
        """Return this host's notes on some networks of its Docker."""

    def write_note(self, network: NetworkId, note: Note, chassis: Chassis, deadline: Deadline) -> None:
        """Change a note of this host."""

    def noted(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Return True if this host has a note on a shared network, for any ID of its Docker."""

    def left(self, networks: Iterable[SharedNetwork], chassis: Chassis, deadline: Deadline) -> set[str]:
        """Return the names of those networks that this host has left."""

    def keep(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Take back the removal of a network that this host needs. Returns False if it is too late."""

    def define(self, definition: Definition, chassis: Chassis, deadline: Deadline) -> None:
        """Store a network's definition for the other hosts, unless a valid one is stored."""

    def write_report(self, report: Report, chassis: Chassis, deadline: Deadline) -> None:
        """Store this host's report."""

    def reports(self, chassis: Chassis, deadline: Deadline) -> list[Report]:
        """Return the reports of all hosts."""


class NameStore(Protocol):
    """The names of containers, for all hosts."""

    def set_names(
        self, endpoint: EndpointId, names: ContainerNames, chassis: Chassis, deadline: Deadline
    ) -> Unregistered:
        """Register the names of an endpoint, if the store has the endpoint. Returns the names left out."""

    def allow(
        self, endpoint: EndpointId, addresses: Iterable[str], chassis: Chassis, deadline: Deadline
    ) -> None:
        """Allow an endpoint to use more addresses. Raises OvnDockerError with the reason if it may not."""


class InventoryEngine(Protocol):
    """This host's Docker, for reconciliation."""

    def inventory(self) -> tuple[dict[EndpointId, str], set[NetworkId]]:
        """Map the endpoints of running containers to container names, and return the IDs of all networks.

        Raises Unavailable if the answer may be incomplete.
        """

    def used(self) -> set[str]:
        """Return IDs and names of the networks that containers belong to, running or stopped."""

    def names(self, container: str) -> dict[EndpointId, ContainerNames]:
        """Return the endpoints of a running container and its names there."""

    def described(self) -> tuple[list[Network], list[Endpoint]]:
        """Return the networks of our driver, and the endpoints of running containers."""


class NetworkEngine(Protocol):
    """This host's Docker, for the follower."""

    def networks(self) -> list[LocalNetwork]:
        """Return the shared networks in Docker."""

    def subnets(self) -> list[Occupied]:
        """Return the subnets of Docker's networks of other drivers."""

    def create_network(self, wanted: Definition) -> NetworkId:
        """Create a network, which Docker lists from then on.

        Raises Conflict if Docker refuses, Unavailable if it does not answer.
        """

    def remove_network(self, network: LocalNetwork) -> None:
        """Remove a network. Raises Conflict if containers use it."""


class NameEngine(Protocol):
    """This host's Docker, for the registrar."""

    def names(self, container: str, seconds: float) -> dict[EndpointId, ContainerNames]:
        """Return the endpoints of a container and its names there; empty if the container does not run.

        Raises TimedOut if Docker does not answer within *seconds*: another call has locked the container.
        """
