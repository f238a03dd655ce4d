"""OVN's databases on three machines, set up with our own commands: members die, are cut off, lose disks.

Each docker command meanwhile succeeds, or fails completely with one line, by its deadline.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from e2e.cluster import cut_off
from e2e.lab import CommandError, Fabric, Host, wait_for
from e2e.lab.fabric import PKI
from e2e.lab.host import TLS

pytestmark = pytest.mark.faults

DEADLINE = 15
"""Time limit of a call of Docker in seconds; a docker command makes several calls."""

Hosts = tuple[Host, Host, Host]


@pytest.fixture(scope="module")
def members(module_fabric: Fabric) -> Hosts:
    """Three hosts, each with the databases and with containers, and the network `foo` on all."""
    hosts = host1, host2, host3 = module_fabric.cluster("host1", "host2", "host3", raft=True)
    for host in hosts:
        host.driver.start(
            "--sweep-interval=25"
        )  # the time that a container has to start: Join may wait for flows
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "--subnet=10.1.0.0/16")
    host1.docker(*create, "-o", "ovn.network=foo", "foo")
    for host in hosts:
        wait_for(lambda host=host: "foo" in host.docker("network", "ls"), f"foo on {host.name}")  # type: ignore[misc]
    return host1, host2, host3


@pytest.fixture
def hosts(members: Hosts) -> Iterator[Hosts]:
    """The members, all healthy; afterwards checks that the test left nothing."""
    yield members
    for host in members:
        if containers := host.docker("ps", "--all", "--quiet").split():
            host.docker("rm", "--force", *containers)
    wait_for(lambda: leftovers(members) == [], f"order: {leftovers(members)}", timeout=180)
    for host in members:
        wait_for(lambda host=host: healthy(host), f"{host.name} to be at work")  # type: ignore[misc]


def healthy(host: Host) -> bool:
    return host.run("ovn-docker", "central", "status", check=False).count("follower") == 4


def nb(host: Host, *argv: str) -> str:
    """Run ovn-nbctl with the addresses of all members, so that it finds the leader."""
    return host.run("ovn-nbctl", "--timeout=60", "--no-leader-only", *argv, timeout=70)


def leftovers(hosts: Hosts) -> list[str]:
    """Return the parts of containers, in the database and on the hosts."""
    found = [
        f"port {name}"
        for name in nb(hosts[0], "--bare", "--columns=name", "list", "Logical_Switch_Port").split()
        if "resolver" not in name
    ]
    rows = nb(hosts[0], "--format=json", "--columns=cidr,external_ids", "list", "DHCP_Options")
    for cidr, ids in json.loads(rows)["data"]:
        if "ovn-docker:endpoint" in str(ids):
            found.append(f"claim {cidr}")
    for host in hosts:
        found += [f"{host.name} {port}" for port in host.run("ovs-vsctl", "list-ports", "br-int").split()
                  if port.startswith("odh")]  # fmt: skip
    return found


def leader(hosts: Sequence[Host]) -> Host:
    """Return the host of the northbound leader, after an election if there is one."""

    def leading() -> Host | None:
        up = (host for host in hosts if host.northbound.pid)
        return next((host for host in up if "Leader: self" in status(host)), None)

    return wait_for(leading, "a leader")


def status(host: Host, database: str = "northbound") -> str:
    service = host.northbound if database == "northbound" else host.southbound
    return service.appctl("cluster/status", f"OVN_{database.title()}")


def run(host: Host, name: str) -> str:
    """Start a container; return its address."""
    host.docker("run", "-d", "--net=foo", f"--name={name}", "--stop-signal=KILL", "busybox", "sleep", "3600")
    return host.docker("inspect", "--format={{.NetworkSettings.Networks.foo.IPAddress}}", name)


Outcome = tuple[Host, str, str, float]
"""Host, container, its address or the error, and seconds that it took."""


@contextmanager
def commands_in_flight(hosts: Hosts) -> Iterator[list[Outcome]]:
    """Start containers on all hosts, one after the other, from before the block until after it."""
    outcomes: list[Outcome] = []
    going = True

    def work(host: Host) -> None:
        number = 0
        while going or number < 3:
            number += 1
            name, begin = f"{host.name}-{number}", time.monotonic()
            try:
                result = run(host, name)
            except CommandError as error:
                result = error.stderr
                host.docker("rm", "--force", name)
            outcomes.append((host, name, result, time.monotonic() - begin))

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(work, host) for host in hosts]
        wait_for(lambda: len(outcomes) >= 2, "the first containers")
        try:
            yield outcomes
        finally:
            going = False
        for one in working:
            one.result()


def has_failed(result: str) -> bool:
    """Return whether a command's result is an error, not an address."""
    return not re.fullmatch(r"[\d.]+", result)


