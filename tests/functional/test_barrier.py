"""The barrier between containers and services: real tables of nftables, links and connections."""

import logging
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from functional.hosts import PROBE, Container, await_carrier, ip
from functional.ovsdb_servers import until
from ovn_docker.errors import Unavailable
from ovn_docker.host import barrier
from ovn_docker.host.barrier import Barrier, Exposed, ruleset, survey
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.kernel.ping import connected, in_namespace
from ovn_docker.threads import Threads

pytestmark = pytest.mark.usefixtures("network_namespace")


def nft(*arguments: str) -> str:
    return subprocess.run(["nft", *arguments], check=True, capture_output=True, text=True).stdout


def sysctl(name: str, value: str) -> None:
    Path("/proc/sys/net", name).write_text(value)


class TestTables:
    def test_loading_is_idempotent_and_replaces_earlier_tables(self) -> None:
        barrier.load(ruleset(Exposed(metrics=7777)))
        before = barrier.listed()
        assert "7777" in before
        barrier.load(ruleset(Exposed()))
        after = barrier.listed()
        assert "7777" not in after
        barrier.load(ruleset(Exposed()))
        assert barrier.listed() == after

    def test_removing_is_idempotent_and_leaves_other_tables(self) -> None:
        nft("add", "table", "inet", "other")
        barrier.load(ruleset(Exposed()))
        barrier.remove()
        barrier.remove()
        assert barrier.listed() == ""
        assert nft("list", "tables").split() == ["table", "inet", "other"]

    def test_barrier_with_one_of_its_two_tables_counts_as_missing(self) -> None:
        barrier.load(ruleset(Exposed()))
        nft("delete", "table", "arp", "ovn-docker")
        assert barrier.listed() == ""


HOSTILE = (
    "tcp:10.0.0.1:6641 } ; flush ruleset",
    "tcp:[fe80::1%eth0 } accept; } } flush ruleset]:6641",
    "tcp:10.0.0.1:99999",
    "tcp:10.0.0.1:0",
    "tcp:010.0.0.1:6641",
    "tcp:db.example:6641",
    "tcp:::1:6641",
    "unix:/run/ovn/ovnnb_db.sock",
    'tcp:"10.0.0.1":6641',
    "tcp:10.0.0.1:6641\n}\nflush ruleset",
    ",,,",
    "ssl:[::ffff:10.0.0.1]:16641",
    "x" * 100_000,
)


class TestSettings:
    @pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
    @pytest.mark.parametrize("key", ["ovn-nb", "ovn-remote", "ovn-encap-ip", "ovn-encap-type"])
    def test_rules_contain_only_addresses_and_ports_of_the_settings(self, key: str, value: str) -> None:
        nft("add", "table", "inet", "other")
        barrier.load(ruleset(survey({"ovn-nb": "tcp:10.9.9.9:7000", key: value})))
        assert "6641, 6642, 6643, 6644" in barrier.listed()
        assert "table inet other" in nft("list", "tables")

    def test_databases_on_other_ports_are_refused_at_their_addresses(self) -> None:
        found = survey({"ovn-nb": "ssl:10.0.0.1:7641, ssl:[fd00::1]:7641,tcp:10.0.0.2:6641"})
        barrier.load(ruleset(found))
        listed = barrier.listed()
        assert "10.0.0.1 . 7641" in listed
        assert "fd00::1 . 7641" in listed
        assert "10.0.0.2 ." not in listed  # 6641 is refused at every address

    def test_database_of_this_host_is_refused_at_all_addresses_of_the_host(self) -> None:
        assert survey({"ovn-nb": "tcp:127.0.0.1:7641", "ovn-remote": "tcp:10.0.0.1:7642"}).ours == {7641}

    def test_addresses_of_loopback_and_of_the_link_are_left_out(self) -> None:
        ids = {"ovn-nb": "tcp:127.0.0.1:6641,tcp:[fe80::1]:6641", "ovn-encap-ip": "10.0.0.1"}
        assert survey(ids).published == {ip_address("10.0.0.1")}

    def test_listening_databases_are_found(self) -> None:
        with socket.create_server(("127.0.0.1", 6641)):
            assert (ip_address("127.0.0.1"), 6641) in barrier.listeners()


