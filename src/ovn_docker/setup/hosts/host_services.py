"""The daemons of a host, Open vSwitch, ovn-controller and the driver: started, stopped, their state."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ovn_docker.errors import Unavailable
from ovn_docker.host.daemons import (
    CONTROLLER,
    DRIVER,
    VSWITCH_DATABASE,
    VSWITCHD,
    DaemonState,
    answer,
    read_daemon,
)
from ovn_docker.host.distribution import distribution
from ovn_docker.host.driver_socket import RunningDriver, find
from ovn_docker.host.places import OVN, Places, booted_with_systemd, find_places
from ovn_docker.host.run import require, succeeds
from ovn_docker.setup.barrier_steps import remove_barrier
from ovn_docker.setup.databases import OVN_CTL
from ovn_docker.setup.own_programs import find_program
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.vswitch_row import VSWITCH_START, read_external_ids

DRIVER_UNITS = ("ovn-docker-overlay.socket", "ovn-docker-overlay.service")

_CURE = "start it with `ovn-docker host start`"


@dataclass(frozen=True)
class PackagedPart:
    """A part of a host that comes from the distribution's packages."""

    title: str
    units: tuple[str, ...]
    """Its units, each by name: the unit that pulls in the others counts as active when those are dead."""
    start: tuple[str, ...]
    """The command that starts the part where systemd does not run the machine."""
    stop: tuple[str, ...]
    logs: str


def _vswitch() -> PackagedPart:
    return PackagedPart(
        "Open vSwitch",
        (distribution().vswitch, "ovsdb-server", "ovs-vswitchd"),
        VSWITCH_START,
        (VSWITCH_START[0], "stop"),
        "/var/log/openvswitch",
    )


def _controller() -> PackagedPart:
    return PackagedPart(
        "ovn-controller",
        distribution().controller,
        (OVN_CTL, "start_controller"),
        (OVN_CTL, "stop_controller"),
        "/var/log/ovn",
    )


@dataclass(frozen=True)
class HostPart:
    """The state of a daemon of this host, for ``ovn-docker host status``."""

    name: str
    is_up: bool
    pid: int | None
    remark: str = ""


def start_host(steps: Steps) -> None:
    """Start Open vSwitch, ovn-controller and the driver, in this order, those that do not run.

    Raises:
        Unavailable: a program is not installed, or the host has not been set up.

    """
    require(CONTROLLER)
    start_vswitch(steps)
    if vswitch_running() and "ovn-remote" not in read_external_ids():
        raise Unavailable(
            "this host does not know its central machine; run "
            "`ovn-docker host setup --central IP`, then this again"
        )
    if not _pid(CONTROLLER):
        _start_part(steps, _controller(), lambda: _pid(CONTROLLER) is not None)
    if _find_driver()[1]:
        _start_driver(steps)


def start_vswitch(steps: Steps) -> None:
    """Start Open vSwitch, unless it runs. Raises Unavailable if it is not installed."""
    require(VSWITCHD)
    if not vswitch_running():
        _start_part(steps, _vswitch(), vswitch_running)


def stop_host(steps: Steps, *, with_vswitch: bool) -> None:
    """Stop the driver and ovn-controller, *with_vswitch* Open vSwitch too, and remove the barrier."""
    _stop_driver(steps)
    if _pid(CONTROLLER):
        _stop_part(steps, _controller())
    if with_vswitch and (_pid(VSWITCH_DATABASE) or _pid(VSWITCHD)):
        _stop_part(steps, _vswitch())
    remove_barrier(steps)


def host_status() -> list[HostPart]:
    """Return the state of each daemon of this host."""
    places = find_places()
    driver, problem = _find_driver()
    parts = []
    for name in (VSWITCH_DATABASE, VSWITCHD):
        pid = read_daemon(name, places).pid
        parts.append(HostPart(name, pid is not None, pid, "" if pid else _CURE))
    parts.append(_controller_status(read_daemon(CONTROLLER, places), places))
    pid = read_daemon(DRIVER, places, driver).pid
    parts.append(HostPart("driver", not problem, pid, problem or f"answers on {places.plugin}"))
    return parts


