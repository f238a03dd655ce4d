"""The files of `make install`, above all the systemd units, and a machine that boots with them."""

import configparser
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import takewhile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from functional import test_install
from functional.machine import OVN_DOCKER, PID, STATE, Machine
from functional.ovsdb_servers import until
from ovn_docker.doctor.checks import ACTIVE
from ovn_docker.settings import Settings

SOURCE = Path(__file__).parents[2]
UNITS = ("ovn-docker-overlay.socket", "ovn-docker-overlay.service")
UNDERLAY = ("ovn-docker-underlay.socket", "ovn-docker-underlay.service")
LIVE = "ovn-docker-live.service"
ENROLMENT = "ovn-docker-enrolment.service"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("systemd-analyze"), reason="systemd-analyze is missing; apt install systemd"
    ),
]


def make(*argv: str) -> None:
    """Run make without a virtual environment and with umask 077."""
    outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["make", *argv],
        cwd=SOURCE,
        env=outside,
        umask=0o077,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which ovn-docker is installed as into /."""
    return test_install.made_once(
        tmp_path_factory, "tree", lambda tree: make("install", f"DESTDIR={tree}", "MODE=underlay")
    )


def installed(tree: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command on a machine on which the parts of the tree are mounted at their places."""
    mounts = (
        "set -e; mount -t tmpfs none /opt; mkdir /opt/ovn-docker; "
        f"mount --bind {tree}/opt/ovn-docker /opt/ovn-docker; "
        f"mount --bind {tree}/usr/local/bin /usr/local/bin; "
    )
    return subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", mounts + command],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tree}/etc/systemd/system:"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def unit(tree: Path, name: str) -> configparser.ConfigParser:
    """A unit file, parsed."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(tree / "etc/systemd/system" / name)
    return parser


def test_installed_files_have_the_modes_of_system_files(tree):
    assert test_install.modes(tree) == test_install.MODES


@pytest.mark.parametrize("units", [UNITS, UNDERLAY, (LIVE, ENROLMENT)], ids=["overlay", "underlay", "others"])
def test_systemd_accepts_the_units_without_a_warning(tree, units):
    done = installed(tree, f"systemd-analyze verify --man=no {' '.join(units)}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("service", [UNITS[1], UNDERLAY[1], LIVE, ENROLMENT])
def test_service_has_a_bounded_exposure(tree, service):
    done = installed(tree, f"systemd-analyze security --offline=yes --threshold=19 --no-pager {service}")
    assert done.returncode == 0, done.stdout + done.stderr  # 1.9 of 10 points of exposure, or less


@pytest.mark.parametrize("name", [UNITS[0], UNDERLAY[0]])
def test_socket_is_at_the_path_that_docker_and_the_driver_expect(tree, name):
    (default,) = (field.default for field in fields(Settings) if field.name == "socket")
    socket = unit(tree, name)
    assert socket["Socket"]["ListenStream"] == str(default) == "/run/docker/plugins/openvswitch.sock"
    assert socket["Socket"]["SocketMode"] == "0600"
    assert socket["Unit"]["Before"] == "docker.service"


def test_installed_programs_run_and_contain_no_path_of_the_build(tree):
    for program in ("ovn-docker", "ovn-docker-overlay-driver", "ovn-docker-underlay-driver"):
        done = installed(tree, f"/usr/local/bin/{program} --version")
        assert done.returncode == 0, done.stderr
        assert "ovn-docker" in done.stdout
    found = subprocess.run(
        ["grep", "-rlI", str(tree), tree],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""


@pytest.mark.parametrize("service", [UNITS[1], UNDERLAY[1]])
def test_options_in_the_service_are_options_of_the_driver(tree, service):
    program, *options = unit(tree, service)["Service"]["ExecStart"].split()
    done = installed(tree, f"{program} {' '.join(options)} --version")
    assert done.returncode == 0, done.stderr


# A machine on which systemd is process 1. Its /sys, /proc/sys and /dev cannot reach the real machine.
BOOT = f"""
echo 0 > $GROUP/cgroup.procs
mount -t tmpfs none $TOP
cd $TOP
mkdir upper work root
mount -t overlay none -o lowerdir=/,upperdir=upper,workdir=work root
cd root
rm -rf etc/systemd/system/* etc/default/ovn-docker
for d in nb sb; do  # ovn-northd comes after these: to stop it stops databases that run, too
    ln -s /lib/systemd/system/ovn-ovsdb-server-$d.service etc/systemd/system/ovn-$d-ovsdb.service
done
for d in {STATE}; do rm -rf .$d; mkdir -p .$d; done
: > etc/fstab
cp -a $TREE/etc $TREE/usr .
mkdir -p opt/ovn-docker
mount --bind $TREE/opt/ovn-docker opt/ovn-docker
for d in $SHARED; do mkdir -p .$d; mount --bind $d .$d; done
ln -s /dev/null etc/systemd/system/systemd-tmpfiles-setup.service  # it would empty /tmp
printf '[Unit]\\nWants={" ".join(UNITS)}\\n' > etc/systemd/system/test.target
mount -t sysfs -o ro none sys
mount -t tmpfs none run
mount -t tmpfs -o mode=755 none dev
for n in null zero full random urandom tty; do cp -a /dev/$n dev/; done
mkdir dev/shm dev/net dev/pts
mount -t devpts -o newinstance,ptmxmode=666 none dev/pts
ln -s pts/ptmx dev/ptmx
[ ! -e /dev/net/tun ] || cp -a /dev/net/tun dev/net/
ip link set lo up
unshare --pid --fork --cgroup sh -ec '
{PID}
mount -t cgroup2 none sys/fs/cgroup
mount -t proc none proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
pivot_root . mnt
umount -l /mnt
echo $pid
export container=test
exec /lib/systemd/systemd --unit=test.target'
"""


@pytest.fixture(scope="module")
def booted(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with ovn-docker installed, booted with systemd."""
    cgroups = [
        line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if " cgroup2 " in line
    ]
    group = Path(cgroups[0] if cgroups else "/nosuch") / f"ovn-docker-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"systemd cannot run here: no control group for it: {error}")
    # The machine must see the directories of this source and Python, even if they are on another disk.
    shared = [path for path in (SOURCE, sys.prefix, sys.base_prefix) if path != "/usr"]
    places = f"TOP={tmp_path_factory.mktemp('machine')} TREE={tree} GROUP={group}"
    machine = Machine(f"export {places} SHARED='{' '.join(map(str, shared))}'\n{BOOT}")
    try:
        until(lambda: machine.run("systemctl", "is-system-running").stdout in ("running\n", "degraded\n"))
        yield machine
    finally:
        print(machine.run("journalctl", "--no-pager", "--lines=100").stdout)
        machine.close()
        until(lambda: "populated 0" in (group / "cgroup.events").read_text())
        for directory in sorted(group.rglob("*/"), reverse=True):
            directory.rmdir()
        group.rmdir()


