"""The message of an error: facts first, then what a user of Docker can do."""

import ast
import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

import ovn_docker
from ovn_docker import errors
from ovn_docker.docker.wording import explain
from ovn_docker.errors import (
    AddressesExhausted,
    AddressInUse,
    AddressReserved,
    AllowedToAll,
    BadRequest,
    BeingCreated,
    DatabaseUnreachable,
    EndpointNotFound,
    FlowsLate,
    ForeignNetwork,
    NetworkNotFound,
    OtherMtu,
    OtherSettings,
    OtherSubnets,
    OvnDockerError,
    PoolInvalid,
    PoolNotBound,
    PoolNotFound,
    PoolNotRequested,
    StillRemoved,
    SubnetRefused,
    SubnetsExhausted,
    SubnetThere,
    SwitchNotUnique,
)

SUBNET = ip_network("10.1.0.0/24")
HOLDER = "endpoint c1c1c1c1c1c1 on host host1"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            AddressInUse("10.1.0.2", HOLDER),
            (
                f"address 10.1.0.2 is in use by {HOLDER}; choose another with --ip or --mac-address, or"
                " create the network with --ipam-driver openvswitch, or with another --ip-range on "
                "each host"
            ),
        ),
        (
            AddressInUse("10.1.0.2", HOLDER, leasing=True),
            f"address 10.1.0.2 is in use by {HOLDER}; choose another with --ip, or leave --ip out",
        ),
        (
            AddressInUse("10.1.0.2", HOLDER, allowed=True),
            f"address 10.1.0.2 is an allowed address of {HOLDER}; choose another with --ip or --mac-address",
        ),
        (
            AddressInUse("10.1.0.2", HOLDER, asked=True),
            f"allowed address 10.1.0.2 is the own address of {HOLDER}; leave it out",
        ),
        (
            AddressReserved(ip_address("10.1.0.1")),
            "address 10.1.0.1 is reserved for the gateway or by --aux-address; choose another",
        ),
        (
            AddressesExhausted(SUBNET, usable=True),
            (
                "no free address in 10.1.0.0/24; remove containers, or create the network with a "
                "larger --subnet or --ip-range"
            ),
        ),
        (
            AddressesExhausted(ip_network("10.1.0.0/32"), usable=False),
            (
                "10.1.0.0/32 has no address for a container: the gateway and --aux-address take all of"
                " it; create the network with a larger --subnet or --ip-range"
            ),
        ),
        (
            SubnetsExhausted(6, ()),
            "no free IPv6 subnet in no supply; give --subnet, or --address-pools",
        ),
        (
            NetworkNotFound("n" * 64, "Neutron"),
            (
                "network nnnnnnnnnnnn is not in Neutron; it was deleted there or made elsewhere; "
                "remove it with docker network rm and create it again"
            ),
        ),
        (
            PoolNotFound("p1", "Neutron"),
            (
                "pool p1 is not in Neutron; it was deleted there or made elsewhere; remove its network"
                " and create it again"
            ),
        ),
        (
            PoolNotRequested(SUBNET),
            "no pool 10.1.0.0/24 was requested for the network; create the network again",
        ),
        (
            EndpointNotFound("e" * 64),
            "Open vSwitch has no port for the endpoint eeeeeeeeeeee; start the container again",
        ),
        (
            SwitchNotUnique("a b", 0),
            "no logical switch 'a b'; make it with: ovn-nbctl ls-add 'a b', or leave ovn.switch out",
        ),
        (
            SwitchNotUnique("web", 2),
            "2 logical switches are named 'web'; give the UUID of one, see: ovn-nbctl ls-list",
        ),
        (
            SubnetRefused("its subnet 10.1.0.0/24 overlaps docker0"),
            (
                "this host cannot have the network: its subnet 10.1.0.0/24 overlaps docker0; give another"
                " --subnet"
            ),
        ),
        (
            AllowedToAll("10.1.0.100"),
            (
                "allowed address 10.1.0.100 of the network cannot be a container's own; choose another with"
                " --ip or --mac-address, or create the network with an --ip-range without it"
            ),
        ),
        (
            BeingCreated("foo"),
            "network with name foo already exists: this host is creating it; see docker network ls",
        ),
        (
            ForeignNetwork("web", "Neutron"),
            (
                "Neutron has a network web that ovn-docker did not make here; attach to it with"
                " -o ovn.switch=web, or give ovn.network another name"
            ),
        ),
        (
            OtherSettings("foo", "mtu", "1400", "none"),
            (
                "network foo has mtu 1400 in the cluster, asked for was none; create it as it is there, or"
                " give it another name"
            ),
        ),
        (
            StillRemoved("foo", "mtu", "1400", "none"),
            (
                "network foo has mtu 1400 in the cluster, asked for was none: it has been removed, but a host"
                " has not given it up yet; create it again in a moment, or see which host that is with:"
                " ovn-docker inspect foo"
            ),
        ),
        (
            OtherMtu("web", 1442, 1400, "Neutron"),
            (
                "network web has MTU 1442 in Neutron, not the requested 1400; create it with"
                " -o com.docker.network.driver.mtu=1442"
            ),
        ),
        (
            OtherSubnets("switch web has others", [(SubnetThere("10.1.0.0/16", ""),)]),
            "switch web has others; create the network with --subnet=10.1.0.0/16",
        ),
        (
            OtherSubnets(
                "web has others",
                [(SubnetThere("10.1.0.0/16", "10.1.0.1"),), (SubnetThere("fd00::/64", ""),)],
            ),
            (
                "web has others; create the network with --subnet=10.1.0.0/16 --gateway=10.1.0.1 or"
                " --ipv6 --subnet=fd00::/64"
            ),
        ),
        (
            OtherSubnets("web has no subnets", []),
            "web has no subnets; create the network with --ipam-driver null and without --subnet",
        ),
        (
            PoolInvalid("p1", "has 5000 reserved addresses, at most 4096 are allowed"),
            (
                "pool p1 has 5000 reserved addresses, at most 4096 are allowed; remove its network and create"
                " it again"
            ),
        ),
        (BadRequest("MTU 9000 is too large: give at most 1442"), "MTU 9000 is too large: give at most 1442"),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, OvnDockerError) else "",
)
def test_message_has_facts_and_cure(error: OvnDockerError, message: str) -> None:
    assert explain(error) == message


