"""The guide's underlay section, line by line, in a VM with one interface, with its openrc.sh.

OVN's "Open Virtual Networking With Docker": https://docs.ovn.org/en/latest/howto/docker.html. Its openrc.sh
is of Keystone's v2.0 time; the Keystone of the test knows v3 only.
"""

import os
import pty
import re
import select
from collections.abc import Iterator

import pytest

from e2e.lab import CommandError, LabError
from e2e.lab.cloud import BRIDGE, VM, Cloud
from e2e.lab.command import ENVIRONMENT
from e2e.lab.services import Daemon
from e2e.underlay import Underlay

pytestmark = pytest.mark.underlay

DRIVER = ". ./openrc.sh; ovn-docker-underlay-driver --bridge breth0 --detach --log-file --pidfile"
LOG = "/var/log/openvswitch/ovn-docker-underlay-driver.log"
PIDFILE = "/run/openvswitch/ovn-docker-underlay-driver.pid"


class Terminal:
    """A command that a user typed at a terminal of a VM."""

    def __init__(self, vm: VM, command: str) -> None:
        self.said = ""
        self._pid, self._screen = pty.fork()
        if not self._pid:
            argv = [*vm.enter, "sh", "-c", f"cd /root; {command}"]
            os.execvpe(argv[0], argv, ENVIRONMENT | {"TERM": "dumb"})

    def expect(self, text: str) -> None:
        """Wait until the terminal shows a text."""
        while text not in self.said:
            self._read()

    def type(self, line: str) -> None:
        os.write(self._screen, f"{line}\n".encode())

    def end(self) -> int:
        """Wait for the end of the command; return its exit status."""
        while True:
            try:
                self._read()
            except LabError:
                break
        _, status = os.waitpid(self._pid, 0)
        os.close(self._screen)
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> None:
        if not select.select([self._screen], [], [], 120)[0]:
            raise AssertionError(
                f"the command says nothing for two minutes, its terminal shows:\n{self.said}"
            )
        try:
            data = os.read(self._screen, 4096)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            raise LabError(f"the command has ended, its terminal shows:\n{self.said}")
        self.said += data.decode(errors="replace")


@pytest.fixture(scope="module")
def machine(cloud: Cloud) -> Iterator[VM]:
    """ "A OpenStack tenant creates a VM with a single network interface", and installs Docker."""
    vm = cloud.boot("machine", cloud.hypervisors[0], cloud.demo)
    vm.start_switch()
    vm.start_docker()
    vm.load("busybox")
    yield vm
    cloud.delete(vm)


@pytest.fixture
def vm(cloud: Cloud, machine: VM) -> Iterator[VM]:
    """The VM; afterwards its driver is stopped and its networks are deleted."""
    yield machine
    Underlay(cloud, (machine,)).clear()
    Underlay(cloud, (machine,)).settles()
    Daemon(machine, "ovn-docker-underlay-driver", runs_as=PIDFILE.removesuffix(".pid")).stop()


