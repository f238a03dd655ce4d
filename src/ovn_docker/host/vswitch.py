"""The local Open_vSwitch database: what this host is, and the ports of its integration bridge.

Columns and external_ids: ovs-vswitchd.conf.db(5), ovn-controller(8).
"""

import itertools
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, NotFound, OvnDockerError, Unavailable
from ovn_docker.host import announcement, controller, ovsdb
from ovn_docker.host.clock import age, made_now
from ovn_docker.host.ovsdb import Condition, Database, Operation, OperationError, Reference, has, is_row
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
"""On interfaces of networks that have a resolver: their turn in their sandbox, empty until they are in it."""

_RECORD = "ovn-docker:record"
"""The backend's record of the rows that make an endpoint or a network; see keep()."""

ANY_ROUTER = {"ovn-docker:routers": "any"}
"""On interfaces of containers that believe any router: their links are not guarded."""

OURS = has("external_ids", {OWNER: "ovn-docker"})
"""The condition that a row of Interface is of an endpoint, one of Queue a record of a network."""

TLS_NAMES = "ovn-docker-tls-names"
"""Setting of this host; ``off``: a database may show any certificate of the CA, as to OVN's own programs."""

_SET = "ovs-vsctl set Open_vSwitch . external_ids:"
START = "start it with: ovn-docker host start, or /usr/share/openvswitch/scripts/ovs-ctl start"
"""What to do without Open vSwitch."""

_PLUG_TIME = 5.0
"""Seconds that ovs-vswitchd gets to take up a new port; it needs some milliseconds."""


