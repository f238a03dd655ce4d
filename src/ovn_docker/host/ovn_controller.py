"""State of ovn-controller: whether it runs, and whether it is connected to the southbound database."""

import errno
import json
import socket
import time
from pathlib import Path

from ovn_docker.errors import Unavailable
from ovn_docker.host.processes import locked_by

START = "start it with: ovn-docker host start, or /usr/share/ovn/scripts/ovn-ctl start_controller"
"""Cure when ovn-controller does not run."""

_CONNECTED = "connected"
_HOLDS = 1.0
"""Seconds for which the answer "connected" is reused, as long as the process that gave it runs.

A fresh answer would say no more, since a connection may break just after it, and each question wakes
ovn-controller up while it installs flows.
"""


class Controller:
    """The ovn-controller of this host; *run_dir* is the directory of its pidfile and control socket."""

    def __init__(self, run_dir: Path) -> None:
        self._pidfile = run_dir / "ovn-controller.pid"
        self._connected = 0, float("-inf")  # the process that last answered "connected", and when

    def status(self, timeout: float) -> str:
        """Return what ``ovs-appctl connection-status`` prints, such as "connected".

        An answer "connected" is reused for a second. Raises OSError, ValueError.
        """
        pid = int(self._pidfile.read_text())
        by, when = self._connected
        if pid == by and time.monotonic() - when < _HOLDS and locked_by(self._pidfile):
            return _CONNECTED
        status = ask(self._pidfile.with_name(f"ovn-controller.{pid}.ctl"), "connection-status", timeout)
        if status == _CONNECTED:
            self._connected = pid, time.monotonic()
        return status

    def check(self, timeout: float = 1.0) -> None:
        """Raise Unavailable unless ovn-controller runs and is connected to the southbound database.

        A controller that is too busy to answer within *timeout* seconds counts as connected.
        """
        try:
            status = self.status(timeout)
        except (TimeoutError, BlockingIOError):  # BlockingIOError: its queue of connections is full (unix(7))
            return
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
                raise Unavailable(f"cannot ask whether ovn-controller runs: {error.strerror}") from None
            raise Unavailable(
                f"ovn-controller is not running ({self._pidfile}: {_short(error)}); {START}"
            ) from None
        if status != _CONNECTED:
            raise Unavailable(
                f"ovn-controller is {status} to the OVN southbound database; look at external_ids:ovn-remote "
                "in `ovs-vsctl list Open_vSwitch` and at /var/log/ovn/ovn-controller.log"
            )


def ask(path: Path, command: str, timeout: float) -> str:
    """Return the answer to *command* on the control socket of a daemon of OVS or OVN, or of the driver.

    A JSON-RPC 1.0 request (ovs lib/unixctl.c). *timeout* in seconds. Raises OSError; ValueError with the
    daemon's error.
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
