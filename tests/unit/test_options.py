"""The options of ``docker network create -o``."""

import pytest

from ovn_docker import options
from ovn_docker.errors import BadRequest
from ovn_docker.options import NetworkOptions

MTU = "com.docker.network.driver.mtu"


def test_options_have_their_defaults() -> None:
    assert options.parse({}) == NetworkOptions(mtu=None, switch=None)


@pytest.mark.parametrize("mtu", [68, 1442, 65535])
def test_mtu_is_a_number(mtu: int) -> None:
    assert options.parse({MTU: str(mtu)}).mtu == mtu


def test_switch_may_have_any_printable_name() -> None:
    assert options.parse({"ovn.switch": "my switch ü"}).switch == "my switch ü"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "67",
        "65536",
        "001500000000",
        "-1500",
        "1500.0",
        "0x5dc",
        "\uff11\uff15\uff10\uff10",
        "9" * 10_000,
        1500.5,
        None,
        [],
    ],
)
def test_invalid_mtu_is_refused_with_the_valid_values(bad: object) -> None:
    with pytest.raises(
        BadRequest, match=f"option {MTU}=.* is not valid: give a number of bytes from 68 to 65535"
    ):
        options.parse({MTU: bad})


@pytest.mark.parametrize("bad", ["", "a\nb", "\0"])
def test_invalid_switch_is_refused_with_the_command_that_lists_switches(bad: str) -> None:
    with pytest.raises(BadRequest, match="ovn-nbctl ls-list"):
        options.parse({"ovn.switch": bad})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ovn.swich", "ovn.switch"),
        ("switch", "ovn.switch"),
        ("com.docker.network.mtu", MTU),
        ("com.docker.network.driver.MTU", MTU),
    ],
)
def test_misspelt_option_names_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(BadRequest, match=rf"unknown option '{typed}': did you mean {meant}\?"):
        options.parse({typed: "x"})


@pytest.mark.parametrize("table", [options.OPTIONS, options.UNDERLAY])
@pytest.mark.parametrize(
    "key",
    [
        "com.docker.network.bridge.name",
        "com.docker.network.bridge.enable_icc",
        "com.docker.network.container_iface_prefix",
        "com.docker.network.enable_ipv6",
    ],
)
def test_options_of_dockers_other_drivers_are_ignored(key: str, table: tuple[options.Option, ...]) -> None:
    """Compose files that were written for the bridge driver have them."""
    assert options.is_of_others(key, table)
    assert options.parse({key: "x", MTU: "1400"}, table) == options.parse({MTU: "1400"}, table)


def test_known_and_unknown_options_do_not_belong_to_other_drivers() -> None:
    assert not any(options.is_of_others(key) for key in (MTU, "ovn.network", "ovn.nonsense", "encrypted"))


def test_error_for_an_option_without_a_similar_one_names_all_options() -> None:
    names = ("allow", "allowed-addresses", "multicast", "names", "network", "policy", "port-security")
    known = ", ".join((MTU, *(f"ovn.{name}" for name in (*names, "routers", "switch"))))
    with pytest.raises(BadRequest, match=f"unknown option 'xyzzy': known options: {known}"):
        options.parse({"xyzzy": "x"})


def test_one_unknown_option_makes_the_request_fail() -> None:
    with pytest.raises(BadRequest, match="'flag'"):
        options.parse({MTU: "1400", "flag": ""})


def test_message_is_one_short_line_whatever_is_given() -> None:
    for given in ({"k\n" * 100_000: "v"}, {MTU: "v\n" * 100_000}):
        with pytest.raises(BadRequest) as refusal:
            options.parse(given)
        assert len(str(refusal.value)) < 400
        assert "\n" not in str(refusal.value)


def test_every_option_is_documented_and_fills_a_field_of_its_own() -> None:
    fields = set()
    for table in (options.OPTIONS, options.UNDERLAY):
        assert len({option.field for option in table}) == len({option.key for option in table}) == len(table)
        assert all(option.help and option.default for option in table)
        fields |= {option.field for option in table}
    assert fields == set(NetworkOptions.__slots__)


