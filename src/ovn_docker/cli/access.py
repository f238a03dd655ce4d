"""Access control of the southbound database (ovn-architecture(7), "Role-Based Access Controls").

A host may then change its own rows alone, told by the common name of its certificate. The role is a column of
the row that has the server listen, but a server looks at it only when it begins to listen: a row that says so
is no proof, so we try.
"""

import re

from ovn_docker.cli import listeners
from ovn_docker.cli.databases import SOUTHBOUND
from ovn_docker.cli.listeners import Listener
from ovn_docker.cli.steps import Steps
from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.model import Tls

_TIME = 5.0
"""Seconds that the server has for an answer."""


def enforce(steps: Steps, target: str) -> None:
    """Has the southbound database's server on this machine restrict hosts; its row says so already.

    Raises:
        Unavailable: it does not follow.

    """
    if steps.dry_run or in_force(target):
        return
    _listen_anew(steps)
    steps.wait(
        "access control",
        lambda: in_force(target),
        seconds=_TIME,
        hint=f"restart the database server; see {SOUTHBOUND.log}",
    )


def in_force(target: str) -> bool:
    """Whether this machine's server refuses to others what no host may do; nothing is changed by asking.

    Raises:
        Unavailable: it does not answer.

    """
    files = listeners.tls(SOUTHBOUND)
    if files is None:
        raise Unavailable(f"the {SOUTHBOUND.title} has no key; give --tls DIRECTORY")
    tls = Tls(*files, names=False)  # we know where the server is: here
    database = ovsdb.Database(SOUTHBOUND.schema, [_own_remote(target)], tls=tls)
    forbidden = {"op": "insert", "table": SOUTHBOUND.root, "row": {}}
    try:
        database.transact(forbidden, {"op": "abort"}, deadline=Deadline(_TIME))
    except ovsdb.OperationError as error:
        return error.error == "permission error"
    finally:
        database.close()
    raise Unavailable(f"the {SOUTHBOUND.title} did not do as it was told")


def described(now: Listener) -> tuple[bool, str]:
    """Whether hosts are restricted if they should be, and that in words; none if they should not."""
    if not now.restricted:
        return True, ""
    try:
        if in_force(now.target):
            return True, "hosts are restricted"
    except OvnDockerError as error:
        return False, f"whether hosts are restricted is not known: {error}"
    return False, "hosts are NOT restricted: run `ovn-docker central start --rbac`"


def _own_remote(target: str) -> str:
    """How this machine reaches what listens on *target*."""
    found = re.fullmatch(r"pssl:(\d+)(?::(.+))?", target)
    port, host = (found[1], found[2] or "") if found else (str(SOUTHBOUND.port), "")
    own = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - what it is, not what it does
    return f"ssl:{own.get(host, host)}:{port}"


def _listen_anew(steps: Steps) -> None:
    """Hosts connect again at once."""
    for what in ("remove", "add"):
        steps.change(
            f"have the {SOUTHBOUND.title} listen anew: {what} its listeners",
            *("ovs-appctl", "-T", "5", "-t", SOUTHBOUND.control_socket),
            *(f"ovsdb-server/{what}-remote", SOUTHBOUND.row_remote),
        )
