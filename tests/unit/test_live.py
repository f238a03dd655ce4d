"""The live page without network: who may read it, rates from counters, one reader, bounds of its document."""

import json
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovn_docker.cli.main import main
from ovn_docker.doctor.diagnosis import Check, Finding, Result
from ovn_docker.draw.live_page import live_page, live_policy
from ovn_docker.errors import BadRequest, Unavailable
from ovn_docker.inspect.cluster import ClusterView
from ovn_docker.live import live_state
from ovn_docker.live.access import Access, require_token, token_of
from ovn_docker.live.live_state import (
    Diagnosis,
    counters,
    described,
    diagnosed,
    document,
    own_document,
)
from ovn_docker.live.peers import PeerAnswer, decode
from ovn_docker.live.rates import Rates, Traffic
from ovn_docker.live.shared_reader import SharedReader
from ovn_docker.live.traces import Traces
from unit.clusters import cloud, cluster

TOKEN = "0123456789abcdef-ABCDEF"


def request(host: str = "127.0.0.1:8080", **headers: str) -> dict[str, object]:
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/state.json", "HTTP_HOST": host, **headers}


def basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def status(access: Access, environ: dict[str, object]) -> int:
    denied = access.denial(environ)
    return denied.status if denied else 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "localhost:8080", "LOCALHOST."]
)
def test_loopback_names_are_answered(host: str) -> None:
    assert status(Access("127.0.0.1"), request(host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "127.0.0.1.evil.example", "host1", "10.0.0.1:8080", "localhost@evil.example"),
        *("localhost:8080, evil.example", "[::1", "[localhost]", "127.0.0.1:80800000", "localhost/", "1"),
    ],
)
def test_other_host_names_are_refused_on_loopback(host: str) -> None:
    assert status(Access("127.0.0.1"), request(host)) == 421


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *[("10.0.0.1:8080", 200), ("[fd00::1]", 200), ("localhost", 200), ("host1:8080", 200)],
        *[("host1.example", 200), ("host2", 421), ("evil.example:8080", 421), ("", 421)],
    ],
)
def test_addresses_and_own_names_are_answered_elsewhere(host: str, expected: int) -> None:
    access = Access("0.0.0.0", TOKEN, ("host1", "host1.example"))
    assert status(access, request(host, HTTP_AUTHORIZATION=basic("", TOKEN))) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        *[("", 401), ("Basic", 401), ("Basic !", 401), ("Basic /w==", 401), ("Bearer", 401)],
        *[(basic("root", "wrong"), 401), (basic(TOKEN, ""), 401), (f"Bearer {TOKEN}x", 401)],
        *[(f"Digest {TOKEN}", 401), (basic("", TOKEN.upper()), 401), (f"Bearer {TOKEN}\u00e9", 401)],
        *[(basic("", TOKEN), 200), (basic("any", TOKEN), 200), (f"bearer {TOKEN}", 200)],
    ],
)
def test_every_request_needs_the_token(header: str, expected: int) -> None:
    access = Access("127.0.0.1", TOKEN)
    assert status(access, request(HTTP_AUTHORIZATION=header)) == expected
    if expected == 401:
        denied = access.denial(request(HTTP_AUTHORIZATION=header, REQUEST_METHOD="POST", PATH_INFO="/"))
        assert denied
        assert denied.status == 401
        assert dict(denied.headers)["WWW-Authenticate"].startswith("Basic ")


@given(st.text())
def test_no_authorization_header_passes_by_chance(header: str) -> None:
    assert status(Access("127.0.0.1", TOKEN), request(HTTP_AUTHORIZATION=header)) == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", ""])
def test_methods_other_than_get_are_refused(method: str) -> None:
    denied = Access("127.0.0.1").denial(request(REQUEST_METHOD=method))
    assert denied
    assert (denied.status, denied.headers) == (405, (("Allow", "GET"),))


