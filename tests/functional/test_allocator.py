"""Random calls of several hosts at once: each address has one owner at most, and stays available."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from functional.conftest import Connect
from functional.docker_networks import DockerHost, DockerNetwork
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.errors import BadRequest, Conflict

HOSTS = 3
WHERE = [
    # the subnet, and --ip-range on each host
    ("10.3.0.0/28", (None, None, None)),
    ("10.3.0.0/28", ("10.3.0.0/29", "10.3.0.4/30", None)),
    ("10.3.0.0/24", ("10.3.0.248/29", "10.3.0.128/25", "10.3.0.0/28")),
    ("10.3.0.0/16", (None, "10.3.0.0/28", None)),
    ("fd00::/124", (None, "fd00::8/125", None)),
    ("fd00::/64", (None, None, "fd00::/125")),
]

Step = tuple[str, int]
steps = st.tuples(
    st.sampled_from(["any", "any", "any", "chosen", "release", "release", "crash"]), st.integers(0, 40)
)


def forbidden(network: DockerNetwork) -> set[str]:
    """Addresses that no container may have."""
    first, last = network.subnet[0], network.subnet[-1]
    return {str(first), *map(str, network.kept), *([str(last)] if last.version == 4 else [])}


class Owners:
    """The owner of each address, according to the replies to the callers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number: Counter[str] = Counter()
        self.ever: set[str] = set()

    def record_lease(self, address: str) -> None:
        """Record that a call has leased the address."""
        with self._lock:
            self._number[address] += 1
            self.ever.add(address)
            assert self._number[address] == 1, f"{address} has two owners"

    def record_release(self, address: str) -> None:
        """Record that a call is about to release the address."""
        with self._lock:
            self._number[address] -= 1


class Worker:
    """One of the threads on a host, and the addresses that its containers have."""

    def __init__(self, host: DockerHost, network: DockerNetwork, part: str | None, owners: "Owners") -> None:
        self.host, self.network, self.owners = host, network, owners
        self.range = ip_network(part or network.subnet)
        self.leased: list[str] = []

    def run(self, steps: list[Step]) -> None:
        for what, number in steps:
            if what == "any":
                self.lease(None)
            elif what == "chosen":
                self.lease(str(self.network.subnet[number % min(self.network.subnet.num_addresses, 40)]))
            elif what == "release" and self.leased:
                self.release(self.leased.pop(number % len(self.leased)))
            elif what == "crash":
                self.host.restart()

    def lease(self, wanted: str | None) -> None:
        try:
            address = self.host.lease(self.network, wanted)
        except (Conflict, BadRequest):
            return
        self.owners.record_lease(address)
        self.leased.append(address)
        assert address == wanted if wanted else ip_network(address).subnet_of(self.range)  # type: ignore[arg-type]
        assert address not in forbidden(self.network)

    def release(self, address: str) -> None:
        self.owners.record_release(address)
        self.host.release(self.network, address)


@pytest.mark.slow
def test_each_address_has_one_owner_at_most_and_stays_available(
    northbound: OvsdbServer, connect: Connect
) -> None:
    northbound.insert("Logical_Switch", name="web")
    before = northbound.contents()
    hosts = [DockerHost(f"host{number}", connect(northbound), rest=0.02) for number in range(HOSTS)]

    # The order of the threads' calls differs in each run, so a failure cannot be reduced to a smaller one.
    @settings(max_examples=40, database=None, phases=[Phase.generate])
    @given(st.sampled_from(WHERE), st.lists(st.lists(steps, max_size=12), min_size=2, max_size=6))
    def run(where: tuple[str, tuple[str | None, ...]], step_lists: list[list[Step]]) -> None:
        subnet, parts = where
        networks = [
            there.create(subnet, part=part, switch="web") for there, part in zip(hosts, parts, strict=True)
        ]
        owners = Owners()
        workers = [
            Worker(hosts[number % HOSTS], networks[number % HOSTS], parts[number % HOSTS], owners)
            for number in range(len(step_lists))
        ]
        with ThreadPoolExecutor(len(step_lists)) as threads:
            list(threads.map(Worker.run, workers, step_lists))
        for worker in workers:
            for address in worker.leased:
                worker.release(address)
        usable(hosts, networks, owners.ever)
        for there, network in zip(hosts, networks, strict=True):
            there.remove(network)
        assert northbound.contents() == before

    run()


def usable(hosts: list[DockerHost], networks: list[DockerNetwork], ever: set[str]) -> None:
    """Assert that each address in *ever* can be leased again; in a small subnet, each address."""
    whole = networks[2].subnet
    if whole.num_addresses <= 16:
        assert set(hosts[2].lease_all(networks[2])) == set(map(str, whole)) - forbidden(networks[2])
    else:
        for address in ever:
            assert hosts[0].lease(networks[0], address) == address
