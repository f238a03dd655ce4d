"""Docker's protocol from request to answer: requests that Docker sends, and malformed ones."""

import base64
import json
import logging
import re
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovn_docker.docker.calls import BODY_BYTES, Calls
from ovn_docker.docker.wire import METHODS, Plugin, answer, decode
from ovn_docker.errors import Conflict, OvnDockerError, TimedOut, Unavailable
from ovn_docker.metrics import Tally, Unrecorded
from ovn_docker.model import (
    Endpoint,
    EndpointId,
    IpAddress,
    IpNetwork,
    Joined,
    Network,
    NetworkId,
    Pool,
    PoolId,
    Subnet,
    choose_mac,
)
from ovn_docker.options import OPTIONS, NetworkOptions, is_of_others
from recordings.requests import DOCKER, EP, GENERIC, NET, POOL, RECORDINGS, almost_right, broken, with_pool

ID = re.compile(r"[0-9A-Za-z]{1,64}")
MAC = re.compile("[0-9a-f][02468ace](:[0-9a-f]{2}){5}")


class Ledger:
    """Drivers that record their calls and assert that the arguments are valid."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def note(self, *call: Any) -> None:
        assert all(ID.fullmatch(part.replace("-", "")) for part in call[1:3] if isinstance(part, str))
        self.calls.append(call)

    def create_network(self, network: Network) -> None:
        self.make("create_network", network)

    def allocate_network(self, network: Network) -> None:
        self.make("allocate_network", network)

    def make(self, verb: str, network: Network) -> None:
        assert ID.fullmatch(network.id)
        assert [s.pool.version for s in network.subnets] in ([], [4], [6], [4, 6])
        assert all(s.gateway is None or s.gateway in s.pool for s in network.subnets)
        assert network.internal in (True, False)
        self.note(verb, network)

    def delete_network(self, network: NetworkId) -> None:
        self.note("delete_network", network)

    def free_network(self, network: NetworkId) -> None:
        self.note("free_network", network)

    def create_endpoint(self, endpoint: Endpoint) -> Endpoint:
        assert ID.fullmatch(endpoint.id)
        assert ID.fullmatch(endpoint.network)
        assert [address.version for address in endpoint.addresses] in ([], [4], [6], [4, 6])
        assert endpoint.mac is None or MAC.fullmatch(endpoint.mac)
        self.note("create_endpoint", endpoint)
        return replace(endpoint, mac=endpoint.mac or choose_mac(endpoint))

    def delete_endpoint(self, endpoint: EndpointId) -> None:
        self.note("delete_endpoint", endpoint)

    def join(self, network: NetworkId, endpoint: EndpointId, sandbox: str) -> Joined:
        assert sandbox.isprintable()
        self.note("join", network, endpoint, sandbox)
        return Joined("odc" + endpoint[:12])

    def leave(self, endpoint: EndpointId) -> None:
        self.note("leave", endpoint)

    def endpoint_info(self, endpoint: EndpointId) -> dict[str, str]:
        self.note("endpoint_info", endpoint)
        return {"port": endpoint}

    def request_pool(self, subnet: IpNetwork | None, part: IpNetwork | None, version: int) -> Pool:
        assert subnet is None or subnet.version == version
        assert part is None or subnet is not None
        assert part is None or part.subnet_of(subnet)  # type: ignore[arg-type]
        self.note("request_pool", subnet, part, version)
        return Pool(PoolId(POOL), subnet or ip_network("10.192.7.0/24" if version == 4 else "fd00:7::/64"))

    def release_pool(self, pool: PoolId) -> None:
        assert UUID(pool)
        self.note("release_pool", pool)

    def request_address(
        self, pool_id: PoolId, wanted: IpAddress | None, *, gateway: bool, name: str = ""
    ) -> tuple[IpAddress, int]:
        assert UUID(pool_id)
        assert "%" not in str(wanted), "an address with a zone would be a second name of that address"
        assert gateway in (True, False)
        assert re.fullmatch("([a-zA-Z0-9][a-zA-Z0-9_.-]*)?", name)
        self.note("request_address", pool_id, wanted, gateway)
        return wanted or ip_address("10.3.0.2"), 24

    def release_address(self, pool: PoolId, address: IpAddress) -> None:
        assert UUID(pool)
        assert "%" not in str(address)
        self.note("release_address", pool, address)


class Docker:
    """Make calls as the server does."""

    def __init__(self, scope: Literal["local", "global"] = "local") -> None:
        self.driver = Ledger()
        self.tally = Tally(Unrecorded())
        self.suspected: list[None] = []
        plugin = Plugin(self.driver, self.driver, lambda: scope, suspect=lambda: self.suspected.append(None))
        self._calls = Calls(plugin, self.tally)

    def raw(self, path: str, body: bytes, verb: str = "POST") -> tuple[int, dict[str, Any]]:
        status, answer = self._calls.answer(verb, path, body)
        value = json.loads(answer)
        assert isinstance(value, dict)
        return int(status), value

    def call(self, method: str, request: Any = None) -> tuple[int, dict[str, Any]]:
        body = b"" if request is None else json.dumps(request).encode()
        return self.raw(f"/{method}" if "." in method else f"/NetworkDriver.{method}", body)

    def ok(self, method: str, request: Any = None) -> dict[str, Any]:
        status, answer = self.call(method, request)
        assert status == 200, answer
        assert "Err" not in answer, answer
        return answer

    def refused(self, method: str, request: Any, status: int = 200) -> str:
        """Return the error of a refused request; the driver must not have been called."""
        before = len(self.driver.calls)
        assert self.call(method, request)[0] == status
        answer = self.call(method, request)[1]
        assert set(answer) == {"Err", "Error"}
        assert answer["Err"] == answer["Error"]
        assert len(self.driver.calls) == before
        return str(answer["Err"])


@pytest.fixture
def docker() -> Docker:
    return Docker()


class Away(Ledger):
    """Drivers whose database cannot be reached."""

    def release_pool(self, pool: PoolId) -> None:
        raise Unavailable("away")

    def release_address(self, pool: PoolId, address: IpAddress) -> None:
        raise Unavailable("away")

    def request_pool(self, subnet: IpNetwork | None, part: IpNetwork | None, version: int) -> Pool:
        raise Unavailable("away")

    def request_address(
        self, pool_id: PoolId, wanted: IpAddress | None, *, gateway: bool, name: str = ""
    ) -> tuple[IpAddress, int]:
        raise Unavailable("away")


@pytest.mark.parametrize("method", ["ReleasePool", "ReleaseAddress", "RequestPool", "RequestAddress"])
def test_release_or_request_that_timed_out_causes_a_sweep(method: str) -> None:
    """Docker does not repeat a failed release, and does not release what it did not get."""
    suspected: list[None] = []
    plugin = Plugin(Away(), Away(), suspect=lambda: suspected.append(None))
    body = json.dumps({"PoolID": str(uuid4()), "Address": "10.3.0.2"}).encode()
    path = f"/IpamDriver.{method}"
    with pytest.raises(Unavailable):
        answer(plugin, path, decode(path, body))
    assert suspected == [None]


# Requests of real Docker engines


def why_refused(method: str, request: Any) -> str | None:
    """Return the text that the answer to a recorded request must contain, found without the tested code."""
    if request is None:
        return None if re.search("Activate|GetCapabilities|GetDefault", method) else "empty request"
    if "PoolID" in request:
        return f"unknown PoolID '{request['PoolID']}'"
    given = request.get("Options", {})
    options = (given or {}).get(GENERIC, {})
    unknown = []
    if method == "NetworkDriver.CreateNetwork":
        if len(request["IPv4Data"]) > 1:
            return "2 IPv4 subnets given"
        known = {option.key for option in OPTIONS}
        unknown = [key for key in options if key not in known and not is_of_others(key)]
    if method == "IpamDriver.RequestPool":
        unknown = list(given or {})
    if method == "NetworkDriver.CreateEndpoint":
        unknown = [key for key in given if key.startswith("ovn.") and key != "ovn.router"]
    return f"unknown option '{unknown[0]}'" if unknown else None


def test_recordings_have_every_version_and_every_method() -> None:
    assert {name.partition(":")[0] for name in RECORDINGS} == {
        f"docker-{v}" for v in ("20.10", "26.1", "28.5", "29")
    }
    swarm = {"AllocateNetwork", "FreeNetwork", "DiscoverNew", "DiscoverDelete"}
    recorded = {"/" + recorded["method"] for recorded in RECORDINGS.values()}
    assert recorded == METHODS.keys() - {f"/NetworkDriver.{method}" for method in swarm}


def test_recordings_have_both_accepted_and_refused_requests() -> None:
    words = [why_refused(recorded["method"], recorded["request"]) for recorded in RECORDINGS.values()]
    assert words.count(None) > 150
    for why in ("empty request", "2 IPv4 subnets given", "unknown option 'foo'"):
        assert why in words


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_request_is_answered_as_moby_expects(name: str, docker: Docker) -> None:
    method, request = RECORDINGS[name]["method"], RECORDINGS[name]["request"]
    why = why_refused(method, request)
    status, answer = docker.call(method, request)
    if why is not None:
        assert status == (400 if request is None or "PoolID" in request else 200)
        assert why in answer["Err"]
        assert answer["Error"] == answer["Err"]
        assert not docker.driver.calls
        return
    assert status == 200
    assert answer == expected_answer(method, request)


@pytest.mark.parametrize("name", [name for name in RECORDINGS if re.search("Address$|ReleasePool", name)])
def test_recorded_request_about_a_pool_of_ours_is_answered_as_moby_expects(name: str, docker: Docker) -> None:
    method, request = RECORDINGS[name]["method"], with_pool(RECORDINGS[name]["request"], POOL)
    assert docker.ok(method, request) == expected_answer(method, request)
    ((_, pool, *_),) = docker.driver.calls
    assert pool == POOL


FIXED: dict[str, dict[str, Any]] = {
    "Plugin.Activate": {"Implements": ["NetworkDriver", "IpamDriver"]},
    "NetworkDriver.GetCapabilities": {"Scope": "local", "ConnectivityScope": "global"},
    "NetworkDriver.GwAllocCheck": {"SkipIPv4": False, "SkipIPv6": False},
    "IpamDriver.GetCapabilities": {"RequiresMACAddress": False, "RequiresRequestReplay": False},
    "IpamDriver.GetDefaultAddressSpaces": {
        "LocalDefaultAddressSpace": "openvswitch",
        "GlobalDefaultAddressSpace": "openvswitch",
    },
}


def expected_answer(method: str, request: Any) -> dict[str, Any]:
    """Return the answer that moby expects to a request (drivers/remote/api/api.go)."""
    if method in FIXED:
        return FIXED[method]
    if method.startswith("IpamDriver."):
        return expected_ipam_answer(method.removeprefix("IpamDriver."), request)
    match method.removeprefix("NetworkDriver."):
        case "EndpointOperInfo":
            return {"Value": {"port": request["EndpointID"]}}
        case "Join":
            return {"InterfaceName": {"SrcName": "odc" + request["EndpointID"][:12], "DstPrefix": "eth"}}
        case "CreateEndpoint":
            if request["Interface"]["MacAddress"]:
                return {"Interface": {}}
            if not request["Interface"]["Address"]:
                endpoint = Endpoint(request["EndpointID"], request["NetworkID"])
                if request["Interface"]["AddressIPv6"]:
                    endpoint = replace(
                        endpoint, addresses=(IPv6Interface(request["Interface"]["AddressIPv6"]),)
                    )
                return {"Interface": {"MacAddress": choose_mac(endpoint)}}
            packed = ip_address(request["Interface"]["Address"].partition("/")[0]).packed
            return {"Interface": {"MacAddress": "02:42:" + packed.hex(":")}}
        case _:
            return {}


def expected_ipam_answer(method: str, request: Any) -> dict[str, Any]:
    """Return the answer that moby expects to a request of IPAM (ipams/remote/api/api.go)."""
    match method:
        case "RequestPool":
            picked = "fd00:7::/64" if request["V6"] else "10.192.7.0/24"
            return {"PoolID": POOL, "Pool": request["Pool"] or picked, "Data": {}}
        case "RequestAddress":
            return {"Address": (request["Address"] or "10.3.0.2") + "/24", "Data": {}}
        case _:
            return {}


def recorded_step(words: str, method: str) -> Any:
    """Return the request that a command caused on the newest Docker of the recordings with that command."""
    found = [r["request"] for r in RECORDINGS.values() if words in r["step"] and r["method"].endswith(method)]
    return found[-1]


def test_dual_stack_network_has_both_subnets(docker: Docker) -> None:
    docker.ok("CreateNetwork", recorded_step("--subnet fd02::/64 foo6", "CreateNetwork"))
    ((_, network),) = docker.driver.calls
    assert network.subnets == (
        Subnet(ip_network("10.2.0.0/24"), ip_address("10.2.0.1")),
        Subnet(ip_network("fd02::/64"), ip_address("fd02::1")),
    )
    assert not network.internal


def test_gateway_is_read_beside_range_and_aux_addresses(docker: Docker) -> None:
    docker.ok("CreateNetwork", recorded_step("--gateway 10.2.0.254 --ip-range", "CreateNetwork"))
    ((_, network),) = docker.driver.calls
    assert network.subnets == (Subnet(ip_network("10.2.0.0/24"), ip_address("10.2.0.254")),)


def test_internal_network_is_read(docker: Docker) -> None:
    docker.ok("CreateNetwork", recorded_step("create -d stub --internal", "CreateNetwork"))
    assert docker.driver.calls[0][1].internal


def test_network_without_address_families_has_no_subnets(docker: Docker) -> None:
    docker.ok("CreateNetwork", recorded_step("--ipv4=false --subnet 10.5.0.0/24 n_v4false", "CreateNetwork"))
    assert docker.driver.calls[0][1].subnets == ()


def test_network_of_the_null_ipam_driver_has_no_subnets(docker: Docker) -> None:
    request = recorded_step("--ipam-driver null", "CreateNetwork")
    assert request["IPv4Data"][0]["Pool"] == "0.0.0.0/0"
    docker.ok("CreateNetwork", request)
    assert docker.driver.calls[0][1].subnets == ()


def test_mac_address_that_docker_sends_twice_is_read(docker: Docker) -> None:
    request = recorded_step("--mac-address 02:11:22:33:44:55", "CreateEndpoint")
    encoded = request["Options"][DOCKER + "endpoint.macaddress"]
    assert docker.ok("CreateEndpoint", request) == {"Interface": {}}
    ((_, endpoint),) = docker.driver.calls
    assert endpoint.mac == "02:11:22:33:44:55" == base64.b64decode(encoded).hex(":")
    assert endpoint.addresses == (IPv4Interface("10.2.0.50/24"), IPv6Interface("fd02::50/64"))


# Requests that are not in the recordings


def test_scope_is_determined_when_docker_asks() -> None:
    assert Docker("global").ok("GetCapabilities")["Scope"] == "global"


def test_flat_options_and_null_lists_of_a_swarm_manager_are_accepted(docker: Docker) -> None:
    options = {DOCKER + "driver.mtu": "1400"}
    pool = {"AddressSpace": "", "Gateway": "10.5.0.254/24", "Pool": "10.5.0.0/24"}
    request = {
        "NetworkID": "0a1b2c3d4e5f6g7h8i9jklmno",
        "Options": options,
        "IPv4Data": [pool],
        "IPv6Data": None,
    }
    assert docker.ok("AllocateNetwork", request) == {"Options": options}
    ((verb, network),) = docker.driver.calls
    assert verb == "allocate_network"
    assert network == Network(
        NetworkId("0a1b2c3d4e5f6g7h8i9jklmno"),
        (Subnet(ip_network("10.5.0.0/24"), ip_address("10.5.0.254")),),
        options=NetworkOptions(mtu=1400),
    )
    assert docker.ok("FreeNetwork", {"NetworkID": network.id}) == {}
    assert docker.driver.calls[1] == ("free_network", network.id)


def test_request_of_a_swarm_manager_may_be_all_null(docker: Docker) -> None:
    request = {"NetworkID": NET, "Options": None, "IPv4Data": None, "IPv6Data": None}
    assert docker.ok("AllocateNetwork", request) == {"Options": {}}
    assert "unknown option 'k'" in docker.refused("AllocateNetwork", request | {"Options": {"k": "v"}})


def test_lease_of_a_swarm_manager_is_refused(docker: Docker) -> None:
    """A node would lease the same address again."""
    request = {"PoolID": "0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f", "Address": ""}
    options = {"com.docker.network.ipam.serial": "true", "RequestAddressType": "com.docker.network.gateway"}
    said = docker.refused("IpamDriver.RequestAddress", request | {"Options": options})
    assert said == "swarm needs Docker's own IPAM driver: leave out --ipam-driver"


def test_discovery_of_swarm_nodes_is_answered(docker: Docker) -> None:
    node = {
        "DiscoveryType": 1,
        "DiscoveryData": {"Address": "192.0.2.1", "BindAddress": "192.0.2.1", "Self": True},
    }
    for method in ("DiscoverNew", "DiscoverDelete"):
        assert docker.ok(method, node) == {}
        assert "`$.DiscoveryType`" in docker.refused(method, {"DiscoveryType": "1"}, status=400)


def test_null_is_empty_and_unknown_members_are_ignored(docker: Docker) -> None:
    docker.ok(
        "CreateNetwork",
        {
            "NetworkID": NET,
            "Options": {GENERIC: None, "x": [1]},
            "IPv4Data": None,
            "IPv6Data": None,
            "New": {},
        },
    )
    docker.ok("CreateNetwork", {"NetworkID": NET, "Options": None})
    docker.ok("CreateEndpoint", {"NetworkID": NET, "EndpointID": EP, "Interface": None, "Options": None})
    docker.ok("Join", {"NetworkID": NET, "EndpointID": EP, "SandboxKey": "/x", "Options": None})
    assert docker.driver.calls[:2] == [("create_network", Network(NetworkId(NET)))] * 2
    assert docker.driver.calls[2][1] == Endpoint(EndpointId(EP), NetworkId(NET))


@pytest.mark.parametrize("method", ["Plugin.Activate", "GetCapabilities", "GwAllocCheck"])
def test_fixed_answers_do_not_depend_on_the_body(method: str, docker: Docker) -> None:
    for body in (b"", b"{}", b"null", b"\xff"):
        assert docker.raw(f"/{method}" if "." in method else f"/NetworkDriver.{method}", body)[0] == 200


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"IPv4Data": [{"Pool": "10.1.0.5/24"}]}, "Pool '10.1.0.5/24' has host bits set: give 10.1.0.0/24"),
        ({"IPv4Data": [{"Pool": "10.1.0.0"}]}, "Pool '10.1.0.0' is not an IPv4 address with a prefix length"),
        ({"IPv4Data": [{"Pool": "10.1.0.0/33"}]}, "'10.1.0.0/33' is not an IPv4"),
        ({"IPv4Data": [{"Pool": "10.1.0.0/255.255.255.0"}]}, "'10.1.0.0/255.255.255.0' is not an IPv4"),
        ({"IPv4Data": [{"Pool": "fd00::/64"}]}, "'fd00::/64' is not an IPv4"),
        ({"IPv6Data": [{"Pool": "10.1.0.0/24"}]}, "'10.1.0.0/24' is not an IPv6"),
        ({"IPv6Data": [{"Pool": "fe80::%eth0/64"}]}, "'fe80::%eth0/64' is not an IPv6"),
        ({"IPv4Data": [{"Pool": "224.0.0.0/24"}]}, "'224.0.0.0/24' is not a unicast address"),
        ({"IPv4Data": [{"Pool": "127.0.0.0/8"}]}, "'127.0.0.0/8' is not a unicast address"),
        (
            {"IPv4Data": [{"Pool": "10.1.0.0/24", "Gateway": "10.2.0.1/24"}]},
            "Gateway 10.2.0.1 is not in the subnet 10.1.0.0/24",
        ),
        ({"IPv4Data": [{"Pool": "10.1.0.0/24", "Gateway": "router"}]}, "Gateway 'router' is not an IPv4"),
        ({"IPv6Data": [{"Pool": "fd00::/64", "Gateway": "10.1.0.1"}]}, "'10.1.0.1' is not an IPv6"),
        (
            {"IPv6Data": [{"Pool": "fd00::/64"}, {"Pool": "fd01::/64"}]},
            "2 IPv6 subnets given (fd00::/64, fd01::/64): a network takes one of each IP version",
        ),
        ({"Options": {GENERIC: {"ovn.swich": "x"}}}, "did you mean ovn.switch?"),
        ({"Options": {GENERIC: {DOCKER + "driver.mtu": 12}}}, "give a number of bytes from 68 to 65535"),
    ],
)
def test_invalid_network_is_refused_with_the_reason(data: dict[str, Any], words: str, docker: Docker) -> None:
    assert words in docker.refused("CreateNetwork", {"NetworkID": NET} | data)


@pytest.mark.parametrize("gateway", ["10.1.0.9", "10.1.0.9/24", "10.1.0.9/32"])
def test_gateway_is_read_with_and_without_a_mask(gateway: str, docker: Docker) -> None:
    docker.ok("CreateNetwork", {"NetworkID": NET, "IPv4Data": [{"Pool": "10.1.0.0/24", "Gateway": gateway}]})
    assert docker.driver.calls[0][1].subnets[0].gateway == ip_address("10.1.0.9")


@pytest.mark.parametrize("absent", [{}, {"Gateway": ""}])
def test_gateway_may_be_absent(absent: dict[str, str], docker: Docker) -> None:
    docker.ok("CreateNetwork", {"NetworkID": NET, "IPv4Data": [{"Pool": "10.1.0.0/24", **absent}]})
    assert docker.driver.calls[0][1].subnets == (Subnet(ip_network("10.1.0.0/24")),)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"Interface": {"Address": "10.1.0.2"}},
            "Address '10.1.0.2' is not an IPv4 address with a prefix length",
        ),
        ({"Interface": {"AddressIPv6": "10.1.0.2/24"}}, "AddressIPv6 '10.1.0.2/24' is not an IPv6"),
        ({"Interface": {"Address": "0.0.0.0/24"}}, "is not a unicast address"),
        ({"Interface": {"MacAddress": "02:11:22:33:44"}}, "MacAddress '02:11:22:33:44' is not six bytes"),
        ({"Interface": {"MacAddress": "01:11:22:33:44:55"}}, "'01:11:22:33:44:55' is not a unicast address"),
        ({"Interface": {"MacAddress": "00:00:00:00:00:00"}}, "is not a unicast address"),
        ({"Interface": {"MacAddress": "ff:ff:ff:ff:ff:ff"}}, "is not a unicast address"),
        ({"Options": {"ovn.routers": "any"}}, "unknown option 'ovn.routers': did you mean ovn.router?"),
        ({"Options": {"ovn.router": "yes"}}, "option ovn.router='yes' is not valid: give true or false"),
        ({"Interface": {"MacAddress": "0E:42:0a:00:00:01"}}, "needs --driver-opt ovn.router=true"),
        (
            {"Options": {"ovn.router": "true"}, "Interface": {"MacAddress": "02:42:0a:00:00:01"}},
            "02:42:0a:00:00:01 does not; leave out --mac-address",
        ),
    ],
)
def test_invalid_endpoint_is_refused_with_the_reason(
    given: dict[str, Any], words: str, docker: Docker
) -> None:
    assert words in docker.refused("CreateEndpoint", {"NetworkID": NET, "EndpointID": EP} | given)


@pytest.mark.parametrize("mac", ["02:AA:bb:00:11:22", "02-aa-BB-00-11-22"])
def test_mac_is_put_in_lower_case_with_colons(mac: str, docker: Docker) -> None:
    docker.ok("CreateEndpoint", {"NetworkID": NET, "EndpointID": EP, "Interface": {"MacAddress": mac}})
    assert docker.driver.calls[0][1].mac == "02:aa:bb:00:11:22"


@pytest.mark.parametrize("sandbox", ["", "netns", "/var/run\nvm-id=x"])
def test_sandbox_must_be_a_path_on_one_line(sandbox: str, docker: Docker) -> None:
    request = {"NetworkID": NET, "EndpointID": EP, "SandboxKey": sandbox}
    assert "is not a path" in docker.refused("Join", request)


@pytest.mark.parametrize(
    "bad", ["", "a b", "../x", "é", "a\n", "x" * 65, "x" * 100_000, "१", "a\0", "a;b", "[]"]
)
def test_ids_are_letters_and_digits(bad: str, docker: Docker) -> None:
    words = "is not 1 to 64 letters and digits"
    assert f"NetworkID {bad!r} {words}"[:80] in docker.refused("DeleteNetwork", {"NetworkID": bad}, 400)
    for method in (
        "DeleteEndpoint",
        "Leave",
        "EndpointOperInfo",
        "RevokeExternalConnectivity",
        "CreateEndpoint",
    ):
        assert words in docker.refused(method, {"NetworkID": NET, "EndpointID": bad}, 400)
    assert words in docker.refused("Join", {"NetworkID": bad, "EndpointID": EP, "SandboxKey": "/x"}, 400)


@pytest.mark.parametrize(
    ("method", "request_", "place"),
    [
        ("CreateNetwork", {"NetworkID": 5}, "`$.NetworkID`"),
        ("CreateNetwork", {"NetworkID": NET, "IPv4Data": [{"Pool": 7}]}, "`$.IPv4Data[0].Pool`"),
        (
            "CreateNetwork",
            {"NetworkID": NET, "IPv4Data": [{"AuxAddresses": {"a": 1}}]},
            "`$.IPv4Data[0].AuxAddresses[...]`",
        ),
        ("CreateNetwork", {"NetworkID": NET, "Options": {GENERIC: []}}, GENERIC),
        ("CreateNetwork", {"NetworkID": NET, "Options": {DOCKER + "internal": "yes"}}, DOCKER + "internal"),
        (
            "CreateEndpoint",
            {"NetworkID": NET, "EndpointID": EP, "Interface": {"Address": None}},
            "`$.Interface.Address`",
        ),
        ("CreateEndpoint", {"NetworkID": NET}, "`EndpointID`"),
        ("Join", {"NetworkID": NET, "EndpointID": EP}, "`SandboxKey`"),
        ("AllocateNetwork", {"NetworkID": NET, "Options": {"k": 1}}, "`$.Options[...]`"),
    ],
)
def test_wrong_type_is_refused_with_its_json_path(
    method: str, request_: Any, place: str, docker: Docker
) -> None:
    assert place in docker.refused(method, request_, status=400)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"/Plugin.Activate"}))
def test_retry_with_an_empty_body_is_never_taken_for_a_request(method: str, docker: Docker) -> None:
    if METHODS[method][0] is METHODS["/Plugin.Activate"][0]:
        return
    status, answer = docker.raw(method, b"")
    assert status == 400
    assert answer["Err"].startswith("empty request (retry of a broken call)")
    assert docker.suspected == [None]  # it may have been a DeleteEndpoint, which Docker does not repeat


def test_too_large_request_is_refused(docker: Docker) -> None:
    status, answer = docker.raw("/NetworkDriver.DeleteNetwork", b" " * (BODY_BYTES + 1))
    assert status == 413
    assert answer["Err"] == answer["Error"]
    padding = b" " * (BODY_BYTES - 200)
    assert docker.raw("/NetworkDriver.DeleteNetwork", padding + json.dumps({"NetworkID": NET}).encode()) == (
        200,
        {},
    )


def test_huge_values_are_truncated_in_messages(docker: Docker) -> None:
    huge = "z" * 500_000
    for method, request in (
        ("DeleteNetwork", {"NetworkID": huge}),
        ("CreateNetwork", {"NetworkID": NET, "Options": {GENERIC: {huge: huge}}}),
        ("CreateNetwork", {"NetworkID": NET, "Options": {GENERIC: {DOCKER + "driver.mtu": huge}}}),
        ("CreateNetwork", {"NetworkID": NET, "IPv4Data": [{"Pool": huge}]}),
        ("CreateNetwork", {"NetworkID": NET, "IPv4Data": [{"Pool": f"10.{n}.0.0/16"} for n in range(200)]}),
        ("CreateEndpoint", {"NetworkID": NET, "EndpointID": EP, "Options": {"ovn." + huge: huge}}),
        ("CreateEndpoint", {"NetworkID": NET, "EndpointID": EP, "Interface": {"MacAddress": huge}}),
        ("Join", {"NetworkID": NET, "EndpointID": EP, "SandboxKey": huge}),
        (huge, {}),
    ):
        assert len(docker.call(method, request)[1]["Err"]) < 300


def test_other_spellings_of_an_address_are_refused(docker: Docker) -> None:
    for address in ("fd00::2%eth0", "10.3.0.2/24", "10.3.0.02", "x" * 500):
        for method in ("RequestAddress", "ReleaseAddress"):
            answer = docker.refused(f"IpamDriver.{method}", {"PoolID": POOL, "Address": address})
            assert "is not an IP address" in answer
            assert len(answer) < 120


@pytest.mark.parametrize(
    ("pool", "part", "meant"),
    [
        ("10.3.0.5/16", "10.3.7.9/24", ("10.3.0.0/16", "10.3.7.0/24")),
        ("2001:389::1/64", "2001:389::1/96", ("2001:389::/64", "2001:389::/96")),
    ],
)
def test_host_bits_of_a_requested_pool_are_ignored(
    pool: str, part: str, meant: tuple[str, str], docker: Docker
) -> None:
    """Docker 20.10 passes the user's text on, and its own IPAM driver ignores host bits."""
    request = {"Pool": pool, "SubPool": part, "V6": ":" in pool}
    assert docker.call("IpamDriver.RequestPool", request)[1]["Pool"] == meant[0]
    subnet, range_ = map(ip_network, meant)
    assert docker.driver.calls == [("request_pool", subnet, range_, subnet.version)]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"Pool": "10.3.0.0/24", "V6": True}, "Pool '10.3.0.0/24' is not an IPv6"),
        ({"Pool": "fd00::/64"}, "Pool 'fd00::/64' is not an IPv4"),
        ({"Pool": "0.0.0.0/0"}, "is not a unicast address"),
        (
            {"Pool": "10.3.0.0/24", "SubPool": "10.4.0.0/26"},
            "10.4.0.0/26 is not within the subnet 10.3.0.0/24",
        ),
        (
            {"Pool": "10.3.0.0/24", "SubPool": "10.0.0.0/8"},
            "10.0.0.0/8 is not within the subnet 10.3.0.0/24",
        ),
        ({"SubPool": "10.3.0.0/26"}, "10.3.0.0/26 is not within the subnet (not given)"),
        ({"Options": {"foo": "bar"}}, "unknown option 'foo': known options: none; give options"),
    ],
)
def test_invalid_pool_is_refused_with_the_reason(request_: Any, words: str, docker: Docker) -> None:
    assert words in docker.refused("IpamDriver.RequestPool", request_)


