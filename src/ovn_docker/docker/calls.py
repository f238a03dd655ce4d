"""Calls of Docker: each is answered with an HTTP status and a JSON object, logged and counted."""

import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from http import HTTPStatus
from secrets import token_hex
from typing import Any

from ovn_docker.deadline import began
from ovn_docker.docker import wire
from ovn_docker.docker.wording import explain
from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.metrics import REQUESTS, Recorder, Unrecorded
from ovn_docker.text.printable import one_line

log = logging.getLogger("ovn_docker.plugin")

BODY_BYTES = 1 << 20
"""Size of the largest request that is accepted; Docker's have some hundred bytes."""

_AFTER_OUTAGE = 30.0
"""Seconds after a release that timed out in which further releases get the shortest deadline."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Random ID of the call that this thread answers, for the log; empty outside of calls."""


class _HttpError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Calls:
    """Answers Docker's calls with *plugin*.

    *name_of* returns the name of a network, or of an endpoint's container, by its ID; empty if unknown.
    """

    def __init__(
        self,
        plugin: wire.Plugin,
        record: Recorder | None = None,
        name_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._plugin = plugin
        self._record = record or Unrecorded()
        self._name_of = name_of
        self._outage = _Outage()

    def answer(self, verb: str, path: str, body: bytes) -> tuple[HTTPStatus, bytes]:
        """Return the status and the JSON that answer a request. Never raises."""
        start = time.monotonic()
        request_id.set(token_hex(4))
        request, status, failed, crash, outcome = None, HTTPStatus.OK, "", None, "ok"
        try:
            request = _decode(verb, path, body)
            if path in wire.RELEASES:
                self._outage.shorten()
            answer = wire.answer(self._plugin, path, request)
        except _HttpError as error:
            status, failed, outcome = error.status, str(error), "malformed"
            if (
                status == HTTPStatus.BAD_REQUEST
            ):  # the call is lost, a DeleteEndpoint perhaps: Docker does not
                self._plugin.suspect()  # repeat it
        except OvnDockerError as error:  # status 200: Docker reads IpamDriver's errors only there
            failed, outcome = explain(error) or repr(error), error.label
        except BaseException as error:  # noqa: BLE001 - logged below; a library may raise SystemExit
            status, crash, outcome = HTTPStatus.INTERNAL_SERVER_ERROR, error, "crash"
            failed = f"internal error ({type(error).__name__}): see the log of the ovn-docker driver"
        self._outage.learn(path, outcome)
        if failed:
            failed = one_line(failed[:900])
            answer = wire.failure(failed)
        seconds = time.monotonic() - start
        self._record.observe(REQUESTS, seconds, path[1:] if path in wire.METHODS else "-", outcome)
        self._log(path, request, outcome, status, failed, seconds, crash)
        request_id.set("")
        return status, answer

    def _log(
        self, path: str, request: wire.Request | None, outcome: str, status: HTTPStatus, failed: str,
        seconds: float, crash: BaseException | None,
    ) -> None:  # fmt: skip
        """Log one line; its parts are in the record's ``call``. They come from Docker and are not trusted."""
        network, endpoint = (getattr(request, member, "") for member in ("NetworkID", "EndpointID"))
        call = {
            "method": path[1:80].encode("unicode_escape").decode(),
            "network": network[:12],
            "network_name": self._name_of(network),
            "endpoint": endpoint[:12],
            "container": self._name_of(endpoint),
            "outcome": outcome,
            "error": failed,
            "milliseconds": round(seconds * 1000, 1),
        }
        log.log(
            logging.ERROR if crash else logging.WARNING if failed else logging.INFO,
            "%s request=%s network=%s endpoint=%s %s %.1f ms",
            call["method"],
            request_id.get(),
            _shown(call["network"], call["network_name"]),
            _shown(call["endpoint"], call["container"]),
            f"{status:d}: {failed}" if failed else "ok",
            seconds * 1000,
            exc_info=crash,
            extra={"call": call},
        )


class _Outage:
    """Shortens releases while the databases do not answer: ``docker network rm`` makes three of them.

    The sweep deletes the leftovers later.
    """

    def __init__(self) -> None:
        self._last = float("-inf")

    def shorten(self) -> None:
        """Give this thread's call the shortest deadline if a release timed out within _AFTER_OUTAGE."""
        if time.monotonic() - self._last < _AFTER_OUTAGE:
            began.set(float("-inf"))

    def learn(self, path: str, outcome: str) -> None:
        """Record the outcome of a call."""
        if path in wire.RELEASES:
            timed_out = outcome in {"unavailable", "timed_out"}
            self._last = time.monotonic() if timed_out else float("-inf")


def _decode(verb: str, path: str, body: bytes) -> wire.Request:
    if path not in wire.METHODS:
        raise _HttpError(HTTPStatus.NOT_FOUND, f"no such method: {path[:80]!r}")
    if verb != "POST":
        raise _HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "the plugin protocol uses POST only")
    if len(body) > BODY_BYTES:
        raise _HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"request of more than {BODY_BYTES} bytes")
    try:
        return wire.decode(path, body)
    except BadRequest as error:
        raise _HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None


def _shown(id_: Any, name: Any) -> str:
    """Return ID/NAME, such as ``ad6eb9461609/foo``, or the part of it that is known."""
    return f"{id_}/{name}" if name else id_ or "-"
