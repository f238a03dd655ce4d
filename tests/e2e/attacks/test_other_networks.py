"""A container with NET_ADMIN and NET_RAW tries to reach containers of other networks, here and elsewhere."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from e2e.containers import END, Container, heard, shared_network
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
"""Print what comes to a UDP port, until "the end" does."""


class Cast(NamedTuple):
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
    """Return the name, MAC and IPv4 address of each of a container's links but its loopback."""
    found = json.loads(container.exec("ip", "-json", "-4", "address"))
    macs = {link["ifname"]: link["address"] for link in json.loads(container.exec("ip", "-json", "link"))}
    return [
        (one["ifname"], macs[one["ifname"]], one["addr_info"][0]["local"])
        for one in found
        if one["ifname"] != "lo"
    ]


@pytest.fixture(scope="module")
def cast(three_hosts: Hosts) -> Iterator[Cast]:
    host1, host2, _ = three_hosts
    with shared_network(three_hosts, "foo", 1), shared_network(three_hosts, "bar", 2):
        mallory = Container(host1, "mallory", "--cap-add=NET_ADMIN")
        near, far = (Container(*where, network="bar") for where in ((host1, "near"), (host2, "far")))
        host1.run("ovn-nbctl", "--wait=hv", "--timeout=20", "sync")
        yield Cast(mallory, near, far)


def reaches(container: Container, address: str) -> bool:
    try:
        container.exec("ping", "-c", "1", "-W", "1", address)
    except CommandError:
        return False
    return True


@pytest.mark.parametrize("attack", ["plain", "tags"])
def test_frames_stay_on_their_logical_switch(cast: Cast, attack: str) -> None:
    for victim, other in ((cast.near, cast.far), (cast.far, cast.near)):
        arguments = cast.arguments(attack, victim, victim.link)
        assert heard(victim, cast.mallory, FRAMES, *arguments, honest=other) == {"the end"}


def test_no_route_leads_to_another_network(cast: Cast) -> None:
    """Neither over the host and docker_gwbridge, nor over the router that OVN answers queries at."""
    (outside,) = (link for link in links(cast.mallory) if link[0] != cast.mallory.link)
    gateway = json.loads(cast.mallory.exec("ip", "-json", "route", "show", "default"))[0]["gateway"]
    assert reaches(cast.mallory, gateway)
    for route in (
        ("via", gateway, "dev", outside[0]),
        ("via", "169.254.53.1", "dev", cast.mallory.link, "onlink"),
    ):
        for victim in (cast.near, cast.far):
            cast.mallory.exec("ip", "route", "replace", victim.v4, *route)
            assert not reaches(cast.mallory, victim.v4)
            cast.mallory.exec("ip", "route", "delete", victim.v4)
    assert reaches(cast.near, cast.far.v4)


@pytest.mark.parametrize(
    "attack",
    [
        "plain",
        pytest.param(
            "priority", marks=pytest.mark.xfail(reason="br_netfilter does not filter frames with tags")
        ),
    ],
)
def test_what_docker_keeps_apart_on_its_bridge_does_not_arrive(cast: Cast, attack: str) -> None:
    """The bridge is Docker's: docs/security.md has what it lets through."""
    (link,) = (link[0] for link in links(cast.mallory) if link[0] != cast.mallory.link)
    arguments = cast.arguments(attack, cast.near, link)
    with ThreadPoolExecutor() as pool:
        receiving = pool.submit(cast.near.python, RECEIVE)
        wait_for(lambda: len(cast.near.exec("cat", "/proc/net/udp").splitlines()) > 1, "the receiver")
        cast.mallory.python(FRAMES, *arguments)
        while not receiving.done():
            cast.far.python(END, cast.near.v4)
    assert set(receiving.result().split("\n")) == {"<the end>"}


def test_a_container_of_an_internal_network_reaches_nothing_else(three_hosts: Hosts, cast: Cast) -> None:
    host1, *_ = three_hosts
    create = ("network", "create", "-d", "openvswitch", "--internal", "--subnet=10.3.0.0/24")
    host1.docker(*create, "inside")
    try:
        inside = Container(host1, "inside", "--cap-add=NET_ADMIN", network="inside")
        assert [link[0] for link in links(inside)] == [inside.link]
        inside.exec("ip", "route", "replace", "default", "dev", inside.link)
        for address in (host1.address, host1.tunnel_address, cast.near.v4, cast.mallory.v4, "172.18.0.1"):
            assert not reaches(inside, address)
        host1.docker("rm", "--force", "inside")
    finally:
        host1.docker("network", "rm", "inside")
