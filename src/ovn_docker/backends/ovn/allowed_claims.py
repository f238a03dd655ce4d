"""Claims of allowed addresses: rows that several ports of a logical switch hold together.

The row of an address has the same UUID as its claim as a container's own address (rows.py). So the database
itself refuses an address that is one container's own and allowed to another, in either order.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any

from ovn_docker import options
from ovn_docker.allowed import LARGEST, MOST, Allowed, join, parse
from ovn_docker.backends.ovn.rows import (
    ALLOWED,
    ALLOWED_CLAIMS,
    OURS,
    PORT_SECURITY,
    SWITCH,
    TYPE,
    claim_row,
    stored_endpoint,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import (
    ConditionFailed,
    Database,
    DuplicateRow,
    Operation,
    has,
    is_row,
    require,
)
from ovn_docker.model import (
    Chassis,
    EndpointId,
    IpAddress,
    IpNetwork,
    StoredEndpoint,
    check_allowed,
    row_uuid,
)

_HOLDER = "ovn-docker:allowed-to "
"""Prefix of a key for each endpoint that may use the address; the value is its host."""


def stored(ids: Mapping[str, str]) -> tuple[Allowed, ...]:
    """Return the allowed addresses in a row's external_ids; none for a value that no user can give."""
    try:
        return options.parse({options.ALLOWED: ids[ALLOWED]}).allowed if ALLOWED in ids else ()
    except BadRequest:
        return ()


def to_claim(
    allowed: Iterable[Allowed], own: Iterable[str] = (), subnets: Iterable[IpNetwork] = ()
) -> list[str]:
    """Return the addresses and MACs to claim for *allowed*, without the endpoint's *own*.

    Raises BadRequest if they are too many: a large part of one of the network's *subnets*.
    """
    found: dict[str, None] = {}
    for one in allowed:
        if one.mac:
            found[one.mac] = None
        if one.address.num_addresses <= LARGEST:
            found |= dict.fromkeys(map(str, one.address))
        elif any(net.version == one.version and net.overlaps(one.address) for net in subnets):
            raise BadRequest(
                f"allowed address {one} is too large a part of the network's subnet: allow at most {LARGEST} "
                f"addresses of it at once, or turn port security off with {options.PORT_SECURITY}=off"
            )
    if len(found) > MOST:
        raise BadRequest(f"{len(found)} allowed addresses are too many: give at most {MOST}")
    return [what for what in found if what not in {*own}]


def claim(
    database: Database,
    endpoint: EndpointId,
    switch: str,
    wanted: Iterable[str],
    chassis: Chassis,
    deadline: Deadline,
    check: Callable[[str, str], None],
) -> list[Operation]:
    """Return operations that claim addresses and MACs which other endpoints may have claimed as well.

    *check* is called with the row and the address if the address is a container's own; it raises
    AddressInUse, or deletes a row without a port. The operations fail if another host changes one of the rows
    meanwhile.
    """
    rows = {claim_row(switch, what): what for what in wanted}
    found = database.transact(
        *(ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]) for row in rows),
        deadline=deadline,
    )
    operations = []
    of_endpoint = holder(endpoint, chassis)
    for (row, what), there in zip(rows.items(), found, strict=True):
        together = any(is_allowed(one.map("external_ids")) for one in there)
        if there and not together:
            check(row, what)
        if together:
            operations += [
                require("DHCP_Options", row, ALLOWED_CLAIMS.where()),
                ovsdb.mutate(
                    "DHCP_Options", is_row(row), mutations=[["external_ids", "insert", of_endpoint]]
                ),
            ]
        else:
            operations.append(ALLOWED_CLAIMS.insert(row, {SWITCH: switch, **of_endpoint}, cidr=what))
    return operations


def holder(endpoint: EndpointId, chassis: Chassis) -> dict[str, str]:
    """Return the pair of external_ids by which an endpoint of this host may use a row's address."""
    return {f"{_HOLDER}{endpoint}": chassis.system_id}


def allow(
    database: Database, endpoint: EndpointId, addresses: Iterable[str], chassis: Chassis, deadline: Deadline
) -> None:
    """Let the port of an endpoint, if it has one, use more addresses with its own MAC.

    Raises BadRequest for addresses that no container may use, Conflict for another container's own.
    """
    try:
        wanted = parse(",".join(addresses))
    except ValueError as error:
        raise BadRequest(f"addresses {', '.join(addresses)[:80]!r} are not valid: give {error}") from None
    while True:
        try:
            return _allow(database, endpoint, wanted, chassis, deadline)
        except (DuplicateRow, ConditionFailed):
            deadline.check(f"addresses of endpoint {endpoint[:12]}, which other hosts keep changing")


