"""The enrolment service: answers hosts that join, on the machine with the authority.

HTTP is http.server's and TLS ssl's. The service is open to the network, so each connection has a thread and a
few seconds in all, there are few of them, and an address that is refused often has to wait. Each decision is
a line in the log, without the token's secret.
"""

import logging
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TypeVar

import msgspec

from ovn_docker.enrolment.messages import (
    AUTHORITY,
    BODY_BYTES,
    ENROL,
    LEAVE,
    RENEW,
    Enrolled,
    EnrolmentRefused,
    EnrolRequest,
    RenewRequest,
)
from ovn_docker.enrolment.signing import Authority
from ovn_docker.enrolment.tokens import TokenStore
from ovn_docker.errors import BadRequest, Conflict, Forbidden, OvnDockerError
from ovn_docker.setup.tls_files import TlsFiles
from ovn_docker.text.printable import one_line

log = logging.getLogger(__name__)

_Message = TypeVar("_Message", EnrolRequest, RenewRequest)

_SECONDS = 15.0
"""Seconds that a connection may last, handshake and answer included."""

_CONNECTIONS, _OF_ADDRESS = 32, 8
"""Largest numbers of connections, of all addresses and of one."""

_REFUSALS, _PAUSE = 10, 60.0
"""Refusals after which an address gets no answer for so many seconds."""

_STATUS = {
    BadRequest: HTTPStatus.BAD_REQUEST,
    Forbidden: HTTPStatus.FORBIDDEN,
    Conflict: HTTPStatus.CONFLICT,
}
"""Status of the answer by the class of the error; 503 for others."""


class _Refusals:
    """Refused requests of each address, in the last minute."""

    def __init__(self) -> None:
        self._since = 0.0
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def too_many(self, address: str, *, more: int = 0) -> bool:
        """Count *more* refusals of an address; return whether it has too many."""
        with self._lock:
            if (now := time.monotonic()) - self._since > _PAUSE:
                self._since = now
                self._counts.clear()
            self._counts[address] += more
            return self._counts[address] >= _REFUSALS


class EnrolmentService:
    """The decisions: who gets a certificate.

    *central*: returns the addresses of the machines with the databases; *is_registered*: returns whether OVN
    knows a host of that name which could only get there with a certificate.
    """

    def __init__(
        self,
        authority: Authority,
        tokens: TokenStore,
        central: Callable[[], Sequence[str]],
        is_registered: Callable[[str], bool],
    ) -> None:
        self._authority = authority
        self._tokens = tokens
        self._central = central
        self._is_registered = is_registered
        self._signing = threading.Lock()

    def answer(self, path: str, body: bytes, source: str, peer: str) -> bytes:
        """Return the answer to a request from the address *source*.

        *peer*: the name in the certificate of the connection, empty without one. Raises OvnDockerError.
        """
        if path == AUTHORITY:
            return self._authority.certificate.encode()
        if path == ENROL:
            return self._enrol(_decoded(body, EnrolRequest), source)
        if path not in (RENEW, LEAVE):
            raise BadRequest(f"unknown path {path[:80]!r}")
        if not peer:
            raise Forbidden("this request needs the host's certificate")
        if path == LEAVE:
            with self._signing:  # a certificate that is being signed would take the name again
                self._authority.expel(peer)
                self._authority.forget(peer)
            log.info("host %s at %s has left", peer, source)
            return b"{}"
        return self._renew(_decoded(body, RenewRequest), source, peer)

    def _enrol(self, wanted: EnrolRequest, source: str) -> bytes:
        with self._signing:
            self._tokens.check(wanted.token, wanted.secret)
            # A host that lost the answer asks again: that costs no further use.
            if not self._authority.is_known(wanted.name, wanted.request):
                if self._is_registered(wanted.name):
                    raise Conflict(
                        f"OVN knows another machine of the name {wanted.name}; if that is gone, remove it: "
                        f"ovn-docker gc --host {wanted.name}"
                    )
                self._authority.check_free(wanted.name)
                self._tokens.use(wanted.token, wanted.secret)
            signed = self._authority.sign(wanted.name, wanted.request)
        log.info("host %s at %s has joined with token %s", wanted.name, source, wanted.token)
        return self._enrolled(signed, source)

    def _renew(self, wanted: RenewRequest, source: str, peer: str) -> bytes:
        with self._signing:
            if not self._authority.is_known(peer, wanted.request):
                raise Forbidden(f"the certificate of {peer} is for another key, or the host has left")
            signed = self._authority.sign(peer, wanted.request)
        log.info("host %s at %s has a new certificate", peer, source)
        return self._enrolled(signed, source)

    def _enrolled(self, signed: str, source: str) -> bytes:
        return msgspec.json.encode(Enrolled(signed, tuple(self._central()), source))


