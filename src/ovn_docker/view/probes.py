"""What a snapshot cannot tell: who answers, and which paths carry what.

The only reader that sends something: every host's controller is asked for a sign of life, as
``ovn-nbctl --wait=hv sync`` does, and echo requests go between hosts and between containers.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any

from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.host.barrier import SERVICES, listeners, survey
from ovn_docker.host.controller import ask
from ovn_docker.host.links import Held, Links
from ovn_docker.host.ovsdb import Database
from ovn_docker.host.ping import Echo, answered, connected, in_namespace
from ovn_docker.host.router_guard import unguarded
from ovn_docker.host.vswitch import ANY_ROUTER
from ovn_docker.model import HOST_LINK, EndpointId, Tls, host_link
from ovn_docker.printable import printable
from ovn_docker.view.cluster import Cluster, Endpoint
from ovn_docker.view.gather import PATIENCE, Sources, tls_of
from ovn_docker.view.machine import Certificate, Machine, certificates, firewall, look
from ovn_docker.view.snapshot import Snapshot, Vswitch, ip_version

SMALL = 100
"""Bytes of a packet that fits everywhere."""


@dataclass(frozen=True, slots=True)
class Sync:
    """Who took part when the number of the configuration went up.

    *northd*: whether ovn-northd passed it on; *ahead*: of the chassis that answered, how many seconds their
    clocks are ahead of ours; *seen*: host names and tunnel addresses that each chassis' row had meanwhile.
    """

    northd: bool
    ahead: Mapping[str, float]
    seen: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Member:
    """A server of a database; *problem* is empty when it serves."""

    database: str
    remote: str
    clustered: bool
    leader: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class HostPath:
    """Between this host and another's tunnel address: small packets, and the largest that tunnels send."""

    small: bool
    full: bool
    size: int
    carries: int = 0
    """The largest size that was answered, if small ones were and that one was not."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Between a container here and one on another host, through the tunnel."""

    here: str
    there: str
    small: bool
    full: bool
    size: int


@dataclass(frozen=True, slots=True)
class Reached:
    """A service that a container reaches and should not; *port* of TCP at an *address*.

    *neighbour*: its network makes it a neighbour of the hosts on their own network, where nothing is between.
    """

    container: str
    network: str
    address: str
    port: int
    neighbour: bool = False

    @property
    def where(self) -> str:
        """Address and port, as in a URL."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Probes:
    """What was found; ``None``: it could not be asked."""

    controller: str = ""
    """What ovn-controller says of its connection; empty when it does not answer."""
    sync: Sync | None = None
    members: tuple[Member, ...] = ()
    paths: Mapping[str, HostPath] = field(default_factory=dict)
    """By system-id."""
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    """By system-id, of hosts that have a container on a network with one of ours."""
    offload: Mapping[str, tuple[int, str, bool]] = field(default_factory=dict)
    """Endpoint to process, link in the container, and whether that leaves checksums to others."""
    held: Mapping[str, tuple[Held, ...]] = field(default_factory=dict)
    """Endpoint to what its interface, and those on top of it, have in the container."""
    unguarded: frozenset[str] = frozenset()
    """Links of containers that believe any router, though their networks are not said to take any."""
    certificates: tuple[Certificate, ...] = ()
    restricted: bool = False
    """Whether a listener of the southbound database lets hosts change their own rows only."""
    row_listeners: Mapping[str, str] = field(default_factory=dict)
    """Databases of this machine that listen with TLS, and where: as rows say, which hosts can change."""
    firewall: tuple[str, ...] = ()
    """Rules of this host that drop what comes to the tunnels' port."""
    barrier: str = ""
    """The state of the barrier by the driver (`Barrier.state`); empty if the driver does not answer."""
    reached: tuple[Reached, ...] = ()
    machine: Machine = Machine()
    macs: frozenset[str] = frozenset()
    """Of this host's links."""


