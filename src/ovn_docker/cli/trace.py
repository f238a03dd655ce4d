"""``ovn-docker trace``: what happens to a packet between two containers, hop by hop, there and back."""

import argparse
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address

from ovn_docker import printable
from ovn_docker.cli import beyond
from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.cli.output import print_json, say, say_lines
from ovn_docker.cli.steps import run
from ovn_docker.deadline import Deadline
from ovn_docker.errors import NotFound, OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import has
from ovn_docker.host.ping import Echo, answered, connects, in_namespace
from ovn_docker.view import trace, trace_cloud
from ovn_docker.view.cluster import Cluster, Endpoint
from ovn_docker.view.gather import PATIENCE, Sources
from ovn_docker.view.snapshot import Scope
from ovn_docker.view.trace import Hop, Logical, Packet, Way
from ovn_docker.view.trace_cloud import routers_between

TEXT = """\
Says hop by hop what happens to a packet from one container to another, and to the answer: the containers'
links, Open vSwitch, OVN's port security and access rules, the tunnel; in a virtual machine of a cloud the
trunk, and Neutron's ports and security groups. What drops it is named. A container is given by its name,
HOST/NAME if several hosts have one of that name, an address, or the beginning of its ID. An address may also
be that of no container: what follows is where the packet leaves the host and by which rule, or who has taken
the address. From `outside` a packet comes to a port of this host that a container publishes.
What is not on this host is known as far as OVN's databases or Neutron tell, so run it on the sender's: if
nothing seems to drop the packet, a real one is sent from there (an echo request, or a TCP connection), unless
--no-probe.

Exit code 0: delivered, both ways; 1: dropped; 3: a database that tells it cannot be read.

examples:
  ovn-docker trace web db
  ovn-docker trace web db tcp/5432
  ovn-docker trace web host2/db udp/53 --detail
  ovn-docker trace web 192.0.2.1 tcp/443
  ovn-docker trace outside web tcp/8080
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``ovn-docker trace``."""
    describe(parser, TEXT, run_command)
    parser.add_argument("source", metavar="A", help="a container on this host, or `outside`")
    parser.add_argument(
        "target",
        metavar="B",
        help="another one, an address, or, from outside, a container or an address of this host",
    )
    parser.add_argument(
        "packet", metavar="PACKET", nargs="?", default="icmp", help="icmp, tcp/PORT or udp/PORT"
    )
    parser.add_argument("--network", default="", help="the network, if they have several in common")
    parser.add_argument("--no-probe", action="store_true", help="send no real packet")
    parser.add_argument("--detail", action="store_true", help="add OVN's logical and Open vSwitch's flows")


def run_command(args: argparse.Namespace) -> int:
    """Prints both ways and a verdict."""
    require_root()
    packet = trace.packet(args.packet)
    with Sources() as sources:
        ways, details = trace_ways(sources, args, packet)
    if args.json:
        said = {"verdict": verdict(ways), "delivered": all(one.delivered for one in ways), "ways": ways}
        print_json(said | ({"detail": dict(details)} if args.detail else {}))
    else:
        show(ways)
        if args.detail:
            for title, text in details:
                say()
                say(f"== {title}")
                say_lines(text.rstrip())
    return 0 if all(one.delivered for one in ways) else 1


def trace_ways(
    sources: Sources, args: argparse.Namespace, packet: Packet
) -> tuple[list[Way], list[tuple[str, str]]]:
    """The way there and, if it ends at a container, back; and what OVN's and Open vSwitch's tools said."""
    probe = not args.no_probe
    cluster, source, target = find(sources, args.source, args.target)
    if not source:
        return [beyond.from_outside(sources, cluster, args.target, packet, probe=probe)], []
    taken = None
    if not target:
        wanted = ip_address(args.target)
        taken = beyond.holder(sources, cluster, wanted, {end.switch for end in source if end.switch})
        if taken is None:
            return [beyond.to_address(sources, cluster, source, wanted, packet, probe=probe)], []
        target = (taken,)
    pair = trace.on_one_network(source, target, args.network)
    if pair is None:
        return [apart(cluster, source, target, packet)], []
    pair = beyond.really(sources, cluster, pair[0]), pair[1]
    if taken and (forbidden := beyond.to_taken(cluster, *pair, packet)):
        return [forbidden], []
    way_of = direction_in_cloud if cluster.snapshot.underlay else direction
    there, details = way_of(sources, cluster, *pair, packet, reply=False)
    back, more = way_of(sources, cluster, pair[1], pair[0], packet, reply=True)
    if there.delivered and back.delivered and probe:
        there = replace(there, hops=(*there.hops, *probed(sources, cluster, *pair, packet)))
    return [there, back], details + more


