"""The local Open_vSwitch database: settings of this host, and ports of its integration bridge.

Columns and external_ids: ovs-vswitchd.conf.db(5), ovn-controller(8).
"""

import itertools
import re
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, EndpointNotFound, OvnDockerError, Unavailable
from ovn_docker.host import ovn_controller, ovsdb
from ovn_docker.host.clock import age, made_now
from ovn_docker.host.kernel import announcement
from ovn_docker.host.ovsdb import (
    Condition,
    ConditionFailed,
    Database,
    DuplicateRow,
    Operation,
    OperationError,
    Reference,
    Row,
    has,
    is_row,
)
from ovn_docker.host.places import find_places
from ovn_docker.model import (
    Attachment,
    Chassis,
    Endpoint,
    EndpointId,
    NetworkId,
    StoredEndpoint,
    Tls,
    host_link,
    row_uuid,
)

OWNER = "ovn-docker:owner"
NETWORK = "ovn-docker:network"
ENDPOINT = "ovn-docker:endpoint"
RESOLVER = "ovn-docker:resolver"
"""Key of an interface whose network has a resolver: its index in the sandbox, empty until Join."""

_RECORD = "ovn-docker:record"
"""Key of the backend's record of the rows of an endpoint or a network; see keep()."""

ANY_ROUTER = {"ovn-docker:routers": "any"}
"""Key and value of an interface whose container may follow any router: its link is not guarded."""

OURS = has("external_ids", {OWNER: "ovn-docker"})
"""Condition that finds the interfaces of endpoints, and in Queue the records of networks."""

TLS_NAMES = "ovn-docker-tls-names"
"""Setting of this host; ``off``: a database may show any certificate of the CA, as to OVN's own programs."""

_SET = "ovs-vsctl set Open_vSwitch . external_ids:"
START = "start it with: ovn-docker host start, or /usr/share/openvswitch/scripts/ovs-ctl start"
"""Cure when Open vSwitch does not run."""

_PLUG_TIME = 5.0
"""Time limit in seconds for ovs-vswitchd to open a new port; it needs some milliseconds."""


def local_database() -> Database:
    """Return a connection to this host's Open_vSwitch database, as the tool's commands use it."""
    return Database("Open_vSwitch", [find_places().database], START)


