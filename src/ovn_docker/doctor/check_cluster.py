"""Checks of the cluster: databases, ovn-northd, the other hosts, tunnels. Pure."""

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable
from uuid import NAMESPACE_DNS, uuid5

from ovn_docker.doctor.check_host import RESTART, START, set_external_id
from ovn_docker.doctor.diagnosis import CheckFunction, Facts, Finding, NotChecked, Severity
from ovn_docker.host.barrier import TUNNELS
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.sync import Sync
from ovn_docker.text.printable import command

CENTRAL = ("ovn-docker", "central", "start")

INCREMENTAL = (23, 9)
"""The first version of OVN whose ovn-northd computes the flows of a new port alone (docs/performance.md)."""

MOST_PORTS = 2000
"""Number of ports up to which an earlier version is quick enough."""

_NORTHD_VERSION = re.compile(r"([0-9]{2})\.([0-9]{2})(?=\.)")

SKEW = 5.0
"""Seconds by which clocks may differ."""


def central(facts: Facts) -> Iterable[Finding]:
    """The central machine can be reached."""
    missing = facts.snapshot.missing
    if not {"northbound", "southbound"} <= missing.keys():
        return
    hosts = _central_hosts(facts)
    if hosts and all("cannot reach" in missing[part] for part in ("northbound", "southbound")):
        yield Finding(
            f"OVN's databases do not answer: {_reason(missing['northbound'])}",
            f"check that {hosts} is up, reachable, and listens on TCP ports 6641 and 6642",
            (CENTRAL,),
            where=hosts,
        )


def database(part: str, setting: str) -> CheckFunction:
    """Return the check that a database answers.

    *part*: of the snapshot; *setting*: the setting with the database's addresses.
    """

    def check(facts: Facts) -> Iterable[Finding]:
        reason = facts.snapshot.missing.get(part)
        if reason is None:
            return
        where = _host_of(facts, setting)
        if "certificate" in reason or "TLS" in reason:
            yield Finding(
                _reason(reason),
                f"give both ends a valid certificate of the same authority: "
                f"`ovs-vsctl get-ssl` here, `ovn-{part[0]}bctl get-ssl` on {where}",
            )
        else:
            yield Finding(
                _reason(reason), f"start it on {where}, or correct {setting}", (CENTRAL,), where=where
            )

    return check


def members(facts: Facts) -> Iterable[Finding]:
    """Every server of the databases works, and each database cluster has a leader."""
    found = facts.probes.members
    for one in found:
        if one.problem:
            yield Finding(
                f"{one.database} at {one.remote}: {_reason(one.problem)}",
                "start it",
                (CENTRAL,),
                where=_ip(one.remote),
                severity=Severity.WARN,
            )
    for name in {one.database for one in found if one.clustered}:
        if not any(one.leader for one in found if one.database == name):
            yield Finding(
                f"the cluster of {name} has no leader",
                "start its servers until more than half of them run",
            )


def northd(facts: Facts) -> Iterable[Finding]:
    """ovn-northd writes changes to the southbound database."""
    if not _sync(facts).northd:
        where = _host_of(facts, "ovn-nb")
        yield Finding(
            "ovn-northd did not write a change to the southbound database within a few seconds: "
            "it does not run, or is busy",
            f"start it on {where}",
            (CENTRAL,),
            where=where,
        )


def northd_version(facts: Facts) -> Iterable[Finding]:
    """This version of ovn-northd handles as many ports as the cluster has."""
    northbound, ports = facts.snapshot.northbound, facts.probes.ports
    version = _NORTHD_VERSION.match(northbound.northd) if northbound else None
    if version and (int(version[1]), int(version[2])) < INCREMENTAL and ports > MOST_PORTS:
        where = _host_of(facts, "ovn-nb")
        yield Finding(
            f"the cluster has {ports} ports, and ovn-northd {version[0]} computes the flows of all ports for "
            f"each container that starts or ends: with more than {MOST_PORTS} ports containers start late",
            f"install OVN {INCREMENTAL[0]}.{INCREMENTAL[1]:02} or later on {where}",
            where=where,
            severity=Severity.WARN,
        )


def row_listeners(facts: Facts) -> Iterable[Finding]:
    """With TLS, the databases of this machine listen as their command lines say, not as rows do."""
    for title, targets in facts.probes.row_listeners.items():
        yield Finding(
            f"the {title} of this machine listens on {targets}, as a row of its table Connection says: every "
            "host can change that row, to listen without TLS or not at all",
            "restart the database: it then listens as its command line says",
            (CENTRAL,),
            severity=Severity.WARN,
        )


def certificate_name(facts: Facts) -> Iterable[Finding]:
    """If the southbound database has access control, this host's certificate names its system-id."""
    own = facts.snapshot.system_id
    if not facts.probes.restricted:
        return
    for one in facts.probes.certificates:
        if one.what == "certificate" and one.name and one.name != own:
            of_central = ("central", own, "--address", ",".join(one.addresses))
            command = ("ovn-docker", "pki", *(of_central if one.addresses else ("host", own)))
            yield Finding(
                f"the certificate {one.path} is for {one.name!r}, and this host's system-id is {own!r}: the "
                "southbound database lets a host change only rows that have the name in its certificate",
                "issue a certificate for the system-id, where the authority is, copy it over the files here, "
                "and restart ovn-controller, whose connection still uses the old one",
                (command,),
                where="authority",
            )


