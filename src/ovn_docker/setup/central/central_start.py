"""``ovn-docker central start``: read the state of the machine, plan, apply the plan in order."""

from collections.abc import Callable
from dataclasses import dataclass

from ovn_docker.errors import BadRequest
from ovn_docker.host.run import require
from ovn_docker.model import IpAddress
from ovn_docker.setup.barrier_steps import put_up_barrier, warn_without_tls
from ovn_docker.setup.central import listeners, ovn_ctl, raft, rbac
from ovn_docker.setup.central.central_services import (
    all_running,
    any_running,
    restart_server,
    start_daemons,
    stop_daemons,
)
from ovn_docker.setup.central.enrolment_daemon import start_enrolment
from ovn_docker.setup.central.listeners import Listener
from ovn_docker.setup.central.raft import DatabaseCluster
from ovn_docker.setup.central.remote_databases import is_restricted
from ovn_docker.setup.certificate_name import warn_of_certificate_name
from ovn_docker.setup.databases import DATABASES, SOUTHBOUND
from ovn_docker.setup.own_addresses import require_own
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import TlsFiles


@dataclass(frozen=True)
class CentralSettings:
    """The values of ``central start``; those that are ``None`` stay as they are."""

    address: IpAddress | None = None
    members: tuple[IpAddress, ...] = ()
    """Addresses of the machines of a cluster; empty for a machine alone, or a member that is to stay one."""
    create: bool = False
    """Make the cluster, instead of joining it."""
    tls: TlsFiles | None = None
    rbac: bool | None = None


@dataclass(frozen=True)
class CentralPlan:
    """The state that `start_central` brings about; each of `_STEPS` changes what differs from it."""

    listeners: tuple[Listener, ...]
    words: list[str]
    """The words for `ovn_ctl`."""
    effects: tuple[str, ...]
    """The changes of the listeners, in words."""
    cluster: DatabaseCluster | None
    create: bool
    new_files: bool
    """The daemons are stopped, and started with the files and options of a member."""

    @property
    def restricted(self) -> bool:
        """True if the southbound database is to have access control."""
        return self.listeners[-1].restricted


def start_central(steps: Steps, settings: CentralSettings) -> None:
    """Start the daemons that do not run, with listeners and cluster as in *settings*.

    Raises:
        BadRequest: settings that contradict each other or this machine.
        Conflict, Unavailable: this machine cannot be a member of the cluster.
        TimedOut: a daemon did not start, listen or join in time.

    """
    require("ovn-northd")
    cluster = _checked(steps, settings)
    if _listeners_are_unreadable(settings):
        start_daemons(steps)
    plan = _plan_of(steps, settings, cluster)
    for step in _STEPS:
        step(steps, plan)


def _checked(steps: Steps, settings: CentralSettings) -> DatabaseCluster | None:
    """Return the cluster that this machine is, or can become, a member of; change nothing.

    Raises BadRequest, Conflict or Unavailable as `start_central` does.
    """
    if settings.create and not settings.members:
        raise BadRequest("--create is for --cluster: name the machines that keep the databases together")
    if settings.address and not settings.address.is_unspecified:
        require_own("--address", settings.address)
    if settings.members:
        cluster = raft.cluster_of(settings.members, settings.tls)
        raft.warn_of_certificate_address(steps, cluster)
        raft.check_membership(cluster, create=settings.create)
        return cluster
    if (settings.address or settings.tls) and _is_clustered():
        raise BadRequest(
            "this machine is a member of a cluster: give --cluster, or neither --address nor TLS"
        )
    return None


def _listeners_are_unreadable(settings: CentralSettings) -> bool:
    """Return whether a server has to run before the plan can be made.

    The options of a member that an earlier version has set up do not have its listeners: they are in rows,
    which only the server of a member can read.
    """
    if listeners.restricted_by_options() is not None:
        return False
    if settings.members:
        return settings.rbac is None and SOUTHBOUND.clustered() and not SOUTHBOUND.pid()
    return _is_clustered() and not all_running()


