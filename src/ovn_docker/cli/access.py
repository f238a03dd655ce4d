"""Access control of the southbound database (ovn-architecture(7), "Role-Based Access Controls").

A host may then change its own rows alone, told by the common name of its certificate. The role is a column of
the row that has the server listen, but a server looks at it only when it begins to listen: a row that says so
is no proof, so we try.
"""

import re

from ovn_docker.cli import members
from ovn_docker.cli.arguments import current_tls
from ovn_docker.cli.databases import SOUTHBOUND
from ovn_docker.cli.steps import Steps
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.model import Tls

ROLE = "ovn-controller"
"""The only one that ovn-northd writes the rules of (ovn-sb(5), RBAC_Role)."""

_TIME = 5.0
"""Seconds that the server has for an answer."""


def check(target: str) -> None:
    """Raises BadRequest if the southbound database is not to listen with TLS."""
    if not target.startswith("pssl:"):
        raise BadRequest("--rbac needs TLS: it goes by the hosts' certificates; give --tls DIRECTORY")


def turn(steps: Steps, *, on: bool) -> None:
    """Has the southbound database's server on this machine restrict hosts, or not.

    Raises:
        Unavailable: it does not follow.

    """
    if steps.dry_run and not SOUTHBOUND.answers():
        return
    listening = SOUTHBOUND.listening()
    if listening is None:
        return
    uuid, target, role = listening
    if role != (ROLE if on else ""):
        what = "let hosts change only their own rows" if on else "let every host change every row"
        value = f'role="{ROLE}"' if on else 'role=""'
        steps.change(f"{what} of the {SOUTHBOUND.title}", *SOUTHBOUND.tool, "set", "Connection", uuid, value)
    if target.startswith("pssl:") and not steps.dry_run and in_force(target) != on:
        _listen_anew(steps)
        steps.wait(
            f"access control {'on' if on else 'off'}",
            lambda: in_force(target) == on,
            seconds=_TIME,
            hint=f"restart the database server; see {SOUTHBOUND.log}",
        )


def in_force(target: str) -> bool:
    """Whether this machine's server refuses to others what no host may do; nothing is changed by asking.

    Raises:
        Unavailable: it does not answer.

    """
    files = members.tls() or current_tls(SOUTHBOUND.control)
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


def described(target: str, role: str) -> tuple[bool, str]:
    """Whether hosts are restricted if they should be, and that in words; none if they should not."""
    if not role:
        return True, ""
    try:
        if in_force(target):
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
    remote = f"db:{SOUTHBOUND.schema},{SOUTHBOUND.root},connections"
    for what in ("remove", "add"):
        steps.change(
            f"have the {SOUTHBOUND.title} listen anew: {what} its listeners",
            *("ovs-appctl", "-T", "5", "-t", SOUTHBOUND.control_socket),
            *(f"ovsdb-server/{what}-remote", remote),
        )
