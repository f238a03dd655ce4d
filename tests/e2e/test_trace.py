"""`ovn-docker trace` agrees with traffic, whatever drops it, and `tcpdump` shows the packets."""

import itertools
import json
import random
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from e2e.cluster import unanswered
from e2e.lab import CommandError, Fabric, Host, wait_for

Break = Callable[["Topology"], AbstractContextManager[object]]


class Topology:
    """Two hosts; web1 and web2 on the first and far on the second are on `foo`, other is only on `bar`."""

    def __init__(self, fabric: Fabric) -> None:
        self.hosts = self.host1, self.host2 = fabric.cluster("host1", "host2")
        for host in self.hosts:
            host.driver.start("--sweep-interval=3600")
        create = ("network", "create", "-d", "openvswitch")
        named = ("--ipam-driver=openvswitch", "--subnet=10.1.0.0/24", "-o", "ovn.network=foo")
        self.host1.docker(*create, *named, "foo")
        self.host1.docker(*create, "--subnet=10.2.0.0/24", "bar")
        wait_for(lambda: "foo" in self.host2.docker("network", "ls"), "the network")
        self.where = {"web1": self.host1, "web2": self.host1, "other": self.host1, "far": self.host2}
        self.endpoints: dict[str, dict[str, Any]] = {}
        for name, host in self.where.items():
            network = "bar" if name == "other" else "foo"
            host.docker("run", "-d", f"--net={network}", f"--name={name}", "--stop-signal=KILL", "busybox",
                        "nc", "-ll", "-p", "5432", "-e", "true")  # fmt: skip
            (container,) = json.loads(host.docker("inspect", name))
            self.endpoints[name] = container["NetworkSettings"]["Networks"][network]

    def address(self, name: str) -> str:
        return str(self.endpoints[name]["IPAddress"])

    def port(self, name: str) -> str:
        return str(self.endpoints[name]["EndpointID"])

    def link(self, name: str) -> str:
        return f"odh{self.port(name)[:12]}"

    def nbctl(self, *command: str) -> None:
        self.host1.run("ovn-nbctl", "--timeout=60", "--wait=hv", *command, timeout=70)

    def reaches(self, source: str, target: str, packet: str) -> bool:
        """Return whether real traffic arrives; in user space a tunnel may lose the first packet."""
        address = self.address(target)
        once = "ping -c 1 -W $i $0" if packet == "icmp" else "nc -w $i $0 5432 </dev/null"
        tries = f"for i in 1 1 2; do {once} && exit; done; exit 1"
        try:
            self.where[source].docker("exec", source, "sh", "-c", tries, address)
        except CommandError:
            return False
        return True

    def traced(self, source: str, target: str, packet: str) -> tuple[bool, str]:
        """Return the verdict of `ovn-docker trace`: whether the packet arrives, and the text.

        *target*: a container of the topology, or an address.
        """
        to = self.address(target) if target in self.endpoints else target
        command = ("ovn-docker", "trace", "--json", source, to, packet)
        said = json.loads(self.where[source].run(*command, check=False, timeout=60))
        return said["delivered"], said["verdict"]


@pytest.fixture(scope="module")
def topology(module_fabric: Fabric) -> Topology:
    return Topology(module_fabric)


@contextmanager
def nothing(topology: Topology) -> Iterator[None]:
    yield


@contextmanager
def access_rule(topology: Topology, name: str, direction: str, match: str) -> Iterator[None]:
    side = "outport" if direction == "to-lport" else "inport"
    topology.nbctl(
        "acl-add", "foo", direction, "1000", f'{side} == "{topology.port(name)}" && {match}', "drop"
    )
    yield
    topology.nbctl("acl-del", "foo")


@contextmanager
def disabled(topology: Topology, name: str) -> Iterator[None]:
    topology.nbctl("lsp-set-enabled", topology.port(name), "disabled")
    yield
    topology.nbctl("lsp-set-enabled", topology.port(name), "enabled")


