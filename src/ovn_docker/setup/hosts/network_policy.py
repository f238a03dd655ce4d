"""The rules of networks, for the tool: which network a name means, and what its rules say about a packet."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from ovn_docker.backends.ovn import members, policies
from ovn_docker.backends.ovn.members import NetworkMember
from ovn_docker.backends.ovn.policies import StoredPolicy
from ovn_docker.backends.ovn.rows import NETWORKS, SHARED_NETWORKS
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.docker.engine import OUR_NETWORKS, DockerEngine
from ovn_docker.errors import BadRequest, NotFound, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.openvswitch import LocalVswitch, local_database
from ovn_docker.host.ovsdb import Database
from ovn_docker.host.places import find_places
from ovn_docker.model import DRIVER, row_uuid
from ovn_docker.options import SHARED_NAME
from ovn_docker.policy.language import Place, PolicyService
from ovn_docker.policy.verdict import Peer, deciding
from ovn_docker.setup.hosts.database_clients import northbound_database
from ovn_docker.text.spelling import hint

_TIME = 30.0
"""Seconds that the database may take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict about a packet: whether it passes, and the rule or default that decides."""

    allowed: bool
    because: str
    network: str


class NetworkPolicies:
    """The rules of the networks of the cluster, and of this host's Docker."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._docker = _docker_networks()

    def read(self, name: str) -> StoredPolicy:
        """Return the rules of a network, by its name here or in the cluster. Raises NotFound, BadRequest."""
        if name in self._docker and not self._docker[name]:
            raise BadRequest(
                f"network {name} is on a logical switch of the user (ovn.switch): its access rules are the "
                "user's own, see: ovn-nbctl acl-list"
            )
        switch = self._docker.get(name) or switch_row(name)
        try:
            return policies.read(self._database, switch, Deadline(_TIME))
        except NotFound:
            cure = hint(name, self._docker) or "see `ovn-docker ls`"
            raise NotFound(f"no network {name[:60]!r}: {cure}") from None

    def write(self, before: StoredPolicy, text: str) -> None:
        """Replace the rules of a network; see policies.write()."""
        policies.write(self._database, before, text, Deadline(_TIME))

    def members(self, policy: StoredPolicy) -> list[NetworkMember]:
        """Return the containers on a network."""
        found = members.members(self._database, Deadline(_TIME), policy.switch)
        return found.get(policy.switch, [])

    def ask(self, source: str, target: str, service: PolicyService, network: str = "") -> list[Answer]:
        """Return what the rules say about the first packet of a connection, once for each IP version.

        *source*, *target*: containers, groups, addresses, ``all`` or ``outside``. Raises NotFound unless one
        network has both, BadRequest if several have.
        """
        found: list[tuple[StoredPolicy, list[Peer], list[Peer]]] = []
        asked = [self.read(network)] if network else self._all()
        only = asked[0].switch if network else None
        by_switch = members.members(self._database, Deadline(_TIME), only)
        for policy in asked:
            there = by_switch.get(policy.switch, [])
            known = members.groups_of(there).union(*(rule.groups for _, rule in policy.rules))
            sources, targets = (_peers(word, there, known) for word in (source, target))
            named = network or any(_is_named(word, there, known) for word in (source, target))
            if sources and targets and named:
                found.append((policy, sources, targets))
        if not found:
            where = f"network {network}" if network else "any network"
            raise NotFound(
                f"{source[:60]!r} and {target[:60]!r} are not both on {where}; see `ovn-docker ls`"
            )
        if len(found) > 1:
            names = ", ".join(sorted(policy.name for policy, *_ in found))
            raise BadRequest(f"networks {names} have both: name one with --network")
        policy, sources, targets = found[0]
        pairs = [(a, b) for a in sources for b in targets if _are_alike(a, b)]
        if not pairs:
            raise NotFound(f"{source} and {target} have no addresses of the same IP version")
        return list(dict.fromkeys(_answer(policy, a, b, service) for a, b in pairs))

    def _all(self) -> list[StoredPolicy]:
        (rows,) = self._database.transact(
            ovsdb.select("Logical_Switch", NETWORKS.where(), columns=["_uuid", "external_ids"]),
            deadline=Deadline(_TIME),
        )
        ours = [
            row.uuid
            for row in rows
            if any(
                kind.matches(row.map("external_ids")) and kind.uuid(row) == row.uuid
                for kind in (NETWORKS, SHARED_NETWORKS)
            )
        ]
        return policies.read_all(self._database, ours, Deadline(_TIME))


@contextmanager
def network_policies() -> Iterator[NetworkPolicies]:
    """Hold the connections to the databases that this host uses."""
    with closing(local_database()) as local:
        chassis = LocalVswitch(local).chassis(Deadline(2))
        with closing(northbound_database()(chassis)) as database:
            yield NetworkPolicies(database)


def _docker_networks() -> dict[str, str]:
    """Return the logical switches of this host's networks by their names; "" for one of the user."""
    try:
        networks = DockerEngine(find_places().docker).read(OUR_NETWORKS)
    except Unavailable:
        return {}
    found = {}
    for network in (one for one in networks if one.get("Driver") == DRIVER):
        options = network.get("Options") or {}
        own = row_uuid("network", network["Id"])
        shared = options.get(SHARED_NAME)
        found[str(network["Name"])] = (
            "" if options.get("ovn.switch") else switch_row(shared) if shared else own
        )
    return found


def _is_named(word: str, there: list[NetworkMember], known: set[str]) -> bool:
    return word in known or any(member.is_called(word) for member in there)


def _peers(word: str, there: list[NetworkMember], known: set[str]) -> list[Peer]:
    """Return the ends that a word means on a network: for a container one for each of its addresses."""
    called = [member for member in there if member.is_called(word)]
    if len(called) > 1:
        names = ", ".join(sorted(f"{member.host}/{member.name}" for member in called))
        raise BadRequest(f"ambiguous container {word[:60]!r}: name one of {names}")
    for member in called:
        return [Peer(address, frozenset(member.groups)) for address in member.addresses]
    if word in known:
        return [Peer(None, frozenset([word]))]
    if word in set(Place):
        return [Peer(None, place=Place(word))]
    try:
        return [Peer(ip_address(word))]
    except ValueError:
        return []


def _are_alike(one: Peer, other: Peer) -> bool:
    return not (one.address and other.address) or one.address.version == other.address.version


def _answer(policy: StoredPolicy, source: Peer, target: Peer, service: PolicyService) -> Answer:
    rules, subnets = policy.rules, policy.subnets
    index = deciding([rule for _, rule in rules], subnets, source, target, service)
    if index is None:
        return Answer(not policy.denies, policy.default, policy.name)
    text, rule = rules[index]
    return Answer(rule.action == "allow", text, policy.name)
