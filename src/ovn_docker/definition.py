"""Reads definitions of shared networks. Pure.

Every host may write to the northbound database, so a stored definition is untrusted input. It is parsed into
a closed set of values, from which the request to Docker is built. A definition with anything else is refused.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

from ovn_docker import options
from ovn_docker.errors import BadRequest, PoolInvalid
from ovn_docker.model import (
    ADDRESS_SPACE,
    DRIVER,
    AddressPool,
    Definition,
    IpAddress,
    IpNetwork,
    NetworkId,
    Occupied,
    Pool,
    PoolId,
    Refusal,
    row_uuid,
)

_IPAM = (ADDRESS_SPACE, "default", "null")
"""IPAM drivers of a shared network: ours, and the two of Docker (``null`` gives no addresses)."""

EVERYTHING = ("0.0.0.0/0", "::/0")
"""Pools that Docker reports for ``null``."""

_SWITCHES = ("Internal", "Attachable", "EnableIPv4", "EnableIPv6")
_KEYS = frozenset({"Name", "Driver", "Options", "Labels", "IPAM", "CheckDuplicate", *_SWITCHES})
_POOL_KEYS = frozenset({"Subnet", "IPRange", "Gateway", "AuxiliaryAddresses"})

_LARGEST = 65536
"""Maximum length of a definition in characters."""

_LABELS, _LABEL_KEY, _LABEL = 64, 255, 1024
_RESERVED = 256
"""Maximum number of auxiliary addresses of a pool."""

_MOST_RESERVED = 4096
"""Maximum number of reserved addresses of a pool of our IPAM driver."""

_SHORTEST = 8
"""Shortest prefix of a subnet: 10.0.0.0/8 and fd00::/8 are the largest private networks (RFC 1918, 4193).

A container has a route to the whole subnet: a larger one would redirect packets for the rest of the world.
"""

_UNUSABLE = tuple(
    map(
        ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"),
    )
)
"""Subnets that containers cannot use: "this network", loopback, link-local, multicast, reserved (RFC
6890)."""


class Refused(Exception):
    """This host ignores a row of the database."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(why)
        self.refusal = Refusal(part, why)


def parse_text(name: str, text: str) -> Definition:
    """Return the definition of the shared network *name* in the JSON *text*. Raises Refused."""
    if len(text) > _LARGEST:
        raise Refused(
            "definition", f"its definition has {len(text)} characters, at most {_LARGEST} are allowed"
        )
    try:
        given = json.loads(text)
    except (RecursionError, ValueError):
        raise Refused("definition", "its definition is not valid JSON") from None
    return parse(name, given)


