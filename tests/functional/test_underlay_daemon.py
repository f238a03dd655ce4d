"""The underlay driver as a process: its settings, and its prompt for the password."""

import http.server
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functional.ovsdb_servers import OpenVswitch, until
from functional.test_daemon import Driver, call

PROGRAM = Path(sys.executable).with_name("ovn-docker-underlay-driver")
pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not there; pip install -e ."),
    pytest.mark.usefixtures("network_namespace"),
]

VIF = "e798c371-85f4-4f2d-ad65-d09dd1d3c1c9"
OPENRC = {
    "OS_AUTH_URL": "http://127.0.0.1:9/v2.0",
    "OS_TENANT_ID": "fab106b215d943c3bad519492278443d",
    "OS_USERNAME": "demo",
    "OS_VIF_ID": VIF,
}
"""The guide's openrc.sh, with an address at which no server listens."""


class Underlay(Driver):
    program = PROGRAM


@pytest.fixture
def driver(tmp_path: Path, settings: OpenVswitch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Underlay]:
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    driver = Underlay(tmp_path / "driver", settings)
    yield driver
    driver.end()


def test_help_shows_options_of_the_underlay_and_not_of_the_overlay(driver: Underlay) -> None:
    said = driver.run("--help").stdout
    for option in ("--bridge", "--parent", "--socket", "--detach", "--pidfile", "--log-file", "--verbose"):
        assert option in said
    for option in ("--sync", "--ovn-rundir", "--private-key"):
        assert option not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OS_VIF_ID": ""}, "OS_VIF_ID is not set: it is the ID of the Neutron port of this VM's interface"),
        ({}, "OS_PASSWORD of demo is not set, and there is no terminal to ask at"),
        ({"OVN_DOCKER_PARENT": "vlan"}, "OVN_DOCKER_PARENT='vlan' is not valid: give one of trunk, profile"),
    ],
)
def test_a_missing_or_invalid_setting_is_one_line_and_leaves_no_files(
    driver: Underlay, environment: dict[str, str], message: str
) -> None:
    ended = driver.run("--detach", **OPENRC | environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert message in line
    assert driver.files() == set()


@pytest.mark.slow
def test_a_driver_without_openstack_serves_and_answers_with_the_error(driver: Underlay) -> None:
    """Keystone may start later than Docker at boot."""
    driver.environment |= OPENRC | {"OS_PASSWORD": "secret"}
    process = driver.start()
    answer = call(driver.socket, "NetworkDriver.CreateNetwork", NetworkID="a" * 64)
    assert answer["Err"] == (
        "cannot reach OpenStack (Keystone at http://127.0.0.1:9): Connection refused; check OS_AUTH_URL, "
        "and that this machine has a route to it"
    )
    process.terminate()
    _, log = process.communicate(timeout=120)
    assert "not ready yet: cannot reach OpenStack" in log
    assert "secret" not in log


def test_an_unknown_option_is_refused_with_a_suggestion(driver: Underlay) -> None:
    driver.environment |= OPENRC | {"OS_PASSWORD": "secret"}
    driver.start()
    generic: dict[str, Any] = {"com.docker.network.generic": {"ovn.swich": "x"}}
    answer = call(driver.socket, "NetworkDriver.CreateNetwork", NetworkID="a" * 64, Options=generic)
    assert answer["Err"] == "unknown option 'ovn.swich': did you mean ovn.switch?"


class Keystone(http.server.BaseHTTPRequestHandler):
    """A Keystone that records logins and refuses them."""

    logins: list[dict[str, Any]]

    def do_GET(self) -> None:
        where = f"http://{self.headers['Host']}/v3/"
        version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": where}]}
        self._answer(300, {"versions": {"values": [version]}})

    def do_POST(self) -> None:
        self.logins.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(401, {"error": {"code": 401, "message": "no", "title": "Unauthorized"}})

    def log_message(self, *args: object) -> None:
        """Discard the message."""

    def _answer(self, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def keystone() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a Keystone, and the logins that it refused."""
    logins: list[dict[str, Any]] = []
    handler = type("Handler", (Keystone,), {"logins": logins})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", logins
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_driver_asks_for_the_password_at_the_terminal_before_it_detaches(
    driver: Underlay, keystone: tuple[str, list[dict[str, Any]]]
) -> None:
    """A login that Keystone refuses ends the driver before it detaches."""
    address, logins = keystone
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "--detach", "--log-file"],
        env=driver.environment | OPENRC | {"OS_AUTH_URL": f"{address}/v2.0"},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # noqa: PLW1509 - a terminal of its own
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"OpenStack password of demo: " not in said:
        said += os.read(ours, 1000)
    os.write(ours, b"s3cret-word\n")
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        try:
            said += os.read(ours, 1000)
        except OSError:  # the other end is closed
            break
    assert process.wait(120) == 2
    os.close(ours)
    assert b"rejects the login: check the password" in said
    (login,) = logins
    assert login["auth"]["identity"]["password"]["user"]["password"] == "s3cret-word"
    assert login["auth"]["identity"]["password"]["user"]["domain"] == {"id": "default"}
    log = (driver.directory / f"{PROGRAM.name}.log").read_text()
    assert b"s3cret-word" not in said
    assert "s3cret-word" not in log
    until(lambda: driver.files() == set())
