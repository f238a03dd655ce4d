"""A container poses as router and DHCP server with raw sockets: its packets reach no neighbour.

Exceptions are an allowed router (`ovn.router=true`) and a network with any routers (`-o ovn.routers=any`).
"""

from collections.abc import Iterator

import pytest

from e2e.containers import Container, received, shared_network
from e2e.lab import Host, wait_for

Hosts = tuple[Host, Host, Host]

SEND = """
import socket, struct, sys, time
from ipaddress import ip_address
link, my_mac, to_mac = sys.argv[1], *(bytes.fromhex(word.replace(":", "")) for word in sys.argv[2:4])
my_v4, to_v4, my_v6, to_v6 = (ip_address(word).packed for word in sys.argv[4:])
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
tap.bind((link, 0))
local = ip_address("fe80::").packed[:8] + bytes([my_mac[0] ^ 2, *my_mac[1:3], 0xFF, 0xFE, *my_mac[3:]])
nodes, servers = ip_address("ff02::1").packed, ip_address("ff02::1:2").packed
ALL = b"\\xff" * 6


def total(data):
    data += b"\\0" * (len(data) % 2)
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value ^ 0xFFFF


def marked(word, most=64):
    text = f"<{word}>".encode()
    size = (len(text) + 2 + 7) // 8
    return bytes([253, size]) + text.ljust(size * 8 - 2, b".")


def ipv4(destination, source, target, protocol, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, source, target)
    head = head[:10] + struct.pack("!H", total(head)) + head[12:]
    tap.send(destination + my_mac + b"\\x08\\x00" + head + payload)


def icmp(kind, rest):
    body = struct.pack("!BBH", kind, 1, 0) + rest
    return body[:2] + struct.pack("!H", total(body)) + body[4:]


def udp(sport, dport, word):
    payload = f"<{word}>".encode().ljust(240, b".")
    return struct.pack("!4H", sport, dport, 8 + len(payload), 0) + payload


def ipv6(destination, source, target, protocol, payload, before=b"", first=None):
    at = 6 if protocol == 17 else 2
    pseudo = source + target + struct.pack("!II", len(payload), protocol)
    payload = before + payload[:at] + struct.pack("!H", total(pseudo + payload)) + payload[at + 2 :]
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol if first is None else first, 255)
    tap.send(destination + my_mac + b"\\x86\\xdd" + head + source + target + payload)


def advertisement(word, destination, target, before=b"", first=None):
    prefix = bytes([3, 4, 64, 0xC0]) + struct.pack("!III", 1800, 1800, 0) + ip_address("fd66::").packed
    body = bytes([134, 0, 0, 0, 64, 0]) + struct.pack("!HII", 1800, 0, 0) + prefix + marked(word)
    ipv6(destination, local, target, 58, body, before, first)


# In user space a tunnel may lose a packet, and what is dropped takes along what is sent in the same moment.
for _ in range(6):
    time.sleep(0.1)
    ipv4(to_mac, my_v4, to_v4, 17, udp(7, 7, "honest 4"))
    ipv6(to_mac, my_v6, to_v6, 17, udp(7, 7, "honest 6"))
    ipv4(ALL, bytes(4), b"\\xff" * 4, 17, udp(68, 67, "discover"))
    ipv6(b"\\x33\\x33\\0\\x01\\0\\x02", local, servers, 17, udp(546, 547, "solicit"))
    ipv6(b"\\x33\\x33\\0\\0\\0\\x01", local, nodes, 58, bytes(8).replace(b"\\0", b"\\x85", 1) + marked("rs"))
time.sleep(0.5)
for _ in range(3):
    time.sleep(0.1)
    advertisement("ra to all", b"\\x33\\x33\\0\\0\\0\\x01", nodes)
    advertisement("ra to one", to_mac, to_v6)
    options = [bytes([60, 0, 1, 4, 0, 0, 0, 0])] * 19 + [bytes([58, 0, 1, 4, 0, 0, 0, 0])]
    advertisement("ra behind options", to_mac, to_v6, b"".join(options), 60)
    advertisement("ra in a fragment", to_mac, to_v6, bytes([58, 0, 0, 1, 0, 0, 0, 9]), 44)
    redirect = bytes([137]) + bytes(7) + local + ip_address("fd99::1").packed
    ipv6(to_mac, local, to_v6, 58, redirect + marked("redirect 6"))
    about = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, to_v4, b"\\x08" * 4) + bytes(8)
    ipv4(to_mac, my_v4, to_v4, 1, icmp(5, my_v4 + about + b"<redirect 4>"))
    ipv4(to_mac, my_v4, to_v4, 1, icmp(9, b"\\x01\\x02\\x07\\x08" + my_v4 + bytes(4) + b"<router 4>"))
    ipv4(ALL, my_v4, b"\\xff" * 4, 17, udp(67, 68, "offer to all"))
    ipv4(to_mac, my_v4, to_v4, 17, udp(67, 68, "offer to one"))
    ipv6(to_mac, local, to_v6, 17, udp(547, 546, "reply"))
"""
"""A program that sends packets of routers, DHCP servers and clients, each with its kind between < and >."""

