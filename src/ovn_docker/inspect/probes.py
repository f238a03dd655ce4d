"""Find out which daemons answer and which paths carry packets, which databases do not tell.

Only probes send something: a change of ``nb_cfg``, which every ovn-controller acknowledges, as ``ovn-nbctl
--wait=hv sync`` does, and echo requests between hosts and between containers.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.daemons import CONTROLLER, answer
from ovn_docker.host.kernel.links import Held, KernelLinks
from ovn_docker.host.kernel.ping import in_namespace
from ovn_docker.host.kernel.router_guard import unguarded
from ovn_docker.host.openvswitch import ANY_ROUTER
from ovn_docker.host.ovn_controller import ask
from ovn_docker.host.ovsdb import Database
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.echoes import HostPath, Pair, container_pairs, host_paths
from ovn_docker.inspect.gather import TIMEOUT, Sources, tls_of
from ovn_docker.inspect.machine import CertificateFile, Machine, certificates, firewall, read_machine
from ovn_docker.inspect.reach import Reached, reached_services
from ovn_docker.inspect.snapshot import Snapshot
from ovn_docker.inspect.sync import Sync, silent_hosts, sync, watch_again
from ovn_docker.model import HOST_LINK, EndpointId, Tls, host_link
from ovn_docker.text.printable import printable


@dataclass(frozen=True, slots=True)
class Member:
    """A server of a database; *problem* is empty if it works."""

    database: str
    remote: str
    clustered: bool
    leader: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Probes:
    """The results of all probes; ``None`` for one that could not be made."""

    controller: str = ""
    """State of ovn-controller's connection (``connected``, ...); empty if it does not answer."""
    sync: Sync | None = None
    members: tuple[Member, ...] = ()
    paths: Mapping[str, HostPath] = field(default_factory=dict)
    """Paths to other hosts, by system-id."""
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    """Pairs of a container here and one on another host, by that host's system-id."""
    offload: Mapping[str, tuple[int, str, bool]] = field(default_factory=dict)
    """Endpoint to process, link in the container, and True if that link offloads checksums."""
    held: Mapping[str, tuple[Held, ...]] = field(default_factory=dict)
    """Endpoint to the addresses that its interface, and those on top of it, have in the container."""
    unguarded: frozenset[str] = frozenset()
    """Links of containers that accept any router, although ``ovn.routers=any`` is not set."""
    certificates: tuple[CertificateFile, ...] = ()
    restricted: bool = False
    """True if a listener of the southbound database lets hosts change only their own rows."""
    row_listeners: Mapping[str, str] = field(default_factory=dict)
    """Database of this machine to the TLS addresses on which it listens because a row says so."""
    firewall: tuple[str, ...] = ()
    """Rules of this host that drop packets to the tunnels' port."""
    barrier: str = ""
    """State of the barrier in the driver (`Barrier.state`); empty if the driver does not answer."""
    reached: tuple[Reached, ...] = ()
    machine: Machine = Machine()
    macs: frozenset[str] = frozenset()
    """MACs of this host's links."""
    ports: int = 0
    """Number of ports of containers in the cluster, and of other clients of OVN; 0 if unknown."""


def probe(sources: Sources, cluster: ClusterView, *, active: bool = True) -> Probes:
    """Make all probes that are possible now, in a few seconds. Needs root.

    Those that are not *active* change nothing, send no packet, enter no container, and need no capability.
    """
    snapshot = cluster.snapshot
    controller = _controller(sources, snapshot)
    synced = sync(sources) if active else None
    pids = _pids(sources, cluster) if active else {}
    silent = silent_hosts(cluster, synced)
    pairs = container_pairs(cluster, pids, silent=silent) if active else {}
    if synced is not None:
        synced = watch_again(sources, synced)
    return Probes(
        controller=controller,
        sync=synced,
        members=_members(snapshot),
        paths=host_paths(cluster) if active else {},
        pairs=pairs,
        offload=_offload(cluster, pids),
        held=held({e.id: pids[e.container] for e in cluster.docker.values() if e.container in pids}),
        unguarded=frozenset(unguarded(_guarded(cluster)) if active else ()),
        certificates=tuple(certificates(snapshot)),
        restricted=any(row.text("role") for row in _connections(sources.southbound, "role")),
        row_listeners=_row_listeners(sources),
        firewall=firewall() if any(not pair.small for pair in pairs.values()) else (),
        barrier=(state := _barrier(sources, snapshot)),
        reached=reached_services(sources, snapshot, state) if active else (),
        machine=read_machine(),
        macs=frozenset(KernelLinks().macs()),
        ports=count_ports(None if "northbound" in snapshot.missing else sources.northbound),
    )


# OVN


def _controller(sources: Sources, snapshot: Snapshot) -> str:
    try:
        return answer(snapshot.daemon(CONTROLLER), "connection-status", sources.places, 2.0)
    except Unavailable:
        return ""


def _connections(database: Database | None, *columns: str) -> list[ovsdb.Row]:
    """Return the rows that say where a database listens (ovn-nb(5), ovn-sb(5)); empty if unreadable."""
    try:
        asked = ovsdb.select("Connection", columns=columns)
        return database.transact(asked, deadline=Deadline(TIMEOUT))[0] if database else []
    except OvnDockerError:
        return []


