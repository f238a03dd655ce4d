"""Names of containers as records of OVN's DNS, and the address that containers ask for them.

ovn-controller answers a DNS query that a container sends into a logical switch, whatever server it is for, if
the switch has a record of the name (ovn-nb(5), table DNS). All other queries go to their server. Ours is a
logical router without routes: it refuses them with "port unreachable" (ovn-northd(8), "IP Input"), and
Docker's own resolver turns to its next server at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

from ovn_docker.backends import allowed_claims
from ovn_docker.backends.northbound import (
    CONTAINER,
    ENDPOINT,
    OURS,
    RANK,
    SWITCH,
    Connect,
    name_of,
    name_row,
)
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import (
    Database,
    Operation,
    OperationError,
    Reference,
    has,
    is_row,
    require,
    require_none,
)
from ovn_docker.hostnames import MOST, ContainerNames, Unregistered, fitting
from ovn_docker.model import NAMESERVERS, Chassis, EndpointId, row_uuid, whole_number

_OWNED = {"ovn-owned": "true"}
"""Of a name with an IPv4 address alone: that it has no IPv6 address is an answer too (ovn-nb(5))."""


_ADDRESSES = 16
"""Words of a port's addresses that are read: more than an endpoint has."""


class Names:
    """The names of containers on networks of the cluster.

    A name is one container's: its *claim* is a row whose UUID follows from switch and name. A container's own
    name comes before another's alias, and of two alike that of the container which was made first. The order
    in which they start does not matter: the claim and the record of the other one are replaced.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def set_names(
        self, endpoint: EndpointId, names: ContainerNames, chassis: Chassis, deadline: Deadline
    ) -> Unregistered:
        """Have these names, alone and with the network's behind them, stand for the endpoint's addresses.

        They go with the endpoint; for one that is not there nothing is done, and on a network of one host
        nobody but Docker is asked for names. Returns those that are not registered.
        """
        database = self._connect(chassis)
        while True:
            try:
                return _set_names(database, endpoint, names, deadline)
            except OperationError as error:
                if error.error not in {"duplicate uuid", "timed out"}:
                    raise
                deadline.check(f"the names of {names.own[0]}, which others change all the time")

    def allow(
        self, endpoint: EndpointId, addresses: Iterable[str], chassis: Chassis, deadline: Deadline
    ) -> None:
        """Let an endpoint use the addresses that Docker has given it by itself (allowed_claims.py)."""
        allowed_claims.allow(self._connect(chassis), endpoint, addresses, chassis, deadline)


def _set_names(
    database: Database, endpoint: EndpointId, names: ContainerNames, deadline: Deadline
) -> Unregistered:
    """Raises OperationError if what was read has changed meanwhile."""
    port, row = is_row(row_uuid("endpoint", endpoint)), names_row(endpoint)
    ports, before = database.transact(
        ovsdb.select(
            "Logical_Switch_Port", port, has("external_ids", OURS), columns=["addresses", "external_ids"]
        ),
        ovsdb.select("DNS", is_row(row), columns=["records"]),
        deadline=deadline,
    )
    if not ports:
        return Unregistered()
    ids = {**ports[0]["external_ids"], ENDPOINT: endpoint, CONTAINER: names.own[0].lower()}
    note = ovsdb.mutate(
        "Logical_Switch_Port",
        port,
        mutations=[
            ["external_ids", "delete", [CONTAINER]],
            ["external_ids", "insert", {CONTAINER: ids[CONTAINER]}],
        ],
    )
    addresses, switch = _addresses(ports[0]["addresses"]), ids.get(SWITCH, "")
    network = name_of(ids, switch)
    if not network or not addresses:
        database.transact(note, deadline=deadline)
        return Unregistered()
    own = dict.fromkeys(fitting(names.own, network))
    wanted = {name: name in own for name in (*own, *fitting(names.aliases, network))}
    wanted = dict(list(wanted.items())[:MOST])
    claims = _Claims(database, switch, network, ids, names.created, deadline)
    claiming, taken = claims.claim(wanted)
    granted = [name for name in wanted if name not in taken]
    records = _records(granted, next((name for name in granted if wanted[name]), ""), network, addresses)
    columns: dict[str, Any] = {"records": records, "external_ids": ids}
    operations = [
        require("Logical_Switch_Port", row_uuid("endpoint", endpoint)),
        *claiming,
        *release(endpoint, switch, (one["records"] for one in before), but=granted),
        note,
    ]
    try:
        database.transact(*operations, *_writing(row, switch, columns | {"options": _OWNED}, new=not before),
                          deadline=deadline)  # fmt: skip
    except OperationError as error:
        if error.error != "unknown column":  # of an older OVN, that has no such option
            raise
        database.transact(*operations, *_writing(row, switch, columns, new=not before), deadline=deadline)
    given = (name.lower().removesuffix(f".{network.lower()}") for name in (*names.own, *names.aliases))
    return Unregistered(tuple(taken), tuple(name for name in dict.fromkeys(given) if name not in wanted))


def _writing(row: str, switch: str, columns: dict[str, Any], *, new: bool) -> list[Operation]:
    """Operations that write an endpoint's names."""
    reference = [["dns_records", "insert", [Reference(row)]]]
    refer = ovsdb.mutate("Logical_Switch", is_row(switch), mutations=reference)
    if not new:
        return [require("DNS", row), ovsdb.update("DNS", is_row(row), **columns), refer]
    return [ovsdb.insert("DNS", row, **columns), refer]


