"""What dockerd does with the IPAM driver: on `docker network create`, `docker run` and when they go."""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network

from functional.ovsdb_servers import until
from ovn_docker.backends.addresses import Addresses
from ovn_docker.backends.leftovers import Leftovers
from ovn_docker.backends.northbound import Connect
from ovn_docker.backends.overlay import Overlay
from ovn_docker.backends.reports import Reports
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict
from ovn_docker.host.ovsdb import Database
from ovn_docker.ipam import Ipam
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
    """What dockerd remembers of a network: its pool's ID and what it was given from the pool."""

    id: NetworkId
    pool: PoolId
    subnet: IpNetwork
    kept: tuple[IpAddress, ...]


class DockerHost:
    """dockerd of a host, and our drivers as they are on it."""

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
        self.leftovers = Leftovers(lambda _: database)
        self._known = [ip_network(route) for route in routes]
        self._supplies = parse_supplies(supplies)
        self._rest = rest
        self.running: list[Endpoint] = []
        self.restart()

    def restart(self) -> None:
        """Only the driver: what it remembered is gone."""
        self.ipam = Ipam(
            *(self.store, lambda _: self.chassis, lambda: self._known, self._supplies),
            *(lambda _, __: self._at_work(), 60, self._rest),
        )

    def restart_docker(self) -> None:
        """Docker and the driver died together: nothing was given back, and no container runs.

        It does not start within two milliseconds, which is what rows tell apart.
        """
        self.running.clear()
        died = time.monotonic()
        until(lambda: time.monotonic() - died > 0.002)
        self.restart()
        self.ipam.docker_started()

    def _at_work(self) -> list[StoredEndpoint]:
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
        """``docker network create -d openvswitch --ipam-driver openvswitch``."""
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
            self.overlay.create_network(network, self.chassis, Deadline(10))
        except BaseException:
            self.ipam.release_pool(pool.id)
            raise
        return DockerNetwork(id_, pool.id, pool.subnet, (router, *others))

    def remove(self, network: DockerNetwork) -> None:
        """``docker network rm``."""
        for address in network.kept:
            self.ipam.release_address(network.pool, address)
        self.ipam.release_pool(network.pool)
        self.overlay.delete_network(network.id, self.chassis, Deadline(10))

    def take(self, network: DockerNetwork, wanted: str | None = None, name: str = "") -> str:
        """RequestAddress for a container, with ``--ip`` if *wanted*; Docker from 29 on says its *name*."""
        address, prefix = self.ipam.request_address(
            network.pool, ip_address(wanted) if wanted else None, gateway=False, name=name
        )
        assert prefix == network.subnet.prefixlen
        return str(address)

    def give_back(self, network: DockerNetwork, *addresses: str) -> None:
        """ReleaseAddress, when containers stop."""
        for address in addresses:
            self.ipam.release_address(network.pool, ip_address(address))

    def fill(self, network: DockerNetwork) -> list[str]:
        """Take addresses until there are none."""
        taken: list[str] = []
        while True:
            try:
                taken.append(self.take(network))
            except Conflict:
                return taken

    def run(self, network: DockerNetwork, wanted: str | None = None) -> Endpoint:
        """A container with a port."""
        address = f"{self.take(network, wanted)}/{network.subnet.prefixlen}"
        id_ = EndpointId(f"{random.getrandbits(256):064x}")
        mac = f"02:{random.getrandbits(40).to_bytes(5).hex(':')}"
        endpoint = Endpoint(id_, network.id, (ip_interface(address),), mac)
        self.overlay.create_endpoint(endpoint, self.chassis, Deadline(10))
        self.running.append(endpoint)
        return endpoint
