"""A host makes missing rows of its networks and containers again."""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from functional.conftest import Connect
from functional.hosts import C1, C2, HOST2, MAC, NET, NETWORK, Container, Host, definition_of, endpoint
from functional.ovsdb_servers import Contents, OvsdbServer, until, without_times
from ovn_docker.allowed import parse as allowed_addresses
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.repair.lost_host import belongings, forget
from ovn_docker.backends.ovn.rows import (
    GENERATION_ROW,
    QUIET_TABLE,
    WATCHED_ROW,
    claim_row,
    lease_row,
    name_row,
    names_row,
    note_row,
    resolver_peer,
    resolver_port,
    resolver_row,
)
from ovn_docker.backends.ovn.shared.container_names import Names
from ovn_docker.backends.ovn.shared.resolver import FORGETFUL
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.core.ipam import Ipam
from ovn_docker.core.reconcile import RepairMode
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import BadRequest, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Operation, Reference, is_row
from ovn_docker.hostnames import ContainerNames
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    Kind,
    Network,
    NetworkId,
    Subnet,
    host_link,
    row_uuid,
)
from ovn_docker.options import NetworkOptions
from ovn_docker.threads import Threads

FOO = NetworkId("f0" * 32)
BAR = NetworkId("ba" * 32)
SUBNET = ip_network("10.1.0.0/24")
SWITCH = switch_row("foo")
PORT = row_uuid("endpoint", C1)


class Site:
    """host1 with a container on a shared network with addresses of our IPAM driver."""

    def __init__(self, host: Host, container: Container, *, names: bool = True) -> None:
        self.host = host
        self.driver = host.driver()
        self.ipam = Ipam(
            Addresses(lambda _: host.database), host.vswitch.chassis, list, (), lambda _, __: (), 5
        )
        self.pool = self.ipam.request_pool(SUBNET, None, 4).id
        gateway, _ = self.ipam.request_address(self.pool, None, gateway=True)
        options = NetworkOptions(name="foo", mtu=1300, snoop=True, names=names)
        self.network = Network(FOO, (Subnet(SUBNET, gateway, ours=True),), options=options)
        self.driver.create_network(self.network)
        shared = SharedNetworks(lambda _: host.database)
        shared.define(definition_of("foo", *self.network.subnets), self.chassis, Deadline(5))
        self.address = self.run(C1, container)
        host.docker.networks.add(FOO)

    @property
    def chassis(self) -> Chassis:
        """The settings of host1."""
        return self.host.vswitch.chassis(Deadline(5))

    def run(self, id_: EndpointId, container: Container) -> str:
        """Make the calls of ``docker run --network foo``; return the address."""
        address, length = self.ipam.request_address(self.pool, None, gateway=False)
        self.host.run(Endpoint(id_, FOO, (ip_interface(f"{address}/{length}"),)), container)
        names = ContainerNames((f"web-{id_[:2]}", id_[:12]))
        Names(lambda _: self.host.database).set_names(id_, names, self.chassis, Deadline(5))
        self.host.docker.endpoints.add(id_)
        return str(address)

    @property
    def rows(self) -> Contents:
        """Return the northbound database without random values and times."""
        return same(self.host.northbound.contents())

    def delete(self, *operations: Operation) -> None:
        """Change the northbound database by hand."""
        self.host.northbound.transact(*operations)


def same(contents: Contents) -> Contents:
    """Return contents without times and random values."""
    for row in (row for rows in without_times(contents).values() for row in rows):
        for key in ("ovn-docker:claim", "ovn-docker:picked", "ovn-docker:generation", "ovn-docker:cleared"):
            row.get("external_ids", {}).pop(key, None)
    return contents


@pytest.fixture
def site(host: Host, container: Container) -> Site:
    return Site(host, container)


def options_row(row: Callable[[Site], str]) -> Callable[[Site], list[Operation]]:
    """Return the operation of ``ovn-nbctl dhcp-options-del``."""
    return lambda site: [ovsdb.delete("DHCP_Options", is_row(row(site)))]


