"""The Docker engine of this host: what kind it is, and its networks.

It must not be asked anything while it waits for an answer of ours; what it must be known by then is found
out otherwise.
"""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ovn_docker import definition
from ovn_docker.errors import BadRequest, Conflict, Unavailable
from ovn_docker.hostnames import ContainerNames
from ovn_docker.model import (
    ADDRESS_SPACE,
    DRIVER,
    Definition,
    Endpoint,
    EndpointId,
    IpAddress,
    IpNetwork,
    LocalNetwork,
    Network,
    NetworkId,
    Pool,
    PoolId,
    Subnet,
)
from ovn_docker.options import SHARED_NAME, parse

CONFIG = Path("/etc/docker/daemon.json")

OUR_NETWORKS = "/networks?filters=" + quote(json.dumps({"driver": [DRIVER]}))
"""Asks Docker for the networks that have our driver."""


def has_cluster_store(proc: Path = Path("/proc"), config: Path = CONFIG) -> bool:
    """Whether dockerd was started with ``--cluster-store``, which engines before 24 know.

    With it networks of a driver of scope ``global`` are the same on all hosts (dockerd(8), 20.10).
    """
    return bool(dockerd_setting("cluster-store", proc, config))


def dockerd_setting(name: str, proc: Path = Path("/proc"), config: Path = CONFIG) -> list[str]:
    """What a setting of dockerd is, such as ``dns``: by its arguments and its configuration (dockerd(8))."""
    configs, found = {config}, []
    for arguments in _dockerd_arguments(proc):
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
            option, equals, inline = argument.partition("=")
            value = inline if equals else following
            if option == f"--{name}":
                found.append(value)
            if option == "--config-file":
                configs.add(Path(value))
    for settings in map(dockerd_config, sorted(configs)):
        configured = settings.get(name) or []
        found += map(str, configured) if isinstance(configured, list) else [str(configured)]
    return list(filter(None, found))


def _dockerd_arguments(proc: Path) -> list[list[str]]:
    found = []
    try:
        processes = list(proc.glob("[0-9]*"))
    except OSError as error:  # too many files are open
        raise Unavailable(f"cannot look for dockerd in {proc}: {error.strerror}") from None
    for process in processes:
        try:
            if (process / "comm").read_text().strip() == "dockerd":
                found.append((process / "cmdline").read_bytes().decode(errors="replace").split("\0"))
        except OSError:
            continue  # it has ended meanwhile
    return found


