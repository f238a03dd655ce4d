"""Compare what should be on this host with what is: by the driver if it runs, else by the same code here."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from ovn_docker import settings as table
from ovn_docker.backends.neutron import login
from ovn_docker.backends.neutron.openrc import VIF, vif
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.northbound import Connect, NorthboundConnection
from ovn_docker.backends.ovn.repair.leftovers import Leftovers
from ovn_docker.backends.ovn.repair.lost_host import absent
from ovn_docker.backends.ovn.repair.remake import MissingRows
from ovn_docker.core.driver import Driver, TimeLimits
from ovn_docker.core.protocols import HostSwitch, LeftoverStores, NetworkBackends
from ovn_docker.core.reconcile import Reconciler
from ovn_docker.deadline import Deadline
from ovn_docker.docker.engine import DockerEngine
from ovn_docker.docker.wording import explain
from ovn_docker.errors import OvnDockerError
from ovn_docker.host.driver_socket import order
from ovn_docker.host.environment import environment
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.openvswitch import LocalVswitch, VmBridge, local_database
from ovn_docker.host.ovsdb import Database
from ovn_docker.host.places import find_places
from ovn_docker.model import Chassis, Difference, Kind
from ovn_docker.settings import Common, Settings, UnderlaySettings

GRACE = 60.0
"""Seconds for which what is newer is left alone: without the driver the calls in flight are not known."""

DRIVER_TIMEOUT = 120.0
"""Seconds that the driver may take to compare."""

_DATABASE_TIMEOUT = 10.0
"""Seconds that a database may take."""


def differences(*, repair: bool = False, timeout: float = DRIVER_TIMEOUT) -> list[Difference]:
    """Return the differences on this host, or, with *repair*, those that were repaired.

    Raises OvnDockerError if they cannot be found out.
    """
    places = find_places()
    answer = order("gc/repair" if repair else "gc/show", timeout, places.plugin, places.vswitch)
    if answer is not None:
        return [
            Difference(**{**row, "kind": Kind(row["kind"]), "command": tuple(row.get("command", ()))})
            for row in json.loads(answer)
        ]
    with _reconciler() as reconciler:
        return reconciler.repair_everywhere() if repair else reconciler.all_differences()


@contextmanager
def _reconciler() -> Iterator[Reconciler]:
    """Make the driver's reconciler, without a driver. Raises OvnDockerError."""
    variables = environment(os.environ)
    with closing(local_database()) as local:
        local.knock()
        switch: HostSwitch
        backend: NetworkBackends
        store: LeftoverStores
        settings: Common
        remaker = None
        if variables.get(VIF):
            settings = of_vm = table.read(UnderlaySettings, {}, variables)
            switch = VmBridge(local, of_vm.bridge, vif(variables))
            underlay = login.underlay(of_vm.parent, variables)
            backend = store = lambda _: underlay
        else:
            settings = of_host = table.read(Settings, {}, variables)
            northbound = NorthboundConnection(of_host.tls)
            switch, backend = LocalVswitch(local), Overlay(northbound)
            store = partial(_leftovers, northbound)
            remaker = MissingRows(northbound)
        links = KernelLinks()
        driver = Driver(backend, switch, links, lambda: None, TimeLimits())
        parts = driver, backend, store, switch, links, DockerEngine(settings.docker)
        yield Reconciler(*parts, GRACE, remaker=remaker, explain=explain, alone=False)


def _leftovers(northbound: Connect, chassis: Chassis) -> Leftovers:
    return Leftovers(northbound(chassis), chassis)


def absent_hosts() -> list[str]:
    """Return the hosts that have rows in the northbound database and are not up, as OVN knows them now.

    Empty in the underlay mode, and if a database cannot be read.
    """
    variables = environment(os.environ)
    if variables.get(VIF):
        return []
    with ExitStack() as connections:
        try:
            local = connections.enter_context(closing(local_database()))
            local.knock()
            chassis = LocalVswitch(local).chassis(Deadline(_DATABASE_TIMEOUT))
            northbound = NorthboundConnection(table.read(Settings, {}, variables).tls)
            if not chassis.southbound:
                return []
            hosts = Leftovers(northbound(chassis), chassis).hosts(Deadline(_DATABASE_TIMEOUT))
            southbound = Database("OVN_Southbound", chassis.southbound, tls=northbound(chassis).tls)
            connections.callback(southbound.close)
            return absent(southbound, hosts, Deadline(_DATABASE_TIMEOUT))
        except OvnDockerError:
            return []
