"""OVSDB transactions over connections that reconnect by themselves (RFC 7047, ovsdb-server(7)).

The driver keeps no replica of a database: an operation names its rows by UUID and costs the same whatever the
size of the tables. Every transaction must be safe to send twice, because a client that loses its connection
cannot know if the server has committed the last transaction.

Of a cluster only the leader is used, as the C and Python libraries of OVSDB do by default: a follower may
return data older than what this process has just written through another connection.
"""

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from random import SystemRandom
from select import poll
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream

from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, DatabaseUnreachable, TimedOut, Unavailable
from ovn_docker.host.ovsdb.operations import Operation, Reference, Row, is_row, results_of
from ovn_docker.host.ovsdb.parser import Parser
from ovn_docker.host.ovsdb.tls import check_files, streams_with, why_untrusted
from ovn_docker.model import Tls
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

_RANDOM = SystemRandom()


_BACKOFF = 1000, 4000
"""Shortest and longest pause between two attempts to connect, in milliseconds; they vary by connection."""

_CLUSTER_BACKOFF = 250, 1000
"""The same for several servers, which elect a leader within a second or two."""

_PROBE, _CLUSTER_PROBE = 5000, 3000
"""Milliseconds of silence after which a waiting request probes its server, or one of several servers; after
as many again the session connects anew. A call from Docker has 15 s, and a transaction may take a server 5 s.
"""

_IDLE_PROBE = 10_000
"""The same for a connection without a request. Servers probe after 5 s of silence (ovsdb-server(1)): as long
as a server lives, no connection costs it more than that."""

_LEADERSHIP_TIMEOUT = 2.0
"""Seconds within which one of several servers has to report whether it is the leader."""

_CLOSE_CHECK, _IDLE_CHECK, _MAX_IDLE = 0.5, 2.0, 60.0
"""Seconds between two checks of a waiting call for close(); between two checks of the idle connections; until
an idle connection is closed, unless it is the last one. Servers send an echo request after 5 s of silence,
and close the connection after another 5 s (ovsdb-server(1))."""

ovs.poller.SelectPoll = poll  # as its source advises: select() ends at 1024 files


class Database:
    """A database on one server or on the members of a cluster; safe for use from many threads.

    *remotes* are active OVSDB connection methods (``unix:``, ``tcp:``, ``ssl:``), tried in turn until one of
    them is the leader or does not belong to a cluster; a single remote may be a follower. *cure*: what the
    user can do if none of them answers. *tls*: files for the ``ssl:`` connections of this database.
    Raises BadRequest for an invalid remote, and for files that cannot be used.

    Each call has a connection of its own and reads its own reply: handing the reply over from another thread
    takes longer than the server needs for it. One thread keeps the idle connections alive.
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
                    f"invalid database address {remote!r}: give tcp:IP:PORT, ssl:IP:PORT or unix:FILE"
                )
        if any(remote.startswith("ssl:") for remote in remotes):
            check_files(tls)
        self.name = name
        self.remotes = tuple(remotes)
        self.tls = tls
        self.losses = 0
        """Number of connections that were lost so far."""
        self._cure = cure
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._first = _RANDOM.choice(self.remotes)  # spreads the hosts over the servers
        """The remote that a new connection tries first: the one that replied last."""
        self._closed = threading.Event()
        self._keeper = (threads or Threads()).start(
            f"ovsdb {name}", f"keeps idle connections to {name} alive", self._keep, lasts=False
        )

    def transact(self, *operations: Operation, deadline: Deadline) -> list[list[Row]]:
        """Run *operations* as one transaction; return the rows that each select reads, [] for the others.

        Raises OperationError if the server refuses an operation, Unavailable if no server replies before
        *deadline*.
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
        return results_of(result, self.name, operations)

    @contextmanager
    def lock(self, name: str, deadline: Deadline) -> Iterator["Locked | None"]:
        """Hold the server's lock with the <id> *name*; yield None if another client has it (RFC 7047, 4.1.8).

        The lock has a connection of its own, and ends with it. Each member of a cluster has locks of its own
        (ovsdb-server(7), "Lock"); this is the leader's. Raises Unavailable.
        """
        with closing(_Connection(self.name, self.remotes, self._first, self.tls)) as connection:
            taken = self._result(connection, "lock", [name], deadline).get("locked")
            try:
                yield Locked(partial(self._result, connection), self.name, name) if taken else None
            finally:
                if connection.connected:  # the server may notice the end of the connection late
                    with suppress(Unavailable):
                        self._result(connection, "unlock", [name], Deadline(1))

    def watch(self, table: str, row: str, column: str) -> Iterator[None]:
        """Yield when the watch of a row begins, and whenever *column* of that row may have changed; endless.

        The server sends a message for each change, so the watch costs nothing while there is none
        (ovsdb-server(7), "Monitor_Cond"). The row need not exist. After a lost connection, or with another
        leader, the watch begins again. It has a connection of its own. Raises Unavailable.
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
                    connection.wait(_IDLE_CHECK)
        raise Unavailable(f"the connection to {self.name} is closed")

    @property
    def remote(self) -> str:
        """The remote that replied last, or the one that will be tried first."""
        with self._lock:
            return self._first

    def knock(self) -> None:
        """Raise Unavailable if no remote accepts a connection; unlike transact(), do not wait for one."""
        with streams_with(self.tls):
            refused = all(_refuses(remote) for remote in self.remotes)
        if refused:
            raise self._unreachable()

    def close(self) -> None:
        """Close all connections; calls that still wait for a reply raise Unavailable."""
        self._closed.set()
        self._keeper.join(timeout=5)
        self._drop_idle()

    def _connection(self) -> "_Connection":
        """Return the idle connection that was used last, or a new one."""
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
            connection.wait(deadline.left(at_most=_CLOSE_CHECK))
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
        """Answer the servers' echo requests on idle connections, and close those idle for _MAX_IDLE."""
        while not self._closed.wait(_IDLE_CHECK):
            for _ in range(len(self._idle)):
                with self._lock:
                    if not self._idle:
                        break
                    connection, last = self._idle.pop(0), not self._idle
                wanted = False
                try:
                    wanted = connection.lives() and (last or time.monotonic() - connection.used < _MAX_IDLE)
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
        """Return the error that says why each remote does not answer, after another try."""
        with streams_with(self.tls):
            reasons = [f"{remote}: {_why_unreachable(remote)}" for remote in self.remotes]
        return DatabaseUnreachable(self.name, reasons, self._cure)


