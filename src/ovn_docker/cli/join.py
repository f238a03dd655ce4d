"""``ovn-docker join``: make this machine a host of a cluster, with a token of its central machine."""

import argparse

from ovn_docker.cli.arguments import address, describe_change, require_root
from ovn_docker.cli.doctor import show
from ovn_docker.cli.host import add_tunnel_settings
from ovn_docker.doctor.examination import run_checks
from ovn_docker.enrolment import tokens
from ovn_docker.enrolment.joining import JoinSettings, await_registration, join
from ovn_docker.setup import docker_dns
from ovn_docker.setup.steps import Steps
from ovn_docker.text.output import say

TEXT = """\
Make this machine a host of the cluster whose central machine is CENTRAL. The token, which
`ovn-docker token create` prints there, names the cluster's authority: no other machine is trusted. This
machine makes a private key, which never leaves it, and gets a certificate in the name of its system-id; then
Open vSwitch is set up for OVN, and ovn-controller and the driver are started, as `ovn-docker host setup` and
`host start` do. At last the doctor looks for faults.

It can be repeated, also after it was interrupted. `ovn-docker leave` undoes it.

examples:
  ovn-docker join 10.0.0.1 --token ovnd1.5f0c...
  ovn-docker join 10.0.0.1 --token ovnd1.5f0c... --docker-dns --restart-docker
  ovn-docker join 10.0.0.1 --token ovnd1.5f0c... --encap-ip 192.168.7.3
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovn-docker join``."""
    describe_change(parser, TEXT, run)
    parser.add_argument("central", metavar="CENTRAL", type=address, help="address of the central machine")
    parser.add_argument("--token", required=True, help="the token that the central machine printed")
    add_tunnel_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Join, wait until OVN knows the host, run the doctor's checks; return 1 if they find something."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    token = tokens.parse(args.token)
    dns = docker_dns.DnsChange(wanted=args.docker_dns, restart=args.restart_docker)
    join(steps, JoinSettings(args.central, token, args.encap_ip, args.encap_type, args.datapath))
    dns.make(steps)
    if args.dry_run:
        return steps.finish()
    line = await_registration(steps)
    results = run_checks()
    if found := any(result.findings for result in results):
        show(results, everything=False)
    say(line)
    return 1 if found else 0
