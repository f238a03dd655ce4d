"""Plans of the chaos suite: they follow from the seed, and have no command that Docker has to refuse."""

from random import Random

from chaos import faults, operations, overlay
from chaos.model import Container, Network, Wanted
from chaos.operations import Command, commands_towards

HOSTS = ("host1", "host2", "host3")


KINDS = overlay.kinds(HOSTS, raft=True)


def plans(seed: int, rounds: int, *, follow: bool = True) -> tuple[list[list[Command]], Wanted]:
    wanted, planned = Wanted(), []
    for number in range(rounds):
        planned.append(operations.plan(wanted, Random(f"{seed}/{number}"), HOSTS, 6, follow=follow))
        wanted.gone.clear()
    return planned, wanted


def test_commands_follow_from_the_seed() -> None:
    assert plans(1, 50) == plans(1, 50)
    assert plans(1, 50) != plans(2, 50)


def test_faults_follow_from_the_seed() -> None:
    struck = [faults.plan(Random(7), KINDS, 4) for _ in range(2)]
    assert struck[0] == struck[1]


def test_host_without_power_has_no_other_fault() -> None:
    for seed in range(500):
        struck = faults.plan(Random(seed), KINDS, 4)
        dark = [fault.machine for fault in struck if fault.kind == faults.POWER_CUT]
        assert len(dark) <= 1
        assert all(fault.kind == faults.POWER_CUT for fault in struck if fault.machine in dark)


def test_each_kind_of_command_and_fault_occurs() -> None:
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


def test_commands_of_a_round_do_not_contradict_each_other() -> None:
    """A container, or a network that is made or removed, is in one command of a round only."""
    planned, _ = plans(4, 200)
    for commands in planned:
        said = [word for one in commands for word in {part.split("=")[-1] for part in one.argv}]
        changed = [one.argv[-1] for one in commands if one.argv[1] in {"create", "rm"}]
        containers = [word for word in said if word.startswith("host")]
        for name in (*changed, *containers):
            assert said.count(name) == 1


def test_shared_network_is_created_on_each_host_without_following() -> None:
    planned, _ = plans(5, 100, follow=False)
    for commands in planned:
        typed = {one.argv[-1]: one.argv for one in commands if one.argv[:2] == ("network", "create")}
        for name, argv in typed.items():
            hosts = [one.host for one in commands if one.argv == argv]
            assert len(set(hosts)) == len(hosts)
            assert (len(hosts) > 1) == (f"ovn.network={name}" in argv)


def test_some_hosts_remove_a_shared_network_without_following() -> None:
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


def test_failed_commands_are_repeated() -> None:
    wanted = Wanted({"foo": FOO}, {"box": BOX}, {"old": ("host1",)})
    nothing: tuple[set[str], dict[str, set[str] | None]] = ({"old"}, {"stray": None})
    typed = [str(command) for command in commands_towards(wanted, dict.fromkeys(HOSTS, nothing))]
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


def test_successful_commands_are_not_repeated() -> None:
    wanted = Wanted({"foo": FOO}, {"box": BOX})
    there = {"host1": ({"foo"}, {}), "host2": ({"foo"}, {"box": {"foo", "bridge"}})}
    assert [str(command) for command in commands_towards(wanted, there)] == [
        "host2$ docker network disconnect bridge box"
    ]
    there["host2"] = ({"foo"}, {"box": None})
    assert [str(command) for command in commands_towards(wanted, there)] == ["host2$ docker start box"]


def test_a_network_is_made_again_elsewhere_when_its_removal_has_ended() -> None:
    for seed in range(500):
        wanted = Wanted({"foo": FOO})
        for remove in operations.plan(wanted, Random(seed), HOSTS, 1, follow=True):
            if not remove.then:
                continue
            remove_too, create = remove.then
            assert remove.argv == remove_too.argv == ("network", "rm", "foo")
            assert remove_too.host == create.host != remove.host
            assert create.argv[-1] == "foo"
            assert wanted.networks["foo"].homes == (create.host,)
            assert wanted.gone == {}
            assert create in commands_towards(wanted, {host: (set(), {}) for host in HOSTS})
            return
    raise AssertionError("none was")


def test_certain_faults_are_planned_and_their_host_keeps_its_power() -> None:
    late = faults.Fault(faults.CUT_OFF, "host2")
    for seed in range(500):
        struck = faults.plan(Random(seed), KINDS, 4, [late])
        assert struck[0] == late
        assert faults.Fault(faults.POWER_CUT, "host2") not in struck
        assert len(struck) <= 4
