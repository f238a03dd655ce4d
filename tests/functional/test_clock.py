"""Real drivers whose wall clock is set while containers start.

The kernel has one wall clock for all namespaces, so each program gets other functions that read it.
libfaketime 0.9.10 does not work: with it time.sleep(), which is clock_nanosleep(2) with CLOCK_MONOTONIC,
fails with EINVAL.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from functional.docker_api import Api
from functional.overlay_host import NET, NETWORK, OverlayHost, endpoint, ids
from functional.ovsdb_servers import until
from ovn_docker.model import host_link
from ovn_docker.options import DOCKER

pytestmark = pytest.mark.slow

SITECUSTOMIZE = """
import os, time
real, real_ns = time.time, time.time_ns
def offset():
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return int(file.read())
time.time = lambda: real() + offset()
time.time_ns = lambda: real_ns() + offset() * 10**9
"""
"""Python imports a module of this name before the program (docs.python.org/3/library/site.html)."""

HOUR = 3600
YEAR = 365 * 24 * HOUR
STEPS = [HOUR, -HOUR]
SUBNET = "192.168.7.0/24"


class Clock:
    """The clock that the drivers and Docker of a host read."""

    def __init__(self, host: OverlayHost) -> None:
        self.host = host
        self.networks = {NET}
        self._offset = host.directory / "offset"
        self.set(0)
        (host.directory / "sitecustomize.py").write_text(SITECUSTOMIZE)
        host.environment |= {"PYTHONPATH": str(host.directory), "CLOCK_OFFSET": str(self._offset)}
        self._docker = Api(host.directory / "docker.sock", self._answer)

    def close(self) -> None:
        self._docker.close()

    def set(self, seconds: int) -> None:
        """Set the clock this number of seconds ahead of the right time."""
        partial = self._offset.with_suffix(".new")
        partial.write_text(str(seconds))
        partial.replace(self._offset)

    def repair(self) -> list[dict[str, Any]]:
        """Return the leftovers that a sweep of everything has cleared."""
        (control,) = self.host.directory.glob("ovn-docker-overlay-driver.*.ctl")
        told = subprocess.run(
            ["ovs-appctl", "-t", str(control), "gc/repair"],
            check=True, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return list(json.loads(told.stdout))

    def _answer(self, path: str) -> Any:
        if path.startswith("/networks") and "filters" not in path:
            return [{"Name": name, "Id": name} for name in ("none", "host", *self.networks)]
        return []


@pytest.fixture
def clock(overlay_host: OverlayHost) -> Iterator[Clock]:
    clock = Clock(overlay_host)
    yield clock
    clock.close()


def request_pool(host: OverlayHost) -> str:
    pool = host.succeed(
        "IpamDriver.RequestPool", {"AddressSpace": "openvswitch", "Pool": SUBNET, "V6": False}
    )
    gateway = {"PoolID": pool["PoolID"], "Address": "192.168.7.1"}
    options = {"RequestAddressType": DOCKER + "gateway"}
    host.succeed("IpamDriver.RequestAddress", {**gateway, "Options": options})
    return str(pool["PoolID"])


def create_network(host: OverlayHost) -> None:
    data = [{"AddressSpace": "openvswitch", "Pool": SUBNET, "Gateway": "192.168.7.1/24"}]
    host.succeed("NetworkDriver.CreateNetwork", {"NetworkID": "e" * 64, "IPv4Data": data, "Options": {}})


@pytest.mark.parametrize("seconds", [61, -61, 10 * YEAR, -10 * YEAR])
def test_rows_of_a_starting_container_stay(clock: Clock, seconds: int) -> None:
    host = clock.host
    host.start()
    clock.networks.add("e" * 64)
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    host.succeed("NetworkDriver.CreateEndpoint", endpoint(1))
    clock.set(seconds)
    pool = request_pool(host)
    clock.set(0)
    assert clock.repair() == []
    create_network(host)
    host.succeed("IpamDriver.RequestAddress", {"PoolID": pool, "Address": "192.168.7.9", "Options": {}})
    clock.set(seconds)
    assert clock.repair() == []
    assert len([row for row in host.northbound.rows("DHCP_Options") if row["cidr"] == "192.168.7.9"]) == 1
    host.succeed("NetworkDriver.Join", {**ids(1), "SandboxKey": "/var/run/docker/netns/0123456789ab"})


@pytest.mark.parametrize("seconds", STEPS)
def test_next_driver_keeps_rows_of_a_starting_container(clock: Clock, seconds: int) -> None:
    host = clock.host
    first = host.start()
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    host.succeed("NetworkDriver.CreateEndpoint", endpoint(1))
    first.terminate()
    first.wait(120)
    clock.set(seconds)
    host.start()
    assert clock.repair() == []
    host.succeed("NetworkDriver.Join", {**ids(1), "SandboxKey": "/var/run/docker/netns/0123456789ab"})


@pytest.mark.parametrize("seconds", STEPS)
def test_leftovers_are_deleted_after_their_grace(clock: Clock, seconds: int) -> None:
    """Docker has died between two calls."""
    host = clock.host
    host.start("--sweep-interval=1")
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    before = host.state()
    host.succeed("NetworkDriver.CreateEndpoint", endpoint(1))
    clock.set(seconds)
    until(lambda: host.state() == before)


@pytest.mark.parametrize("seconds", STEPS)
def test_a_mac_is_not_taken_from_a_container_that_starts(clock: Clock, seconds: int) -> None:
    host = clock.host
    host.start()
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    first, second = endpoint(1), endpoint(2)
    second["Interface"]["MacAddress"] = host.succeed("NetworkDriver.CreateEndpoint", first)["Interface"][
        "MacAddress"
    ]
    clock.set(seconds)
    _, answer = host.ask("NetworkDriver.CreateEndpoint", second)
    assert "is in use by endpoint" in answer["Err"]
    assert host_link(first["EndpointID"]) in host.state()["ports"]


@pytest.mark.parametrize("seconds", [HOUR])
def test_a_network_gets_the_pool_that_was_requested_last(clock: Clock, seconds: int) -> None:
    """Docker has died after the request of another pool, while the clock was ahead."""
    host = clock.host
    host.start()
    clock.networks.add("e" * 64)
    clock.set(seconds)
    request_pool(host)
    clock.set(0)
    pool = request_pool(host)
    create_network(host)
    host.succeed("IpamDriver.RequestAddress", {"PoolID": pool, "Address": "", "Options": {}})
