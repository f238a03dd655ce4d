"""Access rules of networks as rows of ACL, which a logical switch refers to.

ovn-northd applies them to all ports of the switch (ovn-nb(5), "ACL"), so that no port of a network lacks its
rules, in whatever order rows are made. A row that nothing refers to is deleted by the database.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from ovn_docker.backends.ovn.allowed_claims import subnets
from ovn_docker.backends.ovn.rows import (
    ACLS,
    ALLOW,
    POLICY,
    QUIET_TABLE,
    RULE,
    SWITCH,
    acl_row,
    group_name,
    kind_of,
    policy_row,
)
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Condition, Database, Operation, Reference, Row, is_row
from ovn_docker.model import NAMESERVERS
from ovn_docker.policy.language import Action, PolicyRule, parse_short
from ovn_docker.policy.matching import matches

DIRECTIONS = ("from-lport", "to-lport")
"""Where packets are matched: as they come from the sender's port, and as they go to the receiver's."""

_ACTIONS = {Action.ALLOW: "allow-related", Action.DROP: "drop", Action.REJECT: "reject"}
"""``allow-related`` lets a connection pass, with its answers and the ICMP errors about it."""

_BASE, _FILE, _OPTION, _DEFAULT = 32767, 32000, 16000, 0
"""Priorities of what every network with rules needs, of the first rule of a file and of the option
``ovn.allow``, and of the network's default."""


MOST = 4000
"""Largest number of access rules that the rules of a network may make."""

Numbered = tuple[str, PolicyRule]
"""A rule, and the text that shows people which one it is."""


@dataclass(frozen=True, slots=True)
class Acl:
    """An access rule: *match* in OVN's expression language (ovn-sb(5), "Logical_Flow:match")."""

    direction: str
    priority: int
    match: str
    action: str
    rule: str = ""
    """The rule that it comes from, for people."""

    @property
    def ids(self) -> dict[str, str]:
        """external_ids of its row, besides the switch's."""
        return {RULE: self.rule} if self.rule else {}

    @property
    def columns(self) -> dict[str, object]:
        """The columns of its row."""
        return {
            "direction": self.direction,
            "priority": self.priority,
            "match": self.match,
            "action": self.action,
        }

    def row(self, switch: str) -> str:
        """UUID of its row."""
        return acl_row(switch, self.direction, self.priority, self.match, self.action)

    def insert(self, switch: str) -> Operation:
        """Return the operation that makes its row; a switch has to refer to the row at the same time."""
        return ACLS.insert(self.row(switch), {SWITCH: switch, **self.ids}, **self.columns)

    def select(self, switch: str) -> Operation:
        """Return the operation that selects its row, if that is as it should be."""
        same: list[Condition] = [[column, "==", value] for column, value in self.columns.items()]
        return ovsdb.select("ACL", is_row(self.row(switch)), *same, columns=["_uuid"])


BASE = (
    Acl(
        "from-lport",
        _BASE,
        f"ip4.dst == {{{', '.join(map(str, NAMESERVERS))}}} && udp.dst == 53",
        _ACTIONS[Action.ALLOW],
    ),
    *(Acl(direction, _BASE, "igmp", _ACTIONS[Action.ALLOW]) for direction in DIRECTIONS),
)
"""Access rules of every network with rules: queries for names and multicast memberships pass.

As some are stateful, ovn-northd tracks all connections of the switch, lets ND and MLD pass, and answers to
connections that a rule allows (``build_acls`` in northd/northd.c).
"""

DENY = tuple(Acl(direction, _DEFAULT, "ip", "drop") for direction in DIRECTIONS)
"""The default of a network with ``ovn.policy=deny``."""


def of_network(switch: str, ids: Mapping[str, str], written: Iterable[Numbered] = ()) -> tuple[Acl, ...]:
    """Return the access rules of a network that *ids* describe, with *written* rules before those of options.

    Raises ValueError for more than MOST.
    """
    found = [*_of_rules(switch, ids, written, _FILE), *_of_rules(switch, ids, of_option(ids), _OPTION)]
    denied = ids.get(POLICY) == "deny"
    if len(found) > MOST:
        raise ValueError(
            f"the rules make {len(found)} access rules in OVN, at most {MOST}: list fewer groups"
        )
    if not (found or denied):
        return ()
    return (*BASE, *dict.fromkeys(found), *(DENY if denied else ()))


