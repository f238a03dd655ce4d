"""One of the drivers under comparison: calls of Docker's API, and records of their results."""

import json
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from ipaddress import IPv4Network
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

from e2e.lab import CommandError, Host

Json = Any

BUILT_IN = {"bridge", "host", "none", "docker_gwbridge"}
"""Networks that Docker has or makes by itself."""

PASSING = {
    *("Id", "ID", "Created", "EndpointID", "NetworkID", "SandboxID", "SandboxKey", "Status"),
    *("Driver", "DriverOpts", "Options"),
}
"""Members that differ from network to network, or that a scenario compares by name."""


class Refused(Exception):
    """An error that Docker returned."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


class Api:
    """Docker's API on a host, in the newest version that the engine has."""

    def __init__(self, host: Host) -> None:
        self._socket = str(host.path("/run/docker.sock"))

    def __call__(self, method: str, path: str, body: Json = None, **query: Json) -> Json:
        """Return the decoded answer, or raise Refused."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(90)
            connection.connect(self._socket)
            http = HTTPConnection("docker")
            http.sock = connection
            text = {
                key: value if isinstance(value, str) else json.dumps(value) for key, value in query.items()
            }
            http.request(
                method,
                f"{quote(path)}?{urlencode(text)}",
                None if body is None else json.dumps(body),
                {} if body is None else {"Content-Type": "application/json"},
            )
            reply = http.getresponse()
            said = reply.read().decode()
        lines = [json.loads(line) for line in said.splitlines() if line]
        if reply.status >= 400:
            raise Refused(reply.status, lines[0]["message"])
        return lines if path == "/events" else lines[0] if lines else None


@dataclass(frozen=True)
class Driver:
    """A driver of networks with a driver of addresses."""

    name: str
    ipam: str = "default"

    def __str__(self) -> str:
        return f"{self.name} with addresses of {self.ipam}"


class Side:
    """A driver in one scenario; at the end its containers and networks are removed.

    *seen*: the results to compare, by label; *fresh_subnets*: subnets that no network had before.
    """

    def __init__(self, host: Host, driver: Driver, subnets: Iterator[IPv4Network]) -> None:
        self.host, self.driver, self.api = host, driver, Api(host)
        self.seen: dict[str, Json] = {}
        self.fresh_subnets = subnets

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for container in self.api("GET", "/containers/json", all=1):
            self.api("DELETE", f"/containers/{container['Id']}", force=1)
        for network in self.networks():
            self.api("DELETE", f"/networks/{network['Id']}")

    def see(self, label: str, value: Json) -> None:
        """Record a result to compare."""
        assert label not in self.seen
        self.seen[label] = value

    def refusal(self, label: str, method: str, path: str, body: Json = None, **query: Json) -> None:
        """Record whether a call is refused: the HTTP status of the error, or 0."""
        try:
            self.api(method, path, body, **query)
        except Refused as refused:
            self.see(label, refused.status)
        else:
            self.see(label, 0)

    # Networks

    def network(self, name: str, *pools: Mapping[str, Json], **members: Json) -> str:
        """Create a network of this driver; return its ID."""
        return str(self.api("POST", "/networks/create", self.wanted(name, *pools, **members))["Id"])

    def wanted(self, name: str, *pools: Mapping[str, Json], **members: Json) -> Json:
        """Return the body of `POST /networks/create`; pools are `Subnet=..., IPRange=...`."""
        ipam = {"Driver": self.driver.ipam, "Config": list(pools)}
        return {"Name": name, "Driver": self.driver.name, "CheckDuplicate": True, "IPAM": ipam} | members

    def networks(self, **filters: list[str]) -> Json:
        """Return the networks, except those that Docker has by itself."""
        listed = self.api("GET", "/networks", filters=filters)
        return [network for network in listed if network["Name"] not in BUILT_IN]

    def inspect(self, network: str) -> Json:
        """Return a network as Docker shows it."""
        return self.api("GET", f"/networks/{network}")

    def remove(self, network: str) -> None:
        """Remove a network."""
        self.api("DELETE", f"/networks/{network}")

    # Containers

    def create(self, name: str, network: str, endpoint: Json = None, **members: Json) -> str:
        """Create a container on a network; return its ID."""
        container = self.contained(network, endpoint, **members)
        return str(self.api("POST", "/containers/create", container, name=name)["Id"])

    def contained(self, network: str, endpoint: Json = None, **members: Json) -> Json:
        """Return the body of `POST /containers/create`; members of HostConfig are in `HostConfig`."""
        config = {"NetworkMode": network} | members.pop("HostConfig", {})
        networking = {"EndpointsConfig": {network: endpoint or {}}}
        made = {"Image": "busybox", "Cmd": ["sleep", "3600"], "StopSignal": "KILL"}
        return made | {"HostConfig": config, "NetworkingConfig": networking} | members

    def start(self, name: str) -> None:
        """Start a container."""
        self.api("POST", f"/containers/{name}/start")

    def stop(self, name: str) -> None:
        """Stop a container."""
        self.api("POST", f"/containers/{name}/stop", t=5)

    def run(self, name: str, network: str, endpoint: Json = None, **members: Json) -> str:
        """Create and start a container on a network; return its ID."""
        identity = self.create(name, network, endpoint, **members)
        self.start(name)
        return identity

    def attempt(self, name: str, network: str, endpoint: Json) -> str:
        """Create, start and remove a container; return its address, or the failed call and its status."""
        call = "create"
        try:
            self.create(name, network, endpoint)
            call = "start"
            self.start(name)
            return self.address(name, network)
        except Refused as refused:
            return f"{call}: {refused.status}"
        finally:
            if call == "start":
                self.api("DELETE", f"/containers/{name}", force=1)

    def connect(self, network: str, container: str, endpoint: Json = None) -> None:
        """Connect a container with a network."""
        self.api(
            "POST", f"/networks/{network}/connect", {"Container": container, "EndpointConfig": endpoint or {}}
        )

    def disconnect(self, network: str, container: str, *, force: bool = False) -> None:
        """Disconnect a container from a network."""
        self.api("POST", f"/networks/{network}/disconnect", {"Container": container, "Force": force})

    def container(self, name: str) -> Json:
        """Return a container as Docker shows it."""
        return self.api("GET", f"/containers/{name}/json")

    def endpoint(self, container: str, network: str) -> Json:
        """Return a container's endpoint on a network as Docker shows it."""
        return self.container(container)["NetworkSettings"]["Networks"][network]

    def address(self, container: str, network: str) -> str:
        """Return a container's IPv4 address on a network."""
        return str(self.endpoint(container, network)["IPAddress"])

    def exec(self, container: str, *argv: str) -> str:
        """Return the output of a command in a container."""
        return self.host.docker("exec", container, *argv)

    def reaches(self, container: str, *targets: str) -> list[str]:
        """Return the addresses and names that answer a container's echo request."""
        ping = "ping -c 1 -W $wait $i >/dev/null 2>&1"
        script = f"for i; do {{ for wait in 1 2; do {ping} && echo $i && break; done; }} & done; wait"
        answered = self.exec(container, "sh", "-c", script, "sh", *targets).split()
        return [target for target in targets if target in answered]

    def serves(self, address: str, container: str = "") -> bool:
        """Return whether a web server on port 8080 of an address soon answers the host or a container."""
        ask = f"busybox wget -T 2 -O- http://{address}:8080/none 2>&1 | grep -q 404"
        script = f"for i in $(seq 20); do if {ask}; then echo yes; break; fi; sleep 0.2; done"
        argv = ("sh", "-c", script)
        return "yes" in (self.exec(container, *argv) if container else self.host.run(*argv))

    def fails(self, container: str, *argv: str) -> str:
        """Return the output of a command that fails in a container."""
        try:
            said = self.exec(container, *argv)
        except CommandError as error:
            return f"{error.stdout}\n{error.stderr}".strip()
        raise AssertionError(f"{argv} did not fail: {said}")


def plain(value: Json, *without: str) -> Json:
    """Return a value of Docker's API without `VOLATILE` members, generated IDs and MACs."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in PASSING and key not in without}
        return {_plain_text(key): plain(item, *without) for key, item in kept.items()}
    if isinstance(value, list):
        return [plain(item, *without) for item in value]
    return _plain_text(value) if isinstance(value, str) else value


def _plain_text(text: str) -> str:
    return re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{12})\b", "ID", text)
