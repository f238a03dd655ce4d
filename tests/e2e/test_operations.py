"""docs/operations.md, played: every command that stands there works, in that order.

With ``OVN_DOCKER_DOCS=write`` what the commands print is written into the page.
"""

import os
import re
import sys
import time
from pathlib import Path

import pytest

from e2e.lab import CommandError, Fabric, Host, wait_for
from e2e.lab.command import at_once
from e2e.test_database_cluster import nb
from e2e.test_names import NAME_SERVER

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
LINES = 24
"""Of what a command prints; the rest is left out."""


def prepared(fabric: Fabric, *names: str) -> dict[str, Host]:
    """Hosts with Open vSwitch and Docker, which asks OVN for names, and then the first of them."""
    hosts = fabric.add_hosts(*names)
    hosts[0].spawn("python3", "-c", NAME_SERVER, hosts[0].address)

    def prepare(host: Host) -> None:
        host.start_switch()
        servers = ("169.254.53.1", "169.254.53.2", hosts[0].address)
        host.start_docker(*(f"--dns={server}" for server in servers))
        host.load("busybox")

    at_once(prepare, hosts)
    return {host.name: host for host in hosts}


class Day:
    """The three machines, and what was typed on them."""

    def __init__(self, fabric: Fabric) -> None:
        self.hosts = prepared(fabric, "host1", "host2", "host3")
        self.joined: list[Host] = []

    def type(self, name: str, command: str) -> str:
        """What a command prints on a host; a person would type it again if it failed, once."""
        host = self.hosts[name]
        for last in (False, True):
            try:
                said = host.run("sh", "-c", f"cd /root; exec 2>&1; {command}", timeout=120)
                break
            except CommandError:
                if last:
                    raise
                time.sleep(3)
        if command == "ovn-docker host start" and host not in self.joined:
            self.joined.append(host)
            if host.fabric.userspace:
                at_once(lambda host: host.meet(self.joined), self.joined)
        if command.startswith("docker network create") or "host start" in command:
            wait_for(self.in_step, "the networks of the cluster on all hosts")
        return said.replace(str(Path(sys.executable).parent), "/usr/local/bin")

    def in_step(self) -> bool:
        """Whether the hosts that have joined list the same networks."""
        names = ("network", "ls", "--filter=driver=openvswitch", "--format={{.Name}}")
        return len({host.docker(*names) for host in self.joined}) == 1


def test_a_day(fabric: Fabric) -> None:
    day, page, outside = Day(fabric), [], True
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
def test_a_database_of_several_servers_is_restored(fabric: Fabric) -> None:
    """As the page says it; rows keep their UUIDs, by which we know them."""
    hosts = host1, host2, host3 = fabric.add_hosts("host1", "host2", "host3")
    at_once(Host.start_switch, hosts)
    fabric.start_members(hosts)
    host3.join_members()
    nb(host1, "--wait=hv", "ls-add", "foo")
    before = nb(host1, "ls-list")
    database = "unix:/var/run/ovn/ovnnb_db.sock"
    host2.run("sh", "-c", f"ovsdb-client backup {database} OVN_Northbound >/root/northbound.backup")
    nb(host1, "ls-del", "foo")
    for host in hosts:
        host.run("ovn-docker", "central", "stop")
        host.run("rm", "/var/lib/ovn/ovnnb_db.db", "/var/lib/ovn/ovnsb_db.db")
    host2.run("cp", "/root/northbound.backup", "/var/lib/ovn/ovnnb_db.db")
    host2.start_member("--create")
    for host in (host1, host3):
        host.start_member()
    assert before
    for host in hosts:
        assert nb(host, "ls-list") == before
    nb(host1, "--wait=hv", "sync")