CALL = """
import http.client, socket, sys
connection = http.client.HTTPConnection("driver")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/docker/plugins/openvswitch.sock")
connection.request("POST", sys.argv[1], sys.argv[2])
print(connection.getresponse().read().decode())
"""


def call(machine: Machine, method: str, **request: Any) -> dict[str, Any]:
    """Return the driver's answer to a call that is made as Docker makes it."""
    return json.loads(machine.out(sys.executable, "-c", CALL, f"/{method}", json.dumps(request)))


SETUP = ("host", "setup", "--central=127.0.0.1", "--encap-ip=127.0.0.1", "--encap-type=geneve")


def test_machine_boots_with_the_driver_where_docker_looks(booted):
    assert booted.out("systemctl", "is-active", *UNITS) == "active\nactive"
    assert booted.out("systemctl", "--failed", "--plain", "--no-legend") == ""
    assert booted.out("stat", "-c", "%a %U", "/run/docker/plugins/openvswitch.sock") == "600 root"
    assert "NetworkDriver" in call(booted, "Plugin.Activate")["Implements"]
    for name in UNITS:  # Docker finds the socket and does not wait for the driver
        assert "docker.service" in booted.out("systemctl", "show", "--property=Before", name)


def test_confined_driver_creates_and_deletes_a_network_and_an_endpoint(booted):
    said = booted.apply("central", "start", "--address=127.0.0.1")
    assert "let the northbound database listen: (nowhere) -> ptcp:6641:127.0.0.1" in said
    booted.out("ovn-nbctl", "--db=tcp:127.0.0.1:6641", "set-connection", "ptcp:16641")
    booted.out("systemctl", "restart", "ovn-ovsdb-server-nb", "ovn-ovsdb-server-sb", "ovn-northd")
    until(lambda: booted.listening() >= {"127.0.0.1:6641", "127.0.0.1:6642"})
    assert "0.0.0.0:16641" not in booted.listening()
    booted.apply(*SETUP)
    assert booted.apply("host", "start") == "nothing to change\n"  # systemd has started every daemon
    until(lambda: booted.ovn_docker("host", "status").returncode == 0)

    network = {"NetworkID": "a" * 64}
    endpoint = network | {"EndpointID": "b" * 64}
    pool = {"AddressSpace": "LocalDefault", "Pool": "192.168.1.0/24", "Gateway": "192.168.1.1/24"}
    assert (
        call(booted, "NetworkDriver.CreateNetwork", **network, IPv4Data=[pool], IPv6Data=[], Options={}) == {}
    )
    interface = {"Address": "192.168.1.2/24", "AddressIPv6": "", "MacAddress": ""}
    answer = call(booted, "NetworkDriver.CreateEndpoint", **endpoint, Interface=interface, Options={})
    assert "Err" not in answer, answer
    answer = call(
        booted, "NetworkDriver.Join", **endpoint, SandboxKey="/run/docker/netns/0123456789ab", Options={}
    )
    assert booted.run("ip", "link", "show", answer["InterfaceName"]["SrcName"]).returncode == 0
    link = json.loads(booted.out("ip", "-json", "-details", "link", "show", "odhbbbbbbbbbbbb"))[0]
    assert link["inet6_addr_gen_mode"] == "none"
    assert booted.out("cat", "/proc/sys/net/ipv4/conf/odhbbbbbbbbbbbb/arp_ignore") == "8"
    until(lambda: booted.out("ovn-nbctl", "lsp-get-up", "b" * 64) == "up")  # ovn-northd writes it there
    assert call(booted, "NetworkDriver.Leave", **endpoint) == {}
    assert call(booted, "NetworkDriver.DeleteEndpoint", **endpoint) == {}
    assert call(booted, "NetworkDriver.DeleteNetwork", **network) == {}
    assert booted.out("ovn-nbctl", "ls-list") == ""


