"""Reports: what each host says of itself, for the others. One row for each host.

The prefixes that the host occupies outside of OVN, and the networks of the cluster that it cannot have or
use. A report decides nothing: others choose subnets with it, and show it.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ovn_docker.backends.northbound import HOST, OURS, QUIET_TABLE, Connect, insert_quietly
from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, switch_row, valid_name, valid_subnet
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Operation, OperationError, has, is_row
from ovn_docker.model import Chassis, Obstacle, Occupied, Problem, Report, row_uuid
from ovn_docker.printable import one_line

REPORT = {"ovn-docker:report": "true"}
_OCCUPIED = "ovn-docker:occupied"
_PROBLEMS = "ovn-docker:problems"

_PREFIXES, _PROBLEM_COUNT = 256, 64
"""Prefixes and problems of one report; the rest is left out when it is written, and when it is read."""

_NAME, _WHY = 64, 400
"""Characters of a name and of a reason."""

_LARGEST = 65536
"""Characters of either part; one that is larger is not read."""

_REPORTS = 4096
"""Reports that are read."""


class Reports:
    """The reports of all hosts."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def write(self, report: Report, chassis: Chassis, deadline: Deadline) -> None:
        """Store this host's report, unless it is stored already."""
        row, ids = report_row(report.host), _ids(report)
        database = self._connect(chassis)
        (found,) = database.transact(
            ovsdb.select(QUIET_TABLE, is_row(row), columns=["external_ids"]), deadline=deadline
        )
        if not found:
            try:
                database.transact(*insert_quietly(row, row, ids), deadline=deadline)
            except OperationError as error:
                if error.error != "duplicate uuid":  # sent twice, after a lost connection
                    raise
        elif found[0]["external_ids"] != ids:
            database.transact(ovsdb.update(QUIET_TABLE, is_row(row), external_ids=ids), deadline=deadline)

    def all(self, chassis: Chassis, deadline: Deadline) -> list[Report]:
        """Read all reports. A search."""
        (rows,) = self._connect(chassis).transact(select_reports(), deadline=deadline)
        return read(rows)


def select_reports() -> Operation:
    """Operation that selects the rows that read() takes."""
    reports = has("external_ids", {**OURS, **REPORT})
    return ovsdb.select(QUIET_TABLE, reports, columns=["_uuid", "external_ids"])


def report_row(host: str) -> str:
    """UUID of a host's report."""
    return row_uuid("report", host)


def read(rows: Iterable[Mapping[str, Any]]) -> list[Report]:
    """The reports in some rows. Any host can write any row: what cannot be one is left out."""
    found = []
    for row in list(rows)[:_REPORTS]:
        ids = row["external_ids"]
        host = ids.get(HOST, "")
        if row["_uuid"] == report_row(host):
            found.append(
                Report(
                    host,
                    tuple(filter(None, map(_occupied, _items(ids.get(_OCCUPIED, ""), _PREFIXES)))),
                    tuple(filter(None, map(_problem, _items(ids.get(_PROBLEMS, ""), _PROBLEM_COUNT)))),
                )
            )
    return found


def _ids(report: Report) -> dict[str, str]:
    occupied = [[str(one.subnet), one.by[:_NAME]] for one in report.occupied[:_PREFIXES]]
    problems = [[one.network, one.obstacle, one.why[:_WHY]] for one in report.problems[:_PROBLEM_COUNT]]
    return {
        **OURS, **REPORT, HOST: report.host,
        _OCCUPIED: json.dumps(occupied), _PROBLEMS: json.dumps(problems),
    }  # fmt: skip


def _items(text: str, most: int) -> list[list[Any]]:
    """Lists in a list of JSON; none if it is not one."""
    if len(text) > _LARGEST:
        return []
    try:
        given = json.loads(text)
    except (RecursionError, ValueError):
        return []
    return [item for item in given[:most] if isinstance(item, list)] if isinstance(given, list) else []


def _occupied(item: list[Any]) -> Occupied | None:
    """``None`` also for what containers cannot have, or is too large to be avoided (definition.py)."""
    match item:
        case [str(subnet), str(by)]:
            with suppress(Refused):
                return Occupied(valid_subnet(subnet), one_line(by)[:_NAME])
    return None


def _problem(item: list[Any]) -> Problem | None:
    match item:
        case [str(network), str(obstacle), str(why)] if obstacle in set(Obstacle):
            with suppress(Refused):
                name = valid_name(network, switch_row(network))
                return Problem(name, Obstacle(obstacle), one_line(why)[:_WHY])
    return None
