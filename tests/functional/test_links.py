"""Veth pairs in a network namespace of the test's own."""

import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import subprocess
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from functional.hosts import Container, ip
from functional.ovsdb_servers import until
from ovn_docker.errors import Conflict, OvnDockerError, Unavailable
from ovn_docker.host.links import Held, Links
from ovn_docker.host.ping import in_namespace

pytestmark = pytest.mark.usefixtures("network_namespace")

MAC = "02:42:c0:a8:01:02"


def links() -> dict[str, Any]:
    return {link["ifname"]: link for link in json.loads(ip("-json", "-details", "link"))}


def tx_checksums(link: str) -> bool:
    """What ``ethtool -k`` says."""
    value = array("I", [0x16, 7])  # ETHTOOL_GTXCSUM, linux/ethtool.h
    address, _ = value.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8946, struct.pack("16sP", link.encode(), address).ljust(40, b"\0"))
    return bool(value[1])


@contextmanager
def mount_namespace() -> Iterator[None]:
    """Mounts of this thread's own."""
    libc, here = ctypes.CDLL(None, use_errno=True), Path.cwd()
    with Path("/proc/thread-self/ns/mnt").open() as before:
        assert libc.unshare(0x20000 | 0x200) == 0  # CLONE_NEWNS | CLONE_FS, linux/sched.h
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        try:
            yield
        finally:
            assert libc.setns(before.fileno(), 0x20000) == 0
            os.chdir(here)  # setns(2) leaves it at the root


def add(link: str, mtu: int = 1500) -> None:
    """A link that is not ours."""
    ip("link", "add", link, "mtu", str(mtu), "type", "veth", "peer", "name", "other")


@pytest.fixture
def here() -> Links:
    return Links()


def create(here: Links, number: int = 1, *, mtu: int = 1442, tx_checksums: bool = True) -> tuple[str, str]:
    names = f"odh{number}", f"odc{number}"
    here.create_veth(*names, mac=MAC, mtu=mtu, tx_checksums=tx_checksums)
    return names


class TestCreating:
    def test_the_hosts_end_is_up_and_the_containers_end_has_the_mac(self, here: Links) -> None:
        create(here)
        host, container = links()["odh1"], links()["odc1"]
        assert (host["link"], container["link"]) == ("odc1", "odh1")
        assert (host["mtu"], container["mtu"]) == (1442, 1442)
        assert container["address"] == MAC != host["address"]
        assert "UP" in host["flags"]
        assert "UP" not in container["flags"]

    @pytest.mark.parametrize("mtu", [1442, 1000])  # below 1280 a link has no IPv6 at all
    def test_the_hosts_end_is_silent(self, here: Links, mtu: int) -> None:
        create(here, mtu=mtu)
        assert here.audible("odh") == []
        settings = Path("/proc/sys/net/ipv4/conf/odh1")
        found = [(settings / name).read_text().strip() for name in ("forwarding", "rp_filter", "arp_ignore")]
        assert found == ["0", "1", "8"]
        ip("link", "set", "odc1", "up")
        assert "inet6" not in ip("address", "show", "odh1")

    def test_the_hosts_end_is_silent_where_proc_sys_is_read_only(self, here: Links) -> None:
        """As under systemd with ProtectKernelTunables: the link has IPv6, but no address."""
        with mount_namespace():
            subprocess.run(["mount", "-o", "bind", "/proc/sys", "/proc/sys"], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", "/proc/sys"], check=True)
            create(here)
        assert Path("/proc/sys/net/ipv6/conf/odh1/disable_ipv6").read_text() == "0\n"
        assert here.audible("odh") == []
        ip("link", "set", "odc1", "up")
        assert "inet6" not in ip("address", "show", "odh1")

    def test_links_of_earlier_versions_are_silenced(self, here: Links) -> None:
        ip("link", "add", "odhold", "type", "veth", "peer", "odcold")
        create(here)
        assert here.audible("odh") == ["odhold"]
        here.silence("odhold")
        assert here.audible("odh") == []

    def test_silencing_a_link_that_has_gone_is_fine(self, here: Links) -> None:
        here.silence("odhgone")

    def test_jumbo_frames(self, here: Links) -> None:
        create(here, mtu=65535)
        assert (links()["odh1"]["mtu"], links()["odc1"]["mtu"]) == (65535, 65535)

    @pytest.mark.parametrize("wanted", [True, False])
    def test_the_containers_end_leaves_checksums_to_others_unless_told(
        self, here: Links, wanted: bool
    ) -> None:
        create(here, tx_checksums=wanted)
        assert (tx_checksums("odh1"), tx_checksums("odc1")) == (True, wanted)

    @pytest.mark.parametrize("taken", ["odh1", "odc1"])
    def test_a_name_that_is_taken_is_a_conflict_and_makes_nothing(self, here: Links, taken: str) -> None:
        add(taken)
        with pytest.raises(Conflict, match="odh1, odc1 with MTU 1442: a link of that name exists"):
            create(here)
        assert set(links()) == {"lo", "other", taken}

    @pytest.mark.parametrize("mtu", [67, 65536, 10**9])
    def test_an_mtu_that_cannot_be_is_refused_and_makes_nothing(self, here: Links, mtu: int) -> None:
        with pytest.raises(OvnDockerError, match=f"cannot make the link pair odh1, odc1 with MTU {mtu}: "):
            create(here, mtu=mtu)
        assert set(links()) == {"lo"}

    def test_many_at_once(self, here: Links) -> None:
        files = len(list(Path("/proc/self/fd").iterdir()))
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda number: create(here, number), range(32)))
            assert len(here.joined("odh")) == 32
            list(threads.map(lambda number: here.delete(f"odh{number}"), range(32)))
        assert set(links()) == {"lo"}
        assert len(list(Path("/proc/self/fd").iterdir())) <= files


