"""Fixtures of functional tests: real database servers, and a network namespace for each."""

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from functional.hosts import Container, Host
from functional.overlay_host import OverlayHost, Ovn, make_uplink
from functional.ovsdb_servers import OpenVswitch, OvsdbServer
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import Tls

CLONE_NEWNET = 0x40000000  # linux/sched.h

MakeServer = Callable[..., OvsdbServer]
Connect = Callable[..., Database]


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """A function that starts an ovsdb-server; the server ends with the test."""
    if not shutil.which("ovsdb-server"):
        pytest.skip("ovsdb-server is not installed")
    servers: list[OvsdbServer] = []

    def make(database: str, *options: str) -> OvsdbServer:
        directory = tmp_path / str(len(servers))
        directory.mkdir()
        servers.append(OvsdbServer(directory, database, *options))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A function that connects to a server, or to remotes of a database; connections end with the test."""
    databases = []

    def connect(to: OvsdbServer | str, *remotes: str, tls: Tls | None = None) -> Database:
        name, where = (to, remotes) if isinstance(to, str) else (to.database, (to.remote,))
        databases.append(Database(name, where, tls=tls))
        return databases[-1]

    yield connect
    for database in databases:
        database.close()


@pytest.fixture
def northbound(make_server: MakeServer) -> OvsdbServer:
    """An empty OVN northbound database."""
    return make_server("OVN_Northbound")


@contextmanager
def new_network_namespace() -> Iterator[None]:
    """Give this thread and its children a network namespace with loopback only."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace takes root")
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0


@pytest.fixture
def network_namespace() -> Iterator[None]:
    """A network namespace with loopback only, for this thread and its children."""
    with new_network_namespace():
        yield


@pytest.fixture(scope="module")
def network_namespace_of_module() -> Iterator[None]:
    """A network namespace with loopback only, for all tests of a module."""
    with new_network_namespace():
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[OpenVswitch]:
    """The Open_vSwitch database of a host without settings and without ovs-vswitchd."""
    if not shutil.which("ovsdb-server"):
        pytest.skip("ovsdb-server is not installed")
    server = OpenVswitch(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def shared_open_vswitch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVswitch]:
    """Open vSwitch in a network namespace: ovs-vswitchd needs 0.2 s to start, so it serves many tests."""
    if not (shutil.which("ovsdb-server") and shutil.which("ovs-vswitchd")):
        pytest.skip("Open vSwitch is not installed")
    with new_network_namespace():
        server = OpenVswitch(tmp_path_factory.mktemp("open_vswitch"))
        server.start_daemon()
        yield server
        server.stop_daemon()
        server.kill()


@pytest.fixture
def open_vswitch(shared_open_vswitch: OpenVswitch) -> OpenVswitch:
    """Running Open vSwitch in a network namespace, on a host that is set up for OVN as in the guide."""
    shared_open_vswitch.reset()
    for _, link in socket.if_nameindex():
        if link not in {"lo", "ovs-netdev", "br-int"}:
            KernelLinks().delete(link)
    return shared_open_vswitch


@pytest.fixture
def host(northbound: OvsdbServer, open_vswitch: OpenVswitch, connect: Connect) -> Iterator[Host]:
    """A host that is set up, with all parts running."""
    open_vswitch.set(system_id="host1", ovn_nb=northbound.remote, ovn_encap_ip="10.0.0.1")
    host = Host(northbound, open_vswitch, (connect(northbound), connect(open_vswitch)))
    yield host
    host.close()


@pytest.fixture
def container() -> Iterator[Container]:
    """A network namespace into which tests move links."""
    container = Container()
    yield container
    container.die()


@pytest.fixture
def overlay_host(
    tmp_path: Path, northbound: OvsdbServer, open_vswitch: OpenVswitch, make_server: MakeServer
) -> Iterator[OverlayHost]:
    """A host with real OVN, where the driver's program may be started."""
    if not (shutil.which("ovn-northd") and shutil.which("ovn-controller")):
        pytest.skip("OVN is not installed")
    make_uplink()
    ovn = Ovn(tmp_path / "ovn", northbound, make_server("OVN_Southbound"), open_vswitch)
    host = OverlayHost(tmp_path / "driver", northbound, open_vswitch, ovn)
    yield host
    host.end()
    ovn.end()
