"""Swarm's services on networks of the driver as Docker's managed plugin, on three hosts."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.lab import CommandError, Fabric, Host, images, wait_for

TEXT = (Path(__file__).parents[2] / "docs" / "swarm.md").read_text()
PAGE = " ".join(TEXT.split())
pytestmark = pytest.mark.engines  # long

PLUGIN = "ovn-docker/openvswitch"
DRIVER = f"{PLUGIN}:latest"
PROCESS = "^/usr/bin/python3 -I /usr/bin/ovn-docker-overlay-driver"
SERVICE = ("service", "create", "--detach", "--no-resolve-image", "--stop-signal=KILL")


@pytest.fixture(scope="module")
def hosts(engine_fabric: Fabric, engine: str) -> dict[str, Host]:
    """Three managers of a swarm with the plugin; host1 has OVN's databases, host2 is the leader."""
    hosts = engine_fabric.cluster("host1", "host2", "host3", engine=engine)
    archive = images.plugin()
    for host in hosts:
        host.run("mkdir", "-p", "/etc/ovn-docker", "/root/dist/plugin")
        with archive.open("rb") as plugin:
            host.run("tar", "--extract", "--directory=/root/dist/plugin", stdin=plugin)
        host.docker("plugin", "create", PLUGIN, "/root/dist/plugin")
        host.docker("plugin", "enable", PLUGIN)
        if host is not hosts[-1]:  # there it is needed once more
            host.run("rm", "-r", "/root/dist")
    archive.unlink()
    host1, host2, host3 = hosts
    host2.docker("swarm", "init", f"--advertise-addr={host2.address}")
    token = host2.docker("swarm", "join-token", "--quiet", "manager")
    for host in (host1, host3):
        host.docker("swarm", "join", f"--token={token}", f"{host2.address}:2377")
    return {host.name: host for host in hosts}


@pytest.fixture
def bar(hosts: dict[str, Host]) -> Iterator[dict[str, Host]]:
    """The hosts with a network bar; afterwards checks that nothing is left of it."""
    manager = hosts["host1"]
    create(manager, "bar", "--attachable", "--subnet=10.6.0.0/24")
    yield hosts
    if services := manager.docker("service", "ls", "--quiet").split():
        manager.docker("service", "rm", *services)
    for host in hosts.values():
        if host.pid:
            wait_for(lambda host=host: not tasks(host), "the tasks to end")  # type: ignore[misc]
            if containers := host.docker("ps", "--all", "--quiet").split():
                host.docker("rm", "--force", *containers)
    wait_for(lambda: removed(manager, "bar"), "the network to be free")
    wait_for(lambda: manager.run("ovn-nbctl", "ls-list") == "", "the switch to go")


def create(host: Host, name: str, *options: str, driver: str = DRIVER) -> str:
    return host.docker("network", "create", "-d", driver, *options, name)


def removed(host: Host, name: str) -> bool:
    """Remove a network; return whether it is gone: a node may not have reported the end of a task yet."""
    host.run("docker", "network", "rm", name, check=False)
    return name not in host.docker("network", "ls", "--format={{.Name}}").split()


def tasks(host: Host, service: str = "") -> list[str]:
    """Return the names of the running tasks' containers on a host."""
    return host.docker("ps", "--format={{.Names}}", f"--filter=name=^{service}[^.]*\\.").split()


def addresses(host: Host, container: str) -> str:
    (settings,) = json.loads(host.docker("inspect", container))
    return str(settings["NetworkSettings"]["Networks"]["bar"]["IPAddress"])


def service(hosts: dict[str, Host], name: str, *options: str) -> None:
    """Create a service with a task on each host; return when they run."""
    command = ("busybox", "sleep", "3600")
    mode = ("--mode=global", "--endpoint-mode=dnsrr", "--network=bar")
    hosts["host1"].docker(*SERVICE, *mode, f"--name={name}", *options, *command)
    wait_for(lambda: all(len(tasks(host, name)) == 1 for host in hosts.values()), "a task on each host")


