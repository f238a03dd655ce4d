"""Shared networks that a host follows while other hosts remove them and make them again."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from functional.hosts import Host, definition_of
from functional.ovsdb_servers import until
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.rows import QUIET_TABLE, WATCHED_ROW
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.core.creations import Creations
from ovn_docker.core.driver import Driver
from ovn_docker.core.follower import Follower
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, NotFound, OvnDockerError, StillRemoved, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import is_row
from ovn_docker.model import (
    Definition,
    LocalNetwork,
    Network,
    NetworkId,
    Note,
    Obstacle,
    Occupied,
    Problem,
    Refusal,
    SharedNetwork,
    Subnet,
)
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
    """Docker of the host that follows.

    *meanwhile*: called while Docker makes or removes a network, to act as other hosts; *others*: subnets of
    networks of other drivers; *asked*: called before Docker lists its networks, to act as the user.
    """

    driver: Driver

    def __init__(self, meanwhile: Callable[[], None], *have: LocalNetwork) -> None:
        self.have = list(have)
        self.asked: Callable[[], None] = lambda: None
        self.others: list[Occupied] = []
        self._meanwhile = meanwhile

    def networks(self) -> list[LocalNetwork]:
        self.asked()
        return self.have

    def subnets(self) -> list[Occupied]:
        return self.others

    def create_network(self, wanted: Definition) -> NetworkId:
        self._meanwhile()
        self.driver.create_network(foo(ANEW))
        self.have = [LocalNetwork(ANEW, wanted.name, wanted)]
        return ANEW

    def remove_network(self, network: LocalNetwork) -> None:
        self._meanwhile()
        self.driver.delete_network(network.id)
        self.have.remove(network)


class Refuses(Docker):
    """A Docker that refuses to create networks with *error*."""

    error: OvnDockerError

    def create_network(self, wanted: Definition) -> NetworkId:
        if wanted.name == "foo":
            raise self.error
        self.have.append(LocalNetwork(AGAIN, wanted.name, wanted))
        return AGAIN


class Cluster:
    """The host of the tests, with the Docker above, and another host. *meanwhile*: see Docker."""

    def __init__(
        self,
        host: Host,
        meanwhile: Callable[["Cluster"], None],
        *have: LocalNetwork,
        kind: type[Docker] = Docker,
        mirror: bool = True,
    ) -> None:
        self.here = host.vswitch.chassis(soon())
        self._there = replace(self.here, system_id="host2", encap_ips=(ip_address("10.0.0.2"),))
        self._database = host.database
        self._shared = SharedNetworks(lambda _: host.database)
        self.docker = kind(lambda: meanwhile(self), *have)
        self.links: list[Occupied] = []
        self.creations = Creations()
        self.follower = Follower(
            *(self._shared, host.vswitch.chassis, self.docker, None, lambda: self.links, self.creations),
            mirror=mirror,
        )
        self._overlay = Overlay(lambda _: host.database)
        host.overlay = Overlay(lambda _: host.database, followed=self.follower.makes)
        self.docker.driver = host.driver(removed_elsewhere=self.follower.removes)

    def make(self, id_: NetworkId, name: str = "foo") -> None:
        """Run ``docker network create`` on the other host, which writes the definition."""
        network = replace(foo(id_), options=NetworkOptions(name=name))
        self._overlay(self._there).create_network(network, soon())
        self._shared.define(definition_of(name, SUBNET), self._there, soon())

    def watch(self) -> list[None]:
        """Return a list to which the changes that the follower sees are appended."""
        seen: list[None] = []

        def collect() -> None:
            with suppress(Unavailable):
                for change in self._shared.watch(self.here):
                    seen.append(change)  # noqa: PERF402 - one by one, as they arrive

        threading.Thread(target=collect, daemon=True).start()
        until(lambda: seen)
        return seen

    def generation(self) -> str:
        """Return the generation, whose change wakes all hosts."""
        (row,) = self._database.transact(
            ovsdb.select(QUIET_TABLE, is_row(WATCHED_ROW), columns=["external_ids"]), deadline=soon()
        )
        return str(row[0]["external_ids"]["ovn-docker:generation"])

    def problems(self) -> list[Problem]:
        """Return this host's report of the networks that it cannot have or use."""
        reports = {report.host: report for report in self._shared.reports(self._there, soon())}
        return [*reports["host1"].problems]

    def remove(self, id_: NetworkId) -> None:
        """Run ``docker network rm`` on the other host."""
        self._overlay(self._there).delete_network(id_, soon())

    def remove_everywhere(self, *, force: bool) -> None:
        """Run ``ovn-docker network rm`` on the other host."""
        self._shared.remove("foo", self._there, soon(), force=force)

    def use(self, id_: NetworkId, *, used: bool = True) -> None:
        """Write into the other host's note that its containers belong to the network."""
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
    """*elsewhere*: a third host still has the network, so that the network is only marked as removed."""
    cluster = Cluster(host, lambda cluster: cluster.remove(THERE))
    if elsewhere:
        cluster.make(AGAIN)
    cluster.make(THERE)
    assert not cluster.follower.follow()
    assert [network.removed for network in cluster.networks()] == [True] * elsewhere
    cluster.follower.follow()
    assert cluster.docker.have == []


