"""The diagnosis that follows from findings: causes hide their consequences for the same subject."""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ovn_docker.doctor.check_endpoints import port_security
from ovn_docker.doctor.check_host import docker_dns
from ovn_docker.doctor.checks import CHECKS, UNDERLAY
from ovn_docker.doctor.diagnosis import Check, Facts, Finding, NotChecked, Severity, examine
from ovn_docker.draw.layout import picture
from ovn_docker.draw.svg import svg
from ovn_docker.host.kernel.links import Held
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.machine import Machine
from ovn_docker.inspect.probes import Probes
from ovn_docker.inspect.snapshot import Encap, Scope, Snapshot
from ovn_docker.trace import packet_path
from unit.clusters import cluster

FACTS = Facts(ClusterView(Snapshot(time.time(), "host1", Scope.NETWORKS, (), ())), Probes())


def check(name: str, *depends_on: str, finds: Iterable[Finding] = (), fails: str = "") -> Check:
    def run(_: Facts) -> Iterable[Finding]:
        if fails:
            raise NotChecked(fails)
        return finds

    return Check(name, "", depends_on, run)


def finding(subject: str = "", severity: Severity = Severity.FAIL) -> Finding:
    return Finding("wrong", "mend it", subject=subject, severity=severity)


def outcome(*checks: Check) -> dict[str, tuple[str, list[str]]]:
    results = examine(FACTS, checks)
    return {r.check.name: (r.status, [f.subject for f in r.findings] or r.because.split()) for r in results}


def test_consequence_is_skipped_and_names_the_first_cause() -> None:
    assert outcome(
        check("a", finds=[finding()]),
        check("b", "a", finds=[finding()]),
        check("c", "b", finds=[finding()]),
        check("d", finds=[]),
    ) == {"a": ("fail", [""]), "b": ("skipped", ["a"]), "c": ("skipped", ["a"]), "d": ("ok", [])}


def test_finding_about_a_host_hides_only_findings_about_that_host() -> None:
    assert outcome(
        check("a", finds=[finding("host2")]),
        check("b", "a", finds=[finding("host2"), finding("host3")]),
        check("c", "b", finds=[finding("host2"), finding("host3"), finding("host4")]),
    ) == {"a": ("fail", ["host2"]), "b": ("fail", ["host3"]), "c": ("fail", ["host4"])}


def test_warning_does_not_hide_other_findings() -> None:
    assert outcome(
        check("a", finds=[finding(severity=Severity.WARN), finding("x", Severity.WARN)]),
        check("b", "a", finds=[finding("x")]),
    ) == {"a": ("warn", ["", "x"]), "b": ("fail", ["x"])}


def test_unknown_check_has_its_reason() -> None:
    assert outcome(check("a", fails="nobody knows")) == {"a": ("unknown", ["nobody", "knows"])}


@pytest.mark.parametrize("table", [CHECKS, UNDERLAY], ids=["overlay", "underlay"])
def test_checks_depend_on_earlier_ones_and_are_described(table: Sequence[Check]) -> None:
    names = [one.name for one in table]
    assert len(set(names)) == len(names)
    for number, one in enumerate(table):
        assert set(one.depends_on) <= set(names[:number]), one.name
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", one.name)
        assert re.fullmatch(r"([A-Z]|ov[ns]-).*\.", one.about), one.name


def test_empty_machine_has_few_findings() -> None:
    """Checks on a machine without running daemons raise no exception and report only causes."""
    why = dict.fromkeys(("docker", "driver", "vswitch", "northbound", "southbound"), "it is not there")
    empty = Snapshot(time.time(), "host1", Scope.NETWORKS, (), (), missing=why)
    results = examine(Facts(ClusterView(empty), Probes()), CHECKS)
    found = [result.check.name for result in results if result.findings]
    assert found == ["docker", "driver", "vswitch"]


@pytest.mark.parametrize(
    ("dns", "warns"),
    [
        ((), False),
        (("169.254.53.1", "169.254.53.2"), True),
        (("169.254.53.1", "169.254.53.2", "10.0.0.53"), False),
    ],
)
def test_dns_of_docker_needs_another_server_than_ovns(dns: tuple[str, ...], *, warns: bool) -> None:
    findings = list(docker_dns(Facts(FACTS.cluster, Probes(machine=Machine(dns=dns)))))
    assert [finding.severity for finding in findings] == [Severity.WARN] * warns


def test_every_check_is_in_the_documentation() -> None:
    guide = Path(__file__).parents[2].joinpath("docs/troubleshooting.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \| (.*) \|$", guide, re.MULTILINE)
    assert rows == [
        (one.name, one.about.rstrip("."), ", ".join(one.depends_on) or "-") for one in (*CHECKS, *UNDERLAY)
    ]


@pytest.mark.parametrize("word", ["", " ", "\u00b2", "\u0663", "9" * 5000, "dynamic", "/", "::/\u00b2"])
def test_rows_of_other_hosts_never_raise(word: str) -> None:
    """Every host can write any text into OVN's databases. A superscript is a digit for Python."""
    seen = cluster(3, 20).snapshot
    assert seen.northbound
    assert seen.southbound
    keys = ("created", "mtu", "network", "host")
    nonsense = {f"ovn-docker:{key}": word for key in keys} | {"subnet": word, "subnet6": word}
    ports = [
        replace(port, addresses=(word,), port_security=(word,), ids={**port.ids, **nonsense})
        for port in seen.northbound.ports
    ]
    switches = [replace(switch, ids={**switch.ids, **nonsense}) for switch in seen.northbound.switches]
    here, *others = seen.southbound.chassis
    chassis = [here, *(replace(row, encaps=(Encap(word, word),)) for row in others)]
    chassis[1] = replace(chassis[1], hostname=word)
    found = ClusterView(
        replace(
            seen,
            northbound=replace(seen.northbound, ports=tuple(ports), switches=tuple(switches)),
            southbound=replace(seen.southbound, chassis=tuple(chassis)),
        )
    )
    assert len(examine(Facts(found, Probes()), CHECKS)) == len(CHECKS)
    assert svg(picture(found)).count('class="container"') == len(found.endpoints)
    for one in filter(lambda one: one.addresses, found.endpoints):
        assert packet_path.follow(found, one, one, "icmp", None, None).hops


def test_dropped_address_is_found_with_the_option_that_allows_it() -> None:
    seen = cluster(1, 20)
    one, other = list(seen.docker.values())[:2]
    northbound = seen.snapshot.northbound
    assert northbound
    ports = tuple(replace(port, port_security=port.addresses) for port in northbound.ports)
    seen = ClusterView(replace(seen.snapshot, northbound=replace(northbound, ports=ports)))
    held = {
        one.id: (Held("eth0", one.mac, (*one.addresses, "10.10.0.100", "fe80::1")),
                 Held("vrrp", "00:00:5e:00:01:0a", ("10.10.0.101",)), Held("quiet", "02:00:00:00:00:01", ())),
        other.id: (Held("eth0", other.mac, other.addresses),),
    }  # fmt: skip
    own, virtual = port_security(Facts(seen, Probes(held=held)))
    assert (own.subject, virtual.subject) == (one.id, one.id)
    assert f"has 10.10.0.100 with MAC {one.mac} on its eth0, but port security allows" in own.evidence
    assert ",driver-opt=ovn.allowed-addresses=10.10.0.100, or create the network with" in own.cure
    assert "ovn.allowed-addresses=00:00:5e:00:01:0a/10.10.0.101" in virtual.cure
    assert list(port_security(Facts(cluster(1, 20), Probes(held=held)))) == []  # port security is off
