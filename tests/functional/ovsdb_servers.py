"""Real ovsdb-servers, each with a database of its own, that tests may stop, pause and start again."""

import itertools
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

from ovn_docker.backends.ovn.rows import IDENTITY
from ovn_docker.host.ovn_controller import ask
from ovn_docker.host.ovsdb import Row, decode

SCHEMAS = {
    "OVN_Northbound": Path("/usr/share/ovn/ovn-nb.ovsschema"),
    "OVN_Southbound": Path("/usr/share/ovn/ovn-sb.ovsschema"),
    "Open_vSwitch": Path("/usr/share/openvswitch/vswitch.ovsschema"),
}

Contents = dict[str, list[Row]]
"""The rows of every table that has rows, without the column _version."""


def until(true: Callable[[], object], seconds: float = 120) -> None:
    """Wait until *true* returns a true value; the pause between two calls is as long as a call.

    *seconds* is for what never happens, on a machine with twenty times the usual load.
    """
    end = (begun := time.monotonic()) + seconds
    while not true():
        asked = time.monotonic()
        assert asked < end, f"not {true.__doc__ or 'true'} after {seconds} s"
        time.sleep(min(max(0.005, asked - begun), 0.5))
        begun = time.monotonic()


def without_times(contents: Contents) -> Contents:
    """Return *contents* without the times at which the rows were made."""
    for row in (row for rows in contents.values() for row in rows if "external_ids" in row):
        for key in ("ovn-docker:created", "ovn-docker:uptime"):
            row["external_ids"].pop(key, None)
    return contents


_OWN_NETWORK = Path("/proc/thread-self/ns/net")
_FIRST_NETWORK = _OWN_NETWORK.readlink()

_PORTS = itertools.cycle(range(20000, 30000))
"""Ports that the kernel gives to no client (net.ipv4.ip_local_port_range)."""


def free_port() -> int:
    """Return a TCP port that nothing else takes, in the network namespace of a test."""
    own = _OWN_NETWORK.readlink()
    assert own != _FIRST_NETWORK, "other processes may take the port: use a fixture network_namespace"
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class OvsdbServer:
    """An ovsdb-server that listens on a Unix socket in *directory*, and at the remotes in *options*."""

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
        """The file of the database."""
        return self._file

    def start(self) -> None:
        """Start the server; return when it answers."""
        options = [f"--remote=punix:{self.socket}", f"--unixctl={self.socket}.ctl", *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._within, "ovsdb-server", self._file, *options],
                stderr=log,
                env={**os.environ, "OVS_RUNDIR": str(self.socket.parent)},
            )
        until(self._answers)

    def kill(self) -> None:
        """Kill the server as a power cut does: connections are not closed, and the socket's file stays."""
        self._disturbed = True
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop the process: the server accepts connections and does not answer."""
        self._disturbed = True
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process: the server answers the requests that came meanwhile."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def move_to_a_small_disk(self) -> None:
        """Move the file to a file system of its own, with little room."""
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
        """Fill the small disk to the last byte."""
        with self._ballast().open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def empty_disk(self) -> None:
        """Make room on the small disk again."""
        self._ballast().unlink()

    def _ballast(self) -> Path:
        assert self._process
        return Path(f"/proc/{self._process.pid}/root{self._file.with_name('ballast')}")

    def transact(self, *operations: dict[str, Any]) -> list[Any]:
        """Return the results of a transaction that must succeed, over a connection of its own."""
        results = self._ask("transact", [self.database, *operations])
        assert not any("error" in result for result in results if result), results
        return list(results)

    def clear_networks(self) -> None:
        """Delete all rows of the tables of OVN_Northbound that have rows of ours; ports go with theirs."""
        roots = [table for table in IDENTITY if not table.endswith("_Port")]
        self.transact(*({"op": "delete", "table": table, "where": []} for table in roots))

    def insert(self, table: str, **columns: Any) -> str:
        """Insert a row with *columns* in OVSDB's JSON; return its UUID."""
        (result,) = self.transact({"op": "insert", "table": table, "row": columns})
        return str(result["uuid"][1])

    def rows(self, table: str, *columns: str) -> list[Row]:
        """Return the rows of a table, in no order."""
        operation = {"op": "select", "table": table, "where": []}
        (result,) = self.transact(operation | ({"columns": list(columns)} if columns else {}))
        return [_row(table, row) for row in result["rows"]]

    def contents(self) -> Contents:
        """Return all rows of the database."""
        if not self._tables:
            self._tables = sorted(self._ask("get_schema", [self.database])["tables"])
        results = self.transact(*({"op": "select", "table": table, "where": []} for table in self._tables))
        return {
            table: sorted(
                (_row(table, {key: row[key] for key in row if key != "_version"}) for row in rows),
                key=lambda row: str(row["_uuid"]),
            )
            for table, result in zip(self._tables, results, strict=True)
            if (rows := result["rows"])
        }

    def holds(self, calls: int = 1) -> bool:
        """Return True if *calls* transactions wait for a condition (RFC 7047, 5.2.6; memory/show)."""
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
            connection.settimeout(120)
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


