"""Programs in the current directory are not run, whatever PATH contains."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from functional.machine import Machine
from functional.ovsdb_servers import until
from ovn_docker.host.own_process import SYSTEM, search_path
from ovn_docker.model import NAMESERVERS

OVS_CTL = "/usr/share/openvswitch/scripts/ovs-ctl"
BIN = Path(sys.executable).parent
PATHS = ["", ":/usr/bin", ".:/usr/bin", "bin:/usr/bin"]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine with Open vSwitch and databases, on which Docker has the setting for names."""
    machine = Machine()
    machine.out("mkdir", "-p", "/etc/docker")
    machine.out("mount", "-t", "tmpfs", "none", "/etc/docker")
    settings = {"dns": [*map(str, NAMESERVERS), "192.0.2.53"]}
    machine.out("sh", "-c", 'echo "$1" >/etc/docker/daemon.json', "sh", json.dumps(settings))
    machine.out(OVS_CTL, "start", "--system-id=random")
    machine.output("central", "start", "--address=127.0.0.1")
    machine.output("host", "setup", "--central=127.0.0.1", "--encap-ip=127.0.0.1", "--encap-type=geneve")
    yield machine
    machine.close()


class Trap:
    """A directory with a program for each program of the system that records its own execution."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notes = directory / "notes"
        script = directory / "trap"
        script.write_text(f'#!/bin/sh\necho "${{0##*/}}" >>{self.notes}\nexit 1\n')
        script.chmod(0o755)
        (directory / "bin").mkdir()
        names = {file.name for place in SYSTEM for file in Path(place).glob("*")}
        for name in names - {"bin"}:
            (directory / name).symlink_to(script)
            (directory / "bin" / name).symlink_to(script)

    def executed(self) -> set[str]:
        """Names of the programs that were run."""
        return set(self.notes.read_text().split()) if self.notes.exists() else set()


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "path"),
    [
        *(("central status", path) for path in PATHS),
        *((command, PATHS[1]) for command in ("doctor", "gc", "pki init --directory=/run/pki")),
    ],
)
def test_commands_run_nothing_of_the_current_directory(
    machine: Machine, trap: Trap, command: str, path: str
) -> None:
    done = machine.run(
        "/usr/bin/env", "-C", str(trap.directory), f"PATH={path}", str(BIN / "ovn-docker"), *command.split()
    )
    assert trap.executed() == set()
    assert done.returncode in (0, 1, 3), done
    assert "Traceback" not in done.stderr
    assert "not installed" not in done.stdout + done.stderr


@pytest.mark.parametrize("path", PATHS[:2])
def test_driver_runs_nothing_of_the_current_directory(machine: Machine, trap: Trap, path: str) -> None:
    """The driver runs iptables, which forwards name queries."""
    machine.run("iptables", "-t", "nat", "-F")
    machine.run("iptables", "-t", "nat", "-X")
    pidfile, log = trap.directory / "driver.pid", trap.directory / "driver.log"
    machine.out(
        *("/usr/bin/env", "-C", str(trap.directory), f"PATH={path}"),
        *(str(BIN / "ovn-docker-overlay-driver"), "--detach", f"--pidfile={pidfile}", f"--log-file={log}"),
    )
    try:
        until(lambda: trap.executed() or "OVN-DOCKER-NAMES" in machine.out("iptables-save", "-t", "nat"))
        assert trap.executed() == set(), log.read_text()
    finally:
        machine.run("/bin/kill", "-9", pidfile.read_text().strip())


@pytest.mark.slow
def test_guard_of_an_interface_imports_nothing_of_the_current_directory(machine: Machine, trap: Trap) -> None:
    """The directory has a module that the guard imports; `python -m` would find it before the system's."""
    (trap.directory / "argparse.py").write_text(f"open({str(trap.notes)!r}, 'w').write('argparse')")
    machine.out("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "cable")
    machine.out("ip", "link", "set", "eth0", "up")
    bridge = (str(BIN / "ovn-docker"), "underlay", "bridge", "--interface=eth0", "--bridge=breth0", "--yes")
    done = machine.run("/usr/bin/env", "-C", str(trap.directory), *bridge)
    assert trap.executed() == set()
    assert done.returncode == 0, done


def test_absolute_directories_of_path_keep_their_order() -> None:
    assert search_path("/opt/x:/usr/bin:/opt/y").split(":")[:3] == ["/opt/x", "/usr/bin", "/opt/y"]


def test_directories_of_the_system_are_searched_last() -> None:
    assert set(search_path("/opt/x").split(":")[1:]) == set(SYSTEM)