@pytest.mark.parametrize(
    ("path", "site", "mode", "expected"),
    [
        *[("/state.json", "same-origin", "cors", 200), ("/", "none", "navigate", 200)],
        *[("/", "cross-site", "navigate", 200), ("/", "cross-site", "no-cors", 403)],
        *[("/trace.json", "cross-site", "navigate", 403), ("/trace.json", "same-site", "cors", 403)],
    ],
)
def test_other_sites_may_only_link_to_the_page(path: str, site: str, mode: str, expected: int) -> None:
    environ = request(HTTP_SEC_FETCH_SITE=site, HTTP_SEC_FETCH_MODE=mode, PATH_INFO=path)
    assert status(Access("127.0.0.1"), environ) == expected


def test_token_is_the_first_line_of_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nsecond line\n")
    file.chmod(0o600)
    assert token_of(file) == TOKEN


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (TOKEN, 0o644, r"token file .* is accessible to others \(mode 0644\): type chmod 600 "),
        ("short\n", 0o600, "is not a token of 16 or more ASCII characters"),
        ("\n" + TOKEN, 0o600, "is not a token of 16 or more ASCII characters"),
        (f"{TOKEN} {TOKEN}", 0o600, "without spaces; make one with: "),
        (f"{TOKEN}\u00e9", 0o600, "ASCII"),
        (None, 0o600, "cannot read --token-file .*: No such file or directory; make one with: "),
    ],
)
def test_unsuitable_token_file_is_refused_in_one_line(
    text: str | None, mode: int, why: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(BadRequest, match=why) as refused:
        token_of(file)
    assert "\n" not in str(refused.value)
    assert TOKEN not in str(refused.value)


def test_only_loopback_needs_no_token() -> None:
    for address in ("127.0.0.1", "127.1.2.3", "::1"):
        require_token((address, 8080), "")
    for address in ("0.0.0.0", "::", "10.0.0.1", "fd00::1"):
        require_token((address, 8080), TOKEN)
        with pytest.raises(
            BadRequest, match=r"can be reached from other machines: add --token-file FILE, or"
        ):
            require_token((address, 8080), "")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--serve 0.0.0.0:8080", "--serve 0.0.0.0:8080 can be reached from other machines: add --token-file"),
        ("--serve [::]:8080", "--serve [::]:8080 can be reached from other machines"),
        ("--serve 8080", "'8080' is not an address and a port, such as 127.0.0.1:"),
        ("--serve localhost:8080", "'localhost:8080' is not an address and a port"),
        ("--serve 127.0.0.1:8080 -o x.html", "--serve writes no file"),
        ("--serve 127.0.0.1:8080 --json", "--serve writes no file"),
        ("--token-file /x", "--token-file is for the page that is kept current: add --serve"),
        ("--peer 10.0.0.2:8080", "--peer is for the page that is kept current: add --serve"),
        ("--serve 127.0.0.1:8080" + " --peer 10.0.0.2:8080" * 65, "65 times --peer: give at most 64"),
        ("--serve 127.0.0.1:8080 --token-file /none", "cannot read --token-file /none"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    arguments: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["graph", *arguments.split()])
    except SystemExit as ended:
        code = int(str(ended.code))
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert why in said.err


def test_rate_is_the_difference_of_two_measurements() -> None:
    rates = Rates()
    rates.add(100, {"a": (1000, 0)})
    assert rates.of("a") is None
    rates.add(102, {"a": (1000, 0), "b": (0, 0)})  # ovs-vswitchd has not counted again yet
    assert rates.of("a") is None
    rates.add(104, {"a": (5000, 2000), "b": (0, 0)})
    assert rates.of("a") == Traffic(1000, 500)
    assert rates.of("b") is None
    rates.add(106, {"a": (5000, 2000), "b": (0, 0)})
    assert rates.of("a") == Traffic(1000, 500)
    rates.add(110, {"a": (5000, 2000), "b": (0, 0)})
    assert (rates.of("a"), rates.of("b")) == (Traffic(), Traffic())
    rates.add(112, {"a": (10, 10), "b": (40, 0)})  # a is a new port
    assert (rates.of("a"), rates.of("b")) == (None, Traffic(20, 0))


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(-5, 1 << 70), st.integers(0, 1 << 70)), max_size=20))
def test_rates_are_never_negative(readings: list[tuple[float, int, int]]) -> None:
    rates = Rates()
    for at, sent, received in readings:
        rates.add(at, {"a": (sent, received)})
        found = rates.of("a") or Traffic()
        assert min(found.sent, found.received) >= 0


