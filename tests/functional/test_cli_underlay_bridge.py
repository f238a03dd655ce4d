"""`ovn-docker underlay bridge` on a machine whose network is a cable to a router, with real Open vSwitch.

The router stands for the operator's own machine: the tests check that it still gets answers.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from functional.machine import OVN_DOCKER, Machine
from functional.ovsdb_servers import until

pytestmark = pytest.mark.slow

OVS_CTL = "/usr/share/openvswitch/scripts/ovs-ctl"
BRIDGE = ("underlay", "bridge", "--interface", "eth0", "--bridge", "breth0")
CHECKSUMS = "from ovn_docker.host.kernel.links import KernelLinks; KernelLinks()._tx_checksums_off('lan0')"


class Vm(Machine):
    """A virtual machine with Open vSwitch, and the router at the other end of its eth0."""

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
        # dhclient-script(8) writes /etc/resolv.conf, which is shared with the real machine.
        self.sh("touch /run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf; ip link set eth0 up")
        self.out(OVS_CTL, "start", "--system-id=random")

    def configure(self) -> None:
        """Add all kinds of addresses, routes and rules to eth0."""
        self.sh(
            """cd /proc/sys/net; echo 2 > ipv4/conf/eth0/rp_filter; echo 2 > ipv6/conf/eth0/accept_ra
            echo 0 > ipv6/conf/eth0/dad_transmits  # or a link-local address takes two seconds
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
        """Return the network of a link, without its name, its index and the lifetimes, which decrease."""
        what = (
            f"ip -o address show dev {link}; for f in 4 6; do ip -o -$f route show table all dev {link};"
            f"ip -$f rule show; done; ip -o -br link show {link}; "
            f"ip -o link show {link} | grep -o 'mtu [0-9]*'"
        )
        until(lambda: "tentative" not in self.out("ip", "address"))
        text = self.out("sh", "-c", what)
        text = re.sub(r"(?m)^\d+:", "", re.sub(r"\d+sec", "(seconds)", text))
        text = re.sub(r"<.*>|\b(UP|UNKNOWN)\b|@\S+| nodad", "", text)
        return re.sub(rf"\b{link}\b", "LINK", re.sub(r"[ \\]+", " ", text))

    def close(self) -> None:
        self.router.close()
        super().close()


def sh(self: Machine, script: str) -> str:
    """Return the output of a shell script that must succeed."""
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


