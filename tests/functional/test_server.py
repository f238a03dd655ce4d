"""The server on real Unix sockets, with real clients, threads, processes and signals."""

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from itertools import cycle
from pathlib import Path
from typing import Any, Self, cast
from uuid import uuid4

import pytest

from ovn_docker.deadline import Deadline
from ovn_docker.docker import server, sockets
from ovn_docker.docker.calls import BODY_BYTES, Calls
from ovn_docker.docker.wire import IpamDriver, NetworkDriver, Plugin
from ovn_docker.errors import Conflict, Unavailable
from ovn_docker.model import Joined
from ovn_docker.threads import Threads

NET = "ad6eb94616091677ad829254572c28d676689175d908cf299d17bb2c0d39f396"
EP = "53d0798b26e2fbe8d543504c4c4df763c5a2bfef10df9ba4646a1e899e32e438"
JOIN = {"NetworkID": NET, "EndpointID": EP, "SandboxKey": "/var/run/docker/netns/0123456789ab"}
JOINED = {"InterfaceName": {"SrcName": "odc0", "DstPrefix": "eth"}}
LEAVE = {"NetworkID": NET, "EndpointID": EP}


class Client(http.client.HTTPConnection):
    """An HTTP client on one connection, as Docker's."""

    def __init__(self, path: Path) -> None:
        super().__init__("plugin.moby.localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, request: Any = None, **more: Any) -> tuple[int, Any]:
        body = (
            request
            if isinstance(request, bytes | Iterator)
            else b""
            if request is None
            else json.dumps(request)
        )
        self.request("POST", "/" + method, body, **more)
        response = self.getresponse()
        return response.status, json.loads(response.read())


@contextmanager
def sent(path: Path, method: str, request: Any) -> Iterator[socket.socket]:
    """A connection on which a call has been sent, in one piece as Docker's HTTP client does."""
    body = json.dumps(request)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(120)
        sock.connect(str(path))
        sock.sendall(
            f"POST /{method} HTTP/1.1\r\nHost: \r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        yield sock


def answer_on(sock: socket.socket) -> tuple[int, Any]:
    with http.client.HTTPResponse(sock) as response:
        response.begin()
        return response.status, json.loads(response.read())


def call(path: Path, method: str, request: Any = None) -> tuple[int, Any]:
    with Client(path) as client:
        return client.call(method, request)


class Slow:
    """A driver whose joins last until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.joining = threading.Semaphore(0)

    def join(self, *_: object) -> Joined:
        self.joining.release()
        assert self.release.wait(120)
        return Joined("odc0")

    def leave(self, *_: object) -> None:
        pass


def plugin(driver: Slow) -> Plugin:
    return Plugin(cast("NetworkDriver", driver), cast("IpamDriver", None))


class Running:
    """A server in a thread of this process."""

    def __init__(self, sock: socket.socket) -> None:
        self.driver = Slow()
        self._server = server.PluginServer(Calls(plugin(self.driver)).answer, sock)
        self.stop = self._server.stop
        self._thread = threading.Thread(target=self._server.serve, daemon=True)
        self._thread.start()

    def ended(self, seconds: float = 30) -> float:
        """Wait until the server has ended; return the seconds that this took."""
        start = time.monotonic()
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        return time.monotonic() - start


@contextmanager
def running(sock: socket.socket) -> Iterator[Running]:
    it = Running(sock)
    try:
        yield it
    finally:
        it.driver.release.set()
        it.stop()
        it.ended()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plugins" / "openvswitch.sock"


@pytest.fixture
def serving(path: Path) -> Iterator[Running]:
    with running(sockets.listen(path)) as it:
        yield it


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# The socket


def test_socket_is_for_root_only_and_its_directory_is_readable_by_all(path: Path) -> None:
    before = os.umask(0)
    try:
        with sockets.listen(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    finally:
        os.umask(before)


def test_stale_socket_is_replaced(path: Path) -> None:
    sockets.listen(path).close()
    assert path.exists()
    with running(sockets.listen(path)):
        assert call(path, "Plugin.Activate") == (200, {"Implements": ["NetworkDriver", "IpamDriver"]})


def test_live_socket_is_refused_and_stays(path: Path, serving: Running) -> None:
    with pytest.raises(Conflict, match=f"process {os.getpid()} listens on {path} already: stop it first"):
        sockets.listen(path)
    assert call(path, "Plugin.Activate")[0] == 200


def test_live_socket_with_a_full_queue_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(0)
        waiting.connect(str(path))
        with pytest.raises(Conflict, match="listens on"):
            sockets.listen(path)
    assert path.exists()


def test_file_that_is_not_a_socket_is_refused_and_stays(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(Conflict, match="is not a socket"):
        sockets.listen(path)
    assert path.read_text() == "precious"


def test_socket_that_cannot_be_created_is_explained(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"cannot listen on .*: AF_UNIX path too long"):
        sockets.listen(tmp_path / ("x" * 120))
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"cannot listen on .*: Not a directory|File exists"):
        sockets.listen(tmp_path / "file" / "sock")


def test_one_of_two_servers_that_start_at_once_listens(path: Path) -> None:

    def attempt(_: int) -> socket.socket | None:
        try:
            return sockets.listen(path)
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            (sock,) = [sock for sock in pool.map(attempt, range(8)) if sock]
            sock.close()  # its file stays, stale


def test_stop_removes_the_socket(path: Path, serving: Running) -> None:
    serving.stop()
    serving.ended()
    assert not path.exists()


def test_stop_keeps_a_file_that_has_replaced_the_socket(path: Path, serving: Running) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        serving.stop()
        serving.ended()
        assert path.exists()


# HTTP


def test_empty_host_header_of_docker_20_10_is_accepted(path: Path, serving: Running) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        for _ in range(2):  # keep-alive
            sock.sendall(
                b"POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\n"
                b"Content-Length: 0\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n"
            )
            with http.client.HTTPResponse(sock) as response:
                response.begin()
                assert response.status == 200
                assert json.loads(response.read()) == {"Implements": ["NetworkDriver", "IpamDriver"]}


@pytest.mark.parametrize(
    "header", ["Transfer-Encoding: chunked", "Content-Length: -1", "Content-Length: 1e3"]
)
def test_request_without_a_valid_length_is_refused_in_json(path: Path, serving: Running, header: str) -> None:
    """Docker sends the length of each body (tests/recordings)."""
    with Client(path) as client:
        client.connect()
        client.sock.sendall(f"POST /NetworkDriver.Leave HTTP/1.1\r\nHost: \r\n{header}\r\n\r\n".encode())
        with http.client.HTTPResponse(client.sock) as response:
            response.begin()
            assert response.status == 411
            assert "Content-Length is missing" in json.loads(response.read())["Err"]


def test_bytes_that_are_not_http_are_refused_in_json(path: Path, serving: Running) -> None:
    with Client(path) as client:
        client.connect()
        client.sock.sendall(b"\x16\x03\x01\x02\x00\n")
        with http.client.HTTPResponse(client.sock) as response:
            response.begin()
            assert response.status == 400
            assert json.loads(response.read())["Err"].startswith("bad request (Bad Request): ")


def test_too_large_request_is_refused_in_json_and_keeps_the_connection(path: Path, serving: Running) -> None:
    with Client(path) as client:
        status, answer = client.call("NetworkDriver.Leave", b"x" * (BODY_BYTES + 1))
        assert status == 413
        assert "more than 1048576 bytes" in answer["Err"]
        assert client.call("NetworkDriver.Leave", LEAVE) == (200, {})


@pytest.mark.parametrize(
    ("verb", "where", "status"), [("GET", "Plugin.Activate", 405), ("POST", "Nope", 404)]
)
def test_wrong_verb_or_path_is_refused(
    path: Path, serving: Running, verb: str, where: str, status: int
) -> None:
    with Client(path) as client:
        client.request(verb, "/" + where)
        response = client.getresponse()
        assert response.status == status
        assert json.loads(response.read()).keys() == {"Err", "Error"}


def test_fast_calls_are_answered_while_many_slow_calls_wait(path: Path, serving: Running) -> None:
    slow, fast = server.AT_ONCE - 1, 100 - server.AT_ONCE + 1
    with ThreadPoolExecutor(100) as pool:
        joins = [pool.submit(call, path, "NetworkDriver.Join", JOIN) for _ in range(slow)]
        for _ in range(slow):
            assert serving.driver.joining.acquire(timeout=120)
        leaves = [pool.submit(call, path, "NetworkDriver.Leave", LEAVE) for _ in range(fast)]
        assert [leave.result(120) for leave in leaves] == [(200, {})] * fast
        assert not any(join.done() for join in joins)
        serving.driver.release.set()
        assert [join.result(120) for join in joins] == [(200, JOINED)] * slow


def test_slow_calls_beyond_the_limit_are_all_answered(path: Path, serving: Running) -> None:
    with ThreadPoolExecutor(100) as pool:
        joins = [pool.submit(call, path, "NetworkDriver.Join", JOIN) for _ in range(100)]
        for _ in range(server.AT_ONCE):
            assert serving.driver.joining.acquire(timeout=120)
        serving.driver.release.set()
        assert [join.result(120) for join in joins] == [(200, JOINED)] * 100


def test_calls_on_connections_beyond_the_limit_are_all_answered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is made by closing reading ends: what has been sent is still read and answered."""
    monkeypatch.setattr(server, "CONNECTIONS", 32)
    with running(sockets.listen(path)) as serving, ExitStack() as connections:
        clients = [
            connections.enter_context(sent(path, "NetworkDriver.Join", JOIN))
            for _ in range(server.AT_ONCE + 100)
        ]
        for _ in range(server.AT_ONCE):
            assert serving.driver.joining.acquire(timeout=120)
        serving.driver.release.set()
        for sock in clients:
            assert answer_on(sock) == (200, JOINED)
            sock.close()


def test_call_without_a_thread_is_refused_with_the_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads()
    it = server.PluginServer(Calls(plugin(Slow())).answer, sockets.listen(path), threads)
    serving = threading.Thread(target=it.serve, daemon=True)
    serving.start()
    assert call(path, "Plugin.Activate")[0] == 200
    start = threading.Thread.start

    def cannot(thread: threading.Thread) -> None:
        if thread.name.startswith("call-"):
            raise RuntimeError("can't start new thread")  # Python's message at a limit of the kernel
        start(thread)

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", cannot)
        for _ in range(10):
            with sent(path, "NetworkDriver.Leave", LEAVE) as sock:
                status, answer = answer_on(sock)
            assert status == 503
            assert answer["Err"].startswith("the ovn-docker driver cannot start a thread for this call")
    assert call(path, "NetworkDriver.Leave", LEAVE) == (200, {})
    until(lambda: [state.name for state in threads.states()] == ["accept"])
    assert threads.failures() == {"accept": 0, "call": 0}
    it.stop()
    serving.join(120)
    assert not serving.is_alive()


def test_a_failure_outside_of_the_answer_ends_the_connection_and_is_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client must not wait for an answer that does not come."""

    def fail(_: object) -> None:
        raise SystemExit("a library gives up")

    threads = Threads()
    it = server.PluginServer(Calls(plugin(Slow())).answer, sockets.listen(path), threads)
    serving = threading.Thread(target=it.serve, daemon=True)
    serving.start()
    with monkeypatch.context() as broken:
        broken.setattr(server._Conversation, "parse_request", fail)
        with sent(path, "NetworkDriver.Leave", LEAVE) as sock:
            assert sock.recv(1) == b""
    until(lambda: threads.failures() == {"accept": 0, "call": 1})
    assert call(path, "NetworkDriver.Leave", LEAVE) == (200, {})
    it.stop()
    serving.join(120)
    assert not serving.is_alive()


def test_calls_that_wait_are_answered_in_the_order_of_their_arrival() -> None:
    slots = server.Slots(1)
    passed = []

    def come_first() -> None:
        with slots:
            passed.append("first")

    first = threading.Thread(target=come_first, daemon=True)
    with slots:
        first.start()
        until(lambda: slots.waiting == 1)
    with slots:  # at the moment when the slot becomes free
        passed.append("second")
    first.join(120)
    assert passed == ["first", "second"]


# Shutdown


def test_call_in_flight_is_answered_before_the_server_ends(path: Path, serving: Running) -> None:
    with ThreadPoolExecutor(1) as pool, Client(path) as idle:
        assert idle.call("Plugin.Activate")[0] == 200
        join = pool.submit(call, path, "NetworkDriver.Join", JOIN)
        assert serving.driver.joining.acquire(timeout=120)
        serving.stop()
        until(lambda: not path.exists())
        time.sleep(1)  # longer than a connection has for its first call
        assert not join.done()
        serving.driver.release.set()
        assert join.result(120) == (200, JOINED)
        assert serving.ended() < 5


def test_idle_connections_and_partial_requests_do_not_delay_the_end(path: Path, serving: Running) -> None:
    with (
        Client(path) as idle,
        socket.socket(socket.AF_UNIX) as partial,
        socket.socket(socket.AF_UNIX) as silent,
    ):
        assert idle.call("Plugin.Activate")[0] == 200
        partial.connect(str(path))
        partial.sendall(b"POST /NetworkDriver.Join HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        silent.connect(str(path))
        serving.stop()
        assert serving.ended() < 5


def test_server_ends_although_a_call_never_ends(
    path: Path, serving: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "DRAIN_SECONDS", 0.5)
    with Client(path) as stuck:
        stuck.request("POST", "/NetworkDriver.Join", json.dumps(JOIN))
        assert serving.driver.joining.acquire(timeout=120)
        serving.stop()
        assert 0.3 < serving.ended() < 5


@pytest.mark.slow
def test_each_call_during_shutdown_is_answered_or_refused_as_a_whole(path: Path, serving: Running) -> None:
    """A refused call fails as it is sent, so that Docker knows that no part of it was taken."""
    answered = threading.Semaphore(0)

    def chatter(_: int) -> int:
        calls = 0
        with Client(path) as client:
            while True:
                try:
                    client.request("POST", "/NetworkDriver.Leave", json.dumps(LEAVE))
                except (BrokenPipeError, FileNotFoundError):
                    return calls
                assert client.getresponse().read() == b"{}"
                answered.release()
                calls += 1

    with ThreadPoolExecutor(8) as pool:
        chatters = pool.map(chatter, range(8))
        for _ in range(1000):
            assert answered.acquire(timeout=120)
        serving.stop()
        assert sum(chatters) >= 1000
    assert serving.ended() < 5


@pytest.mark.slow
def test_call_with_any_exception_is_answered_and_ends_no_thread(path: Path) -> None:
    errors = [SystemExit("a library gives up"), MemoryError(), RecursionError()]
    raised = cycle(errors)

    class Broken(Slow):
        def leave(self, *_: object) -> None:
            raise next(raised)

    threads = Threads()
    it = server.PluginServer(Calls(plugin(Broken())).answer, sockets.listen(path), threads)
    serving = threading.Thread(target=it.serve, daemon=True)
    serving.start()
    for _, error in zip(range(2 * server.AT_ONCE), cycle(errors), strict=False):
        status, answer = call(path, "NetworkDriver.Leave", LEAVE)
        assert (status, answer["Err"]) == (
            500,
            f"internal error ({type(error).__name__}): see the log of the ovn-docker driver",
        )
    until(lambda: [state.name for state in threads.states()] == ["accept"])
    assert threads.failures() == {"accept": 0, "call": 0}
    it.stop()
    serving.join(120)
    assert not serving.is_alive()
    until(lambda: threads.states() == [])


def test_failure_of_the_server_itself_ends_only_its_connection(path: Path) -> None:
    broken = True

    def answer(verb: str, where: str, body: bytes) -> tuple[HTTPStatus, bytes]:
        if broken:
            raise SystemExit("a library gives up")
        return Calls(plugin(Slow())).answer(verb, where, body)

    threads = Threads()
    it = server.PluginServer(answer, sockets.listen(path), threads)
    serving = threading.Thread(target=it.serve, daemon=True)
    serving.start()
    with pytest.raises(http.client.RemoteDisconnected):
        call(path, "NetworkDriver.Leave", LEAVE)
    until(lambda: threads.failures() == {"accept": 0, "call": 1})
    broken = False
    assert call(path, "NetworkDriver.Leave", LEAVE) == (200, {})
    it.stop()
    serving.join(120)
    assert not serving.is_alive()


def test_stop_before_serve_answers_calls_that_are_waiting(path: Path) -> None:
    it = server.PluginServer(Calls(plugin(Slow())).answer, sockets.listen(path))
    with Client(path) as early:
        early.request("POST", "/NetworkDriver.Leave", json.dumps(LEAVE))
        it.stop()
        it.serve()
        it.stop()
        assert early.getresponse().read() == b"{}"
    assert not path.exists()


# Servers in processes of their own

PROGRAM = """
import logging, signal, sys, time
from pathlib import Path
from ovn_docker.docker import server, sockets
from ovn_docker.docker.calls import Calls
from ovn_docker.model import Joined
from ovn_docker.docker.wire import Plugin

class Slow:
    def join(self, *_):
        print("joining", flush=True)
        time.sleep(1.5)
        return Joined("odc0")
    def leave(self, *_):
        pass

class Server(server.PluginServer):
    def _drain(self):
        print("accepts no more", flush=True)
        super()._drain()

logging.basicConfig(stream=sys.stderr)
sock = sockets.inherited_socket()
assert sockets.inherited_socket() is None
it = Server(Calls(Plugin(Slow(), None)).answer, sock or sockets.listen(Path(sys.argv[1])))
signal.signal(signal.SIGTERM, lambda *_: it.stop())
sockets.notify("READY=1")
print("inherited" if sock else "bound", flush=True)
it.serve()
print("ended", flush=True)
"""

SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.execve(sys.argv[2], sys.argv[2:], os.environ | {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
"""


@contextmanager
def process(path: Path, sock: socket.socket | None = None, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a server as a process; with *sock* as systemd does, handing that socket over."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(path)]
    if sock is not None:
        command = [sys.executable, "-c", SYSTEMD, str(sock.fileno()), *command]
    it = subprocess.Popen(
        command,
        env=os.environ | env,
        pass_fds=[sock.fileno()] if sock else [],
        stdout=subprocess.PIPE,
        text=True,
    )
    with it:
        try:
            yield it
        finally:
            it.kill()


def line_of(it: "subprocess.Popen[str]") -> str:
    assert it.stdout
    return it.stdout.readline().rstrip()


@pytest.mark.slow
def test_sigterm_finishes_the_call_in_flight(path: Path) -> None:
    with process(path) as it, ThreadPoolExecutor(1) as pool:
        assert line_of(it) == "bound"
        join = pool.submit(call, path, "NetworkDriver.Join", JOIN)
        assert line_of(it) == "joining"
        it.send_signal(signal.SIGTERM)
        assert join.result(120) == (200, JOINED)
        assert [line_of(it), line_of(it)] == ["accepts no more", "ended"]
        assert it.wait(120) == 0
        assert not path.exists()


def test_socket_of_systemd_is_used_and_outlives_the_process(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, ThreadPoolExecutor(1) as pool:
        sock.bind(str(path))
        sock.listen()
        early = pool.submit(call, path, "NetworkDriver.Leave", LEAVE)  # before a server runs
        with process(path, sock) as it:
            assert line_of(it) == "inherited"
            assert early.result(120) == (200, {})
            it.send_signal(signal.SIGTERM)
            assert it.wait(120) == 0
        between = pool.submit(call, path, "NetworkDriver.Leave", LEAVE)
        with process(path, sock) as it:
            assert line_of(it) == "inherited"
            assert between.result(120) == (200, {})


@pytest.mark.slow
def test_call_on_the_socket_of_systemd_after_sigterm_is_left_to_the_next_process(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, ThreadPoolExecutor(2) as pool:
        sock.bind(str(path))
        sock.listen()
        with process(path, sock) as it:
            assert line_of(it) == "inherited"
            join = pool.submit(call, path, "NetworkDriver.Join", JOIN)
            assert line_of(it) == "joining"
            it.send_signal(signal.SIGTERM)
            assert line_of(it) == "accepts no more"
            leave = pool.submit(call, path, "NetworkDriver.Leave", LEAVE)
            assert join.result(120) == (200, JOINED)
            assert it.wait(120) == 0
            assert not leave.done()
        with process(path, sock):
            assert leave.result(120) == (200, {})


def test_socket_of_systemd_of_another_kind_is_refused(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with process(path, sock) as it:
            assert line_of(it) == ""
            assert it.wait(120) != 0
    assert "must hand over one ListenStream= with a path" in capfd.readouterr().err


def test_environment_meant_for_another_process_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert sockets.inherited_socket() is None
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.slow
def test_held_connections_do_not_keep_docker_out(path: Path) -> None:
    """More connections than the server's limit of open files; half of them have sent part of a request."""
    with process(path) as it:
        assert line_of(it) == "bound"
        held: list[socket.socket] = []
        try:
            for number in range(server.CONNECTIONS + 250):
                sock = socket.socket(socket.AF_UNIX)
                held.append(sock)
                sock.connect(str(path))
                if number % 2:
                    sock.sendall(b"POST /NetworkDriver.Leave HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
            assert call(path, "NetworkDriver.Leave", LEAVE) == (200, {})
        finally:
            for sock in held:
                sock.close()
        it.send_signal(signal.SIGTERM)
        assert it.wait(120) == 0


# Notifications


@pytest.mark.parametrize("abstract", [False, True])
def test_notify_sends_the_state_to_the_service_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@ovn-docker-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(120)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        sockets.notify("READY=1\nSTATUS=serving")
        assert manager.recv(100) == b"READY=1\nSTATUS=serving"


@pytest.mark.parametrize("name", [None, "", "/nonexistent/notify", "vsock:2:1", "@" + "x" * 200])
def test_notify_never_fails(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    sockets.notify("READY=1")


def test_releases_after_one_that_timed_out_get_a_short_deadline(path: Path) -> None:
    """``docker network rm`` makes three releases, and each would wait on a host that is cut off."""

    class CutOff:
        def __init__(self) -> None:
            self.reached = False
            self.given: list[float] = []

        def release_address(self, *_: object) -> None:
            self.given.append(Deadline.of_call(15).seconds)
            if not self.reached:
                raise Unavailable("cut off")

    ipam = CutOff()
    request = {"PoolID": str(uuid4()), "Address": "10.1.0.1"}

    def release(*, reached: bool) -> float:
        ipam.reached = reached
        call(path, "IpamDriver.ReleaseAddress", request)
        return ipam.given.pop()

    plugin = Plugin(cast("NetworkDriver", Slow()), cast("IpamDriver", ipam))
    web = server.PluginServer(Calls(plugin).answer, sockets.listen(path))
    thread = threading.Thread(target=web.serve)
    thread.start()
    try:
        given = [release(reached=reached) for reached in (True, False, False, True, True)]
    finally:
        web.stop()
        thread.join()
    assert given[0] == given[1] == given[4] > 10
    assert given[2] == given[3] == 1
