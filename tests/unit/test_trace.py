"""Reading the output of ovn-trace and ofproto/trace, and the path made from it."""

from dataclasses import replace

import pytest

from ovn_docker.errors import BadRequest, NotFound, Unavailable
from ovn_docker.host.daemons import DaemonState
from ovn_docker.inspect.capture import Capture, over_ssh
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.snapshot import PortRow
from ovn_docker.inspect.views import EndpointView
from ovn_docker.trace import packet_path
from ovn_docker.trace.tracer import unconnected
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


def end(id_: str, mac: str, *addresses: str, network: str = "foo", switch: str = "s") -> EndpointView:
    return EndpointView(
        id_, id_, network, "host1", True, addresses, mac, "running", "host1", True, switch=switch
    )


A = end("aa" * 32, "02:42:0a:01:00:02", "10.1.0.2", "fd01::2")
B = end("bb" * 32, "02:42:0a:01:00:03", "10.1.0.3", "fd01::3")
SIX = end("cc" * 32, "02:42:0a:01:00:04", "fd01::4")


def test_ovn_trace_drop_names_its_flow() -> None:
    assert packet_path.read_logical(DROPPED_BY_ACL, "bb") == packet_path.Logical(
        delivered=False, stage="ls_out_acl", flow="ec683918", match='outport=="bb" && tcp.dst==5432'
    )
    assert packet_path.read_logical(DELIVERED, "bb") == packet_path.Logical(delivered=True)
    assert not packet_path.read_logical(DELIVERED, "other").delivered


def test_drop_after_the_evaluation_of_access_rules_names_the_flow_of_the_rule() -> None:
    """As OVN 25.03 prints it."""
    evaluated = """ 8. ls_in_acl_eval (northd.c:7201): tcp.dst == 80, priority 33000, uuid 1f0c8b7a
    reg8[17] = 1;
    next;
 9. ls_in_acl_sample (northd.c:7301): 1, priority 0, uuid 0b1c2d3e
    next;
10. ls_in_acl_action (northd.c:7068): reg8[17] == 1, priority 1000, uuid f993efe1
    reg8[16] = 0;
    reg8[17] = 0;
    reg8[18] = 0;
"""
    assert packet_path.read_logical(evaluated, "bb") == packet_path.Logical(
        delivered=False, stage="ls_in_acl_eval", flow="1f0c8b7a", match="tcp.dst == 80"
    )


def test_ofproto_trace_drop_names_its_flow() -> None:
    assert packet_path.read_physical(SPOOFED) == packet_path.Physical(
        dropped=True, table=9, cookie="1834118a", why="reg0=0x8000/0x8000,metadata=0x1"
    )
    assert not packet_path.read_physical(SPOOFED.replace("actions: drop", "actions: 5")).dropped
    # With connection tracking there are several passes: only the last one counts.
    first = "Datapath actions: ct(zone=2),recirc(0x5)\n"
    assert packet_path.read_physical(first + SPOOFED).dropped
    assert not packet_path.read_physical(first + "Datapath actions: 4\n").dropped


def test_packet_paused_for_ovn_controller_is_not_dropped() -> None:
    asked = SPOOFED.replace("    drop\n", "    controller(userdata=00.00.00.06.00.00.00.64,pause)\n")
    assert not packet_path.read_physical(asked).dropped
    answered = SPOOFED.replace("    drop\n", "    controller(userdata=00.00.00.06.00.00.00.64)\n")
    assert packet_path.read_physical(answered).dropped


def test_unresolved_tunnel_is_not_a_drop() -> None:
    said = "     -> neighbor cache miss for 172.31.1.2 on bridge breth1, sending ARP request\n"
    assert not packet_path.read_physical(SPOOFED.replace("    drop\n", "    output:1\n" + said)).dropped


@pytest.mark.parametrize(("text", "protocol", "port"), [("icmp", "icmp", 0), ("tcp/5432", "tcp", 5432)])
def test_packet_is_parsed(text: str, protocol: str, port: int) -> None:
    assert packet_path.packet(text) == packet_path.Packet(protocol, port)
    assert str(packet_path.packet(text)) == text


@pytest.mark.parametrize(
    "text", ["", "tcp", "icmp/1", "udp/0", "udp/65536", "tcp/\u0661", "sctp/1", f"tcp/{'9' * 5000}"]
)
def test_invalid_packet_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="give icmp, tcp/PORT or udp/PORT"):
        packet_path.packet(text)


def test_packet_is_written_for_both_tools() -> None:
    packet = packet_path.packet("tcp/5432")
    assert packet_path.microflow(packet, A, B, reply=False) == (
        f'inport == "{A.id}" && eth.src == 02:42:0a:01:00:02 && eth.dst == 02:42:0a:01:00:03 && '
        "ip4.src == 10.1.0.2 && ip4.dst == 10.1.0.3 && ip.ttl == 64 && tcp.src == 40000 && tcp.dst == 5432"
    )
    assert packet_path.openflow(packet, B, A, reply=True) == (
        "in_port=odhbbbbbbbbbbbb,tcp,dl_src=02:42:0a:01:00:03,dl_dst=02:42:0a:01:00:02,nw_src=10.1.0.3,"
        "nw_dst=10.1.0.2,nw_ttl=64,tcp_dst=40000,tcp_src=5432"
    )
    assert packet_path.openflow(packet_path.packet("udp/53"), A, B, reply=False).endswith(
        ",udp_src=40000,udp_dst=53"
    )


