"""The units that the tool starts and looks up are those that are installed."""

import re
from pathlib import Path

import pytest

from ovn_docker.host.distribution import DISTRIBUTIONS, Distribution
from ovn_docker.host.places import _SOCKET_UNITS
from ovn_docker.setup.hosts.host_services import DRIVER_UNITS

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"


def test_units_that_the_tool_names_are_installed() -> None:
    assert {*DRIVER_UNITS, *_SOCKET_UNITS} <= {unit.name for unit in UNITS.iterdir()}


@pytest.mark.parametrize("known", DISTRIBUTIONS, ids=lambda known: known.install[0])
@pytest.mark.parametrize("mode", ["overlay", "underlay"])
def test_driver_starts_after_the_units_of_each_distribution(known: Distribution, mode: str) -> None:
    text = (UNITS / f"ovn-docker-{mode}.service").read_text()
    wanted, after = (
        {unit for line in re.findall(rf"^{key}=(.*)", text, re.MULTILINE) for unit in line.split()}
        for key in ("Wants", "After")
    )
    before = {known.vswitch, known.controller[0]} if mode == "overlay" else {known.vswitch}
    assert {f"{unit}.service" for unit in before} <= wanted & after
    if mode == "overlay":
        assert {f"{unit}.service" for unit in known.databases.values()} <= after
