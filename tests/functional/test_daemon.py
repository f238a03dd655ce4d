"""The driver as a process: options, socket, signals, and the files that remain afterwards."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from functional.hosts import C1, NET
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, until
from ovn_docker.host.ovsdb import encode
from ovn_docker.model import container_link, host_link, row_uuid

PROGRAM = Path(sys.executable).with_name("ovn-docker-overlay-driver")
pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not there; pip install -e ."),
    pytest.mark.usefixtures("network_namespace"),  # the driver deletes links without an endpoint
]


def call(path: Path, method: str, **request: object) -> dict[str, Any]:
    """Return the driver's answer to a call of Docker."""
    connection = http.client.HTTPConnection("plugin.moby.localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(120)
        connection.sock.connect(str(path))
        connection.request("POST", f"/{method}", json.dumps(request))
        return dict(json.load(connection.getresponse()))
    finally:
        connection.close()


class Driver:
    """A directory in which drivers run, and the drivers that were started there."""

    program = PROGRAM

    def __init__(self, directory: Path, open_vswitch: OpenVswitch) -> None:
        directory.mkdir()
        self.directory = directory
        self.socket = directory / "plugins" / "openvswitch.sock"
        self.environment = {
            **os.environ,
            "OVS_RUNDIR": str(directory),
            "OVS_LOGDIR": str(directory),
            "OVN_DOCKER_SOCKET": str(self.socket),
            "OVN_DOCKER_DB": open_vswitch.remote,
        }
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the driver until it ends or is detached."""
        return subprocess.run(
            [self.program, *options], env=self.environment | environment, text=True, timeout=120, check=False,
            stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start the driver in the foreground; return when it serves."""
        process = subprocess.Popen(
            [self.program, *options], env=self.environment, text=True, stderr=subprocess.PIPE
        )
        self.started.append(process)
        until(self.serves)
        return process

    def serves(self) -> bool:
        try:
            return "NetworkDriver" in call(self.socket, "Plugin.Activate")["Implements"]
        except OSError:
            return False

    def appctl(self, *command: str) -> str:
        """Return the output of ``ovs-appctl -t ovn-docker-overlay-driver``."""
        run = ["ovs-appctl", "-t", self.program.name, *command]
        return subprocess.run(
            run, env=self.environment, check=True, capture_output=True, text=True, timeout=120
        ).stdout

    def files(self) -> set[str]:
        """Return the files in the directory, except the log."""
        found = {path.name for path in self.directory.rglob("*") if not path.is_dir()}
        return found - {f"{self.program.name}.log"}

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def driver(tmp_path: Path, settings: OpenVswitch) -> Iterator[Driver]:
    driver = Driver(tmp_path / "driver", settings)
    yield driver
    driver.end()


class TestOptions:
    def test_help_names_all_options(self, driver: Driver) -> None:
        said = driver.run("--help")
        assert said.returncode == 0
        for option in (
            "--socket", "--scope", "--db", "--flows-timeout", "--late-flows", "--private-key", "-p", "-c",
            "-C", "--detach", "--pidfile", "--log-file", "--monitor", "--verbose",
        ):  # fmt: skip
            assert option in said.stdout

    def test_version_is_printed(self, driver: Driver) -> None:
        assert driver.run("--version").stdout.startswith("ovn-docker ")

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--late-flows=never", "--late-flows='never' is not valid: give one of warn, fail"),
            (
                "--db=127.0.0.1",
                "invalid database address '127.0.0.1': give tcp:IP:PORT, ssl:IP:PORT or unix:FILE",
            ),
        ],
    )
    def test_invalid_value_is_refused_in_one_line_and_no_file_remains(
        self, driver: Driver, option: str, message: str
    ) -> None:
        ended = driver.run(option)
        assert (ended.returncode, ended.stdout) == (2, "")
        (line,) = ended.stderr.splitlines()
        assert line.endswith(f"|daemon|ERR|{message}".replace("|", " | "))
        assert driver.files() == set()

    def test_invalid_variable_is_named(self, driver: Driver) -> None:
        ended = driver.run(OVN_DOCKER_SCOPE="swarm")
        assert ended.returncode == 2
        assert "OVN_DOCKER_SCOPE='swarm' is not valid" in ended.stderr

    def test_scope_is_that_of_the_option(self, driver: Driver) -> None:
        driver.start("--scope=global")
        assert call(driver.socket, "NetworkDriver.GetCapabilities")["Scope"] == "global"

    def test_a_process_of_a_container_does_not_decide_the_scope(self, driver: Driver, tmp_path: Path) -> None:
        """The process has the name and the arguments of a dockerd that shares its networks."""
        program = shutil.copy("/bin/sh", tmp_path / "dockerd")
        command = [program, "-c", "echo; read line", "sh", "--cluster-store=etcd://10.0.0.9:2379"]
        pipe = subprocess.PIPE
        with subprocess.Popen(["unshare", "--pid", "--fork", *command], stdin=pipe, stdout=pipe) as container:
            assert container.stdout
            assert container.stdout.readline()
            driver.start()
            assert call(driver.socket, "NetworkDriver.GetCapabilities")["Scope"] == "local"