class VswitchPorts:
    """The ports of endpoints in Open vSwitch on this host, and the backend's records, in its database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def plug(self, endpoint: Endpoint, attachment: Attachment, chassis: Chassis, deadline: Deadline) -> int:
        """Add the endpoint's link to the bridge and wait until ovs-vswitchd has opened it; idempotent.

        Returns the OpenFlow port number.
        """
        tag = {} if attachment.vlan is None else {"tag": attachment.vlan}
        port, interface, link = _port(endpoint.id), _interface(endpoint.id), host_link(endpoint.id)
        ids = {
            OWNER: "ovn-docker",
            NETWORK: endpoint.network,
            ENDPOINT: endpoint.id,
            **made_now(),
            "iface-id": attachment.iface_id,
            "iface-status": "active",
            "attached-mac": endpoint.mac or "",
        }
        if attachment.resolver:
            ids[RESOLVER] = ""
        if attachment.any_router:
            ids |= ANY_ROUTER
        if attachment.record:
            ids[_RECORD] = attachment.record
        try:
            *_, bridges = self._database.transact(
                ovsdb.insert("Interface", interface, name=link, external_ids=ids),
                ovsdb.insert("Port", port, name=link, interfaces=Reference(interface),
                             external_ids={OWNER: "ovn-docker"}, other_config={"transient": "true"}, **tag),
                ovsdb.mutate("Bridge", ["name", "==", chassis.bridge],
                             mutations=[["ports", "insert", [Reference(port)]]]),
                ovsdb.select("Bridge", ["name", "==", chassis.bridge], columns=["_uuid"]),
                deadline=deadline,
            )  # fmt: skip
        except DuplicateRow:
            if tag:
                self._database.transact(ovsdb.update("Port", is_row(port), **tag), deadline=deadline)
        except OperationError as error:
            raise Conflict(f"Open vSwitch refuses a port named {link}: {error}") from None
        else:
            if not bridges:
                raise Unavailable(f"the bridge {chassis.bridge} has just gone from Open vSwitch")
        return self._await_ofport(interface, link, deadline)

    def unplug(self, endpoint: EndpointId, deadline: Deadline) -> None:
        """Remove the endpoint's port, if any, from its bridge.

        Port and Interface rows live only as long as a bridge refers to them.
        """
        self._database.transact(*_unplugging(endpoint), deadline=deadline)

    def _enter(
        self, endpoint: EndpointId, sandbox: str, deadline: Deadline, *wait: Operation
    ) -> tuple[int | None, bool]:
        """Carry out HostSwitch.enter(); *wait*: operations that wait until the port forwards.

        The sandbox is written even if the port does not forward at *deadline*. Docker joins the endpoints of
        one sandbox one after the other.
        """
        interface, in_sandbox = is_row(_interface(endpoint)), {OWNER: "ovn-docker", "vm-id": sandbox}
        write = (
            _set_id(interface, "vm-id", sandbox),
            ovsdb.select("Interface", interface, columns=["external_ids"]),
            ovsdb.select("Interface", has("external_ids", in_sandbox), columns=["external_ids"]),
        )
        with_reply, installed = Deadline(deadline.left() + 1), True
        try:
            results = self._database.transact(*wait, *write, deadline=with_reply)
        except ConditionFailed:
            installed = False
            results = self._database.transact(*write, deadline=Deadline(1))
        *_, rows, others = results
        if not rows:
            raise EndpointNotFound(endpoint)
        index = rows[0].map("external_ids").get(RESOLVER)
        if index is None:
            return None, installed
        if not re.fullmatch("[0-9]{1,4}", index):
            taken = {row.map("external_ids").get(RESOLVER) for row in others}
            index = next(number for number in map(str, itertools.count()) if number not in taken)
            self._database.transact(_set_id(interface, RESOLVER, index), deadline=with_reply)
        return int(index), installed

    def announce(self, endpoint: Endpoint, chassis: Chassis, ofport: int) -> None:
        """Announce the addresses of an endpoint to its neighbours, from its port. Raises Unavailable."""
        method, _, socket = self._database.remote.partition(":")
        if method != "unix":
            raise Unavailable(f"{method}: is not the socket of this machine's own Open vSwitch")
        management = Path(socket).with_name(f"{chassis.bridge}.mgmt")
        announcement.announce(management, ofport, endpoint.mac or "", endpoint.addresses)

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:
        """Return why the flows of an endpoint are missing, by its interface's row."""
        (rows,) = self._database.transact(
            ovsdb.select("Interface", is_row(_interface(endpoint)), columns=["error", "ofport"]),
            deadline=deadline,
        )
        if not rows:
            return "its port has gone from Open vSwitch"
        if rows[0]["error"]:
            return f"Open vSwitch says: {rows[0]['error']}"
        return "ovn-controller has not installed its flows"

    def endpoint_info(self, endpoint: EndpointId, deadline: Deadline) -> dict[str, str]:
        """Return MAC and link of an endpoint for Docker's EndpointOperInfo; empty without a port."""
        (rows,) = self._database.transact(
            ovsdb.select("Interface", is_row(_interface(endpoint)), columns=["name", "external_ids"]),
            deadline=deadline,
        )
        return {
            key: value
            for row in rows
            for key, value in (
                ("mac_address", row.map("external_ids").get("attached-mac", "")),
                ("veth", row.text("name")),
            )
        }

    def endpoints(self, deadline: Deadline) -> list[StoredEndpoint]:
        """Return all endpoints that have a port of ours on this host."""
        rows, root = self._database.transact(
            ovsdb.select("Interface", OURS, columns=["external_ids"]),
            ovsdb.select("Open_vSwitch", columns=["external_ids"]),
            deadline=deadline,
        )
        host = root[0].map("external_ids").get("system-id", "") if root else ""
        return [
            StoredEndpoint(
                EndpointId(row.map("external_ids").get(ENDPOINT, "")),
                NetworkId(row.map("external_ids").get(NETWORK, "")),
                host,
                age(row.map("external_ids")),
                record=row.map("external_ids").get(_RECORD, ""),
            )
            for row in rows
        ]

    def store_record(self, endpoint: EndpointId, record: str, deadline: Deadline) -> None:
        """Store the backend's record of an endpoint that was plugged without a record."""
        self._database.transact(_set_id(is_row(_interface(endpoint)), _RECORD, record), deadline=deadline)

    def keep(self, network: NetworkId, record: str, deadline: Deadline) -> None:
        """Store the backend's record of a network of this host's Docker; delete it if *record* is empty.

        The record is a row of Queue: that table is a root, has external_ids, and means nothing to
        ovs-vswitchd and ovn-controller until a QoS refers to it (ovs-vswitchd.conf.db(5)).
        """
        row = row_uuid("record", network)
        if not record:
            self._database.transact(ovsdb.delete("Queue", is_row(row)), deadline=deadline)
            return
        ids = {OWNER: "ovn-docker", NETWORK: network, _RECORD: record}
        try:
            self._database.transact(ovsdb.insert("Queue", row, external_ids=ids), deadline=deadline)
        except DuplicateRow:
            self._database.transact(ovsdb.update("Queue", is_row(row), external_ids=ids), deadline=deadline)

    def records(self, deadline: Deadline) -> dict[NetworkId, str]:
        """Return the records that keep() has stored, by network."""
        (rows,) = self._database.transact(
            ovsdb.select("Queue", OURS, columns=["external_ids"]), deadline=deadline
        )
        return {
            NetworkId(ids[NETWORK]): ids[_RECORD]
            for ids in (row.map("external_ids") for row in rows)
            if NETWORK in ids and _RECORD in ids
        }

    def _await_ofport(self, interface: str, link: str, deadline: Deadline) -> int:
        opened = ["ofport", "!=", ["set", []]]
        wait = deadline.left(at_most=_PLUG_TIME)
        try:
            *_, rows = self._database.transact(
                ovsdb.require("Interface", interface, opened, wait=wait),
                ovsdb.select("Interface", is_row(interface), columns=["error", "ofport"]),
                deadline=Deadline(wait + 1),
            )
        except ConditionFailed:
            raise Unavailable(
                f"ovs-vswitchd did not take up the port {link} within {wait:.0f} s; is it running? {START}"
            ) from None
        if rows[0]["error"]:
            raise OvnDockerError(f"ovs-vswitchd cannot use the link {link}: {rows[0]['error']}")
        return rows[0].number("ofport")