def dockerd_config(path: Path = CONFIG) -> dict[str, Any]:
    """The configuration file of dockerd; empty if there is none."""
    try:
        settings = json.loads(path.read_text())
    except (OSError, RecursionError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


class Engine:
    """Docker's API on its Unix socket (docs.docker.com, "Engine API"), without a version: any will do."""

    _TIMEOUT = 30.0
    """Seconds; making a network has Docker ask us."""

    def __init__(self, path: Path, learn: Callable[[str, str], None] = lambda _, __: None) -> None:
        """*learn* is told the IDs of networks and endpoints, and the names of networks and containers."""
        self._path = path
        self._learn = learn

    def networks(self) -> list[LocalNetwork]:
        """The networks of our driver that have a name in the cluster. Raises Unavailable."""
        networks = self._ask("GET", OUR_NETWORKS)
        for network in networks:
            self._learn(network["Id"], network["Name"])
        shared = [
            (network, name)
            for network in networks
            if (name := (network.get("Options") or {}).get(SHARED_NAME))
        ]
        used = self.used() if shared else set()
        return [
            _local(network, name, used=bool(used & {network["Id"], network["Name"]}))
            for network, name in shared
        ]

    def used(self) -> set[str]:
        """IDs and names of the networks to which containers belong, whether they run or not.

        A container that was never started names its networks, but has no IDs of them.
        """
        used = set()
        for container in self._ask("GET", "/containers/json?all=1"):
            networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
            used |= {*networks, *(one.get("NetworkID") or "" for one in networks.values() if one)}
        return used

    def inventory(self) -> tuple[dict[EndpointId, str], set[NetworkId]]:
        """Endpoints of the containers that run, and all networks, whatever their driver is called here.

        Each endpoint comes with its container's name. Raises Unavailable if Docker does not answer, or does
        not list even the networks that it always has: while it stops it leaves out what it cannot read any
        more (moby libnetwork/store.go).
        """
        try:
            containers, networks = self._ask("GET", "/containers/json"), self._ask("GET", "/networks")
            attached = [(one, name) for name, _, one in _attached(containers)]
            if not {"none", "host"} <= {network["Name"] for network in networks}:
                raise Unavailable(f"Docker on {self._path} does not list its networks now")
            return (
                {EndpointId(one["EndpointID"]): name for one, name in attached if one.get("EndpointID")},
                {NetworkId(one["NetworkID"]) for one, _ in attached if one.get("NetworkID")}
                | {NetworkId(network["Id"]) for network in networks},
            )
        except (AttributeError, KeyError, TypeError, Conflict) as error:
            raise Unavailable(f"Docker on {self._path} does not say what it has: {error}") from None

    def described(self) -> tuple[list[Network], list[Endpoint]]:
        """The networks of our driver, and the endpoints of the containers that run, as far as Docker says.

        Raises Unavailable.
        """
        networks, containers = self._ask("GET", OUR_NETWORKS), self._ask("GET", "/containers/json")
        ours = (network for network in networks if network.get("Driver") == DRIVER)
        known = [one for one in map(_network, ours) if one]
        return known, [one for *_, given in _attached(containers) if (one := _endpoint(given))]

    def read(self, path: str) -> Any:
        """Answer to a question that changes nothing, such as ``/version``. Raises Unavailable, Conflict."""
        return self._ask("GET", path)

    def create_network(self, wanted: Definition) -> None:
        """Make a network. Raises Conflict if Docker refuses it, Unavailable if it does not answer."""
        self._ask("POST", "/networks/create", wanted.request)

    def remove_network(self, network: LocalNetwork) -> None:
        """Remove a network. Raises Conflict if containers use it, Unavailable if Docker does not answer."""
        self._ask("DELETE", f"/networks/{network.id}")

    def changed(self) -> Iterator[str]:
        """IDs of containers that may have got names: those that run, then each that does, without end.

        Also of those that are created, removed or disconnected; "" stands for a network.
        Raises Unavailable when Docker goes. Events: docs.docker.com, "Engine API", /events; Docker sends
        ``connect`` when Join is over, before the container's process starts. Whose ``connect`` came before we
        listened, and who was not yet running when we asked, is told by ``start``.
        """
        events = ["connect", "create", "destroy", "disconnect", "rename", "start"]
        filters = quote(json.dumps({"event": events, "type": ["network", "container"]}))
        connection = http.client.HTTPConnection("docker")
        try:
            connection.sock = sock = self._connected()
            connection.request("GET", f"/events?filters={filters}")
            answer = connection.getresponse()
            sock.settimeout(None)
            yield ""  # what changed before we listened
            yield from (container["Id"] for container in self._ask("GET", "/containers/json"))
            while line := answer.readline():
                event = json.loads(line)
                actor = event.get("Actor") or {}
                if event.get("Type") == "network":
                    yield (actor.get("Attributes") or {}).get("container", "")
                else:
                    yield actor.get("ID", "")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"Docker tells nothing more on {self._path}: {error}") from None
        finally:
            connection.close()
        raise Unavailable(f"Docker tells nothing more on {self._path}: it has closed the connection")

    def names(self, container: str) -> dict[EndpointId, ContainerNames]:
        """Endpoints of a running container and its names there; none if it has gone.

        Those that Docker's own resolver knows: the name, the beginning of the ID, aliases, the host name.
        While Docker starts or stops a container it does not answer for it. Raises Unavailable.
        """
        try:
            found = self._ask("GET", f"/containers/{quote(container)}/json")
        except Conflict:
            return {}
        own = (found["Name"].removeprefix("/"), found["Id"][:12])
        hostname, created = (found.get("Config") or {}).get("Hostname") or "", _milliseconds(found)
        networks = found["NetworkSettings"].get("Networks") or {}
        for network, here in networks.items():
            self._learn(here.get("NetworkID") or "", network)
            self._learn(here.get("EndpointID") or "", own[0])
        return {
            EndpointId(here["EndpointID"]): ContainerNames(
                own,
                tuple(
                    name for name in (hostname, *(here.get("DNSNames") or here.get("Aliases") or [])) if name
                ),
                created,
                tuple((here.get("IPAMConfig") or {}).get("LinkLocalIPs") or []),
            )
            for here in networks.values()
            if here.get("EndpointID")
        }

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self._TIMEOUT)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            raise
        return connection

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("docker")
        try:
            connection.sock = self._connected()
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
            answer = json.loads(text) if text.strip() else None
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or error
            raise Unavailable(f"Docker does not answer on {self._path}: {why}") from None
        finally:
            connection.close()
        if response.status == http.HTTPStatus.NOT_FOUND and method == "DELETE":
            return None
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            said = answer.get("message", "") if isinstance(answer, dict) else ""
            raise Conflict(f"Docker says: {said or response.reason}")
        return answer


