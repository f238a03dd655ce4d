"""`ovn-docker policy` as a command: its output, its refusals, its exit codes."""

import json
from collections.abc import Iterator

import pytest

from functional.machine import Machine
from ovn_docker.backends.ovn.rows import (
    ENDPOINTS,
    GROUP,
    GROUPS,
    NAME,
    POLICIES,
    PORT_GROUPS,
    QUIET_TABLE,
    SHARED_NETWORKS,
    SWITCH,
    group_row,
    policy_row,
)
from ovn_docker.backends.ovn.rows import RULES as STORED
from ovn_docker.definition import switch_row
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Reference
from ovn_docker.model import row_uuid

pytestmark = pytest.mark.slow

RULES = "# the\tshop \nrules:\n- allow: tcp/5432\n  from: web\n  to: db\n- drop: any\n"
SWITCH1 = switch_row("foo")


def transact(machine: Machine, *operations: ovsdb.Operation) -> None:
    said = machine.out(
        "ovsdb-client", "transact", "tcp:127.0.0.1:6641", json.dumps(["OVN_Northbound", *operations])
    )
    assert "error" not in said, said


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A host with the shared network `foo` in the northbound database, and a container in a group."""
    machine = Machine()
    machine.out("/usr/share/openvswitch/scripts/ovs-ctl", "start", "--system-id=here")
    machine.output("central", "start", "--address", "127.0.0.1")
    machine.out("ovs-vsctl", "set", "Open_vSwitch", ".", "external_ids:ovn-nb=tcp:127.0.0.1:6641")
    ids = {NAME: "foo", "subnet": "10.1.0.0/16", "ovn-docker:policy": "deny"}
    port, of_port = (
        row_uuid("endpoint", "c1" * 32),
        {"ovn-docker:container": "front", "ovn-docker:host": "here"},
    )
    transact(
        machine,
        SHARED_NETWORKS.insert(SWITCH1, ids, name="foo", ports=[Reference(port)]),
        ENDPOINTS.insert(
            port,
            {"ovn-docker:endpoint": "c1" * 32, SWITCH: SWITCH1, GROUPS: "web", **of_port},
            name="c1" * 32,
            addresses=["02:42:0a:01:00:02 10.1.0.2"],
        ),
        PORT_GROUPS.insert(
            group_row(SWITCH1, "web"), {SWITCH: SWITCH1, GROUP: "web"}, name="web_x", ports=[Reference(port)]
        ),
    )
    yield machine
    machine.close()


@pytest.fixture
def file(machine: Machine) -> str:
    """The rules in a file on the machine."""
    write(machine, RULES)
    return "/run/policy.yaml"


def write(machine: Machine, text: str) -> None:
    machine.out("sh", "-c", 'printf %s "$1" > /run/policy.yaml', "sh", text)


def test_rules_are_set_shown_exported_and_compared(machine: Machine, file: str) -> None:
    assert "would have 2 rules" in machine.output("policy", "set", "foo", "-f", file, "--dry-run")
    assert machine.output("policy", "show", "foo") == "default: deny\n"
    said = machine.output("policy", "set", "foo", "-f", file)
    assert said.splitlines() == [
        "+allow tcp/5432 from web to db",
        "+drop any",
        "note: no container belongs to group db yet",
        "network foo has 2 rules",
    ]
    shown = machine.output("policy", "show", "foo").splitlines()
    assert shown == ["line 3: allow tcp/5432 from web to db", "line 6: drop any", "default: deny"]
    assert machine.output("policy", "export", "foo") == RULES
    assert machine.output("policy", "diff", "foo", "-f", file) == ""
    write(machine, RULES.replace("5432", "3306"))
    changed = machine.ovn_docker("policy", "diff", "foo", "-f", file)
    assert (changed.returncode, changed.stdout.splitlines()) == (
        1, ["-allow tcp/5432 from web to db", "+allow tcp/3306 from web to db"],
    )  # fmt: skip
    machine.output("policy", "set", "foo", "--clear")
    assert machine.output("policy", "export", "foo") == "rules: []\n"


def test_the_answer_about_a_packet_has_the_rule(machine: Machine, file: str) -> None:
    machine.output("policy", "set", "foo", "-f", file)
    for words, code, said in (
        (("front", "db", "tcp/5432"), 0, "yes: line 3: allow tcp/5432 from web to db"),
        (("web", "db", "tcp/5432"), 0, "yes: line 3: allow tcp/5432 from web to db"),
        (("db", "here/front", "tcp/5432"), 1, "no: line 6: drop any"),
        (("front", "192.0.2.1"), 1, "no: line 6: drop any"),
    ):
        answer = machine.ovn_docker("policy", "test", *words)
        assert (answer.returncode, answer.stdout.strip()) == (code, said), answer
    machine.output("policy", "set", "foo", "--clear")
    answer = machine.ovn_docker("policy", "test", "front", "10.1.0.9", "udp/53", "--json")
    assert answer.returncode == 1
    assert (
        json.loads(answer.stdout)["answers"][0]["because"] == "the default of network foo (ovn.policy=deny)"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set", "foo", "-f", "/run/none.yaml"), "cannot read /run/none.yaml: No such file or directory"),
        (("set", "nothing", "--clear"), "no network 'nothing'"),
        (("test", "front", "nobody"), "'front' and 'nobody' are not both on any network"),
        (("test", "front", "db", "tcp"), "packet tcp has not one port: give one, such as tcp/80"),
        (
            ("test", "front", "db", "http"),
            "invalid packet 'http': give icmp, or tcp, udp or sctp",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(machine: Machine, words: tuple[str, ...], said: str) -> None:
    assert said in machine.refusal("policy", *words)[1]


def test_an_invalid_file_is_refused_with_its_line(machine: Machine) -> None:
    write(machine, "rules:\n- allow: tcp/http\n")
    code, said = machine.refusal("policy", "set", "foo", "-f", "/run/policy.yaml")
    assert code == 2
    assert "/run/policy.yaml: line 2: allow: 'tcp/http' is not a service" in said


def test_the_schema_is_json(machine: Machine) -> None:
    assert json.loads(machine.output("policy", "schema"))["title"]


def test_a_forged_text_is_not_printed(machine: Machine, file: str) -> None:
    machine.output("policy", "set", "foo", "-f", file)
    ids = POLICIES.ids({SWITCH: SWITCH1, STORED: "\x1b[2J"})
    transact(machine, ovsdb.update(QUIET_TABLE, ovsdb.is_row(policy_row(SWITCH1)), external_ids=ids))
    for command in ("show", "export"):
        said = machine.refusal("policy", command, "foo")[1]
        assert "the stored rules of network foo are not valid" in said
        assert "\x1b" not in said
    assert "network foo has 0 rules" in machine.output("policy", "set", "foo", "--clear")
    assert machine.output("policy", "show", "foo") == "default: deny\n"