class LocalVswitch(VswitchPorts):
    """Open vSwitch on a host with ovn-controller."""

    def chassis(self, deadline: Deadline, *, without: EndpointId | None = None) -> Chassis:
        """Return the settings that host setup wrote, and the integration bridge.

        *without*: an endpoint to unplug in the same transaction, whatever the settings are.
        Raises Unavailable with a command as cure if a setting is missing without which OVN cannot be reached.
        """
        root, bridges, tls, *_ = self._database.transact(
            ovsdb.select("Open_vSwitch", columns=["external_ids", "ssl"]),
            ovsdb.select("Bridge", columns=["name", "datapath_type"]),
            ovsdb.select("SSL", columns=["_uuid", "private_key", "certificate", "ca_cert"]),
            *_unplugging(without),
            deadline=deadline,
        )
        if not root:
            raise Unavailable("the Open_vSwitch database is empty; set it up with: ovs-vsctl init")
        ids = root[0].map("external_ids")
        if not ids.get("system-id"):
            raise Unavailable(_missing(ids, "system-id", "$(uuidgen)"))
        northbound = _list(ids, "ovn-nb")
        if not northbound:
            # The southbound database is usually on the same machine: offer its address.
            example = ids.get("ovn-remote", "tcp:CENTRAL_IP:6642").replace(":6642", ":6641")
            raise Unavailable(_missing(ids, "ovn-nb", f'"{example}"'))
        try:
            encap_ips = tuple(ip_address(text) for text in _list(ids, "ovn-encap-ip"))
        except ValueError:
            raise Unavailable(_missing(ids, "ovn-encap-ip", "LOCAL_IP")) from None
        bridge = ids.get("ovn-bridge", "br-int")
        return Chassis(
            system_id=ids["system-id"],
            northbound=northbound,
            encap_ips=encap_ips,
            encap_types=_list(ids, "ovn-encap-type") or ("geneve",),
            bridge=bridge,
            datapath={row.text("name"): row.text("datapath_type") for row in bridges}.get(bridge),
            tls=_tls(root[0].optional("ssl", str), tls, names=ids.get(TLS_NAMES) != "off"),
            southbound=_list(ids, "ovn-remote"),
        )

    def external_ids(self, deadline: Deadline) -> dict[str, str]:
        """Return this host's settings (ovn-controller(8)), unchecked. Raises OvnDockerError."""
        (root,) = self._database.transact(
            ovsdb.select("Open_vSwitch", columns=["external_ids"]), deadline=deadline
        )
        return dict(root[0].map("external_ids")) if root else {}

    def check(self, chassis: Chassis) -> None:
        """Raise Unavailable, with a command as cure, if ports cannot be created here."""
        if not chassis.encap_ips:
            raise Unavailable(_missing({}, "ovn-encap-ip", "LOCAL_IP"))
        if chassis.datapath is None:
            raise Unavailable(
                f"Open vSwitch has no bridge {chassis.bridge}, which ovn-controller makes at its start; "
                f"{ovn_controller.START}"
            )

    def enter(self, endpoint: EndpointId, sandbox: str, deadline: Deadline) -> tuple[int | None, bool]:
        """Wait until the port's flows are installed, or the port is gone; see HostSwitch.

        The server evaluates a ``wait`` at each change of the row, and answers when it becomes true.
        """
        missing = ["external_ids", "excludes", ovsdb.encode({"ovn-installed": "true"})]
        interface = is_row(_interface(endpoint))
        wait = ovsdb.require_none("Interface", interface, missing, wait=deadline.left())
        return self._enter(endpoint, sandbox, deadline, wait)

    def guarded(self, deadline: Deadline) -> set[str]:
        """Return the links to guard against routers: ours, except on networks with ``ovn.routers=any``."""
        any_router = ["external_ids", "excludes", ovsdb.encode(ANY_ROUTER)]
        (rows,) = self._database.transact(
            ovsdb.select("Interface", OURS, any_router, columns=["name"]), deadline=deadline
        )
        return {row.text("name") for row in rows}


