"""Keeps this host's Docker in step with the networks that have a name in the cluster (``-o ovn.network``).

``docker network create`` on one host makes a network appear on all, ``docker network rm`` makes it go, as
with the key-value store that Docker had until version 23. All of it happens outside Docker's calls to us:
Docker may not be asked while it waits for an answer.

The life of a shared network, and which host may end it: docs/architecture.md, "A shared network lives as
long as a host needs it".
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, check_subnets
from ovn_docker.errors import Conflict, OvnDockerError
from ovn_docker.metrics import REFUSED, REPAIRS, Recorder, Unrecorded
from ovn_docker.model import (
    Chassis,
    Definition,
    IpNetwork,
    LocalNetwork,
    NetworkId,
    Note,
    Refusal,
    SharedNetwork,
)
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_LOOK = 2.0
"""Seconds between two looks at the generation: one row by its UUID, 0.05 ms of the database's time."""

_FULL_LOOK = 30.0
"""Seconds between two full comparisons when nothing seems to have changed."""

_REST = 0.5
"""Seconds between two full comparisons at least, however often Docker's containers change."""

_GOING = 10.0
"""Seconds that Docker and the driver may take to remove a network; many times what they need."""

_PATIENCE = 10.0

_WARNINGS = 10
"""Refused networks that one comparison logs; any host can write any number of them."""

_REMEMBERED = 4096
"""Refusals that are not logged again; the oldest is forgotten first."""