# Errors and the log


@pytest.mark.parametrize(
    "error", [Conflict("address 10.1.0.2 is in use"), TimedOut("gave up"), OvnDockerError()]
)
def test_error_of_the_driver_reaches_the_user_under_both_keys(
    error: OvnDockerError, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(docker.driver, "delete_network", fail)
    status, answer = docker.call("DeleteNetwork", {"NetworkID": NET})
    assert status == 200
    assert answer["Err"] == answer["Error"] == (str(error) or "OvnDockerError()")


def test_traceback_of_a_bug_is_logged_and_not_sent_to_docker(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(docker.driver, "delete_network", lambda _: dict[str, str]()["secret"])
    status, answer = docker.call("DeleteNetwork", {"NetworkID": NET})
    assert status == 500
    assert answer["Err"] == answer["Error"]
    assert answer["Err"].startswith("internal error (KeyError): see the log")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


def test_answer_that_cannot_be_encoded_is_an_internal_error(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker.driver, "endpoint_info", lambda *_: {"file": "\udcff"})
    assert docker.call("EndpointOperInfo", {"NetworkID": NET, "EndpointID": EP})[0] == 500

    def fail(*_: object) -> None:
        raise Conflict("cannot read \udcff")

    monkeypatch.setattr(docker.driver, "endpoint_info", fail)
    answer = docker.call("EndpointOperInfo", {"NetworkID": NET, "EndpointID": EP})
    assert answer == (200, {"Err": "cannot read \\udcff", "Error": "cannot read \\udcff"})


def test_each_call_is_one_line_in_the_log(docker: Docker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ovn_docker.plugin")
    docker.ok("Leave", {"NetworkID": NET, "EndpointID": EP})
    docker.call("CreateNetwork", {"NetworkID": NET, "Options": {GENERIC: {"fo\no": "bar"}}})
    docker.raw("/x\ny", b"")
    leave, create, unknown = caplog.messages
    assert re.fullmatch(
        f"NetworkDriver.Leave request=[0-9a-f]{{8}} network={NET[:12]} endpoint={EP[:12]} ok [0-9.]+ ms",
        leave,
    )
    assert f"network={NET[:12]} endpoint=- 200: unknown option 'fo\\no'" in create
    assert re.match(r"x\\ny request=[0-9a-f]{8} network=- endpoint=- 404: ", unknown)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "WARNING"]


# Malformed requests


def check(path: str, body: bytes, verb: str = "POST") -> None:
    docker = Docker()
    status, answer = docker.raw(path, body, verb)
    assert status in {200, 400, 404, 405, 413}
    if status != 200 or "Err" in answer:
        assert set(answer) == {"Err", "Error"}
        assert answer["Err"] == answer["Error"] != ""
        assert len(answer["Err"]) < 1500
        assert "\n" not in answer["Err"]
        assert "Traceback" not in answer["Err"]
        assert docker.driver.calls == []
    else:
        assert len(docker.driver.calls) <= 1


@settings(max_examples=300)
@given(almost_right())
def test_request_with_wrong_values_gets_a_valid_answer(sent: tuple[str, Any]) -> None:
    check(sent[0], json.dumps(sent[1]).encode())


@settings(max_examples=300)
@given(broken())
@example(("/NetworkDriver.CreateNetwork", b'{"NetworkID":"a","Options":{"x":' + b"[" * 100_000))
@example(("/NetworkDriver.CreateNetwork", b'{"NetworkID":"\\ud800"}'))
@example(("/NetworkDriver.CreateNetwork", b'{"NetworkID":"\xff"}'))
@example(("/NetworkDriver.DiscoverNew", b'{"DiscoveryType":' + b"9" * 100_000 + b"}"))
@example(("/NetworkDriver.DiscoverNew", b'{"DiscoveryType":1e999}'))
@example(("/NetworkDriver.CreateNetwork", b'{"NetworkID":"a","NetworkID":"b"}'))
def test_body_that_is_not_json_gets_a_valid_answer(sent: tuple[str, bytes]) -> None:
    check(*sent)


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(METHODS)) | st.text().map(lambda text: "/" + text) | st.just(""),
    st.sampled_from(["POST", "GET", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "X"]),
    st.binary(max_size=20) | st.just(b" " * (BODY_BYTES + 1)),
)
def test_any_path_and_verb_get_a_valid_answer(path: str, verb: str, body: bytes) -> None:
    check(path, body, verb)


