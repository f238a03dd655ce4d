"""Hypervisors, and virtual machines whose NICs are ports of Neutron: the part that Nova has in a cloud."""

from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

from e2e.lab.host import Host
from e2e.lab.services import Daemon, Service

if TYPE_CHECKING:
    from e2e.lab.cloud.cloud import Account

BRIDGE = "breth0"


class Hypervisor(Host):
    """A host with virtual machines on its integration bridge.

    A third cable, to the bridge br-ex, connects the fabric's management network to Neutron.
    """

    def _plug_in(self) -> None:
        super()._plug_in()
        self.ports = (*self.ports[:2], f"{self.name}-eth2")
        self.lay_cable(self.ports[2], "eth2", "management")
        self.leave_to_switch("eth2")

    def start_switch(self) -> None:
        super().start_switch()
        datapath = "netdev" if self.fabric.userspace else "system"
        self.run(
            *("ovs-vsctl", "--may-exist", "add-br", "br-ex"),
            *("--", "--may-exist", "add-port", "br-ex", "eth2"),
            *("--", "set", "bridge", "br-ex", f"datapath_type={datapath}"),
            *("--", "set", "Open_vSwitch", ".", "external_ids:ovn-bridge-mappings=management:br-ex"),
        )

    def unplug(self, vm: "VM") -> str:
        """Remove the other end of a VM's NIC, in whatever way the VM was switched off; return its name."""
        tap = f"tap{vm.port.id[:11]}"
        self.run("ovs-vsctl", "--timeout=25", "--if-exists", "del-port", "br-int", tap)
        self.run("ip", "link", "delete", tap, check=False)  # the kernel deletes it too, but later
        return tap

    def plug(self, vm: "VM") -> None:
        """Make a virtual machine's NIC, and its other end a port with the flows of its Neutron port."""
        tap = self.unplug(vm)
        self.fabric.run(
            *("ip", "link", "add", tap, "netns", str(self.pid), "type", "veth", "peer", "name", "eth0"),
            *("address", vm.port.mac_address, "netns", str(vm.pid)),
        )
        self.leave_to_switch(tap)
        ids = {"iface-id": vm.port.id, "attached-mac": vm.port.mac_address, "vm-id": vm.name}
        self.run(
            *("ovs-vsctl", "--timeout=25", "add-port", "br-int", tap, "--", "set", "Interface", tap),
            *(f'external_ids:{key}="{value}"' for key, value in ids.items()),
        )
        installed = ("Interface", tap, "external_ids:ovn-installed=true")
        self.run("ovs-vsctl", "--timeout=60", "wait-until", *installed, timeout=70)


class VM(Host):
    """A virtual machine of an account: one NIC, eth0, which is a port of Neutron, and nothing else.

    `port` is Neutron's resource, `interface` its address, `mtu` that of its network.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        name: str,
        number: int,
        *,
        account: "Account",
        port: Any,
        interface: IPv4Interface,
        mtu: int,
    ) -> None:
        super().__init__(hypervisor.fabric, name, number, "20.10")
        self.hypervisor, self.account, self.port = hypervisor, account, port
        self.interface, self.mtu = interface, mtu
        self.address = str(interface.ip)
        self.ports = ()
        self.vswitchd = Daemon(self, *self.vswitchd.argv, runs_as=self.vswitchd.runs_as)  # without tunnels
        self.driver = Driver(
            self,
            *(self.driver.argv[0].replace("overlay", "underlay"), f"--bridge={BRIDGE}"),
            listens=self.driver.listens,
        )

    @property
    def openrc(self) -> dict[str, str]:
        """The variables of the guide's openrc.sh, without the password."""
        return self.account.openrc | {"OS_VIF_ID": self.port.id}

    def prepare(self) -> None:
        """Start everything but the driver, as the guide does."""
        self.save_openrc()
        self.start_switch()
        self.make_bridge()
        self.start_docker()
        self.load("busybox")

    def save_openrc(self) -> None:
        """Write the guide's file, /root/openrc.sh."""
        exports = [f"export {key}={value}" for key, value in self.openrc.items()]
        self.path("/root/openrc.sh").write_text("\n".join(["#!/bin/bash", *exports, ""]))

    def make_bridge(self) -> None:
        """Move the NIC and its address into a bridge, as the guide's step 2 does; needed after each boot."""
        datapath = "netdev" if self.fabric.userspace else "system"
        mac = f'other_config:hwaddr="{self.port.mac_address}"'
        self.run(
            *("ovs-vsctl", "--timeout=25", "--may-exist", "add-br", BRIDGE),
            *("--", "set", "bridge", BRIDGE, f"datapath_type={datapath}", mac),
            *("--", "--may-exist", "add-port", BRIDGE, "eth0"),
        )
        self.run("ip", "address", "flush", "dev", "eth0")
        self.run("ip", "link", "set", BRIDGE, "up")
        self.run("ip", "address", "replace", str(self.interface), "dev", BRIDGE)
        self.tune_bridge()

    def tune_bridge(self) -> None:
        """Set what a datapath in user space needs."""
        self.leave_to_switch("eth0")
        self._offload_nothing(BRIDGE)

    def _plug_in(self) -> None:
        self.hypervisor.plug(self)
        self._offload_nothing("eth0")
        self.run("ip", "link", "set", "eth0", "up", "mtu", str(self.mtu))
        self.run("ip", "address", "replace", str(self.interface), "dev", "eth0")

    def _offload_nothing(self, device: str) -> None:
        """Disable checksum offload: in user space Open vSwitch does not fill in checksums."""
        if self.fabric.userspace:
            self.run("ethtool", "--offload", device, "tx", "off", check=False)


class Driver(Service):
    """The underlay driver, in the environment that the user's openrc.sh makes, the password included."""

    host: VM

    def _launch(self, *extra: str, env: dict[str, str]) -> None:
        openrc = self.host.openrc | {"OS_PASSWORD": self.host.account.password}
        super()._launch(*extra, env=openrc | env)
