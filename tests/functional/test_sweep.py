"""What dead endpoints left behind is cleared, and nothing else."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from functional.hosts import C1, C2, C3, HOST2, MAC, NET, NETWORK, Container, Host, endpoint, ip
from functional.ovsdb_servers import until
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Unavailable
from ovn_docker.model import Joined, container_link, host_link

LINK = host_link(C1)


@pytest.fixture(autouse=True)
def network(host: Host) -> None:
    host.driver().create_network(NETWORK)


def only_the_logical_port(host: Host) -> None:
    """The driver was killed in the middle of CreateEndpoint or DeleteEndpoint."""
    host.vswitch.unplug(C1, Deadline(5))
    host.links.delete(LINK)


def no_ovs_port(host: Host) -> None:
    host.vswitch.unplug(C1, Deadline(5))


def no_link(host: Host) -> None:
    """The container's network namespace is gone."""
    host.links.delete(LINK)


def no_logical_port(host: Host) -> None:
    """The northbound database came back from a backup, and the container is gone."""
    host.overlay.delete_endpoint(C1, host.vswitch.chassis(Deadline(5)), Deadline(5))
    host.links.delete(LINK)


def only_the_link(host: Host) -> None:
    host.overlay.delete_endpoint(C1, host.vswitch.chassis(Deadline(5)), Deadline(5))
    host.vswitch.unplug(C1, Deadline(5))


class TestCleared:
    @pytest.mark.parametrize(
        "what", [only_the_logical_port, no_ovs_port, no_link, no_logical_port, only_the_link]
    )
    def test_what_is_left_of_an_endpoint(self, host: Host, what: Callable[[Host], None]) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        what(host)
        assert host.sweeper().sweep() == (0 if what is only_the_link else 1)
        assert host.state() == before

    def test_an_endpoint_that_docker_has_not_joined_for_long(self, host: Host) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        assert host.sweeper(interval=-1).sweep() == 1  # older than that is every endpoint
        assert host.state() == before

    def test_several_at_once(self, host: Host) -> None:
        before = host.state()
        for number, id_ in enumerate((C1, C2, C3), 2):
            host.driver().create_endpoint(endpoint(id_, f"192.168.1.{number}/24"))
            host.links.delete(host_link(id_))
        assert host.sweeper().sweep() == 3
        assert host.state() == before


