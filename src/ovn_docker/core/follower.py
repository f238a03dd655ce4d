"""Keeps this host's Docker in step with the shared networks (``-o ovn.network``).

``docker network create`` on one host creates a shared network on all hosts, ``docker network rm`` removes it
from all, as with the key-value store that Docker had until version 23. The follower works outside of Docker's
calls to the driver, because Docker must not be asked anything while it waits for a reply.

The life of a shared network, and which host may end it: docs/architecture.md, "A shared network lives as long
as a host needs it".
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from ovn_docker.core.creations import Creations
from ovn_docker.core.protocols import NetworkEngine, SharedNetworkStore
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

_RETRY = 2.0
"""Seconds until the next comparison when something has to wait, or until the next attempt to watch."""

_QUIET = 30.0
"""Seconds between two comparisons when nothing has changed."""

_REST, _LONGEST_REST = 0.05, 0.4
"""Least seconds between two comparisons: after the first change, and when many changes follow each other."""

_LEAVING = 10.0
"""Seconds that Docker and the driver may take to remove a network; many times what they need."""

_READING = 10.0
"""Seconds that the requests of one comparison to the database may take."""

_WARNINGS = 10
"""Refused networks that one comparison logs; any host can write any number of them."""

_REMEMBERED = 4096
"""Refusals that are not logged again; the oldest is dropped first."""


class Follower:
    """Compares the shared networks with Docker's, and creates and removes networks in Docker.

    Without *mirror*, the follower changes nothing in Docker; it only writes in this host's notes whether
    containers belong to a shared network. *occupied* returns the networks that this host has routes to. The
    follower reports to the other hosts the subnets in use here and the shared networks that this host cannot
    have or use. *creations*: see class Creations.
    """

    def __init__(
        self,
        store: SharedNetworkStore,
        chassis: Callable[[Deadline], Chassis],
        engine: NetworkEngine,
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
        self._leaving: dict[str, float] = {}
        """For each network with a note of this host, the time since which Docker lacks it."""
        self._logged: dict[str, str] = {}
        """For each network that Docker refuses, the reason that was logged."""
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
        """Follow in two threads for the life of the process."""
        threads.start("cluster", "keeps Docker's networks in step with the cluster's", self._run)
        threads.start("changes", "waits for changes of the cluster's networks", self._watch)

    def wake(self) -> None:
        """Compare soon, because a container or network of this host's Docker has changed."""
        self._woken.set()

    def follow(self) -> bool:
        """Bring Docker in step once. Returns False if something has to wait, such as for containers to stop.

        Raises OvnDockerError if the database or Docker cannot be reached.
        """
        deadline = Deadline(_READING)
        chassis = self._chassis(deadline)
        # Docker is read first: a network that is created later in place of a removed one has another ID.
        local = {network.shared: network for network in self._engine.networks()}
        for one in local.values():
            self._creations.listed(one.id)
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
                if network.refused is None:  # otherwise every host finds the problem itself
                    problems.append(_problem(network, error.refusal))
            except Conflict as error:
                done = False
                if network.name in self._creations:
                    continue  # the user of this host is creating it
                conflicts.append((network.name, str(error)))
                if not network.removed:
                    problems.append(Problem(network.name, Obstacle.DOCKER, str(error)))
        self._warn(refused)
        self._log_conflicts(conflicts)
        report = Report(chassis.system_id, tuple(occupied), tuple(problems))
        self._store.write_report(report, chassis, deadline)
        return done

    def _left(self, missing: list[SharedNetwork], chassis: Chassis, deadline: Deadline) -> set[str]:
        """Return the names of the networks that were removed from this host only."""
        return self._store.left(missing, chassis, deadline) if missing and self._mirror else set()

    def _note_use(
        self,
        network: SharedNetwork,
        here: LocalNetwork | None,
        note: Note | None,
        chassis: Chassis,
        deadline: Deadline,
    ) -> None:
        """Write in this host's note whether its containers belong to the network.

        A network in use takes over the incarnation that another host has begun: the logical switch is the
        same.
        """
        if here is None or note is None:
            return
        incarnation = network.incarnation if here.used and not network.removed else note.incarnation
        if Note(incarnation, here.used) != note:
            self._store.write_note(here.id, Note(incarnation, here.used), chassis, deadline)

    def _stand_by(
        self,
        network: SharedNetwork,
        here: LocalNetwork | None,
        note: Note | None,
        chassis: Chassis,
        deadline: Deadline,
    ) -> None:
        """Store the definition of a network that this host has; done without *mirror* too. Raises Refused."""
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
        """Create or remove one network. Raises Refused if this host refuses it, Conflict if Docker does."""
        if here is None:
            if (
                not network.removed
                and network.definition is not None
                and not self._is_being_created(network)
                and not self._is_being_removed(network, chassis, deadline)
            ):
                subnets = [pool.subnet for pool in network.definition.pools]
                check_subnets(subnets, chassis.addresses, occupied)
                self._create(network.definition)
        elif network.removed:
            self._give_up(network, here, chassis, deadline)
        elif note is not None and note.incarnation != network.incarnation and not here.used:
            self._remove(here)  # of an earlier incarnation; the next comparison creates the present one
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
        """Store the definition of a network of this host. Raises Refused if other hosts cannot have it."""
        if network.definition is None and here.definition is not None:
            self._store.define(here.definition, chassis, deadline)
            self._warn_of_overlaps(here.definition, chassis, deadline)
        elif network.definition is None and here.refused is not None:
            raise Refused("definition", f"other hosts cannot have it: {here.refused.why}")

    def _replace(self, network: SharedNetwork, here: LocalNetwork) -> None:
        """Remove a network that differs from the shared one of its name, which is created next.

        Its user gave no subnet, and another host created the network with another subnet at the same time
        (backends/ovn/shared/membership.py, join).
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
                "and the driver creates it again"
            )
        self._remove(here)
        self.wake()

    def _warn_of_overlaps(self, definition: Definition, chassis: Chassis, deadline: Deadline) -> None:
        """Log the hosts that use the addresses of a new network for something else."""
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

    def _is_being_created(self, network: SharedNetwork) -> bool:
        """Return True while the user of this host creates a network."""
        if network.name in self._creations:
            self.wake()
            return True
        return False

    def _is_being_removed(self, network: SharedNetwork, chassis: Chassis, deadline: Deadline) -> bool:
        """Return True while the user of this host may be removing a network.

        Docker first stops listing a network, then has the driver delete it, which deletes this host's note.
        A note that stays longer was left by a crash.
        """
        if not self._store.noted(network, chassis, deadline):
            self._leaving.pop(network.name, None)
            return False
        leaving = time.monotonic() - self._leaving.setdefault(network.name, time.monotonic()) < _LEAVING
        if leaving:
            self.wake()
        return leaving

    def _give_up(
        self, network: SharedNetwork, here: LocalNetwork, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Remove a network that another host has removed, or take the removal back if this host needs it."""
        if not here.used or network.forced:
            self._remove(here)
        elif self._store.keep(network, chassis, deadline):
            log.warning(
                "network %s stays in the cluster: it was removed elsewhere, but containers of this host "
                "belong to it",
                network.name,
            )

    def _log_conflicts(self, conflicts: list[tuple[str, str]]) -> None:
        """Log each network that Docker refuses, once for each reason."""
        for name, why in conflicts:
            if self._logged.get(name) != why:
                log.warning("network %s of the cluster: %s", name, why)
        self._logged = dict(conflicts)

    def _warn(self, refused: list[tuple[str, Refusal]]) -> None:
        """Count and log each refused network, once for each reason."""
        new = [one for one in refused if one not in self._refused]
        for name, refusal in new[:_WARNINGS]:
            log.warning(
                "network %s of the cluster is refused: %s; see `ovn-docker doctor`", name[:64], refusal.why
            )
        if len(new) > _WARNINGS:
            log.warning("%d more shared networks are refused", len(new) - _WARNINGS)
        for one in new:
            self._record.add(REFUSED, one[1].part)
            self._refused[one] = None
        for _ in range(len(self._refused) - _REMEMBERED):
            del self._refused[next(iter(self._refused))]

    def _create(self, wanted: Definition) -> None:
        self._making = wanted.name
        try:
            self._creations.listed(self._engine.create_network(wanted))
        except Unavailable as error:  # the other networks must not wait for this one
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
            self._woken.wait(_QUIET if done else _RETRY)

    def _watch(self) -> None:
        """Wake the other thread on every change, and first of all: no change is lost after an outage."""
        while True:
            try:
                for _ in self._store.watch(self._chassis(Deadline(_READING))):
                    self.wake()
            except OvnDockerError as error:
                log.debug("cannot watch the cluster now: %s", error)
            time.sleep(_RETRY)


def _distinct(found: Sequence[Occupied]) -> list[Occupied]:
    """Return each subnet once, with its first name; subnets of links come first, then large ones."""
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
    """Return the overlaps with docker_gwbridge, to which Docker connects each container as well.

    A container cannot have the same subnet on two interfaces.
    """
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