def test_many_questions_are_answered_by_one_reading() -> None:
    made: list[int] = []
    reader = SharedReader(lambda: made.append(1) or len(made), 0)
    for _ in range(50):
        assert reader.latest() is None
    reader.read_when_asked()
    assert (made, reader.readings) == ([1], 1)
    assert not reader._asked.is_set()  # the next reading waits until somebody asks
    assert reader.latest() == 1
    reader.read_when_asked()
    assert reader.readings == 2


def test_nothing_is_read_until_somebody_asks() -> None:
    made: list[int] = []
    reader = SharedReader(lambda: made.append(1), 0)
    thread = Thread(target=reader.read_when_asked, daemon=True)
    thread.start()
    assert made == []
    reader.latest()
    thread.join(120)
    assert made == [1]


def test_traces_are_shared_and_bounded() -> None:
    made: list[object] = []
    traces = Traces(lambda asked: made.append(asked) or "delivered")
    first = traces.ask(("a", "b", "icmp"))
    assert first
    assert traces.ask(("a", "b", "icmp")) is first
    jobs = [traces.ask(("a", str(number), "icmp")) for number in range(100)]
    assert jobs[-1] is None
    assert 4 <= sum(job is not None for job in jobs) <= 32
    traces.run_next()
    assert first.text == "delivered"
    assert made.count(("a", "b", "icmp")) == 1


def test_trace_that_raises_ends() -> None:
    traces = Traces(lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
    job = traces.ask(("a", "b", "icmp"))
    with pytest.raises(ZeroDivisionError):
        traces.run_next()
    assert job
    assert job.text == "the trace failed: see the log of this page"


EVIL = (
    '</script><script>alert("x")</script>',
    "a&b",
    "\x00\x1b[31m",
    "]]>",
    "x" * 300_000,
    "web\u202egnp.exe",
)


EVIL_FINDING = Finding("it is \x1b[2J", "mend", (("rm", "a b\n"),), where="host2\n")


@pytest.mark.parametrize("faults", [False, True])
def test_document_has_texts_in_one_line_and_of_bounded_size(faults: bool) -> None:
    seen = cluster(3, 60, names=EVIL, faults=faults)
    text = json.dumps([document(seen, Rates()), described(seen, seen.endpoints[0].id)])
    assert len(text) < 200_000
    assert text.isascii()

    def check(value: object) -> None:
        if isinstance(value, str):
            assert value.isprintable(), value
            assert len(value) <= 10 * live_state._TEXT  # escaped after the cut
        elif isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                check(one)

    check(json.loads(text))


def test_document_lists_differences_and_this_host_first_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_state, "CONTAINERS", 40)
    monkeypatch.setattr(live_state, "FINDINGS", 3)
    seen = cluster(8, 300, faults=True)
    shown = document(seen, Rates())
    assert (len(shown["containers"]), shown["count"]["containers"]) == (40, 300)
    wrong = {one.id for one in seen.endpoints if one.differences}
    here = {one.id for one in seen.endpoints if one.here}
    assert wrong | here <= {one["id"] for one in shown["containers"]}
    assert shown["problems"][-1] == "... and 8 more: see ovn-docker ls"


