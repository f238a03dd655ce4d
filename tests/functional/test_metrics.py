"""Metrics of a real driver as Prometheus reads them; the alerts and the dashboard that use them."""

import http.client
import json
import os
import re
import select
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanasDashboard

from functional.conftest import Connect, MakeServer
from functional.hosts import C1, C2, NET
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, free_port, until
from functional.test_daemon import Driver, call, driver  # noqa: F401 - a fixture
from ovn_docker.daemon import exposition
from ovn_docker.daemon.statistics import Statistics
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.metrics import ENDPOINTS, METRICS, REQUESTS, Reader, Sample
from ovn_docker.model import Chassis, EndpointId, container_link, host_link, row_uuid
from ovn_docker.threads import Threads
from ovn_docker.web import bounded_server
from ovn_docker.web.bounded_server import CONNECTIONS

PACKAGING = Path(__file__).parents[2] / "packaging"
DASHBOARD = PACKAGING / "grafana" / "ovn-docker.json"
RULES = PACKAGING / "prometheus" / "ovn-docker.rules.yml"
pytestmark = pytest.mark.usefixtures("network_namespace")
needs_prometheus = pytest.mark.skipif(
    not shutil.which("promtool") and "CI" not in os.environ, reason="prometheus is not installed"
)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return str(answer.read().decode())


class Scraped(dict[str, float]):
    """Values of a scrape by their names and labels, as written."""

    def __init__(self, text: str) -> None:
        self.text = text
        lines = (line for line in text.splitlines() if not line.startswith("#"))
        super().__init__((name, float(value)) for name, _, value in (line.rpartition(" ") for line in lines))


def scrape(url: str, *databases: str) -> Scraped:
    """Return a scrape in which *databases* are up: on a busy machine the driver's second may be too short."""
    found: list[Scraped] = []

    def are_up() -> bool:
        found.append(Scraped(get(url)))
        return all(found[-1][f'ovn_docker_database_up{{database="{one}"}}'] == 1 for one in databases)

    until(are_up)
    return found[-1]


def plug(settings: OpenVswitch, endpoint: EndpointId, *, installed: bool, **statistics: int) -> None:
    """Insert an interface as the driver does, with the values that ovn-controller and ovs-vswitchd add."""
    mac = "02:00:00:00:00:01"
    KernelLinks().create_veth(
        host_link(endpoint), container_link(endpoint), mac=mac, mtu=1400, tx_checksums=True
    )
    ids = {
        "ovn-docker:owner": "ovn-docker", "ovn-docker:endpoint": endpoint, "ovn-docker:network": NET,
        "ovn-docker:created": str(int(time.time())),
        **({"ovn-installed": "true"} if installed else {}),
    }  # fmt: skip
    settings.transact(
        {"op": "insert", "table": "Interface", "uuid": row_uuid("interface", endpoint),
         "row": {"name": f"odh{endpoint[:12]}", "external_ids": ["map", [*ids.items()]],
                 "statistics": ["map", [*statistics.items()]]}},
        {"op": "insert", "table": "Port", "uuid": row_uuid("port", endpoint),
         "row": {"name": f"odh{endpoint[:12]}", "interfaces": ["uuid", row_uuid("interface", endpoint)]}},
        {"op": "mutate", "table": "Bridge", "where": [],
         "mutations": [["ports", "insert", ["uuid", row_uuid("port", endpoint)]],
                       ["external_ids", "insert", ["map", [["ovn-nb-cfg", "5"]]]]]},
    )  # fmt: skip


@pytest.fixture
def url(driver: Driver, settings: OpenVswitch, make_server: MakeServer) -> str:  # noqa: F811
    """URL of the metrics of a driver, on a host with two containers."""
    northbound = make_server("OVN_Northbound")
    northbound.insert("NB_Global", nb_cfg=7, sb_cfg=6)
    settings.set(system_id="host1", ovn_nb=northbound.remote, ovn_encap_ip="127.0.0.1")
    plug(settings, C1, installed=True, rx_bytes=100, tx_bytes=200, rx_packets=1, tx_packets=2, tx_dropped=3)
    plug(settings, C2, installed=False)
    port = free_port()
    driver.environment["OVN_DOCKER_SWEEP_INTERVAL"] = "3600"
    driver.start(f"--metrics=127.0.0.1:{port}")
    return f"http://127.0.0.1:{port}/metrics"


