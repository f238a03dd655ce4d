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
from ovn_docker.cli import arguments

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
    """A machine on which Open vSwitch runs and nothing else."""
    machine.out(OVS_CTL, "start", "--system-id=random")
    return machine


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for a key, its certificate and the authority that signed it (itself)."""
    directory = tmp_path_factory.mktemp("pem")
    key, certificate = directory / "key.pem", directory / "cert.pem"
    make = ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=test", "-days", "2", "-newkey", "ec"]
    curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"]  # made in no time
    subprocess.run([*make, *curve, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return [f"--private-key={key}", f"--certificate={certificate}", f"--ca-cert={certificate}"]


def setup(*more: str) -> tuple[str, ...]:
    """The usual set-up command; what comes later on the line overrides."""
    usual = ("host", "setup", "--central=127.0.0.1", "--encap-ip=127.0.0.1", "--encap-type=geneve")
    return (*usual, *more)


# central


def test_central_starts_as_the_guide_does(machine):
    said = machine.changes("central", "start")
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


def test_central_dry_run_starts_nothing(machine):
    done = machine.ovn_docker("central", "start", "--dry-run")
    assert done.returncode == 0
    assert "would start ovn-northd" in done.stdout
    assert "exec /usr/share/ovn/scripts/ovn-ctl start_northd $OVN_CTL_OPTS" in done.stdout
    assert "would let the northbound database listen: (nowhere) -> ptcp:6641\n" in done.stdout
    assert machine.run("test", "-e", DEFAULTS).returncode == 1
    assert machine.listening() == set()
    assert machine.ovn_docker("central", "status").returncode == 3


def test_central_limited_to_an_address_stays_so(machine):
    assert "warning" not in machine.does("central", "start", "--address", "127.0.0.1")
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642"}
    machine.changes("central", "stop")
    assert machine.listening() == set()
    assert "listen" not in machine.does("central", "start")
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642"}
    assert "ptcp:6641:127.0.0.1 -> ptcp:6641:[::1]" in machine.changes("central", "start", "--address", "::1")
    assert machine.listening() == {"[::1]:6641", "[::1]:6642"}
    said = machine.changes("central", "start", "--address", "0.0.0.0")
    assert "warning: every machine that reaches ports 6641 and 6642 on 0.0.0.0 can" in said


def restart_as_debians_units(machine: Machine) -> None:
    """Run the command lines of the units, as systemd does at boot."""
    for database in ("nb", "sb"):
        machine.out("sh", "-c", f". {DEFAULTS}; {OVN_CTL} restart_{database}_ovsdb $OVN_CTL_OPTS")


def hosts_tool(*pem: str) -> tuple[str, ...]:
    """ovn-nbctl as a host runs it: over the network, with its certificate."""
    return ("ovn-nbctl", "--timeout=5", f"--db={'ssl' if pem else 'tcp'}:127.0.0.1:6641", *pem)


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_rows_that_a_host_writes_do_not_change_where_the_databases_listen(machine, pem, secure):
    files = pem if secure else []
    machine.changes("central", "start", "--address=127.0.0.1", *files)
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
    said = machine.changes("central", "start")
    assert "remove the rows that had the northbound database listen: ptcp:16641" in said
    assert "remove the row with the key of the northbound database" in said
    assert machine.listening() == listening


def speaks(machine: Machine, version: str, port: int, pem: list[str]) -> bool:
    """Whether a server takes a connection of that version of TLS, whatever the ciphers."""
    key, certificate, authority = (option.partition("=")[2] for option in pem)
    ask = ("openssl", "s_client", f"-{version}", "-connect", f"127.0.0.1:{port}", "-CAfile", authority)
    said = machine.run(*ask, "-cipher", "ALL@SECLEVEL=0", "-key", key, "-cert", certificate).stdout
    return "Verify return code: 0 (ok)" in said and "Cipher is (NONE)" not in said


def test_old_versions_and_ciphers_of_tls_are_refused_whatever_rows_say(machine, pem):
    weak = ("TLSv1,TLSv1.1,TLSv1.2", "ALL@SECLEVEL=0")
    files = [option.partition("=")[2] for option in pem]
    machine.out(OVN_CTL, "start_northd")
    machine.out("ovn-nbctl", "set-ssl", *files, *weak, "--", "set-connection", "pssl:6641:127.0.0.1")
    assert speaks(machine, "tls1_1", 6641, pem)  # as every machine did that an earlier version set up
    machine.changes("central", "start", *pem)
    for port, control in ((6641, "ovn-nbctl"), (6642, "ovn-sbctl")):
        machine.out(control, "set-ssl", *files, *weak)
        for version, taken in (("tls1", False), ("tls1_1", False), ("tls1_2", True)):
            assert speaks(machine, version, port, pem) == taken, (version, port)
    restart_as_debians_units(machine)
    assert not speaks(machine, "tls1_1", 6641, pem)


def test_a_machine_that_listened_where_rows_say_is_moved_over(machine, pem):
    machine.out(OVN_CTL, "start_northd")
    files = [option.partition("=")[2] for option in pem]
    machine.out("ovn-nbctl", "set-ssl", *files, "--", "set-connection", "pssl:6641:127.0.0.1", "ptcp:16641")
    machine.out("ovn-sbctl", "set-connection", "ptcp:6642:127.0.0.1")
    assert machine.listening() >= {"127.0.0.1:6641", "0.0.0.0:16641"}
    assert "which every host can change" in machine.ovn_docker("central", "status").stdout
    said = machine.changes("central", "start")
    assert "warning: the northbound database has its key and certificates from a row" in said
    (removed,) = re.findall("remove the rows that had the northbound database listen: (.+)", said)
    assert set(removed.split(", ")) == {"pssl:6641:127.0.0.1", "ptcp:16641"}
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642"}
    assert machine.out(*hosts_tool(*pem), "ls-list") == ""
    assert machine.out("ovn-nbctl", "get-connection") == machine.out("ovn-nbctl", "get-ssl") == ""
    assert "which every host can change" not in machine.ovn_docker("central", "status").stdout


def test_a_machine_that_is_down_is_moved_over_without_listening_where_rows_say(machine):
    machine.out(OVN_CTL, "start_northd")
    machine.out("ovn-nbctl", "set-connection", "ptcp:6641:127.0.0.1", "ptcp:16641")
    machine.out(OVN_CTL, "stop_northd")
    said = machine.does("central", "start", "--dry-run")
    assert "would let the northbound database listen: ptcp:6641:127.0.0.1" not in said
    assert "--ovn-nb-log=--remote=ptcp:6641:127.0.0.1 " in said
    assert "restart" not in machine.changes("central", "start", "--address=127.0.0.1")
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (("set-connection", "ptcp:6641:$(touch /run/pwned)"), "which is not an address; give --address"),
        (("set-ssl", '/x" -- --no-monitor "', "/etc/hostname", "/etc/hostname"), "give --tls DIRECTORY"),
    ],
)
def test_a_row_is_not_written_into_the_file_of_options_as_it_is(machine, pem, row, why):
    machine.out(OVN_CTL, "start_northd")
    files = [option.partition("=")[2] for option in pem]
    machine.out("ovn-nbctl", "set-ssl", *files, "--", "set-connection", "pssl:6641:127.0.0.1")
    machine.out("ovn-nbctl", *row)
    done = machine.ovn_docker("central", "start")
    assert done.returncode == 2
    assert why in done.stderr
    assert machine.run("test", "-e", DEFAULTS).returncode == 1
    machine.changes("central", "start", "--address=127.0.0.1", *pem)


def test_options_of_the_administrator_stay_and_are_in_force(machine, pem):
    line = 'OVN_CTL_OPTS="--ovn-northd-n-threads=2 -- --ssl-ciphers=ECDHE-ECDSA-AES256-GCM-SHA384"'
    machine.out("sh", "-c", f"umask 0; printf '# mine\n%s' '{line}' >{DEFAULTS}")
    machine.changes("central", "start", *pem)
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
    machine.changes("central", "start")
    assert machine.out("cat", DEFAULTS).count("n-threads=3") == 2


def test_central_stop_forgets_where_the_databases_listened_if_it_shall(machine):
    machine.out("sh", "-c", f"echo '# mine' >{DEFAULTS}")
    machine.changes("central", "start", "--address=127.0.0.1")
    assert "would remove our options" in machine.does("central", "stop", "--reset", "--dry-run")
    assert f"remove our options from {DEFAULTS}" in machine.changes("central", "stop", "--reset")
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
def test_an_option_of_the_administrator_that_would_open_another_door_is_refused(machine, option, why):
    machine.out("sh", "-c", f"echo 'OVN_CTL_OPTS=\"{option}\"' >{DEFAULTS}")
    code, said = machine.refuses("central", "start")
    assert (code, why in said) == (2, True), said
    assert machine.listening() == set()


def test_central_with_tls(machine, pem):
    said = machine.changes("central", "start", *pem)
    assert said.count("--ovn-sb-db-ssl-key=") == 1
    assert "warning" not in said
    assert machine.out("ovn-nbctl", "--db=ssl:127.0.0.1:6641", *pem, "ls-list") == ""
    assert machine.run("ovn-nbctl", "--timeout=2", "--db=tcp:127.0.0.1:6641", "ls-list").returncode != 0
    assert "nothing to change" in machine.ovn_docker("central", "start").stdout
    assert "listens on pssl:6642" in machine.ovn_docker("central", "status").stdout


def test_central_refuses_what_cannot_work(machine, pem):
    code, said = machine.refuses("central", "start", "--address", "10.9.9.9")
    assert code == 2
    assert "10.9.9.9 is not an address of this host; it has 127.0.0.1, ::1" in said
    code, said = machine.refuses("central", "start", pem[0])
    assert code == 2
    assert "add --certificate, --ca-cert" in said
    assert machine.listening() == set()


def test_central_says_when_the_port_is_taken(machine):
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


def test_central_status_sees_a_dead_part_and_a_dry_run_stops_none(machine):
    machine.does("central", "start")
    assert "would stop ovn-northd" in machine.does("central", "stop", "--dry-run")
    assert machine.ovn_docker("central", "status").returncode == 0
    machine.out("ovn-appctl", "-t", "ovn-northd", "exit")
    machine.out("/usr/share/ovn/scripts/ovn-ctl", "stop_sb_ovsdb")
    status = machine.ovn_docker("central", "status")
    assert status.returncode == 3
    assert status.stdout.count("not running") == 2
    assert "start ovn-northd" in machine.changes("central", "start")
    assert machine.ovn_docker("central", "status").returncode == 0


# host setup


def test_setup_writes_what_the_guide_writes(switch):
    before = switch.external_ids()
    said = switch.changes(*setup())
    assert "ovn-remote: (unset) -> tcp:127.0.0.1:6642" in said
    assert switch.external_ids() == before | {
        "ovn-remote": "tcp:127.0.0.1:6642",
        "ovn-nb": "tcp:127.0.0.1:6641",
        "ovn-encap-ip": "127.0.0.1",
        "ovn-encap-type": "geneve",
        "ovn-bridge-datapath-type": "netdev",
    }


def test_setup_prints_old_and_new_and_writes_only_the_difference(switch):
    switch.does(*setup())
    said = switch.changes(*setup("--central=10.0.0.1,fd00::1", "--encap-type=vxlan"))
    assert "ovn-nb: tcp:127.0.0.1:6641 -> tcp:10.0.0.1:6641,tcp:[fd00::1]:6641" in said
    assert "ovn-encap-type: geneve -> vxlan" in said
    assert "encap-ip" not in said
    assert switch.external_ids()["ovn-remote"] == "tcp:10.0.0.1:6642,tcp:[fd00::1]:6642"


def test_setup_accepts_what_was_typed_by_hand(switch):
    switch.out(
        "ovs-vsctl", "set", "Open_vSwitch", ".", 'external_ids:ovn-remote="tcp:127.0.0.1:6642"',
        'external_ids:ovn-nb="tcp:127.0.0.1:6641"', "external_ids:ovn-encap-ip=127.0.0.1",
        'external_ids:ovn-encap-type="geneve"', "external_ids:ovn-bridge-datapath-type=netdev",
    )  # fmt: skip
    assert switch.does(*setup()).startswith("nothing to change\n")


def test_setup_dry_run_changes_nothing(switch):
    switch.out("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "system-id")
    switch.out("rm", "/etc/openvswitch/system-id.conf")
    before = switch.external_ids()
    said = switch.does(*setup("--dry-run"))
    assert """'external_ids:ovn-remote="tcp:127.0.0.1:6642"'""" in said
    assert "would write a new system-id to /etc/openvswitch/system-id.conf" in said
    assert switch.external_ids() == before
    assert switch.run("test", "-e", "/etc/openvswitch/system-id.conf").returncode == 1


def test_setup_gives_a_host_without_system_id_one_that_lasts(switch):
    switch.out("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "system-id")
    switch.out("rm", "/etc/openvswitch/system-id.conf")
    switch.does(*setup())
    name = switch.external_ids()["system-id"]
    assert len(name) == 36
    assert switch.out("cat", "/etc/openvswitch/system-id.conf") == name
    switch.out("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "system-id")
    switch.does(*setup())
    assert switch.external_ids()["system-id"] == name


def test_setup_guesses_address_and_kind_of_the_tunnels(switch):
    for number in range(1, 31):
        switch.out("ip", "link", "add", f"veth{number}", "type", "veth", "peer", "name", f"peer{number}")
        switch.out("ip", "link", "set", f"veth{number}", "up")
    switch.out("ip", "address", "add", "10.0.0.2/24", "dev", "veth1")
    switch.out("ip", "address", "add", "10.9.0.2/24", "dev", "veth2")
    switch.out("ip", "link", "set", "peer1", "up")
    first = switch.ovn_docker("host", "setup", "--central=10.0.0.1", "--datapath=netdev")
    assert "ovn-encap-ip: (unset) -> 10.0.0.2" in first.stdout
    assert "ovn-encap-type: (unset) -> geneve" in first.stdout
    assert "note: --encap-ip 10.0.0.2, for the route to 10.0.0.1 begins there\n" in first.stderr
    switch.does(
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
    said = switch.does("host", "setup", "--central=10.0.0.1", "--datapath=netdev")
    assert "ovn-encap-ip: 10.9.0.2 -> 10.0.0.2" in said
    code, said = switch.refuses("host", "setup", "--central=10.0.0.1", "--encap-ip=10.0.0.3")
    assert (code, len(said) < 200, "it has 127.0.0.1, ::1, 10.0.0.2\n" in said) == (2, True, True)


def test_setup_of_a_single_machine_takes_the_address_of_its_default_route(switch):
    said = switch.ovn_docker("host", "setup", "--central=127.0.0.1", "--dry-run", "--datapath=netdev")
    assert "note: --encap-ip 127.0.0.1, for the route to 127.0.0.1 begins there" in said.stderr
    switch.out("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "cable")
    switch.out("ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
    switch.out("ip", "link", "set", "eth0", "up")
    switch.out("ip", "route", "add", "default", "via", "10.0.0.1")
    said = switch.ovn_docker("host", "setup", "--central=127.0.0.1", "--dry-run", "--datapath=netdev")
    assert "note: --encap-ip 10.0.0.2, for the default route begins there" in said.stderr


def test_setup_without_a_route_asks_for_an_address(switch):
    code, said = switch.refuses("host", "setup", "--central=192.0.2.9", "--datapath=netdev")
    assert code == 2
    assert "there is no route to 192.0.2.9: give the address of this host that other hosts reach" in said


def test_setup_without_open_vswitch_says_how_to_start_it(machine):
    code, said = machine.refuses(*setup())
    assert code == 3
    assert "Open vSwitch is not running; start it with `/usr/share/openvswitch/scripts/ovs-ctl start" in said


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
def test_setup_refuses_what_cannot_work(switch, more, words):
    before = switch.external_ids()
    code, said = switch.refuses(*setup(*more))
    assert code == 2
    assert words in said
    assert switch.external_ids() == before


def test_setup_on_a_kernel_without_open_vswitch(switch):
    hide_modules(switch)
    code, said = switch.refuses(*setup("--datapath=system"))
    assert code == 2
    assert "this kernel has no openvswitch module" in said
    assert "ovn-bridge-datapath-type: (unset) -> netdev" in switch.does(*setup())


def test_setup_says_what_tunnels_in_user_space_need(switch):
    switch.out("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "cable")
    switch.out("ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
    said = switch.changes(*setup("--encap-ip=10.0.0.2"))
    assert "ovn-docker underlay bridge --interface eth0 --bridge breth0" in said
    switch.out("ovs-vsctl", "--no-wait", "add-br", "eth0")
    assert "underlay bridge" not in switch.changes(*setup("--encap-ip=10.0.0.2", "--encap-type=vxlan"))


def test_setup_on_a_kernel_with_open_vswitch(switch):
    hide_modules(switch, "openvswitch", "geneve")
    for kind in ("vxlan", "stt"):
        code, said = switch.refuses(*setup(f"--encap-type={kind}"))
        assert code == 2
        assert f"--encap-type {kind}: the kernel datapath of this host supports geneve\n" in said
    assert "ovn-bridge-datapath-type: (unset) -> system" in switch.does(*setup())


def hide_modules(machine: Machine, *loaded: str) -> None:
    """Has the machine's kernel look as if exactly these modules were loaded and no other could be."""
    machine.out("mount", "-t", "tmpfs", "none", "/sys/module")
    for module in loaded:
        machine.out("mkdir", f"/sys/module/{module}")
    for tool in ("modprobe", "ovs-dpctl"):
        found = machine.run("sh", "-c", f"command -v {tool}").stdout.strip()
        if found:
            machine.out("mount", "--bind", "/bin/false", found)


