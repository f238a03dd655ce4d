"""``ovn-docker pki``: a certificate authority of the cluster's own, and a certificate for each machine."""

import argparse
import re
from pathlib import Path

from ovn_docker.cli.arguments import add_command, addresses, describe, require_root
from ovn_docker.setup import certificates
from ovn_docker.setup.steps import Steps
from ovn_docker.text.output import print_json, print_table

INIT = """\
Make the authority that signs the cluster's certificates. Its key (ca-key.pem) never has to leave this
machine, which may be any; whoever has the key can change every network of the cluster.

examples:
  ovn-docker pki init
  ovn-docker pki init --directory /root/pki
"""
CENTRAL = """\
Make key and certificate of a machine with OVN's databases. If it has containers too, NAME must be its
system-id (see /etc/openvswitch/system-id.conf), or access control does not let it be a host; without NAME it
is the system-id of this machine. --address are its addresses in `ovn-docker host setup --central`. Run the
command again to renew the certificate when 30 days or less are left, or when the addresses have changed.

examples:
  ovn-docker pki central --address 10.0.0.1         for this machine
  ovn-docker pki central host2 --address 10.0.0.2
  scp -rp /etc/ovn-docker/pki/host2 10.0.0.2:/etc/ovn-docker/tls
"""
HOST = """\
Make key and certificate of a machine with containers. SYSTEM-ID is its name in Open vSwitch (see
/etc/openvswitch/system-id.conf). Run the command again to renew the certificate when 30 days or less are
left.

example:
  ovn-docker pki host host1
  scp -rp /etc/ovn-docker/pki/host1 10.0.0.2:/etc/ovn-docker/tls
"""
LIST = """\
List the certificates of an authority, and when they end.

examples:
  ovn-docker pki list
  ovn-docker pki list --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add init, central, host and list to the parser of ``ovn-docker pki``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    made = [
        add_command(commands, "init", "make the authority", INIT, init),
        add_command(
            commands, "central", "make a certificate for a machine with the databases", CENTRAL, issue
        ),
        add_command(commands, "host", "make a certificate for a machine with containers", HOST, issue),
        commands.add_parser("list", help="list the certificates", allow_abbrev=False),
    ]
    describe(made[3], LIST, show)
    made[1].add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        type=_name,
        help="its system-id; if it has no containers, any name (default: the system-id of this machine)",
    )
    made[1].add_argument(
        "--address",
        required=True,
        type=addresses,
        metavar="IP[,IP...]",
        help="addresses at which others reach its databases",
    )
    made[2].add_argument("name", metavar="SYSTEM-ID", type=_name, help="the host's system-id")
    made[2].set_defaults(address=())
    for parser in made:
        parser.add_argument(
            "--directory",
            type=Path,
            default=certificates.DIRECTORY,
            metavar="DIR",
            help="directory of the authority and the certificates (default: %(default)s)",
        )
    usual = (certificates.AUTHORITY_DAYS, certificates.DAYS, certificates.DAYS)
    for parser, default in zip(made[:3], usual, strict=True):
        parser.add_argument(
            "--days",
            type=_days,
            default=default,
            metavar="DAYS",
            help="days for which it is valid (default: %(default)s)",
        )


def init(args: argparse.Namespace) -> int:
    """Make the authority."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    certificates.make_authority(steps, args.directory, args.days)
    return steps.finish()


def issue(args: argparse.Namespace) -> int:
    """Make or renew the certificate of a machine."""
    require_root()
    steps = Steps(dry_run=args.dry_run)
    certificates.issue(steps, args.directory, args.name, args.address, args.days)
    return steps.finish()


def show(args: argparse.Namespace) -> int:
    """Print the certificates of an authority."""
    require_root()
    found = certificates.list_certificates(args.directory)
    if args.json:
        print_json([{**vars(one), "days_left": one.days_left} for one in found])
        return 0
    lines = [("NAME", "KIND", "DAYS LEFT", "ADDRESSES")]
    lines += [(one.name, one.kind, str(one.days_left), ", ".join(one.addresses)) for one in found]
    print_table(lines)
    return 0


def _name(text: str) -> str:
    """Return a name that a certificate and its directory can have; an argparse type."""
    if not certificates.is_name(text):
        raise argparse.ArgumentTypeError(
            f"invalid name {text[:80]!r}: give up to 64 letters, digits, dots, hyphens and underscores"
        )
    return text


def _days(text: str) -> int:
    """Return a number of days; an argparse type."""
    longest = certificates.AUTHORITY_DAYS
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= longest:
        raise argparse.ArgumentTypeError(f"invalid number of days {text[:80]!r}: give 1 to {longest}")
    return int(text)
