"""A container sends to the kernel of its host on its own link, which only Open vSwitch should read."""

import json
from dataclasses import dataclass
from uuid import uuid4

import pytest

from e2e.lab import Fabric, Host, wait_for

SEND = """
import socket, struct, sys, time
from ipaddress import ip_address
link, target_mac, host = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), ip_address(sys.argv[3])
neighbour, sources = ip_address(sys.argv[4]), sys.argv[5:]
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind((link, 0))
tap.settimeout(1)
mac = tap.getsockname()[4]


def total(data):
    data += b"\\0" * (len(data) % 2)
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value ^ 0xFFFF


def ipv4(source, destination):
    payload = b"<forged>"
    udp = struct.pack("!4H", 7, 7777, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source.packed, host.packed)
    head = head[:10] + struct.pack("!H", total(head)) + head[12:]
    tap.send(destination + mac + b"\\x08\\0" + head + udp)


def icmp6(kind, body, source, destination, to_mac):
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = source.packed + destination.packed + struct.pack("!II", len(message), 58)
    message = message[:2] + struct.pack("!H", total(pseudo + message)) + message[4:]
    head = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + source.packed + destination.packed
    tap.send(to_mac + mac + b"\\x86\\xdd" + head + message)


def arp(asked):
    body = struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + mac + own.packed + bytes(6) + asked.packed
    tap.send(b"\\xff" * 6 + mac + b"\\x08\\x06" + body)


own = ip_address(sources[0])
router = ip_address("fe80::66")
prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0) + ip_address("fd66::").packed
advertisement = struct.pack("!BBHII", 64, 0, 9000, 0, 0) + prefix + b"\\x01\\x01" + mac
for to in (target_mac, b"\\xff" * 6):
    for source in sources:
        ipv4(ip_address(source), to)
for to in (b"\\x33\\x33\\0\\0\\0\\x01", target_mac):
    icmp6(134, advertisement, router, ip_address("ff02::1"), to)
    icmp6(128, struct.pack("!HH", 1, 1), router, ip_address("ff02::1"), to)
arp(host)
answers, end = set(), time.monotonic() + 60
while "neighbour" not in answers and time.monotonic() < end:
    arp(neighbour)  # again for each frame that is not its answer, and each second
    try:
        frame = tap.recv(2048)
    except TimeoutError:
        continue
    if frame[12:14] == b"\\x08\\x06" and frame[20:22] == b"\\0\\x02":
        answers.add({host.packed: "host", neighbour.packed: "neighbour"}.get(frame[28:32], "other"))
    if frame[12:14] == b"\\x86\\xdd" and frame[20] == 58 and frame[54] == 129:
        answers.add("echo")
print(*sorted(answers))
"""
"""A program that sends frames of all kinds to the host, and prints who answers ARP or an echo request.

It ends when the neighbour has answered."""

HEAR = """
import select, socket
sockets = []
for family in (socket.AF_INET, socket.AF_INET6):
    one = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind(("", 7777))
    sockets.append(one)
print("listening", flush=True)
while True:
    for one in select.select(sockets, [], [])[0]:
        print(one.recv(2048).decode(), flush=True)
"""

LISTEN = """
import socket, sys
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind((sys.argv[1], 0))
tap.settimeout(60)
print("listening", flush=True)
host, received = bytes.fromhex(sys.argv[2].replace(":", "")), set()
while True:
    frame = tap.recv(2048)
    if frame[6:12] == host:
        received.add(frame[12:14].hex())
    if b"<end>" in frame:
        break
print("received", *sorted(received), flush=True)
"""
"""A program that prints the types of the frames that arrive in the container, until a neighbour ends it."""

END = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"<end>", (sys.argv[1], 7777))
"""

SPEAK = """
import socket, sys
link = sys.argv[1]
for family, group in ((socket.AF_INET, "224.0.0.251"), (socket.AF_INET6, "ff02::fb")):
    with socket.socket(family, socket.SOCK_DGRAM) as speaker:
        speaker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        for target in ((group, 5353), ("10.1.0.77" if family == socket.AF_INET else "fe80::77", 5353)):
            try:
                speaker.sendto(b"hello", target)
            except OSError:
                pass
