"""Names of containers as records of OVN's DNS.

ovn-controller answers a DNS query that a container sends into a logical switch, to whatever server, if the
switch has a record of the name (ovn-nb(5), table DNS). All other queries reach their server: resolver.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from ovn_docker.backends.ovn import allowed_claims
from ovn_docker.backends.ovn.northbound import Connect
from ovn_docker.backends.ovn.rows import (
    CONTAINER,
    ENDPOINT,
    NAME_CLAIMS,
    NAMES,
    OURS,
    RANK,
    SWITCH,
    name_of,
    name_row,
    names_row,
)
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import (
    ConditionFailed,
    Database,
    DuplicateRow,
    Operation,
    Reference,
    Row,
    UnknownColumn,
    has,
    is_row,
    require,
)
from ovn_docker.hostnames import MOST, ContainerNames, Unregistered, fitting
from ovn_docker.model import Chassis, EndpointId, row_uuid, whole_number

_OWNED = {"ovn-owned": "true"}
"""Have OVN answer that a name with an IPv4 address alone has no IPv6 address (ovn-nb(5))."""

_ADDRESSES = 16
"""Largest number of words in a port's addresses that are read: more than an endpoint has."""


class Names:
    """Registers the names of containers on shared networks.

    A name belongs to one container: its *claim* is a row whose UUID follows from switch and name. A
    container's own name has precedence over another's alias, and of two alike the name of the container that
    was made first. The order in which containers start does not matter: a claim and records of less
    precedence are replaced.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def set_names(
        self, endpoint: EndpointId, names: ContainerNames, chassis: Chassis, deadline: Deadline
    ) -> Unregistered:
        """Register names, with and without the network's name behind them, for the endpoint's addresses.

        They are deleted with the endpoint. Nothing is registered for an endpoint that is not there, or on a
        network of one host, where Docker answers for itself. Returns the names that are not registered.
        """
        database = self._connect(chassis)
        while True:
            try:
                return _set_names(database, endpoint, names, deadline)
            except (DuplicateRow, ConditionFailed):
                deadline.check(f"the names of {names.own[0]}, which other hosts keep changing")

    def allow(
        self, endpoint: EndpointId, addresses: Iterable[str], chassis: Chassis, deadline: Deadline
    ) -> None:
        """Let an endpoint use addresses that Docker gave it by itself (allowed_claims.py)."""
        allowed_claims.allow(self._connect(chassis), endpoint, addresses, chassis, deadline)


def _set_names(
    database: Database, endpoint: EndpointId, names: ContainerNames, deadline: Deadline
) -> Unregistered:
    """Carry out set_names() once. Raises OperationError if rows that were read have changed meanwhile."""
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
    ids = {**ports[0].map("external_ids"), ENDPOINT: endpoint, CONTAINER: names.own[0].lower()}
    set_container = ovsdb.mutate(
        "Logical_Switch_Port",
        port,
        mutations=[
            ["external_ids", "delete", [CONTAINER]],
            ["external_ids", "insert", {CONTAINER: ids[CONTAINER]}],
        ],
    )
    addresses, switch = _addresses(ports[0].members("addresses")), ids.get(SWITCH, "")
    network = name_of(ids, switch)
    if not network or not addresses:
        database.transact(set_container, deadline=deadline)
        return Unregistered()
    own = dict.fromkeys(fitting(names.own, network))
    wanted = {name: name in own for name in (*own, *fitting(names.aliases, network))}
    wanted = dict(list(wanted.items())[:MOST])
    claims = _Claims(database, switch, network, ids, names.created, deadline)
    claiming, taken = claims.claim(wanted)
    granted = [name for name in wanted if name not in taken]
    records = records_of(granted, next((name for name in granted if wanted[name]), ""), network, addresses)
    columns: dict[str, Any] = {"records": records, "external_ids": NAMES.ids(ids)}
    operations = [
        require("Logical_Switch_Port", row_uuid("endpoint", endpoint)),
        *claiming,
        *release(endpoint, switch, (one.map("records") for one in before), but=granted),
        set_container,
    ]
    try:
        database.transact(*operations, *_writing(row, switch, columns | {"options": _OWNED}, new=not before),
                          deadline=deadline)  # fmt: skip
    except UnknownColumn:  # an older OVN has no such option
        database.transact(*operations, *_writing(row, switch, columns, new=not before), deadline=deadline)
    given = (name.lower().removesuffix(f".{network.lower()}") for name in (*names.own, *names.aliases))
    return Unregistered(tuple(taken), tuple(name for name in dict.fromkeys(given) if name not in wanted))


def _writing(row: str, switch: str, columns: dict[str, Any], *, new: bool) -> list[Operation]:
    """Return operations that write an endpoint's row of DNS; *new*: there was none."""
    reference = [["dns_records", "insert", [Reference(row)]]]
    refer = ovsdb.mutate("Logical_Switch", is_row(switch), mutations=reference)
    if not new:
        return [require("DNS", row), ovsdb.update("DNS", is_row(row), **columns), refer]
    return [ovsdb.insert("DNS", row, **columns), refer]