def test_wrong_verb_is_405_and_unknown_path_404(docker: Docker) -> None:
    assert docker.raw("/NetworkDriver.Join", b"", "GET")[0] == 405
    assert docker.raw("/NetworkDriver.Nope", b"", "GET")[0] == 404
    assert docker.raw("/NetworkDriver.Nope", b"{}")[0] == 404
    assert docker.raw("/IpamDriver.Nope", b"{}")[0] == 404


def test_calls_except_activate_are_counted() -> None:
    docker = Docker()
    docker.ok("Plugin.Activate")
    docker.ok("GetCapabilities")
    docker.raw("/nosuch", b"")
    assert (docker.tally.requests, docker.tally.errors) == (2, 1)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"com.docker.network.endpoint.name": "web_1.a-b"}, "web_1.a-b"),
        ({"com.docker.network.endpoint.name": "a\nb"}, ""),
        ({"com.docker.network.endpoint.name": "a" * 256}, ""),
        ({"com.docker.network.endpoint.name": "../x"}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_container_name_of_an_address_request_is_read_if_valid(
    options: dict[str, str] | None, name: str
) -> None:
    body = json.dumps({"PoolID": POOL, "Address": "", "Options": options}).encode()
    request = decode("/IpamDriver.RequestAddress", body)
    assert request.container() == name  # type: ignore[attr-defined]
