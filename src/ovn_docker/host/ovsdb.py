"""OVSDB transactions over connections that mend themselves (RFC 7047, ovsdb-server(7)).

No replica of the database is kept: an operation names its rows by UUID and costs the same
whatever the size of the tables. Every transaction that is sent here must be safe to send twice,
because after a lost connection nobody knows whether it was committed.
"""

import errno
import json
import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from select import poll
from typing import Any

import ovs.json
import ovs.jsonrpc
import ovs.poller
import ovs.stream

from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, OvnDockerError, TimedOut, Unavailable
from ovn_docker.model import Tls

log = logging.getLogger(__name__)

Operation = dict[str, Any]
Row = dict[str, Any]
Condition = list[Any]

_BACKOFF = 1000, 4000
"""Shortest and longest pause between two attempts to connect, in milliseconds."""

_LOOK, _KEEP, _UNUSED = 0.5, 2.0, 60.0
"""Seconds between a waiting call's looks at whether we close; between two looks after idle connections; until
one that is not needed is closed. Servers ask whether we live after 5 s, and give up after another 5."""

ovs.poller.SelectPoll = poll  # as its source advises: select() ends at 1024 files


class OperationError(OvnDockerError):
    """The server refused an operation; nothing of its transaction was done (RFC 7047, 4.1.3)."""

    def __init__(self, index: int, error: str, details: str) -> None:
        super().__init__(f"the database refused operation {index}: {error} ({details})")
        self.index = index
        self.error = error


class Database:
    """A database on one server or on the members of a cluster; safe for use from many threads.

    *remotes* are active OVSDB connection methods (``unix:``, ``tcp:``, ``ssl:``), tried in turn; *cure* is
    what the user can do when none of them is there.

    A call has a connection for itself and reads its own answer: to wake another thread for that takes longer
    than the server needs. A thread looks after the connections that no call has.
    """

    def __init__(self, name: str, remotes: Sequence[str], cure: str = "is it running?") -> None:
        for remote in remotes:
            if not ovs.stream.Stream.is_valid_name(remote):
                raise BadRequest(
                    f"{remote!r} is no database address: give tcp:IP:PORT, ssl:IP:PORT or unix:FILE"
                )
        self.name = name
        self.remotes = tuple(remotes)
        self.losses = 0
        """How many of its connections broke, up to now."""
        self._cure = cure
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._silent = ""
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"ovsdb {name}", daemon=True)
        self._keeper.start()

    def transact(self, *operations: Operation, deadline: Deadline) -> list[Any]:
        """Run *operations* as one transaction and return one result each: rows for a select, a count, ...

        Raises OperationError when the server refuses it, Unavailable when no server answers
        before *deadline*.
        """
        connection = self._connection()
        try:
            reply = self._ask(connection, [self.name, *operations], deadline)
        except BaseException:
            connection.close()
            raise
        finally:
            self._count(connection)
        self._keep_idle(connection)
        if reply.type == ovs.jsonrpc.Message.T_ERROR:
            raise Unavailable(f"{self.name} at {self._where()}: {reply.error}")
        return _results(reply.result, self.name)

    @property
    def remote(self) -> str:
        """Which of the remotes it spoke with last, or will speak with first."""
        with self._lock:
            return self._idle[-1].remote if self._idle else self.remotes[0]

    def knock(self) -> None:
        """Raise Unavailable if no remote takes a connection; at once, where transact would wait for one."""
        if all(_refuses(remote) for remote in self.remotes):
            raise self._unreachable()

    def close(self) -> None:
        """Drop the connections; calls that still wait fail."""
        self._closed.set()
        self._keeper.join(timeout=5)
        self._drop_idle()

    def _connection(self) -> "_Connection":
        """The connection that was in use last, or a new one."""
        with self._lock:
            return self._idle.pop() if self._idle else _Connection(self.remotes, self._silent)

    def _ask(self, connection: "_Connection", params: list[Any], deadline: Deadline) -> ovs.jsonrpc.Message:
        connection.begin(params)
        while not self._closed.is_set():
            if (reply := connection.reply()) is not None:
                return reply
            if not deadline.left():
                # A member that has lost its cluster answers probes, nothing else: the next tries another.
                self._silent = connection.remote
                self._drop_idle()
                raise self._no_answer(connection, deadline)
            connection.wait(deadline.left(at_most=_LOOK))
        raise Unavailable(f"the connection to {self.name} is closed")

    def _count(self, connection: "_Connection") -> None:
        if connection.lost:
            with self._lock:
                self.losses += connection.lost
            connection.lost = 0

    def _keep_idle(self, connection: "_Connection") -> None:
        with self._lock:
            if not self._closed.is_set():
                self._idle.append(connection)
                return
        connection.close()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _keep(self) -> None:
        """Answer the servers that want to know whether we live, and close what has long been idle."""
        while not self._closed.wait(_KEEP):
            for _ in range(len(self._idle)):
                with self._lock:
                    if not self._idle:
                        break
                    connection, last = self._idle.pop(0), not self._idle
                try:
                    wanted = connection.lives() and (last or time.monotonic() - connection.used < _UNUSED)
                except Exception:  # a defect here must not end the thread
                    log.exception("a connection to %s failed", self.name)
                    wanted = False
                self._count(connection)
                if wanted:
                    self._keep_idle(connection)
                else:
                    connection.close()

    def _where(self) -> str:
        return ",".join(self.remotes)

    def _no_answer(self, connection: "_Connection", deadline: Deadline) -> Unavailable:
        if connection.connected:
            return TimedOut(f"{self.name} at {self._where()} did not answer within {deadline.seconds:g} s")
        return self._unreachable()

    def _unreachable(self) -> Unavailable:
        """Say why nothing answers, by trying each remote once more."""
        reasons = [f"{remote}: {_why_unreachable(remote)}" for remote in self.remotes]
        return Unavailable(f"cannot reach {self.name} at {'; '.join(reasons)}; {self._cure}")


