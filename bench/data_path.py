"""Measure 6: throughput and latency between containers, on two hosts and on one."""

import json
import random
import re
import time
from dataclasses import dataclass
from typing import Any

from bench.docker_run import address_of
from bench.laboratory import Laboratory
from bench.report import Line, p50
from e2e.lab import Host, wait_for

NETWORK = "bench-data"
SUBNET = "10.30.0.0/16"

Figures = dict[str, float]
"""Gbit/s of one TCP connection, its requests and responses per second, and µs of one such pair."""


@dataclass(frozen=True)
class End:
    """An end of a connection: a network namespace of a host, by a process in it, and its address."""

    host: Host
    pid: str
    address: str

    def run(self, *command: str, **options: Any) -> str:
        """Return the output of a command at this end."""
        return self.host.run("nsenter", f"--target={self.pid}", "--net", *command, **options)

    def spawn(self, *command: str) -> int:
        """Start a server at this end."""
        return self.host.spawn("nsenter", f"--target={self.pid}", "--net", *command)


def data_path(laboratory: Laboratory, seconds: int, rounds: int) -> tuple[list[Line], dict[str, Any]]:
    """Measure throughput, rate and latency of TCP on our network, Docker's, and bare links, in turns."""
    host1, host2 = laboratory.hosts
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", f"--subnet={SUBNET}")
    start = time.monotonic()
    host1.docker(*create, "-o", f"ovn.network={NETWORK}", NETWORK)
    wait_for(lambda: NETWORK in host2.docker("network", "ls"), "the network on the other host", timeout=60)
    seen = time.monotonic() - start
    swarm1, swarm2 = swarm(laboratory)
    pairs = {
        "ours": (container(host1, NETWORK), container(host2, NETWORK)),
        "overlay": (container(swarm1, NETWORK), container(swarm2, NETWORK)),
        "link": (End(host1, "1", host1.address), End(host2, "1", host2.address)),
        "ours, one host": (container(host1, NETWORK), container(host1, NETWORK)),
        "bridge": (container(host1, "bridge"), container(host1, "bridge")),
    }
    found: dict[str, list[Figures]] = {name: [] for name in pairs}
    for _ in range(rounds):
        for name in random.sample(sorted(pairs), len(pairs)):
            found[name].append(figures(*pairs[name], seconds))
    middle = {
        name: {key: p50([figure[key] for figure in figures]) for key in figures[0]}
        for name, figures in found.items()
    }
    units = {"TCP throughput": "Gbit/s", "requests": "/s", "round trip, p50": "µs", "round trip, p99": "µs"}
    lines = [Line("6 a new network of the cluster is on another host after", seen, "s")]
    for ours, theirs, against, where in (
        ("ours", "overlay", "Docker's overlay", "two hosts"),
        ("ours", "link", "bare link", "two hosts"),
        ("ours, one host", "bridge", "bridge", "one host"),
    ):
        for key, unit in units.items():
            lines.append(Line(f"6 {key}, {where}", middle[ours][key], unit, middle[theirs][key], against))
    return lines, {"userspace": laboratory.fabric.userspace, "all": found}


def swarm(laboratory: Laboratory) -> tuple[Host, Host]:
    """Return two hosts with Docker's overlay network, for which Docker needs a swarm or a key-value store."""
    manager, worker = laboratory.fabric.add_hosts("swarm1", "swarm2")
    for host in (manager, worker):
        host.start_docker()
        host.load("busybox")
    manager.docker("swarm", "init", f"--advertise-addr={manager.address}")
    token = manager.docker("swarm", "join-token", "--quiet", "worker")
    worker.docker("swarm", "join", f"--token={token}", f"{manager.address}:2377")
    manager.docker("network", "create", "-d", "overlay", "--attachable", NETWORK)
    return manager, worker


def container(host: Host, network: str) -> End:
    """Start a container that does nothing."""
    name = host.docker("run", "-d", f"--net={network}", "busybox", "sleep", "86400")
    pid = host.docker("inspect", "--format={{.State.Pid}}", name)
    return End(host, pid, address_of(host, name))


def figures(client: End, server: End, seconds: int) -> Figures:
    """Measure from one end to the other."""
    throughput = server.spawn("iperf3", "--server", "--port=5201")
    answers = server.spawn("sockperf", "server", "--tcp", "--port=11111")
    try:
        for port in (5201, 11111):
            wait_for(lambda port=port: f":{port} " in server.run("ss", "-Hltn"), f"the server on port {port}")
        sent = json.loads(client.run("iperf3", f"--client={server.address}", f"--time={seconds}", "--json",
                                     timeout=seconds + 30))  # fmt: skip
        said = client.run(
            *(
                "sockperf",
                "ping-pong",
                "--tcp",
                f"--ip={server.address}",
                "--port=11111",
                f"--time={seconds}",
            ),
            *("--full-rtt", "--no-rdtsc"),
            timeout=seconds + 30,
        )
    finally:
        for pid in (throughput, answers):
            server.host.kill(pid)
    said = re.sub(r"\x1b\[[0-9;]*m", "", said)
    (duration, messages), *_ = re.findall(
        r"\[Valid Duration\] RunTime=([\d.]+) sec; .*?ReceivedMessages=(\d+)", said
    )
    percentile = dict(re.findall(r"percentile\s+([\d.]+)\s*=\s*([\d.]+)", said))
    return {
        "TCP throughput": sent["end"]["sum_received"]["bits_per_second"] / 1e9,
        "requests": int(messages) / float(duration),
        "round trip, p50": float(percentile["50.000"]),
        "round trip, p99": float(percentile["99.000"]),
    }
