"""Shared networks whose rows a hostile host wrote, and the hosts that follow them."""

import json
import logging
from ipaddress import ip_network

import pytest

from functional.conftest import Connect
from functional.hosts import definition_of
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.backends.ovn.rows import NOTES, note_row
from ovn_docker.backends.ovn.shared.membership import note_ids
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.core.follower import Follower
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import Conflict
from ovn_docker.host.ovsdb import insert
from ovn_docker.metrics import REFUSED, Metric, Unrecorded
from ovn_docker.model import Chassis, Definition, LocalNetwork, NetworkId, Occupied, Subnet, row_uuid

SUBNET = Subnet(ip_network("10.7.0.0/24"))
CHASSIS = Chassis("host1", ("tcp:192.168.9.1:6641",), southbound=("tcp:192.168.9.2:6642",))


def soon() -> Deadline:
    return Deadline(10)


class Docker:
    """This host's Docker; *used*: names of the networks that have containers."""

    def __init__(self) -> None:
        self.have: dict[str, LocalNetwork] = {}
        self.used: set[str] = set()

    def networks(self) -> list[LocalNetwork]:
        return list(self.have.values())

    def subnets(self) -> list[Occupied]:
        return []

    def create_network(self, wanted: Definition) -> NetworkId:
        id_ = NetworkId(f"{len(self.have):064x}")
        self.have[wanted.name] = LocalNetwork(id_, wanted.name, wanted)
        return id_

    def remove_network(self, network: LocalNetwork) -> None:
        if network.shared in self.used:
            raise Conflict("Docker says: network has active endpoints")
        del self.have[network.shared]


class Counted(Unrecorded):
    def __init__(self) -> None:
        self.refused: list[str] = []

    def add(self, metric: Metric, *labels: str) -> None:
        if metric is REFUSED:
            self.refused += labels


class Cluster:
    """A host that follows the shared networks, and functions that write rows as other hosts do."""

    def __init__(self, server: OvsdbServer, connect: Connect) -> None:
        database = connect(server)
        self.server = server
        self.docker, self.counted = Docker(), Counted()
        self.connected: list[Occupied] = []
        self.store = SharedNetworks(lambda _: database)
        self.follower = Follower(
            self.store, lambda _: CHASSIS, self.docker, self.counted, lambda: self.connected
        )

    def write(self, name: str, definition: object, row: str = "", **ids: str) -> None:
        """Insert a row of Logical_Switch; it replaces an earlier row of the same name."""
        text = definition if isinstance(definition, str) else json.dumps(definition)
        keys = {"owner": "overlay", "shared": "true", "name": name, "definition": text}
        given = {"subnet": str(SUBNET.pool), **{f"ovn-docker:{key}": value for key, value in keys.items()}}
        given |= ids
        uuid = row or row_uuid("shared network", name)
        self.server.transact(
            {"op": "delete", "table": "Logical_Switch", "where": [["_uuid", "==", ["uuid", uuid]]]}
        )
        self.server.transact(
            {
                "op": "insert",
                "table": "Logical_Switch",
                "uuid": uuid,
                "row": {"name": name, "external_ids": ["map", [[k, v] for k, v in given.items() if v]]},
            },
        )

    def note(self, name: str) -> None:
        """Return this host's note of a network."""
        ids = NOTES.ids(note_ids(name, switch_row(name), "", CHASSIS))
        row = note_row(self.docker.have[name].id)
        self.server.transact(insert("DHCP_Options", row, cidr="", external_ids=ids))


@pytest.fixture
def cluster(northbound: OvsdbServer, connect: Connect) -> Cluster:
    return Cluster(northbound, connect)


Warnings = pytest.LogCaptureFixture


@pytest.fixture
def warnings(caplog: Warnings) -> Warnings:
    caplog.set_level(logging.WARNING, "ovn_docker.core.follower")
    return caplog


FOO = definition_of("foo", SUBNET).request


