"""Claims of allowed addresses: rows that several ports of a logical switch hold together.

The row of an address has the UUID that its claim has as a container's own address (northbound.py). So the
database itself refuses an address that is one container's own and allowed to another, whoever comes first.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network

from ovn_docker import options
from ovn_docker.allowed import LARGEST, MOST, Allowed, join, parse
from ovn_docker.backends.northbound import (
    ALLOWED,
    OURS,
    PORT_SECURITY,
    SWITCH,
    claim_row,
    stored_endpoint,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Operation, OperationError, has, is_row, require
from ovn_docker.model import (
    Chassis,
    EndpointId,
    IpAddress,
    IpNetwork,
    StoredEndpoint,
    check_allowed,
    row_uuid,
)

KIND = {"ovn-docker:allowed": "true"}
"""On the rows: they are no container's own claims."""

_HOLDER = "ovn-docker:allowed-to "
"""Their external_ids have a key of this prefix for each endpoint that may use the address: its host."""


def stored(ids: Mapping[str, str]) -> tuple[Allowed, ...]:
    """The allowed addresses that a row's external_ids have; none if no user can have given them."""
    try:
        return options.parse({options.ALLOWED: ids[ALLOWED]}).allowed if ALLOWED in ids else ()
    except BadRequest:
        return ()


def to_claim(
    allowed: Iterable[Allowed], own: Iterable[str] = (), subnets: Iterable[IpNetwork] = ()
) -> list[str]:
    """Addresses and MACs that are claimed for *allowed*, without the *own* ones of the endpoint.

    Raises BadRequest if a part of the network's *subnets* is too large for that.
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
    """Operations that claim addresses and MACs together with other endpoints.

    *check*: called with the row and the address where it is a container's own; it raises AddressInUse, or
    deletes a row without a port. The operations fail if another host changes one of the rows meanwhile.
    """
    rows = {claim_row(switch, what): what for what in wanted}
    found = database.transact(
        *(ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]) for row in rows),
        deadline=deadline,
    )
    operations = []
    mine = holder(endpoint, chassis)
    for (row, what), there in zip(rows.items(), found, strict=True):
        together = any(is_allowed(one["external_ids"]) for one in there)
        if there and not together:
            check(row, what)
        if together:
            operations += [
                require("DHCP_Options", row, has("external_ids", KIND)),
                ovsdb.mutate("DHCP_Options", is_row(row), mutations=[["external_ids", "insert", mine]]),
            ]
        else:
            ids = {**_ids(switch), **mine}
            operations.append(ovsdb.insert("DHCP_Options", row, cidr=what, external_ids=ids))
    return operations


def holder(endpoint: EndpointId, chassis: Chassis) -> dict[str, str]:
    """Pair of external_ids by which an endpoint of this host may use a row's address."""
    return {f"{_HOLDER}{endpoint}": chassis.system_id}


def allow(
    database: Database, endpoint: EndpointId, addresses: Iterable[str], chassis: Chassis, deadline: Deadline
) -> None:
    """Let the port of an endpoint, if it has one, use more addresses with its own MAC.

    Raises BadRequest for what no container may use, Conflict for what another one has.
    """
    try:
        wanted = parse(",".join(addresses))
    except ValueError as error:
        raise BadRequest(f"addresses {', '.join(addresses)[:80]!r} are not valid: give {error}") from None
    while True:
        try:
            return _allow(database, endpoint, wanted, chassis, deadline)
        except OperationError as error:
            if error.error not in {"duplicate uuid", "timed out"}:
                raise
            deadline.check(f"addresses of endpoint {endpoint[:12]}, which others change all the time")


def _allow(
    database: Database,
    endpoint: EndpointId,
    wanted: tuple[Allowed, ...],
    chassis: Chassis,
    deadline: Deadline,
) -> None:
    """Raises OperationError if what was read has changed meanwhile."""
    port = row_uuid("endpoint", endpoint)
    columns = ["addresses", "port_security", "external_ids"]
    (ports,) = database.transact(
        ovsdb.select("Logical_Switch_Port", is_row(port), has("external_ids", OURS), columns=columns),
        deadline=deadline,
    )
    if not ports:
        return
    ids, security = ports[0]["external_ids"], ovsdb.members(ports[0]["port_security"])
    more = [one for one in wanted if one not in stored(ids)]
    mac, *own = " ".join(ovsdb.members(ports[0]["addresses"])).split() or [""]
    if not more or not security:
        return
    switch = ids.get(SWITCH, "")
    (switches,) = database.transact(
        ovsdb.select("Logical_Switch", is_row(switch), columns=["external_ids"]), deadline=deadline
    )
    described = switches[0]["external_ids"] if switches else {}
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
    """Operations that give claims back; the last endpoint's take the rows along."""
    operations = []
    try:
        wanted = to_claim(allowed)
    except BadRequest:  # nobody can have claimed so many
        wanted = []
    for row in (claim_row(switch, what) for what in wanted):
        mine = [["external_ids", "delete", [f"{_HOLDER}{endpoint}"]]]
        nobody = ["external_ids", "==", ovsdb.encode(_ids(switch))]
        operations += [
            ovsdb.mutate("DHCP_Options", is_row(row), has("external_ids", KIND), mutations=mine),
            ovsdb.delete("DHCP_Options", is_row(row), nobody),
        ]
    return operations


def forget(switch: str) -> list[Operation]:
    """Operations that delete all claims of allowed addresses on a switch, which goes; "" is none."""
    if not switch:
        return []
    return [ovsdb.delete("DHCP_Options", has("external_ids", {**OURS, **KIND, SWITCH: switch}))]


def is_allowed(ids: Mapping[str, str]) -> bool:
    """Whether a row is the claim of an allowed address."""
    return KIND.items() <= ids.items()


def holders(ids: Mapping[str, str]) -> list[EndpointId]:
    """The endpoints to which a row's address is allowed, as far as it can be believed."""
    keys = (key.removeprefix(_HOLDER) for key in ids if key.startswith(_HOLDER))
    return [EndpointId(key) for key in keys if key.isalnum() and len(key) <= 64]


def alive(database: Database, ids: Mapping[str, str], deadline: Deadline) -> StoredEndpoint | None:
    """One of the holders that has a port, by what the port says."""
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
            return stored_endpoint(port["external_ids"], up=port["up"] is True)
    return None


def gateways(ids: Mapping[str, str]) -> list[IpAddress]:
    """Gateways of the network that a row describes, as far as they are addresses."""
    found = []
    for key in ("gateway_ip", "gateway_ip6"):
        with suppress(ValueError):
            found.append(ip_address(ids.get(key, "")))
    return found


def subnets(ids: Mapping[str, str]) -> list[IpNetwork]:
    """Subnets of the network that a row describes."""
    found = []
    for key in ("subnet", "subnet6"):
        with suppress(ValueError):
            found.append(ip_network(ids.get(key, ""), strict=False))
    return found


def _ids(switch: str) -> dict[str, str]:
    return {**OURS, **KIND, SWITCH: switch}
