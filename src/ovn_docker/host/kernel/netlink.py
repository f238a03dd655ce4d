"""Requests to the kernel in its own format: netlink(7), rtnetlink(7).

Written by hand because of the cost of the library: importing pyroute2 takes 130 ms and 24 MiB, and creating
a link with it takes three times as long as the kernel needs.
"""

import os
import socket
import struct
from collections.abc import Iterator

from ovn_docker.errors import Unavailable

_HEADER = struct.Struct("IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("HH")  # struct rtattr: length, type
_REQUEST, _ACK, _DUMP_INTERRUPTED, _DUMP = 0x1, 0x4, 0x10, 0x300  # linux/netlink.h, NLM_F_*
_ERROR, _DONE = 2, 3  # NLMSG_*
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1  # linux/socket.h; linux/netlink.h, NETLINK_ADD_MEMBERSHIP


def attribute(number: int, value: bytes) -> bytes:
    """Return an encoded attribute of a message or of another attribute."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, number) + value + b"\0" * (-size % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in *data* by number."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        size, number = _ATTRIBUTE.unpack_from(data)
        found[number] = data[_ATTRIBUTE.size : size]
        data = data[max(size + -size % 4, _ATTRIBUTE.size) :]
    return found


def request(kind: int, flags: int, message: bytes) -> None:
    """Send a request and wait for the kernel's acknowledgement. Raises OSError."""
    with _sent(kind, flags | _ACK, message, socket.NETLINK_ROUTE) as kernel:
        for _ in _answers(kernel):
            pass


def dump(kind: int, message: bytes, protocol: int = socket.NETLINK_ROUTE) -> list[bytes]:
    """Return all messages of one of the kernel's lists. Raises OSError.

    A list that changes meanwhile is read again, five times at most; then an entry that was added or removed
    during the reading may be missing.
    """
    found: list[bytes] = []
    for _ in range(5):
        interrupted = False
        found.clear()
        with _sent(kind, _DUMP, message, protocol) as kernel:
            for flags, answer in _answers(kernel):
                found.append(answer)
                interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
        if not interrupted:
            break
    return found


def subscribe(protocol: int, group: int) -> socket.socket:
    """Return a socket that receives a multicast group of the kernel (netlink(7)). Raises OSError."""
    kernel = to_kernel(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    try:
        kernel.bind(
            (0, 0)
        )  # a socket without a port gets no message (net/netlink/af_netlink.c, nlmsg_notify())
        kernel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        kernel.close()
        raise
    return kernel


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and content of each message in a datagram of the kernel."""
    while data:
        size, kind, flags, _, _ = _HEADER.unpack_from(data)
        yield kind, flags, data[_HEADER.size : size]
        data = data[size + -size % 4 :]


def to_kernel(family: int, kind: int, protocol: int = 0) -> socket.socket:
    """Return a socket for requests to the kernel. Raises Unavailable if too many files are open."""
    try:
        return socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unavailable(f"cannot ask the kernel about links: {error.strerror}") from None


def _sent(kind: int, flags: int, message: bytes, protocol: int) -> socket.socket:
    kernel = to_kernel(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    kernel.send(_HEADER.pack(_HEADER.size + len(message), kind, flags | _REQUEST, 1, 0) + message)
    return kernel


def _answers(kernel: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield flags and content of each message before the final one. Raises its error as OSError."""
    while True:
        for kind, flags, content in messages(kernel.recv(1 << 16)):
            if kind in {_ERROR, _DONE}:
                (error,) = struct.unpack_from("i", content)
                if error:
                    raise OSError(-error, os.strerror(-error))
                return
            yield flags, content