def test_metrics_count_calls_and_show_the_endpoints_of_this_host(driver: Driver, url: str) -> None:  # noqa: F811
    call(driver.socket, "NetworkDriver.EndpointOperInfo", NetworkID=NET, EndpointID=C1)
    call(
        driver.socket,
        "NetworkDriver.CreateNetwork",
        NetworkID=NET,
        Options={"com.docker.network.generic": {"x": ""}},
    )
    call(driver.socket, "No.Such")
    call(driver.socket, "NetworkDriver.Leave", NetworkID=5)
    found = scrape(url, "Open_vSwitch", "OVN_Northbound")
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
    assert found["process_resident_memory_bytes"] < 64 * 1024 * 1024


def test_every_metric_of_the_table_is_served_and_nothing_else(url: str) -> None:
    types = re.findall(r"^# TYPE (\S+) (\S+)$", get(url), re.MULTILINE)
    ours = {
        name: kind for name, kind in types if name.startswith("ovn_docker") and not name.endswith("_created")
    }
    assert ours == {metric.name: metric.kind.value for metric in METRICS}
    for other in (url.removesuffix("metrics"), url + "/x", url.replace("metrics", "NetworkDriver.Join")):
        with pytest.raises(HTTPError, match="404"):
            get(other)


def test_unreachable_database_is_reported_and_hides_no_other_metric(url: str, settings: OpenVswitch) -> None:
    settings.set(ovn_nb=f"tcp:127.0.0.1:{free_port()}")
    found = scrape(url, "Open_vSwitch")
    assert found['ovn_docker_database_up{database="OVN_Northbound"}'] == 0
    assert found["ovn_docker_endpoints"] == 2
    assert 'at="northbound"' not in found.text


def test_lost_connection_is_counted(url: str, settings: OpenVswitch) -> None:
    lost = 'ovn_docker_connections_lost_total{database="Open_vSwitch"}'
    before = Scraped(get(url))[lost]
    settings.kill()
    settings.start()
    until(lambda: Scraped(get(url))[lost] > before)
    assert scrape(url, "Open_vSwitch")["ovn_docker_endpoints"] == 2


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
    return host, int(port)


def connections(url: str, number: int, send: bytes, source: str = "127.0.0.2") -> list[socket.socket]:
    """Return *number* connections from *source* on each of which *send* was sent and nothing is read."""
    made = []
    for _ in range(number):
        made.append(sock := socket.create_connection(address_of(url), source_address=(source, 0)))
        sock.setblocking(False)
        with suppress(OSError):
            sock.send(send)
    return made


def ended(sock: socket.socket) -> bool:
    """Return whether the server has closed a connection."""
    try:
        while sock.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    "send",
    [b"", b"GET /metrics HTTP/1.1\r\nX: ", b"POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
     b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 50],
    ids=["silent", "half-a-header", "no-body", "reads-nothing"],
)  # fmt: skip
@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_scrape_is_answered_while_others_hold_connections(url: str, send: bytes, source: str) -> None:
    with ExitStack() as held:
        for sock in connections(url, 10 * CONNECTIONS, send, source):
            held.enter_context(sock)
        for _ in range(3):
            assert scrape(url, "Open_vSwitch")["ovn_docker_endpoints"] == 2


def test_many_connections_of_one_address_close_no_connection_of_another(url: str) -> None:
    prometheus = http.client.HTTPConnection(*address_of(url), timeout=120)
    prometheus.request("GET", "/metrics")
    assert b"ovn_docker_info" in prometheus.getresponse().read()
    kept = prometheus.sock
    with ExitStack() as held:
        many = [held.enter_context(sock) for sock in connections(url, 10 * CONNECTIONS, b"GET /metrics")]
        until(lambda: sum(map(ended, many)) >= 9 * CONNECTIONS)
        prometheus.request("GET", "/metrics")
        assert b"ovn_docker_info" in prometheus.getresponse().read()
        assert prometheus.sock is kept
    prometheus.close()


