"""Clears what was left behind by endpoints of this host that have no container any more.

Docker does not always say when an endpoint is gone: not after a crash or a reboot, nor what it could
not delete because the plugin or a database was away (docs/architecture.md, "Orphans").
"""

import logging
import threading
import time

from ovn_docker.deadline import Deadline
from ovn_docker.driver import Backend, Driver, Links, Switch
from ovn_docker.errors import OvnDockerError
from ovn_docker.model import HOST_LINK, host_link

log = logging.getLogger(__name__)

_PATIENCE = 30.0
"""Seconds that one look at a database may take; nobody waits for it."""

_SOON = 5.0
"""Seconds until the next look after something failed."""


class Sweeper:
    """Looks at the start, every *interval* seconds, and soon after a delete that failed."""

    def __init__(
        self, driver: Driver, backend: Backend, switch: Switch, links: Links, interval: float
    ) -> None:
        self._driver = driver
        self._backend = backend
        self._switch = switch
        self._links = links
        self._interval = interval

    def start(self) -> None:
        """Sweep in a thread of its own, for the life of the process."""
        threading.Thread(target=self._run, name="sweep", daemon=True).start()

    def sweep(self) -> int:
        """Clear the leftovers of this host once, and return how many endpoints they were of.

        Raises OvnDockerError if a database cannot be reached. The order of the looks matters: an endpoint
        is first stored, then linked, then plugged, and all that time in flight; so whoever is seen stored
        or linked, and after that neither in flight nor plugged, has been left behind.
        """
        chassis = self._switch.chassis(Deadline(_PATIENCE))
        stored = self._backend.endpoints(chassis, Deadline(_PATIENCE))
        links = self._links.joined(HOST_LINK)
        in_flight = self._driver.in_flight()
        plugged = self._switch.endpoints(Deadline(_PATIENCE))

        joined = self._links.joined(HOST_LINK)
        living = in_flight | {
            endpoint.id
            for endpoint in plugged
            if not endpoint.dead(joined.get(host_link(endpoint.id)), self._interval)
        }
        leftovers = {endpoint.id for endpoint in (*stored, *plugged)} - living
        for endpoint in sorted(leftovers):
            log.warning("clearing endpoint %s, which has no container", endpoint[:12])
            self._driver.remove(endpoint, chassis, Deadline(_PATIENCE))
        used = {host_link(endpoint) for endpoint in living | leftovers}
        for link in links:
            if link not in used and joined.get(link) is False:
                log.warning("clearing link %s, which belongs to no endpoint", link)
                self._links.delete(link)
        return len(leftovers)

    def _run(self) -> None:
        while True:
            self._driver.leftovers.clear()
            pause = self._interval
            try:
                self.sweep()
            except OvnDockerError as error:
                log.info("could not look for leftovers, will try again: %s", error)
                pause = min(pause, _SOON)
            except Exception:
                log.exception("looking for leftovers failed")
            if self._driver.leftovers.wait(pause):
                # A delete has just failed: give what it needed a moment to come back.
                time.sleep(min(self._interval, _SOON))
