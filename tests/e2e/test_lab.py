"""The lab itself: its hosts are isolated and complete, and it leaves nothing behind."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.lab import CommandError, Fabric, Host, LabError, wait_for
from e2e.lab.host import PING_REPEATEDLY

# Arguments: a logical switch port, its MAC address, its IP address.
PLUG_IN = """
ip netns add by-hand
ip link add by-hand type veth peer name inside netns by-hand
ip link set by-hand up
ip -netns by-hand link set inside address $2 mtu 1442 up
ip -netns by-hand address add $3/24 dev inside
ovs-vsctl add-port br-int by-hand -- set Interface by-hand external_ids:iface-id=$1
"""

# Makes a lab, prints its processes, and runs a command until it is ended.
MAKER = """
import signal
from e2e.lab import Fabric
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
with Fabric() as fabric:
    host, = fabric.cluster("host")
    host.docker("run", "--detach", "busybox", "sleep", "600")
    print(fabric.pid, host.pid, fabric.group, flush=True)
    host.run("sleep", "600", timeout=600)
"""

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")


def ping(host: Host, address: str) -> None:
    """Ping an address. Raises CommandError unless it answers within a minute."""
    host.run("sh", "-c", PING_REPEATEDLY, "busybox ping", address, timeout=90)


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Keeps namespaces open, so that the kernel does not reuse their numbers for other processes."""
    with ExitStack() as stack:
        yield stack


def namespaces(pid: int, held: ExitStack) -> set[str]:
    """Return the namespaces of a process that differ from ours; *held* keeps them open."""
    ours, theirs = Path("/proc/self/ns"), Path(f"/proc/{pid}/ns")
    for kind in NAMESPACES:
        held.enter_context((theirs / kind).open("rb"))
    return {str((theirs / kind).readlink()) for kind in NAMESPACES} - {
        str((ours / kind).readlink()) for kind in NAMESPACES
    }


