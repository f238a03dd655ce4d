"""Measure 10: traffic between containers, on the kernel's datapath alone, against Docker's own networks."""

import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.data_path import End, container, swarm
from bench.laboratory import PYTHONPATH, Laboratory
from bench.report import Line, p50
from bench.traffic import KINDS, NUMBER
from e2e.lab import Host, LabError, wait_for
from e2e.lab.command import TIMEOUT_FACTOR

NETWORK = "bench-data"
GOAL = 0.95
SETTLE = 1
"""Seconds of traffic before it is measured."""

UNITS = {"stream": "Gbit/s", "datagrams": "/s", "requests": "/s", "connections": "/s"}
NAMES = {
    "stream": "TCP throughput",
    "datagrams": "UDP, 64 bytes, received",
    "requests": "TCP requests, 64 bytes, answered",
    "connections": "TCP connections made and closed",
}
FACTOR = {"stream": 8e-9}
"""Of a count; 1 if it is not there."""


@dataclass(frozen=True)
class Side:
    """Containers of one network on one host, and the file in which their servers count."""

    ends: Sequence[End]
    counts: str = ""

    @property
    def host(self) -> Host:
        """The host of all containers."""
        return self.ends[0].host

    def traffic(self, log: str, *arguments: str) -> int:
        """Start bench.traffic; return its process id when it is ready."""
        here = self.host.path(log)
        here.unlink(missing_ok=True)
        environment = {"PYTHONPATH": PYTHONPATH}
        pid = self.host.spawn("python3", "-m", "bench.traffic", *arguments, log=log, env=environment)
        try:
            wait_for(lambda: here.read_text().startswith("ready"), "bench.traffic to be ready")
        except LabError as error:
            raise LabError(f"{error}:\n{self.host.tail(log)}") from None
        return pid

    def count(self, kind: str, servers: int) -> int:
        """Return the count of the first servers."""
        row = len(KINDS) * NUMBER
        numbers = memoryview(self.host.path(self.counts).read_bytes()[: row * servers]).cast("Q")
        return sum(numbers[KINDS.index(kind) :: len(KINDS)])


@dataclass(frozen=True)
class DataPath:
    """Clients and servers with one kind of network between them."""

    clients: Side
    servers: Side

    @contextmanager
    def traffic(self, kind: str, pairs: int, seconds: float) -> Iterator[None]:
        """Have the square root of *pairs* clients send to as many servers while the block runs."""
        number = round(pairs**0.5)
        pids = [end.pid for end in self.clients.ends[:number]]
        addresses = [end.address for end in self.servers.ends[:number]]
        arguments = (kind, f"{seconds + 60 * TIMEOUT_FACTOR:g}", *pids, "--", *addresses)
        leader = self.clients.traffic("/run/lab/traffic.log", "send", *arguments)
        try:
            time.sleep(SETTLE)
            yield
        finally:
            self.clients.host.run("kill", "-KILL", "--", f"-{leader}")

    def rate(self, kind: str, pairs: int, seconds: float) -> float:
        """Return what the servers count in a second."""
        number = round(pairs**0.5)
        with self.traffic(kind, pairs, seconds):
            before, begun = self.servers.count(kind, number), time.monotonic()
            time.sleep(seconds)
            after, ended = self.servers.count(kind, number), time.monotonic()
        if after == before:
            raise LabError(f"no {kind} from {self.clients.host.name} to {self.servers.host.name}")
        return (after - before) / (ended - begun) * FACTOR.get(kind, 1)

    def profile(self, kind: str, pairs: int, seconds: float) -> dict[str, dict[str, float]]:
        """Return the parts of the processors' busy time, in percent, by kernel module and by function."""
        with self.traffic(kind, pairs, seconds), TemporaryDirectory() as directory:
            data = f"{directory}/perf.data"
            record = ("perf", "record", "-q", "-a", "-e", "cpu-clock", "-F", "499", "-o", data)
            subprocess.run([*record, "--", "sleep", f"{seconds:g}"], check=True, capture_output=True)
            report = ("perf", "script", "-i", data, "-F", "comm,sym,dso")
            said = subprocess.run(report, check=True, capture_output=True, text=True).stdout
        return parts(said)