@contextmanager
def wrong_port_security(topology: Topology, name: str) -> Iterator[None]:
    endpoint = topology.endpoints[name]
    mac, address = endpoint["MacAddress"], endpoint["IPAddress"]
    topology.nbctl("lsp-set-port-security", topology.port(name), f"{mac} 10.1.0.200")
    yield
    topology.nbctl("lsp-set-port-security", topology.port(name), f"{mac} {address}")


@contextmanager
def link_down(topology: Topology, name: str) -> Iterator[None]:
    topology.where[name].run("ip", "link", "set", topology.link(name), "down")
    yield
    topology.where[name].run("ip", "link", "set", topology.link(name), "up")


@contextmanager
def firewalled(topology: Topology) -> Iterator[None]:
    if topology.host2.fabric.userspace:  # the kernel does not get the packets
        rule = "priority=100,udp,tp_dst=6081"
        topology.host2.run("ovs-ofctl", "add-flow", "breth1", f"{rule},actions=drop")
        yield
        topology.host2.run("ovs-ofctl", "--strict", "del-flows", "breth1", rule)
    else:
        hook = "type filter hook input priority 0;"
        rules = f"table inet firewall {{ chain input {{ {hook} udp dport 6081 drop; }}; }}"
        topology.host2.run("nft", "-f", "-", stdin=rules)
        yield
        topology.host2.run("nft", "delete", "table", "inet", "firewall")


BREAKS: dict[str, tuple[tuple[str, str], Break]] = {
    "nothing": (("web1", "far"), nothing),
    "tcp to web2 forbidden": (
        ("web1", "web2"),
        lambda t: access_rule(t, "web2", "to-lport", "tcp.dst == 5432"),
    ),
    "answers of far forbidden": (
        ("web1", "far"),
        lambda t: access_rule(t, "far", "from-lport", "tcp.src == 5432"),
    ),
    "echoes to far forbidden": (("web1", "far"), lambda t: access_rule(t, "far", "to-lport", "icmp4")),
    "web2 disabled": (("far", "web2"), lambda t: disabled(t, "web2")),
    "far disabled": (("web1", "far"), lambda t: disabled(t, "far")),
    "wrong port security of web1": (("web1", "web2"), lambda t: wrong_port_security(t, "web1")),
    "wrong port security of far": (("web1", "far"), lambda t: wrong_port_security(t, "far")),
    "link of web2 down": (("far", "web2"), lambda t: link_down(t, "web2")),
    "link of far down": (("web1", "far"), lambda t: link_down(t, "far")),
    "tunnel firewalled": (("far", "web2"), firewalled),
}
"""A fault, and the two containers between which it drops packets."""

PAIRS = [("web1", "web2"), ("web1", "far"), ("far", "web2"), ("web1", "other")]
PACKETS = ("icmp", "tcp/5432")


@pytest.mark.parametrize("broken", BREAKS)
def test_verdict_agrees_with_traffic(topology: Topology, broken: str) -> None:
    pair, make = BREAKS[broken]
    concerned = [(pair, packet) for packet in PACKETS]
    others = [case for case in itertools.product(PAIRS, PACKETS) if case not in concerned]
    with make(topology):
        for (source, target), packet in [*concerned, *random.Random(broken).sample(others, k=1)]:
            delivered, verdict = topology.traced(source, target, packet)
            assert delivered == topology.reaches(source, target, packet), (source, target, packet, verdict)