def registered(facts: Facts) -> Iterable[Finding]:
    """OVN has this host as a chassis."""
    system_id = facts.snapshot.system_id
    if facts.snapshot.southbound and system_id not in facts.cluster.chassis:
        yield Finding(
            f"there is no chassis {system_id} in the southbound database",
            "see /var/log/ovn/ovn-controller.log; restart it",
            RESTART,
        )


def system_id_unique(facts: Facts) -> Iterable[Finding]:
    """Every host has a system-id of its own."""
    snapshot, sync = facts.snapshot, _sync(facts)
    own_ip = snapshot.vswitch.encap_ip if snapshot.vswitch else ""
    for name, seen in sync.seen.items():
        is_own = name == snapshot.system_id
        is_taken = is_own and name not in sync.ahead and not any(own_ip in text for text in seen)
        if len({text.partition(" ")[0] for text in seen}) > 1 or is_taken:
            hosts = sorted(seen | ({f"{snapshot.host} ({own_ip})"} if is_own else set()))
            new = str(uuid5(NAMESPACE_DNS, f"{snapshot.host if is_own else hosts[-1]}.ovn-docker"))
            yield Finding(
                f"several hosts have the system-id {name}: {', '.join(hosts)}",
                "give one of them another, also in /etc/openvswitch/system-id.conf, and restart its "
                "containers",
                (("ovn-docker", "host", "stop"), set_external_id("system-id", new), START),
                subject="" if is_own else name,
                where="" if is_own else hosts[-1].partition(" ")[0],
            )


def hosts_answer(facts: Facts) -> Iterable[Finding]:
    """ovn-controller of every other host applies changes."""
    sync = _sync(facts)
    for host in facts.cluster.hosts:
        if not host.here and host.system_id not in sync.ahead:
            yield Finding(
                f"ovn-controller of {host.name} does not answer: the host is down or cut off, or "
                "ovn-controller does not run",
                f"start it there; if {host.name} is gone for good: {_forget(host.system_id)}, and "
                f"{command('ovn-sbctl', 'chassis-del', host.system_id)}",
                (START,),
                subject=host.system_id,
                where=host.name,
            )
    yield from _unregistered(facts)


def _unregistered(facts: Facts) -> Iterable[Finding]:
    """Find hosts with containers but no chassis: ovn-controller deletes its chassis when it is stopped."""
    cluster = facts.cluster
    for name in sorted({port.host for port in cluster.ports.values()} - cluster.chassis.keys()):
        ports = [port for port in cluster.ports.values() if port.host == name]
        claimed = [cluster.bindings[port.name].chassis for port in ports if port.name in cluster.bindings]
        if name != facts.snapshot.system_id and not any(claimed):
            left = f"{len(ports)} of its containers are on networks of this host"
            yield Finding(
                f"ovn-controller of {name} has been stopped; {left}",
                f"start it there; if {name} is gone for good: {_forget(name)}",
                (START,),
                subject=name,
                where=name,
            )


def _forget(system_id: str) -> str:
    return command("ovn-docker", "host", "forget", *(["--"] if system_id.startswith("-") else []), system_id)


def clock(facts: Facts) -> Iterable[Finding]:
    """The hosts' clocks agree within 5 s, and no port has a time in the future."""
    ahead = {k: v for k, v in _sync(facts).ahead.items() if k != facts.snapshot.system_id}
    wrong = {name: seconds for name, seconds in ahead.items() if abs(seconds) > SKEW}
    if len(wrong) > 1 and len(wrong) == len(ahead):
        seconds = -min(wrong.values(), key=abs)
        yield Finding(
            f"the clock of this host is {_ahead(seconds)} all others",
            "synchronize it with NTP",
            severity=Severity.WARN,
        )
        return
    for name, seconds in wrong.items():
        host = facts.cluster.host_name(name)
        yield Finding(
            f"the clock of {host} is {_ahead(seconds)} this host's",
            "synchronize it with NTP",
            subject=name,
            where=host,
            severity=Severity.WARN,
        )
    future: dict[str, list[float]] = defaultdict(list)
    for port in facts.cluster.ports.values():
        if port.created is not None and port.created > facts.snapshot.taken + SKEW and port.host not in wrong:
            future[port.host].append(port.created - facts.snapshot.taken)
    for name, seconds_ahead in sorted(future.items()):
        host, latest = facts.cluster.host_name(name), max(seconds_ahead)
        yield Finding(
            f"{len(seconds_ahead)} ports of {host} have times up to {latest:.0f} s in the future: its clock "
            "was wrong when it made them, or this host's is wrong now",
            "synchronize both with NTP; the wrong times do no harm and end with the containers",
            subject=name,
            where="" if name == facts.snapshot.system_id else host,
            severity=Severity.WARN,
        )


# Tunnels


