"""Policies on two hosts: what traffic does is what an independent model says, and what the tool says.

The containers stay; each case changes the rules alone. `--policies=500` tries more of them.
"""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import NamedTuple

import pytest

from e2e.containers import Container, shared_network
from e2e.lab import Host, wait_for
from e2e.lab.command import CommandError

PORTS = {"tcp": (80, 443), "udp": (5000, 5001)}
GROUPS = ("web", "db", "api-1")
SUBNETS = ("10.7.0.0/24", "fd07::/64")

SERVE = """
import os, selectors, socket, sys
ports = eval(sys.argv[1])
ready = selectors.DefaultSelector()
for family, where in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for protocol, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
        for port in ports[protocol]:
            one = socket.socket(family, kind)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((where, port))
            if protocol == "tcp":
                one.listen(100)
            ready.register(one, selectors.EVENT_READ, protocol)
open("/serving", "w").close()
while True:
    for key, _ in ready.select():
        if key.data == "tcp":
            key.fileobj.accept()[0].close()
        else:
            said, sender = key.fileobj.recvfrom(100)
            key.fileobj.sendto(said, sender)
"""
"""A program that accepts TCP connections and returns UDP packets."""

PROBE = """
import json, select, socket, struct, sys, time
yes, no = (set(map(tuple, one)) for one in json.loads(sys.argv[1]))
answered, there = set(), {}
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)
def send(flow):
    address, protocol, port = flow
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if protocol == "icmp":
        number = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
        one = socket.socket(family, socket.SOCK_RAW, number)
        kind = 128 if family == socket.AF_INET6 else 8
        echo = struct.pack("!BBHHH", kind, 0, 0, id(one) & 0xFFFF, 1)
        one.connect((address, 0))
        one.send(echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:])
    else:
        one = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        one.setblocking(False)
        one.connect_ex((address, port))
        if protocol == "udp":
            one.send(b"x")
    there[one] = flow
def hear(seconds):
    end = time.monotonic() + seconds
    while there and (left := end - time.monotonic()) > 0:
        tcp = [one for one in there if there[one][1] == "tcp"]
        heard, sent, _ = select.select([one for one in there if one not in tcp], tcp, [], left)
        for one in heard + sent:
            flow = there[one]
            try:
                if flow[1] == "tcp":
                    good = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                else:
                    said = one.recv(100)
                    good = flow[1] == "udp" or (said[0] == 129 if ":" in flow[0] else said[20] == 0)
            except OSError:
                good = False
            if good:
                answered.add(flow)
            if good or flow[1] != "icmp":
                one.close()
                del there[one]
end = time.monotonic() + 60
while True:
    for flow in (yes | no) - answered:
        send(flow)
    hear(0.5)
    for one in there:
        one.close()
    there.clear()
    if yes <= answered or time.monotonic() > end:
        break
print(json.dumps(sorted(answered)))
"""
"""A program that sends to each of some ends until those are heard that should be, and prints all it heard."""


ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
open("/echoing", "w").close()
while True:
    one, _ = server.accept()
    while said := one.recv(100):
        one.sendall(said)
"""
"""A program that returns what one client after the other sends."""

TALK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000), 60) as one:
    one.settimeout(5)
    number = 0
    while True:
        try:
            one.sendall(b"x")
            one.recv(100)
        except OSError:
            break
        number += 1
        open("/echoes", "w").write(str(number))
        time.sleep(0.05)
open("/ended", "w").close()
"""
"""A program that talks on one connection, counts the answers, and ends when there is none for 5 s."""


class Flow(NamedTuple):
    """The first packet of a connection from a container."""

    source: str
    target: str
    version: int
    protocol: str
    port: int

    @property
    def words(self) -> tuple[str, str, str]:
        """The arguments of `ovn-docker policy test`."""
        return self.source, self.target, f"{self.protocol}/{self.port}" if self.port else self.protocol


