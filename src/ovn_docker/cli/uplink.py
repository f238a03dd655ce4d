"""What hangs on a network interface: read with ip(8), put onto another one.

Everything is kept as arguments of ip(8), so that what is shown, what is done and what is undone are the same.
"""

import itertools
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from ovn_docker.cli.steps import Steps, run
from ovn_docker.errors import BadRequest, OvnDockerError

LINK = ""
"""Stands for the interface's name in the arguments that are kept: no word of ip(8) is empty."""

FOREVER = 0xFFFFFFFF  # a lifetime, linux/if_addr.h
FAMILIES = ("-4", "-6") if Path("/proc/sys/net/ipv6").exists() else ("-4",)

# Words of `ip -details route show` that are the kernel's remarks, without and with a value: ip(8) does not
# take them back (ip-route(8)).
REMARKS = {"dead", "linkdown", "pervasive", "offload", "offload_failed", "trap", "unresolved"}
VALUED_REMARKS = {"error", "nhid"}
OF_THE_KERNEL = {"local", "broadcast", "anycast"}

SYSCTL = Path("/proc/sys/net")
# Not for copying: read-only, of the MTU (which is set on its own), or secret and bound to the interface.
NOT_COPIED = {"mc_forwarding", "mtu", "stable_secret"}

SILENCE = {"ipv4": {"rp_filter": "1", "arp_ignore": "8"}, "ipv6": {"disable_ipv6": "1"}}
"""Settings of an interface whose packets only Open vSwitch is to see.

In user space it reads them as tcpdump does: the kernel gets them too, and would answer everything twice
(Open vSwitch documentation, intro/install/userspace; linux, networking/ip-sysctl).
"""


@dataclass(frozen=True)
class Uplink:
    """Addresses, routes, rules and settings of an interface; of the last, those that differ from the default.

    Addresses, routes and rules are ``(family, arguments)``, in the order in which they are to be added.
    """

    addresses: list[list[str]]
    routes: list[list[str]]
    rules: list[list[str]]
    sysctls: dict[str, str]
    """Name relative to net, with LINK as the interface's: ``ipv6/conf//accept_ra``; value."""


def read(link: str) -> Uplink:
    """What hangs on *link* now."""
    return Uplink(_addresses(link), _routes(link), _rules(link), _sysctls(link))


def description(link: str) -> dict[str, Any]:
    """MAC, MTU, flags and kind of *link*, as ``ip -json link`` has them.

    Raises:
        BadRequest: there is no such interface.

    """
    known = json.loads(run(("ip", "-json", "-details", "link", "show")))
    for found in known:
        if found["ifname"] == link:
            return dict(found)
    names = ", ".join(sorted(found["ifname"] for found in known if found["ifname"] != "lo"))
    raise BadRequest(f"--interface {link}: there is no such interface; this host has {names or 'none'}")


def exists(link: str) -> bool:
    """Whether there is a link of this name."""
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
    """An address as ``ip address replace`` takes it."""
    family = "-6" if info["family"] == "inet6" else "-4"
    length = info["prefixlen"]
    words = [family, f"{info['local']}/{length}"]
    if "address" in info:
        words = [family, info["local"], "peer", f"{info['address']}/{length}"]
    if "broadcast" in info:
        words += ["broadcast", info["broadcast"]]
    label = info.get("label", link)
    if label.startswith(f"{link}:"):
        words += ["label", label.removeprefix(link)]  # the rest is added when it is used
    if "metric" in info:
        words += ["metric", str(info["metric"])]
    words += ["scope", str(info["scope"])]
    if info["valid_life_time"] != FOREVER:
        words += ["valid_lft", str(info["valid_life_time"])]
        words += ["preferred_lft", _lifetime(info["preferred_life_time"])]
    words += [flag for flag in ("noprefixroute", "mngtmpaddr", "home", "autojoin") if info.get(flag)]
    # Nobody else can have it: it is on this host already.
    return [*words, "nodad"] if family == "-6" else words


def _lifetime(seconds: int) -> str:
    return "forever" if seconds == FOREVER else str(seconds)


def _routes(link: str) -> list[list[str]]:
    """Routes of all tables but those that the kernel makes itself; those that others rest on come first.

    Of an address with noprefixroute it makes none: then a program does, which may call it the kernel's, as
    NetworkManager.
    """
    of_programs = {_prefix(words) for words in _addresses(link) if "noprefixroute" in words}
    routes = []
    for family in FAMILIES:
        for line in run(("ip", "-details", "-oneline", family, "route", "show", "table", "all")).splitlines():
            words = _settable(line.replace("\\", " ").split(), link)
            if (
                words
                and LINK in words
                and words[0] not in OF_THE_KERNEL
                and not (words[0] == "multicast" and _has(words, "table", "local"))
                and (not _has(words, "proto", "kernel") or not of_programs.isdisjoint(words[:2]))
            ):
                routes.append([family, *words])
    return sorted(routes, key=lambda words: "via" in words)


def _prefix(words: list[str]) -> str:
    """The network of an address, as ``ip route show`` has it."""
    network = ip_interface(words[3] if words[2:3] == ["peer"] else words[1]).network
    return str(network if network.prefixlen < network.max_prefixlen else network.network_address)


