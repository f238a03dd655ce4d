"""The hosts that everything is measured on, and all drivers on them side by side."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Two hosts with Docker, OVN and our driver; the old driver is on the first too."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._hosts: tuple[Host, Host] | None = None

    @property
    def hosts(self) -> tuple[Host, Host]:
        """The two hosts, made when first asked for."""
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
        """The first of them."""
        return self.hosts[0]

    def lives(self, host: Host, subjects: dict[str, str], lives: int, **plan: Any) -> dict[str, Any]:
        """What `bench.lives` measures on *host*."""
        plan = {"northbound": f"tcp:{self.central.address}:6641", "vswitch": VSWITCH, "waits": ["old"]} | plan
        return python(host, "bench.lives", plan | {"subjects": subjects, "lives": lives})


def python(host: Host, module: str, plan: dict[str, Any]) -> Any:
    """Run a module of ours on a host: *plan* goes in and the answer comes out as JSON."""
    command = (sys.executable, "-m", module)
    return json.loads(
        host.run(*command, stdin=json.dumps(plan), timeout=900, env={"PYTHONPATH": PYTHONPATH}).splitlines()[
            -1
        ]
    )


def start_old_driver(host: Host) -> None:
    """The driver that OVN ships, under another name for Docker, which knows it and ours side by side."""
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
    """What a process has used: seconds of processor time, in itself and in the kernel; MiB that it holds."""

    user: float
    system: float
    memory: float


def usage(host: Host, pid: int) -> Usage:
    """Of a process, by its process id on the host."""
    process = host.path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    (resident,) = (
        line.split()[1] for line in (process / "status").read_text().splitlines() if "VmRSS" in line
    )
    ticks = os.sysconf("SC_CLK_TCK")
    return Usage(int(fields[11]) / ticks, int(fields[12]) / ticks, int(resident) / 1024)


def left_behind(host: Host) -> int:
    """Logical ports, claims, ports and links of endpoints: none when all endpoints are gone."""
    ports = host.run("ovs-vsctl", "--timeout=10", "list-ports", "br-int").split()
    links = host.run("ip", "-oneline", "link", "show", "type", "veth").splitlines()
    return len([port for port in ports if not port.startswith("patch-")]) + sum(
        ": od" in link for link in links
    )


@contextmanager
def new_laboratory() -> Iterator[Laboratory]:
    """A laboratory that ends with the block."""
    with Fabric() as fabric:
        yield Laboratory(fabric)
