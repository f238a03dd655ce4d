"""The driver dies or stops while Docker is talking to it: no container pays for it later."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.cluster import PATIENCE, Cluster
from e2e.lab import CommandError, Host, wait_for
from e2e.lab.services import Service

CRASH_DRIVER = str(Path(__file__).with_name("crash_driver.py"))


def live_and_die(cluster: Cluster, host: Host) -> None:
    """The whole life of a container on `foo`, whatever comes of it."""
    with suppress(CommandError):
        cluster.run(host, "first", "192.168.1.20")
    host.docker("rm", "--force", "first")


def test_killed_between_any_two_steps_of_a_containers_life(cluster: Cluster) -> None:
    host = cluster.host2
    driver = Service(host, sys.executable, CRASH_DRIVER, listens=host.driver.listens)
    host.driver.stop()
    driver.start("0", *PATIENCE)
    live_and_die(cluster, host)
    driver.stop()
    steps = [line for line in host.tail(driver.log, lines=1000).splitlines() if line.startswith("step ")]
    assert len(steps) > 10

    for step in steps:
        print(step)  # of a failed test pytest shows them: the last one is the culprit
        driver.start(step.split()[1], *PATIENCE)
        with ThreadPoolExecutor() as pool:
            life = pool.submit(live_and_die, cluster, host)
            wait_for(lambda: not driver.pid, "the driver to die")
            host.driver.start(*PATIENCE)
            life.result()
        cluster.run(host, "second", "192.168.1.20")
        cluster.settles()
        host.docker("rm", "--force", "second")
        host.driver.stop()
    host.driver.start(*PATIENCE)


@pytest.mark.parametrize(("end", "number"), [(Service.kill, 16), (Service.stop, 8)])
def test_ends_while_many_containers_start(
    cluster: Cluster, end: Callable[[Service], None], number: int
) -> None:
    host = cluster.host2
    addresses = {f"c{i}": f"192.168.1.{20 + i}" for i in range(number)}
    with ThreadPoolExecutor(number) as pool:
        starts = {name: pool.submit(cluster.run, host, name, addresses[name]) for name in addresses}
        wait_for(lambda: len(cluster.ports(host)) > number // 4, "some containers to start")
        end(host.driver)
        host.driver.start(*PATIENCE)
    for name, start in starts.items():
        if error := start.exception():
            assert isinstance(error, CommandError)
            host.docker("rm", name)
            cluster.run(host, name, addresses[name])
    cluster.settles()
    cluster.run(cluster.central, "witness", "192.168.1.10")
    for address in addresses.values():
        cluster.ping(cluster.central, "witness", address)
