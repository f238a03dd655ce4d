"""The commands on machines whose os-release(5) names another distribution than this one."""

import shlex

import pytest

from functional.machine import EMPTY, Machine

DEBIAN = {
    "release": 'ID="debian"',
    "start": "ovn-central ovn-ovsdb-server-nb ovn-ovsdb-server-sb ovn-northd",
    "vswitch": "openvswitch-switch",
    "controller": "ovn-host ovn-controller",
    "file": "/etc/default/ovn-central",
    "variable": "OVN_CTL_OPTS",
    "cure": "run `apt install openvswitch-switch`",
}
FEDORA = {
    "release": "ID=fedora",
    "start": "ovn-northd",
    "vswitch": "openvswitch",
    "controller": "ovn-controller",
    "file": "/etc/sysconfig/ovn-northd",
    "variable": "OVN_NORTHD_OPTS",
    "cure": "run `dnf install openvswitch`",
}
NAMES = [
    DEBIAN,
    DEBIAN | {"release": "ID=ubuntu\nID_LIKE=debian"},
    FEDORA,
    FEDORA | {"release": 'ID="rocky"\nID_LIKE="rhel centos fedora"'},
    FEDORA
    | {
        "release": 'ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"',
        "cure": "run `zypper install openvswitch`",
    },
    FEDORA | {"release": "ID=arch", "cure": "install it; Fedora has it in the package openvswitch"},
]

WRITABLE = (
    "mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work; "
    "mount -t overlay none -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc"
)
"""Makes /etc writable, so that /etc/sysconfig can be made in it."""


@pytest.fixture(params=NAMES, ids=lambda names: names["release"].split("\n")[0].removeprefix("ID="))
def names(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.param)


@pytest.fixture
def elsewhere(names: dict[str, str]) -> Machine:
    """A machine of that distribution."""
    machine = Machine(f"{WRITABLE}; {EMPTY}")
    machine.out("sh", "-c", f"printf '%s\n' {shlex.quote(names['release'])} >/run/os-release")
    machine.out("mount", "--bind", "/run/os-release", "/usr/lib/os-release")
    yield machine
    machine.close()


@pytest.mark.slow
def test_units_of_the_distribution_are_started(elsewhere: Machine, names: dict[str, str]) -> None:
    elsewhere.out("mkdir", "-p", "/run/systemd/system")
    said = elsewhere.output("central", "start", "--plain", "--dry-run")
    assert f"$ systemctl start {names['start']}\n" in said
    assert f"set the daemons' options in {names['file']}\n" in said
    assert f"{names['variable']}=" in said
    said = elsewhere.output("host", "start", "--dry-run")
    assert f"$ systemctl start {names['vswitch']} ovsdb-server ovs-vswitchd\n" in said
    assert f"$ systemctl start {names['controller']}\n" in said
    why = elsewhere.refusal("host", "setup", "--central", "127.0.0.1")[1]
    assert f"start it with `systemctl start {names['vswitch']}`" in why


@pytest.mark.slow
def test_missing_program_is_found_in_a_package_of_the_distribution(
    elsewhere: Machine, names: dict[str, str]
) -> None:
    elsewhere.out("mount", "--bind", "/dev/null", "/usr/sbin/ovs-vswitchd")  # a file that is no program
    done = elsewhere.ovn_docker("host", "start")
    assert done.returncode != 0
    assert done.stderr.endswith(f"ovs-vswitchd is not installed; {names['cure']}\n")


@pytest.mark.slow
def test_daemons_start_with_the_file_of_the_distribution(elsewhere: Machine, names: dict[str, str]) -> None:
    """Also without systemd: its variable is the one that ovn-ctl(8) gets."""
    elsewhere.apply("central", "start", "--address=127.0.0.1")
    assert elsewhere.listening() >= {"127.0.0.1:6641", "127.0.0.1:6642"}
    assert f"\n{names['variable']}=" in elsewhere.out("cat", names["file"])
    elsewhere.apply("central", "stop", "--reset")
    assert elsewhere.out("cat", names["file"]) == ""
