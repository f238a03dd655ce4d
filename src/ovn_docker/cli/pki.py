"""``ovn-docker pki``: a certificate authority of the cluster's own, and a certificate for each machine.

What a certificate says is what OVN goes by. Its common name is the host's system-id, which the access control
of the southbound database compares with the rows that the host may change (ovsdb-server(7), "RBAC"). A host's
certificate is good for clients alone (RFC 5280, 4.2.1.12, clientAuth), so that no host can pass for a
database; that of a central machine has its addresses, by which the driver knows it.
"""

import argparse
import os
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.cli.arguments import add_command, addresses, describe, require_root
from ovn_docker.cli.output import print_json, print_table
from ovn_docker.cli.steps import Steps, require, rows, run, succeeds
from ovn_docker.errors import BadRequest, Conflict, NotFound, OvnDockerError

DIRECTORY = Path("/etc/ovn-docker/pki")
AUTHORITY_DAYS = 3650
DAYS = 825
RENEW_DAYS = 30
"""From how many days before its end a certificate is made anew; `ovn-docker doctor` warns from then on."""

KEPT = "openvswitch/system-id.conf"
"""Below /etc, where ovs-ctl(8) keeps a machine's system-id."""

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")

INIT = """\
Makes the authority that signs the cluster's certificates. Its key (ca-key.pem) never has to leave this
machine, which may be any; whoever has it can change every network of the cluster.

examples:
  ovn-docker pki init
  ovn-docker pki init --directory /root/pki
"""
CENTRAL = """\
Makes key and certificate of a machine with OVN's databases. If it has containers too, NAME must be its
system-id (see /etc/openvswitch/system-id.conf), or access control does not let it be a host; without NAME it
is that of this machine. --address are its addresses in `ovn-docker host setup --central`. Run it again to
renew the certificate when 30 days or less are left, or when the addresses have changed.

examples:
  ovn-docker pki central --address 10.0.0.1         for this machine
  ovn-docker pki central host2 --address 10.0.0.2
  scp -rp /etc/ovn-docker/pki/host2 10.0.0.2:/etc/ovn-docker/tls
"""
HOST = """\
Makes key and certificate of a machine with containers. SYSTEM-ID is what Open vSwitch calls it (see
/etc/openvswitch/system-id.conf). Run it again to renew the certificate when 30 days or less are left.

example:
  ovn-docker pki host host1
  scp -rp /etc/ovn-docker/pki/host1 10.0.0.2:/etc/ovn-docker/tls
"""
LIST = """\
Lists the certificates of an authority, and when they end.

examples:
  ovn-docker pki list
  ovn-docker pki list --json
"""


