"""Name servers: dockerd's setting, this host's own, and who answers containers that are not on our networks.

dockerd has one list of name servers for all containers. Those on networks of the cluster have routes to
NAMESERVERS; what all others ask arrives at this host, which passes it on to a name server of its own.
To refuse them would not do: Linux sends some such ICMP messages, then one a second (icmp(7), icmp_ratelimit).
"""

import re
import subprocess
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ovn_docker.errors import Unavailable
from ovn_docker.host.engine import dockerd_setting
from ovn_docker.model import NAMESERVERS

_RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second has the servers of systemd-resolved(8), where the first has nothing but its local stub."""

_CHAIN = "OVN-DOCKER-NAMES"
_OURS = [str(address) for address in NAMESERVERS]
_JUMP = ("PREROUTING", "-d", str(IPv4Network((NAMESERVERS[0], 24), strict=False)), "-j", _CHAIN)
_TIMEOUT = 10.0
"""Seconds that iptables may take; it waits for others who change rules."""


def docker_asks_us() -> bool:
    """Whether dockerd, as it runs or is configured, has containers ask NAMESERVERS first."""
    return dockerd_setting("dns")[: len(_OURS)] == _OURS


def others() -> list[str]:
    """IPv4 name servers that containers can reach, besides ours: dockerd's, or else this host's."""
    servers = [server for server in dockerd_setting("dns") if server not in _OURS] or _of_this_host()
    return [server for server in servers if _reachable(server)]


def pass_on() -> None:
    """Have another name server answer what arrives at this host for NAMESERVERS, if dockerd has that setting.

    With iptables, as Docker does; may be repeated. Raises Unavailable.
    """
    if not docker_asks_us():
        return
    servers = others()
    if not servers:
        raise Unavailable(
            "no name server is known for containers that are on none of our networks: add one to dns in "
            "/etc/docker/daemon.json and restart dockerd"
        )
    rules = [
        f"-A {_CHAIN} -p {protocol} --dport 53 -j DNAT --to-destination {servers[0]}"
        for protocol in ("udp", "tcp")
    ]
    # One transaction: a chain that is named anew is emptied (iptables-restore(8)).
    text = "\n".join(["*nat", f":{_CHAIN} - [0:0]", *rules, "COMMIT", ""])
    _run("iptables-restore", "--noflush", "--wait", text=text)
    try:
        _run("iptables", "--wait", "-t", "nat", "-C", *_JUMP)
    except Unavailable:
        _run("iptables", "--wait", "-t", "nat", "-I", *_JUMP)


def passes_on() -> bool:
    """Whether this host has the rules of pass_on()."""
    try:
        _run("iptables", "--wait", "-t", "nat", "-n", "-L", _CHAIN)
    except Unavailable:
        return False
    return True


def withdraw() -> None:
    """Remove the rules of pass_on(). Raises Unavailable."""
    with suppress(Unavailable):  # without the rule that leads to it
        _run("iptables", "--wait", "-t", "nat", "-D", *_JUMP)
    _run("iptables", "--wait", "-t", "nat", "-F", _CHAIN)
    _run("iptables", "--wait", "-t", "nat", "-X", _CHAIN)


def _of_this_host() -> list[str]:
    for path in _RESOLV_CONF:
        try:
            found = re.findall(r"^\s*nameserver\s+(\S+)", path.read_text(), re.MULTILINE)
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


def _run(*argv: str, text: str = "") -> None:
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot run {argv[0]}: {error}") from None
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)} failed: {done.stderr.strip() or done.returncode}")
