"""Announces the addresses of a new container to its neighbours, which may have cached another MAC.

A gratuitous ARP request (RFC 5227, 1.1) or an unsolicited neighbour advertisement (RFC 4861, 7.2.6) for each
address enters the switch as if the container had sent it: an OpenFlow packet-out on the bridge's management
socket (ovs-vswitchd(8)). When the flows are installed, the container's own interface is not in its sandbox
yet, and Docker's announcement comes too late or not at all: neighbours kept the old MAC for up to 28 s.
"""

import socket
import struct
from collections.abc import Iterable
from contextlib import closing
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from pathlib import Path
from typing import BinaryIO

from ovn_docker.errors import Unavailable
from ovn_docker.host.kernel.ping import checksum

_VERSION = 4  # OpenFlow 1.3 (OpenFlow Switch Specification 1.3.5, 7.1)
_HEADER = struct.Struct("!BBHI")  # struct ofp_header: version, type, length, transaction
_HELLO, _ERROR, _PACKET_OUT, _BARRIER_REQUEST, _BARRIER_REPLY = 0, 1, 13, 20, 21  # enum ofp_type
_OUT = struct.Struct("!IIH6x")  # struct ofp_packet_out: buffer, in_port, length of the actions
_OUTPUT = struct.Struct("!HHIH6x")  # struct ofp_action_output: type, length, port, most bytes to a controller
_NO_BUFFER, _TO_TABLES = 0xFFFFFFFF, 0xFFFFFFF9  # OFP_NO_BUFFER, OFPP_TABLE: as if received at in_port

_ALL_NODES = ip_address("ff02::1").packed
_TIMEOUT = 1.0
"""Time limit of ovs-vswitchd in seconds; it needs a millisecond."""


def announce(
    management: Path, ofport: int, mac: str, addresses: Iterable[IPv4Interface | IPv6Interface]
) -> None:
    """Send the announcements of *mac* into a bridge at its port *ofport*.

    *management*: the bridge's OpenFlow socket, BRIDGE.mgmt. Raises Unavailable.
    """
    frames = [frame(mac, address) for address in addresses]
    messages = [_message(_HELLO), *(_packet_out(ofport, one) for one in frames), _message(_BARRIER_REQUEST)]
    try:
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(management))
            connection.sendall(b"".join(messages))
            with connection.makefile("rb") as replies:
                while (kind := _read(replies)) != _BARRIER_REPLY:
                    if kind == _ERROR:
                        raise Unavailable(f"Open vSwitch refused an announcement on {management}")
    except OSError as error:
        why = error.strerror or error
        raise Unavailable(f"cannot announce addresses on {management}: {why}") from None


def frame(mac: str, address: IPv4Interface | IPv6Interface) -> bytes:
    """Return the Ethernet frame that announces an address."""
    sender, ip = bytes.fromhex(mac.replace(":", "")), address.ip.packed
    if isinstance(address, IPv4Interface):
        request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender + ip + bytes(6) + ip
        return (b"\xff" * 6 + sender + b"\x08\x06" + request).ljust(60, b"\0")
    override = 0x20000000
    body = struct.pack("!BBHI", 136, 0, 0, override) + ip + b"\x02\x01" + sender
    pseudo = ip + _ALL_NODES + struct.pack("!II", len(body), socket.IPPROTO_ICMPV6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255)
    return b"\x33\x33\x00\x00\x00\x01" + sender + b"\x86\xdd" + head + ip + _ALL_NODES + body


def _packet_out(ofport: int, packet: bytes) -> bytes:
    action = _OUTPUT.pack(0, _OUTPUT.size, _TO_TABLES, 0)
    return _message(_PACKET_OUT, _OUT.pack(_NO_BUFFER, ofport, len(action)) + action + packet)


def _message(kind: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(_VERSION, kind, _HEADER.size + len(body), kind) + body


def _read(replies: BinaryIO) -> int:
    """Read a message and return its type. Raises OSError at the end of the connection."""
    header = replies.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise ConnectionResetError("Open vSwitch closed the connection")
    _, kind, length, _ = _HEADER.unpack(header)
    replies.read(length - _HEADER.size)
    return int(kind)
