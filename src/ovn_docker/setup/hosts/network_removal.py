"""Removal of a shared network from all hosts, and the wait until this host's Docker has one."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.docker.engine import DockerEngine
from ovn_docker.errors import Conflict, NotFound, TimedOut, Unavailable
from ovn_docker.host.openvswitch import LocalVswitch, local_database
from ovn_docker.host.places import find_places
from ovn_docker.model import Chassis
from ovn_docker.setup.hosts.database_clients import northbound_database
from ovn_docker.text.spelling import hint

_DATABASE_TIME = 10.0
"""Seconds that the database may take."""

_CURE = "remove them, or give --force"

_PAUSE = 0.2
"""Seconds between two requests to Docker."""


class NetworkRemoval:
    """The removal of one shared network. *users*: the hosts that have it; true if containers use it there."""

    def __init__(self, shared: SharedNetworks, chassis: Chassis, name: str) -> None:
        self._shared = shared
        self._chassis = chassis
        self._name = name
        known = {one.name for one in shared.networks(chassis, Deadline(_DATABASE_TIME))}
        if name not in known:
            cure = hint(name, known) or "see `ovn-docker ls`"
            raise NotFound(f"no network {name!r} in the cluster: {cure}")
        self.users: Mapping[str, bool] = shared.users(name, chassis, Deadline(_DATABASE_TIME))

    def require_unused(self) -> None:
        """Raise Conflict if containers, running or stopped, belong to the network."""
        if needed := sorted(host for host, used in self.users.items() if used):
            where = f"network {self._name} on {', '.join(needed)}"
            raise Conflict(f"containers, running or stopped, belong to {where}: {_CURE}")

    def remove(self, *, force: bool) -> None:
        """Mark the network as removed; each host removes it from its Docker."""
        try:
            self._shared.remove(self._name, self._chassis, Deadline(_DATABASE_TIME), force=force)
        except Conflict as error:  # a container has come since require_unused()
            raise Conflict(f"{error}: {_CURE}") from None


@contextmanager
def network_removal(name: str) -> Iterator[NetworkRemoval]:
    """Hold the connections for the removal of a shared network. Raises NotFound if there is none."""
    with closing(local_database()) as local:
        chassis = LocalVswitch(local).chassis(Deadline(2))
        connect = northbound_database()
        with closing(connect(chassis)):
            yield NetworkRemoval(SharedNetworks(connect), chassis, name)


def wait_for_network(name: str, seconds: float) -> tuple[str, str]:
    """Wait until this host's Docker has a shared network; return the network's name and Docker's ID.

    Raises:
        TimedOut: Docker does not have the network after *seconds*.

    """
    deadline, engine, problem = Deadline(seconds), DockerEngine(find_places().docker), ""
    while True:
        try:
            for network in engine.networks():
                if network.shared == name:
                    return network.shared, network.id
            problem = ""
        except Unavailable as error:
            problem = f": {error}"
        if not deadline.left():
            raise TimedOut(
                f"this host's Docker does not have network {name} after {seconds:g} s{problem}; "
                "see `ovn-docker doctor`, and `ovn-docker ls` for the shared networks"
            )
        time.sleep(min(_PAUSE, deadline.left()))