class Vswitch:
    """Open vSwitch on this host, over its configuration database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def chassis(self, deadline: Deadline, *, without: EndpointId | None = None) -> Chassis:
        """What the guide's one-time setup wrote, and the integration bridge.

        *without*: an endpoint to unplug with the same call, whatever the settings are.
        Raises Unavailable with the command to type if the cluster cannot be reached without it.
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
        ids = root[0]["external_ids"]
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
            datapath={row["name"]: row["datapath_type"] for row in bridges}.get(bridge),
            tls=_tls(root[0]["ssl"], tls, names=ids.get(TLS_NAMES) != "off"),
            southbound=_list(ids, "ovn-remote"),
        )

    def external_ids(self, deadline: Deadline) -> dict[str, str]:
        """This host's settings (ovn-controller(8)), as they stand. Raises OvnDockerError."""
        (root,) = self._database.transact(
            ovsdb.select("Open_vSwitch", columns=["external_ids"]), deadline=deadline
        )
        return dict(root[0]["external_ids"]) if root else {}

    def check(self, chassis: Chassis) -> None:
        """Raise Unavailable, with the command to type, if ports cannot be made here."""
        if not chassis.encap_ips:
            raise Unavailable(_missing({}, "ovn-encap-ip", "LOCAL_IP"))
        if chassis.datapath is None:
            raise Unavailable(
                f"Open vSwitch has no bridge {chassis.bridge}, which ovn-controller makes at its start; "
                f"{controller.START}"
            )

    def plug(self, endpoint: Endpoint, attachment: Attachment, chassis: Chassis, deadline: Deadline) -> None:
        """Put the endpoint's link on the bridge and see ovs-vswitchd take it up; idempotent."""
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
            *_, plugged = self._database.transact(
                ovsdb.insert("Interface", interface, name=link, external_ids=ids),
                ovsdb.insert("Port", port, name=link, interfaces=Reference(interface),
                             external_ids={OWNER: "ovn-docker"}, other_config={"transient": "true"}, **tag),
                ovsdb.mutate("Bridge", ["name", "==", chassis.bridge],
                             mutations=[["ports", "insert", [Reference(port)]]]),
                deadline=deadline,
            )  # fmt: skip
        except OperationError as error:
            if error.error != "duplicate uuid":
                raise Conflict(f"Open vSwitch refuses a port named {link}: {error}") from None
            if tag:
                self._database.transact(ovsdb.update("Port", is_row(port), **tag), deadline=deadline)
        else:
            if not plugged:
                raise Unavailable(f"the bridge {chassis.bridge} has just gone from Open vSwitch")
        self._taken_up(interface, link, deadline)

    def unplug(self, endpoint: EndpointId, deadline: Deadline) -> None:
        """Take the endpoint's port off whichever bridge it is on; none is fine.

        Port and Interface rows live only as long as a bridge refers to them.
        """
        self._database.transact(*_unplugging(endpoint), deadline=deadline)

    def enter(self, endpoint: EndpointId, sandbox: str, deadline: Deadline) -> tuple[int | None, bool]:
        """Wait until the port forwards, and note the sandbox that the container's end goes to.

        Returns its turn among those of the sandbox whose network has a resolver, None if it has none, and
        whether it forwards: the note is made even if it does not by *deadline*.
        Docker joins the endpoints of one sandbox one after the other. Raises NotFound if the port is gone.
        """
        interface, in_sandbox = is_row(_interface(endpoint)), {OWNER: "ovn-docker", "vm-id": sandbox}
        enter = (
            _note(interface, "vm-id", sandbox),
            ovsdb.select("Interface", interface, columns=["external_ids"]),
            ovsdb.select("Interface", has("external_ids", in_sandbox), columns=["external_ids"]),
        )
        patience, forwards = Deadline(deadline.left() + 1), True
        try:
            results = self._database.transact(*self._flows(endpoint, deadline), *enter, deadline=patience)
        except OperationError as error:
            if error.error != "timed out":
                raise
            forwards = False
            results = self._database.transact(*enter, deadline=Deadline(1))
        *_, found, rows, others = results
        if not found:
            raise NotFound(
                f"Open vSwitch has no port for the endpoint {endpoint[:12]}; start the container again"
            )
        turn = rows[0]["external_ids"].get(RESOLVER)
        if turn is None:
            return None, forwards
        if not re.fullmatch("[0-9]{1,4}", turn):
            taken = {row["external_ids"].get(RESOLVER) for row in others}
            turn = next(number for number in map(str, itertools.count()) if number not in taken)
            self._database.transact(_note(interface, RESOLVER, turn), deadline=patience)
        return int(turn), forwards

    def announce(self, endpoint: Endpoint, chassis: Chassis, deadline: Deadline) -> None:
        """Tell the neighbours of an endpoint its MAC, from its port. Raises Unavailable."""
        (rows,) = self._database.transact(
            ovsdb.select("Interface", is_row(_interface(endpoint.id)), columns=["ofport"]), deadline=deadline
        )
        method, _, socket = self._database.remote.partition(":")
        if method != "unix":
            raise Unavailable(f"{method}: is not the socket of this machine's own Open vSwitch")
        for row in rows:
            if isinstance(row["ofport"], int):
                management = Path(socket).with_name(f"{chassis.bridge}.mgmt")
                announcement.announce(management, row["ofport"], endpoint.mac or "", endpoint.addresses)

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:
        """What the interface's row says while its flows are missing."""
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
        """What is known of an endpoint on this host, for Docker's EndpointOperInfo; empty if nothing."""
        (rows,) = self._database.transact(
            ovsdb.select("Interface", is_row(_interface(endpoint)), columns=["name", "external_ids"]),
            deadline=deadline,
        )
        return {
            key: value
            for row in rows
            for key, value in (
                ("mac_address", row["external_ids"].get("attached-mac", "")),
                ("veth", row["name"]),
            )
        }

    def endpoints(self, deadline: Deadline) -> list[StoredEndpoint]:
        """Every endpoint that has a port on this host, by the ports that we made."""
        rows, root = self._database.transact(
            ovsdb.select("Interface", OURS, columns=["external_ids"]),
            ovsdb.select("Open_vSwitch", columns=["external_ids"]),
            deadline=deadline,
        )
        host = root[0]["external_ids"].get("system-id", "") if root else ""
        return [
            StoredEndpoint(
                EndpointId(row["external_ids"].get(ENDPOINT, "")),
                NetworkId(row["external_ids"].get(NETWORK, "")),
                host,
                age(row["external_ids"]),
                record=row["external_ids"].get(_RECORD, ""),
            )
            for row in rows
        ]

    def note_record(self, endpoint: EndpointId, record: str, deadline: Deadline) -> None:
        """Store the backend's record of an endpoint that was plugged without one."""
        self._database.transact(_note(is_row(_interface(endpoint)), _RECORD, record), deadline=deadline)

    def keep(self, network: NetworkId, record: str, deadline: Deadline) -> None:
        """Store the backend's record of a network of this host's Docker; delete it if *record* is empty.

        It is a row of Queue: that table is a root, has external_ids, and means nothing to ovs-vswitchd and
        ovn-controller until a QoS refers to it (ovs-vswitchd.conf.db(5)).
        """
        row = row_uuid("record", network)
        if not record:
            self._database.transact(ovsdb.delete("Queue", is_row(row)), deadline=deadline)
            return
        ids = {OWNER: "ovn-docker", NETWORK: network, _RECORD: record}
        try:
            self._database.transact(ovsdb.insert("Queue", row, external_ids=ids), deadline=deadline)
        except OperationError as error:
            if error.error != "duplicate uuid":
                raise
            self._database.transact(ovsdb.update("Queue", is_row(row), external_ids=ids), deadline=deadline)

    def records(self, deadline: Deadline) -> dict[NetworkId, str]:
        """The records that keep() has stored, by network."""
        (rows,) = self._database.transact(
            ovsdb.select("Queue", OURS, columns=["external_ids"]), deadline=deadline
        )
        return {
            NetworkId(ids[NETWORK]): ids[_RECORD]
            for ids in (row["external_ids"] for row in rows)
            if NETWORK in ids and _RECORD in ids
        }

    def guarded(self, deadline: Deadline) -> set[str]:
        """Links that are guarded against routers: all of ours, but for networks with ``ovn.routers=any``."""
        any_router = ["external_ids", "excludes", ovsdb.encode(ANY_ROUTER)]
        (rows,) = self._database.transact(
            ovsdb.select("Interface", OURS, any_router, columns=["name"]), deadline=deadline
        )
        return {row["name"] for row in rows}

    def _flows(self, endpoint: EndpointId, deadline: Deadline) -> list[Operation]:
        """What waits until ovn-controller says that the port's flows are in, or the port is gone.

        The server watches the row for us: a ``wait`` answers in the moment it becomes true.
        """
        missing = ["external_ids", "excludes", ovsdb.encode({"ovn-installed": "true"})]
        interface = is_row(_interface(endpoint))
        return [ovsdb.require_none("Interface", interface, missing, wait=deadline.left())]

    def _taken_up(self, interface: str, link: str, deadline: Deadline) -> None:
        number = ["ofport", "!=", ["set", []]]
        wait = deadline.left(at_most=_PLUG_TIME)
        try:
            *_, rows = self._database.transact(
                ovsdb.require("Interface", interface, number, wait=wait),
                ovsdb.select("Interface", is_row(interface), columns=["error"]),
                deadline=Deadline(wait + 1),
            )
        except OperationError as error:
            if error.error != "timed out":
                raise
            raise Unavailable(
                f"ovs-vswitchd did not take up the port {link} within {wait:.0f} s; is it running? {START}"
            ) from None
        if rows[0]["error"]:
            raise OvnDockerError(f"ovs-vswitchd cannot use the link {link}: {rows[0]['error']}")


