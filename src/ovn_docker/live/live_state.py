"""The state of the cluster as a document for browsers, with bounds on its size. Pure but for the clock.

Everything in it may have been written by a hostile host or named by a hostile user: texts are cut, lists end,
and draw/live.js puts texts on the page as texts only.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ovn_docker.doctor.diagnosis import Result, Severity
from ovn_docker.draw import layout
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.description import description
from ovn_docker.inspect.views import EndpointView
from ovn_docker.live.peers import PeerAnswer, PeerState
from ovn_docker.live.rates import Counters, Rates, Traffic
from ovn_docker.text.printable import command, one_line

CONTAINERS = 2000
"""Largest number of containers in the document: those with differences first, then those of this host."""

NETWORKS, HOSTS, TUNNELS, FINDINGS = 1000, 1000, 4000, 200
"""Largest numbers of networks, of hosts, of tunnels, and of findings and differences."""

_STALE = 60.0
"""Seconds for which the answer of a peer is shown."""

_TEXT = 400
"""Largest number of characters of a text."""

_MEMBERS = 16
"""Largest number of texts in a list, such as the addresses of a container."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Results of the doctor at a time (seconds of the epoch); *problem*: the reason why there are none."""

    taken: float
    results: tuple[Result, ...] = ()
    problem: str = ""


def counters(cluster: ClusterView) -> Counters:
    """Return the bytes of this host's endpoints, by ID, and of its tunnels, by system-id of the other host.

    The port of a container receives the packets that the container sends (metrics.py, STATISTICS).
    """
    found = {}
    for id_, interface in cluster.interfaces.items():
        counted = interface.statistics
        found[id_] = counted.get("rx_bytes", 0), counted.get("tx_bytes", 0)
    interfaces = cluster.snapshot.vswitch.tunnels if cluster.snapshot.vswitch else ()
    by_name = {interface.name: interface.statistics for interface in interfaces}
    for tunnel in cluster.tunnels:
        if counted := by_name.get(tunnel.port, {}):
            found[f"tunnel {tunnel.system_id}"] = counted.get("tx_bytes", 0), counted.get("rx_bytes", 0)
    return found


class Measured:
    """Traffic of endpoints and hosts: this host's, and what its *peers* say of themselves.

    A peer counts for the host whose system-id it gives, once, if OVN has that host.
    """

    def __init__(self, cluster: ClusterView, rates: Rates, peers: Sequence[PeerAnswer] = ()) -> None:
        self._cluster = cluster
        self._rates = rates
        self._where: dict[str, PeerAnswer] = {}
        self.problems: list[str] = []
        """Reasons why peers are not shown."""
        for peer in peers:
            state = peer.state
            if state is None:
                self.problems.append(f"page of {peer.where}: {peer.problem}")
            elif time.monotonic() - peer.taken > _STALE:
                continue  # no browser has asked for a while: the next answer is on its way
            elif state.host == cluster.snapshot.system_id or state.host in self._where:
                self.problems.append(f"page of {peer.where}: it is the page of a host that is shown already")
            elif state.host not in cluster.chassis:
                self.problems.append(f"page of {peer.where}: OVN does not have its host {state.host[:64]!r}")
            else:
                self._where[state.host] = peer

    @property
    def peers(self) -> dict[str, PeerState]:
        """The states of peers, by system-id."""
        return {host: peer.state for host, peer in self._where.items() if peer.state}

    def of(self, one: EndpointView) -> Traffic | None:
        """Return the traffic of an endpoint; ``None`` if it is not known."""
        if one.here:
            return self._rates.of(one.id)
        port = self._cluster.ports.get(one.id)
        peer = self._where.get(port.host) if port else None
        found = peer.state.traffic.get(one.id) if peer and peer.state else None
        return Traffic(*found) if found else None

    def source(self, system_id: str) -> str:
        """Return where the traffic of a host comes from, in words; empty if it is not known."""
        if system_id == self._cluster.snapshot.system_id:
            return "this page"
        peer = self._where.get(system_id)
        return f"its page at {peer.where}" if peer else ""