class EnrolmentServer(ThreadingMixIn, TCPServer):
    """Serves a service on a TCP port, with the certificate of the central machine.

    *files*: read for each connection, because the certificate is renewed now and then.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], service: EnrolmentService, files: TlsFiles) -> None:
        self.address_family = socket.AF_INET6 if ip_address(address[0]).version == 6 else socket.AF_INET
        self.service = service
        self.refusals = _Refusals()
        self._files = files
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__(address, _EnrolmentConversation)

    def verify_request(self, _request: Any, client_address: Any) -> bool:
        """Return False, so that the connection is closed, if there are too many."""
        source = client_address[0]
        with self._lock:
            if self._open.total() >= _CONNECTIONS or self._open[source] >= _OF_ADDRESS:
                return False
            self._open[source] += 1
            return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in its thread, within the time that it has."""
        wire = request.dup()  # wrap_socket() takes the socket away from the request
        end = threading.Timer(_SECONDS, _cut, (wire,))
        end.start()
        try:
            with suppress(OSError, ValueError):  # a client that speaks no TLS, is slow, or has gone
                request.settimeout(_SECONDS)
                with self._context().wrap_socket(request, server_side=True) as encrypted:
                    _EnrolmentConversation(encrypted, client_address, self)
        finally:
            end.cancel()
            wire.close()
            with self._lock:
                self._open[client_address[0]] -= 1
                self._open = +self._open  # without zeros

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Log a failure of ours; the service goes on."""
        log.error("a request of %s failed", client_address[0], exc_info=sys.exception())

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._files.certificate, self._files.private_key)
        context.load_verify_locations(self._files.ca_cert)
        context.verify_mode = ssl.CERT_OPTIONAL  # a host that joins has no certificate yet
        return context


class _EnrolmentConversation(BaseHTTPRequestHandler):
    """One request, and its answer."""

    server: EnrolmentServer
    server_version = "ovn-docker"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a request without a body."""
        self._answer(b"")

    def do_POST(self) -> None:
        """Answer a request with a body."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 8 and int(length) <= BODY_BYTES):
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"give a body of {BODY_BYTES} bytes at most")
            return
        self._answer(self.rfile.read(int(length)))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in http.server
        """Log nothing: each decision has a line of its own."""

    def _answer(self, body: bytes) -> None:
        source = self.client_address[0]
        if self.server.refusals.too_many(source):
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "too many refused requests: try again in a minute")
            return
        try:
            answer = self.server.service.answer(self.path, body, source, self._peer())
        except (OvnDockerError, OSError) as error:
            self.server.refusals.too_many(source, more=1)
            log.warning("refused %s of %s: %s", one_line(self.path[:80]), source, error)
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), None)
            if status:
                self._refuse(status, str(error))
            else:  # a fault of this machine: its files are nobody else's business
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "it cannot sign now; see its log")
        else:
            self._send(HTTPStatus.OK, answer)

    def _peer(self) -> str:
        """Return the common name in the client's certificate, which ssl has verified; empty without one."""
        found = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        subject: Any = (found or {}).get("subject", ())
        return next((value for part in subject for key, value in part if key == "commonName"), "")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(status, msgspec.json.encode(EnrolmentRefused(why[:1000])))

    def _send(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _decoded(body: bytes, kind: type[_Message]) -> _Message:
    """Return the message in a body. Raises BadRequest."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"invalid request: {error}") from None


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
