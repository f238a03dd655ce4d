"""A cloud for demonstration, ``make run-underlay``: two VMs on two hypervisors, a network, and a ping."""

import sys

from e2e.lab import Fabric, missing
from e2e.lab.cloud import BRIDGE, RELEASES, VM, Cloud, missing_for_cloud
from e2e.lab.command import at_once

CREATE = (
    "docker network create -d openvswitch --ipam-driver openvswitch --subnet 192.168.1.0/24 "
    "-o ovn.network=foo foo"
)
ADDRESS = "docker inspect --format '{{.NetworkSettings.Networks.foo.IPAddress}}' web"


def show(vm: VM, command: str) -> str:
    """Run a command in a VM; print it and its output."""
    print(f"\n{vm.name}# {command}", flush=True)
    said = vm.run("sh", "-ec", f"cd /root; {command}", timeout=120)
    print(said, flush=True)
    return said


def session(cloud: Cloud) -> None:
    """Run the guide's underlay section in two VMs of the tenant demo."""
    places = zip(("vm1", "vm2"), cloud.hypervisors, strict=True)
    vm1, vm2 = vms = [cloud.boot(name, hypervisor, cloud.demo) for name, hypervisor in places]
    at_once(VM.prepare, vms)
    show(vm1, "cat openrc.sh")
    for vm in vms:
        login = f". ./openrc.sh; export OS_PASSWORD={vm.account.password}"
        show(vm, f"{login}; ovn-docker-underlay-driver --bridge {BRIDGE} --detach --pidfile --log-file")
        show(vm, CREATE)
    show(vm2, "docker run -d --net foo --name web busybox httpd -f -p 80")
    address = show(vm2, ADDRESS)
    show(vm1, f"docker run --rm --net foo busybox ping -c 3 {address}")
    (trunk,) = cloud.demo.trunks(port_id=vm2.port.id)
    for subport in trunk.sub_ports:
        port = cloud.demo.get_port(subport["port_id"])
        where = f"VLAN {subport['segmentation_id']} of the trunk of {vm2.name}"
        print(f"\nIn Neutron: port {port.id}, {port.status}, {address}, {where}")


def main() -> None:
    """Start a cloud, run the session, and leave the cloud running."""
    if lacks := missing() or missing_for_cloud():
        sys.exit(f"cannot start a cloud here: {', '.join(lacks)}")
    print(
        "Starting Keystone, Neutron, OVN, two hypervisors and two VMs (a few minutes the first time)",
        flush=True,
    )
    fabric = Fabric()
    try:
        session(Cloud(fabric, RELEASES[-1]))
    except BaseException:
        fabric.close()
        raise
    print(f"\nAll of it runs on. To enter a machine, add a command such as bash:\n{fabric.keep()}")


if __name__ == "__main__":
    main()
