"""Networks as logical switches, endpoints as logical switch ports: the OVN northbound database.

Tables and columns: ovn-nb(5). Why a claim of an address is a row: docs/architecture.md.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from ovn_docker import options
from ovn_docker.allowed import Allowed, join
from ovn_docker.backends import allowed_claims, dns, records, shared
from ovn_docker.backends.addresses import STATE, bind, lease_row, picked
from ovn_docker.backends.northbound import (
    ALLOWED,
    CONTAINER,
    ENCAP,
    ENDPOINT,
    HOST,
    KEPT,
    MTU,
    NAME,
    NETWORK,
    NOTE,
    OURS,
    PORT_SECURITY,
    ROUTERS,
    SWITCH,
    Connect,
    claim_row,
    host_ids,
    name_of,
    stored_endpoint,
)
from ovn_docker.backends.records import NetworkRecord, PortRecord
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import BadRequest, Conflict, NotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import CREATED, UPTIME, made_now
from ovn_docker.host.ovsdb import (
    Database,
    Operation,
    OperationError,
    Reference,
    Row,
    has,
    is_row,
    is_uuid,
    require,
)
from ovn_docker.model import (
    AddressInUse,
    Attachment,
    Chassis,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    StoredEndpoint,
    Subnet,
    check_allowed,
    row_uuid,
)

log = logging.getLogger(__name__)

_ADDRESSES = 16
"""Addresses of a port whose claims go with it: more than an endpoint has."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A network as the database has it: the row of its logical switch, and what we wrote about it."""

    switch: str
    ids: dict[str, str]

    @property
    def name(self) -> str:
        """Its name in the cluster, if it has one."""
        return name_of(self.ids, self.switch)

    @property
    def resolver(self) -> bool:
        """Whether its switch answers to names."""
        return bool(self.name) and "gateway_ip" in self.ids

    @property
    def any_router(self) -> bool:
        """Whether its containers believe any router."""
        return self.ids.get(ROUTERS) == "any"

    @property
    def allowed(self) -> tuple[Allowed, ...]:
        """Addresses that its containers may use besides their own."""
        return allowed_claims.stored(self.ids)

    @property
    def port_security(self) -> bool:
        """Whether its containers may use no other addresses than these."""
        return self.ids.get(PORT_SECURITY) != "off"

    @property
    def mtu(self) -> int | None:
        """In bytes; ``None`` if the row has none that a user can give."""
        try:
            return options.parse({options.MTU: self.ids.get(MTU, "")}).mtu
        except BadRequest:
            return None