def test_drop_names_its_object(topology: Topology) -> None:
    with access_rule(topology, "far", "to-lport", "tcp.dst == 5432"):
        acl = topology.host1.run("ovn-nbctl", "--bare", "--columns=_uuid", "list", "ACL")
        _, verdict = topology.traced("web1", "far", "tcp/5432")
        assert f"dropped at network foo, by ACL {acl} (to-lport, priority 1000, drop: " in verdict
    with wrong_port_security(topology, "web1"):
        _, verdict = topology.traced("web1", "web2", "icmp")
        assert verdict.startswith(
            f"dropped at OVN, by port_security of Logical_Switch_Port {topology.port('web1')}"
        )
    with link_down(topology, "web2"):
        _, verdict = topology.traced("web1", "web2", "icmp")
        assert verdict.startswith(f"dropped at web2, by link {topology.link('web2')}")
    _, verdict = topology.traced("web1", "other", "icmp")
    assert verdict.endswith("connect one: docker network connect foo other")


def test_detail_adds_the_output_of_the_tools(topology: Topology) -> None:
    said = topology.host1.run("ovn-docker", "trace", "web1", "web2", "--detail")
    assert "ls_in_l2_lkup" in said
    assert "Datapath actions:" in said
    assert "* Logical flow: table=" in said  # by ovn-detrace


def test_udp_is_traced(topology: Topology) -> None:
    for source, target in (("web1", "web2"), ("web1", "far")):
        assert topology.traced(source, target, "udp/53")[0]
    with access_rule(topology, "far", "to-lport", "udp.dst == 53"):
        assert topology.traced("web1", "far", "udp/5353")[0]
        assert "by ACL" in topology.traced("web1", "far", "udp/53")[1]


def test_idle_tunnel_is_traced(topology: Topology) -> None:
    topology.host1.run("ovs-appctl", "tnl/arp/flush")
    assert topology.traced("web1", "far", "icmp") == (True, "delivered, and so is the answer")


def test_capture_ends_after_its_packets(topology: Topology) -> None:
    topology.host1.spawn("ovn-docker", "tcpdump", "web2", "-c", "2", "icmp", log="/tmp/capture")
    wait_for(lambda: "listening" in topology.host1.path("/tmp/capture").read_text(), "the capture")
    assert topology.reaches("web1", "web2", "icmp")
    wait_for(lambda: "2 packets captured" in topology.host1.path("/tmp/capture").read_text(), "its end")
    said = topology.host1.path("/tmp/capture").read_text()
    assert f"{topology.address('web1')} > {topology.address('web2')}: ICMP echo request" in said
    gone = ("pgrep", "-x", "tcpdump")
    wait_for(lambda: topology.host1.run(*gone, check=False) == "", "the end of tcpdump itself")
    with pytest.raises(CommandError, match="is on host2: run this there"):
        topology.host1.run("ovn-docker", "tcpdump", topology.address("far"))
    with pytest.raises(CommandError, match="web2 is not on network bar, but on foo"):
        topology.host1.run("ovn-docker", "tcpdump", "web2", "--network", "bar")


def test_tcpdump_of_the_current_directory_is_not_run(topology: Topology) -> None:
    tool = topology.host1.run("sh", "-c", "command -v ovn-docker").strip()
    trap = (
        "mkdir /tmp/trap; printf '#!/bin/sh\\necho trap\\n' >/tmp/trap/tcpdump; chmod 755 /tmp/trap/tcpdump"
    )
    topology.host1.run("sh", "-ec", trap)
    for path in ("", ":/usr/bin", ".:/usr/bin"):
        said = topology.host1.run(
            "/usr/bin/env", "-C", "/tmp/trap", f"PATH={path}", tool, "tcpdump", "web2", "--version"
        )
        assert "libpcap version" in said


