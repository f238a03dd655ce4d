"""What is fuzzed: each target takes bytes, as hostile as they come, and raises if an answer is a wrong one.

`coverage.py` looks for bytes that reach new code, `test_corpus.py` repeats those that once did harm.
"""

import argparse
import json
import logging
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ovs.jsonrpc

import recordings.requests as recordings
from ovn_docker import definition, options, settings
from ovn_docker.backends import reports
from ovn_docker.backends.northbound import HOST
from ovn_docker.cli import arguments
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.host.parser import Parser
from ovn_docker.model import PoolId
from ovn_docker.plugin import server, sockets, wire
from recordings.requests import REQUESTS
from unit.test_wire import Ledger

STATUSES = {200, 400, 404, 405, 413, 431, 501}
"""Of answers: fine or refused, malformed, no such method, wrong verb, too large, no such coding."""


_LOGS = ("ovn_docker", "waitress")


class _Alarm(logging.Handler):
    """A traceback in the log is a defect, while this is in force; nothing else is said meanwhile."""

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


class _Socket:
    """The plugin's server on its socket, in steps: one thread hears and answers."""

    def __init__(self) -> None:
        ledger = Ledger()
        self._path = Path(tempfile.mkdtemp()) / "plugin.sock"
        self._server = server.Server(
            server.application(wire.Plugin(ledger, ledger)), sockets.listen(self._path)
        )

    def answers(self, sent: bytes) -> Iterator[tuple[int, bytes]]:
        """Status and body of each answer to what one client sends before it falls silent."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._path))
            client.setblocking(False)
            heard = b""
            while sent or self._server._calls or not heard:
                if sent:
                    with suppress(BlockingIOError):
                        try:
                            sent = sent[client.send(sent) :]
                        except (BrokenPipeError, ConnectionResetError):
                            sent = b""
                for _ in range(3):
                    self._server._look(seconds=0)
                while self._server._calls:
                    self._server._calls.popleft().service()
                self._server._look(seconds=0)
                before = heard
                with suppress(BlockingIOError, ConnectionResetError):
                    while data := client.recv(1 << 16):
                        heard += data
                if heard == before and not sent:
                    break
        self._server._look(seconds=0)
        yield from _split(heard)


def _split(heard: bytes) -> Iterator[tuple[int, bytes]]:
    while heard:
        head, blank, heard = heard.partition(b"\r\n\r\n")
        assert blank, f"half an answer: {head!r}"
        first, *lines = head.decode("ascii").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        status = int(first.split(" ")[1])
        if status == 100:
            continue
        assert headers["content-type"] == "application/json", head
        length = int(headers["content-length"])
        yield status, heard[:length]
        heard = heard[length:]


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


_socket: list[_Socket] = []


def http(data: bytes) -> None:
    """Whatever bytes on the socket: each answer is JSON, and afterwards the next client gets his."""
    if not _socket:
        _socket.append(_Socket())
    with _Alarm():
        for status, body in _socket[0].answers(data):
            _proper(status, body)
        call = b"POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n"
        assert list(_socket[0].answers(call)) == [(200, b'{"Implements":["NetworkDriver","IpamDriver"]}')]


PATHS = sorted(wire.METHODS)


def call(data: bytes) -> None:
    """A call of each method, by the first byte, with whatever body."""
    path = PATHS[data[0] % len(PATHS)] if data else PATHS[0]
    plugin = wire.Plugin(Ledger(), Ledger())
    try:
        body = wire.answer(plugin, path, wire.decode(path, data[1:]))
    except OvnDockerError as error:
        body = wire.failure(str(error))
    _proper(200, body)


def words(data: bytes) -> None:
    """Options of a network, settings of the driver, and addresses on the command line: KEY=VALUE lines."""
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
    """The description of a network or a pool in a row of the northbound database: lines of KEY=VALUE."""
    ids = dict(line.partition("=")[::2] for line in data.decode(errors="replace").split("\n"))
    text, name = ids.get("ovn-docker:definition", ""), ids.get("ovn-docker:name", "")
    with suppress(definition.Refused):
        with _refusal():
            parsed = definition.stored(definition.switch_row(name), ids, text)
        assert definition.stored(definition.switch_row(name), ids, parsed.text) == parsed
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
    """What a database server sends, in pieces of a size that the first byte says."""
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
            results = ovsdb._results(message.result, "OVN_Northbound", 1)
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
    """Proper inputs to begin with."""
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
