"""The underlay's backend on a real Neutron: it keeps the contract, and does what only Neutron can."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest

from e2e.lab.cloud import Cloud
from functional.backend_contract import BackendContract, Stored, soon
from ovn_docker.backends.leases import Leases
from ovn_docker.backends.neutron import Neutron
from ovn_docker.backends.trunk import Parent, Trunk
from ovn_docker.backends.underlay import Underlay
from ovn_docker.ipam import Ipam
from ovn_docker.model import Chassis
from ovn_docker.supply import Supply

pytestmark = pytest.mark.underlay


class InCloud:
    """An object whose methods run where Neutron can be reached."""

    def __init__(self, cloud: Cloud, inner: object) -> None:
        self._cloud, self._inner = cloud, inner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)
        return lambda *args, **more: self._cloud.inside(partial(method, *args, **more))


class Vm:
    """A port of a virtual machine that is switched off, and what the driver in it would be made of."""

    def __init__(self, cloud: Cloud, name: str) -> None:
        self.port = cloud.demo.create_port(network_id=cloud.management.id, name=name)
        self.chassis = Chassis(self.port.id, bridge="breth0", datapath="netdev")
        login = {
            "auth_url": f"http://{cloud.control.address}:5000",
            "auth_type": "password",
            "username": "demo",
            "password": "demo",
            "project_id": cloud.demo.project,
            "default_domain_id": "default",
        }
        self.neutron = Neutron(login)
        self.parent: Parent = Trunk(self.neutron, self.port.id)
        leases = Leases(self.neutron, self.port.id, self.parent)
        self.underlay = Underlay(self.neutron, self.port.id, self.parent, leases)
        self.ipam = Ipam(leases, lambda _: self.chassis, list, tuple[Supply, ...](), 60)


@pytest.fixture(scope="module")
def machines(cloud: Cloud) -> Iterator[tuple[Vm, Vm]]:
    machines = Vm(cloud, "here"), Vm(cloud, "there")
    yield machines
    for vm in machines:
        for trunk in cloud.demo.trunks(port_id=vm.port.id):
            cloud.demo.delete_trunk(trunk.id)
        cloud.demo.delete_port(vm.port.id)


def everything(cloud: Cloud) -> dict[str, list[Any]]:
    """What demo has in Neutron, without what changes by itself."""
    moving = {"updated_at", "revision_number", "status", "created_at", "location", "is_router_external"}
    kinds = ("networks", "subnets", "subnet_pools", "ports", "trunks")
    return {
        kind: sorted(
            (
                {
                    key: sorted(value) if key == "tags" else value
                    for key, value in found.to_dict().items()
                    if key not in moving
                }
                for found in getattr(cloud.demo, kind)()
            ),
            key=lambda found: str(found["id"]),
        )
        for kind in kinds
    }


class TestUnderlay(BackendContract):
    @pytest.fixture
    def stored(self, cloud: Cloud, machines: tuple[Vm, Vm]) -> Stored:
        here, there = machines
        for vm in machines:
            cloud.inside(partial(vm.parent.check, soon()))
        underlay = [cast("Any", InCloud(cloud, vm.underlay)) for vm in machines]
        ipam = cast("Any", InCloud(cloud, here.ipam))
        return Stored(underlay[0], here.chassis, underlay[1], there.chassis, ipam, partial(everything, cloud))
