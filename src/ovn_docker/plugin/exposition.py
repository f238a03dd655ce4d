"""Metrics for Prometheus over HTTP. Imported only when they are switched on: the library takes 5 MiB.

Anybody may connect, as many as like, and send nothing, slowly, or read no answer. So a connection has a few
seconds for each request, their number is small, and who has most of them makes room for others.
"""

import os
import socket
import time
from collections import Counter as Count
from collections import deque
from collections.abc import Iterable
from functools import partial
from gzip import compress
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from waitress import create_server, wasyncore
from waitress.channel import HTTPChannel

from ovn_docker.errors import OvnDockerError
from ovn_docker.metrics import METRICS, Kind, Metric, Reader
from ovn_docker.plugin.connections import Door
from ovn_docker.threads import Threads

CONNECTIONS = 32
"""Connections held open; one more, and one of those of the address that has most is closed."""

_REQUEST = 10.0
"""Seconds for a request to come in, and for its answer to be taken: Prometheus waits no longer by default."""

_IDLE = 120.0
"""Seconds that a connection may wait for its next request."""

_COST, _FRESH = 10.0, 1.0
"""An answer serves for others who ask within ten times the time that it took to make, up to a second."""


class Exposition:
    """A Recorder whose numbers, and those of a Reader, Prometheus may come for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._recorded: dict[Metric, Any] = {}
        for metric in METRICS:
            if not metric.read:
                self._recorded[metric] = self._make(metric)
        self._answers: dict[str, tuple[float, bytes]] = {}
        """By content type: until when it serves, and the text."""

    def add(self, metric: Metric, *labels: str) -> None:
        """One more of a counter."""
        self._child(metric, labels).inc()

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """One more of a histogram."""
        self._child(metric, labels).observe(seconds)

    def serve(self, listener: socket.socket, reader: Reader, threads: Threads) -> None:
        """Answer on *listener* from now on, in a thread of its own; *reader* is asked at each scrape."""
        self._registry.register(_Read(reader))
        threads.start("metrics", "answers Prometheus", _Web(self._answer, listener).serve)

    def _make(self, metric: Metric) -> Counter | Histogram:
        if metric.kind is Kind.HISTOGRAM:
            return Histogram(
                metric.name, metric.help, metric.labels, registry=self._registry, buckets=metric.buckets
            )
        return Counter(metric.name, metric.help, metric.labels, registry=self._registry)

    def _child(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        whole = self._recorded[metric]
        return whole.labels(*labels) if labels else whole

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/metrics" or environ["REQUEST_METHOD"] != "GET":
            status = HTTPStatus.NOT_FOUND
            start_response(f"{status:d} {status.phrase}", [("Content-Type", "text/plain")])
            return [b"see /metrics\n"]
        encoder, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        body = self._fresh(content_type, partial(encoder, self._registry))
        headers = [("Content-Type", content_type)]
        if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
            body = self._fresh(f"{content_type} gzip", partial(compress, body, 1))
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", headers)
        return [body]

    def _fresh(self, what: str, make: Any) -> bytes:
        began = time.monotonic()
        self._answers = {key: one for key, one in self._answers.items() if one[0] > began}
        if what not in self._answers:
            text = make()
            took = time.monotonic() - began
            self._answers[what] = time.monotonic() + min(_COST * took, _FRESH), text
        return self._answers[what][1]


class _Connection(HTTPChannel):  # type: ignore[misc]
    """A connection. *since*: when it was made, began with a request, or got its answer; time.monotonic()."""

    answered = False

    def __init__(self, *parts: Any, **more: Any) -> None:
        self.since = time.monotonic()
        super().__init__(*parts, **more)

    def received(self, data: bytes) -> bool:
        """Take a part of a request."""
        if self.request is None:
            self.since = time.monotonic()
        return bool(super().received(data))

    def service(self) -> None:
        """Answer a request. Whoever sends another one before the answer is let go: Prometheus does not."""
        self.close_when_flushed = len(self.requests) > 1
        del self.requests[1:]
        super().service()
        self.since, self.answered = time.monotonic(), True

    @property
    def overdue(self) -> bool:
        """Whether it has taken longer than it may."""
        idle = self.answered and self.request is None and not self.total_outbufs_len
        return time.monotonic() - self.since > (_IDLE if idle else _REQUEST)


class _Web:
    """Serves *answer*, a WSGI application, on *listener* in one thread."""

    def __init__(self, answer: Any, listener: socket.socket) -> None:
        self._listener = listener
        self._map: dict[int, Any] = {}
        self._asked: deque[_Connection] = deque()
        self._http = create_server(
            answer,
            map=self._map,
            sockets=[listener],
            threads=0,
            backlog=socket.SOMAXCONN,
            connection_limit=2 * CONNECTIONS,  # never reached
            channel_timeout=1 << 30,  # by the clock on the wall, which may be set: see _Connection.overdue
            max_request_body_size=1,
            max_request_header_size=8192,
            clear_untrusted_proxy_headers=False,
            ident="ovn-docker",
        )
        self._http.task_dispatcher = self
        self._http.channel_class = _Connection
        self._http.accept = Door(listener).accept

    def add_task(self, connection: _Connection) -> None:
        """Take note of a request that has come in whole: this is what waitress calls a task dispatcher."""
        self._asked.append(connection)

    def serve(self) -> None:
        """Answer for the life of the process."""
        while True:
            wasyncore.loop(timeout=1, use_poll=True, map=self._map, count=1)
            while self._asked:
                self._asked.popleft().service()
            self._make_room()
            if self._listener.fileno() < 0:
                raise OSError("the listening socket was closed by an earlier failure")

    def _make_room(self) -> None:
        """Close the connections that are overdue, and the oldest of an address if there are too many."""
        for connection in [one for one in self._http.active_channels.values() if one.overdue]:
            connection.handle_close()
        connections = list(self._http.active_channels.values())
        if len(connections) > CONNECTIONS:
            by_address = Count(connection.addr[0] for connection in connections)
            most = max(by_address.values())
            some = (one for one in connections if by_address[one.addr[0]] == most)
            min(some, key=lambda connection: connection.since).handle_close()


def listen(address: tuple[str, int]) -> socket.socket:
    """A listening TCP socket. Raises OvnDockerError that names the address."""
    host, port = address
    family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    try:
        return socket.create_server((host, port), family=family, backlog=socket.SOMAXCONN)
    except OSError as error:
        shown = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        reason = os.strerror(error.errno) if error.errno else error
        raise OvnDockerError(
            f"cannot listen for Prometheus on {shown}: {reason}; name another --metrics=ADDRESS:PORT"
        ) from None


class _Read(Collector):
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Families of all samples that can be had now."""
        families: dict[Metric, CounterMetricFamily | GaugeMetricFamily] = {}
        for sample in self._reader.samples():
            metric = sample.metric
            if metric not in families:
                family = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
                families[metric] = family(metric.name, metric.help, labels=metric.labels)
            families[metric].add_metric(sample.labels, sample.value)
        return families.values()
