"""HTTP on a Unix socket: the WSGI application, and a server that stops without losing a call.

Docker sets no time limit and repeats a broken call with an empty body (moby pkg/plugins/client.go). So a
call that has come in is answered, and nobody keeps Docker out by holding connections.
"""

import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from http import HTTPStatus
from queue import SimpleQueue
from secrets import token_hex
from typing import Any

from waitress import create_server, wasyncore

from ovn_docker.deadline import Deadline, began
from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.metrics import REQUESTS, Recorder, Unrecorded
from ovn_docker.plugin import wire
from ovn_docker.plugin.connections import BODY_BYTES, Connection, Door
from ovn_docker.plugin.sockets import BoundSocket
from ovn_docker.printable import one_line
from ovn_docker.threads import Threads

log = logging.getLogger("ovn_docker.plugin")

THREADS = 64
"""Calls answered at the same time: one is waiting for OVN most of its time."""

CONNECTIONS = 512
"""Connections held open; one more, and those that have been silent longest are closed."""

_LOOK = 0.1
"""Seconds until somebody looks after the connections again while there are calls to answer."""

DRAIN_SECONDS = 20.0
"""How long calls in flight may take after `Server.stop`: longer than any handler gives itself."""

_HURRY = 30.0
"""Seconds after a release that had no answer in which the next ones get the least time that a call gets."""

WsgiApplication = Callable[[dict[str, Any], Callable[..., object]], list[bytes]]


