"""Scenarios of other projects with our driver and Docker's bridge: equal, or as in docs/compatibility.md.

The default suite runs them on Docker 20.10, `make test-engines` on the newer engines.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from e2e.compat import scenarios
from e2e.compat.scenarios import SCENARIOS, Scenario
from e2e.compat.side import Driver, Json, Side
from e2e.lab import Fabric, Host

PAGE = Path(__file__).parents[3] / "docs" / "compatibility.md"
SUBNETS = ip_network("10.128.0.0/9").subnets(new_prefix=20)
BRIDGE = Driver("bridge")
IPAM_DRIVERS = ("default", "openvswitch")
ENGINES = ("20.10", "26.1", "28.5")


@dataclass(frozen=True)
class Difference:
    """A result of a scenario that differs from the bridge's, and the row of the page that documents it."""

    row: str
    scenario: str
    label: str
    bridge: Json
    ours: Json
    ipam: tuple[str, ...] = IPAM_DRIVERS
    engines: tuple[str, ...] = ENGINES


IPAM = {"ipam": ("openvswitch",)}
"""Differences with our IPAM driver only."""

OLD, NEW = {"engines": ("20.10",)}, {"engines": ("26.1", "28.5")}


def differs(
    row: str, scenario: Scenario, labels: dict[str, tuple[Json, Json]], **where: tuple[str, ...]
) -> list[Difference]:
    """Return the differences of one row in one scenario; *labels*: the bridge's and our result by label."""
    return [Difference(row, scenario.__name__, label, *both, **where) for label, both in labels.items()]


REFUSED = scenarios.invalid_networks_are_refused
OF_PLUGINS = (403, 500)
OF_CONTAINERS = (
    *("of another container", "of another container, IPv6"),
    *("of the gateway", "of the network", "of all"),
)

DIFFERENCES = (
    *differs(
        "Gateway of an endpoint",
        scenarios.a_container_is_connected_and_disconnected,
        {"its gateway": ("10.20.0.1", "")},
    ),
    *differs(
        "Address of the gateway", scenarios.networks_are_isolated, {"the gateway answers": (True, False)}
    ),
    *differs(
        "Interfaces",
        scenarios.networks_are_isolated,
        {
            "interfaces": (["eth0", "lo"], ["eth0", "eth1", "lo"]),
            "routes": (["default", "10.20.0.0/24"], ["default", "10.20.0.0/24", "docker_gwbridge"]),
        },
    ),
    *differs(
        "Internal network",
        scenarios.an_internal_network_has_no_way_out,
        {
            "outside is unreachable": (False, True),
            "routes": (["default", "10.20.0.0/24"], ["10.20.0.0/24"]),
        },
        **OLD,
    ),
    *differs("Name of an interface", scenarios.settings_of_an_interface, {"name": (1, 0)}, engines=("28.5",)),
    *differs(
        "Status of an error",
        scenarios.addresses_are_fixed,
        dict.fromkeys(OF_CONTAINERS, ("start: 403", "start: 500")),
        **IPAM,
    ),
    *differs("Status of an error", REFUSED, {"two subnets": OF_PLUGINS}),
    *differs(
        "Status of an error",
        REFUSED,
        {"two gateways": OF_PLUGINS, "two subnets that overlap": OF_PLUGINS},
        **IPAM,
    ),
    *differs("Multicast as a subnet", REFUSED, {"multicast": (0, 500)}),
    *differs("`--ipam-driver null`", REFUSED, {"a container without addresses": (None, "")}),
    *differs("`--ipam-driver null`", REFUSED, {"no addresses": (500, 0)}, **OLD),
    *differs("`--ipam-driver null`", REFUSED, {"no addresses": (400, 0)}, **NEW),
    *differs("Subnet picked", scenarios.subnets_are_picked, {"prefix length": (16, 24)}, **IPAM),
    *differs(
        "IPv6 subnet picked",
        REFUSED,
        {"EnableIPv6 without IPv6 subnet": (404, 0)},
        **IPAM,
        engines=("20.10", "26.1"),
    ),
    *differs("`--ipam-opt`", REFUSED, {"option of the driver of addresses": (0, 500)}, **IPAM),
    *differs(
        "Subnet of another network",
        REFUSED,
        {"subnet within another network's": (403, 0), "subnet around another network's": (403, 0)},
        **IPAM,
    ),
    *differs(
        "`--ip-range` outside of the subnet",
        REFUSED,
        {"range outside of the subnet": (0, 500)},
        **IPAM,
        **OLD,
    ),
    *differs("Subnets /31 and /32", REFUSED, {"subnet /31": (500, 0), "subnet /32": (500, 0)}, **IPAM, **OLD),
    *differs(
        "First address of `--ip-range`",
        scenarios.addresses_are_assigned_in_order,
        {"in turn": (["10.20.0.9", "10.20.0.11", "10.20.0.12"], ["10.20.0.8", "10.20.0.9", "10.20.0.11"])},
        **IPAM,
    ),
    *differs(
        "Own name in /etc/hosts",
        scenarios.files_of_a_container,
        {
            "addresses of its own name": (
                ["10.20.0.2", "2001:db8:1234::1"],
                ["::ffff:10.20.0.2", "2001:db8:1234::1"],
            )
        },
        **IPAM,
        engines=("28.5",),
    ),
)


