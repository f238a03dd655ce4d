"""Is the driver there? Asked on its socket, as Docker asks, and on its control socket."""

import http.client
import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from ovn_docker.errors import TimedOut, Unavailable
from ovn_docker.host.controller import ask
from ovn_docker.threads import State

PROGRAM, UNDERLAY = "ovn-docker-overlay-driver", "ovn-docker-underlay-driver"


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver that answers; all is empty if it does not on its control socket."""

    program: str
    pid: int | None = None
    version: str = ""
    ipam: bool = False
    requests: str = ""
    """How many calls of Docker's there were, and how many failed, in words."""
    threads: tuple[State, ...] | None = None
    """``None`` if it does not say, as earlier versions."""


def find(path: Path, control: Path) -> Driver:
    """The driver behind a socket (``/Plugin.Activate``); *control*: where control sockets are.

    Raises Unavailable if there is none, or another program.
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
        raise Unavailable(f"{path} is not there") from None
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
        return Driver(
            program=program,
            pid=int(number),
            version=version.rpartition(" ")[2],
            ipam="IpamDriver" in implements,
            requests=requests,
            threads=_threads(socket_),
        )
    return Driver("", None, "", "IpamDriver" in implements)


def _control_sockets(pid: int, control: Path) -> list[Path]:
    """Where the driver answers to commands if *pid* listens for Docker: PID 1 does so in its place."""
    number = "[1-9]*" if pid == 1 else str(pid)
    return [file for program in (PROGRAM, UNDERLAY) for file in control.glob(f"{program}.{number}.ctl")]


def order(command: str, seconds: float, path: Path, control: Path) -> str | None:
    """What the driver answers to a command on its control socket; ``None`` if no driver runs.

    Raises Unavailable with its word if it could not do it.
    """
    try:
        find(path, control)  # which has systemd start it, if it holds the socket
    except Unavailable:
        return None
    for socket_ in (file for program in (PROGRAM, UNDERLAY) for file in control.glob(f"{program}.*.ctl")):
        try:
            return ask(socket_, command, seconds)
        except (ConnectionRefusedError, FileNotFoundError):
            continue  # of one that was killed
        except TimeoutError:
            raise TimedOut(f"the driver did not answer {command} within {seconds:g} s") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"the driver says: {error}") from None
    raise Unavailable(f"the driver answers, but not on its control socket in {control}: restart it")


def _threads(control: Path) -> tuple[State, ...] | None:
    """The driver's threads, as it says itself; earlier versions do not."""
    try:
        return tuple(State(**state) for state in json.loads(ask(control, "threads", 3.0)))
    except (OSError, TypeError, ValueError):
        return None


def _listener(stream: socket.socket) -> int:
    """The process that made the socket listen (unix(7), SO_PEERCRED): the driver, or systemd."""
    pid, _, _ = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)
