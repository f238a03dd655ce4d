"""How ports hang behind the VM's own port, each with a VLAN tag: as subports of its trunk, or by profile.

Neutron's word on which VLANs are taken is the truth: nothing is noted here.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from ovn_docker.backends.neutron import Neutron, Refused, Resource
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError, TimedOut, Unavailable
from ovn_docker.model import whole_number

_VLANS = range(1, 4095)
"""IEEE 802.1Q has 0 and 4095 for other purposes."""

ENDPOINT_OF = "ovn-docker endpoint of "
"""Description of an endpoint's port; the UUID of the VM's port follows."""

_OWNER = "docker:vlan-"
"""Device owner of a port that is behind the VM's by its profile; the VLAN follows."""

_POLL = 0.25
"""Seconds between two looks at a port."""

_ATTEMPTS = 5
"""How often the trunk is looked at anew when another client of Neutron has changed it in between."""

_CHANGED = {"DuplicateSubPort", "SubPortNotFound", "TrunkNotFound"}
"""What Neutron calls that: the VLAN is taken, the subport or the trunk has gone."""


class Parent(Protocol):
    """The VM's port, and the ports behind it."""

    def check(self, deadline: Deadline) -> None:
        """Raise BadRequest, with what the operator has to do, if there can be none."""

    def attach(self, port: str, deadline: Deadline) -> int:
        """Put a port, by UUID, behind it; it may be there already. Returns its VLAN."""

    def detach(self, port: str, deadline: Deadline) -> None:
        """Undo it; none is fine. The port stays."""

    def why_down(self, port: str, deadline: Deadline) -> str:
        """Wait until the port forwards: empty, or why it does not by *deadline*."""


class Turns:
    """Jobs of many threads, done together: who is first does all that wait, for the others too."""

    def __init__(self, do: Callable[[list["Job"], Deadline], object]) -> None:
        self._do = do
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[Job] = []

    def take(self, job: "Job") -> int:
        """The result of a job. Raises what it failed with, or TimedOut."""
        deadline = job.deadline
        with self._lock:
            self._waiting.append(job)
        if not self._turn.acquire(timeout=deadline.left()):
            with self._lock:
                self._waiting = [other for other in self._waiting if other is not job]
            raise TimedOut(f"gave up after {deadline.seconds:g} s waiting for other changes of the trunk")
        try:
            if not job.done:
                with self._lock:
                    jobs, self._waiting = self._waiting, []
                self._do(jobs, max((job.deadline for job in jobs), key=Deadline.left))
        finally:
            self._turn.release()
        if job.error is not None:
            raise job.error
        return job.vlan


class Job:
    """A port to attach to a trunk, or to detach."""

    def __init__(self, port: str, deadline: Deadline, *, attach: bool) -> None:
        self.port = port
        self.deadline = deadline
        self.attach = attach
        self.done = False
        self.vlan = 0
        self.error: OvnDockerError | None = None

    def finish(self, vlan: int = 0, error: OvnDockerError | None = None) -> None:
        """It is done."""
        self.vlan, self.error, self.done = vlan, error, True


class Trunk:
    """The trunk whose parent is the VM's port *vif*; made if there is none.

    Neutron itself puts changes of one trunk in a row, by letting all but one try again: six at once took 16
    seconds. So they are put in a row here, and what has gathered meanwhile goes in one request.
    """

    def __init__(self, neutron: Neutron, vif: str) -> None:
        self._neutron = neutron
        self._vif = vif
        self._turns = Turns(self._change)

    def attach(self, port: str, deadline: Deadline) -> int:
        """Make a port a subport of the trunk, with a VLAN that is free."""
        return self._turns.take(Job(port, deadline, attach=True))

    def detach(self, port: str, deadline: Deadline) -> None:
        """Take a subport off the trunk."""
        self._turns.take(Job(port, deadline, attach=False))

    def why_down(self, port: str, deadline: Deadline) -> str:
        """Neutron calls a subport ACTIVE when its flows are in, on the machine where the VM is."""
        pause = threading.Event()
        while True:
            found = self._neutron.one("ports", port, deadline)
            if found is None:
                return "its port has gone from Neutron"
            if found["status"] == "ACTIVE":
                return ""
            if deadline.left() <= _POLL:
                return f"Neutron calls its port {port} {found['status']}; is the VM's own port ACTIVE?"
            pause.wait(_POLL)

    def check(self, deadline: Deadline) -> None:
        """Make the trunk. Raises BadRequest if the cloud has none, or not for this port."""
        self.find(deadline)

    def find(self, deadline: Deadline, *, make: bool = True) -> Resource | None:
        """The trunk. Raises BadRequest if the port cannot have one, with what the operator has to do."""
        try:
            found = self._neutron.all("trunks", deadline, port_id=self._vif)
            if found or not make:
                return found[0] if found else None
            return self._neutron.create("trunks", deadline, port_id=self._vif, name=f"docker-{self._vif}")
        except Refused as refused:
            if refused.kind == "HTTPNotFound":  # not the port: there is nothing at this address
                raise BadRequest(
                    "this cloud has no trunk ports: ask its operator to enable Neutron's service plugin "
                    "`trunk`; or to allow you binding:profile, and start the driver with --parent profile"
                ) from None
            if refused.status == 409 and "eligible" in refused.said:
                raise BadRequest(
                    f"the VM's port {self._vif} cannot become a trunk while the VM runs (this cloud does not "
                    "use OVN); make the trunk before the VM: openstack network trunk create --parent-port "
                    f"{self._vif} TRUNK"
                ) from None
            raise

    def _change(self, jobs: list[Job], deadline: Deadline) -> None:
        try:
            for attach in (False, True):
                some = [job for job in jobs if job.attach is attach]
                if some:
                    self._together(some, deadline)
        except OvnDockerError as error:
            for job in jobs:
                if not job.done:
                    job.finish(error=error)
        finally:
            for job in jobs:  # a defect here must not leave the others waiting for ever
                if not job.done:
                    job.finish(error=Unavailable("changing the trunk failed, see the driver's log"))

    def _together(self, jobs: list[Job], deadline: Deadline) -> None:
        """All in one request; if that cannot be, one by one, to tell whose fault it is."""
        try:
            self._some(jobs, deadline)
        except (Refused, Conflict) as refused:
            if len(jobs) == 1:
                jobs[0].finish(error=refused)
                return
            for job in jobs:
                if not job.done:
                    self._together([job], deadline)

    def _some(self, jobs: list[Job], deadline: Deadline) -> None:
        attach = jobs[0].attach
        for attempt in range(_ATTEMPTS):
            trunk = self.find(deadline, make=attach)
            there = (
                {sub["port_id"]: int(sub["segmentation_id"]) for sub in trunk["sub_ports"]} if trunk else {}
            )
            chosen: dict[str, int] = {}
            subports: list[dict[str, object]]
            if attach:
                new = [job.port for job in jobs if job.port not in there]
                chosen = dict(zip(new, _free_vlans(there.values(), len(new)), strict=True))
                subports = [
                    {"port_id": port, "segmentation_type": "vlan", "segmentation_id": vlan}
                    for port, vlan in chosen.items()
                ]
            else:
                subports = [{"port_id": job.port} for job in jobs if job.port in there]
            try:
                if trunk and subports:
                    self._subports(trunk, "add" if attach else "remove", subports, deadline)
            except Refused as refused:
                if refused.kind not in _CHANGED or attempt == _ATTEMPTS - 1:
                    raise
                continue
            for job in jobs:
                job.finish(there.get(job.port) or chosen[job.port] if attach else 0)
            return

    def _subports(
        self, trunk: Resource, change: str, subports: list[dict[str, object]], deadline: Deadline
    ) -> None:
        try:
            self._neutron.change_subports(trunk["id"], change, subports, deadline)
        except Refused as refused:
            if refused.kind != "TrunkDisabled":
                raise
            self._neutron.update("trunks", trunk["id"], deadline, admin_state_up=True)
            self._neutron.change_subports(trunk["id"], change, subports, deadline)


