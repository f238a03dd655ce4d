"""Networks as Neutron networks, endpoints as Neutron ports behind the VM's own port: the underlay mode.

What we make has the description ``ovn-docker ...`` from the first moment, and a network that is complete the
tag ``ovn-docker``; nothing else is changed or deleted. Which Docker network it is, is a tag as well: on the
network if it is ours, else, as a note, on the VM's own port. Neutron's names are not unique, and a tag may
have 60 characters.
"""

import logging
import random
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from uuid import UUID

from ovn_docker.backends import leases
from ovn_docker.backends.neutron import Neutron, Refused, Resource
from ovn_docker.backends.openrc import FIND_VIF, VIF
from ovn_docker.backends.trunk import ENDPOINT_OF, Parent, endpoint_of
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, NotFound, OvnDockerError
from ovn_docker.model import (
    AddressInUse,
    Attachment,
    Chassis,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    StoredEndpoint,
    choose_mac,
)

log = logging.getLogger(__name__)

OURS = "ovn-docker"
"""Tag of a network that we have made and that is complete; its description from the first moment."""

_KEPT = "ovn-docker:kept"

_ABANDONED = 60.0
"""Seconds after which a network that is not complete is nobody's."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A Docker network in Neutron: *groups* are the UUIDs of its security groups."""

    network: Resource
    ours: bool
    groups: tuple[str, ...]

    @property
    def id(self) -> str:
        return str(self.network["id"])


