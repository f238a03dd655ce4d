"""``ssl:`` connections of the ovs package, each with TLS files of its own.

The ovs package itself keeps the files in attributes of a class: one set for the whole process.
"""

import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import ovs.poller
import ovs.socket_util
import ovs.stream

from ovn_docker.errors import BadRequest
from ovn_docker.model import Tls

_NAME_CURE = (
    " Make certificates that have addresses with: ovn-docker pki; or trust all that the CA has signed: "
    "ovs-vsctl set Open_vSwitch . external_ids:ovn-docker-tls-names=off"
)


_current: ContextVar[Tls | None] = ContextVar("tls", default=None)
"""Files for the streams that this thread opens now; see streams_with()."""


@contextmanager
def streams_with(tls: Tls | None) -> Iterator[None]:
    """Use *tls* for the ``ssl:`` streams that this thread opens in the block, with TLS 1.2 or later."""
    before = _current.set(tls)
    try:
        yield
    finally:
        _current.reset(before)


def check_files(tls: Tls | None) -> None:
    """Raise BadRequest if *tls* is None, its files cannot be used, or others may read the key."""
    if tls is None:
        raise BadRequest(
            "an ssl: database needs a private key, a certificate and a CA; name their files with: "
            "ovs-vsctl set-ssl PRIVATE-KEY CERTIFICATE CA-CERT"
        )
    check_private(tls.private_key)
    try:
        _context(tls)
    except (OSError, ValueError) as error:
        files = f"private key {tls.private_key}, certificate {tls.certificate}, CA {tls.ca_cert}"
        raise BadRequest(
            f"TLS cannot be used with {files}: {error}; correct these files or name others"
        ) from None


def check_private(key: str) -> None:
    """Raise BadRequest if a private key is writable by a group, or accessible to all users.

    The rule is that of PostgreSQL: Debian's group ssl-cert reads keys of mode 0640. A missing file is not an
    error here.
    """
    try:
        mode = stat.S_IMODE(Path(key).stat().st_mode)
    except OSError:
        return
    if mode & 0o037:
        raise BadRequest(
            f"private key {key} is accessible to others (mode {mode:04o}): type chmod 600 {key}, "
            "and make a new key if somebody may have read it"
        )


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.names
    context.load_verify_locations(tls.ca_cert)
    context.load_cert_chain(tls.certificate, tls.private_key)
    return context


class _TlsStream(ovs.stream.SSLStream):  # type: ignore[misc]
    """The ovs package's ``ssl:`` stream, which also checks that the certificate is that of the address.

    Every host's certificate is signed by the same authority: if the address in it (subjectAltName, RFC 6125)
    were not checked, each host could pass for the database.
    """

    @staticmethod
    def _open(suffix: str, dscp: int) -> tuple[int, socket.socket | None]:
        """Connect, with the files read anew: they may have been renewed."""
        host, _, port = suffix.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            if (files := _current.get()) is None:
                return errno.ENOKEY, None
            context = _context(files)
            host.encode("idna")  # otherwise wrap_socket() raises and leaves the socket open
            address = host, int(port)
            plain = socket.socket(family, socket.SOCK_STREAM)
        except ssl.SSLError:
            return errno.EKEYREJECTED, None  # its numbers are not those of errno(3)
        except (OSError, ValueError) as error:
            return getattr(error, "errno", None) or errno.EINVAL, None
        stream = context.wrap_socket(plain, do_handshake_on_connect=False, server_hostname=host)
        failure = ovs.socket_util.inet_connect_active(stream, address, family, dscp)
        if failure:
            return int(failure), None
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return 0, stream

    @staticmethod
    def check_connection_completion(sock: socket.socket) -> int:
        """Return the errno of a connection that failed; ovs.stream would return a number of OpenSSL."""
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or int(
            ovs.stream.SSLStream.check_connection_completion(sock)
        )

    def close(self) -> None:
        """Close the TLS session first, or the server logs an error."""
        with suppress(OSError, ValueError):
            self.socket.unwrap()
        super().close()


ovs.stream.Stream.register_method("ssl", _TlsStream)


def why_untrusted(remote: str) -> str:
    """Return why TLS refuses a server (ovs.stream reports EPERM alone); call it within streams_with()."""
    error, stream = ovs.stream.Stream.open(remote)
    if stream is None:
        return os.strerror(error)
    with stream.socket as connection:
        poller = ovs.poller.Poller()
        poller.fd_wait(connection, ovs.poller.POLLOUT)
        poller.timer_wait(500)
        poller.block()
        connection.settimeout(0.5)
        try:
            connection.do_handshake()
            connection.recv(1)  # in TLS 1.3 the server refuses a client's certificate after the handshake
        except TimeoutError:
            pass
        except OSError as refused:
            return f"{refused.strerror}{_NAME_CURE if 'mismatch' in str(refused) else ''}"
    return "the connection keeps breaking"