def taken_out(column: str, row: str) -> Callable[[Site], list[Operation]]:
    """Return the operation of ``ovn-nbctl lsp-del``, and the same for names."""
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
    "watched row": lambda _: [ovsdb.delete(QUIET_TABLE, is_row(WATCHED_ROW))],
    "claim of the name": options_row(lambda _: name_row(SWITCH, "web-c1")),
    "names": lambda _: [ovsdb.delete("DNS", is_row(names_row(C1)))],
    "names' place on the switch": taken_out("dns_records", names_row(C1)),
    "resolver": lambda _: [ovsdb.delete("Logical_Router", is_row(resolver_row(SWITCH)))],
    "resolver's options": lambda _: [ovsdb.mutate("Logical_Router", mutations=[
        ["options", "delete", FORGETFUL], ["options", "insert", {"mac_binding_age_threshold": "0"}]])],
    "resolver's port": lambda _: [ovsdb.mutate("Logical_Router", mutations=[
        ["ports", "delete", [Reference(resolver_peer(SWITCH))]]])],
    "resolver's place on the switch": taken_out("ports", resolver_port(SWITCH)),
    "everything": everything,
}  # fmt: skip


class TestMadeAgain:
    @pytest.mark.parametrize("what", DELETIONS)
    def test_rows_deleted_by_hand_are_made_again(self, site: Site, what: str) -> None:
        before = site.rows
        site.delete(*DELETIONS[what](site))
        assert site.rows != before
        site.host.reconciler(interval=-1).repair(store_too=False)
        after = site.rows
        if what in {"everything", "note", "switch"}:  # a new incarnation, without a definition
            forget_life(before, after)
        assert after == before
        assert site.host.reconciler(interval=-1).differences() == []

    def test_a_network_without_names_is_made_again_without_names(
        self, host: Host, container: Container
    ) -> None:
        site = Site(host, container, names=False)
        assert site.host.reconciler(interval=-1).differences() == []
        before = site.rows
        site.delete(*everything(site))
        site.host.reconciler(interval=-1).repair(store_too=False)
        after = site.rows
        forget_life(before, after)
        assert after == before
        assert site.host.reconciler(interval=-1).differences() == []

    def test_many_rows_deleted_at_once_are_made_again(self, site: Site) -> None:
        before = site.rows
        for what in ("switch", "lease", "pool", "note", "claim of the name", "resolver"):
            site.delete(*DELETIONS[what](site))
        site.host.reconciler(interval=-1).repair(store_too=False)
        after = site.rows
        forget_life(before, after)
        assert after == before

    def test_rows_of_containers_that_docker_does_not_have_stay_deleted(self, site: Site) -> None:
        site.delete(*DELETIONS["port"](site))
        site.host.docker.endpoints.clear()
        assert site.host.reconciler(interval=-1).repair(store_too=False) == []

    def test_nothing_is_made_again_without_a_reply_of_docker(self, site: Site) -> None:
        site.delete(*DELETIONS["port"](site))
        site.host.docker.answers = False
        before = site.rows
        with pytest.raises(Unavailable, match="Docker does not answer"):
            site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.rows == before

    def test_links_are_deleted_while_the_database_is_down(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ovn_docker.core.reconcile._READING", 0.3)
        links = site.host.links
        links.create_veth("odhstray", "odcstray", mac=MAC, mtu=1400, tx_checksums=True)
        site.host.northbound.kill()
        assert [one.kind for one in site.host.reconciler().repair(store_too=False)] == [Kind.LINK]

    def test_a_network_of_this_host_alone_is_made_again(self, site: Site, container: Container) -> None:
        host = site.host
        host.driver().create_network(NETWORK)
        host.run(endpoint(C2), container)
        host.docker.endpoints.add(C2)
        host.reconciler(interval=-1).repair(store_too=False)  # its container's name
        before = site.rows
        site.delete(*everything(site))
        host.reconciler(interval=-1).repair(store_too=False)
        after = site.rows
        forget_life(before, after)
        assert after == before

    def test_a_note_on_a_users_switch_is_made_again(self, site: Site, container: Container) -> None:
        host = attach(site, container)
        before = site.rows
        site.delete(*options_row(lambda _: note_row(BAR))(site))
        host.reconciler(interval=-1).repair(store_too=False)
        assert site.rows == before

    def test_rows_on_a_users_switch_that_was_made_anew_are_made_again(
        self, site: Site, container: Container
    ) -> None:
        host = attach(site, container)
        site.delete(ovsdb.delete("Logical_Switch", ["name", "==", "web"]))
        with pytest.raises(BadRequest, match="no logical switch 'web'"):
            host.reconciler(interval=-1).repair(store_too=False)
        switch = host.northbound.insert("Logical_Switch", name="web")
        host.reconciler(interval=-1).repair(store_too=False)
        (row,) = (one for one in host.northbound.rows("Logical_Switch") if one["name"] == "web")
        assert row["ports"] == row_uuid("endpoint", C2)
        claims = {one["_uuid"] for one in host.northbound.rows("DHCP_Options", "_uuid")}
        assert claim_row(switch, "192.168.1.2") in claims
        assert host.reconciler(interval=-1).differences(store_too=False) == []

    def test_a_container_without_addresses_misses_no_names(self, site: Site, container: Container) -> None:
        """Docker's IPAM driver ``null`` leases no address."""
        site.host.run(Endpoint(C2, FOO, (), MAC), container)
        site.host.docker.endpoints.add(C2)
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.host.reconciler(interval=-1).differences(store_too=False) == []

    def test_container_that_docker_is_deleting_is_not_made_again(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The link is gone, and DeleteEndpoint finds no port, just before the port would be made again."""
        site.delete(*DELETIONS["port"](site))
        reconciler, exists = site.host.reconciler(interval=-1), site.host.links.exists
        make, remaker = site.host.remaker.make_endpoint, site.host.remaker

        def make_late(*arguments: Any) -> None:
            stop(site)
            make(*arguments)

        monkeypatch.setattr(remaker, "make_endpoint", make_late)
        assert reconciler.repair(store_too=False) == []
        assert not exists(host_link(C1))
        reconciler.repair()
        ours = {"ovn-docker:endpoint": C1}.items()
        for table in ("Logical_Switch_Port", "DHCP_Options", "DNS"):
            rows = site.host.northbound.rows(table, "external_ids")
            assert not [row for row in rows if ours <= row["external_ids"].items()]

    @pytest.mark.parametrize("what", ["port", "names"])
    def test_claims_of_a_port_deleted_by_hand_are_swept_when_the_container_stops(
        self, site: Site, what: str
    ) -> None:
        site.delete(*DELETIONS[what](site))
        site.driver.leftovers.clear()
        stop(site)
        assert site.driver.leftovers.is_set()
        site.host.reconciler(interval=-1).repair()
        left = [row["external_ids"] for row in site.host.northbound.rows("DHCP_Options", "external_ids")]
        assert not [ids for ids in left if "ovn-docker:endpoint" in ids]

    def test_a_port_with_allowed_addresses_is_made_again(self, site: Site, container: Container) -> None:
        """The claims of allowed addresses are shared with other endpoints."""
        allowed = allowed_addresses("10.1.0.200,10.1.0.201")
        wanted = Endpoint(C2, FOO, (ip_interface("10.1.0.50/24"),), MAC, allowed=allowed)
        site.host.run(wanted, container)
        site.host.docker.endpoints.add(C2)
        site.host.reconciler(interval=-1).repair(store_too=False)
        before = site.rows
        shared_claim = claim_row(SWITCH, "10.1.0.201")
        for deleted in (everything(site), [ovsdb.delete("DHCP_Options", is_row(shared_claim))]):
            site.delete(*deleted)
            site.host.reconciler(interval=-1).repair(store_too=False)
            after = site.rows
            forget_life(before, after)
            assert before["Logical_Switch_Port"] == after["Logical_Switch_Port"]
            ids = {row["_uuid"]: row["external_ids"] for row in after["DHCP_Options"]}
            assert f"ovn-docker:allowed-to {C2}" in ids[shared_claim]
            assert f"ovn-docker:allowed-to {C2}" in ids[claim_row(SWITCH, "10.1.0.200")]

    def test_mode_report_logs_gaps_only(self, site: Site, caplog: pytest.LogCaptureFixture) -> None:
        site.delete(*DELETIONS["lease"](site))
        before = site.rows
        reconciler = site.host.reconciler(interval=0.1, mode=RepairMode.REPORT)
        reconciler.start(Threads())
        until(lambda: "found lease" in caplog.text)
        assert site.rows == before
        assert "container web-c1 needs it; make it again with: ovn-docker gc --repair" in caplog.text

    def test_the_thread_repairs_within_an_interval(self, site: Site) -> None:
        site.host.reconciler(interval=0.2).start(Threads())
        before = site.rows
        site.delete(*DELETIONS["port"](site))
        until(lambda: row_uuid("endpoint", C1) in str(site.rows["Logical_Switch"]))
        until(lambda: without_times(site.rows) == before)

    def test_records_are_made_from_docker_and_rows_of_an_earlier_version(self, site: Site) -> None:
        forget_records(site)
        site.host.docker.details = described(site)
        before = site.rows
        reconciler = site.host.reconciler(interval=-1)
        reconciler.keep_records()
        site.delete(*DELETIONS["port"](site), *DELETIONS["pool"](site), *DELETIONS["lease"](site))
        reconciler.repair(store_too=False)
        assert site.rows == before

    def test_records_are_made_from_docker_without_rows(self, site: Site) -> None:
        """The record lacks the pool, because Docker's API does not return its ID."""
        forget_records(site)
        site.host.docker.details = described(site)
        before = site.rows
        site.delete(*everything(site))
        reconciler = site.host.reconciler(interval=-1)
        reconciler.keep_records()
        reconciler.repair(store_too=False)
        after = site.rows
        forget_life(before, after)
        assert after["Logical_Switch_Port"] == before["Logical_Switch_Port"]
        assert after["Logical_Switch"] == before["Logical_Switch"]
        assert after["DNS"] == before["DNS"]

    def test_a_record_of_a_network_that_docker_does_not_have_is_deleted(self, site: Site) -> None:
        site.host.docker.networks.discard(FOO)
        site.host.reconciler(interval=-1).keep_records()
        assert site.host.vswitch.records(Deadline(5)) == {}

    def test_an_invalid_record_is_ignored(self, site: Site) -> None:
        for text in ("", "no JSON", "[]", '{"ids": {"a": 1}, "name": "", "switch": "", "pools": {}}'):
            site.host.vswitch.keep(FOO, text, Deadline(5))
            assert site.host.reconciler(interval=-1).repair(store_too=False) == []


def attach(site: Site, container: Container) -> Host:
    """Start a container on a network with a switch of the user's."""
    host = site.host
    host.northbound.insert("Logical_Switch", name="web")
    attached = replace(NETWORK, id=BAR, options=NetworkOptions(switch="web"))
    host.driver().create_network(attached)
    host.run(endpoint(C2, network=BAR), container)
    host.docker.networks.add(BAR)
    host.docker.endpoints.add(C2)
    host.reconciler(interval=-1).repair(store_too=False)  # its container's name
    return host


def forget_records(site: Site) -> None:
    """Delete the records, as if an earlier version of the driver had made all rows."""
    site.host.open_vswitch.transact(
        ovsdb.delete("Queue"),
        ovsdb.mutate("Interface", mutations=[["external_ids", "delete", ["ovn-docker:record"]]]),
    )


def described(site: Site) -> tuple[list[Network], list[Endpoint]]:
    """Return the networks and endpoints of the site as Docker describes them."""
    address = ip_interface(f"{site.address}/24")
    return [site.network], [Endpoint(C1, FOO, (address,), "02:42:0a:01:00:02")]


class TestNewOwners:
    """Rows that another host has got meanwhile stay."""

    def test_a_container_whose_address_has_another_owner_is_named(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        forget_host(site)
        site.host.overlay(HOST2).create_network(
            replace(site.network, id=BAR, subnets=unpooled(site)), Deadline(5)
        )
        other = Endpoint(C2, BAR, (ip_interface(f"{site.address}/24"),), MAC)
        site.host.overlay(HOST2).create_endpoint(other, Deadline(5))
        reconciler = site.host.reconciler(interval=-1)
        reconciler.repair(store_too=False)
        (one,) = reconciler.differences(store_too=False)
        assert (one.kind, one.what, one.command) == (
            Kind.CLAIM,
            site.address,
            ("docker", "restart", "web-c1"),
        )
        assert one.why == f"container web-c1 has it, and so has endpoint {C2[:12]} on host host2 by now"
        assert "docker restart web-c1" in caplog.text
        ports = site.host.northbound.rows("Logical_Switch_Port", "external_ids")
        assert [
            one["external_ids"].get("ovn-docker:endpoint")
            for one in ports
            if "ovn-docker:endpoint" in one["external_ids"]
        ] == [C2]

    def test_an_address_leased_to_another_host_is_not_taken(self, site: Site) -> None:
        site.delete(*DELETIONS["port"](site), *DELETIONS["claim of the address"](site))
        lease = is_row(lease_row(SWITCH, site.address))
        (row,) = (one for one in site.host.northbound.rows("DHCP_Options") if one["_uuid"] == lease[2][1])
        theirs = row["external_ids"] | {"ovn-docker:host": "host2"}
        site.delete(ovsdb.update("DHCP_Options", lease, external_ids=theirs))
        before = site.rows
        assert site.host.reconciler(interval=-1).repair(store_too=False) == []
        assert site.rows == before

    def test_a_claim_whose_port_is_gone_is_taken_over(self, site: Site) -> None:
        """A living owner of the claim would have made its port again already."""
        site.delete(*DELETIONS["port"](site))
        claim = is_row(claim_row(SWITCH, site.address))
        ids = {"ovn-docker:owner": "overlay", "ovn-docker:endpoint": C2, "ovn-docker:host": "host2"}
        site.delete(ovsdb.update("DHCP_Options", claim, external_ids=ids))
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.host.reconciler(interval=-1).differences(store_too=False) == []

    def test_a_network_that_was_removed_while_this_host_was_forgotten_stays_removed(self, site: Site) -> None:
        stop(site)
        forget_host(site)
        site.delete(ovsdb.delete("Logical_Switch", is_row(SWITCH)))
        before = site.rows
        reconciler = site.host.reconciler(interval=-1)
        assert reconciler.repair(store_too=False) == []
        assert site.rows == before
        (one,) = reconciler.differences(store_too=False)
        assert (one.kind, one.command) == (Kind.NETWORK, ("docker", "network", "rm", FOO[:12]))

    def test_a_removed_network_with_a_container_is_made_again(self, site: Site) -> None:
        stop(site)
        site.host.docker.needed.add(FOO)
        forget_host(site)
        site.delete(ovsdb.delete("Logical_Switch", is_row(SWITCH)))
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.host.reconciler(interval=-1).differences(store_too=False) == []
        site.ipam.request_address(site.pool, None, gateway=False)

    def test_another_network_of_the_same_name_stays(self, site: Site) -> None:
        forget_host(site)
        site.delete(*everything(site))
        other = (Subnet(ip_network("10.9.0.0/24"), ip_address("10.9.0.1")),)
        site.host.overlay(HOST2).create_network(replace(site.network, id=BAR, subnets=other), Deadline(5))
        before = site.rows
        reconciler = site.host.reconciler(interval=-1)
        assert reconciler.repair(store_too=False) == []
        assert site.rows == before
        (one,) = reconciler.differences(store_too=False)
        assert one.why == "network foo of the cluster has other subnets or options by now"
        assert one.command == ("docker", "network", "rm", FOO[:12])


def unpooled(site: Site) -> tuple[Subnet, ...]:
    """Return the subnets of the site's network as with Docker's own IPAM."""
    return tuple(replace(subnet, ours=False) for subnet in site.network.subnets)


def forget_host(site: Site) -> None:
    """Delete the rows of host1, as ``ovn-docker gc --host host1`` does on another host."""
    forget(site.host.database, "host1", belongings(site.host.database, "host1", Deadline(5)), Deadline(5))


def stop(site: Site) -> None:
    """Make the calls of ``docker stop``."""
    site.driver.leave(C1)
    site.driver.delete_endpoint(C1)
    site.ipam.release_address(site.pool, ip_address(site.address))
    site.host.docker.endpoints.discard(C1)


class TestAfterOvsdbClientRestore:
    """Every row has another UUID."""

    def test_rows_get_their_uuids_back(self, site: Site) -> None:
        before = site.rows
        restore(site.host.northbound)
        assert site.rows != before
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.rows == before
        assert site.host.reconciler(interval=-1).differences() == []

    def test_rows_of_other_hosts_get_their_uuids_back(self, site: Site) -> None:
        site.host.overlay(HOST2).create_network(
            replace(site.network, id=BAR, subnets=unpooled(site)), Deadline(5)
        )
        site.host.overlay(HOST2).create_endpoint(
            endpoint(C2, "10.1.0.77/24", mac=MAC, network=BAR), Deadline(5)
        )
        site.host.overlay(HOST2).create_network(NETWORK, Deadline(5))
        before = site.rows
        restore(site.host.northbound)
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.rows == before

    def test_rows_on_a_users_switch_get_their_uuids_back(self, site: Site, container: Container) -> None:
        host = attach(site, container)
        host.northbound.transact(
            ovsdb.insert("Logical_Switch_Port", "11111111-1111-1111-1111-111111111111", name="vm1"),
            ovsdb.mutate("Logical_Switch", ["name", "==", "web"], mutations=[
                ["ports", "insert", [Reference("11111111-1111-1111-1111-111111111111")]]]),
        )  # fmt: skip
        restore(host.northbound)
        host.reconciler(interval=-1).repair(store_too=False)
        (row,) = (one for one in host.northbound.rows("Logical_Switch") if one["name"] == "web")
        assert row_uuid("endpoint", C2) in row["ports"]
        assert len(row["ports"]) == 2
        assert host.reconciler(interval=-1).differences(store_too=False) == []

    @pytest.mark.parametrize("what", ["switch", "port", "resolver's place on the switch"])
    def test_rows_deleted_before_the_repair_of_uuids_are_made_again(self, site: Site, what: str) -> None:
        before = site.rows
        restore(site.host.northbound)
        if what == "switch":
            site.delete(ovsdb.delete("Logical_Switch", ["name", "==", "foo"]))
        else:
            name = C1 if what == "port" else f"resolver-{SWITCH}-peer"
            ports = site.host.northbound.rows("Logical_Switch_Port", "_uuid", "name")
            (port,) = (Reference(one["_uuid"]) for one in ports if one["name"] == name)
            site.delete(ovsdb.mutate("Logical_Switch", mutations=[["ports", "delete", [port]]]))
        site.host.reconciler(interval=-1).repair(store_too=False)
        after = site.rows
        forget_life(before, after)
        assert after == before
        assert site.host.reconciler(interval=-1).differences() == []

    def test_settings_of_ports_and_switches_stay(self, site: Site) -> None:
        northbound = site.host.northbound
        northbound.transact(
            ovsdb.update("Logical_Switch", is_row(SWITCH), other_config={"mcast_snoop": "true"}),
            ovsdb.update("Logical_Switch_Port", is_row(PORT), options={"qos_max_rate": "1000"}),
            {"op": "insert", "table": "Port_Group", "row": {"name": "pg", "ports": ["uuid", PORT]}},
            {"op": "insert", "table": "ACL", "uuid-name": "acl",
             "row": {"direction": "to-lport", "match": "ip4", "action": "allow", "priority": 1}},
            {"op": "mutate", "table": "Logical_Switch", "where": [is_row(SWITCH)],
             "mutations": [["acls", "insert", ["set", [["named-uuid", "acl"]]]]]},
        )  # fmt: skip
        restore(northbound)
        site.host.reconciler(interval=-1).repair(store_too=False)
        (port,) = (one for one in northbound.rows("Logical_Switch_Port") if one["_uuid"] == PORT)
        (switch,) = (one for one in northbound.rows("Logical_Switch") if one["_uuid"] == SWITCH)
        (group,) = northbound.rows("Port_Group")
        assert port["options"] == {"qos_max_rate": "1000"}
        assert switch["other_config"] == {"mcast_snoop": "true"}
        assert switch["acls"] == northbound.rows("ACL")[0]["_uuid"]
        assert group["ports"] == PORT

    def test_ports_exist_after_each_transaction_of_the_repair(self, site: Site) -> None:
        """A client that watches the table sees the port's name after each transaction."""
        restore(site.host.northbound)
        names = watch(site.host.northbound, "Logical_Switch_Port", "name")
        site.host.reconciler(interval=-1).repair(store_too=False)
        states = names()
        assert all(C1 in seen for seen in states), states

    def test_one_host_repairs_the_uuids_of_all_rows(self, site: Site, connect: Connect) -> None:
        restore(site.host.northbound)
        before = site.rows
        with connect(site.host.northbound).lock("ovn_docker", Deadline(5)) as own:
            assert own
            assert site.host.reconciler(interval=-1).repair(store_too=False) == []
        assert site.rows == before

    def test_a_row_with_the_right_uuid_is_not_replaced(self, site: Site) -> None:
        """A hostile host cannot replace a row by writing one with another UUID."""
        ids = {"ovn-docker:owner": "overlay", "ovn-docker:endpoint": C1, "ovn-docker:host": "host1"}
        wrong = ids | {"ovn-docker:network": NET}
        site.host.driver().create_network(NETWORK)
        before = site.rows
        site.delete(
            ovsdb.insert("Logical_Switch_Port", "22222222-2222-2222-2222-222222222222", name="x",
                         addresses="02:00:00:00:00:66 10.1.0.66", external_ids=ids),
            ovsdb.insert("Logical_Switch", "33333333-3333-3333-3333-333333333333", name=NET,
                         external_ids=wrong, ports=Reference("22222222-2222-2222-2222-222222222222")),
            *DELETIONS["lease"](site),
        )  # fmt: skip
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.rows == before

    @pytest.mark.parametrize("said", [{"ovn-docker:type": "nonsense"}, {"ovn-docker:owner": "another"}])
    def test_resolver_with_a_forged_port_does_not_prevent_the_repair_of_uuids(
        self, site: Site, said: dict[str, str]
    ) -> None:
        before = site.rows
        restore(site.host.northbound)
        name, port = f"resolver-{row_uuid('forged')}", "44444444-4444-4444-4444-444444444444"
        ours = {"ovn-docker:owner": "overlay"}
        site.delete(
            ovsdb.insert("Logical_Router_Port", port, name=name, mac="0a:00:00:00:00:01",
                         networks="10.9.0.1/24", external_ids=ours | said),
            ovsdb.insert("Logical_Router", "55555555-5555-5555-5555-555555555555", name=name,
                         ports=Reference(port), external_ids=ours),
        )  # fmt: skip
        site.host.reconciler(interval=-1).repair(store_too=False)
        after = site.rows
        assert [row for row in before["Logical_Switch"] if row not in after["Logical_Switch"]] == []
        assert site.host.reconciler(interval=-1).differences(store_too=False) == []


def restore(server: OvsdbServer) -> None:
    """Run ``ovsdb-client backup`` and ``ovsdb-client restore``."""
    of = server.remote, server.database
    with tempfile.TemporaryFile() as file:
        subprocess.run(["ovsdb-client", "backup", *of], stdout=file, check=True)
        file.seek(0)
        subprocess.run(["ovsdb-client", "restore", *of], stdin=file, check=True)


def watch(server: OvsdbServer, table: str, column: str) -> Callable[[], list[set[str]]]:
    """Collect the values of a column after each transaction from now on."""
    command = ["ovsdb-client", "--format=json", "monitor", server.remote, server.database, table, column]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    lines = [process.stdout.readline()]

    def seen() -> list[set[str]]:
        marker = f"marker-{time.monotonic_ns()}"
        server.transact(
            {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": "p", "row": {"name": marker}},
            {"op": "insert", "table": "Logical_Switch", "row": {"ports": ["named-uuid", "p"]}},
        )
        assert process.stdout
        while marker.encode() not in lines[-1]:
            lines.append(process.stdout.readline())
        process.kill()
        process.kill()
        process.wait()
        process.stdout.close()
        rows: dict[str, str] = {}
        states = []
        for line in lines:
            for uuid, action, value in json.loads(line)["data"]:
                if action in {"delete", "old"}:
                    rows.pop(uuid, None)
                else:
                    rows[uuid] = value
            states.append(set(rows.values()))
        return states

    return seen


def forget_life(*contents: Contents) -> None:
    """Remove what the follower writes later, and the random incarnation."""
    for row in (row for one in contents for rows in one.values() for row in rows):
        for key in ("ovn-docker:incarnation", "ovn-docker:definition", "ovn-docker:used"):
            row.get("external_ids", {}).pop(key, None)
