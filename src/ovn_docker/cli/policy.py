"""``ovn-docker policy``: the rules of a network: set, show, compare, try them."""

import argparse
import difflib
import sys
from pathlib import Path

from ovn_docker.backends.ovn.members import groups_of
from ovn_docker.backends.ovn.policies import StoredPolicy
from ovn_docker.cli.arguments import add_dry_run, describe, require_root
from ovn_docker.errors import BadRequest, Conflict
from ovn_docker.policy import rule_files
from ovn_docker.policy.language import PolicyService, services
from ovn_docker.policy.rule_files import LARGEST, PolicyInvalid, WrittenRule
from ovn_docker.setup.hosts.network_policy import network_policies
from ovn_docker.text.output import print_json, say, say_file

TEXT = """\
Rules of a network: who may talk to whom. A container is put into groups with
`docker run --network name=foo,driver-opt=ovn.groups=web`; rules name groups, addresses, `all` (the containers
of the network) and `outside` (all other addresses). Of the rules that a packet fits the first one decides;
without one, the network's default does: open, or deny with `-o ovn.policy=deny`. See docs/policy.md.
"""

SET = """\
Replace the rules of a network by those of a file, in one transaction. Containers are not touched: connections
that the new rules allow go on, others end with their next packet.

  rules:
    - allow: [tcp/80, tcp/443]
      to: web
    - allow: tcp/5432
      from: web
      to: db
    - drop: any
      from: 10.1.0.66

examples:
  ovn-docker policy set foo -f policy.yaml --dry-run
  ovn-docker policy set foo -f policy.yaml
  ovn-docker policy set foo --clear
"""

SHOW = """\
Show the default and the rules of a network, in the order in which they are tried.

examples:
  ovn-docker policy show foo
"""

EXPORT = """\
Print the rules of a network as the file had them that set them.

examples:
  ovn-docker policy export foo > policy.yaml
"""

DIFF = """\
Compare the rules of a network with those of a file. Exit code 0: they are the same; 1: they differ.

examples:
  ovn-docker policy diff foo -f policy.yaml
"""

TEST = """\
Print what the rules of a network say about the first packet of a connection, and which rule it is. An end is
the name of a container or HOST/NAME, a group, an address, `all` or `outside`. No packet is sent:
`ovn-docker trace` follows one. Exit code 0: it passes; 1: it does not.

examples:
  ovn-docker policy test web db tcp/5432
  ovn-docker policy test 192.0.2.1 web tcp/443 --network foo
"""

SCHEMA = """\
Print the JSON schema of the rules, with which editors check and complete them.

examples:
  ovn-docker policy schema > policy.schema.json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands to the parser of ``ovn-docker policy``."""
    parser.description = TEXT
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser("set", help="replace the rules of a network", allow_abbrev=False)
    describe(command, SET, set_rules)
    _add_network(command)
    given = command.add_mutually_exclusive_group(required=True)
    given.add_argument("-f", "--file", metavar="FILE", help="the rules, in YAML; - is standard input")
    given.add_argument("--clear", action="store_true", help="remove the rules")
    add_dry_run(command)
    command = commands.add_parser("show", help="the default and the rules of a network", allow_abbrev=False)
    describe(command, SHOW, show)
    _add_network(command)
    command = commands.add_parser("export", help="the rules as their file had them", allow_abbrev=False)
    describe(command, EXPORT, export)
    _add_network(command)
    command = commands.add_parser("diff", help="compare the rules with a file", allow_abbrev=False)
    describe(command, DIFF, diff)
    _add_network(command)
    command.add_argument("-f", "--file", metavar="FILE", required=True, help="the rules, in YAML")
    command = commands.add_parser("test", help="what the rules say about a packet", allow_abbrev=False)
    describe(command, TEST, test)
    command.add_argument("source", metavar="FROM", help="who sends the first packet")
    command.add_argument("target", metavar="TO", help="who receives it")
    command.add_argument(
        "packet", metavar="PACKET", nargs="?", default="icmp", help="icmp, tcp/PORT, udp/PORT or sctp/PORT"
    )
    command.add_argument("--network", default="", help="the network, if several have both ends")
    command = commands.add_parser("schema", help="the JSON schema of the rules", allow_abbrev=False)
    describe(command, SCHEMA, schema)


