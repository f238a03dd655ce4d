"""VMs with the underlay driver, and comparison of their state with Docker's."""

import json

from e2e.lab import LabError, wait_for
from e2e.lab.cloud import BRIDGE, VM, Cloud

SWEEP_OPTIONS = ("--sweep-interval=3",)
"""Options with which the driver deletes leftovers within seconds."""


class Underlay:
    """Three VMs of the tenant demo, two on one hypervisor and one on the other, with the driver."""

    def __init__(self, cloud: Cloud, vms: tuple[VM, VM, VM]) -> None:
        self.cloud, self.vms = cloud, vms
        self.killed = False
        """True if a driver was killed: a lease may lack its endpoint then, or a network be incomplete.

        They look like those that are about to be used, and so become leftovers after ten and five minutes.
        """

    def start(self) -> None:
        """Start the drivers that do not run."""
        for vm in self.vms:
            if not vm.driver.pid:
                vm.driver.start(*SWEEP_OPTIONS)

    def run(self, vm: VM, name: str, *options: str, network: str = "foo") -> str:
        """Run a container until it is killed; return its IPv4 address."""
        vm.docker(
            *("run", "-d", f"--net={network}", f"--name={name}", "--stop-signal=KILL", *options),
            *("busybox", "sleep", "3600"),
            timeout=150,
        )
        return self.endpoint(vm, name, network)["IPAddress"]

    def endpoint(self, vm: VM, container: str, network: str = "foo") -> dict[str, str]:
        """Return a container's endpoint as Docker shows it."""
        (settings,) = json.loads(vm.docker("inspect", container))
        endpoint: dict[str, str] = settings["NetworkSettings"]["Networks"][network]
        return endpoint

    def ping(self, vm: VM, container: str, address: str, *options: str) -> None:
        """Ping an address. Raises CommandError unless it answers within a minute."""
        vm.ping(container, address, *options)

    def is_silent(self, vm: VM, container: str, address: str, *options: str) -> bool:
        """Return True if an address answers neither of two pings."""
        tries = "ping -c 2 -W 1 $@ >/dev/null || echo silent"
        return vm.docker("exec", container, "sh", "-c", tries, "sh", *options, address) == "silent"

    def clear(self) -> None:
        """Remove all containers and networks."""
        for vm in self.vms:
            if containers := vm.docker("ps", "--all", "--quiet").split():
                vm.docker("rm", "--force", *containers, timeout=150)
            if networks := vm.docker("network", "ls", "--quiet", "--filter=driver=openvswitch").split():
                vm.docker("network", "rm", *networks, timeout=150)

    def purge(self) -> None:
        """Delete all resources of a test in Neutron, for the sake of the next test."""
        demo = self.cloud.demo
        for trunk in demo.trunks():
            demo.delete_trunk_subports(trunk.id, [{"port_id": sub["port_id"]} for sub in trunk.sub_ports])
        for port in demo.ports():
            if not port.device_owner.startswith("compute:"):
                demo.delete_port(port.id)
        for network in demo.networks(is_shared=False):
            demo.delete_network(network.id)

    def settles(self) -> None:
        """Wait for the sweep, and check that everything exists that Docker has, and nothing else."""
        try:
            wait_for(lambda: self.wanted() == self.found(), "order", timeout=180)
        except LabError:
            wanted, found = self.wanted(), self.found()
            assert not found - wanted, f"left behind: {found - wanted}"
            assert not wanted - found, f"missing: {wanted - found}"
        for vm in self.vms:
            assert "Traceback" not in vm.tail(vm.driver.log, lines=10_000)

    def wanted(self) -> set[str]:
        """Return the parts that should exist, by Docker's state."""
        things = set()
        for vm in self.vms:
            networks = vm.docker(
                "network", "ls", "--no-trunc", "--quiet", "--filter=driver=openvswitch"
            ).split()
            things |= {f"network {network[:12]}" for network in networks}
            running = vm.docker("ps", "--quiet").split()
            for container in json.loads(vm.docker("inspect", *running)) if running else []:
                for endpoint in container["NetworkSettings"]["Networks"].values():
                    if endpoint["NetworkID"] in networks:
                        things |= self._parts(vm, endpoint["EndpointID"])
        return things

    def _parts(self, vm: VM, endpoint: str) -> set[str]:
        link = f"odh{endpoint[:12]}"
        vlan = self._vlans(vm).get(endpoint)
        return {
            f"port {endpoint} ACTIVE",
            f"{vm.name}: subport {endpoint} on VLAN {vlan}",
            f"{vm.name}: port {link} on VLAN {vlan}",
            f"{vm.name}: link {link}",
        }

    def found(self) -> set[str]:
        """Return the parts that exist, of all kinds that the driver makes."""
        demo = self.cloud.demo
        things = set()
        for network in demo.networks(is_shared=False):
            members = [tag.removeprefix("docker:")[:12] for tag in network.tags if tag.startswith("docker:")]
            things |= {f"network {member}" for member in members}
            if not members and not self.killed:
                things.add(f"network {network.name} without members")
        for port in demo.ports():
            kept = port.description.startswith("ovn-docker address of ")
            if not port.device_owner.startswith("compute:") and not (self.killed and kept):
                things.add(f"port {port.name} {port.status}")
            for tag in port.tags:
                if tag.startswith("docker:"):
                    things.add(f"network {tag.removeprefix('docker:')[:12]}")
        for vm in self.vms:
            things |= {f"{vm.name}: subport {name} on VLAN {vlan}" for name, vlan in self._vlans(vm).items()}
            listed = json.loads(vm.run("ovs-vsctl", "--format=json", "--columns=name,tag", "list", "Port"))
            things |= {
                f"{vm.name}: port {name} on VLAN {tag}"
                for name, tag in listed["data"]
                if name.startswith("odh")
            }
            assert {"eth0"} <= set(vm.run("ovs-vsctl", "list-ports", BRIDGE).split())
            links = [link["ifname"] for link in json.loads(vm.run("ip", "-json", "link"))]
            things |= {f"{vm.name}: link {link}" for link in links if link.startswith(("odh", "odc"))}
        return things

    def _vlans(self, vm: VM) -> dict[str, int]:
        """Return the VLANs of the subports behind a VM's port, by the names of their ports."""
        demo = self.cloud.demo
        names = {port.id: port.name for port in demo.ports()}
        return {
            names.get(subport["port_id"], subport["port_id"]): subport["segmentation_id"]
            for trunk in demo.trunks(port_id=vm.port.id)
            for subport in trunk.sub_ports
        }
