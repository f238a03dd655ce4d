"""What ovn-trace and ofproto/trace print, as read, and the way that is made of it."""

from argparse import Namespace
from dataclasses import replace

import pytest

from ovn_docker.cli import tcpdump
from ovn_docker.cli.trace import apart
from ovn_docker.errors import BadRequest, NotFound, Unavailable
from ovn_docker.view import trace
from ovn_docker.view.cluster import Cluster, Endpoint
from ovn_docker.view.snapshot import PortRow, Process
from unit.clusters import cluster

DROPPED_BY_ACL = """\
ingress(dp="foo", inport="aa")
------------------------------
 0. ls_in_check_port_sec (northd.c:8432): 1, priority 50, uuid 803dbfe8
    reg0[15] = check_in_port_sec();
    next;
25. ls_in_l2_lkup (northd.c:9122): eth.dst == 02:42:0a:01:00:03, priority 50, uuid c52e47e5
    outport = "bb";
    output;

egress(dp="foo", inport="aa", outport="bb")
-------------------------------------------
 4. ls_out_acl (northd.c:6588): outport=="bb" && tcp.dst==5432, priority 2000, uuid ec683918
    drop;
"""
DELIVERED = (
    DROPPED_BY_ACL.rpartition(" 4.")[0]
    + """\
 9. ls_out_apply_port_sec (northd.c:5777): 1, priority 0, uuid 38011e25
    output;
    /* output to "bb", type "" */
"""
)
SPOOFED = """\
bridge("br-int")
----------------
 0. in_port=3, priority 100, cookie 0xe2936bf1
    resubmit(,8)
 8. metadata=0x1, priority 50, cookie 0x803dbfe8
    resubmit(,73)
    73. reg14=0x1,metadata=0x1, priority 80, cookie 0xe2936bf1
            set_field:0x1000/0x1000->reg10
    resubmit(,9)
 9. reg0=0x8000/0x8000,metadata=0x1, priority 50, cookie 0x1834118a
    drop

Final flow: tcp
Megaflow: recirc_id=0
Datapath actions: drop
"""


def end(id_: str, mac: str, *addresses: str, network: str = "foo", switch: str = "s") -> Endpoint:
    return Endpoint(id_, id_, network, "host1", True, addresses, mac, "running", "host1", True, switch=switch)


A = end("aa" * 32, "02:42:0a:01:00:02", "10.1.0.2", "fd01::2")
B = end("bb" * 32, "02:42:0a:01:00:03", "10.1.0.3", "fd01::3")
SIX = end("cc" * 32, "02:42:0a:01:00:04", "fd01::4")


def test_a_drop_is_read_with_the_flow_that_does_it() -> None:
    assert trace.read_logical(DROPPED_BY_ACL, "bb") == trace.Logical(
        delivered=False, stage="ls_out_acl", flow="ec683918", match='outport=="bb" && tcp.dst==5432'
    )
    assert trace.read_logical(DELIVERED, "bb") == trace.Logical(delivered=True)
    assert not trace.read_logical(DELIVERED, "other").delivered


def test_what_open_vswitch_does_is_read() -> None:
    assert trace.read_physical(SPOOFED) == trace.Physical(
        dropped=True, table=9, cookie="1834118a", why="reg0=0x8000/0x8000,metadata=0x1"
    )
    assert not trace.read_physical(SPOOFED.replace("actions: drop", "actions: 5")).dropped
    # With connection tracking there are several passes: only the last one counts.
    first = "Datapath actions: ct(zone=2),recirc(0x5)\n"
    assert trace.read_physical(first + SPOOFED).dropped
    assert not trace.read_physical(first + "Datapath actions: 4\n").dropped


def test_what_ovn_controller_looks_into_is_not_dropped() -> None:
    asked = SPOOFED.replace("    drop\n", "    controller(userdata=00.00.00.06.00.00.00.64,pause)\n")
    assert not trace.read_physical(asked).dropped
    answered = SPOOFED.replace("    drop\n", "    controller(userdata=00.00.00.06.00.00.00.64)\n")
    assert trace.read_physical(answered).dropped


def test_a_tunnel_that_was_silent_is_not_taken_for_a_drop() -> None:
    said = "     -> neighbor cache miss for 172.31.1.2 on bridge breth1, sending ARP request\n"
    assert not trace.read_physical(SPOOFED.replace("    drop\n", "    output:1\n" + said)).dropped


