"""The calls that dockerd makes to the IPAM driver when networks and containers are created and removed."""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network

from functional.ovsdb_servers import until
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.northbound import Connect
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.shared.reports import Reports
from ovn_docker.core.ipam import Ipam
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    IpAddress,
    IpNetwork,
    Network,
    NetworkId,
    PoolId,
    StoredEndpoint,
    Subnet,
)
from ovn_docker.options import NetworkOptions
from ovn_docker.supply import parse_supplies


@dataclass(frozen=True)
class DockerNetwork:
    """The data that dockerd keeps of a network: its pool's ID and the addresses that it got from the pool."""

    id: NetworkId
    pool: PoolId
    subnet: IpNetwork
    kept: tuple[IpAddress, ...]


class DockerHost:
    """dockerd of a host, and our drivers on that host."""

    def __init__(
        self,
        name: str,
        database: Database,
        *,
        routes: Iterable[str] = (),
        supplies: str = "10.192.0.0/12:24,fd00:9::/48:64",
        rest: float = 30,
    ) -> None:
        self.name = name
        self.chassis = Chassis(name, (), (ip_address("10.0.0.1"),), ("geneve",), "br-int", "system")
        self.connect: Connect = lambda _: database
        self.overlay = Overlay(self.connect, mirrors=True)
        self.store = Addresses(lambda _: database)
        self.reports = Reports(lambda _: database)
        self.leftovers = partial(Leftovers, database)
        self._known = [ip_network(route) for route in routes]
        self._supplies = parse_supplies(supplies)
        self._rest = rest
        self.running: list[Endpoint] = []
        self.restart()

    def restart(self) -> None:
        """Restart the driver alone, which loses the state in its memory."""
        self.ipam = Ipam(
            *(self.store, lambda _: self.chassis, lambda: self._known, self._supplies),
            *(lambda _, __: self._active(), 60, self._rest),
        )

    def restart_docker(self) -> None:
        """Restart Docker and the driver as after a kill of both: no address was released, no container runs.

        That takes at least two milliseconds, so that the times of rows before and after it differ.
        """
        self.running.clear()
        died = time.monotonic()
        until(lambda: time.monotonic() - died > 0.002)
        self.restart()
        self.ipam.docker_started()

    def _active(self) -> list[StoredEndpoint]:
        return [StoredEndpoint(one.id, one.network, self.name, 60) for one in self.running]

    def create(
        self,
        subnet: str | None = None,
        *,
        part: str | None = None,
        gateway: str | None = None,
        aux: Iterable[str] = (),
        version: int = 4,
        switch: str | None = None,
        name: str | None = None,
    ) -> DockerNetwork:
        """Run ``docker network create -d openvswitch --ipam-driver openvswitch``."""
        wanted, range_ = ip_network(subnet) if subnet else None, ip_network(part) if part else None
        pool = self.ipam.request_pool(wanted, range_, wanted.version if wanted else version)
        try:
            router, _ = self.ipam.request_address(
                pool.id, ip_address(gateway) if gateway else None, gateway=True
            )
            others = [self.ipam.request_address(pool.id, ip_address(a), gateway=False)[0] for a in aux]
            id_ = NetworkId(f"{random.getrandbits(256):064x}")
            options = NetworkOptions(switch=switch, name=name)
            network = Network(id_, (Subnet(pool.subnet, router, ours=True),), options=options)
            self.overlay(self.chassis).create_network(network, Deadline(10))
        except BaseException:
            self.ipam.release_pool(pool.id)
            raise
        return DockerNetwork(id_, pool.id, pool.subnet, (router, *others))

    def remove(self, network: DockerNetwork) -> None:
        """Run ``docker network rm``."""
        for address in network.kept:
            self.ipam.release_address(network.pool, address)
        self.ipam.release_pool(network.pool)
        self.overlay(self.chassis).delete_network(network.id, Deadline(10))

    def lease(self, network: DockerNetwork, wanted: str | None = None, name: str = "") -> str:
        """Call RequestAddress for a container, with ``--ip`` if *wanted*; Docker 29 sends its *name*."""
        address, prefix = self.ipam.request_address(
            network.pool, ip_address(wanted) if wanted else None, gateway=False, name=name
        )
        assert prefix == network.subnet.prefixlen
        return str(address)

    def release(self, network: DockerNetwork, *addresses: str) -> None:
        """Call ReleaseAddress, as when containers stop."""
        for address in addresses:
            self.ipam.release_address(network.pool, ip_address(address))

    def lease_all(self, network: DockerNetwork) -> list[str]:
        """Request addresses until the pool is exhausted; return them."""
        taken: list[str] = []
        while True:
            try:
                taken.append(self.lease(network))
            except Conflict:
                return taken

    def run(self, network: DockerNetwork, wanted: str | None = None) -> Endpoint:
        """Start a container; return its endpoint, which has a logical port."""
        address = f"{self.lease(network, wanted)}/{network.subnet.prefixlen}"
        id_ = EndpointId(f"{random.getrandbits(256):064x}")
        mac = f"02:{random.getrandbits(40).to_bytes(5).hex(':')}"
        endpoint = Endpoint(id_, network.id, (ip_interface(address),), mac)
        self.overlay(self.chassis).create_endpoint(endpoint, Deadline(10))
        self.running.append(endpoint)
        return endpoint
