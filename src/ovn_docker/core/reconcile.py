"""Compares this host with its Docker, removes leftovers and makes missing rows again.

Docker decides what should exist: its networks, and the endpoints of its running containers. It does not
always tell the driver when something is gone: after a crash or a reboot, or when it could not delete
something because the plugin or a database was away. And rows that containers need may be gone from the
backend (docs/reliability.md, "What is compared and repaired").

The daemon's sweeps, ``ovn-docker gc`` and the doctor all use this comparison.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ovn_docker.core.driver import Driver
from ovn_docker.core.protocols import (
    GuardedLinks,
    HostLinks,
    HostSwitch,
    InventoryEngine,
    LeftoverStores,
    NetworkBackends,
    OrphanSchedule,
    RowRemaker,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.metrics import FOUND, LEFTOVERS, REMADE, UNCLEARED, Recorder, Unrecorded
from ovn_docker.model import (
    HOST_LINK,
    Chassis,
    Difference,
    EndpointId,
    Gap,
    Kind,
    NetworkId,
    StoredEndpoint,
    StoredNetwork,
    host_link,
    since,
)
from ovn_docker.text.printable import command
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_READING = 30.0
"""Seconds that one request to a database may take; no call of Docker waits for it."""

_RESTORING = 600.0
"""Seconds that a host may take to give the displaced rows of a restored database their UUIDs again."""

_RETRY = 5.0
"""Seconds until the next sweep after a failure; doubled after every further failure."""

_STORE_SWEEPS = 2
"""Sweeps of the store after a start or a failure and the end of the calls of that moment. At the first one,
Docker may still use what it could not delete."""

_STALE = 660.0
"""Seconds from a start or a failure to one more sweep of the store. By then, Docker does not come back any
more to what a broken call had asked for."""

_STORE_INTERVAL = 24 * 3600.0
"""Seconds between two sweeps of the store when nothing has failed. Each takes half a second of the database's
time at 100 000 ports; 2 000 hosts must not ask for that too often."""


class RepairMode(StrEnum):
    """The mode of the sweep: what the daemon does about leftovers and missing rows (option ``--repair``)."""

    OFF = "off"
    REPORT = "report"
    REPAIR = "repair"


@dataclass(frozen=True, slots=True)
class HostState:
    """Endpoints, networks and links of this host, in the store and locally.

    *joined* maps our links to True if the peer is in a container; *links*: those links that existed before
    the calls in flight were read.
    """

    place: str
    stored: tuple[StoredEndpoint, ...] = ()
    plugged: tuple[StoredEndpoint, ...] = ()
    networks: tuple[StoredNetwork, ...] = ()
    joined: Mapping[str, bool] = field(default_factory=dict)
    links: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Endpoints and networks that Docker has.

    *in_flight*: those that calls work on, or did just now; None if that is unknown.
    """

    endpoints: frozenset[EndpointId] = frozenset()
    networks: frozenset[NetworkId] = frozenset()
    in_flight: frozenset[str] | None = frozenset()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of a comparison: *gaps* can be filled from the *records* of networks and of *endpoints*."""

    differences: list[Difference]
    gaps: list[Gap] = field(default_factory=list)
    records: Mapping[NetworkId, str] = field(default_factory=dict)
    endpoints: Mapping[EndpointId, StoredEndpoint] = field(default_factory=dict)
    containers: Mapping[EndpointId, str] = field(default_factory=dict)


def compare(found: HostState, wanted: Wanted, grace: float) -> list[Difference]:
    """Return the endpoints, links and networks that should not exist. Pure.

    Docker may not list a network or join an endpoint within its first *grace* seconds. An endpoint without a
    port at the end of its call never gets one. If the calls in flight are unknown, anything younger than
    *grace* may be in one.

    Any host can write that an endpoint is this host's. An endpoint without a trace on this host that is up in
    OVN is on another host; an endpoint whose link belongs to another endpoint was never here.
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
            "delete its port, link and rows",
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
    """Return the difference that a gap stands for."""
    name = containers.get(gap.endpoint, gap.endpoint[:12])
    why, cure = "Docker on this host has the network", "make it again"
    repair: tuple[str, ...] = ()
    if gap.owner and not gap.endpoint:
        why = f"{gap.owner} of the cluster has other subnets or options by now"
        cure, repair = "remove its containers, then", ("docker", "network", "rm", gap.network[:12])
    elif gap.owner:
        why = f"container {name} has it, and so has {gap.owner} by now"
        cure, repair = "give the container another one", ("docker", "restart", name)
    elif gap.removed:
        why = "it has been removed from the cluster, and no container of this host belongs to it"
        cure, repair = "remove it here too", ("docker", "network", "rm", gap.network[:12])
    elif gap.endpoint:
        why = f"container {name} needs it"
    return Difference(
        gap.kind, gap.what, f"missing in {place}", None, why, cure, gap.endpoint or gap.network, gap.endpoint,
        missing=True, command=repair,
    )  # fmt: skip


