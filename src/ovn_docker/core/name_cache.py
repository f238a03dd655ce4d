"""Names of networks and containers for the log: Docker's calls carry only IDs. Pure."""

import threading

_ROOM = 4096
"""Names that are kept; the oldest is dropped first. 1 MiB, and more than a host has containers."""


class Directory:
    """Names of networks by their IDs, and of containers by their endpoints' IDs; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}

    def learn(self, id_: str, name: str) -> None:
        """Store the name of an ID, replacing an earlier one. Ignore an empty ID (a stopped endpoint)."""
        if not id_:
            return
        with self._lock:
            self._names.pop(id_, None)
            self._names[id_] = name
            if len(self._names) > _ROOM:
                del self._names[next(iter(self._names))]

    def name(self, id_: str) -> str:
        """Return the name of an ID, "" if it is unknown."""
        return self._names.get(id_, "")
