"""What Docker's calls mean: check, write to the backend, plug into the host; undo on failure.

Docker only logs an error of Leave, DeleteEndpoint and DeleteNetwork, and on Docker 29 a failed Join
costs the container its network for good. Therefore everything that can fail is in create_endpoint,
and what is deleted may be half-made, or gone already.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from ovn_docker.creations import Creations
from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, check_subnets
from ovn_docker.errors import BadRequest, OvnDockerError, TimedOut, Unavailable
from ovn_docker.metrics import FLOWS, REPAIRS, Recorder, Unrecorded
from ovn_docker.model import (
    GATEWAY_BRIDGE,
    AddressInUse,
    Attachment,
    Chassis,
    Endpoint,
    EndpointId,
    Joined,
    Network,
    NetworkId,
    Occupied,
    StoredEndpoint,
    choose_mac,
    container_link,
    host_link,
    resolver_routes,
    tunnel_overhead,
)

log = logging.getLogger(__name__)


_ETHERNET_MTU = 1500

_FOLLOWS = 15.0
"""Seconds until Docker has done what follows from an answer, many times what it needs: after CreateNetwork it
lists the network, after Join it moves the link."""

_STORING = 2.0
"""Seconds of a call that create_endpoint keeps for its work, however long it waits for Open vSwitch."""


_PAUSE = 0.2
"""Seconds between two looks at what is awaited."""


class Backend(Protocol):
    """Where networks and endpoints are stored for the whole cluster. Every method is idempotent."""

    def create_network(
        self, network: Network, chassis: Chassis, deadline: Deadline, *, kept: bool = False
    ) -> str:
        """Store a network; *kept* by swarm until a delete_network that says so.

        Returns the record by which its rows can be made again; empty if the backend does not do that.
        """

    def delete_network(
        self, network: NetworkId, chassis: Chassis, deadline: Deadline, *, kept: bool = False
    ) -> None:
        """Forget a network and whatever is left of its endpoints."""

    def drop_network(self, network: NetworkId, chassis: Chassis, deadline: Deadline) -> None:
        """Forget that this host has a network, which goes if it is this host's alone; none is fine."""

    def create_endpoint(self, endpoint: Endpoint, chassis: Chassis, deadline: Deadline) -> Attachment:
        """Store an endpoint, or raise AddressInUse or NotFound and store nothing."""

    def delete_endpoint(self, endpoint: EndpointId, chassis: Chassis, deadline: Deadline) -> bool:
        """Forget an endpoint. Returns False if some of it may be left, since it was not all there."""

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:
        """Wait until the backend's part of an endpoint forwards: empty, or why it does not by *deadline*."""

    def endpoints(self, chassis: Chassis, deadline: Deadline) -> list[StoredEndpoint]:
        """Every endpoint of this host. May be slow."""


class Switch(Protocol):
    """The virtual switch of this host."""

    def chassis(self, deadline: Deadline, *, without: EndpointId | None = None) -> Chassis:
        """How this host is set up; unplugs *without*. Raises Unavailable with the command to type."""

    def check(self, chassis: Chassis) -> None:
        """Raise Unavailable, with the cure, unless ports can be made here."""

    def plug(self, endpoint: Endpoint, attachment: Attachment, chassis: Chassis, deadline: Deadline) -> None:
        """Make the endpoint's port, with the link that is there already."""

    def unplug(self, endpoint: EndpointId, deadline: Deadline) -> None:
        """Remove the endpoint's port."""

    def enter(self, endpoint: EndpointId, sandbox: str, deadline: Deadline) -> tuple[int | None, bool]:
        """Wait until the port forwards, and note which sandbox it is in. Raises NotFound if there is none.

        Returns its turn among those of the sandbox whose network has a resolver, None if it has none, and
        whether it forwards.
        """

    def announce(self, endpoint: Endpoint, chassis: Chassis, deadline: Deadline) -> None:
        """Tell the neighbours of an endpoint that forwards its MAC. Raises Unavailable."""

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:
        """Why a port does not forward yet."""

    def endpoint_info(self, endpoint: EndpointId, deadline: Deadline) -> dict[str, str]:
        """What is known of an endpoint."""

    def keep(self, network: NetworkId, record: str, deadline: Deadline) -> None:
        """Store the backend's record of a network; delete it if *record* is empty."""

    def records(self, deadline: Deadline) -> dict[NetworkId, str]:
        """Records of the networks of this host."""

    def note_record(self, endpoint: EndpointId, record: str, deadline: Deadline) -> None:
        """Store the backend's record of an endpoint that was plugged without one."""

    def guarded(self, deadline: Deadline) -> set[str]:
        """Links of ours that are to be guarded against routers."""

    def endpoints(self, deadline: Deadline) -> list[StoredEndpoint]:
        """Every endpoint that has a port here."""


