"""Networks of the cluster, followed by a host while others remove them and make them again."""

import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from functional.hosts import Host, definition_of
from ovn_docker.backends.overlay import Overlay
from ovn_docker.backends.shared import SharedNetworks
from ovn_docker.cluster import Follower
from ovn_docker.deadline import Deadline
from ovn_docker.driver import Driver
from ovn_docker.errors import Conflict, NotFound, Unavailable
from ovn_docker.model import Definition, LocalNetwork, Network, NetworkId, Note, SharedNetwork, Subnet
from ovn_docker.options import NetworkOptions

SUBNET = Subnet(ip_network("10.7.0.0/24"), ip_address("10.7.0.1"))
FOO = definition_of("foo", SUBNET)
HERE, THERE, ANEW, AGAIN = (NetworkId(letter * 64) for letter in "1234")


def soon() -> Deadline:
    return Deadline(10)


def foo(id_: NetworkId) -> Network:
    return Network(
        id_, (Subnet(ip_network("10.7.0.0/24"), ip_address("10.7.0.1")),), options=NetworkOptions(name="foo")
    )


class Docker:
    """Of the host that follows. *meanwhile*: what others do while it makes or removes a network.

    *asked*: what its user does just before it says what it has.
    """

    driver: Driver

    def __init__(self, meanwhile: Callable[[], None], *have: LocalNetwork) -> None:
        self.have = list(have)
        self.asked: Callable[[], None] = lambda: None
        self._meanwhile = meanwhile

    def networks(self) -> list[LocalNetwork]:
        self.asked()
        return self.have

    def create_network(self, wanted: Definition) -> None:
        self._meanwhile()
        self.driver.create_network(foo(ANEW))
        self.have = [LocalNetwork(ANEW, wanted.name, wanted)]

    def remove_network(self, network: LocalNetwork) -> None:
        self._meanwhile()
        self.driver.delete_network(network.id)
        self.have.remove(network)


class Cluster:
    """The host of the tests, with the Docker above, and another one. *meanwhile*: see Docker."""

    def __init__(self, host: Host, meanwhile: Callable[["Cluster"], None], *have: LocalNetwork) -> None:
        self.here = host.vswitch.chassis(soon())
        self._there = replace(self.here, system_id="host2", encap_ips=(ip_address("10.0.0.2"),))
        self._shared = SharedNetworks(lambda _: host.database)
        self.docker = Docker(lambda: meanwhile(self), *have)
        self.follower = Follower(self._shared, host.vswitch.chassis, self.docker)
        self._overlay = Overlay(lambda _: host.database)
        host.overlay = Overlay(lambda _: host.database, followed=self.follower.makes)
        self.docker.driver = host.driver(removed_elsewhere=self.follower.removes)

    def make(self, id_: NetworkId) -> None:
        """``docker network create`` on the other host, which tells how."""
        self._overlay.create_network(foo(id_), self._there, soon())
        self._shared.define(FOO, self._there, soon())

    def remove(self, id_: NetworkId) -> None:
        """``docker network rm`` there."""
        self._overlay.delete_network(id_, self._there, soon())

    def remove_everywhere(self, *, force: bool) -> None:
        """``ovn-docker network rm`` there."""
        self._shared.remove("foo", self._there, soon(), force=force)

    def use(self, id_: NetworkId, *, used: bool = True) -> None:
        """The other host notes that containers of it, running or stopped, belong to its network."""
        (network,) = self.networks()
        self._shared.write_note(id_, Note(network.incarnation, used), self._there, soon())

    def networks(self) -> list[SharedNetwork]:
        return self._shared.networks(self.here, soon())

    def notes(self, *networks: NetworkId) -> dict[NetworkId, Note]:
        return self._shared.notes(networks, self.here, soon())


def test_a_network_that_is_removed_and_made_again_at_once_stays(host: Host) -> None:
    """``docker network rm foo && docker network create -o ovn.network=foo``, followed by another host."""
    cluster = Cluster(host, lambda cluster: cluster.make(AGAIN), LocalNetwork(HERE, "foo", FOO))
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    (stored,) = cluster.networks()
    cluster.remove(THERE)
    assert [network.removed for network in cluster.networks()] == [True]
    cluster.follower.follow()
    (again,) = cluster.networks()
    assert again.incarnation != stored.incarnation
    assert replace(again, incarnation=stored.incarnation) == stored
    assert cluster.docker.have == []
    cluster.follower.follow()
    assert [network.id for network in cluster.docker.have] == [ANEW]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_network_that_is_removed_while_another_host_makes_it_does_not_come_back(
    host: Host, *, elsewhere: bool
) -> None:
    """*elsewhere*: a third host has it still, so that it is only marked."""
    cluster = Cluster(host, lambda cluster: cluster.remove(THERE))
    if elsewhere:
        cluster.make(AGAIN)
    cluster.make(THERE)
    assert not cluster.follower.follow()
    assert [network.removed for network in cluster.networks()] == [True] * elsewhere
    cluster.follower.follow()
    assert cluster.docker.have == []


def test_a_network_that_is_made_again_here_while_the_follower_looks_stays(host: Host) -> None:
    """``docker network rm foo && docker network create foo`` on this host; another host has it yet."""
    cluster = Cluster(host, lambda _: None, LocalNetwork(HERE, "foo", FOO))
    cluster.make(THERE)
    driver = cluster.docker.driver
    driver.create_network(foo(HERE))
    driver.delete_network(HERE)
    again = LocalNetwork(ANEW, "foo", FOO)

    def make_again() -> None:
        driver.create_network(foo(ANEW))
        cluster.docker.have = [again]

    cluster.docker.asked = make_again
    cluster.follower.follow()
    assert cluster.docker.have == [again]