class Overlay:
    """The overlay mode's backend. Its methods are idempotent; each writes in a single transaction.

    *everywhere*: whether Docker's networks are the same on all hosts (scope ``global``), so no host's alone;
    *followed*: whether a network of the cluster, by its name, is made here only because another host has it;
    *mirrors*: whether this host makes the networks of the others.
    """

    def __init__(
        self,
        connect: Connect,
        everywhere: Callable[[], bool] = lambda: False,
        followed: Callable[[str], bool] = lambda _: False,
        *,
        mirrors: bool = False,
    ) -> None:
        self._connect = connect
        self._mirrors = mirrors
        self._everywhere = everywhere
        self._followed = followed

    def create_network(
        self, network: Network, chassis: Chassis, deadline: Deadline, *, kept: bool = False
    ) -> str:
        """Make the network's logical switch, or note the one that ``-o ovn.switch`` names.

        Returns the record of its rows. *kept*: swarm's manager made it, and only a delete_network that says
        so deletes it.
        Raises BadRequest without that switch, Conflict if it or the network is there with other subnets.
        """
        database = self._connect(chassis)
        while True:
            try:
                row, switch, operations = self._making(database, network, chassis, deadline, kept=kept)
            except shared.OtherSubnets as error:
                if not (self._mirrors and picked(database, network, error.asked, chassis, deadline)):
                    raise
                # Docker cannot be told of another subnet now: cluster.py replaces the network in a moment.
                shared.give_way(database, network.options.name or "", chassis, deadline)
                return ""
            binding, pools = bind(database, network, switch, chassis, deadline)
            try:
                database.transact(*operations, *binding, deadline=deadline)
            except OperationError as error:
                if error.error == "timed out":
                    continue  # what was read has changed: the shared switch has gone, the pool has a network
                if error.error != "duplicate uuid":
                    raise
                if operations[error.index]["uuid"] != row:
                    continue  # another host has made the shared switch in this moment: join it
                self._check_same_network(database, network, operations[error.index], deadline)
            return network_record(network, pools).text

    def _making(
        self, database: Database, network: Network, chassis: Chassis, deadline: Deadline, *, kept: bool
    ) -> tuple[str, str, list[Operation]]:
        """UUID of the row that stands for the network, of its switch, and what makes both."""
        ids = _network_ids(network)
        if kept:
            ids[KEPT] = "true"
        elif not self._everywhere():
            ids |= {**host_ids(chassis), **made_now()}
        if network.options.switch is None and network.options.name is None:
            row = row_uuid("network", network.id)
            return row, row, [ovsdb.insert("Logical_Switch", row, name=network.id, external_ids=ids)]
        row = shared.note_row(network.id)
        operations: list[Operation] = []
        if network.options.name is not None:
            switch = switch_row(network.options.name)
            description = {
                key: value for key, value in ids.items() if key not in {NETWORK, HOST, ENCAP, CREATED, UPTIME}
            }
            operations, incarnation = shared.join(
                *(database, network, {**description, NAME: network.options.name}, chassis, deadline),
                followed=self._followed(network.options.name),
            )
            ids |= shared.note_ids(network.options.name, switch, incarnation, chassis)
        else:
            switch = ids[SWITCH] = users_switch(
                database, network.options.switch or "", network.subnets, deadline
            )
            ids |= NOTE
        note = ovsdb.insert("DHCP_Options", row, cidr=ids.get("subnet", ""), external_ids=ids)
        return row, switch, [*operations, note]

    def _check_same_network(
        self, database: Database, network: Network, wanted: Operation, deadline: Deadline
    ) -> None:
        """The network is there already. Raises Conflict unless it is the one that was asked for."""
        there = self._stored(database, network.id, deadline).ids
        for key, value in ovsdb.decode(wanted["row"]["external_ids"]).items():
            untold = KEPT in there and key not in there  # to swarm's manager: --internal, IPv6
            may_differ = {KEPT, HOST, ENCAP, CREATED, UPTIME, *shared.OF_LIFE}
            if key not in may_differ and not untold and there.get(key) != value:
                undo = "ls-del" if wanted["table"] == "Logical_Switch" else "dhcp-options-del"
                raise Conflict(
                    f"network {network.id[:12]} is in the northbound database with "
                    f"{key}={there.get(key)!r}, asked for was {value!r}; "
                    f"delete it with: ovn-nbctl {undo} {wanted['uuid']}"
                )

    def delete_network(
        self, network: NetworkId, chassis: Chassis, deadline: Deadline, *, kept: bool = False
    ) -> None:
        """Delete the network and what is left of its endpoints; a switch of the user's stays.

        A network of the cluster goes from all hosts, unless a container of another host, running or stopped,
        belongs to it: then it goes from this host alone. So does one that was made again meanwhile.
        """
        database = self._connect(chassis)
        name, removed = self._forget_network(database, network, chassis, deadline, kept=kept, remove=True)
        if removed:
            shared.leave(database, name, deadline)
        elif name:
            log.info("network %s stays on the hosts whose containers belong to it", name)

    def drop_network(self, network: NetworkId, chassis: Chassis, deadline: Deadline) -> None:
        """Delete the network as delete_network does, but one of the cluster is not removed elsewhere.

        Another host's stays. Raises Conflict if another host has attached to its switch, or has containers on
        it.
        """
        database = self._connect(chassis)
        stored = _stored(network, database.transact(*_look(network), deadline=deadline))
        if stored and HOST in stored.ids and not chassis.made(stored.ids[HOST], stored.ids.get(ENCAP, "")):
            return
        row = row_uuid("network", network)
        others = ["external_ids", "excludes", ovsdb.encode({NETWORK: network})]
        of_switch = has("external_ids", {**OURS, SWITCH: row})
        for rows in database.transact(
            ovsdb.select("Logical_Switch_Port", of_switch, others, columns=["external_ids"]),
            ovsdb.select(
                "DHCP_Options", of_switch, has("external_ids", NOTE), others, columns=["external_ids"]
            ),
            deadline=deadline,
        ):
            for ids in (other["external_ids"] for other in rows):
                raise Conflict(
                    f"network {network[:12]} stays: host {ids.get(HOST)} has attached to its switch"
                )
        (ports,) = database.transact(
            ovsdb.select("Logical_Switch_Port", of_switch, columns=["external_ids"]), deadline=deadline
        )
        for ids in (port["external_ids"] for port in ports):
            if HOST in ids and not chassis.made(ids[HOST], ids.get(ENCAP, "")):
                raise Conflict(f"network {network[:12]} stays: host {ids[HOST]} has containers on it")
        name, _ = self._forget_network(database, network, chassis, deadline)
        if name:
            shared.give_up(database, name, deadline)

    def _forget_network(
        self,
        database: Database,
        network: NetworkId,
        chassis: Chassis,
        deadline: Deadline,
        *,
        kept: bool = False,
        remove: bool = False,
    ) -> tuple[str, bool]:
        """Delete all that is this Docker network's alone.

        Returns its name in the cluster, if it has one, and whether it is now removed there.

        *remove*: from all hosts, if it can be. Rows that are another host's stay, unless all hosts' Dockers
        share the network: any host can write a network's ID into them.
        """
        ours = has("external_ids", {**OURS, NETWORK: network})
        of_host = has("external_ids", {**OURS, NETWORK: network, HOST: chassis.system_id})
        note = is_row(shared.note_row(network))
        try:
            stored = self._stored(database, network, deadline)
        except NotFound:  # someone typed ls-del: claims are no part of the switch
            database.transact(
                ovsdb.delete("DHCP_Options", of_host),
                ovsdb.delete("DHCP_Options", note, ours),
                deadline=deadline,
            )
            return "", False
        if KEPT in stored.ids and not kept:
            return "", False
        alone = of_host if HOST in stored.ids else ours
        rested = has("external_ids", {STATE: "released"})
        ports, names, leases = database.transact(
            ovsdb.select("Logical_Switch_Port", alone, columns=["_uuid"]),
            ovsdb.select("DNS", alone, columns=["_uuid"]),
            ovsdb.select("DHCP_Options", ours, rested, columns=["_uuid", "cidr"]),
            deadline=deadline,
        )
        left = [Reference(port["_uuid"]) for port in ports]
        operations = [
            ovsdb.mutate("Logical_Switch", is_row(stored.switch), mutations=[["ports", "delete", left]]),
            ovsdb.delete("DHCP_Options", alone),
            ovsdb.delete("DHCP_Options", note, ours),
            *(
                ovsdb.delete("DHCP_Options", is_row(lease_row(stored.switch, lease["cidr"])), ours, rested)
                for lease in leases
                if lease["_uuid"] == lease_row(stored.switch, lease["cidr"])
            ),
            *dns.forget(stored.switch, [row["_uuid"] for row in names]),
            *allowed_claims.forget(stored.switch if stored.switch == row_uuid("network", network) else ""),
            ovsdb.delete("Logical_Switch", is_row(stored.switch), ours),
        ]
        if remove and stored.name:
            for removed, more in (
                (True, shared.removal(stored.name, stored.ids, chassis, deadline)),
                (False, shared.departure(stored.name, stored.ids, chassis)),
            ):
                try:
                    database.transact(*operations, *more, deadline=deadline)
                except OperationError as error:
                    if error.error not in {"timed out", "duplicate uuid"}:
                        raise
                else:
                    return stored.name, removed
        database.transact(*operations, deadline=deadline)
        return stored.name, False

    def create_endpoint(self, endpoint: Endpoint, chassis: Chassis, deadline: Deadline) -> Attachment:
        """Make the endpoint's logical switch port and claim its addresses: all or nothing.

        A claim is a row whose UUID follows from switch and address, so that of two hosts that want
        the same one the database itself refuses the second.
        Raises NotFound without the network, AddressInUse if an address or the MAC is taken.
        """
        database = self._connect(chassis)
        look = _look(endpoint.network)
        supposed = _Stored(row_uuid("network", endpoint.network), {})  # most have a switch of their own
        if endpoint.allowed or endpoint.port_security is not None:
            supposed = self._stored(database, endpoint.network, deadline)
        while True:
            wanted = _opened(endpoint, supposed)
            operations = [*look, *_making_port(wanted, supposed, chassis)]
            operations += self._claiming_allowed(database, wanted, supposed, chassis, deadline)
            try:
                found = database.transact(*operations, deadline=deadline)
            except OperationError as error:
                found = error.before
                if error.index == len(look):  # there is no such switch, or its ports are not as usual
                    stored = _stored(endpoint.network, found)
                    if stored is None or stored == supposed:
                        raise _gone(endpoint.network, database) from None
                    supposed = stored
                    continue
                if error.error == "timed out":
                    continue  # another host has changed the claim of an allowed address
                if error.error != "duplicate uuid":
                    raise
                refused = operations[error.index]
                if refused["table"] == "DHCP_Options":
                    if not allowed_claims.is_allowed(ovsdb.decode(refused["row"]["external_ids"])):
                        self._release_orphan(database, refused["uuid"], refused["row"]["cidr"], deadline)
                    continue
                self._check_same(database, wanted, deadline)
            stored = _stored(endpoint.network, found) or supposed
            return Attachment(
                endpoint.id,
                mtu=stored.mtu,
                resolver=stored.resolver,
                any_router=stored.any_router,
                record=records.of_port(operations).text,
            )

    def _claiming_allowed(
        self, database: Database, endpoint: Endpoint, stored: _Stored, chassis: Chassis, deadline: Deadline
    ) -> list[Operation]:
        """Operations that claim what the endpoint may use besides its own addresses.

        Raises BadRequest for what no container may use, AddressInUse for what another one has.
        """
        if not endpoint.allowed:
            return []
        check_allowed(endpoint.allowed, allowed_claims.gateways(stored.ids))
        addresses = [one.ip for one in endpoint.addresses]
        own = [endpoint.mac or "", *map(str, addresses)]
        for one in stored.allowed:
            if one.mac == endpoint.mac or any(address in one.address for address in addresses):
                raise BadRequest(
                    f"allowed address {one} of the network is no container's own; choose another with --ip "
                    "or --mac-address, or create the network with an --ip-range without it"
                )
        subnets = [*allowed_claims.subnets(stored.ids), *(one.network for one in endpoint.addresses)]
        wanted = allowed_claims.to_claim(endpoint.allowed, own, subnets)

        def check(row: str, what: str) -> None:
            self._release_orphan(database, row, what, deadline, asked=True)

        return allowed_claims.claim(database, endpoint.id, stored.switch, wanted, chassis, deadline, check)

    def delete_endpoint(self, endpoint: EndpointId, chassis: Chassis, deadline: Deadline) -> bool:
        """Delete the endpoint's port and give its addresses back; idempotent.

        Returns False if its port or its names are not there, though they may have been: then claims may be
        left, which nothing leads to.
        """
        whole = True
        database = self._connect(chassis)
        row = row_uuid("endpoint", endpoint)
        ports, records = database.transact(
            ovsdb.select("Logical_Switch_Port", is_row(row), columns=["addresses", "external_ids"]),
            ovsdb.select("DNS", is_row(dns.names_row(endpoint)), columns=["records"]),
            deadline=deadline,
        )
        if not ports:
            left = is_row(dns.names_row(endpoint)), has("external_ids", OURS)
            database.transact(ovsdb.delete("DNS", *left), deadline=deadline)
        for port in ports:
            switch = port["external_ids"].get(SWITCH, "")
            on_it = is_row(switch) if is_uuid(switch) else ["ports", "includes", ["uuid", row]]
            names = [dns.names_row(endpoint)] if NAME in port["external_ids"] else []
            mine = has("external_ids", {ENDPOINT: endpoint})
            database.transact(
                ovsdb.mutate("Logical_Switch", on_it, mutations=[["ports", "delete", [Reference(row)]]]),
                *(dns.forget(switch, names) if names else ()),
                *dns.release(endpoint, switch, (one["records"] for one in records)),
                *(
                    ovsdb.delete("DHCP_Options", is_row(claim_row(switch, what)), mine)
                    for what in _text(port["addresses"]).split()[:_ADDRESSES]
                ),
                *allowed_claims.release(endpoint, switch, allowed_claims.stored(port["external_ids"])),
                deadline=deadline,
            )
            whole = bool(records) or not {NAME, CONTAINER} <= port["external_ids"].keys()
        return whole and bool(ports)

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:  # noqa: ARG002 - nothing to wait for
        """A switch port forwards when ovn-controller says so, in the host's own database."""
        return ""

    def endpoints(self, chassis: Chassis, deadline: Deadline) -> list[StoredEndpoint]:
        """Every endpoint of this host. A search through the whole table: not while Docker waits."""
        of_host = has("external_ids", {**OURS, HOST: chassis.system_id})
        (rows,) = self._connect(chassis).transact(
            ovsdb.select("Logical_Switch_Port", of_host, columns=["_uuid", "external_ids", "up"]),
            deadline=deadline,
        )
        stored = (
            stored_endpoint(row["external_ids"], up=row["up"] is True)
            for row in rows
            if row["_uuid"] == row_uuid("endpoint", row["external_ids"].get(ENDPOINT, ""))
        )
        return [one for one in stored if chassis.made(one.host, one.encap)]

    def _stored(self, database: Database, network: NetworkId, deadline: Deadline) -> _Stored:
        stored = _stored(network, database.transact(*_look(network), deadline=deadline))
        if stored is None:
            raise _gone(network, database)
        return stored

    def _release_orphan(
        self, database: Database, row: str, what: str, deadline: Deadline, *, asked: bool = False
    ) -> None:
        """Delete the claim of *what* if its port is gone (by lsp-del).

        *asked*: it is wanted as an allowed address.
        Raises AddressInUse if it is not, Conflict if the row does not say that it is ours.
        """
        (found,) = database.transact(
            ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]), deadline=deadline
        )
        if not found:
            return
        ids = found[0]["external_ids"]
        unchanged = ["external_ids", "==", ovsdb.encode(ids)]
        if allowed_claims.is_allowed(ids):
            if holder := allowed_claims.alive(database, ids, deadline):
                raise AddressInUse(what, holder, allowed=True)
            database.transact(ovsdb.delete("DHCP_Options", is_row(row), unchanged), deadline=deadline)
            return
        id_ = ids.get(ENDPOINT, "")
        port = is_row(row_uuid("endpoint", id_))
        (alive,) = database.transact(
            ovsdb.select("Logical_Switch_Port", port, columns=["external_ids", "up"]), deadline=deadline
        )
        if alive:  # the port says whose it is: a claim can say that anybody's endpoint has an address
            of_port = {**alive[0]["external_ids"], ENDPOINT: id_}
            raise AddressInUse(what, stored_endpoint(of_port, up=alive[0]["up"] is True), asked=asked)
        if not OURS.items() <= ids.items():
            raise Conflict(
                f"address {what} is claimed by a row whose external_ids somebody has changed; if no "
                f"container has it, delete that with: ovn-nbctl dhcp-options-del {row}"
            )
        database.transact(ovsdb.delete("DHCP_Options", is_row(row), unchanged), deadline=deadline)

    def _check_same(self, database: Database, endpoint: Endpoint, deadline: Deadline) -> None:
        """The port is there already. Raises Conflict unless it is the one that was asked for."""
        row = row_uuid("endpoint", endpoint.id)
        (ports,) = database.transact(
            ovsdb.select("Logical_Switch_Port", is_row(row), columns=["addresses"]), deadline=deadline
        )
        wanted = " ".join(_port_columns(endpoint)["addresses"])
        if ports and _text(ports[0]["addresses"]) != wanted:
            raise Conflict(
                f"endpoint {endpoint.id[:12]} is in the northbound database with the addresses "
                f"{_text(ports[0]['addresses'])!r}, asked for was {wanted!r}"
            )


