"""One network on many hosts, without a key-value store: made on one, it is there on all."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.cluster import cut_off
from e2e.lab import CommandError, Host, wait_for

Hosts = tuple[Host, Host, Host]

CREATE = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch")


def networks(host: Host) -> list[str]:
    """What `docker network ls` shows of ours."""
    return host.docker("network", "ls", "--filter=driver=openvswitch", "--format={{.Name}}").split()


def address(host: Host, container: str) -> str:
    return host.docker(
        "inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container
    )


@pytest.fixture
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """The hosts; afterwards nothing is left of a test."""
    yield three_hosts
    for host in three_hosts:
        for container in host.docker("ps", "--all", "--quiet").split():
            host.docker("rm", "--force", container)
    for host in three_hosts:
        for network in networks(host):
            host.run("docker", "network", "rm", network, check=False)
    wait_for(lambda: not any(map(networks, three_hosts)), "the networks to go everywhere")
    wait_for(lambda: three_hosts[0].run("ovn-nbctl", "ls-list") == "", "the switches to go")


def test_a_network_made_on_one_host_is_there_on_all_and_goes_from_all(hosts: Hosts) -> None:
    host1, host2, host3 = hosts
    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "--label=team=net", "-o", "ovn.network=foo", "foo")
    for host in (host2, host3):
        wait_for(lambda host=host: networks(host) == ["foo"], f"foo on {host.name}")  # type: ignore[misc]
        assert "10.1.0.0/16" in host.docker("network", "inspect", "foo")
        assert "net" in host.docker("network", "inspect", "--format={{.Labels.team}}", "foo")
    (seen,) = json.loads(host1.run("ovn-docker", "inspect", "foo", "--json"))
    assert seen["hosts"] == ["host1", "host2", "host3"]
    addresses = []
    for host in hosts:
        host.docker("run", "-d", "--net=foo", "--name=box", "--stop-signal=KILL", "busybox", "sleep", "600")
        addresses.append(address(host, "box"))
    assert len(set(addresses)) == 3
    for host in hosts:
        for other in addresses:
            # In user space a tunnel drops its very first packet while it asks for the other host's MAC.
            host.docker("exec", "box", "ping", "-c", "3", "-W", "3", other)
    ports = host1.run("ovn-nbctl", "lsp-list", "foo").splitlines()
    assert len([port for port in ports if "resolver" not in port]) == 3

    for host in hosts:
        host.docker("rm", "--force", "box")
    # The hosts note a moment later that no container of theirs belongs to it any more.
    wait_for(lambda: users(host1) == {"host1": False, "host2": False, "host3": False}, "no use of foo")
    host3.docker("network", "rm", "foo")
    wait_for(lambda: not any(map(networks, hosts)), "foo to go everywhere")
    wait_for(lambda: host1.run("ovn-nbctl", "ls-list") == "", "the switch to go")


def users(host: Host) -> dict[str, bool]:
    """Hosts that have foo, and whether containers of theirs belong to it."""
    command = ("ovn-docker", "network", "rm", "foo", "--dry-run", "--force", "--json")
    found: dict[str, bool] = json.loads(host.run(*command))["hosts"]
    return found


@pytest.mark.parametrize("command", ["network rm foo", "network prune --force"])
def test_a_network_that_other_hosts_need_goes_from_one_host_alone(hosts: Hosts, command: str) -> None:
    """A stopped container is enough; it starts again, also after a restart of dockerd."""
    host1, host2, host3 = hosts
    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
    for host in (host2, host3):
        host.run("ovn-docker", "network", "wait", "foo")
    host2.docker("create", "--net=foo", "--name=stopped", "--stop-signal=KILL", "busybox", "sleep", "600")
    wait_for(lambda: users(host1)["host2"], "host2 to note its container")
    host3.docker(*command.split())
    host1.docker(*command.split())
    assert (networks(host1), networks(host2), networks(host3)) == ([], ["foo"], [])
    host2.dockerd.stop()
    host2.dockerd.start()
    host2.docker("start", "stopped")
    assert (networks(host1), networks(host2), networks(host3)) == ([], ["foo"], [])

    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")  # it joins again
    host1.docker(
        "run", "--rm", "--net=foo", "busybox", "ping", "-c", "3", "-W", "3", address(host2, "stopped")
    )
    host2.docker("rm", "--force", "stopped")
    wait_for(lambda: users(host1) == {"host1": False, "host2": False}, "no use of foo")
    host2.docker("network", "rm", "foo")
    wait_for(lambda: not any(map(networks, hosts)), "foo to go everywhere")


def test_the_cluster_wide_removal_asks_for_force(hosts: Hosts) -> None:
    host1, host2, _ = hosts
    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
    host2.run("ovn-docker", "network", "wait", "foo")
    host2.docker("create", "--net=foo", "--name=stopped", "busybox", "true")
    wait_for(lambda: users(host1)["host2"], "host2 to note its container")
    with pytest.raises(CommandError, match=r"belong to network foo on host2: remove them, or give --force"):
        host1.run("ovn-docker", "network", "rm", "foo", "--yes")
    host1.run("ovn-docker", "network", "rm", "foo", "--yes", "--force")
    wait_for(lambda: not any(map(networks, hosts)), "foo to go everywhere")


def test_a_removal_on_a_host_that_is_cut_off_spares_the_network_made_after_it(hosts: Hosts) -> None:
    host1, host2, host3 = hosts
    create = (*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
    host1.docker(*create)
    for host in (host2, host3):
        host.run("ovn-docker", "network", "wait", "foo")
    with cut_off(host2):
        host2.docker("network", "rm", "foo")
        host1.docker("network", "rm", "foo")
        wait_for(lambda: not networks(host3), "foo to go from host3")
        host1.docker(*create)
        wait_for(lambda: networks(host3) == ["foo"], "the new foo on host3")
    wait_for(lambda: networks(host2) == ["foo"], "the new foo on host2")
    # ovn-controller may wait 8 s between two attempts to connect.
    wait_for(lambda: host2.controller.appctl("connection-status") == "connected", "ovn-controller on host2")
    boxes = ("run", "-d", "--net=foo", "--name=box", "--stop-signal=KILL", "busybox", "sleep", "600")
    for host in hosts:
        host.docker(*boxes)
    for host in hosts:
        host.docker("exec", "box", "ping", "-c", "3", "-W", "3", address(host1, "box"))
        assert networks(host) == ["foo"]


def test_what_contradicts_the_network_is_refused_with_both_named(hosts: Hosts) -> None:
    host1, host2, _ = hosts
    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
    with pytest.raises(
        CommandError, match=r"has subnet 10\.1\.0\.0/16 in the cluster, asked for was 10\.2\.0\.0/16"
    ):
        host2.docker(*CREATE, "--subnet=10.2.0.0/16", "-o", "ovn.network=foo", "foo2")


def test_two_hosts_make_the_same_network_at_the_same_moment(hosts: Hosts) -> None:
    host1, host2, host3 = hosts

    def create(host: Host) -> bool:
        """Whether this host's user made it, and not, a moment earlier, its driver for the other host's."""
        try:
            host.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
        except CommandError as error:
            if "network with name foo already exists" not in error.stderr:
                raise
            return False
        return True

    for turn in range(20):
        with ThreadPoolExecutor() as both:
            made = list(both.map(create, (host1, host2)))
        assert any(made)
        for host in (host1, host2):
            wait_for(lambda host=host: networks(host) == ["foo"], f"one foo on {host.name}")  # type: ignore[misc]
        assert host1.run("ovn-nbctl", "--bare", "--columns=name", "list", "Logical_Switch") == "foo"
        if turn % 5 == 0:
            wait_for(lambda: networks(host3) == ["foo"], "foo on host3")
            for host in (host1, host2):
                host.docker(
                    "run", "-d", "--net=foo", "--name=box", "--stop-signal=KILL", "busybox", "sleep", "60"
                )
            assert address(host1, "box") != address(host2, "box")
            for host in (host1, host2):
                host.docker("rm", "--force", "box")
        host2.docker("network", "rm", "foo")
        wait_for(lambda: not any(map(networks, hosts)), "foo to go everywhere")
        wait_for(lambda: host1.run("ovn-nbctl", "ls-list") == "", "the switch to go")


def test_a_host_that_was_away_catches_up(hosts: Hosts) -> None:
    host1, _, host3 = hosts
    host3.driver.stop()
    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "--internal", "-o", "ovn.network=foo", "foo")
    host3.driver.start()
    wait_for(lambda: networks(host3) == ["foo"], "foo on host3")
    assert host3.docker("network", "inspect", "--format={{.Internal}}", "foo") == "true"

    host3.dockerd.stop()
    host1.docker("network", "rm", "foo")
    wait_for(lambda: not networks(host1), "foo to go from host1")
    assert "foo" in host1.run("ovn-nbctl", "ls-list")
    host3.dockerd.start()
    wait_for(lambda: not networks(host3), "foo to go from host3")
    wait_for(lambda: host1.run("ovn-nbctl", "ls-list") == "", "the switch to go")


def test_who_makes_networks_himself_may(hosts: Hosts) -> None:
    host1, host2, _ = hosts
    host2.driver.stop()
    host2.driver.start("--sync=off")
    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
    wait_for(lambda: networks(hosts[2]) == ["foo"], "foo on host3")
    assert networks(host2) == []
    host2.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "other")
    host2.docker("run", "--rm", "--net=other", "busybox", "true")
    host2.driver.stop()
    host2.driver.start()


def test_a_subnet_is_picked_that_nobody_has(hosts: Hosts) -> None:
    host1, host2, _ = hosts
    for name in ("foo", "bar"):
        host1.docker(*CREATE, "-o", f"ovn.network={name}", name)
    wait_for(lambda: sorted(networks(host2)) == ["bar", "foo"], "both on host2")
    subnet = "--format={{range .IPAM.Config}}{{.Subnet}}{{end}}"
    subnets = [
        [host.docker("network", "inspect", subnet, name) for name in ("foo", "bar")] for host in hosts[:2]
    ]
    assert subnets[0] == subnets[1]
    assert len(set(subnets[0])) == 2
