"""Copies of the northbound database: the rows in a file, and the operations that make a database equal to it.

A copy is an OVSDB file of a single server, as ``ovsdb-client backup`` prints it (ovsdb(7), "Backing Up and
Restoring a Database"). ``ovsdb-client restore`` gives every row a new UUID. Here rows keep their UUIDs, by
which ovn-docker finds them: an ``insert`` may give the UUID (ovsdb-server(7), 5.2.1).
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from ovn_docker.backends.ovn.shared.generation import GENERATION_ROWS, announce
from ovn_docker.errors import BadRequest
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Operation, is_row
from ovn_docker.host.run import StepFailed, run
from ovn_docker.setup.databases import NORTHBOUND
from ovn_docker.text.printable import printable

_RECORD = re.compile(rb"OVSDB JSON (\d{1,15}) ([0-9a-f]{40})\n")
"""The header of a record: the length of its JSON text, and the SHA-1 of that."""

_SCHEMA = 1 << 24
"""The largest schema, in bytes; OVN's has 14 thousand."""

SECONDS = 300.0
"""Seconds for one program or transaction on all rows; 10 000 ports, 40 000 rows, take some seconds."""

_KEPT_TABLES = {"Connection", "SSL"}
"""Tables that are not restored: they would open ports of the server, or close those that hosts use."""

_KEPT_COLUMNS = {
    "NB_Global": {
        "connections",
        "ssl",
        "nb_cfg",
        "nb_cfg_timestamp",
        "sb_cfg",
        "sb_cfg_timestamp",
        "hv_cfg",
        "hv_cfg_timestamp",
    },
    "Logical_Switch_Port": {"up"},
    "Logical_Router_Port": {"status"},
    "BFD": {"status"},
}
"""Columns that are not restored: ovn-northd writes the present state of southbound and hosts (ovn-nb(5))."""

_EMPTY: tuple[Any, ...] = ("", 0, False, ["set", []], ["map", []])


_Columns = dict[str, Any]
"""Columns of a row, as OVSDB writes them (RFC 7047, 5.1)."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The rows of a northbound database, by table and UUID, with values as RFC 7047, 5.1, writes them.

    *columns*: the columns of each table; *singles*: the tables with at most one row.
    """

    version: str
    columns: Mapping[str, frozenset[str]]
    singles: frozenset[str]
    rows: Mapping[str, Mapping[str, _Columns]]

    @property
    def in_use(self) -> bool:
        """True if a table has rows, except for those of the server itself."""
        return any(rows for table, rows in self.rows.items() if table not in _KEPT_TABLES | self.singles)


@dataclass(frozen=True, slots=True)
class Change:
    """Numbers of rows of a table that are made, changed and removed."""

    table: str
    made: int
    changed: int
    removed: int


def read(path: Path) -> Contents:
    """Return the contents of a copy.

    Raises:
        BadRequest: the file is not a complete copy of a northbound database that was in use.

    """
    found = load(path)
    if not any(found.rows.values()):  # NB_Global has a row since the first `ovn-nbctl`
        raise _no_copy(path, "it has no rows")
    return found


