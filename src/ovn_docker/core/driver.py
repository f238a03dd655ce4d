"""Carries out Docker's calls: checks, writes to the backend, plugs into the host; undoes all on failure.

Docker only logs an error of Leave, DeleteEndpoint and DeleteNetwork, and on Docker 29 a failed Join leaves
the container without network for good. Therefore create_endpoint() does everything that can fail, and the
calls that delete accept networks and endpoints that are incomplete or already gone.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from ovn_docker.core.creations import Creations
from ovn_docker.core.protocols import HostLinks, HostSwitch, LateFlowReporter, NetworkBackends
from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, check_subnets
from ovn_docker.errors import (
    AddressInUse,
    BadRequest,
    FlowsLate,
    OvnDockerError,
    SubnetRefused,
    TimedOut,
    Unavailable,
)
from ovn_docker.metrics import FLOWS, REPAIRS, Recorder, Unrecorded
from ovn_docker.model import (
    GATEWAY_BRIDGE,
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

_FOLLOW_UP = 15.0
"""Seconds that Docker gets for its next step after a reply, many times what it needs: after CreateNetwork it
lists the network, after Join it moves the link."""

_STORING = 2.0
"""Seconds of a call that create_endpoint() reserves for its work when it waits for Open vSwitch."""


_PAUSE = 0.2
"""Seconds between two attempts while waiting."""


class LateFlows(StrEnum):
    """Result of Join if the flows are missing when its time is up: a warning, or a failure."""

    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Time limits in seconds.

    *request*: of a whole call; *flows*: of Join's wait for the flows; *controller*: of the wait in
    create_endpoint() for Open vSwitch and ovn-controller to come back; *undo*: for undoing a failed call
    while Docker still waits (reconcile.py has more time).
    """

    request: float = 15.0
    flows: float = 10.0
    controller: float = 5.0
    undo: float = 2.0
    late_flows: LateFlows = LateFlows.WARN


