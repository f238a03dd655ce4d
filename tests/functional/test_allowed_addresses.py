"""Allowed addresses and port security in the northbound database."""

from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from functional.conftest import Connect
from functional.ovsdb_servers import OvsdbServer, without_times
from ovn_docker import allowed
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.shared.container_names import Names
from ovn_docker.deadline import Deadline
from ovn_docker.errors import AddressInUse, BadRequest, Conflict, OvnDockerError
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    Pool,
    PoolId,
    Subnet,
    row_uuid,
)
from ovn_docker.options import NetworkOptions

NET, OTHER_NET = NetworkId("ad" * 32), NetworkId("0f" * 32)
SUBNETS = (
    Subnet(ip_network("10.1.0.0/24"), ip_address("10.1.0.1")),
    Subnet(ip_network("fd01::/64"), ip_address("fd01::1")),
)
C1, C2, C3 = (EndpointId(f"c{number}" * 32) for number in (1, 2, 3))
HOST1, HOST2 = (
    Chassis(f"host{n}", (), (ip_address(f"10.0.0.{n}"),), ("geneve",), "br-int", "system") for n in (1, 2)
)
VIP, VMAC = "10.1.0.100", "00:00:5e:00:01:0a"


def soon() -> Deadline:
    return Deadline(10)


def endpoint(
    id_: EndpointId, number: int, may: str = "", network: NetworkId = NET, security: bool | None = None
) -> Endpoint:
    more = allowed.parse(may) if may else ()
    return Endpoint(
        *(id_, network, (ip_interface(f"10.1.0.{number}/24"),), mac(number)),
        allowed=more,
        port_security=security,
    )


def mac(number: int) -> str:
    return f"02:42:0a:01:00:{number:02x}"


class Overlays:
    """The overlay mode on one northbound database, with a network on both hosts."""

    def __init__(self, server: OvsdbServer, connection: Database) -> None:
        self.server, self.connection = server, connection
        self.overlay = Overlay(lambda _: connection)
        self.leftovers = partial(Leftovers, connection)
        self.make(NET, HOST1)

    def make(self, network: NetworkId, on: Chassis, name: str | None = "foo", **options: Any) -> None:
        given = NetworkOptions(name=name, **options)
        self.overlay(on).create_network(Network(network, SUBNETS, options=given), soon())

    def start(self, wanted: Endpoint, on: Chassis = HOST1) -> None:
        self.overlay(on).create_endpoint(wanted, soon())

    def stop(self, id_: EndpointId, on: Chassis = HOST1) -> None:
        self.overlay(on).delete_endpoint(id_, soon())

    def port(self, id_: EndpointId) -> tuple[list[str], list[str]]:
        """Return the addresses and the port security of a port."""
        (row,) = (row for row in self.server.rows("Logical_Switch_Port") if row["name"] == id_)
        columns = (row["addresses"], row["port_security"])
        return tuple([column] if isinstance(column, str) else column for column in columns)  # type: ignore[return-value]

    def state(self) -> object:
        return without_times(self.server.contents())


@pytest.fixture
def overlays(northbound: OvsdbServer, connect: Connect) -> Overlays:
    return Overlays(northbound, connect(northbound))


def test_an_endpoint_may_use_its_allowed_addresses(overlays: Overlays) -> None:
    overlays.start(endpoint(C1, 2, f"{VIP} 10.1.0.128/28 fd01::64"))
    assert overlays.port(C1) == (
        [f"{mac(2)} 10.1.0.2"],
        [f"{mac(2)} 10.1.0.2 {VIP} 10.1.0.128/28 fd01::64"],
    )


def test_frames_for_a_virtual_mac_reach_all_ports_that_may_use_it(overlays: Overlays) -> None:
    overlays.start(endpoint(C1, 2, f"{VMAC}/{VIP}"))
    overlays.start(endpoint(C2, 3, f"{VMAC}/{VIP}"), HOST2)
    for id_, number in ((C1, 2), (C2, 3)):
        own = f"{mac(number)} 10.1.0.{number}"
        assert overlays.port(id_) == ([own, "unknown"], [f"{VMAC} 10.1.0.{number} {VIP}", f"{own} {VIP}"])


