"""`ovn-docker pki`, and `ovn-docker central start --cluster` on a machine that is a cluster of its own.

Three machines: e2e/test_database_cluster.py.
"""

import json
import re
from collections.abc import Iterator

import pytest

from functional.machine import Machine
from functional.ovsdb_servers import until

DEFAULTS = "/etc/default/ovn-central"
OVN_CTL = "/usr/share/ovn/scripts/ovn-ctl"
OVS_CTL = "/usr/share/openvswitch/scripts/ovs-ctl"
TLS = "/etc/ovn/tls"
SSL_OPTIONS = [
    f"--ovn-sb-db-ssl-{option}={TLS}/{option.removesuffix('-cert')}.pem"
    for option in ("key", "cert", "ca-cert")
]
PEM = {"private-key": "key", "certificate": "cert", "ca-cert": "ca"}
CLUSTER = ("central", "start", "--cluster=127.0.0.1", f"--tls={TLS}")


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of an authority with a certificate of a central machine, to be copied."""
    directory, machine = str(tmp_path_factory.mktemp("pki")), Machine()
    pki(machine, "init", directory=directory)
    pki(machine, "central", "db1", "--address=127.0.0.1", directory=directory)
    machine.close()
    return directory


@pytest.fixture
def certified(machine: Machine, authority: str) -> Machine:
    """A machine with an authority in /run/pki and its own files in TLS."""
    machine.out("cp", "-a", authority, "/run/pki")
    machine.out("cp", "-r", "/run/pki/db1", TLS)
    return machine


def pki(machine: Machine, *argv: str, directory: str = "/run/pki") -> str:
    """Return the output of a command that must succeed, and change nothing the second time."""
    return machine.apply("pki", *argv, f"--directory={directory}")


def x509(machine: Machine, name: str, *shown: str) -> str:
    return machine.out("openssl", "x509", "-noout", "-in", f"/run/pki/{name}/cert.pem", *shown)


# pki


@pytest.mark.slow
def test_certificates_have_the_usage_and_names_of_their_machine(certified):
    pki(certified, "host", "host1")
    said = x509(certified, "host1", "-subject", "-ext", "extendedKeyUsage,basicConstraints")
    assert "CN = host1" in said
    assert "TLS Web Client Authentication" in said
    assert "Server" not in said
    assert "CA:FALSE" in said
    said = x509(certified, "db1", "-ext", "extendedKeyUsage,subjectAltName")
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in said
    assert "IP Address:127.0.0.1" in said
    for name in ("db1", "host1"):
        certified.out("openssl", "verify", "-CAfile", f"/run/pki/{name}/ca.pem", f"/run/pki/{name}/cert.pem")
    assert set(certified.out("sh", "-c", "stat -c %a /run/pki/*key.pem /run/pki/*/key.pem").split()) == {
        "600"
    }
    assert set(certified.out("sh", "-c", "stat -c %a /run/pki /run/pki/*/").split()) == {"700"}


@pytest.mark.slow
def test_a_certificate_is_renewed_when_it_is_due_and_keeps_its_key(certified):
    before = certified.out("cat", "/run/pki/db1/key.pem")
    said = pki(certified, "central", "db1", "--address=127.0.0.1,fd00::1")
    assert "renew the certificate of db1: its addresses were 127.0.0.1" in said
    assert "IP Address:FD00:0:0:0:0:0:0:1" in x509(certified, "db1", "-ext", "subjectAltName")
    assert certified.out("cat", "/run/pki/db1/key.pem") == before
    certified.ovn_docker("pki", "host", "short", "--days=20", "--directory=/run/pki")
    assert "renew the certificate of short: 19 days are left" in pki(certified, "host", "short")
    certified.out("mv", "/run/pki/ca.pem", "/run/old.pem")
    pki(certified, "init")
    assert "the authority is another one" in pki(certified, "host", "short")
    certified.out("openssl", "verify", "-CAfile", "/run/pki/short/ca.pem", "/run/pki/short/cert.pem")


@pytest.mark.slow
def test_a_directory_left_by_a_killed_run_is_replaced(certified):
    certified.out("mkdir", "/run/pki/.host1.partial")
    pki(certified, "host", "host1")
    assert certified.out("ls", "-A", "/run/pki").split() == ["ca-key.pem", "ca.pem", "db1", "host1"]


@pytest.mark.slow
def test_pki_list_shows_all_certificates(certified):
    pki(certified, "host", "host1")
    listed = json.loads(certified.ovn_docker("pki", "list", "--json", "--directory=/run/pki").stdout)
    assert [(one["kind"], one["days_left"]) for one in listed] == [
        ("authority", 3649), ("central", 824), ("host", 824),
    ]  # fmt: skip
    assert listed[1]["addresses"] == ["127.0.0.1"]
    assert re.search(
        r"(?m)^host1 +host +824$", certified.ovn_docker("pki", "list", "--directory=/run/pki").stdout
    )


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("host", "../host1"), "invalid name"),
        (("host", "a" * 65), "invalid name"),
        (("host", "x/CN=y"), "invalid name"),
        (("central", "db1", "--address=db1"), "'db1' is not an IP address"),
        (("host", "h", "--days=0"), "give 1 to 3650"),
        (("central", "--address=10.0.0.1"), "there is no authority in /run/pki"),
        (("host", "h"), "there is no authority in /run/pki; make one with `ovn-docker pki init`"),
        (("list",), "there is no certificate in /run/pki"),
        (("list", "--json"), "there is no certificate in /run/pki"),
    ],
)
def test_pki_refuses_invalid_arguments(machine, argv, why):
    _, said = machine.refusal("pki", *argv, "--directory=/run/pki")
    assert why in said


@pytest.mark.slow
def test_the_certificate_of_a_central_machine_is_named_by_its_system_id(certified):
    """A machine with databases and containers has one certificate, by whose name OVN knows it."""
    certified.out("sh", "-c", "echo host7 >/etc/openvswitch/system-id.conf")
    pki(certified, "central", "--address=127.0.0.1")
    assert "CN = host7" in x509(certified, "host7", "-subject")
    certified.out(OVS_CTL, "start", "--system-id=host8")
    pki(certified, "central", "--address=127.0.0.1")
    assert "CN = host8" in x509(certified, "host8", "-subject")
    certified.out("ovs-vsctl", "--no-wait", "set", "Open_vSwitch", ".", "external_ids:system-id=../x")
    code, said = certified.refusal("pki", "central", "--address=127.0.0.1", "--directory=/run/pki")
    assert (code, "give NAME" in said) == (2, True)


# the name in a certificate, with access control


def host_setup(tls: str) -> tuple[str, ...]:
    usual = ("host", "setup", "--central=127.0.0.1", "--encap-ip=127.0.0.1", "--encap-type=geneve")
    return (*usual, f"--tls={tls}")


@pytest.fixture
def host(certified: Machine) -> Machine:
    """A machine with Open vSwitch, whose system-id is host1 and whose certificate is db1's."""
    certified.out(OVS_CTL, "start", "--system-id=host1")
    return certified


