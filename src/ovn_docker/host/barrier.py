"""Barrier between containers and the services of the cluster: nftables tables of our own (nft(8)).

Containers on Docker's bridges reach everything that their host reaches, which forwards and masquerades. The
rules here refuse packets from a Linux bridge to one of SERVICES, on this host and beyond it. They do not name
Docker's bridges: a list of them would lack a new bridge for a moment. They do not use chains of iptables, so
Docker, ufw and firewalld may flush and reload their rules at any time. Only
``nft flush ruleset`` removes the tables; the kernel reports that, and Barrier restores them.

The same tables drop what this host's own network stack receives from, and sends to, the links of our
endpoints: those are for Open vSwitch alone. Its datapath takes frames before these hooks are reached: in the
kernel by the link's rx_handler, in user space by a packet socket. Both precede the protocols' receive
functions (net/core/dev.c, __netif_receive_skb_core()). netdev's ingress hook is not used: it precedes the
rx_handler, so a drop there would cut off the kernel datapath.
"""

import logging
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple

from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.host.kernel import netlink
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.kernel.netlink import attributes
from ovn_docker.host.run import StepFailed, run
from ovn_docker.model import HOST_LINK, IpAddress
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

TABLE = "ovn-docker"
_FAMILIES = ("inet", "arp")
_FAMILY_NUMBERS = (1, 3)  # linux/netfilter.h, NFPROTO_INET and NFPROTO_ARP: first byte of struct nfgenmsg


class Service(NamedTuple):
    """A service that containers must not reach; *port*: of TCP."""

    about: str
    port: int


METRICS = 9476
"""The documented port of the metrics: other hosts' settings are not known here."""

SERVICES = (
    Service("OVN's northbound database", 6641),
    Service("OVN's southbound database", 6642),
    Service("members of the northbound database among themselves", 6643),
    Service("members of the southbound database among themselves", 6644),
    Service("enrolment of hosts", 6645),
    Service("metrics of the drivers", METRICS),
)
"""Services refused at every address, because a server may listen on addresses that are not known here."""

_DATABASES = {one.port for one in SERVICES} - {METRICS}

TUNNELS = {"geneve": 6081, "vxlan": 4789}
"""UDP ports of the tunnels (RFC 8926, RFC 7348), which authenticate senders by address only."""

_NOT_DOCKERS = 'iifname != { "docker0", "docker_gwbridge" }'
"""Bridges that are never an uplink, even if a database has an address of theirs."""

_REMOTE = re.compile(r"(?:tcp|ssl):(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})")
_ANYWHERE = ("198.51.100.1", "2001:db8::1")  # RFC 5737, RFC 3849: only the default route leads there

UP = "up"

_INTERVAL = 5.0
"""Seconds between two readings of the settings from which the rules follow."""

_LOOK = 60.0
"""Seconds between two comparisons of tables and links without a report from the kernel."""

_DEBOUNCE = 0.1
"""Least time between two repairs in seconds, in case another program keeps deleting the tables."""

_TIMEOUT = 10.0
"""Time limit of nft(8) in seconds."""

_NETFILTER = 12  # linux/netlink.h, NETLINK_NETFILTER
_RULES_CHANGED = 7  # linux/netfilter/nfnetlink.h, NFNLGRP_NFTABLES
_OF_NFTABLES = 10  # NFNL_SUBSYS_NFTABLES, the upper byte of a message's type
_NFGENMSG = 4  # bytes of struct nfgenmsg
_TABLE_NAME = 1  # linux/netfilter/nf_tables.h: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, ...

_SOCKETS = 20  # linux/sock_diag.h, SOCK_DIAG_BY_FAMILY
_SOCK_DIAG = 4  # linux/netlink.h, NETLINK_SOCK_DIAG
_LISTENING = 1 << 10  # include/net/tcp_states.h, TCPF_LISTEN
_WANTED_SOCKETS = struct.Struct("BBxxI48x")  # struct inet_diag_req_v2
_SOCKET = struct.Struct("!4xH2x16s")  # struct inet_diag_msg: source port and address


