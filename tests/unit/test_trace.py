"""What ovn-trace and ofproto/trace print, as read, and the way that is made of it."""

import pytest

from ovn_docker.errors import BadRequest
from ovn_docker.view import trace
from ovn_docker.view.cluster import Endpoint

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


@pytest.mark.parametrize(("text", "protocol", "port"), [("icmp", "icmp", 0), ("tcp/5432", "tcp", 5432)])
def test_packets(text: str, protocol: str, port: int) -> None:
    assert trace.packet(text) == trace.Packet(protocol, port)
    assert str(trace.packet(text)) == text


@pytest.mark.parametrize("text", ["", "tcp", "icmp/1", "udp/0", "udp/65536", "tcp/\u0661", "sctp/1"])
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
        "nw_dst=10.1.0.2,nw_ttl=64,tp_dst=40000,tp_src=5432"
    )


def test_the_ip_version_is_one_that_both_have() -> None:
    icmp = trace.packet("icmp")
    assert "ip6.src == fd01::2 && ip6.dst == fd01::4" in trace.microflow(icmp, A, SIX, reply=False)
    assert "icmp6.type == 129" in trace.microflow(icmp, SIX, A, reply=True)
    assert "icmp6,dl_src" in trace.openflow(icmp, A, SIX, reply=False)


def test_the_network_is_one_that_both_are_on() -> None:
    other = end("dd" * 32, "02:00:00:00:00:01", "10.2.0.2", network="bar", switch="t")
    assert trace.on_one_network((A, other), (B,)) == (A, B)
    assert trace.on_one_network((other,), (B,)) is None
