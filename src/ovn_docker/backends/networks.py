"""Docker networks in Neutron: networks of their own, networks that VMs share, networks of the user's.

What we make has the description ``ovn-docker`` from the first moment, and when it is complete the tag
``ovn-docker``; nothing else is changed or deleted. Which Docker network it is, is a tag as well: on the
network if it is ours, else, as a note, on the VM's own port. Neutron's names are not unique, and a tag may
have 60 characters.
"""

import logging
import random
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from uuid import UUID

from ovn_docker import options
from ovn_docker.allowed import Allowed
from ovn_docker.backends import leases
from ovn_docker.backends.neutron import Neutron, Refused, Resource
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, NotFound, OvnDockerError
from ovn_docker.model import Difference, Kind, Network, NetworkId, StoredNetwork, since

log = logging.getLogger(__name__)

OURS = "ovn-docker"
"""Tag of a network that we have made and that is complete; its description from the first moment."""

_KEPT = "ovn-docker:kept"

_LONGEST_TAG = 60
"""Characters of a tag."""

_AUTOMATIC = {"slaac", "dhcpv6-stateless"}
"""Modes of IPv6 subnets from which no port gets an address of its choice ("Networking API v2.0")."""

_ABANDONED = 300.0
"""Seconds after which a network that is not complete is nobody's."""

_PAUSE = 0.6
"""Seconds, at most, between two looks at a network that somebody else is making."""


@dataclass(frozen=True, slots=True)
class Found:
    """A Docker network in Neutron: *groups* are the UUIDs of its security groups.

    *allowed*, *port_security*: what its containers may use besides their addresses, or whether anything.
    """

    network: Resource
    ours: bool
    groups: tuple[str, ...]
    allowed: tuple[Allowed, ...] = ()
    port_security: bool = True

    @property
    def id(self) -> str:
        """Its UUID."""
        return str(self.network["id"])

    @property
    def kept(self) -> bool:
        """Whether swarm's manager made it."""
        return _KEPT in self.network["tags"]


