"""One member of dockerd's configuration file is changed, everything else in the file stays."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_docker.errors import BadRequest
from ovn_docker.setup.docker_config import differences, parse_config, with_member, without_member

FILE = Path("/etc/docker/daemon.json")
SERVERS = ["169.254.53.1", "169.254.53.2", "10.0.0.53"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text() | st.just("dns"), JSON, max_size=5)
INDENTATIONS = st.sampled_from([None, 0, 2, 4, "\t"])


@given(OBJECTS, INDENTATIONS, st.booleans(), st.lists(st.ip_addresses().map(str), max_size=4))
def test_any_object_keeps_its_other_members(config, indentation, plain, servers):
    text = json.dumps(config, indent=indentation, ensure_ascii=plain)
    changed = with_member(text, "dns", servers, FILE)
    assert list(json.loads(changed).items()) == list((config | {"dns": servers}).items())
    others = [item for item in config.items() if item[0] != "dns"]
    assert list(json.loads(without_member(changed, "dns", FILE)).items()) == others


@given(OBJECTS, INDENTATIONS)
def test_new_member_can_be_taken_away_without_a_trace(config, indentation):
    config.pop("dns", None)
    text = json.dumps(config, indent=indentation)
    assert without_member(with_member(text, "dns", SERVERS, FILE), "dns", FILE) == text


@given(OBJECTS, INDENTATIONS)
def test_change_is_idempotent(config, indentation):
    once = with_member(json.dumps(config, indent=indentation), "dns", SERVERS, FILE)
    assert with_member(once, "dns", SERVERS, FILE) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '{\n    "dns": [\n        "10.0.0.1"\n    ]\n}\n'),
        ("{}\n", '{\n    "dns": [\n        "10.0.0.1"\n    ]\n}\n'),
        ('{"mtu": 1400}', '{"mtu": 1400, "dns": ["10.0.0.1"]}'),
        ('{\n  "mtu": 1e3\n}\n', '{\n  "mtu": 1e3,\n  "dns": [\n    "10.0.0.1"\n  ]\n}\n'),
        ('{\n\t"dns": [],\n\t"mtu": 9\n}', '{\n\t"dns": [\n\t\t"10.0.0.1"\n\t],\n\t"mtu": 9\n}'),
        ('{\r\n "a": {"dns": 1}\r\n}', '{\r\n "a": {"dns": 1},\n "dns": [\n  "10.0.0.1"\n ]\r\n}'),
    ],
)
def test_change_keeps_the_style_of_the_file(text, expected):
    assert with_member(text, "dns", ["10.0.0.1"], FILE) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"mtu": 1400,}', "it is not JSON (line 1)"),
        ('{\n// a comment\n"mtu": 1400}', "it is not JSON (line 2)"),
        ('{"a": NaN}', "it is not JSON"),
        ('{"a":' * 100_000, "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ("null", "it is not a JSON object"),
        ("\0", "it is not JSON (line 1)"),
        ('{"dns": [], "\\u0064ns": []}', "it has 'dns' twice"),
    ],
    ids=lambda text: text[:16],
)
def test_invalid_file_is_refused_with_one_line(text, why):
    with pytest.raises(BadRequest) as refused:
        with_member(text, "dns", SERVERS, FILE)
    assert str(refused.value) == f"{FILE} cannot be changed: {why}; correct it, then run this again"


@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_file_is_an_empty_object(text):
    assert parse_config(text, FILE) == {}


def test_differences_have_the_lines_around_the_change():
    lines = differences('{\n  "a": 1\n}\n', '{\n  "a": 1,\n  "b": []\n}\n', FILE)
    assert lines == [
        f"--- {FILE}", f"+++ {FILE}", "@@ -1,3 +1,4 @@", " {", '-  "a": 1', '+  "a": 1,', '+  "b": []', " }",
    ]  # fmt: skip