def test_the_guides_commands_work(cloud: Cloud, vm: VM) -> None:
    underlay = Underlay(cloud, (vm,))

    # "Inside the VM, download the OpenStack RC file": after this edit, the file looks like the guide's
    vm.save_openrc()
    assert re.fullmatch(
        r"#!/bin/bash\n"
        r"export OS_AUTH_URL=http://[\d.]+:5000/v2\.0\n"
        r"export OS_TENANT_ID=[0-9a-f]{32}\n"
        r"export OS_TENANT_NAME=demo\n"
        r"export OS_USERNAME=demo\n"
        r"export OS_VIF_ID=[0-9a-f-]{36}",
        vm.run("cat", "/root/openrc.sh"),
    )

    # "Create the Open vSwitch bridge": add eth0, and "move its IP address and route related information"
    bridge = ("ovn-docker", "underlay", "bridge", "--interface", "eth0", "--bridge", BRIDGE)
    vm.run(*bridge, f"--reach={cloud.control.address}", timeout=90)
    vm.tune_bridge()
    assert vm.run("ovs-vsctl", "list-ports", BRIDGE) == "eth0"
    assert str(vm.interface) in vm.run("ip", "address", "show", "dev", BRIDGE)
    assert str(vm.interface) not in vm.run("ip", "address", "show", "dev", "eth0")

    # "Start the network driver and provide your OpenStack tenant password when prompted"
    terminal = Terminal(vm, DRIVER)
    terminal.expect("password of demo: ")
    terminal.type(vm.account.password)
    assert terminal.end() == 0, terminal.said
    assert vm.account.password not in terminal.said
    pid = vm.run("cat", PIDFILE)
    for file in ("cmdline", "environ"):
        assert vm.account.password not in vm.run("cat", f"/proc/{pid}/{file}")

    # "From here-on you can use the same Docker commands as described in docker-overlay"
    # "Create a logical switch"
    network = vm.docker("network", "create", "-d", "openvswitch", "--subnet=192.168.1.0/24", "foo")
    # "List all logical switches"
    assert "openvswitch" in vm.docker("network", "ls", "--filter=name=foo")
    (foo,) = cloud.demo.networks(is_shared=False)
    (subnet,) = cloud.demo.subnets(network_id=foo.id)
    assert (subnet.name, subnet.cidr) == (f"docker-{network}", "192.168.1.0/24")
    assert not subnet.is_dhcp_enabled
    assert subnet.gateway_ip == "192.168.1.1"

    # "Create a logical port"
    vm.docker("run", "-itd", "--net=foo", "--name=busybox", "busybox", "sh")
    endpoint = underlay.endpoint(vm, "busybox")
    # "List all logical ports"
    (port,) = cloud.demo.ports(network_id=foo.id)
    assert port.mac_address == endpoint["MacAddress"]
    assert [fixed["ip_address"] for fixed in port.fixed_ips] == [endpoint["IPAddress"]]
    assert port.status == "ACTIVE"
    assert port.is_port_security_enabled
    assert port.id in cloud.control.run("ovn-nbctl", "lsp-list", f"neutron-{foo.id}")
    parent = cloud.control.run("ovn-nbctl", "get", "Logical_Switch_Port", port.id, "parent_name")
    assert parent.strip('"') == vm.port.id
    vm.docker("run", "-d", "--net=foo", "--name=neighbour", "busybox", "sleep", "600")
    underlay.ping(vm, "neighbour", endpoint["IPAddress"])
    underlay.ping(vm, "neighbour", "busybox")
    underlay.settles()

    # "Create and attach a logical port to a running container"
    vm.docker("network", "create", "-d", "openvswitch", "--subnet=192.168.2.0/24", "bar")
    vm.docker("network", "connect", "bar", "busybox")
    second = underlay.endpoint(vm, "busybox", "bar")
    assert second["IPAddress"] in vm.docker("exec", "busybox", "ip", "address")
    underlay.settles()

    # "Detach and delete a logical port from a running container"
    vm.docker("network", "disconnect", "bar", "busybox")
    assert second["IPAddress"] not in vm.docker("exec", "busybox", "ip", "address")
    underlay.ping(vm, "neighbour", endpoint["IPAddress"])

    # "Delete a logical switch"
    vm.docker("network", "rm", "bar")
    underlay.settles()
    vm.docker("rm", "--force", "busybox", "neighbour")
    vm.docker("network", "rm", "foo")
    assert cloud.demo.networks(is_shared=False) == []
    assert vm.account.password not in vm.path(LOG).read_text()


