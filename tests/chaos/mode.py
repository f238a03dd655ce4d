"""What the two modes of the driver differ in, for this suite."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from chaos.views import View
from e2e.lab import Host

Strike = Callable[[Host, ExitStack], None]
"""Does it to a machine, and says how it ends if that is more than to start again what does not run."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what is done, and the names of the machines to which it may be."""

    strike: Strike
    machines: tuple[str, ...]


class Mode(Protocol):
    """Hosts with Docker, and what they need around them.

    *hosts*: on them commands are typed; *machines*: all, with those that only faults strike; *kinds*: the
    faults, by name; *follow*: networks that hosts share, and the names of containers on them, appear on all
    hosts by themselves; *docker*: dockerd's settings; *driver*: options with which the driver gives up, and
    clears up, within seconds, not to have to wait that long.
    """

    follow: bool
    driver: Sequence[str]
    docker: Mapping[str, object]
    hosts: Sequence[Host]
    machines: Sequence[Host]
    kinds: Mapping[str, Kind]

    def start_around(self) -> None:
        """Start what does not run on other machines. Raises LabError."""

    def start_network(self, host: Host) -> None:
        """Start what does not run on a host of what the driver needs. Raises LabError."""

    def let_time_pass(self) -> None:
        """Have what only time ends be old: nothing is typed at the moment."""

    def wanted(self, there: Iterable[View]) -> Iterator[str]:
        """All that there should be for what Docker has, but for what is on the hosts themselves."""

    def found(self, there: Iterable[View]) -> set[str]:
        """All that there is of it. Raises LabError or OvnDockerError if that cannot be told."""

    def evidence(self) -> str:
        """What one needs to see of it to know why something does not hold."""
