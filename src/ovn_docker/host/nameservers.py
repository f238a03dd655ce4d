"""Name servers: dockerd's setting, this host's own, and who answers containers that are not on our networks.

dockerd has one list of name servers for all containers. Those on networks of the cluster have routes to
NAMESERVERS; what all others ask arrives at this host, which passes it on to a name server of its own.
To refuse them would not do: Linux sends some such ICMP messages, then one a second (icmp(7), icmp_ratelimit).
"""

import logging
import re
import subprocess
import threading
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ovn_docker.errors import Unavailable
from ovn_docker.host.engine import CONFIG, dockerd_setting
from ovn_docker.model import NAMESERVERS
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_ROOT = Path("/")
_RESOLV_CONF = ("etc/resolv.conf", "run/systemd/resolve/resolv.conf")
"""The second has the servers of systemd-resolved(8), where the first has nothing but its local stub."""

_CHAIN = "OVN-DOCKER-NAMES"
_OURS = [str(address) for address in NAMESERVERS]
_JUMP = ("PREROUTING", "-d", str(IPv4Network((NAMESERVERS[0], 24), strict=False)), "-j", _CHAIN)
_NAT = ("iptables", "--wait", "--table", "nat")
_TIMEOUT = 10.0
"""Seconds that iptables may take; it waits for others who change rules."""

_INTERVAL = 60.0
"""Seconds between two comparisons of the rules with what they should be."""

_MANY = 100
"""More rules that lead to the chain than there ever are."""


class Forwarder:
    """Keeps the rules of pass_on() in step with dockerd's setting and the name servers of this host.

    Compared every *interval* seconds, and at once when dockerd has started; *root*: of the file system.
    """

    def __init__(self, root: Path = _ROOT, interval: float = _INTERVAL) -> None:
        self._root, self._interval = root, interval
        self._wake = threading.Event()

    def start(self, threads: Threads) -> None:
        """Work for the life of the process."""
        purpose = "passes questions for names on that containers of other networks ask"
        threads.start("nameservers", purpose, self._keep)

    def look(self) -> None:
        """Compare now: dockerd has started, maybe with other settings."""
        self._wake.set()

    def _keep(self) -> None:
        told = ""
        while True:
            self._wake.clear()
            try:
                pass_on(self._root)
                told = ""
            except Unavailable as error:
                if str(error) != told:
                    log.warning("containers on other networks may wait for names: %s", error)
                told = str(error)
            self._wake.wait(self._interval)


def docker_asks_us(root: Path = _ROOT) -> bool:
    """Whether dockerd, as it runs or is configured, has containers ask NAMESERVERS first."""
    return _of_docker(root)[: len(_OURS)] == _OURS


def others(root: Path = _ROOT) -> list[str]:
    """IPv4 name servers that containers can reach, besides ours: dockerd's, or else this host's."""
    servers = [server for server in _of_docker(root) if server not in _OURS] or _of_this_host(root)
    return [server for server in servers if _reachable(server)]


def pass_on(root: Path = _ROOT) -> None:
    """Have another name server answer what arrives at this host for NAMESERVERS, if dockerd has that setting.

    Otherwise remove the rules that an earlier setting has left. With iptables, as Docker does; writes only
    what differs. Raises Unavailable.
    """
    if not docker_asks_us(root):
        if passes_on():
            withdraw()
            log.info("dockerd does not have containers ask OVN for names any more: removed %s", _CHAIN)
        return
    servers = others(root)
    if not servers:
        raise Unavailable(
            "no name server is known for containers that are on none of our networks: add one to dns in "
            "/etc/docker/daemon.json and restart dockerd"
        )
    if _passes_on_to() == servers[0]:
        return
    rules = [
        f"-A {_CHAIN} -p {protocol} --dport 53 -j DNAT --to-destination {servers[0]}"
        for protocol in ("udp", "tcp")
    ]
    # One transaction: a chain that is named anew is emptied (iptables-restore(8)).
    text = "\n".join(["*nat", f":{_CHAIN} - [0:0]", *rules, "COMMIT", ""])
    _run("iptables-restore", "--noflush", "--wait", text=text)
    if not _succeeds(*_NAT, "-C", *_JUMP):
        _run(*_NAT, "-I", *_JUMP)
    log.info("questions for names that containers of other networks ask go to %s", servers[0])


def passes_on() -> bool:
    """Whether this host has the rules of pass_on(), or a part of them."""
    return _succeeds(*_NAT, "-S", _CHAIN)


def withdraw() -> None:
    """Remove the rules of pass_on(). Raises Unavailable."""
    for _ in range(_MANY):  # two that were started at once may both have inserted one
        if not _succeeds(*_NAT, "-D", *_JUMP):
            break
    _run(*_NAT, "-F", _CHAIN)
    _run(*_NAT, "-X", _CHAIN)


def _passes_on_to() -> str:
    """Return the name server to which all rules of pass_on() lead; empty if one of them is missing."""
    try:
        rules = _run(*_NAT, "-S", _CHAIN)
    except Unavailable:
        return ""
    rule = re.compile(
        rf"^-A {_CHAIN} -p (udp|tcp) .*--dport 53 -j DNAT --to-destination (\S+)$", re.MULTILINE
    )
    found = sorted(rule.findall(rules))
    server = str(found[0][1]) if found else ""
    whole = found == [("tcp", server), ("udp", server)] and rules.count("-A ") == len(found)
    return server if whole and _succeeds(*_NAT, "-C", *_JUMP) else ""


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
    """Whether it is an IPv4 address that is not for this host alone."""
    try:
        return not IPv4Address(server).is_loopback
    except ValueError:
        return False


def _succeeds(*argv: str) -> bool:
    try:
        _run(*argv)
    except Unavailable:
        return False
    return True


def _run(*argv: str, text: str = "") -> str:
    """Return what a command prints. Raises Unavailable."""
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot run {argv[0]}: {error}") from None
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
