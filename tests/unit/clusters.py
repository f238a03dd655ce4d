"""Snapshots of clusters of any size, built as they would be read."""

import random

from ovn_docker.host.kernel.links import Link
from ovn_docker.inspect import ml2_ovn
from ovn_docker.inspect.cloud import Cloud, CloudNetwork, CloudPort, Group, Rule, VirtualMachine
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.snapshot import (
    BindingRow,
    Bridge,
    ChassisRow,
    DockerEndpoint,
    DockerNetwork,
    DockerState,
    Encap,
    Interface,
    NorthboundRows,
    NoteRow,
    PortRow,
    Scope,
    Snapshot,
    SouthboundRows,
    SwitchRow,
    VswitchRows,
)

OURS = {"ovn-docker:owner": "overlay"}
WORDS = (
    *("web", "api", "db", "cache", "queue", "worker", "mail", "search", "auth"),
    *("cron", "metrics", "logs", "proxy", "vault", "blog", "registry"),
)
NETWORKS = (("shop", True), ("backend", True), ("telemetry", True), ("build", False), ("lab", False))
"""Network name to True if all hosts have the network."""


def cluster(
    hosts: int, containers: int, *, faults: bool = False, names: tuple[str, ...] = WORDS
) -> ClusterView:
    """Return a cluster as seen from host1. *faults*: the last tunnel is down, some ports are unclaimed."""
    chance = random.Random(hosts * 1000 + containers)
    system_ids = [f"host{number}" for number in range(1, hosts + 1)]
    networks = [f"{number:064x}" for number in range(len(NETWORKS))]
    docker, interfaces, links, ports, bindings, known = [], [], [], [], [], {}
    counts = [1] * len(NETWORKS)
    for number in range(containers):
        n = chance.choice([0, 0, 1, 1, 2, 3, 4])
        host = chance.choice(system_ids) if NETWORKS[n][1] else system_ids[n % hosts]
        counts[n] += 1
        address = f"10.10.{n}.{counts[n]}"
        mac = "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))
        id_ = f"{chance.getrandbits(256):064x}"
        known[id_] = names[number % len(names)] + (f"-{number // len(names)}" if number >= len(names) else "")
        ids = {**OURS, "ovn-docker:endpoint": id_, "ovn-docker:host": host, "ovn-docker:network": networks[n]}
        ports.append(PortRow(f"row{number}", id_, f"switch{n}", addresses=(f"{mac} {address}",), ids=ids))
        lost = faults and number % 31 == 9
        bindings.append(BindingRow(id_, "" if lost else host, not lost))
        if host == "host1":
            docker.append(DockerEndpoint(id_, networks[n], "", known[id_], "running", (address,), mac))
            installed = {"ovn-installed": "false" if lost else "true"}
            interfaces.append(Interface(f"odh{id_[:12]}", "br-int", ofport=number, ids={**ids, **installed}))
            links.append(Link(f"odh{id_[:12]}", 1442, up=True, carrier=True))
    for number in range(1, hosts):
        bfd = {"state": "down"} if faults and number == hosts - 1 else {}
        remote = {"remote_ip": f"10.0.0.{number + 1}"}
        interfaces.append(
            Interface(f"ovn-{number}", "br-int", "geneve", number, link_state="up", options=remote, bfd=bfd)
        )
    switches = []
    for n, (name, shared) in enumerate(NETWORKS):
        ids = {**OURS, "ovn-docker:network": networks[n], "subnet": f"10.10.{n}.0/24"}
        switches.append(
            SwitchRow(f"switch{n}", name, {**ids, **({"ovn-docker:name": name} if shared else {})})
        )
    return ClusterView(
        Snapshot(
            taken=1.76e9,
            host="host1",
            scope=Scope.CLUSTER,
            daemons=(),
            links=tuple(links),
            engine=DockerState(
                "26.1.5", False,
                tuple(
                    DockerNetwork(networks[n], name, (f"10.10.{n}.0/24",))
                    for n, (name, shared) in enumerate(NETWORKS) if shared or n % hosts == 0
                ),
                tuple(docker),
            ),
            vswitch=VswitchRows("3.1.0", {"system-id": "host1"}, (Bridge("br-int", "system", "secure"),),
                            tuple(interfaces)),
            northbound=NorthboundRows(
                "tcp:10.0.0.1:6641", 7, tuple(switches), tuple(ports),
                tuple(NoteRow(networks[n], f"switch{n}", host)
                      for n, (_, shared) in enumerate(NETWORKS) if shared for host in system_ids),
                known,
            ),
            southbound=SouthboundRows(
                "tcp:10.0.0.1:6642", 7,
                tuple(ChassisRow(name, name, (Encap("geneve", f"10.0.0.{n}"),), 7)
                      for n, name in enumerate(system_ids, start=1)),
                tuple(bindings), {},
            ),
        )
    )  # fmt: skip