def check(outcomes: list[Outcome], may_fail: Callable[[Host], bool] = lambda _: False) -> None:
    """Assert that each command succeeded, or failed where it may, by its deadline and with the reason."""
    for host, name, result, seconds in outcomes:
        assert seconds < 3 * DEADLINE, f"{name} took {seconds:.0f} s: {result}"
        if has_failed(result):
            assert may_fail(host), f"{name}: {result}"
            assert re.search(r"OVN_Northbound|no leader|ovn-controller", result), f"{name}: {result}"
    addresses = [result for _, _, result, _ in outcomes if not has_failed(result)]
    assert len(set(addresses)) == len(addresses)


def everybody_reaches(hosts: Hosts, outcomes: list[Outcome]) -> None:
    """Assert that the last container of each host reaches those of the others."""
    nb(leader(hosts), "--wait=hv", "sync")
    last = {host: (name, ip) for host, name, ip, _ in outcomes if not has_failed(ip)}
    for host, (name, _) in last.items():
        for other, (_, address) in last.items():
            if other is not host:
                host.ping(name, address)


def test_cluster_survives_a_killed_leader(hosts: Hosts) -> None:
    """Commands succeed, with a delay of some seconds."""
    with commands_in_flight(hosts) as outcomes:
        first = leader(hosts)
        first.northbound.kill()
        assert leader(hosts) is not first
        before = len(outcomes)
        wait_for(lambda: len(outcomes) > before + 3, "commands that began without the member")
        said = first.start_member()
    assert "start the northbound database" in said
    check(outcomes)
    everybody_reaches(hosts, outcomes)


def test_cluster_survives_a_member_that_is_cut_off(hosts: Hosts) -> None:
    """Commands on its host fail, those on the others succeed, whether the member was the leader or not."""
    cut = leader(hosts)
    with commands_in_flight(hosts) as outcomes:
        with cut_off(cut):
            leader([host for host in hosts if host is not cut])
            wait_for(
                lambda: any(host is cut and has_failed(said) for host, _, said, _ in outcomes), "a failure"
            )
        wait_for(lambda: healthy(cut), "the member to be back")
    check(outcomes, lambda host: host is cut)
    everybody_reaches(hosts, outcomes)


def test_member_rejoins_after_it_lost_its_disk(hosts: Hosts) -> None:
    """The command that made the member makes it again, and its earlier identity leaves the cluster."""
    with commands_in_flight(hosts) as outcomes:
        lost = hosts[1]
        for service in (lost.northd, lost.northbound, lost.southbound):
            service.kill()
        lost.run("sh", "-c", "rm -rf /var/lib/ovn/* /etc/default/ovn-central")
        said = lost.start_member()
    assert said.count("remove the former member of this machine from the cluster") == 2
    for database in ("northbound", "southbound"):
        wait_for(lambda db=database: status(lost, db).count(" at ssl:") == 3, "three members")  # type: ignore[misc]
    assert lost.start_member() == "nothing to change"
    check(outcomes)
    everybody_reaches(hosts, outcomes)


