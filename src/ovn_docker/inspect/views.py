"""Networks, endpoints, hosts and tunnels, with what Docker, OVN and this host have of each."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NetworkView:
    """A network of OVN, or of this host's Docker.

    *id*: Docker's ID on this host, or on one of the hosts that have it; *switch*: UUID of its logical switch;
    *hosts*: names of the hosts that have it; *here*: this host's Docker has it; *removed*: name of the host
    that removed it, while other hosts still have it; *problems*: the *differences* that come from reports of
    hosts that cannot have or use the network.
    """

    name: str
    id: str
    switch: str
    subnets: tuple[str, ...]
    mtu: int | None
    shared: bool
    here: bool
    hosts: tuple[str, ...]
    endpoints: int
    differences: tuple[str, ...] = ()
    removed: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointView:
    """The attachment of a container to a network.

    *container*: its name, or the beginning of the endpoint's ID where the name is unknown; *host*: name of
    its host; *state*: of the container in Docker, empty on other hosts; *chassis*: the host that has claimed
    its port in OVN; *up*: state of the port in OVN; *link*: this host's end of its veth; *ofport*,
    *installed*: from this host's Open vSwitch; *vlan*: in the underlay mode, instead of *installed*.
    """

    id: str
    container: str
    network: str
    host: str
    here: bool
    addresses: tuple[str, ...]
    mac: str
    state: str
    chassis: str
    up: bool | None
    link: str = ""
    ofport: int | None = None
    installed: bool | None = None
    switch: str = ""
    differences: tuple[str, ...] = ()
    vlan: int | None = None

    @property
    def connection(self) -> str:
        """*up* as a word: ``up``, ``down`` or ``unknown``."""
        return {True: "up", False: "down", None: "unknown"}[self.up]


@dataclass(frozen=True, slots=True)
class HostView:
    """A chassis. *behind*: how many changes of ``nb_cfg`` it has not applied yet, 0 if unknown."""

    name: str
    system_id: str
    here: bool
    encaps: tuple[str, ...]
    endpoints: int
    behind: int


@dataclass(frozen=True, slots=True)
class TunnelView:
    """This host's tunnel to another host. *state*: ``up``, ``missing``, or its error."""

    host: str
    system_id: str
    port: str
    type: str
    remote_ip: str
    state: str
    rx_packets: int = 0
    tx_packets: int = 0