HONEST = {"honest 4", "honest 6", "discover", "solicit", "rs", "the end"}
ROUTERS = {
    *("ra to all", "ra to one", "ra behind options", "ra in a fragment", "redirect 6", "redirect 4"),
    *("router 4", "offer to all", "offer to one", "reply"),
}


@pytest.fixture(scope="module")
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """The hosts, with a network of both families, `foo`."""
    with shared_network(three_hosts):
        yield three_hosts


@pytest.fixture
def victims(hosts: Hosts) -> Iterator[tuple[Container, Container]]:
    """Containers on two hosts."""
    victims = Container(hosts[0], "near"), Container(hosts[1], "far")
    yield victims
    for victim in victims:
        victim.host.docker("rm", "--force", victim.name)


def kinds_received(sender: Container, victim: Container) -> set[str]:
    """Send packets of routers and DHCP servers from a container; return the kinds that reach the victim."""
    sender.host.fabric.hosts[0].await_flows()
    ends = (sender.link, sender.mac, victim.mac, sender.v4, victim.v4, sender.v6, victim.v6)
    return received(victim, sender, SEND, *ends, honest=sender)


def is_led_astray(victim: Container) -> bool:
    """Return whether a container has the address or the routes of the forged advertisement."""
    shown = victim.exec("ip", "-6", "route") + victim.exec("ip", "-6", "address")
    return "fd66:" in shown or "proto ra" in shown


def reaches(container: Container, other: Container) -> None:
    for address in (other.v4, other.v6):
        container.host.ping(container.name, address)


def test_router_advertisements_of_a_container_are_dropped(
    hosts: Hosts, victims: tuple[Container, Container]
) -> None:
    mallory = Container(hosts[0], "mallory")
    for victim in victims:
        reaches(victim, mallory)
        assert kinds_received(mallory, victim) == HONEST, f"by {victim.name}"
        assert not is_led_astray(victim), victim.name
        reaches(victim, mallory)


def test_guard_is_restored_after_the_driver_was_down(
    hosts: Hosts, victims: tuple[Container, Container]
) -> None:
    """The rules are missing as after `nft flush ruleset`, or an upgrade of the host."""
    near, _ = victims
    hosts[0].run("nft", "flush", "ruleset")
    hosts[0].driver.stop()
    hosts[0].driver.start()
    wait_for(lambda: f"odh{near.port[:12]}" in hosts[0].run("nft", "list", "ruleset"), "the guard")
    assert kinds_received(Container(hosts[0], "trudy"), near) == HONEST


def test_packets_of_an_allowed_router_arrive(hosts: Hosts, victims: tuple[Container, Container]) -> None:
    router = Container(hosts[1], "router", network="name=foo,driver-opt=ovn.router=true")
    for victim in victims:
        assert kinds_received(router, victim) == HONEST | ROUTERS, f"by {victim.name}"
        wait_for(lambda victim=victim: is_led_astray(victim), "the route")  # type: ignore[misc]


def test_router_address_cannot_be_claimed_otherwise(hosts: Hosts) -> None:
    refused = hosts[0].run(
        *("sh", "-c", '"$@" 2>&1 || true', "sh", "docker", "run", "--rm", "--net=foo"),
        *("--mac-address=0e:42:0a:01:00:63", "tools", "true"),
    )
    assert "ovn.router=true" in refused


def test_network_can_allow_any_router(hosts: Hosts) -> None:
    create = ("network", "create", "-d", "openvswitch", "--ipv6", "--subnet=10.7.0.0/24")
    hosts[0].docker(*create, "--subnet=fd07::/64", "-o", "ovn.routers=any", "open")
    one, other = (Container(hosts[0], name, network="open") for name in ("one", "other"))
    assert kinds_received(one, other) == HONEST | ROUTERS
    hosts[0].docker("rm", "--force", "one", "other")
    hosts[0].docker("network", "rm", "open")
