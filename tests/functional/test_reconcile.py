"""The sweep: it deletes leftovers, and nothing else."""

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
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.rows import GENERATION_ROW, QUIET_TABLE, lease_row
from ovn_docker.backends.ovn.shared import resolver
from ovn_docker.backends.ovn.shared.container_names import Names
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.core.reconcile import RepairMode
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
    """The northbound database was restored from a backup, and the container is gone."""
    host.overlay(host.vswitch.chassis(Deadline(5))).delete_endpoint(C1, Deadline(5))
    host.links.delete(LINK)


def only_the_link(host: Host) -> None:
    host.overlay(host.vswitch.chassis(Deadline(5))).delete_endpoint(C1, Deadline(5))
    host.vswitch.unplug(C1, Deadline(5))


class TestDeleted:
    @pytest.mark.parametrize(
        "what", [only_the_logical_port, no_ovs_port, no_link, no_logical_port, only_the_link]
    )
    def test_parts_of_an_endpoint_are_found_and_removed(
        self, host: Host, what: Callable[[Host], None]
    ) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        what(host)
        assert len(host.reconciler().repair()) == 1
        assert host.state() == before

    def test_endpoint_that_docker_did_not_join_is_removed(self, host: Host) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        assert len(host.reconciler(interval=-1).repair()) == 1  # every endpoint is older than -1 s
        assert host.state() == before

    def test_several_leftovers_are_removed_at_once(self, host: Host) -> None:
        before = host.state()
        for number, id_ in enumerate((C1, C2, C3), 2):
            host.driver().create_endpoint(endpoint(id_, f"192.168.1.{number}/24"))
            host.links.delete(host_link(id_))
        assert len(host.reconciler().repair()) == 3
        assert host.state() == before


