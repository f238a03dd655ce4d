"""Two hosts with the driver and one network, and checks that no leftovers remain."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from chaos import views
from e2e.lab import Host, LabError, wait_for
from e2e.lab.services import Service
from ovn_docker.docker.engine import DockerEngine
from ovn_docker.errors import OvnDockerError

SHORT_LIMITS = ("--request-timeout=5", "--sweep-interval=10")
"""Options with which the driver's time limits and sweeps take seconds.

The sweep interval is not shorter, because a container has one interval from CreateEndpoint until its link
is moved.
"""

_TABLES = {
    "Logical_Switch": ["name"],
    "Logical_Switch_Port": ["name"],
    "DHCP_Options": ["cidr", "external_ids"],
}


class Cluster:
    """Two hosts with the network `foo`; the first is OVN's central machine, too.

    The network is not a shared one: the second host attaches to the first one's switch (`ovn.switch`).
    """

    def __init__(self, *hosts: Host) -> None:
        self.hosts = self.central, self.host2 = hosts
        for host in hosts:
            host.driver.start(*SHORT_LIMITS)
        create = ("network", "create", "-d", "openvswitch", "--subnet=192.168.1.0/24")
        self.network = self.central.docker(*create, "foo")
        self.attached = self.host2.docker(*create, "-o", f"ovn.switch={self.network}", "foo")

    def run(self, host: Host, name: str, address: str, *options: str) -> None:
        """Start a container on `foo` that runs until it is killed."""
        host.docker(
            *("run", "-d", "--net=foo", f"--name={name}", f"--ip={address}", "--stop-signal=KILL"),
            *(*options, "busybox", "sleep", "3600"),
        )

    def ping(self, host: Host, container: str, address: str) -> None:
        """Ping an address from a container. Raises CommandError unless it answers within a minute."""
        host.ping(container, address)

    def serves(self) -> None:
        """Assert that new containers on both hosts reach each other; then remove them."""
        self.run(self.central, "new1", "192.168.1.101")
        self.run(self.host2, "new2", "192.168.1.102")
        self.ping(self.central, "new1", "192.168.1.102")
        self.central.docker("rm", "--force", "new1")
        self.host2.docker("rm", "--force", "new2")

    def settles(self) -> None:
        """Wait until a sweep has run and the state is as it should be."""
        try:
            wait_for(lambda: self.wanted() == self.found(), "order")
        except LabError:
            self._compare()
        self._look_for_crashes()

    def in_order(self) -> None:
        """Assert that the parts that the running containers need exist, and that no others exist."""
        self._compare()
        self._look_for_crashes()

    def sweep(self, host: Host) -> None:
        """Make a leftover; return when the driver's sweep has deleted it."""
        host.run("ip", "link", "add", "odhstray", "type", "veth", "peer", "odcstray")
        gone = ("sh", "-c", "! ip link show odhstray 2>/dev/null")
        wait_for(lambda: host.run(*gone, check=False) == "", "the sweep")

    def wanted(self) -> set[str]:
        """Return the parts that should exist for the containers that Docker lists as running."""
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
        """Return the existing parts, of all kinds that the driver makes."""
        rows = _rows(self.central, "OVN_Northbound", "/run/ovn/ovnnb_db.sock", _TABLES)
        things = {f"switch {row['name']}" for row in rows["Logical_Switch"]}
        things |= {f"logical port {row['name']}" for row in rows["Logical_Switch_Port"]}
        for row in rows["DHCP_Options"]:
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
        """Return the endpoints of running containers on `foo`. Raises LabError if Docker does not answer."""
        engine = DockerEngine(host.path("/run/docker.sock"))
        try:
            running = [one["Id"] for one in engine.read("/containers/json")]
            containers = [engine.read(f"/containers/{container}/json") for container in running]
        except OvnDockerError as error:  # a container may have just ended
            raise LabError(f"Docker on {host.name}: {error}") from error
        networks = [container["NetworkSettings"]["Networks"] for container in containers]
        return [network["foo"] for network in networks if "foo" in network]

    def ports(self, host: Host) -> list[str]:
        """Return the driver's ports on a host's bridges. Raises LabError if the database does not answer."""
        ports = _rows(host, "Open_vSwitch", "/run/openvswitch/db.sock", {"Port": ["name"]})["Port"]
        return [port["name"] for port in ports if port["name"].startswith("odh")]

    def remove_containers(self) -> None:
        """Remove all containers, running or not."""
        for host in self.hosts:
            if containers := host.docker("ps", "--all", "--quiet").split():
                host.docker("rm", "--force", *containers)

    def _compare(self) -> None:
        wanted, found = self.wanted(), self.found()
        assert found - wanted == set(), "left behind"
        assert wanted - found == set(), "missing"

    def _look_for_crashes(self) -> None:
        for host in self.hosts:
            assert "Traceback" not in host.path(host.driver.log).read_text()


