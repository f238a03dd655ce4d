"""Faults: functions that cause them, plan them and end them."""

import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from random import Random

from chaos.mode import Kind, Mode, Strike
from e2e.lab import Host, LabError, wait_for
from e2e.lab.command import at_once
from e2e.lab.services import Service

POWER_CUT = "power cut"
CUT_OFF = "cut off from the databases"

_BOOT = 120.0
"""Seconds that a program may take to be ready again, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault on a machine; *kind* is the name of its kind."""

    kind: str
    machine: str

    def __str__(self) -> str:
        return f"{self.machine}: {self.kind}"


def plan(rng: Random, kinds: Mapping[str, Kind], count: int, certain: Sequence[Fault] = ()) -> list[Fault]:
    """Return *count* faults at most, which happen together, including those in *certain*.

    At most one of them is a power cut, and its machine has no other fault.
    """
    faults = [*certain]
    for _ in range(count - len(faults)):
        (kind,) = rng.choices(list(kinds), [_weight(kind) for kind in kinds])
        fault = Fault(kind, rng.choice(kinds[kind].machines))
        dark = [one.machine for one in faults if one.kind == POWER_CUT]
        struck = [one.machine for one in faults]
        if (
            fault not in faults
            and fault.machine not in dark
            and not (kind == POWER_CUT and (dark or fault.machine in struck))
        ):
            faults.append(fault)
    return faults


def mend(mode: Mode, over: ExitStack, log: Callable[[str], None], *, docker_first: bool) -> None:
    """End all faults and start all programs that do not run, on all hosts at once. Raises LabError."""
    over.close()

    def start_docker(host: Host) -> None:
        bring_up(host.driver, options=mode.driver)
        bring_up(host.containerd)
        host.containerd.await_ready()
        bring_up(host.dockerd)

    def start(host: Host) -> None:
        if not host.pid:
            host.power_on()
        steps = (start_docker, mode.start_network)
        for step in steps if docker_first else reversed(steps):
            step(host)
        await_ready(host.driver)
        try:
            await_ready(host.dockerd)
        except LabError:
            log(f"{host.name}: dockerd hangs, not in a plugin; restart\n{_stacks_without_us(host)}")
            host.dockerd.kill()
            bring_up(host.dockerd)
            await_ready(host.dockerd)

    at_once(lambda step: step(), [mode.start_around, *(partial(start, host) for host in mode.hosts)])


def bring_up(*services: Service, options: Sequence[str] = ()) -> None:
    """Start those of *services* that do not run."""
    for service in services:
        if not service.pid:
            service.start(*options, wait=False)


def await_ready(*services: Service) -> None:
    """Return when *services* are ready. Raises LabError."""
    for service in services:
        wait_for(service.ready, f"{service} to be ready", timeout=_BOOT)


def _stacks_without_us(host: Host) -> str:
    """Return the stacks of dockerd's goroutines that restore containers, from SIGUSR1 (dockerd(8)).

    Raises LabError if a goroutine waits for a plugin: then dockerd hangs because of the driver.
    """
    host.dockerd.signal(signal.SIGUSR1)
    dumps = wait_for(lambda: sorted(host.path("/run/docker").glob("goroutine-stacks-*.log")), "the stacks")
    wait_for(lambda: "\ngoroutine " in dumps[-1].read_text(), "the stacks to be written")
    stacks = dumps[-1].read_text().split("\n\n")
    if waiting := [stack for stack in stacks if "/plugins.(*Client)" in stack]:
        raise LabError("dockerd waits for a plugin:\n" + "\n\n".join(waiting))
    return "\n\n".join(stack for stack in stacks if "restore" in stack.lower() or "containerd" in stack)


def service_of(machine: Host, name: str) -> Service:
    """Return a program of a machine, by the name of its attribute."""
    service: Service = getattr(machine, name)
    return service


def kill_or_freeze(services: Iterable[str], machines: tuple[str, ...]) -> dict[str, Kind]:
    """Return kinds of faults that kill programs, and that stop them until the end of the fault."""
    kills = {f"kill -9 {service}": Kind(_kill(service), machines) for service in services}
    return kills | {f"freeze {service}": Kind(_freeze(service), machines) for service in services}


def _kill(service: str) -> Strike:
    return lambda machine, _: service_of(machine, service).kill()


def _freeze(service: str) -> Strike:
    def strike(machine: Host, over: ExitStack) -> None:
        service_of(machine, service).signal(signal.SIGSTOP)
        over.callback(service_of(machine, service).signal, signal.SIGCONT)

    return strike


def slow(service: str) -> Strike:
    """Return a fault that lets a program run for a fiftieth of a second in every half second."""

    def strike(machine: Host, over: ExitStack) -> None:
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(0.02):
                with suppress(LabError):  # another fault may have just killed it
                    service_of(machine, service).signal(signal.SIGSTOP)
                    ended.wait(0.5)
                    service_of(machine, service).signal(signal.SIGCONT)

        thread = threading.Thread(target=work)
        thread.start()
        over.callback(thread.join)
        over.callback(ended.set)

    return strike


def cut(*cables: int) -> Strike:
    """Return a fault that drops all packets on cables of a machine: 0 is for management, 1 for tunnels.

    The interfaces stay up."""

    def strike(machine: Host, over: ExitStack) -> None:
        def carry(state: str) -> None:
            for cable in cables:
                link = ("bridge", "link", "set", "dev", machine.ports[cable], "state", state)
                machine.fabric.run(*link, check=False)  # a machine that is off has no cables

        carry("0")
        over.callback(carry, "3")

    return strike


def power_cut(machine: Host, _: ExitStack) -> None:
    """Switch a machine off."""
    machine.power_off()


def _weight(kind: str) -> int:
    """Return the weight of a kind of fault; faults that lose more state are more frequent."""
    return (
        6
        if kind in {"kill -9 driver", POWER_CUT} or kind.endswith("leader")
        else 3
        if kind.startswith(("kill", "cut"))
        else 2
    )
