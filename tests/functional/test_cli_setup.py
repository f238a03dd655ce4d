"""`ovn-docker central` and `host` on a machine of their own, with real OVS and OVN."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from functional.machine import Machine
from ovn_docker.setup.own_addresses import own_addresses

DEFAULTS = "/etc/default/ovn-central"
OVN_CTL = "/usr/share/ovn/scripts/ovn-ctl"
OVS_CTL = "/usr/share/openvswitch/scripts/ovs-ctl"
DRIVER = Path(sys.executable).with_name("ovn-docker-overlay-driver")


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture
def switch(machine: Machine) -> Machine:
    """A machine on which only Open vSwitch runs."""
    machine.out(OVS_CTL, "start", "--system-id=random")
    return machine


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for a key, its certificate and the authority that signed it (itself)."""
    directory = tmp_path_factory.mktemp("pem")
    key, certificate = directory / "key.pem", directory / "cert.pem"
    make = ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=test", "-days", "2", "-newkey", "ec"]
    curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"]  # fast to make
    subprocess.run([*make, *curve, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return [f"--private-key={key}", f"--certificate={certificate}", f"--ca-cert={certificate}"]


def setup(*more: str) -> tuple[str, ...]:
    """Return the usual set-up command; options in *more* override earlier ones."""
    usual = ("host", "setup", "--central=127.0.0.1", "--encap-ip=127.0.0.1", "--encap-type=geneve")
    return (*usual, *more)


# central


@pytest.mark.slow
def test_central_start_makes_the_databases_listen_as_the_guide_does(machine):
    said = machine.apply("central", "start", "--plain")
    assert "let the northbound database listen: (nowhere) -> ptcp:6641" in said
    assert "$ echo 'OVN_CTL_OPTS=\"--db-nb-use-remote-in-db=no" in said
    assert machine.out("ovn-nbctl", "get-connection") == ""
    assert machine.listening() == {"0.0.0.0:6641", "0.0.0.0:6642"}
    assert machine.out("ovn-nbctl", "--db=tcp:127.0.0.1:6641", "ls-list") == ""
    assert said.count("warning: every machine that reaches ports 6641 and 6642 on all addresses") == 1
    assert "ovn-docker central start --tls" in said
    status = machine.ovn_docker("central", "status")
    assert status.returncode == 0
    assert "listens on ptcp:6641" in status.stdout
    assert "active" in status.stdout


@pytest.mark.slow
def test_central_dry_run_starts_nothing(machine):
    done = machine.ovn_docker("central", "start", "--plain", "--dry-run")
    assert done.returncode == 0
    assert "would start ovn-northd" in done.stdout
    assert "exec /usr/share/ovn/scripts/ovn-ctl start_northd $OVN_CTL_OPTS" in done.stdout
    assert "would let the northbound database listen: (nowhere) -> ptcp:6641\n" in done.stdout
    assert machine.run("test", "-e", DEFAULTS).returncode == 1
    assert machine.listening() == set()
    assert machine.ovn_docker("central", "status").returncode == 3


@pytest.mark.slow
def test_a_new_central_machine_has_an_authority_and_listens_with_tls(machine):
    machine.out("ip", "address", "add", "10.7.0.5/32", "dev", "lo")
    machine.out("ip", "route", "add", "default", "dev", "lo", "src", "10.7.0.5")
    assert "would make an authority in /etc/ovn-docker/pki" in machine.output("central", "start", "--dry-run")
    assert machine.out("ls", "-A", "/etc/ovn-docker") == machine.out("ls", "-A", "/etc/openvswitch") == ""
    said = machine.apply("central", "start")
    assert machine.listening() == {"0.0.0.0:6641", "0.0.0.0:6642", "0.0.0.0:6645"}
    (token,) = re.findall(r"\n    ovn-docker join 10\.7\.0\.5 --token (ovnd1\.\S+)", said)
    files = {"private-key": "key", "certificate": "cert", "ca-cert": "ca"}
    pem = [f"--{option}=/etc/ovn-docker/tls/{file}.pem" for option, file in files.items()]
    assert machine.out("ovn-nbctl", "--db=ssl:10.7.0.5:6641", *pem, "ls-list") == ""
    assert machine.run("ovn-nbctl", "--timeout=2", "--db=tcp:10.7.0.5:6641", "ls-list").returncode != 0
    status = machine.ovn_docker("central", "status")
    assert (status.returncode, "restricted" in status.stdout) == (0, True), status.stdout
    assert re.search(r"(?m)^enrolment +running \(pid \d+\) +answers hosts that join$", status.stdout)
    (listed,) = json.loads(machine.output("token", "list", "--json"))
    assert token.split(".")[1] == listed["id"]
    assert machine.out("stat", "-c", "%a", "/etc/ovn-docker/pki") == "700"
    machine.apply("central", "stop")
    assert machine.listening() == set()
    assert "ovn-docker join" not in machine.apply("central", "start")
    assert machine.listening() == {"0.0.0.0:6641", "0.0.0.0:6642", "0.0.0.0:6645"}


def test_a_machine_that_others_cannot_reach_becomes_no_central_machine(machine):
    code, said = machine.refusal("central", "start")
    assert (code, "no address that others reach; give --address IP, or --plain" in said) == (2, True)
    assert machine.refusal("central", "start", "--plain", "--cluster=127.0.0.1")[0] == 2
    assert machine.out("ls", "-A", "/etc/ovn-docker") == ""


@pytest.mark.slow
def test_central_start_keeps_the_address_of_an_earlier_start(machine):
    assert "warning" not in machine.output("central", "start", "--address", "127.0.0.1")
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642"}
    machine.apply("central", "stop")
    assert machine.listening() == set()
    assert "listen" not in machine.output("central", "start")
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642"}
    assert "ptcp:6641:127.0.0.1 -> ptcp:6641:[::1]" in machine.apply("central", "start", "--address", "::1")
    assert machine.listening() == {"[::1]:6641", "[::1]:6642"}
    said = machine.apply("central", "start", "--address", "0.0.0.0")
    assert "warning: every machine that reaches ports 6641 and 6642 on 0.0.0.0 can" in said


def restart_as_debians_units(machine: Machine) -> None:
    """Run the command lines of the units, as systemd does at boot."""
    for database in ("nb", "sb"):
        machine.out("sh", "-c", f". {DEFAULTS}; {OVN_CTL} restart_{database}_ovsdb $OVN_CTL_OPTS")


def hosts_tool(*pem: str) -> tuple[str, ...]:
    """Return ovn-nbctl as a host runs it: over the network, with its certificate."""
    return ("ovn-nbctl", "--timeout=5", f"--db={'ssl' if pem else 'tcp'}:127.0.0.1:6641", *pem)


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_rows_that_a_host_writes_do_not_change_where_the_databases_listen(machine, pem, secure):
    files = pem if secure else []
    machine.apply("central", "start", "--address=127.0.0.1", *files)
    listening = machine.listening()
    tool = hosts_tool(*files)
    for rows in (
        ["set-connection", "pssl:6641", "ptcp:16641"],
        ["set-ssl", "/etc/hostname", "/etc/hostname", "/etc/hostname", "TLSv1.1", "ALL@SECLEVEL=0"],
        ["del-connection"],
        ["set-connection", "ptcp:16641"],
    ):
        machine.out(*tool, *rows)
        assert machine.out(*tool, "ls-list") == ""
        assert machine.listening() == listening
    status = machine.ovn_docker("central", "status")
    assert (status.returncode, "rows without effect: ptcp:16641" in status.stdout) == (0, True)
    restart_as_debians_units(machine)
    assert machine.listening() == listening
    assert machine.out(*tool, "ls-list") == ""
    said = machine.apply("central", "start")
    assert "remove the rows that had the northbound database listen: ptcp:16641" in said
    assert "remove the row with the key of the northbound database" in said
    assert machine.listening() == listening


def accepts_tls(machine: Machine, version: str, port: int, pem: list[str]) -> bool:
    """Return whether a server accepts a connection of a TLS version, with any ciphers."""
    key, certificate, authority = (option.partition("=")[2] for option in pem)
    ask = ("openssl", "s_client", f"-{version}", "-connect", f"127.0.0.1:{port}", "-CAfile", authority)
    said = machine.run(*ask, "-cipher", "ALL@SECLEVEL=0", "-key", key, "-cert", certificate).stdout
    return "Verify return code: 0 (ok)" in said and "Cipher is (NONE)" not in said


@pytest.mark.slow
def test_rows_do_not_enable_old_versions_and_ciphers_of_tls(machine, pem):
    weak = ("TLSv1,TLSv1.1,TLSv1.2", "ALL@SECLEVEL=0")
    files = [option.partition("=")[2] for option in pem]
    machine.out(OVN_CTL, "start_northd")
    machine.out("ovn-nbctl", "set-ssl", *files, *weak, "--", "set-connection", "pssl:6641:127.0.0.1")
    assert accepts_tls(machine, "tls1_1", 6641, pem)  # as every machine did that an earlier version set up
    machine.apply("central", "start", *pem)
    for port, control in ((6641, "ovn-nbctl"), (6642, "ovn-sbctl")):
        machine.out(control, "set-ssl", *files, *weak)
        for version, taken in (("tls1", False), ("tls1_1", False), ("tls1_2", True)):
            assert accepts_tls(machine, version, port, pem) == taken, (version, port)
    restart_as_debians_units(machine)
    assert not accepts_tls(machine, "tls1_1", 6641, pem)


@pytest.mark.slow
def test_central_start_replaces_listeners_that_rows_set(machine, pem):
    machine.out(OVN_CTL, "start_northd")
    files = [option.partition("=")[2] for option in pem]
    machine.out("ovn-nbctl", "set-ssl", *files, "--", "set-connection", "pssl:6641:127.0.0.1", "ptcp:16641")
    machine.out("ovn-sbctl", "set-connection", "ptcp:6642:127.0.0.1")
    assert machine.listening() >= {"127.0.0.1:6641", "0.0.0.0:16641"}
    assert "which every host can change" in machine.ovn_docker("central", "status").stdout
    said = machine.apply("central", "start")
    assert "warning: the northbound database has its key and certificates from a row" in said
    (removed,) = re.findall("remove the rows that had the northbound database listen: (.+)", said)
    assert set(removed.split(", ")) == {"pssl:6641:127.0.0.1", "ptcp:16641"}
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642"}
    assert machine.out(*hosts_tool(*pem), "ls-list") == ""
    assert machine.out("ovn-nbctl", "get-connection") == machine.out("ovn-nbctl", "get-ssl") == ""
    assert "which every host can change" not in machine.ovn_docker("central", "status").stdout


@pytest.mark.slow
def test_central_start_of_a_stopped_machine_never_opens_listeners_that_rows_set(machine):
    machine.out(OVN_CTL, "start_northd")
    machine.out("ovn-nbctl", "set-connection", "ptcp:6641:127.0.0.1", "ptcp:16641")
    machine.out(OVN_CTL, "stop_northd")
    said = machine.output("central", "start", "--dry-run")
    assert "would let the northbound database listen: ptcp:6641:127.0.0.1" not in said
    assert "--ovn-nb-log=--remote=ptcp:6641:127.0.0.1 " in said
    assert "restart" not in machine.apply("central", "start", "--address=127.0.0.1")
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "why"),
    [
        (("set-connection", "ptcp:6641:$(touch /run/pwned)"), "which is not an address; give --address"),
        (("set-ssl", '/x" -- --no-monitor "', "/etc/hostname", "/etc/hostname"), "give --tls DIRECTORY"),
    ],
)
def test_unsafe_values_of_rows_are_not_written_into_the_file_of_options(machine, pem, row, why):
    machine.out(OVN_CTL, "start_northd")
    files = [option.partition("=")[2] for option in pem]
    machine.out("ovn-nbctl", "set-ssl", *files, "--", "set-connection", "pssl:6641:127.0.0.1")
    machine.out("ovn-nbctl", *row)
    done = machine.ovn_docker("central", "start")
    assert done.returncode == 2
    assert why in done.stderr
    assert machine.run("test", "-e", DEFAULTS).returncode == 1
    machine.apply("central", "start", "--address=127.0.0.1", *pem)


