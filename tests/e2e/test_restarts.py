"""Parts of a host restart while its containers send: most restarts lose no packet, and traffic resumes."""

from collections.abc import Callable

import pytest

from e2e.cluster import SHORT_LIMITS, Cluster, driver_behind_its_socket, lost_packets
from e2e.lab import Host, wait_for
from e2e.lab.host import OVN_CTL
from e2e.lab.services import Service

pytestmark = pytest.mark.faults

SECONDS, INTERVAL = 8, 0.05
"""Seconds for which a container sends, and the interval between packets."""


def restart_driver(host: Host) -> None:
    host.driver.stop()
    host.driver.start(*SHORT_LIMITS)


def kill_driver(host: Host) -> None:
    host.driver.kill()
    host.driver.start(*SHORT_LIMITS)


def restart_docker(host: Host) -> None:
    host.dockerd.stop()
    host.dockerd.start("--live-restore")


def kill_docker(host: Host) -> None:
    host.dockerd.kill()
    host.dockerd.start("--live-restore")


def restart_controller(host: Host) -> None:
    """Restart ovn-controller as packages do at an upgrade: the chassis stays in the southbound database."""
    host.run(OVN_CTL, "restart_controller")
    wait_for(host.controller.ready, "ovn-controller to connect")


def kill_controller(host: Host) -> None:
    host.controller.kill()
    host.controller.start()


def restart_database(host: Host) -> None:
    host.ovsdb.stop()
    host.ovsdb.start()


def lost(cluster: Cluster, event: Callable[[], object]) -> int:
    """Return the number of the witness's packets that get no answer while *happens* runs."""
    return lost_packets(cluster.central, "witness", "192.168.1.20", event, SECONDS, INTERVAL)


@pytest.fixture
def connected_cluster(cluster: Cluster) -> Cluster:
    """A cluster with a container on each host that reach each other; Docker has live-restore."""
    central, host = cluster.hosts
    host.dockerd.stop()
    host.dockerd.start("--live-restore")
    cluster.run(central, "witness", "192.168.1.10")
    cluster.run(host, "lives", "192.168.1.20")
    cluster.ping(central, "witness", "192.168.1.20")
    return cluster


@pytest.mark.parametrize(
    "restart", [restart_driver, kill_driver, restart_docker, kill_docker, restart_controller, kill_controller]
)
def test_restart_loses_no_packet(connected_cluster: Cluster, restart: Callable[[Host], None]) -> None:
    before = connected_cluster.found()
    # A busy machine may lose a packet by itself, but not each time.
    assert any(not lost(connected_cluster, lambda: restart(connected_cluster.host2)) for _ in range(3))
    assert connected_cluster.found() == before
    connected_cluster.serves()


def test_ovsdb_server_restart_loses_few_packets(connected_cluster: Cluster) -> None:
    """ovs-vswitchd reads its whole configuration again when the database is back."""
    before = connected_cluster.found()
    few = SECONDS / INTERVAL / 10

    def restart() -> None:
        restart_database(connected_cluster.host2)

    # A busy machine may lose packets by itself, but not each time.
    assert any(lost(connected_cluster, restart) < few for _ in range(3))
    assert connected_cluster.found() == before
    connected_cluster.serves()


def set_permanent_neighbours(cluster: Cluster) -> None:
    """Let the two containers know each other's MAC addresses for ever: ARP requests need ovs-vswitchd."""
    named = [(cluster.central, "witness"), (cluster.host2, "lives")]
    endpoints = [cluster.endpoints(host)[0] for host, _ in named]
    for (host, name), other in zip(named, reversed(endpoints), strict=True):
        host.docker("exec", "--privileged", name, "arp", "-s", other["IPAddress"], other["MacAddress"])


@pytest.mark.parametrize("end", [Service.stop, Service.kill])
def test_traffic_comes_back_after_open_vswitch_restarts(
    connected_cluster: Cluster, end: Callable[[Service], None]
) -> None:
    """In user space ovs-vswitchd forwards packets itself; in the kernel flows in use go on without it."""
    host = connected_cluster.host2

    def stop() -> None:
        for service in (host.vswitchd, host.ovsdb):
            end(service)

    def restart() -> None:
        stop()
        host.start_switch()

    before = connected_cluster.found()
    if host.fabric.userspace:
        assert lost(connected_cluster, restart) > 0
    else:
        set_permanent_neighbours(connected_cluster)
        assert any(not lost(connected_cluster, stop) for _ in range(3))
        host.start_switch()
    connected_cluster.ping(connected_cluster.central, "witness", "192.168.1.20")
    assert any(not lost(connected_cluster, lambda: None) for _ in range(3))
    assert connected_cluster.found() == before
    connected_cluster.serves()


def test_containers_start_again_when_docker_restarts_without_live_restore(cluster: Cluster) -> None:
    central, host = cluster.hosts
    cluster.run(central, "witness", "192.168.1.10")
    cluster.run(host, "always", "192.168.1.20", "--restart=always")
    cluster.run(host, "never", "192.168.1.30")
    host.dockerd.stop()
    host.dockerd.start()
    wait_for(lambda: cluster.endpoints(host), "restart=always")
    cluster.ping(central, "witness", "192.168.1.20")
    cluster.settles()
    host.docker("start", "never")
    cluster.ping(central, "witness", "192.168.1.30")


def test_containers_start_at_a_boot_that_starts_the_driver_last(cluster: Cluster) -> None:
    """systemd makes the driver's socket before Docker starts, and starts the driver when Docker connects."""
    central, host = cluster.hosts
    cluster.run(central, "witness", "192.168.1.10")
    cluster.run(host, "always", "192.168.1.20", "--restart=always")
    host.power_off()
    host.power_on()
    with driver_behind_its_socket(host, *SHORT_LIMITS):
        host.run("touch", "/run/driver-may-start")
        host.containerd.start()
        host.dockerd.start(wait=False)
        host.start_switch()
        host.controller.start()
        host.dockerd.await_ready()
        wait_for(lambda: cluster.endpoints(host), "restart=always")
        cluster.ping(central, "witness", "192.168.1.20")
        cluster.settles()


def test_containers_get_their_addresses_after_docker_started_without_the_driver(cluster: Cluster) -> None:
    """Docker forgets its endpoints, and releases their addresses while the driver is down."""
    host = cluster.host2
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch")
    host.docker(*create, "--subnet=10.9.0.0/24", "ours")
    start = ("run", "-d", "--net=ours", "--stop-signal=KILL")
    host.docker(*start, "--name=named", "--ip=10.9.0.77", "busybox", "sleep", "3600")
    host.docker(*start, "--name=other", "busybox", "sleep", "3600")
    host.driver.kill()
    host.dockerd.kill()
    host.dockerd.start()
    host.driver.start(*SHORT_LIMITS)
    host.docker("start", "named", "other")
    host.ping("other", "10.9.0.77")
    host.docker("rm", "--force", "named", "other")
    host.docker("network", "rm", "ours")
    cluster.settles()
