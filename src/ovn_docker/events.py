"""Changes in this host's Docker, as types: listeners subscribe to them (core/event_source.py). No I/O."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DockerEvent:
    """A change in this host's Docker."""


@dataclass(frozen=True, slots=True)
class DockerStarted(DockerEvent):
    """dockerd answers: it or the driver has started. Changes before this event are not known."""


@dataclass(frozen=True, slots=True)
class DockerStopped(DockerEvent):
    """dockerd does not answer; repeated until it does."""


@dataclass(frozen=True, slots=True)
class NetworkChanged(DockerEvent):
    """A network was created or removed."""

    network: str


@dataclass(frozen=True, slots=True)
class ContainerEvent(DockerEvent):
    """A change of a container, by its ID."""

    container: str


@dataclass(frozen=True, slots=True)
class ContainerCreated(ContainerEvent):
    """A container was created; it does not run yet."""


@dataclass(frozen=True, slots=True)
class ContainerStarted(ContainerEvent):
    """A container has started, or ran already when dockerd was asked after `DockerStarted`."""


@dataclass(frozen=True, slots=True)
class ContainerRenamed(ContainerEvent):
    """A container has another name."""


@dataclass(frozen=True, slots=True)
class ContainerConnected(ContainerEvent):
    """A container has joined a network: its Join is over, its process may not have started yet."""

    network: str


@dataclass(frozen=True, slots=True)
class ContainerDisconnected(ContainerEvent):
    """A container has left a network. Docker disconnects a container that stops from all its networks."""

    network: str


@dataclass(frozen=True, slots=True)
class ContainerRemoved(ContainerEvent):
    """A container was removed."""
