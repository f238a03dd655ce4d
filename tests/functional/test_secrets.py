"""A driver with the most detailed log keeps its secrets: the cloud's password and the certificate's key."""

import http.server
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from functional.ovsdb_servers import OpenVswitch, OvsdbServer
from functional.test_daemon import Driver, call
from ovn_docker.host.ovsdb import encode

OVN_DOCKER = Path(sys.executable).with_name("ovn-docker")
OVERLAY, UNDERLAY = (
    Path(sys.executable).with_name(f"ovn-docker-{mode}-driver") for mode in ("overlay", "underlay")
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not UNDERLAY.exists(), reason=f"{UNDERLAY} is not there; pip install -e ."),
    pytest.mark.usefixtures("network_namespace"),
]

PASSWORD, TOKEN = "pass-w0rd-of-demo", "gAAAA-token-of-demo"
VIF = "e798c371-85f4-4f2d-ad65-d09dd1d3c1c9"
EVERYTHING = ("-vconsole:dbg", "-vfile:dbg", "--log-file")


class Cloud(http.server.BaseHTTPRequestHandler):
    """A Keystone that accepts the password, and a Neutron that has the VM's port and fails otherwise."""

    tokens: list[str]

    def do_GET(self) -> None:
        here = f"http://{self.headers['Host']}"
        if self.path.startswith("/v2.0/ports"):
            self.tokens.append(self.headers["X-Auth-Token"])
            self._answer(500, {"NeutronError": {"type": "Broken", "message": "out of order", "detail": ""}})
        elif self.path.startswith("/v2.0"):
            self._answer(200, {"resources": []})
        else:
            version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": f"{here}/v3/"}]}
            self._answer(300, {"versions": {"values": [version]}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "auth" not in asked:
            self._answer(500, {"NeutronError": {"type": "Broken", "message": "out of order", "detail": ""}})
            return
        given = asked["auth"]["identity"]["password"]["user"]["password"]
        if given != PASSWORD:
            self._answer(401, {"error": {"code": 401, "message": "no", "title": "Unauthorized"}})
            return
        here = f"http://{self.headers['Host']}"
        endpoint = {"id": "1", "interface": "public", "region": "R", "region_id": "R", "url": here}
        token = {
            "methods": ["password"], "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2020-01-01T00:00:00.000000Z", "user": {"id": "u", "name": "demo"},
            "project": {"id": "p", "name": "demo"},
            "catalog": [{"id": "n", "name": "neutron", "type": "network", "endpoints": [endpoint]}],
        }  # fmt: skip
        self._answer(201, {"token": token}, {"X-Subject-Token": TOKEN})

    def log_message(self, *args: object) -> None:
        """Drop the message."""

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Openstack(NamedTuple):
    """The variables of an openrc.sh, and the tokens that Neutron has received."""

    variables: dict[str, str]
    tokens: list[str]


@pytest.fixture
def openstack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Openstack]:
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    tokens: list[str] = []
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (Cloud,), {"tokens": tokens})
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        variables = {
            "OS_AUTH_URL": f"http://127.0.0.1:{server.server_port}/v3",
            "OS_PROJECT_NAME": "demo",
            "OS_USERNAME": "demo",
            "OS_PASSWORD": PASSWORD,
            "OS_VIF_ID": VIF,
        }
        yield Openstack(variables, tokens)
        server.shutdown()
        thread.join()


class Underlay(Driver):
    program = UNDERLAY


@pytest.fixture
def driver(tmp_path: Path, settings: OpenVswitch) -> Iterator[Driver]:
    driver = Driver(tmp_path / "driver", settings)
    yield driver
    driver.end()


@pytest.fixture
def underlay(tmp_path: Path, settings: OpenVswitch, openstack: Openstack) -> Iterator[Driver]:
    driver = Underlay(tmp_path / "underlay", settings)
    driver.environment |= openstack.variables
    yield driver
    driver.end()


