"""The written rules of networks: one row with their text, and the access rules that follow from it.

One transaction replaces both, so that a network has the old rules or the new ones, never a part of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovn_docker.backends.ovn import acls
from ovn_docker.backends.ovn.acls import Acl
from ovn_docker.backends.ovn.allowed_claims import subnets
from ovn_docker.backends.ovn.rows import (
    ACLS,
    NETWORK,
    OURS,
    POLICIES,
    POLICY,
    QUIET_TABLE,
    RULES,
    SWITCH,
    insert_quietly,
    kind_of,
    name_of,
    policy_row,
)
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, NotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import (
    ConditionFailed,
    Database,
    DuplicateRow,
    Operation,
    Reference,
    Row,
    has,
    is_row,
    require,
)
from ovn_docker.model import IpNetwork
from ovn_docker.policy import rule_files
from ovn_docker.policy.language import PolicyRule
from ovn_docker.policy.rule_files import PolicyInvalid, WrittenRule


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """The rules of a network: *ids* describe it, *text* is that of its file, "" without one."""

    switch: str
    ids: Mapping[str, str]
    text: str

    @property
    def name(self) -> str:
        """Name of the network in the cluster, or its ID."""
        return name_of(self.ids, self.switch) or self.ids.get(NETWORK, self.switch)[:12]

    @property
    def denies(self) -> bool:
        """True if packets need a rule that allows them."""
        return self.ids.get(POLICY) == "deny"

    @property
    def written(self) -> tuple[WrittenRule, ...]:
        """The rules of the text. Raises Conflict if somebody has stored a text that is not valid."""
        try:
            return rule_files.parse(self.text) if self.text else ()
        except PolicyInvalid as error:
            raise Conflict(
                f"the stored rules of network {self.name} are not valid: {error}; replace them with "
                "`ovn-docker policy set`"
            ) from None

    def require_valid(self) -> None:
        """Raise Conflict if somebody has stored a text that is not valid."""
        _ = self.written

    @property
    def rules(self) -> list[tuple[str, PolicyRule]]:
        """All rules in their order, each with a text that shows people which one it is."""
        return [*((str(one), one.rule) for one in self.written), *acls.of_option(self.ids)]

    @property
    def subnets(self) -> list[IpNetwork]:
        """The subnets of the network."""
        return subnets(self.ids)

    @property
    def default(self) -> str:
        """The default of the network, in words."""
        return f"the default of network {self.name} ({'ovn.policy=deny' if self.denies else 'open'})"


def read(database: Database, switch: str, deadline: Deadline) -> StoredPolicy:
    """Return the rules of a network, by its switch. Raises NotFound."""
    for policy in read_all(database, [switch], deadline):
        return policy
    raise NotFound(f"no network with the logical switch {switch}; see `ovn-docker ls`")


def read_all(database: Database, switches: Sequence[str], deadline: Deadline) -> list[StoredPolicy]:
    """Return the rules of networks, by their switches; those that do not exist are left out."""
    found = database.transact(
        *(
            operation
            for switch in switches
            for operation in (
                ovsdb.select(
                    "Logical_Switch", is_row(switch), has("external_ids", OURS), columns=["external_ids"]
                ),
                ovsdb.select(QUIET_TABLE, is_row(policy_row(switch)), columns=["external_ids"]),
            )
        ),
        deadline=deadline,
    )
    return [
        StoredPolicy(
            switch,
            rows[0].map("external_ids"),
            next((row.map("external_ids").get(RULES, "") for row in texts), ""),
        )
        for switch, rows, texts in zip(switches, found[::2], found[1::2], strict=True)
        if rows
    ]


def write(database: Database, before: StoredPolicy, text: str, deadline: Deadline) -> None:
    """Replace the rules of a network, unless somebody has changed them since *before* was read.

    An empty *text* removes them. Raises PolicyInvalid for a text that is not valid, Conflict if others keep
    changing the network.
    """
    written = rule_files.parse(text) if text else ()
    try:
        wanted = acls.of_network(before.switch, before.ids, [(str(one), one.rule) for one in written])
    except ValueError as error:
        raise PolicyInvalid(0, str(error)) from None
    while True:
        operations = _writing(database, before, text, wanted, deadline)
        try:
            database.transact(*operations, deadline=deadline)
        except DuplicateRow as error:
            if operations[error.index]["table"] == "ACL":
                acls.detach(database, before.switch, operations[error.index]["uuid"], deadline)
            deadline.check(f"network {before.name}, which others keep changing")
        except ConditionFailed:
            now = read(database, before.switch, deadline)
            if now.text != before.text or now.ids != before.ids:
                raise Conflict(
                    f"somebody has changed the rules of network {before.name} meanwhile: see `ovn-docker "
                    "policy show`, and try again"
                ) from None
            deadline.check(f"network {before.name}, which others keep changing")
        else:
            return


def _writing(
    database: Database, before: StoredPolicy, text: str, wanted: tuple[Acl, ...], deadline: Deadline
) -> list[Operation]:
    """Return the operations of write(), which fail if rows that were read have changed meanwhile."""
    switch = before.switch
    switches, texts, own, *there = database.transact(
        ovsdb.select("Logical_Switch", is_row(switch), columns=["acls"]),
        ovsdb.select(QUIET_TABLE, is_row(policy_row(switch)), columns=["external_ids"]),
        ovsdb.select(
            "ACL",
            ACLS.where({SWITCH: switch}),
            columns=["_uuid", "external_ids", "direction", "priority", "match", "action"],
        ),
        *(ovsdb.select("ACL", is_row(acl.row(switch)), columns=["_uuid"]) for acl in wanted),
        deadline=deadline,
    )
    if not switches:
        raise NotFound(f"network {before.name} has gone")
    attached = switches[0].members("acls")
    ours = {row.uuid for row in own if kind_of("ACL", row) is ACLS}
    after = [
        *(Reference(one) for one in attached if one not in ours),  # rules of the user
        *(Reference(acl.row(switch)) for acl in wanted),
    ]
    unchanged: list[Any] = [
        ["acls", "==", ovsdb.encode([Reference(one) for one in attached])],
        ["external_ids", "==", ovsdb.encode(before.ids)],
    ]
    operations: list[Operation] = [require("Logical_Switch", switch, *unchanged)]
    operations += _writing_text(before, text, texts)
    for acl, rows in zip(wanted, there, strict=True):
        if rows:
            ids = ACLS.ids({SWITCH: switch}, acl.ids)
            operations.append(ovsdb.update("ACL", is_row(acl.row(switch)), **acl.columns, external_ids=ids))
        else:
            operations.append(acl.insert(switch))
    return [*operations, ovsdb.update("Logical_Switch", is_row(switch), acls=after)]


def _writing_text(before: StoredPolicy, text: str, rows: list[Row]) -> list[Operation]:
    row = policy_row(before.switch)
    if not rows:
        making = insert_quietly(
            POLICIES, row, f"policy {before.switch}", {SWITCH: before.switch, RULES: text}
        )
        return [ovsdb.require_none(QUIET_TABLE, is_row(row)), *(making if text else [])]
    unchanged = ["external_ids", "==", ovsdb.encode(rows[0].map("external_ids"))]
    operations = [require(QUIET_TABLE, row, unchanged)]
    if rows[0].map("external_ids").get(RULES, "") != before.text:
        raise Conflict(f"somebody has changed the rules of network {before.name} meanwhile: try again")
    if text:
        ids = POLICIES.ids({SWITCH: before.switch, RULES: text})
        return [*operations, ovsdb.update(QUIET_TABLE, is_row(row), external_ids=ids)]
    return [*operations, ovsdb.delete(QUIET_TABLE, is_row(row))]
