"""The running driver, as it answers on Docker's socket and on its control socket."""

import http.client
import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from ovn_docker.errors import TimedOut, Unavailable
from ovn_docker.host.ovn_controller import ask
from ovn_docker.threads import ThreadState

PROGRAM, UNDERLAY = "ovn-docker-overlay-driver", "ovn-docker-underlay-driver"


@dataclass(frozen=True, slots=True)
class RunningDriver:
    """A driver that answers on Docker's socket; fields are empty if its control socket does not answer."""

    program: str
    pid: int | None = None
    version: str = ""
    ipam: bool = False
    requests: str = ""
    """Number of calls of Docker and of those that failed, as text."""
    threads: tuple[ThreadState, ...] | None = None
    """``None`` for an earlier version, which does not list them."""


def find(path: Path, control: Path) -> RunningDriver:
    """Return the driver that answers ``/Plugin.Activate`` on *path*; *control* has the control sockets.

    Raises Unavailable if no driver answers, or another program does.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(5)
            stream.connect(str(path))
            pid = _listener(stream)
            connection = http.client.HTTPConnection("openvswitch")
            connection.sock = stream
            connection.request("POST", "/Plugin.Activate", body=b"{}")
            reply = connection.getresponse()
            said = json.loads(reply.read())
    except FileNotFoundError:
        raise Unavailable(f"{path} does not exist") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unavailable(f"{path} does not answer: {error}") from None
    implements = said.get("Implements", []) if isinstance(said, dict) else []
    if "NetworkDriver" not in implements:
        raise Unavailable(
            f"{path} answers {reply.status} without NetworkDriver: another program has the socket"
        )
    for socket_ in _control_sockets(pid, control):
        program, number, _ = socket_.name.rsplit(".", 2)
        try:
            version = ask(socket_, "version", 1.0).splitlines()[0]
        except (OSError, ValueError, IndexError):
            continue
        try:
            said = ask(socket_, "requests", 1.0)
            requests = said if "requests" in said else ""  # earlier versions do not count
        except (OSError, ValueError):
            requests = ""
        return RunningDriver(
            program=program,
            pid=int(number),
            version=version.rpartition(" ")[2],
            ipam="IpamDriver" in implements,
            requests=requests,
            threads=_threads(socket_),
        )
    return RunningDriver("", None, "", "IpamDriver" in implements)


def _control_sockets(pid: int, control: Path) -> list[Path]:
    """Return the control sockets of the driver whose socket *pid* has opened: all if that is systemd."""
    number = "[1-9]*" if pid == 1 else str(pid)
    return [file for program in (PROGRAM, UNDERLAY) for file in control.glob(f"{program}.{number}.ctl")]


def order(command: str, seconds: float, path: Path, control: Path) -> str | None:
    """Return the driver's answer to a command on its control socket; ``None`` if no driver runs.

    Raises Unavailable with the driver's error if the command failed.
    """
    try:
        find(path, control)  # makes systemd start the driver, if systemd holds the socket
    except Unavailable:
        return None
    for socket_ in (file for program in (PROGRAM, UNDERLAY) for file in control.glob(f"{program}.*.ctl")):
        try:
            return ask(socket_, command, seconds)
        except (ConnectionRefusedError, FileNotFoundError):
            continue  # the socket of a driver that was killed
        except TimeoutError:
            raise TimedOut(f"the driver did not answer {command} within {seconds:g} s") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"the driver says: {error}") from None
    raise Unavailable(f"the driver answers, but not on its control socket in {control}: restart it")


def _threads(control: Path) -> tuple[ThreadState, ...] | None:
    """Return the threads that the driver lists; ``None`` for an earlier version."""
    try:
        return tuple(ThreadState(**state) for state in json.loads(ask(control, "threads", 3.0)))
    except (OSError, TypeError, ValueError):
        return None


def _listener(stream: socket.socket) -> int:
    """Return the process that called listen() on the socket (unix(7), SO_PEERCRED): the driver or systemd."""
    pid, _, _ = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)
