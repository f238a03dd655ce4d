"""A short run of the chaos suite (`make chaos` is the long one), and a check that it detects damage."""

from collections.abc import Iterator

import pytest

from chaos import invariants, views
from chaos.overlay import Overlay
from chaos.run import Chaos
from e2e.cluster import driver_with
from e2e.lab import Fabric, Host, wait_for

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def chaos(module_fabric: Fabric) -> Chaos:
    return Chaos(Overlay(module_fabric), seed=1, say=print)


def test_every_invariant_holds_after_random_faults(chaos: Chaos) -> None:
    chaos.rounds(20)
    print(chaos.summary())
    assert chaos.struck.total() == 20


@pytest.fixture
def host(chaos: Chaos) -> Iterator[Host]:
    """The first host, with the containers box and peer on a network of their own."""
    host = chaos.mode.hosts[0]
    with driver_with(host, "--sweep-interval=3600"):  # or a sweep may repair the damage at once
        host.docker("network", "create", "-d", "openvswitch", "--subnet=10.200.0.0/24", "own")
        for name in ("box", "peer"):
            host.docker(
                "run", "-d", f"--name={name}", "--net=own", "--stop-signal=KILL", "busybox", "sleep", "600"
            )
        wait_for(lambda: not invariants.troubles(chaos.mode, views.docker(chaos.mode.hosts)), "order")
        yield host
    host.docker("rm", "--force", "box", "peer")
    host.docker("network", "rm", "own")
    wait_for(lambda: not invariants.troubles(chaos.mode, views.docker(chaos.mode.hosts)), "the damage to go")


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        ("nsenter --target=$PID --net ip link set $LINK down", "no answer: box on host1 to ask 10.200.0.3"),
        ("nsenter --target=$PID --net ip address del $ADDRESS/24 dev $LINK", "missing: host1: link in box: "),
        ("ovs-vsctl del-port odh$(echo $ENDPOINT | cut -c-12)", "missing: host1: port odh"),
        ("ovn-nbctl lsp-del $ENDPOINT", "missing: port "),
        ("ovn-nbctl lsp-add $NETWORK stray", "left behind: port stray of None on switch "),
        (
            "ip link add odhstray type veth peer name odcstray",
            "left behind: host1: link odhstray into nowhere",
        ),
    ],
)
def test_invariants_detect_damage(chaos: Chaos, host: Host, damage: str, seen: str) -> None:
    (box,) = (one for one in views.docker(chaos.mode.hosts)[0].endpoints if one.container == "box")
    (address,) = box.addresses
    listed = host.run("nsenter", f"--target={box.pid}", "--net", "ip", "-oneline", "address")
    (link,) = (line.split()[1] for line in listed.splitlines() if f" {address}/" in line)
    known = {"PID": str(box.pid), "LINK": link, "ADDRESS": address, "ENDPOINT": box.id, "NETWORK": box.switch}
    host.run("sh", "-ec", damage, env=known)
    lines = invariants.troubles(chaos.mode, views.docker(chaos.mode.hosts))
    assert [line for line in lines if line.startswith(seen)], lines
