"""The commands of the doctor's cures work, and findings name their subjects."""

import argparse
import shlex
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from ovn_docker.cli import ls
from ovn_docker.cli.main import make_parser
from ovn_docker.definition import switch_row
from ovn_docker.doctor import check_cluster, check_endpoints, check_host
from ovn_docker.doctor.diagnosis import Facts, Finding, Severity
from ovn_docker.host.kernel.links import Link
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.echoes import HostPath, Pair
from ovn_docker.inspect.machine import CertificateFile, read_machine
from ovn_docker.inspect.probes import Probes
from ovn_docker.inspect.snapshot import DockerNetwork, Encap, SharedRow, Snapshot, SwitchRow
from ovn_docker.inspect.sync import Sync
from ovn_docker.model import Obstacle, Occupied, Problem, Report, SharedNetwork
from unit.clusters import cluster


def facts(seen: ClusterView, probes: Probes | None = None, **changed: object) -> Facts:
    snapshot: Snapshot = replace(seen.snapshot, **changed)  # type: ignore[arg-type]
    return Facts(ClusterView(snapshot), probes or Probes())


def parsed(command: tuple[str, ...]) -> argparse.Namespace:
    program, *argv = command
    assert program == "ovn-docker"
    return make_parser(argv[:1]).parse_args(argv)


def test_cure_moves_an_interface_into_a_bridge_with_its_addresses() -> None:
    seen = cluster(2, 0)
    assert seen.snapshot.vswitch
    ids = {"system-id": "host1", "ovn-bridge-datapath-type": "netdev", "ovn-encap-ip": "10.0.0.1"}
    (found,) = check_host.tunnel_interface(
        facts(
            seen,
            vswitch=replace(seen.snapshot.vswitch, ids=ids),
            links=(Link("eth0", 1500, up=True, carrier=True, addresses=("10.0.0.1",)),),
        )
    )
    (command,) = found.commands
    args = parsed(command)
    assert (args.interface, args.bridge, args.datapath) == ("eth0", "breth0", "netdev")


def test_missing_apparmor_parser_names_its_package(tmp_path: Path) -> None:
    enabled = tmp_path / "sys/module/apparmor/parameters/enabled"
    profiles = tmp_path / "sys/kernel/security/apparmor/profiles"
    parser = tmp_path / "usr/sbin/apparmor_parser"
    for file in (enabled, profiles, parser):
        file.parent.mkdir(parents=True)

    def found() -> list[Finding]:
        return list(check_host.docker_apparmor(facts(cluster(1, 0), Probes(machine=read_machine(tmp_path)))))

    assert found() == []
    enabled.write_text("N\n")
    assert found() == []
    enabled.write_text("Y\n")
    (finding,) = found()
    assert finding.commands == (("apt-get", "install", "apparmor"),)
    profiles.write_text("docker-default (enforce)\n")
    assert found() == []
    profiles.unlink()
    parser.touch()
    assert found() == []


def test_ports_with_times_in_the_future_name_their_host() -> None:
    seen = cluster(2, 20)
    ports = seen.snapshot.northbound.ports if seen.snapshot.northbound else ()
    assert {port.host for port in ports} == {"host1", "host2"}
    northbound = replace(
        seen.snapshot.northbound,  # type: ignore[type-var]
        ports=tuple(
            replace(port, ids={**port.ids, "ovn-docker:created": f"{seen.snapshot.taken + ahead:.0f}"})
            for port, ahead in zip(ports, (0, 3, 3600, 60, *[0] * len(ports)), strict=False)
        ),
    )
    changed = ClusterView(replace(seen.snapshot, northbound=northbound))
    late = {port.host for port in changed.ports.values() if (port.created or 0) > seen.snapshot.taken + 5}
    found = list(check_cluster.clock(facts(changed, Probes(sync=Sync(northd=True, ahead={}, seen={})))))
    assert {one.subject for one in found} == late != set()
    assert any("up to 3600 s in the future" in one.evidence for one in found)
    assert list(check_cluster.clock(facts(seen, Probes(sync=Sync(northd=True, ahead={}, seen={}))))) == []