@pytest.mark.slow
def test_options_of_the_administrator_stay_and_are_in_force(machine, pem):
    line = 'OVN_CTL_OPTS="--ovn-northd-n-threads=2 -- --ssl-ciphers=ECDHE-ECDSA-AES256-GCM-SHA384"'
    machine.out("sh", "-c", f"umask 0; printf '# mine\n%s' '{line}' >{DEFAULTS}")
    machine.apply("central", "start", *pem)
    text = machine.out("cat", DEFAULTS)
    assert text.startswith(f"# mine\n{line}\n# Written by")
    assert "--ssl-ciphers=ECDHE-ECDSA-AES256-GCM-SHA384 " in text.splitlines()[-1]
    assert text.splitlines()[-1].count("--ssl-ciphers") == 1
    assert machine.out("stat", "-c", "%a", DEFAULTS) == "644"
    assert "--n-threads=2" in machine.out(
        "sh", "-c", "tr '\\0' ' ' </proc/$(cat /run/ovn/ovn-northd.pid)/cmdline"
    )
    machine.out("sed", "-i", "s/n-threads=2/n-threads=3/", DEFAULTS)
    machine.out("sed", "-i", "/^# Written/,$ s/n-threads=3/n-threads=2/", DEFAULTS)
    machine.apply("central", "start")
    assert machine.out("cat", DEFAULTS).count("n-threads=3") == 2