class Driver:
    """The network driver. Its only state is the calls in flight; everything else is in the databases.

    *removed_elsewhere*, *made_elsewhere*: True while Docker removes a network (by ID) or creates a shared
    network (by name) on our request, mirroring another host. *occupied* returns the subnets that this host
    has in use: its user cannot create a network that overlaps a link's. *creations*: see class Creations.
    *late_flows*: None if the backend lacks that capability.
    """

    def __init__(
        self,
        backend: NetworkBackends,
        switch: HostSwitch,
        links: HostLinks,
        check_controller: Callable[[], None],
        limits: TimeLimits,
        record: Recorder | None = None,
        removed_elsewhere: Callable[[NetworkId], bool] = lambda _: False,
        made_elsewhere: Callable[[str], bool] = lambda _: False,
        occupied: Callable[[], Iterable[Occupied]] = tuple,
        creations: Creations | None = None,
        late_flows: LateFlowReporter | None = None,
    ) -> None:
        self._creations = creations or Creations()
        self._occupied = occupied
        self._record = record or Unrecorded()
        self._removed_elsewhere = removed_elsewhere
        self._made_elsewhere = made_elsewhere
        self._backend = backend
        self._late_flows = late_flows
        self._switch = switch
        self._links = links
        self._check_controller = check_controller
        self._was_ready = False
        self._limits = limits
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._replied: dict[str, float] = {}
        self._new: dict[EndpointId, tuple[Endpoint, Chassis, int]] = {}
        """Endpoints that were created and not joined yet, each with its OpenFlow port number."""
        self._unfinished: dict[NetworkId, Callable[[NetworkId, Chassis, Deadline], None]] = {}
        self._finishing = threading.Lock()
        self.leftovers = threading.Event()
        """Set when a delete failed, or when a create may still complete after its caller gave up."""

    def create_network(self, network: Network) -> None:
        """NetworkDriver.CreateNetwork. If it fails, Docker forgets the network without a call."""
        deadline = Deadline.of_call(self._limits.request)
        self._unfinished.pop(network.id, None)
        with self._marked(network.id), ExitStack() as undo:
            if network.options.name is not None:
                pools = [subnet.pool for subnet in network.subnets]
                self._creations.begin(network.options.name, network.id, pools)
                undo.callback(self._creations.end, network.id)
            chassis = self._switch.chassis(deadline)
            self._check_mtu(network, chassis)
            self._check_subnets(network, chassis)
            if network.options.name is not None:
                with suppress(Unavailable):  # a removal that is due must not follow this creation
                    self.finish(chassis, deadline)
            with self._deleted_later_on_failure(network.id, self._drop_network):
                record = self._backend(chassis).create_network(network, deadline)
                if record:
                    self._switch.keep(network.id, record, deadline)
                elif network.options.name is not None:  # without rows, until the follower replaces it
                    self._creations.check(network.options.name, network.id)
            undo.pop_all()
            self._note_reply(network.id)

    def delete_network(self, network: NetworkId) -> None:
        """NetworkDriver.DeleteNetwork. Docker forgets the network even if this fails."""
        deadline = Deadline.of_call(self._limits.request)
        self._creations.end(network)
        delete = self._delete_network
        if self._removed_elsewhere(network):  # another host may have created it again: remove it once
            delete = self._drop_network
        with self._marked(network), self._deleted_later_on_failure(network, delete):
            self._forget_reply(network)
            self._switch.keep(network, "", deadline)
            delete(network, self._switch.chassis(deadline), deadline)

    def allocate_network(self, network: Network) -> None:
        """NetworkDriver.AllocateNetwork: swarm's manager makes the network for the whole cluster.

        A leader repeats the calls of the one before it. Raises BadRequest for a shared network: a node would
        remove it from all hosts with its last task.
        """
        if network.options.name is not None:
            raise BadRequest(
                "ovn.network is not for networks of swarm, which are on all nodes by themselves: leave it out"
            )
        deadline = Deadline.of_call(self._limits.request)
        with self._marked(network.id):
            self._backend(self._switch.chassis(deadline)).create_network(network, deadline, kept=True)

    def free_network(self, network: NetworkId) -> None:
        """NetworkDriver.FreeNetwork: swarm's manager deletes the network, as DeleteNetwork does not."""
        deadline = Deadline.of_call(self._limits.request)
        self._backend(self._switch.chassis(deadline)).delete_network(network, deadline, kept=True)

    def create_endpoint(self, endpoint: Endpoint) -> Endpoint:
        """NetworkDriver.CreateEndpoint: make all parts of an endpoint; Docker moves its link in Join.

        Returns the endpoint with its MAC and with the addresses that the backend has chosen.
        """
        deadline = Deadline.of_call(self._limits.request)
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
            ofport = self._switch.plug(endpoint, attachment, chassis, deadline)
            undo.pop_all()
        self._new[endpoint.id] = endpoint, chassis, ofport
        return endpoint

    def delete_endpoint(self, endpoint: EndpointId) -> None:
        """NetworkDriver.DeleteEndpoint: delete all parts of an endpoint that exist."""
        deadline = Deadline.of_call(self._limits.request)
        with self._marked(endpoint):
            self._forget_reply(endpoint)
            self._new.pop(endpoint, None)
            try:
                try:
                    chassis = self._switch.chassis(deadline, without=endpoint)
                finally:
                    self._links.delete(host_link(endpoint))
                if not self._backend(chassis).delete_endpoint(endpoint, deadline):
                    self.leftovers.set()
            except OvnDockerError:
                self.leftovers.set()
                raise

    def join(self, network: NetworkId, endpoint: EndpointId, sandbox: str) -> Joined:
        """NetworkDriver.Join: wait for the flows. Returns the link to move into the sandbox.

        The endpoint is complete since create_endpoint(); a failure here only delays its packets.
        """
        deadline, index = Deadline.of_call(self._limits.flows), None
        with self._marked(endpoint):  # so that no other endpoint takes over its address
            try:
                start = time.monotonic()
                new = self._new.pop(endpoint, None)
                index, forwards = self._switch.enter(endpoint, sandbox.rpartition("/")[2], deadline)
                why = "" if forwards else self._switch.why_late(endpoint, Deadline(1))
                if not why and self._late_flows:
                    why = self._late_flows.why_late(endpoint, deadline)
                self._record.observe(FLOWS, time.monotonic() - start, "late" if why else "installed")
                if not why and new:
                    self._announce(*new)
                if why:
                    raise FlowsLate(endpoint, network, self._limits.flows, why)
            except Unavailable as error:
                if self._limits.late_flows is LateFlows.FAIL:
                    raise
                log.warning("%s; the container starts all the same", error)
            self._note_reply(endpoint)
        return Joined(container_link(endpoint), () if index is None else resolver_routes(index))

    def leave(self, endpoint: EndpointId) -> None:
        """NetworkDriver.Leave: delete the port and the veth pair of an endpoint."""
        with self._marked(endpoint):
            self._unplug(endpoint, Deadline.of_call(self._limits.request))

    def endpoint_info(self, endpoint: EndpointId) -> dict[str, str]:
        """NetworkDriver.EndpointOperInfo. Never fails: on Docker 20.10 an error would stop the container."""
        try:
            return self._switch.endpoint_info(endpoint, Deadline(min(2, self._limits.request)))
        except OvnDockerError as error:
            log.info("no information on endpoint %s: %s", endpoint[:12], error)
            return {}

    def in_flight(self) -> set[str]:
        """Return the endpoints and networks that a call works on."""
        with self._lock:
            return set(+self._in_flight)

    def busy(self) -> set[str]:
        """Return in_flight() and those for which Docker may not have taken its next step after a reply."""
        with self._lock:
            now = time.monotonic()
            self._replied = {id_: end for id_, end in self._replied.items() if now - end < _FOLLOW_UP}
            return {*+self._in_flight, *self._replied}

    def active_endpoints(self, grace: float, deadline: Deadline) -> list[StoredEndpoint]:
        """Return the endpoints that are plugged on this host and not dead, and those that a call works on.

        An endpoint younger than *grace* seconds may still be joined, so it is not dead.
        """
        plugged = [one for one in self._switch.endpoints(deadline) if not self._dead(one, grace)]
        in_flight = self.in_flight() - {one.id for one in plugged}
        return [*plugged, *(StoredEndpoint(EndpointId(id_), NetworkId(""), "", 0) for id_ in in_flight)]

    def finish(self, chassis: Chassis, deadline: Deadline) -> None:
        """Delete the networks that could not be deleted, or created, in Docker's call.

        Raises TimedOut when another call holds the lock.
        """
        if not self._finishing.acquire(timeout=deadline.left()):
            raise TimedOut("another call has been deleting networks for the whole time of this call")
        try:
            for network, delete in tuple(self._unfinished.items()):
                try:
                    delete(network, chassis, deadline)
                except Unavailable:
                    raise
                except OvnDockerError as error:  # time does not cure it
                    log.warning("network %s is not deleted: %s", network[:12], error)
                self._unfinished.pop(network, None)
        finally:
            self._finishing.release()

    def remove(self, endpoint: EndpointId, chassis: Chassis, deadline: Deadline) -> None:
        """Delete all parts of an endpoint, on this host and in the backend."""
        self._new.pop(endpoint, None)
        self._unplug(endpoint, deadline)
        self._backend(chassis).delete_endpoint(endpoint, deadline)

    def _delete_network(self, network: NetworkId, chassis: Chassis, deadline: Deadline) -> None:
        self._backend(chassis).delete_network(network, deadline)

    def _drop_network(self, network: NetworkId, chassis: Chassis, deadline: Deadline) -> None:
        self._backend(chassis).drop_network(network, deadline)

    def _ready(self, deadline: Deadline) -> tuple[Chassis, int | None]:
        """Wait for Open vSwitch and ovn-controller, which at boot may start after Docker does.

        Waits for the time limit *controller*; until both were up once, nearly for the time of the call.
        Returns the chassis and the MTU of its tunnels, None without tunnels.
        """
        wait = self._limits.controller
        if not self._was_ready:  # at boot Docker starts a container of --restart=always only once
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
        """Return the MTU in bytes of this host's tunnels, None without tunnels. Raises Unavailable."""
        mtus = [self._links.mtu_of(ip) - tunnel_overhead(chassis.encap_types, ip) for ip in chassis.encap_ips]
        return min(mtus, default=None)

    def _check_mtu(self, network: Network, chassis: Chassis) -> None:
        """Raise BadRequest if the MTU that the user asks for exceeds that of this host's tunnels.

        A network that another host has created is accepted: create_endpoint() logs a warning instead.
        """
        mtu, name = network.options.mtu, network.options.name
        if mtu is None or (name is not None and self._made_elsewhere(name)):
            return
        try:
            limit = self._tunnel_mtu(chassis)
        except Unavailable:  # no interface has the tunnel address: create_endpoint() reports that
            return
        if limit is not None and mtu > limit:
            raise BadRequest(
                f"MTU {mtu} is more than the {limit} bytes that the tunnels of this host carry: give at most "
                f"{limit}, leave the option out, or raise the MTU of the interface with the tunnel address"
            )

    def _check_subnets(self, network: Network, chassis: Chassis) -> None:
        """Raise SubnetRefused if this host uses the network's addresses for something else.

        No container starts on a network that overlaps docker_gwbridge. A shared network must not overlap any
        link of the host; the follower checks the shared networks of other hosts. With ``ovn.switch`` or
        ``ovn.routers=any`` the network may be the physical network itself, so nothing is checked.
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
            raise SubnetRefused(refused) from None

    def _store(self, endpoint: Endpoint, chassis: Chassis, deadline: Deadline) -> Attachment:
        """Create an endpoint in the backend; remove a dead endpoint of this host that holds its address.

        After a crash Docker forgets its endpoints without a call, and gives out their addresses again.
        """
        until = Deadline(deadline.left(at_most=self._limits.controller))
        while True:
            try:
                return self._backend(chassis).create_endpoint(endpoint, deadline)
            except AddressInUse as error:
                # Docker's IPAM never gives out an address twice: on the same network it has forgotten the
                # holder.
                holder = error.holder
                if holder is None:
                    raise
                given = not (error.allowed or error.asked) and error.address != endpoint.mac
                forgotten = given and holder.network == endpoint.network
                grace = 0 if forgotten else self._limits.request
                ours = chassis.made(holder.host, holder.encap)
                if not ours or not self._dead(holder, grace):
                    raise
                if holder.up and not self._left_here(holder, deadline):
                    # Any host can write that the holder is ours. If that is true and the power was cut,
                    # ovn-controller soon marks the port as down; if another host has it, it stays up.
                    if until.left() <= _PAUSE:
                        raise
                    time.sleep(_PAUSE)
                    continue
                log.warning("endpoint %s takes over from %s, which is dead", endpoint.id[:12], holder.id[:12])
                deadline.check(f"the address that endpoint {holder.id[:12]} holds")
                self.remove(holder.id, chassis, deadline)
                self._record.add(REPAIRS, "takeover")
            except Unavailable:
                self.leftovers.set()  # the database may still store the endpoint, after the undo
                raise

    def _dead(self, endpoint: StoredEndpoint, grace: float) -> bool:
        link = host_link(endpoint.id)
        joined = self._links.joined(link).get(link)
        if joined is None and self._links.exists(link):
            return False
        return endpoint.id not in self.in_flight() and endpoint.dead(joined, grace)

    def _announce(self, endpoint: Endpoint, chassis: Chassis, ofport: int) -> None:
        """Announce an endpoint to its neighbours, which may have another MAC for its addresses."""
        try:
            self._switch.announce(endpoint, chassis, ofport)
        except Unavailable as error:
            log.info("addresses of endpoint %s were not announced: %s", endpoint.id[:12], error)

    def _left_here(self, endpoint: StoredEndpoint, deadline: Deadline) -> bool:
        """Return True if this host has a link or port of an endpoint."""
        there = self._links.exists(host_link(endpoint.id))
        return there or bool(self._switch.endpoint_info(endpoint.id, deadline))

    def _note_reply(self, id_: str) -> None:
        with self._lock:
            self._replied[id_] = time.monotonic()

    def _forget_reply(self, id_: str) -> None:
        with self._lock:
            self._replied.pop(id_, None)

    def _unplug(self, endpoint: EndpointId, deadline: Deadline) -> None:
        """Delete the port of an endpoint, and its veth pair even if that fails."""
        self._forget_reply(endpoint)
        try:
            self._switch.unplug(endpoint, deadline)
        finally:
            self._links.delete(host_link(endpoint))

    def _quietly_remove(self, endpoint: EndpointId, chassis: Chassis) -> None:
        """Remove an endpoint after a failure; log errors, which must not hide the error of the call."""
        try:
            self.remove(endpoint, chassis, Deadline(self._limits.undo))
            self._record.add(REPAIRS, "undo")
        except OvnDockerError as error:
            self.leftovers.set()
            log.warning("could not undo endpoint %s: %s", endpoint[:12], error)

    @contextmanager
    def _deleted_later_on_failure(
        self, network: NetworkId, delete: Callable[[NetworkId, Chassis, Deadline], None]
    ) -> Iterator[None]:
        """If the backend does not answer while the block runs, have finish() delete the network later."""
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
                self._in_flight += Counter()  # drops the zeros
