"""The guard of links against packets that only routers and DHCP servers send."""

import json
import logging
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from functional.conftest import new_network_namespace
from functional.hosts import C1, C2, NETWORK, Host, await_carrier, endpoint, ip
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.kernel.router_guard import remove_unused
from ovn_docker.model import NetworkId, Subnet, host_link
from ovn_docker.options import NetworkOptions

LINK, OTHER = "odh0123456789ab", "odhba9876543210"
MAC, ROUTER = "02:42:0a:01:00:09", "0e:42:0a:01:00:09"


def nft(*arguments: str) -> str:
    return subprocess.run(["nft", *arguments], check=True, capture_output=True, text=True).stdout


def guarded() -> set[str]:
    """Return the links with a chain that jumps to the rules."""
    listed = json.loads(nft("--json", "list", "ruleset"))["nftables"]
    rules = [item["rule"] for item in listed if "rule" in item]
    return {rule["chain"] for rule in rules if {"jump": {"target": "routers"}} in rule["expr"]}


def rules() -> list[Any]:
    listed = json.loads(nft("--json", "list", "ruleset"))["nftables"]
    return [item["rule"]["expr"] for item in listed if item.get("rule", {}).get("chain") == "routers"]


@pytest.fixture
def links() -> Iterator[KernelLinks]:
    """The links of a network namespace, two of them of containers."""
    with new_network_namespace():
        links = KernelLinks()
        for number, link in enumerate((LINK, OTHER)):
            mac = f"02:42:0a:01:00:{number:02x}"
            links.create_veth(link, f"odc{number}", mac=mac, mtu=1400, tx_checksums=True)
            ip("link", "set", f"odc{number}", "up")
            await_carrier(link, f"odc{number}")
        yield links


def arrives(link: str, peer: str, frame: bytes) -> bool:
    """Return whether a frame that Open vSwitch sends on *link* arrives at the container's end, *peer*."""
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as there,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as here,
    ):
        there.bind((peer, 0))
        there.settimeout(120)
        here.bind((link, 0))
        end = b"\xff" * 6 + b"\2" * 6 + b"\x88\xb5the end".ljust(60, b".")
        for one in (frame, end):
            try:
                here.send(one)
            except OSError as error:  # the kernel's answer to the sender
                assert error.errno == 105, error  # noqa: PT017 - ENOBUFS: the frame was dropped
        heard = []
        while end not in heard:
            heard.append(there.recv(4096))
        return frame in heard


def ether(mac: str, ethertype: int, payload: bytes) -> bytes:
    return b"\x33\x33\0\0\0\1" + bytes.fromhex(mac.replace(":", "")) + struct.pack("!H", ethertype) + payload


def ipv4(protocol: int, payload: bytes, mac: str = MAC) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, bytes(4), bytes(4))
    return ether(mac, 0x800, head + payload)


def ipv6(protocol: int, payload: bytes, mac: str = MAC, *, headers: bytes = b"", first: int = 0) -> bytes:
    payload = headers + payload
    head = struct.pack("!IHBB", 6 << 28, len(payload), first or protocol, 255) + bytes(32)
    return ether(mac, 0x86DD, head + payload)


OPTIONS = bytes([60, 0, 1, 4, 0, 0, 0, 0]) * 30 + bytes([58, 0, 1, 4, 0, 0, 0, 0])
FORGED = {
    "router advertisement": ipv6(58, b"\x86" + bytes(15)),
    "behind options": ipv6(58, b"\x86" + bytes(15), headers=OPTIONS, first=60),
    "first fragment": ipv6(58, b"\x86" + bytes(7), headers=bytes([58, 0, 0, 1, 0, 0, 0, 1]), first=44),
    "redirect": ipv6(58, b"\x89" + bytes(39)),
    "redirect, IPv4": ipv4(1, b"\x05" + bytes(35)),
    "router advertisement, IPv4": ipv4(1, b"\x09" + bytes(15)),
    "DHCP": ipv4(17, struct.pack("!4H", 67, 68, 8, 0)),
    "DHCP, IPv6": ipv6(17, struct.pack("!4H", 547, 546, 8, 0)),
}
HONEST = {
    "router solicitation": ipv6(58, b"\x85" + bytes(7)),
    "neighbour solicitation": ipv6(58, b"\x87" + bytes(23)),
    "neighbour advertisement": ipv6(58, b"\x88" + bytes(23)),
    "echo, IPv6": ipv6(58, b"\x80" + bytes(7)),
    "too big": ipv6(58, b"\x02" + bytes(47)),
    "echo": ipv4(1, b"\x08" + bytes(7)),
    "unreachable": ipv4(1, b"\x03" + bytes(35)),
    "a DHCP client": ipv4(17, struct.pack("!4H", 68, 67, 8, 0)),
    "a DHCP client, IPv6": ipv6(17, struct.pack("!4H", 546, 547, 8, 0)),
    "TCP of such ports": ipv4(6, struct.pack("!2H", 67, 68) + bytes(16)),
    "IPv4 with that byte": ipv4(17, b"\x86" + bytes(15)),
}


