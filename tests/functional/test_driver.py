"""Docker's calls on a host whose parts are real, except dockerd and ovn-controller."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from functional.hosts import C1, C2, C3, HOST2, MAC, NET, NETWORK, Container, Host, endpoint, ip
from functional.ovsdb_servers import until
from functional.test_links import links, tx_checksums
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.core.driver import Driver, LateFlows, TimeLimits
from ovn_docker.deadline import Deadline
from ovn_docker.docker.wording import explain
from ovn_docker.errors import (
    AddressInUse,
    BadRequest,
    Conflict,
    NotFound,
    OvnDockerError,
    TimedOut,
    Unavailable,
)
from ovn_docker.host.ovsdb import Database, Operation
from ovn_docker.model import Joined, Network, NetworkId, Subnet, container_link, host_link
from ovn_docker.options import NetworkOptions

SANDBOX = "/var/run/docker/netns/0123456789ab"
LINK = host_link(C1)


class Late:
    """A connection on which the creation of a port arrives after the caller has given up."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._late: list[tuple[Operation, ...]] = []

    def transact(self, *operations: Operation, deadline: Deadline) -> list[Any]:
        if any((one["op"], one["table"]) == ("insert", "Logical_Switch_Port") for one in operations):
            self._late.append(operations)
            raise TimedOut("the database did not answer")
        return self._database.transact(*operations, deadline=deadline)

    def arrive(self) -> None:
        for operations in self._late:
            self._database.transact(*operations, deadline=Deadline(5))


@pytest.fixture
def network(host: Host) -> Network:
    host.driver().create_network(NETWORK)
    return NETWORK


@pytest.mark.usefixtures("network")
class TestLifeOfContainer:
    """Each call is served by a driver that has just started."""

    def test_life_of_a_container_leaves_no_row_port_or_link(self, host: Host, container: Container) -> None:
        before = host.state()
        made = host.driver().create_endpoint(endpoint())
        assert made == endpoint(mac="02:42:c0:a8:01:02")
        assert host.driver().join(NET, C1, SANDBOX) == Joined(container_link(C1))
        container.move_in(container_link(C1))
        assert host.links.joined(LINK) == {LINK: True}
        assert host.driver().endpoint_info(C1) == {"mac_address": "02:42:c0:a8:01:02", "veth": LINK}
        host.driver().leave(C1)
        assert host.driver().endpoint_info(C1) == {}
        host.driver().delete_endpoint(C1)
        assert host.state() == before
        host.driver().delete_network(NET)
        assert "Logical_Switch" not in host.northbound.contents()

    def test_create_endpoint_leaves_only_the_move_of_the_link_to_docker(self, host: Host) -> None:
        host.driver().create_endpoint(endpoint(C1, "192.168.1.2/24", "fd00::2/64", mac=MAC))
        (port,) = host.northbound.rows("Logical_Switch_Port")
        assert (port["name"], port["addresses"]) == (C1, f"{MAC} 192.168.1.2 fd00::2")
        assert port["external_ids"]["ovn-docker:host"] == "host1"
        interface = host.open_vswitch.interface(LINK)
        assert interface["external_ids"]["iface-id"] == C1
        assert interface["external_ids"]["attached-mac"] == MAC
        assert links()[container_link(C1)]["address"] == MAC

    def test_join_returns_when_the_flows_are_in(self, host: Host) -> None:
        host.flows = False
        driver = host.driver(replace(host.LONG_LIMITS, flows=60))
        driver.create_endpoint(endpoint())
        with ThreadPoolExecutor() as threads:
            joins = threads.submit(driver.join, NET, C1, SANDBOX)
            until(host.open_vswitch.holds)
            assert not joins.done()
            host.flows = True
            assert joins.result() == Joined(container_link(C1))
        assert host.open_vswitch.interface(LINK)["external_ids"]["vm-id"] == "0123456789ab"

    def test_create_endpoint_is_idempotent(self, host: Host, container: Container) -> None:
        host.run(endpoint(), container)
        before = host.state()
        assert host.driver().create_endpoint(endpoint()) == endpoint(mac="02:42:c0:a8:01:02")
        assert host.state() == before

    def test_sixteen_containers_start_at_once(self, host: Host) -> None:
        before = host.state()
        driver = host.driver(TimeLimits())
        endpoints = [endpoint(f"{n:02x}" * 32, f"192.168.1.{n}/24") for n in range(10, 26)]  # type: ignore[arg-type]

        def live(number: int) -> None:
            wanted = endpoints[number]
            driver.create_endpoint(wanted)
            driver.join(NET, wanted.id, SANDBOX)
            driver.leave(wanted.id)
            driver.delete_endpoint(wanted.id)

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(live, range(16)))
        assert host.state() == before