def test_port_security_can_be_off_for_an_endpoint_or_a_network(overlays: Overlays) -> None:
    overlays.start(endpoint(C1, 2, security=False))
    assert overlays.port(C1) == ([f"{mac(2)} 10.1.0.2", "unknown"], [])
    for network, name in ((OTHER_NET, None), (NetworkId("0e" * 32), "bar")):
        overlays.make(network, HOST1, name, port_security=False)
        overlays.start(endpoint(C2, 3, network=network))
        overlays.start(endpoint(C3, 4, network=network, security=True))
        assert overlays.port(C2)[1] == []
        assert overlays.port(C3)[1] == [f"{mac(4)} 10.1.0.4"]
        overlays.stop(C2)
        overlays.stop(C3)


def test_allowed_addresses_of_a_network_are_refused_as_own_addresses(overlays: Overlays) -> None:
    for network, name in ((OTHER_NET, None), (NetworkId("0e" * 32), "bar")):
        overlays.make(network, HOST1, name, allowed=allowed.parse(f"{VIP} 10.1.0.128/28"))
        overlays.start(endpoint(C1, 2, "10.1.0.101", network))
        overlays.start(endpoint(C2, 3, network=network))
        assert overlays.port(C1)[1] == [f"{mac(2)} 10.1.0.2 {VIP} 10.1.0.101 10.1.0.128/28"]
        assert overlays.port(C2)[1] == [f"{mac(3)} 10.1.0.3 {VIP} 10.1.0.128/28"]
        for number in (100, 130):
            before = overlays.state()
            with pytest.raises(BadRequest, match=r"of the network cannot be a container's own"):
                overlays.start(endpoint(C3, number, network=network))
            assert overlays.state() == before
        overlays.stop(C1)
        overlays.stop(C2)


def test_an_own_address_of_a_container_cannot_be_allowed_to_another(overlays: Overlays) -> None:
    overlays.start(endpoint(C1, 100), HOST2)
    before = overlays.state()
    for may in (VIP, "10.1.0.96/28", f"{VMAC}/{VIP}", f"{mac(100)}/10.1.0.50"):
        with pytest.raises(AddressInUse, match=f"is the own address of endpoint {C1[:12]} on host host2"):
            overlays.start(endpoint(C2, 3, may))
        assert overlays.state() == before
    overlays.stop(C1, HOST2)
    overlays.start(endpoint(C2, 3, VIP))


def test_an_allowed_address_cannot_be_another_containers_own(overlays: Overlays) -> None:
    overlays.start(endpoint(C1, 2, f"10.1.0.96/28 {VMAC}/{VIP}"), HOST2)
    overlays.start(endpoint(C2, 3, VIP))
    for wanted in (endpoint(C3, 100), endpoint(C3, 97), replace(endpoint(C3, 4), mac=VMAC)):
        with pytest.raises(AddressInUse, match="is an allowed address of endpoint"):
            overlays.start(wanted)
    overlays.stop(C1, HOST2)
    overlays.start(endpoint(C3, 97))
    with pytest.raises(AddressInUse):  # it is still allowed to C2
        overlays.start(endpoint(C1, 100))
    overlays.stop(C2)
    overlays.start(endpoint(C1, 100))


def test_deleting_an_endpoint_releases_its_allowed_addresses(overlays: Overlays) -> None:
    before = overlays.state()
    overlays.start(endpoint(C1, 2, f"{VIP} 10.1.0.128/28 {VMAC}/{VIP} fd01::100/120"))
    overlays.start(endpoint(C1, 2, f"{VIP} 10.1.0.128/28 {VMAC}/{VIP} fd01::100/120"))
    overlays.stop(C1)
    assert overlays.state() == before


@pytest.mark.parametrize(
    ("may", "why"),
    [
        ("10.1.0.0/24", "the gateway of the network"),
        ("fd01::1", "the gateway of the network"),
        ("fd01:0:0:0:8000::/80", "too large a part of the network's subnet"),
    ],
)
def test_addresses_that_would_hijack_the_network_are_refused(overlays: Overlays, may: str, why: str) -> None:
    before = overlays.state()
    with pytest.raises(BadRequest, match=why):
        overlays.start(endpoint(C1, 2, may))
    assert overlays.state() == before


def test_a_subnet_behind_a_container_may_be_large(overlays: Overlays) -> None:
    overlays.start(endpoint(C1, 2, "10.8.0.0/16"))
    assert overlays.port(C1)[1] == [f"{mac(2)} 10.1.0.2 10.8.0.0/16"]


