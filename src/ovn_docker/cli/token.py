"""``ovn-docker token``: tokens with which hosts join, and the service that answers these hosts."""

import argparse
import re
import time

from ovn_docker.cli.arguments import add_command, describe, require_root
from ovn_docker.enrolment.service_process import serve
from ovn_docker.enrolment.signing import Authority
from ovn_docker.enrolment.tokens import TokenStore
from ovn_docker.errors import NotFound
from ovn_docker.setup.central.enrolment_daemon import command_to_join
from ovn_docker.setup.certificates import DIRECTORY
from ovn_docker.text.output import print_json, print_table, say

CREATE = """\
Make a token, and print the command with which hosts join. Whoever has it can make machines members of the
cluster until it expires: send it as you would send a password. Tokens are kept as hashes, so this is the only
time that it is shown.

examples:
  ovn-docker token create
  ovn-docker token create --expires 30m --uses 1
"""
LIST = """\
List the tokens, without their secrets.

examples:
  ovn-docker token list
  ovn-docker token list --json
"""
REVOKE = """\
Delete a token: no host joins with it any more. Hosts that have joined stay; see `ovn-docker token expel`.

example:
  ovn-docker token revoke 5f0c12ab
"""
EXPEL = """\
Give a host no certificate any more, because it was lost or is not trusted. Its present certificate is valid
until its end: keep the host out with a firewall until then. With --forget its name is free for another
machine. To remove the rows that it left use `ovn-docker gc --host SYSTEM-ID`.

example:
  ovn-docker token expel host7
"""
SERVE = """\
Answer hosts that join, on port 6645 of the addresses of the northbound database. `ovn-docker central start`
starts this, by systemd where that runs the machine.

example:
  ovn-docker token serve
"""
_EXPIRES = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add create, list, revoke, expel and serve to the parser of ``ovn-docker token``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parser = commands.add_parser("create", help="make a token", allow_abbrev=False)
    describe(parser, CREATE, create)
    parser.add_argument(
        "--expires",
        type=_seconds,
        default="24h",
        metavar="TIME",
        help="how long it is valid: minutes, hours or days, such as 30m, 24h, 7d (default: %(default)s)",
    )
    parser.add_argument(
        "--uses", type=_number, metavar="N", help="hosts that may join with it (default: any number)"
    )
    describe(commands.add_parser("list", help="list the tokens", allow_abbrev=False), LIST, show)
    parser = add_command(commands, "revoke", "delete a token", REVOKE, revoke)
    parser.add_argument("id", metavar="ID", help="the token's ID, see `ovn-docker token list`")
    parser = add_command(commands, "expel", "give a host no certificate any more", EXPEL, expel)
    parser.add_argument("host", metavar="SYSTEM-ID", help="the host, see `ovn-docker pki list`")
    parser.add_argument("--forget", action="store_true", help="free its name for another machine")
    parser = commands.add_parser("serve", help="answer hosts that join", allow_abbrev=False)
    describe(parser, SERVE, answer)
    parser.add_argument("--detach", action="store_true", help="go into the background")


def create(args: argparse.Namespace) -> int:
    """Make a token and print it."""
    require_root()
    token = TokenStore(DIRECTORY).create(args.expires, args.uses)
    if args.json:
        print_json({"id": token.id, "token": str(token), "command": command_to_join(str(token))})
    else:
        say(command_to_join(str(token)))
    return 0


def show(args: argparse.Namespace) -> int:
    """Print the tokens."""
    require_root()
    found = TokenStore(DIRECTORY).all()
    if args.json:
        print_json([{"id": one.id, "ends": one.ends, "uses": one.uses} for one in found])
        return 0
    lines = [("ID", "ENDS", "USES LEFT")]
    for one in found:
        ends = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.ends))
        lines.append(
            (one.id, ends if one.is_valid else "ended", "any" if one.uses is None else str(one.uses))
        )
    print_table(lines)
    return 0


def revoke(args: argparse.Namespace) -> int:
    """Delete a token."""
    require_root()
    if not args.dry_run:
        TokenStore(DIRECTORY).revoke(args.id)
    say(f"{'would revoke' if args.dry_run else 'revoked'} token {args.id[:80]}")
    return 0


def expel(args: argparse.Namespace) -> int:
    """Give a host no certificate any more."""
    require_root()
    authority = Authority(DIRECTORY)
    if not authority.has(args.host):
        raise NotFound(f"no host {args.host[:80]!r} has a certificate; see `ovn-docker pki list`")
    if not args.dry_run:
        authority.expel(args.host)
        if args.forget:
            authority.forget(args.host)
    say(f"{'would expel' if args.dry_run else 'expelled'} {args.host}")
    return 0


def answer(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    require_root()
    serve(DIRECTORY, detach=args.detach)
    return 0


def _seconds(text: str) -> int:
    """Return a time in seconds; an argparse type."""
    if not (found := _EXPIRES.fullmatch(text)):
        raise argparse.ArgumentTypeError(f"invalid time {text[:80]!r}: give one such as 30m, 24h or 7d")
    return int(found[1]) * _SECONDS[found[2]]


def _number(text: str) -> int:
    """Return a number of hosts; an argparse type."""
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError(f"invalid number {text[:80]!r}: give 1 or more")
    return int(text)
