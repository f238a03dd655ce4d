"""HTTP on the plugin's Unix socket: a thread for each connection, and an end that loses no call.

Docker sets no time limit on a call and repeats a broken one with an empty body (moby pkg/plugins/client.go).
So a call that has come in is answered, and no client keeps Docker out by holding connections.

HTTP itself is http.server's, of which only documented attributes are used. Its manual advises against it on
open networks; this socket has mode 0600. Compared with waitress, which this module used before, a thread
that waits for its own connection needs neither a wake-up nor a lock to get a call: 0.04 instead of 0.15 ms.
"""

import itertools
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from queue import Empty, SimpleQueue
from typing import Any

from ovn_docker.deadline import Deadline, began
from ovn_docker.docker import wire
from ovn_docker.docker.calls import BODY_BYTES
from ovn_docker.docker.sockets import Acceptor, BoundSocket, refuse
from ovn_docker.threads import Threads

Answer = Callable[[str, str, bytes], tuple[HTTPStatus, bytes]]
"""Returns the status and the JSON that answer a request with this verb, path and body. See Calls.answer()."""

AT_ONCE = 64
"""Calls that are answered at the same time; most of them wait for OVN."""

CONNECTIONS = 512
"""Connections held open; when there are more, those that have been silent longest take no further call."""

DRAIN_SECONDS = 20.0
"""Seconds for calls in flight after PluginServer.stop(): longer than any deadline of a handler."""

_FIRST_CALL = 0.5
"""Seconds that a new connection has for its first call while others wait, or while the server stops."""

_UNREAD = 2.0
"""Seconds that a client may take to read a part of an answer; a longer wait ends the connection."""

_UNNOTICED = 1.0
"""Seconds that a signal may remain unnoticed; see PluginServer._await_stop()."""

_PAUSE = 0.02
"""Seconds between two checks of the connections while the server stops."""

_NO_FILES = (
    "the ovn-docker driver has no file descriptor left for this call: try again, and raise its limit "
    "(LimitNOFILE= of systemd, ulimit -n) if this stays"
)
_NO_THREAD = (
    "the ovn-docker driver cannot start a thread for this call: try again, and raise its limit "
    "(TasksMax= of systemd, ulimit -u) if this stays"
)