@pytest.mark.slow
def test_central_stop_with_reset_removes_the_listeners_from_the_file_of_options(machine):
    machine.out("sh", "-c", f"echo '# mine' >{DEFAULTS}")
    machine.apply("central", "start", "--address=127.0.0.1")
    assert "would remove our options" in machine.output("central", "stop", "--reset", "--dry-run")
    assert f"remove our options from {DEFAULTS}" in machine.apply("central", "stop", "--reset")
    assert machine.out("cat", DEFAULTS) == "# mine"


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (
            "--ovn-nb-log=-vfile:dbg",
            "has --ovn-nb-log=-vfile:dbg, but this needs --ovn-nb-log=--remote=ptcp:6641",
        ),
        ("--db-nb-create-insecure-remote=yes", "but this needs --db-nb-create-insecure-remote=no"),
        ("--db-sb-use-remote-in-db=yes", "but this needs --db-sb-use-remote-in-db=no; remove it there"),
    ],
)
def test_options_of_the_administrator_that_contradict_the_listeners_are_refused(machine, option, why):
    machine.out("sh", "-c", f"echo 'OVN_CTL_OPTS=\"{option}\"' >{DEFAULTS}")
    code, said = machine.refusal("central", "start", "--plain")
    assert (code, why in said) == (2, True), said
    assert machine.listening() == set()


