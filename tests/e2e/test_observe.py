"""Picture, metrics and log of a healthy cluster."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from e2e.lab import Fabric, Host, wait_for

METRICS = "127.0.0.1:9476"
Hosts = tuple[Host, ...]


@pytest.fixture(scope="module")
def hosts(module_fabric: Fabric) -> Hosts:
    """Three hosts with a container each on one network; the first has metrics and a debug log."""
    hosts = module_fabric.cluster("host1", "host2", "host3")
    hosts[0].driver.start(f"--metrics={METRICS}", "--log-format=json")
    for host in hosts[1:]:
        host.driver.start()
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch")
    hosts[0].docker(*create, "--subnet=10.1.0.0/24", "-o", "ovn.network=foo", "foo")
    for number, host in enumerate(hosts, start=1):
        wait_for(lambda host=host: "foo" in host.docker("network", "ls"), "the network")  # type: ignore[misc]
        run(host, f"web{number}")
    return hosts


def run(host: Host, name: str) -> None:
    host.docker("run", "-d", "--net=foo", f"--name={name}", "--stop-signal=KILL", "busybox", "sleep", "9999")


def scrape(host: Host) -> dict[str, float]:
    said = host.run(
        "python3",
        "-c",
        f"import urllib.request as u; print(u.urlopen('http://{METRICS}/metrics').read().decode())",
    )
    lines = (line for line in said.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_picture_has_every_host_container_and_tunnel(hosts: Hosts) -> None:
    host = hosts[0]
    wait_for(
        lambda: host.run("ovn-docker", "graph", "-o", "/tmp/cluster.svg") == "", "a picture without faults"
    )
    root = ET.fromstring(host.path("/tmp/cluster.svg").read_text())
    texts = {"".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"3 hosts, 1 network, 3 containers", "no differences", "foo", "web1", "web2", "web3"} <= texts
    assert {"host1", "host2", "host3", "this host"} <= texts
    assert {t for t in texts if t.endswith(": up")} == {
        f"geneve to {h.tunnel_address}: up" for h in hosts[1:]
    }
    assert "web3" in host.run("ovn-docker", "graph", "--format=dot")
    assert host.run("ovn-docker", "graph", "--format=html").startswith("<!DOCTYPE html>")
    assert host.run("ovn-docker", "graph", "--json", "-o", "/tmp/cluster.json") == ""
    drawn = json.loads(host.path("/tmp/cluster.json").read_text())
    assert [tunnel["state"] for tunnel in drawn["tunnels"]] == ["up", "up"]


def test_containers_and_calls_are_counted_by_name(hosts: Hosts) -> None:
    host, other = hosts[:2]
    address = other.docker("inspect", "--format={{.NetworkSettings.Networks.foo.IPAddress}}", "web2")
    host.docker("exec", "web1", "ping", "-c", "5", "-W", "3", address)
    endpoint = host.docker("inspect", "--format={{.NetworkSettings.Networks.foo.EndpointID}}", "web1")[:12]
    labels = f'{{container="web1",endpoint="{endpoint}",network="foo"}}'

    def sent() -> float:
        return scrape(host).get(f"ovn_docker_container_transmit_packets_total{labels}", 0)

    wait_for(lambda: sent() >= 5, "the packets to be counted")
    found = scrape(host)
    assert found["ovn_docker_endpoints"] == 1
    assert found["ovn_docker_endpoints_without_flows"] == 0
    assert found['ovn_docker_flows_seconds_count{outcome="installed"}'] >= 1
    for method in ("CreateEndpoint", "Join"):
        assert found[f'ovn_docker_request_seconds_count{{method="NetworkDriver.{method}",outcome="ok"}}'] >= 1
    host.await_flows()

    def progress() -> set[float]:
        found = scrape(host)
        return {
            found.get(f'ovn_docker_nb_cfg{{at="{at}"}}', -1) for at in ("northbound", "southbound", "host")
        }

    # An answer is reused for up to a second, so the first one may be older than the change.
    wait_for(lambda: len(progress()) == 1 and min(progress()) >= 1, "all to have come as far")


TOKEN, PORT = "a-token-of-the-two-hosts", 8080
ASK = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]})
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


def test_live_page_shows_the_traffic_of_its_host_and_of_a_peer(hosts: Hosts) -> None:
    here, there = hosts[:2]
    servers = []
    for host, options in ((there, []), (here, [f"--peer={there.address}:{PORT}"])):
        host.run("sh", "-c", f"umask 077; echo {TOKEN} >/root/token")
        command = ("ovn-docker", "graph", f"--serve={host.address}:{PORT}", "--token-file=/root/token")
        servers.append((host, host.spawn(*command, *options, log="/var/log/lab/live.log")))

    def ask(path: str) -> Any:
        return json.loads(here.run("python3", "-c", ASK, f"http://{here.address}:{PORT}{path}", TOKEN))

    address = there.docker("inspect", "--format={{.NetworkSettings.Networks.foo.IPAddress}}", "web2")
    here.docker("exec", "-d", "web1", "ping", "-w", "600", "-s", "1000", "-i", "0.1", address)
    ids: dict[str, str] = {}

    def traffic_is_known() -> bool:
        state = ask("/state.json")["cluster"]
        if not state:
            return False
        ids.update({one["name"]: one["id"] for one in state["containers"]})
        known = {one["name"]: one["traffic"] or [0, 0] for one in state["containers"]}
        tunnels = {(one["from"], one["to"]): one["traffic"] or [0, 0] for one in state["tunnels"]}
        both = [tunnels.get(pair, [0, 0]) for pair in (("host1", "host2"), ("host2", "host1"))]
        return min(*known["web1"], *known["web2"], *both[0], *both[1]) > 1000 and known["web3"] == [0, 0]

    wait_for(traffic_is_known, "the traffic of web1, web2 and of the tunnel as both hosts see it")
    path = f"/trace.json?from={ids['web1']}&to={ids['web2']}&packet=icmp"
    text = wait_for(lambda: ask(path), "the trace")
    assert text.endswith("delivered, and so is the answer")
    assert ["container", "web1 on host1"] in ask(f"/inspect.json?id={ids['web1']}")
    doctor = wait_for(lambda: ask("/state.json")["doctor"], "a diagnosis")
    assert (doctor["problem"], doctor["findings"]) == ("", [])
    for host, pid in servers:
        host.kill(pid)


def test_log_line_has_the_names(hosts: Hosts) -> None:
    host = hosts[0]
    run(host, "short")
    wait_for(lambda: "short" in host.run("ovn-nbctl", "--columns=records", "list", "DNS"), "its name")
    host.docker("rm", "--force", "short")
    log = next(path for path in host.logs() if "driver" in Path(path).name)

    def left() -> list[dict[str, object]]:
        lines = (line for line in host.path(log).read_text().splitlines() if line.startswith("{"))
        return [said for line in lines if (said := json.loads(line)).get("method") == "NetworkDriver.Leave"]

    wait_for(left, "the call in the log")
    (line,) = left()
    assert (line["container"], line["network_name"], line["outcome"]) == ("short", "foo", "ok")
    assert re.fullmatch("[0-9a-f]{8}", str(line["request"]))
