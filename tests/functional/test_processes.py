"""Pidfiles: only the process that has locked its pidfile counts, as daemons of OVS do."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovn_docker.host.processes import locked_by, running

DAEMON = """
import sys, ovs.daemon, signal
ovs.daemon.set_pidfile(sys.argv[1])
ovs.daemon.daemonize()
print(flush=True)
signal.pause()
"""


@pytest.fixture
def pidfile(tmp_path: Path) -> Path:
    return tmp_path / "ovs-vswitchd.pid"


@pytest.fixture
def daemon(pidfile: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon of Open vSwitch's kind."""
    process = subprocess.Popen([sys.executable, "-c", DAEMON, pidfile], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_daemon_has_its_pidfile_until_it_is_killed(pidfile: Path, daemon: subprocess.Popen[bytes]) -> None:
    assert (locked_by(pidfile), running(pidfile)) == (daemon.pid, daemon.pid)
    daemon.kill()
    daemon.wait()
    assert pidfile.read_text().strip() == str(daemon.pid)
    assert running(pidfile) is None


def test_a_process_that_was_given_the_number_of_a_dead_daemon_does_not_count(pidfile: Path) -> None:
    """Even one that has the daemon's name in its arguments, such as an editor with its log."""
    editor = subprocess.Popen(["ovs-vswitchd", "60"], executable="/bin/sleep")
    pidfile.write_text(f"{editor.pid}\n")
    try:
        assert running(pidfile) is None
    finally:
        editor.kill()
        editor.wait()


@pytest.mark.parametrize("content", [None, "", "nothing"])
def test_a_pidfile_without_a_number_is_that_of_no_process(pidfile: Path, content: str | None) -> None:
    if content is not None:
        pidfile.write_text(content)
    assert running(pidfile) is None