def probe(sources: Sources, cluster: Cluster) -> Probes:
    """Ask everything that can be asked now; a few seconds at most. Takes root."""
    snapshot = cluster.snapshot
    controller = _controller(sources)
    sync = _sync(sources)
    pids = _pids(sources, cluster)
    pairs = _pairs(cluster, pids, silent=_silent(cluster, sync))
    if sync is not None:
        sync = _second_look(sources, sync)
    return Probes(
        controller=controller,
        sync=sync,
        members=_members(snapshot),
        paths=_paths(cluster),
        pairs=pairs,
        offload=_offload(cluster, pids),
        held=held({e.id: pids[e.container] for e in cluster.docker.values() if e.container in pids}),
        unguarded=frozenset(unguarded(_guarded(cluster))),
        certificates=tuple(certificates(snapshot)),
        restricted=any(row["role"] for row in _connections(sources.southbound, "role")),
        row_listeners=_row_listeners(sources),
        firewall=firewall() if any(not pair.small for pair in pairs.values()) else (),
        barrier=(state := _barrier(sources, snapshot)),
        reached=_reached(sources, snapshot, state),
        machine=look(),
        macs=frozenset(Links().macs()),
    )


# OVN


def _controller(sources: Sources) -> str:
    pidfile = sources.places.ovn / "ovn-controller.pid"
    try:
        return ask(
            pidfile.with_name(f"ovn-controller.{int(pidfile.read_text())}.ctl"), "connection-status", 2.0
        )
    except (OSError, ValueError):
        return ""


def _connections(database: Database | None, *columns: str) -> list[ovsdb.Row]:
    """The rows that say where a database listens (ovn-nb(5), ovn-sb(5)); none if it cannot be asked."""
    try:
        asked = ovsdb.select("Connection", columns=columns)
        return database.transact(asked, deadline=Deadline(PATIENCE))[0] if database else []
    except OvnDockerError:
        return []


def _row_listeners(sources: Sources) -> dict[str, str]:
    """With TLS only: without, everybody may change everything anyhow."""
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
            open_to_all = [row["target"] for row in _connections(database, *columns) if not row.get("role")]
            if targets := [printable(target) for target in open_to_all if target.startswith("pssl:")]:
                found[f"{title} database"] = ", ".join(targets)
    return found


def _sync(sources: Sources) -> Sync | None:
    """Raise ``nb_cfg`` and watch the answers (ovn-nb(5), NB_Global; ovn-sb(5), Chassis_Private)."""
    northbound, southbound = sources.northbound, sources.southbound
    if northbound is None or southbound is None or sources.missing.keys() & {"northbound", "southbound"}:
        return None
    began, deadline, pause = time.time(), Deadline(PATIENCE), 0.02
    seen: dict[str, set[str]] = defaultdict(set)
    ahead: dict[str, float] = {}
    try:
        _, (root,) = northbound.transact(
            ovsdb.mutate("NB_Global", mutations=[["nb_cfg", "+=", 1]]),
            ovsdb.select("NB_Global", columns=["nb_cfg"]),
            deadline=Deadline(PATIENCE),
        )
        while True:
            number, names = _look(southbound, root["nb_cfg"], began, ahead, seen)
            northd = number >= root["nb_cfg"]
            if (northd and names <= ahead.keys()) or deadline.left() <= 0:
                break
            time.sleep(min(pause, deadline.left()))
            pause *= 2
    except OvnDockerError:
        return None
    return Sync(northd, ahead, {name: frozenset(what) for name, what in seen.items()})


