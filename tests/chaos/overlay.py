"""The overlay mode: three hosts, with OVN's databases on the first or on all of them."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from random import Random
from typing import Any

from chaos import views
from chaos.faults import CUT_OFF, POWER_CUT, bring_up, cut, kill_or_freeze, power_cut, service_of, slow
from chaos.mode import Kind, Strike
from chaos.views import Endpoint, View
from e2e.lab import Fabric, Host, LabError

_NORTHBOUND = {
    "Logical_Switch": ["_uuid", "name", "ports", "dns_records"],
    "Logical_Switch_Port": ["_uuid", "name", "type", "addresses", "port_security", "external_ids"],
    "DHCP_Options": ["_uuid", "cidr", "external_ids"],
    "DNS": ["_uuid", "records", "external_ids"],
    "Logical_Router": ["_uuid", "name"],
}


class Overlay:
    """Hosts with a version of Docker; with *raft* all are members of OVN's clustered databases."""

    follow = True
    driver: Sequence[str] = ("--request-timeout=5", "--sweep-interval=6")

    def __init__(self, fabric: Fabric, engine: str = "20.10", *, raft: bool = False) -> None:
        self._raft = raft
        self.hosts: Sequence[Host] = fabric.cluster("host1", "host2", "host3", engine=engine, raft=raft)
        self.machines = self.hosts
        self.docker: Mapping[str, object] = {"dns": ["169.254.53.1", "169.254.53.2"]}
        self.kinds: Mapping[str, Kind] = kinds(tuple(host.name for host in self.hosts), raft=raft)

    def start_around(self) -> None:
        """Do nothing: there are no other machines."""

    def start_network(self, host: Host) -> None:
        """Start Open vSwitch, OVN's databases if this host has them, and ovn-controller."""
        bring_up(host.ovsdb, host.vswitchd)
        if self._raft:
            host.start_member()
        elif host is self.hosts[0]:
            bring_up(host.northbound, host.southbound, host.northd)
        bring_up(host.controller)

    def let_time_pass(self) -> None:
        """Do nothing: leftovers of the overlay mode do not hinder commands."""

    def wanted(self, there: Iterable[View]) -> Iterator[str]:
        """Yield the parts that OVN's northbound database should have."""
        for view in there:
            for network in view.networks.values():
                yield from _for_network(view.host.name, network)
            for endpoint in view.endpoints:
                yield from _for_endpoint(endpoint)

    def found(self, there: Iterable[View]) -> set[str]:
        """Return the parts that OVN's northbound database has."""
        return _northbound([view.host for view in there])

    def evidence(self) -> str:
        """Return the contents of OVN's databases."""
        shows = (("nbctl", "show"), ("nbctl", "list DHCP_Options"), ("sbctl", "show"))
        commands = (f"ovn-{database} --no-leader-only {what}" for database, what in shows)
        first = self.hosts[0]
        return "\n\n".join(
            f"{first.name}$ {command}\n{first.run(*command.split(), check=False)}" for command in commands
        )


def kinds(hosts: tuple[str, ...], *, raft: bool) -> dict[str, Kind]:
    """Return the kinds of faults of hosts; with *raft* all have OVN's databases, else the first."""
    central = hosts if raft else hosts[:1]
    kinds = kill_or_freeze(("driver", "dockerd", "vswitchd", "ovsdb", "controller"), hosts)
    kinds |= kill_or_freeze(("northbound", "southbound", "northd"), central)
    kinds["slow northbound"] = Kind(slow("northbound"), central)
    if raft:
        for name, database in (("northbound", "OVN_Northbound"), ("southbound", "OVN_Southbound")):
            kinds[f"kill -9 {name}'s leader"] = Kind(_kill_leader(name, database), hosts)
    return kinds | {
        CUT_OFF: Kind(cut(0), hosts),
        "cut off from the tunnels": Kind(cut(1), hosts),
        "cut off from all": Kind(cut(0, 1), hosts),
        POWER_CUT: Kind(power_cut, hosts),
        "rows deleted by hand": Kind(_delete_rows, hosts[:1]),
    }


