"""The driver refuses other users of the host, malformed requests, and servers with old versions of TLS."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from functional.ovsdb_servers import OpenVswitch, OvsdbServer, free_port
from functional.test_daemon import PROGRAM, Driver, call

OVN_DOCKER = Path(sys.executable).with_name("ovn-docker")
NOBODY = 65534
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not there; pip install -e ."),
    pytest.mark.usefixtures("network_namespace"),
]


@pytest.fixture
def driver(settings: OpenVswitch) -> Iterator[Driver]:
    """A driver in a directory that every user may enter, unlike the directories of pytest."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    driver = Driver(directory / "driver", settings)
    yield driver
    driver.end()
    shutil.rmtree(directory)


def connects(path: Path) -> bool:
    """Return whether a user without privileges can connect."""
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code, path], user=NOBODY, group=NOBODY, extra_groups=[], check=False,
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0 or "PermissionError" in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_other_users_cannot_connect_to_a_socket_of_the_driver(driver: Driver, umask: int) -> None:
    before = os.umask(umask)
    try:
        driver.start()
    finally:
        os.umask(before)
    (control,) = driver.directory.glob("*.ctl")
    driver.directory.chmod(0o755)
    driver.socket.parent.chmod(0o755)
    for path in (driver.socket, control):
        assert not connects(path)
        path.chmod(0o666)
        assert connects(path)  # only the mode keeps other users out


ID, OTHER = "a" * 64, "b" * 64
NO_IDS = (7, True, [], {"a": 1}, "", "a b", "../a", "a\0", "a;reboot", "$(reboot)", "a" * 65536)
REFUSED = [
    *(
        (
            f"NetworkDriver.{method}",
            {"EndpointID": OTHER, "SandboxKey": "/x", "Interface": {}, "NetworkID": no_id},
        )
        for method in ("CreateNetwork", "DeleteNetwork", "CreateEndpoint", "DeleteEndpoint", "Join", "Leave")
        for no_id in NO_IDS
    ),
    *(
        (
            f"NetworkDriver.{method}",
            {"NetworkID": ID, "SandboxKey": "/x", "Interface": {}, "EndpointID": no_id},
        )
        for method in ("CreateEndpoint", "DeleteEndpoint", "Join", "Leave")
        for no_id in NO_IDS
    ),
    *(("NetworkDriver.CreateNetwork", {"NetworkID": ID, "Options": wrong}) for wrong in (7, "x", [7], [{}])),
    *(("NetworkDriver.CreateNetwork", {"NetworkID": ID, "IPv4Data": wrong}) for wrong in (7, "x", {}, [7])),
    *(
        ("NetworkDriver.Join", {"NetworkID": ID, "EndpointID": OTHER, "SandboxKey": no})
        for no in (7, [], "a\nb")
    ),
    *(("IpamDriver.RequestPool", {"Pool": wrong}) for wrong in (7, [], "x", "10.0.0.0/99", "$(reboot)")),
    *(("IpamDriver.RequestAddress", {"PoolID": wrong}) for wrong in (7, [], "x", "../x")),
]
"""Requests with one value that has the wrong type, or the right type and is invalid."""


def test_malformed_request_is_refused_before_any_access_to_a_database(
    driver: Driver, settings: OpenVswitch, tmp_path: Path
) -> None:
    """The databases are stopped, so a request that accesses one would wait until its deadline."""
    (tmp_path / "nb").mkdir()
    northbound = OvsdbServer(tmp_path / "nb", "OVN_Northbound")
    try:
        settings.set(**{"system-id": "host1", "ovn-nb": northbound.remote, "ovn-encap-ip": "127.0.0.1"})
        driver.start("--sync=off", "--repair=off", "--request-timeout=4")
        before = settings.contents()
        settings.pause()
        northbound.pause()
        late = "did not answer"
        assert late in call(driver.socket, "NetworkDriver.CreateNetwork", NetworkID=ID)["Err"]
        for method, request in REFUSED:
            said = call(driver.socket, method, **request)["Err"]
            assert late not in said, f"{method} {str(request)[:200]}"
            assert said.isprintable()
        settings.resume()
        northbound.resume()
        assert settings.contents() == before
    finally:
        northbound.kill()


