"""Rounds of commands and faults, until the wanted number of faults or the first violation."""

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
"""Seconds in which every docker command ends, whatever has failed.

For each call of a command, Docker tries for 15 s to reach a driver that is down.
"""

RECOVERY_TIME = 120.0
"""Seconds after all programs run again, in which all conditions must hold."""

_MIX = 1.5
"""Seconds in which the commands and faults of a round begin."""

_GIVES_UP = 8.0
"""Seconds in which ``docker network rm`` ends on a host that is cut off: see `mode.Mode.driver`."""

_DOCKERS_OWN = ("See 'docker ", "Run 'docker ", "Error: failed to start containers", "time=", "WARNING: ")


class Violation(Exception):
    """A condition does not hold; the message names it."""


class Chaos:
    """Three hosts in a mode, and the state that they should have."""

    def __init__(self, mode: Mode, seed: int, say: Callable[[str], None]) -> None:
        self.mode, self.seed = mode, seed
        self.wanted = Wanted()
        self.struck: Counter[str] = Counter()
        self.violated: Counter[str] = Counter()
        self.commands: Counter[str] = Counter()
        self.slowest = 0.0
        self.made_again: set[Command] = set()
        """Creations of networks that succeeded in this round after the removal on another host."""
        self.settled: list[float] = []
        """For each round, the seconds from the restart of all programs until all conditions held."""
        self._say = say
        self._start = time.monotonic()
        self._round = 0
        at_once(self._set_up, mode.hosts)

    def rounds(self, count: int) -> None:
        """Run rounds with *count* faults in total. Raises Violation at the first violation."""
        while (left := count - self.struck.total()) > 0:
            self.round(left)

    def round(self, most: int) -> None:
        """Run a round with *most* faults at most."""
        self._round += 1
        rng = Random(f"{self.seed}/{self._round}")
        names = [host.name for host in self.mode.hosts]
        commands = operations.plan(self.wanted, rng, names, rng.randint(4, 8), follow=self.mode.follow)
        late = [Fault(faults.CUT_OFF, one.host) for one in commands if one.then and rng.random() < 0.5][:1]
        struck = faults.plan(rng, self.mode.kinds, min(most, rng.choice((1, 2, 2, 3, 4))), late)
        after = sorted(rng.uniform(0, _MIX) for _ in (*commands, *struck))
        events: list[Command | Fault] = [*commands, *struck[len(late) :]]
        rng.shuffle(events)
        events = [*late, *events]
        lasts, docker_first = rng.uniform(0.5, 6) + (_GIVES_UP if late else 0), rng.random() < 0.3
        self.made_again.clear()
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
        """Print a line with the time since the start in seconds."""
        self._say(f"{time.monotonic() - self._start:8.1f} {line}")

    def summary(self) -> str:
        """Return a table of faults and violations by kind."""
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
        """Return the state and logs of the hosts, to explain a violation."""
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
            commands = (event, *event.then)
            *_, done = [self.type(command, "during faults") for command in commands]
            if event.then and done:
                self.made_again.add(event.then[-1])
            return
        self.log(f"    {event}")
        try:
            self.mode.kinds[event.kind].strike(self._machine(event.machine), over)
        except LabError as error:  # the power may have just been cut
            self.log(f"    {event}: {error}")

    def type(self, command: Command, when: str) -> bool:
        """Run a command; return False if it fails. Raises Violation if it hangs or has more errors."""
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
        """Repeat failed commands until all conditions hold. Raises Violation after `RECOVERY_TIME`."""
        begun = time.monotonic()
        before: list[str] = []
        while troubles := self._troubles():
            if troubles != before:
                self.log(
                    f"not yet: {troubles[0]}" + (f", and {len(troubles) - 1} more" if troubles[1:] else "")
                )
            before = troubles
            if time.monotonic() - begun > RECOVERY_TIME:
                raise Violation("\n".join(troubles))
            time.sleep(1)
        self.wanted.gone.clear()
        self.settled.append(time.monotonic() - begun)
        self.log("in order")

    def _troubles(self) -> list[str]:
        """Repeat the commands that Docker's state still lacks; return the conditions that do not hold yet."""
        try:
            there = views.docker(self.mode.hosts)
            commands = operations.commands_towards(
                self.wanted, {view.host.name: (set(view.networks), view.containers) for view in there}
            )
            if vanished := [str(command) for command in commands if command in self.made_again]:
                raise Violation("gone after it was done:\n" + "\n".join(vanished))
            if commands:
                refused = [command for command in commands if not self.type(command, "after the faults")]
                return [f"again: {command}" for command in refused or commands]
            troubles = [*self._to_follow(there), *invariants.troubles(self.mode, there)]
        except (OvnDockerError, LabError) as error:
            return [str(error)]
        return troubles

    def _to_follow(self, there: list[views.View]) -> list[str]:
        """Return the networks that hosts still have to create or remove because another host did."""
        return [
            f"{view.host.name}: {'left behind' if name in view.networks else 'missing'}: network {name}"
            for view in there
            for name in view.networks.keys() ^ self._networks(view.host)
        ]

    def _networks(self, host: Host) -> set[str]:
        return {name for name, one in self.wanted.networks.items() if host.name in one.hosts}

    def _machine(self, name: str) -> Host:
        return next(machine for machine in self.mode.machines if machine.name == name)
