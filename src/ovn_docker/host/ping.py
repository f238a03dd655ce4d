"""Echo requests of a given size that may not be fragmented (RFC 792, RFC 4443), and connections of TCP.

Both from any network namespace.
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
"""Do not fragment, and do not believe what was learned of the path before (ip(7))."""

_TRIES = 4
_PAUSE = 0.25
"""Seconds between two tries: in user space Open vSwitch may drop the first packet to a new neighbour."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A question to *target*: a packet of *size* bytes, IP header included."""

    target: str
    size: int
    source: str = ""


def answered(echoes: Collection[Echo], wait: float = 1.0) -> set[Echo]:
    """Which of them are answered within *wait* seconds; each is sent several times. Takes CAP_NET_RAW."""
    by_version: dict[int, list[Echo]] = {}
    for echo in echoes:
        by_version.setdefault(ip_address(echo.target).version, []).append(echo)
    with ThreadPoolExecutor() as threads:  # they are in the namespace that this thread is in (setns(2))
        asked = [threads.submit(_ask, version, ours, wait) for version, ours in by_version.items()]
        return set().union(*(one.result() for one in asked))


def connected(targets: Collection[tuple[str, int]], wait: float = 1.0) -> set[tuple[str, int]]:
    """Addresses and TCP ports that accept a connection within *wait* seconds; all are tried at once."""
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
    """Whether a TCP connection is taken, or refused: that is an answer too."""
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
    """The result of a function that runs in the network namespace of a process, in a thread of its own.

    Raises OSError if there is no such process any more, and what the function raises.
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


def _ask(version: int, echoes: list[Echo], wait: float) -> set[Echo]:
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
                if number is not None and number < len(echoes) and echoes[number].target == source:
                    found.add(echoes[number])
    return found


def _send(sock: socket.socket, version: int, identity: int, echoes: list[tuple[int, Echo]]) -> None:
    header = 28 if version == 4 else 48  # of IP, and 8 of the echo
    for number, echo in echoes:
        kind = 8 if version == 4 else 128
        payload = bytes(max(0, echo.size - header))
        message = struct.pack("!BBHHH", kind, 0, 0, identity, number) + payload
        if version == 4:
            message = message[:2] + checksum(message).to_bytes(2) + message[4:]
        with suppress(OSError):  # too large for the interface, no route, refused: not answered
            if echo.source:
                _send_from(sock, version, message, echo)
            else:
                sock.sendto(message, (echo.target, 0))


def _send_from(sock: socket.socket, version: int, message: bytes, echo: Echo) -> None:
    """With IP_PKTINFO, or its like, a packet gets the source that it names (ip(7), ipv6(7))."""
    packed = ip_address(echo.source).packed
    if version == 4:
        info = (socket.IPPROTO_IP, 8, struct.pack("=i4s4s", 0, packed, bytes(4)))
    else:
        info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed + struct.pack("=i", 0))
    sock.sendmsg([message], [info], 0, (echo.target, 0))


def _answer(version: int, identity: int, packet: bytes) -> int | None:
    """The number of the echo that the packet answers, if it does."""
    start = (packet[0] & 15) * 4 if version == 4 and packet else 0  # IPv4's header comes along
    if len(packet) < start + 8:
        return None
    kind, _, _, ours, number = struct.unpack_from("!BBHHH", packet, start)
    reply = 0 if version == 4 else 129
    return int(number) if kind == reply and ours == identity else None


def checksum(message: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = message + b"\0" * (len(message) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