def test_calls_without_a_majority_end_and_leave_no_leftovers(hosts: Hosts) -> None:
    host1, host2, host3 = hosts
    run(host1, "before")
    for host in (host2, host3):
        host.northbound.kill()
    begin = time.monotonic()
    with pytest.raises(CommandError, match=r"OVN_Northbound has no leader among|did not answer|cannot reach"):
        run(host1, "late")
    assert time.monotonic() - begin < 3 * DEADLINE
    host1.docker("rm", "--force", "late")
    assert "has no leader" in host1.run("ovn-docker", "central", "status", check=False)
    for host in (host2, host3):
        host.start_member()
    leader(hosts)
    run(host1, "after")


def test_making_a_second_cluster_is_refused(hosts: Hosts) -> None:
    lost = hosts[2]
    for service in (lost.northd, lost.northbound, lost.southbound):
        service.kill()
    lost.run("sh", "-c", "rm -rf /var/lib/ovn/*")
    with pytest.raises(CommandError, match="has a cluster already; leave --create out to join it"):
        lost.start_member("--create")
    lost.start_member()


def test_host_cannot_change_another_chassis(hosts: Hosts) -> None:
    """The host uses its own certificate, with which it works in all other tests of this module."""
    host1, host2, _ = hosts
    files = [f"--{name}={TLS}/{file}.pem" for name, file in PEM.items()]
    remotes = ",".join(f"ssl:{host.address}:6642" for host in hosts)
    sbctl = ("ovn-sbctl", "--timeout=25", f"--db={remotes}", *files)
    host1.run(*sbctl, "set", "Chassis", "host1", "external_ids:mine=yes")
    for command in (
        ("set", "Chassis", "host2", "external_ids:mine=yes"),
        ("chassis-del", "host2"),
        ("set-connection", "ptcp:6642"),
        ("set", "SB_Global", ".", "nb_cfg=7777"),
    ):
        with pytest.raises(CommandError, match="permission error"):
            host1.run(*sbctl, *command)
    assert "mine" not in host2.run(*sbctl, "get", "Chassis", "host2", "external_ids")


def test_host_certificate_does_not_admit_a_database_member(hosts: Hosts) -> None:
    """The driver and OVN's own programs refuse it."""
    host1, host2, _ = hosts
    host1.run("ovn-docker", "pki", "host", "rogue", f"--directory={PKI}")
    host1.run("ovsdb-tool", "create", "/tmp/rogue.db", "/usr/share/ovn/ovn-nb.ovsschema")
    host1.spawn(
        *("ovsdb-server", "/tmp/rogue.db", "--remote=pssl:7777", "--unixctl=/tmp/rogue.ctl"),
        *(f"--{name}={PKI}/rogue/{file}.pem" for name, file in PEM.items()),
    )
    wait_for(lambda: ":7777" in host1.run("ss", "-Hltn"), "the rogue server")
    files = [f"--{name}={TLS}/{file}.pem" for name, file in PEM.items()]
    nbctl = ("ovn-nbctl", "--timeout=10", f"--db=ssl:{host1.address}:7777", *files, "show")
    with pytest.raises(CommandError, match="certificate verify failed"):
        host2.run(*nbctl)
    host2.driver.stop()
    setting = ("ovs-vsctl", "set", "Open_vSwitch", ".")
    remotes = host2.run("ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids:ovn-nb")
    host2.run(
        *setting, f'external_ids:ovn-nb="ssl:{host1.address}:7777"', "external_ids:ovn-docker-tls-names=off"
    )
    host2.driver.start()
    with pytest.raises(CommandError, match="unsuitable certificate purpose"):
        host2.docker("network", "create", "-d", "openvswitch", "bar")
    host2.run(*setting, f"external_ids:ovn-nb={remotes}")
    host2.run("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "ovn-docker-tls-names")
    host2.docker("network", "create", "-d", "openvswitch", "bar")
    host2.docker("network", "rm", "bar")


PEM = {"private-key": "key", "certificate": "cert", "ca-cert": "ca"}
