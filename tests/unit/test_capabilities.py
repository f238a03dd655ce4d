"""Each backend has the optional capabilities of its mode, which the core asks for with isinstance().

A method that is renamed in one place only would silently take a capability away.
"""

import pytest

from ovn_docker.backends.neutron.leases import Leases
from ovn_docker.backends.ovn.networks.addresses import HostAddresses
from ovn_docker.backends.ovn.networks.overlay import HostNetworks
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.core import protocols
from ovn_docker.host.openvswitch import LocalVswitch, VmBridge

CAPABILITIES = [one for one in vars(protocols).values() if getattr(one, "_is_runtime_protocol", False)]
WANTED = {
    HostNetworks: set(),
    HostAddresses: {"LeaseHistory", "OccupancyReader"},
    Leftovers: {"OrphanSchedule"},
    Leases: {"AddressChooser"},
    LocalVswitch: {"GuardedLinks"},
    VmBridge: set(),
}


@pytest.mark.parametrize("backend", WANTED)
def test_backend_has_the_capabilities_of_its_mode(backend: type) -> None:
    assert {one.__name__ for one in CAPABILITIES if issubclass(backend, one)} == WANTED[backend]


def test_every_capability_belongs_to_a_backend() -> None:
    assert {one.__name__ for one in CAPABILITIES} == set().union(*WANTED.values())
