"""Listening sockets: the plugin's, made here or handed over by systemd, and how connections are accepted."""

import errno
import fcntl
import os
import socket
import stat
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ovn_docker.errors import Conflict, Unavailable

_REQUEST = 0.2
"""Seconds for which the request of a refused connection is awaited, while others wait to be accepted."""

_PAUSE = 0.02
"""Seconds until the next attempt to accept when even the refusal fails: spares the processor."""


class BoundSocket(socket.socket):
    """A Unix socket whose file this process has created and removes at its end."""

    def bind_file(self, path: Path) -> None:
        """Create the file, with mode 0600. Raises OSError."""
        os.fchmod(self.fileno(), 0o600)  # on Linux the file gets the mode of the socket
        self.bind(str(path))
        self._path, self._file = path, path.lstat()

    def remove_file(self) -> None:
        """Remove the file, unless another file has replaced it."""
        with suppress(OSError):
            if os.path.samestat(self._path.lstat(), self._file):
                self._path.unlink()


def listen(path: Path) -> BoundSocket:
    """Return a listening Unix socket at *path*; replaces the file of a process that has ended.

    Raises Conflict if another process listens there, Unavailable if the socket cannot be created.
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
    """Return the listening Unix socket that systemd has passed to this process, if any (sd_listen_fds(3)).

    Removes the variables from the environment. Raises Unavailable for another kind of socket.
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


class Acceptor:
    """Accepts connections on *sock*; sends *refusal* when no file descriptor is left.

    One file descriptor is kept back for refusals: without an answer the client would wait in the queue until
    other files are closed.
    """

    def __init__(self, sock: socket.socket, refusal: bytes) -> None:
        self._sock = sock
        self._refusal = refusal
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, Any] | None:
        """Return a new connection and its address; ``None`` if there is none, or if it was refused."""
        try:
            return self._sock.accept()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                self._refuse()
            return None

    def close(self) -> None:
        """Close the file descriptor that is kept back."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _refuse(self) -> None:
        self.close()
        try:
            with self._sock.accept()[0] as connection:
                refuse(connection, self._refusal)
        except OSError:  # another thread has taken the file descriptor
            time.sleep(_PAUSE)
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY)


def refuse(connection: socket.socket, refusal: bytes) -> None:
    """Send *refusal* after the client's request, or after a moment without one. Never raises."""
    with suppress(OSError):  # the client has closed
        connection.settimeout(_REQUEST)
        connection.recv(1 << 16)
        connection.sendall(refusal)


def notify(state: str) -> None:
    """Send a state such as ``READY=1`` to the service manager, if any (sd_notify(3)). Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
