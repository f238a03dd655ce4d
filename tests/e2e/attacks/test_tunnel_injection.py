"""A container sends encapsulated frames to a host's tunnel port: none reaches a container of a network.

docker_gwbridge lets containers reach other hosts, and its masquerading gives their packets the address of
their host, the other end of a tunnel. Frames from a tunnel have passed port security on the host that
sent them: nothing checks them again (ovn-architecture(7), "Architectural Physical Life Cycle of a Packet").
"""

import ipaddress
from collections.abc import Iterator

import pytest

from e2e.containers import Container, Interface, received, shared_network
from e2e.lab import Host

Hosts = tuple[Host, Host, Host]

INJECT = """
import socket, struct, sys, time
from ipaddress import ip_address
target, source, network, ingress, egress, mac, inner_source, inner_target, word = sys.argv[1:]
network, ports = int(network), (int(ingress) << 16) | int(egress)


def total(data):
    data += b"\\0" * (len(data) % 2)
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value ^ 0xFFFF


def ipv4(source, target, payload, fragment=0, options=b""):
    source, target = ip_address(source).packed, ip_address(target).packed
    size = 20 + len(options)
    head = struct.pack("!BBHHH", 0x40 | size // 4, 0, size + len(payload), 7, fragment)
    head += struct.pack("!BBH4s4s", 64, 17, 0, source, target)
    return head[:10] + struct.pack("!H", total(head + options)) + head[12:] + options + payload


def udp(port, payload):
    return struct.pack("!4H", port, port, 8 + len(payload), 0) + payload


frame = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("0266666666660800")
frame += ipv4(inner_source, inner_target, udp(7, f"<{word}>".encode()))
option = struct.pack("!HBBI", 0x0102, 0x80, 1, ports)  # ovn-architecture(7), "Tunnel Encapsulations"
geneve = struct.pack("!BBHI", len(option) // 4, 0, 0x6558, network << 8) + option + frame
vxlan = struct.pack("!II", 0x08000000, network << 8) + frame
for port, packet in ((6081, geneve), (4789, vxlan)) * 3:  # in user space a tunnel may lose a packet
    time.sleep(0.1)
    if source == "socket":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            plain.sendto(packet, (target, port))
    else:
        whole = udp(port, packet)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for form in (
                ipv4(source, target, whole),
                ipv4(source, target, whole, options=b"\\1" * 4),
                ipv4(source, target, whole[:8], fragment=0x2000),
                ipv4(source, target, whole[8:], fragment=1),
                ipv4(source, target, udp(7, packet)[:16], fragment=0x2000),  # the next one overlaps it
                ipv4(source, target, whole[:16], fragment=0x2000),
                ipv4(source, target, whole[16:], fragment=2),
            ):
                raw.sendto(form, (target, 0))
"""
"""A program that sends a frame in Geneve and VXLAN to a port, from a socket or from a raw one."""


@pytest.fixture(scope="module")
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """The hosts, with a network of both families, `foo`."""
    with shared_network(three_hosts):
        yield three_hosts


@pytest.fixture(scope="module")
def victims(hosts: Hosts) -> tuple[Container, Container]:
    """A container on host1, where the attackers are, and one on host2."""
    found = Container(hosts[0], "near"), Container(hosts[1], "far")
    hosts[0].await_flows()
    return found


def injection(host: Host, victim: Container, source: str = "socket") -> tuple[str, ...]:
    """Return the arguments of INJECT for a victim on a host, with the keys of its network and port."""
    central = host.fabric.hosts[0]
    look = ("ovn-sbctl", "--bare", "--timeout=20", "--columns=tunnel_key", "find")
    port = central.run(*look, "Port_Binding", f"logical_port={victim.port}")
    network = central.run(*look, "Datapath_Binding", "external_ids:name=foo")
    claimed = str(ipaddress.ip_address(victim.v4) + 100)
    return (host.tunnel_address, source, network, "2", port, victim.mac, claimed, victim.v4, "injected")


@pytest.mark.parametrize(
    ("name", "network", "options", "source"),
    [
        ("incapable", "foo", "--cap-drop=ALL", "socket"),
        ("strange", "bridge", "--cap-drop=ALL", "socket"),
        ("capable", "foo", "--cap-add=NET_ADMIN", "0.0.0.0"),
    ],
)
def test_a_frame_injected_by_a_container_reaches_no_other_host(
    hosts: Hosts, victims: tuple[Container, Container], name: str, network: str, options: str, source: str
) -> None:
    near, far = victims
    mallory = Container(hosts[0], name, options, network=network)
    assert received(far, mallory, INJECT, *injection(hosts[1], far, source), honest=near) == {"the end"}


def test_a_frame_injected_under_another_hosts_address_does_not_reach_the_own_host(
    hosts: Hosts, victims: tuple[Container, Container]
) -> None:
    near, far = victims
    mallory = Container(hosts[0], "liar")
    arguments = injection(hosts[0], near, source=hosts[1].tunnel_address)
    assert received(near, mallory, INJECT, *arguments, honest=far) == {"the end"}


def test_a_frame_injected_by_a_host_arrives(hosts: Hosts, victims: tuple[Container, Container]) -> None:
    """Shows that the frames above are valid: a host is trusted with its tunnels."""
    near, far = victims
    root = Interface(hosts[0], "eth1")
    said = received(far, root, INJECT, *injection(hosts[1], far), honest=near)
    assert said == {"injected", "the end"}
