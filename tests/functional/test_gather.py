"""Snapshots of real databases and links: the rows that each scope reads, and parts that cannot be read."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from functional.conftest import MakeServer
from functional.docker_api import Api
from functional.hosts import C1, C2, C3, HOST2, NET, NETWORK, Container, Host, endpoint, ip
from functional.ovsdb_servers import OvsdbServer, until
from ovn_docker.cli.main import main
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, NotFound, Unavailable
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.kernel.ping import Echo, answered, in_namespace
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.inspect.gather import Places, Sources
from ovn_docker.inspect.probes import count_ports, probe
from ovn_docker.inspect.snapshot import Scope, Snapshot
from ovn_docker.model import Chassis, NetworkId, host_link, row_uuid
from ovn_docker.options import NetworkOptions

OTHER = NetworkId("b" * 64)
HERE = Chassis("host1", (), (), ("geneve",), "br-int", "system")


@pytest.fixture
def southbound(make_server: MakeServer) -> OvsdbServer:
    """A southbound database with a row for each of two hosts; only the first has applied the last change."""
    server = make_server("OVN_Southbound")
    server.insert("SB_Global", nb_cfg=7)
    for name, number in (("host1", 7), ("host2", 5)):
        encap = {"type": "geneve", "ip": f"10.0.0.{name[-1]}", "chassis_name": name}
        server.transact(
            {"op": "insert", "table": "Encap", "uuid-name": "e", "row": encap},
            {"op": "insert", "table": "Chassis", "uuid-name": "c",
             "row": {"name": name, "hostname": f"{name}.example", "encaps": ["named-uuid", "e"]}},
            {"op": "insert", "table": "Chassis_Private",
             "row": {"name": name, "chassis": ["named-uuid", "c"], "nb_cfg": number}},
        )  # fmt: skip
    return server


@pytest.fixture
def sources(host: Host, southbound: OvsdbServer, tmp_path: Path) -> Iterator[Sources]:
    """The rows of host1, with C1 on NETWORK, and of host2, with C2 there and C3 on its own network."""
    remotes = {"ovn_nb": host.northbound.remote, "ovn_remote": southbound.remote}
    host.open_vswitch.set(system_id="host1", ovn_encap_ip="10.0.0.1", **remotes)
    host.northbound.insert("NB_Global", nb_cfg=7)
    for network in (NETWORK, replace(NETWORK, id=OTHER)):
        host.overlay(HERE).create_network(network, Deadline(30))
    db = endpoint(C3, "192.168.1.4/24", mac="02:00:00:00:00:04", network=OTHER)
    host.overlay(HOST2).create_endpoint(endpoint(C2, "192.168.1.3/24", mac="02:00:00:00:00:03"), Deadline(30))
    host.overlay(HOST2).create_endpoint(db, Deadline(30))
    (tmp_path / "db.sock").symlink_to(host.open_vswitch.socket)
    with Sources(Places(tmp_path, tmp_path, tmp_path / "docker.sock", tmp_path / "plugin.sock")) as sources:
        yield sources


@pytest.fixture
def docker_api(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The replies of host1's Docker, without networks of ovn-docker, by path."""
    answers: dict[str, Any] = {"/version": {}, "/info": {}, "/networks": [], "/containers/json": []}
    api = Api(tmp_path / "docker.sock", lambda path: answers.get(path.partition("?")[0]))
    yield answers
    api.close()


def ports(snapshot: Snapshot) -> set[str]:
    assert snapshot.northbound
    return {port.endpoint for port in snapshot.northbound.ports}


def test_each_scope_reads_only_its_rows(host: Host, sources: Sources, container: Container) -> None:
    host.run(endpoint(C1, "192.168.1.2/24"), container)
    assert ports(sources.gather(Scope.HOST)) == {C1}
    assert ports(sources.gather(Scope.NETWORKS)) == {C1, C2}
    assert ports(sources.gather(Scope.CLUSTER)) == {C1, C2, C3}


