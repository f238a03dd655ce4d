"""Read Docker, Open vSwitch, OVN and the kernel into a Snapshot, for all commands of the operator.

Rows are selected with conditions, and by UUID where it is known; the Scope says how much is read.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ovn_docker.backends.neutron.openrc import VIF
from ovn_docker.backends.ovn.rows import (
    CONTAINER,
    ENDPOINT,
    ENDPOINTS,
    HOST,
    NAMES,
    NOTES,
    OURS,
    SHARED_NETWORKS,
    SWITCH,
    RowKind,
    note_row,
)
from ovn_docker.backends.ovn.shared import reports, shared_networks
from ovn_docker.deadline import Deadline
from ovn_docker.docker.engine import DockerEngine
from ovn_docker.errors import Forbidden, OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.daemons import read_daemons
from ovn_docker.host.driver_socket import RunningDriver, find
from ovn_docker.host.environment import environment
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.openvswitch import START, TLS_NAMES
from ovn_docker.host.ovsdb import Database, Row, has, is_row
from ovn_docker.host.places import Places, find_places, require_access
from ovn_docker.inspect import cloud, ml2_ovn
from ovn_docker.inspect.docker_state import read_docker
from ovn_docker.inspect.snapshot import (
    BindingRow,
    Bridge,
    ChassisRow,
    DockerState,
    Encap,
    Interface,
    NorthboundRows,
    NoteRow,
    PortRow,
    Scope,
    SharedRow,
    Snapshot,
    SouthboundRows,
    SwitchRow,
    VswitchRows,
    note,
)
from ovn_docker.model import NetworkId, Tls, row_uuid
from ovn_docker.text.printable import printable

T = TypeVar("T")

TIMEOUT = 3.0
"""Seconds that one source may take."""

_LARGE_TIMEOUT = 30.0
"""Time limit of large reads in seconds; `Sources._connected` has tested before that the server answers."""

_PORT_COLUMNS = ("_uuid", "name", "addresses", "port_security", "enabled", "tag", "external_ids")
_SWITCH_COLUMNS = ("_uuid", "name", "external_ids")

_COLUMNS = {ENDPOINTS: _PORT_COLUMNS, NOTES: ("external_ids",), NAMES: ("records", "external_ids")}
"""Columns that are read of each kind of row of endpoints and hosts."""


class Sources:
    """The connections that snapshots are read from; *missing* has the reason why one is ``None``."""

    def __init__(self, places: Places | None = None) -> None:
        self.places = places or find_places()
        self.docker = DockerEngine(self.places.docker)
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

    def gather(self, scope: Scope = Scope.HOST, *, ask_driver: bool = True) -> Snapshot:
        """Read everything. A part that cannot be read is missing in the snapshot; nothing is raised.

        Without *ask_driver* the driver is not called, which systemd would start and which logs the call.
        """
        self.missing = {}
        self._forbidden = set()
        taken = time.time()
        vswitch = self._read("vswitch", self._vswitch)
        engine = self._read("docker", self._engine)
        driver = self._read("driver", self._driver) if ask_driver else None
        seen = Snapshot(
            taken=taken,
            host=socket.gethostname(),
            scope=scope,
            daemons=read_daemons(self.places, driver),
            links=tuple(KernelLinks().all()),
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
        """Add what OVN's databases have."""
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
        """Add what Neutron has, in the underlay mode; nothing for the scope HOST."""
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
        """Connect to a database that answers; *root*: its table with one row. Raises Unavailable."""
        database = Database(name, remotes, cure, tls)
        self._open.callback(database.close)
        database.knock()
        # With TLS 1.3 a server refuses our certificate only after it has accepted the connection.
        database.transact(ovsdb.select(root, columns=["_uuid"]), deadline=Deadline(TIMEOUT))
        return database

    def _connected_to_ovn(self, name: str, root: str, vswitch: VswitchRows, setting: str) -> Database:
        """Connect to the database of OVN whose address *setting* in Open_vSwitch has."""
        cure = "start it on that host with: ovn-docker central start"
        return self._connected(name, root, _remotes(vswitch, setting), cure, tls_of(vswitch))

    def _driver(self) -> RunningDriver:
        require_access(self.places.plugin)
        return find(self.places.plugin, self.places.vswitch)

    def _engine(self) -> DockerState:
        require_access(self.places.docker)
        return read_docker(self.docker)

    # Open vSwitch

    def _vswitch(self) -> VswitchRows:
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
            timeout=TIMEOUT,
        )  # fmt: skip
        if not roots:
            raise Unavailable("the Open_vSwitch database is empty; set it up with: ovs-vsctl init")
        bridge_of = {port: bridge.text("name") for bridge in bridges for port in bridge.members("ports")}
        port_of = {interface: port for port in ports for interface in port.members("interfaces")}
        root = roots[0]
        return VswitchRows(
            version=root.optional("ovs_version", str) or "",
            ids=root.map("external_ids"),
            bridges=tuple(
                Bridge(b.text("name"), b.text("datapath_type"), b.optional("fail_mode", str) or "")
                for b in bridges
            ),
            interfaces=tuple(
                _interface(row, port, bridge_of.get(port.uuid, ""))
                for row in interfaces
                if (port := port_of.get(row.uuid))
            ),
            tls=next(
                ((row.text("private_key"), row.text("certificate"), row.text("ca_cert"))
                 for row in tls if row.uuid == root.optional("ssl", str)), None
            ),
        )  # fmt: skip

    # OVN

    def _northbound(self, scope: Scope, vswitch: VswitchRows, engine: DockerState | None) -> NorthboundRows:
        if self.northbound is None:
            self.northbound = self._connected_to_ovn("OVN_Northbound", "NB_Global", vswitch, "ovn-nb")
        root, named = self._ask(
            self.northbound,
            ovsdb.select("NB_Global", columns=["nb_cfg", "options"]),
            ovsdb.select("Logical_Switch", SHARED_NETWORKS.where(), columns=["_uuid", "external_ids"]),
        )
        wanted = () if scope is Scope.HOST else (reports.select_reports(),)
        reported = [row for rows in self._ask(self.northbound, *wanted) for row in rows]
        if scope is Scope.CLUSTER:
            switches, ports, notes, names = self._all_of_ours(self.northbound)
        else:
            networks = [network.id for network in engine.networks] if engine else []
            switches, ports, notes, names = self._of_host(self.northbound, scope, vswitch.system_id, networks)
        return NorthboundRows(
            remote=self.northbound.remote,
            nb_cfg=root[0].number("nb_cfg") if root else 0,
            switches=tuple(
                SwitchRow(row.uuid, row.text("name"), row.map("external_ids")) for row in switches
            ),
            ports=tuple(ports),
            notes=tuple(notes),
            names=dict(filter(None, map(_name, names))),
            shared=tuple(
                SharedRow(row.uuid, shared_networks.read(row.uuid, row.map("external_ids"))) for row in named
            ),
            reports=tuple(reports.read(reported)),
            northd=root[0].map("options").get("northd_internal_version", "") if root else "",
        )

    def _all_of_ours(self, database: Database) -> tuple[list[Row], list[PortRow], list[NoteRow], list[Row]]:
        """Select all rows of ovn-docker but claims and leases; the server searches whole tables."""
        switches, ports, notes, names = self._ask(
            database,
            ovsdb.select("Logical_Switch", columns=_SWITCH_COLUMNS),
            *(_select(kind, kind.where()) for kind in _COLUMNS),
        )
        found = [_port(row, row.map("external_ids").get(SWITCH, "")) for row in ports]
        known = [note(row.map("external_ids")) for row in notes]
        # A switch that the user made counts as a network once a host is attached to it.
        used = {port.switch for port in found} | {one.switch for one in known}
        return (
            [row for row in switches if row.uuid in used or OURS.items() <= row.map("external_ids").items()],
            found,
            known,
            names,
        )

    def _of_host(
        self, database: Database, scope: Scope, host: str, networks: Iterable[str]
    ) -> tuple[list[Row], list[PortRow], list[NoteRow], list[Row]]:
        (own, *found) = self._ask(
            database,
            _select(ENDPOINTS, ENDPOINTS.where({HOST: host})),
            *(_select(NOTES, is_row(note_row(NetworkId(id_)))) for id_ in networks),
        )
        notes = [note(row.map("external_ids")) for rows in found for row in rows]
        rows = {row_uuid("network", id_) for id_ in networks} | {one.switch for one in notes}
        rows |= {row.map("external_ids").get(SWITCH, "") for row in own}
        rows.discard("")
        half = len(rows)
        results = self._ask(
            database,
            *(ovsdb.select("Logical_Switch", is_row(row), columns=[*_SWITCH_COLUMNS, "ports"])
              for row in rows),
            *(_select(NAMES, NAMES.where({SWITCH: row})) for row in rows),
        )  # fmt: skip
        switches = [row for rows in results[:half] for row in rows]
        names = [row for rows in results[half:] for row in rows]
        switch_of = {port: switch.uuid for switch in switches for port in switch.members("ports")}
        if scope is Scope.NETWORKS:
            own = [
                row
                for rows in self._ask(
                    database,
                    *(_select(ENDPOINTS, is_row(port)) for port in switch_of),
                )
                for row in rows
            ]
        ports = [_port(row, switch_of.get(row.uuid, "")) for row in own]
        return switches, ports, notes, names

    def _southbound(
        self, scope: Scope, vswitch: VswitchRows, northbound: NorthboundRows | None
    ) -> SouthboundRows:
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
        name_of = {row.uuid: row.text("name") for row in chassis}
        keys = {
            switch.row: row.uuid for switch, rows in zip(switches, datapaths, strict=True) for row in rows
        }
        wanted = _wanted_bindings(scope, vswitch, name_of, keys)
        columns = ["logical_port", "chassis", "up"]
        bindings = {
            row.text("logical_port"): BindingRow(
                port=row.text("logical_port"),
                chassis=name_of.get(row.optional("chassis", str) or "", ""),
                up=row.optional("up", bool),
            )
            for rows in self._ask(
                database, *(ovsdb.select("Port_Binding", *where, columns=columns) for where in wanted)
            )
            for row in rows
        }
        encap_of = {row.uuid: Encap(row.text("type"), row.text("ip")) for row in encaps}
        current = {row.text("name"): row.number("nb_cfg") for row in private}
        return SouthboundRows(
            remote=database.remote,
            nb_cfg=root[0].number("nb_cfg") if root else 0,
            chassis=tuple(
                ChassisRow(
                    row.text("name"),
                    row.text("hostname"),
                    tuple(encap_of[encap] for encap in row.members("encaps") if encap in encap_of),
                    current.get(row.text("name"), 0),
                )
                for row in sorted(chassis, key=lambda row: str(row.text("name")))
            ),
            bindings=tuple(bindings.values()),
            datapaths=keys,
        )

    def _ask(
        self, database: Database, *operations: ovsdb.Operation, timeout: float = _LARGE_TIMEOUT
    ) -> list[list[Row]]:
        """Return rows with printable text: other hosts write to these databases too."""
        if not operations:
            return []
        results = database.transact(*operations, deadline=Deadline(timeout))
        return [[Row(row.table, printable(row)) for row in rows] for rows in results]