@dataclass(frozen=True, slots=True)
class Exposed:
    """Services known to this host, besides SERVICES.

    *databases*: addresses and ports; *ours*: ports of those that are this host's own, refused at each of its
    addresses; *metrics*: the port of its metrics, refused everywhere since other hosts likely have the same;
    *published*: addresses at which other hosts, and no containers, reach this one; *tunnels*: UDP ports;
    *open*: names of bridges for which there is no barrier.
    """

    databases: frozenset[tuple[IpAddress, int]] = frozenset()
    ours: frozenset[int] = frozenset()
    metrics: int | None = None
    published: frozenset[IpAddress] = frozenset()
    tunnels: frozenset[int] = frozenset()
    open: tuple[str, ...] = ()


def survey(ids: Mapping[str, str], metrics: int | None = None, open_: tuple[str, ...] = ()) -> Exposed:
    """Return the services by this host's settings.

    *ids*: external_ids of the Open_vSwitch database (ovn-controller(8)), not validated: names and invalid
    addresses are left out. *metrics*: port of this host's own metrics.
    """
    databases = frozenset(
        (address, port)
        for key in ("ovn-nb", "ovn-remote")
        for text in ids.get(key, "").split(",")
        if (written := _REMOTE.fullmatch(text.strip()))
        and (address := _address(written[1] or written[2]))
        and 0 < (port := int(written[3])) < 1 << 16
    )
    ours = {port for address, port in databases if _is_ours(address)}
    published: set[IpAddress] = {
        *(address for address, _ in databases),
        *(one for text in ids.get("ovn-encap-ip", "").split(",") if (one := _address(text))),
        *(one for address in _ANYWHERE if (one := _source_towards(ip_address(address)))),
        *(address for address, port in listeners() if port in ours | _DATABASES),
    }
    types = ids.get("ovn-encap-type", "geneve").split(",")
    return Exposed(
        databases,
        frozenset(ours),
        metrics,
        frozenset(
            one
            for one in published
            if not (one.is_loopback or one.is_link_local or one.is_unspecified or one.is_multicast)
        ),
        frozenset(TUNNELS[type_.strip()] for type_ in types if type_.strip() in TUNNELS),
        open_,
    )


def ruleset(exposed: Exposed) -> str:
    """Return the tables as a transaction for ``nft -f`` that replaces earlier ones. Pure.

    Order matters in the chains of services: replies first, since a client may have any source port. A table's
    ``accept`` is for that table; others, such as Docker's, decide as before.
    """
    known = {one.port for one in SERVICES} | ({exposed.metrics} if exposed.metrics else set())
    # Packets that stay on their bridge are bridged, not forwarded; br_netfilter passes them here, too.
    elsewhere = ["fib daddr . iif oif exists accept", *_refuse_tcp(known), *_drop_udp(exposed.tunnels)]
    # A host whose uplink is itself a bridge serves the cluster there, at the address of that bridge.
    published = _destinations(exposed.published)
    here = [
        *(f"{_NOT_DOCKERS} fib daddr . iif type local {rule} accept" for rule in published),
        *_refuse_tcp(known | exposed.ours),
        *_drop_udp(exposed.tunnels),
    ]
    for version, name in ((4, "ip"), (6, "ip6")):
        pairs = sorted(
            f"{address} . {port}"
            for address, port in exposed.databases
            if address.version == version and port not in known
        )
        if pairs:
            elsewhere.append(f"{name} daddr . tcp dport {_set(pairs)} counter reject with tcp reset")
    before = [f'iifname "{bridge}" accept' for bridge in exposed.open] + ["ct direction reply accept"]
    link = f'"{HOST_LINK}*"'
    # -450: before fragments are put together, and before connections are tracked (linux/netfilter_ipv4.h).
    return "".join(
        f"table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in _FAMILIES
    ) + "\n".join(
        [
            f"table inet {TABLE} {{",
            *_chain("elsewhere", *before, *elsewhere),
            *_chain("here", *before, *here),
            *_chain(
                "forward",
                "type filter hook forward priority filter - 5",
                'meta iifkind "bridge" jump elsewhere',
            ),
            *_chain("input", "type filter hook input priority filter - 5", 'meta iifkind "bridge" jump here'),
            *_chain("from-links", "type filter hook prerouting priority -450", f"iifname {link} drop"),
            *_chain("to-links", "type filter hook output priority -450", f"oifname {link} drop"),
            "}",
            f"table arp {TABLE} {{",
            *_chain("from-links", "type filter hook input priority filter", f"iifname {link} drop"),
            *_chain("to-links", "type filter hook output priority filter", f"oifname {link} drop"),
            "}",
            "",
        ]
    )


