"""Measure 9: the work of ovn-northd for one endpoint's life, by OVN's version and the number of ports.

Each version of OVN has a central machine of its own, in a Debian tree of the lab. The driver's own code makes
the rows of the northbound database; in ovn-controller's place the benchmark claims the ports.
"""

import random
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Interface, ip_address, ip_network
from typing import Any

from bench.laboratory import Laboratory, usage
from bench.report import Line, p50
from e2e.lab import Host
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.records import make_port
from ovn_docker.backends.ovn.rows import (
    CONTAINER,
    HOST,
    INCARNATION,
    LEASES,
    NAME,
    NAME_CLAIMS,
    NAMES,
    NETWORK,
    NOTES,
    RANK,
    STATE,
    SWITCH,
    host_ids,
    lease_row,
    name_row,
    names_row,
    note_row,
)
from ovn_docker.backends.ovn.shared.container_names import Names, records_of
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.definition import switch_row
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Operation, Reference, has, is_row
from ovn_docker.hostnames import ContainerNames
from ovn_docker.model import (
    AddressPool,
    Chassis,
    Definition,
    Endpoint,
    EndpointId,
    Network,
    NetworkId,
    Note,
    Report,
    Subnet,
    row_uuid,
)
from ovn_docker.options import NetworkOptions

MS = 1000.0
ENGINES = {"23.03": "20.10", "25.03": "26.1", "26.03": "28.5"}
"""Version of OVN, and of Docker in the same tree of the lab."""

INCREMENTAL = "25.03"
"""The first of these versions that computes a port alone, and not all ports anew."""

PORTS = 100
"""Ports of each network, and of each host."""


def new_endpoint(network: int, number: int, docker: NetworkId) -> Endpoint:
    """Return an endpoint of a network by its number on the network, as Docker asks for it."""
    address = f"10.{network // 250}.{network % 250}.{number + 2}"
    mac = "02:42:" + ip_address(address).packed.hex(":")
    return Endpoint(EndpointId(secrets.token_hex(32)), docker, (IPv4Interface(f"{address}/24"),), mac)


def chassis(number: int) -> Chassis:
    """Return a host."""
    ip = ip_address(f"172.16.{number // 250}.{number % 250 + 1}")
    return Chassis(f"host{number}", (), (ip,), ("geneve",), "br-int", "netdev")


