"""Two requests at the same time, on one host, to create one shared network."""

import pytest

from ovn_docker.core.creations import Creations
from ovn_docker.errors import Conflict
from ovn_docker.model import NetworkId

USERS, FOLLOWERS = NetworkId("1" * 64), NetworkId("2" * 64)


def test_the_second_network_of_a_name_is_refused_until_the_first_is_listed() -> None:
    creations = Creations()
    creations.begin("foo", USERS)
    creations.begin("foo", USERS)
    creations.begin("bar", FOLLOWERS)
    assert "foo" in creations
    with pytest.raises(Conflict, match="network with name foo already exists"):
        creations.begin("foo", FOLLOWERS)
    creations.end(USERS)
    assert "foo" not in creations
    creations.begin("foo", FOLLOWERS)


def test_network_that_docker_never_lists_releases_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    creations = Creations()
    creations.begin("foo", USERS)
    monkeypatch.setattr("ovn_docker.core.creations._LISTED", 0)
    creations.begin("foo", FOLLOWERS)
