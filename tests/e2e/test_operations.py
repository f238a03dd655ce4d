"""The commands of docs/operations.md work, in the order of the page.

With ``OVN_DOCKER_DOCS=write`` the output of the commands is written into the page.
"""

import os
import re
import sys
import time
from pathlib import Path

import pytest

from e2e.cluster import lost_packets
from e2e.lab import CommandError, Fabric, Host, wait_for
from e2e.lab.command import at_once
from e2e.test_database_cluster import nb
from e2e.test_names import NAME_SERVER

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
LINES = 36
"""Limit of lines of a command's output that the page shows."""


def prepared(fabric: Fabric, *names: str) -> dict[str, Host]:
    """Hosts with Open vSwitch and with Docker that queries OVN for names."""
    hosts = fabric.add_hosts(*names)
    hosts[0].spawn("python3", "-c", NAME_SERVER, hosts[0].address)

    def prepare(host: Host) -> None:
        host.start_switch()
        servers = ("169.254.53.1", "169.254.53.2", hosts[0].address)
        host.start_docker(*(f"--dns={server}" for server in servers))
        host.load("busybox")

    at_once(prepare, hosts)
    return {host.name: host for host in hosts}


class TypedSession:
    """The three machines, and the commands that were typed on them."""

    def __init__(self, fabric: Fabric) -> None:
        self.hosts = prepared(fabric, "host1", "host2", "host3")
        self.joined: list[Host] = []
        self.token = ""

    def type(self, name: str, command: str) -> str:
        """Return the output of a command on a host; a command that fails is repeated once, as by a user."""
        host = self.hosts[name]
        for last in (False, True):
            try:
                environment = {"TOKEN": self.token}
                script = f"cd /root; exec 2>&1; {command}"
                said = host.run("sh", "-c", script, timeout=120, env=environment)
                break
            except CommandError:
                if last:
                    raise
                time.sleep(3)
        if found := re.search(r"--token (ovnd1\S+)", said):
            self.token = found[1]
        if command.startswith(("ovn-docker join", "ovn-docker host start")) and host not in self.joined:
            self.joined.append(host)
            if host.fabric.userspace:
                at_once(lambda host: host.meet(self.joined), self.joined)
        if command.startswith(("docker network create", "ovn-docker join")):
            wait_for(self.in_step, "the networks of the cluster on all hosts")
        return said.replace(str(Path(sys.executable).parent), "/usr/local/bin")

    def in_step(self) -> bool:
        """Return whether the hosts that have joined list the same networks."""
        names = ("network", "ls", "--filter=driver=openvswitch", "--format={{.Name}}")
        return len({host.docker(*names) for host in self.joined}) == 1


def test_commands_of_a_day_of_operations_work(fabric: Fabric) -> None:
    day, page, outside = TypedSession(fabric), [], True
    for line in PAGE.read_text().splitlines():
        if line.startswith("```"):
            outside = line != "```console"
        typed = re.fullmatch(r"(host\d)# (.+)", line)
        if outside or line.startswith("```"):
            page.append(line)
        elif typed:
            said = day.type(*typed.groups()).splitlines()
            page += [line, *(text.rstrip() for text in said[:LINES]), *(["..."] if said[LINES:] else [])]
    if os.environ.get("OVN_DOCKER_DOCS") == "write":
        PAGE.write_text("\n".join([*page, ""]))
    said = "\n".join(page)
    assert said.count("0% packet loss") == said.count("ping -c 2"), said
    assert "found something" not in said


@pytest.mark.faults
def test_clustered_database_is_restored_from_a_backup(fabric: Fabric) -> None:
    """The commands are those of the page; rows keep their UUIDs, and containers their network."""
    hosts = host1, host2, host3 = fabric.cluster("host1", "host2", "host3", raft=True)
    for host in hosts:
        host.driver.start()
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "--subnet=10.1.0.0/16")
    host1.docker(*create, "-o", "ovn.network=foo", "foo")
    wait_for(lambda: all("foo" in host.docker("network", "ls") for host in hosts), "foo on all hosts")
    for host in hosts:
        address = f"--ip=10.1.0.1{host.name[-1]}"
        host.docker("run", "-d", "--net=foo", f"--name={host.name}", address, "busybox", "sleep", "3600")
    before = nb(host1, "ls-list")
    host2.run("ovn-docker", "central", "backup", "/root/copy")
    nb(host1, "ls-del", "foo")
    nb(host1, "--wait=hv", "sync")
    host2.run("ovn-docker", "central", "restore", "--force", "/root/copy")
    assert nb(host3, "ls-list") == before
    nb(host1, "--wait=hv", "sync")
    host1.ping("host1", "10.1.0.13")

    def restore() -> None:
        """Restore the backup; assert that only the two rows that differ change."""
        nb(host1, "ls-add", "later", "--", "set", "Logical_Switch", "foo", "external_ids:x=y")
        nb(host1, "--wait=hv", "sync")
        host2.run("ovn-docker", "central", "restore", "--force", "/root/copy")
        nb(host1, "--wait=hv", "sync")

    # A busy machine may lose a packet by itself, but not each time.
    assert any(not lost_packets(host1, "host1", "10.1.0.13", restore, 8, 0.05) for _ in range(3))

    for host in hosts:
        host.run("ovn-docker", "central", "stop", timeout=100)
        host.run("rm", "/var/lib/ovn/ovnnb_db.db", "/var/lib/ovn/ovnsb_db.db")
    host2.run("ovn-docker", "central", "restore", "/root/copy")
    host2.start_member("--create")
    for host in (host1, host3):
        host.start_member()
    for host in hosts:
        host.controller.appctl("sb-cluster-state-reset")
        wait_for(host.controller.ready, "ovn-controller to connect")
    assert nb(host1, "ls-list") == before
    nb(host1, "--wait=hv", "sync")
    host1.ping("host1", "10.1.0.13")
    host3.docker("run", "-d", "--net=foo", "--name=new", "busybox", "sleep", "600")
    host3.ping("new", "10.1.0.11")