def test_ip_version_is_one_that_both_ends_have() -> None:
    icmp = packet_path.packet("icmp")
    assert "ip6.src == fd01::2 && ip6.dst == fd01::4" in packet_path.microflow(icmp, A, SIX, reply=False)
    assert "icmp6.type == 129" in packet_path.microflow(icmp, SIX, A, reply=True)
    assert "icmp6,dl_src" in packet_path.openflow(icmp, A, SIX, reply=False)


def test_network_is_one_that_both_ends_are_on() -> None:
    other = end("dd" * 32, "02:00:00:00:00:01", "10.2.0.2", network="bar", switch="t")
    other = replace(other, container=A.container)
    assert packet_path.on_one_network((A, other), (B,)) == (A, B)
    assert packet_path.on_one_network((other,), (B,)) is None


def test_trace_to_the_same_container_is_refused() -> None:
    with pytest.raises(BadRequest, match="the same container"):
        packet_path.on_one_network((A,), (A,))


def test_ambiguous_address_is_refused() -> None:
    twin = replace(B, addresses=A.addresses, network="bar", switch="t")
    with pytest.raises(
        BadRequest, match=f"ambiguous container: {A.container} or {B.container}; name one of them"
    ):
        packet_path.on_one_network((A, twin), (SIX,))


def test_name_is_preferred_to_the_beginning_of_an_id() -> None:
    seen = cluster(1, 20)
    first, *others = seen.endpoints
    northbound, engine = seen.snapshot.northbound, seen.snapshot.engine
    assert northbound
    assert engine
    named = tuple(replace(e, name=first.id[:4]) if e.id == others[0].id else e for e in engine.endpoints)
    again = ClusterView(replace(seen.snapshot, engine=replace(engine, endpoints=named)))
    assert [end.id for end in again.find(first.id[:4])] == [others[0].id]
    assert [end.id for end in again.find(first.id[:6])] == [first.id]


def on(container: str, network: str, host: str, cluster: ClusterView) -> EndpointView:
    (switch,) = (one.switch for one in cluster.networks if one.name == network)
    end_ = end(container, "02:42:0a:01:00:09", "10.1.0.9", network=network, switch=switch)
    return replace(end_, host=host, here=host == "host1")


def test_tunnel_address_follows_its_host() -> None:
    seen = cluster(2, 20)
    web = next(end for end in seen.endpoints if end.host == "host1" and end.network == "shop")
    db = next(end for end in seen.endpoints if end.host == "host2" and end.network == "shop")
    for source, target, says in (
        (web, db, "geneve from host1 to host2 (10.0.0.2) is up"),
        (db, web, "geneve from host2 (10.0.0.2) to host1 is up"),
    ):
        way = packet_path.follow(seen, source, target, "icmp", packet_path.Logical(delivered=True), None, "")
        assert [hop.what for hop in way.hops if hop.place == "tunnel"] == [says]


def test_stopped_open_vswitch_drops_packets() -> None:
    seen = cluster(2, 60)
    seen = ClusterView(replace(seen.snapshot, daemons=(DaemonState("ovs-vswitchd"),)))
    web, api, *_ = (end for end in seen.endpoints if end.host == "host1" and end.network == "shop")
    way = packet_path.follow(seen, web, api, "icmp", packet_path.Logical(delivered=True), None, "")
    assert way.hops[-1].what.startswith("ovs-vswitchd does not run")
    assert not way.delivered


def test_command_to_connect_two_containers_names_its_host() -> None:
    seen = cluster(2, 20)  # build is on host2 alone, lab on host1
    web, db = on("web", "shop", "host1", seen), on("db", "build", "host2", seen)

    def said(source: EndpointView, target: EndpointView) -> str:
        return unconnected(seen, (source,), (target,), packet_path.packet("icmp")).hops[0].what

    assert said(web, db).endswith("; connect one: docker network connect shop db, on host2")
    assert said(db, web).endswith("; connect one: docker network connect shop db, on host2")
    alone = on("web", "lab", "host1", seen)
    assert said(alone, db).endswith("; connect both with a network that host1 and host2 have")
    same = replace(db, network="lab")
    assert said(alone, same).startswith("web is on lab of host1, db on another network lab of host2, and ")


def test_dynamic_address_is_not_traced() -> None:
    """``ovn-nbctl lsp-set-addresses`` also accepts the word dynamic."""
    with pytest.raises(NotFound, match="no addresses of the same IP version"):
        packet_path.addresses(A, end("cc" * 32, "02:42:0a:01:00:04", "dynamic"))


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
def test_port_security_permits_the_addresses_that_ovn_does(
    rules: tuple[str, ...], mac: str, addresses: tuple[str, ...], *, permitted: bool
) -> None:
    assert PortRow("row", "port", "switch", port_security=rules).permits(mac, *addresses) is permitted


@pytest.mark.parametrize("host", ["host2", "host2.example.test", "10.0.0.2", "fd00::2"])
def test_capture_over_ssh_is_quoted_for_the_remote_shell(host: str) -> None:
    typed = Capture("host2/far", count=3, arguments=("port", "80; reboot"))
    argv = over_ssh(typed, replace(A, host=host))
    assert argv == ["ssh", "--", host, "ovn-docker tcpdump -c 3 far port '80; reboot'"]


@pytest.mark.parametrize(
    "host", ["", "-oProxyCommand=reboot", "root@evil", "a b", "a;b", "$(a)", "a\n", "a" * 255]
)
def test_unsafe_host_name_is_refused_for_ssh(host: str) -> None:
    typed = Capture("far")
    with pytest.raises(Unavailable, match="is not the name of a host"):
        over_ssh(typed, replace(A, host=host))
