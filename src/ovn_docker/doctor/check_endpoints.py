"""Checks of this host's networks and containers: rows, ports, links, flows, addresses, leftovers. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Network, ip_address, ip_network

from ovn_docker import options
from ovn_docker.definition import overlap
from ovn_docker.doctor.diagnosis import Facts, Finding, NotChecked, Severity
from ovn_docker.inspect.snapshot import DockerEndpoint, PortRow, ip_version
from ovn_docker.model import (
    GATEWAY_BRIDGE,
    Difference,
    EndpointId,
    IpNetwork,
    NetworkId,
    Obstacle,
    Problem,
    host_link,
)
from ovn_docker.text import printable

_SHOWN = 8
"""Addresses of an interface in one finding: a container with CAP_NET_ADMIN can give itself any number."""


def networks_stored(facts: Facts) -> Iterable[Finding]:
    """Docker's networks are in the northbound database, with the same subnets."""
    for network in facts.cluster.networks:
        # Other networks are leftovers, or cluster_networks() reports them.
        for difference in network.differences if network.here else ():
            if difference in network.problems:
                continue
            lost = not network.switch
            subject, severity = f"network {network.name}", Severity.FAIL if lost else Severity.WARN
            if missing := _missing(facts, NetworkId(network.id)):
                yield _to_make_again(f"{subject}: {difference}", missing, subject, severity)
                continue
            yield Finding(
                f"{subject}: {difference}",
                "create it again, when no container uses it: docker network rm, then docker network create "
                "as before",
                (("docker", "network", "rm", network.id[:12] if network.name[:1] == "-" else network.name),),
                subject=subject,
                severity=severity,
            )


def networks_removed(facts: Facts) -> Iterable[Finding]:
    """No network of this host's Docker was removed on another host."""
    for network in facts.cluster.networks:
        if network.removed and network.here:
            yield Finding(
                f"network {network.name} was removed on {network.removed}: it is removed here when its "
                "running containers have stopped, and they cannot be started again",
                "remove its containers; or keep the network: docker network create with the same options on "
                f"{network.removed}",
                subject=f"network {network.name}",
                severity=Severity.WARN,
            )


def cluster_networks(facts: Facts) -> Iterable[Finding]:
    """Every host can have and use every shared network."""
    northbound = facts.snapshot.northbound
    for one in northbound.shared if northbound else ():
        if one.network.refused is not None:
            yield Finding(
                f"network {one.network.name[:64]} of the cluster is refused: {one.network.refused.why}",
                "find out which host wrote its row of Logical_Switch; delete the row if the network is not "
                "needed",
                (_nbctl(facts, "ls-del", one.row),),
                subject=f"network {one.row}",
                severity=Severity.WARN,
            )
    own = facts.snapshot.system_id
    hosts: dict[Problem, list[str]] = defaultdict(list)
    for host, problem in facts.cluster.problems:
        if host != own or problem.obstacle is not Obstacle.GATEWAY:  # gateway_bridge() reports that
            hosts[problem].append(host)
    for problem, hindered in hosts.items():
        names = list(map(facts.cluster.host_name, hindered))
        where = printable.first_of(names, 4)
        verb, cure = _HINDERED[problem.obstacle]
        yield Finding(
            f"network {problem.network} of the cluster cannot be {verb} {where}: {problem.why}",
            cure,
            (("ovn-docker", "doctor"),) if problem.obstacle is Obstacle.GATEWAY else (),
            subject=f"network {problem.network}" if names[1:] or own in hindered else hindered[0],
            where="" if own in hindered else names[0],
            severity=Severity.WARN if problem.obstacle is Obstacle.SUBNET else Severity.FAIL,
        )


_HINDERED = {
    Obstacle.SUBNET: (
        "made on",
        "free those addresses there, or create the network again with another --subnet",
    ),
    Obstacle.DOCKER: ("made on", "remove that obstacle there; the driver tries again by itself"),
    Obstacle.DEFINITION: (
        "announced by",
        "create the network again without the options that other hosts refuse",
    ),
    Obstacle.GATEWAY: (
        "used on",
        "give docker_gwbridge another subnet there, or create the network again with another --subnet",
    ),
}
"""Obstacle to its words, which the names of hosts follow, and its cure."""