def load(text: str) -> None:
    """Load the tables, all or none. Raises Unavailable."""
    try:
        run(("nft", "-f", "-"), _TIMEOUT, text=text)
    except StepFailed as failed:  # the first line names the error, the others quote the rule
        raise Unavailable(f"nft failed: {(failed.lines or [failed.code])[0]}") from None


def remove() -> None:
    """Delete the tables, which need not exist. Raises Unavailable."""
    load("".join(f"table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in _FAMILIES))


def listed() -> str:
    """Return the kernel's tables without counters; empty if one is missing. Raises Unavailable."""
    with suppress(StepFailed):
        listing = ("nft", "--stateless", "list", "table")
        return "".join(run((*listing, family, TABLE), _TIMEOUT) for family in _FAMILIES)
    return ""


def listeners() -> set[tuple[IpAddress, int]]:
    """Return addresses and ports of this host's listening TCP sockets (sock_diag(7))."""
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        wanted = _WANTED_SOCKETS.pack(family, socket.IPPROTO_TCP, _LISTENING)
        with suppress(OSError, Unavailable):
            for message in netlink.dump(_SOCKETS, wanted, _SOCK_DIAG):
                port, packed = _SOCKET.unpack_from(message)
                found.add((ip_address(packed[: 4 if family == socket.AF_INET else 16]), port))
    return found


class Barrier:
    """Keeps the tables loaded, and existing links silent, for the life of the process.

    *exposed* returns the services, every few seconds, or raises OvnDockerError while they cannot be read;
    ``None`` turns the barrier off. *restored* is called after a change of the tables was undone.
    """

    def __init__(
        self, exposed: Callable[[], Exposed] | None, restored: Callable[[], None] = lambda: None
    ) -> None:
        self._exposed = exposed
        self._restored = restored
        self._known = Exposed()
        self._text = ""
        self._listed = ""
        self.problem = ""
        """Reason why the barrier is not up; empty if it is up or off."""

    @property
    def state(self) -> str:
        """Return ``off``, ``up``, ``up, open for BRIDGE BRIDGE``, or the reason why it is not up."""
        if self._exposed is None:
            return "off"
        return self.problem or ", open for ".join(filter(None, (UP, " ".join(self._known.open))))

    def start(self, threads: Threads) -> None:
        """Load or remove the tables; then start the thread that watches them."""
        if self._exposed is None:
            with suppress(Unavailable):  # without nft there are no tables
                remove()
            return
        # Subscribed first, so that no change between subscription and comparison gets lost.
        events = _subscribe()
        self.keep()
        purpose = "keeps containers from the cluster's services"
        threads.start("barrier", purpose, partial(self._run, events))

    def keep(self) -> None:
        """Restore missing and changed tables and silence links; log a failure once."""
        try:
            self._silence()
            self._follow()
            if self._listed != listed():
                log.warning("the barrier between containers and the cluster's services was changed: restored")
                self._load()
                self._restored()
            problem = ""
        except OvnDockerError as error:
            problem = str(error)
        if problem and problem != self.problem:
            log.warning("containers may reach OVN's databases and this host: %s", problem)
        self.problem = problem

    def _follow(self) -> None:
        """Replace the rules if the settings have changed."""
        if self._exposed is not None:
            with suppress(OvnDockerError):  # Open vSwitch is down: the last settings remain
                self._known = self._exposed()
        text = ruleset(self._known)
        if text != self._text:
            self._load(text)

    def _load(self, text: str = "") -> None:
        load(text or self._text)
        self._text, self._listed = text or self._text, listed()

    def _silence(self) -> None:
        links = KernelLinks()
        for link in links.unsilenced(HOST_LINK):
            try:
                links.silence(link)
            except OvnDockerError as error:
                log.info("%s", error)

    def _run(self, events: socket.socket | None) -> None:
        due = time.monotonic() + _LOOK
        while True:
            try:
                touched = _wait(events, _INTERVAL)
                if touched or self.problem or time.monotonic() >= due:
                    self.keep()
                    due = time.monotonic() + _LOOK
                    time.sleep(_DEBOUNCE)
                else:
                    self._follow()
            except OvnDockerError as error:
                log.debug("the barrier has to wait: %s", error)


def _subscribe() -> socket.socket | None:
    try:
        return netlink.subscribe(_NETFILTER, _RULES_CHANGED)
    except (OSError, Unavailable) as error:
        log.info("the kernel does not report changes of rules, they are looked at every minute: %s", error)
        return None


def _wait(events: socket.socket | None, seconds: float) -> bool:
    """Wait for a change of our tables; return False when the time is up."""
    if events is None:
        time.sleep(seconds)
        return False
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not select.select([events], [], [], left)[0]:
            break
        try:
            if any(
                _is_about_us(kind, content) for kind, _, content in netlink.messages(events.recv(1 << 17))
            ):
                return True
        except OSError:  # ENOBUFS: more changes than the socket's buffer holds (netlink(7))
            return True
    return False


def _is_about_us(kind: int, content: bytes) -> bool:
    if content[0] not in _FAMILY_NUMBERS:  # the table of host/kernel/router_guard.py has the same name
        return False
    name = attributes(content[_NFGENMSG:]).get(_TABLE_NAME, b"")
    return kind >> 8 == _OF_NFTABLES and name.rstrip(b"\0") == TABLE.encode()


def _chain(name: str, *rules: str) -> list[str]:
    return [
        f"  chain {name} {{",
        *(f"    {rule}" + (";" if rule.startswith("type ") else "") for rule in rules),
        "  }",
    ]


def _refuse_tcp(ports: Iterable[int]) -> list[str]:
    """Return a rule that resets connections, so that a client that connects by mistake need not wait."""
    return [f"tcp dport {_set(map(str, sorted(ports)))} counter reject with tcp reset"]


def _drop_udp(ports: Iterable[int]) -> list[str]:
    return [f"udp dport {_set(map(str, sorted(ports)))} counter drop"] if ports else []


def _destinations(addresses: Iterable[IpAddress]) -> list[str]:
    found = []
    for version, name in ((4, "ip"), (6, "ip6")):
        if ours := sorted(str(address) for address in addresses if address.version == version):
            found.append(f"{name} daddr {_set(ours)}")
    return found


def _set(elements: Iterable[str]) -> str:
    return f"{{ {', '.join(elements)} }}"


def _address(text: str) -> IpAddress | None:
    """Return an address without its zone, which may be any text (RFC 4007); ``None`` if it is invalid."""
    try:
        return ip_address(ip_address(text.strip()).packed)
    except ValueError:
        return None


def _is_ours(address: IpAddress) -> bool:
    return address.is_loopback or address.is_unspecified or _source_towards(address) == address


def _source_towards(address: IpAddress) -> IpAddress | None:
    """Return the source address for packets to *address*, which is equal if it is ours; sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as any_socket:
            any_socket.connect((str(address), 9))
            return _address(any_socket.getsockname()[0])
    except OSError:
        return None
