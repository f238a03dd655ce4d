"""Attach ports of containers to the VM's own port, each with a VLAN tag: as subports, or by their profile.

The VLANs in use are read from Neutron each time; this process keeps no record of them.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from ovn_docker.backends.neutron.api import Neutron, NeutronRefused
from ovn_docker.backends.neutron.resources import NeutronPort, NeutronTrunk
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, TimedOut, Unavailable
from ovn_docker.model import whole_number

_VLANS = range(1, 4095)
"""IEEE 802.1Q reserves 0 and 4095."""

ENDPOINT_OF = "ovn-docker endpoint of "
"""Beginning of the description of an endpoint's port; the UUID of the VM's port follows."""

_OWNER = "docker:vlan-"
"""Beginning of the device owner of a port that is attached by its profile; the VLAN follows."""

_POLL = 0.25
"""Seconds between two reads of a port's status."""

_ATTEMPTS = 5
"""Number of attempts at a change while other clients of Neutron change the trunk."""

_CHANGED = {"DuplicateSubPort", "SubPortNotFound", "TrunkNotFound"}
"""Types of the errors that a client gets then: VLAN taken, subport missing, trunk missing."""


class ParentPort(Protocol):
    """The VM's port, to which other ports are attached."""

    def check(self, deadline: Deadline) -> None:
        """Raise BadRequest, which says what the operator has to do, if ports cannot be attached."""

    def attach(self, port: str, deadline: Deadline) -> int:
        """Attach a port, given by its UUID, if it is not attached yet, and return its VLAN."""

    def detach(self, port: str, deadline: Deadline) -> None:
        """Detach a port, if it is attached; the port itself stays."""

    def why_down(self, port: str, deadline: Deadline, /) -> str:
        """Wait until a port forwards. Returns why it still does not at *deadline*, else an empty string."""


class ChangeQueue:
    """Queue of changes by several threads. The thread that gets the lock makes all waiting ones together."""

    def __init__(self, make: Callable[[list["SubportChange"], Deadline], object]) -> None:
        self._make = make
        self._making = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[SubportChange] = []

    def submit(self, change: "SubportChange") -> int:
        """Wait until a change is made, and return its VLAN. Raises the error of the change, or TimedOut."""
        deadline = change.deadline
        with self._lock:
            self._waiting.append(change)
        if not self._making.acquire(timeout=deadline.left()):
            with self._lock:
                self._waiting = [other for other in self._waiting if other is not change]
            raise TimedOut(f"gave up after {deadline.seconds:g} s waiting for other changes of the trunk")
        try:
            if not change.done:
                with self._lock:
                    changes, self._waiting = self._waiting, []
                self._make(changes, max((change.deadline for change in changes), key=Deadline.left))
        finally:
            self._making.release()
        if change.error is not None:
            raise change.error
        return change.vlan


class SubportChange:
    """Request to attach a port to a trunk, or to detach it, and the result."""

    def __init__(self, port: str, deadline: Deadline, *, attach: bool) -> None:
        self.port = port
        self.deadline = deadline
        self.attach = attach
        self.done = False
        self.vlan = 0
        self.error: OvnDockerError | None = None

    def finish(self, vlan: int = 0, error: OvnDockerError | None = None) -> None:
        """Store the result."""
        self.vlan, self.error, self.done = vlan, error, True


