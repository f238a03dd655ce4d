"""The cluster's own certificate authority, and the certificates of its machines, made by openssl(1).

OVN identifies a machine by its certificate. The common name is the host's system-id, which the access control
of the southbound database compares with the rows that the host may change (ovsdb-server(7), "RBAC"). A host's
certificate is valid for clients only (RFC 5280, 4.2.1.12, clientAuth), so that no host can pass for a
database; the certificate of a central machine has its addresses, by which the driver verifies it.
"""

import os
import re
import shutil
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.errors import BadRequest, Conflict, NotFound, OvnDockerError
from ovn_docker.host.run import require, run, succeeds
from ovn_docker.host.vsctl import rows
from ovn_docker.model import IpAddress
from ovn_docker.setup.steps import Steps

DIRECTORY = Path("/etc/ovn-docker/pki")
AUTHORITY_DAYS = 3650
DAYS = 825
JOINED_DAYS = 14
"""Days of the certificate of a host that joined: docs/security.md has the reason."""

RENEW_DAYS = 30
"""Days before its end from which on a certificate is renewed; `ovn-docker doctor` warns from then on."""

SYSTEM_ID_FILE = "openvswitch/system-id.conf"
"""The file below /etc in which ovs-ctl(8) keeps the system-id of a machine."""

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # 64: RFC 5280, ub-common-name


