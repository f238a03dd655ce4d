"""The written rules of networks in the northbound database."""

from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from functional.conftest import Connect
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.backends.ovn import acls, policies
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.repair.remake import MissingRows
from ovn_docker.backends.ovn.rows import (
    ACLS,
    POLICIES,
    QUIET_TABLE,
    RULES,
    SWITCH,
    kind_of,
    policy_row,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, NotFound, OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Reference
from ovn_docker.model import Chassis, Kind, Network, NetworkId, Subnet, row_uuid
from ovn_docker.options import NetworkOptions
from ovn_docker.policy.language import parse_short
from ovn_docker.policy.rule_files import PolicyInvalid

NET = NetworkId("ad" * 32)
SUBNETS = (Subnet(ip_network("10.1.0.0/24"), ip_address("10.1.0.1")),)
HOST1 = Chassis("host1", (), (ip_address("10.0.0.1"),), ("geneve",), "br-int", "system")
FIRST = "# the shop\nrules:\n- allow: tcp/80\n  to: web\n- drop: any\n  from: [web, api]\n"
SECOND = "rules:\n- allow: tcp/80\n  to: web\n- allow: tcp/5432\n  from: web\n  to: db\n"


def soon() -> Deadline:
    return Deadline(20)


class Site:
    """A network, with the option `ovn.policy=deny` or without it."""

    def __init__(self, server: OvsdbServer, database: Database, name: str | None, **options: Any) -> None:
        self.server, self.database = server, database
        self.overlay = Overlay(lambda _: database)
        self.switch = row_uuid("shared network", name) if name else row_uuid("network", NET)
        given = NetworkOptions(name=name, **options)
        self.record = self.overlay(HOST1).create_network(Network(NET, SUBNETS, options=given), soon())

    def read(self) -> policies.StoredPolicy:
        return policies.read(self.database, self.switch, soon())

    def write(self, text: str) -> None:
        policies.write(self.database, self.read(), text, soon())

    @property
    def acls(self) -> list[tuple[int, str, str, str]]:
        """Priority, direction, match and action of the rules that the switch refers to, highest first."""
        (row,) = (one for one in self.server.rows("Logical_Switch") if one["_uuid"] == self.switch)
        there = {one["_uuid"]: one for one in self.server.rows("ACL")}
        found = (there[uuid] for uuid in row.members("acls"))
        columns = ("priority", "direction", "match", "action")
        return sorted((tuple(one[column] for column in columns) for one in found), reverse=True)

    @property
    def rules(self) -> list[tuple[int, str]]:
        """Priority and action of the rules that are not the network's own."""
        own = {acl.priority for acl in (*acls.BASE, *acls.DENY)}
        return sorted({(acl[0], acl[3]) for acl in self.acls if acl[0] not in own}, reverse=True)


@pytest.fixture(params=[None, "foo"], ids=["local", "shared"])
def site(request: pytest.FixtureRequest, northbound: OvsdbServer, connect: Connect) -> Site:
    return Site(northbound, connect(northbound), request.param)


@pytest.fixture
def closed(northbound: OvsdbServer, connect: Connect) -> Site:
    return Site(northbound, connect(northbound), "foo", deny=True, rules=parse_short("web:udp/53"))


def test_rules_are_stored_with_their_text_and_replaced_as_a_whole(site: Site) -> None:
    assert site.read().text == ""
    site.write(FIRST)
    assert site.read().text == FIRST
    assert site.rules == [(32000, "allow-related"), (31999, "drop")]
    site.write(SECOND)
    assert site.read().text == SECOND
    assert site.rules == [(32000, "allow-related"), (31999, "allow-related")]
    site.write("")
    assert site.acls == []
    assert (site.server.rows("ACL"), site.read().text) == ([], "")


def test_every_row_has_the_uuid_that_follows_from_it(site: Site) -> None:
    site.write(FIRST)
    for row in site.server.rows("ACL"):
        assert kind_of("ACL", row) is ACLS
        assert ACLS.uuid(row) == row["_uuid"]
    (row,) = (one for one in site.server.rows(QUIET_TABLE) if kind_of(QUIET_TABLE, one) is POLICIES)
    assert row["_uuid"] == POLICIES.uuid(row) == policy_row(site.switch)


def test_the_same_rules_again_change_nothing(site: Site) -> None:
    site.write(FIRST)
    before = site.acls
    site.write(FIRST)
    assert site.acls == before


def test_rules_of_a_file_come_before_those_of_the_option_and_the_default(closed: Site) -> None:
    closed.write(FIRST)
    assert closed.rules == [(32000, "allow-related"), (31999, "drop"), (16000, "allow-related")]
    assert [text for text, _ in closed.read().rules] == [
        "line 3: allow tcp/80 to web",
        "line 5: drop any from web,api",
        "option ovn.allow: allow udp/53 to web",
    ]
    closed.write("")
    assert closed.rules == [(16000, "allow-related")]
    assert {acl[3] for acl in closed.acls if acl[0] == 0} == {"drop"}


def test_rules_of_the_user_on_the_switch_stay(site: Site) -> None:
    users = row_uuid("a rule of the user")
    rule = ovsdb.insert("ACL", users, priority=7, direction="to-lport", match="ip", action="allow")
    site.server.transact(rule, ovsdb.update("Logical_Switch", acls=[Reference(users)]))
    site.write(FIRST)
    site.write("")
    assert site.acls == [(7, "to-lport", "ip", "allow")]


def test_rules_that_somebody_has_changed_meanwhile_are_not_overwritten(site: Site) -> None:
    before = site.read()
    site.write(FIRST)
    with pytest.raises(Conflict, match="somebody has changed the rules"):
        policies.write(site.database, before, SECOND, soon())
    assert site.read().text == FIRST


def test_an_invalid_text_changes_nothing(site: Site) -> None:
    site.write(FIRST)
    with pytest.raises(PolicyInvalid, match="line 2"):
        site.write("rules:\n- permit: any\n")
    groups = "[" + ", ".join(f"g{number}" for number in range(32)) + "]"
    with pytest.raises(PolicyInvalid, match="at most 4000: list fewer groups"):
        site.write(f"rules:\n- drop: any\n  from: {groups}\n  to: {groups}\n")
    assert site.read().text == FIRST


def test_a_network_without_a_switch_has_no_rules(site: Site) -> None:
    before = site.read()
    site.overlay(HOST1).delete_network(NET, soon())
    with pytest.raises(NotFound):
        site.read()
    with pytest.raises(OvnDockerError):
        policies.write(site.database, before, FIRST, soon())
    assert site.server.rows("ACL") == []


def test_rules_go_with_their_network(site: Site) -> None:
    site.write(FIRST)
    site.overlay(HOST1).delete_network(NET, soon())
    assert site.server.rows("ACL") == []
    assert [row for row in site.server.rows(QUIET_TABLE) if kind_of(QUIET_TABLE, row) is POLICIES] == []


def test_rules_of_a_switch_that_is_gone_are_swept(site: Site) -> None:
    site.write(FIRST)
    gone = ovsdb.delete("Logical_Switch", ovsdb.is_row(site.switch))
    site.server.transact(gone)
    assert Kind.POLICY in {one.kind for one in Leftovers(site.database, HOST1).clear_orphans(soon())}
    assert [row for row in site.server.rows(QUIET_TABLE) if kind_of(QUIET_TABLE, row) is POLICIES] == []


def test_rules_of_options_are_made_again(closed: Site) -> None:
    rows = MissingRows(lambda _: closed.database)
    before = closed.acls
    closed.server.transact(ovsdb.update("Logical_Switch", acls=[]))
    assert {gap.kind for gap in rows.missing({NET: closed.record}, [], HOST1, soon())} == {Kind.POLICY}
    rows.make_network(NET, closed.record, HOST1, soon(), used=True)
    assert closed.acls == before
    assert rows.missing({NET: closed.record}, [], HOST1, soon()) == []


FORGERIES: dict[str, Callable[[Site], Iterator[ovsdb.Operation]]] = {
    "text": lambda site: _of_text(site, "rules:\n- permit: any"),
    "text of control characters": lambda site: _of_text(site, "\x1b[2J"),
    "huge text": lambda site: _of_text(site, "x" * 70000),
    "no text": lambda site: iter(
        [ovsdb.update(QUIET_TABLE, ovsdb.is_row(policy_row(site.switch)), external_ids={})]
    ),
    "action": lambda _: iter([ovsdb.update("ACL", action="allow")]),
    "reference": lambda _: iter([ovsdb.update("Logical_Switch", acls=[])]),
}


def _of_text(site: Site, text: str) -> Iterator[ovsdb.Operation]:
    ids = POLICIES.ids({SWITCH: site.switch, RULES: text})
    yield ovsdb.update(QUIET_TABLE, ovsdb.is_row(policy_row(site.switch)), external_ids=ids)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_rows_are_replaced_by_the_next_rules(site: Site, forgery: str) -> None:
    site.write(FIRST)
    wanted = site.acls
    site.server.transact(*FORGERIES[forgery](site))
    if forgery.endswith("text") or "control" in forgery:
        stored = site.read()
        if stored.text:
            with pytest.raises(Conflict, match=r"the stored rules of network .* are not valid"):
                stored.rules  # noqa: B018
    site.write(FIRST)
    assert site.acls == wanted
    assert site.read().text == FIRST


def test_a_forged_row_with_a_rules_uuid_gives_way(site: Site) -> None:
    (one,) = (acl for acl in acls.of_network(site.switch, site.read().ids, _rules(site)) if "@" in acl.match)
    row = one.row(site.switch)
    site.server.transact(
        ovsdb.insert("ACL", row, **{**one.columns, "action": "drop"}),
        ovsdb.insert("Port_Group", row_uuid("forged"), name="forged", acls=[Reference(row)]),
    )
    site.write("rules:\n- allow: tcp/80\n  to: web\n")
    assert (32000, "to-lport", one.match, "allow-related") in site.acls


def _rules(site: Site) -> list[acls.Numbered]:
    return [("line 1", rule) for rule in parse_short("web:tcp/80")]
