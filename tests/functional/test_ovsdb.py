"""Connections to a database, with real servers that die, hang and restart."""

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from functional.conftest import Connect, MakeServer
from functional.ovsdb_servers import Member, OvsdbServer, free_port, until
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, OvnDockerError, TimedOut, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import (
    ConditionFailed,
    ConstraintViolation,
    Database,
    DuplicateRow,
    NotOwner,
    OperationError,
    Reference,
    Row,
    UnknownColumn,
    has,
    is_row,
    require,
)
from ovn_docker.host.ovsdb.tls import check_files
from ovn_docker.model import Tls, row_uuid

pytestmark = pytest.mark.usefixtures("network_namespace_of_module")  # for free_port()

SWITCH = row_uuid("test", "switch")
PORT = row_uuid("test", "port")
WATCHED = row_uuid("test", "watched")
SOON = 30.0
FILES = Path("/proc/self/fd")
READ = ovsdb.select("Logical_Switch", columns=["name"])


def add_switch(name: str = "web", row: str = SWITCH) -> ovsdb.Operation:
    return ovsdb.insert("Logical_Switch", row, name=name)


def names(server: OvsdbServer) -> list[str]:
    return sorted(row["name"] for row in server.rows("Logical_Switch", "name"))


def watched(database: Database) -> list[None]:
    """Watch the row WATCHED; return a list that grows with each change until the database is closed."""
    seen: list[None] = []

    def collect() -> None:
        with suppress(Unavailable):
            for change in database.watch("DHCP_Options", WATCHED, "external_ids"):
                seen.append(change)  # noqa: PERF402 - one by one, as they come

    threading.Thread(target=collect, daemon=True).start()
    until(lambda: len(seen) == 1)
    return seen


