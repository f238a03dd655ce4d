"""Write what Docker's managed plugin needs besides the driver: config.json, links and directories.

The format of config.json: docs.docker.com, "Plugin Config Version 1 of Plugin V2".

    python tools/plugin.py DIRECTORY
"""

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import ovn_docker
from ovn_docker.settings import Settings, variable

MOUNTED = {
    "run": ("/run", "/host/run", "rw", "sockets of Open vSwitch, ovn-controller and Docker"),
    "tls": ("/etc/ovn-docker", "/etc/ovn-docker", "rw", "TLS files of the host, which the driver renews"),
}
"""For each mount: source, which `docker plugin set NAME.source=` changes; destination; mode; its use."""

LINKS = {
    "openvswitch": "/host/run/openvswitch",
    "ovn": "/host/run/ovn",
    "docker.sock": "/host/run/docker.sock",
}
"""Links in the plugin's /run: the driver finds sockets where it does on a host.

The whole of /run is mounted: a directory of a daemon that is removed and made again, as systemd does at a
restart, would be lost to a mount of that directory alone.
"""

FIXED = {"socket", "db", "docker", "ovn_rundir", "private_key", "certificate", "ca_cert"}
"""Settings that are paths, which are the same in every plugin."""

VALUES = {"scope": "global", "sync": "off"}
"""Settings with another default than the driver's: those with which swarm uses a plugin.

Networks of `ovn.network` are made by the driver as those of a plugin called openvswitch, which this is not.
"""


def config() -> dict[str, Any]:
    """Return the configuration."""
    return {
        "description": f"OVN network driver for Docker and its swarm mode, version {ovn_docker.__version__}",
        "documentation": "https://docs.ovn.org/en/latest/howto/docker.html",
        "entrypoint": [
            *("/usr/bin/ovn-docker-overlay-driver", "-v", "console:info", "syslog:off", "file:off"),
        ],
        "interface": {
            "socket": "openvswitch.sock",
            "types": ["docker.networkdriver/1.0", "docker.ipamdriver/1.0"],
        },
        "network": {"type": "host"},
        "pidhost": True,  # of ovn-controller and dockerd it reads whether they run, and with which options
        "linux": {"capabilities": ["CAP_NET_ADMIN", "CAP_NET_RAW"]},
        "mounts": [
            {
                "name": name,
                "description": about,
                "source": source,
                "destination": destination,
                "type": "bind",
                "options": ["rbind", "rslave", mode],
                "settable": ["source"],
            }
            for name, (source, destination, mode, about) in MOUNTED.items()
        ],
        "env": [
            {
                "name": variable(setting),
                "description": setting.metadata["help"],
                "settable": ["value"],
                "value": VALUES.get(setting.name, ""),
            }
            for setting in fields(Settings)
            if setting.name not in FIXED
        ],
    }


def write(directory: Path) -> None:
    """Write config.json, and the places of mounts and sockets in rootfs."""
    (directory / "config.json").write_text(json.dumps(config(), indent=4) + "\n")
    root = directory / "rootfs"
    for _, destination, _, _ in MOUNTED.values():
        (root / destination[1:]).mkdir(parents=True, exist_ok=True)
    for place in ("run/docker/plugins", "var/log/openvswitch"):  # the former: Docker mounts its own directory
        (root / place).mkdir(parents=True)
    for name, target in LINKS.items():
        (root / "run" / name).symlink_to(target)
    (root / "var/run").symlink_to("/run")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