def gateway_bridge(facts: Facts) -> Iterable[Finding]:
    """Docker's docker_gwbridge, which every container joins too, does not overlap this host's networks."""
    northbound, engine = facts.snapshot.northbound, facts.snapshot.engine
    reports = northbound.reports if northbound else ()
    own = [one for one in reports if one.host == facts.snapshot.system_id]
    bridges = [one for report in own for one in report.occupied if one.by == GATEWAY_BRIDGE]
    networks = [one for one in engine.networks if not one.internal] if engine else []
    for network in networks:
        subnets = [subnet for text in network.subnets if (subnet := _subnet(text)) is not None]
        for bridge in [one for one in bridges if any(overlap(one.subnet, other) for other in subnets)][:1]:
            taken = [one.subnet for report in reports for one in report.occupied]
            taken += [other for one in networks for text in one.subnets if (other := _subnet(text))]
            free = [one for one in _GATEWAYS if not any(overlap(one, other) for other in taken)]
            option = f"--subnet={free[0] if free else 'ANOTHER'}"
            yield Finding(
                f"containers cannot start on network {network.name}: its subnets "
                f"{', '.join(network.subnets)} overlap {bridge}",
                "stop this host's containers on networks of plugins and on overlay networks, and give "
                "docker_gwbridge another subnet; or create the network again with another --subnet",
                (
                    ("docker", "network", "rm", GATEWAY_BRIDGE),
                    ("docker", "network", "create", option, *_GATEWAY_OPTIONS, GATEWAY_BRIDGE),
                ),
                subject=f"network {network.name}",
            )


_GATEWAYS = tuple(IPv4Network("192.168.0.0/16").subnets(new_prefix=20))
"""Subnets for docker_gwbridge; Docker itself chooses larger ones first."""

_GATEWAY_OPTIONS = (
    *("-o", f"com.docker.network.bridge.name={GATEWAY_BRIDGE}"),
    *("-o", "com.docker.network.bridge.enable_icc=false"),
    *("-o", "com.docker.network.bridge.enable_ip_masquerade=true"),
)
"""Options with which Docker creates it (moby daemon/libnetwork/default_gateway_linux.go)."""


def _subnet(text: str) -> IpNetwork | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def stored(facts: Facts) -> Iterable[Finding]:
    """Every running container has its ports in the northbound database."""
    for endpoint in _running(facts):
        if endpoint.id not in facts.cluster.ports and facts.snapshot.northbound:
            evidence = f"{_name(facts, endpoint)} has no port in the northbound database"
            missing = _missing(facts, EndpointId(endpoint.id))
            if missing is None:
                yield restart(endpoint, evidence)
            else:
                yield _to_make_again(evidence, missing, endpoint.id, Severity.FAIL)


def plugged(facts: Facts) -> Iterable[Finding]:
    """Every running container has its ports on the integration bridge."""
    switch = facts.snapshot.vswitch
    for endpoint in _running(facts):
        interface = facts.cluster.interfaces.get(endpoint.id)
        if interface is None:
            yield restart(endpoint, f"{_name(facts, endpoint)} has no port in Open vSwitch")
        elif switch and interface.bridge != switch.integration:
            yield restart(
                endpoint,
                f"{_name(facts, endpoint)} is on bridge {interface.bridge}, but ovn-controller uses "
                f"{switch.integration}",
            )


def linked(facts: Facts) -> Iterable[Finding]:
    """The links of running containers exist and are up."""
    for endpoint in _running(facts):
        name = host_link(EndpointId(endpoint.id))
        link, interface = facts.cluster.links.get(name), facts.cluster.interfaces.get(endpoint.id)
        if link is None:
            why = f": {interface.error}" if interface and interface.error else ""
            yield restart(endpoint, f"{_name(facts, endpoint)} has lost its link {name}{why}")
        elif not link.up:
            yield Finding(
                f"the link {name} of {_name(facts, endpoint)} is down",
                "set it up",
                (("ip", "link", "set", name, "up"),),
                subject=endpoint.id,
                safe=True,
            )
        elif not link.carrier:
            yield restart(endpoint, f"the container's end of link {name} of {_name(facts, endpoint)} is down")


