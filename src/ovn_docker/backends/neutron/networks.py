"""Docker networks in Neutron: one of a single VM, one that VMs share, or one that the user has made.

A network that this driver makes has the description ``ovn-docker`` from its creation, and the tag
``ovn-docker`` when it is complete; the driver does not change or delete others. Another tag names the Docker
network: on the Neutron network if a driver made it, else on the VM's own port. Neutron's names are not
unique, and a tag has at most 60 characters.
"""

import logging
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from random import SystemRandom
from uuid import UUID

from ovn_docker import options
from ovn_docker.allowed import Allowed
from ovn_docker.backends.neutron import leases
from ovn_docker.backends.neutron.api import Neutron, NeutronRefused, R
from ovn_docker.backends.neutron.resources import (
    NeutronNetwork,
    NeutronPort,
    NeutronSecurityGroup,
    NeutronSubnet,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import (
    BadRequest,
    ForeignNetwork,
    NetworkNotFound,
    OtherMtu,
    OtherSubnets,
    OvnDockerError,
    SubnetThere,
)
from ovn_docker.model import Difference, Kind, Network, NetworkId, StoredNetwork, since

log = logging.getLogger(__name__)

_RANDOM = SystemRandom()

OURS = "ovn-docker"
"""Description of a network that this driver made, and its tag when it is complete."""

_KEPT = "ovn-docker:kept"
"""Tag of a network that a swarm's manager made."""

_LONGEST_TAG = 60
"""Characters that a tag may have."""

_AUTOMATIC = {"slaac", "dhcpv6-stateless"}
"""Modes of IPv6 subnets in which a port cannot choose its address ("Networking API v2.0")."""

_ABANDONED = 300.0
"""Age in seconds from which an incomplete network is a leftover."""

_PAUSE = 0.6
"""Longest pause, in seconds, before a network that another VM is making is read again."""


@dataclass(frozen=True, slots=True)
class UnderlayNetwork:
    """A Docker network in Neutron.

    *ours*: True if a driver made it; *groups*: UUIDs of its security groups; *allowed*: addresses that its
    containers may use besides their own; *port_security*: if False, they may use any address.
    """

    network: NeutronNetwork
    ours: bool
    groups: tuple[str, ...]
    allowed: tuple[Allowed, ...] = ()
    port_security: bool = True

    @property
    def id(self) -> str:
        """UUID of the Neutron network."""
        return self.network.id

    @property
    def kept(self) -> bool:
        """True if a manager of a swarm made the network."""
        return _KEPT in self.network.tags


class Networks:
    """The Docker networks of the VM with the port *vif*."""

    def __init__(self, neutron: Neutron, vif: str) -> None:
        self._neutron = neutron
        self._vif = vif

    def create(self, network: Network, deadline: Deadline, *, kept: bool) -> None:
        """Create the Neutron network, join the one that other VMs share, or attach to the user's.

        Raises BadRequest for invalid options, Conflict if the network exists with other subnets.
        """
        wanted = network.options
        groups = self._groups(wanted.security_groups, deadline)
        tags = _described(network, groups)
        mtu = self._parents_mtu(deadline)
        if wanted.mtu is not None and wanted.mtu > mtu:
            raise BadRequest(
                f"com.docker.network.driver.mtu={wanted.mtu} is more than the {mtu} bytes that the "
                f"network of the VM's own port carries: give at most {mtu}"
            )
        if wanted.switch is not None:
            self._attach(network, wanted.switch, tags, mtu, deadline)
            return
        if wanted.name is not None:
            found = self._share(network, wanted.name, mtu, deadline)
        else:
            found = self._make_own(network, mtu, deadline)
        owner = _owner(self._vif, network.id)  # the first tag, because it says which VM the next ones are of
        for tag in (owner, _member(network.id), *tags):
            self._neutron.tag(NeutronNetwork, found.id, tag, deadline)
        if kept:
            self._neutron.tag(NeutronNetwork, found.id, _KEPT, deadline)
        self._bind(network, found, deadline)

    def forget(self, found: UnderlayNetwork, network: NetworkId, deadline: Deadline) -> None:
        """Delete the Neutron network, leave it if other VMs have it, or detach from it if it is the user's.

        Raises NeutronRefused if other ports are on it.
        """
        if found.ours:
            self._leave(found, network, deadline)
        else:
            self._remove_port_tags(network, deadline)

    def forget_traces(self, network: NetworkId, deadline: Deadline) -> None:
        """Delete an incomplete Neutron network, and tags of the VM's port, of a network without more."""
        for incomplete in self._made(deadline, name=network):
            self._neutron.delete(NeutronNetwork, incomplete.id, deadline)
        self._remove_port_tags(network, deadline)

    def of_vm(self, deadline: Deadline) -> list[StoredNetwork]:
        """Return this VM's Docker networks, by the tags of Neutron's networks and of the VM's own port."""
        found = []
        for network in self._made(deadline):
            members = {tag.removeprefix(_member(NetworkId(""))) for tag in network.tags if _is_member(tag)}
            shared = "" if len(members) < 2 else f"network {network.name}"
            for tag in network.tags:
                if tag.startswith(_owner(self._vif, "")) and _KEPT not in network.tags:
                    short = tag.partition("=")[2]
                    id_ = next((member for member in members if member.startswith(short)), short)
                    found.append(StoredNetwork(NetworkId(id_), shared, self._neutron.age(network)))
        for tag in self._own_tags(deadline):
            if tag.startswith("docker:"):
                id_ = tag.removeprefix("docker:").partition("=")[0]
                found.append(StoredNetwork(NetworkId(id_), "your network", float("inf")))
        return found

    def owned(self, network: NetworkId, deadline: Deadline) -> UnderlayNetwork | None:
        """Return the network of ours for a Docker network of this VM. *network*: at least 12 digits."""
        for found in self._made(deadline):
            if _owner(self._vif, network) in found.tags:
                return UnderlayNetwork(found, True, ())
        return None

    def has_another_use(self, found: UnderlayNetwork, network: NetworkId, deadline: Deadline) -> bool:
        """Return True if another Docker network of this VM is on the same Neutron network."""
        of_network = _owner(self._vif, network), f"docker:{network[:12]}={found.id}"
        owners = [tag for tag in found.network.tags if tag.startswith(_owner(self._vif, ""))]
        attached = [
            tag
            for tag in self._own_tags(deadline)
            if tag.startswith("docker:") and tag.endswith(f"={found.id}")
        ]
        return any(tag not in of_network for tag in (*owners, *attached))

    def incomplete(self, deadline: Deadline) -> list[Difference]:
        """Return incomplete networks of no VM that are older than _ABANDONED."""
        return [
            Difference(
                Kind.NETWORK, one.name, "Neutron", since(self._neutron.age(one)),
                "it is incomplete, and no VM has it", "delete it",
                f"{one.id} {one.revision_number or ''}",
            )
            for one in self._made(deadline)
            if not any(map(_is_member, one.tags)) and self._neutron.age(one) > _ABANDONED
        ]  # fmt: skip

    def clear(self, leftover: Difference, deadline: Deadline) -> bool:
        """Delete one of incomplete(), unless a VM has just joined it, or ports are on it."""
        uuid, _, revision = leftover.row.partition(" ")
        try:
            self._neutron.delete(NeutronNetwork, uuid, deadline, revision=int(revision) if revision else None)
        except NeutronRefused:
            return False
        return True

    def _made(self, deadline: Deadline, **filters: object) -> list[NeutronNetwork]:
        """Return the networks that drivers of this project made, without those that other projects share."""
        found = self._neutron.all(NeutronNetwork, deadline, description=OURS, **filters)
        return [network for network in found if self._is_made(network, deadline)]

    def _is_made(self, network: NeutronNetwork, deadline: Deadline) -> bool:
        return (network.description, network.project_id) == (OURS, self._neutron.project(deadline))

    def _remove_port_tags(self, network: NetworkId, deadline: Deadline) -> None:
        """Remove the tags of the VM's port that are about a Docker network."""
        for tag in self._port_tags(network, deadline):
            self._neutron.untag(NeutronPort, self._vif, tag, deadline)

    def find(self, network: NetworkId, deadline: Deadline) -> UnderlayNetwork:
        """Return the Neutron network of a Docker network. Raises NotFound."""
        ours = self._neutron.all(NeutronNetwork, deadline, tags=_member(network))
        for found in ours:
            return _found(found, found.tags, network, ours=True)
        tags = self._port_tags(network, deadline)
        for tag in tags:
            if tag.startswith("docker:"):
                existing = self._neutron.one(NeutronNetwork, tag.partition("=")[2], deadline)
                if existing is not None:
                    return _found(existing, tags, network, ours=False)
        raise NetworkNotFound(network, "Neutron")

    def _make_own(self, network: Network, mtu: int, deadline: Deadline) -> NeutronNetwork:
        """Create a Neutron network for this Docker network alone, or complete it."""
        existing = self._made(deadline, name=network.id)
        with ExitStack() as undo:
            if existing:
                found = existing[0]
            else:
                found = self._new_network(network.id, network, mtu, deadline)
                undo.callback(self._undo_network, found.id)
            self._subnets(network, found, deadline)
            self._neutron.tag(NeutronNetwork, found.id, OURS, deadline)
            undo.pop_all()
        return found

    def _share(self, network: Network, name: str, mtu: int, deadline: Deadline) -> NeutronNetwork:
        """Return the one network *name* that the project's VMs share, and create it if it does not exist.

        Names are not unique in Neutron. So a VM that has created the network reads whether other VMs have
        done so too. VMs that find more than one delete their own, and start again after a random pause. A VM
        that finds only its own completes it, because a VM that creates one later will find this one. The tag
        OURS marks the network as complete, for all VMs.
        """
        created: NeutronNetwork | None = None
        longest = _PAUSE
        with ExitStack() as undo:
            while True:
                existing = self._neutron.all(NeutronNetwork, deadline, name=name)
                foreign = [other for other in existing if not self._is_made(other, deadline)]
                complete = [other for other in existing if other not in foreign and OURS in other.tags]
                others = [
                    other
                    for other in existing
                    if other not in foreign and (not created or other.id != created.id)
                ]
                if foreign:
                    raise ForeignNetwork(name, "Neutron")
                if created and not others:
                    self._subnets(network, created, deadline)
                    self._neutron.tag(NeutronNetwork, created.id, OURS, deadline)
                    undo.pop_all()
                    return created
                if created:
                    undo.close()
                    created = None
                    longest *= 2  # so that at last it is longer than an attempt, however slow Neutron is
                    self._pause(deadline, name, longest)
                elif complete:
                    self._check_mtu(network, complete[0], mtu)
                    self._check_same(network, complete[0], deadline)
                    return complete[0]
                elif others:  # another VM is making it, or was killed meanwhile
                    for other in others:
                        if self._neutron.age(other) > _ABANDONED:
                            self._neutron.delete(NeutronNetwork, other.id, deadline)
                    self._pause(deadline, name, _PAUSE)
                else:
                    created = self._new_network(name, network, mtu, deadline)
                    undo.callback(self._undo_network, created.id)

    def _new_network(self, name: str, network: Network, mtu: int, deadline: Deadline) -> NeutronNetwork:
        wanted = {} if network.options.mtu is None else {"mtu": network.options.mtu}
        made = self._neutron.create(NeutronNetwork, deadline, name=name, description=OURS, **wanted)
        if made.mtu > mtu:  # Neutron puts no port with a larger MTU behind the VM's port
            try:
                return self._neutron.update(NeutronNetwork, made.id, deadline, mtu=mtu)
            except OvnDockerError:
                self._undo_network(made.id)
                raise
        return made

    def _subnets(self, network: Network, found: NeutronNetwork, deadline: Deadline) -> None:
        """Create the subnets of a network of ours that do not exist yet."""
        existing = self._neutron.all(NeutronSubnet, deadline, network_id=found.id)
        self._compare(network, found.name, existing)
        by_cidr = {subnet.cidr: subnet for subnet in existing}
        for subnet in network.subnets:
            pool = leases.waiting_pool(self._neutron, self._vif, subnet, deadline) if subnet.ours else None
            if subnet.pool not in by_cidr:
                ranges = leases.allocation_pools(subnet, pool)
                self._neutron.create(
                    NeutronSubnet,
                    deadline,
                    network_id=found.id,
                    name=f"docker-{network.id}",
                    description=OURS,
                    ip_version=subnet.pool.version,
                    cidr=str(subnet.pool),
                    gateway_ip=None if network.internal or subnet.gateway is None else str(subnet.gateway),
                    enable_dhcp=False,  # DHCP would take an address that Docker gives to a container
                    **({"allocation_pools": ranges} if ranges else {}),
                )

    def _bind(self, network: Network, found: NeutronNetwork, deadline: Deadline) -> None:
        """Bind the pools of our IPAM driver to the subnets, so that they belong to the network."""
        ours = [subnet for subnet in network.subnets if subnet.ours]
        existing = self._neutron.all(NeutronSubnet, deadline, network_id=found.id) if ours else []
        by_cidr = {subnet.cidr: subnet for subnet in existing}
        for subnet in ours:
            pool = leases.waiting_pool(self._neutron, self._vif, subnet, deadline)
            if pool is not None and subnet.pool in by_cidr:
                leases.bind(self._neutron, pool, network.id, by_cidr[subnet.pool], deadline)

    def _attach(self, network: Network, wanted: str, tags: list[str], mtu: int, deadline: Deadline) -> None:
        """Attach a Docker network to the user's Neutron network. Raises BadRequest or Conflict."""
        if network.options.mtu is not None:
            raise BadRequest(
                "com.docker.network.driver.mtu and ovn.switch exclude each other: the MTU of the network in "
                "Neutron counts"
            )
        found = self._named(wanted, deadline)
        self._check_mtu(network, found, mtu)
        self._check_same(network, found, deadline)
        attachment = f"docker:{network.id[:12]}={found.id}"
        for tag in (attachment, *tags):
            self._neutron.tag(NeutronPort, self._vif, tag, deadline)
        self._bind(network, found, deadline)

    def _check_mtu(self, network: Network, found: NeutronNetwork, mtu: int) -> None:
        """Raise BadRequest if the MTU is larger than the VM's, OtherMtu if it is not the requested one."""
        has = found.mtu
        if has > mtu:
            raise BadRequest(
                f"network {found.name} has MTU {has}, but the VM's own port is on a network with {mtu}, "
                "and Neutron puts no port with a larger MTU behind it; lower it with: openstack network set "
                f"--mtu {mtu} {found.id}"
            )
        if network.options.mtu is not None and network.options.mtu != has:
            raise OtherMtu(found.name, has, network.options.mtu, "Neutron")

    def _check_same(self, network: Network, found: NeutronNetwork, deadline: Deadline) -> None:
        """Raise OtherSubnets if the network lacks a subnet that Docker wants, Conflict without a pool."""
        existing = self._neutron.all(NeutronSubnet, deadline, network_id=found.id)
        self._compare(network, found.name, existing, complete=True)
        for subnet in network.subnets:
            if subnet.ours:
                leases.waiting_pool(self._neutron, self._vif, subnet, deadline)

    def _compare(
        self, network: Network, name: str, existing: list[NeutronSubnet], *, complete: bool = False
    ) -> None:
        """Raise OtherSubnets if the subnets that exist are not those of the Docker network."""
        for subnet in network.subnets:
            same = [other for other in existing if other.ip_version == subnet.pool.version]
            exact = [other for other in same if other.cidr == subnet.pool]
            if not exact and (same or complete):
                text = f"network {name} has no subnet {subnet.pool} in Neutron"
                raise OtherSubnets(text, [(_subnet_there(other),) for other in same])
            for other in exact:
                if other.ipv6_address_mode in _AUTOMATIC:
                    raise OtherSubnets(
                        f"in subnet {subnet.pool} of network {name} Neutron derives addresses from MACs "
                        f"({other.ipv6_address_mode}), so Docker cannot choose any",
                        (),
                    )
                gateway = other.gateway_ip
                if gateway and subnet.gateway and gateway != subnet.gateway:
                    raise OtherSubnets(
                        f"network {name} has the gateway {gateway} in Neutron, not the requested "
                        f"{subnet.gateway}",
                        [(_subnet_there(other),)],
                    )

    def _leave(self, found: UnderlayNetwork, network: NetworkId, deadline: Deadline) -> None:
        """Leave a network of ours; the last VM deletes it. Raises NeutronRefused if ports are on it."""
        while True:
            existing = self._neutron.one(NeutronNetwork, found.id, deadline)
            if existing is None:
                return
            owner = _owner(self._vif, network)  # removed last, because create() adds it first
            to_remove = [
                tag for tag in existing.tags if tag.startswith((_member(network), *_descriptions(network)))
            ]
            to_remove += [tag for tag in existing.tags if tag == owner]
            if any(tag.startswith(_MEMBERS) and tag not in to_remove for tag in existing.tags):
                if not to_remove:
                    return
                for tag in to_remove:
                    self._neutron.untag(NeutronNetwork, found.id, tag, deadline)
                continue  # the other VMs may have left meanwhile, when our tags were still on it
            try:
                self._neutron.delete(NeutronNetwork, found.id, deadline, revision=existing.revision_number)
            except NeutronRefused as refused:
                if refused.status == 412:  # a VM has just joined or left the network
                    continue
                raise
            return

    def _own_tags(self, deadline: Deadline) -> tuple[str, ...]:
        """Return the tags of the VM's own port."""
        port = self._neutron.one(NeutronPort, self._vif, deadline)
        return port.tags if port else ()

    def _port_tags(self, network: NetworkId, deadline: Deadline) -> list[str]:
        """Return the tags of the VM's port that are about a Docker network."""
        prefixes = (f"docker:{network[:12]}=", *_descriptions(network))
        return [tag for tag in self._own_tags(deadline) if tag.startswith(prefixes)]

    def _named(self, wanted: str, deadline: Deadline) -> NeutronNetwork:
        """Return the network that the user named, by UUID or name. Raises BadRequest."""
        found = self._by_uuid(NeutronNetwork, wanted, deadline) or self._neutron.all(
            NeutronNetwork, deadline, name=wanted
        )
        if len(found) != 1:
            how = "no network" if not found else f"{len(found)} networks"
            raise BadRequest(
                f"Neutron has {how} {wanted!r} for this project: give the ID of one, see: openstack network "
                "list"
            )
        return found[0]

    def _groups(self, wanted: Iterable[str], deadline: Deadline) -> tuple[str, ...]:
        """Return the UUIDs of security groups. Raises BadRequest."""
        ids = []
        for name in wanted:
            found = self._by_uuid(NeutronSecurityGroup, name, deadline) or self._neutron.all(
                NeutronSecurityGroup, deadline, name=name
            )
            if len(found) != 1:
                how = "no security group" if not found else f"{len(found)} security groups"
                raise BadRequest(
                    f"ovn.security-groups: Neutron has {how} {name!r} for this project: give the ID of one, "
                    "see: openstack security group list"
                )
            ids.append(found[0].id)
        return tuple(ids)

    def _by_uuid(self, kind: type[R], text: str, deadline: Deadline) -> list[R]:
        """Return the resource with the UUID *text*; an empty list if *text* is not a UUID or unknown."""
        try:
            UUID(text)
        except ValueError:
            return []
        found = self._neutron.one(kind, text, deadline)
        return [] if found is None else [found]

    def _parents_mtu(self, deadline: Deadline) -> int:
        """Return the MTU of the network of the VM's own port."""
        port = self._neutron.one(NeutronPort, self._vif, deadline)
        network = self._neutron.one(NeutronNetwork, port.network_id, deadline) if port else None
        return (network.mtu if network else 0) or 1500

    def _pause(self, deadline: Deadline, name: str, longest: float) -> None:
        deadline.check(f"network {name}, which another VM is making")
        time.sleep(deadline.left(at_most=_RANDOM.uniform(0.1, longest)))

    def _undo_network(self, network: str) -> None:
        """Delete a network after an error; another error is logged only, so as not to hide the first."""
        try:
            self._neutron.delete(NeutronNetwork, network, Deadline(5))
        except OvnDockerError as error:
            log.warning("could not undo network %s in Neutron: %s", network, error)


def _member(network: NetworkId) -> str:
    """Return the tag that marks a Neutron network of ours as this Docker network of any VM."""
    return f"docker:{network[:48]}"


_MEMBERS = "docker:", "docker-vm:"
"""Beginnings of the tags of _member() and _owner()."""


def _owner(vif: str, network: str) -> str:
    """Return the tag that marks a Neutron network of ours as a Docker network of the VM with port *vif*."""
    return f"docker-vm:{vif}={network[:12]}"


def _is_member(tag: str) -> bool:
    """Return True if *tag* is that of _member() for any Docker network."""
    return tag.startswith(_member(NetworkId("")))


def _group(network: NetworkId, group: str) -> str:
    """Return the tag, of the network or the VM's port, that gives containers a security group."""
    return f"docker-sg:{network[:12]}={group}"


def _groups_in(tags: Iterable[str], network: NetworkId) -> tuple[str, ...]:
    prefix = _group(network, "")
    return tuple(tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix))


