"""Pools and leases of our IPAM driver in Neutron, so that its addresses do not collide with those of VMs.

A lease is a port with the address. It is not behind a VM until an endpoint is created and adopts it
(ports.py). Docker requests a pool before its network exists, so a pool is a subnet pool, a resource of
Neutron that is only a prefix. When the network is created, the pool gets a tag with the UUID of the subnet.
"""

import threading
import time
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface
from itertools import chain

from ovn_docker.backends.neutron.api import Neutron, NeutronRefused
from ovn_docker.backends.neutron.resources import NeutronPort, NeutronSubnet, NeutronSubnetPool
from ovn_docker.backends.neutron.trunk import ParentPort, endpoint_of, remove
from ovn_docker.deadline import Deadline
from ovn_docker.definition import stored_pool
from ovn_docker.errors import AddressInUse, OvnDockerError, PoolNotFound, PoolNotRequested
from ovn_docker.model import (
    Difference,
    IpAddress,
    IpNetwork,
    Kind,
    Lease,
    NetworkId,
    Pool,
    PoolId,
    StoredEndpoint,
    Subnet,
    since,
)

IpInterface = IPv4Interface | IPv6Interface

_RANGE = "docker:range="
_RESERVED = "docker:reserved="
_SUBNET = "docker:subnet="
_NETWORK = "docker:network="
_DOCKER_NETWORK = "docker:of="
"""Beginnings of the tags of a subnet pool: its range, a reserved address, and the Neutron subnet, Neutron
network and Docker network that it is bound to."""

_SLASH = "_"
"""Replaces "/" in tags, because a tag is a part of a URL's path."""

_UNUSED = 600.0
"""Age in seconds from which a pool without a network, or a lease without an endpoint, is a leftover."""

_TIME_RESOLUTION = 1.0
"""Resolution of Neutron's times in seconds: a port may be this much younger than its time of creation."""

_RELEASE_TIME = 15.0
"""Seconds in which Docker, amply, releases the addresses of an endpoint that it has deleted."""

_SMALLEST_SHARED = 16
"""Number of addresses in the smallest subnet from which both Docker's IPAM and Neutron choose addresses."""