def tables(machine: Machine) -> set[str]:
    """Return the barrier's tables in nftables."""
    return {line for line in machine.out("nft", "list", "tables").splitlines() if "ovn-docker" in line}


BARRIER = {"table inet ovn-docker", "table arp ovn-docker"}


def test_confined_driver_restores_the_barrier(booted):
    pid = booted.out("systemctl", "show", "--property=MainPID", "--value", UNITS[1])
    control = f"/run/openvswitch/ovn-docker-overlay-driver.{pid}.ctl"
    until(lambda: booted.out("ovs-appctl", "-t", control, "barrier") == "up")
    booted.out("nft", "flush", "ruleset")
    until(lambda: tables(booted) == BARRIER)
    booted.out("systemctl", "kill", "--signal=KILL", UNITS[1])
    assert tables(booted) == BARRIER


ASK = """
import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8080" + sys.argv[1], timeout=120).read().decode())
"""


def test_confined_live_page_shows_this_host(booted):
    assert booted.run("systemctl", "is-enabled", LIVE).stdout == "disabled\n"
    booted.output("central", "start", "--address=127.0.0.1")
    booted.output(*SETUP)
    booted.output("host", "start")
    until(lambda: booted.ovn_docker("host", "status").returncode == 0)
    booted.out("systemctl", "start", LIVE)
    state: dict[str, Any] = {}

    def is_read() -> bool:
        done = booted.run(sys.executable, "-c", ASK, "/state.json")
        state.update(json.loads(done.stdout) if done.returncode == 0 else {})
        return bool(state and state["cluster"] and state["cluster"]["hosts"] and state["doctor"])

    until(is_read)
    assert [host["here"] for host in state["cluster"]["hosts"]] == [True]
    assert [line for line in state["cluster"]["problems"] if not line.startswith("docker: ")] == []
    assert state["doctor"]["problem"] == ""
    unconfined = json.loads(booted.ovn_docker("doctor", "--json").stdout)
    assert {one["check"] for one in state["doctor"]["findings"]} == {
        one["name"] for one in unconfined if one["findings"] and one["name"] not in ACTIVE
    }
    pid = booted.out("systemctl", "show", "--property=MainPID", "--value", LIVE)
    assert "CapEff:\t0000000000000000\n" in booted.out("cat", f"/proc/{pid}/status")
    booted.out("systemctl", "stop", LIVE)
    assert booted.out("systemctl", "show", "--property=Result", "--value", LIVE) == "success"


