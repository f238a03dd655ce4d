"""A container without any capability connects to OVN's databases, RAFT, metrics and tunnels."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv6Address
from uuid import uuid4

import pytest

from e2e.lab import Fabric, Host, wait_for
from e2e.lab.command import at_once

PORTS = (6641, 6642, 6643, 6644, 9476)
BRIDGES = ("bridge", "other")
NETWORKS = (*BRIDGES, "foo", "inner")

CONNECT = """
import errno, select, socket, sys, time
tried, found, ready = {}, [], select.poll()
for target in sys.stdin.read().split():
    address, _, port = target.rpartition(",")
    try:
        where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
        stream = socket.socket(where[0], socket.SOCK_STREAM)
        stream.setblocking(False)
        if stream.connect_ex(where[4]) in (0, errno.EINPROGRESS):
            tried[stream.fileno()] = stream, target
            ready.register(stream, select.POLLOUT)
    except OSError:
        pass
end = time.monotonic() + float(sys.argv[1])
while tried and time.monotonic() < end:
    for number, _ in ready.poll(200):
        stream, target = tried.pop(number)
        ready.unregister(number)
        if not stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            found.append(target)
print(*found)
"""
"""A program that prints the targets (address,port) that accept a connection within some seconds."""

SERVE = """
import select, socket
servers = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
           for port in (6643, 6644)]
while True:
    for server in select.select(servers, [], [])[0]:
        server.accept()[0].close()
"""
"""A program that listens on the ports of RAFT and accepts connections as a member does."""

HEAR = """
import socket, sys, time
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind((sys.argv[1], 0))
tap.settimeout(0.2)
print("listening", flush=True)
heard, end = set(), time.monotonic() + 60
while "end" not in heard and time.monotonic() < end:
    try:
        frame = tap.recv(2048)
    except TimeoutError:
        continue
    heard |= {word for word in ("6081", "end") if f"<{word}>".encode() in frame}
print(*sorted(heard), flush=True)
"""

TUNNEL = """
import socket, sys
for _ in range(3):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"<6081>", (sys.argv[1], 6081))
        sender.sendto(b"<end>", (sys.argv[1], 6082))
