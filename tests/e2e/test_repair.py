"""Rows that containers need are made again after a deletion by hand, a restore, or `host forget`."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from e2e.cluster import cut_off, driver_with
from e2e.lab import Host, wait_for
from e2e.test_cluster import CREATE, address, networks, users

Hosts = tuple[Host, Host, Host]


@pytest.fixture
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """Three hosts with a container `box` each on the network `foo`, which are removed afterwards."""
    with ExitStack() as drivers:
        for host in three_hosts:
            drivers.enter_context(driver_with(host))
        three_hosts[0].docker(*CREATE, "--subnet=10.1.0.0/16", "-o", "ovn.network=foo", "foo")
        for host in three_hosts:
            wait_for(lambda host=host: networks(host) == ["foo"], "the network")  # type: ignore[misc]
            run(host, "box")
        yield three_hosts
    for host in three_hosts:
        host.docker("rm", "--force", *host.docker("ps", "--all", "--quiet").split())
    wait_for(lambda: not any(users(three_hosts[0]).values()), "no use of foo")
    three_hosts[0].docker("network", "rm", "foo")
    wait_for(lambda: not any(map(networks, three_hosts)), "the networks to go everywhere")
    wait_for(lambda: three_hosts[0].run("ovn-nbctl", "ls-list") == "", "the switches to go")


def run(host: Host, name: str, *options: str) -> None:
    host.docker(
        "run", "-d", "--net=foo", f"--name={name}", "--stop-signal=KILL", *options, "busybox", "sleep", "900"
    )


def gc(host: Host) -> list[str]:
    """Return the lines of `ovn-docker gc`."""
    return host.run("ovn-docker", "gc", check=False).splitlines()


def in_order(host: Host) -> bool:
    """Return whether `ovn-docker gc` finds nothing."""
    return gc(host) == ["nothing is left over, and nothing is missing"]


def all_reach_all(hosts: Hosts) -> None:
    """Wait until each host's container gets echo replies from the others.

    The driver does not repair endpoints younger than 15 s, since a call of Docker may be making them.
    """
    addresses = [address(host, "box") for host in hosts]

    def reaches(host: Host, other: str) -> bool:
        ping = ("docker", "exec", "box", "ping", "-c", "1", "-W", "1", other)
        return ", 0% packet loss" in host.run(*ping, check=False)

    for host in hosts:
        for other in addresses:
            wait_for(lambda host=host, other=other: reaches(host, other), f"{host.name} to reach {other}")  # type: ignore[misc]


def starts(hosts: Hosts) -> list[str]:
    """Return the start time of each container."""
    return [host.docker("inspect", "--format={{.State.StartedAt}}", "box") for host in hosts]


DELETIONS = {
    "switch": 'ovn-nbctl ls-del foo',
    "ports, resolver, options and names": (
        "for port in $(ovn-nbctl --bare --columns=name list Logical_Switch_Port); "
        "do ovn-nbctl lsp-del $port; done; "
        "ovn-nbctl --all destroy Logical_Router -- --all destroy DHCP_Options -- --all destroy DNS"
    ),
    "everything": "ovn-nbctl --all destroy Logical_Switch -- --all destroy Logical_Router -- "
    "--all destroy DHCP_Options -- --all destroy DNS",
    "backup": (
        "ovsdb-client backup unix:/var/run/ovn/ovnnb_db.sock OVN_Northbound >/root/northbound && "
        "ovsdb-client restore unix:/var/run/ovn/ovnnb_db.sock OVN_Northbound </root/northbound"
    ),
}  # fmt: skip


def test_rows_deleted_by_hand_are_made_again_without_a_restart(hosts: Hosts) -> None:
    host1, *_ = hosts
    before = starts(hosts)
    for what, command in DELETIONS.items():
        host1.run("sh", "-ec", command)
        for host in hosts:
            wait_for(lambda host=host: in_order(host), f"{what} to be there again for {host.name}")  # type: ignore[misc]
        all_reach_all(hosts)
    assert starts(hosts) == before
    run(host1, "new")
    host1.ping("new", address(hosts[2], "box"))


def test_forgotten_host_that_comes_back_is_repaired(hosts: Hosts) -> None:
    host1, _, host3 = hosts
    run(host3, "second")
    before, taken = starts(hosts), address(host3, "second")
    with cut_off(host3):
        host1.run("ovn-docker", "host", "forget", "host3", "--yes", "--force")
        run(host1, "successor", f"--ip={taken}")
    wait_for(lambda: any("docker restart second" in line for line in gc(host3)), "the command that mends it")
    wait_for(lambda: len(gc(host3)) == 2, "all else to be there again")
    all_reach_all(hosts)
    assert starts(hosts) == before

    def cures() -> list[list[str]]:
        checks = json.loads(host3.run("ovn-docker", "doctor", "--json", check=False, timeout=60))
        return [line for check in checks for finding in check["findings"] for line in finding["commands"]]

    wait_for(lambda: cures() == [["docker", "restart", "second"]], "the doctor to name this cure alone")
    host3.docker("restart", "--time=1", "second")
    wait_for(lambda: in_order(host3), "the names of the container")
    assert address(host3, "second") != taken == address(host1, "successor")
    host3.ping("second", taken)