class TestLeftAlone:
    def test_a_container(self, host: Host, container: Container) -> None:
        host.run(endpoint(), container)
        before = host.state()
        assert host.sweeper(interval=-1).sweep() == 0
        assert host.state() == before

    def test_an_endpoint_that_docker_may_yet_join(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        before = host.state()
        assert host.sweeper().sweep() == 0
        assert host.state() == before

    def test_an_endpoint_that_waits_for_its_flows(self, host: Host) -> None:
        host.flows = False
        driver = host.driver(replace(host.PATIENCE, flows=10))
        driver.create_endpoint(endpoint())
        with ThreadPoolExecutor() as threads:
            joins = threads.submit(driver.join, NET, C1, "/sandbox")
            until(lambda: "vm-id" in host.open_vswitch.interface(LINK)["external_ids"])
            assert host.sweeper(driver, interval=-1).sweep() == 0
            host.flows = True
            assert joins.result().link == container_link(C1)

    def test_an_endpoint_that_is_being_created(self, host: Host) -> None:
        """ovs-vswitchd is slow: everything is there but the number of the port."""
        host.open_vswitch.pause_daemon()
        driver = host.driver(replace(host.PATIENCE, request=10))
        with ThreadPoolExecutor() as threads:
            creates = threads.submit(driver.create_endpoint, endpoint())
            until(host.open_vswitch.ports)
            assert host.sweeper(driver, interval=-1).sweep() == 0
            host.open_vswitch.resume_daemon()
            creates.result()
        assert set(host.open_vswitch.ports()) == {LINK}

    def test_endpoints_of_other_hosts(self, host: Host) -> None:
        host.overlay.create_endpoint(endpoint(C2, mac=MAC), HOST2, Deadline(5))
        before = host.state()
        assert host.sweeper(interval=-1).sweep() == 0
        assert host.state() == before

    def test_what_is_not_ours(self, host: Host) -> None:
        ip("link", "add", "veth1", "type", "veth", "peer", "name", "vm1")
        host.open_vswitch.transact(
            {"op": "insert", "table": "Interface", "uuid-name": "i",
             "row": {"name": "vm1", "external_ids": ["map", [["iface-id", "vm1"]]]}},
            {"op": "insert", "table": "Port", "uuid-name": "p",
             "row": {"name": "vm1", "interfaces": ["named-uuid", "i"]}},
            {"op": "mutate", "table": "Bridge", "where": [],
             "mutations": [["ports", "insert", ["named-uuid", "p"]]]},
        )  # fmt: skip
        host.northbound.transact(
            {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": "p",
             "row": {"name": "vm1", "external_ids": ["map", [["ovn-docker:host", "host1"]]]}},
            {"op": "insert", "table": "Logical_Switch", "row": {"ports": ["named-uuid", "p"]}},
        )  # fmt: skip
        before = host.state()
        assert host.sweeper(interval=-1).sweep() == 0
        assert host.state() == before

    def test_containers_while_others_come_and_go(self, host: Host, container: Container) -> None:
        """Each call in flight looks half-made."""
        host.run(endpoint(C1), container)
        before = host.state()
        driver = host.driver()
        end = time.monotonic() + 1

        def live(number: int) -> None:
            while time.monotonic() < end:
                wanted = endpoint(f"{number}f" * 32, f"192.168.1.{number}/24")  # type: ignore[arg-type]
                driver.create_endpoint(wanted)
                assert driver.join(NET, wanted.id, "/sandbox") == Joined(container_link(wanted.id))
                driver.leave(NET, wanted.id)
                driver.delete_endpoint(NET, wanted.id)

        with ThreadPoolExecutor() as threads:
            lives = [threads.submit(live, number) for number in range(3, 7)]
            while not all(life.done() for life in lives):
                host.sweeper(driver).sweep()
            for life in lives:
                life.result()
        assert host.state() == before


class TestWithoutALookAtTheBackend:
    """As it is done every minute: a search through all ports of a cluster costs."""

    def test_what_has_left_a_trace_on_this_host_is_cleared_everywhere(self, host: Host) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        assert host.sweeper().sweep(backend_too=False) == 1
        assert host.state() == before

    def test_containers_are_left_alone(self, host: Host, container: Container) -> None:
        host.run(endpoint(), container)
        before = host.state()
        assert host.sweeper(interval=-1).sweep(backend_too=False) == 0
        assert host.state() == before


class TestTheThread:
    def test_sweeps_at_the_start_and_again_soon_after_a_delete_failed(self, host: Host) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        driver = host.driver(replace(host.PATIENCE, request=0.3))
        host.sweeper(driver, interval=0.5).start()
        until(lambda: host.state() == before)
        driver.create_endpoint(endpoint(C2))
        host.northbound.kill()
        with pytest.raises(Unavailable):
            driver.delete_endpoint(NET, C2)
        host.northbound.start()
        until(lambda: host.state() == before)


def test_without_a_database_it_fails_and_later_it_works(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.state()
    host.driver().create_endpoint(endpoint())
    host.links.delete(LINK)
    host.northbound.kill()
    with monkeypatch.context() as patch:
        patch.setattr("ovn_docker.sweep._PATIENCE", 0.3)
        with pytest.raises(Unavailable, match="cannot reach OVN_Northbound"):
            host.sweeper().sweep()
    host.northbound.start()
    assert host.sweeper().sweep() == 1
    assert host.state() == before
