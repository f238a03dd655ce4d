"""The language of rules: words, one line, files, and the JSON schema."""

import json
from contextlib import suppress
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovn_docker import options
from ovn_docker.errors import BadRequest
from ovn_docker.model import IpAddress
from ovn_docker.policy import group_names, rule_files
from ovn_docker.policy.language import (
    Action,
    End,
    GroupEnd,
    Place,
    PolicyRule,
    PolicyService,
    join_short,
    parse_short,
)
from ovn_docker.policy.matching import BEYOND, matches, outside
from ovn_docker.policy.rule_files import PolicyInvalid
from ovn_docker.policy.verdict import Peer, deciding

SHOP = """\
# a shop
rules:
  - allow: [tcp/80, tcp/443]
    to: web
  - allow: tcp/5432
    from: web
    to: [db, fd01::5]
  - reject: any
    from: outside
"""

groups = st.from_regex("[A-Za-z][A-Za-z0-9_-]{0,31}", fullmatch=True).filter(group_names.is_group)
ends: st.SearchStrategy[End] = st.one_of(
    groups.map(GroupEnd),
    st.sampled_from(Place),
    st.ip_addresses(v=4).map(ip_network),
    st.tuples(st.ip_addresses(v=6), st.integers(8, 128))
    .map(lambda pair: ip_network(pair, strict=False))
    .filter(lambda net: net.network_address.ipv4_mapped is None),
)
ports = st.integers(1, 65535)
a_service = st.one_of(
    st.just(PolicyService("icmp")),
    st.builds(PolicyService, st.sampled_from(["tcp", "udp", "sctp"])),
    st.builds(
        lambda protocol, one, other: PolicyService(protocol, min(one, other), max(one, other)),
        st.sampled_from(["tcp", "udp", "sctp"]), ports, ports,
    ),
)  # fmt: skip


def some(of: st.SearchStrategy[End], least: int = 0) -> st.SearchStrategy[tuple[End, ...]]:
    return st.lists(of, min_size=least, max_size=4, unique=True).map(tuple)


services = st.lists(a_service, max_size=4, unique=True).map(tuple)
rules = st.builds(PolicyRule, st.sampled_from(Action), services, some(ends), some(ends))


@settings(max_examples=30)
@given(st.lists(rules, max_size=6).map(tuple))
def test_a_written_file_is_read_as_the_same_rules(written: tuple[PolicyRule, ...]) -> None:
    assert tuple(one.rule for one in rule_files.parse(rule_files.write(written))) == written


@settings(max_examples=30)
@given(
    st.lists(
        st.builds(PolicyRule, st.just(Action.ALLOW), services, some(ends), some(ends, 1)),
        min_size=1,
        max_size=4,
    )
)
def test_rules_in_one_line_are_read_as_they_were_written(written: list[PolicyRule]) -> None:
    assert parse_short(join_short(written)) == tuple(written)


@given(st.text())
def test_any_text_is_rules_or_a_policy_error(text: str) -> None:
    for parse in (rule_files.parse, parse_short):
        with suppress(ValueError):
            assert all(map(str, parse(text)))


