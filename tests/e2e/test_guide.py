"""The guide's overlay section, line by line, on two hosts with Docker 20.10.

OVN's "Open Virtual Networking With Docker": https://docs.ovn.org/en/latest/howto/docker.html. Its mistakes
are corrected as the README says: the databases listen on 6641 and 6642, not on 6640.
"""

import json
from collections.abc import Iterator
from functools import partial

import pytest

from e2e.cluster import unanswered
from e2e.lab import CommandError, Fabric, Host, wait_for

SUBNET = "192.168.1.0/24"
PAYLOAD = 10_000_000

SERVE = f"""
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], 5000), family=family) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    digest, size = hashlib.sha256(), 0
    while size < {PAYLOAD} and (data := connection.recv(65536)):
        digest.update(data)
        size += len(data)
    connection.sendall(digest.hexdigest().encode())
"""
SEND = f"""
import hashlib, random, socket, sys
data = random.Random(1).randbytes({PAYLOAD})
with socket.create_connection((sys.argv[1], 5000), timeout=90) as connection:
    connection.sendall(data)
    assert connection.recv(64).decode() == hashlib.sha256(data).hexdigest()
print("intact")
"""
ECHO = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind((sys.argv[1], 5001))
    print("ready", flush=True)
    while True:
        data, sender = server.recvfrom(2000)
        server.sendto(data[::-1], sender)
"""
ASK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(5)
    for _ in range(10):  # in user space a tunnel may lose a packet
        client.sendto(b"abc" * 300, (sys.argv[1], 5001))
        try:
            assert client.recv(2000) == (b"abc" * 300)[::-1]
        except TimeoutError:
            continue
        print("answered")
        break
"""


class Guide:
    """The machines of the guide's reader: two hosts, the first of which is the central machine."""

    def __init__(self, host1: Host, host2: Host) -> None:
        self.hosts = host1, host2
        self.central = host1

    def nbctl(self, *args: str) -> str:
        """Run `ovn-nbctl --db=tcp:$CENTRAL_IP:6641 ...` on the other host; return its output."""
        return self.hosts[1].run("ovn-nbctl", f"--db=tcp:{self.central.address}:6641", *args)

    def ports(self, network: str) -> dict[str, str]:
        """Return the ports that `lsp-list $NID` shows: name to addresses."""
        names = [line.split()[1].strip("()") for line in self.nbctl("lsp-list", network).splitlines()]
        return {name: self.nbctl("lsp-get-addresses", name) for name in names}


def inspect(host: Host, container: str, network: str) -> dict[str, str]:
    """Return a container's endpoint as Docker shows it."""
    (settings,) = json.loads(host.docker("inspect", container))
    endpoint = settings["NetworkSettings"]["Networks"][network]
    assert isinstance(endpoint, dict)
    return endpoint


def ovs_ports(host: Host) -> list[str]:
    """Return our ports on a host's integration bridge."""
    return [port for port in host.run("ovs-vsctl", "list-ports", "br-int").split() if port.startswith("odh")]


def ping(host: Host, container: str, address: str, *options: str) -> str:
    """Ping from a container, once."""
    return host.docker("exec", container, "ping", "-c", "1", "-W", "3", *options, address)


@pytest.fixture(scope="module")
def guide(two_hosts: tuple[Host, Host]) -> Iterator[Guide]:
    """The guide's set-up, step 3: the driver on every host."""
    for host in two_hosts:
        host.load("tools")
        host.driver.start()
    yield Guide(*two_hosts)
    for host in two_hosts:
        host.driver.stop()
        assert not host.path("/run/docker/plugins/openvswitch.sock").exists()


@pytest.fixture
def clean(guide: Guide) -> Iterator[None]:
    """Check after a test that nothing of it is left in Docker, in OVN, or on the hosts."""
    yield
    for host in guide.hosts:
        for container in host.docker("ps", "--all", "--quiet").split():
            host.docker("rm", "--force", container)
        for network in host.docker("network", "ls", "--quiet", "--filter=driver=openvswitch").split():
            host.docker("network", "rm", network)
        assert ovs_ports(host) == []
        assert "odh" not in host.run("ip", "-brief", "link")
    for table in ("Logical_Switch", "Logical_Switch_Port", "DHCP_Options"):
        assert guide.nbctl("--bare", "--columns=_uuid", "list", table) == ""


