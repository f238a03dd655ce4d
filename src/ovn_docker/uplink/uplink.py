"""The network of an interface (addresses, routes, rules, settings): read with ip(8), put onto another one.

All of it is kept as arguments of ip(8), so that the commands shown, run and undone are the same.
"""

import itertools
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.host.run import run
from ovn_docker.setup.steps import Steps

LINK = ""
"""Placeholder of the interface's name in arguments that are kept; ip(8) has no empty argument."""

FOREVER = 0xFFFFFFFF  # a lifetime, linux/if_addr.h
FAMILIES = ("-4", "-6") if Path("/proc/sys/net/ipv6").exists() else ("-4",)

# Words of `ip -details route show` that describe the state of a route, without and with a value: ip(8) does
# not accept them as arguments (ip-route(8)).
STATE_WORDS = {"dead", "linkdown", "pervasive", "offload", "offload_failed", "trap", "unresolved"}
STATE_WORDS_WITH_VALUE = {"error", "nhid"}
KERNEL_TYPES = {"local", "broadcast", "anycast"}

SYSCTL = Path("/proc/sys/net")
# Settings that are not copied: read-only, of the MTU (which is set on its own), or secret.
NOT_COPIED = {"mc_forwarding", "mtu", "stable_secret"}

KERNEL_STACK_OFF = {"ipv4": {"rp_filter": "1", "arp_ignore": "8"}, "ipv6": {"disable_ipv6": "1"}}
"""Settings of an interface whose packets Open vSwitch alone handles.

In user space Open vSwitch reads packets as tcpdump does: the kernel gets them too, and would answer them a
second time (Open vSwitch documentation, intro/install/userspace; linux, networking/ip-sysctl).
"""


@dataclass(frozen=True)
class Uplink:
    """Addresses, routes, rules and settings of an interface.

    Addresses, routes and rules are lists of a family and arguments, in the order in which to add them.
    """

    addresses: list[list[str]]
    routes: list[list[str]]
    rules: list[list[str]]
    sysctls: dict[str, str]
    """Value by name below /proc/sys/net, with LINK for the interface: ``ipv6/conf//accept_ra``."""


def read(link: str) -> Uplink:
    """Read the network of *link*."""
    return Uplink(_addresses(link), _routes(link), _rules(link), _sysctls(link))


def description(link: str) -> dict[str, Any]:
    """Return MAC, MTU, flags and kind of *link*, as ``ip -json link`` prints them.

    Raises:
        BadRequest: there is no such interface.

    """
    known = json.loads(run(("ip", "-json", "-details", "link", "show")))
    for found in known:
        if found["ifname"] == link:
            return dict(found)
    names = ", ".join(sorted(found["ifname"] for found in known if found["ifname"] != "lo"))
    raise BadRequest(f"--interface {link}: there is no such interface; this host has {names or 'no others'}")


def exists(link: str) -> bool:
    """True if a link of this name exists."""
    return any(name == link for _, name in socket.if_nameindex())


def _addresses(link: str) -> list[list[str]]:
    found = [i["addr_info"] for i in json.loads(run(("ip", "-json", "address", "show", "dev", link)))]
    infos = [info for infos in found for info in infos if info and not info.get("dadfailed")]
    # The kernel lists new IPv6 addresses first, and new IPv4 addresses last.
    ordered = [i for i in infos if i["family"] == "inet"] + [
        i for i in reversed(infos) if i["family"] == "inet6"
    ]
    return [_address(info, link) for info in ordered]


def _address(info: dict[str, Any], link: str) -> list[str]:
    """Return an address as arguments of ``ip address replace``."""
    family = "-6" if info["family"] == "inet6" else "-4"
    length = info["prefixlen"]
    words = [family, f"{info['local']}/{length}"]
    if "address" in info:
        words = [family, info["local"], "peer", f"{info['address']}/{length}"]
    if "broadcast" in info:
        words += ["broadcast", info["broadcast"]]
    label = info.get("label", link)
    if label.startswith(f"{link}:"):
        words += ["label", label.removeprefix(link)]  # add_addresses() puts the name of the link before it
    if "metric" in info:
        words += ["metric", str(info["metric"])]
    words += ["scope", str(info["scope"])]
    if info["valid_life_time"] != FOREVER:
        words += ["valid_lft", str(info["valid_life_time"])]
        words += ["preferred_lft", _lifetime(info["preferred_life_time"])]
    words += [flag for flag in ("noprefixroute", "mngtmpaddr", "home", "autojoin") if info.get(flag)]
    # No other host can have the address: it is on this one.
    return [*words, "nodad"] if family == "-6" else words


def _lifetime(seconds: int) -> str:
    return "forever" if seconds == FOREVER else str(seconds)


