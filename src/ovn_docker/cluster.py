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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from ovn_docker.creations import Creations
from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, check_subnets, overlap
from ovn_docker.errors import Conflict, OvnDockerError, Unavailable
from ovn_docker.metrics import REFUSED, REPAIRS, Recorder, Unrecorded
from ovn_docker.model import (
    GATEWAY_BRIDGE,
    Chassis,
    Definition,
    LocalNetwork,
    NetworkId,
    Note,
    Obstacle,
    Occupied,
    Problem,
    Refusal,
    Report,
    SharedNetwork,
)
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_AGAIN = 2.0
"""Seconds until the next comparison when something had to wait, or until the next attempt to watch."""

_QUIET = 30.0
"""Seconds between two comparisons when nothing seems to have changed."""

_REST, _LONGEST_REST = 0.05, 0.4
"""Seconds between two comparisons at least: the first time, and when one change follows the other."""

_GOING = 10.0
"""Seconds that Docker and the driver may take to remove a network; many times what they need."""

_PATIENCE = 10.0

_WARNINGS = 10
"""Refused networks that one comparison logs; any host can write any number of them."""

_REMEMBERED = 4096
"""Refusals that are not logged again; the oldest is forgotten first."""


class Store(Protocol):
    """The networks of the cluster."""

    def watch(self, chassis: Chassis) -> Iterator[None]:
        """Yield at first and whenever something may have changed, without end. Raises Unavailable."""

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

    def write_report(self, report: Report, chassis: Chassis, deadline: Deadline) -> None:
        """Have the other hosts read this host's report."""

    def reports(self, chassis: Chassis, deadline: Deadline) -> list[Report]:
        """Reports of all hosts."""


class Engine(Protocol):
    """This host's Docker."""

    def networks(self) -> list[LocalNetwork]:
        """Its networks of our driver that have a name in the cluster."""

    def subnets(self) -> list[Occupied]:
        """Subnets of its networks of other drivers."""

    def create_network(self, wanted: Definition) -> NetworkId:
        """Make a network, which is listed from then on.

        Raises Conflict if Docker refuses it, Unavailable if it does not answer.
        """

    def remove_network(self, network: LocalNetwork) -> None:
        """Remove a network. Raises Conflict if containers use it."""