"""


@dataclass(frozen=True)
class Topology:
    """Two hosts, each with a container on each kind of network; the first is the central machine, too."""

    central: Host
    host2: Host

    def __iter__(self) -> Iterator[Host]:
        return iter((self.central, self.host2))

    def reached(self, *networks: str) -> dict[str, set[str]]:
        """Return the services, at any address of any host, that answer containers, by host and network.

        They have one second: on a busy machine an answer may come too late.
        """
        addresses = {host.name: addresses_of(host) for host in self}

        def services_at(place: tuple[Host, str]) -> tuple[str, set[str]]:
            host, network = place
            links = host.docker("exec", network, "ls", "/sys/class/net").split()
            near = {f"{ip}%{link}" for ip in addresses[host.name] if ip.startswith("fe80") for link in links}
            far = {ip for ips in addresses.values() for ip in ips if not ip.startswith("fe80")}
            targets = " ".join(f"{ip},{port}" for ip in near | far for port in PORTS)
            found = host.docker(
                *("exec", "-i", network, "python3", "-c", CONNECT, "1"), stdin=targets, timeout=90
            )
            return f"{host.name} {network}", set(found.split())

        with ThreadPoolExecutor() as pool:
            places = [(host, network) for host in self for network in networks or NETWORKS]
            return {place: found for place, found in pool.map(services_at, places) if found}

    def serves(self) -> None:
        """Assert that the cluster works: new containers on both hosts reach each other."""
        for host in self:
            host.docker("run", "-d", "--net=foo", f"--name=new-{host.name}", "busybox", "sleep", "999")
        address = self.host2.docker("exec", "new-host2", "hostname", "-i").split()[0]
        self.central.ping("new-host1", address)
        for host in self:
            host.docker("rm", "--force", f"new-{host.name}")


def addresses_of(host: Host) -> set[str]:
    """Return a host's addresses except loopback, and the link-local address of each link's MAC."""
    found = set()
    for link in json.loads(host.run("ip", "-json", "address")):
        if link["ifname"] != "lo":
            mac = bytes.fromhex(link["address"].replace(":", ""))
            identifier = bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])  # RFC 4291, appendix A
            found |= {one["local"] for one in link["addr_info"]}
            found.add(str(IPv6Address(b"\xfe\x80" + bytes(6) + identifier)))
    return found


@pytest.fixture(scope="module")
def topology(module_fabric: Fabric) -> Topology:
    hosts = central, host2 = module_fabric.cluster("host1", "host2")
    for host in hosts:
        host.driver.start("--metrics=0.0.0.0:9476")
        host.load("tools")
        host.spawn("python3", "-c", SERVE, log="/var/log/lab/members.log")
        wait_for(lambda host=host: ":6644" in host.run("ss", "-Hltn"), "the members")  # type: ignore[misc]
        host.docker("network", "create", "--ipv6", f"--subnet=fd77:{host.name[-1]}::/64", "other")
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "--ipv6")
    central.docker(*create, "--subnet=10.1.0.0/24", "--subnet=fd01::/64", "-o", "ovn.network=foo", "foo")
    inner = ("--internal", "--subnet=10.2.0.0/24", "--subnet=fd02::/64", "-o", "ovn.network=inner", "inner")
    central.docker(*create, *inner)
    for host in hosts:
        wait_for(lambda host=host: "inner" in host.docker("network", "ls"), "the networks")  # type: ignore[misc]
        for network in NETWORKS:
            host.docker(
                *("run", "-d", f"--net={network}", f"--name={network}", "--cap-drop=ALL", "--restart=always"),
                *("--stop-signal=KILL", "tools", "sleep", "9999"),
            )
    return Topology(central, host2)


def restart_docker(host: Host) -> None:
    host.dockerd.stop()
    host.dockerd.start()


def restart_driver(host: Host) -> None:
    host.driver.stop()
    host.driver.start("--metrics=0.0.0.0:9476")


def flush_iptables(host: Host) -> None:
    for table in ("filter", "nat"):
        host.run("iptables", "-t", table, "-F")
    restart_docker(host)


def flush_everything(host: Host) -> None:
    """Flush all rules of nftables, as ``systemctl restart nftables`` does."""
    host.run("nft", "flush", "ruleset")
    # Sooner than the driver compares the tables without a report from the kernel, which is once a minute.
    wait_for(lambda: "ovn-docker" in host.run("nft", "list", "tables"), "the barrier", timeout=30)
    restart_docker(host)


@pytest.mark.parametrize(
    "event",
    [lambda _: None, restart_docker, restart_driver, flush_iptables, flush_everything],
    ids=["at first", "docker restarts", "driver restarts", "iptables are flushed", "nft flush ruleset"],
)
def test_containers_reach_no_service_and_the_cluster_works(
    topology: Topology, event: Callable[[Host], None]
) -> None:
    at_once(event, topology)
    for host in topology:
        for name in NETWORKS:
            wait_for(lambda host=host, name=name: host.docker("exec", name, "true") == "", name)  # type: ignore[misc]
    assert topology.reached() == {}
    topology.serves()


def test_the_barrier_holds_while_the_driver_is_dead(topology: Topology) -> None:
    for host in topology:
        host.driver.kill()
    assert topology.reached() == {}
    for host in topology:
        host.driver.start("--metrics=0.0.0.0:9476")


@pytest.mark.parametrize("network", ["bridge", "other", "foo"])
def test_nothing_enters_the_tunnels_of_another_host(topology: Topology, network: str) -> None:
    """One UDP packet would suffice: tunnels trust the sender's address, which is masqueraded."""
    assert tunnelled(topology, network) == "end"


def tunnelled(topology: Topology, network: str) -> str:
    """Send packets to host2's tunnel address; return the first that arrives, "end" if all are dropped."""
    path = f"/var/log/lab/tap-{uuid4()}.log"
    topology.host2.spawn("python3", "-c", HEAR, "eth1", log=path)
    log = topology.host2.path(path)
    wait_for(lambda: "listening" in log.read_text(), "the tap")
    for _ in range(5):
        topology.central.docker("exec", network, "python3", "-c", TUNNEL, topology.host2.tunnel_address)
    return wait_for(lambda: log.read_text().splitlines()[1:], "what is heard")[0]


def test_barrier_exception_opens_one_bridge_only(topology: Topology) -> None:
    bridge = "br-" + topology.host2.docker("network", "inspect", "--format={{.ID}}", "other")[:12]
    topology.host2.driver.stop()
    topology.host2.driver.start("--metrics=0.0.0.0:9476", f"--barrier-open={bridge}")
    try:
        metrics = f"{topology.host2.address},9476"

        def opened() -> dict[str, set[str]]:
            found = topology.reached()
            return found if metrics in found.get("host2 other", ()) else {}

        assert wait_for(opened, "an answer to the network other").keys() == {"host2 other"}
    finally:
        restart_driver(topology.host2)


def test_containers_reach_the_services_without_the_barrier(topology: Topology) -> None:
    for host in topology:
        host.driver.stop()
        host.driver.start("--metrics=0.0.0.0:9476", "--barrier=off")
    try:
        services = {f"{topology.central.address},{port}" for port in PORTS}
        places = [f"{host.name} {network}" for host in topology for network in (*BRIDGES, "foo")]

        def all_answer() -> bool:
            found = topology.reached(*BRIDGES, "foo")
            return all(services <= found.get(place, set()) for place in places)

        wait_for(all_answer, "all services to answer all containers")
        # In user space the first packet may get lost, and only the one that ends the test arrive.
        wait_for(lambda: tunnelled(topology, "bridge") == "6081 end", "a packet to enter the tunnel")
    finally:
        for host in topology:
            restart_driver(host)
    assert topology.reached() == {}