def test_barrier_is_removed_with_the_last_part_that_needs_it(booted):
    booted.apply("central", "start", "--address=127.0.0.1")
    booted.apply(*SETUP)
    booted.apply("host", "start")
    assert f"$ systemctl stop {' '.join(UNITS)}\n" in booted.apply("host", "stop")
    assert tables(booted) == BARRIER  # for the databases
    assert "remove the barrier" in booted.apply("central", "stop")
    assert tables(booted) == set()
    assert "keep containers from" in booted.apply("central", "start", "--address=127.0.0.1")
    assert tables(booted) == BARRIER
    booted.apply("host", "start")
    booted.apply("central", "stop")
    assert tables(booted) == BARRIER  # for the driver
    assert "remove the barrier" in booted.apply("host", "stop")
    assert tables(booted) == set()
    assert f"$ systemctl start {' '.join(UNITS)}\n" in booted.apply("host", "start")


def restart(booted, *units: str) -> None:
    """Restart units, also if they were started more often than systemd allows within ten seconds."""
    booted.out("systemctl", "reset-failed", UNITS[1])
    booted.out("systemctl", "restart", *units)


def test_call_waits_for_a_driver_that_is_down(booted):
    booted.out("systemctl", "stop", UNITS[1])
    assert (
        "NetworkDriver" in call(booted, "Plugin.Activate")["Implements"]
    )  # the socket unit has started the driver
    booted.out("systemctl", "kill", "--signal=KILL", UNITS[1])
    assert "NetworkDriver" in call(booted, "Plugin.Activate")["Implements"]
    restart(booted, UNITS[1])
    assert booted.out("systemctl", "is-active", *UNITS) == "active\nactive"


def test_tool_finds_the_socket_of_systemd_whatever_the_setting_is(booted):
    booted.out("sh", "-c", "echo OVN_DOCKER_SOCKET=/run/docker/plugins/other.sock >/etc/default/ovn-docker")
    restart(booted, *UNITS)
    found = json.loads(booted.ovn_docker("host", "status", "--json").stdout)[-1]
    assert (found["name"], found["is_up"], found["remark"]) == (
        "driver", True, "answers on /run/docker/plugins/openvswitch.sock"
    )  # fmt: skip
    booted.out("rm", "/etc/default/ovn-docker")
    restart(booted, *UNITS)


def test_stopped_driver_leaves_no_socket_file(booted):
    booted.apply("central", "start", "--address=127.0.0.1")  # the tests before may have run in another worker
    booted.apply(*SETUP)
    said = booted.apply("host", "stop")
    assert f"$ systemctl stop {' '.join(UNITS)}" in said
    assert "$ systemctl stop ovn-host ovn-controller" in said
    assert booted.run("test", "-e", "/run/docker/plugins/openvswitch.sock").returncode == 1
    assert booted.ovn_docker("host", "status").returncode == 3
    assert f"$ systemctl start {' '.join(UNITS)}" in booted.apply("host", "start")
    assert "$ systemctl stop ovn-central" in booted.apply("central", "stop")


