"""States of a cluster, made by the driver's own code, and the commands that show them.

host1 is real except for dockerd: Open vSwitch, ovn-controller, ovn-northd, all databases, the driver's
daemon, links and network namespaces. host2 has an address that answers and the rows that the driver's code
makes for it; `Host2` writes the rows of its ovn-controller.
"""

import io
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from functional.docker_api import Api
from functional.hosts import HOST2, Container, ip
from functional.overlay_host import Ovn
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, until
from functional.test_daemon import PROGRAM
from ovn_docker import definition
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.shared.container_names import Names
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.cli.main import main
from ovn_docker.core.driver import Driver, TimeLimits
from ovn_docker.core.ipam import Ipam
from ovn_docker.deadline import Deadline
from ovn_docker.doctor import comparison
from ovn_docker.errors import Unavailable
from ovn_docker.host import ovsdb
from ovn_docker.host.driver_socket import find
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.openvswitch import LocalVswitch
from ovn_docker.host.ovsdb import Database
from ovn_docker.hostnames import ContainerNames
from ovn_docker.inspect import gather, probes, sync
from ovn_docker.inspect.machine import Machine
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    IpAddress,
    Network,
    NetworkId,
    PoolId,
    Subnet,
)
from ovn_docker.options import SHARED_NAME, NetworkOptions
from ovn_docker.supply import parse_supplies

LONG = 60.0
"""Seconds that a call may take: ample, because other tests check the time limits."""


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    *shared*: it has a name in the cluster, and host2 has it too; *attached*: it is on a switch of the user's;
    *ours*: its addresses are from our IPAM; *everywhere*: all Dockers share it, by its ID; *kept*: swarm has
    made it; *gone*: host1's user has removed it, and host2 needs it; *removed*: all hosts are removing it.
    """

    shared: bool = False
    attached: bool = False
    internal: bool = False
    ipv6: bool = False
    ours: bool = False
    everywhere: bool = False
    kept: bool = False
    gone: bool = False
    removed: bool = False


@dataclass(frozen=True)
class Wanted:
    """A network: states of its containers on host1, as Docker calls them, and how many run on host2."""

    kind: Kind
    here: tuple[str, ...] = ()
    there: int = 0


@dataclass
class Attached:
    """A container of host1 on a network; *namespace* is ``None`` unless it runs."""

    name: str
    state: str
    network: "Made"
    endpoint: Endpoint | None = None
    namespace: Container | None = None

    @property
    def id(self) -> EndpointId:
        """ID of its endpoint, while it runs."""
        assert self.endpoint
        return self.endpoint.id

    def end(self) -> None:
        """End its processes; Docker does not list it any more."""
        assert self.namespace
        self.namespace.die()
        self.state, self.namespace = "", None


@dataclass
class Made:
    """A network that has been made; *pools*: host to its pools, IPv4 first."""

    name: str
    kind: Kind
    network: Network
    listed: bool = True
    containers: list[Attached] = field(default_factory=list)
    pools: dict[str, list[PoolId]] = field(default_factory=dict)


class Host2:
    """Writes the rows of host2's ovn-controller to the southbound database, unless *cut_off*."""

    def __init__(self, northbound: OvsdbServer, southbound: OvsdbServer) -> None:
        self.cut_off = False
        self._northbound, self._southbound = northbound, southbound
        encap = {"type": "geneve", "ip": "10.0.0.2", "chassis_name": "host2"}
        _, chassis, _ = southbound.transact(
            {"op": "insert", "table": "Encap", "uuid-name": "e", "row": encap},
            {"op": "insert", "table": "Chassis", "uuid-name": "c",
             "row": {"name": "host2", "hostname": "host2.example", "encaps": ["named-uuid", "e"]}},
            {"op": "insert", "table": "Chassis_Private",
             "row": {"name": "host2", "chassis": ["named-uuid", "c"]}},
        )  # fmt: skip
        self._chassis = chassis["uuid"]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._take_up)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _take_up(self) -> None:
        where, known = [["name", "==", "host2"]], -1
        while not self._ended.wait(0.02):
            (number,) = (row["nb_cfg"] for row in self._northbound.rows("NB_Global", "nb_cfg"))
            if number != known and not self.cut_off:
                row = {"nb_cfg": number, "nb_cfg_timestamp": int(time.time() * 1000)}
                self._southbound.transact(
                    {"op": "update", "table": "Chassis_Private", "where": where, "row": row}
                )
                known = number

    def claim(self, ports: list[str]) -> None:
        """Claim ports, when ovn-northd has them."""
        for port in ports:
            where = [["logical_port", "==", port]]
            row = {"chassis": self._chassis, "up": True}
            claim = {"op": "update", "table": "Port_Binding", "where": where, "row": row}
            until(lambda claim=claim: self._southbound.transact(claim)[0]["count"])


