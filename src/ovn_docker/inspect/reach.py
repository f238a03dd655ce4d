"""Find services of the cluster that containers reach and should not."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any

from ovn_docker.errors import OvnDockerError
from ovn_docker.host.barrier import SERVICES, listeners, survey
from ovn_docker.host.kernel.ping import connected, in_namespace
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.snapshot import Snapshot, ip_version
from ovn_docker.text.printable import printable


@dataclass(frozen=True, slots=True)
class Reached:
    """A service that a container reaches and should not, at a TCP *port* of an *address*.

    *neighbour*: the container is on the hosts' own network (macvlan, ipvlan), where no barrier is possible.
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


def reached_services(sources: Sources, snapshot: Snapshot, state: str) -> tuple[Reached, ...]:
    """Try the services from one container of each network of this host's Docker, all at once."""
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

    def probe(one: tuple[dict[str, Any], str, dict[str, Any]]) -> list[Reached]:
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
        return tuple(one for found in pool.map(probe, chosen.values()) for one in found)


def _is_open(network: Mapping[str, Any], opened: str) -> bool:
    """True if the operator has made an exception for a network's bridge (--barrier-open)."""
    option = (network.get("Options") or {}).get("com.docker.network.bridge.name")
    return (option or f"br-{network['Id'][:12]}") in opened.split()


def _services(snapshot: Snapshot) -> set[tuple[str, int]]:
    """Return addresses and ports of the databases, and of this host's own services at all its addresses."""
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