class TrunkParent:
    """The VM's port *vif* as the parent of a trunk, which is created if it does not exist.

    When clients change one trunk at once, Neutron makes one change and tries the others again: six took 16
    seconds. So this class makes one change at a time, and combines those that wait into one request.
    """

    def __init__(self, neutron: Neutron, vif: str) -> None:
        self._neutron = neutron
        self._vif = vif
        self._changes = ChangeQueue(self._change)

    def attach(self, port: str, deadline: Deadline) -> int:
        """Make a port a subport of the trunk, with a free VLAN."""
        return self._changes.submit(SubportChange(port, deadline, attach=True))

    def detach(self, port: str, deadline: Deadline) -> None:
        """Remove a subport from the trunk."""
        self._changes.submit(SubportChange(port, deadline, attach=False))

    def why_down(self, port: str, deadline: Deadline) -> str:
        """Wait until the port is ACTIVE: then its flows are installed on the machine where the VM runs."""
        pause = threading.Event()
        while True:
            found = self._neutron.one(NeutronPort, port, deadline)
            if found is None:
                return "its port was deleted in Neutron"
            if found.status == "ACTIVE":
                return ""
            if deadline.left() <= _POLL:
                return f"its port {port} is {found.status} in Neutron; is the VM's own port ACTIVE?"
            pause.wait(_POLL)

    def check(self, deadline: Deadline) -> None:
        """Create the trunk, if it does not exist. Raises BadRequest if the cloud does not allow it."""
        self.find(deadline)

    def find(self, deadline: Deadline, *, make: bool = True) -> NeutronTrunk | None:
        """Return the trunk. If it does not exist, create it (*make*) or return None.

        Raises BadRequest, which says what the operator has to do, if the port cannot have a trunk.
        """
        try:
            found = self._neutron.all(NeutronTrunk, deadline, port_id=self._vif)
            if found or not make:
                return found[0] if found else None
            return self._neutron.create(NeutronTrunk, deadline, port_id=self._vif, name=f"docker-{self._vif}")
        except NeutronRefused as refused:
            if refused.kind == "HTTPNotFound":  # of the URL; for a missing port the type is PortNotFound
                raise BadRequest(
                    "this cloud has no trunk ports: ask its operator to enable Neutron's service plugin "
                    "`trunk`; or to let you set binding:profile, and start the driver with --parent profile"
                ) from None
            if refused.status == 409 and "eligible" in refused.reason:
                raise BadRequest(
                    f"the VM's port {self._vif} cannot become a trunk while the VM runs (this cloud does not "
                    "use OVN); make the trunk before the VM: openstack network trunk create --parent-port "
                    f"{self._vif} TRUNK"
                ) from None
            raise

    def _change(self, changes: list[SubportChange], deadline: Deadline) -> None:
        try:
            for attach in (False, True):
                some = [change for change in changes if change.attach is attach]
                if some:
                    self._together(some, deadline)
        except OvnDockerError as error:
            for change in changes:
                if not change.done:
                    change.finish(error=error)
        finally:
            for change in changes:  # after an unexpected error, or the other threads would wait for ever
                if not change.done:
                    change.finish(error=Unavailable("changing the trunk failed, see the driver's log"))

    def _together(self, changes: list[SubportChange], deadline: Deadline) -> None:
        """Make changes in one request, or one by one if Neutron refuses that, so that each has its result."""
        try:
            self._in_one_request(changes, deadline)
        except (NeutronRefused, Conflict) as refused:
            if len(changes) == 1:
                changes[0].finish(error=refused)
                return
            for change in changes:
                if not change.done:
                    self._together([change], deadline)

    def _in_one_request(self, changes: list[SubportChange], deadline: Deadline) -> None:
        attach = changes[0].attach
        for attempt in range(_ATTEMPTS):
            trunk = self.find(deadline, make=attach)
            attached = {sub.port_id: sub.segmentation_id for sub in trunk.sub_ports} if trunk else {}
            chosen: dict[str, int] = {}
            subports: list[dict[str, object]]
            if attach:
                new = [change.port for change in changes if change.port not in attached]
                chosen = dict(zip(new, _free_vlans(attached.values(), len(new)), strict=True))
                subports = [
                    {"port_id": port, "segmentation_type": "vlan", "segmentation_id": vlan}
                    for port, vlan in chosen.items()
                ]
            else:
                subports = [{"port_id": change.port} for change in changes if change.port in attached]
            try:
                if trunk and subports:
                    self._subports(trunk, "add" if attach else "remove", subports, deadline)
            except NeutronRefused as refused:
                if refused.kind not in _CHANGED or attempt == _ATTEMPTS - 1:
                    raise
                continue
            for change in changes:
                change.finish(attached.get(change.port) or chosen[change.port] if attach else 0)
            return

    def _subports(
        self, trunk: NeutronTrunk, act: str, subports: list[dict[str, object]], deadline: Deadline
    ) -> None:
        try:
            self._neutron.change_subports(trunk.id, act, subports, deadline)
        except NeutronRefused as refused:
            if refused.kind != "TrunkDisabled":
                raise
            self._neutron.update(NeutronTrunk, trunk.id, deadline, admin_state_up=True)
            self._neutron.change_subports(trunk.id, act, subports, deadline)


