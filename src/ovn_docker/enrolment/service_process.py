"""The process of the enrolment service: its address, pidfile, log and end."""

import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ovn_docker.enrolment.enrolment_service import EnrolmentServer, EnrolmentService
from ovn_docker.enrolment.messages import PORT
from ovn_docker.enrolment.renewal import Renewal, renew_central
from ovn_docker.enrolment.signing import Authority
from ovn_docker.enrolment.tokens import TokenStore
from ovn_docker.errors import Conflict, OvnDockerError, Unavailable
from ovn_docker.host.vsctl import rows
from ovn_docker.setup.central import listeners, raft
from ovn_docker.setup.central.enrolment_daemon import LOG, is_authority_of, pidfile
from ovn_docker.setup.databases import NORTHBOUND, SOUTHBOUND
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)


def serve(directory: Path, *, detach: bool) -> None:
    """Answer hosts that join until SIGTERM or SIGINT, in the background if *detach*.

    Raises:
        Unavailable: the databases do not listen with TLS, or there is no authority in *directory*.
        Conflict: the service runs already.

    """
    listener = listeners.now(NORTHBOUND)
    if listener is None or listener.tls is None or not is_authority_of(listener):
        raise Unavailable(
            "hosts join a machine whose databases listen with TLS, and which has the authority in "
            f"{directory}: run `ovn-docker central start`"
        )
    host = listener.target.split(":", 2)[2:] or ["0.0.0.0"]  # noqa: S104  # as the database listens
    service = EnrolmentService(Authority(directory), TokenStore(directory), _members, _is_registered)
    address = (host[0].strip("[]"), PORT)
    try:
        server = EnrolmentServer(address, service, listener.tls)
    except OSError as error:
        raise OvnDockerError(f"cannot listen on {address[0]} port {PORT}: {error.strerror}") from None
    if detach:
        _detach()
    _hold_pidfile(pidfile())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    own = listener.tls
    Renewal(lambda: renew_central(directory, own)).start(Threads())
    log.info("answering hosts that join on %s port %d", *address)
    with server:
        server.serve_forever()


def _members() -> Sequence[str]:
    """Return the addresses of the machines with the databases; empty for a machine alone."""
    if not NORTHBOUND.clustered():
        return ()
    found = raft.membership(NORTHBOUND)
    peers = (one.address.split(":", 1)[1].rpartition(":")[0] for one in found.servers) if found else ()
    return tuple(peer.strip("[]") for peer in peers)


def _is_registered(name: str) -> bool:
    """Return whether OVN knows a host of that name which access control let in."""
    now = listeners.now(SOUTHBOUND)
    if now is None or not now.restricted:
        return False  # names prove nothing there
    return any(row.text("name") == name for row in rows("Chassis", "name", tool=SOUTHBOUND.tool))


def _detach() -> None:
    """Continue in a child process without a terminal; the parent ends."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    written = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    for descriptor, number in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(descriptor, number)


def _hold_pidfile(path: Path) -> None:
    """Write this process's number to its pidfile, and keep that locked, as the daemons of OVN do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # stays open for the life of the process
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Conflict("the enrolment service runs already") from None
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