def find(
    sources: Sources, source: str, target: str
) -> tuple[Cluster, tuple[Endpoint, ...], tuple[Endpoint, ...]]:
    """Both ends; the whole cluster is read only if one is on no network of this host.

    The source is empty if it is the outside, the target if it is an address that no container was given.
    """
    for scope in (Scope.NETWORKS, Scope.CLUSTER):
        cluster = Cluster(sources.gather(scope))
        require(cluster)
        try:
            if source == beyond.OUTSIDE and all(end.container != source for end in cluster.endpoints):
                return cluster, (), ()
            return cluster, cluster.find(source), cluster.find(target)
        except NotFound:
            missing = not cluster.snapshot.missing and beyond.address(target) is not None
            if scope is Scope.CLUSTER and not missing:
                raise
    return cluster, cluster.find(source), ()


def require(cluster: Cluster) -> None:
    """Raises Unavailable without what a trace is made from."""
    for part in ("vswitch", "northbound", "southbound"):
        if reason := cluster.snapshot.missing.get(part):
            raise Unavailable(f"{reason}; see `ovn-docker doctor`")


def apart(cluster: Cluster, source: Sequence[Endpoint], target: Sequence[Endpoint], packet: Packet) -> Way:
    """The way between containers that have no network in common."""
    one, other = (", ".join(sorted({e.network for e in ends})) for ends in (source, target))
    name, other_name = source[0].container, target[0].container
    if one == other:  # each host has one of that name
        one, other = f"{one} of {source[0].host}", f"another network {other} of {target[0].host}"
    what = (
        f"{name} is on {one}, {other_name} on {other}, and networks are not connected with each other; "
        f"{joined(cluster, source, target)}"
    )
    by = ""
    if cluster.snapshot.cloud and (routers := routers_between(cluster.snapshot.cloud, source, target)):
        by = f"router {routers[0]}, which has both networks, but is not the containers' way out"
    return Way(name, other_name, str(packet), (Hop("network", what, passes=False, by=by),))


def joined(cluster: Cluster, source: Sequence[Endpoint], target: Sequence[Endpoint]) -> str:
    """What puts both on one network: the command, if the host of one has a network of the other."""
    hosts = {network.switch: network.hosts for network in cluster.networks}
    for ends, moved in ((source, target[0]), (target, source[0])):
        for end in ends:
            if end.switch and moved.host in hosts.get(end.switch, ()):
                command = printable.command("docker", "network", "connect", end.network, moved.container)
                return f"connect one: {command}{'' if moved.here else f', on {moved.host}'}"
    return f"connect both with a network that {source[0].host} and {target[0].host} have"


def direction(
    sources: Sources, cluster: Cluster, source: Endpoint, target: Endpoint, packet: Packet, *, reply: bool
) -> tuple[Way, list[tuple[str, str]]]:
    """One way, and what OVN's and Open vSwitch's tools said."""
    label = packet.label(reply=reply)
    southbound = cluster.snapshot.southbound
    datapath = southbound.datapaths.get(source.switch, "") if southbound else ""
    flow = trace.microflow(packet, source, target, reply=reply)
    logical_text = ovn_trace(cluster, datapath, flow, reply=reply) if datapath else ""
    logical = trace.read_logical(logical_text, target.id) if logical_text else None
    physical_text, physical = "", None
    interface = cluster.interfaces.get(source.id)
    switched = cluster.snapshot.process("ovs-vswitchd").pid is not None
    if switched and source.here and interface and interface.ofport and interface.installed:
        flow = trace.openflow(packet, source, target, reply=reply)
        physical_text = ofproto_trace(interface.bridge, flow, reply=reply)
        physical = trace.read_physical(physical_text)
    owner = owner_of(sources, logical) if logical and not logical.delivered else ""
    way = trace.way(cluster, source, target, label, logical, physical, owner)
    title = f"{source.container} to {target.container}, {label}"
    details = [(f"{title}: ovn-trace", logical_text)]
    if physical_text:
        details += [(f"{title}: ofproto/trace, ovn-detrace", detraced(cluster, physical_text))]
    return way, details


def direction_in_cloud(
    _: Sources, cluster: Cluster, source: Endpoint, target: Endpoint, packet: Packet, *, reply: bool
) -> tuple[Way, list[tuple[str, str]]]:
    """One way between virtual machines, and what Open vSwitch here said."""
    text, physical = "", None
    interface = cluster.interfaces.get(source.id)
    switched = cluster.snapshot.process("ovs-vswitchd").pid is not None
    if switched and source.here and interface and interface.ofport:
        text = ofproto_trace(
            interface.bridge, trace.openflow(packet, source, target, reply=reply), reply=reply
        )
        physical = trace.read_physical(text)
    way = trace_cloud.way(cluster, source, target, packet, physical, reply=reply)
    title = f"{source.container} to {target.container}, {way.packet}: ofproto/trace"
    return way, [(title, text)] if text else []