def document(cluster: ClusterView, rates: Rates, peers: Sequence[PeerAnswer] = ()) -> dict[str, Any]:
    """Return the state for JSON; the server adds the picture's version and the diagnosis."""
    snapshot, endpoints, measured = cluster.snapshot, cluster.endpoints, Measured(cluster, rates, peers)
    shown = sorted(endpoints, key=lambda one: (not one.differences, not one.here))[:CONTAINERS]
    shown.sort(key=lambda one: (one.container, one.network, one.id))
    tunnels = [*_own_tunnels(cluster, rates), *_tunnels_of_peers(cluster, measured.peers)]
    return {
        "taken": round(snapshot.taken, 3),
        "host": _text(snapshot.host),
        "underlay": snapshot.underlay,
        "count": {
            "hosts": len(cluster.hosts),
            "networks": len(cluster.networks),
            "containers": len(endpoints),
            "measured": 1 + len(measured.peers),
        },
        "traffic": _traffic(_sum(map(measured.of, endpoints))),
        "problems": _problems(cluster, measured.problems),
        "findings": _findings_of_peers(cluster, measured.peers),
        "hosts": [
            {
                "name": _text(host.name),
                "id": _text(host.system_id),
                "here": host.here,
                "encaps": _texts(host.encaps),
                "containers": host.endpoints,
                "behind": host.behind,
                "measured": _text(measured.source(host.system_id)),
            }
            for host in cluster.hosts[:HOSTS]
        ],
        "tunnels": tunnels[:TUNNELS],
        "networks": _networks(cluster, measured),
        "containers": [_container(one, measured) for one in shown],
    }


def own_document(cluster: ClusterView, rates: Rates) -> dict[str, Any]:
    """Return what only this host knows, for the pages of other hosts (peers.py); the server adds findings."""
    here = [one.id for one in cluster.endpoints if one.here][:CONTAINERS]
    return {
        "host": _text(cluster.snapshot.system_id),
        "traffic": {_text(id_): found for id_ in here if (found := _traffic(rates.of(id_)))},
        "tunnels": [
            {
                "to": _text(tunnel.system_id),
                "address": _text(tunnel.remote_ip),
                "type": _text(tunnel.type),
                "state": _text(tunnel.state),
                "traffic": _traffic(rates.of(f"tunnel {tunnel.system_id}")),
            }
            for tunnel in cluster.tunnels[:HOSTS]
        ],
    }


def _own_tunnels(cluster: ClusterView, rates: Rates) -> Iterator[dict[str, Any]]:
    for tunnel in cluster.tunnels[:HOSTS]:
        yield {
            "from": _text(cluster.host_name(cluster.snapshot.system_id) or cluster.snapshot.host),
            "to": _text(tunnel.host),
            "address": _text(tunnel.remote_ip),
            "type": _text(tunnel.type),
            "state": _text(tunnel.state),
            "traffic": _traffic(rates.of(f"tunnel {tunnel.system_id}")),
        }


def _tunnels_of_peers(cluster: ClusterView, peers: Mapping[str, PeerState]) -> Iterator[dict[str, Any]]:
    for host, peer in peers.items():
        for tunnel in peer.tunnels:
            yield {
                "from": _text(cluster.host_name(host)),
                "to": _text(cluster.host_name(tunnel.to)),
                "address": _text(tunnel.address),
                "type": _text(tunnel.type),
                "state": _text(tunnel.state),
                "traffic": list(tunnel.traffic) if tunnel.traffic else None,
            }


def _findings_of_peers(cluster: ClusterView, peers: Mapping[str, PeerState]) -> list[dict[str, Any]]:
    """Return findings with the name of the host that has found them; commands are for that host."""
    return [
        {
            "check": _text(found.check),
            "severity": found.severity,
            "evidence": _text(f"{cluster.host_name(host)}: {found.evidence}"),
            "cure": _text(found.cure),
            "where": _text(found.where or cluster.host_name(host)),
            "commands": _texts(found.commands),
        }
        for host, peer in peers.items()
        for found in peer.findings
    ][:FINDINGS]