def test_ls_and_inspect_show_docker_ovn_and_open_vswitch(topology: Topology) -> None:
    rows = json.loads(topology.host1.run("ovn-docker", "ls", "endpoints", "--json"))
    assert {row["id"] for row in rows} == {topology.port(name) for name in topology.endpoints}
    (far,) = (row for row in rows if row["id"] == topology.port("far"))
    assert (far["host"], far["chassis"], far["up"], far["here"]) == ("host2", "host2", True, False)
    networks = json.loads(topology.host1.run("ovn-docker", "ls", "--json"))
    assert {row["name"]: (row["hosts"], row["endpoints"]) for row in networks} == {
        "foo": (["host1", "host2"], 3),
        "bar": (["host1"], 1),
    }
    with wrong_port_security(topology, "web1"):
        (web1,) = json.loads(topology.host1.run("ovn-docker", "inspect", "web1", "--json", check=False))
        assert (web1["state"], web1["installed"]) == ("running", True)
        assert "port security" in web1["differences"][0]
    topology.host1.run("ovs-vsctl", "del-port", topology.link("web2"))
    wait_for(  # the container may still be starting
        lambda: "no port in Open vSwitch" in topology.host1.run("ovn-docker", "inspect", "web2", check=False),
        "a difference",
    )
    topology.host1.docker("restart", "web2")


def test_status_shows_the_state_of_the_host(topology: Topology) -> None:
    topology.host1.await_flows()
    said = topology.host2.run("ovn-docker", "status")
    parts = {line.split()[0]: line for line in said.splitlines() if line}
    assert re.search(r"since .*, [1-9]\d* requests, 0 errors$", parts["driver"])
    assert f"tcp:{topology.host1.address}:6641" in parts["northbound"]
    assert parts["changes"].split() == ["changes", "current"]
    assert parts["host1"].split()[3] == "up"
    topology.host2.controller.stop()
    said = topology.host2.run("sh", "-c", "ovn-docker status; echo $?").splitlines()
    topology.host2.controller.start()
    topology.host1.await_flows()
    assert said[-1] == "3"
    assert any(line.split() == ["ovn-controller", "down"] for line in said)


VIP = "10.1.0.100"


def inside(topology: Topology, name: str, *command: str) -> str:
    """Return the output of a command of the host in the network namespace of a container."""
    host = topology.where[name]
    pid = host.docker("inspect", "--format={{.State.Pid}}", name)
    return host.run("nsenter", f"--net=/proc/{pid}/ns/net", *command)


