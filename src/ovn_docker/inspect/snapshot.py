"""The state of Docker, OVN's databases, Open vSwitch and the kernel at one moment. Pure.

Only `gather.py` makes a Snapshot, and all that the operator sees is computed from one. A part that could not
be read is ``None``, and ``missing`` has the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address, ip_interface

from ovn_docker.backends.ovn.rows import ENDPOINT, HOST, NETWORK, OURS, SWITCH
from ovn_docker.host.clock import CREATED
from ovn_docker.host.daemons import CONTROLLER, VSWITCH_DATABASE, VSWITCHD, DaemonState
from ovn_docker.host.driver_socket import UNDERLAY, RunningDriver
from ovn_docker.host.kernel.links import Link
from ovn_docker.inspect.cloud import Cloud
from ovn_docker.model import (
    IpAddress,
    Report,
    SharedNetwork,
    remote_addresses,
    tunnel_overhead,
    whole_number,
)


class Scope(StrEnum):
    """How much of the databases is read.

    HOST: rows of this host. NETWORKS: rows of all hosts on the networks that this host has. CLUSTER: all rows
    of ovn-docker, which takes a search through whole tables: for commands, not for a daemon.
    """

    HOST = "host"
    NETWORKS = "networks"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class DockerNetwork:
    """A network of this host's Docker with this driver; *shared*: its name in the cluster, if any.

    *ignored*: options of Docker's other drivers that it has; *internal*: it has no connection to the outside.
    """

    id: str
    name: str
    subnets: tuple[str, ...]
    shared: str = ""
    ignored: tuple[str, ...] = ()
    internal: bool = False


@dataclass(frozen=True, slots=True)
class DockerEndpoint:
    """A container of this host on a DockerNetwork. *id* is empty while the container does not run."""

    id: str
    network: str
    container: str
    name: str
    state: str
    addresses: tuple[str, ...]
    mac: str

    @property
    def running(self) -> bool:
        """True if it should be reachable: a paused container keeps its network."""
        return self.state in ("running", "paused") and bool(self.id)


@dataclass(frozen=True, slots=True)
class DockerState:
    """Docker on this host, as its API describes it."""

    version: str
    swarm: bool
    networks: tuple[DockerNetwork, ...]
    endpoints: tuple[DockerEndpoint, ...]


@dataclass(frozen=True, slots=True)
class Bridge:
    """A row of Bridge (ovs-vswitchd.conf.db(5))."""

    name: str
    datapath_type: str
    fail_mode: str


@dataclass(frozen=True, slots=True)
class Interface:
    """A row of Interface with its port and bridge; *ofport* is ``None`` until ovs-vswitchd assigns it."""

    name: str
    bridge: str
    type: str = ""
    ofport: int | None = None
    error: str = ""
    link_state: str = ""
    tag: int | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    bfd: Mapping[str, str] = field(default_factory=dict)
    statistics: Mapping[str, int] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """ID of the endpoint that the driver made it for; empty for a row of others."""
        return self.ids.get(ENDPOINT, "")

    @property
    def installed(self) -> bool:
        """True if ovn-controller has installed its flows."""
        return self.ids.get("ovn-installed") == "true"


@dataclass(frozen=True, slots=True)
class VswitchRows:
    """The local Open_vSwitch database; *ids* are the external_ids of its root."""

    version: str
    ids: Mapping[str, str]
    bridges: tuple[Bridge, ...]
    interfaces: tuple[Interface, ...]
    tls: tuple[str, str, str] | None = None
    """Private key, certificate, CA certificate."""

    @property
    def system_id(self) -> str:
        """Name of this host in OVN."""
        return self.ids.get("system-id", "")

    @property
    def integration(self) -> str:
        """Name of the integration bridge (ovn-controller(8))."""
        return self.ids.get("ovn-bridge", "br-int")

    @property
    def encap_ip(self) -> str:
        """The first address of this host's tunnels; empty if none is set."""
        return self.ids.get("ovn-encap-ip", "").partition(",")[0].strip()

    @property
    def addresses(self) -> list[IpAddress]:
        """Addresses that this host must reach outside OVN (see Chassis)."""
        remotes = (*self.ids.get("ovn-nb", "").split(","), *self.ids.get("ovn-remote", "").split(","))
        tunnels = (f"ip:{ip.strip()}:0" for ip in self.ids.get("ovn-encap-ip", "").split(","))
        return remote_addresses((*map(str.strip, remotes), *tunnels))

    @property
    def overhead(self) -> int:
        """Bytes that this host's tunnels add to a packet. Raises ValueError if *encap_ip* is invalid."""
        types = self.ids.get("ovn-encap-type", "geneve").split(",")
        return tunnel_overhead(tuple(map(str.strip, types)), ip_address(self.encap_ip))

    @property
    def tunnels(self) -> tuple[Interface, ...]:
        """Interfaces of the tunnels that ovn-controller made."""
        return tuple(i for i in self.interfaces if "remote_ip" in i.options and i.bridge == self.integration)


