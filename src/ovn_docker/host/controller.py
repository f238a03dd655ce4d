"""Is ovn-controller there? Asked over its control socket (ovs-appctl(8), "unixctl")."""

import errno
import json
import socket
import time
from pathlib import Path

from ovn_docker.errors import Unavailable
from ovn_docker.host.processes import locked_by

START = "start it with: ovn-docker host start, or /usr/share/ovn/scripts/ovn-ctl start_controller"
"""What to do without ovn-controller."""

_HOLDS = 1.0
"""Seconds that the answer "connected" counts, as long as the process that gave it lives.

A connection may break just after the answer, too. To ask wakes ovn-controller up, once for each container.
"""


class Controller:
    """The ovn-controller of this host; *run_dir* is where its pidfile and socket are."""

    def __init__(self, run_dir: Path) -> None:
        self._pidfile = run_dir / "ovn-controller.pid"
        self._connected = 0, float("-inf")  # which process, and when it said so

    def check(self, timeout: float = 1.0) -> None:
        """Raise Unavailable unless ovn-controller runs and is connected to the southbound database.

        A controller that is too busy to answer within *timeout* seconds is taken to be at work.
        """
        try:
            pid = int(self._pidfile.read_text())
            said, when = self._connected
            if pid == said and time.monotonic() - when < _HOLDS and locked_by(self._pidfile):
                return
            status = ask(self._pidfile.with_name(f"ovn-controller.{pid}.ctl"), "connection-status", timeout)
        except (TimeoutError, BlockingIOError):  # the latter if more connections wait than it lets (unix(7))
            return
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
                raise Unavailable(f"cannot ask whether ovn-controller runs: {error.strerror}") from None
            raise Unavailable(
                f"ovn-controller is not running ({self._pidfile}: {_short(error)}); {START}"
            ) from None
        if status == "connected":
            self._connected = pid, time.monotonic()
        else:
            raise Unavailable(
                f"ovn-controller is {status} to the OVN southbound database; look at external_ids:ovn-remote "
                "in `ovs-vsctl list Open_vSwitch` and at /var/log/ovn/ovn-controller.log"
            )


def ask(path: Path, command: str, timeout: float) -> str:
    """Answer to a command on the control socket of a daemon, of OVS, of OVN or ours; *timeout* in seconds.

    A JSON-RPC 1.0 request (ovs lib/unixctl.c). Raises OSError, or ValueError that says what is wrong.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(json.dumps({"id": 0, "method": command, "params": []}).encode())
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
            try:
                reply = json.loads(answer)
            except json.JSONDecodeError:
                continue
            if reply.get("error"):
                raise ValueError(str(reply["error"]).strip())
            return str(reply["result"]).strip()
    raise ValueError("closed without an answer")


def _short(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
