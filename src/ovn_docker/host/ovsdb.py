"""OVSDB transactions over connections that mend themselves (RFC 7047, ovsdb-server(7)).

No replica of the database is kept: an operation names its rows by UUID and costs the same
whatever the size of the tables. Every transaction that is sent here must be safe to send twice,
because after a lost connection nobody knows whether it was committed.

Of a cluster only the leader is spoken with, as the C and Python libraries of OVSDB do by default: what a
follower reads to us may be older than what we have just written through another connection.
"""

import errno
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from select import poll
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream

from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, OvnDockerError, TimedOut, Unavailable
from ovn_docker.host.parser import Parser
from ovn_docker.host.tls import check_files, streams_with, why_untrusted
from ovn_docker.model import Tls
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

Operation = dict[str, Any]
Row = dict[str, Any]
Condition = list[Any]

_BACKOFF = 1000, 4000
"""Shortest and longest pause between two attempts to connect, in milliseconds."""

_CLUSTER_BACKOFF = 250, 1000
"""The same where there are several servers: they elect a leader within a second or two."""

_CLUSTER_PROBE = 3000
"""Milliseconds of silence after which one of several servers is asked whether it lives; after as many again
the next has its turn. A request of Docker's has 15 s, and a transaction may keep a server busy for 5."""

_SAYS_NOTHING = 2.0
"""Seconds that one of several servers has to say whether it leads."""

_LOOK, _KEEP, _UNUSED = 0.5, 2.0, 60.0
"""Seconds between a waiting call's looks at whether we close; between two looks after idle connections; until
one that is not needed is closed. Servers ask whether we live after 5 s, and give up after another 5."""

ovs.poller.SelectPoll = poll  # as its source advises: select() ends at 1024 files


class OperationError(OvnDockerError):
    """The server refused an operation; nothing of its transaction was done (RFC 7047, 4.1.3).

    *before*: results of the operations before it, so that what these have read need not be asked for again.
    """

    def __init__(self, index: int, error: str, details: str, before: list[Any]) -> None:
        super().__init__(f"the database refused operation {index}: {error} ({details})")
        self.index = index
        self.error = error
        self.before = before


