"""Real ovsdb-servers, each with a database of its own, that tests may stop, pause and start again."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ovn_docker.host.controller import ask
from ovn_docker.host.ovsdb import decode

SCHEMAS = {
    "OVN_Northbound": Path("/usr/share/ovn/ovn-nb.ovsschema"),
    "OVN_Southbound": Path("/usr/share/ovn/ovn-sb.ovsschema"),
    "Open_vSwitch": Path("/usr/share/openvswitch/vswitch.ovsschema"),
}

Contents = dict[str, list[dict[str, Any]]]
"""Every row of every table that has any, without the references that the server counts."""


def until(true: Callable[[], object], seconds: float = 30) -> None:
    """Wait until it is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not {true.__doc__ or 'true'} after {seconds} s"
        time.sleep(0.005)


def without_times(contents: Contents) -> Contents:
    """The same, but for when its rows were made."""
    for row in (row for rows in contents.values() for row in rows if "external_ids" in row):
        for key in ("ovn-docker:created", "ovn-docker:uptime"):
            row["external_ids"].pop(key, None)
    return contents


def free_port() -> int:
    """A TCP port of the loopback interface where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OvsdbServer:
    """An ovsdb-server that listens on a Unix socket in *directory*, and where *options* tell it to."""

    def __init__(self, directory: Path, database: str, *options: str) -> None:
        self.database = database
        self.socket = directory / f"{database}.sock"
        self.remote = f"unix:{self.socket}"
        self._file = directory / f"{database}.db"
        self._log = directory / f"{database}.log"
        self._options = options
        self._within: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._tables: list[str] = []
        self._disturbed = False
        self._create()
        self.start()

    def _create(self) -> None:
        subprocess.run(["ovsdb-tool", "create", self._file, SCHEMAS[self.database]], check=True)

    @property
    def file(self) -> Path:
        """Where it keeps the database."""
        return self._file

    def start(self) -> None:
        """Returns when it answers."""
        options = [f"--remote=punix:{self.socket}", f"--unixctl={self.socket}.ctl", *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._within, "ovsdb-server", self._file, *options],
                stderr=log,
                env={**os.environ, "OVS_RUNDIR": str(self.socket.parent)},
            )
        until(self._answers)

    def kill(self) -> None:
        """As by a power cut: nobody is told, and the socket's file stays."""
        self._disturbed = True
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It accepts connections and answers nothing."""
        self._disturbed = True
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It answers what has come in meanwhile."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def move_to_a_small_disk(self) -> None:
        """Its file is on a file system of its own from now on, with little room."""
        self.kill()
        disk, self._file = (
            self._file.with_suffix(".disk"),
            self._file.rename(self._file.with_suffix(".moved")),
        )
        disk.mkdir(exist_ok=True)
        size = self._file.stat().st_size // 1024 + 512  # tests before may have made it large
        mount = f'mount -t tmpfs -o size={size}k none {disk}; cp {self._file} {disk}; exec "$@"'
        self._within = ["unshare", "--mount", "--propagation=private", "sh", "-ec", mount, "sh"]
        self._file = disk / self._file.name
        self.start()

    def fill_disk(self) -> None:
        """Not a byte more goes on its small disk."""
        with self._ballast().open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def empty_disk(self) -> None:
        """There is room again."""
        self._ballast().unlink()

    def _ballast(self) -> Path:
        assert self._process
        return Path(f"/proc/{self._process.pid}/root{self._file.with_name('ballast')}")

    def transact(self, *operations: dict[str, Any]) -> list[Any]:
        """Results of a transaction that must succeed, over a connection of its own."""
        results = self._ask("transact", [self.database, *operations])
        assert not any("error" in result for result in results if result), results
        return list(results)

    def insert(self, table: str, **columns: Any) -> str:
        """UUID of a new row; *columns* as OVSDB's JSON has them."""
        (result,) = self.transact({"op": "insert", "table": table, "row": columns})
        return str(result["uuid"][1])

    def rows(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """A table's rows, in no order."""
        operation = {"op": "select", "table": table, "where": []}
        (result,) = self.transact(operation | ({"columns": list(columns)} if columns else {}))
        return [{column: decode(value) for column, value in row.items()} for row in result["rows"]]

    def contents(self) -> Contents:
        """The whole database."""
        if not self._tables:
            self._tables = sorted(self._ask("get_schema", [self.database])["tables"])
        results = self.transact(*({"op": "select", "table": table, "where": []} for table in self._tables))
        return {
            table: sorted(
                ({key: decode(value) for key, value in row.items() if key != "_version"} for row in rows),
                key=lambda row: str(row["_uuid"]),
            )
            for table, result in zip(self._tables, results, strict=True)
            if (rows := result["rows"])
        }

    def holds(self, calls: int = 1) -> bool:
        """Whether so many transactions wait for a condition (RFC 7047, 5.2.6; memory/show)."""
        return f"triggers:{calls}" in ask(Path(f"{self.socket}.ctl"), "memory/show", 30).split()

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self.database in self._ask("list_dbs", [])
        except OSError:
            return False

    def _ask(self, method: str, params: list[Any]) -> Any:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.socket))
            connection.sendall(json.dumps({"id": 0, "method": method, "params": params}).encode())
            answer = b""
            while chunk := connection.recv(1 << 16):
                answer += chunk
                if chunk.endswith(b"}"):
                    try:
                        reply = json.loads(answer)
                    except ValueError:
                        continue
                    assert not reply["error"], reply
                    return reply["result"]
        raise ConnectionError("closed without an answer")