class Leases:
    """The pools and leases of the VM with the port *vif*."""

    def __init__(self, neutron: Neutron, vif: str, parent: ParentPort) -> None:
        self._neutron = neutron
        self._vif = vif
        self._parent = parent
        self._lock = threading.Lock()
        self._deleted: dict[tuple[str, str], float] = {}

    def add_pool(self, pool: Pool, deadline: Deadline) -> None:
        """Store a pool, which is not bound to a network yet."""
        made = self._neutron.create(
            NeutronSubnetPool,
            deadline,
            name=pool.id,
            description=_pools_of_vm(self._vif),
            prefixes=[str(pool.subnet)],
            min_prefixlen=pool.subnet.prefixlen,
        )
        if pool.part is not None:
            tag = f"{_RANGE}{pool.part}".replace("/", _SLASH)
            try:
                self._neutron.tag(NeutronSubnetPool, made.id, tag, deadline)
            except OvnDockerError:
                self._neutron.delete(NeutronSubnetPool, made.id, Deadline(5))
                raise

    def pool(self, pool: PoolId, deadline: Deadline) -> Pool:
        """Return a stored pool. Raises NotFound."""
        return _pool(self._row(pool, deadline))

    def remove_pool(self, pool: PoolId, deadline: Deadline) -> None:
        """Delete a pool, if it exists, and this VM's leases of its addresses."""
        for row in self._neutron.all(NeutronSubnetPool, deadline, name=pool):
            filters = {"name": _lease_name(pool), "description": of_vm(self._vif)}
            for port in self._neutron.all(NeutronPort, deadline, **filters):
                remove(self._neutron, self._parent, port, deadline)
            self._neutron.delete(NeutronSubnetPool, row.id, deadline)

    def remove_pools_of(self, network: NetworkId, deadline: Deadline) -> None:
        """Delete the pools of a Docker network: Docker may have released them while the driver was down."""
        for pool in self._pools(deadline):
            if f"{_DOCKER_NETWORK}{network[:12]}" in pool.tags:
                self._neutron.delete(NeutronSubnetPool, pool.id, deadline)

    def reserve(self, pool: Pool, address: IpAddress, deadline: Deadline) -> None:
        """Reserve an address that containers do not get: the gateway or an auxiliary address."""
        row = self._row(pool.id, deadline)
        self._neutron.tag(NeutronSubnetPool, row.id, f"{_RESERVED}{address}", deadline)

    def free(self, pool: Pool, some: list[IpAddress], deadline: Deadline) -> list[IpAddress]:
        """Return the addresses of *some* that are not on a port which this project can see."""
        network, _ = _bound_to(pool)
        wanted = [f"ip_address={address}" for address in some]
        ports = self._neutron.all(NeutronPort, deadline, network_id=network, fixed_ips=wanted)
        taken = {fixed.ip for fixed in chain(*(port.fixed_ips for port in ports))}
        return [address for address in some if address not in taken]

    def lease_any(self, pool: Pool, deadline: Deadline) -> IpAddress | None:
        """Lease an address that Neutron chooses, as it must in a network of another project.

        Returns None for a pool with a range or auxiliary addresses, which Neutron does not know.
        """
        if pool.part is not None or len(pool.reserved) > 1:
            return None
        _, subnet = _bound_to(pool)
        return self._lease(pool, {"subnet_id": subnet}, deadline)

    def lease(self, lease: Lease, deadline: Deadline) -> None:
        """Lease an address for a container of this VM. Raises Conflict."""
        _, subnet = _bound_to(lease.pool)
        self._lease(lease.pool, {"subnet_id": subnet, "ip_address": str(lease.address)}, deadline)

    def take_over(
        self, lease: Lease, active: Sequence[StoredEndpoint], before: float, deadline: Deadline
    ) -> bool:
        """Return True if each port with the address belongs to this VM and is unused.

        An unused port is a lease, which CreateEndpoint adopts, or the port of a dead endpoint, which
        CreateEndpoint deletes first (Driver._store).
        """
        network, _ = _bound_to(lease.pool)
        wanted = f"ip_address={lease.address}"
        ports = self._neutron.all(NeutronPort, deadline, network_id=network, fixed_ips=wanted)
        busy = {one.id for one in active}

        def is_unused(port: NeutronPort) -> bool:
            if port.description == of_vm(self._vif):
                made = time.monotonic() - self._neutron.age(port)
                return made + _TIME_RESOLUTION < before
            return port.description == endpoint_of(self._vif) and port.name not in busy

        return bool(ports) and all(map(is_unused, ports))

    def release(self, pool: PoolId, address: IpAddress, deadline: Deadline) -> None:
        """Release an address, unless its port was deleted with its endpoint."""
        for row in self._neutron.all(NeutronSubnetPool, deadline, name=pool):
            network = row.tagged(_NETWORK)
            if not network:
                self._neutron.untag(NeutronSubnetPool, row.id, f"{_RESERVED}{address}", deadline)
                continue
            if self._was_deleted(network, address):  # the address may belong to another port by now
                continue
            filters = {"fixed_ips": f"ip_address={address}", "description": of_vm(self._vif)}
            for port in self._neutron.all(NeutronPort, deadline, network_id=network, **filters):
                remove(self._neutron, self._parent, port, deadline)

    def mark_deleted(self, port: NeutronPort) -> None:
        """Remember the addresses of an endpoint's port that is being deleted: release() must ignore them."""
        now = time.monotonic()
        addresses = [str(fixed.ip) for fixed in port.fixed_ips]
        with self._lock:
            self._deleted = {key: when for key, when in self._deleted.items() if now - when < _RELEASE_TIME}
            self._deleted |= {(port.network_id, address): now for address in addresses}

    def subnets(self, deadline: Deadline) -> list[IpNetwork]:
        """Return every subnet that the project can see, and the prefixes of this VM's pools."""
        subnets = [subnet.cidr for subnet in self._neutron.all(NeutronSubnet, deadline)]
        return [*subnets, *chain(*(pool.prefixes for pool in self._pools(deadline)))]

    def leftovers(self, deadline: Deadline) -> list[Difference]:
        """Return pools without a network or subnet, and leases without an endpoint, that a crash left."""
        return [
            *(
                self._difference(Kind.POOL, pool, "Docker requested it, and no network uses it")
                for pool in self._pools(deadline)
                if (self._neutron.age(pool) > _UNUSED or pool.tagged(_SUBNET))
                and not self._has_subnet(pool, deadline)
            ),
            *(
                self._difference(Kind.LEASE, port, "Docker requested it, and no endpoint uses it")
                for port in self._leases(deadline)
                if self._neutron.age(port) > _UNUSED
            ),
        ]

    def belongings(self, deadline: Deadline) -> list[Difference]:
        """Return all leases and pools of this VM."""
        return [
            *(self._difference(Kind.LEASE, port, "its VM is gone") for port in self._leases(deadline)),
            *(self._difference(Kind.POOL, pool, "its VM is gone") for pool in self._pools(deadline)),
        ]

    def clear(self, leftover: Difference, deadline: Deadline) -> bool:
        """Delete one of leftovers(), unless a network or an endpoint uses it by now."""
        if leftover.kind is Kind.POOL:
            pool = self._neutron.one(NeutronSubnetPool, leftover.row, deadline)
            return bool(pool and not self._has_subnet(pool, deadline) and self.forget(leftover, deadline))
        port = self._neutron.one(NeutronPort, leftover.row, deadline)
        is_lease = port is not None and port.description == of_vm(self._vif)
        return is_lease and self.forget(leftover, deadline)

    def forget(self, one: Difference, deadline: Deadline) -> bool:
        """Delete one of belongings(), if it still exists."""
        if one.kind is Kind.POOL:
            self._neutron.delete(NeutronSubnetPool, one.row, deadline)
        elif port := self._neutron.one(NeutronPort, one.row, deadline):
            remove(self._neutron, self._parent, port, deadline)
        return True

    def _difference(self, kind: Kind, row: NeutronSubnetPool | NeutronPort, why: str) -> Difference:
        if isinstance(row, NeutronSubnetPool):
            what = [str(prefix) for prefix in row.prefixes]
        else:
            what = [fixed.ip_address for fixed in row.fixed_ips]
        return Difference(
            kind, ", ".join(what), "Neutron", since(self._neutron.age(row)), why, "delete it", row.id
        )

    def _was_deleted(self, network: str, address: IpAddress) -> bool:
        """Return True at the first call about an address that was deleted with its endpoint a moment ago."""
        with self._lock:
            return (
                time.monotonic() - self._deleted.pop((network, str(address)), float("-inf")) < _RELEASE_TIME
            )

    def _pools(self, deadline: Deadline) -> list[NeutronSubnetPool]:
        return self._neutron.all(NeutronSubnetPool, deadline, description=_pools_of_vm(self._vif))

    def _leases(self, deadline: Deadline) -> list[NeutronPort]:
        """Return the ports that are leases of this VM."""
        return self._neutron.all(NeutronPort, deadline, description=of_vm(self._vif))

    def _has_subnet(self, pool: NeutronSubnetPool, deadline: Deadline) -> bool:
        subnet = pool.tagged(_SUBNET)
        return bool(subnet) and self._neutron.one(NeutronSubnet, subnet, deadline) is not None

    def _lease(self, pool: Pool, fixed: dict[str, str], deadline: Deadline) -> IpAddress:
        network, subnet = _bound_to(pool)
        try:
            port = self._neutron.create(
                NeutronPort,
                deadline,
                network_id=network,
                name=_lease_name(pool.id),
                description=of_vm(self._vif),
                fixed_ips=[fixed],
            )
        except NeutronRefused as refused:
            if refused.kind not in {"IpAddressInUse", "IpAddressAlreadyAllocated"}:
                raise
            raise AddressInUse(fixed.get("ip_address", ""), "a port in Neutron", leasing=True) from None
        (found,) = (got.ip for got in port.fixed_ips if got.subnet_id == subnet)
        return found

    def _row(self, pool: PoolId, deadline: Deadline) -> NeutronSubnetPool:
        for row in self._neutron.all(NeutronSubnetPool, deadline, name=pool):
            return row
        raise PoolNotFound(pool, "Neutron")