class TestDetached:
    @pytest.mark.slow
    def test_driver_serves_when_the_command_returns_and_ends_at_appctl_exit(self, driver: Driver) -> None:
        """Options and control socket are those of OVS' daemons."""
        started = driver.run("--detach", "--pidfile", "--log-file")
        assert (started.returncode, started.stdout) == (0, "")
        assert driver.serves()
        log = driver.directory / f"{PROGRAM.name}.log"
        pidfile = driver.directory / f"{PROGRAM.name}.pid"
        pid = int(pidfile.read_text())
        assert f"serves Docker on {driver.socket}" in log.read_text()
        assert PROGRAM.name in driver.appctl("version")

        assert "plugin | DBG" not in log.read_text()
        driver.appctl("vlog/set", "plugin:file:warn")
        driver.serves()
        quiet = log.read_text().count("Plugin.Activate")
        driver.appctl("vlog/set", "plugin:file:info")
        driver.serves()
        assert log.read_text().count("Plugin.Activate") == quiet + 1

        assert driver.run("--pidfile").returncode == 1, "a second driver was started"
        driver.appctl("exit")
        until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())
        assert driver.files() == set()

    def test_control_socket_answers_while_gc_show_runs(self, driver: Driver, settings: OpenVswitch) -> None:
        """The northbound database accepts the connection and sends nothing."""
        driver.start()
        (control,) = driver.directory.glob(f"{PROGRAM.name}.*.ctl")
        gc_show = ["ovs-appctl", "-t", str(control), "gc/show"]
        with pytest.raises(subprocess.CalledProcessError) as failed:
            subprocess.run(gc_show, check=True, capture_output=True, text=True, timeout=120)
        assert "does not have system-id; set it with" in failed.value.stderr

        with socket.create_server(("127.0.0.1", 0)) as silent:
            settings.set(
                system_id="host1", ovn_nb=f"tcp:127.0.0.1:{silent.getsockname()[1]}", ovn_encap_ip="10.0.0.1"
            )
            with subprocess.Popen(gc_show, stderr=subprocess.DEVNULL) as compares:
                silent.accept()[0].close()  # the comparison has begun
                said = subprocess.run(
                    [*gc_show[:-1], "requests"], check=True, capture_output=True, text=True, timeout=120
                ).stdout
                assert said.startswith("0 requests")
                assert compares.poll() is None
                compares.kill()


class TestSocket:
    @pytest.mark.slow
    def test_threads_share_one_arena_of_malloc(self, driver: Driver) -> None:
        process = driver.start()
        with ThreadPoolExecutor(8) as pool:
            answers = [
                pool.submit(call, driver.socket, "IpamDriver.RequestPool", Pool="x") for _ in range(200)
            ]
            assert all("Err" in answer.result() for answer in answers)
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        spans = (line.split()[0].split("-") for line in maps.splitlines() if line.split()[1] == "---p")
        # malloc reserves 64 MiB for an arena of a thread (malloc/arena.c, HEAP_MAX_SIZE).
        assert [span for span in spans if int(span[1], 16) - int(span[0], 16) > 48 << 20] == []

    def test_socket_of_a_running_driver_is_not_taken(self, driver: Driver) -> None:
        """With --detach too the command itself fails."""
        first = driver.start()
        for second in driver.run(), driver.run("--detach"):
            assert second.returncode == 1
            assert f"process {first.pid} listens on {driver.socket} already: stop it first" in second.stderr
            assert driver.serves()

    def test_socket_of_a_killed_driver_is_taken_over(self, driver: Driver) -> None:
        killed = driver.start()
        assert driver.socket.stat().st_mode & 0o777 == 0o600, "another user may connect"
        killed.kill()
        killed.wait()
        assert driver.socket.exists()
        driver.start()

    def test_socket_of_systemd_is_used_and_stays(self, driver: Driver, tmp_path: Path) -> None:
        path = tmp_path / "systemd.sock"
        inherit = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
        )
        inherit += "os.execv(sys.argv[2], sys.argv[2:])"
        with (
            socket.socket(socket.AF_UNIX) as listener,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
        ):
            listener.bind(str(path))
            listener.listen()
            ready.bind(str(tmp_path / "notify"))
            ready.settimeout(120)
            process = subprocess.Popen(
                [sys.executable, "-c", inherit, str(listener.fileno()), PROGRAM],
                env=driver.environment | {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(tmp_path / "notify")},
                pass_fds=[listener.fileno()],
                stderr=subprocess.DEVNULL,
            )
            assert ready.recv(100) == b"READY=1"
            assert "NetworkDriver" in call(path, "Plugin.Activate")["Implements"]
            process.terminate()
            assert process.wait(120) == 0
        assert path.exists()
        assert not driver.socket.exists()