class Underlay:
    """The underlay mode's backend. Its methods are idempotent.

    *vif*: UUID of the VM's port; *parent*: how other ports hang behind it.
    """

    def __init__(self, neutron: Neutron, vif: str, parent: Parent) -> None:
        self._neutron = neutron
        self._vif = vif
        self._parent = parent

    def check(self, macs: set[str], deadline: Deadline) -> None:
        """Whether containers can be behind the VM's port; *macs*: addresses of the VM's interfaces.

        Raises BadRequest with what to change, Unavailable if Neutron does not answer.
        """
        port = self._neutron.one("ports", self._vif, deadline)
        if port is None:
            raise BadRequest(f"Neutron has no port {self._vif} in this project: {VIF} is wrong; {FIND_VIF}")
        if port["mac_address"] not in macs:
            raise BadRequest(
                f"port {self._vif} has the MAC {port['mac_address']}, which no interface of this VM has: {VIF} is "
                f"another VM's; {FIND_VIF}"
            )
        self._parent.check(deadline)

    def create_network(
        self, network: Network, chassis: Chassis, deadline: Deadline, *, kept: bool = False
    ) -> None:
        """Make the Neutron network and its subnets, join the one of VMs that share it, or note the user's.

        Raises BadRequest for options that cannot be, Conflict if it is there with other subnets.
        """
        options = network.options
        groups = self._groups(options.security_groups, deadline)
        mtu = self._parents_mtu(deadline)
        if options.mtu is not None and options.mtu > mtu:
            raise BadRequest(
                f"com.docker.network.driver.mtu={options.mtu} is more than the {mtu} bytes that the "
                f"network of the VM's own port carries: give at most {mtu}"
            )
        if options.switch is not None:
            self._attach(network, options.switch, groups, mtu, deadline)
            return
        if options.name is not None:
            found = self._share(network, options.name, mtu, deadline)
        else:
            found = self._make_own(network, mtu, deadline)
        for tag in (_member(network.id), *(_group(network.id, group) for group in groups)):
            self._neutron.tag("networks", found["id"], tag, deadline)
        if kept:
            self._neutron.tag("networks", found["id"], _KEPT, deadline)

    def delete_network(
        self, network: NetworkId, chassis: Chassis, deadline: Deadline, *, kept: bool = False
    ) -> None:
        """Delete the Neutron network, or leave it to the VMs that still have it, or forget the user's."""
        try:
            found = self._found(network, deadline)
        except NotFound:
            for note in self._notes(network, deadline):
                self._neutron.untag("ports", self._vif, note, deadline)
            return
        if _KEPT in found.network["tags"] and not kept:
            return
        for port in self._neutron.all(
            "ports", deadline, network_id=found.id, description=endpoint_of(self._vif)
        ):
            self._remove_port(port["id"], deadline)
        if not found.ours:
            for note in self._notes(network, deadline):
                self._neutron.untag("ports", self._vif, note, deadline)
            return
        self._leave(found, network, deadline)

    def create_endpoint(self, endpoint: Endpoint, chassis: Chassis, deadline: Deadline) -> Attachment:
        """Make the endpoint's port and put it behind the VM's.

        Raises NotFound without the network, AddressInUse or Conflict if an address or the MAC is taken.
        """
        found = self._found(endpoint.network, deadline)
        port = self._port(endpoint, found, deadline)
        vlan = self._parent.attach(port["id"], deadline)
        if not port["device_id"]:  # Neutron takes no port that has one into a trunk
            self._neutron.update("ports", port["id"], deadline, device_id=endpoint.id)
        addresses = endpoint.addresses or self._interfaces(port, deadline)
        return Attachment(port["id"], found.network.get("mtu"), vlan, port["mac_address"], addresses)

    def delete_endpoint(self, endpoint: EndpointId, chassis: Chassis, deadline: Deadline) -> None:
        """Delete the endpoint's port; none is fine."""
        for port in self._ports_of(endpoint, deadline):
            self._remove_port(port["id"], deadline)

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:
        """Wait until Neutron calls the endpoint's port ACTIVE: then its flows are in where the VM runs."""
        for port in self._ports_of(endpoint, deadline):
            return "" if port["status"] == "ACTIVE" else self._parent.why_down(port["id"], deadline)
        return "its port has gone from Neutron"

    def endpoints(self, chassis: Chassis, deadline: Deadline) -> list[StoredEndpoint]:
        """Every endpoint of this VM."""
        return [self._stored(port) for port in self.ports(deadline)]

    def ports(self, deadline: Deadline) -> list[Resource]:
        """The ports of this VM's endpoints."""
        return self._neutron.all("ports", deadline, description=endpoint_of(self._vif))

    # Networks

    def _make_own(self, network: Network, mtu: int, deadline: Deadline) -> Resource:
        """A Neutron network for this Docker network alone, or what is there of it."""
        there = self._neutron.all("networks", deadline, name=network.id, description=OURS)
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
        with ExitStack() as undo:
            while True:
                there = self._neutron.all("networks", deadline, name=name)
                foreign = [other for other in there if other["description"] != OURS]
                complete = [other for other in there if other not in foreign and OURS in other["tags"]]
                others = [
                    other
                    for other in there
                    if other not in foreign and (not mine or other["id"] != mine["id"])
                ]
                if foreign:
                    raise Conflict(
                        f"Neutron has a network {name} that ovn-docker did not make: attach to it with "
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
                    self._pause(deadline, name)
                elif complete:
                    self._check_same(network, complete[0], deadline)
                    return complete[0]
                elif others:  # somebody is making it, or died of it
                    for other in others:
                        if leases.age(other) > _ABANDONED:
                            self._neutron.delete("networks", other["id"], deadline)
                    self._pause(deadline, name)
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
            made = by_cidr.get(subnet.pool)
            if made is None:
                ranges = leases.allocation_pools(subnet, pool)
                made = self._neutron.create(
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
            if pool is not None:
                leases.bind(self._neutron, pool, made, deadline)

    def _attach(
        self, network: Network, wanted: str, groups: tuple[str, ...], mtu: int, deadline: Deadline
    ) -> None:
        """Note the user's network for this Docker network. Raises BadRequest or Conflict."""
        if network.options.mtu is not None:
            raise BadRequest(
                "com.docker.network.driver.mtu and ovn.switch exclude each other: the MTU of the network in "
                "Neutron counts"
            )
        found = self._named(wanted, deadline)
        if found.get("mtu", 0) > mtu:
            raise BadRequest(
                f"network {wanted} has MTU {found['mtu']}, but the VM's own port is on a network with {mtu}, "
                "and Neutron puts nothing behind it that carries more; lower it with: openstack network set "
                f"--mtu {mtu} {found['id']}"
            )
        self._check_same(network, found, deadline)
        note = f"docker:{network.id[:12]}={found['id']}"
        for tag in (note, *(_group(network.id, group) for group in groups)):
            self._neutron.tag("ports", self._vif, tag, deadline)

    def _check_same(self, network: Network, found: Resource, deadline: Deadline) -> None:
        """The network has the subnets that Docker wants. Binds pools of our IPAM driver. Raises Conflict."""
        there = self._neutron.all("subnets", deadline, network_id=found["id"])
        self._compare(network, found["name"], there, complete=True)
        by_cidr = {ip_network(subnet["cidr"]): subnet for subnet in there}
        for subnet in network.subnets:
            if subnet.ours:
                pool = leases.waiting_pool(self._neutron, self._vif, subnet, deadline)
                if pool is not None:
                    leases.bind(self._neutron, pool, by_cidr[subnet.pool], deadline)

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
                gateway = other["gateway_ip"]
                if gateway and subnet.gateway and ip_address(gateway) != subnet.gateway:
                    raise Conflict(
                        f"network {name} has the gateway {gateway} in Neutron, asked for was "
                        f"{subnet.gateway}; create it with {_as_options(other)}"
                    )

    def _leave(self, found: _Found, network: NetworkId, deadline: Deadline) -> None:
        """Give up a network that is ours; the last one deletes it. Raises Conflict if it is in use."""
        while True:
            there = self._neutron.one("networks", found.id, deadline)
            if there is None:
                return
            mine = [
                tag for tag in there["tags"] if tag == _member(network) or tag.startswith(_group(network, ""))
            ]
            others = [
                tag for tag in there["tags"] if tag.startswith(_member(NetworkId(""))) and tag not in mine
            ]
            if others:
                for tag in mine:
                    self._neutron.untag("networks", found.id, tag, deadline)
                return
            try:
                self._neutron.delete("networks", found.id, deadline, revision=there.get("revision_number"))
            except Refused as refused:
                if refused.status == 412:  # somebody has just joined it, or left it
                    continue
                raise
            return

    def _found(self, network: NetworkId, deadline: Deadline) -> _Found:
        """The Neutron network that stands for a Docker network. Raises NotFound."""
        ours = self._neutron.all("networks", deadline, tags=_member(network))
        for found in ours:
            return _Found(found, True, _groups_in(found["tags"], network))
        notes = self._notes(network, deadline)
        for note in notes:
            if note.startswith("docker:"):
                there = self._neutron.one("networks", note.partition("=")[2], deadline)
                if there is not None:
                    return _Found(there, False, _groups_in(notes, network))
        raise NotFound(
            f"network {network[:12]} is not in Neutron: it was deleted there or made in another project; "
            "remove it with docker network rm and create it again"
        )

    def _notes(self, network: NetworkId, deadline: Deadline) -> list[str]:
        """The tags of the VM's port that speak of a Docker network."""
        port = self._neutron.one("ports", self._vif, deadline)
        prefixes = (f"docker:{network[:12]}=", _group(network, ""))
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

    def _pause(self, deadline: Deadline, name: str) -> None:
        deadline.check(f"network {name}, which another VM is making")
        time.sleep(deadline.left(at_most=random.uniform(0.1, 0.6)))  # noqa: S311 - no secret

    def _quietly_delete(self, network: str) -> None:
        """Undo: an error here must not hide the one that the user has to see."""
        try:
            self._neutron.delete("networks", network, Deadline(5))
        except OvnDockerError as error:
            log.warning("could not undo network %s in Neutron: %s", network, error)

    # Ports

    def _port(self, endpoint: Endpoint, found: _Found, deadline: Deadline) -> Resource:
        """The endpoint's port: the one that is there, or that kept its address (leases.py), or a new one."""
        holders = self._holders(endpoint, found, deadline)
        for holder in holders:
            if holder["name"] == endpoint.id:
                return holder
        kept = [holder for holder in holders if holder["description"] == leases.of_vm(self._vif)]
        for holder in holders:
            if holder not in kept:
                raise self._in_use(endpoint, holder)
        derived = endpoint.mac == choose_mac(endpoint)
        if kept and derived:
            return self._adopt(endpoint, found, kept, deadline)
        for port in kept:
            self._neutron.delete("ports", port["id"], deadline)
        return self._new_port(
            endpoint, found, deadline, own_mac=not derived or self._is_mine(found, deadline)
        )

    def _new_port(self, endpoint: Endpoint, found: _Found, deadline: Deadline, *, own_mac: bool) -> Resource:
        attributes: dict[str, object] = {}
        if endpoint.addresses:
            attributes["fixed_ips"] = [{"ip_address": str(address.ip)} for address in endpoint.addresses]
        if own_mac:
            attributes["mac_address"] = endpoint.mac
        if found.groups:
            attributes["security_groups"] = list(found.groups)
        try:
            return self._neutron.create(
                "ports",
                deadline,
                network_id=found.id,
                name=endpoint.id,
                description=endpoint_of(self._vif),
                **attributes,
            )
        except Refused as refused:
            if refused.kind not in {"MacAddressInUse", "IpAddressInUse", "IpAddressAlreadyAllocated"}:
                raise
            same_mac = self._neutron.all("ports", deadline, network_id=found.id, mac_address=endpoint.mac)
            for holder in (*self._holders(endpoint, found, deadline), *same_mac):
                raise self._in_use(endpoint, holder) from None
            raise

    def _adopt(self, endpoint: Endpoint, found: _Found, kept: list[Resource], deadline: Deadline) -> Resource:
        """Make the port that keeps the address the endpoint's, with the other address if there are two."""
        port, *others = kept
        changes: dict[str, object] = {"name": endpoint.id, "description": endpoint_of(self._vif)}
        if found.groups:
            changes["security_groups"] = list(found.groups)
        if len(endpoint.addresses) > len(port["fixed_ips"]):
            changes["fixed_ips"] = [{"ip_address": str(address.ip)} for address in endpoint.addresses]
        for other in others:
            self._neutron.delete("ports", other["id"], deadline)
        return self._neutron.update("ports", port["id"], deadline, **changes)

    def _holders(self, endpoint: Endpoint, found: _Found, deadline: Deadline) -> list[Resource]:
        """Ports with the endpoint's addresses, or, if it has none, with its name."""
        if not endpoint.addresses:
            return self._ports_of(endpoint.id, deadline)
        wanted = [f"ip_address={address.ip}" for address in endpoint.addresses]
        return self._neutron.all("ports", deadline, network_id=found.id, fixed_ips=wanted)

    def _in_use(self, endpoint: Endpoint, holder: Resource) -> Conflict:
        has = {ip_address(fixed["ip_address"]) for fixed in holder["fixed_ips"]}
        what = next((str(own.ip) for own in endpoint.addresses if own.ip in has), endpoint.mac or "")
        if holder["description"].startswith(ENDPOINT_OF):
            stored = self._stored(holder, endpoint.network)
            return AddressInUse(what, stored)
        whose = holder["device_owner"] or holder["name"] or "somebody"
        return Conflict(
            f"address {what} is in use in Neutron by port {holder['id']} ({whose}); choose another with --ip "
            "or --mac-address, or create the network with --ipam-driver openvswitch, which asks Neutron"
        )

    def _remove_port(self, port: str, deadline: Deadline) -> None:
        self._parent.detach(port, deadline)
        self._neutron.delete("ports", port, deadline)

    def _ports_of(self, endpoint: EndpointId, deadline: Deadline) -> list[Resource]:
        return self._neutron.all("ports", deadline, name=endpoint, description=endpoint_of(self._vif))

    def _is_mine(self, found: _Found, deadline: Deadline) -> bool:
        """Whether the network is of our project: in others' networks nobody may choose a MAC."""
        if found.ours:
            return True
        port = self._neutron.one("ports", self._vif, deadline)
        return bool(port) and found.network.get("project_id") == (port or {}).get("project_id")

    def _interfaces(self, port: Resource, deadline: Deadline) -> tuple[leases.IpInterface, ...]:
        """The addresses that Neutron chose, with the prefix lengths of their subnets; one of each version."""
        found: dict[int, leases.IpInterface] = {}
        for fixed in port["fixed_ips"]:
            subnet = self._neutron.one("subnets", fixed["subnet_id"], deadline)
            if subnet is not None:
                prefix = subnet["cidr"].partition("/")[2]
                found.setdefault(subnet["ip_version"], ip_interface(f"{fixed['ip_address']}/{prefix}"))
        return tuple(found[version] for version in sorted(found))

    def _stored(self, port: Resource, network: NetworkId | None = None) -> StoredEndpoint:
        host = port["description"].removeprefix(ENDPOINT_OF)
        return StoredEndpoint(
            EndpointId(port["name"]), network or NetworkId(port["network_id"]), host, leases.age(port)
        )


def _member(network: NetworkId) -> str:
    """Tag of a Neutron network of ours: this Docker network is it."""
    return f"docker:{network[:48]}"


def _group(network: NetworkId, group: str) -> str:
    """Tag, of the network or of the VM's port: containers get this security group."""
    return f"docker-sg:{network[:12]}={group}"


def _groups_in(tags: Iterable[str], network: NetworkId) -> tuple[str, ...]:
    prefix = _group(network, "")
    return tuple(tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix))


def _as_options(subnet: Resource) -> str:
    """A Neutron subnet as options of docker network create."""
    gateway = f" --gateway {subnet['gateway_ip']}" if subnet["gateway_ip"] else ""
    version = " --ipv6" if subnet["ip_version"] == 6 else ""
    return f"--subnet {subnet['cidr']}{gateway}{version}"