@dataclass(frozen=True)
class MachineCertificate:
    """The contents of a certificate: holder, kind of machine, addresses, validity."""

    name: str
    kind: str
    """``authority``, ``central`` or ``host``."""
    addresses: tuple[str, ...]
    starts: int
    """Seconds of the epoch, as *ends*."""
    ends: int

    @property
    def days_left(self) -> int:
        """Whole days until the end; negative afterwards."""
        return int((self.ends - time.time()) // 86400)

    @property
    def is_due(self) -> bool:
        """True after a third of its life: a host that joined asks for another one from then on."""
        return time.time() >= self.starts + (self.ends - self.starts) / 3


@dataclass(frozen=True)
class CertificateRequest:
    """A certificate to make: for a central machine if there are *addresses*, else for a host."""

    directory: Path
    """The directory of the authority, and of the machine's directory."""
    name: str
    addresses: tuple[str, ...]
    days: int

    @property
    def place(self) -> Path:
        """The directory with key and certificate of the machine."""
        return self.directory / self.name

    @property
    def kind(self) -> str:
        """The kind of the machine, as in `MachineCertificate`."""
        return "central" if self.addresses else "host"

    @property
    def extensions(self) -> tuple[str, ...]:
        """The extensions of the certificate, as lines of x509v3_config(5)."""
        usage = "serverAuth,clientAuth" if self.addresses else "clientAuth"
        names = ",".join([f"DNS:{self.name}", *(f"IP:{ip}" for ip in self.addresses)])
        return (
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={usage}",
            f"subjectAltName={names}",
        )

    @property
    def signer(self) -> tuple[str, ...]:
        """The options of openssl for the authority's key and the validity."""
        return (
            *("-CA", str(self.directory / "ca.pem"), "-CAkey", str(self.directory / "ca-key.pem")),
            *("-days", str(self.days)),
        )

    def command(self, *key: str) -> tuple[str, ...]:
        """Return the command that signs the certificate, with every setting that openssl has files for."""
        return (
            *("openssl", "req", "-x509", "-config", "/dev/null", *key, "-subj", f"/CN={self.name}"),
            *self.signer,
            *(word for extension in self.extensions for word in ("-addext", extension)),
        )


def make_authority(steps: Steps, directory: Path, days: int) -> None:
    """Make key and certificate of the authority, unless the directory has them."""
    require("openssl")
    authority = directory / "ca.pem"
    if authority.exists():
        return
    subject = f"/CN=ovn-docker {time.strftime('%Y-%m-%d %H:%M:%S')}"  # distinguishes two authorities
    key, partial = directory / "ca-key.pem", directory / ".ca.pem.partial"
    _make_directory(steps, directory)
    steps.change(
        f"make an authority in {directory}, for {days} days",
        *("openssl", "req", "-x509", "-config", "/dev/null", *_NEW_KEY, "-subj", subject),
        *("-days", str(days), "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", str(key), "-out", str(partial)),
    )
    steps.change("put it in place", "mv", str(partial), str(authority))


def issue(steps: Steps, directory: Path, name: str | None, addresses: Sequence[IpAddress], days: int) -> None:
    """Make key and certificate of a machine, or renew its certificate if that is due.

    *name*: the name of the machine, this one's if ``None``; *addresses*: those of a central machine.

    Raises:
        BadRequest: this machine has no name that a certificate can have.
        Conflict: the machine has a certificate of another kind, or has joined with a token.
        NotFound: there is no authority.

    """
    require("openssl")
    authority = directory / "ca.pem"
    if not authority.exists() and not steps.dry_run:
        raise NotFound(f"there is no authority in {directory}; make one with `ovn-docker pki init`")
    request = CertificateRequest(
        directory, own_name() if name is None else name, tuple(sorted(map(str, addresses))), days
    )
    if not request.place.exists():
        _make(steps, request)
    elif not (request.place / "key.pem").exists():
        raise Conflict(f"{request.name} has joined with a token: it has the key, and renews its certificate")
    elif reason := _outdated(request):
        partial = request.place / ".cert.pem.partial"
        argv = request.command("-key", str(request.place / "key.pem"))
        steps.change(f"renew the certificate of {request.name}: {reason}", *argv, "-out", str(partial))
        steps.change("add the authority's certificate", "cp", str(authority), str(request.place))
        steps.change("put it in place", "mv", str(partial), str(request.place / "cert.pem"))


def is_name(text: str) -> bool:
    """Return whether a certificate, and the directory that it is kept in, can have this name."""
    return _NAME.fullmatch(text) is not None


def kept_system_id() -> str:
    """Return the system-id of this machine that ovs-ctl(8) keeps in a file; empty if there is none."""
    try:
        return system_id_file().read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def system_id_file() -> Path:
    """Return the file in which ovs-ctl(8) keeps the system-id of this machine."""
    return Path(os.environ.get("OVS_SYSCONFDIR") or "/etc") / SYSTEM_ID_FILE


def own_name() -> str:
    """Return this machine's system-id, from Open vSwitch, or from its file if Open vSwitch does not run.

    Raises:
        BadRequest: there is none, or a certificate cannot have it as its name.

    """
    try:
        found = rows("Open_vSwitch", "external_ids")
    except OvnDockerError:
        found = []
    kept = found[0].map("external_ids").get("system-id", "") if found else ""
    name = kept or kept_system_id()
    if not is_name(name):
        raise BadRequest(
            "Open vSwitch has no system-id here that can be the name of a certificate; give NAME"
        )
    return name


def read_certificate(path: Path) -> MachineCertificate:
    """Return the contents of the certificate in a PEM file, as openssl-x509(1) prints them.

    Raises:
        StepFailed: openssl cannot read it.

    """
    shown = ("-subject", "-dates", "-ext", "subjectAltName,extendedKeyUsage,basicConstraints")
    printed = run(("openssl", "x509", "-in", str(path), "-noout", "-nameopt", "multiline", *shown))
    name = re.search(r"commonName\s*= (.*)", printed)
    starts, ends = (
        ssl.cert_time_to_seconds(found[1]) if (found := re.search(f"{line}=(.*)", printed)) else 0
        for line in ("notBefore", "notAfter")
    )
    kind = (
        "authority" if "CA:TRUE" in printed else "central" if "Server Authentication" in printed else "host"
    )
    addresses = (ip_address(text) for text in re.findall(r"IP Address:([0-9A-Fa-f.:]+)", printed))
    return MachineCertificate(
        name=name[1] if name else "",
        kind=kind,
        addresses=tuple(sorted(map(str, addresses))),
        starts=starts,
        ends=ends,
    )


def certificate_of(path: str) -> MachineCertificate | None:
    """Return the contents of the certificate in a PEM file; ``None`` if openssl is not installed."""
    return read_certificate(Path(path)) if shutil.which("openssl") else None


def list_certificates(directory: Path) -> list[MachineCertificate]:
    """Return the certificate of the authority in a directory, and those that it has signed.

    Raises:
        NotFound: there is no certificate.

    """
    require("openssl")
    found = [*_read_all(directory)]
    if not found:
        raise NotFound(f"there is no certificate in {directory}; see `ovn-docker pki init --help`")
    return found


def _make(steps: Steps, request: CertificateRequest) -> None:
    """Make the directory of a machine under another name first: a directory in place is complete."""
    partial = request.place.with_name(f".{request.name}.partial")
    if partial.exists() and not steps.dry_run:
        shutil.rmtree(partial)  # of a run that was killed
    _make_directory(steps, partial)
    new_key = (*_NEW_KEY, "-keyout", str(partial / "key.pem"))
    steps.change(
        f"make key and certificate of {request.name}, for {request.days} days",
        *request.command(*new_key),
        *("-out", str(partial / "cert.pem")),
    )
    authority = str(request.directory / "ca.pem")
    steps.change("add the authority's certificate", "cp", authority, str(partial))
    steps.change("put them in place", "mv", str(partial), str(request.place))


def _outdated(request: CertificateRequest) -> str:
    """Return the reason to renew a machine's certificate; empty if there is none.

    Raises:
        Conflict: it is the certificate of another kind of machine.

    """
    certificate = request.place / "cert.pem"
    now = read_certificate(certificate)
    if now.kind != request.kind and now.kind == "central":
        raise Conflict(
            f"{request.name} has a certificate for a central machine, which is valid for its containers too; "
            f"to make one for a host, move {request.place} away first"
        )
    if now.kind != request.kind:
        return "it becomes a central machine"
    if now.addresses != request.addresses:
        return f"its addresses were {', '.join(now.addresses)}"
    if not succeeds("openssl", "verify", "-CAfile", str(request.directory / "ca.pem"), str(certificate)):
        return "the authority is another one, or the certificate has ended"
    return f"{now.days_left} days are left" if now.days_left <= RENEW_DAYS else ""


def _make_directory(steps: Steps, directory: Path) -> None:
    if not directory.is_dir():
        steps.change(f"make {directory}", "mkdir", "--parents", "--mode=700", str(directory))


def _read_all(directory: Path) -> Iterator[MachineCertificate]:
    if (directory / "ca.pem").exists():
        yield read_certificate(directory / "ca.pem")
    for path in sorted(directory.glob("[!.]*/cert.pem")):
        yield read_certificate(path)
