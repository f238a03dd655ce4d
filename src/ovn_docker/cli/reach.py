"""Who answers through a network interface: the proof that a move of it was good."""

import json
import os
import socket
import struct
import time
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.cli.steps import StepFailed, run
from ovn_docker.cli.uplink import Uplink


def gateways(uplink: Uplink) -> list[str]:
    """Gateways of the default routes, else of any."""
    default = [words for words in uplink.routes if "default" in words]
    found = [
        words[at + 2 if words[at + 1] in {"inet", "inet6"} else at + 1]
        for words in default or uplink.routes
        for at, word in enumerate(words)
        if word == "via"
    ]
    return list(dict.fromkeys(found))


def neighbours(link: str) -> list[str]:
    """Hosts on the interface's segment that it has heard of."""
    known = json.loads(run(("ip", "-json", "neighbour", "show", "dev", link)))
    return [one["dst"] for one in known if "lladdr" in one and "NOARP" not in one.get("state", [])]


def remote_of_session() -> str | None:
    """Where the SSH client is, in whose session this program runs, as sshd(8) tells its children.

    sudo(8) clears the environment, so the parents' are read too.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return None
        for variable in environment:
            if variable.startswith(b"SSH_CONNECTION="):
                return variable.partition(b"=")[2].split()[0].decode()
    return None


def goes_through(address: str, link: str) -> bool:
    """Whether packets for *address* leave by the interface."""
    try:
        return f" dev {link} " in f"{run(('ip', 'route', 'get', address))} "
    except StepFailed:
        return False


def answering(targets: Iterable[str], link: str, seconds: float) -> set[str]:
    """Those of the addresses that answer on the interface within *seconds*, asked all at once.

    A neighbour answers ARP or neighbour discovery, which no firewall takes from it; any host answers an echo.
    """
    waiting = set(targets)
    found: set[str] = set()
    end = time.monotonic() + seconds
    sockets = {target: _echo_socket(target, link) for target in waiting}
    try:
        for target in waiting:
            _ask_neighbour(target, link)
        while waiting - found and time.monotonic() < end:
            for target in waiting - found:
                _send_echo(sockets[target], target)
            time.sleep(0.1)
            reachable = _reachable(link)
            found |= {t for t in waiting - found if t in reachable or _answered(sockets[t], t)}
    finally:
        for one in sockets.values():
            one.close()
    return found


def _echo_socket(target: str, link: str) -> socket.socket:
    """A raw ICMP socket on the interface (icmp(7))."""
    if ip_address(target).version == 4:
        echo = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    else:
        echo = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    echo.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
    echo.setblocking(False)
    return echo


def _send_echo(echo: socket.socket, target: str) -> None:
    """An echo request (RFC 792, RFC 4443); of ICMPv6 the kernel computes the checksum."""
    kind = 8 if echo.family == socket.AF_INET else 128
    identifier = os.getpid() & 0xFFFF
    total = (kind << 8) + identifier + 1
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet = struct.pack("!BBHHH", kind, 0, checksum, identifier, 1)
    try:
        if echo.family == socket.AF_INET:
            echo.sendto(packet, (target, 0))
        else:
            scope = echo.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            index = socket.if_nametoindex(scope.rstrip(b"\0").decode())
            echo.sendto(packet, (target, 0, 0, index if ip_address(target).is_link_local else 0))
    except OSError:
        pass  # no route yet, or nobody answers ARP: asked again


def _answered(echo: socket.socket, target: str) -> bool:
    """Whether an echo reply of the target has come in."""
    while True:
        try:
            packet, source = echo.recvfrom(2048)
        except OSError:
            return False
        reply = packet[(packet[0] & 15) * 4 :] if echo.family == socket.AF_INET else packet
        kind = 0 if echo.family == socket.AF_INET else 129
        if len(reply) >= 8 and reply[0] == kind and source[0].partition("%")[0] == target:
            identifier = struct.unpack("!H", reply[4:6])[0]
            if identifier == os.getpid() & 0xFFFF:
                return True


def _ask_neighbour(target: str, link: str) -> None:
    """Have the kernel ask a neighbour that it knows again; one that it does not know it will ask anyway."""
    for one in json.loads(run(("ip", "-json", "neighbour", "show", "to", target, "dev", link))):
        if "lladdr" in one and "PERMANENT" not in one.get("state", []):
            words = ("lladdr", one["lladdr"], "dev", link, "nud", "probe")
            run(("ip", "neighbour", "replace", target, *words))


def _reachable(link: str) -> set[str]:
    known = json.loads(run(("ip", "-json", "neighbour", "show", "dev", link, "nud", "reachable")))
    return {one["dst"] for one in known}
