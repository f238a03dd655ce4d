"""Endpoints as logical switch ports, each with the claims of its addresses.

A claim is a row whose UUID follows from switch and address, so that of two hosts that want the same address
the database itself refuses the second.
"""

from dataclasses import replace

from ovn_docker.backends.ovn import allowed_claims, port_groups
from ovn_docker.backends.ovn.networks.network_rows import (
    DescribedNetwork,
    network_in,
    network_not_found,
    read_network,
    select_network,
)
from ovn_docker.backends.ovn.records import make_port, port_columns, record_of
from ovn_docker.backends.ovn.rows import (
    CONTAINER,
    ENDPOINT,
    NAME,
    OURS,
    PORT_SECURITY,
    SWITCH,
    claim_row,
    names_row,
    of_host,
    stored_endpoint,
)
from ovn_docker.backends.ovn.shared import container_names
from ovn_docker.deadline import Deadline
from ovn_docker.errors import AddressInUse, AllowedToAll, Conflict
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import (
    ConditionFailed,
    Database,
    DuplicateRow,
    Operation,
    OperationError,
    Reference,
    has,
    is_row,
    is_uuid,
    require,
)
from ovn_docker.model import (
    Attachment,
    Chassis,
    Endpoint,
    EndpointId,
    StoredEndpoint,
    check_allowed,
    row_uuid,
)

_ADDRESSES = 16
"""Largest number of a port's addresses whose claims are deleted with it: more than an endpoint has."""


def create_port(database: Database, endpoint: Endpoint, chassis: Chassis, deadline: Deadline) -> Attachment:
    """Make the endpoint's logical switch port and claim its addresses: all or nothing.

    Raises NotFound without the network, AddressInUse if an address or the MAC is taken.
    """
    selects = select_network(endpoint.network)
    supposed = DescribedNetwork(row_uuid("network", endpoint.network), {})  # most have a switch of their own
    if endpoint.allowed or endpoint.groups or endpoint.port_security is not None:
        supposed = read_network(database, endpoint.network, deadline)
    while True:
        wanted = _opened(endpoint, supposed)
        operations = [*selects, *_making_port(wanted, supposed, chassis)]
        operations += _claiming_allowed(database, wanted, supposed, chassis, deadline)
        operations += port_groups.join(database, supposed.switch, wanted.groups, wanted.id, deadline)
        try:
            found = database.transact(*operations, deadline=deadline)
        except OperationError as error:
            found = error.before
            if error.index == len(selects):  # no such switch, or its port security is not the usual one
                stored = network_in(endpoint.network, found)
                if stored is None or stored == supposed:
                    raise network_not_found(endpoint.network, database) from None
                supposed = stored
                continue
            if isinstance(error, ConditionFailed):
                continue  # another host has changed the claim of an allowed address, or deleted a group
            if not isinstance(error, DuplicateRow):
                raise
            refused = operations[error.index]
            if refused["table"] != "Logical_Switch_Port":
                _settle(database, refused, deadline)
                continue
            _check_same(database, wanted, deadline)
        stored = network_in(endpoint.network, found) or supposed
        return Attachment(
            endpoint.id,
            mtu=stored.mtu,
            resolver=stored.resolver,
            any_router=stored.any_router,
            record=record_of(operations).text,
        )


def _settle(database: Database, refused: Operation, deadline: Deadline) -> None:
    """Prepare another attempt at a row that exists: another host's group, or the claim of an address.

    Raises AddressInUse, Conflict.
    """
    claim = refused["table"] == "DHCP_Options"
    if claim and not allowed_claims.is_allowed(ovsdb.decode(refused["row"]["external_ids"])):
        _release_orphan(database, refused["uuid"], refused["row"]["cidr"], deadline)


def _claiming_allowed(
    database: Database,
    endpoint: Endpoint,
    stored: DescribedNetwork,
    chassis: Chassis,
    deadline: Deadline,
) -> list[Operation]:
    """Return operations that claim the addresses an endpoint may use besides its own.

    Raises BadRequest for addresses that no container may use, AddressInUse for another container's own.
    """
    if not endpoint.allowed:
        return []
    check_allowed(endpoint.allowed, allowed_claims.gateways(stored.ids))
    addresses = [one.ip for one in endpoint.addresses]
    own = [endpoint.mac or "", *map(str, addresses)]
    for one in stored.allowed:
        if one.mac == endpoint.mac or any(address in one.address for address in addresses):
            raise AllowedToAll(one)
    subnets = [*allowed_claims.subnets(stored.ids), *(one.network for one in endpoint.addresses)]
    wanted = allowed_claims.to_claim(endpoint.allowed, own, subnets)

    def check(row: str, what: str) -> None:
        _release_orphan(database, row, what, deadline, asked=True)

    return allowed_claims.claim(database, endpoint.id, stored.switch, wanted, chassis, deadline, check)


def delete_port(database: Database, endpoint: EndpointId, deadline: Deadline) -> bool:
    """Delete the endpoint's port and release its addresses.

    Returns False if its port or its names are not there, though they may have been: then claims may be
    left that no row leads to.
    """
    while True:
        try:
            return _delete_port(database, endpoint, deadline)
        except ConditionFailed:
            deadline.check(f"the names of endpoint {endpoint[:12]}, which keep changing")