class _HttpError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the call that this thread answers, for whatever is logged meanwhile; empty outside of calls."""


def application(
    plugin: wire.Plugin,
    record: Recorder | None = None,
    name_of: Callable[[str], str] = lambda _: "",
) -> WsgiApplication:
    """WSGI application that answers Docker's calls with *plugin*; every answer is a JSON object.

    *name_of*: the name of a network, or of an endpoint's container, by its ID; empty if it is not known.
    """
    record = record or Unrecorded()
    outage = _Outage()

    def respond(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        start = time.monotonic()
        request_id.set(token_hex(4))
        request, status, failed, crash, outcome = None, HTTPStatus.OK, "", None, "ok"
        try:
            path, request = _read(environ)
            if path in wire.RELEASES:
                outage.shorten()
            body = wire.answer(plugin, path, request)
        except _HttpError as error:
            status, failed, outcome = error.status, str(error), "malformed"
            if status == HTTPStatus.BAD_REQUEST:  # a call is lost, DeleteEndpoint perhaps: nobody repeats it
                plugin.suspect()
        except OvnDockerError as error:  # 200: from any other status IpamDriver's own key is not read
            failed, outcome = str(error) or repr(error), error.word()
        except BaseException as error:  # noqa: BLE001  it is logged, below; a library may raise SystemExit
            status, crash, outcome = HTTPStatus.INTERNAL_SERVER_ERROR, error, "crash"
            failed = f"internal error ({type(error).__name__}): see the log of the ovn-docker driver"
        outage.learn(environ["PATH_INFO"], outcome)
        if failed:
            failed = one_line(failed[:900])
            body = wire.failure(failed)
        seconds = time.monotonic() - start
        known = environ["PATH_INFO"] in wire.METHODS
        record.observe(REQUESTS, seconds, environ["PATH_INFO"][1:] if known else "-", outcome)
        about = _about(environ["PATH_INFO"], request, name_of)
        about |= {"outcome": outcome, "error": failed, "milliseconds": round(seconds * 1000, 1)}
        log.log(
            logging.ERROR if crash else logging.WARNING if failed else logging.INFO,
            "%s request=%s network=%s endpoint=%s %s %.1f ms",
            about["method"],
            request_id.get(),
            _shown(about["network"], about["network_name"]),
            _shown(about["endpoint"], about["container"]),
            f"{status:d}: {failed}" if failed else "ok",
            seconds * 1000,
            exc_info=crash,
            extra={"call": about},
        )
        request_id.set("")
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status:d} {status.phrase}", headers)
        return [body]

    return respond


class _Outage:
    """A release that had no answer: ``docker network rm`` is three of them, and must not wait thrice as long.

    Reconciliation finds what is left behind.
    """

    def __init__(self) -> None:
        self._last = float("-inf")

    def shorten(self) -> None:
        """Give the call of this thread the least time, if the last release had no answer just now."""
        if time.monotonic() - self._last < _HURRY:
            began.set(float("-inf"))

    def learn(self, path: str, outcome: str) -> None:
        """Take note of how a call ended."""
        if path in wire.RELEASES:
            silent = outcome in {"unavailable", "timed_out"}
            self._last = time.monotonic() if silent else float("-inf")


def _about(path: str, request: wire.Request | None, name_of: Callable[[str], str]) -> dict[str, Any]:
    """Which call it is and what it is about; all of it comes from outside."""
    network, endpoint = (getattr(request, member, "") for member in ("NetworkID", "EndpointID"))
    return {
        "method": path[1:80].encode("unicode_escape").decode(),
        "network": network[:12],
        "network_name": name_of(network),
        "endpoint": endpoint[:12],
        "container": name_of(endpoint),
    }


def _shown(id_: str, name: str) -> str:
    """ad6eb9461609/foo, or as much of it as there is."""
    return f"{id_}/{name}" if name else id_ or "-"


def _read(environ: dict[str, Any]) -> tuple[str, wire.Request]:
    path = environ["PATH_INFO"]
    if path not in wire.METHODS:
        raise _HttpError(HTTPStatus.NOT_FOUND, f"no such method: {path[:80]!r}")
    if environ["REQUEST_METHOD"] != "POST":
        raise _HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "the plugin protocol knows POST only")
    body = environ["wsgi.input"].read(BODY_BYTES + 1)
    if len(body) > BODY_BYTES:
        raise _HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"request of more than {BODY_BYTES} bytes")
    try:
        return path, wire.decode(path, body)
    except BadRequest as error:
        raise _HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None


class _Calls(deque[Connection]):
    """Connections on which a call has come in whole. What waitress calls a task dispatcher."""

    def add_task(self, connection: Connection) -> None:
        """The next call of a connection: its time runs from now on."""
        connection.called = time.monotonic()
        self.append(connection)


class Server:
    """Serves *app* on *sock*, a listening Unix socket.

    One thread waits on all connections. When a call has come in, it lets another one wait and answers itself:
    to wake a thread for the answer, as waitress does, takes longer than many an answer. There is one more
    than may answer, so that somebody hears the calls that have to wait: their time runs.
    """

    def __init__(self, app: WsgiApplication, sock: socket.socket, threads: Threads | None = None) -> None:
        self._sock = sock
        self._threads = threads or Threads()
        self._stopping = False
        self._stop: SimpleQueue[None] = SimpleQueue()  # may be put into from a signal handler
        self._waits = threading.Lock()
        self._calls = _Calls()
        self._turns = deque(range(THREADS))  # one for each call that may be answered at the same time
        self._map: dict[int, Any] = {}
        self._http = create_server(
            app,
            map=self._map,
            sockets=[sock],
            threads=0,  # ours
            backlog=socket.SOMAXCONN,
            connection_limit=CONNECTIONS + THREADS,
            channel_timeout=1 << 30,  # Docker's connections are for ever; see _make_room
            max_request_body_size=64 * BODY_BYTES,  # what is read, though not kept
            inbuf_overflow=2 * BODY_BYTES,  # no request goes to a file
            clear_untrusted_proxy_headers=False,  # there is no proxy, and we read no headers
            ident="ovn-docker",
        )
        self._http.task_dispatcher = self._calls
        self._http.channel_class = Connection
        self._door = Door(sock)
        self._http.accept = self._door.accept
        self._looked = 0.0

    def stop(self) -> None:
        """Make `serve` return soon. May be called from a signal handler or another thread, repeatedly."""
        if not self._stopping:
            self._stopping = True
            self._http.pull_trigger()  # before serve() may close it
            self._stop.put(None)

    def serve(self) -> None:
        """Answer calls until `stop`; then finish those in flight. Removes the socket's file if we made it."""
        try:
            for number in range(THREADS + 1):
                self._threads.start(
                    f"call-{number}", "answers calls of Docker", self._work, lasts=False, essential=True
                )
            self._stop.get()
            with self._waits:
                self._drain()
        finally:
            wasyncore.close_all(self._map)
            self._door.close()

    def _work(self) -> None:
        while True:
            with self._waits:
                while not (self._calls and self._turns):
                    if self._stopping:
                        return
                    self._look(seconds=30)
                if time.monotonic() - self._looked > _LOOK:  # who talks without a pause is not alone here
                    self._look(seconds=0)
                call, turn = self._calls.popleft(), self._turns.pop()
            try:
                began.set(call.called)
                call.service()
            except BaseException:
                call.cancel()  # nobody would answer it any more
                raise
            finally:
                self._turns.append(turn)
                if self._calls or call.will_close:
                    self._http.pull_trigger()

    def _look(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)  # select() ends at 1024
        if self._sock.fileno() < 0:  # wasyncore.dispatcher.handle_error closes what has failed
            raise OSError("the socket of the plugin was closed by an earlier failure")
        self._make_room()
        self._looked = time.monotonic()

    def _make_room(self) -> None:
        channels = self._http.active_channels.values()
        if len(channels) > CONNECTIONS:
            silent = sorted((c for c in channels if not c.requests), key=lambda c: c.active)
            for channel in silent[: CONNECTIONS // 8]:
                channel.will_close = True

    def _drain(self) -> None:
        """A closed reading end lets a connection finish its call, then ends it, and refuses another.

        Docker sends a refused call again on another connection, complete: none of it had been taken.
        """
        if isinstance(self._sock, BoundSocket):
            self._sock.remove_file()  # nobody new; who is in the queue is still served
        else:
            self._http.accepting = False  # the queue is the next process's
        deadline = Deadline(DRAIN_SECONDS)
        while deadline.left() and (self._http.active_channels or self._queued()):
            for channel in list(self._http.active_channels.values()):
                if time.monotonic() - channel.made > 0.5:  # who has just come gets to say why
                    with suppress(OSError):
                        channel.socket.shutdown(socket.SHUT_RD)
            self._look(seconds=0.05)
            while self._calls:
                threading.Thread(target=self._calls.popleft().service, daemon=True).start()

    def _queued(self) -> bool:
        return bool(self._http.accepting and select.select([self._sock], [], [], 0)[0])
