"""A host of which all is real but dockerd and ovn-controller, and containers as Docker makes them."""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from functional.ovsdb_servers import OpenVswitch, OvsdbServer, without_times
from ovn_docker.backends.leftovers import Leftovers
from ovn_docker.backends.overlay import Overlay
from ovn_docker.backends.remake import Remaker
from ovn_docker.driver import Driver, Patience
from ovn_docker.errors import Unavailable
from ovn_docker.host.links import Links
from ovn_docker.host.ovsdb import Database
from ovn_docker.host.vswitch import Vswitch
from ovn_docker.hostnames import ContainerNames
from ovn_docker.metrics import Recorder
from ovn_docker.model import (
    AddressPool,
    Chassis,
    Definition,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    Subnet,
)
from ovn_docker.reconcile import Mode, Reconciler

NET = NetworkId("ad6eb94616091677ad829254572c28d676689175d908cf299d17bb2c0d39f396")
NETWORK = Network(NET, (Subnet(ip_network("192.168.1.0/24"), ip_address("192.168.1.1")),))
C1, C2, C3 = (EndpointId(f"c{number}" * 32) for number in (1, 2, 3))
HOST2 = Chassis("host2", (), (ip_address("10.0.0.2"),), ("geneve",), "br-int", "system")
MAC = "02:00:00:00:00:01"


def ip(*arguments: str) -> str:
    """Output of the command `ip`."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def definition_of(name: str, *subnets: Subnet) -> Definition:
    """The definition that a host stores of the network *name* of the cluster."""
    pools = tuple(AddressPool(subnet.pool, gateway=subnet.gateway) for subnet in subnets)
    return Definition(name, pools, options=(("ovn.network", name),))


def endpoint(
    id_: EndpointId = C1, *addresses: str, mac: str | None = None, network: NetworkId = NET
) -> Endpoint:
    """As Docker asks for it."""
    return Endpoint(id_, network, tuple(map(ip_interface, addresses or ("192.168.1.2/24",))), mac)


class Container:
    """A network namespace, alive as long as its process."""

    def __init__(self) -> None:
        command = ["unshare", "-n", "sh", "-c", "echo; exec sleep infinity"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout
        with self._process.stdout as ready:
            ready.readline()

    @property
    def pid(self) -> int:
        """The process that is in it."""
        return self._process.pid

    def take(self, link: str) -> None:
        """Move a link into the container, as Docker does after Join."""
        ip("link", "set", link, "netns", str(self._process.pid))

    def run(self, *command: str) -> None:
        """Run a command in its network namespace."""
        subprocess.run(["nsenter", f"--net=/proc/{self.pid}/ns/net", *command], check=True)

    def die(self) -> None:
        """With it go its links, some time later."""
        self._process.kill()
        self._process.wait()


class Docker:
    """What dockerd says that it has: nothing but the network, until a test says otherwise."""

    def __init__(self) -> None:
        self.endpoints: set[EndpointId] = set()
        self.networks = {NET}
        self.needed: set[str] = set()
        self.answers = True
        self.details: tuple[list[Network], list[Endpoint]] = [], []

    def inventory(self) -> tuple[dict[EndpointId, str], set[NetworkId]]:
        """Its containers' endpoints, and its networks."""
        self._check()
        return {id_: f"web-{id_[:2]}" for id_ in self.endpoints}, set(self.networks)

    def used(self) -> set[str]:
        """Networks that containers belong to, running or stopped."""
        self._check()
        return set(self.needed)

    def names(self, container: str) -> dict[EndpointId, ContainerNames]:
        """Names of a container that runs."""
        self._check()
        return {
            id_: ContainerNames((container, id_[:12])) for id_ in self.endpoints if container[4:] == id_[:2]
        }

    def described(self) -> tuple[list[Network], list[Endpoint]]:
        """What a test says that Docker tells of its networks and endpoints."""
        self._check()
        return self.details

    def _check(self) -> None:
        if not self.answers:
            raise Unavailable("Docker does not answer")


class Host:
    """host1, 10.0.0.1, in the network namespace of this thread.

    *northbound* and *vswitch* are connections to its databases.
    """

    PATIENCE = Patience(request=30, flows=30, controller=0.3)
    IMPATIENCE = replace(PATIENCE, request=4)
    """For calls that get no answer."""

    def __init__(
        self, northbound: OvsdbServer, open_vswitch: OpenVswitch, connections: Iterable[Database]
    ) -> None:
        ip("link", "add", "eth0", "mtu", "1500", "type", "veth", "peer", "name", "cable")
        ip("address", "add", "10.0.0.1/24", "dev", "eth0")
        self.northbound, self.open_vswitch = northbound, open_vswitch
        connection, local = connections
        self.database = connection
        self.overlay = Overlay(lambda _: connection)
        self.leftovers = Leftovers(lambda _: connection)
        self.remaker = Remaker(lambda _: connection)
        self.docker = Docker()
        self.vswitch = Vswitch(local)
        self.links = Links()
        self.controller_runs = True
        self.flows = True
        self._end = threading.Event()
        self._controller = threading.Thread(target=self._install_flows)
        self._controller.start()

    def close(self) -> None:
        """Stop its ovn-controller."""
        self._end.set()
        self._controller.join()

    def driver(
        self,
        patience: Patience = PATIENCE,
        removed_elsewhere: Callable[[NetworkId], bool] = lambda _: False,
        made_elsewhere: Callable[[str], bool] = lambda _: False,
    ) -> Driver:
        """A driver that has just started."""
        parts = self.overlay, self.vswitch, self.links, self._check_controller

        return Driver(*parts, patience, None, removed_elsewhere, made_elsewhere, self.links.occupied)

    def reconciler(
        self,
        driver: Driver | None = None,
        interval: float = 60,
        mode: Mode = Mode.REPAIR,
        record: Recorder | None = None,
        *,
        alone: bool = True,
    ) -> Reconciler:
        """What clears leftovers, of a driver that has just started."""
        parts = driver or self.driver(), self.overlay, self.leftovers, self.vswitch, self.links, self.docker
        return Reconciler(*parts, interval, mode, record, remaker=self.remaker, alone=alone)

    def run(self, wanted: Endpoint, container: Container) -> None:
        """``docker run``."""
        self.driver().create_endpoint(wanted)
        joined = self.driver().join(wanted.network, wanted.id, "/var/run/docker/netns/0123456789ab")
        container.take(joined.link)
        container.run("ip", "link", "set", joined.link, "up")

    def state(self) -> dict[str, Any]:
        """All that calls of Docker's may change, here and in the northbound database."""
        return {
            "northbound": without_times(self.northbound.contents()),
            "ports": sorted(row["name"] for row in self.open_vswitch.rows("Port")),
            "links": sorted(name for _, name in socket.if_nameindex()),
        }

    def _check_controller(self) -> None:
        if not self.controller_runs:
            raise Unavailable("ovn-controller is not running")

    def _install_flows(self) -> None:
        """What ovn-controller does, in a tenth of its time."""
        active = ["external_ids", "includes", ["map", [["iface-status", "active"]]]]
        installed = ["external_ids", "insert", ["map", [["ovn-installed", "true"]]]]
        install = {"op": "mutate", "table": "Interface", "where": [active], "mutations": [installed]}
        while not self._end.wait(0.005):
            if self.flows:
                with suppress(OSError):  # the database is away
                    self.open_vswitch.transact(install)
