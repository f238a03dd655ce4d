"""``ovn-docker join``: a host proves itself with a token, gets a certificate, is set up and started."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ovn_docker.deadline import Deadline
from ovn_docker.enrolment.enquiry import Enquiry, central_addresses
from ovn_docker.enrolment.messages import Enrolled
from ovn_docker.enrolment.own_certificate import make_request, verify
from ovn_docker.enrolment.tokens import Token
from ovn_docker.errors import Conflict
from ovn_docker.host import ovsdb
from ovn_docker.host.durable_files import replace_file
from ovn_docker.host.openvswitch import LocalVswitch, local_database
from ovn_docker.host.run import require
from ovn_docker.model import IpAddress
from ovn_docker.setup.certificate_name import make_system_id
from ovn_docker.setup.certificates import read_certificate
from ovn_docker.setup.hosts.database_clients import northbound_database, southbound_database
from ovn_docker.setup.hosts.host_services import start_host, start_vswitch
from ovn_docker.setup.hosts.host_setup import HostSettings, set_up_host
from ovn_docker.setup.own_addresses import own_addresses
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import OWN_DIRECTORY, OWN_FILES, TLS_DIRECTORY, TlsFiles
from ovn_docker.setup.vswitch_row import read_external_ids

_REGISTERED = 15.0
"""Seconds until OVN knows the host."""


@dataclass(frozen=True)
class JoinSettings:
    """The values of ``join``; those that are ``None`` stay, or are found out."""

    central: IpAddress
    token: Token
    encap_ip: IpAddress | None = None
    encap_type: str | None = None
    datapath: str = "auto"


def join(steps: Steps, settings: JoinSettings) -> None:
    """Make this machine a host of the cluster whose central machine gave out the token.

    Raises:
        Forbidden: the token, or the machine at the address, is refused.
        Conflict: this machine belongs to another cluster, or another machine has its name.
        Unavailable: the central machine, or a program of this one, does not answer.

    """
    require("openssl")
    enquiry = Enquiry(settings.central)
    authority = enquiry.authority(settings.token)
    start_vswitch(steps)
    name = read_external_ids().get("system-id") or make_system_id(steps)
    central = _members(settings.central)
    if not _has_certificate(authority, name):
        answer = _enrol(steps, enquiry, settings.token, authority, name)
        if answer is None:
            return
        central = tuple(map(ip_address, answer.central)) or (settings.central,)
        if answer.source not in own_addresses():
            steps.advise(
                f"warning: the central machine sees this host as {answer.source}, which is not its own "
                "address: a router between them translates addresses, and tunnels do not pass that"
            )
    set_up_host(
        steps,
        HostSettings(central, settings.encap_ip, settings.encap_type, settings.datapath, True, OWN_FILES),
    )
    _warn_of_bridge(steps)
    start_host(steps)


def await_registration(steps: Steps) -> str:
    """Wait until OVN knows this host. Return a line such as ``host3 is in: 3 hosts, 2 networks``.

    Raises TimedOut.
    """
    name = read_external_ids()["system-id"]
    with ExitStack() as connections:
        local = connections.enter_context(closing(local_database()))
        chassis = LocalVswitch(local).chassis(Deadline(_REGISTERED))
        northbound = connections.enter_context(closing(northbound_database()(chassis)))
        southbound = connections.enter_context(closing(southbound_database(northbound.tls)))

        def hosts() -> set[str]:
            select = ovsdb.select("Chassis", columns=["name"])
            (rows,) = southbound.transact(select, deadline=Deadline(_REGISTERED))
            return {row.text("name") for row in rows}

        steps.wait(
            f"registration of {name} in the southbound database",
            lambda: name in hosts(),
            seconds=_REGISTERED,
            hint="see /var/log/ovn/ovn-controller.log",
        )
        switches = ovsdb.select("Logical_Switch", columns=["_uuid"])
        (networks,) = northbound.transact(switches, deadline=Deadline(_REGISTERED))
        return f"{name} is in: {_number(len(hosts()), 'host')}, {_number(len(networks), 'network')}"


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _members(central: IpAddress) -> tuple[IpAddress, ...]:
    """Return the central machines that this host has as its own already, if this is one of them."""
    known = tuple(central_addresses(read_external_ids().get("ovn-remote", "").split(",")))
    return known if central in known else (central,)


def _has_certificate(authority: str, name: str) -> bool:
    """Return whether this machine has a certificate of the authority in its name.

    Raises:
        Conflict: it has one of another authority, or in another name, or a file is missing.

    """
    if not OWN_DIRECTORY.exists():
        return False
    if absent := [path for path in OWN_FILES if not Path(path).is_file()]:
        raise Conflict(f"{absent[0]} is missing: put it there, or move {OWN_DIRECTORY} away")
    certificate = read_certificate(Path(OWN_FILES.certificate))
    own = Path(OWN_FILES.ca_cert).read_text(encoding="utf-8")
    if own.strip() != authority.strip():
        raise Conflict(
            f"{OWN_DIRECTORY} has a certificate of another cluster; run `ovn-docker leave` first, or move it "
            "away"
        )
    if certificate.name != name:
        raise Conflict(
            f"{OWN_FILES.certificate} is for {certificate.name}, and this machine is {name}; move "
            f"{OWN_DIRECTORY} away"
        )
    return certificate.days_left >= 0


def _enrol(steps: Steps, enquiry: Enquiry, token: Token, authority: str, name: str) -> Enrolled | None:
    """Get a certificate; put it with key and authority into place, all at once. In a dry run return None.

    The key is made once and kept until then: a host that is interrupted asks again with the same key, and so
    uses up no second use of the token.
    """
    partial = OWN_DIRECTORY.with_name(".tls.joining")
    key = partial / "key.pem"
    if not partial.is_dir():
        steps.change(f"make {partial}", "mkdir", "--parents", "--mode=700", str(partial))
    if not key.exists():
        if OWN_DIRECTORY.exists():  # its certificate has ended, and the authority knows its key
            steps.change("keep the private key", "cp", "-p", OWN_FILES.private_key, str(partial / ".key.pem"))
        else:
            steps.change("make a private key, which stays on this machine", *_new_key(partial))
        steps.change("put it in place", "mv", str(partial / ".key.pem"), str(key))
    steps.show(
        f"ask {enquiry.central} for a certificate in the name of {name}",
        f"openssl req -new -key {key} -subj /CN={name}",
    )
    if steps.dry_run:
        steps.advise(
            "then it would set this host up and start it, as these do: ovn-docker host setup --central "
            f"{enquiry.central} --tls {OWN_DIRECTORY}, ovn-docker host start"
        )
        return None
    answer = enquiry.enrol(token, authority, name, make_request(key, name))
    replace_file(partial / "ca.pem", authority, 0o644)
    replace_file(partial / "cert.pem", answer.certificate, 0o644)
    verify(TlsFiles(*(str(partial / file) for file in TLS_DIRECTORY)), name)
    if OWN_DIRECTORY.exists():
        shutil.rmtree(OWN_DIRECTORY)  # its certificate has ended
    partial.rename(OWN_DIRECTORY)
    return answer


def _new_key(directory: Path) -> Sequence[str]:
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    return "openssl", "genpkey", "-quiet", *curve, "-out", str(directory / ".key.pem")


def _warn_of_bridge(steps: Steps) -> None:
    """Warn if the address of the tunnels is that of one of Docker's bridges, which no other host reaches."""
    own = read_external_ids().get("ovn-encap-ip", "")
    interface = own_addresses().get(own, "")
    of_docker = interface.startswith(("docker", "br-")) and interface != "br-int"
    if of_docker and Path(f"/sys/class/net/{interface}/bridge").exists():
        steps.advise(
            f"warning: the tunnel address {own} is that of the bridge {interface}, which other hosts do not "
            "reach; give the address that they reach: --encap-ip IP"
        )
