"""Containers resolve names of containers on other hosts, and all other names as before."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.cluster import frozen
from e2e.lab import Fabric, Host, LabError, wait_for

NAME_SERVER = r"""
import socket, sys
world = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
world.bind((sys.argv[1], 53))
while True:
    query, client = world.recvfrom(512)
    end = query.index(b"\0", 12) + 5
    known = query[12:end] == b"\7example\3com\0\0\1\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\xc0\0\2\1" if known else b""
    flags = b"\x81\x80" if known else b"\x81\x83"
    header = query[:2] + flags + b"\0\1\0" + bytes([known]) + b"\0\0\0\0"
    world.sendto(header + query[12:end] + answer, client)
"""
"""A name server: example.com has the address 192.0.2.1, other names do not exist (RFC 1035, 4.1)."""

SCRIPT = """#!/bin/sh -e
[ "$1" = start ] || start-stop-daemon --stop --pidfile /run/docker.pid --retry 60
[ "$1" = stop ] || {command} >>/var/log/lab/dockerd.log 2>&1 &
"""
"""A service script: start, stop, restart."""


@pytest.fixture(scope="module")
def two_hosts(engine_fabric: Fabric, engine: str) -> tuple[Host, Host]:
    """Two hosts whose Docker asks OVN: the first with the setting that `host setup` prints, by hand."""
    host1, host2 = engine_fabric.cluster("host1", "host2", engine=engine)
    host1.spawn("python3", "-c", NAME_SERVER, host1.address)
    for host in (host1, host2):
        host.path("/etc/resolv.conf").write_text(f"nameserver 127.0.0.1\nnameserver {host1.address}\n")
    said = set_up(host1, host1)
    assert "containers find those of other hosts by name if Docker asks OVN" in said
    config = said[said.index("{") : said.index("}") + 1]
    host1.path("/etc/docker").mkdir(exist_ok=True)
    host1.path("/etc/docker/daemon.json").write_text(config)
    host1.dockerd.stop()
    host1.dockerd.start()
    assert "Docker asks OVN" not in set_up(host1, host1)
    run_by_script(host2)
    before = host2.dockerd.pid
    host2.docker(
        "run", "-d", "--net=none", "--name=stopped", "--stop-signal=KILL", "busybox", "sleep", "3600"
    )
    said = set_up(host2, host1, "--docker-dns")
    assert "give --restart-docker: it stops stopped; those with a restart policy start again" in said
    assert host2.dockerd.pid == before
    said = set_up(host2, host1, "--docker-dns", "--restart-docker")  # that is all
    assert "$ service docker restart" in said
    take_over(host2)
    assert host2.dockerd.pid != before
    assert set_up(host2, host1, "--docker-dns", "--restart-docker") == "nothing to change"
    host2.docker("rm", "--force", "stopped")
    for host in (host1, host2):
        host.driver.start()
    return host1, host2


def set_up(host: Host, central: Host, *options: str) -> str:
    """Run `host setup` with further options; return all that it prints."""
    command = (
        *("ovn-docker", "host", "setup", "--central", central.address, "--encap-ip", host.tunnel_address),
        *("--encap-type", "geneve", *options),
    )
    return host.run("sh", "-c", '"$@" 2>&1', "sh", *command, timeout=300).strip()


def run_by_script(host: Host) -> None:
    """Have a service script run dockerd, as on a machine without systemd.

    That of Debian's package sets limits and mounts control groups, which a host of the lab may not.
    """
    host.dockerd.stop()
    host.path("/etc/init.d/docker").write_text(SCRIPT.format(command=" ".join(host.dockerd.argv)))
    host.run("chmod", "755", "/etc/init.d/docker")
    host.run("service", "docker", "start")
    wait_for(host.dockerd.ready, "dockerd")
    take_over(host)


def take_over(host: Host) -> None:
    """Have the lab know the process of a dockerd that it has not started."""
    host.path(host.dockerd.pidfile).write_text(host.path("/run/docker.pid").read_text())


@pytest.fixture
def hosts(two_hosts: tuple[Host, Host]) -> Iterator[tuple[Host, Host]]:
    """The hosts; afterwards checks that the test left nothing."""
    yield two_hosts
    central = two_hosts[0]
    for host in two_hosts:
        if containers := host.docker("ps", "--all", "--quiet").split():
            host.docker("rm", "--force", *containers)
    records = ("ovn-nbctl", "--bare", "--columns=records", "list", "DNS")
    wait_for(lambda: central.run(*records) == "", "the names to go")
    for host in two_hosts:
        for name in ("foo", "bar"):
            host.run("docker", "network", "rm", name, check=False)
    wait_for(lambda: central.run("ovn-nbctl", "ls-list") == "", "the switches to go")
    wait_for(lambda: central.run("ovn-nbctl", "lr-list") == "", "the routers to go")


def create(hosts: tuple[Host, Host], name: str, subnet: str, *options: str) -> None:
    hosts[0].docker(
        *("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", f"--subnet={subnet}"),
        *("-o", f"ovn.network={name}", *options, name),
    )
    listed = ("network", "ls", "--quiet", f"--filter=name=^{name}$")
    wait_for(lambda: all(host.docker(*listed) for host in hosts), f"{name} on all hosts")


def run(host: Host, name: str, *options: str, net: str = "foo") -> None:
    host.docker(
        *("run", "-d", f"--net={net}", f"--name={name}", "--stop-signal=KILL", *options),
        *("busybox", "sleep", "3600"),
    )


def address(host: Host, container: str, net: str = "foo") -> str:
    (settings,) = json.loads(host.docker("inspect", container))
    return str(settings["NetworkSettings"]["Networks"][net]["IPAddress"])


def lookup(host: Host, container: str, name: str) -> str:
    """Return the IPv4 address that a container gets for a name; empty if there is none."""
    answer = host.docker("exec", container, "sh", "-c", "nslookup -type=a $0 2>/dev/null || true", name)
    addresses = [line.split()[-1] for line in answer.splitlines() if line.startswith("Address")]
    return addresses[1] if len(addresses) > 1 else ""  # the first address is that of the server


def finds(host: Host, container: str, name: str, wanted: str) -> None:
    """Wait until a container gets the address for a name: a new name reaches other hosts a moment later."""
    try:
        wait_for(lambda: lookup(host, container, name) == wanted, f"{name} to be {wanted}")
    except LabError as error:
        raise AssertionError(f"{name} is {lookup(host, container, name)!r}, not {wanted}") from error


@pytest.mark.parametrize("internal", [(), ("--internal",)], ids=["outside", "internal"])
def test_containers_find_each_other_across_hosts(hosts: tuple[Host, Host], internal: tuple[str, ...]) -> None:
    host1, host2 = hosts
    create(hosts, "foo", "10.1.0.0/16", *internal)
    run(host2, "web", "--network-alias=shop", "--hostname=www")
    run(host1, "client")
    wanted = address(host2, "web")
    for name in ("web", "shop", "web.foo", "WEB", "www"):
        finds(host1, "client", name, wanted)
    host1.ping("client", "web")
    short = host2.docker("inspect", "--format={{.Id}}", "web")[:12]
    finds(host1, "client", short, wanted)
    # A container that only makes the query, right after its start.
    assert wanted in host1.docker("run", "--rm", "--net=foo", "busybox", "nslookup", "-type=a", "shop")
    finds(host2, "web", "client", address(host1, "client"))


def test_network_without_names_resolves_outside_names_alone(hosts: tuple[Host, Host]) -> None:
    host1, host2 = hosts
    create(hosts, "foo", "10.1.0.0/16", "-o", "ovn.names=off")
    run(host2, "web")
    run(host1, "client")
    found = ("ovn-nbctl", "--bare", "--columns=name", "find", "Logical_Switch_Port")
    wait_for(lambda: host1.run(*found, "external_ids:ovn-docker\\:container=web"), "the name on the port")
    finds(host1, "client", "example.com", "192.0.2.1")
    assert lookup(host1, "client", "web") == lookup(host1, "client", "web.foo") == ""
    host1.ping("client", address(host2, "web"))
    assert host1.run("ovn-nbctl", "lr-list") == host1.run("ovn-nbctl", "--bare", "list", "DNS") == ""
    for host in hosts:
        assert "nothing is left over, and nothing is missing" in host.run("ovn-docker", "gc")


def test_outside_names_resolve_as_before(hosts: tuple[Host, Host]) -> None:
    host1, _ = hosts
    create(hosts, "foo", "10.1.0.0/16")
    run(host1, "client")
    finds(host1, "client", "example.com", "192.0.2.1")
    assert lookup(host1, "client", "nobody") == ""


def test_containers_on_other_networks_resolve_names_as_before(hosts: tuple[Host, Host]) -> None:
    """The same holds for many queries in a row and after a restart of Docker: they do not all time out."""
    host1, _ = hosts
    host1.docker("network", "create", "own")
    run(host1, "elsewhere", "--restart=always", net="own")
    ask = "for i in $(seq 12); do nslookup -type=a example.com && ! nslookup -type=a nobody || exit; done"
    for _ in range(2):
        host1.docker("exec", "elsewhere", "sh", "-ec", ask, timeout=60)
        host1.dockerd.stop()
        host1.dockerd.start()
    host1.docker("rm", "--force", "elsewhere")
    host1.docker("network", "rm", "own")


def test_names_follow_their_container(hosts: tuple[Host, Host]) -> None:
    host1, host2 = hosts
    create(hosts, "foo", "10.1.0.0/16")
    run(host2, "web")
    run(host1, "client")
    finds(host1, "client", "web", address(host2, "web"))
    host2.docker("rename", "web", "db")
    finds(host1, "client", "db", address(host2, "db"))
    finds(host1, "client", "web", "")
    host2.docker("restart", "db")
    finds(host1, "client", "db", address(host2, "db"))
    host2.docker("network", "disconnect", "foo", "db")
    finds(host1, "client", "db", "")
    # Docker renames the container while the driver is down.
    host2.driver.stop()
    host2.driver.start()
    host2.docker("network", "connect", "--alias=store", "foo", "db")
    finds(host1, "client", "store", address(host2, "db"))
    host2.driver.stop()
    host2.docker("rename", "db", "box")
    host2.driver.start()
    finds(host1, "client", "box", address(host2, "box"))


def test_name_is_registered_when_the_driver_starts_with_the_container(hosts: tuple[Host, Host]) -> None:
    """Docker sends the event while the driver is down, and does not list the container before it runs."""
    host1, host2 = hosts
    if host1.engine == "28.5":
        pytest.skip("Docker 28 asks containerd first, which is frozen here")
    create(hosts, "foo", "10.1.0.0/16")
    run(host1, "client")
    run(host2, "old")
    with ThreadPoolExecutor() as pool:
        with frozen(host2.containerd):
            starts = pool.submit(run, host2, "web")
            joined = ("ovs-vsctl", "--bare", "--columns=name", "find", "Interface", "external_ids:vm-id!=''")
            wait_for(lambda: len(host2.run(*joined).split()) == 2, "web to get its port")
            host2.driver.stop()
            host2.docker("rename", "old", "new")
            host2.driver.start()
            finds(host1, "client", "new", address(host2, "new"))  # the driver has read the running containers
        starts.result()
    finds(host1, "client", "web", address(host2, "web"))


def test_container_on_two_networks_resolves_names_of_both(hosts: tuple[Host, Host]) -> None:
    host1, host2 = hosts
    create(hosts, "foo", "10.1.0.0/16")
    create(hosts, "bar", "10.2.0.0/16")
    run(host2, "web")
    run(host2, "db", net="bar")
    run(host1, "client")
    finds(host1, "client", "web", address(host2, "web"))
    assert lookup(host1, "client", "db") == ""  # db is not on that network
    host1.docker("network", "connect", "bar", "client")
    finds(host1, "client", "db", address(host2, "db", "bar"))
    finds(host1, "client", "web", address(host2, "web"))
    host1.docker("network", "disconnect", "foo", "client")
    finds(host1, "client", "db", address(host2, "db", "bar"))
    assert lookup(host1, "client", "web") == ""
    host1.docker("network", "connect", "foo", "client")
    finds(host1, "client", "web", address(host2, "web"))


def test_name_resolves_without_the_dns_setting(hosts: tuple[Host, Host]) -> None:
    host1, host2 = hosts
    create(hosts, "foo", "10.1.0.0/16")
    run(host2, "web")
    run(host1, "client", "--dns=10.1.0.1", f"--dns={host1.address}")
    finds(host1, "client", "web", address(host2, "web"))
    finds(host1, "client", "example.com", "192.0.2.1")
