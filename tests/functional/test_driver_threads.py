"""Threads of real drivers: all are documented; one that fails is named, counted and started again."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from functional.docker_api import Api
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, free_port, until
from functional.test_daemon import Driver, call
from functional.test_daemon import driver as driver  # noqa: PLC0414 - a fixture
from functional.test_metrics import Scraped, get
from functional.test_underlay_daemon import OPENRC, Underlay
from ovn_docker.doctor.check_host import driver_threads
from ovn_docker.doctor.diagnosis import Facts, Severity
from ovn_docker.errors import Unavailable
from ovn_docker.host.driver_socket import RunningDriver, find
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.probes import Probes
from ovn_docker.inspect.snapshot import Scope, Snapshot
from ovn_docker.threads import RESTART

pytestmark = pytest.mark.usefixtures("network_namespace")
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"
OVERLAY = {
    "ovsdb OVN_Northbound",
    "changes",
    "cluster",
    "events",
    "names",
    "late names",
    "nameservers",
    "certificate",
}


def listed() -> set[str]:
    """Return the names of threads that always run, from the table in the documentation."""
    (section,) = re.findall(r"(?s)### Threads\n(.*?)\n##", ARCHITECTURE.read_text())
    return {
        name for cell in re.findall(r"(?m)^\| (`.*?) \|", section) for name in re.findall("`(.*?)`", cell)
    }


def in_kernel(pid: int) -> Counter[str]:
    """Return the names of a process's threads, as the kernel truncates them."""
    found: Counter[str] = Counter()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended
            found[(thread / "comm").read_text().strip()] += 1
    return found


def short(names: set[str]) -> Counter[str]:
    return Counter(name[:15].strip() for name in names)


def states(driver: Driver) -> list[dict[str, Any]]:
    (control,) = driver.directory.glob(f"{driver.program.name}.*.ctl")
    told = subprocess.run(
        ["ovs-appctl", "-t", str(control), "threads"], check=True, capture_output=True, text=True, timeout=120
    )
    return list(json.loads(told.stdout))


def test_threads_of_the_overlay_driver_are_those_of_the_documentation(
    driver: Driver, settings: OpenVswitch, northbound: OvsdbServer
) -> None:
    settings.set(system_id="host1", ovn_nb=northbound.remote, ovn_encap_ip="10.0.0.1")
    process = driver.start(f"--metrics=127.0.0.1:{free_port()}")
    wanted = listed() - {Underlay.program.name[:15]}
    until(lambda: in_kernel(process.pid) == short(wanted))
    assert {state["name"] for state in states(driver)} == wanted - {driver.program.name[:15]}


@pytest.mark.slow
def test_threads_of_the_underlay_driver_are_those_of_the_documentation(
    tmp_path: Path, settings: OpenVswitch
) -> None:
    driver = Underlay(tmp_path / "driver", settings)
    driver.environment |= OPENRC | {"OS_PASSWORD": "secret"}
    try:
        process = driver.start(f"--metrics=127.0.0.1:{free_port()}")
        wanted = listed() - OVERLAY - {"ovn-docker-over"}
        until(lambda: in_kernel(process.pid) == short(wanted))
        assert {state["name"] for state in states(driver)} == wanted - {driver.program.name[:15]}
    finally:
        driver.end()


class Docker:
    """A Docker with one container, whose data are in *inspect*."""

    inspect = b""

    def __init__(self, path: Path) -> None:
        self._server = Api(path, self._answer)

    def close(self) -> None:
        self._server.close()

    def _answer(self, path: str) -> Any:
        if path.startswith("/containers/json"):
            return [{"Id": "c1"}]
        return self.inspect if path.startswith("/containers/c1") else []


@pytest.fixture
def docker(driver: Driver) -> Iterator[Docker]:
    path = driver.directory / "docker.sock"
    driver.environment["OVN_DOCKER_DOCKER"] = str(path)
    docker = Docker(path)
    yield docker
    docker.close()


def findings(driver: Driver) -> list[tuple[str, Severity]]:
    """Return the lines of the doctor about the driver's threads."""
    answering: list[RunningDriver] = []

    def lists_its_threads() -> bool:
        """Ask the driver; find() waits a second for its answer, which a busy machine may exceed."""
        with suppress(Unavailable):
            answering[:] = [find(driver.socket, Path(f"/proc/self/fd/{directory}"))]
        return bool(answering and answering[0].threads)

    directory = os.open(driver.directory, os.O_PATH)
    try:  # its own name may be too long for a socket's (unix(7), sun_path)
        until(lists_its_threads)
    finally:
        os.close(directory)
    seen = Snapshot(0.0, "host1", Scope.NETWORKS, (), (), driver=answering[0])
    found = driver_threads(Facts(ClusterView(seen), Probes()))
    return [(one.evidence, one.severity) for one in found]