def chassis(machine: Machine) -> str:
    return machine.out("ovn-sbctl", "--bare", "--columns=name", "list", "Chassis")


@pytest.mark.slow
def test_host_setup_refuses_a_certificate_in_another_name_with_access_control(host):
    host.apply("central", "start", f"--tls={TLS}", "--rbac")
    code, said = host.refusal(*host_setup(TLS))
    assert code == 2
    assert f"{TLS}/cert.pem is for 'db1', and this host's system-id is 'host1'" in said
    assert "`ovn-docker pki central host1 --address 127.0.0.1`" in said
    pki(host, "central", "host1", "--address=127.0.0.1")
    host.out("sh", "-c", f"cp /run/pki/host1/* {TLS}")
    host.apply("central", "start", f"--tls={TLS}", "--rbac")
    assert "warning" not in host.apply(*host_setup(TLS))
    host.out(OVN_CTL, "start_controller")
    until(lambda: chassis(host) == "host1")


@pytest.mark.slow
def test_the_doctor_names_the_certificate_that_keeps_a_host_out(host):
    """The host may have been set up before access control was enabled."""
    host.apply("central", "start", f"--tls={TLS}")
    assert "where the databases have access control" in host.output(*host_setup(TLS))
    said = host.output("central", "start", "--rbac")
    assert "warning: /etc/ovn/tls/cert.pem is for 'db1', and this host's system-id is 'host1'" in said
    host.out(OVN_CTL, "start_controller")
    log = ("cat", "/var/log/ovn/ovn-controller.log")
    until(lambda: "permission error" in host.out(*log))
    assert chassis(host) == ""
    results = json.loads(host.ovn_docker("doctor", "--json").stdout)
    (finding,) = next(one["findings"] for one in results if one["name"] == "certificate-name")
    assert "is for 'db1', and this host's system-id is 'host1'" in finding["evidence"]
    assert finding["commands"] == [["ovn-docker", "pki", "central", "host1", "--address", "127.0.0.1"]]
    assert next(one["because"] for one in results if one["name"] == "registered") == "certificate-name"
    pki(host, "central", "host1", "--address=127.0.0.1")
    host.out("sh", "-c", f"cp /run/pki/host1/* {TLS}")
    host.out(OVN_CTL, "restart_controller")
    until(lambda: chassis(host) == "host1")
    results = json.loads(host.ovn_docker("doctor", "--json").stdout)
    assert {one["name"]: one["status"] for one in results}["certificate-name"] == "ok"