def test_setup_moves_an_existing_bridge_to_the_datapath(switch):
    switch.out("ovs-vsctl", "--no-wait", "add-br", "br-int")
    said = switch.changes(*setup("--datapath=netdev"))
    assert "move br-int from datapath system to netdev" in said
    assert switch.out("ovs-vsctl", "get", "Bridge", "br-int", "datapath_type") == "netdev"


def test_setup_with_tls(switch, pem):
    said = switch.changes(*setup(*pem))
    assert "set key and certificates of Open vSwitch" in said
    assert switch.external_ids()["ovn-nb"] == "ssl:127.0.0.1:6641"
    assert pem[0].partition("=")[2] in switch.out("ovs-vsctl", "get-ssl")
    assert switch.changes(*setup("--tls")).startswith("nothing to change\n")


# host start, stop, status


def test_start_needs_a_setup(machine):
    done = machine.ovn_docker("host", "start")
    assert done.returncode == 3
    assert "start Open vSwitch" in done.stdout
    assert "does not know its central machine; run `ovn-docker host setup --central IP" in done.stderr


def test_start_dry_run_starts_nothing(machine):
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


@pytest.mark.skipif(not DRIVER.exists(), reason=f"{DRIVER} is not there; pip install -e .")
def test_a_whole_host(switch):
    switch.does("central", "start", "--address=127.0.0.1")
    switch.does(*setup())
    said = switch.changes("host", "start")
    assert "start ovn-controller" in said
    assert f"$ {DRIVER} --detach" in said
    status = switch.ovn_docker("host", "status")
    assert status.returncode == 0, status
    assert "connected" in status.stdout
    assert "answers on /run/docker/plugins/openvswitch.sock" in status.stdout
    assert "would stop the driver" in switch.ovn_docker("host", "stop", "--dry-run").stdout
    assert switch.ovn_docker("host", "status").returncode == 0
    switch.out("iptables", "-t", "nat", "-N", "OVN-DOCKER-NAMES")
    said = switch.changes("host", "stop")
    assert said.index("stop the driver") < said.index("stop ovn-controller")
    assert "OVN-DOCKER-NAMES" not in switch.out(
        "iptables-save", "-t", "nat"
    )  # though OVN's databases run here
    assert switch.run("test", "-e", "/run/docker/plugins/openvswitch.sock").returncode == 1
    assert switch.out("ovs-vsctl", "--timeout=2", "get-manager") == ""  # Open vSwitch still runs
    assert "stop Open vSwitch" in switch.changes("host", "stop", "--all")
    assert switch.ovn_docker("host", "status").stdout.count("not running") == 4