def encap_in_common(facts: Facts) -> Iterable[Finding]:
    """Every other host has a tunnel type in common with this one."""
    cluster = facts.cluster
    own = cluster.chassis.get(facts.snapshot.system_id)
    own_types = {encap.type for encap in own.encaps} if own else set()
    for host in cluster.hosts:
        other_types = {encap.type for encap in cluster.chassis[host.system_id].encaps}
        if own_types and not host.here and not own_types & other_types:
            yield Finding(
                f"{host.name} has tunnels of type {', '.join(sorted(other_types)) or 'none'}, this host "
                f"{', '.join(own_types)}",
                "give all hosts the same ovn-encap-type",
                (set_external_id("ovn-encap-type", next(iter(other_types), "geneve")),),
                subject=host.system_id,
            )


def tunnels(facts: Facts) -> Iterable[Finding]:
    """The tunnel to every other host works."""
    for tunnel in facts.cluster.tunnels:
        if tunnel.state != "up":
            what = f"tunnel {tunnel.port} to" if tunnel.port else "there is no tunnel to"
            state = f": {tunnel.state}" if tunnel.port else ""
            yield Finding(
                f"{what} {tunnel.host} ({tunnel.remote_ip}){state}",
                "see /var/log/ovn/ovn-controller.log and /var/log/openvswitch/ovs-vswitchd.log; restart "
                "ovn-controller",
                RESTART,
                subject=tunnel.system_id,
            )


def hosts_reachable(facts: Facts) -> Iterable[Finding]:
    """The other hosts' tunnel addresses answer."""
    for name, path in facts.probes.paths.items():
        pair = facts.probes.pairs.get(name)
        if not path.small and not (pair and pair.small):
            host, ips = facts.cluster.host_name(name), _ips(facts.cluster, name)
            yield Finding(
                f"{ips} of {host} does not answer: the host is cut off, a firewall drops echo requests, or "
                "it no longer has the address",
                f"check that {host} has that address, and the network in between: ping {ips}",
                subject=name,
                where=host,
            )


def tunnel_traffic(facts: Facts) -> Iterable[Finding]:
    """A container of every other host that shares a network with this one answers through the tunnel."""
    for name, pair in facts.probes.pairs.items():
        path = facts.probes.paths.get(name)
        if pair.small or (path and not path.small):
            continue
        host, rules = facts.cluster.host_name(name), facts.probes.firewall
        kind = next((tunnel.type for tunnel in facts.cluster.tunnels if tunnel.system_id == name), "")
        port = f"UDP port {TUNNELS.get(kind, TUNNELS['geneve'])}"
        here = f"; this host has the rule {rules[0]!r}" if rules else ""
        yield Finding(
            f"{_ips(facts.cluster, name)} of {host} answers, but {pair.there} there does not answer "
            f"{pair.here} through the tunnel: most likely a firewall drops {port} ({kind}){here}",
            f"open {port} between the hosts, in both directions",
            tuple(("iptables", "-D", *shlex.split(rule)[1:]) for rule in rules if rule.startswith("-A ")),
            subject=name,
        )


def path_mtu(facts: Facts) -> Iterable[Finding]:
    """The largest packets that containers send arrive at every other host."""
    for name, path in facts.probes.paths.items():
        pair, host = facts.probes.pairs.get(name), facts.cluster.host_name(name)
        if (not path.small or path.full) and (pair is None or not pair.small or pair.full):
            continue
        carried = f", only up to {path.carries}" if path.carries else ""
        overhead = facts.snapshot.vswitch.overhead if facts.snapshot.vswitch else 0
        cure = f"raise the MTU in between to {path.size}"
        if path.carries > overhead:
            most = path.carries - overhead
            cure += f", or make the networks with -o com.docker.network.driver.mtu={most} or less"
        yield Finding(
            f"the network to {host} ({_ips(facts.cluster, name)}) does not carry the {path.size} bytes of "
            f"a full packet in its tunnel{carried}: pings work, large transfers hang",
            cure,
            subject=name,
        )


def _sync(facts: Facts) -> Sync:
    if facts.probes.sync is None:
        raise NotChecked("the databases cannot be read")
    return facts.probes.sync


def _ahead(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"


def _ips(cluster: ClusterView, system_id: str) -> str:
    row = cluster.chassis.get(system_id)
    return ", ".join(dict.fromkeys(encap.ip for encap in row.encaps)) if row else ""


def _ip(remote: str) -> str:
    return remote.partition(":")[2].rpartition(":")[0].strip("[]")


def _host_of(facts: Facts, setting: str) -> str:
    ids = facts.snapshot.vswitch.ids if facts.snapshot.vswitch else {}
    return ", ".join(dict.fromkeys(_ip(remote.strip()) for remote in ids.get(setting, "").split(",")))


def _central_hosts(facts: Facts) -> str:
    """Return the hosts of both databases; empty if they are on different hosts."""
    northbound, southbound = _host_of(facts, "ovn-nb"), _host_of(facts, "ovn-remote")
    return northbound if northbound == southbound else ""


def _reason(text: str) -> str:
    """Return an error without its advice: the finding has its own."""
    return re.split(r"; (?:start it|is it running)", text)[0]
