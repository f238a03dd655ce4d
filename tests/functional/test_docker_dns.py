"""`ovn-docker host setup --docker-dns` changes dockerd's configuration file, and undoes its change."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from functional.machine import Machine
from functional.ovsdb_servers import until
from ovn_docker.errors import BadRequest
from ovn_docker.setup.docker_dns import DnsChange
from ovn_docker.setup.steps import Steps

OURS = ["169.254.53.1", "169.254.53.2"]
CONFIG = "/etc/docker/daemon.json"
BACKUP = f"{CONFIG}.ovn-docker-backup"
OVS_CTL = "/usr/share/openvswitch/scripts/ovs-ctl"
SETUP = ("host", "setup", "--central=127.0.0.1", "--encap-ip=127.0.0.1")
USERS = '{\n  "log-level": "warn",\n  "mtu": 1.40e3\n}\n'
STATES = {"no file": "", "a file": USERS, "a list": '{"dns": ["10.0.0.53", "10.0.0.54"], "mtu": 1400}\n'}

DOCKERD = "import time; open('/proc/self/comm', 'w').write('dockerd'); time.sleep(3600)"
"""A process that looks like dockerd, with any arguments."""


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine on which Open vSwitch runs, with a name server and an empty /etc/docker."""
    machine = Machine()
    machine.out("sh", "-ec", "mkdir -p /etc/docker; mount -t tmpfs none /etc/docker")
    machine.out(
        "sh", "-ec", "echo nameserver 10.0.0.9 >/run/resolv; mount --bind /run/resolv /etc/resolv.conf"
    )
    machine.out(OVS_CTL, "start", "--system-id=random")
    machine.output(*SETUP)
    yield machine
    machine.close()


def write(machine: Machine, text: str) -> None:
    machine.out("sh", "-c", f'umask 027; printf %s "$1" >{CONFIG}; chgrp daemon {CONFIG}', "sh", text)


def test_setting_is_merged_shown_and_undone(machine: Machine) -> None:
    write(machine, USERS)
    would = machine.output(*SETUP, "--docker-dns", "--dry-run")
    assert "would have Docker ask OVN for names:\n" in would
    assert machine.out("ls", "/etc/docker") == "daemon.json"
    said = machine.apply(*SETUP, "--docker-dns")
    assert f'--- {CONFIG}\n+++ {CONFIG}\n@@ -1,4 +1,9 @@\n {{\n   "log-level": "warn",\n' in said
    assert '+    "169.254.53.1",' in said
    assert "Docker asks OVN" not in said
    added = ',\n  "dns": [\n    "169.254.53.1",\n    "169.254.53.2",\n    "10.0.0.9"\n  ]\n}'
    wanted = USERS.replace("\n}", added)
    assert machine.out("cat", CONFIG) == wanted.strip()
    assert machine.out("stat", "--format=%a %U %G", CONFIG, BACKUP) == "640 root daemon\n640 root daemon"
    assert machine.out("cat", BACKUP) == USERS.strip()
    assert "have Docker ask OVN no more for names" in machine.apply(*SETUP, "--no-docker-dns")
    assert machine.out("cat", CONFIG) == USERS.strip()
    assert machine.out("stat", "--format=%a %U %G", CONFIG) == "640 root daemon"
    assert machine.out("ls", "--almost-all", "/etc/docker") == "daemon.json"


def test_file_is_made_and_removed_where_none_was(machine: Machine) -> None:
    machine.out("umount", "/etc/docker")
    machine.out("mount", "-t", "tmpfs", "none", "/etc")  # without the directory, too
    machine.out("sh", "-c", "echo nameserver 10.0.0.9 >/etc/resolv.conf")
    machine.apply(*SETUP, "--docker-dns")
    assert json.loads(machine.out("cat", CONFIG)) == {"dns": [*OURS, "10.0.0.9"]}
    machine.apply(*SETUP, "--no-docker-dns")
    assert machine.out("ls", "--almost-all", "/etc/docker") == ""


def test_invalid_file_stops_the_setup_before_it_changes_anything(machine: Machine) -> None:
    write(machine, '{"mtu": 1400,}')
    before = machine.external_ids()
    other = ("host", "setup", "--central=127.0.0.2", "--encap-ip=127.0.0.1", "--docker-dns")
    code, said = machine.refusal(*other)
    assert (code, said) == (
        2,
        f"ovn-docker: {CONFIG} cannot be changed: it is not JSON (line 1); correct it, then run this again\n",
    )
    assert machine.external_ids() == before
    write(machine, '{"dns": "10.0.0.53"}')
    assert "is not a list of strings" in machine.refusal(*other)[1]


