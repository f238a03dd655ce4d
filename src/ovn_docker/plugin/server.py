"""HTTP on a Unix socket: the WSGI application, the socket, and a server that stops without losing a call.

Docker sets no time limit and repeats a broken call with an empty body (moby pkg/plugins/client.go). So a
call that has come in is answered, and nobody keeps Docker out by holding connections.
"""

import fcntl
import logging
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from waitress import create_server, wasyncore

from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, Unavailable
from ovn_docker.plugin import wire

log = logging.getLogger("ovn_docker.plugin")

THREADS = 64
"""Calls answered at the same time: one is waiting for OVN most of its time."""

BODY_BYTES = 1 << 20
"""The largest request; those of Docker have some hundred bytes."""

CONNECTIONS = 512
"""Connections held open; one more, and those that have been silent longest are closed."""

DRAIN_SECONDS = 20.0
"""How long calls in flight may take after `Server.stop`: longer than any handler gives itself."""

WsgiApplication = Callable[[dict[str, Any], Callable[..., object]], list[bytes]]


class _HttpError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def application(plugin: wire.Plugin) -> WsgiApplication:
    """WSGI application that answers Docker's calls with *plugin*; every answer is a JSON object."""

    def respond(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        start = time.monotonic()
        request, status, failed, crash = None, HTTPStatus.OK, "", None
        try:
            path, request = _read(environ)
            body = wire.answer(plugin, path, request)
        except _HttpError as error:
            status, failed = error.status, str(error)
        except OvnDockerError as error:  # 200: from any other status IpamDriver's own key is not read
            failed = str(error) or repr(error)
        except Exception as error:  # noqa: BLE001  it is logged, below
            status, crash = HTTPStatus.INTERNAL_SERVER_ERROR, error
            failed = f"internal error ({type(error).__name__}): see the log of the ovn-docker driver"
        if failed:
            body = wire.failure(failed)
        log.log(
            logging.ERROR if crash else logging.WARNING if failed else logging.INFO,
            "%s network=%s endpoint=%s %s %.1f ms",
            environ["PATH_INFO"][1:80].encode("unicode_escape").decode(),
            getattr(request, "NetworkID", "")[:12] or "-",
            getattr(request, "EndpointID", "")[:12] or "-",
            f"{status:d}: {failed}" if failed else "ok",
            (time.monotonic() - start) * 1000,
            exc_info=crash,
        )
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status:d} {status.phrase}", headers)
        return [body]

    return respond


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


class BoundSocket(socket.socket):
    """A Unix socket whose file we made, and will remove."""

    def bind_file(self, path: Path) -> None:
        """Make the file, which only root may use. Raises OSError."""
        os.fchmod(self.fileno(), 0o600)  # on Linux the file is born with the mode of the socket
        self.bind(str(path))
        self._path, self._file = path, path.lstat()

    def remove_file(self) -> None:
        """Remove the file unless somebody else has put another one there."""
        with suppress(OSError):
            if os.path.samestat(self._path.lstat(), self._file):
                self._path.unlink()


def listen(path: Path) -> BoundSocket:
    """A listening Unix socket at *path*, in place of one that nobody listens on any more.

    Raises Conflict if somebody does, Unavailable if the socket cannot be made.
    """
    with ExitStack() as undo:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            directory = os.open(path.parent, os.O_RDONLY)
            undo.callback(os.close, directory)
            fcntl.flock(directory, fcntl.LOCK_EX)  # two drivers that start at once would replace each other
            _remove_stale(path)
            sock = BoundSocket(socket.AF_UNIX, socket.SOCK_STREAM)
            on_failure = undo.enter_context(ExitStack())
            on_failure.callback(sock.close)
            sock.bind_file(path)
            sock.listen(socket.SOMAXCONN)
            on_failure.pop_all()
        except OSError as error:
            raise Unavailable(f"cannot listen on {path}: {error.strerror or error}") from None
    return sock


def _remove_stale(path: Path) -> None:
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise Conflict(f"{path} is not a socket: move it out of the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a live listener with a full queue: EAGAIN
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    raise Conflict(f"process {pid or '?'} listens on {path} already: stop it first")


def inherited_socket() -> socket.socket | None:
    """The listening Unix socket that systemd has opened for this process, if any (sd_listen_fds(3)).

    Takes the variables out of the environment. Raises Unavailable if it is another kind of socket.
    """
    pid, count, _ = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or count == "0":
        return None
    os.set_inheritable(3, False)
    sock = socket.socket(fileno=3)
    if (
        count != "1"
        or sock.family != socket.AF_UNIX
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        sock.close()
        raise Unavailable("the socket unit must hand over one ListenStream= with a path, and nothing else")
    return sock


def notify(state: str) -> None:
    """Tell the service manager, if there is one, such as ``READY=1`` (sd_notify(3)). Never fails."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


class Server:
    """Serves *app* on *sock*, a listening Unix socket. Starts threads: make it after the daemon's fork."""

    def __init__(self, app: WsgiApplication, sock: socket.socket) -> None:
        self._sock = sock
        self._stopping = False
        self._map: dict[int, Any] = {}
        self._http = create_server(
            app,
            map=self._map,
            sockets=[sock],
            threads=THREADS,
            backlog=socket.SOMAXCONN,
            connection_limit=CONNECTIONS + THREADS,
            channel_timeout=3600,  # seconds; Docker's connections are for ever, and a call may just be coming
            max_request_body_size=16 * BODY_BYTES,  # up to here the answer is ours, in JSON
            clear_untrusted_proxy_headers=False,  # there is no proxy, and we read no headers
            ident="ovn-docker",
        )

    def stop(self) -> None:
        """Make `serve` return soon. May be called from a signal handler or another thread, repeatedly."""
        if not self._stopping:
            self._stopping = True
            self._http.pull_trigger()

    def serve(self) -> None:
        """Answer calls until `stop`; then finish those in flight. Removes the socket's file if we made it."""
        try:
            while not self._stopping:
                self._turn(seconds=30)
                self._make_room()
            self._drain()
        finally:
            self._http.task_dispatcher.shutdown(timeout=1)
            wasyncore.close_all(self._map)

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)  # select() ends at 1024

    def _make_room(self) -> None:
        channels = self._http.active_channels.values()
        if len(channels) > CONNECTIONS:
            silent = sorted((c for c in channels if not c.requests), key=lambda c: c.last_activity)
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
                if time.time() - channel.creation_time > 0.5:  # who has just come gets to say why
                    with suppress(OSError):
                        channel.socket.shutdown(socket.SHUT_RD)
            self._turn(seconds=0.05)

    def _queued(self) -> bool:
        return bool(self._http.accepting and select.select([self._sock], [], [], 0)[0])