@pytest.mark.usefixtures("clean")
def test_guide_works_as_written(guide: Guide) -> None:
    host1 = guide.central

    # "Create a logical switch"
    network = host1.docker("network", "create", "-d", "openvswitch", f"--subnet={SUBNET}", "foo")
    # "List all logical switches"
    assert "openvswitch" in host1.docker("network", "ls", "--filter=name=foo")
    assert f"({network})" in guide.nbctl("ls-list")
    ids = guide.nbctl("get", "Logical_Switch", network, "external_ids")
    assert f'subnet="{SUBNET}"' in ids
    assert 'gateway_ip="192.168.1.1"' in ids

    # "Create a logical port"
    host1.docker("run", "-itd", "--net=foo", "--name=busybox", "busybox", "sh")
    endpoint = inspect(host1, "busybox", "foo")
    # "List all logical ports"
    addresses = f"{endpoint['MacAddress']} {endpoint['IPAddress']}"
    assert guide.ports(network) == {endpoint["EndpointID"]: addresses}
    security = guide.nbctl("lsp-get-port-security", endpoint["EndpointID"])
    assert security == addresses
    (port,) = ovs_ports(host1)
    interface = host1.run("ovs-vsctl", "get", "Interface", port, "external_ids").replace('"', "")
    for pair in (
        f"iface-id={endpoint['EndpointID']}",
        f"attached-mac={endpoint['MacAddress']}",
        "iface-status=active",
        "ovn-installed=true",
        "vm-id=",
    ):
        assert pair in interface
    link = host1.docker("exec", "busybox", "ip", "link", "show", "eth0")
    assert "mtu 1442" in link
    assert endpoint["MacAddress"] in link

    # another container, on the same host
    host1.docker("run", "-d", "--net=foo", "--name=neighbour", "busybox", "sleep", "600")
    ping(host1, "neighbour", endpoint["IPAddress"])
    ping(host1, "neighbour", "busybox")

    # "Create and attach a logical port to a running container"
    bar = host1.docker("network", "create", "-d", "openvswitch", "--subnet=192.168.2.0/24", "bar")
    host1.docker("network", "connect", "bar", "busybox")
    second = inspect(host1, "busybox", "bar")
    assert list(guide.ports(bar)) == [second["EndpointID"]]
    assert second["IPAddress"] in host1.docker("exec", "busybox", "ip", "address")
    assert len(ovs_ports(host1)) == 3

    # "Detach and delete a logical port from a running container"
    host1.docker("network", "disconnect", "bar", "busybox")
    assert guide.ports(bar) == {}
    assert second["IPAddress"] not in host1.docker("exec", "busybox", "ip", "address")
    assert len(ovs_ports(host1)) == 2
    ping(host1, "neighbour", endpoint["IPAddress"])

    # "Delete a logical switch"
    host1.docker("network", "rm", "bar")
    assert bar not in guide.nbctl("ls-list")
    with pytest.raises(CommandError, match="has active endpoints"):
        host1.docker("network", "rm", "foo")
    host1.docker("rm", "--force", "busybox", "neighbour")
    assert guide.ports(network) == {}
    host1.docker("network", "rm", "foo")
    assert guide.nbctl("ls-list") == ""


@pytest.fixture
def across(guide: Guide, clean: None) -> tuple[Host, Host]:
    """A dual-stack network of both hosts, with a container of the same name on each."""
    return connected(guide)


def connected(guide: Guide) -> tuple[Host, Host]:
    """Create a dual-stack network of both hosts and a container on each, c1 and c2; return the hosts.

    The network is not a shared one: the second host attaches to the first one's switch (`ovn.switch`).
    """
    host1, host2 = guide.hosts
    common = [
        "network",
        "create",
        "-d",
        "openvswitch",
        "--ipv6",
        f"--subnet={SUBNET}",
        "--subnet=fd00:1::/64",
    ]
    network = host1.docker(*common, "foo")
    host2.docker(*common, "-o", f"ovn.switch={network}", "foo")
    for number, host in enumerate(guide.hosts, start=1):
        host.docker(
            *(
                "run",
                "-d",
                "--net=foo",
                f"--name=c{number}",
                f"--ip=192.168.1.{number}0",
                f"--ip6=fd00:1::{number}0",
            ),
            *("--cap-add=NET_ADMIN", "tools", "sleep", "36000"),
        )
    # A port forwards when `docker run` returns; the other host learns of it a moment later.
    guide.central.await_flows()
    return host1, host2


def test_containers_on_two_hosts_answer_pings(across: tuple[Host, Host]) -> None:
    host1, host2 = across
    for address, headers in (("192.168.1.20", 28), ("fd00:1::20", 48)):
        assert unanswered(host1, "c1", address, tunnel=True) == []
        # A packet of exactly the MTU passes, and there is no larger one.
        host1.ping("c1", address, "-s", str(1442 - headers))
    assert "mtu 1442" in host2.docker("exec", "c2", "ip", "link", "show", "eth0")


@pytest.mark.parametrize("address", ["192.168.1.20", "fd00:1::20"])
def test_ten_megabytes_arrive_intact(across: tuple[Host, Host], address: str) -> None:
    host1, host2 = across
    transfer(host1, host2, address)