class _Connection:
    """A connection that mends itself, to one of *remotes* (but not *silent* first), for one thread at a time.

    A call is begun, and then waited for until there is a reply; after a lost connection it is sent again, for
    nobody knows whether it was committed.
    """

    def __init__(self, remotes: Sequence[str], silent: str) -> None:
        self._remotes = remotes
        self.lost = 0
        """How often it broke after it had been good."""
        self._open(silent)

    def _open(self, silent: str = "") -> None:
        self._session = ovs.jsonrpc.Session.open_multiple(list(self._remotes))
        self._session.reconnect.set_backoff(*_BACKOFF)
        if self.remote == silent:
            self._session.pick_remote()
        self.used = 0.0
        """When the last reply came, in seconds of time.monotonic(); 0 without any."""
        self._sent_on: int | None = None

    @property
    def remote(self) -> str:
        """The remote that it is to, or will be to next."""
        return str(self._session.get_name())

    @property
    def connected(self) -> bool:
        """Whether there is somebody at the other end."""
        return bool(self._session.is_connected())

    def begin(self, params: list[Any]) -> None:
        """Ask for a transaction."""
        self._request = ovs.jsonrpc.Message.create_request("transact", params)
        self._sent_on = None

    def reply(self) -> ovs.jsonrpc.Message | None:
        """The reply, if it is there."""
        self._session.run()
        if self.used and not self.connected:
            self.lost += 1
            self._session.close()
            self._open()  # at once: a session of the ovs package would rest first
        elif self.connected and self._sent_on != self._session.get_seqno():
            self._sent_on = self._session.get_seqno()
            self._session.send(self._request)
        else:
            while (message := self._receive()) is not None:
                if message.id == self._request.id:
                    self.used = time.monotonic()
                    return message
        return None

    def lives(self) -> bool:
        """Whether it is still good; answers a server that wants to know whether we live."""
        self._session.run()
        while self._receive() is not None:
            pass
        self._session.run()
        self.lost += not self.connected
        return self.connected

    def wait(self, seconds: float) -> None:
        """Wait until there is something to do, or for so long."""
        poller = ovs.poller.Poller()
        self._session.wait(poller)
        self._session.recv_wait(poller)
        poller.timer_wait(int(seconds * 1000) + 1)
        poller.block()

    def close(self) -> None:
        """End it."""
        self._session.close()

    def _receive(self) -> ovs.jsonrpc.Message | None:
        if self._session.rpc and not self._session.rpc.parser:
            self._session.rpc.parser = _Parser()
        return self._session.recv()


