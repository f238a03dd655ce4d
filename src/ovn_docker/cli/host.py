"""``ovn-docker host``: a machine with containers, set up once and started on every boot.

A host runs Open vSwitch, ovn-controller, which programs it from the southbound database, and the driver.
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ovn_docker.cli import barrier, forget, nameservers, setup
from ovn_docker.cli.arguments import add_command, require_root
from ovn_docker.cli.databases import OVN_CTL
from ovn_docker.cli.output import bad, doubtful, good, print_json, print_table, say_lines
from ovn_docker.cli.steps import Steps, require, succeeds
from ovn_docker.errors import Unavailable
from ovn_docker.host.controller import ask
from ovn_docker.host.driver import PROGRAM as DRIVER
from ovn_docker.host.driver import find
from ovn_docker.host.places import OVN, booted_with_systemd, find_places
from ovn_docker.host.processes import running

DRIVER_UNITS = ("ovn-docker-overlay.socket", "ovn-docker-overlay.service")


class Part(NamedTuple):
    """A part of a host that comes from Debian's packages."""

    title: str
    units: tuple[str, ...]
    """All of them: the one that pulls in the others counts as active when those are dead."""
    start: tuple[str, ...]
    """How it is started where systemd does not run the machine."""
    stop: tuple[str, ...]
    logs: str


VSWITCH = Part(
    "Open vSwitch",
    ("openvswitch-switch", "ovsdb-server", "ovs-vswitchd"),
    setup.VSWITCH_START,
    (setup.VSWITCH_START[0], "stop"),
    "/var/log/openvswitch",
)
CONTROLLER = Part(
    "ovn-controller",
    ("ovn-host", "ovn-controller"),
    (OVN_CTL, "start_controller"),
    (OVN_CTL, "stop_controller"),
    "/var/log/ovn",
)

START = """\
Starts Open vSwitch, ovn-controller and the Docker driver, whichever is not running. Run it on every boot,
or have systemd do it (make install).

example:
  ovn-docker host start
"""
STOP = """\
Stops the Docker driver and ovn-controller; ovn-controller takes this host out of the network as it goes.
Open vSwitch is stopped with --all only: other networks of the machine may need it. The barrier between
containers and OVN's databases is removed, unless the databases run on this machine.

example:
  ovn-docker host stop
"""
STATUS = """\
Shows what runs on this host. Exit code 0: all is up; 3: something is not.

examples:
  ovn-docker host status
  ovn-docker host status --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds setup, start, stop, status and forget to the parser of ``ovn-docker host``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    setup.add_arguments(
        add_command(commands, "setup", "the one-time setup: databases and tunnels", setup.TEXT, setup.setup)
    )
    add_command(commands, "start", "start Open vSwitch, ovn-controller and the driver", START, start)
    parser = add_command(commands, "stop", "stop the driver and ovn-controller", STOP, stop)
    parser.add_argument("--all", action="store_true", help="stop Open vSwitch too")
    parser = add_command(commands, "status", "show what runs", STATUS, status)
    parser.add_argument("--json", action="store_true", help="print JSON")
    forget.add_arguments(
        add_command(commands, "forget", "remove what a lost host has left", forget.TEXT, forget.run)
    )


def start(args: argparse.Namespace) -> int:
    """Starts Open vSwitch, ovn-controller and the driver, in this order."""
    require_root()
    require("ovs-vswitchd")
    require("ovn-controller")
    steps = Steps(dry_run=args.dry_run)
    if not vswitch_running():
        start_part(steps, VSWITCH, vswitch_running)
    if vswitch_running() and "ovn-remote" not in setup.open_vswitch("external_ids")["external_ids"]:
        raise Unavailable(
            "this host does not know its central machine; run "
            "`ovn-docker host setup --central IP`, then this again"
        )
    if not controller_pid():
        start_part(steps, CONTROLLER, lambda: controller_pid() is not None)
    if driver_problem():
        start_driver(steps)
    return steps.finish()


def start_part(steps: Steps, part: Part, up: Callable[[], bool]) -> None:
    """Starts a part and waits until it is up."""
    if booted_with_systemd():
        steps.change(f"start {part.title}", "systemctl", "start", *part.units)
        hint = f"see `journalctl -u {part.units[-1]}`"
    else:
        steps.change(f"start {part.title}", *placed(part.start))
        hint = f"see the logs in {part.logs}"
    steps.wait(f"start of {part.title}", up, seconds=15, hint=hint)


def placed(command: Sequence[str]) -> tuple[str, ...]:
    """Return a command of ovn-ctl(8); with OVN's directory, if the driver's settings name another."""
    directory = find_places().ovn
    if command[0] != OVN_CTL or directory == OVN:
        return tuple(command)
    return "env", f"OVN_RUNDIR={directory}", *command


def start_driver(steps: Steps) -> None:
    """Starts the driver, by its units where they are installed, and waits until it answers."""
    if driver_is_unit():
        steps.change("start the driver", "systemctl", "start", *DRIVER_UNITS)
        hint = f"see `journalctl -u {DRIVER_UNITS[1]}`"
    else:
        steps.change("start the driver", driver_program(), "--detach", "--pidfile", "--log-file")
        hint = f"see /var/log/openvswitch/{DRIVER}.log"
    steps.wait("start of the driver", lambda: driver_problem() is None, seconds=15, hint=hint)


def vswitch_running() -> bool:
    """Whether ovsdb-server and ovs-vswitchd run."""
    return vswitch_pid("ovsdb-server") is not None and vswitch_pid("ovs-vswitchd") is not None


def vswitch_pid(program: str) -> int | None:
    """The process of ovsdb-server or ovs-vswitchd, if any."""
    return running(find_places().vswitch / f"{program}.pid")


def controller_pid() -> int | None:
    """The process of ovn-controller, if any."""
    return running(find_places().ovn / "ovn-controller.pid")


def driver_pid() -> int | None:
    """The driver's process, if any: by its pidfile, or by its socket if it has none, as in the guide."""
    places = find_places()
    pid = running(places.vswitch / f"{DRIVER}.pid")
    if pid is None:
        with suppress(Unavailable):
            found = find(places.plugin, places.vswitch)
            pid = found.pid if found.program == DRIVER else None
    return pid


