"""A container sends frames with raw sockets: those with a forged MAC, IPv4 or IPv6 address are dropped."""

import ipaddress
from collections.abc import Iterator

import pytest

from e2e.containers import Container, received, shared_network
from e2e.lab import Host

Hosts = tuple[Host, Host, Host]

SEND = """
import socket, struct, sys, time
from ipaddress import ip_address
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
tap.bind((sys.argv[1], 0))
WHOSE = ("mine", "theirs", "nobodys")
packed = [bytes.fromhex(word.replace(":", "")) for word in sys.argv[2:6]]
packed += [ip_address(word).packed for word in sys.argv[6:]]
MACS, V4, V6 = (dict(zip(WHOSE, packed[at : at + 3])) for at in (0, 4, 8))
to_mac, to_v4, to_v6 = packed[3::4]
ALL = b"\\xff" * 6


def total(data):
    data += b"\\0" * (len(data) % 2)
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value ^ 0xFFFF


def send(word, destination, source, ethertype, packet):
    end = f"<{word}>".encode().ljust(46, b".")
    tap.send(destination + source + struct.pack("!H", ethertype) + packet + end)


def ipv4(word, mac, address, destination=to_mac):
    payload = f"<{word}>".encode()
    udp = struct.pack("!4H", 7, 7, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, V4[address], to_v4)
    head = head[:10] + struct.pack("!H", total(head)) + head[12:]
    send(word, destination, MACS[mac], 0x800, head + udp)


def ipv6(word, mac, address, protocol, payload, target=to_v6, destination=to_mac):
    pseudo = V6[address] + target + struct.pack("!II", len(payload), protocol)
    at = 6 if protocol == 17 else 2
    payload = payload[:at] + struct.pack("!H", total(pseudo + payload)) + payload[at + 2 :]
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + V6[address] + target
    send(word, destination, MACS[mac], 0x86DD, head + payload)


def udp6(word, mac, address):
    payload = f"<{word}>".encode()
    ipv6(word, mac, address, 17, struct.pack("!4H", 7, 7, 8 + len(payload), 0) + payload)


def arp(word, operation, mac, hardware, address):
    body = struct.pack("!HHBBH", 1, 0x800, 6, 4, operation)
    send(word, ALL, MACS[mac], 0x806, body + MACS[hardware] + V4[address] + to_mac + to_v4)


def neighbour(word, mac, source, hardware, target):
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + V6[target] + b"\\x02\\x01" + MACS[hardware]
    ipv6(word, mac, source, 58, body)


for _ in range(5):  # in user space a tunnel may lose the packets of a moment
    time.sleep(0.1)
    ipv4("honest 4", "mine", "mine")
    udp6("honest 6", "mine", "mine")
    arp("honest arp", 2, "mine", "mine", "mine")
    neighbour("honest nd", "mine", "mine", "mine", "mine")
    for whose in ("theirs", "nobodys"):
        ipv4(f"4: {whose} mac", whose, "mine")
        ipv4(f"4: {whose} address", "mine", whose)
        ipv4(f"4: {whose} all", whose, whose)
        udp6(f"6: {whose} mac", whose, "mine")
        udp6(f"6: {whose} address", "mine", whose)
        for operation in (1, 2):
            arp(f"arp {operation}: {whose} frame", operation, whose, "mine", "mine")
            arp(f"arp {operation}: {whose} hardware", operation, "mine", whose, "mine")
            arp(f"arp {operation}: {whose} address", operation, "mine", "mine", whose)
        neighbour(f"nd: {whose} source", "mine", whose, "mine", "mine")
        neighbour(f"nd: {whose} hardware", "mine", "mine", whose, "mine")
        neighbour(f"nd: {whose} target", "mine", "mine", "mine", whose)
"""
"""A program that sends frames of all kinds, honest and forged, each with its name between < and >."""

NOBODYS_MAC = "02:66:66:66:66:66"
HONEST = {"honest 4", "honest 6", "honest arp", "honest nd", "the end"}


@pytest.fixture
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """The hosts, with a network of both families, `foo`."""
    with shared_network(three_hosts):
        yield three_hosts


def test_forged_frames_do_not_get_through(hosts: Hosts) -> None:
    host1, host2, _ = hosts
    mallory, near, far, bystander = (
        Container(*where)
        for where in ((host1, "mallory"), (host1, "near"), (host2, "far"), (host2, "bystander"))
    )
    host1.await_flows()
    for victim in (near, far):  # both learn the bystander's real MAC
        victim.host.ping(victim.name, bystander.v4)
        victim.host.ping(victim.name, bystander.v6)
    for victim in (near, far):
        assert frames_received(victim, mallory, bystander) == HONEST, f"by {victim.name}"
        neighbours = victim.exec("ip", "neighbour")
        for address in (bystander.v4, bystander.v6):
            assert f"{address} dev {victim.link} lladdr {bystander.mac}" in neighbours
        assert NOBODYS_MAC not in neighbours
    # Without port security the forged frames arrive, so they are valid.
    host1.run("ovn-nbctl", "lsp-set-port-security", mallory.port)
    host1.await_flows()
    assert len(frames_received(near, mallory, bystander)) > 20


def frames_received(victim: Container, mallory: Container, bystander: Container) -> set[str]:
    """Return the frames that reach the victim from mallory, whatever their source address is."""
    others = [str(ipaddress.ip_address(one) + 100) for one in (bystander.v4, bystander.v6)]
    claims = (
        *(mallory.link, mallory.mac, bystander.mac, NOBODYS_MAC, victim.mac),
        *(mallory.v4, bystander.v4, others[0], victim.v4, mallory.v6, bystander.v6, others[1], victim.v6),
    )
    return received(victim, mallory, SEND, *claims, honest=mallory)
