"""A real OpenStack cloud on one machine: what the tests of the underlay mode run on.

On a fabric: a control node with Keystone, Neutron (ML2/OVN, trunks) and OVN's central part; hypervisors;
virtual machines, which are hosts of the lab whose one NIC is a port of Neutron, plugged into a hypervisor
as Nova does it. They reach the APIs over that NIC: the network `management` is flat, and it is the
fabric's. The driver in a VM is `vm.driver.start()`, whose environment is the guide's openrc.sh.

In a test: the fixtures `cloud` (two hypervisors) and `vms` (vm1 and vm2 on the first, vm3 on the second,
with real Docker), and the mark `underlay`; `--keep` leaves the cloud running. By hand: `make run-underlay`.
Both print how to enter each machine and how to end it all; in a VM, /root/openrc.sh is the guide's, and
the password of `demo` is demo-secret. `make test-underlay NEUTRON=26` takes another release.

The first start installs (a minute) and initialises (half a minute) what is then kept in the lab's cache.
"""

from importlib.util import find_spec
from shutil import which

from e2e.lab.cloud.cloud import Account, Cloud
from e2e.lab.cloud.control import RELEASES
from e2e.lab.cloud.machines import BRIDGE, VM, Hypervisor
from e2e.lab.command import ENVIRONMENT

__all__ = ["BRIDGE", "RELEASES", "VM", "Account", "Cloud", "Hypervisor", "missing_for_cloud"]


def missing_for_cloud() -> list[str]:
    """Why there can be no cloud where there can be a lab; empty if there can."""
    programs = ("ethtool", "mariadb", "mariadb-install-db", "mariadbd")
    absent = [f"no {name}" for name in programs if not which(name, path=ENVIRONMENT["PATH"])]
    return absent if find_spec("openstack") else [*absent, "no openstacksdk"]
