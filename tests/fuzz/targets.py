"""Targets of fuzzing: each takes hostile bytes, and raises if an answer is wrong.

`coverage.py` searches for bytes that reach new code; `test_corpus.py` repeats those that caused failures.
"""

import argparse
import json
import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ovs.jsonrpc

import recordings.requests as recordings
from ovn_docker import definition, options, settings
from ovn_docker.backends.ovn.rows import HOST
from ovn_docker.backends.ovn.shared import reports, shared_networks
from ovn_docker.cli import arguments
from ovn_docker.docker import wire
from ovn_docker.docker.calls import Calls
from ovn_docker.docker.server import _Conversation, _PluginConnection
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb.parser import Parser
from ovn_docker.model import PoolId
from recordings.requests import REQUESTS
from unit.test_wire import Ledger

STATUSES = {200, 400, 404, 405, 411, 413, 414, 431, 501, 505}
"""Statuses of calls, and those with which http.server refuses requests that are not HTTP."""


_LOGS = ("ovn_docker",)


class _Alarm(logging.Handler):
    """A log handler that raises for a traceback, which is a defect, and drops all other messages."""

    def __enter__(self) -> None:
        self._before = [(log, log.propagate, log.handlers) for log in map(logging.getLogger, _LOGS)]
        for log, _, _ in self._before:
            log.propagate, log.handlers = False, [self]

    def __exit__(self, *_: object) -> None:
        for log, propagate, handlers in self._before:
            log.propagate, log.handlers = propagate, handlers

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            _, error, _ = record.exc_info
            raise AssertionError(f"{record.getMessage()}: {error!r}") from error


