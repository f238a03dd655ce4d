"""What dead endpoints left behind is cleared, and nothing else."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from functional.conftest import Connect
from functional.hosts import (
    C1,
    C2,
    C3,
    HOST2,
    MAC,
    NET,
    NETWORK,
    Container,
    Host,
    definition_of,
    endpoint,
    ip,
)
from functional.ovsdb_servers import Contents, until
from ovn_docker.backends import dns
from ovn_docker.backends.addresses import lease_row
from ovn_docker.backends.dns import Names
from ovn_docker.backends.northbound import QUIET_TABLE
from ovn_docker.backends.overlay import Overlay
from ovn_docker.backends.shared import GENERATION_ROW, SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.hostnames import ContainerNames
from ovn_docker.metrics import Metric, Unrecorded
from ovn_docker.model import (
    Chassis,
    EndpointId,
    Joined,
    Kind,
    Network,
    NetworkId,
    SharedNetwork,
    container_link,
    host_link,
    row_uuid,
)
from ovn_docker.options import NetworkOptions
from ovn_docker.reconcile import Mode
from ovn_docker.threads import Threads

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
        assert len(host.reconciler().repair()) == 1
        assert host.state() == before

    def test_an_endpoint_that_docker_has_not_joined_for_long(self, host: Host) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        assert len(host.reconciler(interval=-1).repair()) == 1  # older than that is every endpoint
        assert host.state() == before

    def test_several_at_once(self, host: Host) -> None:
        before = host.state()
        for number, id_ in enumerate((C1, C2, C3), 2):
            host.driver().create_endpoint(endpoint(id_, f"192.168.1.{number}/24"))
            host.links.delete(host_link(id_))
        assert len(host.reconciler().repair()) == 3
        assert host.state() == before


class TestLeftAlone:
    def test_a_container(self, host: Host, container: Container) -> None:
        host.run(endpoint(), container)
        before = host.state()
        assert host.reconciler(interval=-1).repair() == []
        assert host.state() == before

    def test_a_link_of_nobody_s_whose_other_end_is_in_a_container(
        self, host: Host, container: Container
    ) -> None:
        host.links.create_veth("odhstray", "odcstray", mac=MAC, mtu=1400, tx_checksums=True)
        container.take("odcstray")
        assert host.reconciler().look() == []
        host.links.delete("odhstray")

    def test_an_endpoint_that_docker_says_runs(self, host: Host) -> None:
        """Somebody deleted its link: the doctor says so."""
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        host.docker.endpoints.add(C1)
        assert host.reconciler().look() == []

    def test_an_endpoint_that_docker_may_yet_join(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        before = host.state()
        assert host.reconciler().repair() == []
        assert host.state() == before

    def test_an_endpoint_that_waits_for_its_flows(self, host: Host) -> None:
        host.flows = False
        driver = host.driver(replace(host.PATIENCE, flows=10))
        driver.create_endpoint(endpoint())
        with ThreadPoolExecutor() as threads:
            joins = threads.submit(driver.join, NET, C1, "/sandbox")
            until(lambda: C1 in driver.in_flight())
            assert host.reconciler(driver, interval=-1).repair() == []
            host.flows = True
            assert joins.result().link == container_link(C1)

    def test_an_endpoint_whose_link_docker_is_about_to_move(self, host: Host) -> None:
        """It waited for its flows for longer than an interval, and Join has just returned."""
        driver = host.driver()
        driver.create_endpoint(endpoint())
        driver.join(NET, C1, "/sandbox")
        assert host.reconciler(driver, interval=-1).look() == []

    def test_an_endpoint_that_is_being_created(self, host: Host) -> None:
        """ovs-vswitchd is slow: everything is there but the number of the port."""
        host.open_vswitch.pause_daemon()
        driver = host.driver(replace(host.PATIENCE, request=10))
        with ThreadPoolExecutor() as threads:
            creates = threads.submit(driver.create_endpoint, endpoint())
            until(host.open_vswitch.ports)
            assert host.reconciler(driver, interval=-1).repair() == []
            host.open_vswitch.resume_daemon()
            creates.result()
        assert set(host.open_vswitch.ports()) == {LINK}

    def test_endpoints_of_other_hosts(self, host: Host) -> None:
        host.overlay.create_endpoint(endpoint(C2, mac=MAC), HOST2, Deadline(5))
        before = host.state()
        assert host.reconciler(interval=-1).repair() == []
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
        assert host.reconciler(interval=-1).repair() == []
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
                host.reconciler(driver).repair()
            for life in lives:
                life.result()
        assert host.state() == before


class TestWithoutALookAtTheBackend:
    """As it is done every minute: a search through all ports of a cluster costs."""

    def test_what_has_left_a_trace_on_this_host_is_cleared_everywhere(self, host: Host) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        assert len(host.reconciler().repair(store_too=False)) == 1
        assert host.state() == before

    def test_containers_are_left_alone(self, host: Host, container: Container) -> None:
        host.run(endpoint(), container)
        before = host.state()
        assert host.reconciler(interval=-1).repair(store_too=False) == []
        assert host.state() == before


class TestTheThread:
    def test_sweeps_at_the_start_and_again_soon_after_a_delete_failed(self, host: Host) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        driver = host.driver(host.IMPATIENCE)
        host.reconciler(driver, interval=0.5).start(Threads())
        until(lambda: host.state() == before)
        driver.create_endpoint(endpoint(C2))
        host.northbound.kill()
        with pytest.raises(Unavailable):
            driver.delete_endpoint(NET, C2)
        host.northbound.start()
        until(lambda: host.state() == before)

    def test_looks_again_for_what_docker_has_not_let_go_of_yet(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A container that restarts is listed with its last endpoint until it has the next one."""
        monkeypatch.setattr("ovn_docker.reconcile._SOON", 0.1)
        before = host.state()
        driver = host.driver()
        driver.create_endpoint(endpoint())
        host.docker.endpoints.add(C1)
        only_the_logical_port(host)
        asked, inventory_now = threading.Event(), host.docker.inventory

        def inventory() -> tuple[dict[EndpointId, str], set[NetworkId]]:
            said = inventory_now()
            asked.set()
            return said

        monkeypatch.setattr(host.docker, "inventory", inventory)
        host.reconciler(driver, interval=0.3).start(Threads())
        assert asked.wait(30)
        host.docker.endpoints.clear()
        until(lambda: host.state() == before)

    def test_looks_again_when_the_calls_of_a_docker_that_died_are_over(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Docker died before it had the answer; another one runs already and asks the plugin to activate."""
        before = host.state()
        driver = host.driver()
        driver.create_network(replace(NETWORK, id=NetworkId("f" * 64)))
        monkeypatch.setattr("ovn_docker.driver._FOLLOWS", 2.0)
        driver.leftovers.set()
        host.reconciler(driver, interval=0.1).start(Threads())
        until(lambda: host.state() == before)


def test_without_a_database_it_fails_and_later_it_works(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.state()
    host.driver().create_endpoint(endpoint())
    host.links.delete(LINK)
    host.northbound.kill()
    with monkeypatch.context() as patch:
        patch.setattr("ovn_docker.reconcile._PATIENCE", 0.3)
        with pytest.raises(Unavailable, match="cannot reach OVN_Northbound"):
            host.reconciler().repair()
    host.northbound.start()
    assert len(host.reconciler().repair()) == 1
    assert host.state() == before


def old(host: Host) -> None:
    """An hour passes, for what the northbound database has."""
    for table in ("Logical_Switch", "DHCP_Options", "DNS"):
        for row in host.northbound.rows(table, "_uuid", "external_ids"):
            ids = row["external_ids"]
            ids.pop("ovn-docker:uptime", None)
            for key in ids.keys() & {"ovn-docker:created", "ovn-docker:released"}:
                ids[key] = str(int(time.time()) - 3600)
            host.northbound.transact(ovsdb.update(table, ovsdb.is_row(row["_uuid"]), external_ids=ids))


FOO = definition_of("foo", *NETWORK.subnets)


def named(name: str, id_: str = "0a") -> Network:
    return replace(NETWORK, id=NetworkId(id_ * 32), options=NetworkOptions(name=name))


def switches(host: Host) -> set[str]:
    return {row["name"] for row in host.northbound.rows("Logical_Switch", "name")}


class TestNetworks:
    """`docker network rm` came while the driver was away, or the driver died in CreateNetwork."""

    def test_one_that_docker_does_not_have_goes(self, host: Host) -> None:
        host.overlay.create_endpoint(replace(endpoint(), mac=MAC), chassis(host), Deadline(5))
        old(host)
        host.docker.networks.clear()
        assert [one.kind for one in host.reconciler().repair()] == [Kind.ENDPOINT, Kind.NETWORK]
        assert host.northbound.contents() == {}

    def test_one_that_docker_has_stays(self, host: Host) -> None:
        old(host)
        before = host.state()
        assert host.reconciler().repair() == []
        assert host.state() == before

    def test_one_that_docker_may_yet_list_stays(self, host: Host) -> None:
        host.docker.networks.clear()
        assert host.reconciler().look() == []

    def test_one_that_was_just_made_stays_whatever_the_clock_says(self, host: Host) -> None:
        host.docker.networks.clear()
        driver = host.driver()
        driver.create_network(NETWORK)
        old(host)
        assert host.reconciler(driver).look() == []
        driver.delete_network(NET)
        assert switches(host) == set()

    def test_nothing_goes_when_docker_cannot_be_asked(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        old(host)
        host.docker.networks.clear()
        host.docker.answers = False
        before = host.state()
        with pytest.raises(Unavailable, match="Docker does not answer"):
            host.reconciler(interval=-1).repair()
        assert host.state() == before

    def test_one_with_a_container_that_lives_stays(self, host: Host, container: Container) -> None:
        host.run(endpoint(), container)
        old(host)
        host.docker.networks.clear()
        assert host.reconciler().look() == []

    @pytest.mark.parametrize("whose", ["another host", "all hosts", "swarm"])
    def test_what_is_not_of_this_host_alone_stays(self, host: Host, whose: str) -> None:
        network = replace(NETWORK, id=NetworkId("0a" * 32))
        overlay = Overlay(lambda _: host.database, lambda: whose == "all hosts")
        of_host = HOST2 if whose == "another host" else chassis(host)
        overlay.create_network(network, of_host, Deadline(5), kept=whose == "swarm")
        old(host)
        assert host.reconciler().look() == []

    def test_of_a_switch_of_the_users_only_the_note_goes(self, host: Host) -> None:
        host.northbound.insert("Logical_Switch", name="web")
        attached = replace(NETWORK, id=NetworkId("0a" * 32), options=NetworkOptions(switch="web"))
        host.driver().create_network(attached)
        old(host)
        (one,) = host.reconciler().repair()
        assert (one.kind, one.what) == (Kind.NETWORK, attached.id)
        assert switches(host) == {NET, "web"}
        assert host.northbound.rows("DHCP_Options") == []

    def test_one_that_another_host_has_attached_to_stays(self, host: Host) -> None:
        attached = replace(NETWORK, id=NetworkId("0a" * 32), options=NetworkOptions(switch=NET))
        host.overlay.create_network(attached, HOST2, Deadline(5))
        old(host)
        host.docker.networks.clear()
        with pytest.raises(Conflict, match="host host2 has attached to its switch"):
            host.reconciler().repair()
        assert switches(host) == {NET}

    def test_one_of_the_cluster_is_not_removed_elsewhere(self, host: Host) -> None:
        """Docker's disk was lost: nothing is removed because it is missing."""
        shared = SharedNetworks(lambda _: host.database)
        host.driver().create_network(named("foo"))
        shared.define(FOO, chassis(host), Deadline(5))
        host.overlay.create_network(named("foo", "0b"), HOST2, Deadline(5))
        old(host)
        (one,) = host.reconciler().repair()
        assert one.cure == "forget that this host has network foo, which stays"
        (foo,) = shared.networks(HOST2, Deadline(5))
        assert foo == SharedNetwork("foo", FOO, removed=False, incarnation=foo.incarnation)

    def test_one_of_the_cluster_that_was_never_finished_goes(self, host: Host) -> None:
        """Docker died in `docker network create`: no host knows how to make it."""
        host.driver().create_network(named("foo"))
        old(host)
        assert len(host.reconciler().repair()) == 1
        assert switches(host) == {NET}
        assert host.northbound.rows("Logical_Router") == []

    def test_a_creation_that_failed_does_not_remove_it_elsewhere(self, host: Host) -> None:
        shared = SharedNetworks(lambda _: host.database)
        host.overlay.create_network(named("foo", "0b"), HOST2, Deadline(5))
        driver = host.driver(replace(host.PATIENCE, request=0.5))
        host.northbound.pause()
        with pytest.raises(Unavailable):
            driver.create_network(named("foo"))
        host.northbound.resume()
        host.reconciler(driver).repair()
        assert [network.removed for network in shared.networks(HOST2, Deadline(5))] == [False]

    def test_in_a_process_that_does_not_answer_docker_all_that_is_young_stays(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        host.docker.networks.clear()
        assert host.reconciler(alone=False).look() == []
        assert [one.kind for one in host.reconciler(interval=-1, alone=False).look()] == [
            Kind.ENDPOINT,
            Kind.NETWORK,
        ]


class TestStrays:
    """Rows that belong to nothing, because somebody typed lsp-del, or the driver died."""

    def test_claims_and_names_of_a_port_that_is_gone(self, host: Host) -> None:
        host.driver().create_network(named("foo"))
        host.docker.networks.add(named("foo").id)
        before = host.northbound.contents()
        wanted = replace(endpoint(network=named("foo").id), mac=MAC)
        host.overlay.create_endpoint(wanted, chassis(host), Deadline(5))
        Names(lambda _: host.database).set_names(C1, ContainerNames(("web",)), chassis(host), Deadline(5))
        port = ovsdb.Reference(row_uuid("endpoint", C1))
        host.northbound.transact(ovsdb.mutate("Logical_Switch", mutations=[["ports", "delete", [port]]]))
        assert [one.kind for one in host.reconciler().repair()] == [*[Kind.CLAIM] * 3, Kind.NAMES]
        assert [*host.northbound.contents()] == [*before]
        assert host.reconciler().look() == []

    def test_claims_of_a_container_that_runs_stay(self, host: Host, container: Container) -> None:
        """Somebody typed lsp-del: until it is restarted, its address is still what it believes to have."""
        host.run(endpoint(), container)
        port = ovsdb.Reference(row_uuid("endpoint", C1))
        host.northbound.transact(ovsdb.mutate("Logical_Switch", mutations=[["ports", "delete", [port]]]))
        assert host.reconciler().look() == []

    def test_a_claim_whose_port_came_back_meanwhile_stays(self, host: Host) -> None:
        wanted = replace(endpoint(), mac=MAC)
        host.overlay.create_endpoint(wanted, chassis(host), Deadline(5))
        port = ovsdb.Reference(row_uuid("endpoint", C1))
        host.northbound.transact(ovsdb.mutate("Logical_Switch", mutations=[["ports", "delete", [port]]]))
        strays = host.leftovers.mine(chassis(host), Deadline(5))[1]
        host.overlay.create_endpoint(wanted, chassis(host), Deadline(5))
        before = host.northbound.contents()
        assert [host.leftovers.clear(one, chassis(host), Deadline(5)) for one in strays] == [False, False]
        assert host.northbound.contents() == before


def insert_released(host: Host, when: str, address: str = "10.0.0.9") -> None:
    """An address that was released at that time."""
    ids = {"ovn-docker:owner": "overlay", "ovn-docker:state": "released", "ovn-docker:released": when}
    host.northbound.transact(
        ovsdb.insert("DHCP_Options", lease_row("", address), cidr=address, external_ids=ids)
    )


class TestWhatIsNoHosts:
    @pytest.fixture
    def common(self, host: Host) -> Contents:
        """A resolver without a switch, an address released long ago, a network that nobody has."""
        host.overlay.create_network(named("foo", "0b"), HOST2, Deadline(5))
        SharedNetworks(lambda _: host.database).define(FOO, chassis(host), Deadline(5))
        before = host.northbound.contents()
        insert_released(host, "1.5")
        host.overlay.create_network(named("bar", "0c"), HOST2, Deadline(5))
        host.northbound.transact(
            ovsdb.delete("DHCP_Options", ovsdb.has("external_ids", {"ovn-docker:name": "bar"}))
        )
        gone = row_uuid("shared network", "gone")
        host.northbound.transact(
            *dns.make_resolver(gone, {"gateway_ip": "10.0.0.1", "subnet": "10.0.0.0/24"})[:2]
        )
        return before

    def test_is_cleared(self, host: Host, common: Contents) -> None:
        kinds = [Kind.LEASE, Kind.RESOLVER, Kind.NETWORK]
        assert [one.kind for one in host.reconciler().look_everywhere()] == kinds
        assert [one.kind for one in host.reconciler().repair_everywhere()] == kinds
        assert settled(host.northbound.contents()) == settled(common)
        assert host.reconciler().look_everywhere() == []

    def test_an_address_that_its_driver_may_still_forget_is_not_shown(self, host: Host) -> None:
        """It forgets one as it releases the next, which on a quiet host may be hours later."""
        insert_released(host, str(time.time() - 3600))
        assert host.reconciler().look_everywhere() == []
        assert [one.kind for one in host.reconciler().repair_everywhere()] == [Kind.LEASE]

    def test_is_cleared_by_one_host_at_a_time(self, host: Host, common: Contents, connect: Connect) -> None:
        with connect(host.northbound).lock("ovn_docker", Deadline(5)) as mine:
            assert mine
            assert host.reconciler().repair_everywhere() == []
        assert len(host.reconciler().repair_everywhere()) == 3

    def test_is_not_looked_at_again_by_the_next_host(self, host: Host, common: Contents) -> None:
        assert len(host.reconciler().repair_everywhere(unless_lately=True)) == 3
        insert_released(host, "1.5")
        assert host.reconciler().repair_everywhere(unless_lately=True) == []
        assert len(host.reconciler().repair_everywhere()) == 1

    def test_is_looked_at_if_the_time_of_the_last_look_is_no_number(
        self, host: Host, common: Contents
    ) -> None:
        row = ["_uuid", "==", ["uuid", GENERATION_ROW]]
        said = {"external_ids": ["map", [["ovn-docker:cleared", "²"]]]}
        host.northbound.transact({"op": "update", "table": "DHCP_Options", "where": [row], "row": said})
        assert len(host.reconciler().repair_everywhere(unless_lately=True)) == 3


class Recorded(Unrecorded):
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()

    def add(self, metric: Metric, *labels: str) -> None:
        self.counts[metric.name, *labels] += 1


class TestModes:
    def test_report_tells_once_and_changes_nothing(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        before, record = host.state(), Recorded()
        host.reconciler(interval=0.1, mode=Mode.REPORT, record=record).start(Threads())
        until(lambda: record.counts)
        time.sleep(0.5)  # some more looks
        assert host.state() == before
        assert record.counts == {("ovn_docker_leftovers_found_total", "endpoint"): 1}
        (said,) = (one.message for one in caplog.records if one.name == "ovn_docker.reconcile")
        assert said.startswith("found endpoint c1c1c1c1c1c1 (OVN northbound, Open vSwitch): no container")
        assert said.endswith("clear it with: ovn-docker gc --repair")

    def test_off_looks_at_nothing(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        before, record = host.state(), Recorded()
        host.reconciler(interval=0.1, mode=Mode.OFF, record=record).start(Threads())
        time.sleep(0.5)
        assert host.state() == before
        assert not record.counts

    def test_what_is_cleared_is_counted(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        record = Recorded()
        host.reconciler(record=record).repair()
        assert record.counts == {
            ("ovn_docker_leftovers_found_total", "endpoint"): 1,
            ("ovn_docker_leftovers_cleared_total", "endpoint"): 1,
        }

    def test_an_address_that_is_left_over_again_is_counted_again(self, host: Host) -> None:
        record = Recorded()
        reconciler = host.reconciler(record=record)
        for _ in range(2):
            host.overlay.create_endpoint(replace(endpoint(), mac=MAC), chassis(host), Deadline(5))
            port = ovsdb.Reference(row_uuid("endpoint", C1))
            host.northbound.transact(ovsdb.mutate("Logical_Switch", mutations=[["ports", "delete", [port]]]))
            reconciler.repair()
        assert record.counts == {
            ("ovn_docker_leftovers_found_total", "claim"): 4,
            ("ovn_docker_leftovers_cleared_total", "claim"): 4,
        }


def chassis(host: Host) -> Chassis:
    return host.vswitch.chassis(Deadline(5))


def settled(contents: Contents) -> Contents:
    """Without what every change of a network changes, and the note of when this was done."""
    rest = {table: rows for table, rows in contents.items() if table != QUIET_TABLE}
    return rest | {"DHCP_Options": [row for row in contents["DHCP_Options"] if row["cidr"]]}
