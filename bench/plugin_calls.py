"""Docker's part of the plugin protocol: the calls of an endpoint's life, as dockerd makes them."""

import http.client
import json
import socket
from typing import Any

CALLS = ("CreateEndpoint", "Join", "EndpointOperInfo", "Leave", "DeleteEndpoint")


class Plugin:
    """A connection to a network driver at *address*: the path of a Unix socket, or ``HOST:PORT``.

    Like dockerd's, it is kept open between calls. Not safe for several threads.
    """

    def __init__(self, address: str) -> None:
        if address.startswith("/"):
            self._connection: http.client.HTTPConnection = UnixConnection(address)
        else:
            self._connection = http.client.HTTPConnection(address, timeout=60)

    def call(self, method: str, *, driver: str = "NetworkDriver", **request: Any) -> dict[str, Any]:
        """Return the reply to ``DRIVER.METHOD``. Raises RuntimeError if it is an error."""
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

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def create_network(self, network: str, subnet: str, gateway: str) -> None:
        """Create a network as ``docker network create --subnet`` does."""
        pool = {"AddressSpace": "LocalDefault", "Pool": subnet, "Gateway": gateway, "AuxAddresses": None}
        self.call("CreateNetwork", NetworkID=network, Options={}, IPv4Data=[pool], IPv6Data=[])

    def endpoint_call(self, method: str, network: str, endpoint: str, address: str) -> dict[str, Any]:
        """Make one of `CALLS`, with the arguments that Docker sends."""
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
        """Connect; called by the base class."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
