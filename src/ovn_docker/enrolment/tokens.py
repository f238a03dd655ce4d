"""Tokens with which hosts join, kept on the machine with the authority.

A token names the authority by the SHA-256 fingerprint of its certificate, so that a host trusts no other
machine, and has a secret of 128 bits, of which the store keeps a hash: whoever reads the store cannot join.
"""

import fcntl
import hashlib
import hmac
import json
import re
import secrets
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ovn_docker.errors import BadRequest, Forbidden, NotFound, Unavailable
from ovn_docker.host.durable_files import replace_file

_TOKEN = re.compile(r"ovnd1\.([0-9a-f]{8})\.([0-9a-f]{32})\.([0-9a-f]{64})")
_MOST = 1000
"""Tokens that the store holds: each join reads all of them."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the operator gives it to a host. *id* names it in the store, *fingerprint* the authority."""

    id: str
    secret: str
    fingerprint: str

    def __str__(self) -> str:
        """Return the token as one word."""
        return f"ovnd1.{self.id}.{self.secret}.{self.fingerprint}"


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token in the store; *uses*: hosts that may still join with it, ``None``: any number."""

    id: str
    hash: str
    """SHA-256 of the secret, which is random: no salt, no slow hash."""
    ends: int
    """Seconds of the epoch."""
    uses: int | None

    @property
    def is_valid(self) -> bool:
        """True if a host may join with it."""
        return time.time() < self.ends and self.uses != 0


def parse(text: str) -> Token:
    """Return the token that a user typed. Raises BadRequest."""
    found = _TOKEN.fullmatch(text.strip())
    if not found:
        raise BadRequest(
            "invalid token: it begins with ovnd1. and has 112 characters; copy the whole word that "
            "`ovn-docker token create` prints on the central machine"
        )
    return Token(*found.groups())


def fingerprint(certificate: str) -> str:
    """Return the SHA-256 fingerprint of a certificate in PEM, in hexadecimal. Raises ValueError."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()


class TokenStore:
    """The tokens in a file of the authority's directory. Methods raise Unavailable for an invalid file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "tokens.json"

    def create(self, seconds: float, uses: int | None) -> Token:
        """Make a token that is valid for some *seconds* and some *uses*.

        Raises:
            NotFound: the directory has no authority.
            BadRequest: there are too many tokens.

        """
        try:
            authority = (self._directory / "ca.pem").read_text(encoding="utf-8")
        except FileNotFoundError:
            raise self._absent() from None
        token = Token(secrets.token_hex(4), secrets.token_hex(16), fingerprint(authority))
        stored = StoredToken(token.id, _hash(token.secret), int(time.time() + seconds), uses)
        with self._changing() as tokens:
            for dead in [one for one in tokens.values() if not one.is_valid]:
                del tokens[dead.id]
            if len(tokens) >= _MOST:
                raise BadRequest(f"there are {_MOST} tokens: remove some with `ovn-docker token revoke`")
            tokens[token.id] = stored
        return token

    def all(self) -> list[StoredToken]:
        """Return the tokens of the store, also those that are not valid any more."""
        return sorted(self._read().values(), key=lambda one: one.ends)

    def revoke(self, id_: str) -> None:
        """Delete a token. Raises NotFound."""
        with self._changing() as tokens:
            if tokens.pop(id_, None) is None:
                raise NotFound(f"unknown token {id_[:80]!r}; `ovn-docker token list` shows the tokens")

    def check(self, id_: str, secret: str) -> None:
        """Raise Forbidden unless a host may join with this token; its use is not counted."""
        _check(self._read().get(id_), secret)

    def use(self, id_: str, secret: str) -> None:
        """Count a use of a token. Raises Forbidden if it has none left, or as `check` does.

        The use is on the disk when this returns: a crash afterwards costs a use, and never gives one.
        """
        with self._changing() as tokens:
            token = _check(tokens.get(id_), secret)
            if token.uses is not None:
                tokens[id_] = replace(token, uses=token.uses - 1)

    def _absent(self) -> NotFound:
        return NotFound(
            f"there is no authority in {self._directory}; run `ovn-docker central start` first, on this "
            "machine"
        )

    def _read(self) -> dict[str, StoredToken]:
        try:
            decoded = json.loads(self._file.read_text(encoding="utf-8"))
            return {one["id"]: StoredToken(**one) for one in decoded}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError) as error:
            raise Unavailable(f"{self._file} is damaged ({error}); remove it and make new tokens") from None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, StoredToken]]:
        """Lock the store, and write the changed tokens at the end of the block: whole or not at all."""
        if not self._directory.is_dir():
            raise self._absent()
        with (self._directory / ".tokens.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self._read()
            before = dict(tokens)
            yield tokens
            if tokens != before:
                replace_file(self._file, json.dumps([asdict(one) for one in tokens.values()]), 0o600)


def _check(token: StoredToken | None, secret: str) -> StoredToken:
    """Return the token. Raises Forbidden: it is unknown, has another secret, or is not valid any more."""
    known = hmac.compare_digest(token.hash if token else _hash(""), _hash(secret))
    if token is None or not known:
        raise Forbidden("the token is unknown, or was revoked")
    if time.time() >= token.ends:
        raise Forbidden("the token has expired")
    if token.uses == 0:
        raise Forbidden("the token has been used as often as it may be")
    return token


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
