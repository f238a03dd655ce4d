"""The drivers as daemons: settings to objects, wired by hand, behind the options that OVS' daemons have.

Detaching, pidfile, log file, levels that change at run time (``ovs-appctl vlog/set``): all from the ovs
package, so that it behaves as ovs-vswitchd(8) says.
"""

import faulthandler
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

from ovn_docker.host.environment import environment
from ovn_docker.host.places import OVS

# The ovs package from PyPI looks below /usr/local; distributions and their ovs-appctl do not.
os.environ.setdefault("OVS_RUNDIR", environment({}).get("OVS_RUNDIR") or str(OVS))
os.environ.setdefault("OVS_LOGDIR", "/var/log/openvswitch")

import ovs.daemon
import ovs.dirs
import ovs.vlog

import ovn_docker
from ovn_docker import settings as table
from ovn_docker.backends import openrc
from ovn_docker.backends.addresses import Addresses
from ovn_docker.backends.dns import Names
from ovn_docker.backends.leftovers import Leftovers
from ovn_docker.backends.northbound import Northbound
from ovn_docker.backends.overlay import Overlay
from ovn_docker.backends.remake import Remaker
from ovn_docker.backends.shared import SharedNetworks
from ovn_docker.cli import control, login, logs
from ovn_docker.cli.main import Parser, narrow_umask
from ovn_docker.cluster import Follower
from ovn_docker.creations import Creations
from ovn_docker.deadline import Deadline
from ovn_docker.directory import Directory
from ovn_docker.driver import Backend, Driver, LateFlows, Patience
from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.host.barrier import Barrier, Exposed, survey
from ovn_docker.host.controller import Controller
from ovn_docker.host.engine import Engine, has_cluster_store
from ovn_docker.host.links import Links
from ovn_docker.host.nameservers import Forwarder
from ovn_docker.host.ovsdb import Database
from ovn_docker.host.statistics import Statistics
from ovn_docker.host.vswitch import START, VmBridge, Vswitch
from ovn_docker.ipam import AddressStore, Ipam
from ovn_docker.metrics import Reader, Recorder, Tally, Unrecorded
from ovn_docker.model import NetworkId, Occupied
from ovn_docker.names import Registrar
from ovn_docker.options import ENDPOINT, OPTIONS, UNDERLAY, UNDERLAY_ENDPOINT, Option
from ovn_docker.plugin import server, sockets
from ovn_docker.plugin.wire import Plugin
from ovn_docker.programs import set_search_path
from ovn_docker.reconcile import Mode, Reconciler, Store
from ovn_docker.settings import Common, Kind, Settings, UnderlaySettings
from ovn_docker.threads import RESTART, Threads

log = logging.getLogger(__name__)

_LEAVING = 10.0
"""Seconds that the process has to end after the calls in flight; it needs some milliseconds."""

OVERLAY_HELP = (
    "Docker network plugin 'openvswitch': containers of many hosts on switches of OVN.",
    "Where the databases are is read from the local Open_vSwitch database, see ovn-docker host setup --help.",
)
UNDERLAY_HELP = (
    "Docker network plugin 'openvswitch' in a VM of OpenStack: containers on Neutron's networks.",
    "The login is read from the environment (. ./openrc.sh), the ID of the VM's own port from OS_VIF_ID.",
)


@dataclass(frozen=True, slots=True)
class _Mode:
    """What the two modes of the driver differ in.

    *store*: where reconcile.py looks for what a crash has left; *remaker*: what makes rows again that are
    missing; *check_controller* raises Unavailable if
    nobody would install a port's flows; *ready* raises OvnDockerError with what has to be done before
    containers can start; *start*: what runs beside; *undo*: see Patience; *name_of*: of a network or an
    endpoint's container, empty if it is not known; *external_ids*: see barrier.survey(); *removed_elsewhere*,
    *made_elsewhere*, *occupied*, *creations*: see Driver.
    """

    backend: Backend
    addresses: AddressStore
    store: Store
    remaker: Remaker | None
    vswitch: Vswitch
    options: tuple[Option, ...]
    endpoint_options: tuple[Option, ...]
    check_controller: Callable[[], None]
    ready: Callable[[], None]
    start: Callable[[], None]
    threads: Threads
    undo: float
    record: Recorder
    name_of: Callable[[str], str]
    external_ids: Callable[[], Mapping[str, str]]
    removed_elsewhere: Callable[[NetworkId], bool]
    made_elsewhere: Callable[[str], bool]
    occupied: Callable[[], Iterable[Occupied]]
    creations: Creations