def transfer(sender: Host, receiver: Host, address: str) -> None:
    """Send PAYLOAD bytes from the container c1 to c2."""
    receiver.docker("exec", "-d", "c2", "sh", "-c", f"python3 -c '{SERVE}' {address} > /ready")
    wait_for(lambda: "ready" in receiver.docker("exec", "c2", "cat", "/ready"), "the server")
    assert sender.docker("exec", "c1", "python3", "-c", SEND, address) == "intact"


def test_ten_megabytes_arrive_intact_on_one_host(guide: Guide, clean: None) -> None:
    host = guide.hosts[0]
    host.docker("network", "create", "-d", "openvswitch", f"--subnet={SUBNET}", "foo")
    for number in (1, 2):
        host.docker(
            *(
                "run",
                "-d",
                "--net=foo",
                f"--name=c{number}",
                f"--ip=192.168.1.{number}0",
                "tools",
                "sleep",
                "600",
            )
        )
    transfer(host, host, "192.168.1.20")


def test_udp_arrives_on_another_host(across: tuple[Host, Host]) -> None:
    host1, host2 = across
    host2.docker("exec", "-d", "c2", "sh", "-c", f"python3 -c '{ECHO}' 192.168.1.20 > /ready")
    wait_for(lambda: "ready" in host2.docker("exec", "c2", "cat", "/ready"), "the server")
    assert host1.docker("exec", "c1", "python3", "-c", ASK, "192.168.1.20") == "answered"


def test_an_address_in_use_on_another_host_is_refused(across: tuple[Host, Host]) -> None:
    _, host2 = across
    with pytest.raises(
        CommandError, match=r"address 192.168.1.10 is in use by endpoint \w+ on host host1; choose"
    ):
        host2.docker("run", "--rm", "--net=foo", "--ip=192.168.1.10", "busybox", "true")
    mac = "02:42:c0:a8:01:0a"
    with pytest.raises(CommandError, match=f"address {mac} is in use by endpoint"):
        host2.docker("run", "--rm", "--net=foo", f"--mac-address={mac}", "busybox", "true")


def test_a_container_cannot_take_the_address_of_another(across: tuple[Host, Host]) -> None:
    """Port security drops packets of c1 with the address of c2, or with any other."""
    host1, _ = across
    host1.docker("exec", "c1", "ip", "address", "add", "192.168.1.99/24", "dev", "eth0")
    with pytest.raises(CommandError, match="100% packet loss"):
        ping(host1, "c1", "192.168.1.20", "-I", "192.168.1.99")
    assert unanswered(host1, "c1", "192.168.1.20", tunnel=True) == []


def test_requested_addresses_and_mac_are_used(guide: Guide, clean: None) -> None:
    host = guide.hosts[0]
    network = host.docker(
        *("network", "create", "-d", "openvswitch", "--subnet=10.2.0.0/16", "--gateway=10.2.255.254"),
        *("--ip-range=10.2.3.0/24", "--aux-address=router=10.2.3.0", "--aux-address=other=10.2.3.1"),
        *("--ipv6", "--subnet=fd00:2::/64", "--gateway=fd00:2::ffff", "--label=team=net"),
        *("-o", "com.docker.network.driver.mtu=1400", "foo"),
    )
    ids = guide.nbctl("get", "Logical_Switch", network, "external_ids")
    for pair in ('gateway_ip="10.2.255.254"', 'gateway_ip6="fd00:2::ffff"', 'subnet6="fd00:2::/64"'):
        assert pair in ids
    host.docker("run", "-d", "--net=foo", "--name=any", "busybox", "sleep", "600")
    assert inspect(host, "any", "foo")["IPAddress"] == "10.2.3.2"
    host.docker(
        *("run", "-d", "--net=foo", "--name=one", "--ip=10.2.7.7", "--ip6=fd00:2::77"),
        *("--mac-address=02:aa:bb:cc:dd:ee", "busybox", "sleep", "600"),
    )
    endpoint = inspect(host, "one", "foo")
    assert guide.ports(network)[endpoint["EndpointID"]] == "02:aa:bb:cc:dd:ee 10.2.7.7 fd00:2::77"
    link = host.docker("exec", "one", "ip", "link", "show", "eth0")
    assert "02:aa:bb:cc:dd:ee" in link
    assert "mtu 1400" in link
    ping(host, "any", "10.2.7.7")
    ping(host, "any", "fd00:2::77")


