"""A copy of the northbound database restores its rows with their UUIDs."""

import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from functional.conftest import Connect, MakeServer
from functional.docker_networks import DockerHost
from functional.ovsdb_servers import SCHEMAS, Contents, Member, OvsdbServer, until
from ovn_docker.backends.ovn.rows import GENERATION_ROW
from ovn_docker.backends.ovn.shared.generation import GENERATION_ROWS
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest
from ovn_docker.host import ovsdb
from ovn_docker.model import Network, NetworkId, Subnet
from ovn_docker.options import NetworkOptions
from ovn_docker.setup.central import copies, database_backup
from ovn_docker.setup.central.database_backup import Restoration

pytestmark = pytest.mark.usefixtures("network_namespace_of_module")  # for free_port()

NORTHBOUND = "OVN_Northbound"


@pytest.fixture(params=["alone", "member", "follower"])
def server(request: pytest.FixtureRequest, make_server: MakeServer, tmp_path: Path) -> Iterator[OvsdbServer]:
    """A server of the database: alone, the only member of a cluster, or a follower of three members."""
    if request.param == "alone":
        yield make_server(NORTHBOUND)
        return
    members: list[Member] = []
    try:
        for name in ("a", "b", "c") if request.param == "follower" else ("a",):
            directory = tmp_path / name
            directory.mkdir()
            members.append(Member(directory, NORTHBOUND, *members))
        until(lambda: any(member.leads() for member in members))
        yield next((member for member in members if not member.leads()), members[0])
    finally:
        for member in members:
            member.kill()


@pytest.fixture
def host(server: OvsdbServer, connect: Connect) -> DockerHost:
    """A host with a network of its own, a shared network, and containers on both."""
    host = DockerHost("host1", connect(server))
    network = host.create("10.3.0.0/24", aux=["10.3.0.9"])
    for _ in range(3):
        host.run(network)
    host.release(network, host.lease(network))
    pool = host.ipam.request_pool(None, None, 4)
    host.ipam.request_address(pool.id, None, gateway=True)
    named = Network(
        NetworkId("f" * 64),
        (Subnet(pool.subnet, ip_address(pool.subnet[1]), ours=True),),
        options=NetworkOptions(name="foo"),
    )
    host.overlay(host.chassis).create_network(named, Deadline(10))
    server.transact(
        {"op": "insert", "table": "Connection", "uuid-name": "c", "row": {"target": "ptcp:6641:127.0.0.1"}},
        {"op": "insert", "table": "NB_Global",
         "row": {"name": "cluster", "nb_cfg": 7, "connections": ["named-uuid", "c"]}},
        {"op": "insert", "table": "Address_Set", "row": {"name": "set", "addresses": "10.0.0.1"}},
    )  # fmt: skip
    return host


def here(server: OvsdbServer) -> str:
    """Return the connection method of the server's Unix socket."""
    return f"unix:{server.socket}"


def copy_of(server: OvsdbServer, path: Path) -> copies.Contents:
    """Return the contents of a copy, made with the program that the command uses."""
    with path.open("wb") as file:
        subprocess.run(
            ["ovsdb-client", "--no-leader-only", "backup", here(server), NORTHBOUND], stdout=file, check=True
        )
    return copies.load(path)


def restored(server: OvsdbServer, copy: copies.Contents, connect: Connect, scratch: Path) -> Contents:
    """Restore a copy and return the rows of the database; check that no difference is left."""
    operations, _ = copies.difference(copy, copy_of(server, scratch))
    connect(NORTHBOUND, here(server)).transact(*operations, deadline=Deadline(10))
    assert copies.difference(copy, copy_of(server, scratch)) == ([], [])
    return contents(server)


def contents(server: OvsdbServer) -> Contents:
    """Return all rows, without the generation of the shared networks."""
    found = server.contents()
    for row in (row for table in GENERATION_ROWS for row in found[table]):
        if row["_uuid"] in GENERATION_ROWS.values():
            del row["external_ids"]["ovn-docker:generation"]
    return found