def _attached(containers: list[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name of a container, of a network, and what Docker says of the endpoint, for each that there is."""
    for container in containers:
        names = container.get("Names") or [container.get("Id", "")[:12]]
        for network, one in ((container.get("NetworkSettings") or {}).get("Networks") or {}).items():
            yield names[0].removeprefix("/"), network, one or {}


def _network(given: dict[str, Any]) -> Network | None:
    """A network as Docker lists it; ``None`` if it has something that the driver does not know."""
    ipam = given.get("IPAM") or {}
    ours = ipam.get("Driver") == ADDRESS_SPACE
    try:
        subnets = tuple(
            Subnet(pool, _gateway(one, pool, ours=ours), ours)
            for one in ipam.get("Config") or []
            if one["Subnet"] not in definition.EVERYTHING
            for pool in [ip_network(one["Subnet"], strict=False)]
        )
        options = parse(given.get("Options") or {})
        return Network(NetworkId(given["Id"]), subnets, bool(given.get("Internal")), options)
    except (BadRequest, KeyError, TypeError, ValueError):
        return None


def _gateway(config: dict[str, Any], pool: IpNetwork, *, ours: bool) -> IpAddress:
    """The gateway of a subnet; the one that IPAM takes if Docker does not say."""
    if text := config.get("Gateway"):
        return ip_interface(text).ip
    part = None if ours or not config.get("IPRange") else ip_network(config["IPRange"], strict=False)
    return Pool(PoolId(""), pool, part).first


def _endpoint(given: dict[str, Any]) -> Endpoint | None:
    """An endpoint as Docker lists it with its container."""
    pairs = (("IPAddress", "IPPrefixLen"), ("GlobalIPv6Address", "GlobalIPv6PrefixLen"))
    try:
        addresses = tuple(
            ip_interface(f"{given[address]}/{given[prefix]}")
            for address, prefix in pairs
            if given.get(address)
        )
        id_, network = EndpointId(given["EndpointID"]), NetworkId(given["NetworkID"])
    except (KeyError, ValueError):
        return None
    return Endpoint(id_, network, addresses, given["MacAddress"]) if id_ and given.get("MacAddress") else None


def _milliseconds(container: dict[str, Any]) -> int:
    """When a container was made, since the epoch; 0 if Docker does not say."""
    try:
        return int(datetime.fromisoformat(container["Created"]).timestamp() * 1000)
    except (KeyError, TypeError, ValueError):
        return 0


def _local(network: dict[str, Any], name: str, *, used: bool) -> LocalNetwork:
    id_ = NetworkId(network["Id"])
    try:
        return LocalNetwork(id_, name, definition.of_docker(network, name), used=used)
    except definition.Refused as refused:
        return LocalNetwork(id_, name, None, refused.refusal, used=used)