def test_outside_and_published_ports_work_as_with_docker(guide: Guide, clean: None) -> None:
    """Docker adds its own gateway bridge, except on an internal network."""
    host = guide.hosts[0]
    host.docker("network", "create", "-d", "openvswitch", f"--subnet={SUBNET}", "foo")
    host.docker("run", "-d", "--net=foo", "--name=web", "-p", "8080:80", "busybox", "httpd", "-f", "-p", "80")
    ask = ("sh", "-c", "busybox wget -O- http://127.0.0.1:8080/none 2>&1 || true")
    wait_for(lambda: "404" in host.run(*ask), "the server")
    host.ping("web", Fabric.address)

    host.docker("network", "create", "-d", "openvswitch", "--internal", "--subnet=192.168.3.0/24", "inner")
    host.docker("run", "-d", "--net=inner", "--name=hermit", "busybox", "sleep", "600")
    assert "default" not in host.docker("exec", "hermit", "ip", "route")
    with pytest.raises(CommandError):
        ping(host, "hermit", Fabric.address)


def test_an_existing_switch_is_attached_to_and_never_deleted(guide: Guide, clean: None) -> None:
    host = guide.hosts[0]
    guide.nbctl("ls-add", "users")
    guide.nbctl("lsp-add", "users", "users-port")
    host.docker(
        "network", "create", "-d", "openvswitch", f"--subnet={SUBNET}", "-o", "ovn.switch=users", "foo"
    )
    host.docker("run", "-d", "--net=foo", "--name=one", "busybox", "sleep", "600")
    endpoint = inspect(host, "one", "foo")
    assert set(guide.ports("users")) == {"users-port", endpoint["EndpointID"]}
    host.docker("rm", "--force", "one")
    host.docker("network", "rm", "foo")
    assert set(guide.ports("users")) == {"users-port"}
    guide.nbctl("ls-del", "users")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-o", "com.docker.network.mtu=1400"],
            "unknown option .* did you mean com.docker.network.driver.mtu",
        ),
        (["-o", "com.docker.network.driver.mtu=lots"], "is not valid: give a number of bytes"),
        (["-o", "ovn.switch=none-such"], "no logical switch 'none-such'; make it with: ovn-nbctl ls-add"),
        (["--subnet=10.4.0.0/24", "--subnet=10.5.0.0/24"], "takes one of each IP version"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    guide: Guide, clean: None, arguments: list[str], message: str
) -> None:
    host = guide.hosts[0]
    with pytest.raises(CommandError, match=message) as refused:
        host.docker("network", "create", "-d", "openvswitch", *arguments, "foo")
    assert len(refused.value.stderr.splitlines()) == 1


def test_first_packet_is_answered_in_each_of_100_starts(across: tuple[Host, Host]) -> None:
    """`docker run` returns only when the container is on the network.

    The other host's container answers as early; there a tunnel in user space may lose a packet while links
    are added and deleted.
    """
    host1, _ = across
    script = """
    for i in $(seq 100); do
        id=$(docker run -d --net=foo busybox sleep 600)
        docker exec $id sh -c '
            ping -c 1 -W 10 192.168.1.10 >/dev/null && echo here
            for packet in $0; do ping -c 1 -W 10 192.168.1.20 >/dev/null && echo there && break; done
        ' "$PACKETS"
        docker rm -f $id >/dev/null
    done
    """
    packets = "1 2" if host1.fabric.userspace else "1"
    answers = host1.run("sh", "-c", script, timeout=1800, env={"PACKETS": packets})
    assert answers.split() == ["here", "there"] * 100


@pytest.fixture
def tunnels_over_ipv6(guide: Guide, clean: None) -> Iterator[Guide]:
    """The hosts, whose tunnels have their IPv6 addresses."""
    set_tunnels(guide.hosts, [host.tunnel_address6 for host in guide.hosts])
    yield guide
    set_tunnels(guide.hosts, [host.tunnel_address for host in guide.hosts])
    if guide.central.fabric.userspace:
        for host in guide.hosts:
            host.meet(list(guide.hosts))


def set_tunnels(hosts: tuple[Host, Host], addresses: list[str]) -> None:
    """Set the addresses of the hosts' tunnels; return when ovn-controller has made the tunnels."""
    for host, address in zip(hosts, addresses, strict=True):
        host.run("ovs-vsctl", "set", "Open_vSwitch", ".", f'external_ids:ovn-encap-ip="{address}"')
    find = ("ovs-vsctl", "--bare", "--columns=name", "find", "Interface", "type=geneve")
    for host, remote in zip(hosts, reversed(addresses), strict=True):
        wait_for(partial(host.run, *find, f'options:remote_ip="{remote}"'), f"a tunnel to {remote}")


def test_traffic_passes_tunnels_over_ipv6(tunnels_over_ipv6: Guide) -> None:
    host1, host2 = connected(tunnels_over_ipv6)
    for address, headers in (("192.168.1.20", 28), ("fd00:1::20", 48)):
        host1.ping("c1", address, "-s", str(1422 - headers))
        transfer(host1, host2, address)
    assert "mtu 1422" in host2.docker("exec", "c2", "ip", "link", "show", "eth0")