def _answers(sent: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield status and body of each answer to the bytes that one client sends before it closes its end."""
    ledger = Ledger()
    calls = Calls(wire.Plugin(ledger, ledger))
    client, served = socket.socketpair()

    def send() -> None:
        with suppress(OSError):
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)

    def receive() -> bytes:
        received = b""
        with suppress(OSError):
            while data := client.recv(1 << 16):
                received += data
        return received

    with client, ThreadPoolExecutor(2) as pool:
        pool.submit(send)
        received = pool.submit(receive)
        with served, suppress(OSError):
            _Conversation(_PluginConnection(served), calls.answer)
        yield from _split(received.result())


def _split(received: bytes) -> Iterator[tuple[int, bytes]]:
    while received:
        head, blank, received = received.partition(b"\r\n\r\n")
        assert blank, f"half an answer: {head!r}"
        first, *lines = head.decode("ascii").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        status = int(first.split(" ")[1])
        if status == 100:
            continue
        assert headers["content-type"] == "application/json", head
        length = int(headers["content-length"])
        yield status, received[:length]
        received = received[length:]


def _proper(status: int, body: bytes) -> None:
    assert status in STATUSES, (status, body)
    answer = json.loads(body)
    assert isinstance(answer, dict)
    if status != 200 or "Err" in answer:
        assert answer.keys() == {"Err", "Error"}
        _one_line(answer["Err"])


def _one_line(said: str) -> None:
    assert said
    assert len(said) < 10_000, said
    assert said.isprintable(), said


def http(data: bytes) -> None:
    """Send bytes to the socket: each answer is JSON."""
    with _Alarm():
        for status, body in _answers(data):
            _proper(status, body)


PATHS = sorted(wire.METHODS)


def call(data: bytes) -> None:
    """Make a call of the method that the first byte selects, with the rest as its body."""
    path = PATHS[data[0] % len(PATHS)] if data else PATHS[0]
    plugin = wire.Plugin(Ledger(), Ledger())
    try:
        body = wire.answer(plugin, path, wire.decode(path, data[1:]))
    except OvnDockerError as error:
        body = wire.failure(str(error))
    _proper(200, body)


def words(data: bytes) -> None:
    """Parse lines of KEY=VALUE: network options, settings of the driver, addresses of a command line."""
    given = dict(line.partition("=")[::2] for line in data.decode(errors="replace").split("\n"))
    variables = {f"OVN_DOCKER_{key.upper()}": value for key, value in given.items()}
    for table in (options.OPTIONS, options.UNDERLAY):
        _refused(BadRequest, partial(options.parse, given, table))
    for kind in (settings.Settings, settings.UnderlaySettings):
        _refused(BadRequest, partial(settings.read, kind, given, {}))
        _refused(BadRequest, partial(settings.read, kind, {}, variables))
    for text in given.values():
        _refused(argparse.ArgumentTypeError, partial(arguments.addresses, text))


def _refused(how: type[Exception], parse: Callable[[], object]) -> None:
    try:
        parse()
    except how as error:
        _one_line(str(error))


def row(data: bytes) -> None:
    """Read the row of a network or a pool in the northbound database, from lines of KEY=VALUE."""
    ids = dict(line.partition("=")[::2] for line in data.decode(errors="replace").split("\n"))
    text, name = ids.get("ovn-docker:definition", ""), ids.get("ovn-docker:name", "")
    with suppress(definition.Refused):
        with _refusal():
            parsed = shared_networks.read_definition(definition.switch_row(name), ids, text)
        assert shared_networks.read_definition(definition.switch_row(name), ids, parsed.text) == parsed
        assert parsed.request["Driver"] == "openvswitch"
        assert parsed.request["Name"] == name
    (report,) = reports.read([{"_uuid": reports.report_row(ids.get(HOST, "")), "external_ids": ids}])
    for said in (*(one.by for one in report.occupied), *(one.why for one in report.problems)):
        _one_line(said)
    part = ids.get("ovn-docker:part")
    with suppress(Conflict), _refusal():
        pool = definition.stored_pool(PoolId("p"), ids.get("subnet", ""), part, ids.keys())
        assert pool.subnet.prefixlen >= 8


@contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except (definition.Refused, Conflict) as refused:
        _one_line(str(refused))
        raise


def database(data: bytes) -> None:
    """Parse a reply of a database server, in pieces whose size the first byte gives."""
    size, text = (data[0] + 1 if data else 1), data[1:].decode(errors="replace")
    parser = Parser()
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        used = parser.feed(piece)
        assert 0 <= used <= len(piece)
        if parser.is_done():
            break
    else:
        return
    value = parser.finish()
    message = ovs.jsonrpc.Message.from_json(value)
    if isinstance(message, ovs.jsonrpc.Message) and message.type == ovs.jsonrpc.Message.T_REPLY:
        with suppress(OvnDockerError):
            results = ovsdb.results_of(
                message.result, "OVN_Northbound", [ovsdb.select("Logical_Switch", columns=["name"])]
            )
            assert isinstance(results, list)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "http": http, "call": call, "words": words, "database": database, "row": row,
}  # fmt: skip

_ROWS: list[Any] = [
    {"_uuid": ["uuid", "6f766e2d-646f-436b-8572-706f6f6c0000"], "name": "foo", "ports": ["set", []]},
    {"external_ids": ["map", [["ovn-docker:owner", "overlay"], ["a", '\u00e4\\"']]], "tag": ["set", [1, 2]]},
]


_REPLIES: list[Any] = [
    [{"rows": _ROWS}, {"count": 1}, {"uuid": ["uuid", "x"]}, {}],
    [None, {"error": "timed out"}],
    [],
]
_NOTICES: list[Any] = [
    {"id": "echo", "method": "echo", "params": []},
    {"id": None, "method": "update", "params": [None, {"T": {"u": {"new": _ROWS[0]}}}]},
]
_WORDS = (
    "com.docker.network.driver.mtu=1400\novn.network=foo",
    "ovn.switch=s\novn.security-groups=a,b",
    "socket=/run/a\nscope=auto\nmetrics=127.0.0.1:9476\nlate_flows=warn\nrequest_timeout=1.5",
    "address_pools=10.192.0.0/12:24,fd00::/48:64\nencap=10.0.0.1,[fd00::1]",
)


def seeds(target: str) -> Iterator[bytes]:
    """Return valid inputs to begin with."""
    if target == "words":
        yield from (words.encode() for words in _WORDS)
    elif target == "row":
        for one in json.loads((Path(recordings.__file__).parent / "definitions.json").read_text()):
            yield "\n".join(f"{key}={value}" for key, value in one["external_ids"].items()).encode()
    elif target == "database":
        replies = [{"id": 1, "error": None, "result": result} for result in _REPLIES]
        yield from (b"\x40" + json.dumps(message).encode() for message in (*replies, *_NOTICES))
    else:
        for number, path in enumerate(PATHS):
            for request in (REQUESTS[path] or [{}])[:6]:
                body = json.dumps(request).encode()
                head = f"POST {path} HTTP/1.1\r\nHost: \r\nContent-Length: {len(body)}\r\n\r\n".encode()
                yield bytes([number]) + body if target == "call" else head + body
