"""Rules that forward name queries, in a network namespace: they follow the settings of a host."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from functional.ovsdb_servers import until
from ovn_docker.host import nameservers
from ovn_docker.host.nameservers import Forwarder, pass_on, passes_on, withdraw
from ovn_docker.model import NAMESERVERS
from ovn_docker.threads import Threads

OURS = [str(address) for address in NAMESERVERS]

pytestmark = pytest.mark.usefixtures("network_namespace")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a host whose dockerd has OVN's name servers in its configuration."""
    (tmp_path / "etc/docker").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    configure_dockerd(tmp_path, *OURS)
    configure_host(tmp_path, "192.0.2.1")
    return tmp_path


def configure_dockerd(root: Path, *servers: str) -> None:
    """Configure dockerd with name servers."""
    (root / "etc/docker/daemon.json").write_text(json.dumps({"dns": servers}))


def configure_host(root: Path, server: str) -> None:
    """Configure the host with a name server, as its DHCP client does."""
    (root / "etc/resolv.conf").write_text(f"nameserver {server}\n")


def rules() -> list[str]:
    """Return the rules of the nat table that forward name queries."""
    listed = subprocess.run(["iptables-save", "-t", "nat"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if "OVN-DOCKER-NAMES" in line]


def expected(server: str) -> list[str]:
    chain = "OVN-DOCKER-NAMES"
    sent = [f"-A {chain} -p {p} -m {p} --dport 53 -j DNAT --to-destination {server}" for p in ("udp", "tcp")]
    return [f":{chain} - [0:0]", f"-A PREROUTING -d 169.254.53.0/24 -j {chain}", *sent]


def test_rules_follow_the_name_server_of_the_host(root: Path) -> None:
    pass_on(root)
    assert rules() == expected("192.0.2.1")
    configure_host(root, "192.0.2.2")
    pass_on(root)
    assert rules() == expected("192.0.2.2")
    configure_dockerd(root, *OURS, "192.0.2.3")
    pass_on(root)
    assert rules() == expected("192.0.2.3")


def test_rules_are_removed_with_the_setting_of_dockerd(root: Path) -> None:
    pass_on(root)
    configure_dockerd(root, "192.0.2.3")
    pass_on(root)
    assert rules() == []
    pass_on(root)
    assert rules() == []


@pytest.mark.parametrize(
    "damage",
    [
        ["-F", "OVN-DOCKER-NAMES"],
        ["-D", "OVN-DOCKER-NAMES", "1"],
        ["-F", "PREROUTING"],
        ["-A", "OVN-DOCKER-NAMES", "-j", "RETURN"],
    ],
)
def test_damaged_rules_are_restored(root: Path, damage: list[str]) -> None:
    pass_on(root)
    subprocess.run(["iptables", "-t", "nat", *damage], check=True)
    pass_on(root)
    assert rules() == expected("192.0.2.1")


def test_correct_rules_are_not_written_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_on(root)
    run, written = nameservers.run, []

    def recorded(argv: Sequence[str], seconds: float, *, text: str = "") -> str:
        written.append(argv) if text or "-I" in argv else None
        return run(argv, seconds, text=text)

    monkeypatch.setattr(nameservers, "run", recorded)
    pass_on(root)
    assert written == []


def test_withdraw_removes_all_our_rules_and_keeps_others(root: Path) -> None:
    pass_on(root)
    jump = ["-I", "PREROUTING", "-d", "169.254.53.0/24", "-j", "OVN-DOCKER-NAMES"]
    subprocess.run(["iptables", "-t", "nat", *jump], check=True)
    other = ["PREROUTING", "-d", "192.0.2.9/32", "-j", "RETURN"]
    subprocess.run(["iptables", "-t", "nat", "-A", *other], check=True)
    withdraw()
    assert (rules(), passes_on()) == ([], False)
    subprocess.run(["iptables", "-t", "nat", "-C", *other], check=True)


def test_forwarder_compares_again_when_dockerd_has_started(root: Path) -> None:
    forwarder = Forwarder(root, 3600)
    forwarder.start(Threads())
    until(lambda: rules() == expected("192.0.2.1"))
    configure_dockerd(root)
    forwarder.wake()
    until(lambda: rules() == [])


@pytest.fixture
def forwarder(network_namespace: None, root: Path) -> Iterator[Forwarder]:
    """A forwarder with a short interval, until the end of the test."""
    forwarder = Forwarder(root, 0.05)
    forwarder.start(Threads())
    yield forwarder
    forwarder._interval = 1e6


@pytest.mark.usefixtures("forwarder")
def test_forwarder_notices_a_new_name_server(root: Path) -> None:
    until(lambda: rules() == expected("192.0.2.1"))
    configure_host(root, "192.0.2.2")
    until(lambda: rules() == expected("192.0.2.2"))