def test_a_network_that_is_made_again_is_not_removed_for_the_one_before(host: Host) -> None:
    """``docker network rm foo`` while the database was away, and ``docker network create`` as it is back."""
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    driver = cluster.docker.driver
    driver.create_network(foo(HERE))
    host.northbound.pause()
    with pytest.raises(Unavailable):
        driver.delete_network(HERE)
    host.northbound.resume()
    driver.create_network(foo(ANEW))
    host.docker.networks.add(ANEW)
    host.reconciler(driver).repair()
    assert [network.removed for network in cluster.networks()] == [False]
    assert [one.id for one in host.leftovers.mine(cluster.here, soon())[0]] == [ANEW]


def test_a_network_that_another_host_needs_goes_from_this_host_alone(host: Host) -> None:
    """A stopped container there is enough; this host's follower does not make the network again."""
    cluster = Cluster(host, lambda _: None, LocalNetwork(HERE, "foo", FOO))
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.use(THERE)
    cluster.docker.driver.delete_network(HERE)
    cluster.docker.have = []
    assert [network.removed for network in cluster.networks()] == [False]
    assert cluster.follower.follow()
    assert cluster.docker.have == []
    assert set(cluster.notes(HERE, THERE)) == {THERE}

    cluster.docker.driver.create_network(foo(ANEW))  # by the user, who wants it again
    cluster.docker.have = [LocalNetwork(ANEW, "foo", FOO)]
    assert cluster.follower.follow()
    assert set(cluster.notes(ANEW, THERE)) == {ANEW, THERE}
    cluster.use(THERE, used=False)
    cluster.docker.driver.delete_network(ANEW)
    assert [network.removed for network in cluster.networks()] == [True]


def test_a_removal_waits_for_the_note_that_the_last_container_has_gone(host: Host) -> None:
    """``docker rm`` on another host, and ``docker network rm`` here in the same moment."""
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.use(THERE)
    late = threading.Timer(0.5, lambda: cluster.use(THERE, used=False))
    late.start()
    cluster.docker.driver.delete_network(HERE)
    late.join()
    assert [network.removed for network in cluster.networks()] == [True]


def test_a_network_that_is_just_being_removed_is_not_made_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker lists it no more before it calls the driver; a note that stays was left by a crash."""
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.follower.follow()
    assert cluster.docker.have == []
    monkeypatch.setattr("ovn_docker.cluster._GOING", 0)
    cluster.follower.follow()
    assert [network.id for network in cluster.docker.have] == [ANEW]


def test_a_departure_ends_with_the_life_of_the_network(host: Host) -> None:
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.use(THERE)
    cluster.docker.driver.delete_network(HERE)
    cluster.use(THERE, used=False)
    cluster.make(AGAIN)
    cluster.remove(THERE)
    cluster.make(ANEW)
    cluster.follower.follow()
    assert [network.id for network in cluster.docker.have] == [ANEW]


def test_a_removal_elsewhere_is_taken_back_where_containers_belong_to_the_network(host: Host) -> None:
    """A container was created in the moment in which the other host removed the network."""
    foo_here = LocalNetwork(HERE, "foo", FOO)
    cluster = Cluster(host, lambda _: None, foo_here)
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.remove(THERE)
    cluster.docker.have = [replace(foo_here, used=True)]
    cluster.follower.follow()
    assert [network.removed for network in cluster.networks()] == [False]
    assert cluster.docker.have == [replace(foo_here, used=True)]
    assert cluster.notes(HERE)[HERE].used


def test_a_forced_removal_is_not_taken_back(host: Host) -> None:
    foo_here = LocalNetwork(HERE, "foo", FOO, used=True)
    cluster = Cluster(host, lambda _: None, foo_here)
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.follower.follow()
    with pytest.raises(Conflict, match="containers, running or stopped, belong to network foo"):
        cluster.remove_everywhere(force=False)
    cluster.remove_everywhere(force=True)
    cluster.follower.follow()
    assert cluster.docker.have == []


def test_an_unused_network_is_removed_everywhere_without_force(host: Host) -> None:
    cluster = Cluster(host, lambda _: None)
    with pytest.raises(NotFound, match="no network foo in the cluster"):
        cluster.remove_everywhere(force=False)
    cluster.make(THERE)
    cluster.remove_everywhere(force=False)
    assert [network.removed for network in cluster.networks()] == [True]


def test_a_removal_that_had_to_wait_does_not_remove_the_network_made_after_it(host: Host) -> None:
    """``docker network rm`` on a host that is cut off; another removes the network and makes it anew."""
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    driver = cluster.docker.driver
    driver.create_network(foo(HERE))
    host.northbound.pause()
    with pytest.raises(Unavailable):
        driver.delete_network(HERE)
    host.northbound.resume()
    cluster.remove(THERE)
    cluster.make(AGAIN)
    host.reconciler(driver).repair()
    assert [network.removed for network in cluster.networks()] == [False]
    assert cluster.notes(HERE, AGAIN).keys() == {AGAIN}
    cluster.follower.follow()
    assert [network.id for network in cluster.docker.have] == [ANEW]


@pytest.mark.parametrize("used", [False, True])
def test_a_network_of_an_earlier_life_is_replaced_or_adopted(host: Host, *, used: bool) -> None:
    """This host was cut off while the others removed the network and made it anew."""
    foo_here = LocalNetwork(HERE, "foo", FOO, used=used)
    cluster = Cluster(host, lambda _: None, foo_here)
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.remove(THERE)
    cluster.make(AGAIN)
    cluster.follower.follow()
    cluster.follower.follow()
    kept = HERE if used else ANEW
    assert [network.id for network in cluster.docker.have] == [kept]
    (network,) = cluster.networks()
    assert cluster.notes(HERE, ANEW) == {kept: Note(network.incarnation, used)}
