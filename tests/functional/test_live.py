"""The live page of a real process, with hostile names in the databases: its answers, limits and end."""

import http.client
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from functional.machine import OVN_DOCKER, Machine
from functional.ovsdb_servers import until
from functional.test_cli_hostile import ALL, machine  # noqa: F401 - a fixture
from ovn_docker.host.kernel.ping import in_namespace
from ovn_docker.live.peers import PeerAnswer, ask_peer
from ovn_docker.live.service import INTERVAL
from ovn_docker.text.printable import printable
from ovn_docker.web.bounded_server import CONNECTIONS

pytestmark = pytest.mark.slow

TOKEN = "a-token-that-nobody-guesses"


class Served:
    """`ovn-docker graph --serve` on a machine."""

    def __init__(self, where: Machine, port: int, *options: str, address: str = "127.0.0.1") -> None:
        self._machine = where
        self.port = port
        self.process = subprocess.Popen(
            where.inside(*OVN_DOCKER, "graph", f"--serve={address}:{port}", *options),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.said = self.process.stdout.readline()
        assert self.said, "it ended: see its error above"

    @property
    def pid(self) -> int:
        """The server's process ID on this machine: nsenter(1) has forked it."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else pid

    def connect(self) -> socket.socket:
        """Connect in the machine's network."""
        return in_namespace(
            int(self._machine.pid), lambda: socket.create_connection(("127.0.0.1", self.port), 30)
        )

    def ask(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        """Return the answer to one request, with its body read in *content*."""
        client = http.client.HTTPConnection("127.0.0.1", self.port)
        client.sock = self.connect()
        client.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = client.getresponse()
        answer.content = answer.read()  # type: ignore[attr-defined]
        client.close()
        return answer

    def json(self, path: str, **headers: str) -> Any:
        """Return the JSON at a path."""
        answer = self.ask(path, **headers)
        assert answer.status == 200, (path, answer.status)
        return json.loads(answer.content)  # type: ignore[attr-defined]

    def state(self, **headers: str) -> Any:
        """Return a state with a reading of the cluster."""
        found: list[Any] = []

        def is_read() -> bool:
            found.append(self.json("/state.json", **headers))
            return bool(found[-1]["cluster"])

        until(is_read)
        return found[-1]

    def end(self) -> None:
        """Kill the server."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def serve(machine: Machine) -> Iterator[Callable[..., Served]]:  # noqa: F811
    """Starts servers that end with the test."""
    with ExitStack() as started:

        def start(*arguments: Any, **more: Any) -> Served:
            served = Served(machine, *arguments, **more)
            started.callback(served.end)
            return served

        yield start


@pytest.fixture(scope="module")
def served(machine: Machine) -> Iterator[Served]:  # noqa: F811
    """One server for the tests that do not end it."""
    served = Served(machine, 8080)
    yield served
    served.end()


def texts(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts(one)


def test_hostile_names_are_data(served: Served) -> None:
    state = served.state()
    until(lambda: (found := served.json("/state.json"))["doctor"] and state.update(found) is None)
    assert {printable(name) for name in ALL} <= {one["name"] for one in state["cluster"]["containers"]}
    assert state["doctor"]["findings"]
    for container in state["cluster"]["containers"]:
        state |= {container["id"]: served.json(f"/inspect.json?id={container['id']}")}
    for text in texts(state):
        assert text.isprintable(), text


def test_answers_have_the_headers_that_protect_them(served: Served) -> None:
    served.state()
    for path in ("/", "/state.json", "/picture.svg", "/nothing"):
        answer = served.ask(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Content-Type"].partition(";")[0] == {
            "/": "text/html",
            "/state.json": "application/json",
            "/picture.svg": "image/svg+xml",
        }.get(path, "text/plain")


def test_picture_is_the_one_that_the_command_draws(served: Served) -> None:
    served.state()
    picture = served.ask("/picture.svg").content.decode()  # type: ignore[attr-defined]
    assert picture.count('class="container"') >= len(ALL)
    assert "<script" not in picture


def test_inspect_shows_what_the_command_prints(served: Served, machine: Machine) -> None:  # noqa: F811
    state = served.state()
    (web,) = (one for one in state["cluster"]["containers"] if one["name"] == "web")
    lines = served.json(f"/inspect.json?id={web['id']}")
    printed = machine.ovn_docker("inspect", "web").stdout
    for word, text in lines:
        assert re.search(rf"^{re.escape(word)} +{re.escape(text)}$", printed, re.MULTILINE), (word, text)
    assert served.ask("/inspect.json?id=nobody").status == 404
    assert served.ask("/inspect.json").status == 404


def test_trace_shows_what_the_command_prints(served: Served, machine: Machine) -> None:  # noqa: F811
    first, second = (one["id"] for one in served.state()["cluster"]["containers"][:2])
    found: list[Any] = []

    def has_ended() -> bool:
        found.append(served.json(f"/trace.json?from={first}&to={second}&packet=tcp/80"))
        return found[-1] is not None

    until(has_ended, 60)
    done = machine.ovn_docker("trace", "--no-probe", first, second, "tcp/80")
    printed = done.stdout or done.stderr.replace("ovn-docker: ", "no trace: ")
    assert found[-1].strip() == printed.strip()
    assert "tcp/PORT" in served.json(f"/trace.json?from={first}&to={second}&packet=--help")
    for query in (f"from={first}&to=--help", f"from={first}", f"from={first}&to=web", ""):
        assert served.ask(f"/trace.json?{query}").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_page_is_read_only(served: Served, method: str) -> None:
    for path in ("/", "/state.json", "/trace.json"):
        answer = served.ask(path, method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def test_other_host_names_are_refused(served: Served) -> None:
    for host in ("evil.example", "evil.example:8080", "10.0.0.1", "127.0.0.1.evil.example"):
        assert served.ask("/state.json", Host=host).status == 421
    assert served.ask("/state.json", Host="localhost:8080").status == 200
    with served.connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert sock.makefile("rb").readline().startswith(b"HTTP/1.0 421 ")


def test_invalid_requests_are_refused_and_the_server_goes_on(served: Served) -> None:
    for request in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # TLS
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /state.json?after=%ff%00&" + b"a=1&" * 100 + b" HTTP/1.0\r\nHost: localhost\r\n\r\n",
    ):
        with served.connect() as sock, suppress(ConnectionError):
            with suppress(OSError):  # the server has refused the request before its end
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
            said = sock.makefile("rb").read()
            assert b"root:" not in said
            assert not said or re.match(rb"HTTP/1.[01] (200|4\d\d|501) ", said), said[:100]
    assert served.ask("/state.json").status == 200


def test_token_is_needed_for_every_request(
    serve: Callable[..., Served],
    machine: Machine,  # noqa: F811
    tmp_path: Path,
) -> None:
    machine.out("sh", "-c", f"umask 077; echo {TOKEN} >/run/token")
    served = serve(8081, "--token-file=/run/token", address="0.0.0.0")
    assert served.said == "serving http://0.0.0.0:8081/, with the token as password\n"
    for path in (
        "/",
        "/state.json",
        "/picture.svg",
        "/inspect.json",
        "/trace.json",
        "/host.json",
        "/nothing",
    ):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic Og=="}):
            answer = served.ask(path, **headers)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
            assert TOKEN.encode() not in answer.content  # type: ignore[attr-defined]
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert served.state(**right)["cluster"]
    assert served.ask("/", Host="evil.example", **right).status == 421
    command = Path(f"/proc/{served.pid}/cmdline").read_bytes()
    assert TOKEN.encode() not in command


def test_page_without_a_token_is_refused_beyond_loopback(machine: Machine) -> None:  # noqa: F811
    code, said = machine.refusal("graph", "--serve", "0.0.0.0:8082")
    assert code == 2
    assert said.startswith(
        "ovn-docker: --serve 0.0.0.0:8082 can be reached from other machines: add --token-"
    )
    assert "0.0.0.0:8082" not in machine.listening()


def test_address_in_use_is_refused_in_one_line(served: Served, machine: Machine) -> None:  # noqa: F811
    assert served.process.poll() is None
    code, said = machine.refusal("graph", "--serve", "127.0.0.1:8080")
    assert code == 1
    assert said == (
        "ovn-docker: cannot listen for browsers on 127.0.0.1:8080: Address already in use; "
        "name another --serve ADDRESS:PORT\n"
    )


def ask_as_peer(machine: Machine, port: int, token: str = "") -> PeerAnswer:  # noqa: F811
    """Ask a page as that of another host does."""
    return in_namespace(int(machine.pid), lambda: ask_peer(("127.0.0.1", port), token))


def test_page_of_another_host_gets_what_only_this_host_knows(
    served: Served,
    machine: Machine,  # noqa: F811
    serve: Callable[..., Served],
) -> None:
    state = served.state()
    until(lambda: (answer := ask_as_peer(machine, served.port)).state and answer.state.findings)
    answer = ask_as_peer(machine, served.port)
    assert answer.state
    assert (answer.where, answer.problem, answer.state.host) == ("127.0.0.1:8080", "", "here")
    assert {one.to for one in answer.state.tunnels} == {
        one["id"] for one in state["cluster"]["hosts"] if not one["here"]
    }
    machine.out("sh", "-c", f"umask 077; echo {TOKEN} >/run/token")
    other = serve(8084, "--token-file=/run/token", "--peer=127.0.0.1:8080", "--peer=127.0.0.1:1")
    assert "has another token" in ask_as_peer(machine, 8084, "wrong" * 4).problem
    problems: list[str] = []

    def are_shown() -> bool:
        shown = other.state(Authorization=f"Bearer {TOKEN}")["cluster"]["problems"]
        problems[:] = [line for line in shown if line.startswith("page of ")]
        return len(problems) == 2

    until(are_shown)
    assert problems == [
        "page of 127.0.0.1:8080: it is the page of a host that is shown already",
        "page of 127.0.0.1:1: does not answer: [Errno 111] Connection refused",
    ]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (3 << 20), "sent no complete answer of at most "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull", "sent an invalid answer"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
            "with status 302",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer: "),
        (b"", "does not answer: "),
    ],
)
def test_peer_that_is_another_program_is_a_problem(sent: bytes, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(sent)

        answering = pool.submit(answer)
        found = ask_peer(listener.getsockname()[:2], TOKEN)
        answering.result()
    assert found.state is None
    assert why in found.problem


def number(state: Any) -> int:
    """Return the number of the reading in a state."""
    return int(state["version"].partition("-")[0])


def test_ten_browsers_cost_one_reading_per_interval(served: Served) -> None:
    first, began = number(served.state()), time.monotonic()

    def browse(_: int) -> list[int]:
        return [number(served.json("/state.json")) for _ in range(30)]

    with ThreadPoolExecutor(10) as browsers:
        seen = [*browsers.map(browse, range(10))]
    readings = max(max(numbers) for numbers in seen) - first
    assert readings <= (time.monotonic() - began) / INTERVAL + 1
    assert all(numbers == sorted(numbers) for numbers in seen)


def test_browser_that_has_the_state_gets_nothing_again(served: Served) -> None:
    """Unless another one has been read meanwhile."""

    def is_unchanged() -> bool:
        version = served.state()["version"]
        answer = served.ask(f"/state.json?after={version}")
        assert answer.status in (200, 204)
        assert (answer.status == 204) == (answer.content == b"")  # type: ignore[attr-defined]
        return answer.status == 204

    until(is_unchanged)


def test_silent_slow_and_many_clients_do_not_keep_others_out(served: Served) -> None:
    with ExitStack() as held:
        for sent in (b"", b"GET / HTTP/1.1\r\n", b"GET /state.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50):
            for _ in range(CONNECTIONS):
                sock = held.enter_context(served.connect())
                with suppress(ConnectionError):
                    sock.sendall(sent)
            assert served.ask("/state.json").status == 200
        open_files = len([*Path(f"/proc/{served.pid}/fd").iterdir()])
        assert open_files < 2 * CONNECTIONS + 32


def resident(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1])


def test_memory_is_bounded_while_clients_read_no_answer(served: Served) -> None:
    served.state()
    before = resident(served.pid)
    request = b"GET /picture.svg HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as held:
        for _ in range(10 * CONNECTIONS):
            sock = held.enter_context(served.connect())
            with suppress(ConnectionError):
                sock.sendall(request * 20)
        assert served.ask("/state.json").status == 200
        assert resident(served.pid) - before < 64 * 1024


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_while_browsers_are_connected(
    serve: Callable[..., Served], number: signal.Signals
) -> None:
    served = serve(8083)
    served.state()
    with served.connect() as silent, served.connect() as half:
        half.sendall(b"GET / HTTP/1.1\r\n")
        subprocess.run(["kill", f"-{number:d}", str(served.pid)], check=True)
        assert served.process.wait(120) == 0
        assert silent.recv(1) == b""
