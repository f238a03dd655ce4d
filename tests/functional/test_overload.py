"""Overload: the driver answers in bounded time and memory, with the reason, and recovers by itself."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from functional.docker_api import Api
from functional.overlay_host import NET, NETWORK, Answer, OverlayHost, Proxy, endpoint, ids
from functional.ovsdb_servers import until
from ovn_docker.docker.server import CONNECTIONS

pytestmark = pytest.mark.slow

MANY = 200
"""Containers that start at once."""

LEAVE = b"POST /NetworkDriver.Leave HTTP/1.1\r\nHost: docker\r\n"
ACTIVATE = b"POST /Plugin.Activate HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n"


def memory(process: "subprocess.Popen[str]") -> int:
    """Return the largest resident size of a process so far, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def files(process: "subprocess.Popen[str]") -> int:
    """Return the number of open files of a process."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def limit_files(process: "subprocess.Popen[str]", number: int) -> None:
    """Set the limit of open files of a running process, as `ulimit -n` does for a new one."""
    subprocess.run(["prlimit", f"--pid={process.pid}", f"--nofile={number}:"], check=True)


def accepted(path: Path) -> socket.socket | None:
    """Return an idle connection on which the driver has answered a call; ``None`` if it was refused."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(120)
    connection.connect(str(path))
    connection.sendall(ACTIVATE)
    if connection.recv(4096).startswith(b"HTTP/1.1 200"):
        return connection
    connection.close()
    return None


def run_a_container(host: OverlayHost) -> None:
    """Make the calls of a container's life; all must succeed."""
    host.succeed("NetworkDriver.CreateEndpoint", endpoint(999))
    host.succeed("NetworkDriver.Join", {**ids(999), "SandboxKey": "/var/run/docker/netns/0123456789ab"})
    host.succeed("NetworkDriver.Leave", ids(999))
    host.succeed("NetworkDriver.DeleteEndpoint", ids(999))


def errors(answers: list[Answer]) -> set[str]:
    """Return the errors in *answers*; each is one line with HTTP status 200, as IPAM requires."""
    said = {answer.get("Err", "") for status, answer in answers if status == 200}
    assert all(status == 200 for status, _ in answers)
    assert not any("\n" in line for line in said)
    return said - {""}


@pytest.fixture(autouse=True)
def docker(overlay_host: OverlayHost) -> Iterator[None]:
    """Answer as a Docker that has the network, but not the containers whose calls the tests make."""
    networks = [{"Name": "none", "Id": "1"}, {"Name": "host", "Id": "2"}, {"Name": "foo", "Id": NET}]
    api = Api(
        Path(overlay_host.environment["OVN_DOCKER_DOCKER"]), lambda path: networks if "net" in path else []
    )
    yield
    api.close()


@pytest.fixture
def proxy(tmp_path: Path, overlay_host: OverlayHost) -> Iterator[Proxy]:
    """A proxy between the driver and the northbound database."""
    proxy = Proxy(tmp_path / "proxy.sock", overlay_host.northbound)
    overlay_host.set("ovn-nb", proxy.remote)
    yield proxy
    proxy.close()


def test_many_containers_at_once_all_start(overlay_host: OverlayHost) -> None:
    host, numbers = overlay_host, range(MANY)
    process = host.start("--request-timeout=60")  # as on a slow machine
    before = host.state()
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    assert not errors(host.at_once("NetworkDriver.CreateEndpoint", [endpoint(number) for number in numbers]))
    joins = [{**ids(number), "SandboxKey": f"/var/run/docker/netns/{number:012x}"} for number in numbers]
    assert not errors(host.at_once("NetworkDriver.Join", joins))
    for method in ("NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint"):
        assert not errors(host.at_once(method, [ids(number) for number in numbers]))
    host.succeed("NetworkDriver.DeleteNetwork", NETWORK)
    assert host.state() == before
    assert memory(process) < 80
    assert host.reports_no_defect()


def test_container_starts_at_five_seconds_for_each_transaction(
    overlay_host: OverlayHost, proxy: Proxy
) -> None:
    overlay_host.start()
    overlay_host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    before = overlay_host.state()
    proxy.delay = 5
    run_a_container(overlay_host)
    proxy.delay = 0
    assert overlay_host.state() == before


