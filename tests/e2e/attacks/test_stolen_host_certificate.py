"""An attacker with a host's key and certificate against OVN's databases, on one and on three servers."""

from collections.abc import Callable, Iterator

import pytest

from e2e.lab import CommandError, Fabric, Host, wait_for
from e2e.lab.command import at_once
from e2e.lab.fabric import PKI
from e2e.lab.host import OVN_CTL, TLS

PEM = {"private-key": "key", "certificate": "cert", "ca-cert": "ca"}
STOLEN = "/etc/stolen"
"""Directory on the attacker with a host's certificate in the attacker's own name."""


class Lab:
    """Hosts with ovn-controller and TLS, with access control; the third is the attacker."""

    def __init__(self, fabric: Fabric, members: int) -> None:
        first = len(fabric.hosts) + 1
        self.names = [f"host{number}" for number in range(first, first + 3)]
        self.hosts = self.host1, self.host2, self.attacker = fabric.add_hosts(*self.names)
        at_once(Host.start_switch, self.hosts)
        if members == 1:
            self._start_alone()
        else:
            fabric.start_members(list(self.hosts))
        self.central = self.hosts[:members]
        at_once(self._join, self.hosts)
        self.attacker.copy_tls(self.host1, self.issue(self.attacker.name), STOLEN)
        wait_for(lambda: self.chassis() == set(self.names), "three chassis")

    def _start_alone(self) -> None:
        self.host1.run("ovn-docker", "pki", "init", f"--directory={PKI}")
        address = f"--address={self.host1.address}"
        self.host1.run("ovn-docker", "pki", "central", address, f"--directory={PKI}")
        for host in self.hosts[1:]:
            self.host1.run("ovn-docker", "pki", "host", host.name, f"--directory={PKI}")
        for host in self.hosts:
            host.copy_tls(self.host1, f"{PKI}/{host.name}")
        self.host1.run("ovn-docker", "central", "start", address, f"--tls={TLS}", "--rbac")

    def issue(self, name: str, *command: str) -> str:
        """Issue a certificate for a host without databases; return its directory on the first host."""
        directory = f"{PKI}/stolen"
        self.host1.run("mkdir", "-p", directory)
        self.host1.run("cp", f"{PKI}/ca.pem", f"{PKI}/ca-key.pem", directory)
        self.host1.run(*command, "ovn-docker", "pki", "host", name, f"--directory={directory}", "--days=1")
        return f"{directory}/{name}"

    def _join(self, host: Host) -> None:
        central = ",".join(one.address for one in self.central)
        settings = (f"--encap-ip={host.tunnel_address}", "--encap-type=geneve")
        host.run("ovn-docker", "host", "setup", f"--central={central}", f"--tls={TLS}", *settings)
        host.controller.start()

    def chassis(self) -> set[str]:
        sbctl = ("ovn-sbctl", "--no-leader-only", "--bare", "--columns=name", "list", "Chassis")
        return set(self.host1.run(*sbctl).split())

    def remotes(self, port: int) -> str:
        return ",".join(f"ssl:{host.address}:{port}" for host in self.central)

    def nbctl(self, *command: str, tls: str = STOLEN, host: Host | None = None) -> str:
        """Run ovn-nbctl over the network with a host's certificate, by default the attacker's."""
        return self._tool("ovn-nbctl", 6641, *command, tls=tls, host=host)

    def sbctl(self, *command: str, tls: str = STOLEN, host: Host | None = None) -> str:
        """Run ovn-sbctl over the network with a host's certificate, by default the attacker's."""
        return self._tool("ovn-sbctl", 6642, *command, tls=tls, host=host)

    def _tool(self, tool: str, port: int, *command: str, tls: str, host: Host | None) -> str:
        files = [f"--{name}={tls}/{file}.pem" for name, file in PEM.items()]
        return (host or self.attacker).run(
            tool, "--timeout=25", f"--db={self.remotes(port)}", *files, *command
        )

    def listening(self) -> list[set[str]]:
        """Return the addresses of TCP listeners of each machine with databases."""
        return [{line.split()[3] for line in host.run("ss", "-Hltn").splitlines()} for host in self.central]

    def restart(self) -> None:
        """Restart the servers as Debian's units start them at boot."""
        for host in self.central:
            for database in ("nb", "sb"):
                command = f". /etc/default/ovn-central; {OVN_CTL} restart_{database}_ovsdb $OVN_CTL_OPTS"
                host.run("sh", "-c", command, timeout=60)
        wait_for(self.serves, "the databases to serve")

    def serves(self) -> bool:
        """Return whether an honest host can use both databases."""
        try:
            self.nbctl("ls-list", tls=TLS, host=self.host2)
            change = ("set", "Chassis", self.host2.name, "external_ids:honest=yes")
            self.sbctl(*change, tls=TLS, host=self.host2)
        except CommandError:
            return False
        return True

    def connect(self, version: str, port: int, tls: str = STOLEN) -> str:
        """Return the output of openssl for a connection to the first server, with any ciphers."""
        own = ("-key", f"{tls}/key.pem", "-cert", f"{tls}/cert.pem") if tls else ()
        address = f"{self.host1.address}:{port}"
        ask = ("s_client", f"-{version}", "-cipher", "ALL@SECLEVEL=0", "-connect", address)
        # openssl reports a refusal on standard error; the handshake ends after the last byte is read.
        command = 'openssl "$@" 2>&1 </dev/null'
        return self.attacker.run(
            "sh", "-c", command, "sh", *ask, "-CAfile", f"{STOLEN}/ca.pem", *own, check=False
        )

    def accepts_tls(self, version: str, port: int) -> bool:
        """Return whether the first server accepts a connection with a version of TLS."""
        said = self.connect(version, port)
        return "Verify return code: 0 (ok)" in said and "Cipher is (NONE)" not in said and "alert" not in said