class Server:
    """A server with one version of TLS; *ended* is the result of its first handshake."""

    def __init__(self, version: ssl.TLSVersion, pki: Path) -> None:
        self.port, self.outcome = free_port(), ""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        context.load_cert_chain(pki / "db1/cert.pem", pki / "db1/key.pem")
        context.load_verify_locations(pki / "db1/ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        listening = socket.create_server(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._serve, args=(listening, context))
        self._thread.start()

    def _serve(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        with listening:
            listening.settimeout(120)
            plain, _ = listening.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    self.outcome = str(connection.version())
            except OSError as error:
                self.outcome = f"refused: {error}"

    def ended(self) -> str:
        self._thread.join()
        return self.outcome


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki") / "pki"
    for command in (("init",), ("central", "db1", "--address=127.0.0.1"), ("host", "host1")):
        subprocess.run(
            [OVN_DOCKER, "pki", *command, f"--directory={directory}"], check=True, capture_output=True
        )
    return directory


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "outcome"),
    [
        (ssl.TLSVersion.TLSv1_1, "refused: .*(PROTOCOL|VERSION|ALERT|EOF)"),
        (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
)
def test_driver_refuses_tls_older_than_1_2(
    driver: Driver, settings: OpenVswitch, pki: Path, version: ssl.TLSVersion, outcome: str
) -> None:
    server = Server(version, pki)
    remote = f"ssl:127.0.0.1:{server.port}"
    settings.set(**{"system-id": "host1", "ovn-nb": remote, "ovn-encap-ip": "127.0.0.1"})
    files = (f"--private-key={pki}/host1/key.pem", f"--certificate={pki}/host1/cert.pem")
    driver.start("--request-timeout=4", *files, f"--ca-cert={pki}/host1/ca.pem")
    assert call(driver.socket, "NetworkDriver.CreateNetwork", NetworkID="a" * 64)["Err"]
    assert re.match(outcome, server.ended())


def test_certificates_renewed_in_place_are_read_again(
    driver: Driver, settings: OpenVswitch, tmp_path: Path
) -> None:
    """The new files may be of a new authority; the old certificate is refused without a restart."""
    files = tmp_path / "tls"
    old, new = tmp_path / "old", tmp_path / "new"
    for directory in (old, new):
        for command in (("init",), ("central", "db1", "--address=127.0.0.1"), ("host", "host1")):
            subprocess.run(
                [OVN_DOCKER, "pki", *command, f"--directory={directory}"], check=True, capture_output=True
            )
    shutil.copytree(old / "host1", files)
    port = free_port()

    def serve(pki: Path, where: Path) -> OvsdbServer:
        where.mkdir()
        return OvsdbServer(
            where, "OVN_Northbound", f"--remote=pssl:{port}:127.0.0.1", f"--private-key={pki}/db1/key.pem",
            f"--certificate={pki}/db1/cert.pem", f"--ca-cert={pki}/db1/ca.pem",
        )  # fmt: skip

    def create(network: str) -> str:
        return str(call(driver.socket, "NetworkDriver.CreateNetwork", NetworkID=network * 64).get("Err", ""))

    settings.set(**{"system-id": "host1", "ovn-nb": f"ssl:127.0.0.1:{port}", "ovn-encap-ip": "127.0.0.1"})
    server = serve(old, tmp_path / "1")
    try:
        driver.start(
            "--request-timeout=4", f"--private-key={files}/key.pem", f"--certificate={files}/cert.pem",
            f"--ca-cert={files}/ca.pem", "--sync=off",
        )  # fmt: skip
        assert create("a") == ""
        server.kill()
        server = serve(new, tmp_path / "2")
        assert "certificate" in create("b")
        for file in files.iterdir():
            shutil.copyfile(new / "host1" / file.name, file)
        assert create("c") == ""
    finally:
        server.kill()