ECHO_SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 7000))
print("listening", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""

ECHO_CLIENT = """
import select, socket, sys, time
connection = socket.create_connection((sys.argv[1], 7000), timeout=120)
print("connected", flush=True)
slowest = 0.0
while not select.select([0], [], [], 0.005)[0]:
    start = time.monotonic()
    connection.sendall(b"x")
    assert connection.recv(1) == b"x"
    slowest = max(slowest, time.monotonic() - start)
print(f"slowest answer {slowest * 1000:.0f} ms")
"""


class Session:
    """A TCP session from the router, such as the operator's, in which every byte is echoed.

    `end` closes it, and fails if an echo is missing.
    """

    def __init__(self, vm: Vm, address: str = "10.7.0.5") -> None:
        python = OVN_DOCKER[0]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(vm.inside(python, "-c", ECHO_SERVER, address), stdout=pipe, text=True)
        assert self._server.stdout
        assert self._server.stdout.readline() == "listening\n"
        talk = vm.router.inside(python, "-c", ECHO_CLIENT, address)
        self._client = subprocess.Popen(talk, stdin=pipe, stdout=pipe, text=True)
        assert self._client.stdout
        assert self._client.stdout.readline() == "connected\n"

    def end(self) -> str:
        said, _ = self._client.communicate("\n", timeout=120)
        assert self._client.returncode == 0
        self._server.communicate(timeout=120)
        return said


def reaches(vm: Vm, address: str = "10.7.0.5") -> bool:
    """Return True if the router gets one answer to each packet."""
    done = vm.router.run("busybox", "ping", "-c", "2", "-i", "0.1", "-W", "2", address)
    return "2 packets received" in done.stdout and "duplicates" not in done.stdout


def interrupted(vm: Vm, step: int, *argv: str) -> bool:
    """Run a command and kill it before the step of this number; return False if it ended before.

    A step is a call of ip or ovs-vsctl that changes something; wrappers of these programs count them.
    """
    vm.sh(
        f"""mkdir -p /run/counting; cd /run/counting; echo {step} > left
        for program in ip ovs-vsctl; do
            cat > $program <<'EOF'
#!/bin/sh
case " $* " in
    *" replace "*|*" append "*|*" del "*|*" flush "*|*" set "*|*" add-br "*|*" rule add "*|*" del-"*)
        left=$(($(cat /run/counting/left) - 1))
        echo $left > /run/counting/left
        if [ $left = 0 ]; then kill -9 $PPID; exit 1; fi ;;
esac
PATH=${{PATH#/run/counting:}} exec ${{0##*/}} "$@"
EOF
            chmod +x $program
        done"""
    )
    counted = vm.run("env", f"PATH=/run/counting:{vm.out('printenv', 'PATH')}", *OVN_DOCKER, *argv)
    killed = int(vm.out("cat", "/run/counting/left")) <= 0
    assert killed == (counted.returncode != 0), counted
    until(lambda: vm.run("flock", "-n", "/run/ovn-docker/underlay-eth0.lock", "true").returncode == 0)
    return killed


def refusal(vm: Vm, *argv: str) -> str:
    """Return the error, one line, of a command that must fail."""
    done = vm.ovn_docker(*argv)
    assert done.returncode != 0, done
    assert done.stderr.count("\n") == 1, done
    return done.stderr


# The move


def test_the_whole_network_moves_and_is_restored(static: Vm) -> None:
    before = static.network("eth0")
    said = static.apply(*BRIDGE)
    assert "10.7.0.1, fd00:7::1 answered through breth0" in said
    assert static.network("breth0") == before
    assert "10.7.0.5" not in static.network("eth0")
    assert reaches(static)
    assert reaches(static, "fd00:7::5")
    static.apply(*BRIDGE, "--undo")
    assert static.network("eth0") == before
    assert static.out("ovs-vsctl", "list-br") == ""
    assert reaches(static)
    assert reaches(static, "fd00:7::5")


def test_a_dry_run_changes_nothing_and_prints_commands_that_make_the_move(static: Vm) -> None:
    before = static.network("eth0")
    done = static.ovn_docker(*BRIDGE, "--dry-run")
    assert (static.network("eth0"), static.out("ovs-vsctl", "list-br")) == (before, "")
    commands = [line.strip()[2:] for line in done.stdout.splitlines() if line.startswith("    $ ")]
    static.sh("\n".join(commands))
    assert static.network("breth0") == before
    assert static.ovn_docker(*BRIDGE).stdout == "nothing to change\n"
    done = static.ovn_docker(*BRIDGE, "--undo", "--dry-run")
    assert static.network("breth0") == before
    static.sh("\n".join(line.strip()[2:] for line in done.stdout.splitlines() if line.startswith("    $ ")))
    assert static.network("eth0") == before


def test_a_session_over_the_interface_survives(static: Vm) -> None:
    session = Session(static)
    static.apply(*BRIDGE)
    print("move:", session.end())
    session = Session(static)
    static.apply(*BRIDGE, "--undo")
    print("undo:", session.end())


def test_a_move_that_was_begun_by_hand_is_completed(static: Vm) -> None:
    """A common mistake: the interface is moved into the bridge without its addresses."""
    before = static.network("eth0")
    static.sh("ovs-vsctl add-br breth0 -- set Bridge breth0 datapath_type=netdev -- add-port breth0 eth0")
    static.apply(*BRIDGE)
    assert static.network("breth0") == before
    assert reaches(static)
    static.apply(*BRIDGE, "--undo")
    assert reaches(static)
    assert static.out("ovs-vsctl", "list-br") == "breth0"  # made by hand, so it stays
    assert [line for line in static.network("eth0").splitlines() if "inet" in line] == [
        line for line in before.splitlines() if "inet" in line
    ]


# Restoration


def fewer_steps(vm: Vm) -> None:
    """Leave one address and one route of each kind."""
    vm.sh(
        """ip address del 10.7.0.6/24 dev eth0; ip address del 10.9.9.9/32 dev eth0
        ip address del fd00:7::6/128 dev eth0; ip -6 route del fd00:7::6; ip rule del preference 500
        ip route flush table 100; ip -6 route flush table 100
        ip route del default metric 200; ip route del 10.66.0.0/16"""
    )


def test_a_move_is_undone_when_the_gateway_does_not_answer(static: Vm) -> None:
    before = static.network("eth0")
    static.sh(
        "ovs-vsctl add-br breth0 -- set-fail-mode breth0 secure -- set Bridge breth0 datapath_type=netdev"
    )
    said = refusal(static, *BRIDGE, "--timeout=1")
    assert (
        "no answer from 10.7.0.1, fd00:7::1 through breth0 and no confirmation of the move within 1 seconds"
        in said
    )
    assert static.network("eth0") == before
    assert static.out("ovs-vsctl", "list-ports", "breth0") == ""
    assert reaches(static)


STRIDE = 3
"""Steps between two kills: with 1 the tests take minutes."""


def test_a_move_that_is_killed_at_any_step_is_undone(static: Vm) -> None:
    fewer_steps(static)
    before = static.network("eth0")
    step = 2
    while interrupted(static, step, *BRIDGE):
        assert static.network("eth0") == before, f"step {step}"
        assert static.out("ovs-vsctl", "list-br") == ""
        assert reaches(static)
        step += STRIDE
    assert step > 10
    assert static.network("breth0") == before


def test_an_undo_that_is_killed_at_any_step_is_completed(static: Vm) -> None:
    fewer_steps(static)
    before = static.network("eth0")
    step = 2 - STRIDE
    killed = True
    while killed:
        step += STRIDE
        static.out(*OVN_DOCKER, *BRIDGE)
        killed = interrupted(static, step, *BRIDGE, "--undo")
        assert static.network("eth0") == before, f"step {step}"
        assert static.out("ovs-vsctl", "list-br") == ""
        assert reaches(static)
    assert step > 6


def test_a_move_whose_guard_is_killed_is_undone_by_the_command(static: Vm) -> None:
    before = static.network("eth0")
    static.sh(
        "ovs-vsctl add-br breth0 -- set-fail-mode breth0 secure -- set Bridge breth0 datapath_type=netdev"
    )
    pipe = subprocess.PIPE
    moving = subprocess.Popen(
        static.inside(*OVN_DOCKER, *BRIDGE, "--timeout=3"), stdout=pipe, stderr=pipe, text=True
    )
    assert moving.stdout
    assert "make bridge" in moving.stdout.readline()
    static.sh('kill -9 $(pgrep -f "[u]nderlay guard")')
    assert "no confirmation" in moving.communicate(timeout=120)[1]
    assert static.network("eth0") == before


def test_a_move_is_undone_by_the_next_command_when_command_and_guard_are_killed(static: Vm) -> None:
    before = static.network("eth0")
    static.sh(
        "ovs-vsctl add-br breth0 -- set-fail-mode breth0 secure -- set Bridge breth0 datapath_type=netdev"
    )
    moving = subprocess.Popen(static.inside(*OVN_DOCKER, *BRIDGE), stdout=subprocess.PIPE, text=True)
    assert moving.stdout
    with moving.stdout as said:
        while "disable_ipv6 of eth0" not in said.readline():
            pass
    static.sh('kill -9 $(pgrep -f "[u]nderlay")')
    moving.wait()
    assert not reaches(static)
    static.out("ovs-vsctl", "set-fail-mode", "breth0", "standalone")
    done = static.ovn_docker(*BRIDGE)
    assert done.returncode == 0, done
    assert done.stdout.startswith("an earlier move of eth0 was interrupted; restoring eth0\n")
    assert static.network("breth0") == before


# Moves without proof


@pytest.fixture
def isolated(static: Vm) -> Vm:
    """A machine whose neighbours do not answer."""
    static.router.sh("ip link set lan0 down; ip link set lan0 arp off; ip link set lan0 up")
    static.sh("ip neighbour flush dev eth0")
    return static


def test_a_move_without_proof_is_undone(isolated: Vm) -> None:
    before = isolated.network("eth0")
    done = isolated.ovn_docker(*BRIDGE, "--timeout=1")
    assert done.returncode == 3
    assert "no host answered on eth0 before" in done.stdout
    assert "$ ovn-docker underlay bridge --interface eth0 --bridge breth0 --confirm" in done.stdout
    assert isolated.network("eth0") == before
    assert "it was kept or undone already" in refusal(isolated, *BRIDGE, "--confirm")


def test_a_confirmed_move_is_kept(isolated: Vm) -> None:
    before = isolated.network("eth0")
    with unconfirmed_move(isolated) as moving:
        assert "is under way" in refusal(isolated, *BRIDGE)
        assert isolated.out(*OVN_DOCKER, *BRIDGE, "--confirm") == "confirmed: eth0 stays in breth0"
    assert moving.returncode == 0
    assert isolated.network("breth0") == before


@contextmanager
def unconfirmed_move(vm: Vm) -> Iterator[subprocess.Popen[str]]:
    """Start a move and wait until it asks for a confirmation; wait for its end afterwards."""
    moving = subprocess.Popen(vm.inside(*OVN_DOCKER, *BRIDGE), stdout=subprocess.PIPE, text=True)
    assert moving.stdout
    while "--confirm" not in moving.stdout.readline():
        pass
    yield moving
    moving.communicate(timeout=120)


@pytest.mark.parametrize("number", ["TERM", "INT"])
def test_a_signal_undoes_the_move(isolated: Vm, number: str) -> None:
    before = isolated.network("eth0")
    with unconfirmed_move(isolated) as moving:
        isolated.sh(f'kill -{number} $(pgrep -f "[c]li.main underlay bridge")')
    assert moving.returncode != 0
    assert isolated.network("eth0") == before


def test_the_end_of_the_session_does_not_stop_the_move(isolated: Vm) -> None:
    before = isolated.network("eth0")
    with unconfirmed_move(isolated) as moving:
        isolated.sh('kill -HUP $(pgrep -f "[c]li.main underlay bridge")')
        assert isolated.out(*OVN_DOCKER, *BRIDGE, "--confirm") == "confirmed: eth0 stays in breth0"
    assert moving.returncode == 0
    assert isolated.network("breth0") == before


def test_option_yes_keeps_a_move_without_proof(isolated: Vm) -> None:
    isolated.apply(*BRIDGE, "--yes")


def test_option_reach_names_the_hosts_that_must_answer(static: Vm) -> None:
    said = refusal(static, *BRIDGE, "--reach=10.7.0.99")
    assert "--reach 10.7.0.99 does not answer on eth0 as it is; nothing was changed" in said
    assert "\nfd00:7::1 answered through breth0\n" in static.apply(*BRIDGE, "--reach=fd00:7::1")


# DHCP


DHCP = {
    "dhclient": "dhclient -4 -i -pf /run/dhclient.eth0.pid -lf /run/dhclient.eth0.leases eth0",
    "dhcpcd": "dhcpcd -w eth0",
    "udhcpc": "busybox udhcpc -i eth0 -p /run/udhcpc.eth0.pid -s /run/udhcpc.script",
}
UDHCPC_SCRIPT = """#!/bin/sh
case $1 in
    deconfig) ip address flush dev $interface; ip link set $interface up ;;
    bound | renew)
        ip address replace $ip/$mask dev $interface
        ip route replace default via $router dev $interface ;;
esac
"""


@pytest.fixture
def leases(vm: Vm) -> Vm:
    """A machine whose router leases addresses by DHCP."""
    vm.sh(
        f"""for d in /var/lib/dhcp /var/lib/dhcpcd; do mkdir -p $d; mount -t tmpfs none $d; done
        mkdir -p /run/dhcpcd; cat > /run/udhcpc.script <<'EOF'\n{UDHCPC_SCRIPT}EOF
        chmod +x /run/udhcpc.script"""
    )
    vm.router.sh(
        "dnsmasq --conf-file=/dev/null --interface=lan0 --bind-interfaces --port=0 --dhcp-authoritative "
        "--dhcp-range=10.7.0.10,10.7.0.99,1h --dhcp-option=6 --dhcp-leasefile=/run/leases "
        "--pid-file=/run/dnsmasq.pid --log-facility=/run/dnsmasq.log"
    )
    return vm


def leased(vm: Vm, link: str) -> str:
    """Return the IPv4 address of a link."""
    (found,) = json.loads(vm.out("ip", "-json", "-4", "address", "show", "dev", link))[0]["addr_info"]
    return str(found["local"])


@pytest.mark.parametrize("client", DHCP)
def test_a_dhcp_client_moves_and_is_restored(leases: Vm, client: str) -> None:
    leases.out(*DHCP[client].split())
    address = leased(leases, "eth0")
    before = leases.out("ip", "-4", "route")
    session = Session(leases, address)
    said = leases.apply(*BRIDGE)
    print("move:", session.end())
    assert f"stop {client} on eth0" in said
    assert f"start {client} on breth0" in said
    assert "10.7.0.1 answered through breth0" in said
    assert leased(leases, "breth0") == address
    assert leases.out("ip", "-4", "address", "show", "dev", "eth0") == ""
    assert leases.out("ip", "-4", "route").count("default") == 1
    assert reaches(leases, address)
    assert clients_of(leases, "breth0") == [client]
    assert clients_of(leases, "eth0") == []
    leases.apply(*BRIDGE, "--undo")
    assert leased(leases, "eth0") == address
    assert clients_of(leases, "eth0") == [client]
    assert leases.out("ip", "-4", "route") == before
    assert reaches(leases, address)


def clients_of(vm: Vm, link: str) -> list[str]:
    """Return the DHCP clients that run on a link."""
    lines = vm.out("ps", "-e", "-o", "args").splitlines()
    names = {word for line in lines if re.search(rf"\b{link}\b", line) for word in re.split(r"\W+", line)}
    return sorted(names & DHCP.keys())


def test_a_dhcp_client_is_restored_when_it_gets_no_lease_on_the_bridge(leases: Vm) -> None:
    client = "udhcpc"  # it has the shortest timeout
    leases.out(*DHCP[client].split())
    address = leased(leases, "eth0")
    leases.sh(
        "ovs-vsctl add-br breth0 -- set-fail-mode breth0 secure -- set Bridge breth0 datapath_type=netdev"
    )
    assert leases.ovn_docker(*BRIDGE, "--timeout=1").returncode != 0
    assert leased(leases, "eth0") == address
    assert clients_of(leases, "eth0") == [client]
    assert clients_of(leases, "breth0") == []
    assert reaches(leases, address)


def test_a_dhcp_client_runs_on_when_the_bridge_cannot_be_made(leases: Vm) -> None:
    leases.out(*DHCP["udhcpc"].split())
    pid = leases.out("cat", "/run/udhcpc.eth0.pid")
    leases.sh(
        """mkdir -p /run/failing; cat > /run/failing/ovs-vsctl <<'EOF'
#!/bin/sh
case " $* " in *" add-br "*) echo no bridge >&2; exit 1 ;; esac
PATH=${PATH#/run/failing:} exec ovs-vsctl "$@"
EOF
        chmod +x /run/failing/ovs-vsctl"""
    )
    path = f"PATH=/run/failing:{leases.out('printenv', 'PATH')}"
    done = leases.run("env", path, *OVN_DOCKER, *BRIDGE)
    assert (done.returncode, "no bridge" in done.stderr) == (1, True), done
    assert clients_of(leases, "eth0") == ["udhcpc"]
    assert leases.out("cat", "/run/udhcpc.eth0.pid") == pid


@pytest.fixture
def networkd(leases: Vm) -> Vm:
    """A machine with systemd-networkd, whose address comes by DHCP."""
    # /sys: else systemd-networkd waits for udev.
    leases.sh(
        """mount -t sysfs -o ro none /sys; mount -t tmpfs none /etc/systemd/network
        mkdir -p /run/dbus /run/systemd/network /run/systemd/netif; chown systemd-network /run/systemd/netif
        printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=ipv4\\n' > /etc/systemd/network/10-eth0.network
        dbus-daemon --system --fork"""
    )
    start_networkd(leases)
    return leases


def start_networkd(vm: Vm) -> None:
    vm.sh("setsid /lib/systemd/systemd-networkd > /run/networkd.log 2>&1 &")
    until(lambda: "configured" in vm.run("networkctl").stdout)


def test_systemd_networkd_configures_the_bridge_and_then_the_interface_again(networkd: Vm) -> None:
    address = leased(networkd, "eth0")
    routes = networkd.out("ip", "route")
    session = Session(networkd, address)
    networkd.apply(*BRIDGE)
    print("move:", session.end())
    assert leased(networkd, "breth0") == address
    assert networkd.out("ip", "address", "show", "dev", "eth0").count("inet") == 0
    assert "routable configured" in re.sub(" +", " ", networkd.out("networkctl", "list", "breth0"))
    assert reaches(networkd, address)
    networkd.apply(*BRIDGE, "--undo")
    assert leased(networkd, "eth0") == address
    assert networkd.out("ip", "route") == routes
    assert networkd.out("ls", "/run/systemd/network") == ""
    assert reaches(networkd, address)


def test_a_missing_file_of_systemd_networkd_is_an_error_before_any_change(networkd: Vm) -> None:
    address, routes = leased(networkd, "eth0"), networkd.out("ip", "route")
    networkd.sh("rm /etc/systemd/network/10-eth0.network")
    for option in ((), ("--persistent=netplan",)):
        said = refusal(networkd, *BRIDGE, *option)
        assert "cannot read /etc/systemd/network/10-eth0.network: No such file" in said
        assert "networkctl reload" in said
    assert networkd.out("ip", "route") == routes
    assert reaches(networkd, address)


# Configuration for the next boot


def permanent(vm: Vm, link: str) -> list[str]:
    """Return the lines of a link's network that a configuration file can keep."""
    return [
        re.sub(r"brd \S+ |proto static |:two", "", line)
        for line in vm.network(link).splitlines()
        if not re.search(r"seconds|lookup|proto kernel|scope link|10\.9\.9\.9", line)
    ]


def test_option_persistent_writes_a_configuration_for_ifupdown(static: Vm) -> None:
    before = permanent(static, "eth0")
    assert static.ovn_docker(*BRIDGE, "--persistent=ifupdown").stdout.startswith(
        "# /etc/network/interfaces.d"
    )
    static.out(*OVN_DOCKER, *BRIDGE)
    said = static.out(*OVN_DOCKER, *BRIDGE, "--persistent=ifupdown", "--output=/run/interfaces")
    assert said == "wrote /run/interfaces; its first lines say what to do with it"
    # The state after a reboot.
    static.sh(
        """ovs-vsctl del-br breth0; echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6; mkdir /run/network
        mount --bind /run/interfaces /etc/network/interfaces; ifup -a"""
    )
    assert permanent(static, "breth0") == before
    assert reaches(static)
    assert reaches(static, "fd00:7::5")


def test_option_persistent_writes_a_dhcp_configuration_for_ifupdown(leases: Vm) -> None:
    leases.out(*DHCP["dhclient"].split())
    address = leased(leases, "eth0")
    leases.out(*OVN_DOCKER, *BRIDGE)
    leases.out(*OVN_DOCKER, *BRIDGE, "--persistent=ifupdown", "--output=/run/interfaces")
    leases.sh(
        """kill $(pidof dhclient); ovs-vsctl del-br breth0; mkdir /run/network
        mount --bind /run/interfaces /etc/network/interfaces; ifup -a"""
    )
    assert reaches(leases, leased(leases, "breth0"))
    assert clients_of(leases, "breth0") == ["dhclient"]
    assert address.startswith("10.7.0.")


def test_option_persistent_writes_a_configuration_for_systemd_networkd(networkd: Vm) -> None:
    networkd.out(*OVN_DOCKER, *BRIDGE)
    networkd.out(*OVN_DOCKER, *BRIDGE, "--persistent=systemd-networkd", "--output=/run/persist")
    networkd.sh(
        """kill $(pidof systemd-networkd); rm /run/systemd/network/*; ip address flush dev breth0
        rm /etc/systemd/network/*; sh /run/persist"""
    )
    assert networkd.out("ovs-vsctl", "get", "Port", "eth0", "other_config") == "{}"
    start_networkd(networkd)
    until(lambda: "inet " in networkd.out("ip", "address", "show", "dev", "breth0"))
    assert reaches(networkd, leased(networkd, "breth0"))


def test_option_persistent_writes_a_configuration_for_netplan(static: Vm) -> None:
    """Compare with netplan's reference; netplan itself needs a machine with systemd."""
    fewer_steps(static)
    mac = static.out("ip", "-br", "link", "show", "eth0").split()[2]
    text = static.out(*OVN_DOCKER, *BRIDGE, "--persistent=netplan")
    assert (
        [line for line in text.splitlines() if not line.startswith("#")]
        == f"""\
network:
  version: 2
  ethernets:
    "eth0":
      dhcp4: false
      dhcp6: false
      accept-ra: false
      link-local: []
  bridges:
    "breth0":
      interfaces: ["eth0"]
      openvswitch:
        other-config: {{hwaddr: "{mac}"}}
      mtu: 1400
      dhcp4: false
      dhcp6: false
      accept-ra: false
      addresses:
        - "10.7.0.5/24"
        - "fd00:7::5/64"
      routes:
        - to: "0.0.0.0/0"
          via: "10.7.0.1"
          metric: 100
          from: "10.7.0.5"
        - to: "::/0"
          via: "fd00:7::1"
          metric: 50""".splitlines()
    )


# Invalid requests


def test_the_bridge_of_ovn_controller_is_refused(many_links: Vm) -> None:
    of_ovn = ("Open_vSwitch", ".", "external_ids")
    many_links.out("ovs-vsctl", "set", *of_ovn[:2], "external_ids:ovn-remote=tcp:10.7.0.9:6642")
    code, said = many_links.refusal("underlay", "bridge", "--interface", "eth0", "--bridge", "br-int")
    many_links.out("ovs-vsctl", "remove", *of_ovn, "ovn-remote")
    assert (code, "br-int is the integration bridge" in said) == (2, True)


@pytest.mark.parametrize(
    ("interface", "bridge", "code", "words"),
    [
        ("eth7", "breth0", 2, "--interface eth7: there is no such interface; this host has dummy0, "),
        ("lo", "breth0", 2, "--interface lo is the loopback interface"),
        ("eth0", "eth0", 2, "--bridge eth0 is the interface itself"),
        (
            "eth0",
            "a-bridge-of-long-name",
            2,
            "--bridge 'a-bridge-of-long-name' is not a valid name",
        ),
        ("eth0", "br/0", 2, "--bridge 'br/0' is not a valid name"),
        (
            "eth0",
            "dummy0",
            1,
            "--bridge dummy0: a link of that name exists and is not an Open vSwitch bridge",
        ),
        ("tun0", "breth0", 2, "--interface tun0: only Ethernet interfaces"),
        ("ours0", "breth0", 2, "--interface ours0 is an Open vSwitch bridge"),
        ("eth1", "breth0", 1, "eth1 is a part of lan0"),
        ("eth2", "breth0", 1, "eth2 is a port of bridge ours0; give --bridge ours0"),
        ("eth0", "used0", 1, "--bridge used0 has addresses of its own (10.6.6.6/24); give another bridge"),
    ],
)
def test_an_unusable_interface_or_bridge_is_refused(
    many_links: Vm, interface: str, bridge: str, code: int, words: str
) -> None:
    found = many_links.refusal("underlay", "bridge", "--interface", interface, "--bridge", bridge)
    assert found[0] == code
    assert words in found[1]


@pytest.fixture(scope="module")
def many_links() -> Iterator[Vm]:
    """A machine with all kinds of links."""
    vm = Vm()
    vm.sh(
        """ip link add dummy0 type veth peer name dummy1; ip tuntap add tun0 mode tun
        for n in 1 2; do ip link add eth$n type veth peer name peer$n; done
        ip link add lan0 type bridge; ip link set eth1 master lan0
        for b in ours0 used0; do ovs-vsctl add-br $b -- set Bridge $b datapath_type=netdev; done
        ovs-vsctl add-port ours0 eth2; ip address add 10.6.6.6/24 dev used0"""
    )
    yield vm
    vm.close()


def test_options_that_exclude_each_other_are_refused(many_links: Vm) -> None:
    for options, words in {
        ("--output=/tmp/x",): "--output /tmp/x needs --persistent netplan|ifupdown|systemd-networkd",
        ("--timeout=0",): "invalid number of seconds '0': give 1 to 3600",
        ("--reach=gateway",): "'gateway' is not an IP address",
        ("--undo", "--yes"): "not allowed with argument",
        ("--persistent=netplan", "--output=/nosuch/x"): "--output /nosuch/x cannot be written",
        ("--confirm",): "no move of eth0 waits for a confirmation",
    }.items():
        assert words in many_links.refusal(*BRIDGE, *options)[1]
    assert many_links.ovn_docker(*BRIDGE, "--undo").stdout == "nothing to change\n"


def test_undo_is_refused_while_containers_use_the_bridge(static: Vm) -> None:
    static.apply(*BRIDGE)
    static.sh("ip link add c1 type veth peer name c2; ovs-vsctl add-port breth0 c1")
    assert "breth0 still has c1; stop the containers and the driver" in refusal(static, *BRIDGE, "--undo")
    assert reaches(static)


def test_a_move_without_open_vswitch_is_refused(static: Vm) -> None:
    before = static.network("eth0")
    static.out(OVS_CTL, "stop")
    assert "Open vSwitch is not running; start it with" in static.refusal(*BRIDGE)[1]
    assert static.network("eth0") == before


def test_a_closed_output_does_not_stop_the_move(static: Vm) -> None:
    before = static.network("eth0")
    static.run("sh", "-c", f"{' '.join((*OVN_DOCKER, *BRIDGE))} | head -n 1")
    assert static.network("breth0") == before


def test_rare_addresses_and_routes_move_and_are_restored(static: Vm) -> None:
    static.sh(
        """ip address add 224.0.0.77/32 dev eth0 autojoin
        ip route add multicast 239.1.0.0/16 dev eth0
        ip route add 10.62.0.0/16 via 10.7.0.1 dev eth0 mtu lock 1300 advmss 1200 initcwnd 20 rto_min 50ms
        for f in -4 -6; do
            [ $f = -4 ] && near=10.7.0. far=10.61.0.0/16 || near=fd00:7:: far=2001:db8::/32
            ip $f route add $far proto static nexthop via ${near}1 dev eth0 weight 2 \\
                nexthop via ${near}9 dev eth0 weight 3
        done"""
    )
    before = static.network("eth0")
    static.apply(*BRIDGE)
    assert static.network("breth0") == before
    static.apply(*BRIDGE, "--undo")
    assert static.network("eth0") == before


def test_a_route_whose_lifetime_has_ended_does_not_move(static: Vm) -> None:
    """The kernel shows such a route until it collects garbage, with a negative lifetime or 0."""
    before = static.network("eth0")
    static.sh(
        """echo 3600 > /proc/sys/net/ipv6/route/gc_interval
        ip -6 route add 2001:db8:9::/64 via fd00:7::1 dev eth0 proto ra expires 1"""
    )
    until(lambda: "expires -" in static.out("ip", "-6", "route", "show", "2001:db8:9::/64"))
    static.apply(*BRIDGE)
    assert static.network("breth0") == before
    static.apply(*BRIDGE, "--undo")
    assert static.network("eth0") == before


def test_a_route_that_a_program_makes_meanwhile_does_not_stop_the_move(static: Vm) -> None:
    """systemd-networkd makes the routes of router advertisements on the bridge itself, at any time."""
    route = "2001:db8:7::/64 proto ra metric 1024"
    static.sh(
        f"""ip -6 route add {route} dev eth0; mkdir /run/early; cat > /run/early/ip <<'EOF'
#!/bin/sh
PATH=${{PATH#/run/early:}}
case " $* " in *" append "*2001:db8:7*breth0*) ip -6 route append {route} hoplimit 64 dev breth0 ;; esac
exec ip "$@"
EOF
        chmod +x /run/early/ip"""
    )
    static.out("env", f"PATH=/run/early:{static.out('printenv', 'PATH')}", *OVN_DOCKER, *BRIDGE)
    assert "2001:db8:7::/64" in static.out("ip", "-6", "route", "show", "dev", "breth0")
    assert static.out("ip", "-6", "route", "show", "dev", "eth0") == ""
    assert reaches(static)
    assert reaches(static, "fd00:7::5")


def test_an_address_whose_route_a_program_makes_moves_and_is_restored(vm: Vm) -> None:
    """NetworkManager adds addresses with noprefixroute, and a route with the protocol of the kernel."""
    vm.sh(
        """ip address add 10.7.0.5/24 dev eth0 noprefixroute
        ip route add 10.7.0.0/24 dev eth0 proto kernel scope link src 10.7.0.5 metric 100
        ip route add default via 10.7.0.1 dev eth0 proto static metric 100"""
    )
    before = vm.network("eth0")
    vm.apply(*BRIDGE)
    assert vm.network("breth0") == before
    assert reaches(vm)
    vm.apply(*BRIDGE, "--undo")
    assert vm.network("eth0") == before
    assert reaches(vm)


def test_a_guard_whose_parent_is_dead_kills_no_other_process(static: Vm) -> None:
    """A command killed at once leaves the guard to another parent: here the shell, else systemd."""
    static.apply(*BRIDGE)
    guard = " ".join((*OVN_DOCKER, "underlay", "guard", "/run/ovn-docker/journal", "60"))
    journal = (
        "from ovn_docker.uplink import journal, uplink; journal.STATE.mkdir(exist_ok=True); "
        "journal.write(journal.Journal('eth0', 'breth0', True, uplink.read('breth0'), [])); "
        "journal.journal_path('eth0').rename(journal.STATE / 'journal')"
    )
    static.out(OVN_DOCKER[0], "-c", journal)
    assert static.out("sh", "-c", f"{guard} </dev/null >/dev/null; echo alive") == "alive"
    assert reaches(static)


def test_an_invalid_journal_is_an_error(static: Vm) -> None:
    """Another version may have written it: its contents are unknown."""
    static.sh("mkdir -p /run/ovn-docker; echo '{}' > /run/ovn-docker/underlay-eth0.json")
    before = static.network("eth0")
    assert "/run/ovn-docker/underlay-eth0.json cannot be used" in refusal(static, *BRIDGE)
    assert static.network("eth0") == before


def test_undo_is_refused_while_containers_use_a_bridge_made_by_hand(static: Vm) -> None:
    static.sh("ovs-vsctl add-br breth0 -- set Bridge breth0 datapath_type=netdev")
    static.apply(*BRIDGE)
    static.sh("ip link add odhc1 type veth peer name c2; ovs-vsctl add-port breth0 odhc1")
    assert "breth0 still has odhc1; stop the containers and the driver" in refusal(static, *BRIDGE, "--undo")
    static.sh("ovs-vsctl del-port odhc1; ip link add c1 type veth peer name c3; ovs-vsctl add-port breth0 c1")
    static.apply(*BRIDGE, "--undo")
    assert reaches(static)
