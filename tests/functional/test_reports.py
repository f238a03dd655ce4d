"""Reports of hosts: the subnets that they have in use, and the networks that they cannot have."""

import json
from ipaddress import ip_network
from typing import Any
from uuid import uuid4

import pytest

from functional.conftest import Connect
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.backends.ovn.repair.lost_host import belongings, forget
from ovn_docker.backends.ovn.rows import OURS, QUIET_TABLE, REPORTS, report_row
from ovn_docker.backends.ovn.shared.reports import Reports
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import Chassis, Obstacle, Occupied, Problem, Report

HOST1 = Chassis("host1")
OWN = Report(
    "host1",
    (Occupied(ip_network("172.17.0.0/16"), "docker0"), Occupied(ip_network("fd01::/64"), "eth0")),
    (Problem("foo", Obstacle.DOCKER, "Docker says: no"),),
)


def soon() -> Deadline:
    return Deadline(10)


@pytest.fixture
def database(northbound: OvsdbServer, connect: Connect) -> Database:
    return connect(northbound)


@pytest.fixture
def reports(database: Database) -> Reports:
    return Reports(lambda _: database)


def write(database: Database, row: str, host: str, **texts: Any) -> None:
    """Return the operation that inserts a row as any host may write it."""
    ids = {**OURS, **REPORTS.marks, "ovn-docker:host": host}
    ids |= {
        f"ovn-docker:{key}": text if isinstance(text, str) else json.dumps(text)
        for key, text in texts.items()
    }
    database.transact(ovsdb.insert(QUIET_TABLE, row, name=row, external_ids=ids), deadline=soon())


def test_a_report_is_written_once_and_read_by_all(reports: Reports, northbound: OvsdbServer) -> None:
    reports.write(OWN, HOST1, soon())
    before = northbound.contents()
    reports.write(OWN, HOST1, soon())
    assert northbound.contents() == before
    assert reports.all(HOST1, soon()) == [OWN]
    changed = Report("host1", OWN.occupied)
    reports.write(changed, HOST1, soon())
    assert reports.all(HOST1, soon()) == [changed]


def test_a_report_that_a_restore_gave_another_uuid_is_replaced(reports: Reports, database: Database) -> None:
    row = report_row("host1")
    ids = {**OURS, **REPORTS.marks, "ovn-docker:host": "host1"}
    database.transact(ovsdb.insert(QUIET_TABLE, str(uuid4()), name=row, external_ids=ids), deadline=soon())
    reports.write(OWN, HOST1, soon())
    assert reports.all(HOST1, soon()) == [OWN]
    (rows,) = database.transact(ovsdb.select(QUIET_TABLE, columns=["_uuid"]), deadline=soon())
    assert [found["_uuid"] for found in rows] == [row]


def test_a_written_report_is_not_larger_than_hosts_read(reports: Reports) -> None:
    occupied = [
        Occupied(ip_network(f"10.{number // 256}.{number % 256}.0/24"), "e" * 99) for number in range(999)
    ]
    problems = [Problem(f"n{number}", Obstacle.SUBNET, "w" * 9999) for number in range(999)]
    reports.write(Report("host1", tuple(occupied), tuple(problems)), HOST1, soon())
    (found,) = reports.all(HOST1, soon())
    assert (len(found.occupied), len(found.problems)) == (256, 64)
    assert {len(one.by) for one in found.occupied} == {64}
    assert {len(one.why) for one in found.problems} == {400}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "{}",
            "null",
            '"10.0.0.0/8"',
            "[" * 100_000,
            "[1]",
            '["10.0.0.0/8"]',
            "[[]]",
            '[{"a": 1}]',
        ),
        json.dumps([["10.0.0.0/8", "x", "more"], ["10.0.0.0/8", 7], [None, "x"], ["10.0.0/8", "x"]]),
        json.dumps([["0.0.0.0/0", "all"], ["0.0.0.0/1", "half"], ["224.0.0.0/4", "x"], ["::/0", "all"]]),
        json.dumps(
            [["foo", "unknown", "why"], ["foo bar", "docker", "why"], ["foo", "docker", 7], ["foo", "docker"]]
        ),
        json.dumps([["172.17.0.0/16", "x" * 70_000]]),
    ],
)
def test_a_report_that_is_not_valid_is_read_as_empty(database: Database, reports: Reports, text: str) -> None:
    write(database, report_row("host2"), "host2", occupied=text, problems=text)
    assert reports.all(HOST1, soon()) == [Report("host2")]


def test_only_the_row_of_its_own_uuid_counts_as_a_report(database: Database, reports: Reports) -> None:
    """Any host can write rows in another host's name."""
    write(database, report_row("another"), "host1", occupied=[["172.17.0.0/16", "x"]])
    assert reports.all(HOST1, soon()) == []


def test_text_of_a_report_is_one_line(database: Database, reports: Reports) -> None:
    write(database, report_row("host2"), "host2", occupied=[["10.1.0.0/16", "a\n\x1b[2J"]],
          problems=[["foo", "docker", "a\nb\u202e"]])  # fmt: skip
    (found,) = reports.all(HOST1, soon())
    assert [one.by for one in found.occupied] == [r"a\n\x1b[2J"]
    assert [one.why for one in found.problems] == [r"a\nb\u202e"]


def test_the_report_of_a_lost_host_is_deleted(database: Database, reports: Reports) -> None:
    reports.write(OWN, HOST1, soon())
    reports.write(Report("host2"), Chassis("host2"), soon())
    found = belongings(database, "host1", soon())
    assert [one.kind for one in found] == ["report"]
    forget(database, "host1", found, soon())
    assert [one.host for one in reports.all(HOST1, soon())] == ["host2"]