class Networks:
    """The Docker networks of the VM with the port *vif*."""

    def __init__(self, neutron: Neutron, vif: str) -> None:
        self._neutron = neutron
        self._vif = vif

    def create(self, network: Network, deadline: Deadline, *, kept: bool) -> None:
        """Make the Neutron network and its subnets, join the one of VMs that share it, or note the user's.

        Raises BadRequest for options that cannot be, Conflict if it is there with other subnets.
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
        owner = _owner(self._vif, network.id)  # first: without it nobody would know whose a member is
        for tag in (owner, _member(network.id), *tags):
            self._neutron.tag("networks", found["id"], tag, deadline)
        if kept:
            self._neutron.tag("networks", found["id"], _KEPT, deadline)
        self._bind(network, found, deadline)

    def forget(self, found: Found, network: NetworkId, deadline: Deadline) -> None:
        """Delete the Neutron network, or leave it to the VMs that still have it, or forget the user's.

        Raises Conflict if somebody else has ports on it.
        """
        if found.ours:
            self._leave(found, network, deadline)
        else:
            self._forget_notes(network, deadline)

    def forget_traces(self, network: NetworkId, deadline: Deadline) -> None:
        """Delete what is left of a network that cannot be found: half of it, and what the VM's port says."""
        for half in self._made(deadline, name=network):
            self._neutron.delete("networks", half["id"], deadline)
        self._forget_notes(network, deadline)

    def of_vm(self, deadline: Deadline) -> list[StoredNetwork]:
        """The Docker networks that this VM has, by the tags of Neutron's networks and of its own port."""
        found = []
        for network in self._made(deadline):
            members = {tag.removeprefix(_member(NetworkId(""))) for tag in network["tags"] if _is_member(tag)}
            shared = "" if len(members) < 2 else f"network {network['name']}"
            for tag in network["tags"]:
                if tag.startswith(_owner(self._vif, "")) and _KEPT not in network["tags"]:
                    short = tag.partition("=")[2]
                    id_ = next((member for member in members if member.startswith(short)), short)
                    found.append(StoredNetwork(NetworkId(id_), shared, self._neutron.age(network)))
        port = self._neutron.one("ports", self._vif, deadline)
        for tag in (port or {}).get("tags", []):
            if tag.startswith("docker:"):
                id_ = tag.removeprefix("docker:").partition("=")[0]
                found.append(StoredNetwork(NetworkId(id_), "your network", float("inf")))
        return found

    def owned(self, network: NetworkId, deadline: Deadline) -> Found | None:
        """The network of ours that this VM has as a Docker network, whose ID *network* begins."""
        for found in self._made(deadline):
            if _owner(self._vif, network) in found["tags"]:
                return Found(found, True, ())
        return None

    def is_another_too(self, found: Found, network: NetworkId, deadline: Deadline) -> bool:
        """Whether a Neutron network is yet another Docker network of this VM: by a name, or by ovn.switch."""
        mine = _owner(self._vif, network), f"docker:{network[:12]}={found.id}"
        port = self._neutron.one("ports", self._vif, deadline) or {"tags": []}
        owners = [tag for tag in found.network["tags"] if tag.startswith(_owner(self._vif, ""))]
        notes = [tag for tag in port["tags"] if tag.startswith("docker:") and tag.endswith(f"={found.id}")]
        return any(tag not in mine for tag in (*owners, *notes))

    def strays(self, deadline: Deadline) -> list[Difference]:
        """Networks that somebody has begun to make and will not finish any more: no VM has them."""
        return [
            Difference(
                Kind.NETWORK, half["name"], "Neutron", since(self._neutron.age(half)),
                "somebody began to make it, and no VM has it", "delete it",
                f"{half['id']} {half.get('revision_number') or ''}",
            )
            for half in self._made(deadline)
            if not any(map(_is_member, half["tags"])) and self._neutron.age(half) > _ABANDONED
        ]  # fmt: skip

    def clear(self, stray: Difference, deadline: Deadline) -> bool:
        """Delete one of them, unless a VM has just joined it, or somebody uses it."""
        uuid, _, revision = stray.row.partition(" ")
        try:
            self._neutron.delete("networks", uuid, deadline, revision=int(revision) if revision else None)
        except Refused:
            return False
        return True

    def _made(self, deadline: Deadline, **filters: object) -> list[Resource]:
        """The networks that drivers of this project made: another one may share such with us."""
        found = self._neutron.all("networks", deadline, description=OURS, **filters)
        return [network for network in found if self._is_made(network, deadline)]

    def _is_made(self, network: Resource, deadline: Deadline) -> bool:
        return (network["description"], network["project_id"]) == (OURS, self._neutron.project(deadline))

    def _forget_notes(self, network: NetworkId, deadline: Deadline) -> None:
        """What the VM's port says of a Docker network."""
        for note in self._notes(network, deadline):
            self._neutron.untag("ports", self._vif, note, deadline)

    def find(self, network: NetworkId, deadline: Deadline) -> Found:
        """The Neutron network that stands for a Docker network. Raises NotFound."""
        ours = self._neutron.all("networks", deadline, tags=_member(network))
        for found in ours:
            return _found(found, found["tags"], network, ours=True)
        notes = self._notes(network, deadline)
        for note in notes:
            if note.startswith("docker:"):
                there = self._neutron.one("networks", note.partition("=")[2], deadline)
                if there is not None:
                    return _found(there, notes, network, ours=False)
        raise NotFound(
            f"network {network[:12]} is not in Neutron: it was deleted there or made in another project; "
            "remove it with docker network rm and create it again"
        )

    def _make_own(self, network: Network, mtu: int, deadline: Deadline) -> Resource:
        """A Neutron network for this Docker network alone, or what is there of it."""
        there = self._made(deadline, name=network.id)
        with ExitStack() as undo:
            if there:
                found = there[0]
            else:
                found = self._new_network(network.id, network, mtu, deadline)
                undo.callback(self._quietly_delete, found["id"])
            self._subnets(network, found, deadline)
            self._neutron.tag("networks", found["id"], OURS, deadline)
            undo.pop_all()
        return found

    def _share(self, network: Network, name: str, mtu: int, deadline: Deadline) -> Resource:
        """The network *name* of the project's VMs: one, though Neutron has no unique names.

        Whoever makes it looks whether somebody else is making it too. Of several that find each other all
        start again, after a while that differs; one that finds nobody is alone, for it was there before the
        others looked. It is complete, and for all, when it has its tag.
        """
        mine: Resource | None = None
        longest = _PAUSE
        with ExitStack() as undo:
            while True:
                there = self._neutron.all("networks", deadline, name=name)
                foreign = [other for other in there if not self._is_made(other, deadline)]
                complete = [other for other in there if other not in foreign and OURS in other["tags"]]
                others = [
                    other
                    for other in there
                    if other not in foreign and (not mine or other["id"] != mine["id"])
                ]
                if foreign:
                    raise Conflict(
                        f"Neutron has a network {name} that ovn-docker did not make here: attach to it with "
                        f"-o ovn.switch={name}, or give ovn.network another name"
                    )
                if mine and not others:
                    self._subnets(network, mine, deadline)
                    self._neutron.tag("networks", mine["id"], OURS, deadline)
                    undo.pop_all()
                    return mine
                if mine:
                    undo.close()
                    mine = None
                    longest *= 2  # than one try takes, in the end, however slow Neutron is
                    self._pause(deadline, name, longest)
                elif complete:
                    self._check_mtu(network, complete[0], mtu)
                    self._check_same(network, complete[0], deadline)
                    return complete[0]
                elif others:  # somebody is making it, or died of it
                    for other in others:
                        if self._neutron.age(other) > _ABANDONED:
                            self._neutron.delete("networks", other["id"], deadline)
                    self._pause(deadline, name, _PAUSE)
                else:
                    mine = self._new_network(name, network, mtu, deadline)
                    undo.callback(self._quietly_delete, mine["id"])

    def _new_network(self, name: str, network: Network, mtu: int, deadline: Deadline) -> Resource:
        wanted = {} if network.options.mtu is None else {"mtu": network.options.mtu}
        made = self._neutron.create("networks", deadline, name=name, description=OURS, **wanted)
        if made.get("mtu", 0) > mtu:  # Neutron puts nothing behind the VM's port that carries more
            try:
                return self._neutron.update("networks", made["id"], deadline, mtu=mtu)
            except OvnDockerError:
                self._quietly_delete(made["id"])
                raise
        return made

    def _subnets(self, network: Network, found: Resource, deadline: Deadline) -> None:
        """Make the subnets of a network that is ours; some may be there."""
        there = self._neutron.all("subnets", deadline, network_id=found["id"])
        self._compare(network, found["name"], there)
        by_cidr = {ip_network(subnet["cidr"]): subnet for subnet in there}
        for subnet in network.subnets:
            pool = leases.waiting_pool(self._neutron, self._vif, subnet, deadline) if subnet.ours else None
            if subnet.pool not in by_cidr:
                ranges = leases.allocation_pools(subnet, pool)
                self._neutron.create(
                    "subnets",
                    deadline,
                    network_id=found["id"],
                    name=f"docker-{network.id}",
                    description=OURS,
                    ip_version=subnet.pool.version,
                    cidr=str(subnet.pool),
                    gateway_ip=None if network.internal or subnet.gateway is None else str(subnet.gateway),
                    enable_dhcp=False,  # DHCP would take an address that Docker gives to a container
                    **({"allocation_pools": ranges} if ranges else {}),
                )

    def _bind(self, network: Network, found: Resource, deadline: Deadline) -> None:
        """Bind the pools of our IPAM driver to the subnets; last, for they go when the VM's network goes."""
        ours = [subnet for subnet in network.subnets if subnet.ours]
        there = self._neutron.all("subnets", deadline, network_id=found["id"]) if ours else []
        by_cidr = {ip_network(subnet["cidr"]): subnet for subnet in there}
        for subnet in ours:
            pool = leases.waiting_pool(self._neutron, self._vif, subnet, deadline)
            if pool is not None and subnet.pool in by_cidr:
                leases.bind(self._neutron, pool, network.id, by_cidr[subnet.pool], deadline)

    def _attach(self, network: Network, wanted: str, tags: list[str], mtu: int, deadline: Deadline) -> None:
        """Note the user's network for this Docker network. Raises BadRequest or Conflict."""
        if network.options.mtu is not None:
            raise BadRequest(
                "com.docker.network.driver.mtu and ovn.switch exclude each other: the MTU of the network in "
                "Neutron counts"
            )
        found = self._named(wanted, deadline)
        self._check_mtu(network, found, mtu)
        self._check_same(network, found, deadline)
        note = f"docker:{network.id[:12]}={found['id']}"
        for tag in (note, *tags):
            self._neutron.tag("ports", self._vif, tag, deadline)
        self._bind(network, found, deadline)

    def _check_mtu(self, network: Network, found: Resource, mtu: int) -> None:
        """It is the MTU that is wanted, and at most the VM's. Raises BadRequest or Conflict."""
        has = int(found.get("mtu") or 0)
        if has > mtu:
            raise BadRequest(
                f"network {found['name']} has MTU {has}, but the VM's own port is on a network with {mtu}, "
                "and Neutron puts nothing behind it that carries more; lower it with: openstack network set "
                f"--mtu {mtu} {found['id']}"
            )
        if network.options.mtu not in {None, has}:
            raise Conflict(
                f"network {found['name']} has MTU {has} in Neutron, asked for was {network.options.mtu}; "
                f"create it with -o com.docker.network.driver.mtu={has}"
            )

    def _check_same(self, network: Network, found: Resource, deadline: Deadline) -> None:
        """The network has the subnets that Docker wants, and these their pools. Raises Conflict."""
        there = self._neutron.all("subnets", deadline, network_id=found["id"])
        self._compare(network, found["name"], there, complete=True)
        for subnet in network.subnets:
            if subnet.ours:
                leases.waiting_pool(self._neutron, self._vif, subnet, deadline)

    def _compare(self, network: Network, name: str, there: list[Resource], *, complete: bool = False) -> None:
        for subnet in network.subnets:
            same = [other for other in there if other["ip_version"] == subnet.pool.version]
            exact = [other for other in same if ip_network(other["cidr"]) == subnet.pool]
            if not exact and (same or complete):
                have = " or ".join(map(_as_options, same)) or "none, and --ipam-driver null"
                raise Conflict(
                    f"network {name} has no subnet {subnet.pool} in Neutron; create it with {have}"
                )
            for other in exact:
                if other.get("ipv6_address_mode") in _AUTOMATIC:
                    raise Conflict(
                        f"in subnet {subnet.pool} of network {name} Neutron makes addresses of MACs "
                        f"({other['ipv6_address_mode']}), and nobody else chooses any; create it with "
                        "--ipam-driver null and without --subnet"
                    )
                gateway = other["gateway_ip"]
                if gateway and subnet.gateway and ip_address(gateway) != subnet.gateway:
                    raise Conflict(
                        f"network {name} has the gateway {gateway} in Neutron, asked for was "
                        f"{subnet.gateway}; create it with {_as_options(other)}"
                    )

    def _leave(self, found: Found, network: NetworkId, deadline: Deadline) -> None:
        """Give up a network that is ours; the last one deletes it. Raises Conflict if it is in use."""
        while True:
            there = self._neutron.one("networks", found.id, deadline)
            if there is None:
                return
            owner = _owner(self._vif, network)  # last, as it was first: see create
            mine = [
                tag for tag in there["tags"] if tag.startswith((_member(network), *_descriptions(network)))
            ]
            mine += [tag for tag in there["tags"] if tag == owner]
            if any(tag.startswith(_MEMBERS) and tag not in mine for tag in there["tags"]):
                if not mine:
                    return
                for tag in mine:
                    self._neutron.untag("networks", found.id, tag, deadline)
                continue  # those others may have left meanwhile, and have seen us on it
            try:
                self._neutron.delete("networks", found.id, deadline, revision=there.get("revision_number"))
            except Refused as refused:
                if refused.status == 412:  # somebody has just joined it, or left it
                    continue
                raise
            return

    def _notes(self, network: NetworkId, deadline: Deadline) -> list[str]:
        """The tags of the VM's port that speak of a Docker network."""
        port = self._neutron.one("ports", self._vif, deadline)
        prefixes = (f"docker:{network[:12]}=", *_descriptions(network))
        return [tag for tag in (port or {}).get("tags", []) if tag.startswith(prefixes)]

    def _named(self, wanted: str, deadline: Deadline) -> Resource:
        """The network that the user named, by UUID or name. Raises BadRequest."""
        found = self._by_uuid("networks", wanted, deadline) or self._neutron.all(
            "networks", deadline, name=wanted
        )
        if len(found) != 1:
            how = "no network" if not found else f"{len(found)} networks"
            raise BadRequest(
                f"Neutron has {how} {wanted!r} for this project: give the ID of one, see: openstack network "
                "list"
            )
        return found[0]

    def _groups(self, wanted: Iterable[str], deadline: Deadline) -> tuple[str, ...]:
        """UUIDs of security groups. Raises BadRequest."""
        ids = []
        for name in wanted:
            found = self._by_uuid("security-groups", name, deadline) or self._neutron.all(
                "security-groups", deadline, name=name
            )
            if len(found) != 1:
                how = "no security group" if not found else f"{len(found)} security groups"
                raise BadRequest(
                    f"ovn.security-groups: Neutron has {how} {name!r} for this project: give the ID of one, "
                    "see: openstack security group list"
                )
            ids.append(str(found[0]["id"]))
        return tuple(ids)

    def _by_uuid(self, kind: str, text: str, deadline: Deadline) -> list[Resource]:
        try:
            UUID(text)
        except ValueError:
            return []
        found = self._neutron.one(kind, text, deadline)
        return [] if found is None else [found]

    def _parents_mtu(self, deadline: Deadline) -> int:
        """The MTU of the network of the VM's own port."""
        port = self._neutron.one("ports", self._vif, deadline)
        network = self._neutron.one("networks", port["network_id"], deadline) if port else None
        return int((network or {}).get("mtu") or 1500)

    def _pause(self, deadline: Deadline, name: str, longest: float) -> None:
        deadline.check(f"network {name}, which another VM is making")
        time.sleep(deadline.left(at_most=random.uniform(0.1, longest)))  # noqa: S311 - no secret

    def _quietly_delete(self, network: str) -> None:
        """Undo: an error here must not hide the one that the user has to see."""
        try:
            self._neutron.delete("networks", network, Deadline(5))
        except OvnDockerError as error:
            log.warning("could not undo network %s in Neutron: %s", network, error)