def _row(table: str, columns: dict[str, Any]) -> Row:
    return Row(table, {column: decode(value) for column, value in columns.items()})


class Member(OvsdbServer):
    """A member of a RAFT cluster; the one without *others* makes the cluster, the rest join (ovsdb(7))."""

    def __init__(self, directory: Path, database: str, *others: "Member") -> None:
        self.peer = f"tcp:127.0.0.1:{free_port()}"
        self._others = others
        port = free_port()
        super().__init__(directory, database, f"--remote=ptcp:{port}:127.0.0.1")
        self.remote = f"tcp:127.0.0.1:{port}"  # TCP as between machines, so that clients send it probes

    def _create(self) -> None:
        what: list[str | Path] = ["create-cluster", self._file, SCHEMAS[self.database], self.peer]
        if self._others:
            peers = [other.peer for other in self._others]
            what = ["join-cluster", self._file, self.database, self.peer, *peers]
        subprocess.run(["ovsdb-tool", *what], check=True)

    def leads(self) -> bool:
        """Return True if this member is the leader of its cluster."""
        return self._status("leader")

    def _answers(self) -> bool:
        """Return True if the member answers, which it does before it has joined."""
        return super()._answers() and (self._disturbed or self._status("connected"))

    def _status(self, column: str) -> bool:
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
        """The pidfile of ovs-vswitchd."""
        return self.socket.with_name("ovs-vswitchd.pid")

    def start_daemon(self) -> None:
        """Start ovs-vswitchd with the userspace datapath, and wait for the bridge."""
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
        """Stop ovs-vswitchd: new ports get no number."""
        if self._daemon:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def pause_daemon(self) -> None:
        """Stop the process of ovs-vswitchd: ports get their number after resume_daemon()."""
        assert self._daemon
        self._daemon.send_signal(signal.SIGSTOP)

    def resume_daemon(self) -> None:
        """Continue the process of ovs-vswitchd."""
        assert self._daemon
        self._daemon.send_signal(signal.SIGCONT)

    def reset(self) -> None:
        """Make Open vSwitch run without ports, on a host that is set up for OVN as in the guide."""
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
        """Set external_ids of Open_vSwitch, as ``ovs-vsctl set`` does."""
        pairs = [[key.replace("_", "-"), value] for key, value in ids.items()]
        row = {"external_ids": ["map", pairs]}
        self.transact({"op": "update", "table": "Open_vSwitch", "where": [], "row": row})

    def interface(self, name: str) -> dict[str, Any]:
        """Return the interface of that name."""
        (found,) = (row for row in self.rows("Interface") if row["name"] == name)
        return found

    def ports(self) -> dict[str, dict[str, Any]]:
        """Return the interfaces by name, without those of the bridges themselves."""
        return {row["name"]: row for row in self.rows("Interface") if row["type"] != "internal"}