def empty(server: OvsdbServer) -> None:
    """Delete every row, as every client of the database can."""
    roots = [table for table in server.contents() if table != "Connection"]
    server.transact(*({"op": "delete", "table": table, "where": []} for table in roots))


def test_restore_brings_deleted_rows_back_unchanged(server, host, connect, tmp_path):
    before, copy = contents(server), copy_of(server, tmp_path / "copy")
    empty(server)
    assert server.contents() == {}
    after = restored(server, copy, connect, tmp_path / "now")
    (glob,) = before["NB_Global"]
    # The listeners and the progress of the hosts are not restored.
    (glob_after,) = after["NB_Global"]
    assert glob_after == {**glob, "connections": [], "nb_cfg": 0}
    del before["Connection"], before["NB_Global"], after["NB_Global"]
    assert after == before
    host.restart()
    assert host.leftovers(host.chassis).of_host(Deadline(10))[1] == []


@pytest.mark.parametrize("server", ["alone", "member"], indirect=True)
def test_rows_get_their_identity_back_after_ovsdb_client_restore(server, host, connect, tmp_path):
    """ovsdb-client restore gives rows new UUIDs, which then hold the unique names of ports."""
    before, copy = contents(server), copy_of(server, tmp_path / "copy")
    with (tmp_path / "copy").open("rb") as file:
        subprocess.run(["ovsdb-client", "restore", here(server), NORTHBOUND], stdin=file, check=True)
    changed = contents(server)
    assert all(
        {row["_uuid"] for row in changed[table]}.isdisjoint(row["_uuid"] for row in before[table])
        for table in ("Logical_Switch", "Logical_Switch_Port", "DHCP_Options")
    )
    after = restored(server, copy, connect, tmp_path / "now")
    for found in (before, after):
        del found["NB_Global"], found["Connection"]
    assert after == before


def test_restore_does_not_touch_equal_rows(server, host, connect, tmp_path):
    copy = copy_of(server, tmp_path / "copy")
    switches = [row["_uuid"] for row in server.rows("Logical_Switch", "_uuid")]
    kept, gone = switches
    ports = [row["_uuid"] for row in server.rows("Logical_Switch_Port", "_uuid")]
    server.transact(ovsdb.delete("Logical_Switch", ovsdb.is_row(gone)))

    def versions() -> dict[str, str]:
        rows = [*server.rows("Logical_Switch"), *server.rows("Logical_Switch_Port")]
        return {row["_uuid"]: row["_version"] for row in rows if row["_uuid"] in {kept, *ports}}

    before = versions()
    restored(server, copy, connect, tmp_path / "now")
    assert {uuid: versions()[uuid] for uuid in before} == before


@pytest.mark.parametrize("server", ["alone"], indirect=True)
def test_restore_removes_rows_that_are_not_in_the_copy(server, host, connect, tmp_path):
    before, copy = contents(server), copy_of(server, tmp_path / "copy")
    host.run(host.create("10.4.0.0/24"))
    server.transact({"op": "update", "table": "NB_Global", "where": [], "row": {"name": "another"}})
    assert restored(server, copy, connect, tmp_path / "now") == before


@pytest.mark.parametrize("server", ["alone"], indirect=True)
def test_restore_keeps_listeners_and_columns_of_ovn_northd(server, host, connect, tmp_path):
    copy = copy_of(server, tmp_path / "copy")
    (port, *_) = server.rows("Logical_Switch_Port", "_uuid")
    server.transact(
        {
            "op": "update",
            "table": "NB_Global",
            "where": [],
            "row": {"nb_cfg": 9, "hv_cfg": 8, "name": "another"},
        },
        {"op": "update", "table": "Connection", "where": [], "row": {"target": "pssl:6641"}},
        ovsdb.update("Logical_Switch_Port", ovsdb.is_row(port["_uuid"]), up=True),
    )
    after = restored(server, copy, connect, tmp_path / "now")
    (glob,), (connection,) = after["NB_Global"], after["Connection"]
    assert (glob["nb_cfg"], glob["hv_cfg"], glob["name"]) == (9, 8, "cluster")
    assert (connection["target"], glob["connections"]) == ("pssl:6641", connection["_uuid"])
    assert [row["up"] for row in after["Logical_Switch_Port"] if row["_uuid"] == port["_uuid"]] == [True]


