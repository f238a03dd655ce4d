"""Networks, endpoints, hosts and tunnels, compared between Docker, OVN and this host. Pure.

Everything is computed from a Snapshot. A disagreement between two of them is a *difference*, one line of
text. Docker, Open vSwitch and links are known of this host alone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from ovn_docker.backends.ovn.rows import HOST, MTU, NAME, NETWORK, REMOVED
from ovn_docker.definition import switch_row
from ovn_docker.errors import BadRequest, NotFound, Unavailable
from ovn_docker.host.clock import CREATED
from ovn_docker.host.kernel.links import Link
from ovn_docker.inspect.snapshot import (
    BindingRow,
    ChassisRow,
    DockerEndpoint,
    DockerNetwork,
    Interface,
    PortRow,
    Snapshot,
    SwitchRow,
)
from ovn_docker.inspect.views import EndpointView, HostView, NetworkView, TunnelView
from ovn_docker.model import EndpointId, Problem, host_link, whole_number
from ovn_docker.text.spelling import hint

GRACE = 15.0
"""Seconds for which an endpoint may be incomplete: the longest that a call of Docker may take."""

UNLISTED = 60.0
"""Seconds after which Docker lists a new network or endpoint (doctor/comparison.py)."""


class ClusterView:
    """Views of a snapshot. Cheap to make; each view is computed once, at its first use."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    # By key

    @cached_property
    def chassis(self) -> dict[str, ChassisRow]:
        """The chassis, by system-id."""
        return {c.name: c for c in self.snapshot.southbound.chassis} if self.snapshot.southbound else {}

    @cached_property
    def bindings(self) -> dict[str, BindingRow]:
        """The bindings, by logical port."""
        return {b.port: b for b in self.snapshot.southbound.bindings} if self.snapshot.southbound else {}

    @cached_property
    def ports(self) -> dict[str, PortRow]:
        """Ports of endpoints, by the endpoint's ID."""
        northbound = self.snapshot.northbound
        return {p.endpoint: p for p in northbound.ports if p.endpoint} if northbound else {}

    @cached_property
    def switches(self) -> dict[str, SwitchRow]:
        """The logical switches, by UUID."""
        return {s.row: s for s in self.snapshot.northbound.switches} if self.snapshot.northbound else {}

    @cached_property
    def docker(self) -> dict[str, DockerEndpoint]:
        """This host's endpoints in Docker, by ID; a container that does not run has no endpoint."""
        return {e.id: e for e in self.snapshot.engine.endpoints if e.id} if self.snapshot.engine else {}

    @cached_property
    def interfaces(self) -> dict[str, Interface]:
        """This host's ports of endpoints, by the endpoint's ID."""
        return (
            {i.endpoint: i for i in self.snapshot.vswitch.interfaces if i.endpoint}
            if (self.snapshot.vswitch)
            else {}
        )

    @cached_property
    def links(self) -> dict[str, Link]:
        """This host's links, by name."""
        return {link.name: link for link in self.snapshot.links}

    def host_name(self, system_id: str) -> str:
        """Return the host name of a host if OVN knows it and it is unique, else the system-id."""
        chassis, snapshot = self.chassis.get(system_id), self.snapshot
        here = snapshot.host if snapshot.underlay and system_id == snapshot.system_id else ""
        hostname = chassis.hostname if chassis else ""
        return (hostname if self._hostnames[hostname] < 2 else "") or here or system_id

    @property
    def _own_name(self) -> str:
        """Name of this host, also if its system-id could not be read."""
        return self.host_name(self.snapshot.system_id) or self.snapshot.host

    def network_name(self, network: str) -> str:
        """Return the name of a network of this host's Docker, or the beginning of an ID without name."""
        return self._network_names.get(network) or network[:12]

    @cached_property
    def _hostnames(self) -> Counter[str]:
        return Counter(row.hostname for row in self.chassis.values())

    def unread(self, *, here: bool = True) -> str:
        """Return why a database or, with *here*, Docker could not be read; empty if all could."""
        parts = ("northbound", "southbound", *(("docker",) if here else ()))
        return next((why for part in parts if (why := self.snapshot.missing.get(part))), "")

    @property
    def store(self) -> str:
        """Name of the place where networks and ports are stored."""
        return "Neutron" if self.snapshot.underlay else "the northbound database"

    # Views

    @cached_property
    def networks(self) -> tuple[NetworkView, ...]:
        """All networks of the snapshot's scope, by name."""
        of_switch = Counter(port.switch for port in self.ports.values())
        hosts: dict[str, set[str]] = defaultdict(set)
        for port in self.ports.values():
            hosts[port.switch].add(port.host)
        northbound = self.snapshot.northbound
        for note in northbound.notes if northbound else ():
            hosts[note.switch].add(note.host)
        of_docker: dict[str, list[DockerNetwork]] = defaultdict(list)
        for one in self.snapshot.engine.networks if self.snapshot.engine else ():
            of_docker[self._switch_of(one.id)].append(one)
            hosts[self._switch_of(one.id)].add(self.snapshot.system_id)
        problems: dict[str, list[str]] = defaultdict(list)
        for host, problem in self.problems:
            problems[switch_row(problem.network)].append(f"on {self.host_name(host)}: {problem.why}")
        found = []
        for row, switch in self.switches.items():
            ids, unlisted = switch.ids, self._unlisted(row, switch)
            found += [
                NetworkView(
                    name=ids.get(NAME) or switch.name[:12],
                    id=network,
                    switch=row,
                    subnets=_subnets(ids),
                    mtu=whole_number(ids.get(MTU, "")),
                    shared=NAME in ids,
                    here=False,
                    hosts=(self._own_name,),
                    endpoints=of_switch[row],
                    differences=(f"{self.store} has it for this host, Docker does not",),
                )
                for network in unlisted
            ]
            for here in of_docker.pop(row, [] if unlisted else [None]):
                found.append(
                    NetworkView(
                        name=here.name if here else ids.get(NAME) or switch.name[:12],
                        id=here.id if here else ids.get(NETWORK, ""),
                        switch=row,
                        subnets=_subnets(ids) or (here.subnets if here else ()),
                        mtu=whole_number(ids.get(MTU, "")),
                        shared=NAME in ids,
                        here=here is not None,
                        hosts=tuple(sorted(self.host_name(host) for host in hosts[row] if host)),
                        endpoints=of_switch[row],
                        differences=(
                            *(self._different_network(switch, here.subnets) if here else ()),
                            *problems[row],
                        ),
                        removed=self.host_name(ids[REMOVED]) if REMOVED in ids else "",
                        problems=tuple(problems[row]),
                    )
                )
        lost = (f"Docker has it, {self.store} does not",) if northbound else ()
        on = Counter(endpoint.network for endpoint in self.docker.values())
        found += [
            NetworkView(
                one.name,
                one.id,
                "",
                one.subnets,
                None,
                bool(one.shared),
                True,
                (self._own_name,),
                on[one.id],
                lost,
            )
            for rest in of_docker.values()
            for one in rest
        ]
        return tuple(sorted(found, key=lambda network: (network.name, network.switch)))

    @cached_property
    def problems(self) -> tuple[tuple[str, Problem], ...]:
        """Pairs of a system-id and a shared network that this host reports as one that it cannot have or use.

        Reports of hosts that OVN does not know are ignored: any host can write a report in any name.
        """
        northbound = self.snapshot.northbound
        if northbound is None:
            return ()
        existing = {one.network.name for one in northbound.shared if not one.network.removed}
        known = {*self.chassis, self.snapshot.system_id}
        return tuple(
            (report.host, problem)
            for report in sorted(northbound.reports, key=lambda one: one.host)
            if report.host in known
            for problem in report.problems
            if problem.network in existing
        )

    @cached_property
    def endpoints(self) -> tuple[EndpointView, ...]:
        """All endpoints of the snapshot's scope, by container and network."""
        ids = self.ports.keys() | self.docker.keys() | self.interfaces.keys()
        return tuple(sorted(map(self._endpoint, ids), key=lambda e: (e.container, e.network, e.id)))

    @cached_property
    def hosts(self) -> tuple[HostView, ...]:
        """All chassis, by name."""
        southbound, northbound = self.snapshot.southbound, self.snapshot.northbound
        wanted = northbound.nb_cfg if northbound else southbound.nb_cfg if southbound else 0
        bound = Counter(binding.chassis for binding in self.bindings.values())
        return tuple(
            HostView(
                name=self.host_name(row.name),
                system_id=row.name,
                here=row.name == self.snapshot.system_id,
                encaps=tuple(f"{encap.type} {encap.ip}" for encap in row.encaps),
                endpoints=bound[row.name],
                behind=max(0, wanted - row.nb_cfg),
            )
            for row in sorted(self.chassis.values(), key=lambda row: self.host_name(row.name))
        )

    @cached_property
    def tunnels(self) -> tuple[TunnelView, ...]:
        """Tunnels from this host to every other, by name; empty in the underlay mode."""
        if self.snapshot.underlay:
            return ()
        vswitch = self.snapshot.vswitch
        by_ip = {i.options["remote_ip"]: i for i in vswitch.tunnels} if vswitch else {}
        found = []
        for host in self.hosts:
            if host.here:
                continue
            ips = [encap.ip for encap in self.chassis[host.system_id].encaps]
            port = next((by_ip[ip] for ip in ips if ip in by_ip), None)
            ip = ips[0] if ips else ""
            if port is None:
                found.append(TunnelView(host.name, host.system_id, "", "", ip, "missing"))
            else:
                received, sent = (port.statistics.get(key, 0) for key in ("rx_packets", "tx_packets"))
                found.append(
                    TunnelView(host.name, host.system_id, port.name, port.type, port.options["remote_ip"],
                           _tunnel_state(port), received, sent)
                )  # fmt: skip
        return tuple(found)

    def find_any(self, name: str) -> Sequence[NetworkView | EndpointView]:
        """Return the networks of a name, else the endpoints of a container. Raises as `find` does."""
        networks = [
            network
            for network in self.networks
            if name in (network.name, network.switch) or (len(name) >= 4 and network.id.startswith(name))
        ]
        return networks or self.find(name, [network.name for network in self.networks])

    def find(self, name: str, networks: Sequence[str] | None = None) -> tuple[EndpointView, ...]:
        """Return the endpoints of a container, by name, ``HOST/NAME``, address, or the beginning of an ID.

        *networks*: names of networks, if *name* may also be one of these; they are for the error message.

        Raises NotFound, with the names that exist, BadRequest if containers of several hosts have the name,
        or Unavailable if the container may exist in a database that could not be read.
        """
        host, _, plain = name.rpartition("/")
        there = [e for e in self.endpoints if host in ("", e.host)]
        found = [e for e in there if plain in (e.container, *e.addresses)]
        if not found:  # a name may look like the beginning of an ID
            container_ids = {e.id for e in self.docker.values() if _begins(e.container, plain)}
            found = [e for e in there if _begins(e.id, plain) or e.id in container_ids]
        if not found:
            self._explain_absence(plain)
            known = sorted({e.container for e in self.endpoints})
            if meant := hint(plain, {*known, *(networks or ())}):
                what = "container" if networks is None else "network or container"
                raise NotFound(f"unknown {what} {name!r}: {meant}")
            why = [f"unknown container {name!r}; known containers: {listed(known)}"]
            why += [f"known networks: {listed(networks)}"] if networks is not None else []
            raise NotFound("; ".join(filter(None, [*why, self.snapshot.missing.get("docker")])))
        if len(hosts := {e.host for e in found}) > 1:
            either = " or ".join(f"{host}/{plain}" for host in sorted(hosts))
            raise BadRequest(f"{len(hosts)} hosts have a container {plain}: name one of them, {either}")
        return tuple(found)

    def _explain_absence(self, name: str) -> None:
        """Raise NotFound for a container that does not run, Unavailable without the northbound database."""
        for one in self.snapshot.engine.endpoints if self.snapshot.engine else ():
            if name == one.name and not one.id:
                raise NotFound(
                    f"container {name} is {one.state}, so it has no port; start it: docker start {name}"
                )
        if reason := self.snapshot.missing.get("northbound"):
            raise Unavailable(
                f"container {name!r} is not on this host, and other hosts are unknown: {reason}"
            )

    def _endpoint(self, id_: str) -> EndpointView:
        docker, port, interface = self.docker.get(id_), self.ports.get(id_), self.interfaces.get(id_)
        northbound, system_id = self.snapshot.northbound, self.snapshot.system_id
        here = bool(docker or interface) or (port is not None and port.host == system_id)
        binding = self.bindings.get(port.name if port else id_)
        name = docker.name if docker else northbound.names.get(id_, "") if northbound else ""
        mac, *addresses = (port.addresses[0].split() if port and port.addresses else []) or [""]
        link = self.links.get(host_link(EndpointId(id_)))
        return EndpointView(
            id=id_,
            container=name or id_[:12],
            network=self._network_of(docker, port, interface),
            host=self.host_name(port.host) if port else self._own_name,
            here=here,
            addresses=docker.addresses if docker and docker.addresses else tuple(addresses),
            mac=docker.mac if docker and docker.mac else mac,
            state=docker.state if docker else "",
            chassis=self.host_name(binding.chassis) if binding and binding.chassis else "",
            up=binding.up if binding else None,
            link=link.name if link else "",
            ofport=interface.ofport if interface else None,
            installed=interface.installed if interface and not self.snapshot.underlay else None,
            switch=port.switch if port else "",
            vlan=interface.tag if interface else None,
            differences=()
            if not self.settled(id_)
            else tuple(self._differences(docker, port, binding, interface, link))
            if here
            else tuple(self._unclaimed(port, binding, port.host if port else "")),
        )

    def settled(self, id_: str) -> bool:
        """False while Docker and the driver may be making or removing an endpoint."""
        docker, interface, port = self.docker.get(id_), self.interfaces.get(id_), self.ports.get(id_)
        if docker and docker.running and interface and interface.installed:
            return True
        here = bool(interface) or (port is not None and port.host == self.snapshot.system_id)
        seconds = UNLISTED if self.snapshot.engine and docker is None and here else GRACE
        created = [whole_number(row.ids.get(CREATED, "")) for row in (interface, port) if row]
        return all(self._older(when, seconds) for when in created)

    def _older(self, when: int | None, seconds: float) -> bool:
        """True unless a row was made within *seconds*; a time far in the future comes from a wrong clock."""
        return when is None or abs(self.snapshot.taken - when) > seconds

    def _unlisted(self, row: str, switch: SwitchRow) -> list[str]:
        """Return IDs of the networks on a switch that this host's Docker should have and does not."""
        northbound, engine, own_id = self.snapshot.northbound, self.snapshot.engine, self.snapshot.system_id
        if not northbound or not engine or not own_id:
            return []
        made = [
            (one.network, one.created) for one in northbound.notes if (one.switch, one.host) == (row, own_id)
        ]
        if switch.ours and switch.ids.get(HOST) == own_id:
            made.append((switch.ids.get(NETWORK, ""), whole_number(switch.ids.get(CREATED, ""))))
        listed = [network.id for network in engine.networks]
        return [
            network
            for network, when in made
            if self._older(when, UNLISTED) and not any(id_.startswith(network) for id_ in listed)
        ]

    def _network_of(
        self, docker: DockerEndpoint | None, port: PortRow | None, interface: Interface | None
    ) -> str:
        network = docker.network if docker else interface.ids.get(NETWORK, "") if interface else ""
        switch = port.switch if port else self._switch_of(network)
        return self._network_names.get(network) or self._network_names.get(switch) or network[:12]

    @cached_property
    def _network_names(self) -> dict[str, str]:
        """Names of networks, by Docker's ID and by UUID of the logical switch."""
        names = {network.switch: network.name for network in self.networks}
        return names | {network.id: network.name for network in self.networks}

    def _switch_of(self, network: str) -> str:
        """Return the UUID of the logical switch of a network of this host's Docker; empty if unknown."""
        northbound = self.snapshot.northbound
        for note in northbound.notes if northbound else ():
            if note.network == network:
                return note.switch
        return next(
            (row for row, switch in self.switches.items() if switch.ids.get(NETWORK) == network),
            "",
        )

    def _differences(
        self,
        docker: DockerEndpoint | None,
        port: PortRow | None,
        binding: BindingRow | None,
        interface: Interface | None,
        link: Link | None,
    ) -> Iterable[str]:
        """Yield the differences of an endpoint of this host, between the parts that could be read."""
        snapshot = self.snapshot
        if snapshot.engine and docker is None:
            yield "Docker does not know it"
        if snapshot.northbound and port is None:
            yield f"no port in {self.store}"
        if snapshot.vswitch and interface is None:
            yield "no port in Open vSwitch"
        yield from _unlinked(link)
        if docker and port:
            yield from self._disallowed(docker, port)
        if port and interface:
            yield from self._unclaimed(port, binding, snapshot.system_id)
            yield from self._mistagged(port, interface)
        if interface and interface.error:
            yield f"Open vSwitch: {interface.error}"
        elif interface and not interface.installed and not snapshot.underlay:
            yield "its flows are not installed"

    def _disallowed(self, docker: DockerEndpoint, port: PortRow) -> Iterable[str]:
        """Yield the addresses of an endpoint in Docker that its port does not have or allow."""
        where = "Neutron" if self.snapshot.underlay else "OVN"
        given = [address.lower() for address in (docker.mac, *docker.addresses) if address]
        for column, allowed in (("", port.addresses), (" port security for", port.port_security)):
            known = " ".join(allowed).lower().split()
            disallowed = [address for address in given if address not in known]
            if disallowed and allowed:
                has = " ".join(allowed)
                yield f"Docker gave it {', '.join(disallowed)}, its port in {where} has{column} {has}"
        if not port.enabled and not self.snapshot.underlay:
            yield "its port is disabled in OVN"

    def _different_network(self, switch: SwitchRow, subnets: tuple[str, ...]) -> tuple[str, ...]:
        stored = _subnets(switch.ids)
        if switch.ours and sorted(stored) != sorted(subnets):
            return (f"Docker has {', '.join(subnets) or 'no subnet'}, {self.store} {', '.join(stored)}",)
        return ()

    def _mistagged(self, port: PortRow, interface: Interface) -> Iterable[str]:
        """In the underlay mode, yield a difference between the VLANs of the bridge's port and the subport."""
        if self.snapshot.underlay and port.tag not in (None, interface.tag):
            yield f"VLAN {interface.tag or 'none'} on {interface.bridge}, its subport has VLAN {port.tag}"

    def _unclaimed(self, port: PortRow | None, binding: BindingRow | None, wanted: str) -> Iterable[str]:
        if port is None or not self.snapshot.southbound:
            return
        if self.snapshot.underlay:
            if port.tag is None:
                yield f"its port is not a subport of the trunk of {self.host_name(wanted)}"
            elif not port.enabled:
                yield "its port is disabled in Neutron"
            elif binding and binding.up is False:
                yield "its port has status DOWN in Neutron"
        elif binding is None:
            yield "not in the southbound database"
        elif binding.chassis != wanted:
            claimed = self.host_name(binding.chassis) if binding.chassis else "no host"
            yield f"{claimed} has claimed it, not {self.host_name(wanted)}"


def listed(names: Sequence[str]) -> str:
    """Return names for an error message, at most as many as fit in a line."""
    first = ", ".join([*names[:8], *(["..."] if names[8:] else [])])
    return first or "none"


def _subnets(ids: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(ids[key] for key in ("subnet", "subnet6") if key in ids)


def _unlinked(link: Link | None) -> Iterable[str]:
    if link is None:
        yield "no link on this host"
    elif not link.up:
        yield f"its link {link.name} is down"
    elif not link.carrier:
        yield f"the container's end of its link {link.name} is down"


def _tunnel_state(port: Interface) -> str:
    if port.error:
        return port.error
    if port.ofport in (None, -1):
        return "not taken up by ovs-vswitchd"
    if port.bfd and port.bfd.get("state") not in (None, "up"):
        return f"BFD {port.bfd['state']}"
    return "down" if port.link_state == "down" else "up"


def _begins(id_: str, name: str) -> bool:
    return len(name) >= 4 and id_.startswith(name)
