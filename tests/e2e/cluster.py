"""Two hosts with the driver, a network that they share, and what must be left of all that happens to them."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from e2e.lab import Host, LabError, wait_for
from e2e.lab.services import Service
from ovn_docker.host.ovsdb import decode

PATIENCE = ("--request-timeout=5", "--sweep-interval=6")
"""Options with which the driver gives up, and clears up, within seconds.

Not sooner: between CreateEndpoint and the move of its link a container has one interval to start.
"""


class Cluster:
    """Two hosts, the first of them OVN's central one too, and on both the network `foo`.

    Until the hosts share networks by themselves, the second attaches to the first one's switch.
    """

    def __init__(self, *hosts: Host) -> None:
        self.hosts = self.central, self.host2 = hosts
        for host in hosts:
            host.driver.start(*PATIENCE)
        create = ("network", "create", "-d", "openvswitch", "--subnet=192.168.1.0/24")
        self.network = self.central.docker(*create, "foo")
        self.attached = self.host2.docker(*create, "-o", f"ovn.switch={self.network}", "foo")

    def run(self, host: Host, name: str, address: str, *options: str) -> None:
        """A container on `foo` that runs until it is killed."""
        host.docker(
            *("run", "-d", "--net=foo", f"--name={name}", f"--ip={address}", "--stop-signal=KILL"),
            *(*options, "busybox", "sleep", "3600"),
        )

    def ping(self, host: Host, container: str, address: str) -> None:
        """Raises CommandError unless the address answers the container within some seconds."""
        host.ping(container, address)

    def serves(self) -> None:
        """New containers on both hosts reach each other; then they go again."""
        self.run(self.central, "new1", "192.168.1.101")
        self.run(self.host2, "new2", "192.168.1.102")
        self.ping(self.central, "new1", "192.168.1.102")
        self.central.docker("rm", "--force", "new1")
        self.host2.docker("rm", "--force", "new2")

    def settles(self) -> None:
        """In a while, when the sweep has come, all is in order."""
        with suppress(LabError):
            wait_for(lambda: self.wanted() == self.found(), "order")
        self.in_order()

    def in_order(self) -> None:
        """There is all that the running containers need, and nothing else."""
        wanted, found = self.wanted(), self.found()
        assert found - wanted == set(), "left behind"
        assert wanted - found == set(), "missing"
        for host in self.hosts:
            assert "Traceback" not in host.path(host.driver.log).read_text()

    def sweep(self, host: Host) -> None:
        """Returns when the driver has looked for leftovers: it found the one that we made."""
        host.run("ip", "link", "add", "odhstray", "type", "veth", "peer", "odcstray")
        gone = ("sh", "-c", "! ip link show odhstray 2>/dev/null")
        wait_for(lambda: host.run(*gone, check=False) == "", "the sweep")

    def wanted(self) -> set[str]:
        """What there should be, going by the containers of which Docker says that they run."""
        things = {f"switch {self.network}", f"note on network {self.attached}"}
        for host in self.hosts:
            if host.driver.pid:
                things.add(f"{host.name}: socket openvswitch.sock")
            for endpoint in self.endpoints(host):
                name = endpoint["EndpointID"]
                things |= {
                    f"logical port {name}",
                    f"claim of {endpoint['IPAddress']} by {name}",
                    f"claim of {endpoint['MacAddress']} by {name}",
                    f"{host.name}: port odh{name[:12]}",
                    f"{host.name}: link odh{name[:12]}",
                }
        return things

    def found(self) -> set[str]:
        """What there is of all that the driver makes."""
        things = {f"switch {row['name']}" for row in self._rows("Logical_Switch", "name")}
        things |= {f"logical port {row['name']}" for row in self._rows("Logical_Switch_Port", "name")}
        for row in self._rows("DHCP_Options", "cidr,external_ids"):
            ids = row["external_ids"]
            if "ovn-docker:endpoint" in ids:
                things.add(f"claim of {row['cidr']} by {ids['ovn-docker:endpoint']}")
            else:
                things.add(f"note on network {ids['ovn-docker:network']}")
        for host in self.hosts:
            links = [link["ifname"] for link in json.loads(host.run("ip", "-json", "link"))]
            sockets = [path.name for path in host.path("/run/docker/plugins").glob("*")]
            things |= {f"{host.name}: port {port}" for port in self.ports(host)}
            things |= {f"{host.name}: link {link}" for link in links if link.startswith(("odh", "odc"))}
            things |= {f"{host.name}: socket {socket}" for socket in sockets}
        return things

    def endpoints(self, host: Host) -> list[dict[str, str]]:
        """The endpoints of the containers that run on `foo`."""
        running = host.docker("ps", "--quiet").split()
        containers = json.loads(host.docker("inspect", *running)) if running else []
        networks = [container["NetworkSettings"]["Networks"] for container in containers]
        return [network["foo"] for network in networks if "foo" in network]

    def ports(self, host: Host) -> list[str]:
        """The driver's ports on the integration bridge of a host."""
        ports = host.run("ovs-vsctl", "--timeout=10", "list-ports", "br-int").split()
        return [port for port in ports if port.startswith("odh")]

    def remove_containers(self) -> None:
        """Also those that do not run."""
        for host in self.hosts:
            if containers := host.docker("ps", "--all", "--quiet").split():
                host.docker("rm", "--force", *containers)

    def _rows(self, table: str, columns: str) -> list[dict[str, Any]]:
        command = ("ovn-nbctl", "--timeout=10", "--format=json", f"--columns={columns}", "list", table)
        listed = json.loads(self.central.run(*command))
        return [dict(zip(listed["headings"], map(decode, row), strict=True)) for row in listed["data"]]