class States:
    """The cluster, and the replies of Docker on host1."""

    def __init__(self, directory: Path, open_vswitch: OpenVswitch, stack: ExitStack) -> None:
        self.open_vswitch = open_vswitch
        (directory / "nb").mkdir()
        (directory / "sb").mkdir()
        self.northbound = OvsdbServer(directory / "nb", "OVN_Northbound")
        stack.callback(self.northbound.kill)
        self.southbound = OvsdbServer(directory / "sb", "OVN_Southbound")
        stack.callback(self.southbound.kill)
        self._cable(stack)
        ovn = Ovn(directory / "ovn", self.northbound, self.southbound, open_vswitch)
        stack.callback(ovn.end)
        self.host2 = Host2(self.northbound, self.southbound)
        stack.callback(self.host2.end)
        self.made: list[Made] = []
        self._idle: list[Container] = []
        self._stack = stack
        self._numbers = 0

        self.directory = directory / "driver"
        self.directory.mkdir()
        (self.directory / "db.sock").symlink_to(open_vswitch.socket)
        (self.directory / "ovs-vswitchd.pid").symlink_to(open_vswitch.pidfile)
        self._docker, self._plugin = self.directory / "docker.sock", self.directory / "plugin.sock"
        self._api = Api(self._docker, self.answer)
        stack.callback(self._api.close)
        self._start_driver(directory / "ovn", stack)
        self._point_commands_here(directory / "ovn", stack)

        connections = [
            Database("Open_vSwitch", [open_vswitch.remote]),
            Database("OVN_Northbound", [self.northbound.remote]),
        ]
        for connection in connections:
            stack.callback(connection.close)
        local, self.database = connections
        self.vswitch = LocalVswitch(local)
        self.shared = SharedNetworks(lambda _: self.database)
        self.names = Names(lambda _: self.database)
        self.begin()

    def begin(self) -> None:
        """Delete the previous state, and start the driver's code anew."""
        self._idle += [one.namespace for made in self.made for one in made.containers if one.namespace]
        self.made = []
        self.northbound.clear_networks()
        for row in self.open_vswitch.rows("Interface", "name", "external_ids"):
            if "ovn-docker:endpoint" in row["external_ids"]:
                self.vsctl("del-port", row["name"])
        for link in KernelLinks().joined("odh"):
            KernelLinks().delete(link)
        until(lambda: not self.southbound.rows("Port_Binding"))
        self.host2.cut_off = False
        self._driver = {
            everywhere: Driver(
                self._overlay(everywhere=everywhere), self.vswitch, KernelLinks(), lambda: None,
                TimeLimits(request=LONG, flows=LONG, controller=LONG),
            )
            for everywhere in (False, True)
        }  # fmt: skip

    # Made by the driver's own code

    def make(self, wanted: Wanted) -> Made:
        """Make a network with its containers."""
        self._numbers += 1
        number, kind = self._numbers, wanted.kind
        name = f"net{number}"
        options = NetworkOptions()
        if kind.attached:
            options = NetworkOptions(switch=f"sw{number}")
            self.northbound.insert("Logical_Switch", name=f"sw{number}")
        elif kind.shared:
            options = NetworkOptions(name=name)
        network = Network(self._network_id(), self._subnets(number, kind), kind.internal, options)
        made = Made(name, kind, network)
        here = self.vswitch.chassis(Deadline(LONG))
        self._create(made, network, here)
        if kind.shared:
            self.shared.define(definition.of_docker(self._as_docker_lists(made), name), here, Deadline(LONG))
        there = network if kind.everywhere else replace(network, id=self._network_id())
        if (kind.shared or kind.attached or kind.everywhere) and (wanted.there or kind.gone or kind.removed):
            if not kind.everywhere:
                self._create(made, there, HOST2)
            ports = [self._run_there(made, there, 100 + n) for n in range(wanted.there)]
            self.host2.claim(ports)
        self.made.append(made)
        for n, state in enumerate(wanted.here):
            self._add(made, state, f"c{number}-{n}", 10 + n)
        if kind.gone:
            self._overlay()(here).delete_network(network.id, Deadline(LONG))
            made.listed = False
        if kind.removed:
            self.shared.remove(name, HOST2, Deadline(LONG), force=True)
        return made

    def _create(self, made: Made, network: Network, chassis: Chassis) -> None:
        kind = made.kind
        if kind.ours:
            ipam = self._ipam(chassis)
            made.pools[chassis.system_id] = pools = []
            for subnet in network.subnets:
                pools.append(ipam.request_pool(subnet.pool, None, subnet.pool.version).id)
                ipam.request_address(pools[-1], subnet.gateway, gateway=True)
        overlay = self._overlay(everywhere=kind.everywhere)
        overlay(chassis).create_network(network, Deadline(LONG), kept=kind.kept)
        if kind.kept:
            overlay(chassis).create_network(network, Deadline(LONG))  # a node, after the manager

    def _add(self, made: Made, state: str, name: str, last: int) -> None:
        """Start or create a container of host1."""
        container = Attached(name, state, made)
        made.containers.append(container)
        if state in ("running", "paused"):
            container.endpoint = endpoint = self._driver[made.kind.everywhere].create_endpoint(
                self._endpoint(made, made.network, last, "")
            )
            link = self._driver[made.kind.everywhere].join(made.network.id, endpoint.id, f"/{name}").link
            container.namespace = self._namespace()
            container.namespace.move_in(link)
            container.namespace.run("ip", "link", "set", link, "up")
            self.names.set_names(  # as the registrar does after Docker's event
                endpoint.id, ContainerNames((name,)), self.vswitch.chassis(Deadline(LONG)), Deadline(LONG)
            )

    def _namespace(self) -> Container:
        """Return a network namespace that no container has."""
        if self._idle:
            return self._idle.pop()
        made = Container()
        self._stack.callback(made.die)
        return made

    def age(self) -> None:
        """Change all rows as if they had been made an hour ago."""
        keys, then = ["ovn-docker:created", "ovn-docker:uptime"], str(int(time.time()) - 3600)
        change = [
            ["external_ids", "delete", ["set", keys]],
            ["external_ids", "insert", ["map", [["ovn-docker:created", then]]]],
        ]
        for server, owner, tables in (
            (self.northbound, "overlay", ("Logical_Switch", "Logical_Switch_Port", "DHCP_Options")),
            (self.open_vswitch, "ovn-docker", ("Interface",)),
        ):
            ours = [ovsdb.has("external_ids", {"ovn-docker:owner": owner})]
            change_all = {"op": "mutate", "where": ours, "mutations": change}
            server.transact(*({**change_all, "table": table} for table in tables))

    def switch_of(self, made: Made) -> str:
        """Return the UUID of a network's logical switch."""
        names = {made.network.id, made.network.options.name, made.network.options.switch}
        (row,) = (row for row in self.northbound.rows("Logical_Switch") if row["name"] in names)
        return str(row["_uuid"])

    def delete(self, table: str, row: str) -> None:
        """Delete a row of the northbound database by hand."""
        where = [["_uuid", "==", ["uuid", row]]]
        (done,) = self.northbound.transact({"op": "delete", "table": table, "where": where})
        assert done["count"] == 1

    def vsctl(self, *command: str) -> None:
        """Run a command of Open vSwitch."""
        subprocess.run(["ovs-vsctl", f"--db={self.open_vswitch.remote}", *command], check=True)

    def _run_there(self, made: Made, network: Network, last: int) -> str:
        endpoint = self._endpoint(made, network, last, "02:00:00:00:00:")
        self._overlay()(HOST2).create_endpoint(endpoint, Deadline(LONG))
        return endpoint.id

    def _endpoint(self, made: Made, network: Network, last: int, mac: str) -> Endpoint:
        host = "host2" if mac else "host1"
        addresses: list[IpAddress] = [subnet.pool[last] for subnet in network.subnets]
        if made.kind.ours:
            ipam = self._ipam(HOST2 if mac else self.vswitch.chassis(Deadline(LONG)))
            addresses = [ipam.request_address(pool, None, gateway=False)[0] for pool in made.pools[host]]
        return Endpoint(
            EndpointId(os.urandom(32).hex()),
            network.id,
            tuple(
                ip_interface(f"{address}/{subnet.pool.prefixlen}")
                for address, subnet in zip(addresses, network.subnets, strict=True)
            ),
            f"{mac}{last:02x}" if mac else None,
        )

    def _subnets(self, number: int, kind: Kind) -> tuple[Subnet, ...]:
        base = f"172.{16 + number % 16}.{number // 16 % 256}"
        four = Subnet(ip_network(f"{base}.0/24"), ip_address(f"{base}.1"), ours=kind.ours)
        six = Subnet(ip_network(f"fd00:{number:x}::/64"), ip_address(f"fd00:{number:x}::1"), ours=kind.ours)
        return (four, six) if kind.ipv6 else (four,)

    def _overlay(self, *, everywhere: bool = False) -> Overlay:
        return Overlay(lambda _: self.database, lambda: everywhere)

    def _ipam(self, chassis: Chassis) -> Ipam:
        supplies = parse_supplies("10.192.0.0/12:24")
        return Ipam(
            Addresses(lambda _: self.database), lambda _: chassis, list, supplies, lambda _, __: (), LONG
        )

    def _network_id(self) -> NetworkId:
        return NetworkId(os.urandom(32).hex())

    # Replies of Docker

    def answer(self, path: str) -> Any:
        """Return the reply of Docker's API."""
        listed = [made for made in self.made if made.listed]
        if path.startswith("/networks"):
            ours = [self._as_docker_lists(made) for made in listed]
            others = [{"Name": name, "Id": name, "Driver": name} for name in ("none", "host")]
            return ours if "filters" in path else [*others, *ours]
        if path.startswith("/containers/json"):
            stopped = "all=1" in path
            return [
                self._as_docker_runs(one)
                for made in listed
                for one in made.containers
                if (stopped and one.state) or one.state in ("running", "paused")
            ]
        return {"/version": {"Version": "20.10.24"}, "/info": {}}.get(path)

    def _as_docker_lists(self, made: Made) -> dict[str, Any]:
        options = made.network.options
        given = {SHARED_NAME: options.name, "ovn.switch": options.switch}
        return {
            "Id": made.network.id,
            "Name": made.name,
            "Driver": "openvswitch",
            "Scope": "global" if made.kind.everywhere else "local",
            "Internal": made.kind.internal,
            "EnableIPv6": made.kind.ipv6,
            "IPAM": {
                "Driver": "openvswitch" if made.kind.ours else "default",
                "Config": [
                    {"Subnet": str(one.pool), "Gateway": str(one.gateway)} for one in made.network.subnets
                ],
            },
            "Options": {key: value for key, value in given.items() if value},
        }

    def _as_docker_runs(self, container: Attached) -> dict[str, Any]:
        endpoint, made = container.endpoint, container.network
        addresses = [str(one.ip) for one in endpoint.addresses] if endpoint else ["", ""]
        on = {
            "NetworkID": "" if container.state == "created" else made.network.id,
            "EndpointID": endpoint.id if endpoint else "",
            "IPAddress": addresses[0],
            "GlobalIPv6Address": addresses[1] if made.kind.ipv6 else "",
            "MacAddress": endpoint.mac if endpoint else "",
        }
        return {
            "Id": (container.name.encode().hex() * 64)[:64],
            "Names": [f"/{container.name}"],
            "State": container.state,
            "NetworkSettings": {"Networks": {made.name: on}},
        }

    # The commands

    def command(self, *argv: str) -> tuple[int, str, str]:
        """Run ``ovn-docker``; return its exit code and output."""
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = main(argv)
        return code, out.getvalue(), err.getvalue()

    def findings(self) -> dict[str, list[str]]:
        """Return the doctor's findings: for each check the evidence."""
        # On a busy machine a controller gets time to reply; one that is cut off never replies.
        self._patch.setattr(sync, "TIMEOUT", 6.0 if self.host2.cut_off else LONG)
        code, out, err = self.command("doctor", "--json")
        found = {
            one["name"]: [finding["evidence"] for finding in one["findings"]]
            for one in json.loads(out)
            if one["findings"]
        }
        assert (code, err) == (1 if found else 0, "")
        unknown = {one["name"] for one in json.loads(out) if one["status"] == "unknown"}
        assert unknown <= {"driver-threads"}  # the driver has a second to reply
        return found

    # Parts that all states use

    def _cable(self, stack: ExitStack) -> None:
        ip("link", "add", "eth0", "mtu", "1500", "type", "veth", "peer", "name", "cable")
        ip("address", "add", "10.0.0.1/24", "dev", "eth0")
        ip("link", "set", "eth0", "up")
        other = Container()
        stack.callback(other.die)
        other.move_in("cable")
        other.run("ip", "address", "add", "10.0.0.2/24", "dev", "cable")
        other.run("ip", "link", "set", "cable", "up")

    def _start_driver(self, ovn: Path, stack: ExitStack) -> None:
        """Start the daemon, which only replies to the doctor and gc here."""
        environment = {
            **os.environ,
            "OVS_RUNDIR": str(self.directory),
            "OVS_LOGDIR": str(self.directory),
            "OVN_DOCKER_SOCKET": str(self._plugin),
            "OVN_DOCKER_DB": self.open_vswitch.remote,
            "OVN_DOCKER_DOCKER": str(self._docker),
            "OVN_DOCKER_OVN_RUNDIR": str(ovn),
        }
        options = ["--repair=off", "--sync=off", "--sweep-interval=0.1"]
        with (self.directory / "log").open("w") as log:
            process = subprocess.Popen([PROGRAM, *options], env=environment, stderr=log)

        def end() -> None:
            process.kill()
            process.wait()

        stack.callback(end)
        until(self._answers)

    def _answers(self) -> bool:
        """Return True when the driver listens on its socket and replies."""
        with suppress(Unavailable):
            return find(self._plugin, self.directory).threads is not None
        return False

    def _point_commands_here(self, ovn: Path, stack: ExitStack) -> None:
        self._patch = patch = stack.enter_context(pytest.MonkeyPatch.context())
        places = gather.Places(self.directory, ovn, self._docker, self._plugin)
        patch.setattr(gather, "find_places", lambda: places)
        patch.setattr(comparison, "find_places", lambda: places)
        patch.setattr(probes, "read_machine", Machine)  # not the values of this machine
        patch.setenv("OVS_RUNDIR", str(self.directory))
        patch.setenv("OVN_RUNDIR", str(ovn))
        patch.setenv("OVN_DOCKER_DOCKER", str(self._docker))


@contextmanager
def states(directory: Path, open_vswitch: OpenVswitch) -> Iterator[States]:
    """Yield the states; end all processes afterwards."""
    with ExitStack() as stack:
        yield States(directory, open_vswitch, stack)