def test_ports_are_too_many_for_an_ovn_northd_that_computes_all_of_them_anew() -> None:
    seen = cluster(2, 20)
    assert seen.snapshot.northbound

    def found(version: str, ports: int) -> list[Finding]:
        northbound = replace(seen.snapshot.northbound, northd=version)  # type: ignore[type-var]
        changed = ClusterView(replace(seen.snapshot, northbound=northbound))
        return list(check_cluster.northd_version(facts(changed, Probes(ports=ports))))

    (finding,) = found("23.03.1-20.27.0-70.6", 2001)
    assert finding.evidence.startswith("the cluster has 2001 ports, and ovn-northd 23.03 computes")
    assert finding.cure.startswith("install OVN 23.09 or later")
    assert finding.severity is Severity.WARN
    assert found("23.03.1-20.27.0-70.6", 2000) == []
    for version in ("23.09.0-20.27.4-72.6", "25.03.0-20.41.0-77.6", "26.03.1-21.8.0-82.14"):
        assert found(version, 100_000) == []


@pytest.mark.parametrize("version", ["", "23", "23.03", "a.b.c", "-1.03.1", "0.9", "²³.03.1", "23.03\n.1"])
def test_version_that_ovn_northd_does_not_write_is_ignored(version: str) -> None:
    """Any host can write NB_Global."""
    seen = cluster(2, 20)
    northbound = replace(seen.snapshot.northbound, northd=version)  # type: ignore[type-var]
    changed = ClusterView(replace(seen.snapshot, northbound=northbound))
    assert list(check_cluster.northd_version(facts(changed, Probes(ports=100_000)))) == []


def test_tunnel_address_is_proposed_despite_an_invalid_one_elsewhere() -> None:
    """ovn-controller writes any value of ovn-encap-ip into its row."""
    seen = cluster(3, 0)
    assert seen.snapshot.vswitch
    assert seen.snapshot.southbound
    here, other, broken = seen.snapshot.southbound.chassis
    broken = replace(broken, encaps=(Encap("geneve", "host3.example"),))
    link = Link("eth0", 1500, up=True, carrier=True, addresses=("172.31.0.1", "10.0.0.1"))
    (found,) = check_host.encap_ip(
        facts(
            seen,
            southbound=replace(seen.snapshot.southbound, chassis=(here, other, broken)),
            vswitch=replace(seen.snapshot.vswitch, ids={"system-id": "host1", "ovn-encap-ip": "10.0.0.9"}),
            links=(link,),
        )
    )
    assert found.commands == (check_host.set_external_id("ovn-encap-ip", "10.0.0.1"),)


def test_cure_deletes_the_exact_firewall_rule() -> None:
    rule = '-A INPUT -p udp -m udp --dport 6081 -m comment --comment "no tunnels here" -j DROP'
    probes = Probes(
        paths={"host2": HostPath(small=True, full=True, size=1500)},
        pairs={"host2": Pair("web", "db", small=False, full=False, size=1442)},
        firewall=(rule,),
    )
    (found,) = check_cluster.tunnel_traffic(facts(cluster(2, 0), probes))
    (command,) = found.commands
    assert shlex.join(command) == (
        "iptables -D INPUT -p udp -m udp --dport 6081 -m comment --comment 'no tunnels here' -j DROP"
    )


def test_container_with_an_unknown_name_has_no_restart_command() -> None:
    seen = cluster(2, 14)
    northbound = seen.snapshot.northbound
    assert northbound
    first, *_, last = [port for port in northbound.ports if port.switch == "switch0"]
    ports = (first, replace(last, addresses=first.addresses, ids={**last.ids, "ovn-docker:created": "1"}))
    for names, commands in (
        ({last.endpoint: "web"}, (("docker", "restart", "web"),)),
        ({}, ()),
    ):
        (found,) = check_endpoints.addresses_unique(
            facts(seen, northbound=replace(northbound, ports=ports, names=names), engine=None)
        )
        assert found.commands == commands


def test_network_named_like_an_option_is_removed_by_id() -> None:
    engine = cluster(1, 0).snapshot.engine
    assert engine
    lost = DockerNetwork("a1" * 32, "-f", ())
    (found,) = check_endpoints.networks_stored(facts(cluster(1, 0), engine=replace(engine, networks=(lost,))))
    assert found.commands == (("docker", "network", "rm", "a1" * 6),)


def test_certificate_expires_in_as_many_days_as_pki_list_shows() -> None:
    seen = cluster(1, 0)
    assert seen.snapshot.vswitch
    switch = replace(
        seen.snapshot.vswitch, ids={"ovn-nb": "ssl:10.0.0.1:6641"}, tls=("key.pem", "cert.pem", "ca.pem")
    )
    ends = seen.snapshot.taken + 29.7 * 86400
    probes = Probes(certificates=(CertificateFile("certificate", "cert.pem", ends),))
    (found,) = check_host.tls(facts(seen, probes, vswitch=switch))
    assert found.evidence == "the certificate cert.pem expires in 29 days"