class Follower:
    """Compares the cluster's networks with Docker's and makes and removes networks in Docker.

    Without *mirror* it does neither, and only notes which networks containers of this host belong to.
    *occupied*: the networks that this host has routes to. It reports to the other hosts what it occupies and
    which networks of the cluster it cannot have or use. *creations*: see there.
    """

    def __init__(
        self,
        store: Store,
        chassis: Callable[[Deadline], Chassis],
        engine: Engine,
        record: Recorder | None = None,
        occupied: Callable[[], list[Occupied]] = list,
        creations: Creations | None = None,
        *,
        mirror: bool = True,
    ) -> None:
        self._record = record or Unrecorded()
        self._store = store
        self._chassis = chassis
        self._engine = engine
        self._mirror = mirror
        self._occupied = occupied
        self._creations = creations or Creations()
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
        """Follow in threads of its own, for the life of the process."""
        threads.start("cluster", "keeps Docker's networks in step with the cluster's", self._run)
        threads.start("changes", "waits for changes of the cluster's networks", self._watch)

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
        for one in local.values():
            self._creations.end(one.id)
        occupied = _distinct([*self._engine.subnets(), *self._occupied()])
        shared = self._store.networks(chassis, deadline)
        notes = self._store.notes((one.id for one in local.values()), chassis, deadline)
        left = self._left([one for one in shared if one.name not in local], chassis, deadline)
        refused: list[tuple[str, Refusal]] = []
        done, conflicts, problems = True, [], []
        for network in shared:
            here = local.get(network.name)
            note = notes.get(here.id) if here else None
            try:
                self._note_use(network, here, note, chassis, deadline)
                if not self._mirror:
                    self._stand_by(network, here, note, chassis, deadline)
                elif network.name not in left:
                    self._bring_in_step(network, here, note, occupied, chassis, deadline)
                problems += _gateway_problems(here, occupied)
            except Refused as error:
                refused.append((network.name, error.refusal))
                if network.refused is None:  # or every host sees it by itself
                    problems.append(_problem(network, error.refusal))
            except Conflict as error:
                done = False
                if network.name in self._creations:
                    continue  # its user was quicker
                conflicts.append((network.name, str(error)))
                if not network.removed:
                    problems.append(Problem(network.name, Obstacle.DOCKER, str(error)))
        self._warn(refused)
        self._tell(conflicts)
        report = Report(chassis.system_id, tuple(occupied), tuple(problems))
        self._store.write_report(report, chassis, deadline)
        return done

    def _left(self, missing: list[SharedNetwork], chassis: Chassis, deadline: Deadline) -> set[str]:
        """Names of the networks that this host's user has removed from this host alone."""
        return self._store.left(missing, chassis, deadline) if missing and self._mirror else set()

    def _note_use(
        self,
        network: SharedNetwork,
        here: LocalNetwork | None,
        note: Note | None,
        chassis: Chassis,
        deadline: Deadline,
    ) -> None:
        """Let the other hosts know whether containers of this one belong to the network.

        A used network goes on into the life that another host has begun: it has the same logical switch.
        """
        if here is None or note is None:
            return
        life = network.incarnation if here.used and not network.removed else note.incarnation
        if Note(life, here.used) != note:
            self._store.write_note(here.id, Note(life, here.used), chassis, deadline)

    def _stand_by(
        self,
        network: SharedNetwork,
        here: LocalNetwork | None,
        note: Note | None,
        chassis: Chassis,
        deadline: Deadline,
    ) -> None:
        """Store the definition of a network that is here, also without *mirror*. Raises Refused."""
        if here and note and not network.removed:
            self._define(network, here, chassis, deadline)

    def _bring_in_step(
        self,
        network: SharedNetwork,
        here: LocalNetwork | None,
        note: Note | None,
        occupied: Iterable[Occupied],
        chassis: Chassis,
        deadline: Deadline,
    ) -> None:
        """Raises Refused for what this host does not follow, Conflict for what Docker does not do."""
        if here is None:
            if (
                not network.removed
                and network.definition is not None
                and not self._is_coming(network)
                and not self._is_going(network, chassis, deadline)
            ):
                subnets = [pool.subnet for pool in network.definition.pools]
                check_subnets(subnets, chassis.addresses, occupied)
                self._create(network.definition)
        elif network.removed:
            self._give_up(network, here, chassis, deadline)
        elif note is not None and note.incarnation != network.incarnation and not here.used:
            self._remove(here)  # it is of an earlier life; the present one is made at the next look
            self.wake()
        elif note is None:
            self._replace(network, here)
        else:
            self._define(network, here, chassis, deadline)
        if network.refused is not None:
            raise Refused(network.refused.part, network.refused.why)

    def _define(
        self, network: SharedNetwork, here: LocalNetwork, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Let the other hosts know how this one has made a network. Raises Refused if they cannot have it."""
        if network.definition is None and here.definition is not None:
            self._store.define(here.definition, chassis, deadline)
            self._warn_of_overlaps(here.definition, chassis, deadline)
        elif network.definition is None and here.refused is not None:
            raise Refused("definition", f"other hosts cannot have it: {here.refused.why}")

    def _replace(self, network: SharedNetwork, here: LocalNetwork) -> None:
        """Remove a network that is not the cluster's of that name; the next look makes that one.

        Its user gave no subnet, and another host made the network with another one in the same moment
        (backends/shared.py, join).
        """
        if network.definition is None or here.definition is None:
            return
        there, given = ([pool.subnet for pool in one.pools] for one in (network.definition, here.definition))
        if there == given:
            return
        if here.used:
            one, other = (", ".join(map(str, subnets)) for subnets in (given, there))
            raise Conflict(
                f"it has subnets {one} on this host and {other} in the cluster; remove its containers here, "
                "and it is made anew by itself"
            )
        self._remove(here)
        self.wake()

    def _warn_of_overlaps(self, definition: Definition, chassis: Chassis, deadline: Deadline) -> None:
        """Log which hosts have the addresses of a network that this host has made otherwise in use."""
        for report in self._store.reports(chassis, deadline):
            found = [
                one
                for one in report.occupied
                for pool in definition.pools
                if overlap(pool.subnet, one.subnet)
            ]
            if found and report.host != chassis.system_id:
                log.warning(
                    "network %s: host %s has the addresses %s in use; see `ovn-docker doctor`",
                    definition.name, report.host[:64], found[0],
                )  # fmt: skip

    def _is_coming(self, network: SharedNetwork) -> bool:
        """Whether the user of this host is just making a network."""
        if network.name in self._creations:
            self.wake()
            return True
        return False

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

    def _tell(self, conflicts: list[tuple[str, str]]) -> None:
        """Log what Docker does not do, and why, once."""
        for name, why in conflicts:
            if self._told.get(name) != why:
                log.warning("network %s of the cluster: %s", name, why)
        self._told = dict(conflicts)

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
            self._creations.end(self._engine.create_network(wanted))
        except Unavailable as error:  # the others must not wait for it
            raise Conflict(str(error)) from None
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
        rest = _REST
        while True:
            self._woken.clear()
            done = False
            try:
                done = self.follow()
            except OvnDockerError as error:
                log.debug("cannot follow the cluster now: %s", error)
            time.sleep(rest)
            rest = min(2 * rest, _LONGEST_REST) if self._woken.is_set() else _REST
            self._woken.wait(_QUIET if done else _AGAIN)

    def _watch(self) -> None:
        """Wake the other thread; what it misses while the database is away, it sees afterwards."""
        while True:
            try:
                for _ in self._store.watch(self._chassis(Deadline(_PATIENCE))):
                    self.wake()
            except OvnDockerError as error:
                log.debug("cannot watch the cluster now: %s", error)
            time.sleep(_AGAIN)


def _distinct(found: Sequence[Occupied]) -> list[Occupied]:
    """Each subnet once, by the first name that there is for it; those of links and large ones first."""
    linked = {one.subnet for one in found if one.linked}
    names = {one.subnet: one.by for one in reversed(found)}
    distinct = [
        Occupied(subnet, by, linked=subnet in linked)
        for subnet, by in names.items()
        if not subnet.is_link_local
    ]
    return sorted(distinct, key=lambda one: (not one.linked, one.subnet.prefixlen))


def _problem(network: SharedNetwork, refusal: Refusal) -> Problem:
    obstacle = Obstacle.SUBNET if refusal.part == "subnet" else Obstacle.DEFINITION
    return Problem(network.name, obstacle, refusal.why)


def _gateway_problems(here: LocalNetwork | None, occupied: Iterable[Occupied]) -> list[Problem]:
    """Docker connects each container to docker_gwbridge too, and no container can have a subnet twice."""
    if here is None or here.definition is None or dict(here.definition.switches).get("Internal"):
        return []
    return [
        Problem(
            here.shared,
            Obstacle.GATEWAY,
            f"no container starts on it: its subnet {pool.subnet} overlaps {one}",
        )
        for pool in here.definition.pools
        for one in occupied
        if one.by == GATEWAY_BRIDGE and overlap(one.subnet, pool.subnet)
    ]
