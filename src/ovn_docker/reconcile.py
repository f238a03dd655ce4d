"""Compares what should be on this host with what is, and mends the difference.

What should be is Docker's word: its networks, and the endpoints of its containers that run. Docker does not
always say when something is gone: not after a crash or a reboot, nor what it could not delete because the
plugin or a database was away (docs/reliability.md, "What is compared and repaired").

This is the only comparison there is: the daemon's look every minute, ``ovn-docker gc`` and the doctor use it.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from ovn_docker.deadline import Deadline
from ovn_docker.driver import Backend, Driver, Links, Switch
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.metrics import FOUND, LEFTOVERS, UNCLEARED, Recorder, Unrecorded
from ovn_docker.model import (
    HOST_LINK,
    Chassis,
    Difference,
    EndpointId,
    Kind,
    NetworkId,
    StoredEndpoint,
    StoredNetwork,
    host_link,
    since,
)
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_PATIENCE = 30.0
"""Seconds that one look at a database may take; nobody waits for it."""

_SOON = 5.0
"""Seconds until the next look after something failed; twice that after it failed again, and so on."""

_LOOKS = 2
"""How often to look at the store after a start or a failure, and after the calls of that moment: at the first
look Docker may not have let go yet of what it could not delete."""

_STALE = 660.0
"""Seconds from a start or a failure to one more look at the store: by then what a call had asked for that was
broken off, and that Docker might still have come back to, is nobody's."""

_STORE_INTERVAL = 24 * 3600.0
"""Seconds between two looks at the store when nothing has failed: each takes half a second of the database's
time at 100 000 ports, which 2 000 hosts must not ask for too often."""


class Mode(StrEnum):
    """What the daemon does with what it finds."""

    OFF = "off"
    REPORT = "report"
    REPAIR = "repair"


class Store(Protocol):
    """What the backend stores, looked at as a whole. May be slow."""

    place: str
    """What people call it."""

    def mine(self, chassis: Chassis, deadline: Deadline) -> tuple[list[StoredNetwork], list[Difference]]:
        """Every network that this host has made, joined or attached to, but for swarm's; and strays.

        Those are what this host has stored that belongs to nothing else there: Docker's word is not needed.
        """

    def clear(self, stray: Difference, chassis: Chassis, deadline: Deadline) -> bool:
        """Delete one of them, unless something belongs to it after all; whether it was deleted."""

    def common(self, chassis: Chassis, deadline: Deadline) -> list[Difference]:
        """What belongs to nothing and to no host: anybody may delete it, but one at a time."""

    def clear_common(self, chassis: Chassis, deadline: Deadline, *, unless_lately: bool) -> list[Difference]:
        """Delete that; returns what was deleted: nothing while another host is at it, or was just now."""