def _look(network: NetworkId) -> list[Operation]:
    """What has to be read to know a network."""
    own, attached = row_uuid("network", network), shared.note_row(network)
    return [
        ovsdb.select("Logical_Switch", is_row(own), columns=["external_ids"]),
        ovsdb.select("DHCP_Options", is_row(attached), columns=["external_ids"]),
    ]


def _stored(network: NetworkId, found: list[Any]) -> _Stored | None:
    """The network, by the results of _look(); None if there is none."""
    own, (switches, notes, *_) = row_uuid("network", network), found
    for row in switches:
        return _Stored(own, row["external_ids"])
    for row in notes:
        switch = row["external_ids"].get(SWITCH, own)
        return _Stored(switch, row["external_ids"]) if is_uuid(switch) else None
    return None


def _opened(endpoint: Endpoint, stored: _Stored) -> Endpoint:
    """The endpoint with what its network allows besides."""
    security = stored.port_security if endpoint.port_security is None else endpoint.port_security
    allowed = tuple(sorted({*endpoint.allowed, *stored.allowed})) if security else ()
    return replace(endpoint, allowed=allowed, port_security=security)


def _making_port(endpoint: Endpoint, stored: _Stored, chassis: Chassis) -> list[Operation]:
    """Operations that make the endpoint's port and claim its addresses; the first one is that it may."""
    ids = {
        **OURS,
        **host_ids(chassis),
        NETWORK: endpoint.network,
        ENDPOINT: endpoint.id,
        SWITCH: stored.switch,
        **made_now(),
    }
    if stored.name:
        ids[NAME] = stored.name
    claim_ids = {**ids}
    ids |= _security_ids(endpoint.allowed, endpoint.port_security is not False)
    usual = [["external_ids", "excludes", ovsdb.encode({PORT_SECURITY: what})] for what in ("off", "wider")]
    port, switch = row_uuid("endpoint", endpoint.id), is_row(stored.switch)
    claims = _claims(endpoint, stored.switch)
    return [
        require("Logical_Switch", stored.switch, *([] if stored.ids else usual)),
        ovsdb.insert("Logical_Switch_Port", port, external_ids=ids, **_port_columns(endpoint)),
        ovsdb.mutate("Logical_Switch", switch, mutations=[["ports", "insert", [Reference(port)]]]),
        *(
            ovsdb.insert("DHCP_Options", row, cidr=what, external_ids=claim_ids)
            for row, what in claims.items()
        ),
    ]