def _allow(
    database: Database,
    endpoint: EndpointId,
    wanted: tuple[Allowed, ...],
    chassis: Chassis,
    deadline: Deadline,
) -> None:
    """Carry out allow() once. Raises OperationError if rows that were read have changed meanwhile."""
    port = row_uuid("endpoint", endpoint)
    columns = ["addresses", "port_security", "external_ids"]
    (ports,) = database.transact(
        ovsdb.select("Logical_Switch_Port", is_row(port), has("external_ids", OURS), columns=columns),
        deadline=deadline,
    )
    if not ports:
        return
    ids, security = ports[0].map("external_ids"), ports[0].members("port_security")
    more = [one for one in wanted if one not in stored(ids)]
    mac, *own = " ".join(ports[0].members("addresses")).split() or [""]
    if not more or not security:
        return
    switch = ids.get(SWITCH, "")
    (switches,) = database.transact(
        ovsdb.select("Logical_Switch", is_row(switch), columns=["external_ids"]), deadline=deadline
    )
    described = switches[0].map("external_ids") if switches else {}
    check_allowed(more, gateways(described))

    def check(_: str, what: str) -> None:
        raise Conflict(f"address {what} is another container's own on this network")

    claims = to_claim(more, [mac, *own], subnets(described))
    allowed = {PORT_SECURITY: "wider", ALLOWED: join(sorted({*stored(ids), *more}))}
    added = " ".join(one.target for one in more)
    wider = [f"{rule} {added}" if rule.split()[:1] == [mac] else rule for rule in security]
    unchanged = [[column, "==", ovsdb.encode(ports[0][column])] for column in columns]
    database.transact(
        require("Logical_Switch_Port", port, *unchanged),
        *claim(database, endpoint, switch, claims, chassis, deadline, check),
        ovsdb.update(
            "Logical_Switch_Port", is_row(port), port_security=wider, external_ids={**ids, **allowed}
        ),
        deadline=deadline,
    )


def release(endpoint: EndpointId, switch: str, allowed: Iterable[Allowed]) -> list[Operation]:
    """Return operations that release claims, and delete the rows that no endpoint holds any more."""
    operations = []
    try:
        wanted = to_claim(allowed)
    except BadRequest:  # so many cannot have been claimed
        wanted = []
    for row in (claim_row(switch, what) for what in wanted):
        let_go: list[list[Any]] = [
            ["external_ids", "delete", [f"{_HOLDER}{endpoint}"]],
            ["external_ids", "insert", {TYPE: ALLOWED_CLAIMS.name}],  # a row of an earlier version lacks this
        ]
        unheld = ["external_ids", "==", ovsdb.encode(ALLOWED_CLAIMS.ids({SWITCH: switch}))]
        operations += [
            ovsdb.mutate("DHCP_Options", is_row(row), ALLOWED_CLAIMS.where(), mutations=let_go),
            ovsdb.delete("DHCP_Options", is_row(row), unheld),
        ]
    return operations


def delete_all(switch: str) -> list[Operation]:
    """Return operations that delete all claims of allowed addresses on a switch; none without a *switch*."""
    if not switch:
        return []
    return [ovsdb.delete("DHCP_Options", ALLOWED_CLAIMS.where({SWITCH: switch}))]


def is_allowed(ids: Mapping[str, str]) -> bool:
    """Return whether a row's external_ids are those of the claim of an allowed address."""
    return ALLOWED_CLAIMS.marks.items() <= ids.items()


def holders(ids: Mapping[str, str]) -> list[EndpointId]:
    """Return the endpoints to which a row's address is allowed, without malformed IDs."""
    keys = (key.removeprefix(_HOLDER) for key in ids if key.startswith(_HOLDER))
    return [EndpointId(key) for key in keys if key.isalnum() and len(key) <= 64]


def alive(database: Database, ids: Mapping[str, str], deadline: Deadline) -> StoredEndpoint | None:
    """Return a holder that has a port, as its port describes it; ``None`` without one."""
    ports = database.transact(
        *(
            ovsdb.select(
                "Logical_Switch_Port", is_row(row_uuid("endpoint", one)), columns=["external_ids", "up"]
            )
            for one in holders(ids)
        ),
        deadline=deadline,
    )
    for rows in ports:
        for port in rows:
            return stored_endpoint(port.map("external_ids"), up=port.optional("up", bool) is True)
    return None


def gateways(ids: Mapping[str, str]) -> list[IpAddress]:
    """Return the gateways of the network that a row describes, without malformed addresses."""
    found = []
    for key in ("gateway_ip", "gateway_ip6"):
        with suppress(ValueError):
            found.append(ip_address(ids.get(key, "")))
    return found


def subnets(ids: Mapping[str, str]) -> list[IpNetwork]:
    """Return the subnets of the network that a row describes, without malformed ones."""
    found = []
    for key in ("subnet", "subnet6"):
        with suppress(ValueError):
            found.append(ip_network(ids.get(key, ""), strict=False))
    return found
