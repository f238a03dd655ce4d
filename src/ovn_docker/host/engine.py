"""The Docker engine of this host: what kind it is, and its networks.

It must not be asked anything while it waits for an answer of ours; what it must be known by then is found
out otherwise.
"""

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ovn_docker.errors import Conflict, Unavailable
from ovn_docker.model import LocalNetwork, NetworkId
from ovn_docker.options import SHARED_NAME

_CONFIG = Path("/etc/docker/daemon.json")


def has_cluster_store(proc: Path = Path("/proc"), config: Path = _CONFIG) -> bool:
    """Whether dockerd was started with ``--cluster-store``, which engines before 24 know.

    With it networks of a driver of scope ``global`` are the same on all hosts (dockerd(8), 20.10).
    """
    configs = {config}
    for arguments in _dockerd_arguments(proc):
        for argument, value in zip(arguments, [*arguments[1:], ""], strict=True):
            name, _, inline = argument.partition("=")
            if name == "--cluster-store":
                return True
            if name == "--config-file":
                configs.add(Path(inline or value))
    return any("cluster-store" in _settings(path) for path in configs)


def _dockerd_arguments(proc: Path) -> list[list[str]]:
    found = []
    for process in proc.glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "dockerd":
                found.append((process / "cmdline").read_bytes().decode(errors="replace").split("\0"))
        except OSError:
            continue  # it has ended meanwhile
    return found


def _settings(path: Path) -> dict[str, object]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


class Engine:
    """Docker's API on its Unix socket (docs.docker.com, "Engine API"), without a version: any will do."""

    _TIMEOUT = 30.0
    """Seconds; making a network has Docker ask us."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def networks(self) -> list[LocalNetwork]:
        """The networks of our driver that have a name in the cluster. Raises Unavailable."""
        filters = quote(json.dumps({"driver": ["openvswitch"]}))
        return [
            LocalNetwork(NetworkId(network["Id"]), name, _definition(network))
            for network in self._ask("GET", f"/networks?filters={filters}")
            if (name := (network.get("Options") or {}).get(SHARED_NAME))
        ]

    def read(self, path: str) -> Any:
        """Answer to a question that changes nothing, such as ``/version``. Raises Unavailable, Conflict."""
        return self._ask("GET", path)

    def create_network(self, definition: dict[str, object]) -> None:
        """Make a network. Raises Conflict if Docker does not want it, Unavailable if it does not answer."""
        self._ask("POST", "/networks/create", definition)

    def remove_network(self, network: LocalNetwork) -> None:
        """Remove a network. Raises Conflict if containers use it, Unavailable if Docker does not answer."""
        self._ask("DELETE", f"/networks/{network.id}")

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("docker")
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(self._TIMEOUT)
            connection.sock.connect(str(self._path))
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
            answer = json.loads(text) if text.strip() else None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"Docker does not answer on {self._path}: {error}") from None
        finally:
            connection.close()
        if response.status == http.HTTPStatus.NOT_FOUND and method == "DELETE":
            return None
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            said = answer.get("message", "") if isinstance(answer, dict) else ""
            raise Conflict(f"Docker says: {said or response.reason}")
        return answer


def _definition(network: dict[str, Any]) -> dict[str, object]:
    """The body of ``POST /networks/create`` that makes the same network on another host."""
    same = ("Name", "Driver", "Internal", "Attachable", "EnableIPv4", "EnableIPv6", "Options", "Labels")
    ipam = network.get("IPAM") or {}
    return {
        **{key: network[key] for key in same if key in network},
        "IPAM": {key: ipam.get(key) for key in ("Driver", "Options", "Config")},
        "CheckDuplicate": True,
    }
