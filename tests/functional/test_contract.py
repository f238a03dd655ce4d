"""The contract of a backend, tested with the overlay mode on a real northbound database."""

from ipaddress import ip_address
from typing import Any

import pytest

from functional.backend_contract import BackendContract, Stored
from functional.conftest import Connect
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.backends.ovn.rows import QUIET_TABLE
from ovn_docker.core.ipam import Ipam
from ovn_docker.model import Chassis
from ovn_docker.supply import Supply


def host(name: str) -> Chassis:
    return Chassis(name, (), (ip_address("10.0.0.1"),), ("geneve",), "br-int", "system")


class TestOverlay(BackendContract):
    @pytest.fixture
    def stored(self, northbound: OvsdbServer, connect: Connect) -> Stored:
        connection = connect(northbound)
        overlay = Overlay(lambda _: connection)
        here, supplies = host("host1"), tuple[Supply, ...]()
        ipam = Ipam(Addresses(lambda _: connection), lambda _: here, list, supplies, lambda _, __: (), 10)
        return Stored(overlay(here), here, overlay(host("host2")), ipam, northbound.contents)

    def without_traces(self, state: Any) -> Any:
        """The generation stays: it is for all shared networks."""
        rest = {table: rows for table, rows in state.items() if table != QUIET_TABLE}
        return {**rest, "DHCP_Options": [row for row in state.get("DHCP_Options", []) if row["cidr"]]}

    def without_resting_addresses(self, state: Any) -> Any:
        """The row of a released lease stays for a while."""
        rests = [row for row in state["DHCP_Options"] if "ovn-docker:released" not in row["external_ids"]]
        return {**state, "DHCP_Options": rests}