def use_tls(tls: Tls | None) -> None:
    """Prove ourselves with these files on every ``ssl:`` connection, and accept only what the CA signed.

    TLS 1.2 or later (ovs.stream). Raises BadRequest if there are none or they cannot be used.
    """
    if tls is None:
        raise BadRequest(
            "an ssl: database needs a private key, a certificate and a CA; name their files with: "
            "ovs-vsctl set-ssl PRIVATE-KEY CERTIFICATE CA-CERT"
        )
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(tls.ca_cert)
        context.load_cert_chain(tls.certificate, tls.private_key)
    except (OSError, ValueError) as error:
        files = f"private key {tls.private_key}, certificate {tls.certificate}, CA {tls.ca_cert}"
        raise BadRequest(f"TLS cannot be used with {files}: {error}; name others or mend these") from None
    ovs.stream.Stream.ssl_set_private_key_file(tls.private_key)
    ovs.stream.Stream.ssl_set_certificate_file(tls.certificate)
    ovs.stream.Stream.ssl_set_ca_cert_file(tls.ca_cert)


class _Parser:
    """A parser for ovs.jsonrpc that has Python's own read a message: that of ovs is fifty times slower.

    A large message comes in pieces of 4096 characters; it is complete when its braces outside of strings are.
    """

    _decode = json.JSONDecoder().raw_decode

    def __init__(self) -> None:
        self._value: Any = None
        self._done = False
        self._pieces: list[str] = []
        self._size = 0
        self._depth, self._quoted, self._escape = 0, False, ""
        self._broken: ovs.json.Parser | None = None

    def feed(self, text: str) -> int:
        """Take characters in, up to the end of the message; returns how many."""
        if self._broken is not None:
            return int(self._broken.feed(text))
        before, self._size = self._size, self._size + len(text)
        self._pieces.append(text)
        if not self._ends(text) and (before or text.startswith("{")):
            return len(text)
        whole = "".join(self._pieces)
        try:
            self._value, end = self._decode(whole)
        except ValueError:  # it is no message: that of ovs says what is wrong with it
            self._broken = ovs.json.Parser()
            return max(0, int(self._broken.feed(whole)) - before)
        self._done = True
        return end - before

    def is_done(self) -> bool:
        """Whether the message is complete, or will never be."""
        return self._done if self._broken is None else bool(self._broken.is_done())

    def finish(self) -> Any:
        """The message, or a string that says what is wrong with it."""
        return self._value if self._broken is None else self._broken.finish()

    def _ends(self, text: str) -> bool:
        """Whether the first brace of the message is closed in this piece of it."""
        text = self._escape + text
        self._escape = "\\" if (len(text) - len(text.rstrip("\\"))) % 2 else ""
        text = text.removesuffix(self._escape)
        quoted = text.replace("\\\\", "").replace('\\"', "").split('"')
        outside = "".join(quoted[int(self._quoted) :: 2])
        self._quoted ^= len(quoted) % 2 == 0
        for brace in re.findall("[{}]", outside):
            self._depth += 1 if brace == "{" else -1
            if self._depth == 0:
                return True
        return False


def _refuses(remote: str) -> bool:
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(remote), timeout=500)
    if stream is not None:
        stream.close()
    return bool(error)


def _why_unreachable(remote: str) -> str:
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(remote), timeout=500)
    if stream is not None:
        stream.close()
    if remote.startswith("ssl:") and error in (0, errno.EPERM):
        return _why_untrusted(remote)
    return os.strerror(error) if error > 0 else "the connection keeps breaking"


def _why_untrusted(remote: str) -> str:
    """What TLS itself says: of its errors ovs.stream keeps EPERM at most."""
    error, stream = ovs.stream.Stream.open(remote)
    if stream is None:
        return os.strerror(error)
    with stream.socket as connection:
        poller = ovs.poller.Poller()
        poller.fd_wait(connection, ovs.poller.POLLOUT)
        poller.timer_wait(500)
        poller.block()
        connection.settimeout(0.5)
        try:
            connection.do_handshake()
            connection.recv(1)  # in TLS 1.3 the server's word on our certificate comes after the handshake
        except TimeoutError:
            pass
        except OSError as refused:
            return str(refused.strerror)
    return "the connection keeps breaking"


