"""Names that attack their reader: a browser, Graphviz, Prometheus, or a person who reads the log."""

import dataclasses
import http.server
import json
import logging
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from functional.test_page import BROWSER, browse
from ovn_docker.daemon import logs
from ovn_docker.daemon.exposition import Exposition
from ovn_docker.draw.dot import dot
from ovn_docker.draw.layout import Picture, picture
from ovn_docker.draw.page import page
from ovn_docker.draw.svg import svg
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.metrics import METRICS, MetricKind
from unit.clusters import NETWORKS, WORDS, cloud, cluster

RUN = "document.title='taken';fetch('URL/fetch');new Image().src='URL/image'"
MARKUP = (
    f"<script>{RUN}</script>",
    f'"><img src=URL/tag onerror="{RUN}">',
    f'\'><svg onload="{RUN}">',
    f"</title></style></text></svg><script>{RUN}</script>",
    f'" onmouseover="{RUN}" autofocus tabindex=1 onfocus="{RUN}" x="',
    f"]]><script>{RUN}</script><![CDATA[",
    f"--><script>{RUN}</script><!--",
    f"&lt;script&gt;{RUN}&lt;/script&gt;&#60;script&#62;{RUN}&#60;/script&#62;&quot;&#0;",
    '<iframe src="URL/frame"></iframe><link rel=stylesheet href="URL/style"><base href="URL/">',
    '<meta http-equiv="refresh" content="0;url=URL/refresh"><object data="URL/object"></object>',
    '<image href="URL/svg"/><use href="URL/use#x"/><foreignObject><img src="URL/foreign"/></foreignObject>',
    "url(URL/css);@import 'URL/import';}*{background:url(URL/css)}",
    "javascript:document.title='taken'",
)
OTHER = (
    '\\"; URL="javascript:alert(1)"; a="',
    '"] ; evil [label=<<b>x</b>>, href="URL"] ; x ["',
    "\\",
    "\\N\\G\\L\\E",
    "\x1b[2J\x1b]0;taken\x07",
    "line\nline\r\n2026-11-30T00:00:00.000Z|00001|daemon|INFO|forged",
    "\u202egnp.exe\u2066\u200b",
    "\0\x01\x08\x7f\x85\u2028\ufffe",
    '{a="b"} 1\n# TYPE evil counter\nevil 1\n',
    "%s%n{0}{x.__class__}",
    "x" * 65536,
)
PAYLOADS = MARKUP + OTHER
NAMES = re.compile(rf"({'|'.join(WORDS)})(-\d+)?|({'|'.join(name for name, _ in NETWORKS)})|(host|vm)\d+")
"""The kinds of names in the clusters below: containers, networks, hosts and virtual machines."""