@pytest.mark.slow
def test_the_doctor_finds_listeners_that_hosts_can_change(host):
    host.out(OVN_CTL, "start_northd")
    files = [f"{TLS}/{file}.pem" for file in PEM.values()]
    for control, port in (("ovn-nbctl", 6641), ("ovn-sbctl", 6642)):
        host.out(control, "set-ssl", *files, "--", "set-connection", f"pssl:{port}")
    host.output(*host_setup(TLS))
    results = json.loads(host.ovn_docker("doctor", "--json").stdout)
    findings = next(one["findings"] for one in results if one["name"] == "database-listeners")
    assert ["pssl:6641" in findings[0]["evidence"], "pssl:6642" in findings[1]["evidence"]] == [True, True]
    host.apply("central", "start")
    results = json.loads(host.ovn_docker("doctor", "--json").stdout)
    assert {one["name"]: one["status"] for one in results}["database-listeners"] == "ok"


# central start --cluster


@pytest.mark.slow
def test_a_cluster_keeps_the_networks_of_the_machine_that_makes_it(certified):
    certified.output("central", "start", "--address=127.0.0.1")
    certified.out("ovn-nbctl", "ls-add", "web")
    code, said = certified.refusal(*CLUSTER)
    assert code == 3
    assert "nobody to join" in said
    assert "--create" in said
    said = certified.apply(*CLUSTER, "--create", "--rbac")
    assert "ptcp:6641:127.0.0.1 -> pssl:6641" in said
    assert "let hosts change only their own rows of the southbound database" in said
    assert certified.out("ovn-nbctl", "--bare", "--columns=name", "list", "Logical_Switch") == "web"
    files = [f"--{option}={TLS}/{file}.pem" for option, file in PEM.items()]
    assert "web" in certified.out("ovn-nbctl", "--db=ssl:127.0.0.1:6641", *files, "ls-list")
    assert certified.out("ls", "/var/lib/ovn").count("standalone") == 2


@pytest.mark.slow
def test_networks_survive_the_loss_of_a_cluster(certified):
    """The steps are those of docs/security.md for the last member of a cluster."""
    certified.apply(*CLUSTER, "--create")
    certified.out("ovn-nbctl", "ls-add", "web")
    certified.apply("central", "stop")
    for database in ("nb", "sb"):
        file = f"/var/lib/ovn/ovn{database}_db.db"
        certified.out("ovsdb-tool", "cluster-to-standalone", "/run/alone.db", file)
        certified.out("mv", "/run/alone.db", file)
    certified.apply(*CLUSTER, "--create")
    assert "web" in certified.out("ovn-nbctl", "ls-list")


