"""Pools and leases as rows: a real northbound database before and after each call."""

import time
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from functional.conftest import Connect
from functional.docker_networks import DockerHost
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.deadline import Deadline
from ovn_docker.model import row_uuid

OURS = {"ovn-docker:owner": "overlay"}


@pytest.fixture
def host(northbound: OvsdbServer, connect: Connect) -> DockerHost:
    return DockerHost("host1", connect(northbound))


def rows(northbound: OvsdbServer) -> dict[str, tuple[str, dict[str, str]]]:
    """Return cidr and external_ids of DHCP_Options by UUID; times are checked and left out."""
    found = {}
    for row in northbound.rows("DHCP_Options", "_uuid", "cidr", "external_ids"):
        ids: dict[str, Any] = row["external_ids"]
        for key, unit in (
            ("ovn-docker:created", 1e9 if "ovn-docker:subnet" in ids else 1),
            ("ovn-docker:released", 1),
        ):
            if key in ids:
                # Two readings of the clock may be equal, or equal after rounding.
                assert abs(time.time() - float(ids.pop(key)) / unit) < 60
        ids.pop("ovn-docker:claim", None)
        ids.pop("ovn-docker:uptime", None)
        found[row["_uuid"]] = (row["cidr"], ids)
    return found


def test_a_pool_has_a_row_from_its_request_to_its_release(host: DockerHost, northbound: OvsdbServer) -> None:
    pool = host.ipam.request_pool(ip_network("10.3.0.0/24"), ip_network("10.3.0.64/26"), 4)
    asked = {
        **OURS,
        "ovn-docker:type": "pool",
        "ovn-docker:host": "host1",
        "ovn-docker:pool": pool.id,
        "ovn-docker:subnet": "10.3.0.0/24",
        "ovn-docker:part": "10.3.0.64/26",
        "ovn-docker:state": "free",
    }
    assert rows(northbound) == {pool.id: ("10.3.0.0/24", asked)}
    host.ipam.request_address(pool.id, ip_address("10.3.0.254"), gateway=True)
    host.ipam.request_address(pool.id, ip_address("10.3.0.9"), gateway=False)
    kept = {"ovn-docker:reserved 10.3.0.254": "", "ovn-docker:reserved 10.3.0.9": ""}
    assert rows(northbound) == {pool.id: ("10.3.0.0/24", asked | kept)}
    host.ipam.release_address(pool.id, ip_address("10.3.0.254"))
    host.ipam.release_address(pool.id, ip_address("10.3.0.9"))
    assert rows(northbound) == {pool.id: ("10.3.0.0/24", asked)}
    host.ipam.release_pool(pool.id)
    assert rows(northbound) == {}


@pytest.mark.parametrize(("subnet", "first"), [("10.3.0.0/24", "10.3.0.2"), ("fd00::/64", "fd00::2")])
def test_a_lease_has_a_row_from_its_request_to_its_release(
    subnet: str, first: str, host: DockerHost, northbound: OvsdbServer
) -> None:
    network = host.create(subnet)
    switch = row_uuid("network", network.id)
    bound = rows(northbound)
    _, ids = bound[network.pool]
    assert ids["ovn-docker:state"] == "bound"
    assert ids["ovn-docker:switch"] == switch
    assert ids["ovn-docker:network"] == network.id
    host.lease(network)
    lease = {
        **OURS,
        "ovn-docker:type": "lease",
        "ovn-docker:pool": network.pool,
        "ovn-docker:network": network.id,
        "ovn-docker:switch": switch,
        "ovn-docker:picked": "true",
    }
    row = row_uuid("lease", switch, first)
    of_host = {"ovn-docker:host": "host1", "ovn-docker:encap": "10.0.0.1"}
    taken = lease | of_host | {"ovn-docker:state": "leased"}
    assert rows(northbound) == bound | {row: (first, taken)}
    host.release(network, first)
    assert rows(northbound) == bound | {row: (first, lease | {"ovn-docker:state": "released"})}
    host.lease(network, first)
    del taken["ovn-docker:picked"]
    assert rows(northbound) == bound | {row: (first, taken)}


def test_networks_on_one_switch_share_its_leases(
    host: DockerHost, northbound: OvsdbServer, connect: Connect
) -> None:
    switch = northbound.insert("Logical_Switch", name="web")
    other = DockerHost("host2", connect(northbound))
    networks = [there.create("10.3.0.0/24", switch="web") for there in (host, other)]
    host.lease(networks[0])
    other.lease(networks[1])
    leases = {row_uuid("lease", switch, address) for address in ("10.3.0.2", "10.3.0.3")}
    assert leases <= rows(northbound).keys()


def test_adding_a_pool_again_changes_nothing(host: DockerHost, northbound: OvsdbServer) -> None:
    network = host.create("10.3.0.0/24")
    before = northbound.contents()
    pool = host.store(host.chassis).pool(network.pool, Deadline(10))
    host.store(host.chassis).add_pool(pool, Deadline(10))
    assert northbound.contents() == before
    assert pool.bound
    assert pool.reserved == {ip_address("10.3.0.1")}
