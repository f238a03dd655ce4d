"""Addresses from one pool on three hosts: each is leased once, and again after a host is lost."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from e2e.cluster import driver_behind_its_socket, unanswered
from e2e.lab import CommandError, Host, wait_for
from e2e.lab.services import Service

Hosts = tuple[Host, Host, Host]


@pytest.fixture
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """The hosts; afterwards checks that the test left nothing."""
    yield three_hosts
    for host in three_hosts:
        remove(host, *host.docker("ps", "--all", "--quiet").split())
    for host in three_hosts:
        host.run("docker", "network", "rm", "foo", check=False)
    wait_for(lambda: not any(map(has_foo, three_hosts)), "foo to go")
    # Docker stops listing a network when it begins to remove it.
    wait_for(lambda: not left(three_hosts[0]), "what foo had in the database to go")


def left(central: Host) -> list[str]:
    """Return the rows of networks, endpoints and addresses in the northbound database."""
    tables = ("Logical_Switch", "Logical_Switch_Port", "DHCP_Options")
    listed = [central.run("ovn-nbctl", "--bare", "--columns=external_ids", "list", table) for table in tables]
    return [ids for ids in "\n".join(listed).splitlines() if ids and "ovn-docker:generation" not in ids]


def create_foo(hosts: Hosts, subnet: str, *options: str) -> None:
    """Create the network `foo` on the first host; wait until all hosts have it."""
    hosts[0].docker(
        *("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", f"--subnet={subnet}"),
        *("-o", "ovn.network=foo", *options, "foo"),
    )
    wait_for(lambda: all(map(has_foo, hosts)), "foo on all hosts")


def has_foo(host: Host) -> bool:
    return host.docker("network", "ls", "--quiet", "--filter=name=^foo$") != ""


def run(host: Host, name: str, *options: str) -> str:
    """Start a container on `foo`; return its address."""
    host.docker(
        *("run", "-d", "--net=foo", f"--name={name}", "--stop-signal=KILL", *options),
        *("busybox", "sleep", "3600"),
    )
    return address(host, name)


def address(host: Host, name: str) -> str:
    """Return a container's address on `foo`; empty if it has none."""
    (settings,) = json.loads(host.docker("inspect", name))
    return str(settings["NetworkSettings"]["Networks"]["foo"]["IPAddress"])


def is_wanted(host: Host, driver: Service) -> bool:
    """Return whether a client has connected to the socket of a driver that is started on demand."""
    return host.path(f"/proc/{driver.pid}/cmdline").read_bytes().startswith(b"sh\0")


def remove(host: Host, *containers: str) -> None:
    if containers:
        host.docker("rm", "--force", *containers)


def test_thirty_containers_started_at_once_reach_each_other(hosts: Hosts) -> None:
    create_foo(hosts, "10.1.0.0/16")
    places = [(hosts[n % 3], f"c{n}") for n in range(30)]
    with ThreadPoolExecutor(30) as pool:
        addresses = list(pool.map(lambda place: run(*place), places))
        assert len(set(addresses)) == 30
        # A port forwards when `docker run` returns; the other hosts learn of it a moment later.
        hosts[0].await_flows()

        def unreached(n: int) -> list[str]:
            near, far = addresses[n % 3 :: 3], set(addresses) - set(addresses[n % 3 :: 3])
            return unanswered(*places[n], *near) + unanswered(*places[n], *far, tunnel=True)

        assert list(pool.map(unreached, range(30))) == [[]] * 30


def test_released_address_is_leased_last(hosts: Hosts) -> None:
    """A neighbour may still have the MAC of the earlier container."""
    host1, host2, host3 = hosts
    create_foo(hosts, "10.1.0.0/29")
    released = run(host1, "gone")
    rest = {f"10.1.0.{n}" for n in range(2, 7)} - {released}
    remove(host1, "gone")
    with ThreadPoolExecutor() as pool:
        assert set(pool.map(run, (host1, host1, host2, host3), ("c1", "c2", "c3", "c4"))) == rest
    wait_for(lambda: run_if_possible(host2, "again") == released, "the address to be had again")
    host1.await_flows()
    assert unanswered(host2, "again", *rest, tunnel=True) == []
    with pytest.raises(CommandError, match=r"no free address in 10\.1\.0\.0/29; remove containers, or"):
        run(host3, "one-too-many")


