"""Whatever hosts of a cluster do at once, by chance: no address has two owners, and none gets lost."""

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
    st.sampled_from(["take", "take", "take", "want", "give back", "give back", "crash"]), st.integers(0, 40)
)


def never(network: DockerNetwork) -> set[str]:
    """Addresses that no container may have."""
    first, last = network.subnet[0], network.subnet[-1]
    return {str(first), *map(str, network.kept), *([str(last)] if last.version == 4 else [])}


class Owners:
    """Who has which address, going by what the callers were told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number: Counter[str] = Counter()
        self.ever: set[str] = set()

    def took(self, address: str) -> None:
        """The call has returned."""
        with self._lock:
            self._number[address] += 1
            self.ever.add(address)
            assert self._number[address] == 1, f"{address} has two owners"

    def gives_back(self, address: str) -> None:
        """The call is about to be made."""
        with self._lock:
            self._number[address] -= 1


class Player:
    """One of the threads on a host, and the addresses that its containers have."""

    def __init__(self, host: DockerHost, network: DockerNetwork, part: str | None, owners: "Owners") -> None:
        self.host, self.network, self.owners = host, network, owners
        self.range = ip_network(part or network.subnet)
        self.mine: list[str] = []

    def play(self, steps: list[Step]) -> None:
        for what, number in steps:
            if what == "take":
                self.take(None)
            elif what == "want":
                self.take(str(self.network.subnet[number % min(self.network.subnet.num_addresses, 40)]))
            elif what == "give back" and self.mine:
                self.give_back(self.mine.pop(number % len(self.mine)))
            elif what == "crash":
                self.host.restart()

    def take(self, wanted: str | None) -> None:
        try:
            address = self.host.take(self.network, wanted)
        except (Conflict, BadRequest):
            return
        self.owners.took(address)
        self.mine.append(address)
        assert address == wanted if wanted else ip_network(address).subnet_of(self.range)  # type: ignore[arg-type]
        assert address not in never(self.network)

    def give_back(self, address: str) -> None:
        self.owners.gives_back(address)
        self.host.give_back(self.network, address)


@pytest.mark.slow
def test_no_address_has_two_owners_and_none_gets_lost(northbound: OvsdbServer, connect: Connect) -> None:
    northbound.insert("Logical_Switch", name="web")
    before = northbound.contents()
    hosts = [DockerHost(f"host{number}", connect(northbound), rest=0.02) for number in range(HOSTS)]

    # What threads do is never twice the same: there is no smaller example to look for.
    @settings(max_examples=40, deadline=None, database=None, phases=[Phase.generate])
    @given(st.sampled_from(WHERE), st.lists(st.lists(steps, max_size=12), min_size=2, max_size=6))
    def play(where: tuple[str, tuple[str | None, ...]], games: list[list[Step]]) -> None:
        subnet, parts = where
        networks = [
            there.create(subnet, part=part, switch="web") for there, part in zip(hosts, parts, strict=True)
        ]
        owners = Owners()
        players = [
            Player(hosts[number % HOSTS], networks[number % HOSTS], parts[number % HOSTS], owners)
            for number in range(len(games))
        ]
        with ThreadPoolExecutor(len(games)) as threads:
            list(threads.map(Player.play, players, games))
        for player in players:
            for address in player.mine:
                player.give_back(address)
        usable(hosts, networks, owners.ever)
        for there, network in zip(hosts, networks, strict=True):
            there.remove(network)
        assert northbound.contents() == before

    play()


def usable(hosts: list[DockerHost], networks: list[DockerNetwork], ever: set[str]) -> None:
    """All that was ever taken can be taken again; of a small subnet, all there is."""
    whole = networks[2].subnet
    if whole.num_addresses <= 16:
        assert set(hosts[2].fill(networks[2])) == set(map(str, whole)) - never(networks[2])
    else:
        for address in ever:
            assert hosts[0].take(networks[0], address) == address
