"""Listeners of Docker's events: each is called for the events that it has subscribed to."""

import logging
from collections.abc import Iterator

import pytest

from functional.ovsdb_servers import until
from ovn_docker.core import event_source
from ovn_docker.core.event_source import EventSource
from ovn_docker.docker import engine
from ovn_docker.errors import Unavailable
from ovn_docker.events import (
    ContainerConnected,
    ContainerCreated,
    ContainerDisconnected,
    ContainerEvent,
    ContainerRemoved,
    ContainerRenamed,
    ContainerStarted,
    DockerEvent,
    DockerStarted,
    DockerStopped,
    NetworkChanged,
)
from ovn_docker.threads import Threads


def silent() -> Iterator[DockerEvent]:
    yield from ()


def test_listener_gets_events_of_its_class_and_subclasses() -> None:
    source = EventSource(silent)
    containers: list[ContainerEvent] = []
    renamed: list[ContainerRenamed] = []
    source.subscribe(ContainerEvent, containers.append)
    source.subscribe(ContainerRenamed, renamed.append)
    events = [DockerStarted(), ContainerStarted("c1"), ContainerRenamed("c2"), NetworkChanged("n1")]
    for event in events:
        source.publish(event)
    assert containers == [ContainerStarted("c1"), ContainerRenamed("c2")]
    assert renamed == [ContainerRenamed("c2")]


def test_failure_of_a_listener_is_logged_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    source = EventSource(silent)
    before: list[DockerEvent] = []
    after: list[DockerEvent] = []

    def fail(event: DockerEvent) -> None:
        raise RuntimeError("a defect")

    source.subscribe(DockerEvent, before.append)
    source.subscribe(DockerEvent, fail)
    source.subscribe(DockerEvent, after.append)
    with caplog.at_level(logging.ERROR):
        source.publish(ContainerStarted("c1"))
        source.publish(ContainerStarted("c2"))
    assert before == after == [ContainerStarted("c1"), ContainerStarted("c2")]
    assert caplog.text.count("RuntimeError: a defect") == 2


def test_stream_that_ends_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_source, "_PAUSE", 0.01)
    lives = iter(("c1", "c2"))

    def stream() -> Iterator[DockerEvent]:
        container = next(lives, None)
        if container is None:
            raise Unavailable("Docker does not answer")
        yield DockerStarted()
        yield ContainerStarted(container)
        raise Unavailable("Docker sends no more events")

    source = EventSource(stream)
    seen: list[DockerEvent] = []
    source.subscribe(DockerEvent, seen.append)
    source.start(Threads())
    until(lambda: len(seen) >= 8)
    started, stopped = DockerStarted(), DockerStopped()
    first = [started, ContainerStarted("c1"), stopped]
    assert seen[:8] == [*first, started, ContainerStarted("c2"), stopped, stopped, stopped]


@pytest.mark.parametrize(
    ("type_", "action", "attributes", "event"),
    [
        ("container", "start", {}, ContainerStarted("id")),
        ("container", "rename", {}, ContainerRenamed("id")),
        ("container", "create", {}, ContainerCreated("id")),
        ("container", "destroy", {}, ContainerRemoved("id")),
        ("container", "update", {}, ContainerEvent("id")),
        ("network", "connect", {"container": "c1"}, ContainerConnected("c1", "id")),
        ("network", "disconnect", {"container": "c1"}, ContainerDisconnected("c1", "id")),
        ("network", "create", {}, NetworkChanged("id")),
        ("network", "destroy", None, NetworkChanged("id")),
    ],
)
def test_line_of_docker_becomes_an_event(
    type_: str, action: str, attributes: dict[str, str] | None, event: DockerEvent
) -> None:
    sent = {"Type": type_, "Action": action, "Actor": {"ID": "id", "Attributes": attributes}}
    assert engine._event(sent) == event
