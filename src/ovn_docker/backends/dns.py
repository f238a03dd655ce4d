"""Names of containers as records of OVN's DNS, and the address that containers ask for them.

ovn-controller answers a DNS query that a container sends into a logical switch, whatever server it is for, if
the switch has a record of the name (ovn-nb(5), table DNS). All other queries go to their server. Ours is a
logical router without routes: it refuses them with "port unreachable" (ovn-northd(8), "IP Input"), and
Docker's own resolver turns to its next server at once.
"""

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

from ovn_docker.backends.northbound import CONTAINER, OURS, SWITCH, Connect, name_of
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
from ovn_docker.model import NAMESERVERS, Chassis, EndpointId, row_uuid

_OWNED = {"ovn-owned": "true"}
"""Of a name with an IPv4 address alone: that it has no IPv6 address is an answer too (ovn-nb(5))."""


_ADDRESSES = 16
"""Words of a port's addresses that are read: more than an endpoint has."""


class Names:
    """The names of containers on networks of the cluster."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def set_names(
        self, endpoint: EndpointId, names: tuple[str, ...], chassis: Chassis, deadline: Deadline
    ) -> None:
        """Have these names, alone and with the network's behind them, stand for the endpoint's addresses.

        The first one is the container's. They go with the endpoint; for one that is not there nothing is
        done, and on a network of one host nobody but Docker is asked for names.
        """
        database = self._connect(chassis)
        port = is_row(row_uuid("endpoint", endpoint))
        (ports,) = database.transact(
            ovsdb.select(
                "Logical_Switch_Port", port, has("external_ids", OURS), columns=["addresses", "external_ids"]
            ),
            deadline=deadline,
        )
        if not ports or not names:
            return
        ids = {**ports[0]["external_ids"], CONTAINER: names[0]}
        mutations: list[list[Any]] = [
            ["external_ids", "delete", [CONTAINER]],
            ["external_ids", "insert", {CONTAINER: names[0]}],
        ]
        note = ovsdb.mutate("Logical_Switch_Port", port, mutations=mutations)
        addresses = _addresses(ports[0]["addresses"])
        network = name_of(ids, ids.get(SWITCH, ""))
        if not network or not addresses:
            database.transact(note, deadline=deadline)
            return
        columns = {"records": _records(names, network, addresses), "external_ids": ids}
        try:
            _write(database, endpoint, note, columns | {"options": _OWNED}, deadline)
        except OperationError as error:
            if error.error != "unknown column":  # of an older OVN, that has no such option
                raise
            _write(database, endpoint, note, columns, deadline)


def _write(
    database: Database,
    endpoint: EndpointId,
    note: Operation,
    columns: dict[str, dict[str, str]],
    deadline: Deadline,
) -> None:
    row = names_row(endpoint)
    reference = [["dns_records", "insert", [Reference(row)]]]
    switch = columns["external_ids"].get(SWITCH, "")
    try:
        database.transact(
            require("Logical_Switch_Port", row_uuid("endpoint", endpoint)),
            ovsdb.insert("DNS", row, **columns),
            ovsdb.mutate("Logical_Switch", is_row(switch), mutations=reference),
            note,
            deadline=deadline,
        )
    except OperationError as error:
        if error.error == "duplicate uuid":
            database.transact(ovsdb.update("DNS", is_row(row), **columns), note, deadline=deadline)
        elif error.error != "timed out":  # it has gone meanwhile, and its names with it
            raise


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


def _records(names: tuple[str, ...], network: str, addresses: list[str]) -> dict[str, str]:
    """As column ``records`` of table DNS has them: names in lower case, the first one for reverse queries."""
    suffix = f".{network.lower()}"
    all_names = {name + end for name in names for end in ("", suffix)}
    reverse = {ip_address(address).reverse_pointer: names[0] + suffix for address in addresses}
    return {name: " ".join(addresses) for name in sorted(all_names)} | reverse


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


def make_resolver(switch: str, ids: dict[str, str]) -> list[Operation]:
    """Operations that connect a resolver to a logical switch, which *ids* describe.

    It needs an address of the subnet to answer from: the gateway's, which nobody else has. So there is none
    on a network without IPv4.
    """
    if "gateway_ip" not in ids:
        return []
    router, peer = resolver(switch), row_uuid("resolver peer", switch)
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
