"""Measure 3: the cost of the size of the cluster for a host."""

import random
import secrets
import time
from collections import defaultdict
from typing import Any
from uuid import uuid4

from bench.floor import Ovsdb
from bench.laboratory import OURS, SUBJECTS, Laboratory, usage
from bench.lives import FLOOR
from bench.plugin_calls import CALLS, Plugin
from bench.report import Line, p50
from e2e.lab import Host, wait_for
from ovn_docker.host.ovsdb import Reference, insert, is_row, mutate
from ovn_docker.model import row_uuid

MS = 1000.0
NORTHBOUND_PORT = 6651
WITHOUT_FLOWS = [call for call in CALLS if call != "Join"]
SWITCH_PORTS = 100


def cluster(
    laboratory: Laboratory, sizes: list[int], lives: int, real: int
) -> tuple[list[Line], dict[str, Any]]:
    """Measure an endpoint's life, and the daemon's memory, processor time and start, with *sizes* ports.

    These ports are in a northbound database that no ovn-northd reads, so there are no flows, and Join is left
    out; *real* ports go through ovn-northd.
    """
    empty, full = new_hosts(laboratory)
    lines: list[Line] = []
    details: dict[str, Any] = {}
    northbound, ports = Ovsdb(f"unix:{full.path('/run/nb.sock')}", "OVN_Northbound"), 0
    for size in sizes:
        fill(northbound, (size - ports) // SWITCH_PORTS)
        ports = size
        times = compared(laboratory, empty, full, lives)
        p50s = {
            name: {call: p50(values) * MS for call, values in calls.items()} for name, calls in times.items()
        }
        for call in (*WITHOUT_FLOWS, "sum") if size == sizes[-1] else ("sum",):
            with_ports, without = p50s["full"][call], p50s["empty"][call]
            what = f"3 {'life without Join' if call == 'sum' else call} with {size} ports in NB, p50"
            goal = {"goal": "≤ 1.2 of theirs", "met": with_ports <= 1.2 * without} if call == "sum" else {}
            lines.append(Line(what, with_ports, "ms", without, "empty NB", **goal))
        details[f"{size} ports"] = p50s
    lines += daemon(empty, full, ports)
    lines.append(large_network(laboratory, full, northbound, 100 * lives))
    lines.append(half_full_pool(full, northbound, 325 * lives, lives))
    more, details["real"] = through_northd(laboratory, real, lives)
    return lines + more, details


def new_hosts(laboratory: Laboratory) -> list[Host]:
    """Return two hosts, each with the driver and a northbound database of its own."""
    hosts = laboratory.fabric.add_hosts("empty", "full")
    for host in hosts:
        host.start_switch()
        host.join(laboratory.central.address)
        host.run("ovsdb-tool", "create", "/run/nb.db", "/usr/share/ovn/ovn-nb.ovsschema")
        remotes = (f"--remote=ptcp:{NORTHBOUND_PORT}", "--remote=punix:/run/nb.sock", "--unixctl=/run/nb.ctl")
        host.spawn("ovsdb-server", "/run/nb.db", *remotes)
        wait_for(host.path("/run/nb.sock").exists, f"the northbound database of {host.name}")
        nb = f"external_ids:ovn-nb=tcp:{host.address}:{NORTHBOUND_PORT}"
        host.run("ovs-vsctl", "set", "Open_vSwitch", ".", nb)
        host.driver.start("--sync=off")
    return hosts


def fill(northbound: Ovsdb, switches: int) -> None:
    """Make switches with many ports, and the claims of their addresses, as drivers on other hosts do."""
    for _ in range(switches):
        switch, operations, ports = str(uuid4()), [], []
        for number in range(SWITCH_PORTS):
            port, ip = str(uuid4()), f"10.0.{number // 250}.{number % 250 + 2}"
            mac = f"02:42:0a:00:{number // 250:02x}:{number % 250 + 2:02x}"
            ids = {"ovn-docker:owner": "overlay", "ovn-docker:host": "another", "ovn-docker:endpoint": port}
            columns = {"addresses": f"{mac} {ip}", "port_security": f"{mac} {ip}", "external_ids": ids}
            operations.append(insert("Logical_Switch_Port", port, name=secrets.token_hex(32), **columns))
            operations += [
                insert("DHCP_Options", str(uuid4()), cidr=what, external_ids=ids) for what in (ip, mac)
            ]
            ports.append(Reference(port))
        ids = {"ovn-docker:owner": "overlay", "subnet": "10.0.0.0/16"}
        row = insert("Logical_Switch", switch, name=secrets.token_hex(32), ports=ports, external_ids=ids)
        northbound.transact(*operations, row)


def compared(
    laboratory: Laboratory, empty: Host, full: Host, lives: int
) -> dict[str, dict[str, list[float]]]:
    """Measure endpoints' lives on both hosts, in turns."""
    times: dict[str, dict[str, list[float]]] = {"empty": defaultdict(list), "full": defaultdict(list)}
    each = max(2, lives // 10)
    for _ in range(0, lives, each):
        for host in random.sample([empty, full], 2):
            run = laboratory.lives(host, {"ours": OURS}, each, warm_up=2, calls=WITHOUT_FLOWS)
            for call, values in run["times"]["ours"].items():
                times[host.name][call] += values
    return times


def daemon(empty: Host, full: Host, ports: int) -> list[Line]:
    """Measure memory, processor time and start-up of the daemon."""
    memory = {host.name: usage(host, host.driver.pid or 0).memory for host in (empty, full)}
    before = {host.name: usage(host, host.driver.pid or 0) for host in (empty, full)}
    time.sleep(10)
    rest = {}
    for host in (empty, full):
        now = usage(host, host.driver.pid or 0)
        spent = now.user + now.system - before[host.name].user - before[host.name].system
        rest[host.name] = round(abs(spent) * 10, 1)
    starts = [start_up(full) for _ in range(5)]
    what = f"with {ports} ports in NB"
    return [
        Line(
            f"3 daemon's memory after load, {what}", memory["full"], "MiB", memory["empty"], "empty NB",
            "≤ 64 MiB", memory["full"] <= 64,
        ),
        Line(f"3 daemon's processor time at rest, {what}", rest["full"], "%", rest["empty"], "empty NB"),
        Line(f"3 daemon's start, {what}", p50(starts), "s", goal="≤ 1 s", met=p50(starts) <= 1),
    ]  # fmt: skip


def start_up(host: Host) -> float:
    """Measure the seconds from the command until Docker's first call is answered."""
    path = "/run/another.sock"
    start = time.perf_counter()
    pid = host.spawn(host.driver.argv[0], "--sync=off", f"--socket={path}")
    while True:
        try:
            Plugin(str(host.path(path))).call("GetCapabilities")
        except OSError:
            time.sleep(0.002)
        else:
            break
    took = time.perf_counter() - start
    host.kill(pid)
    host.path(path).unlink()
    return took


def large_network(laboratory: Laboratory, host: Host, northbound: Ovsdb, ports: int) -> Line:
    """Measure lives on a network with many endpoints and on an empty one, in turns."""
    networks = {name: secrets.token_hex(32) for name in ("large", "small")}
    plugin = Plugin(str(host.path(OURS)))
    for number, network in enumerate(networks.values()):
        plugin.create_network(network, f"10.{100 + number}.0.0/16", f"10.{100 + number}.0.1/16")
    for _ in range(ports // SWITCH_PORTS):
        rows = [str(uuid4()) for _ in range(SWITCH_PORTS)]
        inserts = [insert("Logical_Switch_Port", row, name=secrets.token_hex(32)) for row in rows]
        add = [["ports", "insert", [Reference(row) for row in rows]]]
        switch = is_row(row_uuid("network", networks["large"]))
        northbound.transact(*inserts, mutate("Logical_Switch", switch, mutations=add))
    subjects = dict.fromkeys(networks, OURS)
    run = laboratory.lives(
        host, subjects, max(2, ports // 200), warm_up=2, calls=WITHOUT_FLOWS, networks=networks
    )
    large, small = (p50(run["times"][name]["sum"]) * MS for name in ("large", "small"))
    return Line(f"3 life without Join on a network of {ports} endpoints, p50", large, "ms", small, "of none")


def half_full_pool(host: Host, northbound: Ovsdb, taken: int, rounds: int) -> Line:
    """Request addresses from a /16 with *taken* random leases, and from an empty /16, in turns."""
    plugin, pools = Plugin(str(host.path(OURS))), {}
    for name, subnet in (("half", "10.50.0.0/16"), ("empty", "10.51.0.0/16")):
        pool = plugin.call("RequestPool", driver="IpamDriver", Pool=subnet)["PoolID"]
        network = secrets.token_hex(32)
        data = {"AddressSpace": "openvswitch", "Pool": subnet, "Gateway": ""}
        plugin.call("CreateNetwork", NetworkID=network, Options={}, IPv4Data=[data], IPv6Data=[])
        pools[name] = pool, row_uuid("network", network)
    pool, switch = pools["half"]
    numbers = random.sample(range(2, 65534), min(taken, 65000))
    for first in range(0, len(numbers), 500):
        ips = [f"10.50.{number >> 8}.{number & 255}" for number in numbers[first : first + 500]]
        ids = {"ovn-docker:pool": pool, "ovn-docker:switch": switch, "ovn-docker:state": "leased"}
        northbound.transact(
            *(insert("DHCP_Options", row_uuid("lease", switch, ip), cidr=ip, external_ids=ids) for ip in ips)
        )
    times: dict[str, list[float]] = {"half": [], "empty": []}
    for _ in range(rounds):
        for name in random.sample(sorted(times), 2):
            start = time.perf_counter()
            plugin.call("RequestAddress", driver="IpamDriver", PoolID=pools[name][0], Address="")
            times[name].append(time.perf_counter() - start)
    half, empty = p50(times["half"]) * MS, p50(times["empty"]) * MS
    return Line(
        f"3 RequestAddress from a /16 with {len(numbers)} given away, p50", half, "ms", empty, "empty /16"
    )


def through_northd(laboratory: Laboratory, ports: int, lives: int) -> tuple[list[Line], dict[str, Any]]:
    """Measure whole lives, flows included, without other hosts' ports in OVN, with them, and without."""
    host = laboratory.central
    northbound = Ovsdb(f"unix:{host.path('/run/ovn/ovnnb_db.sock')}", "OVN_Northbound")
    subjects = {name: SUBJECTS[name] for name in ("ours", FLOOR)}

    def sums() -> dict[str, list[float]]:
        host.run("ovn-nbctl", "--wait=sb", "--timeout=120", "sync", timeout=130)
        times = laboratory.lives(host, subjects, lives, warm_up=2)["times"]
        return {name: times[name]["sum"] for name in subjects}

    before = sums()
    fill(northbound, ports // SWITCH_PORTS)
    loaded = sums()
    named = ("--columns=_uuid", "find", "Logical_Switch", 'external_ids:subnet="10.0.0.0/16"')
    for switch in host.run("ovn-nbctl", "--bare", *named).split():
        host.run("ovn-nbctl", "ls-del", switch)
    after = sums()
    lines = []
    for name, label in (("ours", "life"), (FLOOR, "the floor's life")):
        idle = p50(before[name] + after[name]) * MS
        what = f"3 {label} with {ports} ports through ovn-northd, p50"
        lines.append(Line(what, p50(loaded[name]) * MS, "ms", idle, "without them"))
    return lines, {"before": before, "loaded": loaded, "after": after}