def _routes(link: str) -> list[list[str]]:
    """Return the routes of all tables but those that the kernel makes; routes that others need come first.

    For an address with noprefixroute the kernel makes no route. The program that then makes it, such as
    NetworkManager, may mark the route as the kernel's.
    """
    of_programs = {_prefix(words) for words in _addresses(link) if "noprefixroute" in words}
    routes = []
    for family in FAMILIES:
        for line in run(("ip", "-details", "-oneline", family, "route", "show", "table", "all")).splitlines():
            words = _settable(line.replace("\\", " ").split(), link)
            if (
                words
                and LINK in words
                and not _has_ended(words)
                and words[0] not in KERNEL_TYPES
                and not (words[0] == "multicast" and _has(words, "table", "local"))
                and (not _has(words, "proto", "kernel") or not of_programs.isdisjoint(words[:2]))
            ):
                routes.append([family, *words])
    return sorted(routes, key=lambda words: "via" in words)


def _has_ended(words: list[str]) -> bool:
    """Return whether the lifetime of a route is over: the kernel shows such a route until it deletes it."""
    return "expires" in words and int(words[words.index("expires") + 1]) <= 0


def _prefix(words: list[str]) -> str:
    """Return the network of an address, as ``ip route show`` prints it."""
    network = ip_interface(words[3] if words[2:3] == ["peer"] else words[1]).network
    return str(network if network.prefixlen < network.max_prefixlen else network.network_address)


def _settable(words: list[str], link: str) -> list[str]:
    """Return a line of ``ip route show`` as arguments of ``ip route append``, with LINK for the interface."""
    settable: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "dev":
            name = next(rest)
            settable += [word, LINK if name == link else name]
        elif word == "expires":
            settable += [word, next(rest).removesuffix("sec")]
        elif word in STATE_WORDS_WITH_VALUE:
            next(rest)
        elif word == "lock" and settable[-1:] == ["rto_min"]:
            continue  # implied by rto_min, and not accepted as an argument
        elif word not in STATE_WORDS:
            settable.append(word)
    return settable


def _has(words: list[str], key: str, value: str) -> bool:
    return any(pair == (key, value) for pair in itertools.pairwise(words))


def _rules(link: str) -> list[list[str]]:
    """Return the policy routing rules that name the interface (ip-rule(8))."""
    rules = []
    for family in FAMILIES:
        for line in run(("ip", family, "rule", "show")).splitlines():
            preference, _, rest = line.partition(":")
            words = [word for word in rest.split() if word != "[detached]"]
            if _has(words, "iif", link) or _has(words, "oif", link):
                named = [
                    LINK if word == link and before in {"iif", "oif"} else word
                    for before, word in zip(["", *words], words, strict=False)
                ]
                rules.append([family, "preference", preference, *named])
    return rules


def _sysctls(link: str) -> dict[str, str]:
    """Return the settings of the interface in /proc/sys/net that can be copied to another one."""
    values = {}
    for family in ("ipv4", "ipv6"):
        for file in sorted((SYSCTL / family / "conf" / link).glob("*")):
            if file.name not in NOT_COPIED and (value := _value(file)) is not None:
                values[f"{family}/conf/{LINK}/{file.name}"] = value
    return values