class ProfileParent:
    """The VM's port as a parent that other ports name in ``binding:profile``, for clouds without trunks.

    Only admins may write the profile, since 2024.1 only services, unless the cloud's operator has changed the
    policy (docs/underlay.md). Neutron does not return it to us, so the VLAN is in ``device_owner`` too.
    """

    def __init__(self, neutron: Neutron, vif: str) -> None:
        self._neutron = neutron
        self._vif = vif
        self._lock = threading.Lock()

    def check(self, deadline: Deadline) -> None:
        """Do nothing: the policy can be tried only with a container's port."""

    def attach(self, port: str, deadline: Deadline) -> int:
        """Write the VM's port and a free VLAN into a port. Raises BadRequest if the policy forbids it."""
        if not self._lock.acquire(timeout=deadline.left()):
            raise TimedOut(f"gave up after {deadline.seconds:g} s waiting for a VLAN")
        try:
            ports = self._neutron.all(NeutronPort, deadline, description=endpoint_of(self._vif))
            taken = {found.id: vlan for found in ports if (vlan := vlan_of(found))}
            vlan = taken.get(port) or _free_vlans(taken.values(), 1)[0]
            profile = {"parent_name": self._vif, "tag": vlan}
            self._neutron.update(
                NeutronPort, port, deadline, device_owner=f"{_OWNER}{vlan}", **{"binding:profile": profile}
            )
        except NeutronRefused as refused:
            if refused.status != 403:
                raise
            raise BadRequest(
                "this cloud does not let you set binding:profile: start the driver with --parent trunk, or "
                "ask its operator to allow create_port:binding:profile and update_port:binding:profile"
            ) from None
        else:
            return vlan
        finally:
            self._lock.release()

    def detach(self, port: str, deadline: Deadline) -> None:
        """Do nothing: the profile is deleted together with the port."""

    def why_down(self, _port: str, _deadline: Deadline) -> str:
        """Return an empty string, without waiting: such a port never becomes ACTIVE."""
        return ""


def vlan_of(port: NeutronPort) -> int:
    """Return the VLAN in a port's device owner, or 0 if there is none."""
    text = port.device_owner.removeprefix(_OWNER)
    return (whole_number(text) or 0) if text != port.device_owner else 0


def _free_vlans(taken: Iterable[int], count: int) -> list[int]:
    """Return the *count* lowest VLANs that are free. Raises Conflict if there are fewer."""
    used = set(taken)
    free = [vlan for vlan in _VLANS if vlan not in used][:count]
    if len(free) < count:
        raise Conflict(
            f"the VM's port has {len(used)} subports, and no VLAN is free: remove containers, or run some in "
            "another VM"
        )
    return free


def remove(neutron: Neutron, parent: ParentPort, port: NeutronPort, deadline: Deadline) -> None:
    """Detach a port from the VM's port and delete it, if it still exists."""
    if port.device_owner:
        parent.detach(port.id, deadline)
    try:
        neutron.delete(NeutronPort, port.id, deadline)
    except NeutronRefused as refused:
        if refused.status != 409:
            raise
        parent.detach(port.id, deadline)  # it has just become a subport
        neutron.delete(NeutronPort, port.id, deadline)


def endpoint_of(vif: str) -> str:
    """Return the description of ports of endpoints of the VM with the port *vif*."""
    return f"{ENDPOINT_OF}{vif}"
