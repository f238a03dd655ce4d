"""Choice of a subnet for a user who does not give one."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_docker.errors import BadRequest
from ovn_docker.settings import Settings, read
from ovn_docker.supply import Supply, parse_supplies

BASE = ip_network("10.192.0.0/24")


def subnets(base: str) -> Any:
    """Networks in and around *base*."""
    network = ip_network(base)
    around = network.supernet(1)
    width = network.max_prefixlen
    return st.tuples(st.integers(0, around.num_addresses - 1), st.integers(around.prefixlen - 2, width)).map(
        lambda pair: ip_network((int(around[0]) + pair[0], pair[1]), strict=False)
    )


@given(
    st.lists(subnets("10.192.0.0/24") | subnets("fd00::/120"), max_size=20),
    st.sampled_from(["10.192.0.0/24", "fd00::/120"]),
    st.integers(0, 6),
)
def test_pick_finds_a_free_subnet_if_there_is_one(taken: Any, base: str, more: int) -> None:
    supply = Supply(ip_network(base), ip_network(base).prefixlen + more)
    free = {
        subnet
        for subnet in supply.base.subnets(more)
        if not any(subnet.version == other.version and subnet.overlaps(other) for other in taken)
    }
    picked = supply.pick(taken)
    assert picked in free if free else picked is None


def test_every_free_subnet_may_be_picked() -> None:
    supply = Supply(BASE, 27)
    picked = {str(supply.pick([ip_network("10.192.0.64/26")])) for _ in range(300)}
    assert picked == {f"10.192.0.{n}/27" for n in (0, 32, 128, 160, 192, 224)}


def test_largest_supply_is_usable() -> None:
    (supply,) = parse_supplies("::/0:126")
    picked = supply.pick([ip_network("8000::/1")])
    assert picked
    assert picked.prefixlen == 126
    assert picked.subnet_of(ip_network("::/1"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8:24", "10.0.0.0/24:24", "fd00::/48:64", "10.0.0.0/8:30, fd00::/8:126"]
)
def test_supplies_are_parsed_from_settings(text: str) -> None:
    supplies = read(Settings, {"address_pools": text}, {}).address_pools
    assert ",".join(map(str, supplies)) == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.0.0.0/8", "give networks and prefix lengths, such as 10.192.0.0/12:24,fd00:1::/48:64"),
        ("10.0.0.0:24", "give networks"),
        ("10.0.0.5/8:24", "give networks"),
        ("10.0.0.0/8:x", "give networks"),
        ("10.0.0.0/8:24,,", "give networks"),
        ("fd00::/48", "give networks"),
        ("10.0.0.0/24:8", "give a prefix length from 24 to 30"),
        ("10.0.0.0/24:31", "give a prefix length from 24 to 30"),
        ("fd00::/64:127", "give a prefix length from 64 to 126"),
    ],
)
def test_invalid_supply_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(Settings, {"address_pools": text}, {})
    assert str(caught.value).startswith(f"--address-pools={text!r} is not valid: {words}")


def test_default_supplies_have_subnets_of_both_ip_versions() -> None:
    assert {supply.base.version for supply in Settings().address_pools} == {4, 6}
