"""Networks as their rows describe them: the logical switch, and what endpoints need to know."""

from dataclasses import dataclass
from typing import Any

from ovn_docker import options
from ovn_docker.allowed import Allowed
from ovn_docker.backends.ovn import allowed_claims
from ovn_docker.backends.ovn.rows import MTU, PORT_SECURITY, ROUTERS, SWITCH, has_names, name_of, note_row
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, NetworkNotFound
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Operation, is_row, is_uuid
from ovn_docker.model import NetworkId, row_uuid


@dataclass(frozen=True, slots=True)
class DescribedNetwork:
    """A network in the database: UUID of its logical switch, and the external_ids that describe it."""

    switch: str
    ids: dict[str, str]

    @property
    def name(self) -> str:
        """Name of the shared network; empty if it is not shared."""
        return name_of(self.ids, self.switch)

    @property
    def domain(self) -> str:
        """Suffix of its containers' names on other hosts; empty if those do not find them by name."""
        return self.name if has_names(self.ids) else ""

    @property
    def resolver(self) -> bool:
        """True if its switch has a resolver."""
        return bool(self.domain) and "gateway_ip" in self.ids

    @property
    def any_router(self) -> bool:
        """True if its containers accept any router."""
        return self.ids.get(ROUTERS) == "any"

    @property
    def allowed(self) -> tuple[Allowed, ...]:
        """Addresses that its containers may use besides their own."""
        return allowed_claims.stored(self.ids)

    @property
    def port_security(self) -> bool:
        """False if its containers may use any address."""
        return self.ids.get(PORT_SECURITY) != "off"

    @property
    def mtu(self) -> int | None:
        """MTU in bytes; ``None`` if the row has none, or one that no user can give."""
        try:
            return options.parse({options.MTU: self.ids.get(MTU, "")}).mtu
        except BadRequest:
            return None


def select_network(network: NetworkId) -> list[Operation]:
    """Return operations that select the rows from which network_in() makes a network."""
    own, attached = row_uuid("network", network), note_row(network)
    return [
        ovsdb.select("Logical_Switch", is_row(own), columns=["external_ids"]),
        ovsdb.select("DHCP_Options", is_row(attached), columns=["external_ids"]),
    ]


def network_in(network: NetworkId, found: list[Any]) -> DescribedNetwork | None:
    """Return the network in the results of select_network(); ``None`` if they have none."""
    own, (switches, notes, *_) = row_uuid("network", network), found
    for row in switches:
        return DescribedNetwork(own, row.map("external_ids"))
    for row in notes:
        switch = row.map("external_ids").get(SWITCH, own)
        return DescribedNetwork(switch, row.map("external_ids")) if is_uuid(switch) else None
    return None


def read_network(database: Database, network: NetworkId, deadline: Deadline) -> DescribedNetwork:
    """Return a network. Raises NetworkNotFound."""
    found = network_in(network, database.transact(*select_network(network), deadline=deadline))
    if found is None:
        raise network_not_found(network, database)
    return found


def network_not_found(network: NetworkId, database: Database) -> NetworkNotFound:
    """Return the error for a network without rows; it names the database."""
    return NetworkNotFound(network, f"the northbound database at {','.join(database.remotes)}")
