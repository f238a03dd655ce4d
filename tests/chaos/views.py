"""The state of Docker and of its hosts in either mode. The same part has the same text in all views."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from e2e.lab import Host
from ovn_docker.deadline import Deadline
from ovn_docker.docker.engine import DockerEngine
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database

Row = dict[str, Any]
T = TypeVar("T")

_READ_TIME = 20.0

UNUSED = 25 * 60
"""Seconds after which an address or pool of a dockerd that was killed must be deleted.

The driver searches for those older than ten minutes when it or dockerd starts, when a delete has failed, and
eleven minutes later.
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running container on a network, as Docker shows it; `pid` is that of the container on its host.

    `switch` is the name that its logical switch, or its network in Neutron, should have.
    """

    id: str
    network: str
    shared: bool
    leases: bool
    switch: str
    container: str
    host: str
    pid: int
    mac: str
    addresses: tuple[str, ...]

    @property
    def link(self) -> str:
        """The name of the endpoint's link on the host."""
        return f"odh{self.id[:12]}"

    @property
    def held(self) -> str:
        """The endpoint's MAC and addresses."""
        return " ".join((self.mac, *self.addresses))


@dataclass(frozen=True, slots=True)
class View:
    """State of a host's Docker: our networks by name, containers with their networks (None: not running)."""

    host: Host
    networks: dict[str, Row]
    containers: dict[str, set[str] | None]
    endpoints: tuple[Endpoint, ...]


def docker(hosts: Iterable[Host]) -> list[View]:
    """Return the state of Docker on each host. Raises OvnDockerError if Docker does not answer."""
    return _at_once(_docker, hosts)


def wanted(views: Iterable[View]) -> Iterator[str]:
    """Yield the parts that should exist on the hosts, by the state of Docker."""
    for one in (endpoint for view in views for endpoint in view.endpoints):
        yield f"{one.host}: port {one.link} of Open vSwitch for {one.id}"
        yield f"{one.host}: link {one.link} into a container"
        yield f"{one.host}: link in {one.container}: {one.held}"


def found(views: Iterable[View]) -> set[str]:
    """Return the parts that exist on the hosts."""
    return set().union(*_at_once(_on_host, views))


def _docker(host: Host) -> View:
    """Return the state of a host's Docker.

    A container's networks are checked against the networks' containers, because Docker also lists a network
    that `docker network connect` failed to connect.
    """
    engine = DockerEngine(host.path("/run/docker.sock"))
    listed = [one for one in engine.read("/networks") if one["Driver"] == "openvswitch"]
    networks = {one["Name"]: engine.read(f"/networks/{one['Id']}") for one in listed}
    containers: dict[str, set[str] | None] = {}
    endpoints: list[Endpoint] = []
    for id_ in (one["Id"] for one in engine.read("/containers/json?all=true")):
        one = engine.read(f"/containers/{id_}/json")
        name, inside = one["Name"][1:], one["NetworkSettings"]["Networks"]
        on = {
            network for network, here in networks.items() if id_ in here["Containers"] and network in inside
        }
        containers[name] = on if one["State"]["Running"] else None
        if one["State"]["Running"]:
            endpoints += [_endpoint(host.name, one, networks[network], inside[network]) for network in on]
    return View(host, networks, containers, tuple(endpoints))


def _endpoint(host: str, container: Row, network: Row, here: Row) -> Endpoint:
    return Endpoint(
        id=here["EndpointID"],
        network=network["Name"],
        shared=bool(shared_name(network)),
        leases=network["IPAM"]["Driver"] == "openvswitch",
        switch=shared_name(network) or network["Id"],
        container=container["Name"][1:],
        host=host,
        pid=container["State"]["Pid"],
        mac=here["MacAddress"],
        addresses=tuple(filter(None, (here["IPAddress"], here["GlobalIPv6Address"]))),
    )


def shared_name(network: Row) -> str:
    """Return the name of a shared network; empty for other networks."""
    return str((network["Options"] or {}).get("ovn.network", ""))


def _on_host(view: View) -> set[str]:
    host = view.host
    columns = {"Interface": ["name", "external_ids"]}
    rows = read("Open_vSwitch", [host.path("/run/openvswitch/db.sock")], columns)["Interface"]
    things = {
        f"{host.name}: port {row['name']} of Open vSwitch for {ids.get('ovn-docker:endpoint')}"
        for row, ids in ((row, row["external_ids"]) for row in rows)
        if row["name"].startswith("od") or "ovn-docker:owner" in ids
    }
    running = {one.container: one.pid for one in view.endpoints}
    script = "ip -json link; for pid; do nsenter --target=$pid --net ip -json address || echo '[]'; done"
    printed = host.run("sh", "-c", script, "sh", *map(str, running.values()), timeout=60).splitlines()
    links, *inside = map(json.loads, printed)
    for link in links:
        if link["ifname"].startswith("od"):
            where = "into a container" if "link_netnsid" in link else "into nowhere"
            things.add(f"{host.name}: link {link['ifname']} {where}")
    for container, links in zip(running, inside, strict=True):
        things |= {f"{host.name}: link in {container}: {held}" for link in links if (held := _held(link))}
    return things


def _held(link: Row) -> str:
    """Return MAC and addresses of a container's link; empty for Docker's own links."""
    addresses = [one["local"] for one in link["addr_info"] if one["scope"] == "global"]
    if link["ifname"] == "lo" or any(address.startswith("172.") for address in addresses):
        return ""
    return " ".join((link["address"], *addresses))


def read(database: str, sockets: list[Path], tables: dict[str, list[str]]) -> dict[str, list[Row]]:
    """Return columns of tables of a database; of a clustered database, as its leader has them."""
    with closing(Database(database, [f"unix:{socket}" for socket in sockets])) as connection:
        rows = connection.transact(
            *(ovsdb.select(table, columns=columns) for table, columns in tables.items()),
            deadline=Deadline(_READ_TIME),
        )
    return dict(zip(tables, rows, strict=True))


def _at_once(function: Callable[[Any], T], subjects: Iterable[Any]) -> list[T]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, subjects))
