"""The two drivers as daemons: makes their objects from the settings and connects them, by hand."""

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

# First: it sets the directories of the ovs package, which reads them when it is imported.
from ovn_docker.daemon.driver_options import OVERLAY_HELP, UNDERLAY_HELP, read_settings  # isort: split

import ovs.daemon

import ovn_docker
from ovn_docker.backends.neutron import login, openrc
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.northbound import NorthboundConnection
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.repair.remake import MissingRows
from ovn_docker.backends.ovn.shared.container_names import Names
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.core.creations import Creations
from ovn_docker.core.driver import Driver, LateFlows, TimeLimits
from ovn_docker.core.event_source import EventSource
from ovn_docker.core.follower import Follower
from ovn_docker.core.ipam import Ipam
from ovn_docker.core.name_cache import Directory
from ovn_docker.core.protocols import (
    AddressStores,
    HostSwitch,
    LateFlowReporter,
    LeftoverStores,
    NetworkBackends,
    RowRemaker,
)
from ovn_docker.core.reconcile import Reconciler, RepairMode
from ovn_docker.core.registrar import Registrar
from ovn_docker.daemon import control
from ovn_docker.daemon.statistics import Statistics
from ovn_docker.deadline import Deadline
from ovn_docker.docker import calls, server, sockets
from ovn_docker.docker.engine import DockerEngine, plugin_scope
from ovn_docker.docker.wire import Plugin
from ovn_docker.docker.wording import explain
from ovn_docker.enrolment.renewal import Renewal, renew_host
from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.events import ContainerEvent, DockerStarted, DockerStopped, NetworkChanged
from ovn_docker.host.barrier import Barrier, Exposed, survey
from ovn_docker.host.environment import environment
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.nameservers import Forwarder
from ovn_docker.host.openvswitch import START, LocalVswitch, VmBridge
from ovn_docker.host.ovn_controller import Controller
from ovn_docker.host.ovsdb import Database
from ovn_docker.host.own_process import (
    forbid_core_files,
    narrow_umask,
    set_search_path,
    share_one_arena,
)
from ovn_docker.metrics import Reader, Recorder, Tally, Unrecorded
from ovn_docker.model import NetworkId, Occupied
from ovn_docker.options import ENDPOINT, OPTIONS, UNDERLAY, UNDERLAY_ENDPOINT, Option
from ovn_docker.settings import Common, Settings, UnderlaySettings
from ovn_docker.setup.tls_files import OWN_FILES
from ovn_docker.threads import RESTART, Threads

log = logging.getLogger(__name__)

_LEAVING = 10.0
"""Seconds that the process has to end after its last call; it needs some milliseconds."""


@dataclass(frozen=True, slots=True)
class _ModeParts:
    """Objects and functions in which the two modes of the driver differ.

    *store*: finds leftovers for the sweep; *remaker*: makes missing rows again; *check_controller* raises
    Unavailable if no process would install a port's flows; *ready* raises OvnDockerError with the cure if
    containers cannot start yet; *start* starts the mode's own threads; *undo*: see TimeLimits; *name_of*
    returns the name of a network, or of an endpoint's container, by its ID; *external_ids*: see
    barrier.survey(). Others: see Driver.
    """

    backend: NetworkBackends
    addresses: AddressStores
    store: LeftoverStores
    vswitch: HostSwitch
    options: tuple[Option, ...]
    endpoint_options: tuple[Option, ...]
    ready: Callable[[], None]
    start: Callable[[], None]
    threads: Threads
    undo: float
    record: Recorder
    external_ids: Callable[[], Mapping[str, str]]
    occupied: Callable[[], Iterable[Occupied]]
    creations: Creations = field(default_factory=Creations)
    late_flows: LateFlowReporter | None = None
    remaker: RowRemaker | None = None
    check_controller: Callable[[], None] = lambda: None
    name_of: Callable[[str], str] = lambda _: ""
    removed_elsewhere: Callable[[NetworkId], bool] = lambda _: False
    made_elsewhere: Callable[[str], bool] = lambda _: False


def overlay() -> None:
    """Run ``ovn-docker-overlay-driver``."""
    _run(_overlay)


