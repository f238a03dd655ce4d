"""The journal of a move: the network that an interface had, written to a file before the first change.

A restoration needs nothing else. The file is in /run: it ends with a reboot, as addresses and routes do.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ovn_docker.errors import Unavailable
from ovn_docker.uplink.dhcp import DhcpClient
from ovn_docker.uplink.uplink import Uplink

STATE = Path("/run/ovn-docker")


@dataclass(frozen=True)
class Journal:
    """The network that has to be on the interface when it is out of the bridge."""

    interface: str
    bridge: str
    ours: bool
    """True if this program made the bridge: a restoration removes it."""
    uplink: Uplink
    clients: list[DhcpClient]

    @property
    def wants_bare_link(self) -> bool:
        """True if a client of the interface wants to find no address when it starts."""
        return any(client.wants_bare_link for client in self.clients)

    @property
    def restorable(self) -> Uplink:
        """The network to restore: without lifetimes of IPv4 addresses, if a DHCP client counts these itself.

        Such a client does not renew the lifetime of an address that it finds, but removes the address when
        the lease ends.
        """
        if not self.wants_bare_link:
            return self.uplink
        return replace(self.uplink, addresses=[_without_lifetime(words) for words in self.uplink.addresses])


def journal_path(interface: str) -> Path:
    """Return the path of the journal of a move in progress."""
    return STATE / f"underlay-{interface}.json"


def confirmation_path(interface: str) -> Path:
    """Return the path of the file whose existence confirms a move."""
    return STATE / f"underlay-{interface}.confirmed"


def write(journal: Journal) -> None:
    """Write the journal to its path, whole or not at all."""
    path = journal_path(journal.interface)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(asdict(journal)), encoding="utf-8")
    unfinished.replace(path)


def read(path: Path) -> Journal:
    """Read a journal. Raises FileNotFoundError without a file, Unavailable if its contents are invalid."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        known = {
            "uplink": Uplink(**fields["uplink"]),
            "clients": [DhcpClient(**one) for one in fields["clients"]],
        }
        return Journal(**(fields | known))
    except (KeyError, TypeError, ValueError):
        raise Unavailable(
            f"{path} cannot be used, another version may have written it; see that the interface has what it "
            "had, remove the file, and run this again"
        ) from None


def remove(journal: Journal) -> None:
    """Remove the journal from its path; it may have been removed already."""
    journal_path(journal.interface).unlink(missing_ok=True)


def _without_lifetime(words: list[str]) -> list[str]:
    if words[0] == "-6" or "valid_lft" not in words:
        return words
    at = words.index("valid_lft")
    return words[:at] + words[at + 4 :]
