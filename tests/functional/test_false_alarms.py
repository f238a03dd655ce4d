"""No false alarms: the commands find nothing in a healthy state, and all of them find each fault.

States are generated (`functional/states.py`), the same ones in each run; FALSE_ALARMS=1000 tries a thousand
new ones.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from functional.hosts import ip
from functional.ovsdb_servers import OpenVswitch, until
from functional.states import Kind, Made, States, Wanted, states
from functional.test_daemon import PROGRAM
from ovn_docker.backends.ovn.rows import note_row
from ovn_docker.host import ovsdb
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.model import container_link, host_link, row_uuid

pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not there; pip install -e ."),
    pytest.mark.slow,
]

TRIES = int(os.environ.get("FALSE_ALARMS", "0"))
"""Number of new random states to try; 0: the same few states in every run."""


def tried(often: int) -> settings:
    return settings(
        max_examples=TRIES or often,
        derandomize=not TRIES,
        database=None,
        phases=[Phase.generate],  # a state takes a second: too long to look for the simplest one
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, shared_open_vswitch: OpenVswitch) -> Iterator[States]:
    shared_open_vswitch.reset()
    with states(tmp_path_factory.mktemp("states"), shared_open_vswitch) as there:
        yield there


FLAGS = st.booleans()
CONTAINERS = st.lists(st.sampled_from(["running", "exited", "created", "paused"]), max_size=2).map(tuple)
COUNT = st.integers(0, 2)
OF_HOST = st.builds(Kind, internal=FLAGS, ipv6=FLAGS, ours=FLAGS)
ATTACHED = st.builds(Kind, attached=st.just(True), ipv6=FLAGS, ours=FLAGS)
GLOBAL = st.builds(Kind, everywhere=st.just(True), ipv6=FLAGS)
SWARM = st.builds(Kind, kept=st.just(True), ipv6=FLAGS)
SHARED = st.builds(Kind, shared=st.just(True), internal=FLAGS, ipv6=FLAGS, ours=FLAGS)
LEFT = st.builds(Kind, shared=st.just(True), gone=st.just(True), ipv6=FLAGS, ours=FLAGS)
REMOVED = st.builds(Kind, shared=st.just(True), removed=st.just(True), ipv6=FLAGS, ours=FLAGS)

WANTED = st.one_of(
    st.builds(Wanted, OF_HOST | SWARM, CONTAINERS),
    st.builds(Wanted, ATTACHED | GLOBAL | SHARED, CONTAINERS, COUNT),
    st.builds(Wanted, LEFT, there=st.integers(1, 2)),
    st.builds(Wanted, REMOVED, CONTAINERS.map(lambda states: ("running", *states)), COUNT),
)
"""Every possible combination of a kind of network and its containers."""


class Outputs:
    """The output of the commands for a state."""

    def __init__(self, cluster: States) -> None:
        self._cluster = cluster
        self.networks = self._rows("networks")
        self.endpoints = self._rows("endpoints")
        self.graph, _, _ = cluster.command("graph", "--format=dot")
        self.doctor = cluster.findings()
        code, out, _ = cluster.command("gc", "--json")
        found = json.loads(out)["found"]
        self.gc: list[str] = [f"{one['kind']} {one['what']}" for one in found]
        self.left_over = any(not one["missing"] for one in found)
        assert code == (1 if self.gc else 0)

    def inspect(self, name: str) -> list[str]:
        """Return the differences of a network or container."""
        code, out, err = self._cluster.command("inspect", name, "--json")
        assert code in (0, 1), err
        differences = [one for row in json.loads(out) for one in row["differences"]]
        assert code == (1 if differences else 0)
        return differences

    def differing(self) -> set[str]:
        """Return the names of the networks and containers that ``ls`` marks."""
        rows = [*self.networks, *self.endpoints]
        return {row.get("container") or row["name"] for row in rows if row["differences"]}

    def _rows(self, what: str) -> list[dict[str, Any]]:
        code, out, err = self._cluster.command("ls", what, "--json")
        rows: list[dict[str, Any]] = json.loads(out)
        assert code == (1 if any(row["differences"] for row in rows) else 0), err
        _, table, _ = self._cluster.command("ls", what)
        marked = [line for line in table.splitlines() if line.startswith("!")]
        assert len(marked) == sum(bool(row["differences"]) for row in rows)
        here, _, _ = self._cluster.command("ls", what, "--host")
        assert here == (1 if any(row["differences"] for row in rows if row["here"]) else 0)
        return rows


@given(
    wanted=st.lists(WANTED, max_size=3), old=FLAGS, cut_off=st.integers(0, 9).map(lambda number: number == 9)
)
@tried(20)
def test_commands_find_nothing_in_a_healthy_state(
    cluster: States, wanted: list[Wanted], old: bool, cut_off: bool
) -> None:
    cluster.begin()
    made = [cluster.make(one) for one in wanted]
    if old:
        cluster.age()
    cluster.host2.cut_off = cut_off
    outputs = Outputs(cluster)
    names = [one.name for one in made]
    running = [one.name for network in made for one in network.containers if one.namespace]
    assert {row["name"] for row in outputs.networks} == set(names)
    assert {row["container"] for row in outputs.endpoints if row["here"]} == set(running)
    assert outputs.differing() == set()
    assert [outputs.inspect(name) for name in (*names, *running)] == [[]] * len([*names, *running])
    assert (outputs.graph, outputs.gc) == (0, [])
    expected = {"networks-removed"} if any(one.kind.removed for one in made) else set()
    assert outputs.doctor.keys() == expected | ({"hosts-answer"} if cut_off else set())


# Faults


@dataclass(frozen=True)
class Fault:
    """A fault of the first network, or of the first container on it.

    *left*: True if `gc` then has something to clear; *here*: containers of the network on this host.
    """

    cause: Callable[[States, Made], object]
    of_network: bool = False
    left: bool = False
    here: tuple[str, ...] = ("running",)
    kinds: st.SearchStrategy[Kind] = OF_HOST | SHARED | ATTACHED | GLOBAL


def _port(cluster: States, made: Made, **columns: Any) -> None:
    """Change the container's port."""
    row = {key: ovsdb.encode(value) for key, value in columns.items()}
    where = [["name", "==", made.containers[0].id]]
    cluster.northbound.transact({"op": "update", "table": "Logical_Switch_Port", "where": where, "row": row})


