"""Steps that put up and remove the barrier between containers and the cluster's services."""

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

from ovn_docker import settings as table
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.host import barrier, nameservers
from ovn_docker.host.driver_socket import find
from ovn_docker.host.environment import environment
from ovn_docker.host.kernel import router_guard
from ovn_docker.host.places import find_places
from ovn_docker.settings import Settings
from ovn_docker.setup.databases import DATABASES
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.vswitch_row import read_external_ids

_WITHOUT_TLS = re.compile(r"ptcp:\d+(?::(.+))?")


def warn_without_tls(steps: Steps, targets: Iterable[str]) -> None:
    """Warn if a database listens without TLS (ovsdb(7)) on an address other than loopback."""
    addresses = [match[1] or "all addresses" for one in targets if (match := _WITHOUT_TLS.fullmatch(one))]
    if seen := [one for one in dict.fromkeys(addresses) if not _is_loopback(one)]:
        steps.advise(
            f"warning: every machine that reaches ports 6641 and 6642 on {', '.join(seen)} can read and "
            "change all networks; with TLS only those with a certificate: ovn-docker central start "
            "--tls /etc/ovn-docker/tls --rbac (see ovn-docker pki --help)"
        )


def put_up_barrier(steps: Steps) -> None:
    """Put up the barrier on a machine with Docker, unless it is up; where the driver runs, it keeps it up.

    The settings are those of the driver, even if it is not installed here. Without nft there is a warning.
    """
    settings = table.read(Settings, {}, environment(os.environ))
    if settings.barrier == "off" or not shutil.which("dockerd"):
        return
    try:
        if barrier.listed():
            return
        steps.show(
            "keep containers from OVN's databases",
            f"nft list table inet {barrier.TABLE}  # to see it",
        )
        if not steps.dry_run:
            ids: dict[str, str] = {}
            with suppress(OvnDockerError):  # a central machine need not have Open vSwitch
                ids = read_external_ids()
            _, metrics = settings.metrics or ("", None)
            barrier.load(barrier.ruleset(barrier.survey(ids, metrics, settings.barrier_open)))
    except Unavailable as error:
        steps.advise(f"warning: containers on this machine reach OVN's databases: {error}")


def remove_barrier(steps: Steps) -> None:
    """Remove the driver's rules: those that forward name queries, the barrier, and an unused guard.

    All stay while a driver runs, which would make them again. The barrier and the guard also stay if this
    machine has databases.
    """
    if _driver_answers():
        return
    if nameservers.passes_on():
        steps.show("stop forwarding name queries", "iptables -t nat -X OVN-DOCKER-NAMES")
        if not steps.dry_run:
            nameservers.withdraw()
    if any(database.pid() for database in DATABASES):
        return
    with suppress(Unavailable):  # without nft there is no barrier
        if barrier.listed():
            steps.show("remove the barrier", f"nft delete table inet {barrier.TABLE}")
            if not steps.dry_run:
                barrier.remove()
    if not steps.dry_run:
        router_guard.remove_unused()


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def _driver_answers() -> bool:
    try:
        places = find_places()
        find(places.plugin, places.vswitch)
    except Unavailable:
        return False
    return True
