"""`ovn-docker host forget` as a command: its output, its question and its refusals."""

import json
import shlex
from collections.abc import Iterator

import pytest

from functional.machine import OVN_DOCKER, Machine

pytestmark = pytest.mark.slow

FORGET = ("host", "forget", "lost")
PORT = "c1" * 32
IDS = "external_ids:ovn-docker\\:owner=overlay external_ids:ovn-docker\\:host=lost"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A host that is the central machine too, without ovn-controller, so that no host is alive."""
    machine = Machine()
    assert "Open_vSwitch at unix:/var/run/openvswitch/db.sock" in refusal(machine, *FORGET)
    machine.out("/usr/share/openvswitch/scripts/ovs-ctl", "start", "--system-id=here")
    machine.output("central", "start", "--address", "127.0.0.1")
    assert "does not have ovn-nb; set it with: ovs-vsctl set" in refusal(machine, *FORGET)
    machine.out("ovs-vsctl", "set", "Open_vSwitch", ".", "external_ids:ovn-nb=tcp:127.0.0.1:6641")
    yield machine
    machine.close()


@pytest.fixture
def lost(machine: Machine) -> Machine:
    """The machine with a port and a lease of a lost host."""
    machine.out("ovn-nbctl", "--if-exists", "ls-del", "foo", "--", "--all", "destroy", "DHCP_Options")
    machine.out("ovn-nbctl", "ls-add", "foo", "--", "lsp-add", "foo", PORT)
    switch = machine.out("ovn-nbctl", "--bare", "--columns=_uuid", "find", "Logical_Switch", "name=foo")
    ids = *IDS.split(), f"external_ids:ovn-docker\\:switch={switch}"
    machine.out(
        "ovn-nbctl", "set", "Logical_Switch_Port", PORT, *ids, f"external_ids:ovn-docker\\:endpoint={PORT}"
    )
    lease = machine.out("ovn-nbctl", "create", "DHCP_Options", "cidr=192.168.1.5")
    machine.out("ovn-nbctl", "set", "DHCP_Options", lease, *ids, "external_ids:ovn-docker\\:state=leased")
    machine.out("ovs-vsctl", "set", "Open_vSwitch", ".", "external_ids:ovn-remote=tcp:127.0.0.1:6642")
    return machine


def refusal(machine: Machine, *argv: str) -> str:
    """Return the error, one line, of a command that fails."""
    done = machine.ovn_docker(*argv)
    assert done.returncode != 0, done
    assert done.stderr.count("\n") == 1, done
    return done.stderr


def ports(machine: Machine) -> str:
    return machine.out("ovn-nbctl", "lsp-list", "foo")


def test_forget_shows_what_it_removes_and_refuses_the_host_the_second_time(lost: Machine) -> None:
    said = lost.output(*FORGET, "--yes").splitlines()
    assert [line.split() for line in said] == [
        ["WHAT", "LOGICAL", "SWITCH"],
        ["port", "c1c1c1c1c1c1", "foo"],
        ["lease", "192.168.1.5", "foo"],
        ["removed", "1", "port,", "1", "lease"],
    ]
    assert ports(lost) == ""
    assert lost.out("ovn-nbctl", "dhcp-options-list") == ""
    assert "unknown host 'lost'" in refusal(lost, *FORGET, "--yes")


def test_a_dry_run_changes_nothing(lost: Machine) -> None:
    before = ports(lost)
    done = lost.ovn_docker(*FORGET, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("would remove 1 port, 1 lease\n")
    assert ports(lost) == before != ""


def test_forget_where_the_authority_is_expels_the_host(lost: Machine) -> None:
    lost.output("pki", "init")
    lost.output("pki", "host", "lost")
    try:
        assert lost.output(*FORGET, "--yes").splitlines()[-1] == (
            "expelled lost: it gets no certificate any more"
        )
        assert lost.out("ls", "/etc/ovn-docker/pki/lost/revoked")
    finally:
        lost.out("rm", "-r", "/etc/ovn-docker/pki")


def test_forget_elsewhere_names_the_command_for_the_operator(lost: Machine) -> None:
    lost.out("mkdir", "-p", "/etc/ovn-docker/tls")
    lost.out("touch", "/etc/ovn-docker/tls/cert.pem")
    try:
        assert lost.output(*FORGET, "--yes").splitlines()[-1] == (
            "so that lost gets no certificate any more, type on the central machine: "
            "ovn-docker token expel lost"
        )
    finally:
        lost.out("rm", "-r", "/etc/ovn-docker/tls")


@pytest.mark.parametrize(("answer", "left"), [("", True), ("n\n", True), ("no\n", True), ("y\n", False)])
def test_forget_asks_before_it_removes(lost: Machine, answer: str, left: bool) -> None:
    command = f"printf '{answer}' | {shlex.join((*OVN_DOCKER, *FORGET))}"
    done = lost.run("sh", "-c", command)
    asked = "remove 1 port, 1 lease of lost? [y/N] " + ("" if answer else "\n")
    assert (ports(lost) != "") == left
    assert (done.returncode, done.stderr) == (
        (1, asked + "ovn-docker: nothing was removed; confirm it, or give --yes\n") if left else (0, asked)
    )


def test_the_question_is_not_in_the_json(lost: Machine) -> None:
    done = lost.run("sh", "-c", f"echo n | {shlex.join((*OVN_DOCKER, *GC, '--json'))}")
    assert [one["kind"] for one in json.loads(done.stdout)["found"]] == ["port", "lease"]
    assert done.returncode == 1


@pytest.mark.parametrize("command", [("host", "forget"), ("gc", "--host")])
@pytest.mark.parametrize("more", [("--yes",), ("--dry-run",)])
def test_an_unknown_host_is_an_error_that_names_the_nearest(
    lost: Machine, command: tuple[str, ...], more: tuple[str, ...]
) -> None:
    said = refusal(lost, *command, "lots", *more)
    assert (
        "unknown host 'lots': OVN does not know it, and nothing is stored of it; did you mean lost?" in said
    )
    assert said.endswith("(known hosts: here, lost)\n")
    assert "see `ovn-sbctl show` (known hosts: here, lost)" in refusal(lost, *command, "xyz", *more)


def test_forget_of_a_host_without_rows_changes_nothing(lost: Machine) -> None:
    lost.output(*FORGET, "--yes")
    lost.out("ovn-sbctl", "chassis-add", "lost", "geneve", "10.0.0.9")
    assert lost.output(*FORGET, "--yes") == "nothing to change\n"
    lost.out("ovn-sbctl", "chassis-del", "lost")


def test_forget_refuses_this_host(lost: Machine) -> None:
    assert "here is this host; run this command on another host" in refusal(
        lost, "host", "forget", "here", "--yes"
    )


def test_forget_requires_the_southbound_database(lost: Machine) -> None:
    lost.out("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "ovn-remote")
    assert "does not have ovn-remote; run `ovn-docker host setup`, or give --force" in refusal(
        lost, *FORGET, "--yes"
    )
    assert ports(lost) != ""
    lost.output(*FORGET, "--yes", "--force")
    assert ports(lost) == ""


def test_forget_asks_a_host_that_ovn_lists_for_an_answer(lost: Machine) -> None:
    lost.out("ovn-sbctl", "chassis-add", "lost", "geneve", "10.0.0.9")
    said = lost.output(*FORGET, "--yes")
    assert "lost does not answer; OVN lists it until you type: ovn-sbctl chassis-del lost\n" in said
    lost.out("ovn-sbctl", "chassis-del", "lost")


def test_forget_keeps_rows_of_containers_that_run_on_another_host(lost: Machine) -> None:
    """Any host can write the name of a lost host into the row of a port."""
    lost.out("ovn-nbctl", "--timeout=10", "--wait=sb", "sync")
    lost.out("ovn-sbctl", "chassis-add", "other", "geneve", "10.0.0.8")
    lost.out("ovn-sbctl", "lsp-bind", PORT, "other")
    said = lost.ovn_docker(*FORGET, "--yes")
    assert "1 rows that name lost as their host stay, for another host has their containers" in said.stderr
    assert said.stdout.endswith("removed 1 lease\n")
    assert PORT in ports(lost)
    lost.out("ovn-sbctl", "lsp-unbind", PORT, "--", "chassis-del", "other")
    lost.output(*FORGET, "--yes")
    assert PORT not in ports(lost)


GC = ("gc", "--host", "lost")


def test_gc_with_host_removes_the_same_as_forget(lost: Machine) -> None:
    assert lost.ovn_docker("gc").stdout.splitlines() == [
        "nothing is left over, and nothing is missing",
        "lost does not run, as OVN has it; if it is gone for good: ovn-docker gc --host lost",
    ]
    assert lost.ovn_docker(*GC, "--dry-run").stdout.endswith("would remove 1 port, 1 lease\n")
    found = json.loads(lost.ovn_docker(*GC, "--dry-run", "--json").stdout)
    assert [one["kind"] for one in found["found"]] == ["port", "lease"]
    lost.output(*GC, "--yes")
    assert ports(lost) == ""
    assert lost.ovn_docker("gc").stdout == "nothing is left over, and nothing is missing\n"


def test_gc_refuses_repair_with_host(lost: Machine) -> None:
    code, said = lost.refusal(*GC, "--repair")
    assert (code, "--repair is for this host, --host for one that is gone" in said) == (2, True)
