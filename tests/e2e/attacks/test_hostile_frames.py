"""A container with NET_ADMIN and NET_RAW sends hostile frames: the others and the hosts keep working."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from e2e.containers import Container, Interface, received, shared_network
from e2e.lab import CommandError, Host, wait_for

Hosts = tuple[Host, Host, Host]

RESOLVER = "169.254.53.1"
"""Address of the logical router whose queries for names OVN answers."""

FRAMES = (Path(__file__).parent / "frames.py").read_text()

QUERIES = """
import socket, struct, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
    end, sent = time.monotonic() + 6, 0
    while time.monotonic() < end or sent <= 10_000:
        for name in (b"\\x03far", b"\\x07nowhere"):
            query = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + name + b"\\0\\0\\1\\0\\1"
            flood.sendto(query, (sys.argv[1], 53))
            sent += 1
"""
"""A program that sends queries as fast as possible, for six seconds and 10,000 at least."""

ASK = """
import socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(3)
    query = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\\x03far\\0\\0\\1\\0\\1"
    for _ in range(5):  # as a stub resolver does
        asking.sendto(query, (sys.argv[1], 53))
        try:
            print(socket.inet_ntoa(asking.recv(2000)[-4:]))
            break
        except TimeoutError:
            pass
"""
"""A program that prints the address of "far" in OVN's answer."""


class Roles(NamedTuple):
    """Containers on `foo`: the attacker and a victim on host1, another victim on host2."""

    hosts: Hosts
    mallory: Container
    near: Container
    far: Container
    router: str

    def arguments(self, attack: str, victim: Container, *more: str) -> tuple[str, ...]:
        """Return the arguments of FRAMES for an attack on a victim."""
        mallory = self.mallory
        return (
            *(attack, mallory.link, mallory.mac, victim.mac, self.router),
            *(mallory.v4, victim.v4, mallory.v6, victim.v6, *more),
        )

    def attack(self, attack: str, victim: Container, *more: str) -> None:
        """Have the attacker run one of its attacks on a victim."""
        self.mallory.python(FRAMES, *self.arguments(attack, victim, *more))

    def processes(self) -> list[int | None]:
        """Return the process IDs of the programs that handle packets, on all hosts."""
        services = (
            service
            for host in self.hosts
            for service in (host.ovsdb, host.vswitchd, host.controller, host.driver)
        )
        return [service.pid for service in services]

    def assert_served(self) -> None:
        """The victims reach each other, and OVN answers queries for names."""
        for address in (self.far.v4, self.far.v6):
            self.near.host.ping(self.near.name, address)
        for victim in (self.near, self.far):
            assert victim.python(ASK, RESOLVER) == self.far.v4

    def learned(self) -> set[str]:
        """Return the addresses with their MACs, and the MACs alone, that OVN has learned."""
        found: set[str] = set()
        for table, columns in (("MAC_Binding", "ip,mac"), ("FDB", "mac")):
            find = (
                "ovn-sbctl",
                "--timeout=20",
                "--bare",
                "--format=csv",
                f"--columns={columns}",
                "list",
                table,
            )
            found |= set(self.hosts[0].run(*find).splitlines())
        return found


@pytest.fixture(scope="module")
def roles(three_hosts: Hosts) -> Iterator[Roles]:
    host1, host2, _ = three_hosts
    with shared_network(three_hosts):
        mallory = Container(host1, "mallory", "--cap-add=NET_ADMIN")
        near, far = Container(host1, "near"), Container(host2, "far")
        host1.await_flows()
        wait_for(lambda: mallory.python(ASK, RESOLVER) == far.v4, "names to be known")
        (router,) = json.loads(mallory.exec("ip", "-json", "neighbour", "show", "to", RESOLVER))
        yield Roles(three_hosts, mallory, near, far, router["lladdr"])


def test_advertisements_behind_other_headers_change_no_neighbour(roles: Roles) -> None:
    for victim, claimed in ((roles.near, roles.far), (roles.far, roles.near)):
        victim.host.ping(victim.name, claimed.v6)
        roles.attack("neighbours", victim, claimed.v6)
        victim.host.ping(victim.name, claimed.v6)
        known = json.loads(victim.exec("ip", "-json", "-6", "neighbour"))
        assert {entry["lladdr"] for entry in known if entry["dst"] == claimed.v6} == {claimed.mac}


