"""`ovn-docker doctor`: for each fault it names only the cause, and the cure repairs it."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.lab import Fabric, Host, LabError, wait_for
from e2e.lab.services import Daemon
from ovn_docker.host.ovsdb import Operation, Reference, insert, is_row, mutate
from ovn_docker.model import EndpointId, host_link, row_uuid

Doctor = dict[str, Any]


class FaultLab:
    """Three hosts with a container each, on a shared network; the first is also the central machine."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.hosts = self.central, self.host2, self.host3 = fabric.cluster("host1", "host2", "host3")
        for host in self.hosts:
            host.path("/etc/openvswitch").mkdir(exist_ok=True)
            host.path("/etc/openvswitch/system-id.conf").write_text(f"{host.name}\n")
            host.driver.start(
                "--sweep-interval=3600"
            )  # or a sweep repairs the fault before the doctor finds it
        create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch")
        self.central.docker(*create, "--subnet=10.1.0.0/24", "-o", "ovn.network=foo", "foo")
        for number, host in enumerate(self.hosts, start=1):
            wait_for(lambda host=host: "foo" in host.docker("network", "ls"), "the network")
            run(host, "foo", f"web{number}")

    def on(self, where: str, host: Host) -> Host:
        """Return the host that a cure names, by name or address."""
        return next((h for h in self.hosts if where in (h.name, h.address)), host)


def restart_driver(host: Host, *options: str) -> None:
    stop_driver(host)
    host.driver.start("--sweep-interval=3600", *options)


def stop_driver(host: Host) -> None:
    """Stop the lab's driver, or the one that a cure has started, which sweeps every minute."""
    host.driver.stop()
    Daemon(host, *host.driver.argv, runs_as="/run/openvswitch/ovn-docker-overlay-driver").stop()


def delete_guard(host: Host) -> None:
    """Delete the guard of the links while the driver does not restore it for an hour."""
    guard = ("nft", "delete", "table", "netdev", "ovn-docker")
    host.run(*guard)
    restart_driver(host)
    wait_for(lambda: "netdev ovn-docker" in host.run("nft", "list", "tables"), "the driver's first sweep")
    host.run(*guard)


def run(host: Host, network: str, name: str) -> None:
    host.docker(
        "run", "-d", f"--net={network}", f"--name={name}", "--stop-signal=KILL", "busybox", "sleep", "9999"
    )


def doctor(host: Host, *options: str) -> tuple[int, list[Doctor]]:
    """Return exit code and results of the doctor on a host."""
    command = shlex.join(("ovn-docker", "doctor", "--json", *options))
    said = host.run("sh", "-c", f"{command}; echo $?", timeout=90)
    report, _, code = said.rpartition("\n")
    return int(code), json.loads(report)


def found(results: list[Doctor]) -> dict[str, list[Doctor]]:
    """Return the checks with findings."""
    return {result["name"]: result["findings"] for result in results if result["findings"]}


def vsctl(host: Host, *command: str) -> str:
    return host.run("ovs-vsctl", "--timeout=25", *command)


def setting(host: Host, key: str, value: str = "") -> None:
    if value:
        vsctl(host, "set", "Open_vSwitch", ".", f'external_ids:{key}="{value}"')
    else:
        vsctl(host, "remove", "Open_vSwitch", ".", "external_ids", key)


def endpoint(host: Host, container: str = "") -> str:
    """Return the ID of the endpoint of a host's container on `foo`."""
    name = container or f"web{host.name[-1]}"
    return host.docker("inspect", '--format={{(index .NetworkSettings.Networks "foo").EndpointID}}', name)


def link(host: Host) -> str:
    return f"odh{endpoint(host)[:12]}"


def address(host: Host) -> str:
    return host.docker(
        "inspect", '--format={{(index .NetworkSettings.Networks "foo").IPAddress}}', f"web{host.name[-1]}"
    )


