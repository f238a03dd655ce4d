"""The driver is killed between any two steps: no leftovers remain, and the user's next attempt succeeds."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from functional.overlay_host import OverlayHost
from functional.ovsdb_servers import OvsdbServer, until
from functional.played_docker import Docker, Failed, Kind
from ovn_docker.backends.ovn.rows import GENERATION
from ovn_docker.backends.ovn.shared.generation import GENERATION_ROWS

KINDS = {
    "host": Kind(),
    "cluster": Kind({"ovn.network": "foo"}, own_addresses=True),
    "attached": Kind({"ovn.switch": "theirs"}),
    "swarm": Kind(swarm=True),
    "policy": Kind(
        {"ovn.network": "foo", "ovn.policy": "deny", "ovn.allow": "web from db:tcp/80"},
        of_endpoint={"ovn.groups": "web monitored"},
    ),
}


class Drivers:
    """Drivers of a host, one after the other."""

    def __init__(self, host: OverlayHost) -> None:
        self._host = host
        self.pid = 0
        self._spawner = subprocess.Popen(
            [sys.executable, "-m", "functional.spawner"], cwd=Path(__file__).parents[1], env=host.environment,
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def start(self, last: int = 0, *, repairing: bool = False) -> None:
        """Start a driver that dies at step *last* of Docker's calls, or of its repairs if *repairing*.

        Returns when the driver serves or has died.
        """
        assert not self.alive
        assert self._spawner.stdin
        assert self._spawner.stdout
        order = {
            "last": last,
            "repairing": repairing,
            "log": str(self._host.log),
            "arguments": ["--sync=off"],
        }
        print(json.dumps(order), file=self._spawner.stdin, flush=True)
        self.pid = int(self._spawner.stdout.readline())
        until(lambda: self._host.serves() or not self.alive)

    def kill(self) -> None:
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            until(lambda: not self.alive)

    @property
    def alive(self) -> bool:
        return bool(self.pid) and Path(f"/proc/{self.pid}").exists()

    def end(self) -> None:
        self.kill()
        with self._spawner as spawner:
            assert spawner.stdin
            spawner.stdin.close()


class Scene:
    """A host on which drivers die."""

    def __init__(self, host: OverlayHost, drivers: Drivers, kind: Kind) -> None:
        self.host, self.drivers = host, drivers
        self.docker = Docker(host.socket, host.directory / "docker.sock", kind, self.revive)

    def revive(self) -> None:
        """Start the driver again after its death, as systemd does."""
        until(lambda: not self.drivers.alive)
        self.drivers.start()

    def state(self) -> dict[str, Any]:
        """Return all state of ours, except the rows of the generation."""
        state = self.host.state()
        for table in GENERATION_ROWS:
            rows = state["northbound"].get(table, [])
            state["northbound"][table] = [row for row in rows if GENERATION not in row["external_ids"]]
        return state

    def an_hour_passes(self) -> None:
        """Make every row of ours an hour older."""
        for server, table in (
            (self.host.northbound, "DHCP_Options"),
            (self.host.northbound, "Logical_Switch"),
            (self.host.northbound, "Logical_Switch_Port"),
            (self.host.open_vswitch, "Interface"),
        ):
            age(server, table)


def age(server: OvsdbServer, table: str) -> None:
    for row in server.rows(table, "_uuid", "external_ids"):
        for key in ("ovn-docker:created", "ovn-docker:released", "ovn-docker:cleared"):
            if text := row["external_ids"].get(key):
                number = float(text)
                older = f"{number - (3600e9 if number > 1e15 else 3600):.0f}"
                change = [["external_ids", "delete", ["set", [key, "ovn-docker:uptime"]]],
                          ["external_ids", "insert", ["map", [[key, older]]]]]  # fmt: skip
                where = [["_uuid", "==", ["uuid", row["_uuid"]]]]
                server.transact({"op": "mutate", "table": table, "where": where, "mutations": change})


@pytest.fixture
def drivers(overlay_host: OverlayHost) -> Iterator[Drivers]:
    drivers = Drivers(overlay_host)
    yield drivers
    drivers.end()


@pytest.mark.slow
@pytest.mark.parametrize("mortal", [False, True], ids=["docker lives", "docker dies too"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_recovers_from_a_kill_at_each_step(
    overlay_host: OverlayHost, drivers: Drivers, kind: str, mortal: bool
) -> None:
    scene = Scene(overlay_host, drivers, KINDS[kind])
    overlay_host.northbound.insert("Logical_Switch", name="theirs")
    before, docker = scene.state(), scene.docker
    docker.mortal = mortal
    try:
        for last in itertools.count(1):
            print(
                "dies at step", last
            )  # shown by pytest for a failed test: the last step is the one that failed
            drivers.start(last)
            first = drivers.pid
            for command in (docker.network_create, docker.run, docker.rm, docker.network_rm):
                try:
                    command()
                except Failed as error:
                    print(error)
                    command()  # the user's next attempt
            survived = drivers.pid == first
            settles(scene, before)
            drivers.kill()
            if survived:
                break
        assert last > 10
    finally:
        docker.close()
    assert overlay_host.reports_no_defect()


def settles(scene: Scene, before: dict[str, Any]) -> None:
    """Assert that no leftovers remain, at the latest when they are an hour old."""
    if scene.state() == before:
        return
    scene.an_hour_passes()
    scene.drivers.kill()
    for _ in range(20):  # the repair is killed as well, after each step
        scene.drivers.start(2, repairing=True)
        end = time.monotonic() + 0.3
        while scene.drivers.alive and time.monotonic() < end and scene.state() != before:
            time.sleep(0.02)
        if scene.drivers.alive:
            break
    else:
        raise AssertionError("the repair never ends")
    scene.drivers.kill()
    scene.drivers.start()
    with suppress(AssertionError):
        until(lambda: scene.state() == before)
    assert scene.state() == before
