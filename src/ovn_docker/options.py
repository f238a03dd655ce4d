"""The options of ``docker network create -o KEY=VALUE``: a table for parsing, help and documentation.

Each mode of the driver has its own table. An option that both have means the same in both.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ovn_docker import allowed
from ovn_docker.allowed import Allowed
from ovn_docker.errors import BadRequest
from ovn_docker.policy import group_names
from ovn_docker.policy.language import PolicyRule, parse_short
from ovn_docker.text.spelling import hint

DOCKER = "com.docker.network."
"""Prefix of the names of Docker's own options."""

SHARED_NAME = "ovn.network"
"""The option that gives a network a name in the cluster."""


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """Parsed options of a network; ``None``: the user gave no value, and the driver chooses one."""

    mtu: int | None = None
    switch: str | None = None
    name: str | None = None
    any_router: bool = False
    snoop: bool = False
    names: bool = True
    deny: bool = False
    rules: tuple[PolicyRule, ...] = ()
    security_groups: tuple[str, ...] = ()
    allowed: tuple[Allowed, ...] = ()
    port_security: bool = True


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Parsed options of a container's attachment to a network."""

    router: bool = False
    allowed: tuple[Allowed, ...] = ()
    port_security: bool | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table: the *key* that the user types, the *field* that it sets, and its parser."""

    key: str
    field: str
    parse: Callable[[str], object]
    default: str
    help: str


def _mtu(text: str) -> int:
    """Parse an MTU in bytes: IPv4 needs at least 68 (RFC 791), a veth takes at most 65535."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 68 <= int(text) <= 65535):
        raise ValueError("a number of bytes from 68 to 65535")
    return int(text)


def _switch(text: str) -> str:
    """Parse the name or UUID of a logical switch (``ovn-nbctl ls-list``)."""
    if not text or not text.isprintable():
        raise ValueError("the name of a logical switch, see: ovn-nbctl ls-list")
    return text


def _neutron_network(text: str) -> str:
    """Parse the name or UUID of a Neutron network (``openstack network list``)."""
    if not text or not text.isprintable() or len(text) > 255:
        raise ValueError("the name or ID of a network, see: openstack network list")
    return text


def _name(text: str) -> str:
    """Parse the name of a shared network, which its logical switch and Docker networks get."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError("a name of 1 to 64 letters, digits, '_', '.' and '-', a letter or digit first")
    return text


def _routers(text: str) -> bool:
    """Return True if containers accept any router, False if only those marked with ``ovn.router=true``."""
    if text not in ("marked", "any"):
        raise ValueError("marked or any")
    return text == "any"


def _multicast(text: str) -> bool:
    """Return True if multicast is delivered to the members of a group alone (``snoop``)."""
    if text not in ("flood", "snoop"):
        raise ValueError("flood or snoop")
    return text == "snoop"


def _policy(text: str) -> bool:
    """Return True if containers reach each other only where rules allow it (``deny``)."""
    if text not in ("open", "deny"):
        raise ValueError("open or deny")
    return text == "deny"


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


def _switched(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("on or off")
    return text == "on"


def _groups(text: str) -> tuple[str, ...]:
    """Parse names or UUIDs of security groups, separated by commas (``openstack security group list``)."""
    groups = tuple(dict.fromkeys(filter(None, (group.strip() for group in text.split(",")))))
    if not groups or not text.isprintable():
        raise ValueError("names or IDs of security groups with commas, see: openstack security group list")
    return groups


MTU = "com.docker.network.driver.mtu"
ALLOWED = "ovn.allowed-addresses"
PORT_SECURITY = "ovn.port-security"
GROUPS = "ovn.groups"
ALLOW = "ovn.allow"
_SWITCH = "ovn.switch"
_NAMES = "ovn.names"

OPTIONS = (
    Option(
        MTU,
        "mtu",
        _mtu,
        "MTU of the interface with ovn-encap-ip, less the tunnel's overhead",
        "MTU in bytes of the containers' interfaces on this network, at most what the tunnels carry",
    ),
    Option(
        SHARED_NAME,
        "name",
        _name,
        "a network of this host alone",
        "name of the network in the cluster: it appears on every host, and is the same on all of them",
    ),
    Option(
        _SWITCH,
        "switch",
        _switch,
        "a logical switch of its own, named by the network's ID",
        "attach to this existing logical switch (name or UUID); it is never deleted",
    ),
    Option(
        "ovn.routers",
        "any_router",
        _routers,
        "marked: those of containers with `ovn.router=true`, and of routers whose MAC begins with 0e:42",
        "whose router advertisements, redirects and DHCP answers containers believe: marked, or any",
    ),
    Option(
        "ovn.multicast",
        "snoop",
        _multicast,
        "flood: to all containers on the network",
        "where multicast goes: to the containers that have joined the group by IGMP or MLD (snoop), or flood",
    ),
    Option(
        "ovn.policy",
        "deny",
        _policy,
        "`open`",
        "deny: no packet of the network reaches or leaves a container unless a rule allows it, but for ARP, "
        "neighbour discovery, answers, and queries for names",
    ),
    Option(
        ALLOW,
        "rules",
        parse_short,
        "none",
        "rules in one line, such as `web:tcp/80; db from web:tcp/5432`: who may begin to talk to whom",
    ),
    Option(
        _NAMES,
        "names",
        _switched,
        "`on`",
        "off: other hosts do not find the containers of the shared network by name, and ovn-northd does less "
        "for each container, which matters from about 2 000 on",
    ),
    Option(
        ALLOWED,
        "allowed",
        allowed.parse,
        "none",
        "addresses and subnets that every container may use besides its own, with commas or spaces, each "
        "with a MAC and `/` before it if it is not the container's own; no container can have one as its own",
    ),
    Option(
        PORT_SECURITY,
        "port_security",
        _switched,
        "`on`",
        "off: containers may send from any MAC and address",
    ),
)
"""Options of a network in the overlay mode."""

ENDPOINT = (
    Option(
        "ovn.router",
        "router",
        _flag,
        "`false`",
        "true: the others on the network believe this container's router advertisements, redirects and DHCP "
        "answers; its MAC begins with 0e:42",
    ),
    Option(
        ALLOWED,
        "allowed",
        allowed.parse,
        "those of the network",
        "addresses and subnets that this container may use besides its own and the network's, with spaces "
        "(Docker's command line takes commas for its own), each with a MAC and `/` before it if it is not "
        "the container's own",
    ),
    Option(
        PORT_SECURITY,
        "port_security",
        _switched,
        "that of the network",
        "off: the container may send from any MAC and address; on: it may not, though the network's are off",
    ),
    Option(
        GROUPS,
        "groups",
        group_names.parse,
        "none",
        "groups on the network that the container belongs to, with spaces (Docker's command line takes "
        "commas for its own); OVN has each as a port group",
    ),
)
"""Options of a container's attachment to a network in the overlay mode."""

