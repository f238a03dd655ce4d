"""Docker's part of the plugin protocol: the calls of an endpoint's life, as dockerd makes them."""

import http.client
import json
import socket
from typing import Any

CALLS = ("CreateEndpoint", "Join", "EndpointOperInfo", "Leave", "DeleteEndpoint")


class Plugin:
    """A connection to a network driver at *address*: the path of a Unix socket, or ``HOST:PORT``.

    As dockerd's, it is kept open between calls. Not for several threads at once.
    """

    def __init__(self, address: str) -> None:
        if address.startswith("/"):
            self._connection: http.client.HTTPConnection = UnixConnection(address)
        else:
            self._connection = http.client.HTTPConnection(address, timeout=60)

    def call(self, method: str, *, driver: str = "NetworkDriver", **request: Any) -> dict[str, Any]:
        """The answer to ``DRIVER.METHOD``. Raises RuntimeError if it is an error."""
        headers = {"Content-Type": "application/json", "Accept": "application/vnd.docker.plugins.v1.2+json"}
        self._connection.request("POST", f"/{driver}.{method}", json.dumps(request).encode(), headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{method}: HTTP {response.status}: {body[:200]!r}")
        answer: dict[str, Any] = json.loads(body)
        if answer.get("Err"):
            raise RuntimeError(f"{method}: {answer['Err']}")
        return answer

    def create_network(self, network: str, subnet: str, gateway: str) -> None:
        """As ``docker network create --subnet`` asks for it."""
        pool = {"AddressSpace": "LocalDefault", "Pool": subnet, "Gateway": gateway, "AuxAddresses": None}
        self.call("CreateNetwork", NetworkID=network, Options={}, IPv4Data=[pool], IPv6Data=[])

    def endpoint_call(self, method: str, network: str, endpoint: str, address: str) -> dict[str, Any]:
        """One of `CALLS`, with what Docker sends along."""
        request: dict[str, Any] = {"NetworkID": network, "EndpointID": endpoint}
        if method == "CreateEndpoint":
            request["Interface"] = {"Address": address, "AddressIPv6": "", "MacAddress": ""}
            request["Options"] = {"com.docker.network.endpoint.exposedports": [],
                                  "com.docker.network.portmap": []}  # fmt: skip
        elif method == "Join":
            request |= {"SandboxKey": f"/var/run/docker/netns/{endpoint[:12]}", "Options": {}}
        return self.call(method, **request)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("plugin", timeout=60)
        self._path = path

    def connect(self) -> None:
        """What the base class calls."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
