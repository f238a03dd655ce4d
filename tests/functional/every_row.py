"""A northbound database with a row of every kind, written by the driver's own code, and recordings of it.

In the folder ``tests``, ``python -m functional.every_row > recordings/northbound-VERSION.json`` records the
rows that the present code writes.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from functional.hosts import definition_of
from functional.ovsdb_servers import OvsdbServer
from ovn_docker import __version__
from ovn_docker.allowed import parse
from ovn_docker.backends.ovn import policies
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.shared.container_names import Names
from ovn_docker.backends.ovn.shared.shared_networks import SharedNetworks
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database
from ovn_docker.hostnames import ContainerNames
from ovn_docker.model import (
    Chassis,
    Endpoint,
    EndpointId,
    Lease,
    Network,
    NetworkId,
    Note,
    Obstacle,
    Occupied,
    Picked,
    Pool,
    PoolId,
    Problem,
    Report,
    Subnet,
    row_uuid,
)
from ovn_docker.options import NetworkOptions

RECORDINGS = Path(__file__).parent.parent / "recordings"

HOST1, HOST2 = (
    Chassis(f"host{n}", (), (ip_address(f"10.0.0.{n}"),), ("geneve",), "br-int", "system") for n in (1, 2)
)
MADE = {"ovn-docker:created": "1700000000", "ovn-docker:uptime": "1000@00000000"}
"""Time at which recorded rows were made: long ago, and before this boot."""

TIMES = MADE | {"ovn-docker:released": "1700000000.000", "ovn-docker:cleared": "1700000000"}

WEB = {host.system_id: NetworkId(f"{n}e" * 32) for n, host in ((1, HOST1), (2, HOST2))}
"""IDs of the shared network ``web`` in the Docker of each host."""

PRIVATE, WIDER, OPEN, ATTACHED, GLOBAL = (NetworkId(f"{n}a" * 32) for n in range(1, 6))
SWARM = NetworkId("5warm0network0of0a0manager")
LEFT, LEFT2, REMOVED2, UNUSED, SWITCHLESS, LOST = (NetworkId(f"{n}b" * 32) for n in range(1, 7))
FREE, BOUND, BOUND2, ORPHAN = (PoolId(f"{n}0000000-0000-4000-8000-000000000000") for n in range(1, 5))


def network(id_: NetworkId, third: int, *, ours: bool = False, ipv6: bool = False, **kind: Any) -> Network:
    """A Docker network with the subnet 10.1.*third*.0/24; *kind*: ``internal``, fields of NetworkOptions."""
    internal = kind.pop("internal", False)
    subnets = [Subnet(ip_network(f"10.1.{third}.0/24"), ip_address(f"10.1.{third}.1"), ours)]
    if ipv6:
        subnets.append(Subnet(ip_network(f"fd00:{third}::/64"), ip_address(f"fd00:{third}::1")))
    return Network(id_, tuple(subnets), internal, NetworkOptions(**kind))


def container(number: int, network: NetworkId, *addresses: str, groups: tuple[str, ...] = ()) -> Endpoint:
    """The endpoint of a container, with a MAC that follows from *number*."""
    mac = f"02:00:00:00:00:{number:02x}"
    return Endpoint(
        EndpointId(f"{number:02x}" * 32), network, tuple(map(ip_interface, addresses)), mac, groups=groups
    )


@dataclass
class Recording:
    """*rows*: by table and UUID, in OVSDB's JSON; *records*: by ID of the network or endpoint."""

    rows: dict[str, dict[str, dict[str, Any]]]
    records: dict[str, str]

    @property
    def text(self) -> str:
        """The recording as a file has it: JSON with a row on each line."""
        lines = [
            f"  {json.dumps(table)}: {{\n{_lines(rows)}\n  }}" for table, rows in sorted(self.rows.items())
        ]
        body = ",\n".join(lines)
        return f'{{"rows": {{\n{body}\n }},\n "records": {{\n{_lines(self.records)}\n }}}}\n'


def _lines(pairs: Mapping[str, Any]) -> str:
    return ",\n".join(
        f"   {json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in sorted(pairs.items())
    )


def load(server: OvsdbServer, version: str) -> Recording:
    """Fill the empty database of *server* with the rows that *version* of ovn-docker wrote."""
    stored = json.loads((RECORDINGS / f"northbound-{version}.json").read_text(encoding="utf-8"))
    server.transact(*insertions(stored["rows"]))
    return Recording(**stored)


