"""Operations, conditions and values of OVSDB (RFC 7047, sections 4 and 5). Pure."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ovn_docker.errors import OvnDockerError, Unavailable

Operation = dict[str, Any]
Condition = list[Any]

_T = TypeVar("_T", str, int, bool)


class Row(dict[str, object]):
    """The columns of a row that a select has read, and its *table*.

    OVSDB writes a set of one member as that member (RFC 7047, 5.1), so that only the type of a column tells a
    set from a scalar: the methods take the type from the caller, and raise Unavailable, naming table, row and
    column, for a value of another one.
    """

    __slots__ = ("table",)

    def __init__(self, table: str, columns: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self.table = table

    @property
    def uuid(self) -> str:
        """UUID of the row; the select has to read ``_uuid``."""
        return self.text("_uuid")

    def text(self, column: str) -> str:
        """Return the value of a column of one string or UUID."""
        return self._scalar(column, self.get(column), str)

    def number(self, column: str) -> int:
        """Return the value of a column of one integer."""
        return self._scalar(column, self.get(column), int)

    def members(self, column: str) -> list[str]:
        """Return the members of a set of strings or UUIDs."""
        value = self.get(column)
        return [self._scalar(column, one, str) for one in (value if isinstance(value, list) else [value])]

    def optional(self, column: str, kind: type[_T]) -> _T | None:
        """Return the member of a set of at most one member, or None."""
        value = self.get(column)
        return None if value == [] else self._scalar(column, value, kind)

    def map(self, column: str) -> dict[str, str]:
        """Return a map of strings to strings."""
        return self._map(column, str)

    def numbers(self, column: str) -> dict[str, int]:
        """Return a map of strings to integers."""
        return self._map(column, int)

    def but(self, **columns: Any) -> "Row":
        """Return a copy of the row with other values in *columns*."""
        return Row(self.table, {**self, **columns})

    def _map(self, column: str, kind: type[_T]) -> dict[str, _T]:
        value = self.get(column)
        if not isinstance(value, dict):
            raise self._invalid(column, "a map")
        for key, item in value.items():
            self._scalar(column, key, str)
            self._scalar(column, item, kind)
        return value

    def _scalar(self, column: str, value: Any, kind: type[_T]) -> _T:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._invalid(column, _KINDS[kind])
        return value

    def _invalid(self, column: str, wanted: str) -> Unavailable:
        found = f"is {repr(self[column])[:80]}" if column in self else "is missing"
        row = self.get("_uuid", "whose UUID was not read")
        return Unavailable(
            f"column {column} of row {row} of table {self.table} {found}, not {wanted}; "
            "is the database's schema that of a supported version?"
        )


_KINDS: dict[type, str] = {str: "a string", int: "an integer", bool: "a boolean"}


class OperationError(OvnDockerError):
    """The server refused an operation; nothing of its transaction was done (RFC 7047, 4.1.3).

    *index*: position of the operation in the transaction. *before*: results of the operations before it, so
    that the caller need not read these rows again.
    """

    def __init__(self, index: int, error: str, details: str, before: list[list[Row]]) -> None:
        super().__init__(f"the database refused operation {index}: {error} ({details})")
        self.index = index
        self.before = before


class DuplicateRow(OperationError):
    """An insert with the UUID of a row that exists (ovsdb-server(7), "Insert")."""


class ConditionFailed(OperationError):
    """A wait whose condition did not hold in time (RFC 7047, 5.2.6)."""


class NotOwner(OperationError):
    """An assert of a lock that this connection does not hold (RFC 7047, 5.2.10)."""


class PermissionDenied(OperationError):
    """A change that the role of this connection does not allow (ovsdb(7), "Role-Based Access Control")."""


class UnknownColumn(OperationError):
    """A column that this version of the schema does not have."""


class ConstraintViolation(OperationError):
    """A value, index or reference that the schema does not allow (RFC 7047, 3.2 and 4.1.3)."""


_REFUSALS: dict[str, type[OperationError]] = {
    "constraint violation": ConstraintViolation,
    "duplicate uuid": DuplicateRow,
    "not owner": NotOwner,
    "permission error": PermissionDenied,
    "referential integrity violation": ConstraintViolation,
    "timed out": ConditionFailed,
    "unknown column": UnknownColumn,
}
"""The class of a refusal by its <error> (RFC 7047, 3.1 and 5.2; those that ovsdb-server adds: ovsdb/*.c)."""


def results_of(
    results: Any, name: str, operations: Sequence[Operation], reference: Callable[[str], str] = str
) -> list[list[Row]]:
    """Return the rows that each of *operations* has read (RFC 7047, 4.1.3), [] for those but selects.

    Raises OperationError if the server refused one, Unavailable if *results* is not a valid reply.
    """
    if isinstance(results, list):
        for index, result in enumerate(results):
            if isinstance(result, dict) and "error" in result:
                error, details = str(result["error"])[:200], str(result.get("details", "no details"))[:200]
                if error == "I/O error":
                    raise Unavailable(
                        f"{name} cannot be written: {details}; is the disk of its machine full?"
                    )
                before = results_of(results[:index], name, operations[:index])
                raise _REFUSALS.get(error, OperationError)(index, error, details, before)
        with suppress(AttributeError, LookupError, RecursionError, TypeError, ValueError):
            return [
                _rows(result, operation["table"], reference) if operation["op"] == "select" else []
                for operation, result in zip(operations, results, strict=True)
            ]
    raise Unavailable(f"{name} sent an invalid reply: {repr(results)[:200]}; is it an ovsdb-server?")


def _rows(result: Any, table: str, reference: Callable[[str], str]) -> list[Row]:
    return [
        Row(table, {column: decode(value, reference) for column, value in row.items()})
        for row in result["rows"]
    ]


def decode(value: Any, reference: Callable[[str], str] = str) -> Any:
    """Decode an OVSDB <value> (RFC 7047, 5.1): map to dict, set to list, UUID to str.

    A set of one member comes as that member: see Row. *reference*: Reference, for encode() to give the same
    value again.
    """
    match value:
        case ["map", list(pairs)]:
            return {decode(key, reference): decode(item, reference) for key, item in pairs}
        case ["set", list(items)]:
            return [decode(item, reference) for item in items]
        case ["uuid" | "named-uuid", str(uuid)]:
            return reference(uuid)
        case _:
            return value


class Reference(str):
    """UUID of a row, as the value of a column that refers to rows."""

    __slots__ = ()


def encode(value: Any) -> Any:
    """Encode a value as an OVSDB <value>: Mapping as map, list or tuple as set, Reference as uuid."""
    match value:
        case Reference():
            return ["uuid", str(value)]
        case Mapping():
            return ["map", [[encode(key), encode(item)] for key, item in value.items()]]
        case list() | tuple():
            return ["set", [encode(item) for item in value]]
        case _:
            return value


_NO_ROW = "00000000-0000-0000-0000-000000000000"


def is_uuid(text: str) -> bool:
    """Return True if *text* is a UUID as OVSDB writes it (RFC 7047, 3.1)."""
    return re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None


def is_row(row: str) -> Condition:
    """Return the condition that selects one row by its UUID, which takes the server no search.

    If *row* is not a UUID, the condition selects no row: a UUID may come from a row that any host can write,
    and the server refuses a whole transaction because of one invalid UUID.
    """
    return ["_uuid", "==", encode(Reference(row if is_uuid(row) else _NO_ROW))]


def has(column: str, pairs: Mapping[str, str]) -> Condition:
    """Return the condition that a map column includes *pairs*."""
    return [column, "includes", encode(pairs)]


def insert(table: str, row: str, **columns: Any) -> Operation:
    """Insert a row with the UUID *row*; the server answers with DuplicateRow if that row exists."""
    values = {column: encode(value) for column, value in columns.items()}
    return {"op": "insert", "table": table, "uuid": row, "row": values}


def select(table: str, *where: Condition, columns: Iterable[str]) -> Operation:
    """Read *columns* of the rows that satisfy all conditions."""
    return {"op": "select", "table": table, "where": list(where), "columns": list(columns)}


def update(table: str, *where: Condition, **columns: Any) -> Operation:
    """Replace whole columns."""
    values = {column: encode(value) for column, value in columns.items()}
    return {"op": "update", "table": table, "where": list(where), "row": values}


def mutate(table: str, *where: Condition, mutations: list[list[Any]]) -> Operation:
    """Change parts of columns; a mutation is [column, "insert" | "delete" | "+=", value]."""
    encoded = [[column, mutator, encode(value)] for column, mutator, value in mutations]
    return {"op": "mutate", "table": table, "where": list(where), "mutations": encoded}


def delete(table: str, *where: Condition) -> Operation:
    """Delete the rows that satisfy all conditions, if there are any."""
    return {"op": "delete", "table": table, "where": list(where)}


def require_none(table: str, *where: Condition, wait: float = 0) -> Operation:
    """Require that no row satisfies *where*, waiting up to *wait* seconds; see require()."""
    return {
        "op": "wait",
        "timeout": int(wait * 1000),
        "table": table,
        "where": list(where),
        "columns": ["_uuid"],
        "until": "==",
        "rows": [],
    }


def require(table: str, row: str, *where: Condition, wait: float = 0) -> Operation:
    """Require that the row exists and satisfies *where*, waiting up to *wait* seconds for it.

    Otherwise the transaction fails with ConditionFailed and changes nothing (RFC 7047, 5.2.6).
    """
    return {
        "op": "wait",
        "timeout": int(wait * 1000),
        "table": table,
        "where": [is_row(row), *where],
        "columns": ["_uuid"],
        "until": "==",
        "rows": [{"_uuid": encode(Reference(row))}],
    }