def _look(
    southbound: Database, number: int, began: float, ahead: dict[str, float], seen: dict[str, set[str]]
) -> tuple[int, set[str]]:
    """Note who has answered and how the chassis look; returns the database's own number, and their names."""
    globals_, private, chassis, encaps = southbound.transact(
        ovsdb.select("SB_Global", columns=["nb_cfg"]),
        ovsdb.select("Chassis_Private", columns=["name", "nb_cfg", "nb_cfg_timestamp"]),
        ovsdb.select("Chassis", columns=["_uuid", "name", "hostname", "encaps"]),
        ovsdb.select("Encap", columns=["chassis_name", "ip"]),
        deadline=Deadline(PATIENCE),
    )
    now = time.time()
    for row in private:
        if row["nb_cfg"] >= number and row["name"] not in ahead:
            then = row["nb_cfg_timestamp"] / 1000
            ahead[row["name"]] = then - now if then > now else min(0.0, then - began)
    ips: dict[str, list[str]] = defaultdict(list)
    for encap in encaps:
        ips[encap["chassis_name"]].append(encap["ip"])
    for row in chassis:
        seen[row["name"]].add(f"{row['hostname']} ({', '.join(sorted(ips[row['name']]))})")
    return int(globals_[0]["nb_cfg"]) if globals_ else 0, {row["name"] for row in chassis}


def _second_look(sources: Sources, sync: Sync) -> Sync:
    """Two hosts with one system-id write each other's row over and over: look again, some times."""
    seen = {name: set(what) for name, what in sync.seen.items()}
    again: dict[str, set[str]] = defaultdict(set, seen)
    try:
        for _ in range(5):
            if sources.southbound is not None:
                _look(sources.southbound, 1 << 62, 0, {}, again)
            time.sleep(0.03)
    except OvnDockerError:
        pass
    return Sync(sync.northd, sync.ahead, {name: frozenset(what) for name, what in again.items()})


def _silent(cluster: Cluster, sync: Sync | None) -> set[str]:
    """Hosts that do not take part: there is no use in sending them packets by the minute."""
    return cluster.chassis.keys() - sync.ahead.keys() if sync is not None and sync.northd else set()


def _members(snapshot: Snapshot) -> tuple[Member, ...]:
    """Every server of both databases, as each says itself (ovsdb-server(5), ``_Server``)."""
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
        return Member(name, remote, clustered=False, leader=False, problem=f"it does not serve {name}")
    problem = "" if rows[0]["connected"] else "it is not connected to its cluster"
    return Member(name, remote, rows[0]["model"] == "clustered", bool(rows[0]["leader"]), problem)


# Packets


def _paths(cluster: Cluster) -> dict[str, HostPath]:
    """From our tunnel address to those of the others, as the hosts themselves, without a tunnel."""
    vswitch = cluster.snapshot.vswitch
    source = vswitch.encap_ip if vswitch else ""
    if vswitch is None or not source or not any(source in link.addresses for link in cluster.snapshot.links):
        return {}
    version = ip_version(source)
    targets = {
        host.system_id: encap.ip
        for host in cluster.hosts
        if not host.here
        for encap in cluster.chassis[host.system_id].encaps
        if ip_version(encap.ip) == version
    }
    size = largest_outer(cluster, vswitch)
    small = {name: Echo(ip, SMALL, source) for name, ip in targets.items()}
    full = {name: Echo(ip, size, source) for name, ip in targets.items()}
    found = answered([*small.values(), *full.values()])
    return {
        name: HostPath(
            small=small[name] in found,
            full=full[name] in found,
            size=size,
            carries=_carried(ip, source, size) if small[name] in found and full[name] not in found else 0,
        )
        for name, ip in targets.items()
    }