def add_address(topology: Topology, name: str, address: str) -> None:
    """Put an address on a container's interface, and announce it more than once, as keepalived does."""
    inside(topology, name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
    topology.where[name].docker("exec", name, "arping", "-U", "-c", "2", "-I", "eth0", address)


def remove_address(topology: Topology, name: str, address: str) -> None:
    inside(topology, name, "ip", "address", "del", f"{address}/24", "dev", "eth0")


@contextmanager
def running(topology: Topology, host: Host, name: str, network: str, *options: str) -> Iterator[None]:
    """Start one more container, which serves port 5432 as the others do."""
    command = ("busybox", "nc", "-ll", "-p", "5432", "-e", "true")
    host.docker(
        "run", "-d", f"--network={network}", f"--name={name}", "--stop-signal=KILL", *options, *command
    )
    topology.where[name] = host
    topology.host1.await_flows()
    yield
    host.docker("rm", "--force", name)
    del topology.where[name]


def silent(topology: Topology, *addresses: str) -> dict[str, list[str]]:
    """Return the addresses that do not answer the first packets of web1 and far."""
    asking = ((topology.host1, "web1"), (topology.host2, "far"))
    return {name: unanswered(host, name, *addresses, tunnel=True) for host, name in asking}


def diagnosed(host: Host) -> list[str]:
    """Return the findings of the doctor about port security."""
    results = json.loads(host.run("ovn-docker", "doctor", "--json", check=False, timeout=60))
    return [f["evidence"] for one in results if one["name"] == "port-security" for f in one["findings"]]


def test_a_virtual_address_moves_between_hosts_at_once(topology: Topology) -> None:
    allowed = f"name=foo,driver-opt=ovn.allowed-addresses={VIP}"
    with (
        running(topology, topology.host1, "vip1", allowed),
        running(topology, topology.host2, "vip2", allowed),
    ):
        trace = ("ovn-docker", "trace", "web1", VIP)
        known = "it is allowed to vip1 on host1, vip2 on host2"
        wait_for(lambda: known in topology.host1.run(*trace, "--no-probe"), "their names")
        nowhere = topology.host1.run(*trace, check=False)
        assert nowhere.endswith(f"dropped at probe: ARP for {VIP} is not answered")
        for name, before in (("vip1", ""), ("vip2", "vip1"), ("vip1", "vip2")):
            if before:
                remove_address(topology, before, VIP)
            add_address(topology, name, VIP)
            assert silent(topology, VIP) == {"web1": [], "far": []}, name
            said = topology.host1.run(*trace, timeout=60)
            assert f"an echo request is answered by {VIP}" in said
            if name == "vip2":  # the container is on another host
                assert re.search(f"ARP for {VIP} is answered by [0-9a-f:]*, vip2 on host2\n", said)
            else:
                assert "the logical switch sends it to vip1's port" in said
        assert diagnosed(topology.host1) == []
        with pytest.raises(CommandError, match="is an allowed address of endpoint"):
            topology.host2.docker("run", "--rm", "--net=foo", f"--ip={VIP}", "busybox", "true")
        more = f"name=foo,driver-opt=ovn.allowed-addresses={topology.address('far')}"
        with pytest.raises(CommandError, match="is the own address of endpoint"):
            topology.host1.docker("run", "--rm", f"--network={more}", "busybox", "true")


def test_a_virtual_mac_moves_with_its_address(topology: Topology) -> None:
    """The address is on a macvlan, as with keepalived's ``use_vmac`` (RFC 5798, 7.3)."""
    address, mac = "10.1.0.101", "00:00:5e:00:01:0a"
    allowed = f"name=foo,driver-opt=ovn.allowed-addresses={mac}/{address}"
    with (
        running(topology, topology.host1, "vip1", allowed),
        running(topology, topology.host2, "vip2", allowed),
    ):
        for name, before in (("vip1", ""), ("vip2", "vip1")):
            if before:
                inside(topology, before, "ip", "link", "del", "vrrp")
            inside(topology, name, "sysctl", "-w", "net.ipv4.conf.eth0.arp_ignore=1")
            macvlan = ("address", mac, "type", "macvlan")
            inside(topology, name, "ip", "link", "add", "vrrp", "link", "eth0", *macvlan)
            inside(topology, name, "ip", "link", "set", "vrrp", "up")
            inside(topology, name, "ip", "address", "add", f"{address}/32", "dev", "vrrp")
            topology.where[name].docker("exec", name, "arping", "-U", "-c", "2", "-I", "vrrp", address)
            assert silent(topology, address) == {"web1": [], "far": []}, name
            assert mac in inside(topology, "web1", "ip", "neighbour", "show", address)
            assert diagnosed(topology.where[name]) == []


def test_port_security_is_named_until_it_allows_an_address(topology: Topology) -> None:
    address = "10.1.0.60"
    with running(topology, topology.host1, "more", "foo"):
        add_address(topology, "more", address)
        assert silent(topology, address) == {"web1": [address], "far": [address]}
        (evidence,) = diagnosed(topology.host1)
        assert evidence.startswith(f"more on foo has {address} with MAC 02:42:")
        said = json.loads(topology.host1.run("ovn-docker", "trace", "--json", "web1", address, check=False))
        assert said["verdict"].startswith("dropped at OVN, by port_security of Logical_Switch_Port ")
        assert said["verdict"].endswith(f"start it with driver-opt=ovn.allowed-addresses={address}")
    for option in (f"ovn.allowed-addresses={address} 10.1.0.61", "ovn.port-security=off"):
        with running(topology, topology.host1, "more", f"name=foo,driver-opt={option}"):
            add_address(topology, "more", address)
            assert silent(topology, address) == {"web1": [], "far": []}, option
            assert diagnosed(topology.host1) == []
            assert topology.traced("web1", address, "icmp")[0]


def test_a_changed_mac_is_named(topology: Topology) -> None:
    own = inside(topology, "web2", "cat", "/sys/class/net/eth0/address").strip()
    inside(topology, "web2", "ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    (evidence,) = diagnosed(topology.host1)
    assert re.match(
        "web2 on foo has 10[0-9.]+ with MAC 02:00:00:00:00:99 on its eth0, but port sec", evidence
    )
    delivered, verdict = topology.traced("web2", "web1", "icmp")
    inside(topology, "web2", "ip", "link", "set", "eth0", "address", own)
    assert not delivered
    assert "port security allows" in verdict
    assert "web2 has 02:00:00:00:00:99" in verdict


def test_link_local_addresses_work(topology: Topology) -> None:
    one, other = "169.254.7.7", "169.254.7.8"
    with (
        running(topology, topology.host1, "near", "foo", f"--link-local-ip={one}"),
        running(topology, topology.host2, "remote", "foo", f"--link-local-ip={other}"),
    ):
        for host, name, target in ((topology.host1, "near", other), (topology.host2, "remote", one)):
            wait_for(lambda h=host, n=name, t=target: not unanswered(h, n, t), target)  # type: ignore[misc]


def test_path_out_is_followed_through_the_host(topology: Topology) -> None:
    said = json.loads(
        topology.host1.run("ovn-docker", "trace", "--json", "--no-probe", "web1", "8.8.8.8", check=False)
    )
    text = json.dumps(said)
    assert "8.8.8.8 is not on its networks: it leaves by eth1 to 172." in text
    if said["delivered"]:
        assert "gets the address of" in text
        assert "-j MASQUERADE" in text
        assert said["verdict"].startswith("it leaves by ")
    else:
        assert said["verdict"].endswith("but the host has no route to 8.8.8.8")
    host = topology.host1.run("ovn-docker", "trace", "--no-probe", "web1", topology.host1.address)
    assert "is the host's own address" in host


def test_unused_address_is_reported_as_unanswered(topology: Topology) -> None:
    said = topology.host1.run("ovn-docker", "trace", "web1", "10.1.0.250", check=False)
    assert "network foo  no port has 10.1.0.250\n" in said
    assert said.endswith("dropped at probe: ARP for 10.1.0.250 is not answered")
    with pytest.raises(CommandError, match="known only on host2: run this there"):
        topology.host1.run("ovn-docker", "trace", "far", "10.1.0.250")


def test_published_port_is_followed_from_outside(topology: Topology) -> None:
    with running(topology, topology.host1, "web3", "foo", "--publish=8080:5432", "--publish=8081:1"):
        said = topology.host1.run("ovn-docker", "trace", "outside", "web3", "tcp/8080")
        assert "(DNAT)" in said
        assert "--dport 8080 -j DNAT --to-destination" in said
        assert "a process in it listens on port 5432" in said
        assert "a connection to port 5432 is answered by" in said
        assert "(DNAT)" in topology.host1.run(
            "ovn-docker", "trace", "outside", topology.host1.address, "tcp/8080"
        )
        said = topology.host1.run("ovn-docker", "trace", "outside", "web3", "tcp/8081", check=False)
        assert "nothing in it listens" in said
        with pytest.raises(
            CommandError, match=r"web3 does not publish tcp/5432; published ports: tcp/8080 for"
        ):
            topology.host1.run("ovn-docker", "trace", "outside", "web3", "tcp/5432")


def test_capture_on_another_host_is_a_command_for_that_host(topology: Topology) -> None:
    capture = ("ovn-docker", "tcpdump", "--network=foo", "far", "-c", "1", "tcp port 80")
    typed = "ovn-docker tcpdump --network foo far -c 1 'tcp port 80'"
    with pytest.raises(CommandError, match=f"far is on host2: run this there, or say --ssh: {typed}$"):
        topology.host1.run(*capture)
    said = json.loads(topology.host1.run(*capture, "--ssh", "--json"))
    assert said["command"] == f"ssh -- host2 {shlex.quote(typed)}"