def _settable(words: list[str], link: str) -> list[str]:
    """A line of ``ip route show`` as ``ip route append`` takes it, with LINK for the interface."""
    settable: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "dev":
            name = next(rest)
            settable += [word, LINK if name == link else name]
        elif word == "expires":
            settable += [word, next(rest).removesuffix("sec")]
        elif word in VALUED_REMARKS:
            next(rest)
        elif word == "lock" and settable[-1:] == ["rto_min"]:
            continue  # that goes without saying, and is not taken back
        elif word not in REMARKS:
            settable.append(word)
    return settable


def _has(words: list[str], key: str, value: str) -> bool:
    return any(pair == (key, value) for pair in itertools.pairwise(words))


def _rules(link: str) -> list[list[str]]:
    """Policy routing rules that name the interface (ip-rule(8))."""
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
    """Arguments with the interface's name where LINK stands for it."""
    return [word or link for word in words]


def set_sysctls(steps: Steps, wanted: dict[str, str], link: str, now: str | None = None) -> None:
    """Set what differs; *now* is the interface whose values a *link* has that is not there yet."""
    for key, value in wanted.items():
        name = key.replace("//", f"/{link}/")
        file = SYSCTL / key.replace("//", f"/{now or link}/")
        if _value(file) in {value, None}:
            continue
        steps.note(f"set {name.rpartition('/')[2]} of {link} to {value}", f"sysctl -w net/{name}={value}")
        if not steps.dry_run:
            try:
                (SYSCTL / name).write_text(value, encoding="ascii")
            except OSError as error:
                raise OvnDockerError(f"cannot set net/{name} to {value}: {error.strerror}") from None


def silence(steps: Steps, link: str) -> None:
    """Leave the interface's packets to Open vSwitch alone."""
    for family, values in SILENCE.items():
        set_sysctls(steps, {f"{family}/conf/{LINK}/{name}": value for name, value in values.items()}, link)


def speech(sysctls: dict[str, str]) -> dict[str, str]:
    """Of an interface's settings those that `silence` changes."""
    names = {f"{family}/conf/{LINK}/{name}" for family, values in SILENCE.items() for name in values}
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
                f"give {link} the address {words[1]}", "ip", family, "address", "replace", *rest, "dev", link
            )


def _identity(words: list[str]) -> tuple[str, ...]:
    """What tells addresses of an interface apart: the address and its length, and the peer's."""
    return tuple(words[1:4] if words[2:3] == ["peer"] else words[1:2])


def add_routes(steps: Steps, uplink: Uplink, link: str) -> None:
    """Add the routes and rules that the interface does not have.

    The same route may be on another interface: then this one comes behind it, and takes its place when that
    one goes. IPv6 would make one route with two next hops of them, so there a route by a gateway is replaced.
    """
    present = [_lasting(words) for words in _routes(link)] if exists(link) else []
    for words in uplink.routes:
        if _lasting(words) not in present and not _brought(words, present):
            family, *rest = words
            verb = "replace" if family == "-6" and "via" in rest else "append"
            steps.change(
                f"give {link} the route {_goal(rest)}", "ip", family, "route", verb, *named(rest, link)
            )
    rules = _rules(link)
    for words in uplink.rules:
        if words not in rules:
            family, *rest = words
            steps.change(f"add the rule for {link}", "ip", family, "rule", "add", *named(rest, link))


def _brought(words: list[str], present: list[list[str]]) -> bool:
    """Whether the DHCP client has made such a route itself, if with another metric (dhcpcd.conf(5))."""
    return _has(words, "proto", "dhcp") and any(
        one[:3] == words[:3] and _has(one, "proto", "dhcp") for one in present
    )


def _goal(words: list[str]) -> str:
    """The destination of a route, and its table if that is not main."""
    goal = next(word for word in words if word not in {"unicast", "throw", "unreachable"})
    table = words[words.index("table") + 1] if "table" in words else "main"
    return goal if table == "main" else f"{goal} in table {table}"


def _lasting(words: list[str]) -> list[str]:
    """A route without the time that it has left."""
    if "expires" in words:
        at = words.index("expires")
        return words[:at] + words[at + 2 :]
    return words


def remove_rules(steps: Steps, uplink: Uplink, link: str) -> None:
    """Remove the policy rules for an interface; they would outlive it."""
    present = _rules(link)
    for words in uplink.rules:
        if words in present:
            family, *rest = words
            steps.change(f"remove the rule for {link}", "ip", family, "rule", "del", *named(rest, link))


def remove_all(steps: Steps, uplink: Uplink, link: str) -> None:
    """Take routes, rules and addresses off the interface; what is gone already is fine."""
    present = [_lasting(words) for words in _routes(link)]
    for words in uplink.routes:
        family, *rest = _lasting(words)
        replaced = steps.dry_run and family == "-6" and "via" in words  # see add_routes
        if [family, *rest] in present and not replaced:
            steps.change(
                f"take the route {_goal(rest)} off {link}", "ip", family, "route", "del", *named(rest, link)
            )
    remove_rules(steps, uplink, link)
    for family, name in (("-4", "IPv4"), ("-6", "IPv6")):
        if any(words[0] == family for words in _addresses(link)):
            steps.change(
                f"take the {name} addresses off {link}", "ip", family, "address", "flush", "dev", link
            )


def is_up(link: str) -> bool:
    """Whether there is such an interface, and it is up."""
    return exists(link) and "UP" in description(link)["flags"]