class Store(Protocol):
    """The networks of the cluster."""

    def generation(self, chassis: Chassis, deadline: Deadline) -> str:
        """Opaque version token; changes on every update."""

    def networks(self, chassis: Chassis, deadline: Deadline) -> list[SharedNetwork]:
        """All of them."""

    def notes(
        self, networks: Iterable[NetworkId], chassis: Chassis, deadline: Deadline
    ) -> dict[NetworkId, Note]:
        """This host's notes on some networks of its Docker."""

    def write_note(self, network: NetworkId, note: Note, chassis: Chassis, deadline: Deadline) -> None:
        """Change a note of this host."""

    def noted(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Whether this host has a note on a network, of whichever ID of its Docker."""

    def left(self, networks: Iterable[SharedNetwork], chassis: Chassis, deadline: Deadline) -> set[str]:
        """Names of the networks that this host has left."""

    def keep(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Take back the removal of a network that this host needs; False if it is too late."""

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
    """Compares the cluster's networks with Docker's and makes and removes networks in Docker.

    Without *mirror* it does neither, and only notes which networks containers of this host belong to.
    *connected*: the networks that this host's own links are in.
    """

    def __init__(
        self,
        store: Store,
        chassis: Callable[[Deadline], Chassis],
        engine: Engine,
        record: Recorder | None = None,
        connected: Callable[[], list[IpNetwork]] = list,
        *,
        mirror: bool = True,
    ) -> None:
        self._record = record or Unrecorded()
        self._store = store
        self._chassis = chassis
        self._engine = engine
        self._mirror = mirror
        self._connected = connected
        self._refused: dict[tuple[str, Refusal], None] = {}
        self._going: dict[str, float] = {}
        """When a network was first missing in Docker while this host had a note on it."""
        self._told: dict[str, str] = {}
        self._removing: NetworkId | None = None
        self._making = ""
        self._woken = threading.Event()

    def makes(self, name: str) -> bool:
        """True while Docker creates *name* on our request, mirroring another host."""
        return name == self._making

    def removes(self, network: NetworkId) -> bool:
        """True while Docker removes *network* on our request, mirroring another host."""
        return network == self._removing

    def start(self, threads: Threads) -> None:
        """Follow in a thread of its own, for the life of the process."""
        threads.start("cluster", "keeps Docker's networks in step with the cluster's", self._run)

    def wake(self) -> None:
        """Compare soon: a container or a network of this host's Docker has changed."""
        self._woken.set()

    def follow(self) -> bool:
        """Bring Docker in step once; False if something has to wait, such as for containers to go.

        Raises OvnDockerError if the database or Docker cannot be reached.
        """
        deadline = Deadline(_PATIENCE)
        chassis = self._chassis(deadline)
        # First what is here: a network made after that, in the place of one removed, has another ID.
        local = {network.shared: network for network in self._engine.networks()}
        shared = self._store.networks(chassis, deadline)
        notes = self._store.notes((one.id for one in local.values()), chassis, deadline)
        missing = [one for one in shared if one.name not in local and self._mirror]
        left = self._store.left(missing, chassis, deadline) if missing else set()
        done, refused = True, []
        for network in shared:
            here = local.get(network.name)
            note = notes.get(here.id) if here else None
            try:
                if here and note:
                    self._note_use(network, here, note, chassis, deadline)
                if self._mirror and network.name not in left:
                    self._bring_in_step(network, here, note, chassis, deadline)
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

    def _note_use(
        self,
        network: SharedNetwork,
        here: LocalNetwork,
        note: Note,
        chassis: Chassis,
        deadline: Deadline,
    ) -> None:
        """Let the other hosts know whether containers of this one belong to the network.

        A used network goes on into the life that another host has begun: it has the same logical switch.
        """
        life = network.incarnation if here.used and not network.removed else note.incarnation
        if Note(life, here.used) != note:
            self._store.write_note(here.id, Note(life, here.used), chassis, deadline)

    def _bring_in_step(
        self,
        network: SharedNetwork,
        here: LocalNetwork | None,
        note: Note | None,
        chassis: Chassis,
        deadline: Deadline,
    ) -> None:
        """Raises Refused for what this host does not follow."""
        if here is None:
            if (
                not network.removed
                and network.definition is not None
                and not self._is_going(network, chassis, deadline)
            ):
                check_subnets(network.definition, chassis.addresses, self._connected())
                self._create(network.definition)
        elif network.removed:
            self._give_up(network, here, chassis, deadline)
        elif note is not None and note.incarnation != network.incarnation and not here.used:
            self._remove(here)  # it is of an earlier life; the present one is made at the next look
            self.wake()
        elif network.definition is None and here.definition is not None:
            self._store.define(here.definition, chassis, deadline)
        elif network.definition is None and here.refused is not None:
            raise Refused(here.refused.part, f"other hosts cannot have it: {here.refused.why}")
        if network.refused is not None:
            raise Refused(network.refused.part, network.refused.why)

    def _is_going(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Whether the user of this host may just be removing a network.

        Docker lists a network no more before it asks the driver to delete it, which deletes this host's note.
        A note that stays was left by a crash.
        """
        if not self._store.noted(network, chassis, deadline):
            self._going.pop(network.name, None)
            return False
        going = time.monotonic() - self._going.setdefault(network.name, time.monotonic()) < _GOING
        if going:
            self.wake()
        return going

    def _give_up(
        self, network: SharedNetwork, here: LocalNetwork, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Remove a network that was removed elsewhere, or take that back if this host needs it."""
        if not here.used or network.forced:
            self._remove(here)
        elif self._store.keep(network, chassis, deadline):
            log.warning(
                "network %s stays in the cluster: it was removed elsewhere, but containers of this host "
                "belong to it",
                network.name,
            )

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

    def _create(self, wanted: Definition) -> None:
        self._making = wanted.name
        try:
            self._engine.create_network(wanted)
        finally:
            self._making = ""
        self._record.add(REPAIRS, "network")
        log.info("created network %s, as in the cluster", wanted.name)

    def _remove(self, here: LocalNetwork) -> None:
        self._removing = here.id
        try:
            self._engine.remove_network(here)
        finally:
            self._removing = None
        self._record.add(REPAIRS, "network")
        log.info("removed network %s, as in the cluster", here.shared)

    def _run(self) -> None:
        seen, looks = None, 0
        while True:
            try:
                deadline = Deadline(_PATIENCE)
                generation = self._store.generation(self._chassis(deadline), deadline)
                if self._woken.is_set() or generation != seen or looks * _LOOK >= _FULL_LOOK:
                    self._woken.clear()
                    seen, looks = (generation if self.follow() else None), 0
                    time.sleep(_REST)
            except OvnDockerError as error:
                log.debug("cannot follow the cluster now: %s", error)
                seen = None
            looks += 1
            self._woken.wait(_LOOK)
