"""Authority and certificate of a machine that becomes the central machine of a new cluster."""

from collections.abc import Sequence
from ipaddress import ip_address

from ovn_docker.errors import BadRequest
from ovn_docker.model import IpAddress
from ovn_docker.setup import certificates
from ovn_docker.setup.central import listeners
from ovn_docker.setup.certificate_name import make_system_id
from ovn_docker.setup.databases import DATABASES
from ovn_docker.setup.own_addresses import own_addresses, require_own
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import OWN_DIRECTORY

_DOCKERS = ("docker", "br-", "veth")
"""Beginnings of the names of Docker's interfaces, whose addresses no other machine reaches."""


def is_new(address: IpAddress | None) -> bool:
    """Return whether this machine has no listener so far, and others are to reach it."""
    if address is not None and address.is_loopback:
        return False
    return not any(listeners.now(database) or database.clustered() for database in DATABASES)


def make_identity(steps: Steps, address: IpAddress | None) -> None:
    """Make the authority of a new cluster, and the certificate of this machine; put that into OWN_DIRECTORY.

    *address*: the one at which hosts reach it; all of its own if that is None or unspecified.
    """
    reached = _reached_at(address)
    certificates.make_authority(steps, certificates.DIRECTORY, certificates.AUTHORITY_DAYS)
    try:
        name = certificates.own_name()
    except BadRequest:
        name = make_system_id(steps)
    certificates.issue(steps, certificates.DIRECTORY, name, reached, certificates.DAYS)
    if not OWN_DIRECTORY.exists():
        partial = OWN_DIRECTORY.with_name(".tls.partial")
        made = certificates.DIRECTORY / name
        steps.change("copy key and certificate of this machine", "cp", "-rpT", str(made), str(partial))
        steps.change("put them in place", "mv", "-T", str(partial), str(OWN_DIRECTORY))


def _reached_at(address: IpAddress | None) -> Sequence[IpAddress]:
    """Return the addresses at which other machines may reach this one. Raises BadRequest without any."""
    if address is not None and not address.is_unspecified:
        require_own("--address", address)
        return [address]
    own = {ip_address(text): link for text, link in own_addresses().items()}
    found = [
        ip
        for ip, link in own.items()
        if not (ip.is_loopback or ip.is_link_local or link.startswith(_DOCKERS))
    ]
    if not found:
        raise BadRequest("this machine has no address that others reach; give --address IP, or --plain")
    return found