def overlay() -> None:
    """Run ``ovn-docker-overlay-driver``."""
    _run(_overlay)


def underlay() -> None:
    """Run ``ovn-docker-underlay-driver``."""
    _run(_underlay)


def _run(serve: Callable[[], None]) -> None:
    set_search_path()
    narrow_umask()
    # A core file would have the password or the certificate's key. The units have LimitCORE=0, and refuse
    # the call: ValueError, setrlimit(2), EPERM.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        serve()
    except OvnDockerError as error:
        log.error("%s", error)  # noqa: TRY400 - meant for the user, who has no use for a traceback
        sys.exit(error.exit_code)


def _overlay() -> None:
    settings = _settings(Settings, *OVERLAY_HELP)
    ovs.daemon.daemonize_start()  # forks: no thread before this line
    record, serve_metrics = _metrics(settings)
    threads = Threads()
    database = Database("Open_vSwitch", [settings.db], START, threads=threads)
    vswitch, directory = Vswitch(database), Directory()
    northbound = Northbound(settings.tls, threads)
    engine = Engine(settings.docker, directory.learn)
    shared, mirror = SharedNetworks(northbound), settings.sync == "on"
    creations, occupied = Creations(), Links().occupied
    follower = Follower(shared, vswitch.chassis, engine, record, occupied, creations, mirror=mirror)

    def start() -> None:
        serve_metrics(Statistics(threads, database, vswitch.chassis, northbound, directory.name), threads)
        follower.start(threads)
        forwarder = Forwarder()
        forwarder.start(threads)
        Registrar(Names(northbound), vswitch.chassis, engine, forwarder.look, follower.wake).start(threads)

    scope = _scope(settings.scope)
    mode = _Mode(
        backend=Overlay(northbound, lambda: scope() == "global", follower.makes, mirrors=mirror),
        addresses=Addresses(northbound),
        store=Leftovers(northbound),
        remaker=Remaker(northbound, lambda: scope() == "global"),
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
    settings = _settings(UnderlaySettings, *UNDERLAY_HELP)
    variables = environment(os.environ)
    backend = login.underlay(settings.parent, variables, ask=True)
    ovs.daemon.daemonize_start()  # forks: no thread before this line
    record, serve_metrics = _metrics(settings)
    threads = Threads()
    database = Database("Open_vSwitch", [settings.db], START, threads=threads)
    vswitch = VmBridge(database, settings.bridge, openrc.vif(variables))

    def ready() -> None:
        backend.check(Links().macs(), Deadline(settings.request_timeout))
        vswitch.check(vswitch.chassis(Deadline(1)))

    mode = _Mode(
        backend=backend,
        addresses=backend.leases,
        store=backend,
        remaker=None,
        vswitch=vswitch,
        options=UNDERLAY,
        endpoint_options=UNDERLAY_ENDPOINT,
        check_controller=lambda: None,
        ready=ready,
        start=lambda: serve_metrics(Statistics(threads, database, vswitch.chassis), threads),
        threads=threads,
        undo=10.0,
        record=record,
        name_of=lambda _: "",
        external_ids=lambda: {"ovn-encap-type": ""},  # the cloud's tunnels do not end in a VM
        removed_elsewhere=lambda _: False,
        made_elsewhere=lambda _: False,
        creations=Creations(),
        occupied=tuple,  # a VM may be on the Neutron network that its containers are on
    )
    _serve(settings, mode)


def _serve(settings: Common, mode: _Mode) -> None:
    try:
        mode.ready()
    except BadRequest:
        raise  # nothing that time mends
    except OvnDockerError as error:
        log.warning("not ready yet: %s", error)  # but there: Docker may start before Open vSwitch is set up
    listener = sockets.inherited_socket() or sockets.listen(settings.socket)
    vswitch, backend, addresses, links = mode.vswitch, mode.backend, mode.addresses, Links()
    patience = Patience(
        request=settings.request_timeout,
        flows=settings.flows_timeout,
        late_flows=LateFlows(settings.late_flows),
        undo=mode.undo,
    )
    supplies, timeout = settings.address_pools, settings.request_timeout
    driver = Driver(
        *(backend, vswitch, links, mode.check_controller, patience, mode.record),
        *(mode.removed_elsewhere, mode.made_elsewhere, mode.occupied, mode.creations),
    )
    ipam = Ipam(addresses, vswitch.chassis, links.routes, supplies, driver.at_work, timeout)

    def docker_started() -> None:
        """A dockerd that starts may have died before, in the middle of anything."""
        ipam.docker_started()
        driver.leftovers.set()

    plugin = Plugin(
        *(driver, ipam, _scope(settings.scope)),
        *(mode.options, mode.endpoint_options, docker_started),
    )
    tally = Tally(mode.record)
    threads = mode.threads
    web = server.Server(server.application(plugin, tally, mode.name_of), listener, threads)

    def stop() -> None:
        """End in bounded time, whatever hangs: then with the traces of all threads on standard error."""
        with suppress(OSError, RuntimeError, ValueError):  # there may be no standard error
            faulthandler.dump_traceback_later(server.DRAIN_SECONDS + _LEAVING, exit=True)
        web.stop()

    threads.stop = stop
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
    reconciler = Reconciler(
        *(driver, backend, mode.store, vswitch, links, Engine(settings.docker)),
        *(settings.sweep_interval, Mode(settings.repair), mode.record),
        remaker=mode.remaker,
    )
    # Whoever flushes all rules takes the guard of the containers' links along, which reconciliation restores.
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


def _settings(kind: type[Kind], description: str, where: str) -> Kind:
    """Parse the command line and start logging. Exits with a usage message, or raises BadRequest."""
    arguments = make_parser(kind, description, where).parse_args()
    ovs.vlog.handle_args(arguments)
    logs.start(server.request_id.get)
    settings = table.read(kind, vars(arguments), environment(os.environ))
    if settings.log_format == "json":
        logs.use_json()
    ovs.daemon.handle_args(arguments)
    return settings


def make_parser(kind: type[Common], description: str, where: str) -> Parser:
    """The command line: the settings of a mode, and what all daemons of OVS have."""
    parser = Parser(
        description=description,
        epilog="Each of the driver's options can be given in the environment too: --late-flows as "
        f"OVN_DOCKER_LATE_FLOWS. {where}",
    )
    parser.add_argument("-V", "--version", action="version", version=f"ovn-docker {ovn_docker.__version__}")
    group = parser.add_argument_group("Driver Options")
    for setting in fields(kind):
        about = setting.metadata
        names = [*filter(None, [about["short"]]), table.option(setting)]
        default = f" (default {shown})" if (shown := table.shown(setting)) else ""
        group.add_argument(*names, dest=setting.name, metavar=about["metavar"], help=about["help"] + default)
    ovs.daemon.add_args(parser)
    logging_options = parser.add_argument_group("Logging Options")
    logging_options.add_argument(
        "--log-file",
        nargs="?",
        const="default",
        metavar="FILE",
        help=f"log to FILE (default in {ovs.dirs.LOGDIR})",
    )
    logging_options.add_argument(
        *("-v", "--verbose"),
        nargs="*",
        action="extend",
        metavar="SPEC",
        help="log levels, see ovs-vswitchd(8)",
    )
    return parser


def _metrics(settings: Common) -> tuple[Recorder, Callable[[Reader, Threads], None]]:
    """What takes the numbers, and what lets Prometheus read them: nothing at all unless that is wanted."""
    if settings.metrics is None:
        return Unrecorded(), lambda _, __: None
    from ovn_docker.plugin import exposition

    listener = exposition.listen(settings.metrics)
    record = exposition.Exposition()
    return record, partial(record.serve, listener)


def _barrier(
    settings: Common, external_ids: Callable[[], Mapping[str, str]], restored: Callable[[], None]
) -> Barrier:
    """Between containers and the cluster's services."""

    def exposed() -> Exposed:
        _, metrics = settings.metrics or ("", None)
        return survey(external_ids(), metrics, settings.barrier_open)

    return Barrier(exposed if settings.barrier == "on" else None, restored)


def _scope(setting: str) -> Callable[[], Literal["local", "global"]]:
    """What to answer Docker when it asks, once in its life, for our scope."""
    if setting == "auto":
        return lambda: "global" if has_cluster_store() else "local"
    return lambda: "global" if setting == "global" else "local"
