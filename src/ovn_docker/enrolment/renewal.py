"""Renewal of certificates in good time: a host's by its driver, a central machine's by the service there.

A machine keeps its key, so that the connection that asks for a certificate proves that the machine is the one
that had the last. Whether a host gets one is the service's decision: see `EnrolmentService`.
"""

import logging
import random
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.enrolment.enquiry import Enquiry, central_addresses
from ovn_docker.enrolment.messages import Enrolled
from ovn_docker.enrolment.own_certificate import announce_certificate, make_request, replace_certificate
from ovn_docker.errors import Forbidden, OvnDockerError, Unavailable
from ovn_docker.setup import certificates
from ovn_docker.setup.certificates import is_name, read_certificate
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import TlsFiles
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_INTERVAL, _RETRY = 3600.0, 300.0
"""Seconds between two looks at the certificate, and after a failure; a fifth more or less, so that hosts that
joined together, or a service that was down, do not meet all at once."""


class Renewal:
    """Renews the certificate of this machine in good time. *renew* returns whether there is a new one."""

    def __init__(self, renew: Callable[[], bool]) -> None:
        self._renew = renew
        self._problem = ""

    def start(self, threads: Threads) -> None:
        """Start the thread that looks at the certificate now and then."""
        threads.start("certificate", "renews the certificate of this machine", self.run)

    def run(self) -> None:
        """Look at the certificate now and then, for ever."""
        while True:
            pause = _INTERVAL if self.look() else _RETRY
            time.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  # no secret

    def look(self) -> bool:
        """Renew the certificate if that is due; return False, and log why, if that fails."""
        problem = ""
        try:
            if self._renew():
                log.info("this machine has a new certificate")
        except OvnDockerError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}"
        if problem and problem != self._problem:
            log.warning("cannot renew the certificate of this machine, and try again: %s", problem)
        self._problem = problem
        return not problem


def renew_host(files: TlsFiles, remotes: Callable[[], Iterable[str]]) -> bool:
    """Get another certificate for a host that joined, if a third of the present one's life is over.

    *remotes*: returns the addresses of the southbound database, as in ovn-remote. Returns whether the host
    has got one.

    Raises:
        Forbidden: the host was expelled, or has left.
        Unavailable: no central machine answers.
        OvnDockerError: the answer is not a certificate for this host, or openssl cannot read a file.
        OSError: a file cannot be read or written.

    """
    certificate = Path(files.certificate)
    if not certificate.exists():
        return False  # a host that has not joined
    announce_certificate(files)  # a process may have been killed before it did
    now = read_certificate(certificate)
    if now.kind != "host" or not now.is_due:
        return False
    authority = Path(files.ca_cert).read_text(encoding="utf-8")
    request = make_request(Path(files.private_key), now.name)
    replace_certificate(files, _ask(files, authority, request, remotes()).certificate, now.name)
    return True


def renew_central(directory: Path, files: TlsFiles) -> bool:
    """Renew the certificate of the machine that has the authority in *directory*, if that is due.

    *files*: the files of the databases, which are copies of those in *directory*; others are the operator's,
    and stay. Returns whether there is another certificate. Raises OvnDockerError, OSError.
    """
    now = read_certificate(Path(files.certificate))
    place = directory / now.name
    if now.kind != "central" or not is_name(now.name) or not _is_same(place / "key.pem", files.private_key):
        return False
    addresses = [ip_address(text) for text in read_certificate(place / "cert.pem").addresses]
    certificates.issue(Steps(), directory, now.name, addresses, certificates.DAYS)
    renewed = (place / "cert.pem").read_text(encoding="utf-8")
    if renewed == Path(files.certificate).read_text(encoding="utf-8"):
        announce_certificate(files)  # a process may have been killed before it did
        return False
    replace_certificate(files, renewed, now.name)
    return True


def _ask(files: TlsFiles, authority: str, request: str, remotes: Iterable[str]) -> Enrolled:
    """Return the answer of the service, which runs on one of the central machines."""
    failures: list[OvnDockerError] = []
    for address in central_addresses(remotes):
        try:
            return Enquiry(address).renew(files, authority, request)
        except OvnDockerError as error:
            failures.append(error)
    refused = [error for error in failures if isinstance(error, Forbidden)]
    raise next(iter(refused or failures), Unavailable("ovn-remote names no central machine"))


def _is_same(path: Path, other: str) -> bool:
    return path.exists() and path.read_bytes() == Path(other).read_bytes()