def network_record(network: Network, pools: Mapping[str, Mapping[str, str]]) -> NetworkRecord:
    """The record of a network's rows; *pools*: external_ids of its pools by their IDs."""
    return NetworkRecord(
        _network_ids(network),
        network.options.name or "",
        network.options.switch or "",
        {pool: records.lasting(ids) for pool, ids in pools.items()},
    )


def port_record(endpoint: Endpoint, switch: str, name: str) -> PortRecord:
    """The record of an endpoint on a logical switch; *name*: see northbound.NAME."""
    nobody = Chassis("")
    return records.of_port(_making_port(endpoint, _Stored(switch, {NAME: name}), nobody))


def _security_ids(allowed: tuple[Allowed, ...], security: bool) -> dict[str, str]:  # noqa: FBT001
    """external_ids of a row for port security that is not the usual one."""
    if not security:
        return {PORT_SECURITY: "off"}
    return {PORT_SECURITY: "wider", ALLOWED: join(allowed)} if allowed else {}


def _network_ids(network: Network) -> dict[str, str]:
    ids = {**OURS, NETWORK: network.id}
    for subnet in network.subnets:
        # The first driver's names for IPv4; IPv6 follows them.
        version = "" if subnet.pool.version == 4 else "6"
        ids[f"subnet{version}"] = str(subnet.pool)
        if subnet.gateway is not None:
            ids[f"gateway_ip{version}"] = str(subnet.gateway)
    if network.internal:
        ids["ovn-docker:internal"] = "true"
    if network.options.mtu is not None:
        ids[MTU] = str(network.options.mtu)
    if network.options.any_router:
        ids[ROUTERS] = "any"
    return ids | _security_ids(network.options.allowed, network.options.port_security)