@dataclass(frozen=True, slots=True)
class _Claims:
    """The names of one endpoint on a switch: its rows have *ids*, its container was made at *created*."""

    database: Database
    switch: str
    network: str
    ids: dict[str, str]
    created: int
    deadline: Deadline

    def claim(self, wanted: dict[str, bool]) -> tuple[list[Operation], list[str]]:
        """Operations that claim names, each its own or an alias, and those that another endpoint has."""
        rows = {name: name_row(self.switch, name) for name in wanted}
        found = self.database.transact(
            *(ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]) for row in rows.values()),
            deadline=self.deadline,
        )
        operations, taken = [], []
        for (name, row), there in zip(rows.items(), found, strict=True):
            ids = {**self.ids, RANK: f"{'own' if wanted[name] else 'alias'} {self.created}"}
            if not there:
                operations.append(ovsdb.insert("DHCP_Options", row, cidr=name, external_ids=ids))
                continue
            holder = there[0]["external_ids"]
            if holder.get(ENDPOINT) != self.ids[ENDPOINT]:
                alive, records = self._about(EndpointId(holder.get(ENDPOINT, "")))
                if alive and _rank(holder) <= _rank(ids):
                    taken.append(name)
                    continue
                operations += _withdraw(EndpointId(holder.get(ENDPOINT, "")), name, self.network, records)
            operations += [
                require("DHCP_Options", row, ["external_ids", "==", ovsdb.encode(holder)]),
                ovsdb.update("DHCP_Options", is_row(row), external_ids=ids),
            ]
        return operations, taken

    def _about(self, endpoint: EndpointId) -> tuple[bool, dict[str, str]]:
        """Whether an endpoint is on this switch, and its records."""
        here = has("external_ids", {**OURS, SWITCH: self.switch})
        ports, rows = self.database.transact(
            ovsdb.select(
                "Logical_Switch_Port", is_row(row_uuid("endpoint", endpoint)), here, columns=["name"]
            ),
            ovsdb.select("DNS", is_row(names_row(endpoint)), columns=["records"]),
            deadline=self.deadline,
        )
        return bool(ports), rows[0]["records"] if rows else {}


def _rank(ids: dict[str, str]) -> tuple[bool, float, str]:
    """The precedence of a claim as a sort key: the smallest wins."""
    kind, _, created = ids.get(RANK, "").partition(" ")
    when = whole_number(created)
    return kind != "own", float("inf") if when is None else when, ids.get(ENDPOINT, "")


def _withdraw(endpoint: EndpointId, name: str, network: str, records: dict[str, str]) -> list[Operation]:
    """Operations that take a name from an endpoint, which has *records*."""
    full = f"{name}.{network.lower()}"
    keys = [key for key, value in records.items() if key in {name, full} or value == full]
    mutations: list[list[Any]] = [["records", "delete", keys]]
    return [ovsdb.mutate("DNS", is_row(names_row(endpoint)), mutations=mutations)] if keys else []


def release(
    endpoint: EndpointId, switch: str, records: Iterable[dict[str, str]], but: Iterable[str] = ()
) -> list[Operation]:
    """Operations that release the claims of an endpoint on the names in its *records*."""
    mine = has("external_ids", {ENDPOINT: endpoint})
    names = {key for some in records for key in some if "." not in key}
    return [
        ovsdb.delete("DHCP_Options", is_row(name_row(switch, name)), mine) for name in sorted(names - {*but})
    ]


def _addresses(column: str | list[str]) -> list[str]:
    """IP addresses of a port; somebody may have changed its column by hand (ovn-nb(5), addresses)."""
    words = column if isinstance(column, str) else " ".join(column)
    return [word for word in words.split()[:_ADDRESSES] if _is_address(word)]


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return False
    return True


