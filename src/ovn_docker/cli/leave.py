"""``ovn-docker leave``: take this machine out of its cluster."""

import argparse

from ovn_docker.cli.arguments import add_restart_docker, describe_change, require_root
from ovn_docker.enrolment.leaving import leave
from ovn_docker.setup import docker_dns
from ovn_docker.setup.steps import Steps

TEXT = """\
Take this machine out of its cluster: stop the driver and ovn-controller, delete the rows of this host in
OVN's databases, and remove the settings and certificates that `ovn-docker join` has made, also OVN's name
servers in Docker's configuration. Docker keeps its networks: remove those of the driver with `docker network
rm`. Refused while containers run on networks of the cluster.

examples:
  ovn-docker leave
  ovn-docker leave --force      also with containers, or without the central machine
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``ovn-docker leave``."""
    describe_change(parser, TEXT, run)
    parser.add_argument(
        "--force", action="store_true", help="also if containers run, or the central machine does not answer"
    )
    add_restart_docker(parser)


def run(args: argparse.Namespace) -> int:
    """Leave the cluster."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    dns = docker_dns.DnsChange(wanted=False, restart=args.restart_docker)
    leave(steps, force=args.force)
    dns.make(steps)
    return steps.finish()
