"""Definitions of networks of the cluster: input from other hosts, parsed into a closed set of values."""

import json
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from ovn_docker import definition
from ovn_docker.backends.ovn.shared.shared_networks import read_definition
from ovn_docker.definition import Refused, check_subnets, of_docker
from ovn_docker.model import AddressPool, Definition, Occupied, row_uuid

ROW = row_uuid("shared network", "foo")
IDS = {"ovn-docker:name": "foo", "subnet": "10.1.0.0/16", "gateway_ip": "10.1.0.1"}


def good(**changes: Any) -> dict[str, Any]:
    """Return a definition as hosts store it, with some changes; the value None removes a key."""
    made = {
        "Name": "foo",
        "Driver": "openvswitch",
        "Internal": False,
        "Attachable": False,
        "EnableIPv6": False,
        "Options": {"ovn.network": "foo"},
        "Labels": {"team": "net"},
        "IPAM": {"Driver": "openvswitch", "Options": {}, "Config": [{"Subnet": "10.1.0.0/16"}]},
        "CheckDuplicate": True,
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def pool(**changes: Any) -> dict[str, Any]:
    return good(IPAM={"Driver": "default", "Config": [{"Subnet": "10.1.0.0/16"} | changes]})


def read(given: object, **ids: str) -> Definition:
    return read_definition(ROW, IDS | ids, given if isinstance(given, str) else json.dumps(given))


def test_the_request_is_built_from_the_parsed_values() -> None:
    given = pool(IPRange="10.1.2.0/24", Gateway="10.1.0.1", AuxiliaryAddresses={"router": "10.1.0.7"}) | {
        "Options": {"com.docker.network.driver.mtu": "1400", "ovn.network": "foo"},
        "Internal": False,
    }
    parsed = read(given)
    assert parsed.pools == (
        AddressPool(
            ip_network("10.1.0.0/16"),
            ip_network("10.1.2.0/24"),
            ip_address("10.1.0.1"),
            (("router", ip_address("10.1.0.7")),),
        ),
    )
    assert parsed.request == {
        "Name": "foo",
        "Driver": "openvswitch",
        "CheckDuplicate": True,
        "Internal": False,
        "Attachable": False,
        "EnableIPv6": False,
        "Options": {"com.docker.network.driver.mtu": "1400", "ovn.network": "foo"},
        "Labels": {"team": "net"},
        "IPAM": {
            "Driver": "default",
            "Options": {},
            "Config": [
                {
                    "Subnet": "10.1.0.0/16",
                    "IPRange": "10.1.2.0/24",
                    "Gateway": "10.1.0.1",
                    "AuxiliaryAddresses": {"router": "10.1.0.7"},
                }
            ],
        },
    }
    assert read(parsed.text) == parsed


HOSTILE: dict[str, tuple[object, str]] = {
    "bridge": (good(Driver="bridge"), "Driver 'bridge'"),
    "macvlan": (good(Driver="macvlan", Options={"parent": "eth0"}), "Driver 'macvlan'"),
    "no driver": (good(Driver=None), "Driver 'None'"),
    "plugin with a tag": (good(Driver="openvswitch:latest"), "Driver 'openvswitch:latest'"),
    "other name": (good(Name="bar"), "Name 'bar'"),
    "name of another type": (good(Name=["foo"]), r"Name \(a list\)"),
    "scope": (good(Scope="swarm"), "has 'Scope'"),
    "ingress": (good(Ingress=True), "has 'Ingress'"),
    "config-only": (good(ConfigOnly=True), "has 'ConfigOnly'"),
    "config-from": (good(ConfigFrom={"Network": "x"}), "has 'ConfigFrom'"),
    "switch of a user": (good(Options={"ovn.network": "foo", "ovn.switch": "bar"}), "ovn.switch"),
    "only a switch": (good(Options={"ovn.switch": "bar"}), "must be 'foo'"),
    "other network": (good(Options={"ovn.network": "bar"}), "must be 'foo'"),
    "no option": (good(Options=None), "must be 'foo'"),
    "option of bridge": (
        good(Options={"ovn.network": "foo", "com.docker.network.bridge.name": "br"}),
        "Options has 'com.docker.network.bridge.name'",
    ),
    "option of another type": (good(Options={"ovn.network": 1}), "must be a string"),
    "options of another type": (good(Options=["ovn.network"]), "Options"),
    "label of another type": (good(Labels={"a": 1}), "label 'a' '1'"),
    "label with a newline": (good(Labels={"a": "b\nc"}), r"'b\\nc'"),
    "label with a control": (good(Labels={"a\x1b": "b"}), r"'a\\x1b'"),
    "label from right to left": (good(Labels={"a": "\u202e"}), r"'\\u202e'"),
    "long label": (good(Labels={"a": "b" * 1025}), "1024"),
    "many labels": (good(Labels={str(number): "" for number in range(65)}), "65 labels"),
    "internal of another type": (good(Internal="false"), "Internal"),
    "attachable of another type": (good(Attachable=0), "Attachable"),
    "ipam of a plugin": (good(IPAM={"Driver": "weave"}), "IPAM driver 'weave'"),
    "ipam option": (good(IPAM={"Driver": "default", "Options": {"a": "b"}}), "IPAM option"),
    "ipam key": (good(IPAM={"Driver": "default", "Evil": 1}), "'Evil'"),
    "ipam of another type": (good(IPAM=[1]), "IPAM"),
    "ipam driver of another type": (good(IPAM={"Driver": {"a": 1}}), r"IPAM driver \(an object\)"),
    "null with a subnet": (good(IPAM={"Driver": "null", "Config": [{"Subnet": ["x"]}]}), "null"),
    "pools of another type": (good(IPAM={"Config": {"Subnet": "10.1.0.0/16"}}), "IPAM Config"),
    "pool of another type": (good(IPAM={"Config": ["10.1.0.0/16"]}), "IPAM Config"),
    "two pools": (
        good(IPAM={"Config": [{"Subnet": "10.1.0.0/16"}, {"Subnet": "10.2.0.0/16"}]}),
        "at most one",
    ),
    "three pools": (good(IPAM={"Config": [{}, {}, {}]}), "at most one"),
    "key of a pool": (pool(Network="x"), "'Network'"),
    "no subnet": (good(IPAM={"Config": [{}]}), "Subnet"),
    "no pools": (good(IPAM={"Config": []}), "subnet='10.1.0.0/16'"),
    "subnet of another type": (pool(Subnet=10), "Subnet"),
    "no subnet's text": (pool(Subnet="10.1.0.0/16; rm -rf /"), "not a subnet"),
    "subnet with a zone": (good(IPAM={"Config": [{"Subnet": "fd00::%eth0/64"}]}), "not a subnet"),
    "everything": (pool(Subnet="0.0.0.0/0"), "too large"),
    "half of it": (pool(Subnet="128.0.0.0/1"), "too large"),
    "everything of IPv6": (pool(Subnet="::/0"), "too large"),
    "loopback": (pool(Subnet="127.0.0.0/8"), "not for containers"),
    "the resolver's": (pool(Subnet="169.254.53.0/24"), "not for containers"),
    "multicast": (pool(Subnet="224.1.0.0/16"), "not for containers"),
    "reserved": (pool(Subnet="250.0.0.0/8"), "not for containers"),
    "link-local of IPv6": (pool(Subnet="fe80::/64"), "not for containers"),
    "mapped": (pool(Subnet="::ffff:10.0.0.0/112"), "not for containers"),
    "other subnet than the row's": (pool(Subnet="10.9.0.0/16"), "subnet='10.1.0.0/16'"),
    "range outside": (pool(IPRange="10.2.0.0/24"), "not a part"),
    "range of another version": (pool(IPRange="fd00::/64"), "not a part"),
    "gateway outside": (pool(Gateway="10.2.0.1"), "not in the subnet"),
    "gateway of another type": (pool(Gateway=1), "Gateway"),
    "other gateway than the row's": (pool(Gateway="10.1.0.9"), "gateway_ip='10.1.0.1'"),
    "auxiliary outside": (pool(AuxiliaryAddresses={"a": "10.2.0.1"}), "not in the subnet"),
    "auxiliary of another type": (pool(AuxiliaryAddresses=["10.1.0.1"]), "AuxiliaryAddresses"),
    "many auxiliary": (
        pool(AuxiliaryAddresses={str(number): "10.1.0.5" for number in range(257)}),
        "257 AuxiliaryAddresses",
    ),
    "internal, and the row is not": (good(Internal=True), "ovn-docker:internal"),
    "a list": ([], "its definition"),
    "a number": ("1", "its definition"),
    "no JSON": ("{", "not valid JSON"),
    "deep JSON": ("[" * 60_000, "not valid JSON"),
    "deep name": ('{"Name":' + "[" * 900 + "]" * 900 + "}", "Name"),
    "a huge number": ('{"Name":' + "9" * 5000 + "}", "JSON"),
    "half a surrogate": ('{"Name": "\\ud800"}', "Name"),
    "long": (good(Labels={"a": "b" * 66_000}), "at most 65536"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_other_definitions_are_refused_in_one_printable_line(what: str) -> None:
    given, why = HOSTILE[what]
    with pytest.raises(Refused, match=why) as refused:
        read(given)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("name", ["", "bar", "foo\n", "../foo", "f" * 65, "-o", "\u202efoo"])
def test_row_is_valid_only_under_the_name_it_follows_from(name: str) -> None:
    with pytest.raises(Refused) as refused:
        read_definition(ROW, IDS | {"ovn-docker:name": name}, json.dumps(good(Name=name)))
    assert refused.value.refusal.part == "name"
    assert str(refused.value).isprintable()


def test_row_has_subnet_and_gateway_of_each_ip_version() -> None:
    given = good(
        EnableIPv6=True,
        IPAM={
            "Driver": "default",
            "Config": [
                {"Subnet": "10.1.0.0/16", "Gateway": "10.1.0.1"},
                {"Subnet": "fd01::/64", "Gateway": "fd01::1/64"},
            ],
        },
    )
    assert len(read(given, subnet6="fd01::/64", gateway_ip6="fd01::1").pools) == 2
    with pytest.raises(Refused, match="subnet6=''"):
        read(given)
    with pytest.raises(Refused, match="gateway_ip6='fd01::2'"):
        read(given, subnet6="fd01::/64", gateway_ip6="fd01::2")


def test_a_network_without_addresses_has_none_in_its_row() -> None:
    given = good(IPAM={"Driver": "null", "Config": [{"Subnet": "0.0.0.0/0"}]})
    assert read_definition(ROW, {"ovn-docker:name": "foo"}, json.dumps(given)).pools == ()
    with pytest.raises(Refused, match="subnet"):
        read(given)


SUBNETS = [ip_network("10.1.0.0/16")]


def linked(network: str) -> Occupied:
    return Occupied(ip_network(network), "eth0", linked=True)


@pytest.mark.parametrize(
    ("addresses", "networks", "why"),
    [
        (["10.1.0.5"], [], "10.1.0.5, a database's or this host's own"),
        ([], ["10.1.200.0/24"], "overlaps 10.1.200.0/24"),
        ([], ["10.0.0.0/8"], "overlaps 10.0.0.0/8"),
    ],
)
def test_subnet_in_use_on_this_host_is_refused(addresses: list[str], networks: list[str], why: str) -> None:
    with pytest.raises(Refused, match=why) as refused:
        check_subnets(SUBNETS, map(ip_address, addresses), [linked(network) for network in networks])
    assert refused.value.refusal.part == "subnet"


def test_unused_subnet_is_accepted() -> None:
    addresses = [ip_address("172.31.0.1"), ip_address("fd31::1")]
    behind_a_router = Occupied(SUBNETS[0], "eth0")
    check_subnets(SUBNETS, addresses, [linked("172.31.0.0/24"), linked("fd31::/64"), behind_a_router])


def test_prefix_length_of_dockers_gateway_is_removed() -> None:
    """Docker 20.10 writes IPv6 gateways so if the user gave no subnet, and refuses them in a request."""
    given = {"Subnet": "fd6f:766e::/64", "Gateway": "fd6f:766e::1/64"}
    network = {"Driver": "openvswitch", "Options": {"ovn.network": "foo"}, "EnableIPv6": True}
    (pool,) = of_docker({**network, "IPAM": {"Driver": "openvswitch", "Config": [given]}}, "foo").pools
    assert pool.request == {"Subnet": "fd6f:766e::/64", "Gateway": "fd6f:766e::1"}


RECORDED = json.loads((Path(__file__).parents[1] / "recordings/definitions.json").read_text())
"""Rows as version 0.1.0 wrote them, with Docker's own keys and values."""


@pytest.mark.parametrize(
    "ids", [one["external_ids"] for one in RECORDED], ids=lambda ids: str(ids["ovn-docker:name"])
)
def test_a_definition_of_the_first_version_is_read(ids: dict[str, str]) -> None:
    name, text = ids["ovn-docker:name"], ids["ovn-docker:definition"]
    parsed = read_definition(row_uuid("shared network", name), ids, text)
    former = json.loads(text)
    pools = former["IPAM"].pop("Config"), parsed.request["IPAM"].pop("Config")  # type: ignore[attr-defined]
    assert [pool["Subnet"] for pool in pools[1]] == [
        subnet for key in ("subnet", "subnet6") if (subnet := ids.get(key))
    ]
    request = parsed.request
    request["IPAM"].pop("Config")  # type: ignore[attr-defined]
    assert request == former
    assert definition.of_docker(json.loads(text), name) == parsed
