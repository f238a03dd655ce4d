"""The local Open vSwitch: the host's settings in it, and the ports of endpoints."""

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_interface

import pytest

from functional.conftest import Connect
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, until
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, EndpointNotFound, NotFound, OvnDockerError, Unavailable
from ovn_docker.host.openvswitch import LocalVswitch, VmBridge
from ovn_docker.model import (
    Attachment,
    Chassis,
    Endpoint,
    EndpointId,
    NetworkId,
    StoredEndpoint,
    Tls,
    host_link,
    row_uuid,
)

NET = NetworkId("ad" * 32)
C1 = EndpointId("c1" * 32)
C2 = EndpointId("c2" * 32)
LINK = "odhc1c1c1c1c1c1"
SANDBOX = "0123456789ab"
NAMES = {"system_id": "host1", "ovn_nb": "tcp:10.0.0.9:6641", "ovn_encap_ip": "10.0.0.1"}


def soon() -> Deadline:
    return Deadline(30)


@pytest.fixture
def vswitch(open_vswitch: OpenVswitch, connect: Connect) -> LocalVswitch:
    return LocalVswitch(connect(open_vswitch))


@pytest.fixture
def unset(settings: OpenVswitch, connect: Connect) -> LocalVswitch:
    """A host without settings and without ovs-vswitchd."""
    return LocalVswitch(connect(settings))


class TestSettings:
    def test_settings_are_those_that_the_guides_commands_write(
        self, settings: OpenVswitch, unset: LocalVswitch
    ) -> None:
        """The commands are those of step 2 of the guide, unchanged."""
        for setting in (
            "system-id=host1",
            'ovn-remote="tcp:10.0.0.9:6642"',
            'ovn-nb="tcp:10.0.0.9:6641"',
            "ovn-encap-ip=10.0.0.1",
            'ovn-encap-type="geneve"',
        ):
            command = ["set", "Open_vSwitch", ".", f"external_ids:{setting}"]
            subprocess.run(["ovs-vsctl", f"--db={settings.remote}", "--no-wait", *command], check=True)
        chassis = unset.chassis(soon())
        assert chassis == Chassis(
            system_id="host1",
            northbound=("tcp:10.0.0.9:6641",),
            encap_ips=(ip_address("10.0.0.1"),),
            encap_types=("geneve",),
            bridge="br-int",
            datapath="netdev",
            southbound=("tcp:10.0.0.9:6642",),
        )
        unset.check(chassis)

    def test_settings_may_be_lists(self, settings: OpenVswitch, unset: LocalVswitch) -> None:
        settings.set(
            system_id="host1", ovn_nb="tcp:10.0.0.8:6641, ssl:[fd00::9]:6641",
            ovn_encap_ip="10.0.0.1,fd00::1", ovn_encap_type="geneve,vxlan",
        )  # fmt: skip
        chassis = unset.chassis(soon())
        assert chassis.northbound == ("tcp:10.0.0.8:6641", "ssl:[fd00::9]:6641")
        assert chassis.encap_ips == (ip_address("10.0.0.1"), ip_address("fd00::1"))
        assert chassis.encap_types == ("geneve", "vxlan")

    def test_settings_may_name_another_bridge(self, settings: OpenVswitch, unset: LocalVswitch) -> None:
        settings.set(**NAMES, ovn_bridge="br-ovn")
        assert (unset.chassis(soon()).bridge, unset.chassis(soon()).datapath) == ("br-ovn", None)
        add = ["add-br", "br-ovn", "--", "set", "bridge", "br-ovn", "datapath_type=system"]
        subprocess.run(["ovs-vsctl", f"--db={settings.remote}", "--no-wait", *add], check=True)
        assert unset.chassis(soon()).datapath == "system"

    def test_settings_name_the_tls_files(self, settings: OpenVswitch, unset: LocalVswitch) -> None:
        settings.set(**NAMES)
        files = ["/etc/key.pem", "/etc/cert.pem", "/etc/ca.pem"]
        subprocess.run(["ovs-vsctl", f"--db={settings.remote}", "--no-wait", "set-ssl", *files], check=True)
        assert unset.chassis(soon()).tls == Tls(*files)

    @pytest.mark.parametrize(
        ("settings_", "state", "command"),
        [
            ({"ovn_nb": "tcp:1.1.1.1:6641"}, "does not have system-id", "system-id=$(uuidgen)"),
            ({"system_id": ""}, "does not have system-id", "system-id=$(uuidgen)"),
            ({"system_id": "a"}, "does not have ovn-nb", 'ovn-nb="tcp:CENTRAL_IP:6641"'),
            (
                {"system_id": "a", "ovn_remote": "ssl:10.0.0.9:6642"},
                "does not have ovn-nb",
                'ovn-nb="ssl:10.0.0.9:6641"',
            ),
            (
                NAMES | {"ovn_encap_ip": "eth0"},
                "has an invalid address, ovn-encap-ip='eth0'",
                "ovn-encap-ip=LOCAL_IP",
            ),
            ({"system_id": "a", "ovn_nb": "tcp:1.1.1.1:6641"}, "does not have ovn-encap-ip", "=LOCAL_IP"),
        ],
        ids=["system-id", "empty", "ovn-nb", "ovn-nb beside ovn-remote", "not an address", "encap-ip"],
    )
    def test_missing_setting_is_reported_with_the_command_to_type(
        self, settings: OpenVswitch, unset: LocalVswitch, settings_: dict[str, str], state: str, command: str
    ) -> None:
        settings.set(**settings_)
        with pytest.raises(Unavailable) as missing:
            unset.check(unset.chassis(soon()))
        assert str(missing.value).startswith(
            f"the Open_vSwitch database {state}; set it with: ovs-vsctl set "
        )
        assert str(missing.value).endswith(command)

    def test_settings_of_a_network_are_fewer_than_those_of_an_endpoint(
        self, settings: OpenVswitch, unset: LocalVswitch
    ) -> None:
        """The manager of a swarm may be a host without containers."""
        settings.set(system_id="a", ovn_nb="tcp:1.1.1.1:6641")
        assert unset.chassis(soon()).encap_ips == ()

    def test_missing_bridge_is_reported_with_the_start_of_ovn_controller(
        self, settings: OpenVswitch, unset: LocalVswitch
    ) -> None:
        settings.set(**NAMES, ovn_bridge="br-ovn")
        with pytest.raises(Unavailable, match=r"no bridge br-ovn.*ovn-docker host start"):
            unset.check(unset.chassis(soon()))

    def test_empty_database_is_reported_with_ovs_vsctl_init(
        self, settings: OpenVswitch, unset: LocalVswitch
    ) -> None:
        settings.transact({"op": "delete", "table": "Open_vSwitch", "where": []})
        with pytest.raises(Unavailable, match="ovs-vsctl init"):
            unset.chassis(soon())

    def test_unreachable_database_is_reported_in_time(
        self, settings: OpenVswitch, unset: LocalVswitch
    ) -> None:
        settings.kill()
        start = time.monotonic()
        with pytest.raises(Unavailable, match=f"cannot reach Open_vSwitch at {settings.remote}: "):
            unset.chassis(Deadline(0.2))
        assert time.monotonic() - start < 9