class Database:
    """A database on one server or on the members of a cluster; safe for use from many threads.

    *remotes* are active OVSDB connection methods (``unix:``, ``tcp:``, ``ssl:``), tried in turn until one is
    the leader, or no member of a cluster; a remote that is alone may be a follower. *cure* is what the user
    can do when none of them is there. *tls*: files for its ``ssl:`` connections, and for no other database's.
    Raises BadRequest for a remote that is not valid, and for files that cannot be used.

    A call has a connection for itself and reads its own answer: to wake another thread for that takes longer
    than the server needs. A thread looks after the connections that no call has.
    """

    def __init__(
        self,
        name: str,
        remotes: Sequence[str],
        cure: str = "is it running?",
        tls: Tls | None = None,
        threads: Threads | None = None,
    ) -> None:
        for remote in remotes:
            if not _is_address(remote):
                raise BadRequest(
                    f"{remote!r} is no database address: give tcp:IP:PORT, ssl:IP:PORT or unix:FILE"
                )
        if any(remote.startswith("ssl:") for remote in remotes):
            check_files(tls)
        self.name = name
        self.remotes = tuple(remotes)
        self.tls = tls
        self.losses = 0
        """How many of its connections broke, up to now."""
        self._cure = cure
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._first = random.choice(self.remotes)  # noqa: S311 - that not all hosts begin with the same one
        """The remote to begin with: where the last answer came from."""
        self._closed = threading.Event()
        self._keeper = (threads or Threads()).start(
            f"ovsdb {name}", f"keeps idle connections to {name} alive", self._keep, lasts=False
        )

    def transact(self, *operations: Operation, deadline: Deadline) -> list[Any]:
        """Run *operations* as one transaction and return one result each: rows for a select, a count, ...

        Raises OperationError when the server refuses it, Unavailable when no server answers
        before *deadline*.
        """
        connection = self._connection()
        try:
            result = self._result(connection, "transact", [self.name, *operations], deadline)
        except BaseException:
            connection.close()
            raise
        finally:
            self._count(connection)
        self._keep_idle(connection)
        return _results(result, self.name, len(operations))

    @contextmanager
    def lock(self, name: str, deadline: Deadline) -> Iterator["Locked | None"]:
        """Hold a lock, by its <id>, of the server; ``None`` if somebody else has it (RFC 7047, 4.1.8).

        On a connection for this alone, which ends with the block, and the lock with it. Each member of a
        cluster has locks of its own (ovsdb-server(7), "Lock"), so that of the leader is the one that counts.
        Raises Unavailable.
        """
        with closing(_Connection(self.name, self.remotes, self._first, self.tls)) as connection:
            taken = self._result(connection, "lock", [name], deadline).get("locked")
            try:
                yield Locked(partial(self._result, connection), self.name, name) if taken else None
            finally:
                if connection.connected:  # or the next one may come before the server sees that we have gone
                    with suppress(Unavailable):
                        self._result(connection, "unlock", [name], Deadline(1))

    def watch(self, table: str, row: str, column: str) -> Iterator[None]:
        """Yield when the watch of a row begins, and whenever that column of it may have changed; endless.

        The server sends a message when there is something to say, so that nothing is done at rest
        (ovsdb-server(7), "Monitor_Cond"). The row need not exist. After a lost connection, or with another
        leader, the watch begins again. On a connection for this alone. Raises Unavailable.
        """
        monitored = {table: [{"columns": [column], "where": [is_row(row)]}]}
        with closing(_Connection(self.name, self.remotes, self._first, self.tls)) as connection:
            connection.begin("monitor_cond", [self.name, "watch", monitored])
            while not self._closed.is_set():
                reply = connection.reply()
                self._count(connection)
                if reply is not None and reply.type == ovs.jsonrpc.Message.T_ERROR:
                    raise Unavailable(f"{self.name} at {self._where()}: {reply.error}")
                if connection.take_changed() or reply is not None:
                    self._first = connection.remote
                    yield
                else:
                    connection.wait(_KEEP)
        raise Unavailable(f"the connection to {self.name} is closed")

    @property
    def remote(self) -> str:
        """Which of the remotes it spoke with last, or will speak with first."""
        with self._lock:
            return self._first

    def knock(self) -> None:
        """Raise Unavailable if no remote takes a connection; at once, where transact would wait for one."""
        with streams_with(self.tls):
            refused = all(_refuses(remote) for remote in self.remotes)
        if refused:
            raise self._unreachable()

    def close(self) -> None:
        """Drop the connections; calls that still wait fail."""
        self._closed.set()
        self._keeper.join(timeout=5)
        self._drop_idle()

    def _connection(self) -> "_Connection":
        """The connection that was in use last, or a new one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            return _Connection(self.name, self.remotes, self._first, self.tls)

    def _result(self, connection: "_Connection", method: str, params: list[Any], deadline: Deadline) -> Any:
        reply = self._ask(connection, method, params, deadline)
        if reply.type == ovs.jsonrpc.Message.T_ERROR:
            raise Unavailable(f"{self.name} at {self._where()}: {reply.error}")
        return reply.result

    def _ask(
        self, connection: "_Connection", method: str, params: list[Any], deadline: Deadline
    ) -> ovs.jsonrpc.Message:
        connection.begin(method, params)
        while not self._closed.is_set():
            if (reply := connection.reply()) is not None:
                self._first = connection.remote
                return reply
            if not deadline.left():
                self._first = _after(connection.remote, self.remotes)
                self._drop_idle()
                raise self._no_answer(connection, deadline)
            connection.wait(deadline.left(at_most=_LOOK))
        raise Unavailable(f"the connection to {self.name} is closed")

    def _count(self, connection: "_Connection") -> None:
        if connection.lost:
            with self._lock:
                self.losses += connection.lost
            connection.lost = 0

    def _keep_idle(self, connection: "_Connection") -> None:
        with self._lock:
            if not self._closed.is_set():
                self._idle.append(connection)
                return
        connection.close()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _keep(self) -> None:
        """Answer the servers that want to know whether we live, and close what has long been idle."""
        while not self._closed.wait(_KEEP):
            for _ in range(len(self._idle)):
                with self._lock:
                    if not self._idle:
                        break
                    connection, last = self._idle.pop(0), not self._idle
                wanted = False
                try:
                    wanted = connection.lives() and (last or time.monotonic() - connection.used < _UNUSED)
                finally:
                    self._count(connection)
                    if wanted:
                        self._keep_idle(connection)
                    else:
                        connection.close()

    def _where(self) -> str:
        return ",".join(self.remotes)

    def _no_answer(self, connection: "_Connection", deadline: Deadline) -> Unavailable:
        if connection.follows:
            return Unavailable(
                f"{self.name} has no leader among {self._where()}: more than half of the members of a "
                "cluster have to be up and to reach each other; see `ovn-docker central status` there"
            )
        if connection.connected:
            return TimedOut(f"{self.name} at {self._where()} did not answer within {deadline.seconds:g} s")
        return self._unreachable()

    def _unreachable(self) -> Unavailable:
        """Say why nothing answers, by trying each remote once more."""
        with streams_with(self.tls):
            reasons = [f"{remote}: {_why_unreachable(remote)}" for remote in self.remotes]
        return Unavailable(f"cannot reach {self.name} at {'; '.join(reasons)}; {self._cure}")


class Locked:
    """A database whose lock we hold: no transaction is done once it is lost."""

    def __init__(self, ask: Callable[[str, list[Any], Deadline], Any], name: str, lock: str) -> None:
        self._ask = ask
        self._name = name
        self._assert = {"op": "assert", "lock": lock}

    def transact(self, *operations: Operation, deadline: Deadline) -> list[Any]:
        """As Database.transact. Raises OperationError "not owner" without the lock (RFC 7047, 5.2.10)."""
        result = self._ask("transact", [self._name, self._assert, *operations], deadline)
        return _results(result, self._name, 1 + len(operations))[1:]

    def read_whole(self, *operations: Operation, deadline: Deadline) -> list[Any]:
        """Read rows as transact() does, with each UUID as a Reference: encode() gives the same row again."""
        result = self._ask("transact", [self._name, self._assert, *operations], deadline)
        return _results(result, self._name, 1 + len(operations), Reference)[1:]


class _Connection:
    """A connection to a database that mends itself, to one of *remotes*, at first *first*, for one thread.

    A call is begun, and then waited for until there is a reply; after a lost connection, or one to a server
    that is not or no longer the leader of its cluster, it is sent again, for nobody knows whether it was
    committed.
    """

    def __init__(self, database: str, remotes: Sequence[str], first: str, tls: Tls | None) -> None:
        self._database = database
        self._remotes = remotes
        self._tls = tls
        self.lost = 0
        """How often it broke after it had been good."""
        self._changed = False
        self._open(first)

    def _open(self, first: str) -> None:
        several = len(self._remotes) > 1
        self._session = ovs.jsonrpc.Session.open_multiple(
            list(self._remotes), probe_interval=_CLUSTER_PROBE if several else None
        )
        self._session.reconnect.set_backoff(*(_CLUSTER_BACKOFF if several else _BACKOFF))
        while self.remote != first:
            self._session.pick_remote()
        self.used = 0.0
        """When the last reply came, in seconds of time.monotonic(); 0 without any."""
        self._sent_on: int | None = None
        self._asked_on: int | None = None
        self._serves: bool | None = None if several else True

    @property
    def remote(self) -> str:
        """The remote that it is to, or will be to next."""
        return str(self._session.get_name())

    @property
    def connected(self) -> bool:
        """Whether there is somebody at the other end."""
        return bool(self._session.is_connected())

    @property
    def follows(self) -> bool:
        """Whether the last server that spoke to us is one that another has to lead."""
        return self._serves is False

    def begin(self, method: str, params: list[Any]) -> None:
        """Ask for something, such as a transaction."""
        self._request = ovs.jsonrpc.Message.create_request(method, params)
        self._sent_on = None

    def reply(self) -> ovs.jsonrpc.Message | None:
        """The reply, if it is there."""
        self._run()
        if self.used and not self.connected:
            self.lost += 1
            self._session.close()
            self._open(_after(self.remote, self._remotes))  # at once: a session of ovs would rest first
        elif self.connected:
            self._ask_for_leader()
            while (message := self._receive()) is not None:
                if message.id == self._request.id:
                    self.used = time.monotonic()
                    return message
            if self._serves and self._sent_on != self._session.get_seqno():
                self._sent_on = self._session.get_seqno()
                self._session.send(self._request)
            elif self.follows or (self._serves is None and time.monotonic() - self._asked_at > _SAYS_NOTHING):
                self._session.force_reconnect()  # to the next, with pauses if all have been asked
        return None

    def take_changed(self) -> bool:
        """Whether the server has sent a change of what is monitored since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def lives(self) -> bool:
        """Whether it is still good; answers a server that wants to know whether we live."""
        self._run()
        while self._receive() is not None:
            pass
        self._run()
        self.lost += not self.connected
        return self.connected and not self.follows

    def _run(self) -> None:
        """Connect if it is time to, and send and receive: the session opens its streams here alone."""
        with streams_with(self._tls):
            self._session.run()

    def _ask_for_leader(self) -> None:
        """Have the server say, now and whenever it changes, whether it leads (ovsdb-server(5), _Server)."""
        if len(self._remotes) > 1 and self._asked_on != self._session.get_seqno():
            self._asked_on = self._session.get_seqno()
            self._asked_at = time.monotonic()
            self._serves = None
            columns = {"Database": [{"columns": ["name", "model", "leader", "connected"]}]}
            request = ovs.jsonrpc.Message.create_request("monitor", ["_Server", None, columns])
            self._monitor = request.id
            self._session.send(request)

    def _learn(self, tables: Any) -> None:
        """What the server says of its databases: a table update (RFC 7047, 4.1.5 and 4.1.6)."""
        changes = tables.get("Database") if isinstance(tables, dict) else None
        for change in changes.values() if isinstance(changes, dict) else ():
            match change:
                case {"new": {"name": self._database, "model": "relay", "connected": bool(passes_on)}}:
                    self._serves = passes_on
                case {"new": {"name": self._database, "leader": bool(leads)}}:
                    self._serves = leads

    def wait(self, seconds: float) -> None:
        """Wait until there is something to do, or for so long."""
        poller = ovs.poller.Poller()
        self._session.wait(poller)
        self._session.recv_wait(poller)
        poller.timer_wait(int(seconds * 1000) + 1)
        poller.block()

    def close(self) -> None:
        """End it."""
        self._session.close()

    def _receive(self) -> ovs.jsonrpc.Message | None:
        """The next message, if it is there, that is not about who leads."""
        while True:
            if self._session.rpc and not self._session.rpc.parser:
                self._session.rpc.parser = Parser()
            message = self._session.recv()
            if message is None:
                return None
            if message.type == ovs.jsonrpc.Message.T_NOTIFY:
                self._changed |= message.method == "update2"
                self._learn(message.params[-1] if message.method == "update" and message.params else None)
            elif self._asked_on is not None and message.id == self._monitor:
                self._serves = True  # unless it says otherwise: old servers have no such database
                self._learn(message.result)
            else:
                return message


