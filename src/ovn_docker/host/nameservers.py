"""Name servers: dockerd's setting, this host's own, and rules that forward queries of other containers.

dockerd has one list of name servers for all containers. Containers on shared networks have routes to
NAMESERVERS; the queries of all others arrive at this host, which forwards them to a name server of its own.
Refusing these queries is no alternative: Linux limits such ICMP messages to one a second (icmp(7),
icmp_ratelimit).
"""

import logging
import re
import threading
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ovn_docker.docker.engine import CONFIG, dockerd_setting
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.host.run import run, succeeds
from ovn_docker.model import NAMESERVERS
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_ROOT = Path("/")
_RESOLV_CONF = ("etc/resolv.conf", "run/systemd/resolve/resolv.conf")
"""Files with name servers; systemd-resolved(8) writes its own servers to the second only."""

_CHAIN = "OVN-DOCKER-NAMES"
_OURS = [str(address) for address in NAMESERVERS]
_JUMP = ("PREROUTING", "-d", str(IPv4Network((NAMESERVERS[0], 24), strict=False)), "-j", _CHAIN)
_NAT = ("iptables", "--wait", "--table", "nat")
_TIMEOUT = 10.0
"""Time limit of iptables in seconds; it waits for other programs that change rules."""

_INTERVAL = 60.0
"""Seconds between two comparisons of the rules with what they should be."""

_MANY = 100
"""Upper bound of the rules that jump to the chain."""


class Forwarder:
    """Keeps the rules of pass_on() in step with dockerd's setting and the name servers of this host.

    It compares them every *interval* seconds, and when wake() is called. *root*: of the file system.
    """

    def __init__(self, root: Path = _ROOT, interval: float = _INTERVAL) -> None:
        self._root, self._interval = root, interval
        self._woken = threading.Event()

    def start(self, threads: Threads) -> None:
        """Start the thread that compares the rules, for the life of the process."""
        purpose = "forwards DNS queries of containers on other networks"
        threads.start("nameservers", purpose, self._keep)

    def wake(self) -> None:
        """Compare the rules now, because dockerd has started, perhaps with other settings."""
        self._woken.set()

    def _keep(self) -> None:
        logged = ""
        while True:
            self._woken.clear()
            try:
                pass_on(self._root)
                logged = ""
            except OvnDockerError as error:
                if str(error) != logged:
                    log.warning("DNS queries of containers on other networks may time out: %s", error)
                logged = str(error)
            self._woken.wait(self._interval)


def docker_asks_us(root: Path = _ROOT) -> bool:
    """Return whether NAMESERVERS come first in dockerd's ``dns``, as it runs or is configured."""
    return _of_docker(root)[: len(_OURS)] == _OURS


def others(root: Path = _ROOT) -> list[str]:
    """Return the other IPv4 name servers that containers can reach: dockerd's, or else this host's."""
    servers = [server for server in _of_docker(root) if server not in _OURS] or _of_this_host(root)
    return [server for server in servers if _reachable(server)]


def pass_on(root: Path = _ROOT) -> None:
    """Forward queries to NAMESERVERS that arrive at this host to another name server, if dockerd lists them.

    Otherwise remove the rules that an earlier setting has left. Uses iptables, as Docker does, and writes
    only what differs. Raises OvnDockerError.
    """
    if not docker_asks_us(root):
        if passes_on():
            withdraw()
            log.info("dockerd's dns does not list OVN's name servers first any more: removed %s", _CHAIN)
        return
    servers = others(root)
    if not servers:
        raise Unavailable(
            "no name server for containers that are not on an OVN network: add one to dns in "
            "/etc/docker/daemon.json and restart dockerd"
        )
    if _passes_on_to() == servers[0]:
        return
    rules = [
        f"-A {_CHAIN} -p {protocol} --dport 53 -j DNAT --to-destination {servers[0]}"
        for protocol in ("udp", "tcp")
    ]
    # One transaction; iptables-restore(8) empties a chain that is declared again.
    text = "\n".join(["*nat", f":{_CHAIN} - [0:0]", *rules, "COMMIT", ""])
    run(("iptables-restore", "--noflush", "--wait"), _TIMEOUT, text=text)
    if not succeeds(*_NAT, "-C", *_JUMP, seconds=_TIMEOUT):
        run((*_NAT, "-I", *_JUMP), _TIMEOUT)
    log.info("DNS queries of containers on other networks are forwarded to %s", servers[0])


def passes_on() -> bool:
    """Return whether this host has the rules of pass_on(), or a part of them."""
    return succeeds(*_NAT, "-S", _CHAIN, seconds=_TIMEOUT)


def withdraw() -> None:
    """Remove the rules of pass_on(). Raises OvnDockerError."""
    for _ in range(_MANY):  # two drivers that were started at once may both have inserted one
        if not succeeds(*_NAT, "-D", *_JUMP, seconds=_TIMEOUT):
            break
    run((*_NAT, "-F", _CHAIN), _TIMEOUT)
    run((*_NAT, "-X", _CHAIN), _TIMEOUT)


def _passes_on_to() -> str:
    """Return the name server to which all rules of pass_on() forward; empty if a rule is missing."""
    try:
        rules = run((*_NAT, "-S", _CHAIN), _TIMEOUT)
    except OvnDockerError:
        return ""
    rule = re.compile(
        rf"^-A {_CHAIN} -p (udp|tcp) .*--dport 53 -j DNAT --to-destination (\S+)$", re.MULTILINE
    )
    found = sorted(rule.findall(rules))
    server = str(found[0][1]) if found else ""
    whole = found == [("tcp", server), ("udp", server)] and rules.count("-A ") == len(found)
    return server if whole and succeeds(*_NAT, "-C", *_JUMP, seconds=_TIMEOUT) else ""


def _of_docker(root: Path) -> list[str]:
    return dockerd_setting("dns", root / "proc", root / CONFIG.relative_to("/"))


def _of_this_host(root: Path) -> list[str]:
    for path in _RESOLV_CONF:
        try:
            text = (root / path).read_text()
            found = re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE)
        except (OSError, ValueError):
            continue
        if any(map(_reachable, found)):
            return found
    return []


def _reachable(server: str) -> bool:
    """Return whether *server* is an IPv4 address that is not one of this host alone."""
    try:
        return not IPv4Address(server).is_loopback
    except ValueError:
        return False