def test_options_of_the_other_mode_are_refused_by_name() -> None:
    with pytest.raises(BadRequest, match=r"ovn\.security-groups is for the underlay mode, and this driver"):
        options.parse({"ovn.security-groups": "web"})


def test_multicast_is_snooped_only_if_asked_for() -> None:
    assert not options.parse({"ovn.multicast": "flood"}).snoop
    assert options.parse({"ovn.multicast": "snoop"}).snoop


@pytest.mark.parametrize("bad", ["", "on", "SNOOP", "snoop "])
def test_invalid_multicast_is_refused_with_the_valid_values(bad: str) -> None:
    with pytest.raises(BadRequest, match=f"option ovn.multicast='{bad}' is not valid: give flood or snoop"):
        options.parse({"ovn.multicast": bad})


def test_names_can_be_turned_off_on_a_shared_network_only() -> None:
    assert options.parse({"ovn.network": "foo"}).names
    assert not options.parse({"ovn.network": "foo", "ovn.names": "off"}).names
    with pytest.raises(BadRequest, match=r"ovn\.names is for shared networks: give ovn\.network=NAME, too"):
        options.parse({"ovn.names": "off"})


@pytest.mark.parametrize(
    "other",
    [{"ovn.network": "foo"}, {"ovn.multicast": "snoop"}, {"ovn.policy": "deny"}],
)
def test_switch_of_the_user_excludes_options_that_change_the_switch(other: dict[str, str]) -> None:
    (key,) = other
    with pytest.raises(BadRequest, match=f"options {key} and ovn.switch exclude each other"):
        options.parse({"ovn.switch": "mine", **other})


def test_security_groups_are_a_list() -> None:
    parsed = options.parse({"ovn.security-groups": "web, db,,web"}, options.UNDERLAY)
    assert parsed.security_groups == ("web", "db")


@pytest.mark.parametrize("bad", ["", " , ", "a\0b"])
def test_invalid_security_groups_are_refused_with_the_command_that_lists_them(bad: str) -> None:
    with pytest.raises(BadRequest, match="openstack security group list"):
        options.parse({"ovn.security-groups": bad}, options.UNDERLAY)


def test_neutron_network_may_have_any_printable_name() -> None:
    assert options.parse({"ovn.switch": "my network ü"}, options.UNDERLAY).switch == "my network ü"
    with pytest.raises(BadRequest, match="openstack network list"):
        options.parse({"ovn.switch": "x" * 256}, options.UNDERLAY)


def test_groups_of_a_container_are_separated_by_spaces_or_commas() -> None:
    assert options.parse_endpoint({"ovn.groups": "web monitored"}).groups == ("monitored", "web")
    assert options.parse_endpoint({"ovn.groups": "web,web, db-1"}).groups == ("db-1", "web")
    assert options.parse_endpoint({}).groups == ()


@pytest.mark.parametrize("bad", ["", " ", "all", "web outside", "1st", "a.b", "web;db", "ü", "x" * 33])
def test_invalid_group_is_refused(bad: str) -> None:
    with pytest.raises(BadRequest, match=r"option ovn\.groups="):
        options.parse_endpoint({"ovn.groups": bad})


def test_more_groups_than_a_container_may_have_are_refused() -> None:
    with pytest.raises(BadRequest, match="1 to 16 groups"):
        options.parse_endpoint({"ovn.groups": " ".join(f"g{n}" for n in range(17))})


def test_groups_are_for_the_overlay_mode() -> None:
    with pytest.raises(BadRequest, match=r"ovn\.groups is for the overlay mode"):
        options.parse_endpoint({"ovn.groups": "web"}, options.UNDERLAY_ENDPOINT)


def test_policy_is_open_unless_deny_is_asked_for() -> None:
    assert not options.parse({}).deny
    assert not options.parse({"ovn.policy": "open"}).deny
    assert options.parse({"ovn.policy": "deny"}).deny
    with pytest.raises(BadRequest, match="give open or deny"):
        options.parse({"ovn.policy": "closed"})