def test_pipelined_requests_get_one_answer_and_the_connection_ends(url: str) -> None:
    (sock,) = connections(url, 1, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    sock.settimeout(120)
    with sock.makefile("rb") as answers:
        assert answers.read().count(b"HTTP/1.1 200 OK") == 1
    sock.close()


def served(reader: Reader) -> str:
    """Serve metrics in this process, until it ends; return their URL."""
    listener = bounded_server.listen(("127.0.0.1", 0), "Prometheus", "--metrics")
    exposition.Exposition().serve(listener, reader, Threads())
    return f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"


@pytest.mark.parametrize("more", [b"x", b""], ids=["by-the-byte", "nothing"])
def test_incomplete_request_is_ended_in_time_and_an_idle_connection_stays(
    more: bytes, monkeypatch: pytest.MonkeyPatch, northbound: OvsdbServer, connect: Connect
) -> None:
    url = served(Statistics(Threads(), connect(northbound), lambda _: Chassis("host1")))
    (idle,) = connections(url, 1, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    until(lambda: select.select([idle], [], [], 0)[0])
    monkeypatch.setattr(bounded_server, "_REQUEST", 0.3)
    with ExitStack() as held:
        slow = [held.enter_context(sock) for sock in connections(url, 3, b"GET /metrics HTTP/1.1\r\nX: ")]

        def all_ended() -> bool:
            for sock in slow:
                with suppress(OSError):
                    sock.send(more)
            return all(map(ended, slow))

        until(all_ended)
    assert not ended(idle)
    idle.close()


def test_simultaneous_scrapes_share_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_COST", 1e9)
    monkeypatch.setattr(exposition, "_FRESH", 3600)
    made = []

    class Counting:
        def samples(self) -> Iterator[Sample]:
            made.append(1)
            yield Sample(ENDPOINTS, 2)

    url = served(Counting())
    made.clear()  # registration reads the samples, too
    with ThreadPoolExecutor(8) as asking:
        assert all("ovn_docker_endpoints 2" in text for text in asking.map(get, [url] * 8))
    assert len(made) == 1


def test_metrics_are_not_served_by_default(driver: Driver) -> None:  # noqa: F811
    process = driver.start()
    listening = subprocess.run(["ss", "-tlnH"], check=True, capture_output=True, text=True).stdout
    assert listening == ""
    assert process.poll() is None


def test_address_in_use_is_refused_in_one_line_and_no_file_remains(driver: Driver) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = driver.run(f"--metrics={address}")
    assert ended.returncode == 1
    assert f"cannot listen for Prometheus on {address}: Address already in use; name another" in ended.stderr
    assert driver.files() == set()


def test_metrics_are_served_at_an_ipv6_address(driver: Driver) -> None:  # noqa: F811
    port = free_port()
    driver.start(f"--metrics=[::1]:{port}")
    assert "ovn_docker_info" in get(f"http://[::1]:{port}/metrics")


@needs_prometheus
def test_promtool_accepts_the_metrics(url: str) -> None:
    said = subprocess.run(
        ["promtool", "check", "metrics"], input=get(url), text=True, capture_output=True, check=False
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


@needs_prometheus
def test_alerts_fire_as_their_tests_expect() -> None:
    test = RULES.with_suffix(".test.yml")
    said = subprocess.run(["promtool", "test", "rules", test], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def panels() -> dict[str, list[str]]:
    """Return the queries of each panel by its title, with the variables replaced as Grafana does."""
    text = DASHBOARD.read_text()
    for variable, value in (("$__rate_interval", "1m"), ("$instance", ".*"), ("$network", ".*")):
        text = text.replace(variable, value)
    return {panel["title"]: [t["expr"] for t in panel["targets"]] for panel in json.loads(text)["panels"]}


def unknown(given: Any, known: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each part of *given* that is missing or different in *known*."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            yield from unknown(value, known.get(key), f"{path}.{key}")
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for number, (one, other) in enumerate(zip(given, known, strict=True)):
            yield from unknown(one, other, f"{path}[{number}]")
    elif given != known:
        yield f"{path} is {given!r}, not {known!r}"


def test_grafana_knows_every_key_of_the_dashboard() -> None:
    """Grafana's own types of a dashboard drop unknown keys, so reading and writing must change nothing."""
    dashboard = json.loads(DASHBOARD.read_text())

    def read(what: dict[str, Any]) -> Any:
        return json.loads(json.dumps(GrafanasDashboard.from_json(what), cls=JSONEncoder))

    register_default_plugins()
    assert list(unknown(dashboard, read(dashboard))) == []
    dashboard["panels"][6]["options"]["legend"]["displaymode"] = "table"
    assert len(list(unknown(dashboard, read(dashboard)))) == 1, "a misspelt key was not found"
    boxes = [panel["gridPos"] for panel in dashboard["panels"]]
    places = [(box["x"] + x, box["y"] + y) for box in boxes for x in range(box["w"]) for y in range(box["h"])]
    assert len(set(places)) == len(places), "one panel is on top of another"
    assert max(x for x, _ in places) == 23, "Grafana's grid has 24 columns"


def test_alerts_and_dashboard_use_only_metrics_that_exist() -> None:
    used = set(re.findall(r"ovn_docker_\w+", RULES.read_text() + json.dumps(panels())))
    suffixes = ("", "_count", "_bucket", "_sum")
    assert used <= {metric.name + suffix for metric in METRICS for suffix in suffixes}
    unused = {metric.name for metric in METRICS} - {re.sub("_(count|bucket|sum)$", "", name) for name in used}
    assert unused <= {"ovn_docker_container_errors_total"}


def drop_packets(settings: OpenVswitch, number: int) -> None:
    """Write statistics of an interface with *number* dropped packets, as ovs-vswitchd does."""
    settings.transact(
        {"op": "update", "table": "Interface", "where": [["name", "==", f"odh{C1[:12]}"]],
         "row": {"statistics": ["map", [["rx_bytes", 100], ["tx_bytes", 200], ["rx_packets", 1],
                                        ["tx_packets", 2], ["tx_dropped", number], ["rx_dropped", number]]]}},
    )  # fmt: skip


UNCOUNTED = ("_repairs_", "_leftovers_", "_remade_", "_connections_lost_")
"""Counters with a label that are not exported before the first event: an idle host has none."""


def prometheus_answers(port: int, path: str, **query: str) -> Any:
    """Return Prometheus' answer, None while it starts; fail if it refuses the query."""
    try:
        return json.loads(get(f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"))[
            "data"
        ]
    except HTTPError as error:
        if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:
            pytest.fail(f"{query}: {error.read().decode()}")
        return None
    except OSError:
        return None


@pytest.mark.slow
@needs_prometheus
def test_prometheus_shows_data_for_alerts_and_every_panel(
    driver: Driver,  # noqa: F811
    url: str,
    settings: OpenVswitch,
    tmp_path: Path,
) -> None:
    call(driver.socket, "NetworkDriver.EndpointOperInfo", NetworkID=NET, EndpointID=C1)
    call(driver.socket, "NetworkDriver.Join", NetworkID=NET, EndpointID=C1, SandboxKey="/run/netns/x")
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

    ask = partial(prometheus_answers, port)

    def rules() -> list[dict[str, Any]]:
        groups = (ask("rules") or {"groups": []})["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def states() -> dict[str, str]:
        return {rule["name"]: rule["state"] for rule in rules()}

    try:
        until(lambda: (ask("query", query="up == 1") or {}).get("result"))
        until(lambda: rules() and all(rule["health"] == "ok" for rule in rules()))
        until(lambda: states().get("OvnDockerDatabaseDown") == "inactive")
        until(lambda: states().get("OvnDockerControllerBehind") == "pending")
        drop_packets(settings, 9)
        for alert in rules():
            assert ask("query", query=alert["query"]) is not None, alert["name"]
        for title, queries in panels().items():
            for query in queries:
                may_be_empty = any(metric in query for metric in UNCOUNTED)

                def shows_data(query: str = query, may_be_empty: bool = may_be_empty) -> bool:
                    return bool(ask("query", query=query)["result"]) or may_be_empty

                shows_data.__doc__ = f"data in {title}: {query}"
                until(shows_data)
    finally:
        server.kill()
        server.wait()