def reach_each_other(hosts: dict[str, Host], name: str) -> None:
    """Check that each task of a service finds all tasks by the service's name, and reaches them."""
    here = {host.name: tasks(host, name) for host in hosts.values() if host.pid}
    found = {host: containers[0] for host, containers in here.items() if containers}
    wanted = {addresses(hosts[host], container) for host, container in found.items()}
    assert len(wanted) == len(found) >= 2
    for host, container in found.items():
        wait_for(lambda h=host, c=container: lookup(hosts[h], c, name) == wanted, f"the names on {host}")  # type: ignore[misc]
        for address in wanted:
            hosts[host].ping(container, address)


def lookup(host: Host, container: str, name: str) -> set[str]:
    """Return the IPv4 addresses that a container gets for a name."""
    answer = host.docker("exec", container, "sh", "-c", "nslookup -type=a $0 2>/dev/null || true", name)
    found = [line.split()[-1] for line in answer.splitlines() if line.startswith("Address")]
    return set(found[1:])  # the first is the server's


def calls(host: Host, method: str) -> int:
    """Return how often Docker has called a method of the plugin on a host, with success."""
    return len(re.findall(rf"NetworkDriver\.{method} .* ok ", host.path(host.dockerd.log).read_text()))


def test_tasks_reach_each_other_by_the_name_of_the_service(bar: dict[str, Host]) -> None:
    service(bar, "web")
    reach_each_other(bar, "web")
    # A container that is no task finds them too, and they find it.
    bar["host3"].docker("run", "-d", "--name=client", "--net=bar", "busybox", "sleep", "3600")
    bar["host3"].ping("client", "web")
    bar["host1"].ping(tasks(bar["host1"], "web")[0], "client")


def test_rolling_update_replaces_the_tasks(bar: dict[str, Host]) -> None:
    service(bar, "web", "--update-parallelism=1")
    before = {tasks(host, "web")[0] for host in bar.values()}
    bar["host1"].docker(
        "service", "update", "--no-resolve-image", "--quiet", "--env-add=NEW=1", "web", timeout=600
    )
    now = {name for host in bar.values() for name in tasks(host, "web")}
    assert len(now) == len(bar)
    assert not before & now
    reach_each_other(bar, "web")


def test_network_comes_and_goes_with_the_tasks_of_a_node(bar: dict[str, Host]) -> None:
    service(bar, "web")
    node, manager = bar["host3"], bar["host1"]
    deleted, created = calls(node, "DeleteNetwork"), calls(node, "CreateNetwork")
    manager.docker("node", "update", "--availability=drain", "host3")
    wait_for(lambda: calls(node, "DeleteNetwork") == deleted + 1, "the node to delete the network")
    reach_each_other(bar, "web")  # the others have it still
    manager.docker("node", "update", "--availability=active", "host3")
    wait_for(lambda: tasks(node, "web"), "the task to come back")
    assert calls(node, "CreateNetwork") == created + 1
    reach_each_other(bar, "web")


def test_tasks_keep_their_connections_while_the_plugin_is_killed(bar: dict[str, Host]) -> None:
    service(bar, "web")
    node = bar["host3"]
    pid = node.run("pgrep", "-f", PROCESS)
    node.run("kill", "-9", pid)
    reach_each_other(bar, "web")
    wait_for(
        lambda: node.run("pgrep", "-f", PROCESS, check=False) not in {"", pid}, "the plugin to start again"
    )
    service(bar, "other")
    reach_each_other(bar, "other")


def test_plugin_is_replaced_while_tasks_run(bar: dict[str, Host]) -> None:
    service(bar, "web")
    node = bar["host3"]
    task = tasks(node, "web")
    commands = re.findall(r"# (docker plugin .*)", TEXT)
    replace = commands[commands.index(f"docker plugin disable --force {PLUGIN}") :][:4]
    assert [command.split()[2] for command in replace] == ["disable", "rm", "create", "enable"]
    for command in replace:
        node.run("sh", "-c", f"cd /root; {command}", timeout=300)
        reach_each_other(bar, "web")
    assert tasks(node, "web") == task
    service(bar, "other")
    reach_each_other(bar, "other")