@pytest.mark.parametrize("kind", FORGED)
def test_packets_of_routers_and_dhcp_servers_are_dropped(links: KernelLinks, kind: str) -> None:
    assert arrives(LINK, "odc0", FORGED[kind])
    links.guard(LINK)
    assert not arrives(LINK, "odc0", FORGED[kind])
    assert arrives(OTHER, "odc1", FORGED[kind])


def test_packets_of_a_marked_router_arrive(links: KernelLinks) -> None:
    links.guard(LINK)
    for frame in FORGED.values():
        marked = frame[:6] + bytes.fromhex(ROUTER.replace(":", "")) + frame[12:]
        assert arrives(LINK, "odc0", marked)


@pytest.mark.parametrize("kind", HONEST)
def test_other_packets_arrive(links: KernelLinks, kind: str) -> None:
    links.guard(LINK)
    assert arrives(LINK, "odc0", HONEST[kind])


def test_the_guard_is_restored_and_its_rules_renewed(links: KernelLinks) -> None:
    links.guard(LINK)
    whole = rules()
    nft("flush", "ruleset")
    links.restore_guard([LINK, OTHER, "odhgone"])
    assert guarded() == {LINK, OTHER}
    nft("flush", "chain", "netdev", "ovn-docker", "routers")
    KernelLinks().restore_guard([LINK])  # as at the driver's start
    assert guarded() == {LINK, OTHER}
    assert rules() == whole


def test_chains_of_deleted_links_are_deleted_and_those_of_new_links_stay(links: KernelLinks) -> None:
    for link in (LINK, OTHER):
        links.guard(link)
    links.delete(OTHER)
    links.restore_guard([])  # LINK is new: Open vSwitch does not have it yet
    assert guarded() == {LINK}
    assert f"chain {OTHER}" not in nft("list", "ruleset")


@pytest.mark.slow
def test_chains_of_many_deleted_links_are_deleted(links: KernelLinks) -> None:
    for number in range(120):
        link = f"odh{number:012x}"
        links.create_veth(link, f"odc-{number}", mac=MAC, mtu=1400, tx_checksums=True)
        links.guard(link)
        links.delete(link)
    links.restore_guard([])
    assert guarded() == set()


def test_table_is_deleted_with_the_last_link(links: KernelLinks) -> None:
    links.guard(LINK)
    assert not remove_unused()
    assert "netdev" in nft("list", "tables")
    for link in (LINK, OTHER):
        links.delete(link)
    assert remove_unused()
    assert nft("list", "tables") == ""
    assert not remove_unused()


def test_other_rules_stay(links: KernelLinks) -> None:
    nft("add", "table", "netdev", "mine")
    nft("add", "chain", "netdev", "mine", LINK)
    links.guard(LINK)
    links.restore_guard([LINK])
    assert f"table netdev mine {{\n\tchain {LINK}" in nft("list", "ruleset")


def test_kernel_without_the_hook_is_reported_once(
    links: KernelLinks, caplog: pytest.LogCaptureFixture
) -> None:
    nft("add", "table", "netdev", "ovn-docker")
    nft("add", "chain", "netdev", "ovn-docker", LINK)  # makes the creation of a chain with a hook fail
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            links.guard(LINK)
    (record,) = (one for one in caplog.records if one.thread == threading.get_ident())
    assert "may believe forged router advertisements" in record.message


def test_container_is_guarded_unless_its_network_allows_any_router(host: Host) -> None:
    open_network = replace(
        NETWORK,
        id=NetworkId("a" * 64),
        subnets=(Subnet(ip_network("192.168.9.0/24"), ip_address("192.168.9.1")),),
        options=NetworkOptions(any_router=True),
    )
    for network in (NETWORK, open_network):
        host.driver().create_network(network)
    host.driver().create_endpoint(endpoint(C1))
    host.driver().create_endpoint(endpoint(C2, "192.168.9.2/24", network=open_network.id))
    assert guarded() == {host_link(C1)}
    nft("flush", "ruleset")
    host.reconciler()._sweep(store_too=False)
    assert guarded() == {host_link(C1)}


def test_router_has_a_mac_that_other_containers_cannot_have(host: Host) -> None:
    host.driver().create_network(NETWORK)
    made = host.driver().create_endpoint(replace(endpoint(C1), router=True))
    assert made.mac == "0e:42:c0:a8:01:02"
    assert host.driver().create_endpoint(endpoint(C2, "192.168.1.3/24")).mac == "02:42:c0:a8:01:03"
