"""Modules of the end-to-end suite, which depend on the datapath, on that of the kernel."""

from collections.abc import Iterator

import pytest

from kernel.machine import Machine

E2E = {"guide": "test_guide.py", "lab": "test_lab.py"}
"""Arguments of pytest in tests/e2e, by name."""


@pytest.fixture(scope="module")
def free(machine: Machine) -> Iterator[Machine]:
    """The machine without its own Docker, because the lab's hosts have theirs."""
    machine.run("systemctl stop docker docker.socket")
    yield machine
    machine.run("systemctl start docker.socket docker")


@pytest.mark.parametrize("tests", [pytest.param("guide", marks=pytest.mark.quick), "lab"])
def test_end_to_end_suite_passes_on_the_kernel_datapath(free: Machine, tests: str) -> None:
    factor = f"OVN_DOCKER_TEST_PATIENCE={free.timeout_factor:g}"
    free.run(f"cd tests/e2e; {factor} ../../.venv/bin/pytest --durations=10 {E2E[tests]}", 3600)
