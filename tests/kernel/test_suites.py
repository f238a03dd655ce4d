"""Modules of the end-to-end suite, which depend on the datapath, on that of the kernel."""

from collections.abc import Iterator

import pytest

from kernel.machine import Machine

ATTACKS = (
    *("container_to_services", "host_kernel", "hostile_frames", "other_networks"),
    *("rogue_router", "spoofing", "tunnel_injection"),
)
"""Those that end in the datapath or the kernel; the others end in databases."""

E2E = {
    "guide": "test_guide.py",
    "lab": "test_lab.py",
    "trace": "test_trace.py",
    "power cut": "test_host_fails.py -k power_cut",
    "restarts": "-m faults test_restarts.py",
    "attacks": f"-m attacks {' '.join(f'attacks/test_{name}.py' for name in ATTACKS)}",
}
"""Arguments of pytest in tests/e2e, by name."""


@pytest.fixture(scope="module")
def free(machine: Machine) -> Iterator[Machine]:
    """The machine without its own Docker, because the lab's hosts have theirs."""
    machine.run("systemctl stop docker docker.socket")
    yield machine
    machine.run("systemctl start docker.socket docker")


@pytest.mark.parametrize("tests", [pytest.param("guide", marks=pytest.mark.quick), *list(E2E)[1:]])
def test_end_to_end_suite_passes_on_the_kernel_datapath(free: Machine, tests: str) -> None:
    factor = f"OVN_DOCKER_TEST_PATIENCE={free.timeout_factor:g}"
    free.run(f"cd tests/e2e; {factor} ../../.venv/bin/pytest --durations=10 {E2E[tests]}", 3600)
