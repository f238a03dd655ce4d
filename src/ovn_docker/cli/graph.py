"""``ovn-docker graph``: draw the cluster."""

import argparse
import contextlib
import os
import socket
import sys
import tempfile
from pathlib import Path

from ovn_docker.cli.arguments import describe
from ovn_docker.draw.dot import dot
from ovn_docker.draw.layout import picture
from ovn_docker.draw.page import page
from ovn_docker.draw.svg import svg
from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.host.places import find_places
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.snapshot import Scope
from ovn_docker.settings import listener
from ovn_docker.text import printable
from ovn_docker.text.output import as_json, print_document, say

TEXT = """\
Draw the cluster: hosts with their containers, networks as lanes across the hosts that have them, this host's
tunnels and their state, and differences. The picture is one file that needs no others: svg for documents and
screens, html with a search, dot for Graphviz. It is light or dark by the reader's setting.

With --serve it is a page for browsers that is kept current, until Ctrl-C or SIGTERM: the picture, all
networks, containers and tunnels with their traffic, the findings of the doctor's checks that send no packet,
and for each container what `inspect` and `trace` print. It is read only. With an address that other machines
can reach it needs a token, which browsers ask for as a password; the connection is not encrypted. Traffic,
tunnels and faults of other hosts are known only there: --peer asks the page that such a host serves.

Exit code 0: no differences; 1: differences, which are marked in the picture.

examples:
  ovn-docker graph -o cluster.svg
  ovn-docker graph -o cluster.html
  ovn-docker graph --format dot | dot -Tpdf >cluster.pdf
  ovn-docker graph --serve 127.0.0.1:8080
  ovn-docker graph --serve 10.0.0.1:8080 --token-file /etc/ovn-docker/live-token
"""

FORMATS = {"svg": svg, "html": page, "dot": dot}
OTHER_FORMATS = ("gif", "jpeg", "jpg", "pdf", "png", "ps", "webp")
"""Suffixes of files in other formats, which Graphviz can write."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``ovn-docker graph``."""
    describe(parser, TEXT, run)
    parser.add_argument("--format", choices=[*FORMATS], help="default: by the suffix of FILE, else svg")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="default: standard output")
    parser.add_argument(
        "--serve",
        metavar="ADDRESS:PORT",
        type=_listener,
        help="serve a page that is kept current, for browsers of this host",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="with --serve, answer only requests with the token in the first line of FILE; other "
        "addresses than those of the loopback interface need one",
    )
    parser.add_argument(
        "--peer",
        metavar="ADDRESS:PORT",
        type=_listener,
        action="append",
        default=[],
        help="with --serve, also show traffic, tunnels and faults of another host, from its own page "
        "there with the same token; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Draw the picture, or print its contents as JSON."""
    if args.serve:
        return _serve(args)
    for option, given in (("--token-file", args.token_file), ("--peer", args.peer)):
        if given:
            raise BadRequest(f"{option} is for the page that is kept current: add --serve ADDRESS:PORT")
    kind = "" if args.json else format_of(args.format, args.output)
    with Sources() as sources:
        cluster = ClusterView(sources.gather(Scope.CLUSTER))
    drawn = picture(cluster)
    write(FORMATS[kind](drawn) if kind else f"{as_json(drawn_as_json(cluster))}\n", args.output)
    if why := cluster.snapshot.barred:
        say(f"ovn-docker: some parts are not drawn: {why}", file=sys.stderr)
    return 1 if drawn.faults else 0


def _serve(args: argparse.Namespace) -> int:
    """Serve the live page until a signal ends it."""
    from functools import partial

    from ovn_docker.live.access import Access, require_token, token_of
    from ovn_docker.live.peers import PEERS, ask_peer
    from ovn_docker.live.service import serve
    from ovn_docker.web.bounded_server import at, listen

    if args.output or args.format or args.json:
        raise BadRequest("--serve writes no file: leave out --output, --format and --json")
    address, port = args.serve
    token = token_of(args.token_file) if args.token_file else ""
    require_token(args.serve, token)
    if len(args.peer) > PEERS:
        raise BadRequest(f"{len(args.peer)} times --peer: give at most {PEERS}")
    asked = [partial(ask_peer, peer, token) for peer in dict.fromkeys(args.peer)]
    places = find_places()
    names = (socket.gethostname(), socket.getfqdn()) if token else ()
    with listen(args.serve, "browsers", "--serve ADDRESS:PORT") as sock:
        how = ", with the token as password" if token else ""
        say(f"serving http://{at(address, port)}/{how}", flush=True)
        serve(sock, Access(address, token, names), places, asked, root=os.geteuid() == 0)
    return 0


def _listener(text: str) -> tuple[str, int]:
    """Return an address and a port; an argparse type."""
    try:
        return listener(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None


def format_of(given: str | None, output: Path | None) -> str:
    """Return the format *given*, or that of the file's suffix. Raises BadRequest for an unsupported one."""
    suffix = output.suffix.lower().lstrip(".") if output else ""
    if not given and suffix in OTHER_FORMATS:
        raise BadRequest(
            f"cannot write {output}: {suffix} is not one of {', '.join(FORMATS)}; "
            f"try: ovn-docker graph --format dot | dot -T{suffix} >{printable.command(str(output))}"
        )
    return given or {"htm": "html", "gv": "dot"}.get(suffix, suffix if suffix in FORMATS else "svg")


def drawn_as_json(cluster: ClusterView) -> dict[str, object]:
    """Return the contents of the picture for JSON."""
    return {
        "hosts": cluster.hosts,
        "networks": cluster.networks,
        "endpoints": cluster.endpoints,
        "tunnels": cluster.tunnels,
        "missing": dict(cluster.snapshot.missing),
    }


def write(text: str, output: Path | None) -> None:
    """Write a whole file or nothing, or to standard output. Raises OvnDockerError.

    A device or pipe, such as /dev/null, is written to, not replaced.
    """
    if output is None:
        print_document(text)
        return
    part = ""
    try:
        if output.exists() and not output.is_file():
            output.write_text(text, encoding="utf-8")
            return
        target = output.resolve()
        number, part = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(part).chmod(0o644)
        Path(part).replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            if part:
                Path(part).unlink()
        raise OvnDockerError(f"cannot write {output}: {error.strerror}; name another file with -o") from None