class Locked:
    """A database whose lock this process holds; every transaction asserts the lock."""

    def __init__(self, ask: Callable[[str, list[Any], Deadline], Any], name: str, lock: str) -> None:
        self._ask = ask
        self._name = name
        self._assert = {"op": "assert", "lock": lock}

    def transact(self, *operations: Operation, deadline: Deadline) -> list[list[Row]]:
        """Run *operations* as Database.transact() does. Raises NotOwner without the lock."""
        return self._results(str, operations, deadline)

    def read_whole(self, *operations: Operation, deadline: Deadline) -> list[list[Row]]:
        """Read rows as transact() does, with each UUID as a Reference: encode() gives the same row again."""
        return self._results(Reference, operations, deadline)

    def _results(
        self, reference: Callable[[str], str], operations: tuple[Operation, ...], deadline: Deadline
    ) -> list[list[Row]]:
        asserted = (self._assert, *operations)
        result = self._ask("transact", [self._name, *asserted], deadline)
        return results_of(result, self._name, asserted, reference)[1:]


class _Connection:
    """A connection of one thread to one of *remotes*, at first *first*, that reconnects by itself.

    begin() starts a request, and reply() is called until it returns the reply. It is sent again after
    a lost connection, and after one to a server that is not, or no longer, the leader of its cluster.
    """

    def __init__(self, database: str, remotes: Sequence[str], first: str, tls: Tls | None) -> None:
        self._database = database
        self._remotes = remotes
        self._tls = tls
        self.lost = 0
        """Number of times that an established connection was lost."""
        self._changed = False
        self._open(first)

    def _open(self, first: str) -> None:
        several = len(self._remotes) > 1
        self._session = ovs.jsonrpc.Session.open_multiple(list(self._remotes))
        self._probe = _CLUSTER_PROBE if several else _PROBE
        spread = _RANDOM.uniform(0.75, 1.25)  # hosts that lost a server together return one by one
        shortest, longest = _CLUSTER_BACKOFF if several else _BACKOFF
        self._session.reconnect.set_backoff(int(shortest * spread), int(longest * spread))
        while self.remote != first:
            self._session.pick_remote()
        self._expect_silence(self._probe)
        self.used = 0.0
        """Time of the last reply, in seconds of time.monotonic(); 0 before the first reply."""
        self._sent_on: int | None = None
        self._asked_on: int | None = None
        self._serves: bool | None = None if several else True

    def _expect_silence(self, milliseconds: int) -> None:
        """Set the silence after which the session probes the server; a Unix socket needs no probe."""
        if not self.remote.startswith("unix:"):
            self._session.reconnect.set_probe_interval(milliseconds)

    @property
    def remote(self) -> str:
        """The remote that is connected, or will be tried next."""
        return str(self._session.get_name())

    @property
    def connected(self) -> bool:
        """True while the connection is established."""
        return bool(self._session.is_connected())

    @property
    def follows(self) -> bool:
        """True if the server is a follower, or a relay without a connection to the cluster."""
        return self._serves is False

    def begin(self, method: str, params: list[Any]) -> None:
        """Start a request, such as a transaction."""
        self._request = ovs.jsonrpc.Message.create_request(method, params)
        self._sent_on = None
        self._expect_silence(self._probe)

    def reply(self) -> ovs.jsonrpc.Message | None:
        """Return the reply to the request, or None if it has not come yet."""
        self._run()
        if self.used and not self.connected:
            self.lost += 1
            self._session.close()
            self._open(_after(self.remote, self._remotes))  # at once: a session of ovs would wait first
        elif self.connected:
            self._ask_for_leader()
            while (message := self._receive()) is not None:
                if message.id == self._request.id:
                    self.used = time.monotonic()
                    self._expect_silence(_IDLE_PROBE)
                    return message
            if self._serves and self._sent_on != self._session.get_seqno():
                self._sent_on = self._session.get_seqno()
                self._session.send(self._request)
            elif self.follows or (
                self._serves is None and time.monotonic() - self._asked_at > _LEADERSHIP_TIMEOUT
            ):
                self._session.force_reconnect()  # to the next server, after a pause if all were tried
        return None

    def take_changed(self) -> bool:
        """Return True if the server has sent a change of the monitored rows since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def lives(self) -> bool:
        """Answer the server's echo request, if any; return True if the connection can still be used."""
        self._run()
        while self._receive() is not None:
            pass
        self._run()
        self.lost += not self.connected
        return self.connected and not self.follows

    def _run(self) -> None:
        """Connect if it is time to, send and receive; the only place where the session opens streams."""
        with streams_with(self._tls):
            self._session.run()

    def _ask_for_leader(self) -> None:
        """Monitor whether the server is the leader of its cluster (ovsdb-server(5), _Server)."""
        if len(self._remotes) > 1 and self._asked_on != self._session.get_seqno():
            self._asked_on = self._session.get_seqno()
            self._asked_at = time.monotonic()
            self._serves = None
            columns = {"Database": [{"columns": ["name", "model", "leader", "connected"]}]}
            request = ovs.jsonrpc.Message.create_request("monitor", ["_Server", None, columns])
            self._monitor = request.id
            self._session.send(request)

    def _learn(self, tables: Any) -> None:
        """Read from a table update of _Server if the server is the leader (RFC 7047, 4.1.5 and 4.1.6)."""
        changes = tables.get("Database") if isinstance(tables, dict) else None
        for change in changes.values() if isinstance(changes, dict) else ():
            match change:
                case {"new": {"name": self._database, "model": "relay", "connected": bool(passes_on)}}:
                    self._serves = passes_on
                case {"new": {"name": self._database, "leader": bool(leads)}}:
                    self._serves = leads

    def wait(self, seconds: float) -> None:
        """Wait until the connection needs run(), at most for *seconds*."""
        poller = ovs.poller.Poller()
        self._session.wait(poller)
        self._session.recv_wait(poller)
        poller.timer_wait(int(seconds * 1000) + 1)
        poller.block()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _receive(self) -> ovs.jsonrpc.Message | None:
        """Return the next message that is not about the leader, or None."""
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
                self._serves = True  # unless the result says otherwise: old servers lack the database _Server
                self._learn(message.result)
            else:
                return message


def _after(remote: str, remotes: Sequence[str]) -> str:
    return remotes[(remotes.index(remote) + 1) % len(remotes)]


def _is_address(remote: str) -> bool:
    """Return True if *remote* is an active connection method (ovsdb(7)): ovs raises for port 66410."""
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
    return "it accepts connections now: try again" if lasts else "the connection keeps breaking"


def _lasts(stream: ovs.stream.Stream) -> bool:
    """Return True if the other end keeps a new connection open for 0.2 s."""
    poller = ovs.poller.Poller()
    stream.recv_wait(poller)
    poller.timer_wait(200)
    poller.block()
    error, said = stream.recv(1)
    return error == errno.EAGAIN or bool(said)
