"""The connection to the OVN northbound database, and the words that our rows have in common.

Which rows there are, and why: docs/architecture.md.
"""

import threading
from collections.abc import Callable, Mapping

from ovn_docker.definition import Refused, valid_name
from ovn_docker.host.clock import age
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import Chassis, EndpointId, NetworkId, StoredEndpoint, Tls, row_uuid
from ovn_docker.threads import Threads

OWNER = "ovn-docker:owner"
HOST = "ovn-docker:host"
ENCAP = "ovn-docker:encap"
"""Tunnel address of the host: cloned machines have one system-id, and must not clear up behind each other."""

NETWORK = "ovn-docker:network"
ENDPOINT = "ovn-docker:endpoint"
SWITCH = "ovn-docker:switch"
NAME = "ovn-docker:name"
"""Of a network with a name in the cluster: on its switch, on the hosts' notes, and on its ports."""

MTU = "ovn-docker:mtu"
ROUTERS = "ovn-docker:routers"
"""``any``: containers on the network believe whoever says that it is a router or a DHCP server."""

ALLOWED = "ovn-docker:allowed-addresses"
"""Of a network, and of the port of an endpoint: what may be used besides the containers' own addresses."""

PORT_SECURITY = "ovn-docker:port-security"
"""Of a network and a port without the usual port security: ``off``, or ``wider`` with allowed addresses."""

CONTAINER = "ovn-docker:container"
"""On the port of an endpoint, once it is known: its container's name."""

RANK = "ovn-docker:rank"
"""On the claim of a name: ``own`` or ``alias``, and when its container was made; see dns.py."""

KEPT = "ovn-docker:kept"
NOTE = {"ovn-docker:note": "true"}
"""On a host's note that it has a network whose switch is not its alone."""

OURS = {OWNER: "overlay"}

_CURE = (
    "start it on that host with: ovn-docker central start, or name another one with: "
    "ovs-vsctl set Open_vSwitch . external_ids:ovn-nb=tcp:CENTRAL_IP:6641"
)

Connect = Callable[[Chassis], Database]
"""Gives the connection to the northbound database that a chassis is set up for."""


class Northbound:
    """The connection to the northbound database; follows what the host is set up for.

    *tls* has precedence over the files that the Open_vSwitch database names.
    """

    def __init__(self, tls: Tls | None = None, threads: Threads | None = None) -> None:
        self._tls = tls
        self._threads = threads
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._for: tuple[object, ...] = ()

    def __call__(self, chassis: Chassis) -> Database:
        """The connection for *chassis*, new if its settings changed. Raises BadRequest for bad ones."""
        tls = self._tls or chassis.tls
        wanted = (chassis.northbound, tls)
        with self._lock:
            if self._database is None or self._for != wanted:
                before = self._database
                self._database = Database("OVN_Northbound", chassis.northbound, _CURE, tls, self._threads)
                self._for = wanted
                if before is not None:
                    before.close()
            return self._database


def claim_row(switch: str, what: str) -> str:
    """UUID of the row that stands for an address or a MAC in use on a logical switch."""
    return row_uuid("claim", switch, what)


def name_row(switch: str, name: str) -> str:
    """UUID of the row that stands for a name in use on a logical switch."""
    return row_uuid("name", switch, name)


def name_of(ids: Mapping[str, str], switch: str) -> str:
    """The network's name in the cluster, by a row that belongs to *switch*; empty if it has none.

    Any host can write any name: it is that of the network only if the switch's row follows from it.
    """
    try:
        return valid_name(ids.get(NAME, ""), switch)
    except Refused:
        return ""


def stored_endpoint(ids: Mapping[str, str], *, up: bool = False) -> StoredEndpoint:
    """The endpoint that a row's external_ids describe."""
    return StoredEndpoint(
        EndpointId(ids.get(ENDPOINT, "")),
        NetworkId(ids.get(NETWORK, "")),
        ids.get(HOST, ""),
        age(ids),
        ids.get(ENCAP, ""),
        up,
    )


def host_ids(chassis: Chassis) -> dict[str, str]:
    """What a row says of the host that made it."""
    return {HOST: chassis.system_id} | ({ENCAP: str(chassis.encap_ips[0])} if chassis.encap_ips else {})
