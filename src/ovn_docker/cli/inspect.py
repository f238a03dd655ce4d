"""``ovn-docker inspect``: all about one network or container."""

import argparse
from collections.abc import Iterable, Sequence

from ovn_docker.cli.arguments import describe, print_json, require_root
from ovn_docker.cli.steps import print_table
from ovn_docker.errors import NotFound
from ovn_docker.view.cluster import Cluster, Endpoint, Network
from ovn_docker.view.gather import Sources
from ovn_docker.view.snapshot import Scope

TEXT = """\
Shows all about a network or a container, side by side as Docker, OVN and this host have it. NAME is a
network, a container, HOST/CONTAINER, an address, or the beginning of an ID.

Exit code 0: all sides agree; 1: they differ, or there is no such thing.

examples:
  ovn-docker inspect foo
  ovn-docker inspect web
  ovn-docker inspect host2/web --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``ovn-docker inspect``."""
    describe(parser, TEXT, run)
    parser.add_argument("name", metavar="NAME")


def run(args: argparse.Namespace) -> int:
    """Looks on the networks of this host first, then in the whole cluster."""
    require_root()
    with Sources() as sources:
        cluster = Cluster(sources.gather(Scope.NETWORKS))
        try:
            found = find(cluster, args.name)
        except NotFound:
            cluster = Cluster(sources.gather(Scope.CLUSTER))
            found = find(cluster, args.name)
    if args.json:
        print_json(found)
    else:
        for number, one in enumerate(found):
            if number:
                print()
            lines = network_lines(cluster, one) if isinstance(one, Network) else endpoint_lines(cluster, one)
            print_table([*lines])
    return 1 if any(one.differences for one in found) else 0


def find(cluster: Cluster, name: str) -> Sequence[Network | Endpoint]:
    """Networks of the name, else the endpoints of a container. Raises NotFound, BadRequest."""
    networks = [
        network
        for network in cluster.networks
        if name in (network.name, network.switch) or (len(name) >= 4 and network.id.startswith(name))
    ]
    return networks or cluster.find(name)


def network_lines(cluster: Cluster, network: Network) -> Iterable[tuple[str, str]]:
    """A network, and who is on it."""
    yield "network", network.name
    yield "in the cluster", "by this name on every host" if network.shared else "of the hosts below"
    yield "Docker ID", network.id if network.here else "not in this host's Docker"
    yield "logical switch", network.switch or "none"
    yield "subnets", ", ".join(network.subnets)
    yield "MTU", str(network.mtu) if network.mtu else "that of the tunnels"
    yield "hosts", ", ".join(network.hosts)
    for endpoint in cluster.endpoints:
        if endpoint.switch == network.switch and endpoint.switch:
            yield "container", f"{endpoint.container} ({', '.join(endpoint.addresses)}) on {endpoint.host}"
    for difference in network.differences:
        yield "! differs", difference


def endpoint_lines(cluster: Cluster, endpoint: Endpoint) -> Iterable[tuple[str, str]]:
    """A container on a network, from all sides."""
    port, interface = cluster.ports.get(endpoint.id), cluster.interfaces.get(endpoint.id)
    link = cluster.links.get(endpoint.link)
    yield "container", f"{endpoint.container} on {endpoint.host}"
    yield "network", endpoint.network
    yield "endpoint", endpoint.id
    yield "addresses", f"{', '.join(endpoint.addresses)}, MAC {endpoint.mac}"
    known = endpoint.state or "does not know it"
    yield "Docker", known if endpoint.here else f"asked on {endpoint.host} alone"
    if port:
        yield "logical port", f"{'' if port.enabled else 'disabled, '}addresses {', '.join(port.addresses)}"
        yield "port security", ", ".join(port.port_security) or "none"
    else:
        yield "logical port", "none"
    up = {True: "up", False: "down", None: "unknown"}[endpoint.up]
    yield "claimed by", f"{endpoint.chassis} ({up})" if endpoint.chassis else "no host"
    if endpoint.here:
        flows = "installed" if endpoint.installed else "not installed"
        if interface is None:
            yield "Open vSwitch", "no port"
        else:
            where = f"{interface.name} on {interface.bridge}, port {interface.ofport}"
            yield "Open vSwitch", f"{where}, flows {flows}"
            counted = [f"{key} {interface.statistics.get(key, 0)}" for key in ("rx_packets", "tx_packets")]
            yield "counted", ", ".join([*counted, f"rx_dropped {interface.statistics.get('rx_dropped', 0)}"])
        state = f"{'up' if link.up and link.carrier else 'down'}, MTU {link.mtu}" if link else ""
        yield "link", f"{link.name}, {state}" if link else "none"
    for difference in endpoint.differences:
        yield "! differs", difference
