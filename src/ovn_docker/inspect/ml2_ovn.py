"""Convert Neutron's networks and ports to the rows of OVN that Neutron's driver ML2/OVN makes of them. Pure.

In the underlay mode only the cloud's operator reads OVN's databases. With these rows the commands show both
modes with the same code: a network is a logical switch, a port is a logical port whose parent is the VM's own
port, with a VLAN tag (ovn-nb(5), "Logical_Switch_Port"), and a virtual machine is a chassis.
"""

from collections.abc import Collection

from ovn_docker.backends.ovn.rows import ENDPOINT, HOST, MTU, NAME, OURS
from ovn_docker.inspect.cloud import Cloud, CloudNetwork, CloudPort
from ovn_docker.inspect.snapshot import (
    BindingRow,
    ChassisRow,
    Encap,
    NorthboundRows,
    NoteRow,
    PortRow,
    SouthboundRows,
    SwitchRow,
)


def northbound(cloud: Cloud, docker: Collection[str]) -> NorthboundRows:
    """Return networks and ports; *docker*: IDs of the networks of this VM's Docker."""
    return NorthboundRows(
        "Neutron",
        0,
        switches=tuple(map(_switch, cloud.networks.values())),
        ports=tuple(map(_logical_port, cloud.ports)),
        notes=tuple(
            NoteRow(id_, network.id, cloud.vif)
            for network in cloud.networks.values()
            for id_ in docker
            if network.members and id_.startswith(network.members)
        ),
    )


def southbound(cloud: Cloud) -> SouthboundRows:
    """Return virtual machines as chassis, and the bindings of ports to them."""
    return SouthboundRows(
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