def set_rules(args: argparse.Namespace) -> int:
    """Replace the rules of a network, or say what would change."""
    require_root()
    text = "" if args.clear else _read(args.file)
    written = () if args.clear else _parsed(args.file, text)
    with network_policies() as networks:
        before = networks.read(args.network)
        changes = _differences(_replaced(before), [str(one.rule) for one in written])
        known = groups_of(networks.members(before))
        if not args.dry_run:
            try:
                networks.write(before, text)
            except PolicyInvalid as error:
                raise BadRequest(f"{args.file}: {error}") from None
    unknown = sorted(set().union(*(one.rule.groups for one in written)) - known)
    if args.json:
        print_json({"changes": changes, "rules": len(written), "empty_groups": unknown})
        return 0
    for line in changes:
        say(line)
    for group in unknown:
        say(f"note: no container belongs to group {group} yet")
    done = "would have" if args.dry_run else "has"
    say(f"network {args.network} {done} {len(written)} rules{'' if changes else ', as before'}")
    return 0


def show(args: argparse.Namespace) -> int:
    """Print the default and the rules of a network."""
    require_root()
    with network_policies() as networks:
        policy = networks.read(args.network)
    default = "deny" if policy.denies else "open"
    if args.json:
        print_json({"default": default, "rules": [text for text, _ in policy.rules]})
        return 0
    for text, _ in policy.rules:
        say(text)
    say(f"default: {default}")
    return 0


def export(args: argparse.Namespace) -> int:
    """Print the text of the rules of a network."""
    require_root()
    with network_policies() as networks:
        policy = networks.read(args.network)
        policy.require_valid()
    text = policy.text or rule_files.write(())
    if args.json:
        print_json({"text": text})
    else:
        say_file(text)  # it has been parsed, so that it has no characters that control a terminal
    return 0


def diff(args: argparse.Namespace) -> int:
    """Print the differences between the rules of a network and a file."""
    require_root()
    written = _parsed(args.file, _read(args.file))
    with network_policies() as networks:
        changes = _differences(_lines(networks.read(args.network)), [str(one.rule) for one in written])
    if args.json:
        print_json({"changes": changes})
    else:
        for line in changes:
            say(line)
    return 1 if changes else 0


def test(args: argparse.Namespace) -> int:
    """Print what the rules say about a packet."""
    require_root()
    service = _service(args.packet)
    with network_policies() as networks:
        answers = networks.ask(args.source, args.target, service, args.network)
    allowed = all(answer.allowed for answer in answers)
    if args.json:
        found = [{"allowed": one.allowed, "because": one.because, "network": one.network} for one in answers]
        print_json({"allowed": allowed, "answers": found})
    else:
        for answer in answers:
            say(f"{'yes' if answer.allowed else 'no'}: {answer.because}")
    return 0 if allowed else 1


def schema(_: argparse.Namespace) -> int:
    """Print the JSON schema of the rules."""
    print_json(rule_files.schema())
    return 0


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK", help="its name in Docker, or in the cluster")


def _read(file: str) -> str:
    """Return the text of a file, or of standard input. Raises BadRequest."""
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(file).open("rb") as opened:
                raw = opened.read(LARGEST + 1)
        return raw.decode()
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadRequest(f"{file} is not a text in UTF-8") from None


def _parsed(file: str, text: str) -> tuple[WrittenRule, ...]:
    try:
        return rule_files.parse(text)
    except PolicyInvalid as error:
        raise BadRequest(f"{'standard input' if file == '-' else file}: {error}") from None


def _lines(policy: StoredPolicy) -> list[str]:
    return [str(one.rule) for one in policy.written]


def _replaced(policy: StoredPolicy) -> list[str]:
    """Return the rules that a network has; none, with a note, if somebody has stored an invalid text."""
    try:
        return _lines(policy)
    except Conflict as error:
        say(f"note: {error}", file=sys.stderr)
        return []


def _differences(before: list[str], after: list[str]) -> list[str]:
    """Return the rules that go, with `-`, and those that come, with `+`, each in its place."""
    lines = difflib.unified_diff(before, after, n=0, lineterm="")
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def _service(text: str) -> PolicyService:
    try:
        (service,) = services(text)
    except ValueError:
        raise BadRequest(
            f"invalid packet {text[:40]!r}: give icmp, or tcp, udp or sctp with a port, such as tcp/5432"
        ) from None
    if service.protocol != "icmp" and not service.first == service.last != 0:
        raise BadRequest(f"packet {text[:40]} has not one port: give one, such as {service.protocol}/80")
    return service
