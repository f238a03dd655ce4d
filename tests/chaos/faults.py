"""What goes wrong, and putting it back."""

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

_BOOT = 120.0
"""Seconds that a program may take to be ready again, on a machine that has much else to do."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault, by its name, on a machine."""

    kind: str
    machine: str

    def __str__(self) -> str:
        return f"{self.machine}: {self.kind}"


def plan(rng: Random, kinds: Mapping[str, Kind], count: int) -> list[Fault]:
    """Faults at once, *count* at most. One power cut at most, and nothing else on its machine."""
    faults: list[Fault] = []
    for _ in range(count):
        (kind,) = rng.choices(list(kinds), [_often(kind) for kind in kinds])
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
    """End all that has been done, and start whatever does not run, everywhere at once. Raises LabError."""
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
            log(f"{host.name}: dockerd hangs, and not for us; again\n{_stacks_without_us(host)}")
            host.dockerd.kill()
            bring_up(host.dockerd)
            await_ready(host.dockerd)

    at_once(lambda step: step(), [mode.start_around, *(partial(start, host) for host in mode.hosts)])


def bring_up(*services: Service, options: Sequence[str] = ()) -> None:
    """Start those that do not run."""
    for service in services:
        if not service.pid:
            service.start(*options, wait=False)


def await_ready(*services: Service) -> None:
    """Returns when they serve. Raises LabError."""
    for service in services:
        wait_for(service.ready, f"{service} to be ready", timeout=_BOOT)


def _stacks_without_us(host: Host) -> str:
    """What dockerd's threads are at, by its own word (dockerd(8), SIGUSR1): those that restore containers.

    Raises LabError if one waits for a plugin: then dockerd hangs because of the driver.
    """
    host.dockerd.signal(signal.SIGUSR1)
    dumps = wait_for(lambda: sorted(host.path("/run/docker").glob("goroutine-stacks-*.log")), "the stacks")
    wait_for(lambda: "\ngoroutine " in dumps[-1].read_text(), "the stacks to be written")
    stacks = dumps[-1].read_text().split("\n\n")
    if waiting := [stack for stack in stacks if "/plugins.(*Client)" in stack]:
        raise LabError("dockerd waits for a plugin:\n" + "\n\n".join(waiting))
    return "\n\n".join(stack for stack in stacks if "restore" in stack.lower() or "containerd" in stack)


def service_of(machine: Host, name: str) -> Service:
    """A program of a machine, by the name of its attribute."""
    service: Service = getattr(machine, name)
    return service


def kill_or_freeze(services: Iterable[str], machines: tuple[str, ...]) -> dict[str, Kind]:
    """Ending programs in the middle of what they do, and stopping them until they may go on."""
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
    """It runs for a fiftieth of a second in every half."""

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
    """A machine's cables carry nothing, while its interfaces stay up: 0 is for management, 1 for tunnels."""

    def strike(machine: Host, over: ExitStack) -> None:
        def carry(state: str) -> None:
            for cable in cables:
                link = ("bridge", "link", "set", "dev", machine.ports[cable], "state", state)
                machine.fabric.run(*link, check=False)  # cables of a machine that is off are no more

        carry("0")
        over.callback(carry, "3")

    return strike


def power_cut(machine: Host, _: ExitStack) -> None:
    """Switch it off."""
    machine.power_off()


def _often(kind: str) -> int:
    """What loses more state comes more often."""
    return (
        6
        if kind in {"kill -9 driver", POWER_CUT} or kind.endswith("leader")
        else 3
        if kind.startswith(("kill", "cut"))
        else 2
    )
