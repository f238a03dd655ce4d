"""Names that differ between distributions: systemd units, packages, files of options.

Debian's names are those of its packages of OVS 3.1 and OVN 23.03. The others are those of the unit files and
the spec file in OVN's sources (directory rhel), which Fedora's packages are made with. The directories of
scripts and schemas, /usr/share/ovn and /usr/share/openvswitch, are the same everywhere.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath


@dataclass(frozen=True, slots=True)
class Distribution:
    """The names that a family of distributions uses."""

    ids: frozenset[str]
    """Values of ID or ID_LIKE in os-release(5)."""
    install: tuple[str, ...]
    """The command that installs packages; empty if it is not known."""
    confirm: str
    """The option with which that command does not ask."""
    vswitch: str
    """Unit that pulls in those of Open vSwitch, and package of its daemons."""
    controller: tuple[str, ...]
    """Units of ovn-controller, each by name: a unit that pulls in others stays active without them."""
    northd: tuple[str, ...]
    """Units of ovn-northd and the databases, each by name."""
    databases: Mapping[str, str]
    """Unit of each database's server, by the short name of the database."""
    options: Path
    """File of options of ovn-ctl(8) with which the units in *northd* start."""
    settings: Path
    """File of the driver's settings, where the distribution keeps such files; one of environment.py's."""
    variable: str
    """Variable in that file which has the options."""
    packages: Mapping[str, str]
    """Package of a program, by the longest listed prefix of its name, if it has another name."""
    docker: str = "docker"
    """Unit, and service of init scripts, that runs dockerd: the same in every package of Docker."""

    def package(self, program: str) -> str:
        """Return the package of a program."""
        prefix = max((one for one in self.packages if program.startswith(one)), key=len, default=program)
        return self.packages.get(prefix, program)

    def cure(self, program: str) -> str:
        """Return what to do if a program (or its path) is not installed, for an error message."""
        package = self.package(PurePath(program).name)
        if not self.install:
            return f"install it; Fedora has it in the package {package}"
        return f"run `{' '.join((*self.install, package))}`"

    def installation(self, package: str) -> tuple[tuple[str, ...], ...]:
        """Return the command that installs a package without a question, or none if it is not known."""
        return ((*self.install, self.confirm, package),) if self.install else ()


_COMMON = {"openssl": "openssl", "nft": "nftables"}

DEBIAN = Distribution(
    ids=frozenset({"debian", "ubuntu"}),
    install=("apt", "install"),
    confirm="--yes",
    vswitch="openvswitch-switch",
    controller=("ovn-host", "ovn-controller"),
    northd=("ovn-central", "ovn-ovsdb-server-nb", "ovn-ovsdb-server-sb", "ovn-northd"),
    databases={"nb": "ovn-ovsdb-server-nb", "sb": "ovn-ovsdb-server-sb"},
    options=Path("/etc/default/ovn-central"),
    settings=Path("/etc/default/ovn-docker"),
    variable="OVN_CTL_OPTS",
    packages={
        **_COMMON,
        "ovs": "openvswitch-switch",
        "ovn": "ovn-host",
        "ovn-northd": "ovn-central",
        "ip": "iproute2",
        "ss": "iproute2",
        "ssh": "openssh-client",
    },
)

FEDORA = Distribution(
    ids=frozenset({"fedora", "rhel", "centos"}),
    install=("dnf", "install"),
    confirm="--assumeyes",
    vswitch="openvswitch",
    controller=("ovn-controller",),
    northd=("ovn-northd",),
    databases={"nb": "ovn-northd", "sb": "ovn-northd"},
    options=Path("/etc/sysconfig/ovn-northd"),
    settings=Path("/etc/sysconfig/ovn-docker"),
    variable="OVN_NORTHD_OPTS",
    packages={
        **_COMMON,
        "ovs": "openvswitch",
        "ovn": "ovn-host",
        "ovn-northd": "ovn-central",
        "ip": "iproute",
        "ss": "iproute",
        "ssh": "openssh-clients",
    },
)

SUSE = replace(
    FEDORA,
    ids=frozenset({"suse", "opensuse"}),
    install=("zypper", "install"),
    confirm="--no-confirm",
    packages={**FEDORA.packages, "ip": "iproute2", "ss": "iproute2"},
)

OTHER = replace(FEDORA, ids=frozenset(), install=(), confirm="")
"""Names of OVN's own unit files, for a distribution that is not in the table."""

DISTRIBUTIONS = (DEBIAN, FEDORA, SUSE)


def distribution() -> Distribution:
    """Return the names that this machine uses."""
    try:
        return recognise(platform.freedesktop_os_release())
    except (OSError, ValueError):  # ValueError: it is not UTF-8
        return OTHER


def recognise(release: Mapping[str, str]) -> Distribution:
    """Return the names for the variables of an os-release(5): by ID, then ID_LIKE; else `OTHER`."""
    for one in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        for known in DISTRIBUTIONS:
            if one in known.ids:
                return known
    return OTHER
