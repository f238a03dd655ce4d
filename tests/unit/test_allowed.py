"""Allowed addresses as users type them, and those that no container may have."""

from ipaddress import ip_address

import pytest

from ovn_docker import allowed, options
from ovn_docker.errors import BadRequest
from ovn_docker.model import check_allowed


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("10.1.0.100", "10.1.0.100"),
        ("10.1.0.100/32", "10.1.0.100"),
        ("10.1.0.128/28,10.1.0.100", "10.1.0.100,10.1.0.128/28"),
        ("10.1.0.100  10.1.0.101", "10.1.0.100,10.1.0.101"),
        ("00:00:5E:00:01:0A/10.1.0.100", "00:00:5e:00:01:0a/10.1.0.100"),
        ("00:00:5e:00:02:0a/fd01::64/128", "00:00:5e:00:02:0a/fd01::64"),
        ("FD01::/112", "fd01::/112"),
    ],
)
def test_equal_allowed_addresses_have_the_same_form(text: str, same: str) -> None:
    assert allowed.join(allowed.parse(text)) == same
    assert allowed.join(allowed.parse(same)) == same


@pytest.mark.parametrize(
    "text",
    [
        "", ",", "web", "10.1.0.1/24", "10.1.0.256", "0.0.0.0/0", "10.0.0.0/7", "224.0.0.18", "127.0.0.1",
        "255.255.255.255", "::", "ff02::1", "fe80::1%eth0", "00:00:5e:00:01:0a", "00:00:5e:00:01/10.1.0.1",
        "01:00:5e:00:00:12/10.1.0.1", "00:00:00:00:00:00/10.1.0.1", "10.1.0.1;10.1.0.2",
        ",".join(f"10.1.0.{n}" for n in range(65)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("parse", [options.parse, options.parse_endpoint])
def test_invalid_address_is_refused_with_the_valid_values(parse: object, text: str) -> None:
    with pytest.raises(BadRequest, match=r"option ovn\.allowed-addresses=.* is not valid: give .*"):
        parse({"ovn.allowed-addresses": text})  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("169.254.53.1", "the address of a name server"),
        ("169.254.53.0/24", "the address of a name server"),
        ("169.254.0.0/16", "the address of a name server"),
        ("10.1.0.0/30", "the gateway of the network"),
        ("fd01::1", "the gateway of the network"),
        ("0e:42:0a:01:00:02/10.1.0.100", "is a router's"),
    ],
)
def test_addresses_of_gateways_and_routers_are_refused(text: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        check_allowed(allowed.parse(text), [ip_address("10.1.0.1"), ip_address("fd01::1")])