def diagnosed(diagnosis: Diagnosis | None) -> dict[str, Any] | None:
    """Return a diagnosis for JSON; ``None`` before the first one."""
    if diagnosis is None:
        return None
    findings = [(one.check.name, found) for one in diagnosis.results for found in one.findings]
    findings.sort(key=lambda one: one[1].severity is not Severity.FAIL)
    return {
        "taken": round(diagnosis.taken, 3),
        "problem": _text(diagnosis.problem),
        "checks": len(diagnosis.results),
        "unknown": sum(one.status == "unknown" for one in diagnosis.results),
        "findings": [
            {
                "check": name,
                "severity": found.severity.value,
                "evidence": _text(found.evidence),
                "cure": _text(found.cure),
                "where": _text(found.where),
                "commands": [_text(command(*words)) for words in found.commands[:_MEMBERS]],
            }
            for name, found in findings[:FINDINGS]
        ],
    }


def described(cluster: ClusterView, id_: str) -> list[tuple[str, str]] | None:
    """Return what ``inspect`` prints about a network or container of document(); ``None`` if it is gone."""
    endpoints = (one for one in cluster.endpoints if _text(one.id) == id_)
    networks = (one for one in cluster.networks if _text(one.switch or one.id) == id_)
    found = next(endpoints, None) or next(networks, None)
    if found is None:
        return None
    return [(_text(word), _text(text)) for word, text in islice(description(cluster, found), FINDINGS)]


def _problems(cluster: ClusterView, peers: Sequence[str]) -> list[str]:
    """Return the differences that ``ls`` shows, in its order, and why parts or peers are unknown."""
    found = [*(text for _, text in layout.faults(cluster)), *peers]
    more = [f"... and {len(found) - FINDINGS} more: see ovn-docker ls"] if len(found) > FINDINGS else []
    return [*_texts(found, FINDINGS), *more]


def _networks(cluster: ClusterView, measured: Measured) -> list[dict[str, Any]]:
    of_network: dict[str, list[EndpointView]] = defaultdict(list)
    for one in cluster.endpoints:
        of_network[one.switch or one.network].append(one)
    return [
        {
            "id": _text(network.switch or network.id),
            "name": _text(network.name),
            "subnets": _texts(network.subnets),
            "shared": network.shared,
            "here": network.here,
            "hosts": len(network.hosts),
            "containers": network.endpoints,
            "differences": _texts(network.differences),
            "traffic": _traffic(_sum(map(measured.of, of_network.get(network.switch or network.name, ())))),
        }
        for network in cluster.networks[:NETWORKS]
    ]


def _container(one: EndpointView, measured: Measured) -> dict[str, Any]:
    return {
        "id": _text(one.id),
        "name": _text(one.container),
        "network": _text(one.network),
        "host": _text(one.host),
        "here": one.here,
        "addresses": _texts(one.addresses),
        "mac": _text(one.mac),
        "docker": _text(one.state),
        "state": layout.state(one).value,
        "differences": _texts(one.differences),
        "traffic": _traffic(measured.of(one)),
    }


def _sum(found: Iterable[Traffic | None]) -> Traffic | None:
    """Return the sum of the known rates; ``None`` if none of them is known."""
    known = [one for one in found if one is not None]
    return sum(known, Traffic()) if known else None


def _traffic(found: Traffic | None) -> list[int] | None:
    """Return bytes sent and received in a second."""
    return [round(found.sent), round(found.received)] if found else None


def _texts(found: Sequence[str], most: int = _MEMBERS) -> list[str]:
    return [_text(text) for text in found[:most]]


def _text(text: str) -> str:
    return one_line(text[:_TEXT])
