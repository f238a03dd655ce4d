"""Veth pairs, in a network namespace that the test makes."""

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
from ovn_docker.host.kernel.links import Held, KernelLinks
from ovn_docker.host.kernel.ping import in_namespace

pytestmark = pytest.mark.usefixtures("network_namespace")

MAC = "02:42:c0:a8:01:02"


def links() -> dict[str, Any]:
    return {link["ifname"]: link for link in json.loads(ip("-json", "-details", "link"))}


def tx_checksums(link: str) -> bool:
    """Return whether transmit checksum offload is on, as ``ethtool -k`` shows it."""
    value = array("I", [0x16, 7])  # ETHTOOL_GTXCSUM, linux/ethtool.h
    address, _ = value.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8946, struct.pack("16sP", link.encode(), address).ljust(40, b"\0"))
    return bool(value[1])


@contextmanager
def mount_namespace() -> Iterator[None]:
    """Give this thread a mount namespace of its own."""
    libc, kernel = ctypes.CDLL(None, use_errno=True), Path.cwd()
    with Path("/proc/thread-self/ns/mnt").open() as before:
        assert libc.unshare(0x20000 | 0x200) == 0  # CLONE_NEWNS | CLONE_FS, linux/sched.h
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        try:
            yield
        finally:
            assert libc.setns(before.fileno(), 0x20000) == 0
            os.chdir(kernel)  # setns(2) changes it to the root


def add(link: str, mtu: int = 1500) -> None:
    """Add a link that is not of ovn-docker."""
    ip("link", "add", link, "mtu", str(mtu), "type", "veth", "peer", "name", "other")


@pytest.fixture
def kernel() -> KernelLinks:
    return KernelLinks()


def create(
    kernel: KernelLinks, number: int = 1, *, mtu: int = 1442, tx_checksums: bool = True
) -> tuple[str, str]:
    names = f"odh{number}", f"odc{number}"
    kernel.create_veth(*names, mac=MAC, mtu=mtu, tx_checksums=tx_checksums)
    return names


class TestCreateVeth:
    def test_host_end_is_up_and_container_end_has_the_mac(self, kernel: KernelLinks) -> None:
        create(kernel)
        host, container = links()["odh1"], links()["odc1"]
        assert (host["link"], container["link"]) == ("odc1", "odh1")
        assert (host["mtu"], container["mtu"]) == (1442, 1442)
        assert container["address"] == MAC != host["address"]
        assert "UP" in host["flags"]
        assert "UP" not in container["flags"]

    @pytest.mark.parametrize("mtu", [1442, 1000])  # below 1280 a link has no IPv6 at all
    def test_host_end_is_silent(self, kernel: KernelLinks, mtu: int) -> None:
        create(kernel, mtu=mtu)
        assert kernel.unsilenced("odh") == []
        settings = Path("/proc/sys/net/ipv4/conf/odh1")
        found = [(settings / name).read_text().strip() for name in ("forwarding", "rp_filter", "arp_ignore")]
        assert found == ["0", "1", "8"]
        ip("link", "set", "odc1", "up")
        assert "inet6" not in ip("address", "show", "odh1")

    def test_host_end_is_silent_where_proc_sys_is_read_only(self, kernel: KernelLinks) -> None:
        """As under systemd with ProtectKernelTunables: the link has IPv6, but no address."""
        with mount_namespace():
            subprocess.run(["mount", "-o", "bind", "/proc/sys", "/proc/sys"], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", "/proc/sys"], check=True)
            create(kernel)
        assert Path("/proc/sys/net/ipv6/conf/odh1/disable_ipv6").read_text() == "0\n"
        assert kernel.unsilenced("odh") == []
        ip("link", "set", "odc1", "up")
        assert "inet6" not in ip("address", "show", "odh1")

    def test_links_of_earlier_versions_are_silenced(self, kernel: KernelLinks) -> None:
        ip("link", "add", "odhold", "type", "veth", "peer", "odcold")
        create(kernel)
        assert kernel.unsilenced("odh") == ["odhold"]
        kernel.silence("odhold")
        assert kernel.unsilenced("odh") == []

    def test_silencing_a_missing_link_is_no_error(self, kernel: KernelLinks) -> None:
        kernel.silence("odhgone")

    def test_mtu_of_jumbo_frames_is_set(self, kernel: KernelLinks) -> None:
        create(kernel, mtu=65535)
        assert (links()["odh1"]["mtu"], links()["odc1"]["mtu"]) == (65535, 65535)

    @pytest.mark.parametrize("wanted", [True, False])
    def test_container_end_has_checksum_offload_as_requested(self, kernel: KernelLinks, wanted: bool) -> None:
        create(kernel, tx_checksums=wanted)
        assert (tx_checksums("odh1"), tx_checksums("odc1")) == (True, wanted)

    @pytest.mark.parametrize("taken", ["odh1", "odc1"])
    def test_name_in_use_is_a_conflict_and_creates_nothing(self, kernel: KernelLinks, taken: str) -> None:
        add(taken)
        with pytest.raises(Conflict, match="odh1, odc1 with MTU 1442: a link of that name exists"):
            create(kernel)
        assert set(links()) == {"lo", "other", taken}

    @pytest.mark.parametrize("mtu", [67, 65536, 10**9])
    def test_invalid_mtu_is_refused_and_creates_nothing(self, kernel: KernelLinks, mtu: int) -> None:
        with pytest.raises(OvnDockerError, match=f"cannot make the link pair odh1, odc1 with MTU {mtu}: "):
            create(kernel, mtu=mtu)
        assert set(links()) == {"lo"}

    def test_many_pairs_can_be_created_at_once(self, kernel: KernelLinks) -> None:
        files = len(list(Path("/proc/self/fd").iterdir()))
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda number: create(kernel, number), range(32)))
            assert len(kernel.joined("odh")) == 32
            list(threads.map(lambda number: kernel.delete(f"odh{number}"), range(32)))
        assert set(links()) == {"lo"}
        until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= files)  # other tests' threads open files