def in_container(host: Host, *command: str) -> None:
    """Run a command of the host in the network namespace of its container."""
    pid = host.docker("inspect", "--format={{.State.Pid}}", f"web{host.name[-1]}")
    host.run("nsenter", f"--net=/proc/{pid}/ns/net", *command)


def nbctl(lab: FaultLab, *command: str) -> str:
    return lab.central.run("ovn-nbctl", "--timeout=25", "--wait=sb", *command)


def clone_system_id(lab: FaultLab) -> None:
    """Give host3 the system-id of host2, as a cloned machine has it."""
    lab.host3.controller.stop()
    setting(lab.host3, "system-id", "host2")
    lab.host3.controller.start()


def named_again(lab: FaultLab) -> None:
    """Give host2 and host3 their system-ids back."""
    for host in (lab.host2, lab.host3):
        host.controller.stop()
    for host in (lab.host2, lab.host3):
        setting(host, "system-id", host.name)
        host.controller.start()


def by_tls(lab: FaultLab, days: int) -> None:
    """Connect host2 to the northbound database by TLS, with a certificate valid for *days*."""
    files = {host.name: pki(host, days if host is lab.host2 else 1) for host in (lab.central, lab.host2)}
    authorities = [lab.central, lab.host2]
    texts = [host.path(f"{files[host.name]}/cert.pem").read_text() for host in authorities]
    for host in authorities:
        host.path(f"{files[host.name]}/ca.pem").write_text("".join(texts))
    pem = [f"/etc/tls/{name}.pem" for name in ("key", "cert", "ca")]
    nbctl(lab, "set-ssl", *pem)
    nbctl(lab, "set-connection", "ptcp:6641", "pssl:6643")
    vsctl(lab.host2, "set-ssl", *pem)
    setting(lab.host2, "ovn-nb", f"ssl:{lab.central.address}:6643")


def pki(host: Host, days: int) -> str:
    """Make a key and a self-signed certificate with *days* of 90 left; return their directory."""
    until = ("-days", "90")
    faketime = ("faketime", f"{days - 90} days") if days < 90 else ()
    host.run("mkdir", "-p", "/etc/tls")
    host.run(
        *(
            *faketime,
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            f"/CN={host.name}",
            "-addext",
            f"subjectAltName=IP:{host.address}",
        ),
        *("-keyout", "/etc/tls/key.pem", "-out", "/etc/tls/cert.pem", *until),
    )
    return "/etc/tls"


def renew(lab: FaultLab) -> None:
    by_tls(lab, days=90)


def without_tls(lab: FaultLab) -> None:
    setting(lab.host2, "ovn-nb", f"tcp:{lab.central.address}:6641")


def skew(host: Host) -> None:
    """Run ovn-controller with a clock that is 5050 s ahead: the doctor sees less, as it reads it later."""
    host.controller.stop()
    library = next(host.path("/usr/lib").glob("*/faketime/libfaketime.so.1")).name
    path = next(p for p in host.run("sh", "-c", f"ls /usr/lib/*/faketime/{library}").split())
    host.controller.start(env={"LD_PRELOAD": path, "FAKETIME": "+5050", "DONT_FAKE_MONOTONIC": "1"})


def restart(host: Host) -> None:
    host.controller.stop()
    host.controller.start()


def drop_tunnels(host: Host, *, drop: bool) -> None:
    """Drop tunnel packets on the host: with iptables, or in user space on its bridge."""
    rule = "priority=100,udp,tp_dst=6081"
    if host.fabric.userspace:
        command = (
            ("add-flow", "breth1", f"{rule},actions=drop")
            if drop
            else ("--strict", "del-flows", "breth1", rule)
        )
        host.run("ovs-ofctl", *command)
    else:
        host.run("iptables", "-A" if drop else "-D", "INPUT", "-p", "udp", "--dport", "6081", "-j", "DROP")


def path_mtu(lab: FaultLab, mtu: int) -> None:
    lab.fabric.run("ip", "link", "set", "dev", lab.host3.ports[1], "mtu", str(mtu))


