"""Metrics for Prometheus over HTTP. Imported only when they are switched on: the library takes 5 MiB."""

import os
import socket
import threading
from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from waitress import create_server

from ovn_docker.errors import OvnDockerError
from ovn_docker.metrics import METRICS, Kind, Metric, Reader


class Exposition:
    """A Recorder whose numbers, and those of a Reader, Prometheus may come for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._recorded: dict[Metric, Any] = {}
        for metric in METRICS:
            if not metric.read:
                self._recorded[metric] = self._make(metric)

    def add(self, metric: Metric, *labels: str) -> None:
        """One more of a counter."""
        self._child(metric, labels).inc()

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """One more of a histogram."""
        self._child(metric, labels).observe(seconds)

    def serve(self, listener: socket.socket, reader: Reader) -> None:
        """Answer on *listener* from now on, with a few threads; *reader* is asked at each scrape."""
        self._registry.register(_Read(reader))
        web = create_server(
            self._application(),
            map={},
            sockets=[listener],
            threads=2,
            connection_limit=32,
            channel_timeout=30,  # seconds of silence; anybody may connect
            max_request_body_size=1,
            max_request_header_size=8192,
            clear_untrusted_proxy_headers=False,
            ident="ovn-docker",
        )
        threading.Thread(target=web.run, name="metrics", daemon=True).start()

    def _make(self, metric: Metric) -> Counter | Histogram:
        if metric.kind is Kind.HISTOGRAM:
            return Histogram(
                metric.name, metric.help, metric.labels, registry=self._registry, buckets=metric.buckets
            )
        return Counter(metric.name, metric.help, metric.labels, registry=self._registry)

    def _child(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        whole = self._recorded[metric]
        return whole.labels(*labels) if labels else whole

    def _application(self) -> Any:
        exposition = make_wsgi_app(self._registry)

        def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/metrics" and environ["REQUEST_METHOD"] == "GET":
                return cast("Iterable[bytes]", exposition(environ, start_response))
            status = HTTPStatus.NOT_FOUND
            start_response(f"{status:d} {status.phrase}", [("Content-Type", "text/plain")])
            return [b"see /metrics\n"]

        return answer


def listen(address: tuple[str, int]) -> socket.socket:
    """A listening TCP socket. Raises OvnDockerError that names the address."""
    host, port = address
    family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    try:
        return socket.create_server((host, port), family=family, backlog=32)
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