def underlay() -> None:
    """Run ``ovn-docker-underlay-driver``."""
    _run(_underlay)


def _run(serve: Callable[[], None]) -> None:
    set_search_path()
    narrow_umask()
    forbid_core_files()
    share_one_arena()
    try:
        serve()
    except OvnDockerError as error:
        log.error("%s", error)  # noqa: TRY400 - a message for the user needs no traceback
        sys.exit(error.exit_code)


def _overlay() -> None:
    settings = read_settings(Settings, *OVERLAY_HELP)
    ovs.daemon.daemonize_start()  # forks: no thread before this line
    record, serve_metrics = _metrics(settings)
    threads = Threads()
    database = Database("Open_vSwitch", [settings.db], START, threads=threads)
    vswitch, directory = LocalVswitch(database), Directory()
    northbound = NorthboundConnection(settings.tls, threads)
    engine = DockerEngine(settings.docker, directory.learn)
    shared, mirror = SharedNetworks(northbound), settings.sync == "on"
    creations, occupied = Creations(), KernelLinks().occupied
    follower = Follower(shared, vswitch.chassis, engine, record, occupied, creations, mirror=mirror)

    def start() -> None:
        serve_metrics(Statistics(threads, database, vswitch.chassis, northbound, directory.name), threads)
        forwarder, registrar = Forwarder(), Registrar(Names(northbound), vswitch.chassis, engine)
        events = EventSource(engine.events)
        events.subscribe(DockerStarted, lambda _: forwarder.wake())
        events.subscribe(DockerStopped, lambda _: forwarder.wake())
        events.subscribe(ContainerEvent, registrar.container_changed)
        for change in (DockerStarted, NetworkChanged, ContainerEvent):
            events.subscribe(change, lambda _: follower.wake())
        follower.start(threads)
        forwarder.start(threads)
        registrar.start(threads)
        events.start(threads)
        Renewal(lambda: renew_host(OWN_FILES, remotes)).start(threads)

    def remotes() -> list[str]:
        return vswitch.external_ids(Deadline(1)).get("ovn-remote", "").split(",")

    scope = plugin_scope(settings.scope)
    mode = _ModeParts(
        backend=Overlay(northbound, lambda: scope() == "global", follower.makes, mirrors=mirror),
        addresses=Addresses(northbound),
        store=lambda chassis: Leftovers(northbound(chassis), chassis),
        remaker=MissingRows(northbound, lambda: scope() == "global"),
        vswitch=vswitch,
        options=OPTIONS,
        endpoint_options=ENDPOINT,
        check_controller=Controller(settings.ovn_rundir).check,
        ready=lambda: vswitch.check(vswitch.chassis(Deadline(1))),
        start=start,
        threads=threads,
        undo=2.0,
        record=record,
        name_of=directory.name,
        external_ids=lambda: vswitch.external_ids(Deadline(1)),
        removed_elsewhere=follower.removes,
        made_elsewhere=follower.makes,
        occupied=occupied,
        creations=creations,
    )
    _serve(settings, mode)


def _underlay() -> None:
    settings = read_settings(UnderlaySettings, *UNDERLAY_HELP)
    variables = environment(os.environ)
    backend = login.underlay(settings.parent, variables, ask=True)
    ovs.daemon.daemonize_start()  # forks: no thread before this line
    record, serve_metrics = _metrics(settings)
    threads = Threads()
    database = Database("Open_vSwitch", [settings.db], START, threads=threads)
    vswitch = VmBridge(database, settings.bridge, openrc.vif(variables))

    def ready() -> None:
        backend.check(KernelLinks().macs(), Deadline(settings.request_timeout))
        vswitch.check(vswitch.chassis(Deadline(1)))

    mode = _ModeParts(
        backend=lambda _: backend,  # its identity is the VM's port
        late_flows=backend,
        addresses=lambda _: backend.leases,
        store=lambda _: backend,
        vswitch=vswitch,
        options=UNDERLAY,
        endpoint_options=UNDERLAY_ENDPOINT,
        ready=ready,
        start=lambda: serve_metrics(Statistics(threads, database, vswitch.chassis), threads),
        threads=threads,
        undo=10.0,
        record=record,
        external_ids=lambda: {"ovn-encap-type": ""},  # the cloud's tunnels do not end in a VM
        occupied=tuple,  # a VM may be on the Neutron network that its containers are on
    )
    _serve(settings, mode)


