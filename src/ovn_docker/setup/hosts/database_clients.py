"""Connections of the tool to OVN's two databases, with the settings of this host."""

import os

from ovn_docker import settings as table
from ovn_docker.backends.ovn.northbound import NorthboundConnection
from ovn_docker.errors import Unavailable
from ovn_docker.host.environment import environment
from ovn_docker.host.ovsdb import Database
from ovn_docker.model import Tls
from ovn_docker.settings import Settings
from ovn_docker.setup.vswitch_row import read_external_ids

_CURE = "start it on that host with: ovn-docker central start, or give --force"


def northbound_database() -> NorthboundConnection:
    """Return the northbound database, with the TLS files of the driver's settings if they have any."""
    return NorthboundConnection(table.read(Settings, {}, environment(os.environ)).tls)


def southbound_database(tls: Tls | None) -> Database:
    """Return a connection to the southbound database, at the addresses that ovn-controller uses.

    Raises:
        Unavailable: the host has not been set up.

    """
    remotes = [remote.strip() for remote in read_external_ids().get("ovn-remote", "").split(",")]
    if not any(remotes):
        raise Unavailable(
            "the Open_vSwitch database does not have ovn-remote; run `ovn-docker host setup`, or give --force"
        )
    return Database("OVN_Southbound", remotes, _CURE, tls)
