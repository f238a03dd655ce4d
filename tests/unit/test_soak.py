"""The verdict of the soak (bench/soak.py)."""

from copy import deepcopy
from typing import Any

import pytest
from bench.soak import RELEASED, Sample, differences, verdict


def samples() -> list[Sample]:
    """Samples of a run of 20,000 lives in which nothing has grown."""
    used = {"private": 10.0, "proportional": 11.0, "resident": 20.0, "descriptors": 9, "threads": 3}
    counts = {
        "host1 OVN_Northbound DNS": 2, "host1 OVN_Southbound DNS": 2, "host1 Open_vSwitch Port": 4,
        "host1 links": 7, "host1 endpoints": 6, RELEASED: 40,
    }  # fmt: skip
    one = {
        "seconds": 60.0, "time": 0.0, "failed": 0, "used": {"host1 driver": used}, "counts": counts,
        "files": {"host1 /nb.db": 30_000, "host1 /driver.log": 0},
    }  # fmt: skip
    lives = [*range(0, 20_001, 1000), 20_000]
    return [deepcopy(one) | {"lives": number} for number in lives]


def failed(found: list[Sample]) -> list[str]:
    return [line.measure for line in verdict(found) if line.met is False]


def test_nothing_has_grown() -> None:
    found = samples()
    found[-1]["counts"][RELEASED] = 0
    assert failed(found) == []
    assert differences(found) == []


def test_memory_may_grow_in_the_first_tenth_only() -> None:
    found = samples()
    for number, one in enumerate(found):
        one["used"]["host1 driver"]["private"] = min(10 + number, 12)
    assert failed(found) == []
    for number, one in enumerate(found):
        one["used"]["host1 driver"]["private"] = 10 + number / 50
    assert failed(found) == ["host1 driver, private memory"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"counts": {"host1 OVN_Northbound DNS": 3}}, "rows of OVN_Northbound"),
        ({"counts": {"host1 links": 8}}, "links"),
        ({"counts": {"host1 endpoints": 5}}, "ports and links of endpoints"),
        ({"files": {"host1 /nb.db": 31_000}}, "host1 /nb.db, compacted"),
        ({"used": {"host1 driver": {"descriptors": 10}}}, "descriptors of all processes"),
        ({"used": {"host1 driver": {"threads": 4}}}, "threads of all processes"),
        ({"failed": 1}, "calls failed"),
    ],
)
def test_what_is_different_at_the_end_fails(change: dict[str, Any], expected: str) -> None:
    found = samples()

    def merge(there: dict[str, Any], new: dict[str, Any]) -> None:
        for key, value in new.items():
            if isinstance(value, dict):
                merge(there[key], value)
            else:
                there[key] = value

    merge(found[-1], change)
    assert failed(found) == [expected]
