"""The connection to the OVN northbound database, which follows the settings of the host."""

import threading
from collections.abc import Callable

from ovn_docker.host.ovsdb import Database
from ovn_docker.model import Chassis, Tls
from ovn_docker.threads import Threads

_CURE = (
    "start it on that host with: ovn-docker central start, or name another one with: "
    "ovs-vsctl set Open_vSwitch . external_ids:ovn-nb=tcp:CENTRAL_IP:6641"
)

Connect = Callable[[Chassis], Database]
"""Returns the connection to the northbound database that is set for a chassis."""


class NorthboundConnection:
    """The connection to the northbound database that the settings of the host name.

    *tls* has precedence over the files that the Open_vSwitch database names.
    """

    def __init__(self, tls: Tls | None = None, threads: Threads | None = None) -> None:
        self._tls = tls
        self._threads = threads
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._for: tuple[object, ...] = ()

    def __call__(self, chassis: Chassis) -> Database:
        """Return the connection for *chassis*, a new one if its settings have changed.

        Raises BadRequest for settings that are not valid.
        """
        tls = self._tls or chassis.tls
        wanted = (chassis.northbound, tls)
        with self._lock:
            if self._database is None or self._for != wanted:
                before = self._database
                self._database = Database("OVN_Northbound", chassis.northbound, _CURE, tls, self._threads)
                self._for = wanted
                if before is not None:
                    before.close()
            return self._database