def enabled(facts: Facts) -> Iterable[Finding]:
    """The ports of running containers are enabled in OVN."""
    for endpoint, port in _stored(facts):
        if not port.enabled:
            yield Finding(
                f"the port of {_name(facts, endpoint)} is disabled in OVN",
                "enable it",
                (_nbctl(facts, "lsp-set-enabled", port.row, "enabled"),),
                subject=endpoint.id,
            )


def addresses(facts: Facts) -> Iterable[Finding]:
    """Ports in OVN have the addresses that Docker gave the containers."""
    for endpoint, port in _stored(facts):
        wanted = [word.lower() for word in (endpoint.mac, *endpoint.addresses) if word]
        for column, allowed in (("addresses", port.addresses), ("port security", port.port_security)):
            known = " ".join(allowed).lower().split()
            disallowed = [word for word in wanted if word not in known]
            if disallowed and (allowed or column == "addresses"):
                command = "lsp-set-addresses" if column == "addresses" else "lsp-set-port-security"
                yield Finding(
                    f"{_name(facts, endpoint)} has {', '.join(disallowed)}, but {column} of its port in OVN "
                    f"has {' '.join(allowed) or 'nothing'}: its packets are dropped",
                    "correct the port",
                    (_nbctl(facts, command, port.row, " ".join(wanted)),),
                    subject=endpoint.id,
                )


def port_security(facts: Facts) -> Iterable[Finding]:
    """Port security allows the addresses that containers use."""
    for endpoint, port in _stored(facts):
        network = facts.cluster.network_name(endpoint.network)
        for one in facts.probes.held.get(endpoint.id, ()):
            dropped = [a for a in one.addresses if not (_is_automatic(a) or port.permits(one.mac, a))]
            if not dropped:
                continue
            own, dropped = one.mac.lower() == endpoint.mac.lower(), dropped[:_SHOWN]
            words = " ".join(a if own else f"{one.mac}/{a}" for a in dropped)
            value = f"name={network},driver-opt={options.ALLOWED}={words}"
            option = printable.command("--network", value)
            yield Finding(
                f"{_name(facts, endpoint)} has {', '.join(dropped)} with MAC {one.mac} on its {one.link}, "
                f"but port security allows {', '.join(port.port_security)}: packets from there are dropped",
                f"allow it: start the container with {option}, or create the network with "
                f"-o {options.ALLOWED}; else remove the address",
                subject=endpoint.id,
                severity=Severity.WARN,
            )


def _is_automatic(address: str) -> bool:
    """True for an address that the kernel gives every link by itself."""
    return ip_version(address) == 6 and ip_address(address).is_link_local


def claimed(facts: Facts) -> Iterable[Finding]:
    """The ports of this host's containers are not claimed by another host."""
    if not facts.snapshot.southbound:
        return
    for endpoint, port in _stored(facts):
        binding = facts.cluster.bindings.get(port.name)
        by = binding.chassis if binding else ""
        if by and by != facts.snapshot.system_id:
            yield Finding(
                f"{facts.cluster.host_name(by)} also claims the port of {_name(facts, endpoint)}: a port "
                "with this iface-id exists there too",
                "remove it there",
                (("ovs-vsctl", "--if-exists", "del-port", host_link(EndpointId(endpoint.id))),),
                subject=endpoint.id,
                where=facts.cluster.host_name(by),
            )


def installed(facts: Facts) -> Iterable[Finding]:
    """The flows of every running container are installed."""
    for endpoint in _running(facts):
        interface = facts.cluster.interfaces.get(endpoint.id)
        binding = facts.cluster.bindings.get(endpoint.id)
        wrong = interface is not None and interface.ids.get("iface-id") != endpoint.id
        unclaimed = binding is not None and not binding.chassis
        if interface is None or (interface.installed and not wrong and not unclaimed):
            continue
        if wrong:
            why = f"its iface-id is {interface.ids.get('iface-id', 'missing')}"
        elif interface.error:
            why = f"Open vSwitch says: {interface.error}"
        else:
            why = "ovn-controller has not installed them yet"
        yield restart(endpoint, f"the flows of {_name(facts, endpoint)} are not installed: {why}")


