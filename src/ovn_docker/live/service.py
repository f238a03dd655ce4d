"""Serve the live page: the readers, their threads, and the server, until a signal ends it."""

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from ovn_docker.doctor.examination import run_checks
from ovn_docker.draw.layout import picture
from ovn_docker.draw.live_page import live_page, live_policy
from ovn_docker.draw.svg import svg
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.places import Places
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.snapshot import Scope
from ovn_docker.live.access import Access
from ovn_docker.live.live_state import Diagnosis, counters, document, own_document
from ovn_docker.live.peers import PeerAnswer
from ovn_docker.live.rates import Rates
from ovn_docker.live.shared_reader import SharedReader
from ovn_docker.live.site import Content, Reading, Site
from ovn_docker.live.traces import TraceAsked, Traces
from ovn_docker.text.output import say
from ovn_docker.threads import Threads
from ovn_docker.trace import packet_path
from ovn_docker.trace.tracer import trace
from ovn_docker.web.bounded_server import BoundedServer

INTERVAL, DIAGNOSIS_INTERVAL = 2.0, 60.0
"""Seconds between two readings, and between two diagnoses, while browsers ask."""

DRAWN = 600
"""Largest number of containers that are drawn; the tables of the page have more."""

_LARGEST = 8 << 20
"""Largest number of characters of a picture."""

_NOT_DRAWN = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'


class ClusterReader:
    """Reads the cluster; the picture is drawn again only when something on it has changed."""

    def __init__(self, places: Places, peers: Sequence[SharedReader[PeerAnswer]] = ()) -> None:
        self._places = places
        self._peers = peers
        self._rates = Rates()
        self._number = 0
        self._shape: object = None
        self._drawn = ""
        self._picture = Content(_NOT_DRAWN, "image/svg+xml")

    def read(self) -> Reading:
        """Read once, over new connections: addresses and certificates may have changed."""
        with Sources(self._places) as sources:
            cluster = ClusterView(sources.gather(Scope.CLUSTER, ask_driver=False))
        self._rates.add(time.monotonic(), counters(cluster))
        self._number += 1
        self._draw(cluster)
        answers = [answer for peer in self._peers if (answer := peer.latest())]
        shown, own = document(cluster, self._rates, answers), own_document(cluster, self._rates)
        return Reading(self._number, cluster, shown, own, self._drawn, self._picture)

    def _draw(self, cluster: ClusterView) -> None:
        tunnels = tuple((one.host, one.remote_ip, one.type, one.state) for one in cluster.tunnels)
        missing = tuple(sorted(cluster.snapshot.missing.items()))
        shape = (cluster.hosts, cluster.networks, cluster.endpoints, tunnels, missing)
        if shape == self._shape:
            return
        self._shape = shape
        text = svg(picture(cluster), framed=False) if len(cluster.endpoints) <= DRAWN else ""
        self._drawn = str(self._number) if 0 < len(text) <= _LARGEST else ""
        self._picture = Content(text if self._drawn else _NOT_DRAWN, "image/svg+xml")


def diagnose(*, root: bool) -> Diagnosis:
    """Run the checks of the doctor that change nothing and send no packet."""
    if not root:
        return Diagnosis(time.time(), problem="only root may run the doctor: serve this page as root")
    try:
        return Diagnosis(time.time(), run_checks(active=False))
    except OvnDockerError as error:
        return Diagnosis(time.time(), problem=str(error))


def traced(places: Places, asked: TraceAsked) -> str:
    """Return the output of a trace that sends no packet, or the error that ended it."""
    source, target, packet = asked
    try:
        with Sources(places) as sources:
            found = trace(sources, source, target, packet_path.packet(packet), probe=False)
        return "\n".join(found.lines)
    except OvnDockerError as error:
        return f"no trace: {error}"


def serve(
    listener: socket.socket,
    access: Access,
    places: Places,
    asked: Sequence[Callable[[], PeerAnswer]] = (),
    *,
    root: bool,
) -> None:
    """Serve the page on *listener* until SIGTERM or SIGINT.

    *asked*: functions that ask the peers; *root*: checks and traces can be made.
    """
    logging.basicConfig(handlers=[_OnTerminal()], level=logging.WARNING)
    peers = [SharedReader(ask, INTERVAL) for ask in asked]
    reader = SharedReader(ClusterReader(places, peers).read, INTERVAL)
    doctor = SharedReader(partial(diagnose, root=root), DIAGNOSIS_INTERVAL)
    traces = Traces(partial(traced, places) if root else lambda _: "only root may trace packets")
    site = Site(access, live_page(socket.gethostname()), live_policy(), reader, doctor, traces)
    server = BoundedServer(site, listener)
    for end in (signal.SIGTERM, signal.SIGINT):
        signal.signal(end, lambda *_: server.stop())
    threads = Threads()
    threads.start("reader", "reads the cluster", reader.run)
    threads.start("doctor", "runs the doctor's checks", doctor.run)
    threads.start("traces", "traces packets", traces.run)
    for number, peer in enumerate(peers):
        threads.start(f"peer-{number}", "asks the page of another host", peer.run)
    server.serve()


class _OnTerminal(logging.Handler):
    """Prints messages of the log on standard error, in one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        say(f"ovn-docker: {record.getMessage()}", file=sys.stderr, flush=True)