def test_restart_alone_is_refused(machine: Machine) -> None:
    code, said = machine.refusal(*SETUP, "--restart-docker")
    assert (code, "give one of them" in said) == (2, True)


def test_symbolic_link_stays(machine: Machine) -> None:
    machine.out("sh", "-ec", f"echo '{{}}' >/run/real.json; ln -s /run/real.json {CONFIG}")
    machine.apply(*SETUP, "--docker-dns")
    assert machine.out("readlink", CONFIG) == "/run/real.json"
    assert "169.254.53.1" in machine.out("cat", "/run/real.json")


def dockerd(machine: Machine, *arguments: str) -> None:
    machine.out(
        "sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", sys.executable, "-c", DOCKERD, *arguments,
    )  # fmt: skip
    until(lambda: "dockerd" in machine.out("ps", "-eo", "comm"))


def test_file_that_dockerd_is_given_is_changed(machine: Machine) -> None:
    dockerd(machine, "--config-file=/run/docker.json")
    machine.out("sh", "-c", "echo '{}' >/run/docker.json")
    said = machine.output(*SETUP, "--docker-dns")
    assert "note: restart Docker for this to take effect, or give --restart-docker: " in said
    assert "169.254.53.1" in machine.out("cat", "/run/docker.json")
    assert machine.run("test", "-e", CONFIG).returncode == 1


def test_servers_among_dockerds_arguments_are_in_the_way(machine: Machine) -> None:
    dockerd(machine, "--dns=10.0.0.53")
    assert (
        "does not start if its configuration file has dns too" in machine.refusal(*SETUP, "--docker-dns")[1]
    )


# The change alone


def change(config: Path, *, wanted: bool) -> None:
    DnsChange(wanted=wanted, config=config).make(Steps())


def servers(config: Path) -> list[str] | None:
    return json.loads(config.read_text()).get("dns")


def test_servers_of_the_user_come_last_and_come_back(tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text(STATES["a list"])
    change(config, wanted=True)
    assert servers(config) == [*OURS, "10.0.0.53", "10.0.0.54"]
    config.write_text(config.read_text().replace("1400", "9000"))  # the user's change is kept
    change(config, wanted=False)
    assert json.loads(config.read_text()) == {"dns": ["10.0.0.53", "10.0.0.54"], "mtu": 9000}


def test_backup_is_the_users_last_file(tmp_path: Path) -> None:
    config, backup = tmp_path / "daemon.json", tmp_path / "daemon.json.ovn-docker-backup"
    config.write_text(USERS)
    change(config, wanted=True)
    config.write_text(config.read_text().replace('"169.254.53.1",', ""))  # half of our work
    change(config, wanted=True)
    assert backup.read_text() == USERS
    config.write_text('{"debug": true}')
    change(config, wanted=True)
    assert backup.read_text() == '{"debug": true}'


def test_servers_by_hand_are_removed_without_a_backup(tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text(json.dumps({"dns": [*OURS, "10.0.0.53"], "debug": True}))
    change(config, wanted=False)
    assert json.loads(config.read_text()) == {"dns": ["10.0.0.53"], "debug": True}


def test_list_that_is_no_list_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text('{"dns": [53]}')
    with pytest.raises(BadRequest, match=r"is not a list of strings: \[53\]"):
        DnsChange(wanted=True, config=config)


@pytest.mark.parametrize("users", STATES.values(), ids=STATES)
def test_file_is_old_or_new_whenever_the_program_is_killed(tmp_path: Path, users: str) -> None:
    config = tmp_path / "daemon.json"
    if users:
        config.write_text(users)

    def add() -> None:
        change(config, wanted=True)

    def remove() -> None:
        change(config, wanted=False)

    def text() -> str:
        return config.read_text() if config.exists() else ""

    add()
    new = text()
    for work, undo, before, after in ((remove, add, new, users), (add, remove, users, new)):
        for step in count(1):
            assert text() == before
            died = _dies(work, step)
            assert text() in ({before, after} if died else {after})
            work()  # completes what the killed one has begun
            assert text() == after
            if not died:
                break
            undo()
        assert step > 3
    remove()
    assert text() == users
    assert [path.name for path in tmp_path.iterdir()] == ["daemon.json"] * bool(users)


_CALLS = {"open", "os.chmod", "os.chown", "os.rename", "os.remove", "os.mkdir"}
"""Audit events of calls to the file system (Python's documentation, "Audit events table")."""


def _dies(work: Callable[[], None], step: int) -> bool:
    """Do *work* in a child that is killed at a *step*, a call to the file system; return whether it was."""
    child = os.fork()
    if not child:
        calls = count(1)

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in _CALLS and "daemon.json" in str(arguments) and next(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
