"""``ovn-docker status``: the state of this host."""

import argparse
import time
from collections.abc import Iterable

from ovn_docker.cli.arguments import describe
from ovn_docker.errors import Forbidden, Unavailable
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Sources
from ovn_docker.inspect.snapshot import Scope, Snapshot
from ovn_docker.text.output import bad, doubtful, good, print_json, print_table, say

TEXT = """\
Show the state of this host: Docker, the driver, Open vSwitch, OVN's databases and the changes that this host
has not applied yet, the tunnels to other hosts, networks and containers. It reads only this host's rows.

Exit code 0: everything runs; 3: something does not run or answer (`ovn-docker doctor` shows cause and cure).

examples:
  ovn-docker status
  ovn-docker status --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``ovn-docker status``."""
    describe(parser, TEXT, run)


def run(args: argparse.Namespace) -> int:
    """Print a line for each part of the host."""
    with Sources() as sources:
        cluster = ClusterView(sources.gather(Scope.HOST))
    snapshot = cluster.snapshot
    absent = snapshot.missing.keys() - (OVN if snapshot.underlay else set())
    dead = [*absent, *(one.name for one in snapshot.needed_daemons if one.pid is None)]
    if args.json:
        print_json(as_json(cluster))
    else:
        print_table([(part, toned(state), remark) for part, state, remark in parts(cluster)])
        if cluster.tunnels:
            say()
            print_table([("TUNNEL TO", "ADDRESS", "PORT", "STATE", "SENT", "RECEIVED"), *tunnels(cluster)])
    if snapshot.barred:
        raise Forbidden(f"some parts are not shown: {snapshot.barred}")
    return Unavailable.exit_code if dead else 0


def toned(state: str) -> str:
    """Return the state of a part with the tone of its meaning."""
    if state in {"up", "current"}:
        return good(state)
    return bad(state) if state == "down" else doubtful(state) if state in {"late", "unknown"} else state


def down(snapshot: Snapshot, part: str) -> str:
    """Return the state of a part that could not be read."""
    return "unknown" if part in snapshot.forbidden else "down"


OVN = {"northbound", "southbound"}
"""Parts that are not on this host in the underlay mode."""


def parts(cluster: ClusterView) -> Iterable[tuple[str, str, str]]:
    """Yield the lines of the table: a part, its state, a remark."""
    snapshot, missing = cluster.snapshot, cluster.snapshot.missing
    switch = snapshot.vswitch
    called, id_ = ("Neutron port", snapshot.vif) if snapshot.underlay else ("system-id", snapshot.system_id)
    yield "host", snapshot.host, f"{called} {id_ or 'unknown'}"
    if engine := snapshot.engine:
        yield "docker", f"version {engine.version}", "in swarm mode" if engine.swarm else ""
    else:
        yield "docker", down(snapshot, "docker"), missing["docker"]
    if driver := snapshot.driver:
        since = next((one.since for one in snapshot.daemons if one.pid == driver.pid and driver.pid), None)
        remark = ", ".join(filter(None, (_since(since, snapshot.taken), driver.requests)))
        yield "driver", f"version {driver.version}" if driver.version else "up", remark
    else:
        yield "driver", down(snapshot, "driver"), missing["driver"]
    for process in snapshot.needed_daemons:
        state = "up" if process.pid else "down"
        remark = f"version {switch.version}" if switch and process.name == "ovs-vswitchd" else ""
        yield process.name, state, ", ".join(filter(None, (remark, _since(process.since, snapshot.taken))))
    if not snapshot.underlay:
        yield from databases(cluster)
    here = [network for network in cluster.networks if network.here]
    yield "networks", str(len(here)), ", ".join(network.name for network in here)
    containers = [endpoint for endpoint in cluster.endpoints if endpoint.here]
    wrong = [endpoint.container for endpoint in containers if endpoint.differences]
    yield "endpoints", str(len(containers)), f"differences at {', '.join(wrong)}" if wrong else ""


def databases(cluster: ClusterView) -> Iterable[tuple[str, str, str]]:
    """Yield the lines of OVN's databases, and of this host's chassis."""
    snapshot, missing = cluster.snapshot, cluster.snapshot.missing
    northbound, southbound = snapshot.northbound, snapshot.southbound
    for name, database in (("northbound", northbound), ("southbound", southbound)):
        if database:
            yield name, "up", database.remote
        else:
            yield name, down(snapshot, name), missing[name]
    if northbound and southbound:
        behind = next((host.behind for host in cluster.hosts if host.here), None)
        yield "changes", *_lag(northbound.nb_cfg - southbound.nb_cfg, behind)
    chassis = cluster.chassis.get(snapshot.system_id)
    if southbound:
        encaps = (
            ", ".join(f"{encap.type} {encap.ip}" for encap in chassis.encaps) if chassis else "not registered"
        )
        yield "chassis", snapshot.system_id if chassis else "none", encaps


def tunnels(cluster: ClusterView) -> Iterable[tuple[str, ...]]:
    """Yield the lines of the table of tunnels."""
    for one in cluster.tunnels:
        state = good(one.state) if one.state == "up" else bad(one.state)
        yield one.host, one.remote_ip, one.port, state, str(one.tx_packets), str(one.rx_packets)


def as_json(cluster: ClusterView) -> dict[str, object]:
    """Return what --json prints."""
    snapshot = cluster.snapshot
    northbound, southbound = snapshot.northbound, snapshot.southbound
    return {
        "host": snapshot.host,
        "system_id": snapshot.system_id,
        "missing": dict(snapshot.missing),
        "docker": snapshot.engine.version if snapshot.engine else None,
        "driver": snapshot.driver,
        "processes": snapshot.daemons,
        "northbound": northbound and {"remote": northbound.remote, "nb_cfg": northbound.nb_cfg},
        "southbound": southbound and {"remote": southbound.remote, "nb_cfg": southbound.nb_cfg},
        "behind": next((host.behind for host in cluster.hosts if host.here), None),
        "tunnels": cluster.tunnels,
        "networks": [network for network in cluster.networks if network.here],
        "endpoints": [endpoint for endpoint in cluster.endpoints if endpoint.here],
    }


def _lag(northd: int, here: int | None) -> tuple[str, str]:
    """Describe how far ovn-northd and this host's ovn-controller are behind, in changes of ``nb_cfg``."""
    if northd > 0:
        return "late", f"ovn-northd is {northd} behind the northbound database"
    if here:
        return "late", f"ovn-controller here is {here} behind the northbound database"
    return "current", ""


def _since(since: float | None, now: float) -> str:
    return (
        f"since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(since))}" if since and since <= now else ""
    )