def test_confined_underlay_driver_replaces_that_of_the_overlay(booted):
    """Keystone is unreachable, as it may be at boot."""
    login = {
        "OS_AUTH_URL": "http://127.0.0.1:9/v2.0",
        "OS_TENANT_ID": "p",
        "OS_USERNAME": "u",
        "OS_PASSWORD": "p",
    }
    lines = [f"{name}={value}" for name, value in {**login, "OS_VIF_ID": str(uuid4())}.items()]
    booted.out("sh", "-c", 'printf "%s\\n" "$@" >/etc/default/ovn-docker', "sh", *lines)
    booted.out("systemctl", "start", *UNDERLAY)
    assert booted.out("systemctl", "is-active", *UNDERLAY) == "active\nactive"
    assert "active" not in booted.run("systemctl", "is-active", *UNITS).stdout.split()
    said = call(booted, "NetworkDriver.CreateNetwork", NetworkID="a" * 64)["Err"]
    assert said.startswith("cannot reach OpenStack (Keystone at http://127.0.0.1:9): Connection refused")
    booted.out("rm", "/etc/default/ovn-docker")
    booted.out("systemctl", "stop", *UNDERLAY)


def test_missing_login_is_not_retried(booted):
    booted.run("systemctl", "start", UNDERLAY[1])
    until(lambda: booted.run("systemctl", "is-active", UNDERLAY[1]).stdout == "failed\n")
    shown = booted.out("systemctl", "show", "--property=ExecMainStatus,NRestarts", UNDERLAY[1])
    assert set(shown.split()) == {"ExecMainStatus=2", "NRestarts=0"}
    journal = ("journalctl", "--no-pager", "--unit", UNDERLAY[1])
    until(lambda: "OS_VIF_ID is not set" in booted.out(*journal))
    booted.out("systemctl", "stop", *UNDERLAY)
    booted.out("systemctl", "reset-failed", UNITS[1])  # more starts than systemd allows
    booted.out("systemctl", "start", *UNITS)


def test_uninstall_removes_every_file(tree, tmp_path):
    copy = shutil.copytree(tree, tmp_path / "tree", symlinks=True)
    make("uninstall", f"DESTDIR={copy}")
    assert [path for path in copy.rglob("*") if not path.is_dir()] == []


def test_guard_of_an_interface_survives_the_end_of_the_login_session(booted):
    """logind may end all processes of a session; the process that restores the network is outside of it."""
    booted.out("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "cable")
    booted.out("ip", "address", "add", "10.7.0.5/24", "dev", "eth0")
    booted.out("ip", "link", "set", "eth0", "up")
    booted.out("mount", "-o", "remount,bind,rw", "/proc/sys")
    move = [*OVN_DOCKER, "underlay", "bridge", "--interface=eth0", "--bridge=breth0"]
    moving = subprocess.Popen(booted.inside(*move), stdout=subprocess.PIPE, text=True)
    with moving.stdout as said:
        lines = iter(said.readline, "")
        heard = list(takewhile(lambda line: "--confirm" not in line, lines))
        assert "no host answered on eth0 before" in heard[-1], heard
        groups = booted.out("sh", "-c", 'cat /proc/$(pgrep -f "[u]nderlay guard")/cgroup')
        assert groups.endswith(".scope")
        booted.out("sh", "-c", 'kill -9 $(pgrep -f "[u]nderlay bridge")')
    moving.wait()
    until(lambda: booted.out("ovs-vsctl", "list-br").split() in ([], ["br-int"]))
    assert "10.7.0.5/24" in booted.out("ip", "address", "show", "dev", "eth0")


def test_member_of_a_cluster_is_started_again_by_systemd(booted):
    """Debian's units read the options of a member from their file."""
    pki = ("--directory=/run/pki",)
    booted.apply("pki", "init", *pki)
    booted.apply("pki", "central", "db1", "--address=127.0.0.1", *pki)
    cluster = ("central", "start", "--cluster=127.0.0.1", "--tls=/run/pki/db1", "--rbac")
    said = booted.apply(*cluster, "--create")
    assert "$ systemctl start ovn-central" in said
    booted.out("systemctl", "restart", "ovn-ovsdb-server-nb", "ovn-ovsdb-server-sb", "ovn-northd")
    until(lambda: booted.ovn_docker("central", "status").returncode == 0)
    said = booted.ovn_docker("central", "status").stdout
    assert said.count("leader") == 2
    assert "hosts are restricted" in said