DEFAULT = Group(
    "default-id", "default", True,
    (Rule("out4", "egress", 4), Rule("out6", "egress", 6), Rule("in4", "ingress", 4, group="default-id")),
)  # fmt: skip


def cloud(vms: int, containers: int, *, faults: bool = False) -> ClusterView:
    """Return virtual machines as seen from vm1, which has Docker and the port of every fourth container.

    With *faults* the last VM is down, and some containers are no subports.
    """
    chance = random.Random(vms * 1000 + containers)
    machines = {
        f"vif{n}": VirtualMachine(f"vif{n}", f"vm{n}", f"172.31.0.{n}",
                           "DOWN" if faults and n == vms else "ACTIVE", True, f"trunk{n}")
        for n in range(1, vms + 1)
    }  # fmt: skip
    networks = {
        f"net{n}": CloudNetwork(f"net{n}", name, True, 1442, (f"10.10.{n}.0/24",), (f"{n:048x}",))
        for n, (name, _) in enumerate(NETWORKS[:3])
    }
    docker, interfaces, links, ports = [], [], [], []
    for number in range(containers):
        n, vm = number % len(networks), f"vif{number // 3 % vms + 1}"
        address, id_ = f"10.10.{n}.{number // 3 + 2}", f"{chance.getrandbits(256):064x}"
        mac = f"fa:16:3e:00:{number // 256:02x}:{number % 256:02x}"
        vlan = None if faults and number % 31 == 9 else number // (3 * vms) * 3 + number % 3 + 1
        status = "ACTIVE" if vlan else "DOWN"
        ports.append(
            CloudPort(f"port{number}", id_, status, vlan, mac, True, ("default-id",), vlan is not None, vm,
                      f"net{n}", True, (address,))
        )  # fmt: skip
        if vm == "vif1":
            name = WORDS[number % len(WORDS)] + (f"-{number // len(WORDS)}" if number >= len(WORDS) else "")
            docker.append(DockerEndpoint(id_, f"{n:048x}{n:016x}", "", name, "running", (address,), mac))
            ids = {**OURS, "ovn-docker:endpoint": id_}
            interfaces.append(Interface(f"odh{id_[:12]}", "breth0", ofport=number, tag=vlan, ids=ids))
            links.append(Link(f"odh{id_[:12]}", 1442, up=True, carrier=True))
    seen = Cloud("vif1", "", "fa:16:3e:ff:ff:01", "ACTIVE", True, tuple(ports), 7, 500, networks, machines,
                 {DEFAULT.id: DEFAULT})  # fmt: skip
    ids = [f"{n:048x}{n:016x}" for n in range(len(networks))]
    return ClusterView(
        Snapshot(
            taken=1.76e9,
            host="vm1",
            scope=Scope.CLUSTER,
            daemons=(),
            links=tuple(links),
            engine=DockerState(
                "26.1.5", False,
                tuple(DockerNetwork(id_, NETWORKS[n][0], (f"10.10.{n}.0/24",)) for n, id_ in enumerate(ids)),
                tuple(docker),
            ),
            vswitch=VswitchRows("3.1.0", {"system-id": "x"}, (Bridge("breth0", "system", ""),),
                            tuple(interfaces)),
            northbound=ml2_ovn.northbound(seen, ids),
            southbound=ml2_ovn.southbound(seen),
            vif="vif1",
            cloud=seen,
        )
    )  # fmt: skip
