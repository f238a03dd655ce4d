"""Is ovn-controller there? Asked over its control socket (ovs-appctl(8), "unixctl")."""

import json
import socket
from pathlib import Path

from ovn_docker.errors import Unavailable

_START = "start it with: ovn-docker host start, or /usr/share/ovn/scripts/ovn-ctl start_controller"


class Controller:
    """The ovn-controller of this host; *run_dir* is where its pidfile and socket are."""

    def __init__(self, run_dir: Path) -> None:
        self._pidfile = run_dir / "ovn-controller.pid"

    def check(self, timeout: float = 1.0) -> None:
        """Raise Unavailable unless ovn-controller runs and is connected to the southbound database.

        A controller that is too busy to answer within *timeout* seconds is taken to be at work.
        """
        try:
            pid = int(self._pidfile.read_text())
            status = ask(self._pidfile.with_name(f"ovn-controller.{pid}.ctl"), "connection-status", timeout)
        except TimeoutError:
            return
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"ovn-controller is not running ({self._pidfile}: {_short(error)}); {_START}"
            ) from None
        if status != "connected":
            raise Unavailable(
                f"ovn-controller is {status} to the OVN southbound database; look at external_ids:ovn-remote "
                "in `ovs-vsctl list Open_vSwitch` and at /var/log/ovn/ovn-controller.log"
            )


def ask(path: Path, command: str, timeout: float) -> str:
    """Answer to a command on the control socket of a daemon, of OVS, of OVN or ours; *timeout* in seconds.

    A JSON-RPC 1.0 request (ovs lib/unixctl.c). Raises OSError or ValueError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(json.dumps({"id": 0, "method": command, "params": []}).encode())
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
            try:
                return str(json.loads(answer)["result"]).strip()
            except json.JSONDecodeError:
                continue
    raise ValueError("closed without an answer")


def _short(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
