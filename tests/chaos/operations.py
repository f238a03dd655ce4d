"""The commands of a round, and those that a user repeats because they failed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from chaos.model import Container, Network, Wanted

NETWORKS = 6
"""Maximum number of networks."""

CONTAINERS = 3
"""Maximum number of containers on a host."""


@dataclass(frozen=True, slots=True)
class Command:
    """A docker command on a host; *then*: commands that run after it, whether or not it succeeds."""

    host: str
    argv: tuple[str, ...]
    then: tuple["Command", ...] = ()

    def __str__(self) -> str:
        return f"{self.host}$ docker {' '.join(self.argv)}"


@dataclass(slots=True)
class Plan:
    """The commands of one round. Their result does not depend on the order in which Docker runs them.

    *follow*: a shared network is created or removed on one host, and the others follow; else the command runs
    on each of them.
    """

    wanted: Wanted
    rng: Random
    hosts: tuple[str, ...]
    follow: bool
    commands: list[Command] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    """Containers and networks of a command; `used`: networks that containers join or leave."""
    used: set[str] = field(default_factory=set)

    def add(self) -> None:
        """Add a random command, or the same command on several hosts, if it is possible."""
        kinds = list(_KINDS)
        (kind,) = self.rng.choices(kinds, [_KINDS[kind] for kind in kinds])
        self.commands += kind(self)

    def idle(self) -> list[Container]:
        """Return the containers without a command so far."""
        return [one for name, one in sorted(self.wanted.containers.items()) if name not in self.busy]

    def open(self, host: str) -> list[str]:
        """Return the networks that a container of a host can join now."""
        return [
            name
            for name, one in sorted(self.wanted.networks.items())
            if host in one.hosts and name not in self.busy
        ]

    def touch(self, container: Container) -> None:
        self.busy.add(container.name)
        self.used |= set(container.networks)


def plan(wanted: Wanted, rng: Random, hosts: Iterable[str], count: int, *, follow: bool) -> list[Command]:
    """Return about *count* commands; *wanted* becomes the state after them. *follow*: see Plan."""
    planned = Plan(wanted, rng, tuple(hosts), follow)
    for _ in range(count * 3):
        if len(planned.commands) < count:
            planned.add()
    return planned.commands


def commands_towards(
    wanted: Wanted, there: Mapping[str, tuple[set[str], dict[str, set[str] | None]]]
) -> list[Command]:
    """Return the commands with which a user reaches the wanted state from the state of the hosts' Docker.

    *there*: for each host, the names of its networks, and its containers with the networks of those that run.
    Commands whose effect other hosts must follow by themselves are left out.
    """
    commands = []
    for host, (networks, containers) in there.items():
        wanted_here = {name: one for name, one in wanted.containers.items() if one.host == host}
        commands += [_remove(host, name) for name in containers.keys() - wanted_here.keys()]
        commands += [
            Command(host, ("network", "rm", name))
            for name, typed_on in wanted.gone.items()
            if name in networks and host in typed_on
        ]
        commands += [
            _create(host, one)
            for name, one in wanted.networks.items()
            if host in one.homes and name not in networks
        ]
        for name, one in wanted_here.items():
            on = containers.get(name)
            if name not in containers:
                commands.append(_run(one))
            elif on is None:
                commands.append(Command(host, ("start", name)))
            else:
                commands += [_connect(one, network) for network in one.networks if network not in on]
                commands += [_disconnect(one, network) for network in on - set(one.networks)]
    return commands


def _create_network(plan: Plan) -> list[Command]:
    wanted, rng = plan.wanted, plan.rng
    if len(wanted.networks) >= NETWORKS:
        return []
    taken = {one.number for one in wanted.networks.values()}
    number = rng.choice([number for number in range(20, 180) if number not in taken])
    name = f"n{number}"
    shared = rng.random() < 0.75
    homes = tuple(rng.sample(plan.hosts, rng.randint(2, 3) if shared and not plan.follow else 1))
    if name in plan.busy:
        return []
    network = Network(
        name=name,
        number=number,
        homes=homes,
        hosts=plan.hosts if shared and plan.follow else homes,
        shared=shared,
        leases=shared or rng.random() < 0.5,
        dual_stack=rng.random() < 0.4,
        internal=rng.random() < 0.5,
    )
    wanted.networks[name] = network
    plan.busy.add(name)
    return [_create(host, network) for host in homes]


def _remove_network(plan: Plan) -> list[Command]:
    wanted = plan.wanted
    unused = [
        one
        for name, one in sorted(wanted.networks.items())
        if not wanted.users(name) and name not in plan.busy | plan.used
    ]
    if not unused or len(wanted.networks) <= 2:
        return []
    network = plan.rng.choice(unused)
    count = 1 if plan.follow else plan.rng.randint(1, len(network.hosts))
    hosts = tuple(plan.rng.sample(network.hosts, count))
    rest = () if plan.follow else tuple(host for host in network.hosts if host not in hosts)
    del wanted.networks[network.name]
    if rest:
        wanted.networks[network.name] = replace(network, homes=rest, hosts=rest)
    wanted.gone[network.name] = hosts
    plan.busy.add(network.name)
    return [Command(host, ("network", "rm", network.name)) for host in hosts]


def _make_network_again(plan: Plan) -> list[Command]:
    """Remove a network on one host, and then create it again on another.

    The new network must stay although the removal may be carried out late, because the first host is cut off
    from the databases: the removal is about the earlier incarnation.
    """
    wanted = plan.wanted
    unused = [
        one
        for name, one in sorted(wanted.networks.items())
        if one.shared and not wanted.users(name) and name not in plan.busy | plan.used
    ]
    if not unused or not plan.follow:
        return []
    network = plan.rng.choice(unused)
    first, other = plan.rng.sample(plan.hosts, 2)
    network = wanted.networks[network.name] = replace(network, homes=(other,))
    plan.busy.add(network.name)
    remove = ("network", "rm", network.name)
    return [Command(first, remove, (Command(other, remove), _create(other, network)))]


def _run_container(plan: Plan) -> list[Command]:
    wanted, rng = plan.wanted, plan.rng
    host = rng.choice(plan.hosts)
    names = [f"{host}-c{number}" for number in range(CONTAINERS)]
    free = [name for name in names if name not in wanted.containers and name not in plan.busy]
    if not free or not (networks := plan.open(host)):
        return []
    restart = rng.choice(("always", "no"))
    container = Container(rng.choice(free), host, (rng.choice(networks),), restart)
    wanted.containers[container.name] = container
    plan.touch(container)
    return [_run(container)]


def _remove_container(plan: Plan) -> list[Command]:
    if not (idle := plan.idle()):
        return []
    container = plan.rng.choice(idle)
    plan.touch(container)
    del plan.wanted.containers[container.name]
    return [_remove(container.host, container.name)]


def _restart_container(plan: Plan) -> list[Command]:
    if not (idle := plan.idle()):
        return []
    container = plan.rng.choice(idle)
    plan.touch(container)
    return [Command(container.host, ("restart", container.name))]


def _connect_container(plan: Plan) -> list[Command]:
    ways = [
        (container, network)
        for container in plan.idle()
        for network in plan.open(container.host)
        if network not in container.networks and len(container.networks) < 2
    ]
    if not ways:
        return []
    container, network = plan.rng.choice(ways)
    container = replace(container, networks=(*container.networks, network))
    plan.wanted.containers[container.name] = container
    plan.touch(container)
    return [_connect(container, network)]


def _disconnect_container(plan: Plan) -> list[Command]:
    several = [container for container in plan.idle() if len(container.networks) > 1]
    if not several:
        return []
    container = plan.rng.choice(several)
    plan.touch(container)
    network = plan.rng.choice(container.networks)
    left = tuple(one for one in container.networks if one != network)
    plan.wanted.containers[container.name] = replace(container, networks=left)
    return [_disconnect(container, network)]


_KINDS: dict[Callable[[Plan], list[Command]], int] = {
    _create_network: 4,
    _remove_network: 4,
    _make_network_again: 2,
    _run_container: 5,
    _remove_container: 4,
    _restart_container: 3,
    _connect_container: 3,
    _disconnect_container: 2,
}
"""Functions that plan a command, and their weights."""


def _create(host: str, network: Network) -> Command:
    return Command(host, ("network", "create", "-d", "openvswitch", *network.options, network.name))


def _run(container: Container) -> Command:
    first, *_ = container.networks
    options = (
        f"--name={container.name}",
        f"--net={first}",
        f"--restart={container.restart}",
        "--stop-signal=KILL",
    )
    return Command(container.host, ("run", "-d", *options, "busybox", "sleep", "1000000"))


def _remove(host: str, container: str) -> Command:
    return Command(host, ("rm", "--force", container))


def _connect(container: Container, network: str) -> Command:
    return Command(container.host, ("network", "connect", network, container.name))


def _disconnect(container: Container, network: str) -> Command:
    return Command(container.host, ("network", "disconnect", network, container.name))
