"""Docker or a container is killed, and Docker does not release its endpoints."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.cluster import Cluster, driver_with
from e2e.lab import wait_for


def test_endpoints_that_docker_forgot_are_swept(cluster: Cluster) -> None:
    central, host = cluster.hosts
    cluster.run(central, "witness", "192.168.1.10")
    cluster.run(host, "always", "192.168.1.20", "--restart=always")
    cluster.run(host, "again", "192.168.1.30")
    cluster.run(host, "never", "192.168.1.40")
    old = {endpoint["EndpointID"] for endpoint in cluster.endpoints(host)}
    with driver_with(host, "--sweep-interval=3600"):
        host.dockerd.kill()
        host.dockerd.start()
        host.docker("start", "again")
        wait_for(lambda: len(cluster.endpoints(host)) == 2, "restart=always")
        for address in ("192.168.1.20", "192.168.1.30"):
            cluster.ping(central, "witness", address)
        assert old.isdisjoint(endpoint["EndpointID"] for endpoint in cluster.endpoints(host))
    cluster.settles()
    host.docker("start", "never")
    cluster.ping(central, "witness", "192.168.1.40")


def test_containers_survive_dockers_death_with_live_restore(cluster: Cluster) -> None:
    central, host = cluster.hosts
    host.dockerd.stop()
    host.dockerd.start("--live-restore")
    cluster.run(central, "witness", "192.168.1.10")
    cluster.run(host, "lives", "192.168.1.20")
    before = cluster.found()
    host.dockerd.kill()
    said = len(host.path(host.driver.log).read_text())
    with driver_with(host):  # it looks for leftovers at its start
        host.run("ip", "link", "add", "odhstray", "type", "veth", "peer", "odcstray")
        log = host.path(host.driver.log)
        wait_for(lambda: "Docker does not answer" in log.read_text()[said:], "a look")
        cluster.ping(central, "witness", "192.168.1.20")
        host.dockerd.start("--live-restore")
    host.run("ip", "link", "delete", "odhstray", check=False)
    cluster.sweep(host)
    cluster.ping(central, "witness", "192.168.1.20")
    assert cluster.found() == before
    cluster.in_order()
    host.docker("rm", "--force", "lives")
    host.dockerd.stop()
    host.dockerd.start()


def test_docker_killed_while_containers_start_leaves_no_leftovers(cluster: Cluster) -> None:
    host = cluster.host2
    addresses = {f"c{i}": f"192.168.1.{20 + i}" for i in range(8)}
    with ThreadPoolExecutor(8) as pool:
        starts = [pool.submit(cluster.run, host, name, addresses[name]) for name in addresses]
        wait_for(lambda: len(cluster.ports(host)) > 2, "some containers to start")
        host.dockerd.kill()
    assert any(start.exception() for start in starts)
    host.dockerd.start()
    # A container may run that Docker lists as created only: it keeps its address while it runs.
    for task in host.run("ctr", "--namespace=moby", "tasks", "list", "--quiet").split():
        host.run("ctr", "--namespace=moby", "tasks", "kill", "--signal=SIGKILL", task, check=False)
    cluster.settles()
    cluster.remove_containers()
    for name, address in addresses.items():
        cluster.run(host, name, address)
    cluster.in_order()


@pytest.mark.parametrize("by", ["docker", "hand"])
def test_killed_container_leaves_no_leftovers(cluster: Cluster, by: str) -> None:
    host = cluster.host2
    cluster.run(host, "dies", "192.168.1.20")
    if by == "docker":
        host.docker("kill", "dies")
    else:
        host.kill(int(host.docker("inspect", "--format={{.State.Pid}}", "dies")))
        host.docker("wait", "dies")
    # Docker says that a container has ended before it releases the endpoint; it lists it until then.
    wait_for(lambda: cluster.endpoints(host) == [], "Docker to release the endpoint")
    cluster.in_order()


def test_container_restarts_in_quick_succession(cluster: Cluster) -> None:
    central, host = cluster.hosts
    cluster.run(central, "witness", "192.168.1.10")
    cluster.run(host, "restless", "192.168.1.20")
    host.run("sh", "-ec", "for i in $(seq 20); do docker restart restless; done", timeout=300)
    cluster.ping(central, "witness", "192.168.1.20")
    cluster.in_order()