@pytest.fixture(scope="module", params=[3, 1], ids=["cluster of three", "one server"])
def prepared(request: pytest.FixtureRequest, module_fabric: Fabric) -> Iterator[Lab]:
    lab = Lab(module_fabric, request.param)
    yield lab
    at_once(Host.power_off, lab.hosts)


@pytest.fixture
def lab(prepared: Lab) -> Iterator[Lab]:
    """The hosts; rows that a test has written are deleted afterwards."""
    yield prepared
    prepared.host1.run("ovn-nbctl", "--no-leader-only", "del-connection", "--", "del-ssl")
    wait_for(prepared.serves, "the databases to serve")


@pytest.mark.parametrize(
    "rows",
    [
        ("set-connection", "pssl:6641", "ptcp:16641"),
        ("set-connection", "ptcp:16641", "pssl:16642"),
        ("del-connection",),
        ("set-ssl", f"{TLS}/key.pem", f"{TLS}/cert.pem", "/etc/ssl/certs/ca-certificates.crt"),
        ("set-ssl", f"{TLS}/key.pem", f"{TLS}/cert.pem", f"{TLS}/ca.pem", "TLSv1.1", "ALL@SECLEVEL=0"),
        ("set-ssl", "/nowhere", "/nowhere", "/nowhere"),
    ],
    ids=lambda rows: " ".join(rows).replace("/", "-")[:40],
)
def test_rows_of_the_northbound_database_open_and_close_nothing(lab: Lab, rows: tuple[str, ...]) -> None:
    before = lab.listening()
    lab.nbctl(*rows)
    lab.nbctl("ls-list")  # a new connection, which the server accepts after the change
    assert lab.listening() == before
    wait_for(lab.serves, "the databases to serve")
    assert not lab.accepts_tls("tls1_1", 6641)
    assert lab.accepts_tls("tls1_2", 6641)


def test_rows_have_no_effect_after_a_restart(lab: Lab) -> None:
    before = lab.listening()
    lab.nbctl("set-connection", "ptcp:16641", "--", "set-ssl", *["/nowhere"] * 3, "TLSv1.1", "ALL@SECLEVEL=0")
    lab.restart()
    assert lab.listening() == before
    assert not lab.accepts_tls("tls1_1", 6641)
    assert not lab.accepts_tls("tls1_1", 6642)


