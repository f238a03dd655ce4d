"""Decide which requests are answered: by Host header, token, origin and method. Pure but for token_of()."""

import hmac
import re
import stat
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.errors import BadRequest
from ovn_docker.web.bounded_server import at

_SHORTEST = 16
"""Least number of characters of a token: 96 bits in base64 cannot be guessed over a network."""

_LARGEST = 4096
"""Largest number of bytes of a token's file."""


@dataclass(frozen=True, slots=True)
class Denial:
    """The answer to a request that is refused. *headers* come on top of those of every answer."""

    status: HTTPStatus
    text: str
    headers: tuple[tuple[str, str], ...] = ()


class Access:
    """The rules of a page that listens on *address*, with *token* or, on loopback only, without.

    *names*: host names by which browsers may call this machine, besides its addresses and ``localhost``.
    """

    def __init__(self, address: str, token: str = "", names: tuple[str, ...] = ()) -> None:
        self._loopback = ip_address(address).is_loopback
        self._token = sha256(token.encode()).digest() if token else b""
        self._names = {"localhost", *(name.lower() for name in names if not self._loopback)}

    def denial(self, environ: Mapping[str, object]) -> Denial | None:
        """Return the denial of a request with these WSGI variables; ``None`` if it may be answered.

        The Host header is compared first: a site whose name has been changed to an address of this machine
        (DNS rebinding) has the browser send that name, never an address.
        """
        if not self._is_own(str(environ.get("HTTP_HOST", ""))):
            return Denial(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this page is not at that host name: use an address of this machine, or localhost",
            )
        if self._token and not self._knows_token(str(environ.get("HTTP_AUTHORIZATION", ""))):
            challenge = 'Basic realm="ovn-docker", charset="UTF-8"'
            return Denial(
                HTTPStatus.UNAUTHORIZED,
                "give the token as password, with any user name",
                (("WWW-Authenticate", challenge),),
            )
        if environ.get("REQUEST_METHOD") != "GET":
            return Denial(HTTPStatus.METHOD_NOT_ALLOWED, "this page is read only", (("Allow", "GET"),))
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin") and not (
            environ.get("PATH_INFO") == "/" and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        ):
            return Denial(HTTPStatus.FORBIDDEN, "another site may only link to the page")
        return None

    def _is_own(self, header: str) -> bool:
        """Return whether a Host header (RFC 9110, 7.2) names this machine."""
        written = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?", header)
        if not written:
            return False
        host = written[1] or written[2]
        try:
            address = ip_address(host)
        except ValueError:
            return host.lower().removesuffix(".") in self._names
        return address.is_loopback or not self._loopback

    def _knows_token(self, header: str) -> bool:
        """Return whether an Authorization header (RFC 7617, RFC 6750) has the token, in constant time."""
        scheme, _, given = header.partition(" ")
        token = ""
        if scheme.lower() == "bearer":
            token = given.strip()
        elif scheme.lower() == "basic":
            try:
                token = b64decode(given.strip(), validate=True).decode().partition(":")[2]
            except (Error, ValueError):
                token = ""
        return hmac.compare_digest(sha256(token.encode(errors="replace")).digest(), self._token)


def token_of(file: Path) -> str:
    """Return the token in the first line of a file. Raises BadRequest if it cannot be used."""
    make = f"(umask 077; openssl rand -base64 24 >{file})"
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        with file.open("rb") as opened:
            text = opened.read(_LARGEST).decode("ascii", "replace")
    except OSError as error:
        raise BadRequest(
            f"cannot read --token-file {file}: {error.strerror}; make one with: {make}"
        ) from None
    if mode & 0o037:
        raise BadRequest(
            f"token file {file} is accessible to others (mode {mode:04o}): type chmod 600 {file}, "
            "and make a new token if somebody may have read it"
        )
    token = text.partition("\n")[0].strip()
    if not re.fullmatch(rf"[!-~]{{{_SHORTEST},}}", token):
        raise BadRequest(
            f"the first line of {file} is not a token of {_SHORTEST} or more ASCII characters "
            f"without spaces; make one with: {make}"
        )
    return token


def require_token(address: tuple[str, int], token: str) -> None:
    """Raise BadRequest for an *address* that other machines can reach, unless there is a token."""
    if not token and not ip_address(address[0]).is_loopback:
        raise BadRequest(
            f"--serve {at(*address)} can be reached from other machines: add --token-file FILE, "
            f"or serve 127.0.0.1:{address[1]}"
        )
