"""Compares what should be on this host with what is, and mends the difference, in both directions.

What should be is Docker's word: its networks, and the endpoints of its containers that run. Docker does not
always say when something is gone: not after a crash or a reboot, nor what it could not delete because the
plugin or a database was away; and rows that containers need may be gone from the backend
(docs/reliability.md, "What is compared and repaired").

This is the only comparison there is: the daemon's look every minute, ``ovn-docker gc`` and the doctor use it.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from ovn_docker.deadline import Deadline
from ovn_docker.driver import Backend, Driver, Links, Switch
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.hostnames import ContainerNames
from ovn_docker.metrics import FOUND, LEFTOVERS, REMADE, UNCLEARED, Recorder, Unrecorded
from ovn_docker.model import (
    HOST_LINK,
    Chassis,
    Difference,
    Endpoint,
    EndpointId,
    Gap,
    Kind,
    Network,
    NetworkId,
    StoredEndpoint,
    StoredNetwork,
    host_link,
    since,
)
from ovn_docker.printable import command
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_PATIENCE = 30.0
"""Seconds that one look at a database may take; nobody waits for it."""

_RESTORING = 600.0
"""Seconds that one host has to give the rows of a restored database their UUIDs again."""

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


class Remaker(Protocol):
    """Makes rows of this host again that are missing from the backend."""

    place: str
    """Name of the backend in messages."""

    def missing(
        self,
        networks: Mapping[NetworkId, str],
        endpoints: Iterable[StoredEndpoint],
        chassis: Chassis,
        deadline: Deadline,
    ) -> list[Gap]:
        """Rows that the backend lacks of networks, by their records, and of endpoints. Must be cheap."""

    def displaced(self, chassis: Chassis, deadline: Deadline) -> bool:
        """Whether rows of this host are there, but cannot be found. May be slow."""

    def lead_back(self, chassis: Chassis, deadline: Deadline) -> int | None:
        """Have them found again: how many; None while another host does that."""

    def make_network(
        self, network: NetworkId, text: str, chassis: Chassis, deadline: Deadline, *, used: bool
    ) -> None:
        """Make what is missing of a network. Raises Conflict if it is another one by now."""

    def make_endpoint(
        self, endpoint: StoredEndpoint, text: str, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Make what is missing of an endpoint. Raises Conflict if somebody else has its address by now."""

    def set_names(
        self, endpoint: EndpointId, names: ContainerNames, chassis: Chassis, deadline: Deadline
    ) -> None:
        """Write the names of an endpoint."""

    def record_network(self, network: Network, chassis: Chassis, deadline: Deadline) -> str:
        """The record of a network of this host's Docker that was made without one."""

    def record_endpoint(self, endpoint: Endpoint, text: str) -> str:
        """The record of an endpoint that was made without one; *text*: that of its network."""


class Engine(Protocol):
    """This host's Docker."""

    def inventory(self) -> tuple[dict[EndpointId, str], set[NetworkId]]:
        """Endpoints of containers that run, with the container's name, and all networks.

        Raises Unavailable if it is in doubt.
        """

    def used(self) -> set[str]:
        """IDs and names of the networks that containers belong to, running or stopped."""

    def names(self, container: str) -> dict[EndpointId, ContainerNames]:
        """Endpoints of a running container and its names there."""

    def described(self) -> tuple[list[Network], list[Endpoint]]:
        """Its networks of our driver, and the endpoints of the containers that run."""


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


@dataclass(frozen=True, slots=True)
class Look:
    """Results of one look: *gaps* can be filled, from the *records* of networks and of *endpoints*."""

    differences: list[Difference]
    gaps: list[Gap] = field(default_factory=list)
    records: Mapping[NetworkId, str] = field(default_factory=dict)
    endpoints: Mapping[EndpointId, StoredEndpoint] = field(default_factory=dict)
    containers: Mapping[EndpointId, str] = field(default_factory=dict)


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


