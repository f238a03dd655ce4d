"""``ovn-docker ls``: list the networks and containers of the cluster."""

import argparse
from collections.abc import Sequence

from ovn_docker.cli.arguments import describe
from ovn_docker.errors import Forbidden, Unavailable
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.snapshot import Scope
from ovn_docker.inspect.views import EndpointView, NetworkView
from ovn_docker.text.output import bad, print_json, print_table
from ovn_docker.text.printable import first_of

TEXT = """\
List networks or containers (endpoints) of the whole cluster, with their state in Docker, OVN and this host's
Open vSwitch. A line that begins with ! has a difference, described at its end. Of other hosts only OVN's rows
are shown. With --host, list those of this host only. Users who may use Docker but are not root see only what
Docker has.

Exit code 0: no differences; 1: differences; 3: Docker or a database cannot be read.

examples:
  ovn-docker ls
  ovn-docker ls endpoints
  ovn-docker ls networks --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovn-docker ls``."""
    describe(parser, TEXT, run)
    parser.add_argument(
        "what", nargs="?", choices=("networks", "endpoints"), default="networks", help="default: networks"
    )
    parser.add_argument("--host", action="store_true", help="this host only: reads less of a large cluster")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    with Sources() as sources:
        cluster = ClusterView(sources.gather(Scope.HOST if args.host else Scope.CLUSTER))
    rows: Sequence[NetworkView | EndpointView] = (
        cluster.networks if args.what == "networks" else cluster.endpoints
    )
    if args.host:
        rows = [row for row in rows if row.here]
    if args.json:
        print_json(rows)
    else:
        print_table(
            [heads(args.what, underlay=cluster.snapshot.underlay), *(line(row, cluster) for row in rows)]
        )
    if cluster.snapshot.barred:
        raise Forbidden(f"only the state in Docker is shown: {cluster.snapshot.barred}")
    if reason := cluster.snapshot.missing.get("northbound"):
        raise Unavailable(f"only this host is shown: {reason}")
    if reason := cluster.unread():
        raise Unavailable(f"not all parts were compared: {reason}")
    return 1 if any(row.differences for row in rows) else 0


NETWORKS = ("", "NETWORK", "DOCKER ID", "SUBNETS", "MTU", "HOSTS", "CONTAINERS", "")
ENDPOINTS = ("", "CONTAINER", "NETWORK", "ADDRESSES", "MAC", "HOST", "DOCKER", "OVN", "OPEN VSWITCH", "")


def heads(what: str, *, underlay: bool) -> tuple[str, ...]:
    """Return the heading of the table."""
    if what == "networks":
        return NETWORKS
    return tuple("NEUTRON" if underlay and head == "OVN" else head for head in ENDPOINTS)


def line(row: NetworkView | EndpointView, cluster: ClusterView) -> tuple[str, ...]:
    """Return a line of the table."""
    return network_line(row) if isinstance(row, NetworkView) else endpoint_line(row, cluster)


def network_line(network: NetworkView) -> tuple[str, ...]:
    """Return the line of a network, with the names of at most four hosts."""
    hosts = first_of(network.hosts, 4)
    return (
        bad("!") if network.differences else "",
        network.name,
        network.id[:12] if network.here else "-",
        ", ".join(network.subnets),
        str(network.mtu) if network.mtu else "auto",
        hosts,
        str(network.endpoints),
        "; ".join([*network.differences, *([f"removed on {network.removed}"] if network.removed else [])]),
    )


def endpoint_line(endpoint: EndpointView, cluster: ClusterView) -> tuple[str, ...]:
    """Return the line of an endpoint: its state in Docker, in OVN or Neutron, and in Open vSwitch."""
    ovn = endpoint.chassis and endpoint.connection
    if endpoint.installed is None:
        none = "none" if cluster.snapshot.vswitch else "unknown"
        switch = f"VLAN {endpoint.vlan}" if endpoint.vlan else none
    else:
        switch = "installed" if endpoint.installed else "not installed"
    return (
        bad("!") if endpoint.differences else "",
        endpoint.container,
        endpoint.network,
        ", ".join(endpoint.addresses),
        endpoint.mac,
        endpoint.host,
        (endpoint.state or "unknown") if endpoint.here else "-",
        ovn or ("unknown" if endpoint.up is None else "unclaimed"),
        switch if endpoint.here else "-",
        "; ".join(endpoint.differences),
    )