def driver_is_unit() -> bool:
    """Whether systemd runs the machine and has the driver's units (make install)."""
    return booted_with_systemd() and succeeds("systemctl", "cat", DRIVER_UNITS[1])


def driver_program() -> str:
    """Path of the driver installed beside this program, else of the one on PATH.

    A link on PATH to the former is preferred: it is valid after an upgrade too.

    Raises:
        Unavailable: there is none.

    """
    beside, program = Path(sys.executable).parent / DRIVER, shutil.which(DRIVER)
    if beside.exists() and not (program and beside.samefile(program)):
        return str(beside)
    if program is None:
        raise Unavailable(
            f"{DRIVER} is not installed; run `make install` or `pip install .` in the source tree"
        )
    return program


def driver_problem() -> str | None:
    """What is wrong with the driver, or None."""
    try:
        places = find_places()
        find(places.plugin, places.vswitch)
    except Unavailable as problem:
        return str(problem)
    return None


def stop(args: argparse.Namespace) -> int:
    """Stops the driver and ovn-controller, with --all Open vSwitch too."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    stop_driver(steps)
    if controller_pid():
        stop_part(steps, CONTROLLER)
    if args.all and (vswitch_pid("ovsdb-server") or vswitch_pid("ovs-vswitchd")):
        stop_part(steps, VSWITCH)
    barrier.remove(steps)
    return steps.finish()


def stop_driver(steps: Steps) -> None:
    """Stops the driver: its units, or its process."""
    if driver_is_unit() and any(succeeds("systemctl", "is-active", "--quiet", unit) for unit in DRIVER_UNITS):
        steps.change("stop the driver", "systemctl", "stop", *DRIVER_UNITS)
    if pid := driver_pid():
        steps.note("stop the driver", f"kill {pid}")
        if not steps.dry_run:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        steps.wait("end of the driver", lambda: driver_pid() is None, seconds=30, hint=f"try `kill -9 {pid}`")


def stop_part(steps: Steps, part: Part) -> None:
    """Stops a part: its units if systemd runs it, else the daemons themselves."""
    by_unit = booted_with_systemd() and succeeds("systemctl", "is-active", "--quiet", part.units[-1])
    steps.change(
        f"stop {part.title}", *(("systemctl", "stop", *part.units) if by_unit else placed(part.stop))
    )


class Line(NamedTuple):
    """A part of this host: whether it *is_up*, its process if it has one, and what there is to say of it."""

    name: str
    is_up: bool
    pid: int | None
    remark: str = ""

    @property
    def process(self) -> str:
        """In words."""
        if self.pid is None:
            return good("running") if self.is_up else bad("not running")
        return (good if self.is_up else doubtful)(f"running (pid {self.pid})")


def status(args: argparse.Namespace) -> int:
    """Prints a line for each part; 3 when one is not up."""
    require_root()
    lines = [
        vswitch_status("ovsdb-server"),
        vswitch_status("ovs-vswitchd"),
        controller_status(),
        driver_status(),
    ]
    if args.json:
        print_json([line._asdict() for line in lines])
    else:
        print_table([(line.name, line.process, line.remark) for line in lines])
        if note := nameservers.advice():
            say_lines(note, file=sys.stderr)
    return 0 if all(line.is_up for line in lines) else Unavailable.exit_code


START_IT = "start it with `ovn-docker host start`"


def vswitch_status(program: str) -> Line:
    """Return the line of a daemon of Open vSwitch."""
    pid = vswitch_pid(program)
    return Line(program, pid is not None, pid, "" if pid else START_IT)


def controller_status() -> Line:
    """Return the line of ovn-controller, which is up if it is connected to the southbound database."""
    pid = controller_pid()
    if pid is None:
        return Line("ovn-controller", is_up=False, pid=None, remark=START_IT)
    try:
        said = ask(find_places().ovn / f"ovn-controller.{pid}.ctl", "connection-status", 5.0)
    except (OSError, ValueError) as error:
        said = f"does not answer: {error}"
    if said == "not connected":
        said = "not connected to the southbound database; is the central machine up and reachable?"
    return Line("ovn-controller", said == "connected", pid, said)


def driver_status() -> Line:
    """Return the line of the driver."""
    problem = driver_problem()
    return Line("driver", problem is None, driver_pid(), problem or f"answers on {find_places().plugin}")
