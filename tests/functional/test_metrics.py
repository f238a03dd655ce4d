"""Metrics: of a real driver, as Prometheus takes them, and what we ship to make use of them."""

import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from functional.conftest import MakeServer
from functional.hosts import C1, C2, NET
from functional.ovsdb_servers import OpenVswitch, free_port, until
from functional.test_daemon import Driver, call, driver  # noqa: F401 - a fixture
from ovn_docker.metrics import METRICS, REQUESTS

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES = PACKAGING / "prometheus" / "ovn-docker.rules.yml"
pytestmark = pytest.mark.usefixtures("network_namespace")
needs_prometheus = pytest.mark.skipif(not shutil.which("promtool"), reason="prometheus is not installed")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


class Scraped(dict[str, float]):
    """Values by their names and labels, as they are written."""

    def __init__(self, text: str) -> None:
        self.text = text
        lines = (line for line in text.splitlines() if not line.startswith("#"))
        super().__init__((name, float(value)) for name, _, value in (line.rpartition(" ") for line in lines))


def plug(settings: OpenVswitch, endpoint: str, *, installed: bool, **statistics: int) -> None:
    """An interface as the driver makes it, and what ovn-controller and ovs-vswitchd write there."""
    ids = {
        "ovn-docker:owner": "ovn-docker", "ovn-docker:endpoint": endpoint, "ovn-docker:network": NET,
        **({"ovn-installed": "true"} if installed else {}),
    }  # fmt: skip
    settings.transact(
        {"op": "insert", "table": "Interface", "uuid-name": "i",
         "row": {"name": f"odh{endpoint[:12]}", "external_ids": ["map", [*ids.items()]],
                 "statistics": ["map", [*statistics.items()]]}},
        {"op": "insert", "table": "Port", "uuid-name": "p",
         "row": {"name": f"odh{endpoint[:12]}", "interfaces": ["named-uuid", "i"]}},
        {"op": "mutate", "table": "Bridge", "where": [],
         "mutations": [["ports", "insert", ["named-uuid", "p"]],
                       ["external_ids", "insert", ["map", [["ovn-nb-cfg", "5"]]]]]},
    )  # fmt: skip


@pytest.fixture
def url(driver: Driver, settings: OpenVswitch, make_server: MakeServer) -> str:  # noqa: F811
    """Of the metrics of a driver of a host with two containers."""
    northbound = make_server("OVN_Northbound")
    northbound.insert("NB_Global", nb_cfg=7, sb_cfg=6)
    settings.set(system_id="host1", ovn_nb=northbound.remote, ovn_encap_ip="127.0.0.1")
    plug(settings, C1, installed=True, rx_bytes=100, tx_bytes=200, rx_packets=1, tx_packets=2, tx_dropped=3)
    plug(settings, C2, installed=False)
    port = free_port()
    driver.environment["OVN_DOCKER_SWEEP_INTERVAL"] = "3600"
    driver.start(f"--metrics=127.0.0.1:{port}")
    return f"http://127.0.0.1:{port}/metrics"


def test_what_docker_asked_and_what_this_host_has(driver: Driver, url: str) -> None:  # noqa: F811
    call(driver.socket, "NetworkDriver.EndpointOperInfo", NetworkID=NET, EndpointID=C1)
    call(
        driver.socket,
        "NetworkDriver.CreateNetwork",
        NetworkID=NET,
        Options={"com.docker.network.generic": {"x": ""}},
    )
    call(driver.socket, "No.Such")
    call(driver.socket, "NetworkDriver.Leave", NetworkID=5)
    found = Scraped(get(url))
    count = f"{REQUESTS.name}_count"
    assert found[f'{count}{{method="NetworkDriver.EndpointOperInfo",outcome="ok"}}'] == 1
    assert found[f'{count}{{method="NetworkDriver.CreateNetwork",outcome="bad_request"}}'] == 1
    assert found[f'{count}{{method="NetworkDriver.Leave",outcome="malformed"}}'] == 1
    assert found[f'{count}{{method="-",outcome="malformed"}}'] == 1
    assert found["ovn_docker_endpoints"] == 2
    assert found["ovn_docker_endpoints_without_flows"] == 1
    labels = f'container="",endpoint="{C1[:12]}",network="{NET[:12]}"'
    for name, value in (
        ("receive_bytes", 200), ("transmit_bytes", 100), ("receive_packets", 2), ("transmit_packets", 1),
        ("receive_dropped", 3), ("transmit_dropped", 0), ("errors", 0),
    ):  # fmt: skip
        assert found[f"ovn_docker_container_{name}_total{{{labels}}}"] == value
    assert [found[f'ovn_docker_nb_cfg{{at="{at}"}}'] for at in ("northbound", "southbound", "host")] == [
        7,
        6,
        5,
    ]
    assert found['ovn_docker_database_up{database="OVN_Northbound"}'] == 1
    assert found["process_resident_memory_bytes"] < 64 * 1024 * 1024


def test_every_metric_of_the_table_is_scraped_and_no_other(url: str) -> None:
    types = re.findall(r"^# TYPE (\S+) (\S+)$", get(url), re.MULTILINE)
    ours = {
        name: kind for name, kind in types if name.startswith("ovn_docker") and not name.endswith("_created")
    }
    assert ours == {metric.name: metric.kind.value for metric in METRICS}


