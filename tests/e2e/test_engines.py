"""Newer versions of Docker, with the Open vSwitch and OVN of the same Debian release."""

import pytest

from e2e.cluster import unanswered
from e2e.lab import CommandError, Fabric, wait_for
from e2e.test_cluster import users

pytestmark = [pytest.mark.engines, pytest.mark.slow]


@pytest.mark.parametrize("engine", ["26.1", "28.5"])
def test_guide_works_on_newer_engines(fabric: Fabric, engine: str) -> None:
    hosts = host1, host2 = fabric.cluster("host1", "host2", engine=engine)
    for host in hosts:
        host.driver.start()
    common = [
        "network",
        "create",
        "-d",
        "openvswitch",
        "--ipv6",
        "--subnet=192.168.1.0/24",
        "--subnet=fd00:1::/64",
    ]
    network = host1.docker(*common, "foo")
    host2.docker(*common, "-o", f"ovn.switch={network}", "foo")
    for number, host in enumerate(hosts, start=1):
        host.docker(
            *(
                "run",
                "-d",
                "--net=foo",
                f"--name=c{number}",
                f"--ip=192.168.1.{number}0",
                f"--ip6=fd00:1::{number}0",
            ),
            *("-p", "8080:80", "--restart=always", "busybox", "sh", "-c", "httpd -p 80; sleep 600"),
        )
    host1.await_flows()
    assert unanswered(host1, "c1", "192.168.1.20", "fd00:1::20", tunnel=True) == []
    ask = ("sh", "-c", "busybox wget -O- http://127.0.0.1:8080/none 2>&1 || true")
    wait_for(lambda: "404" in host1.run(*ask), "the server")

    bar = host1.docker(
        "network", "create", "-d", "openvswitch", "--internal", "--subnet=192.168.2.0/24", "bar"
    )
    host1.docker("network", "connect", "bar", "c1")
    assert "192.168.2.2" in host1.run("ovn-nbctl", "list", "Logical_Switch_Port")
    host1.docker("network", "disconnect", "bar", "c1")
    assert host1.run("ovn-nbctl", "lsp-list", bar) == ""
    with pytest.raises(CommandError, match=r"did you mean com\.docker\.network\.driver\.mtu"):
        host1.docker("network", "create", "-d", "openvswitch", "-o", "com.docker.network.mtu=1400", "x")

    host1.docker("restart", "--time=1", "c1")
    host1.await_flows()
    assert unanswered(host1, "c1", "192.168.1.20", tunnel=True) == []
    host1.dockerd.kill()
    host1.dockerd.start()
    wait_for(lambda: host1.docker("ps", "--quiet", "--filter=name=c1"), "the container to come back")
    host1.await_flows()
    assert unanswered(host2, "c2", "192.168.1.10", tunnel=True) == []

    for number, host in enumerate(hosts, start=1):
        host.docker("rm", "--force", f"c{number}")
        assert "odh" not in host.run("ip", "-brief", "link")
    host2.docker("network", "rm", "foo")
    host1.docker("network", "rm", "foo", "bar")
    for table in ("Logical_Switch", "Logical_Switch_Port", "DHCP_Options"):
        assert host1.run("ovn-nbctl", "--bare", "--columns=_uuid", "list", table) == ""


@pytest.mark.parametrize("engine", ["26.1", "28.5"])
def test_shared_network_works_on_newer_engines(fabric: Fabric, engine: str) -> None:
    hosts = host1, host2 = fabric.cluster("host1", "host2", engine=engine)
    for host in hosts:
        host.driver.start()
    host1.docker(
        *("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "--subnet=10.1.0.0/16"),
        *("--ip-range=10.1.2.0/24", "--aux-address=router=10.1.2.2", "--ipv6", "--subnet=fd00:1::/64"),
        *("--label=team=net", "-o", "ovn.network=foo", "foo"),
    )
    wait_for(lambda: host2.docker("network", "ls", "--quiet", "--filter=name=foo"), "foo on host2")
    assert "10.1.2.0/24" in host2.docker("network", "inspect", "foo")
    for host in hosts:
        host.docker("run", "-d", "--net=foo", "--name=box", "busybox", "sleep", "600")
    other = "--format={{with .NetworkSettings.Networks.foo}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}"
    addresses = host2.docker("inspect", other, "box").split()
    assert addresses[0].startswith("10.1.2.")
    for address in addresses:
        host1.ping("box", address)
    for host in hosts:
        host.docker("rm", "--force", "box")
    wait_for(lambda: not any(users(host1).values()), "no use of foo")
    host2.docker("network", "rm", "foo")
    wait_for(lambda: not host1.docker("network", "ls", "--quiet", "--filter=name=foo"), "foo to go")
    wait_for(lambda: host1.run("ovn-nbctl", "ls-list") == "", "the switch to go")
