"""The driver as a process, with real databases, under hostile calls on its socket."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functional.overlay_host import NETWORK, OverlayHost, endpoint, ids
from functional.ovsdb_servers import until
from fuzz.targets import STATUSES
from ovn_docker.host.kernel.links import KernelLinks
from recordings.requests import almost_right, broken

INPUTS = int(os.environ.get("FUZZ", "400"))
"""Number of inputs; `make fuzz` sets more."""

ROUND = 1000
"""Number of inputs after which the networks and containers that were made are deleted."""


def memory(pid: int) -> int:
    """Return the memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def empty(host: OverlayHost) -> None:
    """Delete the driver's networks, ports and links."""
    host.northbound.clear_networks()
    (own,) = (row["_uuid"] for row in host.open_vswitch.rows("Port") if row["name"] == "br-int")
    host.open_vswitch.transact(
        {"op": "update", "table": "Bridge", "where": [], "row": {"ports": ["uuid", own]}}
    )
    for link in KernelLinks().joined("odh"):
        KernelLinks().delete(link)


@pytest.mark.slow
def test_hostile_calls_are_answered_and_leave_no_memory_behind(overlay_host: OverlayHost) -> None:
    host = overlay_host
    process = host.start("--sync=off", "--sweep-interval=3600")
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    answers = dict.fromkeys(["fine", "refused", "malformed"], 0)

    def send(sent: tuple[str, Any]) -> None:
        path, request = sent
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        status, answer = host.ask(path[1:], body)
        assert status in STATUSES
        if status != 200 or "Err" in answer:
            assert answer.keys() == {"Err", "Error"}
            assert answer["Err"].isprintable()
        answers["malformed" if status != 200 else "refused" if "Err" in answer else "fine"] += 1

    sizes = []
    for start in range(0, INPUTS, ROUND):
        fuzz = settings(
            max_examples=min(ROUND, INPUTS - start), database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        fuzz(given(st.one_of(almost_right(), almost_right(), broken()))(send))()
        empty(host)
        sizes.append(memory(process.pid))
    assert min(answers.values()) > INPUTS // 50, answers
    # Each of the threads may meet with the deepest and largest input, and keeps its stack.
    assert sizes[-1] <= max(sizes[: len(sizes) // 2 + 1]) + 8, sizes
    assert sizes[-1] < 100, sizes
    assert host.reports_no_defect()
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    host.succeed("NetworkDriver.CreateEndpoint", endpoint(1))
    host.succeed("NetworkDriver.Join", {**ids(1), "SandboxKey": "/var/run/docker/netns/0123456789ab"})
    until(lambda: host.open_vswitch.ports() != {})
    print(answers, sizes)