ATTACHMENT = Attachment(iface_id=C1)
ENDPOINT = Endpoint(C1, NET, (ip_interface("192.168.1.2/24"),), "02:42:c0:a8:01:02")


def add_link(name: str = LINK) -> None:
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"c{name[1:]}"], check=True)


def plug(unset: LocalVswitch, endpoint: Endpoint = ENDPOINT, deadline: Deadline | None = None) -> None:
    chassis = unset.chassis(soon())
    unset.plug(endpoint, Attachment(iface_id=endpoint.id), chassis, deadline or soon())


class TestPlug:
    """With a real ovs-vswitchd, except where a test stops it."""

    def test_plug_adds_a_port_as_ovn_controller_expects(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        add_link()
        plug(vswitch)
        interface = open_vswitch.interface(LINK)
        assert (interface["_uuid"], interface["error"]) == (row_uuid("interface", C1), [])
        assert interface["ofport"] > 0
        created = interface["external_ids"].pop("ovn-docker:created")
        assert interface["external_ids"].pop("ovn-docker:uptime")
        assert abs(time.time() - int(created)) < 60
        assert interface["external_ids"] == {
            "iface-id": C1,
            "attached-mac": "02:42:c0:a8:01:02",
            "iface-status": "active",
            "ovn-docker:owner": "ovn-docker",
            "ovn-docker:network": NET,
            "ovn-docker:endpoint": C1,
        }
        (port,) = (row for row in open_vswitch.rows("Port") if row["name"] == LINK)
        assert port["other_config"] == {"transient": "true"}
        (bridge,) = open_vswitch.rows("Bridge")
        assert port["_uuid"] in bridge["ports"]

    def test_plug_is_idempotent(self, open_vswitch: OpenVswitch, vswitch: LocalVswitch) -> None:
        add_link()
        plug(vswitch)
        before = open_vswitch.ports()
        plug(vswitch)
        assert open_vswitch.ports() == before

    def test_many_ports_can_be_plugged_at_once(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        endpoints = [Endpoint(EndpointId(f"{number:064x}"[::-1]), NET) for number in range(1, 17)]
        for endpoint in endpoints:
            add_link(host_link(endpoint.id))
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda endpoint: plug(vswitch, endpoint), endpoints))
            assert len(open_vswitch.ports()) == 16
            list(threads.map(lambda endpoint: vswitch.unplug(endpoint.id, soon()), endpoints))
        assert open_vswitch.ports() == {}

    def test_missing_link_is_reported_with_the_error_of_ovs(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        with pytest.raises(OvnDockerError, match=rf"cannot use the link {LINK}: .*No such device"):
            plug(vswitch)

    def test_stopped_ovs_vswitchd_is_reported_in_time(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        open_vswitch.stop_daemon()
        add_link()
        start = time.monotonic()
        with pytest.raises(Unavailable, match=rf"ovs-vswitchd did not take up the port {LINK}"):
            plug(vswitch, deadline=Deadline(0.3))
        assert time.monotonic() - start < 9

    def test_port_of_that_name_on_any_bridge_is_a_conflict_and_stays(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        add_link()
        command = ["ovs-vsctl", f"--db={open_vswitch.remote}"]
        subprocess.run([*command, "add-port", "br-int", LINK], check=True)
        before = open_vswitch.contents()
        with pytest.raises(Conflict, match=f"refuses a port named {LINK}: .*constraint violation"):
            plug(vswitch)
        assert open_vswitch.contents() == before

    def test_bridge_deleted_meanwhile_is_reported_and_no_port_remains(
        self, settings: OpenVswitch, unset: LocalVswitch
    ) -> None:
        settings.set(**NAMES)
        chassis = unset.chassis(soon())
        settings.transact(
            {"op": "update", "table": "Open_vSwitch", "where": [], "row": {"bridges": ["set", []]}}
        )
        with pytest.raises(Unavailable, match="bridge br-int has just gone"):
            unset.plug(ENDPOINT, ATTACHMENT, chassis, soon())
        assert settings.ports() == {}


class TestUnplug:
    def test_unplug_removes_all_rows_of_plug(self, open_vswitch: OpenVswitch, vswitch: LocalVswitch) -> None:
        before = open_vswitch.rows("Port"), open_vswitch.rows("Bridge", "name", "ports")
        add_link()
        plug(vswitch)
        vswitch.unplug(C1, soon())
        vswitch.unplug(C1, soon())
        assert (open_vswitch.rows("Port"), open_vswitch.rows("Bridge", "name", "ports")) == before

    def test_unplug_finds_the_port_on_another_bridge(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        add_link()
        plug(vswitch)
        port = ["uuid", row_uuid("port", C1)]
        open_vswitch.transact(
            {"op": "mutate", "table": "Bridge", "where": [], "mutations": [["ports", "delete", port]]},
            {"op": "insert", "table": "Bridge", "uuid-name": "b", "row": {"name": "br-old", "ports": port}},
            {"op": "mutate", "table": "Open_vSwitch", "where": [],
             "mutations": [["bridges", "insert", ["named-uuid", "b"]]]},
        )  # fmt: skip
        vswitch.unplug(C1, soon())
        assert open_vswitch.ports() == {}

    def test_unplug_can_also_read_the_settings(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        add_link()
        plug(vswitch)
        assert vswitch.chassis(soon(), without=C1) == vswitch.chassis(soon())
        assert open_vswitch.ports() == {}

    def test_unplug_does_not_depend_on_the_settings(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        add_link()
        plug(vswitch)
        open_vswitch.set(ovn_nb="tcp:10.0.0.9:6641")
        with pytest.raises(Unavailable, match="does not have system-id"):
            vswitch.chassis(soon(), without=C1)
        assert open_vswitch.ports() == {}

    def test_unplug_needs_no_ovs_vswitchd(self, open_vswitch: OpenVswitch, vswitch: LocalVswitch) -> None:
        add_link()
        plug(vswitch)
        open_vswitch.stop_daemon()
        vswitch.unplug(C1, soon())
        assert open_vswitch.ports() == {}


class TestEnterSandbox:
    def test_sandbox_is_written_to_the_interface(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        add_link()
        plug(vswitch)
        for sandbox in (SANDBOX, SANDBOX, "ba9876543210"):
            vswitch.enter(C1, sandbox, Deadline(0))
            assert open_vswitch.interface(LINK)["external_ids"]["vm-id"] == sandbox

    def test_missing_port_is_reported_with_a_new_start_as_cure(
        self, settings: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        with pytest.raises(EndpointNotFound, match="no port for the endpoint c1c1c1c1c1c1"):
            vswitch.enter(C1, SANDBOX, soon())


def ovn_installed(server: OvsdbServer) -> None:
    """Write ovn-installed as ovn-controller does."""
    server.transact(
        {"op": "mutate", "table": "Interface", "where": [["name", "==", LINK]],
         "mutations": [["external_ids", "insert", ["map", [["ovn-installed", "true"]]]]]},
    )  # fmt: skip


class TestWaitForFlows:
    @pytest.fixture
    def plugged(self, open_vswitch: OpenVswitch, vswitch: LocalVswitch) -> OpenVswitch:
        add_link()
        plug(vswitch)
        return open_vswitch

    def test_wait_ends_when_ovn_controller_reports_the_flows(
        self, plugged: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        with ThreadPoolExecutor() as threads:
            waits = threads.submit(vswitch.enter, C1, SANDBOX, Deadline(600))
            until(plugged.holds)
            vswitch.chassis(soon())
            assert not waits.done()
            ovn_installed(plugged)
            assert waits.result(120) == (None, True)

    def test_wait_returns_at_once_if_the_flows_are_installed(
        self, plugged: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        ovn_installed(plugged)
        assert vswitch.enter(C1, SANDBOX, Deadline(30)) == (None, True)

    def test_wait_for_missing_flows_ends_at_the_deadline(
        self, plugged: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        start = time.monotonic()
        assert vswitch.enter(C1, SANDBOX, Deadline(0.3)) == (None, False)
        assert 0.25 < time.monotonic() - start < 9
        assert plugged.interface(LINK)["external_ids"]["vm-id"] == SANDBOX

    def test_wait_ends_when_the_port_is_deleted(self, plugged: OpenVswitch, vswitch: LocalVswitch) -> None:
        with ThreadPoolExecutor() as threads:
            waits = threads.submit(vswitch.enter, C1, SANDBOX, Deadline(600))
            until(plugged.holds)
            vswitch.unplug(C1, soon())
            with pytest.raises(NotFound, match="no port for the endpoint c1c1c1c1c1c1"):
                waits.result(120)

    def test_wait_survives_a_restart_of_the_database(
        self, plugged: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        with ThreadPoolExecutor() as threads:
            waits = threads.submit(vswitch.enter, C1, SANDBOX, soon())
            until(plugged.holds)
            plugged.kill()
            plugged.start()
            ovn_installed(plugged)
            assert waits.result() == (None, True)

    def test_reason_for_late_flows_is_named(self, plugged: OpenVswitch, vswitch: LocalVswitch) -> None:
        assert vswitch.why_late(C1, soon()) == "ovn-controller has not installed its flows"
        assert vswitch.why_late(C2, soon()) == "its port has gone from Open vSwitch"
        with pytest.raises(OvnDockerError):
            plug(vswitch, Endpoint(C2, NET))
        assert re.match(r"Open vSwitch says: .*No such device", vswitch.why_late(C2, soon()))


class TestVmBridge:
    def test_vm_bridge_needs_no_ovn_controller(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch, connect: Connect
    ) -> None:
        add_link()
        plug(vswitch)
        bridge = VmBridge(connect(open_vswitch), "br-int", "vif")
        assert bridge.enter(C1, SANDBOX, soon()) == (None, True)
        assert open_vswitch.interface(LINK)["external_ids"]["vm-id"] == SANDBOX
        assert bridge.chassis(soon(), without=C1).system_id == "vif"
        assert open_vswitch.ports() == {}


class TestFind:
    def test_interface_of_an_endpoint_is_found(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        add_link()
        plug(vswitch)
        assert vswitch.endpoint_info(C1, soon()) == {"mac_address": "02:42:c0:a8:01:02", "veth": LINK}
        assert vswitch.endpoint_info(C2, soon()) == {}

    def test_interfaces_of_all_endpoints_of_the_host_are_found(
        self, open_vswitch: OpenVswitch, vswitch: LocalVswitch
    ) -> None:
        add_link()
        plug(vswitch)
        open_vswitch.transact(
            {"op": "insert", "table": "Interface", "uuid-name": "i", "row": {"name": "vm1"}},
            {"op": "insert", "table": "Port", "uuid-name": "p",
             "row": {"name": "vm1", "interfaces": ["named-uuid", "i"]}},
            {"op": "mutate", "table": "Bridge", "where": [],
             "mutations": [["ports", "insert", ["named-uuid", "p"]]]},
        )  # fmt: skip
        (found,) = vswitch.endpoints(soon())
        assert found == StoredEndpoint(C1, NET, "host1", found.age)
        assert 0 <= found.age < 60
