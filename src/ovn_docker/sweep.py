"""Clears what was left behind by endpoints of this host that have no container any more.

Docker does not always say when an endpoint is gone: not after a crash or a reboot, nor what it could
not delete because the plugin or a database was away (docs/architecture.md, "Orphans").
"""

import logging
import threading
import time
from collections.abc import Callable

from ovn_docker.deadline import Deadline
from ovn_docker.driver import Backend, Driver, Links, Switch
from ovn_docker.errors import OvnDockerError
from ovn_docker.metrics import LEFTOVERS, UNCLEARED, Recorder, Unrecorded
from ovn_docker.model import HOST_LINK, Chassis, host_link

log = logging.getLogger(__name__)

_PATIENCE = 30.0
"""Seconds that one look at a database may take; nobody waits for it."""

_SOON = 5.0
"""Seconds until the next look after something failed."""


class Sweeper:
    """Looks at this host every *interval* seconds, and at the backend at the start and after a failed delete.

    For a backend, a look at all its endpoints is a search through a whole table. Thousands of hosts that
    searched it every minute would keep it busy with nothing else.
    """

    def __init__(
        self,
        driver: Driver,
        backend: Backend,
        switch: Switch,
        links: Links,
        interval: float,
        clear_addresses: Callable[[Chassis, Deadline], None] = lambda _, __: None,
        record: Recorder | None = None,
    ) -> None:
        self._record = record or Unrecorded()
        self._driver = driver
        self._backend = backend
        self._switch = switch
        self._links = links
        self._interval = interval
        self._clear_addresses = clear_addresses

    def start(self) -> None:
        """Sweep in a thread of its own, for the life of the process."""
        threading.Thread(target=self._run, name="sweep", daemon=True).start()

    def sweep(self, *, backend_too: bool = True) -> int:
        """Clear the leftovers of this host once, and return how many endpoints they were of.

        What has left a trace on this host is cleared everywhere; *backend_too*: also what has left none.

        Raises OvnDockerError if a database cannot be reached. The order of the looks matters: an endpoint
        is first stored, then linked, then plugged, and all that time in flight; so whoever is seen stored
        or linked, and after that neither in flight nor plugged, has been left behind.
        """
        chassis = self._switch.chassis(Deadline(_PATIENCE))
        stored = self._backend.endpoints(chassis, Deadline(_PATIENCE)) if backend_too else []
        links = self._links.joined(HOST_LINK)
        in_flight = self._driver.in_flight()
        plugged = self._switch.endpoints(Deadline(_PATIENCE))

        joined = self._links.joined(HOST_LINK)
        living = in_flight | {
            endpoint.id
            for endpoint in plugged
            if not endpoint.dead(joined.get(host_link(endpoint.id)), self._interval)
        }
        leftovers = {
            endpoint
            for endpoint in {endpoint.id for endpoint in (*stored, *plugged)} - living
            if host_link(endpoint) in joined or not self._links.exists(host_link(endpoint))
        }
        for endpoint in sorted(leftovers):
            log.warning("clearing endpoint %s, which has no container", endpoint[:12])
            self._driver.remove(endpoint, chassis, Deadline(_PATIENCE))
            self._record.add(LEFTOVERS, "endpoint")
        used = {host_link(endpoint) for endpoint in living | leftovers}
        for link in links:
            if link not in used and joined.get(link) is False:
                log.warning("clearing link %s, which belongs to no endpoint", link)
                self._links.delete(link)
                self._record.add(LEFTOVERS, "link")
        self._driver.delete_unwanted(chassis, Deadline(_PATIENCE))
        if backend_too:
            self._clear_addresses(chassis, Deadline(_PATIENCE))
        return len(leftovers)

    def _run(self) -> None:
        backend_too = True  # whoever was here before us may have left anything
        while True:
            if self._driver.leftovers.is_set():
                backend_too = True
                self._driver.leftovers.clear()
            try:
                self.sweep(backend_too=backend_too)
                backend_too = False
            except OvnDockerError as error:
                log.info("could not look for leftovers, will try again: %s", error)
                self._record.add(UNCLEARED)
                self._driver.leftovers.set()
            except Exception:
                log.exception("looking for leftovers failed")
            if self._driver.leftovers.wait(self._interval):
                time.sleep(min(self._interval, _SOON))  # what was missing may be back in a moment
