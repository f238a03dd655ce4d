"""The containers of a network with their groups, as its logical switch has them."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from ovn_docker.backends.ovn import port_groups
from ovn_docker.backends.ovn.rows import CONTAINER, HOST, IS_ENDPOINT, OURS, SWITCH
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, has
from ovn_docker.model import IpAddress


@dataclass(frozen=True, slots=True)
class NetworkMember:
    """A container on a network; *endpoint*: its ID there."""

    name: str
    host: str
    endpoint: str
    addresses: tuple[IpAddress, ...]
    groups: tuple[str, ...]

    def is_called(self, word: str) -> bool:
        """Return whether *word* is its name, HOST/NAME, an address, or the beginning of its endpoint's ID."""
        called = {self.name, f"{self.host}/{self.name}", *map(str, self.addresses)} - {""}
        return word in called or (len(word) >= 6 and self.endpoint.startswith(word))


def members(
    database: Database, deadline: Deadline, switch: str | None = None
) -> dict[str, list[NetworkMember]]:
    """Return the containers of all hosts by the switches of their networks. Searches all ports.

    *switch*: the only one that counts.
    """
    wanted = OURS if switch is None else {**OURS, SWITCH: switch}
    (ports,) = database.transact(
        ovsdb.select(
            "Logical_Switch_Port",
            has("external_ids", wanted),
            IS_ENDPOINT,
            columns=["name", "addresses", "external_ids"],
        ),
        deadline=deadline,
    )
    found: dict[str, list[NetworkMember]] = {}
    for port in ports:
        ids = port.map("external_ids")
        words = " ".join(port.members("addresses")).split()
        addresses = tuple(address for word in words if (address := _address(word)))
        groups = port_groups.stored(ids)
        found.setdefault(ids.get(SWITCH, ""), []).append(
            NetworkMember(ids.get(CONTAINER, ""), ids.get(HOST, ""), port.text("name"), addresses, groups)
        )
    return found


def _address(word: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(word)
    except ValueError:
        return None


def groups_of(found: Iterable[NetworkMember]) -> set[str]:
    """Return the groups that some containers belong to."""
    return {group for member in found for group in member.groups}
