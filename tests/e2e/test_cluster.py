"""A shared network on many hosts, without a key-value store: created on one, it appears on all."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from e2e.cluster import cut_off
from e2e.lab import CommandError, Host, wait_for
from ovn_docker.backends.ovn.rows import QUIET_TABLE

Hosts = tuple[Host, Host, Host]

CREATE = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch")


def networks(host: Host) -> list[str]:
    """Return our networks in `docker network ls`."""
    return host.docker("network", "ls", "--filter=driver=openvswitch", "--format={{.Name}}").split()


def address(host: Host, container: str) -> str:
    return host.docker(
        "inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container
    )


@pytest.fixture
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """The hosts; afterwards checks that the test left nothing."""
    yield three_hosts
    for host in three_hosts:
        for container in host.docker("ps", "--all", "--quiet").split():
            host.docker("rm", "--force", container)
    for host in three_hosts:
        for network in networks(host):
            host.run("docker", "network", "rm", network, check=False)
    wait_for(lambda: not any(map(networks, three_hosts)), "the networks to go everywhere")
    wait_for(lambda: three_hosts[0].run("ovn-nbctl", "ls-list") == "", "the switches to go")


def test_shared_network_is_created_and_deleted_on_all_hosts(hosts: Hosts) -> None:
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
            host.ping("box", other)
    ports = host1.run("ovn-nbctl", "lsp-list", "foo").splitlines()
    assert len([port for port in ports if "resolver" not in port]) == 3

    for host in hosts:
        host.docker("rm", "--force", "box")
    # A moment later the hosts write that no container of theirs belongs to the network any more.
    wait_for(lambda: users(host1) == {"host1": False, "host2": False, "host3": False}, "no use of foo")
    host3.docker("network", "rm", "foo")
    wait_for(lambda: not any(map(networks, hosts)), "foo to go everywhere")
    wait_for(lambda: host1.run("ovn-nbctl", "ls-list") == "", "the switch to go")


def users(host: Host) -> dict[str, bool]:
    """Return the hosts that have foo, and whether containers of theirs belong to it."""
    command = ("ovn-docker", "network", "rm", "foo", "--dry-run", "--force", "--json")
    found: dict[str, bool] = json.loads(host.run(*command))["hosts"]
    return found


@pytest.mark.parametrize("command", ["network rm foo", "network prune --force"])
def test_network_rm_leaves_a_network_that_other_hosts_need(hosts: Hosts, command: str) -> None:
    """The container on the other host is stopped; it starts again, also after a restart of dockerd."""
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

    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")  # this host joins again
    host1.docker("run", "-d", "--net=foo", "--name=box", "--stop-signal=KILL", "busybox", "sleep", "600")
    host1.ping("box", address(host2, "stopped"))
    host1.docker("rm", "--force", "box")
    host2.docker("rm", "--force", "stopped")
    wait_for(lambda: users(host1) == {"host1": False, "host2": False}, "no use of foo")
    host2.docker("network", "rm", "foo")
    wait_for(lambda: not any(map(networks, hosts)), "foo to go everywhere")


def test_cluster_wide_removal_requires_force(hosts: Hosts) -> None:
    host1, host2, _ = hosts
    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
    host2.run("ovn-docker", "network", "wait", "foo")
    host2.docker("create", "--net=foo", "--name=stopped", "busybox", "true")
    wait_for(lambda: users(host1)["host2"], "host2 to note its container")
    with pytest.raises(CommandError, match=r"belong to network foo on host2: remove them, or give --force"):
        host1.run("ovn-docker", "network", "rm", "foo", "--yes")
    host1.run("ovn-docker", "network", "rm", "foo", "--yes", "--force")
    wait_for(lambda: not any(map(networks, hosts)), "foo to go everywhere")


def test_late_removal_does_not_affect_the_next_incarnation(hosts: Hosts) -> None:
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
        host.ping("box", address(host1, "box"))
        assert networks(host) == ["foo"]


def test_conflicting_options_are_refused_and_both_values_named(hosts: Hosts) -> None:
    host1, host2, _ = hosts
    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
    host2.run("ovn-docker", "network", "wait", "foo")
    with pytest.raises(
        CommandError, match=r"has subnet 10\.1\.0\.0/16 in the cluster, asked for was 10\.2\.0\.0/16"
    ):
        host2.docker(*CREATE, "--subnet=10.2.0.0/16", "-o", "ovn.network=foo", "foo2")


def test_concurrent_creation_on_two_hosts_makes_one_network(hosts: Hosts) -> None:
    host1, host2, host3 = hosts

    def create(host: Host) -> bool:
        """Create foo; return False if the driver of this host had already created it for the other host."""
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
            wait_for(lambda: not any(users(host1).values()), "no use of foo")
        host2.docker("network", "rm", "foo")
        wait_for(lambda: not any(map(networks, hosts)), "foo to go everywhere")
        wait_for(lambda: host1.run("ovn-nbctl", "ls-list") == "", "the switch to go")


def test_concurrent_creation_without_a_subnet_makes_one_network(hosts: Hosts) -> None:
    """On the second host the driver may already have created the network; then Docker refuses the command."""
    host1, host2, _ = hosts

    def create(host: Host) -> str:
        try:
            return host.docker(*CREATE, "-o", "ovn.network=foo", "foo")
        except CommandError as error:
            assert "network with name foo already exists" in error.stderr  # noqa: PT017 - in a thread
            return ""

    for _ in range(3):
        with ThreadPoolExecutor() as both:
            assert any(both.map(create, (host1, host2)))
        wait_for(lambda: len({*map(subnets_of_foo, hosts)}) == 1, "one foo with one subnet everywhere")
        box = ("run", "-d", "--net=foo", "--name=box", "--stop-signal=KILL", "busybox", "sleep", "60")
        for host in (host1, host2):
            host.docker(*box)
        assert address(host1, "box") != address(host2, "box")
        host1.ping("box", address(host2, "box"))
        for host in (host1, host2):
            assert networks(host) == ["foo"]
            host.docker("rm", "--force", "box")
        wait_for(lambda: not any(users(host1).values()), "no use of foo")
        host2.docker("network", "rm", "foo")
        wait_for(lambda: not any(map(networks, hosts)), "foo to go everywhere")
        wait_for(lambda: host1.run("ovn-nbctl", "ls-list") == "", "the switch to go")


def subnets_of_foo(host: Host) -> str:
    """Return subnets and gateways of foo on a host; empty while the host does not have the network."""
    config = "--format={{json .IPAM.Config}}"
    return host.run("docker", "network", "inspect", config, "foo", check=False).strip("[]\n")


def test_ipv6_without_a_subnet_is_on_all_hosts(hosts: Hosts) -> None:
    host1, host2, host3 = hosts
    host1.docker(*CREATE, "--ipv6", "-o", "ovn.network=foo", "foo")
    for host in (host2, host3):
        host.run("ovn-docker", "network", "wait", "foo")
    assert host2.docker("network", "inspect", "--format={{.EnableIPv6}}", "foo") == "true"
    host1.docker("run", "-d", "--net=foo", "--name=box", "--stop-signal=KILL", "busybox", "sleep", "600")
    ipv6 = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}"
    target = host1.docker("inspect", f"--format={ipv6}", "box")
    host3.docker("run", "-d", "--net=foo", "--name=box", "--stop-signal=KILL", "busybox", "sleep", "60")
    host3.ping("box", target, "-6")


def test_obstacle_of_one_host_is_shown_on_every_host(hosts: Hosts) -> None:
    host1, host2, host3 = hosts
    host3.docker("network", "create", "--subnet=10.77.0.0/16", "bar")
    reports = ("ovn-nbctl", "--bare", "--columns=external_ids", "list", QUIET_TABLE)
    wait_for(lambda: "10.77.0.0/16" in host1.run(*reports), "host3 to report its subnet")
    host1.docker(*CREATE, "--subnet=10.77.1.0/24", "-o", "ovn.network=foo", "foo")
    host2.run("ovn-docker", "network", "wait", "foo")
    why = "its subnet 10.77.1.0/24 overlaps 10.77.0.0/16 (bar), which this host is connected to"
    for host in hosts:
        wait_for(lambda host=host: f"on host3: {why}" in shown(host, "ls"), f"it in ls on {host.name}")  # type: ignore[misc]
        assert f"on host3: {why}" in shown(host, "inspect", "foo")
        found = shown(host, "doctor")
        assert f"cluster-networks: network foo of the cluster cannot be made on host3: {why}" in found
    assert networks(host3) == []
    logged = host1.path(host1.driver.log).read_text()
    assert "host host3 has the addresses 10.77.0.0/16 (bar) in use" in logged
    host3.docker("network", "rm", "bar")
    host3.run("ovn-docker", "network", "wait", "foo")
    wait_for(lambda: "host3:" not in shown(host1, "ls"), "it to be gone from ls")


def shown(host: Host, *command: str) -> str:
    """Return the output of a command of the tool, whatever its exit status is."""
    return host.run("ovn-docker", *command, check=False)


def test_docker_gwbridge_in_the_subnet_is_found_and_mended(hosts: Hosts) -> None:
    """Docker makes docker_gwbridge for the first container, in a subnet to which the host has no route."""
    host1, host2, _ = hosts
    bridge = ("-o", "com.docker.network.bridge.name=docker_gwbridge", "docker_gwbridge")
    host1.docker(*CREATE, "--subnet=172.30.0.0/16", "-o", "ovn.network=foo", "foo")
    host2.run("ovn-docker", "network", "wait", "foo")
    host2.run("docker", "network", "rm", "docker_gwbridge", check=False)
    host2.docker("network", "create", "--subnet=172.30.0.0/20", *bridge)
    with pytest.raises(CommandError, match="conflicts with existing route"):
        host2.docker("run", "--rm", "--net=foo", "busybox", "true")
    wait_for(lambda: findings(host2, "gateway-bridge"), "the finding")
    why = "no container starts on it: its subnet 172.30.0.0/16 overlaps 172.30.0.0/20 (docker_gwbridge)"
    wait_for(lambda: f"on host2: {why}" in shown(host1, "ls"), "host2 to report it")
    assert why in findings(host1, "cluster-networks")[0]["evidence"]
    for command in findings(host2, "gateway-bridge")[0]["commands"]:
        host2.run(*command)
    host2.docker("run", "--rm", "--net=foo", "busybox", "true")
    wait_for(lambda: "host2:" not in shown(host1, "ls"), "it to be gone from ls")
    assert findings(host2, "gateway-bridge") == []


def findings(host: Host, check: str) -> list[dict[str, Any]]:
    """Return the findings of a check of the doctor."""
    checks = json.loads(shown(host, "doctor", "--json"))
    return next(one["findings"] for one in checks if one["name"] == check)  # type: ignore[no-any-return]


def test_host_that_was_off_gets_the_changes(hosts: Hosts) -> None:
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


def test_shared_network_can_be_created_by_hand_without_sync(hosts: Hosts) -> None:
    host1, host2, _ = hosts
    host2.driver.stop()
    host2.driver.start("--sync=off")
    host1.docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
    wait_for(lambda: networks(hosts[2]) == ["foo"], "foo on host3")
    assert networks(host2) == []
    # Docker chooses another subnet than that of the network: the error gives the options to type.
    with pytest.raises(CommandError, match="it was chosen if you gave none") as refused:
        host2.docker("network", "create", "-d", "openvswitch", "-o", "ovn.network=foo", "other")
    options = refused.value.stderr.rpartition("(")[2].partition(")")[0]
    host2.docker(*CREATE, *options.split(), "-o", "ovn.network=foo", "other")
    host2.docker("run", "--rm", "--net=other", "busybox", "true")
    host2.driver.stop()
    host2.driver.start()


def test_picked_subnet_is_free_on_every_host(hosts: Hosts) -> None:
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
