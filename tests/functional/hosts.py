"""A host whose parts are real except dockerd and ovn-controller, and containers as Docker makes them."""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from functional.ovsdb_servers import OpenVswitch, OvsdbServer, until, without_times
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.repair.remake import MissingRows
from ovn_docker.core.driver import Driver, TimeLimits
from ovn_docker.core.reconcile import Reconciler, RepairMode
from ovn_docker.errors import Unavailable
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.openvswitch import LocalVswitch
from ovn_docker.host.ovsdb import Database
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

NET = NetworkId("ad6eb94616091677ad829254572c28d676689175d908cf299d17bb2c0d39f396")
NETWORK = Network(NET, (Subnet(ip_network("192.168.1.0/24"), ip_address("192.168.1.1")),))
C1, C2, C3 = (EndpointId(f"c{number}" * 32) for number in (1, 2, 3))
HOST2 = Chassis("host2", (), (ip_address("10.0.0.2"),), ("geneve",), "br-int", "system")
MAC = "02:00:00:00:00:01"


def ip(*arguments: str) -> str:
    """Output of the command `ip`."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


PROBE = b"\x88\xb6"
"""Type of the frames of `await_carrier`: IEEE Std 802, local experimental Ethertype 2."""


def await_carrier(link: str, peer: str) -> None:
    """Wait until a new pair of links carries frames from *link* to *peer*.

    Both links are up before that, but the kernel drops frames without an error until its link watch has run.
    """
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(int.from_bytes(PROBE))) as there,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as here,
    ):
        there.bind((peer, 0))
        there.settimeout(0.05)
        here.bind((link, 0))

        def carries() -> bool:
            here.send(b"\xff" * 6 + bytes(6) + PROBE + bytes(46))
            with suppress(TimeoutError):
                return bool(there.recv(100))
            return False

        until(carries)


def definition_of(name: str, *subnets: Subnet) -> Definition:
    """The definition that a host stores of the network *name* of the cluster."""
    pools = tuple(AddressPool(subnet.pool, gateway=subnet.gateway) for subnet in subnets)
    return Definition(name, pools, options=(("ovn.network", name),))


def endpoint(
    id_: EndpointId = C1, *addresses: str, mac: str | None = None, network: NetworkId = NET
) -> Endpoint:
    """Return an endpoint as Docker requests it."""
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
        """The PID of the process."""
        return self._process.pid

    def move_in(self, link: str) -> None:
        """Move a link into the container, as Docker does after Join."""
        ip("link", "set", link, "netns", str(self._process.pid))

    def run(self, *command: str) -> None:
        """Run a command in the container's network namespace."""
        subprocess.run(["nsenter", f"--net=/proc/{self.pid}/ns/net", *command], check=True)

    def die(self) -> None:
        """End the process; the kernel deletes the container's links some time later."""
        self._process.kill()
        self._process.wait()


class Docker:
    """A dockerd that lists only the network `NET`, unless a test changes that."""

    def __init__(self) -> None:
        self.endpoints: set[EndpointId] = set()
        self.networks = {NET}
        self.needed: set[str] = set()
        self.answers = True
        self.details: tuple[list[Network], list[Endpoint]] = [], []

    def inventory(self) -> tuple[dict[EndpointId, str], set[NetworkId]]:
        """Return the endpoints of containers, and the networks."""
        self._check()
        return {id_: f"web-{id_[:2]}" for id_ in self.endpoints}, set(self.networks)

    def used(self) -> set[str]:
        """Return the networks that containers, running or stopped, belong to."""
        self._check()
        return set(self.needed)

    def names(self, container: str) -> dict[EndpointId, ContainerNames]:
        """Return the names of a running container."""
        self._check()
        return {
            id_: ContainerNames((container, id_[:12])) for id_ in self.endpoints if container[4:] == id_[:2]
        }

    def described(self) -> tuple[list[Network], list[Endpoint]]:
        """Return the networks and endpoints that a test has set."""
        self._check()
        return self.details

    def _check(self) -> None:
        if not self.answers:
            raise Unavailable("Docker does not answer")


class Host:
    """host1, 10.0.0.1, in the network namespace of this thread.

    *northbound* and *vswitch* are connections to its databases.
    """

    LONG_LIMITS = TimeLimits(request=30, flows=30, controller=0.3)
    SHORT_LIMITS = replace(LONG_LIMITS, request=4)
    """Time limits for calls that are to time out."""

    def __init__(
        self, northbound: OvsdbServer, open_vswitch: OpenVswitch, connections: Iterable[Database]
    ) -> None:
        ip("link", "add", "eth0", "mtu", "1500", "type", "veth", "peer", "name", "cable")
        ip("address", "add", "10.0.0.1/24", "dev", "eth0")
        self.northbound, self.open_vswitch = northbound, open_vswitch
        connection, local = connections
        self.database = connection
        self.overlay = Overlay(lambda _: connection)
        self.leftovers = partial(Leftovers, connection)
        self.remaker = MissingRows(lambda _: connection)
        self.docker = Docker()
        self.vswitch = LocalVswitch(local)
        self.links = KernelLinks()
        self.controller_runs = True
        self.flows = True
        self._end = threading.Event()
        self._controller = threading.Thread(target=self._install_flows)
        self._controller.start()

    def close(self) -> None:
        """Stop the host's ovn-controller."""
        self._end.set()
        self._controller.join()

    def driver(
        self,
        limits: TimeLimits = LONG_LIMITS,
        removed_elsewhere: Callable[[NetworkId], bool] = lambda _: False,
        made_elsewhere: Callable[[str], bool] = lambda _: False,
    ) -> Driver:
        """Return a driver that has just started."""
        parts = self.overlay, self.vswitch, self.links, self._check_controller

        return Driver(*parts, limits, None, removed_elsewhere, made_elsewhere, self.links.occupied)

    def reconciler(
        self,
        driver: Driver | None = None,
        interval: float = 60,
        mode: RepairMode = RepairMode.REPAIR,
        record: Recorder | None = None,
        *,
        alone: bool = True,
    ) -> Reconciler:
        """Return the reconciler of a driver that has just started."""
        parts = driver or self.driver(), self.overlay, self.leftovers, self.vswitch, self.links, self.docker
        return Reconciler(*parts, interval, mode, record, remaker=self.remaker, alone=alone)

    def run(self, wanted: Endpoint, container: Container) -> None:
        """Make the calls of ``docker run``."""
        self.driver().create_endpoint(wanted)
        joined = self.driver().join(wanted.network, wanted.id, "/var/run/docker/netns/0123456789ab")
        container.move_in(joined.link)
        container.run("ip", "link", "set", joined.link, "up")

    def state(self) -> dict[str, Any]:
        """Return the state that calls of Docker may change, on the host and in the northbound database."""
        return {
            "northbound": without_times(self.northbound.contents()),
            "ports": sorted(row["name"] for row in self.open_vswitch.rows("Port")),
            "links": sorted(name for _, name in socket.if_nameindex()),
        }

    def _check_controller(self) -> None:
        if not self.controller_runs:
            raise Unavailable("ovn-controller is not running")

    def _install_flows(self) -> None:
        """Write ovn-installed as ovn-controller does, in a tenth of its time."""
        active = ["external_ids", "includes", ["map", [["iface-status", "active"]]]]
        installed = ["external_ids", "insert", ["map", [["ovn-installed", "true"]]]]
        install = {"op": "mutate", "table": "Interface", "where": [active], "mutations": [installed]}
        while not self._end.wait(0.005):
            if self.flows:
                with suppress(OSError):  # the database is away
                    self.open_vswitch.transact(install)