def of_option(ids: Mapping[str, str]) -> list[Numbered]:
    """Return the rules of the option ``ovn.allow``; none for a value that no user can give."""
    rules: tuple[PolicyRule, ...] = ()
    with suppress(ValueError):
        rules = parse_short(ids.get(ALLOW, ""))
    return [(f"option ovn.allow: {rule}", rule) for rule in rules]


def _of_rules(switch: str, ids: Mapping[str, str], written: Iterable[Numbered], first: int) -> Iterator[Acl]:
    for number, (text, rule) in enumerate(written):
        for match in matches(rule, subnets(ids), partial(group_name, switch)):
            both = zip(DIRECTIONS, (match.leaving, match.arriving), strict=True)
            for direction, condition in both:
                yield Acl(direction, first - number, condition, _ACTIONS[rule.action], text)


def delete_text(switch: str) -> list[Operation]:
    """Return operations that delete the text of the rules of a switch; none without a *switch*."""
    return [ovsdb.delete(QUIET_TABLE, is_row(policy_row(switch)))] if switch else []


def described(row: Row) -> str:
    """Return the rule or default that a row of ACL comes from, for people; "" for a row of somebody else."""
    if kind_of("ACL", row) is not ACLS or ACLS.uuid(row) != row.uuid:
        return ""
    ids, number = row.map("external_ids"), row.number("priority")
    return ids.get(RULE) or ("the default of the network (ovn.policy=deny)" if number == _DEFAULT else "")


def make(switch: str, acls: Iterable[Acl]) -> tuple[list[Operation], dict[str, list[Reference]]]:
    """Return operations that make rows, and the column of the switch that refers to them."""
    wanted = list(acls)
    column = {"acls": [Reference(acl.row(switch)) for acl in wanted]} if wanted else {}
    return [acl.insert(switch) for acl in wanted], column


def refers(switch: str, acls: Iterable[Acl]) -> Operation:
    """Return the operation that selects a switch if it refers to all these rows."""
    rows = [Reference(acl.row(switch)) for acl in acls]
    return ovsdb.select(
        "Logical_Switch", is_row(switch), ["acls", "includes", ovsdb.encode(rows)], columns=["_uuid"]
    )


def mend(database: Database, switch: str, acls: Iterable[Acl], deadline: Deadline) -> list[Operation]:
    """Return operations that give an existing switch those of its access rules that it lacks."""
    wanted = list(acls)
    if not wanted:
        return []
    rows = [acl.row(switch) for acl in wanted]
    referring, *there = database.transact(
        refers(switch, wanted),
        *(ovsdb.select("ACL", is_row(row), columns=["_uuid"]) for row in rows),
        *(acl.select(switch) for acl in wanted),
        deadline=deadline,
    )
    found, right = there[: len(wanted)], there[len(wanted) :]
    operations: list[Operation] = []
    for acl, row, exists, same in zip(wanted, rows, found, right, strict=True):
        if not exists:
            operations.append(acl.insert(switch))
        elif not same:  # any host can change it
            operations.append(ovsdb.update("ACL", is_row(row), **acl.columns))
    if operations or not referring:
        added = [["acls", "insert", [Reference(row) for row in rows]]]
        operations.append(ovsdb.mutate("Logical_Switch", is_row(switch), mutations=added))
    return operations


def detach(database: Database, switch: str, row: str, deadline: Deadline) -> None:
    """Delete a forged row with the UUID of a rule of *switch*: one that only others refer to."""
    gone = [["acls", "delete", [Reference(row)]]]
    referring = ["acls", "includes", ovsdb.encode([Reference(row)])]
    other = ["_uuid", "!=", ovsdb.encode(Reference(switch))]
    database.transact(
        *(
            ovsdb.mutate(table, referring, other, mutations=gone)
            for table in ("Logical_Switch", "Port_Group")
        ),
        deadline=deadline,
    )