def readable_by_all(pid: int) -> bytes:
    """Return everything that any user may read of a process and its children."""
    found = b""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if pid in (int(status.parent.name), parent):
                found += b"".join(
                    (status.parent / name).read_bytes() for name in ("cmdline", "comm", "status")
                )
        except OSError:  # it has ended
            continue
    return found


def files_below(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def assert_no_secret(said: bytes | str, *secrets: str) -> None:
    text = said if isinstance(said, bytes) else said.encode()
    for secret in secrets or (PASSWORD, TOKEN):
        assert secret.encode() not in text


def test_login_is_in_no_log_command_line_answer_or_file(underlay: Driver, openstack: Openstack) -> None:
    process = underlay.start(*EVERYTHING, "--pidfile", "--request-timeout=3")
    answers = [call(underlay.socket, "NetworkDriver.CreateNetwork", NetworkID="a" * 64)]
    pool = {"AddressSpace": "ovn-docker-local", "Pool": "10.1.0.0/24"}
    answers.append(call(underlay.socket, "IpamDriver.RequestPool", **pool))
    answers.append(
        call(underlay.socket, "NetworkDriver.CreateEndpoint", NetworkID="a" * 64, EndpointID="b" * 64)
    )
    assert all(answer["Err"] for answer in answers)
    assert openstack.tokens, "it has not logged in"
    assert set(openstack.tokens) == {TOKEN}
    shown = json.dumps(answers) + "".join(
        underlay.appctl(*command) for command in (("vlog/list",), ("help",), ("requests",))
    )
    assert_no_secret(shown)
    assert_no_secret(readable_by_all(process.pid))
    environ = Path(f"/proc/{process.pid}/environ")
    assert PASSWORD.encode() in environ.read_bytes()
    assert stat.S_IMODE(environ.stat().st_mode) & 0o077 == 0
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert "out of order" in said
    assert_no_secret(said)
    assert_no_secret(files_below(underlay.directory))


def test_unexpected_error_does_not_show_the_login(underlay: Driver) -> None:
    """A traceback has lines of code and no values."""
    underlay.environment["HTTP_PROXY"] = "http://[not-an-address"
    process = underlay.start(*EVERYTHING)
    answer = call(underlay.socket, "NetworkDriver.CreateNetwork", NetworkID="a" * 64)
    assert answer["Err"]
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert_no_secret(json.dumps(answer) + said)
    assert_no_secret(files_below(underlay.directory))


@pytest.mark.parametrize(
    "command", [("doctor",), ("doctor", "--json"), ("status", "--json"), ("gc",), ("ls", "--json")]
)
def test_no_command_shows_the_login(underlay: Driver, openstack: Openstack, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [OVN_DOCKER, *command], env=underlay.environment, capture_output=True, timeout=120, check=False
    )
    assert done.stdout or done.stderr
    assert_no_secret(done.stdout + done.stderr)


@pytest.mark.parametrize("which", ["driver", "underlay"])
def test_killed_driver_leaves_no_core_file(request: pytest.FixtureRequest, which: str) -> None:
    """The file would contain the password, or the key of the host's certificate."""
    running: Driver = request.getfixturevalue(which)
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        os.chdir(running.directory)
        process = running.start()
    finally:
        os.chdir("/")
        resource.setrlimit(resource.RLIMIT_CORE, before)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert "Max core file size        0                    0 " in limits
    process.send_signal(signal.SIGABRT)
    assert process.wait(120) == -signal.SIGABRT
    assert not [path for path in running.directory.iterdir() if path.name.startswith("core")]


def test_certificate_key_is_in_no_log(driver: Driver, settings: OpenVswitch, tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    for command in (("init",), ("central", "db1", "--address=127.0.0.1"), ("host", "host1")):
        subprocess.run([OVN_DOCKER, "pki", *command, f"--directory={pki}"], check=True, capture_output=True)
    files = [f"{option}={pki}/db1/{name}.pem" for option, name in
             (("--private-key", "key"), ("--certificate", "cert"), ("--ca-cert", "ca"))]  # fmt: skip
    (tmp_path / "nb").mkdir()
    central = OvsdbServer(tmp_path / "nb", "OVN_Northbound", "--remote=pssl:0:127.0.0.1", *files)
    try:
        listening = subprocess.run(
            ["ovs-appctl", "-t", f"{central.socket}.ctl", "ovsdb-server/list-remotes"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "pssl" in listening.stdout
        process = driver.start(
            *EVERYTHING,
            *(f"--private-key={pki}/host1/key.pem", f"--certificate={pki}/host1/cert.pem"),
            f"--ca-cert={pki}/host1/ca.pem",
        )
        call(driver.socket, "NetworkDriver.CreateNetwork", NetworkID="a" * 64)
        secrets = (pki / "host1/key.pem").read_text().splitlines()[1:-1]
        assert secrets
        assert_no_secret(readable_by_all(process.pid), *secrets)
        process.terminate()
        _, said = process.communicate(timeout=120)
        assert_no_secret(said, *secrets)
        assert_no_secret(files_below(driver.directory), *secrets)
    finally:
        central.kill()


@pytest.mark.parametrize("which", ["driver", "underlay"])
def test_files_are_writable_by_the_owner_alone_with_any_umask(
    request: pytest.FixtureRequest, which: str, tmp_path: Path
) -> None:
    running: Driver = request.getfixturevalue(which)
    running.socket = tmp_path / "r" / "d" / "openvswitch.sock"  # unix(7) has room for 107 characters
    running.environment["OVN_DOCKER_SOCKET"] = str(running.socket)
    before = os.umask(0)
    try:
        running.start("--pidfile", "--log-file")
    finally:
        os.umask(before)
    made = [*running.directory.iterdir(), *(tmp_path / "r").rglob("*"), tmp_path / "r"]
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in made}
    assert {f"{running.program.name}.pid", f"{running.program.name}.log", "openvswitch.sock"} <= modes.keys()
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o022} == {}
    assert modes["openvswitch.sock"] == 0o600
    assert any(
        name.endswith(".ctl") for name in modes
    )  # who may not write to a socket may not connect: unix(7)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_keys_are_readable_by_the_owner_alone_with_any_umask(umask: int, tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    before = os.umask(umask)
    try:
        for command in (("init",), ("central", "db1", "--address=127.0.0.1"), ("host", "host1")):
            subprocess.run(
                [OVN_DOCKER, "pki", *command, f"--directory={pki}"], check=True, capture_output=True
            )
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (pki, *pki.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.name.endswith("key.pem")} == {0o600}
    assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o022} == {}


def identity(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_mtime_ns


ATTACKED = ["a link to a file", "a link to nothing", "a link to a socket", "a file", "a directory"]


@pytest.mark.parametrize("kind", ATTACKED)
def test_file_at_the_path_of_the_socket_is_kept(driver: Driver, kind: str, tmp_path: Path) -> None:
    driver.socket.parent.mkdir(parents=True)
    target = tmp_path / "target"
    if kind == "a link to a socket":
        subprocess.run(
            [sys.executable, "-c", f"import socket; socket.socket(1).bind({str(target)!r})"], check=True
        )
    elif kind != "a link to nothing":
        target.write_text("precious")
    if kind.startswith("a link"):
        driver.socket.symlink_to(target)
    elif kind == "a file":
        driver.socket.write_text("precious")
    else:
        driver.socket.mkdir()
    before = identity(driver.socket)
    ended = driver.run()
    assert ended.returncode != 0
    assert str(driver.socket) in ended.stderr.splitlines()[-1]
    assert identity(driver.socket) == before
    if target.is_file():
        assert target.read_text() == "precious"


def test_database_gets_no_secret(underlay: Driver, settings: OpenVswitch) -> None:
    """Every user who may read Open vSwitch's database would see it."""
    process = underlay.start()
    call(underlay.socket, "NetworkDriver.CreateNetwork", NetworkID="a" * 64)
    process.terminate()
    process.communicate(timeout=120)
    assert_no_secret(json.dumps(encode(settings.contents()), default=str))
