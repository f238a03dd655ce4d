"""Rows of the northbound database that a hostile host wrote, and a driver that reads them.

The driver runs on host1. The containers of host2 must not be affected. A third host writes the rows.
"""

from dataclasses import replace

import pytest

from functional.conftest import Connect
from functional.docker_networks import DockerHost
from functional.hosts import C1, C2, HOST2, MAC, NET, NETWORK, Container, Host, endpoint
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.backends.ovn.rows import claim_row, lease_row, resolver_row
from ovn_docker.backends.ovn.shared.container_names import Names
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.errors import AddressInUse, Conflict, OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.hostnames import ContainerNames
from ovn_docker.model import EndpointId, NetworkId, row_uuid
from ovn_docker.options import NetworkOptions

ID1, ID2 = NetworkId("0a" * 32), NetworkId("0b" * 32)
OLD = {"ovn-docker:created": "1"}
PORT2 = row_uuid("endpoint", C2)
SWITCH2 = row_uuid("network", ID2)


def soon() -> Deadline:
    return Deadline(10)


def change(host: Host, table: str, row: str, **ids: str) -> None:
    """Change external_ids of a row; a leading `_` of a key stands for `ovn-docker:`."""
    pairs = {key.replace("_", "ovn-docker:", 1): value for key, value in ids.items()}
    host.northbound.transact(
        ovsdb.mutate(
            table,
            ovsdb.is_row(row),
            mutations=[
                ["external_ids", "delete", list(pairs)],
                ["external_ids", "insert", {key: value for key, value in pairs.items() if value}],
            ],
        )
    )


def put_up(host: Host, port: str = PORT2) -> None:
    """Set the port `up`, as ovn-northd does while a container runs on any host."""
    host.northbound.transact(ovsdb.update("Logical_Switch_Port", ovsdb.is_row(port), up=True))


def of_host2(host: Host) -> list[object]:
    """Return the UUIDs of the rows that host2's container needs."""
    contents = host.northbound.contents()
    return [
        row["_uuid"]
        for table in ("Logical_Switch", "Logical_Switch_Port", "DHCP_Options", "DNS")
        for row in contents.get(table, [])
    ]


@pytest.fixture
def victim(host: Host) -> Host:
    """host1, and a running container of host2 on a network of that host."""
    host.overlay(HOST2).create_network(replace(NETWORK, id=ID2), soon())
    host.overlay(HOST2).create_endpoint(replace(endpoint(C2, mac=MAC), network=ID2), soon())
    put_up(host)
    host.docker.networks.clear()
    return host


