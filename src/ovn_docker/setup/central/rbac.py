"""Access control of the southbound database (ovn-architecture(7), "Role-Based Access Controls").

A host may then change only its own rows, by the common name of its certificate. The role is a column of the
row that has the server listen, but the server reads it only when it begins to listen. So the row does not
prove that access control is in force; `in_force` tries a change.
"""

import re

from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.model import Tls
from ovn_docker.setup.central import listeners
from ovn_docker.setup.central.listeners import Listener
from ovn_docker.setup.databases import SOUTHBOUND
from ovn_docker.setup.steps import Steps

_TIME = 5.0
"""Seconds that the server has for an answer."""


def enforce(steps: Steps, target: str) -> None:
    """Bring access control into force that the row of the listener has already.

    Raises:
        TimedOut: the server does not restrict hosts.
        Unavailable: it does not answer, or has no key.

    """
    if steps.dry_run or in_force(target):
        return
    for verb in ("remove", "add"):  # hosts connect again at once
        steps.change(
            f"have the {SOUTHBOUND.title} listen anew: {verb} its listeners",
            *("ovs-appctl", "-T", "5", "-t", SOUTHBOUND.control_socket),
            *(f"ovsdb-server/{verb}-remote", SOUTHBOUND.row_remote),
        )
    steps.wait(
        "access control",
        lambda: in_force(target),
        seconds=_TIME,
        hint=f"restart the database server; see {SOUTHBOUND.log}",
    )


def in_force(target: str) -> bool:
    """Return whether this machine's server refuses a change that hosts may not make; change nothing.

    Raises:
        Unavailable: the server does not answer, or has no key.

    """
    files = listeners.tls(SOUTHBOUND)
    if files is None:
        raise Unavailable(f"the {SOUTHBOUND.title} has no key; give --tls DIRECTORY")
    tls = Tls(*files, names=False)  # no name to verify: the server is on this machine
    database = ovsdb.Database(SOUTHBOUND.schema, [_own_remote(target)], tls=tls)
    forbidden = {"op": "insert", "table": SOUTHBOUND.root, "row": {}}
    try:
        database.transact(forbidden, {"op": "abort"}, deadline=Deadline(_TIME))
    except ovsdb.PermissionDenied:
        return True
    except ovsdb.OperationError:
        return False
    finally:
        database.close()
    raise Unavailable(f"the {SOUTHBOUND.title} did not abort a transaction as requested")


def access_control_state(now: Listener) -> tuple[bool, str]:
    """Return whether hosts are restricted if they should be, and a remark; empty if they need not be."""
    if not now.restricted:
        return True, ""
    try:
        if in_force(now.target):
            return True, "hosts are restricted"
    except OvnDockerError as error:
        return False, f"whether hosts are restricted is not known: {error}"
    return False, "hosts are NOT restricted: run `ovn-docker central start --rbac`"


def _own_remote(target: str) -> str:
    """Return the connection method from this machine to its own server that listens on *target*."""
    found = re.fullmatch(r"pssl:(\d+)(?::(.+))?", target)
    port, host = (found[1], found[2] or "") if found else (str(SOUTHBOUND.port), "")
    own = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared, not bound
    return f"ssl:{own.get(host, host)}:{port}"