class TestDelete:
    def test_delete_removes_both_ends(self, kernel: KernelLinks) -> None:
        create(kernel)
        kernel.delete("odh1")
        assert set(links()) == {"lo"}

    def test_delete_removes_the_end_in_the_container(self, kernel: KernelLinks, container: Container) -> None:
        host, joined = create(kernel)
        container.move_in(joined)
        kernel.delete(host)
        assert set(links()) == {"lo"}

    def test_delete_of_a_missing_link_is_no_error(self, kernel: KernelLinks) -> None:
        kernel.delete("odh1")
        create(kernel)
        kernel.delete("odh1")
        kernel.delete("odh1")


class TestJoined:
    def test_joined_returns_which_links_have_an_end_in_a_container(
        self, kernel: KernelLinks, container: Container
    ) -> None:
        create(kernel, 1)
        create(kernel, 2)
        add("eth0")
        container.move_in("odc2")
        assert kernel.joined("odh") == {"odh1": False, "odh2": True}
        assert kernel.joined("odh2") == {"odh2": True}
        assert kernel.joined("odh3") == {}

    def test_link_is_gone_after_its_container_dies(self, kernel: KernelLinks, container: Container) -> None:
        create(kernel)
        container.move_in("odc1")
        assert kernel.joined("odh") == {"odh1": True}
        container.die()
        until(lambda: kernel.joined("odh") == {})

    def test_joined_lists_each_link_while_others_are_made_and_deleted(self, kernel: KernelLinks) -> None:
        """A link that joined() does not list counts as dead."""
        for number in range(40):
            create(kernel, number)
        stop = threading.Event()

        def churn(name: str) -> None:
            while not stop.is_set():
                kernel.create_veth(f"{name}a", f"{name}b", mac=MAC, mtu=1400, tx_checksums=True)
                kernel.delete(f"{name}a")

        with ThreadPoolExecutor(2) as threads:
            churning = [threads.submit(churn, name) for name in "xy"]
            seen = [len(kernel.joined("odh")) for _ in range(10)]
            stop.set()
            for each in churning:
                each.result()
        assert seen == [40] * 10


class TestMtuOf:
    @pytest.mark.parametrize("address", ["10.0.0.1/24", "fd00::1/64", "10.0.0.1/32"])
    def test_mtu_is_that_of_the_link_with_the_address(self, kernel: KernelLinks, address: str) -> None:
        add("eth0", 9000)
        ip("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        assert kernel.mtu_of(ip_address(address.partition("/")[0])) == 9000

    def test_mtu_of_a_peer_address_is_that_of_the_own_end(self, kernel: KernelLinks) -> None:
        add("eth0", 9000)
        ip("address", "add", "10.0.0.1", "peer", "10.0.0.2", "dev", "eth0")
        assert kernel.mtu_of(ip_address("10.0.0.1")) == 9000
        with pytest.raises(Unavailable):
            kernel.mtu_of(ip_address("10.0.0.2"))

    @pytest.mark.parametrize("address", ["10.0.0.9", "fd00::9"])
    def test_address_of_another_host_is_named_with_the_cure(self, kernel: KernelLinks, address: str) -> None:
        with pytest.raises(Unavailable, match=rf"no interface .* {address} .*external_ids:ovn-encap-ip="):
            kernel.mtu_of(ip_address(address))

    @pytest.mark.parametrize("address", ["10.0.0.9", "fd00::9"])
    def test_lack_of_file_descriptors_is_reported_in_one_line(
        self, kernel: KernelLinks, address: str
    ) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # also if another thread closes a file
        try:
            with pytest.raises(Unavailable, match="cannot ask the kernel about links: Too many open files"):
                kernel.mtu_of(ip_address(address))
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
    routes = {str(route) for route in KernelLinks().routes()} - {"fe80::/64"}
    assert routes == {"10.9.0.0/24", "172.16.0.0/12", "192.0.2.0/24", "fd00:9::/64", "fd00:77::/48"}


def test_interface_in_a_container_is_returned_with_the_links_on_top(container: Container) -> None:
    links = KernelLinks()
    links.create_veth("odhseen", "odcseen", mac=MAC, mtu=1400, tx_checksums=True)
    container.move_in("odcseen")
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
