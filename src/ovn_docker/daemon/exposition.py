"""Metrics for Prometheus over HTTP. Imported only with ``--metrics``: the library takes 5 MiB."""

import socket
import time
from collections.abc import Iterable
from functools import partial
from gzip import compress
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ovn_docker.metrics import METRICS, Metric, MetricKind, Reader
from ovn_docker.threads import Threads
from ovn_docker.web.bounded_server import BoundedServer

_COST, _FRESH = 10.0, 1.0
"""An answer is reused for ten times as long as it took to make, one second at most."""


class Exposition:
    """A Recorder that serves its values, and those of a Reader, to Prometheus."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._recorded: dict[Metric, Any] = {}
        for metric in METRICS:
            if not metric.read:
                self._recorded[metric] = self._make(metric)
        self._answers: dict[str, tuple[float, bytes]] = {}
        """By content type, the time until which an answer is reused, and its text."""

    def add(self, metric: Metric, *labels: str) -> None:
        """Increment a counter."""
        self._child(metric, labels).inc()

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add a value to a histogram."""
        self._child(metric, labels).observe(seconds)

    def serve(self, listener: socket.socket, reader: Reader, threads: Threads) -> None:
        """Start the thread that answers on *listener*; *reader* is called at each scrape."""
        self._registry.register(_Read(reader))
        threads.start("metrics", "answers Prometheus", BoundedServer(self._answer, listener).serve)

    def _make(self, metric: Metric) -> Counter | Histogram:
        if metric.kind is MetricKind.HISTOGRAM:
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

    def _fresh(self, key: str, encode: Any) -> bytes:
        began = time.monotonic()
        self._answers = {kind: entry for kind, entry in self._answers.items() if entry[0] > began}
        if key not in self._answers:
            text = encode()
            took = time.monotonic() - began
            self._answers[key] = time.monotonic() + min(_COST * took, _FRESH), text
        return self._answers[key][1]


class _Read(Collector):
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return the metric families of all samples that can be read now."""
        families: dict[Metric, CounterMetricFamily | GaugeMetricFamily] = {}
        for sample in self._reader.samples():
            metric = sample.metric
            if metric not in families:
                family = CounterMetricFamily if metric.kind is MetricKind.COUNTER else GaugeMetricFamily
                families[metric] = family(metric.name, metric.help, labels=metric.labels)
            families[metric].add_metric(sample.labels, sample.value)
        return families.values()