def test_frames_with_tags_do_not_arrive(roles: Roles) -> None:
    for victim, other in ((roles.near, roles.far), (roles.far, roles.near)):
        arguments = roles.arguments("tags", victim)
        assert received(victim, roles.mallory, FRAMES, *arguments, honest=other) == {"the end"}


def test_frames_for_bridges_stay_on_the_logical_switch(roles: Roles) -> None:
    """They do not reach a bridge of Docker's or the network between the hosts."""
    host1, host2, _ = roles.hosts
    addresses = json.loads(roles.far.exec("ip", "-json", "-4", "address"))
    (beside,) = (
        entry["local"] for link in addresses for entry in link["addr_info"] if link["ifname"] == "eth1"
    )
    for link, reached in (("docker_gwbridge", beside), ("eth0", host1.address)):
        outside = Interface(host2, link, reached)
        assert received(
            outside, roles.mallory, FRAMES, *roles.arguments("bridges", roles.far), honest=outside
        ) == {"the end"}
    roles.assert_served()


def test_malformed_packets_crash_no_program(roles: Roles) -> None:
    before = roles.processes()
    assert all(before)
    roles.mallory.exec("ip", "link", "set", roles.mallory.link, "mtu", "9100")
    for victim in (roles.near, roles.far):
        roles.attack("malformed", victim)
    roles.assert_served()
    assert roles.processes() == before


def test_flood_of_source_addresses_fills_no_table(roles: Roles) -> None:
    for victim, other in ((roles.near, roles.far), (roles.far, roles.near)):
        arguments = roles.arguments("flood", victim)
        assert received(victim, roles.mallory, FRAMES, *arguments, honest=other) == {"the end"}
    roles.assert_served()
    everybody = (roles.mallory, roles.near, roles.far)
    honest = {f"{address},{one.mac}" for one in everybody for address in (one.v4, one.v6)}
    assert roles.learned() <= honest


def test_flood_of_queries_does_not_starve_others(roles: Roles) -> None:
    before = roles.processes()
    with ThreadPoolExecutor() as pool:
        flood = pool.submit(roles.mallory.python, QUERIES, RESOLVER)
        answers = []
        while not flood.done():
            answers += [victim.python(ASK, RESOLVER) for victim in (roles.near, roles.far)]
    flood.result()
    assert answers
    assert set(answers) == {roles.far.v4}
    assert roles.processes() == before


def test_container_with_a_stolen_address_cuts_off_itself_alone(roles: Roles) -> None:
    mallory, near, far = roles.mallory, roles.near, roles.far

    def reaches(address: str) -> bool:
        try:
            mallory.exec("ping", "-c", "3", "-W", "1", address)
        except CommandError:
            return False
        return True

    for own, taken in ((mallory.mac, near.mac), (mallory.mac, far.mac)):
        mallory.exec("ip", "link", "set", mallory.link, "address", taken)
        assert not reaches(near.v4)
        assert not reaches(far.v6)
        roles.assert_served()
        mallory.exec("ip", "link", "set", mallory.link, "address", own)

    def steal(address: str, instead_of: str) -> None:
        commands = f"address delete {instead_of}/24 dev {mallory.link}\n"
        commands += f"address add {address}/24 dev {mallory.link}\n"
        mallory.exec("ip", "-batch", "-", stdin=commands)

    for victim, other in ((near, far), (far, near)):
        steal(victim.v4, mallory.v4)
        assert not reaches(other.v4)
        roles.assert_served()
        steal(mallory.v4, victim.v4)
    wait_for(lambda: reaches(near.v4) and reaches(far.v4), "its own addresses to work again")


def test_router_advertisements_behind_other_headers_are_dropped(roles: Roles) -> None:
    """Linux accepts them behind hop-by-hop and destination options, but not in fragments (RFC 6980)."""
    for victim, other in ((roles.near, roles.far), (roles.far, roles.near)):
        known = ipv6_of(victim)
        arguments = roles.arguments("router", victim, "2001:db8:66::")
        assert received(victim, roles.mallory, FRAMES, *arguments, honest=other) == {"the end"}
        assert ipv6_of(victim) == known


def ipv6_of(victim: Container) -> tuple[set[str], str]:
    """Return the IPv6 addresses of a container's link, tentative ones too, and the IPv6 routes there."""
    (link,) = json.loads(victim.exec("ip", "-json", "-6", "address", "show", "dev", victim.link))
    addresses = {f"{known['local']}/{known['prefixlen']}" for known in link["addr_info"]}
    return addresses, victim.exec("ip", "-6", "route")
