"""A host with real OVN and Open vSwitch and the driver as a process; the test makes Docker's calls."""

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
from ovn_docker.backends.ovn.rows import QUIET_TABLE, REPORTS, kind_of

NET = f"{1:064x}"
NETWORK = {
    "NetworkID": NET,
    "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": "10.9.0.0/16", "Gateway": "10.9.0.1/16"}],
}
Answer = tuple[int, dict[str, Any]]


def ask(path: Path, method: str, body: object = None, timeout: float = 120) -> Answer:
    """Send a call as Docker does, or the bytes *body*; return the HTTP status and the reply."""
    connection = http.client.HTTPConnection("plugin.moby.localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(timeout)
        connection.sock.connect(str(path))
        with suppress(BrokenPipeError):  # the server has refused the call before it was sent completely
            connection.request("POST", f"/{method}", body if isinstance(body, bytes) else json.dumps(body))
        with connection.getresponse() as response:
            return response.status, json.load(response)
    finally:
        connection.close()


def endpoint(number: int) -> dict[str, Any]:
    """Return the body of CreateEndpoint."""
    address = f"10.9.{number // 200}.{2 + number % 200}/16"
    return {**ids(number), "Interface": {"Address": address}}


def ids(number: int) -> dict[str, str]:
    """Return the body of other calls for an endpoint."""
    return {"NetworkID": NET, "EndpointID": f"{number:012x}" + "e" * 52}


class Ovn:
    """ovn-northd and ovn-controller of a host that is its own central machine."""

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
        until(self._has_caught_up)

    def end(self) -> None:
        ended = self._controller.poll()
        for daemon in (self._northd, self._controller):
            daemon.kill()
            daemon.wait()
        assert ended is None, f"ovn-controller ended by itself: {ended}"

    def _run(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*command, "--pidfile", "-vconsole:off"], env=self._environment)

    def _has_caught_up(self) -> bool:
        """Return whether ovn-controller has applied a change; restart it if it has crashed (23.03)."""
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
        """Start the driver in the foreground, with a log file; return when it serves."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [PROGRAM, *options], env=self.environment, text=True, stderr=log, stdin=subprocess.DEVNULL
            )
        self.started.append(process)
        until(lambda: self.serves() or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()
        return process

    def ask(self, method: str, body: object = None, timeout: float = 120) -> Answer:
        """Send a call; return the HTTP status and the reply."""
        return ask(self.socket, method, body, timeout)

    def succeed(self, method: str, body: object = None) -> dict[str, Any]:
        """Send a call that must succeed; return the reply."""
        status, answer = self.ask(method, body)
        assert status == 200, answer
        assert "Err" not in answer, answer
        return answer

    def at_once(self, method: str, bodies: list[Any], timeout: float = 120) -> list[Answer]:
        """Send many calls at the same time; return the replies."""
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
        """Return the state that calls of Docker may change, on the host and in the northbound database.

        The report of the host is left out, because the driver writes it some time after its start.
        """
        contents = without_times(self.northbound.contents())
        contents.pop("NB_Global", None)
        quiet = contents.pop(QUIET_TABLE, [])
        if others := [row for row in quiet if kind_of(QUIET_TABLE, row) is not REPORTS]:
            contents[QUIET_TABLE] = others
        for row in contents.get("Logical_Switch_Port", []):
            row.pop("up")
        return {
            "northbound": contents,
            "ports": sorted(self.open_vswitch.ports()),
            "links": sorted(name for _, name in socket.if_nameindex()),
        }

    def reports_no_defect(self) -> bool:
        """Return whether the log has no traceback."""
        return "Traceback" not in self.log.read_text()


def make_uplink() -> None:
    """Make the interface with the address of ovn-encap-ip."""
    ip("link", "add", "eth0", "mtu", "1500", "type", "veth", "peer", "name", "cable")
    ip("address", "add", "10.0.0.1/24", "dev", "eth0")


class Proxy:
    """A proxy to a database, which delays each transaction by *delay* seconds.

    With a *delay* of None it accepts connections and never replies.
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