def test_refused_network_is_logged_and_counted_once(cluster: Cluster, warnings: Warnings) -> None:
    cluster.write("pwn", FOO | {"Name": "pwn", "Driver": "bridge"})
    cluster.write("foo", FOO)
    for _ in range(3):
        assert cluster.follower.follow()
    assert list(cluster.docker.have) == ["foo"]
    (warning,) = warnings.messages
    assert warning == (
        "network pwn of the cluster is refused: Driver 'bridge': it must be 'openvswitch'; "
        "see `ovn-docker doctor`"
    )
    assert cluster.counted.refused == ["definition"]
    cluster.write("pwn", FOO | {"Name": "pwn", "Driver": "macvlan"})
    cluster.follower.follow()
    assert len(warnings.messages) == len(cluster.counted.refused) == 2


def test_many_refused_networks_do_not_flood_the_log(cluster: Cluster, warnings: Warnings) -> None:
    for number in range(1000):
        cluster.write(f"n{number}", "{}")
    cluster.write("foo", FOO)
    cluster.follower.follow()
    assert len(warnings.messages) == 11
    assert list(cluster.docker.have) == ["foo"]


@pytest.mark.parametrize("name", ["foo", "\x1b[2J\nforged", "\u202e", ""])
def test_row_with_the_uuid_of_another_name_neither_creates_nor_removes_a_network(
    cluster: Cluster, warnings: Warnings, name: str
) -> None:
    cluster.write("foo", FOO)
    cluster.follower.follow()
    forged = row_uuid("shared network", "another")
    cluster.write(name, FOO | {"Name": name}, forged, **{"ovn-docker:removed": "host3"})
    cluster.follower.follow()
    assert list(cluster.docker.have) == ["foo"]
    assert len(warnings.messages) == 1


def test_forged_removal_keeps_a_network_with_containers(cluster: Cluster) -> None:
    cluster.write("foo", FOO)
    cluster.follower.follow()
    cluster.docker.used.add("foo")
    cluster.write("foo", FOO, **{"ovn-docker:removed": "host3"})
    assert not cluster.follower.follow()
    assert list(cluster.docker.have) == ["foo"]


@pytest.mark.parametrize(
    ("subnet", "connected", "why"),
    [
        ("192.168.9.0/24", "", "has 192.168.9.1, a database's or this host's own address"),
        ("192.168.9.2/31", "", "has 192.168.9.2, a database's or this host's own address"),
        ("10.7.0.0/24", "10.7.0.128/25", "overlaps 10.7.0.128/25 (eth0), which this host is connected to"),
    ],
)
def test_subnet_with_addresses_of_this_host_or_the_databases_is_refused(
    cluster: Cluster, warnings: Warnings, subnet: str, connected: str, why: str
) -> None:
    cluster.connected = [Occupied(ip_network(connected), "eth0", linked=True)] if connected else []
    cluster.write("foo", definition_of("foo", Subnet(ip_network(subnet))).text, subnet=subnet)
    cluster.follower.follow()
    assert cluster.docker.have == {}
    (warning,) = warnings.messages
    assert why in warning
    assert cluster.counted.refused == ["subnet"]


def test_host_with_the_network_replaces_a_refused_definition_by_its_own(
    cluster: Cluster,
) -> None:
    cluster.write("foo", FOO)
    cluster.follower.follow()
    cluster.note("foo")
    cluster.write("foo", FOO | {"Driver": "bridge"})
    cluster.follower.follow()
    (shared,) = cluster.store.networks(CHASSIS, soon())
    assert shared.definition == definition_of("foo", SUBNET)
    assert cluster.counted.refused == ["definition"]


def test_host_does_not_write_a_definition_that_it_would_refuse(cluster: Cluster) -> None:
    """Otherwise each host would write the definition at each comparison, and so wake all others."""
    cluster.write("foo", FOO)
    cluster.follower.follow()
    cluster.note("foo")
    cluster.write("foo", FOO, subnet="10.8.0.0/24")
    cluster.follower.follow()
    before = cluster.server.contents()
    cluster.follower.follow()
    assert cluster.server.contents() == before