@dataclass(frozen=True, slots=True)
class SwitchRow:
    """A row of Logical_Switch."""

    row: str
    name: str
    ids: Mapping[str, str]

    @property
    def ours(self) -> bool:
        """True if the driver made it, false for a switch of the user (``-o ovn.switch``)."""
        return OURS.items() <= self.ids.items()


@dataclass(frozen=True, slots=True)
class PortRow:
    """A row of Logical_Switch_Port. *switch* is the UUID of its Logical_Switch."""

    row: str
    name: str
    switch: str
    addresses: tuple[str, ...] = ()
    port_security: tuple[str, ...] = ()
    enabled: bool = True
    tag: int | None = None
    ids: Mapping[str, str] = field(default_factory=dict)

    def permits(self, mac: str, *addresses: str) -> bool:
        """True if port security allows packets with this MAC and each of these addresses (ovn-nb(5))."""
        rules = [rule.lower().replace(",", " ").split() for rule in self.port_security]
        of_mac = [words for first, *words in filter(None, rules) if first == mac.lower()]
        return not self.port_security or any(
            not words or all(any(_is_in(address, word) for word in words) for address in addresses)
            for words in of_mac
        )

    @property
    def endpoint(self) -> str:
        """ID of the endpoint that the driver made it for; empty for a row of others."""
        return self.ids.get(ENDPOINT, "") if OURS.items() <= self.ids.items() else ""

    @property
    def host(self) -> str:
        """System-id of the host that made it."""
        return self.ids.get(HOST, "")

    @property
    def created(self) -> int | None:
        """Time at which it was made, in seconds of the epoch."""
        return whole_number(self.ids.get(CREATED, ""))


@dataclass(frozen=True, slots=True)
class NoteRow:
    """A note: *host* has the shared network on *switch* as its Docker network *network*.

    *created*: time in seconds of the epoch.
    """

    network: str
    switch: str
    host: str
    created: int | None = None


@dataclass(frozen=True, slots=True)
class SharedRow:
    """A shared network and the UUID of its row of Logical_Switch."""

    row: str
    network: SharedNetwork


