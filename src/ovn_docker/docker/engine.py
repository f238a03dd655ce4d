"""The Docker engine of this host: its API, and the options and configuration file of dockerd.

A handler of a call must not use the API: Docker may hold the lock that the answer needs until the call
returns.
"""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from ovn_docker import definition
from ovn_docker.errors import BadRequest, Conflict, TimedOut, Unavailable
from ovn_docker.events import (
    ContainerConnected,
    ContainerCreated,
    ContainerDisconnected,
    ContainerEvent,
    ContainerRemoved,
    ContainerRenamed,
    ContainerStarted,
    DockerEvent,
    DockerStarted,
    NetworkChanged,
)
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
    Occupied,
    Pool,
    PoolId,
    Subnet,
)
from ovn_docker.options import SHARED_NAME, parse

CONFIG = Path("/etc/docker/daemon.json")

OUR_NETWORKS = "/networks?filters=" + quote(json.dumps({"driver": [DRIVER]}))
"""Path that lists the networks of our driver."""


_CONTAINER_EVENTS = {
    "create": ContainerCreated,
    "destroy": ContainerRemoved,
    "rename": ContainerRenamed,
    "start": ContainerStarted,
}
"""Actions of Docker's events of type ``container``."""


def has_cluster_store(proc: Path = Path("/proc"), config: Path = CONFIG) -> bool:
    """Return whether dockerd was started with ``--cluster-store``, an option of engines before 24.

    With it networks of a driver of scope ``global`` are the same on all hosts (dockerd(8), 20.10).
    """
    return bool(dockerd_setting("cluster-store", proc, config))


def plugin_scope(setting: str) -> Callable[[], Literal["local", "global"]]:
    """Return the answer to Docker's question for the plugin's scope, which it asks once in its life.

    *setting*: ``auto``, ``local`` or ``global``.
    """
    if setting == "auto":
        return lambda: "global" if has_cluster_store() else "local"
    return lambda: "global" if setting == "global" else "local"


def dockerd_setting(name: str, proc: Path = Path("/proc"), config: Path = CONFIG) -> list[str]:
    """Return the values of a setting of dockerd, such as ``dns``, from arguments and configuration file."""
    found = dockerd_argument(name, proc)
    for settings in map(dockerd_config, sorted({config, *map(Path, dockerd_argument("config-file", proc))})):
        configured = settings.get(name) or []
        found += map(str, configured) if isinstance(configured, list) else [str(configured)]
    return list(filter(None, found))


def dockerd_argument(name: str, proc: Path = Path("/proc")) -> list[str]:
    """Return the values that dockerd's arguments have for an option; empty while it does not run."""
    return [
        inline if equals else following
        for arguments in dockerds(proc).values()
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True)
        for option, equals, inline in [argument.partition("=")]
        if option == f"--{name}"
    ]


def dockerds(proc: Path = Path("/proc")) -> dict[int, list[str]]:
    """Return the arguments of root's dockerd, by process; those of containers and users may be anything."""
    found = {}
    try:
        processes = list(proc.glob("[0-9]*"))
    except OSError as error:  # too many files are open
        raise Unavailable(f"cannot look for dockerd in {proc}: {error.strerror}") from None
    for process in processes:
        try:
            if (process / "comm").read_text().strip() == "dockerd" and _is_roots(process):
                arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found[int(process.name)] = arguments
        except OSError:
            continue  # it has ended meanwhile
    return found


def _is_roots(process: Path) -> bool:
    """Return whether root started a process, outside of containers (proc(5), status: Uid and NSpid).

    The real user ID counts: any user can start a set-user-ID program under the name dockerd.
    """
    lines = (process / "status").read_text(errors="replace").splitlines()
    fields = {name: values.split() for name, _, values in (line.partition(":") for line in lines)}
    return fields.get("Uid", [])[:1] == ["0"] and len(fields.get("NSpid", [])) <= 1