def load(path: Path) -> Contents:
    """Return the contents of a file as `read` does, but accept a copy without rows."""
    try:
        empty = _contents(_schema(path), {})
    except OSError as error:
        raise BadRequest(f"cannot read {printable(str(path))}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _no_copy(path, "its schema cannot be understood") from None
    selects = [{"op": "select", "table": table, "where": []} for table in empty.columns]
    query = json.dumps([NORTHBOUND.schema, *selects])
    try:
        results = json.loads(run(("ovsdb-tool", "query", str(path.absolute()), query), SECONDS))
        rows = {
            table: {row["_uuid"][1]: row for row in result["rows"]}
            for table, result in zip(empty.columns, results, strict=True)
        }
    except StepFailed as error:
        raise _no_copy(
            path, f"ovsdb-tool cannot read it: {printable(str(error).rpartition(': ')[2])}"
        ) from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise _no_copy(path, "ovsdb-tool does not print its rows") from None
    return replace(empty, rows=rows)


def database_file(copy: Contents) -> str:
    """Return the text of a server's file with the schema of OVN on this machine and the rows of the copy.

    Raises:
        BadRequest: the copy has a table or column that this schema does not have.

    """
    schema = json.loads(Path(NORTHBOUND.schema_file).read_text(encoding="utf-8"))
    operations, _ = difference(copy, _contents(schema, {}))
    rows: dict[str, dict[str, _Columns]] = {}
    for one in operations:
        if one["op"] == "insert":
            rows.setdefault(one["table"], {})[one["uuid"]] = one["row"]
    return "".join(_record(json.dumps(text)) for text in (schema, rows))


def _record(text: str) -> str:
    digest = hashlib.sha1(f"{text}\n".encode(), usedforsecurity=False).hexdigest()
    return f"OVSDB JSON {len(text) + 1} {digest}\n{text}\n"


def _contents(schema: Mapping[str, Any], rows: Mapping[str, Mapping[str, _Columns]]) -> Contents:
    """Return rows with the facts of their schema that are needed here."""
    tables = schema["tables"]
    return Contents(
        str(schema["version"]),
        {table: frozenset(about["columns"]) for table, about in tables.items()},
        frozenset(table for table, about in tables.items() if about.get("maxRows") == 1),
        rows,
    )


def _schema(path: Path) -> dict[str, Any]:
    """Return the schema of a copy, after a check that all its records are complete.

    OVSDB's own tools ignore an incomplete record, as after a power cut: networks would be missing from a copy
    that was cut short, and its restoration would delete them.
    """
    # A named pipe would keep open(2) waiting for a writer.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise _no_copy(path, "it is not a regular file")
    with os.fdopen(number, "rb") as file:
        schema = None
        for text in _records(path, file):
            schema = schema or text
    found = json.loads(schema or b"")
    if found["name"] != NORTHBOUND.schema:
        raise _no_copy(path, f"it is one of {printable(str(found['name'])[:80])!r}")
    return dict(found)


def _records(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield the text of the first record, and an empty text for each of the others.

    Raises BadRequest if a record is broken.
    """
    first = True
    while header := file.readline(80):
        record = _RECORD.fullmatch(header)
        if header.startswith(b"OVSDB CLUSTER"):
            raise _no_copy(
                path, "it is the file of a member of a cluster; make one with `ovn-docker central backup` or"
                " `ovsdb-tool cluster-to-standalone`",
            )  # fmt: skip
        if not record:
            raise _no_copy(path, "it has something else where a record should begin")
        left, digest, text = int(record[1]), hashlib.sha1(usedforsecurity=False), b""
        if first and left > _SCHEMA:
            raise _no_copy(path, "its schema is too long")
        while left and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
            text += part if first else b""
        if left or digest.hexdigest().encode() != record[2]:
            raise _no_copy(path, "it was cut short or changed")
        yield text
        first = False


def _no_copy(path: Path, why: str) -> BadRequest:
    return BadRequest(f"{printable(str(path))} is not a copy of a northbound database: {why}")


def difference(copy: Contents, now: Contents) -> tuple[list[Operation], list[Change]]:
    """Return the operations of the transaction that makes *now* equal to *copy*, and their number by table.

    A row that is in both is changed only where it differs, so that rows in use are not touched. OVSDB
    has no transaction that deletes a row and inserts it again.

    Raises:
        BadRequest: the copy has a table or column that the schema of *now* does not have.

    """
    operations: list[Operation] = []
    changes = []
    for table in sorted({*copy.columns, *now.columns} - _KEPT_TABLES):
        wanted, there = dict(copy.rows.get(table, {})), now.rows.get(table, {})
        if table not in now.columns:
            if wanted:
                raise _no_place(copy, now, f"table {table}")
            continue
        if table in now.singles:
            wanted = dict(zip(there or wanted, wanted.values(), strict=False)) or dict(there)
        new, gone = wanted.keys() - there.keys(), there.keys() - wanted.keys()
        made = [_insert(table, uuid, _values(table, wanted[uuid], copy, now)) for uuid in sorted(new)]
        changed_rows = [
            _update(table, uuid, differs)
            for uuid in sorted(wanted.keys() & there.keys() - {*GENERATION_ROWS.values()})
            if (differs := _differences(_values(table, wanted[uuid], copy, now), there[uuid]))
        ]
        removed = [ovsdb.delete(table, is_row(uuid)) for uuid in sorted(gone)]
        operations += [*made, *changed_rows, *removed]
        if made or changed_rows or removed:
            changes.append(Change(table, len(made), len(changed_rows), len(removed)))
    if operations:
        operations += announce()
    return operations, changes


def _values(table: str, row: _Columns, copy: Contents, now: Contents) -> _Columns:
    """Return the columns of a row of the copy that are restored."""
    kept = _KEPT_COLUMNS.get(table, set()) | {"_uuid", "_version"}
    values = {column: value for column, value in row.items() if column not in kept}
    for column in values.keys() - now.columns[table]:
        if values.pop(column) not in _EMPTY:
            raise _no_place(copy, now, f"column {column} of table {table}")
    return values


def _differences(wanted: _Columns, there: _Columns) -> _Columns:
    return {column: value for column, value in wanted.items() if value != there.get(column)}


def _insert(table: str, uuid: str, values: _Columns) -> Operation:
    row = {column: value for column, value in values.items() if value not in _EMPTY}
    return {"op": "insert", "table": table, "uuid": uuid, "row": row}


def _update(table: str, uuid: str, values: _Columns) -> Operation:
    return {"op": "update", "table": table, "where": [is_row(uuid)], "row": values}


def _no_place(copy: Contents, now: Contents, what: str) -> BadRequest:
    return BadRequest(
        f"the copy is of schema {printable(copy.version)} and has rows with {printable(what)}, which the "
        f"database of this machine, of schema {now.version}, does not have: upgrade OVN here first"
    )
