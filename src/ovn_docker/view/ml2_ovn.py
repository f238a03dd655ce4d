"""Neutron's networks and ports as rows of OVN's databases, as its driver ML2/OVN makes them. Pure.

In the cloud of the underlay mode those databases are its operator's. With these rows all that shows networks,
containers and hosts does so in both modes: a network is a logical switch, a port a logical port with the
VM's own port as its parent and a VLAN tag (ovn-nb(5), "Logical_Switch_Port"), a virtual machine a chassis.
"""

from collections.abc import Collection

from ovn_docker.backends.northbound import ENDPOINT, HOST, MTU, NAME, OURS
from ovn_docker.view.cloud import Cloud, CloudNetwork, CloudPort
from ovn_docker.view.snapshot import (
    BindingRow,
    ChassisRow,
    Encap,
    Northbound,
    Note,
    PortRow,
    Southbound,
    SwitchRow,
)


def northbound(cloud: Cloud, docker: Collection[str]) -> Northbound:
    """Networks and ports; *docker*: IDs of the networks of this VM's Docker."""
    return Northbound(
        "Neutron",
        0,
        switches=tuple(map(_switch, cloud.networks.values())),
        ports=tuple(map(_logical_port, cloud.ports)),
        notes=tuple(
            Note(id_, network.id, cloud.vif)
            for network in cloud.networks.values()
            for id_ in docker
            if network.members and id_.startswith(network.members)
        ),
    )


def southbound(cloud: Cloud) -> Southbound:
    """Virtual machines, and who has which port."""
    return Southbound(
        "Neutron",
        0,
        chassis=tuple(
            ChassisRow(vm.vif, vm.name, (Encap("VM", vm.address),)) for vm in cloud.machines.values()
        ),
        bindings=tuple(
            BindingRow(
                port.id,
                port.vm if port.vlan is not None else "",
                port.status == "ACTIVE" if port.subport else None,
            )
            for port in cloud.ports
        ),
        datapaths={},
    )


def _switch(network: CloudNetwork) -> SwitchRow:
    subnets = {"subnet6" if ":" in cidr else "subnet": cidr for cidr in network.subnets}
    named = {NAME: network.name} if network.ours and network.name not in network.members else {}
    mtu = {MTU: str(network.mtu)} if network.mtu else {}
    return SwitchRow(network.id, network.name, subnets | named | mtu | (OURS if network.ours else {}))


def _logical_port(port: CloudPort) -> PortRow:
    addresses = " ".join((port.mac, *port.addresses))
    allowed = (addresses, *(" ".join(pair) for pair in port.pairs)) if port.secured else ()
    return PortRow(
        row=port.id,
        name=port.id,
        switch=port.network,
        addresses=(addresses,),
        port_security=allowed,
        enabled=port.enabled,
        tag=port.vlan,
        ids={**OURS, ENDPOINT: port.endpoint, HOST: port.vm},
    )