class Profile:
    """Ports that name the VM's port and their VLAN in ``binding:profile``, for clouds without trunks.

    Neutron lets only an admin do that, or since 2024.1 only services, unless its operator has changed the
    policy (docs/underlay.md). It does not tell us the profile again, so the VLAN is in ``device_owner`` too.
    """

    def __init__(self, neutron: Neutron, vif: str) -> None:
        self._neutron = neutron
        self._vif = vif
        self._lock = threading.Lock()

    def check(self, deadline: Deadline) -> None:
        """Whether the policy allows it, only a port tells."""

    def attach(self, port: str, deadline: Deadline) -> int:
        """Write the VM's port and a free VLAN into a port. Raises BadRequest if the policy forbids it."""
        if not self._lock.acquire(timeout=deadline.left()):
            raise TimedOut(f"gave up after {deadline.seconds:g} s waiting for a VLAN")
        try:
            ports = self._neutron.all("ports", deadline, description=endpoint_of(self._vif))
            taken = {found["id"]: vlan for found in ports if (vlan := vlan_of(found))}
            vlan = taken.get(port) or _free_vlans(taken.values(), 1)[0]
            profile = {"parent_name": self._vif, "tag": vlan}
            self._neutron.update(
                "ports", port, deadline, device_owner=f"{_OWNER}{vlan}", **{"binding:profile": profile}
            )
        except Refused as refused:
            if refused.status != 403:
                raise
            raise BadRequest(
                "this cloud does not allow you binding:profile: start the driver with --parent trunk, or ask "
                "its operator for the policy create_port:binding:profile and update_port:binding:profile"
            ) from None
        else:
            return vlan
        finally:
            self._lock.release()

    def detach(self, port: str, deadline: Deadline) -> None:
        """Nothing: it goes with the port."""

    def why_down(self, port: str, deadline: Deadline) -> str:
        """Neutron never calls such a port ACTIVE, so there is nothing to wait for."""
        return ""


def vlan_of(port: Mapping[str, str]) -> int:
    """The VLAN that we have noted in a port; 0 if none."""
    text = port["device_owner"].removeprefix(_OWNER)
    return (whole_number(text) or 0) if text != port["device_owner"] else 0


def _free_vlans(taken: Iterable[int], count: int) -> list[int]:
    """The lowest ones that are free. Raises Conflict."""
    used = set(taken)
    free = [vlan for vlan in _VLANS if vlan not in used][:count]
    if len(free) < count:
        raise Conflict(
            f"the VM's port has {len(used)} subports, and there are no more VLANs: remove containers, or run "
            "some in another VM"
        )
    return free


def remove(neutron: Neutron, parent: Parent, port: Resource, deadline: Deadline) -> None:
    """Delete a port, from behind the VM's port if it is there; it may be gone."""
    if port["device_owner"]:
        parent.detach(port["id"], deadline)
    try:
        neutron.delete("ports", port["id"], deadline)
    except Refused as refused:
        if refused.status != 409:
            raise
        parent.detach(port["id"], deadline)  # it has just become a subport
        neutron.delete("ports", port["id"], deadline)


def endpoint_of(vif: str) -> str:
    """Description of the port of an endpoint of the VM with the port *vif*."""
    return f"{ENDPOINT_OF}{vif}"
