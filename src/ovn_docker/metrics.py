"""Metrics of the driver: one table for Prometheus, for the documentation and for tests. Pure.

Names and units: prometheus.io/docs/practices/naming. Code that counts something is given a Recorder.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Protocol


class MetricKind(StrEnum):
    """Types of metrics (prometheus.io/docs/concepts/metric_types)."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. *buckets*: upper bounds in seconds; *read*: read at each scrape, not recorded."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    read: bool = False


_FAST = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)

REQUESTS = Metric(
    "ovn_docker_request_seconds",
    MetricKind.HISTOGRAM,
    "Calls of Docker, by method and outcome: ok, malformed (not a call of the protocol), crash (a defect), "
    "or the kind of error.",
    ("method", "outcome"),
    _FAST,
)
FLOWS = Metric(
    "ovn_docker_flows_seconds",
    MetricKind.HISTOGRAM,
    "Time that starting containers waited for their flows; outcome: installed or late.",
    ("outcome",),
    _FAST,
)
REPAIRS = Metric(
    "ovn_docker_repairs_total",
    MetricKind.COUNTER,
    "Repairs: takeover (a new endpoint got the address of a dead one), undo (a call failed half-way), "
    "network (created or removed in Docker, as in the cluster).",
    ("what",),
)
FOUND = Metric(
    "ovn_docker_leftovers_found_total",
    MetricKind.COUNTER,
    "Leftovers and missing rows that were found, such as endpoints without a container; each counts once.",
    ("what",),
)
LEFTOVERS = Metric(
    "ovn_docker_leftovers_cleared_total",
    MetricKind.COUNTER,
    "Leftovers that were removed.",
    ("what",),
)
REMADE = Metric(
    "ovn_docker_remade_total",
    MetricKind.COUNTER,
    "Rows that a network or container needs, that were missing in the backend and were made again.",
    ("what",),
)
UNCLEARED = Metric(
    "ovn_docker_sweep_failures_total",
    MetricKind.COUNTER,
    "Sweeps that failed; the next one follows soon.",
)
THREADS_DOWN = Metric(
    "ovn_docker_threads_down",
    MetricKind.GAUGE,
    "Threads of the driver that have failed and wait to be started again.",
    read=True,
)
THREAD_FAILURES = Metric(
    "ovn_docker_thread_failures_total",
    MetricKind.COUNTER,
    "Failures of the driver's threads, by thread. Each is a defect; the driver's log has its traceback.",
    ("thread",),
    read=True,
)
REFUSED = Metric(
    "ovn_docker_refused_rows_total",
    MetricKind.COUNTER,
    "Shared networks that this host refuses to create, by the invalid part: name, definition or subnet.",
    ("part",),
)
INFO = Metric("ovn_docker_info", MetricKind.GAUGE, "1, with the driver's version.", ("version",), read=True)
REACHABLE = Metric(
    "ovn_docker_database_up",
    MetricKind.GAUGE,
    "1 if a database answers the driver.",
    ("database",),
    read=True,
)
RECONNECTS = Metric(
    "ovn_docker_connections_lost_total",
    MetricKind.COUNTER,
    "Connections to a database that broke.",
    ("database",),
    read=True,
)
ENDPOINTS = Metric("ovn_docker_endpoints", MetricKind.GAUGE, "Endpoints with a port on this host.", read=True)
NOT_INSTALLED = Metric(
    "ovn_docker_endpoints_without_flows",
    MetricKind.GAUGE,
    "Endpoints with a port on this host for which ovn-controller has installed no flows.",
    read=True,
)
PROGRESS = Metric(
    "ovn_docker_nb_cfg",
    MetricKind.GAUGE,
    "Progress of the configuration (ovn-nb(5), nb_cfg): at northbound the number requested, at southbound "
    "the number that ovn-northd has processed, at host the number that ovn-controller here has. It rises "
    "when ovn-nbctl --wait is used.",
    ("at",),
    read=True,
)
_CONTAINER = ("endpoint", "network", "container")
SENT_BYTES, RECEIVED_BYTES, SENT_PACKETS, RECEIVED_PACKETS, SENT_DROPS, RECEIVED_DROPS, ERRORS = (
    Metric(f"ovn_docker_container_{name}_total", MetricKind.COUNTER, what, _CONTAINER, read=True)
    for name, what in (
        ("transmit_bytes", "Bytes that a container sent."),
        ("receive_bytes", "Bytes that a container received."),
        ("transmit_packets", "Packets that a container sent."),
        ("receive_packets", "Packets that a container received."),
        ("transmit_dropped", "Packets from a container that Open vSwitch dropped."),
        ("receive_dropped", "Packets for a container that Open vSwitch dropped."),
        ("errors", "Invalid packets from or for a container."),
    )
)

METRICS = (
    *(INFO, REQUESTS, FLOWS, ENDPOINTS, NOT_INSTALLED, REPAIRS, FOUND, LEFTOVERS, REMADE),
    *(UNCLEARED, REFUSED, REACHABLE, RECONNECTS, PROGRESS, THREADS_DOWN, THREAD_FAILURES),
    *(SENT_BYTES, RECEIVED_BYTES, SENT_PACKETS, RECEIVED_PACKETS, SENT_DROPS, RECEIVED_DROPS, ERRORS),
)
"""All metrics."""

STATISTICS = {
    SENT_BYTES: ("rx_bytes",),
    RECEIVED_BYTES: ("tx_bytes",),
    SENT_PACKETS: ("rx_packets",),
    RECEIVED_PACKETS: ("tx_packets",),
    SENT_DROPS: ("rx_dropped",),
    RECEIVED_DROPS: ("tx_dropped",),
    ERRORS: ("rx_errors", "tx_errors"),
}
"""Keys of Interface:statistics (ovs-vswitchd.conf.db(5)). The port receives the packets that a container
sends."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a metric that was read."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


class Recorder(Protocol):
    """Records counters and histograms. Never raises."""

    def add(self, metric: Metric, *labels: str) -> None:
        """Add one to a counter."""

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add a duration to a histogram."""


class Reader(Protocol):
    """Reads the metrics that are not recorded."""

    def samples(self) -> Iterable[Sample]:
        """Return all values that can be read now. Never raises."""


class Tally:
    """A recorder that counts Docker's calls and passes everything on to *record*.

    *requests*: calls since the start except Plugin.Activate; *errors*: those that failed.
    """

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._lock = Lock()
        self.requests = 0
        self.errors = 0

    def add(self, metric: Metric, *labels: str) -> None:
        """Add one to a counter."""
        self._record.add(metric, *labels)

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add a duration to a histogram."""
        if metric is REQUESTS and labels[0] != "Plugin.Activate":
            with self._lock:
                self.requests += 1
                self.errors += labels[1] != "ok"
        self._record.observe(metric, seconds, *labels)


class Unrecorded:
    """The recorder of a driver without ``--metrics``."""

    def add(self, metric: Metric, *labels: str) -> None:
        """Do nothing."""

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Do nothing."""
