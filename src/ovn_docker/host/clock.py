"""How long ago a row was made: by a clock that nobody sets, where this machine has made it since its boot.

The clock on the wall may be set at any moment, by NTP or by hand, by years on a machine that had lost it.
"""

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ovn_docker.model import whole_number

CREATED = "ovn-docker:created"
"""On rows: when it was made, in seconds of the epoch; on pools in nanoseconds."""

UPTIME = "ovn-docker:uptime"
"""On rows: the same in milliseconds of CLOCK_MONOTONIC, and the boot that these count from: ``MS@BOOT``.

That clock stands still while the machine is suspended (clock_gettime(2)), as Docker and the driver do.
"""

_SKEW = 600.0
"""Seconds that a row may lie in the future because clocks differ; one further off says nothing."""


def made_now() -> dict[str, str]:
    """Return external_ids of a row that is made now."""
    return {CREATED: str(int(time.time())), UPTIME: f"{int(time.monotonic() * 1000)}@{boot()}"}


def age(ids: Mapping[str, str]) -> float:
    """Seconds since a row was made, by its external_ids; infinite if they do not say, never negative.

    A row that another boot or machine has made is as old as the clock on the wall says. If that is before
    this boot and the row lies in the future, it is as old as this boot: it was made by a wrong clock.
    """
    if (made := _since_boot(ids)) is not None:
        return max(0.0, time.monotonic() - made)
    created = whole_number(ids.get(CREATED, ""))
    if created is None:
        return float("inf")
    seconds = time.time() - (created / 1e9 if created > 1e15 else created)
    return time.monotonic() if seconds < -_SKEW else max(0.0, seconds)


def order(ids: Mapping[str, str]) -> tuple[float, int]:
    """Key that sorts rows of this machine by when they were made: those of this boot are the newest."""
    made = _since_boot(ids)
    return -1.0 if made is None else made, whole_number(ids.get(CREATED, "")) or 0


@cache
def boot() -> str:
    """The beginning of the ID of this boot (random(4)); empty if it cannot be read."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""


def _since_boot(ids: Mapping[str, str]) -> float | None:
    """When a row of this boot was made, in seconds of CLOCK_MONOTONIC; ``None`` if it is of another one."""
    milliseconds, _, of = ids.get(UPTIME, "").partition("@")
    number = whole_number(milliseconds)
    return None if number is None or not of or of != boot() else number / 1000
