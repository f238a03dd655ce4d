"""Checks of the underlay mode: the login, the VM's port and its trunk, containers' ports in Neutron. Pure."""

from collections.abc import Iterable

from ovn_docker.backends.openrc import FIND_VIF, VIF
from ovn_docker.view.check_endpoints import restart
from ovn_docker.view.cloud import Cloud
from ovn_docker.view.health import Facts, Finding, NotChecked, Severity
from ovn_docker.view.snapshot import DockerEndpoint, Interface

NEARLY = 0.95
"""Part of a quota from which it is reported."""


def bridge(facts: Facts) -> Iterable[Finding]:
    """The bridge with the VM's interface is there."""
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
            f"no interface of this VM is on the bridge {name}: its containers reach nobody else",
            "move it there (see ovn-docker underlay bridge --help)",
            command,
        )


def login(facts: Facts) -> Iterable[Finding]:
    """OpenStack accepts the login and answers."""
    cloud = facts.cloud
    if cloud is None:
        raise NotChecked("OpenStack was not asked")
    if "is not set" in cloud.problem and VIF not in cloud.problem:
        raise NotChecked(f"{cloud.problem}; or write it into /etc/default/ovn-docker")
    if cloud.problem:
        yield Finding(cloud.problem, "correct the login in /etc/default/ovn-docker, or source openrc.sh")


def vm_port(facts: Facts) -> Iterable[Finding]:
    """The port named by OS_VIF_ID is this VM's, and ACTIVE."""
    cloud = _cloud(facts)
    if not cloud.mac:
        yield Finding(f"Neutron has no port {cloud.vif} in this project: {VIF} is wrong", FIND_VIF)
    elif cloud.mac not in facts.probes.macs:
        yield Finding(
            f"port {cloud.vif} has the MAC {cloud.mac}, which no interface of this VM has: {VIF} is "
            "another VM's",
            FIND_VIF,
        )
    elif cloud.status != "ACTIVE":
        yield Finding(
            f"Neutron calls this VM's own port {cloud.vif} {cloud.status}",
            "see that the VM runs on a host that is up; ask the cloud's operator",
        )


def trunk(facts: Facts) -> Iterable[Finding]:
    """The VM's port is a trunk, if it has containers."""
    cloud = _cloud(facts)
    behind = [port for port in cloud.own if port.vlan is None]
    if behind and not cloud.trunk:
        yield Finding(
            f"the VM's port {cloud.vif} is the parent of no trunk, and {len(behind)} ports of "
            "containers should be behind it",
            "restart the containers: the driver makes the trunk again",
            tuple(("docker", "restart", name) for name in _containers(facts, cloud)),
        )


def quota(facts: Facts) -> Iterable[Finding]:
    """The project may have more ports."""
    cloud = _cloud(facts)
    if cloud.quota >= 0 and cloud.used >= cloud.quota * NEARLY:
        full = cloud.used >= cloud.quota
        yield Finding(
            f"the project has {cloud.used} of {cloud.quota} ports"
            + (": no container more can start" if full else ""),
            "delete ports that nobody needs, or ask the cloud's operator for a larger quota",
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
            yield restart(endpoint, f"port {port.id} of {endpoint.name} is no subport of the VM's trunk")


def active(facts: Facts) -> Iterable[Finding]:
    """Neutron calls the ports of running containers ACTIVE."""
    names = {endpoint.id: endpoint.name for endpoint in _running(facts)}
    for port in _cloud(facts).ports:
        if port.endpoint in names and port.subport and port.status != "ACTIVE":
            yield restart(
                facts.cluster.docker[port.endpoint],
                f"Neutron calls port {port.id} of {names[port.endpoint]} {port.status}: its flows are not "
                "in where the VM runs",
            )


def groups(facts: Facts) -> Iterable[Finding]:
    """Security groups let something reach the containers."""
    names = {endpoint.id: endpoint.name for endpoint in _running(facts)}
    for port in _cloud(facts).ports:
        if port.endpoint in names and port.secured and not port.groups:
            yield Finding(
                f"port {port.id} of {names[port.endpoint]} is in no security group: nothing may reach it "
                "or leave it",
                "put it into one",
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
                f"{endpoint.name} has VLAN {interface.tag} on {interface.bridge}, and its subport "
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
