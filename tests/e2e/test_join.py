"""A cluster from bare machines: `central start` on one, `join` with its token on each, and `leave`."""

import datetime as dt
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from e2e.lab import CommandError, Fabric, Host, wait_for
from e2e.lab.command import at_once
from e2e.test_names import NAME_SERVER, finds, run_by_script, take_over

Machines = tuple[Host, Host, Host]


@pytest.fixture
def machines(fabric: Fabric) -> Machines:
    """Three machines with the packages alone: Docker and Open vSwitch run, nothing is set up."""
    hosts = fabric.add_hosts("host1", "host2", "host3")

    def install(host: Host) -> None:
        host.start_switch()
        host.start_docker()
        host.load("busybox")

    at_once(install, hosts)
    host1, host2, host3 = hosts
    return host1, host2, host3


def start_central(host: Host) -> str:
    """Start the central machine; return the command that it prints for the hosts."""
    said = host.run("ovn-docker", "central", "start", "--address", host.address, timeout=100)
    (line,) = re.findall(r"^ *(ovn-docker join \S+ --token \S+)$", said, re.MULTILINE)
    return str(line)


def join(host: Host, command: str, *options: str) -> str:
    """Type the command, with the tunnel address: the lab's hosts have a second interface for tunnels."""
    words = (*command.split(), f"--encap-ip={host.tunnel_address}", *options)
    return host.run("sh", "-c", '"$@" 2>&1', "sh", *words, timeout=100)


def test_three_machines_become_a_cluster_with_one_command_each(machines: Machines) -> None:
    host1, host2, host3 = machines
    host1.spawn("python3", "-c", NAME_SERVER, host1.address)
    for host in machines:
        host.path("/etc/resolv.conf").write_text(f"nameserver {host1.address}\n")
        run_by_script(host)
    command = start_central(host1)
    assert command.startswith(f"ovn-docker join {host1.address} --token ovnd1.")
    assert "would ask" in join(host2, command, "--dry-run")
    for number, host in enumerate(machines, start=1):
        name = host.run("ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids:system-id").strip('"\n')
        said = join(host, command, "--docker-dns", "--restart-docker")
        take_over(host)
        assert f"{name} is in: {number} host{'s' if number > 1 else ''}, 0 networks" in said
        assert "sees this host as" not in said
        key = host.path("/etc/ovn-docker/tls/key.pem")
        assert key.stat().st_mode & 0o777 == 0o600
    assert "nothing to change" not in join(host2, command)
    if host1.fabric.userspace:
        at_once(lambda host: host.meet(list(machines)), machines)
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "-o", "ovn.network=foo")
    host2.docker(*create, "--subnet=10.1.0.0/16", "foo")
    wait_for(lambda: "foo" in host3.docker("network", "ls"), "foo on host3")
    host2.docker("run", "-d", "--net=foo", "--name=web", "--stop-signal=KILL", "busybox", "sleep", "3600")
    address = host2.docker("inspect", "--format={{.NetworkSettings.Networks.foo.IPAddress}}", "web")
    host3.docker("run", "-d", "--net=foo", "--name=client", "--stop-signal=KILL", "busybox", "sleep", "3600")
    finds(host3, "client", "web", address)
    host3.ping("client", "web")
    host3.docker("rm", "--force", "client")
    with pytest.raises(CommandError, match="containers run on networks of the cluster: web; remove them, or"):
        host2.run("ovn-docker", "leave")
    host2.docker("rm", "--force", "web")
    name = host2.run("ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids:system-id").strip('"\n')
    assert host2.path("/etc/docker/daemon.json").exists()
    assert "have Docker ask OVN no more for names" in host2.run("ovn-docker", "leave")
    assert list(host2.path("/etc/docker").glob("daemon.json*")) == []
    assert not host2.path("/etc/ovn-docker/tls").exists()
    assert name not in host1.run("ovn-sbctl", "show")
    assert name not in host1.run("ovn-nbctl", "list", "DHCP_Options")
    with pytest.raises(CommandError, match="this machine belongs to no cluster"):
        host2.run("ovn-docker", "leave")
    host2.docker("network", "rm", "foo")
    assert "is in: 3 hosts, 1 network" in join(host2, command)
    host1.run("ovn-docker", "leave")  # the databases go on, with their certificate
    host1.run("ovn-docker", "central", "status")
    assert "is in: 3 hosts, 1 network" in join(host1, command)


