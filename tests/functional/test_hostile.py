"""Malformed requests to the whole driver, with real databases and links: they leave nothing incomplete."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings

from functional.conftest import Connect, MakeServer
from functional.ovsdb_servers import OvsdbServer
from ovn_docker.backends.ovn.networks.addresses import Addresses
from ovn_docker.backends.ovn.networks.overlay import Overlay
from ovn_docker.core.driver import Driver, TimeLimits
from ovn_docker.core.ipam import Ipam
from ovn_docker.docker.calls import Calls
from ovn_docker.docker.wire import METHODS, Plugin
from ovn_docker.host.kernel.links import KernelLinks
from ovn_docker.host.openvswitch import LocalVswitch
from ovn_docker.host.ovsdb import Reference, insert
from ovn_docker.model import row_uuid
from ovn_docker.supply import parse_supplies
from recordings.requests import POOL, REQUESTS, almost_right

SUPPLIES = parse_supplies("10.192.0.0/12:24")
BRIDGE, ROOT = row_uuid("test", "bridge"), row_uuid("test", "root")


class Host:
    """The driver on real databases; only ovs-vswitchd's answer to a new port is simulated."""

    def __init__(self, northbound: OvsdbServer, vswitch: OvsdbServer, connect: Connect) -> None:
        self.northbound, self.vswitch = northbound, vswitch
        ids = {"system-id": "hv1", "ovn-nb": northbound.remote, "ovn-encap-ip": "127.0.0.1"}
        vswitch.transact(
            insert("Bridge", BRIDGE, name="br-int", datapath_type="netdev"),
            insert("Open_vSwitch", ROOT, bridges=Reference(BRIDGE), external_ids=ids),
        )
        database = connect(northbound)
        switch = LocalVswitch(connect(vswitch))
        driver = Driver(
            Overlay(lambda _: database), switch, KernelLinks(), lambda: None, TimeLimits(flows=0.1)
        )
        ipam = Ipam(
            Addresses(lambda _: database),
            switch.chassis,
            KernelLinks().routes,
            SUPPLIES,
            driver.active_endpoints,
            10,
        )
        self._calls = Calls(Plugin(driver, ipam))
        self._ended = threading.Event()
        self._vswitchd = threading.Thread(target=self._take_up)
        self._vswitchd.start()

    def call(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Make a call; return the HTTP status and the answer."""
        status, answer = self._calls.answer("POST", path, body)
        return int(status), json.loads(answer)

    def end(self) -> None:
        self._ended.set()
        self._vswitchd.join()

    def _take_up(self) -> None:
        new = {
            "op": "update",
            "table": "Interface",
            "where": [["ofport", "==", ["set", []]]],
            "row": {"ofport": 1},
        }
        while not self._ended.is_set():
            self.vswitch.transact(new)
            time.sleep(0.002)


@pytest.fixture
def host(make_server: MakeServer, connect: Connect, network_namespace: None) -> Iterator[Host]:
    host = Host(make_server("OVN_Northbound"), make_server("Open_vSwitch"), connect)
    yield host
    host.end()


def consistent(host: Host) -> None:
    """Assert that each port has a switch, its claims and an interface, and that each claim has a port."""
    contents = host.northbound.contents()
    ports = contents.get("Logical_Switch_Port", [])
    held = {port for switch in contents.get("Logical_Switch", []) for port in _list(switch["ports"])}
    assert held == {port["_uuid"] for port in ports}
    wanted = sorted(
        (port["external_ids"]["ovn-docker:endpoint"], address)
        for port in ports
        for address in port["addresses"].split()
    )
    claims = [row for row in contents.get("DHCP_Options", []) if "ovn-docker:endpoint" in row["external_ids"]]
    assert sorted((row["external_ids"]["ovn-docker:endpoint"], row["cidr"]) for row in claims) == wanted
    plugged = {
        row["external_ids"]["ovn-docker:endpoint"]
        for row in host.vswitch.contents().get("Interface", [])
        if "ovn-docker:endpoint" in row["external_ids"]
    }
    # Leave unplugs the interface; DeleteEndpoint deletes the port later.
    assert plugged <= {endpoint for endpoint, _ in wanted}
    assert KernelLinks().joined("odh").keys() == {f"odh{endpoint[:12]}" for endpoint in plugged}


def _list(column: Any) -> list[str]:
    return column if isinstance(column, list) else [column]


def ipam_network(host: Host) -> str:
    """Create a network with our IPAM; return the ID of its pool."""
    wanted = {"AddressSpace": "openvswitch", "Pool": "10.3.0.0/24"}
    _, answer = host.call("/IpamDriver.RequestPool", json.dumps(wanted).encode())
    network = {"NetworkID": "1" * 64, "IPv4Data": [{**wanted, "Gateway": "10.3.0.1/24"}]}
    assert host.call("/NetworkDriver.CreateNetwork", json.dumps(network).encode())[1] == {}
    return str(answer["PoolID"])


@pytest.mark.slow
def test_databases_stay_consistent_after_any_request(host: Host) -> None:
    done: set[str] = set()
    for request in REQUESTS["/NetworkDriver.CreateEndpoint"]:
        network = {"NetworkID": request["NetworkID"], "Options": {}, "IPv4Data": [], "IPv6Data": None}
        host.call("/NetworkDriver.CreateNetwork", json.dumps(network).encode())
        host.call("/NetworkDriver.CreateEndpoint", json.dumps(request).encode())
    pool = ipam_network(host)

    @settings(max_examples=400, database=None)
    @given(almost_right())
    def send(sent: tuple[str, Any]) -> None:
        path, request = sent
        body = json.dumps(request).replace(POOL, pool).encode()
        status, answer = host.call(path, body)
        assert status in {200, 400, 404, 405, 413}
        if status == 200 and "Err" not in answer:
            done.add(path)

    send()
    consistent(host)
    assert any(path.startswith("/IpamDriver.") for path in done)
    assert len(done) > len(METHODS) / 3, "almost every request was refused before it reached the driver"
