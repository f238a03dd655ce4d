"""A part of a host is missing: the error names it with the cure. A whole host dies and recovers."""

import pytest

from e2e.cluster import SHORT_LIMITS, Cluster, driver_with, frozen, stopped
from e2e.lab import CommandError, wait_for


def test_container_is_refused_without_ovs_vswitchd(cluster: Cluster) -> None:
    host = cluster.host2
    with stopped(host.vswitchd):
        with pytest.raises(CommandError, match=r"ovs-vswitchd did not take up .* ovn-docker host start"):
            cluster.run(host, "c2", "192.168.1.20")
        cluster.in_order()
    host.docker("start", "c2")
    cluster.in_order()
    cluster.serves()


def test_container_is_refused_without_the_local_database(cluster: Cluster) -> None:
    host = cluster.host2
    with (
        stopped(host.ovsdb),
        pytest.raises(CommandError, match=r"cannot reach Open_vSwitch at unix:.* ovn-docker host start"),
    ):
        cluster.run(host, "c2", "192.168.1.20")
    cluster.in_order()
    # ovs-vswitchd may wait 8 s between two attempts to connect, which is longer than this driver waits.
    host.run("ovs-vsctl", "--timeout=20", "set", "Open_vSwitch", ".", "external_ids:taken-up=yes")
    host.docker("start", "c2")
    cluster.serves()


def test_container_is_refused_without_ovn_controller(cluster: Cluster) -> None:
    central, host = cluster.hosts
    cluster.run(host, "before", "192.168.1.20")
    with stopped(host.controller):
        with pytest.raises(CommandError, match=r"ovn-controller is not running .* ovn-docker host start"):
            cluster.run(host, "c2", "192.168.1.30")
        cluster.in_order()
    host.docker("start", "c2")
    cluster.ping(host, "c2", "192.168.1.20")
    cluster.run(central, "c1", "192.168.1.10")
    cluster.ping(central, "c1", "192.168.1.20")


def test_late_flows_are_logged(cluster: Cluster) -> None:
    central, host = cluster.hosts
    cluster.run(central, "c1", "192.168.1.10")
    with driver_with(host, "--flows-timeout=1"):
        with frozen(host.controller):
            cluster.run(host, "c2", "192.168.1.20")
            log = host.tail(host.driver.log)
            assert "ovn-controller has not installed its flows; the container starts all the same" in log
            cluster.in_order()
        cluster.ping(host, "c2", "192.168.1.10")


def test_late_flows_fail_with_the_option(cluster: Cluster) -> None:
    host = cluster.host2
    with driver_with(
        host, "--flows-timeout=5", "--late-flows=fail"
    ):  # also the limit of calls when ovn-controller is back
        with frozen(host.controller):
            with pytest.raises(CommandError, match="ovn-controller has not installed its flows"):
                cluster.run(host, "c2", "192.168.1.20")
            cluster.in_order()
        cluster.central.await_flows()  # ovn-controller has found its connections closed
        host.docker("start", "c2")
    cluster.in_order()


def test_host_works_after_its_database_was_cleared_and_set_up_again(cluster: Cluster) -> None:
    """The guide: "you may need to run it again if your OVS database gets cleared"."""
    central, host = cluster.hosts
    cluster.run(central, "c1", "192.168.1.10")
    cluster.run(host, "c2", "192.168.1.20")
    for service in (host.controller, host.vswitchd, host.ovsdb):
        service.stop()
    host.run("rm", "/etc/openvswitch/conf.db")
    host.start_switch()
    host.join(central.address)
    host.docker("restart", "c2")
    cluster.ping(central, "c1", "192.168.1.20")
    cluster.settles()


@pytest.mark.parametrize("first", ["Open vSwitch", "Docker"])
def test_host_recovers_from_a_power_cut(cluster: Cluster, first: str) -> None:
    central, host = cluster.hosts
    cluster.run(central, "c1", "192.168.1.10")
    cluster.run(host, "always", "192.168.1.20", "--restart=always")
    cluster.run(host, "never", "192.168.1.30")
    host.power_off()
    host.power_on()
    if first == "Docker":
        host.driver.start(*SHORT_LIMITS)
        host.containerd.start()
        host.dockerd.start(wait=False)
        host.start_switch()
        host.controller.start()
        wait_for(host.dockerd.ready, "Docker")
    else:
        host.start_switch()
        host.controller.start()
        host.driver.start(*SHORT_LIMITS)
        host.start_docker()
    wait_for(lambda: cluster.endpoints(host), "restart=always")
    cluster.ping(central, "c1", "192.168.1.20")
    cluster.settles()
    host.docker("start", "never")
    cluster.ping(central, "c1", "192.168.1.30")