def _carried(target: str, source: str, size: int) -> int:
    """The largest packet that is answered: 32 sizes at once, and then those between the best two."""
    low, high = SMALL, size
    while high - low > 1:
        step = max(1, (high - low) // 32)
        found = answered([Echo(target, probe, source) for probe in range(low + step, high, step)], wait=0.6)
        best = max((echo.size for echo in found), default=low)
        if best == low:
            break
        low, high = best, min(high, best + step)
    return low


def largest_outer(cluster: Cluster, vswitch: Vswitch) -> int:
    """Bytes of the largest packet that this host's tunnels have to carry, outer header included.

    Not more than the tunnels' interface takes; what is larger is another matter (check network-mtu).
    """
    links = cluster.links
    outer = next((link.mtu for link in links.values() if vswitch.encap_ip in link.addresses), 1500)
    mtus = [
        links[name].mtu
        for e in cluster.interfaces.values()
        if (name := host_link(EndpointId(e.endpoint))) in links
    ]
    return min(outer, max(mtus) + vswitch.overhead) if mtus else outer


def _pids(sources: Sources, cluster: Cluster) -> dict[str, int]:
    """First process of the containers here, by container."""
    found = {}
    for container in {e.container for e in cluster.docker.values() if e.running}:
        try:
            state = sources.docker.read(f"/containers/{container}/json").get("State") or {}
        except OvnDockerError:
            continue
        if state.get("Pid"):
            found[container] = int(state["Pid"])
    return found


def _pairs(cluster: Cluster, pids: Mapping[str, int], silent: Iterable[str]) -> dict[str, Pair]:
    """Through the tunnels: one container of every other host, from one of ours on the same network."""
    me = cluster.host_name(cluster.snapshot.system_id)
    by_name = {host.name: host.system_id for host in cluster.hosts}
    ours: dict[str, Endpoint] = {}
    theirs: dict[str, Endpoint] = {}
    for endpoint in cluster.endpoints:
        docker = cluster.docker.get(endpoint.id)
        if endpoint.here and docker and docker.container in pids and _works(cluster, endpoint):
            ours.setdefault(endpoint.switch, endpoint)
    for endpoint in cluster.endpoints:
        host = by_name.get(endpoint.chassis, "")
        answers = endpoint.chassis != me and endpoint.up and host not in ("", *silent)
        if answers and endpoint.switch in ours and _allowed(cluster, endpoint):
            theirs.setdefault(host, endpoint)
    asked: dict[str, dict[str, tuple[Endpoint, Endpoint]]] = defaultdict(dict)
    for host, there in theirs.items():
        here = ours[there.switch]
        if _versions(here) & _versions(there):
            asked[here.id][host] = (here, there)
    found: dict[str, Pair] = {}
    for id_, pairs in asked.items():
        found |= _ping_pairs(
            pids[cluster.docker[id_].container], cluster.links[host_link(EndpointId(id_))].mtu, pairs
        )
    return found


def _ping_pairs(pid: int, mtu: int, pairs: Mapping[str, tuple[Endpoint, Endpoint]]) -> dict[str, Pair]:
    versions = {version for here, _ in pairs.values() for version in _versions(here)}
    target = {
        host: next(address for address in there.addresses if ip_version(address) in versions)
        for host, (_, there) in pairs.items()
    }
    echoes = [Echo(ip, size) for ip in target.values() for size in (SMALL, mtu)]
    try:
        found = in_namespace(pid, lambda: answered(echoes))
    except OSError:  # the container has just ended
        return {}
    return {
        host: Pair(here.container, there.container, Echo(target[host], SMALL) in found,
                   Echo(target[host], mtu) in found, mtu)
        for host, (here, there) in pairs.items()
    }  # fmt: skip


# Services that containers should not reach


def _barrier(sources: Sources, snapshot: Snapshot) -> str:
    driver = snapshot.driver
    if driver is None or not driver.program:
        return ""
    try:
        return ask(sources.places.vswitch / f"{driver.program}.{driver.pid}.ctl", "barrier", 2.0).strip()
    except (OSError, ValueError):  # an earlier version does not know the command
        return ""


def _reached(sources: Sources, snapshot: Snapshot, state: str) -> tuple[Reached, ...]:
    """Services that answer a container: from one of each network of this host's Docker, all at once."""
    try:
        containers = sources.docker.read("/containers/json")
        networks = {one["Id"]: one for one in sources.docker.read("/networks")}
    except OvnDockerError:
        return ()
    _, _, opened = state.partition(", open for ")
    targets = _services(snapshot)
    chosen: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {}
    for container in containers:
        for name, settings in ((container.get("NetworkSettings") or {}).get("Networks") or {}).items():
            network = networks.get(settings.get("NetworkID"))
            if network and network.get("Driver") not in ("host", "null") and not _is_open(network, opened):
                chosen.setdefault(network["Id"], (container, name, network))

    def look(one: tuple[dict[str, Any], str, dict[str, Any]]) -> list[Reached]:
        container, name, network = one
        gateways = {
            (config["Gateway"], port)
            for config in (network.get("IPAM") or {}).get("Config") or []
            if ip_version(config.get("Gateway") or "")
            for _, port in _served_here()
        }
        try:
            pid = sources.docker.read(f"/containers/{container['Id']}/json")["State"]["Pid"]
            found = in_namespace(pid, partial(connected, targets | gateways)) if pid else set()
        except (OvnDockerError, OSError):  # it has just ended
            return []
        neighbour = network.get("Driver") in ("macvlan", "ipvlan")
        label = printable((container.get("Names") or [""])[0].lstrip("/"))
        return [Reached(label, printable(name), *target, neighbour) for target in sorted(found)]

    with ThreadPoolExecutor(8) as pool:
        return tuple(one for found in pool.map(look, chosen.values()) for one in found)


def _is_open(network: Mapping[str, Any], opened: str) -> bool:
    """Whether the operator has made an exception for a network's bridge (--barrier-open)."""
    option = (network.get("Options") or {}).get("com.docker.network.bridge.name")
    return (option or f"br-{network['Id'][:12]}") in opened.split()


def _services(snapshot: Snapshot) -> set[tuple[str, int]]:
    """Addresses and ports of the databases, and of what this host serves itself at any of its addresses."""
    known = survey(snapshot.vswitch.ids if snapshot.vswitch else {})
    found = {(str(address), port) for address, port in known.databases if not address.is_loopback}
    served = _served_here()
    for link in snapshot.links:
        for address in link.addresses:
            if not (ip_address(address).is_loopback or ip_address(address).is_link_local):
                found |= {(address, port) for _, port in served}
    return found


def _served_here() -> set[tuple[str, int]]:
    ports = {service.port for service in SERVICES}
    return {
        (str(address), port) for address, port in listeners() if port in ports and not address.is_loopback
    }


def _versions(endpoint: Endpoint) -> set[int]:
    return set(map(ip_version, endpoint.addresses)) - {0}


def _works(cluster: Cluster, endpoint: Endpoint) -> bool:
    """Whether an endpoint of this host can reach others, as far as it is concerned itself."""
    link = cluster.links.get(endpoint.link)
    plugged = link is not None and link.up and link.carrier and endpoint.installed
    return bool(plugged and endpoint.addresses and not endpoint.differences and _allowed(cluster, endpoint))


def _allowed(cluster: Cluster, endpoint: Endpoint) -> bool:
    """Whether its port in OVN lets it send what it has."""
    port = cluster.ports.get(endpoint.id)
    return port is not None and port.enabled and port.permits(endpoint.mac, *endpoint.addresses)


def _guarded(cluster: Cluster) -> Iterable[str]:
    """Links that should be guarded."""
    interfaces = [] if cluster.snapshot.underlay else cluster.interfaces.values()
    return [one.name for one in interfaces if one.endpoint and not ANY_ROUTER.items() <= one.ids.items()]


def held(pids: Mapping[str, int]) -> dict[str, tuple[Held, ...]]:
    """The interfaces of endpoints of this host, and those on top of them, as their containers have them.

    *pids*: endpoint to a process of its container; one that has just ended is left out.
    """
    links, found = Links(), {}
    peers = links.peers(HOST_LINK)
    for endpoint, pid in pids.items():
        index = peers.get(host_link(EndpointId(endpoint)))
        if index is not None:
            with suppress(OSError):
                found[endpoint] = in_namespace(pid, partial(links.held, index))
    return found


def _offload(cluster: Cluster, pids: Mapping[str, int]) -> dict[str, tuple[int, str, bool]]:
    found = {}
    for endpoint in cluster.docker.values():
        pid = pids.get(endpoint.container)
        if pid is None or not endpoint.mac:
            continue
        try:
            link, on = in_namespace(pid, partial(Links().tx_checksums, endpoint.mac))
        except OSError:
            continue
        if link:
            found[endpoint.id] = (pid, link, on)
    return found
