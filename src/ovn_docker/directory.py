"""Names that passed by, for the reader of a log: Docker's calls to us carry only IDs. Pure."""

import threading

_ROOM = 16384
"""Names that are kept; the oldest goes first."""


class Directory:
    """Names of networks, and of containers by their endpoints' IDs; safe for use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}

    def learn(self, id_: str, name: str) -> None:
        """Keep a name; a later one replaces it. Ignore an empty ID, as of a stopped endpoint."""
        if not id_:
            return
        with self._lock:
            self._names.pop(id_, None)
            self._names[id_] = name
            if len(self._names) > _ROOM:
                del self._names[next(iter(self._names))]

    def name(self, id_: str) -> str:
        """The name of an ID; empty if it is not known (yet)."""
        return self._names.get(id_, "")