def insertions(
    rows: Mapping[str, Mapping[str, Any]], moved: Mapping[str, str] | None = None
) -> list[ovsdb.Operation]:
    """Operations that insert recorded rows; *moved*: other UUIDs for them."""
    text = json.dumps(rows)
    for old, new in (moved or {}).items():
        text = text.replace(f'["uuid", "{old}"]', f'["uuid", "{new}"]')
    return [
        {"op": "insert", "table": table, "uuid": (moved or {}).get(uuid, uuid), "row": row}
        for table, of_table in json.loads(text).items()
        for uuid, row in of_table.items()
    ]


def record(server: OvsdbServer, database: Database) -> Recording:
    """Write a row of every kind into the empty database of *server*, and read all of them."""
    records = Writer(server, database).write()
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for table, found in server.contents().items():
        for row in found if table != "NB_Global" else ():
            values = {key: ovsdb.encode(value) for key, value in row.items() if key != "_uuid"}
            if ids := row.get("external_ids"):
                values["external_ids"] = ovsdb.encode({k: TIMES.get(k, v) for k, v in ids.items()})
            for column in {"ports", "dns_records", "acls"} & values.keys():
                members = row.members(column)
                values[column] = ["set", [["uuid", one] for one in members]]
            rows.setdefault(table, {})[row["_uuid"]] = {
                key: value for key, value in values.items() if value not in ("", ["set", []], ["map", []])
            }
    return Recording(rows, records)