def test_task_comes_back_after_docker_was_killed(bar: dict[str, Host]) -> None:
    service(bar, "web")
    node = bar["host3"]
    before = tasks(node, "web")
    node.dockerd.signal(signal.SIGKILL)
    wait_for(lambda: not node.dockerd.pid, "the end of dockerd")
    node.dockerd.start()
    wait_for(lambda: (now := tasks(node, "web")) and now != before, "another task")
    reach_each_other(bar, "web")


def test_what_swarm_cannot_have_is_refused_with_the_documented_message(bar: dict[str, Host]) -> None:
    leader = bar["host2"]
    refused = f"could not resolve driver {PLUGIN} in registry"
    assert refused in PAGE
    with pytest.raises(CommandError, match=refused):
        create(leader, "foo", driver=PLUGIN)
    for option, message in {
        "--opt=ovn.network=foo": "ovn.network is not for networks of swarm",
        f"--ipam-driver={DRIVER}": "swarm needs Docker's own IPAM driver: leave out --ipam-driver",
    }.items():
        assert message in PAGE
        before = leader.path(leader.dockerd.log).read_text().count(message)
        create(leader, "foo", "--subnet=10.7.0.0/24", option)  # Docker answers before the manager's attempt
        wait_for(
            lambda m=message, b=before: leader.path(leader.dockerd.log).read_text().count(m) > b,  # type: ignore[misc]
            "the refusal in the log",
        )
        leader.docker("network", "rm", "foo")
        assert leader.run("ovn-nbctl", "--db", f"tcp:{bar['host1'].address}:6641", "ls-list").count("\n") == 0


def test_virtual_address_of_a_service_is_for_overlay_networks_alone(bar: dict[str, Host]) -> None:
    """Docker balances on networks of its driver `overlay` only (docs/swarm.md)."""
    manager, message = bar["host1"], "Unable to find load balancing endpoint for network"
    assert message in PAGE
    manager.docker(*SERVICE, "--mode=global", "--network=bar", "--name=web", "busybox", "sleep", "3600")
    wait_for(lambda: all(tasks(host, "web") for host in bar.values()), "the tasks")
    wait_for(lambda: message in manager.path(manager.dockerd.log).read_text(), "Docker's message")
    task = tasks(manager, "web")[0]
    everyone = {addresses(host, tasks(host, "web")[0]) for host in bar.values()}
    assert not lookup(manager, task, "web") & everyone  # it is the virtual address
    wait_for(lambda: lookup(manager, task, "tasks.web") == everyone, "the addresses of the tasks")
    for address in everyone:
        manager.ping(task, address)


def test_tool_finds_the_plugin(hosts: dict[str, Host]) -> None:
    (driver,) = [
        part
        for part in json.loads(hosts["host1"].run("ovn-docker", "host", "status", "--json"))
        if part["name"] == "driver"
    ]
    assert driver["is_up"]
    assert re.search(r"/run/docker/plugins/[0-9a-f]{64}/openvswitch\.sock", driver["remark"])


def test_network_works_on_after_the_leader_is_lost(bar: dict[str, Host]) -> None:
    """The last test: host2 stays off."""
    service(bar, "web")
    lost = bar["host2"]
    gone = addresses(lost, tasks(lost, "web")[0])
    lost.power_off()
    manager = bar["host1"]
    leader = ("node", "ls", "--filter=role=manager", "--format={{.Hostname}} {{.ManagerStatus}}")

    def elected() -> bool:
        return any(name != "host2" and state == "Leader" for name, state in
                   map(str.split, manager.docker(*leader).splitlines()))  # fmt: skip

    wait_for(elected, "another leader")
    create(manager, "new", "--subnet=10.7.0.0/24")
    two = {name: host for name, host in bar.items() if name != "host2"}
    service(two, "after", "--constraint=node.hostname!=host2")
    reach_each_other(two, "after")
    for host in two.values():
        task = tasks(host, "web")[0]
        wait_for(lambda h=host, t=task: gone not in lookup(h, t, "web"), "the lost task's name to go")  # type: ignore[misc]
    wait_for(lambda: removed(manager, "new"), "the network to be removed")