class PluginServer:
    """Answers the calls that come in on *sock*, a listening Unix socket, with *answer*.

    The deadline of a call runs from its arrival: each connection has a thread, which reads the call even when
    AT_ONCE others are being answered. Calls that wait are answered in the order of their arrival.
    """

    def __init__(self, answer: Answer, sock: socket.socket, threads: Threads | None = None) -> None:
        self._answer = answer
        self._sock = sock
        self._sock.setblocking(False)
        self._threads = threads or Threads()
        self._stopping = False
        self._stop: SimpleQueue[None] = SimpleQueue()  # put() may be called from a signal handler
        self._slots = Slots(AT_ONCE)
        self._lock = threading.Lock()
        self._connections: set[_PluginConnection] = set()
        self._accepting = True
        self._changed = os.eventfd(0, os.EFD_NONBLOCK)
        self._acceptor = Acceptor(sock, _unavailable(_NO_FILES))

    def stop(self) -> None:
        """Make serve() return soon. May be called from a signal handler or another thread, repeatedly."""
        if not self._stopping:
            self._stopping = True
            self._stop.put(None)

    def serve(self) -> None:
        """Answer calls until stop(); then finish those in flight. Removes the socket's file if we made it."""
        purpose = "accepts connections of Docker"
        accepting = self._threads.start("accept", purpose, self._accept, lasts=False, essential=True)
        self._await_stop()
        try:
            self._accept_no_more()
            self._drain()
        finally:
            self._accepting = False
            os.eventfd_write(self._changed, 1)
            accepting.join(1)
            for connection in self._open():
                connection.cut()
            self._acceptor.close()
            self._sock.close()

    def _await_stop(self) -> None:
        """Wait for stop().

        The wait has a time limit. A signal may come after the interpreter's last check for signals and before
        the system call that waits: it does not end that call, so its handler would never run.
        """
        while not self._stopping:
            with suppress(Empty):
                self._stop.get(timeout=_UNNOTICED)

    def _accept(self) -> None:
        """Accept connections, each for a thread of its own, until the server stops."""
        for number in itertools.count():
            if not self._wait():
                return
            with self._lock:  # a connection is in the queue or in the set whenever _drain() looks
                accepted = self._acceptor.accept() if self._accepting else None
                if accepted is None:
                    continue
                connection = _PluginConnection(accepted[0])
                self._connections.add(connection)
            serve = partial(self._converse, connection)
            try:
                self._threads.start(f"call-{number}", "answers calls of Docker", serve, lasts=False)
            except RuntimeError:  # no thread can be started
                refuse(connection.socket, _unavailable(_NO_THREAD))
                self._end(connection)

    def _wait(self) -> bool:
        """Wait for a connection, while there is room for one; return False when the server stops."""
        while self._accepting:
            self._make_room()
            room = len(self._connections) < CONNECTIONS + AT_ONCE
            ready = select.poll()
            ready.register(self._changed, select.POLLIN)
            if room:
                ready.register(self._sock, select.POLLIN)
            events = ready.poll(None if room else 1000 * _FIRST_CALL)
            with suppress(BlockingIOError):
                os.eventfd_read(self._changed)
            if self._accepting and any(number == self._sock.fileno() for number, _ in events):
                return True
        return False

    def _make_room(self) -> None:
        """End the connections that have been silent longest if there are too many."""
        now = time.monotonic()
        connections = [one for one in self._open() if not one.ended]
        if len(connections) > CONNECTIONS:
            silent = (one for one in connections if not one.answering and now - one.made > _FIRST_CALL)
            for connection in sorted(silent, key=lambda one: one.active)[: CONNECTIONS // 8]:
                connection.end()

    def _converse(self, connection: "_PluginConnection") -> None:
        """Answer the calls of a connection until its end."""
        try:
            with suppress(OSError):  # the client has closed it
                _Conversation(connection, partial(self._answer_in_turn, connection))
        finally:
            self._end(connection)

    def _answer_in_turn(
        self, connection: "_PluginConnection", verb: str, path: str, body: bytes
    ) -> tuple[HTTPStatus, bytes]:
        began.set(time.monotonic())
        connection.answering = True
        try:
            with self._slots:
                return self._answer(verb, path, body)
        finally:
            connection.answering, connection.active = False, time.monotonic()

    def _end(self, connection: "_PluginConnection") -> None:
        connection.socket.close()
        with self._lock:
            self._connections.discard(connection)
        os.eventfd_write(self._changed, 1)  # there may be room for another one

    def _open(self) -> list["_PluginConnection"]:
        with self._lock:
            return list(self._connections)

    def _accept_no_more(self) -> None:
        """Leave further connections to the next process, if it has the same socket."""
        if isinstance(self._sock, BoundSocket):
            self._sock.remove_file()  # clients that are in the queue already are still served
        else:
            with self._lock:  # what has been accepted is in the set by now
                self._accepting = False  # the queue is the next process's
            os.eventfd_write(self._changed, 1)

    def _drain(self) -> None:
        """Finish the calls in flight."""
        deadline = Deadline(DRAIN_SECONDS)
        while deadline.left() and self._busy():
            for connection in self._open():
                if time.monotonic() - connection.made > _FIRST_CALL:
                    connection.end()
            time.sleep(_PAUSE)

    def _busy(self) -> bool:
        """Return whether a connection is open, or is in the queue and will be accepted."""
        with self._lock:
            return bool(self._connections or (self._accepting and select.select([self._sock], [], [], 0)[0]))


class Slots:
    """Lets *number* threads pass at the same time, in the order of their arrival.

    threading.Semaphore lets a newcomer pass first, and sends the thread that has waited to the queue's end.
    """

    def __init__(self, number: int) -> None:
        self._lock = threading.Lock()
        self._free = number
        self._waiting: deque[threading.Event] = deque()  # empty while a slot is free

    @property
    def waiting(self) -> int:
        """The number of threads that wait."""
        return len(self._waiting)

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            passes = threading.Event()
            self._waiting.append(passes)
        passes.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # this thread's slot is the other's
            else:
                self._free += 1


class _PluginConnection:
    """A connection of Docker; times by time.monotonic().

    *made*: when it was accepted; *active*: when it last got an answer; *answering*: a call waits for its
    answer; *ended*: it takes no further calls.
    """

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.made = self.active = time.monotonic()
        self.answering = self.ended = False
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(_UNREAD), 0))

    def end(self) -> None:
        """Take no further calls: those that have come in are still read and answered (unix(7)).

        Docker sends a refused call again on another connection, complete, since no part of it was taken.
        """
        self.ended = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def cut(self) -> None:
        """Close both ends; the thread of the connection notices and closes the rest."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class _Conversation(BaseHTTPRequestHandler):
    """HTTP on one connection, from its first request to its end."""

    protocol_version = "HTTP/1.1"

    def __init__(self, connection: _PluginConnection, answer: Answer) -> None:
        self._answer = answer
        super().__init__(connection.socket, "", None)  # type: ignore[arg-type]  # there is no http.server.HTTPServer

    def do_POST(self) -> None:
        """Answer a request."""
        body = self._body()
        if body is not None:
            self._reply(*self._answer(self.command, self.path, body))

    do_GET = do_POST  # noqa: N815 - Calls refuses the verb

    def _body(self) -> bytes | None:
        """Return the body; ``None`` if the request has been refused, or broke off.

        One byte more than BODY_BYTES is kept of it, by which it is refused; the rest is read and dropped. If
        the connection were closed instead, the client would get "broken pipe" and not the answer.
        """
        given = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (
            given.isascii() and given.isdigit() and len(given) < 10
        ):
            self.send_error(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing or out of range")
            return None
        left = int(given)
        body = self.rfile.read(min(left, BODY_BYTES + 1))
        left -= len(body)
        while left and (dropped := self.rfile.read(min(left, 1 << 16))):
            left -= len(dropped)
        self.close_connection = self.close_connection or bool(left)
        return None if left else body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that http.server cannot parse; then close the connection."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._reply(status, wire.failure(f"bad request ({status.phrase}): {message or explain or code}"))

    def _reply(self, status: HTTPStatus, body: bytes) -> None:
        self.wfile.write(_response(status, body, close=self.close_connection))

    def log_message(self, *_: Any) -> None:
        """Log nothing: a call has its own line."""


def _unavailable(reason: str) -> bytes:
    return _response(HTTPStatus.SERVICE_UNAVAILABLE, wire.failure(reason))


def _response(status: HTTPStatus, body: bytes, *, close: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status:d} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n" + ("Connection: close\r\n" if close else "")
    )
    return f"{head}\r\n".encode() + body
