"""Leftovers of removed networks and lost hosts: the driver and `ovn-docker gc` delete them."""

import json
from typing import Any

import pytest

from e2e.cluster import SHORT_LIMITS, Cluster, driver_with, stopped
from e2e.lab import CommandError, Fabric, Host, wait_for
from ovn_docker.backends.ovn.rows import QUIET_TABLE

CREATE = ("network", "create", "-d", "openvswitch", "--subnet=192.168.2.0/24")
STRAY = ("ip", "link", "add", "odhstray", "type", "veth", "peer", "odcstray")


def gc(host: Host, *options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Run `ovn-docker gc`; return the exit code, and the leftovers found and deleted."""
    command = 'ovn-docker gc --json "$@"; printf "\\n%s" $?'
    said, code = host.run("sh", "-c", command, "sh", *options).rsplit("\n", 1)
    return int(code), json.loads(said)


def kinds(found: list[dict[str, Any]]) -> list[str]:
    return [one["kind"] for one in found]


def age(cluster: Cluster, network: str) -> None:
    """Make the rows of a network an hour older."""
    row = ("Logical_Switch", network)
    cluster.central.run("ovn-nbctl", "remove", *row, "external_ids", "ovn-docker\\:uptime")
    cluster.central.run("ovn-nbctl", "set", *row, "external_ids:ovn-docker\\:created=1")


def test_network_removed_while_the_driver_was_down_is_swept(cluster: Cluster) -> None:
    host = cluster.host2
    network = host.docker(*CREATE, "bar")
    age(cluster, network)
    host.driver.stop()
    host.docker("network", "rm", "bar")
    assert f"switch {network}" in cluster.found()
    host.driver.start(*SHORT_LIMITS)
    cluster.settles()


def test_network_removed_while_the_database_was_down_is_swept_after_a_restart(
    cluster: Cluster,
) -> None:
    host = cluster.host2
    network = host.docker(*CREATE, "bar")
    age(cluster, network)
    with stopped(cluster.central.northbound):
        host.docker("network", "rm", "bar")
        host.driver.kill()
    host.driver.start(*SHORT_LIMITS)
    cluster.settles()


def test_gc_shows_and_repairs_with_and_without_a_driver(cluster: Cluster) -> None:
    host = cluster.host2
    assert gc(host)[0] == 0
    with driver_with(host, "--repair=report"):
        network = host.docker(*CREATE, "bar")
        age(cluster, network)
        host.driver.stop()
        host.docker("network", "rm", "bar")
        code, said = gc(host)
        assert (code, kinds(said["found"])) == (1, ["network"])
        assert said["found"][0]["what"] == network

        host.driver.start(*SHORT_LIMITS, "--repair=report")
        host.run(*STRAY)
        code, said = gc(host)
        assert (code, kinds(said["found"])) == (1, ["link", "network"])
        wait_for(lambda: "ovn-docker gc --repair" in host.tail(host.driver.log), "the report")
        assert "odhstray" in host.run("ip", "link")

        code, said = gc(host, "--repair", "--dry-run")
        assert (code, kinds(said["found"]), said["cleared"]) == (1, ["link", "network"], [])
        assert "odhstray" in host.run("ip", "link")
        code, said = gc(host, "--repair")
        assert (code, kinds(said["cleared"]), said["found"]) == (0, ["link", "network"], [])
        assert host.run("ovn-docker", "gc") == "nothing is left over, and nothing is missing"
        host.driver.stop()  # driver_with starts it again
        host.driver.start(*SHORT_LIMITS)
    cluster.in_order()


def test_gc_fails_while_docker_is_down(cluster: Cluster) -> None:
    host = cluster.host2
    network = host.docker(*CREATE, "bar")
    age(cluster, network)
    host.driver.stop()
    host.docker("network", "rm", "bar")
    with stopped(host.dockerd):
        host.driver.start(*SHORT_LIMITS)
        with pytest.raises(CommandError, match=r"the driver says: Docker does not answer") as failed:
            host.run("ovn-docker", "gc", "--repair")
        assert failed.value.status == 3
        assert f"switch {network}" in cluster.found()
    cluster.settles()


def test_gc_removes_the_rows_of_a_lost_host(fabric: Fabric) -> None:
    cluster = Cluster(*fabric.cluster("host1", "host2"))
    central, host = cluster.hosts
    network = host.docker(*CREATE, "lost")
    cluster.run(host, "c2", "192.168.1.20")
    host.docker("run", "-d", "--net=lost", "--name=c3", "busybox", "sleep", "3600")
    refused = r"host2 is alive: its ovn-controller answers"
    with pytest.raises(CommandError, match=refused):
        central.run("ovn-docker", "gc", "--host", "host2", "--yes")
    report = ("ovn-nbctl", "--bare", "--columns=external_ids", "find", QUIET_TABLE)
    by_host2 = r"external_ids:ovn-docker\:host=host2"
    wait_for(lambda: "ovn-docker:occupied" in central.run(*report, by_host2), "the report of host2")
    host.power_off()
    assert "host2 is not up" not in central.run("ovn-docker", "gc")  # OVN still lists it
    central.run("ovn-sbctl", "chassis-del", "host2")
    gone = "host2 does not run, as OVN has it; if it is gone for good: ovn-docker gc --host host2"
    wait_for(lambda: gone in central.run("ovn-docker", "gc"), "ovn-northd to say so")
    said = central.run("ovn-docker", "gc", "--host", "host2", "--yes")
    assert "removed 2 ports, 4 claims, 1 note, 1 report, 1 network" in said
    assert network not in central.run("ovn-nbctl", "ls-list")
    assert "192.168.1.20" not in central.run("ovn-nbctl", "list", "DHCP_Options")
