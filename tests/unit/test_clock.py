"""Ages of rows, with a wrong wall clock and with invalid values in a database."""

import time

import pytest

from ovn_docker.host.clock import CREATED, UPTIME, age, boot, made_now, order

YEAR = 365 * 24 * 3600


def made(seconds_ago: float, *, boot_id: str = "", wrong: float = 0) -> dict[str, str]:
    """Return the times of a row that was made *seconds_ago*, by a wall clock that is *wrong* seconds fast."""
    return {
        CREATED: str(int(time.time() - seconds_ago + wrong)),
        UPTIME: f"{int((time.monotonic() - seconds_ago) * 1000)}@{boot_id or boot()}",
    }


@pytest.mark.parametrize("created", ["", "yesterday", "-1", "1e3", "\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_row_without_a_valid_time_is_infinitely_old(created: str) -> None:
    assert age({CREATED: created}) == float("inf")
    assert age({}) == float("inf")


@pytest.mark.parametrize("unit", [1, 10**9])
def test_age_is_in_seconds_whatever_the_unit_of_the_row(unit: int) -> None:
    assert 3600 <= age({CREATED: str(int(time.time() - 3600) * unit)}) < 3660


def test_age_of_a_new_row_is_about_zero() -> None:
    assert 0 <= age(made_now()) < 30


@pytest.mark.parametrize("wrong", [-10 * YEAR, -3600, -60, 60, 3600, 10 * YEAR])
def test_wall_clock_does_not_affect_the_age_of_a_row_of_this_boot(wrong: float) -> None:
    assert 1 <= age(made(1, wrong=wrong)) < 30


@pytest.mark.parametrize(
    "uptime",
    ["", "@", "1", "x@{boot}", "-5@{boot}", "nan@{boot}", "1e3@{boot}", "9" * 5000 + "@{boot}", "7@{other}"],
)
def test_age_without_an_uptime_of_this_boot_follows_the_wall_clock(uptime: str) -> None:
    text = uptime.format(boot=boot(), other="0" * 8)
    assert 3600 <= age({CREATED: str(int(time.time()) - 3600), UPTIME: text}) < 3660


def test_age_of_a_row_with_a_future_uptime_is_zero() -> None:
    assert age({UPTIME: f"{int(time.monotonic() + 1000) * 1000}@{boot()}"}) == 0


@pytest.mark.parametrize(("wrong", "old"), [(1, False), (500, False), (3600, True), (10 * YEAR, True)])
def test_row_of_another_boot_far_in_the_future_is_as_old_as_this_boot(wrong: float, old: bool) -> None:
    seconds = age(made(0, boot_id="0" * 8, wrong=wrong))
    assert (seconds == pytest.approx(time.monotonic(), abs=30)) if old else seconds == 0


def test_rows_of_this_boot_are_sorted_last_and_by_creation() -> None:
    before = made(0, boot_id="0" * 8, wrong=YEAR)
    first, second = made(2, wrong=3600), made(1)
    assert sorted([second, before, first], key=order) == [before, first, second]