@pytest.mark.slow
def test_central_start_keeps_a_member_and_the_options_of_the_administrator(certified):
    certified.out("sh", "-c", "echo 'OVN_CTL_OPTS=\"--ovn-northd-n-threads=2\"' >/etc/default/ovn-central")
    certified.apply(*CLUSTER, "--create")
    status = certified.ovn_docker("central", "status")
    assert status.returncode == 0, status
    assert "northbound database  ssl:127.0.0.1:6643" in status.stdout
    assert status.stdout.count("leader") == 2
    certified.apply("central", "stop")
    assert certified.ovn_docker("central", "status").returncode == 3
    certified.apply("central", "start")
    command = certified.out("sh", "-c", "tr '\\0' ' ' </proc/$(cat /run/ovn/ovn-northd.pid)/cmdline")
    assert "--n-threads=2" in command
    assert "--ovnnb-db=ssl:127.0.0.1:6641 --ovnsb-db=unix:" in command
    cluster = json.loads(certified.ovn_docker("central", "status", "--json").stdout)["clusters"]
    assert cluster["OVN_Southbound"]["role"] == "leader"
    assert "nothing to change" in certified.ovn_docker(*CLUSTER).stdout
    assert "nothing to change" in certified.ovn_docker(*CLUSTER, "--create").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("--cluster=10.9.9.9", f"--tls={TLS}"), "give one address of each member, one of them this host's"),
        (("--cluster=127.0.0.1",), "a cluster needs TLS"),
        (("--cluster=127.0.0.1", "--tls=/nowhere"), "/nowhere/key.pem is not a readable file"),
        (("--create",), "--create is for --cluster"),
        (("--rbac", "--plain"), "--rbac needs TLS"),
        (("--cluster=127.0.0.1", "--address=127.0.0.1"), "not allowed with argument"),
    ],
)
def test_central_start_refuses_contradictory_arguments_of_a_cluster(certified, argv, why):
    _, said = certified.refusal("central", "start", *argv)
    assert why in said
    assert certified.listening() == set()


def test_a_key_that_is_accessible_to_others_is_refused(certified):
    certified.out("chmod", "644", f"{TLS}/key.pem")
    _, said = certified.refusal(*CLUSTER, "--create")
    assert f"private key {TLS}/key.pem is accessible to others (mode 0644)" in said


def permission_error(machine: Machine) -> bool:
    """Return whether host1, with its own certificate, is refused a change of a row of others."""
    files = [f"--{option}=/run/pki/host1/{file}.pem" for option, file in PEM.items()]
    change = ("set", "SB_Global", ".", "external_ids:tried=yes")
    done = machine.run("ovn-sbctl", "--timeout=5", "--db=ssl:127.0.0.1:6642", *files, *change)
    assert done.returncode == 0 or "permission error" in done.stderr, done
    machine.out("ovn-sbctl", "remove", "SB_Global", ".", "external_ids", "tried")
    return done.returncode != 0