class TestKept:
    def test_running_container_stays(self, host: Host, container: Container) -> None:
        host.run(endpoint(), container)
        before = host.state()
        assert host.reconciler(interval=-1).repair() == []
        assert host.state() == before

    def test_link_without_an_endpoint_stays_while_its_other_end_is_in_a_container(
        self, host: Host, container: Container
    ) -> None:
        host.links.create_veth("odhstray", "odcstray", mac=MAC, mtu=1400, tx_checksums=True)
        container.move_in("odcstray")
        assert host.reconciler().differences() == []
        host.links.delete("odhstray")

    def test_endpoint_that_docker_lists_as_running_stays(self, host: Host) -> None:
        """The link was deleted by hand; the doctor reports it."""
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        host.docker.endpoints.add(C1)
        assert host.reconciler().differences() == []

    def test_endpoint_that_docker_may_still_join_stays(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        before = host.state()
        assert host.reconciler().repair() == []
        assert host.state() == before

    def test_endpoint_that_waits_for_its_flows_stays(self, host: Host) -> None:
        host.flows = False
        driver = host.driver(replace(host.LONG_LIMITS, flows=120))
        driver.create_endpoint(endpoint())
        with ThreadPoolExecutor() as threads:
            joins = threads.submit(driver.join, NET, C1, "/sandbox")
            until(lambda: C1 in driver.in_flight())
            assert host.reconciler(driver, interval=-1).repair() == []
            host.flows = True
            assert joins.result().link == container_link(C1)

    def test_endpoint_whose_link_docker_is_about_to_move_stays(self, host: Host) -> None:
        """The endpoint waited for its flows for longer than an interval, and Join has just returned."""
        driver = host.driver()
        driver.create_endpoint(endpoint())
        driver.join(NET, C1, "/sandbox")
        assert host.reconciler(driver, interval=-1).differences() == []

    def test_endpoint_in_creation_stays(self, host: Host) -> None:
        """ovs-vswitchd is slow: everything exists except the number of the port."""
        host.open_vswitch.pause_daemon()
        driver = host.driver()
        with ThreadPoolExecutor() as threads:
            creates = threads.submit(driver.create_endpoint, endpoint())
            until(host.open_vswitch.ports)
            assert host.reconciler(driver, interval=-1).repair() == []
            host.open_vswitch.resume_daemon()
            creates.result()
        assert set(host.open_vswitch.ports()) == {LINK}

    def test_endpoints_of_other_hosts_stay(self, host: Host) -> None:
        host.overlay(HOST2).create_endpoint(endpoint(C2, mac=MAC), Deadline(5))
        before = host.state()
        assert host.reconciler(interval=-1).repair() == []
        assert host.state() == before

    def test_foreign_rows_and_links_stay(self, host: Host) -> None:
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

    def test_containers_stay_while_others_are_created_and_removed(
        self, host: Host, container: Container
    ) -> None:
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
                driver.leave(wanted.id)
                driver.delete_endpoint(wanted.id)

        with ThreadPoolExecutor() as threads:
            lives = [threads.submit(live, number) for number in range(3, 7)]
            while not all(life.done() for life in lives):
                host.reconciler(driver).repair()
            for life in lives:
                life.result()
        assert host.state() == before


class TestLocalSweep:
    """The sweep of every minute, which does not search the ports of the cluster, because that is slow."""

    def test_endpoint_with_a_link_or_port_on_this_host_is_deleted_in_ovn_too(self, host: Host) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        assert len(host.reconciler().repair(store_too=False)) == 1
        assert host.state() == before

    def test_local_sweep_keeps_running_containers(self, host: Host, container: Container) -> None:
        host.run(endpoint(), container)
        before = host.state()
        assert host.reconciler(interval=-1).repair(store_too=False) == []
        assert host.state() == before


class TestThread:
    @pytest.mark.slow
    def test_sweeps_at_the_start_and_again_soon_after_a_delete_failed(self, host: Host) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        driver = host.driver(host.SHORT_LIMITS)
        host.reconciler(driver, interval=0.5).start(Threads())
        until(lambda: host.state() == before)
        driver.create_endpoint(endpoint(C2))
        host.northbound.kill()
        with pytest.raises(Unavailable):
            driver.delete_endpoint(C2)
        host.northbound.start()
        until(lambda: host.state() == before)

    def test_sweeps_again_for_endpoints_that_docker_releases_late(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Docker lists a container that restarts with its earlier endpoint until it has a new one."""
        monkeypatch.setattr("ovn_docker.core.reconcile._RETRY", 0.1)
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
        assert asked.wait(120)
        host.docker.endpoints.clear()
        until(lambda: host.state() == before)

    @pytest.mark.slow
    def test_sweeps_again_after_the_calls_of_a_dead_docker(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Docker died before it got the answer; a new dockerd already calls Plugin.Activate."""
        before = host.state()
        driver = host.driver()
        driver.create_network(replace(NETWORK, id=NetworkId("f" * 64)))
        monkeypatch.setattr("ovn_docker.core.driver._FOLLOW_UP", 2.0)
        driver.leftovers.set()
        host.reconciler(driver, interval=0.1).start(Threads())
        until(lambda: host.state() == before)


def test_sweep_fails_without_a_database_and_succeeds_later(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = host.state()
    host.driver().create_endpoint(endpoint())
    host.links.delete(LINK)
    host.northbound.kill()
    with monkeypatch.context() as patch:
        patch.setattr("ovn_docker.core.reconcile._READING", 0.3)
        with pytest.raises(Unavailable, match="cannot reach OVN_Northbound"):
            host.reconciler().repair()
    host.northbound.start()
    assert len(host.reconciler().repair()) == 1
    assert host.state() == before


def old(host: Host) -> None:
    """Make the rows of the northbound database an hour older."""
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
    """`docker network rm` while the driver was down, or a driver that died in CreateNetwork."""

    def test_network_unknown_to_docker_is_removed(self, host: Host) -> None:
        host.overlay(chassis(host)).create_endpoint(replace(endpoint(), mac=MAC), Deadline(5))
        old(host)
        host.docker.networks.clear()
        assert [one.kind for one in host.reconciler().repair()] == [Kind.ENDPOINT, Kind.NETWORK]
        assert host.northbound.contents() == {}

    def test_network_of_docker_stays(self, host: Host) -> None:
        old(host)
        before = host.state()
        assert host.reconciler().repair() == []
        assert host.state() == before

    def test_network_that_docker_may_still_list_stays(self, host: Host) -> None:
        host.docker.networks.clear()
        assert host.reconciler().differences() == []

    def test_new_network_stays_with_any_clock(self, host: Host) -> None:
        host.docker.networks.clear()
        driver = host.driver()
        driver.create_network(NETWORK)
        old(host)
        assert host.reconciler(driver).differences() == []
        driver.delete_network(NET)
        assert switches(host) == set()

    def test_nothing_is_removed_without_docker(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        old(host)
        host.docker.networks.clear()
        host.docker.answers = False
        before = host.state()
        with pytest.raises(Unavailable, match="Docker does not answer"):
            host.reconciler(interval=-1).repair()
        assert host.state() == before

    def test_network_with_a_living_container_stays(self, host: Host, container: Container) -> None:
        host.run(endpoint(), container)
        old(host)
        host.docker.networks.clear()
        assert host.reconciler().differences() == []

    @pytest.mark.parametrize("owner", ["another host", "all hosts", "swarm"])
    def test_network_of_several_hosts_stays(self, host: Host, owner: str) -> None:
        network = replace(NETWORK, id=NetworkId("0a" * 32))
        overlay = Overlay(lambda _: host.database, lambda: owner == "all hosts")
        of_host = HOST2 if owner == "another host" else chassis(host)
        overlay(of_host).create_network(network, Deadline(5), kept=owner == "swarm")
        old(host)
        assert host.reconciler().differences() == []

    def test_only_the_note_of_a_users_switch_is_removed(self, host: Host) -> None:
        host.northbound.insert("Logical_Switch", name="web")
        attached = replace(NETWORK, id=NetworkId("0a" * 32), options=NetworkOptions(switch="web"))
        host.driver().create_network(attached)
        old(host)
        (one,) = host.reconciler().repair()
        assert (one.kind, one.what) == (Kind.NETWORK, attached.id)
        assert switches(host) == {NET, "web"}
        assert host.northbound.rows("DHCP_Options") == []

    def test_network_that_another_host_has_attached_to_stays(self, host: Host) -> None:
        attached = replace(NETWORK, id=NetworkId("0a" * 32), options=NetworkOptions(switch=NET))
        host.overlay(HOST2).create_network(attached, Deadline(5))
        old(host)
        host.docker.networks.clear()
        with pytest.raises(Conflict, match="host host2 has attached to its switch"):
            host.reconciler().repair()
        assert switches(host) == {NET}

    def test_shared_network_is_not_removed_elsewhere(self, host: Host) -> None:
        """Docker's disk was lost: nothing is removed because it is missing."""
        shared = SharedNetworks(lambda _: host.database)
        host.driver().create_network(named("foo"))
        shared.define(FOO, chassis(host), Deadline(5))
        host.overlay(HOST2).create_network(named("foo", "0b"), Deadline(5))
        old(host)
        (one,) = host.reconciler().repair()
        assert one.cure == "forget that this host has network foo, which stays"
        (foo,) = shared.networks(HOST2, Deadline(5))
        assert foo == SharedNetwork("foo", FOO, removed=False, incarnation=foo.incarnation)

    def test_incomplete_shared_network_is_removed(self, host: Host) -> None:
        """Docker died in `docker network create`: no host knows how to make it."""
        host.driver().create_network(named("foo"))
        old(host)
        assert len(host.reconciler().repair()) == 1
        assert switches(host) == {NET}
        assert host.northbound.rows("Logical_Router") == []

    def test_failed_creation_does_not_remove_the_network_elsewhere(self, host: Host) -> None:
        shared = SharedNetworks(lambda _: host.database)
        host.overlay(HOST2).create_network(named("foo", "0b"), Deadline(5))
        driver = host.driver(replace(host.LONG_LIMITS, request=0.5))
        host.northbound.pause()
        with pytest.raises(Unavailable):
            driver.create_network(named("foo"))
        host.northbound.resume()
        host.reconciler(driver).repair()
        assert [network.removed for network in shared.networks(HOST2, Deadline(5))] == [False]

    def test_young_rows_stay_if_the_calls_in_flight_are_unknown(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        host.docker.networks.clear()
        assert host.reconciler(alone=False).differences() == []
        assert [one.kind for one in host.reconciler(interval=-1, alone=False).differences()] == [
            Kind.ENDPOINT,
            Kind.NETWORK,
        ]


class TestRowsWithoutOwner:
    """Rows whose owner is gone, after lsp-del by hand or the death of the driver."""

    def test_claims_and_names_of_a_deleted_port_are_deleted(self, host: Host) -> None:
        host.driver().create_network(named("foo"))
        host.docker.networks.add(named("foo").id)
        before = host.northbound.contents()
        wanted = replace(endpoint(network=named("foo").id), mac=MAC)
        host.overlay(chassis(host)).create_endpoint(wanted, Deadline(5))
        Names(lambda _: host.database).set_names(C1, ContainerNames(("web",)), chassis(host), Deadline(5))
        port = ovsdb.Reference(row_uuid("endpoint", C1))
        host.northbound.transact(ovsdb.mutate("Logical_Switch", mutations=[["ports", "delete", [port]]]))
        assert sorted(one.kind for one in host.reconciler().repair()) == [*[Kind.CLAIM] * 3, Kind.NAMES]
        assert [*host.northbound.contents()] == [*before]
        assert host.reconciler().differences() == []

    def test_claims_of_a_container_that_runs_stay(self, host: Host, container: Container) -> None:
        """The port was deleted with lsp-del: until a restart the container still uses its address."""
        host.run(endpoint(), container)
        port = ovsdb.Reference(row_uuid("endpoint", C1))
        host.northbound.transact(ovsdb.mutate("Logical_Switch", mutations=[["ports", "delete", [port]]]))
        assert host.reconciler().differences() == []

    def test_a_claim_whose_port_came_back_meanwhile_stays(self, host: Host) -> None:
        wanted = replace(endpoint(), mac=MAC)
        host.overlay(chassis(host)).create_endpoint(wanted, Deadline(5))
        port = ovsdb.Reference(row_uuid("endpoint", C1))
        host.northbound.transact(ovsdb.mutate("Logical_Switch", mutations=[["ports", "delete", [port]]]))
        strays = host.leftovers(chassis(host)).of_host(Deadline(5))[1]
        host.overlay(chassis(host)).create_endpoint(wanted, Deadline(5))
        before = host.northbound.contents()
        assert [host.leftovers(chassis(host)).clear(one, Deadline(5)) for one in strays] == [False, False]
        assert host.northbound.contents() == before


def insert_released(host: Host, when: str, address: str = "10.0.0.9") -> None:
    """Insert an address that was released at a time."""
    ids = {"ovn-docker:owner": "overlay", "ovn-docker:state": "released", "ovn-docker:released": when}
    host.northbound.transact(
        ovsdb.insert("DHCP_Options", lease_row("", address), cidr=address, external_ids=ids)
    )


class TestOrphans:
    @pytest.fixture
    def common(self, host: Host) -> Contents:
        """A resolver without a switch, an address released long ago, a network of no host."""
        host.overlay(HOST2).create_network(named("foo", "0b"), Deadline(5))
        SharedNetworks(lambda _: host.database).define(FOO, chassis(host), Deadline(5))
        before = host.northbound.contents()
        insert_released(host, "1.5")
        host.overlay(HOST2).create_network(named("bar", "0c"), Deadline(5))
        host.northbound.transact(
            ovsdb.delete("DHCP_Options", ovsdb.has("external_ids", {"ovn-docker:name": "bar"}))
        )
        gone = row_uuid("shared network", "gone")
        host.northbound.transact(
            *resolver.make_resolver(gone, {"gateway_ip": "10.0.0.1", "subnet": "10.0.0.0/24"})[:2]
        )
        return before

    def test_orphans_are_deleted(self, host: Host, common: Contents) -> None:
        kinds = [Kind.LEASE, Kind.RESOLVER, Kind.NETWORK]
        assert [one.kind for one in host.reconciler().all_differences()] == kinds
        assert [one.kind for one in host.reconciler().repair_everywhere()] == kinds
        assert settled(host.northbound.contents()) == settled(common)
        assert host.reconciler().all_differences() == []

    def test_released_address_that_its_driver_may_still_delete_is_not_an_orphan(self, host: Host) -> None:
        """The driver deletes one as it releases the next, which on a quiet host may be hours later."""
        insert_released(host, str(time.time() - 3600))
        assert host.reconciler().all_differences() == []
        assert [one.kind for one in host.reconciler().repair_everywhere()] == [Kind.LEASE]

    def test_orphans_are_deleted_by_one_host_at_a_time(
        self, host: Host, common: Contents, connect: Connect
    ) -> None:
        with connect(host.northbound).lock("ovn_docker", Deadline(5)) as own:
            assert own
            assert host.reconciler().repair_everywhere() == []
        assert len(host.reconciler().repair_everywhere()) == 3

    def test_next_host_does_not_search_orphans_again(self, host: Host, common: Contents) -> None:
        assert len(host.reconciler().repair_everywhere(unless_lately=True)) == 3
        insert_released(host, "1.5")
        assert host.reconciler().repair_everywhere(unless_lately=True) == []
        assert len(host.reconciler().repair_everywhere()) == 1

    def test_orphans_are_deleted_if_the_last_time_is_invalid(self, host: Host, common: Contents) -> None:
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
    def test_mode_report_logs_once_and_changes_nothing(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        before, record = host.state(), Recorded()
        host.reconciler(interval=0.1, mode=RepairMode.REPORT, record=record).start(Threads())
        until(lambda: record.counts)
        time.sleep(0.5)  # some more sweeps
        assert host.state() == before
        assert record.counts == {("ovn_docker_leftovers_found_total", "endpoint"): 1}
        (said,) = (one.message for one in caplog.records if one.name == "ovn_docker.core.reconcile")
        assert said.startswith("found endpoint c1c1c1c1c1c1 (OVN northbound, Open vSwitch): no container")
        assert said.endswith("clear it with: ovn-docker gc --repair")

    def test_mode_off_does_not_search(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        before, record = host.state(), Recorded()
        host.reconciler(interval=0.1, mode=RepairMode.OFF, record=record).start(Threads())
        time.sleep(0.5)
        assert host.state() == before
        assert not record.counts

    def test_deleted_leftovers_are_counted(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint())
        host.links.delete(LINK)
        record = Recorded()
        host.reconciler(record=record).repair()
        assert record.counts == {
            ("ovn_docker_leftovers_found_total", "endpoint"): 1,
            ("ovn_docker_leftovers_cleared_total", "endpoint"): 1,
        }

    def test_repeated_leftover_is_counted_again(self, host: Host) -> None:
        record = Recorded()
        reconciler = host.reconciler(record=record)
        for _ in range(2):
            host.overlay(chassis(host)).create_endpoint(replace(endpoint(), mac=MAC), Deadline(5))
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
    """Return contents without the generation, and without the time of the last search for orphans."""
    rest = {table: rows for table, rows in contents.items() if table != QUIET_TABLE}
    return rest | {"DHCP_Options": [row for row in contents["DHCP_Options"] if row["cidr"]]}
