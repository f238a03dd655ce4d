"""Traffic between containers' network namespaces: ``python -m bench.traffic``, on a host of the lab.

    serve COUNTS PID...                 one server in the network namespace of each process
    send KIND SECONDS PID... -- IP...   one client in each, with a connection to every address

A server counts in the file COUNTS, which others may read at any time: a row of unsigned 64-bit numbers, one
for each of KINDS. A client goes on until SECONDS have passed or it is killed. Both print "ready" when all
connections can be made, or are made.
"""

import ctypes
import mmap
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

KINDS = ("stream", "datagrams", "requests", "connections")
"""Counted are: bytes of TCP, datagrams of UDP, requests with an answer, connections made and closed."""

PORTS = {kind: 5200 + number for number, kind in enumerate(KINDS)}
SMALL = b"x" * 64  # bytes of a datagram, of a request and of its answer
LARGE = 1 << 18  # bytes that a stream writes and reads at once
BURST = 64  # datagrams sent or received before another socket has its turn
NUMBER = 8  # bytes of a count


def enter(pid: int) -> None:
    """Move this process into the network namespace of another one. Raises OSError if that has ended."""
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):  # os.setns is Python 3.12's
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


class Server:
    """Serves every kind of traffic in one thread, in the network namespace where it is made."""

    def __init__(self, counts: memoryview) -> None:
        self._counts = counts
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._buffer = bytearray(LARGE)
        for kind in KINDS:
            which = socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM
            server = socket.socket(socket.AF_INET, which)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("", PORTS[kind]))
            if which == socket.SOCK_STREAM:
                server.listen(1024)
            server.setblocking(False)
            self._watch(server, self._receive if kind == "datagrams" else self._accept, KINDS.index(kind))

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for descriptor, _ in self._poll.poll():
                with suppress(BlockingIOError):
                    self._handlers[descriptor]()

    def _watch(self, end: socket.socket, handle: Callable[[socket.socket, int], None], kind: int) -> None:
        self._handlers[end.fileno()] = lambda: handle(end, kind)
        self._poll.register(end, select.EPOLLIN)

    def _accept(self, server: socket.socket, kind: int) -> None:
        while True:
            end, _ = server.accept()
            if KINDS[kind] == "connections":
                end.close()
                self._counts[kind] += 1
                continue
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._watch(end, self._swallow if KINDS[kind] == "stream" else self._answer, kind)

    def _receive(self, end: socket.socket, kind: int) -> None:
        received = 0
        try:
            while received < BURST:
                end.recv_into(self._buffer)
                received += 1
        finally:
            self._counts[kind] += received

    def _swallow(self, end: socket.socket, kind: int) -> None:
        self._counts[kind] += self._read(end)

    def _answer(self, end: socket.socket, kind: int) -> None:
        if self._read(end):
            end.send(SMALL)
            self._counts[kind] += 1

    def _read(self, end: socket.socket) -> int:
        """Return the number of bytes that came; at the end of the connection, or of the client, forget it."""
        try:
            size = end.recv_into(self._buffer)
        except ConnectionError:
            size = 0
        if not size:
            del self._handlers[end.fileno()]
            end.close()
        return size


def stream(ends: Sequence[socket.socket], until: float) -> None:
    """Write to all connections as fast as they take it."""
    data = memoryview(bytes(LARGE))
    poll = select.epoll()
    by_descriptor = {end.fileno(): end for end in ends}
    for end in ends:
        end.setblocking(False)
        poll.register(end, select.EPOLLOUT)
    while time.monotonic() < until:
        for descriptor, _ in poll.poll(1):
            with suppress(BlockingIOError):
                by_descriptor[descriptor].send(data)


def datagrams(ends: Sequence[socket.socket], until: float) -> None:
    """Send small datagrams to all addresses as fast as the kernel takes them."""
    while time.monotonic() < until:
        for end in ends:
            for _ in range(BURST):
                with suppress(ConnectionError):
                    end.send(SMALL)


def requests(ends: Sequence[socket.socket], until: float) -> None:
    """Keep one request in flight on each connection."""
    poll = select.epoll()
    by_descriptor = {end.fileno(): end for end in ends}
    for end in ends:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(end, select.EPOLLIN)
        end.send(SMALL)
    while time.monotonic() < until:
        for descriptor, _ in poll.poll(1):
            end = by_descriptor[descriptor]
            end.recv(len(SMALL))
            end.send(SMALL)


def connections(addresses: Sequence[str], until: float) -> None:
    """Connect to each address in turn; the server closes first, so that it has the state TIME_WAIT."""
    while time.monotonic() < until:
        for address in addresses:
            with socket.socket() as end:
                end.connect((address, PORTS["connections"]))
                end.recv(1)


def client(kind: str, addresses: Sequence[str], ready: Callable[[], None], seconds: float) -> None:
    """Make the connections, call *ready*, and send for some seconds."""
    if kind == "connections":
        ready()
        connections(addresses, time.monotonic() + seconds)
        return
    which = socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM
    ends = [socket.socket(socket.AF_INET, which) for _ in addresses]
    for end, address in zip(ends, addresses, strict=True):
        end.connect((address, PORTS[kind]))
    ready()
    {"stream": stream, "datagrams": datagrams, "requests": requests}[kind](ends, time.monotonic() + seconds)


def together(pids: Sequence[int], run: Callable[[int, Callable[[], None]], None]) -> None:
    """Run a function in a process of its own in each network namespace, and wait for all.

    The function gets its number, and a function to call when it is ready; that returns when all are. Raises
    SystemExit if one fails.
    """
    is_ready, all_ready = os.pipe(), os.pipe()

    def ready() -> None:
        os.write(is_ready[1], b".")
        os.read(all_ready[0], 1)

    children = []
    for number, pid in enumerate(pids):
        if not (child := os.fork()):
            enter(pid)
            run(number, ready)
            os._exit(0)
        children.append(child)
    os.close(is_ready[1])
    for _ in children:
        if not os.read(is_ready[0], 1):
            sys.exit("all processes have ended before they were ready")
    print("ready", flush=True)
    os.write(all_ready[1], b"." * len(children))
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        sys.exit(f"wait statuses of the processes: {statuses}")


def main() -> None:
    """Serve or send, as the arguments say."""
    if sys.argv[1] == "serve":
        counts, pids = Path(sys.argv[2]), [int(pid) for pid in sys.argv[3:]]
        row = len(KINDS) * NUMBER
        counts.write_bytes(bytes(row * len(pids)))
        with counts.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
            numbers = memoryview(shared).cast("Q")

            def serve(number: int, ready: Callable[[], None]) -> None:
                server = Server(numbers[number * len(KINDS) : (number + 1) * len(KINDS)])
                ready()
                server.run()

            together(pids, serve)
        return
    kind, seconds, *rest = sys.argv[2:]
    between = rest.index("--")
    pids, addresses = [int(pid) for pid in rest[:between]], rest[between + 1 :]
    together(pids, lambda _, ready: client(kind, addresses, ready, float(seconds)))


if __name__ == "__main__":
    main()