@pytest.mark.parametrize("delay", [11, None])
def test_many_calls_to_a_slow_or_silent_database_end_by_their_deadline(
    overlay_host: OverlayHost, proxy: Proxy, delay: float | None
) -> None:
    """Calls wait at the same time, although there are more of them than the server answers at once."""
    host, limit = overlay_host, 10
    process = host.start(f"--request-timeout={limit}", "--sweep-interval=3")
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    run_a_container(host)
    before = host.state()
    proxy.delay = delay
    wanted = [endpoint(number) for number in range(MANY)]
    said = errors(host.at_once("NetworkDriver.CreateEndpoint", wanted, timeout=3.5 * limit))
    assert said
    assert all("OVN_Northbound at unix:" in line and "did not answer within" in line for line in said)
    proxy.delay = 0
    run_a_container(host)
    until(lambda: host.state() == before)
    assert memory(process) < 80
    assert files(process) < 200
    assert host.reports_no_defect()


@pytest.mark.parametrize("which", ["northbound", "open_vswitch"])
def test_full_disk_of_a_database_is_named_and_recovered_from(overlay_host: OverlayHost, which: str) -> None:
    host = overlay_host
    database = getattr(host, which)
    host.open_vswitch.stop_daemon()  # restarted below: its reconnection would back off
    database.move_to_a_small_disk()
    host.open_vswitch.start_daemon()
    host.start("--sweep-interval=3")
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    run_a_container(host)
    before = host.state()
    database.fill_disk()
    # Transactions that fit into the last block of the file still succeed.
    answers = [host.ask("NetworkDriver.CreateEndpoint", endpoint(number)) for number in range(20)]
    said = errors(answers)
    full = {line for line in said if " cannot be written: " in line and "disk of its machine full?" in line}
    assert full
    # If the last room went to an endpoint, there is none for ovs-vswitchd's result.
    assert all(which == "open_vswitch" and "did not take up the port" in line for line in said - full), said
    database.empty_disk()
    for number in range(20):
        host.succeed("NetworkDriver.DeleteEndpoint", ids(number))
    run_a_container(host)
    until(lambda: host.state() == before)
    assert host.reports_no_defect()


def test_call_without_a_free_file_descriptor_is_refused_with_the_reason(overlay_host: OverlayHost) -> None:
    host = overlay_host
    process = host.start("--sweep-interval=3")
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    run_a_container(host)
    before, limit = host.state(), 2 * files(process)
    limit_files(process, limit)
    said: list[str] = []
    with ExitStack() as connections:
        held: list[socket.socket] = []

        def is_exhausted() -> bool:
            """Open connections until one is refused although no other thread has just taken the last file."""
            while connection := accepted(host.socket):
                held.append(connections.enter_context(connection))
            return files(process) == limit

        until(is_exhausted)
        while "" not in said and len(said) < 10:  # a few free file descriptors are enough
            _, answer = host.ask("NetworkDriver.CreateEndpoint", endpoint(len(said)))
            said.append(answer.get("Err", ""))
            held.pop().close()
    assert said[0].startswith("the ovn-docker driver has no file descriptor left for this call")
    assert said[-1] == ""
    for number in range(len(said)):
        host.succeed("NetworkDriver.DeleteEndpoint", ids(number))
    run_a_container(host)
    until(lambda: host.state() == before)
    assert host.reports_no_defect()
    assert len(host.log.read_text().splitlines()) < 1000, "the log is not flooded"


def test_large_bodies_are_refused_in_bounded_memory(overlay_host: OverlayHost) -> None:
    host = overlay_host
    process = host.start()
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    run_a_container(host)
    body = b" " * (10 << 20)
    answers = host.at_once("NetworkDriver.CreateEndpoint", [body] * 50)
    assert {(status, answer["Err"]) for status, answer in answers} == {
        (413, "request of more than 1048576 bytes")
    }
    run_a_container(host)
    assert memory(process) < 150
    assert host.reports_no_defect()


def test_slow_and_unread_connections_do_not_keep_docker_out(overlay_host: OverlayHost) -> None:
    """More connections than the server keeps; some send a byte a second, some no body, some do not read."""
    host = overlay_host
    process = host.start()
    host.succeed("NetworkDriver.CreateNetwork", NETWORK)
    end = threading.Event()
    with ExitStack() as held:
        slow = []
        for number in range(CONNECTIONS + 250):
            sock = held.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(120)
            sock.connect(str(host.socket))
            sock.setblocking(False)
            with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                if number % 3 == 0:
                    slow.append(sock)
                elif number % 3 == 1:
                    sock.send(LEAVE + b"Content-Length: 100\r\n\r\n{")
                else:
                    while True:
                        sock.send(ACTIVATE * 100)

        def drip() -> None:
            for byte in LEAVE:
                for sock in slow:
                    with suppress(OSError):
                        sock.send(bytes([byte]))
                if end.wait(1):
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for _ in range(5):
                run_a_container(host)
        finally:
            end.set()
            dripping.join()
        assert files(process) < CONNECTIONS + 150
    run_a_container(host)
    assert memory(process) < 100
    until(lambda: files(process) < 100)
    assert host.reports_no_defect()
