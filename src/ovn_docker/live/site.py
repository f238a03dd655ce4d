"""The pages of ``ovn-docker graph --serve``, as a WSGI application that never waits."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from gzip import compress
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from ovn_docker.errors import BadRequest
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.live import peers
from ovn_docker.live.access import Access
from ovn_docker.live.live_state import Diagnosis, described, diagnosed
from ovn_docker.live.shared_reader import SharedReader
from ovn_docker.live.traces import Traces
from ovn_docker.trace import packet_path

_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
)
"""Headers of every answer: nothing is stored, guessed, embedded or readable by other sites."""

_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content security policy of all answers but the page."""

_ID = re.compile(r"[ -~]{1,400}")
"""A network's or endpoint's ID in a request."""


class Content:
    """A body of an answer, and its compressed form, which is made once."""

    def __init__(self, text: str, kind: str) -> None:
        self.plain = text.encode(errors="replace")
        self.kind = kind

    @cached_property
    def packed(self) -> bytes:
        """The body compressed by gzip."""
        return compress(self.plain, 5)


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading: the cluster, its documents (live_state.py), and its picture, which *drawn* identifies."""

    number: int
    cluster: ClusterView
    document: Mapping[str, Any]
    own: Mapping[str, Any]
    drawn: str
    picture: Content


class Site:
    """Answers requests that *access* lets through. For one thread."""

    def __init__(
        self,
        access: Access,
        page: str,
        policy: str,
        reader: SharedReader[Reading],
        doctor: SharedReader[Diagnosis],
        traces: Traces,
    ) -> None:
        self._access = access
        self._page = Content(page, "text/html")
        self._policy = policy
        self._reader = reader
        self._doctor = doctor
        self._traces = traces
        self._state: tuple[str, Content] = ("", Content("", ""))
        self._routes: dict[str, Callable[[Mapping[str, str]], Content | HTTPStatus]] = {
            "/": lambda _: self._page,
            "/state.json": self._answer_state,
            "/picture.svg": self._answer_picture,
            "/inspect.json": self._answer_inspect,
            "/trace.json": self._answer_trace,
            peers.PATH: self._answer_own,
        }

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        if refused := self._access.denial(environ):
            return _send(environ, start_response, refused.status, _plain(refused.text), refused.headers)
        route = self._routes.get(environ["PATH_INFO"])
        if route is None:
            found: Content | HTTPStatus = HTTPStatus.NOT_FOUND
        else:
            found = route(_query(environ.get("QUERY_STRING", "")))
        if isinstance(found, HTTPStatus):
            return _send(environ, start_response, found, _plain(found.phrase))
        policy = self._policy if found is self._page else _NOTHING
        return _send(environ, start_response, HTTPStatus.OK, found, policy=policy)

    def _answer_state(self, query: Mapping[str, str]) -> Content | HTTPStatus:
        """Return the state if it is not the one that the browser has (*after*)."""
        reading, diagnosis = self._reader.latest(), self._doctor.latest()
        version = f"{reading.number if reading else 0}-{diagnosis.taken if diagnosis else 0:.3f}"
        if query.get("after") == version:
            return HTTPStatus.NO_CONTENT
        if self._state[0] != version:
            state = {
                "version": version,
                "picture": reading.drawn if reading else "",
                "doctor": diagnosed(diagnosis),
                "cluster": reading.document if reading else None,
            }
            self._state = version, _json(state)
        return self._state[1]

    def _answer_picture(self, _: Mapping[str, str]) -> Content | HTTPStatus:
        reading = self._reader.latest()
        return reading.picture if reading else HTTPStatus.SERVICE_UNAVAILABLE

    def _answer_inspect(self, query: Mapping[str, str]) -> Content | HTTPStatus:
        reading = self._reader.latest()
        if reading is None:
            return HTTPStatus.SERVICE_UNAVAILABLE
        lines = described(reading.cluster, query.get("id", ""))
        return HTTPStatus.NOT_FOUND if lines is None else _json(lines)

    def _answer_own(self, _: Mapping[str, str]) -> Content | HTTPStatus:
        """Return what only this host knows, for the pages of other hosts."""
        reading, found = self._reader.latest(), diagnosed(self._doctor.latest())
        if reading is None:
            return HTTPStatus.SERVICE_UNAVAILABLE
        return _json({**reading.own, "findings": found["findings"] if found else []})

    def _answer_trace(self, query: Mapping[str, str]) -> Content | HTTPStatus:
        """Return the text of a trace, or ``null`` while it runs."""
        reading = self._reader.latest()
        if reading is None:
            return HTTPStatus.SERVICE_UNAVAILABLE
        ends, packet = (query.get("from", ""), query.get("to", "")), query.get("packet", "icmp")
        known = {one.id for one in reading.cluster.endpoints}
        if not all(_ID.fullmatch(end) and end in known for end in ends):
            return HTTPStatus.NOT_FOUND
        try:
            packet_path.packet(packet)
        except BadRequest as error:
            return _json(str(error))
        job = self._traces.ask((*ends, packet))
        return HTTPStatus.SERVICE_UNAVAILABLE if job is None else _json(job.text)


def _query(text: str) -> dict[str, str]:
    """Return the first value of each parameter; an empty dictionary if there are too many."""
    try:
        return {key: values[0] for key, values in parse_qs(text, max_num_fields=8).items()}
    except ValueError:
        return {}


def _plain(text: str) -> Content:
    return Content(f"{text}\n", "text/plain")


def _json(value: object) -> Content:
    return Content(json.dumps(value, separators=(",", ":")), "application/json")


def _send(
    environ: Mapping[str, Any],
    start_response: Any,
    status: HTTPStatus,
    content: Content,
    more: tuple[tuple[str, str], ...] = (),
    policy: str = _NOTHING,
) -> Iterable[bytes]:
    headers = [*_HEADERS, *more, ("Content-Security-Policy", policy)]
    if status == HTTPStatus.NO_CONTENT:
        start_response(f"{status:d} {status.phrase}", headers)
        return []
    body = content.plain
    if len(body) > 1000 and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        body = content.packed
        headers += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
    headers += [("Content-Type", f"{content.kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response(f"{status:d} {status.phrase}", headers)
    return [body]