def delete_port(cluster: States, made: Made) -> None:
    port = ovsdb.Reference(row_uuid("endpoint", made.containers[0].id))
    cluster.northbound.transact(ovsdb.mutate("Logical_Switch", mutations=[["ports", "delete", [port]]]))


def unplug(cluster: States, made: Made) -> None:
    cluster.vsctl("del-port", host_link(made.containers[0].id))


def delete_link(cluster: States, made: Made) -> None:
    link = host_link(made.containers[0].id)
    ip("link", "delete", link)
    until(lambda: not KernelLinks().exists(link))


def set_link_down(cluster: States, made: Made) -> None:
    ip("link", "set", host_link(made.containers[0].id), "down")


def set_container_end_down(cluster: States, made: Made) -> None:
    (one,) = made.containers
    assert one.namespace
    one.namespace.run("ip", "link", "set", container_link(one.id), "down")


def disable_port(cluster: States, made: Made) -> None:
    _port(cluster, made, enabled=False)


def change_addresses(cluster: States, made: Made) -> None:
    _port(cluster, made, addresses="02:00:00:00:00:01 10.99.0.1")


def change_port_security(cluster: States, made: Made) -> None:
    _port(cluster, made, port_security="02:00:00:00:00:01 10.99.0.1")


def change_iface_id(cluster: States, made: Made) -> None:
    cluster.vsctl("set", "Interface", host_link(made.containers[0].id), "external_ids:iface-id=other")
    claimed = [["logical_port", "==", made.containers[0].id], ["chassis", "==", ["set", []]]]
    select = {"op": "select", "table": "Port_Binding", "where": claimed}
    until(lambda: cluster.southbound.transact(select)[0]["rows"])


def die(cluster: States, made: Made) -> None:
    """Remove Docker's container and its network namespace without a call of the driver."""
    (container,) = made.containers
    link = host_link(container.id)
    container.end()
    until(lambda: not KernelLinks().exists(link))


def delete_switch(cluster: States, made: Made) -> None:
    cluster.delete("Logical_Switch", cluster.switch_of(made))


def change_subnet(cluster: States, made: Made) -> None:
    change = [["external_ids", "delete", ["set", ["subnet"]]],
              ["external_ids", "insert", ["map", [["subnet", "10.99.0.0/24"]]]]]  # fmt: skip
    where = [ovsdb.is_row(cluster.switch_of(made))]
    cluster.northbound.transact(
        {"op": "mutate", "table": "Logical_Switch", "where": where, "mutations": change}
    )


def delete_note(cluster: States, made: Made) -> None:
    cluster.delete("DHCP_Options", note_row(made.network.id))


def forget_network(cluster: States, made: Made) -> None:
    """Remove Docker's network without a call of the driver."""
    made.listed = False


FAULTS = [
    Fault(delete_port),
    Fault(unplug),
    Fault(delete_link),
    Fault(set_link_down),
    Fault(set_container_end_down),
    Fault(disable_port),
    Fault(change_addresses),
    Fault(change_port_security),
    Fault(change_iface_id),
    Fault(die, left=True),
    Fault(delete_switch, of_network=True),
    Fault(change_subnet, of_network=True, kinds=OF_HOST | SHARED | GLOBAL),
    Fault(delete_note, of_network=True, kinds=SHARED | ATTACHED, here=()),
    Fault(forget_network, of_network=True, left=True, here=(), kinds=OF_HOST | SHARED | ATTACHED),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.cause.__name__)
def test_all_commands_find_a_fault(cluster: States, fault: Fault) -> None:
    @given(kind=fault.kinds, there=COUNT, others=st.lists(WANTED, max_size=1))
    @tried(2)
    def find(kind: Kind, there: int, others: list[Wanted]) -> None:
        cluster.begin()
        made = cluster.make(Wanted(kind, fault.here, there))
        for one in others:
            cluster.make(one)
        names = (
            {made.name, made.network.id[:12], made.network.options.switch}
            if fault.of_network
            else {made.containers[0].name, made.containers[0].id[:12]}
        )
        cluster.age()
        fault.cause(cluster, made)
        outputs = Outputs(cluster)
        (name,) = names & outputs.differing()
        assert outputs.inspect(name)
        assert outputs.graph == 1
        assert outputs.doctor.keys() - {"networks-removed", "leftovers"} or fault.left
        assert bool(outputs.gc) >= fault.left
        assert ("leftovers" in outputs.doctor) >= outputs.left_over  # other checks name what is missing
        assert bool(outputs.gc) >= ("leftovers" in outputs.doctor)

    find()