def users_switch(database: Database, wanted: str, subnets: Iterable[Subnet], deadline: Deadline) -> str:
    """UUID of the user's logical switch, by its name or UUID. Raises BadRequest or Conflict."""
    columns = ["_uuid", "name", "external_ids", "other_config"]
    (rows,) = database.transact(
        ovsdb.select("Logical_Switch", ["name", "==", wanted], columns=columns), deadline=deadline
    )
    if not rows:
        with contextlib.suppress(OperationError):  # it is no UUID either
            (rows,) = database.transact(
                ovsdb.select("Logical_Switch", is_row(wanted), columns=columns), deadline=deadline
            )
    if not rows:
        raise BadRequest(
            f"no logical switch {wanted!r}: make it with: ovn-nbctl ls-add {wanted}, or leave ovn.switch out"
        )
    if len(rows) > 1:
        raise BadRequest(
            f"{len(rows)} logical switches are named {wanted!r}: give the UUID of one, see: ovn-nbctl ls-list"
        )
    for subnet in subnets:
        theirs = _subnet_of(rows[0], subnet.pool.version)
        if theirs and theirs != str(subnet.pool):
            raise Conflict(
                f"logical switch {wanted} has the subnet {theirs}, asked for was {subnet.pool}; "
                f"create the network with --subnet {theirs}"
            )
    return str(rows[0]["_uuid"])