def _delete_rows(host: Host, _: ExitStack) -> None:
    """Delete a third of our rows in some tables of the northbound database, at least one in each.

    The choice depends on the rows alone, so that a run with the same seed repeats it.
    """
    ovn_nbctl = ("ovn-nbctl", "--timeout=5", "--no-leader-only")
    ours = "external_ids:ovn-docker\\:owner=overlay"
    there = {
        table: sorted(host.run(*ovn_nbctl, "--bare", "--columns=_uuid", "find", table, ours).split())
        for table in sorted(_NORTHBOUND)
    }
    rng = Random(repr(there))
    for table in rng.sample(sorted(there), rng.randint(1, len(there))):
        for row in rng.sample(there[table], -(-len(there[table]) // 3)):
            delete = ("lsp-del",) if table == "Logical_Switch_Port" else ("destroy", table)
            host.run(*ovn_nbctl, "--if-exists", *delete, row)


def _kill_leader(service: str, database: str) -> Strike:
    """Return a fault that kills the leader of a database; without a leader, the server of the given host."""

    def strike(host: Host, _: ExitStack) -> None:
        def leads(one: Host) -> bool:
            server = service_of(one, service)
            return bool(server.pid) and "Leader: self" in server.appctl("cluster/status", database)

        with suppress(LabError):  # a frozen or killed server does not answer
            host = next(filter(leads, host.fabric.hosts), host)
        service_of(host, service).kill()

    return strike


def _for_network(host: str, network: views.Row) -> Iterator[str]:
    name, id_ = views.shared_name(network), network["Id"]
    yield f"switch {name or id_}"
    if name:
        yield f"note of {host}: {id_[:12]} is {name}"
        yield f"port to a router on switch {name}"
    if network["IPAM"]["Driver"] == "openvswitch":
        for config in network["IPAM"]["Config"]:
            yield f"pool {config['Subnet']} of {id_[:12]}"


def _for_endpoint(one: Endpoint) -> Iterator[str]:
    yield f"port {one.id} of {one.host} on switch {one.switch}: {one.held}"
    for what in (one.mac, *one.addresses):
        yield f"claim of {what} on switch {one.switch} by {one.id[:12]}"
    if one.leases:
        for address in one.addresses:
            yield f"lease of {address} on switch {one.switch} to {one.host}"
    if one.shared:
        yield f"claim of {one.container} on switch {one.switch} by {one.id[:12]}"
        yield f"name {one.container}.{one.network} on switch {one.switch}: {' '.join(one.addresses)}"


def _northbound(hosts: Iterable[Host]) -> set[str]:
    sockets = [host.path("/run/ovn/ovnnb_db.sock") for host in hosts]
    rows = views.read("OVN_Northbound", [socket for socket in sockets if socket.exists()], _NORTHBOUND)
    switches = {row["_uuid"]: row["name"] for row in rows["Logical_Switch"]}
    ports = {row["_uuid"]: row for row in rows["Logical_Switch_Port"]}
    names = {row["_uuid"]: row for row in rows["DNS"]}
    things = {f"switch {name}" for name in switches.values()}
    routed = 0
    for switch in rows["Logical_Switch"]:
        for port in (ports.pop(row) for row in _several(switch["ports"])):
            if port["type"] == "router":
                routed += 1
                things.add(f"port to a router on switch {switch['name']}")
            else:
                host = port["external_ids"].get("ovn-docker:host")
                things.add(f"port {port['name']} of {host} on switch {switch['name']}: {port['addresses']}")
        for record in (names.pop(row, None) for row in _several(switch["dns_records"])):
            things |= (
                _names(record, switch["name"]) if record else {f"reference to no name on {switch['name']}"}
            )
    things |= {f"port {row['name']} on no switch" for row in ports.values()}
    things |= {f"names {row['records']} on no switch" for row in names.values()}
    if len(rows["Logical_Router"]) != routed:
        things.add(f"{len(rows['Logical_Router'])} routers for {routed} ports")
    return things.union(
        *(_of_dhcp_options(row, switches, rows["DHCP_Options"]) for row in rows["DHCP_Options"])
    )


def _names(record: views.Row, switch: str) -> set[str]:
    ids = record["external_ids"]
    name = f"{ids.get('ovn-docker:container')}.{switch}"
    return {f"name {name} on switch {switch}: {record['records'].get(name)}"}


def _of_dhcp_options(row: views.Row, switches: dict[str, str], all_rows: list[views.Row]) -> set[str]:
    """Return the part that a row of DHCP_Options stands for; empty if the row may exist for a while.

    Kinds of rows: docs/architecture.md.
    """
    ids = row["external_ids"]
    host, state, what = ids.get("ovn-docker:host"), ids.get("ovn-docker:state"), row["cidr"]
    network = ids.get("ovn-docker:network", "")[:12]
    switch = switches.get(ids.get("ovn-docker:switch", ""), "that is gone")
    if "ovn-docker:generation" in ids or "ovn-docker:left" in ids:
        return set()
    if "ovn-docker:rank" in ids and what != ids.get(
        "ovn-docker:container"
    ):  # another name than the container's own
        return set()
    if "ovn-docker:endpoint" in ids:
        return {f"claim of {what} on switch {switch} by {ids['ovn-docker:endpoint'][:12]}"}
    if "ovn-docker:note" in ids:
        return {f"note of {host}: {network} is {ids.get('ovn-docker:name')}"}
    if state == "bound":
        return {f"pool {what} of {network}"}
    if state == "released":  # the address rests as long as its pool exists
        pools = {row["_uuid"] for row in all_rows}
        return (
            set()
            if ids.get("ovn-docker:pool") in pools
            else {f"released lease of {what}, whose pool is gone"}
        )
    unused = not any(_claims(other, row) for other in all_rows)
    if unused and _age(ids) < views.UNUSED:  # Docker was killed before it used the address or pool
        return set()
    return {
        f"lease of {what} on switch {switch} to {host}"
        if state == "leased"
        else f"{state} pool {what} of {host}"
    }


def _claims(claim: views.Row, lease: views.Row) -> bool:
    """Return whether a row is the claim of an endpoint to the address of a lease."""
    of_endpoint = "ovn-docker:endpoint" in claim["external_ids"]
    same = [one["external_ids"].get("ovn-docker:switch") for one in (claim, lease)]
    return of_endpoint and claim["cidr"] == lease["cidr"] and same[0] == same[1]


def _age(ids: dict[str, str]) -> float:
    created = float(ids.get("ovn-docker:created", "0"))
    return time.time() - (created / 1e9 if created > 1e15 else created)


def _several(column: Any) -> list[Any]:
    """Return a set column as a list: OVSDB sends a set of one member as that member."""
    return column if isinstance(column, list) else [column]
