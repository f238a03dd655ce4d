"""The live page in a real browser, with 3, 30 and 300 containers; screenshots as in test_page.py."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from functional.browser import CHROMIUM, PHONE, Browser, browser
from functional.ovsdb_servers import until
from functional.test_page import SCREENSHOTS
from ovn_docker.doctor.diagnosis import Check, Finding, Result, Severity
from ovn_docker.draw.layout import picture
from ovn_docker.draw.live_page import live_page, live_policy
from ovn_docker.draw.svg import svg
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.live.access import Access
from ovn_docker.live.live_state import Diagnosis, counters, document, own_document
from ovn_docker.live.peers import PeerAnswer, decode
from ovn_docker.live.rates import Rates
from ovn_docker.live.shared_reader import SharedReader
from ovn_docker.live.site import Content, Reading, Site
from ovn_docker.live.traces import TraceAsked, Traces
from ovn_docker.threads import Threads
from ovn_docker.web.bounded_server import BoundedServer, listen
from unit.clusters import WORDS, cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed"),
]

_CHECK = Check("tunnels", "All tunnels are up.", (), lambda _: ())
FAULT = Finding(
    "the tunnel to host3 has an error: cannot open device", "restart it", (("ovs-vsctl", "show"),)
)
WARNING = Finding(
    "Docker's name server is on another network", "set dns", severity=Severity.WARN, where="host2"
)


class Page:
    """The live page of a cluster that a test makes and changes."""

    def __init__(self, cluster: ClusterView, *, faults: bool) -> None:
        self.cluster = cluster
        self.faults = faults
        self.peers: tuple[PeerAnswer, ...] = ()
        self.traced: list[TraceAsked] = []
        self._rates = Rates()
        self._number = 0
        counted = counters(cluster)
        self._rates.add(0, dict.fromkeys(counted, (0, 0)))
        self._rates.add(1, {key: (10 ** (n % 9), 7 ** (n % 9)) for n, key in enumerate(sorted(counted))})
        self.reader = SharedReader(self._read, 0.5)
        doctor = SharedReader(self._diagnose, 60)
        traces = Traces(self._trace)
        site = Site(Access("127.0.0.1"), live_page("host1"), live_policy(), self.reader, doctor, traces)
        listener = listen(("127.0.0.1", 0), "browsers", "--serve")
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self.server = BoundedServer(site, listener)
        threads = Threads()
        for name, run in (
            *(("reader", self.reader.run), ("doctor", doctor.run), ("traces", traces.run)),
            ("server", self.server.serve),
        ):
            threads.start(name, "tests", run, lasts=name != "server")

    def _read(self) -> Reading:
        self._number += 1
        seen = ClusterView(replace(self.cluster.snapshot, taken=time.time()))
        drawn = svg(picture(seen), framed=False)
        return Reading(
            self._number, seen, document(seen, self._rates, self.peers),
            own_document(seen, self._rates), str(hash(drawn)), Content(drawn, "image/svg+xml"),
        )  # fmt: skip

    def _diagnose(self) -> Diagnosis:
        found = (Result(_CHECK, "fail", (FAULT,)), Result(_CHECK, "warn", (WARNING,))) if self.faults else ()
        return Diagnosis(time.time(), (*[Result(_CHECK, "ok")] * 40, *found))

    def _trace(self, asked: TraceAsked) -> str:
        self.traced.append(asked)
        return "web -> db  icmp\n   OVN  passes\n\ndelivered, and so is the answer"


MakePage = Callable[..., Page]


@pytest.fixture
def make_page() -> Iterator[MakePage]:
    """Serves pages of clusters until the end of the test."""
    with ExitStack() as served:

        def make(
            hosts: int, containers: int, *, faults: bool = False, names: tuple[str, ...] = WORDS
        ) -> Page:
            page = Page(cluster(hosts, containers, faults=faults, names=names), faults=faults)
            served.callback(page.server.stop)
            return page

        yield make


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


SHOWN = (
    "document.querySelectorAll('#containers tbody tr').length === {} "
    "&& !!document.querySelector('#drawing svg')"
)
DIAGNOSED = "document.getElementById('doctor-state').textContent.startsWith('The doctor made')"


def show(chromium: Browser, page: Page, size: tuple[int, int] = (1500, 1000), *, dark: bool = False) -> None:
    """Load the page, and wait until everything is on it."""
    chromium.logged.clear()
    chromium.open(page.url, size, dark=dark)
    chromium.wait(SHOWN.format(len(page.cluster.endpoints)))
    chromium.wait(DIAGNOSED)


def test_page_follows_the_cluster(chromium: Browser, make_page: MakePage) -> None:
    page = make_page(3, 30)
    show(chromium, page)
    chromium.wait("document.getElementById('contact').textContent === 'live'")
    page.cluster = cluster(3, 33, faults=True)
    chromium.wait(SHOWN.format(33))
    chromium.wait("document.querySelectorAll('#drawing .container').length === 33")
    chromium.wait("document.querySelectorAll('#differences li').length === 2")
    assert chromium.logged == []


def test_page_shows_the_answers_of_peers(chromium: Browser, make_page: MakePage) -> None:
    page = make_page(3, 30)
    show(chromium, page)
    chromium.wait("document.querySelectorAll('#tunnels tbody tr').length === 2")
    tunnel = {"to": "host3", "address": "10.0.0.3", "type": "geneve", "state": "down", "traffic": [5, 7]}
    finding = {
        "check": "tls",
        "severity": "fail",
        "evidence": "it is old",
        "cure": "renew it",
        "commands": ["a b"],
    }
    state = decode(json.dumps({"host": "host2", "tunnels": [tunnel], "findings": [finding]}).encode())
    page.peers = (PeerAnswer("10.0.0.2:8080", time.monotonic() + 3600, state),)
    chromium.wait("document.querySelectorAll('#tunnels tbody tr').length === 3")
    shown = chromium.value("document.querySelector('#tunnels tbody').innerText").split()
    assert {"host2", "down", "5", "7"} <= set(shown)
    assert chromium.value("document.getElementById('findings').innerText").split("\n") == [
        "fault tls: host2: it is old",
        "cure: renew it",
        "host2$ a b",
    ]


def test_page_says_when_the_server_is_gone(chromium: Browser, make_page: MakePage) -> None:
    page = make_page(1, 3)
    show(chromium, page)
    page.server.stop()
    page.server._http.close()
    chromium.wait("document.getElementById('contact').textContent.startsWith('no answer since ')")
    assert chromium.value("document.querySelectorAll('#containers tbody tr').length") == 3


EVIL = (
    '<img src=x onerror="document.body.dataset.ran = 1">',
    "</title></g></svg><script>document.body.dataset.ran = 1</script>",
    "</script><script>document.body.dataset.ran = 1</script>",
    "javascript:document.body.dataset.ran=1",
    "'; document.body.dataset.ran = 1; '",
    "__proto__", "constructor", "&lt;b&gt;&#0;", "\u202egnp.exe", "x" * 5000,
)  # fmt: skip


def test_hostile_names_are_shown_as_text(chromium: Browser, make_page: MakePage) -> None:
    page = make_page(3, 30, names=EVIL)
    show(chromium, page)
    shown = chromium.value(
        "[...document.querySelectorAll('#containers tbody th button')].map(b => b.textContent)"
    )
    assert {*EVIL[:8]} <= set(shown)
    chromium.value("document.querySelector('#containers tbody th button').click()")
    chromium.wait("document.querySelectorAll('#facts dd').length > 5")
    assert not chromium.value("document.body.dataset.ran")
    assert chromium.value("document.querySelectorAll('script').length") == 1
    assert chromium.value("document.querySelectorAll('img, iframe, object, embed, form').length") == 0
    assert chromium.logged == []


def test_policy_keeps_the_page_from_making_markup(chromium: Browser, make_page: MakePage) -> None:
    show(chromium, make_page(1, 3))
    tried = chromium.value(
        "(() => { try { document.body.innerHTML = '<b>x</b>' } catch (e) { return e.name } })()"
    )
    assert tried == "TypeError"
    assert not chromium.value("fetch('http://127.0.0.1:1/').then(() => true, () => false)")
    # The browser reports a violation some time after it.
    until(lambda: chromium.value("true") and any("Content Security Policy" in one for one in chromium.logged))


def test_search_filters_the_table_and_the_picture(chromium: Browser, make_page: MakePage) -> None:
    page = make_page(3, 30)
    show(chromium, page)
    chromium.value(
        "(box => { box.value = 'web'; box.dispatchEvent(new Event('input')) })"
        "(document.getElementById('search'))"
    )
    expected = sum("web" in one.container for one in page.cluster.endpoints)
    assert 0 < expected < 30
    assert (
        chromium.value("document.querySelectorAll('#containers tbody tr:not([hidden])').length") == expected
    )
    assert chromium.value("document.querySelectorAll('#drawing .some .match').length") == expected
    assert chromium.value("document.getElementById('found').textContent") == f"{expected} of 30"


def test_table_is_sorted_by_a_column(chromium: Browser, make_page: MakePage) -> None:
    page = make_page(3, 30)
    show(chromium, page)
    heads = "[...document.querySelectorAll('#containers thead button')]"
    names = "[...document.querySelectorAll('#containers tbody th button')].map(b => b.textContent)"
    assert chromium.value(names)[:3] == ["api", "api-1", "auth"]
    chromium.value(f"{heads}.find(b => b.textContent === 'Sends').click()")
    most = max(document(page.cluster, page._rates)["containers"], key=lambda one: (one["traffic"] or [-1])[0])
    assert chromium.value(names)[0] == most["name"]
    assert chromium.value("document.querySelector('#containers [aria-sort]').textContent") == "Sends"


def test_container_is_inspected_and_traced_with_the_keyboard(chromium: Browser, make_page: MakePage) -> None:
    page = make_page(3, 30)
    show(chromium, page)
    chromium.value("document.querySelector('#drawing .container').focus()")
    chromium.press("ArrowRight", 39)
    chosen = chromium.value("({ ...document.activeElement.dataset })")
    assert chosen["name"] in chromium.value("document.activeElement.getAttribute('aria-label')")
    chromium.press("Enter", 13)
    chromium.wait("document.getElementById('details').open")
    assert chromium.value("document.getElementById('details-title').textContent") == chosen["name"]
    facts = chromium.wait(
        "document.querySelectorAll('#facts dd').length > 5 && document.getElementById('facts').innerText"
    )
    assert chosen["id"] in facts
    chromium.value("document.getElementById('run').focus()")
    chromium.press("Enter", 13)
    chromium.wait("document.getElementById('traced').textContent.endsWith('delivered, and so is the answer')")
    target = chromium.value("document.getElementById('target').value")
    assert page.traced == [(chosen["id"], target, "icmp")]
    networks = {one.id: one.network for one in page.cluster.endpoints}
    assert networks[target] == networks[chosen["id"]]
    chromium.press("Escape", 27)
    chromium.wait("!document.getElementById('details').open")
    assert chromium.value("document.activeElement.dataset.id") == chosen["id"]


def test_screen_reader_has_names_and_roles(chromium: Browser, make_page: MakePage) -> None:
    page = make_page(3, 3)
    show(chromium, page)
    shown = chromium.accessible()
    assert {("heading", one) for one in ("Faults", "Networks", "Containers", "Tunnels", "Hosts")} <= shown
    assert {("table", one) for one in ("Networks", "Containers", "Tunnels", "Hosts")} <= shown
    assert {("columnheader", "Sends"), ("searchbox", "Search"), ("status", "")} <= shown
    for one in page.cluster.endpoints:
        assert ("button", one.container) in shown
        assert any(
            role == "button" and name.startswith(f"{one.container} on {one.host}, ") for role, name in shown
        )
    assert not [
        role for role, name in shown if role in {"button", "link", "searchbox", "textbox"} and not name
    ]


def test_nothing_is_wider_than_a_phone(chromium: Browser, make_page: MakePage) -> None:
    show(chromium, make_page(3, 30, faults=True, names=(*WORDS, "a-long-name-" * 12)), PHONE)
    assert chromium.value("document.documentElement.scrollWidth") <= PHONE[0]
    tables = "[...document.querySelectorAll('.table')].map(one => one.scrollWidth - one.clientWidth)"
    assert chromium.value(tables) == [0, 0, 0, 0]
    chromium.value("document.querySelector('#containers tbody th button').click()")
    chromium.wait("document.querySelectorAll('#facts dd').length > 5")
    assert chromium.value("document.getElementById('details').scrollWidth") <= PHONE[0]
    small = "[...document.querySelectorAll('main button, main input, nav a, dialog button, dialog select')]"
    small += ".filter(one => one.offsetParent && one.getBoundingClientRect().height < 24)"
    assert chromium.value(f"{small}.map(one => one.outerHTML)") == []  # WCAG 2.2, 2.5.8


CONTRAST = """
(() => {
  const levels = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = text => levels(text).reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const wrong = [];
  for (const one of document.querySelectorAll('header *, main :not(svg, svg *)')) {
    const texts = [...one.childNodes].filter(node => node.nodeType === 3 && node.data.trim());
    if (!texts.length || !one.offsetParent) continue;
    const clear = node => getComputedStyle(node).backgroundColor === 'rgba(0, 0, 0, 0)';
    let behind = one;
    while (behind.parentElement && clear(behind)) behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(one).color), light(getComputedStyle(behind).backgroundColor)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) wrong.push(`${one.outerHTML.slice(0, 80)}: ${ratio.toFixed(2)}`);
  }
  return wrong;
})()
"""
"""Texts whose contrast is less than 4.5 (WCAG 2.2, 1.4.3)."""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_have_contrast(dark: bool, chromium: Browser, make_page: MakePage) -> None:
    show(chromium, make_page(3, 30, faults=True), dark=dark)
    assert chromium.value(CONTRAST) == []


@pytest.mark.parametrize("containers", [3, 30, 300])
@pytest.mark.parametrize("screen", ["desktop", "phone", "dark"])
def test_screenshot_of_the_page(screen: str, containers: int, chromium: Browser, make_page: MakePage) -> None:
    page = make_page(3 if containers < 300 else 8, containers, faults=containers > 3)
    size = PHONE if screen == "phone" else (1500, 1000)
    show(chromium, page, size, dark=screen == "dark")
    kept = Path(os.environ.get("OVN_DOCKER_SCREENSHOTS", SCREENSHOTS))
    kept.mkdir(parents=True, exist_ok=True)
    take = partial(chromium.screenshot, whole=True)
    take(kept / f"live-{screen}-{containers}.png")
    chromium.value("document.querySelector('#containers tbody th button').click()")
    chromium.wait("document.querySelectorAll('#facts dd').length > 5")
    chromium.value("document.getElementById('run').click()")
    chromium.wait("document.getElementById('traced').textContent.endsWith('delivered, and so is the answer')")
    image = kept / f"live-{screen}-{containers}-details.png"
    chromium.screenshot(image, whole=False)
    assert image.read_bytes().startswith(b"\x89PNG")
    assert image.stat().st_size > 20_000, "all of one colour"
    assert chromium.logged == []