class Links(Protocol):
    """The links of this host."""

    def create_veth(self, host: str, container: str, *, mac: str, mtu: int, tx_checksums: bool) -> None:
        """Make a pair of links."""

    def guard(self, link: str) -> None:
        """Have a new link let no router or DHCP server into its container that is not marked as one."""

    def restore_guard(self, links: Iterable[str]) -> None:
        """Have these of our links do so, if somebody has changed that, and forget those that are gone."""

    def exists(self, link: str) -> bool:
        """Whether there is a link of this name."""

    def delete(self, link: str) -> None:
        """Delete a link and its other end."""

    def joined(self, prefix: str) -> dict[str, bool]:
        """Our links, and whether the other end is in a container. May miss one while others come and go."""

    def mtu_of(self, address: IPv4Address | IPv6Address) -> int:
        """MTU of the link with this address."""


class LateFlows(StrEnum):
    """What Join does when the flows are not in when its time is up."""

    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take, in seconds.

    *request*: a whole call; *flows*: Join's wait for the flows; *controller*: create_endpoint's wait for
    Open vSwitch and ovn-controller to be up again, once they were; *undo*: to undo what failed, while Docker
    still waits (reconcile.py has more time).
    """

    request: float = 15.0
    flows: float = 10.0
    controller: float = 5.0
    undo: float = 2.0
    late_flows: LateFlows = LateFlows.WARN


class Driver:
    """The network driver. Keeps no state but the calls in flight: the truth is in the databases.

    *removed_elsewhere*, *made_elsewhere*: True while Docker removes a network, by its ID, or makes one, by
    its name in the cluster, on our request, mirroring another host. *occupied*: subnets that this host has in
    use; its user cannot make a network that overlaps one of its links'. *creations*: see there.
    """

    def __init__(
        self,
        backend: Backend,
        switch: Switch,
        links: Links,
        check_controller: Callable[[], None],
        patience: Patience,
        record: Recorder | None = None,
        removed_elsewhere: Callable[[NetworkId], bool] = lambda _: False,
        made_elsewhere: Callable[[str], bool] = lambda _: False,
        occupied: Callable[[], Iterable[Occupied]] = tuple,
        creations: Creations | None = None,
    ) -> None:
        self._creations = creations or Creations()
        self._occupied = occupied
        self._record = record or Unrecorded()
        self._removed_elsewhere = removed_elsewhere
        self._made_elsewhere = made_elsewhere
        self._backend = backend
        self._switch = switch
        self._links = links
        self._check_controller = check_controller
        self._was_ready = False
        self._patience = patience
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._answered: dict[str, float] = {}
        self._new: dict[EndpointId, tuple[Endpoint, Chassis]] = {}
        """Made, and not joined yet."""
        self._unfinished: dict[NetworkId, Callable[[NetworkId, Chassis, Deadline], None]] = {}
        self._finishing = threading.Lock()
        self.leftovers = threading.Event()
        """Set when something could not be deleted, or may yet be made in vain: reconcile.py looks for it."""

    def create_network(self, network: Network) -> None:
        """NetworkDriver.CreateNetwork. If it fails, Docker forgets the network without a call."""
        deadline = Deadline.of_call(self._patience.request)
        self._unfinished.pop(network.id, None)
        with self._marked(network.id), ExitStack() as undo:
            if network.options.name is not None:
                self._creations.begin(network.options.name, network.id)
                undo.callback(self._creations.end, network.id)
            chassis = self._switch.chassis(deadline)
            self._check_mtu(network, chassis)
            self._check_subnets(network, chassis)
            if network.options.name is not None:
                with suppress(Unavailable):  # it may have been removed before: not to be removed after this
                    self.finish(chassis, deadline)
            with self._finished_later(network.id, self._backend.drop_network):
                record = self._backend.create_network(network, chassis, deadline)
                if record:
                    self._switch.keep(network.id, record, deadline)
            undo.pop_all()
            self._follows(network.id)

    def delete_network(self, network: NetworkId) -> None:
        """NetworkDriver.DeleteNetwork. Docker has forgotten the network whatever we say."""
        deadline = Deadline.of_call(self._patience.request)
        self._creations.end(network)
        delete: Callable[[NetworkId, Chassis, Deadline], None] = self._backend.delete_network
        if self._removed_elsewhere(network):  # it may have been made again there: not to be removed twice
            delete = self._backend.drop_network
        with self._marked(network), self._finished_later(network, delete):
            self._forget_answer(network)
            self._switch.keep(network, "", deadline)
            delete(network, self._switch.chassis(deadline), deadline)

    def allocate_network(self, network: Network) -> None:
        """NetworkDriver.AllocateNetwork: swarm's manager makes the network for the whole cluster."""
        deadline = Deadline.of_call(self._patience.request)
        with self._marked(network.id):
            self._backend.create_network(network, self._switch.chassis(deadline), deadline, kept=True)

    def free_network(self, network: NetworkId) -> None:
        """NetworkDriver.FreeNetwork: swarm's manager deletes it; nodes' DeleteNetwork did not."""
        deadline = Deadline.of_call(self._patience.request)
        self._backend.delete_network(network, self._switch.chassis(deadline), deadline, kept=True)

    def create_endpoint(self, endpoint: Endpoint) -> Endpoint:
        """NetworkDriver.CreateEndpoint: everything but the container's end.

        Returns it with its MAC, and with the addresses that the backend chose.
        """
        deadline = Deadline.of_call(self._patience.request)
        endpoint = replace(endpoint, mac=endpoint.mac or choose_mac(endpoint))
        with self._marked(endpoint.id), ExitStack() as undo:
            chassis, tunnel_mtu = self._ready(deadline)
            undo.callback(self._quietly_remove, endpoint.id, chassis)
            attachment = self._store(endpoint, chassis, deadline)
            endpoint = replace(
                endpoint,
                mac=attachment.mac or endpoint.mac,
                addresses=attachment.addresses or endpoint.addresses,
            )
            if attachment.mtu is not None and tunnel_mtu is not None and attachment.mtu > tunnel_mtu:
                log.warning(
                    "network %s has MTU %d, but the tunnels of this host carry %d: larger packets get lost",
                    endpoint.network[:12], attachment.mtu, tunnel_mtu,
                )  # fmt: skip
            if not self._links.exists(host_link(endpoint.id)):
                self._links.create_veth(
                    host_link(endpoint.id),
                    container_link(endpoint.id),
                    mac=endpoint.mac or "",
                    mtu=attachment.mtu or tunnel_mtu or _ETHERNET_MTU,
                    tx_checksums=chassis.datapath != "netdev",
                )
                if not attachment.any_router:
                    self._links.guard(host_link(endpoint.id))
            self._switch.plug(endpoint, attachment, chassis, deadline)
            undo.pop_all()
        self._new[endpoint.id] = endpoint, chassis
        return endpoint

    def delete_endpoint(self, network: NetworkId, endpoint: EndpointId) -> None:  # noqa: ARG002 - Docker's call
        """NetworkDriver.DeleteEndpoint: whatever there is of it, also when only a part is."""
        deadline = Deadline.of_call(self._patience.request)
        with self._marked(endpoint):
            self._forget_answer(endpoint)
            self._new.pop(endpoint, None)
            try:
                try:
                    chassis = self._switch.chassis(deadline, without=endpoint)
                finally:
                    self._links.delete(host_link(endpoint))
                if not self._backend.delete_endpoint(endpoint, chassis, deadline):
                    self.leftovers.set()
            except OvnDockerError:
                self.leftovers.set()
                raise

    def join(self, network: NetworkId, endpoint: EndpointId, sandbox: str) -> Joined:
        """NetworkDriver.Join: wait for the flows. Returns the link to move into the sandbox.

        All that the container needs is there since create_endpoint; what goes wrong now only delays it.
        """
        deadline, turn = Deadline.of_call(self._patience.flows), None
        with self._marked(endpoint):  # or its address could be taken over
            try:
                start = time.monotonic()
                new = self._new.pop(endpoint, None)
                turn, forwards = self._switch.enter(endpoint, sandbox.rpartition("/")[2], deadline)
                why = "" if forwards else self._switch.why_late(endpoint, Deadline(1))
                why = why or self._backend.why_late(endpoint, deadline)
                self._record.observe(FLOWS, time.monotonic() - start, "late" if why else "installed")
                if not why and new:
                    self._announce(*new)
                if why:
                    raise TimedOut(
                        f"the flows of endpoint {endpoint[:12]} on network {network[:12]} are not in after "
                        f"{self._patience.flows:g} s: {why}"
                    )
            except Unavailable as error:
                if self._patience.late_flows is LateFlows.FAIL:
                    raise
                log.warning("%s; the container starts all the same", error)
            self._follows(endpoint)
        return Joined(container_link(endpoint), () if turn is None else resolver_routes(turn))

    def leave(self, network: NetworkId, endpoint: EndpointId) -> None:  # noqa: ARG002 - Docker's call
        """NetworkDriver.Leave: the host's part goes; deleting one end of the veth takes the other along."""
        with self._marked(endpoint):
            self._unplug(endpoint, Deadline.of_call(self._patience.request))

    def endpoint_info(self, network: NetworkId, endpoint: EndpointId) -> dict[str, str]:  # noqa: ARG002
        """NetworkDriver.EndpointOperInfo: never an error, which would stop a container on Docker 20.10."""
        try:
            return self._switch.endpoint_info(endpoint, Deadline(min(2, self._patience.request)))
        except OvnDockerError as error:
            log.info("no information on endpoint %s: %s", endpoint[:12], error)
            return {}

    def in_flight(self) -> set[str]:
        """Endpoints and networks that a call is working on at this moment."""
        with self._lock:
            return set(+self._in_flight)

    def busy(self) -> set[str]:
        """Those, and the ones for which Docker has still to do what follows from our answer."""
        with self._lock:
            now = time.monotonic()
            self._answered = {id_: end for id_, end in self._answered.items() if now - end < _FOLLOWS}
            return {*+self._in_flight, *self._answered}

    def at_work(self, grace: float, deadline: Deadline) -> list[StoredEndpoint]:
        """Endpoints that are plugged on this host and not dead, and those that a call is working on.

        One that is younger than *grace* seconds may be about to be joined.
        """
        plugged = [one for one in self._switch.endpoints(deadline) if not self._dead(one, grace)]
        in_flight = self.in_flight() - {one.id for one in plugged}
        return [*plugged, *(StoredEndpoint(EndpointId(id_), NetworkId(""), "", 0) for id_ in in_flight)]

    def finish(self, chassis: Chassis, deadline: Deadline) -> None:
        """Delete the networks that could not be deleted, or made, when Docker said so."""
        if not self._finishing.acquire(timeout=deadline.left()):
            raise TimedOut("another call has been deleting networks all this time")
        try:
            for network, delete in tuple(self._unfinished.items()):
                try:
                    delete(network, chassis, deadline)
                except Unavailable:
                    raise
                except OvnDockerError as error:  # nothing that time mends
                    log.warning("network %s stays: %s", network[:12], error)
                self._unfinished.pop(network, None)
        finally:
            self._finishing.release()

    def remove(self, endpoint: EndpointId, chassis: Chassis, deadline: Deadline) -> None:
        """Delete all that there is of an endpoint, on this host and in the backend."""
        self._new.pop(endpoint, None)
        self._unplug(endpoint, deadline)
        self._backend.delete_endpoint(endpoint, chassis, deadline)

    def _ready(self, deadline: Deadline) -> tuple[Chassis, int | None]:
        """Wait for Open vSwitch and ovn-controller, which at boot may start after Docker does.

        A moment; if this driver has not seen them up yet, nearly as long as the call may take. Returns the
        chassis and the MTU of what its tunnels carry, if it has any.
        """
        wait = self._patience.controller
        if not self._was_ready:  # Docker starts a container of --restart=always once, at its own start
            wait = max(wait, deadline.left() - _STORING)
        until = Deadline(deadline.left(at_most=wait))
        while True:
            try:
                chassis = self._switch.chassis(until)
                self._switch.check(chassis)
                self._check_controller()
            except Unavailable:
                if until.left() <= _PAUSE:
                    raise
                time.sleep(_PAUSE)
            else:
                self._was_ready = True
                return chassis, self._tunnel_mtu(chassis)

    def _tunnel_mtu(self, chassis: Chassis) -> int | None:
        """Largest packet in bytes that the tunnels of this host carry, if it has any. Raises Unavailable."""
        mtus = [self._links.mtu_of(ip) - tunnel_overhead(chassis.encap_types, ip) for ip in chassis.encap_ips]
        return min(mtus, default=None)

    def _check_mtu(self, network: Network, chassis: Chassis) -> None:
        """Raise BadRequest if this host's tunnels do not carry the MTU that the user asks for.

        A network that another host has made is not refused: create_endpoint logs a warning instead.
        """
        mtu, name = network.options.mtu, network.options.name
        if mtu is None or (name is not None and self._made_elsewhere(name)):
            return
        try:
            limit = self._tunnel_mtu(chassis)
        except Unavailable:  # no interface has the tunnel address: create_endpoint says so
            return
        if limit is not None and mtu > limit:
            raise BadRequest(
                f"MTU {mtu} is more than the {limit} bytes that the tunnels of this host carry: give at most "
                f"{limit}, leave the option out, or raise the MTU of the interface with the tunnel address"
            )

    def _check_subnets(self, network: Network, chassis: Chassis) -> None:
        """Raise BadRequest if this host has the network's addresses otherwise in use.

        No container starts on a network that overlaps docker_gwbridge. A network of the cluster that overlaps
        any link of the host is refused by other hosts too (cluster.py), which checks what they have made. A
        physical network may be meant where an existing switch is named, or any router is believed.
        """
        options, occupied, addresses = network.options, list(self._occupied()), chassis.addresses
        if options.switch is not None or options.any_router:
            return
        if options.name is None:
            occupied, addresses = [one for one in occupied if one.by == GATEWAY_BRIDGE], ()
            if network.internal:
                return
        elif self._made_elsewhere(options.name):
            return
        try:
            check_subnets([one.pool for one in network.subnets], addresses, occupied)
        except Refused as refused:
            raise BadRequest(f"this host cannot have the network: {refused}; give another --subnet") from None

    def _store(self, endpoint: Endpoint, chassis: Chassis, deadline: Deadline) -> Attachment:
        """Create it in the backend, in the place of a dead endpoint of this host if need be.

        After a crash Docker forgets its endpoints without telling us, and gives their addresses away again.
        """
        until = Deadline(deadline.left(at_most=self._patience.controller))
        while True:
            try:
                return self._backend.create_endpoint(endpoint, chassis, deadline)
            except AddressInUse as error:
                # Docker's IPAM gives no IP address twice: on the same network it has forgotten the holder.
                given = not error.allowed and error.address != endpoint.mac
                forgotten = given and error.holder.network == endpoint.network
                grace = 0 if forgotten else self._patience.request
                ours = chassis.made(error.holder.host, error.holder.encap)
                if not ours or not self._dead(error.holder, grace):
                    raise
                if error.holder.up and not self._left_here(error.holder, deadline):
                    # Any host can write that it is ours. If it is, and the power was cut, ovn-controller
                    # takes it for down in a moment; if another host has it, it stays up.
                    if until.left() <= _PAUSE:
                        raise
                    time.sleep(_PAUSE)
                    continue
                log.warning(
                    "endpoint %s takes over from %s, which is dead", endpoint.id[:12], error.holder.id[:12]
                )
                deadline.check(f"the address that endpoint {error.holder.id[:12]} holds")
                self.remove(error.holder.id, chassis, deadline)
                self._record.add(REPAIRS, "takeover")
            except Unavailable:
                self.leftovers.set()  # it may yet be stored, after it has been undone
                raise

    def _dead(self, endpoint: StoredEndpoint, grace: float) -> bool:
        link = host_link(endpoint.id)
        joined = self._links.joined(link).get(link)
        if joined is None and self._links.exists(link):
            return False
        return endpoint.id not in self.in_flight() and endpoint.dead(joined, grace)

    def _announce(self, endpoint: Endpoint, chassis: Chassis) -> None:
        """Tell the neighbours, who may know another MAC for its addresses; else they learn it late."""
        try:
            self._switch.announce(endpoint, chassis, Deadline(1))
        except Unavailable as error:
            log.info("addresses of endpoint %s were not announced: %s", endpoint.id[:12], error)

    def _left_here(self, endpoint: StoredEndpoint, deadline: Deadline) -> bool:
        """Whether a link or a port of an endpoint is on this host."""
        there = self._links.exists(host_link(endpoint.id))
        return there or bool(self._switch.endpoint_info(endpoint.id, deadline))

    def _follows(self, id_: str) -> None:
        with self._lock:
            self._answered[id_] = time.monotonic()

    def _forget_answer(self, id_: str) -> None:
        with self._lock:
            self._answered.pop(id_, None)

    def _unplug(self, endpoint: EndpointId, deadline: Deadline) -> None:
        """The host's part of an endpoint: its port, and its veth even if the port could not be deleted."""
        self._forget_answer(endpoint)
        try:
            self._switch.unplug(endpoint, deadline)
        finally:
            self._links.delete(host_link(endpoint))

    def _quietly_remove(self, endpoint: EndpointId, chassis: Chassis) -> None:
        """Undo: an error here must not hide the one that the user has to see."""
        try:
            self.remove(endpoint, chassis, Deadline(self._patience.undo))
            self._record.add(REPAIRS, "undo")
        except OvnDockerError as error:
            self.leftovers.set()
            log.warning("could not undo endpoint %s: %s", endpoint[:12], error)

    @contextmanager
    def _finished_later(
        self, network: NetworkId, delete: Callable[[NetworkId, Chassis, Deadline], None]
    ) -> Iterator[None]:
        """What could not be finished may be there, in part: it is deleted later."""
        try:
            yield
        except Unavailable:
            self._unfinished[network] = delete
            self.leftovers.set()
            raise

    @contextmanager
    def _marked(self, id_: str) -> Iterator[None]:
        with self._lock:
            self._in_flight[id_] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight[id_] -= 1
                self._in_flight += Counter()  # without those of nobody