class TestDeleting:
    def test_takes_both_ends(self, here: Links) -> None:
        create(here)
        here.delete("odh1")
        assert set(links()) == {"lo"}

    def test_takes_the_other_end_out_of_the_container(self, here: Links, container: Container) -> None:
        host, joined = create(here)
        container.take(joined)
        here.delete(host)
        assert set(links()) == {"lo"}

    def test_what_is_not_there_is_fine(self, here: Links) -> None:
        here.delete("odh1")
        create(here)
        here.delete("odh1")
        here.delete("odh1")


class TestJoined:
    def test_tells_in_which_the_other_end_is_in_a_container(self, here: Links, container: Container) -> None:
        create(here, 1)
        create(here, 2)
        add("eth0")
        container.take("odc2")
        assert here.joined("odh") == {"odh1": False, "odh2": True}
        assert here.joined("odh2") == {"odh2": True}
        assert here.joined("odh3") == {}

    def test_a_link_dies_with_its_container(self, here: Links, container: Container) -> None:
        create(here)
        container.take("odc1")
        assert here.joined("odh") == {"odh1": True}
        container.die()
        until(lambda: here.joined("odh") == {})

    def test_misses_none_while_others_come_and_go(self, here: Links) -> None:
        """What joined() does not list counts as dead."""
        for number in range(40):
            create(here, number)
        stop = threading.Event()

        def churn(name: str) -> None:
            while not stop.is_set():
                here.create_veth(f"{name}a", f"{name}b", mac=MAC, mtu=1400, tx_checksums=True)
                here.delete(f"{name}a")

        with ThreadPoolExecutor(2) as threads:
            churning = [threads.submit(churn, name) for name in "xy"]
            seen = [len(here.joined("odh")) for _ in range(10)]
            stop.set()
            for each in churning:
                each.result()
        assert seen == [40] * 10


class TestMtuOf:
    @pytest.mark.parametrize("address", ["10.0.0.1/24", "fd00::1/64", "10.0.0.1/32"])
    def test_is_that_of_the_link_with_the_address(self, here: Links, address: str) -> None:
        add("eth0", 9000)
        ip("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        assert here.mtu_of(ip_address(address.partition("/")[0])) == 9000

    def test_of_a_tunnels_own_end(self, here: Links) -> None:
        add("eth0", 9000)
        ip("address", "add", "10.0.0.1", "peer", "10.0.0.2", "dev", "eth0")
        assert here.mtu_of(ip_address("10.0.0.1")) == 9000
        with pytest.raises(Unavailable):
            here.mtu_of(ip_address("10.0.0.2"))

    @pytest.mark.parametrize("address", ["10.0.0.9", "fd00::9"])
    def test_an_address_of_another_host_is_named_with_the_cure(self, here: Links, address: str) -> None:
        with pytest.raises(Unavailable, match=rf"no interface .* {address} .*external_ids:ovn-encap-ip="):
            here.mtu_of(ip_address(address))

    @pytest.mark.parametrize("address", ["10.0.0.9", "fd00::9"])
    def test_with_no_file_descriptor_left_is_one_clear_line(self, here: Links, address: str) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with Path("/dev/null").open() as last:
            lowest_free = last.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            with pytest.raises(Unavailable, match="cannot ask the kernel about links: Too many open files"):
                here.mtu_of(ip_address(address))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_routes_are_those_of_the_main_table_but_for_the_default_one() -> None:
    add("eth0")
    ip("address", "add", "10.9.0.5/24", "dev", "eth0")
    ip("address", "add", "fd00:9::5/64", "dev", "eth0", "nodad")
    ip("link", "set", "eth0", "up")
    ip("route", "add", "default", "via", "10.9.0.1")
    ip("route", "add", "172.16.0.0/12", "via", "10.9.0.1")
    ip("route", "add", "blackhole", "192.0.2.0/24")
    ip("-6", "route", "add", "default", "via", "fd00:9::1")
    ip("-6", "route", "add", "fd00:77::/48", "via", "fd00:9::1")
    routes = {str(route) for route in Links().routes()} - {"fe80::/64"}
    assert routes == {"10.9.0.0/24", "172.16.0.0/12", "192.0.2.0/24", "fd00:9::/64", "fd00:77::/48"}


def test_an_interface_is_seen_in_its_container_with_what_is_on_top(container: Container) -> None:
    links = Links()
    links.create_veth("odhseen", "odcseen", mac=MAC, mtu=1400, tx_checksums=True)
    container.take("odcseen")
    inside = ("nsenter", f"--net=/proc/{container.pid}/ns/net", "ip")
    for command in (
        "link add other type veth peer name another",
        "link set odcseen name eth0",
        "address add 10.1.0.2/24 dev eth0",
        "address add 10.1.0.100/24 dev eth0",
        "link add vrrp link eth0 address 00:00:5e:00:01:0a type macvlan",
        "address add 10.1.0.101/32 dev vrrp",
    ):
        subprocess.run([*inside, *command.split()], check=True)
    index = links.peers("odh")["odhseen"]
    assert in_namespace(container.pid, lambda: links.held(index)) == (
        Held("eth0", MAC, ("10.1.0.2", "10.1.0.100")),
        Held("vrrp", "00:00:5e:00:01:0a", ("10.1.0.101",)),
    )
    assert links.peers("odhnosuch") == {}
