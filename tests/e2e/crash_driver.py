"""The driver, killed before its nth step: ``crash_driver.py N [OPTION...]``; 0 = never.

A step is an effect outside of the driver: a change in a database or in Neutron, a change of a link, the
answer to a call of Docker. The code has one place for each kind; each step there is written to standard
error. In a VM of a cloud the underlay driver is started.
"""

import os
import signal
import sys
import threading
from itertools import count
from typing import Any

from ovn_docker.backends.neutron.api import Neutron
from ovn_docker.daemon import startup as daemon
from ovn_docker.deadline import Deadline
from ovn_docker.docker import wire
from ovn_docker.host.kernel import links, netlink
from ovn_docker.host.ovsdb import Database, Operation

CALLS = ("call",)
"""Prefixes of the names of threads that answer Docker's calls."""

REPAIRS = ("sweep", "reconcile")
"""Prefixes of the names of threads that delete leftovers."""


class KillAtStep:
    """Kills the driver at the nth step of the threads whose names have certain prefixes."""

    def __init__(self, last: int, threads: tuple[str, ...]) -> None:
        self._last, self._threads, self._numbers = last, threads, count(1)
        self._transact, self._ask = Database.transact, Neutron._ask
        self._request, self._ethtool, self._answer = netlink.request, links._ethtool, wire.answer

    def take_over(self) -> None:
        """Count every step from now on."""
        fate = self

        def transact(self: Database, *operations: Operation, deadline: Deadline) -> list[Any]:
            if changes := [it for it in operations if it["op"] not in {"select", "wait", "assert"}]:
                fate._step(", ".join(f"{it['op']} {it['table']}" for it in changes))
            return fate._transact(self, *operations, deadline=deadline)

        def ask(self: Neutron, method: str, path: str, deadline: Deadline, **more: Any) -> Any:
            if method != "GET":
                fate._step(f"{method} {path}")
            return fate._ask(self, method, path, deadline, **more)

        def request(kind: int, flags: int, message: bytes) -> None:
            fate._step(f"netlink {kind}")
            fate._request(kind, flags, message)

        def ethtool(link: str, command: int, value: int) -> int:
            fate._step(f"ethtool {link}")
            return fate._ethtool(link, command, value)

        def answer(plugin: wire.Plugin, path: str, call: wire.Request) -> bytes:
            body = fate._answer(plugin, path, call)
            if path != "/Plugin.Activate":  # also sent by the test, to see if the driver serves
                fate._step(f"answer {path}")
            return body

        Database.transact, Neutron._ask = transact, ask  # type: ignore[method-assign]
        netlink.request, links._ethtool, wire.answer = request, ethtool, answer

    def _step(self, name: str) -> None:
        if threading.current_thread().name.startswith(self._threads):
            number = next(self._numbers)
            print("step", number, name, file=sys.stderr, flush=True)
            if number == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def run(last: int, threads: tuple[str, ...] = CALLS) -> None:
    """Run the driver with the arguments in `sys.argv` and the environment."""
    KillAtStep(last, threads).take_over()
    (daemon.underlay if "OS_VIF_ID" in os.environ else daemon.overlay)()


if __name__ == "__main__":
    run(int(sys.argv.pop(1)))
