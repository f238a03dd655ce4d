"""Reads what is into a Snapshot: the only reader of the operator's commands.

Rows are asked for with conditions, and by UUID where it is known; how much is read is the Scope's to say.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ovn_docker.backends import reports, shared
from ovn_docker.backends.northbound import CONTAINER, ENDPOINT, HOST, NOTE, OURS, SWITCH
from ovn_docker.backends.openrc import VIF
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Forbidden, OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.driver import PROGRAM, Driver, find
from ovn_docker.host.engine import OUR_NETWORKS
from ovn_docker.host.engine import Engine as DockerApi
from ovn_docker.host.environment import environment
from ovn_docker.host.links import Links
from ovn_docker.host.ovsdb import Database, Row, has, is_row
from ovn_docker.host.places import Places, find_places, require_access
from ovn_docker.host.processes import running, started
from ovn_docker.host.vswitch import START, TLS_NAMES
from ovn_docker.model import Tls, row_uuid
from ovn_docker.options import SHARED_NAME, is_of_others
from ovn_docker.printable import printable
from ovn_docker.view import cloud, ml2_ovn
from ovn_docker.view.snapshot import (
    BindingRow,
    Bridge,
    ChassisRow,
    DockerEndpoint,
    DockerNetwork,
    Encap,
    Engine,
    Interface,
    Northbound,
    Note,
    PortRow,
    Process,
    Scope,
    SharedRow,
    Snapshot,
    Southbound,
    SwitchRow,
    Vswitch,
    note,
)

T = TypeVar("T")

PATIENCE = 3.0
"""Seconds that one source may take."""

_LARGE = 30.0
"""Seconds for what may be large; who does not answer at all is found out before (`Sources._connected`)."""

_PORT_COLUMNS = (*("_uuid", "name", "addresses", "port_security", "enabled", "tag", "external_ids"),)
_SWITCH_COLUMNS = ("_uuid", "name", "external_ids")


PROCESSES = {
    "ovsdb-server": "vswitch",
    "ovs-vswitchd": "vswitch",
    PROGRAM: "vswitch",
    "ovn-controller": "ovn",
    "ovn-northd": "central",
    "ovnnb_db": "central",
    "ovnsb_db": "central",
}
"""Pidfiles, and in which of the directories of Places they are."""


class Sources:
    """The connections behind a snapshot, for as long as a command needs them; ``None``: see *missing*."""

    def __init__(self, places: Places | None = None) -> None:
        self.places = places or find_places()
        self.docker = DockerApi(self.places.docker)
        self.vswitch: Database | None = None
        self.northbound: Database | None = None
        self.southbound: Database | None = None
        self.missing: dict[str, str] = {}
        self._forbidden: set[str] = set()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def gather(self, scope: Scope = Scope.HOST) -> Snapshot:
        """Read everything; never raises, but for a defect."""
        self.missing = {}
        self._forbidden = set()
        taken = time.time()
        vswitch = self._read("vswitch", self._vswitch)
        engine = self._read("docker", self._engine)
        driver = self._read("driver", self._driver)
        seen = Snapshot(
            taken=taken,
            host=socket.gethostname(),
            scope=scope,
            processes=_processes(self.places, driver),
            links=tuple(Links().all()),
            driver=driver,
            engine=engine,
            vswitch=vswitch,
            missing=self.missing,
            forbidden=frozenset(self._forbidden),
        )
        variables = environment(os.environ)
        seen = replace(seen, vif=variables.get(VIF, ""))
        return self._in_cloud(seen, variables) if seen.underlay else self._in_ovn(replace(seen, vif=""))

    def _in_ovn(self, seen: Snapshot) -> Snapshot:
        """With OVN's databases."""
        scope, vswitch, engine, northbound, southbound = seen.scope, seen.vswitch, seen.engine, None, None
        if vswitch is not None:
            northbound = self._read("northbound", lambda: self._northbound(scope, vswitch, engine))
            southbound = self._read("southbound", lambda: self._southbound(scope, vswitch, northbound))
        else:
            self.missing |= dict.fromkeys(("northbound", "southbound"), self.missing["vswitch"])
            if "vswitch" in self._forbidden:
                self._forbidden |= {"northbound", "southbound"}
        forbidden = frozenset(self._forbidden)
        return replace(seen, northbound=northbound, southbound=southbound, forbidden=forbidden)

    def _in_cloud(self, seen: Snapshot, variables: Mapping[str, str]) -> Snapshot:
        """With what Neutron has, in the underlay mode; it is not asked for a glance at this host."""
        if seen.scope is Scope.HOST:
            return seen
        docker = [network.id for network in seen.engine.networks] if seen.engine else []
        found = cloud.ask(variables, docker if seen.scope is Scope.NETWORKS else None)
        if problem := found.problem or ("" if found.mac else f"Neutron has no port {found.vif}: see {VIF}"):
            self.missing |= dict.fromkeys(("northbound", "southbound"), problem)
            return replace(seen, cloud=found)
        north, south = ml2_ovn.northbound(found, docker), ml2_ovn.southbound(found)
        return replace(seen, cloud=found, northbound=north, southbound=south)

    def _read(self, part: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except OvnDockerError as error:
            self.missing[part] = str(error)
            if isinstance(error, Forbidden):
                self._forbidden.add(part)
            return None

    def _connected(
        self, name: str, root: str, remotes: Sequence[str], cure: str, tls: Tls | None = None
    ) -> Database:
        """A database that answers; *root*: its table with one row."""
        database = Database(name, remotes, cure, tls)
        self._open.callback(database.close)
        database.knock()
        # With TLS 1.3 a server that does not take our certificate says so only after it took the connection.
        database.transact(ovsdb.select(root, columns=["_uuid"]), deadline=Deadline(PATIENCE))
        return database

    def _connected_to_ovn(self, name: str, root: str, vswitch: Vswitch, setting: str) -> Database:
        """One of OVN's databases, which *setting* in Open_vSwitch names."""
        cure = "start it on that host with: ovn-docker central start"
        return self._connected(name, root, _remotes(vswitch, setting), cure, tls_of(vswitch))

    def _driver(self) -> Driver:
        require_access(self.places.plugin)
        return find(self.places.plugin, self.places.vswitch)

    # Docker

    def _engine(self) -> Engine:
        require_access(self.places.docker)
        version, info, rows, containers = (
            printable(self.docker.read(path))  # names may be anything
            for path in ("/version", "/info", OUR_NETWORKS, "/containers/json?all=1")
        )
        networks = tuple(map(_docker_network, rows))
        ours = {network.id for network in networks}
        return Engine(
            version=str(version.get("Version", "")),
            swarm=(info.get("Swarm") or {}).get("LocalNodeState") == "active",
            networks=networks,
            endpoints=tuple(
                endpoint
                for container in containers
                for endpoint in _docker_endpoints(container)
                if endpoint.network in ours
            ),
        )

    # Open vSwitch

    def _vswitch(self) -> Vswitch:
        if self.vswitch is None:
            if self.places.database.startswith("unix:"):
                require_access(Path(self.places.database.removeprefix("unix:")))
            self.vswitch = self._connected("Open_vSwitch", "Open_vSwitch", [self.places.database], START)
        roots, bridges, ports, interfaces, tls = self._ask(
            self.vswitch,
            ovsdb.select("Open_vSwitch", columns=["ovs_version", "external_ids", "ssl"]),
            ovsdb.select("Bridge", columns=["name", "datapath_type", "fail_mode", "ports"]),
            ovsdb.select("Port", columns=["_uuid", "tag", "interfaces"]),
            ovsdb.select("Interface", columns=["_uuid", "name", "type", "ofport", "error", "link_state",
                                               "external_ids", "options", "bfd_status", "statistics"]),
            ovsdb.select("SSL", columns=["_uuid", "private_key", "certificate", "ca_cert"]),
            patience=PATIENCE,
        )  # fmt: skip
        if not roots:
            raise Unavailable("the Open_vSwitch database is empty; set it up with: ovs-vsctl init")
        bridge_of = {port: bridge["name"] for bridge in bridges for port in ovsdb.members(bridge["ports"])}
        port_of = {interface: port for port in ports for interface in ovsdb.members(port["interfaces"])}
        root = roots[0]
        return Vswitch(
            version=_text(root["ovs_version"]),
            ids=root["external_ids"],
            bridges=tuple(Bridge(b["name"], b["datapath_type"], _text(b["fail_mode"])) for b in bridges),
            interfaces=tuple(
                _interface(row, port, bridge_of.get(port["_uuid"], ""))
                for row in interfaces
                if (port := port_of.get(row["_uuid"]))
            ),
            tls=next(
                ((row["private_key"], row["certificate"], row["ca_cert"])
                 for row in tls if row["_uuid"] == root["ssl"]), None
            ),
        )  # fmt: skip

    # OVN

    def _northbound(self, scope: Scope, vswitch: Vswitch, engine: Engine | None) -> Northbound:
        if self.northbound is None:
            self.northbound = self._connected_to_ovn("OVN_Northbound", "NB_Global", vswitch, "ovn-nb")
        root, named = self._ask(
            self.northbound,
            ovsdb.select("NB_Global", columns=["nb_cfg"]),
            ovsdb.select("Logical_Switch", shared.SHARED, columns=["_uuid", "external_ids"]),
        )
        wanted = () if scope is Scope.HOST else (reports.select_reports(),)
        reported = [row for rows in self._ask(self.northbound, *wanted) for row in rows]
        if scope is Scope.CLUSTER:
            switches, ports, notes, names = self._all_of_ours(self.northbound)
        else:
            networks = [network.id for network in engine.networks] if engine else []
            switches, ports, notes, names = self._of_host(self.northbound, scope, vswitch.system_id, networks)
        return Northbound(
            remote=self.northbound.remote,
            nb_cfg=root[0]["nb_cfg"] if root else 0,
            switches=tuple(SwitchRow(row["_uuid"], row["name"], row["external_ids"]) for row in switches),
            ports=tuple(ports),
            notes=tuple(notes),
            names=dict(filter(None, map(_name, names))),
            shared=tuple(
                SharedRow(row["_uuid"], shared.read(row["_uuid"], row["external_ids"])) for row in named
            ),
            reports=tuple(reports.read(reported)),
        )

    def _all_of_ours(self, database: Database) -> tuple[list[Row], list[PortRow], list[Note], list[Row]]:
        """Whole tables are searched, but only our rows are sent, and no claims or leases."""
        ours = has("external_ids", OURS)
        note_ids = has("external_ids", OURS | NOTE)
        switches, ports, notes, names = self._ask(
            database,
            ovsdb.select("Logical_Switch", columns=_SWITCH_COLUMNS),
            ovsdb.select("Logical_Switch_Port", ours, columns=_PORT_COLUMNS),
            ovsdb.select("DHCP_Options", note_ids, columns=["external_ids"]),
            ovsdb.select("DNS", ours, columns=["records", "external_ids"]),
        )
        found = [_port(row, row["external_ids"].get(SWITCH, "")) for row in ports]
        known = [note(row["external_ids"]) for row in notes]
        # A switch of the user's is a network of ours once a host is attached to it.
        used = {port.switch for port in found} | {one.switch for one in known}
        return (
            [row for row in switches if row["_uuid"] in used or OURS.items() <= row["external_ids"].items()],
            found,
            known,
            names,
        )

    def _of_host(
        self, database: Database, scope: Scope, host: str, networks: Iterable[str]
    ) -> tuple[list[Row], list[PortRow], list[Note], list[Row]]:
        (mine, *found) = self._ask(
            database,
            ovsdb.select("Logical_Switch_Port", has("external_ids", {**OURS, HOST: host}),
                         columns=_PORT_COLUMNS),
            *(ovsdb.select("DHCP_Options", is_row(row_uuid("attached network", id_)),
                           columns=["external_ids"]) for id_ in networks),
        )  # fmt: skip
        notes = [note(row["external_ids"]) for rows in found for row in rows]
        rows = {row_uuid("network", id_) for id_ in networks} | {one.switch for one in notes}
        rows |= {row["external_ids"].get(SWITCH, "") for row in mine}
        rows.discard("")
        half = len(rows)
        results = self._ask(
            database,
            *(ovsdb.select("Logical_Switch", is_row(row), columns=[*_SWITCH_COLUMNS, "ports"])
              for row in rows),
            *(ovsdb.select("DNS", has("external_ids", {**OURS, SWITCH: row}),
                           columns=["records", "external_ids"]) for row in rows),
        )  # fmt: skip
        switches = [row for rows in results[:half] for row in rows]
        names = [row for rows in results[half:] for row in rows]
        switch_of = {port: switch["_uuid"] for switch in switches for port in ovsdb.members(switch["ports"])}
        if scope is Scope.NETWORKS:
            mine = [
                row
                for rows in self._ask(
                    database,
                    *(ovsdb.select("Logical_Switch_Port", is_row(port), columns=_PORT_COLUMNS)
                      for port in switch_of),
                )
                for row in rows
            ]  # fmt: skip
        ports = [_port(row, switch_of.get(row["_uuid"], "")) for row in mine]
        return switches, ports, notes, names

    def _southbound(self, scope: Scope, vswitch: Vswitch, northbound: Northbound | None) -> Southbound:
        if self.southbound is None:
            self.southbound = self._connected_to_ovn("OVN_Southbound", "SB_Global", vswitch, "ovn-remote")
        database, switches = self.southbound, northbound.switches if northbound else ()
        root, chassis, private, encaps, *datapaths = self._ask(
            database,
            ovsdb.select("SB_Global", columns=["nb_cfg"]),
            ovsdb.select("Chassis", columns=["_uuid", "name", "hostname", "encaps"]),
            ovsdb.select("Chassis_Private", columns=["name", "nb_cfg"]),
            ovsdb.select("Encap", columns=["_uuid", "type", "ip"]),
            *(ovsdb.select("Datapath_Binding", has("external_ids", {"logical-switch": switch.row}),
                           columns=["_uuid"]) for switch in switches),
        )  # fmt: skip
        name_of = {row["_uuid"]: row["name"] for row in chassis}
        keys = {
            switch.row: row["_uuid"] for switch, rows in zip(switches, datapaths, strict=True) for row in rows
        }
        wanted = _wanted_bindings(scope, vswitch, name_of, keys)
        columns = ["logical_port", "chassis", "up"]
        bindings = {
            row["logical_port"]: BindingRow(
                port=row["logical_port"],
                chassis=name_of.get(_text(row["chassis"]), ""),
                up=_maybe(row["up"]),
            )
            for rows in self._ask(
                database, *(ovsdb.select("Port_Binding", *where, columns=columns) for where in wanted)
            )
            for row in rows
        }
        encap_of = {row["_uuid"]: Encap(row["type"], row["ip"]) for row in encaps}
        current = {row["name"]: row["nb_cfg"] for row in private}
        return Southbound(
            remote=database.remote,
            nb_cfg=root[0]["nb_cfg"] if root else 0,
            chassis=tuple(
                ChassisRow(
                    row["name"],
                    row["hostname"],
                    tuple(encap_of[encap] for encap in ovsdb.members(row["encaps"]) if encap in encap_of),
                    current.get(row["name"], 0),
                )
                for row in sorted(chassis, key=lambda row: str(row["name"]))
            ),
            bindings=tuple(bindings.values()),
            datapaths=keys,
        )

    def _ask(self, database: Database, *operations: ovsdb.Operation, patience: float = _LARGE) -> list[Any]:
        """Rows, as they may be shown: other hosts write to these databases too."""
        if not operations:
            return []
        return [printable(result) for result in database.transact(*operations, deadline=Deadline(patience))]


def _wanted_bindings(
    scope: Scope, vswitch: Vswitch, name_of: dict[str, str], keys: dict[str, str]
) -> list[list[ovsdb.Condition]]:
    """Conditions of one select each."""
    if scope is Scope.CLUSTER:
        return [[["type", "==", ""]]]
    wanted = [
        [["chassis", "==", ovsdb.encode(ovsdb.Reference(row))]]
        for row, name in name_of.items()
        if name == vswitch.system_id
    ]
    if scope is Scope.NETWORKS:
        wanted += [
            [["datapath", "==", ovsdb.encode(ovsdb.Reference(datapath))]] for datapath in keys.values()
        ]
    return wanted


def tls_of(vswitch: Vswitch) -> Tls | None:
    """The files with which this host's programs connect to OVN's databases, if it has any."""
    return Tls(*vswitch.tls, vswitch.ids.get(TLS_NAMES) != "off") if vswitch.tls else None


def _remotes(vswitch: Vswitch, setting: str) -> list[str]:
    remotes = [remote for part in vswitch.ids.get(setting, "").split(",") if (remote := part.strip())]
    if not remotes:
        raise Unavailable(f"the Open_vSwitch database does not have {setting}")
    return remotes


def _docker_network(row: dict[str, Any]) -> DockerNetwork:
    pools = (row.get("IPAM") or {}).get("Config") or []
    return DockerNetwork(
        id=row["Id"],
        name=row["Name"],
        subnets=tuple(pool["Subnet"] for pool in pools if pool.get("Subnet")),
        shared=(row.get("Options") or {}).get(SHARED_NAME, ""),
        ignored=tuple(sorted(filter(is_of_others, row.get("Options") or {}))),
        internal=bool(row.get("Internal")),
    )


def _docker_endpoints(container: dict[str, Any]) -> Iterable[DockerEndpoint]:
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    for endpoint in networks.values():
        yield DockerEndpoint(
            id=endpoint.get("EndpointID") or "",
            network=endpoint.get("NetworkID") or "",
            container=container["Id"],
            name=(container.get("Names") or [""])[0].lstrip("/"),
            state=container.get("State") or "",
            addresses=tuple(filter(None, (endpoint.get("IPAddress"), endpoint.get("GlobalIPv6Address")))),
            mac=endpoint.get("MacAddress") or "",
        )


def _interface(row: Row, port: Row, bridge: str) -> Interface:
    return Interface(
        name=row["name"],
        bridge=bridge,
        type=row["type"],
        ofport=_maybe(row["ofport"]),
        error=_text(row["error"]),
        link_state=_text(row["link_state"]),
        tag=_maybe(port["tag"]),
        ids=row["external_ids"],
        options=row["options"],
        bfd=row["bfd_status"],
        statistics=row["statistics"],
    )


def _port(row: Row, switch: str) -> PortRow:
    return PortRow(
        row=row["_uuid"],
        name=row["name"],
        switch=switch,
        addresses=tuple(ovsdb.members(row["addresses"])),
        port_security=tuple(ovsdb.members(row["port_security"])),
        enabled=_maybe(row["enabled"]) is not False,
        tag=_maybe(row["tag"]),
        ids=row["external_ids"],
    )


def _name(row: Row) -> tuple[str, str] | None:
    """Endpoint and container of a row of table DNS.

    Another container may have its name; rows of earlier versions have it in a reverse record, before the
    network's (backends/dns.py).
    """
    endpoint, container = row["external_ids"].get(ENDPOINT, ""), row["external_ids"].get(CONTAINER)
    if container:
        return endpoint, container
    for key, value in row["records"].items():
        if key.endswith(".arpa"):
            return endpoint, value.partition(".")[0]
    return None


def _processes(places: Places, driver: Driver | None) -> tuple[Process, ...]:
    found = []
    for name, directory in PROCESSES.items():
        known = driver.pid if driver and name == PROGRAM else None  # under systemd it has no pidfile
        pid = known or running(Path(getattr(places, directory)) / f"{name}.pid")
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            ticks = started(pid, places.proc) if pid else 0
        except (OSError, ValueError):
            pid = None  # it has just ended
        since = boot + ticks / os.sysconf("SC_CLK_TCK") if pid else None
        found.append(Process(name, pid, since))
    return tuple(found)


def _maybe(column: Any) -> Any:
    """An optional column: ``None`` where it is empty."""
    return (column[0] if column else None) if isinstance(column, list) else column


def _text(column: Any) -> str:
    """An optional column of text."""
    return str(_maybe(column) or "")
