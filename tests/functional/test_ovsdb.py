"""The connection to a database, on real servers that die, hang and come back."""

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
from ovn_docker.host.ovsdb import Database, OperationError, Reference, has, is_row, require
from ovn_docker.host.tls import check_files
from ovn_docker.model import Tls, row_uuid

SWITCH = row_uuid("test", "switch")
PORT = row_uuid("test", "port")
SOON = 30.0
Read = Callable[[Tls], list[object]]
FILES = Path("/proc/self/fd")
READ = ovsdb.select("Logical_Switch", columns=["name"])


def add_switch(name: str = "web", row: str = SWITCH) -> ovsdb.Operation:
    return ovsdb.insert("Logical_Switch", row, name=name)


def names(server: OvsdbServer) -> list[str]:
    return sorted(row["name"] for row in server.rows("Logical_Switch", "name"))


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
    def test_rows_come_as_python_values(self, database: Database) -> None:
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

    def test_answers_may_be_long_and_in_any_language(self, database: Database) -> None:
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

    def test_changes_count_the_rows_that_they_met(self, database: Database) -> None:
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
        ) == [1, 1, [{"name": "web2", "external_ids": {"a": "1", "b": "2"}}], 1, 0]

    def test_a_refused_operation_is_named_and_nothing_is_done(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        with pytest.raises(OperationError, match="refused operation 1: duplicate uuid") as refused:
            database.transact(add_switch("a"), add_switch("b"), deadline=Deadline(SOON))
        assert (refused.value.index, refused.value.error) == (1, "duplicate uuid")
        assert names(northbound) == []

    def test_a_refusal_at_the_commit_comes_behind_the_last_operation(self, database: Database) -> None:
        lost = ovsdb.insert("Logical_Switch", SWITCH, name="web", ports=[Reference(PORT)])
        with pytest.raises(OperationError, match="referential integrity violation") as refused:
            database.transact(lost, deadline=Deadline(SOON))
        assert refused.value.index == 1

    def test_a_value_of_the_wrong_type_is_refused(self, database: Database) -> None:
        with pytest.raises(OperationError, match=r"refused operation 0: .*expected string"):
            database.transact(ovsdb.insert("Logical_Switch", SWITCH, name=7), deadline=Deadline(SOON))

    def test_a_server_without_the_database_says_so(self, northbound: OvsdbServer, connect: Connect) -> None:
        southbound = connect("OVN_Southbound", northbound.remote)
        with pytest.raises(Unavailable, match=rf"OVN_Southbound at {northbound.remote}.*unknown database"):
            southbound.transact(ovsdb.select("Chassis", columns=["name"]), deadline=Deadline(SOON))


class TestWaiting:
    def test_a_row_that_is_there_is_not_waited_for(self, database: Database) -> None:
        database.transact(add_switch(), deadline=Deadline(SOON))
        database.transact(require("Logical_Switch", SWITCH), deadline=Deadline(SOON))

    def test_a_row_that_does_not_come_times_out_and_the_rest_is_not_done(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        with at_most(SOON / 2), pytest.raises(OperationError) as refused:
            database.transact(
                require("Logical_Switch", PORT, wait=0.2), add_switch(), deadline=Deadline(SOON)
            )
        assert (refused.value.index, refused.value.error) == (0, "timed out")
        assert names(northbound) == []

    def test_goes_on_when_the_row_becomes_as_wanted_while_others_are_served(
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
            assert waits.result() == [None, None]
        assert names(northbound) == ["b", "web"]


class TestManyCallers:
    def test_each_gets_its_own_answer(self, database: Database, northbound: OvsdbServer) -> None:
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

    def test_none_is_lost_when_the_server_dies_and_comes_back(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        """A transaction may have been committed before its answer was lost: then the second one is told."""
        sent = threading.Semaphore(0)

        def add(number: int) -> None:
            for turn in range(20):
                name = f"{number}.{turn}"
                try:
                    database.transact(add_switch(name, row_uuid("test", name)), deadline=Deadline(SOON))
                except OperationError as error:
                    if error.error != "duplicate uuid":
                        raise
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

    def test_waiting_for_a_row_outlives_the_server(self, database: Database, northbound: OvsdbServer) -> None:
        with ThreadPoolExecutor() as threads:
            wanted = require("Logical_Switch", SWITCH, wait=SOON)
            waits = threads.submit(database.transact, wanted, deadline=Deadline(SOON))
            until(northbound.holds)
            northbound.kill()
            northbound.start()
            database.transact(add_switch(), deadline=Deadline(SOON))
            assert waits.result() == [None]


class TestIdleConnections:
    @pytest.mark.slow
    def test_are_used_again_and_kept_while_the_server_asks_whether_we_live(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        port = free_port()
        server = make_server("OVN_Northbound", "--remote=db:OVN_Northbound,NB_Global,connections")
        connection = {"target": f"ptcp:{port}:127.0.0.1", "inactivity_probe": 2500}  # ms; gives up after two
        server.transact(
            {"op": "insert", "table": "Connection", "uuid-name": "c", "row": connection},
            {"op": "insert", "table": "NB_Global", "row": {"connections": ["named-uuid", "c"]}},
        )
        database = connect("OVN_Northbound", f"tcp:127.0.0.1:{port}")
        before = self.connections()
        database.transact(READ, deadline=Deadline(SOON))
        (ours,) = self.connections() - before
        time.sleep(6)
        database.transact(READ, deadline=Deadline(SOON))
        assert self.connections() - before == {ours}

    def connections(self) -> set[str]:
        """The sockets of this process."""
        targets = (str(file.readlink()) for file in FILES.iterdir() if file.is_symlink())
        return {target for target in targets if target.startswith("socket:")}


class TestServersThatFail:
    def test_a_server_that_hangs_costs_a_call_its_deadline(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        database.transact(add_switch("before"), deadline=Deadline(SOON))
        northbound.pause()
        with at_most(SOON / 2), pytest.raises(TimedOut, match=r"OVN_Northbound at unix:.* within 0\.3 s"):
            database.transact(add_switch("late", PORT), deadline=Deadline(0.3))
        northbound.resume()
        with at_most(SOON / 2):
            database.transact(add_switch("x", row_uuid("x")), deadline=Deadline(SOON))

    def test_one_that_accepts_connections_and_says_nothing_costs_a_call_its_deadline(
        self, connect: Connect
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            database = connect("OVN_Northbound", f"tcp:127.0.0.1:{mute.getsockname()[1]}")
            with at_most(SOON / 2), pytest.raises(TimedOut, match=r"did not answer within 0\.3 s"):
                database.transact(add_switch(), deadline=Deadline(0.3))

    def test_a_call_that_hangs_does_not_hold_up_another(
        self, database: Database, northbound: OvsdbServer
    ) -> None:
        with ThreadPoolExecutor() as threads, at_most(SOON):
            waits = threads.submit(
                database.transact, require("Logical_Switch", PORT, wait=2), deadline=Deadline(SOON)
            )
            database.transact(add_switch(), deadline=Deadline(SOON))
            assert not waits.done()
            with pytest.raises(OperationError, match="timed out"):
                waits.result()

    def test_one_that_is_not_there_is_named_with_the_reason(self, connect: Connect, tmp_path: Path) -> None:
        refusing, absent = f"tcp:127.0.0.1:{free_port()}", f"unix:{tmp_path}/none.sock"
        database = connect("OVN_Northbound", refusing, absent)
        with at_most(3), pytest.raises(Unavailable) as failed:
            database.transact(add_switch(), deadline=Deadline(0.3))
        assert f"{refusing}: Connection refused; {absent}: No such file or directory" in str(failed.value)

    def test_one_that_was_there_too_late_is_said_to_be_there(self, connect: Connect) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            database = connect("OVN_Northbound", f"tcp:127.0.0.1:{server.getsockname()[1]}")
            with pytest.raises(Unavailable, match="it takes connections now: try again"):
                database.transact(add_switch(), deadline=Deadline(0))

    def test_one_that_closes_connections_at_once_is_not(self, connect: Connect) -> None:
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

    def test_a_call_made_before_the_server_is_up_succeeds(
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

    def test_what_nobody_waits_for_any_more_is_not_done_later(
        self, northbound: OvsdbServer, connect: Connect
    ) -> None:
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
    def test_an_address_that_is_none_is_refused(self, remote: str) -> None:
        with pytest.raises(BadRequest, match=f"'{remote}' is no database address: give tcp:IP:PORT"):
            Database("OVN_Northbound", [remote])


class TestSeveralServers:
    @pytest.fixture
    def servers(self, make_server: MakeServer) -> list[OvsdbServer]:
        """Stand for the members of a cluster: they share nothing, so we see who served."""
        return [make_server("OVN_Northbound") for _ in range(2)]

    @pytest.fixture
    def database(self, servers: list[OvsdbServer], connect: Connect) -> Database:
        return connect("OVN_Northbound", *(server.remote for server in servers))

    def test_one_serves_until_it_dies_and_then_the_other(
        self, database: Database, servers: list[OvsdbServer]
    ) -> None:
        database.transact(add_switch("first"), deadline=Deadline(SOON))
        one, other = sorted(servers, key=names, reverse=True)
        assert (names(one), names(other)) == (["first"], [])
        one.kill()
        database.transact(add_switch("second"), deadline=Deadline(SOON))
        assert names(other) == ["second"]

    def test_the_other_serves_when_one_hangs(self, database: Database, servers: list[OvsdbServer]) -> None:
        """So does a member that has lost its cluster: it answers probes, and commits nothing."""
        database.transact(add_switch("first"), deadline=Deadline(SOON))
        one, other = sorted(servers, key=names, reverse=True)
        one.pause()
        with pytest.raises(TimedOut):
            database.transact(add_switch("lost", PORT), deadline=Deadline(0.5))
        with at_most(3):
            database.transact(add_switch("second"), deadline=Deadline(SOON))
        assert names(other) == ["second"]

    def test_the_second_serves_when_the_first_is_not_there(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        port = free_port()
        server = make_server("OVN_Northbound", f"--remote=ptcp:{port}:127.0.0.1")
        for turn in range(4):  # the order is random
            database = connect("OVN_Northbound", f"tcp:127.0.0.1:{free_port()}", f"tcp:127.0.0.1:{port}")
            database.transact(add_switch(str(turn), row_uuid("test", str(turn))), deadline=Deadline(SOON))
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
        """The one that leads; where members have to wait for the processor they may just elect another."""
        found: list[Member] = []

        def one_leads() -> bool:
            found[:] = (member for member in members if member.leads())
            return len(found) == 1

        until(one_leads)
        return found[0]

    def follow(self, databases: list[Database], members: list[Member]) -> None:
        """Wait until they all are connected to the leader: on a busy machine it may have just changed."""

        def all_do() -> bool:
            for database in databases:
                database.transact(READ, deadline=Deadline(SOON))
            return {database.remote for database in databases} == {self.leader(members).remote}

        until(all_do)

    def test_what_one_call_has_written_the_next_one_reads(
        self, members: list[Member], connect: Connect
    ) -> None:
        """Of a follower it would be told what was true some time ago."""
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

    def test_a_follower_serves_who_knows_nobody_else(self, members: list[Member], connect: Connect) -> None:
        for number, member in enumerate(members):
            database = connect(member)
            database.transact(add_switch("x", row_uuid("test", str(number))), deadline=Deadline(SOON))

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", ["kill", "pause"])
    def test_calls_outlive_the_leader(self, database: Database, members: list[Member], fault: str) -> None:
        """Each is done once, though nobody knew whether it was when the leader went."""
        sent = threading.Semaphore(0)

        def add(number: int) -> None:
            for turn in range(20):
                name = f"{number}.{turn}"
                try:
                    database.transact(add_switch(name, row_uuid("test", name)), deadline=Deadline(2 * SOON))
                except OperationError as error:
                    if error.error != "duplicate uuid":
                        raise
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

    def test_a_connection_at_rest_follows_the_leadership(
        self, database: Database, members: list[Member]
    ) -> None:
        database.transact(add_switch("before"), deadline=Deadline(SOON))
        leader = self.leader(members)
        leader.pause()
        until(lambda: any(member.leads() for member in members if member is not leader))
        leader.resume()
        until(lambda: not leader.leads())
        database.transact(add_switch("after", PORT), deadline=Deadline(SOON))
        self.follow([database], members)

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
    """RFC 7047, 4.1.8: whoever has the lock keeps others out until it is done, or dead."""

    def test_one_has_it_at_a_time(self, northbound: OvsdbServer, connect: Connect) -> None:
        one, other = connect(northbound), connect(northbound)
        with one.lock("turn", Deadline(SOON)) as mine:
            assert mine
            with other.lock("turn", Deadline(SOON)) as theirs:
                assert theirs is None
            with other.lock("another", Deadline(SOON)) as theirs:
                assert theirs
            mine.transact(add_switch(), deadline=Deadline(SOON))
        with other.lock("turn", Deadline(SOON)) as theirs:
            assert theirs
        assert names(northbound) == ["web"]

    def test_results_and_refusals_are_those_of_transactions(self, database: Database) -> None:
        with database.lock("turn", Deadline(SOON)) as mine:
            assert mine
            _, rows = mine.transact(add_switch(), READ, deadline=Deadline(SOON))
            assert rows == [{"name": "web"}]
            with pytest.raises(OperationError, match="duplicate uuid"):
                mine.transact(add_switch(), deadline=Deadline(SOON))

    def test_who_has_lost_it_does_nothing_any_more(self, database: Database, northbound: OvsdbServer) -> None:
        with database.lock("turn", Deadline(SOON)) as mine:
            assert mine
            northbound.kill()
            northbound.start()
            with pytest.raises(OperationError, match="not owner"):
                mine.transact(add_switch(), deadline=Deadline(SOON))
        assert names(northbound) == []

    def test_without_a_server_it_is_told(self, database: Database, northbound: OvsdbServer) -> None:
        northbound.kill()
        with (
            pytest.raises(Unavailable, match="cannot reach OVN_Northbound"),
            database.lock("turn", Deadline(0.3)),
        ):
            pass

    def test_of_several_remotes_one_is_asked_that_is_there(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = make_server("OVN_Northbound")
        with connect("OVN_Northbound", f"tcp:127.0.0.1:{free_port()}", server.remote).lock(
            "turn", Deadline(SOON)
        ) as mine:
            assert mine


class TestClosing:
    def test_calls_that_wait_fail(self, database: Database, northbound: OvsdbServer) -> None:
        with ThreadPoolExecutor() as threads, at_most(SOON / 2):
            wanted = require("Logical_Switch", PORT, wait=SOON)
            waits = threads.submit(database.transact, wanted, deadline=Deadline(SOON))
            until(northbound.holds)
            database.close()
            with pytest.raises(Unavailable, match="connection to OVN_Northbound is closed"):
                waits.result()

    def test_later_calls_fail_at_once(self, database: Database) -> None:
        database.close()
        with at_most(SOON / 2), pytest.raises(Unavailable, match="connection to OVN_Northbound is closed"):
            database.transact(add_switch(), deadline=Deadline(SOON))

    def test_leaves_no_thread_and_no_file_behind(self, northbound: OvsdbServer) -> None:
        def turn() -> None:
            database = Database(northbound.database, [northbound.remote])
            database.transact(READ, deadline=Deadline(SOON))
            database.close()

        turn()
        files, active = len(list(FILES.iterdir())), threading.active_count()
        for _ in range(30):
            turn()
        assert len(list(FILES.iterdir())) <= files  # of an earlier test some may go only now
        assert threading.active_count() <= active

    def test_no_call_is_forgotten_while_closing(self, northbound: OvsdbServer) -> None:
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
    """A CA, and what it has signed."""

    directory: Path

    def sign(self, name: str, address: str = "127.0.0.1") -> Tls:
        """Files for somebody who trusts this CA."""
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
    """A server that shows *files*, and its remote."""
    port = free_port()
    server = make_server(
        *("OVN_Northbound", f"--remote=pssl:{port}:127.0.0.1", f"--private-key={files.private_key}"),
        *(f"--certificate={files.certificate}", f"--ca-cert={files.ca_cert}"),
    )
    return server, f"ssl:127.0.0.1:{port}"


class TestTls:
    @pytest.fixture
    def remote(self, make_server: MakeServer, server_files: Tls) -> str:
        return serve_tls(make_server, server_files)[1]

    @pytest.fixture
    def read(self, remote: str, connect: Connect) -> Read:
        def read(tls: Tls) -> list[object]:
            database = connect("OVN_Northbound", remote, tls=tls)
            return database.transact(READ, deadline=Deadline(3))

        return read

    def test_a_server_that_our_ca_signed_serves_us(self, read: Read, ours: Authority) -> None:
        assert read(ours.sign("client")) == [[]]

    def test_a_server_with_the_certificate_of_another_address_is_refused(
        self, make_server: MakeServer, ours: Authority, connect: Connect
    ) -> None:
        """Each host has one that our CA signed."""
        _, remote = serve_tls(make_server, ours.sign("other", "127.0.0.2"))
        strict = ours.sign("client")
        with pytest.raises(Unavailable, match=r"not valid for '127\.0\.0\.1'.*ovn-docker pki; or trust all"):
            connect("OVN_Northbound", remote, tls=strict).transact(READ, deadline=Deadline(3))
        database = connect("OVN_Northbound", remote, tls=replace(strict, names=False))
        assert database.transact(READ, deadline=Deadline(SOON)) == [[]]

    def test_databases_of_two_authorities_do_not_change_each_other(
        self, make_server: MakeServer, ours: Authority, foreign: Authority, connect: Connect
    ) -> None:
        """In one process, whichever connects last: each of their connections is made anew in turns."""
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

    def test_a_name_that_cannot_be_in_a_certificate_is_one_clear_line(
        self, ours: Authority, connect: Connect
    ) -> None:
        database = connect("OVN_Northbound", "ssl:a..b:6641", tls=ours.sign("client"))
        with pytest.raises(Unavailable, match=r"cannot reach OVN_Northbound at ssl:a\.\.b:6641: Invalid arg"):
            database.transact(READ, deadline=Deadline(0.2))

    @pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
    def test_a_key_that_others_can_read_is_refused(self, ours: Authority, mode: int) -> None:
        files = ours.sign("loose")
        Path(files.private_key).chmod(mode)
        with pytest.raises(BadRequest, match=rf"loose\.key has mode {mode:04o}.* type chmod 600 /"):
            check_files(files)
        Path(files.private_key).chmod(0o640)
        check_files(files)

    def test_a_server_that_another_ca_signed_is_refused(self, read: Read, foreign: Authority) -> None:
        with pytest.raises(Unavailable, match=r"ssl:127\.0\.0\.1:\d+: .*certificate verify failed"):
            read(foreign.sign("client"))

    def test_a_server_that_does_not_trust_us_says_so(
        self, read: Read, ours: Authority, foreign: Authority
    ) -> None:
        with pytest.raises(Unavailable, match=r"ssl:127\.0\.0\.1:\d+: .*unknown ca"):
            read(replace(foreign.sign("client"), ca_cert=ours.sign("client").ca_cert))

    def test_without_tls_the_server_is_no_use(self, remote: str, connect: Connect) -> None:
        plain = remote.replace("ssl:", "tcp:")
        database = connect("OVN_Northbound", plain)
        with at_most(3), pytest.raises(OvnDockerError, match=re.escape(plain)):
            database.transact(READ, deadline=Deadline(0.5))

    def test_without_files_we_say_how_to_name_them(self) -> None:
        with pytest.raises(BadRequest, match="name their files with: ovs-vsctl set-ssl PRIVATE-KEY"):
            Database("OVN_Northbound", ["ssl:127.0.0.1:6641"])

    @pytest.mark.parametrize("file", ["private_key", "certificate", "ca_cert"])
    def test_a_file_that_is_missing_is_named(self, ours: Authority, file: str) -> None:
        files = replace(ours.sign("client"), **{file: "/nowhere/x.pem"})
        with pytest.raises(BadRequest, match=r"/nowhere/x\.pem.*No such file"):
            check_files(files)

    def test_a_key_of_another_certificate_is_refused(self, ours: Authority, server_files: Tls) -> None:
        with pytest.raises(BadRequest, match="KEY_VALUES_MISMATCH"):
            check_files(replace(ours.sign("client"), private_key=server_files.private_key))
