"""The daemons of this machine: which of them run, since when, and their answers on their control sockets.

Every command that starts, stops, shows or checks a daemon reads its state here.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from ovn_docker.errors import Unavailable
from ovn_docker.host.driver_socket import PROGRAM, RunningDriver
from ovn_docker.host.ovn_controller import ask
from ovn_docker.host.places import Places
from ovn_docker.host.processes import running, started

VSWITCHD, VSWITCH_DATABASE = "ovs-vswitchd", "ovsdb-server"
CONTROLLER, NORTHD = "ovn-controller", "ovn-northd"
DRIVER = PROGRAM

_DIRECTORIES = {
    VSWITCH_DATABASE: "vswitch",
    VSWITCHD: "vswitch",
    DRIVER: "vswitch",
    CONTROLLER: "ovn",
    NORTHD: "central",
    "ovnnb_db": "central",
    "ovnsb_db": "central",
}
"""The field of `Places` with the directory of a daemon's pidfile and control socket, by the daemon's name."""


@dataclass(frozen=True, slots=True)
class DaemonState:
    """A daemon of this machine. *pid* is ``None`` if it does not run; *since*: seconds of the epoch."""

    name: str
    pid: int | None = None
    since: float | None = None


def read_daemons(places: Places, driver: RunningDriver | None = None) -> tuple[DaemonState, ...]:
    """Return all daemons that this machine may have, running or not; *driver*: the driver that answers."""
    return tuple(read_daemon(name, places, driver) for name in _DIRECTORIES)


def read_daemon(name: str, places: Places, driver: RunningDriver | None = None) -> DaemonState:
    """Return one daemon of this machine, by its name in `_DIRECTORIES`.

    *driver*: the driver that answers; one that systemd or a shell has started has no pidfile.
    """
    known = driver.pid if driver and driver.program == name else None
    pid = known or running(_directory(name, places) / f"{name}.pid")
    if pid is None:
        return DaemonState(name)
    try:
        ticks = started(pid, places.proc)
    except (OSError, ValueError):
        return DaemonState(name)  # the process has just ended
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return DaemonState(name, pid, boot + ticks / os.sysconf("SC_CLK_TCK"))


def answer(daemon: DaemonState, command: str, places: Places, seconds: float) -> str:
    """Return the answer of a running daemon to a command on its control socket (ovs-appctl(8)).

    Raises:
        Unavailable: the daemon does not run, does not answer within *seconds*, or refuses the command.

    """
    path = _directory(daemon.name, places) / f"{daemon.name}.{daemon.pid}.ctl"
    try:
        return ask(path, command, seconds)
    except (OSError, ValueError) as error:
        raise Unavailable(f"does not answer: {error}") from None


def _directory(name: str, places: Places) -> Path:
    return Path(getattr(places, _DIRECTORIES[name]))
