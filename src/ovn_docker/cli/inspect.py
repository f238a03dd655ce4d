"""``ovn-docker inspect``: show a network or a container in detail."""

import argparse
from collections.abc import Sequence
from contextlib import suppress

from ovn_docker.cli.arguments import describe
from ovn_docker.errors import Forbidden, NotFound, Unavailable
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.description import description
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.snapshot import Scope
from ovn_docker.inspect.views import EndpointView, NetworkView
from ovn_docker.text.output import print_json, print_table, say

TEXT = """\
Show a network or a container in detail, with its state in Docker, OVN and this host. NAME is a network, a
container, HOST/CONTAINER, an address, or the beginning of an ID.

Exit code 0: no differences; 1: differences, or an unknown name; 3: Docker or a database cannot be read.

examples:
  ovn-docker inspect foo
  ovn-docker inspect web
  ovn-docker inspect host2/web --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovn-docker inspect``."""
    describe(parser, TEXT, run)
    parser.add_argument("name", metavar="NAME", help="a network or a container, see above")


def run(args: argparse.Namespace) -> int:
    """Search the networks of this host first, and then the whole cluster.

    Only the whole cluster has the hosts of a network.
    """
    with Sources() as sources:
        cluster = ClusterView(sources.gather(Scope.NETWORKS))
        found: Sequence[NetworkView | EndpointView] = ()
        with suppress(NotFound):
            found = cluster.find_any(args.name)
        if not any(isinstance(one, EndpointView) for one in found):
            cluster = ClusterView(sources.gather(Scope.CLUSTER))
            found = cluster.find_any(args.name)
    if args.json:
        print_json(found)
    else:
        for number, one in enumerate(found):
            if number:
                say()
            print_table([*description(cluster, one)])
    if cluster.snapshot.barred:
        raise Forbidden(f"only the state in Docker is shown: {cluster.snapshot.barred}")
    if any(one.differences for one in found):
        return 1
    if reason := cluster.unread(here=any(one.here or isinstance(one, NetworkView) for one in found)):
        raise Unavailable(f"not all parts were compared: {reason}")
    return 0