@pytest.fixture(scope="module")
def host(engine_fabric: Fabric, engine: str) -> Host:
    """A host with the driver, on which Docker has made docker_gwbridge."""
    (host,) = engine_fabric.cluster("host1", engine=engine)
    host.driver.start()
    with Side(host, Driver("openvswitch"), SUBNETS) as side:
        side.network("first")
        side.run("first", "first")
    return host


@pytest.fixture(scope="module")
def with_bridge(host: Host) -> Callable[[Scenario], dict[str, Json]]:
    """A function that returns the results of a scenario with the bridge, where each scenario runs once."""
    seen: dict[str, dict[str, Json]] = {}

    def run(scenario: Scenario) -> dict[str, Json]:
        if scenario.__name__ not in seen:
            with Side(host, BRIDGE, SUBNETS) as side:
                scenario(side)
            seen[scenario.__name__] = side.seen
        return seen[scenario.__name__]

    return run


@pytest.mark.parametrize("ipam", IPAM_DRIVERS)
def test_rows_are_created_and_deleted_with_networks_and_endpoints(host: Host, ipam: str) -> None:
    """kuryr-libnetwork has such tests for resources of Neutron."""

    def rows() -> tuple[list[str], list[str], int]:
        switches = host.run("ovn-nbctl", "--bare", "--columns=name", "list", "Logical_Switch").split()
        ports = host.run("ovn-nbctl", "--bare", "--columns=name", "list", "Logical_Switch_Port").split()
        others = host.run("ovn-nbctl", "--bare", "--columns=_uuid", "list", "DHCP_Options").split()
        return sorted(switches), ports, len(others)

    pool = {"Subnet": "10.11.0.0/16", "IPRange": "10.11.0.0/24", "Gateway": "10.11.0.1"}
    with Side(host, BRIDGE, SUBNETS) as others, Side(host, Driver("openvswitch", ipam), SUBNETS) as side:
        others.network("bridged")
        others.run("box", "bridged")
        assert rows() == ([], [], 0)
        networks = sorted((side.network("one", pool), side.network("two", {"Subnet": "10.12.0.0/16"})))
        _, _, before = rows()
        assert rows() == (networks, [], before)
        side.connect("one", "box")
        endpoint = side.endpoint("box", "one")["EndpointID"]
        switches, ports, during = rows()
        assert (switches, ports) == (networks, [endpoint])
        assert during > before
        addresses = host.run("ovn-nbctl", "lsp-get-addresses", endpoint)
        assert addresses.split()[1] == side.address("box", "one")
        side.disconnect("one", "box")
        assert rows()[:2] == (networks, [])
        side.remove("two")
        assert rows()[0] == [side.inspect("one")["Id"]]
    assert rows() == ([], [], 0)


@pytest.mark.parametrize("ipam", IPAM_DRIVERS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario_equals_the_bridge_or_differs_as_documented(
    host: Host,
    with_bridge: Callable[[Scenario], dict[str, Json]],
    engine: str,
    scenario: Scenario,
    ipam: str,
) -> None:
    if scenario is scenarios.dockerd_is_killed and engine == "20.10":
        pytest.skip("test_docker_killed.py has it")
    expected = with_bridge(scenario)
    with Side(host, Driver("openvswitch", ipam), SUBNETS) as side:
        scenario(side)
    wanted = dict(expected)
    for difference in DIFFERENCES:
        if (
            difference.scenario == scenario.__name__
            and ipam in difference.ipam
            and engine in difference.engines
        ):
            assert expected.get(difference.label) == difference.bridge, difference.label
            wanted[difference.label] = difference.ours
    labels = wanted.keys() | side.seen.keys()
    results = {label: (wanted.get(label), side.seen.get(label)) for label in labels}
    assert {label: both for label, both in results.items() if both[0] != both[1]} == {}
    if (
        scenario is not scenarios.invalid_networks_are_refused
    ):  # Docker 20.10 keeps the pools of refused networks
        for table in ("Logical_Switch", "Logical_Switch_Port", "DHCP_Options"):
            assert host.run("ovn-nbctl", "--bare", "--columns=_uuid", "list", table) == ""


def test_each_documented_difference_is_tested() -> None:
    documented = re.findall(r"^\| (?!Subject)(.+?) \|", PAGE.read_text(), re.MULTILINE)
    assert set(documented) == {difference.row for difference in DIFFERENCES}
