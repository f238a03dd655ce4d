"""The Debian package on two hosts whose containers talk while the driver is upgraded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import lost_packets
from e2e.lab import Fabric, Host, missing, wait_for
from functional.test_install import made_once
from packages.conftest import build, repack

RELEASE = "bookworm"
"""That of the lab's hosts, which have the machine's own files."""


def _codename() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith("VERSION_CODENAME=")), "")


pytestmark = [
    pytest.mark.skipif(_codename() != RELEASE, reason=f"the lab's hosts are not Debian {RELEASE}"),
    pytest.mark.skipif(bool(missing()), reason="no lab here"),
]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Packages of this version, and of a later one."""
    debs = made_once(tmp_path_factory, f"debs-{RELEASE}", lambda path: build(RELEASE, path))
    later = made_once(tmp_path_factory, f"later-{RELEASE}", lambda path: repack(debs, path))
    return next(debs.glob("ovn-docker_*.deb")), next(later.glob("ovn-docker_*.deb"))


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    fabric = Fabric()
    try:
        yield fabric.cluster("host1", "host2")
    finally:
        fabric.close()


def install(host: Host, package: Path) -> str:
    """Install a package that the host gets as a copy, without its dependencies, which the machine has."""
    host.path("/root/package.deb").write_bytes(package.read_bytes())
    return host.run("dpkg", "--install", "--force-depends", "/root/package.deb", timeout=120)


def restart(host: Host) -> None:
    """Replace the driver as the documentation says for hosts without systemd."""
    host.run("ovs-appctl", "-t", "ovn-docker-overlay-driver", "exit")
    host.run("sh", "-c", "while [ -e /run/openvswitch/ovn-docker-overlay-driver.pid ]; do sleep 0.1; done")
    host.run("/usr/bin/ovn-docker", "host", "start", timeout=60)


def test_no_packet_is_lost_and_the_network_is_still_served(
    hosts: list[Host], versions: tuple[Path, Path]
) -> None:
    now, later = versions
    for host in hosts:
        install(host, now)
        host.run("/usr/bin/ovn-docker", "host", "start", timeout=60)
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver", "openvswitch")
    hosts[0].docker(*create, "--subnet=10.1.0.0/24", "-o", "ovn.network=foo", "foo")
    for host in hosts:
        host.docker("run", "-d", "--net=foo", f"--name=on-{host.name}", "busybox", "sleep", "infinity")
    address = hosts[1].docker("inspect", "-f", "{{.NetworkSettings.Networks.foo.IPAddress}}", "on-host2")

    def upgrade() -> None:
        for host in hosts:
            install(host, later)
            restart(host)

    assert lost_packets(hosts[0], "on-host1", address, upgrade, seconds=60, interval=0.1) == 0
    for host in hosts:
        assert " 99" in host.run("ovs-appctl", "-t", "ovn-docker-overlay-driver", "version")
        host.docker("run", "--rm", "--net=foo", "busybox", "ping", "-c1", "-W2", address)
        host.docker("restart", "-t0", f"on-{host.name}")
    hosts[0].ping("on-host1", address)
    assert hosts[0].run("ovn-docker", "ls", "--json")
    for host in hosts:
        host.docker("rm", "-f", f"on-{host.name}")
    hosts[0].docker("network", "rm", "foo")
    # The other host removes its part as soon as it sees that the network is gone.
    wait_for(lambda: hosts[0].run("ovn-nbctl", "ls-list") == "", "the network to vanish")