def management(lab: FaultLab, host: Host, state: str) -> None:
    lab.fabric.run("bridge", "link", "set", "dev", host.ports[0], "state", state)


def tunnels(lab: FaultLab, host: Host, state: str) -> None:
    lab.fabric.run("bridge", "link", "set", "dev", host.ports[1], "state", state)


def start_docker(host: Host) -> None:
    host.dockerd.start()
    host.docker("start", f"web{host.name[-1]}")


def lose_network(lab: FaultLab) -> None:
    network = lab.host2.docker("network", "create", "-d", "openvswitch", "--subnet=10.9.0.0/24", "lost")
    nbctl(lab, "ls-del", network)


def large_network(lab: FaultLab) -> None:
    """Make a network whose MTU is larger than that of the tunnels' interface."""
    create = ("network", "create", "-d", "openvswitch", "--subnet=10.8.0.0/24", "large")
    network = lab.host2.docker(*create)
    nbctl(lab, "set", "Logical_Switch", network, 'external_ids:"ovn-docker:mtu"="1500"')
    run(lab.host2, "large", "big")


def small_network(lab: FaultLab) -> None:
    lab.host2.docker("rm", "--force", "big")
    lab.host2.docker("network", "rm", "large")


def remove_everywhere(lab: FaultLab) -> None:
    """Remove a network in the cluster that a running container keeps on host2."""
    create = (
        "network",
        "create",
        "-d",
        "openvswitch",
        "--subnet=10.8.0.0/24",
        "-o",
        "ovn.network=goes",
        "goes",
    )
    lab.host2.docker(*create)
    run(lab.host2, "goes", "last")
    lab.central.run("ovn-docker", "network", "rm", "goes", "--yes", "--force")


def stop_last(lab: FaultLab) -> None:
    lab.host2.docker("rm", "--force", "last")
    wait_for(lambda: "goes" not in lab.host2.docker("network", "ls"), "the network to go")


def by_hand(addresses: str) -> tuple[str, ...]:
    """Return the command that sets addresses without the check of lsp-set-addresses for duplicates."""
    return ("set", "Logical_Switch_Port", "hand", f'addresses="{addresses}"')


def delete_port(lab: FaultLab) -> None:
    """Delete the logical port of host2's container while the driver only reports what is missing."""
    restart_driver(lab.host2, "--repair=report")
    nbctl(lab, "lsp-del", endpoint(lab.host2))


def leave_things(lab: FaultLab) -> None:
    """Make the leftovers of a crash: a port in Open vSwitch with its link, and a logical port of this host.

    The driver here only reports leftovers; the driver that a cure starts removes them within a minute.
    """
    restart_driver(lab.host2, "--repair=report")
    plugged, stored = EndpointId("ab" * 32), EndpointId("cd" * 32)
    name, (port, interface) = host_link(plugged), (row_uuid(kind, plugged) for kind in ("port", "interface"))
    lab.host2.run("ip", "link", "add", name, "type", "veth", "peer", "odcstray")
    transact(
        lab.host2,
        "Open_vSwitch",
        insert("Interface", interface, name=name,
               external_ids=ours(owner="ovn-docker", endpoint=plugged, created="1")),
        insert("Port", port, name=name, interfaces=Reference(interface)),
        mutate("Bridge", ["name", "==", "br-int"], mutations=[["ports", "insert", [Reference(port)]]]),
    )  # fmt: skip
    switch = nbctl(lab, "--bare", "--columns=_uuid", "find", "Logical_Switch", "name=foo")
    row = row_uuid("endpoint", stored)
    ids = ours(owner="overlay", host="host2", endpoint=stored, switch=switch, created="1")
    transact(
        lab.central,
        "OVN_Northbound",
        insert("Logical_Switch_Port", row, name=stored, addresses="02:00:00:00:00:99 10.1.0.99",
               external_ids=ids),
        mutate("Logical_Switch", is_row(switch), mutations=[["ports", "insert", [Reference(row)]]]),
    )  # fmt: skip