def test_network_that_is_created_again_during_a_comparison_stays(host: Host) -> None:
    """``docker network rm foo && docker network create foo`` on this host, while another host has foo."""
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


@pytest.mark.slow
def test_a_network_that_is_made_again_is_not_removed_by_an_earlier_request(host: Host) -> None:
    """``docker network rm foo`` while the database is down, and ``docker network create`` when it is back."""
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    driver = host.driver(host.SHORT_LIMITS, cluster.follower.removes)
    driver.create_network(foo(HERE))
    host.northbound.pause()
    with pytest.raises(Unavailable):
        driver.delete_network(HERE)
    host.northbound.resume()
    driver.create_network(foo(ANEW))
    host.docker.networks.add(ANEW)
    host.reconciler(driver).repair()
    assert [network.removed for network in cluster.networks()] == [False]
    assert [one.id for one in host.leftovers(cluster.here).of_host(soon())[0]] == [ANEW]


def test_a_network_that_a_host_has_not_given_up_yet_is_not_made_with_another_subnet(host: Host) -> None:
    """``docker network rm foo && docker network create --subnet`` with another one."""
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    cluster.make(AGAIN)
    cluster.remove(THERE)
    other = replace(foo(HERE), subnets=(replace(SUBNET, pool=ip_network("10.99.0.0/16")),))
    with pytest.raises(StillRemoved, match="it has been removed, but a host has not given it up yet"):
        cluster.docker.driver.create_network(other)


def test_network_that_another_host_needs_is_removed_from_this_host_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped container there keeps the network; this host's follower does not make it again."""
    monkeypatch.setattr("ovn_docker.backends.ovn.shared.membership._NOTING", 0.1)
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

    cluster.docker.driver.create_network(foo(ANEW))  # by the user, who creates the network again
    cluster.docker.have = [LocalNetwork(ANEW, "foo", FOO)]
    assert cluster.follower.follow()
    assert set(cluster.notes(ANEW, THERE)) == {ANEW, THERE}
    cluster.use(THERE, used=False)
    cluster.docker.driver.delete_network(ANEW)
    assert [network.removed for network in cluster.networks()] == [True]


def test_a_removal_waits_for_the_note_that_the_last_container_has_gone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``docker rm`` on another host, and ``docker network rm`` on this host at the same moment."""
    monkeypatch.setattr("ovn_docker.backends.ovn.shared.membership._NOTING", 20)
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.use(THERE)
    with ThreadPoolExecutor() as threads:
        removes = threads.submit(cluster.docker.driver.delete_network, HERE)
        until(host.northbound.holds)
        assert not removes.done()
        cluster.use(THERE, used=False)
        removes.result()
    assert [network.removed for network in cluster.networks()] == [True]


def test_a_network_that_is_just_being_removed_is_not_made_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker stops listing a network before it calls the driver; a note that stays is left by a crash."""
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.follower.follow()
    assert cluster.docker.have == []
    monkeypatch.setattr("ovn_docker.core.follower._LEAVING", 0)
    monkeypatch.setattr("ovn_docker.core.creations._LISTED", 0)
    cluster.follower.follow()
    assert [network.id for network in cluster.docker.have] == [ANEW]