def _member(network: NetworkId) -> str:
    """Tag of a Neutron network of ours: this Docker network is it."""
    return f"docker:{network[:48]}"


_MEMBERS = "docker:", "docker-vm:"
"""How tags begin that say that some VM has a network of ours."""


def _owner(vif: str, network: str) -> str:
    """Tag of a Neutron network of ours: the VM with the port *vif* has it as this Docker network."""
    return f"docker-vm:{vif}={network[:12]}"


def _is_member(tag: str) -> bool:
    """Whether a tag says that a network of ours is a Docker network of some VM."""
    return tag.startswith(_member(NetworkId("")))


def _group(network: NetworkId, group: str) -> str:
    """Tag, of the network or of the VM's port: containers get this security group."""
    return f"docker-sg:{network[:12]}={group}"


def _groups_in(tags: Iterable[str], network: NetworkId) -> tuple[str, ...]:
    prefix = _group(network, "")
    return tuple(tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix))


def _allowed(network: NetworkId, allowed: str) -> str:
    """Tag, of the network or of the VM's port: containers may use this address."""
    return f"docker-aap:{network[:12]}={allowed.replace('/', '~')}"


def _open(network: NetworkId) -> str:
    """Tag, of the network or of the VM's port: containers have no port security."""
    return f"docker-ps:{network[:12]}=off"


