"""UUIDs, MACs and names that follow from Docker's IDs; all hosts and versions must agree on them."""

import re
from ipaddress import ip_address, ip_interface

import pytest

from ovn_docker.backends.neutron.resources import NeutronPort
from ovn_docker.backends.neutron.trunk import vlan_of
from ovn_docker.model import (
    Endpoint,
    EndpointId,
    NetworkId,
    StoredEndpoint,
    choose_mac,
    container_link,
    host_link,
    row_uuid,
    tunnel_overhead,
)

NETWORK = NetworkId("ad6eb94616091677ad829254572c28d676689175d908cf299d17bb2c0d39f396")
ENDPOINT = EndpointId("53d0798b26e2fbe8d543504c4c4df763c5a2bfef10df9ba4646a1e899e32e438")


def endpoint(*addresses: str, id: EndpointId = ENDPOINT) -> Endpoint:  # noqa: A002
    return Endpoint(id, NETWORK, tuple(ip_interface(address) for address in addresses))


def test_row_uuids_never_change() -> None:
    assert row_uuid("network", "n1") == "9d4c3c3b-2e9a-50f5-a5ce-609b12f8ce56"


def test_row_uuids_differ_by_kind_and_by_key() -> None:
    assert len({row_uuid("network", "a"), row_uuid("endpoint", "a"), row_uuid("network", "b")}) == 3


def test_mac_is_made_of_the_ipv4_address_as_on_docker_s_bridge() -> None:
    assert choose_mac(endpoint("10.1.0.2/24")) == "02:42:0a:01:00:02"
    assert choose_mac(endpoint("fd00::2/64", "10.1.0.2/24")) == "02:42:0a:01:00:02"


def test_mac_of_an_address_does_not_depend_on_the_endpoint() -> None:
    other = EndpointId("140a00718fb56fae402c3e8c548a51cc03436bd934c57250fb5b78e63c9af065")
    assert choose_mac(endpoint("fd00::2/64")) == choose_mac(endpoint("fd00::2/64", id=other))
    assert choose_mac(endpoint("fd00::2/64")) != choose_mac(endpoint("fd00::3/64"))


def test_mac_of_an_endpoint_without_addresses_follows_from_its_id() -> None:
    assert choose_mac(endpoint()) == choose_mac(endpoint())
    assert choose_mac(endpoint()) != choose_mac(endpoint(id=EndpointId("x")))


@pytest.mark.parametrize("addresses", [["10.1.0.2/24"], ["fd00::2/64"], []])
def test_mac_is_unicast_and_locally_administered(addresses: list[str]) -> None:
    mac = choose_mac(endpoint(*addresses))
    assert re.fullmatch("[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac)
    assert int(mac[:2], 16) & 0b11 == 0b10


@pytest.mark.parametrize("id", [ENDPOINT, EndpointId("7x3k"), EndpointId("Z" * 64)])
def test_link_names_fit_the_kernel(id: EndpointId) -> None:  # noqa: A002
    names = host_link(id), container_link(id)
    assert all(4 <= len(name) <= 15 for name in names)
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("encap_types", "encap_ip", "bytes_"),
    [
        (("geneve",), "192.0.2.1", 58),
        (("geneve",), "2001:db8::1", 78),
        (("vxlan",), "192.0.2.1", 50),
        (("vxlan", "geneve"), "192.0.2.1", 58),
        (("stt",), "192.0.2.1", 72),
    ],
)
def test_tunnel_overhead_is_that_of_the_worst_type(
    encap_types: tuple[str, ...], encap_ip: str, bytes_: int
) -> None:
    assert tunnel_overhead(encap_types, ip_address(encap_ip)) == bytes_


@pytest.mark.parametrize(
    ("joined", "age", "dead"), [(None, 0, True), (True, 1e9, False), (False, 1, False), (False, 61, True)]
)
def test_an_endpoint_without_a_container_is_dead_unless_it_is_young(
    joined: bool | None, age: float, dead: bool
) -> None:
    assert StoredEndpoint(ENDPOINT, NETWORK, "host-1", age).dead(joined, grace=60) is dead


@pytest.mark.parametrize(("text", "vlan"), [("7", 7), ("²", 0), ("", 0)])
def test_the_vlan_in_a_device_owner_is_a_number_or_absent(text: str, vlan: int) -> None:
    port = NeutronPort(id="", network_id="", mac_address="", status="", device_owner=f"docker:vlan-{text}")
    assert vlan_of(port) == vlan