def _select(kind: RowKind, condition: ovsdb.Condition) -> ovsdb.Operation:
    """Return the operation that reads rows of a kind."""
    return ovsdb.select(kind.table, condition, columns=_COLUMNS[kind])


def _wanted_bindings(
    scope: Scope, vswitch: VswitchRows, name_of: dict[str, str], keys: dict[str, str]
) -> list[list[ovsdb.Condition]]:
    """Return the conditions of each select that finds the bindings of a scope."""
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


def tls_of(vswitch: VswitchRows) -> Tls | None:
    """Return the files with which this host connects to OVN's databases; ``None`` without TLS."""
    return Tls(*vswitch.tls, vswitch.ids.get(TLS_NAMES) != "off") if vswitch.tls else None


def _remotes(vswitch: VswitchRows, setting: str) -> list[str]:
    remotes = [remote for part in vswitch.ids.get(setting, "").split(",") if (remote := part.strip())]
    if not remotes:
        raise Unavailable(f"the Open_vSwitch database does not have {setting}")
    return remotes


def _interface(row: Row, port: Row, bridge: str) -> Interface:
    return Interface(
        name=row.text("name"),
        bridge=bridge,
        type=row.text("type"),
        ofport=row.optional("ofport", int),
        error=row.optional("error", str) or "",
        link_state=row.optional("link_state", str) or "",
        tag=port.optional("tag", int),
        ids=row.map("external_ids"),
        options=row.map("options"),
        bfd=row.map("bfd_status"),
        statistics=row.numbers("statistics"),
    )


def _port(row: Row, switch: str) -> PortRow:
    return PortRow(
        row=row.uuid,
        name=row.text("name"),
        switch=switch,
        addresses=tuple(row.members("addresses")),
        port_security=tuple(row.members("port_security")),
        enabled=row.optional("enabled", bool) is not False,
        tag=row.optional("tag", int),
        ids=row.map("external_ids"),
    )


def _name(row: Row) -> tuple[str, str] | None:
    """Return endpoint and container of a row of table DNS.

    Rows of earlier versions have the container only in a reverse record, as the first label of the name
    (backends/ovn/shared/container_names.py).
    """
    endpoint, container = row.map("external_ids").get(ENDPOINT, ""), row.map("external_ids").get(CONTAINER)
    if container:
        return endpoint, container
    for key, value in row.map("records").items():
        if key.endswith(".arpa"):
            return endpoint, value.partition(".")[0]
    return None
