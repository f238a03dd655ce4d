"""The local Open vSwitch: what it says of the host, and the ports of endpoints on it."""

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_interface

import pytest

from functional.conftest import Connect
from functional.ovsdb_servers import OpenVswitch, OvsdbServer, until
from ovn_docker.deadline import Deadline
from ovn_docker.errors import Conflict, NotFound, OvnDockerError, Unavailable
from ovn_docker.host.vswitch import VmBridge, Vswitch
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
    return Deadline(10)


@pytest.fixture
def here(open_vswitch: OpenVswitch, connect: Connect) -> Vswitch:
    return Vswitch(connect(open_vswitch))


@pytest.fixture
def unset(settings: OpenVswitch, connect: Connect) -> Vswitch:
    """A host that is set up for nothing, without ovs-vswitchd."""
    return Vswitch(connect(settings))


class TestSettings:
    def test_are_what_the_guides_commands_write(self, settings: OpenVswitch, unset: Vswitch) -> None:
        """Step 2 of the guide, word for word."""
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

    def test_may_be_lists(self, settings: OpenVswitch, unset: Vswitch) -> None:
        settings.set(
            system_id="host1", ovn_nb="tcp:10.0.0.8:6641, ssl:[fd00::9]:6641",
            ovn_encap_ip="10.0.0.1,fd00::1", ovn_encap_type="geneve,vxlan",
        )  # fmt: skip
        chassis = unset.chassis(soon())
        assert chassis.northbound == ("tcp:10.0.0.8:6641", "ssl:[fd00::9]:6641")
        assert chassis.encap_ips == (ip_address("10.0.0.1"), ip_address("fd00::1"))
        assert chassis.encap_types == ("geneve", "vxlan")

    def test_may_name_another_bridge(self, settings: OpenVswitch, unset: Vswitch) -> None:
        settings.set(**NAMES, ovn_bridge="br-ovn")
        assert (unset.chassis(soon()).bridge, unset.chassis(soon()).datapath) == ("br-ovn", None)
        add = ["add-br", "br-ovn", "--", "set", "bridge", "br-ovn", "datapath_type=system"]
        subprocess.run(["ovs-vsctl", f"--db={settings.remote}", "--no-wait", *add], check=True)
        assert unset.chassis(soon()).datapath == "system"

    def test_name_the_files_of_tls(self, settings: OpenVswitch, unset: Vswitch) -> None:
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
                "has ovn-encap-ip='eth0', which is no address",
                "ovn-encap-ip=LOCAL_IP",
            ),
            ({"system_id": "a", "ovn_nb": "tcp:1.1.1.1:6641"}, "does not have ovn-encap-ip", "=LOCAL_IP"),
        ],
        ids=["system-id", "empty", "ovn-nb", "ovn-nb beside ovn-remote", "not an address", "encap-ip"],
    )
    def test_one_that_is_missing_comes_with_the_command_to_type(
        self, settings: OpenVswitch, unset: Vswitch, settings_: dict[str, str], state: str, command: str
    ) -> None:
        settings.set(**settings_)
        with pytest.raises(Unavailable) as missing:
            unset.check(unset.chassis(soon()))
        assert str(missing.value).startswith(
            f"the Open_vSwitch database {state}; set it with: ovs-vsctl set "
        )
        assert str(missing.value).endswith(command)

    def test_a_network_needs_less_than_an_endpoint(self, settings: OpenVswitch, unset: Vswitch) -> None:
        """A manager of a swarm may have no containers."""
        settings.set(system_id="a", ovn_nb="tcp:1.1.1.1:6641")
        assert unset.chassis(soon()).encap_ips == ()

    def test_without_the_bridge_ovn_controller_has_to_start(
        self, settings: OpenVswitch, unset: Vswitch
    ) -> None:
        settings.set(**NAMES, ovn_bridge="br-ovn")
        with pytest.raises(Unavailable, match=r"no bridge br-ovn.*ovn-docker host start"):
            unset.check(unset.chassis(soon()))

    def test_an_empty_database_wants_init(self, settings: OpenVswitch, unset: Vswitch) -> None:
        settings.transact({"op": "delete", "table": "Open_vSwitch", "where": []})
        with pytest.raises(Unavailable, match="ovs-vsctl init"):
            unset.chassis(soon())

    def test_without_the_database_there_is_an_answer_in_time(
        self, settings: OpenVswitch, unset: Vswitch
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


def plug(unset: Vswitch, endpoint: Endpoint = ENDPOINT, deadline: Deadline | None = None) -> None:
    chassis = unset.chassis(soon())
    unset.plug(endpoint, Attachment(iface_id=endpoint.id), chassis, deadline or soon())


class TestPlugging:
    """With a real ovs-vswitchd."""

    def test_makes_a_port_as_ovn_controller_wants_it(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        add_link()
        plug(here)
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

    def test_twice_is_once(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        add_link()
        plug(here)
        before = open_vswitch.ports()
        plug(here)
        assert open_vswitch.ports() == before

    def test_many_at_once(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        endpoints = [Endpoint(EndpointId(f"{number:064x}"[::-1]), NET) for number in range(1, 17)]
        for endpoint in endpoints:
            add_link(host_link(endpoint.id))
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda endpoint: plug(here, endpoint), endpoints))
            assert len(open_vswitch.ports()) == 16
            list(threads.map(lambda endpoint: here.unplug(endpoint.id, soon()), endpoints))
        assert open_vswitch.ports() == {}

    def test_a_link_that_is_not_there_is_reported_as_ovs_says(
        self, open_vswitch: OpenVswitch, here: Vswitch
    ) -> None:
        with pytest.raises(OvnDockerError, match=rf"cannot use the link {LINK}: .*No such device"):
            plug(here)

    def test_without_ovs_vswitchd_says_so_in_time(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        open_vswitch.stop_daemon()
        add_link()
        start = time.monotonic()
        with pytest.raises(Unavailable, match=rf"ovs-vswitchd did not take up the port {LINK}"):
            plug(here, deadline=Deadline(0.3))
        assert time.monotonic() - start < 9

    def test_a_port_of_that_name_on_any_bridge_is_a_conflict_and_stays(
        self, open_vswitch: OpenVswitch, here: Vswitch
    ) -> None:
        add_link()
        command = ["ovs-vsctl", f"--db={open_vswitch.remote}"]
        subprocess.run([*command, "add-port", "br-int", LINK], check=True)
        before = open_vswitch.contents()
        with pytest.raises(Conflict, match=f"refuses a port named {LINK}: .*constraint violation"):
            plug(here)
        assert open_vswitch.contents() == before

    def test_a_bridge_that_has_gone_meanwhile_is_reported_and_nothing_stays(
        self, settings: OpenVswitch, unset: Vswitch
    ) -> None:
        settings.set(**NAMES)
        chassis = unset.chassis(soon())
        settings.transact(
            {"op": "update", "table": "Open_vSwitch", "where": [], "row": {"bridges": ["set", []]}}
        )
        with pytest.raises(Unavailable, match="bridge br-int has just gone"):
            unset.plug(ENDPOINT, ATTACHMENT, chassis, soon())
        assert settings.ports() == {}


class TestUnplugging:
    def test_leaves_everything_as_it_was(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        before = open_vswitch.rows("Port"), open_vswitch.rows("Bridge", "name", "ports")
        add_link()
        plug(here)
        here.unplug(C1, soon())
        here.unplug(C1, soon())
        assert (open_vswitch.rows("Port"), open_vswitch.rows("Bridge", "name", "ports")) == before

    def test_finds_the_port_on_another_bridge(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        add_link()
        plug(here)
        port = ["uuid", row_uuid("port", C1)]
        open_vswitch.transact(
            {"op": "mutate", "table": "Bridge", "where": [], "mutations": [["ports", "delete", port]]},
            {"op": "insert", "table": "Bridge", "uuid-name": "b", "row": {"name": "br-old", "ports": port}},
            {"op": "mutate", "table": "Open_vSwitch", "where": [],
             "mutations": [["bridges", "insert", ["named-uuid", "b"]]]},
        )  # fmt: skip
        here.unplug(C1, soon())
        assert open_vswitch.ports() == {}

    def test_can_come_with_a_look_at_the_settings(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        add_link()
        plug(here)
        assert here.chassis(soon(), without=C1) == here.chassis(soon())
        assert open_vswitch.ports() == {}

    def test_does_not_depend_on_the_settings(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        add_link()
        plug(here)
        open_vswitch.set(ovn_nb="tcp:10.0.0.9:6641")
        with pytest.raises(Unavailable, match="does not have system-id"):
            here.chassis(soon(), without=C1)
        assert open_vswitch.ports() == {}

    def test_needs_no_ovs_vswitchd(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        add_link()
        plug(here)
        open_vswitch.stop_daemon()
        here.unplug(C1, soon())
        assert open_vswitch.ports() == {}


class TestEntering:
    def test_notes_the_sandbox(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        add_link()
        plug(here)
        for sandbox in (SANDBOX, SANDBOX, "ba9876543210"):
            here.enter(C1, sandbox, Deadline(0))
            assert open_vswitch.interface(LINK)["external_ids"]["vm-id"] == sandbox

    def test_without_a_port_the_container_must_start_again(
        self, settings: OpenVswitch, here: Vswitch
    ) -> None:
        with pytest.raises(
            NotFound, match="no port for the endpoint c1c1c1c1c1c1; start the container again"
        ):
            here.enter(C1, SANDBOX, soon())


def ovn_installed(server: OvsdbServer) -> None:
    """What ovn-controller writes."""
    server.transact(
        {"op": "mutate", "table": "Interface", "where": [["name", "==", LINK]],
         "mutations": [["external_ids", "insert", ["map", [["ovn-installed", "true"]]]]]},
    )  # fmt: skip


class TestWaitingForFlows:
    @pytest.fixture
    def plugged(self, open_vswitch: OpenVswitch, here: Vswitch) -> OpenVswitch:
        add_link()
        plug(here)
        return open_vswitch

    def test_ends_in_the_moment_that_ovn_controller_says_so(
        self, plugged: OpenVswitch, here: Vswitch
    ) -> None:
        with ThreadPoolExecutor() as threads:
            waits = threads.submit(here.enter, C1, SANDBOX, Deadline(600))
            until(plugged.holds)
            here.chassis(soon())
            assert not waits.done()
            ovn_installed(plugged)
            assert waits.result(60) == (None, True)

    def test_is_over_at_once_if_they_are_in(self, plugged: OpenVswitch, here: Vswitch) -> None:
        ovn_installed(plugged)
        assert here.enter(C1, SANDBOX, Deadline(5)) == (None, True)

    def test_gives_up_in_time_if_they_do_not_come(self, plugged: OpenVswitch, here: Vswitch) -> None:
        start = time.monotonic()
        assert here.enter(C1, SANDBOX, Deadline(0.3)) == (None, False)
        assert 0.25 < time.monotonic() - start < 9
        assert plugged.interface(LINK)["external_ids"]["vm-id"] == SANDBOX

    def test_ends_when_the_port_goes(self, plugged: OpenVswitch, here: Vswitch) -> None:
        with ThreadPoolExecutor() as threads:
            waits = threads.submit(here.enter, C1, SANDBOX, Deadline(600))
            until(plugged.holds)
            here.unplug(C1, soon())
            with pytest.raises(NotFound, match="no port for the endpoint c1c1c1c1c1c1"):
                waits.result(60)

    def test_outlives_a_restart_of_the_database(self, plugged: OpenVswitch, here: Vswitch) -> None:
        with ThreadPoolExecutor() as threads:
            waits = threads.submit(here.enter, C1, SANDBOX, soon())
            until(plugged.holds)
            plugged.kill()
            plugged.start()
            ovn_installed(plugged)
            assert waits.result() == (None, True)

    def test_why_they_are_late(self, plugged: OpenVswitch, here: Vswitch) -> None:
        assert here.why_late(C1, soon()) == "ovn-controller has not installed its flows"
        assert here.why_late(C2, soon()) == "its port has gone from Open vSwitch"
        with pytest.raises(OvnDockerError):
            plug(here, Endpoint(C2, NET))
        assert re.match(r"Open vSwitch says: .*No such device", here.why_late(C2, soon()))


class TestTheBridgeOfAVm:
    def test_needs_no_ovn_controller(
        self, open_vswitch: OpenVswitch, here: Vswitch, connect: Connect
    ) -> None:
        add_link()
        plug(here)
        bridge = VmBridge(connect(open_vswitch), "br-int", "vif")
        assert bridge.enter(C1, SANDBOX, soon()) == (None, True)
        assert open_vswitch.interface(LINK)["external_ids"]["vm-id"] == SANDBOX
        assert bridge.chassis(soon(), without=C1).system_id == "vif"
        assert open_vswitch.ports() == {}


class TestWhatIsKnown:
    def test_of_an_endpoint(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        add_link()
        plug(here)
        assert here.endpoint_info(C1, soon()) == {"mac_address": "02:42:c0:a8:01:02", "veth": LINK}
        assert here.endpoint_info(C2, soon()) == {}

    def test_of_all_endpoints_here(self, open_vswitch: OpenVswitch, here: Vswitch) -> None:
        add_link()
        plug(here)
        open_vswitch.transact(
            {"op": "insert", "table": "Interface", "uuid-name": "i", "row": {"name": "vm1"}},
            {"op": "insert", "table": "Port", "uuid-name": "p",
             "row": {"name": "vm1", "interfaces": ["named-uuid", "i"]}},
            {"op": "mutate", "table": "Bridge", "where": [],
             "mutations": [["ports", "insert", ["named-uuid", "p"]]]},
        )  # fmt: skip
        (found,) = here.endpoints(soon())
        assert found == StoredEndpoint(C1, NET, "host1", found.age)
        assert 0 <= found.age < 60
