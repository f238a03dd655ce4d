"""Every command of `ovn-docker`, with hostile names in the databases and in Docker."""

import json
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from functional.docker_api import Api
from functional.machine import Machine
from ovn_docker.deadline import Deadline
from ovn_docker.host import ovsdb
from ovn_docker.host.ovsdb import Database, Reference
from ovn_docker.model import row_uuid
from unit.test_printable import HOSTILE

pytestmark = pytest.mark.slow

NAMES = [name for what, name in HOSTILE.items() if what != "half a surrogate"]
"""The names that a database accepts."""

MARK = "FORGED"
LINES = [f"x\n{MARK} {number}" for number in range(2)] + [f"x\r{MARK}", f"x\u2028{MARK}", f"x\x85{MARK}"]
ALL = [*NAMES, *LINES]

NET, HERE = "ad" * 32, "c0" * 32
CONTAINER = "cc" * 32
SWITCH = row_uuid("network", NET)


def docker(path: str) -> Any:
    """Return the reply to a path of Docker's API: one network, and containers with all names."""
    network = {
        "Id": NET,
        "Name": ALL[1],
        "Driver": "openvswitch",
        "IPAM": {"Config": [{"Subnet": "192.168.1.0/24"}]},
        "Options": {"ovn.network": ALL[0]},
    }
    if path.startswith("/networks"):
        return [network, {"Id": "1", "Name": "none"}, {"Id": "2", "Name": "host"}]
    if path.startswith("/containers/json"):
        return [
            {
                "Id": f"{number:02x}" * 32,
                "Names": [f"/{name}"],
                "State": "running",
                "NetworkSettings": {
                    "Networks": {
                        name: {
                            "NetworkID": NET,
                            "EndpointID": f"{number:02x}" * 32,
                            "IPAddress": f"192.168.1.{number}",
                            "MacAddress": f"02:00:00:00:00:{number:02x}",
                        }
                    }
                },
            }
            for number, name in enumerate([*ALL, "web"], 1)
        ]
    return {"/version": {"Version": "20.10\x1b[2J"}, "/info": {"Swarm": {}}}.get(path)


def rows(machine_database: Database, *operations: ovsdb.Operation) -> None:
    machine_database.transact(*operations, deadline=Deadline(20))


def fill_northbound(database: Database) -> None:
    """Insert ports with a host and a container of each name, on the network and on such switches."""
    owner = {"ovn-docker:owner": "overlay"}
    rows(
        database,
        ovsdb.insert("Logical_Switch", SWITCH, name=ALL[0], external_ids={
            **owner, "ovn-docker:network": NET, "ovn-docker:host": "here", "subnet": ALL[1]}),
    )  # fmt: skip
    for number, name in enumerate([*ALL, "web"], 1):
        id_ = f"{number:02x}" * 32
        port, other = row_uuid("endpoint", id_), row_uuid("shared network", name)
        ids = {
            **owner,
            "ovn-docker:host": "here" if name == "web" else name,
            "ovn-docker:network": NET,
            "ovn-docker:endpoint": id_,
            "ovn-docker:container": name,
            "ovn-docker:switch": SWITCH,
            "ovn-docker:created": name,
        }
        names = {"1.1.168.192.in-addr.arpa": f"{name}.foo", f"{name}": "192.168.1.1"}
        rows(
            database,
            ovsdb.insert("Logical_Switch_Port", port, name=id_, external_ids=ids,
                         addresses=f"02:00:00:00:00:{number:02x} 192.168.1.{number}"),
            ovsdb.mutate("Logical_Switch", ovsdb.is_row(SWITCH),
                         mutations=[["ports", "insert", [Reference(port)]]]),
            ovsdb.insert("DNS", row_uuid("names", id_), records=names, external_ids=ids),
            ovsdb.insert("DHCP_Options", row_uuid("claim", name), cidr=name,
                         external_ids={**ids, "ovn-docker:host": "here", "ovn-docker:endpoint": name}),
            ovsdb.insert("DHCP_Options", row_uuid("attached network", name), cidr="", external_ids={
                **ids, "ovn-docker:host": "here", "ovn-docker:network": name, "ovn-docker:note": "true",
                "ovn-docker:switch": other, "ovn-docker:name": name, "ovn-docker:created": "1"}),
            ovsdb.insert("Logical_Switch", other, name=name, external_ids={
                **owner, "ovn-docker:shared": "true", "ovn-docker:name": name,
                "ovn-docker:definition": '{"Driver": "' + name + '"}', "subnet": name}),
        )  # fmt: skip
    ids = {**owner, "ovn-docker:host": "here", "ovn-docker:switch": "garbage", "ovn-docker:endpoint": "x"}
    rows(
        database,
        ovsdb.insert("Logical_Switch_Port", row_uuid("endpoint", "x"), name="x", external_ids=ids),
        ovsdb.mutate("Logical_Switch", ovsdb.is_row(SWITCH),
                     mutations=[["ports", "insert", [Reference(row_uuid("endpoint", "x"))]]]),
    )  # fmt: skip


