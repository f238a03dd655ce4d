"""``ovn-docker ls``: the networks and containers of the cluster, as all sides see them."""

import argparse
from collections.abc import Sequence

from ovn_docker.cli.arguments import describe, require_root
from ovn_docker.cli.output import print_json, print_table
from ovn_docker.errors import Unavailable
from ovn_docker.view.cluster import Cluster, Endpoint, Network
from ovn_docker.view.gather import Sources
from ovn_docker.view.snapshot import Scope

TEXT = """\
Lists networks or containers (endpoints) of the whole cluster, side by side as Docker, OVN and this host's
Open vSwitch have them. A line that begins with ! has a difference, which is said at its end. Of other hosts
only what OVN knows is shown. With --host, of this host alone.

Exit code 0: no differences; 1: some; 3: Docker or a database cannot be read.

examples:
  ovn-docker ls
  ovn-docker ls endpoints
  ovn-docker ls networks --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``ovn-docker ls``."""
    describe(parser, TEXT, run)
    parser.add_argument(
        "what", nargs="?", choices=("networks", "endpoints"), default="networks", help="default: networks"
    )
    parser.add_argument("--host", action="store_true", help="this host only: reads less of a large cluster")


def run(args: argparse.Namespace) -> int:
    """Prints a table."""
    require_root()
    with Sources() as sources:
        cluster = Cluster(sources.gather(Scope.HOST if args.host else Scope.CLUSTER))
    rows: Sequence[Network | Endpoint] = cluster.networks if args.what == "networks" else cluster.endpoints
    if args.host:
        rows = [row for row in rows if row.here]
    if args.json:
        print_json(rows)
    else:
        print_table([heads(args.what, underlay=cluster.snapshot.underlay), *map(line, rows)])
    if reason := cluster.snapshot.missing.get("northbound"):
        raise Unavailable(f"what is shown is of this host alone: {reason}")
    if reason := cluster.unread():
        raise Unavailable(f"what is shown is not compared with all sides: {reason}")
    return 1 if any(row.differences for row in rows) else 0


NETWORKS = ("", "NETWORK", "DOCKER ID", "SUBNETS", "MTU", "HOSTS", "CONTAINERS", "")
ENDPOINTS = ("", "CONTAINER", "NETWORK", "ADDRESSES", "MAC", "HOST", "DOCKER", "OVN", "OPEN VSWITCH", "")


def heads(what: str, *, underlay: bool) -> tuple[str, ...]:
    """The table's first line."""
    if what == "networks":
        return NETWORKS
    return tuple("NEUTRON" if underlay and head == "OVN" else head for head in ENDPOINTS)


def line(row: Network | Endpoint) -> tuple[str, ...]:
    """One of the others."""
    return network_line(row) if isinstance(row, Network) else endpoint_line(row)


def network_line(network: Network) -> tuple[str, ...]:
    """A network: its hosts, as many as fit."""
    hosts = ", ".join(network.hosts[:4]) + (
        f" and {len(network.hosts) - 4} more" if network.hosts[4:] else ""
    )
    return (
        "!" if network.differences else "",
        network.name,
        network.id[:12] if network.here else "-",
        ", ".join(network.subnets),
        str(network.mtu) if network.mtu else "auto",
        hosts,
        str(network.endpoints),
        "; ".join([*network.differences, *([f"removed on {network.removed}"] if network.removed else [])]),
    )


def endpoint_line(endpoint: Endpoint) -> tuple[str, ...]:
    """A container on a network: Docker's word, OVN's or Neutron's, Open vSwitch's."""
    ovn = endpoint.chassis and endpoint.connection
    if endpoint.installed is None:
        switch = f"VLAN {endpoint.vlan}" if endpoint.vlan else "none"
    else:
        switch = "installed" if endpoint.installed else "not installed"
    return (
        "!" if endpoint.differences else "",
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
