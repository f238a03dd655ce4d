"""Contents of the rows that make a network or an endpoint, and the records from which they are made again.

A host keeps the records in its own Open_vSwitch database, so that it can make its rows again without trusting
what other hosts may write into the northbound one. Docker's API does not have all of them: which pool a
network has, or which gateway IPAM chose. No function here reads or writes a database.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ovn_docker.allowed import Allowed, join
from ovn_docker.backends.ovn import acls, multicast, port_groups
from ovn_docker.backends.ovn.allowed_claims import is_allowed
from ovn_docker.backends.ovn.rows import (
    ALLOW,
    ALLOWED,
    CLAIMS,
    ENCAP,
    ENDPOINT,
    ENDPOINTS,
    HOST,
    INTERNAL,
    MTU,
    NAME,
    NAMING,
    NETWORK,
    OURS,
    POLICY,
    PORT_SECURITY,
    ROUTERS,
    SWITCH,
    TYPE,
    RowKind,
    claim_row,
    host_ids,
)
from ovn_docker.host import ovsdb
from ovn_docker.host.clock import CREATED, UPTIME, made_now
from ovn_docker.host.ovsdb import Operation, Reference, decode, is_row
from ovn_docker.model import Chassis, Endpoint, Network, row_uuid
from ovn_docker.policy.language import join_short

_OF_HOST = {HOST, ENCAP, CREATED, UPTIME, TYPE}
"""Keys of external_ids that are written anew whenever a row is made."""


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """A network of this host's Docker.

    *ids* describe it. *name*: its name as a shared network; *switch*: the user's logical switch that it is
    attached to, as the option has it; at most one of them. *pools*: external_ids of its pools of our IPAM
    driver by their IDs.
    """

    ids: Mapping[str, str]
    name: str = ""
    switch: str = ""
    pools: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The record as it is stored."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class PortRecord:
    """An endpoint: the columns of its logical switch port, as JSON has them, and its own claims."""

    columns: Mapping[str, Any]
    ids: Mapping[str, str]
    claims: tuple[str, ...]

    @property
    def text(self) -> str:
        """The record as it is stored."""
        return json.dumps(asdict(self), sort_keys=True)


# Networks

_OPTIONS: Mapping[str, Callable[[Network], str]] = {
    INTERNAL: lambda network: "true" if network.internal else "",
    MTU: lambda network: str(network.options.mtu or ""),
    ROUTERS: lambda network: "any" if network.options.any_router else "",
    multicast.MULTICAST: lambda network: "snoop" if network.options.snoop else "",
    POLICY: lambda network: "deny" if network.options.deny else "",
    ALLOW: lambda network: join_short(network.options.rules),
    NAMING: lambda network: "" if network.options.names else "off",
    ALLOWED: lambda network: _security_of(network).get(ALLOWED, ""),
    PORT_SECURITY: lambda network: _security_of(network).get(PORT_SECURITY, ""),
}
"""Keys of external_ids that describe a network besides its subnets; without a value a row lacks the key."""

DESCRIBED = ("subnet", "subnet6", "gateway_ip", "gateway_ip6", *_OPTIONS)
"""All keys that describe a network: on its switch, and on the notes of hosts."""


def network_ids(network: Network) -> dict[str, str]:
    """Return external_ids that describe a network."""
    ids = {**OURS, NETWORK: network.id}
    for subnet in network.subnets:
        # For IPv4 the names that the first ovn-docker used; IPv6 follows them.
        version = "" if subnet.pool.version == 4 else "6"
        ids[f"subnet{version}"] = str(subnet.pool)
        if subnet.gateway is not None:
            ids[f"gateway_ip{version}"] = str(subnet.gateway)
    return ids | {key: value for key, of in _OPTIONS.items() if (value := of(network))}


def make_switch(kind: RowKind, row: str, name: str, ids: Mapping[str, str]) -> list[Operation]:
    """Return operations that make the logical switch of a network, which *ids* describe.

    The network's access rules are there as soon as the switch is.
    """
    making, column = acls.make(row, acls.of_network(row, ids))
    return [kind.insert(row, ids, name=name, **multicast.columns(ids), **column), *making]


def network_record(network: Network, pools: Mapping[str, Mapping[str, str]]) -> NetworkRecord:
    """Return the record of a network's rows; *pools*: external_ids of its pools by their IDs."""
    return NetworkRecord(
        network_ids(network),
        network.options.name or "",
        network.options.switch or "",
        {pool: lasting(ids) for pool, ids in pools.items()},
    )