def _row_listeners(sources: Sources) -> dict[str, str]:
    """Return Probes.row_listeners. Without TLS it is empty, because then every host can change everything."""
    found = {}
    for title, name, database, columns in (
        ("northbound", "ovnnb_db", sources.northbound, ("target",)),
        ("southbound", "ovnsb_db", sources.southbound, ("target", "role")),
    ):
        try:
            remotes = ask(sources.places.ovn / f"{name}.ctl", "ovsdb-server/list-remotes", 2.0)
        except OSError:
            continue
        if "db:" in remotes:
            rows = _connections(database, *columns)
            open_to_all = [row.text("target") for row in rows if "role" not in row or not row.text("role")]
            if targets := [printable(target) for target in open_to_all if target.startswith("pssl:")]:
                found[f"{title} database"] = ", ".join(targets)
    return found


def count_ports(northbound: Database | None) -> int:
    """Return the number of ports without a type, or 0. The server sends 56 bytes for each of them."""
    try:
        asked = ovsdb.select("Logical_Switch_Port", ["type", "==", ""], columns=["_uuid"])
        return len(northbound.transact(asked, deadline=Deadline(TIMEOUT))[0]) if northbound else 0
    except OvnDockerError:
        return 0


def _members(snapshot: Snapshot) -> tuple[Member, ...]:
    """Return the state of each server of both databases (ovsdb-server(5), ``_Server``)."""
    ids = snapshot.vswitch.ids if snapshot.vswitch else {}
    tls = tls_of(snapshot.vswitch) if snapshot.vswitch else None
    asked = [
        (name, remote.strip())
        for name, key in (("OVN_Northbound", "ovn-nb"), ("OVN_Southbound", "ovn-remote"))
        for remote in ids.get(key, "").split(",")
        if "," in ids.get(key, "")  # a single one was asked already
    ]
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        return tuple(pool.map(lambda one: _member(one[0], one[1], tls), asked))


def _member(name: str, remote: str, tls: Tls | None) -> Member:
    try:
        server = Database("_Server", [remote], tls=tls)
    except OvnDockerError as error:
        return Member(name, remote, clustered=False, leader=False, problem=str(error))
    try:
        (rows,) = server.transact(
            ovsdb.select("Database", ["name", "==", name], columns=["model", "connected", "leader"]),
            deadline=Deadline(2),
        )
    except OvnDockerError as error:
        return Member(name, remote, clustered=False, leader=False, problem=str(error))
    finally:
        server.close()
    if not rows:
        return Member(name, remote, clustered=False, leader=False, problem=f"it does not have {name}")
    row = rows[0]
    problem = "" if row.optional("connected", bool) else "it is not connected to its cluster"
    return Member(name, remote, row.text("model") == "clustered", bool(row.optional("leader", bool)), problem)


# Packets


def _pids(sources: Sources, cluster: ClusterView) -> dict[str, int]:
    """Return the first process of each running container of this host, by container ID."""
    found = {}
    for container in {e.container for e in cluster.docker.values() if e.running}:
        try:
            state = sources.docker.read(f"/containers/{container}/json").get("State") or {}
        except OvnDockerError:
            continue
        if state.get("Pid"):
            found[container] = int(state["Pid"])
    return found


# Services that containers should not reach


def _barrier(sources: Sources, snapshot: Snapshot) -> str:
    driver = snapshot.driver
    if driver is None or not driver.program:
        return ""
    try:
        return ask(sources.places.vswitch / f"{driver.program}.{driver.pid}.ctl", "barrier", 2.0).strip()
    except (OSError, ValueError):  # an earlier version does not know the command
        return ""


def _guarded(cluster: ClusterView) -> Iterable[str]:
    """Return the links that should be guarded."""
    interfaces = [] if cluster.snapshot.underlay else cluster.interfaces.values()
    return [one.name for one in interfaces if one.endpoint and not ANY_ROUTER.items() <= one.ids.items()]


def held(pids: Mapping[str, int]) -> dict[str, tuple[Held, ...]]:
    """Return the interfaces of endpoints of this host, and those on top of them, as the containers have them.

    *pids*: endpoint to a process of its container. A container that has just ended is left out.
    """
    links, found = KernelLinks(), {}
    peers = links.peers(HOST_LINK)
    for endpoint, pid in pids.items():
        index = peers.get(host_link(EndpointId(endpoint)))
        if index is not None:
            with suppress(OSError):
                found[endpoint] = in_namespace(pid, partial(links.held, index))
    return found


def _offload(cluster: ClusterView, pids: Mapping[str, int]) -> dict[str, tuple[int, str, bool]]:
    found = {}
    for endpoint in cluster.docker.values():
        pid = pids.get(endpoint.container)
        if pid is None or not endpoint.mac:
            continue
        try:
            link, on = in_namespace(pid, partial(KernelLinks().tx_checksums, endpoint.mac))
        except OSError:
            continue
        if link:
            found[endpoint.id] = (pid, link, on)
    return found