def test_pool_without_network_names_both_reasons() -> None:
    message = explain(PoolNotBound(SUBNET))
    assert message.startswith("pool 10.1.0.0/24 belongs to no network of the driver 'openvswitch'; ")
    assert "only for networks with -d openvswitch" in message
    assert "try again in a second" in message


DOCKERS_WORDS = re.compile(
    r"\bdocker (network|run|restart|start|stop|rm)\b|"
    r"(?<![\w-])--(subnet|gateway|ip|ip-range|ipv6|ipam-driver|aux-address|mac-address|address-pools)\b|"
    r"-o (ovn|com)\.|\bcreate it (again|as|with)\b"
)


def test_core_and_backends_do_not_word_cures_for_docker() -> None:
    """Their errors have facts; the front end words what its user can do."""
    wrong = [
        f"{path.name}:{node.lineno}: {node.value!r}"
        for folder in ("core", "backends")
        for path in sorted((Path(ovn_docker.__file__).parent / folder).rglob("*.py"))
        if path.name != "openrc.py"  # has commands of OpenStack, whose options have these names, too
        for node in _texts(ast.parse(path.read_text()))
        if DOCKERS_WORDS.search(node.value)
    ]
    assert wrong == []


def _texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the string constants that are not docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_message_is_one_line() -> None:
    late = FlowsLate("e" * 64, "n" * 64, 10.0, "ovn-controller has not installed its flows")
    away = DatabaseUnreachable("OVN_Northbound", ["tcp:10.0.0.1:6641: refused"], "start it")
    for error in (late, away):
        assert explain(error) == str(error)
        assert "\n" not in str(error)


def test_every_error_has_the_label_of_its_kind() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    labels = {kind.__name__: kind.label for kind in kinds if issubclass(kind, OvnDockerError)}
    assert labels["FlowsLate"] == labels["TimedOut"] == "timed_out"
    assert labels["DatabaseUnreachable"] == labels["Unavailable"] == "unavailable"
    assert labels["AddressInUse"] == "address_in_use"
    assert labels["PoolNotFound"] == labels["NotFound"] == "not_found"
    assert labels["AddressReserved"] == labels["PoolNotBound"] == labels["Conflict"] == "conflict"