class Central:
    """A central machine with one version of OVN, and *ports* endpoints in its databases."""

    def __init__(self, host: Host, version: str) -> None:
        self.host, self.version, self.ports = host, version, 0
        host.start_central()
        host.northd.appctl("vlog/disable-rate-limit")
        self.north = Database("OVN_Northbound", [f"unix:{host.path('/run/ovn/ovnnb_db.sock')}"])
        self.south = Database("OVN_Southbound", [f"unix:{host.path('/run/ovn/ovnsb_db.sock')}"])
        self.overlay = Overlay(lambda _: self.north)
        self.names = Names(lambda _: self.north)
        self.shared = SharedNetworks(lambda _: self.north)
        self.incarnations: dict[int, str] = {}

    def close(self) -> None:
        """Close the connections."""
        self.north.close()
        self.south.close()

    # Rows

    def transact(self, *operations: Operation) -> list[list[ovsdb.Row]]:
        """Change the northbound database."""
        return self.north.transact(*operations, deadline=Deadline(300))

    def southbound(self, *operations: Operation) -> list[list[ovsdb.Row]]:
        """Change the southbound database."""
        return self.south.transact(*operations, deadline=Deadline(300))

    def make_network(self, number: int) -> None:
        """Make a shared network as host 0 does."""
        self.overlay(chassis(0)).create_network(network(number, 0), Deadline(60))
        (rows,) = self.transact(
            ovsdb.select("Logical_Switch", is_row(switch_row(f"net{number}")), columns=["external_ids"])
        )
        self.incarnations[number] = rows[0].map("external_ids")[INCARNATION]

    def note(self, number: int, host: int) -> Operation:
        """Return the operation that makes a host's note on a shared network."""
        name = f"net{number}"
        ids = {**host_ids(chassis(host)), NETWORK: docker_id(number, host), NAME: name,
               SWITCH: switch_row(name), INCARNATION: self.incarnations[number]}  # fmt: skip
        return NOTES.insert(
            note_row(docker_id(number, host)), ids, cidr=f"10.{number // 250}.{number % 250}.0/24"
        )

    def endpoint_rows(self, endpoint: Endpoint, number: int, host: int, name: str) -> list[Operation]:
        """Return the operations that make the rows of one container: port, claims, lease and names."""
        switch = switch_row(f"net{number}")
        address = str(endpoint.addresses[0].ip)
        made = make_port(endpoint, switch, f"net{number}", chassis(host))
        ids = {**ovsdb.decode(made[0]["row"]["external_ids"]), CONTAINER: name}
        row = names_row(endpoint.id)
        records = records_of([name], name, f"net{number}", [address])
        return [
            *made,
            LEASES.insert(lease_row(switch, address), {**ids, STATE: "leased"}, cidr=address),
            NAME_CLAIMS.insert(name_row(switch, name), {**ids, RANK: "own 1"}, cidr=name),
            NAMES.insert(row, ids, records=records),
            ovsdb.mutate("Logical_Switch", is_row(switch),
                         mutations=[["dns_records", "insert", [Reference(row)]]]),
        ]  # fmt: skip

    def fill(self, ports: int) -> None:
        """Add networks with containers, spread over hosts, until there are *ports*."""
        for number in range(self.ports // PORTS, ports // PORTS):
            if number not in self.incarnations:
                self.make_network(number)
            operations = [self.note(number, host) for host in range(1, max(ports // PORTS, 2))]
            for port in range(PORTS):
                host = (number + port) % max(ports // PORTS, 1)
                endpoint = new_endpoint(number, port, docker_id(number, host))
                operations += self.endpoint_rows(endpoint, number, host, f"c{port}")
            self.transact(*operations)
        if not ports:
            self.make_network(0)
        self.ports = ports
        for number in range(max(ports // PORTS, 2)):
            self.register(number)
        self.sync()
        self.bind_all()
        self.sync()

    def register(self, number: int) -> None:
        """Make a host's chassis, as ovn-controller does."""
        one = chassis(number)
        (there,) = self.southbound(ovsdb.select("Chassis", ["name", "==", one.system_id], columns=["_uuid"]))
        if there:
            return
        encap = ["named-uuid", "encap"]
        ids = {"is-interconn": "false", "ct-no-masked-label": "true", "mac-binding-timestamp": "true",
               "ovn-chassis-mac-mappings": "", "port-up-notif": "true", "ovn-bridge-mappings": "",
               "datapath-type": "netdev", "iface-types": "geneve"}  # fmt: skip
        self.southbound(
            {"op": "insert", "table": "Encap", "uuid-name": "encap",
             "row": {"type": "geneve", "ip": str(one.encap_ips[0]), "chassis_name": one.system_id,
                     "options": ["map", [["csum", "true"]]]}},
            {"op": "insert", "table": "Chassis", "uuid-name": "chassis",
             "row": {"name": one.system_id, "hostname": one.system_id, "encaps": encap,
                     "other_config": ["map", [*map(list, ids.items())]]}},
            {"op": "insert", "table": "Chassis_Private",
             "row": {"name": one.system_id, "chassis": ["named-uuid", "chassis"]}},
        )  # fmt: skip

    def unregister(self, number: int) -> None:
        """Delete a host's chassis, as ovn-controller does when it is stopped."""
        named = ["name", "==", chassis(number).system_id]
        self.southbound(ovsdb.delete("Chassis_Private", named), ovsdb.delete("Chassis", named))

    def bind_all(self) -> None:
        """Claim all ports for the hosts that they are of, as ovn-controllers do."""
        bindings, hosts = self.southbound(
            ovsdb.select("Port_Binding", ["type", "==", ""], columns=["_uuid", "up", "external_ids"]),
            ovsdb.select("Chassis", columns=["_uuid", "name"]),
        )
        row_of = {row.text("name"): Reference(row.uuid) for row in hosts}
        waiting = [row for row in bindings if row.optional("up", bool) is not True]
        for first in range(0, len(waiting), 500):
            self.southbound(*(
                ovsdb.update("Port_Binding", is_row(row.uuid), up=True,
                             chassis=row_of[row.map("external_ids").get(HOST, "host0")])
                for row in waiting[first : first + 500]
            ))  # fmt: skip

    # ovn-northd

    def sync(self) -> float:
        """Wait until ovn-northd has done all; return the seconds that it took."""
        start = time.perf_counter()
        self.host.run("ovn-nbctl", "--wait=sb", "--timeout=600", "sync", timeout=610)
        return time.perf_counter() - start

    def processor_time(self) -> dict[str, float]:
        """Return the seconds that ovn-northd and the southbound server have used."""
        found = {}
        for name, service in (("northd", self.host.northd), ("southbound", self.host.southbound)):
            used = usage(self.host, service.pid or 0)
            found[name] = used.user + used.system
        return found

    def quiet(self) -> dict[str, float]:
        """Wait until ovn-northd has done all, without a change of nb_cfg; return processor_time()."""
        last, since = self.processor_time(), time.monotonic()
        while time.monotonic() - since < 0.2:
            time.sleep(0.02)
            if (now := self.processor_time())["northd"] != last["northd"]:
                last, since = now, time.monotonic()
        return last

    def restart_northd(self) -> float:
        """Restart ovn-northd; return the seconds until it has done all."""
        self.host.northd.kill()
        start = time.perf_counter()
        self.host.northd.start()
        self.sync()
        return time.perf_counter() - start

    def southbound_size(self) -> float:
        """Return the size of the southbound database's file without history, in MiB."""
        target = f"--target={self.host.southbound.runs_as}.ctl"
        self.host.run("ovs-appctl", target, "--timeout=300", "ovsdb-server/compact", timeout=310)
        return self.host.path("/var/lib/ovn/ovnsb_db.db").stat().st_size / 2**20

    # An endpoint's life

    def life(self, *, names: bool) -> dict[str, float]:
        """Live one endpoint's life, with or without *names*; return the seconds until each part was done."""
        host = random.randrange(max(self.ports // PORTS, 1))
        endpoint = new_endpoint(0, PORTS + random.randrange(100), docker_id(0, 0))
        times, last = {}, time.perf_counter()

        def done(part: str) -> None:
            nonlocal last
            now = time.perf_counter()
            times[part], last = now - last, now

        self.create(endpoint, host)
        self.wait_binding(endpoint)
        done("port")
        self.claim(endpoint, host)
        self.wait_up(endpoint)
        done("up")
        if names:
            self.name(endpoint)
            self.wait_records(endpoint)
            done("names")
        self.delete(endpoint)
        self.wait_binding(endpoint, gone=True)
        done("removal")
        return times | {"life": sum(times.values())}

    def create(self, endpoint: Endpoint, host: int) -> None:
        """Make the endpoint's rows as CreateEndpoint does."""
        self.overlay(chassis(host)).create_endpoint(endpoint, Deadline(60))

    def claim(self, endpoint: Endpoint, host: int) -> None:
        """Claim the port as ovn-controller does, first for the host, then with its flows installed."""
        (rows,) = self.southbound(
            ovsdb.select("Chassis", ["name", "==", chassis(host).system_id], columns=["_uuid"])
        )
        where = ["logical_port", "==", endpoint.id]
        self.southbound(ovsdb.update("Port_Binding", where, chassis=Reference(rows[0].uuid)))
        self.southbound(ovsdb.update("Port_Binding", where, up=True))

    def name(self, endpoint: Endpoint, *aliases: str) -> None:
        """Register the names of the endpoint's container."""
        names = ContainerNames((f"life-{endpoint.id[:8]}", endpoint.id[:12]), aliases)
        self.names.set_names(endpoint.id, names, chassis(0), Deadline(60))

    def delete(self, endpoint: Endpoint) -> None:
        """Delete the endpoint's rows."""
        self.overlay(chassis(0)).delete_endpoint(endpoint.id, Deadline(60))

    def wait_binding(self, endpoint: Endpoint, *, gone: bool = False) -> None:
        """Wait until ovn-northd has made, or deleted, the port's binding."""
        port = ["logical_port", "==", endpoint.id]
        _wait(self.south, "Port_Binding", port, "logical_port", [] if gone else [endpoint.id])

    def wait_up(self, endpoint: Endpoint) -> None:
        """Wait until ovn-northd has written that the port is up."""
        _wait(self.north, "Logical_Switch_Port", is_row(row_uuid("endpoint", endpoint.id)), "up", [True])

    def wait_records(self, endpoint: Endpoint) -> None:
        """Wait until ovn-northd has copied the endpoint's names for the hosts."""
        records = has("records", {endpoint.id[:12]: str(endpoint.addresses[0].ip)})
        _wait(self.south, "DNS", records, "_uuid", None)


def _wait(database: Database, table: str, where: Any, column: str, values: list[Any] | None) -> None:
    """Wait until the rows have *values*; with None, until there is one."""
    wait = {"op": "wait", "timeout": 60_000, "table": table, "where": [where], "columns": [column]}
    if values is None:
        operation = {**wait, "until": "!=", "rows": []}
    else:
        operation = {**wait, "until": "==", "rows": [{column: value} for value in values]}
    database.transact(operation, deadline=Deadline(70))


def docker_id(number: int, host: int) -> NetworkId:
    """Return the ID of a shared network in the Docker of a host."""
    return NetworkId(f"{number:032x}{host:032x}")


def network(number: int, host: int) -> Network:
    """Return a shared network, as Docker of a host asks for it."""
    subnet = Subnet(ip_network(f"10.{number // 250}.{number % 250}.0/24"),
                    ip_address(f"10.{number // 250}.{number % 250}.1"))  # fmt: skip
    return Network(docker_id(number, host), (subnet,), options=NetworkOptions(name=f"net{number}"))


# Kinds of changes


class Engine:
    """The nodes of ovn-northd's incremental engine, and how often each was computed anew."""

    def __init__(self, central: Central) -> None:
        self._central = central

    def observe(self, change: Callable[[], object]) -> dict[str, int]:
        """Make a change; return how often it had each node computed anew, if it had.

        Nodes that read a table, or wake the engine at times, are left out.
        """
        before = self._settled()
        change()
        after = self._settled()
        return {node: count - before[node] for node, count in after.items() if count > before[node]}

    def _settled(self) -> dict[str, int]:
        """Return the numbers when ovn-northd has nothing to do.

        A change of nb_cfg tells when ovn-northd has seen what was before, and a second one when it has seen
        its own changes of the southbound database. Where such a change counts as any other, ovn-northd has to
        be idle for half a second.
        """
        if self._central.version >= INCREMENTAL:
            self._central.sync()
            self._central.sync()
            return self._numbers()
        last, since = self._numbers(), time.monotonic()
        while time.monotonic() - since < 0.5:
            time.sleep(0.05)
            if (now := self._numbers()) != last:
                last, since = now, time.monotonic()
        return last

    def _numbers(self) -> dict[str, int]:
        statistics = self._central.host.northd.appctl("inc-engine/show-stats")
        nodes = re.findall(r"Node: (?![NS]B_|\w+_waker\b)(\w+)\n- recompute: +(\d+)", statistics)
        return {node: int(count) for node, count in nodes}


def changes(central: Central) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield changes of the databases, one of each kind that the driver or ovn-controller makes."""
    deadline, host = Deadline(600), chassis(0)
    shared, other = (new_endpoint(0, PORTS + n, docker_id(0, 0)) for n in range(2))
    yield "port of an endpoint, with its claims", lambda: central.create(shared, 0)
    yield "ovn-controller claims the port and reports it up", lambda: central.claim(shared, 0)
    yield "names of a container on a shared network", lambda: central.name(shared)
    yield "one more alias of the container", lambda: central.name(shared, "alias")
    yield "port with names deleted", lambda: central.delete(shared)
    central.create(other, 0)
    yield "port without names deleted", lambda: central.delete(other)
    ids = {STATE: "leased", SWITCH: switch_row("net0")}
    lease = lease_row(switch_row("net0"), "10.0.0.250")
    yield "lease", lambda: central.transact(LEASES.insert(lease, ids, cidr="10.0.0.250"))
    yield "lease deleted", lambda: central.transact(ovsdb.delete("DHCP_Options", is_row(lease)))

    private = replace(network(9999, 0), options=NetworkOptions())
    yield "network of one host", lambda: central.overlay(host).create_network(private, deadline)
    single = new_endpoint(9999, 0, private.id)
    central.create(single, 0)
    yield "name of the container on a port of such a network", lambda: central.name(single)
    unchecked = replace(new_endpoint(9999, 1, private.id), port_security=False)
    yield "port without port security", lambda: central.create(unchecked, 0)
    yield "port without port security deleted", lambda: central.delete(unchecked)
    central.delete(single)
    yield (
        "network of one host deleted",
        lambda: central.overlay(host).delete_network(private.id, deadline),
    )

    yield "shared network, with its resolver", lambda: central.make_network(9998)
    subnets = network(9998, 0).subnets
    pools = tuple(AddressPool(subnet.pool, gateway=subnet.gateway) for subnet in subnets)
    definition = Definition("net9998", pools, options=(("ovn.network", "net9998"),))
    yield "definition of the shared network", lambda: central.shared.define(definition, host, deadline)
    note = Note(central.incarnations[9998], used=True)
    yield (
        "note of a host",
        lambda: central.shared.write_note(docker_id(9998, 0), note, host, deadline),
    )
    yield "report of a host", lambda: central.shared.write_report(Report(host.system_id), host, deadline)
    yield (
        "shared network deleted",
        lambda: central.overlay(host).delete_network(docker_id(9998, 0), deadline),
    )
    one_more = ovsdb.mutate("NB_Global", mutations=[["nb_cfg", "+=", 1]])
    yield "nb_cfg, by the doctor and ovn-nbctl --wait", lambda: central.transact(one_more)
    yield (
        "nb_cfg of a host, by ovn-controller",
        lambda: central.southbound(ovsdb.update("Chassis_Private", ["name", "==", host.system_id], nb_cfg=1)),
    )
    yield "host joins", lambda: central.register(9999)
    yield "host leaves", lambda: central.unregister(9999)


def kinds(central: Central) -> dict[str, dict[str, int]]:
    """Return how often each change has nodes computed anew: *northd* and *lflow* are those of all ports."""
    engine = Engine(central)
    return {what: engine.observe(change) for what, change in changes(central)}


# The measure


@dataclass
class Figures:
    """Figures of one version with one number of ports; *lives*: seconds of each part, with and without names.

    *used*: seconds of processor time for each life, by process.
    """

    lives: dict[bool, dict[str, list[float]]]
    used: dict[bool, dict[str, float]]
    start: float
    size: float

    def p50(self, *, names: bool, part: str = "life") -> float:
        """Return the median of a part of the lives, in milliseconds."""
        return p50(self.lives[names][part]) * MS


def versions(laboratory: Laboratory, sizes: list[int], lives: int) -> tuple[list[Line], dict[str, Any]]:
    """Measure endpoints' lives through ovn-northd of each version without other ports, and with *sizes*."""
    hosts = [
        host
        for version, engine in ENGINES.items()
        for host in laboratory.fabric.add_hosts(f"ovn-{version.replace('.', '')}", engine=engine)
    ]
    centrals = [Central(host, version) for host, version in zip(hosts, ENGINES, strict=True)]
    found: dict[str, dict[int, Figures]] = {version: {} for version in ENGINES}
    recomputed = {}
    for size in (0, *sizes):
        for central in centrals:
            central.fill(size)
            if size == sizes[0]:
                recomputed[central.version] = kinds(central)
        for version, figures in in_turns(centrals, max(2, lives // (1 + size // 5000))).items():
            found[version][size] = figures
    for central in centrals:
        central.close()
        central.host.power_off()
    details = {
        "recomputed": recomputed,
        "figures": {
            version: {str(size): asdict(figures) for size, figures in by_size.items()}
            for version, by_size in found.items()
        },
    }
    return list(table_of(found)), details


def in_turns(centrals: list[Central], lives: int) -> dict[str, Figures]:
    """Measure lives on each central machine, in turns."""
    times: dict[str, dict[bool, dict[str, list[float]]]] = {
        central.version: {names: defaultdict(list) for names in (False, True)} for central in centrals
    }
    used: dict[str, dict[bool, dict[str, float]]] = {
        central.version: {names: defaultdict(float) for names in (False, True)} for central in centrals
    }
    turns = [(central, names) for central in centrals for names in (False, True)]
    for number in range(lives + 1):
        for central, names in random.sample(turns, len(turns)):
            before = central.quiet()
            life = central.life(names=names)
            after = central.quiet()
            if number:  # the first one warms up
                for part, seconds in life.items():
                    times[central.version][names][part].append(seconds)
                for process, seconds in after.items():
                    used[central.version][names][process] += (seconds - before[process]) / lives
    return {
        central.version: Figures(
            {names: dict(parts) for names, parts in times[central.version].items()},
            {names: dict(seconds) for names, seconds in used[central.version].items()},
            central.restart_northd(),
            central.southbound_size(),
        )
        for central in centrals
    }


def table_of(found: dict[str, dict[int, Figures]]) -> Iterator[Line]:
    """Yield the lines of the table; *found*: figures by version and number of ports."""
    for version, by_size in found.items():
        idle, *sizes = by_size
        for names in (False, True):
            for size in sizes:
                time, base = by_size[size].p50(names=names), by_size[idle].p50(names=names)
                what = f"9 OVN {version}, life with{'' if names else 'out'} names, {size} other ports, p50"
                goal = {"goal": "≤ 2 of theirs", "met": time <= 2 * base} if version >= INCREMENTAL else {}
                yield Line(what, time, "ms", base, "without them", **goal)
        full, empty = by_size[sizes[-1]], by_size[idle]
        where = f"{sizes[-1]} ports"
        for names in (False, True):
            for process, label in (("northd", "ovn-northd"), ("southbound", "SB server")):
                time, base = (one.used[names][process] * MS for one in (full, empty))
                what = (
                    f"9 OVN {version}, {label}'s time for a life with{'' if names else 'out'} names, {where}"
                )
                yield Line(what, time, "ms", base or None, "without them")
        yield Line(
            f"9 OVN {version}, start of ovn-northd, {where}", full.start, "s", empty.start, "without them"
        )
        yield Line(f"9 OVN {version}, southbound database, {where}", full.size, "MiB")