@pytest.mark.parametrize("server", ["alone"], indirect=True)
def test_restore_changes_the_generation_of_the_shared_networks(server, host, connect, tmp_path):
    def generation() -> str:
        (row,) = (row for row in server.rows("DHCP_Options") if row["_uuid"] == GENERATION_ROW)
        return str(row["external_ids"]["ovn-docker:generation"])

    copy, before = copy_of(server, tmp_path / "copy"), generation()
    server.transact(ovsdb.delete("Logical_Switch"))
    restored(server, copy, connect, tmp_path / "now")
    assert generation() != before


@pytest.mark.parametrize("server", ["alone"], indirect=True)
def test_restore_accepts_a_copy_of_the_file_of_a_server(server, host, connect, tmp_path):
    """docs/operations.md once advised it; such a file also has rows that were deleted later."""
    host.run(host.create("10.4.0.0/24"))
    wanted = contents(server)
    (tmp_path / "copy").write_bytes(server.file.read_bytes())
    empty(server)
    operations, _ = copies.difference(copies.read(tmp_path / "copy"), copy_of(server, tmp_path / "now"))
    connect(server).transact(*operations, deadline=Deadline(10))
    for table in ("Logical_Switch", "Logical_Switch_Port", "DHCP_Options", "Logical_Router"):
        assert contents(server).get(table) == wanted.get(table)


@pytest.mark.parametrize("server", ["alone"], indirect=True)
def test_restore_compares_again_if_hosts_change_rows_meanwhile(server, host, tmp_path, monkeypatch):
    """One host makes a missing row again, another removes a row that a restored row refers to."""
    (tmp_path / "ovnnb_db.sock").symlink_to(server.socket)
    monkeypatch.setenv("OVN_RUNDIR", str(tmp_path))
    monkeypatch.setenv("OVN_DBDIR", str(tmp_path / "nowhere"))
    before, copy = contents(server), copy_of(server, tmp_path / "copy")
    (switch, *_) = server.rows("Logical_Switch", "_uuid", "name")
    server.transact(ovsdb.delete("Logical_Switch"))
    now = copy_of(server, tmp_path / "now")
    found = Restoration(copy, now, *copies.difference(copy, now))
    server.transact(
        ovsdb.insert("Logical_Switch", switch["_uuid"], name=switch["name"]),
        ovsdb.delete("Logical_Router"),
    )
    database_backup.restore(found)
    assert contents(server) == before


@pytest.mark.parametrize("server", ["alone"], indirect=True)
def test_the_file_of_a_lost_database_has_the_rows_of_the_copy(server, host, tmp_path):
    copy = copy_of(server, tmp_path / "copy")
    (tmp_path / "made").write_text(copies.database_file(copy))
    made = copies.read(tmp_path / "made")
    assert made.rows["Connection"] == {}
    assert copies.difference(copy, made) == ([], [])


# Files that are not copies