def checksums(facts: Facts) -> Iterable[Finding]:
    """With the datapath in user space, containers compute their checksums themselves."""
    switch = facts.snapshot.vswitch
    bridges = {bridge.name: bridge.datapath_type for bridge in switch.bridges} if switch else {}
    for endpoint in _running(facts):
        interface = facts.cluster.interfaces.get(endpoint.id)
        if interface is None or bridges.get(interface.bridge) != "netdev":
            continue
        pid, link, on = facts.probes.offload.get(endpoint.id, (0, "", False))
        if on:
            yield Finding(
                f"{_name(facts, endpoint)} leaves TCP and UDP checksums to the network card, which the "
                "datapath in user space does not have: pings work, connections do not",
                "turn checksum offloading off in the container",
                (("nsenter", f"--net=/proc/{pid}/ns/net", "ethtool", "-K", link, "tx", "off"),),
                subject=endpoint.id,
                safe=True,
            )


def routers_guarded(facts: Facts) -> Iterable[Finding]:
    """Containers get router advertisements, redirects and DHCP answers of marked routers only."""
    for endpoint in _running(facts):
        if host_link(EndpointId(endpoint.id)) in facts.probes.unguarded:
            yield Finding(
                f"{_name(facts, endpoint)} accepts router advertisements, redirects and DHCP answers of any "
                "container: nftables has no chain for its link",
                "the driver restores the chain within a minute, or logs why it cannot (it needs Linux 5.16)",
                subject=endpoint.id,
                severity=Severity.WARN,
            )


def network_mtu(facts: Facts) -> Iterable[Finding]:
    """The tunnels' interface carries the largest packets that containers send."""
    cluster, switch = facts.cluster, facts.snapshot.vswitch
    address = switch.encap_ip if switch else ""
    outer = next((link.mtu for link in facts.snapshot.links if address in link.addresses), None)
    if not switch or outer is None or len(cluster.hosts) < 2:
        return
    carries = outer - switch.overhead
    large: dict[str, tuple[int, list[str]]] = defaultdict(lambda: (0, []))
    for endpoint in _running(facts):
        link = cluster.links.get(host_link(EndpointId(endpoint.id)))
        if link and link.mtu > carries:
            most, names = large[endpoint.network]
            large[endpoint.network] = (max(most, link.mtu), [*names, endpoint.name])
    for network, (mtu, names) in large.items():
        name = cluster.network_name(network)
        yield Finding(
            f"network {name} has MTU {mtu}, but the tunnels of this host carry {carries}: larger packets of "
            f"{', '.join(names[:3])}{' and others' if names[3:] else ''} to other hosts are lost",
            f"create it again with -o com.docker.network.driver.mtu={carries}, or raise the MTU of the "
            f"interface with {address} to {mtu + outer - carries}",
            subject=f"network {name}",
        )


def addresses_unique(facts: Facts) -> Iterable[Finding]:
    """Every address on a network has one owner."""
    northbound = facts.snapshot.northbound
    owners: dict[tuple[str, str], list[PortRow]] = defaultdict(list)
    for port in northbound.ports if northbound else ():
        for word in {word.lower() for text in port.addresses for word in text.split()}:
            if ":" in word or "." in word:
                owners[port.switch, word].append(port)
    seen: set[frozenset[str]] = set()
    for (switch, word), ports in sorted(owners.items(), key=lambda item: item[0]):
        names = frozenset(port.name for port in ports)
        if len(ports) < 2 or names in seen:
            continue
        seen.add(names)
        also = sorted(ports, key=lambda port: (bool(port.endpoint), port.created or 0))
        last = next((port for port in also if not port.endpoint), also[-1])
        network = facts.cluster.switches[switch].name[:12] if switch in facts.cluster.switches else switch
        both = " and to ".join(_owner(facts, port) for port in ports)
        commands: tuple[tuple[str, ...], ...] = (_nbctl(facts, "lsp-del", last.row),)
        if last.endpoint:  # docker restart does not accept an endpoint's ID
            named = _container(facts, last) != last.endpoint[:12]
            commands = (("docker", "restart", _container(facts, last)),) if named else ()
        yield Finding(
            f"on network {network}, {word} belongs to {both}",
            f"remove {_owner(facts, last)}, or give it another address",
            commands,
            where=facts.cluster.host_name(last.host) if last.host != facts.snapshot.system_id else "",
        )