def dockerd_config(path: Path = CONFIG) -> dict[str, Any]:
    """Return the configuration file of dockerd; empty if it is missing or invalid."""
    try:
        settings = json.loads(path.read_text())
    except (OSError, RecursionError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


class DockerEngine:
    """Docker's API on its Unix socket (docs.docker.com, "Engine API"), without a version: any will do."""

    _TIMEOUT = 30.0
    """Time limit of a request in seconds: Docker calls this driver while it creates a network."""

    def __init__(self, path: Path, learn: Callable[[str, str], None] = lambda _, __: None) -> None:
        """*learn* is called with the ID and name of each network, and of each endpoint's container."""
        self._path = path
        self._learn = learn

    def networks(self) -> list[LocalNetwork]:
        """Return the shared networks of this host. Raises Unavailable."""
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

    def subnets(self) -> list[Occupied]:
        """Return the subnets of networks of other drivers. Raises Unavailable."""
        return [
            Occupied(subnet, network["Name"])
            for network in self._ask("GET", "/networks")
            if network.get("Driver") != DRIVER
            for pool in (network.get("IPAM") or {}).get("Config") or []
            if (subnet := _subnet(pool.get("Subnet"))) is not None
        ]

    def used(self) -> set[str]:
        """Return IDs and names of the networks that have containers, running or not.

        A container that was never started has the names of its networks, without IDs.
        """
        used = set()
        for container in self._ask("GET", "/containers/json?all=1"):
            networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
            used |= {*networks, *(one.get("NetworkID") or "" for one in networks.values() if one)}
        return used

    def running(self) -> list[str]:
        """Return the names of the running containers. Raises Unavailable."""
        return sorted(
            (container.get("Names") or [container["Id"][:12]])[0].removeprefix("/")
            for container in self._ask("GET", "/containers/json")
        )

    def keeps_containers(self) -> bool:
        """Return whether containers run on while dockerd does not (its setting live-restore)."""
        return bool(self._ask("GET", "/info").get("LiveRestoreEnabled"))

    def inventory(self) -> tuple[dict[EndpointId, str], set[NetworkId]]:
        """Return the endpoints of running containers with the containers' names, and all networks.

        All networks are returned, whatever their driver, since the plugin may have another name on this host.
        Raises Unavailable if Docker does not answer, or omits a network that every Docker has: while Docker
        stops, it omits networks that it cannot read any more (moby libnetwork/store.go).
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
            raise Unavailable(
                f"Docker on {self._path} sent an invalid list of containers or networks: {error}"
            ) from None

    def described(self) -> tuple[list[Network], list[Endpoint]]:
        """Return the networks of our driver and the endpoints of running containers. Raises Unavailable.

        Those that Docker describes incompletely are left out.
        """
        networks, containers = self._ask("GET", OUR_NETWORKS), self._ask("GET", "/containers/json")
        ours = (network for network in networks if network.get("Driver") == DRIVER)
        known = [one for one in map(_network, ours) if one]
        return known, [one for *_, given in _attached(containers) if (one := _endpoint(given))]

    def read(self, path: str) -> Any:
        """Return the answer to a GET request, such as ``/version``. Raises Unavailable, Conflict."""
        return self._ask("GET", path)

    def create_network(self, wanted: Definition) -> NetworkId:
        """Create a network. Raises Conflict if Docker refuses it, Unavailable if Docker does not answer."""
        answer = self._ask("POST", "/networks/create", wanted.request)
        return NetworkId(str(answer.get("Id", ""))) if isinstance(answer, dict) else NetworkId("")

    def remove_network(self, network: LocalNetwork) -> None:
        """Remove a network. Raises Conflict if containers use it, Unavailable if Docker does not answer."""
        self._ask("DELETE", f"/networks/{network.id}")

    def events(self) -> Iterator[DockerEvent]:
        """Yield `DockerStarted`, the containers that run, then every change without end.

        Raises Unavailable when Docker ends. Events: docs.docker.com, "Engine API", /events. Docker sends
        ``connect`` after Join, before the container's process starts. ``start`` is read as well: for a
        container whose ``connect`` came before the stream was open and that was not listed as running yet.
        """
        wanted = ["connect", "create", "destroy", "disconnect", "rename", "start"]
        filters = quote(json.dumps({"event": wanted, "type": ["network", "container"]}))
        connection = http.client.HTTPConnection("docker")
        try:
            connection.sock = sock = self._connected()
            connection.request("GET", f"/events?filters={filters}")
            answer = connection.getresponse()
            sock.settimeout(None)
            yield DockerStarted()
            yield from (
                ContainerStarted(container["Id"]) for container in self._ask("GET", "/containers/json")
            )
            while line := answer.readline():
                yield _event(json.loads(line))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"Docker sends no more events on {self._path}: {error}") from None
        finally:
            connection.close()
        raise Unavailable(f"Docker sends no more events on {self._path}: it has closed the connection")

    def names(self, container: str, seconds: float = _TIMEOUT) -> dict[EndpointId, ContainerNames]:
        """Return the endpoints of a running container with its names; empty if the container has gone.

        The names are those of Docker's own resolver: name, beginning of the ID, aliases, host name. While
        Docker starts or stops a container, it answers no request about it. Raises Unavailable, TimedOut.
        """
        try:
            found = self._ask("GET", f"/containers/{quote(container)}/json", seconds=seconds)
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

    def _connected(self, seconds: float = _TIMEOUT) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            raise
        return connection

    def _ask(self, method: str, path: str, body: object = None, *, seconds: float = _TIMEOUT) -> Any:
        connection = http.client.HTTPConnection("docker")
        try:
            connection.sock = self._connected(seconds)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
            answer = json.loads(text) if text.strip() else None
        except TimeoutError:
            raise TimedOut(f"Docker does not answer on {self._path} within {seconds:g} s") from None
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
    """Yield the name of the container, the name of the network and Docker's data of each endpoint."""
    for container in containers:
        names = container.get("Names") or [container.get("Id", "")[:12]]
        for network, one in ((container.get("NetworkSettings") or {}).get("Networks") or {}).items():
            yield names[0].removeprefix("/"), network, one or {}


def _event(sent: dict[str, Any]) -> DockerEvent:
    """Return the event that a line of /events stands for."""
    actor = sent.get("Actor") or {}
    subject, attributes, action = actor.get("ID", ""), actor.get("Attributes") or {}, sent.get("Action", "")
    if sent.get("Type") != "network":
        return _CONTAINER_EVENTS.get(action, ContainerEvent)(subject)
    container = attributes.get("container", "")
    if action == "disconnect" and container:
        return ContainerDisconnected(container, subject)
    return ContainerConnected(container, subject) if container else NetworkChanged(subject)


def _network(given: dict[str, Any]) -> Network | None:
    """Return a network that Docker lists; ``None`` if it has options that the driver does not know."""
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
    """Return the gateway of a subnet; if Docker does not list it, the address that IPAM uses by default."""
    if text := config.get("Gateway"):
        return ip_interface(text).ip
    part = None if ours or not config.get("IPRange") else ip_network(config["IPRange"], strict=False)
    return Pool(PoolId(""), pool, part).first


def _endpoint(given: dict[str, Any]) -> Endpoint | None:
    """Return an endpoint that Docker lists with its container; ``None`` if its data are incomplete."""
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


def _subnet(text: str | None) -> IpNetwork | None:
    """Return a subnet; ``None`` for an IPAM driver without subnets."""
    try:
        return ip_network(text or "", strict=False)
    except ValueError:
        return None


def _milliseconds(container: dict[str, Any]) -> int:
    """Return when a container was created, since the epoch; 0 if Docker does not send it."""
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