class VmBridge(VswitchPorts):
    """The bridge of a VM with the VM's network interface and VLAN-tagged ports; without ovn-controller.

    *vif*: UUID of the VM's Neutron port, which identifies the ports of its containers.
    """

    def __init__(self, database: Database, bridge: str, vif: str) -> None:
        super().__init__(database)
        self._bridge = bridge
        self._vif = vif

    def chassis(self, deadline: Deadline, *, without: EndpointId | None = None) -> Chassis:
        """Return the VM as a chassis; it has no settings in the database."""
        bridges, *_ = self._database.transact(
            ovsdb.select("Bridge", ["name", "==", self._bridge], columns=["datapath_type"]),
            *_unplugging(without),
            deadline=deadline,
        )
        datapath = bridges[0].text("datapath_type") if bridges else None
        return Chassis(self._vif, bridge=self._bridge, datapath=datapath)

    def check(self, chassis: Chassis) -> None:
        """Raise Unavailable, with a command as cure, if the bridge is missing."""
        if chassis.datapath is None:
            raise Unavailable(
                f"Open vSwitch has no bridge {self._bridge}; make it, with the VM's interface in it: "
                f"ovn-docker underlay bridge --interface eth0 --bridge {self._bridge}"
            )

    def enter(self, endpoint: EndpointId, sandbox: str, deadline: Deadline) -> tuple[int | None, bool]:
        """Do not wait: a tagged port forwards as soon as ovs-vswitchd has opened it; see HostSwitch."""
        return self._enter(endpoint, sandbox, deadline)


def _unplugging(endpoint: EndpointId | None) -> list[Operation]:
    """Return operations that remove the endpoint's port, if any, from its bridge."""
    if endpoint is None:
        return []
    port = [Reference(_port(endpoint))]
    on_it = ["ports", "includes", ovsdb.encode(port)]
    return [ovsdb.mutate("Bridge", on_it, mutations=[["ports", "delete", port]])]


def _set_id(interface: Condition, key: str, value: str) -> Operation:
    """Return the operation that sets a key of an interface's external_ids."""
    return ovsdb.mutate(
        "Interface",
        interface,
        mutations=[["external_ids", "delete", [key]], ["external_ids", "insert", {key: value}]],
    )


def _port(endpoint: EndpointId) -> str:
    return row_uuid("port", endpoint)


def _interface(endpoint: EndpointId) -> str:
    return row_uuid("interface", endpoint)


def _list(ids: dict[str, str], key: str) -> tuple[str, ...]:
    return tuple(filter(None, (item.strip() for item in ids.get(key, "").split(","))))


def _missing(ids: dict[str, str], key: str, example: str) -> str:
    state = f"has an invalid address, {key}={ids[key]!r}" if ids.get(key) else f"does not have {key}"
    return f"the Open_vSwitch database {state}; set it with: {_SET}{key}={example}"


def _tls(reference: str | None, rows: list[Row], *, names: bool) -> Tls | None:
    for row in rows:
        if row.uuid == reference:
            return Tls(row.text("private_key"), row.text("certificate"), row.text("ca_cert"), names)
    return None
