"""Environment variables of the driver, from its file and the environment: settings and login."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

FILES = (Path("/etc/default/ovn-docker"), Path("/etc/sysconfig/ovn-docker"))
"""Files of settings, as the systemd units read them; a distribution has one (`Distribution.settings`)."""


def environment(given: Mapping[str, str], files: Sequence[Path] = FILES) -> dict[str, str]:
    """Return the variables of the driver: those *given*, and those of its files that are not given.

    A later file has precedence over an earlier one.

    Used by the driver and the tool. OVS_RUNDIR and OVN_RUNDIR (ovs-ctl(8), ovn-ctl(8)) also change the
    defaults of the driver's settings for the database and for ovn-controller's directory.
    """
    lines: list[str] = []
    for file in files:
        with suppress(OSError):
            lines += file.read_text(errors="replace").splitlines()
    pairs = (line.strip().removeprefix("export ").partition("=") for line in lines if "=" in line)
    found = {key: value.strip().strip("\"'") for key, _, value in pairs if not key.startswith("#")}
    variables = {**found, **given}
    if directory := variables.get("OVS_RUNDIR"):
        variables.setdefault("OVN_DOCKER_DB", f"unix:{directory}/db.sock")
    if directory := variables.get("OVN_RUNDIR"):
        variables.setdefault("OVN_DOCKER_OVN_RUNDIR", directory)
    return variables
