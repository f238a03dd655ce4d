"""OVN's central databases are down or silent: containers keep running, and requests fail with the reason."""

import time

import pytest

from e2e.cluster import Cluster, cut_off, driver_with, frozen, stopped
from e2e.lab import CommandError, wait_for

CREATE_BAR = ("network", "create", "-d", "openvswitch", "--subnet=192.168.2.0/24", "bar")
UNREACHABLE = r"cannot reach OVN_Northbound at tcp:172\.31\.0\.1:6641.*ovn-docker central start"


def test_the_driver_starts_without_the_northbound_database(cluster: Cluster) -> None:
    host = cluster.host2
    with (
        stopped(cluster.central.northbound),
        driver_with(host),
        pytest.raises(CommandError, match=UNREACHABLE),
    ):
        host.docker(*CREATE_BAR)
    host.docker(*CREATE_BAR)
    host.docker("network", "rm", "bar")
    cluster.serves()


def test_error_without_a_northbound_address_gives_the_command(cluster: Cluster) -> None:
    host = cluster.host2
    address = host.run("ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids:ovn-nb")
    host.run("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "ovn-nb")
    advice = r'ovs-vsctl set Open_vSwitch \. external_ids:ovn-nb="tcp:172\.31\.0\.1:6641"'
    with pytest.raises(CommandError, match=advice):
        host.docker(*CREATE_BAR)
    with pytest.raises(CommandError, match=advice):
        cluster.run(host, "c2", "192.168.1.20")
    host.run("ovs-vsctl", "set", "Open_vSwitch", ".", f"external_ids:ovn-nb={address}")
    cluster.serves()


def test_host_works_again_after_the_northbound_database_was_stopped(cluster: Cluster) -> None:
    central, host2 = cluster.hosts
    cluster.run(central, "c1", "192.168.1.10")
    cluster.run(host2, "c2", "192.168.1.20")
    cluster.run(host2, "goes", "192.168.1.30")
    with stopped(central.northbound):
        with pytest.raises(CommandError, match=UNREACHABLE):
            cluster.run(host2, "late", "192.168.1.40")
        cluster.ping(central, "c1", "192.168.1.20")
        host2.docker("rm", "--force", "goes", "late")
    cluster.settles()
    cluster.run(host2, "goes", "192.168.1.30")
    cluster.run(host2, "late", "192.168.1.40")
    cluster.ping(host2, "late", "192.168.1.10")


def test_host_works_again_after_the_southbound_database_was_stopped(cluster: Cluster) -> None:
    central, host = cluster.hosts
    cluster.run(central, "c1", "192.168.1.10")
    cluster.run(host, "c2", "192.168.1.20")
    with stopped(central.southbound):
        wait_for(lambda: not host.controller.ready(), "ovn-controller to notice")
        time.sleep(1)  # the driver keeps ovn-controller's last answer for a second
        with pytest.raises(CommandError, match="ovn-controller is not connected to the OVN southbound"):
            cluster.run(host, "late", "192.168.1.40")
        cluster.in_order()
        cluster.ping(central, "c1", "192.168.1.20")
    central.await_flows()  # ovn-northd and ovn-controller may wait 8 s between two attempts to connect
    host.docker("start", "late")
    cluster.ping(host, "late", "192.168.1.10")


def test_host_works_again_after_it_was_cut_off_from_the_central_machine(cluster: Cluster) -> None:
    central, host2 = cluster.hosts
    cluster.run(central, "c1", "192.168.1.10")
    cluster.run(host2, "c2", "192.168.1.20")
    cluster.run(host2, "goes", "192.168.1.30")
    with cut_off(host2):
        with pytest.raises(CommandError, match=r"did not answer within 5 s|cannot reach|not connected"):
            cluster.run(host2, "late", "192.168.1.40")
        host2.docker("rm", "--force", "goes", "late")
        cluster.ping(central, "c1", "192.168.1.20")
        cluster.run(central, "other", "192.168.1.50")
    central.await_flows()  # ovn-controller may wait 8 s between two attempts to connect
    cluster.settles()
    cluster.run(host2, "late", "192.168.1.40")
    cluster.ping(host2, "late", "192.168.1.50")


def test_requests_end_if_the_northbound_database_never_replies(cluster: Cluster) -> None:
    host = cluster.host2
    with (
        frozen(cluster.central.northbound),
        pytest.raises(CommandError, match=r"OVN_Northbound at tcp:\S* did not answer within 5 s"),
    ):
        cluster.run(host, "late", "192.168.1.40")
    host.docker("rm", "late")
    cluster.settles()
    cluster.run(host, "late", "192.168.1.40")
    cluster.serves()
