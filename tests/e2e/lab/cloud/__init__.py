"""A real OpenStack cloud on one machine, for the tests of the underlay mode.

A cloud consists of a control node with Keystone, Neutron (ML2/OVN, trunks) and OVN's central part, of
hypervisors, and of virtual machines: hosts of the lab with one NIC, which is a port of Neutron and is plugged
into a hypervisor as Nova does it. Virtual machines reach the APIs over that NIC, on the fabric's flat network
`management`. `vm.driver.start()` starts the driver in a VM, with the variables of openrc.sh.

A test has the mark `underlay` and uses the fixtures `cloud` (two hypervisors) and `vms` (vm1 and vm2 on the
first, vm3 on the second, with real Docker); `--keep` leaves the cloud running. `make run-underlay` starts a
cloud without a test. Both print the commands to enter each machine and to end the cloud. In a VM,
/root/openrc.sh is the guide's file; the password of `demo` is demo-secret.
`make test-underlay NEUTRON=26` uses another release.

The first start installs Neutron (a minute) and fills its database (half a minute); the cache keeps both.
"""

from importlib.util import find_spec
from shutil import which

from e2e.lab.cloud.cloud import Account, Cloud
from e2e.lab.cloud.control import RELEASES
from e2e.lab.cloud.machines import BRIDGE, VM, Hypervisor
from e2e.lab.command import ENVIRONMENT

__all__ = ["BRIDGE", "RELEASES", "VM", "Account", "Cloud", "Hypervisor", "missing_for_cloud"]


def missing_for_cloud() -> list[str]:
    """Return what this machine lacks to run a cloud, besides the needs of the lab."""
    programs = ("ethtool", "mariadb", "mariadb-install-db", "mariadbd")
    absent = [f"no {name}" for name in programs if not which(name, path=ENVIRONMENT["PATH"])]
    return absent if find_spec("openstack") else [*absent, "no openstacksdk"]
