"""What waitress does with connections, made fit for a socket on which every answer is one line of JSON.

A body that is too large takes no memory, what is no HTTP is told so in JSON, and who comes when there is no
file descriptor left for him is told that.
"""

import errno
import os
import socket
import time
from contextlib import suppress
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask

from ovn_docker.plugin import wire

BODY_BYTES = 1 << 20
"""The largest request; those of Docker have some hundred bytes."""

_NO_FILES = (
    "the ovn-docker driver has no file descriptor left for this call: try again, and raise its limit "
    "(LimitNOFILE= of systemd, ulimit -n) if this stays"
)
_LAST_WORDS = 0.2
"""Seconds to hear a call out that is refused for want of a file descriptor; others wait meanwhile."""

_PAUSE = 0.02
"""Seconds until the next attempt to accept when not even that works: not all of the processor's time."""


class _Body(OverflowableBuffer):  # type: ignore[misc]
    """A body of which one byte more than is allowed is kept, to be refused by; the rest is read and dropped.

    To close the connection at once instead would cost the client the answer: Go's reports a broken pipe.
    """

    def append(self, data: bytes) -> None:
        super().append(data[: max(0, BODY_BYTES + 1 - len(self))])


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    def parse_header(self, header: bytes) -> None:
        try:
            super().parse_header(header)
        except ValueError as error:  # a Content-Length of thousands of digits, a path that is no UTF-8
            raise ParsingError(str(error)) from None
        if self.body_rcv is not None:
            self.body_rcv.buf = _Body(self.adj.inbuf_overflow)


class _Refusal(ErrorTask):  # type: ignore[misc]
    """The answer to what is no HTTP."""

    def execute(self) -> None:
        error = self.request.error
        body = wire.failure(f"bad request ({error.reason}): {error.body}")
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Connection(HTTPChannel):  # type: ignore[misc]
    """A channel of waitress with times that a change of the wall clock does not move.

    By time.monotonic(): *made*; *active*: when it last sent something or got an answer; *called*: when its
    call came in.
    """

    parser_class = _Parser
    error_task_class = _Refusal
    called = 0.0

    def __init__(self, *parts: Any, **more: Any) -> None:
        self.made = self.active = time.monotonic()
        super().__init__(*parts, **more)

    def received(self, data: bytes) -> bool:
        """Take a part of a call."""
        self.active = time.monotonic()
        return bool(super().received(data))

    def service(self) -> None:
        """Answer a call."""
        super().service()
        self.active = time.monotonic()


class Door:
    """Accepts connections; keeps a file descriptor back, so that who finds none left is told so."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, object] | None:
        """A new connection, if there is one."""
        try:
            return self._sock.accept()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                self._refuse()
            return None

    def close(self) -> None:
        """Give the file descriptor back."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _refuse(self) -> None:
        self.close()
        try:
            with self._sock.accept()[0] as connection:
                connection.settimeout(_LAST_WORDS)
                connection.recv(1 << 16)
                body = wire.failure(_NO_FILES)
                head = (
                    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                connection.sendall(head.encode() + body)
        except OSError:  # another thread has taken the descriptor, or the client has gone
            time.sleep(_PAUSE)
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY)
