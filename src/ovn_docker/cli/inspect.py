"""``ovn-docker inspect``: all about one network or container."""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.cli.output import print_json, print_table, say
from ovn_docker.errors import NotFound, Unavailable
from ovn_docker.view.cluster import Cluster, Endpoint, Network, listed
from ovn_docker.view.gather import Sources
from ovn_docker.view.snapshot import PortRow, Scope

TEXT = """\
Shows all about a network or a container, side by side as Docker, OVN and this host have it. NAME is a
network, a container, HOST/CONTAINER, an address, or the beginning of an ID.

Exit code 0: all sides agree; 1: they differ, or there is no such thing; 3: Docker or a database cannot
be read.

examples:
  ovn-docker inspect foo
  ovn-docker inspect web
  ovn-docker inspect host2/web --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``ovn-docker inspect``."""
    describe(parser, TEXT, run)
    parser.add_argument("name", metavar="NAME", help="of a network or a container, see above")


def run(args: argparse.Namespace) -> int:
    """Looks on the networks of this host first, then in the whole cluster.

    What networks the other hosts have is only there.
    """
    require_root()
    with Sources() as sources:
        cluster = Cluster(sources.gather(Scope.NETWORKS))
        found: Sequence[Network | Endpoint] = ()
        with suppress(NotFound):
            found = find(cluster, args.name)
        if not any(isinstance(one, Endpoint) for one in found):
            cluster = Cluster(sources.gather(Scope.CLUSTER))
            found = find(cluster, args.name)
    if args.json:
        print_json(found)
    else:
        for number, one in enumerate(found):
            if number:
                say()
            lines = network_lines(cluster, one) if isinstance(one, Network) else endpoint_lines(cluster, one)
            print_table([*lines])
    if any(one.differences for one in found):
        return 1
    if reason := cluster.unread(here=any(one.here or isinstance(one, Network) for one in found)):
        raise Unavailable(f"what is shown is not compared with all sides: {reason}")
    return 0


def find(cluster: Cluster, name: str) -> Sequence[Network | Endpoint]:
    """Networks of the name, else the endpoints of a container. Raises NotFound, BadRequest."""
    networks = [
        network
        for network in cluster.networks
        if name in (network.name, network.switch) or (len(name) >= 4 and network.id.startswith(name))
    ]
    there = [network.name for network in cluster.networks]
    return networks or cluster.find(name, f"no such network: {listed(there)}")


def network_lines(cluster: Cluster, network: Network) -> Iterable[tuple[str, str]]:
    """A network, and who is on it."""
    yield "network", network.name
    underlay = cluster.snapshot.underlay
    everywhere = "by this name in VMs of the project" if underlay else "by this name on every host"
    if network.removed:
        everywhere = f"removed on {network.removed}: it goes from a host when no running container uses it"
    yield "in the cluster", everywhere if network.shared else "of the hosts below"
    unknown = _says(cluster, "docker", "not in this host's Docker")
    yield "Docker ID", network.id if network.here else unknown
    none = "none" if cluster.snapshot.northbound else "not known"
    yield "Neutron network" if underlay else "logical switch", network.switch or none
    yield "subnets", ", ".join(network.subnets)
    yield "MTU", str(network.mtu) if network.mtu else "that of the tunnels"
    yield "hosts", ", ".join(network.hosts)
    for one in cluster.snapshot.engine.networks if cluster.snapshot.engine else ():
        if one.id == network.id and one.ignored:
            yield "ignored options", ", ".join(one.ignored)
    for endpoint in cluster.endpoints:
        if endpoint.switch == network.switch and endpoint.switch:
            yield "container", f"{endpoint.container} ({', '.join(endpoint.addresses)}) on {endpoint.host}"
    for difference in network.differences:
        yield "! differs", difference


def _says(cluster: Cluster, part: str, no: str) -> str:
    """*no*, if that part could be asked."""
    missing = cluster.snapshot.missing
    return f"not known: {missing[part]}" if part in missing else no


def endpoint_lines(cluster: Cluster, endpoint: Endpoint) -> Iterable[tuple[str, str]]:
    """A container on a network, from all sides."""
    port, interface = cluster.ports.get(endpoint.id), cluster.interfaces.get(endpoint.id)
    link = cluster.links.get(endpoint.link)
    yield "container", f"{endpoint.container} on {endpoint.host}"
    yield "network", endpoint.network
    yield "endpoint", endpoint.id
    yield "addresses", f"{', '.join(endpoint.addresses)}, MAC {endpoint.mac}"
    known = endpoint.state or _says(cluster, "docker", "does not know it")
    yield "Docker", known if endpoint.here else f"asked on {endpoint.host} alone"
    yield from (
        neutron_lines(cluster, endpoint) if cluster.snapshot.cloud else ovn_lines(cluster, endpoint, port)
    )
    if endpoint.here:
        if interface is None:
            yield "Open vSwitch", _says(cluster, "vswitch", "no port")
        else:
            where = f"{interface.name} on {interface.bridge}, port {interface.ofport}"
            flows = "installed" if endpoint.installed else "not installed"
            yield (
                "Open vSwitch",
                f"{where}, VLAN {interface.tag}" if interface.tag else f"{where}, flows {flows}",
            )
            counted = [f"{key} {interface.statistics.get(key, 0)}" for key in ("rx_packets", "tx_packets")]
            yield "counted", ", ".join([*counted, f"rx_dropped {interface.statistics.get('rx_dropped', 0)}"])
        state = f"{'up' if link.up and link.carrier else 'down'}, MTU {link.mtu}" if link else ""
        yield "link", f"{link.name}, {state}" if link else "none"
    for difference in endpoint.differences:
        yield "! differs", difference


def ovn_lines(cluster: Cluster, endpoint: Endpoint, port: PortRow | None) -> Iterable[tuple[str, str]]:
    """What OVN's databases have of it, or why that is not known."""
    missing = cluster.snapshot.missing
    if "northbound" in missing:
        yield "logical port", f"not known: {missing['northbound']}"
    elif port:
        yield "logical port", f"{'' if port.enabled else 'disabled, '}addresses {', '.join(port.addresses)}"
        yield "port security", ", ".join(port.port_security) or "none"
    else:
        yield "logical port", "none"
    if "southbound" in missing:
        yield "claimed by", f"not known: {missing['southbound']}"
    else:
        yield "claimed by", f"{endpoint.chassis} ({endpoint.connection})" if endpoint.chassis else "no host"


def neutron_lines(cluster: Cluster, endpoint: Endpoint) -> Iterable[tuple[str, str]]:
    """What Neutron has of it."""
    cloud = cluster.snapshot.cloud
    port = next((port for port in cloud.ports if port.endpoint == endpoint.id), None) if cloud else None
    if cloud is None or port is None:
        yield "Neutron port", cloud.problem if cloud and cloud.problem else "none"
        return
    yield "Neutron port", f"{port.id}, {'' if port.enabled else 'disabled, '}{port.status}"
    yield "... addresses", f"{' '.join((port.mac, *port.addresses))}"
    others = [f"{mac} {ip}" for mac, ip in port.pairs]
    yield "port security", "; ".join(["on", *others]) if port.secured else "off"
    named = [cloud.groups[group].name if group in cloud.groups else group for group in port.groups]
    yield "security groups", ", ".join(named) or "none"
    if port.vlan is None:
        yield "subport", f"of no trunk, it should be one of that of {endpoint.host}"
    else:
        yield (
            "subport",
            f"VLAN {port.vlan} {'of the trunk' if port.subport else 'by its profile'} of {endpoint.chassis}",
        )
