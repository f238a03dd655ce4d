"""The differences between the two modes of the driver, for this suite."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from chaos.views import View
from e2e.lab import Host

Strike = Callable[[Host, ExitStack], None]
"""A function that causes a fault on a machine, and adds the end of the fault to the stack.

Programs that do not run are started in any case."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: the function that causes it, and the names of the machines that may have it."""

    strike: Strike
    machines: tuple[str, ...]


class Mode(Protocol):
    """Hosts with Docker, and the other machines that they need.

    *hosts*: the hosts on which commands run; *machines*: those and the machines that only have faults;
    *kinds*: kinds of faults by name; *follow*: shared networks, and the names of their containers, appear on
    all hosts by themselves; *docker*: dockerd's settings; *driver*: options with which the driver's time
    limits and sweeps take seconds.
    """

    follow: bool
    driver: Sequence[str]
    docker: Mapping[str, object]
    hosts: Sequence[Host]
    machines: Sequence[Host]
    kinds: Mapping[str, Kind]

    def start_around(self) -> None:
        """Start the programs that do not run on the other machines. Raises LabError."""

    def start_network(self, host: Host) -> None:
        """Start the programs that the driver needs and that do not run on a host. Raises LabError."""

    def let_time_pass(self) -> None:
        """Make resources old that become leftovers only after some time; no command runs at the moment."""

    def wanted(self, there: Iterable[View]) -> Iterator[str]:
        """Yield the parts that should exist outside of the hosts, by the state of Docker."""

    def found(self, there: Iterable[View]) -> set[str]:
        """Return the parts that exist outside of the hosts. Raises LabError or OvnDockerError."""

    def evidence(self) -> str:
        """Return the state outside of the hosts, to explain a violation."""
