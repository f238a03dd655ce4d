"""Removal of a host that is gone for good from the northbound database, with the checks that it is gone."""

import difflib
from contextlib import ExitStack, closing, suppress
from types import TracebackType
from typing import Self

from ovn_docker.backends.ovn.repair import lost_host
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.repair.lost_host import Belonging
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, NotFound, OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.openvswitch import LocalVswitch, local_database
from ovn_docker.host.ovsdb import Database
from ovn_docker.setup.hosts.database_clients import northbound_database, southbound_database

DATABASE_TIME = 10.0
"""Seconds that a database may take."""

_ANSWER_TIME = 5.0
"""Seconds that a host gets to answer."""

_SHOWN = 20
"""Known hosts that the error for an unknown host lists."""


class HostRemoval:
    """The removal of one host, as a context manager that holds the connections.

    Args:
        host: the system-id of the host.
        leaving: it is this host, whose driver and ovn-controller have been stopped.

    Raises:
        BadRequest: *host* is this host, and it is not *leaving*.

    """

    def __init__(self, host: str, *, leaving: bool = False) -> None:
        self.host = host
        self._connect = northbound_database()
        with ExitStack() as connections:
            local = local_database()
            connections.callback(local.close)
            self._chassis = LocalVswitch(local).chassis(Deadline(2))
            if host == self._chassis.system_id and not leaving:
                raise BadRequest(
                    f"{host} is this host; run this command on another host when this one is gone"
                )
            self._northbound = self._connect(self._chassis)
            connections.callback(self._northbound.close)
            self._connections = connections.pop_all()
        self._southbound: Database | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connections.close()

    def belongings(self) -> list[Belonging]:
        """Return the rows of the host."""
        return lost_host.belongings(self._northbound, self.host, Deadline(DATABASE_TIME))

    def require_known(self) -> None:
        """Raise NotFound unless OVN or a row of ours knows the host: its name may be misspelt."""
        known = self._known_hosts()
        if self.host in known:
            return
        nearest = difflib.get_close_matches(self.host, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "see `ovn-sbctl show`"
        shown = ", ".join(sorted(known)[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
        raise NotFound(
            f"unknown host {self.host!r}: OVN does not know it, and nothing is stored of it; {hint} "
            f"(known hosts: {shown or 'none'})"
        )

    def is_listed(self) -> bool:
        """Return whether OVN still lists the host, which does not answer.

        Raises:
            Conflict: the host answers.
            Unavailable: ovn-northd does not reply.

        """
        southbound = self._open_southbound()
        if not lost_host.registered(southbound, self.host, Deadline(DATABASE_TIME)):
            return False
        alive = lost_host.answers(self._northbound, southbound, self.host, Deadline(_ANSWER_TIME))
        if alive is None:
            raise Unavailable(
                f"ovn-northd does not reply, so it is not known if {self.host} is alive; start it on the "
                "central machine with: ovn-docker central start, or give --force"
            )
        if alive:
            raise Conflict(
                f"{self.host} is alive: its ovn-controller answers; stop it there with "
                "`ovn-docker host stop`, or give --force"
            )
        return True

    def in_use_elsewhere(self, found: list[Belonging]) -> list[Belonging]:
        """Return those of some rows whose containers run on another host."""
        rows = lost_host.bound_elsewhere(self._open_southbound(), self.host, found, Deadline(DATABASE_TIME))
        return [one for one in found if one.row in rows]

    def remove(self, found: list[Belonging]) -> None:
        """Delete rows of the host, in one transaction, then the networks that waited for it."""
        lost_host.forget(self._northbound, self.host, found, Deadline(DATABASE_TIME))
        self.finish_removals()

    def finish_removals(self) -> None:
        """Delete the shared networks that were removed and waited for this host alone."""
        lost_host.finish_removals(self._connect, self._chassis, Deadline(DATABASE_TIME))

    def _known_hosts(self) -> set[str]:
        """Return the hosts that have rows of ours, and those in the southbound database, if it answers."""
        known = Leftovers(self._northbound, self._chassis).hosts(Deadline(DATABASE_TIME))
        known = known | {self._chassis.system_id}
        with suppress(OvnDockerError), closing(southbound_database(self._northbound.tls)) as southbound:
            select = ovsdb.select("Chassis", columns=["name"])
            (rows,) = southbound.transact(select, deadline=Deadline(DATABASE_TIME))
            known |= {row.text("name") for row in rows}
        return known

    def _open_southbound(self) -> Database:
        if self._southbound is None:
            self._southbound = southbound_database(self._northbound.tls)
            self._connections.callback(self._southbound.close)
        return self._southbound
