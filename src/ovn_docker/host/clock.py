"""Age of a row: by the monotonic clock for rows that this machine has made since its boot.

The wall clock may be set at any moment, by NTP or by hand, and by years on a machine that had lost the time.
"""

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ovn_docker.model import whole_number

CREATED = "ovn-docker:created"
"""Key of the time at which a row was made, in seconds of the epoch; on pools in nanoseconds."""

UPTIME = "ovn-docker:uptime"
"""Key of the same time in milliseconds of CLOCK_MONOTONIC, with the ID of the boot: ``MS@BOOT``.

That clock stands still while the machine is suspended (clock_gettime(2)), as Docker and the driver do.
"""

_SKEW = 600.0
"""Seconds that a row may lie in the future because clocks differ; a time further off is ignored."""


def made_now() -> dict[str, str]:
    """Return the external_ids with the present time, for a new row."""
    return {CREATED: str(int(time.time())), UPTIME: f"{int(time.monotonic() * 1000)}@{boot()}"}


def age(ids: Mapping[str, str]) -> float:
    """Return the seconds since a row was made, by its external_ids; infinite without a time, never negative.

    The age of a row of another boot or machine follows from the wall clock. A row that lies in the future was
    made by a wrong clock, and counts as old as this boot.
    """
    if (made := _since_boot(ids)) is not None:
        return max(0.0, time.monotonic() - made)
    created = whole_number(ids.get(CREATED, ""))
    if created is None:
        return float("inf")
    seconds = time.time() - (created / 1e9 if created > 1e15 else created)
    return time.monotonic() if seconds < -_SKEW else max(0.0, seconds)


def order(ids: Mapping[str, str]) -> tuple[float, int]:
    """Return a key that sorts rows of this machine by age; those of this boot are the newest."""
    made = _since_boot(ids)
    return -1.0 if made is None else made, whole_number(ids.get(CREATED, "")) or 0


@cache
def boot() -> str:
    """Return the first digits of the ID of this boot (random(4)); empty if it cannot be read."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""


def _since_boot(ids: Mapping[str, str]) -> float | None:
    """Return when a row of this boot was made, in seconds of CLOCK_MONOTONIC; ``None`` for another boot."""
    milliseconds, _, of = ids.get(UPTIME, "").partition("@")
    number = whole_number(milliseconds)
    return None if number is None or not of or of != boot() else number / 1000
