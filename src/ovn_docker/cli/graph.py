"""``ovn-docker graph``: a picture of the cluster."""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

from ovn_docker import printable
from ovn_docker.cli.arguments import describe
from ovn_docker.cli.output import as_json, print_document, say
from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.view.cluster import Cluster
from ovn_docker.view.dot import dot
from ovn_docker.view.gather import Sources
from ovn_docker.view.graph import picture
from ovn_docker.view.page import page
from ovn_docker.view.snapshot import Scope
from ovn_docker.view.svg import svg

TEXT = """\
Draws the cluster: hosts with their containers, networks as lanes across the hosts that have them, this host's
tunnels and their state, and what does not fit. The picture is one file that needs nothing else: svg for a
wall or a page, html to search and point at, dot for Graphviz. Light or dark is the reader's setting.

Exit code 0: drawn, all fits; 1: drawn, something does not fit (it is marked).

examples:
  ovn-docker graph -o cluster.svg
  ovn-docker graph -o cluster.html
  ovn-docker graph --format dot | dot -Tpdf >cluster.pdf
"""

FORMATS = {"svg": svg, "html": page, "dot": dot}
OTHERS = ("gif", "jpeg", "jpg", "pdf", "png", "ps", "webp")
"""Endings of files that would have to be something else: Graphviz can make it."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``ovn-docker graph``."""
    describe(parser, TEXT, run)
    parser.add_argument("--format", choices=[*FORMATS], help="default: as FILE ends, else svg")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="default: standard output")


def run(args: argparse.Namespace) -> int:
    """Draws."""
    kind = "" if args.json else format_of(args.format, args.output)
    with Sources() as sources:
        cluster = Cluster(sources.gather(Scope.CLUSTER))
    drawn = picture(cluster)
    write(FORMATS[kind](drawn) if kind else f"{as_json(drawn_as_json(cluster))}\n", args.output)
    if why := cluster.snapshot.barred:
        say(f"ovn-docker: not all can be drawn: {why}", file=sys.stderr)
    return 1 if drawn.faults else 0


def format_of(given: str | None, output: Path | None) -> str:
    """The format that was named, or that the file's name means. Raises BadRequest if it is none of ours."""
    suffix = output.suffix.lower().lstrip(".") if output else ""
    if not given and suffix in OTHERS:
        raise BadRequest(
            f"{output} would be no {suffix}, but {', '.join(FORMATS)} is what there is; "
            f"try: ovn-docker graph --format dot | dot -T{suffix} >{printable.command(str(output))}"
        )
    return given or {"htm": "html", "gv": "dot"}.get(suffix, suffix if suffix in FORMATS else "svg")


def drawn_as_json(cluster: Cluster) -> dict[str, object]:
    """What is in the picture."""
    return {
        "hosts": cluster.hosts,
        "networks": cluster.networks,
        "endpoints": cluster.endpoints,
        "tunnels": cluster.tunnels,
        "missing": dict(cluster.snapshot.missing),
    }


def write(text: str, output: Path | None) -> None:
    """To a file, whole or not at all, or to standard output. Raises OvnDockerError.

    What is no file, such as /dev/null or a pipe, is written to as it is: root could replace that too.
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
