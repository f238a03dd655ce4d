"""docs/compose.md, played with the Compose that Debian has beside each engine."""

import re
from pathlib import Path

import pytest

from e2e.lab import CommandError, Fabric, Host, wait_for

PAGE = Path(__file__).parents[3] / "docs" / "compose.md"
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
            path.write_text(text)
    return {host.name: host for host in hosts}


def typed() -> list[tuple[str, str, list[str]]]:
    """Host, command, and lines of what it prints, in the page's order."""
    commands: list[tuple[str, str, list[str]]] = []
    for session in SESSION.findall(PAGE.read_text()):
        for line in session.splitlines():
            if prompt := re.fullmatch(r"(host\d)# (.+)", line):
                commands.append((*prompt.groups(), []))
            else:
                commands[-1][2].append(line)
    return commands


def test_each_command_of_the_page_prints_what_the_page_shows(hosts: dict[str, Host], engine: str) -> None:
    compose = "docker-compose" if engine == "20.10" else "docker compose"
    for name, command, shown in typed():
        host, printed = hosts[name], ""

        def prints(host: Host = host, command: str = command, shown: list[str] = shown) -> bool:
            nonlocal printed
            # The containers do not hear SIGTERM: Compose would wait ten seconds for each.
            real = re.sub(r" down$", " down --timeout 0", command.replace("docker compose", compose))
            printed = host.run("sh", "-c", f"cd /root; {real}", timeout=120)
            return all(line in printed for line in shown)

        try:
            # In user space a tunnel may lose a packet: a person would type the command again.
            wait_for(prints, f"{command} to print {shown}") if shown else prints()
        except CommandError as error:
            raise AssertionError(f"{name}# {command}") from error
    for host in hosts.values():
        assert host.docker("ps", "--all", "--quiet") == ""
        assert host.docker("network", "ls", "--quiet", "--filter=driver=openvswitch") == ""