@pytest.mark.slow
def test_a_thread_that_fails_is_named_by_the_doctor_and_the_metrics_and_starts_again(
    driver: Driver, docker: Docker, settings: OpenVswitch, northbound: OvsdbServer
) -> None:
    """Docker's answer is nested too deeply for Python's JSON reader: an error that no code expects."""
    docker.inspect = b"[" * 100_000
    settings.set(system_id="host1", ovn_nb=northbound.remote, ovn_encap_ip="10.0.0.1")
    port = free_port()
    process = driver.start(f"--metrics=127.0.0.1:{port}")
    threads = 'ovn_docker_thread_failures_total{thread="%s"}'
    until(lambda: Scraped(get(f"http://127.0.0.1:{port}/metrics"))[threads % "names"] >= 1)
    assert Scraped(get(f"http://127.0.0.1:{port}/metrics"))[threads % "call"] == 0

    def name() -> dict[str, Any]:
        (state,) = (state for state in states(driver) if state["name"] == "names")
        return state

    until(lambda: not name()["waits"])
    assert name()["error"].startswith("RecursionError: maximum recursion depth exceeded")
    ((evidence, severity),) = findings(driver)
    assert evidence.startswith(
        "the driver's thread names, which writes the names of this host's containers, runs again: it failed "
        "1 time, last "
    )
    assert severity is Severity.WARN
    assert "NetworkDriver" in call(driver.socket, "Plugin.Activate")["Implements"]
    process.terminate()
    _, log = process.communicate(timeout=120)
    (line,) = (line for line in log.splitlines() if "thread names, which" in line)
    assert "failed: RecursionError" in line
    assert log.count("Traceback (most recent call last)") == 1


@pytest.mark.slow
def test_a_thread_that_waits_to_start_again_is_reported_by_the_doctor(driver: Driver) -> None:
    """A library raises SystemExit each time."""
    broken = """
from ovn_docker import threads
from ovn_docker.core.event_source import EventSource
calls = []
def listen(self):
    calls.append(self)
    threads._PAUSE = 60.0 if len(calls) == 3 else 0.01
    raise SystemExit("a library gives up")
EventSource._listen = listen
"""
    start(driver, broken)
    until(lambda: [state for state in states(driver) if state["failures"] == 3 and state["waits"]])
    ((evidence, severity),) = findings(driver)
    assert "the driver's thread events, which listens to Docker" in evidence
    assert "does not run now: it failed 3 times" in evidence
    assert "(SystemExit: a library gives up)" in evidence
    assert severity is Severity.FAIL


def start(driver: Driver, change: str, *options: str) -> "subprocess.Popen[str]":
    """Start the driver's program with a changed part, and a log in its directory; return when it serves."""
    program = f"""
import sys
sys.argv[0] = "{driver.program.name}"
{change}
from ovn_docker.daemon.startup import overlay
overlay()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--log-file", *options], env=driver.environment, text=True,
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    driver.started.append(process)
    until(driver.serves)
    return process


CANNOT_ACCEPT = """
import os, select
from ovn_docker import threads
from ovn_docker.docker.server import PluginServer
threads._PAUSE = 0.01
wait, told = PluginServer._wait, os.environ["TOLD"]
def broken(self):
    while not os.path.exists(told):
        if select.select([self._sock], [], [], 0.01)[0]:
            return wait(self)
    raise SystemExit("a library gives up")
PluginServer._wait = broken
"""


@pytest.mark.slow
def test_a_driver_that_cannot_accept_calls_ends(driver: Driver, tmp_path: Path) -> None:
    told = tmp_path / "told"
    driver.environment["TOLD"] = str(told)
    process = start(driver, CANNOT_ACCEPT)
    told.touch()
    assert process.wait(120) == RESTART
    log = (driver.directory / f"{driver.program.name}.log").read_text()
    assert "the process ends, to be started again" in log
    assert "SystemExit: a library gives up" in log


def test_monitor_starts_a_driver_that_has_ended(driver: Driver, tmp_path: Path) -> None:
    told = tmp_path / "told"
    driver.environment["TOLD"] = str(told)
    assert start(driver, CANNOT_ACCEPT, "--detach", "--monitor", "--pidfile").wait(120) == 0
    pidfile = driver.directory / "ovn-docker-overlay-driver.pid"
    first = int(pidfile.read_text())
    told.touch()
    until(lambda: not Path(f"/proc/{first}").exists())
    told.unlink()
    until(driver.serves)
    assert int(pidfile.read_text()) != first
    driver.appctl("exit")
    until(lambda: not driver.socket.exists())
