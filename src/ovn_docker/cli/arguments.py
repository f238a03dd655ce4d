"""Arguments that several commands share: addresses, TLS files, --dry-run, --json."""

import argparse
import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.model import IpAddress
from ovn_docker.setup.tls_files import TLS_DIRECTORY, TlsFiles


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Add a command with --dry-run: its line in the list of commands, its own --help text, its function."""
    parser = commands.add_parser(
        name,
        help=summary,
        allow_abbrev=False,
    )
    describe_change(parser, text, run)
    return parser


def describe_change(
    parser: argparse.ArgumentParser, text: str, run: Callable[[argparse.Namespace], int]
) -> None:
    """Set the --help text and the function of a command without subcommands, and add --dry-run."""
    parser.description = text
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=run)
    add_dry_run(parser)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run."""
    parser.add_argument("--dry-run", action="store_true", help="print what would change, change nothing")


def describe(parser: argparse.ArgumentParser, text: str, run: Callable[[argparse.Namespace], int]) -> None:
    """Set the --help text and the function of a command without subcommands, and add --json."""
    parser.description = text
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_docker_dns(parser: argparse.ArgumentParser) -> None:
    """Add the options for dockerd's name servers."""
    parser.add_argument(
        "--docker-dns",
        action=argparse.BooleanOptionalAction,
        help="have Docker ask OVN for names, with dns in its configuration file, of which a backup is kept; "
        "--no-docker-dns undoes that (default: leave the file as it is)",
    )
    add_restart_docker(parser)


def add_restart_docker(parser: argparse.ArgumentParser) -> None:
    """Add the option to restart dockerd after a change of its name servers."""
    parser.add_argument(
        "--restart-docker",
        action="store_true",
        help="restart Docker if its dns has changed, which stops containers unless Docker has live-restore",
    )


def add_tls_files(parser: argparse.ArgumentParser, owner: str, **tls: Any) -> None:
    """Add --tls, and --private-key, --certificate and --ca-cert, which every OVS program has (ovs-vsctl(8)).

    *owner*: the machine of the files, in words; *tls*: more arguments of add_argument() for --tls.
    """
    group = parser.add_argument_group("TLS (a directory, or all three files)")
    about = f"directory with {', '.join(TLS_DIRECTORY)} of {owner}, as ovn-docker pki makes it"
    group.add_argument("--tls", **{"metavar": "DIR", "help": about, **tls})
    group.add_argument("--private-key", metavar="PEM", help=f"private key of {owner}")
    group.add_argument("--certificate", metavar="PEM", help=f"certificate of {owner}")
    group.add_argument(
        "--ca-cert", metavar="PEM", help="certificate of the authority that the other side must show"
    )


def tls_files(args: argparse.Namespace) -> TlsFiles | None:
    """Return the three files, or ``None`` if the command line has no TLS option.

    Raises:
        BadRequest: only one or two files are given, one cannot be read, or the key is accessible to others.

    """
    from ovn_docker.host.ovsdb.tls import check_private

    directory = args.tls if isinstance(args.tls, str) else None
    given = [(f"--{name.replace('_', '-')}", getattr(args, name)) for name in TlsFiles._fields]
    if directory is not None:
        if any(path for _, path in given):
            raise BadRequest("give either --tls DIRECTORY or the three files")
        given = [("--tls", str(Path(directory) / name)) for name in TLS_DIRECTORY]
    elif not any(path for _, path in given):
        return None
    absent = [option for option, path in given if not path]
    if absent:
        raise BadRequest(f"TLS needs a key, a certificate and an authority; add {', '.join(absent)}")
    for option, path in given:
        if not (Path(path).is_file() and os.access(path, os.R_OK)):
            raise BadRequest(f"{option} {path} is not a readable file; give the path of a PEM file")
    check_private(given[0][1])
    return TlsFiles(*(str(Path(path).resolve()) for _, path in given))


def address(text: str) -> IpAddress:
    """Return an IP address, IPv6 with or without brackets; an argparse type."""
    try:
        return ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an IP address; give one like 10.0.0.1 or fd00::1"
        ) from None


def addresses(text: str) -> list[IpAddress]:
    """Return IP addresses separated by commas; an argparse type."""
    return [address(part.strip()) for part in text.split(",")]


def require_root() -> None:
    """Raise OvnDockerError unless the user is root."""
    if os.geteuid() != 0:
        raise OvnDockerError("only root may do this; run it again with sudo")
