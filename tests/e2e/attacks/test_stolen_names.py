"""Containers use names of other containers and of the outside: other hosts do not resolve them."""

import ipaddress
from collections.abc import Iterator

import pytest

from e2e.containers import Container, shared_network
from e2e.lab import Host, LabError, wait_for

Hosts = tuple[Host, Host, Host]

ASK = r"""
import socket, struct, sys
server, name, kind = sys.argv[1], sys.argv[2], int(sys.argv[3])
labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
question = labels + b"\0" + struct.pack("!HH", kind, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
    resolver.connect((server, 53))
    resolver.settimeout(2)
    try:
        resolver.send(b"\1\2\1\0\0\1\0\0\0\0\0\0" + question)
        answer = resolver.recv(512)
    except (ConnectionError, TimeoutError):
        sys.exit()
(count,) = struct.unpack_from("!H", answer, 6)
at = 12 + len(question)
for _ in range(count):
    at += 2 if answer[at] >= 192 else answer.index(0, at) + 1 - at
    (size,) = struct.unpack_from("!H", answer, at + 8)
    data, at = answer[at + 10 : at + 10 + size], at + 10 + size
    if kind == 1:
        print(socket.inet_ntoa(data))
    else:
        words = []
        while data and data[0]:
            words.append(data[1 : data[0] + 1].decode())
            data = data[data[0] + 1 :]
        print(".".join(words))
"""
"""A program that queries OVN without Docker's resolver, which knows its host's containers (RFC 1035, 4.1)."""

ADDRESS, POINTER = 1, 12
OUTSIDE = (
    "google.com",
    "localhost",
    "host.docker.internal",
    "wpad",
    "isatap",
    "10.0.0.5",
    "api.example.test",
)


@pytest.fixture(scope="module")
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """The hosts, with a network of both families, `foo`."""
    with shared_network(three_hosts):
        yield three_hosts


@pytest.fixture(scope="module")
def client(hosts: Hosts) -> Container:
    """The container that resolves names."""
    return Container(hosts[0], "client")


@pytest.fixture
def victim(hosts: Hosts) -> Iterator[Container]:
    """A container named web, with the same address after a restart."""
    victim = Container(hosts[1], "web", "--ip=10.1.0.99")
    yield victim
    victim.host.docker("rm", "--force", "web")


@pytest.fixture
def mallory(hosts: Hosts) -> Iterator["Mallory"]:
    mallory = Mallory(hosts[2])
    yield mallory
    mallory.leave()


class Mallory:
    """A user of Docker on another host, who chooses any names for containers."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.names: list[str] = []

    def run(self, name: str, *aliases: str) -> Container:
        self.names.append(name)
        return Container(self.host, name, *(f"--network-alias={alias}" for alias in aliases))

    def leave(self) -> None:
        if self.names:
            self.host.docker("rm", "--force", *self.names)
        self.names.clear()


def answer(client: Container, name: str, kind: int = ADDRESS) -> list[str]:
    return client.python(ASK, "169.254.53.1", name, str(kind)).split()


def finds(client: Container, name: str, wanted: str, kind: int = ADDRESS) -> None:
    """Wait until a container gets the address for a name: a new name reaches other hosts a moment later."""
    try:
        wait_for(lambda: answer(client, name, kind) == [wanted], f"{name} to be {wanted}")
    except LabError as error:
        raise AssertionError(f"{name} is {answer(client, name, kind)}, not {wanted}") from error


def first_answer(client: Container, name: str, kind: int = ADDRESS) -> list[str]:
    """Return the first answer for a known name: a query may get lost, as any UDP packet."""
    return wait_for(lambda: answer(client, name, kind), f"an answer for {name}")


def reverse(container: Container) -> str:
    return ipaddress.ip_address(container.v4).reverse_pointer


def test_outside_names_cannot_be_taken(client: Container, victim: Container, mallory: Mallory) -> None:
    finds(client, "web", victim.v4)
    attacker = mallory.run("mallory", *OUTSIDE, reverse(victim), "shop")
    finds(client, "shop", attacker.v4)
    for name in OUTSIDE:
        assert answer(client, name) == [], name
    assert first_answer(client, reverse(victim), POINTER) == ["web.foo"]
    for name in ("localhost", "api.example.test"):  # as a container's own name
        other = mallory.run(name)
        finds(client, other.host.docker("inspect", "--format={{.Id}}", name)[:12], other.v4)
        assert answer(client, name) == [], name


def test_alias_cannot_take_the_name_of_a_container(
    client: Container, victim: Container, mallory: Mallory
) -> None:
    """The containers start in either order, and the victim restarts meanwhile."""
    finds(client, "web", victim.v4)
    attacker = mallory.run("mallory", "web", "shop")
    finds(client, "shop", attacker.v4)
    assert first_answer(client, "web") == [victim.v4]
    victim.host.docker("stop", "web")
    finds(client, "web", attacker.v4)  # the name is free
    victim.host.docker("start", "web")
    finds(client, "web", victim.v4)
    finds(client, "web.foo", victim.v4)
    finds(client, reverse(victim), "web.foo", POINTER)
    assert first_answer(client, "shop") == [attacker.v4]


def test_the_older_of_two_containers_keeps_the_name(
    client: Container, victim: Container, mallory: Mallory
) -> None:
    finds(client, "web", victim.v4)
    mallory.run("web")
    victim.host.docker("restart", "web")
    finds(client, "web", victim.v4)
    finds(client, reverse(victim), "web.foo", POINTER)
