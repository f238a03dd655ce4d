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
    releases = ("bookworm", "trixie")
    parser.addoption(
        "--release", default=releases[0], choices=releases, help="the machine's Debian (default bookworm)"
    )
    parser.addoption(
        "--accelerator",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="QEMU's (default auto: kvm where it boots the machine in 40 s, else tcg)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quick: a part of `make test-kernel` for every day")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reasons := missing():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f"no machine here: {', '.join(reasons)}"))


FIREWALL = """
table inet others {
    chain input { type filter hook input priority 0; policy drop
        ct state established,related accept; iif lo accept; tcp dport 22 accept
        meta l4proto { icmp, ipv6-icmp } accept; udp dport { 67, 68 } accept; }
    chain output { type filter hook output priority 0; policy accept; }
}
"""
"""An administrator's firewall, in tables of nftables; the first boot ends it."""


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The virtual machine with the committed source (`HEAD`), and a firewall."""
    machine = boot(image(request.config.option.release), request.config.option.accelerator)
    try:
        machine.put_tree()
        machine.run(f"nft -f - <<'END'\n{FIREWALL}\nEND")
        yield machine
    finally:
        machine.close()


def boot(directory: Path, accelerator: str) -> Machine:
    """Start a machine; return it when it is up. Accelerator "auto" is KVM if that is fast enough."""
    if accelerator == "auto":
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            with suppress(LabError):  # inside a virtual machine, KVM may be slower than TCG
                return start(directory, "kvm", 40)
        accelerator = "tcg"
    return start(directory, accelerator, 600)


def start(directory: Path, accelerator: str, seconds: float) -> Machine:
    """Start a machine; return it when it is up. Raises LabError, and ends it, if that takes too long."""
    machine = Machine(directory, cache() / "machine-console.log", accelerator=accelerator)
    try:
        machine.await_boot(seconds)
    except BaseException:
        machine.close()
        raise
    print(f"\nthe machine is up, on {accelerator}")
    return machine
