"""Settings of dockerd from its arguments and configuration file, and answers of Docker's API."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from ovn_docker.docker.engine import DockerEngine, dockerd_setting, has_cluster_store
from ovn_docker.errors import Unavailable
from ovn_docker.model import Endpoint, EndpointId, Network, NetworkId, Subnet
from ovn_docker.options import NetworkOptions


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with two processes that are not dockerd, one of which has just ended."""
    process(tmp_path, 1, "systemd", "/sbin/init", "--cluster-store=etcd://10.0.0.9:2379")
    (tmp_path / "2").mkdir()
    (tmp_path / "cpuinfo").touch()
    return tmp_path


def process(
    proc: Path, pid: int, name: str, *arguments: str, inside: str = "", uids: str = "0 0 0 0"
) -> None:
    """Make a process; *inside*: its PID in a container; *uids*: as in proc(5), the real one first."""
    directory = proc / str(pid)
    directory.mkdir()
    (directory / "status").write_text(f"Name:\t{name}\nPid:\t{pid}\nUid:\t{uids}\nNSpid:\t{pid}\t{inside}\n")
    (directory / "comm").write_text(f"{name}\n")
    (directory / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in arguments))


def config(proc: Path, text: str) -> Path:
    path = proc / "daemon.json"
    path.write_text(text)
    return path


NONE = Path("/nowhere/daemon.json")


@pytest.mark.parametrize(
    "arguments", [["--cluster-store=etcd://10.0.0.9:2379"], ["--debug", "--cluster-store", "etcd://10.0.0.9"]]
)
def test_cluster_store_is_found_in_the_arguments(proc: Path, arguments: list[str]) -> None:
    process(proc, 700, "dockerd", "/usr/bin/dockerd", *arguments)
    assert has_cluster_store(proc, NONE)


@pytest.mark.parametrize("whose", [{"inside": "7"}, {"uids": "1000 1000 1000 1000"}, {"uids": "1000 0 0 0"}])
def test_dockerd_of_a_container_or_a_user_does_not_count(proc: Path, whose: dict[str, str]) -> None:
    path = config(proc, '{"cluster-store": "etcd://10.0.0.9", "dns": ["10.0.0.66"]}')
    arguments = ("--cluster-store=etcd://10.0.0.9", "--dns=10.0.0.66", f"--config-file={path}")
    process(proc, 700, "dockerd", "dockerd", *arguments, **whose)
    assert not has_cluster_store(proc, NONE)
    assert dockerd_setting("dns", proc, NONE) == []


@pytest.mark.parametrize("arguments", [[], ["-H", "fd://"], ["--cluster-advertise=eth0:2376"]])
def test_dockerd_without_the_argument_has_no_cluster_store(proc: Path, arguments: list[str]) -> None:
    process(proc, 700, "dockerd", "/usr/bin/dockerd", *arguments)
    assert not has_cluster_store(proc, NONE)


def test_cluster_store_is_absent_while_dockerd_does_not_run(proc: Path) -> None:
    assert not has_cluster_store(proc, NONE)


def test_cluster_store_is_found_in_the_configuration(proc: Path) -> None:
    process(proc, 700, "dockerd", "/usr/bin/dockerd")
    assert has_cluster_store(proc, config(proc, '{"cluster-store": "etcd://10.0.0.9:2379"}'))


@pytest.mark.parametrize("how", ["--config-file={}", "--config-file {}"])
def test_configuration_file_of_the_arguments_is_read(proc: Path, how: str) -> None:
    path = config(proc, '{"cluster-store": "etcd://10.0.0.9:2379"}')
    process(proc, 700, "dockerd", "/usr/bin/dockerd", *how.format(path).split())
    assert has_cluster_store(proc, NONE)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '"cluster-store"', '{"cluster-advertise": "eth0"}', "\0"),
        *('{"cluster-store": ""}', '{"cluster-store": null}', '{"cluster-store":' * 100_000),
    ],
    ids=lambda text: text[:24],
)
def test_configuration_without_cluster_store_or_invalid_has_none(proc: Path, text: str) -> None:
    process(proc, 700, "dockerd", "/usr/bin/dockerd")
    assert not has_cluster_store(proc, config(proc, text))


def test_configuration_that_is_not_utf_8_has_no_cluster_store(proc: Path) -> None:
    path = config(proc, "")
    path.write_bytes(b"\xff\xfe")
    assert not has_cluster_store(proc, path)


def test_setting_may_be_given_several_times(proc: Path) -> None:
    process(proc, 700, "dockerd", "/usr/bin/dockerd", "--dns=169.254.53.1", "--dns", "10.0.0.53")
    assert dockerd_setting("dns", proc, NONE) == ["169.254.53.1", "10.0.0.53"]


