"""A snapshot, read from real databases and real links: how much each scope reads, and what is missing."""

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
from ovn_docker.cli import gc
from ovn_docker.cli.main import main
from ovn_docker.deadline import Deadline
from ovn_docker.errors import BadRequest, NotFound, Unavailable
from ovn_docker.host.links import Links
from ovn_docker.host.ping import Echo, answered, in_namespace
from ovn_docker.model import Chassis, NetworkId, host_link, row_uuid
from ovn_docker.options import NetworkOptions
from ovn_docker.view import gather
from ovn_docker.view.cluster import Cluster
from ovn_docker.view.gather import Places, Sources
from ovn_docker.view.probes import probe
from ovn_docker.view.snapshot import Scope, Snapshot

OTHER = NetworkId("b" * 64)
HERE = Chassis("host1", (), (), ("geneve",), "br-int", "system")


@pytest.fixture
def southbound(make_server: MakeServer) -> OvsdbServer:
    """With a row for each of two hosts, and NB's number taken up by the first alone."""
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
    """Of host1, which has C1 on NETWORK; host2 has C2 there, and C3 on a network of its own."""
    remotes = {"ovn_nb": host.northbound.remote, "ovn_remote": southbound.remote}
    host.open_vswitch.set(system_id="host1", ovn_encap_ip="10.0.0.1", **remotes)
    host.northbound.insert("NB_Global", nb_cfg=7)
    for network in (NETWORK, replace(NETWORK, id=OTHER)):
        host.overlay.create_network(network, HERE, Deadline(5))
    db = endpoint(C3, "192.168.1.4/24", mac="02:00:00:00:00:04", network=OTHER)
    host.overlay.create_endpoint(endpoint(C2, "192.168.1.3/24", mac="02:00:00:00:00:03"), HOST2, Deadline(5))
    host.overlay.create_endpoint(db, HOST2, Deadline(5))
    (tmp_path / "db.sock").symlink_to(host.open_vswitch.socket)
    with Sources(Places(tmp_path, tmp_path, tmp_path / "docker.sock", tmp_path / "plugin.sock")) as sources:
        yield sources