class TestWatching:
    @pytest.mark.parametrize(
        "change",
        [
            ("flush", "ruleset"),
            ("delete", "table", "inet", "ovn-docker"),
            ("delete", "table", "arp", "ovn-docker"),
            ("flush", "chain", "inet", "ovn-docker", "elsewhere"),
            ("insert", "rule", "inet", "ovn-docker", "here", "accept"),
            ("add", "table", "inet", "ovn-docker", "{ flags dormant; }"),
        ],
        ids=" ".join,
    )
    def test_changed_tables_are_restored_at_once(self, change: tuple[str, ...]) -> None:
        kept = Barrier(lambda: Exposed(metrics=7777))
        kept.start(Threads())
        before = barrier.listed()
        assert kept.state == "up"
        nft(*change)
        until(lambda: barrier.listed() == before)

    def test_changes_of_other_tables_are_ignored(self, caplog: pytest.LogCaptureFixture) -> None:
        kept = Barrier(Exposed)
        kept.start(Threads())
        for _ in range(3):
            nft("add", "table", "inet", "other")
            nft("delete", "table", "inet", "other")
        nft("delete", "table", "inet", "ovn-docker")
        until(lambda: barrier.listed() != "")
        warnings = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert len([one for one in warnings if one.name == barrier.log.name]) == 1

    def test_new_settings_replace_the_rules(self) -> None:
        known = Exposed()
        kept = Barrier(lambda: known)
        kept.start(Threads())
        known = Exposed(metrics=7777)
        kept.keep()
        until(lambda: "7777" in barrier.listed())  # the thread may still be writing the earlier settings

    def test_unreadable_settings_keep_the_rules(self) -> None:
        away = False

        def exposed() -> Exposed:
            if away:
                raise Unavailable("Open vSwitch is away")
            return Exposed(metrics=7777)

        kept = Barrier(exposed)
        kept.start(Threads())
        away = True
        nft("flush", "ruleset")
        until(lambda: "7777" in barrier.listed())

    def test_barrier_that_is_off_removes_the_tables(self) -> None:
        barrier.load(ruleset(Exposed()))
        off = Barrier(None)
        off.start(Threads())
        assert (off.state, barrier.listed()) == ("off", "")

    def test_missing_nft_is_logged_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        kept = Barrier(Exposed)
        kept.keep()
        kept.keep()
        assert kept.state == "nft is not installed; run `apt install nftables`"
        here = [
            one for one in caplog.records if one.thread == threading.get_ident()
        ]  # threads of other tests' barriers still run
        assert [one.getMessage() for one in here if one.levelno == logging.WARNING] == [
            f"containers may reach OVN's databases and this host: {kept.state}"
        ]

    def test_existing_links_are_silenced(self) -> None:
        ip("link", "add", "odhold", "type", "veth", "peer", "odcold")
        Barrier(Exposed).start(Threads())
        assert KernelLinks().unsilenced("odh") == []


class Topology:
    """A host whose uplink is a bridge, its neighbours, and Docker's bridge with two containers.

    The host has 10.0.0.1 on br0, with the neighbour 10.0.0.2; 10.1.0.1 on a link to another machine,
    10.1.0.2; and 172.18.0.1 on a bridge with containers, 172.18.0.2 and .3, which have a default route.
    """

    def __init__(self, *containers: Container) -> None:
        self.neighbour, self.machine, self.container, self.other = containers
        for bridge, address in (("br0", "10.0.0.1"), ("br-0123456789ab", "172.18.0.1")):
            ip("link", "add", bridge, "up", "type", "bridge", "forward_delay", "0")
            ip("address", "add", f"{address}/24", "dev", bridge)
        sysctl("ipv4/ip_forward", "1")
        sysctl("bridge/bridge-nf-call-iptables", "1")
        self._wire(self.neighbour, "n", "10.0.0.2", "br0")
        self._wire(self.machine, "m", "10.1.0.2")
        ip("address", "add", "10.1.0.1/24", "dev", "m-host")
        self._wire(self.container, "c", "172.18.0.2", "br-0123456789ab")
        self._wire(self.other, "o", "172.18.0.3", "br-0123456789ab")

    def _wire(self, container: Container, name: str, address: str, bridge: str = "") -> None:
        ip("link", "add", f"{name}-host", "type", "veth", "peer", f"{name}-in")
        ip("link", "set", f"{name}-host", "up", *(("master", bridge) if bridge else ()))
        container.move_in(f"{name}-in")

        def inside() -> None:
            ip("address", "add", f"{address}/24", "dev", f"{name}-in")
            ip("link", "set", f"{name}-in", "up")
            ip("route", "add", "default", "via", address.rpartition(".")[0] + ".1")

        in_namespace(container.pid, inside)


@pytest.fixture
def topology() -> Iterator[Topology]:
    containers = [Container() for _ in range(4)]
    yield Topology(*containers)
    for container in containers:
        container.die()


PUBLISHED = {"ovn-nb": "tcp:10.0.0.1:6641", "ovn-encap-ip": "10.0.0.1"}


def serve(*places: tuple[str, int]) -> ExitStack:
    opened = ExitStack()
    for place in places:
        opened.enter_context(socket.create_server(place))
    return opened


def reaches(container: Container, *targets: tuple[str, int]) -> set[tuple[str, int]]:
    return in_namespace(container.pid, lambda: connected(set(targets)))