class Writer:
    """Writes a row of every kind, as the drivers of two hosts do."""

    def __init__(self, server: OvsdbServer, database: Database) -> None:
        connect: Callable[[Chassis], Database] = lambda _: database  # noqa: E731
        self.server, self.database = server, database
        self.overlay, self.everywhere = Overlay(connect), Overlay(connect, lambda: True)
        self.shared, self.addresses = SharedNetworks(connect), Addresses(connect)
        self.names = Names(connect)
        self.deadline = Deadline(60)
        self.records: dict[str, str] = {}

    def write(self) -> dict[str, str]:
        """Write everything; return the records of the hosts."""
        self.local_networks()
        self.shared_networks()
        self.leftovers()
        for host in (HOST1, HOST2):
            occupied = (Occupied(ip_network("172.17.0.0/16"), "bridge"),)
            problems = (Problem("web", Obstacle.SUBNET, "10.1.9.0/24 is in use by eth1"),)
            self.shared.write_report(Report(host.system_id, occupied, problems), host, self.deadline)
        return self.records

    def make(self, wanted: Network, host: Chassis = HOST1, overlay: Overlay | None = None) -> None:
        """Make a network as Docker asks *host* to."""
        self.records[wanted.id] = (overlay or self.overlay)(host).create_network(wanted, self.deadline)

    def run(self, endpoint: Endpoint, name: str, host: Chassis = HOST1) -> None:
        """Start a container as Docker asks *host* to."""
        self.records[endpoint.id] = self.overlay(host).create_endpoint(endpoint, self.deadline).record
        names = ContainerNames((name, endpoint.id[:12]), ("alias",))
        self.names.set_names(endpoint.id, names, host, self.deadline)

    def local_networks(self) -> None:
        """Networks of one host, of a user's logical switch, of swarm, and of Docker's global scope."""
        self.make(network(PRIVATE, 1, ipv6=True, mtu=1300))
        self.run(container(0x11, PRIVATE, "10.1.1.2/24", "fd00:1::2/64", groups=("web",)), "private")
        self.make(network(WIDER, 2, internal=True, allowed=parse("10.1.2.100,02:00:00:00:01:01/10.1.2.101")))
        self.run(container(0x21, WIDER, "10.1.2.2/24"), "first")
        self.run(container(0x22, WIDER, "10.1.2.3/24"), "second")
        self.make(network(OPEN, 3, any_router=True, port_security=False, deny=True))
        self.run(container(0x31, OPEN, "10.1.3.2/24"), "open")
        switch = row_uuid("network", OPEN)
        stored = policies.read(self.database, switch, self.deadline)
        policies.write(self.database, stored, "rules:\n- allow: any\n", self.deadline)
        self.server.insert("Logical_Switch", name="users")
        self.make(network(ATTACHED, 4, switch="users"))
        self.run(container(0x41, ATTACHED, "10.1.4.2/24"), "attached")
        self.make(network(GLOBAL, 5), overlay=self.everywhere)
        self.run(container(0x51, GLOBAL, "10.1.5.2/24"), "global")
        self.overlay(HOST1).create_network(network(SWARM, 6), self.deadline, kept=True)
        self.overlay(HOST1).create_network(network(SWARM, 6), self.deadline)

    def shared_networks(self) -> None:
        """``web``, which both hosts have, with addresses of our IPAM; one that host1 left; one removed."""
        for host, pool in ((HOST1, BOUND), (HOST2, BOUND2)):
            self.addresses(host).add_pool(
                Pool(pool, ip_network("10.1.9.0/24"), ip_network("10.1.9.128/25"), picked=True),
                self.deadline,
            )  # fmt: skip
            web = network(WEB[host.system_id], 9, ours=True, name="web", mtu=1300)
            self.make(web, host)
            stored = self.addresses(host).pool(pool, self.deadline)
            self.addresses(host).reserve(stored, ip_address("10.1.9.1"), self.deadline)
            (found,) = self.shared.networks(host, self.deadline)
            self.shared.write_note(web.id, Note(found.incarnation, used=True), host, self.deadline)
        self.shared.define(definition_of("web", *web.subnets), HOST1, self.deadline)
        for number, host, pool in ((0x91, HOST1, BOUND), (0x92, HOST2, BOUND2)):
            self.lease(pool, f"10.1.9.{number}", host)
            self.run(container(number, WEB[host.system_id], f"10.1.9.{number}/24"), f"web{number}", host)
        self.lease(BOUND, "10.1.9.200", HOST1)
        self.addresses(HOST1).release(BOUND, ip_address("10.1.9.200"), self.deadline)
        for id_, host in ((LEFT, HOST1), (LEFT2, HOST2)):
            self.make(network(id_, 10, name="left"), host)
        self.shared.define(definition_of("left", *network(LEFT, 10).subnets), HOST1, self.deadline)
        self.run(container(0xA2, LEFT2, "10.1.10.2/24"), "busy", HOST2)
        self.overlay(HOST1).delete_network(LEFT, self.deadline)
        del self.records[LEFT]
        self.make(network(REMOVED2, 11, name="removed"), HOST2)
        self.shared.remove("removed", HOST1, self.deadline, force=True)

    def lease(self, pool: PoolId, address: str, host: Chassis) -> None:
        """Lease an address of a pool to a container of *host*."""
        stored = self.addresses(host).pool(pool, self.deadline)
        self.addresses(host).lease(Lease(stored, ip_address(address), Picked("web")), self.deadline)

    def leftovers(self) -> None:
        """Write rows whose owner is gone, as a kill or a command of the user leaves them."""
        known = dict(self.records)
        self.addresses(HOST1).add_pool(Pool(FREE, ip_network("10.1.20.0/24")), self.deadline)
        self.lease(BOUND, "10.1.9.201", HOST1)  # no endpoint came
        killed = [container(0x93, WEB["host1"], "10.1.9.147/24"), container(0x23, WIDER, "10.1.2.4/24")]
        for one in killed:
            self.run(one, "killed")
        self.delete_ports(*(one.id for one in killed))
        self.make(network(UNUSED, 21, name="unused"))
        self.delete("DHCP_Options", ["cidr", "==", "10.1.21.0/24"])  # its note
        self.make(network(SWITCHLESS, 22, name="switchless"))
        self.delete("Logical_Switch", ["name", "==", "switchless"])
        self.addresses(HOST1).add_pool(Pool(ORPHAN, ip_network("10.1.23.0/24")), self.deadline)
        self.make(network(LOST, 23, ours=True, allowed=parse("10.1.23.9")))
        self.run(container(0xC1, LOST, "10.1.23.2/24"), "lost")
        self.delete("Logical_Switch", ["name", "==", LOST])
        self.records = known

    def delete(self, table: str, *where: ovsdb.Condition) -> None:
        """Delete rows by hand."""
        self.server.transact({"op": "delete", "table": table, "where": list(where)})

    def delete_ports(self, *endpoints: EndpointId) -> None:
        """Delete logical switch ports as ``ovn-nbctl lsp-del`` does."""
        ports = [row["_uuid"] for row in self.server.rows("Logical_Switch_Port") if row["name"] in endpoints]
        gone = [["ports", "delete", ["set", [["uuid", port] for port in ports]]]]
        self.server.transact({"op": "mutate", "table": "Logical_Switch", "where": [], "mutations": gone})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        northbound = OvsdbServer(Path(directory), "OVN_Northbound")
        connection = Database("OVN_Northbound", [northbound.remote])
        sys.stdout.write(record(northbound, connection).text)
        print(f"recorded rows of ovn-docker {__version__}", file=sys.stderr)
        connection.close()
        northbound.kill()
