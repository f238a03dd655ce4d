"""The state of a central machine, for ``ovn-docker central status``: its daemons, listeners and clusters."""

from dataclasses import dataclass

from ovn_docker.errors import Unavailable
from ovn_docker.host.daemons import NORTHD, answer, read_daemon
from ovn_docker.host.places import find_places
from ovn_docker.host.processes import running
from ovn_docker.setup.central import listeners, raft
from ovn_docker.setup.central.enrolment_daemon import is_wanted, pidfile
from ovn_docker.setup.central.rbac import access_control_state
from ovn_docker.setup.databases import DATABASES, CentralDatabase
from ovn_docker.text.printable import printable

_CURE = "start it with `ovn-docker central start`"


@dataclass(frozen=True)
class CentralPart:
    """The state of a daemon: *process* and *state* in words."""

    up: bool
    part: str
    process: str
    state: str


@dataclass(frozen=True)
class CentralStatus:
    """The state of all daemons, and of the clusters that the databases are members of."""

    parts: tuple[CentralPart, ...]
    clusters: dict[CentralDatabase, raft.Membership | None]

    @property
    def is_up(self) -> bool:
        """True if all daemons are up and all clusters healthy."""
        return all(part.up for part in self.parts) and all(
            found is not None and found.healthy for found in self.clusters.values()
        )


def central_status() -> CentralStatus:
    """Return the state of this machine."""
    return CentralStatus(
        parts=(*map(_database_status, DATABASES), _northd_status(), *_enrolment_status()),
        clusters={database: raft.membership(database) for database in DATABASES if database.clustered()},
    )


def _database_status(database: CentralDatabase) -> CentralPart:
    """Return the state of a database: whether it runs, answers, listens and restricts hosts as configured."""
    pid = database.pid()
    if pid is None:
        return CentralPart(up=False, part=database.title, process="not running", state=_CURE)
    process = f"running (pid {pid})"
    if not database.answers():
        text = "does not answer on its Unix socket"
        return CentralPart(up=False, part=database.title, process=process, state=text)
    now = listeners.now(database)
    if now is None:
        text = f"does not listen on port {database.port}; run `ovn-docker central start`"
        return CentralPart(up=False, part=database.title, process=process, state=text)
    bound, target = database.bound(), printable(now.target)
    text = f"listens on {target}" if bound else f"should listen on {target} but cannot; see {database.log}"
    as_configured, restricted = access_control_state(now)
    text = "; ".join(filter(None, (text, restricted, listeners.remark(database))))
    return CentralPart(up=bound and as_configured, part=database.title, process=process, state=text)


def _enrolment_status() -> tuple[CentralPart, ...]:
    """Return the state of the enrolment service, if this machine should have one."""
    if not is_wanted():
        return ()
    pid = running(pidfile())
    process = f"running (pid {pid})" if pid else "not running"
    state = "answers hosts that join" if pid else _CURE
    return (CentralPart(up=pid is not None, part="enrolment", process=process, state=state),)


def _northd_status() -> CentralPart:
    """Return the state of ovn-northd: active, standby or paused (ovn-northd(8), ``status``)."""
    places = find_places()
    daemon = read_daemon(NORTHD, places)
    if daemon.pid is None:
        return CentralPart(up=False, part=NORTHD, process="not running", state=_CURE)
    process = f"running (pid {daemon.pid})"
    try:
        state = answer(daemon, "status", places, 2.0).removeprefix("Status: ")
    except Unavailable as error:
        return CentralPart(up=False, part=NORTHD, process=process, state=str(error))
    return CentralPart(up=state in ("active", "standby"), part=NORTHD, process=process, state=state)