@pytest.mark.slow
def test_central_start_with_tls_refuses_plain_connections(machine, pem):
    said = machine.apply("central", "start", *pem)
    assert said.count("--ovn-sb-db-ssl-key=") == 1
    assert "warning" not in said
    assert machine.out("ovn-nbctl", "--db=ssl:127.0.0.1:6641", *pem, "ls-list") == ""
    assert machine.run("ovn-nbctl", "--timeout=2", "--db=tcp:127.0.0.1:6641", "ls-list").returncode != 0
    assert "nothing to change" in machine.ovn_docker("central", "start").stdout
    assert "listens on pssl:6642" in machine.ovn_docker("central", "status").stdout


def test_central_start_refuses_foreign_addresses_and_incomplete_tls_files(machine, pem):
    code, said = machine.refusal("central", "start", "--address", "10.9.9.9")
    assert code == 2
    assert "10.9.9.9 is not an address of this host; it has 127.0.0.1, ::1" in said
    code, said = machine.refusal("central", "start", pem[0])
    assert code == 2
    assert "add --certificate, --ca-cert" in said
    assert machine.listening() == set()


@pytest.mark.slow
def test_central_start_reports_a_port_that_another_program_has(machine):
    squat = "import socket; s = socket.create_server(('127.0.0.1', 6641)); print(flush=True); s.accept()"
    with subprocess.Popen(machine.inside(sys.executable, "-c", squat), stdout=subprocess.PIPE) as squatter:
        squatter.stdout.readline()
        done = machine.ovn_docker("central", "start", "--address", "127.0.0.1")
        status = machine.ovn_docker("central", "status")
        squatter.kill()
    assert done.returncode == 3
    assert "another program may have the port; see /var/log/ovn/ovsdb-server-nb.log" in done.stderr
    assert status.returncode == 3
    assert "should listen on ptcp:6641:127.0.0.1 but cannot" in status.stdout


@pytest.mark.slow
def test_central_status_reports_dead_daemons_and_a_dry_run_of_stop_stops_none(machine):
    machine.output("central", "start", "--plain")
    assert "would stop ovn-northd" in machine.output("central", "stop", "--dry-run")
    assert machine.ovn_docker("central", "status").returncode == 0
    machine.out("ovn-appctl", "-t", "ovn-northd", "exit")
    machine.out("/usr/share/ovn/scripts/ovn-ctl", "stop_sb_ovsdb")
    status = machine.ovn_docker("central", "status")
    assert status.returncode == 3
    assert status.stdout.count("not running") == 2
    assert "start ovn-northd" in machine.apply("central", "start")
    assert machine.ovn_docker("central", "status").returncode == 0