def _value(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return None


def named(words: Iterable[str], link: str) -> list[str]:
    """Return arguments with *link* in the place of LINK."""
    return [word or link for word in words]


def set_sysctls(steps: Steps, wanted: dict[str, str], link: str, of_link: str | None = None) -> None:
    """Set the settings of *link* that differ; *of_link*: a link with its values, if *link* does not exist."""
    for key, value in wanted.items():
        name = key.replace("//", f"/{link}/")
        file = SYSCTL / key.replace("//", f"/{of_link or link}/")
        if _value(file) in {value, None}:
            continue
        steps.show(f"set {name.rpartition('/')[2]} of {link} to {value}", f"sysctl -w net/{name}={value}")
        if not steps.dry_run:
            try:
                (SYSCTL / name).write_text(value, encoding="ascii")
            except OSError as error:
                raise OvnDockerError(f"cannot set net/{name} to {value}: {error.strerror}") from None


def disable_kernel_stack(steps: Steps, link: str) -> None:
    """Keep the kernel from answering packets of the interface: Open vSwitch alone handles them."""
    for family, values in KERNEL_STACK_OFF.items():
        set_sysctls(steps, {f"{family}/conf/{LINK}/{name}": value for name, value in values.items()}, link)


def kernel_stack_settings(sysctls: dict[str, str]) -> dict[str, str]:
    """Return those of an interface's settings that disable_kernel_stack() changes."""
    names = {f"{family}/conf/{LINK}/{name}" for family, values in KERNEL_STACK_OFF.items() for name in values}
    return {key: value for key, value in sysctls.items() if key in names}


def add_addresses(steps: Steps, uplink: Uplink, link: str) -> None:
    """Add the addresses that the interface does not have."""
    present = {_identity(words) for words in _addresses(link)} if exists(link) else set()
    for words in uplink.addresses:
        if _identity(words) not in present:
            family, *rest = words
            if "label" in rest:
                at = rest.index("label") + 1
                rest[at] = (link + rest[at])[:15]
            steps.change(
                f"add address {words[1]} to {link}", "ip", family, "address", "replace", *rest, "dev", link
            )


def _identity(words: list[str]) -> tuple[str, ...]:
    """Return what distinguishes addresses of an interface: the address, its prefix length, and the peer."""
    return tuple(words[1:4] if words[2:3] == ["peer"] else words[1:2])


def add_routes(steps: Steps, uplink: Uplink, link: str) -> None:
    """Add the routes and rules that the interface does not have.

    If another interface has the same route, the new one is added behind it and takes effect when that one is
    removed. IPv6 would join the two to one with two next hops, so there a route by a gateway is replaced.
    """
    present = [_without_expiry(words) for words in _routes(link)] if exists(link) else []
    for words in uplink.routes:
        if _without_expiry(words) not in present and not _set_by_client(words, present):
            family, *rest = words
            verb = "replace" if family == "-6" and "via" in rest else "append"
            steps.change(
                f"add route {_destination(rest)} to {link}",
                *("ip", family, "route", verb, *named(rest, link)),
                # A program has made it meanwhile, as systemd-networkd does when a router advertises.
                unless=partial(_has_route, link, words),
            )
    rules = _rules(link)
    for words in uplink.rules:
        if words not in rules:
            family, *rest = words
            steps.change(f"add the rule for {link}", "ip", family, "rule", "add", *named(rest, link))


def _has_route(link: str, words: list[str]) -> bool:
    """True if the interface has a route that for the kernel is the same: attributes may differ."""
    return exists(link) and _identity_of_route(words) in map(_identity_of_route, _routes(link))


def _identity_of_route(words: list[str]) -> tuple[str, ...]:
    """Return what distinguishes routes of an interface: destination with table, gateway, metric."""
    gateway, metric = (words[words.index(key) + 1] if key in words else "" for key in ("via", "metric"))
    return words[0], _destination(words[1:]), gateway, metric


def _set_by_client(words: list[str], present: list[list[str]]) -> bool:
    """True if the DHCP client has made such a route itself, perhaps with another metric (dhcpcd.conf(5))."""
    return _has(words, "proto", "dhcp") and any(
        one[:3] == words[:3] and _has(one, "proto", "dhcp") for one in present
    )


def _destination(words: list[str]) -> str:
    """Return the destination of a route, and its table if that is not main."""
    destination = next(word for word in words if word not in {"unicast", "throw", "unreachable"})
    table = words[words.index("table") + 1] if "table" in words else "main"
    return destination if table == "main" else f"{destination} in table {table}"


def _without_expiry(words: list[str]) -> list[str]:
    """Return a route without its lifetime."""
    if "expires" in words:
        at = words.index("expires")
        return words[:at] + words[at + 2 :]
    return words


def remove_rules(steps: Steps, uplink: Uplink, link: str) -> None:
    """Remove the policy rules for an interface, which would outlive it."""
    present = _rules(link)
    for words in uplink.rules:
        if words in present:
            family, *rest = words
            steps.change(f"remove the rule for {link}", "ip", family, "rule", "del", *named(rest, link))


def remove_all(steps: Steps, uplink: Uplink, link: str) -> None:
    """Remove routes, rules and addresses from the interface; they may have been removed already."""
    present = [_without_expiry(words) for words in _routes(link)]
    for words in uplink.routes:
        family, *rest = _without_expiry(words)
        replaced = steps.dry_run and family == "-6" and "via" in words  # see add_routes
        if [family, *rest] in present and not replaced:
            steps.change(
                f"remove route {_destination(rest)} from {link}",
                "ip",
                family,
                "route",
                "del",
                *named(rest, link),
            )
    remove_rules(steps, uplink, link)
    for family, name in (("-4", "IPv4"), ("-6", "IPv6")):
        if any(words[0] == family for words in _addresses(link)):
            steps.change(
                f"remove the {name} addresses from {link}", "ip", family, "address", "flush", "dev", link
            )


def is_up(link: str) -> bool:
    """True if the interface exists and is up."""
    return exists(link) and "UP" in description(link)["flags"]
