"""``ovn-docker leave``: undoes ``ovn-docker join``."""

import shutil
from contextlib import suppress
from pathlib import Path

from ovn_docker.docker.engine import DockerEngine
from ovn_docker.enrolment.enquiry import Enquiry, central_addresses
from ovn_docker.errors import Conflict, NotFound, OvnDockerError, Unavailable
from ovn_docker.host.places import find_places
from ovn_docker.setup.certificates import read_certificate
from ovn_docker.setup.hosts.host_removal import HostRemoval
from ovn_docker.setup.hosts.host_services import stop_host
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import OWN_DIRECTORY, OWN_FILES, current_tls
from ovn_docker.setup.vswitch_row import read_external_ids
from ovn_docker.text.printable import first_of

_SETTINGS = ("ovn-remote", "ovn-nb", "ovn-encap-ip", "ovn-encap-type")
"""Keys of external_ids that make a machine a host; its system-id stays."""

_SHOWN = 10
"""Containers that the error names."""


def leave(steps: Steps, *, force: bool) -> None:
    """Take this host out of its cluster: the order lets a repetition complete what was interrupted.

    Raises:
        Conflict: containers run on networks of the driver, and not *force*.
        NotFound: this machine belongs to no cluster.
        Unavailable: the central machine does not answer, and not *force*.

    """
    ids = read_external_ids()
    joined = _has_joined()
    if "ovn-remote" not in ids and not joined:
        raise NotFound("this machine belongs to no cluster: Open vSwitch has no ovn-remote")
    if not force:
        _require_no_containers()
    stop_host(steps, with_vswitch=False)
    if "ovn-remote" in ids:
        try:
            _remove_rows(steps, ids.get("system-id", ""))
            if joined:
                _give_back(steps, ids["ovn-remote"])
        except Unavailable as error:
            if not force:
                raise Unavailable(f"{error}; or give --force, and clear up on another host") from None
            steps.advise(
                f"warning: {error}; what this host has in the databases stays until you type on another "
                f"host: ovn-docker gc --host {ids.get('system-id')}"
            )
        keys = [key for key in _SETTINGS if key in ids]
        steps.change(
            "remove the settings of Open vSwitch for OVN",
            *("ovs-vsctl", "--no-wait", "remove", "Open_vSwitch", ".", "external_ids", *keys),
        )
    if current_tls("ovs-vsctl") == OWN_FILES:
        steps.change("take key and certificate from Open vSwitch", "ovs-vsctl", "--no-wait", "del-ssl")
    if joined:
        steps.show(f"remove {OWN_DIRECTORY}", f"rm -r {OWN_DIRECTORY}")
        if not steps.dry_run:
            shutil.rmtree(OWN_DIRECTORY)


def _has_joined() -> bool:
    """Return whether OWN_DIRECTORY has a host's certificate; the databases keep that of a central machine."""
    if not OWN_DIRECTORY.exists():
        return False
    certificate = Path(OWN_FILES.certificate)
    return not certificate.exists() or read_certificate(certificate).kind == "host"


def _require_no_containers() -> None:
    """Raise Conflict if containers run on networks of the driver."""
    engine = DockerEngine(find_places().docker)
    try:
        names, (_, endpoints) = engine.inventory()[0], engine.described()
    except Unavailable:
        return  # no Docker, no containers
    ours = sorted({names.get(endpoint.id, endpoint.id[:12]) for endpoint in endpoints})
    if ours:
        shown = first_of(ours, _SHOWN)
        raise Conflict(f"containers run on networks of the cluster: {shown}; remove them, or give --force")


def _remove_rows(steps: Steps, name: str) -> None:
    """Delete this host's rows of the northbound database; ovn-controller deletes the others as it ends."""
    with HostRemoval(name, leaving=True) as removal:
        if found := removal.belongings():
            steps.show(
                f"delete {len(found)} rows of this host", f"ovn-docker gc --host {name}  # on another host"
            )
            if not steps.dry_run:
                removal.remove(found)


def _give_back(steps: Steps, remotes: str) -> None:
    """Tell the central machines that this host needs no certificate any more."""
    steps.show("tell the central machine that this host has left", "ovn-docker leave")
    if steps.dry_run:
        return
    authority = Path(OWN_FILES.ca_cert).read_text(encoding="utf-8")
    for address in central_addresses(remotes.split(",")):
        with suppress(OvnDockerError):
            Enquiry(address).leave(OWN_FILES, authority)
            return
    steps.advise(
        "note: no central machine answers on the port of the enrolment service; type there: "
        f"ovn-docker token expel {read_external_ids().get('system-id')} --forget"
    )
