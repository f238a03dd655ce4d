"""OVN's two databases on this machine: their files, processes and connections."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ovn_docker.errors import OvnDockerError
from ovn_docker.host.daemons import read_daemon
from ovn_docker.host.ovsdb import Row, results_of, select
from ovn_docker.host.places import find_places
from ovn_docker.host.run import run, succeeds
from ovn_docker.host.vsctl import rows
from ovn_docker.setup.tls_files import TlsFiles

OVN_CTL = "/usr/share/ovn/scripts/ovn-ctl"


@dataclass(frozen=True)
class CentralDatabase:
    """One of OVN's two databases on this machine."""

    title: str
    schema: str
    """Name of the database in OVSDB."""
    short: str
    """Name of the database in options and commands of ovn-ctl(8)."""
    control: str
    """Command-line tool for the database."""
    root: str
    """The table whose only row lists the connections."""
    port: int
    """TCP port of the guide and of ovn-nb(5), ovn-sb(5)."""
    peer_port: int
    """TCP port at which the members of a cluster reach each other (ovn-ctl(8))."""

    @property
    def name(self) -> str:
        """The stem of the names of the database's file, pidfile and sockets."""
        return f"ovn{self.short}_db"

    @property
    def control_socket(self) -> str:
        """The socket on which the server takes commands (ovs-appctl(8))."""
        return str(find_places().central / f"{self.name}.ctl")

    @property
    def log(self) -> str:
        """The log file of the server."""
        return f"/var/log/ovn/ovsdb-server-{self.short}.log"

    @property
    def file(self) -> Path:
        """The file of the database (ovn-ctl(8), OVN_DBDIR)."""
        return Path(os.environ.get("OVN_DBDIR") or "/var/lib/ovn") / f"{self.name}.db"

    @property
    def schema_file(self) -> str:
        """The file with the database's schema, from OVN's package."""
        return f"/usr/share/ovn/ovn-{self.short}.ovsschema"

    @property
    def tool(self) -> tuple[str, ...]:
        """The tool's command for this machine's server, which forwards changes if it is not the leader."""
        return (self.control, "--no-leader-only") if self.clustered() else (self.control,)

    def clustered(self) -> bool:
        """Return whether the file is that of a member of a cluster."""
        return self.file.exists() and succeeds("ovsdb-tool", "db-is-clustered", str(self.file))

    def pid(self) -> int | None:
        """Return the PID of the server, or ``None`` if it does not run."""
        return read_daemon(self.name, find_places()).pid

    def bound(self) -> bool:
        """Return whether the server, and no other process, has the port (ss(8))."""
        return f"pid={self.pid()}," in run(("ss", "-Hltnp", f"sport = :{self.port}"))

    def answers(self) -> bool:
        """Return whether the server answers on its Unix socket."""
        return succeeds(*self.tool, "--timeout=2", "get-connection")

    @property
    def row_remote(self) -> str:
        """The ``--remote`` with which its server listens where Connection rows say (ovsdb-server(1))."""
        return f"db:{self.schema},{self.root},connections"

    def remotes(self) -> list[str]:
        """Return the connection methods on which its server listens, or `row_remote`; empty if it is down."""
        command = ("ovs-appctl", "-T", "5", "-t", self.control_socket, "ovsdb-server/list-remotes")
        try:
            return run(command).split()
        except OvnDockerError:
            return []

    def arguments(self) -> dict[str, str]:
        """Return the options of its server's command line; of an option given twice, the last value."""
        pid = self.pid()
        if pid is None:
            return {}
        try:
            given = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            return {}
        return {name: value for name, _, value in (word.partition("=") for word in given)}

    def connections(self) -> list[tuple[str, str, str]]:
        """Return UUID, target and role of every Connection row; the role is empty without access control."""
        role = ("role",) if self.short == "sb" else ()
        found = self._select("Connection", "_uuid", "target", *role)
        return [(row.uuid, row.text("target"), row.text("role") if role else "") for row in found]

    def row_tls(self) -> TlsFiles | None:
        """Return the files that ``set-ssl`` has written into a row, or ``None``."""
        found = self._select("SSL", *TlsFiles._fields)
        return TlsFiles(*map(found[0].text, TlsFiles._fields)) if found else None

    def listening(self) -> tuple[str, str, str] | None:
        """Return UUID, target and role of the connection that listens on its port, or ``None``."""
        return next((c for c in self.connections() if re.match(rf"p(tcp|ssl):{self.port}(:|$)", c[1])), None)

    def _select(self, table: str, *columns: str) -> list[Row]:
        """Return all rows of a table: from the server; if it is down, from the file of a database alone."""
        if self.pid():
            return rows(table, *columns, tool=self.tool)
        if not self.file.exists() or self.clustered():
            return []
        query = select(table, columns=columns)
        reply = run(("ovsdb-tool", "query", str(self.file), json.dumps([self.schema, query])))
        return results_of(json.loads(reply), self.title, [query])[0]


NORTHBOUND = CentralDatabase(
    "northbound database", "OVN_Northbound", "nb", "ovn-nbctl", "NB_Global", 6641, 6643
)
SOUTHBOUND = CentralDatabase(
    "southbound database", "OVN_Southbound", "sb", "ovn-sbctl", "SB_Global", 6642, 6644
)
DATABASES = (NORTHBOUND, SOUTHBOUND)