def _rows(host: Host, database: str, socket: str, tables: dict[str, list[str]]) -> dict[str, list[views.Row]]:
    """Return columns of tables of a database on a host. Raises LabError if the database does not answer."""
    try:
        return views.read(database, [host.path(socket)], tables)
    except OvnDockerError as error:
        raise LabError(f"{database} on {host.name}: {error}") from error


def unanswered(host: Host, container: str, *targets: str, tunnel: bool = False) -> list[str]:
    """Return the *targets*, addresses or names, that do not answer the container's first packet.

    In user space Open vSwitch drops packets for tunnels while it reads the host's routes again, which it does
    whenever a link is added or deleted: there an address behind a *tunnel* gets a second packet.
    """
    packet = "ping -c 1 -W 1 $i >/dev/null"
    tries = f"{packet} || {packet}" if tunnel and host.fabric.userspace else packet
    asked = host.docker("exec", container, "sh", "-c", f"for i; do {tries} || echo $i; done", "sh", *targets)
    return asked.split()


def lost_packets(
    host: Host, container: str, address: str, event: Callable[[], object], seconds: float, interval: float
) -> int:
    """Send packets from a container for *seconds* while *event* runs; return how many had no answer.

    If a busy machine takes longer than that for the event, it happens again, during twice as many packets.
    """
    while True:
        count = int(seconds / interval)
        command = ("exec", container, "ping", "-q", "-i", str(interval), "-c", str(count), address)
        with ThreadPoolExecutor() as pool:
            said = pool.submit(host.docker, *command, timeout=seconds * 5 + 30)
            wait_for(lambda: said.done() or "ping" in host.docker("top", container), "the first packet")  # noqa: B023
            event()
            happened_meanwhile = not said.done()
            sent, received = map(int, re.findall(r"(\d+) packets", said.result()))
        assert sent == count
        if happened_meanwhile:
            return sent - received
        seconds *= 2


@contextmanager
def stopped(service: Service) -> Iterator[None]:
    """Stop a service while the block runs."""
    service.stop()
    try:
        yield
    finally:
        service.start()


@contextmanager
def frozen(service: Service) -> Iterator[None]:
    """Freeze the processes of a service while the block runs."""
    service.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.signal(signal.SIGCONT)


@contextmanager
def cut_off(host: Host) -> Iterator[None]:
    """Let a host reach the others through the tunnels only, while the block runs."""
    management = ("bridge", "link", "set", "dev", host.ports[0], "state")
    host.fabric.run(*management, "0")
    try:
        yield
    finally:
        host.fabric.run(*management, "3")


@contextmanager
def driver_with(host: Host, *options: str) -> Iterator[None]:
    """Run the driver of a host with further options while the block runs."""
    host.driver.stop()
    host.driver.start(*SHORT_LIMITS, *options)
    try:
        yield
    finally:
        host.driver.stop()
        host.driver.start(*SHORT_LIMITS)


@contextmanager
def driver_behind_its_socket(host: Host, *options: str) -> Iterator[Service]:
    """Provide the driver's socket as a systemd unit does, and the driver on demand, while the block runs.

    The driver starts when a client has connected and the file /run/driver-may-start exists.
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
