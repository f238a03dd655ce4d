"""The barrier between containers and the cluster's services, put up and removed by command."""

import os
import re
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address

from ovn_docker import settings as table
from ovn_docker.cli import setup
from ovn_docker.cli.databases import DATABASES
from ovn_docker.cli.output import say
from ovn_docker.cli.steps import Steps
from ovn_docker.errors import OvnDockerError, Unavailable
from ovn_docker.host import barrier, nameservers, router_guard
from ovn_docker.host.driver import find
from ovn_docker.host.environment import environment
from ovn_docker.host.places import find_places
from ovn_docker.settings import Settings

_WITHOUT_TLS = re.compile(r"ptcp:\d+(?::(.+))?")


def warn_without_tls(targets: Iterable[str]) -> None:
    """Say who can write if a database listens without TLS (ovsdb(7)) on an address that is not loopback."""
    addresses = [match[1] or "all addresses" for one in targets if (match := _WITHOUT_TLS.fullmatch(one))]
    if seen := [one for one in dict.fromkeys(addresses) if not _is_loopback(one)]:
        say(
            f"warning: every machine that reaches ports 6641 and 6642 on {', '.join(seen)} can read and "
            "change all networks; with TLS only those with a certificate: ovn-docker central start "
            "--tls /etc/ovn-docker/tls --rbac (see ovn-docker pki --help)",
            file=sys.stderr,
        )


def put_up(steps: Steps) -> None:
    """Put up the barrier on a machine with Docker, unless it is there: the driver keeps its own.

    With the driver's settings, which may not be installed here. Without nft there is a warning.
    """
    settings = table.read(Settings, {}, environment(os.environ))
    if settings.barrier == "off" or not shutil.which("dockerd"):
        return
    try:
        if barrier.listed():
            return
        steps.note(
            "keep containers from OVN's databases",
            f"nft list table inet {barrier.TABLE}  # to see it",
        )
        if not steps.dry_run:
            ids: dict[str, str] = {}
            with suppress(OvnDockerError):  # a central machine need not have Open vSwitch
                ids = setup.open_vswitch("external_ids")["external_ids"]
            _, metrics = settings.metrics or ("", None)
            barrier.load(barrier.ruleset(barrier.survey(ids, metrics, settings.barrier_open)))
    except Unavailable as error:
        say(f"warning: containers on this machine reach OVN's databases: {error}", file=sys.stderr)


def remove(steps: Steps) -> None:
    """Remove the rules that pass questions for names on, the barrier, and the guard where no link is left.

    Not while there is a driver, which would make them again; and not the barrier and the guard while there
    are databases on this machine.
    """
    if _driver_answers():
        return
    if nameservers.passes_on():
        steps.note("stop passing questions for names on", "iptables -t nat -X OVN-DOCKER-NAMES")
        if not steps.dry_run:
            nameservers.withdraw()
    if any(database.pid() for database in DATABASES):
        return
    with suppress(Unavailable):  # without nft there is none
        if barrier.listed():
            steps.note("remove the barrier", f"nft delete table inet {barrier.TABLE}")
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
