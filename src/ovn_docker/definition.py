"""The definition of a network of the cluster, with which each host's Docker makes the network. Pure.

Every host may write to the northbound database, so a stored definition is input from outside. It is parsed
into a closed set of values, and the request to Docker is built from these. A definition that has anything
else is refused as a whole.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

from ovn_docker import options
from ovn_docker.errors import BadRequest, Conflict
from ovn_docker.model import (
    ADDRESS_SPACE,
    DRIVER,
    AddressPool,
    Definition,
    IpAddress,
    IpNetwork,
    NetworkId,
    Pool,
    PoolId,
    Refusal,
    row_uuid,
)

_IPAM = (ADDRESS_SPACE, "default", "null")
"""IPAM drivers of a network of the cluster: ours, and the two of Docker (``null`` gives no addresses)."""

EVERYTHING = ("0.0.0.0/0", "::/0")
"""The pools that Docker reports for ``null``."""

_SWITCHES = ("Internal", "Attachable", "EnableIPv4", "EnableIPv6")
_KEYS = frozenset({"Name", "Driver", "Options", "Labels", "IPAM", "CheckDuplicate", *_SWITCHES})
_POOL_KEYS = frozenset({"Subnet", "IPRange", "Gateway", "AuxiliaryAddresses"})

_LARGEST = 65536
"""Characters of a definition."""

_LABELS, _LABEL_KEY, _LABEL = 64, 255, 1024
_RESERVED = 256
"""Auxiliary addresses of one pool."""

_MOST_RESERVED = 4096
"""Reserved addresses of a pool of our IPAM driver."""

_SHORTEST = 8
"""The shortest prefix of a subnet: 10.0.0.0/8 and fd00::/8 are the largest private networks (RFC 1918, 4193).

A container has a route to the whole subnet through this network: a wider one would redirect what it sends to
the rest of the world.
"""

_UNUSABLE = tuple(
    map(
        ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"),
    )
)
"""Not for containers: "this network", loopback, link-local, multicast and reserved addresses (RFC 6890)."""


class Refused(Exception):
    """A row of the database that this host does not act upon."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(why)
        self.refusal = Refusal(part, why)


def stored(row: str, ids: Mapping[str, str], text: str) -> Definition:
    """The definition in *text*, of the network whose switch is *row* and has the external_ids *ids*.

    Raises Refused.
    """
    name = valid_name(ids.get("ovn-docker:name", ""), row)
    if len(text) > _LARGEST:
        raise Refused(
            "definition", f"its definition has {len(text)} characters, at most {_LARGEST} are allowed"
        )
    try:
        given = json.loads(text)
    except (RecursionError, ValueError):
        raise Refused("definition", "its definition is not valid JSON") from None
    definition = parse(name, given)
    _check_row(definition, ids)
    return definition


def valid_name(name: str, row: str) -> str:
    """*name* if it may be that of a network of the cluster and *row* is the UUID that follows from it.

    Any host can write any name into any row; of all rows with one name, this is the one that counts. Raises
    Refused.
    """
    try:
        options.parse({options.SHARED_NAME: name})
    except BadRequest as error:
        raise Refused("name", str(error)) from None
    if row != switch_row(name):
        raise Refused("name", f"row {row} has the name {name!r}, whose row is {switch_row(name)}")
    return name


def switch_row(name: str) -> str:
    """UUID of the logical switch of the network *name* of the cluster."""
    return row_uuid("shared network", name)


def of_docker(network: Mapping[str, Any], name: str) -> Definition:
    """The definition of the network *name* of the cluster, as Docker describes it. Raises Refused."""
    ipam = network.get("IPAM") or {}
    same = {key: network[key] for key in _KEYS - {"Name", "IPAM", "CheckDuplicate"} if key in network}
    if "Options" in same:
        same["Options"] = {k: v for k, v in (same["Options"] or {}).items() if not options.is_of_others(k)}
    config = [{key: pool[key] for key in _POOL_KEYS if key in pool} for pool in ipam.get("Config") or []]
    addresses = {"Driver": ipam.get("Driver"), "Options": ipam.get("Options"), "Config": config}
    definition = parse(name, {**same, "Name": name, "IPAM": addresses})
    if len(definition.text) > _LARGEST:
        raise Refused(
            "definition", f"its definition has more than {_LARGEST} characters: give it fewer labels"
        )
    return definition