class TestMtu:
    def create(self, host: Host, mtu: int | None = None) -> int:
        host.driver().create_network(replace(NETWORK, options=NetworkOptions(mtu=mtu)))
        host.driver().create_endpoint(endpoint())
        mtus = {links()[name]["mtu"] for name in (LINK, container_link(C1))}
        return int(mtus.pop()) if len(mtus) == 1 else 0

    def test_mtu_leaves_room_for_the_tunnel(self, host: Host) -> None:
        assert self.create(host) == 1500 - 58

    def test_mtu_follows_the_interface_with_the_encap_ip(self, host: Host) -> None:
        ip("link", "set", "eth0", "mtu", "9000")
        assert self.create(host) == 9000 - 58

    def test_mtu_is_the_least_of_several_tunnels(self, host: Host) -> None:
        ip("link", "add", "eth1", "mtu", "1400", "type", "veth", "peer", "name", "cable1")
        ip("address", "add", "fd00::1/64", "dev", "eth1", "nodad")
        host.open_vswitch.set(
            system_id="host1", ovn_nb=host.northbound.remote, ovn_encap_ip="10.0.0.1,fd00::1"
        )
        assert self.create(host) == 1400 - 78

    def test_mtu_of_the_user_is_used(self, host: Host) -> None:
        assert self.create(host, mtu=1300) == 1300

    def test_mtu_above_that_of_the_tunnels_is_refused(self, host: Host) -> None:
        with pytest.raises(BadRequest, match="MTU 1443 is more than the 1442 bytes that the tunnels"):
            self.create(host, mtu=1443)
        assert self.create(host, mtu=1442) == 1442

    def test_mtu_of_a_network_of_another_host_is_accepted(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        driver = host.driver(made_elsewhere=lambda name: name == "foo")
        driver.create_network(replace(NETWORK, options=NetworkOptions(mtu=9000, name="foo")))
        driver.create_endpoint(endpoint())
        assert links()[LINK]["mtu"] == 9000
        assert f"network {NET[:12]} has MTU 9000, but the tunnels of this host carry 1442" in caplog.text


class TestSubnets:
    """Subnets that this host has in use elsewhere."""

    @pytest.fixture(autouse=True)
    def links(self, host: Host) -> None:
        for name, address in (("docker_gwbridge", "10.7.0.1/24"), ("docker0", "10.8.0.1/24")):
            ip("link", "add", name, "type", "bridge")
            ip("address", "add", address, "dev", name)
            ip("link", "set", name, "up")

    def create(self, host: Host, subnet: str, *, internal: bool = False, **options: Any) -> None:
        subnets = (Subnet(ip_network(subnet)),)
        network = replace(NETWORK, subnets=subnets, internal=internal, options=NetworkOptions(**options))
        host.driver(made_elsewhere=lambda name: name == "bar").create_network(network)

    @pytest.mark.parametrize("name", [None, "foo"])
    def test_subnet_of_docker_gwbridge_is_refused(self, host: Host, name: str | None) -> None:
        with pytest.raises(BadRequest) as caught:
            self.create(host, "10.7.0.0/16", name=name)
        assert explain(caught.value) == (
            "this host cannot have the network: its subnet 10.7.0.0/16 overlaps 10.7.0.0/24 "
            "(docker_gwbridge), which this host is connected to; give another --subnet"
        )

    def test_subnet_of_a_link_is_refused_for_a_shared_network(self, host: Host) -> None:
        with pytest.raises(BadRequest, match=r"overlaps 10\.8\.0\.0/24 \(docker0\)"):
            self.create(host, "10.8.0.0/24", name="foo")

    @pytest.mark.parametrize(
        ("subnet", "options"),
        [
            ("10.7.0.0/24", {"internal": True}),  # its containers are not on docker_gwbridge
            ("10.8.0.0/24", {}),  # of this host alone
            ("10.9.0.0/24", {"name": "foo"}),
            ("10.8.0.0/24", {"name": "foo", "any_router": True}),  # a physical network
            ("10.8.0.0/24", {"name": "bar"}),  # of another host: the follower has decided
        ],
    )
    def test_other_subnets_are_accepted(self, host: Host, subnet: str, options: dict[str, Any]) -> None:
        self.create(host, subnet, **options)


def test_on_a_userspace_datapath_the_container_computes_its_checksums(host: Host, network: Network) -> None:
    host.driver().create_endpoint(endpoint())
    assert not tx_checksums(container_link(C1))


def vswitchd_stopped(host: Host) -> None:
    host.open_vswitch.stop_daemon()


def containers_link_taken(host: Host) -> None:
    ip("link", "add", container_link(C1), "type", "veth", "peer", "name", "other")


def port_taken(host: Host) -> None:
    port = {"name": LINK, "interfaces": ["named-uuid", "i"]}
    host.open_vswitch.transact(
        {"op": "insert", "table": "Interface", "uuid-name": "i", "row": {"name": LINK}},
        {"op": "insert", "table": "Port", "uuid-name": "p", "row": port},
        {"op": "mutate", "table": "Bridge", "where": [],
         "mutations": [["ports", "insert", ["named-uuid", "p"]]]},
    )  # fmt: skip


def controller_stopped(host: Host) -> None:
    host.controller_runs = False


def encap_ip_of_another_host(host: Host) -> None:
    host.open_vswitch.set(system_id="host1", ovn_nb=host.northbound.remote, ovn_encap_ip="10.0.0.2")


def bridge_missing(host: Host) -> None:
    host.open_vswitch.set(
        system_id="host1", ovn_nb=host.northbound.remote, ovn_encap_ip="10.0.0.1", ovn_bridge="br-ovn"
    )


def network_deleted(host: Host) -> None:
    host.driver().delete_network(NET)


def address_of_another_host(host: Host) -> None:
    host.overlay(HOST2).create_endpoint(endpoint(C2, mac=MAC), Deadline(10))


def port_of_another_owner(host: Host) -> None:
    host.northbound.transact(
        {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": "p", "row": {"name": C1}},
        {"op": "insert", "table": "Logical_Switch", "row": {"ports": ["named-uuid", "p"]}},
    )


@pytest.mark.usefixtures("network")
class TestFailedCreateEndpoint:
    @pytest.mark.parametrize(
        ("trouble", "error", "message"),
        [
            (vswitchd_stopped, Unavailable, "ovs-vswitchd did not take up the port"),
            (containers_link_taken, Conflict, "a link of that name exists"),
            (port_taken, Conflict, "Open vSwitch refuses a port named"),
            (controller_stopped, Unavailable, "ovn-controller is not running"),
            (encap_ip_of_another_host, Unavailable, r"no interface .* has the address 10\.0\.0\.2"),
            (bridge_missing, Unavailable, "no bridge br-ovn"),
            (network_deleted, NotFound, "is not in the northbound database"),
            (address_of_another_host, AddressInUse, r"192\.168\.1\.2 is in use .* on host host2"),
            (port_of_another_owner, OvnDockerError, "constraint violation"),
        ],
    )
    def test_failed_create_endpoint_changes_nothing(
        self, host: Host, trouble: Callable[[Host], None], error: type[OvnDockerError], message: str
    ) -> None:
        trouble(host)
        before = host.state()
        limits = replace(host.LONG_LIMITS, request=1) if trouble is vswitchd_stopped else host.LONG_LIMITS
        with pytest.raises(error, match=message):
            host.driver(limits).create_endpoint(endpoint())
        assert host.state() == before

    def test_row_that_appears_after_the_undo_is_left_to_the_sweep(self, host: Host) -> None:
        """The request arrives after the call's deadline, and after its own undo."""
        before = host.state()
        late = Late(host.database)
        host.overlay = Overlay(lambda _: late)  # type: ignore[arg-type,return-value]
        driver = host.driver()
        with pytest.raises(TimedOut):
            driver.create_endpoint(endpoint())
        assert driver.leftovers.is_set()
        late.arrive()
        assert host.state() != before
        host.reconciler(driver).repair()
        assert host.state() == before

    def test_undo_without_the_northbound_database_is_left_to_the_sweep(self, host: Host) -> None:
        before = host.state()
        host.northbound.kill()
        driver = host.driver(replace(host.LONG_LIMITS, request=0.5, undo=0.1))
        start = time.monotonic()
        with pytest.raises(Unavailable, match="OVN_Northbound"):
            driver.create_endpoint(endpoint())
        assert time.monotonic() - start < 9
        assert driver.leftovers.is_set()
        host.northbound.start()
        host.reconciler(driver).repair()
        assert host.state() == before

    @pytest.mark.slow
    def test_failed_create_endpoint_can_be_repeated(self, host: Host) -> None:
        host.controller_runs = False
        with pytest.raises(Unavailable):
            host.driver(host.SHORT_LIMITS).create_endpoint(endpoint(C1))
        host.controller_runs = True
        host.driver().create_endpoint(endpoint(C2))

    @pytest.mark.parametrize("seen", [False, True])
    def test_create_endpoint_waits_for_open_vswitch_and_ovn_controller(self, host: Host, seen: bool) -> None:
        """At boot Docker may start containers first, so the driver waits longer for the first container."""
        driver = host.driver(replace(host.LONG_LIMITS, controller=30 if seen else 0.1, request=60))
        if seen:
            driver.create_endpoint(endpoint(C1))
        host.controller_runs = False
        host.open_vswitch.kill()
        with ThreadPoolExecutor() as threads:
            creates = threads.submit(driver.create_endpoint, endpoint(C2))
            time.sleep(0.5)
            host.open_vswitch.start()
            time.sleep(0.5)
            host.controller_runs = True
            creates.result()


@pytest.mark.usefixtures("network")
class TestLateFlows:
    def test_late_flows_are_a_warning_and_the_container_starts(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.flows = False
        host.driver().create_endpoint(endpoint())
        start = time.monotonic()
        driver = host.driver(replace(host.LONG_LIMITS, flows=0.3))
        assert driver.join(NET, C1, SANDBOX) == Joined(container_link(C1))
        assert 0.25 < time.monotonic() - start < 30
        own = [record for record in caplog.records if record.thread == threading.get_ident()]
        (record,) = (record for record in own if record.levelno == logging.WARNING)
        assert record.getMessage() == (
            f"the flows of endpoint {C1[:12]} on network {NET[:12]} are not in after 0.3 s: "
            "ovn-controller has not installed its flows; the container starts all the same"
        )

    def test_late_flows_fail_join_with_late_flows_fail(self, host: Host) -> None:
        host.flows = False
        host.driver().create_endpoint(endpoint())
        strict = host.driver(replace(host.LONG_LIMITS, flows=0.3, late_flows=LateFlows.FAIL))
        with pytest.raises(TimedOut, match=r"not in after 0\.3 s: ovn-controller has not installed"):
            strict.join(NET, C1, SANDBOX)

    def test_join_without_a_port_fails_at_once(self, host: Host) -> None:
        with pytest.raises(NotFound, match="has no port for the endpoint"):
            host.driver().join(NET, C1, SANDBOX)


Call = Callable[[Driver], None]


def leave(driver: Driver) -> None:
    driver.leave(C1)


def delete(driver: Driver) -> None:
    driver.delete_endpoint(C1)


@pytest.mark.usefixtures("network")
class TestDelete:
    @pytest.mark.parametrize(
        "calls",
        [(delete,), (delete, leave), (leave, leave, delete, delete), (delete, delete, leave, leave)],
        ids=lambda calls: " ".join(call.__name__ for call in calls),
    )
    @pytest.mark.parametrize("joined", [True, False])
    def test_leave_and_delete_are_idempotent_in_any_order(
        self, host: Host, container: Container, calls: list[Call], joined: bool
    ) -> None:
        before = host.state()
        if joined:
            host.run(endpoint(), container)
        else:
            host.driver().create_endpoint(endpoint())
        for call in calls:
            call(host.driver())
        assert host.state() == before

    def test_delete_of_an_unknown_endpoint_succeeds(self, host: Host) -> None:
        before = host.state()
        leave(host.driver())
        delete(host.driver())
        host.driver().delete_network(NetworkId("ff" * 32))
        assert host.state() == before

    @pytest.mark.parametrize("missing", ["link", "port", "logical port", "link and port", "network"])
    def test_delete_of_an_incomplete_endpoint_removes_the_rest(self, host: Host, missing: str) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        if "link" in missing:
            host.links.delete(LINK)
        if "port" in missing and "logical" not in missing:
            host.vswitch.unplug(C1, Deadline(5))
        if missing == "logical port":
            mutation = ["ports", "delete", ["uuid", host.northbound.rows("Logical_Switch_Port")[0]["_uuid"]]]
            host.northbound.transact(
                {"op": "mutate", "table": "Logical_Switch", "where": [], "mutations": [mutation]}
            )
        if missing == "network":
            host.driver().delete_network(NET)
        delete(host.driver())
        if missing == "network":
            host.driver().create_network(NETWORK)
        if missing == "logical port":  # its claims stay until another endpoint requests the address
            host.driver().create_endpoint(endpoint(C2))
            host.driver().delete_endpoint(C2)
        assert host.state() == before

    @pytest.mark.parametrize("away", ["northbound", "open_vswitch"])
    def test_delete_without_a_database_leaves_the_rest_to_the_sweep(self, host: Host, away: str) -> None:
        before = host.state()
        host.driver().create_endpoint(endpoint())
        host.flows = False
        driver = host.driver(replace(host.LONG_LIMITS, request=1))
        server = getattr(host, away)
        server.kill()
        with pytest.raises(Unavailable):
            delete(driver)
        assert not host.links.exists(LINK)
        assert driver.leftovers.is_set()
        server.start()
        assert len(host.reconciler(driver).repair()) == 1
        assert host.state() == before


@pytest.mark.usefixtures("network")
class TestAddressOfDeadEndpoint:
    """After a crash Docker forgets its endpoints without a call, and assigns their addresses again."""

    def test_address_is_taken_over_if_its_container_is_gone(self, host: Host, container: Container) -> None:
        host.run(endpoint(C1), container)
        container.die()
        until(lambda: not host.links.exists(LINK))
        host.driver().create_endpoint(endpoint(C2))
        assert [row["name"] for row in host.northbound.rows("Logical_Switch_Port")] == [C2]
        assert set(host.open_vswitch.ports()) == {host_link(C2)}

    def test_address_is_taken_over_if_its_endpoint_was_never_joined(self, host: Host) -> None:
        """Docker's IPAM assigns an address once, so it has forgotten the first endpoint."""
        host.driver().create_endpoint(endpoint(C1))
        host.driver().create_endpoint(endpoint(C2))
        assert [row["name"] for row in host.northbound.rows("Logical_Switch_Port")] == [C2]
        assert not host.links.exists(LINK)

    def test_address_is_refused_while_its_container_lives(self, host: Host, container: Container) -> None:
        host.run(endpoint(C1), container)
        before = host.state()
        with pytest.raises(AddressInUse, match=f"in use by endpoint {C1[:12]} on host host1"):
            host.driver().create_endpoint(endpoint(C2))
        assert host.state() == before

    def test_address_is_refused_while_its_container_starts(self, host: Host) -> None:
        host.flows = False
        driver = host.driver(replace(host.LONG_LIMITS, flows=60))
        driver.create_endpoint(endpoint(C1))
        with ThreadPoolExecutor() as threads:
            joins = threads.submit(driver.join, NET, C1, SANDBOX)
            until(lambda: C1 in driver.in_flight())
            with pytest.raises(AddressInUse):
                driver.create_endpoint(endpoint(C2))
            host.flows = True
            joins.result()

    def test_address_of_another_host_is_refused(self, host: Host) -> None:
        host.overlay(HOST2).create_endpoint(endpoint(C1, mac=MAC), Deadline(10))
        with pytest.raises(AddressInUse, match="on host host2"):
            host.driver().create_endpoint(endpoint(C2))

    def test_mac_in_use_is_refused_before_its_endpoint_has_joined(self, host: Host) -> None:
        """Docker accepts ``docker compose up --scale web=2`` with a mac_address."""
        host.driver().create_endpoint(endpoint(C1, "192.168.1.2/24", mac=MAC))
        before = host.state()
        with pytest.raises(AddressInUse, match=f"{MAC} is in use by endpoint {C1[:12]}"):
            host.driver().create_endpoint(endpoint(C2, "192.168.1.3/24", mac=MAC))
        assert host.state() == before

    def test_address_on_the_same_switch_is_refused_while_its_endpoint_may_be_joined(self, host: Host) -> None:
        host.northbound.insert("Logical_Switch", name="web")
        attached = [NetworkId("aa" * 32), NetworkId("bb" * 32)]
        for network in attached:
            host.driver().create_network(Network(network, options=NetworkOptions(switch="web")))
        host.driver().create_endpoint(endpoint(C1, network=attached[0]))
        with pytest.raises(AddressInUse):
            host.driver().create_endpoint(endpoint(C2, network=attached[1]))
        host.links.delete(LINK)
        host.driver().create_endpoint(endpoint(C3, network=attached[1]))


def test_shared_network_of_a_swarm_is_refused(host: Host) -> None:
    """A node would remove it from all hosts with its last task."""
    before = host.state()
    with pytest.raises(BadRequest, match=r"ovn\.network is not for networks of swarm"):
        host.driver().allocate_network(replace(NETWORK, options=NetworkOptions(name="foo")))
    assert host.state() == before


@pytest.mark.parametrize("hangs", ["northbound", "open_vswitch"])
def test_every_call_ends_when_a_database_hangs(host: Host, network: Network, hangs: str) -> None:
    host.driver().create_endpoint(endpoint(C1))
    host.flows = False
    driver = host.driver(TimeLimits(request=1, flows=0.3, controller=0.3, undo=0.3))
    # Calls that do not need the database that hangs have no time limit that a busy machine exceeds.
    vswitch_alone = host.driver(replace(host.LONG_LIMITS, flows=0.3)) if hangs == "northbound" else driver
    calls: list[Callable[[], object]] = [
        lambda: driver.create_network(NETWORK),
        lambda: driver.allocate_network(NETWORK),
        lambda: driver.create_endpoint(endpoint(C2, "192.168.1.3/24")),
        lambda: vswitch_alone.join(NET, C1, SANDBOX),
        lambda: vswitch_alone.endpoint_info(C1),
        lambda: vswitch_alone.leave(C3),
        lambda: driver.delete_endpoint(C3),
        lambda: driver.delete_network(NET),
        lambda: driver.free_network(NET),
    ]
    time.sleep(0.02)
    getattr(host, hangs).pause()

    def outcome(call: Callable[[], object]) -> type[OvnDockerError] | None:
        try:
            call()
        except OvnDockerError as error:
            return type(error)
        return None

    start = time.monotonic()
    with ThreadPoolExecutor(len(calls)) as threads:
        outcomes = list(threads.map(outcome, calls))
    assert time.monotonic() - start < 9
    local = TimedOut if hangs == "open_vswitch" else None
    # Join succeeds: CreateEndpoint has made everything, and a failed Join costs the container its network.
    assert outcomes == [TimedOut, TimedOut, TimedOut, None, None, local, TimedOut, TimedOut, TimedOut]