def test_endpoint_shows_docker_ovn_and_open_vswitch(
    host: Host, sources: Sources, container: Container, southbound: OvsdbServer
) -> None:
    host.run(endpoint(C1, "192.168.1.2/24"), container)
    bind(southbound, C1, "host1")
    cluster = ClusterView(later(sources.gather(Scope.CLUSTER)))
    here, there = (next(e for e in cluster.endpoints if e.id == id_) for id_ in (C1, C2))
    assert (here.host, here.chassis, here.up, here.link, here.installed) == (
        "host1.example", "host1.example", True, host_link(C1), True
    )  # fmt: skip
    assert here.addresses == ("192.168.1.2",)
    assert here.differences == ()
    assert (there.host, there.here, there.differences) == (
        "host2.example", False, ("not in the southbound database",)
    )  # fmt: skip
    assert {n.id: (n.hosts, n.endpoints, n.subnets) for n in cluster.networks} == {
        NET: (("host1.example", "host2.example"), 2, ("192.168.1.0/24",)),
        OTHER: (("host2.example",), 1, ("192.168.1.0/24",)),
    }
    assert [(h.name, h.here, h.behind) for h in cluster.hosts] == [
        ("host1.example", True, 0),
        ("host2.example", False, 2),
    ]
    assert [(t.host, t.state) for t in cluster.tunnels] == [("host2.example", "missing")]


def test_version_of_ovn_northd_is_read(host: Host, sources: Sources) -> None:
    assert (rows := sources.gather(Scope.HOST).northbound)
    assert rows.northd == ""
    version = ["map", [["northd_internal_version", "23.03.1-20.27.0-70.6"]]]
    host.northbound.transact({"op": "update", "table": "NB_Global", "where": [], "row": {"options": version}})
    assert (rows := sources.gather(Scope.HOST).northbound)
    assert rows.northd == "23.03.1-20.27.0-70.6"


def test_ports_of_all_hosts_are_counted(host: Host, sources: Sources) -> None:
    sources.gather(Scope.HOST)  # connects
    assert count_ports(sources.northbound) == 2
    host.overlay(HOST2).delete_endpoint(C2, Deadline(30))
    assert count_ports(sources.northbound) == 1
    host.northbound.kill()
    assert count_ports(sources.northbound) == 0


def bind(southbound: OvsdbServer, port: str, chassis: str) -> None:
    rows = {row["name"]: row["_uuid"] for row in southbound.rows("Chassis")}
    southbound.transact(
        {"op": "insert", "table": "Datapath_Binding", "uuid-name": "d", "row": {"tunnel_key": 1}},
        {"op": "insert", "table": "Port_Binding",
         "row": {"logical_port": port, "datapath": ["named-uuid", "d"], "tunnel_key": 1, "up": True,
                 "chassis": ["uuid", rows[chassis]]}},
    )  # fmt: skip


def test_missing_part_is_a_difference(host: Host, sources: Sources, container: Container) -> None:
    host.run(endpoint(C1, "192.168.1.2/24"), container)
    host.overlay(HERE).delete_endpoint(C1, Deadline(30))
    (found,) = ClusterView(later(sources.gather(Scope.HOST))).endpoints
    assert "no port in the northbound database" in found.differences
    host.links.delete(host_link(C1))
    (found,) = ClusterView(later(sources.gather(Scope.HOST))).endpoints
    assert "no link on this host" in found.differences


