"""A container with NET_ADMIN and NET_RAW tries to reach containers of other networks, here and elsewhere."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from e2e.containers import END, Container, received, shared_network
from e2e.lab import CommandError, Host, wait_for

Hosts = tuple[Host, Host, Host]

FRAMES = (Path(__file__).parent / "frames.py").read_text()

RECEIVE = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
    receiving.bind(("", 7))
    word = b""
    while word != b"<the end>":
        word = receiving.recv(100)
        print(word.decode())
"""
"""A program that prints the datagrams to a UDP port, until "the end" arrives."""


class Roles(NamedTuple):
    """The attacker on host1 and its network `foo`; two victims on `bar`, of which one is on host1 too."""

    mallory: Container
    near: Container
    far: Container

    def arguments(self, attack: str, victim: Container, link: str) -> tuple[str, ...]:
        """Return the arguments of FRAMES for an attack over a link of the attacker's."""
        (mine,), (theirs,) = ([one for one in links(c) if one[0] == link] for c in (self.mallory, victim))
        router = "02:42:00:00:00:01"
        return attack, link, mine[1], theirs[1], router, mine[2], theirs[2], self.mallory.v6, victim.v6


def links(container: Container) -> list[tuple[str, str, str]]:
    """Return the name, MAC and IPv4 address of each link of a container, except the loopback link."""
    found = json.loads(container.exec("ip", "-json", "-4", "address"))
    macs = {link["ifname"]: link["address"] for link in json.loads(container.exec("ip", "-json", "link"))}
    return [
        (one["ifname"], macs[one["ifname"]], one["addr_info"][0]["local"])
        for one in found
        if one["ifname"] != "lo"
    ]


@pytest.fixture(scope="module")
def roles(three_hosts: Hosts) -> Iterator[Roles]:
    host1, host2, _ = three_hosts
    with shared_network(three_hosts, "foo", 1), shared_network(three_hosts, "bar", 2):
        mallory = Container(host1, "mallory", "--cap-add=NET_ADMIN")
        near, far = (Container(*where, network="bar") for where in ((host1, "near"), (host2, "far")))
        host1.await_flows()
        yield Roles(mallory, near, far)


def reaches(container: Container, address: str) -> bool:
    try:
        container.exec("ping", "-c", "1", "-W", "1", address)
    except CommandError:
        return False
    return True


@pytest.mark.parametrize("attack", ["plain", "tags"])
def test_frames_stay_on_their_logical_switch(roles: Roles, attack: str) -> None:
    for victim, other in ((roles.near, roles.far), (roles.far, roles.near)):
        arguments = roles.arguments(attack, victim, victim.link)
        assert received(victim, roles.mallory, FRAMES, *arguments, honest=other) == {"the end"}


def test_no_route_leads_to_another_network(roles: Roles) -> None:
    """The routes through the host and docker_gwbridge and through the resolver's router are tried."""
    (outside,) = (link for link in links(roles.mallory) if link[0] != roles.mallory.link)
    gateway = json.loads(roles.mallory.exec("ip", "-json", "route", "show", "default"))[0]["gateway"]
    wait_for(lambda: reaches(roles.mallory, gateway), "the gateway to answer")
    for route in (
        ("via", gateway, "dev", outside[0]),
        ("via", "169.254.53.1", "dev", roles.mallory.link, "onlink"),
    ):
        for victim in (roles.near, roles.far):
            roles.mallory.exec("ip", "route", "replace", victim.v4, *route)
            assert not reaches(roles.mallory, victim.v4)
            roles.mallory.exec("ip", "route", "delete", victim.v4)
    roles.near.host.ping(roles.near.name, roles.far.v4)


@pytest.mark.parametrize(
    "attack",
    [
        "plain",
        pytest.param(
            "priority", marks=pytest.mark.xfail(reason="br_netfilter does not filter frames with tags")
        ),
    ],
)
def test_frames_do_not_cross_dockers_bridge(roles: Roles, attack: str) -> None:
    """The bridge is Docker's: docs/security.md lists the frames that it passes."""
    (link,) = (link[0] for link in links(roles.mallory) if link[0] != roles.mallory.link)
    arguments = roles.arguments(attack, roles.near, link)
    with ThreadPoolExecutor() as pool:
        receiving = pool.submit(roles.near.python, RECEIVE)
        # Docker's resolver has sockets in this namespace too: wait for the one on port 7.
        wait_for(lambda: ":0007 " in roles.near.exec("cat", "/proc/net/udp"), "the receiver's socket")
        roles.mallory.python(FRAMES, *arguments)
        while not receiving.done():
            roles.far.python(END, roles.near.v4)
    assert set(receiving.result().split("\n")) == {"<the end>"}


def test_a_container_of_an_internal_network_reaches_nothing_else(three_hosts: Hosts, roles: Roles) -> None:
    host1, *_ = three_hosts
    create = ("network", "create", "-d", "openvswitch", "--internal", "--subnet=10.3.0.0/24")
    host1.docker(*create, "inside")
    try:
        inside = Container(host1, "inside", "--cap-add=NET_ADMIN", network="inside")
        assert [link[0] for link in links(inside)] == [inside.link]
        inside.exec("ip", "route", "replace", "default", "dev", inside.link)
        for address in (host1.address, host1.tunnel_address, roles.near.v4, roles.mallory.v4, "172.18.0.1"):
            assert not reaches(inside, address)
        host1.docker("rm", "--force", "inside")
    finally:
        host1.docker("network", "rm", "inside")
