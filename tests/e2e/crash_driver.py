"""The driver, killed as it is about to take its nth step: ``crash_driver.py N [OPTION...]``; 0 = never.

A step is what others can notice of a call of Docker's: a change in a database or in Neutron, a change of a
link, the answer. Each is announced on standard error. In a VM of a cloud it is the underlay driver.
"""

import os
import signal
import sys
import threading
from itertools import count
from typing import Any

from ovn_docker.backends import neutron, overlay
from ovn_docker.backends.neutron import Neutron
from ovn_docker.cli import daemon
from ovn_docker.deadline import Deadline
from ovn_docker.host.links import Links
from ovn_docker.host.ovsdb import Database, Operation
from ovn_docker.plugin import wire

LAST = int(sys.argv.pop(1))
NUMBERS = count(1)


def step(name: str) -> None:
    if not threading.current_thread().name.startswith("call"):
        return  # the sweep and the names are nobody's call
    number = next(NUMBERS)
    print("step", number, name, file=sys.stderr, flush=True)
    if number == LAST:
        os.kill(os.getpid(), signal.SIGKILL)


class MortalDatabase(Database):
    def transact(self, *operations: Operation, deadline: Deadline) -> list[Any]:
        if changes := [it for it in operations if it["op"] not in {"select", "wait"}]:
            step(", ".join(f"{it['op']} {it['table']}" for it in changes))
        return super().transact(*operations, deadline=deadline)


class MortalLinks(Links):
    def create_veth(self, host: str, container: str, **how: Any) -> None:
        step("create_veth")
        super().create_veth(host, container, **how)

    def _tx_checksums_off(self, link: str) -> None:
        step("tx_checksums_off")
        super()._tx_checksums_off(link)

    def delete(self, link: str) -> None:
        step("delete the veth")
        super().delete(link)


class MortalNeutron(Neutron):
    def _ask(self, method: str, path: str, deadline: Deadline, **more: Any) -> Any:
        if method != "GET":
            step(f"{method} {path}")
        return super()._ask(method, path, deadline, **more)


def answer(plugin: wire.Plugin, path: str, request: wire.Request) -> bytes:
    body = ANSWER(plugin, path, request)
    step(f"answer {path}")
    return body


ANSWER, wire.answer = wire.answer, answer
daemon.Database = overlay.Database = MortalDatabase  # type: ignore[attr-defined]
daemon.Links = MortalLinks  # type: ignore[attr-defined]
neutron.Neutron = MortalNeutron  # type: ignore[misc]
(daemon.underlay if "OS_VIF_ID" in os.environ else daemon.overlay)()
