"""Rows that containers need and that are missing are made again, by the host that has the containers."""

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
from ovn_docker.backends import dns
from ovn_docker.backends.addresses import Addresses, lease_row
from ovn_docker.backends.dns import Names
from ovn_docker.backends.forget import belongings, forget
from ovn_docker.backends.northbound import QUIET_TABLE, claim_row, name_row
from ovn_docker.backends.shared import GENERATION_ROW, WATCHED_ROW, SharedNetworks, note_row
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.errors import BadRequest, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Operation, Reference, is_row
from ovn_docker.hostnames import ContainerNames
from ovn_docker.ipam import Ipam
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
from ovn_docker.reconcile import Mode
from ovn_docker.threads import Threads

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
        self.ipam = Ipam(
            Addresses(lambda _: host.database), host.vswitch.chassis, list, (), lambda _, __: (), 5
        )
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
        for key in ("ovn-docker:claim", "ovn-docker:picked", "ovn-docker:generation", "ovn-docker:cleared"):
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
    "watched row": lambda _: [ovsdb.delete(QUIET_TABLE, is_row(WATCHED_ROW))],
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
        site.host.reconciler(interval=-1).repair(store_too=False)
        after = site.rows
        if what in {"everything", "note", "switch"}:  # a life of its own, and no definition yet
            forget_life(before, after)
        assert after == before
        assert site.host.reconciler(interval=-1).look() == []

    def test_many_rows_at_once(self, site: Site) -> None:
        before = site.rows
        for what in ("switch", "lease", "pool", "note", "claim of the name", "resolver"):
            site.delete(*DELETIONS[what](site))
        site.host.reconciler(interval=-1).repair(store_too=False)
        after = site.rows
        forget_life(before, after)
        assert after == before

    def test_what_docker_does_not_have_stays_away(self, site: Site) -> None:
        site.delete(*DELETIONS["port"](site))
        site.host.docker.endpoints.clear()
        assert site.host.reconciler(interval=-1).repair(store_too=False) == []

    def test_nothing_without_an_answer_of_docker_s(self, site: Site) -> None:
        site.delete(*DELETIONS["port"](site))
        site.host.docker.answers = False
        before = site.rows
        with pytest.raises(Unavailable, match="Docker does not answer"):
            site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.rows == before

    def test_what_is_left_over_is_cleared_also_while_the_database_is_away(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ovn_docker.reconcile._PATIENCE", 0.3)
        links = site.host.links
        links.create_veth("odhstray", "odcstray", mac=MAC, mtu=1400, tx_checksums=True)
        site.host.northbound.kill()
        assert [one.kind for one in site.host.reconciler().repair(store_too=False)] == [Kind.LINK]

    def test_a_network_of_this_host_alone(self, site: Site, container: Container) -> None:
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

    def test_a_note_of_a_switch_of_the_user_s(self, site: Site, container: Container) -> None:
        host = attach(site, container)
        before = site.rows
        site.delete(*options_row(lambda _: note_row(BAR))(site))
        host.reconciler(interval=-1).repair(store_too=False)
        assert site.rows == before

    def test_what_was_on_a_switch_of_the_user_s_that_was_made_anew(
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
        assert host.reconciler(interval=-1).look(store_too=False) == []

    def test_a_container_without_addresses_has_no_names_to_miss(
        self, site: Site, container: Container
    ) -> None:
        """Docker's IPAM driver ``null`` gives none."""
        site.host.run(Endpoint(C2, FOO, (), MAC), container)
        site.host.docker.endpoints.add(C2)
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.host.reconciler(interval=-1).look(store_too=False) == []

    def test_a_container_that_docker_deletes_in_this_moment_leaves_nothing(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its link has gone, and DeleteEndpoint has found no port, just before the port is made again."""
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
    def test_what_a_deletion_by_hand_leaves_of_a_container_is_looked_for_when_it_stops(
        self, site: Site, what: str
    ) -> None:
        site.delete(*DELETIONS[what](site))
        site.driver.leftovers.clear()
        stop(site)
        assert site.driver.leftovers.is_set()
        site.host.reconciler(interval=-1).repair()
        left = [row["external_ids"] for row in site.host.northbound.rows("DHCP_Options", "external_ids")]
        assert not [ids for ids in left if "ovn-docker:endpoint" in ids]

    def test_a_port_that_may_use_more_addresses(self, site: Site, container: Container) -> None:
        """Its claims of these are shared with other endpoints."""
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

    def test_in_mode_report_it_is_only_told(self, site: Site, caplog: pytest.LogCaptureFixture) -> None:
        site.delete(*DELETIONS["lease"](site))
        before = site.rows
        reconciler = site.host.reconciler(interval=0.1, mode=Mode.REPORT)
        reconciler.start(Threads())
        until(lambda: "found lease" in caplog.text)
        assert site.rows == before
        assert "container web-c1 needs it; make it again with: ovn-docker gc --repair" in caplog.text

    def test_by_the_thread_within_an_interval(self, site: Site) -> None:
        site.host.reconciler(interval=0.2).start(Threads())
        before = site.rows
        site.delete(*DELETIONS["port"](site))
        until(lambda: row_uuid("endpoint", C1) in str(site.rows["Logical_Switch"]))
        until(lambda: without_times(site.rows) == before)

    def test_from_what_docker_says_if_an_earlier_version_kept_no_records(self, site: Site) -> None:
        forget_records(site)
        site.host.docker.details = described(site)
        before = site.rows
        reconciler = site.host.reconciler(interval=-1)
        reconciler.keep_records()
        site.delete(*DELETIONS["port"](site), *DELETIONS["pool"](site), *DELETIONS["lease"](site))
        reconciler.repair(store_too=False)
        assert site.rows == before

    def test_from_what_docker_says_if_the_rows_are_gone_too(self, site: Site) -> None:
        """All but the pool: Docker does not tell its ID."""
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

    def test_a_record_of_a_network_that_docker_does_not_have_goes(self, site: Site) -> None:
        site.host.docker.networks.discard(FOO)
        site.host.reconciler(interval=-1).keep_records()
        assert site.host.vswitch.records(Deadline(5)) == {}

    def test_a_record_that_is_not_valid_does_no_harm(self, site: Site) -> None:
        for text in ("", "no JSON", "[]", '{"ids": {"a": 1}, "name": "", "switch": "", "pools": {}}'):
            site.host.vswitch.keep(FOO, text, Deadline(5))
            assert site.host.reconciler(interval=-1).repair(store_too=False) == []


def attach(site: Site, container: Container) -> Host:
    """Have a container on a network with a switch of the user's."""
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
    """As if an earlier version of the driver had made everything."""
    site.host.open_vswitch.transact(
        ovsdb.delete("Queue"),
        ovsdb.mutate("Interface", mutations=[["external_ids", "delete", ["ovn-docker:record"]]]),
    )


def described(site: Site) -> tuple[list[Network], list[Endpoint]]:
    """What Docker says of the site."""
    address = ip_interface(f"{site.address}/24")
    return [site.network], [Endpoint(C1, FOO, (address,), "02:42:0a:01:00:02")]


class TestNewOwners:
    """What another host was given meanwhile stays its own."""

    def test_a_container_whose_address_has_another_owner_is_named(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        forget_host(site)
        site.host.overlay.create_network(
            replace(site.network, id=BAR, subnets=unpooled(site)), HOST2, Deadline(5)
        )
        other = Endpoint(C2, BAR, (ip_interface(f"{site.address}/24"),), MAC)
        site.host.overlay.create_endpoint(other, HOST2, Deadline(5))
        reconciler = site.host.reconciler(interval=-1)
        reconciler.repair(store_too=False)
        (one,) = reconciler.look(store_too=False)
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

    def test_an_address_that_is_leased_to_another_host_is_left_to_it(self, site: Site) -> None:
        site.delete(*DELETIONS["port"](site), *DELETIONS["claim of the address"](site))
        lease = is_row(lease_row(SWITCH, site.address))
        (row,) = (one for one in site.host.northbound.rows("DHCP_Options") if one["_uuid"] == lease[2][1])
        theirs = row["external_ids"] | {"ovn-docker:host": "host2"}
        site.delete(ovsdb.update("DHCP_Options", lease, external_ids=theirs))
        before = site.rows
        assert site.host.reconciler(interval=-1).repair(store_too=False) == []
        assert site.rows == before

    def test_a_claim_whose_port_is_gone_is_taken_over(self, site: Site) -> None:
        """Its owner has the same right to it, and would have made its port again first."""
        site.delete(*DELETIONS["port"](site))
        claim = is_row(claim_row(SWITCH, site.address))
        ids = {"ovn-docker:owner": "overlay", "ovn-docker:endpoint": C2, "ovn-docker:host": "host2"}
        site.delete(ovsdb.update("DHCP_Options", claim, external_ids=ids))
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.host.reconciler(interval=-1).look(store_too=False) == []

    def test_a_network_that_was_removed_while_this_host_was_forgotten_stays_removed(self, site: Site) -> None:
        stop(site)
        forget_host(site)
        site.delete(ovsdb.delete("Logical_Switch", is_row(SWITCH)))
        before = site.rows
        reconciler = site.host.reconciler(interval=-1)
        assert reconciler.repair(store_too=False) == []
        assert site.rows == before
        (one,) = reconciler.look(store_too=False)
        assert (one.kind, one.command) == (Kind.NETWORK, ("docker", "network", "rm", FOO[:12]))

    def test_it_is_made_again_if_a_container_belongs_to_it(self, site: Site) -> None:
        stop(site)
        site.host.docker.needed.add(FOO)
        forget_host(site)
        site.delete(ovsdb.delete("Logical_Switch", is_row(SWITCH)))
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.host.reconciler(interval=-1).look(store_too=False) == []
        site.ipam.request_address(site.pool, None, gateway=False)

    def test_a_network_that_is_another_one_by_now_stays_as_it_is(self, site: Site) -> None:
        forget_host(site)
        site.delete(*everything(site))
        other = (Subnet(ip_network("10.9.0.0/24"), ip_address("10.9.0.1")),)
        site.host.overlay.create_network(replace(site.network, id=BAR, subnets=other), HOST2, Deadline(5))
        before = site.rows
        reconciler = site.host.reconciler(interval=-1)
        assert reconciler.repair(store_too=False) == []
        assert site.rows == before
        (one,) = reconciler.look(store_too=False)
        assert one.why == "network foo of the cluster has other subnets or options by now"
        assert one.command == ("docker", "network", "rm", FOO[:12])


def unpooled(site: Site) -> tuple[Subnet, ...]:
    """The subnets of the site's network with Docker's own IPAM."""
    return tuple(replace(subnet, ours=False) for subnet in site.network.subnets)


def forget_host(site: Site) -> None:
    """``ovn-docker gc --host host1`` on another host."""
    forget(site.host.database, "host1", belongings(site.host.database, "host1", Deadline(5)), Deadline(5))


def stop(site: Site) -> None:
    """``docker stop``."""
    site.driver.leave(FOO, C1)
    site.driver.delete_endpoint(FOO, C1)
    site.ipam.release_address(site.pool, ip_address(site.address))
    site.host.docker.endpoints.discard(C1)


class TestAfterOvsdbClientRestore:
    """Every row has another UUID."""

    def test_rows_are_as_they_were(self, site: Site) -> None:
        before = site.rows
        restore(site.host.northbound)
        assert site.rows != before
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.rows == before
        assert site.host.reconciler(interval=-1).look() == []

    def test_rows_of_other_hosts_are_led_back_too(self, site: Site) -> None:
        site.host.overlay.create_network(
            replace(site.network, id=BAR, subnets=unpooled(site)), HOST2, Deadline(5)
        )
        site.host.overlay.create_endpoint(
            endpoint(C2, "10.1.0.77/24", mac=MAC, network=BAR), HOST2, Deadline(5)
        )
        site.host.overlay.create_network(NETWORK, HOST2, Deadline(5))
        before = site.rows
        restore(site.host.northbound)
        site.host.reconciler(interval=-1).repair(store_too=False)
        assert site.rows == before

    def test_what_is_on_a_switch_of_the_user_s(self, site: Site, container: Container) -> None:
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
        assert host.reconciler(interval=-1).look(store_too=False) == []

    @pytest.mark.parametrize("what", ["switch", "port", "resolver's place on the switch"])
    def test_what_is_deleted_by_hand_before_the_rows_are_led_back(self, site: Site, what: str) -> None:
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
        assert site.host.reconciler(interval=-1).look() == []

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

    def test_ports_never_vanish(self, site: Site) -> None:
        """In no transaction: a client that watches the table sees the port's name at any time."""
        restore(site.host.northbound)
        names = watch(site.host.northbound, "Logical_Switch_Port", "name")
        site.host.reconciler(interval=-1).repair(store_too=False)
        states = names()
        assert all(C1 in seen for seen in states), states

    def test_one_host_does_it_for_all(self, site: Site, connect: Connect) -> None:
        restore(site.host.northbound)
        before = site.rows
        with connect(site.host.northbound).lock("ovn_docker", Deadline(5)) as mine:
            assert mine
            assert site.host.reconciler(interval=-1).repair(store_too=False) == []
        assert site.rows == before

    def test_a_row_with_the_right_uuid_is_not_replaced(self, site: Site) -> None:
        """A host that writes rows with wrong UUIDs gains nothing."""
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


def restore(server: OvsdbServer) -> None:
    """``ovsdb-client backup`` and ``ovsdb-client restore``."""
    of = server.remote, server.database
    with tempfile.TemporaryFile() as file:
        subprocess.run(["ovsdb-client", "backup", *of], stdout=file, check=True)
        file.seek(0)
        subprocess.run(["ovsdb-client", "restore", *of], stdin=file, check=True)


def watch(server: OvsdbServer, table: str, column: str) -> Callable[[], list[set[str]]]:
    """The values of a column after each transaction from now on."""
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
    """Without what a network has only once the follower has written it, and its random incarnation."""
    for row in (row for one in contents for rows in one.values() for row in rows):
        for key in ("ovn-docker:incarnation", "ovn-docker:definition", "ovn-docker:used"):
            row.get("external_ids", {}).pop(key, None)