def _results(results: Any, name: str) -> list[Any]:
    if not isinstance(results, list):
        raise Unavailable(f"{name} gave an answer that is none: {str(results)[:200]}")
    for index, result in enumerate(results):
        if isinstance(result, dict) and "error" in result:
            raise OperationError(index, str(result["error"]), str(result.get("details", "no details")))
    return [_decoded(result) for result in results]


def _decoded(result: Any) -> Any:
    if isinstance(result, dict) and "rows" in result:
        return [{column: decode(value) for column, value in row.items()} for row in result["rows"]]
    if isinstance(result, dict) and "count" in result:
        return result["count"]
    return None


def decode(value: Any) -> Any:
    """An OVSDB <value> (RFC 7047, 5.1) as Python: map to dict, set to list, UUID to str."""
    match value:
        case ["map", list(pairs)]:
            return {decode(key): decode(item) for key, item in pairs}
        case ["set", list(items)]:
            return [decode(item) for item in items]
        case ["uuid" | "named-uuid", str(uuid)]:
            return uuid
        case _:
            return value


class Reference(str):
    """The UUID of a row, as a value of a column that refers to rows."""

    __slots__ = ()


def encode(value: Any) -> Any:
    """Python as an OVSDB <value>: Mapping to map, list or tuple to set, Reference to uuid."""
    match value:
        case Reference():
            return ["uuid", str(value)]
        case Mapping():
            return ["map", [[encode(key), encode(item)] for key, item in value.items()]]
        case list() | tuple():
            return ["set", [encode(item) for item in value]]
        case _:
            return value


def is_row(row: str) -> Condition:
    """The condition that selects one row, without a search."""
    return ["_uuid", "==", encode(Reference(row))]


def has(column: str, pairs: Mapping[str, str]) -> Condition:
    """The condition that a map column includes *pairs*."""
    return [column, "includes", encode(pairs)]


def insert(table: str, row: str, **columns: Any) -> Operation:
    """A new row with a UUID of our choice: fails with "duplicate uuid" if it is there already."""
    values = {column: encode(value) for column, value in columns.items()}
    return {"op": "insert", "table": table, "uuid": row, "row": values}


def select(table: str, *where: Condition, columns: Iterable[str]) -> Operation:
    """Read *columns* of the rows that satisfy all conditions."""
    return {"op": "select", "table": table, "where": list(where), "columns": list(columns)}


def update(table: str, *where: Condition, **columns: Any) -> Operation:
    """Replace whole columns."""
    values = {column: encode(value) for column, value in columns.items()}
    return {"op": "update", "table": table, "where": list(where), "row": values}


def mutate(table: str, *where: Condition, mutations: list[list[Any]]) -> Operation:
    """Change a part of a column: [column, "insert" | "delete" | "+=", value]."""
    encoded = [[column, mutator, encode(value)] for column, mutator, value in mutations]
    return {"op": "mutate", "table": table, "where": list(where), "mutations": encoded}


def delete(table: str, *where: Condition) -> Operation:
    """Delete the rows that satisfy all conditions; none is fine."""
    return {"op": "delete", "table": table, "where": list(where)}


def require_none(table: str, *where: Condition) -> Operation:
    """Go on only if no row satisfies *where*; otherwise as require()."""
    return {
        "op": "wait",
        "timeout": 0,
        "table": table,
        "where": list(where),
        "columns": ["_uuid"],
        "until": "==",
        "rows": [],
    }


def require(table: str, row: str, *where: Condition, wait: float = 0) -> Operation:
    """Go on only if the row exists and satisfies *where*, waiting up to *wait* seconds for it.

    Otherwise the transaction fails with "timed out" and does nothing (RFC 7047, 5.2.6).
    """
    return {
        "op": "wait",
        "timeout": int(wait * 1000),
        "table": table,
        "where": [is_row(row), *where],
        "columns": ["_uuid"],
        "until": "==",
        "rows": [{"_uuid": encode(Reference(row))}],
    }
