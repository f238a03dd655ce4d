"""Wait until ovn-controller of every host has applied a change, as ``ovn-nbctl --wait=hv sync`` does."""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ovn_docker.deadline import Deadline
from ovn_docker.errors import OvnDockerError
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import TIMEOUT, Sources


@dataclass(frozen=True, slots=True)
class Sync:
    """The daemons that acknowledged a change of ``nb_cfg`` in time.

    *northd*: ovn-northd did; *ahead*: system-id of each host that did, to the seconds that its clock is ahead
    of this host's; *seen*: system-id to the host names and tunnel addresses that its row had meanwhile.
    """

    northd: bool
    ahead: Mapping[str, float]
    seen: Mapping[str, frozenset[str]]


def sync(sources: Sources) -> Sync | None:
    """Raise ``nb_cfg`` and watch the answers (ovn-nb(5), NB_Global; ovn-sb(5), Chassis_Private)."""
    northbound, southbound = sources.northbound, sources.southbound
    if northbound is None or southbound is None or sources.missing.keys() & {"northbound", "southbound"}:
        return None
    began, deadline, interval = time.time(), Deadline(TIMEOUT), 0.02
    seen: dict[str, set[str]] = defaultdict(set)
    ahead: dict[str, float] = {}
    try:
        _, (root,) = northbound.transact(
            ovsdb.mutate("NB_Global", mutations=[["nb_cfg", "+=", 1]]),
            ovsdb.select("NB_Global", columns=["nb_cfg"]),
            deadline=Deadline(TIMEOUT),
        )
        wanted = root.number("nb_cfg")
        while True:
            number, names = _observe(southbound, wanted, began, ahead, seen)
            northd = number >= wanted
            if (northd and names <= ahead.keys()) or deadline.left() <= 0:
                break
            time.sleep(min(interval, deadline.left()))
            interval *= 2
    except OvnDockerError:
        return None
    return Sync(northd, ahead, {name: frozenset(what) for name, what in seen.items()})


def _observe(
    southbound: Database, number: int, began: float, ahead: dict[str, float], seen: dict[str, set[str]]
) -> tuple[int, set[str]]:
    """Add new acknowledgements to *ahead*, rows to *seen*; return SB_Global's nb_cfg and all system-ids."""
    globals_, private, chassis, encaps = southbound.transact(
        ovsdb.select("SB_Global", columns=["nb_cfg"]),
        ovsdb.select("Chassis_Private", columns=["name", "nb_cfg", "nb_cfg_timestamp"]),
        ovsdb.select("Chassis", columns=["_uuid", "name", "hostname", "encaps"]),
        ovsdb.select("Encap", columns=["chassis_name", "ip"]),
        deadline=Deadline(TIMEOUT),
    )
    now = time.time()
    for row in private:
        if row.number("nb_cfg") >= number and row.text("name") not in ahead:
            then = row.number("nb_cfg_timestamp") / 1000
            ahead[row.text("name")] = then - now if then > now else min(0.0, then - began)
    ips: dict[str, list[str]] = defaultdict(list)
    for encap in encaps:
        ips[encap.text("chassis_name")].append(encap.text("ip"))
    for row in chassis:
        name = row.text("name")
        seen[name].add(f"{row.text('hostname')} ({', '.join(sorted(ips[name]))})")
    return globals_[0].number("nb_cfg") if globals_ else 0, {row.text("name") for row in chassis}


def watch_again(sources: Sources, sync: Sync) -> Sync:
    """Read the chassis five more times: two hosts with one system-id keep overwriting each other's row."""
    seen = {name: set(what) for name, what in sync.seen.items()}
    again: dict[str, set[str]] = defaultdict(set, seen)
    try:
        for _ in range(5):
            if sources.southbound is not None:
                _observe(sources.southbound, 1 << 62, 0, {}, again)
            time.sleep(0.03)
    except OvnDockerError:
        pass
    return Sync(sync.northd, sync.ahead, {name: frozenset(what) for name, what in again.items()})


def silent_hosts(cluster: ClusterView, sync: Sync | None) -> set[str]:
    """Return the system-ids of hosts that did not acknowledge the change."""
    return cluster.chassis.keys() - sync.ahead.keys() if sync is not None and sync.northd else set()
