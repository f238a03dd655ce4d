"""The commands of docs/compose.md with the Compose of each Debian release, and errors in swarm mode."""

import re
from pathlib import Path

import pytest

from e2e.lab import CommandError, Fabric, Host, wait_for
from e2e.test_names import NAME_SERVER

PAGE = Path(__file__).parents[3] / "docs" / "compose.md"
SWARM = PAGE.with_name("troubleshooting.md")
STACK = """
version: "3"
services: {web: {image: busybox, networks: [foo]}}
networks: {foo: {driver: openvswitch}}
"""
FILE = re.compile(r"^```yaml\n# (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SESSION = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def hosts(engine_fabric: Fabric, engine: str) -> dict[str, Host]:
    """Two hosts with the driver and the files of the page."""
    hosts = engine_fabric.cluster("host1", "host2", engine=engine)
    for host in hosts:
        host.driver.start()
        for name, text in FILE.findall(PAGE.read_text()):
            path = host.path(f"/root/{name}")
            path.parent.mkdir()
            path.write_text(text.replace("10.0.0.53", hosts[0].address))
    hosts[0].spawn("python3", "-c", NAME_SERVER, hosts[0].address)
    return {host.name: host for host in hosts}


def typed() -> list[tuple[str, str, list[str]]]:
    """Return host, command and lines of output of each command, in the order of the page."""
    commands: list[tuple[str, str, list[str]]] = []
    for session in SESSION.findall(PAGE.read_text()):
        for line in session.splitlines():
            if prompt := re.fullmatch(r"(host\d)# (.+)", line):
                commands.append((*prompt.groups(), []))
            else:
                commands[-1][2].append(line)
    return commands


def test_commands_of_the_page_print_the_documented_output(hosts: dict[str, Host], engine: str) -> None:
    compose = "docker-compose" if engine == "20.10" else "docker compose"
    for name, command, shown in typed():
        host, printed = hosts[name], ""

        def prints(host: Host = host, command: str = command, shown: list[str] = shown) -> bool:
            nonlocal printed
            # The containers ignore SIGTERM: Compose would wait ten seconds for each.
            real = re.sub(r" down$", " down --timeout 0", command.replace("docker compose", compose))
            printed = host.run("sh", "-c", f"cd /root; {real}", timeout=120)
            return all(line in printed for line in shown)

        try:
            # In user space a tunnel may lose a packet: the command is repeated, as by a user.
            wait_for(prints, f"{command} to print {shown}") if shown else prints()
        except CommandError as error:
            raise AssertionError(f"{name}# {command}") from error
    for host in hosts.values():
        assert host.docker("ps", "--all", "--quiet") == ""
        ours = ("network", "ls", "--quiet", "--filter=driver=openvswitch")
        wait_for(lambda host=host, ours=ours: host.docker(*ours) == "", "the networks to go")  # type: ignore[misc]


def test_swarm_node_has_our_networks_and_refuses_services(hosts: dict[str, Host], engine: str) -> None:
    host, page = hosts["host1"], SWARM.read_text()
    host.docker("swarm", "init", f"--advertise-addr={host.address}")
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "-o", "ovn.network=foo")
    host.docker(*create, "foo")
    hosts["host2"].run("ovn-docker", "network", "wait", "foo")
    for each in hosts.values():
        each.docker("run", "-d", "--net=foo", "--name=box", "--stop-signal=KILL", "busybox", "sleep", "600")
    shown = "--format={{.NetworkSettings.Networks.foo.IPAddress}}"
    host.ping("box", hosts["host2"].docker("inspect", shown, "box"))

    host.path("/root/stack.yaml").write_text(STACK)
    service = "No such network: foo" if engine == "20.10" else "network foo not found"
    for command, message in {
        "network create -d openvswitch --scope swarm bar": (
            "legacy plugin openvswitch of type NetworkDriver is not supported in swarm mode"
        ),
        "service create --detach --network foo busybox": service,
        "stack deploy -c /root/stack.yaml stack": (
            "The network stack_foo cannot be used with services. Only networks scoped to the swarm can be "
            "used, such as those created with the overlay driver."
        ),
    }.items():
        assert f"`{message}`" in page
        with pytest.raises(CommandError) as refused:
            host.docker(*command.split())
        assert message in refused.value.stderr
