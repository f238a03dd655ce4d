"""The switches between hosts, and the life and death of everything on them."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Self

from e2e.lab import images
from e2e.lab.command import ENVIRONMENT, PATIENCE, at_once, begin, run
from e2e.lab.host import TLS, Host

PKI = "/root/pki"
PROGRAMS = (
    *("bridge", "ip", "mount", "nsenter", "pivot_root", "tini", "unshare"),
    *("ovn-controller", "ovn-northd", "ovs-vswitchd", "ovsdb-server"),
    *("busybox", "containerd", "docker", "dockerd", "etcd", "iptables", "nft", "python3"),
)


def missing() -> list[str]:
    """Why there can be no lab here; empty if there can."""
    reasons = [] if os.geteuid() == 0 else ["not root"]
    return reasons + [f"no {name}" for name in PROGRAMS if not shutil.which(name, path=ENVIRONMENT["PATH"])]


class Fabric:
    """Two switches, one for management (each host's eth0) and one for tunnels (its eth1).

    The fabric itself answers on the management network at `address` and `address6`, as the world outside
    would.

    Everything on it lives in one process-id namespace, whose first process waits for the end of a pipe that
    we hold.  However we end, the kernel closes the pipe and kills every process inside, and with them goes
    whatever only they used: mounts, networks, disks.
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
        """End everything; returns when it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        for host in self.hosts:
            host.reap()
        self._process.wait(timeout=30 * PATIENCE)

    def keep(self) -> str:
        """Let everything live on when we end; returns what to type to enter the hosts and to end them."""
        assert self._process.stdin is not None
        self._process.stdin.write("keep\n")
        self._process.stdin.close()
        enter = [f"{host.name}: {shlex.join(host.enter)} bash" for host in self.hosts if host.pid]
        return "\n".join([*enter, f"to end all: kill -9 {self.pid}"])

    def add_hosts(self, *names: str, engine: str = "20.10") -> list[Host]:
        """New hosts with the given version of Docker, switched on."""
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
        """New hosts on which everything but the driver runs; the first is also OVN's central host.

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
        """Have hosts keep OVN's databases together. The first has the authority of their certificates."""
        first, *others = hosts
        first.run("ovn-docker", "pki", "init", f"--directory={PKI}")
        for host in hosts:
            issue = ("ovn-docker", "pki", "central", host.name, f"--address={host.address}")
            first.run(*issue, f"--directory={PKI}")
            host.run("mkdir", "-p", "--mode=700", TLS)
            for file in ("key.pem", "cert.pem", "ca.pem"):  # as with scp
                text = first.path(f"{PKI}/{host.name}/{file}").read_text()
                host.run("sh", "-c", f"umask 077; cat >{TLS}/{file}", stdin=text)
        first.start_member("--create")
        for host in others:
            host.start_member()

    def run(self, *argv: str, check: bool = True, timeout: float = 30, stdin: str = "") -> str:
        """What a command prints that runs in the fabric's network, on the machine's own file system."""
        enter = ["nsenter", f"--target={self.pid}", "--net"]
        return run("fabric", enter, argv, check=check, timeout=timeout, stdin=stdin)

    def partition(self, host: Host) -> None:
        """Drop all that goes to and from a host, silently: its interfaces stay up."""
        self._set_ports(host, "0")

    def heal(self, host: Host) -> None:
        """End a partition."""
        self._set_ports(host, "3")

    def _set_ports(self, host: Host, state: str) -> None:
        """Put a host's ports in a state of the spanning tree protocol (0 = disabled, 3 = forwarding)."""
        for port in host.ports:
            self.run("bridge", "link", "set", "dev", port, "state", state)
