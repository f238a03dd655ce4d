"""The units that the tool starts and looks up are those that are installed."""

from pathlib import Path

from ovn_docker.host.places import _SOCKET_UNITS
from ovn_docker.setup.hosts.host_services import DRIVER_UNITS

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"


def test_units_that_the_tool_names_are_installed() -> None:
    assert {*DRIVER_UNITS, *_SOCKET_UNITS} <= {unit.name for unit in UNITS.iterdir()}
