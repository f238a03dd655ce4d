"""The machine of `make test-kernel`."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.lab import LabError
from e2e.lab.images import cache
from kernel.machine import Machine, image, missing


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--suite", default="bookworm", help="the machine's Debian (default bookworm)")
    parser.addoption(
        "--accelerator",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="QEMU's (default auto: kvm where it boots the machine in 40 s, else tcg)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reasons := missing():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f"no machine here: {', '.join(reasons)}"))


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The machine, with what is committed here."""
    machine = boot(image(request.config.option.suite), request.config.option.accelerator)
    try:
        machine.put_tree()
        yield machine
    finally:
        machine.close()


def boot(directory: Path, accelerator: str) -> Machine:
    """A machine that is up."""
    if accelerator == "auto":
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            with suppress(LabError):  # inside of a virtual machine, KVM may be slower than none
                return start(directory, "kvm", 40)
        accelerator = "tcg"
    return start(directory, accelerator, 600)


def start(directory: Path, accelerator: str, seconds: float) -> Machine:
    """A machine that is up within some seconds; else none is left, and LabError is raised."""
    machine = Machine(directory, cache() / "machine-console.log", accelerator=accelerator)
    try:
        machine.await_boot(seconds)
    except BaseException:
        machine.close()
        raise
    print(f"\nthe machine is up, on {accelerator}")
    return machine
