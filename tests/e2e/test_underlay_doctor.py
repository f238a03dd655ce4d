"""The doctor's checks of the underlay mode, with replies of a real Neutron."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from e2e.lab.cloud import Cloud
from e2e.test_underlay_backend import Vm
from functional.backend_contract import C1, endpoint, new_network
from ovn_docker.deadline import Deadline
from ovn_docker.doctor import check_cloud
from ovn_docker.doctor.diagnosis import Facts, Finding
from ovn_docker.inspect import cloud as view
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.probes import Probes
from ovn_docker.inspect.snapshot import DockerEndpoint, DockerState, Interface, Scope, Snapshot, VswitchRows
from ovn_docker.model import Subnet

pytestmark = pytest.mark.underlay

LATE = 30.0


class CheckedVm:
    """A VM that runs one container, with its state in Docker, Open vSwitch and Neutron."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.vm = cloud, Vm(cloud, "patient")
        network = new_network(Subnet(ip_network("10.77.1.0/24")))
        self.network = network.id

        def make() -> int | None:
            self.vm.underlay.create_network(network, Deadline(LATE))
            wanted = endpoint(network, C1, "10.77.1.5/24")
            return self.vm.underlay.create_endpoint(wanted, Deadline(LATE)).vlan

        self.vlan = cloud.inside(make)

    def remove(self) -> None:
        def undo() -> None:
            self.vm.underlay.delete_endpoint(C1, Deadline(LATE))
            self.vm.underlay.delete_network(self.network, Deadline(LATE))

        self.cloud.inside(undo)
        for trunk in self.cloud.demo.trunks(port_id=self.vm.port.id):
            self.cloud.demo.delete_trunk(trunk.id)
        self.cloud.demo.delete_port(self.vm.port.id)

    def facts(self) -> Facts:
        seen = self.cloud.inside(lambda: view.read(self.vm.neutron, self.vm.port.id, Deadline(LATE)))
        container = DockerEndpoint(C1, self.network, "c" * 64, "web", "running", ("10.77.1.5",), "")
        port = Interface("odh", "breth0", ofport=1, tag=self.vlan, ids={"ovn-docker:endpoint": C1})
        snapshot = Snapshot(
            time.time(), "vm", Scope.NETWORKS, (), (),
            engine=DockerState("28.5", False, (), (container,)),
            vswitch=VswitchRows("3.1", {}, (), (port,)),
        )  # fmt: skip
        return Facts(ClusterView(snapshot), Probes(macs=frozenset({seen.mac})), seen)

    def ports(self) -> Iterable[view.CloudPort]:
        cloud = self.facts().cloud
        return cloud.ports if cloud else ()


@pytest.fixture
def checked_vm(cloud: Cloud) -> Iterator[CheckedVm]:
    checked_vm = CheckedVm(cloud)
    yield checked_vm
    checked_vm.remove()


def evidence(check: Callable[[Facts], Iterable[Finding]], facts: Facts) -> str:
    return "; ".join(finding.evidence for finding in check(facts))


LOOKS = (check_cloud.login, check_cloud.trunk, check_cloud.quota, check_cloud.stored, check_cloud.plugged)


def test_a_healthy_vm_has_no_findings(checked_vm: CheckedVm) -> None:
    facts = checked_vm.facts()
    assert [evidence(check, facts) for check in (*LOOKS, check_cloud.groups)] == [""] * 6


def test_faults_in_neutron_are_named(checked_vm: CheckedVm) -> None:
    demo = checked_vm.cloud.demo
    (port,) = checked_vm.ports()
    demo.update_port(port.id, security_groups=[])
    assert "is not in any security group" in evidence(check_cloud.groups, checked_vm.facts())
    (trunk,) = demo.trunks(port_id=checked_vm.vm.port.id)
    demo.delete_trunk_subports(trunk.id, [{"port_id": port.id}])
    assert "is not a subport of the VM's trunk" in evidence(check_cloud.stored, checked_vm.facts())
    demo.delete_trunk(trunk.id)
    assert "has no trunk" in evidence(check_cloud.trunk, checked_vm.facts())
    demo.delete_port(port.id)
    assert evidence(check_cloud.stored, checked_vm.facts()) == "web has no port in Neutron"


def test_a_wrong_vlan_on_the_bridge_is_named(checked_vm: CheckedVm) -> None:
    checked_vm.vlan = 4000
    assert "web has VLAN 4000 on breth0, but its subport has" in evidence(
        check_cloud.plugged, checked_vm.facts()
    )


def test_faults_of_the_vms_port_are_named(checked_vm: CheckedVm) -> None:
    facts = checked_vm.facts()
    assert facts.cloud
    assert "this VM's own port" in evidence(check_cloud.vm_port, facts)  # it is switched off
    elsewhere = replace(facts, probes=Probes())
    assert "which no interface of this VM has" in evidence(check_cloud.vm_port, elsewhere)
    nothing = replace(facts, cloud=view.Cloud(facts.cloud.vif))
    assert "Neutron has no port" in evidence(check_cloud.vm_port, nothing)


def test_a_full_quota_is_named(checked_vm: CheckedVm) -> None:
    facts = checked_vm.facts()
    assert facts.cloud
    assert facts.cloud.used > 0
    assert facts.cloud.quota > facts.cloud.used
    full = replace(facts, cloud=replace(facts.cloud, quota=facts.cloud.used))
    assert "no more containers can start" in evidence(check_cloud.quota, full)


def test_a_refused_login_is_named(checked_vm: CheckedVm) -> None:
    address = f"http://{checked_vm.cloud.control.address}:5000"
    variables = {"OS_AUTH_URL": address, "OS_USERNAME": "demo", "OS_PASSWORD": "wrong",
                 "OS_PROJECT_NAME": "demo", "OS_VIF_ID": checked_vm.vm.port.id}  # fmt: skip
    seen = checked_vm.cloud.inside(lambda: view.ask(variables))
    assert "rejects the login" in evidence(check_cloud.login, replace(checked_vm.facts(), cloud=seen))
    right = checked_vm.cloud.inside(
        lambda: view.ask({**variables, "OS_PASSWORD": checked_vm.cloud.demo.password})
    )
    assert (right.problem, right.mac) == ("", checked_vm.vm.port.mac_address)
