"""Rows that containers need and that somebody deleted are made again, by the host whose containers they are."""

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from functional.hosts import C1, C2, HOST2, NET, NETWORK, Container, Host, definition_of, endpoint
from functional.ovsdb_servers import Contents, OvsdbServer, without_times
from ovn_docker.backends import dns
from ovn_docker.backends.addresses import Addresses, lease_row
from ovn_docker.backends.dns import Names
from ovn_docker.backends.northbound import claim_row, name_row
from ovn_docker.backends.shared import GENERATION_ROW, SharedNetworks, note_row
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Operation, Reference, has, is_row
from ovn_docker.hostnames import ContainerNames
from ovn_docker.ipam import Ipam
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    Kind,
    Network,
    NetworkId,
    PoolId,
    Subnet,
    row_uuid,
)
from ovn_docker.options import NetworkOptions
from ovn_docker.reconcile import Mode

FOO = NetworkId("f0" * 32)
BAR = NetworkId("ba" * 32)
SUBNET = ip_network("10.1.0.0/24")
SWITCH = switch_row("foo")
PORT = row_uuid("endpoint", C1)


class Site:
    """host1 with a container on a network of the cluster with addresses of our IPAM driver."""

    def __init__(self, host: Host, container: Container) -> None:
        self.host = host
        self.driver = host.driver()
        self.ipam = Ipam(Addresses(lambda _: host.database), host.vswitch.chassis, list, (), 5)
        self.pool = self.ipam.request_pool(SUBNET, None, 4).id
        gateway, _ = self.ipam.request_address(self.pool, None, gateway=True)
        options = NetworkOptions(name="foo", mtu=1300)
        self.network = Network(FOO, (Subnet(SUBNET, gateway, ours=True),), options=options)
        self.driver.create_network(self.network)
        shared = SharedNetworks(lambda _: host.database)
        shared.define(definition_of("foo", *self.network.subnets), self.chassis, Deadline(5))
        self.address = self.run(C1, container)
        host.docker.networks.add(FOO)

    @property
    def chassis(self) -> Chassis:
        """host1."""
        return self.host.vswitch.chassis(Deadline(5))

    def run(self, id_: EndpointId, container: Container) -> str:
        """``docker run --network foo``: returns the address."""
        address, length = self.ipam.request_address(self.pool, None, gateway=False)
        self.host.run(Endpoint(id_, FOO, (ip_interface(f"{address}/{length}"),)), container)
        names = ContainerNames((f"web-{id_[:2]}", id_[:12]))
        Names(lambda _: self.host.database).set_names(id_, names, self.chassis, Deadline(5))
        self.host.docker.endpoints.add(id_)
        return str(address)

    @property
    def rows(self) -> Contents:
        """The northbound database, without what is another value whenever it is written."""
        return same(self.host.northbound.contents())

    def delete(self, *operations: Operation) -> None:
        """Change the northbound database by hand."""
        self.host.northbound.transact(*operations)


def same(contents: Contents) -> Contents:
    """Contents without times and random values."""
    for row in (row for rows in without_times(contents).values() for row in rows):
        for key in ("ovn-docker:claim", "ovn-docker:generation", "ovn-docker:cleared"):
            row.get("external_ids", {}).pop(key, None)
    return contents


@pytest.fixture
def site(host: Host, container: Container) -> Site:
    return Site(host, container)


def options_row(row: Callable[[Site], str]) -> Callable[[Site], list[Operation]]:
    """``ovn-nbctl dhcp-options-del``."""
    return lambda site: [ovsdb.delete("DHCP_Options", is_row(row(site)))]


def taken_out(column: str, row: str) -> Callable[[Site], list[Operation]]:
    """``ovn-nbctl lsp-del``, and the like for names."""
    reference = [[column, "delete", [Reference(row)]]]
    return lambda _: [ovsdb.mutate("Logical_Switch", is_row(SWITCH), mutations=reference)]


def everything(site: Site) -> list[Operation]:
    return [{"op": "delete", "table": table, "where": []} for table in site.host.northbound.contents()]


DELETIONS: dict[str, Callable[[Site], list[Operation]]] = {
    "port": taken_out("ports", PORT),
    "switch": lambda _: [ovsdb.delete("Logical_Switch", is_row(SWITCH))],
    "claim of the address": options_row(lambda site: claim_row(SWITCH, site.address)),
    "claim of the MAC": options_row(lambda _: claim_row(SWITCH, "02:42:0a:01:00:02")),
    "lease": options_row(lambda site: lease_row(SWITCH, site.address)),
    "pool": options_row(lambda site: site.pool),
    "note": options_row(lambda _: note_row(FOO)),
    "generation": options_row(lambda _: GENERATION_ROW),
    "claim of the name": options_row(lambda _: name_row(SWITCH, "web-c1")),
    "names": lambda _: [ovsdb.delete("DNS", is_row(dns.names_row(C1)))],
    "names' place on the switch": taken_out("dns_records", dns.names_row(C1)),
    "resolver": lambda _: [ovsdb.delete("Logical_Router", is_row(dns.resolver(SWITCH)))],
    "resolver's port": lambda _: [ovsdb.mutate("Logical_Router", mutations=[
        ["ports", "delete", [Reference(dns.resolver_peer(SWITCH))]]])],
    "resolver's place on the switch": taken_out("ports", dns.resolver_port(SWITCH)),
    "everything": everything,
}  # fmt: skip


class TestMadeAgain:
    @pytest.mark.parametrize("what", DELETIONS)
    def test_what_was_deleted_by_hand(self, site: Site, what: str) -> None:
        before = site.rows
        site.delete(*DELETIONS[what](site))
        assert site.rows != before
        site.host.reconciler(site.driver, interval=-1).repair(store_too=False)
        after = site.rows
        if what in {"everything", "generation", "switch"}:  # a life of its own, and no definition yet
            forget_life(before, after)
        assert after == before
        assert site.host.reconciler(site.driver, interval=-1).look() == []

    def test_many_rows_at_once(self, site: Site) -> None:
        before = site.rows
        for what in ("switch", "lease", "pool", "note", "claim of the name", "resolver"):
            site.delete(*DELETIONS[what](site))
        site.host.reconciler(site.driver, interval=-1).repair(store_too=False)
        after = site.rows
        forget_life(before, after)
        assert after == before


def forget_life(*contents: Contents) -> None:
    """Without what a network has only once its Docker has told it (cluster.py), and its random incarnation."""
    for row in (row for one in contents for rows in one.values() for row in rows):
        for key in ("ovn-docker:incarnation", "ovn-docker:definition", "ovn-docker:used"):
            row.get("external_ids", {}).pop(key, None)