def parse(name: str, given: object) -> Definition:
    """The definition of the network *name* in the decoded JSON *given*. Raises Refused."""
    fields = _mapping("its definition", given)
    _only("its definition", fields, _KEYS)
    _check("Name", fields.get("Name"), name)
    _check("Driver", fields.get("Driver"), DRIVER)
    ipam = _mapping("IPAM", fields.get("IPAM") or {})
    _only("IPAM", ipam, {"Driver", "Options", "Config"})
    driver = ipam.get("Driver") or "default"
    if driver not in _IPAM:
        raise _refused("IPAM driver", driver, f"allowed are {', '.join(_IPAM)}")
    if ipam.get("Options"):
        raise _refused("IPAM option", ipam["Options"], "none is allowed")
    switches = {key: _boolean(key, fields[key]) for key in _SWITCHES if key in fields}
    enabled = {4: switches.get("EnableIPv4", True), 6: switches.get("EnableIPv6", False)}
    return Definition(
        name,
        tuple(pool for pool in _pools(ipam.get("Config"), driver) if enabled[pool.subnet.version]),
        driver,
        _options(name, fields.get("Options")),
        _labels(fields.get("Labels")),
        tuple(switches.items()),
    )


def check_subnets(
    definition: Definition, addresses: Iterable[IpAddress], networks: Iterable[IpNetwork]
) -> None:
    """Raise Refused if this host must not have the network because of what else has its addresses.

    *addresses*: of the databases and of this host's tunnels; *networks*: those that this host's links are in.
    Our networks make no routes on the host. But their containers have a route to the whole subnet: what they
    send to the host, to its neighbours or to the databases would reach whichever container has that address.
    A network behind a router is allowed: that router may lead to this very network.
    """
    for pool in definition.pools:
        for address in addresses:
            if address in pool.subnet:
                raise Refused(
                    "subnet",
                    f"its subnet {pool.subnet} has {address}, a database's or this host's own address",
                )
        for network in networks:
            if network.version == pool.subnet.version and network.overlaps(pool.subnet):
                raise Refused(
                    "subnet", f"its subnet {pool.subnet} overlaps {network}, which this host is connected to"
                )


def valid_subnet(text: object) -> IpNetwork:
    """The subnet in *text*, if containers can have one like that. Raises Refused."""
    try:
        subnet = _network("Subnet", text)
    except ValueError:
        raise Refused("subnet", f"Subnet {_shown(text)} is not a subnet, such as 10.1.0.0/16") from None
    if subnet.prefixlen < _SHORTEST:
        raise Refused("subnet", f"Subnet {subnet} is too large: give a prefix of {_SHORTEST} bits or more")
    if any(subnet.version == other.version and subnet.overlaps(other) for other in _UNUSABLE):
        raise Refused("subnet", f"Subnet {subnet} is not for containers: give one of unicast addresses")
    return subnet


def _check_row(definition: Definition, ids: Mapping[str, str]) -> None:
    """Raise Refused unless the definition has the subnets and gateways that the row itself has."""
    for version, suffix in ((4, ""), (6, "6")):
        here = [pool for pool in definition.pools if pool.subnet.version == version]
        subnet = str(here[0].subnet) if here else ""
        if ids.get(f"subnet{suffix}", "") != subnet:
            raise _differs(f"subnet{suffix}", ids, subnet)
        gateway = here[0].gateway if here else None
        if gateway is not None and ids.get(f"gateway_ip{suffix}", "") != str(gateway):
            raise _differs(f"gateway_ip{suffix}", ids, str(gateway))
    internal = "true" if dict(definition.switches).get("Internal") else ""
    if ids.get("ovn-docker:internal", "") != internal:
        raise _differs("ovn-docker:internal", ids, internal)


def _differs(key: str, ids: Mapping[str, str], defined: str) -> Refused:
    return Refused(
        "definition", f"its row has {key}={_shown(ids.get(key, ''))}, its definition {_shown(defined)}"
    )