def _subnet_of(switch: Row, version: int) -> str:
    """What is known of the subnet of a switch: written by us, or for OVN's own address management."""
    if version == 6:
        return str(switch["external_ids"].get("subnet6", ""))
    subnet = switch["external_ids"].get("subnet") or switch["other_config"].get("subnet", "")
    with contextlib.suppress(ValueError):
        return str(ip_network(subnet))
    return ""


def _port_columns(endpoint: Endpoint) -> dict[str, Any]:
    """Port security repeats the addresses: only these and the allowed ones may be sent from the port.

    A MAC that several ports may have belongs to none: frames for it go to all of them (ovn-nb(5), "unknown").
    An address that is allowed with a MAC is so with the container's own MAC, too: the kernel sends from the
    virtual address by the interface that the route names (keepalived.conf(5), "use_vmac").
    """
    mac, own = endpoint.mac or "", [str(address.ip) for address in endpoint.addresses]
    of_mac = {mac: list(own)}
    for one in endpoint.allowed:
        for key in {one.mac or mac: None, mac: None}:
            words = of_mac.setdefault(key, list(own))
            words += [] if one.target in words else [one.target]
    addresses = [" ".join([mac, *own])]
    if len(of_mac) > 1 or endpoint.port_security is False:
        addresses.append("unknown")
    security = [" ".join([key, *words]) for key, words in of_mac.items()]
    return {
        "name": endpoint.id,
        "addresses": addresses,
        "port_security": [] if endpoint.port_security is False else security,
    }


def _claims(endpoint: Endpoint, switch: str) -> dict[str, str]:
    """Rows that stand for the endpoint's addresses and MAC on a switch: UUID to what is claimed.

    The addresses come first: if both are taken, it is the address that the user knows.
    """
    addresses = [str(address.ip) for address in endpoint.addresses]
    return {claim_row(switch, what): what for what in (*addresses, *filter(None, [endpoint.mac]))}


def _text(column: Any) -> str:
    """A set column that holds one string comes as that string, an empty one as a list."""
    return column if isinstance(column, str) else " ".join(column)


def _gone(network: NetworkId, database: Database) -> NotFound:
    return NotFound(
        f"network {network[:12]} is not in the northbound database at {','.join(database.remotes)}: it was "
        "deleted there or made with another one; remove it with docker network rm and create it again"
    )