class TestSweep:
    """The sweep of host1 searches for leftovers and deletes them."""

    def test_port_of_another_host_with_a_forged_owner_stays(self, victim: Host) -> None:
        change(victim, "Logical_Switch_Port", PORT2, _host="host1", _encap="10.0.0.1", _created="1")
        before = of_host2(victim)
        assert victim.reconciler(interval=-1).repair_everywhere() == []
        assert of_host2(victim) == before

    def test_network_of_another_host_with_a_forged_owner_stays(self, victim: Host) -> None:
        change(victim, "Logical_Switch", SWITCH2, _host="host1", _encap="10.0.0.1", _created="1")
        before = of_host2(victim)
        with pytest.raises(Conflict, match="host host2 has containers on it"):
            victim.reconciler(interval=-1).repair_everywhere()
        assert of_host2(victim) == before

    def test_network_and_port_with_a_forged_owner_stay(self, victim: Host) -> None:
        for table, row in (("Logical_Switch", SWITCH2), ("Logical_Switch_Port", PORT2)):
            change(victim, table, row, _host="host1", _encap="10.0.0.1", _created="1")
        before = of_host2(victim)
        assert victim.reconciler(interval=-1).repair_everywhere() == []
        assert of_host2(victim) == before

    @pytest.mark.parametrize("table", ["DHCP_Options", "Logical_Switch"])
    def test_forged_row_that_names_a_network_of_another_host_deletes_nothing_of_it(
        self, victim: Host, table: str
    ) -> None:
        ids = {
            "ovn-docker:owner": "overlay",
            "ovn-docker:note": "true",
            "ovn-docker:host": "host1",
            "ovn-docker:network": ID2,
            **OLD,
        }
        before = of_host2(victim)
        victim.northbound.transact(ovsdb.insert(table, row_uuid("forged"), external_ids=ids))
        victim.reconciler(interval=-1).repair_everywhere()
        assert set(before) <= set(of_host2(victim))

    def test_claims_of_another_host_with_a_forged_owner_stay(self, victim: Host) -> None:
        for row in victim.northbound.rows("DHCP_Options", "_uuid"):
            change(victim, "DHCP_Options", row["_uuid"], _host="host1", _created="1")
        before = of_host2(victim)
        reconciler = victim.reconciler(interval=-1)
        assert reconciler.differences() == []
        assert reconciler.repair_everywhere() == []
        assert of_host2(victim) == before

    def test_claims_forged_into_released_leases_stay(self, victim: Host) -> None:
        for row in victim.northbound.rows("DHCP_Options", "_uuid"):
            change(victim, "DHCP_Options", row["_uuid"], _state="released", _released="1")
        before = of_host2(victim)
        assert victim.reconciler(interval=-1).repair_everywhere() == []
        assert of_host2(victim) == before

    @pytest.mark.parametrize("when", ["-inf", "nan", "1e999", "-1e999", "", "9" * 5000, "\u0663"])
    def test_invalid_time_does_not_prevent_deletion(self, victim: Host, when: str) -> None:
        for number, type_ in enumerate((when, "1.5")):
            address = f"10.9.0.{number}"
            ids = {
                "ovn-docker:owner": "overlay",
                "ovn-docker:state": "released",
                "ovn-docker:released": type_,
                "ovn-docker:created": when,
            }
            row = lease_row("", address)
            victim.northbound.transact(ovsdb.insert("DHCP_Options", row, cidr=address, external_ids=ids))
        cleared = [one.what for one in victim.reconciler(interval=-1).repair_everywhere()]
        assert cleared == ["10.9.0.0", "10.9.0.1"] or cleared == ["10.9.0.1", "10.9.0.0"]

    def test_private_network_with_a_forged_name_stays(self, victim: Host) -> None:
        victim.overlay(HOST2).delete_endpoint(C2, soon())
        change(victim, "Logical_Switch", SWITCH2, _name="foo")
        before = of_host2(victim)
        assert victim.reconciler(interval=-1).repair_everywhere() == []
        assert of_host2(victim) == before

    def test_invalid_resolver_does_not_prevent_deletion(self, victim: Host) -> None:
        for switch in ("garbage", row_uuid("gone")):
            victim.northbound.transact(
                ovsdb.insert(
                    "Logical_Router",
                    resolver_row(switch),
                    name=f"resolver-{switch}",
                    external_ids={"ovn-docker:owner": "overlay"},
                )
            )
        (cleared,) = victim.reconciler(interval=-1).repair_everywhere()
        assert cleared.what == f"resolver-{row_uuid('gone')}"

    def test_pool_in_use_that_is_forged_as_free_stays(self, victim: Host, connect: Connect) -> None:
        docker = DockerHost("host2", connect(victim.northbound))
        network = docker.create("10.3.0.0/24")
        docker.lease(network)
        change(victim, "DHCP_Options", network.pool, _host="host1", _state="free", _created="1")
        victim.reconciler(interval=-1).repair_everywhere()
        assert network.pool in of_host2(victim)

    def test_endpoint_with_the_same_first_digits_deletes_no_link(
        self, host: Host, container: Container
    ) -> None:
        """The name of a link contains the first twelve digits of the endpoint's ID."""
        host.driver().create_network(NETWORK)
        host.driver().create_endpoint(endpoint())
        forged = EndpointId(f"{C1[:12]}{'0' * 52}")
        host.overlay(HOST2).create_endpoint(endpoint(forged, "192.168.1.9/24", mac=MAC), soon())
        change(
            host, "Logical_Switch_Port", row_uuid("endpoint", forged), _host="host1", _encap="", _created="1"
        )
        host.docker.endpoints.add(C1)
        host.reconciler(interval=-1).repair()
        assert host.links.exists(f"odh{C1[:12]}")


