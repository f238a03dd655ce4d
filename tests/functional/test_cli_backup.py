"""`ovn-docker central backup` and `central restore`, as an operator types them on a central machine.

test_copies.py tests the contents of copies and databases; e2e/test_operations.py has containers, too.
"""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from functional.machine import OVN_DOCKER, Machine
from functional.ovsdb_servers import until
from functional.test_cli_members import CLUSTER, TLS, authority, certified

__all__ = ["authority", "certified"]

COPY = "/run/northbound.backup"
BACKUP, RESTORE = ("central", "backup", COPY), ("central", "restore", COPY)
OVNNB = "/var/lib/ovn/ovnnb_db.db"


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture
def central(machine: Machine) -> Machine:
    """A central machine with the network web, which it has backed up."""
    machine.output("central", "start", "--address=127.0.0.1")
    machine.out("ovn-nbctl", "ls-add", "web", "--", "lsp-add", "web", "port")
    machine.output(*BACKUP)
    return machine


def switches(machine: Machine) -> str:
    """Return UUIDs and names of the networks."""
    return machine.out("ovn-nbctl", "--no-leader-only", "ls-list")


def restore(machine: Machine, answer: str) -> subprocess.CompletedProcess[str]:
    """Run ``central restore`` with an answer on standard input."""
    command = machine.inside(*OVN_DOCKER, *RESTORE)
    return subprocess.run(command, input=answer, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_a_copy_is_readable_by_root_only_and_replaced_as_a_whole(central):
    before = central.out("cat", COPY)
    central.out("chmod", "644", COPY)
    central.out("ovn-nbctl", "ls-add", "more")
    killed, at_work = (f"/run/.ovn-docker-backup.{name}" for name in ("killed", "at-work"))
    central.out("touch", killed, at_work)
    locking = central.inside("flock", at_work, "sh", "-c", "echo locked; exec sleep infinity")
    with subprocess.Popen(locking, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "locked\n"
        said = central.output(*BACKUP)
        found = central.out("find", "/run", "-maxdepth", "1", "-name", ".*")
        other.kill()
    assert found == at_work  # what a run that was killed has left is gone
    assert (
        f"$ ovsdb-client --timeout=300 backup unix:/var/run/ovn/ovnnb_db.sock OVN_Northbound >{COPY}" in said
    )
    assert "the copy has 2 networks, 1 port, 4 rows" in said
    assert central.out("stat", "-c", "%a", COPY) == "600"
    assert central.out("cat", COPY) != before
    assert central.out("ovsdb-tool", "db-name", COPY) == "OVN_Northbound"


@pytest.mark.slow
def test_restore_brings_deleted_networks_back(central):
    before = switches(central)
    central.out("ovn-nbctl", "ls-del", "web", "--", "ls-add", "later")
    said = central.output(*RESTORE, "--force")
    assert (
        "the copy has 1 network, 1 port, 3 rows, the northbound database 1 network, 0 ports, 2 rows" in said
    )
    assert "networks that come back: web\nnetworks that are removed: later\n" in said
    assert switches(central) == before
    said = central.output(*RESTORE)
    assert said == "nothing to change: the database has the contents of the copy\n"


@pytest.mark.slow
def test_restore_shows_the_changes_and_asks(central):
    central.out("ovn-nbctl", "ls-add", "later")
    before = switches(central)
    said = central.output(*RESTORE, "--dry-run")
    assert "Logical_Switch  0    0        1" in said
    assert "would restore the northbound database" in said
    for answer in ("n\n", ""):
        done = restore(central, answer)
        assert done.returncode == 1
        assert "restore the northbound database? [y/N]" in done.stderr
        assert "nothing was restored; confirm it, or give --force" in done.stderr
        assert switches(central) == before
    done = restore(central, "y\n")
    assert done.returncode == 0, done
    assert "later" not in switches(central)


@pytest.mark.slow
def test_restore_makes_the_file_of_a_lost_database(central):
    """So hosts never see an empty database; the command does not ask, because nothing is replaced."""
    central.out("ovn-nbctl", "set-connection", "ptcp:7000:127.0.0.1")
    central.output(*BACKUP)
    before = switches(central)
    central.output("central", "stop")
    central.out("sh", "-c", "rm /var/lib/ovn/*")
    said = central.output(*RESTORE, "--dry-run")
    assert said.startswith(
        f"would make {OVNNB} of {COPY}, with 1 network, 1 port, 4 rows, for the next `ovn-docker"
    )
    assert central.out("ls", "/var/lib/ovn") == ""
    central.output(*RESTORE)
    assert central.out("stat", "-c", "%a", OVNNB) == "600"
    central.output("central", "start")
    assert switches(central) == before
    assert central.out("ovn-nbctl", "get-connection") == ""
    bound = ("ovn-sbctl", "--bare", "--columns=logical_port", "list", "Port_Binding")
    until(lambda: "port" in central.out(*bound))


@pytest.mark.slow
def test_restore_of_an_empty_database_does_not_ask(central):
    before = switches(central)
    central.out("ovn-nbctl", "ls-del", "web")
    central.output(*RESTORE)
    assert switches(central) == before


@pytest.mark.slow
def test_restore_keeps_the_listeners(central):
    central.out("ovn-nbctl", "set-connection", "ptcp:7000:127.0.0.1")
    central.output(*BACKUP)
    central.out("ovn-nbctl", "set-connection", "ptcp:7001:127.0.0.1", "--", "ls-del", "web")
    before = central.listening()
    central.output(*RESTORE, "--force")
    assert central.out("ovn-nbctl", "get-connection") == "ptcp:7001:127.0.0.1"
    assert central.listening() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("backup", "/nowhere/copy"), "there is no directory /nowhere"),
        (("backup", "/run"), "/run is not a regular file"),
        (("backup", "/dev/null"), "/dev/null is not a regular file"),
        (("backup", "/etc/default/ovn-central"), "exists and is not a copy of a database"),
        (("backup", OVNNB), "is the northbound database itself"),
        (("restore", "/nowhere"), "cannot read /nowhere: No such file or directory"),
        (("restore", "/etc/default/ovn-central"), "is not a copy of a northbound database"),
        (("restore", "/var/lib/ovn/ovnsb_db.db"), "it is one of 'OVN_Southbound'"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["", "dry"])
def test_backup_and_restore_refuse_invalid_files(argv, why, more, shared):
    code, said = shared.refusal("central", *argv, *more)
    assert (code, why in said) == (2, True), said


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    """A central machine for tests that change nothing."""
    machine = Machine()
    machine.output("central", "start", "--address=127.0.0.1")
    yield machine
    machine.close()


@pytest.mark.slow
def test_a_backup_that_fails_keeps_the_earlier_copy(central):
    before = central.out("cat", COPY)
    small = "/run/small"
    central.out("mkdir", small)
    central.out("mount", "-t", "tmpfs", "-o", "size=8k", "none", small)
    done = central.ovn_docker("central", "backup", f"{small}/copy")
    assert done.returncode == 3
    assert done.stderr == "ovn-docker: cannot write /run/small/copy: No space left on device\n"
    assert central.out("ls", "-A", small) == ""
    assert central.out("cat", COPY) == before


@pytest.mark.slow
def test_backup_and_restore_name_a_database_that_does_not_run(central):
    central.output("central", "stop")
    for argv in (BACKUP, RESTORE):
        code, said = central.refusal(*argv)
        assert code == 3
        assert "the northbound database does not run here; start it with: ovn-docker central start" in said


@pytest.mark.slow
def test_restore_works_on_a_member_of_a_cluster(certified: Any):
    """The copy is one of a single server; test_copies.py has three members."""
    certified.output("central", "start", "--address=127.0.0.1")
    certified.out("ovn-nbctl", "ls-add", "web")
    certified.output(*BACKUP)
    before = switches(certified)
    certified.output("central", "stop")
    certified.out("sh", "-c", "rm /var/lib/ovn/*")
    certified.output(*RESTORE)
    certified.apply(*CLUSTER, "--create", "--rbac")
    assert switches(certified) == before
    certified.output(*BACKUP)
    certified.out("ovn-nbctl", "ls-del", "web")
    certified.output(*RESTORE, "--force")
    assert switches(certified) == before
    assert certified.ovn_docker("central", "status").returncode == 0
    assert TLS in certified.out("cat", "/etc/default/ovn-central")