def attacked(value: Any, payload: str) -> Any:
    """Return a copy of *value* with *payload* appended to every name in it."""
    if type(value) is str:
        return value + payload if NAMES.fullmatch(value) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(
            value, **{name: attacked(getattr(value, name), payload) for name in fields}
        )
    if isinstance(value, dict):
        return {attacked(key, payload): attacked(item, payload) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(attacked(item, payload) for item in value)
    return value


def drawn_with(payload: str, make: Callable[..., ClusterView] = cluster) -> Picture:
    """Return the picture of nine containers on three hosts, with *payload* appended to every name."""
    return picture(ClusterView(attacked(make(3, 9).snapshot, payload)))


def test_payload_is_in_the_pictures() -> None:
    drawn = drawn_with("PAYLOAD")
    assert (len(drawn.tiles), len(drawn.cards)) == (9, 3)
    for text in (svg(drawn), page(drawn), dot(drawn)):
        for name in ("web", "host2", "shop"):
            assert f"{name}PAYLOAD" in text


class Visits(http.server.BaseHTTPRequestHandler):
    """A server that keeps the paths of all requests."""

    paths: list[str]

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def visits() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and the paths that were requested from it."""
    paths: list[str] = []
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (Visits,), {"paths": paths})
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def without_policy(text: str) -> str:
    text, times = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert times == 1
    return text


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="chromium is not installed")
@pytest.mark.parametrize("kind", ["html", "html without its policy", "svg", "svg in a page"])
def test_script_in_a_name_neither_runs_nor_sends_a_request(
    kind: str, tmp_path: Path, visits: tuple[str, list[str]]
) -> None:
    address, paths = visits
    payload = "".join(MARKUP).replace("URL", address)
    drawn = drawn_with(payload)
    text = svg(drawn) if kind.startswith("svg") else page(drawn)
    if kind == "html without its policy":  # escaping has to suffice without the policy
        text = without_policy(text)
    if kind == "svg in a page":
        text = f"<!DOCTYPE html><title>ours</title>{text}"
    file = tmp_path / ("cluster.svg" if kind == "svg" else "cluster.html")
    file.write_text(text)
    shown = browse(tmp_path, "--dump-dom", "--virtual-time-budget=3000", f"file://{file}")
    assert shown.count('class="container') == 9
    assert "<title>taken" not in shown
    assert not re.search(
        r"<(img|iframe|script src|link|object|base|use|image|foreignObject|meta http-equiv=.refresh)", shown
    )
    assert paths == []


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="chromium is not installed")
def test_unescaped_name_runs_only_without_the_policy(tmp_path: Path, visits: tuple[str, list[str]]) -> None:
    """Shows that the payloads above do attack, and that the page's policy stops those that load a file."""
    address, paths = visits
    whole = page(picture(cluster(1, 1)))
    payload = "".join(MARKUP[1:3]).replace("URL", address)
    file = tmp_path / "cluster.html"
    for text in (without_policy(whole), whole):
        paths.clear()
        file.write_text(text.replace("<main>", f'<main x="{payload}', 1))
        shown = browse(tmp_path, "--dump-dom", "--virtual-time-budget=3000", f"file://{file}")
        if text is whole:
            assert paths == []
        else:
            assert "/tag" in paths
            assert "<title>taken" in shown


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
@pytest.mark.parametrize("make", [cluster, cloud])
def test_picture_has_the_same_elements_whatever_the_names_are(payload: str, make: Any) -> None:
    """The SVG is well-formed XML, and a name in an attribute never ends it."""

    def elements(file: str) -> list[tuple[str, list[str]]]:
        return sorted((element.tag, sorted(element.keys())) for element in ET.fromstring(file).iter())

    plain, drawn = drawn_with("", make), drawn_with(payload, make)
    assert elements(svg(drawn)) == elements(svg(plain))
    assert not re.search(r"[^\n\x20-\x7e\xa0-\uffff]", svg(drawn) + page(drawn))


TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\["\\n])*)"|([A-Za-z_]\w*|\d+)|(--|[{}\[\]=;,]))')


def tokens(file: str) -> list[str]:
    """Return the tokens of a Graphviz file, "" for each string; fail on HTML or another escape."""
    found, at = [], 0
    while file[at:].strip():
        match = TOKEN.match(file, at)
        assert match, f"not a token: {file[at : at + 60]!r}"
        found.append('""' if match[1] is not None else match[2] or match[3])
        at = match.end()
    return found


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_dot_file_has_the_same_statements_whatever_the_names_are(payload: str) -> None:
    file = dot(drawn_with(payload))
    assert tokens(file) == tokens(dot(drawn_with("")))
    assert all(char.isprintable() or char == "\n" for char in file)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_label_of_a_metric_is_read_back_unchanged(payload: str) -> None:
    exposition = Exposition()
    labelled = [metric for metric in METRICS if metric.labels and not metric.read]
    for metric in labelled:
        if metric.kind is MetricKind.HISTOGRAM:
            exposition.observe(metric, 1.0, *[payload] * len(metric.labels))
        else:
            exposition.add(metric, *[payload] * len(metric.labels))
    text = generate_latest(exposition._registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for metric in labelled:
        samples = families[metric.name.removesuffix("_total")].samples
        assert {value for sample in samples for key, value in sample.labels.items() if key != "le"} == {
            payload
        }
    assert "evil" not in families
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "metrics"], input=text, text=True, check=True, capture_output=True)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
@pytest.mark.parametrize("format_", [logs._Json, logs._Text])
def test_record_of_the_log_is_one_line_without_control_characters(payload: str, format_: Any) -> None:
    record = logging.LogRecord("ovn_docker.core.driver", logging.INFO, "", 1, "made %s", (payload,), None)
    record.vlog, record.request = "driver", payload
    line = format_().format(record)
    assert all(char.isprintable() for char in line)
    if format_ is logs._Json:
        assert json.loads(line)["message"] == f"made {payload}"


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_traceback_in_the_log_forges_no_record(payload: str) -> None:
    trouble = (ValueError, ValueError(payload), None)
    record = logging.LogRecord("ovn_docker.core.driver", logging.ERROR, "", 1, "failed", (), trouble)
    first, *more = logs._Text().format(record).split("\n")
    assert first == "failed"
    assert all(line.startswith("  ") and line.isprintable() for line in more)