class TestTypes:
    """Rows with the type of another kind, or an unknown one."""

    @pytest.mark.parametrize("type_", ["lease", "pool", "endpoint", "allowed claim", "nonsense", ""])
    def test_forged_type_deletes_nothing_of_another_host(self, victim: Host, type_: str) -> None:
        rows = [("Logical_Switch_Port", PORT2), ("Logical_Switch", SWITCH2)]
        rows += [("DHCP_Options", row["_uuid"]) for row in victim.northbound.rows("DHCP_Options", "_uuid")]
        for table, row in rows:
            change(victim, table, row, _type=type_, _host="host1", _encap="10.0.0.1", _created="1")
        before = of_host2(victim)
        assert victim.reconciler(interval=-1).repair_everywhere() == []
        assert of_host2(victim) == before

    @pytest.mark.parametrize("type_", ["lease", "resolver port", "nonsense"])
    def test_forged_type_does_not_keep_a_container_from_its_address(self, host: Host, type_: str) -> None:
        host.driver().create_network(NETWORK)
        before = of_host2(host)
        host.driver().create_endpoint(endpoint())
        for row in host.northbound.rows("DHCP_Options", "_uuid"):
            change(host, "DHCP_Options", row["_uuid"], _type=type_)
        change(host, "Logical_Switch_Port", row_uuid("endpoint", C1), _type=type_)
        host.driver().delete_endpoint(C1)
        assert of_host2(host) == before
        host.driver().create_endpoint(endpoint(C2))


class TestCreateEndpoint:
    """Docker on host1 starts a container with an address that a row claims."""

    def claim(self, host: Host, by: str) -> None:
        ids = {
            "ovn-docker:owner": "overlay",
            "ovn-docker:host": "host1",
            "ovn-docker:encap": "10.0.0.1",
            "ovn-docker:network": NET,
            "ovn-docker:endpoint": by,
            **OLD,
        }
        row = claim_row(row_uuid("network", NET), "192.168.1.2")
        host.northbound.transact(ovsdb.insert("DHCP_Options", row, cidr="192.168.1.2", external_ids=ids))

    def test_forged_claim_does_not_delete_an_endpoint_of_another_host(self, victim: Host) -> None:
        victim.overlay(victim.vswitch.chassis(soon())).create_network(NETWORK, soon())
        self.claim(victim, C2)
        before = of_host2(victim)
        with pytest.raises(AddressInUse, match="on host host2"):
            victim.driver().create_endpoint(endpoint())
        assert of_host2(victim) == before

    def test_forged_claim_and_port_do_not_delete_an_endpoint_of_another_host(self, victim: Host) -> None:
        victim.overlay(victim.vswitch.chassis(soon())).create_network(NETWORK, soon())
        self.claim(victim, C2)
        change(
            victim, "Logical_Switch_Port", PORT2,
            _host="host1", _encap="10.0.0.1", _network=NET, _created="1",
        )  # fmt: skip
        before = of_host2(victim)
        with pytest.raises(AddressInUse):
            victim.driver().create_endpoint(endpoint())
        assert of_host2(victim) == before

    def test_claim_of_an_own_endpoint_is_taken_over_once_its_port_is_down(self, host: Host) -> None:
        """ovn-controller sets the port down as it starts; until then the port is up."""
        host.driver().create_network(NETWORK)
        host.driver().create_endpoint(endpoint())
        host.vswitch.unplug(C1, soon())
        host.links.delete(f"odh{C1[:12]}")
        put_up(host, row_uuid("endpoint", C1))
        down = ovsdb.update("Logical_Switch_Port", ovsdb.is_row(row_uuid("endpoint", C1)), up=False)
        with pytest.raises(AddressInUse):
            host.driver().create_endpoint(endpoint(C2))
        host.northbound.transact(down)
        host.driver().create_endpoint(endpoint(C2))

    @pytest.mark.parametrize("switch", ["garbage", "", "\x1b[2J\n"])
    def test_note_without_a_valid_switch_is_refused_and_can_be_removed(self, host: Host, switch: str) -> None:
        chassis = host.vswitch.chassis(soon())
        network = replace(NETWORK, id=ID1, options=NetworkOptions(name="foo"))
        host.overlay(chassis).create_network(network, soon())
        change(host, "DHCP_Options", row_uuid("attached network", ID1), _switch=switch)
        with pytest.raises(OvnDockerError, match="is not in the northbound database") as refused:
            host.driver().create_endpoint(endpoint(network=ID1))
        assert str(refused.value).isprintable()
        host.overlay(chassis).delete_network(ID1, soon())
        assert row_uuid("attached network", ID1) not in of_host2(host)

    @pytest.mark.parametrize("mtu", ["1", "67", "65536", "99999", "-5", "\u0663\u0663\u0663"])
    def test_mtu_that_no_user_can_give_is_ignored(self, host: Host, mtu: str) -> None:
        host.driver().create_network(NETWORK)
        change(host, "Logical_Switch", row_uuid("network", NET), _mtu=mtu)
        chassis = host.vswitch.chassis(soon())
        assert host.overlay(chassis).create_endpoint(endpoint(mac=MAC), soon()).mtu is None


