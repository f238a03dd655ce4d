"""TLS files of this machine: key, certificate and authority, as every program of OVS takes them."""

from pathlib import Path
from typing import NamedTuple

from ovn_docker.host.vsctl import rows


class TlsFiles(NamedTuple):
    """Absolute paths of PEM files, in the order of ``set-ssl`` (ovs-vsctl(8), ovn-nbctl(8))."""

    private_key: str
    certificate: str
    ca_cert: str


TLS_DIRECTORY = ("key.pem", "cert.pem", "ca.pem")
"""The files in ``--tls DIRECTORY``, in the order of TlsFiles; ``ovn-docker pki`` makes such directories."""


OWN_DIRECTORY = Path("/etc/ovn-docker/tls")
"""The directory of this machine, as a central machine or as a host that joined."""

OWN_FILES = TlsFiles(*(str(OWN_DIRECTORY / name) for name in TLS_DIRECTORY))


def current_tls(control: str) -> TlsFiles | None:
    """Return the files that ``set-ssl`` of ovs-vsctl, ovn-nbctl or ovn-sbctl has set, or ``None``."""
    found = rows("SSL", *TlsFiles._fields, tool=(control,))
    return TlsFiles(*map(found[0].text, TlsFiles._fields)) if found else None
