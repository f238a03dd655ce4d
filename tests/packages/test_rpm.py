"""The rpms, installed, upgraded and erased by rpm in a Debian tree, which has the programs that they need.

A tree of Fedora or RHEL is not to be had from Debian's archive. So rpm installs without its dependencies: the
Python packages are those that the rpms for RHEL contain, the rest are Debian's packages of the same programs.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.lab.images import REPOSITORY
from functional.test_install import made_once
from packages import trees
from packages.conftest import DATE, Root, copy_sources, kept_wheels
from packages.test_deb import OURS, requirements, start_driver

SUITE = "bookworm"
"""Its Python is RHEL 9's other one, 3.11."""

pytestmark = [
    pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpmbuild is not installed"),
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="this machine's Python is not that of the tree"
    ),
]


def build(directory: Path) -> None:
    """Build the rpms of this version and of a later one, 99, into a directory."""
    source = directory / "source"
    copy_sources(source)
    wheels = directory / "build"
    shutil.copytree(kept_wheels(SUITE, directory), wheels, symlinks=True)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "BUILD": str(wheels), "SOURCE_DATE_EPOCH": DATE}
    for version in ("now", "later"):
        if version == "later":
            (source / "src/ovn_docker/__init__.py").write_text('"""Later."""\n\n__version__ = "99"\n')
        subprocess.run(
            [source / "scripts/rpm"],
            env={**environment, "DIST": str(directory / version)},
            check=True,
            capture_output=True,
            timeout=1200,
        )
    shutil.rmtree(source)
    shutil.rmtree(wheels)


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "rpms", build)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Root]:
    shared = tmp_path / "shared"
    shared.mkdir()
    root = Root(tmp_path / "root", trees.clean(SUITE), shared)
    root.apt("install", "openvswitch-switch", "nftables", "iproute2", "python3")
    yield root
    root.close()


def rpm(root: Root, *arguments: str | Path) -> str:
    """Run this machine's rpm on a tree; the scripts of the packages run in it."""
    command = ["nsenter", "-t", root.pid, "--mount", "--pid", "--net", "rpm", "--root", root.top / "root"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def vendored(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.el9.*.rpm"))


def test_rpms_are_clean_for_rpmlint(rpms: Path) -> None:
    config = REPOSITORY / "packaging/rpm/rpmlint.toml"
    command = ["rpmlint", "--config", config, *sorted((rpms / "now").glob("*.rpm"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert " 0 errors, 0 warnings" in done.stdout, done.stdout + done.stderr


def test_rpms_of_fedora_need_what_the_programs_import(rpms: Path) -> None:
    for package, names in (("ovn-docker", requirements()), ("ovn-docker-underlay", requirements("underlay"))):
        (file,) = (rpms / "now").glob(f"{package}-[0-9]*.noarch.rpm")
        needed = subprocess.check_output(["rpm", "-qp", "--requires", file], text=True)
        for name in names:
            assert f"python3dist({name.partition('>')[0]}) >= " in needed


def test_programs_run_and_erasure_leaves_nothing(tree: Root, rpms: Path) -> None:
    rpm(tree, "--install", "--nodeps", *vendored(rpms / "now"))
    shutil.copy(Path(__file__).with_name("requirements.py"), tree.top.parent / "shared")
    # The suite's Python finds nothing of Debian's: the packages have it all.
    wanted = (*requirements(), *requirements("underlay"))
    lacking = tree.out("python3", "-I", "-S", "/shared/requirements.py", *wanted).splitlines()
    # pbr, which has the version of openstacksdk read, asks for it to build packages.
    assert lacking == ["setuptools is missing"]
    tree.out("ovn-docker-underlay-driver", "--help")
    for path in (
        *("/usr/share/man/man8/ovn-docker.8.gz", "/etc/sysconfig/ovn-docker"),
        "/usr/lib/systemd/system/ovn-docker-overlay.socket",
        "/usr/share/ovn-docker/prometheus/ovn-docker.rules.yml",
    ):
        tree.out("test", "-e", path)
    tree.sh("! grep -r /opt/ /usr/lib/systemd/system/ovn-docker-*")
    pid = start_driver(tree)
    rpm(tree, "--erase", "ovn-docker", "ovn-docker-underlay")
    assert tree.run("test", "-e", f"/proc/{pid}").returncode == 1
    assert tree.run("nft", "list", "tables").stdout == ""
    assert [one for one in tree.sh(OURS).split() if not one.startswith("/var/log/")] == []


def test_driver_runs_on_during_an_upgrade(tree: Root, rpms: Path) -> None:
    (now,) = (rpms / "now").glob("ovn-docker-[0-9]*.el9.*.rpm")
    (later,) = (rpms / "later").glob("ovn-docker-[0-9]*.el9.*.rpm")
    rpm(tree, "--install", "--nodeps", now)
    tree.sh("echo '# mine' >>/etc/sysconfig/ovn-docker; chmod 600 /etc/sysconfig/ovn-docker")
    pid = start_driver(tree)
    rpm(tree, "--upgrade", "--nodeps", later)
    assert tree.out("cat", "/run/openvswitch/ovn-docker-overlay-driver.pid") == pid
    assert "answers on" in tree.run("ovn-docker", "host", "status").stdout
    assert tree.out("ovn-docker", "--version").endswith(" 99")
    assert tree.out("tail", "-n1", "/etc/sysconfig/ovn-docker") == "# mine"
