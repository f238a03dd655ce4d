"""Two requests at the same time, on one host, to create one shared network."""

from ipaddress import ip_network

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


POOL, OTHER_POOL = ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16")


def test_request_that_began_before_the_first_network_was_listed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Docker looked for the name, found none, and calls the driver after it has listed the other network."""
    creations = Creations()
    creations.begin("foo", FOLLOWERS, [POOL])
    creations.listed(FOLLOWERS)
    assert "foo" not in creations
    with pytest.raises(Conflict, match="network with name foo already exists"):
        creations.begin("foo", USERS, [POOL])
    creations.begin("foo", USERS, [OTHER_POOL])  # the backend refuses it, or accepts it without rows
    with pytest.raises(Conflict, match="network with name foo already exists"):
        creations.check("foo", USERS)
    creations.end(USERS)
    creations.check("foo", FOLLOWERS)
    monkeypatch.setattr("ovn_docker.core.creations._UNDERWAY", 0)
    creations.check("foo", USERS)
    creations.begin("foo", USERS, [POOL])


def test_deleted_network_releases_its_name_at_once() -> None:
    creations = Creations()
    creations.begin("foo", FOLLOWERS, [POOL])
    creations.listed(FOLLOWERS)
    creations.end(FOLLOWERS)
    creations.begin("foo", USERS, [POOL])


def test_network_that_docker_never_lists_releases_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    creations = Creations()
    creations.begin("foo", USERS)
    monkeypatch.setattr("ovn_docker.core.creations._LISTED", 0)
    creations.begin("foo", FOLLOWERS)
