"""A small OpenStack cloud, and the accounts of its users."""

import ctypes
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from e2e.lab.cloud.control import TENANTS, ControlNode
from e2e.lab.cloud.machines import VM, Hypervisor
from e2e.lab.command import at_once, wait_for

if TYPE_CHECKING:
    from e2e.lab.fabric import Fabric

T = TypeVar("T")


class Account:
    """A project and its user, of the same name; the password of `demo` is `demo-secret`.

    Each of openstacksdk's calls on the network service is a method: ``demo.ports(network_id=...)``; where the
    library returns a generator this returns a list.
    """

    def __init__(self, cloud: "Cloud", name: str) -> None:
        self._cloud, self.name, self.password = cloud, name, f"{name}-secret"
        self._connection = cloud.inside(lambda: _connect(cloud.control.address, name, self.password))
        self.project = cloud.inside(lambda: self._connection.current_project_id)

    @property
    def openrc(self) -> dict[str, str]:
        """The variables of the guide's openrc.sh, which is of the time of Keystone v2.0."""
        return {
            "OS_AUTH_URL": f"http://{self._cloud.control.address}:5000/v2.0",
            "OS_TENANT_ID": self.project,
            "OS_TENANT_NAME": self.name,
            "OS_USERNAME": self.name,
        }

    def token(self) -> str:
        """Return a token, as `openstack token issue` prints it."""
        return self._cloud.inside(lambda: self._connection.auth_token)

    def application_credential(self, name: str) -> Any:
        """Create an application credential of the user."""
        identity, user = self._connection.identity, self._connection.current_user_id
        return self._cloud.inside(lambda: identity.create_application_credential(user=user, name=name))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: object, **kwargs: object) -> object:
            def function() -> object:
                answer = getattr(self._connection.network, name)(*args, **kwargs)
                return list(answer) if isinstance(answer, Generator) else answer

            return self._cloud.inside(function)

        return call


class Cloud:
    """A control node and two hypervisors on a fabric, whose management network all projects share.

    `admin`, `demo` and `alt` are accounts; the last two are plain tenants.
    """

    def __init__(self, fabric: "Fabric", release: str) -> None:
        self.fabric = fabric
        self.control = ControlNode(fabric, release)
        # On Debian 13's Open vSwitch: 3.1 ends with a failed assertion in its userspace connection tracking,
        # which security groups need, when many containers come and go (lib/conntrack.c, conn_update_state).
        self.hypervisors = [Hypervisor(fabric, f"hv{i}", i, "26.1") for i in (1, 2)]
        fabric.power_on(self.control, *self.hypervisors)
        self.control.start_central()
        with ThreadPoolExecutor() as pool:
            apis = pool.submit(self.control.start)
            at_once(self._join, self.hypervisors)
            apis.result()
        if fabric.userspace:
            self.control.run("ethtool", "--offload", "eth0", "tx", "off")
            at_once(lambda hypervisor: hypervisor.meet(self.hypervisors), self.hypervisors)

        self._thread = ThreadPoolExecutor(1, initializer=_enter, initargs=(self.control.pid,))
        self.admin, self.demo, self.alt = (Account(self, name) for name in ("admin", *TENANTS))
        self.management = self.admin.create_network(
            name="management",
            shared=True,
            provider_network_type="flat",
            provider_physical_network="management",
        )
        self.admin.create_subnet(
            network_id=self.management.id,
            ip_version=4,
            cidr=str(ip_network(f"{self.control.address}/24", strict=False)),
            gateway_ip=None,
            # Neutron chooses addresses at random: machines and tests use those outside of the pool.
            allocation_pools=[{"start": "172.31.0.128", "end": "172.31.0.199"}],
            enable_dhcp=False,
        )

    def inside(self, function: Callable[[], T]) -> T:
        """Run a function in the control node's network, and return its result."""
        return self._thread.submit(function).result()

    def boot(
        self, name: str, hypervisor: Hypervisor, tenant: Account, network: Any = None, **port: Any
    ) -> VM:
        """Switch on a tenant's new virtual machine, with a port on a network (default: management)."""
        number = len(self.fabric.hosts) + 1
        network = network or self.management
        if network is self.management:
            port = {"fixed_ips": [{"ip_address": f"172.31.0.{number}"}]} | port
        made = self.admin.create_port(network_id=network.id, project_id=tenant.project, name=name, **port)
        bound = self._bind(made, hypervisor)
        (first, *_) = bound.fixed_ips
        prefix = ip_network(self.admin.get_subnet(first["subnet_id"]).cidr).prefixlen
        interface = ip_interface(f"{first['ip_address']}/{prefix}")
        vm = VM(*(hypervisor, name, number), account=tenant, port=bound, interface=interface, mtu=network.mtu)
        self.fabric.power_on(vm)
        return vm

    def boot_three(self) -> tuple[VM, VM, VM]:
        """Boot three virtual machines of demo, without the driver: two on hv1, the third on hv2."""
        hv1, hv2 = self.hypervisors
        places = {"vm1": hv1, "vm2": hv1, "vm3": hv2}
        vm1, vm2, vm3 = (self.boot(name, place, self.demo) for name, place in places.items())
        at_once(VM.prepare, (vm1, vm2, vm3))
        return vm1, vm2, vm3

    def delete(self, vm: VM) -> None:
        """Switch a virtual machine off for good, and delete its port and trunk."""
        vm.power_off()
        vm.hypervisor.unplug(vm)
        for trunk in self.admin.trunks(port_id=vm.port.id):
            self.admin.delete_trunk(trunk.id)
        self.admin.delete_port(vm.port.id)

    def _bind(self, port: Any, hypervisor: Hypervisor) -> Any:
        """Bind a port to a hypervisor, as Nova does.

        The binding fails, without an error, until Neutron knows the hypervisor and the networks of its
        bridges; a port without a binding cannot have a trunk. Each update makes Neutron bind again.
        """
        place = {
            "binding_host_id": hypervisor.name,
            "device_owner": "compute:nova",
            "device_id": str(uuid4()),
        }

        def bound() -> Any:
            port_ = self.admin.update_port(port.id, **place)
            return None if port_.binding_vif_type == "binding_failed" else port_

        return wait_for(bound, f"Neutron to bind {port.name} to {hypervisor.name}", timeout=60)

    def _join(self, hypervisor: Hypervisor) -> None:
        hypervisor.start_switch()
        hypervisor.join(self.control.address)


def _enter(pid: int) -> None:
    """Enter the network namespace of a process with this thread."""
    with Path(f"/proc/{pid}/ns/net").open() as space:
        if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), 0):  # os.setns is Python 3.12's
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _connect(address: str, name: str, password: str) -> Any:
    import openstack

    return openstack.connect(
        region_name="RegionOne",
        auth={
            "auth_url": f"http://{address}:5000/v3",
            "username": name,
            "password": password,
            "project_name": name,
            "user_domain_id": "default",
            "project_domain_id": "default",
        },
    )
