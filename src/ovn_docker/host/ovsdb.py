"""OVSDB transactions over a connection that mends itself (RFC 7047, ovsdb-server(7)).

No replica of the database is kept: an operation names its rows by UUID and costs the same
whatever the size of the tables. Every transaction that is sent here must be safe to send twice,
because after a lost connection nobody knows whether it was committed.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
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
    """

    def __init__(self, name: str, remotes: Sequence[str], cure: str = "is it running?") -> None:
        for remote in remotes:
            if not ovs.stream.Stream.is_valid_name(remote):
                raise BadRequest(
                    f"{remote!r} is no database address: give tcp:IP:PORT, ssl:IP:PORT or unix:FILE"
                )
        self.name = name
        self.remotes = tuple(remotes)
        self._cure = cure
        self._session = ovs.jsonrpc.Session.open_multiple(list(remotes))
        self._session.reconnect.set_backoff(*_BACKOFF)
        self._lock = threading.Lock()
        self._waiting: list[_Call] = []
        self._sent: dict[Any, _Call] = {}
        self._closed = threading.Event()
        self._try_another = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"ovsdb {name}", daemon=True)
        self._thread.start()

    def transact(self, *operations: Operation, deadline: Deadline) -> list[Any]:
        """Run *operations* as one transaction and return one result each: rows for a select, a count, ...

        Raises OperationError when the server refuses it, Unavailable when no server answers
        before *deadline*.
        """
        call = _Call([self.name, *operations])
        with self._lock:
            if self._closed.is_set():
                raise Unavailable(f"the connection to {self.name} is closed")
            self._waiting.append(call)
            if self._session.is_connected():
                self._send()
            if self._waiting or self._session.get_backlog():
                self._wake()
        try:
            results = call.reply.result(timeout=deadline.left())
        except FutureTimeoutError:
            self._forget(call)
            error = self._no_answer(deadline)
            if len(self.remotes) > 1:  # a member that has lost its cluster answers probes, and nothing else
                self._try_another.set()
                self._wake()
            raise error from None
        return _results(results, self.name)

    def close(self) -> None:
        """Drop the connection; calls that still wait fail."""
        self._closed.set()
        self._wake()
        self._thread.join(timeout=5)

    # The rest runs in the connection's own thread, except where noted; the session only under the lock.

    def _run(self) -> None:
        seqno = self._session.get_seqno()
        while not self._closed.is_set():
            try:
                poller = ovs.poller.Poller()
                with self._lock:
                    if self._try_another.is_set():
                        self._try_another.clear()
                        self._session.force_reconnect()
                    self._session.run()
                    if seqno != self._session.get_seqno():
                        seqno = self._session.get_seqno()
                        self._send_again()
                    self._receive()
                    if self._session.is_connected():
                        self._send()
                    self._session.wait(poller)
                    self._session.recv_wait(poller)
                poller.fd_wait(self._wake_out, ovs.poller.POLLIN)
                poller.block()
                with contextlib.suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            except Exception:
                # A defect here must not leave every later request without a connection.
                log.exception("connection to %s failed, connecting again", self.name)
                self._session.force_reconnect()
                self._closed.wait(1)
        self._session.close()
        self._wake_in.close()
        self._wake_out.close()
        with self._lock:  # whoever comes later sees that we are closed
            calls = [*self._waiting, *self._sent.values()]
        for call in calls:
            if call.reply.set_running_or_notify_cancel():
                call.reply.set_exception(Unavailable(f"the connection to {self.name} is closed"))

    def _receive(self) -> None:
        for _ in range(50):
            if self._session.rpc and not self._session.rpc.parser:
                self._session.rpc.parser = _Parser()
            message = self._session.recv()
            if message is None:
                return
            call = self._sent.pop(message.id, None)
            if call is None or not call.reply.set_running_or_notify_cancel():
                continue
            if message.type == ovs.jsonrpc.Message.T_ERROR:
                call.reply.set_exception(Unavailable(f"{self.name} at {self._where()}: {message.error}"))
            else:
                call.reply.set_result(message.result)

    def _send(self) -> None:
        """Send what waits (also in the caller's thread: waking ours would take longer than sending does)."""
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            request = ovs.jsonrpc.Message.create_request("transact", call.params)
            self._sent[request.id] = call
            self._session.send(request)

    def _send_again(self) -> None:
        """After a lost connection: what had no answer may or may not have been committed."""
        self._waiting = [*self._sent.values(), *self._waiting]
        self._sent.clear()

    def _forget(self, call: "_Call") -> None:
        """Take back a call nobody waits for any more (in the caller's thread)."""
        call.reply.cancel()
        with self._lock:
            self._waiting = [other for other in self._waiting if other is not call]
            self._sent = {key: other for key, other in self._sent.items() if other is not call}

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_in.send(b"!")

    def _where(self) -> str:
        return ",".join(self.remotes)

    def _no_answer(self, deadline: Deadline) -> Unavailable:
        """Say why nothing answered, by trying each remote once more (in the caller's thread)."""
        if self._session.is_connected():
            return TimedOut(f"{self.name} at {self._where()} did not answer within {deadline.seconds:g} s")
        reasons = [f"{remote}: {_why_unreachable(remote)}" for remote in self.remotes]
        return Unavailable(f"cannot reach {self.name} at {'; '.join(reasons)}; {self._cure}")


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
    """A parser for ovs.jsonrpc that reads a message which has come in one piece with Python's own."""

    _decode = json.JSONDecoder().raw_decode

    def __init__(self) -> None:
        self._value: Any = None
        self._in_pieces: ovs.json.Parser | None = None

    def feed(self, text: str) -> int:
        """Take characters in, up to the end of the message; returns how many."""
        if self._in_pieces is None:
            try:
                self._value, end = self._decode(text)
            except ValueError:
                self._in_pieces = ovs.json.Parser()
            else:
                return end
        return int(self._in_pieces.feed(text))

    def is_done(self) -> bool:
        """Whether the message is complete, or will never be."""
        return self._in_pieces is None or self._in_pieces.is_done()

    def finish(self) -> Any:
        """The message, or a string that says what is wrong with it."""
        return self._value if self._in_pieces is None else self._in_pieces.finish()


class _Call:
    """A transaction on its way, and where its answer goes."""

    __slots__ = ("params", "reply")

    def __init__(self, params: list[Any]) -> None:
        self.params = params
        self.reply: Future[Any] = Future()


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
