"""The resolver of a shared network: a logical router without routes, to which containers send their queries.

The resolver refuses queries with "port unreachable" (ovn-northd(8), "IP Input"), and Docker's own resolver
tries its next server at once.
"""

from contextlib import suppress
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from ovn_docker.backends.ovn.rows import (
    RESOLVER_PEERS,
    RESOLVER_PORTS,
    RESOLVERS,
    SWITCH,
    has_names,
    resolver_name,
    resolver_peer,
    resolver_port,
    resolver_row,
)
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import ConditionFailed, Database, Operation, Reference, has, is_row, require_none
from ovn_docker.model import NAMESERVERS

FORGETFUL = {"always_learn_from_arp_request": "false", "mac_binding_age_threshold": "300"}
"""Options of a resolver: it stores addresses of containers only if they ask for its own, and for 300 s.

Without them the southbound database keeps a row of MAC_Binding, and each host a flow, for every address of
the subnet that a container has ever had (ovn-nb(5); the second option since OVN 22.09). A resolver needs none
of them: ovn-northd knows the MACs of all ports.
"""


def make_resolver(switch: str, ids: dict[str, str]) -> list[Operation]:
    """Return operations that connect a resolver to a logical switch, which *ids* describe.

    A resolver needs an address of the subnet to reply from: the gateway's, which no container has. So a
    network without IPv4 has no resolver, nor has one without names.
    """
    if "gateway_ip" not in ids or not has_names(ids):
        return []
    router, peer = resolver_row(switch), resolver_peer(switch)
    gateway = f"{ids['gateway_ip']}/{ip_network(ids['subnet']).prefixlen}"
    name, port = resolver_name(switch), resolver_port(switch)
    return [
        RESOLVER_PEERS.insert(peer, name=name, mac=_mac(peer),
                              networks=[gateway, *(f"{address}/32" for address in NAMESERVERS)]),
        RESOLVERS.insert(router, name=name, ports=Reference(peer), options=FORGETFUL),
        RESOLVER_PORTS.insert(port, {SWITCH: switch}, name=f"{name}-peer", type="router", addresses="router",
                              options={"router-port": name}),
        ovsdb.mutate("Logical_Switch", is_row(switch), mutations=[["ports", "insert", [Reference(port)]]]),
    ]  # fmt: skip


def mend_resolver(
    switch: str, ids: dict[str, str], *, router: bool, forgetful: bool, peer: bool, port: bool
) -> list[Operation]:
    """Return operations that make the missing parts of a resolver; the flags say which parts exist.

    *forgetful*: the router has the options FORGETFUL, which earlier versions did not set.
    """
    there = {"Logical_Router": router, "Logical_Router_Port": peer, "Logical_Switch_Port": port}
    made = [one for one in make_resolver(switch, ids) if not there.get(one["table"], port)]
    if made and router and not peer:
        to_peer = [["ports", "insert", [Reference(resolver_peer(switch))]]]
        made.append(ovsdb.mutate("Logical_Router", is_row(resolver_row(switch)), mutations=to_peer))
    if router and not forgetful:
        options: list[list[Any]] = [["options", "delete", list(FORGETFUL)], ["options", "insert", FORGETFUL]]
        made.append(ovsdb.mutate("Logical_Router", is_row(resolver_row(switch)), mutations=options))
    return made


def resolver_parts(switch: str) -> list[Operation]:
    """Return operations that select the parts of a resolver: router, its options, its port, the switch's."""
    router = is_row(resolver_row(switch))
    return [
        ovsdb.select("Logical_Router", router, columns=["_uuid"]),
        ovsdb.select("Logical_Router", router, has("options", FORGETFUL), columns=["_uuid"]),
        ovsdb.select("Logical_Router_Port", is_row(resolver_peer(switch)), columns=["_uuid"]),
        ovsdb.select("Logical_Switch_Port", is_row(resolver_port(switch)), columns=["_uuid"]),
    ]


def delete_resolver(switch: str) -> list[Operation]:
    """Return operations that delete a switch's resolver, if it has one."""
    port = [Reference(resolver_port(switch))]
    return [
        ovsdb.mutate("Logical_Switch", is_row(switch), mutations=[["ports", "delete", port]]),
        ovsdb.delete("Logical_Router", is_row(resolver_row(switch))),
    ]


def delete_stale_resolver(database: Database, switch: str, deadline: Deadline) -> None:
    """Delete a resolver's router that ``ls-del`` or ``lsp-del`` left: a new resolver has the same UUID."""
    without_port = require_none("Logical_Switch_Port", is_row(resolver_port(switch)))
    with suppress(ConditionFailed):  # another host has repaired the resolver meanwhile
        database.transact(without_port, *delete_resolver(switch), deadline=deadline)


def _mac(row: str) -> str:
    """Return a MAC that follows from a UUID, with the "locally administered" bit; no container gets it."""
    return "0a:" + UUID(row).bytes[:5].hex(":")