def _plan_of(steps: Steps, settings: CentralSettings, cluster: DatabaseCluster | None) -> CentralPlan:
    """Return the plan for a member of *cluster*, or for a machine that stays what it is."""
    if cluster:
        restricted = _is_restricted(cluster) if settings.rbac is None else settings.rbac
        wanted = [
            listeners.checked(
                Listener(
                    database, cluster.target(database), cluster.tls, restricted and database is SOUTHBOUND
                )
            )
            for database in DATABASES
        ]
        options = cluster.options()
    else:
        member = _is_clustered()
        wanted = [
            listeners.wanted(
                steps,
                database,
                settings.address,
                settings.tls,
                restricted=settings.rbac,
                default=raft.member_target(database) if member else "",
            )
            for database in DATABASES
        ]
        if settings.rbac and wanted[-1].tls is None:
            raise BadRequest("--rbac needs TLS: it goes by the hosts' certificates; give --tls DIRECTORY")
        options = raft.member_options() if member else {}
    words = listeners.words(wanted, options)
    return CentralPlan(
        listeners=tuple(wanted),
        words=words,
        effects=tuple(listeners.describe(wanted)),
        cluster=cluster,
        create=settings.create,
        new_files=cluster is not None and (not raft.is_member() or words != ovn_ctl.configured()),
    )


def _is_clustered() -> bool:
    return any(database.clustered() for database in DATABASES)


def _is_restricted(cluster: DatabaseCluster) -> bool:
    """Return whether the southbound database has access control: by options, by rows here, or elsewhere."""
    if (configured := listeners.restricted_by_options()) is not None:
        return configured
    now = listeners.now(SOUTHBOUND)
    return now.restricted if now else is_restricted(cluster.others, cluster.tls)


# The steps, in the order of _STEPS. Each changes only what differs from the plan.


def _make_member_files(steps: Steps, plan: CentralPlan) -> None:
    """Stop the daemons and make the database files of a member, if this machine becomes one."""
    if plan.cluster and plan.new_files:
        if any_running():
            stop_daemons(steps)
        raft.make_member_files(steps, plan.cluster, create=plan.create)


def _write_options(steps: Steps, plan: CentralPlan) -> None:
    """Write the options of the daemons; before them the row of a server that has access control."""
    if plan.new_files or plan.words != ovn_ctl.configured():
        for listener in plan.listeners:
            if listener.restricted and listener.database.pid():
                listeners.keep_row(steps, listener)
        ovn_ctl.write(steps, plan.words, plan.effects)


def _restart_servers(steps: Steps, plan: CentralPlan) -> None:
    """Restart the servers whose listeners differ, one after the other."""
    if not plan.new_files:
        for listener in plan.listeners:
            if listener.database.pid() and not listener.is_in_force(plan.words):
                restart_server(steps, listener.database)


def _start_daemons(steps: Steps, plan: CentralPlan) -> None:
    """Start the daemons that do not run."""
    if plan.new_files or not all_running():
        start_daemons(steps)


def _await_membership(steps: Steps, plan: CentralPlan) -> None:
    """Wait until this machine takes part in its cluster."""
    if plan.cluster:
        raft.await_membership(steps, plan.cluster)


def _await_listeners(steps: Steps, plan: CentralPlan) -> None:
    """Wait until the servers listen as planned, and remove the rows that set other listeners."""
    for listener in plan.listeners:
        database = listener.database
        if steps.dry_run and not database.pid():
            continue
        if listener.restricted:
            listeners.keep_row(steps, listener)
        steps.wait(
            f"listening of the {database.title} on {listener.target}",
            lambda listener=listener: listener.is_in_force(plan.words),  # type: ignore[misc]
            seconds=5,
            hint=f"have whatever starts ovn-ctl(8) here give it the options in {ovn_ctl.path()}",
        )
        steps.wait(
            f"listening on {listener.target}",
            database.bound,
            seconds=2,
            hint=f"another program may have the port; see {database.log}",
        )
        if listener.restricted:
            rbac.enforce(steps, listener.target)
        listeners.remove_rows(steps, listener)


def _warn(steps: Steps, plan: CentralPlan) -> None:
    """Warn of hosts that access control keeps out, and of machines that no access control keeps out."""
    if plan.restricted:
        warn_of_certificate_name(steps)
    warn_without_tls(steps, (listener.target for listener in plan.listeners))


def _start_enrolment(steps: Steps, _: CentralPlan) -> None:
    """Answer hosts that join, if this machine has the authority."""
    start_enrolment(steps)


def _put_up_barrier(steps: Steps, _: CentralPlan) -> None:
    """Put up the barrier between containers and the databases."""
    put_up_barrier(steps)


_STEPS: tuple[Callable[[Steps, CentralPlan], None], ...] = (
    _make_member_files,
    _write_options,
    _restart_servers,
    _start_daemons,
    _await_membership,
    _await_listeners,
    _start_enrolment,
    _warn,
    _put_up_barrier,
)
