"""The doctor's checks of the underlay mode, on what a real Neutron says."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from e2e.lab.cloud import Cloud
from e2e.test_underlay_backend import Vm
from functional.backend_contract import C1, endpoint, new_network
from ovn_docker.deadline import Deadline
from ovn_docker.model import Subnet
from ovn_docker.view import check_cloud
from ovn_docker.view import cloud as view
from ovn_docker.view.cluster import Cluster
from ovn_docker.view.health import Facts, Finding
from ovn_docker.view.probes import Probes
from ovn_docker.view.snapshot import DockerEndpoint, Engine, Interface, Scope, Snapshot, Vswitch

pytestmark = pytest.mark.underlay

LATE = 30.0


class Patient:
    """A VM that runs one container, as Docker and Open vSwitch have it, and what Neutron says of it."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.vm = cloud, Vm(cloud, "patient")
        network = new_network(Subnet(ip_network("10.77.1.0/24")))
        self.network = network.id

        def make() -> int | None:
            self.vm.underlay.create_network(network, self.vm.chassis, Deadline(LATE))
            wanted = endpoint(network, C1, "10.77.1.5/24")
            return self.vm.underlay.create_endpoint(wanted, self.vm.chassis, Deadline(LATE)).vlan

        self.vlan = cloud.inside(make)

    def remove(self) -> None:
        def undo() -> None:
            self.vm.underlay.delete_endpoint(C1, self.vm.chassis, Deadline(LATE))
            self.vm.underlay.delete_network(self.network, self.vm.chassis, Deadline(LATE))

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
            engine=Engine("28.5", False, (), (container,)),
            vswitch=Vswitch("3.1", {}, (), (port,)),
        )  # fmt: skip
        return Facts(Cluster(snapshot), Probes(macs=frozenset({seen.mac})), seen)

    def ports(self) -> Iterable[view.CloudPort]:
        cloud = self.facts().cloud
        return cloud.ports if cloud else ()


@pytest.fixture
def patient(cloud: Cloud) -> Iterator[Patient]:
    patient = Patient(cloud)
    yield patient
    patient.remove()


def evidence(look: Callable[[Facts], Iterable[Finding]], facts: Facts) -> str:
    return "; ".join(finding.evidence for finding in look(facts))


LOOKS = (check_cloud.login, check_cloud.trunk, check_cloud.quota, check_cloud.stored, check_cloud.plugged)


def test_what_is_right_is_not_reported(patient: Patient) -> None:
    facts = patient.facts()
    assert [evidence(look, facts) for look in (*LOOKS, check_cloud.groups)] == [""] * 6


def test_what_is_wrong_in_neutron_is_named(patient: Patient) -> None:
    demo = patient.cloud.demo
    (port,) = patient.ports()
    demo.update_port(port.id, security_groups=[])
    assert "is in no security group" in evidence(check_cloud.groups, patient.facts())
    (trunk,) = demo.trunks(port_id=patient.vm.port.id)
    demo.delete_trunk_subports(trunk.id, [{"port_id": port.id}])
    assert "is no subport of the VM's trunk" in evidence(check_cloud.stored, patient.facts())
    demo.delete_trunk(trunk.id)
    assert "is the parent of no trunk" in evidence(check_cloud.trunk, patient.facts())
    demo.delete_port(port.id)
    assert evidence(check_cloud.stored, patient.facts()) == "web has no port in Neutron"


def test_another_vlan_on_the_bridge_is_named(patient: Patient) -> None:
    patient.vlan = 4000
    assert "web has VLAN 4000 on breth0, and its subport has" in evidence(
        check_cloud.plugged, patient.facts()
    )


def test_the_vms_port(patient: Patient) -> None:
    facts = patient.facts()
    assert facts.cloud
    assert "this VM's own port" in evidence(check_cloud.vm_port, facts)  # it is switched off
    elsewhere = replace(facts, probes=Probes())
    assert "which no interface of this VM has" in evidence(check_cloud.vm_port, elsewhere)
    nothing = replace(facts, cloud=view.Cloud(facts.cloud.vif))
    assert "Neutron has no port" in evidence(check_cloud.vm_port, nothing)


def test_a_full_quota(patient: Patient) -> None:
    facts = patient.facts()
    assert facts.cloud
    assert facts.cloud.used > 0
    assert facts.cloud.quota > facts.cloud.used
    full = replace(facts, cloud=replace(facts.cloud, quota=facts.cloud.used))
    assert "no container more can start" in evidence(check_cloud.quota, full)


def test_a_login_that_is_refused(patient: Patient) -> None:
    address = f"http://{patient.cloud.control.address}:5000"
    variables = {"OS_AUTH_URL": address, "OS_USERNAME": "demo", "OS_PASSWORD": "wrong",
                 "OS_PROJECT_NAME": "demo", "OS_VIF_ID": patient.vm.port.id}  # fmt: skip
    seen = patient.cloud.inside(lambda: view.ask(variables))
    assert "does not accept the login" in evidence(check_cloud.login, replace(patient.facts(), cloud=seen))
    right = patient.cloud.inside(lambda: view.ask({**variables, "OS_PASSWORD": patient.cloud.demo.password}))
    assert (right.problem, right.mac) == ("", patient.vm.port.mac_address)
