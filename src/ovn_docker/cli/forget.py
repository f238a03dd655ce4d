"""``ovn-docker host forget``, also called ``gc --host``: remove the rows of a host that is gone for good."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TextIO

from ovn_docker.backends.ovn.repair.lost_host import Belonging
from ovn_docker.cli.arguments import require_root
from ovn_docker.enrolment.signing import Authority
from ovn_docker.errors import OvnDockerError
from ovn_docker.setup import certificates
from ovn_docker.setup.hosts.host_removal import HostRemoval
from ovn_docker.setup.tls_files import OWN_FILES
from ovn_docker.text.output import print_json, print_table, say
from ovn_docker.text.printable import command
from ovn_docker.text.prompt import is_confirmed

TEXT = """\
Remove the rows of a host that is gone for good from the northbound database: the ports of its containers,
their addresses, which others may have then, its pools, and its networks. Shared networks stay, unless they
were removed elsewhere and waited for this host alone; so do networks that others have attached to. Run it on
any other host. The same is `ovn-docker gc --host SYSTEM-ID`.

A host that is alive is refused: OVN asks its ovn-controller. A host that is only cut off looks as if it
were gone. When it is back, its driver makes the rows of its running containers again within a minute, except
for addresses that others have been given: for these it logs which container to restart.

On the machine with the cluster's authority the host gets no certificate any more, as after `ovn-docker token
expel`; elsewhere that command is shown.

examples:
  ovn-docker host forget host7
  ovn-docker host forget 3f6c1a52-8d7e-4e4b-9d0f-2a8f6a0f7c11 --yes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the host, and the options that skip questions."""
    parser.add_argument(
        "host", metavar="SYSTEM-ID", help="the host: its external_ids:system-id, see `ovn-sbctl show`"
    )
    add_confirmation_options(parser)


def add_confirmation_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that skip the question and the check of the host."""
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--force", action="store_true", help="do not check whether the host is alive")


def run(args: argparse.Namespace) -> int:
    """Print the rows of the host, ask, remove them."""
    require_root()
    json = getattr(args, "json", False)  # an option of gc
    people = sys.stderr if json else sys.stdout
    with HostRemoval(args.host) as removal:
        found = removal.belongings()
        _print_rows(found, json=json)
        if not found:
            if not args.dry_run:
                removal.finish_removals()  # of a run that was interrupted
            removal.require_known()
        if args.dry_run or not found:
            say(f"would remove {_counts(found)}" if found else "nothing to change", file=people)
            return 0
        if not args.force:
            if removal.is_listed():
                tail = f"OVN lists it until you type: {command('ovn-sbctl', 'chassis-del', args.host)}"
                say(f"{args.host} does not answer; {tail}", file=people)
            if kept := removal.in_use_elsewhere(found):
                say(
                    f"note: {len(kept)} rows that name {args.host} as their host stay, for another host has "
                    "their containers; find out who wrote them",
                    file=sys.stderr,
                )
                found = [one for one in found if one not in kept]
        if not (args.yes or is_confirmed(f"remove {_counts(found)} of {args.host}")):
            raise OvnDockerError("nothing was removed; confirm it, or give --yes")
        removal.remove(found)
    say(f"removed {_counts(found)}", file=people)
    _expel(args.host, people)
    return 0


def _expel(host: str, file: TextIO) -> None:
    """Give the host no certificate any more, or say where to type that: a host cannot revoke another's."""
    authority = Authority(certificates.DIRECTORY)
    if authority.has(host):
        if authority.expel(host):
            say(f"expelled {host}: it gets no certificate any more", file=file)
    elif Path(OWN_FILES.certificate).exists():
        expelled = command("ovn-docker", "token", "expel", host)
        say(
            f"so that {host} gets no certificate any more, type on the central machine: {expelled}", file=file
        )


def _print_rows(found: list[Belonging], *, json: bool) -> None:
    if json:
        print_json({"found": found})
    elif found:
        print_table([("WHAT", "", "LOGICAL SWITCH"), *map(_line, found)])


def _line(one: Belonging) -> tuple[str, str, str]:
    """Return a line of the table; Docker's IDs are as short as Docker prints them."""
    what, switch = (text[:12] if len(text) == 64 else text for text in (one.what, one.switch_name))
    return one.kind, what, switch


def _counts(found: list[Belonging]) -> str:
    """Return numbers of rows, such as ``3 ports, 6 claims, 1 note``."""
    kinds = Counter(one.kind for one in found)
    return ", ".join(f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in kinds.items())