def test_a_departure_ends_with_the_incarnation_of_the_network(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovn_docker.backends.ovn.shared.membership._NOTING", 0.1)
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


def test_a_removal_elsewhere_is_cancelled_if_containers_here_belong_to_the_network(host: Host) -> None:
    """A container was created at the moment when the other host removed the network."""
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


def test_a_forced_removal_is_not_cancelled(host: Host) -> None:
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


@pytest.mark.slow
def test_a_delayed_removal_does_not_remove_the_network_made_after_it(host: Host) -> None:
    """``docker network rm`` on a host that is cut off; another removes the network and makes it anew."""
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    driver = host.driver(host.SHORT_LIMITS, cluster.follower.removes)
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
def test_network_of_an_earlier_incarnation_is_replaced_or_adopted(host: Host, *, used: bool) -> None:
    """The others removed the network and made it anew while this host was cut off."""
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


# Networks that a host cannot have or use


@pytest.mark.parametrize("error", [Conflict("Docker says: no"), Unavailable("Docker says: no")], ids=type)
def test_network_that_docker_refuses_is_reported_and_does_not_delay_others(
    host: Host, error: OvnDockerError
) -> None:
    cluster = Cluster(host, lambda _: None, kind=Refuses)
    assert isinstance(cluster.docker, Refuses)
    cluster.docker.error = error
    cluster.make(THERE)
    cluster.make(AGAIN, "goo")
    assert not cluster.follower.follow()
    assert cluster.problems() == [Problem("foo", Obstacle.DOCKER, "Docker says: no")]
    assert [network.shared for network in cluster.docker.have] == ["goo"]
    cluster.remove(THERE)
    assert cluster.follower.follow()
    assert cluster.problems() == []


def test_subnet_in_use_on_this_host_is_reported_until_it_is_free(host: Host) -> None:
    cluster = Cluster(host, lambda _: None)
    cluster.links = [Occupied(ip_network("10.7.0.128/25"), "eth7", linked=True)]
    cluster.make(THERE)
    assert cluster.follower.follow()
    why = "its subnet 10.7.0.0/24 overlaps 10.7.0.128/25 (eth7), which this host is connected to"
    assert cluster.problems() == [Problem("foo", Obstacle.SUBNET, why)]
    cluster.links = [Occupied(ip_network("10.7.0.128/25"), "eth7")]  # behind a router
    cluster.follower.follow()
    assert cluster.problems() == []
    assert [network.shared for network in cluster.docker.have] == ["foo"]


def test_a_docker_gwbridge_with_the_networks_addresses_is_reported(host: Host) -> None:
    """Docker makes docker_gwbridge for the host's first container, in a subnet of its own choice."""
    foo_here = LocalNetwork(HERE, "foo", FOO)
    cluster = Cluster(host, lambda _: None, foo_here)
    cluster.make(THERE)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.docker.others = [Occupied(ip_network("10.0.0.0/8"), "docker_gwbridge")]
    cluster.follower.follow()
    why = "no container starts on it: its subnet 10.7.0.0/24 overlaps 10.0.0.0/8 (docker_gwbridge)"
    assert cluster.problems() == [Problem("foo", Obstacle.GATEWAY, why)]
    internal = replace(FOO, switches=(("Internal", True),))
    cluster.docker.have = [replace(foo_here, definition=internal)]
    cluster.follower.follow()
    assert cluster.problems() == []


def test_a_network_with_a_definition_that_hosts_refuse_is_reported_by_the_host_that_has_it(
    host: Host,
) -> None:
    refused = Refusal("definition", "it has 65 labels, at most 64 are allowed")
    cluster = Cluster(host, lambda _: None, LocalNetwork(HERE, "foo", None, refused))
    cluster.docker.driver.create_network(foo(HERE))
    cluster.follower.follow()
    why = "other hosts cannot have it: it has 65 labels, at most 64 are allowed"
    assert cluster.problems() == [Problem("foo", Obstacle.DEFINITION, why)]


def test_a_host_that_does_not_follow_reports_no_problem(host: Host) -> None:
    cluster = Cluster(host, lambda _: None, mirror=False)
    cluster.links = [Occupied(ip_network("10.7.0.128/25"), "eth7", linked=True)]
    cluster.make(THERE)
    cluster.follower.follow()
    assert cluster.problems() == []
    assert cluster.docker.have == []


def test_a_network_of_a_host_that_does_not_follow_appears_on_the_others(host: Host) -> None:
    cluster = Cluster(host, lambda _: None, LocalNetwork(HERE, "foo", FOO), mirror=False)
    cluster.docker.driver.create_network(foo(HERE))
    cluster.follower.follow()
    assert [network.definition for network in cluster.networks()] == [FOO]


# Two requests for one network


def test_a_network_that_the_user_is_making_is_not_made_a_second_time(host: Host) -> None:
    """Docker calls the driver before it lists the network."""
    cluster = Cluster(host, lambda _: None)
    cluster.make(THERE)
    cluster.creations.begin("foo", HERE)
    cluster.follower.follow()
    assert cluster.docker.have == []
    cluster.creations.end(HERE)
    cluster.follower.follow()
    assert [network.id for network in cluster.docker.have] == [ANEW]


@pytest.mark.parametrize("used", [False, True])
def test_a_network_with_another_subnet_than_the_clusters_is_replaced_unless_it_is_used(
    host: Host, *, used: bool
) -> None:
    """The user gave no subnet, and another host made the network at the same moment."""
    other = definition_of("foo", Subnet(ip_network("10.8.0.0/24")))
    cluster = Cluster(host, lambda _: None, LocalNetwork(HERE, "foo", other, used=used))
    cluster.make(THERE)
    cluster.follower.follow()
    cluster.follower.follow()
    assert [network.id for network in cluster.docker.have] == [HERE if used else ANEW]
    if used:
        (problem,) = cluster.problems()
        assert problem.obstacle is Obstacle.DOCKER
        assert "it has subnets 10.8.0.0/24 on this host and 10.7.0.0/24 in the cluster" in problem.why


def test_hosts_are_woken_by_a_network_that_is_made_or_removed_but_not_by_one_that_follows(
    host: Host,
) -> None:
    """Otherwise n hosts would be woken n times for each new network."""
    cluster = Cluster(host, lambda _: None)
    changes = cluster.watch()
    cluster.make(THERE)
    until(lambda: len(changes) >= 2)
    made = cluster.generation()
    cluster.follower.follow()
    assert cluster.docker.have
    cluster.use(THERE)
    cluster.use(THERE, used=False)
    assert cluster.generation() == made
    cluster.remove(THERE)
    assert cluster.generation() != made
