"""Rates of traffic from counters that are read again and again. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

_UNCHANGED = 6.0
"""Seconds after which equal counters are a measurement: ovs-vswitchd brings all of them up to date every five
seconds (ovs-vswitchd.conf.db(5), other_config:stats-update-interval), so equal ones are usually old ones."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes in a second: *sent* by a container, or by this host into a tunnel, and *received* there."""

    sent: float = 0.0
    received: float = 0.0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.sent + other.sent, self.received + other.received)


Counters = Mapping[str, tuple[int, int]]
"""Bytes sent and received until now, by a key such as an endpoint's ID."""


class Rates:
    """The rates between the last two measurements; call add() with each reading."""

    def __init__(self) -> None:
        self._at = 0.0
        self._counters: Counters | None = None
        self._rates: dict[str, Traffic] = {}

    def add(self, at: float, counters: Counters) -> None:
        """Take the *counters* that were read at a time, in seconds of a steady clock."""
        before, seconds = self._counters, at - self._at
        if before is None:
            self._at, self._counters = at, dict(counters)
            return
        same = all(before.get(key, value) == value for key, value in counters.items())
        if seconds <= 0 or (same and seconds < _UNCHANGED):
            return
        self._rates = {
            key: Traffic((sent - before[key][0]) / seconds, (received - before[key][1]) / seconds)
            for key, (sent, received) in counters.items()
            # A counter that is lower than before is a new one of a new port.
            if key in before and sent >= before[key][0] and received >= before[key][1]
        }
        self._at, self._counters = at, dict(counters)

    def of(self, key: str) -> Traffic | None:
        """Return the rates of a key; ``None`` before its second measurement."""
        return self._rates.get(key)
