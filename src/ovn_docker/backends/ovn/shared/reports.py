"""Reports of the hosts about themselves, for the other hosts: one row for each host.

A report has the prefixes that the host occupies outside of OVN, and the shared networks that it cannot have
or use. Other hosts choose subnets that no report has, and show reports to their users.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ovn_docker.backends.ovn.northbound import Connect
from ovn_docker.backends.ovn.rows import HOST, QUIET_TABLE, REPORTS, insert_quietly, report_row
from ovn_docker.deadline import Deadline
from ovn_docker.definition import Refused, switch_row, valid_name, valid_subnet
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import DuplicateRow, Operation, is_row
from ovn_docker.model import Chassis, Obstacle, Occupied, Problem, Report
from ovn_docker.text.printable import one_line

_OCCUPIED = "ovn-docker:occupied"
_PROBLEMS = "ovn-docker:problems"

_PREFIXES, _PROBLEM_COUNT = 256, 64
"""Largest numbers of prefixes and problems in a report; more are neither written nor read."""

_NAME, _WHY = 64, 400
"""Largest numbers of characters of a name and of a reason."""

_LARGEST = 65536
"""Largest number of characters of the prefixes, and of the problems; more are not read."""

_REPORTS = 4096
"""Largest number of reports that are read."""


class Reports:
    """Reads the reports of all hosts, and writes this host's."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def write(self, report: Report, chassis: Chassis, deadline: Deadline) -> None:
        """Store this host's report unless it is stored already."""
        row, ids = report_row(report.host), _ids(report)
        database = self._connect(chassis)
        (found,) = database.transact(
            ovsdb.select(QUIET_TABLE, is_row(row), columns=["external_ids"]), deadline=deadline
        )
        if not found:
            with suppress(DuplicateRow):  # sent twice, after a lost connection
                database.transact(*insert_quietly(REPORTS, row, row, ids), deadline=deadline)
        elif found[0]["external_ids"] != ids:
            database.transact(ovsdb.update(QUIET_TABLE, is_row(row), external_ids=ids), deadline=deadline)

    def all(self, chassis: Chassis, deadline: Deadline) -> list[Report]:
        """Return all reports. Searches a whole table."""
        (rows,) = self._connect(chassis).transact(select_reports(), deadline=deadline)
        return read(rows)


def select_reports() -> Operation:
    """Return the operation that selects the rows that read() takes."""
    return ovsdb.select(QUIET_TABLE, REPORTS.where(), columns=["_uuid", "external_ids"])


def read(rows: Iterable[Mapping[str, Any]]) -> list[Report]:
    """Return the reports in some rows. Any host can write any row: those that are not valid are left out."""
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
    of_host = {HOST: report.host}
    return REPORTS.ids(of_host, {_OCCUPIED: json.dumps(occupied), _PROBLEMS: json.dumps(problems)})


def _items(text: str, most: int) -> list[list[Any]]:
    """Return at most *most* lists of the list in a JSON text; an empty list if the text is not one."""
    if len(text) > _LARGEST:
        return []
    try:
        given = json.loads(text)
    except (RecursionError, ValueError):
        return []
    return [item for item in given[:most] if isinstance(item, list)] if isinstance(given, list) else []


def _occupied(item: list[Any]) -> Occupied | None:
    """Return the prefix in *item*; ``None`` for a subnet that containers cannot have (definition.py)."""
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
