"""Ask the live pages of other hosts for what only those hosts know: their traffic, tunnels and faults.

A peer may be hostile, or be another program: its answer is decoded into types with bounds, its body arrives
in a bounded time, and it is shown as that host's statement about itself. A peer that sends the head of its
answer byte by byte keeps only the thread that asks it.
"""

import http.client
import time
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.web.bounded_server import at

PEERS = 64
"""Largest number of peers; each has a thread, which sleeps most of the time."""

PATH = "/host.json"

_SECONDS = 5.0
"""Seconds in which a peer has to answer."""

_LARGEST = 2 << 20
"""Largest number of bytes of an answer."""

_Text = Annotated[str, msgspec.Meta(max_length=5000)]
"""A text of 400 characters, which escapes may have lengthened (live_state.py)."""

_Rate = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]


class PeerTunnel(msgspec.Struct, frozen=True):
    """A tunnel of a peer; *to*: system-id of the other host."""

    to: _Text
    address: _Text
    type: _Text
    state: _Text
    traffic: tuple[_Rate, _Rate] | None = None


class PeerFinding(msgspec.Struct, frozen=True):
    """A finding of the doctor on a peer."""

    check: _Text
    severity: Literal["fail", "warn"]
    evidence: _Text
    cure: _Text
    where: _Text = ""
    commands: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=16)] = ()


class PeerState(msgspec.Struct, frozen=True):
    """The answer of a peer, whose system-id is *host*; *traffic*: of its endpoints, by ID."""

    host: _Text
    tunnels: Annotated[tuple[PeerTunnel, ...], msgspec.Meta(max_length=1000)] = ()
    traffic: Annotated[dict[_Text, tuple[_Rate, _Rate]], msgspec.Meta(max_length=10_000)] = {}
    findings: Annotated[tuple[PeerFinding, ...], msgspec.Meta(max_length=200)] = ()


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """The answer of a peer at an address and port, as in a URL, and its time (time.monotonic()).

    *problem*: the reason why there is no state.
    """

    where: str
    taken: float
    state: PeerState | None = None
    problem: str = ""


def ask_peer(address: tuple[str, int], token: str) -> PeerAnswer:
    """Return the state of a peer, or the reason why there is none. Never raises OvnDockerError."""
    where = at(*address)
    try:
        return PeerAnswer(where, time.monotonic(), decode(_fetch(address, token)))
    except OvnDockerError as error:
        return PeerAnswer(where, time.monotonic(), problem=str(error))


def decode(body: bytes) -> PeerState:
    """Return the state in an answer. Raises Unavailable."""
    try:
        return msgspec.json.decode(body, type=PeerState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"sent an invalid answer: {error}; is its version the same?") from None


def _fetch(address: tuple[str, int], token: str) -> bytes:
    connection = http.client.HTTPConnection(*address, timeout=_SECONDS)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    deadline, body = Deadline(_SECONDS), bytearray()
    try:
        connection.request("GET", PATH, headers=headers)
        answer = connection.getresponse()
        while answer.status == http.client.OK and len(body) <= _LARGEST and deadline.left() > 0:
            part = answer.read1(1 << 16)
            if not part:
                return bytes(body)
            body += part
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"does not answer: {error}") from None
    finally:
        connection.close()
    if answer.status == http.client.UNAUTHORIZED:
        raise Unavailable("has another token: give all hosts the same --token-file")
    if answer.status != http.client.OK:
        raise Unavailable(f"refused the request with status {answer.status}")
    raise Unavailable(f"sent no complete answer of at most {_LARGEST} bytes in {_SECONDS:g} s")
