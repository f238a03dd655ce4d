"""Paths of the parts of this host, from the driver's settings: the same for the tool and the driver."""

import grp
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ovn_docker import settings as table
from ovn_docker.errors import Forbidden, OvnDockerError
from ovn_docker.host.environment import environment
from ovn_docker.host.run import run
from ovn_docker.settings import DOCKER, SOCKET, Settings

OVS, OVN = Path("/var/run/openvswitch"), Path("/var/run/ovn")
"""Directories of the daemons of Open vSwitch and OVN, unless OVS_RUNDIR or OVN_RUNDIR says otherwise."""

_SETTINGS = ("socket", "docker", "db", "ovn_rundir")
_SYSTEMCTL = 5.0
"""Time limit of systemctl(1) in seconds."""

_SOCKET_UNITS = ("ovn-docker-overlay.socket", "ovn-docker-underlay.socket")


@dataclass(frozen=True, slots=True)
class Places:
    """Paths of the parts of this machine.

    *vswitch*: directory with the pidfiles and control sockets of Open vSwitch and the driver; *ovn*: that of
    ovn-controller; *plugin*: the socket on which the driver serves Docker; *db*: the Open_vSwitch database,
    empty for the one in *vswitch*; *central*: directory of OVN's databases and ovn-northd.
    """

    vswitch: Path = OVS
    ovn: Path = OVN
    docker: Path = DOCKER
    plugin: Path = SOCKET
    proc: Path = Path("/proc")
    db: str = ""
    central: Path = OVN

    @property
    def database(self) -> str:
        """Return the address of the local Open_vSwitch database."""
        return self.db or f"unix:{self.vswitch}/db.sock"


def find_places(given: Mapping[str, str] = os.environ) -> Places:
    """Read the settings of the driver from the variables *given*, or else its file.

    Raises BadRequest for an invalid one.
    """
    variables = environment(given)
    settings = table.read(Settings, {}, variables, only=_SETTINGS)
    return Places(
        vswitch=Path(variables.get("OVS_RUNDIR") or OVS),
        ovn=settings.ovn_rundir,
        docker=settings.docker,
        plugin=_listening(settings.socket),
        db=settings.db,
        central=Path(variables.get("OVN_RUNDIR") or OVN),
    )


def _listening(setting: Path) -> Path:
    """Return the driver's socket: that of systemd's active socket unit, or else the *setting*.

    If neither exists, that of Docker's managed plugin, in a directory that has the plugin's ID as name.
    """
    if setting == SOCKET and not setting.exists():
        with suppress(OSError, StopIteration):
            return next(SOCKET.parent.glob(f"*/{SOCKET.name}"))
    if setting == SOCKET or not booted_with_systemd():
        return setting
    try:
        shown = run(("systemctl", "show", "--property=ActiveState,Listen", *_SOCKET_UNITS), _SYSTEMCTL)
    except OvnDockerError:
        return setting
    for unit in shown.split("\n\n"):
        path = re.search(r"^Listen=(/.*) \(Stream\)$", unit, re.MULTILINE)
        if path and "ActiveState=active\n" in f"{unit}\n":
            return Path(path[1])
    return setting


def require_access(path: Path) -> None:
    """Raise Forbidden if a Unix socket exists and the user may not connect to it (unix(7))."""
    try:
        found = path.stat()
        if os.access(path, os.W_OK):
            return
    except PermissionError:
        found = None
    except OSError:
        return
    members = f" and group {_group(found.st_gid)}" if found and found.st_mode & stat.S_IWGRP else ""
    raise Forbidden(f"only root{members} may use {path}: run this again with sudo")


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def booted_with_systemd() -> bool:
    """Return whether systemd is PID 1, as sd_booted(3) finds out."""
    return Path("/run/systemd/system").is_dir()