def _lease_name(pool: PoolId) -> str:
    """Return the name of ports that are leases of a pool's addresses."""
    return f"docker-{pool}"


def of_vm(vif: str) -> str:
    """Return the description of ports that are leases of the VM."""
    return f"ovn-docker address of {vif}"


def waiting_pool(neutron: Neutron, vif: str, subnet: Subnet, deadline: Deadline) -> NeutronSubnetPool | None:
    """Return the pool that Docker requested for a subnet; None if it is bound to the network already.

    Docker does not name the pool, so the newest pool with the prefix is taken. Raises Conflict.
    """
    pools = neutron.all(NeutronSubnetPool, deadline, description=_pools_of_vm(vif))
    same = [pool for pool in pools if pool.prefixes == (subnet.pool,)]
    waiting = [pool for pool in same if not pool.tagged(_SUBNET)]
    if not same:
        raise PoolNotRequested(subnet.pool)
    return min(waiting, key=neutron.age, default=None)


def bind(
    neutron: Neutron, pool: NeutronSubnetPool, network: NetworkId, subnet: NeutronSubnet, deadline: Deadline
) -> None:
    """Bind a pool to its Docker network, then to the subnet that has its addresses."""
    tags = f"{_DOCKER_NETWORK}{network[:12]}", f"{_NETWORK}{subnet.network_id}", f"{_SUBNET}{subnet.id}"
    for tag in tags:
        neutron.tag(NeutronSubnetPool, pool.id, tag, deadline)