def _delete_port(database: Database, endpoint: EndpointId, deadline: Deadline) -> bool:
    """Carry out delete_port() once. Raises ConditionFailed if names have been written since they were read.

    Names are registered outside of Docker's calls: a container that ends at once is deleted meanwhile.
    """
    whole = True
    row = row_uuid("endpoint", endpoint)
    ports, records = database.transact(
        ovsdb.select("Logical_Switch_Port", is_row(row), columns=["addresses", "external_ids"]),
        ovsdb.select("DNS", is_row(names_row(endpoint)), columns=["records"]),
        deadline=deadline,
    )
    if not ports:
        left = is_row(names_row(endpoint)), has("external_ids", OURS)
        database.transact(ovsdb.delete("DNS", *left), deadline=deadline)
    for port in ports:
        switch = port.map("external_ids").get(SWITCH, "")
        on_it = is_row(switch) if is_uuid(switch) else ["ports", "includes", ["uuid", row]]
        names = [names_row(endpoint)] if NAME in port.map("external_ids") else []
        of_endpoint = has("external_ids", {ENDPOINT: endpoint})
        groups = port_groups.stored(port.map("external_ids"))
        database.transact(
            *(container_names.require_unchanged(endpoint, records) if names else ()),
            ovsdb.mutate("Logical_Switch", on_it, mutations=[["ports", "delete", [Reference(row)]]]),
            *(container_names.delete_names(switch, names) if names else ()),
            *container_names.release(endpoint, switch, (one.map("records") for one in records)),
            *(
                ovsdb.delete("DHCP_Options", is_row(claim_row(switch, what)), of_endpoint)
                for what in " ".join(port.members("addresses")).split()[:_ADDRESSES]
            ),
            *allowed_claims.release(endpoint, switch, allowed_claims.stored(port.map("external_ids"))),
            *port_groups.leave(switch, groups, endpoint),
            deadline=deadline,
        )
        whole = bool(records) or not {NAME, CONTAINER} <= port.map("external_ids").keys()
    return whole and bool(ports)


def ports_of_host(database: Database, chassis: Chassis, deadline: Deadline) -> list[StoredEndpoint]:
    """Return every endpoint of this host. Searches the whole table: not while Docker waits."""
    own = of_host(chassis.system_id)
    (rows,) = database.transact(
        ovsdb.select("Logical_Switch_Port", own, columns=["_uuid", "external_ids", "up"]),
        deadline=deadline,
    )
    stored = (
        stored_endpoint(row.map("external_ids"), up=row.optional("up", bool) is True)
        for row in rows
        if row.uuid == row_uuid("endpoint", row.map("external_ids").get(ENDPOINT, ""))
    )
    return [one for one in stored if chassis.made(one.host, one.encap)]


def _release_orphan(
    database: Database, row: str, what: str, deadline: Deadline, *, asked: bool = False
) -> None:
    """Delete the claim of *what* if its port is gone, such as by ``ovn-nbctl lsp-del``.

    *asked*: *what* is wanted as an allowed address.
    Raises AddressInUse if the port exists, Conflict if the row is not marked as ours.
    """
    (found,) = database.transact(
        ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]), deadline=deadline
    )
    if not found:
        return
    ids = found[0].map("external_ids")
    unchanged = ["external_ids", "==", ovsdb.encode(ids)]
    if allowed_claims.is_allowed(ids):
        if holder := allowed_claims.alive(database, ids, deadline):
            raise AddressInUse(what, str(holder), holder=holder, allowed=True)
        database.transact(ovsdb.delete("DHCP_Options", is_row(row), unchanged), deadline=deadline)
        return
    id_ = ids.get(ENDPOINT, "")
    port = is_row(row_uuid("endpoint", id_))
    (alive,) = database.transact(
        ovsdb.select("Logical_Switch_Port", port, columns=["external_ids", "up"]), deadline=deadline
    )
    if alive:  # its port says which host has the endpoint: any host can write any endpoint into a claim
        of_port = {**alive[0].map("external_ids"), ENDPOINT: id_}
        holder = stored_endpoint(of_port, up=alive[0]["up"] is True)
        raise AddressInUse(what, str(holder), holder=holder, asked=asked)
    if not OURS.items() <= ids.items():
        raise Conflict(
            f"address {what} is claimed by a row whose external_ids were changed by hand; if no "
            f"container has the address, delete the row with: ovn-nbctl dhcp-options-del {row}"
        )
    database.transact(ovsdb.delete("DHCP_Options", is_row(row), unchanged), deadline=deadline)


def _check_same(database: Database, endpoint: Endpoint, deadline: Deadline) -> None:
    """Raise Conflict unless the port in the database is the one that was asked for."""
    row = row_uuid("endpoint", endpoint.id)
    (ports,) = database.transact(
        ovsdb.select("Logical_Switch_Port", is_row(row), columns=["addresses"]), deadline=deadline
    )
    wanted = " ".join(port_columns(endpoint)["addresses"])
    if ports and " ".join(ports[0].members("addresses")) != wanted:
        raise Conflict(
            f"endpoint {endpoint.id[:12]} is in the northbound database with the addresses "
            f"{' '.join(ports[0].members('addresses'))!r}, asked for was {wanted!r}"
        )


def _opened(endpoint: Endpoint, stored: DescribedNetwork) -> Endpoint:
    """Return the endpoint with the addresses and the port security that its network gives it."""
    security = stored.port_security if endpoint.port_security is None else endpoint.port_security
    allowed = tuple(sorted({*endpoint.allowed, *stored.allowed})) if security else ()
    return replace(endpoint, allowed=allowed, port_security=security)


def _making_port(endpoint: Endpoint, stored: DescribedNetwork, chassis: Chassis) -> list[Operation]:
    """Return make_port(), after the condition that the switch is as *stored*.

    Without external_ids in *stored* the condition is that its port security is the usual one.
    """
    usual = [["external_ids", "excludes", ovsdb.encode({PORT_SECURITY: what})] for what in ("off", "wider")]
    return [
        require("Logical_Switch", stored.switch, *([] if stored.ids else usual)),
        *make_port(endpoint, stored.switch, stored.domain, chassis),
    ]
