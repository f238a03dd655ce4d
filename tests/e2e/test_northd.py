"""The rows that the driver writes for a container, as ovn-northd of newer OVN handles them."""

from collections.abc import Iterator

import pytest
from bench.northd import ENGINES, INCREMENTAL, Central, kinds

from e2e.lab import Fabric

ALONE = {
    "port of an endpoint, with its claims",
    "ovn-controller claims the port and reports it up",
    "port without names deleted",
    "lease",
    "lease deleted",
    "name of the container on a port of such a network",
    "note of a host",
    "report of a host",
    "nb_cfg, by the doctor and ovn-nbctl --wait",
    "nb_cfg of a host, by ovn-controller",
}
"""Changes that cost the same whatever the number of ports (docs/performance.md)."""


@pytest.fixture(params=[version for version in ENGINES if version >= INCREMENTAL])
def central(request: pytest.FixtureRequest) -> Iterator[Central]:
    with Fabric() as fabric:
        (host,) = fabric.add_hosts("central", engine=ENGINES[request.param])
        central = Central(host, request.param)
        central.fill(100)
        yield central
        central.close()


@pytest.mark.engines
def test_ovn_northd_computes_a_container_without_the_other_ports(central: Central) -> None:
    found = kinds(central)
    assert found.keys() >= ALONE
    anew = {what for what, nodes in found.items() if nodes.keys() & {"northd", "lflow"}}
    assert anew & ALONE == set()