@dataclass(frozen=True, slots=True)
class NorthboundRows:
    """The rows of OVN_Northbound in the scope.

    *names*: endpoint to name of its container, where the registrar has written it; *shared*: all shared
    networks; *reports*: those of all hosts, none in the scope HOST; *northd*: version of ovn-northd, its
    schema and its flows, as it writes them (ovn-nb(5), ``northd_internal_version``), or empty.
    """

    remote: str
    nb_cfg: int
    switches: tuple[SwitchRow, ...]
    ports: tuple[PortRow, ...]
    notes: tuple[NoteRow, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[SharedRow, ...] = ()
    reports: tuple[Report, ...] = ()
    northd: str = ""


@dataclass(frozen=True, slots=True)
class Encap:
    """A row of Encap."""

    type: str
    ip: str


@dataclass(frozen=True, slots=True)
class ChassisRow:
    """A row of Chassis and its companion in Chassis_Private."""

    name: str
    hostname: str
    encaps: tuple[Encap, ...]
    nb_cfg: int = 0


@dataclass(frozen=True, slots=True)
class BindingRow:
    """A row of Port_Binding; *chassis*: name of the chassis that has claimed the port, or empty.

    *up* is ``None`` where the column is empty.
    """

    port: str
    chassis: str
    up: bool | None


@dataclass(frozen=True, slots=True)
class SouthboundRows:
    """The rows of OVN_Southbound: all chassis, and the bindings in the scope.

    *datapaths*: UUID of a logical switch to the UUID of its Datapath_Binding.
    """

    remote: str
    nb_cfg: int
    chassis: tuple[ChassisRow, ...]
    bindings: tuple[BindingRow, ...]
    datapaths: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was read; *taken*: time in seconds of the epoch, *host*: this machine's host name."""

    taken: float
    host: str
    scope: Scope
    daemons: tuple[DaemonState, ...]
    links: tuple[Link, ...]
    driver: RunningDriver | None = None
    engine: DockerState | None = None
    vswitch: VswitchRows | None = None
    northbound: NorthboundRows | None = None
    southbound: SouthboundRows | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why a part could not be read: ``driver``, ``docker``, ``vswitch``, ``northbound``, ``southbound``."""
    forbidden: frozenset[str] = frozenset()
    """The missing parts that the user may not read."""
    vif: str = ""
    """In the underlay mode, UUID of this virtual machine's own port, if it is set."""
    cloud: Cloud | None = None
    """In the underlay mode, the state of Neutron from which the two above were made (ml2_ovn.py)."""

    @property
    def system_id(self) -> str:
        """Name of this host in OVN, or UUID of this VM's port in Neutron; empty if it is not set."""
        return self.vif or (self.vswitch.system_id if self.vswitch else "")

    @property
    def underlay(self) -> bool:
        """True in the underlay mode: containers are subports of this virtual machine's port."""
        if self.driver and self.driver.program:
            return self.driver.program == UNDERLAY
        plugged = self.vswitch.interfaces if self.vswitch else ()
        return bool(self.vif) or any(i.endpoint and i.tag for i in plugged)

    @property
    def barred(self) -> str:
        """The reason why a user other than root does not see everything; empty if nothing is forbidden."""
        parts = (part for part in ("docker", "vswitch", "driver") if part in self.forbidden)
        return next((self.missing[part] for part in parts), "")

    @property
    def needed_daemons(self) -> tuple[DaemonState, ...]:
        """The daemons that this host needs besides Docker and the driver."""
        names = (VSWITCH_DATABASE, VSWITCHD, *(() if self.underlay else (CONTROLLER,)))
        return tuple(map(self.daemon, names))

    def daemon(self, name: str) -> DaemonState:
        """Return the daemon of this name, running or not."""
        return next((one for one in self.daemons if one.name == name), DaemonState(name))


def _is_in(address: str, word: str) -> bool:
    """True if a word of port security allows an address; a word with host bits is one address (ovn-nb(5))."""
    try:
        given, one = ip_interface(word), ip_address(address)
    except ValueError:
        return False
    subnet = given.network
    return one == given.ip or (given.ip == subnet.network_address and one in subnet)


def ip_version(address: str) -> int:
    """Return 4 or 6, or 0 for text that is not an address, as other hosts may write."""
    try:
        return ip_address(address).version
    except ValueError:
        return 0


def note(ids: Mapping[str, str]) -> NoteRow:
    """Make the note of a row's external_ids."""
    created = whole_number(ids.get(CREATED, ""))
    return NoteRow(ids.get(NETWORK, ""), ids.get(SWITCH, ""), ids.get(HOST, ""), created)