@dataclass(frozen=True)
class Certificate:
    """What a certificate says."""

    name: str
    kind: str
    """``authority``, ``central`` or ``host``."""
    addresses: tuple[str, ...]
    ends: int
    """Seconds of the epoch."""

    @property
    def days_left(self) -> int:
        """Whole days; negative when it has ended."""
        return int((self.ends - time.time()) // 86400)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds init, central, host and list to the parser of ``ovn-docker pki``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    made = [
        add_command(commands, "init", "make the authority", INIT, init),
        add_command(commands, "central", "a certificate for a machine with the databases", CENTRAL, issue),
        add_command(commands, "host", "a certificate for a machine with containers", HOST, issue),
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
    made[2].set_defaults(address=None)
    for parser in made:
        parser.add_argument(
            "--directory",
            type=Path,
            default=DIRECTORY,
            metavar="DIR",
            help="where authority and certificates are kept (default: %(default)s)",
        )
    for parser, default in zip(made[:3], (AUTHORITY_DAYS, DAYS, DAYS), strict=True):
        parser.add_argument(
            "--days",
            type=_days,
            default=default,
            metavar="DAYS",
            help="how long it is valid (default: %(default)s)",
        )


def _name(text: str) -> str:
    """A common name that is a file name too; an argparse type."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):  # 64: RFC 5280, ub-common-name
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r} is no name: give up to 64 letters, digits, dots, hyphens and underscores"
        )
    return text


def _days(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= AUTHORITY_DAYS:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is none: give 1 to {AUTHORITY_DAYS} days")
    return int(text)


def init(args: argparse.Namespace) -> int:
    """Makes key and certificate of the authority, unless they are there."""
    require_root()
    require("openssl")
    steps = Steps(dry_run=args.dry_run)
    authority = args.directory / "ca.pem"
    if not authority.exists():
        subject = f"/CN=ovn-docker {time.strftime('%Y-%m-%d %H:%M:%S')}"  # tells two authorities apart
        key, partial = args.directory / "ca-key.pem", args.directory / ".ca.pem.partial"
        _make_directory(steps, args.directory)
        steps.change(
            f"make an authority in {args.directory}, for {args.days} days",
            *("openssl", "req", "-x509", "-config", "/dev/null", *NEW_KEY, "-subj", subject),
            *("-days", str(args.days), "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", str(key), "-out", str(partial)),
        )
        steps.change("put it in place", "mv", str(partial), str(authority))
    return steps.finish()


def issue(args: argparse.Namespace) -> int:
    """Makes a machine's key and certificate, or renews the certificate if that is due."""
    require_root()
    require("openssl")
    authority = args.directory / "ca.pem"
    if not authority.exists():
        raise NotFound(f"there is no authority in {args.directory}; make one with `ovn-docker pki init`")
    if args.name is None:
        args.name = _own_name()
    steps = Steps(dry_run=args.dry_run)
    place = args.directory / args.name
    wanted = tuple(sorted(map(str, args.address or ())))
    if not place.exists():
        _make(steps, args, place, wanted)
    elif reason := _outdated(place, args, wanted):
        partial = place / ".cert.pem.partial"
        argv = _request(args, wanted, "-key", str(place / "key.pem"))
        steps.change(f"renew the certificate of {args.name}: {reason}", *argv, "-out", str(partial))
        steps.change("add the authority's certificate", "cp", str(authority), str(place))
        steps.change("put it in place", "mv", str(partial), str(place / "cert.pem"))
    return steps.finish()


def kept_system_id() -> str:
    """The name of this machine that ovs-ctl(8) keeps in a file; empty if there is none."""
    try:
        return (Path(os.environ.get("OVS_SYSCONFDIR") or "/etc") / KEPT).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _own_name() -> str:
    """This machine's system-id: that of Open vSwitch, or if it does not run, the one that it will have."""
    try:
        found = rows("ovs-vsctl", "--timeout=5", "--columns=external_ids", "list", "Open_vSwitch")
    except OvnDockerError:
        found = []
    kept = found[0]["external_ids"].get("system-id", "") if found else ""
    try:
        return _name(kept or kept_system_id())
    except argparse.ArgumentTypeError:
        raise BadRequest("Open vSwitch has no system-id here that can be a name; give NAME") from None


def _make(steps: Steps, args: argparse.Namespace, place: Path, wanted: tuple[str, ...]) -> None:
    """A directory that is there is complete."""
    partial = place.with_name(f".{place.name}.partial")
    if partial.exists() and not steps.dry_run:
        shutil.rmtree(partial)  # of a run that was killed
    _make_directory(steps, partial)
    what = f"make key and certificate of {args.name}, for {args.days} days"
    new_key = (*NEW_KEY, "-keyout", str(partial / "key.pem"))
    steps.change(what, *_request(args, wanted, *new_key), "-out", str(partial / "cert.pem"))
    steps.change("add the authority's certificate", "cp", str(args.directory / "ca.pem"), str(partial))
    steps.change("put them in place", "mv", str(partial), str(place))


def _request(args: argparse.Namespace, wanted: tuple[str, ...], *key: str) -> tuple[str, ...]:
    """The command that signs a certificate; all that openssl takes from configuration files is given."""
    usage = "serverAuth,clientAuth" if args.address else "clientAuth"
    names = ",".join([f"DNS:{args.name}", *(f"IP:{ip}" for ip in wanted)])
    return (
        *("openssl", "req", "-x509", "-config", "/dev/null", *key, "-subj", f"/CN={args.name}"),
        *("-CA", str(args.directory / "ca.pem"), "-CAkey", str(args.directory / "ca-key.pem")),
        *("-days", str(args.days), "-addext", "basicConstraints=critical,CA:FALSE"),
        *("-addext", "keyUsage=critical,digitalSignature", "-addext", f"extendedKeyUsage={usage}"),
        *("-addext", f"subjectAltName={names}"),
    )


def _outdated(place: Path, args: argparse.Namespace, wanted: tuple[str, ...]) -> str:
    """Why a machine's certificate has to be made anew; empty if it is good.

    Raises:
        Conflict: it is of another kind of machine.

    """
    now = read(place / "cert.pem")
    kind = "central" if args.address else "host"
    if now.kind != kind and now.kind == "central":
        raise Conflict(
            f"{args.name} has a certificate for a central machine, which serves for its containers too; "
            f"move {place} away if it is to have another"
        )
    if now.kind != kind:
        return "it becomes a central machine"
    if now.addresses != wanted:
        return f"its addresses were {', '.join(now.addresses)}"
    if not succeeds("openssl", "verify", "-CAfile", str(args.directory / "ca.pem"), str(place / "cert.pem")):
        return "the authority is another one, or the time is over"
    return f"{now.days_left} days are left" if now.days_left <= RENEW_DAYS else ""


def _make_directory(steps: Steps, directory: Path) -> None:
    if not directory.is_dir():
        steps.change(f"make {directory}", "mkdir", "--parents", "--mode=700", str(directory))


def read(path: Path) -> Certificate:
    """What the certificate in a PEM file says, as openssl-x509(1) tells it.

    Raises:
        StepFailed: it cannot be read.

    """
    shown = ("-subject", "-enddate", "-ext", "subjectAltName,extendedKeyUsage,basicConstraints")
    said = run(("openssl", "x509", "-in", str(path), "-noout", "-nameopt", "multiline", *shown))
    name, ends = re.search(r"commonName\s*= (.*)", said), re.search(r"notAfter=(.*)", said)
    kind = "authority" if "CA:TRUE" in said else "central" if "Server Authentication" in said else "host"
    found = (ip_address(text) for text in re.findall(r"IP Address:([0-9A-Fa-f.:]+)", said))
    return Certificate(
        name=name[1] if name else "",
        kind=kind,
        addresses=tuple(sorted(map(str, found))),
        ends=ssl.cert_time_to_seconds(ends[1]) if ends else 0,
    )


def holder(path: str) -> Certificate | None:
    """What the certificate in a PEM file says; None where there is no openssl to tell."""
    return read(Path(path)) if shutil.which("openssl") else None


def show(args: argparse.Namespace) -> int:
    """Prints every certificate below a directory."""
    require_root()
    require("openssl")
    found = list(_all(args.directory))
    if not found:
        raise NotFound(f"there is no certificate in {args.directory}; see `ovn-docker pki init --help`")
    if args.json:
        print_json([{**vars(one), "days_left": one.days_left} for one in found])
        return 0
    lines = [("NAME", "KIND", "DAYS LEFT", "ADDRESSES")]
    lines += [(one.name, one.kind, str(one.days_left), ", ".join(one.addresses)) for one in found]
    print_table(lines)
    return 0


def _all(directory: Path) -> Iterator[Certificate]:
    if (directory / "ca.pem").exists():
        yield read(directory / "ca.pem")
    for path in sorted(directory.glob("[!.]*/cert.pem")):
        yield read(path)