class TestConnections:
    def test_neighbours_of_a_host_reach_its_databases_and_its_containers_do_not(
        self, topology: Topology
    ) -> None:
        barrier.load(ruleset(survey(PUBLISHED)))
        places = [("10.0.0.1", 6641), ("172.18.0.1", 6641), ("10.1.0.1", 6641)]
        with serve(("0.0.0.0", 6641), ("0.0.0.0", 8080)):
            assert reaches(topology.container, *places, ("172.18.0.1", 8080)) == {("172.18.0.1", 8080)}
            assert reaches(topology.neighbour, places[0]) == {places[0]}
            assert reaches(topology.machine, places[2]) == {places[2]}
            assert (
                reaches(topology.neighbour, places[2]) == set()
            )  # an address of another interface, which is not published
            barrier.remove()
            assert reaches(topology.container, *places) == set(places)

    def test_containers_do_not_reach_databases_on_other_machines(self, topology: Topology) -> None:
        barrier.load(ruleset(survey({"ovn-nb": "tcp:10.1.0.2:7641"})))
        places = [("10.1.0.2", port) for port in (6641, 6644, 7641, 9476, 8080)]
        with in_namespace(topology.machine.pid, lambda: serve(*(("0.0.0.0", port) for _, port in places))):
            assert reaches(topology.container, *places) == {("10.1.0.2", 8080)}

    def test_containers_of_one_bridge_reach_each_others_databases(self, topology: Topology) -> None:
        """OVN may run in containers; br_netfilter passes bridged packets to the forward hook."""
        barrier.load(ruleset(survey(PUBLISHED)))
        place = ("172.18.0.3", 6641)
        with in_namespace(topology.other.pid, lambda: serve(place)):
            assert reaches(topology.container, place) == {place}

    def test_clients_of_published_ports_may_have_any_source_port(self, topology: Topology) -> None:
        barrier.load(ruleset(survey(PUBLISHED)))
        place = ("172.18.0.2", 80)
        with in_namespace(topology.container.pid, lambda: socket.create_server(place)) as server:
            client = in_namespace(
                topology.machine.pid, lambda: socket.create_connection(place, 5, ("10.1.0.2", 6641))
            )
            with client, server.accept()[0] as accepted:
                accepted.sendall(b"hello")
                assert client.recv(5) == b"hello"

    def test_source_port_of_a_database_does_not_pass_the_barrier(self, topology: Topology) -> None:
        barrier.load(ruleset(survey(PUBLISHED)))

        def ask() -> int:
            with socket.socket() as client:
                client.settimeout(1)
                client.bind(("172.18.0.2", 6641))
                return client.connect_ex(("10.0.0.1", 6641))

        with serve(("0.0.0.0", 6641)):
            assert in_namespace(topology.container.pid, ask) != 0

    def test_containers_on_a_bridge_that_is_left_open_reach_databases(self, topology: Topology) -> None:
        barrier.load(ruleset(survey(PUBLISHED, None, ("br-0123456789ab",))))
        with serve(("0.0.0.0", 6641)):
            assert reaches(topology.container, ("10.0.0.1", 6641)) == {("10.0.0.1", 6641)}


def test_tables_without_link_settings_silence_the_hosts_kernel_on_a_link() -> None:
    """The link has none of the settings that silence it, as if another program had changed them."""
    ip("link", "add", "odh1", "type", "veth", "peer", "odc1")
    sysctl("ipv6/conf/odc1/disable_ipv6", "1")
    barrier.load(ruleset(Exposed()))
    ip("address", "add", "192.0.2.1/24", "dev", "odh1")
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind(("0.0.0.0", 7777))
        server.setblocking(False)
        for link in ("odh1", "odc1"):
            ip("link", "set", link, "up")
        await_carrier("odh1", "odc1")
        tap.bind(("odc1", 0))
        tap.settimeout(120)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker, pytest.raises(PermissionError):
            speaker.sendto(b"hello", ("192.0.2.2", 9))
        ip("address", "add", "fd00::1/64", "dev", "odh1")  # sends a neighbour solicitation for the address
        mac = bytes.fromhex("020000000002")
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 33, 0, 0, 64, 17, 0, b"\xc0\0\2\2", b"\xc0\0\2\1")
        words = struct.unpack("!10H", head)
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
        datagram = head + struct.pack("!4H", 7, 7777, 13, 0) + b"hello"
        tap.send(b"\xff" * 6 + mac + b"\x08\0" + datagram)
        with pytest.raises(BlockingIOError):
            server.recv(100)
        # Open vSwitch can send frames in spite of the barrier: this one is the last to arrive.
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as switch:
            switch.bind(("odh1", 0))
            switch.send(b"\xff" * 6 + mac + b"\x88\xb5" + bytes(46))
        seen = []
        while not seen or seen[-1] != b"\x88\xb5":
            frame, (_, _, kind, *_) = tap.recvfrom(2048)
            if kind != socket.PACKET_OUTGOING and frame[12:14] != PROBE:
                seen.append(frame[12:14])
        assert seen == [b"\x88\xb5"]
        barrier.remove()
        tap.send(b"\xff" * 6 + mac + b"\x08\0" + datagram)
        server.settimeout(120)
        assert server.recv(100) == b"hello"