def _records(names: Iterable[str], own: str, network: str, addresses: list[str]) -> dict[str, str]:
    """As column ``records`` of table DNS has them; *own*: the answer to reverse queries, if there is one."""
    suffix = f".{network.lower()}"
    all_names = {name + end: " ".join(addresses) for name in sorted(names) for end in ("", suffix)}
    reverse = {ip_address(address).reverse_pointer: own + suffix for address in addresses if own}
    return all_names | reverse


def forget(switch: str, rows: Iterable[str]) -> list[Operation]:
    """Operations that delete rows of names that a logical switch refers to; gone is fine.

    ovsdb-server 3.1 leaves a weak reference to a row that goes while the row with the reference changes.
    """
    references = [Reference(row) for row in rows]
    return [
        ovsdb.mutate("Logical_Switch", is_row(switch), mutations=[["dns_records", "delete", references]]),
        *(ovsdb.delete("DNS", is_row(row), has("external_ids", OURS)) for row in references),
    ]


def names_row(endpoint: EndpointId) -> str:
    """UUID of the row with an endpoint's names."""
    return row_uuid("names", endpoint)


def resolver(switch: str) -> str:
    """UUID of the logical router that is a logical switch's resolver."""
    return row_uuid("resolver", switch)


def resolver_port(switch: str) -> str:
    """UUID of the port by which a logical switch is connected to its resolver."""
    return row_uuid("resolver port", switch)


def resolver_peer(switch: str) -> str:
    """UUID of the port of that router."""
    return row_uuid("resolver peer", switch)


def make_resolver(switch: str, ids: dict[str, str]) -> list[Operation]:
    """Operations that connect a resolver to a logical switch, which *ids* describe.

    It needs an address of the subnet to answer from: the gateway's, which nobody else has. So there is none
    on a network without IPv4.
    """
    if "gateway_ip" not in ids:
        return []
    router, peer = resolver(switch), resolver_peer(switch)
    gateway = f"{ids['gateway_ip']}/{ip_network(ids['subnet']).prefixlen}"
    name = f"resolver-{switch}"
    return [
        ovsdb.insert("Logical_Router_Port", peer, name=name, mac=_mac(peer), external_ids=OURS,
                     networks=[gateway, *(f"{address}/32" for address in NAMESERVERS)]),
        ovsdb.insert("Logical_Router", router, name=name, ports=Reference(peer), external_ids=OURS),
        ovsdb.insert("Logical_Switch_Port", resolver_port(switch), name=f"{name}-peer", type="router",
                     addresses="router", options={"router-port": name},
                     external_ids={**OURS, SWITCH: switch}),
        ovsdb.mutate("Logical_Switch", is_row(switch),
                     mutations=[["ports", "insert", [Reference(resolver_port(switch))]]]),
    ]  # fmt: skip


def mend_resolver(
    switch: str, ids: dict[str, str], *, router: bool, peer: bool, port: bool
) -> list[Operation]:
    """Operations that make those parts of a resolver that are missing; True for those that are there."""
    there = {"Logical_Router": router, "Logical_Router_Port": peer, "Logical_Switch_Port": port}
    made = [one for one in make_resolver(switch, ids) if not there.get(one["table"], port)]
    if made and router and not peer:
        to_peer = [["ports", "insert", [Reference(resolver_peer(switch))]]]
        made.append(ovsdb.mutate("Logical_Router", is_row(resolver(switch)), mutations=to_peer))
    return made


def resolver_parts(switch: str) -> list[Operation]:
    """Operations that look for the parts of a resolver: router, its port, port of the switch."""
    return [
        ovsdb.select("Logical_Router", is_row(resolver(switch)), columns=["_uuid"]),
        ovsdb.select("Logical_Router_Port", is_row(resolver_peer(switch)), columns=["_uuid"]),
        ovsdb.select("Logical_Switch_Port", is_row(resolver_port(switch)), columns=["_uuid"]),
    ]


def remove_resolver(switch: str) -> list[Operation]:
    """Operations that take it away again; none is fine."""
    port = [Reference(resolver_port(switch))]
    return [
        ovsdb.mutate("Logical_Switch", is_row(switch), mutations=[["ports", "delete", port]]),
        ovsdb.delete("Logical_Router", is_row(resolver(switch))),
    ]


def forget_resolver(database: Database, switch: str, deadline: Deadline) -> None:
    """Delete the router that ls-del or lsp-del has left behind: it would be in the way of a new one."""
    without_port = require_none("Logical_Switch_Port", is_row(resolver_port(switch)))
    try:
        database.transact(without_port, *remove_resolver(switch), deadline=deadline)
    except OperationError as error:
        if error.error != "timed out":  # another host has made it whole meanwhile
            raise


def _mac(row: str) -> str:
    """A MAC of our own choice (the "locally administered" bit) that no container gets."""
    return "0a:" + UUID(row).bytes[:5].hex(":")
