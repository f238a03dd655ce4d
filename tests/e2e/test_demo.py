"""`make run` and `make stop` on one host."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from e2e.lab import Fabric, Host, LabError, wait_for
from e2e.lab.images import REPOSITORY

STATE = (Path(__file__).parents[1] / "kernel/state.sh").read_text()

TREE = "/root/ovn-docker"


def put_tree(host: Host) -> None:
    """Give a host the sources in a directory that it may write to, with the environment of the tests."""
    names = ("Makefile", "demo", "pyproject.toml", "scripts")
    archive = ("tar", "-C", str(REPOSITORY), "-cf", "-", *names)
    with subprocess.Popen(archive, stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        host.run("sh", "-ec", f"mkdir {TREE}; tar -C {TREE} -xf -", stdin=tar.stdout)
    assert tar.returncode == 0
    environment = (
        f"mkdir .venv; ln -s {Path(sys.executable).parent} .venv/bin; echo '--editable .' >.venv/.installed"
    )
    host.run("sh", "-ec", f"cd {TREE}; {environment}")


def state(host: Host) -> set[str]:
    """The state of a host. Docker's own bridge and directory stay once it has run, whoever started it."""
    said = host.run("sh", "-c", f"({STATE}) 2>&1", timeout=60, check=False)
    return {line for line in said.splitlines() if "docker0" not in line and "/run/docker/plugins" not in line}


def start_as_debian_does(host: Host) -> None:
    """Start what Debian's packages start, with databases that listen nowhere and a host without set-up."""
    host.start_switch()
    for service in (host.northbound, host.southbound, host.northd):
        service.start()
    host.controller.start(wait=False)  # there is no southbound database to connect to
    host.start_docker()


def run_and_stop(host: Host) -> None:
    """Run and stop the demo, each twice; assert that the state of the host is unchanged afterwards."""
    before = state(host)
    for _ in range(2):
        host.run("make", "-C", TREE, "run", timeout=120)
    assert len(host.docker("ps", "--quiet", "--filter=network=foo").split()) == 2
    for _ in range(2):
        host.run("make", "-C", TREE, "stop", timeout=120)
        with suppress(LabError):  # the kernel deletes links of containers a moment later
            wait_for(lambda: state(host) == before, "the state of before", timeout=30)
        assert state(host) == before


def test_make_stop_leaves_what_was_there_before_make_run(fabric: Fabric) -> None:
    """Before `make run` nothing runs, or Debian's services, or these with databases that listen."""
    (host,) = fabric.add_hosts("alone")
    put_tree(host)
    run_and_stop(host)
    start_as_debian_does(host)
    run_and_stop(host)
    host.run("ovn-nbctl", "set-connection", "ptcp:6641")
    host.run("ovn-sbctl", "set-connection", "ptcp:6642")
    run_and_stop(host)