@pytest.fixture
def docker_api(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Docker of host1 with nothing of ours: what it answers to each path."""
    answers: dict[str, Any] = {"/version": {}, "/info": {}, "/networks": [], "/containers/json": []}
    api = Api(tmp_path / "docker.sock", lambda path: answers.get(path.partition("?")[0]))
    yield answers
    api.close()


def ports(snapshot: Snapshot) -> set[str]:
    assert snapshot.northbound
    return {port.endpoint for port in snapshot.northbound.ports}


def test_each_scope_reads_its_rows_and_no_others(host: Host, sources: Sources, container: Container) -> None:
    host.run(endpoint(C1, "192.168.1.2/24"), container)
    assert ports(sources.gather(Scope.HOST)) == {C1}
    assert ports(sources.gather(Scope.NETWORKS)) == {C1, C2}
    assert ports(sources.gather(Scope.CLUSTER)) == {C1, C2, C3}


def test_all_sides_of_a_container_stand_side_by_side(
    host: Host, sources: Sources, container: Container, southbound: OvsdbServer
) -> None:
    host.run(endpoint(C1, "192.168.1.2/24"), container)
    bind(southbound, C1, "host1")
    cluster = Cluster(later(sources.gather(Scope.CLUSTER)))
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


def bind(southbound: OvsdbServer, port: str, chassis: str) -> None:
    rows = {row["name"]: row["_uuid"] for row in southbound.rows("Chassis")}
    southbound.transact(
        {"op": "insert", "table": "Datapath_Binding", "uuid-name": "d", "row": {"tunnel_key": 1}},
        {"op": "insert", "table": "Port_Binding",
         "row": {"logical_port": port, "datapath": ["named-uuid", "d"], "tunnel_key": 1, "up": True,
                 "chassis": ["uuid", rows[chassis]]}},
    )  # fmt: skip


def test_what_one_side_lacks_is_a_difference(host: Host, sources: Sources, container: Container) -> None:
    host.run(endpoint(C1, "192.168.1.2/24"), container)
    host.overlay.delete_endpoint(C1, HERE, Deadline(5))
    (found,) = Cluster(later(sources.gather(Scope.HOST))).endpoints
    assert "no port in the northbound database" in found.differences
    host.links.delete(host_link(C1))
    (found,) = Cluster(later(sources.gather(Scope.HOST))).endpoints
    assert "no link on this host" in found.differences


def later(snapshot: Snapshot) -> Snapshot:
    """As if the containers had been started a minute before it was taken."""
    return replace(snapshot, taken=snapshot.taken + 61)


def test_a_container_that_is_being_started_is_no_difference(
    host: Host, sources: Sources, docker_api: dict[str, Any]
) -> None:
    """Nor is one that another host starts, whose port nobody has claimed yet."""
    host.driver().create_endpoint(endpoint(C1, "192.168.1.2/24"))
    snapshot = sources.gather(Scope.CLUSTER)
    assert [one.differences for one in Cluster(snapshot).endpoints] == [()] * 3
    assert all(one.differences for one in Cluster(later(snapshot)).endpoints)
    assert (
        "Docker does not know it"
        in next(one for one in Cluster(later(snapshot)).endpoints if one.id == C1).differences
    )


def test_a_network_that_is_being_made_is_no_difference(
    host: Host, sources: Sources, docker_api: dict[str, Any]
) -> None:
    """Docker lists it when the driver has made it."""
    snapshot = sources.gather(Scope.CLUSTER)
    (made,) = (one for one in Cluster(snapshot).networks if one.id == NET)
    assert made.differences == ()
    (made,) = (one for one in Cluster(later(snapshot)).networks if one.id == NET)
    assert made.differences == ("the northbound database has it for this host, Docker does not",)


@pytest.mark.parametrize("scope", [Scope.NETWORKS, Scope.CLUSTER])
def test_a_network_on_the_users_switch_is_complete_without_containers(
    host: Host, sources: Sources, docker_api: dict[str, Any], scope: Scope
) -> None:
    host.northbound.insert("Logical_Switch", name="mine")
    attached = replace(NETWORK, id=NetworkId("d" * 64), options=NetworkOptions(switch="mine"))
    host.overlay.create_network(attached, HERE, Deadline(5))
    docker_api["/networks"] = [{"Id": attached.id, "Name": "mine", "Driver": "openvswitch"}]
    networks = {network.name: network for network in Cluster(sources.gather(scope)).networks}
    assert networks["mine"].differences == ()
    assert networks["mine"].switch


@pytest.mark.parametrize("down", ["northbound", "southbound", "vswitch"])
def test_what_cannot_be_read_is_told_and_the_rest_is_there(
    host: Host, sources: Sources, southbound: OvsdbServer, down: str
) -> None:
    {"northbound": host.northbound, "southbound": southbound, "vswitch": host.open_vswitch}[down].kill()
    began = time.monotonic()
    snapshot = sources.gather(Scope.NETWORKS)
    assert time.monotonic() - began < 60  # not for ever
    assert down in snapshot.missing
    assert getattr(snapshot, down) is None
    assert {"docker", "driver"} <= snapshot.missing.keys()
    alive = {"northbound", "southbound"} - {down} if down != "vswitch" else set()
    assert all(getattr(snapshot, part) is not None for part in alive)
    assert {link.name for link in snapshot.links} >= {"lo", "eth0"}


@pytest.mark.slow
@pytest.mark.parametrize("down", ["docker", "northbound", "southbound", "vswitch"])
def test_no_command_says_that_all_is_well_when_a_side_cannot_be_read(
    host: Host,
    sources: Sources,
    southbound: OvsdbServer,
    docker_api: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    down: str,
) -> None:
    places = sources.places
    monkeypatch.setattr(gather, "Places", lambda: places)
    monkeypatch.setattr(gc, "SOCKET", places.plugin)
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


def test_a_setting_that_is_no_address_is_told(host: Host, sources: Sources) -> None:
    host.open_vswitch.set(system_id="host1", ovn_nb="nonsense", ovn_remote="tcp:127.0.0.1:1")
    missing = sources.gather(Scope.HOST).missing
    assert "'nonsense' is no database address" in missing["northbound"]
    assert "cannot reach OVN_Southbound at tcp:127.0.0.1:1: Connection refused" in missing["southbound"]


def test_a_tunnel_address_that_is_none_is_passed_over(sources: Sources, southbound: OvsdbServer) -> None:
    """ovn-controller writes down whatever ovn-encap-ip says on its host."""
    of_host2, row = [["ip", "==", "10.0.0.2"]], {"ip": "host2.example"}
    southbound.transact({"op": "update", "table": "Encap", "where": of_host2, "row": row})
    found = probe(sources, Cluster(sources.gather(Scope.NETWORKS)))
    assert found.sync is not None
    assert found.paths == {}


def test_containers_are_found_by_what_people_call_them(
    host: Host, sources: Sources, container: Container
) -> None:
    host.run(endpoint(C1, "192.168.1.2/24"), container)
    name(host, C1, "web")
    name(host, C2, "web")
    name(host, C3, "db")
    cluster = Cluster(sources.gather(Scope.CLUSTER))

    def found(text: str) -> list[str]:
        return [endpoint.id for endpoint in cluster.find(text)]

    assert found("db") == found("192.168.1.4") == found(C3[:12]) == found("host2.example/db") == [C3]
    assert found("host1.example/web") == [C1]
    with pytest.raises(BadRequest, match=r"say host1\.example/web or host2\.example/web"):
        found("web")
    with pytest.raises(NotFound, match="no container 'nosuch' on our networks: there are db, web") as refused:
        found("nosuch")
    assert str(refused.value).endswith("docker.sock: No such file or directory")  # who might have it


def test_what_other_hosts_wrote_cannot_draw_on_the_terminal(host: Host, sources: Sources) -> None:
    name(host, C2, "web\x1b[2J")
    (shown,) = (e.container for e in Cluster(sources.gather(Scope.CLUSTER)).endpoints if e.id == C2)
    assert shown == "web?[2J"


def name(host: Host, id_: str, text: str) -> None:
    """As backends/dns.py stores it."""
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
        container.take("there")
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
    def test_what_fits_is_answered_and_what_does_not_is_not(self, peer: int, target: str) -> None:
        fits, large = Echo(target, 1400), Echo(target, 1401)
        nobody = Echo(target[:-1] + "9", 100)
        assert answered([fits, large, nobody]) == {fits}

    def test_from_another_namespace(self, peer: int) -> None:
        echo = Echo("10.7.0.1", 100, "10.7.0.2")
        assert in_namespace(peer, lambda: answered([echo])) == {echo}
        assert answered([echo], wait=0.3) == set()  # that source is not ours

    def test_no_such_namespace(self) -> None:
        with pytest.raises(OSError, match="No such file"):
            in_namespace(2**22 + 1, lambda: None)

    def test_checksum_offload_is_seen(self, peer: int) -> None:
        assert in_namespace(peer, lambda: Links().tx_checksums("02:00:00:00:00:02")) == ("there", True)
        assert in_namespace(peer, lambda: Links().tx_checksums("02:00:00:00:00:77")) == ("", False)


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Cluster]:
    """A host that has only Docker, with a network and a container that has ended."""
    network = {"Id": OTHER, "Name": "\x1b[31mred\nblue", "Driver": "openvswitch"}
    ended = {"red": {"NetworkID": OTHER, "EndpointID": ""}}
    container = {"Id": "c" * 64, "Names": ["/web"], "State": "exited", "NetworkSettings": {"Networks": ended}}
    answers = {"/version": {"Version": "20.10.24"}, "/info": {}, "/networks": [network]}
    answers["/containers/json"] = [container]
    api = Api(tmp_path / "docker.sock", lambda path: answers.get(path.partition("?")[0]))
    places = Places(tmp_path, tmp_path, tmp_path / "docker.sock", tmp_path / "plugin.sock")
    with Sources(places) as sources:
        yield Cluster(sources.gather(Scope.NETWORKS))
    api.close()


def test_a_network_of_docker_is_shown_without_what_a_terminal_obeys(docker: Cluster) -> None:
    assert [network.name for network in docker.networks] == ["?[31mred?blue"]


def test_a_container_that_has_ended_is_not_called_unknown(docker: Cluster) -> None:
    with pytest.raises(NotFound, match=r"container web is exited, so it has no port; .* docker start web"):
        docker.find("web")


def test_without_the_databases_nobody_knows_that_there_is_no_such_container(docker: Cluster) -> None:
    with pytest.raises(Unavailable, match=r"no container 'db' as far as can be seen from here: .*unix:"):
        docker.find("db")
