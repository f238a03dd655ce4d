"""Keeps this host's Docker in step with the networks that have a name in the cluster (``-o ovn.network``).

``docker network create`` on one host makes a network appear on all, ``docker network rm`` makes it go, as
with the key-value store that Docker had until version 23. All of it happens outside Docker's calls to us:
Docker may not be asked while it waits for an answer.
"""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, check_subnets
from ovn_docker.errors import Conflict, OvnDockerError
from ovn_docker.metrics import REFUSED, REPAIRS, Recorder, Unrecorded
from ovn_docker.model import Chassis, Definition, IpNetwork, LocalNetwork, NetworkId, Refusal, SharedNetwork

log = logging.getLogger(__name__)

_LOOK = 2.0
"""Seconds between two looks at the generation: one row by its UUID, 0.05 ms of the database's time."""

_FULL_LOOK = 30.0
"""Seconds between two full comparisons when nothing seems to have changed."""

_PATIENCE = 10.0

_WARNINGS = 10
"""Refused networks that one comparison logs; any host can write any number of them."""

_REMEMBERED = 4096
"""Refusals that are not logged again; the oldest is forgotten first."""


class Store(Protocol):
    """The networks of the cluster."""

    def generation(self, chassis: Chassis, deadline: Deadline) -> str:
        """A word that is another one after every change."""

    def networks(self, chassis: Chassis, deadline: Deadline) -> list[SharedNetwork]:
        """All of them."""

    def define(self, definition: Definition, chassis: Chassis, deadline: Deadline) -> None:
        """Store a network's definition for the other hosts, unless there is one that can be read."""


class Engine(Protocol):
    """This host's Docker."""

    def networks(self) -> list[LocalNetwork]:
        """Its networks of our driver that have a name in the cluster."""

    def create_network(self, wanted: Definition) -> None:
        """Make a network. Raises Conflict if Docker refuses it."""

    def remove_network(self, network: LocalNetwork) -> None:
        """Remove a network. Raises Conflict if containers use it."""


class Follower:
    """Compares the cluster's networks with Docker's and makes and removes networks in Docker."""

    def __init__(
        self,
        store: Store,
        chassis: Callable[[Deadline], Chassis],
        engine: Engine,
        record: Recorder | None = None,
        connected: Callable[[], list[IpNetwork]] = list,
    ) -> None:
        """*connected*: the networks that this host's own links are in."""
        self._record = record or Unrecorded()
        self._store = store
        self._chassis = chassis
        self._engine = engine
        self._connected = connected
        self._told: dict[str, str] = {}
        self._refused: dict[tuple[str, Refusal], None] = {}
        self._removing: NetworkId | None = None
        self._making = ""

    def makes(self, name: str) -> bool:
        """Whether Docker makes this network because we have asked it to, as another host's user has."""
        return name == self._making

    def removes(self, network: NetworkId) -> bool:
        """Whether Docker removes this network because we have asked it to, as another host's user has."""
        return network == self._removing

    def start(self) -> None:
        """Follow in a thread of its own, for the life of the process."""
        threading.Thread(target=self._run, name="cluster", daemon=True).start()

    def follow(self) -> bool:
        """Bring Docker in step once; False if something has to wait, such as for containers to go.

        Raises OvnDockerError if the database or Docker cannot be reached.
        """
        deadline = Deadline(_PATIENCE)
        chassis = self._chassis(deadline)
        # First what is here: a network made after that, in the place of one removed, has another ID.
        local = {network.shared: network for network in self._engine.networks()}
        shared = self._store.networks(chassis, deadline)
        done, refused = True, []
        for network in shared:
            try:
                self._bring_in_step(network, local.get(network.name), chassis, deadline)
            except Refused as error:
                refused.append((network.name, error.refusal))
            except Conflict as error:
                done = False
                if self._told.get(network.name) != str(error):
                    log.warning("network %s of the cluster: %s", network.name, error)
                self._told[network.name] = str(error)
            else:
                self._told.pop(network.name, None)
        self._warn(refused)
        return done

    def _bring_in_step(
        self, network: SharedNetwork, here: LocalNetwork | None, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Raises Refused for what this host does not follow."""
        if network.removed:
            if here is not None:
                self._removing = here.id
                try:
                    self._engine.remove_network(here)
                finally:
                    self._removing = None
                self._record.add(REPAIRS, "network")
                log.info("removed network %s, as in the cluster", network.name)
        elif here is None:
            if network.definition is not None:
                check_subnets(network.definition, chassis.addresses, self._connected())
                self._making = network.name
                try:
                    self._engine.create_network(network.definition)
                finally:
                    self._making = ""
                self._record.add(REPAIRS, "network")
                log.info("created network %s, as in the cluster", network.name)
        elif network.definition is None:
            if here.definition is not None:
                self._store.define(here.definition, chassis, deadline)
            elif here.refused is not None:
                raise Refused(here.refused.part, f"other hosts cannot have it: {here.refused.why}")
        if network.refused is not None:
            raise Refused(network.refused.part, network.refused.why)

    def _warn(self, refused: list[tuple[str, Refusal]]) -> None:
        """Count and log each network and reason once."""
        new = [one for one in refused if one not in self._refused]
        for name, refusal in new[:_WARNINGS]:
            log.warning(
                "network %s of the cluster is refused: %s; see `ovn-docker doctor`", name[:64], refusal.why
            )
        if len(new) > _WARNINGS:
            log.warning("%d more networks of the cluster are refused", len(new) - _WARNINGS)
        for one in new:
            self._record.add(REFUSED, one[1].part)
            self._refused[one] = None
        for _ in range(len(self._refused) - _REMEMBERED):
            del self._refused[next(iter(self._refused))]

    def _run(self) -> None:
        seen, wait = None, threading.Event()
        looks = 0
        while True:
            try:
                deadline = Deadline(_PATIENCE)
                generation = self._store.generation(self._chassis(deadline), deadline)
                if generation != seen or looks * _LOOK >= _FULL_LOOK:
                    seen, looks = (generation if self.follow() else None), 0
            except OvnDockerError as error:
                log.debug("cannot follow the cluster now: %s", error)
                seen = None
            except Exception:
                log.exception("following the cluster failed")
            looks += 1
            wait.wait(_LOOK)
