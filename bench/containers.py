"""``docker run`` on the host where this runs: ``python -m bench.containers``, a plan on standard input."""

import json
import random
import re
import subprocess
import sys
import time
from typing import Any


def run(network: str, *command: str) -> tuple[float, str]:
    """Return the seconds of ``docker run --rm``, and the output of the container."""
    start = time.perf_counter()
    done = subprocess.run(
        ["docker", "run", "--rm", f"--net={network}", "busybox", *command],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode and "packets transmitted" not in done.stdout:
        raise RuntimeError(f"docker run --net={network}: {done.stderr}")
    return time.perf_counter() - start, done.stdout


def wall_times(networks: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of ``docker run --rm`` on each network, in turns."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(rounds + 1):
        for name in random.sample(sorted(networks), len(networks)):
            seconds, _ = run(networks[name], "true")
            if number:  # the first round warms up
                times[name].append(seconds)
    return times


def packets_lost(targets: dict[str, tuple[str, str]], containers: int) -> dict[str, list[int]]:
    """Count the first five packets of a container, 50 ms apart, that got no answer from the *targets*."""
    lost: dict[str, list[int]] = {name: [] for name in targets}
    for _ in range(containers):
        for name in random.sample(sorted(targets), len(targets)):
            network, address = targets[name]
            _, said = run(network, "ping", "-c", "5", "-i", "0.05", "-W", "1", address)
            sent, received = re.findall(r"(\d+) packets (?:transmitted|received)", said)
            lost[name].append(int(sent) - int(received))
    return lost


if __name__ == "__main__":
    plan: dict[str, Any] = json.load(sys.stdin)
    function = {"wall_times": wall_times, "packets_lost": packets_lost}[plan.pop("what")]
    json.dump(function(**plan), sys.stdout)
