"""Parts of a host restart while its containers talk: which of them cost packets, and that all come back."""

from collections.abc import Callable

import pytest

from e2e.cluster import PATIENCE, Cluster, driver_behind_its_socket, lost_packets
from e2e.lab import Host, wait_for
from e2e.lab.host import OVN_CTL
from e2e.lab.services import Service

pytestmark = pytest.mark.faults

SECONDS, INTERVAL = 8, 0.05
"""How long a container sends, and how often."""


def restart_driver(host: Host) -> None:
    host.driver.stop()
    host.driver.start(*PATIENCE)


def kill_driver(host: Host) -> None:
    host.driver.kill()
    host.driver.start(*PATIENCE)


def restart_docker(host: Host) -> None:
    host.dockerd.stop()
    host.dockerd.start("--live-restore")


def kill_docker(host: Host) -> None:
    host.dockerd.kill()
    host.dockerd.start("--live-restore")


def restart_controller(host: Host) -> None:
    """As packages do it at an upgrade: the chassis stays in the southbound database."""
    host.run(OVN_CTL, "restart_controller")
    wait_for(host.controller.ready, "ovn-controller to connect")


def kill_controller(host: Host) -> None:
    host.controller.kill()
    host.controller.start()


def restart_database(host: Host) -> None:
    host.ovsdb.stop()
    host.ovsdb.start()


def lost(cluster: Cluster, happens: Callable[[], object]) -> int:
    """Packets that got no answer of those that the witness sends to the container while something happens."""
    return lost_packets(cluster.central, "witness", "192.168.1.20", happens, SECONDS, INTERVAL)


@pytest.fixture
def talking(cluster: Cluster) -> Cluster:
    """With a container on each host, that have found each other; Docker here lets containers live."""
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
def test_no_packet_is_lost(talking: Cluster, restart: Callable[[Host], None]) -> None:
    before = talking.found()
    # A machine that is busy may lose one by itself, but not each time.
    assert any(not lost(talking, lambda: restart(talking.host2)) for _ in range(3))
    assert talking.found() == before
    talking.serves()


def test_few_packets_are_lost_with_the_configuration_database(talking: Cluster) -> None:
    """ovs-vswitchd goes through all of its configuration when the database is back."""
    before = talking.found()
    assert lost(talking, lambda: restart_database(talking.host2)) < SECONDS / INTERVAL / 10
    assert talking.found() == before
    talking.serves()


@pytest.mark.parametrize("end", [Service.stop, Service.kill])
def test_traffic_comes_back_after_open_vswitch_restarts(
    talking: Cluster, end: Callable[[Service], None]
) -> None:
    """In user space the switch is the process: packets are lost while it is away, and no longer."""
    host = talking.host2

    def restart() -> None:
        for service in (host.vswitchd, host.ovsdb):
            end(service)
        host.start_switch()

    before = talking.found()
    assert lost(talking, restart) > 0
    talking.ping(talking.central, "witness", "192.168.1.20")
    assert any(not lost(talking, lambda: None) for _ in range(3))
    assert talking.found() == before
    talking.serves()


def test_docker_restarts_without_live_restore(cluster: Cluster) -> None:
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


def test_a_host_boots_with_the_driver_last(cluster: Cluster) -> None:
    """systemd has the driver's socket before Docker starts, and starts the driver when Docker asks."""
    central, host = cluster.hosts
    cluster.run(central, "witness", "192.168.1.10")
    cluster.run(host, "always", "192.168.1.20", "--restart=always")
    host.power_off()
    host.power_on()
    with driver_behind_its_socket(host, *PATIENCE):
        host.run("touch", "/run/driver-may-start")
        host.containerd.start()
        host.dockerd.start(wait=False)
        host.start_switch()
        host.controller.start()
        host.dockerd.await_ready()
        wait_for(lambda: cluster.endpoints(host), "restart=always")
        cluster.ping(central, "witness", "192.168.1.20")
        cluster.settles()


def test_docker_starts_without_the_driver(cluster: Cluster) -> None:
    """Docker forgets its endpoints, and nobody hears that it gives their addresses back."""
    host = cluster.host2
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch")
    host.docker(*create, "--subnet=10.9.0.0/24", "ours")
    start = ("run", "-d", "--net=ours", "--stop-signal=KILL")
    host.docker(*start, "--name=named", "--ip=10.9.0.77", "busybox", "sleep", "3600")
    host.docker(*start, "--name=other", "busybox", "sleep", "3600")
    host.driver.kill()
    host.dockerd.kill()
    host.dockerd.start()
    host.driver.start(*PATIENCE)
    host.docker("start", "named", "other")
    host.ping("other", "10.9.0.77")
    host.docker("rm", "--force", "named", "other")
    host.docker("network", "rm", "ours")
    cluster.settles()