@dataclass(frozen=True, slots=True)
class _Claims:
    """Claims the names of an endpoint; *ids*: of its port, *created*: when its container was made."""

    database: Database
    switch: str
    network: str
    ids: dict[str, str]
    created: int
    deadline: Deadline

    def claim(self, wanted: dict[str, bool]) -> tuple[list[Operation], list[str]]:
        """Return operations that claim names, and the names that another endpoint keeps.

        *wanted*: each name, and True if it is the container's own, not an alias.
        """
        rows = {name: name_row(self.switch, name) for name in wanted}
        found = self.database.transact(
            *(ovsdb.select("DHCP_Options", is_row(row), columns=["external_ids"]) for row in rows.values()),
            deadline=self.deadline,
        )
        operations, taken = [], []
        for (name, row), there in zip(rows.items(), found, strict=True):
            ids = NAME_CLAIMS.ids(self.ids, {RANK: f"{'own' if wanted[name] else 'alias'} {self.created}"})
            if not there:
                operations.append(NAME_CLAIMS.insert(row, ids, cidr=name))
                continue
            holder = there[0].map("external_ids")
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
        """Return whether an endpoint has a port on this switch, and its records."""
        here = has("external_ids", {**OURS, SWITCH: self.switch})
        ports, rows = self.database.transact(
            ovsdb.select(
                "Logical_Switch_Port", is_row(row_uuid("endpoint", endpoint)), here, columns=["name"]
            ),
            ovsdb.select("DNS", is_row(names_row(endpoint)), columns=["records"]),
            deadline=self.deadline,
        )
        return bool(ports), rows[0].map("records") if rows else {}


def _rank(ids: dict[str, str]) -> tuple[bool, float, str]:
    """Return the precedence of a claim as a sort key: the smallest wins."""
    kind, _, created = ids.get(RANK, "").partition(" ")
    when = whole_number(created)
    return kind != "own", float("inf") if when is None else when, ids.get(ENDPOINT, "")


def _withdraw(endpoint: EndpointId, name: str, network: str, records: dict[str, str]) -> list[Operation]:
    """Return operations that delete a name from the *records* of an endpoint."""
    full = f"{name}.{network.lower()}"
    keys = [key for key, value in records.items() if key in {name, full} or value == full]
    mutations: list[list[Any]] = [["records", "delete", keys]]
    return [ovsdb.mutate("DNS", is_row(names_row(endpoint)), mutations=mutations)] if keys else []


def release(
    endpoint: EndpointId, switch: str, records: Iterable[dict[str, str]], but: Iterable[str] = ()
) -> list[Operation]:
    """Return operations that release an endpoint's claims on the names in its *records*, except *but*."""
    of_endpoint = has("external_ids", {ENDPOINT: endpoint})
    names = {key for some in records for key in some if "." not in key}
    return [
        ovsdb.delete("DHCP_Options", is_row(name_row(switch, name)), of_endpoint)
        for name in sorted(names - {*but})
    ]


def require_unchanged(endpoint: EndpointId, rows: Sequence[Row]) -> list[Operation]:
    """Require that an endpoint's records are those in *rows*, or that it has none, as when they were read."""
    row = names_row(endpoint)
    if not rows:
        return [ovsdb.require_none("DNS", is_row(row))]
    return [require("DNS", row, ["records", "==", ovsdb.encode(one.map("records"))]) for one in rows]


def _addresses(column: list[str]) -> list[str]:
    """Return the IP addresses in a port's column, which a user may have changed (ovn-nb(5), addresses)."""
    return [word for word in " ".join(column).split()[:_ADDRESSES] if _is_address(word)]


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return False
    return True


def records_of(names: Iterable[str], own: str, network: str, addresses: list[str]) -> dict[str, str]:
    """Return the value of column ``records`` of table DNS; *own*: the answer to reverse queries, or empty."""
    suffix = f".{network.lower()}"
    all_names = {name + end: " ".join(addresses) for name in sorted(names) for end in ("", suffix)}
    reverse = {ip_address(address).reverse_pointer: own + suffix for address in addresses if own}
    return all_names | reverse


def delete_names(switch: str, rows: Iterable[str]) -> list[Operation]:
    """Return operations that delete rows of DNS, if they exist, and a logical switch's references to them.

    ovsdb-server 3.1 keeps a weak reference to a row that is deleted while the row with the reference changes.
    """
    references = [Reference(row) for row in rows]
    return [
        ovsdb.mutate("Logical_Switch", is_row(switch), mutations=[["dns_records", "delete", references]]),
        *(ovsdb.delete("DNS", is_row(row), has("external_ids", OURS)) for row in references),
    ]