def later(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot that was taken a minute after the containers had been started."""
    return replace(snapshot, taken=snapshot.taken + 61)


def test_starting_container_has_no_difference(
    host: Host, sources: Sources, docker_api: dict[str, Any]
) -> None:
    """The same holds for one that another host starts, whose port is not claimed yet."""
    host.driver().create_endpoint(endpoint(C1, "192.168.1.2/24"))
    snapshot = sources.gather(Scope.CLUSTER)
    assert [one.differences for one in ClusterView(snapshot).endpoints] == [()] * 3
    assert all(one.differences for one in ClusterView(later(snapshot)).endpoints)
    assert (
        "Docker does not know it"
        in next(one for one in ClusterView(later(snapshot)).endpoints if one.id == C1).differences
    )


def test_network_being_created_has_no_difference(
    host: Host, sources: Sources, docker_api: dict[str, Any]
) -> None:
    """Docker lists a network only after the driver has made it."""
    snapshot = sources.gather(Scope.CLUSTER)
    (made,) = (one for one in ClusterView(snapshot).networks if one.id == NET)
    assert made.differences == ()
    (made,) = (one for one in ClusterView(later(snapshot)).networks if one.id == NET)
    assert made.differences == ("the northbound database has it for this host, Docker does not",)


@pytest.mark.parametrize("scope", [Scope.NETWORKS, Scope.CLUSTER])
def test_attached_network_without_containers_has_no_difference(
    host: Host, sources: Sources, docker_api: dict[str, Any], scope: Scope
) -> None:
    host.northbound.insert("Logical_Switch", name="mine")
    attached = replace(NETWORK, id=NetworkId("d" * 64), options=NetworkOptions(switch="mine"))
    host.overlay(HERE).create_network(attached, Deadline(30))
    docker_api["/networks"] = [{"Id": attached.id, "Name": "mine", "Driver": "openvswitch"}]
    networks = {network.name: network for network in ClusterView(sources.gather(scope)).networks}
    assert networks["mine"].differences == ()
    assert networks["mine"].switch


@pytest.mark.parametrize("down", ["northbound", "southbound", "vswitch"])
def test_unreadable_part_is_missing_with_its_reason(
    host: Host, sources: Sources, southbound: OvsdbServer, down: str
) -> None:
    {"northbound": host.northbound, "southbound": southbound, "vswitch": host.open_vswitch}[down].kill()
    began = time.monotonic()
    snapshot = sources.gather(Scope.NETWORKS)
    assert time.monotonic() - began < 60  # it ends
    assert down in snapshot.missing
    assert getattr(snapshot, down) is None
    assert {"docker", "driver"} <= snapshot.missing.keys()
    alive = {"northbound", "southbound"} - {down} if down != "vswitch" else set()
    assert all(getattr(snapshot, part) is not None for part in alive)
    assert {link.name for link in snapshot.links} >= {"lo", "eth0"}


@pytest.mark.slow
@pytest.mark.parametrize("down", ["docker", "northbound", "southbound", "vswitch"])
def test_commands_fail_when_a_part_cannot_be_read(
    host: Host,
    sources: Sources,
    southbound: OvsdbServer,
    docker_api: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    down: str,
) -> None:
    places = sources.places
    settings = {"DOCKER": places.docker, "OVN_RUNDIR": places.ovn, "SOCKET": places.plugin}
    for name, value in settings.items():
        monkeypatch.setenv(f"OVN_DOCKER_{name}", str(value))
    monkeypatch.setenv("OVS_RUNDIR", str(places.vswitch))
    pools = {"Config": [{"Subnet": "192.168.1.0/24"}]}
    docker_api["/networks"] = [{"Id": NET, "Name": "foo", "Driver": "openvswitch", "IPAM": pools}]
    servers = {"northbound": host.northbound, "southbound": southbound, "vswitch": host.open_vswitch}
    if down == "docker":
        places.docker.unlink()
    else:
        servers[down].kill()
    codes = {command: main(command.split()) for command in ("ls", f"inspect {NET}", "graph", "doctor", "gc")}
    expected = {"ls": 3, f"inspect {NET}": 3, "graph": 1, "doctor": 1, "gc": 3}
    if down in ("docker", "southbound"):  # gc asks Docker about what may be left over, and OVN not at all
        del codes["gc"], expected["gc"]
    assert codes == expected


def test_invalid_database_address_is_reported(host: Host, sources: Sources) -> None:
    host.open_vswitch.set(system_id="host1", ovn_nb="nonsense", ovn_remote="tcp:127.0.0.1:1")
    missing = sources.gather(Scope.HOST).missing
    assert "invalid database address 'nonsense'" in missing["northbound"]
    assert "cannot reach OVN_Southbound at tcp:127.0.0.1:1: Connection refused" in missing["southbound"]


@pytest.mark.slow
def test_invalid_tunnel_address_is_ignored(sources: Sources, southbound: OvsdbServer) -> None:
    """ovn-controller writes any value of ovn-encap-ip into its row."""
    of_host2, row = [["ip", "==", "10.0.0.2"]], {"ip": "host2.example"}
    southbound.transact({"op": "update", "table": "Encap", "where": of_host2, "row": row})
    found = probe(sources, ClusterView(sources.gather(Scope.NETWORKS)))
    assert found.sync is not None
    assert found.paths == {}


def test_find_accepts_names_addresses_and_ids(host: Host, sources: Sources, container: Container) -> None:
    host.run(endpoint(C1, "192.168.1.2/24"), container)
    name(host, C1, "web")
    name(host, C2, "web")
    name(host, C3, "db")
    cluster = ClusterView(sources.gather(Scope.CLUSTER))

    def found(text: str) -> list[str]:
        return [endpoint.id for endpoint in cluster.find(text)]

    assert found("db") == found("192.168.1.4") == found(C3[:12]) == found("host2.example/db") == [C3]
    assert found("host1.example/web") == [C1]
    with pytest.raises(BadRequest, match=r"name one of them, host1\.example/web or host2\.example/web"):
        found("web")
    with pytest.raises(NotFound, match="unknown container 'nosuch'; known containers: db, web") as refused:
        found("nosuch")
    assert str(refused.value).endswith("docker.sock: No such file or directory")  # Docker might have it


def test_text_of_other_hosts_is_printable(host: Host, sources: Sources) -> None:
    name(host, C2, "web\x1b[2J")
    (shown,) = (e.container for e in ClusterView(sources.gather(Scope.CLUSTER)).endpoints if e.id == C2)
    assert shown == "web?[2J"


def name(host: Host, id_: str, text: str) -> None:
    """Insert a row of table DNS as backends/ovn/shared/container_names.py does."""
    ids = {"ovn-docker:owner": "overlay", "ovn-docker:endpoint": id_}
    records = {f"{id_[:2]}.1.168.192.in-addr.arpa": f"{text}.foo", text: "192.168.1.9"}
    host.northbound.transact(
        {"op": "insert", "table": "DNS", "uuid": row_uuid("names", id_),
         "row": {"records": ["map", list(map(list, records.items()))],
                 "external_ids": ["map", list(map(list, ids.items()))]}},
    )  # fmt: skip


@pytest.mark.usefixtures("network_namespace")
class TestEchoes:
    """Between two network namespaces, over a veth that carries 1400 bytes."""

    @pytest.fixture
    def peer(self, container: Container) -> int:
        """The process of a namespace with 10.7.0.2 and fd07::2; 10.7.0.1 and fd07::1 are here."""
        here, there = ("here", "up", "mtu", "1400"), ("there", "mtu", "1400", "address", "02:00:00:00:00:02")
        ip("link", "add", *here, "type", "veth", "peer", "name", *there)
        container.move_in("there")
        pid = container._process.pid
        run = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        commands = [
            ["ip", "address", "add", "10.7.0.1/24", "dev", "here"],
            ["ip", "address", "add", "fd07::1/64", "dev", "here", "nodad"],
            [*run, "ip", "address", "add", "10.7.0.2/24", "dev", "there"],
            [*run, "ip", "address", "add", "fd07::2/64", "dev", "there", "nodad"],
            [*run, "ip", "link", "set", "there", "up"],
        ]
        for command in commands:
            subprocess.run(command, check=True)
        until(lambda: "state UP" in ip("link", "show", "here"))  # Linux may take a second to send there
        return pid

    @pytest.mark.parametrize("target", ["10.7.0.2", "fd07::2"])
    def test_echoes_up_to_the_mtu_are_answered(self, peer: int, target: str) -> None:
        fits, large = Echo(target, 1400), Echo(target, 1401)
        absent = Echo(target[:-1] + "9", 100)
        until(lambda: answered([fits]))  # the first packet resolves the neighbour
        assert answered([fits, large, absent]) == {fits}

    def test_echo_from_another_namespace_is_answered(self, peer: int) -> None:
        echo = Echo("10.7.0.1", 100, "10.7.0.2")
        assert in_namespace(peer, lambda: answered([echo])) == {echo}
        assert answered([echo], wait=0.3) == set()  # that source is not ours

    def test_namespace_of_an_ended_process_is_an_error(self) -> None:
        with pytest.raises(OSError, match="No such file"):
            in_namespace(2**22 + 1, lambda: None)

    def test_checksum_offload_is_read(self, peer: int) -> None:
        assert in_namespace(peer, lambda: KernelLinks().tx_checksums("02:00:00:00:00:02")) == ("there", True)
        assert in_namespace(peer, lambda: KernelLinks().tx_checksums("02:00:00:00:00:77")) == ("", False)


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[ClusterView]:
    """A host that has only Docker, with a network and a container that has ended."""
    network = {"Id": OTHER, "Name": "\x1b[31mred\nblue", "Driver": "openvswitch"}
    ended = {"red": {"NetworkID": OTHER, "EndpointID": ""}}
    container = {"Id": "c" * 64, "Names": ["/web"], "State": "exited", "NetworkSettings": {"Networks": ended}}
    answers = {"/version": {"Version": "20.10.24"}, "/info": {}, "/networks": [network]}
    answers["/containers/json"] = [container]
    api = Api(tmp_path / "docker.sock", lambda path: answers.get(path.partition("?")[0]))
    places = Places(tmp_path, tmp_path, tmp_path / "docker.sock", tmp_path / "plugin.sock")
    with Sources(places) as sources:
        yield ClusterView(sources.gather(Scope.NETWORKS))
    api.close()


def test_network_names_of_docker_are_printable(docker: ClusterView) -> None:
    assert [network.name for network in docker.networks] == ["?[31mred?blue"]


def test_ended_container_is_named_with_its_state(docker: ClusterView) -> None:
    with pytest.raises(NotFound, match=r"container web is exited, so it has no port; .* docker start web"):
        docker.find("web")


def test_container_is_not_called_unknown_without_the_databases(docker: ClusterView) -> None:
    with pytest.raises(
        Unavailable, match=r"container 'db' is not on this host, and other hosts are unknown: .*unix:"
    ):
        docker.find("db")