@pytest.mark.parametrize(("text", "protocol", "port"), [("icmp", "icmp", 0), ("tcp/5432", "tcp", 5432)])
def test_packets(text: str, protocol: str, port: int) -> None:
    assert trace.packet(text) == trace.Packet(protocol, port)
    assert str(trace.packet(text)) == text


@pytest.mark.parametrize(
    "text", ["", "tcp", "icmp/1", "udp/0", "udp/65536", "tcp/\u0661", "sctp/1", f"tcp/{'9' * 5000}"]
)
def test_a_packet_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="give icmp, tcp/PORT or udp/PORT"):
        trace.packet(text)


def test_a_packet_in_the_words_of_both_tools() -> None:
    packet = trace.packet("tcp/5432")
    assert trace.microflow(packet, A, B, reply=False) == (
        f'inport == "{A.id}" && eth.src == 02:42:0a:01:00:02 && eth.dst == 02:42:0a:01:00:03 && '
        "ip4.src == 10.1.0.2 && ip4.dst == 10.1.0.3 && ip.ttl == 64 && tcp.src == 40000 && tcp.dst == 5432"
    )
    assert trace.openflow(packet, B, A, reply=True) == (
        "in_port=odhbbbbbbbbbbbb,tcp,dl_src=02:42:0a:01:00:03,dl_dst=02:42:0a:01:00:02,nw_src=10.1.0.3,"
        "nw_dst=10.1.0.2,nw_ttl=64,tcp_dst=40000,tcp_src=5432"
    )
    assert trace.openflow(trace.packet("udp/53"), A, B, reply=False).endswith(",udp_src=40000,udp_dst=53")


def test_the_ip_version_is_one_that_both_have() -> None:
    icmp = trace.packet("icmp")
    assert "ip6.src == fd01::2 && ip6.dst == fd01::4" in trace.microflow(icmp, A, SIX, reply=False)
    assert "icmp6.type == 129" in trace.microflow(icmp, SIX, A, reply=True)
    assert "icmp6,dl_src" in trace.openflow(icmp, A, SIX, reply=False)


def test_the_network_is_one_that_both_are_on() -> None:
    other = end("dd" * 32, "02:00:00:00:00:01", "10.2.0.2", network="bar", switch="t")
    other = replace(other, container=A.container)
    assert trace.on_one_network((A, other), (B,)) == (A, B)
    assert trace.on_one_network((other,), (B,)) is None


def test_a_container_has_no_way_to_itself() -> None:
    with pytest.raises(BadRequest, match="one container: name another one"):
        trace.on_one_network((A,), (A,))


def test_an_address_of_two_containers_is_none_of_a_way() -> None:
    twin = replace(B, addresses=A.addresses, network="bar", switch="t")
    with pytest.raises(BadRequest, match=f"that may be {A.container} or {B.container}: name one of them"):
        trace.on_one_network((A, twin), (SIX,))


def test_a_name_goes_before_the_beginning_of_an_id() -> None:
    seen = cluster(1, 20)
    first, *others = seen.endpoints
    northbound, engine = seen.snapshot.northbound, seen.snapshot.engine
    assert northbound
    assert engine
    named = tuple(replace(e, name=first.id[:4]) if e.id == others[0].id else e for e in engine.endpoints)
    again = Cluster(replace(seen.snapshot, engine=replace(engine, endpoints=named)))
    assert [end.id for end in again.find(first.id[:4])] == [others[0].id]
    assert [end.id for end in again.find(first.id[:6])] == [first.id]


def on(container: str, network: str, host: str, cluster: Cluster) -> Endpoint:
    (switch,) = (one.switch for one in cluster.networks if one.name == network)
    end_ = end(container, "02:42:0a:01:00:09", "10.1.0.9", network=network, switch=switch)
    return replace(end_, host=host, here=host == "host1")


def test_the_address_of_a_tunnel_stands_with_the_host_that_has_it() -> None:
    seen = cluster(2, 20)
    web = next(end for end in seen.endpoints if end.host == "host1" and end.network == "shop")
    db = next(end for end in seen.endpoints if end.host == "host2" and end.network == "shop")
    for source, target, says in (
        (web, db, "geneve from host1 to host2 (10.0.0.2) is up"),
        (db, web, "geneve from host2 (10.0.0.2) to host1 is up"),
    ):
        way = trace.way(seen, source, target, "icmp", trace.Logical(delivered=True), None, "")
        assert [hop.what for hop in way.hops if hop.place == "tunnel"] == [says]