def _missing(gap: Gap, containers: Mapping[EndpointId, str], place: str) -> Difference:
    """The difference that a gap makes."""
    name = containers.get(gap.endpoint, gap.endpoint[:12])
    why, cure = "Docker on this host has the network", "make it again"
    mends: tuple[str, ...] = ()
    if gap.owner and not gap.endpoint:
        why = f"{gap.owner} of the cluster has other subnets or options by now"
        cure, mends = "remove its containers, then", ("docker", "network", "rm", gap.network[:12])
    elif gap.owner:
        why = f"container {name} has it, and so has {gap.owner} by now"
        cure, mends = "give the container another one", ("docker", "restart", name)
    elif gap.removed:
        why = "it has been removed from the cluster, and no container of this host belongs to it"
        cure, mends = "remove it here too", ("docker", "network", "rm", gap.network[:12])
    elif gap.endpoint:
        why = f"container {name} needs it"
    return Difference(
        gap.kind, gap.what, f"missing in {place}", None, why, cure, gap.endpoint or gap.network, gap.endpoint,
        missing=True, command=mends,
    )  # fmt: skip


class Reconciler:
    """Looks at this host every *interval* seconds, and at the store when it may have to (see _run).

    That is at the start, dockerd's too, after a delete or a request that had no answer, some minutes after
    these, and once a day.

    For a store, a look at all that a host has is a search through whole tables. Thousands of hosts that
    searched them every minute would keep it busy with nothing else.

    *alone*: there is no other process that may answer Docker's calls; *remaker*: None if the backend's rows
    are not made again.
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
        remaker: Remaker | None = None,
        alone: bool = True,
    ) -> None:
        self._remaker = remaker
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
        self._unmade: dict[str, str] = {}
        """Why what is missing of a network or an endpoint could not be made at the last look."""

    def start(self, threads: Threads) -> None:
        """Look, and mend if that is the mode, in a thread of its own for the life of the process."""
        threads.start("reconcile", "looks for what is left over", self._run)

    def look(self, *, store_too: bool = True) -> list[Difference]:
        """The difference now, and nothing is changed.

        What has left a trace on this host is found everywhere; *store_too*: also what has left none.
        Raises OvnDockerError if a database cannot be reached, or if Docker has to be asked and cannot be.
        """
        return self._look(store_too=store_too).differences

    def _look(self, *, store_too: bool) -> Look:
        """Look as look() does, and return also what is needed to fill the gaps.

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
        living = {one.id: one for one in plugged if joined.get(host_link(one.id)) and one.record}
        records = self._switch.records(Deadline(_PATIENCE)) if self._remaker else {}
        gaps = self._gaps(records, living, in_flight or frozenset(), chassis, raises=store_too)
        containers: dict[EndpointId, str] = {}
        if differences or gaps:
            containers, all_networks = self._engine.inventory()
            wanted = Wanted(frozenset(containers), frozenset(all_networks), in_flight)
            differences = compare(found, wanted, self._interval)
            gaps = [
                gap
                for gap in gaps
                if gap.network in all_networks and (not gap.endpoint or gap.endpoint in containers)
            ]
        gone = {one.what for one in differences}
        needed = {endpoint.id for endpoint in plugged if endpoint.id not in gone} | (in_flight or set())
        differences += [one for one in strays if one.endpoint not in needed]
        if any(gap.removed for gap in gaps):
            used = self._engine.used() | {one.network for one in living.values()}
            gaps = [replace(gap, removed=gap.removed and gap.network not in used) for gap in gaps]
        lost = {gap.network: gap for gap in gaps if gap.removed or (gap.owner and not gap.endpoint)}
        gaps = [gap for gap in gaps if lost.get(gap.network, gap) is gap]
        differences += [_missing(gap, containers, self._store.place) for gap in gaps]
        fillable = [gap for gap in gaps if not (gap.owner or gap.removed)]
        return Look(differences, fillable, records, living, containers)

    def _gaps(
        self,
        records: Mapping[NetworkId, str],
        living: Mapping[EndpointId, StoredEndpoint],
        in_flight: Collection[str],
        chassis: Chassis,
        *,
        raises: bool,
    ) -> list[Gap]:
        """Gaps of networks and endpoints that no call is working on.

        Unless *raises*, none while the backend cannot be reached: what is left over on this host is cleared
        all the same, and the backend is not to be searched as a whole for that.
        """
        if self._remaker is None:
            return []
        networks = {id_: text for id_, text in records.items() if id_ not in in_flight}
        endpoints = [one for id_, one in living.items() if id_ not in in_flight]
        try:
            gaps = self._remaker.missing(networks, endpoints, chassis, Deadline(_PATIENCE))
        except Unavailable as error:
            if raises:
                raise
            log.info("could not look for what is missing, will try again: %s", error)
            return []
        young = {id_ for id_, one in living.items() if one.age <= self._interval}
        return [gap for gap in gaps if gap.kind is not Kind.NAMES or gap.endpoint not in young]

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
            look = self._look(store_too=store_too)
            for difference in self._tell(look.differences):
                try:
                    if not difference.missing and self._mend(difference, chassis):
                        log.warning("cleared %s", difference)
                        self._record.add(LEFTOVERS, difference.kind)
                        mended.append(difference)
                except OvnDockerError as error:
                    log.warning("could not clear %s: %s", difference, error)
                    failed = failed or error
            made, unmade = self._fill(look, chassis)
            mended += made
            failed = failed or unmade
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

    def _fill(self, look: Look, chassis: Chassis) -> tuple[list[Difference], OvnDockerError | None]:
        """Make again what is missing. Returns that, and the first error of what could not be made."""
        if self._remaker is None or not look.gaps:
            return [], None
        if self._remaker.displaced(chassis, Deadline(_PATIENCE)):
            if not self._lead_back(self._remaker, chassis):
                return [], None
            look = self._look(store_too=False)
        wanted: dict[tuple[NetworkId, EndpointId], list[Gap]] = {}
        for gap in look.gaps:
            wanted.setdefault((gap.network, gap.endpoint), []).append(gap)
        made: list[Difference] = []
        errors: dict[str, OvnDockerError] = {}
        for (network, endpoint), gaps in sorted(wanted.items(), key=lambda item: bool(item[0][1])):
            if network in errors:  # it may be another one by now, with other subnets
                continue
            try:
                if endpoint:
                    done = self._make_endpoint(self._remaker, look.endpoints[endpoint], gaps, look, chassis)
                else:
                    done = self._make_network(self._remaker, network, look, chassis)
            except OvnDockerError as error:
                errors[endpoint or network] = error
            else:
                made += self._made(gaps if done else [], look, self._remaker.place)
        self._tell_unmade({what: str(error) for what, error in errors.items()})
        return made, next(iter(errors.values()), None)

    def _lead_back(self, remaker: Remaker, chassis: Chassis) -> bool:
        """Give the rows of a restored database their UUIDs again; False while another host does that."""
        moved = remaker.lead_back(chassis, Deadline(_RESTORING))
        if moved:
            log.warning("%d rows of a restored database have their UUIDs again", moved)
        return moved is not None

    def _made(self, gaps: list[Gap], look: Look, place: str) -> list[Difference]:
        """Log and count what has been made again."""
        made = [_missing(gap, look.containers, place) for gap in gaps]
        for one in made:
            log.warning("made again %s", one)
            self._record.add(REMADE, one.kind)
            self._told.discard((one.kind, one.what, one.row))
        return made

    def _tell_unmade(self, errors: dict[str, str]) -> None:
        """Log what could not be made, once for each reason."""
        for what, error in errors.items():
            if self._unmade.get(what) != error:
                log.warning("could not make again what is missing of %s: %s", what[:12], error)
        self._unmade = errors

    def _make_network(self, remaker: Remaker, network: NetworkId, look: Look, chassis: Chassis) -> bool:
        """Make what is missing of a network; False if Docker deletes it in this moment."""
        if network in self._driver.busy():
            return False
        used = any(one.network == network for one in look.endpoints.values())
        text, deadline = look.records[network], Deadline(_PATIENCE)
        remaker.make_network(network, text, chassis, deadline, used=used)
        if network in self._switch.records(deadline):
            return True
        self._backend.drop_network(network, chassis, deadline)
        return False

    def _make_endpoint(
        self, remaker: Remaker, endpoint: StoredEndpoint, gaps: list[Gap], look: Look, chassis: Chassis
    ) -> bool:
        """Make what is missing of an endpoint; False if Docker deletes it in this moment."""
        if endpoint.id in self._driver.busy():
            return False
        kinds = {gap.kind for gap in gaps}
        if kinds != {Kind.NAMES}:
            text = look.records[endpoint.network]
            remaker.make_endpoint(endpoint, text, chassis, Deadline(_PATIENCE))
        if not self._links.exists(host_link(endpoint.id)):
            self._backend.delete_endpoint(endpoint.id, chassis, Deadline(_PATIENCE))
            self._driver.leftovers.set()
            return False
        names = None
        if kinds & {Kind.NAMES, Kind.ENDPOINT}:
            names = self._engine.names(look.containers[endpoint.id]).get(endpoint.id)
        if names:
            remaker.set_names(endpoint.id, names, chassis, Deadline(_PATIENCE))
        return bool(names) or kinds != {Kind.NAMES}

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
                self._switch.keep(NetworkId(difference.what), "", deadline)
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
                if one.command:
                    log.warning("%s; %s: %s", one, one.cure, command(*one.command))
                elif self._mode is Mode.REPORT:
                    verb = "make it again" if one.missing else "clear it"
                    log.warning("found %s; %s with: ovn-docker gc --repair", one, verb)
        return differences

    def _turn(self, *, store_too: bool) -> None:
        self._links.restore_guard(self._switch.guarded(Deadline(_PATIENCE)))
        if store_too:
            self.keep_records()
        if self._mode is Mode.REPAIR:
            if store_too:
                self.repair_everywhere(unless_lately=True)
            else:
                self.repair(store_too=False)
            return
        self._driver.finish(self._switch.chassis(Deadline(_PATIENCE)), Deadline(_PATIENCE))
        if self._mode is Mode.REPORT:
            self._tell(self.look(store_too=store_too))

    def keep_records(self) -> None:
        """Keep records of what an earlier version has made, and none of networks that are gone."""
        if self._remaker is None:
            return
        try:
            networks, endpoints = self._engine.described()
            _, every = self._engine.inventory()
        except Unavailable as error:
            log.info("Docker could not be asked for its networks: %s", error)
            return
        chassis, records = (
            self._switch.chassis(Deadline(_PATIENCE)),
            self._switch.records(Deadline(_PATIENCE)),
        )
        busy = self._driver.busy()
        for gone in records.keys() - every - busy:
            self._switch.keep(gone, "", Deadline(_PATIENCE))
        for network in networks:
            if network.id not in records and network.id not in busy:
                records[network.id] = self._remaker.record_network(network, chassis, Deadline(_PATIENCE))
                self._switch.keep(network.id, records[network.id], Deadline(_PATIENCE))
        without = {one.id for one in self._switch.endpoints(Deadline(_PATIENCE)) if not one.record} - busy
        for endpoint in endpoints:
            if endpoint.id in without and (text := records.get(endpoint.network)):
                record = self._remaker.record_endpoint(endpoint, text)
                self._switch.note_record(endpoint.id, record, Deadline(_PATIENCE))

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
