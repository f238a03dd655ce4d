"""What the driver counts and measures: one table for Prometheus, for the documentation and for tests. Pure.

Names and units: prometheus.io/docs/practices/naming. Whoever has something to count gets a Recorder.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Protocol


class Kind(StrEnum):
    """Types of metrics (prometheus.io/docs/concepts/metric_types)."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """*buckets*: upper bounds of a histogram, in seconds; *read*: looked up at each scrape, not recorded."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    read: bool = False


_FAST = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)

REQUESTS = Metric(
    "ovn_docker_request_seconds",
    Kind.HISTOGRAM,
    "Calls of Docker's, by method and outcome: ok, malformed (no call of the protocol), crash (a defect), or "
    "the kind of error.",
    ("method", "outcome"),
    _FAST,
)
FLOWS = Metric(
    "ovn_docker_flows_seconds",
    Kind.HISTOGRAM,
    "How long starting containers waited for their flows; outcome: installed or late.",
    ("outcome",),
    _FAST,
)
REPAIRS = Metric(
    "ovn_docker_repairs_total",
    Kind.COUNTER,
    "What was put right: takeover (an address of a dead endpoint), undo (a call that failed half-way), "
    "network (made or removed in Docker, as in the cluster).",
    ("what",),
)
FOUND = Metric(
    "ovn_docker_leftovers_found_total",
    Kind.COUNTER,
    "What was found that should not be, such as endpoints without a container, or is missing; each once.",
    ("what",),
)
LEFTOVERS = Metric(
    "ovn_docker_leftovers_cleared_total",
    Kind.COUNTER,
    "What should not have been, and was cleared.",
    ("what",),
)
REMADE = Metric(
    "ovn_docker_remade_total",
    Kind.COUNTER,
    "What was missing in the backend though a network or a container needs it, and was made again.",
    ("what",),
)
UNCLEARED = Metric(
    "ovn_docker_sweep_failures_total",
    Kind.COUNTER,
    "Looks for leftovers that failed; the next one comes soon.",
)
THREADS_DOWN = Metric(
    "ovn_docker_threads_down",
    Kind.GAUGE,
    "Threads of the driver that have failed and wait to be started again.",
    read=True,
)
THREAD_FAILURES = Metric(
    "ovn_docker_thread_failures_total",
    Kind.COUNTER,
    "Failures of the driver's threads, by thread. Each is a defect; the driver's log has its traceback.",
    ("thread",),
    read=True,
)
REFUSED = Metric(
    "ovn_docker_refused_rows_total",
    Kind.COUNTER,
    "Networks of the cluster that this host refuses to make, by what is wrong: name, definition or subnet.",
    ("part",),
)
INFO = Metric("ovn_docker_info", Kind.GAUGE, "1, with the driver's version.", ("version",), read=True)
REACHABLE = Metric(
    "ovn_docker_database_up", Kind.GAUGE, "Whether a database answers the driver.", ("database",), read=True
)
RECONNECTS = Metric(
    "ovn_docker_connections_lost_total",
    Kind.COUNTER,
    "Connections to a database that broke.",
    ("database",),
    read=True,
)
ENDPOINTS = Metric("ovn_docker_endpoints", Kind.GAUGE, "Endpoints with a port on this host.", read=True)
NOT_INSTALLED = Metric(
    "ovn_docker_endpoints_without_flows",
    Kind.GAUGE,
    "Endpoints with a port on this host for which ovn-controller has installed no flows.",
    read=True,
)
PROGRESS = Metric(
    "ovn_docker_nb_cfg",
    Kind.GAUGE,
    "How far the configuration has come (ovn-nb(5), nb_cfg): at northbound what is asked for, at southbound "
    "what ovn-northd has done, at host what ovn-controller here has. It counts where somebody waits for it "
    "(ovn-nbctl --wait).",
    ("at",),
    read=True,
)
_CONTAINER = ("endpoint", "network", "container")
SENT_BYTES, RECEIVED_BYTES, SENT_PACKETS, RECEIVED_PACKETS, SENT_DROPS, RECEIVED_DROPS, ERRORS = (
    Metric(f"ovn_docker_container_{name}_total", Kind.COUNTER, what, _CONTAINER, read=True)
    for name, what in (
        ("transmit_bytes", "Bytes that a container sent."),
        ("receive_bytes", "Bytes that a container received."),
        ("transmit_packets", "Packets that a container sent."),
        ("receive_packets", "Packets that a container received."),
        ("transmit_dropped", "Packets from a container that Open vSwitch had no room for."),
        ("receive_dropped", "Packets for a container that Open vSwitch could not hand over."),
        ("errors", "Packets from or for a container that were broken."),
    )
)

METRICS = (
    *(INFO, REQUESTS, FLOWS, ENDPOINTS, NOT_INSTALLED, REPAIRS, FOUND, LEFTOVERS, REMADE),
    *(UNCLEARED, REFUSED, REACHABLE, RECONNECTS, PROGRESS, THREADS_DOWN, THREAD_FAILURES),
    *(SENT_BYTES, RECEIVED_BYTES, SENT_PACKETS, RECEIVED_PACKETS, SENT_DROPS, RECEIVED_DROPS, ERRORS),
)
"""All of them."""

STATISTICS = {
    SENT_BYTES: ("rx_bytes",),
    RECEIVED_BYTES: ("tx_bytes",),
    SENT_PACKETS: ("rx_packets",),
    RECEIVED_PACKETS: ("tx_packets",),
    SENT_DROPS: ("rx_dropped",),
    RECEIVED_DROPS: ("tx_dropped",),
    ERRORS: ("rx_errors", "tx_errors"),
}
"""Keys of Interface:statistics (ovs-vswitchd.conf.db(5)): what a container sends, its port receives."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A value that was read."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


class Recorder(Protocol):
    """Takes what is counted and measured. Never raises."""

    def add(self, metric: Metric, *labels: str) -> None:
        """One more of a counter."""

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """One more of a histogram, that took so long."""


class Reader(Protocol):
    """Looks up what is not recorded."""

    def samples(self) -> Iterable[Sample]:
        """All that can be read now. Never raises."""


class Tally:
    """Counts Docker's calls, and hands all that is recorded on to *record*.

    *requests*: since the start, but for those that only ask what this is; *errors*: those that failed.
    """

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._lock = Lock()
        self.requests = 0
        self.errors = 0

    def add(self, metric: Metric, *labels: str) -> None:
        """One more of a counter."""
        self._record.add(metric, *labels)

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """One more of a histogram, that took so long."""
        if metric is REQUESTS and labels[0] != "Plugin.Activate":
            with self._lock:
                self.requests += 1
                self.errors += labels[1] != "ok"
        self._record.observe(metric, seconds, *labels)


class Unrecorded:
    """The Recorder of a driver that nobody asks."""

    def add(self, metric: Metric, *labels: str) -> None:
        """Nothing."""

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Nothing."""