def record(text: bytes) -> bytes:
    return b"OVSDB JSON %d %s\n%s" % (
        len(text),
        hashlib.sha1(text, usedforsecurity=False).hexdigest().encode(),
        text,
    )


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the schema of a copy, and its checksum."""
    _, schema, _, rows = path.read_bytes().split(b"\n", 3)
    found = json.loads(schema)
    change(found)
    header = path.read_bytes().split(b"\n")[2]
    path.write_bytes(record(json.dumps(found).encode() + b"\n") + header + b"\n" + rows)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_southbound(path: Path) -> None:
    path.unlink()
    subprocess.run(["ovsdb-tool", "create", path, SCHEMAS["OVN_Southbound"]], check=True)


def make_member(path: Path) -> None:
    path.unlink()
    create = ["ovsdb-tool", "create-cluster", path, SCHEMAS[NORTHBOUND], "tcp:127.0.0.1:1"]
    subprocess.run(create, check=True)


CUT, BROKEN, UNKNOWN = (
    "it was cut short or changed",
    "something else where a record should begin",
    "its schema cannot be understood",
)


def replaced(text: bytes) -> Callable[[Path], object]:
    """Return a function that replaces a copy with other bytes."""
    return lambda path: path.write_bytes(text)


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Return a function that changes the bytes of a copy."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


def schema_alone(copy: bytes) -> bytes:
    """Return the first of the two records of a copy."""
    return b"\n".join([*copy.split(b"\n")[:2], b""])


def change_type(schema: dict[str, Any]) -> None:
    schema["tables"]["Copp"]["columns"]["name"] = 7


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (changed(lambda copy: copy[:-1]), CUT),
        (changed(lambda copy: copy[:-100]), CUT),
        (changed(lambda copy: copy[:100]), CUT),
        (changed(lambda copy: copy[:20]), BROKEN),
        (changed(schema_alone), "it has no rows"),
        (changed(lambda copy: copy.replace(b'"foo"', b'"bar"')), CUT),
        (changed(lambda copy: copy + b"x"), BROKEN),
        (changed(lambda copy: copy + record(b'{"Logical_Switch":7}')), "ovsdb-tool cannot read it"),
        (replaced(b""), UNKNOWN),
        (replaced(b"\x7fELF" + bytes(1000)), BROKEN),
        (replaced(b"OVSDB JSON 999999999999999 " + b"0" * 40 + b"\n"), "its schema is too long"),
        (replaced(record(b"[" * 100_000)), UNKNOWN),
        (replaced(record(b"[]")), UNKNOWN),
        (replaced(record(b'{"name":"OVN_Northbound"}')), UNKNOWN),
        (replaced(record(b'{"name":"x\\u001b[31m"}')), "it is one of"),
        (lambda path: edited(path, change_type), "ovsdb-tool cannot read it"),
        (make_southbound, "it is one of 'OVN_Southbound'"),
        (make_member, "it is the file of a member of a cluster; make one with `ovn-docker central backup`"),
        (make_fifo, "it is not a regular file"),
        (make_directory, "it is not a regular file"),
        (make_socket, "cannot read"),
        (Path.unlink, "cannot read"),
    ],
)
@pytest.mark.parametrize("server", ["alone"], indirect=True)
def test_a_file_that_is_not_a_copy_is_refused(spoil, why, server, host, tmp_path):
    copy_of(server, tmp_path / "copy")
    spoil(tmp_path / "copy")
    with pytest.raises(BadRequest, match=why) as refusal:
        copies.read(tmp_path / "copy")
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("server", ["alone"], indirect=True)
def test_a_copy_of_a_newer_schema_is_accepted_if_it_uses_nothing_new(server, host, connect, tmp_path):
    now = copy_of(server, tmp_path / "now")

    def add(schema: dict[str, Any]) -> None:
        schema["version"] = "99.0.0"
        schema["tables"]["News"] = {"columns": {"name": {"type": "string"}}, "isRoot": True}
        schema["tables"]["Logical_Switch"]["columns"]["news"] = {"type": "string"}

    copy_of(server, tmp_path / "copy")
    edited(tmp_path / "copy", add)
    assert copies.difference(copies.read(tmp_path / "copy"), now) == ([], [])
    used = tmp_path / "copy"
    row = json.dumps({"News": {GENERATION_ROW: {"name": "new"}}}).encode() + b"\n"
    used.write_bytes(used.read_bytes() + record(row))
    with pytest.raises(
        BadRequest, match=r"schema 99\.0\.0 and has rows with table News, .* upgrade OVN here"
    ):
        copies.difference(copies.read(used), now)


@pytest.mark.parametrize("server", ["alone"], indirect=True)
def test_a_copy_of_an_older_schema_is_accepted(server, host, connect, tmp_path):
    copy_of(server, tmp_path / "copy")
    edited(tmp_path / "copy", lambda schema: schema.update(version="5.0.0"))
    before = contents(server)
    server.transact(ovsdb.delete("Logical_Switch"))
    assert restored(server, copies.read(tmp_path / "copy"), connect, tmp_path / "now") == before
