"""`make run` and `make stop` on an ordinary machine, as a user types them first."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from kernel.machine import Machine

STATE = Path(__file__).parent / "state.sh"


def state(machine: Machine) -> str:
    """Return the state of the machine that `make run` may change."""
    return machine.read(STATE.read_text())


def rest(machine: Machine, before: str) -> Sequence[str]:
    """Return the differences from an earlier state of the machine."""
    now, then = set(state(machine).splitlines()), set(before.splitlines())
    return sorted([f"+{line}" for line in now - then] + [f"-{line}" for line in then - now])


@pytest.mark.quick
def test_machine_is_an_ordinary_debian(machine: Machine) -> None:
    assert machine.read("cat /proc/1/comm") == "systemd\n"
    assert machine.read("stat -f -c %T /sys/fs/cgroup") == "cgroup2fs\n"
    assert machine.read("cat /sys/module/apparmor/parameters/enabled") == "Y\n"
    machine.run("modprobe openvswitch; modprobe geneve")


def test_make_stop_leaves_what_was_there_before_make_run(machine: Machine) -> None:
    before = state(machine)
    machine.run("make run", 1200)
    assert machine.read("ovs-appctl dpctl/dump-dps") == "system@ovs-system\n"
    machine.run(".venv/bin/ovn-docker doctor")
    machine.run("make run", 1200)  # harmless to repeat
    machine.run("make stop")
    assert rest(machine, before) == []
    machine.run("make stop")
    assert rest(machine, before) == []
