"""The driver as a process, with real databases behind it, takes whatever comes on its socket."""

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
from ovn_docker.host.links import Links
from recordings.requests import almost_right, broken

INPUTS = int(os.environ.get("FUZZ", "400"))
"""How many; `make fuzz` wants more."""

ROUND = 1000
"""After so many the host is emptied: of each network and container that was made."""

ROOTS = ("Logical_Switch", "Logical_Router", "DHCP_Options", "DNS")


def memory(pid: int) -> int:
    """MiB that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def empty(host: OverlayHost) -> None:
    """Without networks, ports and links of the driver's."""
    host.northbound.transact(*({"op": "delete", "table": table, "where": []} for table in ROOTS))
    (own,) = (row["_uuid"] for row in host.open_vswitch.rows("Port") if row["name"] == "br-int")
    host.open_vswitch.transact(
        {"op": "update", "table": "Bridge", "where": [], "row": {"ports": ["uuid", own]}}
    )
    for link in Links().joined("odh"):
        Links().delete(link)


@pytest.mark.slow
def test_whatever_comes_is_answered_and_forgotten(overlay_host: OverlayHost) -> None:
    host = overlay_host
    process = host.start("--sync=off", "--sweep-interval=3600")
    host.do("NetworkDriver.CreateNetwork", NETWORK)
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
            max_examples=min(ROUND, INPUTS - start), deadline=None, database=None,
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
    host.do("NetworkDriver.CreateNetwork", NETWORK)
    host.do("NetworkDriver.CreateEndpoint", endpoint(1))
    host.do("NetworkDriver.Join", {**ids(1), "SandboxKey": "/var/run/docker/netns/0123456789ab"})
    until(lambda: host.open_vswitch.ports() != {})
    print(answers, sizes)