def inhabitants(spaces: set[str]) -> list[int]:
    """Return the processes of this machine that are in any of *spaces*."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            theirs = {str((process / "ns" / kind).readlink()) for kind in NAMESPACES}
        except OSError:  # the process has just ended
            continue
        if theirs & spaces:
            found.append(int(process.name))
    return found


def control_groups(group: str) -> list[Path]:
    """Return the control groups of a lab: at the top of cgroup2, which may be mounted below version 1."""
    top, name = Path("/sys/fs/cgroup"), Path(group).name
    return [*top.glob(name), *top.glob(f"*/{name}")]


def test_lab_host_is_isolated(two_hosts: tuple[Host, Host]) -> None:
    host1, host2 = two_hosts
    assert host1.run("hostname") == "host1"
    assert host1.run("readlink", "/proc/self/ns/net") != host2.run("readlink", "/proc/self/ns/net")
    assert {"lo", "eth0", "eth1"} <= set(host1.run("ls", "/sys/class/net").split())
    assert host1.run("cat", "/proc/1/comm") == "tini"
    host1.run("touch", "/usr/here", "/run/here", "/tmp/here")
    for path in ("/usr/here", "/run/here", "/tmp/here"):
        assert not Path(path).exists()
        assert not host2.path(path).exists()
    host1.run("rm", "/usr/here", "/run/here", "/tmp/here")


def test_a_host_sees_the_repository_and_the_python_of_the_tests(two_hosts: tuple[Host, Host]) -> None:
    host = two_hosts[0]
    assert host.run(sys.executable, "-c", "import pytest; print(pytest.__version__)") == pytest.__version__
    assert host.run("cat", __file__) == Path(__file__).read_text().rstrip("\n")
    with pytest.raises(CommandError, match="Read-only file system"):
        host.run("touch", __file__)


def test_failed_command_shows_its_output(two_hosts: tuple[Host, Host]) -> None:
    host = two_hosts[0]
    with pytest.raises(CommandError) as failure:
        host.run("sh", "-c", "echo $WORD; echo woe >&2; exit 3", env={"WORD": "joy"})
    assert (failure.value.status, failure.value.stdout, failure.value.stderr) == (3, "joy", "woe")
    assert str(failure.value) == (
        "host1: exit status 3: sh -c echo $WORD; echo woe >&2; exit 3\n--- stdout\njoy\n--- stderr\nwoe"
    )
    with pytest.raises(CommandError, match="exit status 124"):
        host.run("sleep", "60", timeout=0.1)


def test_background_process_runs_and_is_killed(two_hosts: tuple[Host, Host]) -> None:
    host = two_hosts[0]
    pid = host.spawn("sh", "-c", "echo begun; sleep 60", log="/tmp/log")
    wait_for(lambda: host.tail("/tmp/log") == "begun", "the log")
    host.kill(pid, signal.SIGTERM)
    wait_for(lambda: not host.path(f"/proc/{pid}").exists(), "the process to be dead and buried")


def test_processes_of_a_host_are_in_its_control_group(two_hosts: tuple[Host, Host]) -> None:
    host = two_hosts[0]
    assert "0::/init" in host.run("cat", "/proc/self/cgroup").splitlines()
    host.spawn("cat", "/proc/self/cgroup", log="/tmp/group")
    wait_for(lambda: "0::/init" in host.tail("/tmp/group").splitlines(), "the process to tell its group")
    # The parent group has no processes itself: Docker could not make groups in it otherwise.
    assert host.run("cat", "/sys/fs/cgroup/cgroup.procs") == ""


def test_hosts_reach_each_other(two_hosts: tuple[Host, Host]) -> None:
    host1, host2 = two_hosts
    for address in (host2.address, host2.address6, host2.tunnel_address, host2.tunnel_address6):
        ping(host1, address)
    for address in (Fabric.address, Fabric.address6):
        ping(host1, address)


def test_docker_runs_containers(two_hosts: tuple[Host, Host]) -> None:
    for host in two_hosts:
        assert host.docker("version", "--format", "{{.Server.Version}}").startswith("20.10.")
        assert "172.17.0.1" in host.docker("run", "--rm", "busybox", "ip", "route")
    assert two_hosts[0].docker("info", "--format", "{{.ID}}") != two_hosts[1].docker(
        "info", "--format", "{{.ID}}"
    )


def test_the_tools_image_has_python(two_hosts: tuple[Host, Host]) -> None:
    host = two_hosts[0]
    host.load("tools")
    code = "import hashlib, json, socket, ssl, sqlite3, subprocess; subprocess.run(['ip', '-V'])"
    assert "iproute2" in host.docker("run", "--rm", "--network=none", "tools", "python3", "-c", code)


def test_a_logical_switch_spans_the_hosts(two_hosts: tuple[Host, Host]) -> None:
    central = two_hosts[0]
    central.run("ovn-nbctl", "ls-add", "by-hand")
    for number, host in enumerate(two_hosts, start=1):
        port, mac, address = f"port{number}", f"02:00:00:00:00:0{number}", f"10.9.8.{number}"
        central.run("ovn-nbctl", "lsp-add", "by-hand", port)
        central.run("ovn-nbctl", "lsp-set-addresses", port, f"{mac} {address}")
        host.run("sh", "-ec", PLUG_IN, "sh", port, mac, address)
    for host in two_hosts:
        host.run(
            *("ovs-vsctl", "--timeout=60", "wait-until", "Interface", "by-hand"),
            "external_ids:ovn-installed=true",
            timeout=70,
        )
    inside = ("ip", "netns", "exec", "by-hand")
    size = str(1500 - 58 - 20 - 8)  # less the headers of Geneve, IP and ICMP: the largest packet
    # Hosts learn of other hosts' ports a moment later; in user space a tunnel may lose a packet meanwhile.
    central.await_flows()
    central.run(*inside, "sh", "-c", PING_REPEATEDLY, "busybox ping", "-s", size, "10.9.8.2", timeout=90)
    for host in two_hosts:
        host.run("ovs-vsctl", "del-port", "by-hand")
        host.run("ip", "netns", "delete", "by-hand")
    central.run("ovn-nbctl", "ls-del", "by-hand")


def test_a_partition_lasts_until_it_is_healed(two_hosts: tuple[Host, Host]) -> None:
    host1, host2 = two_hosts
    host2.fabric.partition(host2)
    for address in (host2.address, host2.tunnel_address):
        with pytest.raises(CommandError, match="100% packet loss"):
            host1.run("busybox", "ping", "-c", "2", "-W", "1", address)
    assert "UP" in host2.run("ip", "-brief", "link", "show", "eth0")
    host2.fabric.heal(host2)
    for address in (host2.address, host2.tunnel_address):
        ping(host1, address)


def test_each_service_can_be_stopped_killed_and_started_again(fabric: Fabric) -> None:
    (host,) = fabric.cluster("alone")
    host.docker("run", "--detach", "--name=sleeper", "--stop-signal=KILL", "busybox", "sleep", "600")
    for service in (host.northd, host.controller, host.vswitchd, host.dockerd):
        service.stop()
        assert service.pid is None
        service.start()
        service.kill()
        assert service.pid is None
        service.start()
        with pytest.raises(LabError, match="runs already"):
            service.start()
    assert "sleeper" in host.docker("ps", "--all")


def test_failed_service_shows_its_log(fabric: Fabric) -> None:
    (host,) = fabric.add_hosts("alone")
    host.containerd.start()
    with pytest.raises(LabError, match=r"dockerd on alone ended at once:\n.*unknown flag: --no-such-option"):
        host.dockerd.start("--no-such-option")


def test_a_power_cut_spares_the_disk_only(fabric: Fabric) -> None:
    host1, host2 = fabric.cluster("host1", "host2")
    host2.docker("run", "--detach", "--name=sleeper", "busybox", "sleep", "600")
    host2.run("ovs-vsctl", "set", "Open_vSwitch", ".", "external_ids:mark=here")
    host2.run("touch", "/run/mark", "/tmp/mark", "/etc/mark")
    host2.power_off()
    with pytest.raises(LabError, match="host2 is off"):
        host2.run("true")
    assert "dockerd" in " ".join(host2.logs())

    host2.power_on()
    assert not host2.path("/run/mark").exists()
    assert not host2.path("/tmp/mark").exists()
    assert host2.path("/etc/mark").exists()
    host2.start_switch()
    host2.controller.start()
    host2.start_docker()
    assert host2.run("ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids:mark") == "here"
    assert "Exited" in host2.docker("ps", "--all", "--filter=name=sleeper", "--format={{.Status}}")
    host2.docker("start", "sleeper")
    ping(host1, host2.address)
    ping(host1, host2.tunnel_address)


def test_lab_leaves_nothing(held: ExitStack) -> None:
    with Fabric() as fabric:
        hosts = fabric.cluster("host1", "host2")
        hosts[0].docker("run", "--detach", "busybox", "sleep", "600")
        hosts[1].power_off()
        spaces = {space for pid in (fabric.pid, hosts[0].pid) for space in namespaces(pid, held)}
        assert len(inhabitants(spaces)) > 10
        assert control_groups(fabric.group)
        assert str(fabric.disks) not in Path("/proc/self/mountinfo").read_text()
    assert inhabitants(spaces) == []
    assert control_groups(fabric.group) == []
    assert list(fabric.disks.iterdir()) == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_lab_ends_with_the_process_that_made_it(held: ExitStack, end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKER],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as maker:
        assert maker.stdout is not None
        fabric, host, group = maker.stdout.readline().split()
        spaces = namespaces(int(fabric), held) | namespaces(int(host), held)
        assert len(inhabitants(spaces)) > 10
        maker.send_signal(end)
        maker.wait(timeout=60)
    wait_for(lambda: not inhabitants(spaces), "the orphans to die")
    wait_for(lambda: not control_groups(group), "their control groups to go")


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.parametrize("engine", ["26.1", "28.5"])
def test_lab_runs_newer_engines(fabric: Fabric, engine: str) -> None:
    host1, host2 = fabric.cluster("host1", "host2", engine=engine)
    assert host1.docker("version", "--format", "{{.Server.Version}}").startswith(f"{engine}.")
    assert "172.17.0.1" in host2.docker("run", "--rm", "busybox", "ip", "route")
    assert host2.run(sys.executable, "-c", "import pytest; print(pytest.__version__)") == pytest.__version__
    ping(host1, host2.tunnel_address)
