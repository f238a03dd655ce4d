"""The machine of `make test-kernel`."""

from collections.abc import Iterator

import pytest

from kernel.machine import ACCELERATORS, RELEASES, Machine, boot, image, missing


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--release", default=RELEASES[0], choices=RELEASES, help="the machine's Debian (default bookworm)"
    )
    parser.addoption(
        "--accelerator",
        choices=ACCELERATORS,
        default=ACCELERATORS[0],
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