def _security_of(network: Network) -> dict[str, str]:
    return _security_ids(network.options.allowed, network.options.port_security)


def _security_ids(allowed: tuple[Allowed, ...], security: bool) -> dict[str, str]:  # noqa: FBT001
    """Return external_ids of a row for port security that is not the usual one."""
    if not security:
        return {PORT_SECURITY: "off"}
    return {PORT_SECURITY: "wider", ALLOWED: join(allowed)} if allowed else {}


# Endpoints


def make_port(endpoint: Endpoint, switch: str, domain: str, chassis: Chassis) -> list[Operation]:
    """Return operations that make an endpoint's port on a logical switch, and claim its addresses and MAC.

    *domain*: the suffix of its container's names on other hosts; empty if those do not find it by name. The
    claims of addresses come before that of the MAC: if both are taken, the error names the address, which the
    user knows.
    """
    ids = {
        **host_ids(chassis),
        NETWORK: endpoint.network,
        ENDPOINT: endpoint.id,
        SWITCH: switch,
        **made_now(),
    }
    if domain:
        ids[NAME] = domain
    described = _security_ids(endpoint.allowed, endpoint.port_security is not False)
    described |= port_groups.ids(endpoint.groups)
    port = row_uuid("endpoint", endpoint.id)
    own = [*(str(address.ip) for address in endpoint.addresses), *filter(None, [endpoint.mac])]
    reference = [["ports", "insert", [Reference(port)]]]
    return [
        ENDPOINTS.insert(port, {**ids, **described}, **port_columns(endpoint)),
        ovsdb.mutate("Logical_Switch", is_row(switch), mutations=reference),
        *(CLAIMS.insert(claim_row(switch, what), ids, cidr=what) for what in own),
    ]


def port_columns(endpoint: Endpoint) -> dict[str, Any]:
    """Return columns of an endpoint's port, whose port security repeats its addresses and the allowed ones.

    A MAC that several ports may have is in no port's addresses: frames for it reach all of these ports
    (ovn-nb(5), "unknown"). An address that is allowed with a MAC is so with the container's own MAC, too: the
    kernel sends from the virtual address by the interface of the route (keepalived.conf(5), "use_vmac").
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


def port_record(endpoint: Endpoint, switch: str, domain: str) -> PortRecord:
    """Return the record of an endpoint on a logical switch; *domain*: see make_port()."""
    return record_of(make_port(endpoint, switch, domain, Chassis("")))


def record_of(operations: Iterable[Operation]) -> PortRecord:
    """Return the record of the endpoint that these operations make."""
    made = [operation for operation in operations if operation["op"] == "insert"]
    (port,) = (one["row"] for one in made if one["table"] == "Logical_Switch_Port")
    claims = tuple(
        one["row"]["cidr"]
        for one in made
        if one["table"] == "DHCP_Options" and not is_allowed(decode(one["row"]["external_ids"]))
    )
    columns = {column: value for column, value in port.items() if column != "external_ids"}
    return PortRecord(columns, lasting(decode(port["external_ids"])), claims)


def lasting(ids: Mapping[str, str]) -> dict[str, str]:
    """Return those of a row's external_ids that stay the same whenever the row is made."""
    return {key: value for key, value in ids.items() if key not in _OF_HOST}


# Stored records


def network(text: str) -> NetworkRecord | None:
    """Return the record in *text*; ``None`` if it is not valid."""
    match _parsed(text):
        case {"ids": dict(ids), "name": str(name), "switch": str(switch), "pools": dict(pools)}:
            if _is_strings(ids) and all(isinstance(one, dict) and _is_strings(one) for one in pools.values()):
                return NetworkRecord(ids, name, switch, pools)
    return None


def port(text: str) -> PortRecord | None:
    """Return the record in *text*; ``None`` if it is not valid."""
    match _parsed(text):
        case {"columns": dict(columns), "ids": dict(ids), "claims": list(claims)}:
            if _is_strings(ids) and all(isinstance(claim, str) for claim in claims):
                return PortRecord(columns, ids, tuple(claims))
    return None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
        return None


def _is_strings(pairs: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, str) for value in pairs.values())
