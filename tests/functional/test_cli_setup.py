"""`ovn-docker central` and `host` on a machine of their own, with real OVS and OVN."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from functional.machine import Machine
from ovn_docker.cli import arguments

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
    assert "$ ovn-sbctl set-connection ptcp:6642" in said
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
    assert "$ /usr/share/ovn/scripts/ovn-ctl start_northd\n" in done.stdout
    assert "$ ovn-nbctl set-connection ptcp:6641\n" in done.stdout
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


def test_central_keeps_what_others_set_on_connections(machine):
    machine.does("central", "start")
    uuid = machine.out("ovn-nbctl", "--bare", "--columns=_uuid", "list", "Connection")
    machine.out("ovn-nbctl", "set", "Connection", uuid, "inactivity_probe=60000")
    more = ["--id=@c", "create", "Connection", 'target="ptcp:7777:127.0.0.1"', "--"]
    machine.out("ovn-nbctl", *more, "add", "NB_Global", ".", "connections", "@c")
    machine.changes("central", "start", "--address", "127.0.0.1")
    assert machine.out("ovn-nbctl", "get", "Connection", uuid, "inactivity_probe") == "60000"
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642", "127.0.0.1:7777"}
    machine.out("ovn-nbctl", "set-connection", "ptcp:7777:127.0.0.1")
    machine.does("central", "start", "--address", "127.0.0.1")
    assert machine.listening() == {"127.0.0.1:6641", "127.0.0.1:6642", "127.0.0.1:7777"}


def test_central_with_tls(machine, pem):
    said = machine.changes("central", "start", *pem)
    assert "set key and certificates of the southbound database" in said
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
    said = switch.changes("host", "stop")
    assert said.index("stop the driver") < said.index("stop ovn-controller")
    assert switch.run("test", "-e", "/run/docker/plugins/openvswitch.sock").returncode == 1
    assert switch.out("ovs-vsctl", "--timeout=2", "get-manager") == ""  # Open vSwitch still runs
    assert "stop Open vSwitch" in switch.changes("host", "stop", "--all")
    assert switch.ovn_docker("host", "status").stdout.count("not running") == 4


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