def _serve(settings: Common, mode: _ModeParts) -> None:
    try:
        mode.ready()
    except BadRequest:
        raise  # waiting does not help
    except OvnDockerError as error:
        log.warning("not ready yet: %s", error)  # served anyway: Open vSwitch may be set up later
    listener = sockets.inherited_socket() or sockets.listen(settings.socket)
    vswitch, backend, addresses, links = mode.vswitch, mode.backend, mode.addresses, KernelLinks()
    limits = TimeLimits(
        request=settings.request_timeout,
        flows=settings.flows_timeout,
        late_flows=LateFlows(settings.late_flows),
        undo=mode.undo,
    )
    supplies, timeout = settings.address_pools, settings.request_timeout
    driver = Driver(
        *(backend, vswitch, links, mode.check_controller, limits, mode.record),
        *(mode.removed_elsewhere, mode.made_elsewhere, mode.occupied, mode.creations),
        late_flows=mode.late_flows,
    )
    ipam = Ipam(addresses, vswitch.chassis, links.routes, supplies, driver.active_endpoints, timeout)

    def docker_started() -> None:
        """Start a sweep: the dockerd before may have been killed in the middle of a call."""
        ipam.docker_started()
        driver.leftovers.set()

    plugin = Plugin(
        *(driver, ipam, plugin_scope(settings.scope)),
        *(mode.options, mode.endpoint_options, docker_started),
    )
    tally = Tally(mode.record)
    threads = mode.threads
    web = server.PluginServer(calls.Calls(plugin, tally, mode.name_of).answer, listener, threads)

    def stop() -> None:
        """End in bounded time; if something hangs, with a traceback of each thread on standard error."""
        with suppress(OSError, RuntimeError, ValueError):  # there may be no standard error
            faulthandler.dump_traceback_later(server.DRAIN_SECONDS + _LEAVING, exit=True)
        web.stop()

    threads.stop = stop
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
    reconciler = Reconciler(
        *(driver, backend, mode.store, vswitch, links, DockerEngine(settings.docker)),
        *(settings.sweep_interval, RepairMode(settings.repair), mode.record),
        remaker=mode.remaker,
        explain=explain,
    )
    # A flush of all rules deletes the guard of the containers' links too, which the sweep restores.
    barrier = _barrier(settings, mode.external_ids, driver.leftovers.set)
    barrier.start(threads)
    control.serve(stop, tally, reconciler, threads, barrier)
    mode.start()
    reconciler.start(threads)
    log.info("ovn-docker %s serves Docker on %s", ovn_docker.__version__, listener.getsockname())
    ovs.daemon.daemonize_complete()
    sockets.notify("READY=1")
    try:
        web.serve()
    finally:
        if threads.hopeless:
            sys.exit(RESTART)
    log.info("stopped")


def _metrics(settings: Common) -> tuple[Recorder, Callable[[Reader, Threads], None]]:
    """Return the recorder of metrics and a function that serves it; both do nothing without ``--metrics``."""
    if settings.metrics is None:
        return Unrecorded(), lambda _, __: None
    from ovn_docker.daemon.exposition import Exposition
    from ovn_docker.web.bounded_server import listen

    listener = listen(settings.metrics, "Prometheus", "--metrics=ADDRESS:PORT")
    record = Exposition()
    return record, partial(record.serve, listener)


def _barrier(
    settings: Common, external_ids: Callable[[], Mapping[str, str]], restored: Callable[[], None]
) -> Barrier:
    """Return the barrier between containers and the cluster's services."""

    def exposed() -> Exposed:
        _, metrics = settings.metrics or ("", None)
        return survey(external_ids(), metrics, settings.barrier_open)

    return Barrier(exposed if settings.barrier == "on" else None, restored)