def test_a_database_that_is_away_is_said_and_costs_nothing_else(url: str, settings: OpenVswitch) -> None:
    settings.set(ovn_nb=f"tcp:127.0.0.1:{free_port()}")
    found = Scraped(get(url))
    assert found['ovn_docker_database_up{database="OVN_Northbound"}'] == 0
    assert found['ovn_docker_database_up{database="Open_vSwitch"}'] == 1
    assert found["ovn_docker_endpoints"] == 2
    assert 'at="northbound"' not in found.text


def test_a_connection_that_broke_is_counted(url: str, settings: OpenVswitch) -> None:
    lost = 'ovn_docker_connections_lost_total{database="Open_vSwitch"}'
    before = Scraped(get(url))[lost]
    settings.kill()
    settings.start()
    until(lambda: Scraped(get(url))[lost] > before)
    assert Scraped(get(url))["ovn_docker_endpoints"] == 2


def test_nothing_else_is_served(url: str) -> None:
    for other in (url.removesuffix("metrics"), url + "/x", url.replace("metrics", "NetworkDriver.Join")):
        with pytest.raises(HTTPError, match="404"):
            get(other)


def test_it_is_off_unless_asked_for(driver: Driver) -> None:  # noqa: F811
    process = driver.start()
    listening = subprocess.run(["ss", "-tlnH"], check=True, capture_output=True, text=True).stdout
    assert listening == ""
    assert process.poll() is None


@pytest.mark.parametrize(
    "given", ["9476", "localhost:9476", "127.0.0.1:0", "127.0.0.1:65536", "::1:9476", "[::1]"]
)
def test_a_bad_address_is_one_line(driver: Driver, given: str) -> None:  # noqa: F811
    ended = driver.run(f"--metrics={given}")
    assert ended.returncode == 2
    assert (
        f"--metrics={given!r} is not valid: give an address and a port, such as 127.0.0.1:9476"
        in ended.stderr
    )


def test_an_address_that_is_taken_is_one_line_and_leaves_nothing(driver: Driver) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = driver.run(f"--metrics={address}")
    assert ended.returncode == 1
    assert f"cannot listen for Prometheus on {address}: Address already in use; name another" in ended.stderr
    assert driver.files() == set()


def test_ipv6(driver: Driver) -> None:  # noqa: F811
    port = free_port()
    driver.start(f"--metrics=[::1]:{port}")
    assert "ovn_docker_info" in get(f"http://[::1]:{port}/metrics")


@needs_prometheus
def test_promtool_finds_nothing_to_complain_of(url: str) -> None:
    said = subprocess.run(
        ["promtool", "check", "metrics"], input=get(url), text=True, capture_output=True, check=False
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


@needs_prometheus
def test_alerts_come_when_they_should() -> None:
    test = RULES.with_suffix(".test.yml")
    said = subprocess.run(["promtool", "test", "rules", test], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def expressions() -> list[str]:
    """Of the dashboard, with its variables as Grafana fills them in."""
    dashboard = json.loads((PACKAGING / "grafana" / "ovn-docker.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for variable, value in (("$__rate_interval", "1m"), ("$instance", ".*"), ("$network", ".*")):
        found = [expression.replace(variable, value) for expression in found]
    return found


def test_alerts_and_dashboard_ask_only_for_what_there_is() -> None:
    used = set(re.findall(r"ovn_docker_\w+", RULES.read_text() + json.dumps(expressions())))
    suffixes = ("", "_count", "_bucket", "_sum")
    assert used <= {metric.name + suffix for metric in METRICS for suffix in suffixes}
    unused = {metric.name for metric in METRICS} - {re.sub("_(count|bucket|sum)$", "", name) for name in used}
    assert unused <= {"ovn_docker_container_errors_total"}


@needs_prometheus
@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")
def test_a_real_prometheus_takes_it_all(driver: Driver, url: str, tmp_path: Path) -> None:  # noqa: F811
    call(driver.socket, "NetworkDriver.EndpointOperInfo", NetworkID=NET, EndpointID=C1)
    port, target = free_port(), url.removeprefix("http://").removesuffix("/metrics")
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{RULES}]\n"
        f"scrape_configs: [{{job_name: ovn-docker, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    command = [
        "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def ask(path: str, **query: str) -> Any:
        try:
            return json.loads(get(f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"))[
                "data"
            ]
        except OSError:
            return None

    def rules() -> list[dict[str, Any]]:
        groups = (ask("rules") or {"groups": []})["groups"]
        return [rule for group in groups for rule in group["rules"]]

    try:
        until(lambda: (ask("query", query="up == 1") or {}).get("result"), seconds=30)
        until(lambda: rules() and all(rule["health"] == "ok" for rule in rules()), seconds=30)
        states = {rule["name"]: rule["state"] for rule in rules()}
        assert states["OvnDockerDatabaseDown"] == "inactive"
        until(lambda: {r["name"]: r["state"] for r in rules()}["OvnDockerControllerBehind"] == "pending")
        for expression in expressions():
            assert ask("query", query=expression) is not None, expression
    finally:
        server.kill()
        server.wait()