def leftovers(facts: Facts) -> Iterable[Finding]:
    """There are no leftovers of removed containers and networks, and no rows of existing ones are missing."""
    if isinstance(facts.leftovers, str):
        raise NotChecked(facts.leftovers)
    for one in facts.leftovers:
        evidence = f"{one.kind} {one.shown} ({one.where}): {one.why}"
        if one.missing:
            yield _to_make_again(evidence, one, one.endpoint or one.what, Severity.WARN)
            continue
        yield Finding(
            evidence,
            "the driver removes it within a minute or at its next start; or do it now",
            (("ovn-docker", "gc", "--repair"),),
            subject=one.endpoint or one.what,
            safe=True,
            severity=Severity.WARN,
        )


def _missing(facts: Facts, id_: str) -> Difference | None:
    """Return a missing row of a network or endpoint, preferably one that the driver cannot make again."""
    if isinstance(facts.leftovers, str):
        return None
    found = [one for one in facts.leftovers if one.missing and one.row == id_]
    return min(found, key=lambda one: not one.command, default=None)


def _to_make_again(evidence: str, missing: Difference, subject: str, severity: Severity) -> Finding:
    """Return the finding about a missing row, with the command if the driver cannot make the row again."""
    if missing.command:
        why = "" if evidence.endswith(missing.why) else f": {missing.shown}, {missing.why}"
        return Finding(
            f"{evidence}{why}", missing.cure, (missing.command,), subject=subject, severity=severity
        )
    return Finding(
        evidence,
        "the driver makes it again within a minute; or do it now",
        (("ovn-docker", "gc", "--repair"),),
        subject=subject,
        safe=True,
        severity=severity,
    )


def _running(facts: Facts) -> Iterable[DockerEndpoint]:
    """Yield the endpoints of running containers, without those that are just being made."""
    for endpoint in facts.cluster.docker.values():
        if endpoint.running and facts.cluster.settled(endpoint.id):
            yield endpoint


def _stored(facts: Facts) -> Iterable[tuple[DockerEndpoint, PortRow]]:
    for endpoint in _running(facts):
        if port := facts.cluster.ports.get(endpoint.id):
            yield endpoint, port


def _name(facts: Facts, endpoint: DockerEndpoint) -> str:
    return f"{endpoint.name} on {facts.cluster.network_name(endpoint.network)}"


def restart(endpoint: DockerEndpoint, evidence: str) -> Finding:
    """Return the finding about an endpoint that a new port repairs."""
    return Finding(
        evidence,
        "restart the container: it gets a new port",
        (("docker", "restart", endpoint.name),),
        subject=endpoint.id,
    )


def _owner(facts: Facts, port: PortRow) -> str:
    if not port.endpoint:
        return f"port {port.name} (not made by ovn-docker)"
    return f"{_container(facts, port)} on {facts.cluster.host_name(port.host)}"


def _container(facts: Facts, port: PortRow) -> str:
    return next((e.container for e in facts.cluster.endpoints if e.id == port.endpoint), port.name[:12])


def _nbctl(facts: Facts, *command: str) -> tuple[str, ...]:
    """Return an ovn-nbctl(8) command; it takes UUIDs, for a name could look like an option."""
    ids = facts.snapshot.vswitch.ids if facts.snapshot.vswitch else {}
    return ("ovn-nbctl", f"--db={ids.get('ovn-nb', '')}", *command)