def _allowed(network: NetworkId, allowed: str) -> str:
    """Return the tag, of the network or the VM's port, that allows an address to containers."""
    return f"docker-aap:{network[:12]}={allowed.replace('/', '~')}"


def _open(network: NetworkId) -> str:
    """Return the tag, of the network or the VM's port, that disables port security for containers."""
    return f"docker-ps:{network[:12]}=off"


def _descriptions(network: NetworkId) -> tuple[str, ...]:
    """Return the beginnings of the tags with settings for containers of a Docker network."""
    return _group(network, ""), _allowed(network, ""), _open(network)


def _described(network: Network, groups: Iterable[str]) -> list[str]:
    """Return the tags with settings for containers of a network. Raises BadRequest if one is too long."""
    tags = [_group(network.id, group) for group in groups]
    for one in network.options.allowed:
        tags.append(tag := _allowed(network.id, str(one)))
        if len(tag) > _LONGEST_TAG:
            raise BadRequest(
                f"allowed address {one} is too long for a network: allow it to each container instead"
            )
    return tags if network.options.port_security else [*tags, _open(network.id)]


def _found(network: NeutronNetwork, tags: Iterable[str], id_: NetworkId, *, ours: bool) -> UnderlayNetwork:
    """Return the Docker network that *tags* describe; any user of the project may have written them."""
    prefix, tags = _allowed(id_, ""), [*tags]
    words = [tag.removeprefix(prefix).replace("~", "/") for tag in tags if tag.startswith(prefix)]
    try:
        allowed = options.parse({options.ALLOWED: " ".join(words)}, options.UNDERLAY).allowed if words else ()
    except BadRequest:
        allowed = ()
    return UnderlayNetwork(network, ours, _groups_in(tags, id_), allowed, _open(id_) not in tags)


def _subnet_there(subnet: NeutronSubnet) -> SubnetThere:
    return SubnetThere(str(subnet.cidr), str(subnet.gateway_ip or ""))