# host setup


@pytest.mark.slow
def test_host_setup_writes_the_settings_of_the_guide(switch):
    before = switch.external_ids()
    said = switch.apply(*setup())
    assert "set external_ids of Open_vSwitch:\n  ovn-remote: (unset) -> tcp:127.0.0.1:6642\n" in said
    assert switch.external_ids() == before | {
        "ovn-remote": "tcp:127.0.0.1:6642",
        "ovn-nb": "tcp:127.0.0.1:6641",
        "ovn-encap-ip": "127.0.0.1",
        "ovn-encap-type": "geneve",
        "ovn-bridge-datapath-type": "netdev",
    }


@pytest.mark.slow
def test_host_setup_prints_old_and_new_values_and_writes_only_differences(switch):
    switch.output(*setup())
    said = switch.apply(*setup("--central=10.0.0.1,fd00::1", "--encap-type=vxlan"))
    assert "ovn-nb: tcp:127.0.0.1:6641 -> tcp:10.0.0.1:6641,tcp:[fd00::1]:6641" in said
    assert "ovn-encap-type: geneve -> vxlan" in said
    assert "encap-ip" not in said
    assert switch.external_ids()["ovn-remote"] == "tcp:10.0.0.1:6642,tcp:[fd00::1]:6642"


def test_host_setup_accepts_settings_that_were_typed_by_hand(switch):
    switch.out(
        "ovs-vsctl", "set", "Open_vSwitch", ".", 'external_ids:ovn-remote="tcp:127.0.0.1:6642"',
        'external_ids:ovn-nb="tcp:127.0.0.1:6641"', "external_ids:ovn-encap-ip=127.0.0.1",
        'external_ids:ovn-encap-type="geneve"', "external_ids:ovn-bridge-datapath-type=netdev",
    )  # fmt: skip
    assert switch.output(*setup()).startswith("nothing to change\n")