def allocation_pools(subnet: Subnet, pool: NeutronSubnetPool | None) -> list[dict[str, str]]:
    """Return the ranges from which Neutron may choose addresses of a subnet; empty: from the whole subnet.

    With *pool*, of our IPAM driver, these are the pool's range without its reserved addresses. Otherwise it
    is the upper quarter, for VMs: Docker's own IPAM chooses the lowest free address.
    """
    if pool is not None:
        row = _pool(pool)
        first, last = int(row.first), int(row.last)
        reserved = set(row.reserved)
    else:
        size = subnet.pool.num_addresses
        if size < _SMALLEST_SHARED:
            return []
        first, last = int(subnet.pool[size - size // 4]), int(subnet.pool[-2])
        reserved = set()
    make = type(subnet.pool[0])
    ranges = []
    for kept in sorted(
        {int(address) for address in (*reserved, *filter(None, [subnet.gateway]))} | {last + 1}
    ):
        if first <= min(kept - 1, last):
            ranges.append({"start": str(make(first)), "end": str(make(min(kept - 1, last)))})
        first = max(first, kept + 1)
    return ranges


def _pools_of_vm(vif: str) -> str:
    """Return the description of subnet pools that are pools of the VM."""
    return f"ovn-docker pool of {vif}"


def _pool(row: NeutronSubnetPool) -> Pool:
    part, network, subnet = (row.tagged(prefix) for prefix in (_RANGE, _NETWORK, _SUBNET))
    reserved = [tag.removeprefix(_RESERVED) for tag in row.tags if tag.startswith(_RESERVED)]
    bound_to = f"{network}/{subnet}" if subnet else None
    prefix = str(row.prefixes[0]) if row.prefixes else ""
    return stored_pool(PoolId(row.name), prefix, part.replace(_SLASH, "/"), reserved, bound_to)


def _bound_to(pool: Pool) -> tuple[str, str]:
    """Return the UUIDs of the network and the subnet that a pool is bound to."""
    network, _, subnet = (pool.switch or "").partition("/")
    return network, subnet
