"""The times at which the registrar writes names of containers, and log lines about missing names."""

import logging
from collections.abc import Iterable

import pytest

from ovn_docker.core.registrar import Registrar
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest
from ovn_docker.hostnames import ContainerNames, Unregistered
from ovn_docker.model import Chassis, EndpointId

ENDPOINT, CONTAINER = EndpointId("e" * 64), "c" * 64


class Docker:
    """A dockerd with one container on two networks, which may stop."""

    link_local: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.runs = True

    def names(self, container: str, seconds: float) -> dict[EndpointId, ContainerNames]:
        assert container == CONTAINER
        both = (ENDPOINT, EndpointId("f" * 64)) if self.runs else ()
        return dict.fromkeys(both, ContainerNames(("web", CONTAINER[:12]), link_local=self.link_local))


class Database:
    """A store in which some names of the first endpoint are registered already."""

    def __init__(self) -> None:
        self.missing = Unregistered()
        self.allowed: dict[EndpointId, tuple[str, ...]] = {}

    def allow(
        self, endpoint: EndpointId, addresses: Iterable[str], chassis: Chassis, deadline: Deadline
    ) -> None:
        if "169.254.53.1" in addresses:
            raise BadRequest("leave that out")
        self.allowed[endpoint] = tuple(addresses)

    def set_names(
        self, endpoint: EndpointId, names: ContainerNames, chassis: Chassis, deadline: Deadline
    ) -> Unregistered:
        assert names.own[0] == "web"
        assert (chassis.system_id, deadline.left() > 0) == ("host1", True)
        return self.missing if endpoint == ENDPOINT else Unregistered()


@pytest.fixture
def docker() -> Docker:
    return Docker()


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def registrar(docker: Docker, database: Database) -> Registrar:
    return Registrar(database, lambda _: Chassis("host1"), docker)


def test_a_container_without_its_name_is_registered_again_soon(
    registrar: Registrar, database: Database, docker: Docker
) -> None:
    hourly = registrar.register(CONTAINER)
    database.missing = Unregistered(taken=("web",))
    soon = registrar.register(CONTAINER)
    database.missing = Unregistered(unfit=("google.com",))
    assert hourly is not None
    assert soon is not None
    assert soon < hourly == registrar.register(CONTAINER)
    docker.runs = False
    assert registrar.register(CONTAINER) is None


def test_missing_names_are_logged_once(
    registrar: Registrar, database: Database, docker: Docker, caplog: pytest.LogCaptureFixture
) -> None:
    def said(missing: Unregistered = Unregistered()) -> list[str]:  # noqa: B008 - it is frozen
        caplog.clear()
        database.missing = missing
        with caplog.at_level(logging.INFO):
            registrar.register(CONTAINER)
        return [f"{record.levelname} {record.message}" for record in caplog.records]

    taken = Unregistered(taken=("web",))
    (line,) = said(taken)
    assert line.startswith(
        f"WARNING other hosts do not find container {CONTAINER[:12]} as web: another container"
    )
    assert said(taken) == []
    (line,) = said(Unregistered(unfit=("google.com",)))
    assert line.startswith(f"INFO other hosts do not find container {CONTAINER[:12]} as google.com: ")
    assert said() == []
    assert len(said(taken)) == 1
    docker.runs = False
    assert said() == []
    docker.runs = True
    assert len(said(taken)) == 1


def test_link_local_addresses_of_docker_are_allowed(
    registrar: Registrar, database: Database, docker: Docker, caplog: pytest.LogCaptureFixture
) -> None:
    registrar.register(CONTAINER)
    assert database.allowed == {}
    docker.link_local = ("169.254.7.7",)
    registrar.register(CONTAINER)
    assert set(database.allowed.values()) == {("169.254.7.7",)}
    docker.link_local = ("169.254.53.1",)
    assert registrar.register(CONTAINER) is not None
    assert "container web does not reach others from its --link-local-ip: leave that out" in caplog.text