def test_host_setup_dry_run_changes_nothing(switch):
    switch.out("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "system-id")
    switch.out("rm", "/etc/openvswitch/system-id.conf")
    before = switch.external_ids()
    said = switch.output(*setup("--dry-run"))
    assert """'external_ids:ovn-remote="tcp:127.0.0.1:6642"'""" in said
    assert "would write a new system-id to /etc/openvswitch/system-id.conf" in said
    assert switch.external_ids() == before
    assert switch.run("test", "-e", "/etc/openvswitch/system-id.conf").returncode == 1


@pytest.mark.slow
def test_host_setup_writes_a_lasting_system_id_if_there_is_none(switch):
    switch.out("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "system-id")
    switch.out("rm", "/etc/openvswitch/system-id.conf")
    switch.output(*setup())
    name = switch.external_ids()["system-id"]
    assert len(name) == 36
    assert switch.out("cat", "/etc/openvswitch/system-id.conf") == name
    switch.out("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "system-id")
    switch.output(*setup())
    assert switch.external_ids()["system-id"] == name


@pytest.mark.slow
def test_host_setup_guesses_address_and_kind_of_the_tunnels(switch):
    for number in range(1, 31):
        switch.out("ip", "link", "add", f"veth{number}", "type", "veth", "peer", "name", f"peer{number}")
        switch.out("ip", "link", "set", f"veth{number}", "up")
    switch.out("ip", "address", "add", "10.0.0.2/24", "dev", "veth1")
    switch.out("ip", "address", "add", "10.9.0.2/24", "dev", "veth2")
    switch.out("ip", "link", "set", "peer1", "up")
    first = switch.ovn_docker("host", "setup", "--central=10.0.0.1", "--datapath=netdev")
    assert "ovn-encap-ip: (unset) -> 10.0.0.2" in first.stdout
    assert "ovn-encap-type: (unset) -> geneve" in first.stdout
    assert "note: --encap-ip 10.0.0.2, the source address of the route to 10.0.0.1\n" in first.stderr
    switch.output(
        "host",
        "setup",
        "--central=10.0.0.1",
        "--encap-ip=10.9.0.2",
        "--encap-type=vxlan",
        "--datapath=netdev",
    )
    again = switch.ovn_docker("host", "setup", "--central=10.0.0.1", "--datapath=netdev")
    assert again.stdout == "nothing to change\n", "what is set stays"
    assert "--encap-ip" not in again.stderr
    switch.out("ip", "address", "del", "10.9.0.2/24", "dev", "veth2")
    said = switch.output("host", "setup", "--central=10.0.0.1", "--datapath=netdev")
    assert "ovn-encap-ip: 10.9.0.2 -> 10.0.0.2" in said
    code, said = switch.refusal("host", "setup", "--central=10.0.0.1", "--encap-ip=10.0.0.3")
    assert (code, len(said) < 200, "it has 127.0.0.1, ::1, 10.0.0.2\n" in said) == (2, True, True)


@pytest.mark.slow
def test_host_setup_of_a_single_machine_takes_the_address_of_its_default_route(switch):
    said = switch.ovn_docker("host", "setup", "--central=127.0.0.1", "--dry-run", "--datapath=netdev")
    assert "note: --encap-ip 127.0.0.1, the source address of the route to 127.0.0.1" in said.stderr
    switch.out("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "cable")
    switch.out("ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
    switch.out("ip", "link", "set", "eth0", "up")
    switch.out("ip", "route", "add", "default", "via", "10.0.0.1")
    said = switch.ovn_docker("host", "setup", "--central=127.0.0.1", "--dry-run", "--datapath=netdev")
    assert "note: --encap-ip 10.0.0.2, the source address of the default route" in said.stderr


def test_host_setup_without_a_route_asks_for_an_address(switch):
    code, said = switch.refusal("host", "setup", "--central=192.0.2.9", "--datapath=netdev")
    assert code == 2
    assert "there is no route to 192.0.2.9: give the address of this host that other hosts reach" in said


def test_host_setup_without_open_vswitch_names_the_command_that_starts_it(machine):
    code, said = machine.refusal(*setup())
    assert code == 3
    assert "Open vSwitch is not running; start it with `/usr/share/openvswitch/scripts/ovs-ctl start" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--encap-ip=10.9.9.9"],
            "--encap-ip 10.9.9.9 is not an address of this host; it has 127.0.0.1, ::1",
        ),
        (["--encap-type=stt", "--datapath=netdev"], "the userspace datapath (netdev) of this host supports "),
        (["--tls"], "Open vSwitch has no key yet; give the directory that has it: --tls DIR"),
        (["--central=10.0.0.1,ten"], "'ten' is not an IP address"),
    ],
)
def test_host_setup_refuses_values_that_cannot_work(switch, more, words):
    before = switch.external_ids()
    code, said = switch.refusal(*setup(*more))
    assert code == 2
    assert words in said
    assert switch.external_ids() == before


@pytest.mark.slow
def test_host_setup_uses_netdev_on_a_kernel_without_open_vswitch(switch):
    hide_modules(switch)
    code, said = switch.refusal(*setup("--datapath=system"))
    assert code == 2
    assert "this kernel has no openvswitch module" in said
    assert "ovn-bridge-datapath-type: (unset) -> netdev" in switch.output(*setup())


@pytest.mark.slow
def test_host_setup_advises_a_bridge_for_tunnels_in_user_space(switch):
    switch.out("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "cable")
    switch.out("ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
    said = switch.apply(*setup("--encap-ip=10.0.0.2"))
    assert "ovn-docker underlay bridge --interface eth0 --bridge breth0" in said
    switch.out("ovs-vsctl", "--no-wait", "add-br", "eth0")
    assert "underlay bridge" not in switch.apply(*setup("--encap-ip=10.0.0.2", "--encap-type=vxlan"))


@pytest.mark.slow
def test_host_setup_uses_system_on_a_kernel_with_open_vswitch(switch):
    hide_modules(switch, "openvswitch", "geneve")
    for kind in ("vxlan", "stt"):
        code, said = switch.refusal(*setup(f"--encap-type={kind}"))
        assert code == 2
        assert f"--encap-type {kind}: the kernel datapath of this host supports geneve\n" in said
    assert "ovn-bridge-datapath-type: (unset) -> system" in switch.output(*setup())


def hide_modules(machine: Machine, *loaded: str) -> None:
    """Make the machine's kernel appear to have exactly these modules loaded and no others available."""
    machine.out("mount", "-t", "tmpfs", "none", "/sys/module")
    for module in loaded:
        machine.out("mkdir", f"/sys/module/{module}")
    for tool in ("modprobe", "ovs-dpctl"):
        found = machine.run("sh", "-c", f"command -v {tool}").stdout.strip()
        if found:
            machine.out("mount", "--bind", "/bin/false", found)


@pytest.mark.slow
def test_host_setup_moves_an_existing_bridge_to_the_datapath(switch):
    switch.out("ovs-vsctl", "--no-wait", "add-br", "br-int")
    said = switch.apply(*setup("--datapath=netdev"))
    assert "move br-int from datapath system to netdev" in said
    assert switch.out("ovs-vsctl", "get", "Bridge", "br-int", "datapath_type") == "netdev"


@pytest.mark.slow
def test_host_setup_with_tls_sets_files_and_ssl_remotes(switch, pem):
    said = switch.apply(*setup(*pem))
    assert "set key and certificates of Open vSwitch" in said
    assert switch.external_ids()["ovn-nb"] == "ssl:127.0.0.1:6641"
    assert pem[0].partition("=")[2] in switch.out("ovs-vsctl", "get-ssl")
    assert switch.apply(*setup("--tls")).startswith("nothing to change\n")


# host start, stop, status


def test_host_start_requires_host_setup(machine):
    done = machine.ovn_docker("host", "start")
    assert done.returncode == 3
    assert "start Open vSwitch" in done.stdout
    assert "does not know its central machine; run `ovn-docker host setup --central IP" in done.stderr


@pytest.mark.slow
def test_host_start_dry_run_starts_nothing(machine):
    done = machine.ovn_docker("host", "start", "--dry-run")
    assert done.returncode == 0, done
    assert f"$ {OVS_CTL} start --system-id=random\n" in done.stdout
    assert "$ /usr/share/ovn/scripts/ovn-ctl start_controller\n" in done.stdout
    assert "ovn-docker-overlay-driver --detach --pidfile --log-file\n" in done.stdout
    status = machine.ovn_docker("host", "status")
    assert status.returncode == 3
    assert status.stdout.count("not running") == 4
    status = machine.ovn_docker("host", "status", "--json")
    names = ("ovsdb-server", "ovs-vswitchd", "ovn-controller", "driver")
    assert status.returncode == 3
    assert {one["name"]: (one["is_up"], one["pid"]) for one in json.loads(status.stdout)} == (
        dict.fromkeys(names, (False, None))
    )


@pytest.mark.slow
@pytest.mark.skipif(not DRIVER.exists(), reason=f"{DRIVER} is not there; pip install -e .")
def test_host_start_status_and_stop_manage_all_daemons(switch):
    switch.output("central", "start", "--address=127.0.0.1")
    switch.output(*setup())
    said = switch.apply("host", "start")
    assert "start ovn-controller" in said
    assert f"$ {DRIVER} --detach" in said
    status = switch.ovn_docker("host", "status")
    assert status.returncode == 0, status
    assert "connected" in status.stdout
    assert "answers on /run/docker/plugins/openvswitch.sock" in status.stdout
    assert "would stop the driver" in switch.ovn_docker("host", "stop", "--dry-run").stdout
    assert switch.ovn_docker("host", "status").returncode == 0
    switch.out("iptables", "-t", "nat", "-N", "OVN-DOCKER-NAMES")
    said = switch.apply("host", "stop")
    assert said.index("stop the driver") < said.index("stop ovn-controller")
    assert "OVN-DOCKER-NAMES" not in switch.out(
        "iptables-save", "-t", "nat"
    )  # though OVN's databases run here
    assert switch.run("test", "-e", "/run/docker/plugins/openvswitch.sock").returncode == 1
    assert switch.out("ovs-vsctl", "--timeout=2", "get-manager") == ""  # Open vSwitch still runs
    assert "stop Open vSwitch" in switch.apply("host", "stop", "--all")
    assert switch.ovn_docker("host", "status").stdout.count("not running") == 4


@pytest.mark.slow
@pytest.mark.skipif(not DRIVER.exists(), reason=f"{DRIVER} is not there; pip install -e .")
def test_every_command_reads_the_settings_of_the_driver(switch):
    switch.output("central", "start", "--address=127.0.0.1")
    switch.out("ovs-appctl", "-t", "ovsdb-server", "ovsdb-server/add-remote", "punix:/run/elsewhere.sock")
    settings = {
        "SOCKET": "/run/docker/plugins/mine.sock",
        "DOCKER": "/run/mine/docker.sock",
        "DB": "unix:/run/elsewhere.sock",
        "OVN_RUNDIR": "/run/mine/ovn",
    }
    lines = "".join(f"OVN_DOCKER_{name}={value}\\n" for name, value in settings.items())
    switch.out("sh", "-c", f"mkdir -p /run/mine/ovn; printf '{lines}' >/etc/default/ovn-docker")
    assert "$ ovs-vsctl --db=unix:/run/elsewhere.sock --no-wait set" in switch.apply(*setup())
    assert "$ env OVN_RUNDIR=/run/mine/ovn /usr/share/ovn/scripts/ovn-ctl start_controller" in (
        switch.apply("host", "start")
    )
    switch.out("test", "-S", settings["SOCKET"])
    switch.out("test", "-e", "/run/mine/ovn/ovn-controller.pid")
    status = switch.ovn_docker("host", "status")
    assert (status.returncode, f"answers on {settings['SOCKET']}" in status.stdout) == (0, True), status
    switch.out("rm", "/run/openvswitch/db.sock")
    whole = json.loads(switch.ovn_docker("status", "--json").stdout)
    assert list(whole["missing"]) == ["docker"]
    assert "/run/mine/docker.sock" in whole["missing"]["docker"]
    assert all(one["pid"] for one in whole["processes"])
    waits = switch.ovn_docker("network", "wait", "foo", "--timeout=0")
    assert (waits.returncode, "/run/mine/docker.sock" in waits.stderr) == (3, True)
    assert "stop ovn-controller" in switch.apply("host", "stop")


def test_an_invalid_setting_is_an_error_that_names_it(machine):
    machine.out("sh", "-c", "echo OVN_DOCKER_SOCKET=mine.sock >/etc/default/ovn-docker")
    code, said = machine.refusal("host", "start")
    assert code == 2
    assert "OVN_DOCKER_SOCKET='mine.sock' is not valid: give a path that begins with /" in said


@pytest.mark.slow
def test_reused_process_ids_in_pidfiles_do_not_count_as_daemons(switch):
    """After a crash pidfiles remain, and the kernel gives their process IDs to other processes."""
    switch.out("kill", "-9", switch.out("cat", "/run/openvswitch/ovs-vswitchd.pid"))
    switch.out("mkdir", "-p", "/run/ovn")
    for name in ("openvswitch/ovs-vswitchd", "ovn/ovn-controller"):
        sleeps = f"sh -c 'sleep 60; :' {Path(name).name} >/dev/null 2>&1 & echo $! >/run/{name}.pid"
        switch.out("sh", "-c", sleeps)
    assert switch.ovn_docker("host", "status").stdout.count("not running") == 3
    said = json.loads(switch.ovn_docker("status", "--json").stdout)
    processes = {one["name"]: one["pid"] for one in said["processes"]}
    assert processes["ovsdb-server"]
    assert (processes["ovs-vswitchd"], processes["ovn-controller"]) == (None, None)


@pytest.mark.slow
@pytest.mark.skipif(not DRIVER.exists(), reason=f"{DRIVER} is not there; pip install -e .")
def test_host_stop_stops_a_driver_without_pidfile(switch):
    switch.out(str(DRIVER), "--detach")
    assert "stop the driver" in switch.apply("host", "stop")
    assert switch.run("test", "-e", "/run/docker/plugins/openvswitch.sock").returncode == 1


@pytest.mark.slow
def test_host_status_reports_an_unreachable_central_machine(switch):
    switch.output(*setup())
    switch.out("/usr/share/ovn/scripts/ovn-ctl", "start_controller")
    status = switch.ovn_docker("host", "status")
    assert status.returncode == 3
    assert "not connected to the southbound database" in status.stdout


@pytest.mark.slow
def test_units_are_used_where_systemd_runs_the_machine(machine):
    machine.out("mkdir", "-p", "/run/systemd/system")
    said = machine.ovn_docker("central", "start", "--plain", "--dry-run").stdout
    assert "$ systemctl start ovn-central" in said
    said = machine.ovn_docker("host", "start", "--dry-run").stdout
    assert "$ systemctl start openvswitch-switch" in said
    assert "$ systemctl start ovn-host ovn-controller" in said
    assert "start it with `systemctl start openvswitch-switch`" in machine.refusal(*setup())[1]


def test_warnings_of_tools_are_not_read_as_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ip(8) prints a warning within its JSON when links change while it lists addresses."""
    tool = tmp_path / "ip"
    tool.write_text(
        "#!/bin/sh\n"
        'echo "Dump was interrupted and may be inconsistent." >&2\n'
        """echo '[{"ifname": "eth0", "addr_info": [{"local": "10.0.0.1"}]}]'\n"""
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert own_addresses() == {"10.0.0.1": "eth0"}