class Reconciler:
    """Sweeps this host every *interval* seconds, and the store when leftovers are possible (see _run).

    Leftovers are possible at the start of the driver and of dockerd, after a delete or a request that got no
    reply, some minutes after these; and once a day to be sure. To find a host's rows, a store has to search
    whole tables: thousands of hosts that asked for that every minute would keep it busy.

    *alone*: no other process may answer Docker's calls; *remaker*: None if the backend lacks that capability;
    *explain*: returns the message of an error with what to do.
    """

    def __init__(
        self,
        driver: Driver,
        backend: NetworkBackends,
        store: LeftoverStores,
        switch: HostSwitch,
        links: HostLinks,
        engine: InventoryEngine,
        interval: float,
        mode: RepairMode = RepairMode.REPAIR,
        record: Recorder | None = None,
        *,
        remaker: RowRemaker | None = None,
        explain: Callable[[OvnDockerError], str] = str,
        alone: bool = True,
    ) -> None:
        self._explain = explain
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
        self._reported: set[tuple[Kind, str, str]] = set()
        self._unmade: dict[str, str] = {}
        """For each network or endpoint, why its missing rows could not be made at the last sweep."""

    def start(self, threads: Threads) -> None:
        """Sweep in a thread of its own for the life of the process."""
        threads.start("reconcile", "looks for what is left over", self._run)

    def differences(self, *, store_too: bool = True) -> list[Difference]:
        """Return the differences of this host and change nothing.

        Finds everything that has left a trace on this host and, with *store_too*, rows that have not.
        Raises OvnDockerError if a database does not answer, or if Docker has to be asked and does not answer.
        """
        return self._compare(store_too=store_too).differences

    def _compare(self, *, store_too: bool) -> Comparison:
        """Compare as differences() does; return also what is needed to fill the gaps.

        The order of reading matters. An endpoint is first stored, then linked, then plugged, and in flight
        all that time: an endpoint that is read as stored or linked, and after that is neither in flight nor
        plugged, is a leftover. Docker is asked last, and only if there is a difference.
        """
        chassis = self._switch.chassis(Deadline(_READING))
        store = self._store(chassis)
        stored = self._backend(chassis).endpoints(Deadline(_READING)) if store_too else []
        networks, leftovers = store.of_host(Deadline(_READING)) if store_too else ([], [])
        links = frozenset(self._links.joined(HOST_LINK))
        in_flight = frozenset(self._driver.busy()) if self._alone else None
        plugged = self._switch.endpoints(Deadline(_READING))
        joined = self._links.joined(HOST_LINK)
        for endpoint in (*stored, *plugged):
            link = host_link(endpoint.id)
            if link not in joined and self._links.exists(link):
                joined[link] = True  # the list has missed it, so its peer is unknown
        found = HostState(store.place, tuple(stored), tuple(plugged), tuple(networks), joined, links)
        differences = compare(found, Wanted(in_flight=in_flight), self._interval)
        living = {one.id: one for one in plugged if joined.get(host_link(one.id)) and one.record}
        records = self._switch.records(Deadline(_READING)) if self._remaker else {}
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
        differences += [one for one in leftovers if one.endpoint not in needed]
        if any(gap.removed for gap in gaps):
            used = self._engine.used() | {one.network for one in living.values()}
            gaps = [replace(gap, removed=gap.removed and gap.network not in used) for gap in gaps]
        lost = {gap.network: gap for gap in gaps if gap.removed or (gap.owner and not gap.endpoint)}
        gaps = [gap for gap in gaps if lost.get(gap.network, gap) is gap]
        differences += [_missing(gap, containers, store.place) for gap in gaps]
        fillable = [gap for gap in gaps if not (gap.owner or gap.removed)]
        return Comparison(differences, fillable, records, living, containers)

    def _gaps(
        self,
        records: Mapping[NetworkId, str],
        living: Mapping[EndpointId, StoredEndpoint],
        in_flight: Collection[str],
        chassis: Chassis,
        *,
        raises: bool,
    ) -> list[Gap]:
        """Return the gaps of networks and endpoints that no call works on.

        If the backend does not answer, raise Unavailable if *raises*; else return no gaps, so that leftovers
        on this host are removed all the same.
        """
        if self._remaker is None:
            return []
        networks = {id_: text for id_, text in records.items() if id_ not in in_flight}
        endpoints = [one for id_, one in living.items() if id_ not in in_flight]
        try:
            gaps = self._remaker.missing(networks, endpoints, chassis, Deadline(_READING))
        except Unavailable as error:
            if raises:
                raise
            log.info("cannot read which rows are missing, will try again: %s", error)
            return []
        young = {id_ for id_, one in living.items() if one.age <= self._interval}
        return [gap for gap in gaps if gap.kind is not Kind.NAMES or gap.endpoint not in young]

    def all_differences(self) -> list[Difference]:
        """Return differences() and the orphans owned by no host."""
        chassis = self._switch.chassis(Deadline(_READING))
        return [*self.differences(), *self._store(chassis).orphans(Deadline(_READING))]

    def repair(self, *, store_too: bool = True) -> list[Difference]:
        """Repair the differences of this host; return the repaired ones.

        Raises OvnDockerError as differences() does, or the first failure when all repairs have been tried.
        """
        repaired, failed = [], None
        with self._lock:
            chassis = self._switch.chassis(Deadline(_READING))
            self._driver.finish(chassis, Deadline(_READING))
            found = self._compare(store_too=store_too)
            for difference in self._report(found.differences):
                try:
                    if not difference.missing and self._clear(difference, chassis):
                        log.warning("cleared %s", difference)
                        self._record.add(LEFTOVERS, difference.kind)
                        repaired.append(difference)
                except OvnDockerError as error:
                    log.warning("could not clear %s: %s", difference, error)
                    failed = failed or error
            made, unmade = self._fill(found, chassis)
            repaired += made
            failed = failed or unmade
        if failed:
            raise failed
        return repaired

    def repair_everywhere(self, *, unless_lately: bool = False) -> list[Difference]:
        """Repair this host, then clear orphans; *unless_lately*: unless a host has done so lately."""
        repaired = self.repair()
        store = self._store(self._switch.chassis(Deadline(_READING)))
        if unless_lately and isinstance(store, OrphanSchedule):
            orphans = store.clear_orphans_when_due(Deadline(_READING))
        else:
            orphans = store.clear_orphans(Deadline(_READING))
        for difference in orphans:
            log.warning("cleared %s", difference)
            self._record.add(FOUND, difference.kind)
            self._record.add(LEFTOVERS, difference.kind)
        return [*repaired, *orphans]

    def _fill(self, found: Comparison, chassis: Chassis) -> tuple[list[Difference], OvnDockerError | None]:
        """Make missing rows again. Returns them as differences, and the first failure."""
        if self._remaker is None or not found.gaps:
            return [], None
        if self._remaker.displaced(chassis, Deadline(_READING)):
            if not self._lead_back(self._remaker, chassis):
                return [], None
            found = self._compare(store_too=False)
        wanted: dict[tuple[NetworkId, EndpointId], list[Gap]] = {}
        for gap in found.gaps:
            wanted.setdefault((gap.network, gap.endpoint), []).append(gap)
        made: list[Difference] = []
        errors: dict[str, OvnDockerError] = {}
        for (network, endpoint), gaps in sorted(wanted.items(), key=lambda item: bool(item[0][1])):
            if network in errors:  # the cluster may have another one by now, with other subnets
                continue
            try:
                if endpoint:
                    done = self._make_endpoint(self._remaker, found.endpoints[endpoint], gaps, found, chassis)
                else:
                    done = self._make_network(self._remaker, network, found, chassis)
            except OvnDockerError as error:
                errors[endpoint or network] = error
            else:
                made += self._made(gaps if done else [], found, self._remaker.place)
        self._log_unmade({what: self._explain(error) for what, error in errors.items()})
        return made, next(iter(errors.values()), None)

    def _lead_back(self, remaker: RowRemaker, chassis: Chassis) -> bool:
        """Give displaced rows their UUIDs again. Returns False while another host does that."""
        moved = remaker.lead_back(chassis, Deadline(_RESTORING))
        if moved:
            log.warning("%d rows of a restored database have their UUIDs again", moved)
        return moved is not None

    def _made(self, gaps: list[Gap], found: Comparison, place: str) -> list[Difference]:
        """Log and count the rows that have been made again."""
        made = [_missing(gap, found.containers, place) for gap in gaps]
        for one in made:
            log.warning("made again %s", one)
            self._record.add(REMADE, one.kind)
            self._reported.discard((one.kind, one.what, one.row))
        return made

    def _log_unmade(self, errors: dict[str, str]) -> None:
        """Log the rows that could not be made again, once for each reason."""
        for what, error in errors.items():
            if self._unmade.get(what) != error:
                log.warning("cannot make the missing rows of %s again: %s", what[:12], error)
        self._unmade = errors

    def _make_network(
        self, remaker: RowRemaker, network: NetworkId, found: Comparison, chassis: Chassis
    ) -> bool:
        """Make the missing rows of a network. Returns False if Docker is deleting the network."""
        if network in self._driver.busy():
            return False
        used = any(one.network == network for one in found.endpoints.values())
        text, deadline = found.records[network], Deadline(_READING)
        remaker.make_network(network, text, chassis, deadline, used=used)
        if network in self._switch.records(deadline):
            return True
        self._backend(chassis).drop_network(network, deadline)
        return False

    def _make_endpoint(
        self,
        remaker: RowRemaker,
        endpoint: StoredEndpoint,
        gaps: list[Gap],
        found: Comparison,
        chassis: Chassis,
    ) -> bool:
        """Make the missing rows of an endpoint. Returns False if Docker is deleting the endpoint."""
        if endpoint.id in self._driver.busy():
            return False
        kinds = {gap.kind for gap in gaps}
        if kinds != {Kind.NAMES}:
            text = found.records[endpoint.network]
            remaker.make_endpoint(endpoint, text, chassis, Deadline(_READING))
        if not self._links.exists(host_link(endpoint.id)):
            self._backend(chassis).delete_endpoint(endpoint.id, Deadline(_READING))
            self._driver.leftovers.set()
            return False
        names = None
        if kinds & {Kind.NAMES, Kind.ENDPOINT}:
            names = self._engine.names(found.containers[endpoint.id]).get(endpoint.id)
        if names:
            remaker.set_names(endpoint.id, names, chassis, Deadline(_READING))
        return bool(names) or kinds != {Kind.NAMES}

    def _clear(self, difference: Difference, chassis: Chassis) -> bool:
        busy = self._driver.busy()
        if any(id_.startswith(difference.what) for id_ in busy):
            return False
        deadline = Deadline(_READING)
        match difference.kind:
            case Kind.ENDPOINT:
                self._driver.remove(EndpointId(difference.what), chassis, deadline)
            case Kind.LINK:
                self._links.delete(difference.what)
            case Kind.NETWORK:
                self._backend(chassis).drop_network(NetworkId(difference.what), deadline)
                self._switch.keep(NetworkId(difference.what), "", deadline)
            case _:
                return self._store(chassis).clear(difference, deadline)
        return True

    def _report(self, differences: list[Difference]) -> list[Difference]:
        """Count each difference once, and log it if the user has to act."""
        for one in differences:
            key = (one.kind, one.what, one.row)  # an address may be a leftover again, in another row
            if key not in self._reported:
                self._reported.add(key)
                self._record.add(FOUND, one.kind)
                if one.command:
                    log.warning("%s; %s: %s", one, one.cure, command(*one.command))
                elif self._mode is RepairMode.REPORT:
                    verb = "make it again" if one.missing else "clear it"
                    log.warning("found %s; %s with: ovn-docker gc --repair", one, verb)
        return differences

    def _sweep(self, *, store_too: bool) -> None:
        switch = self._switch
        guarded = switch.guarded(Deadline(_READING)) if isinstance(switch, GuardedLinks) else ()
        self._links.restore_guard(guarded)
        if store_too:
            self.keep_records()
        if self._mode is RepairMode.REPAIR:
            if store_too:
                self.repair_everywhere(unless_lately=True)
            else:
                self.repair(store_too=False)
            return
        self._driver.finish(self._switch.chassis(Deadline(_READING)), Deadline(_READING))
        if self._mode is RepairMode.REPORT:
            self._report(self.differences(store_too=store_too))

    def keep_records(self) -> None:
        """Make records of networks and endpoints that an earlier version has created; delete unused ones."""
        if self._remaker is None:
            return
        try:
            networks, endpoints = self._engine.described()
            _, every = self._engine.inventory()
        except Unavailable as error:
            log.info("cannot read the networks of Docker: %s", error)
            return
        chassis, records = (
            self._switch.chassis(Deadline(_READING)),
            self._switch.records(Deadline(_READING)),
        )
        busy = self._driver.busy()
        for gone in records.keys() - every - busy:
            self._switch.keep(gone, "", Deadline(_READING))
        for network in networks:
            if network.id not in records and network.id not in busy:
                records[network.id] = self._remaker.record_network(network, chassis, Deadline(_READING))
                self._switch.keep(network.id, records[network.id], Deadline(_READING))
        without = {one.id for one in self._switch.endpoints(Deadline(_READING)) if not one.record} - busy
        for endpoint in endpoints:
            if endpoint.id in without and (text := records.get(endpoint.network)):
                record = self._remaker.record_endpoint(endpoint, text)
                self._switch.store_record(endpoint.id, record, Deadline(_READING))

    def _run(self) -> None:
        sweeps, due = _STORE_SWEEPS, time.monotonic() + _STALE  # the previous process may have left anything
        busy = set[str]()  # calls in flight since before the last failure, which may still leave something
        pause = _RETRY
        while True:
            if self._driver.leftovers.is_set():
                sweeps, due = _STORE_SWEEPS, time.monotonic() + _STALE
                self._driver.leftovers.clear()
                busy = self._driver.busy()
            elif time.monotonic() > due:
                sweeps, due = 1, time.monotonic() + _STORE_INTERVAL
            try:
                self._sweep(store_too=sweeps > 0)
                sweeps -= bool(sweeps and not busy)
                pause = _RETRY
            except Unavailable as error:
                log.info("cannot sweep now, will try again: %s", error)
                self._record.add(UNCLEARED)
                self._driver.leftovers.set()
                pause *= 2  # do not search the store all the time because Docker is away
            except OvnDockerError as error:  # time does not cure it
                log.warning("cannot remove all leftovers: %s", error)
                self._record.add(UNCLEARED)
                sweeps -= bool(sweeps and not busy)
            busy &= self._driver.busy()
            if self._driver.leftovers.wait(self._interval):
                time.sleep(min(self._interval, pause))  # Docker or the database may be back in a moment
