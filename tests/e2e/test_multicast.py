"""Multicast between containers on three hosts: flooded, or with `-o ovn.multicast=snoop` for members."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from e2e.containers import Container, received, shared_network
from e2e.lab import Host, wait_for

Hosts = tuple[Host, Host, Host]

GROUP, GROUP6 = "239.7.7.7", "ff15::7:7"

JOIN = """
import os, socket, struct, sys, time
group, group6, link = sys.argv[1:]
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
membership = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), socket.if_nametoindex(link))
one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
two = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
membership = socket.inet_pton(socket.AF_INET6, group6) + struct.pack("=I", socket.if_nametoindex(link))
two.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
if os.fork() == 0:
    os.close(0), os.close(1), os.close(2)
    time.sleep(3600)
"""
"""A program that joins a group of each family and stays a member."""

SEND = """
import socket, sys, time
group, group6, link = sys.argv[1:]
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
two = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
two.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(link))
two.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 4)
for _ in range(5):  # in user space a tunnel may lose a packet
    one.sendto(b"<stream 4>", (group, 7))
    two.sendto(b"<stream 6>", (group6, 7))
    one.sendto(b"<to all 4>", ("224.0.0.251", 7))
    two.sendto(b"<to all 6>", ("ff02::1", 7))
    time.sleep(0.05)
"""
"""A program that sends to a group of each family, and to groups of the link, which all hosts receive
(RFC 4541, 2.1.2)."""

REPORTS = 3
"""Seconds in which a new member repeats its reports of IGMPv3 and MLDv2 (RFC 3376, 8.11; RFC 3810, 9.11)."""

STREAM, LINK = {"stream 4", "stream 6"}, {"to all 4", "to all 6"}


class Audience(NamedTuple):
    """Containers on a network: a sender, members of its groups, and others."""

    sender: Container
    members: tuple[Container, ...]
    others: tuple[Container, ...]


@pytest.fixture(scope="module")
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """The hosts, with a network of each kind."""
    with (
        shared_network(three_hosts, "flood", 1),
        shared_network(three_hosts, "snoop", 2, "--opt=ovn.multicast=snoop"),
    ):
        yield three_hosts


def audience(hosts: Hosts, network: str) -> Audience:
    """Start containers on all hosts; of the two members one has IGMPv3 and MLDv2, one IGMPv2 and MLDv1."""
    one, two, three = hosts
    versions = (
        "--sysctl=net.ipv4.conf.all.force_igmp_version=2",
        "--sysctl=net.ipv6.conf.all.force_mld_version=1",
    )
    members = (
        Container(two, f"{network}-new", network=network),
        Container(three, f"{network}-old", *versions, network=network),
    )
    for member in members:
        member.python(JOIN, GROUP, GROUP6, member.link)
    others = tuple(Container(host, f"{network}-other", network=network) for host in hosts)
    sender = Container(one, f"{network}-sender", network=network)
    one.await_flows()
    return Audience(sender, members, others)


def received_streams(listener: Container, sender: Container) -> set[str]:
    """Return the streams of a sender that reach a container."""
    return received(listener, sender, SEND, GROUP, GROUP6, sender.link, honest=sender) - {"the end"}


def await_stream(member: Container, sender: Container) -> None:
    """Wait until a member hears the stream; if its reports were lost, that is after OVN's next query."""
    wait_for(lambda: received_streams(member, sender) == STREAM | LINK, f"the stream at {member.name}")


def test_multicast_is_flooded_by_default(hosts: Hosts) -> None:
    there = audience(hosts, "flood")
    for listener in (there.members[0], there.others[2]):
        assert received_streams(listener, there.sender) == STREAM | LINK, listener.name


def test_snooped_stream_reaches_members_alone(hosts: Hosts) -> None:
    there = audience(hosts, "snoop")
    for member in there.members:
        await_stream(member, there.sender)
    for other in there.others:
        assert received_streams(other, there.sender) == LINK, f"{other.name} of {other.host.name}"


def test_member_whose_reports_are_lost_gets_the_stream_after_a_query(hosts: Hosts) -> None:
    sender, member = (Container(host, f"{host.name}-asked", network="snoop") for host in hosts[:2])
    hosts[1].controller.kill()
    member.python(JOIN, GROUP, GROUP6, member.link)
    time.sleep(REPORTS)
    hosts[1].controller.start()
    await_stream(member, sender)
