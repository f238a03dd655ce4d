"""The check of ovn-controller: a real one, a missing one, and other processes at its socket."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from functional.conftest import MakeServer
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, until
from ovn_docker.errors import Unavailable
from ovn_docker.host.ovn_controller import Controller

CURE = "start it with: ovn-docker host start"


def trouble(directory: Path) -> str:
    """Return the error of the check of ovn-controller; empty if the check passes."""
    try:
        Controller(directory).check()
    except Unavailable as error:
        return str(error)
    return ""


class TestRealController:
    @pytest.fixture
    def run_dir(self, tmp_path: Path, settings: OpenVswitch, network_namespace: None) -> Iterator[Path]:
        if not shutil.which("ovn-controller"):
            pytest.skip("ovn-controller is not installed")
        directory = tmp_path / "ovn"
        directory.mkdir()
        settings.set(
            system_id="host1",
            ovn_remote=f"unix:{tmp_path}/0/OVN_Southbound.sock",
            ovn_encap_ip="127.0.0.1",
            ovn_encap_type="geneve",
        )
        running = subprocess.Popen(
            ["ovn-controller", settings.remote, "--pidfile", "-vconsole:off"],
            env={**os.environ, "OVN_RUNDIR": str(directory), "OVS_RUNDIR": str(settings.socket.parent)},
        )
        until((directory / "ovn-controller.pid").exists)
        yield directory
        running.kill()
        running.wait()

    @pytest.fixture
    def southbound(self, make_server: MakeServer) -> OvsdbServer:
        return make_server("OVN_Southbound")

    def test_connected_controller_passes(self, southbound: OvsdbServer, run_dir: Path) -> None:
        until(lambda: trouble(run_dir) == "")

    def test_controller_without_its_database_is_reported(self, run_dir: Path) -> None:
        said = "is not connected to the OVN southbound database; look at external_ids:ovn-r"
        until(lambda: said in trouble(run_dir))

    def test_killed_controller_is_reported(self, southbound: OvsdbServer, run_dir: Path) -> None:
        """Pidfile and socket of a killed process stay."""
        until(lambda: trouble(run_dir) == "")
        os.kill(int((run_dir / "ovn-controller.pid").read_text()), signal.SIGKILL)
        until(lambda: trouble(run_dir))
        assert f"Connection refused); {CURE}" in trouble(run_dir)

    def test_controller_killed_after_a_check_is_reported_at_once(
        self, southbound: OvsdbServer, run_dir: Path
    ) -> None:
        """An answer is kept for a second, but only while the process lives."""
        until(lambda: trouble(run_dir) == "")
        controller = Controller(run_dir)
        controller.check()
        pid = int((run_dir / "ovn-controller.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(Unavailable, match="is not running"):
            controller.check()

    def test_hanging_controller_counts_as_busy_for_any_number_of_checks(
        self, southbound: OvsdbServer, run_dir: Path
    ) -> None:
        """The socket of a hanging process accepts a few connections only."""
        until(lambda: trouble(run_dir) == "")
        os.kill(int((run_dir / "ovn-controller.pid").read_text()), signal.SIGSTOP)
        for _ in range(80):
            Controller(run_dir).check(timeout=0.02)


def test_connected_controller_is_not_asked_for_every_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovn_docker.host.ovn_controller._HOLDS", 120)

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b'{"error":null,"id":0,"result":"connected"}')

    with fake_controller(tmp_path, answer) as controller:
        lock = (
            "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
            "print(flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", lock, tmp_path / "ovn-controller.pid"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as daemon:
            assert daemon.stdout
            daemon.stdout.readline()
            controller.check()
            controller.check()  # a second question would get no answer
            daemon.communicate()
        with pytest.raises(Unavailable, match="is not running"):
            controller.check()


def test_missing_controller_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=rf"not running \(.*No such file or directory\); {CURE}"):
        Controller(tmp_path).check()


@pytest.mark.parametrize("text", ["", "not a number\n"])
def test_pidfile_without_a_number_counts_as_missing(tmp_path: Path, text: str) -> None:
    (tmp_path / "ovn-controller.pid").write_text(text)
    with pytest.raises(Unavailable, match=rf"ovn-controller is not running .*{CURE}"):
        Controller(tmp_path).check()


@contextmanager
def fake_controller(directory: Path, answer: Callable[[socket.socket], None]) -> Iterator[Controller]:
    """Listen at the path of ovn-controller's socket, and answer with *answer*."""
    (directory / "ovn-controller.pid").write_text("7\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "ovn-controller.7.ctl"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            listener.close()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Controller(directory)
        thread.join()


def test_controller_that_does_not_answer_counts_as_busy(tmp_path: Path) -> None:
    asked = threading.Event()

    def think(_: socket.socket) -> None:
        asked.wait(5)

    with fake_controller(tmp_path, think) as controller:
        controller.check(timeout=0.1)
        asked.set()


def test_answer_may_arrive_in_pieces(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        for piece in (b'{"error":null,"id":0,', b'"result":"conn', b'ected\\n"}'):
            connection.sendall(piece)

    with fake_controller(tmp_path, answer) as controller:
        controller.check()


@pytest.mark.parametrize("answer", [b"", b'{"result":', b"\xff\xfe"])
def test_invalid_answer_does_not_count_as_ovn_controller(tmp_path: Path, answer: bytes) -> None:
    def reply(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(answer)

    with fake_controller(tmp_path, reply) as controller, pytest.raises(Unavailable, match="is not running"):
        controller.check()
