"""Docker's part of the soak on a host: ``python -m bench.soak_docker``. Commands and answers: JSON lines.

dockerd takes most of the time of a container's life, so it is played: it lists networks and containers, sends
events, and makes the calls of ``docker network create``, ``run`` and ``rm`` as dockerd does. The driver, Open
vSwitch and OVN are real.
"""

import http.server
import json
import secrets
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from bench.floor import Ovsdb
from bench.plugin_calls import Plugin
from functional.hosts import Container
from ovn_docker.backends.ovn.rows import names_row
from ovn_docker.host.ovsdb import is_row, select
from ovn_docker.model import ADDRESS_SPACE, DRIVER, EndpointId
from ovn_docker.options import DOCKER, SHARED_NAME

API = Path("/run/soak-docker.sock")
MOVED, NAMED = 4, 2
"""Every fourth life has its link moved into a container and pings; every second waits for its names."""

ALIASES = 50
"""Names that containers share, as those of a service: some starts find theirs in use."""

PATIENCE = 30.0
"""Seconds that names may take, on a busy machine."""


@dataclass
class Running:
    """A container that runs, on one network."""

    id: str
    name: str
    alias: str
    network: str
    endpoint: str
    address: str = ""
    mac: str = ""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    def described(self, network: str) -> dict[str, Any]:
        """Return the answers of Docker's API about it, in one; *network*: the name of its network."""
        address, _, prefix = self.address.partition("/")
        attached = {
            "NetworkID": self.network, "EndpointID": self.endpoint, "Aliases": [self.alias, self.id[:12]],
            "IPAddress": address, "IPPrefixLen": int(prefix), "MacAddress": self.mac, "IPAMConfig": None,
        }  # fmt: skip
        return {
            "Id": self.id, "Name": f"/{self.name}", "Names": [f"/{self.name}"], "Created": self.created,
            "Config": {"Hostname": self.id[:12]}, "NetworkSettings": {"Networks": {network: attached}},
        }  # fmt: skip