class Rule(NamedTuple):
    """A rule of a random policy, in plain data."""

    action: str
    services: tuple[tuple[str, int, int], ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def text(self) -> str:
        """The rule in YAML."""
        services = [
            protocol + (f"/{first}" if first else "") + (f"-{last}" if last > first else "")
            for protocol, first, last in self.services
        ]
        lines = [f"  - {self.action}: {json.dumps(services) if services else 'any'}"]
        for key, ends in (("from", self.sources), ("to", self.targets)):
            lines += [f"    {key}: {json.dumps(ends)}"] if ends else []
        return "\n".join(lines)


# The model: independent of the code of ovn_docker


def passes(rules: list[Rule], flow: Flow, groups: dict[str, set[str]], addresses: dict[str, str]) -> bool:
    """Return whether the first packet of a connection passes on a network that denies by default."""
    for rule in rules:
        if (
            (not rule.services or any(serves(one, flow) for one in rule.services))
            and (not rule.sources or any(is_one(flow.source, end, groups, addresses) for end in rule.sources))
            and (not rule.targets or any(is_one(flow.target, end, groups, addresses) for end in rule.targets))
        ):
            return rule.action == "allow"
    return False


def serves(service: tuple[str, int, int], flow: Flow) -> bool:
    """Return whether a rule's service includes that of a flow."""
    protocol, first, last = service
    return protocol == flow.protocol and (first == 0 or first <= flow.port <= last)


def is_one(name: str, end: str, groups: dict[str, set[str]], addresses: dict[str, str]) -> bool:
    """Return whether a container is one of an end's; *addresses*: of the IP version of the packet."""
    if end in ("all", "outside"):
        return end == "all"
    return end in groups[name] or (("." in end or ":" in end) and within(addresses[name], end))


def within(address: str, subnet: str) -> bool:
    """Return whether an address is in a subnet of any IP version."""
    return ip_address(address) in ip_network(subnet)


def random_rules(rng: random.Random, addresses: list[str]) -> list[Rule]:
    """Return some rules about the containers."""
    numbers = [*PORTS["tcp"], *PORTS["udp"]]

    def service() -> tuple[str, int, int]:
        protocol = rng.choice(["tcp", "udp", "icmp", "sctp"])
        if protocol == "icmp" or rng.random() < 0.3:
            return protocol, 0, 0
        first, last = sorted(rng.choice(numbers) + rng.choice([-1, 0, 0, 1]) for _ in range(2))
        return protocol, first, rng.choice([first, last])

    def ends() -> tuple[str, ...]:
        subnets = [*addresses, "10.7.0.0/30", "fd07::/126", *SUBNETS]
        known = [*GROUPS, *GROUPS, "nobody", "all", "outside", *rng.sample(subnets, 2)]
        return tuple(dict.fromkeys(rng.sample(known, rng.choice([0, 1, 1, 2, 3]))))

    return [
        Rule(
            rng.choice(["allow", "allow", "allow", "drop", "reject"]),
            tuple(dict.fromkeys(service() for _ in range(rng.choice([0, 1, 1, 2, 3])))),
            *(ends(), ends()),
        )
        for _ in range(rng.randint(1, 8))
    ]


class Site:
    """Containers of random groups on two hosts, on a network that denies by default."""

    def __init__(self, hosts: tuple[Host, Host]) -> None:
        self.hosts = hosts
        rng = random.Random(7)
        self.groups: dict[str, set[str]] = {}
        self.containers: dict[str, Container] = {}
        for number, name in enumerate(("one", "two", "three", "four", "five")):
            self.groups[name] = set(rng.sample(GROUPS, number % 3))
            words = " ".join(sorted(self.groups[name]))
            network = "name=foo" + (f",driver-opt=ovn.groups={words}" if words else "")
            one = Container(hosts[number % 2], name, network=network)
            one.host.docker("exec", "-d", name, "python3", "-c", SERVE, repr(PORTS))
            wait_for(lambda one=one: one.exec("ls", "/serving"), "the server")  # type: ignore[misc]
            self.containers[name] = one

    def addresses(self, version: int) -> dict[str, str]:
        """The containers' addresses of an IP version."""
        return {name: one.v4 if version == 4 else one.v6 for name, one in self.containers.items()}

    def flows(self) -> list[Flow]:
        """The first packets of all connections between two containers."""
        ends = [("icmp", 0), *((protocol, port) for protocol, ports in PORTS.items() for port in ports)]
        names = self.containers
        return [
            Flow(a, b, version, *end)
            for a in names
            for b in names
            if a != b
            for version in (4, 6)
            for end in ends
        ]

    def apply(self, *rules: Rule) -> None:
        """Set the rules; return when all hosts have them."""
        text = "rules:\n" + "\n".join(rule.text for rule in rules) if rules else "rules: []"
        self.hosts[0].run("ovn-docker", "policy", "set", "foo", "-f", "-", stdin=text)
        self.hosts[0].run("ovn-nbctl", "--timeout=60", "--wait=hv", "sync")

    def heard(self, wanted: dict[Flow, bool]) -> set[Flow]:
        """Return the flows that were answered, after those that should be."""

        def probe(source: str) -> set[Flow]:
            own = {
                (self.addresses(flow.version)[flow.target], flow.protocol, flow.port): flow
                for flow in wanted
                if flow.source == source
            }
            sides = [[key for key, flow in own.items() if wanted[flow] is side] for side in (True, False)]
            heard = json.loads(self.containers[source].python(PROBE, json.dumps(sides)))
            return {own[tuple(one)] for one in heard}

        with ThreadPoolExecutor() as pool:
            return set().union(*pool.map(probe, self.containers))

    def expected(self, rules: list[Rule]) -> dict[Flow, bool]:
        """Return whether each flow should pass, by the model."""
        by_version = {version: self.addresses(version) for version in (4, 6)}
        return {flow: passes(rules, flow, self.groups, by_version[flow.version]) for flow in self.flows()}


@pytest.fixture(scope="module")
def site(three_hosts: tuple[Host, Host, Host]) -> Iterator[Site]:
    hosts = three_hosts[:2]
    with shared_network(three_hosts, "foo", 7, "-o", "ovn.policy=deny"):
        yield Site(hosts)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.option.policies))