def run_if_possible(host: Host, name: str) -> str:
    """Start a container; return its address, or an empty string if Docker refuses it."""
    try:
        return run(host, name)
    except CommandError:
        remove(host, name)
        return ""


def test_requested_address_is_leased_to_one_host_only(hosts: Hosts) -> None:
    create_foo(hosts, "10.1.0.0/16")
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(run, host, "mine", "--ip=10.1.7.7") for host in hosts]
        wait(runs)
    refusals = [str(error) for one in runs if (error := one.exception())]
    assert len(refusals) == 2
    assert all("address 10.1.7.7 is in use by" in refusal for refusal in refusals)


def test_addresses_come_back_after_docker_and_the_driver_died(hosts: Hosts) -> None:
    """Docker starts before the driver, waits on the driver's socket, and continues as soon as it serves."""
    host1, host2, _ = hosts
    create_foo(hosts, "10.1.0.0/16")
    run(host1, "neighbour")
    named = run(host2, "named", "--ip=10.1.7.7")
    run(host2, "gone")
    remove(host2, "gone")
    always = run(host2, "always", "--restart=always")
    host2.driver.kill()
    host2.dockerd.kill()
    host2.run("rm", "--force", host2.driver.listens)
    with driver_behind_its_socket(host2) as driver:
        start = len(host2.path(host2.dockerd.log).read_text())
        host2.dockerd.start(wait=False)
        wait_for(lambda: is_wanted(host2, driver), "Docker to connect")
        host2.run("touch", "/run/driver-may-start")
        host2.dockerd.await_ready()
        assert "Unable to locate plugin" not in host2.path(host2.dockerd.log).read_text()[start:]
        host2.docker("start", "named")
        assert [address(host2, name) for name in ("named", "always")] == [named, always]
        host1.await_flows()
        assert unanswered(host1, "neighbour", named, always, tunnel=True) == []
    assert address(host2, "always") == always


def test_addresses_of_a_forgotten_host_are_leased_again(hosts: Hosts) -> None:
    host1, host2, host3 = hosts
    create_foo(hosts, "10.1.0.0/16")
    run(host1, "c1")
    run(host3, "lost", "--ip=10.1.7.7")
    wait_for(lambda: "lost" in host1.run("ovn-nbctl", "--columns=records", "list", "DNS"), "its name")
    forget = "ovn-docker", "host", "forget", "host3", "--yes"
    with pytest.raises(CommandError, match="host3 is alive: its ovn-controller answers; stop it there"):
        host1.run(*forget)
    host3.power_off()
    with pytest.raises(CommandError, match=r"address 10\.1\.7\.7 is in use by endpoint \w+ on host host3"):
        run(host2, "mine", "--ip=10.1.7.7")
    remove(host2, "mine")

    said = host1.run(*forget)
    assert "host3 does not answer; OVN lists it until you type: ovn-sbctl chassis-del host3" in said
    assert "removed 1 port, 1 name, 4 claims, 1 lease, 1 pool, 1 note" in said
    run(host2, "mine", "--ip=10.1.7.7")
    host1.ping("c1", "10.1.7.7")
    assert host1.run(*forget) == "nothing to change"

    # If the host comes back, it has to make the network again; its error says so.
    host3.power_on()
    host3.start_switch()
    host3.controller.start()
    host3.driver.start()
    host3.start_docker()
    with pytest.raises(CommandError, match=r"it was deleted there .* remove its network and create it again"):
        run(host3, "back")
    remove(host3, "back", "lost")
    host3.docker("network", "rm", "foo")
    wait_for(lambda: has_foo(host3), "foo on host3")
    back = run(host3, "back")
    host1.await_flows()
    assert unanswered(host1, "c1", back, "10.1.7.7", tunnel=True) == []