class TestDelete:
    """Docker on host1 removes a container or a network."""

    def test_deleting_a_network_keeps_rows_of_other_hosts(self, victim: Host) -> None:
        chassis = victim.vswitch.chassis(soon())
        victim.overlay(chassis).create_network(NETWORK, soon())
        before = of_host2(victim)
        for table in ("Logical_Switch_Port", "DHCP_Options"):
            for row in victim.northbound.rows(table, "_uuid"):
                change(victim, table, row["_uuid"], _network=NET)
        victim.overlay(chassis).delete_network(NET, soon())
        assert set(before) - set(of_host2(victim)) == {row_uuid("network", NET)}

    def test_forged_name_removes_no_other_network(self, host: Host) -> None:
        chassis = host.vswitch.chassis(soon())
        for id_, name in ((ID1, "foo"), (ID2, "bar")):
            named = replace(NETWORK, id=id_, options=NetworkOptions(name=name))
            host.overlay(chassis if name == "foo" else HOST2).create_network(named, soon())
        change(host, "DHCP_Options", row_uuid("attached network", ID1), _name="bar")
        host.overlay(chassis).delete_network(ID1, soon())
        shared = SharedNetworks(lambda _: host.database).networks(chassis, soon())
        assert {network.name: network.removed for network in shared} in (
            {"foo": False, "bar": False},
            {"bar": False},
        )

    def test_port_without_a_valid_switch_is_deleted(self, host: Host) -> None:
        host.driver().create_network(NETWORK)
        before = host.state()
        host.driver().create_endpoint(endpoint())
        change(host, "Logical_Switch_Port", row_uuid("endpoint", C1), _switch="garbage")
        host.driver().delete_endpoint(C1)
        assert host.northbound.rows("Logical_Switch_Port") == []
        assert host.state()["links"] == before["links"]


class TestNames:
    @pytest.mark.parametrize("name", ["com", "\n", "foo.bar baz"])
    def test_forged_name_of_a_network_registers_no_names(self, host: Host, name: str) -> None:
        chassis = host.vswitch.chassis(soon())
        named = replace(NETWORK, id=ID1, options=NetworkOptions(name="foo"))
        host.overlay(chassis).create_network(named, soon())
        host.overlay(chassis).create_endpoint(endpoint(network=ID1, mac=MAC), soon())
        change(host, "Logical_Switch_Port", row_uuid("endpoint", C1), _name=name)
        Names(lambda _: host.database).set_names(C1, ContainerNames(("google",)), chassis, soon())
        assert host.northbound.rows("DNS") == []


class TestPools:
    """Docker on host1 requests addresses of a pool that a hostile host has changed."""

    @pytest.mark.parametrize(
        ("ids", "why"),
        [
            ({"_subnet": "garbage"}, "'garbage' is not a subnet"),
            ({"_subnet": "0.0.0.0/0"}, "too large"),
            ({"_subnet": "127.0.0.0/8"}, "not for containers"),
            ({"_subnet": "224.0.0.0/8"}, "not for containers"),
            ({"_part": "10.4.0.0/24"}, "not a part of the subnet"),
            ({"_part": "fd00::/64"}, "not a part of the subnet"),
            ({"_reserved x": ""}, "'x' is not an IP address"),
            (
                {f"_reserved 10.3.{number // 256}.{number % 256}": "" for number in range(4097)},
                "at most 4096",
            ),
        ],
        ids=lambda value: str(value)[:24],
    )
    def test_invalid_pool_is_refused_in_one_line(
        self, northbound: OvsdbServer, connect: Connect, ids: dict[str, str], why: str
    ) -> None:
        docker = DockerHost("host1", connect(northbound))
        network = docker.create("10.3.0.0/16")
        pairs = {key.replace("_", "ovn-docker:", 1): value for key, value in ids.items()}
        northbound.transact(
            ovsdb.mutate(
                "DHCP_Options",
                ovsdb.is_row(network.pool),
                mutations=[["external_ids", "delete", list(pairs)], ["external_ids", "insert", pairs]],
            )
        )
        with pytest.raises(Conflict, match=why) as refused:
            docker.lease(network)
        assert str(refused.value).isprintable()
        docker.remove(network)