@pytest.mark.skipif(not DRIVER.exists(), reason=f"{DRIVER} is not there; pip install -e .")
def test_every_command_has_the_settings_of_the_driver(switch):
    switch.does("central", "start", "--address=127.0.0.1")
    switch.out("ovs-appctl", "-t", "ovsdb-server", "ovsdb-server/add-remote", "punix:/run/elsewhere.sock")
    settings = {
        "SOCKET": "/run/docker/plugins/mine.sock",
        "DOCKER": "/run/mine/docker.sock",
        "DB": "unix:/run/elsewhere.sock",
        "OVN_RUNDIR": "/run/mine/ovn",
    }
    lines = "".join(f"OVN_DOCKER_{name}={value}\\n" for name, value in settings.items())
    switch.out("sh", "-c", f"mkdir -p /run/mine/ovn; printf '{lines}' >/etc/default/ovn-docker")
    assert "$ ovs-vsctl --db=unix:/run/elsewhere.sock --no-wait set" in switch.changes(*setup())
    assert "$ env OVN_RUNDIR=/run/mine/ovn /usr/share/ovn/scripts/ovn-ctl start_controller" in (
        switch.changes("host", "start")
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
    assert "stop ovn-controller" in switch.changes("host", "stop")


def test_an_invalid_setting_is_named(machine):
    machine.out("sh", "-c", "echo OVN_DOCKER_SOCKET=mine.sock >/etc/default/ovn-docker")
    code, said = machine.refuses("host", "start")
    assert code == 2
    assert "OVN_DOCKER_SOCKET='mine.sock' is not valid: give a path that begins with /" in said


def test_processes_that_have_the_numbers_of_dead_daemons_do_not_count(switch):
    """After a crash their pidfiles are left, and their numbers are given to others."""
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


@pytest.mark.skipif(not DRIVER.exists(), reason=f"{DRIVER} is not there; pip install -e .")
def test_a_driver_that_was_started_as_in_the_guide_is_stopped_too(switch):
    switch.out(str(DRIVER), "--detach")
    assert "stop the driver" in switch.changes("host", "stop")
    assert switch.run("test", "-e", "/run/docker/plugins/openvswitch.sock").returncode == 1


def test_status_says_when_the_central_machine_is_away(switch):
    switch.does(*setup())
    switch.out("/usr/share/ovn/scripts/ovn-ctl", "start_controller")
    status = switch.ovn_docker("host", "status")
    assert status.returncode == 3
    assert "not connected to the southbound database" in status.stdout


def test_with_systemd_its_units_are_used(machine):
    machine.out("mkdir", "-p", "/run/systemd/system")
    assert "$ systemctl start ovn-central" in machine.ovn_docker("central", "start", "--dry-run").stdout
    said = machine.ovn_docker("host", "start", "--dry-run").stdout
    assert "$ systemctl start openvswitch-switch" in said
    assert "$ systemctl start ovn-host ovn-controller" in said
    assert "start it with `systemctl start openvswitch-switch`" in machine.refuses(*setup())[1]


def test_a_tools_warning_is_not_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ip(8) warns in the midst of JSON when links change while it lists addresses."""
    tool = tmp_path / "ip"
    tool.write_text(
        "#!/bin/sh\n"
        'echo "Dump was interrupted and may be inconsistent." >&2\n'
        """echo '[{"ifname": "eth0", "addr_info": [{"local": "10.0.0.1"}]}]'\n"""
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert arguments.own_addresses() == {"10.0.0.1": "eth0"}
