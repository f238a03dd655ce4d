"""The chaos suite can be repeated, and asks Docker for nothing that it has to refuse."""

from random import Random

from chaos import faults, operations, overlay
from chaos.model import Container, Network, Wanted
from chaos.operations import Command, again

HOSTS = ("host1", "host2", "host3")


KINDS = overlay.kinds(HOSTS, raft=True)


def plans(seed: int, rounds: int, *, follow: bool = True) -> tuple[list[list[Command]], Wanted]:
    wanted, planned = Wanted(), []
    for number in range(rounds):
        planned.append(operations.plan(wanted, Random(f"{seed}/{number}"), HOSTS, 6, follow=follow))
        wanted.gone.clear()
    return planned, wanted


def test_what_is_typed_follows_from_the_seed() -> None:
    assert plans(1, 50) == plans(1, 50)
    assert plans(1, 50) != plans(2, 50)


def test_what_strikes_follows_from_the_seed() -> None:
    struck = [faults.plan(Random(7), KINDS, 4) for _ in range(2)]
    assert struck[0] == struck[1]


def test_nothing_else_strikes_a_host_without_power() -> None:
    for seed in range(500):
        struck = faults.plan(Random(seed), KINDS, 4)
        dark = [fault.machine for fault in struck if fault.kind == faults.POWER_CUT]
        assert len(dark) <= 1
        assert all(fault.kind == faults.POWER_CUT for fault in struck if fault.machine in dark)


def test_each_kind_of_command_and_of_fault_comes() -> None:
    planned, _ = plans(3, 100)
    kinds = {
        command.argv[:2] if command.argv[0] == "network" else command.argv[0]
        for of in planned
        for command in of
    }
    assert kinds == {("network", what) for what in ("create", "rm", "connect", "disconnect")} | {
        "run",
        "rm",
        "restart",
    }
    struck = {fault.kind for seed in range(500) for fault in faults.plan(Random(seed), KINDS, 4)}
    assert struck == set(KINDS)


def test_databases_of_one_host_have_no_leader_and_fail_there() -> None:
    kinds = overlay.kinds(HOSTS, raft=False)
    assert not [name for name in kinds if "leader" in name]
    assert {kind.machines for name, kind in kinds.items() if "northbound" in name} == {HOSTS[:1]}


def test_no_two_commands_of_a_round_contradict_each_other() -> None:
    """A container, or a network that is made or removed, is in one command of a round only."""
    planned, _ = plans(4, 200)
    for commands in planned:
        said = [word for one in commands for word in {part.split("=")[-1] for part in one.argv}]
        changed = [one.argv[-1] for one in commands if one.argv[1] in {"create", "rm"}]
        containers = [word for word in said if word.startswith("host")]
        for name in (*changed, *containers):
            assert said.count(name) == 1


def test_without_following_a_shared_network_is_typed_wherever_it_is() -> None:
    planned, _ = plans(5, 100, follow=False)
    for commands in planned:
        typed = {one.argv[-1]: one.argv for one in commands if one.argv[:2] == ("network", "create")}
        for name, argv in typed.items():
            hosts = [one.host for one in commands if one.argv == argv]
            assert len(set(hosts)) == len(hosts)
            assert (len(hosts) > 1) == (f"ovn.network={name}" in argv)


def test_without_following_some_give_up_a_shared_network_that_others_keep() -> None:
    wanted = Wanted()
    for number in range(200):
        before = dict(wanted.networks)
        operations.plan(wanted, Random(number), HOSTS, 6, follow=False)
        for name, gone in wanted.gone.items():
            rest = wanted.networks[name].hosts if name in wanted.networks else ()
            assert {*gone, *rest} == set(before[name].hosts)
        if any(name in wanted.networks for name in wanted.gone):
            return
        wanted.gone.clear()
    raise AssertionError("none did")


FOO = Network("foo", 20, HOSTS[:1], HOSTS, shared=True, leases=True, dual_stack=False, internal=False)
BOX = Container("box", "host2", ("foo",), "no")


def test_what_came_to_nothing_is_typed_again() -> None:
    wanted = Wanted({"foo": FOO}, {"box": BOX}, {"old": ("host1",)})
    nothing: tuple[set[str], dict[str, set[str] | None]] = ({"old"}, {"stray": None})
    typed = [str(command) for command in again(wanted, dict.fromkeys(HOSTS, nothing))]
    assert [line for line in typed if line.startswith("host1")] == [
        "host1$ docker rm --force stray",
        "host1$ docker network rm old",
        f"host1$ docker network create -d openvswitch {' '.join(FOO.options)} foo",
    ]
    assert [line.partition(" --")[0] for line in typed if line.startswith("host2")] == [
        "host2$ docker rm",
        "host2$ docker run -d",
    ]
    assert [line for line in typed if line.startswith("host3")] == ["host3$ docker rm --force stray"]


def test_what_is_there_is_not_typed_again() -> None:
    wanted = Wanted({"foo": FOO}, {"box": BOX})
    there = {"host1": ({"foo"}, {}), "host2": ({"foo"}, {"box": {"foo", "bridge"}})}
    assert [str(command) for command in again(wanted, there)] == [
        "host2$ docker network disconnect bridge box"
    ]
    there["host2"] = ({"foo"}, {"box": None})
    assert [str(command) for command in again(wanted, there)] == ["host2$ docker start box"]