def test_setting_may_be_a_list_in_the_configuration(proc: Path) -> None:
    process(proc, 700, "dockerd", "/usr/bin/dockerd")
    path = config(proc, '{"dns": ["169.254.53.1", "10.0.0.53"]}')
    assert dockerd_setting("dns", proc, path) == ["169.254.53.1", "10.0.0.53"]
    assert dockerd_setting("dns", proc, NONE) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"dns": null}', '{"dns": 5}'])
def test_invalid_configuration_raises_no_error(proc: Path, text: str) -> None:
    assert all(isinstance(server, str) for server in dockerd_setting("dns", proc, config(proc, text)))


Answers = Callable[..., DockerEngine]


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    """Return a function that makes an engine with the given answers, in this order."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "docker.sock"))
    listener.listen()

    def make(*given: Any) -> DockerEngine:
        def serve() -> None:
            for answer in given:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    body = json.dumps(answer).encode()
                    head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                    connection.sendall(head.encode() + body)

        threading.Thread(target=serve, daemon=True).start()
        return DockerEngine(tmp_path / "docker.sock")

    yield make
    listener.close()


BUILT_IN = [{"Id": "b0", "Name": "bridge"}, {"Id": "a0", "Name": "host"}, {"Id": "90", "Name": "none"}]


def container(**networks: dict[str, str]) -> dict[str, Any]:
    return {"Id": "c0", "NetworkSettings": {"Networks": networks}}


def test_inventory_has_endpoints_of_running_containers_and_all_networks(answers: Answers) -> None:
    starting = container(foo={"EndpointID": "", "NetworkID": "f0"})
    running = container(bar={"EndpointID": "e1", "NetworkID": "f1"})
    engine = answers([starting, running, {"Id": "c2"}], [*BUILT_IN, {"Id": "f2", "Name": "baz"}])
    assert engine.inventory() == ({"e1": "c0"}, {"f0", "f1", "f2", "b0", "a0", "90"})


def test_networks_and_endpoints_are_described_from_dockers_data(answers: Answers) -> None:
    """Docker 20.10 does not list the gateway that IPAM chose: the first address is assumed."""
    pools = [{"Subnet": "10.1.0.0/24"}, {"Subnet": "fd00::/64", "Gateway": "fd00::5/64"}]
    options = {"ovn.network": "foo", "com.docker.network.bridge.name": "br9"}
    foo = {
        "Id": "f1",
        "Driver": "openvswitch",
        "IPAM": {"Driver": "openvswitch", "Config": pools},
        "Options": options,
        "Internal": True,
    }
    part = [{"Subnet": "10.2.0.0/24", "IPRange": "10.2.0.128/25"}]
    bar = {
        "Id": "f2",
        "Driver": "openvswitch",
        "IPAM": {"Driver": "default", "Config": part},
        "Options": None,
    }
    null = {
        "Id": "f3",
        "Driver": "openvswitch",
        "IPAM": {"Driver": "null", "Config": [{"Subnet": "0.0.0.0/0"}]},
    }
    unknown = {"Id": "f4", "Driver": "openvswitch", "Options": {"ovn.nonsense": "1"}}
    addressed = {"IPAddress": "10.1.0.2", "IPPrefixLen": 24, "GlobalIPv6Address": "fd00::2",
                 "GlobalIPv6PrefixLen": 64, "MacAddress": "02:42:0a:01:00:02"}  # fmt: skip
    running = container(foo={"EndpointID": "e1", "NetworkID": "f1", **addressed}, none={"EndpointID": ""})
    networks, endpoints = answers(
        [foo, bar, null, unknown, {"Id": "f5", "Driver": "bridge"}], [running, {"Id": "c2"}]
    ).described()
    assert networks == [
        Network(
            NetworkId("f1"),
            (
                Subnet(ip_network("10.1.0.0/24"), ip_address("10.1.0.1"), ours=True),
                Subnet(ip_network("fd00::/64"), ip_address("fd00::5"), ours=True),
            ),
            internal=True,
            options=NetworkOptions(name="foo"),
        ),
        Network(NetworkId("f2"), (Subnet(ip_network("10.2.0.0/24"), ip_address("10.2.0.128")),)),
        Network(NetworkId("f3")),
    ]
    addresses = ip_interface("10.1.0.2/24"), ip_interface("fd00::2/64")
    assert endpoints == [Endpoint(EndpointId("e1"), NetworkId("f1"), addresses, "02:42:0a:01:00:02")]


@pytest.mark.parametrize(
    "networks", [[], BUILT_IN[:1], None, {"message": "no"}, [{"Id": "f0"}, *BUILT_IN], ["x"]]
)
def test_incomplete_list_of_networks_is_refused(answers: Answers, networks: Any) -> None:
    with pytest.raises(Unavailable, match=r"docker\.sock (does not|sent an invalid list)"):
        answers([], networks).inventory()


def test_missing_docker_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Docker does not answer"):
        DockerEngine(tmp_path / "nothing.sock").inventory()
