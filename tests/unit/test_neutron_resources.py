"""Decoding of Neutron's resources: valid ones, and errors that name resource, member and value."""

from ipaddress import ip_address, ip_network

import pytest

from ovn_docker.backends.neutron.resources import (
    FixedIp,
    NeutronNetwork,
    NeutronPort,
    NeutronResource,
    NeutronSecurityGroup,
    NeutronSubnet,
    NeutronSubnetPool,
    NeutronTrunk,
    decode,
)
from ovn_docker.errors import Unavailable
from ovn_docker.text.printable import printable

PORT = {
    "id": "e798c371", "name": "web", "network_id": "n1", "mac_address": "fa:16:3e:00:00:01", "status": "DOWN",
    "fixed_ips": [{"subnet_id": "s1", "ip_address": "10.0.0.5"}], "binding:vnic_type": "normal",
}  # fmt: skip
SUBNET = {"id": "s1", "network_id": "n1", "cidr": "10.0.0.0/24", "ip_version": 4, "gateway_ip": "10.0.0.1"}


def test_unknown_members_are_ignored_and_null_counts_as_absent() -> None:
    port = decode(NeutronPort, PORT | {"description": None, "security_groups": None})
    assert port.fixed_ips == (FixedIp("s1", "10.0.0.5"),)
    assert (port.description, port.security_groups, port.port_security_enabled) == ("", (), True)


def test_addresses_of_both_versions_are_parsed() -> None:
    subnet = decode(NeutronSubnet, SUBNET)
    assert (subnet.cidr, subnet.gateway_ip) == (ip_network("10.0.0.0/24"), ip_address("10.0.0.1"))
    pool = decode(NeutronSubnetPool, {"id": "p", "prefixes": ["fd00::/64"]})
    assert pool.prefixes == (ip_network("fd00::/64"),)


def test_a_rewrite_reaches_every_text() -> None:
    network = decode(NeutronNetwork, {"id": "n\x1b", "tags": ["docker:\x1b[2J=", "plain"]})
    assert network.rewritten(printable) == decode(
        NeutronNetwork, {"id": "n?", "tags": ["docker:?[2J=", "plain"]}
    )
    rules = [{"id": "r\n", "direction": "ingress"}]
    group = decode(NeutronSecurityGroup, {"id": "g", "security_group_rules": rules})
    assert group.rewritten(printable).security_group_rules[0].id == "r?"


@pytest.mark.parametrize(
    ("kind", "members", "message"),
    [
        (NeutronPort, {"status": None}, "port e798c371 without status: if it has just started"),
        (NeutronPort, {"mac_address": 7}, "port e798c371 with an invalid mac_address, 7: Expected"),
        (NeutronPort, {"tags": "x"}, "port e798c371 with an invalid tags, x: Expected `array`"),
        (
            NeutronPort,
            {"fixed_ips": [{"subnet_id": "s1", "ip_address": "10.0.0"}]},
            '"ip_address": "10.0.0"}]: \'10.0.0\' does not appear to be an IPv4 or IPv6 address',
        ),
        (NeutronSubnet, {"cidr": "10.0.0.1/24"}, "subnet s1 with an invalid cidr, 10.0.0.1/24: "),
        (NeutronSubnet, {"gateway_ip": 167772161}, "invalid gateway_ip, 167772161: Expected `str`"),
        (NeutronSubnet, {"ip_version": "4" * 99}, f"invalid ip_version, {'4' * 77}...: Expected"),
        (NeutronSubnetPool, {"id": "p", "prefixes": ["x"]}, "subnetpool p with an invalid pref"),
        (
            NeutronTrunk,
            {"id": "t", "port_id": "p", "sub_ports": [{"port_id": "q"}]},
            'trunk t with an invalid sub_ports, [{"port_id": "q"}]: Object missing required field',
        ),
        (NeutronTrunk, {"port_id": "p"}, "returns a trunk without id"),
    ],
)
def test_a_missing_or_invalid_member_is_named_with_its_value(
    kind: type[NeutronResource], members: dict[str, object], message: str
) -> None:
    valid = {NeutronPort: PORT, NeutronSubnet: SUBNET}.get(kind, {})
    with pytest.raises(Unavailable) as raised:
        decode(kind, valid | members)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
