"""What is at one moment: Docker, OVN's databases, Open vSwitch and the kernel, each in its own words. Pure.

`gather.py` is the only one that makes a Snapshot; all that the operator sees is computed from it. A part that
could not be read is ``None``, and ``missing`` says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address, ip_interface

from ovn_docker.backends.northbound import ENDPOINT, HOST, NETWORK, OURS, SWITCH
from ovn_docker.host.clock import CREATED
from ovn_docker.host.driver import UNDERLAY, Driver
from ovn_docker.host.links import Link
from ovn_docker.model import (
    IpAddress,
    IpNetwork,
    SharedNetwork,
    remote_addresses,
    tunnel_overhead,
    whole_number,
)
from ovn_docker.view.cloud import Cloud


class Scope(StrEnum):
    """How much of the databases is read.

    HOST: rows of this host. NETWORKS: of all hosts, on the networks that this host has. CLUSTER: all that
    is ours, which is a search through whole tables: for a command that somebody types, not for a daemon.
    """

    HOST = "host"
    NETWORKS = "networks"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Process:
    """A daemon of this machine. *pid* is ``None`` when it does not run, *since* in seconds of the epoch."""

    name: str
    pid: int | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class DockerNetwork:
    """A network of this host's Docker whose driver is ours; *shared*: its name in the cluster, if any.

    *ignored*: its options of Docker's other drivers.
    """

    id: str
    name: str
    subnets: tuple[str, ...]
    shared: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DockerEndpoint:
    """A container of this host on one of those networks. *id* is empty while the container does not run."""

    id: str
    network: str
    container: str
    name: str
    state: str
    addresses: tuple[str, ...]
    mac: str

    @property
    def running(self) -> bool:
        """Whether it should be reachable: the network of a paused container goes on."""
        return self.state in ("running", "paused") and bool(self.id)


@dataclass(frozen=True, slots=True)
class Engine:
    """Docker on this host, as its API has it."""

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
    """A row of Interface and the port and bridge that it is on; *ofport* is ``None`` until it is taken up."""

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
        """The endpoint that we made it for, if we did."""
        return self.ids.get(ENDPOINT, "")

    @property
    def installed(self) -> bool:
        """Whether ovn-controller says that its flows are in."""
        return self.ids.get("ovn-installed") == "true"


@dataclass(frozen=True, slots=True)
class Vswitch:
    """The local Open_vSwitch database; *ids* are the external_ids of its root."""

    version: str
    ids: Mapping[str, str]
    bridges: tuple[Bridge, ...]
    interfaces: tuple[Interface, ...]
    tls: tuple[str, str, str] | None = None
    """Private key, certificate, CA certificate."""

    @property
    def system_id(self) -> str:
        """How OVN calls this host."""
        return self.ids.get("system-id", "")

    @property
    def integration(self) -> str:
        """Name of the integration bridge (ovn-controller(8))."""
        return self.ids.get("ovn-bridge", "br-int")

    @property
    def encap_ip(self) -> str:
        """The address of this host's tunnels, the first if there are several; empty if it is not set."""
        return self.ids.get("ovn-encap-ip", "").partition(",")[0].strip()

    @property
    def addresses(self) -> list[IpAddress]:
        """Addresses that this host must reach outside of OVN: see Chassis."""
        remotes = (*self.ids.get("ovn-nb", "").split(","), *self.ids.get("ovn-remote", "").split(","))
        tunnels = (f"ip:{ip.strip()}:0" for ip in self.ids.get("ovn-encap-ip", "").split(","))
        return remote_addresses((*map(str.strip, remotes), *tunnels))

    @property
    def overhead(self) -> int:
        """Bytes that its tunnels add to a packet. Raises ValueError if *encap_ip* is no address."""
        types = self.ids.get("ovn-encap-type", "geneve").split(",")
        return tunnel_overhead(tuple(map(str.strip, types)), ip_address(self.encap_ip))

    @property
    def tunnels(self) -> tuple[Interface, ...]:
        """Tunnels that ovn-controller made."""
        return tuple(i for i in self.interfaces if "remote_ip" in i.options and i.bridge == self.integration)


@dataclass(frozen=True, slots=True)
class SwitchRow:
    """A row of Logical_Switch."""

    row: str
    name: str
    ids: Mapping[str, str]

    @property
    def ours(self) -> bool:
        """Whether we made it; the user's own ones are those of ``-o ovn.switch``."""
        return OURS.items() <= self.ids.items()


