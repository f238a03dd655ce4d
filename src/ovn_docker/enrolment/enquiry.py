"""A host's requests to the enrolment service.

Before a secret is sent the service has shown a certificate of the authority that the token names: the host
trusts nothing that it gets on the first connection but a certificate with the token's fingerprint.
"""

import http.client
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import msgspec

from ovn_docker.enrolment.messages import (
    AUTHORITY,
    BODY_BYTES,
    ENROL,
    LEAVE,
    PORT,
    RENEW,
    Enrolled,
    EnrolmentRefused,
    EnrolRequest,
    RenewRequest,
)
from ovn_docker.enrolment.tokens import Token, fingerprint
from ovn_docker.errors import Conflict, Forbidden, OvnDockerError, Unavailable
from ovn_docker.model import IpAddress
from ovn_docker.setup.databases import SOUTHBOUND
from ovn_docker.setup.own_addresses import in_url
from ovn_docker.setup.tls_files import TlsFiles

_SECONDS = 15.0
"""Time limit of each step of an exchange, in seconds."""


@dataclass(frozen=True)
class Enquiry:
    """Requests to the service on the machine with the address *central*.

    Methods raise Unavailable if it does not answer, Forbidden if the machine has another authority, and
    OvnDockerError with the service's words if it refuses.
    """

    central: IpAddress
    port: int = PORT

    def authority(self, token: Token) -> str:
        """Return the certificate of the authority that the token names, in PEM."""
        anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anybody.check_hostname = False
        anybody.verify_mode = ssl.CERT_NONE  # the fingerprint is compared instead
        answered = self._ask("GET", AUTHORITY, b"", anybody)
        try:
            text = answered.decode("ascii")
            found = fingerprint(text)
        except ValueError:
            raise Forbidden(f"{self._place} sent no certificate of an authority") from None
        if found != token.fingerprint:
            raise Forbidden(
                f"{self._place} has another authority than the token: its SHA-256 fingerprint is "
                f"{found}; is the address right, and the token of this cluster?"
            )
        return text

    def enrol(self, token: Token, authority: str, name: str, request: str) -> Enrolled:
        """Return the certificate for the host *name* and the key in *request*."""
        wanted = EnrolRequest(token.id, token.secret, name, request)
        return self._enrolled(ENROL, msgspec.json.encode(wanted), _context(authority))

    def renew(self, files: TlsFiles, authority: str, request: str) -> Enrolled:
        """Return another certificate for the host whose present one is in *files*."""
        wanted = msgspec.json.encode(RenewRequest(request))
        return self._enrolled(RENEW, wanted, _context(authority, files))

    def leave(self, files: TlsFiles, authority: str) -> None:
        """Have the host whose certificate is in *files* get no further one; its name is free."""
        self._ask("POST", LEAVE, b"{}", _context(authority, files))

    def _enrolled(self, path: str, body: bytes, context: ssl.SSLContext) -> Enrolled:
        try:
            return msgspec.json.decode(self._ask("POST", path, body, context), type=Enrolled)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"{self._place} sent an invalid reply: {error}") from None

    @property
    def _place(self) -> str:
        return f"the enrolment service at {in_url(self.central)}:{self.port}"

    def _ask(self, verb: str, path: str, body: bytes, context: ssl.SSLContext) -> bytes:
        """Return the body of the answer to a request."""
        connection = http.client.HTTPSConnection(
            str(self.central), self.port, timeout=_SECONDS, context=context
        )
        try:
            connection.request(verb, path, body)
            answer = connection.getresponse()
            read = answer.read(BODY_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            raise Forbidden(
                f"{self._place} does not prove that it is the machine with this address: "
                f"{error.verify_message}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"{self._place} does not answer ({error}); is the address right, and does "
                "`ovn-docker central status` show the service there?"
            ) from None
        finally:
            connection.close()
        if len(read) > BODY_BYTES:
            raise Unavailable(f"{self._place} sent more than {BODY_BYTES} bytes")
        if answer.status != http.client.OK:
            raise _refusal(answer.status, read)
        return read


def central_addresses(remotes: Iterable[str]) -> Iterator[IpAddress]:
    """Yield the addresses of the central machines in ``ovn-remote``, such as ``ssl:10.0.0.1:6642``."""
    for remote in remotes:
        address = remote.strip().removeprefix("ssl:").removesuffix(f":{SOUTHBOUND.port}").strip("[]")
        try:
            yield ip_address(address)
        except ValueError:
            continue  # a Unix socket, or a name


def _context(authority: str, files: TlsFiles | None = None) -> ssl.SSLContext:
    """Return the settings of a connection to a machine with a certificate of this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it verifies the address, too
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority)
    if files:
        context.load_cert_chain(files.certificate, files.private_key)
    return context


def _refusal(status: int, body: bytes) -> OvnDockerError:
    try:
        why = msgspec.json.decode(body, type=EnrolmentRefused).error
    except msgspec.MsgspecError:
        why = f"HTTP status {status}"
    kind = Conflict if status == http.client.CONFLICT else Forbidden
    return kind(f"the central machine refused: {why}")