class Engine(Protocol):
    """This host's Docker."""

    def inventory(self) -> tuple[set[EndpointId], set[NetworkId]]:
        """Endpoints of containers that run, and all networks. Raises Unavailable if it is in doubt."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is on this host and, of this host, in the store.

    *joined*: our links, and whether the other end is in a container; *links*: those of them that were there
    before the calls in flight were looked at.
    """

    place: str
    stored: tuple[StoredEndpoint, ...] = ()
    plugged: tuple[StoredEndpoint, ...] = ()
    networks: tuple[StoredNetwork, ...] = ()
    joined: Mapping[str, bool] = field(default_factory=dict)
    links: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be. *in_flight*: what calls are working on, or just were; ``None`` where nobody knows."""

    endpoints: frozenset[EndpointId] = frozenset()
    networks: frozenset[NetworkId] = frozenset()
    in_flight: frozenset[str] | None = frozenset()


def compare(found: Found, wanted: Wanted, grace: float) -> list[Difference]:
    """What is and should not be, of endpoints, links and networks. Pure.

    Younger than *grace* seconds is what Docker may not have come to yet: a network that it does not list,
    an endpoint that it has not joined. One that has no port by the end of its call gets none any more. Where
    nobody knows the calls in flight, all that is so young may be in one.
    Any host can write that an endpoint is this host's. One that has left no trace here, and that OVN has at
    work, is at work on another host; one whose link is that of another endpoint was never here.
    """
    endpoints = {one.id: one for one in (*found.stored, *found.plugged)}
    stored, plugged = ({one.id for one in some} for some in (found.stored, found.plugged))
    owners = {
        host_link(EndpointId(id_)): id_ for id_ in (*plugged, *(wanted.in_flight or ()), *wanted.endpoints)
    }
    gone = {
        id_: endpoint
        for id_, endpoint in endpoints.items()
        if id_ not in wanted.endpoints
        and endpoint.dead(found.joined.get(host_link(id_)), grace if id_ in plugged else -1)
        and not _in_flight(id_, endpoint.age, wanted, grace)
        and (not endpoint.up or host_link(id_) in found.joined)
        and owners.get(host_link(id_), id_) == id_
    }
    differences = [
        Difference(
            Kind.ENDPOINT,
            id_,
            ", ".join(
                place
                for place, there in (
                    (found.place, id_ in stored),
                    ("Open vSwitch", id_ in plugged),
                    (f"link {host_link(id_)}", host_link(id_) in found.joined),
                )
                if there
            ),
            since(endpoint.age),
            "no container that Docker knows has it; it holds its addresses",
            "delete all that there is of it",
        )
        for id_, endpoint in sorted(gone.items())
    ]
    used = {host_link(EndpointId(id_)) for id_ in (*endpoints, *wanted.endpoints, *(wanted.in_flight or ()))}
    differences += [
        Difference(Kind.LINK, link, "this host", None, "it belongs to no endpoint", "delete it")
        for link in sorted(found.links - used)
        if found.joined.get(link) is False and wanted.in_flight is not None
    ]
    living = {endpoint.network for endpoint in endpoints.values() if endpoint.id not in gone}
    for network in found.networks:
        if not (
            network.age <= grace
            or any(id_.startswith(network.id) for id_ in wanted.networks | living)
            or _in_flight(network.id, network.age, wanted, grace)
        ):
            differences.append(
                Difference(
                    Kind.NETWORK,
                    network.id,
                    found.place,
                    since(network.age),
                    "Docker on this host does not have it",
                    f"forget that this host has {network.shared}, which stays"
                    if network.shared
                    else "delete it with all that belongs to it",
                )
            )
    return differences


def _in_flight(id_: str, age: float, wanted: Wanted, grace: float) -> bool:
    if wanted.in_flight is None:
        return age <= grace
    return any(busy.startswith(id_) for busy in wanted.in_flight)


class Reconciler:
    """Looks at this host every *interval* seconds, and at the store when it may have to (see _run).

    That is at the start, dockerd's too, after a delete or a request that had no answer, some minutes after
    these, and once a day.

    For a store, a look at all that a host has is a search through whole tables. Thousands of hosts that
    searched them every minute would keep it busy with nothing else.

    *alone*: there is no other process that may answer Docker's calls.
    """

    def __init__(
        self,
        driver: Driver,
        backend: Backend,
        store: Store,
        switch: Switch,
        links: Links,
        engine: Engine,
        interval: float,
        mode: Mode = Mode.REPAIR,
        record: Recorder | None = None,
        *,
        alone: bool = True,
    ) -> None:
        self._record = record or Unrecorded()
        self._driver = driver
        self._backend = backend
        self._store = store
        self._switch = switch
        self._links = links
        self._engine = engine
        self._interval = interval
        self._mode = mode
        self._alone = alone
        self._lock = threading.Lock()
        self._told: set[tuple[Kind, str, str]] = set()

    def start(self, threads: Threads) -> None:
        """Look, and mend if that is the mode, in a thread of its own for the life of the process."""
        threads.start("reconcile", "looks for what is left over", self._run)

    def look(self, *, store_too: bool = True) -> list[Difference]:
        """The difference now, and nothing is changed.

        What has left a trace on this host is found everywhere; *store_too*: also what has left none.

        Raises OvnDockerError if a database cannot be reached, or if Docker has to be asked and cannot be.
        The order of the looks matters: an endpoint is first stored, then linked, then plugged, and all that
        time in flight; so whoever is seen stored or linked, and after that neither in flight nor plugged,
        has been left behind. Docker is asked last, and only if there is something to ask for.
        """
        chassis = self._switch.chassis(Deadline(_PATIENCE))
        stored = self._backend.endpoints(chassis, Deadline(_PATIENCE)) if store_too else []
        networks, strays = self._store.mine(chassis, Deadline(_PATIENCE)) if store_too else ([], [])
        links = frozenset(self._links.joined(HOST_LINK))
        in_flight = frozenset(self._driver.busy()) if self._alone else None
        plugged = self._switch.endpoints(Deadline(_PATIENCE))
        joined = self._links.joined(HOST_LINK)
        for endpoint in (*stored, *plugged):
            link = host_link(endpoint.id)
            if link not in joined and self._links.exists(link):
                joined[link] = True  # it was missed: nobody knows
        found = Found(self._store.place, tuple(stored), tuple(plugged), tuple(networks), joined, links)
        differences = compare(found, Wanted(in_flight=in_flight), self._interval)
        if differences:
            endpoints, all_networks = self._engine.inventory()
            wanted = Wanted(frozenset(endpoints), frozenset(all_networks), in_flight)
            differences = compare(found, wanted, self._interval)
        gone = {one.what for one in differences}
        needed = {endpoint.id for endpoint in plugged if endpoint.id not in gone} | (in_flight or set())
        return differences + [one for one in strays if one.endpoint not in needed]

    def look_everywhere(self) -> list[Difference]:
        """That, and what belongs to no host."""
        chassis = self._switch.chassis(Deadline(_PATIENCE))
        return [*self.look(), *self._store.common(chassis, Deadline(_PATIENCE))]

    def repair(self, *, store_too: bool = True) -> list[Difference]:
        """Mend the difference of this host; returns what was mended.

        Raises OvnDockerError as look(), or for the first that cannot be mended when all were tried.
        """
        mended, failed = [], None
        with self._lock:
            chassis = self._switch.chassis(Deadline(_PATIENCE))
            self._driver.finish(chassis, Deadline(_PATIENCE))
            for difference in self._tell(self.look(store_too=store_too)):
                try:
                    if self._mend(difference, chassis):
                        log.warning("cleared %s", difference)
                        self._record.add(LEFTOVERS, difference.kind)
                        mended.append(difference)
                except OvnDockerError as error:
                    log.warning("could not clear %s: %s", difference, error)
                    failed = failed or error
        if failed:
            raise failed
        return mended

    def repair_everywhere(self, *, unless_lately: bool = False) -> list[Difference]:
        """That, and what belongs to no host, unless another host is at it."""
        mended = self.repair()
        chassis = self._switch.chassis(Deadline(_PATIENCE))
        common = self._store.clear_common(chassis, Deadline(_PATIENCE), unless_lately=unless_lately)
        for difference in common:
            log.warning("cleared %s", difference)
            self._record.add(FOUND, difference.kind)
            self._record.add(LEFTOVERS, difference.kind)
        return [*mended, *common]

    def _mend(self, difference: Difference, chassis: Chassis) -> bool:
        busy = self._driver.busy()
        if any(id_.startswith(difference.what) for id_ in busy):
            return False
        deadline = Deadline(_PATIENCE)
        match difference.kind:
            case Kind.ENDPOINT:
                self._driver.remove(EndpointId(difference.what), chassis, deadline)
            case Kind.LINK:
                self._links.delete(difference.what)
            case Kind.NETWORK:
                self._backend.drop_network(NetworkId(difference.what), chassis, deadline)
            case _:
                return self._store.clear(difference, chassis, deadline)
        return True

    def _tell(self, differences: list[Difference]) -> list[Difference]:
        """Count, and in mode report log, each of them once."""
        for one in differences:
            told = (one.kind, one.what, one.row)  # an address may be left over again, in another row
            if told not in self._told:
                self._told.add(told)
                self._record.add(FOUND, one.kind)
                if self._mode is Mode.REPORT:
                    log.warning("found %s; clear it with: ovn-docker gc --repair", one)
        return differences

    def _turn(self, *, store_too: bool) -> None:
        self._links.restore_guard(self._switch.guarded(Deadline(_PATIENCE)))
        if self._mode is Mode.REPAIR:
            if store_too:
                self.repair_everywhere(unless_lately=True)
            else:
                self.repair(store_too=False)
            return
        self._driver.finish(self._switch.chassis(Deadline(_PATIENCE)), Deadline(_PATIENCE))
        if self._mode is Mode.REPORT:
            self._tell(self.look(store_too=store_too))

    def _run(self) -> None:
        looks, due = _LOOKS, time.monotonic() + _STALE  # what was before us may have left anything
        busy = set[str]()  # since before the last failure: who may leave something behind yet
        pause = _SOON
        while True:
            if self._driver.leftovers.is_set():
                looks, due = _LOOKS, time.monotonic() + _STALE
                self._driver.leftovers.clear()
                busy = self._driver.busy()
            elif time.monotonic() > due:
                looks, due = 1, time.monotonic() + _STORE_INTERVAL
            try:
                self._turn(store_too=looks > 0)
                looks -= bool(looks and not busy)
                pause = _SOON
            except Unavailable as error:
                log.info("could not look for leftovers, will try again: %s", error)
                self._record.add(UNCLEARED)
                self._driver.leftovers.set()
                pause *= 2  # a store is not to be searched all the time because Docker is away
            except OvnDockerError as error:  # nothing that time mends
                log.warning("could not clear all that is left over: %s", error)
                self._record.add(UNCLEARED)
                looks -= bool(looks and not busy)
            busy &= self._driver.busy()
            if self._driver.leftovers.wait(self._interval):
                time.sleep(min(self._interval, pause))  # what was missing may be back in a moment
