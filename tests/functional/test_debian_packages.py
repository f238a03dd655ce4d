"""Packages that the demo and the tests install on machines that need more than this one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from functional.machine import Machine

SOURCE = Path(__file__).parents[2]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine without Debian packages, with kernel modules that a test chooses."""
    machine = Machine()
    machine.out("mount", "-t", "tmpfs", "none", "/sys/module")
    machine.out("mount", "--bind", "/bin/false", "/usr/bin/dpkg-query")
    yield machine
    machine.close()


def enable_apparmor(machine: Machine) -> None:
    """Make the kernel appear to have AppArmor."""
    machine.out("mkdir", "-p", "/sys/module/apparmor/parameters")
    machine.out("sh", "-c", "echo Y >/sys/module/apparmor/parameters/enabled")


@pytest.mark.parametrize("purpose", ["run", "test", "bench"])
def test_apparmor_is_installed_where_the_kernel_has_it(machine: Machine, purpose: str) -> None:
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search")
    script = (
        *user,
        "--ambient-caps=+dac_read_search",
        "sh",
        str(SOURCE / "scripts/debian-packages"),
        purpose,
    )
    assert " apparmor" not in machine.run(*script).stderr
    enable_apparmor(machine)
    done = machine.run(*script)
    assert (done.returncode, " apparmor" in done.stderr.split(";")[0]) == (1, True), done


def test_the_demo_detects_a_missing_apparmor_parser(machine: Machine) -> None:
    asks = ("sh", "-c", f". {SOURCE}/demo/functions.sh; lacks_apparmor_parser")
    assert machine.run(*asks).returncode == 1
    enable_apparmor(machine)
    found = machine.run("sh", "-c", "PATH=/usr/sbin:/sbin command -v apparmor_parser").stdout.strip()
    assert machine.run(*asks).returncode == (1 if found else 0)


def test_other_distributions_are_asked_for_the_equivalents(machine: Machine) -> None:
    machine.out("mount", "--bind", "/dev/null", "/usr/bin/dpkg-query")  # a file that is no program
    done = machine.run("sh", str(SOURCE / "scripts/debian-packages"), "install")
    assert done.returncode == 0
    assert done.stderr.endswith("equivalents of these packages: python3 python3-venv nftables\n")