def test_certificate_of_a_host_that_joined_is_reported_if_it_was_not_renewed() -> None:
    seen = cluster(1, 0)
    assert seen.snapshot.vswitch
    switch = replace(
        seen.snapshot.vswitch, ids={"ovn-nb": "ssl:10.0.0.1:6641"}, tls=("key.pem", "cert.pem", "ca.pem")
    )

    def found(left: float) -> list[Finding]:
        ends = seen.snapshot.taken + left * 86400
        file = CertificateFile("certificate", "cert.pem", ends, days=14)
        return list(check_host.tls(facts(seen, Probes(certificates=(file,)), vswitch=switch)))

    assert found(5) == []  # the driver renews it from 9 days before its end on
    (late,) = found(4.5)
    assert late.evidence == "the certificate cert.pem expires in 4 days"
    assert "the driver renews it, and its log says why it could not" in late.cure


def reporting(seen: ClusterView, *reports: Report) -> Facts:
    """Return the cluster with a shared network foo and reports of hosts about it."""
    northbound = seen.snapshot.northbound
    assert northbound
    foo = SharedRow(switch_row("foo"), SharedNetwork("foo", None, removed=False))
    switch = SwitchRow(foo.row, "foo", {"ovn-docker:name": "foo", "subnet": "10.1.0.0/16"})
    changed = replace(northbound, shared=(foo,), switches=(*northbound.switches, switch), reports=reports)
    return facts(seen, northbound=changed)


@pytest.mark.parametrize("obstacle", Obstacle)
def test_network_that_a_host_cannot_use_is_found_on_every_host(obstacle: Obstacle) -> None:
    problem = Problem("foo", obstacle, "because")
    found = reporting(cluster(3, 0), Report("host2", (), (problem,)), Report("nobody", (), (problem,)))
    (finding,) = check_endpoints.cluster_networks(found)
    assert (finding.subject, finding.where) == ("host2", "host2")
    assert finding.evidence.startswith("network foo of the cluster cannot be ")
    assert finding.evidence.endswith(" host2: because")
    assert finding.cure
    (network,) = [one for one in found.cluster.networks if one.name == "foo"]
    assert network.problems == network.differences == ("on host2: because",)
    assert ls.network_line(network)[0] == "!"
    assert not [one for one in check_endpoints.networks_stored(found) if "foo" in one.evidence]


def test_same_obstacle_on_many_hosts_is_one_finding() -> None:
    problem = Problem("foo", Obstacle.SUBNET, "because")
    reports = [Report(f"host{number}", (), (problem,)) for number in range(1, 7)]
    (finding,) = check_endpoints.cluster_networks(reporting(cluster(6, 0), *reports))
    assert finding.evidence == (
        "network foo of the cluster cannot be made on host1, host2, host3, host4 and 2 more: because"
    )
    assert finding.where == ""


def test_overlapping_docker_gwbridge_gets_a_free_subnet() -> None:
    taken = [Occupied(ip_network(text), "eth0") for text in ("192.168.0.0/20", "192.168.20.0/24")]
    bridge = Occupied(ip_network("10.0.0.0/8"), "docker_gwbridge")
    seen = cluster(2, 0)
    assert seen.snapshot.engine
    networks = (
        DockerNetwork("1" * 64, "mine", ("10.3.0.0/16",)),
        DockerNetwork("2" * 64, "apart", ("10.4.0.0/16",), internal=True),
        DockerNetwork("3" * 64, "other", ("192.168.32.0/24", "fd01::/64")),
    )
    report = Report("host1", (bridge,), (Problem("foo", Obstacle.GATEWAY, "because"),))
    found = reporting(seen, report, Report("host2", tuple(taken)))
    found = facts(found.cluster, engine=replace(seen.snapshot.engine, networks=networks))
    (finding,) = check_endpoints.gateway_bridge(found)
    assert "network mine: its subnets 10.3.0.0/16 overlap 10.0.0.0/8 (docker_gwbridge)" in finding.evidence
    remove, create = finding.commands
    assert remove == ("docker", "network", "rm", "docker_gwbridge")
    assert create[:4] == ("docker", "network", "create", "--subnet=192.168.48.0/20")
    assert create[-1] == "docker_gwbridge"
    assert list(check_endpoints.cluster_networks(found)) == []  # that of this host is reported once
