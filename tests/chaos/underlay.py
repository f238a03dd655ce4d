"""The underlay mode: three VMs on two hypervisors of an OpenStack cloud, with real Keystone and Neutron."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

from keystoneauth1.exceptions import ClientException
from openstack.exceptions import SDKException

from chaos import views
from chaos.faults import POWER_CUT, await_ready, bring_up, cut, kill_or_freeze, power_cut, slow
from chaos.mode import Kind
from chaos.views import Endpoint, View
from e2e.lab import Host, LabError
from e2e.lab.cloud import VM, Account, Cloud
from ovn_docker.backends.neutron.resources import NeutronResource

_AGE_HALVES = """
update standardattributes half left join tags on tags.standard_attr_id = half.id
set half.created_at = half.created_at - interval 5 minute
where half.resource_type = 'networks' and half.description = 'ovn-docker' and tags.tag is null
"""
"""SQL that makes incomplete networks older: a request for the name of a younger one waits for minutes."""


class Underlay:
    """VMs of the tenant demo."""

    follow = False
    driver: Sequence[str] = ("--request-timeout=15", "--sweep-interval=6")

    def __init__(self, cloud: Cloud, vms: Sequence[VM]) -> None:
        self._cloud = cloud
        self._vms = {vm.name: vm for vm in vms}
        self.hosts: Sequence[Host] = vms
        self.machines: Sequence[Host] = (*vms, cloud.control, *cloud.hypervisors)
        self.docker: Mapping[str, object] = {}
        names, hypervisors = tuple(self._vms), tuple(one.name for one in cloud.hypervisors)
        control = (cloud.control.name,)
        self.kinds: Mapping[str, Kind] = {
            **kill_or_freeze(("driver", "dockerd", "vswitchd", "ovsdb"), names),
            **kill_or_freeze(("neutron", "keystone", "northd"), control),
            **kill_or_freeze(("controller",), hypervisors),
            "slow neutron": Kind(slow("neutron"), control),
            "cut off from the APIs": Kind(self._cut_off_from_apis, names),
            "cut off from the databases": Kind(cut(0), hypervisors),
            "cut off from the tunnels": Kind(cut(1), hypervisors),
            POWER_CUT: Kind(power_cut, names),
        }

    def start_around(self) -> None:
        """Start OVN, Keystone, Neutron and the hypervisors' programs."""
        control = self._cloud.control
        bring_up(control.northd, control.keystone, control.neutron)
        for hypervisor in self._cloud.hypervisors:
            bring_up(hypervisor.controller)
        await_ready(control.keystone, control.neutron)

    def start_network(self, host: Host) -> None:
        """Start Open vSwitch; in user space the bridge with the VM's interface ends with ovs-vswitchd."""
        bring_up(host.ovsdb, host.vswitchd)
        self._vms[host.name].make_bridge()

    def let_time_pass(self) -> None:
        """Make incomplete networks old, so that commands do not wait for them."""
        self._cloud.control.query(_AGE_HALVES, "neutron")

    def wanted(self, there: Iterable[View]) -> Iterator[str]:
        """Yield the resources that Neutron should have, and the VLANs that the VMs should use."""
        for view in there:
            yield f"trunk of {view.host.name}"
            for network in view.networks.values():
                yield from _for_network(view.host.name, network)
            for endpoint in view.endpoints:
                yield from _for_endpoint(endpoint)

    def found(self, there: Iterable[View]) -> set[str]:
        """Return the resources that Neutron has, and the VLANs that the VMs use."""
        try:
            demo, vms = self._cloud.demo, self._vms.values()
            return {*_in_neutron(demo, {vm.port.id: vm.name for vm in vms}), *_vlans(demo, vms)}
        except (SDKException, ClientException) as error:
            raise LabError(f"Neutron does not tell: {error}") from None

    def evidence(self) -> str:
        """Return Neutron's resources and the contents of OVN's databases."""
        demo, control = self._cloud.demo, self._cloud.control
        said = []
        for kind in ("networks", "subnets", "subnet_pools", "ports", "trunks"):
            try:
                rows = [str(row.to_dict()) for row in getattr(demo, kind)()]
            except (SDKException, ClientException) as error:
                rows = [str(error)]
            said.append("\n".join((kind, *rows)))
        said += [
            f"{command}\n{control.run(command, 'show', check=False)}"
            for command in ("ovn-nbctl", "ovn-sbctl")
        ]
        said.append(f"{control.neutron.log}\n{control.tail(control.neutron.log, 100)}")
        return "\n\n".join(said)

    def _cut_off_from_apis(self, vm: Host, over: ExitStack) -> None:
        """Drop all packets from the control node to a VM."""
        control = self._cloud.control
        route = ("blackhole", f"{vm.address}/32")
        control.run("ip", "route", "replace", *route)
        over.callback(control.run, "ip", "route", "delete", *route)


