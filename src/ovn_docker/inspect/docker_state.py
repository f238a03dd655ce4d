"""Read the networks and containers of this host's Docker from the Engine API."""

from collections.abc import Iterable
from typing import Any

from ovn_docker.docker.engine import OUR_NETWORKS, DockerEngine
from ovn_docker.errors import Unavailable
from ovn_docker.inspect.snapshot import (
    DockerEndpoint,
    DockerNetwork,
    DockerState,
)
from ovn_docker.options import SHARED_NAME, is_of_others
from ovn_docker.text.printable import printable


def read_docker(engine: DockerEngine) -> DockerState:
    """Read everything that a snapshot has of Docker. Raises Unavailable."""
    version, info, networks, containers = (
        printable(engine.read(path))  # names may have any characters
        for path in ("/version", "/info", OUR_NETWORKS, "/containers/json?all=1")
    )
    try:
        return _state(version, info, networks, containers)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise Unavailable(
            f"Docker sent an unexpected reply ({error!r}); is its version one from 20.10 to 29?"
        ) from None


def _state(version: Any, info: Any, networks: Any, containers: Any) -> DockerState:
    ours = tuple(map(_docker_network, networks))
    ids = {network.id for network in ours}
    return DockerState(
        version=str(version.get("Version", "")),
        swarm=(info.get("Swarm") or {}).get("LocalNodeState") == "active",
        networks=ours,
        endpoints=tuple(
            endpoint
            for container in containers
            for endpoint in _docker_endpoints(container)
            if endpoint.network in ids
        ),
    )


def _docker_network(row: dict[str, Any]) -> DockerNetwork:
    pools = (row.get("IPAM") or {}).get("Config") or []
    return DockerNetwork(
        id=row["Id"],
        name=row["Name"],
        subnets=tuple(pool["Subnet"] for pool in pools if pool.get("Subnet")),
        shared=(row.get("Options") or {}).get(SHARED_NAME, ""),
        ignored=tuple(sorted(filter(is_of_others, row.get("Options") or {}))),
        internal=bool(row.get("Internal")),
    )


def _docker_endpoints(container: dict[str, Any]) -> Iterable[DockerEndpoint]:
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    for endpoint in networks.values():
        yield DockerEndpoint(
            id=endpoint.get("EndpointID") or "",
            network=endpoint.get("NetworkID") or "",
            container=container["Id"],
            name=(container.get("Names") or [""])[0].lstrip("/"),
            state=container.get("State") or "",
            addresses=tuple(filter(None, (endpoint.get("IPAddress"), endpoint.get("GlobalIPv6Address")))),
            mac=endpoint.get("MacAddress") or "",
        )