def test_claims_of_deleted_ports_are_taken_over_and_swept(overlays: Overlays) -> None:
    before = overlays.state()
    overlays.start(endpoint(C1, 2, f"{VIP} 10.1.0.101"))
    overlays.connection.transact(
        {"op": "mutate", "table": "Logical_Switch", "where": [],
         "mutations": [["ports", "delete", ["uuid", row_uuid("endpoint", C1)]]]}, deadline=soon(),
    )  # fmt: skip
    overlays.start(endpoint(C2, 100))
    overlays.stop(C2)
    for stray in overlays.leftovers(HOST1).of_host(soon())[1]:
        overlays.leftovers(HOST1).clear(stray, soon())
    assert [one.what for one in overlays.leftovers(HOST1).orphans(soon())] == ["10.1.0.101"]
    overlays.leftovers(HOST1).clear_orphans(soon())
    assert overlays.leftovers(HOST1).orphans(soon()) == []
    overlays.make(NET, HOST1)
    assert [row for row in overlays.server.rows("DHCP_Options") if row["cidr"] == "10.1.0.101"] == []
    assert before != overlays.state()  # only the time of the sweep


def test_allowed_addresses_are_not_leased_by_our_ipam(overlays: Overlays) -> None:
    overlays.start(endpoint(C1, 2, "10.1.0.4"))
    switch = row_uuid("shared network", "foo")
    pool = Pool(PoolId(row_uuid("pool", "1")), SUBNETS[0].pool, switch=switch, network=NET)
    addresses = Addresses(lambda _: overlays.connection)(HOST1)
    some = [ip_address(f"10.1.0.{n}") for n in (3, 4, 5)]
    assert addresses.rested(pool, some, 30, soon()) == [some[0], some[2]]


def test_a_network_joined_with_other_allowed_addresses_is_refused(overlays: Overlays) -> None:
    overlays.make(OTHER_NET, HOST1, "bar", allowed=allowed.parse(VIP))
    with pytest.raises(Conflict, match=f"network bar has allowed-addresses {VIP} in the cluster"):
        overlays.make(NetworkId("0e" * 32), HOST2, "bar")
    overlays.make(NetworkId("0d" * 32), HOST2, "bar", allowed=allowed.parse(VIP))
    with pytest.raises(Conflict, match=f"network bar has allowed-addresses {VIP} in the cluster"):
        overlays.make(NetworkId("0e" * 32), HOST2, "bar", port_security=False)


def test_link_local_addresses_are_allowed_later(overlays: Overlays) -> None:
    names = Names(lambda _: overlays.connection)
    before = overlays.state()
    overlays.start(endpoint(C1, 2, VIP))
    for _ in range(2):
        names.allow(C1, ["169.254.7.7", "fe80::77"], HOST1, soon())
        assert overlays.port(C1) == (
            [f"{mac(2)} 10.1.0.2"],
            [f"{mac(2)} 10.1.0.2 {VIP} 169.254.7.7 fe80::77"],
        )
    overlays.start(endpoint(C2, 3), HOST2)
    for wrong in ("169.254.53.1", "10.1.0.1", "10.1.0.3", "nonsense"):
        with pytest.raises(OvnDockerError):
            names.allow(C1, [wrong], HOST1, soon())
    overlays.stop(C1)
    overlays.stop(C2, HOST2)
    names.allow(C1, ["169.254.7.7"], HOST1, soon())  # C1 has been deleted meanwhile
    assert overlays.state() == before


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.1.0.1", "169.254.53.1", "nonsense", "\x1b[31m", ","])
def test_a_forged_row_allows_only_what_a_user_can_allow(overlays: Overlays, text: str) -> None:
    """Any host can write the row of a network."""
    overlays.make(OTHER_NET, HOST1, None)
    forged = {"ovn-docker:allowed-addresses": text, "ovn-docker:port-security": "wider"}
    overlays.connection.transact(
        {"op": "mutate", "table": "Logical_Switch", "where": [["name", "==", OTHER_NET]],
         "mutations": [["external_ids", "insert", ["map", [[k, v] for k, v in forged.items()]]]]},
        deadline=soon(),
    )  # fmt: skip
    try:
        overlays.start(endpoint(C1, 2, network=OTHER_NET))
    except BadRequest:
        assert not [row for row in overlays.server.rows("Logical_Switch_Port") if row["name"] == C1]
    else:
        assert overlays.port(C1)[1] == [f"{mac(2)} 10.1.0.2"]