def _for_network(vm: str, network: views.Row) -> Iterator[str]:
    id_ = network["Id"]
    name = views.shared_name(network) or id_
    yield f"network {name}"
    yield f"network {name} of {vm} as {id_[:12]}"
    for config in network["IPAM"]["Config"]:
        yield f"subnet {config['Subnet']} of {name}"
        if network["IPAM"]["Driver"] == "openvswitch":
            yield f"pool {config['Subnet']} of {name} of {vm}"


def age(resource: Any) -> float:
    """Return the age of a resource in seconds; all machines of the lab have the same clock."""
    return time.time() - NeutronResource(id=resource["id"], created_at=resource["created_at"]).created


def _for_endpoint(one: Endpoint) -> Iterator[str]:
    yield f"port {one.id} of {one.host} on {one.switch}: {one.held} ACTIVE"
    yield f"{one.host}: {one.link} on the VLAN of subport {one.id}"


def _in_neutron(demo: Account, vms: Mapping[str, str]) -> Iterator[str]:
    """Yield a tenant's resources, except those that may exist for a while. *vms*: names of VMs by port."""
    networks = [one for one in demo.networks(is_shared=False) if one.tags or age(one) > views.UNUSED]
    names = {one.id: one.name for one in networks}
    for name, count in Counter(names.values()).items():
        yield f"network {name}" if count == 1 else f"{count} networks {name}"
    for network in networks:
        yield from _members(network, vms)
    for subnet in demo.subnets():
        if subnet.network_id in names:
            yield f"subnet {subnet.cidr} of {names[subnet.network_id]}"
    for pool in demo.subnet_pools():
        tags = dict(tag.split("=") for tag in pool.tags if "=" in tag)
        vm = vms.get(pool.description.removeprefix("ovn-docker pool of "))
        if "docker:subnet" in tags or age(pool) > views.UNUSED:  # else Docker may still use the pool
            yield f"pool {pool.prefixes[0]} of {names.get(tags.get('docker:network'))} of {vm}"
    for port in demo.ports():
        yield from _port(port, names, vms)


def _members(network: Any, vms: Mapping[str, str]) -> Iterator[str]:
    """Yield the VMs that have a network, which is tagged with both the VM and the VM's Docker network."""
    docker = {tag.removeprefix("docker:") for tag in network.tags if tag.startswith("docker:")}
    for tag in network.tags:
        if tag.startswith("docker-vm:"):
            vif, _, short = tag.removeprefix("docker-vm:").partition("=")
            ids = {id_ for id_ in docker if id_.startswith(short)}
            docker -= ids
            yield f"network {network.name} of {vms.get(vif)} as {short}{'' if ids else ', half of it'}"
    yield from (f"network {network.name} of no VM as {id_}" for id_ in docker)


def _port(port: Any, networks: Mapping[str, str], vms: Mapping[str, str]) -> Iterator[str]:
    """Yield the part that a port stands for, unless the port holds an address that Docker may still use."""
    if port.id in vms:
        yield from (f"note of {vms[port.id]}: {tag}" for tag in port.tags)
        return
    fixed = sorted((ip_address(one["ip_address"]) for one in port.fixed_ips), key=lambda ip: (ip.version, ip))
    held = " ".join(map(str, (port.mac_address, *fixed)))
    what, _, vif = port.description.rpartition(" of ")
    if _may_be_asked_for(port):
        return
    name = f"{what} {port.name}" if what == "ovn-docker address" else f"port {port.name}"
    yield f"{name} of {vms.get(vif)} on {networks.get(port.network_id)}: {held} {port.status}"


def _may_be_asked_for(port: Any) -> bool:
    """Return whether a port may hold an address; it is in the trunk if an endpoint began to adopt it."""
    return bool(port.description.startswith("ovn-docker address of ") and age(port) < views.UNUSED)


def _vlans(demo: Account, vms: Iterable[VM]) -> Iterator[str]:
    """Yield the subports of the VMs' trunks, and whether their links in the VM are on the same VLAN."""
    ports = list(demo.ports())
    endpoints = {port.id: port.name for port in ports}
    waiting = {port.id for port in ports if _may_be_asked_for(port)}
    for vm in vms:
        rows = views.read("Open_vSwitch", [vm.path("/run/openvswitch/db.sock")], {"Port": ["name", "tag"]})
        tags = {row["name"]: row["tag"] for row in rows["Port"]}
        for trunk in demo.trunks(port_id=vm.port.id):
            yield f"trunk of {vm.name}"
            for subport in (one for one in trunk.sub_ports if one["port_id"] not in waiting):
                endpoint, vlan = endpoints.get(subport["port_id"], ""), subport["segmentation_id"]
                link = f"odh{endpoint[:12]}"
                where = "the VLAN" if tags.get(link) == vlan else f"VLAN {tags.get(link)}, and not {vlan},"
                yield f"{vm.name}: {link} on {where} of subport {endpoint}"
