"""An address that is used again with another MAC is reached at once by neighbours that know the old MAC."""

import pytest

from e2e.cluster import unanswered
from e2e.lab import Host, wait_for

Hosts = tuple[Host, Host, Host]
ADDRESSES = ("10.1.0.77", "fd01::77")


@pytest.mark.parametrize("ipam", ["default", "openvswitch"])
def test_neighbours_learn_the_new_mac_of_an_address(three_hosts: Hosts, ipam: str) -> None:
    host1, host2, _ = three_hosts
    subnets = ("--subnet=10.1.0.0/24", "--ipv6", "--subnet=fd01::/64")
    create = ("network", "create", "-d", "openvswitch", f"--ipam-driver={ipam}", *subnets)
    host1.docker(*create, "-o", "ovn.network=foo", "foo")
    host2.run("ovn-docker", "network", "wait", "foo")

    def server(mac: str) -> None:
        addresses = (f"--ip={ADDRESSES[0]}", f"--ip6={ADDRESSES[1]}", f"--mac-address={mac}")
        command = ("--stop-signal=KILL", "busybox", "sleep", "600")
        host1.docker("run", "-d", "--net=foo", "--name=server", *addresses, *command)

    def peer(host: Host, address: str) -> None:
        command = ("--stop-signal=KILL", "busybox", "sleep", "600")
        addresses = (f"--ip={address}", f"--ip6=fd01::{address[-2:]}")
        host.docker("run", "-d", "--net=foo", *addresses, "--name=peer", *command)

    peer(host1, "10.1.0.11")
    peer(host2, "10.1.0.12")
    server("02:00:00:00:00:01")
    for host in (host1, host2):
        wait_for(lambda host=host: not unanswered(host, "peer", *ADDRESSES), "answers")  # type: ignore[misc]
    host1.docker("rm", "--force", "server")
    server("02:00:00:00:00:02")
    host1.await_flows()  # the other host learns of the port a moment later
    for host in (host1, host2):
        assert unanswered(host, "peer", *ADDRESSES, tunnel=True) == [], host.name
    for host, container in ((host1, "server"), (host1, "peer"), (host2, "peer")):
        host.docker("rm", "--force", container)
    users = ("ovn-docker", "network", "rm", "foo", "--dry-run", "--json", "--force")
    wait_for(lambda: "true" not in host1.run(*users), "no use of foo")
    host1.docker("network", "rm", "foo")
    wait_for(lambda: host1.run("ovn-nbctl", "ls-list") == "", "foo to go")