def parts(script: str) -> dict[str, dict[str, float]]:
    """Return the parts of busy time, by module and by function, of the output of perf-script(1).

    A line has the command, the function and, in parentheses, the file or the kernel's module.
    """
    modules: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in script.splitlines():
        match = re.match(r"\s*(.+?)\s+(\S+) \((.+)\)$", line)
        if not match or (match[1] == "swapper" and re.search("idle|halt", match[2])):
            continue
        module = match[3] if match[3].startswith("[") else Path(match[3]).name
        modules[module] += 1
        functions[f"{match[2]} {module}"] += 1
    busy = modules.total() or 1
    return {
        "modules": {name: round(100 * number / busy, 1) for name, number in modules.most_common(15)},
        "functions": {name: round(100 * number / busy, 1) for name, number in functions.most_common(25)},
    }


def kernel_data_path(
    laboratory: Laboratory, seconds: float, rounds: int, pairs: int
) -> tuple[list[Line], dict[str, Any]]:
    """Measure every kind of traffic with one pair and many, on all kinds of networks in turns.

    The many *pairs* are those of the square root of as many clients and servers.
    Raises LabError without the kernel's module openvswitch.
    """
    if laboratory.fabric.userspace:
        raise LabError("the kernel has no module openvswitch: use make bench-kernel")
    paths = make_paths(laboratory, round(pairs**0.5))
    subjects = [(name, kind, number) for name in paths for kind in KINDS for number in (1, pairs)]
    found: dict[tuple[str, str, int], list[float]] = {subject: [] for subject in subjects}
    flows: dict[str, str] = {}
    for _ in range(rounds):
        for name, kind, number in random.sample(subjects, len(subjects)):
            found[name, kind, number].append(paths[name].rate(kind, number, seconds))
            if name.startswith("ours"):
                flows[f"{name}, {kind}, {number}"] = paths[name].clients.host.run("ovs-appctl", "dpctl/show")
    lines, slow = compare({subject: p50(rates) for subject, rates in found.items()}, pairs)
    details: dict[str, Any] = {
        "all": {", ".join(map(str, subject)): rates for subject, rates in found.items()},
        "datapath": flows,
    }
    if shutil.which("perf"):  # Debian package linux-perf
        details["profiles"] = {
            ", ".join(map(str, subject)): paths[subject[0]].profile(*subject[1:], seconds) for subject in slow
        }
    return lines, details


def compare(
    rates: dict[tuple[str, str, int], float], pairs: int
) -> tuple[list[Line], list[tuple[str, str, int]]]:
    """Return the lines of the table, and the subjects of those that miss the goal, ours and theirs."""
    lines, slow = [], []
    for where, against in (("two hosts", "Docker's overlay"), ("one host", "Docker's bridge")):
        for kind in KINDS:
            for number in (1, pairs):
                ours, theirs = (f"ours, {where}", kind, number), (against, kind, number)
                is_met = rates[ours] >= GOAL * rates[theirs]
                title = f"10 {NAMES[kind]}, {where}, {number} pair{'s' * (number > 1)}"
                goal = f"≥ {GOAL} of theirs"
                lines.append(Line(title, rates[ours], UNITS[kind], rates[theirs], against, goal, is_met))
                slow += [] if is_met else [ours, theirs]
    return lines, slow


def make_paths(laboratory: Laboratory, number: int) -> dict[str, DataPath]:
    """Return all kinds of networks, each with some clients and servers."""
    host1, host2 = laboratory.fabric.cluster("host1", "host2")
    for host in (host1, host2):
        host.driver.start(f"--request-timeout={15 * TIMEOUT_FACTOR:g}")  # its default is 15 s
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "--subnet=10.30.0.0/16")
    host1.docker(*create, "-o", f"ovn.network={NETWORK}", NETWORK)
    wait_for(lambda: NETWORK in host2.docker("network", "ls"), "the network on the other host", timeout=60)
    swarm1, swarm2 = swarm(laboratory)

    def side(host: Host, network: str, counts: str = "") -> Side:
        ends = [container(host, network) for _ in range(number)]
        if counts:
            pids = [end.pid for end in ends]
            Side(ends).traffic(f"/run/lab/{counts}.log", "serve", f"/run/{counts}", *pids)
        return Side(ends, f"/run/{counts}")

    ours = side(host1, NETWORK)
    return {
        "ours, two hosts": DataPath(ours, side(host2, NETWORK, "servers")),
        "Docker's overlay": DataPath(side(swarm1, NETWORK), side(swarm2, NETWORK, "servers")),
        "ours, one host": DataPath(ours, side(host1, NETWORK, "servers")),
        "Docker's bridge": DataPath(side(host1, "bridge"), side(host1, "bridge", "bridge-servers")),
    }
