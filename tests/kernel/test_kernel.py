"""The demo, the installed package and the end-to-end suite on an ordinary machine, on the kernel's datapath.

The tests run in this order.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from kernel.machine import Machine

E2E = ("test_lab", "test_guide")
"""The part of the end-to-end suite that shows what the datapath does."""

OTHERS = """
table inet others {
    chain input { type filter hook input priority 0; policy drop
        ct state established,related accept; iif lo accept; tcp dport 22 accept
        meta l4proto { icmp, ipv6-icmp } accept; udp dport { 67, 68 } accept; }
    chain output { type filter hook output priority 0; policy accept; }
}
"""
"""A firewall as an administrator would have it, with nft's own tables."""

ADDRESSES = "docker inspect --format '{{.Name}} {{.NetworkSettings.Networks.ours.IPAddress}}' named picked"

STATE = Path(__file__).parent / "state.sh"


def state(machine: Machine) -> str:
    """The state of the machine that `make run` changes."""
    return machine.read(STATE.read_text())


def rest(machine: Machine, before: str) -> Sequence[str]:
    """The differences from an earlier state of the machine."""
    now, then = set(state(machine).splitlines()), set(before.splitlines())
    return sorted([f"+{line}" for line in now - then] + [f"-{line}" for line in then - now])


def test_the_machine_is_an_ordinary_one(machine: Machine) -> None:
    machine.run(f"nft -f - <<'END'\n{OTHERS}\nEND")
    assert machine.read("cat /proc/1/comm") == "systemd\n"
    assert machine.read("stat -f -c %T /sys/fs/cgroup") == "cgroup2fs\n"
    assert machine.read("cat /sys/module/apparmor/parameters/enabled") == "Y\n"
    machine.run("modprobe openvswitch; modprobe geneve")


def test_make_stop_leaves_what_was_there_before_make_run(machine: Machine) -> None:
    before = state(machine)
    machine.run("make run", 1200)
    assert machine.read("ovs-appctl dpctl/dump-dps") == "system@ovs-system\n"
    machine.run(".venv/bin/ovn-docker doctor")
    machine.run("make run", 1200)  # harmless to repeat
    machine.run("make stop")
    assert rest(machine, before) == []
    machine.run("make stop")
    assert rest(machine, before) == []


def test_the_guide_with_what_make_install_installs(machine: Machine) -> None:
    machine.run("make install", 1200)
    machine.run("ovn-docker central start --address 127.0.0.1")
    machine.run("ovn-docker host setup --central 127.0.0.1 --encap-ip 127.0.0.1 --encap-type geneve")
    machine.run("ovn-docker host start")
    machine.run("ovn-docker host status")
    machine.run("demo/session.sh")
    machine.run("ovn-docker doctor")
    machine.run("docker run -d --name always --restart always --net foo busybox sleep 100000")
    ours = "-d openvswitch --ipam-driver openvswitch --subnet 10.77.0.0/24"
    machine.run(f"docker network create {ours} ours")
    for name in ("named --ip 10.77.0.77", "picked"):
        machine.run(f"docker run -d --restart always --net ours --name {name} busybox sleep 100000")
    before = machine.read(ADDRESSES)
    for how in ("", "--force --force"):
        machine.run("sync")
        machine.reboot(600, how)
        machine.run("ovn-docker host status")
        # Docker has not waited for the driver: the socket was there before.
        assert "Unable to locate plugin" not in machine.read("journalctl --no-pager -b -u docker")
        print(machine.read("systemd-analyze critical-chain --no-pager docker.service"))
        print(machine.read("systemd-analyze blame --no-pager | head -n 15"))
        assert machine.read(ADDRESSES) == before
        machine.run("docker exec picked ping -c 3 10.77.0.77")
        machine.run("docker start busybox; docker exec busybox ping -c 3 always")
        machine.run("ovn-docker doctor")
    machine.run("docker rm -f always busybox busybox2 named picked; docker network rm foo ours")
    machine.run("make uninstall")


@pytest.mark.parametrize("module", E2E)
def test_end_to_end(machine: Machine, module: str) -> None:
    machine.run("systemctl stop docker docker.socket")  # the lab's hosts have their own
    patience = f"OVN_DOCKER_TEST_PATIENCE={machine.patience}"
    machine.run(f"{patience} .venv/bin/pytest --durations=10 tests/e2e/{module}.py", 3600)
