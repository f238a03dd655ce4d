"""Recorded requests of Docker, and strategies that alter them."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ovn_docker.docker.wire import METHODS

NET = "ad6eb94616091677ad829254572c28d676689175d908cf299d17bb2c0d39f396"
EP = "53d0798b26e2fbe8d543504c4c4df763c5a2bfef10df9ba4646a1e899e32e438"

DOCKER = "com.docker.network."
GENERIC = DOCKER + "generic"


POOL = "6f766e2d-646f-436b-8572-706f6f6c0000"
"""ID in the format of our pools; the recorded IDs are those of a stub."""


def with_pool(request: dict[str, Any], pool: str) -> dict[str, Any]:
    """*request*, about another pool if it is about one."""
    return request | {"PoolID": pool} if "PoolID" in request else request


def recordings() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(Path(__file__).parent.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            recorded = json.loads(line)
            name = recorded["method"].removeprefix("NetworkDriver.")
            yield f"{path.stem}:{number}-{name}", recorded


RECORDINGS = dict(recordings())


REQUESTS: dict[str, list[Any]] = {path: [] for path in METHODS}
for _recorded in RECORDINGS.values():
    if _recorded["request"] is not None:
        REQUESTS["/" + _recorded["method"]].append(with_pool(_recorded["request"], POOL))
REQUESTS["/NetworkDriver.FreeNetwork"] = REQUESTS["/NetworkDriver.DeleteNetwork"]
REQUESTS["/NetworkDriver.AllocateNetwork"] = [
    {"NetworkID": NET[:25], "Options": {"ovn.switch": "s"}, "IPv4Data": request["IPv4Data"], "IPv6Data": None}
    for request in REQUESTS["/NetworkDriver.CreateNetwork"]
]
REQUESTS["/NetworkDriver.DiscoverNew"] = [
    {"DiscoveryType": 1, "DiscoveryData": {"Address": "192.0.2.1", "Self": True}}
]
REQUESTS["/NetworkDriver.DiscoverDelete"] = REQUESTS["/NetworkDriver.DiscoverNew"]

# Methods with more kinds of errors come more often. Methods that do not read their request are left out.
PATHS = [
    path for path in METHODS for _ in range(9 if re.search("Create|Request", path) else 3) if REQUESTS[path]
]

nearly = st.one_of(
    st.ip_addresses().map(str),
    st.tuples(st.ip_addresses(), st.integers(-1, 130)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.sampled_from(
        [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "::1/128",
            "::ffff:1.2.3.4/96",
            "fe80::1%lo/64",
            "1/1",
            "/",
            "010.1.1.1/8",
            "10.3.0.0",
            "10.3.0.255",
            "10.3.0.007",
            "::ffff:10.3.0.7",
            "fe80::1%lo",
            "pool-10.3.0.0/24",
            POOL,
            POOL.upper(),
        ]
    ),
    st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":").upper()),
    st.text("0123456789abcdefXYZ-_./%\n\0 é", max_size=70),
    st.sampled_from(
        [
            "",
            " ",
            "\0",
            "x" * 200_000,
            "9" * 6000,
            "../../etc/passwd",
            "${jndi:x}",
            "'; --",
            "\u202e",
            "\ud7ff",
        ]
    ),
)
scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**300, 10**310),
    st.floats(allow_nan=False),
    st.text(),
    nearly,
)
junk = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | nearly, inner, max_size=3)
)
keys = st.one_of(
    st.text(max_size=20),
    nearly,
    st.sampled_from(
        ["NetworkID", "EndpointID", "Options", "Interface", "IPv4Data", "Pool", "Gateway", "MacAddress"]
    ),
    st.sampled_from(["PoolID", "SubPool", "Address", "AddressSpace", "V6", "RequestAddressType"]),
    st.sampled_from(
        [GENERIC, DOCKER + "internal", DOCKER + "enable_ipv6", DOCKER, "ovn.switch", DOCKER + "driver.mtu"]
    ),
)


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a request, down to the last string."""
    yield here
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*here, key))


def changed(value: Any, way: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """*value* with the part at the end of *way* changed."""
    if not way:
        return change(value)
    copy = value.copy()
    copy[way[0]] = changed(value[way[0]], way[1:], change)
    return copy


@st.composite
def mutated(draw: st.DrawFn, request: Any) -> Any:
    """*request* with one part of it changed, however deep."""

    def change(part: Any) -> Any:
        match part, draw(st.sampled_from(["fit", "fit", "grow", "shrink", "junk"])):
            case dict(), "fit" | "grow":
                return part | {draw(keys): draw(junk)}
            case dict(), "shrink" if part:
                lost = draw(st.sampled_from(sorted(part)))
                return {key: part[key] for key in part if key != lost}
            case list(), "fit" | "grow":
                return [*part, draw(st.sampled_from(part)) if part else draw(junk)]
            case list(), "shrink":
                return part[1:]
            case str(), "fit" | "grow" | "shrink":
                return draw(nearly)
        return draw(junk)

    return changed(request, draw(st.sampled_from(list(places(request)))), change)


@st.composite
def almost_right(draw: st.DrawFn) -> tuple[str, Any]:
    """A path, and a request that was a proper one before something happened to it."""
    path = draw(st.sampled_from(PATHS))
    request = draw(st.sampled_from(REQUESTS[path]))
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        request = draw(mutated(request))
    return path, request


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path, and bytes that are hardly JSON."""
    path = draw(st.sampled_from(PATHS))
    body = json.dumps(draw(st.sampled_from(REQUESTS[path]))).encode()
    cut = draw(st.integers(0, len(body)))
    deep = draw(st.sampled_from([b"[", b'{"a":', b"1", b'"', b"\\"])) * draw(st.integers(1, 50_000))
    noise = draw(st.binary(max_size=50))
    return path, draw(
        st.sampled_from([noise, body[:cut], body[:cut] + noise + body[cut:], body[:cut] + deep])
    )