def _after(remote: str, remotes: Sequence[str]) -> str:
    return remotes[(remotes.index(remote) + 1) % len(remotes)]


def _is_address(remote: str) -> bool:
    """Whether it is an active connection method (ovsdb(7)); ovs itself raises at a port such as 66410."""
    method, _, rest = remote.partition(":")
    if method == "unix":
        return bool(rest)
    host, _, port = rest.rpartition(":")
    is_port = bool(re.fullmatch("[0-9]{1,5}", port)) and 0 < int(port) < 1 << 16
    return method in {"tcp", "ssl"} and bool(host.strip("[]")) and is_port


def _refuses(remote: str) -> bool:
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(remote), timeout=500)
    if stream is not None:
        stream.close()
    return bool(error)


def _why_unreachable(remote: str) -> str:
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(remote), timeout=500)
    lasts = stream is not None and _lasts(stream)
    if stream is not None:
        stream.close()
    if remote.startswith("ssl:") and error in (0, errno.EPERM):
        return why_untrusted(remote)
    if error > 0:
        return os.strerror(error)
    return "it takes connections now: try again" if lasts else "the connection keeps breaking"


def _lasts(stream: ovs.stream.Stream) -> bool:
    """Whether the other end keeps a new connection for a moment."""
    poller = ovs.poller.Poller()
    stream.recv_wait(poller)
    poller.timer_wait(200)
    poller.block()
    error, said = stream.recv(1)
    return error == errno.EAGAIN or bool(said)