def fill_southbound(database: Database) -> None:
    for number, name in enumerate(ALL[:1], 1):
        encap, chassis = row_uuid("encap", name), row_uuid("chassis", name)
        rows(
            database,
            ovsdb.insert("Encap", encap, type="geneve", ip=f"10.0.0.{number}", chassis_name=name),
            ovsdb.insert("Chassis", chassis, name=name, hostname=name, encaps=Reference(encap)),
        )


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A host that is the central machine, too, with a simulated Docker and without ovn-controller."""
    machine = Machine()
    machine.out("/usr/share/openvswitch/scripts/ovs-ctl", "--no-ovs-vswitchd", "start", "--system-id=here")
    machine.output("central", "start", "--address", "127.0.0.1")
    ids = ("ovn-nb=tcp:127.0.0.1:6641", "ovn-remote=tcp:127.0.0.1:6642", "ovn-encap-ip=127.0.0.1")
    machine.out("ovs-vsctl", "--no-wait", "set", "Open_vSwitch", ".", *(f"external_ids:{one}" for one in ids))
    root = f"/proc/{machine.pid}/root"
    for name, fill in (("OVN_Northbound", fill_northbound), ("OVN_Southbound", fill_southbound)):
        socket = "ovnnb_db" if fill is fill_northbound else "ovnsb_db"
        database = Database(name, [f"unix:{root}/run/ovn/{socket}.sock"])
        fill(database)
        database.close()
    api = Api(Path(f"{root}/run/docker.sock"), docker)
    yield machine
    api.close()
    machine.close()


FIRST, SECOND = "01" * 6, "02" * 6
COMMANDS = [
    *("status", "ls networks", "ls endpoints", "inspect web", f"inspect {FIRST}", "doctor --all", "gc"),
    *(f"trace --detail web {SECOND}", f"trace nobody {FIRST}", "tcpdump nobody", "tcpdump web"),
    *("graph --format svg", "graph --format html", "graph --format dot"),
    *("central status", "host status", "host forget nobody --dry-run"),
]


def check(done: subprocess.CompletedProcess[str], *, what: str = "") -> None:
    """Check that the output has no control characters and no line that comes from a name."""
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    for line in said.split("\n"):
        assert line.isprintable(), (what, line)
        assert not line.lstrip().startswith(MARK), (what, line)


@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_names_are_printed_as_text(machine: Machine, command: str) -> None:
    done = machine.ovn_docker(*command.split())
    assert done.stdout + done.stderr
    check(done)


@pytest.mark.parametrize("what", ["escape", "line", "right to left", "option", "quotes"])
def test_commands_accept_hostile_names_and_quote_them(machine: Machine, what: str) -> None:
    for command in (("inspect",), ("host", "forget", "--dry-run"), ("tcpdump",)):
        check(machine.ovn_docker(*command, "--", HOSTILE[what]), what=what)


def test_a_row_with_an_invalid_switch_does_not_hide_the_database(machine: Machine) -> None:
    """The server would refuse a whole transaction with an invalid UUID."""
    results = json.loads(machine.ovn_docker("doctor", "--json").stdout)
    assert {one["name"]: one["status"] for one in results}["northbound"] == "ok"


def test_the_command_that_gc_offers_names_exactly_one_host(machine: Machine) -> None:
    """The southbound database has the first host only; so the others are not up."""
    said = machine.ovn_docker("gc").stdout.splitlines()
    cures = [line.partition("gone for good: ")[2] for line in said if "gone for good: " in line]
    assert len(cures) > len(ALL) - 2
    for cure in cures:
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {cure}"], check=True, capture_output=True
        ).stdout.decode()
        program, gc, *host, end = words.split("\0")
        assert (program, gc, end) == ("ovn-docker", "gc", "")
        assert host[-1].removeprefix("--host=") in {*ALL, "here"}


def test_pictures_are_well_formed_and_contain_no_script_from_a_name(machine: Machine) -> None:
    tree = ET.fromstring(machine.ovn_docker("graph", "--format", "svg").stdout)
    assert not [one for one in tree.iter() if one.tag.endswith("script")]
    scripts = []

    class Scripts(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            scripts.extend([tag] if tag == "script" else [])
            assert not [key for key, _ in attrs if key.startswith("on")]

    Scripts().feed(machine.ovn_docker("graph", "--format", "html").stdout)
    assert scripts == ["script"]