@pytest.mark.slow
def test_access_control_is_in_force_when_central_status_reports_it(certified):
    pki(certified, "host", "host1")
    certified.apply("central", "start", f"--tls={TLS}", "--address=127.0.0.1")
    assert not permission_error(certified)
    assert "pssl:6642:127.0.0.1, with access control" in certified.apply("central", "start", "--rbac")
    assert permission_error(certified)
    status = certified.ovn_docker("central", "status")
    assert (status.returncode, "hosts are restricted" in status.stdout) == (0, True)
    assert "nothing to change" in certified.ovn_docker("central", "start").stdout
    certified.apply("central", "stop")
    certified.apply("central", "start")
    assert permission_error(certified)
    # A role that is added to a row does not affect a server that already listens.
    certified.out("ovn-sbctl", "set-connection", "pssl:6642:127.0.0.1")
    certified.out(OVN_CTL, "restart_sb_ovsdb", "--db-sb-use-remote-in-db=yes", *SSL_OPTIONS)
    uuid = certified.out("ovn-sbctl", "--bare", "--columns=_uuid", "list", "Connection")
    certified.out("ovn-sbctl", "set", "Connection", uuid, "role=ovn-controller")
    status = certified.ovn_docker("central", "status")
    assert (status.returncode, "NOT restricted" in status.stdout) == (3, not permission_error(certified))
    certified.apply("central", "start", "--rbac")
    assert permission_error(certified)
    certified.apply("central", "start", "--no-rbac")
    assert not permission_error(certified)
    assert certified.out("ovn-sbctl", "get-connection") == ""


@pytest.mark.slow
def test_access_control_removes_listeners_that_hosts_have_written(certified):
    """Without the role every host can write such a row."""
    certified.apply("central", "start", f"--tls={TLS}")
    certified.out("ovn-sbctl", "set-connection", "ptcp:16642", "--", "set-ssl", *["/etc/hostname"] * 3)
    said = certified.apply("central", "start", "--rbac")
    assert "remove the row that had the southbound database listen on ptcp:16642" in said
    assert certified.listening() == {"0.0.0.0:6641", "0.0.0.0:6642"}
    assert "ptcp" not in certified.out("ovn-sbctl", "get-connection")
    assert certified.out("ovn-sbctl", "get-ssl") == ""


@pytest.mark.slow
def test_a_listener_with_access_control_keeps_its_other_settings(certified):
    certified.apply("central", "start", f"--tls={TLS}", "--rbac")
    uuid = certified.out("ovn-sbctl", "--bare", "--columns=_uuid", "list", "Connection")
    certified.out("ovn-sbctl", "set", "Connection", uuid, "inactivity_probe=60000")
    certified.apply("central", "start", "--address=127.0.0.1")
    assert certified.out("ovn-sbctl", "get", "Connection", uuid, "inactivity_probe") == "60000"
    assert "127.0.0.1:6642" in certified.listening()


@pytest.mark.slow
def test_central_start_of_a_member_replaces_listeners_that_rows_set(certified):
    """An earlier version set it up by rows, which other members of that version still need."""
    certified.apply(*CLUSTER, "--create")
    certified.out(
        "sed", "-i", "-E", r"s/ --(db-.b-use|db-.b-create|ovn-.b-log)[^ ]+//g; s/ -- .*$/\"/", DEFAULTS
    )
    certified.out("ovn-nbctl", "set-connection", "pssl:6641")
    certified.out("ovn-sbctl", "set-connection", "role=ovn-controller", "pssl:6642")
    for database in ("nb", "sb"):
        certified.out("sh", "-c", f". {DEFAULTS}; {OVN_CTL} restart_{database}_ovsdb $OVN_CTL_OPTS")
    pki(certified, "host", "host1")
    assert permission_error(certified)
    assert "which every host can change" in certified.ovn_docker("central", "status").stdout
    said = certified.apply("central", "start")
    assert "when this has run on all members, remove them: ovn-nbctl --no-leader-only del-connection" in said
    assert certified.ovn_docker("central", "status").returncode == 0
    assert certified.out("ovn-nbctl", "get-connection") == "pssl:6641"
    certified.out("ovn-nbctl", "--no-leader-only", "del-connection")
    assert certified.listening() >= {"0.0.0.0:6641", "0.0.0.0:6642"}
    assert permission_error(certified)


def test_central_start_dry_run_makes_no_cluster(certified):
    done = certified.ovn_docker(*CLUSTER, "--create", "--rbac", "--dry-run")
    assert done.returncode == 0, done
    assert "would make a cluster of the northbound database" in done.stdout
    assert certified.out("ls", "/var/lib/ovn") == ""
    assert certified.listening() == set()
