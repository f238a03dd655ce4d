"""Endpoints' lives, on the host where this runs: ``python -m bench.lives``, with a plan on standard input.

Prints the seconds of each call. All subjects are measured in turns, in random order, so that other work on
the machine affects them alike.
"""

import json
import random
import secrets
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from bench.floor import Floor, Ovsdb
from bench.plugin_calls import CALLS, Plugin

FLOOR = "floor"

Times = dict[str, list[float]]
"""Seconds of each call by its name, and of ``sum``."""


@dataclass
class Plan:
    """The measures to make.

    *subjects*: name to the address of a plugin's socket, or to "floor"; *networks*: name to the network that
    it uses, if that exists already; *waits*: subjects whose Join does not wait for the flows, for which the
    benchmark waits; *in_flight*: lives at the same time; *calls*: the calls to make.
    """

    northbound: str
    vswitch: str
    subjects: dict[str, str]
    lives: int
    warm_up: int = 0
    in_flight: int = 1
    waits: list[str] = field(default_factory=list)
    networks: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=lambda: list(CALLS))
    mtu: int = 1442


class Subject:
    """A driver or the floor. Each thread has a connection of its own, as Docker has."""

    def __init__(self, plan: Plan, name: str, number: int) -> None:
        self.name = name
        self._plan = plan
        self._local = threading.local()
        self._addresses = count(2)
        self._prefix = f"10.{100 + number}"
        self._network = plan.networks.get(name) or self._new_network()

    def life(self) -> dict[str, float]:
        """Live one endpoint's life; return the seconds by call."""
        endpoint, number = secrets.token_hex(32), next(self._addresses) % 60000
        address = f"{self._prefix}.{number // 250}.{number % 250 + 2}/16"
        seconds = {}
        for call in self._plan.calls:
            start = time.perf_counter()
            self._connection().endpoint_call(call, self._network, endpoint, address)
            if call == "Join" and self.name in self._plan.waits:
                self._local.vswitch.flows(endpoint)
            seconds[call] = time.perf_counter() - start
        return seconds | {"sum": sum(seconds.values())}

    def _connection(self) -> Plugin | Floor:
        if not hasattr(self._local, "connection"):
            plan, address = self._plan, self._plan.subjects[self.name]
            self._local.vswitch = Ovsdb(plan.vswitch, "Open_vSwitch")
            self._local.connection = (
                Floor(plan.northbound, plan.vswitch, "br-int", plan.mtu)
                if address == FLOOR
                else Plugin(address)
            )
        return self._local.connection

    def _new_network(self) -> str:
        network = secrets.token_hex(32)
        self._connection().create_network(network, f"{self._prefix}.0.0/16", f"{self._prefix}.0.1/16")
        return network


def in_turns(plan: Plan) -> dict[str, Any]:
    """Measure one life after the other."""
    subjects = [Subject(plan, name, number) for number, name in enumerate(plan.subjects)]
    times: dict[str, Times] = {subject.name: defaultdict(list) for subject in subjects}
    for number in range(plan.warm_up + plan.lives):
        for subject in random.sample(subjects, len(subjects)):
            life = subject.life()
            if number >= plan.warm_up:
                for call, seconds in life.items():
                    times[subject.name][call].append(seconds)
    return {"times": times, "failed": []}


def at_once(plan: Plan) -> dict[str, Any]:
    """Measure many lives at the same time, of one subject after the other."""
    times: dict[str, Times] = {}
    seconds: dict[str, float] = {}
    failed: list[str] = []

    def attempt(life: Callable[[], dict[str, float]]) -> dict[str, float]:
        try:
            return life()
        except Exception as error:  # noqa: BLE001  it is counted
            failed.append(str(error))
            return {}

    for number, name in enumerate(plan.subjects):
        subject = Subject(plan, name, number)
        with ThreadPoolExecutor(plan.in_flight) as threads:
            list(threads.map(lambda _: attempt(subject.life), range(plan.in_flight)))  # noqa: B023  warm-up
            start = time.perf_counter()
            lives = list(threads.map(lambda _: attempt(subject.life), range(plan.lives)))  # noqa: B023
            seconds[name] = time.perf_counter() - start
        times[name] = defaultdict(list)
        for life in lives:
            for call, took in life.items():
                times[name][call].append(took)
    return {"times": times, "seconds": seconds, "failed": failed}


if __name__ == "__main__":
    plan = Plan(**json.load(sys.stdin))
    json.dump(in_turns(plan) if plan.in_flight == 1 else at_once(plan), sys.stdout)
