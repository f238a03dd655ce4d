"""The underlay mode: endpoints are Neutron ports behind the VM's own port, networks are Neutron networks."""

from ipaddress import ip_interface

from ovn_docker.backends.neutron.api import Neutron, NeutronRefused
from ovn_docker.backends.neutron.leases import IpInterface, Leases, of_vm
from ovn_docker.backends.neutron.networks import Networks, UnderlayNetwork
from ovn_docker.backends.neutron.openrc import FIND_VIF, VIF
from ovn_docker.backends.neutron.resources import NeutronPort, NeutronSubnet
from ovn_docker.backends.neutron.trunk import ENDPOINT_OF, ParentPort, endpoint_of, remove
from ovn_docker.deadline import Deadline
from ovn_docker.errors import AddressInUse, BadRequest, NotFound
from ovn_docker.model import (
    Attachment,
    Difference,
    Endpoint,
    EndpointId,
    Kind,
    Network,
    NetworkId,
    StoredEndpoint,
    StoredNetwork,
    check_allowed,
    choose_mac,
    since,
)


class Underlay:
    """The underlay mode's backend. Its methods are idempotent.

    *vif*: UUID of the VM's port; *parent*: attaches other ports to that port.
    """

    def __init__(self, neutron: Neutron, vif: str, parent: ParentPort, leases: Leases) -> None:
        self._neutron = neutron
        self._vif = vif
        self._parent = parent
        self._networks = Networks(neutron, vif)
        self.leases = leases

    def check(self, macs: set[str], deadline: Deadline) -> None:
        """Check that containers can be behind the VM's port. *macs*: the MACs of the VM's interfaces.

        Raises BadRequest, which names what to change, or Unavailable if Neutron does not reply.
        """
        port = self._neutron.one(NeutronPort, self._vif, deadline)
        if port is None:
            raise BadRequest(f"Neutron has no port {self._vif} in this project: {VIF} is wrong; {FIND_VIF}")
        if port.mac_address not in macs:
            raise BadRequest(
                f"port {self._vif} has the MAC {port.mac_address}, which no interface of this VM has: "
                f"{VIF} names the port of another VM; {FIND_VIF}"
            )
        self._parent.check(deadline)

    def create_network(self, network: Network, deadline: Deadline, *, kept: bool = False) -> str:
        """Create the Neutron network, or find the one that an option names. Returns an empty record.

        *kept*: a swarm's manager makes the network; only delete_network() with *kept* deletes it.
        """
        self._networks.create(network, deadline, kept=kept)
        return ""

    def delete_network(self, network: NetworkId, deadline: Deadline, *, kept: bool = False) -> None:
        """Delete the network's remaining endpoints in this VM, and the network if no other VM has it."""
        try:
            found = self._networks.find(network, deadline)
        except NotFound:
            self._networks.forget_traces(network, deadline)
            return
        if found.kept and not kept:
            return
        self._forget_network(found, network, deadline)

    def drop_network(self, network: NetworkId, deadline: Deadline) -> None:
        """Leave a network. The last VM that leaves a shared one deletes it."""
        found = self._networks.owned(network, deadline)
        if found is None:
            self.delete_network(network, deadline)
        elif not found.kept:
            self._forget_network(found, network, deadline)

    def create_endpoint(self, endpoint: Endpoint, deadline: Deadline) -> Attachment:
        """Create the endpoint's port and attach it to the VM's port.

        Raises NotFound if the network does not exist, AddressInUse or Conflict if an address or the MAC is
        taken.
        """
        found = self._networks.find(endpoint.network, deadline)
        security = self._security(endpoint, found, deadline)
        port = self._port(endpoint, found, security, deadline)
        vlan = self._parent.attach(port.id, deadline)
        changes: dict[str, object]
        changes = {} if port.name == endpoint.id else self._adoption(endpoint, security, port)
        if not port.device_id:  # set after attach(): Neutron refuses a subport that has one already
            changes["device_id"] = endpoint.id
        if changes:
            port = self._neutron.update(NeutronPort, port.id, deadline, **changes)
        addresses = endpoint.addresses or self._interfaces(port, deadline)
        return Attachment(
            *(port.id, found.network.mtu or None),
            vlan=vlan, mac=port.mac_address, addresses=addresses, any_router=True,  # Neutron's may be there
        )  # fmt: skip

    def delete_endpoint(self, endpoint: EndpointId, deadline: Deadline) -> bool:
        """Delete the endpoint's port, if it exists. Returns True: an endpoint has no other resources."""
        for port in self._ports_of(endpoint, deadline):
            self.leases.mark_deleted(port)
            remove(self._neutron, self._parent, port, deadline)
        return True

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:
        """Wait until the endpoint's port is ACTIVE: then its flows are installed where the VM runs."""
        for port in self._ports_of(endpoint, deadline):
            return "" if port.status == "ACTIVE" else self._parent.why_down(port.id, deadline)
        return "its port was deleted in Neutron"

    place = "Neutron"

    def of_host(self, deadline: Deadline) -> tuple[list[StoredNetwork], list[Difference]]:
        """Return every Docker network of this VM, and its leases and pools that are leftovers."""
        return self._networks.of_vm(deadline), self.leases.leftovers(deadline)

    def clear(self, leftover: Difference, deadline: Deadline) -> bool:
        """Delete a leftover that of_host() has returned, unless it is in use by now."""
        return self.leases.clear(leftover, deadline)

    def is_up(self, deadline: Deadline) -> bool:
        """Return True if the VM's own port is ACTIVE."""
        port = self._neutron.one(NeutronPort, self._vif, deadline)
        return port is not None and port.status == "ACTIVE"

    def belongings(self, deadline: Deadline) -> list[Difference]:
        """Return the endpoints, networks, leases and pools of this VM, in the order of their deletion."""
        why = "its VM is gone"
        return [
            *(
                Difference(Kind.ENDPOINT, one.id, self.place, since(one.age), why, "delete its port")
                for one in map(self._stored, self.ports(deadline))
            ),
            *(
                Difference(
                    Kind.NETWORK, one.id, self.place, since(one.age), why, "delete it, if no other VM has it"
                )
                for one in self._networks.of_vm(deadline)
            ),
            *self.leases.belongings(deadline),
        ]

    def forget(self, one: Difference, deadline: Deadline) -> None:
        """Delete one of belongings(), if it still exists."""
        if one.kind is Kind.ENDPOINT:
            self.delete_endpoint(EndpointId(one.what), deadline)
        elif one.kind is Kind.NETWORK:
            self.drop_network(NetworkId(one.what), deadline)
        else:
            self.leases.forget(one, deadline)

    def orphans(self, deadline: Deadline) -> list[Difference]:
        """Return incomplete networks, which belong to no VM."""
        return self._networks.incomplete(deadline)

    def clear_orphans(self, deadline: Deadline) -> list[Difference]:
        """Delete incomplete networks that have not changed since they were read (If-Match)."""
        return [one for one in self._networks.incomplete(deadline) if self._networks.clear(one, deadline)]

    def endpoints(self, deadline: Deadline) -> list[StoredEndpoint]:
        """Return every endpoint of this VM."""
        return [self._stored(port) for port in self.ports(deadline)]

    def ports(self, deadline: Deadline) -> list[NeutronPort]:
        """Return the ports of this VM's endpoints."""
        return self._neutron.all(NeutronPort, deadline, description=endpoint_of(self._vif))

    def _forget_network(self, found: UnderlayNetwork, network: NetworkId, deadline: Deadline) -> None:
        # A port does not name its Docker network. If another Docker network of this VM is on the same Neutron
        # network, all ports stay, because some may be of its containers; reconcile.py finds the leftovers.
        alone = not self._networks.has_another_use(found, network, deadline)
        for ours in (endpoint_of(self._vif), of_vm(self._vif)) if alone else ():
            for port in self._neutron.all(NeutronPort, deadline, network_id=found.id, description=ours):
                remove(self._neutron, self._parent, port, deadline)
        self.leases.remove_pools_of(network, deadline)
        self._networks.forget(found, network, deadline)

    def _security(self, endpoint: Endpoint, found: UnderlayNetwork, deadline: Deadline) -> dict[str, object]:
        """Return the attributes that say which addresses an endpoint may use ("Networking API v2.0", ports).

        Raises BadRequest for an address that containers may not use, AddressInUse for that of another port.
        """
        on = found.port_security if endpoint.port_security is None else endpoint.port_security
        if not on:
            return {"port_security_enabled": False, "security_groups": [], "allowed_address_pairs": []}
        given: dict[str, object] = {"security_groups": list(found.groups)} if found.groups else {}
        allowed = sorted({*endpoint.allowed, *found.allowed})
        if not allowed:
            return given
        subnets = self._neutron.all(NeutronSubnet, deadline, network_id=found.id)
        check_allowed(allowed, [one.gateway_ip for one in subnets if one.gateway_ip])
        own = {str(address.ip) for address in endpoint.addresses}
        single = [one.target for one in allowed if one.address.num_addresses == 1 and one.target not in own]
        query = [f"ip_address={address}" for address in single]
        holders = (
            self._neutron.all(NeutronPort, deadline, network_id=found.id, fixed_ips=query) if single else []
        )
        for holder in holders:
            if holder.device_id and holder.name != endpoint.id:  # a port without a device is a lease
                has = {fixed.ip_address for fixed in holder.fixed_ips}
                taken = next(address for address in single if address in has)
                raise AddressInUse(taken, f"port {holder.id} in Neutron", asked=True)
        pairs = [
            {"ip_address": one.target} | ({"mac_address": one.mac} if one.mac else {})
            for one in allowed
            if one.target not in own
        ]
        return given | {"allowed_address_pairs": pairs}

    def _port(
        self, endpoint: Endpoint, found: UnderlayNetwork, security: dict[str, object], deadline: Deadline
    ) -> NeutronPort:
        """Return the port of an endpoint: its existing one, the lease of its address, or a new one."""
        holders = self._holders(endpoint, found, deadline)
        for holder in holders:
            if holder.name == endpoint.id:
                return holder
        leases = [holder for holder in holders if holder.description == of_vm(self._vif)]
        for holder in holders:
            if holder not in leases:
                raise self._in_use(endpoint, holder)
        derived = endpoint.mac == choose_mac(endpoint)
        adopted = leases[0] if leases and derived else None
        for port in leases:
            if port is not adopted:
                remove(self._neutron, self._parent, port, deadline)
        own_mac = not derived or self._is_own_project(found, deadline)
        return adopted or self._new_port(endpoint, found, security, deadline, own_mac=own_mac)

    def _new_port(
        self,
        endpoint: Endpoint,
        found: UnderlayNetwork,
        security: dict[str, object],
        deadline: Deadline,
        *,
        own_mac: bool,
    ) -> NeutronPort:
        attributes = {**security}
        if endpoint.addresses:
            attributes["fixed_ips"] = [{"ip_address": str(address.ip)} for address in endpoint.addresses]
        if own_mac:
            attributes["mac_address"] = endpoint.mac
        try:
            return self._neutron.create(
                NeutronPort,
                deadline,
                network_id=found.id,
                name=endpoint.id,
                description=endpoint_of(self._vif),
                **attributes,
            )
        except NeutronRefused as refused:
            if refused.kind not in {"MacAddressInUse", "IpAddressInUse", "IpAddressAlreadyAllocated"}:
                raise
            same_mac = self._neutron.all(NeutronPort, deadline, network_id=found.id, mac_address=endpoint.mac)
            for holder in (*self._holders(endpoint, found, deadline), *same_mac):
                raise self._in_use(endpoint, holder) from None
            raise

    def _adoption(
        self, endpoint: Endpoint, security: dict[str, object], port: NeutronPort
    ) -> dict[str, object]:
        """Return the changes that make a lease the endpoint's port, and add the endpoint's second address."""
        changes = {"name": endpoint.id, "description": endpoint_of(self._vif), **security}
        if len(endpoint.addresses) > len(port.fixed_ips):
            changes["fixed_ips"] = [{"ip_address": str(address.ip)} for address in endpoint.addresses]
        return changes

    def _holders(self, endpoint: Endpoint, found: UnderlayNetwork, deadline: Deadline) -> list[NeutronPort]:
        """Return the ports with the endpoint's addresses; if it has no addresses, those with its name."""
        if not endpoint.addresses:
            return self._ports_of(endpoint.id, deadline)
        wanted = [f"ip_address={address.ip}" for address in endpoint.addresses]
        return self._neutron.all(NeutronPort, deadline, network_id=found.id, fixed_ips=wanted)

    def _in_use(self, endpoint: Endpoint, holder: NeutronPort) -> AddressInUse:
        has = {fixed.ip for fixed in holder.fixed_ips}
        what = next((str(own.ip) for own in endpoint.addresses if own.ip in has), endpoint.mac or "")
        if holder.description.startswith(ENDPOINT_OF):
            stored = self._stored(holder, endpoint.network)
            return AddressInUse(what, str(stored), holder=stored)
        owner = holder.device_owner or holder.name or "unknown owner"
        return AddressInUse(what, f"port {holder.id} in Neutron ({owner})")

    def _ports_of(self, endpoint: EndpointId, deadline: Deadline) -> list[NeutronPort]:
        return self._neutron.all(NeutronPort, deadline, name=endpoint, description=endpoint_of(self._vif))

    def _is_own_project(self, found: UnderlayNetwork, deadline: Deadline) -> bool:
        """Return True if the network belongs to our project: in others Neutron refuses a chosen MAC."""
        if found.ours:
            return True
        port = self._neutron.one(NeutronPort, self._vif, deadline)
        return port is not None and found.network.project_id == port.project_id

    def _interfaces(self, port: NeutronPort, deadline: Deadline) -> tuple[IpInterface, ...]:
        """Return the first address of each version that Neutron chose, with the subnet's prefix length."""
        found: dict[int, IpInterface] = {}
        for fixed in port.fixed_ips:
            subnet = self._neutron.one(NeutronSubnet, fixed.subnet_id, deadline)
            if subnet is not None:
                interface = ip_interface(f"{fixed.ip_address}/{subnet.cidr.prefixlen}")
                found.setdefault(subnet.ip_version, interface)
        return tuple(found[version] for version in sorted(found))

    def _stored(self, port: NeutronPort, network: NetworkId | None = None) -> StoredEndpoint:
        host = port.description.removeprefix(ENDPOINT_OF)
        return StoredEndpoint(
            EndpointId(port.name), network or NetworkId(port.network_id), host, self._neutron.age(port)
        )
