"""Allowed addresses and port security in the northbound database: who may use what, and who has it first."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from functional.conftest import Connect
from functional.ovsdb_servers import OvsdbServer, without_times
from ovn_docker import allowed
from ovn_docker.backends.addresses import Addresses
from ovn_docker.backends.dns import Names
from ovn_docker.backends.leftovers import Leftovers
from ovn_docker.backends.overlay import Overlay
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, Conflict, OvnDockerError
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import (
    AddressInUse,
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
        self.leftovers = Leftovers(lambda _: connection)
        self.make(NET, HOST1)

    def make(self, network: NetworkId, on: Chassis, name: str | None = "foo", **options: Any) -> None:
        given = NetworkOptions(name=name, **options)
        self.overlay.create_network(Network(network, SUBNETS, options=given), on, soon())

    def start(self, wanted: Endpoint, on: Chassis = HOST1) -> None:
        self.overlay.create_endpoint(wanted, on, soon())

    def stop(self, id_: EndpointId, on: Chassis = HOST1) -> None:
        self.overlay.delete_endpoint(id_, on, soon())

    def port(self, id_: EndpointId) -> tuple[list[str], list[str]]:
        """Addresses and port security."""
        (row,) = (row for row in self.server.rows("Logical_Switch_Port") if row["name"] == id_)
        both = (row["addresses"], row["port_security"])
        return tuple([column] if isinstance(column, str) else column for column in both)  # type: ignore[return-value]

    def state(self) -> object:
        return without_times(self.server.contents())


@pytest.fixture
def both(northbound: OvsdbServer, connect: Connect) -> Overlays:
    return Overlays(northbound, connect(northbound))


def test_an_endpoint_may_use_what_it_is_allowed(both: Overlays) -> None:
    both.start(endpoint(C1, 2, f"{VIP} 10.1.0.128/28 fd01::64"))
    assert both.port(C1) == (
        [f"{mac(2)} 10.1.0.2"],
        [f"{mac(2)} 10.1.0.2 {VIP} 10.1.0.128/28 fd01::64"],
    )


def test_a_virtual_mac_goes_to_all_that_may_use_it(both: Overlays) -> None:
    both.start(endpoint(C1, 2, f"{VMAC}/{VIP}"))
    both.start(endpoint(C2, 3, f"{VMAC}/{VIP}"), HOST2)
    for id_, number in ((C1, 2), (C2, 3)):
        own = f"{mac(number)} 10.1.0.{number}"
        assert both.port(id_) == ([own, "unknown"], [f"{VMAC} 10.1.0.{number} {VIP}", f"{own} {VIP}"])


def test_port_security_is_off_for_one_or_for_all(both: Overlays) -> None:
    both.start(endpoint(C1, 2, security=False))
    assert both.port(C1) == ([f"{mac(2)} 10.1.0.2", "unknown"], [])
    for network, name in ((OTHER_NET, None), (NetworkId("0e" * 32), "bar")):
        both.make(network, HOST1, name, port_security=False)
        both.start(endpoint(C2, 3, network=network))
        both.start(endpoint(C3, 4, network=network, security=True))
        assert both.port(C2)[1] == []
        assert both.port(C3)[1] == [f"{mac(4)} 10.1.0.4"]
        both.stop(C2)
        both.stop(C3)


def test_a_network_allows_addresses_to_all_and_to_none_as_its_own(both: Overlays) -> None:
    for network, name in ((OTHER_NET, None), (NetworkId("0e" * 32), "bar")):
        both.make(network, HOST1, name, allowed=allowed.parse(f"{VIP} 10.1.0.128/28"))
        both.start(endpoint(C1, 2, "10.1.0.101", network))
        both.start(endpoint(C2, 3, network=network))
        assert both.port(C1)[1] == [f"{mac(2)} 10.1.0.2 {VIP} 10.1.0.101 10.1.0.128/28"]
        assert both.port(C2)[1] == [f"{mac(3)} 10.1.0.3 {VIP} 10.1.0.128/28"]
        for number in (100, 130):
            before = both.state()
            with pytest.raises(BadRequest, match=r"of the network is no container's own"):
                both.start(endpoint(C3, number, network=network))
            assert both.state() == before
        both.stop(C1)
        both.stop(C2)


def test_an_own_address_is_not_allowed_to_another(both: Overlays) -> None:
    both.start(endpoint(C1, 100), HOST2)
    before = both.state()
    for may in (VIP, "10.1.0.96/28", f"{VMAC}/{VIP}", f"{mac(100)}/10.1.0.50"):
        with pytest.raises(AddressInUse, match=f"is the own address of endpoint {C1[:12]} on host host2"):
            both.start(endpoint(C2, 3, may))
        assert both.state() == before
    both.stop(C1, HOST2)
    both.start(endpoint(C2, 3, VIP))


def test_an_allowed_address_is_no_other_containers_own(both: Overlays) -> None:
    both.start(endpoint(C1, 2, f"10.1.0.96/28 {VMAC}/{VIP}"), HOST2)
    both.start(endpoint(C2, 3, VIP))
    for wanted in (endpoint(C3, 100), endpoint(C3, 97), replace(endpoint(C3, 4), mac=VMAC)):
        with pytest.raises(AddressInUse, match="is an allowed address of endpoint"):
            both.start(wanted)
    both.stop(C1, HOST2)
    both.start(endpoint(C3, 97))
    with pytest.raises(AddressInUse):  # it is still allowed to C2
        both.start(endpoint(C1, 100))
    both.stop(C2)
    both.start(endpoint(C1, 100))


def test_an_endpoint_with_allowed_addresses_leaves_nothing(both: Overlays) -> None:
    before = both.state()
    both.start(endpoint(C1, 2, f"{VIP} 10.1.0.128/28 {VMAC}/{VIP} fd01::100/120"))
    both.start(endpoint(C1, 2, f"{VIP} 10.1.0.128/28 {VMAC}/{VIP} fd01::100/120"))
    both.stop(C1)
    assert both.state() == before


@pytest.mark.parametrize(
    ("may", "why"),
    [
        ("10.1.0.0/24", "the gateway of the network"),
        ("fd01::1", "the gateway of the network"),
        ("fd01:0:0:0:8000::/80", "too large a part of the network's subnet"),
    ],
)
def test_what_would_take_the_network_over_is_refused(both: Overlays, may: str, why: str) -> None:
    before = both.state()
    with pytest.raises(BadRequest, match=why):
        both.start(endpoint(C1, 2, may))
    assert both.state() == before


def test_a_subnet_behind_a_container_may_be_large(both: Overlays) -> None:
    both.start(endpoint(C1, 2, "10.8.0.0/16"))
    assert both.port(C1)[1] == [f"{mac(2)} 10.1.0.2 10.8.0.0/16"]


def test_claims_of_ports_that_are_gone_are_taken_over_and_swept(both: Overlays) -> None:
    before = both.state()
    both.start(endpoint(C1, 2, f"{VIP} 10.1.0.101"))
    both.connection.transact(
        {"op": "mutate", "table": "Logical_Switch", "where": [],
         "mutations": [["ports", "delete", ["uuid", row_uuid("endpoint", C1)]]]}, deadline=soon(),
    )  # fmt: skip
    both.start(endpoint(C2, 100))
    both.stop(C2)
    for stray in both.leftovers.mine(HOST1, soon())[1]:
        both.leftovers.clear(stray, HOST1, soon())
    assert [one.what for one in both.leftovers.common(HOST1, soon())] == ["10.1.0.101"]
    both.leftovers.clear_common(HOST1, soon(), unless_lately=False)
    assert both.leftovers.common(HOST1, soon()) == []
    both.make(NET, HOST1)
    assert [row for row in both.server.rows("DHCP_Options") if row["cidr"] == "10.1.0.101"] == []
    assert before != both.state()  # only the time of the sweep


def test_our_ipam_gives_no_allowed_address_away(both: Overlays) -> None:
    both.start(endpoint(C1, 2, "10.1.0.4"))
    switch = row_uuid("shared network", "foo")
    pool = Pool(PoolId(row_uuid("pool", "1")), SUBNETS[0].pool, switch=switch, network=NET)
    addresses = Addresses(lambda _: both.connection)
    some = [ip_address(f"10.1.0.{n}") for n in (3, 4, 5)]
    assert addresses.free(pool, some, 30, HOST1, soon()) == [some[0], some[2]]


def test_a_network_joined_with_other_allowed_addresses_is_refused(both: Overlays) -> None:
    both.make(OTHER_NET, HOST1, "bar", allowed=allowed.parse(VIP))
    with pytest.raises(Conflict, match=f"network bar has allowed-addresses {VIP} in the cluster"):
        both.make(NetworkId("0e" * 32), HOST2, "bar")
    both.make(NetworkId("0d" * 32), HOST2, "bar", allowed=allowed.parse(VIP))
    with pytest.raises(Conflict, match=f"network bar has allowed-addresses {VIP} in the cluster"):
        both.make(NetworkId("0e" * 32), HOST2, "bar", port_security=False)


def test_link_local_addresses_are_allowed_later(both: Overlays) -> None:
    names = Names(lambda _: both.connection)
    before = both.state()
    both.start(endpoint(C1, 2, VIP))
    for _ in range(2):
        names.allow(C1, ["169.254.7.7", "fe80::77"], HOST1, soon())
        assert both.port(C1) == (
            [f"{mac(2)} 10.1.0.2"],
            [f"{mac(2)} 10.1.0.2 {VIP} 169.254.7.7 fe80::77"],
        )
    both.start(endpoint(C2, 3), HOST2)
    for wrong in ("169.254.53.1", "10.1.0.1", "10.1.0.3", "nonsense"):
        with pytest.raises(OvnDockerError):
            names.allow(C1, [wrong], HOST1, soon())
    both.stop(C1)
    both.stop(C2, HOST2)
    names.allow(C1, ["169.254.7.7"], HOST1, soon())  # it has gone meanwhile
    assert both.state() == before


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.1.0.1", "169.254.53.1", "nonsense", "\x1b[31m", ","])
def test_a_forged_row_allows_nothing_that_no_user_can(both: Overlays, text: str) -> None:
    """Any host can write the row of a network."""
    both.make(OTHER_NET, HOST1, None)
    forged = {"ovn-docker:allowed-addresses": text, "ovn-docker:port-security": "wider"}
    both.connection.transact(
        {"op": "mutate", "table": "Logical_Switch", "where": [["name", "==", OTHER_NET]],
         "mutations": [["external_ids", "insert", ["map", [[k, v] for k, v in forged.items()]]]]},
        deadline=soon(),
    )  # fmt: skip
    try:
        both.start(endpoint(C1, 2, network=OTHER_NET))
    except BadRequest:
        assert not [row for row in both.server.rows("Logical_Switch_Port") if row["name"] == C1]
    else:
        assert both.port(C1)[1] == [f"{mac(2)} 10.1.0.2"]