@contextmanager
def relay(port: int) -> Iterator[tuple[str, bytearray]]:
    """Pass one TCP connection on to *port*; yield the address, and the bytes that the client has sent."""
    sent = bytearray()

    def pass_on(source: socket.socket, target: socket.socket, copy: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                copy += data
                target.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        accepting = threads.submit(listener.accept)

        def serve() -> None:
            client, _ = accepting.result()
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                replies = threads.submit(pass_on, server, client, bytearray())
                pass_on(client, server, sent)
                server.shutdown(socket.SHUT_RDWR)
                replies.result()

        serving = threads.submit(serve)
        yield f"tcp:127.0.0.1:{listener.getsockname()[1]}", sent
        serving.result(timeout=SOON)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < seconds, f"took {took:.1f} s"


@pytest.fixture
def database(northbound: OvsdbServer, connect: Connect) -> Database:
    return connect(northbound)


class TestTransactions:
    def test_values_of_rows_are_python_values(self, database: Database) -> None:
        database.transact(
            ovsdb.insert(
                "Logical_Switch_Port", PORT, name="p", addresses=["a", "b"], external_ids={"k": "v"}
            ),
            ovsdb.insert("Logical_Switch", SWITCH, name="web", ports=[Reference(PORT)]),
            deadline=Deadline(SOON),
        )
        ports, switches = database.transact(
            ovsdb.select(
                "Logical_Switch_Port", is_row(PORT),
                columns=["_uuid", "addresses", "external_ids", "up", "tag", "type"],
            ),
            ovsdb.select("Logical_Switch", is_row(SWITCH), columns=["name", "ports"]),
            deadline=Deadline(SOON),
        )  # fmt: skip
        assert ports == [
            {
                "_uuid": PORT, "addresses": ["a", "b"], "external_ids": {"k": "v"},
                "up": [], "tag": [], "type": "",
            }
        ]  # fmt: skip
        assert switches == [{"name": "web", "ports": PORT}]

    def test_replies_may_be_long_and_have_any_character(self, database: Database) -> None:
        ids = {
            f"{number} \u00b5s \U0001f433": "ab" * 100 for number in range(100)
        }  # 20 kB: in several pieces
        database.transact(
            ovsdb.insert("Logical_Switch", SWITCH, name="web \U0001f433", external_ids=ids),
            deadline=Deadline(SOON),
        )
        for columns in (["name"], ["name", "external_ids"], ["name"]):
            (rows,) = database.transact(
                ovsdb.select("Logical_Switch", is_row(SWITCH), columns=columns), deadline=Deadline(SOON)
            )
            wanted = {"name": "web \U0001f433", "external_ids": ids}
            assert rows == [{column: wanted[column] for column in columns}]

    def test_each_operation_has_a_list_of_the_rows_that_it_read(self, database: Database) -> None:
        database.transact(add_switch(), deadline=Deadline(SOON))
        assert database.transact(
            ovsdb.mutate(
                "Logical_Switch", is_row(SWITCH), mutations=[["external_ids", "insert", {"a": "1", "b": "2"}]]
            ),
            ovsdb.update("Logical_Switch", ["name", "==", "web"], name="web2"),
            ovsdb.select("Logical_Switch", has("external_ids", {"a": "1"}), columns=["name", "external_ids"]),
            ovsdb.delete("Logical_Switch", is_row(SWITCH)),
            ovsdb.delete("Logical_Switch", is_row(SWITCH)),
            deadline=Deadline(SOON),
        ) == [[], [], [{"name": "web2", "external_ids": {"a": "1", "b": "2"}}], [], []]

    def test_refused_operation_is_named_and_changes_nothing(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        with pytest.raises(DuplicateRow, match="refused operation 1: duplicate uuid") as refused:
            database.transact(add_switch("a"), add_switch("b"), deadline=Deadline(SOON))
        assert refused.value.index == 1
        assert names(northbound) == []

    def test_refusal_at_the_commit_has_the_index_after_the_last_operation(self, database: Database) -> None:
        lost = ovsdb.insert("Logical_Switch", SWITCH, name="web", ports=[Reference(PORT)])
        with pytest.raises(ConstraintViolation, match="referential integrity violation") as refused:
            database.transact(lost, deadline=Deadline(SOON))
        assert refused.value.index == 1

    def test_value_of_the_wrong_type_is_refused(self, database: Database) -> None:
        with pytest.raises(OperationError, match=r"refused operation 0: .*expected string"):
            database.transact(ovsdb.insert("Logical_Switch", SWITCH, name=7), deadline=Deadline(SOON))

    @pytest.mark.parametrize(
        ("operation", "refusal", "message"),
        [
            (ovsdb.insert("Logical_Switch", SWITCH, nonsense=""), UnknownColumn, "No column nonsense"),
            (ovsdb.insert("ACL", SWITCH, priority=-1, direction="to-lport", match="", action="drop"),
             ConstraintViolation, "valid range"),
            (ovsdb.insert("Nonsense", SWITCH), OperationError, "No table named Nonsense"),
            ({"op": "assert", "lock": "turn"}, NotOwner, "turn"),
            ({"op": "abort"}, OperationError, "aborted"),
        ],
    )  # fmt: skip
    def test_a_refusal_is_of_the_class_of_its_cause(
        self, database: Database, operation: ovsdb.Operation, refusal: type[OperationError], message: str
    ) -> None:
        with pytest.raises(OperationError, match=message) as refused:
            database.transact(operation, deadline=Deadline(SOON))
        assert type(refused.value) is refusal

    def test_missing_database_is_named(self, northbound: OvsdbServer, connect: Connect) -> None:
        southbound = connect("OVN_Southbound", northbound.remote)
        with pytest.raises(Unavailable, match=rf"OVN_Southbound at {northbound.remote}.*unknown database"):
            southbound.transact(ovsdb.select("Chassis", columns=["name"]), deadline=Deadline(SOON))


class TestRows:
    COLUMNS = ("_uuid", "name", "addresses", "up", "tag", "external_ids")

    def read(self, database: Database, **columns: object) -> Row:
        database.transact(
            ovsdb.insert("Logical_Switch_Port", PORT, name="one", **columns),
            ovsdb.insert("Logical_Switch", SWITCH, name="web", ports=[Reference(PORT)]),
            deadline=Deadline(SOON),
        )
        ((row,),) = database.transact(
            ovsdb.select("Logical_Switch_Port", is_row(PORT), columns=self.COLUMNS), deadline=Deadline(SOON)
        )
        return row

    @pytest.mark.parametrize("addresses", [[], ["router"], ["router", "unknown"]])
    def test_a_set_is_a_list_whatever_its_size(self, database: Database, addresses: list[str]) -> None:
        assert sorted(self.read(database, addresses=addresses).members("addresses")) == addresses

    def test_an_empty_optional_column_is_none(self, database: Database) -> None:
        row = self.read(database)
        assert (row.optional("up", bool), row.optional("tag", int)) == (None, None)

    def test_values_have_the_type_of_their_column(self, database: Database) -> None:
        row = self.read(database, up=False, tag=7, external_ids={"a": "1"})
        assert (row.uuid, row.text("name")) == (PORT, "one")
        assert (row.optional("up", bool), row.optional("tag", int)) == (False, 7)
        assert row.map("external_ids") == {"a": "1"}

    @pytest.mark.parametrize(
        ("read", "problem"),
        [
            (
                lambda row: row.text("type"),
                "type of row {} of table Logical_Switch_Port is missing, not a string",
            ),
            (
                lambda row: row.text("external_ids"),
                r"external_ids of row {} .* is {{'a': '1'}}, not a string",
            ),
            (lambda row: row.text("up"), "up of row {} .* is True, not a string"),
            (lambda row: row.number("up"), "up of row {} .* is True, not an integer"),
            (lambda row: row.optional("name", bool), "name of row {} .* is 'one', not a boolean"),
            (lambda row: row.members("tag"), "tag of row {} .* is 7, not a string"),
            (lambda row: row.members("type"), "type of row {} .* is missing"),
            (lambda row: row.map("name"), "name of row {} .* is 'one', not a map"),
            (lambda row: row.numbers("external_ids"), "external_ids of row {} .*, not an integer"),
        ],
    )
    def test_an_unexpected_value_is_named_with_table_row_and_column(
        self, database: Database, read: Callable[[Row], object], problem: str
    ) -> None:
        row = self.read(database, up=True, tag=7, external_ids={"a": "1"})
        with pytest.raises(Unavailable, match=f"^column {problem.format(PORT)}.*supported version"):
            read(row)


class TestWaiting:
    def test_existing_row_is_not_waited_for(self, database: Database) -> None:
        database.transact(add_switch(), deadline=Deadline(SOON))
        database.transact(require("Logical_Switch", SWITCH), deadline=Deadline(SOON))

    def test_missing_row_fails_the_whole_transaction_in_time(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        with at_most(SOON / 2), pytest.raises(ConditionFailed) as refused:
            database.transact(
                require("Logical_Switch", PORT, wait=0.2), add_switch(), deadline=Deadline(SOON)
            )
        assert refused.value.index == 0
        assert names(northbound) == []

    def test_wait_ends_when_the_row_changes_and_does_not_block_others(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        database.transact(add_switch(), deadline=Deadline(SOON))
        wanted = require("Logical_Switch", SWITCH, has("external_ids", {"ready": "true"}), wait=SOON)
        with ThreadPoolExecutor() as threads, at_most(SOON / 2):
            waits = threads.submit(database.transact, wanted, add_switch("b", PORT), deadline=Deadline(SOON))
            until(northbound.holds)
            assert not waits.done()
            ready = [["external_ids", "insert", {"ready": "true"}]]
            database.transact(
                ovsdb.mutate("Logical_Switch", is_row(SWITCH), mutations=ready), deadline=Deadline(SOON)
            )
            assert waits.result() == [[], []]
        assert names(northbound) == ["b", "web"]


class TestManyCallers:
    def test_each_caller_gets_its_own_reply(self, database: Database, northbound: OvsdbServer) -> None:
        def add(number: int) -> list[str]:
            found = []
            for turn in range(5):
                name = f"{number}.{turn}"
                row = row_uuid("test", name)
                database.transact(add_switch(name, row), deadline=Deadline(SOON))
                (rows,) = database.transact(
                    ovsdb.select("Logical_Switch", is_row(row), columns=["name"]), deadline=Deadline(SOON)
                )
                found += [row["name"] for row in rows]
            return found

        with ThreadPoolExecutor(32) as threads:
            found = [name for names in threads.map(add, range(32)) for name in names]
        assert found == [f"{number}.{turn}" for number in range(32) for turn in range(5)]
        assert names(northbound) == sorted(found)

    def test_no_call_is_lost_when_the_server_restarts(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        """A transaction may have been committed before its reply was lost: then its repetition is refused."""
        sent = threading.Semaphore(0)

        def add(number: int) -> None:
            for turn in range(20):
                name = f"{number}.{turn}"
                with suppress(DuplicateRow):
                    database.transact(add_switch(name, row_uuid("test", name)), deadline=Deadline(SOON))
                sent.release()

        with ThreadPoolExecutor(32) as threads:
            adding = [threads.submit(add, number) for number in range(32)]
            for _ in range(100):
                sent.acquire()
            northbound.kill()
            time.sleep(0.05)
            northbound.start()
            for each in adding:
                each.result()
        assert names(northbound) == sorted(f"{number}.{turn}" for number in range(32) for turn in range(20))

    def test_wait_for_a_row_survives_a_restart_of_the_server(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        with ThreadPoolExecutor() as threads:
            wanted = require("Logical_Switch", SWITCH, wait=SOON)
            waits = threads.submit(database.transact, wanted, deadline=Deadline(SOON))
            until(northbound.holds)
            northbound.kill()
            northbound.start()
            database.transact(add_switch(), deadline=Deadline(SOON))
            assert waits.result() == [[]]


class TestIdleConnections:
    @pytest.mark.slow
    def test_an_idle_connection_answers_the_probes_of_the_server_alone_and_is_reused(
        self, make_server: MakeServer
    ) -> None:
        """With many hosts the probes are nearly all that a server at rest has to do."""
        port = free_port()
        make_server("OVN_Northbound", f"--remote=ptcp:{port}:127.0.0.1")  # probes after 5 s
        absent = f"tcp:127.0.0.1:{free_port()}"
        with (
            relay(port) as (address, sent),
            closing(Database("OVN_Northbound", (address, absent))) as database,
        ):
            database.transact(READ, deadline=Deadline(SOON))
            before = len(sent)
            until(lambda: b'"echo"' in sent[before:])
            database.transact(READ, deadline=Deadline(SOON))  # the relay accepts one connection
            assert b'"method":"echo"' not in sent[before:]  # but a reply to the server's request


class TestServersThatFail:
    def test_call_to_a_hanging_server_ends_by_its_deadline(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        database.transact(add_switch("before"), deadline=Deadline(SOON))
        northbound.pause()
        with at_most(SOON / 2), pytest.raises(TimedOut, match=r"OVN_Northbound at unix:.* within 0\.3 s"):
            database.transact(add_switch("late", PORT), deadline=Deadline(0.3))
        northbound.resume()
        with at_most(SOON / 2):
            database.transact(add_switch("x", row_uuid("x")), deadline=Deadline(SOON))

    def test_call_to_a_silent_server_ends_by_its_deadline(self, connect: Connect) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            database = connect("OVN_Northbound", f"tcp:127.0.0.1:{mute.getsockname()[1]}")
            with at_most(SOON / 2), pytest.raises(TimedOut, match=r"did not answer within 0\.3 s"):
                database.transact(add_switch(), deadline=Deadline(0.3))

    def test_unreachable_server_is_named_with_the_reason(self, connect: Connect, tmp_path: Path) -> None:
        refusing, absent = f"tcp:127.0.0.1:{free_port()}", f"unix:{tmp_path}/none.sock"
        database = connect("OVN_Northbound", refusing, absent)
        with at_most(SOON / 2), pytest.raises(Unavailable) as failed:
            database.transact(add_switch(), deadline=Deadline(0.3))
        assert f"{refusing}: Connection refused; {absent}: No such file or directory" in str(failed.value)

    def test_error_reports_a_server_that_started_too_late(self, connect: Connect) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            database = connect("OVN_Northbound", f"tcp:127.0.0.1:{server.getsockname()[1]}")
            with pytest.raises(Unavailable, match="it accepts connections now: try again"):
                database.transact(add_switch(), deadline=Deadline(0))

    def test_server_that_closes_connections_at_once_is_named(self, connect: Connect) -> None:
        def close(server: socket.socket) -> None:
            with suppress(OSError):  # the test is over
                while True:
                    server.accept()[0].close()

        with ThreadPoolExecutor() as threads, socket.create_server(("127.0.0.1", 0)) as server:
            threads.submit(close, server)
            database = connect("OVN_Northbound", f"tcp:127.0.0.1:{server.getsockname()[1]}")
            with pytest.raises(Unavailable, match="the connection keeps breaking"):
                database.transact(add_switch(), deadline=Deadline(0))
            server.shutdown(socket.SHUT_RDWR)

    def test_call_before_the_start_of_the_server_succeeds(
        self, northbound: OvsdbServer, connect: Connect
    ) -> None:
        northbound.kill()
        database = connect(northbound)
        with ThreadPoolExecutor() as threads:
            adding = threads.submit(database.transact, add_switch(), deadline=Deadline(SOON))
            time.sleep(0.3)
            northbound.start()
            adding.result()
        assert names(northbound) == ["web"]

    def test_call_that_timed_out_is_not_sent_later(self, northbound: OvsdbServer, connect: Connect) -> None:
        northbound.kill()
        database = connect(northbound)
        with pytest.raises(Unavailable):
            database.transact(add_switch("given up"), deadline=Deadline(0.2))
        northbound.start()
        database.transact(add_switch("b", PORT), deadline=Deadline(SOON))
        assert names(northbound) == ["b"]

    @pytest.mark.parametrize(
        "remote",
        ["10.0.0.1:6641", "tcp:10.0.0.1:66410", "tcp:10.0.0.1:-1", "tcp::6641", "ssl:10.0.0.1", "unix:"],
    )
    def test_invalid_address_is_refused(self, remote: str) -> None:
        with pytest.raises(BadRequest, match=f"invalid database address '{remote}': give tcp:IP:PORT"):
            Database("OVN_Northbound", [remote])


class TestSeveralServers:
    @pytest.fixture
    def servers(self, make_server: MakeServer) -> list[OvsdbServer]:
        """Return two servers that share nothing, so that their contents show which one served."""
        return [make_server("OVN_Northbound") for _ in range(2)]

    @pytest.fixture
    def database(self, servers: list[OvsdbServer], connect: Connect) -> Database:
        return connect("OVN_Northbound", *(server.remote for server in servers))

    def test_next_server_is_used_when_one_dies(self, database: Database, servers: list[OvsdbServer]) -> None:
        database.transact(add_switch("first"), deadline=Deadline(SOON))
        one, other = sorted(servers, key=names, reverse=True)
        assert (names(one), names(other)) == (["first"], [])
        one.kill()
        database.transact(add_switch("second"), deadline=Deadline(SOON))
        assert names(other) == ["second"]

    def test_next_server_is_used_when_one_hangs(self, database: Database, servers: list[OvsdbServer]) -> None:
        """A member that has lost its cluster hangs too: it answers probes, and commits nothing."""
        database.transact(add_switch("first"), deadline=Deadline(SOON))
        one, other = sorted(servers, key=names, reverse=True)
        one.pause()
        with pytest.raises(TimedOut):
            database.transact(add_switch("lost", PORT), deadline=Deadline(0.5))
        with at_most(SOON / 2):
            database.transact(add_switch("second"), deadline=Deadline(SOON))
        assert names(other) == ["second"]

    def test_next_server_is_used_when_the_first_is_unreachable(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        port = free_port()
        server = make_server("OVN_Northbound", f"--remote=ptcp:{port}:127.0.0.1")
        for turn in range(4):  # the order is random
            database = connect("OVN_Northbound", f"tcp:127.0.0.1:{free_port()}", f"tcp:127.0.0.1:{port}")
            database.transact(
                add_switch(str(turn), row_uuid("test", str(turn))),
                deadline=Deadline(SOON),
            )
        assert names(server) == ["0", "1", "2", "3"]


class TestClusters:
    @pytest.fixture
    def members(self, tmp_path: Path) -> Iterator[list[Member]]:
        """Three servers with one database."""
        members: list[Member] = []
        for number in range(3):
            directory = tmp_path / f"member{number}"
            directory.mkdir()
            members.append(Member(directory, "OVN_Northbound", *members))
        yield members
        for member in members:
            member.kill()

    @pytest.fixture
    def database(self, members: list[Member], connect: Connect) -> Database:
        return connect("OVN_Northbound", *(member.remote for member in members))

    def leader(self, members: list[Member]) -> Member:
        """Return the leader; on a busy machine the members may just be electing another one."""
        found: list[Member] = []

        def one_leads() -> bool:
            found[:] = (member for member in members if member.leads())
            return len(found) == 1

        until(one_leads)
        return found[0]

    def follow(self, databases: list[Database], members: list[Member]) -> None:
        """Wait until all databases are connected to the leader, which may change on a busy machine."""

        def all_do() -> bool:
            for database in databases:
                database.transact(READ, deadline=Deadline(SOON))
            return {database.remote for database in databases} == {self.leader(members).remote}

        until(all_do)

    def test_call_reads_what_the_previous_call_wrote(self, members: list[Member], connect: Connect) -> None:
        """A follower could return older data."""
        remotes = [member.remote for member in members]
        databases = [connect("OVN_Northbound", *remotes) for _ in range(4)]
        for turn in range(20):
            row = row_uuid("test", str(turn))
            databases[turn % 4].transact(add_switch(str(turn), row), deadline=Deadline(SOON))
            (rows,) = databases[(turn + 1) % 4].transact(
                ovsdb.select("Logical_Switch", is_row(row), columns=["name"]), deadline=Deadline(SOON)
            )
            assert rows == [{"name": str(turn)}]
        self.follow(databases, members)

    def test_single_remote_may_be_a_follower(self, members: list[Member], connect: Connect) -> None:
        for number, member in enumerate(members):
            database = connect(member)
            database.transact(add_switch("x", row_uuid("test", str(number))), deadline=Deadline(SOON))

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", ["kill", "pause"])
    def test_calls_survive_the_loss_of_the_leader(
        self, database: Database, members: list[Member], fault: str
    ) -> None:
        """Each call is done once, though its state was unknown when the leader died."""
        sent = threading.Semaphore(0)

        def add(number: int) -> None:
            for turn in range(20):
                name = f"{number}.{turn}"
                with suppress(DuplicateRow):
                    database.transact(add_switch(name, row_uuid("test", name)), deadline=Deadline(2 * SOON))
                sent.release()

        leader = self.leader(members)
        with ThreadPoolExecutor(16) as threads:
            adding = [threads.submit(add, number) for number in range(16)]
            for _ in range(50):
                sent.acquire()
            getattr(leader, fault)()
            for each in adding:
                each.result()
        (rows,) = database.transact(READ, deadline=Deadline(SOON))
        assert sorted(row["name"] for row in rows) == sorted(
            f"{n}.{turn}" for n in range(16) for turn in range(20)
        )

    def test_idle_connection_follows_the_leader(self, database: Database, members: list[Member]) -> None:
        database.transact(add_switch("before"), deadline=Deadline(SOON))
        leader = self.leader(members)
        leader.pause()
        until(lambda: any(member.leads() for member in members if member is not leader))
        leader.resume()
        until(lambda: not leader.leads())
        database.transact(add_switch("after", PORT), deadline=Deadline(SOON))
        self.follow([database], members)

    @pytest.mark.slow
    def test_watch_continues_with_the_next_leader(self, database: Database, members: list[Member]) -> None:
        seen = watched(database)
        self.leader(members).kill()
        until(lambda: len(seen) >= 2)
        before = len(seen)
        made = ovsdb.insert("DHCP_Options", WATCHED, cidr="", external_ids={})
        database.transact(made, deadline=Deadline(SOON))
        until(lambda: len(seen) > before)

    @pytest.mark.slow
    def test_without_a_majority_calls_end_by_their_deadline(
        self, database: Database, members: list[Member]
    ) -> None:
        database.transact(add_switch("before"), deadline=Deadline(SOON))
        for member in members[:2]:
            member.kill()
        with at_most(SOON), pytest.raises(Unavailable, match=r"more than half of the members|did not answer"):
            database.transact(add_switch("late", PORT), deadline=Deadline(3))
        members[0].start()
        database.transact(add_switch("after", row_uuid("x")), deadline=Deadline(2 * SOON))


class TestLocks:
    """Locks of RFC 7047, 4.1.8: one client holds a lock, until it unlocks or its connection ends."""

    def test_lock_has_one_holder(self, northbound: OvsdbServer, connect: Connect) -> None:
        one, other = connect(northbound), connect(northbound)
        with one.lock("turn", Deadline(SOON)) as own:
            assert own
            with other.lock("turn", Deadline(SOON)) as theirs:
                assert theirs is None
            with other.lock("another", Deadline(SOON)) as theirs:
                assert theirs
            own.transact(add_switch(), deadline=Deadline(SOON))
        with other.lock("turn", Deadline(SOON)) as theirs:
            assert theirs
        assert names(northbound) == ["web"]

    def test_locked_transactions_have_results_and_refusals(self, database: Database) -> None:
        with database.lock("turn", Deadline(SOON)) as own:
            assert own
            _, rows = own.transact(add_switch(), READ, deadline=Deadline(SOON))
            assert rows == [{"name": "web"}]
            with pytest.raises(DuplicateRow):
                own.transact(add_switch(), deadline=Deadline(SOON))

    def test_transaction_without_the_lock_is_refused(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        with database.lock("turn", Deadline(SOON)) as own:
            assert own
            northbound.kill()
            northbound.start()
            with pytest.raises(NotOwner):
                own.transact(add_switch(), deadline=Deadline(SOON))
        assert names(northbound) == []

    def test_lock_of_an_unreachable_server_is_an_error(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        northbound.kill()
        with (
            pytest.raises(Unavailable, match="cannot reach OVN_Northbound"),
            database.lock("turn", Deadline(0.3)),
        ):
            pass

    def test_lock_is_taken_from_a_reachable_server(self, make_server: MakeServer, connect: Connect) -> None:
        server = make_server("OVN_Northbound")
        with connect("OVN_Northbound", f"tcp:127.0.0.1:{free_port()}", server.remote).lock(
            "turn", Deadline(SOON)
        ) as own:
            assert own


class TestClosing:
    def test_closing_fails_waiting_calls(self, database: Database, northbound: OvsdbServer) -> None:
        with ThreadPoolExecutor() as threads, at_most(SOON / 2):
            wanted = require("Logical_Switch", PORT, wait=SOON)
            waits = threads.submit(database.transact, wanted, deadline=Deadline(SOON))
            until(northbound.holds)
            database.close()
            with pytest.raises(Unavailable, match="connection to OVN_Northbound is closed"):
                waits.result()

    def test_calls_after_closing_fail_at_once(self, database: Database) -> None:
        database.close()
        with at_most(SOON / 2), pytest.raises(Unavailable, match="connection to OVN_Northbound is closed"):
            database.transact(add_switch(), deadline=Deadline(SOON))

    def test_closing_ends_threads_and_closes_files(self, northbound: OvsdbServer) -> None:
        def open_and_close() -> None:
            database = Database(northbound.database, [northbound.remote])
            database.transact(READ, deadline=Deadline(SOON))
            database.close()

        open_and_close()
        files, active = len(list(FILES.iterdir())), threading.active_count()
        for _ in range(30):
            open_and_close()
        # Threads of other tests may end, or open files for a moment.
        until(lambda: len(list(FILES.iterdir())) <= files and threading.active_count() <= active)

    def test_closing_answers_every_call(self, northbound: OvsdbServer) -> None:
        def call_until_closed(database: Database) -> str:
            while True:
                try:
                    database.transact(READ, deadline=Deadline(SOON))
                except Unavailable as error:
                    return str(error)

        with ThreadPoolExecutor(8) as threads, at_most(SOON / 2):
            for _ in range(10):
                database = Database(northbound.database, [northbound.remote])
                calls = [threads.submit(call_until_closed, database) for _ in range(8)]
                time.sleep(0.01)
                database.close()
                assert {call.result() for call in calls} == {"the connection to OVN_Northbound is closed"}


@dataclass(frozen=True)
class Authority:
    """A certificate authority and the files that it has signed."""

    directory: Path

    def sign(self, name: str, address: str = "127.0.0.1") -> Tls:
        """Return new TLS files that trust this authority."""
        ca, key, signed = self.directory / "ca.pem", self.directory / f"{name}.key", self.directory / name
        if not ca.exists():
            self._openssl("-x509", "-days", "2", "-subj", "/CN=CA", "-keyout", f"{ca}.key", "-out", str(ca))
        self._openssl(
            "-x509", "-days", "2", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(signed),
            "-CA", str(ca), "-CAkey", f"{ca}.key", "-addext", f"subjectAltName=IP:{address}",
        )  # fmt: skip
        return Tls(str(key), str(signed), str(ca))

    def _openssl(self, *options: str) -> None:
        make = [
            "openssl",
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            *options,
        ]
        subprocess.run(make, check=True, capture_output=True)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module")
def server_files(ours: Authority) -> Tls:
    return ours.sign("server")


def serve_tls(make_server: MakeServer, files: Tls) -> tuple[OvsdbServer, str]:
    """Start a server with the TLS *files*; return it and its remote."""
    port = free_port()
    server = make_server(
        *("OVN_Northbound", f"--remote=pssl:{port}:127.0.0.1", f"--private-key={files.private_key}"),
        *(f"--certificate={files.certificate}", f"--ca-cert={files.ca_cert}"),
    )
    return server, f"ssl:127.0.0.1:{port}"


def await_refusal(database: Database, why: str) -> None:
    """Wait until a call fails with the reason *why*: a busy machine may need longer for the handshake."""

    def is_named() -> bool:
        with pytest.raises(Unavailable) as failed:
            database.transact(READ, deadline=Deadline(0.3))
        return bool(re.search(why, str(failed.value)))

    is_named.__doc__ = why
    until(is_named)


class TestTls:
    @pytest.fixture
    def remote(self, make_server: MakeServer, server_files: Tls) -> str:
        return serve_tls(make_server, server_files)[1]

    def test_server_of_our_authority_is_accepted(
        self, remote: str, ours: Authority, connect: Connect
    ) -> None:
        database = connect("OVN_Northbound", remote, tls=ours.sign("client"))
        assert database.transact(READ, deadline=Deadline(SOON)) == [[]]

    def test_certificate_of_another_address_is_refused(
        self, make_server: MakeServer, ours: Authority, connect: Connect
    ) -> None:
        """Each host has a certificate that our authority signed."""
        _, remote = serve_tls(make_server, ours.sign("other", "127.0.0.2"))
        strict = ours.sign("client")
        why = r"not valid for '127\.0\.0\.1'.*ovn-docker pki; or trust all"
        await_refusal(connect("OVN_Northbound", remote, tls=strict), why)
        database = connect("OVN_Northbound", remote, tls=replace(strict, names=False))
        assert database.transact(READ, deadline=Deadline(SOON)) == [[]]

    @pytest.mark.slow
    def test_databases_of_two_authorities_do_not_affect_each_other(
        self, make_server: MakeServer, ours: Authority, foreign: Authority, connect: Connect
    ) -> None:
        """Both databases are used by one process, and reconnect alternately."""
        pairs = []
        for number, authority in enumerate((ours, foreign, ours, foreign)):
            server, remote = serve_tls(make_server, authority.sign(f"server{number}"))
            files = authority.sign(f"client{number}")
            pairs.append((server, connect("OVN_Northbound", remote, tls=files)))
        for _ in range(2):
            for server, database in pairs:
                assert database.transact(READ, deadline=Deadline(SOON)) == [[]]
                server.kill()
                with pytest.raises(Unavailable, match="Connection refused"):
                    database.knock()
                server.start()
        for _, database in pairs:
            assert database.transact(READ, deadline=Deadline(SOON)) == [[]]

    def test_threads_that_connect_at_once_each_use_their_own_files(
        self, make_server: MakeServer, ours: Authority, foreign: Authority
    ) -> None:
        pairs = []
        for authority in (ours, foreign):
            _, remote = serve_tls(make_server, authority.sign("server"))
            pairs.append((remote, authority.sign("client")))

        def connects(number: int) -> list[object]:
            remote, files = pairs[number % 2]
            with closing(Database("OVN_Northbound", [remote], tls=files)) as database:
                return database.transact(READ, deadline=Deadline(SOON))

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(connects, range(40))) == [[[]]] * 40

    def test_name_that_no_certificate_has_is_a_one_line_error(
        self, ours: Authority, connect: Connect
    ) -> None:
        database = connect("OVN_Northbound", "ssl:a..b:6641", tls=ours.sign("client"))
        with pytest.raises(Unavailable, match=r"cannot reach OVN_Northbound at ssl:a\.\.b:6641: Invalid arg"):
            database.transact(READ, deadline=Deadline(0.2))

    @pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
    def test_key_that_others_can_read_is_refused(self, ours: Authority, mode: int) -> None:
        files = ours.sign("loose")
        Path(files.private_key).chmod(mode)
        with pytest.raises(
            BadRequest, match=rf"loose\.key is accessible to others \(mode {mode:04o}\): type chmod 600 /"
        ):
            check_files(files)
        Path(files.private_key).chmod(0o640)
        check_files(files)

    def test_server_of_another_authority_is_refused(
        self, remote: str, foreign: Authority, connect: Connect
    ) -> None:
        database = connect("OVN_Northbound", remote, tls=foreign.sign("client"))
        await_refusal(database, r"ssl:127\.0\.0\.1:\d+: .*certificate verify failed")

    def test_refusal_of_our_certificate_is_named(
        self, remote: str, ours: Authority, foreign: Authority, connect: Connect
    ) -> None:
        files = replace(foreign.sign("client"), ca_cert=ours.sign("client").ca_cert)
        await_refusal(connect("OVN_Northbound", remote, tls=files), r"ssl:127\.0\.0\.1:\d+: .*unknown ca")

    def test_server_without_tls_is_refused(self, remote: str, connect: Connect) -> None:
        plain = remote.replace("ssl:", "tcp:")
        database = connect("OVN_Northbound", plain)
        with at_most(SOON / 2), pytest.raises(OvnDockerError, match=re.escape(plain)):
            database.transact(READ, deadline=Deadline(0.5))

    def test_missing_tls_files_are_an_error_with_the_command(self) -> None:
        with pytest.raises(BadRequest, match="name their files with: ovs-vsctl set-ssl PRIVATE-KEY"):
            Database("OVN_Northbound", ["ssl:127.0.0.1:6641"])

    @pytest.mark.parametrize("file", ["private_key", "certificate", "ca_cert"])
    def test_missing_file_is_named(self, ours: Authority, file: str) -> None:
        files = replace(ours.sign("client"), **{file: "/nowhere/x.pem"})
        with pytest.raises(BadRequest, match=r"/nowhere/x\.pem.*No such file"):
            check_files(files)

    def test_a_key_of_another_certificate_is_refused(self, ours: Authority, server_files: Tls) -> None:
        with pytest.raises(BadRequest, match="KEY_VALUES_MISMATCH"):
            check_files(replace(ours.sign("client"), private_key=server_files.private_key))


class TestWatch:
    """Watches of one row, such as the follower's watch of the generation."""

    def test_watch_yields_for_its_row_alone(self, northbound: OvsdbServer, connect: Connect) -> None:
        database, writer = connect(northbound), connect(northbound)
        seen = watched(database)
        for number, row in ((1, row_uuid("watched", "another row")), (2, WATCHED)):
            made = ovsdb.insert("DHCP_Options", row, cidr=str(number), external_ids={"a": "b"})
            writer.transact(made, deadline=Deadline(5))
        until(lambda: len(seen) >= 2)
        change = ovsdb.update("DHCP_Options", is_row(WATCHED), external_ids={"a": "c"})
        writer.transact(change, deadline=Deadline(5))
        until(lambda: len(seen) >= 3)
        writer.transact(ovsdb.delete("DHCP_Options", is_row(WATCHED)), deadline=Deadline(5))
        until(lambda: len(seen) >= 4)
        assert len(seen) == 4

    def test_watch_begins_again_after_a_lost_connection(
        self, northbound: OvsdbServer, connect: Connect
    ) -> None:
        seen = watched(connect(northbound))
        northbound.kill()
        northbound.start()
        until(lambda: len(seen) == 2)
        made = ovsdb.insert("DHCP_Options", WATCHED, cidr="", external_ids={})
        connect(northbound).transact(made, deadline=Deadline(5))
        until(lambda: len(seen) == 3)

    def test_watch_ends_with_the_database(self, northbound: OvsdbServer, connect: Connect) -> None:
        database = connect(northbound)
        changes = database.watch("DHCP_Options", WATCHED, "external_ids")
        next(changes)
        database.close()
        with pytest.raises(Unavailable, match="closed"):
            next(changes)
