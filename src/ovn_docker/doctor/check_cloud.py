"""Checks of the underlay mode: the login, the VM's port and its trunk, containers' ports in Neutron. Pure."""

from collections.abc import Iterable

from ovn_docker.backends.neutron.openrc import FIND_VIF, VIF
from ovn_docker.doctor.check_endpoints import restart
from ovn_docker.doctor.diagnosis import Facts, Finding, NotChecked, Severity
from ovn_docker.inspect.cloud import Cloud
from ovn_docker.inspect.snapshot import DockerEndpoint, Interface

NEARLY_FULL = 0.95
"""Used part of a quota from which it is reported."""


def bridge(facts: Facts) -> Iterable[Finding]:
    """The bridge with the VM's interface exists."""
    switch, name = facts.snapshot.vswitch, facts.bridge
    command = (("ovn-docker", "underlay", "bridge", "--interface", "eth0", "--bridge", name),)
    if switch is None:
        return
    if name not in {bridge.name for bridge in switch.bridges}:
        yield Finding(
            f"Open vSwitch has no bridge {name}",
            "make it, with the VM's interface in it (see ovn-docker underlay bridge --help)",
            command,
        )
    elif not any(one.bridge == name and one.name != name and not one.endpoint for one in switch.interfaces):
        yield Finding(
            f"no interface of this VM is on bridge {name}: its containers cannot reach other machines",
            "move it there (see ovn-docker underlay bridge --help)",
            command,
        )


def login(facts: Facts) -> Iterable[Finding]:
    """OpenStack accepts the login and answers."""
    cloud = facts.cloud
    if cloud is None:
        raise NotChecked("OpenStack was not asked")
    file = facts.probes.machine.distribution.settings
    if "is not set" in cloud.problem and VIF not in cloud.problem:
        raise NotChecked(f"{cloud.problem}; or write it into {file}")
    if cloud.problem:
        yield Finding(cloud.problem, f"correct the login in {file}, or source openrc.sh")


def vm_port(facts: Facts) -> Iterable[Finding]:
    """The port named by OS_VIF_ID is this VM's, and ACTIVE."""
    cloud = _cloud(facts)
    if not cloud.mac:
        yield Finding(f"Neutron has no port {cloud.vif} in this project: {VIF} is wrong", FIND_VIF)
    elif cloud.mac not in facts.probes.macs:
        yield Finding(
            f"port {cloud.vif} has the MAC {cloud.mac}, which no interface of this VM has: {VIF} names the "
            "port of another VM",
            FIND_VIF,
        )
    elif cloud.status != "ACTIVE":
        yield Finding(
            f"this VM's own port {cloud.vif} has status {cloud.status} in Neutron",
            "ask the cloud's operator whether the hypervisor of this VM works",
        )


def trunk(facts: Facts) -> Iterable[Finding]:
    """The VM's port has a trunk, if the VM has containers."""
    cloud = _cloud(facts)
    behind = [port for port in cloud.own if port.vlan is None]
    if behind and not cloud.trunk:
        yield Finding(
            f"the VM's port {cloud.vif} has no trunk, but {len(behind)} ports of containers should be its "
            "subports",
            "restart the containers: the driver makes the trunk again",
            tuple(("docker", "restart", name) for name in _containers(facts, cloud)),
        )


def quota(facts: Facts) -> Iterable[Finding]:
    """The project's quota allows more ports."""
    cloud = _cloud(facts)
    if cloud.quota >= 0 and cloud.used >= cloud.quota * NEARLY_FULL:
        full = cloud.used >= cloud.quota
        yield Finding(
            f"the project has {cloud.used} of {cloud.quota} ports"
            + (": no more containers can start" if full else ""),
            "delete unused ports, or ask the cloud's operator for a larger quota",
            severity=Severity.FAIL if full else Severity.WARN,
        )


def stored(facts: Facts) -> Iterable[Finding]:
    """Every running container has its ports in Neutron, as subports of the trunk."""
    ports = {port.endpoint: port for port in _cloud(facts).ports}
    for endpoint in _running(facts):
        port = ports.get(endpoint.id)
        if port is None:
            yield restart(endpoint, f"{endpoint.name} has no port in Neutron")
        elif port.vlan is None and _cloud(facts).trunk:
            yield restart(endpoint, f"port {port.id} of {endpoint.name} is not a subport of the VM's trunk")


def active(facts: Facts) -> Iterable[Finding]:
    """The ports of running containers have status ACTIVE in Neutron."""
    names = {endpoint.id: endpoint.name for endpoint in _running(facts)}
    for port in _cloud(facts).ports:
        if port.endpoint in names and port.subport and port.status != "ACTIVE":
            yield restart(
                facts.cluster.docker[port.endpoint],
                f"port {port.id} of {names[port.endpoint]} has status {port.status} in Neutron: its flows "
                "are not installed on the VM's hypervisor",
            )


def groups(facts: Facts) -> Iterable[Finding]:
    """Every port with port security is in a security group."""
    names = {endpoint.id: endpoint.name for endpoint in _running(facts)}
    for port in _cloud(facts).ports:
        if port.endpoint in names and port.secured and not port.groups:
            yield Finding(
                f"port {port.id} of {names[port.endpoint]} is not in any security group: its traffic "
                "is dropped",
                "add it to a security group",
                (("openstack", "port", "set", "--security-group", "default", port.id),),
                subject=port.endpoint,
                severity=Severity.WARN,
            )


def plugged(facts: Facts) -> Iterable[Finding]:
    """Ports of containers on the bridge have the VLANs of their subports."""
    vlans = {port.endpoint: port.vlan for port in facts.cloud.ports} if facts.cloud else {}
    for endpoint in _running(facts):
        interface: Interface | None = facts.cluster.interfaces.get(endpoint.id)
        if interface is None:
            yield restart(endpoint, f"{endpoint.name} has no port in Open vSwitch")
        elif vlans.get(endpoint.id) not in (None, interface.tag):
            yield restart(
                endpoint,
                f"{endpoint.name} has VLAN {interface.tag} on {interface.bridge}, but its subport "
                f"has {vlans[endpoint.id]}",
            )


def _cloud(facts: Facts) -> Cloud:
    if facts.cloud is None or facts.cloud.problem:
        raise NotChecked("OpenStack was not asked")
    return facts.cloud


def _running(facts: Facts) -> Iterable[DockerEndpoint]:
    return [endpoint for endpoint in facts.cluster.docker.values() if endpoint.running]


def _containers(facts: Facts, cloud: Cloud) -> list[str]:
    ours = {port.endpoint for port in cloud.own}
    return [endpoint.name for endpoint in _running(facts) if endpoint.id in ours]