"""
"""A program for the host that sends multicast, and packets that need the resolution of a neighbour's MAC."""


@dataclass(frozen=True)
class Place:
    """A host with a container that has NET_RAW, its neighbour, and the host's end of its link."""

    host: Host
    network: str
    link: str
    mac: str
    container_link: str
    address: str
    neighbour: str

    def exec(self, name: str, *argv: str, stdin: str = "") -> str:
        return self.host.docker("exec", "-i", f"{name}-{self.network}", *argv, stdin=stdin)


@pytest.fixture(scope="module")
def host(module_fabric: Fabric) -> Host:
    (host,) = module_fabric.cluster("host1")
    host.driver.start()
    host.load("tools")
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch")
    host.docker(*create, "--subnet=10.1.0.0/24", "foo")
    host.docker(*create, "--subnet=10.2.0.0/24", "--internal", "inner")
    return host


@pytest.fixture(scope="module", params=["foo", "inner"])
def place(host: Host, request: pytest.FixtureRequest) -> Place:
    network = request.param
    shown = "{{with index .NetworkSettings.Networks %r}}{{.IPAddress}} {{.EndpointID}} {{.MacAddress}}{{end}}"
    found = {}
    for name in ("mallory", "neighbour"):
        host.docker(
            *("run", "-d", f"--net={network}", f"--name={name}-{network}", "--stop-signal=KILL"),
            *("tools", "sleep", "9999"),
        )
        form = "--format=" + (shown % network).replace("'", '"')
        found[name] = host.docker("inspect", form, f"{name}-{network}").split()
    address, endpoint, own = found["mallory"]
    link = f"odh{endpoint[:12]}"
    mac = json.loads(host.run("ip", "-json", "link", "show", link))[0]["address"]
    inside = host.docker("exec", f"mallory-{network}", "ip", "-oneline", "link").splitlines()
    container_link = next(line for line in inside if own in line).split()[1].partition("@")[0]
    return Place(host, network, link, mac, container_link, address, found["neighbour"][0])


def test_host_neither_answers_nor_learns_from_containers(place: Place) -> None:
    host, path = place.host, f"/var/log/lab/hear-{uuid4()}.log"
    pid = host.spawn("python3", "-c", HEAR, log=path)
    log = host.path(path)
    try:
        wait_for(lambda: "listening" in log.read_text(), "the listener")
        sources = (place.address, "10.9.9.9", "172.31.0.254", host.address, "127.0.0.1")
        send = (place.container_link, place.mac, host.address, place.neighbour, *sources)
        answers = place.exec("mallory", "python3", "-", *send, stdin=SEND)
        host.run("python3", "-c", END, "127.0.0.1")
        received = wait_for(lambda: "<end>" in log.read_text() and log.read_text().split(), "the end")
    finally:
        host.kill(pid)
    assert answers == "neighbour"
    assert received == ["listening", "<end>"]
    assert host.run("ip", "-6", "route", "show", "dev", place.link) == ""
    assert host.run("ip", "address", "show", "dev", place.link).count("inet") == 0


def test_the_host_sends_nothing_into_the_container(place: Place) -> None:
    host, name, path = place.host, f"mallory-{place.network}", f"/{uuid4()}"
    listen = f"exec python3 -c '{LISTEN}' {place.container_link} {place.mac} >{path}"
    host.docker("exec", "-d", name, "sh", "-c", listen)
    wait_for(lambda: "listening" in host.docker("exec", name, "cat", path), "the listener")
    host.run("python3", "-c", SPEAK, place.link)

    def received() -> str:
        place.exec("neighbour", "python3", "-c", END, place.address)
        lines = host.docker("exec", name, "cat", path).splitlines()
        return lines[1] if len(lines) > 1 else ""

    assert wait_for(received, "the end") == "received"