class Member(OvsdbServer):
    """A member of a RAFT cluster; the one without *others* makes it, the rest join (ovsdb(7))."""

    def __init__(self, directory: Path, database: str, *others: "Member") -> None:
        self.peer = f"tcp:127.0.0.1:{free_port()}"
        self._others = others
        port = free_port()
        super().__init__(directory, database, f"--remote=ptcp:{port}:127.0.0.1")
        self.remote = f"tcp:127.0.0.1:{port}"  # as from another machine: it is asked whether it lives

    def _create(self) -> None:
        what: list[str | Path] = ["create-cluster", self._file, SCHEMAS[self.database], self.peer]
        if self._others:
            peers = [other.peer for other in self._others]
            what = ["join-cluster", self._file, self.database, self.peer, *peers]
        subprocess.run(["ovsdb-tool", *what], check=True)

    def leads(self) -> bool:
        """Whether it is the leader of its cluster."""
        return self._says("leader")

    def _answers(self) -> bool:
        """It does so before it has joined."""
        return super()._answers() and (self._disturbed or self._says("connected"))

    def _says(self, column: str) -> bool:
        operation = {"op": "select", "table": "Database", "where": [["name", "==", self.database]]}
        (result,) = self._ask("transact", ["_Server", operation])
        return bool(result["rows"][0][column])


class OpenVswitch(OvsdbServer):
    """Open vSwitch of a host in this network namespace: its database with br-int, and ovs-vswitchd."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "Open_vSwitch")
        self._daemon: subprocess.Popen[bytes] | None = None
        self.transact(
            {"op": "insert", "table": "Interface", "uuid-name": "i",
             "row": {"name": "br-int", "type": "internal"}},
            {"op": "insert", "table": "Port", "uuid-name": "p",
             "row": {"name": "br-int", "interfaces": ["named-uuid", "i"]}},
            {"op": "insert", "table": "Bridge", "uuid-name": "b",
             "row": {"name": "br-int", "datapath_type": "netdev", "fail_mode": "secure",
                     "ports": ["named-uuid", "p"]}},
            {"op": "insert", "table": "Open_vSwitch", "row": {"bridges": ["named-uuid", "b"]}},
        )  # fmt: skip

    @property
    def pidfile(self) -> Path:
        """That of ovs-vswitchd."""
        return self.socket.with_name("ovs-vswitchd.pid")

    def start_daemon(self) -> None:
        """Start ovs-vswitchd with the userspace datapath, and see that the bridge works."""
        with self.socket.with_name("ovs-vswitchd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [
                    *("ovs-vswitchd", self.remote, "--disable-system", f"--pidfile={self.pidfile}"),
                    f"--unixctl={self.socket}.vswitchd.ctl",
                ],
                stderr=log,
                env={**os.environ, "OVS_RUNDIR": str(self.socket.parent)},
            )
        until(lambda: "br-int" in (name for _, name in socket.if_nameindex()))
        until(lambda: self.interface("br-int")["ofport"] == 65534)

    def stop_daemon(self) -> None:
        """Nobody takes up ports any more."""
        if self._daemon:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def pause_daemon(self) -> None:
        """Ports are taken up later."""
        assert self._daemon
        self._daemon.send_signal(signal.SIGSTOP)

    def resume_daemon(self) -> None:
        """Ports are taken up again."""
        assert self._daemon
        self._daemon.send_signal(signal.SIGCONT)

    def reset(self) -> None:
        """Up and at work, without anybody's ports, on a host that is set up for OVN as the guide says."""
        if self._disturbed:  # ovs-vswitchd would take seconds to connect again
            self.stop_daemon()
            self.kill()
            self.start()
            self._disturbed = False
        if self._daemon:
            self.resume_daemon()
        else:
            self.start_daemon()
        (port,) = (row["_uuid"] for row in self.rows("Port") if row["name"] == "br-int")
        (bridge,) = (row["_uuid"] for row in self.rows("Bridge") if row["name"] == "br-int")
        self.transact(
            {"op": "update", "table": "Bridge", "where": [], "row": {"ports": ["uuid", port]}},
            {"op": "update", "table": "Open_vSwitch", "where": [], "row": {"bridges": ["uuid", bridge]}},
            {"op": "delete", "table": "Queue", "where": []},
        )
        self.set(
            system_id="host1",
            ovn_remote="tcp:127.0.0.1:6642",
            ovn_nb="tcp:127.0.0.1:6641",
            ovn_encap_ip="127.0.0.1",
            ovn_encap_type="geneve",
        )

    def set(self, **ids: str) -> None:
        """``ovs-vsctl set Open_vSwitch . external_ids=...``."""
        pairs = [[key.replace("_", "-"), value] for key, value in ids.items()]
        row = {"external_ids": ["map", pairs]}
        self.transact({"op": "update", "table": "Open_vSwitch", "where": [], "row": row})

    def interface(self, name: str) -> dict[str, Any]:
        """The interface of this name."""
        (found,) = (row for row in self.rows("Interface") if row["name"] == name)
        return found

    def ports(self) -> dict[str, dict[str, Any]]:
        """Ports of all bridges, but for the bridges' own: name to interface."""
        return {row["name"]: row for row in self.rows("Interface") if row["type"] != "internal"}
