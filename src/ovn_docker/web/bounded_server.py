"""An HTTP server in one thread that slow, silent and many clients do not stop.

Any client of the network may open many connections, send nothing, send slowly, or read no answer. So a
connection has a few seconds for each request, the number of connections is small, and the address with most
of them loses one for a new one. http.server has no such limits; waitress gives them with four of its
internals: a channel of our own (times), a dispatcher of our own (one thread), accept() (see Acceptor), and
its loop (closes what is overdue).
"""

import os
import socket
import time
from collections import Counter, deque
from ipaddress import ip_address
from typing import Any

from waitress import create_server, wasyncore
from waitress.channel import HTTPChannel

from ovn_docker.docker.sockets import Acceptor
from ovn_docker.errors import OvnDockerError

CONNECTIONS = 32
"""Connections held open; for one more, a connection of the address that has most is closed."""

_REQUEST = 10.0
"""Seconds in which a request has to arrive, and its answer to be read: the default timeout of Prometheus."""

_IDLE = 120.0
"""Seconds that a connection may be idle between requests."""

_HEADER = 8192
"""Largest number of bytes of the head of a request."""

_NO_FILES = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
"""Reply when the process has no file descriptor left."""


class BoundedServer:
    """Serves *answer*, a WSGI application that returns at once, on *listener*."""

    def __init__(self, answer: Any, listener: socket.socket) -> None:
        self._listener = listener
        self._stopping = False
        self._map: dict[int, Any] = {}
        self._asked: deque[_WebConnection] = deque()
        self._http = create_server(
            answer,
            map=self._map,
            sockets=[listener],
            threads=0,
            backlog=socket.SOMAXCONN,
            connection_limit=2 * CONNECTIONS,  # never reached
            channel_timeout=1
            << 30,  # waitress uses the wall clock, which may be set: see _WebConnection.overdue
            max_request_body_size=1,
            max_request_header_size=_HEADER,
            clear_untrusted_proxy_headers=False,
            ident="ovn-docker",
        )
        self._http.task_dispatcher = self
        self._http.channel_class = _WebConnection
        self._http.accept = Acceptor(listener, _NO_FILES).accept

    def add_task(self, connection: "_WebConnection") -> None:
        """Queue a connection with a complete request. waitress calls this as a task dispatcher."""
        self._asked.append(connection)

    def stop(self) -> None:
        """Make serve() return within a second. May be called from a signal handler, repeatedly."""
        self._stopping = True

    def serve(self) -> None:
        """Answer until stop()."""
        while not self._stopping:
            wasyncore.loop(timeout=1, use_poll=True, map=self._map, count=1)
            while self._asked:
                self._asked.popleft().service()
            self._make_room()
            if self._listener.fileno() < 0:
                raise OSError("the listening socket was closed by an earlier failure")

    def _make_room(self) -> None:
        """Close the connections that are overdue, and the oldest of an address if there are too many."""
        for connection in [one for one in self._http.active_channels.values() if one.overdue]:
            connection.handle_close()
        connections = list(self._http.active_channels.values())
        if len(connections) > CONNECTIONS:
            by_address = Counter(connection.addr[0] for connection in connections)
            most = max(by_address.values())
            some = (one for one in connections if by_address[one.addr[0]] == most)
            min(some, key=lambda connection: connection.since).handle_close()


class _WebConnection(HTTPChannel):  # type: ignore[misc]
    """A connection; *since*: time.monotonic() of its acceptance, last request or last answer."""

    answered = False

    def __init__(self, *parts: Any, **more: Any) -> None:
        self.since = time.monotonic()
        super().__init__(*parts, **more)

    def received(self, data: bytes) -> bool:
        """Receive a part of a request."""
        if self.request is None:
            self.since = time.monotonic()
        return bool(super().received(data))

    def service(self) -> None:
        """Answer a request, and close the connection if another one came before the answer."""
        self.close_when_flushed = len(self.requests) > 1
        del self.requests[1:]
        super().service()
        self.since, self.answered = time.monotonic(), True

    @property
    def overdue(self) -> bool:
        """Return whether a time limit has passed."""
        idle = self.answered and self.request is None and not self.total_outbufs_len
        return time.monotonic() - self.since > (_IDLE if idle else _REQUEST)


def listen(address: tuple[str, int], purpose: str, option: str) -> socket.socket:
    """Return a listening TCP socket.

    Raises OvnDockerError that names the address, *purpose* and *option*, which sets the address.
    """
    host, port = address
    family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    try:
        return socket.create_server((host, port), family=family, backlog=socket.SOMAXCONN)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OvnDockerError(
            f"cannot listen for {purpose} on {at(host, port)}: {reason}; name another {option}"
        ) from None


def at(host: str, port: int) -> str:
    """Return an address and a port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