def _results(results: Any, name: str, wanted: int, reference: Callable[[str], str] = str) -> list[Any]:
    """The result of each of *wanted* operations (RFC 7047, 4.1.3).

    Raises OperationError if one was refused, Unavailable if this is no answer of a database's.
    """
    if isinstance(results, list):
        for index, result in enumerate(results):
            if isinstance(result, dict) and "error" in result:
                error, details = str(result["error"])[:200], str(result.get("details", "no details"))[:200]
                if error == "I/O error":
                    raise Unavailable(
                        f"{name} cannot be written: {details}; is the disk of its machine full?"
                    )
                raise OperationError(index, error, details, _results(results[:index], name, index))
        with suppress(AttributeError, RecursionError, TypeError, ValueError):
            decoded = [_decoded(result, reference) for result in results]
            if len(decoded) == wanted:
                return decoded
    raise Unavailable(f"{name} gave an answer that is none: {repr(results)[:200]}; is it an ovsdb-server?")


def _decoded(result: Any, reference: Callable[[str], str] = str) -> Any:
    if isinstance(result, dict) and "rows" in result:
        return [{column: decode(value, reference) for column, value in row.items()} for row in result["rows"]]
    if isinstance(result, dict) and "count" in result:
        return result["count"]
    return None


def decode(value: Any, reference: Callable[[str], str] = str) -> Any:
    """Decode an OVSDB <value> (RFC 7047, 5.1): map to dict, set to list, UUID to str.

    *reference*: Reference, where encode() has to give the same again.
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
    """The UUID of a row, as a value of a column that refers to rows."""

    __slots__ = ()


def members(column: Any) -> list[Any]:
    """Members of a set column: OVSDB writes a set of one as that one (RFC 7047, 5.1)."""
    return column if isinstance(column, list) else [column]


def encode(value: Any) -> Any:
    """Python as an OVSDB <value>: Mapping to map, list or tuple to set, Reference to uuid."""
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
    """Whether *text* is a UUID as OVSDB writes it (RFC 7047, 3.1)."""
    return re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None


def is_row(row: str) -> Condition:
    """The condition that selects one row, without a search; none if *row* is no UUID.

    UUIDs are kept in rows that any host may write: one that is no UUID would have the server refuse the whole
    transaction.
    """
    return ["_uuid", "==", encode(Reference(row if is_uuid(row) else _NO_ROW))]


def has(column: str, pairs: Mapping[str, str]) -> Condition:
    """The condition that a map column includes *pairs*."""
    return [column, "includes", encode(pairs)]


def insert(table: str, row: str, **columns: Any) -> Operation:
    """A new row with a UUID of our choice: fails with "duplicate uuid" if it is there already."""
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
    """Change a part of a column: [column, "insert" | "delete" | "+=", value]."""
    encoded = [[column, mutator, encode(value)] for column, mutator, value in mutations]
    return {"op": "mutate", "table": table, "where": list(where), "mutations": encoded}


def delete(table: str, *where: Condition) -> Operation:
    """Delete the rows that satisfy all conditions; none is fine."""
    return {"op": "delete", "table": table, "where": list(where)}


def require_none(table: str, *where: Condition, wait: float = 0) -> Operation:
    """Go on only if no row satisfies *where*, waiting up to *wait* seconds; otherwise as require()."""
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
    """Go on only if the row exists and satisfies *where*, waiting up to *wait* seconds for it.

    Otherwise the transaction fails with "timed out" and does nothing (RFC 7047, 5.2.6).
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
