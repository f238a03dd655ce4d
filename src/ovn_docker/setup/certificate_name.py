"""The system-id of this machine, which its certificate must have as name for OVN's access control."""

import uuid
from collections.abc import Callable

from ovn_docker.errors import BadRequest, OvnDockerError
from ovn_docker.setup import certificates
from ovn_docker.setup.steps import Steps
from ovn_docker.setup.tls_files import TlsFiles, current_tls
from ovn_docker.setup.vswitch_row import read_external_ids


def make_system_id(steps: Steps) -> str:
    """Return the system-id in the file where ovs-ctl(8) keeps it; write a new one if there is none."""
    if name := certificates.kept_system_id():
        return name
    path = certificates.system_id_file()
    name = str(uuid.uuid4())
    steps.show(f"write a new system-id to {path}", f"uuidgen > {path}")
    if not steps.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n", encoding="utf-8")
    return name


def check_certificate_name(steps: Steps, files: TlsFiles, name: str, restricted: Callable[[], bool]) -> None:
    """Warn about a certificate that is not in the name of this host.

    *restricted*: returns whether the southbound database has access control; it is asked only if need be.

    Raises:
        BadRequest: with access control this host could not even register.

    """
    if not (wrong := _misnamed(files.certificate, name)):
        return
    if restricted():
        raise BadRequest(
            f"{wrong}: the southbound database lets a host change only rows of that name, so OVN would not "
            f"know this host; {_cure(files.certificate, name)}"
        )
    steps.advise(
        f"warning: {wrong}: where the databases have access control (ovn-docker central start --rbac) this "
        f"host can do nothing; {_cure(files.certificate, name)}"
    )


def warn_of_certificate_name(steps: Steps) -> None:
    """Warn if this machine is a host, and access control keeps it out because of its certificate's name."""
    try:
        ids, files = read_external_ids(), current_tls("ovs-vsctl")
    except OvnDockerError:
        return  # no Open vSwitch: it is not a host
    name = ids.get("system-id", "")
    if "ovn-remote" in ids and files and (wrong := _misnamed(files.certificate, name)):
        steps.advise(
            f"warning: {wrong}: with access control OVN does not know this machine as a host; "
            f"{_cure(files.certificate, name)}"
        )


def _misnamed(certificate: str, name: str) -> str:
    """Return the two names, in words, if the certificate is not in the name of this host; else empty."""
    found = certificates.certificate_of(certificate)
    if found is None or found.name == name:
        return ""
    return f"{certificate} is for {found.name!r}, and this host's system-id is {name!r}"


def _cure(certificate: str, name: str) -> str:
    """Return the command that makes a certificate in the right name."""
    found = certificates.certificate_of(certificate)
    of_central = f"central {name} --address {','.join(found.addresses)}" if found and found.addresses else ""
    return f"make one with `ovn-docker pki {of_central or f'host {name}'}` where the authority is"
