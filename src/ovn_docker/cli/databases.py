"""OVN's two databases on this machine: their files, processes and connections."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovn_docker.cli.arguments import TlsFiles
from ovn_docker.cli.steps import plain, rows, run, succeeds
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.places import find_places
from ovn_docker.host.processes import running

OVN_CTL = "/usr/share/ovn/scripts/ovn-ctl"


@dataclass(frozen=True)
class Database:
    """One of OVN's two databases on this machine."""

    title: str
    schema: str
    """What OVSDB calls it."""
    short: str
    """What ovn-ctl(8) calls it in its options and commands."""
    control: str
    """Its command-line tool."""
    root: str
    """The table whose only row lists the connections."""
    port: int
    """TCP port of the guide and of ovn-nb(5), ovn-sb(5)."""
    peer_port: int
    """TCP port at which the members of a cluster speak with each other (ovn-ctl(8))."""

    @property
    def name(self) -> str:
        """What its file, pidfile and sockets are called."""
        return f"ovn{self.short}_db"

    @property
    def control_socket(self) -> str:
        """Where its server takes commands (ovs-appctl(8))."""
        return str(find_places().central / f"{self.name}.ctl")

    @property
    def log(self) -> str:
        """Where it writes what happens."""
        return f"/var/log/ovn/ovsdb-server-{self.short}.log"

    @property
    def file(self) -> Path:
        """Where it is kept (ovn-ctl(8), OVN_DBDIR)."""
        return Path(os.environ.get("OVN_DBDIR") or "/var/lib/ovn") / f"{self.name}.db"

    @property
    def schema_file(self) -> str:
        """Where OVN has its schema."""
        return f"/usr/share/ovn/ovn-{self.short}.ovsschema"

    @property
    def tool(self) -> tuple[str, ...]:
        """The command that changes it: a member of a cluster passes changes on, if it is not the leader."""
        return (self.control, "--no-leader-only") if self.clustered() else (self.control,)

    def clustered(self) -> bool:
        """Whether its file is that of a member of a cluster."""
        return self.file.exists() and succeeds("ovsdb-tool", "db-is-clustered", str(self.file))

    def pid(self) -> int | None:
        """The process that serves it, if any."""
        return running(find_places().central / f"{self.name}.pid")

    def bound(self) -> bool:
        """Whether its process, and no other, has the port (ss(8))."""
        return f"pid={self.pid()}," in run(("ss", "-Hltnp", f"sport = :{self.port}"))

    def answers(self) -> bool:
        """Whether it answers on its Unix socket."""
        return succeeds(*self.tool, "--timeout=2", "get-connection")

    @property
    def row_remote(self) -> str:
        """The ``--remote`` that has its server listen where Connection rows say (ovsdb-server(1))."""
        return f"db:{self.schema},{self.root},connections"

    def remotes(self) -> list[str]:
        """Where its server listens: connection methods, or `row_remote`; empty if it does not run."""
        command = ("ovs-appctl", "-T", "5", "-t", self.control_socket, "ovsdb-server/list-remotes")
        try:
            return run(command).split()
        except OvnDockerError:
            return []

    def arguments(self) -> dict[str, str]:
        """The options that its server was started with; of one that was given twice, the last value."""
        pid = self.pid()
        if pid is None:
            return {}
        try:
            given = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            return {}
        return {name: value for name, _, value in (word.partition("=") for word in given)}

    def connections(self) -> list[tuple[str, str, str]]:
        """UUID, target and role of every Connection row; the role is empty, or that of access control."""
        role = ("role",) if self.short == "sb" else ()
        found = self._select("Connection", "_uuid", "target", *role)
        return [(row["_uuid"], row["target"], row.get("role") or "") for row in found]

    def row_tls(self) -> TlsFiles | None:
        """The files that ``set-ssl`` has put into a row."""
        found = self._select("SSL", *TlsFiles._fields)
        return TlsFiles(**found[0]) if found else None

    def _select(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """All rows of a table: from the server, or if none runs, from the file, unless it is a member's."""
        if self.pid():
            return rows(*self.tool, "--timeout=10", f"--columns={','.join(columns)}", "list", table)
        if not self.file.exists() or self.clustered():
            return []
        query = [self.schema, {"op": "select", "table": table, "where": [], "columns": columns}]
        (answer,) = json.loads(run(("ovsdb-tool", "query", str(self.file), json.dumps(query))))
        return [{name: plain(value) for name, value in row.items()} for row in answer["rows"]]

    def listening(self) -> tuple[str, str, str] | None:
        """UUID, target and role of the connection that listens on our port, or None."""
        return next((c for c in self.connections() if re.match(rf"p(tcp|ssl):{self.port}(:|$)", c[1])), None)


NORTHBOUND = Database("northbound database", "OVN_Northbound", "nb", "ovn-nbctl", "NB_Global", 6641, 6643)
SOUTHBOUND = Database("southbound database", "OVN_Southbound", "sb", "ovn-sbctl", "SB_Global", 6642, 6644)
DATABASES = (NORTHBOUND, SOUTHBOUND)