@pytest.mark.parametrize(
    "change",
    [
        ("set-connection", "ptcp:16642"),
        ("set-connection", "pssl:6642"),  # without the role
        ("del-connection",),
        ("set-ssl", f"{TLS}/key.pem", f"{TLS}/cert.pem", f"{TLS}/ca.pem", "TLSv1.1", "ALL@SECLEVEL=0"),
        ("set", "Chassis", "VICTIM", "external_ids:mine=yes"),
        ("chassis-del", "VICTIM"),
        ("set", "SB_Global", ".", "nb_cfg=7777"),
        ("remove", "RBAC_Role", "ovn-controller", "permissions", "Chassis"),
        ("destroy", "RBAC_Role", "ovn-controller"),
        ("--all", "destroy", "RBAC_Permission"),
    ],
    ids=lambda change: " ".join(change).replace("/", "-")[:40],
)
def test_southbound_database_refuses_rows_of_other_hosts(lab: Lab, change: tuple[str, ...]) -> None:
    before = lab.listening()
    with pytest.raises(CommandError, match="permission error"):
        lab.sbctl(*(word.replace("VICTIM", lab.host1.name) for word in change))
    assert lab.listening() == before
    assert lab.chassis() == set(lab.names)


def test_tunnel_address_of_another_host_cannot_be_changed(lab: Lab) -> None:
    row = lab.sbctl("--bare", "--columns=_uuid", "find", "Encap", f"chassis_name={lab.host1.name}")
    with pytest.raises(CommandError, match="permission error"):
        lab.sbctl("set", "Encap", row, f'ip="{lab.attacker.tunnel_address}"')
    own = lab.sbctl("--bare", "--columns=_uuid", "find", "Encap", f"chassis_name={lab.attacker.name}")
    lab.sbctl("set", "Encap", own, "options:tried=yes")


def test_access_control_is_in_force_after_a_restart(lab: Lab) -> None:
    lab.restart()
    with pytest.raises(CommandError, match="permission error"):
        lab.sbctl("set-connection", "ptcp:16642")
    for host in lab.central:  # a member may still be looking for the leader
        wait_for(
            lambda host=host: "hosts are restricted" in host.run("ovn-docker", "central", "status"),  # type: ignore[misc]
            f"access control on {host.name}",
        )


def expired(lab: Lab) -> str:
    """Return a directory on the attacker with a certificate that expired two days ago."""
    lab.attacker.copy_tls(lab.host1, lab.issue("host9", "faketime", "3 days ago"), "/etc/expired")
    return "/etc/expired"


def foreign(lab: Lab) -> str:
    """Return a directory with a certificate of another authority, in the name of the attacker."""
    pki, name = ("ovn-docker", "pki"), lab.attacker.name
    lab.attacker.run(*pki, "init", "--directory=/etc/foreign")
    lab.attacker.run(*pki, "host", name, "--directory=/etc/foreign")
    lab.attacker.run("cp", f"{STOLEN}/ca.pem", f"/etc/foreign/{name}")  # else the client refuses the server
    return f"/etc/foreign/{name}"


@pytest.mark.parametrize("make", [expired, foreign])
def test_invalid_certificate_is_refused(lab: Lab, make: Callable[[Lab], str]) -> None:
    tls = make(lab)
    for port, tool in ((6641, lab.nbctl), (6642, lab.sbctl)):
        with pytest.raises(CommandError):
            tool("--timeout=2", "show", tls=tls)
        said = lab.connect("tls1_2", port, tls)
        assert "alert" in said, said
        assert "Verify return code: 0 (ok)" in said, (
            said
        )  # the client accepted the server, so the server refused
    wait_for(lab.serves, "the databases to serve")


def test_connection_without_a_certificate_is_refused(lab: Lab) -> None:
    for port in (6641, 6642):
        assert "alert handshake failure" in lab.connect("tls1_2", port, "")