class VmBridge(Vswitch):
    """The bridge in a VM that has its network interface, for VLAN-tagged ports; without ovn-controller.

    *vif*: UUID of the VM's Neutron port, by which its containers' ports are known.
    """

    def __init__(self, database: Database, bridge: str, vif: str) -> None:
        super().__init__(database)
        self._bridge = bridge
        self._vif = vif

    def chassis(self, deadline: Deadline, *, without: EndpointId | None = None) -> Chassis:
        """The VM, which needs no settings in the database."""
        bridges, *_ = self._database.transact(
            ovsdb.select("Bridge", ["name", "==", self._bridge], columns=["datapath_type"]),
            *_unplugging(without),
            deadline=deadline,
        )
        datapath = bridges[0]["datapath_type"] if bridges else None
        return Chassis(self._vif, bridge=self._bridge, datapath=datapath)

    def check(self, chassis: Chassis) -> None:
        """Raise Unavailable, with the command to type, without the bridge."""
        if chassis.datapath is None:
            raise Unavailable(
                f"Open vSwitch has no bridge {self._bridge}; make it, with the VM's interface in it: "
                f"ovn-docker underlay bridge --interface eth0 --bridge {self._bridge}"
            )

    def guarded(self, deadline: Deadline) -> set[str]:  # noqa: ARG002 - Neutron's networks have routers
        """None: what may pass there is Neutron's to say."""
        return set()

    def _flows(self, endpoint: EndpointId, deadline: Deadline) -> list[Operation]:  # noqa: ARG002 - see plug()
        """A tagged port forwards as soon as ovs-vswitchd has taken it up."""
        return []


def _unplugging(endpoint: EndpointId | None) -> list[Operation]:
    """Operations that take the endpoint's port off whichever bridge it is on; none is fine."""
    if endpoint is None:
        return []
    port = [Reference(_port(endpoint))]
    on_it = ["ports", "includes", ovsdb.encode(port)]
    return [ovsdb.mutate("Bridge", on_it, mutations=[["ports", "delete", port]])]


def _note(interface: Condition, key: str, value: str) -> Operation:
    """The operation that sets a key of an interface's external_ids."""
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
    state = f"has {key}={ids[key]!r}, which is no address" if ids.get(key) else f"does not have {key}"
    return f"the Open_vSwitch database {state}; set it with: {_SET}{key}={example}"


def _tls(reference: Any, rows: list[dict[str, str]], *, names: bool) -> Tls | None:
    for row in rows:
        if row["_uuid"] == reference:
            return Tls(row["private_key"], row["certificate"], row["ca_cert"], names)
    return None
