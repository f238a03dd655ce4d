"""Rounds of commands and faults, until there were enough faults, or something does not hold."""

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from random import Random
from statistics import median
from subprocess import TimeoutExpired

from chaos import faults, invariants, operations, views
from chaos.faults import Fault
from chaos.mode import Mode
from chaos.model import Wanted
from chaos.operations import Command
from e2e.lab import CommandError, Host, LabError
from e2e.lab.command import at_once
from ovn_docker.errors import OvnDockerError

DEADLINE = 150.0
"""Seconds in which every docker command ends, whatever is missing.

Docker itself tries for 15 s to reach a driver that is away, for each of the calls that a command consists of.
"""

PATIENCE = 120.0
"""Seconds, after everything runs again, in which all must be in order."""

_MIX = 1.5
"""Seconds in which commands and faults begin."""

_DOCKERS_OWN = ("See 'docker ", "Run 'docker ", "Error: failed to start containers", "time=", "WARNING: ")


class Violation(Exception):
    """Something that must hold does not; the message says what."""


class Chaos:
    """Three hosts in a mode, and what there has to be on them."""

    def __init__(self, mode: Mode, seed: int, say: Callable[[str], None]) -> None:
        self.mode, self.seed = mode, seed
        self.wanted = Wanted()
        self.struck: Counter[str] = Counter()
        self.violated: Counter[str] = Counter()
        self.commands: Counter[str] = Counter()
        self.slowest = 0.0
        self.settled: list[float] = []
        """Seconds from when all ran again until all was in order, of each round."""
        self._say = say
        self._start = time.monotonic()
        self._round = 0
        at_once(self._set_up, mode.hosts)

    def rounds(self, count: int) -> None:
        """Rounds with *count* faults in all. Raises Violation at the first."""
        while (left := count - self.struck.total()) > 0:
            self.round(left)

    def round(self, most: int) -> None:
        """One round, with *most* faults at most."""
        self._round += 1
        rng = Random(f"{self.seed}/{self._round}")
        names = [host.name for host in self.mode.hosts]
        commands = operations.plan(self.wanted, rng, names, rng.randint(4, 8), follow=self.mode.follow)
        struck = faults.plan(rng, self.mode.kinds, min(most, rng.choice((1, 2, 2, 3, 4))))
        after = sorted(rng.uniform(0, _MIX) for _ in (*commands, *struck))
        events: list[Command | Fault] = [*commands, *struck]
        rng.shuffle(events)
        lasts, docker_first = rng.uniform(0.5, 6), rng.random() < 0.3
        self.log(f"round {self._round} of seed {self.seed}")
        try:
            with ThreadPoolExecutor(len(events)) as pool, ExitStack() as over:
                begun = [pool.submit(self._later, *event, over) for event in zip(after, events, strict=True)]
                for fault in (
                    one for one, event in zip(begun, events, strict=True) if isinstance(event, Fault)
                ):
                    fault.result()
                time.sleep(lasts)
                self.log(f"mend, {'Docker' if docker_first else 'Open vSwitch'} first")
                faults.mend(self.mode, over, self.log, docker_first=docker_first)
                self.log("mended")
            for one in begun:
                one.result()
            self.mode.let_time_pass()
            self._settle()
        except (Violation, LabError) as trouble:
            self.violated.update(fault.kind for fault in struck)
            raise Violation(str(trouble)) from trouble
        self.struck.update(fault.kind for fault in struck)

    def log(self, line: str) -> None:
        """Say something, with the time since the beginning in seconds."""
        self._say(f"{time.monotonic() - self._start:8.1f} {line}")

    def summary(self) -> str:
        """Faults by kind, and in how many of them something did not hold."""
        kinds = [kind for kind in self.mode.kinds if kind in self.struck + self.violated]
        struck = self.struck + self.violated
        lines = [f"{'fault':30} {'struck':>6} {'violations':>10}"]
        lines += [f"{kind:30} {struck[kind]:6} {self.violated[kind]:10}" for kind in kinds]
        lines += [f"{'all':30} {struck.total():6} {self.violated.total():10}"]
        said = ", ".join(f"{count} {what}" for what, count in sorted(self.commands.items()))
        lines.append(f"docker commands: {said}; the slowest took {self.slowest:.0f} s")
        if self.settled:
            middle, longest = median(self.settled), max(self.settled)
            lines.append(
                f"{len(self.settled)} rounds, in order {middle:.1f} s (longest {longest:.0f} s) after mending"
            )
        return "\n".join(lines)

    def evidence(self) -> str:
        """What one needs to see why something does not hold."""
        commands = ("docker ps --all", "docker network ls", "ovs-vsctl show", "ip link")
        said = [
            f"{host.name}$ {command}\n{host.run(*command.split(), check=False)}"
            for host in self.mode.hosts
            for command in commands
        ]
        said.append(self.mode.evidence())
        said += [
            f"{host.name}: {host.driver.log}\n{host.tail(host.driver.log, 200)}" for host in self.mode.hosts
        ]
        return "\n\n".join(said)

    def _set_up(self, host: Host) -> None:
        host.path("/etc/docker").mkdir(exist_ok=True)
        settings = {**self.mode.docker, "live-restore": host is self.mode.hosts[-1]}
        host.path("/etc/docker/daemon.json").write_text(json.dumps(settings))
        host.dockerd.stop()
        host.dockerd.start()
        host.driver.start(*self.mode.driver)

    def _later(self, seconds: float, event: Command | Fault, over: ExitStack) -> None:
        time.sleep(seconds)
        if isinstance(event, Command):
            self.type(event, "in the midst of it")
            return
        self.log(f"    {event}")
        try:
            self.mode.kinds[event.kind].strike(self._machine(event.machine), over)
        except LabError as error:  # the power has just been cut, perhaps
            self.log(f"    {event}: {error}")

    def type(self, command: Command, when: str) -> bool:
        """Type a command; False if it fails. Raises Violation if it hangs, or its error is not one line."""
        begun = time.monotonic()
        error = ""
        try:
            self._machine(command.host).docker(*command.argv, timeout=DEADLINE)
        except CommandError as failed:
            if failed.status == 124:
                raise Violation(f"{command} hangs") from None
            error = failed.stderr
        except TimeoutExpired:
            raise Violation(f"{command} hangs") from None
        except LabError as off:
            error = str(off)
        took = time.monotonic() - begun
        self.slowest = max(self.slowest, took)
        self.commands[f"{'refused' if error else 'done'} {when}"] += 1
        self.log(f"    {command}: {error or 'done'} ({took:.1f} s)")
        said = [line for line in error.splitlines() if line and not line.startswith(_DOCKERS_OWN)]
        if len(said) > 1 or "internal error" in error:
            raise Violation(f"{command} fails with more than one clear line:\n{error}")
        return not error

    def _settle(self) -> None:
        """Type again what came to nothing, until all is in order. Raises Violation if that is never."""
        begun = time.monotonic()
        before: list[str] = []
        while troubles := self._troubles():
            if troubles != before:
                self.log(
                    f"not yet: {troubles[0]}" + (f", and {len(troubles) - 1} more" if troubles[1:] else "")
                )
            before = troubles
            if time.monotonic() - begun > PATIENCE:
                raise Violation("\n".join(troubles))
            time.sleep(1)
        self.wanted.gone.clear()
        self.settled.append(time.monotonic() - begun)
        self.log("in order")

    def _troubles(self) -> list[str]:
        """What is not in order yet, after a look at Docker and at what it takes to have it as wanted."""
        try:
            there = views.docker(self.mode.hosts)
            again = operations.again(
                self.wanted, {view.host.name: (set(view.networks), view.containers) for view in there}
            )
            if again:
                refused = [command for command in again if not self.type(command, "when all runs")]
                return [f"again: {command}" for command in refused or again]
            troubles = [*self._to_follow(there), *invariants.troubles(self.mode, there)]
        except (OvnDockerError, LabError) as error:
            return [str(error)]
        return troubles

    def _to_follow(self, there: list[views.View]) -> list[str]:
        """Networks that hosts have to make or remove by themselves, as another did."""
        return [
            f"{view.host.name}: {'left behind' if name in view.networks else 'missing'}: network {name}"
            for view in there
            for name in view.networks.keys() ^ self._networks(view.host)
        ]

    def _networks(self, host: Host) -> set[str]:
        return {name for name, one in self.wanted.networks.items() if host.name in one.hosts}

    def _machine(self, name: str) -> Host:
        return next(machine for machine in self.mode.machines if machine.name == name)
