"""Measure 7: many drivers on one northbound database."""

import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.laboratory import PYTHONPATH, Laboratory, python, usage
from bench.report import Line, p50, p99
from bench.stand_in import READY, directory
from e2e.lab import Host, wait_for

NORTHBOUND = 6651


def many_hosts(laboratory: Laboratory, hosts: int, each: int) -> tuple[list[Line], dict[str, Any]]:
    """Make endpoints on all hosts at once, and a network that appears on all of them."""
    (host,) = laboratory.fabric.add_hosts("many")
    host.run("ovsdb-tool", "create", "/run/nb.db", "/usr/share/ovn/ovn-nb.ovsschema")
    listen = (f"--remote=ptcp:{NORTHBOUND}", "--unixctl=/run/nb.ctl")
    server = host.spawn("ovsdb-server", "/run/nb.db", *listen)
    start_stand_ins(host, hosts, f"tcp:{host.address}:{NORTHBOUND}")
    drivers = start_drivers(host, hosts)
    time.sleep(10)  # until every driver has finished its start
    at_rest = processor_time([(host, server)], 20)
    seen = python(host, "bench.create_many", {"what": "shared_network", "hosts": hosts, "name": "foo"})
    before = usage(host, server)
    run = python(
        host, "bench.create_many", {"what": "endpoints", "hosts": hosts, "each": each, "name": "foo"}
    )
    after = usage(host, server)
    count = len(run["each"])
    cost = (after.user + after.system - before.user - before.system) / count * 1000
    memory = [_own_memory(host, pid) for pid in drivers]
    lines = [
        Line(f"7 {count} endpoints on {hosts} hosts at once, all", run["seconds"], "s"),
        Line(f"7 {count} endpoints on {hosts} hosts at once, per second", count / run["seconds"], "/s"),
        Line("7 northbound server's processor time per endpoint", cost, "ms"),
        Line(f"7 northbound server's processor time, {hosts} hosts at rest", at_rest * 100, "%"),
        Line("7 northbound server's memory", after.memory, "MiB"),
        Line("7 a driver's own memory, p50", p50(memory), "MiB", goal="≤ 64 MiB", met=p50(memory) <= 64),
        Line(f"7 a new network of the cluster is on all {hosts} hosts after", seen, "s"),
    ]
    latency = {"p50_ms": p50(run["each"]) * 1000, "p99_ms": p99(run["each"]) * 1000}
    host.power_off()
    return lines, {"create_and_join": latency, "driver_memory_mib": memory, "nb_ms_per_endpoint": cost}


def start_stand_ins(host: Host, hosts: int, northbound: str) -> None:
    """Start what *hosts* drivers on one host need: databases, and substitutes for other daemons."""
    stand_in = (sys.executable, "-m", "bench.stand_in", str(hosts), northbound, host.address)
    host.spawn(*stand_in, log="/var/log/lab/stand-in.log", env={"PYTHONPATH": PYTHONPATH})
    wait_for(host.path(str(READY)).exists, f"the neighbours of {hosts} drivers", timeout=120)


def start_drivers(host: Host, hosts: int, *options: str) -> list[int]:
    """Start *hosts* drivers at once; return their process ids when all of them serve."""
    drivers = [_start_driver(host, number, *options) for number in range(hosts)]
    for number in range(hosts):
        socket = host.path(f"{directory(number)}/plugin.sock")
        wait_for(socket.exists, f"driver {number}", timeout=300)
    return drivers


def _start_driver(host: Host, number: int, *options: str) -> int:
    path = directory(number)
    return host.spawn(
        host.driver.argv[0],
        *(f"--db=unix:{path}/db.sock", f"--ovn-rundir={path}", f"--socket={path}/plugin.sock"),
        *(f"--docker={path}/docker.sock", "--scope=local", *options),
        log=f"/var/log/lab/driver{number}.log",
    )


def processor_time(processes: Sequence[tuple[Host, int]], seconds: float) -> float:
    """Return the part of a core that processes of hosts use together."""
    before = seconds_used(processes)
    time.sleep(seconds)
    return (seconds_used(processes) - before) / seconds


def seconds_used(processes: Sequence[tuple[Host, int]]) -> float:
    """Return the seconds of processor time that processes of hosts have used together."""
    used = [usage(host, pid) for host, pid in processes]
    return sum(one.user + one.system for one in used)


def _own_memory(host: Host, pid: int) -> float:
    """Return the MiB of a process; memory that it shares is divided among the processes (PSS, proc(5))."""
    rollup = host.path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[0]) / 1024