def transact(host: Host, database: str, *operations: Operation) -> None:
    """Run operations with explicit UUIDs, which neither ovs-vsctl nor ovn-nbctl can."""
    socket = "ovn/ovnnb_db" if database == "OVN_Northbound" else "openvswitch/db"
    host.run("ovsdb-client", "transact", f"unix:/run/{socket}.sock", json.dumps([database, *operations]))


def ours(**ids: str) -> dict[str, str]:
    return {f"ovn-docker:{key}": value for key, value in ids.items()}


def write(host: Host, path: str, text: str) -> None:
    host.run("mkdir", "-p", path.rpartition("/")[0])
    host.path(path).write_text(text)


@dataclass(frozen=True)
class Fault:
    """A fault, the host on which the doctor is run, and the only check that finds the fault.

    *cure* follows the text of a cure without commands; *instead* replaces commands of the cure that need
    something that the lab lacks (systemd, Open vSwitch's kernel module); *after* repairs the lab.
    """

    name: str
    make: Callable[[FaultLab], object]
    check: str
    asked: int = 1
    evidence: str = ""
    cure: Callable[[FaultLab], object] = lambda _: None
    instead: bool = False
    after: Callable[[FaultLab], object] = lambda _: None


FAULTS = [
    Fault(
        "docker-stopped",
        lambda w: w.host3.dockerd.stop(),
        "docker",
        2,
        "does not answer",
        lambda w: start_docker(w.host3),
        instead=True,
    ),
    Fault(
        "nft-is-missing",
        lambda w: (w.host2.run("mv", "/usr/sbin/nft", "/root/nft"), restart_driver(w.host2)),
        "barrier",
        evidence="nft is not installed",
        cure=lambda w: w.host2.run("mv", "/root/nft", "/usr/sbin/nft"),
        instead=True,
    ),
    Fault(
        "no-barrier",
        lambda w: restart_driver(w.central, "--barrier=off"),
        "barrier",
        0,
        evidence="container web1 on network foo reaches",
        cure=lambda w: restart_driver(w.central),
    ),
    Fault(
        "docker-asks-the-container-itself-for-names",
        lambda w: write(w.host2, "/etc/docker/daemon.json", '{"dns": ["127.0.0.1"]}'),
        "docker-dns",
        evidence="127.0.0.1",
        cure=lambda w: w.host2.run("rm", "/etc/docker/daemon.json"),
    ),
    Fault(
        "old-driver",
        lambda w: write(w.host2, "/etc/docker/plugins/openvswitch.spec", "tcp://127.0.0.1:5000"),
        "old-driver",
        evidence="openvswitch.spec",
    ),
    Fault("driver-killed", lambda w: w.host3.driver.kill(), "driver", 2, "does not answer"),
    Fault(
        "vswitchd-killed",
        lambda w: w.host3.vswitchd.kill(),
        "vswitchd",
        2,
        "does not run",
        lambda w: w.host3.vswitchd.start(),
        instead=True,
    ),
    Fault("no-system-id", lambda w: setting(w.host2, "system-id"), "system-id", evidence="system-id"),
    Fault("no-ovn-nb", lambda w: setting(w.host2, "ovn-nb"), "ovn-nb", evidence="does not have ovn-nb"),
    Fault(
        "malformed-ovn-nb",
        lambda w: setting(w.host2, "ovn-nb", "172.31.0.1"),
        "ovn-nb",
        evidence="'172.31.0.1'",
    ),
    Fault("no-ovn-remote", lambda w: setting(w.host2, "ovn-remote"), "ovn-remote"),
    Fault("malformed-ovn-remote", lambda w: setting(w.host2, "ovn-remote", "tcp:172.31.0.1"), "ovn-remote"),
    Fault("no-encap-ip", lambda w: setting(w.host2, "ovn-encap-ip"), "encap-ip", evidence="does not have"),
    Fault(
        "wrong-encap-ip",
        lambda w: setting(w.host2, "ovn-encap-ip", "10.99.0.1"),
        "encap-ip",
        evidence="10.99.0.1",
    ),
    Fault("no-encap-type", lambda w: setting(w.host2, "ovn-encap-type"), "encap-type"),
    Fault(
        "unusable-encap-type",
        lambda w: setting(w.host2, "ovn-encap-type", "stt"),
        "encap-type",
        evidence="stt",
    ),
    Fault(
        "certificate-expired",
        lambda w: by_tls(w, days=-1),
        "tls",
        evidence="expired",
        cure=renew,
        after=without_tls,
    ),
    Fault(
        "certificate-expires-soon",
        lambda w: by_tls(w, days=5),
        "tls",
        evidence="expires in",
        cure=renew,
        after=without_tls,
    ),
    Fault(
        "central-unreachable",
        lambda w: management(w, w.host2, "0"),
        "central",
        evidence="OVN's databases do not answer",
        cure=lambda w: management(w, w.host2, "3"),
        instead=True,
    ),
    Fault(
        "northbound-killed", lambda w: w.central.northbound.kill(), "northbound", evidence="OVN_Northbound"
    ),
    Fault(
        "southbound-killed", lambda w: w.central.southbound.kill(), "southbound", evidence="OVN_Southbound"
    ),
    Fault("northd-killed", lambda w: w.central.northd.kill(), "northd", evidence="ovn-northd"),
    Fault("controller-killed", lambda w: w.host2.controller.kill(), "controller", evidence="ovn-controller"),
    Fault(
        "controller-of-another-host-killed",
        lambda w: w.host3.controller.kill(),
        "hosts-answer",
        evidence="host3",
    ),
    Fault(
        "another-host-stopped",
        lambda w: w.host3.controller.stop(),
        "hosts-answer",
        evidence="host3 has been stopped",
    ),
    Fault(
        "two-hosts-with-one-system-id",
        clone_system_id,
        "system-id-unique",
        evidence="host2 (172.31.1.2), host3",
        after=named_again,
    ),
    Fault(
        "clock-wrong",
        lambda w: skew(w.host3),
        "clocks",
        evidence="the clock of host3 is 50",
        cure=lambda w: restart(w.host3),
    ),
    Fault(
        "tunnel-network-cut",
        lambda w: tunnels(w, w.host3, "0"),
        "hosts-reachable",
        evidence="172.31.1.3",
        cure=lambda w: tunnels(w, w.host3, "3"),
    ),
    Fault(
        "tunnel-port-firewalled",
        lambda w: drop_tunnels(w.host3, drop=True),
        "tunnel-traffic",
        evidence="UDP port 6081",
        cure=lambda w: drop_tunnels(w.host3, drop=False),
    ),
    Fault(
        "path-mtu-too-small",
        lambda w: path_mtu(w, 1400),
        "path-mtu",
        evidence="only up to 1400",
        cure=lambda w: path_mtu(w, 1500),
    ),
    Fault("network-mtu-too-large", large_network, "network-mtu", evidence="carry 1442", cure=small_network),
    Fault("network-on-its-way-out", remove_everywhere, "networks-removed", evidence="goes", cure=stop_last),
    Fault("network-deleted-in-ovn", lose_network, "networks-stored", evidence="network lost"),
    Fault(
        "link-down", lambda w: w.host2.run("ip", "link", "set", link(w.host2), "down"), "containers-linked"
    ),
    Fault(
        "port-disabled", lambda w: nbctl(w, "lsp-set-enabled", endpoint(w.host2), "disabled"), "ports-enabled"
    ),
    Fault(
        "wrong-port-security",
        lambda w: nbctl(w, "lsp-set-port-security", endpoint(w.host2), "02:00:00:00:00:01 10.1.0.77"),
        "port-addresses",
        evidence="port security",
    ),
    Fault(
        "wrong-iface-id",
        lambda w: vsctl(w.host2, "set", "Interface", link(w.host2), "external_ids:iface-id=other"),
        "flows-installed",
        evidence="iface-id is other",
    ),
    Fault(
        "checksum-offload-on",
        lambda w: in_container(w.host2, "ethtool", "-K", "eth0", "tx", "on"),
        "checksums",
    ),
    Fault(
        # The barrier's tables stay: if they are deleted, the driver restores all before the doctor reads.
        "guard-of-links-deleted",
        lambda w: delete_guard(w.host2),
        "routers-guarded",
        evidence="any container",
        cure=lambda w: restart_driver(w.host2),
    ),
    Fault(
        "address-twice",
        lambda w: nbctl(w, "lsp-add", "foo", "hand", "--", *by_hand(f"02:00:00:00:00:01 {address(w.host2)}")),
        "addresses-unique",
        evidence="hand (not made by ovn-docker)",
    ),
    Fault(
        "port-deleted-in-ovn",
        delete_port,
        "containers-stored",
        after=lambda w: w.host2.run(
            "ovn-docker", "gc", "--repair"
        ),  # the addresses that were deleted with the port
    ),
    Fault("bridge-deleted", lambda w: vsctl(w.host3, "del-br", "br-int"), "containers-plugged", 2),
    Fault(
        "link-deleted",
        lambda w: w.central.run("ip", "link", "delete", link(w.central)),
        "containers-linked",
        0,
    ),
    Fault("leftovers", leave_things, "leftovers", evidence="no container that Docker knows"),
]


