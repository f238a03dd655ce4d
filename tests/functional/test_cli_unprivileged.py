"""Commands run without root: members of the group docker see Docker's part, other users an error."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functional.docker_api import Api
from functional.machine import OVN_DOCKER, Machine
from ovn_docker.model import EndpointId, host_link

pytestmark = pytest.mark.slow

GROUP = 4711
NETWORK, ENDPOINT = "a" * 64, "b" * 64
DB = "only root may use /var/run/openvswitch/db.sock: run this again with sudo"

# Lets these users read a checkout below /root, but not write to sockets.
READS = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def answer(path: str) -> Any:
    """Return the reply of Docker's API: one container on one of our networks."""
    here = {"EndpointID": ENDPOINT, "NetworkID": NETWORK, "IPAddress": "10.1.0.2"}
    known = {
        "/version": {"Version": "28.5.2"},
        "/info": {},
        "/networks": [{"Id": NETWORK, "Name": "foo", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}}],
        "/containers/json": [
            {
                "Id": "c" * 64,
                "Names": ["/web"],
                "State": "running",
                "NetworkSettings": {"Networks": {"foo": here}},
            }
        ],
    }
    return known.get(path.partition("?")[0])


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine with Open vSwitch, a driver's socket, and Docker's socket, accessible to a group."""
    machine = Machine()
    machine.out("/usr/share/openvswitch/scripts/ovs-ctl", "start", "--system-id=random")
    machine.out("mkdir", "-p", "/run/docker/plugins")
    listener = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/run/docker/plugins/openvswitch.sock')"
    )
    machine.out("python3", "-c", listener)
    machine.out("chmod", "600", "/run/docker/plugins/openvswitch.sock")
    link = host_link(EndpointId(ENDPOINT))
    machine.out("ip", "link", "add", link, "type", "veth", "peer", "name", "peer")
    for end in (link, "peer"):
        machine.out("ip", "link", "set", end, "up")
    docker = Path(f"/proc/{machine.pid}/root/run/docker.sock")
    api = Api(docker, answer)
    machine.out("chown", f"0:{GROUP}", "/run/docker.sock")
    machine.out("chmod", "660", "/run/docker.sock")
    yield machine
    api.close()
    machine.close()


def run_as(machine: Machine, *argv: str, group: int = GROUP) -> subprocess.CompletedProcess[str]:
    """Run `ovn-docker` as a user of a group."""
    user = ("setpriv", "--reuid=65534", "--regid=65534", f"--groups={group}", *READS)
    done = machine.run(*user, *OVN_DOCKER, *argv)
    assert "Traceback" not in done.stderr
    return done


def test_ls_shows_a_user_of_docker_the_part_of_docker(machine: Machine) -> None:
    networks = run_as(machine, "ls")
    assert (networks.returncode, networks.stderr) == (
        3,
        f"ovn-docker: only the state in Docker is shown: {DB}\n",
    )
    assert networks.stdout.splitlines()[1].split()[:2] == ["foo", "a" * 12]
    (_, endpoint) = run_as(machine, "ls", "endpoints").stdout.splitlines()
    assert endpoint.split()[:3] == ["web", "foo", "10.1.0.2"]
    assert endpoint.split()[-3:] == ["running", "unknown", "unknown"]


def test_json_for_a_user_of_docker_has_the_result_and_an_error(machine: Machine) -> None:
    done = run_as(machine, "ls", "--json")
    assert [one["name"] for one in json.loads(done.stdout)] == ["foo"]
    assert json.loads(done.stderr)["error"] == "forbidden"


@pytest.mark.parametrize("name", ["foo", "web"])
def test_inspect_shows_a_user_of_docker_the_part_of_docker(machine: Machine, name: str) -> None:
    done = run_as(machine, "inspect", name)
    assert name in done.stdout
    assert (done.returncode, done.stderr) == (3, f"ovn-docker: only the state in Docker is shown: {DB}\n")


def test_inspect_warns_a_user_of_docker_that_a_name_may_be_on_another_host(machine: Machine) -> None:
    done = run_as(machine, "inspect", "elsewhere")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert DB in done.stderr


def test_status_shows_a_user_of_docker_the_daemons(machine: Machine) -> None:
    done = run_as(machine, "status")
    lines = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert {
        part: lines[part] for part in ("docker", "ovsdb-server", "ovs-vswitchd", "driver", "northbound")
    } == {
        "docker": "version",
        "ovsdb-server": "up",
        "ovs-vswitchd": "up",
        "driver": "unknown",
        "northbound": "unknown",
    }
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "run this again with sudo" in done.stderr


def test_graph_shows_a_user_of_docker_the_part_of_docker(machine: Machine) -> None:
    done = run_as(machine, "graph")
    assert ">web</text>" in done.stdout
    assert (done.returncode, done.stderr) == (1, f"ovn-docker: some parts are not drawn: {DB}\n")


@pytest.mark.parametrize(
    "command", ["doctor", "gc", "trace web db", "tcpdump web", "host status", "host stop"]
)
def test_commands_for_root_refuse_others_in_one_line(machine: Machine, command: str) -> None:
    done = run_as(machine, *command.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ovn-docker: only root may do this; run it again with sudo\n"


def test_the_error_for_other_users_names_the_group_of_docker(machine: Machine) -> None:
    done = run_as(machine, "status", group=4712)
    assert f"only root and group {GROUP} may use /var/run/docker.sock" in " ".join(done.stdout.split())
    waits = run_as(machine, "network", "wait", "foo", "--timeout=0", group=4712)
    assert (waits.returncode, waits.stderr.count("\n")) == (3, 1)
    assert "/var/run/docker.sock: Permission denied" in waits.stderr
