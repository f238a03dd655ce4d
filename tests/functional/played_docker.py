"""A simulated dockerd with an API: it makes the calls of real commands, and undoes failed ones.

Sources: recordings (tests/recordings), and moby's daemon/libnetwork and pkg/plugins/client.go.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from functional.docker_api import Api
from functional.hosts import Container
from functional.overlay_host import ask
from ovn_docker.model import container_link
from ovn_docker.options import DOCKER

IPAM_SPACE = "openvswitch"


class Failed(Exception):
    """A command of the user failed with this message."""


class Dead(Exception):
    """Docker died with the driver in the middle of a command."""


@dataclass
class Kind:
    """A kind of network: the user's options."""

    options: dict[str, str] = field(default_factory=dict)
    own_addresses: bool = False
    """The network has --ipam-driver openvswitch."""
    swarm: bool = False
    """A manager of a swarm allocates the network first."""
    of_endpoint: dict[str, str] = field(default_factory=dict)
    """Options of the container's attachment (--driver-opt)."""


class Docker:
    """Docker of a host, with one network of a kind and one container.

    *driver*: the plugin's socket. *revive* starts a driver when one has died. *mortal*: Docker dies with the
    driver, as when the power fails, and remembers what it had finished.
    """

    SANDBOX = "/var/run/docker/netns/0123456789ab"
    SUBNET, GATEWAY, ADDRESS = "192.168.1.0/24", "192.168.1.1", "192.168.1.20/24"
    _ids = itertools.count(1)

    def __init__(self, driver: Path, api: Path, kind: Kind, revive: Callable[[], None]) -> None:
        self._driver = driver
        self._kind = kind
        self._revive = revive
        self.mortal = False
        self._network, self._pool, self._allocated = "", "", ""
        self._endpoint, self._address = "", ""
        self._container: Container | None = None
        self._server = Api(api, self.answer)

    def close(self) -> None:
        """End Docker and its container."""
        self._end_container()
        self._server.close()

    def answer(self, path: str) -> Any:
        """Return the answer of Docker's API at a path."""
        if path.startswith("/containers/json"):
            endpoint = {"NetworkID": self._network, "EndpointID": self._endpoint}
            one = {"Id": "c", "NetworkSettings": {"Networks": {"foo": endpoint}}}
            return [one] if self._container else []
        if path.startswith("/networks"):
            ours = [{"Name": "foo", "Id": self._network}] if self._network and "filters" not in path else []
            return [*({"Name": name, "Id": name} for name in ("none", "host")), *ours]
        return None

    # Commands of the user

    def network_create(self) -> None:
        if self._network:
            return
        id_ = self._allocated or self._new_id()  # swarm's manager repeats the call with the same ID
        with self._fails_as_docker_does():
            space, pool = "LocalDefault", ""
            if self._kind.swarm:
                self._allocated = id_
                data, options = self._data(space), self._kind.options
                self._call("NetworkDriver.AllocateNetwork", NetworkID=id_, IPv4Data=data, Options=options)
            if self._kind.own_addresses:
                space = IPAM_SPACE
                asked = {
                    "AddressSpace": space,
                    "Pool": self.SUBNET,
                    "SubPool": "",
                    "Options": {},
                    "V6": False,
                }
                pool = self._call("IpamDriver.RequestPool", **asked)["PoolID"]
                with self._undone("IpamDriver.ReleasePool", PoolID=pool):
                    self._call("IpamDriver.RequestAddress", PoolID=pool, Address=self.GATEWAY,
                               Options={"RequestAddressType": DOCKER + "gateway"})  # fmt: skip
                    with self._undone("IpamDriver.ReleaseAddress", PoolID=pool, Address=self.GATEWAY):
                        self._create(id_, space)
            else:
                self._create(id_, space)
        self._network, self._pool = id_, pool

    def network_rm(self) -> None:
        """Remove the network; Docker forgets it also if the driver fails."""
        network, pool = self._network, self._pool
        with self._fails_as_docker_does():
            if network:
                self._call_and_log("IpamDriver.ReleaseAddress", PoolID=pool, Address=self.GATEWAY)
                self._call_and_log("IpamDriver.ReleasePool", PoolID=pool)
                self._call_and_log("NetworkDriver.DeleteNetwork", NetworkID=network)
                self._network = self._pool = ""
            if self._allocated:
                self._call("NetworkDriver.FreeNetwork", NetworkID=self._allocated)
                self._allocated = ""

    def run(self) -> None:
        if self._container:
            return
        endpoint = self._new_id()
        ids = {"NetworkID": self._network, "EndpointID": endpoint}
        with self._fails_as_docker_does():
            address, pool = self.ADDRESS, self._pool
            if pool:
                asked = {"PoolID": pool, "Address": "", "Options": {}}
                address = self._call("IpamDriver.RequestAddress", **asked)["Address"]
            bare = address.partition("/")[0]
            with self._undone("IpamDriver.ReleaseAddress", PoolID=pool, Address=bare):
                given = {"Options": self._kind.of_endpoint, "Interface": {"Address": address}}
                self._call("NetworkDriver.CreateEndpoint", **ids, **given)
                with (
                    self._undone("NetworkDriver.DeleteEndpoint", **ids),
                    self._undone("NetworkDriver.Leave", **ids),
                ):
                    self._call("NetworkDriver.Join", **ids, Options={}, SandboxKey=self.SANDBOX)
        self._container = Container()
        self._container.move_in(container_link(endpoint))  # type: ignore[arg-type]
        self._endpoint, self._address = endpoint, bare

    def rm(self) -> None:
        """Remove the container; Docker forgets it also if the driver fails."""
        if not self._endpoint:
            return
        ids = {"NetworkID": self._network, "EndpointID": self._endpoint}
        address = self._address
        self._end_container()
        with self._fails_as_docker_does():
            self._call_and_log("NetworkDriver.Leave", **ids)
            self._call_and_log("NetworkDriver.DeleteEndpoint", **ids)
            self._call_and_log("IpamDriver.ReleaseAddress", PoolID=self._pool, Address=address)

    # Calls to the driver

    def _create(self, id_: str, space: str) -> None:
        generic = {} if self._kind.swarm else self._kind.options
        self._call("NetworkDriver.CreateNetwork", NetworkID=id_, IPv4Data=self._data(space), IPv6Data=[],
                   Options={DOCKER + "enable_ipv6": False, DOCKER + "generic": generic})  # fmt: skip

    def _data(self, space: str) -> list[dict[str, Any]]:
        gateway = f"{self.GATEWAY}/24"
        return [{"AddressSpace": space, "AuxAddresses": {}, "Gateway": gateway, "Pool": self.SUBNET}]

    def _call(self, method: str, **request: Any) -> dict[str, Any]:
        try:
            _, answer = ask(self._driver, method, request)
        except (OSError, ValueError):
            self._revive()
            if self.mortal:
                raise Dead from None
            _, answer = ask(self._driver, method, b"")  # Docker repeats a call with an empty body
        if "Err" in answer:
            raise Failed(f"{method}: {answer['Err']}")
        return answer

    def _call_and_log(self, method: str, **request: Any) -> None:
        """Make a call whose error Docker only logs."""
        if request.get("PoolID") == "":
            return
        with suppress(Failed):
            self._call(method, **request)

    @contextmanager
    def _undone(self, method: str, **request: Any) -> Iterator[None]:
        """Undo with a call, as Docker does, if the block fails."""
        try:
            yield
        except Failed:
            self._call_and_log(method, **request)
            raise

    @contextmanager
    def _fails_as_docker_does(self) -> Iterator[None]:
        try:
            yield
        except Dead:
            self._end_container()
            raise Failed("Docker has died") from None

    def _end_container(self) -> None:
        """End the container's process; its end of the link is deleted with its network namespace."""
        if self._container:
            self._container.die()
        self._container, self._endpoint, self._address = None, "", ""

    def _new_id(self) -> str:
        return f"{next(self._ids):04x}" * 16
