"""A host with real OVN and Open vSwitch and the driver as a process: only Docker is played by the test."""

import http.client
import json
import os
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from functional.hosts import ip
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, until, without_times
from functional.test_daemon import PROGRAM, Driver
from ovn_docker.backends.northbound import QUIET_TABLE
from ovn_docker.backends.reports import REPORT

NET = f"{1:064x}"
NETWORK = {
    "NetworkID": NET,
    "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": "10.9.0.0/16", "Gateway": "10.9.0.1/16"}],
}
Answer = tuple[int, dict[str, Any]]


def ask(path: Path, method: str, body: object = None, timeout: float = 120) -> Answer:
    """HTTP status and answer to a call of Docker's, or to whatever bytes *body* is."""
    connection = http.client.HTTPConnection("plugin.moby.localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(timeout)
        connection.sock.connect(str(path))
        with suppress(BrokenPipeError):  # it has been refused before all of it was sent
            connection.request("POST", f"/{method}", body if isinstance(body, bytes) else json.dumps(body))
        with connection.getresponse() as response:
            return response.status, json.load(response)
    finally:
        connection.close()


def endpoint(number: int) -> dict[str, Any]:
    """What CreateEndpoint asks for."""
    address = f"10.9.{number // 200}.{2 + number % 200}/16"
    return {**ids(number), "Interface": {"Address": address}}


def ids(number: int) -> dict[str, str]:
    """What other calls say of an endpoint."""
    return {"NetworkID": NET, "EndpointID": f"{number:012x}" + "e" * 52}


class Ovn:
    """ovn-northd and ovn-controller, between the databases of a host that is its own centre."""

    def __init__(
        self, directory: Path, northbound: OvsdbServer, southbound: OvsdbServer, open_vswitch: OpenVswitch
    ) -> None:
        self.directory = directory
        directory.mkdir()
        environment = os.environ | {
            "OVN_RUNDIR": str(directory), "OVS_RUNDIR": str(open_vswitch.socket.parent)
        }  # fmt: skip
        open_vswitch.set(
            system_id="host1", ovn_remote=southbound.remote, ovn_nb=northbound.remote,
            ovn_encap_ip="10.0.0.1", ovn_encap_type="geneve",
        )  # fmt: skip
        northd = [f"--ovnnb-db={northbound.remote}", f"--ovnsb-db={southbound.remote}"]
        self._environment = environment
        self._northbound, self._southbound, self._vswitch = northbound, southbound, open_vswitch
        self._northd = self._run("ovn-northd", *northd)
        self._controller = self._run("ovn-controller", open_vswitch.remote)
        until(self._in_step)

    def end(self) -> None:
        ended = self._controller.poll()
        for daemon in (self._northd, self._controller):
            daemon.kill()
            daemon.wait()
        assert ended is None, f"ovn-controller ended by itself: {ended}"

    def _run(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*command, "--pidfile", "-vconsole:off"], env=self._environment)

    def _in_step(self) -> bool:
        """True when the controller has taken up a change; that of 23.03 may crash as it starts."""
        if self._controller.poll() is not None:
            self._controller = self._run("ovn-controller", self._vswitch.remote)
        self._northbound.transact({"op": "update", "table": "NB_Global", "where": [], "row": {"nb_cfg": 1}})
        return [row["nb_cfg"] for row in self._southbound.rows("Chassis_Private")] == [1]


class OverlayHost(Driver):
    """host1 at 10.0.0.1, in the network namespace of this thread, with a network for the driver's calls."""

    def __init__(self, directory: Path, northbound: OvsdbServer, open_vswitch: OpenVswitch, ovn: Ovn) -> None:
        super().__init__(directory, open_vswitch)
        self.northbound, self.open_vswitch = northbound, open_vswitch
        self.log = directory / "log"
        self.environment |= {
            "OVN_DOCKER_OVN_RUNDIR": str(ovn.directory),
            "OVN_DOCKER_DOCKER": str(directory / "docker.sock"),
        }

    def start(self, *options: str) -> "subprocess.Popen[str]":
        """Run it in the foreground; returns when it serves. Its log is a file."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [PROGRAM, *options], env=self.environment, text=True, stderr=log, stdin=subprocess.DEVNULL
            )
        self.started.append(process)
        until(lambda: self.serves() or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()
        return process

    def ask(self, method: str, body: object = None, timeout: float = 120) -> Answer:
        """HTTP status and answer to a call."""
        return ask(self.socket, method, body, timeout)

    def do(self, method: str, body: object = None) -> dict[str, Any]:
        """The answer to a call that must succeed."""
        status, answer = self.ask(method, body)
        assert status == 200, answer
        assert "Err" not in answer, answer
        return answer

    def at_once(self, method: str, bodies: list[Any], timeout: float = 120) -> list[Answer]:
        """Answers to many calls at the same time."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(lambda body: self.ask(method, body, timeout), bodies))

    def set(self, key: str, value: str) -> None:
        """``ovs-vsctl set Open_vSwitch . external_ids:KEY=VALUE``."""
        change = [["external_ids", "delete", ["set", [key]]],
                  ["external_ids", "insert", ["map", [[key, value]]]]]  # fmt: skip
        self.open_vswitch.transact(
            {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": change}
        )

    def state(self) -> dict[str, Any]:
        """All that calls of Docker's may change, here and in the northbound database.

        Without the report of the host, which it writes some time after its start.
        """
        contents = without_times(self.northbound.contents())
        contents.pop("NB_Global", None)
        quiet = contents.pop(QUIET_TABLE, [])
        if others := [row for row in quiet if not REPORT.items() <= row["external_ids"].items()]:
            contents[QUIET_TABLE] = others
        for row in contents.get("Logical_Switch_Port", []):
            row.pop("up")
        return {
            "northbound": contents,
            "ports": sorted(self.open_vswitch.ports()),
            "links": sorted(name for _, name in socket.if_nameindex()),
        }

    def reports_no_defect(self) -> bool:
        """Whether there is no traceback in the log."""
        return "Traceback" not in self.log.read_text()


def make_uplink() -> None:
    """The interface with the address that ovn-encap-ip names."""
    ip("link", "add", "eth0", "mtu", "1500", "type", "veth", "peer", "name", "cable")
    ip("address", "add", "10.0.0.1/24", "dev", "eth0")


class Proxy:
    """A database behind a slow line: each transaction takes *delay* seconds longer.

    With a *delay* of None it takes connections and never answers.
    """

    def __init__(self, path: Path, server: OvsdbServer) -> None:
        self.remote = f"unix:{path}"
        self.delay: float | None = 0
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server.socket))
                for it in (self._pass_on, client, server), (self._pass_back, server, client):
                    threading.Thread(target=it[0], args=it[1:], daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), client, server:
            while data := client.recv(1 << 20):
                if b'"transact"' in data:
                    came = time.monotonic()
                    while self.delay is None or time.monotonic() < came + self.delay:
                        time.sleep(0.02)
                server.sendall(data)

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