def _pools(given: object, driver: str) -> tuple[AddressPool, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > 2:
        raise _refused("IPAM Config", given, "it must be a list of at most one pool of each IP version")
    pools = [_mapping("IPAM Config", pool) for pool in given]
    if driver == "null":
        pools = [pool for pool in pools if pool.get("Subnet") not in EVERYTHING]
        if pools:
            raise _refused("IPAM Config", pools, "IPAM driver null has no subnets")
        return ()
    found = tuple(map(_pool, pools))
    if len({pool.subnet.version for pool in found}) < len(found):
        raise _refused("IPAM Config", given, "it must have at most one pool of each IP version")
    return found


def _pool(given: dict[str, Any]) -> AddressPool:
    _only("IPAM Config", given, _POOL_KEYS)
    subnet = valid_subnet(given.get("Subnet"))
    part, gateway = None, None
    if text := given.get("IPRange"):
        part = _part("IPRange", text, subnet)
    if text := given.get("Gateway"):  # of IPv6, Docker says it with the length of the prefix
        gateway = _address("Gateway", text, subnet)
    auxiliary = _mapping("AuxiliaryAddresses", given.get("AuxiliaryAddresses") or {})
    if len(auxiliary) > _RESERVED:
        raise Refused("definition", f"{len(auxiliary)} AuxiliaryAddresses, at most {_RESERVED} are allowed")
    reserved = tuple(
        (_printable("AuxiliaryAddresses", key, _LABEL_KEY), _address("AuxiliaryAddresses", address, subnet))
        for key, address in sorted(auxiliary.items())
    )
    return AddressPool(subnet, part, gateway, reserved)


def _within(part: IpNetwork, subnet: IpNetwork) -> bool:
    if isinstance(part, IPv4Network):
        return isinstance(subnet, IPv4Network) and part.subnet_of(subnet)
    return isinstance(subnet, IPv6Network) and part.subnet_of(subnet)


def stored_pool(
    id_: PoolId,
    subnet: str,
    part: str | None,
    reserved: Collection[str],
    switch: str | None = None,
    network: NetworkId | None = None,
) -> Pool:
    """A pool of our IPAM driver as a backend has it. Raises Conflict if no pool can be like that."""
    if len(reserved) > _MOST_RESERVED:
        raise Conflict(
            f"pool {id_} has {len(reserved)} reserved addresses, at most {_MOST_RESERVED} are allowed; "
            "remove its network and create it again"
        )
    try:
        whole = valid_subnet(subnet)
        range_ = _part("the range", part, whole) if part else None
        kept = frozenset(_address("the reserved address", text, whole) for text in reserved)
    except Refused as refused:
        raise Conflict(
            f"pool {id_} has been changed by somebody: {refused}; remove its network and create it again"
        ) from None
    return Pool(id_, whole, range_, switch, network, kept)


def _part(key: str, text: object, subnet: IpNetwork) -> IpNetwork:
    try:
        part = _network(key, text)
    except ValueError:
        raise Refused("subnet", f"{key} {_shown(text)} is not a subnet, such as 10.1.2.0/24") from None
    if not _within(part, subnet):
        raise Refused("subnet", f"{key} {part} is not a part of the subnet {subnet}")
    return part


def _network(key: str, text: object) -> IpNetwork:
    """Docker takes a subnet with host bits too. Raises ValueError, Refused."""
    whole = _string(key, text)
    if "%" in whole:
        raise ValueError(whole)
    return ip_network(whole, strict=False)


def _address(key: str, text: object, subnet: IpNetwork) -> IpAddress:
    try:
        whole = _string(key, text)
        address = ip_interface(whole).ip if "/" in whole else ip_address(whole)
    except ValueError:
        raise Refused("subnet", f"{key} {_shown(text)} is not an IP address") from None
    if address not in subnet or "%" in whole:
        raise Refused("subnet", f"{key} {_shown(text)} is not in the subnet {subnet}")
    return address


def _options(name: str, given: object) -> tuple[tuple[str, str], ...]:
    """Options that this mode of the driver knows, one of them the network's own name."""
    fields = _mapping("Options", given or {})
    _only("Options", fields, {option.key for option in options.OPTIONS})
    texts = {key: _printable(f"option {_shown(key)}", value, _LABEL) for key, value in fields.items()}
    try:
        known = options.parse(texts)
    except BadRequest as error:
        raise Refused("definition", str(error)) from None
    if known.name != name or known.switch is not None:
        raise _refused(f"option {options.SHARED_NAME}", known.name or "", f"it must be {name!r}")
    return tuple(sorted(texts.items()))


def _labels(given: object) -> tuple[tuple[str, str], ...]:
    labels = _mapping("Labels", given or {})
    if len(labels) > _LABELS:
        raise Refused("definition", f"it has {len(labels)} labels, at most {_LABELS} are allowed")
    return tuple(
        sorted(
            (_printable("a label's name", key, _LABEL_KEY), _printable(f"label {_shown(key)}", value, _LABEL))
            for key, value in labels.items()
        )
    )


def _printable(what: str, text: object, most: int) -> str:
    text = _string(what, text)
    if len(text) > most or not text.isprintable():
        raise _refused(what, text, f"it must be at most {most} printable characters")
    return text


def _string(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refused(what, value, "it must be a string")
    return value


def _boolean(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refused(what, value, "it must be true or false")
    return value


def _mapping(what: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refused(what, value, "it must be an object")
    return value


def _only(what: str, fields: Mapping[str, object], known: Iterable[str]) -> None:
    for key in sorted(fields.keys() - set(known)):
        raise Refused("definition", f"{what} has {_shown(key)}, which is not allowed")


def _check(key: str, value: object, wanted: str) -> None:
    if value != wanted:
        raise _refused(key, value, f"it must be {wanted!r}")


def _refused(what: str, value: object, rule: str) -> Refused:
    return Refused("definition", f"{what} {_shown(value)}: {rule}")


def _shown(value: object) -> str:
    """At most 80 characters, without any that could change what a terminal shows."""
    if isinstance(value, dict | list):  # as deep as the parser can go, and repr() cannot
        return "(an object)" if isinstance(value, dict) else "(a list)"
    text = value if isinstance(value, str) else repr(value)
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")