def test_rules_have_the_lines_that_they_begin_on() -> None:
    assert [str(one) for one in rule_files.parse(SHOP)] == [
        "line 3: allow tcp/80,tcp/443 to web",
        "line 5: allow tcp/5432 from web to db,fd01::5/128",
        "line 8: reject any from outside",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rules: write `rules:`"),
        ("rules", "line 1: the rules of a network must be a mapping with the keys rules"),
        ("rules: 7", "line 1: rules must be a list"),
        ("rule: []", "line 1: unknown key 'rule': known are rules"),
        ("rules: []\nrules: []", "line 2: key rules is there twice"),
        ("rules:\n- allow: any\n  allow: any", "line 3: key allow is there twice"),
        ("rules:\n- from: web", "line 2: a rule has neither allow, drop nor reject"),
        ("rules:\n- allow: any\n  drop: any", "line 2: a rule has allow and drop in one rule"),
        ("rules:\n- allow: any\n  form: web", "line 3: unknown key 'form': known are allow, drop, reject"),
        ("rules:\n- allow: tcp/http", "line 2: allow: 'tcp/http' is not a service: give any, icmp"),
        ("rules:\n- allow: tcp/90-80", "line 2: allow: tcp/90-80 has no such ports"),
        ("rules:\n- allow: tcp/65536", "line 2: allow: tcp/65536 has no such ports"),
        ("rules:\n- allow: icmp/8", "line 2: allow: 'icmp/8' is not a service"),
        ("rules:\n- allow: any\n  to: 10.1.0.1/16", "line 3: to: '10.1.0.1/16' is neither a group"),
        ("rules:\n- allow: any\n  to: ::ffff:10.1.0.1", "line 3: to: ::ffff:10.1.0.1 is an IPv4 address"),
        ("rules:\n- allow: any\n  to: []", "line 3: to: give a group"),
        ("rules:\n- allow: any\n  to: {a: b}", "line 3: to must be a word, or a list of words"),
        ("rules:\n- &x {allow: any}\n- *x", "line 3: alias *x: write it out instead"),
        ("rules:\n- allow: [", "line 2: not valid YAML"),
        ("rules: !!python/object:os.system {}", "rules must be a list"),
        ("\x00", "not valid YAML"),
        ("[" * 30000, "line 1: more than 4 levels: see"),
        ("#" * 70000, "the rules have more than 65536 bytes"),
        ("rules:\n" + "- allow: any\n" * 501, "501 rules: give at most 500"),
        (f"rules:\n- allow: [{', '.join(['tcp'] * 33)}]", "33 words in one list"),
    ],
)  # fmt: skip
def test_an_invalid_file_is_refused_with_the_line_and_the_cure(text: str, said: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        rule_files.parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scalars_are_names_as_they_are_written() -> None:
    (one,) = rule_files.parse("rules:\n- allow: any\n  from: no\n  to: [on, null]")
    assert str(one.rule) == "allow any from no to on,null"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        ";",
        "web",
        ":tcp/80",
        "web:",
        "web tcp/80",
        "from web from db:any",
        "a:b:tcp",
        "ü:any",
        "web:tcp\n",
    ],
)
def test_invalid_rules_in_one_line_are_refused(bad: str) -> None:
    with pytest.raises(BadRequest, match=r"option ovn\.allow=.*give "):
        options.parse({"ovn.allow": bad})


def test_rules_in_one_line() -> None:
    found = options.parse({"ovn.allow": "web:tcp/80; db from web, fd01::/64:tcp/5432;from web:icmp;"})
    assert [str(rule) for rule in found.rules[:2]] == [
        "allow tcp/80 to web", "allow tcp/5432 from web,fd01::/64 to db",
    ]  # fmt: skip
    assert str(found.rules[2]) == "allow icmp from web"


def test_rules_in_one_line_are_few() -> None:
    many = ",".join(f"g{n}" for n in range(9))
    for text in (";".join(["web:any"] * 17), f"{many} from {many}:any"):
        with pytest.raises(BadRequest, match="more fit into a file"):
            options.parse({"ovn.allow": text})


def test_the_schema_has_the_keys_of_the_language() -> None:
    schema = rule_files.schema()
    json.dumps(schema)
    rule = schema["properties"]["rules"]["items"]
    assert [*rule["properties"]] == ["allow", "drop", "reject", "from", "to"]
    assert {one["required"][0] for one in rule["oneOf"]} == set(Action)


SUBNETS = (ip_network("10.1.0.0/16"), ip_network("fd01::/64"))


def found(text: str, *subnets: str) -> list[tuple[str, str]]:
    """The matches of the only rule in *text*, leaving and arriving."""
    (one,) = rule_files.parse(f"rules:\n- {text}")
    nets = [ip_network(subnet) for subnet in subnets]
    return [(match.leaving, match.arriving) for match in matches(one.rule, nets, lambda group: f"G{group}")]