def vswitch_running() -> bool:
    """Return whether ovsdb-server and ovs-vswitchd run."""
    return _pid(VSWITCH_DATABASE) is not None and _pid(VSWITCHD) is not None


def _controller_status(daemon: DaemonState, places: Places) -> HostPart:
    """Return the state of ovn-controller, which is up if it is connected to the southbound database."""
    if daemon.pid is None:
        return HostPart(CONTROLLER, is_up=False, pid=None, remark=_CURE)
    try:
        state = answer(daemon, "connection-status", places, 5.0)
    except Unavailable as error:
        return HostPart(CONTROLLER, is_up=False, pid=daemon.pid, remark=str(error))
    remark = state
    if state == "not connected":
        remark = "not connected to the southbound database; is the central machine up and reachable?"
    return HostPart(CONTROLLER, state == "connected", daemon.pid, remark)


def _start_part(steps: Steps, part: PackagedPart, is_up: Callable[[], bool]) -> None:
    """Start a part and wait until it is up."""
    if booted_with_systemd():
        steps.change(f"start {part.title}", "systemctl", "start", *part.units)
        hint = f"see `journalctl -u {part.units[-1]}`"
    else:
        steps.change(f"start {part.title}", *_with_directory(part.start))
        hint = f"see the logs in {part.logs}"
    steps.wait(f"start of {part.title}", is_up, seconds=15, hint=hint)


def _stop_part(steps: Steps, part: PackagedPart) -> None:
    """Stop a part: its units if systemd runs it, else the daemons themselves."""
    by_unit = booted_with_systemd() and succeeds("systemctl", "is-active", "--quiet", part.units[-1])
    command = ("systemctl", "stop", *part.units) if by_unit else _with_directory(part.stop)
    steps.change(f"stop {part.title}", *command)


def _with_directory(command: Sequence[str]) -> tuple[str, ...]:
    """Return a command of ovn-ctl(8) with OVN's directory, if the driver's settings name another."""
    directory = find_places().ovn
    if command[0] != OVN_CTL or directory == OVN:
        return tuple(command)
    return "env", f"OVN_RUNDIR={directory}", *command


def _start_driver(steps: Steps) -> None:
    """Start the driver, by its units where they are installed, and wait until it answers."""
    if _driver_is_unit():
        steps.change("start the driver", "systemctl", "start", *DRIVER_UNITS)
        hint = f"see `journalctl -u {DRIVER_UNITS[1]}`"
    else:
        steps.change("start the driver", find_program(DRIVER), "--detach", "--pidfile", "--log-file")
        hint = f"see /var/log/openvswitch/{DRIVER}.log"
    steps.wait("start of the driver", lambda: not _find_driver()[1], seconds=15, hint=hint)


def _stop_driver(steps: Steps) -> None:
    """Stop the driver: its units, or its process."""
    if _driver_is_unit() and any(
        succeeds("systemctl", "is-active", "--quiet", unit) for unit in DRIVER_UNITS
    ):
        steps.change("stop the driver", "systemctl", "stop", *DRIVER_UNITS)
    if pid := _driver_pid():
        steps.show("stop the driver", f"kill {pid}")
        if not steps.dry_run:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        steps.wait("end of the driver", lambda: not _driver_pid(), seconds=30, hint=f"try `kill -9 {pid}`")


def _driver_is_unit() -> bool:
    """Return whether systemd runs the machine and has the driver's units (make install)."""
    return booted_with_systemd() and succeeds("systemctl", "cat", DRIVER_UNITS[1])


def _driver_pid() -> int | None:
    """Return the driver's process: by its pidfile, or by its socket if it has none, as in the guide."""
    if pid := _pid(DRIVER):
        return pid
    driver, _ = _find_driver()
    return driver.pid if driver and driver.program == DRIVER else None


def _find_driver() -> tuple[RunningDriver | None, str]:
    """Return the driver that answers, or the reason why no driver does."""
    try:
        places = find_places()
        return find(places.plugin, places.vswitch), ""
    except Unavailable as problem:
        return None, str(problem)


def _pid(name: str) -> int | None:
    return read_daemon(name, find_places()).pid
