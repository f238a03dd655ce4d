"""Values that are read at each scrape: the local Open_vSwitch database, and one row of the northbound one.

The cost of reading that row does not depend on the number of hosts and networks.
"""

from collections.abc import Callable, Iterator

from ovn_docker import __version__
from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.host.openvswitch import ENDPOINT, NETWORK, OURS
from ovn_docker.host.ovsdb import Database, Row
from ovn_docker.metrics import (
    ENDPOINTS,
    INFO,
    NOT_INSTALLED,
    PROGRESS,
    REACHABLE,
    RECONNECTS,
    STATISTICS,
    THREAD_FAILURES,
    THREADS_DOWN,
    Sample,
)
from ovn_docker.model import Chassis, whole_number
from ovn_docker.text.printable import one_line
from ovn_docker.threads import Threads

_PATIENCE = 1.0
"""Time limit of each database in seconds; Prometheus waits for ten."""


_LABEL = 128
"""Maximum length of a name in a label, in characters."""


class Statistics:
    """Reads values of this host and of the driver's *threads*; *northbound* is ``None`` without OVN.

    *name_of* returns the name of an endpoint's container or of a network; empty if unknown.
    """

    def __init__(
        self,
        threads: Threads,
        vswitch: Database,
        chassis: Callable[[Deadline], Chassis],
        northbound: Callable[[Chassis], Database] | None = None,
        name_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._threads = threads
        self._vswitch = vswitch
        self._northbound = northbound
        self._chassis = chassis
        self._name_of = name_of

    def samples(self) -> Iterator[Sample]:
        """Yield all values that can be read now; a database that cannot be read is unreachable."""
        yield Sample(INFO, 1, (__version__,))
        yield Sample(THREADS_DOWN, sum(state.waits for state in self._threads.states()))
        for thread, failures in self._threads.failures().items():
            yield Sample(THREAD_FAILURES, failures, (thread,))
        yield from self._of(self._vswitch.name, self._local)
        yield Sample(RECONNECTS, self._vswitch.losses, (self._vswitch.name,))
        if (connect := self._northbound) is not None:
            yield from self._of("OVN_Northbound", lambda: self._of_northbound(connect))

    def _of(self, database: str, read: Callable[[], list[Sample]]) -> list[Sample]:
        try:
            return [*read(), Sample(REACHABLE, 1, (database,))]
        except OvnDockerError:
            return [Sample(REACHABLE, 0, (database,))]

    def _local(self) -> list[Sample]:
        interfaces, bridges = self._vswitch.transact(
            ovsdb.select("Interface", OURS, columns=["external_ids", "statistics"]),
            ovsdb.select("Bridge", columns=["external_ids"]),
            deadline=Deadline(_PATIENCE),
        )
        without = [row for row in interfaces if row.map("external_ids").get("ovn-installed") != "true"]
        said = [whole_number(row.map("external_ids").get("ovn-nb-cfg", "")) for row in bridges]
        done = [cfg for cfg in said if cfg is not None]
        return [
            Sample(ENDPOINTS, len(interfaces)),
            *([Sample(NOT_INSTALLED, len(without))] if self._northbound else []),
            *(Sample(PROGRESS, cfg, ("host",)) for cfg in done[:1]),
            *(sample for row in interfaces for sample in self._of_container(row)),
        ]

    def _of_container(self, row: Row) -> Iterator[Sample]:
        ids, counted = row.map("external_ids"), row.numbers("statistics")
        endpoint, network = ids.get(ENDPOINT, ""), ids.get(NETWORK, "")
        names = self._name_of(network)[:_LABEL] or network[:12], self._name_of(endpoint)[:_LABEL]
        labels = (endpoint[:12], *map(one_line, names))
        for metric, keys in STATISTICS.items():
            yield Sample(metric, sum(counted.get(key, 0) for key in keys), labels)

    def _of_northbound(self, connect: Callable[[Chassis], Database]) -> list[Sample]:
        database = connect(self._chassis(Deadline(_PATIENCE)))
        (rows,) = database.transact(
            ovsdb.select("NB_Global", columns=["nb_cfg", "sb_cfg"]), deadline=Deadline(_PATIENCE)
        )
        return [
            Sample(RECONNECTS, database.losses, (database.name,)),
            *(
                Sample(PROGRESS, row.number(column), (at,))
                for row in rows
                for column, at in (("nb_cfg", "northbound"), ("sb_cfg", "southbound"))
            ),
        ]
