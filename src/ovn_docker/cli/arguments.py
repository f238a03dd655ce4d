"""What the commands share of their command lines: how they are added, addresses, the files of TLS."""

import argparse
import json
import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from ovn_docker.cli.steps import rows, run
from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.model import IpAddress


class TlsFiles(NamedTuple):
    """Absolute paths of PEM files, in the order that ``set-ssl`` takes them (ovs-vsctl(8), ovn-nbctl(8))."""

    private_key: str
    certificate: str
    ca_cert: str


TLS_DIRECTORY = ("key.pem", "cert.pem", "ca.pem")
"""What ``--tls DIRECTORY`` means, in the order of TlsFiles; ``ovn-docker pki`` makes such directories."""


_SHOWN = 8
"""Addresses of this host that an error lists; those of a link alone (RFC 4291, 2.5.6) are no use there."""


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Adds a command with --dry-run: its line in the list of commands, its own --help text, its function."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--dry-run", action="store_true", help="print what would change, change nothing")
    return parser


def describe(parser: argparse.ArgumentParser, text: str, run: Callable[[argparse.Namespace], int]) -> None:
    """Gives a command without commands below it its --help text, its function, and --json."""
    parser.description = text
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_tls_files(parser: argparse.ArgumentParser, whose: str, **tls: Any) -> None:
    """Adds --tls, and --private-key, --certificate and --ca-cert, which every OVS program has (ovs-vsctl(8)).

    *tls*: what add_argument is to know of --tls besides.
    """
    group = parser.add_argument_group("TLS (a directory, or all three files)")
    about = f"directory with {', '.join(TLS_DIRECTORY)} of {whose}, as ovn-docker pki makes it"
    group.add_argument("--tls", **{"metavar": "DIR", "help": about, **tls})
    group.add_argument("--private-key", metavar="PEM", help=f"private key of {whose}")
    group.add_argument("--certificate", metavar="PEM", help=f"certificate of {whose}")
    group.add_argument(
        "--ca-cert", metavar="PEM", help="certificate of the authority that the other side must show"
    )


def tls_files(args: argparse.Namespace) -> TlsFiles | None:
    """The three files, or None when none is given.

    Raises:
        BadRequest: one or two are given, a file cannot be read, or others can read the key.

    """
    from ovn_docker.host.tls import check_private

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


def current_tls(control: str) -> TlsFiles | None:
    """What ``set-ssl`` of ovs-vsctl, ovn-nbctl or ovn-sbctl has set, or None."""
    found = rows(control, "--timeout=10", "--columns=private_key,certificate,ca_cert", "list", "SSL")
    return TlsFiles(**found[0]) if found else None


def address(text: str) -> IpAddress:
    """An IP address, IPv6 with or without brackets; an argparse type."""
    try:
        return ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an IP address; give one like 10.0.0.1 or fd00::1"
        ) from None


def addresses(text: str) -> list[IpAddress]:
    """IP addresses separated by commas; an argparse type."""
    return [address(part.strip()) for part in text.split(",")]


def in_url(ip: IpAddress) -> str:
    """An address as OVSDB connection methods write it: IPv6 in brackets (ovsdb(7))."""
    return f"[{ip}]" if ip.version == 6 else str(ip)


def require_own(option: str, ip: IpAddress) -> str:
    """The interface of this host that has the address; raises BadRequest when none has."""
    own = own_addresses()
    if str(ip) not in own:
        usable = [one for one in own if not ip_address(one).is_link_local]
        shown = ", ".join(usable[:_SHOWN]) or "none"
        more = f" and {len(usable) - _SHOWN} more" if usable[_SHOWN:] else ""
        raise BadRequest(f"{option} {ip} is not an address of this host; it has {shown}{more}")
    return own[str(ip)]


def own_addresses() -> dict[str, str]:
    """Addresses of this host, and the interface that has each."""
    links = json.loads(run(("ip", "-json", "address", "show")))
    return {info["local"]: link["ifname"] for link in links for info in link["addr_info"]}


def require_root() -> None:
    """Raises OvnDockerError when the user cannot change anything."""
    if os.geteuid() != 0:
        raise OvnDockerError("only root may do this; run it again with sudo")