def test_error_before_the_host_is_set_up_gives_the_command(driver: Driver, settings: OpenVswitch) -> None:
    process = driver.start()
    network = {"NetworkID": NET, "IPv4Data": [{"Pool": "192.168.1.0/24", "Gateway": "192.168.1.1/24"}]}
    said = call(driver.socket, "NetworkDriver.CreateNetwork", **network)["Err"]
    assert said.endswith("set it with: ovs-vsctl set Open_vSwitch . external_ids:system-id=$(uuidgen)")
    settings.set(system_id="host1")
    said = call(driver.socket, "NetworkDriver.CreateNetwork", **network)["Err"]
    assert said.endswith('external_ids:ovn-nb="tcp:CENTRAL_IP:6641"')
    process.terminate()
    _, log = process.communicate(timeout=120)
    assert "WARN | not ready yet: the Open_vSwitch database does not have system-id" in log


def test_unused_pool_of_a_dead_dockerd_is_deleted_when_the_next_one_starts(
    driver: Driver, settings: OpenVswitch, northbound: OvsdbServer
) -> None:
    settings.set(system_id="host1", ovn_nb=northbound.remote, ovn_encap_ip="10.0.0.1")
    driver.start("--sweep-interval=0.5")
    subnet = {"AddressSpace": "LocalDefault", "Pool": "10.1.0.0/24", "SubPool": "", "V6": False}
    assert "PoolID" in call(driver.socket, "IpamDriver.RequestPool", **subnet)
    (row,) = northbound.rows("DHCP_Options", "external_ids")
    long_ago = row["external_ids"] | {"ovn-docker:created": "1", "ovn-docker:uptime": ""}
    northbound.transact({"op": "update", "table": "DHCP_Options", "where": [],
                         "row": {"external_ids": encode(long_ago)}})  # fmt: skip
    assert "Err" not in call(driver.socket, "Plugin.Activate")
    until(lambda: northbound.rows("DHCP_Options") == [])


Join = Callable[[], dict[str, Any]]


class TestSigterm:
    @pytest.fixture
    def join(self, driver: Driver, settings: OpenVswitch) -> Join:
        """Return a function that makes Docker's Join call for an endpoint that exists."""
        settings.transact(
            {"op": "insert", "table": "Interface", "uuid": row_uuid("interface", C1),
             "row": {"name": host_link(C1)}},
            {"op": "insert", "table": "Port", "uuid-name": "p",
             "row": {"name": host_link(C1), "interfaces": ["uuid", row_uuid("interface", C1)]}},
            {"op": "mutate", "table": "Bridge", "where": [],
             "mutations": [["ports", "insert", ["named-uuid", "p"]]]},
        )  # fmt: skip
        request = {"NetworkID": NET, "EndpointID": C1, "SandboxKey": "/var/run/docker/netns/0123456789ab"}
        return lambda: call(driver.socket, "NetworkDriver.Join", **request)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_join_in_flight_still_waits_for_its_flows(
        self,
        driver: Driver,
        settings: OpenVswitch,
        join: Callable[[], dict[str, Any]],
        number: signal.Signals,
    ) -> None:
        process = driver.start("--pidfile")
        with ThreadPoolExecutor() as threads:
            joining = threads.submit(join)
            until(settings.holds)
            process.send_signal(number)
            until(lambda: not driver.socket.exists())
            assert process.poll() is None
            installed = ["external_ids", "insert", ["map", [["ovn-installed", "true"]]]]
            settings.transact({"op": "mutate", "table": "Interface", "where": [], "mutations": [installed]})
            link = container_link(C1)
            assert joining.result() == {"InterfaceName": {"SrcName": link, "DstPrefix": "eth"}}
        assert process.wait(120) == 0
        assert driver.files() == set()
