"""Commands on the driver's control socket: ``ovs-appctl -t ovn-docker-overlay-driver COMMAND``.

The socket, ``vlog/set``, ``vlog/reopen`` and ``version`` come from the ovs package (ovs-appctl(8)).
"""

import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from queue import SimpleQueue

import ovs.dirs
import ovs.poller
import ovs.unixctl
from ovs.unixctl.server import UnixctlConnection, UnixctlServer

import ovn_docker
from ovn_docker.core.reconcile import Reconciler
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.barrier import Barrier
from ovn_docker.metrics import Tally
from ovn_docker.model import Difference
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

Comparison = Callable[[], list[Difference]]


def serve(
    stop: Callable[[], None], tally: Tally, reconciler: Reconciler, threads: Threads, barrier: Barrier
) -> None:
    """Start the thread that answers exit, requests and barrier, and as JSON threads, gc/show, gc/repair."""

    def leave(connection: UnixctlConnection, *_: object) -> None:
        connection.reply(None)
        stop()

    def requests(connection: UnixctlConnection, *_: object) -> None:
        connection.reply(f"{tally.requests} requests, {tally.errors} errors")

    def states(connection: UnixctlConnection, *_: object) -> None:
        connection.reply(json.dumps([asdict(state) for state in threads.states()]))

    def about_barrier(connection: UnixctlConnection, *_: object) -> None:
        connection.reply(barrier.state)

    ovs.unixctl.command_register("exit", "", 0, 0, leave, None)
    ovs.unixctl.command_register("requests", "", 0, 0, requests, None)
    ovs.unixctl.command_register("barrier", "", 0, 0, about_barrier, None)
    ovs.unixctl.command_register("threads", "", 0, 0, states, None)
    error, server = UnixctlServer.create(None, ovn_docker.__version__)
    if error:
        log.warning(
            "no control socket in %s, ovs-appctl will not work: %s", ovs.dirs.RUNDIR, os.strerror(error)
        )
        return
    slow = _Slow()
    ovs.unixctl.command_register("gc/show", "", 0, 0, slow.answer, reconciler.all_differences)
    ovs.unixctl.command_register("gc/repair", "", 0, 0, slow.answer, reconciler.repair_everywhere)
    threads.start("control", "answers ovs-appctl", partial(_run, server, slow))


class _Slow:
    """Runs slow commands, each in a thread of its own; the control thread sends the answers."""

    def __init__(self) -> None:
        self._answers: SimpleQueue[tuple[UnixctlConnection, str, bool]] = SimpleQueue()
        self._finished = os.eventfd(0, os.EFD_NONBLOCK)

    def answer(self, connection: UnixctlConnection, _: list[str], compare: Comparison) -> None:
        """Start a command."""

        def run() -> None:
            try:
                text, done = json.dumps([asdict(difference) for difference in compare()]), True
            except OvnDockerError as error:
                text, done = str(error), False
            except BaseException:
                log.exception("the search for leftovers failed")
                text, done = "internal error: see the driver's log", False
            self._answers.put((connection, text, done))
            os.eventfd_write(self._finished, 1)

        threading.Thread(target=run, name="gc", daemon=True).start()

    def send(self) -> None:
        """Send the answers of commands that have ended."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._finished)
        while not self._answers.empty():
            connection, text, done = self._answers.get()
            with suppress(AssertionError):  # the client has closed the connection
                (connection.reply if done else connection.reply_error)(text)

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Have the poller wake when a command ends."""
        poller.fd_wait(self._finished, ovs.poller.POLLIN)


def _run(server: UnixctlServer, slow: _Slow) -> None:
    while True:
        server.run()
        slow.send()
        poller = ovs.poller.Poller()
        server.wait(poller)
        slow.wait(poller)
        poller.block()
