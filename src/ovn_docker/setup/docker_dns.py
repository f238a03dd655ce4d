"""The name servers that dockerd has to ask so that containers find those of other hosts by name."""

import json

from ovn_docker.docker.engine import CONFIG, dockerd_config
from ovn_docker.host.nameservers import docker_asks_us, others
from ovn_docker.model import NAMESERVERS

_AT_MOST = 3
"""Servers that Docker's resolver asks (moby daemon/libnetwork/resolver.go, maxExtDNS)."""


def advice() -> str:
    """Return the configuration of dockerd with these name servers, as advice; empty if dockerd has them."""
    if docker_asks_us():
        return ""
    rest = others()
    config = dockerd_config() | {"dns": [*map(str, NAMESERVERS), *rest][:_AT_MOST]}
    lines = json.dumps(config, indent=4).replace("\n", "\n    ")
    warning = "" if rest else "\n(with a name server of yours as the third: containers ask no other server)"
    return (
        f"note: containers find those of other hosts by name if Docker asks OVN; write into {CONFIG}\n"
        f"    {lines}\nand restart dockerd{warning}"
    )
