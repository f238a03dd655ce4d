"""Pools and addresses of our IPAM driver in Neutron, so that VMs, DHCP and all containers never collide.

An address that is taken is a port that keeps it: without a place behind the VM until its endpoint comes and
adopts it (underlay.py). A pool is asked for before its network exists, so it is a subnet pool: an object of
Neutron that means nothing but a prefix. When the network is created, the pool gets the tag of the subnet.
"""

import threading
import time
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network
from itertools import chain

from ovn_docker.backends.neutron import Neutron, Refused, Resource
from ovn_docker.backends.trunk import Parent, endpoint_of, remove
from ovn_docker.deadline import Deadline
from ovn_docker.definition import stored_pool
from ovn_docker.errors import Conflict, NotFound, OvnDockerError
from ovn_docker.model import (
    Chassis,
    Difference,
    Former,
    IpAddress,
    IpNetwork,
    Kind,
    NetworkId,
    Picked,
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
_OF = "docker:of="
"""Tags of a subnet pool: what the user and Docker said of it, and what it is bound to."""

_SLASH = "_"
"""In the place of "/", which a tag cannot have, for it is a part of an address."""

_UNUSED = 600.0
"""Seconds after which a pool without a network, or an address without an endpoint, is nobody's."""

_SECOND = 1.0
"""Seconds by which Neutron may say that a port was made earlier than it was: it tells whole ones."""

_GIVES_BACK = 15.0
"""Seconds until Docker has given back the addresses of an endpoint that it has deleted: many times what it
needs."""

_SMALL = 16
"""A subnet with fewer addresses is not divided."""


class Leases:
    """Stores pools and the addresses that are taken from them, for the VM with the port *vif*."""

    def __init__(self, neutron: Neutron, vif: str, parent: Parent) -> None:
        self._neutron = neutron
        self._vif = vif
        self._parent = parent
        self._lock = threading.Lock()
        self._went: dict[tuple[str, str], float] = {}

    def add_pool(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> None:
        """Store a pool that no network has yet."""
        made = self._neutron.create(
            "subnetpools",
            deadline,
            name=pool.id,
            description=_pools_of_vm(self._vif),
            prefixes=[str(pool.subnet)],
            min_prefixlen=pool.subnet.prefixlen,
        )
        if pool.part is not None:
            tag = f"{_RANGE}{pool.part}".replace("/", _SLASH)
            try:
                self._neutron.tag("subnetpools", made["id"], tag, deadline)
            except OvnDockerError:
                self._neutron.delete("subnetpools", made["id"], Deadline(5))
                raise

    def pool(self, pool: PoolId, chassis: Chassis, deadline: Deadline) -> Pool:
        """A stored pool. Raises NotFound."""
        return _pool(self._row(pool, deadline))

    def remove_pool(self, pool: PoolId, chassis: Chassis, deadline: Deadline) -> None:
        """Forget a pool, and the addresses of this VM that were taken from it."""
        for row in self._neutron.all("subnetpools", deadline, name=pool):
            filters = {"name": _lease(pool), "description": of_vm(self._vif)}
            for port in self._neutron.all("ports", deadline, **filters):
                remove(self._neutron, self._parent, port, deadline)
            self._neutron.delete("subnetpools", row["id"], deadline)

    def remove_pools_of(self, network: NetworkId, deadline: Deadline) -> None:
        """Forget the pools of a Docker network, which gave them back when nobody listened, perhaps."""
        for pool in self._pools(deadline):
            if f"{_OF}{network[:12]}" in pool["tags"]:
                self._neutron.delete("subnetpools", pool["id"], deadline)

    def reserve(self, pool: Pool, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Note the gateway or an auxiliary address, which no container gets."""
        row = self._row(pool.id, deadline)
        self._neutron.tag("subnetpools", row["id"], f"{_RESERVED}{address}", deadline)

    def free(
        self, pool: Pool, some: list[IpAddress], rest: float, chassis: Chassis, deadline: Deadline
    ) -> list[IpAddress]:
        """Which of *some* addresses no port has that we may see; Neutron does not tell who had them."""
        network, _ = _bound_to(pool)
        wanted = [f"ip_address={address}" for address in some]
        ports = self._neutron.all("ports", deadline, network_id=network, fixed_ips=wanted)
        taken = {ip_address(fixed["ip_address"]) for fixed in chain(*(port["fixed_ips"] for port in ports))}
        return [address for address in some if address not in taken]

    def claim_next(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> IpAddress | None:
        """An address that Neutron chooses; None if it may not, for it knows nothing of this pool's range.

        In a network of another project nobody may choose but Neutron.
        """
        if pool.part is not None or len(pool.reserved) > 1:
            return None
        _, subnet = _bound_to(pool)
        return self._keep(pool, {"subnet_id": subnet}, deadline)

    def claim(
        self,
        pool: Pool,
        address: IpAddress,
        picked: Picked | None,
        chassis: Chassis,
        deadline: Deadline,
    ) -> None:
        """Keep an address for a container of this VM. Raises Conflict."""
        _, subnet = _bound_to(pool)
        self._keep(pool, {"subnet_id": subnet, "ip_address": str(address)}, deadline)

    def take_over(
        self,
        pool: Pool,
        address: IpAddress,
        picked: Picked | None,
        at_work: Sequence[StoredEndpoint],
        before: float,
        chassis: Chassis,
        deadline: Deadline,
    ) -> bool:
        """Whether a port of this VM has the address that keeps it for nobody, or whose container has gone.

        CreateEndpoint adopts the one, and removes the other first (Driver._store).
        """
        network, _ = _bound_to(pool)
        wanted = f"ip_address={address}"
        ports = self._neutron.all("ports", deadline, network_id=network, fixed_ips=wanted)
        busy = {one.id for one in at_work}

        def unused(port: Resource) -> bool:
            if port["description"] == of_vm(self._vif):
                made = time.monotonic() - self._neutron.age(port)
                return made + _SECOND < before
            return port["description"] == endpoint_of(self._vif) and port["name"] not in busy

        return bool(ports) and all(map(unused, ports))

    def former(self, pool: Pool, chassis: Chassis, deadline: Deadline) -> list[Former]:
        """None: most addresses Neutron chooses, and the others are not told apart from those of the user."""
        return []

    def release(self, pool: PoolId, address: IpAddress, chassis: Chassis, deadline: Deadline) -> None:
        """Give an address back, unless it went with its endpoint."""
        for row in self._neutron.all("subnetpools", deadline, name=pool):
            network = _tagged(row, _NETWORK)
            if not network:
                self._neutron.untag("subnetpools", row["id"], f"{_RESERVED}{address}", deadline)
                continue
            if self._has_gone(network, address):  # and may be another one's by now
                continue
            filters = {"fixed_ips": f"ip_address={address}", "description": of_vm(self._vif)}
            for port in self._neutron.all("ports", deadline, network_id=network, **filters):
                remove(self._neutron, self._parent, port, deadline)

    def goes(self, port: Resource) -> None:
        """Note that the addresses of an endpoint's port go with it: only then does Docker give them back."""
        now = time.monotonic()
        addresses = [str(ip_address(fixed["ip_address"])) for fixed in port["fixed_ips"]]
        with self._lock:
            self._went = {key: when for key, when in self._went.items() if now - when < _GIVES_BACK}
            self._went |= {(port["network_id"], address): now for address in addresses}

    def subnets(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """Every subnet that the project can see, and the pools that have none yet."""
        subnets = [subnet["cidr"] for subnet in self._neutron.all("subnets", deadline)]
        pools = self._neutron.all("subnetpools", deadline, description=_pools_of_vm(self._vif))
        return [ip_network(text) for text in chain(subnets, *(pool["prefixes"] for pool in pools))]

    def occupied(self, chassis: Chassis, deadline: Deadline) -> list[IpNetwork]:
        """None: VMs do not report to each other."""
        return []

    def strays(self, deadline: Deadline) -> list[Difference]:
        """What a crash has left: pools and addresses that nobody came for, pools whose network has gone."""
        return [
            *(
                self._difference(Kind.POOL, pool, "Docker asked for it and no network has it")
                for pool in self._pools(deadline)
                if (self._neutron.age(pool) > _UNUSED or _tagged(pool, _SUBNET))
                and not self._has_subnet(pool, deadline)
            ),
            *(
                self._difference(Kind.LEASE, port, "Docker asked for it and no endpoint has it")
                for port in self._kept(deadline)
                if self._neutron.age(port) > _UNUSED
            ),
        ]

    def belongings(self, deadline: Deadline) -> list[Difference]:
        """All pools and addresses of this VM."""
        return [
            *(self._difference(Kind.LEASE, port, "its VM is gone") for port in self._kept(deadline)),
            *(self._difference(Kind.POOL, pool, "its VM is gone") for pool in self._pools(deadline)),
        ]

    def clear(self, stray: Difference, deadline: Deadline) -> bool:
        """Remove one of strays(), unless a network or an endpoint has come for it after all."""
        if stray.kind is Kind.POOL:
            pool = self._neutron.one("subnetpools", stray.row, deadline)
            return bool(pool and not self._has_subnet(pool, deadline) and self.forget(stray, deadline))
        port = self._neutron.one("ports", stray.row, deadline)
        kept = port is not None and port["description"] == of_vm(self._vif)
        return kept and self.forget(stray, deadline)

    def forget(self, one: Difference, deadline: Deadline) -> bool:
        """Remove one of belongings(); none is fine."""
        if one.kind is Kind.POOL:
            self._neutron.delete("subnetpools", one.row, deadline)
        elif port := self._neutron.one("ports", one.row, deadline):
            remove(self._neutron, self._parent, port, deadline)
        return True

    def _difference(self, kind: Kind, row: Resource, why: str) -> Difference:
        what = row["prefixes"] if kind is Kind.POOL else [fixed["ip_address"] for fixed in row["fixed_ips"]]
        return Difference(
            kind, ", ".join(what), "Neutron", since(self._neutron.age(row)), why, "delete it", row["id"]
        )

    def _has_gone(self, network: str, address: IpAddress) -> bool:
        with self._lock:
            return time.monotonic() - self._went.pop((network, str(address)), float("-inf")) < _GIVES_BACK

    def _pools(self, deadline: Deadline) -> list[Resource]:
        return self._neutron.all("subnetpools", deadline, description=_pools_of_vm(self._vif))

    def _kept(self, deadline: Deadline) -> list[Resource]:
        """The ports that keep addresses for this VM."""
        return self._neutron.all("ports", deadline, description=of_vm(self._vif))

    def _has_subnet(self, pool: Resource, deadline: Deadline) -> bool:
        subnet = _tagged(pool, _SUBNET)
        return bool(subnet) and self._neutron.one("subnets", subnet, deadline) is not None

    def _keep(self, pool: Pool, fixed: dict[str, str], deadline: Deadline) -> IpAddress:
        network, subnet = _bound_to(pool)
        try:
            port = self._neutron.create(
                "ports",
                deadline,
                network_id=network,
                name=_lease(pool.id),
                description=of_vm(self._vif),
                fixed_ips=[fixed],
            )
        except Refused as refused:
            if refused.kind not in {"IpAddressInUse", "IpAddressAlreadyAllocated"}:
                raise
            raise Conflict(
                f"address {fixed.get('ip_address')} is in use in Neutron; choose another with --ip, or let "
                "Neutron choose"
            ) from None
        (found,) = (ip_address(got["ip_address"]) for got in port["fixed_ips"] if got["subnet_id"] == subnet)
        return found

    def _row(self, pool: PoolId, deadline: Deadline) -> Resource:
        for row in self._neutron.all("subnetpools", deadline, name=pool):
            return row
        raise NotFound(
            f"pool {pool} is not in Neutron: it was deleted there or made in another project; remove its "
            "network and create it again"
        )


def _lease(pool: PoolId) -> str:
    """Name of a port that keeps an address of a pool."""
    return f"docker-{pool}"


def of_vm(vif: str) -> str:
    """Description of a port that keeps an address for a container of the VM."""
    return f"ovn-docker address of {vif}"


def waiting_pool(neutron: Neutron, vif: str, subnet: Subnet, deadline: Deadline) -> Resource | None:
    """The pool that was asked for just before the network; None if the network has got it already.

    Docker does not tell which it is: of several with the same prefix it is the newest. Raises Conflict.
    """
    pools = neutron.all("subnetpools", deadline, description=_pools_of_vm(vif))
    same = [pool for pool in pools if [ip_network(text) for text in pool["prefixes"]] == [subnet.pool]]
    waiting = [pool for pool in same if not _tagged(pool, _SUBNET)]
    if not same:
        raise Conflict(f"nobody asked for a pool {subnet.pool} before; create the network again")
    return min(waiting, key=neutron.age, default=None)


def bind(neutron: Neutron, pool: Resource, network: NetworkId, subnet: Resource, deadline: Deadline) -> None:
    """Note for which Docker network a pool is, and from which subnet its addresses come: that last."""
    for tag in (f"{_OF}{network[:12]}", f"{_NETWORK}{subnet['network_id']}", f"{_SUBNET}{subnet['id']}"):
        neutron.tag("subnetpools", pool["id"], tag, deadline)


def allocation_pools(subnet: Subnet, pool: Resource | None) -> list[dict[str, str]]:
    """Which addresses Neutron may choose from a subnet of ours; empty: as it likes.

    If the addresses come from it: all of the range but those that are reserved. If Docker gives them away,
    from the lowest on: the upper quarter, for VMs on the same network.
    """
    if pool is not None:
        row = _pool(pool)
        first, last = int(row.first), int(row.last)
        reserved = set(row.reserved)
    else:
        size = subnet.pool.num_addresses
        if size < _SMALL:
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
    return f"ovn-docker pool of {vif}"


def _tagged(row: Resource, prefix: str) -> str:
    return next((tag.removeprefix(prefix) for tag in row["tags"] if tag.startswith(prefix)), "")


def _pool(row: Resource) -> Pool:
    part, network, subnet = (_tagged(row, prefix) for prefix in (_RANGE, _NETWORK, _SUBNET))
    reserved = [tag.removeprefix(_RESERVED) for tag in row["tags"] if tag.startswith(_RESERVED)]
    bound_to = f"{network}/{subnet}" if subnet else None
    return stored_pool(PoolId(row["name"]), row["prefixes"][0], part.replace(_SLASH, "/"), reserved, bound_to)


def _bound_to(pool: Pool) -> tuple[str, str]:
    """UUIDs of the network and the subnet of a pool."""
    network, _, subnet = (pool.switch or "").partition("/")
    return network, subnet
