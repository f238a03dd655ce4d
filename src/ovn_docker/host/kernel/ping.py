"""ICMP echo requests that may not be fragmented (RFC 792, RFC 4443), and TCP connections.

Both can be made from any network namespace.
"""

import ctypes
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _IPV6_DONTFRAG = 10, 23, 62  # linux/in.h, linux/in6.h
_PMTUDISC_PROBE = 3
"""Do not fragment, and ignore the path MTU that the kernel has learned (ip(7))."""

_TRIES = 4
_PAUSE = 0.25
"""Seconds between two tries: Open vSwitch in user space may drop the first packet to a new neighbour."""


@dataclass(frozen=True, slots=True)
class Echo:
    """An echo request to *target*: a packet of *size* bytes, IP header included.

    *source*: its source address, if given; *link*: the interface that it is bound to, if given.
    """

    target: str
    size: int
    source: str = ""
    link: str = ""


def answered(echoes: Collection[Echo], wait: float = 1.0) -> set[Echo]:
    """Return the echoes that are answered within *wait* seconds; each is sent several times.

    Needs CAP_NET_RAW.
    """
    groups: dict[tuple[int, str], list[Echo]] = {}
    for echo in echoes:
        groups.setdefault((ip_address(echo.target).version, echo.link), []).append(echo)
    with ThreadPoolExecutor() as threads:  # in the network namespace of this thread (setns(2))
        asked = [threads.submit(_ask, *group, ours, wait) for group, ours in groups.items()]
        return set().union(*(one.result() for one in asked))


def connected(targets: Collection[tuple[str, int]], wait: float = 1.0) -> set[tuple[str, int]]:
    """Return the addresses and TCP ports that accept a connection within *wait* seconds, tried at once."""
    found = set()
    with ExitStack() as opened:
        tried: dict[int, tuple[socket.socket, tuple[str, int]]] = {}
        ready = select.poll()
        for address, port in targets:
            family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
            stream = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            stream.setblocking(False)
            if stream.connect_ex((address, port)) in (0, errno.EINPROGRESS):
                tried[stream.fileno()] = (stream, (address, port))
                ready.register(stream, select.POLLOUT)
        end = time.monotonic() + wait
        while tried and (left := end - time.monotonic()) > 0:
            for number, _ in ready.poll(left * 1000):
                stream, target = tried.pop(number)
                ready.unregister(number)
                if stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.add(target)
    return found


def connects(address: str, port: int) -> bool:
    """Return whether a host answers a TCP connection, by accepting or by refusing it."""
    for _ in range(2):  # in user space Open vSwitch may drop the first packet through a tunnel
        try:
            socket.create_connection((address, port), timeout=1.2).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            continue
        return True
    return False


def in_namespace(pid: int, run: Callable[[], T]) -> T:
    """Run a function in the network namespace of a process, in a thread of its own; return its result.

    Raises OSError if the process has ended, and any exception of the function.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def enter() -> None:
        try:
            with open(f"/proc/{pid}/ns/net", "rb") as namespace:  # noqa: PTH123 - setns(2) takes a descriptor
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))  # noqa: TRY301 - must not end in the thread
            results.append(run())
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _ask(version: int, link: str, echoes: list[Echo], wait: float) -> set[Echo]:
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    identity = int.from_bytes(os.urandom(2))
    found: set[Echo] = set()
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
        if link:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        end = time.monotonic() + wait
        tries = 0
        while len(found) < len(echoes) and time.monotonic() < end:
            if tries < _TRIES:
                _send(sock, version, identity, [(n, e) for n, e in enumerate(echoes) if e not in found])
                tries += 1
            until = min(end, time.monotonic() + _PAUSE) if tries < _TRIES else end
            while len(found) < len(echoes) and (left := until - time.monotonic()) > 0:
                if not select.select([sock], [], [], left)[0]:
                    break
                packet, (source, *_) = sock.recvfrom(1 << 16)
                number = _answer(version, identity, packet)
                sender = source.partition("%")[0]
                if number is not None and number < len(echoes) and echoes[number].target == sender:
                    found.add(echoes[number])
    return found


def _send(sock: socket.socket, version: int, identity: int, echoes: list[tuple[int, Echo]]) -> None:
    header = 28 if version == 4 else 48  # bytes: the header of IP, and 8 of ICMP
    for number, echo in echoes:
        kind = 8 if version == 4 else 128
        payload = bytes(max(0, echo.size - header))
        message = struct.pack("!BBHHH", kind, 0, 0, identity, number) + payload
        if version == 4:
            message = message[:2] + checksum(message).to_bytes(2) + message[4:]
        with suppress(OSError):  # too large for the interface, no route, refused: not answered
            if echo.source:
                _send_from(sock, version, message, echo)
            elif echo.link and ip_address(echo.target).is_link_local and version == 6:
                sock.sendto(message, (echo.target, 0, 0, socket.if_nametoindex(echo.link)))
            else:
                sock.sendto(message, (echo.target, 0))


def _send_from(sock: socket.socket, version: int, message: bytes, echo: Echo) -> None:
    """Send from the echo's source address, which IP_PKTINFO or IPV6_PKTINFO sets (ip(7), ipv6(7))."""
    packed = ip_address(echo.source).packed
    if version == 4:
        info = (socket.IPPROTO_IP, 8, struct.pack("=i4s4s", 0, packed, bytes(4)))
    else:
        info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed + struct.pack("=i", 0))
    sock.sendmsg([message], [info], 0, (echo.target, 0))


def _answer(version: int, identity: int, packet: bytes) -> int | None:
    """Return the number of the echo that a packet answers; ``None`` if it is not an answer to one."""
    start = (packet[0] & 15) * 4 if version == 4 and packet else 0  # the packet includes the IPv4 header
    if len(packet) < start + 8:
        return None
    kind, _, _, ours, number = struct.unpack_from("!BBHHH", packet, start)
    reply = 0 if version == 4 else 129
    return int(number) if kind == reply and ours == identity else None


def checksum(message: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = message + b"\0" * (len(message) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