def unanswered(host: Host, container: str, *targets: str, tunnel: bool = False) -> list[str]:
    """Of some addresses or names, those that do not answer the container's first packet.

    In user space Open vSwitch drops what it has to send through a tunnel while it looks at the host's
    routes again, which is whenever a link comes or goes: what is behind a *tunnel* gets a second one there.
    """
    packet = "ping -c 1 -W 1 $i >/dev/null"
    tries = f"{packet} || {packet}" if tunnel and host.fabric.userspace else packet
    asked = host.docker("exec", container, "sh", "-c", f"for i; do {tries} || echo $i; done", "sh", *targets)
    return asked.split()


def lost_packets(
    host: Host, container: str, address: str, happens: Callable[[], object], seconds: float, interval: float
) -> int:
    """How many packets of a container's get no answer while something happens; it sends for so long."""
    count = int(seconds / interval)
    command = ("exec", container, "ping", "-q", "-i", str(interval), "-c", str(count), address)
    with ThreadPoolExecutor() as pool:
        said = pool.submit(host.docker, *command, timeout=seconds * 5)
        wait_for(lambda: "ping" in host.docker("top", container), "the first packet")
        happens()
        sent, received = map(int, re.findall(r"(\d+) packets", said.result()))
    assert sent == count
    return sent - received


@contextmanager
def stopped(service: Service) -> Iterator[None]:
    """A while without a service."""
    service.stop()
    try:
        yield
    finally:
        service.start()


@contextmanager
def frozen(service: Service) -> Iterator[None]:
    """A while in which a service is there but does nothing."""
    service.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.signal(signal.SIGCONT)


@contextmanager
def cut_off(host: Host) -> Iterator[None]:
    """A while in which a host reaches the others over the tunnels only."""
    management = ("bridge", "link", "set", "dev", host.ports[0], "state")
    host.fabric.run(*management, "0")
    try:
        yield
    finally:
        host.fabric.run(*management, "3")


@contextmanager
def driver_with(host: Host, *options: str) -> Iterator[None]:
    """A while in which the driver of a host has more options."""
    host.driver.stop()
    host.driver.start(*PATIENCE, *options)
    try:
        yield
    finally:
        host.driver.stop()
        host.driver.start(*PATIENCE)


@contextmanager
def driver_behind_its_socket(host: Host, *options: str) -> Iterator[Service]:
    """A while in which the driver's socket is there, as a systemd unit makes it, and the driver on demand.

    It starts when somebody has connected and the file /run/driver-may-start is there.
    """
    held_back = 'until [ -e /run/driver-may-start ]; do sleep 0.1; done; exec "$@"'
    service = Service(
        host,
        *("systemd-socket-activate", f"--listen={host.driver.listens}"),
        *("--", "sh", "-c", held_back, "sh", *host.driver.argv, *options),
        listens=host.driver.listens,
        name=host.driver.name,
    )
    host.run("mkdir", "-p", "/run/docker/plugins")
    service.start(wait=False)
    wait_for(lambda: host.path(host.driver.listens).exists(), "the socket")
    try:
        yield service
    finally:
        service.stop()
        host.run("rm", "--force", host.driver.listens, "/run/driver-may-start")
        host.driver.start(*options)