def test_the_end_at_hand_is_matched_by_its_port_and_the_other_by_its_address() -> None:
    assert found("{allow: tcp/80, from: web, to: db}", "10.1.0.0/16") == [
        ("ip4 && inport == @Gweb && ip4.dst == $Gdb_ip4 && tcp.dst == 80",
         "ip4 && ip4.src == $Gweb_ip4 && outport == @Gdb && tcp.dst == 80"),
    ]  # fmt: skip


def test_each_group_has_matches_of_its_own() -> None:
    both = found("{drop: any, from: [web, api, 10.1.0.5], to: 10.1.0.6}", "10.1.0.0/16")
    assert [leaving for leaving, _ in both] == [
        "ip4 && inport == @Gweb && ip4.dst == 10.1.0.6",
        "ip4 && inport == @Gapi && ip4.dst == 10.1.0.6",
        "ip4 && ip4.src == 10.1.0.5 && ip4.dst == 10.1.0.6",
    ]


def test_an_address_is_matched_in_its_own_ip_version() -> None:
    (v6,) = found("{allow: icmp, from: all, to: fd01::7}", "10.1.0.0/16", "fd01::/64")
    assert v6[0] == "ip6 && ip6.src == {fd01::/64, fe80::/10} && ip6.dst == fd01::7 && icmp6"
    assert found("{allow: icmp, to: fd01::7}", "10.1.0.0/16") == []


def test_what_forbids_applies_to_link_local_addresses_too() -> None:
    assert [leaving.split()[0] for leaving, _ in found("{drop: any}", "10.1.0.0/16")] == ["ip4", "ip6"]
    assert [leaving.split()[0] for leaving, _ in found("{allow: any}", "10.1.0.0/16")] == ["ip4"]


def test_each_protocol_has_matches_of_its_own() -> None:
    ways = found("{allow: [tcp/80-90, udp, tcp/443, icmp], to: 10.1.0.6}", "10.1.0.0/16")
    assert [leaving.removeprefix("ip4 && ip4.dst == 10.1.0.6 && ") for leaving, _ in ways] == [
        "(80 <= tcp.dst <= 90 || tcp.dst == 443)", "udp", "icmp4",
    ]  # fmt: skip


WEB, DB = Peer(ip_address("10.1.0.2"), frozenset({"web"})), Peer(ip_address("10.1.0.3"), frozenset({"db"}))


@pytest.mark.parametrize(
    ("source", "target", "service", "index"),
    [
        (WEB, DB, PolicyService("tcp", 5432, 5432), 1),
        (DB, WEB, PolicyService("tcp", 5432, 5432), None),
        (DB, WEB, PolicyService("tcp", 443, 443), 0),
        (WEB, DB, PolicyService("udp", 5432, 5432), None),
        (Peer(ip_address("192.0.2.1")), DB, PolicyService("icmp"), 2),
        (Peer(ip_address("224.0.0.1")), DB, PolicyService("icmp"), None),
        (Peer(None, frozenset({"web"})), DB, PolicyService("tcp", 5432, 5432), 1),
        (Peer(None, place=Place.OUTSIDE), DB, PolicyService("icmp"), 2),
    ],
)
def test_the_first_rule_that_a_packet_fits_decides(
    source: Peer, target: Peer, service: PolicyService, index: int | None
) -> None:
    written = [one.rule for one in rule_files.parse(SHOP)]
    assert deciding(written, SUBNETS, source, target, service) == index


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_outside_is_each_address_that_is_not_the_networks_nor_special(address: IpAddress) -> None:
    special = [*SUBNETS, *BEYOND]
    nets = outside([net for net in SUBNETS if net.version == address.version], address.version)
    assert any(address in net for net in nets) is not any(address in net for net in special)
    assert len(nets) < 100