class PlayedDocker:
    """Networks and containers of a host, Docker's API on them, and the calls to the driver."""

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._networks: dict[str, dict[str, Any]] = {}
        self._pools: dict[str, tuple[str, str]] = {}
        """For each network the ID of its pool, and its gateway."""
        self._containers: dict[str, Running] = {}
        self._listeners: list[Callable[[bytes], None]] = []
        threading.Thread(target=Api(self).serve_forever, daemon=True).start()

    # Docker's API

    def networks(self) -> list[dict[str, Any]]:
        """Return what ``GET /networks`` answers."""
        with self._lock:
            return [*({"Name": name, "Id": name} for name in ("none", "host")), *self._networks.values()]

    def containers(self) -> list[dict[str, Any]]:
        """Return what ``GET /containers/json`` answers."""
        with self._lock:
            return [self._described(one) for one in self._containers.values()]

    def container(self, id_: str) -> dict[str, Any] | None:
        """Return what ``GET /containers/ID/json`` answers; None for an unknown container."""
        with self._lock:
            one = self._containers.get(id_)
            return self._described(one) if one else None

    @contextmanager
    def listening(self, listener: Callable[[bytes], None]) -> Iterator[None]:
        """Call *listener* with each event."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def create_network(self, wanted: dict[str, Any]) -> str:
        """Make the calls of ``docker network create --ipam-driver openvswitch``; return the network's ID."""
        plugin, id_ = Plugin(self._driver), secrets.token_hex(32)
        (config,) = wanted["IPAM"]["Config"]
        pool = plugin.call(
            "RequestPool", driver="IpamDriver", AddressSpace=ADDRESS_SPACE, Pool=config["Subnet"],
            SubPool=config.get("IPRange", ""), Options={}, V6=False,
        )  # fmt: skip
        kind = {"RequestAddressType": DOCKER + "gateway"}
        gateway = plugin.call(
            "RequestAddress", driver="IpamDriver", PoolID=pool["PoolID"], Options=kind,
            Address=config.get("Gateway", ""),
        )["Address"]  # fmt: skip
        given = {"AddressSpace": ADDRESS_SPACE, "Pool": pool["Pool"], "Gateway": gateway}
        options = {DOCKER + "enable_ipv6": False, DOCKER + "generic": wanted["Options"]}
        plugin.call("CreateNetwork", NetworkID=id_, Options=options, IPv4Data=[given], IPv6Data=[])
        bare = gateway.partition("/")[0]
        ipam = {"Driver": wanted["IPAM"]["Driver"], "Options": {}, "Config": [config | {"Gateway": bare}]}
        with self._lock:
            self._networks[id_] = {**wanted, "Id": id_, "IPAM": ipam}
            self._pools[id_] = pool["PoolID"], bare
        self._publish("network", "create", id_)
        plugin.close()
        return id_

    def remove_network(self, id_: str) -> bool:
        """Make the calls of ``docker network rm``; return whether the network was there."""
        with self._lock:
            if self._networks.pop(id_, None) is None:
                return False
            pool, gateway = self._pools.pop(id_)
        plugin = Plugin(self._driver)
        plugin.call("ReleaseAddress", driver="IpamDriver", PoolID=pool, Address=gateway)
        plugin.call("ReleasePool", driver="IpamDriver", PoolID=pool)
        plugin.call("DeleteNetwork", NetworkID=id_)
        self._publish("network", "destroy", id_)
        plugin.close()
        return True

    # Containers

    def run(self, plugin: Plugin, one: Running) -> str:
        """Make the calls of ``docker run``; return the name of the container's end of the link."""
        pool = self._pools[one.network][0]
        one.address = plugin.call(
            "RequestAddress", driver="IpamDriver", PoolID=pool, Address="", Options=None
        )["Address"]
        made = plugin.endpoint_call("CreateEndpoint", one.network, one.endpoint, one.address)
        one.mac = made["Interface"]["MacAddress"]
        joined = plugin.endpoint_call("Join", one.network, one.endpoint, one.address)
        with self._lock:
            self._containers[one.id] = one
        self._publish("network", "connect", one.network, container=one.id)
        self._publish("container", "start", one.id)
        plugin.endpoint_call("ProgramExternalConnectivity", one.network, one.endpoint, one.address)
        return str(joined["InterfaceName"]["SrcName"])

    def remove(self, plugin: Plugin, one: Running) -> list[str]:
        """Make the calls of ``docker rm --force``, of a container also that did not start.

        Returns the errors of calls, which Docker logs.
        """
        with self._lock:
            self._containers.pop(one.id, None)
        errors = []
        for call in ("RevokeExternalConnectivity", "Leave", "DeleteEndpoint"):
            try:
                plugin.endpoint_call(call, one.network, one.endpoint, one.address)
            except RuntimeError as error:
                errors.append(str(error))
        if one.address:
            pool, address = self._pools[one.network][0], one.address.partition("/")[0]
            try:
                plugin.call("ReleaseAddress", driver="IpamDriver", PoolID=pool, Address=address)
            except RuntimeError as error:
                errors.append(str(error))
        self._publish("network", "disconnect", one.network, container=one.id)
        self._publish("container", "destroy", one.id)
        return errors

    def _described(self, one: Running) -> dict[str, Any]:
        return one.described(self._networks[one.network]["Name"])

    def _publish(self, kind: str, action: str, id_: str, **attributes: str) -> None:
        event = {"Type": kind, "Action": action, "Actor": {"ID": id_, "Attributes": attributes}}
        with self._lock:
            for listener in self._listeners:
                listener(json.dumps(event).encode() + b"\n")


class Api(socketserver.ThreadingUnixStreamServer):
    """Server of Docker's API."""

    daemon_threads = True

    def __init__(self, docker: PlayedDocker) -> None:
        super().__init__(str(API), Request)
        self.docker = docker


