"""Pidfiles: only a process that holds the lock of its pidfile counts; daemons of OVS take that lock."""

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
    """A daemon that locks its pidfile as those of Open vSwitch do."""
    process = subprocess.Popen([sys.executable, "-c", DAEMON, pidfile], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_daemon_holds_its_pidfile_until_it_is_killed(pidfile: Path, daemon: subprocess.Popen[bytes]) -> None:
    assert (locked_by(pidfile), running(pidfile)) == (daemon.pid, daemon.pid)
    daemon.kill()
    daemon.wait()
    assert pidfile.read_text().strip() == str(daemon.pid)
    assert running(pidfile) is None


def test_process_with_the_reused_pid_of_a_dead_daemon_does_not_count(pidfile: Path) -> None:
    """The process has the daemon's name in its arguments, as an editor of the daemon's log has."""
    editor = subprocess.Popen(["ovs-vswitchd", "60"], executable="/bin/sleep")
    pidfile.write_text(f"{editor.pid}\n")
    try:
        assert running(pidfile) is None
    finally:
        editor.kill()
        editor.wait()


@pytest.mark.parametrize("content", [None, "", "nothing"])
def test_pidfile_without_a_number_has_no_process(pidfile: Path, content: str | None) -> None:
    if content is not None:
        pidfile.write_text(content)
    assert running(pidfile) is None
