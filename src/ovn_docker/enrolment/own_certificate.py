"""A machine's own certificate: the request for it, the check of the answer, and the place that it goes to."""

import os
from pathlib import Path

from ovn_docker.errors import OvnDockerError
from ovn_docker.host.durable_files import replace_file
from ovn_docker.host.run import run, succeeds
from ovn_docker.setup.certificates import read_certificate
from ovn_docker.setup.tls_files import TlsFiles


def make_request(key: Path, name: str) -> str:
    """Return a request (PKCS #10 in PEM) for a certificate in this name, for a key that stays here."""
    return run(("openssl", "req", "-new", "-config", "/dev/null", "-key", str(key), "-subj", f"/CN={name}"))


def verify(files: TlsFiles, name: str) -> None:
    """Raise OvnDockerError unless the certificate is the authority's, in this name, for this key."""
    of_certificate = run(("openssl", "x509", "-in", files.certificate, "-noout", "-pubkey"))
    of_key = run(("openssl", "pkey", "-in", files.private_key, "-pubout"))
    signed = succeeds("openssl", "verify", "-CAfile", files.ca_cert, files.certificate)
    if not signed or of_certificate != of_key or read_certificate(Path(files.certificate)).name != name:
        raise OvnDockerError("the central machine sent a certificate that is not for this host; see its log")


def replace_certificate(files: TlsFiles, certificate: str, name: str) -> None:
    """Verify another certificate for the same key and put it in the place of the present one.

    One rename makes the change, so that key and certificate always are a pair.

    Raises:
        OvnDockerError: the certificate is not the authority's, in this name, for this key.
        OSError: a file cannot be read or written.

    """
    wanted = Path(files.certificate)
    verified = wanted.with_name(f".{wanted.name}.renewed")
    replace_file(verified, certificate, 0o644)
    verify(files._replace(certificate=str(verified)), name)
    verified.replace(wanted)
    announce_certificate(files)


def announce_certificate(files: TlsFiles) -> None:
    """Have Open vSwitch and OVN read a certificate that is newer than its key.

    Their programs compare the times of both files, of the key first, and do not look at the certificate
    unless the key's has changed (stream_ssl_set_key_and_cert() in lib/stream-ssl.c). Raises OSError.
    """
    key = Path(files.private_key)
    if key.stat().st_mtime_ns < Path(files.certificate).stat().st_mtime_ns:
        os.utime(key)
