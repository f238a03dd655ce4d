"""What `make install` puts in place, above all the systemd units."""

import configparser
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ovn_docker.settings import Settings

SOURCE = Path(__file__).parents[2]
UNITS = ("ovn-docker-overlay.socket", "ovn-docker-overlay.service")

pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is missing; apt install systemd"
)


def make(*argv: str) -> None:
    """Runs make, as a user who has no virtual environment active would."""
    outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["make", *argv], cwd=SOURCE, env=outside, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which ovn-docker is installed as into /."""
    tree = tmp_path_factory.mktemp("tree")
    make("install", f"DESTDIR={tree}", f"PYTHON={sys.executable}")
    return tree


def installed(tree: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell command on a machine where the tree's parts are where they belong."""
    mounts = (
        "set -e; mount -t tmpfs none /opt; mkdir /opt/ovn-docker; "
        f"mount --bind {tree}/opt/ovn-docker /opt/ovn-docker; "
        f"mount --bind {tree}/usr/local/bin /usr/local/bin; "
    )
    return subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", mounts + command],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tree}/etc/systemd/system:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def unit(tree: Path, name: str) -> configparser.ConfigParser:
    """A unit file, parsed."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(tree / "etc/systemd/system" / name)
    return parser


def test_systemd_has_nothing_to_say_against_the_units(tree):
    done = installed(tree, f"systemd-analyze verify --man=no {' '.join(UNITS)}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_is_well_confined(tree):
    done = installed(tree, f"systemd-analyze security --offline=yes --threshold=25 --no-pager {UNITS[1]}")
    assert done.returncode == 0, done.stdout + done.stderr  # 2.5 of 10 points of exposure, or less


def test_the_socket_is_where_docker_and_the_driver_look(tree):
    (default,) = (field.default for field in fields(Settings) if field.name == "socket")
    socket = unit(tree, UNITS[0])
    assert socket["Socket"]["ListenStream"] == str(default) == "/run/docker/plugins/openvswitch.sock"
    assert socket["Socket"]["SocketMode"] == "0600"
    assert socket["Unit"]["Before"] == "docker.service"


def test_installed_programs_run_and_do_not_remember_where_they_were_built(tree):
    for program in ("ovn-docker", "ovn-docker-overlay-driver"):
        done = installed(tree, f"/usr/local/bin/{program} --version")
        assert done.returncode == 0, done.stderr
        assert "ovn-docker" in done.stdout
    found = subprocess.run(
        ["grep", "-rlI", str(tree), tree / "opt/ovn-docker/bin", tree / "opt/ovn-docker/pyvenv.cfg"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""


def test_options_in_the_service_are_options_of_the_driver(tree):
    program, *options = unit(tree, UNITS[1])["Service"]["ExecStart"].split()
    done = installed(tree, f"{program} {' '.join(options)} --version")
    assert done.returncode == 0, done.stderr


def test_uninstall_leaves_nothing(tree):
    make("uninstall", f"DESTDIR={tree}")  # the last test: the tree is gone after it
    assert [path for path in tree.rglob("*") if not path.is_dir()] == []