def valid_name(name: str, row: str) -> str:
    """Return *name* if it is valid for a shared network and *row* is the UUID that follows from it.

    Any host can write any name into any row; only the row whose UUID follows from the name is valid. Raises
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
    """Return the UUID of the logical switch of the shared network *name*."""
    return row_uuid("shared network", name)


def of_docker(network: Mapping[str, Any], name: str) -> Definition:
    """Return the definition of the shared network *name*, as Docker describes it. Raises Refused."""
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
    """Return the definition of the shared network *name* in the decoded JSON *given*. Raises Refused."""
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
    subnets: Iterable[IpNetwork], addresses: Iterable[IpAddress], occupied: Iterable[Occupied]
) -> None:
    """Raise Refused if this host must not have a network with these subnets, as their addresses are in use.

    *addresses*: those of the databases and of this host's tunnels; *occupied*: the subnets of this host's
    links. Our networks add no routes to the host. But their containers have a route to the whole subnet:
    packets for the host, its neighbours or the databases would reach the container that has the address. A
    subnet behind a router is accepted: the router may lead to this very network.
    """
    for subnet in subnets:
        for address in addresses:
            if address in subnet:
                raise Refused(
                    "subnet", f"its subnet {subnet} has {address}, a database's or this host's own address"
                )
        for one in occupied:
            if one.linked and overlap(subnet, one.subnet):
                raise Refused(
                    "subnet", f"its subnet {subnet} overlaps {one}, which this host is connected to"
                )


def overlap(one: IpNetwork, other: IpNetwork) -> bool:
    """Return True if two subnets, of any IP version, have an address in common."""
    return one.version == other.version and one.overlaps(other)


def valid_subnet(text: object) -> IpNetwork:
    """Parse a subnet that containers can use. Raises Refused."""
    try:
        subnet = _network("Subnet", text)
    except ValueError:
        raise Refused("subnet", f"Subnet {shown(text)} is not a subnet, such as 10.1.0.0/16") from None
    if subnet.prefixlen < _SHORTEST:
        raise Refused("subnet", f"Subnet {subnet} is too large: give a prefix of {_SHORTEST} bits or more")
    if any(subnet.version == other.version and subnet.overlaps(other) for other in _UNUSABLE):
        raise Refused("subnet", f"Subnet {subnet} is not for containers: give one of unicast addresses")
    return subnet


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
    if text := given.get("Gateway"):  # with IPv6, Docker appends the length of the prefix
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
    """Return a pool of our IPAM driver from a backend's row. Raises PoolInvalid."""
    if len(reserved) > _MOST_RESERVED:
        raise PoolInvalid(
            id_, f"has {len(reserved)} reserved addresses, at most {_MOST_RESERVED} are allowed"
        )
    try:
        whole = valid_subnet(subnet)
        range_ = _part("the range", part, whole) if part else None
        kept = frozenset(_address("the reserved address", text, whole) for text in reserved)
    except Refused as refused:
        raise PoolInvalid(id_, f"has been changed by somebody: {refused}") from None
    return Pool(id_, whole, range_, switch, network, kept)


def _part(key: str, text: object, subnet: IpNetwork) -> IpNetwork:
    try:
        part = _network(key, text)
    except ValueError:
        raise Refused("subnet", f"{key} {shown(text)} is not a subnet, such as 10.1.2.0/24") from None
    if not _within(part, subnet):
        raise Refused("subnet", f"{key} {part} is not a part of the subnet {subnet}")
    return part


def _network(key: str, text: object) -> IpNetwork:
    """Parse a subnet; host bits are ignored, as in Docker. Raises ValueError, Refused."""
    whole = _string(key, text)
    if "%" in whole:
        raise ValueError(whole)
    return ip_network(whole, strict=False)


def _address(key: str, text: object, subnet: IpNetwork) -> IpAddress:
    try:
        whole = _string(key, text)
        address = ip_interface(whole).ip if "/" in whole else ip_address(whole)
    except ValueError:
        raise Refused("subnet", f"{key} {shown(text)} is not an IP address") from None
    if address not in subnet or "%" in whole:
        raise Refused("subnet", f"{key} {shown(text)} is not in the subnet {subnet}")
    return address


def _options(name: str, given: object) -> tuple[tuple[str, str], ...]:
    """Return the options of a shared network, all known and one of them its name. Raises Refused."""
    fields = _mapping("Options", given or {})
    _only("Options", fields, {option.key for option in options.OPTIONS})
    texts = {key: _printable(f"option {shown(key)}", value, _LABEL) for key, value in fields.items()}
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
            (_printable("a label's name", key, _LABEL_KEY), _printable(f"label {shown(key)}", value, _LABEL))
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
        raise Refused("definition", f"{what} has {shown(key)}, which is not allowed")


def _check(key: str, value: object, wanted: str) -> None:
    if value != wanted:
        raise _refused(key, value, f"it must be {wanted!r}")


def _refused(what: str, value: object, rule: str) -> Refused:
    return Refused("definition", f"{what} {shown(value)}: {rule}")


def shown(value: object) -> str:
    """Return a value in at most 80 characters, without control characters for a terminal."""
    if isinstance(value, dict | list):  # as deep as the parser can go, and repr() cannot
        return "(an object)" if isinstance(value, dict) else "(a list)"
    text = value if isinstance(value, str) else repr(value)
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")
