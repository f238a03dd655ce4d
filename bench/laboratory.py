"""The hosts of the measures, with all drivers side by side."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench import old_driver
from bench.lives import FLOOR
from e2e.lab import Fabric, Host, LabError, images, wait_for

REPOSITORY = Path(__file__).parents[1]
PYTHONPATH = f"{REPOSITORY}:{REPOSITORY}/tests"
OURS = "/run/docker/plugins/openvswitch.sock"
OLD = f"127.0.0.1:{old_driver.PORT}"
OLD_PLUGIN = "ovn-old"
VSWITCH = "unix:/var/run/openvswitch/db.sock"
SUBJECTS = {"ours": OURS, "old": OLD, FLOOR: FLOOR}


class Laboratory:
    """Two hosts with Docker, OVN and our driver; the old driver is on the first too.

    *real_time*: endpoints' lives and ``docker run`` are measured with real-time priority for all processes of
    their host, so that other work on the machine has less effect.
    """

    def __init__(self, fabric: Fabric, *, real_time: bool = False) -> None:
        self.fabric = fabric
        self.real_time = real_time
        self._hosts: tuple[Host, Host] | None = None

    @property
    def hosts(self) -> tuple[Host, Host]:
        """The two hosts, made at the first use."""
        if self._hosts is None:
            # The old driver's networks are global: it needs a key-value store.
            central, other = self.fabric.cluster("host1", "host2", store=True)
            for host in (central, other):
                host.driver.start("--scope=local")
            start_old_driver(central)
            self._hosts = central, other
        return self._hosts

    @property
    def central(self) -> Host:
        """The first host, with OVN's databases."""
        return self.hosts[0]

    def lives(self, host: Host, subjects: dict[str, str], lives: int, **plan: Any) -> dict[str, Any]:
        """Return the results of `bench.lives` on *host*."""
        plan = {"northbound": f"tcp:{self.central.address}:6641", "vswitch": VSWITCH, "waits": ["old"]} | plan
        with self.favoured(host):
            return self.python(host, "bench.lives", plan | {"subjects": subjects, "lives": lives})

    def python(self, host: Host, module: str, plan: dict[str, Any]) -> Any:
        """Run a module on a host, with real-time priority if asked for."""
        return python(host, module, plan, *(("chrt", "--rr", "1") if self.real_time else ()))

    @contextmanager
    def favoured(self, host: Host) -> Iterator[None]:
        """Give a host's processes, and those that they start, real-time priority if asked for."""
        if not self.real_time:
            yield
            return
        _schedule(host, "--rr", 1)
        try:
            yield
        finally:
            _schedule(host, "--other", 0)


def _schedule(host: Host, policy: str, priority: int) -> None:
    """Set the priority of every thread of a host with chrt(1)."""
    threads = "for thread in /proc/[0-9]*/task/*; do"
    host.run("sh", "-c", f"{threads} chrt {policy} -p {priority} ${{thread##*/}} 2>/dev/null; done; true")


def python(host: Host, module: str, plan: dict[str, Any], *prefix: str) -> Any:
    """Run a module on a host, with *plan* as its input; return its output. Both are JSON."""
    command = (*prefix, sys.executable, "-m", module)
    return json.loads(
        host.run(*command, stdin=json.dumps(plan), timeout=900, env={"PYTHONPATH": PYTHONPATH}).splitlines()[
            -1
        ]
    )


def start_old_driver(host: Host) -> None:
    """Start the driver that OVN ships, with another name for Docker, beside ovn-docker's."""
    host.path("/root/old-driver").write_text(old_driver.source(images.cache()))
    host.run("mkdir", "-p", "/etc/docker/plugins")
    host.spawn("/usr/bin/python3", "/root/old-driver", log="/var/log/lab/old-driver.log")
    try:
        wait_for(lambda: f":{old_driver.PORT} " in host.run("ss", "-Hltn"), "the old driver", timeout=20)
    except LabError as error:
        raise LabError(f"{error}:\n{host.tail('/var/log/lab/old-driver.log')}") from None
    host.run("mv", "/etc/docker/plugins/openvswitch.spec", f"/etc/docker/plugins/{OLD_PLUGIN}.spec")


@dataclass(frozen=True)
class Usage:
    """Resources of a process: seconds of processor time in user space and the kernel, memory in MiB."""

    user: float
    system: float
    memory: float


def usage(host: Host, pid: int) -> Usage:
    """Return the resources of a process, by its process id on the host."""
    process = host.path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    (resident,) = (
        line.split()[1] for line in (process / "status").read_text().splitlines() if "VmRSS" in line
    )
    ticks = os.sysconf("SC_CLK_TCK")
    return Usage(int(fields[11]) / ticks, int(fields[12]) / ticks, int(resident) / 1024)


def left_behind(host: Host) -> int:
    """Count logical ports, claims, ports and links of endpoints: 0 when all endpoints are deleted."""
    ports = host.run("ovs-vsctl", "--timeout=10", "list-ports", "br-int").split()
    links = host.run("ip", "-oneline", "link", "show", "type", "veth").splitlines()
    return len([port for port in ports if not port.startswith("patch-")]) + sum(
        ": od" in link for link in links
    )


class Waits:
    """Part of its time that a thread of a host waits for the kernel's RCU; sampled while the block runs."""

    def __init__(self, host: Host, pid: int) -> None:
        self._stack = host.path(f"/proc/{pid}/stack")
        self._looks = self._waiting = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def part(self) -> float:
        """Part of the samples, every 5 ms, in which the thread waited."""
        return self._waiting / max(1, self._looks)

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self._looks += 1
            self._waiting += "synchronize_rcu" in self._stack.read_text()


@contextmanager
def new_laboratory(*, real_time: bool = False) -> Iterator[Laboratory]:
    """A laboratory that ends with the block."""
    with Fabric() as fabric:
        yield Laboratory(fabric, real_time=real_time)
