"""Ages of rows, whatever the clock on the wall says, and whatever somebody has written into a database."""

import time

import pytest

from ovn_docker.host.clock import CREATED, UPTIME, age, boot, made_now, order

YEAR = 365 * 24 * 3600


def made(seconds_ago: float, *, boot_id: str = "", wrong: float = 0) -> dict[str, str]:
    """Rows that were made in this boot or an earlier one, by a clock that was wrong."""
    return {
        CREATED: str(int(time.time() - seconds_ago + wrong)),
        UPTIME: f"{int((time.monotonic() - seconds_ago) * 1000)}@{boot_id or boot()}",
    }


@pytest.mark.parametrize("created", ["", "yesterday", "-1", "1e3", "\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_a_row_without_a_valid_time_is_infinitely_old(created: str) -> None:
    assert age({CREATED: created}) == float("inf")
    assert age({}) == float("inf")


@pytest.mark.parametrize("unit", [1, 10**9])
def test_an_age_is_in_seconds_whatever_it_is_noted_in(unit: int) -> None:
    assert 3600 <= age({CREATED: str(int(time.time() - 3600) * unit)}) < 3660


def test_a_row_that_is_made_now_has_no_age() -> None:
    assert 0 <= age(made_now()) < 30


@pytest.mark.parametrize("wrong", [-10 * YEAR, -3600, -60, 60, 3600, 10 * YEAR])
def test_the_clock_on_the_wall_does_not_count_for_a_row_of_this_boot(wrong: float) -> None:
    assert 1 <= age(made(1, wrong=wrong)) < 30


@pytest.mark.parametrize(
    "uptime",
    ["", "@", "1", "x@{boot}", "-5@{boot}", "nan@{boot}", "1e3@{boot}", "9" * 5000 + "@{boot}", "7@{other}"],
)
def test_without_an_uptime_of_this_boot_the_clock_on_the_wall_counts(uptime: str) -> None:
    text = uptime.format(boot=boot(), other="0" * 8)
    assert 3600 <= age({CREATED: str(int(time.time()) - 3600), UPTIME: text}) < 3660


def test_an_uptime_to_come_is_no_age() -> None:
    assert age({UPTIME: f"{int(time.monotonic() + 1000) * 1000}@{boot()}"}) == 0


@pytest.mark.parametrize(("wrong", "old"), [(1, False), (500, False), (3600, True), (10 * YEAR, True)])
def test_a_row_of_another_boot_that_lies_far_in_the_future_is_as_old_as_this_boot(
    wrong: float, old: bool
) -> None:
    seconds = age(made(0, boot_id="0" * 8, wrong=wrong))
    assert (seconds == pytest.approx(time.monotonic(), abs=30)) if old else seconds == 0


def test_rows_of_this_boot_come_last_in_the_order_in_which_they_were_made() -> None:
    before = made(0, boot_id="0" * 8, wrong=YEAR)
    first, second = made(2, wrong=3600), made(1)
    assert sorted([second, before, first], key=order) == [before, first, second]
