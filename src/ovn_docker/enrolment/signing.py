"""Certificates for hosts that join: the authority signs a host's public key in the host's name.

The certificate of a host is in the authority's directory, as `ovn-docker pki host` keeps it, but without the
key, which stays on the host. The directory so is the list of names that are taken, and of their keys.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ovn_docker.errors import BadRequest, Conflict, Forbidden, OvnDockerError
from ovn_docker.host.durable_files import replace_file
from ovn_docker.host.run import StepFailed, run, succeeds
from ovn_docker.setup.certificates import JOINED_DAYS, CertificateRequest, is_name, read_certificate

REVOKED = "revoked"
"""File beside the certificate of a host that has left, or was expelled: it gets no certificate any more."""

_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]{100,2000}-----END PUBLIC KEY-----\n")
_INVALID = BadRequest("the certificate request is not a valid PKCS #10 request in PEM")
_OPENSSL = 10.0
"""Seconds that openssl may take."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority in a directory that `ovn-docker pki init` or `central start` has made."""

    directory: Path

    @property
    def certificate(self) -> str:
        """The authority's own certificate, in PEM."""
        return (self.directory / "ca.pem").read_text(encoding="utf-8")

    def is_known(self, name: str, request: str) -> bool:
        """Return whether the host of that name has a certificate for the key in *request*.

        Raises:
            BadRequest: an invalid name or request.
            Forbidden: the host was expelled.

        """
        place = self._place(name)
        if not (certificate := place / "cert.pem").exists() or read_certificate(certificate).kind != "host":
            return False
        return _key_of(certificate) == _requested_key(request)

    def sign(self, name: str, request: str) -> str:
        """Return a certificate of the host *name* for the key in *request*, a PKCS #10 request in PEM.

        Nothing else in the request counts (RFC 2986): a host must not choose its name, usage or validity.

        Raises:
            BadRequest: an invalid name or request.
            Conflict: a machine with another key has the name.
            Forbidden: the host was expelled.

        """
        if not self.is_known(name, request):
            self.check_free(name)
        wanted = CertificateRequest(self.directory, name, (), JOINED_DAYS)
        with _file("request.pem", request) as file:
            # Verifies the signature, and copies no extension: openssl-x509(1), -req, -copy_extensions.
            command = ("openssl", "x509", "-req", "-in", file, "-subj", f"/CN={name}", *wanted.signer)
            try:
                signed = run(
                    (*command, "-extfile", "/dev/stdin"), _OPENSSL, text="\n".join(wanted.extensions)
                )
            except StepFailed:
                if succeeds("openssl", "pkey", "-in", str(self.directory / "ca-key.pem"), "-noout"):
                    raise _INVALID from None
                raise
        place = self._place(name)
        place.mkdir(mode=0o700, exist_ok=True)
        replace_file(place / "cert.pem", signed, 0o600)
        return signed

    def check_free(self, name: str) -> None:
        """Raise Conflict if a machine has a certificate of that name, Forbidden if it was expelled."""
        if (self._place(name) / "cert.pem").exists():
            raise Conflict(
                f"another machine has the name {name}; if it is gone for good, run "
                f"`ovn-docker token expel {name} --forget` on the central machine"
            )

    def has(self, name: str) -> bool:
        """Return whether a host of that name has a certificate, or had one and was expelled.

        A central machine is no host in this sense: it renews its own certificate.
        """
        certificate = self.directory / name / "cert.pem"
        return is_name(name) and certificate.exists() and read_certificate(certificate).kind == "host"

    def expel(self, name: str) -> bool:
        """Give a host no certificate any more; return False if it has none, or was expelled before."""
        place = self.directory / name
        if not self.has(name) or (place / REVOKED).exists():
            return False
        replace_file(place / REVOKED, "", 0o600)
        return True

    def forget(self, name: str) -> None:
        """Free the name of a host that was expelled, for another machine."""
        place = self.directory / name
        if is_name(name) and (place / REVOKED).exists():
            shutil.rmtree(place)

    def _place(self, name: str) -> Path:
        if not is_name(name):
            raise BadRequest(f"invalid name {name[:80]!r}: give the host's system-id")
        place = self.directory / name
        if (place / REVOKED).exists():
            raise Forbidden(f"host {name} was expelled from the cluster")
        return place


def _requested_key(request: str) -> str:
    """Return the public key of a request, whose signature is not verified. Raises BadRequest."""
    try:
        return _checked(
            run(("openssl", "req", "-config", "/dev/null", "-noout", "-pubkey"), _OPENSSL, text=request)
        )
    except StepFailed:
        raise _INVALID from None


def _key_of(certificate: Path) -> str:
    return _checked(run(("openssl", "x509", "-in", str(certificate), "-noout", "-pubkey"), _OPENSSL))


def _checked(key: str) -> str:
    if not _PUBLIC_KEY.fullmatch(key):
        raise BadRequest("the certificate request has an unusual key: use one of `openssl req -newkey`")
    return key


@contextmanager
def _file(name: str, text: str) -> Iterator[str]:
    """Write a text to a file that exists during the block; return its path."""
    try:
        with tempfile.TemporaryDirectory(prefix="ovn-docker-") as directory:
            file = Path(directory, name)
            file.write_text(text, encoding="utf-8")
            yield str(file)
    except OSError as error:
        raise OvnDockerError(f"cannot write a file for openssl: {error.strerror}") from None