@dataclass(frozen=True, slots=True)
class PortRow:
    """A row of Logical_Switch_Port. *switch* is a row's UUID."""

    row: str
    name: str
    switch: str
    addresses: tuple[str, ...] = ()
    port_security: tuple[str, ...] = ()
    enabled: bool = True
    tag: int | None = None
    ids: Mapping[str, str] = field(default_factory=dict)

    def permits(self, mac: str, *addresses: str) -> bool:
        """Whether port security lets packets with this MAC and each of these addresses pass (ovn-nb(5))."""
        rules = [rule.lower().replace(",", " ").split() for rule in self.port_security]
        of_mac = [words for first, *words in filter(None, rules) if first == mac.lower()]
        return not self.port_security or any(
            not words or all(any(_is_in(address, word) for word in words) for address in addresses)
            for words in of_mac
        )

    @property
    def endpoint(self) -> str:
        """The endpoint that we made it for, if we did."""
        return self.ids.get(ENDPOINT, "") if OURS.items() <= self.ids.items() else ""

    @property
    def host(self) -> str:
        """The system-id of the host that made it."""
        return self.ids.get(HOST, "")

    @property
    def created(self) -> int | None:
        """When, in seconds of the epoch."""
        return whole_number(self.ids.get(CREATED, ""))


@dataclass(frozen=True, slots=True)
class Note:
    """A host's note that a network of its Docker is a logical switch that others have too.

    *created*: when, in seconds of the epoch.
    """

    network: str
    switch: str
    host: str
    created: int | None = None


@dataclass(frozen=True, slots=True)
class SharedRow:
    """A network of the cluster and the row of Logical_Switch that describes it."""

    row: str
    network: SharedNetwork


@dataclass(frozen=True, slots=True)
class Northbound:
    """OVN_Northbound, as far as the scope goes.

    *names*: endpoint to the container's name, where the host has told; *shared*: all networks of the cluster.
    """

    remote: str
    nb_cfg: int
    switches: tuple[SwitchRow, ...]
    ports: tuple[PortRow, ...]
    notes: tuple[Note, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[SharedRow, ...] = ()


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
    """A row of Port_Binding; *chassis* is a chassis' name, empty when nobody has claimed the port.

    *up* is ``None`` where OVN does not say.
    """

    port: str
    chassis: str
    up: bool | None


@dataclass(frozen=True, slots=True)
class Southbound:
    """OVN_Southbound: all chassis, and the bindings that the scope asks for.

    *datapaths*: UUID of a logical switch to that of its Datapath_Binding.
    """

    remote: str
    nb_cfg: int
    chassis: tuple[ChassisRow, ...]
    bindings: tuple[BindingRow, ...]
    datapaths: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one moment; *taken* in seconds of the epoch, *host* this machine's name."""

    taken: float
    host: str
    scope: Scope
    processes: tuple[Process, ...]
    links: tuple[Link, ...]
    driver: Driver | None = None
    engine: Engine | None = None
    vswitch: Vswitch | None = None
    northbound: Northbound | None = None
    southbound: Southbound | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why a part could not be read: ``driver``, ``docker``, ``vswitch``, ``northbound``, ``southbound``."""
    vif: str = ""
    """UUID of this virtual machine's own port, if it is one in a cloud and that is set."""
    connected: tuple[IpNetwork, ...] = ()
    """Networks that this host's own links are in."""
    cloud: Cloud | None = None
    """What *northbound* and *southbound* were made of there (ml2_ovn.py)."""

    @property
    def system_id(self) -> str:
        """How OVN calls this host, or Neutron this VM's port; empty if they do not."""
        return self.vif or (self.vswitch.system_id if self.vswitch else "")

    @property
    def underlay(self) -> bool:
        """Whether containers are ports of a cloud, behind this virtual machine's: their ports have VLANs."""
        if self.driver and self.driver.program:
            return self.driver.program == UNDERLAY
        plugged = self.vswitch.interfaces if self.vswitch else ()
        return bool(self.vif) or any(i.endpoint and i.tag for i in plugged)

    def process(self, name: str) -> Process:
        """The daemon of this name, running or not."""
        return next((p for p in self.processes if p.name == name), Process(name))


def _is_in(address: str, word: str) -> bool:
    """Whether a word of port security has an address; with host bits it is one address (ovn-nb(5))."""
    try:
        given, one = ip_interface(word), ip_address(address)
    except ValueError:
        return False
    subnet = given.network
    return one == given.ip or (given.ip == subnet.network_address and one in subnet)


def ip_version(address: str) -> int:
    """4 or 6; 0 if it is no address: databases have what other hosts wrote."""
    try:
        return ip_address(address).version
    except ValueError:
        return 0


def note(ids: Mapping[str, str]) -> Note:
    """The note that a row's external_ids make."""
    created = whole_number(ids.get(CREATED, ""))
    return Note(ids.get(NETWORK, ""), ids.get(SWITCH, ""), ids.get(HOST, ""), created)