@pytest.fixture(scope="module")
def lab(module_fabric: Fabric) -> FaultLab:
    return FaultLab(module_fabric)


def diagnosis(host: Host, wanted: Callable[[int, list[Doctor]], bool], what: str) -> list[Doctor]:
    """Return the results once they are as expected: faults and repairs take a moment to show."""
    last: list[Doctor] = []

    def arrived() -> bool:
        code, results = doctor(host)
        last[:] = results
        return wanted(code, results)

    try:
        wait_for(arrived, what)
    except LabError as error:
        raise AssertionError(f"{what}: {found(last)}") from error
    return last


def healthy(host: Host) -> list[Doctor]:
    return diagnosis(host, lambda code, results: code == 0 and not found(results), "health")


def test_healthy_cluster_has_no_findings(lab: FaultLab) -> None:
    for host in lab.hosts:
        results = healthy(host)
        assert {result["status"] for result in results} == {"ok"}
    said = lab.host2.run("ovn-docker", "doctor")
    assert said == f"{len(results)} checks: {len(results)} found nothing"


def test_fix_applies_safe_cures(lab: FaultLab) -> None:
    host = lab.host2
    host.controller.kill()
    host.run("ip", "link", "set", link(host), "down")
    said = host.run("sh", "-c", "ovn-docker doctor --fix 2>&1; echo $?", timeout=120).splitlines()
    assert said[0] == "fix: ovn-docker host start"
    assert f"fix: ip link set {link(host)} up" in said
    assert said[-1] == "0", said


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_cause_is_named_and_its_cure_works(lab: FaultLab, fault: Fault) -> None:
    host = lab.hosts[fault.asked]
    fault.make(lab)

    def named(code: int, results: list[Doctor]) -> bool:
        return code == 1 and list(found(results)) == [fault.check]

    findings = found(diagnosis(host, named, f"{fault.check} alone"))[fault.check]
    assert any(fault.evidence in finding["evidence"] for finding in findings), findings
    assert all(finding["cure"] for finding in findings)

    if not fault.instead:
        for finding in findings:
            for command in finding["commands"]:
                lab.on(finding["where"], host).run(*command, timeout=60)
    fault.cure(lab)
    fault.after(lab)
    healthy(host)
