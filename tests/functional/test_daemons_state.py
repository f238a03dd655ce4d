"""The state of this machine's daemons, read from a real ovsdb-server."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from functional.ovsdb_servers import until
from ovn_docker.errors import Unavailable
from ovn_docker.host.daemons import (
    DRIVER,
    NORTHD,
    VSWITCH_DATABASE,
    DaemonState,
    answer,
    read_daemon,
    read_daemons,
)
from ovn_docker.host.driver_socket import RunningDriver
from ovn_docker.host.places import Places

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    """Directories in which only the database of Open vSwitch runs."""
    database = tmp_path / "conf.db"
    subprocess.run(["ovsdb-tool", "create", database, SCHEMA], check=True)
    environment = {**os.environ, "OVS_RUNDIR": str(tmp_path)}
    server = ["ovsdb-server", "--detach", "--pidfile", f"--remote=punix:{tmp_path}/db.sock", str(database)]
    subprocess.run([*server, "-vconsole:off"], check=True, env=environment)
    found = Places(vswitch=tmp_path, ovn=tmp_path / "ovn", central=tmp_path / "ovn")
    yield found
    if pid := read_daemon(VSWITCH_DATABASE, found).pid:
        os.kill(pid, signal.SIGTERM)


def test_a_running_daemon_has_its_process_and_start(places: Places) -> None:
    found = read_daemon(VSWITCH_DATABASE, places)
    assert found.pid == int((places.vswitch / "ovsdb-server.pid").read_text())
    assert found.since is not None
    made, locked = ((places.vswitch / name).stat().st_mtime for name in ("conf.db", "ovsdb-server.pid"))
    tick = 1.0  # generous: a start is known in ticks of 10 ms since boot
    assert made - tick <= found.since <= locked + tick


def test_only_running_daemons_have_a_process(places: Places) -> None:
    assert [one.name for one in read_daemons(places) if one.pid] == [VSWITCH_DATABASE]
    assert read_daemon(NORTHD, places) == DaemonState(NORTHD)


def test_a_daemon_answers_on_its_control_socket(places: Places) -> None:
    found = read_daemon(VSWITCH_DATABASE, places)
    assert "ovsdb-server" in answer(found, "version", places, 5.0)
    with pytest.raises(Unavailable, match=r"does not answer: .*not a valid command"):
        answer(found, "nosuch", places, 5.0)


def test_a_daemon_that_was_killed_has_no_process_and_no_answer(places: Places) -> None:
    found = read_daemon(VSWITCH_DATABASE, places)
    assert found.pid
    os.kill(found.pid, signal.SIGKILL)
    until(lambda: read_daemon(VSWITCH_DATABASE, places).pid is None)
    assert (places.vswitch / "ovsdb-server.pid").exists()
    with pytest.raises(Unavailable, match="does not answer"):
        answer(found, "version", places, 5.0)


def test_a_driver_without_pidfile_is_known_by_its_socket(places: Places) -> None:
    answering = RunningDriver(DRIVER, os.getpid())
    assert read_daemon(DRIVER, places).pid is None
    assert read_daemon(DRIVER, places, answering).pid == os.getpid()