class Request(http.server.BaseHTTPRequestHandler):
    """A request of the driver to Docker's API."""

    server: Api
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer what is listed, or send events until the driver closes the connection."""
        path, docker = self.path.partition("?")[0], self.server.docker
        if path == "/events":
            self._send_events()
        elif path == "/networks":
            listed = docker.networks()
            ours = [one for one in listed if one.get("Driver") == DRIVER]
            self._answer(ours if "filters" in self.path else listed)
        elif path == "/containers/json":
            self._answer(docker.containers())
        else:
            self._answer(docker.container(path.split("/")[2]))

    def do_POST(self) -> None:
        """Create a network."""
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer({"Id": self.server.docker.create_network(wanted)})

    def do_DELETE(self) -> None:
        """Remove a network."""
        removed = self.server.docker.remove_network(self.path.rpartition("/")[2])
        self._answer({} if removed else None)

    def _send_events(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def send(event: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

        with self.server.docker.listening(send):
            self.rfile.read(1)

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(404 if value is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """Return the client's name; a Unix socket has none."""
        return "driver"

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Lives:
    """Lives of containers on this host, *in_flight* at the same time."""

    def __init__(self, host: str, driver: str, northbound: str, in_flight: int) -> None:
        self._host = host
        self._driver = driver
        self._northbound = northbound
        self._docker = PlayedDocker(driver)
        self._numbers = count()
        self._residents: list[Container] = []
        self._local = threading.local()
        self._sandboxes = threading.local()
        self._threads = ThreadPoolExecutor(in_flight)
        self._failed: list[str] = []

    def create(self, name: str, subnet: str) -> str:
        """Create a shared network."""
        ipam = {"Driver": ADDRESS_SPACE, "Options": {}, "Config": [{"Subnet": subnet}]}
        same = {"Name": name, "Driver": DRIVER, "Labels": {}}
        return self._docker.create_network({**same, "Options": {SHARED_NAME: name}, "IPAM": ipam})

    def remove(self, name: str) -> None:
        """Remove a network."""
        self._docker.remove_network(self._network(name))

    def has(self, name: str) -> bool:
        """Return whether this host's Docker has a network."""
        return name in {network["Name"] for network in self._docker.networks()}

    def resident(self, name: str) -> str:
        """Start a container that stays, as a peer of the others; return its address."""
        one, sandbox = self._new(name, next(self._numbers)), Container()
        self._attach(sandbox, self._docker.run(self._plugin, one), one.address)
        self._residents.append(sandbox)
        self._await_names(one)
        return one.address.partition("/")[0]

    def lives(self, name: str, number: int, peer: str) -> dict[str, Any]:
        """Live a number of lives, some of which ping *peer*; return the seconds and the failures."""
        start, self._failed = time.monotonic(), []
        self._local = threading.local()  # the driver has closed connections that were idle
        list(self._threads.map(lambda _: self._life(name, peer), range(number)))
        return {"seconds": time.monotonic() - start, "failed": self._failed}

    def _life(self, name: str, peer: str) -> None:
        number = next(self._numbers)
        one = self._new(name, number)
        try:
            link = self._docker.run(self._plugin, one)
            if number % MOVED == 0:
                self._attach(self._sandbox, link, one.address)
                self._ping(peer)
            if number % NAMED == 0:
                self._await_names(one)
            self._plugin.endpoint_call("EndpointOperInfo", one.network, one.endpoint, one.address)
        except Exception as error:  # noqa: BLE001  it is counted
            self._failed.append(f"{one.name}: {error}")
        self._failed += self._docker.remove(self._plugin, one)

    def _new(self, network: str, number: int) -> Running:
        """Return a container that has not been started yet."""
        name, alias = f"{self._host}-{number}", f"service-{number % ALIASES}"
        container, endpoint = secrets.token_hex(32), secrets.token_hex(32)
        return Running(container, name, alias, self._network(network), endpoint)

    def _network(self, name: str) -> str:
        return next(str(one["Id"]) for one in self._docker.networks() if one["Name"] == name)

    def _attach(self, sandbox: Container, link: str, address: str) -> None:
        """Do with the link what Docker does after Join."""
        sandbox.move_in(link)
        lines = f"link set {link} name eth0\naddress add {address} dev eth0\nlink set eth0 up\n"
        enter = ("nsenter", f"--net=/proc/{sandbox.pid}/ns/net", "ip", "-batch", "-")
        subprocess.run(enter, input=lines, text=True, check=True, capture_output=True)

    def _ping(self, peer: str) -> None:
        ping = "for i in 0 1 2 3 4 5 6 7 8 9; do busybox ping -c 1 -W 1 $1 && exit; done; exit 1"
        enter = ("nsenter", f"--net=/proc/{self._sandbox.pid}/ns/net", "sh", "-c", ping, "sh", peer)
        subprocess.run(enter, check=True, capture_output=True)

    def _await_names(self, one: Running) -> None:
        """Wait until the names of a container are in the northbound database."""
        row = is_row(names_row(EndpointId(one.endpoint)))
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                (found,) = self._database.transact(select("DNS", row, columns=["_uuid"]))
            except OSError:  # the server has closed it: nobody answered its probe between two lives
                del self._local.database
                continue
            if found["rows"]:
                return
            time.sleep(0.01)
        raise TimeoutError(f"no names after {PATIENCE:g} s")

    @property
    def _plugin(self) -> Plugin:
        """This thread's connection to the driver."""
        if not hasattr(self._local, "plugin"):
            self._local.plugin = Plugin(self._driver)
        return self._local.plugin  # type: ignore[no-any-return]

    @property
    def _sandbox(self) -> Container:
        """This thread's network namespace, into which links are moved."""
        if not hasattr(self._sandboxes, "sandbox"):
            self._sandboxes.sandbox = Container()
        return self._sandboxes.sandbox  # type: ignore[no-any-return]

    @property
    def _database(self) -> Ovsdb:
        """This thread's connection to the northbound database."""
        if not hasattr(self._local, "database"):
            self._local.database = Ovsdb(self._northbound, "OVN_Northbound")
        return self._local.database  # type: ignore[no-any-return]


def main() -> None:
    """Carry out the commands on standard input until it ends."""
    lives = Lives(**json.loads(sys.stdin.readline()))
    print("{}", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(lives, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