@pytest.mark.faults
def test_hosts_and_central_machine_are_back_after_a_power_cut(machines: Machines) -> None:
    host1, host2, host3 = machines
    command = start_central(host1)
    join(host2, command)
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "-o", "ovn.network=foo")
    host2.docker(*create, "--subnet=10.1.0.0/16", "foo")
    host2.docker("run", "-d", "--net=foo", "--name=web", "--restart=always", "busybox", "sleep", "3600")
    address = host2.docker("inspect", "--format={{.NetworkSettings.Networks.foo.IPAddress}}", "web").strip()
    key = host2.path("/etc/ovn-docker/tls/key.pem").read_bytes()
    for host in (host1, host2):
        host.power_off()
        host.power_on()
        host.start_switch()
    host1.run("ovn-docker", "central", "start", timeout=100)  # as systemd starts the parts at the boot
    host2.run("ovn-docker", "host", "start", timeout=100)
    host2.start_docker()
    assert host2.path("/etc/ovn-docker/tls/key.pem").read_bytes() == key
    assert "is in: 2 hosts, 1 network" in join(host3, command)  # the token is good still
    if host1.fabric.userspace:
        at_once(lambda host: host.meet([host2, host3]), [host2, host3])
    wait_for(lambda: "web" in host2.docker("ps", "--format={{.Names}}"), "web")
    wait_for(lambda: "foo" in host3.docker("network", "ls"), "foo on host3")
    assert (
        host2.docker("inspect", "--format={{.NetworkSettings.Networks.foo.IPAddress}}", "web").strip()
        == address
    )
    host3.docker("run", "--rm", "--net=foo", "busybox", "ping", "-c", "1", "-W", "5", address)


def sign_in_the_past(directory: Path, name: str, request: str) -> str:
    """Return a certificate as `join` gives it, half of whose life is over."""
    day = dt.timedelta(days=7)
    first, last = ((dt.datetime.now(dt.UTC) + one).strftime("%Y%m%d%H%M%SZ") for one in (-day, day))
    with tempfile.TemporaryDirectory() as place:
        Path(place, "index").touch()
        Path(place, "request").write_text(request)
        Path(place, "config").write_text(
            f"[ca]\ndefault_ca = d\n[d]\ndatabase = {place}/index\nnew_certs_dir = {place}\n"
            "rand_serial = yes\ndefault_md = sha256\npolicy = p\nx509_extensions = x\n"
            "[p]\ncommonName = supplied\n[x]\nbasicConstraints = critical,CA:FALSE\n"
            f"extendedKeyUsage = clientAuth\nsubjectAltName = DNS:{name}\n"
        )
        return subprocess.check_output(
            [
                *(
                    "openssl",
                    "ca",
                    "-batch",
                    "-notext",
                    "-config",
                    f"{place}/config",
                    "-in",
                    f"{place}/request",
                ),
                *(
                    "-cert",
                    directory / "ca.pem",
                    "-keyfile",
                    directory / "ca-key.pem",
                    "-subj",
                    f"/CN={name}",
                ),
                *("-startdate", first, "-enddate", last),
            ],
            text=True,
        )


@pytest.mark.faults
def test_the_driver_renews_the_certificate_and_the_host_goes_on(machines: Machines) -> None:
    host1, host2, _ = machines
    command = start_central(host1)
    join(host2, command)
    name = host2.run("ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids:system-id").strip('"\n')
    key, mine = (host2.path(f"/etc/ovn-docker/tls/{file}.pem") for file in ("key", "cert"))
    kept = host1.path(f"/etc/ovn-docker/pki/{name}/cert.pem")
    request = subprocess.check_output(
        ["openssl", "req", "-new", "-config", "/dev/null", "-key", key, "-subj", "/CN=x"], text=True
    )
    older = sign_in_the_past(host1.path("/etc/ovn-docker/pki"), name, request)
    host2.run("ovn-docker", "host", "stop", timeout=100)
    for place in (mine, kept):
        place.write_text(older)
    before = key.read_bytes()
    host2.run("ovn-docker", "host", "start", timeout=100)
    wait_for(lambda: mine.read_text() != older, "another certificate of host2")
    assert mine.read_text() == kept.read_text()
    assert key.read_bytes() == before
    # Programs that run take it for their next connection.
    host1.run("ovs-appctl", "-t", "/var/run/ovn/ovnsb_db.ctl", "ovsdb-server/reconnect")
    create = ("network", "create", "-d", "openvswitch", "--ipam-driver=openvswitch", "--subnet=10.1.0.0/16")
    host2.docker(*create, "foo")
    host2.docker("run", "--rm", "--net=foo", "busybox", "true")
    # An expelled host keeps what it has, and gets no other.
    host1.run("ovn-docker", "token", "expel", name)
    host2.run("ovn-docker", "host", "stop", timeout=100)
    mine.write_text(older)
    host2.run("ovn-docker", "host", "start", timeout=100)
    log = host2.path("/var/log/openvswitch/ovn-docker-overlay-driver.log")
    refused = "cannot renew the certificate of this machine, and try again: the central machine refused: "
    wait_for(
        lambda: f"{refused}host {name} was expelled" in log.read_text(), "the refusal in the driver's log"
    )
    assert mine.read_text() == older


def test_a_wrong_or_revoked_token_changes_nothing(machines: Machines) -> None:
    host1, host2, _ = machines
    command = start_central(host1)
    identity = command.split("ovnd1.")[1].split(".")[0]
    host1.run("ovn-docker", "token", "revoke", identity)
    with pytest.raises(
        CommandError, match="the central machine refused: the token is unknown, or was revoked"
    ):
        join(host2, command)
    with pytest.raises(CommandError, match="has another authority than the token"):
        join(host2, command[:-8] + "00000000")
    assert "ovn-remote" not in host2.run("ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids")
    assert not host2.path("/etc/ovn-docker/tls").exists()
    assert host1.run("ovn-sbctl", "show") == ""
