"""The guide on three hosts with the key-value store that it requires, which Docker supports up to 20.10.

The guide's example of a store is consul: `--cluster-store=consul://127.0.0.1:8500`. Debian has etcd, which
Docker 20.10 knows by version 2 of its interface: `etcd --enable-v2`, `--cluster-store=etcd://IP:2379`.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.cluster import unanswered
from e2e.lab import CommandError, Fabric, Host, wait_for

Hosts = tuple[Host, Host, Host]

CREATE = ("network", "create", "-d", "openvswitch", "--subnet=192.168.1.0/24")


@pytest.fixture(scope="module")
def three_hosts(module_fabric: Fabric) -> Hosts:
    """Three hosts whose Docker keeps its networks in etcd, with the driver as the guide starts it."""
    host1, host2, host3 = hosts = module_fabric.cluster("host1", "host2", "host3", store=True)
    for host in hosts:
        host.driver.start()
    return host1, host2, host3


@pytest.fixture
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """The hosts; afterwards checks that the test left nothing in Docker, in OVN or on the hosts."""
    yield three_hosts
    for host in three_hosts:
        if containers := host.docker("ps", "--all", "--quiet").split():
            host.docker("rm", "--force", *containers)
    central = three_hosts[0]
    if networks := our_networks(central):
        central.docker("network", "rm", *networks)
    for host in three_hosts:
        assert our_networks(host) == []
        assert "odh" not in host.run("ovs-vsctl", "list-ports", "br-int")
        assert "odh" not in host.run("ip", "-brief", "link")
    assert in_northbound(central, "Logical_Switch", "Logical_Switch_Port", "DHCP_Options") == []


def our_networks(host: Host) -> list[str]:
    """Return the full IDs of our networks in `docker network ls`."""
    return host.docker("network", "ls", "--quiet", "--no-trunc", "--filter=driver=openvswitch").split()


def in_northbound(central: Host, *tables: str) -> list[str]:
    """Return the external_ids of the rows of some tables in the northbound database."""
    return [
        line
        for table in tables
        for line in central.run("ovn-nbctl", "--bare", "--columns=external_ids", "list", table).splitlines()
        if line
    ]


def run(host: Host, name: str, *options: str) -> str:
    """Start a container on `foo`; return its address."""
    host.docker("run", "-d", "--net=foo", f"--name={name}", *options, "busybox", "sleep", "600")
    return address(host, name)


def address(host: Host, container: str) -> str:
    """Return a container's address on `foo` as Docker shows it."""
    (settings,) = json.loads(host.docker("inspect", container))
    return str(settings["NetworkSettings"]["Networks"]["foo"]["IPAddress"])


def test_guide_works_with_a_key_value_store(hosts: Hosts) -> None:
    host1, host2, host3 = hosts

    # "Create a logical switch", "List all logical switches"
    network = host1.docker(*CREATE, "foo")
    for host in hosts:
        assert our_networks(host) == [network]
        assert "foo" in host.docker("network", "ls", "--filter=driver=openvswitch")
        (settings,) = json.loads(host.docker("network", "inspect", "foo"))
        assert settings["Scope"] == "global"
    assert f"({network})" in host2.run("ovn-nbctl", f"--db=tcp:{host1.address}:6641", "ls-list")

    # "Create a logical port": on every host, without a requested address
    found = {name: run(host, name) for name, host in zip(("c1", "c2", "c3"), hosts, strict=True)}
    assert sorted(found.values()) == ["192.168.1.2", "192.168.1.3", "192.168.1.4"]
    ports = host3.run("ovn-nbctl", f"--db=tcp:{host1.address}:6641", "lsp-list", network)
    assert len(ports.splitlines()) == 3
    host1.await_flows()
    for host, name in zip(hosts, found, strict=True):
        assert unanswered(host, name, *found.values(), tunnel=True) == []
        wait_for(
            lambda at=(host, name): unanswered(*at, *found) == [],
            "names, which other hosts read from the store",
        )  # type: ignore[misc]

    # "Create and attach a logical port to a running container", "Detach and delete"
    host2.docker("network", "create", "-d", "openvswitch", "--subnet=192.168.2.0/24", "bar")
    for host, name in ((host1, "c1"), (host3, "c3")):
        host.docker("network", "connect", "bar", name)
    wait_for(lambda: unanswered(host1, "c1", "c3.bar") == [], "the name, which comes by the store")
    for host, name in ((host1, "c1"), (host3, "c3")):
        host.docker("network", "disconnect", "bar", name)

    # "Delete a logical switch"
    host1.docker("network", "rm", "bar")
    assert our_networks(host3) == [network]
    with pytest.raises(CommandError, match="has active endpoints"):
        host2.docker("network", "rm", "foo")
    for host, name in zip(hosts, found, strict=True):
        host.docker("rm", "--force", name)
    host2.docker("network", "rm", "foo")
    for host in hosts:
        assert our_networks(host) == []
    assert host1.run("ovn-nbctl", "ls-list") == ""


@pytest.mark.parametrize("ipam", [(), ("--ipam-driver=openvswitch",)], ids=["docker", "openvswitch"])
def test_hosts_that_start_containers_at_once_get_different_addresses(
    hosts: Hosts, ipam: tuple[str, ...]
) -> None:
    hosts[0].docker(*CREATE, *ipam, "foo")
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(run, hosts[n % 3], f"c{n}") for n in range(12)]
    found = {start.result() for start in started}
    assert len(found) == 12
    assert "192.168.1.1" not in found
    hosts[0].await_flows()
    for n in range(12):
        assert unanswered(hosts[n % 3], f"c{n}", *found, tunnel=True) == []


def test_the_name_of_a_container_is_unique_in_the_network(hosts: Hosts) -> None:
    """Docker enforces this: it has one list of names for all hosts."""
    host1, host2, _ = hosts
    host1.docker(*CREATE, "foo")
    run(host1, "c1")
    with pytest.raises(CommandError, match="endpoint with name c1 already exists in network foo"):
        run(host2, "c1")


def test_without_a_store_every_host_has_networks_of_its_own(hosts: Hosts) -> None:
    host = hosts[2]
    host.dockerd.stop()
    host.dockerd.start()
    network = host.docker(*CREATE, "foo")
    (settings,) = json.loads(host.docker("network", "inspect", "foo"))
    assert settings["Scope"] == "local"
    assert our_networks(hosts[0]) == []
    host.docker("network", "rm", network)
    host.dockerd.stop()
    host.dockerd.start(*host.cluster_store(hosts[0].address))