@pytest.mark.parametrize(
    ("openrc", "message"),
    [
        ({"OS_PASSWORD": "wrong"}, "rejects the login: check the password"),
        ({"OS_PASSWORD": ""}, "OS_PASSWORD of demo is not set, and there is no terminal to ask at"),
        ({"OS_VIF_ID": ""}, "OS_VIF_ID is not set: it is the ID of the Neutron port"),
        ({"OS_VIF_ID": "eth0"}, "OS_VIF_ID 'eth0' is not a UUID"),
        ({"OS_VIF_ID": "11111111-2222-3333-4444-555555555555"}, "Neutron has no port 11111111-"),
        ({"OS_VIF_ID": "vm2"}, "which no interface of this VM has: OS_VIF_ID names the port of another VM"),
        ({"OS_AUTH_URL": ""}, "OS_AUTH_URL is not set: source the openrc.sh"),
        ({"OS_REGION_NAME": "Mars"}, "check OS_REGION_NAME"),
        ({"OS_CLOUD": "Mars"}, "Cloud Mars was not found; check OS_CLOUD"),
    ],
)
def test_an_invalid_openrc_is_reported_in_one_line(
    vm: VM, vms: tuple[VM, VM, VM], openrc: dict[str, str], message: str
) -> None:
    if openrc.get("OS_VIF_ID") == "vm2":
        openrc = {"OS_VIF_ID": vms[1].port.id}
    with pytest.raises(CommandError, match=message) as refused:
        vm.run(*vm.driver.argv, env=vm.openrc | {"OS_PASSWORD": vm.account.password} | openrc, timeout=60)
    assert len(refused.value.stderr.splitlines()) == 1
    assert vm.account.password not in refused.value.stderr
    assert not vm.path(vm.driver.listens).exists()


@pytest.mark.parametrize("generation", ["v3", "horizon", "application credential", "clouds.yaml", "token"])
def test_logins_of_every_generation_work(vm: VM, cloud: Cloud, generation: str) -> None:
    keystone = f"http://{cloud.control.address}:5000"
    project = {
        "OS_PROJECT_NAME": "demo",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
    }
    user = {"OS_USERNAME": "demo", "OS_PASSWORD": vm.account.password}
    if generation == "v3":
        openrc = {"OS_AUTH_URL": f"{keystone}/v3", "OS_IDENTITY_API_VERSION": "3"} | project | user
    elif generation == "horizon":
        place = {"OS_PROJECT_ID": vm.openrc["OS_TENANT_ID"], "OS_USER_DOMAIN_NAME": "Default"}
        which = {"OS_REGION_NAME": "RegionOne", "OS_INTERFACE": "public"}
        openrc = {"OS_AUTH_URL": keystone} | place | which | user
    elif generation == "application credential":
        credential = cloud.demo.application_credential("docker")
        openrc = {"OS_AUTH_URL": keystone, "OS_APPLICATION_CREDENTIAL_ID": credential.id,
                  "OS_APPLICATION_CREDENTIAL_SECRET": credential.secret}  # fmt: skip
    elif generation == "token":
        openrc = {"OS_AUTH_URL": keystone, "OS_TOKEN": cloud.demo.token()} | project
    else:
        vm.path("/etc/openstack").mkdir()
        vm.path("/etc/openstack/clouds.yaml").write_text(
            "clouds: {lab: {region_name: RegionOne, auth: "
            f"{{auth_url: '{keystone}', username: demo, password: {vm.account.password}, project_name: demo, "
            "user_domain_id: default, project_domain_id: default}}}\n"
        )
        openrc = {"OS_CLOUD": "lab"}
    # The variables of the generation alone, and the guide's line.
    nothing = dict.fromkeys((*vm.openrc, "OS_PASSWORD"), "")
    vm.driver.start(env=nothing | openrc | {"OS_VIF_ID": vm.port.id})
    vm.docker("network", "create", "-d", "openvswitch", "--subnet=192.168.1.0/24", "foo")
    vm.docker("network", "rm", "foo")
    vm.driver.stop()


def test_driver_asks_for_a_password_missing_in_clouds_yaml(vm: VM, cloud: Cloud) -> None:
    vm.path("/root/clouds.yaml").write_text(
        f"clouds: {{lab: {{auth: {{auth_url: 'http://{cloud.control.address}:5000', username: demo, "
        "project_name: demo, user_domain_id: default, project_domain_id: default}}}\n"
    )
    terminal = Terminal(vm, f"OS_CLOUD=lab OS_VIF_ID={vm.port.id} {DRIVER.partition('; ')[2]}")
    terminal.expect("password of demo: ")
    terminal.type(vm.account.password)
    assert terminal.end() == 0, terminal.said
    vm.docker("network", "create", "-d", "openvswitch", "--subnet=192.168.1.0/24", "foo")
    assert vm.account.password not in vm.path(LOG).read_text()