def test_document_has_traffic_of_containers_networks_and_tunnels() -> None:
    seen = cluster(3, 30)
    assert seen.snapshot.vswitch
    interfaces = tuple(
        replace(one, statistics={"rx_bytes": 5000, "tx_bytes": 100})
        for one in seen.snapshot.vswitch.interfaces
    )
    later = type(seen)(replace(seen.snapshot, vswitch=replace(seen.snapshot.vswitch, interfaces=interfaces)))
    rates = Rates()
    rates.add(0, {**dict.fromkeys(counters(later), (0, 0))})
    rates.add(10, counters(later))
    shown = document(later, rates)
    here = [one for one in shown["containers"] if one["here"]]
    assert here
    assert all(one["traffic"] == [500, 10] for one in here)
    assert all(one["traffic"] is None for one in shown["containers"] if not one["here"])
    assert shown["traffic"] == [500 * len(here), 10 * len(here)]
    for network in shown["networks"]:
        members = [one for one in here if one["network"] == network["name"]]
        assert network["traffic"] == ([500 * len(members), 10 * len(members)] if members else None)
    assert [one["traffic"] for one in shown["tunnels"]] == [[10, 500], [10, 500]]


def as_seen_from(seen: ClusterView, host: str) -> ClusterView:
    """Return a cluster as another host sees it."""
    assert seen.snapshot.vswitch
    vswitch = replace(seen.snapshot.vswitch, ids={"system-id": host})
    return ClusterView(replace(seen.snapshot, vswitch=vswitch))


def peer(host: str, where: str = "10.0.0.2:8080", **more: object) -> PeerAnswer:
    return PeerAnswer(where, time.monotonic(), decode(json.dumps({"host": host, **more}).encode()))


def test_peer_adds_its_traffic_tunnels_and_findings() -> None:
    seen = cluster(3, 30)
    there = as_seen_from(seen, "host2")
    ours = [one.id for one in seen.endpoints if one.host == "host2"]
    theirs = next(one.id for one in seen.endpoints if one.host == "host3")
    finding = {"check": "tls", "severity": "fail", "evidence": "bad", "cure": "mend", "commands": ["x"]}
    own = own_document(there, Rates())
    assert {one["to"] for one in own["tunnels"]} == {"host1", "host3"}
    own |= {"traffic": {ours[0]: [7, 8], theirs: [100, 100]}, "findings": [finding]}
    shown = document(seen, Rates(), [peer(**own)])
    traffic = {one["id"]: one["traffic"] for one in shown["containers"]}
    assert (traffic[ours[0]], traffic[ours[1]], traffic[theirs]) == ([7, 8], None, None)
    assert (shown["traffic"], shown["count"]["measured"]) == ([7, 8], 2)
    assert {(one["from"], one["to"]) for one in shown["tunnels"]} == {
        *(("host1", "host2"), ("host1", "host3"), ("host2", "host1"), ("host2", "host3"))
    }
    assert [(one["evidence"], one["where"]) for one in shown["findings"]] == [("host2: bad", "host2")]
    assert [one["measured"] for one in shown["hosts"]] == ["this page", "its page at 10.0.0.2:8080", ""]
    assert shown["problems"] == []


def test_peers_that_cannot_be_shown_are_named() -> None:
    answers = [
        PeerAnswer("10.0.0.9:8080", time.monotonic(), problem="does not answer: timed out"),
        *(peer("host1", "10.0.0.1:1"), peer("host2", "10.0.0.2:1"), peer("host2", "10.0.0.3:1")),
        *(peer("\x1b[31m", "10.0.0.4:1"), peer("", "10.0.0.5:1")),
    ]
    shown = document(cluster(3, 3), Rates(), answers)
    assert shown["problems"] == [
        "page of 10.0.0.9:8080: does not answer: timed out",
        "page of 10.0.0.1:1: it is the page of a host that is shown already",
        "page of 10.0.0.3:1: it is the page of a host that is shown already",
        "page of 10.0.0.4:1: OVN does not have its host '\\x1b[31m'",
        "page of 10.0.0.5:1: OVN does not have its host ''",
    ]
    assert shown["count"]["measured"] == 2


def test_old_answer_of_a_peer_is_not_shown() -> None:
    old = replace(peer("host2"), taken=time.monotonic() - 2 * live_state._STALE)
    shown = document(cluster(3, 3), Rates(), [old])
    assert (shown["problems"], shown["count"]["measured"]) == ([], 1)


