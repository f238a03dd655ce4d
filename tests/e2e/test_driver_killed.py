"""The driver is killed or stopped during Docker's calls: no leftovers remain, and containers start again."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.cluster import SHORT_LIMITS, Cluster
from e2e.lab import CommandError, Host, wait_for
from e2e.lab.services import Service

CRASH_DRIVER = str(Path(__file__).with_name("crash_driver.py"))


def live_and_die(cluster: Cluster, host: Host) -> None:
    """Create and remove a container on `foo`; commands may fail."""
    with suppress(CommandError):
        cluster.run(host, "first", "192.168.1.20")
    host.docker("rm", "--force", "first")


def test_driver_killed_between_any_two_steps_leaves_no_leftovers(cluster: Cluster) -> None:
    host = cluster.host2
    driver = Service(host, sys.executable, CRASH_DRIVER, listens=host.driver.listens)
    host.driver.stop()
    driver.start("0", *SHORT_LIMITS)
    live_and_die(cluster, host)
    driver.stop()
    steps = [line for line in host.tail(driver.log, lines=1000).splitlines() if line.startswith("step ")]
    assert len(steps) > 10

    for step in steps:
        print(step)  # shown by pytest for a failed test: the last step is the one that failed
        driver.start(step.split()[1], *SHORT_LIMITS)
        with ThreadPoolExecutor() as pool:
            life = pool.submit(live_and_die, cluster, host)
            wait_for(lambda: not driver.pid, "the driver to die")
            host.driver.start(*SHORT_LIMITS)
            life.result()
        cluster.run(host, "second", "192.168.1.20")
        cluster.settles()
        host.docker("rm", "--force", "second")
        host.driver.stop()
    host.driver.start(*SHORT_LIMITS)


@pytest.mark.parametrize(("end", "number"), [(Service.kill, 16), (Service.stop, 8)])
def test_driver_stops_while_many_containers_start(
    cluster: Cluster, end: Callable[[Service], None], number: int
) -> None:
    host = cluster.host2
    addresses = {f"c{i}": f"192.168.1.{20 + i}" for i in range(number)}
    with ThreadPoolExecutor(number) as pool:
        starts = {name: pool.submit(cluster.run, host, name, addresses[name]) for name in addresses}
        wait_for(lambda: len(cluster.ports(host)) > number // 4, "some containers to start")
        end(host.driver)
        host.driver.start(*SHORT_LIMITS)
    for name, start in starts.items():
        if error := start.exception():
            assert isinstance(error, CommandError)
            host.docker("rm", "--force", name)
            cluster.run(host, name, addresses[name])
    cluster.settles()
    cluster.run(cluster.central, "witness", "192.168.1.10")
    for address in addresses.values():
        cluster.ping(cluster.central, "witness", address)