def test_a_switch_that_does_not_run_drops_what_it_should_switch() -> None:
    seen = cluster(2, 60)
    seen = Cluster(replace(seen.snapshot, processes=(Process("ovs-vswitchd"),)))
    web, api, *_ = (end for end in seen.endpoints if end.host == "host1" and end.network == "shop")
    way = trace.way(seen, web, api, "icmp", trace.Logical(delivered=True), None, "")
    assert way.hops[-1].what.startswith("ovs-vswitchd does not run")
    assert not way.delivered


def test_what_connects_two_containers_is_a_command_that_works_where_it_is_to_be_typed() -> None:
    seen = cluster(2, 20)  # build is on host2 alone, lab on host1
    web, db = on("web", "shop", "host1", seen), on("db", "build", "host2", seen)

    def said(source: Endpoint, target: Endpoint) -> str:
        return apart(seen, (source,), (target,), trace.packet("icmp")).hops[0].what

    assert said(web, db).endswith("; connect one: docker network connect shop db, on host2")
    assert said(db, web).endswith("; connect one: docker network connect shop db, on host2")
    alone = on("web", "lab", "host1", seen)
    assert said(alone, db).endswith("; connect both with a network that host1 and host2 have")
    same = replace(db, network="lab")
    assert said(alone, same).startswith("web is on lab of host1, db on another network lab of host2, and ")


def test_what_is_no_address_is_not_traced() -> None:
    """``ovn-nbctl lsp-set-addresses`` takes the word dynamic too."""
    with pytest.raises(NotFound, match="no addresses of one IP version"):
        trace.addresses(A, end("cc" * 32, "02:42:0a:01:00:04", "dynamic"))


MAC, VMAC = "02:42:0a:01:00:02", "00:00:5e:00:01:0a"


@pytest.mark.parametrize(
    ("rules", "mac", "addresses", "permitted"),
    [
        ((), VMAC, ("10.9.9.9",), True),
        ((MAC,), MAC, ("10.9.9.9",), True),
        ((MAC,), VMAC, (), False),
        ((f"{MAC} 10.1.0.2",), MAC.upper(), ("10.1.0.2",), True),
        ((f"{MAC} 10.1.0.2",), MAC, ("10.1.0.2", "10.1.0.3"), False),
        ((f"{MAC} 10.1.0.2 10.1.0.128/28",), MAC, ("10.1.0.2", "10.1.0.140"), True),
        ((f"{MAC} 10.1.0.2/24",), MAC, ("10.1.0.3",), False),  # with host bits it is one address
        ((f"{MAC} 10.1.0.2/24, fd01::2",), MAC, ("10.1.0.2", "fd01::2"), True),
        ((f"{MAC} 10.1.0.2", f"{VMAC} 10.1.0.2 10.1.0.100"), VMAC, ("10.1.0.100",), True),
        ((f"{MAC} 10.1.0.2", f"{VMAC} 10.1.0.2 10.1.0.100"), MAC, ("10.1.0.100",), False),
        (("", " ", "nonsense 10.1.0.2"), MAC, ("10.1.0.2",), False),
    ],
)
def test_port_security_permits_what_ovn_does(
    rules: tuple[str, ...], mac: str, addresses: tuple[str, ...], *, permitted: bool
) -> None:
    assert PortRow("row", "port", "switch", port_security=rules).permits(mac, *addresses) is permitted


@pytest.mark.parametrize("host", ["host2", "host2.example.test", "10.0.0.2", "fd00::2"])
def test_a_capture_over_ssh_is_one_argument_for_each_shell(host: str) -> None:
    typed = Namespace(
        container="host2/far", network="", count=3, write=None, arguments=["port", "80; reboot"]
    )
    argv = tcpdump.over_ssh(typed, replace(A, host=host))
    assert argv == ["ssh", "--", host, "ovn-docker tcpdump -c 3 far port '80; reboot'"]


@pytest.mark.parametrize(
    "host", ["", "-oProxyCommand=reboot", "root@evil", "a b", "a;b", "$(a)", "a\n", "a" * 255]
)
def test_the_name_of_a_host_is_nothing_but_a_name_for_ssh(host: str) -> None:
    typed = Namespace(container="far", network="", count=None, write=None, arguments=[])
    with pytest.raises(Unavailable, match="is not the name of a host"):
        tcpdump.over_ssh(typed, replace(A, host=host))