def test_nothing_passes_before_there_are_rules(site: Site) -> None:
    assert site.heard(site.expected([])) == set()
    assert site.hosts[0].docker("exec", "one", "nslookup", "two.foo", "169.254.53.1", timeout=60)


def test_traffic_model_and_tool_agree(site: Site, seed: int) -> None:
    rng = random.Random(seed)
    own = [*site.addresses(4).values(), *site.addresses(6).values()]
    rules = random_rules(rng, own)
    site.apply(*rules)
    wanted = site.expected(rules)
    shown = "\n".join(rule.text for rule in rules)
    heard = site.heard(wanted)
    assert {flow for flow, yes in wanted.items() if yes is not (flow in heard)} == set(), shown
    for flow in rng.sample(site.flows(), 2):
        both = all(wanted[flow._replace(version=version)] for version in (4, 6))
        said = site.hosts[0].run("ovn-docker", "policy", "test", *flow.words, "--network=foo", check=False)
        assert said.startswith("yes") is both or "no: " in said, (said, shown)
        assert all(line.startswith("yes") for line in said.splitlines()) is both, (said, shown)


def test_a_connection_goes_on_while_rules_allow_it_and_ends_when_they_do_not(site: Site) -> None:
    one, two = site.containers["one"], site.containers["two"]
    two.host.docker("exec", "-d", "two", "python3", "-c", ECHO)
    wait_for(lambda: two.exec("ls", "/echoing"), "the server")
    site.apply(Rule("allow", (("tcp", 7000, 7000),), (one.v4,), ()))
    one.host.docker("exec", "-d", "one", "python3", "-c", TALK, two.v4)

    def echoes() -> int:
        return int(one.exec("cat", "/echoes") or 0)

    wait_for(lambda: echoes() > 3, "an answer")
    site.apply(Rule("drop", (("udp", 0, 0),), (), ()), Rule("allow", (("tcp", 0, 0),), ("all",), (two.v4,)))
    before = echoes()
    wait_for(lambda: echoes() > before + 3, "an answer under the new rules")
    assert one.exec("sh", "-c", "ls /ended 2>/dev/null || true") == ""
    site.apply()
    wait_for(lambda: one.exec("ls", "/ended"), "the end of the connection")


def test_trace_names_the_rule_that_drops(site: Site) -> None:
    site.apply(Rule("drop", (("tcp", 80, 80),), (), ()), Rule("allow", (), (), ()))
    with pytest.raises(CommandError) as caught:
        site.hosts[0].run("ovn-docker", "trace", "one", "two", "tcp/80", "--no-probe")
    assert "line 2: drop tcp/80" in str(caught.value)
    site.apply()
    with pytest.raises(CommandError) as caught:
        site.hosts[0].run("ovn-docker", "trace", "one", "two", "tcp/80", "--no-probe")
    assert "the default of the network (ovn.policy=deny)" in str(caught.value)
    with suppress(CommandError):
        site.hosts[0].run("ovn-docker", "policy", "set", "foo", "--clear")