def _descriptions(network: NetworkId) -> tuple[str, ...]:
    """How the tags begin that say what the containers of a Docker network get."""
    return _group(network, ""), _allowed(network, ""), _open(network)


def _described(network: Network, groups: Iterable[str]) -> list[str]:
    """The tags that say what its containers get. Raises BadRequest for one that is too long for Neutron."""
    tags = [_group(network.id, group) for group in groups]
    for one in network.options.allowed:
        tags.append(tag := _allowed(network.id, str(one)))
        if len(tag) > _LONGEST_TAG:
            raise BadRequest(f"allowed address {one} is too long for a network: allow it to containers")
    return tags if network.options.port_security else [*tags, _open(network.id)]


def _found(network: Resource, tags: Iterable[str], id_: NetworkId, *, ours: bool) -> Found:
    """A Docker network as *tags* describe it, which anybody in the project may have written."""
    prefix, tags = _allowed(id_, ""), [*tags]
    words = [tag.removeprefix(prefix).replace("~", "/") for tag in tags if tag.startswith(prefix)]
    try:
        allowed = options.parse({options.ALLOWED: " ".join(words)}, options.UNDERLAY).allowed if words else ()
    except BadRequest:
        allowed = ()
    return Found(network, ours, _groups_in(tags, id_), allowed, _open(id_) not in tags)


def _as_options(subnet: Resource) -> str:
    """A Neutron subnet as options of docker network create."""
    gateway = f" --gateway {subnet['gateway_ip']}" if subnet["gateway_ip"] else ""
    version = " --ipv6" if subnet["ip_version"] == 6 else ""
    return f"--subnet {subnet['cidr']}{gateway}{version}"
