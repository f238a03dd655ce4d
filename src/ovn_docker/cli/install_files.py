"""``ovn-docker install-files``: units, manual pages, completion, rules and settings of this installation."""

import argparse
import sys
from pathlib import Path

from ovn_docker.cli.arguments import add_dry_run, require_root
from ovn_docker.errors import BadRequest
from ovn_docker.host.distribution import distribution
from ovn_docker.installation import placing
from ovn_docker.installation.usage import drivers, tool
from ovn_docker.setup.steps import Steps

TEXT = """\
Put the files into place that `pipx install` leaves out: systemd's units, manual pages, completion for bash,
zsh and fish, alert rules for Prometheus, a dashboard for Grafana, and a file of settings, which is never
replaced. Only files that are absent or differ are written. Packages of a distribution and `make install`
have done so themselves. After the command: `systemctl daemon-reload`, then enable the units.

With --remove the files are removed; disable the units first. Settings that have been changed stay.

examples:
  ovn-docker install-files --dry-run
  ovn-docker install-files
  ovn-docker install-files --root /tmp/tree --prefix /usr --programs /usr/bin
  ovn-docker install-files --remove
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``ovn-docker install-files``."""
    parser.description = TEXT
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=run)
    parser.add_argument("--remove", action="store_true", help="remove the files")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="the tree (default: /)")
    parser.add_argument(
        "--prefix",
        type=Path,
        default=Path("/usr/local"),
        metavar="DIR",
        help="the directory below which share/ is (default: /usr/local)",
    )
    parser.add_argument(
        "--units", type=Path, metavar="DIR", help="directory of units (default: /etc/systemd/system)"
    )
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="file of settings (default: that of this distribution)"
    )
    parser.add_argument(
        "--programs",
        type=Path,
        metavar="DIR",
        help="directory of the programs, for the units (default: that of this program)",
    )
    add_dry_run(parser)


def run(args: argparse.Namespace) -> int:
    """Place the files, or remove them."""
    from ovn_docker.cli.main import COMMANDS, make_parser

    require_root()
    where = placing.Destinations(
        root=args.root.absolute(),
        share=_absolute("--prefix", args.prefix) / "share",
        units=_absolute("--units", args.units or Path("/etc/systemd/system")),
        settings=_absolute("--settings", args.settings or distribution().settings),
        programs=args.programs or Path(sys.executable).parent,
    )
    if not args.remove:
        placing.check_programs(where.programs)
    steps = Steps(dry_run=args.dry_run)
    wanted = list(placing.files(where, (tool(make_parser(COMMANDS)), *drivers())))
    (placing.remove if args.remove else placing.place)(steps, wanted)
    return steps.finish()


def _absolute(option: str, path: Path) -> Path:
    if not path.is_absolute():
        raise BadRequest(f"{option} {str(path)!r} is not an absolute path: give one")
    return path