TUNNEL = {"to": "host1", "address": "10.0.0.1", "type": "geneve", "state": "up", "traffic": None}


@pytest.mark.parametrize(
    "body",
    [
        *("", "null", "[]", "{}", '{"host": 1}', '{"host": "a", "traffic": {"b": [1]}}', "[" * 100_000),
        *('{"host": "a", "traffic": {"b": [-1, 0]}}', '{"host": "a", "traffic": {"b": [1e999, 0]}}'),
        *('{"host": "a", "traffic": {"b": [1, 0.5]}}', '{"host": "\\ud800"}', '{"host": "\xff"}'),
        json.dumps({"host": "a", "tunnels": [TUNNEL] * 1001}),
        json.dumps({"host": "a" * 5001}),
        json.dumps({"host": "a", "tunnels": [{**TUNNEL, "state": 5}]}),
        json.dumps({"host": "a", "findings": [{"check": "a", "severity": "x", "evidence": "", "cure": ""}]}),
        json.dumps({"host": "a", "traffic": {str(n): [1, 1] for n in range(10_001)}}),
    ],
)
def test_invalid_answer_of_a_peer_is_refused(body: str) -> None:
    with pytest.raises(Unavailable, match="sent an invalid answer"):
        decode(body.encode("latin-1"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON, JSON, JSON)
def test_any_answer_of_a_peer_is_shown_or_refused(tunnels: object, traffic: object, findings: object) -> None:
    given = {"host": "host2", "tunnels": tunnels, "traffic": traffic, "findings": findings}
    with suppress(Unavailable):
        state = decode(json.dumps(given).encode())
        document(cluster(2, 3), Rates(), [PeerAnswer("10.0.0.2:1", time.monotonic(), state)])


def test_own_document_is_one_that_pages_of_other_hosts_accept() -> None:
    seen = cluster(8, 300, faults=True, names=EVIL)
    rates = Rates()
    counted = counters(seen)
    rates.add(0, dict.fromkeys(counted, (0, 0)))
    rates.add(1, dict.fromkeys(counted, (1 << 50, 5)))
    found = diagnosed(Diagnosis(1.0, (Result(Check("tls", "", (), lambda _: ()), "fail", (EVIL_FINDING,)),)))
    assert found
    own = {**own_document(seen, rates), "findings": found["findings"]}
    state = decode(json.dumps(own).encode())
    assert len(state.traffic) == sum(one.here for one in seen.endpoints)
    assert len(state.tunnels) == 7
    assert len(state.findings) == 1


def test_document_of_a_cloud_has_its_virtual_machines() -> None:
    shown = document(cloud(3, 30), Rates())
    assert (shown["underlay"], shown["count"]["hosts"], shown["tunnels"]) == (True, 3, [])


def test_description_is_found_by_the_id_of_the_document() -> None:
    seen = cluster(3, 30)
    shown = document(seen, Rates())
    for one in (*shown["containers"], *shown["networks"]):
        lines = described(seen, one["id"])
        assert lines
        assert one["name"] in lines[0][1]
    assert described(seen, "") is None


def test_diagnosis_has_its_findings_with_faults_first() -> None:
    check = Check("datapath", "", (), lambda _: ())
    shown = diagnosed(Diagnosis(1.0, (Result(check, "ok"), Result(check, "fail", (EVIL_FINDING,)))))
    assert shown
    assert (shown["checks"], shown["unknown"]) == (2, 0)
    assert shown["findings"] == [
        {
            "check": "datapath",
            "severity": "fail",
            "evidence": "it is \\x1b[2J",
            "cure": "mend",
            "where": "host2\\n",
            "commands": ["rm $'a b\\n'"],
        }
    ]


def test_page_loads_nothing_from_elsewhere() -> None:
    html = live_page('<script>alert("x")</script>')
    assert html.count("<script") == 1
    assert "http:" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in html
    policy = dict(part.split(" ", 1) for part in live_policy().split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in live_policy()
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser"):
        assert sink not in html
