"""The plugin's Unix socket: made by us or handed over by systemd, and what systemd wants to be told."""

import fcntl
import os
import socket
import stat
import struct
from contextlib import ExitStack, suppress
from pathlib import Path

from ovn_docker.errors import Conflict, Unavailable


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