UNDERLAY = (
    Option(
        MTU,
        "mtu",
        _mtu,
        "what Neutron gives the network, at most the MTU of the VM's own network",
        "MTU in bytes of the network and of the containers' interfaces on it",
    ),
    Option(
        SHARED_NAME,
        "name",
        _name,
        "a Neutron network of its own, named by the Docker network's ID",
        "name of a Neutron network that VMs of the project share: the first to ask for it makes it, the last "
        "to remove it deletes it",
    ),
    Option(
        _SWITCH,
        "switch",
        _neutron_network,
        "a Neutron network of its own",
        "attach to this existing Neutron network (name or ID); it is never changed nor deleted",
    ),
    Option(
        "ovn.security-groups",
        "security_groups",
        _groups,
        "the project's group `default`",
        "security groups of the containers' ports (names or IDs, with commas)",
    ),
    *OPTIONS[-2:],
)
"""Options of a network in the underlay mode."""

UNDERLAY_ENDPOINT = ENDPOINT[1:-1]
"""Options of a container's attachment to a network in the underlay mode."""


def parse(given: Mapping[str, object], table: tuple[Option, ...] = OPTIONS) -> NetworkOptions:
    """Parse Docker's ``com.docker.network.generic`` map by the *table* of the mode.

    Options of Docker's other drivers are ignored. Raises BadRequest for any other unknown key (with the
    nearest known one) or a bad value.
    """
    given = {key: value for key, value in given.items() if not is_of_others(key, table)}
    fields = _fields(given, table, UNDERLAY if table is OPTIONS else OPTIONS)
    for field in ("name", "snoop", "deny", "rules"):
        if "switch" in fields and fields.get(field):
            (key,) = (option.key for option in table if option.field == field)
            raise BadRequest(f"options {key} and {_SWITCH} exclude each other: give one of them")
    if "names" in fields and "name" not in fields:
        raise BadRequest(f"option {_NAMES} is for shared networks: give {SHARED_NAME}=NAME, too")
    return NetworkOptions(**fields)


def is_of_others(key: str, table: tuple[Option, ...] = OPTIONS) -> bool:
    """Return True if an option belongs to Docker's other drivers, such as a bridge's name: it is ignored.

    Compose files that were written for the bridge driver have such options. A key that ends like one of
    *table*, such as ``com.docker.network.mtu``, counts as mistyped instead.
    """
    ends = {option.key.rpartition(".")[2] for option in table}
    return (
        key.startswith(DOCKER)
        and key not in {option.key for option in table}
        and key.rpartition(".")[2].lower() not in ends
    )


def parse_endpoint(given: Mapping[str, object], table: tuple[Option, ...] = ENDPOINT) -> EndpointOptions:
    """Parse the options of CreateEndpoint by the *table* of the mode.

    Docker puts its own options and those of ``--driver-opt`` into one map. Keys without the prefix ``ovn.``
    are ignored, as Docker's bridge driver does. Raises BadRequest for an unknown key or a bad value.
    """
    ours = {key: value for key, value in given.items() if key.startswith("ovn.")}
    others = UNDERLAY_ENDPOINT if table is ENDPOINT else ENDPOINT
    return EndpointOptions(**_fields(ours, table, others))


def _fields(
    given: Mapping[str, object], table: tuple[Option, ...], others: tuple[Option, ...]
) -> dict[str, Any]:
    """Return the values by field; *others*: the options of the other mode, for the error message."""
    known = {option.key: option for option in table}
    fields: dict[str, Any] = {}
    for key, value in given.items():
        option = known.get(key)
        if option is None:
            if any(key == other.key for other in others):
                mode = "underlay" if others in (UNDERLAY, UNDERLAY_ENDPOINT) else "overlay"
                raise BadRequest(f"option {key} is for the {mode} mode, and this driver is in the other one")
            raise BadRequest(unknown(key, known))
        text = value if isinstance(value, str) else repr(value)
        try:
            fields[option.field] = option.parse(text)
        except ValueError as error:
            raise BadRequest(f"option {key}={text[:80]!r} is not valid: give {error}") from None
    return fields


def unknown(key: str, known: Mapping[str, Option]) -> str:
    """Return a line that names the unknown option and the nearest known ones."""
    all_known = f"known options: {', '.join(sorted(known)) or 'none'}"
    return f"unknown option {key[:100]!r}: {hint(key, known) or all_known}"