def probed(
    sources: Sources, cluster: Cluster, source: Endpoint, target: Endpoint, packet: Packet
) -> Iterator[Hop]:
    """What a real packet from the source says, if it is on this host; there is none for UDP."""
    docker = cluster.docker.get(source.id)
    if docker is None or packet.protocol == "udp":
        return
    from_ip, to_ip = trace.addresses(source, target)
    try:
        pid = int(sources.docker.read(f"/containers/{docker.container}/json")["State"]["Pid"])
        if packet.port:
            reached = in_namespace(pid, lambda: connects(to_ip, packet.port))
        else:
            reached = bool(in_namespace(pid, lambda: answered([Echo(to_ip, 100, from_ip)], wait=1.5)))
    except (OSError, KeyError, OvnDockerError):
        return
    what = "an echo request" if not packet.port else f"a connection to port {packet.port}"
    if reached:
        yield Hop("probe", f"{what} is answered by {to_ip}")
    else:
        seen = "" if target.here else f"; run this on {target.host} too"
        yield Hop(
            "probe", f"nothing seems to drop it, but {what} is not answered by {to_ip}{seen}", passes=False
        )


def ovn_trace(cluster: Cluster, datapath: str, flow: str, *, reply: bool) -> str:
    """What OVN does with a packet. It reads the whole southbound database: seconds in a large cluster."""
    ct = "est,rpl" if reply else "new"
    state = (f"--ct={ct}",) * 2
    return run(("ovn-trace", *connection(cluster, "ovn-remote"), *state, "--detailed", datapath, flow))


def ofproto_trace(bridge: str, flow: str, *, reply: bool) -> str:
    """What Open vSwitch on this host does with a packet."""
    ct = "trk,est,rpl" if reply else "trk,new"
    return run(("ovs-appctl", "--timeout=10", "ofproto/trace", bridge, flow, *("--ct-next", ct) * 3))


def detraced(cluster: Cluster, text: str) -> str:
    """With the rows of OVN beside the flows of Open vSwitch (ovn-detrace(1)), where that works."""
    remotes = (f"--ovnsb={_setting(cluster, 'ovn-remote')}", f"--ovnnb={_setting(cluster, 'ovn-nb')}")
    try:
        done = subprocess.run(
            ("ovn-detrace", *remotes), input=text, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return text
    return done.stdout if done.returncode == 0 and done.stdout else text


def connection(cluster: Cluster, setting: str) -> list[str]:
    """Options with which OVN's tools reach a database."""
    options = [f"--db={_setting(cluster, setting)}"]
    vswitch = cluster.snapshot.vswitch
    if vswitch and vswitch.tls and "ssl:" in options[0]:
        key, certificate, authority = vswitch.tls
        options += [f"--private-key={key}", f"--certificate={certificate}", f"--ca-cert={authority}"]
    return options


def _setting(cluster: Cluster, setting: str) -> str:
    return cluster.snapshot.vswitch.ids.get(setting, "") if cluster.snapshot.vswitch else ""


def owner_of(sources: Sources, logical: Logical) -> str:
    """The row of the northbound database that a logical flow comes from, in words; empty if unknown.

    The flow's stage-hint has the first digits of that row's UUID (ovn-sb(5)). Both tables are searched.
    """
    if sources.southbound is None or sources.northbound is None or not logical.flow:
        return ""
    stage = has("external_ids", {"stage-name": logical.stage})
    (flows,) = sources.southbound.transact(
        ovsdb.select("Logical_Flow", stage, columns=["_uuid", "external_ids"]), deadline=Deadline(PATIENCE)
    )
    columns = ["_uuid", "direction", "priority", "match", "action"]
    (acls,) = sources.northbound.transact(ovsdb.select("ACL", columns=columns), deadline=Deadline(PATIENCE))
    hints = (row["external_ids"].get("stage-hint") for row in flows if row["_uuid"].startswith(logical.flow))
    hint = next(filter(None, hints), None)
    for acl in acls:
        if hint and acl["_uuid"].startswith(hint):
            rule = f"{acl['direction']}, priority {acl['priority']}, {acl['action']}: {acl['match']}"
            return f"ACL {acl['_uuid']} ({rule})"
    return ""


def show(ways: Sequence[Way]) -> None:
    """One line per hop."""
    width = max(len(hop.place) for one in ways for hop in one.hops)
    for one in ways:
        say(f"{one.source} -> {one.target}  {one.packet}")
        for hop in one.hops:
            mark = " " if hop.passes else "X"
            say(f" {mark} {hop.place:{width}}  {hop.what}")
            if hop.by:
                say(f"   {'':{width}}  {hop.by}")
        say()
    say(verdict(ways))


def verdict(ways: Sequence[Way]) -> str:
    """Of both ways, in one line."""
    for number, one in enumerate(ways):
        if not one.delivered:
            return f"the answer is {one.verdict}" if number else one.verdict
        if one.end:
            return one.verdict
    return "delivered, and so is the answer"
