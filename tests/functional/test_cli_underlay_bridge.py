"""`ovn-docker underlay bridge` on a machine whose network is a cable to a router, with real Open vSwitch.

The router is where the operator sits: what matters is whether he still reaches the machine.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from functional.machine import OVN_DOCKER, Machine
from functional.ovsdb_servers import until

OVS_CTL = "/usr/share/openvswitch/scripts/ovs-ctl"
BRIDGE = ("underlay", "bridge", "--interface", "eth0", "--bridge", "breth0")
CHECKSUMS = "from ovn_docker.host.links import Links; Links()._tx_checksums_off('lan0')"


class Vm(Machine):
    """A virtual machine with Open vSwitch, and the router that its eth0 leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Machine()
        names = ["eth0", "netns", self.pid, "type", "veth", "peer", "name", "lan0", "netns", self.router.pid]
        subprocess.run(["ip", "link", "add", *names], check=True)
        self.router.sh(
            f"""ip link set lan0 up
            ip address add 10.7.0.1/24 dev lan0
            ip -6 address add fd00:7::1/64 dev lan0 nodad
            {OVN_DOCKER[0]} -c "{CHECKSUMS}"
            """
        )
        # dhclient-script(8) writes it: not the real machine's.
        self.sh("touch /run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf; ip link set eth0 up")
        self.out(OVS_CTL, "start", "--system-id=random")

    def configure(self) -> None:
        """Give it all kinds of addresses, routes and rules."""
        self.sh(
            """sysctl -qw net/ipv4/conf/eth0/rp_filter=2 net/ipv6/conf/eth0/accept_ra=2
            ip link set eth0 mtu 1400
            ip address add 10.7.0.5/24 broadcast 10.7.0.255 dev eth0
            ip address add 10.7.0.6/24 dev eth0 label eth0:two
            ip address add 10.9.9.9/32 dev eth0 valid_lft 5000 preferred_lft 4000
            ip -6 address add fd00:7::5/64 dev eth0 nodad
            ip -6 address add fd00:7::6/128 dev eth0 nodad preferred_lft 0 valid_lft 6000
            ip route add default via 10.7.0.1 dev eth0 metric 100 src 10.7.0.5
            ip route add default via 10.7.0.1 dev eth0 metric 200 mtu 1300
            ip route add 10.8.0.0/16 via 10.7.0.1 dev eth0 table 100
            ip route add 10.66.0.0/16 via 192.0.2.1 dev eth0 onlink proto static
            ip -6 route add default via fd00:7::1 dev eth0 metric 50
            ip -6 route add fd00:8::/64 dev eth0 table 100 expires 7000
            ip rule add preference 500 iif eth0 lookup 100
            ip -6 rule add preference 501 from fd00:7::/64 oif eth0 lookup 100
            """
        )

    def network(self, link: str) -> str:
        """All that is on a link, without its name, its index and the lifetimes that pass."""
        what = (
            f"ip -o address show dev {link}; for f in 4 6; do ip -o -$f route show table all dev {link};"
            f"ip -$f rule show; done; ip -o -br link show {link}; ip -o link show {link} | grep -o 'mtu [0-9]*'"
        )
        text = self.out("sh", "-c", what)
        text = re.sub(r"(?m)^\d+:", "", re.sub(r"\d+sec", "(seconds)", text))
        text = re.sub(r"<.*>|\b(UP|UNKNOWN)\b|@\S+| nodad", "", text)
        return re.sub(rf"\b{link}\b", "LINK", re.sub(r" *\\ *", " ", text))

    def close(self) -> None:
        self.router.close()
        super().close()


def sh(self: Machine, script: str) -> str:
    """Output of a shell script that must succeed."""
    return self.out("sh", "-ec", script)


Machine.sh = sh  # type: ignore[attr-defined]


@pytest.fixture
def vm() -> Iterator[Vm]:
    vm = Vm()
    yield vm
    vm.close()


@pytest.fixture
def static(vm: Vm) -> Vm:
    vm.configure()
    until(lambda: "tentative" not in vm.out("ip", "address"))
    return vm


class Pings:
    """The router asks an address every 10 ms, from its making until `gap`."""

    def __init__(self, vm: Vm, address: str) -> None:
        source = "fd00:7::1" if ":" in address else "10.7.0.1"
        self._process = subprocess.Popen(
            vm.router.inside("busybox", "ping", "-I", source, "-A", "-W", "1", address),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip


def test_all_moves_and_comes_back(static: Vm) -> None:
    before = static.network("eth0")
    print(before)
    said = static.changes(*BRIDGE)
    print(said)
    print(static.network("breth0"))
    assert static.network("breth0") == before
    said = static.changes(*BRIDGE, "--undo")
    print(said)
    assert static.network("eth0") == before
    assert static.out("ovs-vsctl", "list-br") == ""
