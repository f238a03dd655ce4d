"""The switches between hosts; they start and end all hosts on them."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Self

from e2e.lab import images
from e2e.lab.command import ENVIRONMENT, TIMEOUT_FACTOR, at_once, begin, run
from e2e.lab.host import Host

PKI = "/root/pki"
PROGRAMS = (
    *("bridge", "ip", "mount", "nsenter", "pivot_root", "tini", "unshare"),
    *("ovn-controller", "ovn-northd", "ovs-vswitchd", "ovsdb-server"),
    *("busybox", "containerd", "docker", "dockerd", "etcd", "iptables", "nft", "python3"),
)


def missing() -> list[str]:
    """Return the reason why this machine cannot run a lab; empty if it can."""
    reasons = [] if os.geteuid() == 0 else ["not root"]
    return reasons + [f"no {name}" for name in PROGRAMS if not shutil.which(name, path=ENVIRONMENT["PATH"])]


class Fabric:
    """Two switches, one for management (each host's eth0) and one for tunnels (its eth1).

    The fabric itself answers on the management network at `address` and `address6`, in place of the world
    outside.

    All processes of a fabric are in one PID namespace, whose first process waits for the end of a pipe that
    this process holds. However this process ends, the kernel closes the pipe and kills all processes in the
    namespace, and so releases the mounts, networks and disks that only they used.
    """

    address = "172.31.0.254"
    address6 = "fd31::254"

    def __init__(self) -> None:
        run("lab", [], ("modprobe", "--quiet", "openvswitch"), check=False)
        self.userspace = not Path("/sys/module/openvswitch").exists()
        self.hosts: list[Host] = []
        self.disks = images.cache() / "disks"  # always empty: every fabric mounts a tmpfs there for itself
        self.disks.mkdir(exist_ok=True)
        here = Path(__file__).parent
        self._process, (pid, self.group) = begin(
            ["unshare", "--mount", "sh", "-e", str(here / "supervisor.sh"), str(here / "fabric.sh")],
            {"ADDRESS": self.address, "ADDRESS6": self.address6, "DISKS": str(self.disks)},
            stdin=subprocess.PIPE,
        )
        self.pid = int(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; return when they are gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        for host in self.hosts:
            host.reap()
        self._process.wait(timeout=30 * TIMEOUT_FACTOR)

    def keep(self) -> str:
        """Keep the processes when this one ends; return the commands that enter the hosts and end them."""
        assert self._process.stdin is not None
        self._process.stdin.write("keep\n")
        self._process.stdin.close()
        enter = [f"{host.name}: {shlex.join(host.enter)} bash" for host in self.hosts if host.pid]
        return "\n".join([*enter, f"to end all: kill -9 {self.pid}"])

    def add_hosts(self, *names: str, engine: str = "20.10") -> list[Host]:
        """Make new hosts with the given version of Docker, and switch them on."""
        hosts = [Host(self, name, len(self.hosts) + i, engine) for i, name in enumerate(names, start=1)]
        self.power_on(*hosts)
        return hosts

    def power_on(self, *hosts: Host) -> None:
        """Switch new hosts on."""
        self.hosts += hosts
        at_once(Host.power_on, hosts)

    def cluster(
        self, *names: str, engine: str = "20.10", store: bool = False, raft: bool = False
    ) -> list[Host]:
        """Make hosts on which everything except the driver runs; the first is also OVN's central machine.

        With `store`, Docker keeps its global networks in an etcd on the first host; with `raft`, all hosts
        keep OVN's databases together.
        """
        hosts = self.add_hosts(*names, engine=engine)
        at_once(Host.start_switch, hosts)
        if raft:
            self.start_members(hosts)
        else:
            hosts[0].start_central()
        if store:
            hosts[0].etcd.start()

        def complete(host: Host) -> None:
            if raft:
                host.join_members()
            else:
                host.join(hosts[0].address)
            host.start_docker(*(host.cluster_store(hosts[0].address) if store else ()))
            host.load("busybox")

        at_once(complete, hosts)
        if self.userspace:
            at_once(lambda host: host.meet(hosts), hosts)
        return hosts

    def start_members(self, hosts: list[Host]) -> None:
        """Start a clustered database on all hosts. The first host has the authority of their certificates."""
        first, *others = hosts
        first.run("ovn-docker", "pki", "init", f"--directory={PKI}")
        for host in hosts:
            issue = ("ovn-docker", "pki", "central", host.name, f"--address={host.address}")
            first.run(*issue, f"--directory={PKI}")
            host.copy_tls(first, f"{PKI}/{host.name}")
        first.start_member("--create")
        for host in others:
            host.start_member()

    def run(self, *argv: str, check: bool = True, timeout: float = 60, stdin: str = "") -> str:
        """Return the output of a command in the fabric's network, on the machine's own file system."""
        enter = ["nsenter", f"--target={self.pid}", "--net"]
        return run("fabric", enter, argv, check=check, timeout=timeout, stdin=stdin)

    def partition(self, host: Host) -> None:
        """Drop all packets to and from a host; its interfaces stay up."""
        self._set_ports(host, "0")

    def heal(self, host: Host) -> None:
        """End a partition."""
        self._set_ports(host, "3")

    def _set_ports(self, host: Host, state: str) -> None:
        """Put a host's ports in a state of the spanning tree protocol (0 = disabled, 3 = forwarding)."""
        for port in host.ports:
            self.run("bridge", "link", "set", "dev", port, "state", state)
