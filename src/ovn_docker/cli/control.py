"""What the driver answers on its control socket: ``ovs-appctl -t ovn-docker-overlay-driver COMMAND``.

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
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.barrier import Barrier
from ovn_docker.metrics import Tally
from ovn_docker.model import Difference
from ovn_docker.reconcile import Reconciler
from ovn_docker.threads import Threads

log = logging.getLogger(__name__)

Look = Callable[[], list[Difference]]


def serve(
    stop: Callable[[], None], tally: Tally, reconciler: Reconciler, threads: Threads, barrier: Barrier
) -> None:
    """Answer in a thread of its own: exit, requests, barrier; in JSON threads, gc/show, gc/repair."""

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
    ovs.unixctl.command_register("gc/show", "", 0, 0, slow.answer, reconciler.look_everywhere)
    ovs.unixctl.command_register("gc/repair", "", 0, 0, slow.answer, reconciler.repair_everywhere)
    threads.start("control", "answers ovs-appctl", partial(_run, server, slow))


class _Slow:
    """Commands that take their time, in threads of their own; the control thread sends their answers."""

    def __init__(self) -> None:
        self._answers: SimpleQueue[tuple[UnixctlConnection, str, bool]] = SimpleQueue()
        self._there = os.eventfd(0, os.EFD_NONBLOCK)

    def answer(self, connection: UnixctlConnection, _: list[str], look: Look) -> None:
        """Begin with one."""

        def work() -> None:
            try:
                text, done = json.dumps([asdict(difference) for difference in look()]), True
            except OvnDockerError as error:
                text, done = str(error), False
            except BaseException:
                log.exception("looking for leftovers failed")
                text, done = "internal error: see the driver's log", False
            self._answers.put((connection, text, done))
            os.eventfd_write(self._there, 1)

        threading.Thread(target=work, name="gc", daemon=True).start()

    def send(self) -> None:
        """Send the answers that are there."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._there)
        while not self._answers.empty():
            connection, text, done = self._answers.get()
            with suppress(AssertionError):  # who has asked has gone
                (connection.reply if done else connection.reply_error)(text)

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Wake when there is one."""
        poller.fd_wait(self._there, ovs.poller.POLLIN)


def _run(server: UnixctlServer, slow: _Slow) -> None:
    while True:
        server.run()
        slow.send()
        poller = ovs.poller.Poller()
        server.wait(poller)
        slow.wait(poller)
        poller.block()
