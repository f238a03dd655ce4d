"""The doctor's checks of a virtual machine's bridge."""

import time

import pytest

from ovn_docker.doctor import check_cloud
from ovn_docker.doctor.diagnosis import Facts
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.probes import Probes
from ovn_docker.inspect.snapshot import Bridge, Interface, Scope, Snapshot, VswitchRows

LOCAL = Interface("breth0", "breth0", type="internal")
CONTAINER = Interface("odh1", "breth0", tag=1, ids={"ovn-docker:endpoint": "1"})


@pytest.mark.parametrize(
    ("interfaces", "evidence"),
    [
        ((LOCAL, CONTAINER), ["no interface of this VM is on bridge breth0"]),
        ((LOCAL, Interface("eth0", "br-int")), ["no interface of this VM is on bridge breth0"]),
        ((LOCAL, CONTAINER, Interface("eth0", "breth0")), []),
    ],
)
def test_the_bridge_needs_the_interface_of_the_vm(
    interfaces: tuple[Interface, ...], evidence: list[str]
) -> None:
    bridges = (Bridge("breth0", "system", "standalone"),)
    switch = VswitchRows("3.1", {}, bridges, interfaces)
    snapshot = Snapshot(time.time(), "vm", Scope.NETWORKS, (), (), vswitch=switch)
    found = list(check_cloud.bridge(Facts(ClusterView(snapshot), Probes(), bridge="breth0")))
    assert [finding.evidence.partition(":")[0] for finding in found] == evidence
    assert all(finding.commands[0][:3] == ("ovn-docker", "underlay", "bridge") for finding in found)
