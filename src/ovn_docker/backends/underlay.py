"""Endpoints as Neutron ports behind the VM's own port, networks as Neutron networks: the underlay mode."""

from ipaddress import ip_address, ip_interface

from ovn_docker.backends.leases import IpInterface, Leases, of_vm
from ovn_docker.backends.networks import Found, Networks
from ovn_docker.backends.neutron import Neutron, Refused, Resource
from ovn_docker.backends.openrc import FIND_VIF, VIF
from ovn_docker.backends.trunk import ENDPOINT_OF, Parent, endpoint_of, remove
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, NotFound
from ovn_docker.model import (
    AddressInUse,
    Attachment,
    Chassis,
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

    *vif*: UUID of the VM's port; *parent*: how other ports hang behind it.
    """

    def __init__(self, neutron: Neutron, vif: str, parent: Parent, leases: Leases) -> None:
        self._neutron = neutron
        self._vif = vif
        self._parent = parent
        self._networks = Networks(neutron, vif)
        self.leases = leases

    def check(self, macs: set[str], deadline: Deadline) -> None:
        """Whether containers can be behind the VM's port; *macs*: addresses of the VM's interfaces.

        Raises BadRequest with what to change, Unavailable if Neutron does not answer.
        """
        port = self._neutron.one("ports", self._vif, deadline)
        if port is None:
            raise BadRequest(f"Neutron has no port {self._vif} in this project: {VIF} is wrong; {FIND_VIF}")
        if port["mac_address"] not in macs:
            raise BadRequest(
                f"port {self._vif} has the MAC {port['mac_address']}, which no interface of this VM has: "
                f"{VIF} is another VM's; {FIND_VIF}"
            )
        self._parent.check(deadline)

    def create_network(
        self, network: Network, chassis: Chassis, deadline: Deadline, *, kept: bool = False
    ) -> str:
        """Make the Neutron network, or find the one that is meant (networks.py); there is no record of it.

        *kept*: swarm's manager made it, and only a delete_network that says so deletes it.
        """
        self._networks.create(network, deadline, kept=kept)
        return ""

    def delete_network(
        self, network: NetworkId, chassis: Chassis, deadline: Deadline, *, kept: bool = False
    ) -> None:
        """Delete what is left of its endpoints in this VM, and the network if nobody else has it."""
        try:
            found = self._networks.find(network, deadline)
        except NotFound:
            self._networks.forget_traces(network, deadline)
            return
        if found.kept and not kept:
            return
        self._forget_network(found, network, deadline)

    def drop_network(self, network: NetworkId, chassis: Chassis, deadline: Deadline) -> None:
        """Forget that this VM has a network; one that VMs share stays as long as one of them has it."""
        found = self._networks.owned(network, deadline)
        if found is None:
            self.delete_network(network, chassis, deadline)
        elif not found.kept:
            self._forget_network(found, network, deadline)

    def create_endpoint(self, endpoint: Endpoint, chassis: Chassis, deadline: Deadline) -> Attachment:
        """Make the endpoint's port and put it behind the VM's.

        Raises NotFound without the network, AddressInUse or Conflict if an address or the MAC is taken.
        """
        found = self._networks.find(endpoint.network, deadline)
        security = self._security(endpoint, found, deadline)
        port = self._port(endpoint, found, security, deadline)
        vlan = self._parent.attach(port["id"], deadline)
        changes: dict[str, object]
        changes = {} if port["name"] == endpoint.id else self._adoption(endpoint, security, port)
        if not port["device_id"]:  # Neutron takes no port that has one into a trunk
            changes["device_id"] = endpoint.id
        if changes:
            port = self._neutron.update("ports", port["id"], deadline, **changes)
        addresses = endpoint.addresses or self._interfaces(port, deadline)
        return Attachment(
            *(port["id"], found.network.get("mtu")),
            vlan=vlan, mac=port["mac_address"], addresses=addresses, any_router=True,  # it may be Neutron's
        )  # fmt: skip

    def delete_endpoint(self, endpoint: EndpointId, chassis: Chassis, deadline: Deadline) -> bool:
        """Delete the endpoint's port; none is fine. Returns True: a port is all there is of an endpoint."""
        for port in self._ports_of(endpoint, deadline):
            self.leases.goes(port)
            remove(self._neutron, self._parent, port, deadline)
        return True

    def why_late(self, endpoint: EndpointId, deadline: Deadline) -> str:
        """Wait until Neutron calls the endpoint's port ACTIVE: then its flows are in where the VM runs."""
        for port in self._ports_of(endpoint, deadline):
            return "" if port["status"] == "ACTIVE" else self._parent.why_down(port["id"], deadline)
        return "its port has gone from Neutron"

    place = "Neutron"

    def mine(self, chassis: Chassis, deadline: Deadline) -> tuple[list[StoredNetwork], list[Difference]]:
        """Every Docker network of this VM, and addresses and pools of its that nobody came for."""
        return self._networks.of_vm(deadline), self.leases.strays(deadline)

    def clear(self, stray: Difference, chassis: Chassis, deadline: Deadline) -> bool:
        """Delete one of them, unless somebody has come after all."""
        return self.leases.clear(stray, deadline)

    def is_up(self, deadline: Deadline) -> bool:
        """Whether Neutron calls the VM's own port ACTIVE."""
        port = self._neutron.one("ports", self._vif, deadline)
        return port is not None and port["status"] == "ACTIVE"

    def belongings(self, chassis: Chassis, deadline: Deadline) -> list[Difference]:
        """All that this VM has in Neutron, in the order in which it has to go."""
        why = "its VM is gone"
        return [
            *(
                Difference(Kind.ENDPOINT, one.id, self.place, since(one.age), why, "delete its port")
                for one in self.endpoints(chassis, deadline)
            ),
            *(
                Difference(
                    Kind.NETWORK, one.id, self.place, since(one.age), why, "delete it, if it is no other VM's"
                )
                for one in self._networks.of_vm(deadline)
            ),
            *self.leases.belongings(deadline),
        ]

    def forget(self, one: Difference, chassis: Chassis, deadline: Deadline) -> None:
        """Delete one of these; none is fine."""
        if one.kind is Kind.ENDPOINT:
            self.delete_endpoint(EndpointId(one.what), chassis, deadline)
        elif one.kind is Kind.NETWORK:
            self.drop_network(NetworkId(one.what), chassis, deadline)
        else:
            self.leases.forget(one, deadline)

    def common(self, chassis: Chassis, deadline: Deadline) -> list[Difference]:
        """Networks that were left half-made: they are no VM's."""
        return self._networks.strays(deadline)

    def clear_common(self, chassis: Chassis, deadline: Deadline, *, unless_lately: bool) -> list[Difference]:
        """Delete these; Neutron itself sees to it that nobody has changed them."""
        return [half for half in self.common(chassis, deadline) if self._networks.clear(half, deadline)]

    def endpoints(self, chassis: Chassis, deadline: Deadline) -> list[StoredEndpoint]:
        """Every endpoint of this VM."""
        return [self._stored(port) for port in self.ports(deadline)]

    def ports(self, deadline: Deadline) -> list[Resource]:
        """The ports of this VM's endpoints."""
        return self._neutron.all("ports", deadline, description=endpoint_of(self._vif))

    def _forget_network(self, found: Found, network: NetworkId, deadline: Deadline) -> None:
        # Of a port nobody knows which Docker network of this VM it is for: while there are others, their
        # containers keep theirs, and what is left of this one's goes as reconcile.py finds it.
        alone = not self._networks.is_another_too(found, network, deadline)
        for ours in (endpoint_of(self._vif), of_vm(self._vif)) if alone else ():
            for port in self._neutron.all("ports", deadline, network_id=found.id, description=ours):
                remove(self._neutron, self._parent, port, deadline)
        self.leases.remove_pools_of(network, deadline)
        self._networks.forget(found, network, deadline)

    def _security(self, endpoint: Endpoint, found: Found, deadline: Deadline) -> dict[str, object]:
        """Attributes that say what the endpoint may send from ("Networking API v2.0", ports).

        Raises BadRequest for what no container may use, Conflict for what another machine or container has.
        """
        on = found.port_security if endpoint.port_security is None else endpoint.port_security
        if not on:
            return {"port_security_enabled": False, "security_groups": [], "allowed_address_pairs": []}
        given: dict[str, object] = {"security_groups": list(found.groups)} if found.groups else {}
        allowed = sorted({*endpoint.allowed, *found.allowed})
        if not allowed:
            return given
        subnets = self._neutron.all("subnets", deadline, network_id=found.id)
        check_allowed(allowed, [ip_address(one["gateway_ip"]) for one in subnets if one["gateway_ip"]])
        own = {str(address.ip) for address in endpoint.addresses}
        single = [one.target for one in allowed if one.address.num_addresses == 1 and one.target not in own]
        query = [f"ip_address={address}" for address in single]
        holders = self._neutron.all("ports", deadline, network_id=found.id, fixed_ips=query) if single else []
        for holder in holders:
            if holder["device_id"] and holder["name"] != endpoint.id:  # one of nobody keeps it for this
                has = {fixed["ip_address"] for fixed in holder["fixed_ips"]}
                taken = next(address for address in single if address in has)
                raise Conflict(
                    f"allowed address {taken} is the own address of port {holder['id']} in Neutron; leave it "
                    "out"
                )
        pairs = [
            {"ip_address": one.target} | ({"mac_address": one.mac} if one.mac else {})
            for one in allowed
            if one.target not in own
        ]
        return given | {"allowed_address_pairs": pairs}

    def _port(
        self, endpoint: Endpoint, found: Found, security: dict[str, object], deadline: Deadline
    ) -> Resource:
        """The endpoint's port: the one that is there, or that kept its address (leases.py), or a new one."""
        holders = self._holders(endpoint, found, deadline)
        for holder in holders:
            if holder["name"] == endpoint.id:
                return holder
        kept = [holder for holder in holders if holder["description"] == of_vm(self._vif)]
        for holder in holders:
            if holder not in kept:
                raise self._in_use(endpoint, holder)
        derived = endpoint.mac == choose_mac(endpoint)
        adopted = kept[0] if kept and derived else None
        for port in kept:
            if port is not adopted:
                remove(self._neutron, self._parent, port, deadline)
        own_mac = not derived or self._is_mine(found, deadline)
        return adopted or self._new_port(endpoint, found, security, deadline, own_mac=own_mac)

    def _new_port(
        self,
        endpoint: Endpoint,
        found: Found,
        security: dict[str, object],
        deadline: Deadline,
        *,
        own_mac: bool,
    ) -> Resource:
        attributes = {**security}
        if endpoint.addresses:
            attributes["fixed_ips"] = [{"ip_address": str(address.ip)} for address in endpoint.addresses]
        if own_mac:
            attributes["mac_address"] = endpoint.mac
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

    def _adoption(self, endpoint: Endpoint, security: dict[str, object], port: Resource) -> dict[str, object]:
        """What makes a port that keeps an address the endpoint's, with the other address if there are two."""
        changes = {"name": endpoint.id, "description": endpoint_of(self._vif), **security}
        if len(endpoint.addresses) > len(port["fixed_ips"]):
            changes["fixed_ips"] = [{"ip_address": str(address.ip)} for address in endpoint.addresses]
        return changes

    def _holders(self, endpoint: Endpoint, found: Found, deadline: Deadline) -> list[Resource]:
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

    def _ports_of(self, endpoint: EndpointId, deadline: Deadline) -> list[Resource]:
        return self._neutron.all("ports", deadline, name=endpoint, description=endpoint_of(self._vif))

    def _is_mine(self, found: Found, deadline: Deadline) -> bool:
        """Whether the network is of our project: in others' networks nobody may choose a MAC."""
        if found.ours:
            return True
        port = self._neutron.one("ports", self._vif, deadline)
        return bool(port) and found.network.get("project_id") == (port or {}).get("project_id")

    def _interfaces(self, port: Resource, deadline: Deadline) -> tuple[IpInterface, ...]:
        """The addresses that Neutron chose, with the prefix lengths of their subnets; one of each version."""
        found: dict[int, IpInterface] = {}
        for fixed in port["fixed_ips"]:
            subnet = self._neutron.one("subnets", fixed["subnet_id"], deadline)
            if subnet is not None:
                prefix = subnet["cidr"].partition("/")[2]
                found.setdefault(subnet["ip_version"], ip_interface(f"{fixed['ip_address']}/{prefix}"))
        return tuple(found[version] for version in sorted(found))

    def _stored(self, port: Resource, network: NetworkId | None = None) -> StoredEndpoint:
        host = port["description"].removeprefix(ENDPOINT_OF)
        return StoredEndpoint(
            EndpointId(port["name"]), network or NetworkId(port["network_id"]), host, self._neutron.age(port)
        )
